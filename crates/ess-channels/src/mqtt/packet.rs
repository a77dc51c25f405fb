//! MQTT control packets, 3.1.1 and 5: those that a publisher with one subscription writes and reads.
//!
//! Source: OASIS MQTT 3.1.1 and 5.0, sections 2 and 3. Lengths are checked before they are believed, nothing is kept of a
//! packet but what is used, and a message over the ceiling is read past, not into memory.

use ess_core::partner::MqttProtocol;

use crate::limits::MQTT_PACKET_BYTES_MAX;

/// The longest text or binary field.
const FIELD_BYTES_MAX: usize = u16::MAX as usize;
/// The largest remaining length.
pub(super) const REMAINING_MAX: usize = 268_435_455;

pub(super) const PING: [u8; 2] = [0xC0, 0];

/// How the hub logs in.
pub(super) struct Connect<'a> {
    pub client_id: &'a str,
    /// What the broker remembers of an earlier connection is wanted.
    pub resume: bool,
    pub keep_alive_s: u16,
    pub user: Option<&'a str>,
    pub password: Option<&'a str>,
}

/// A message to publish.
pub(super) struct Publish<'a> {
    pub topic: &'a str,
    pub retain: bool,
    pub payload: &'a [u8],
    /// Only MQTT 5 has these.
    pub content_type: &'a str,
    pub response_topic: Option<&'a str>,
    pub correlation: Option<&'a [u8]>,
    pub headers: &'a [(String, String)],
}

/// A PUBLISH that lacks its packet id only.
#[derive(Debug)]
pub(super) struct Encoded {
    pub bytes: Vec<u8>,
    id_at: usize,
}

/// What the broker sent.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Incoming {
    ConnAck { code: u8, terms: Terms },
    PubAck { id: u16, code: u8, reason: Option<String> },
    SubAck { code: u8, reason: Option<String> },
    Publish(Word),
    Pong,
    Disconnect { code: u8, reason: Option<String> },
}

/// A message on the topic of the receipts.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Word {
    /// Absent with QoS 0.
    pub id: Option<u16>,
    /// It was kept from before.
    pub is_retained: bool,
    pub payload: Vec<u8>,
    pub correlation: Option<Vec<u8>>,
    /// Over the ceiling; the payload was not kept.
    pub is_too_long: bool,
}

/// What the broker allows, by its CONNACK or its other properties.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(super) struct Terms {
    pub in_flight_max: Option<u16>,
    pub packet_bytes_max: Option<u32>,
    pub keep_alive_s: Option<u16>,
    pub qos_max: Option<u8>,
    pub has_retain: Option<bool>,
    pub reason: Option<String>,
    correlation: Option<Vec<u8>>,
}

/// What came is not MQTT.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Malformed(pub &'static str);

pub(super) fn connect(protocol: MqttProtocol, connect: &Connect<'_>) -> Result<Vec<u8>, Malformed> {
    let mut body = Vec::with_capacity(64);
    put_field(&mut body, b"MQTT")?;
    let has = |present: bool, bit: u8| u8::from(present) << bit;
    let flags = has(!connect.resume, 1) | has(connect.password.is_some(), 6) | has(connect.user.is_some(), 7);
    body.push(if protocol == MqttProtocol::V5 { 5 } else { 4 });
    body.push(flags);
    body.extend_from_slice(&connect.keep_alive_s.to_be_bytes());
    if protocol == MqttProtocol::V5 {
        let mut properties = Vec::new();
        if connect.resume {
            // Session expiry: a day. Receipts that come while the hub is away are kept for it.
            properties.push(0x11);
            properties.extend_from_slice(&86_400_u32.to_be_bytes());
        }
        properties.push(0x21);
        properties.extend_from_slice(&16_u16.to_be_bytes());
        properties.push(0x27);
        let ceiling = u32::try_from(MQTT_PACKET_BYTES_MAX).unwrap_or(u32::MAX);
        properties.extend_from_slice(&ceiling.to_be_bytes());
        put_properties(&mut body, &properties)?;
    }
    put_field(&mut body, connect.client_id.as_bytes())?;
    for field in [connect.user, connect.password].into_iter().flatten() {
        put_field(&mut body, field.as_bytes())?;
    }
    packet(0x10, &body)
}

/// Any PUBLISH of QoS 1.
pub(super) fn publish(protocol: MqttProtocol, publish: &Publish<'_>) -> Result<Encoded, Malformed> {
    let mut head = Vec::with_capacity(64 + publish.topic.len());
    put_field(&mut head, publish.topic.as_bytes())?;
    let id_at = head.len();
    head.extend_from_slice(&[0, 0]);
    if protocol == MqttProtocol::V5 {
        let mut properties = Vec::with_capacity(1024);
        if std::str::from_utf8(publish.payload).is_ok() {
            properties.extend_from_slice(&[0x01, 1]);
        }
        let fields = [
            (0x03, Some(publish.content_type.as_bytes())),
            (0x08, publish.response_topic.map(str::as_bytes)),
            (0x09, publish.correlation),
        ];
        for (id, value) in fields {
            if let Some(value) = value {
                properties.push(id);
                put_field(&mut properties, value)?;
            }
        }
        for (name, value) in publish.headers {
            properties.push(0x26);
            put_field(&mut properties, name.as_bytes())?;
            put_field(&mut properties, value.as_bytes())?;
        }
        put_properties(&mut head, &properties)?;
    }
    let mut bytes = Vec::with_capacity(head.len() + publish.payload.len() + 5);
    bytes.push(0x32 | u8::from(publish.retain));
    put_length(&mut bytes, head.len() + publish.payload.len())?;
    let id_at = bytes.len() + id_at;
    bytes.extend_from_slice(&head);
    bytes.extend_from_slice(publish.payload);
    Ok(Encoded { bytes, id_at })
}

impl Encoded {
    /// The packet under this id.
    pub(super) fn with_id(mut self, id: u16) -> Vec<u8> {
        self.bytes[self.id_at..self.id_at + 2].copy_from_slice(&id.to_be_bytes());
        self.bytes
    }
}

/// One subscription of QoS 1; retained messages are of the past and not wanted.
pub(super) fn subscribe(protocol: MqttProtocol, filter: &str) -> Result<Vec<u8>, Malformed> {
    let mut body = 1_u16.to_be_bytes().to_vec();
    if protocol == MqttProtocol::V5 {
        body.push(0);
    }
    put_field(&mut body, filter.as_bytes())?;
    body.push(if protocol == MqttProtocol::V5 { 0x21 } else { 1 });
    packet(0x82, &body)
}

pub(super) fn puback(id: u16) -> [u8; 4] {
    let [high, low] = id.to_be_bytes();
    [0x40, 2, high, low]
}

fn packet(kind: u8, body: &[u8]) -> Result<Vec<u8>, Malformed> {
    let mut bytes = Vec::with_capacity(body.len() + 5);
    bytes.push(kind);
    put_length(&mut bytes, body.len())?;
    bytes.extend_from_slice(body);
    Ok(bytes)
}

fn put_properties(out: &mut Vec<u8>, properties: &[u8]) -> Result<(), Malformed> {
    put_length(out, properties.len())?;
    out.extend_from_slice(properties);
    Ok(())
}

fn put_field(out: &mut Vec<u8>, value: &[u8]) -> Result<(), Malformed> {
    if value.len() > FIELD_BYTES_MAX {
        return Err(Malformed("a field is over 65,535 bytes, which MQTT does not carry"));
    }
    out.extend_from_slice(&u16::try_from(value.len()).unwrap_or(u16::MAX).to_be_bytes());
    out.extend_from_slice(value);
    Ok(())
}

fn put_length(out: &mut Vec<u8>, mut length: usize) -> Result<(), Malformed> {
    if length > REMAINING_MAX {
        return Err(Malformed("the message is over 256 MiB, which MQTT does not carry"));
    }
    loop {
        let byte = u8::try_from(length % 128).unwrap_or_default();
        length /= 128;
        out.push(if length > 0 { byte | 0x80 } else { byte });
        if length == 0 {
            return Ok(());
        }
    }
}

/// Bytes of the broker on their way to packets.
#[derive(Debug, Default)]
pub(super) struct Decoder {
    buffer: Vec<u8>,
    /// Of a message that is read past.
    skip: usize,
}

impl Decoder {
    pub(super) fn put(&mut self, bytes: &[u8]) {
        let skipped = self.skip.min(bytes.len());
        self.skip -= skipped;
        self.buffer.extend_from_slice(&bytes[skipped..]);
    }

    /// The next whole packet; none when more bytes must come first.
    pub(super) fn next(&mut self, protocol: MqttProtocol) -> Result<Option<Incoming>, Malformed> {
        // Told by its first byte, for what follows may be long in coming.
        if self.buffer.first().is_some_and(|kind| kind >> 4 != 3 && kind & 0x0F != 0) {
            return Err(Malformed("what came is not MQTT"));
        }
        let mut rest = self.buffer.get(1..).unwrap_or_default();
        let Some(length) = take_length(&mut rest)? else { return Ok(None) };
        let head = self.buffer.len() - rest.len();
        let kind = self.buffer[0];
        if head + length > MQTT_PACKET_BYTES_MAX {
            return self.read_past(kind, head, length);
        }
        let Some(body) = rest.get(..length) else { return Ok(None) };
        let incoming = read_body(protocol, kind, body)?;
        self.buffer.drain(..head + length);
        if self.buffer.is_empty() {
            // An idle connection holds no buffer.
            self.buffer = Vec::new();
        }
        Ok(Some(incoming))
    }

    /// A message over the ceiling: its id is read, so that it can be acknowledged and does not come again.
    fn read_past(&mut self, kind: u8, head: usize, length: usize) -> Result<Option<Incoming>, Malformed> {
        if kind >> 4 != 3 {
            return Err(Malformed("the broker sent a packet over the ceiling"));
        }
        let mut body = &self.buffer[head..];
        let has_id = kind & 0b110 != 0;
        let topic = take_field(&mut body);
        let id = if has_id { take_u16(&mut body) } else { Ok(0) };
        let (Ok(_), Ok(id)) = (topic, id) else { return Ok(None) };
        let there = (self.buffer.len() - head).min(length);
        self.buffer.drain(..head + there);
        self.skip = length - there;
        let id = has_id.then_some(id);
        let is_retained = kind & 1 == 1;
        Ok(Some(Incoming::Publish(Word { id, is_retained, payload: Vec::new(), correlation: None, is_too_long: true })))
    }
}

fn read_body(protocol: MqttProtocol, kind: u8, mut body: &[u8]) -> Result<Incoming, Malformed> {
    let is_5 = protocol == MqttProtocol::V5;
    match kind >> 4 {
        2 => {
            take_byte(&mut body)?;
            let code = take_byte(&mut body)?;
            // A broker of 3.1.1 that refuses MQTT 5 answers as it knows.
            let terms = if is_5 && !body.is_empty() { take_properties(&mut body)? } else { Terms::default() };
            Ok(Incoming::ConnAck { code, terms })
        }
        4 => {
            let id = take_u16(&mut body)?;
            let (code, reason) = take_code(&mut body)?;
            Ok(Incoming::PubAck { id, code, reason })
        }
        9 => {
            take_u16(&mut body)?;
            let reason = if is_5 { take_properties(&mut body)?.reason } else { None };
            Ok(Incoming::SubAck { code: take_byte(&mut body)?, reason })
        }
        3 => {
            take_field(&mut body)?;
            let id = if kind & 0b110 == 0 { None } else { Some(take_u16(&mut body)?) };
            let correlation = if is_5 { take_properties(&mut body)?.correlation } else { None };
            let is_retained = kind & 1 == 1;
            Ok(Incoming::Publish(Word { id, is_retained, payload: body.to_vec(), correlation, is_too_long: false }))
        }
        13 => Ok(Incoming::Pong),
        14 => {
            let (code, reason) = take_code(&mut body)?;
            Ok(Incoming::Disconnect { code, reason })
        }
        _ => Err(Malformed("the broker sent a packet that it may not send here")),
    }
}

/// A reason code and its properties, both of which may be left away.
fn take_code(body: &mut &[u8]) -> Result<(u8, Option<String>), Malformed> {
    let code = if body.is_empty() { 0 } else { take_byte(body)? };
    let reason = if body.is_empty() { None } else { take_properties(body)?.reason };
    Ok((code, reason))
}

fn take_properties(body: &mut &[u8]) -> Result<Terms, Malformed> {
    const CUT: Malformed = Malformed("the broker's properties are cut off");
    let length = take_length(body)?.ok_or(CUT)?;
    let (mut list, rest) = body.split_at_checked(length).ok_or(CUT)?;
    *body = rest;
    let mut terms = Terms::default();
    let list = &mut list;
    while !list.is_empty() {
        match take_byte(list)? {
            0x13 => terms.keep_alive_s = Some(take_u16(list)?),
            0x21 => terms.in_flight_max = Some(take_u16(list)?),
            0x24 => terms.qos_max = Some(take_byte(list)?),
            0x25 => terms.has_retain = Some(take_byte(list)? == 1),
            0x27 => {
                let bytes = [take_u16(list)?.to_be_bytes(), take_u16(list)?.to_be_bytes()].concat();
                terms.packet_bytes_max = Some(bytes.iter().fold(0, |sum, byte| sum << 8 | u32::from(*byte)));
            }
            0x1F => terms.reason = Some(String::from_utf8_lossy(take_field(list)?).into_owned()),
            0x09 => terms.correlation = Some(take_field(list)?.to_vec()),
            0x01 | 0x17 | 0x19 | 0x28 | 0x29 | 0x2A => drop(take_byte(list)?),
            0x22 | 0x23 => drop(take_u16(list)?),
            0x02 | 0x11 | 0x18 => drop((take_u16(list)?, take_u16(list)?)),
            0x0B => drop(take_length(list)?.ok_or(CUT)?),
            0x03 | 0x08 | 0x12 | 0x15 | 0x16 | 0x1A | 0x1C => drop(take_field(list)?),
            0x26 => drop((take_field(list)?, take_field(list)?)),
            _ => return Err(Malformed("the broker sent a property that MQTT 5 does not know")),
        }
    }
    Ok(terms)
}

fn take_byte(body: &mut &[u8]) -> Result<u8, Malformed> {
    let (first, rest) = body.split_first().ok_or(Malformed("a packet of the broker is cut off"))?;
    *body = rest;
    Ok(*first)
}

fn take_u16(body: &mut &[u8]) -> Result<u16, Malformed> {
    Ok(u16::from_be_bytes([take_byte(body)?, take_byte(body)?]))
}

fn take_field<'a>(body: &mut &'a [u8]) -> Result<&'a [u8], Malformed> {
    let length = usize::from(take_u16(body)?);
    let (field, rest) = body.split_at_checked(length).ok_or(Malformed("a packet of the broker is cut off"))?;
    *body = rest;
    Ok(field)
}

/// A variable byte integer; none when it is not whole yet.
fn take_length(bytes: &mut &[u8]) -> Result<Option<usize>, Malformed> {
    let mut length = 0;
    for at in 0..4 {
        let Some(byte) = bytes.get(at) else { return Ok(None) };
        length |= usize::from(byte & 0x7F) << (7 * at);
        if byte & 0x80 == 0 {
            *bytes = &bytes[at + 1..];
            return Ok(Some(length));
        }
    }
    Err(Malformed("what came is not MQTT"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(protocol: MqttProtocol, bytes: &[u8], piece: usize) -> Result<Vec<Incoming>, Malformed> {
        let (mut decoder, mut packets) = (Decoder::default(), Vec::new());
        for piece in bytes.chunks(piece) {
            decoder.put(piece);
            while let Some(packet) = decoder.next(protocol)? {
                packets.push(packet);
            }
        }
        assert!(decoder.buffer.capacity() <= 2 * MQTT_PACKET_BYTES_MAX);
        Ok(packets)
    }

    #[test]
    fn packets_are_read_whole_in_whatever_pieces_they_come() {
        let bytes = [
            &[0x20, 6, 0, 0, 3, 0x21, 0, 9][..],
            &[0x40, 2, 0, 7],
            &[0x40, 3, 0, 7, 0x97],
            &[0xD0, 0],
            &[0x32, 12, 0, 1, b'a', 0, 5, 4, 0x09, 0, 1, b'R', b'h', b'i'],
        ]
        .concat();
        for piece in [1, 2, 3, 100] {
            let packets = read(MqttProtocol::V5, &bytes, piece).unwrap();
            let terms = Terms { in_flight_max: Some(9), ..Terms::default() };
            assert_eq!(packets[0], Incoming::ConnAck { code: 0, terms });
            assert_eq!(packets[2], Incoming::PubAck { id: 7, code: 0x97, reason: None });
            let Incoming::Publish(word) = &packets[4] else { panic!("{packets:?}") };
            assert_eq!(
                (word.id, &word.payload[..], word.correlation.as_deref()),
                (Some(5), &b"hi"[..], Some(&b"R"[..]))
            );
        }
    }

    #[test]
    fn a_message_over_the_ceiling_is_read_past_and_can_be_acknowledged() {
        let length = MQTT_PACKET_BYTES_MAX + 10;
        let mut bytes = vec![0x32];
        put_length(&mut bytes, length).unwrap();
        bytes.extend_from_slice(&[0, 1, b'a', 0, 5]);
        bytes.resize(bytes.len() + length - 5, b'x');
        bytes.extend_from_slice(&[0xD0, 0]);
        for piece in [1, 7, 4096, usize::MAX] {
            let packets = read(MqttProtocol::V311, &bytes, piece).unwrap();
            assert!(
                matches!(&packets[0], Incoming::Publish(Word { id: Some(5), is_too_long: true, .. })),
                "{packets:?}"
            );
            assert_eq!(packets[1], Incoming::Pong);
        }
    }

    #[test]
    fn a_packet_is_written_as_the_standard_says() {
        let publish_of = |protocol| {
            let headers = [("a".to_owned(), "b".to_owned())];
            let message = Publish {
                topic: "t",
                retain: true,
                payload: b"hi",
                content_type: "c",
                response_topic: None,
                correlation: None,
                headers: &headers,
            };
            publish(protocol, &message).unwrap().with_id(0x0102)
        };
        assert_eq!(publish_of(MqttProtocol::V311), b"\x33\x07\0\x01t\x01\x02hi");
        assert_eq!(publish_of(MqttProtocol::V5), b"\x33\x15\0\x01t\x01\x02\x0d\x01\x01\x03\0\x01c\x26\0\x01a\0\x01bhi");
    }

    proptest::proptest! {
        #[test]
        fn any_bytes_are_packets_or_refused(bytes in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..300), piece in 1_usize..50) {
            for protocol in [MqttProtocol::V5, MqttProtocol::V311] {
                let whole = read(protocol, &bytes, usize::MAX);
                let pieces = read(protocol, &bytes, piece);
                proptest::prop_assert_eq!(whole.is_ok(), pieces.is_ok());
            }
        }
    }
}
