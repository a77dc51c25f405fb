//! A hub that listens on a free port, and a client that says exactly what a test wants, right or wrong.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use ess_channels::{Dialer, DialerOptions};
use ess_core::access::{Principal, Role};
use ess_core::partner::{AllowDir, AllowNet};
use ess_core::retention::Keep;
use ess_http::{ServerError, ServerOptions};
use ess_hub::scripts::{Scripts, ScriptsOptions, worker_main};
use ess_hub::{Hub, HubOptions, NotaryOptions, RetentionOptions};
use serde_json::Value;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;

/// Nothing in a test takes longer on a busy machine.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

const AS_WORKER: &str = "as-the-evaluation-process";

/// Not a test but the evaluation process: this binary starts itself with these arguments.
#[test]
fn evaluation_process() {
    if std::env::args().any(|argument| argument == AS_WORKER) {
        std::process::exit(i32::from(worker_main() != std::process::ExitCode::SUCCESS));
    }
}

pub(crate) struct TestHub {
    pub(crate) hub: Hub,
    pub(crate) address: SocketAddr,
    pub(crate) admin: String,
    stop: watch::Sender<bool>,
    server: JoinHandle<Result<(), ServerError>>,
    _dir: tempfile::TempDir,
}

impl TestHub {
    pub(crate) async fn start() -> Self {
        Self::with(ServerOptions::default()).await
    }

    pub(crate) async fn with(options: ServerOptions) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let hub = open(dir.path()).await;
        let first = Principal { token_id: "test".to_owned(), role: Role::Admin, expires_at: None };
        let (admin, _) = hub.create_token(Role::Admin, String::new(), None, None, &first).await.unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (stop, mut stopped) = watch::channel(false);
        let shutdown = async move { drop(stopped.wait_for(|stop| *stop).await) };
        let server = tokio::spawn(ess_http::serve(listener, None, hub.clone(), options, shutdown));
        Self { hub, address, admin, stop, server, _dir: dir }
    }

    /// Asks the server to stop; nothing is waited for.
    pub(crate) fn stop(&self) {
        self.stop.send_replace(true);
    }

    /// Stops and proves that every connection's task ended.
    pub(crate) async fn finish(self) {
        self.stop();
        tokio::time::timeout(PATIENCE, self.server).await.unwrap().unwrap().unwrap();
        self.hub.stop(Duration::from_secs(1)).await;
    }

    /// A token of a role, made over the API.
    pub(crate) async fn token(&self, document: &str) -> String {
        let reply = self.ask("POST", "/v1/tokens", document).await;
        assert_eq!(reply.status, 201, "{}", reply.text());
        reply.json()["token"].as_str().unwrap().to_owned()
    }

    /// A request of the admin's.
    pub(crate) async fn ask(&self, method: &str, path: &str, body: &str) -> Reply {
        self.ask_as(&self.admin, method, path, &[], body.as_bytes()).await
    }

    pub(crate) async fn get(&self, path: &str) -> Reply {
        self.ask("GET", path, "").await
    }

    /// A request with a token (none when empty) and more header lines.
    pub(crate) async fn ask_as(&self, token: &str, method: &str, path: &str, headers: &[&str], body: &[u8]) -> Reply {
        let mut line = self.dial().await;
        line.write_all(&request(token, method, path, headers, body)).await.unwrap();
        read_reply(&mut line).await
    }

    pub(crate) async fn dial(&self) -> TcpStream {
        TcpStream::connect(self.address).await.unwrap()
    }
}

async fn open(dir: &std::path::Path) -> Hub {
    let store =
        ess_store::Options { outcome_window: Duration::from_millis(2), ..ess_store::Options::embedded(dir.to_owned()) };
    let opened = ess_store::Store::open(&store).unwrap();
    let dialer = Dialer::new(DialerOptions {
        allow: AllowNet(vec!["127.0.0.0/8".parse().unwrap()]),
        allow_dir: AllowDir::default(),
        extra_roots_pem: Vec::new(),
        system_roots: true,
        user_agent: "hms-ess/test".to_owned(),
        proxy: None,
    });
    let args = ["--exact", "support::evaluation_process", AS_WORKER, "--nocapture"].map(str::to_owned).to_vec();
    let scripts = Scripts::start(ScriptsOptions::of_program(std::env::current_exe().unwrap(), args));
    let find_secret: ess_hub::FindSecret = Arc::new(|_| Err("there are no secrets in tests".to_owned()));
    let dir = dir.to_owned();
    let notary = NotaryOptions { every: Duration::from_secs(3_600), places: Vec::new() };
    let span = Duration::from_secs(86_400);
    let keep = Keep { events: span, tests: span, attempts: span, audit: span };
    let retention = RetentionOptions { keep, every: span };
    let (dialer, escalation) = (dialer.unwrap(), ess_hub::EscalationOptions::default());
    let options = HubOptions {
        traces: None,
        node: ess_hub::NodeOptions::default(),
        opened,
        dir,
        dialer,
        public_url: "https://hub.example".to_owned(),
        scripts,
        find_secret,
        free_bytes_min: 0,
        notary,
        retention,
        escalation,
    };
    Hub::start(options).await.unwrap()
}

/// A whole request; JSON unless a header line says otherwise.
pub(crate) fn request(token: &str, method: &str, path: &str, headers: &[&str], body: &[u8]) -> Vec<u8> {
    let mut text = format!("{method} {path} HTTP/1.1\r\nhost: hub\r\ncontent-length: {}\r\n", body.len());
    if !token.is_empty() {
        text.push_str(&format!("authorization: Bearer {token}\r\n"));
    }
    if !headers.iter().any(|line| line.to_ascii_lowercase().starts_with("content-type:")) {
        text.push_str("content-type: application/json\r\n");
    }
    for line in headers {
        text.push_str(&format!("{line}\r\n"));
    }
    text.push_str("\r\n");
    let mut bytes = text.into_bytes();
    bytes.extend_from_slice(body);
    bytes
}

#[derive(Debug)]
pub(crate) struct Reply {
    pub(crate) status: u16,
    head: String,
    pub(crate) body: Vec<u8>,
}

impl Reply {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        let mut fields = self.head.lines().filter_map(|line| line.split_once(": "));
        fields.find(|(known, _)| known.eq_ignore_ascii_case(name)).map(|(_, value)| value)
    }

    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    #[track_caller]
    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error}: {}", self.text()))
    }

    /// Proves that it is a whole problem document of this code.
    #[track_caller]
    pub(crate) fn problem(&self, status: u16, code: &str) -> Value {
        assert_eq!(self.status, status, "{}", self.text());
        assert_eq!(self.header("content-type"), Some("application/problem+json"));
        let problem = self.json();
        assert_eq!(problem["code"], code, "{problem}");
        assert_eq!(problem["status"], status);
        assert_eq!(problem["request_id"].as_str(), self.header("x-request-id"));
        problem
    }
}

/// Reads one answer; the connection may go on.
pub(crate) async fn read_reply<S: AsyncRead + AsyncWrite + Unpin>(line: &mut S) -> Reply {
    let reading = async {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(line.read_u8().await.unwrap_or_else(|error| {
                panic!("the answer's head ended early ({error}): {}", String::from_utf8_lossy(&head))
            }));
        }
        let head = String::from_utf8(head).unwrap();
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        let mut reply = Reply { status, head, body: Vec::new() };
        let length = reply.header("content-length").map_or(0, |length| length.parse().unwrap());
        reply.body.resize(length, 0);
        line.read_exact(&mut reply.body).await.unwrap();
        reply
    };
    tokio::time::timeout(PATIENCE, reading).await.expect("an answer in time")
}

/// Waits until the peer closed; what came before that.
pub(crate) async fn read_to_end<S: AsyncRead + Unpin>(line: &mut S) -> Vec<u8> {
    let mut all = Vec::new();
    let read = tokio::time::timeout(PATIENCE, line.read_to_end(&mut all)).await.expect("an end in time");
    // A reset is an end as well.
    drop(read);
    all
}

/// A small event.
pub(crate) fn event(id: &str) -> String {
    format!(r#"{{"id": "{id}", "version": 3, "payload": {{"deadline": "16:00"}}}}"#)
}
