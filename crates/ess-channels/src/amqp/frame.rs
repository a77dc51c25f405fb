//! The frames of AMQP 0.9.1 that publishing with confirms takes: what is written, and what may come back.
//!
//! Source: AMQP 0.9.1 specification, sections 2.3 and 4.2, and RabbitMQ's extensions (confirm, nack, blocked). Nothing that
//! a broker sends is kept beyond its ceiling.

use bytes::{Buf as _, BytesMut};
use ess_core::message::Message;

use crate::limits::AMQP_FRAME_BYTES_MAX;

/// What a connection begins with.
pub(super) const PROTOCOL: &[u8] = b"AMQP\0\0\x09\x01";

/// A sign of life.
pub(super) const HEARTBEAT: &[u8] = &[8, 0, 0, 0, 0, 0, 0, END];

/// The only channel of a connection.
const CHANNEL: u16 = 1;
const END: u8 = 0xCE;
/// Bytes around a frame's payload.
const FRAME_OVERHEAD: usize = 8;
/// Flags of the properties that every message has: content type, headers, delivery mode, message id, application.
const PROPERTIES: u16 = 1 << 15 | 1 << 13 | 1 << 12 | 1 << 7 | 1 << 3;
const PERSISTENT: u8 = 2;
const MANDATORY: u8 = 1;

/// Why what a broker sent is not of the protocol.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Malformed(pub &'static str);

/// What a broker says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Frame {
    /// The ways to log in, separated by blanks.
    Start { mechanisms: String },
    /// It asks for more than a name and a password.
    Secure,
    /// Its ceilings.
    Tune { frame_bytes_max: u32, heartbeat_s: u16 },
    /// The connection is open.
    OpenOk,
    /// It ends the connection, or the channel, and says why.
    Close { is_channel: bool, code: u16, text: String },
    /// It takes no messages for now.
    Blocked { reason: String },
    /// The channel is open.
    ChannelOpenOk,
    /// Confirms are on.
    SelectOk,
    /// A message that no queue takes; the message follows.
    Return { code: u16, text: String },
    /// It has the message, or all up to this one.
    Ack { tag: u64, is_multiple: bool },
    /// It could not take the message, or all up to this one.
    Nack { tag: u64, is_multiple: bool },
    /// A sign of life, the content of a returned message, or what nobody asked for.
    Other,
}

/// Who logs in.
pub(super) enum Login<'a> {
    /// The client certificate.
    External,
    /// A user.
    Plain(&'a str, &'a str),
    /// Nobody.
    Anonymous,
}

impl Login<'_> {
    /// The mechanism's name.
    pub(super) fn mechanism(&self) -> &'static str {
        match self {
            Login::External => "EXTERNAL",
            Login::Plain(..) => "PLAIN",
            Login::Anonymous => "ANONYMOUS",
        }
    }
}

/// Answers the broker's Start.
pub(super) fn start_ok(login: &Login<'_>) -> Vec<u8> {
    let mut payload = method(10, 11);
    let mut able = Vec::new();
    for name in ["publisher_confirms", "basic.nack", "connection.blocked", "authentication_failure_close"] {
        put_short(&mut able, name);
        able.extend_from_slice(b"t\x01");
    }
    let mut properties = Vec::new();
    put_field(&mut properties, "product", "hms-ess");
    put_field(&mut properties, "version", env!("CARGO_PKG_VERSION"));
    put_short(&mut properties, "capabilities");
    properties.push(b'F');
    put_long(&mut properties, &able);
    put_long(&mut payload, &properties);
    put_short(&mut payload, login.mechanism());
    match login {
        Login::External | Login::Anonymous => put_long(&mut payload, b""),
        Login::Plain(user, password) => put_long(&mut payload, format!("\0{user}\0{password}").as_bytes()),
    }
    put_short(&mut payload, "en_US");
    framed(1, 0, &payload)
}

/// The ceilings that were agreed on, and which virtual host to open.
pub(super) fn tune_ok_and_open(frame_bytes_max: u32, heartbeat_s: u16, vhost: &str) -> Vec<u8> {
    let mut tune = method(10, 31);
    tune.extend_from_slice(&CHANNEL.to_be_bytes());
    tune.extend_from_slice(&frame_bytes_max.to_be_bytes());
    tune.extend_from_slice(&heartbeat_s.to_be_bytes());
    let mut open = method(10, 40);
    put_short(&mut open, vhost);
    open.extend_from_slice(&[0, 0]);
    [framed(1, 0, &tune), framed(1, 0, &open)].concat()
}

/// Opens the channel.
pub(super) fn channel_open() -> Vec<u8> {
    let mut payload = method(20, 10);
    payload.push(0);
    framed(1, CHANNEL, &payload)
}

/// Turns confirms on.
pub(super) fn confirm_select() -> Vec<u8> {
    let mut payload = method(85, 10);
    payload.push(0);
    framed(1, CHANNEL, &payload)
}

/// A message that stays on disk and comes back when no queue takes it.
///
/// # Errors
///
/// What of it the broker cannot take.
pub(super) fn publish(
    exchange: &str,
    routing_key: &str,
    message: &Message,
    frame_bytes_max: u32,
) -> Result<Vec<u8>, String> {
    if routing_key.len() > 255 {
        return Err(format!("the routing key takes {} bytes, and AMQP has 255 at most", routing_key.len()));
    }
    let room = (frame_bytes_max as usize).saturating_sub(FRAME_OVERHEAD).max(1);
    let mut publish = method(60, 40);
    publish.extend_from_slice(&[0, 0]);
    put_short(&mut publish, exchange);
    put_short(&mut publish, routing_key);
    publish.push(MANDATORY);

    let mut headers = Vec::new();
    for (name, value) in &message.headers {
        put_field(&mut headers, name, value);
    }
    let mut header = vec![0, 60, 0, 0];
    header.extend_from_slice(&(message.body.len() as u64).to_be_bytes());
    header.extend_from_slice(&PROPERTIES.to_be_bytes());
    put_short(&mut header, &message.content_type);
    put_long(&mut header, &headers);
    header.push(PERSISTENT);
    put_short(&mut header, &message.id);
    put_short(&mut header, "hms-ess");
    if header.len() > room {
        return Err(format!("the headers take {} bytes, and the broker takes {room} at most", header.len()));
    }
    let mut out = framed(1, CHANNEL, &publish);
    out.extend_from_slice(&framed(2, CHANNEL, &header));
    for piece in message.body.chunks(room) {
        out.extend_from_slice(&framed(3, CHANNEL, piece));
    }
    Ok(out)
}

fn method(class: u16, number: u16) -> Vec<u8> {
    [class.to_be_bytes(), number.to_be_bytes()].concat()
}

fn framed(kind: u8, channel: u16, payload: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(payload.len() + FRAME_OVERHEAD);
    out.push(kind);
    out.extend_from_slice(&channel.to_be_bytes());
    out.extend_from_slice(&u32::try_from(payload.len()).unwrap_or(u32::MAX).to_be_bytes());
    out.extend_from_slice(payload);
    out.push(END);
    out
}

/// A short string; what is longer than 255 bytes is cut at a character.
fn put_short(out: &mut Vec<u8>, text: &str) {
    let mut end = text.len().min(255);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    out.push(u8::try_from(end).unwrap_or(u8::MAX));
    out.extend_from_slice(&text.as_bytes()[..end]);
}

fn put_long(out: &mut Vec<u8>, bytes: &[u8]) {
    out.extend_from_slice(&u32::try_from(bytes.len()).unwrap_or(u32::MAX).to_be_bytes());
    out.extend_from_slice(bytes);
}

fn put_field(table: &mut Vec<u8>, name: &str, value: &str) {
    put_short(table, name);
    table.push(b'S');
    put_long(table, value.as_bytes());
}

/// Takes the next whole frame off `bytes`; `None` while it is not whole.
pub(super) fn next(bytes: &mut BytesMut) -> Result<Option<Frame>, Malformed> {
    if bytes.starts_with(b"AMQP") {
        return Err(Malformed("the broker speaks another version of AMQP than 0.9.1"));
    }
    if bytes.first().is_some_and(|kind| !matches!(kind, 1 | 2 | 3 | 8)) {
        return Err(Malformed("the broker does not speak AMQP 0.9.1"));
    }
    let Some(&[kind, _, _, a, b, c, d]) = bytes.first_chunk::<7>() else { return Ok(None) };
    let length = u32::from_be_bytes([a, b, c, d]) as usize;
    if length > AMQP_FRAME_BYTES_MAX as usize {
        return Err(Malformed("the broker sent a frame over 128 KiB"));
    }
    let Some(payload) = bytes.get(7..length + FRAME_OVERHEAD) else { return Ok(None) };
    let Some((&END, payload)) = payload.split_last() else {
        return Err(Malformed("the broker sent a frame without its end"));
    };
    let frame = if kind == 1 { read_method(&mut Reader(payload))? } else { Frame::Other };
    bytes.advance(length + FRAME_OVERHEAD);
    Ok(Some(frame))
}

fn read_method(reader: &mut Reader<'_>) -> Result<Frame, Malformed> {
    let (class, number) = (reader.u16()?, reader.u16()?);
    Ok(match (class, number) {
        (10, 10) => {
            reader.u16()?;
            reader.long()?;
            Frame::Start { mechanisms: String::from_utf8_lossy(reader.long()?).into_owned() }
        }
        (10, 20) => Frame::Secure,
        (10, 30) => {
            reader.u16()?;
            Frame::Tune { frame_bytes_max: reader.u32()?, heartbeat_s: reader.u16()? }
        }
        (10, 41) => Frame::OpenOk,
        (10, 50) | (20, 40) => Frame::Close { is_channel: class == 20, code: reader.u16()?, text: reader.short()? },
        (10, 60) => Frame::Blocked { reason: reader.short()? },
        (20, 11) => Frame::ChannelOpenOk,
        (85, 11) => Frame::SelectOk,
        (60, 50) => Frame::Return { code: reader.u16()?, text: reader.short()? },
        (60, 80) => Frame::Ack { tag: reader.u64()?, is_multiple: reader.u8()? & 1 == 1 },
        (60, 120) => Frame::Nack { tag: reader.u64()?, is_multiple: reader.u8()? & 1 == 1 },
        _ => Frame::Other,
    })
}

/// A payload that is read from its beginning.
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take<const N: usize>(&mut self) -> Result<[u8; N], Malformed> {
        let (taken, rest) = self.0.split_first_chunk::<N>().ok_or(Malformed("the broker sent a method cut short"))?;
        self.0 = rest;
        Ok(*taken)
    }

    fn u8(&mut self) -> Result<u8, Malformed> {
        self.take::<1>().map(|[byte]| byte)
    }

    fn u16(&mut self) -> Result<u16, Malformed> {
        self.take().map(u16::from_be_bytes)
    }

    fn u32(&mut self) -> Result<u32, Malformed> {
        self.take().map(u32::from_be_bytes)
    }

    fn u64(&mut self) -> Result<u64, Malformed> {
        self.take().map(u64::from_be_bytes)
    }

    fn bytes(&mut self, length: usize) -> Result<&'a [u8], Malformed> {
        let (taken, rest) = self.0.split_at_checked(length).ok_or(Malformed("the broker sent a method cut short"))?;
        self.0 = rest;
        Ok(taken)
    }

    fn long(&mut self) -> Result<&'a [u8], Malformed> {
        let length = self.u32()? as usize;
        self.bytes(length)
    }

    fn short(&mut self) -> Result<String, Malformed> {
        let length = usize::from(self.u8()?);
        Ok(String::from_utf8_lossy(self.bytes(length)?).into_owned())
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use ess_core::id::{Digest, EventId, Subject, Version};

    use super::*;

    fn message(body: &'static [u8]) -> Message {
        Message {
            id: "msg_1".to_owned(),
            event_id: EventId::trusted("R-1-V3"),
            subject: Subject::trusted("R-1"),
            version: Version(3),
            extension: "json",
            content_type: "a/b".to_owned(),
            headers: vec![("x-hms-test".to_owned(), "true".to_owned())],
            body: Bytes::from_static(body),
            body_digest: Digest([0; 32]),
            test: false,
            replay: false,
            partner_seq: None,
            attempt: 1,
        }
    }

    fn all(bytes: &[u8]) -> Result<Vec<Frame>, Malformed> {
        let mut bytes = BytesMut::from(bytes);
        let mut frames = Vec::new();
        while let Some(frame) = next(&mut bytes)? {
            frames.push(frame);
        }
        Ok(frames)
    }

    #[test]
    fn a_message_is_written_as_the_specification_has_it() {
        let golden = [
            // Basic.Publish on channel 1: reserved, exchange, routing key, mandatory.
            b"\x01\x00\x01\x00\x00\x00\x10\x00\x3C\x00\x28\x00\x00\x03exc\x04r.k1\x01\xCE".as_slice(),
            // Content header: class 60, weight 0, 5 bytes, flags, then the properties in the order of their flags.
            b"\x02\x00\x01\x00\x00\x00\x39\x00\x3C\x00\x00\x00\x00\x00\x00\x00\x00\x00\x05\xB0\x88",
            b"\x03a/b\x00\x00\x00\x14\x0Ax-hms-testS\x00\x00\x00\x04true\x02\x05msg_1\x07hms-ess\xCE",
            b"\x03\x00\x01\x00\x00\x00\x05hello\xCE",
        ]
        .concat();
        assert_eq!(publish("exc", "r.k1", &message(b"hello"), 4096), Ok(golden));
    }

    #[test]
    fn a_long_body_is_cut_at_the_ceiling_and_headers_are_not() {
        let written = publish("", "q", &message(&[7; 250]), 108).unwrap();
        let bodies = written.windows(7).filter(|seven| seven.starts_with(&[3, 0, 1, 0, 0, 0])).count();
        assert_eq!(bodies, 3);
        assert!(publish("", "q", &message(b""), 40).unwrap_err().contains("the headers take"));
        assert!(publish("", &"k".repeat(256), &message(b""), 4096).unwrap_err().contains("255"));
    }

    #[test]
    fn what_a_broker_says_is_read_in_any_pieces() {
        let said = [
            b"\x01\x00\x00\x00\x00\x00\x1C\x00\x0A\x00\x0A\x00\x09\x00\x00\x00\x00\x00\x00\x00\x05PLAIN\x00\x00\x00\x05en_US\xCE"
                .as_slice(),
            b"\x01\x00\x00\x00\x00\x00\x0C\x00\x0A\x00\x1E\x07\xFF\x00\x02\x00\x00\x00\x3C\xCE",
            HEARTBEAT,
            b"\x01\x00\x01\x00\x00\x00\x11\x00\x3C\x00\x32\x01\x38\x08NO_ROUTE\x00\x00\xCE",
            b"\x01\x00\x01\x00\x00\x00\x0D\x00\x3C\x00\x50\x00\x00\x00\x00\x00\x00\x00\x07\x01\xCE",
            b"\x01\x00\x01\x00\x00\x00\x0D\x00\x3C\x00\x78\x00\x00\x00\x00\x00\x00\x00\x08\x00\xCE",
            b"\x01\x00\x01\x00\x00\x00\x0B\x00\x14\x00\x28\x01\x94\x00\x00\x3C\x00\x28\xCE",
        ]
        .concat();
        let wanted = vec![
            Frame::Start { mechanisms: "PLAIN".to_owned() },
            Frame::Tune { frame_bytes_max: 131_072, heartbeat_s: 60 },
            Frame::Other,
            Frame::Return { code: 312, text: "NO_ROUTE".to_owned() },
            Frame::Ack { tag: 7, is_multiple: true },
            Frame::Nack { tag: 8, is_multiple: false },
            Frame::Close { is_channel: true, code: 404, text: String::new() },
        ];
        assert_eq!(all(&said), Ok(wanted.clone()));
        let mut bytes = BytesMut::new();
        let mut frames = Vec::new();
        for byte in said {
            bytes.extend_from_slice(&[byte]);
            frames.extend(next(&mut bytes).unwrap());
        }
        assert_eq!(frames, wanted);
    }

    #[test]
    fn a_hostile_broker_is_told_from_a_slow_one() {
        for broken in [
            b"HTTP/1.1 400\r\n".as_slice(),
            b"AMQP\x00\x01\x00\x00",
            b"\x01\x00\x00\x7F\xFF\xFF\xFF",
            b"\x01\x00\x00\x00\x00\x00\x04\x00\x0A\x00\x29\x00",
            b"\x01\x00\x00\x00\x00\x00\x02\x00\x0A\xCE",
            b"\x01\x00\x00\x00\x00\x00\x0A\x00\x0A\x00\x0A\x00\x09\xFF\xFF\xFF\xFF\xCE",
        ] {
            assert!(all(broken).is_err(), "{broken:?}");
        }
        for slow in [b"".as_slice(), b"\x01\x00\x00", b"\x01\x00\x00\x00\x00\x00\x04\x00\x0A\x00\x29"] {
            assert_eq!(all(slow), Ok(Vec::new()));
        }
    }

    proptest::proptest! {
        #[test]
        fn no_bytes_of_a_broker_bring_the_hub_down(bytes in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..300)) {
            let _ = all(&bytes);
            let _ = all(&framed(1, 0, &bytes));
        }
    }
}
