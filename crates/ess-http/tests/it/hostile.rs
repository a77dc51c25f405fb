//! Clients that mean no good, or are broken: each costs a bounded time and little memory, and nobody else notices.

use std::time::{Duration, Instant};

use ess_http::ServerOptions;
use tokio::io::AsyncWriteExt;

use crate::support::{TestHub, event, read_reply, read_to_end, request};

fn hasty() -> ServerOptions {
    ServerOptions {
        head_timeout: Duration::from_millis(300),
        body_timeout: Duration::from_millis(300),
        idle_timeout: Duration::from_millis(600),
        ..ServerOptions::default()
    }
}

#[tokio::test]
async fn a_gigabyte_is_refused_before_it_is_sent() {
    let hub = TestHub::start().await;
    for (path, kind) in [
        ("/v1/events", "application/json"),
        ("/v1/events", "application/x-ndjson"),
        ("/v1/partners", "application/json"),
    ] {
        let mut line = hub.dial().await;
        let head = format!(
            "POST {path} HTTP/1.1\r\nhost: hub\r\nauthorization: Bearer {}\r\ncontent-type: {kind}\r\ncontent-length: 1073741824\r\n\r\n",
            hub.admin
        );
        line.write_all(head.as_bytes()).await.unwrap();
        let reply = read_reply(&mut line).await;
        reply.problem(413, "too_large");
        assert_eq!(reply.header("connection"), Some("close"));
        read_to_end(&mut line).await;
    }
    hub.finish().await;
}

#[tokio::test]
async fn whoever_goes_on_sending_a_refused_body_still_gets_the_answer() {
    let hub = TestHub::start().await;
    let mut line = hub.dial().await;
    let head = format!(
        "POST /v1/events HTTP/1.1\r\nhost: hub\r\nauthorization: Bearer {}\r\ncontent-length: 104857600\r\n\r\n",
        hub.admin
    );
    line.write_all(head.as_bytes()).await.unwrap();
    // More than any socket buffer holds: the server reads and drops for a while, or a reset would overtake the answer.
    let piece = vec![b'x'; 64 * 1024];
    for _ in 0..64 {
        line.write_all(&piece).await.unwrap();
    }
    read_reply(&mut line).await.problem(413, "too_large");
    // But not for ever.
    let started = Instant::now();
    assert!(read_to_end(&mut line).await.is_empty());
    assert!(started.elapsed() < Duration::from_secs(1), "the answer ends the connection's sending side");
    while line.write_all(&piece).await.is_ok() {
        assert!(started.elapsed() < Duration::from_secs(20), "it reads without end");
    }
    hub.finish().await;
}

#[tokio::test]
async fn chunks_without_end_stop_at_the_bound() {
    let hub = TestHub::start().await;
    let mut line = hub.dial().await;
    let head = format!(
        "POST /v1/tokens HTTP/1.1\r\nhost: hub\r\nauthorization: Bearer {}\r\ntransfer-encoding: chunked\r\n\r\n",
        hub.admin
    );
    line.write_all(head.as_bytes()).await.unwrap();
    let piece = format!("4000\r\n{}\r\n", "x".repeat(0x4000));
    for _ in 0..6 {
        line.write_all(piece.as_bytes()).await.unwrap();
    }
    read_reply(&mut line).await.problem(413, "too_large");
    hub.finish().await;
}

#[tokio::test]
async fn a_head_that_drips_is_answered_408_and_closed() {
    let hub = TestHub::with(hasty()).await;
    let mut line = hub.dial().await;
    let started = Instant::now();
    line.write_all(b"GET /healthz HTTP/1.1\r\nhost: h").await.unwrap();
    let drip = async {
        while line.write_all(b"u").await.is_ok() && started.elapsed() < Duration::from_secs(20) {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(1), drip).await.ok();
    let answer = String::from_utf8_lossy(&read_to_end(&mut line).await).into_owned();
    assert!(answer.starts_with("HTTP/1.1 408 ") && answer.contains("\"code\":\"request_timeout\""), "{answer}");
    hub.finish().await;
}

#[tokio::test]
async fn idle_connections_end_and_busy_ones_stay() {
    let hub = TestHub::with(hasty()).await;
    // Never a byte.
    let mut silent = hub.dial().await;
    assert!(read_to_end(&mut silent).await.is_empty());
    // Many requests, each within the idle time: longer in all than any timeout.
    let mut line = hub.dial().await;
    let started = Instant::now();
    while started.elapsed() < Duration::from_millis(1_500) {
        line.write_all(&request("", "GET", "/healthz", &[], b"")).await.unwrap();
        assert_eq!(read_reply(&mut line).await.status, 200);
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    // Then nothing more.
    assert!(read_to_end(&mut line).await.is_empty());
    hub.finish().await;
}

#[tokio::test]
async fn a_long_poll_outlives_the_idle_time() {
    let hub = TestHub::with(hasty()).await;
    let partner = r#"{"id": "GONE", "url": "http://127.0.0.1:9/", "retry": {"first": "1h"}}"#;
    assert_eq!(hub.ask("POST", "/v1/partners", partner).await.status, 201);
    assert_eq!(hub.ask("POST", "/v1/events", &event("A-V1")).await.status, 202);
    let started = Instant::now();
    let reply = hub.get("/v1/events/A-V1/status?wait=2s").await;
    assert!(reply.status == 200 && started.elapsed() >= Duration::from_secs(2), "{reply:?}");
    hub.finish().await;
}

#[tokio::test]
async fn a_body_that_stops_half_way_is_answered_408_and_closed() {
    let hub = TestHub::with(hasty()).await;
    let mut line = hub.dial().await;
    let body = event("A-V1");
    let mut bytes = request(&hub.admin, "POST", "/v1/events", &[], body.as_bytes());
    bytes.truncate(bytes.len() - 10);
    line.write_all(&bytes).await.unwrap();
    let reply = read_reply(&mut line).await;
    reply.problem(408, "request_timeout");
    assert_eq!(reply.header("connection"), Some("close"));
    read_to_end(&mut line).await;
    assert_eq!(hub.get("/v1/events").await.json()["items"].as_array().unwrap().len(), 0);
    hub.finish().await;
}

#[tokio::test]
async fn requests_in_one_packet_are_answered_in_order() {
    let hub = TestHub::start().await;
    let mut line = hub.dial().await;
    let mut bytes = Vec::new();
    for number in 1..=20 {
        bytes.extend(request(&hub.admin, "POST", "/v1/events", &[], event(&format!("P-V{number}")).as_bytes()));
    }
    line.write_all(&bytes).await.unwrap();
    for number in 1..=20 {
        let reply = read_reply(&mut line).await;
        assert_eq!((reply.status, &reply.json()["sequence"]), (202, &number.into()));
    }
    hub.finish().await;
}

#[tokio::test]
async fn an_answer_does_not_wait_for_the_rest_of_the_next_request() {
    let hub = TestHub::start().await;
    let mut line = hub.dial().await;
    let mut bytes = request("", "GET", "/healthz", &[], b"");
    bytes.extend_from_slice(b"GET /heal");
    line.write_all(&bytes).await.unwrap();
    assert_eq!(read_reply(&mut line).await.status, 200);
    hub.finish().await;
}

#[tokio::test]
async fn what_is_no_http_is_refused() {
    let hub = TestHub::start().await;
    for nonsense in [&b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"[..], b"hello\r\n\r\n", b"GET / HTTP/9.9\r\n\r\n"]
    {
        let mut line = hub.dial().await;
        line.write_all(nonsense).await.unwrap();
        line.shutdown().await.unwrap();
        read_to_end(&mut line).await;
    }
    let mut line = hub.dial().await;
    let head = format!("GET /healthz HTTP/1.1\r\nhost: hub\r\nx: {}\r\n\r\n", "x".repeat(100_000));
    // The server may close while this is being written.
    drop(line.write_all(head.as_bytes()).await);
    let answer = String::from_utf8_lossy(&read_to_end(&mut line).await).into_owned();
    assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 431 "), "{answer}");
    // A smuggler's pair of lengths.
    let mut line = hub.dial().await;
    line.write_all(b"POST /v1/events HTTP/1.1\r\nhost: h\r\ncontent-length: 3\r\ncontent-length: 5\r\n\r\nabcde")
        .await
        .unwrap();
    let answer = String::from_utf8_lossy(&read_to_end(&mut line).await).into_owned();
    assert!(answer.starts_with("HTTP/1.1 400 "), "{answer}");
    assert_eq!(hub.get("/healthz").await.status, 200);
    hub.finish().await;
}

#[tokio::test]
async fn places_are_bounded_and_free_again() {
    let options = ServerOptions { connections_max: 8, connections_per_peer_max: 8, ..ServerOptions::default() };
    let hub = TestHub::with(options).await;
    let mut lines = Vec::new();
    for _ in 0..8 {
        let mut line = hub.dial().await;
        line.write_all(&request("", "GET", "/healthz", &[], b"")).await.unwrap();
        assert_eq!(read_reply(&mut line).await.status, 200);
        lines.push(line);
    }
    let mut ninth = hub.dial().await;
    let answer = String::from_utf8_lossy(&read_to_end(&mut ninth).await).into_owned();
    assert!(answer.starts_with("HTTP/1.1 503 "), "{answer}");
    drop(lines);
    let deadline = Instant::now() + crate::support::PATIENCE;
    loop {
        let mut line = hub.dial().await;
        drop(line.write_all(&request("", "GET", "/healthz", &[], b"")).await);
        if String::from_utf8_lossy(&read_some(&mut line).await).starts_with("HTTP/1.1 200 ") {
            break;
        }
        assert!(Instant::now() < deadline, "no place became free");
        tokio::task::yield_now().await;
    }
    hub.finish().await;
}

async fn read_some(line: &mut tokio::net::TcpStream) -> Vec<u8> {
    use tokio::io::AsyncReadExt;
    let mut bytes = vec![0u8; 1024];
    let read = tokio::time::timeout(crate::support::PATIENCE, line.read(&mut bytes)).await.unwrap().unwrap_or(0);
    bytes.truncate(read);
    bytes
}

/// Both ends are in this process, so two descriptors each; as many as the machine's limit allows, up to ten thousand.
#[tokio::test]
async fn thousands_of_idle_connections_cost_little_and_disturb_nobody() {
    let hub = TestHub::start().await;
    let allowed = open_files_max().saturating_sub(256) / 2;
    let count = allowed.min(10_000);
    let before = resident_bytes();
    let mut lines = Vec::with_capacity(count);
    for _ in 0..count {
        lines.push(hub.dial().await);
    }
    let started = Instant::now();
    for number in 1..=50 {
        assert_eq!(hub.ask("POST", "/v1/events", &event(&format!("A-V{number}"))).await.status, 202);
    }
    assert!(started.elapsed() < Duration::from_secs(10), "{:?}", started.elapsed());
    let each = resident_bytes().saturating_sub(before) / count.max(1);
    assert!(count < 1_000 || each < 8 * 1024, "{count} idle connections cost {each} bytes each");
    drop(lines);
    hub.finish().await;
}

fn open_files_max() -> usize {
    let limits = std::fs::read_to_string("/proc/self/limits").unwrap();
    let line = limits.lines().find(|line| line.starts_with("Max open files")).unwrap();
    line.split_whitespace().nth(3).unwrap().parse().unwrap_or(1 << 20)
}

fn resident_bytes() -> usize {
    let text = std::fs::read_to_string("/proc/self/statm").unwrap();
    text.split(' ').nth(1).unwrap().parse::<usize>().unwrap() * 4096
}
