//! The ledger in a file that is checked without a hub: every receipt as its leaf, every checkpoint where it was signed.
//!
//! Form 1, a JSON object a line: first `{"format","ledger","from","before"}`, where `before` is what the tree of the first `from`
//! receipts is made of; then a line for each receipt, and after each the checkpoint of that size, `{"checkpoint"}`, if there is one.
//! The last line is a checkpoint. So a file is checked in one walk, and says by itself which earlier one it continues.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};

use super::Receipt;
use super::checkpoint::{Checkpoint, VerifierKey};
use super::merkle::{Peaks, leaf_hash};
use crate::id::Digest;

/// The form of the file.
pub const FORMAT: &str = "hms-ess-ledger/1";
/// No line is longer: a receipt with many scripts and a long reason.
pub const LINE_BYTES_MAX: usize = 256 * 1024;

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Head {
    format: String,
    ledger: String,
    from: u64,
    before: Vec<String>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Signed {
    checkpoint: String,
}

/// The first line.
#[must_use]
pub fn head_line(ledger: &str, before: &Peaks) -> String {
    let head = Head {
        format: FORMAT.to_owned(),
        ledger: ledger.to_owned(),
        from: before.size(),
        before: before.hashes().iter().map(|hash| STANDARD.encode(hash.0)).collect(),
    };
    // Invariant: texts and numbers always serialise.
    serde_json::to_string(&head).expect("a head serialises")
}

/// The line of a checkpoint.
#[must_use]
pub fn checkpoint_line(note: &str) -> String {
    // Invariant: a text always serialises.
    serde_json::to_string(&Signed { checkpoint: note.to_owned() }).expect("a checkpoint serialises")
}

/// A walk along an export, or along several that follow each other.
#[derive(Debug)]
pub struct Walk<'a> {
    key: &'a VerifierKey,
    /// A checkpoint that was kept apart, to be met on the way.
    kept: Option<&'a Checkpoint>,
    from: u64,
    peaks: Option<Peaks>,
    is_signed: bool,
    checkpoints: u64,
}

/// What a walk found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Walked {
    /// The first receipt.
    pub from: u64,
    /// Receipts under the last checkpoint.
    pub to: u64,
    /// The root there.
    pub root: Digest,
    /// Checkpoints that were met, each fitting.
    pub checkpoints: u64,
}

impl<'a> Walk<'a> {
    /// A walk with the verifier's key.
    #[must_use]
    pub fn new(key: &'a VerifierKey, kept: Option<&'a Checkpoint>) -> Self {
        Self { key, kept, from: 0, peaks: None, is_signed: false, checkpoints: 0 }
    }

    /// The first line of a file. A later file must go on where the one before it ended.
    ///
    /// # Errors
    /// It is none, of another ledger, or it does not continue what was walked.
    pub fn begin(&mut self, line: &str) -> Result<(), String> {
        let head: Head = serde_json::from_str(line).map_err(|error| format!("the first line is no head: {error}"))?;
        if head.format != FORMAT {
            return Err(format!("the form is {:?}, and {FORMAT:?} is understood", head.format));
        }
        if head.ledger != self.key.name() {
            return Err(format!("it is of the ledger {}, and the key of {}", head.ledger, self.key.name()));
        }
        let hash = |text: &String| STANDARD.decode(text).ok().and_then(|bytes| bytes.try_into().ok()).map(Digest);
        let hashes: Option<Vec<Digest>> = head.before.iter().map(hash).collect();
        let before = hashes.and_then(|hashes| Peaks::new(head.from, hashes));
        let before = before.ok_or("the first line says no tree of that size")?;
        match &self.peaks {
            None => self.from = head.from,
            Some(_) if !self.is_signed => {
                return Err("the file before it is cut off: its last line is no checkpoint".to_owned());
            }
            Some(known) if known.size() != head.from => {
                return Err(format!(
                    "it begins after {} receipts, and the one before it ended at {}",
                    head.from,
                    known.size()
                ));
            }
            Some(known) if *known != before => {
                return Err(format!("the first {} receipts are not those of the file before it", head.from));
            }
            Some(_) => {}
        }
        self.peaks = Some(before);
        // An export of nothing new still ends in a checkpoint of its own.
        self.is_signed = false;
        self.meet_kept()
    }

    /// Another line.
    ///
    /// # Errors
    /// It is no receipt and no checkpoint, or the checkpoint is not of what stands before it.
    pub fn line(&mut self, line: &str) -> Result<(), String> {
        let Some(peaks) = &mut self.peaks else { return self.begin(line) };
        if line.starts_with("{\"checkpoint\"") {
            let signed: Signed = serde_json::from_str(line).map_err(|error| format!("no checkpoint: {error}"))?;
            let checkpoint = Checkpoint::open(&signed.checkpoint, self.key).map_err(|error| error.to_string())?;
            if (checkpoint.size, checkpoint.root) != (peaks.size(), peaks.root()) {
                return Err(format!(
                    "the checkpoint of {} receipts does not fit the {} before it: one was changed, added or removed",
                    checkpoint.size,
                    peaks.size()
                ));
            }
            (self.is_signed, self.checkpoints) = (true, self.checkpoints + 1);
            return Ok(());
        }
        let receipt: Receipt = serde_json::from_str(line)
            .map_err(|error| format!("receipt {}: it can't be read: {error}", peaks.size()))?;
        if receipt.line() != line {
            return Err(format!("receipt {}: it is not written as the ledger writes it", peaks.size()));
        }
        peaks.push(leaf_hash(line.as_bytes()));
        self.is_signed = false;
        self.meet_kept()
    }

    fn meet_kept(&mut self) -> Result<(), String> {
        let (Some(kept), Some(peaks)) = (self.kept, &self.peaks) else { return Ok(()) };
        if kept.size != peaks.size() || kept.root == peaks.root() {
            return Ok(());
        }
        Err(format!(
            "the first {} receipts are not those of the checkpoint that was kept: they were changed",
            kept.size
        ))
    }

    /// The end of the last file.
    ///
    /// # Errors
    /// It is cut off, or the checkpoint that was kept lies elsewhere.
    pub fn end(self) -> Result<Walked, String> {
        let peaks = self.peaks.ok_or("it is empty")?;
        if !self.is_signed {
            return Err("it is cut off: its last line is no checkpoint".to_owned());
        }
        match self.kept {
            Some(kept) if !(self.from..=peaks.size()).contains(&kept.size) => Err(format!(
                "the checkpoint that was kept has {} receipts, and this goes from {} to {}",
                kept.size,
                self.from,
                peaks.size()
            )),
            _ => Ok(Walked { from: self.from, to: peaks.size(), root: peaks.root(), checkpoints: self.checkpoints }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::signature::Ed25519Key;

    const NAME: &str = "hub.gov/ledger";

    fn key() -> Ed25519Key {
        Ed25519Key::from_seed([5; 32])
    }

    fn receipt(sequence: u64) -> String {
        Receipt {
            event: format!("RULE-V{sequence}"),
            sequence,
            event_sha256: "00".repeat(32),
            test: false,
            partner: "COURT-CAL".to_owned(),
            word: "ack".to_owned(),
            at: "2026-11-23T12:00:00Z".to_owned(),
            evidence: "body".to_owned(),
            round: 0,
            attempt: 1,
            version: 1,
            partner_seq: None,
            body_sha256: "11".repeat(32),
            scripts: Vec::new(),
            reason: None,
        }
        .line()
    }

    fn tree(size: u64) -> Peaks {
        let mut peaks = Peaks::default();
        (0..size).for_each(|sequence| peaks.push(leaf_hash(receipt(sequence).as_bytes())));
        peaks
    }

    fn checkpoint(size: u64) -> Checkpoint {
        Checkpoint { origin: NAME.to_owned(), size, root: tree(size).root() }
    }

    /// Receipts `from..to`, with a checkpoint in the middle and at the end.
    fn export(from: u64, to: u64) -> Vec<String> {
        let mut lines = vec![head_line(NAME, &tree(from))];
        for sequence in from..to {
            lines.push(receipt(sequence));
            if sequence + 1 == u64::midpoint(from, to) || sequence + 1 == to {
                lines.push(checkpoint_line(&checkpoint(sequence + 1).sign(&key())));
            }
        }
        lines
    }

    fn walk(files: &[Vec<String>], kept: Option<&Checkpoint>) -> Result<Walked, String> {
        let key = VerifierKey::of(&key(), NAME);
        let mut walk = Walk::new(&key, kept);
        for file in files {
            walk.begin(&file[0])?;
            file[1..].iter().try_for_each(|line| walk.line(line))?;
        }
        walk.end()
    }

    #[test]
    fn an_export_holds_and_the_next_one_continues_it() {
        let found = walk(&[export(0, 7), export(7, 12)], Some(&checkpoint(5))).unwrap();
        assert_eq!((found.from, found.to, found.root, found.checkpoints), (0, 12, tree(12).root(), 4));
        let alone = walk(&[export(7, 12)], Some(&checkpoint(7))).unwrap();
        assert_eq!((alone.from, alone.to), (7, 12));
        assert!(walk(&[export(0, 7), export(8, 12)], None).unwrap_err().contains("ended at 7"));
        assert!(walk(&[export(7, 12)], Some(&checkpoint(5))).unwrap_err().contains("goes from 7 to 12"));
    }

    #[test]
    fn what_was_changed_added_removed_or_cut_off_is_refused() {
        let whole = export(0, 7);
        for at in 0..whole.len() {
            let mut less = whole.clone();
            less.remove(at);
            assert!(walk(&[less], None).is_err() || at == 4, "without line {at}");
            let mut twice = whole.clone();
            twice.insert(at, whole[at].clone());
            assert!(walk(&[twice], None).is_err() || whole[at].starts_with("{\"checkpoint\""), "line {at} twice");
            let cut = whole[..at].to_vec();
            assert!(
                at == 0 || walk(&[cut], None).is_err() || whole[at - 1].starts_with("{\"checkpoint\""),
                "cut at {at}"
            );
        }
        for (at, line) in whole.iter().enumerate() {
            for byte in (0..line.len()).step_by(7) {
                let mut bytes = line.clone().into_bytes();
                bytes[byte] ^= 1;
                let mut changed = whole.clone();
                changed[at] = String::from_utf8_lossy(&bytes).into_owned();
                assert!(walk(&[changed], None).is_err(), "line {at}, byte {byte}");
            }
        }
    }

    /// Whoever has the sealing key too can write the whole ledger anew: what was kept elsewhere shows it.
    #[test]
    fn a_history_that_was_written_anew_does_not_fit_what_was_kept() {
        let mut lines = vec![head_line(NAME, &Peaks::default())];
        let mut peaks = Peaks::default();
        for sequence in 0..7 {
            let line = if sequence == 3 { receipt(9) } else { receipt(sequence) };
            peaks.push(leaf_hash(line.as_bytes()));
            lines.push(line);
        }
        let forged = Checkpoint { origin: NAME.to_owned(), size: 7, root: peaks.root() };
        lines.push(checkpoint_line(&forged.sign(&key())));
        assert_eq!(walk(&[lines.clone()], None).unwrap().to, 7);
        assert!(walk(&[lines.clone()], Some(&checkpoint(3))).is_ok());
        assert!(walk(&[lines.clone()], Some(&checkpoint(5))).unwrap_err().contains("they were changed"));
        assert!(walk(&[lines, export(7, 9)], None).unwrap_err().contains("not those of the file before"));
    }
}
