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

/// The batch for one message, whose key is its subject.
pub(super) fn batch(message: &Message, stamp: Stamp, now_ms: i64) -> Vec<u8> {
    let record = record(message);
    let mut covered = Vec::with_capacity(record.len() + 64);
    // No compression, no transaction; the last offset is the first.
    covered.extend_from_slice(&[0, 0, 0, 0, 0, 0]);
    covered.extend_from_slice(&now_ms.to_be_bytes());
    covered.extend_from_slice(&now_ms.to_be_bytes());
    covered.extend_from_slice(&stamp.producer.to_be_bytes());
    covered.extend_from_slice(&stamp.epoch.to_be_bytes());
    covered.extend_from_slice(&stamp.sequence.to_be_bytes());
    covered.extend_from_slice(&1_i32.to_be_bytes());
    put_varint(&mut covered, record.len());
    covered.extend_from_slice(&record);

    let mut out = Vec::with_capacity(UNCOVERED + covered.len());
    out.extend_from_slice(&0_i64.to_be_bytes());
    let length = UNCOVERED - 12 + covered.len();
    out.extend_from_slice(&i32::try_from(length).unwrap_or(i32::MAX).to_be_bytes());
    out.extend_from_slice(&(-1_i32).to_be_bytes());
    out.push(2);
    out.extend_from_slice(&crc32c(&covered).to_be_bytes());
    out.extend_from_slice(&covered);
    out
}

fn record(message: &Message) -> Vec<u8> {
    let mut out = Vec::with_capacity(message.body.len() + 1024);
    // Attributes, and the distance to the batch's time and offset.
    out.extend_from_slice(&[0, 0, 0]);
    put_bytes(&mut out, message.subject.as_str().as_bytes());
    put_bytes(&mut out, &message.body);
    put_varint(&mut out, message.headers.len() + 1);
    put_bytes(&mut out, b"content-type");
    put_bytes(&mut out, message.content_type.as_bytes());
    for (name, value) in &message.headers {
        put_bytes(&mut out, name.as_bytes());
        put_bytes(&mut out, value.as_bytes());
    }
    out
}

fn put_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    put_varint(out, bytes.len());
    out.extend_from_slice(bytes);
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

/// The table of CRC-32C (Castagnoli), reflected.
const CRC_TABLE: [u32; 256] = {
    let mut table = [0; 256];
    let mut byte = 0;
    while byte < 256 {
        let mut crc = byte as u32;
        let mut bit = 0;
        while bit < 8 {
            crc = if crc & 1 == 1 { (crc >> 1) ^ 0x82F6_3B78 } else { crc >> 1 };
            bit += 1;
        }
        table[byte] = crc;
        byte += 1;
    }
    table
};

fn crc32c(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(!0, |crc, byte| (crc >> 8) ^ CRC_TABLE[usize::from(crc as u8 ^ byte)])
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
    use super::*;

    #[test]
    fn the_checksum_is_castagnolis() {
        // RFC 3720, appendix B.4, and the usual check value.
        assert_eq!(crc32c(&[0; 32]), 0x8A91_36AA);
        assert_eq!(crc32c(&[0xFF; 32]), 0x62A8_AB43);
        assert_eq!(crc32c(b"123456789"), 0xE306_9283);
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
        for (length, bytes) in [(0, vec![0]), (63, vec![126]), (64, vec![0x80, 1]), (300, vec![0xD8, 4])] {
            let mut out = Vec::new();
            put_varint(&mut out, length);
            assert_eq!(out, bytes);
        }
    }
}
