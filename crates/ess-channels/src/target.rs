//! An address as the operator wrote it, parsed once when its channel is opened.
//!
//! Only absolute URLs of the channel's own schemes are targets; a password in one is refused.

use std::net::IpAddr;
use std::sync::Arc;

use http::Uri;
use rustls_pki_types::ServerName;
use tokio::sync::Semaphore;

use crate::channel::ChannelError;
use crate::guard::Protection;
use crate::limits::{LOOKUPS_MAX, URL_BYTES_MAX};

/// How a connection is protected.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Security {
    /// TLS from the first byte.
    Tls,
    /// The protocol protects itself, as SSH does.
    Own,
    /// Not at all.
    Plain,
}

/// A scheme that a channel takes.
#[derive(Debug)]
pub(crate) struct Scheme {
    pub word: &'static str,
    pub security: Security,
    /// The port when none is written.
    pub port: u16,
}

/// The schemes of webhooks; the protected one comes first.
pub(crate) const HTTP: [Scheme; 2] = [
    Scheme { word: "https", security: Security::Tls, port: 443 },
    Scheme { word: "http", security: Security::Plain, port: 80 },
];

/// The schemes of MLLP. The registered port is the same with TLS and without.
pub(crate) const MLLP: [Scheme; 2] = [
    Scheme { word: "mllps", security: Security::Tls, port: 2575 },
    Scheme { word: "mllp", security: Security::Plain, port: 2575 },
];

/// The schemes of MQTT.
pub(crate) const MQTT: [Scheme; 2] = [
    Scheme { word: "mqtts", security: Security::Tls, port: 8883 },
    Scheme { word: "mqtt", security: Security::Plain, port: 1883 },
];

/// The scheme of SFTP.
pub(crate) const SFTP: [Scheme; 1] = [Scheme { word: "sftp", security: Security::Own, port: 22 }];

/// A mail server: TLS from the first byte, or by STARTTLS before anything is said. The port of the one is not the other's.
pub(crate) const SMTP: [Scheme; 2] = [
    Scheme { word: "smtps", security: Security::Tls, port: 465 },
    Scheme { word: "smtp", security: Security::Own, port: 587 },
];

/// A mail server of the operator's own network, without TLS.
pub(crate) const SMTP_PLAIN: [Scheme; 1] = [Scheme { word: "smtp", security: Security::Plain, port: 25 }];

/// The schemes of NATS. TLS begins after the server's first line, on the same port.
pub(crate) const NATS: [Scheme; 2] = [
    Scheme { word: "natss", security: Security::Tls, port: 4222 },
    Scheme { word: "nats", security: Security::Plain, port: 4222 },
];

/// The schemes of AMQP 0.9.1.
pub(crate) const AMQP: [Scheme; 2] = [
    Scheme { word: "amqps", security: Security::Tls, port: 5671 },
    Scheme { word: "amqp", security: Security::Plain, port: 5672 },
];

/// The schemes of Kafka, whose port is the same with TLS and without.
pub(crate) const KAFKA: [Scheme; 2] = [
    Scheme { word: "kafkas", security: Security::Tls, port: 9092 },
    Scheme { word: "kafka", security: Security::Plain, port: 9092 },
];

/// Where to dial and what to ask for there.
#[derive(Debug)]
pub(crate) struct Target {
    /// Host name or IP literal, without brackets.
    pub host: String,
    /// The host where it is a literal in canonical form; odd forms count as names and are judged once resolved.
    pub literal: Option<IpAddr>,
    /// Port.
    pub port: u16,
    /// How the connection is protected.
    pub security: Security,
    /// The scheme as written, and the protected one of the same channel.
    schemes: (&'static str, &'static str),
    /// The user's name that stands before the host.
    pub user: Option<String>,
    /// Name that the certificate must bear.
    pub server_name: ServerName<'static>,
    /// Value of the `host` field.
    pub authority: String,
    /// Path and query.
    pub path: String,
    /// Lookups of the name; each holds its permit to its real end.
    pub lookups: Arc<Semaphore>,
}

impl Target {
    /// Parses `url`, which has one of these schemes.
    pub(crate) fn parse(url: &str, schemes: &[Scheme]) -> Result<Target, ChannelError> {
        let refuse = |why: &str| ChannelError::Url(why.to_owned());
        if url.len() > URL_BYTES_MAX {
            return Err(refuse("it is longer than 2,048 characters"));
        }
        let uri: Uri = url.parse().map_err(|_| refuse("it is not a url"))?;
        let scheme = schemes.iter().find(|scheme| uri.scheme_str() == Some(scheme.word)).ok_or_else(|| {
            let words: Vec<String> = schemes.iter().map(|scheme| format!("{}://", scheme.word)).collect();
            refuse(&format!("it must begin with {}", words.join(" or ")))
        })?;
        let authority = uri.authority().ok_or_else(|| refuse("it has no host"))?;
        let (user, place) = match authority.as_str().rsplit_once('@') {
            Some((user, place)) if scheme.security == Security::Own && !user.contains(':') => {
                (Some(percent_decode(user).ok_or_else(|| refuse("its user name is not UTF-8"))?), place)
            }
            Some(_) => return Err(refuse("it holds a user name; use `auth` instead")),
            None => (None, authority.as_str()),
        };
        let host = authority.host().trim_start_matches('[').trim_end_matches(']').to_owned();
        if host.is_empty() {
            return Err(refuse("it has no host"));
        }
        // What follows the host; `Authority::port` is silent on numbers that are too large.
        let port = match place.get(authority.host().len()..) {
            Some("") => scheme.port,
            rest => rest
                .and_then(|rest| rest.strip_prefix(':')?.parse().ok())
                .filter(|port| *port > 0)
                .ok_or_else(|| refuse("its port is not a number up to 65535"))?,
        };
        let server_name =
            ServerName::try_from(host.clone()).map_err(|_| refuse("its host is not a name or an address"))?;
        let path = uri.path_and_query().map_or("/", |path| path.as_str());
        Ok(Target {
            literal: host.parse().ok(),
            port,
            security: scheme.security,
            schemes: (scheme.word, schemes[0].word),
            user,
            server_name,
            authority: authority.as_str().to_owned(),
            path: path.to_owned(),
            lookups: Arc::new(Semaphore::new(LOOKUPS_MAX)),
            host,
        })
    }

    /// The scheme as written.
    pub(crate) fn scheme(&self) -> &'static str {
        self.schemes.0
    }

    /// What the guard is to know.
    pub(crate) fn protection(&self) -> Protection {
        match self.security {
            Security::Tls | Security::Own => Protection::Full,
            Security::Plain => Protection::Plain(self.schemes.0, self.schemes.1),
        }
    }
}

/// The text with `%20` and its like undone; `None` when that is not UTF-8.
pub(crate) fn percent_decode(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [first, after @ ..] = rest {
        rest = after;
        match (*first, after) {
            (b'%', [high, low, after @ ..]) => {
                let digit = |byte: u8| char::from(byte).to_digit(16);
                bytes.push(u8::try_from(digit(*high)? * 16 + digit(*low)?).ok()?);
                rest = after;
            }
            (b'%', _) => return None,
            (byte, _) => bytes.push(byte),
        }
    }
    String::from_utf8(bytes).ok()
}
