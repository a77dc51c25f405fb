//! A message as Kafka keeps it: a batch of one record with its checksum, and the partition that its key belongs to.
//!
//! Source: Kafka's documentation, "Record batch" (magic 2), and the partitioner of its own clients, so that the partner's
//! other producers put the same key into the same partition.

use ess_core::message::Message;

/// Who sends, and which of its messages to the partition this is; a broker keeps one that it has already only once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Stamp {
    pub(super) producer: i64,
    pub(super) epoch: i16,
    pub(super) sequence: i32,
}

impl Stamp {
    /// Of a sender that the broker does not know again.
    pub(super) const NONE: Stamp = Stamp { producer: -1, epoch: -1, sequence: -1 };
}

/// Bytes of a batch in front of what its checksum covers: offset, length, leader's epoch, magic, checksum.
const UNCOVERED: usize = 8 + 4 + 4 + 1 + 4;

/// Appends the batch for one message, whose key is its subject.
pub(super) fn put_batch(out: &mut Vec<u8>, message: &Message, stamp: Stamp, now_ms: i64) {
    let begin = out.len();
    out.extend_from_slice(&0_i64.to_be_bytes());
    // Its length and checksum are known at its end.
    out.extend_from_slice(&[0; 4]);
    out.extend_from_slice(&(-1_i32).to_be_bytes());
    out.push(2);
    out.extend_from_slice(&[0; 4]);
    // No compression, no transaction; the last offset is the first.
    out.extend_from_slice(&[0, 0, 0, 0, 0, 0]);
    out.extend_from_slice(&now_ms.to_be_bytes());
    out.extend_from_slice(&now_ms.to_be_bytes());
    out.extend_from_slice(&stamp.producer.to_be_bytes());
    out.extend_from_slice(&stamp.epoch.to_be_bytes());
    out.extend_from_slice(&stamp.sequence.to_be_bytes());
    out.extend_from_slice(&1_i32.to_be_bytes());
    put_record(out, message);

    let batch = &mut out[begin..];
    let length = i32::try_from(batch.len() - 12).unwrap_or(i32::MAX);
    let checksum = crc32c::crc32c(&batch[UNCOVERED..]);
    batch[8..12].copy_from_slice(&length.to_be_bytes());
    batch[UNCOVERED - 4..UNCOVERED].copy_from_slice(&checksum.to_be_bytes());
}

fn put_record(out: &mut Vec<u8>, message: &Message) {
    let headers = || {
        let all = message.headers.iter().map(|(name, value)| (name.as_str(), value.as_str()));
        std::iter::once(("content-type", message.content_type.as_str())).chain(all)
    };
    let key = message.subject.as_str().as_bytes();
    let in_headers: usize = headers().map(|(name, value)| with_length(name.len()) + with_length(value.len())).sum();
    let count = message.headers.len() + 1;
    // Attributes, and the distance to the batch's time and offset.
    let head = [0, 0, 0];
    let length =
        head.len() + with_length(key.len()) + with_length(message.body.len()) + varint_bytes(count) + in_headers;

    put_varint(out, length);
    out.extend_from_slice(&head);
    put_bytes(out, key);
    put_bytes(out, &message.body);
    put_varint(out, count);
    for (name, value) in headers() {
        put_bytes(out, name.as_bytes());
        put_bytes(out, value.as_bytes());
    }
}

fn put_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    put_varint(out, bytes.len());
    out.extend_from_slice(bytes);
}

/// Bytes that so many take with their length.
fn with_length(bytes: usize) -> usize {
    varint_bytes(bytes) + bytes
}

/// A length as a zigzag varint, so that it could be negative.
fn put_varint(out: &mut Vec<u8>, length: usize) {
    let mut rest = (length as u64) << 1;
    while rest >= 0x80 {
        out.push((rest as u8 & 0x7F) | 0x80);
        rest >>= 7;
    }
    out.push(rest as u8);
}

fn varint_bytes(length: usize) -> usize {
    let bits = u64::BITS - ((length as u64) << 1 | 1).leading_zeros();
    bits.div_ceil(7) as usize
}

/// The partition of a key among so many.
pub(super) fn partition_of(key: &[u8], partitions: usize) -> usize {
    (murmur2(key) & 0x7FFF_FFFF) as usize % partitions.max(1)
}

fn murmur2(bytes: &[u8]) -> u32 {
    const M: u32 = 0x5BD1_E995;
    let mut hash = 0x9747_B28C ^ bytes.len() as u32;
    let mut chunks = bytes.chunks_exact(4);
    for chunk in &mut chunks {
        let word = chunk.iter().rev().fold(0, |word, byte| word << 8 | u32::from(*byte)).wrapping_mul(M);
        hash = hash.wrapping_mul(M) ^ (word ^ word >> 24).wrapping_mul(M);
    }
    if !chunks.remainder().is_empty() {
        let rest = chunks.remainder().iter().rev().fold(0, |word, byte| word << 8 | u32::from(*byte));
        hash = (hash ^ rest).wrapping_mul(M);
    }
    hash = (hash ^ hash >> 13).wrapping_mul(M);
    hash ^ hash >> 15
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use ess_core::id::{Digest, EventId, Subject, Version};

    use super::*;

    /// CRC-32C bit by bit, reflected: as slow as it is plain.
    fn castagnoli(bytes: &[u8]) -> u32 {
        let bit = |crc: u32, _| if crc & 1 == 1 { (crc >> 1) ^ 0x82F6_3B78 } else { crc >> 1 };
        !bytes.iter().fold(!0, |crc, byte| (0..8).fold(crc ^ u32::from(*byte), bit))
    }

    #[test]
    fn the_checksum_is_castagnolis() {
        // RFC 3720, appendix B.4, and the usual check value.
        for (bytes, checksum) in
            [([0; 32].as_slice(), 0x8A91_36AA), (&[0xFF; 32], 0x62A8_AB43), (b"123456789", 0xE306_9283)]
        {
            assert_eq!((crc32c::crc32c(bytes), castagnoli(bytes)), (checksum, checksum));
        }
    }

    #[test]
    fn a_batch_counts_and_sums_up_what_it_holds_wherever_it_begins() {
        let body = Bytes::from("x".repeat(300));
        let message = Message {
            id: "msg_1".to_owned(),
            event_id: EventId::trusted("E-1"),
            subject: Subject::trusted("RULE"),
            version: Version(1),
            extension: "json",
            content_type: "application/json".to_owned(),
            headers: vec![("webhook-id".to_owned(), "msg_1".to_owned()), ("empty".to_owned(), String::new())],
            body_digest: Digest::of(&body),
            body,
            test: false,
            replay: false,
            partner_seq: None,
            attempt: 1,
        };
        let stamp = Stamp { producer: 7, epoch: 1, sequence: 5 };
        let mut alone = Vec::new();
        put_batch(&mut alone, &message, stamp, 1_000);
        let mut behind = b"before".to_vec();
        put_batch(&mut behind, &message, stamp, 1_000);
        assert_eq!(behind[6..], alone);
        let length = i32::from_be_bytes(*alone[8..].first_chunk().unwrap());
        assert_eq!(usize::try_from(length).unwrap(), alone.len() - 12);
        let checksum = u32::from_be_bytes(*alone[17..].first_chunk().unwrap());
        assert_eq!(checksum, castagnoli(&alone[UNCOVERED..]));
        // What comes before the record's length, of two bytes here, and the record itself.
        let record = &alone[UNCOVERED + 40..];
        let told = (usize::from(record[0] & 0x7F) | usize::from(record[1]) << 7) >> 1;
        assert_eq!(told, record.len() - 2);
        assert_eq!(record[2..10], *b"\0\0\0\x08RULE");
        assert!(record.ends_with(b"\x06\x18content-type\x20application/json\x14webhook-id\x0Amsg_1\x0Aempty\0"));
    }

    #[test]
    fn keys_go_where_kafkas_own_clients_put_them() {
        // The values of Kafka's own tests.
        for (key, hash) in [
            ("21", -973_932_308),
            ("foobar", -790_332_482),
            ("a-little-bit-long-string", -985_981_536),
            ("a-little-bit-longer-string", -1_486_304_829),
            ("lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8", -58_897_971),
            ("abc", 479_470_107),
        ] {
            assert_eq!(murmur2(key.as_bytes()).cast_signed(), hash, "{key}");
        }
        assert!(partition_of(b"RULE", 7) < 7 && partition_of(b"RULE", 0) == 0);
    }

    #[test]
    fn a_length_takes_as_many_bytes_as_it_needs() {
        let most = (1 << 62, vec![0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 1]);
        for (length, bytes) in [(0, vec![0]), (63, vec![126]), (64, vec![0x80, 1]), (300, vec![0xD8, 4]), most] {
            let mut out = Vec::new();
            put_varint(&mut out, length);
            assert_eq!((out, varint_bytes(length)), (bytes.clone(), bytes.len()));
        }
    }
}
