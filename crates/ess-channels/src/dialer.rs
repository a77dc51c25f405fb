//! The one place that opens sockets: resolve, check every address, connect to what was checked, TLS. Where there is a proxy
//! it is asked for the address that was checked.
//!
//! It never connects to an address that the guard did not pass, and never resolves a name twice for one connection.

use std::net::{SocketAddr, ToSocketAddrs as _};
use std::path::Path;
use std::sync::Arc;

use ess_core::partner::{AllowDir, AllowNet};
use ess_core::receipt::{Failure, Stage};
use rustls::client::Resumption;
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use tokio::net::TcpStream;
use tokio::sync::Semaphore;
use tokio::time::{Instant, timeout_at};
use tokio_rustls::TlsConnector;

use crate::channel::ChannelError;
use crate::credential::Credential;
use crate::guard;
use crate::http1::is_field;
use crate::limits::{ADDRESSES_MAX, ALLOWED_DIR_THREADS_MAX, TLS_SESSIONS};
use crate::progress::Progress;
use crate::proxy::{Proxy, ProxyOptions};
use crate::stream::Stream;
use crate::target::{Security, Target};
use crate::wire::io_words;

/// What the dialer may and trusts.
#[derive(Debug, Clone)]
pub struct DialerOptions {
    /// Address ranges that are dialled beside public ones.
    pub allow: AllowNet,
    /// More trusted certificates: the hub's own CA, the operator's CA file.
    pub extra_roots_pem: Vec<Vec<u8>>,
    /// Whether the system's certificates are trusted.
    pub system_roots: bool,
    /// Value of the `user-agent` field.
    pub user_agent: String,
    /// Directories that `file` partners may have.
    pub allow_dir: AllowDir,
    /// The way out, where there is but one.
    pub proxy: Option<ProxyOptions>,
}

/// Opens connections. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Dialer {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    allow: AllowNet,
    allow_dir: AllowDir,
    /// Threads beneath each of them; one that hangs keeps its permit to its real end.
    dir_threads: Vec<Arc<Semaphore>>,
    tls: ClientConfig,
    roots: Arc<RootCertStore>,
    user_agent: String,
    proxy: Option<Proxy>,
}

impl Dialer {
    /// Reads the trusted certificates; dials nothing.
    ///
    /// # Errors
    ///
    /// A given certificate cannot be read, or none is trusted at all.
    pub fn new(options: DialerOptions) -> Result<Dialer, ChannelError> {
        let proxy = options.proxy.as_ref().map(Proxy::open).transpose()?;
        let roots = Arc::new(trusted_roots(&options)?);
        let tls = client_config(Arc::clone(&roots))?.with_no_client_auth();
        if !is_field("user-agent", &options.user_agent) {
            return Err(ChannelError::Option("the user agent is not a header value".to_owned()));
        }
        let user_agent = options.user_agent;
        let (allow, allow_dir) = (options.allow, options.allow_dir);
        let dir_threads = allow_dir.0.iter().map(|_| Arc::new(Semaphore::new(ALLOWED_DIR_THREADS_MAX))).collect();
        Ok(Dialer { inner: Arc::new(Inner { allow, allow_dir, dir_threads, tls, roots, user_agent, proxy }) })
    }

    /// The directories that the operator allowed.
    pub(crate) fn allow_dir(&self) -> &AllowDir {
        &self.inner.allow_dir
    }

    /// The threads of all partners beneath the allowed directory that this one lies in, the nearest; `None` when it lies in
    /// none.
    pub(crate) fn dir_threads(&self, dir: &Path) -> Option<Arc<Semaphore>> {
        let allowed = self.inner.allow_dir.0.iter().zip(&self.inner.dir_threads);
        let nearest = allowed
            .filter(|(allowed, _)| dir.starts_with(allowed))
            .max_by_key(|(allowed, _)| allowed.components().count());
        nearest.map(|(_, threads)| Arc::clone(threads))
    }

    /// The `user-agent` of all requests.
    pub(crate) fn user_agent(&self) -> &str {
        &self.inner.user_agent
    }

    /// The TLS side of one channel: it remembers sessions for that channel alone. `alpn` is empty where the protocol has
    /// no name.
    pub(crate) fn tls(&self, alpn: &[&[u8]]) -> TlsConnector {
        let mut config = with_alpn(self.inner.tls.clone(), alpn);
        config.resumption = Resumption::in_memory_sessions(TLS_SESSIONS);
        TlsConnector::from(Arc::new(config))
    }

    /// The TLS side of one channel that shows a client certificate.
    pub(crate) fn tls_with_certificate(
        &self,
        cert_pem: &str,
        key_pem: &str,
        alpn: &[&[u8]],
    ) -> Result<TlsConnector, ChannelError> {
        let refuse = |what: &str| ChannelError::Credential(what.to_owned());
        let chain = CertificateDer::pem_slice_iter(cert_pem.as_bytes())
            .collect::<Result<Vec<_>, _>>()
            .map_err(|_| refuse("the client certificate is not PEM"))?;
        if chain.is_empty() {
            return Err(refuse("the client certificate is empty"));
        }
        let key = PrivateKeyDer::from_pem_slice(key_pem.as_bytes())
            .map_err(|_| refuse("the client certificate's key is not PEM"))?;
        let mut config = client_config(Arc::clone(&self.inner.roots))?
            .with_client_auth_cert(chain, key)
            .map_err(|_| refuse("the client certificate and its key do not fit"))?;
        config.resumption = Resumption::in_memory_sessions(TLS_SESSIONS);
        Ok(TlsConnector::from(Arc::new(with_alpn(config, alpn))))
    }

    /// The TLS side of a broker's channel, which logs in by user and password or by a client certificate.
    pub(crate) fn broker_tls(
        &self,
        target: &Target,
        credential: &Credential,
        protected: &str,
    ) -> Result<Option<TlsConnector>, ChannelError> {
        match (credential, target.security) {
            (Credential::Mtls { .. }, Security::Plain) => {
                Err(ChannelError::Url(format!("a client certificate needs {protected}")))
            }
            (Credential::Mtls { cert_pem, key_pem }, _) => self.tls_with_certificate(cert_pem, key_pem, &[]).map(Some),
            (Credential::None | Credential::Password { .. }, Security::Plain) => Ok(None),
            (Credential::None | Credential::Password { .. }, _) => Ok(Some(self.tls(&[]))),
            _ => Err(ChannelError::Credential("it is by user and password, or by mtls".to_owned())),
        }
    }

    /// A word of 128 random bits, which nobody else can guess.
    ///
    /// # Errors
    ///
    /// The system has no random numbers.
    pub(crate) fn nonce(&self) -> Result<String, Failure> {
        let mut bytes = [0; 16];
        let filled = self.inner.tls.crypto_provider().secure_random.fill(&mut bytes);
        filled.map_err(|_| Failure { stage: Stage::Connect, reason: "the system has no random numbers".to_owned() })?;
        Ok(format!("{:032x}", u128::from_be_bytes(bytes)))
    }

    /// Opens a connection: resolves once, checks every address, connects to one that was checked, and does the TLS
    /// handshake if there is to be one. The caller bounds it by the deadline of `progress`.
    pub(crate) async fn dial(
        &self,
        target: &Target,
        tls: Option<&TlsConnector>,
        progress: &Progress,
    ) -> Result<Stream, Failure> {
        let addresses = self.resolve(target, progress).await?;
        let way = self.inner.proxy.as_ref().filter(|proxy| !proxy.spares(&target.host, &addresses));
        let socket = connect(&addresses, way, progress).await?;
        let Some(tls) = tls else {
            return Ok(Stream::Plain(socket));
        };
        protect(socket, target, tls, progress).await
    }

    /// The addresses of the target that may be dialled; at least one.
    async fn resolve(&self, target: &Target, progress: &Progress) -> Result<Vec<SocketAddr>, Failure> {
        let found = match target.literal {
            Some(address) => vec![SocketAddr::new(address, target.port)],
            None => {
                progress.enter(Stage::Resolve);
                look_up(target).await?
            }
        };
        let mut refused = None;
        let mut allowed = Vec::with_capacity(found.len());
        for address in found {
            match guard::check(address.ip(), target.protection(), &self.inner.allow) {
                Ok(()) => allowed.push(address),
                Err(failure) => refused = refused.or(Some(failure)),
            }
        }
        match refused {
            _ if !allowed.is_empty() => Ok(allowed),
            Some(failure) => Err(failure),
            None => Err(Failure { stage: Stage::Resolve, reason: format!("the name {} has no address", target.host) }),
        }
    }
}

/// The TLS handshake on a connection that is open, also for protocols that begin without (STARTTLS).
pub(crate) async fn protect(
    socket: TcpStream,
    target: &Target,
    tls: &TlsConnector,
    progress: &Progress,
) -> Result<Stream, Failure> {
    progress.enter(Stage::Tls);
    match tls.connect(target.server_name.clone(), socket).await {
        Ok(stream) => Ok(Stream::Tls(Box::new(stream))),
        Err(error) => Err(Failure { stage: Stage::Tls, reason: tls_words(&error, &target.host) }),
    }
}

/// The addresses of a name, by the system's resolver.
async fn look_up(target: &Target) -> Result<Vec<SocketAddr>, Failure> {
    let not_found = || Failure { stage: Stage::Resolve, reason: format!("the name {} was not found", target.host) };
    let permit = Arc::clone(&target.lookups).acquire_owned().await.map_err(|_| not_found())?;
    let name = (target.host.clone(), target.port);
    let lookup = tokio::task::spawn_blocking(move || {
        let _permit = permit;
        let found = name.to_socket_addrs()?;
        Ok::<_, std::io::Error>(found.take(ADDRESSES_MAX).collect())
    });
    // The resolver's own words differ from system to system and say no more than this.
    lookup.await.ok().and_then(Result::ok).ok_or_else(not_found)
}

/// Connects to the first address that answers, by the proxy if there is one. Each address but the last gets half of the
/// time that is left.
async fn connect(addresses: &[SocketAddr], proxy: Option<&Proxy>, progress: &Progress) -> Result<TcpStream, Failure> {
    let ways = match proxy {
        None => Vec::new(),
        Some(proxy) => ways_to(proxy).await?,
    };
    progress.enter(Stage::Connect);
    let mut reason = String::new();
    for (position, address) in addresses.iter().enumerate() {
        let is_last = position + 1 == addresses.len();
        let connecting = async {
            match proxy {
                None => connect_to(*address).await,
                Some(proxy) => tunnel(proxy, &ways, *address).await,
            }
        };
        let connected = if is_last {
            connecting.await
        } else {
            let now = Instant::now();
            let until = now + progress.deadline().saturating_duration_since(now) / 2;
            let timed_out = || Err(format!("{} by {address}", io_words(&std::io::ErrorKind::TimedOut.into())));
            timeout_at(until, connecting).await.unwrap_or_else(|_| timed_out())
        };
        match connected {
            Ok(socket) => return Ok(socket),
            Err(why) => reason = why,
        }
    }
    Err(Failure { stage: Stage::Connect, reason })
}

async fn connect_to(address: SocketAddr) -> Result<TcpStream, String> {
    let socket = TcpStream::connect(address).await.map_err(|error| format!("{} by {address}", io_words(&error)))?;
    // Without it a head and a body in two segments wait for each other's acknowledgement.
    let _ = socket.set_nodelay(true);
    Ok(socket)
}

/// The addresses of the proxy itself, which the operator named.
async fn ways_to(proxy: &Proxy) -> Result<Vec<SocketAddr>, Failure> {
    match proxy.target.literal {
        Some(address) => Ok(vec![SocketAddr::new(address, proxy.target.port)]),
        None => look_up(&proxy.target)
            .await
            .map_err(|Failure { stage, reason }| Failure { stage, reason: format!("the proxy: {reason}") }),
    }
}

/// Connects to the proxy, and by it to the address.
async fn tunnel(proxy: &Proxy, ways: &[SocketAddr], address: SocketAddr) -> Result<TcpStream, String> {
    let mut unreached = "the proxy: its name has no address".to_owned();
    for way in ways {
        match connect_to(*way).await {
            Ok(mut socket) => {
                proxy.ask(&mut socket, address).await?;
                return Ok(socket);
            }
            Err(why) => unreached = format!("the proxy: {why}"),
        }
    }
    Err(unreached)
}

/// TLS 1.2 and 1.3 by ring, whatever else the process has set.
fn client_config(
    roots: Arc<RootCertStore>,
) -> Result<rustls::ConfigBuilder<ClientConfig, rustls::client::WantsClientCert>, ChannelError> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let versions = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| ChannelError::Option(error.to_string()))?;
    Ok(versions.with_root_certificates(roots))
}

fn with_alpn(mut config: ClientConfig, alpn: &[&[u8]]) -> ClientConfig {
    config.alpn_protocols = alpn.iter().map(|name| name.to_vec()).collect();
    config
}

fn trusted_roots(options: &DialerOptions) -> Result<RootCertStore, ChannelError> {
    let mut roots = RootCertStore::empty();
    if options.system_roots {
        let found = rustls_native_certs::load_native_certs();
        for error in &found.errors {
            tracing::warn!(%error, "could not read some of the system's certificates");
        }
        roots.add_parsable_certificates(found.certs);
    }
    for pem in &options.extra_roots_pem {
        for certificate in CertificateDer::pem_slice_iter(pem) {
            let certificate = certificate.map_err(|error| ChannelError::Roots(error.to_string()))?;
            roots.add(certificate).map_err(|error| ChannelError::Roots(error.to_string()))?;
        }
    }
    Ok(roots)
}

/// A handshake's failure in plain words.
fn tls_words(error: &std::io::Error, host: &str) -> String {
    use rustls::{CertificateError, Error};
    let Some(tls) = error.get_ref().and_then(|inner| inner.downcast_ref::<Error>()) else {
        return format!("{} during the tls handshake", io_words(error));
    };
    let Error::InvalidCertificate(certificate) = tls else {
        return format!("tls handshake failed: {tls}");
    };
    let why = match certificate {
        CertificateError::Expired | CertificateError::ExpiredContext { .. } => "it has expired".to_owned(),
        CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => "it is not valid yet".to_owned(),
        CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
            format!("it is not valid for {host}")
        }
        CertificateError::UnknownIssuer => "its issuer is not known".to_owned(),
        CertificateError::BadSignature => "its signature is wrong".to_owned(),
        CertificateError::Revoked => "it was revoked".to_owned(),
        other => other.to_string(),
    };
    format!("certificate not trusted: {why}")
}
