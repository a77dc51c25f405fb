//! The Ack Ledger's entries and their hash chain.
//!
//! An entry is a receipt. The receipts that one commit brings for one event share a row, its entries one after the other. Format 1
//! of an entry: `1`, word (`0` ack, `1` nack), then as varints partner, round, attempt, version, partner_seq + 1 (0: none), the time
//! in µs as 8 bytes big-endian, evidence as one byte, the body's SHA-256, the number of scripts as varint and their SHA-256s, and for
//! a NACK its reason with its length as varint. An entry's leaf hash is SHA-256(0x00 ‖ event's seq as 8 bytes ‖ entry), as RFC 9162
//! section 2.1.1 hashes leaves; a row's chain is SHA-256(chain before ‖ leaf hashes).

use std::sync::Arc;

use ess_core::id::{Digest, PartnerNo, Seq, Version};
use ess_core::receipt::Evidence;
use ess_core::time::Time;

use crate::audience::{read_varint, write_varint};

const FORMAT: u8 = 1;

/// One receipt.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Who.
    pub partner: PartnerNo,
    /// 0 for the first sending.
    pub round: u32,
    /// Which attempt carried it.
    pub attempt: u32,
    /// The version sent.
    pub version: Version,
    /// The partner's counter.
    pub partner_seq: Option<u64>,
    /// When it came.
    pub at: Time,
    /// How it is evidenced.
    pub evidence: Evidence,
    /// SHA-256 of the bytes sent.
    pub body_digest: Digest,
    /// The scripts that made them.
    pub scripts: Arc<[Digest]>,
    /// What was said.
    pub word: Word,
}

/// What a partner said.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Word {
    /// It has it.
    Ack,
    /// It refuses it, with a reason.
    Nack(String),
}

const EVIDENCES: [Evidence; 5] =
    [Evidence::Body, Evidence::Status, Evidence::Callback, Evidence::File, Evidence::Topic];

impl Entry {
    pub(crate) fn encode(&self, out: &mut Vec<u8>) {
        out.push(FORMAT);
        out.push(u8::from(self.word != Word::Ack));
        write_varint(u64::from(self.partner.0), out);
        write_varint(u64::from(self.round), out);
        write_varint(u64::from(self.attempt), out);
        write_varint(u64::from(self.version.0), out);
        write_varint(self.partner_seq.map_or(0, |seq| seq + 1), out);
        out.extend_from_slice(&self.at.as_micros().to_be_bytes());
        let evidence = EVIDENCES.iter().position(|known| *known == self.evidence).unwrap_or(0);
        out.push(evidence as u8);
        out.extend_from_slice(&self.body_digest.0);
        write_varint(self.scripts.len() as u64, out);
        for script in self.scripts.iter() {
            out.extend_from_slice(&script.0);
        }
        if let Word::Nack(reason) = &self.word {
            write_varint(reason.len() as u64, out);
            out.extend_from_slice(reason.as_bytes());
        }
    }

    pub(crate) fn decode(bytes: &mut &[u8]) -> Option<Self> {
        if take(bytes, 1)? != [FORMAT] {
            return None;
        }
        let word = take(bytes, 1)?[0];
        let small = |bytes: &mut &[u8]| u32::try_from(read_varint(bytes)?).ok();
        let partner = PartnerNo(small(bytes)?);
        let (round, attempt, version) = (small(bytes)?, small(bytes)?, Version(small(bytes)?));
        let partner_seq = read_varint(bytes)?.checked_sub(1);
        let at = Time::from_micros(i64::from_be_bytes(take(bytes, 8)?.try_into().ok()?));
        let evidence = *EVIDENCES.get(usize::from(take(bytes, 1)?[0]))?;
        let body_digest = Digest(take(bytes, 32)?.try_into().ok()?);
        let count = usize::try_from(read_varint(bytes)?).ok()?;
        let mut scripts = Vec::new();
        for _ in 0..count {
            scripts.push(Digest(take(bytes, 32)?.try_into().ok()?));
        }
        let word = match word {
            0 => Word::Ack,
            1 => {
                let length = usize::try_from(read_varint(bytes)?).ok()?;
                Word::Nack(String::from_utf8(take(bytes, length)?.to_vec()).ok()?)
            }
            _ => return None,
        };
        let scripts = scripts.into();
        Some(Self { partner, round, attempt, version, partner_seq, at, evidence, body_digest, scripts, word })
    }
}

/// Reads a row's entries.
pub(crate) fn decode_all(mut bytes: &[u8]) -> Option<Vec<Entry>> {
    let mut entries = Vec::new();
    while !bytes.is_empty() {
        entries.push(Entry::decode(&mut bytes)?);
    }
    Some(entries)
}

/// The receipts that one commit brings for one event: a row of the ledger, with the hashes of its leaves.
#[derive(Debug)]
pub(crate) struct Pack {
    count: u64,
    entries: Vec<u8>,
    /// Room for the chain before, then the leaf hashes: what the chain after is the hash of.
    chained: Vec<u8>,
    /// `0x00 ‖ seq ‖ entry` of the entry at hand.
    leaf: Vec<u8>,
}

const CHAIN_BYTES: usize = 32;
const LEAF_HEAD_BYTES: usize = 9;

impl Pack {
    pub(crate) fn new(seq: Seq) -> Self {
        let mut leaf = Vec::with_capacity(192);
        leaf.push(0);
        leaf.extend_from_slice(&seq.0.to_be_bytes());
        Self { count: 0, entries: Vec::new(), chained: vec![0; CHAIN_BYTES], leaf }
    }

    /// Reads a stored row back.
    pub(crate) fn read(seq: Seq, mut row: &[u8]) -> Option<Self> {
        let mut pack = Self::new(seq);
        while !row.is_empty() {
            let whole = row;
            Entry::decode(&mut row)?;
            pack.leaf.truncate(LEAF_HEAD_BYTES);
            pack.leaf.extend_from_slice(&whole[..whole.len() - row.len()]);
            pack.add_leaf();
        }
        Some(pack)
    }

    pub(crate) fn push(&mut self, entry: &Entry) {
        self.leaf.truncate(LEAF_HEAD_BYTES);
        entry.encode(&mut self.leaf);
        self.add_leaf();
    }

    fn add_leaf(&mut self) {
        self.entries.extend_from_slice(&self.leaf[LEAF_HEAD_BYTES..]);
        self.chained.extend_from_slice(&Digest::of(&self.leaf).0);
        self.count += 1;
    }

    pub(crate) fn count(&self) -> u64 {
        self.count
    }

    pub(crate) fn entries(&self) -> &[u8] {
        &self.entries
    }

    /// The chain after this row.
    pub(crate) fn extend_chain(&mut self, before: Digest) -> Digest {
        self.chained[..CHAIN_BYTES].copy_from_slice(&before.0);
        Digest::of(&self.chained)
    }
}

fn take<'a>(bytes: &mut &'a [u8], count: usize) -> Option<&'a [u8]> {
    let (taken, rest) = bytes.split_at_checked(count)?;
    *bytes = rest;
    Some(taken)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(word: Word) -> Entry {
        Entry {
            partner: PartnerNo(300),
            round: 1,
            attempt: 2,
            version: Version(3),
            partner_seq: Some(4),
            at: Time::from_micros(5),
            evidence: Evidence::Callback,
            body_digest: Digest([6; 32]),
            scripts: [Digest([7; 32])].into(),
            word,
        }
    }

    #[test]
    fn the_stored_form_stays_as_it_is() {
        let mut bytes = Vec::new();
        entry(Word::Nack("no".to_owned())).encode(&mut bytes);
        let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        let golden = format!("0101ac0201020305000000000000000502{}01{}026e6f", "06".repeat(32), "07".repeat(32));
        assert_eq!(hex, golden);
    }

    #[test]
    fn a_changed_byte_breaks_the_chain() {
        let chain = |seq, row: &[u8]| Pack::read(Seq(seq), row).map(|mut pack| pack.extend_chain(Digest([0; 32])));
        let mut pack = Pack::new(Seq(1));
        pack.push(&entry(Word::Ack));
        pack.push(&entry(Word::Nack("x".to_owned())));
        let row = pack.entries().to_vec();
        let whole = Some(pack.extend_chain(Digest([0; 32])));
        assert_eq!(chain(1, &row), whole);
        for at in 0..row.len() {
            let mut other = row.clone();
            other[at] ^= 1;
            assert_ne!(chain(1, &other), whole, "byte {at}");
        }
        assert_ne!(chain(2, &row), whole);
    }

    proptest::proptest! {
        #[test]
        fn what_is_written_is_read_back(partner in 0u32.., round in 0u32..9, attempt in 0u32.., seq in proptest::option::of(0u64..u64::MAX - 1), reason in proptest::option::of(".{0,40}")) {
            let word = reason.map_or(Word::Ack, Word::Nack);
            let entry = Entry { partner: PartnerNo(partner), round, attempt, partner_seq: seq, ..entry(word) };
            let mut bytes = Vec::new();
            entry.encode(&mut bytes);
            proptest::prop_assert_eq!(decode_all(&bytes), Some(vec![entry]));
        }

        #[test]
        fn any_bytes_are_entries_or_none(bytes in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..200)) {
            let _ = decode_all(&bytes);
        }
    }
}
