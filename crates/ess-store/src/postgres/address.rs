//! Where the server is, and how it is known to be the one: the URL of `--store`.

use std::path::{Path, PathBuf};
use std::str::FromStr as _;
use std::sync::Arc;
use std::time::Duration;

use rustls::RootCertStore;
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject as _;
use tokio_postgres::Config;
use tokio_postgres::config::{Host, SslMode, TargetSessionAttrs};
use tokio_postgres_rustls::MakeRustlsConnect;

use crate::error::StoreError;

type Result<T> = std::result::Result<T, StoreError>;

/// Where a server is that is named without a port.
const PORT: u16 = 5432;
/// How long one address is tried.
const CONNECT_WITHIN: Duration = Duration::from_secs(3);
/// How long what was sent may go without a word from the other side.
const HEARD_WITHIN: Duration = Duration::from_secs(10);
const KEEP_ALIVE_EVERY: Duration = Duration::from_secs(3);
/// Servers of a URL at most: all are asked one after the other before somebody who waits is refused.
const SERVERS_MAX: usize = 5;

/// The servers of a database, of which one at a time can be written to, and how they are spoken to.
pub(super) struct Address {
    /// Each by itself, in the order of the URL: one that takes connections and says nothing must not keep the next from being asked.
    pub(super) servers: Vec<Config>,
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
                // Always so: of a server and its standbys it is the one that can be written to.
                Some(("target_session_attrs", "read-write" | "primary")) => {}
                Some(("target_session_attrs", other)) => {
                    let text = format!(
                        "target_session_attrs={other}: a hub writes; say target_session_attrs=read-write, which is also \
                         what it does without"
                    );
                    return Err(open(text));
                }
                _ => rest.push(pair),
            }
        }
        let joined = if rest.is_empty() { address.to_owned() } else { format!("{address}?{}", rest.join("&")) };
        let mut config = Config::from_str(&joined)
            .map_err(|error| open(format!("{error}; expected postgres://USER:PASSWORD@HOST:PORT/DATABASE")))?;
        if let Some(file) = password {
            let text = std::fs::read_to_string(&file).map_err(|error| open(format!("{}: {error}", file.display())))?;
            config.password(text.trim_end_matches(['\r', '\n']));
        }
        config.application_name("hms-ess").connect_timeout(CONNECT_WITHIN).tcp_user_timeout(HEARD_WITHIN);
        config.keepalives(true).keepalives_idle(KEEP_ALIVE_EVERY).keepalives_interval(KEEP_ALIVE_EVERY);
        config.target_session_attrs(TargetSessionAttrs::ReadWrite);
        let is_near = match (config.get_hosts(), config.get_hostaddrs()) {
            (hosts, []) => hosts.iter().all(is_near),
            // Where it is, whatever it is called.
            (_, addresses) => addresses.iter().all(std::net::IpAddr::is_loopback),
        };
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
        Ok(Self { servers: apart(&config).map_err(open)?, tls })
    }
}

/// What to call a server when it is told of.
pub(super) fn name(server: &Config) -> String {
    let port = server.get_ports().first().copied().unwrap_or(PORT);
    match (server.get_hosts().first(), server.get_hostaddrs().first()) {
        (Some(Host::Tcp(name)), _) => format!("{name}:{port}"),
        (Some(Host::Unix(path)), _) => path.display().to_string(),
        (None, Some(address)) => format!("{address}:{port}"),
        (None, None) => String::new(),
    }
}

/// Each server of what a URL says, with all that is said of them together.
fn apart(config: &Config) -> std::result::Result<Vec<Config>, String> {
    let (hosts, addresses, ports) = (config.get_hosts(), config.get_hostaddrs(), config.get_ports());
    let count = hosts.len().max(addresses.len());
    let has_all = |len: usize| len == 0 || len == count;
    if count == 0 || count > SERVERS_MAX {
        return Err(format!("expected 1 to {SERVERS_MAX} servers, found {count}"));
    }
    if !has_all(hosts.len()) || !has_all(addresses.len()) || !(has_all(ports.len()) || ports.len() == 1) {
        return Err(format!("expected a name, an address and a port for each of {count} servers"));
    }
    let one = |index: usize| {
        let mut one = Config::new();
        match hosts.get(index) {
            Some(Host::Tcp(name)) => drop(one.host(name)),
            Some(Host::Unix(path)) => drop(one.host_path(path)),
            None => {}
        }
        if let Some(address) = addresses.get(index) {
            one.hostaddr(*address);
        }
        one.port(ports.get(index).or(ports.first()).copied().unwrap_or(PORT));
        with_the_rest_of(one, config)
    };
    Ok((0..count).map(one).collect())
}

fn with_the_rest_of(mut one: Config, all: &Config) -> Config {
    if let Some(user) = all.get_user() {
        one.user(user);
    }
    if let Some(password) = all.get_password() {
        one.password(password);
    }
    if let Some(database) = all.get_dbname() {
        one.dbname(database);
    }
    if let Some(options) = all.get_options() {
        one.options(options);
    }
    if let Some(name) = all.get_application_name() {
        one.application_name(name);
    }
    if let Some(within) = all.get_connect_timeout() {
        one.connect_timeout(*within);
    }
    if let Some(within) = all.get_tcp_user_timeout() {
        one.tcp_user_timeout(*within);
    }
    if let Some(every) = all.get_keepalives_interval() {
        one.keepalives_interval(every);
    }
    if let Some(count) = all.get_keepalives_retries() {
        one.keepalives_retries(count);
    }
    one.keepalives(all.get_keepalives()).keepalives_idle(all.get_keepalives_idle());
    one.ssl_mode(all.get_ssl_mode()).ssl_negotiation(all.get_ssl_negotiation());
    one.channel_binding(all.get_channel_binding()).load_balance_hosts(all.get_load_balance_hosts());
    one.target_session_attrs(all.get_target_session_attrs());
    one
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
    fn of_several_servers_all_are_on_this_machine_or_all_are_made_sure_of() {
        check("postgres://ess:geheim@127.0.0.1:5432,localhost:5433/ess", Ok(false));
        check("postgres://ess:geheim@127.0.0.1:5432,db.example:5432/ess", Ok(true));
        check("postgres://ess:geheim@a.example,b.example/ess?target_session_attrs=read-write", Ok(true));
        check("postgres://ess:geheim@a.example,b.example/ess?sslmode=disable", Ok(false));
        // Where it is counts, not what it is called.
        check("postgres://ess:geheim@localhost/ess?hostaddr=192.0.2.1", Ok(true));
        check("postgres://ess:geheim@db.example/ess?hostaddr=127.0.0.1", Ok(false));
        check("postgres://ess:geheim@/ess?hostaddr=192.0.2.1", Ok(true));
    }

    #[test]
    fn each_server_has_its_own_name_and_port_and_what_is_said_of_all() {
        let url = "postgres://ess:geheim@a.example:5432,b.example:6432,c.example/ess?target_session_attrs=read-write";
        let servers = Address::parse(url).unwrap().servers;
        assert_eq!(
            servers.iter().map(name).collect::<Vec<_>>(),
            ["a.example:5432", "b.example:6432", "c.example:5432"]
        );
        for server in &servers {
            assert_eq!(server.get_hosts().len(), 1, "its name alone is what its certificate must bear");
            assert_eq!(server.get_target_session_attrs(), TargetSessionAttrs::ReadWrite);
            assert_eq!(server.get_ssl_mode(), SslMode::Require);
            assert_eq!((server.get_user(), server.get_dbname()), (Some("ess"), Some("ess")));
            assert_eq!(server.get_password(), Some(b"geheim".as_slice()));
            assert_eq!(server.get_application_name(), Some("hms-ess"));
            assert_eq!(server.get_connect_timeout(), Some(&CONNECT_WITHIN));
            assert_eq!(server.get_tcp_user_timeout(), Some(&HEARD_WITHIN));
        }
    }

    #[test]
    fn a_server_that_is_only_read_and_lists_that_do_not_fit_are_refused() {
        check("postgres://ess:geheim@a.example/ess?target_session_attrs=read-only", Err("read-write"));
        check("postgres://ess:geheim@a.example/ess?target_session_attrs=any", Err("read-write"));
        check("postgres://ess:geheim@a,b,c,d,e,f/ess", Err("1 to 5 servers, found 6"));
        check("postgres://ess:geheim@a,b/ess?hostaddr=192.0.2.1", Err("each of 2 servers"));
        check("postgres:///ess", Err("found 0"));
    }

    #[test]
    fn a_password_may_be_in_a_file() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("password");
        std::fs::write(&file, "geheim\n").unwrap();
        let url = format!("postgres://ess@127.0.0.1/ess?password_file={}", file.display());
        assert_eq!(Address::parse(&url).unwrap().servers[0].get_password(), Some(b"geheim".as_slice()));
    }
}
