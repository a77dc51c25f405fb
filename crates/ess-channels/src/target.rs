//! An address as the operator wrote it, parsed once when its channel is opened.
//!
//! Only absolute `http` and `https` URLs without a user name or password are targets.

use std::net::IpAddr;
use std::sync::Arc;

use http::Uri;
use rustls_pki_types::ServerName;
use tokio::sync::Semaphore;

use crate::channel::ChannelError;
use crate::guard::Security;
use crate::limits::{LOOKUPS_MAX, URL_BYTES_MAX};

/// Where to dial and what to ask for there.
#[derive(Debug)]
pub(crate) struct Target {
    /// Host name or IP literal, without brackets.
    pub host: String,
    /// The host where it is a literal in canonical form; odd forms count as names and are judged once resolved.
    pub literal: Option<IpAddr>,
    /// Port.
    pub port: u16,
    /// TLS or not.
    pub security: Security,
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
    /// Parses a mail server's `smtp://HOST:PORT` (587 unless given) or `smtps://HOST:PORT` (465).
    pub(crate) fn parse_smtp(url: &str) -> Result<Target, ChannelError> {
        let refuse = |why: &str| ChannelError::Url(why.to_owned());
        let (rest, port) = match (url.strip_prefix("smtps://"), url.strip_prefix("smtp://")) {
            (Some(rest), _) => (rest, 465),
            (_, Some(rest)) => (rest, 587),
            _ => return Err(refuse("it must begin with smtp:// or smtps://")),
        };
        let mut target = Self::parse(&format!("https://{rest}"))?;
        if target.path != "/" {
            return Err(refuse("a mail server's address has no path"));
        }
        let has_port = target.authority.rsplit_once(':').is_some_and(|(_, port)| port.parse::<u16>().is_ok());
        if !has_port || target.authority.ends_with(']') {
            target.port = port;
        }
        Ok(target)
    }

    /// Parses `url`.
    pub(crate) fn parse(url: &str) -> Result<Target, ChannelError> {
        let refuse = |why: &str| ChannelError::Url(why.to_owned());
        if url.len() > URL_BYTES_MAX {
            return Err(refuse("it is longer than 2,048 characters"));
        }
        let uri: Uri = url.parse().map_err(|_| refuse("it is not a url"))?;
        let security = match uri.scheme_str() {
            Some("https") => Security::Tls,
            Some("http") => Security::Plain,
            _ => return Err(refuse("it must begin with https:// or http://")),
        };
        let authority = uri.authority().ok_or_else(|| refuse("it has no host"))?;
        if authority.as_str().contains('@') {
            return Err(refuse("it holds a user name; use `auth` instead"));
        }
        let host = authority.host().trim_start_matches('[').trim_end_matches(']').to_owned();
        if host.is_empty() {
            return Err(refuse("it has no host"));
        }
        // What follows the host; `Authority::port` is silent on numbers that are too large.
        let port = match (authority.as_str().get(authority.host().len()..), security) {
            (Some(""), Security::Tls) => 443,
            (Some(""), Security::Plain) => 80,
            (rest, _) => rest
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
            security,
            server_name,
            authority: authority.as_str().to_owned(),
            path: path.to_owned(),
            lookups: Arc::new(Semaphore::new(LOOKUPS_MAX)),
            host,
        })
    }
}
