//! Certificates: a local CA and a certificate of its own for a hub that was given none; trust for clients.

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, RwLock};

use ess_core::time::Time;
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, KeyUsagePurpose, SanType};
use rustls::crypto::ring;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use tokio_rustls::TlsConnector;

use crate::config::profile::{write_private, write_whole};
use crate::failure::{Failure, Result};

/// Days that the hub's certificate lasts, and the rest of its life in which it is made anew.
const CERTIFICATE_DAYS: i64 = 397;
const RENEW_DAYS: u64 = 30;
const CA_DAYS: i64 = 3_650;
/// The mode of what everybody may read.
const PUBLIC: u32 = 0o644;

/// The files of a hub that was given no certificate.
struct Files {
    ca: PathBuf,
    ca_key: PathBuf,
    hub: PathBuf,
    hub_key: PathBuf,
}

/// The hub's TLS, whose certificate can be exchanged while it serves.
pub(crate) struct Served {
    /// For the listener.
    pub(crate) config: Arc<ServerConfig>,
    origin: CertificateOrigin,
    shown: Arc<Shown>,
}

/// Where the certificate comes from.
enum CertificateOrigin {
    Files { cert: PathBuf, key: PathBuf },
    OwnCa { files: Files, names: Vec<String> },
}

/// The certificate that the next handshake shows.
#[derive(Debug)]
struct Shown(RwLock<Arc<CertifiedKey>>);

impl ResolvesServerCert for Shown {
    fn resolve(&self, _hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        // A poisoned lock still holds a whole certificate: it is replaced in one step.
        Some(self.0.read().unwrap_or_else(std::sync::PoisonError::into_inner).clone())
    }
}

impl Served {
    /// From the files that the hub was given.
    pub(crate) fn from_files(cert: &Path, key: &Path) -> Result<Self> {
        Self::of(CertificateOrigin::Files { cert: cert.to_owned(), key: key.to_owned() })
    }

    /// From the hub's own CA, made on the first start in `dir`/tls; renewed when it nears its end or a name is missing.
    pub(crate) fn from_own_ca(dir: &Path, names: &[String], listen: IpAddr) -> Result<Self> {
        let tls = dir.join("tls");
        std::fs::create_dir_all(&tls)
            .map_err(|error| Failure::io(format_args!("could not make {}", tls.display()), &error))?;
        let files = Files {
            ca: tls.join("ca.pem"),
            ca_key: tls.join("ca.key"),
            hub: tls.join("hub.pem"),
            hub_key: tls.join("hub.key"),
        };
        Self::of(CertificateOrigin::OwnCa { files, names: all_names(names, listen) })
    }

    fn of(origin: CertificateOrigin) -> Result<Self> {
        let shown = Arc::new(Shown(RwLock::new(origin.load()?)));
        let mut config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_protocol_versions(&[&rustls::version::TLS13, &rustls::version::TLS12])
            .map_err(|error| Failure::refused(format!("TLS: {error}")))?
            .with_no_client_auth()
            .with_cert_resolver(shown.clone());
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(Self { config: Arc::new(config), origin, shown })
    }

    /// When the certificate ends that is shown, if it can be read.
    pub(crate) fn ends(&self) -> Option<Time> {
        let shown = self.shown.0.read().unwrap_or_else(std::sync::PoisonError::into_inner).clone();
        let (_, certificate) = x509_parser::parse_x509_certificate(shown.cert.first()?).ok()?;
        Some(Time::from_micros(certificate.validity().not_after.timestamp().saturating_mul(1_000_000)))
    }

    /// Reads the certificate again; true when another one is shown from now on. The old one stays when the new one fails.
    pub(crate) fn reload(&self) -> Result<bool> {
        let read = self.origin.load()?;
        let mut shown = self.shown.0.write().unwrap_or_else(std::sync::PoisonError::into_inner);
        let is_new = read.cert != shown.cert;
        *shown = read;
        Ok(is_new)
    }
}

impl CertificateOrigin {
    fn load(&self) -> Result<Arc<CertifiedKey>> {
        let (cert, key) = match self {
            Self::Files { cert, key } => (cert, key),
            Self::OwnCa { files, names } => {
                make(files, names).map_err(|why| {
                    Failure::refused(format!("could not make the certificate {}: {why}", files.hub.display()))
                })?;
                (&files.hub, &files.hub_key)
            }
        };
        let read = |path: &Path| {
            std::fs::read(path).map_err(|error| Failure::io(format_args!("could not read {}", path.display()), &error))
        };
        certified(&read(cert)?, &read(key)?).map_err(|why| {
            Failure::refused(format!("{} and {} are no certificate with its key: {why}", cert.display(), key.display()))
        })
    }
}

fn all_names(more: &[String], listen: IpAddr) -> Vec<String> {
    let mut names: Vec<String> = vec!["localhost".to_owned(), "127.0.0.1".to_owned(), "::1".to_owned()];
    if !listen.is_unspecified() {
        names.push(listen.to_string());
    }
    if let Ok(host) = std::fs::read_to_string("/proc/sys/kernel/hostname") {
        names.push(host.trim().to_owned());
    }
    names.extend(more.iter().cloned());
    names.retain(|name| !name.is_empty());
    names.sort();
    names.dedup();
    names
}

fn make(files: &Files, names: &[String]) -> std::result::Result<(), Box<dyn std::error::Error>> {
    if !files.ca.exists() || !files.ca_key.exists() {
        let key = KeyPair::generate()?;
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, "HMS-ESS local CA");
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        (params.not_before, params.not_after) = validity(CA_DAYS);
        write_private(&files.ca_key, key.serialize_pem().as_bytes())?;
        write_whole(&files.ca, params.self_signed(&key)?.pem().as_bytes(), PUBLIC)?;
    } else if is_current(files, names) {
        return Ok(());
    }
    let ca_key = KeyPair::from_pem(&std::fs::read_to_string(&files.ca_key)?)?;
    let issuer = Issuer::from_ca_cert_pem(&std::fs::read_to_string(&files.ca)?, ca_key)?;
    let key = KeyPair::generate()?;
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, "HMS-ESS hub");
    for name in names {
        params.subject_alt_names.push(match name.parse::<IpAddr>() {
            Ok(address) => SanType::IpAddress(address),
            Err(_) => SanType::DnsName(name.as_str().try_into()?),
        });
    }
    params.use_authority_key_identifier_extension = true;
    params.extended_key_usages = vec![rcgen::ExtendedKeyUsagePurpose::ServerAuth];
    (params.not_before, params.not_after) = validity(CERTIFICATE_DAYS);
    let certificate = params.signed_by(&key, &issuer)?;
    write_private(&files.hub_key, key.serialize_pem().as_bytes())?;
    let chain = format!("{}{}", certificate.pem(), std::fs::read_to_string(&files.ca)?);
    write_whole(&files.hub, chain.as_bytes(), PUBLIC)?;
    // What it was made for, to know when it must be made anew; last, so that a crash before it makes all of it anew.
    write_whole(&files.hub.with_extension("names"), names.join("\n").as_bytes(), PUBLIC)?;
    Ok(())
}

/// Whether the certificate has these names and a good part of its life left.
fn is_current(files: &Files, names: &[String]) -> bool {
    let same_names =
        std::fs::read_to_string(files.hub.with_extension("names")).is_ok_and(|known| known == names.join("\n"));
    let age = std::fs::metadata(&files.hub).and_then(|meta| meta.modified()).ok().and_then(|made| made.elapsed().ok());
    let life = std::time::Duration::from_secs((CERTIFICATE_DAYS as u64 - RENEW_DAYS) * 86_400);
    same_names && files.hub_key.exists() && age.is_some_and(|age| age < life)
}

fn validity(days: i64) -> (time::OffsetDateTime, time::OffsetDateTime) {
    // A day back, for clocks that differ.
    let now = time::OffsetDateTime::now_utc();
    (now - time::Duration::days(1), now + time::Duration::days(days))
}

fn certified(cert: &[u8], key: &[u8]) -> std::result::Result<Arc<CertifiedKey>, Box<dyn std::error::Error>> {
    let chain = CertificateDer::pem_slice_iter(cert).collect::<std::result::Result<Vec<_>, _>>()?;
    if chain.is_empty() {
        return Err("there is no certificate".into());
    }
    // Also checks that the key is the certificate's own.
    let key = PrivateKeyDer::from_pem_slice(key)?;
    Ok(Arc::new(CertifiedKey::from_der(chain, key, &ring::default_provider())?))
}

/// TLS for a client: the given CA file, else the system's certificates.
pub(crate) fn connector(ca: Option<&Path>) -> Result<TlsConnector> {
    let mut roots = RootCertStore::empty();
    match ca {
        Some(ca) => {
            let pem = std::fs::read(ca).map_err(|error| {
                Failure::io(format_args!("could not read the certificates {}", ca.display()), &error)
            })?;
            for certificate in CertificateDer::pem_slice_iter(&pem).flatten() {
                let _ = roots.add(certificate);
            }
            if roots.is_empty() {
                return Err(Failure::refused(format!("{} holds no certificate", ca.display())));
            }
        }
        None => {
            roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        }
    }
    let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_protocol_versions(&[&rustls::version::TLS13, &rustls::version::TLS12])
        .map_err(|error| Failure::refused(format!("TLS: {error}")))?
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok(TlsConnector::from(Arc::new(config)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn own(dir: &Path, names: &[&str]) -> Served {
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        Served::from_own_ca(dir, &names, "127.0.0.1".parse().unwrap()).unwrap()
    }

    fn shown(served: &Served) -> Vec<CertificateDer<'static>> {
        served.shown.0.read().unwrap().cert.clone()
    }

    #[test]
    fn the_second_start_keeps_ca_and_certificate() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(shown(&own(dir.path(), &[])), shown(&own(dir.path(), &[])));
    }

    #[test]
    fn another_name_makes_another_certificate_of_the_same_ca() {
        let dir = tempfile::tempdir().unwrap();
        let first = shown(&own(dir.path(), &[]));
        let second = shown(&own(dir.path(), &["hub.example.gov"]));
        assert_ne!(first[0], second[0]);
        assert_eq!(first[1], second[1]);
    }

    #[test]
    fn private_keys_are_readable_by_their_owner_only() {
        use std::os::unix::fs::PermissionsExt;
        let dir = tempfile::tempdir().unwrap();
        own(dir.path(), &[]);
        for key in ["ca.key", "hub.key"] {
            let mode = std::fs::metadata(dir.path().join("tls").join(key)).unwrap().permissions().mode();
            assert_eq!(mode & 0o777, 0o600, "{key}");
        }
    }

    #[test]
    fn a_certificate_that_was_exchanged_is_shown_without_a_restart() {
        let (dir, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        own(dir.path(), &[]);
        own(other.path(), &[]);
        let (cert, key) = (dir.path().join("tls/hub.pem"), dir.path().join("tls/hub.key"));
        let served = Served::from_files(&cert, &key).unwrap();
        let before = shown(&served);
        assert!(!served.reload().unwrap());
        std::fs::copy(other.path().join("tls/hub.pem"), &cert).unwrap();
        // Half of the exchange: the old one goes on.
        assert!(served.reload().is_err());
        assert_eq!(shown(&served), before);
        std::fs::copy(other.path().join("tls/hub.key"), &key).unwrap();
        assert!(served.reload().unwrap());
        assert_ne!(shown(&served), before);
    }
}
