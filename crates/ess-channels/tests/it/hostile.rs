//! Partners that do harm: each costs its own attempt a bounded time and a bounded memory, and nothing else.

use std::time::Duration;

use ess_channels::Credential;
use ess_core::receipt::{Failure, Receipt, Stage};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::Instant;

use crate::partner::{Partner, answered, channel, failed, message, read_request, soon};

const BODY_BYTES_MAX: usize = 64 * 1024;

/// Sends once under a short deadline and holds the attempt to it.
async fn send_within(partner: &Partner, span: Duration) -> Receipt {
    let began = Instant::now();
    let receipt = channel(&partner.url(), Credential::None).send(&message(), began + span).await;
    // Generous, as the machine may be busy; an attempt without a deadline would take for ever.
    assert!(began.elapsed() < span + Duration::from_secs(5), "{:?}", began.elapsed());
    if let Receipt::Answer(answer) = &receipt {
        assert!(answer.body.len() <= BODY_BYTES_MAX);
    }
    receipt
}

/// Sends once with time enough: the channel itself must end the attempt.
async fn send(partner: &Partner) -> Receipt {
    let receipt = send_within(partner, Duration::from_secs(20)).await;
    if let Receipt::Failed(failure) = &receipt {
        assert!(!failure.reason.contains("timed out"), "{failure:?}");
    }
    receipt
}

/// Answers each request with `beginning`, then with `more` again and again.
async fn flooding(beginning: &'static str, more: &'static [u8]) -> Partner {
    Partner::start(move |mut stream, _| async move {
        read_request(&mut stream).await;
        if stream.write_all(beginning.as_bytes()).await.is_ok() {
            while stream.write_all(more).await.is_ok() {}
        }
    })
    .await
}

/// Answers with `beginning`, then one byte of `more` every few milliseconds, without end.
async fn dripping(beginning: &'static str, more: &'static str) -> Partner {
    Partner::start(move |mut stream, _| async move {
        read_request(&mut stream).await;
        stream.write_all(beginning.as_bytes()).await.unwrap();
        let mut beat = tokio::time::interval(Duration::from_millis(5));
        for byte in more.bytes().cycle() {
            beat.tick().await;
            if stream.write_all(&[byte]).await.is_err() {
                return;
            }
        }
    })
    .await
}

/// Answers with `beginning` and says nothing more.
async fn falling_silent(beginning: &'static str) -> Partner {
    Partner::start(move |mut stream, _| async move {
        read_request(&mut stream).await;
        stream.write_all(beginning.as_bytes()).await.unwrap();
        read_request(&mut stream).await;
    })
    .await
}

fn failure(stage: Stage, reason: &str) -> Failure {
    Failure { stage, reason: reason.to_owned() }
}

#[tokio::test]
async fn a_drip_ends_with_the_deadline() {
    let span = Duration::from_millis(300);
    for (beginning, more, stage, doing) in [
        ("HTTP/1.1 200 OK\r\ncontent-length: 100000\r\n\r\n", "x", Stage::Read, "reading the answer"),
        ("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n", "1\r\nx\r\n", Stage::Read, "reading the answer"),
        ("HTTP/1.1 200 OK\r\n\r\n", "x", Stage::Read, "reading the answer"),
        ("HTTP/1.1 200 OK\r\nx: ", "x", Stage::Await, "waiting for the answer"),
    ] {
        let partner = dripping(beginning, more).await;
        // The clock of the attempt starts a little after the deadline was set: 299 or 300 ms.
        let found = failed(send_within(&partner, span).await);
        assert_eq!(found.stage, stage, "{beginning}");
        assert!(found.reason.starts_with("timed out after ") && found.reason.ends_with(doing), "{found:?}");
    }
}

#[tokio::test]
async fn silence_ends_with_the_deadline() {
    let span = Duration::from_millis(200);
    for (beginning, stage) in [
        ("", Stage::Await),
        ("HTTP/1.1 20", Stage::Await),
        ("HTTP/1.1 100 Continue\r\n\r\n", Stage::Await),
        ("HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nabcd", Stage::Read),
    ] {
        let partner = falling_silent(beginning).await;
        assert_eq!(failed(send_within(&partner, span).await).stage, stage, "{beginning}");
    }
}

#[tokio::test]
async fn a_partner_that_does_not_read_is_left_at_the_deadline() {
    let partner = Partner::start(async |mut stream, _| {
        let mut byte = [0];
        stream.read_exact(&mut byte).await.unwrap();
        std::future::pending::<()>().await;
    })
    .await;
    let mut message = message();
    message.body = vec![b'x'; 32 << 20].into();
    let channel = channel(&partner.url(), Credential::None);
    let failure_seen = failed(channel.send(&message, Instant::now() + Duration::from_millis(300)).await);
    assert_eq!(failure_seen, failure(Stage::Send, "timed out after 300ms while sending"));
}

#[tokio::test]
async fn of_a_flood_64_kib_are_read() {
    static ZEROS: [u8; 8192] = [b'0'; 8192];
    for beginning in [
        "HTTP/1.1 200 OK\r\n\r\n",
        "HTTP/1.1 200 OK\r\ncontent-length: 1073741824\r\n\r\n",
        "HTTP/1.1 200 OK\r\ncontent-length: 18446744073709551615\r\n\r\n",
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nffffffffffff\r\n",
        "HTTP/1.0 500 No\r\nconnection: keep-alive\r\n\r\n",
    ] {
        let partner = flooding(beginning, &ZEROS).await;
        let answer = answered(send(&partner).await);
        assert_eq!(answer.body.len(), BODY_BYTES_MAX, "{beginning}");
        assert!(answer.body.iter().all(|byte| *byte == b'0'));
    }
}

#[tokio::test]
async fn of_a_flood_of_tiny_chunks_little_is_read() {
    let partner =
        flooding("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n", b"1;ext=aaaaaaaaaaaaaaaaaaaaaaaaaa\r\nx\r\n")
            .await;
    let answer = answered(send(&partner).await);
    assert!((1..BODY_BYTES_MAX).contains(&answer.body.len()), "{}", answer.body.len());
}

#[tokio::test]
async fn endless_trailers_and_extensions_end_the_answer() {
    for (beginning, more) in [
        ("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n0\r\n", b"x: y\r\n".as_slice()),
        ("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n1;", b"aaaaaaaa".as_slice()),
    ] {
        let partner = flooding(beginning, more).await;
        assert_eq!(answered(send(&partner).await).body.len(), 0, "{beginning}");
    }
}

#[tokio::test]
async fn a_gzip_bomb_stays_shut() {
    let body = "\x1f".repeat(1000);
    let text = format!("HTTP/1.1 200 OK\r\ncontent-encoding: gzip\r\ncontent-length: 1000\r\n\r\n{body}");
    let partner = Partner::answering(&text).await;
    assert_eq!(answered(send(&partner).await).body, body.as_bytes());
}

#[tokio::test]
async fn a_few_interim_answers_are_passed_over() {
    let partner = Partner::answering(
        "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nlink: </x>\r\n\r\nHTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok",
    )
    .await;
    let answer = answered(send(&partner).await);
    assert_eq!((answer.status, &answer.body[..]), (200, &b"ok"[..]));
}

#[tokio::test]
async fn a_storm_of_interim_answers_ends_the_attempt() {
    let partner = flooding("", b"HTTP/1.1 100 Continue\r\n\r\n").await;
    assert_eq!(failed(send(&partner).await), failure(Stage::Await, "the answer's head is over 32 KiB"));
}

#[tokio::test]
async fn endless_header_fields_end_the_attempt() {
    for (beginning, more) in [
        ("HTTP/1.1 200 OK\r\n", b"x: y\r\n".as_slice()),
        ("HTTP/1.1 200 OK\r\nx: ", b"y".as_slice()),
        ("HTTP/1.1 200 ", b"y".as_slice()),
    ] {
        let partner = flooding(beginning, more).await;
        assert_eq!(failed(send(&partner).await), failure(Stage::Await, "the answer's head is over 32 KiB"));
    }
}

#[tokio::test]
async fn what_is_not_http_is_named() {
    for (text, reason) in [
        ("SSH-2.0-OpenSSH_9.6\r\n", "the answer is not http/1.1"),
        ("HTTP/2 200\r\n\r\n", "the answer is not http/1.1"),
        ("\r\nHTTP/1.1 200 OK\r\n\r\n", "the answer is not http/1.1"),
        ("HTTP/1.1 2x0 OK\r\n\r\n", "the answer's head is malformed"),
        ("HTTP/1.1 200 OK\r\nno colon\r\n\r\n", "the answer's head is malformed"),
        ("HTTP/1.1 200 OK\r\na: b\r\n folded\r\n\r\n", "the answer's head is malformed"),
        ("HTTP/1.1 999 OK\r\n\r\n", "the answer's status is not one of http"),
        ("HTTP/1.1 200 OK\r\ncontent-length: -1\r\n\r\n", "the answer's length is not a number"),
        ("HTTP/1.1 200 OK\r\ncontent-length: +2\r\n\r\nok", "the answer's length is not a number"),
        ("HTTP/1.1 200 OK\r\ncontent-length: 18446744073709551616\r\n\r\n", "the answer's length is not a number"),
        ("HTTP/1.1 200 OK\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\nab", "the answer states two lengths"),
        ("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nxyz\r\n", "the answer's chunks are malformed"),
        (
            "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n11111111111111111\r\n",
            "the answer's chunks are malformed",
        ),
    ] {
        let partner = falling_silent(text).await;
        assert_eq!(failed(send(&partner).await).reason, reason, "{text:?}");
    }
    let fields = "x: y\r\n".repeat(65);
    let partner = Partner::answering(&format!("HTTP/1.1 200 OK\r\n{fields}\r\n")).await;
    assert_eq!(failed(send(&partner).await).reason, "the answer has too many header fields");
}

#[tokio::test]
async fn an_answer_that_breaks_off_is_a_failure() {
    for (text, reason) in [
        ("HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nabcd", "connection closed in the middle of the answer"),
        (
            "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nabc",
            "connection closed in the middle of the answer",
        ),
        ("HTTP/1.1 200 OK\r\ncontent-len", "connection closed in the middle of the answer's head"),
        ("HTTP/1.1 100 Continue\r\n\r\n", "connection closed in the middle of the answer's head"),
    ] {
        let partner = Partner::start(move |mut stream, _| async move {
            read_request(&mut stream).await;
            stream.write_all(text.as_bytes()).await.unwrap();
        })
        .await;
        assert_eq!(failed(send(&partner).await).reason, reason, "{text:?}");
        assert_eq!(partner.connections(), 1, "an answer begun is not asked for again");
    }
}

/// Closes with a reset instead of an orderly end.
fn reset(stream: TcpStream) {
    stream.set_zero_linger().unwrap();
}

#[tokio::test]
async fn a_reset_half_way_is_a_failure() {
    let partner = Partner::start(async |mut stream, _| {
        read_request(&mut stream).await;
        stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 50\r\n\r\nabcd").await.unwrap();
        // The reset may overtake what was written, so the hub is given the time to have read it.
        tokio::time::timeout(Duration::from_millis(200), stream.read_u8()).await.unwrap_err();
        reset(stream);
    })
    .await;
    let expected = failure(Stage::Read, "connection reset in the middle of the answer");
    assert_eq!(failed(send(&partner).await), expected);
}

#[tokio::test]
async fn a_fresh_connection_that_is_closed_or_reset_is_not_tried_again() {
    for is_reset in [false, true] {
        let partner = Partner::start(move |mut stream, _| async move {
            read_request(&mut stream).await;
            if is_reset {
                reset(stream);
            }
        })
        .await;
        let word = if is_reset { "reset" } else { "closed" };
        let expected = failure(Stage::Await, &format!("connection {word} before an answer"));
        assert_eq!(failed(send(&partner).await), expected);
        assert_eq!(partner.connections(), 1);
    }
}

#[tokio::test]
async fn a_kept_connection_that_closes_under_a_request_is_replaced_in_the_same_attempt() {
    for is_reset in [false, true] {
        let partner = Partner::start(move |mut stream, _| async move {
            read_request(&mut stream).await;
            stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").await.unwrap();
            // It takes the second request in, and closes without a word.
            read_request(&mut stream).await;
            if is_reset {
                reset(stream);
            }
        })
        .await;
        let channel = channel(&partner.url(), Credential::None);
        for number in 1..=3 {
            assert_eq!(answered(channel.send(&message(), soon()).await).status, 200);
            assert_eq!(partner.connections(), number);
        }
    }
}

#[tokio::test]
async fn a_connection_closed_while_idle_is_replaced() {
    let partner = Partner::start(async |mut stream, _| {
        read_request(&mut stream).await;
        stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").await.unwrap();
    })
    .await;
    let channel = channel(&partner.url(), Credential::None);
    for number in 1..=20 {
        assert_eq!(answered(channel.send(&message(), soon()).await).status, 200);
        assert_eq!(partner.connections(), number);
    }
}

#[tokio::test]
async fn an_answer_before_the_message_is_read_counts() {
    let partner = Partner::start(async |mut stream, _| {
        let mut head = [0; 16];
        stream.read_exact(&mut head).await.unwrap();
        stream.write_all(b"HTTP/1.1 413 Content Too Large\r\ncontent-length: 3\r\n\r\nbig").await.unwrap();
        std::future::pending::<()>().await;
    })
    .await;
    let mut message = message();
    message.body = vec![b'x'; 32 << 20].into();
    let channel = channel(&partner.url(), Credential::None);
    for number in 1..=2 {
        let answer = answered(channel.send(&message, soon()).await);
        assert_eq!((answer.status, &answer.body[..]), (413, &b"big"[..]));
        assert_eq!(partner.connections(), number, "a connection with a request half sent is not used again");
    }
}

#[tokio::test]
async fn a_second_answer_is_never_taken_for_that_of_the_next_message() {
    let one = "HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\n";
    let partner = Partner::answering(&format!("{one}one{one}two")).await;
    let channel = channel(&partner.url(), Credential::None);
    for number in 1..=3 {
        assert_eq!(&answered(channel.send(&message(), soon()).await).body[..], b"one");
        assert_eq!(partner.connections(), number);
    }
}

#[tokio::test]
async fn a_second_answer_that_comes_while_idle_closes_the_connection() {
    let (written, mut is_written) = tokio::sync::mpsc::unbounded_channel();
    let partner = Partner::start(move |mut stream, _| {
        let written = written.clone();
        async move {
            read_request(&mut stream).await;
            stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\none").await.unwrap();
            // Only once the first was read: the channel has no more use for this connection when it has come.
            tokio::time::timeout(Duration::from_millis(100), stream.read_u8()).await.unwrap_err();
            stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\ntwo").await.unwrap();
            written.send(()).unwrap();
            std::future::pending::<()>().await;
        }
    })
    .await;
    let channel = channel(&partner.url(), Credential::None);
    for number in 1..=2 {
        assert_eq!(&answered(channel.send(&message(), soon()).await).body[..], b"one");
        assert_eq!(partner.connections(), number);
        is_written.recv().await.unwrap();
        // One turn of the runtime's reactor shows what the socket has.
        tokio::time::timeout(Duration::from_millis(20), std::future::pending::<()>()).await.unwrap_err();
    }
}

#[tokio::test]
async fn an_upgrade_nobody_asked_for_is_an_answer_and_the_end_of_the_connection() {
    let partner =
        Partner::answering("HTTP/1.1 101 Switching Protocols\r\nupgrade: x\r\nconnection: upgrade\r\n\r\n").await;
    let channel = channel(&partner.url(), Credential::None);
    for number in 1..=2 {
        assert_eq!(answered(channel.send(&message(), soon()).await).status, 101);
        assert_eq!(partner.connections(), number);
    }
}

#[tokio::test]
async fn a_length_and_a_coding_together_cost_the_connection() {
    let partner = Partner::answering(
        "HTTP/1.1 200 OK\r\ncontent-length: 2\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
    )
    .await;
    let channel = channel(&partner.url(), Credential::None);
    for number in 1..=2 {
        assert_eq!(&answered(channel.send(&message(), soon()).await).body[..], b"abc");
        assert_eq!(partner.connections(), number);
    }
}
