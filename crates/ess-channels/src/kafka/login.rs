//! A fresh connection to a broker: what it can do, and who the hub is.
//!
//! Source: Kafka protocol guide, "SASL Authentication Sequence". A secret is in no failure's reason.

use bytes::BytesMut;
use ess_core::partner::Sasl;
use ess_core::receipt::{Failure, Stage, words};
use ess_core::scram::{Digest, Scram};
use zeroize::Zeroizing;

use super::protocol::{self, Answer, Malformed};
use super::{Kafka, Line, exchange_on};
use crate::credential::Credential;
use crate::kept::Kept;
use crate::progress::Progress;

use super::cluster::Broker;

impl Kafka {
    /// Dials a broker, asks what it can do, and logs in.
    pub(super) async fn connect(&self, broker: &Broker, progress: &Progress) -> Result<Kept<Line>, Failure> {
        let stream = self.dialer.dial(&broker.target, self.tls.as_ref(), progress).await?;
        progress.enter(Stage::Auth);
        let mut line = Kept::new(stream, BytesMut::new(), Line { correlation: 0, produce_version: 0 });
        let bytes = exchange_on(&mut line, protocol::API_VERSIONS, &[], Stage::Auth, progress).await?;
        let able = Answer::to(line.state.correlation, &bytes).and_then(Answer::abilities).map_err(malformed)?;
        let Some(produce_version) = able.produce.filter(|_| able.has_metadata) else {
            return Err(refused("the broker is older than Kafka 1.0, or newer than this hub knows".to_owned()));
        };
        line.state.produce_version = produce_version;
        if !able.has_producer_ids {
            self.is_without_numbers.store(true, std::sync::atomic::Ordering::Relaxed);
        }
        if let Credential::Password { user: Some(user), password } = &self.credential {
            if !able.has_sasl {
                return Err(refused("the broker asks nobody to log in there; leave `auth` away".to_owned()));
            }
            self.log_in(&mut line, user, password, progress).await?;
        }
        Ok(line)
    }

    async fn log_in(
        &self,
        line: &mut Kept<Line>,
        user: &str,
        password: &str,
        progress: &Progress,
    ) -> Result<(), Failure> {
        let mechanism = match self.sasl {
            Sasl::Plain => "PLAIN",
            Sasl::ScramSha256 => "SCRAM-SHA-256",
            Sasl::ScramSha512 => "SCRAM-SHA-512",
        };
        let body = protocol::sasl_handshake(mechanism);
        let bytes = exchange_on(line, protocol::SASL_HANDSHAKE, &body, Stage::Auth, progress).await?;
        let (error, offered) =
            Answer::to(line.state.correlation, &bytes).and_then(Answer::mechanisms).map_err(malformed)?;
        if error != 0 {
            let offered = words(&offered.join(", "));
            return Err(refused(format!("the broker takes no {mechanism} logins; it offers {offered}: see `sasl`")));
        }
        let digest = match self.sasl {
            Sasl::Plain => {
                let plain = Zeroizing::new(format!("\0{user}\0{password}"));
                return self.step(line, plain.as_bytes(), progress).await.map(|_| ());
            }
            Sasl::ScramSha256 => Digest::Sha256,
            Sasl::ScramSha512 => Digest::Sha512,
        };
        let scram = Scram::begin(digest, user, &self.dialer.nonce()?);
        let server_first = self.step(line, scram.first_message().as_bytes(), progress).await?;
        let proof = scram.answer(&server_first, password).map_err(refused)?;
        let server_last = self.step(line, proof.message.as_bytes(), progress).await?;
        if !proof.is_answered_by(&server_last) {
            return Err(refused("the broker did not show that it knows the password".to_owned()));
        }
        Ok(())
    }

    async fn step(&self, line: &mut Kept<Line>, said: &[u8], progress: &Progress) -> Result<String, Failure> {
        let body = Zeroizing::new(protocol::sasl_authenticate(said));
        let bytes = exchange_on(line, protocol::SASL_AUTHENTICATE, &body, Stage::Auth, progress).await?;
        let (error, reason, answer) =
            Answer::to(line.state.correlation, &bytes).and_then(Answer::sasl).map_err(malformed)?;
        if error != 0 {
            return Err(refused(format!("the broker does not take the login: {}", words(&reason))));
        }
        String::from_utf8(answer).map_err(|_| refused("the broker's part of the login is malformed".to_owned()))
    }
}

fn malformed(Malformed(what): Malformed) -> Failure {
    refused(what.to_owned())
}

fn refused(reason: String) -> Failure {
    Failure { stage: Stage::Auth, reason }
}
