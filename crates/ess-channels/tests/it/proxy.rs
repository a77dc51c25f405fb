//! The way out by a proxy, against tinyproxy and microsocks, and against proxies that refuse, hang and lie.

use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};

use ess_channels::{Channel, Credential, ProxyOptions};
use ess_core::receipt::{Failure, Stage};
use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::time::{Duration, Instant};

use crate::link::wait_until;
use crate::partner::{Partner, answered, dialer_by, document, failed, message, open, read_request, soon};
use crate::tls::Authority;

const OK: &str = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";

fn by(scheme: &str, address: SocketAddr, login: Option<&str>, except: &[&str]) -> ProxyOptions {
    ProxyOptions {
        url: format!("{scheme}://{address}"),
        login: login.map(str::to_owned),
        except: except.iter().map(|item| (*item).to_owned()).collect(),
    }
}

fn webhook(url: &str, proxy: ProxyOptions) -> Channel {
    open(url, Credential::None, &dialer_by(proxy, Vec::new())).unwrap()
}

/// A proxy's program; it ends when it is dropped.
struct Program {
    address: SocketAddr,
    process: Child,
    _dir: tempfile::TempDir,
}

impl Program {
    /// Starts it with arguments in which `PORT` and `DIR` are filled in, and this file in its directory.
    async fn start(name: &str, arguments: &[&str], config: &str) -> Program {
        let dir = tempfile::tempdir().unwrap();
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let fill =
            |text: &str| text.replace("PORT", &port.to_string()).replace("DIR", &dir.path().display().to_string());
        std::fs::write(dir.path().join("config"), fill(config)).unwrap();
        let process = Command::new(name)
            .args(arguments.iter().map(|argument| fill(argument)))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap_or_else(|_| panic!("{name} is missing: apt-get install tinyproxy-bin microsocks"));
        let address = SocketAddr::from(([127, 0, 0, 1], port));
        wait_until("the proxy listens", || TcpStream::connect(address).is_ok()).await;
        Program { address, process, _dir: dir }
    }

    async fn tinyproxy() -> Program {
        let config = "Port PORT\nListen 127.0.0.1\nAllow 127.0.0.1\nBasicAuth hub s3cret\nTimeout 60\n\
                      LogFile \"DIR/log\"\nMaxClients 20\n";
        Program::start("tinyproxy", &["-d", "-c", "DIR/config"], config).await
    }

    async fn microsocks() -> Program {
        Program::start("microsocks", &["-i", "127.0.0.1", "-p", "PORT", "-u", "hub", "-P", "s3cret"], "").await
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

#[tokio::test]
async fn a_partner_is_reached_by_real_proxies_and_their_logins() {
    let partner = Partner::answering(OK).await;
    for (scheme, proxy, words) in [
        ("http", Program::tinyproxy().await, "wants another login"),
        ("socks5", Program::microsocks().await, "does not take the login"),
    ] {
        let before = partner.connections();
        let channel = webhook(&partner.url(), by(scheme, proxy.address, Some("hub:s3cret"), &[]));
        for _ in 0..2 {
            assert_eq!(answered(channel.send(&message(), soon()).await).status, 200);
        }
        assert_eq!(partner.connections() - before, 1);
        let channel = webhook(&partner.url(), by(scheme, proxy.address, Some("hub:hunter2"), &[]));
        let Failure { stage, reason } = failed(channel.send(&message(), soon()).await);
        assert!(stage == Stage::Connect && reason.contains(words) && !reason.contains("hunter2"), "{reason}");
        let channel = webhook(&partner.url(), by(scheme, proxy.address, None, &[]));
        assert!(failed(channel.send(&message(), soon()).await).reason.contains("login"));
        // A partner that is not there is the partner's failure, in the proxy's words.
        let gone = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let channel = webhook(&format!("http://{gone}/"), by(scheme, proxy.address, Some("hub:s3cret"), &[]));
        let failure = failed(channel.send(&message(), soon()).await);
        assert!(failure.stage == Stage::Connect && failure.reason.contains(&gone.to_string()), "{failure:?}");
    }
}

/// A proxy of ours: notes what it is asked for, connects there, and passes bytes on.
async fn noting(asked: Arc<Mutex<Vec<String>>>) -> Partner {
    Partner::start(move |mut stream, _| {
        let asked = Arc::clone(&asked);
        async move {
            let head = read_request(&mut stream).await.unwrap().head;
            let place = head.split(' ').nth(1).unwrap().to_owned();
            asked.lock().unwrap().push(place.clone());
            let mut server = tokio::net::TcpStream::connect(&place).await.unwrap();
            stream.write_all(b"HTTP/1.1 200 Connection established\r\n\r\n").await.unwrap();
            let _ = tokio::io::copy_bidirectional(&mut stream, &mut server).await;
        }
    })
    .await
}

#[tokio::test]
async fn a_proxy_is_asked_for_the_address_that_was_checked_and_tls_names_the_host() {
    let authority = Authority::new();
    let acceptor = authority.acceptor("localhost");
    let partner = Partner::start(move |stream, _| {
        let acceptor = acceptor.clone();
        async move {
            let Ok(mut stream) = acceptor.accept(stream).await else { return };
            while read_request(&mut stream).await.is_some() {
                stream.write_all(OK.as_bytes()).await.unwrap();
            }
        }
    })
    .await;
    let asked = Arc::default();
    let proxy = noting(Arc::clone(&asked)).await;
    let port = partner.address.port();
    let dialer = dialer_by(by("http", proxy.address, None, &["::1"]), vec![authority.pem()]);
    let channel = open(&format!("https://localhost:{port}/"), Credential::None, &dialer).unwrap();
    assert_eq!(answered(channel.send(&message(), soon()).await).status, 200);
    assert!(asked.lock().unwrap().contains(&format!("127.0.0.1:{port}")), "{asked:?}");
    // The proxy does not lift the guard: nobody asks it for an address that is refused.
    let before = asked.lock().unwrap().len();
    let channel = open("https://169.254.169.254/", Credential::None, &dialer).unwrap();
    assert_eq!(failed(channel.send(&message(), soon()).await).stage, Stage::Guard);
    assert_eq!(asked.lock().unwrap().len(), before);
}

#[tokio::test]
async fn other_channels_go_by_the_proxy_and_a_server_that_speaks_first_is_heard() {
    // A mail server greets before it is spoken to, in the same packet as the proxy's answer.
    let proxy = Partner::start(async |mut stream, _| {
        read_request(&mut stream).await.unwrap();
        stream.write_all(b"HTTP/1.0 200 OK\r\nvia: 1.1 x\r\n\r\n554 mail.example takes no mail\r\n").await.unwrap();
        let _ = stream.read_to_end(&mut Vec::new()).await;
    })
    .await;
    let url = "smtp://127.0.0.1:2525?to=clerk@court.example";
    let partner = document("email", url, json!({"tls": "none", "ack": {"by": "status"}}));
    let dialer = dialer_by(by("http", proxy.address, None, &[]), Vec::new());
    let channel = Channel::open(&partner, url, Credential::None, &dialer).unwrap();
    let receipt = format!("{:?}", channel.send(&message(), soon()).await);
    assert!(receipt.contains("takes no mail"), "{receipt}");
}

#[tokio::test]
async fn who_is_spared_is_dialled_without_the_proxy() {
    let partner = Partner::answering(OK).await;
    let proxy = Partner::answering("HTTP/1.1 500 No\r\n\r\n").await;
    for except in ["127.0.0.0/8", "127.0.0.1"] {
        let channel = webhook(&partner.url(), by("http", proxy.address, None, &[except]));
        assert_eq!(answered(channel.send(&message(), soon()).await).status, 200);
    }
    assert_eq!(proxy.connections(), 0);
}

#[tokio::test]
async fn proxies_that_refuse_hang_or_lie_cost_the_attempt_only() {
    let endless = format!("HTTP/1.1 200 OK\r\nx: {}", "x".repeat(10_000));
    for (scheme, said, words) in [
        ("http", b"HTTP/1.1 407 Proxy Authentication Required\r\n\r\n".to_vec(), "proxy_login"),
        ("http", b"HTTP/1.1 403 Forbidden\r\n\r\n".to_vec(), "does not let the hub connect"),
        ("http", b"HTTP/1.1 502 Bad Gateway\r\n\r\n".to_vec(), "status 502: Bad Gateway"),
        ("http", b"HTTP/1.1 100 Continue\r\n\r\n".to_vec(), "did not connect"),
        ("http", b"SSH-2.0-OpenSSH\r\n\r\n".to_vec(), "does not speak HTTP"),
        ("http", b"HTTP/1.1 2000 OK\r\n\r\n".to_vec(), "does not speak HTTP"),
        ("http", endless.into_bytes(), "over 8 KiB"),
        ("http", b"HTTP/1.1 200".to_vec(), "connection closed"),
        ("socks5", b"HTTP/1.1 400 Bad\r\n\r\n".to_vec(), "does not speak SOCKS5"),
        ("socks5", b"\x05\xFF".to_vec(), "wants a login"),
        ("socks5", b"\x05\x00\x05\x02\x00\x01\0\0\0\0\0\0".to_vec(), "does not let the hub"),
        ("socks5", b"\x05\x00\x05\x05\x00\x03\x02ab\0\0".to_vec(), "connection refused"),
        ("socks5", b"\x05\x00\x05\x00\x00\x09".to_vec(), "does not speak SOCKS5"),
    ] {
        let proxy = saying(said, Hold::Close).await;
        let channel = webhook("http://127.0.0.1:9/", by(scheme, proxy.address, None, &[]));
        let failure = failed(channel.send(&message(), soon()).await);
        assert!(failure.stage == Stage::Connect && failure.reason.contains(words), "{words}: {failure:?}");
    }
    for (scheme, said) in [("http", b"HTTP/1.1 200 OK\r\n".to_vec()), ("socks5", b"\x05\x00\x05".to_vec())] {
        let proxy = saying(said, Hold::Open).await;
        let channel = webhook("http://127.0.0.1:9/", by(scheme, proxy.address, None, &[]));
        let failure = failed(channel.send(&message(), Instant::now() + Duration::from_millis(300)).await);
        assert!(failure.stage == Stage::Connect && failure.reason.contains("timed out"), "{failure:?}");
    }
    let gone = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let failure = failed(webhook("http://127.0.0.1:9/", by("http", gone, None, &[])).send(&message(), soon()).await);
    assert!(failure.reason.contains(&format!("the proxy: connection refused by {gone}")), "{failure:?}");
}

#[derive(Clone, Copy, PartialEq)]
enum Hold {
    Open,
    Close,
}

/// A proxy that says this to whatever it is told first.
async fn saying(said: Vec<u8>, hold: Hold) -> Partner {
    Partner::start(move |mut stream, _| {
        let said = said.clone();
        async move {
            let _ = stream.read(&mut [0; 1024]).await;
            let _ = stream.write_all(&said).await;
            if hold == Hold::Open {
                let _ = stream.read_to_end(&mut Vec::new()).await;
            } else {
                let _ = stream.shutdown().await;
                let _ = stream.read_to_end(&mut Vec::new()).await;
            }
        }
    })
    .await
}
