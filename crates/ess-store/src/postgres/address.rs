//! Where the server is, and how it is known to be the one: the URL of `--store`.

use std::path::{Path, PathBuf};
use std::str::FromStr as _;
use std::sync::Arc;
use std::time::Duration;

use rustls::RootCertStore;
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject as _;
use tokio_postgres::config::{Host, SslMode};
use tokio_postgres_rustls::MakeRustlsConnect;

use crate::error::StoreError;

type Result<T> = std::result::Result<T, StoreError>;

/// How long one address is tried.
const CONNECT_WITHIN: Duration = Duration::from_secs(3);
/// How long what was sent may go without a word from the other side.
const HEARD_WITHIN: Duration = Duration::from_secs(10);
const KEEP_ALIVE_EVERY: Duration = Duration::from_secs(3);

/// A server and how it is spoken to.
pub(super) struct Address {
    pub(super) config: tokio_postgres::Config,
    /// `None`: in clear, on this machine.
    pub(super) tls: Option<MakeRustlsConnect>,
}

impl Address {
    /// Reads a URL; no error repeats it, for it may hold the password.
    pub(super) fn parse(url: &str) -> Result<Self> {
        let open = |text: String| StoreError::Open(format!("--store: {text}"));
        let (address, query) = url.split_once('?').unwrap_or((url, ""));
        let (mut mode, mut roots, mut password, mut rest) = (None, None, None, Vec::new());
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            match pair.split_once('=') {
                Some(("sslmode", value)) => mode = Some(value.to_owned()),
                Some(("sslrootcert", value)) => roots = Some(PathBuf::from(value)),
                Some(("password_file", value)) => password = Some(PathBuf::from(value)),
                _ => rest.push(pair),
            }
        }
        let joined = if rest.is_empty() { address.to_owned() } else { format!("{address}?{}", rest.join("&")) };
        let mut config = tokio_postgres::Config::from_str(&joined)
            .map_err(|error| open(format!("{error}; expected postgres://USER:PASSWORD@HOST:PORT/DATABASE")))?;
        if let Some(file) = password {
            let text = std::fs::read_to_string(&file).map_err(|error| open(format!("{}: {error}", file.display())))?;
            config.password(text.trim_end_matches(['\r', '\n']));
        }
        config.application_name("hms-ess").connect_timeout(CONNECT_WITHIN).tcp_user_timeout(HEARD_WITHIN);
        config.keepalives(true).keepalives_idle(KEEP_ALIVE_EVERY).keepalives_interval(KEEP_ALIVE_EVERY);
        let is_near = config.get_hosts().iter().all(is_near);
        let tls = match (mode.as_deref(), is_near) {
            (None, true) | (Some("disable"), _) => None,
            (None, false) | (Some("verify-full"), _) => Some(tls(roots.as_deref()).map_err(open)?),
            (Some(other), _) => {
                let text = format!(
                    "sslmode={other} does not make sure who answers; say sslmode=verify-full, with sslrootcert=FILE \
                     when the certificate is of an authority of your own, or sslmode=disable"
                );
                return Err(open(text));
            }
        };
        config.ssl_mode(if tls.is_some() { SslMode::Require } else { SslMode::Disable });
        Ok(Self { config, tls })
    }
}

/// On this machine: nobody else hears what is said.
fn is_near(host: &Host) -> bool {
    match host {
        Host::Tcp(name) => {
            name == "localhost" || name.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback())
        }
        Host::Unix(_) => true,
    }
}

fn tls(roots: Option<&Path>) -> std::result::Result<MakeRustlsConnect, String> {
    let mut store = RootCertStore::empty();
    match roots {
        Some(file) => {
            let fail = |error: &dyn std::fmt::Display| format!("sslrootcert {}: {error}", file.display());
            for cert in CertificateDer::pem_file_iter(file).map_err(|error| fail(&error))? {
                let cert = cert.map_err(|error| fail(&error))?;
                store.add(cert).map_err(|error| fail(&error))?;
            }
            if store.is_empty() {
                return Err(fail(&"no certificate is in it"));
            }
        }
        None => {
            // Those that can't be read are not trusted; with none at all the handshake says so.
            store.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        }
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?
        .with_root_certificates(store)
        .with_no_client_auth();
    Ok(MakeRustlsConnect::new(config))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(url: &str, expected: std::result::Result<bool, &str>) {
        match (Address::parse(url), expected) {
            (Ok(address), Ok(has_tls)) => assert_eq!(address.tls.is_some(), has_tls, "{url}"),
            (Err(error), Err(part)) => {
                assert!(error.to_string().contains(part), "{url}: {error}");
                assert!(!error.to_string().contains("geheim"), "{url}: {error}");
            }
            (found, _) => panic!("{url}: {:?}", found.err()),
        }
    }

    #[test]
    fn who_answers_is_made_sure_of_unless_it_is_this_machine() {
        check("postgres://ess:geheim@127.0.0.1:5432/ess", Ok(false));
        check("postgres://ess:geheim@localhost/ess", Ok(false));
        check("postgres://ess@%2Frun%2Fpostgresql/ess", Ok(false));
        check("postgres://ess:geheim@db.example/ess", Ok(true));
        check("postgres://ess:geheim@db.example/ess?sslmode=verify-full", Ok(true));
        check("postgres://ess:geheim@db.example/ess?sslmode=disable", Ok(false));
        check("postgres://ess:geheim@127.0.0.1/ess?sslmode=verify-full", Ok(true));
        check("postgres://ess:geheim@db.example/ess?sslmode=require", Err("verify-full"));
        check("postgres://ess:geheim@db.example/ess?sslrootcert=/nowhere.pem", Err("/nowhere.pem"));
        check("postgres://ess:geheim@db.example:none/ess", Err("expected postgres://"));
    }

    #[test]
    fn a_password_may_be_in_a_file() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("password");
        std::fs::write(&file, "geheim\n").unwrap();
        let url = format!("postgres://ess@127.0.0.1/ess?password_file={}", file.display());
        assert_eq!(Address::parse(&url).unwrap().config.get_password(), Some(b"geheim".as_slice()));
    }
}
