//! A partner for tests: a TCP server on a free loopback port that counts and answers by script.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use ess_channels::{Channel, ChannelError, Credential, Dialer, DialerOptions, ProxyOptions};
use ess_core::id::{Digest, EventId, Subject, Version};
use ess_core::message::Message;
use ess_core::partner::{AllowDir, AllowNet, Partner as Document};
use ess_core::receipt::{Answer, Failure, Receipt};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio::time::Instant;

/// A request as it came in.
#[derive(Debug, Clone)]
pub(crate) struct Request {
    /// Request line and fields.
    pub(crate) head: String,
    /// Body.
    pub(crate) body: Vec<u8>,
}

/// A listening partner; it ends when dropped.
pub(crate) struct Partner {
    pub(crate) address: SocketAddr,
    connections: Arc<AtomicUsize>,
    _tasks: JoinSet<()>,
}

impl Partner {
    /// Serves each connection with `serve`, which also gets the connection's number from 0.
    pub(crate) async fn start<F, Fut>(serve: F) -> Partner
    where
        F: Fn(TcpStream, usize) -> Fut + Send + 'static,
        Fut: Future<Output = ()> + Send + 'static,
    {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let connections = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&connections);
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            let mut open = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                let number = counted.fetch_add(1, Ordering::SeqCst);
                open.spawn(serve(stream, number));
            }
        });
        Partner { address, connections, _tasks: tasks }
    }

    /// Gives the same bytes for each request, as long as the connection lasts.
    pub(crate) async fn answering(answer: &str) -> Partner {
        let answer = Bytes::copy_from_slice(answer.as_bytes());
        Partner::start(move |mut stream, _| {
            let answer = answer.clone();
            async move {
                while read_request(&mut stream).await.is_some() {
                    if stream.write_all(&answer).await.is_err() {
                        break;
                    }
                }
            }
        })
        .await
    }

    /// Answers with the head of each request.
    pub(crate) async fn echoing() -> Partner {
        Partner::start(async |mut stream, _| {
            while let Some(Request { head, .. }) = read_request(&mut stream).await {
                let answer = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{head}", head.len());
                stream.write_all(answer.as_bytes()).await.unwrap();
            }
        })
        .await
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}/hook", self.address)
    }

    /// Connections accepted so far.
    pub(crate) fn connections(&self) -> usize {
        self.connections.load(Ordering::SeqCst)
    }
}

/// Reads one whole request; `None` when the other side has closed.
pub(crate) async fn read_request(stream: &mut (impl AsyncRead + Unpin)) -> Option<Request> {
    let mut bytes = Vec::new();
    let mut buffer = [0; 4096];
    loop {
        if let Some(end) = bytes.windows(4).position(|four| four == b"\r\n\r\n") {
            let head = String::from_utf8(bytes[..end].to_vec()).unwrap();
            let length: usize = head
                .lines()
                .find_map(|line| line.to_lowercase().strip_prefix("content-length:").map(|n| n.trim().parse().unwrap()))
                .unwrap_or(0);
            let mut body = bytes[end + 4..].to_vec();
            while body.len() < length {
                let read = stream.read(&mut buffer).await.ok().filter(|read| *read > 0)?;
                body.extend_from_slice(&buffer[..read]);
            }
            return Some(Request { head, body });
        }
        let read = stream.read(&mut buffer).await.ok().filter(|read| *read > 0)?;
        bytes.extend_from_slice(&buffer[..read]);
    }
}

/// A dialer that may reach `allow` and trusts `roots`.
pub(crate) fn dialer(allow: &[&str], roots: Vec<Vec<u8>>) -> Dialer {
    Dialer::new(options(allow, roots, AllowDir::default())).unwrap()
}

/// A dialer whose way out is this proxy.
pub(crate) fn dialer_by(proxy: ProxyOptions, roots: Vec<Vec<u8>>) -> Dialer {
    let roots = if roots.is_empty() { vec![own_root()] } else { roots };
    let options = options(&["127.0.0.0/8", "::1/128"], roots, AllowDir::default());
    Dialer::new(DialerOptions { proxy: Some(proxy), ..options }).unwrap()
}

/// A dialer that may write into `dir`.
pub(crate) fn dialer_with_dir(dir: &Path) -> Dialer {
    dialer_with_dirs(&[dir])
}

/// A dialer that may write into these.
pub(crate) fn dialer_with_dirs(dirs: &[&Path]) -> Dialer {
    let allowed = AllowDir(dirs.iter().map(|dir| (*dir).to_owned()).collect());
    Dialer::new(options(&["127.0.0.0/8"], vec![own_root()], allowed)).unwrap()
}

/// A certificate that nothing is signed with: a dialer must trust somebody.
pub(crate) fn own_root() -> Vec<u8> {
    rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap().cert.pem().into_bytes()
}

fn options(allow: &[&str], roots: Vec<Vec<u8>>, allow_dir: AllowDir) -> DialerOptions {
    DialerOptions {
        allow: AllowNet(allow.iter().map(|net| net.parse().unwrap()).collect()),
        allow_dir,
        extra_roots_pem: roots,
        system_roots: false,
        user_agent: "hms-ess/test".to_owned(),
        proxy: None,
    }
}

/// A partner of this channel, with more fields.
pub(crate) fn document(channel: &str, url: &str, more: serde_json::Value) -> Document {
    let mut document = serde_json::json!({"id": "P", "channel": channel, "url": url});
    document.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    Document::from_json(&document).unwrap()
}

/// A channel that may dial loopback.
pub(crate) fn channel(url: &str, credential: Credential) -> Channel {
    let dialer = dialer(&["127.0.0.0/8"], Vec::new());
    open(url, credential, &dialer).unwrap()
}

/// A webhook's channel.
pub(crate) fn open(url: &str, credential: Credential, dialer: &Dialer) -> Result<Channel, ChannelError> {
    // The document's own check of the address is the core's; here the channel's is tried.
    let partner = document("webhook", "https://partner.example/hook", serde_json::json!({}));
    Channel::open(&partner, url, credential, dialer)
}

/// A small message.
pub(crate) fn message() -> Message {
    Message {
        id: "msg_1".to_owned(),
        event_id: EventId::trusted("RULE-1-V3"),
        subject: Subject::trusted("RULE-1"),
        version: Version(3),
        extension: "json",
        content_type: "application/json".to_owned(),
        headers: vec![("webhook-id".to_owned(), "msg_1".to_owned())],
        body: Bytes::from_static(b"{\"id\":\"RULE-1-V3\"}"),
        body_digest: Digest([0; 32]),
        test: false,
        replay: false,
        partner_seq: Some(1),
        attempt: 1,
    }
}

/// A deadline that no passing test comes near.
pub(crate) fn soon() -> Instant {
    Instant::now() + Duration::from_secs(20)
}

#[track_caller]
pub(crate) fn answered(receipt: Receipt) -> Answer {
    match receipt {
        Receipt::Answer(answer) => answer,
        other => panic!("no answer: {other:?}"),
    }
}

#[track_caller]
pub(crate) fn failed(receipt: Receipt) -> Failure {
    match receipt {
        Receipt::Failed(failure) => failure,
        other => panic!("no failure: {other:?}"),
    }
}
