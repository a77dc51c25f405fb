//! A TLS handshake that hangs, the same for every channel that has TLS: a server that takes the connection and never answers
//! the ClientHello, and one that stops at some byte of its own part. Each costs the attempt its time and its connection, and
//! says so; what comes before TLS in a protocol is said as it really is.

use std::sync::Arc;
use std::time::Duration;

use ess_channels::{Channel, Credential};
use ess_core::message::Message;
use ess_core::receipt::Stage;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::link::{Fault, Link, wait_until};
use crate::partner::{Partner, dialer, document, failed, message, soon};
use crate::tls::Authority;

/// Long enough for all that comes before the handshake, on a busy machine.
const HANG: Duration = Duration::from_millis(1_500);

/// What a server says of its part of the handshake before it says no more: nothing, half a record's head, the ServerHello in
/// part, and the encrypted certificate in part.
const SAID: [i64; 4] = [0, 3, 60, 300];

/// A channel with TLS.
struct Protected {
    kind: &'static str,
    /// Its address, in which `{}` stands for host and port.
    url: &'static str,
    more: fn(&str) -> Value,
    credential: Credential,
    /// What its server says before TLS, each piece but the first after a line of the client.
    before: &'static [&'static str],
}

impl Protected {
    fn by(kind: &'static str, url: &'static str) -> Protected {
        Protected { kind, url, more: |_| json!({}), credential: Credential::None, before: &[] }
    }

    fn open(&self, link: &Link, root: &[u8]) -> Channel {
        let place = format!("localhost:{}", link.address.port());
        let url = self.url.replace("{}", &place);
        let partner = document(self.kind, &url, (self.more)(&place));
        let dialer = dialer(&["127.0.0.0/8", "::1/128"], vec![root.to_owned()]);
        Channel::open(&partner, &url, self.credential.clone(), &dialer).unwrap()
    }

    fn bytes_before(&self) -> i64 {
        self.before.iter().map(|piece| piece.len() as i64).sum()
    }
}

/// A message that every protocol carries.
fn sent() -> Message {
    let body = "MSH|^~\\&|HMS-ESS||||20261126||MFN^M02|1|P|2.5.1\rMFI|PRA||UPD|||AL\r";
    Message { body: body.into(), ..message() }
}

/// Speaks what comes before TLS, does its part of the handshake, and ends the connection.
async fn server(authority: &Authority, before: &'static [&'static str]) -> Partner {
    let acceptor = authority.acceptor("localhost");
    Partner::start(move |mut stream, _| {
        let acceptor = acceptor.clone();
        async move {
            for (number, piece) in before.iter().enumerate() {
                let mut line = Vec::new();
                while number > 0 && !line.ends_with(b"\r\n") {
                    let Ok(byte) = stream.read_u8().await else { return };
                    line.push(byte);
                }
                stream.write_all(piece.as_bytes()).await.unwrap();
            }
            drop(acceptor.accept(stream).await);
        }
    })
    .await
}

async fn check(protected: Protected) {
    let authority = Authority::new();
    let (root, protected) = (authority.pem(), Arc::new(protected));
    let server = server(&authority, protected.before).await;
    let mut attempts = JoinSet::new();
    for said in SAID {
        let (root, protected, address) = (root.clone(), Arc::clone(&protected), server.address);
        attempts.spawn(async move {
            let link = Link::to(address).await;
            let channel = protected.open(&link, &root);
            link.set(Fault::FreezeAfter(protected.bytes_before() + said));
            let began = Instant::now();
            let failure = failed(channel.send(&sent(), began + HANG).await);
            assert!(began.elapsed() < HANG + Duration::from_secs(5), "{said}: {:?}", began.elapsed());
            assert_eq!(failure.stage, Stage::Tls, "after {said} bytes: {failure:?}");
            let words = "timed out after 1500ms while waiting for the tls handshake";
            assert_eq!(failure.reason, words, "after {said} bytes");
            assert_eq!(link.accepted(), 1, "it was dialled again within the attempt");
            wait_until("the connection is closed", || link.open() == 0).await;
            // The same server lets it through once it does not hang.
            link.set(Fault::None);
            let failure = failed(channel.send(&sent(), soon()).await);
            assert_ne!(failure.stage, Stage::Tls, "{failure:?}");
            assert!(!failure.reason.contains("timed out"), "{failure:?}");
        });
    }
    attempts.join_all().await;
}

/// The channels that have TLS.
macro_rules! channels {
    ($($(#[$when:meta])* $name:ident: $protected:expr,)*) => {$(
        $(#[$when])*
        #[tokio::test]
        async fn $name() {
            check($protected).await;
        }
    )*};
}

channels! {
    a_handshake_that_hangs_costs_a_webhook_only_its_time: Protected::by("webhook", "https://{}/hook"),
    a_handshake_that_hangs_costs_mllps_only_its_time: Protected::by("mllp", "mllps://{}"),
    a_handshake_that_hangs_costs_mqtts_only_its_time: Protected::by("mqtt", "mqtts://{}/rules"),
    a_handshake_that_hangs_costs_amqps_only_its_time: Protected {
        credential: login(),
        ..Protected::by("amqp", "amqps://{}/%2F/amq.topic/rules")
    },
    a_handshake_that_hangs_costs_natss_only_its_time: Protected {
        before: &["INFO {\"max_payload\":1024,\"headers\":true,\"tls_required\":true}\r\n"],
        ..Protected::by("nats", "natss://{}/rules")
    },
    #[cfg(feature = "kafka")]
    a_handshake_that_hangs_costs_kafkas_only_its_time: Protected::by("kafka", "kafkas://{}/rules"),
    a_handshake_that_hangs_costs_smtps_only_its_time: Protected::by("email", "smtps://{}?to=clerk@court.example"),
    a_handshake_that_hangs_after_starttls_costs_a_mail_only_its_time: Protected {
        before: &["220 mail\r\n", "250-mail\r\n250 STARTTLS\r\n", "220 go on\r\n"],
        ..Protected::by("email", "smtp://{}?to=clerk@court.example")
    },
    a_handshake_that_hangs_costs_s3_only_its_time: Protected {
        more: |place| json!({"endpoint": format!("https://{place}"), "auth": {"user": "id", "password": "secret"}}),
        credential: Credential::Password { user: Some("id".to_owned()), password: "secret".to_owned() },
        ..Protected::by("s3", "s3://rules/inbox")
    },
}

fn login() -> Credential {
    Credential::Password { user: Some("hub".to_owned()), password: "s3cret pass".to_owned() }
}
