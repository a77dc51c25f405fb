//! Whether a partner's address can be reached: its name, the network, TLS, a directory. Nothing is sent and no login is tried.

use ess_core::partner::{Auth, ChannelKind, Partner, Settings};
use ess_core::receipt::{Failure, Stage};
use tokio::time::{Instant, timeout_at};

use crate::channel::{Channel, ChannelError};
use crate::dialer::Dialer;
use crate::progress::{Progress, one_line};
use crate::target::{AMQP, HTTP, KAFKA, MLLP, MQTT, NATS, SFTP, SMTP, SMTP_PLAIN, Scheme, Security, Target};

/// How far a probe went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reach {
    /// The name was found and a connection opened; the protocol protects itself later, or not at all.
    Connected,
    /// The same, and a certificate was shown that is trusted.
    Protected,
    /// The directory is there and is one that the hub may use.
    Directory,
    /// There is nothing to reach: the partner comes by itself.
    Nothing,
}

impl Channel {
    /// Reaches for the address of the partner that this channel is for, by `deadline` at the latest.
    ///
    /// # Errors
    ///
    /// It can't be reached; the reason is one for people.
    pub async fn probe(
        &self,
        partner: &Partner,
        url: &str,
        dialer: &Dialer,
        deadline: Instant,
    ) -> Result<Reach, Failure> {
        match self {
            Channel::Pull(_) => return Ok(Reach::Nothing),
            Channel::File(file) => return file.probe(deadline).await.map(|()| Reach::Directory),
            _ => {}
        }
        let target = match target(partner, url) {
            Ok(Some(target)) => target,
            Ok(None) => return Ok(Reach::Nothing),
            Err(error) => return Err(Failure { stage: Stage::Resolve, reason: error.to_string() }),
        };
        // A server that asks for a client's certificate ends the handshake of one that shows none, and NATS begins in the clear.
        let is_protected = target.security == Security::Tls
            && partner.channel != ChannelKind::Nats
            && !matches!(partner.auth, Some(Auth::Mtls { .. }));
        let tls = is_protected.then(|| dialer.tls(&[]));
        let progress = Progress::begin(deadline);
        let dialled = timeout_at(deadline, dialer.dial(&target, tls.as_ref(), &progress)).await;
        match dialled.unwrap_or_else(|_| Err(progress.timed_out())) {
            Ok(_) if is_protected => Ok(Reach::Protected),
            Ok(_) => Ok(Reach::Connected),
            Err(failure) => Err(one_line(failure)),
        }
    }
}

/// Where the partner's channel dials; nowhere for one that this file does not know.
fn target(partner: &Partner, url: &str) -> Result<Option<Target>, ChannelError> {
    let (url, schemes): (String, &[Scheme]) = match (partner.channel, &partner.settings) {
        (ChannelKind::Webhook, _) => (url.to_owned(), &HTTP),
        (ChannelKind::S3, Settings::S3(settings)) => {
            let region = &settings.region;
            (settings.endpoint.clone().unwrap_or_else(|| format!("https://s3.{region}.amazonaws.com")), &HTTP)
        }
        (ChannelKind::Email, Settings::Email(settings)) if settings.is_plain => (server(url), &SMTP_PLAIN),
        (ChannelKind::Email, _) => (server(url), &SMTP),
        (ChannelKind::Mllp, _) => (url.to_owned(), &MLLP),
        (ChannelKind::Mqtt, _) => (template(url), &MQTT),
        (ChannelKind::Sftp, _) => (url.to_owned(), &SFTP),
        (ChannelKind::Nats, _) => (template(url), &NATS),
        (ChannelKind::Amqp, _) => (template(url), &AMQP),
        (ChannelKind::Kafka, _) => (template(url), &KAFKA),
        _ => return Ok(None),
    };
    Target::parse(&url, schemes).map(Some)
}

/// The mail server without the addresses behind it.
fn server(url: &str) -> String {
    url.split('?').next().unwrap_or_default().to_owned()
}

/// The address without what `{subject}` and its like stand in, which no URL may hold.
fn template(url: &str) -> String {
    let from = url.find("://").map_or(0, |at| at + 3);
    let end = url[from..].find('/').map_or(url.len(), |at| from + at);
    url[..end].to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn partner(json: &str) -> Partner {
        Partner::from_json(&serde_json::from_str(json).unwrap()).unwrap()
    }

    #[test]
    fn the_place_that_is_dialled_is_the_one_of_the_channel() {
        let check = |json: &str, host: &str, port: u16| {
            let partner = partner(json);
            let target = target(&partner, partner.url.as_deref().unwrap_or_default()).unwrap().unwrap();
            assert_eq!((target.host.as_str(), target.port), (host, port), "{json}");
        };
        check(r#"{"id":"P","url":"https://a.example/x"}"#, "a.example", 443);
        check(r#"{"id":"P","channel":"mqtt","url":"mqtts://b.example/rules/{subject}"}"#, "b.example", 8883);
        check(r#"{"id":"P","channel":"kafka","url":"kafka://k.example/rules.{subject}"}"#, "k.example", 9092);
        check(r#"{"id":"P","channel":"mllp","url":"mllps://h.example"}"#, "h.example", 2575);
        check(
            r#"{"id":"P","channel":"email","url":"smtps://m.example?to=a@x.example","from":"h@x.example"}"#,
            "m.example",
            465,
        );
    }
}
