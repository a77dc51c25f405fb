//! A proof that a receipt is in the ledger: a small file that anybody checks with the verifier's key alone.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};

use super::Receipt;
use super::checkpoint::{Checkpoint, VerifierKey};
use super::merkle::{includes, leaf_hash};
use crate::id::Digest;

/// The form of the file.
const FORMAT: &str = "hms-ess-proof/1";
/// No proof is larger.
pub const PROOF_BYTES_MAX: usize = 64 * 1024;

/// A receipt with the way from it to a signed root.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Proof {
    /// What is proven.
    pub receipt: Receipt,
    /// Its place in the ledger, from 0.
    pub index: u64,
    /// From the leaf up.
    pub path: Vec<Digest>,
    /// The signed note.
    pub checkpoint: String,
}

/// The file as it is written.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    format: String,
    receipt: Receipt,
    index: u64,
    path: Vec<String>,
    checkpoint: String,
}

impl Proof {
    /// The file's text.
    #[must_use]
    pub fn write(&self) -> String {
        let file = File {
            format: FORMAT.to_owned(),
            receipt: self.receipt.clone(),
            index: self.index,
            path: self.path.iter().map(|step| STANDARD.encode(step.0)).collect(),
            checkpoint: self.checkpoint.clone(),
        };
        // Invariant: texts and numbers always serialise.
        let mut text = serde_json::to_string_pretty(&file).expect("a proof serialises");
        text.push('\n');
        text
    }

    /// Reads a file; whether it proves anything is another question.
    ///
    /// # Errors
    /// In plain words.
    pub fn read(text: &str) -> Result<Self, String> {
        if text.len() > PROOF_BYTES_MAX {
            return Err(format!("this is no proof: it has over {PROOF_BYTES_MAX} bytes"));
        }
        let file: File = serde_json::from_str(text).map_err(|error| format!("this is no proof: {error}"))?;
        if file.format != FORMAT {
            return Err(format!("this is a proof of the form {:?}, and {FORMAT:?} is understood", file.format));
        }
        let step = |encoded: &String| {
            let bytes = STANDARD.decode(encoded).ok().and_then(|bytes| bytes.try_into().ok());
            bytes.map(Digest).ok_or_else(|| "this is no proof: a step of its path is no hash".to_owned())
        };
        let path = file.path.iter().map(step).collect::<Result<_, _>>()?;
        Ok(Self { receipt: file.receipt, index: file.index, path, checkpoint: file.checkpoint })
    }

    /// Checks everything with the verifier's key: the checkpoint that the receipt is in.
    ///
    /// # Errors
    /// What does not fit, in plain words.
    pub fn check(&self, key: &VerifierKey) -> Result<Checkpoint, String> {
        let checkpoint = Checkpoint::open(&self.checkpoint, key).map_err(|error| error.to_string())?;
        let leaf = leaf_hash(self.receipt.line().as_bytes());
        if includes(&leaf, self.index, &self.path, checkpoint.size, &checkpoint.root) {
            return Ok(checkpoint);
        }
        Err(format!(
            "the receipt is not in the ledger of the checkpoint: it was changed, or it is not number {} of {}",
            self.index, checkpoint.size
        ))
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use super::*;
    use crate::ledger::merkle::{inclusion, node_hash, root};
    use crate::signature::Ed25519Key;

    fn receipt(sequence: u64) -> Receipt {
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
            partner_seq: Some(sequence),
            body_sha256: "11".repeat(32),
            scripts: vec!["22".repeat(32)],
            reason: None,
        }
    }

    #[test]
    fn a_receipts_line_stays_as_it_is() {
        let zeros = "00".repeat(32);
        let (ones, twos) = ("11".repeat(32), "22".repeat(32));
        assert_eq!(
            receipt(3).line(),
            format!(
                r#"{{"event":"RULE-V3","sequence":3,"event_sha256":"{zeros}","partner":"COURT-CAL","word":"ack","at":"2026-11-23T12:00:00Z","evidence":"body","round":0,"attempt":1,"version":1,"partner_seq":3,"body_sha256":"{ones}","scripts":["{twos}"]}}"#
            )
        );
    }

    #[test]
    fn a_proof_holds_and_no_changed_character_of_it_does() {
        let leaves: Vec<Digest> = (1..=5).map(|sequence| leaf_hash(receipt(sequence).line().as_bytes())).collect();
        let mut node = |level: u32, index: u64| -> Result<Digest, Infallible> {
            let start = (index << level) as usize;
            Ok(fold(&leaves[start..start + (1 << level)]))
        };
        let key = Ed25519Key::from_seed([9; 32]);
        let checkpoint = Checkpoint { origin: "hub.gov".to_owned(), size: 5, root: root(5, &mut node).unwrap() };
        let path = inclusion(2, 5, &mut node).unwrap();
        let proof = Proof { receipt: receipt(3), index: 2, path, checkpoint: checkpoint.sign(&key) };
        let verifier = VerifierKey::of(&key, "hub.gov");
        let text = proof.write();
        assert_eq!(Proof::read(&text).unwrap().check(&verifier), Ok(checkpoint));
        for at in 0..text.len() {
            let mut bytes = text.clone().into_bytes();
            bytes[at] ^= 1;
            let Ok(changed) = String::from_utf8(bytes) else { continue };
            if let Ok(other) = Proof::read(&changed) {
                assert!(other.check(&verifier).is_err() || other == proof, "byte {at} was not missed");
            }
        }
    }

    /// The root of a whole subtree.
    fn fold(leaves: &[Digest]) -> Digest {
        match leaves {
            [leaf] => *leaf,
            _ => {
                let (left, right) = leaves.split_at(leaves.len() / 2);
                node_hash(&fold(left), &fold(right))
            }
        }
    }
}
