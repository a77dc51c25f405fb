//! Certificates: a local CA and a certificate of its own for a hub that was given none; trust for clients.

use std::net::IpAddr;
use std::path::Path;
use std::sync::Arc;

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, KeyUsagePurpose, SanType};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use tokio_rustls::TlsConnector;

use crate::config::profile::write_private;
use crate::failure::{Failure, Result};

/// Days that the hub's certificate lasts, and the rest of its life in which it is made anew.
const CERTIFICATE_DAYS: i64 = 397;
const RENEW_DAYS: u64 = 30;
const CA_DAYS: i64 = 3_650;

/// The files of a hub that was given no certificate.
struct Files {
    ca: std::path::PathBuf,
    ca_key: std::path::PathBuf,
    hub: std::path::PathBuf,
    hub_key: std::path::PathBuf,
}

/// TLS for the hub, from the files that it was given.
pub(crate) fn server_from_files(cert: &Path, key: &Path) -> Result<Arc<ServerConfig>> {
    let read = |path: &Path| {
        std::fs::read(path).map_err(|error| Failure::io(format_args!("could not read {}", path.display()), &error))
    };
    server(&read(cert)?, &read(key)?).map_err(|why| {
        Failure::refused(format!("{} and {} are no certificate with its key: {why}", cert.display(), key.display()))
    })
}

/// TLS for the hub from its own CA, made on the first start in `dir`/tls; renewed when it nears its end or a name is missing.
pub(crate) fn server_from_own_ca(dir: &Path, names: &[String], listen: IpAddr) -> Result<Arc<ServerConfig>> {
    let tls = dir.join("tls");
    std::fs::create_dir_all(&tls)
        .map_err(|error| Failure::io(format_args!("could not make {}", tls.display()), &error))?;
    let files = Files {
        ca: tls.join("ca.pem"),
        ca_key: tls.join("ca.key"),
        hub: tls.join("hub.pem"),
        hub_key: tls.join("hub.key"),
    };
    let names = all_names(names, listen);
    make(&files, &names)
        .map_err(|why| Failure::refused(format!("could not make a certificate in {}: {why}", tls.display())))?;
    server_from_files(&files.hub, &files.hub_key)
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
        std::fs::write(&files.ca, params.self_signed(&key)?.pem())?;
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
    std::fs::write(&files.hub, format!("{}{}", certificate.pem(), std::fs::read_to_string(&files.ca)?))?;
    // What it was made for, to know when it must be made anew.
    std::fs::write(files.hub.with_extension("names"), names.join("\n"))?;
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

fn server(cert: &[u8], key: &[u8]) -> std::result::Result<Arc<ServerConfig>, Box<dyn std::error::Error>> {
    let chain = CertificateDer::pem_slice_iter(cert).collect::<std::result::Result<Vec<_>, _>>()?;
    let key = PrivateKeyDer::from_pem_slice(key)?;
    let mut config = ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_protocol_versions(&[&rustls::version::TLS13, &rustls::version::TLS12])?
        .with_no_client_auth()
        .with_single_cert(chain, key)?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(Arc::new(config))
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
    let config = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_protocol_versions(&[&rustls::version::TLS13, &rustls::version::TLS12])
        .map_err(|error| Failure::refused(format!("TLS: {error}")))?
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok(TlsConnector::from(Arc::new(config)))
}
