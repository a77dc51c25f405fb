//! TLS: whom the hub trusts, what it says of those it does not, and how it shows a certificate of its own.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use ess_channels::{Channel, ChannelError, Credential, Reach};
use ess_core::receipt::{Failure, Stage};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio_rustls::TlsAcceptor;

use crate::partner::{Partner, answered, dialer, document, failed, message, open, read_request, soon};

/// A certificate authority for one test.
pub(crate) struct Authority(CertifiedIssuer<'static, KeyPair>);

impl Authority {
    pub(crate) fn new() -> Authority {
        Authority::named("a test authority")
    }

    fn named(name: &str) -> Authority {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.distinguished_name.push(rcgen::DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        Authority(CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap())
    }

    pub(crate) fn pem(&self) -> Vec<u8> {
        self.0.pem().into_bytes()
    }

    pub(crate) fn issue(
        &self,
        name: &str,
        change: impl FnOnce(&mut CertificateParams),
    ) -> (rcgen::Certificate, KeyPair) {
        let mut params = CertificateParams::new(vec![name.to_owned()]).unwrap();
        change(&mut params);
        let key = KeyPair::generate().unwrap();
        (params.signed_by(&key, &self.0).unwrap(), key)
    }

    /// The TLS side of a server of this name.
    pub(crate) fn acceptor(&self, name: &str) -> TlsAcceptor {
        TlsAcceptor::from(Arc::new(server(self.issue(name, |_| {}))))
    }
}

fn provider() -> Arc<rustls::crypto::CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

/// A partner that serves TLS with a certificate for `name`; counts the handshakes that resumed a session.
async fn serve(config: ServerConfig) -> (Partner, Arc<AtomicUsize>) {
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let resumed = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&resumed);
    let partner = Partner::start(move |stream, _| {
        let (acceptor, counted) = (acceptor.clone(), Arc::clone(&counted));
        async move {
            let Ok(mut stream) = acceptor.accept(stream).await else {
                return;
            };
            if stream.get_ref().1.handshake_kind() == Some(rustls::HandshakeKind::Resumed) {
                counted.fetch_add(1, Ordering::SeqCst);
            }
            while let Some(request) = read_request(&mut stream).await {
                let close = if request.head.contains("x-close") { "connection: close\r\n" } else { "" };
                let answer = format!("HTTP/1.1 200 OK\r\n{close}content-length: 2\r\n\r\nok");
                stream.write_all(answer.as_bytes()).await.unwrap();
            }
        }
    })
    .await;
    (partner, resumed)
}

fn server(certificate: (rcgen::Certificate, KeyPair)) -> ServerConfig {
    let (certificate, key) = certificate;
    ServerConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![certificate.der().clone()], key.serialize_der().try_into().unwrap())
        .unwrap()
}

fn channel(url: &str, credential: Credential, roots: Vec<Vec<u8>>) -> Channel {
    let dialer = dialer(&["127.0.0.0/8", "::1/128"], roots);
    open(url, credential, &dialer).unwrap()
}

fn https(partner: &Partner) -> String {
    partner.url().replace("http://", "https://")
}

#[tokio::test]
async fn a_trusted_partner_is_reached_and_its_connection_is_kept() {
    let authority = Authority::new();
    let (partner, _) = serve(server(authority.issue("127.0.0.1", |_| ()))).await;
    let channel = channel(&https(&partner), Credential::None, vec![authority.pem()]);
    for _ in 0..5 {
        assert_eq!(&answered(channel.send(&message(), soon()).await).body[..], b"ok");
    }
    assert_eq!(partner.connections(), 1);
}

#[tokio::test]
async fn a_probe_tells_what_can_be_reached_from_what_is_not_trusted_or_not_allowed() {
    let authority = Authority::new();
    let (partner, _) = serve(server(authority.issue("127.0.0.1", |_| ()))).await;
    let plain = Partner::echoing().await;
    let document = document("webhook", "https://partner.example/hook", serde_json::json!({}));
    let probe = async |url: &str, allow: &[&str], roots: Vec<u8>| {
        let dialer = dialer(allow, vec![roots]);
        let probed = open(url, Credential::None, &dialer).unwrap().probe(&document, url, &dialer, soon()).await;
        probed.map_err(|failure| failure.reason)
    };
    let loopback = ["127.0.0.0/8"];
    assert_eq!(probe(&https(&partner), &loopback, authority.pem()).await, Ok(Reach::Protected));
    assert_eq!(probe(&plain.url(), &loopback, authority.pem()).await, Ok(Reach::Connected));
    let why = probe(&https(&partner), &loopback, Authority::named("a stranger").pem()).await.unwrap_err();
    assert!(why.starts_with("certificate not trusted"), "{why}");
    let before = partner.connections();
    probe(&https(&partner), &[], authority.pem()).await.unwrap_err();
    assert_eq!(partner.connections(), before, "an address that is not allowed was dialled");
}

#[tokio::test]
async fn a_new_connection_resumes_the_session() {
    let authority = Authority::new();
    let (partner, resumed) = serve(server(authority.issue("127.0.0.1", |_| ()))).await;
    let channel = channel(&https(&partner), Credential::None, vec![authority.pem()]);
    let mut message = message();
    message.headers.push(("x-close".to_owned(), "1".to_owned()));
    for _ in 0..3 {
        answered(channel.send(&message, soon()).await);
    }
    assert_eq!((partner.connections(), resumed.load(Ordering::SeqCst)), (3, 2));
}

#[tokio::test]
async fn a_certificate_that_is_not_trusted_is_refused_with_the_reason() {
    let (authority, stranger) = (Authority::new(), Authority::named("a stranger"));
    let forger = Authority::new();
    let expired = |params: &mut CertificateParams| {
        params.not_before = rcgen::date_time_ymd(2020, 1, 1);
        params.not_after = rcgen::date_time_ymd(2021, 1, 1);
    };
    let early = |params: &mut CertificateParams| params.not_before = rcgen::date_time_ymd(2999, 1, 1);
    for (certificate, why) in [
        (authority.issue("other.gov", |_| ()), "it is not valid for 127.0.0.1"),
        (authority.issue("127.0.0.1", expired), "it has expired"),
        (authority.issue("127.0.0.1", early), "it is not valid yet"),
        (stranger.issue("127.0.0.1", |_| ()), "its issuer is not known"),
        (forger.issue("127.0.0.1", |_| ()), "its signature is wrong"),
    ] {
        let (partner, _) = serve(server(certificate)).await;
        let channel = channel(&https(&partner), Credential::None, vec![authority.pem()]);
        let expected = Failure { stage: Stage::Tls, reason: format!("certificate not trusted: {why}") };
        assert_eq!(failed(channel.send(&message(), soon()).await), expected);
    }
}

#[tokio::test]
async fn what_is_not_tls_is_a_failure_of_the_handshake() {
    for text in ["HTTP/1.1 400 Bad Request\r\n\r\n", ""] {
        let partner = Partner::start(move |mut stream, _| async move {
            let mut bytes = [0; 1024];
            let _ = stream.read(&mut bytes).await;
            let _ = stream.write_all(text.as_bytes()).await;
        })
        .await;
        let channel = channel(&https(&partner), Credential::None, Vec::new());
        let failure = failed(channel.send(&message(), soon()).await);
        assert_eq!(failure.stage, Stage::Tls, "{failure:?}");
    }
}

#[tokio::test]
async fn a_client_certificate_is_shown() {
    let authority = Authority::new();
    let mut roots = RootCertStore::empty();
    roots.add(authority.0.der().clone()).unwrap();
    let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider()).build().unwrap();
    let (certificate, key) = authority.issue("127.0.0.1", |_| ());
    let config = ServerConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_client_cert_verifier(verifier)
        .with_single_cert(vec![certificate.der().clone()], key.serialize_der().try_into().unwrap())
        .unwrap();
    let (partner, _) = serve(config).await;

    let (certificate, key) = authority.issue("hub", |_| ());
    let credential = Credential::Mtls { cert_pem: certificate.pem(), key_pem: key.serialize_pem() };
    let shown = channel(&https(&partner), credential, vec![authority.pem()]);
    assert_eq!(answered(shown.send(&message(), soon()).await).status, 200);

    let not_shown = channel(&https(&partner), Credential::None, vec![authority.pem()]);
    let failure = failed(not_shown.send(&message(), soon()).await);
    assert!(failure.reason.contains("certificate"), "{failure:?}");
}

#[test]
fn a_client_certificate_that_cannot_be_used_is_refused_when_the_channel_is_opened() {
    let authority = Authority::new();
    let (certificate, _) = authority.issue("hub", |_| ());
    let other = KeyPair::generate().unwrap();
    let dialer = dialer(&[], Vec::new());
    let open = |url: &str, cert_pem: &str, key_pem: &str| {
        let credential = Credential::Mtls { cert_pem: cert_pem.to_owned(), key_pem: key_pem.to_owned() };
        open(url, credential, &dialer).unwrap_err()
    };
    let (cert, key) = (certificate.pem(), other.serialize_pem());
    assert!(matches!(open("https://h/", &cert, &key), ChannelError::Credential(_)));
    assert!(matches!(open("https://h/", "", &key), ChannelError::Credential(_)));
    assert!(matches!(open("https://h/", &cert, "nothing"), ChannelError::Credential(_)));
    assert!(matches!(open("http://h/", &cert, &key), ChannelError::Url(_)));
}
