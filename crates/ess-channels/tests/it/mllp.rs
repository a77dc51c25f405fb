//! HL7 over MLLP: which acknowledgement counts, what is skipped, and what a hostile receiver costs.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use ess_channels::{Channel, ChannelError, Credential};
use ess_core::id::EventId;
use ess_core::message::Message;
use ess_core::receipt::{Failure, Receipt, Said, Stage};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::Instant;

use crate::conformance::{Described, conforms};
use crate::link::Link;
use crate::partner::{Partner, dialer, document, failed, message, soon};

/// Control ids, in the order in which they came.
type Seen = Arc<Mutex<Vec<String>>>;

fn hl7(control_id: &str) -> Message {
    let body = format!("MSH|^~\\&|HMS-ESS||||20261126||MFN^M02|{control_id}|P|2.5.1\rMFI|PRA||UPD|||AL\r");
    Message { body: Bytes::from(body), extension: "hl7", ..message() }
}

fn open(partner: &Partner, more: Value) -> Channel {
    open_at(partner.address, more)
}

fn open_at(address: SocketAddr, more: Value) -> Channel {
    let url = format!("mllp://{address}");
    let document = document("mllp", &url, more);
    Channel::open(&document, &url, Credential::None, &dialer(&["127.0.0.0/8"], Vec::new())).unwrap()
}

fn ack(code: &str, control_id: &str) -> Vec<u8> {
    format!("\x0bMSH|^~\\&|EMR||HMS-ESS||||ACK|A1|P|2.5.1\rMSA|{code}|{control_id}\r\x1c\r").into_bytes()
}

/// Reads one frame; its control id.
async fn read_frame(stream: &mut TcpStream) -> Option<String> {
    let mut bytes = Vec::new();
    while !bytes.ends_with(b"\x1c\r") {
        bytes.push(stream.read_u8().await.ok()?);
    }
    assert_eq!(bytes[0], 0x0b, "a frame begins with VT");
    let text = String::from_utf8(bytes[1..bytes.len() - 2].to_vec()).unwrap();
    assert!(text.starts_with("MSH|^~\\&|") && text.ends_with('\r'));
    Some(text.split('|').nth(9).unwrap().to_owned())
}

/// Answers each message with what `answer` makes of its control id, a piece at a time.
async fn answering(answer: impl Fn(&str) -> Vec<Vec<u8>> + Send + Sync + 'static) -> (Partner, Seen) {
    let (answer, seen) = (Arc::new(answer), Seen::default());
    let noted = Arc::clone(&seen);
    let partner = Partner::start(move |mut stream, _| {
        let (answer, noted) = (Arc::clone(&answer), Arc::clone(&noted));
        async move {
            stream.set_nodelay(true).unwrap();
            while let Some(control_id) = read_frame(&mut stream).await {
                noted.lock().unwrap().push(control_id.clone());
                for piece in answer(&control_id) {
                    if stream.write_all(&piece).await.is_err() {
                        return;
                    }
                    tokio::task::yield_now().await;
                }
            }
        }
    })
    .await;
    (partner, seen)
}

#[track_caller]
fn said(receipt: Receipt) -> Said {
    match receipt {
        Receipt::Said(said) => said,
        other => panic!("nothing was said: {other:?}"),
    }
}

fn short() -> Instant {
    Instant::now() + Duration::from_millis(300)
}

/// A message of the suite as HL7; its control id is what a drop of it would be called.
fn shaped(message: Message) -> Message {
    let (id, mark) = (message.file_name(), if message.test { "T" } else { "P" });
    let text = String::from_utf8_lossy(&message.body).replace(['|', '\r'], " ");
    let body = format!("MSH|^~\\&|HMS-ESS||||20261126||MFN^M02|{id}|{mark}|2.5.1\rNTE|1||{text}\r");
    Message { body: Bytes::from(body), ..message }
}

#[tokio::test]
async fn mllp_does_what_every_channel_does() {
    conforms(async || {
        // A receiver that takes a control id once, as they do.
        let taken = Arc::<Mutex<Vec<(String, Vec<u8>)>>>::default();
        let noted = Arc::clone(&taken);
        let partner = Partner::start(move |mut stream, _| {
            let noted = Arc::clone(&noted);
            async move {
                let mut bytes = Vec::new();
                while stream.read_buf(&mut bytes).await.is_ok_and(|read| read > 0) {
                    if !bytes.ends_with(b"\x1c\r") {
                        continue;
                    }
                    let body = bytes[1..bytes.len() - 2].to_vec();
                    bytes.clear();
                    let id = String::from_utf8_lossy(&body).split('|').nth(9).unwrap().to_owned();
                    if noted.lock().unwrap().iter().all(|(known, _)| *known != id) {
                        noted.lock().unwrap().push((id.clone(), body));
                    }
                    let code = if id.contains("REFUSED") { "AE" } else { "AA" };
                    if stream.write_all(&ack(code, &id)).await.is_err() {
                        return;
                    }
                }
            }
        })
        .await;
        let link = Link::to(partner.address).await;
        let channel = open_at(link.address, json!({}));
        let delivered = Box::new(move || taken.lock().unwrap().clone());
        Described {
            channel: Arc::new(channel),
            link: Some(link),
            delivered,
            shape: shaped,
            refuse: Some(Box::new(|message| {
                let event_id = EventId::trusted("REFUSED");
                shaped(Message { event_id, ..message })
            })),
            connections: 1,
            under_way: &[0, 10],
            _server: Box::new(partner),
        }
    })
    .await;
}

#[tokio::test]
async fn codes_mean_what_the_contract_says_and_the_connection_is_kept() {
    let (partner, seen) = answering(|id| vec![ack(&id[..2], id)]).await;
    let channel = open(&partner, json!({}));
    let mut words = Vec::new();
    for id in ["AA1", "CA2", "AE3", "CR4", "AR5", "CE6"] {
        words.push(said(channel.send(&hl7(id), soon()).await));
    }
    let reason = |code: &str| format!("{code} without a reason");
    let expected = [
        Said::Ack,
        Said::Ack,
        Said::Nack { reason: reason("AE") },
        Said::Nack { reason: reason("CR") },
        Said::Retry { reason: reason("AR") },
        Said::Retry { reason: reason("CE") },
    ];
    assert_eq!(words, expected);
    assert_eq!((partner.connections(), seen.lock().unwrap().len()), (1, 6));
}

#[tokio::test]
async fn a_partner_may_have_its_own_meanings() {
    let (partner, _) = answering(|id| vec![ack(&id[..2], id)]).await;
    let channel = open(&partner, json!({"codes": {"AR": "nack", "AE": "retry"}}));
    assert!(matches!(said(channel.send(&hl7("AR1"), soon()).await), Said::Nack { .. }));
    assert!(matches!(said(channel.send(&hl7("AE2"), soon()).await), Said::Retry { .. }));
}

#[tokio::test]
async fn an_acknowledgement_may_come_byte_by_byte_after_junk() {
    let (partner, _) = answering(|id| {
        let mut bytes = b"READY\r\n".to_vec();
        bytes.extend(b"\x0bMSH|half a frame, begun anew");
        bytes.extend(ack("AA", id));
        bytes.chunks(1).map(<[u8]>::to_vec).collect()
    })
    .await;
    assert_eq!(said(open(&partner, json!({})).send(&hl7("M1"), soon()).await), Said::Ack);
}

#[tokio::test]
async fn the_first_acknowledgement_that_decides_counts_and_the_second_is_skipped() {
    let (partner, _) = answering(|id| vec![[ack("CA", id), ack("AE", id)].concat()]).await;
    let channel = open(&partner, json!({}));
    for id in ["M1", "M2", "M3"] {
        assert_eq!(said(channel.send(&hl7(id), soon()).await), Said::Ack);
    }
    assert_eq!(partner.connections(), 1);
}

#[tokio::test]
async fn a_commit_acknowledgement_can_be_waited_past() {
    let (partner, _) = answering(|id| vec![ack("CA", id), ack("AE", id)]).await;
    let channel = open(&partner, json!({"codes": {"CA": "wait"}}));
    assert!(matches!(said(channel.send(&hl7("M1"), soon()).await), Said::Nack { .. }));

    let (partner, _) = answering(|id| vec![ack("CA", id)]).await;
    let failure = failed(open(&partner, json!({"codes": {"CA": "wait"}})).send(&hl7("M1"), short()).await);
    assert_eq!(failure.stage, Stage::Await);
    assert!(failure.reason.ends_with("CA came, and this partner's `codes` wait for another one"), "{failure:?}");
}

#[tokio::test]
async fn an_acknowledgement_of_another_message_leaves_this_one_outstanding() {
    let (partner, _) = answering(|_| vec![ack("AA", "OTHER"), ack("AE", "M")]).await;
    let failure = failed(open(&partner, json!({})).send(&hl7("M1"), short()).await);
    let reason =
        "timed out after 300ms while waiting for the answer; 2 for other messages came, the last for M; sent was M1";
    assert_eq!(failure, Failure { stage: Stage::Await, reason: reason.to_owned() });

    // It may also come before the right one.
    let (partner, _) = answering(|id| vec![ack("AE", "OTHER"), ack("AA", id)]).await;
    assert_eq!(said(open(&partner, json!({})).send(&hl7("M1"), soon()).await), Said::Ack);
}

#[tokio::test]
async fn a_connection_whose_answer_was_given_up_is_not_used_again() {
    // The first message is answered when the second comes, as a slow receiver would.
    let (partner, seen) =
        answering(|id| if id == "M1" { Vec::new() } else { vec![ack("AA", "M1"), ack("AA", id)] }).await;
    let channel = open(&partner, json!({}));
    failed(channel.send(&hl7("M1"), short()).await);
    assert_eq!(said(channel.send(&hl7("M2"), soon()).await), Said::Ack);
    assert_eq!((partner.connections(), seen.lock().unwrap().len()), (2, 2));
}

#[tokio::test]
async fn no_answer_says_what_came_instead() {
    let silent = answering(|_| Vec::new()).await;
    let failure = failed(open(&silent.0, json!({})).send(&hl7("M1"), short()).await);
    assert_eq!(failure.reason, "timed out after 300ms while waiting for the answer");

    let (odd, _) = answering(|_| vec![b"\x0b\x06\x1c\r".to_vec()]).await;
    let failure = failed(open(&odd, json!({})).send(&hl7("M1"), short()).await);
    assert!(failure.reason.ends_with("what came is no acknowledgement: it does not begin with MSH"), "{failure:?}");

    let closing = Partner::start(async |mut stream, _| drop(read_frame(&mut stream).await)).await;
    let failure = failed(open(&closing, json!({})).send(&hl7("M1"), soon()).await);
    let reason = "connection closed before an acknowledgement of this message".to_owned();
    assert_eq!(failure, Failure { stage: Stage::Await, reason });
}

#[tokio::test]
async fn a_kept_connection_that_went_stale_is_replaced_within_the_attempt() {
    let partner = Partner::start(async |mut stream, number| {
        // The first connection takes the second message and closes.
        let answered = if number == 0 { 1 } else { 10 };
        for _ in 0..answered {
            let Some(id) = read_frame(&mut stream).await else { return };
            stream.write_all(&ack("AA", &id)).await.unwrap();
        }
        read_frame(&mut stream).await;
    })
    .await;
    let channel = open(&partner, json!({}));
    for id in ["M1", "M2", "M3"] {
        assert_eq!(said(channel.send(&hl7(id), soon()).await), Said::Ack);
    }
    assert_eq!(partner.connections(), 2);
}

#[tokio::test]
async fn an_answer_without_end_is_cut_off() {
    for flood in [b"\x0bMSH|^~\\&|".to_vec(), vec![b'x'; 1024], ack("AA", "OTHER")] {
        let partner = Partner::start(move |mut stream, _| {
            let flood = flood.clone();
            async move {
                read_frame(&mut stream).await;
                while stream.write_all(&flood).await.is_ok() {}
            }
        })
        .await;
        let failure = failed(open(&partner, json!({})).send(&hl7("M1"), soon()).await);
        assert_eq!(failure.stage, Stage::Read, "{failure:?}");
        assert!(failure.reason.contains("64 KiB") || failure.reason.contains("512 KiB"), "{failure:?}");
    }
}

#[tokio::test]
async fn a_receiver_that_reads_nothing_is_left_at_the_deadline() {
    let partner = Partner::start(async |_stream, _| std::future::pending().await).await;
    let big = format!("MSH|^~\\&|HMS-ESS||||1||MFN^M02|M1|P|2.5.1\rNTE|1||{}\r", "x".repeat(32 << 20));
    let message = Message { body: Bytes::from(big), ..message() };
    let failure = failed(open(&partner, json!({})).send(&message, short()).await);
    assert_eq!(failure.stage, Stage::Send);
    // Framing so much takes a part of the time.
    assert!(failure.reason.ends_with("while sending"), "{failure:?}");
}

#[tokio::test]
async fn under_a_callback_policy_an_accept_is_not_yet_the_receipt() {
    let (partner, _) = answering(|id| vec![ack(&id[..2], id)]).await;
    let channel = open(&partner, json!({"ack": {"by": "callback"}}));
    assert!(matches!(channel.send(&hl7("AA1"), soon()).await, Receipt::Taken));
    assert!(matches!(said(channel.send(&hl7("AE2"), soon()).await), Said::Nack { .. }));
}

#[tokio::test]
async fn a_message_without_control_id_is_refused_before_it_is_sent() {
    let (partner, seen) = answering(|id| vec![ack("AA", id)]).await;
    let receipt = open(&partner, json!({})).send(&hl7(""), soon()).await;
    let Receipt::Refused { reason } = receipt else { panic!("{receipt:?}") };
    assert!(reason.contains("MSH-10"), "{reason}");
    assert!(seen.lock().unwrap().is_empty());
}

#[test]
fn what_does_not_fit_mllp_is_refused_when_it_is_opened() {
    let open = |url: &str, credential: Credential| {
        let document = document("mllp", "mllps://emr.example", json!({}));
        Channel::open(&document, url, credential, &dialer(&[], vec![crate::partner::own_root()])).unwrap_err()
    };
    let mtls = || Credential::Mtls { cert_pem: "x".to_owned(), key_pem: "x".to_owned() };
    assert!(matches!(open("mllp://emr.example", mtls()), ChannelError::Url(_)));
    assert!(matches!(open("mllps://emr.example", mtls()), ChannelError::Credential(_)));
    assert!(matches!(open("mllps://emr.example", Credential::Bearer("x".to_owned())), ChannelError::Credential(_)));
    assert!(matches!(open("https://emr.example", Credential::None), ChannelError::Url(_)));
}
