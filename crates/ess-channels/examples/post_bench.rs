//! What one POST costs: bare hyper with connection tasks beside our channel, against the same cheap partner.
//!
//! `cargo run -p ess-channels --release --example post_bench [POSTS] [IN_FLIGHT] [THREADS]`. The partner runs as a
//! second process of this program, so that the CPU time printed is the sender's alone.

#![allow(clippy::print_stdout, clippy::unwrap_used)]

use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use ess_channels::{Channel, Credential, Dialer, DialerOptions};
use ess_core::id::{Digest, EventId, Subject, Version};
use ess_core::message::Message;
use ess_core::partner::{AllowDir, AllowNet, Partner};
use ess_core::receipt::Receipt;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request};
use http_body_util::{BodyExt, Full};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

const ANSWER: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 32\r\n\r\n\
    {\"ack\":\"RULE-COURT-DEADLINE-V3\"}";

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if arguments.first().is_some_and(|word| word == "partner") {
        return runtime(1).block_on(serve());
    }
    let number = |position: usize, default: usize| {
        arguments.get(position).map_or(default, |text| text.parse().expect("a number"))
    };
    let (posts, in_flight, threads) = (number(0, 200_000), number(1, 64), number(2, 1));
    let (mut partner, address) = start_partner();
    println!("{posts} posts of 512 bytes, {in_flight} in flight, {threads} sender thread(s)");
    for _ in 0..3 {
        run("bare hyper ", posts, threads, bare(address, posts, in_flight));
        run("our channel", posts, threads, ours(address, posts, in_flight));
    }
    for _ in 0..3 {
        run("bare hyper, 1,000 cold connections ", 1000, threads, bare(address, 1000, 1000));
        run("our channel, 1,000 cold connections", 1000, threads, cold(address));
    }
    partner.kill().unwrap();
    partner.wait().unwrap();
}

fn run(name: &str, posts: usize, threads: usize, work: impl Future<Output = ()>) {
    let runtime = runtime(threads);
    let (cpu, began) = (cpu_time(), Instant::now());
    runtime.block_on(work);
    let (cpu, took) = (cpu_time() - cpu, began.elapsed());
    println!(
        "{name}: {:>8.0} posts/s, {:>6.2} us cpu per post, {:>8.1} ms in all",
        posts as f64 / took.as_secs_f64(),
        cpu.as_secs_f64() * 1e6 / posts as f64,
        took.as_secs_f64() * 1e3,
    );
}

/// Bare hyper as it is commonly used: a task per connection, a prepared header map cloned for each request.
async fn bare(address: SocketAddr, posts: usize, in_flight: usize) {
    let left = Arc::new(AtomicUsize::new(posts));
    let mut tasks = tokio::task::JoinSet::new();
    for _ in 0..in_flight {
        let left = Arc::clone(&left);
        tasks.spawn(async move {
            let stream = TcpStream::connect(address).await.unwrap();
            stream.set_nodelay(true).unwrap();
            let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.unwrap();
            tokio::spawn(connection);
            let message = message();
            let mut headers = HeaderMap::new();
            headers.insert("host", HeaderValue::from_str(&address.to_string()).unwrap());
            headers.insert("user-agent", HeaderValue::from_static("hms-ess/bench"));
            headers.insert("accept-encoding", HeaderValue::from_static("identity"));
            headers.insert("content-type", HeaderValue::from_str(&message.content_type).unwrap());
            for (name, value) in &message.headers {
                let name: HeaderName = name.parse().unwrap();
                headers.insert(name, HeaderValue::from_str(value).unwrap());
            }
            while take(&left) {
                let mut request = Request::new(Full::new(message.body.clone()));
                *request.method_mut() = Method::POST;
                *request.uri_mut() = "/hook".parse().unwrap();
                *request.headers_mut() = headers.clone();
                sender.ready().await.unwrap();
                let answer = sender.send_request(request).await.unwrap();
                assert_eq!(answer.status(), 200);
                answer.into_body().collect().await.unwrap();
            }
        });
    }
    while let Some(done) = tasks.join_next().await {
        done.unwrap();
    }
}

async fn ours(address: SocketAddr, posts: usize, in_flight: usize) {
    let channel = Arc::new(open(&dialer(), address, in_flight));
    let left = Arc::new(AtomicUsize::new(posts));
    let mut tasks = tokio::task::JoinSet::new();
    for _ in 0..in_flight {
        let (left, channel) = (Arc::clone(&left), Arc::clone(&channel));
        tasks.spawn(async move {
            let message = message();
            while take(&left) {
                post(&channel, &message).await;
            }
        });
    }
    while let Some(done) = tasks.join_next().await {
        done.unwrap();
    }
}

/// One event for 1,000 partners, each with a channel that has no connection yet.
async fn cold(address: SocketAddr) {
    let dialer = dialer();
    let message = Arc::new(message());
    let mut tasks = tokio::task::JoinSet::new();
    for _ in 0..1000 {
        let channel = open(&dialer, address, 16);
        let message = Arc::clone(&message);
        tasks.spawn(async move { post(&channel, &message).await });
    }
    while let Some(done) = tasks.join_next().await {
        done.unwrap();
    }
}

async fn post(channel: &Channel, message: &Message) {
    let deadline = tokio::time::Instant::now() + Duration::from_secs(30);
    match channel.send(message, deadline).await {
        Receipt::Answer(answer) => assert_eq!(answer.status, 200),
        other => panic!("{other:?}"),
    }
}

fn take(left: &AtomicUsize) -> bool {
    left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1)).is_ok()
}

fn dialer() -> Dialer {
    Dialer::new(DialerOptions {
        allow: AllowNet(vec!["127.0.0.0/8".parse().unwrap()]),
        extra_roots_pem: Vec::new(),
        system_roots: false,
        user_agent: "hms-ess/bench".to_owned(),
        allow_dir: AllowDir::default(),
        proxy: None,
    })
    .unwrap()
}

fn open(dialer: &Dialer, address: SocketAddr, in_flight: usize) -> Channel {
    let url = format!("http://{address}/hook");
    let document = serde_json::json!({"id": "P", "url": url, "limits": {"in_flight": in_flight}});
    Channel::open(&Partner::from_json(&document).unwrap(), &url, Credential::None, dialer).unwrap()
}

/// A message with the fields of a real one.
fn message() -> Message {
    let header = |name: &str, value: &str| (name.to_owned(), value.to_owned());
    Message {
        id: "msg_01933c5e7a8b7c4d9e0f112233445566".to_owned(),
        event_id: EventId::trusted("RULE-COURT-DEADLINE-V3"),
        subject: Subject::trusted("RULE-COURT-DEADLINE"),
        version: Version(3),
        extension: "json",
        content_type: "application/json".to_owned(),
        headers: vec![
            header("webhook-id", "msg_01933c5e7a8b7c4d9e0f112233445566"),
            header("webhook-timestamp", "1732374000"),
            header(
                "webhook-signature",
                "v1,K5oZfzN95Z9UVu1EsfQmfVNQhnkZ2pj9o9NDN/H/pI4= v1a,hnO3f9T8Ytu9HwrXslvumlUpqtNVqkhqw/enGzPCXe5BdqzCInXqYXFymVJaA7AZdpXwVLPo3mNl8EM+m7TBAg==",
            ),
            header("x-hms-event-id", "RULE-COURT-DEADLINE-V3"),
            header("x-hms-sequence", "123456"),
            header("x-hms-partner-seq", "1234"),
            header("x-hms-attempt", "1"),
        ],
        body: Bytes::from(vec![b'x'; 512]),
        body_digest: Digest([0; 32]),
        test: false,
        replay: false,
        partner_seq: Some(1),
        attempt: 1,
    }
}

/// User and system time of this process, by clock ticks of 10 ms.
fn cpu_time() -> Duration {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap();
    let fields: Vec<&str> = stat.rsplit_once(')').unwrap().1.split_whitespace().collect();
    let ticks: u64 = fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap();
    Duration::from_millis(ticks * 10)
}

fn start_partner() -> (Child, SocketAddr) {
    let program = std::env::current_exe().unwrap();
    let mut child = Command::new(program).arg("partner").stdout(Stdio::piped()).spawn().unwrap();
    let mut line = String::new();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
    (child, line.trim().parse().unwrap())
}

/// The partner: reads to the end of each request by its stated length and answers a constant.
async fn serve() {
    let socket = tokio::net::TcpSocket::new_v4().unwrap();
    socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let listener: TcpListener = socket.listen(4096).unwrap();
    println!("{}", listener.local_addr().unwrap());
    while let Ok((stream, _)) = listener.accept().await {
        stream.set_nodelay(true).unwrap();
        tokio::spawn(answer(stream));
    }
}

async fn answer(mut stream: TcpStream) {
    let mut buffer = vec![0; 16 * 1024];
    let mut filled = 0;
    loop {
        match stream.read(&mut buffer[filled..]).await {
            Ok(read) if read > 0 => filled += read,
            _ => return,
        }
        let Some(head) = buffer[..filled].windows(4).position(|four| four == b"\r\n\r\n") else {
            continue;
        };
        if filled < head + 4 + 512 {
            continue;
        }
        filled = 0;
        if stream.write_all(ANSWER).await.is_err() {
            return;
        }
    }
}

fn runtime(threads: usize) -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(threads).enable_all().build().unwrap()
}
