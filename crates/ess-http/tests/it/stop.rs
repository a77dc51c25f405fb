//! How the server ends: what is in flight is answered, what is idle is closed, nothing is waited for without a bound.

use std::sync::Arc;
use std::time::{Duration, Instant};

use ess_http::ServerOptions;
use rustls_pki_types::{PrivateKeyDer, ServerName};
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpListener, TcpStream};

use crate::support::{PATIENCE, TestHub, event, read_reply, read_to_end, request};

#[tokio::test]
async fn a_stop_answers_what_waits_and_closes_what_is_idle() {
    let hub = TestHub::start().await;
    let partner = r#"{"id": "GONE", "url": "http://127.0.0.1:9/", "retry": {"first": "1h"}}"#;
    assert_eq!(hub.ask("POST", "/v1/partners", partner).await.status, 201);
    assert_eq!(hub.ask("POST", "/v1/events", &event("A-V1")).await.status, 202);
    let mut idle = hub.dial().await;
    idle.write_all(&request("", "GET", "/healthz", &[], b"")).await.unwrap();
    assert_eq!(read_reply(&mut idle).await.status, 200);
    let mut silent = hub.dial().await;
    let mut waiting = hub.dial().await;
    waiting.write_all(&request(&hub.admin, "GET", "/v1/events/A-V1/status?wait=60s", &[], b"")).await.unwrap();
    // One more round trip: by then the request above is being answered.
    assert_eq!(hub.get("/healthz").await.status, 200);
    let started = Instant::now();
    hub.stop();
    assert_eq!(read_reply(&mut waiting).await.status, 200);
    assert!(read_to_end(&mut idle).await.is_empty());
    assert!(read_to_end(&mut silent).await.is_empty());
    assert!(started.elapsed() < Duration::from_secs(4), "{:?}", started.elapsed());
    assert!(TcpStream::connect(hub.address).await.is_err(), "nobody listens any more");
    hub.finish().await;
}

#[tokio::test]
async fn a_hub_that_drains_is_not_ready_and_takes_everything_on_connections_that_end() {
    let hub = TestHub::start().await;
    let mut kept = hub.dial().await;
    kept.write_all(&request("", "GET", "/readyz", &[], b"")).await.unwrap();
    assert_eq!(read_reply(&mut kept).await.header("connection"), None);
    hub.hub.begin_draining();
    let refused = hub.get("/readyz").await;
    assert_eq!(refused.problem(503, "unavailable")["detail"], "the hub is stopping");
    assert_eq!(hub.get("/healthz").await.status, 200);
    kept.write_all(&request(&hub.admin, "POST", "/v1/events", &[], event("A-V1").as_bytes())).await.unwrap();
    let receipt = read_reply(&mut kept).await;
    assert_eq!((receipt.status, receipt.header("connection")), (202, Some("close")));
    assert!(read_to_end(&mut kept).await.is_empty());
    // The port is open all the same.
    assert_eq!(hub.ask("POST", "/v1/events", &event("A-V2")).await.status, 202);
    hub.finish().await;
}

#[tokio::test]
async fn a_request_that_does_not_end_is_cut_off_at_the_bound() {
    let hub =
        TestHub::with(ServerOptions { drain_timeout: Duration::from_millis(300), ..ServerOptions::default() }).await;
    let mut line = hub.dial().await;
    let head = format!(
        "POST /v1/events HTTP/1.1\r\nhost: h\r\nauthorization: Bearer {}\r\ncontent-length: 9\r\n\r\n{{",
        hub.admin
    );
    line.write_all(head.as_bytes()).await.unwrap();
    assert_eq!(hub.get("/healthz").await.status, 200);
    let started = Instant::now();
    hub.finish().await;
    assert!(started.elapsed() < Duration::from_secs(5), "{:?}", started.elapsed());
    assert!(read_to_end(&mut line).await.is_empty());
}

#[tokio::test]
async fn tls_is_spoken_and_a_handshake_that_hangs_ends() {
    let hub = TestHub::start().await;
    let made = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
    let certificate = made.cert.der().clone();
    let key = PrivateKeyDer::try_from(made.signing_key.serialize_der()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let server = rustls::ServerConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![certificate.clone()], key)
        .unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let options = ServerOptions { handshake_timeout: Duration::from_millis(300), ..ServerOptions::default() };
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let shutdown = async move { drop(stopped.await) };
    let serving = tokio::spawn(ess_http::serve(listener, Some(Arc::new(server)), hub.hub.clone(), options, shutdown));
    let mut hanging = TcpStream::connect(address).await.unwrap();
    hanging.write_all(b"\x16\x03\x01").await.unwrap();
    let mut roots = rustls::RootCertStore::empty();
    roots.add(certificate).unwrap();
    let client = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let connector = tokio_rustls::TlsConnector::from(Arc::new(client));
    let name = ServerName::try_from("localhost").unwrap();
    let mut line = connector.connect(name, TcpStream::connect(address).await.unwrap()).await.unwrap();
    for number in 1..=3 {
        line.write_all(&request(&hub.admin, "POST", "/v1/events", &[], event(&format!("T-V{number}")).as_bytes()))
            .await
            .unwrap();
        assert_eq!(read_reply(&mut line).await.status, 202);
    }
    assert!(read_to_end(&mut hanging).await.is_empty());
    drop(stop);
    tokio::time::timeout(PATIENCE, serving).await.unwrap().unwrap().unwrap();
    assert!(read_to_end(&mut line).await.is_empty());
    hub.finish().await;
}

#[tokio::test]
async fn metrics_stand_on_their_own_listener() {
    let hub = TestHub::start().await;
    assert_eq!(hub.ask("POST", "/v1/events", &event("A-V1")).await.status, 202);
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let shutdown = async move { drop(stopped.await) };
    let serving = tokio::spawn(ess_http::serve_metrics(listener, hub.hub.clone(), shutdown));
    let ask = async |path: &str| {
        let mut line = TcpStream::connect(address).await.unwrap();
        line.write_all(&request("", "GET", path, &[], b"")).await.unwrap();
        read_reply(&mut line).await
    };
    let metrics = ask("/metrics").await;
    assert!(metrics.text().contains("ess_") && metrics.text().ends_with("# EOF\n"), "{}", metrics.text());
    assert_eq!(ask("/v1/events").await.status, 404, "the API is not here");
    hub.get("/metrics").await.problem(404, "not_found");
    drop(stop);
    tokio::time::timeout(PATIENCE, serving).await.unwrap().unwrap().unwrap();
    hub.finish().await;
}
