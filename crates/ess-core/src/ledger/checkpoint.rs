//! Signed checkpoints: what the ledger's tree was at a moment, as a C2SP tlog-checkpoint in a signed note, which public tools read.
//!
//! <https://c2sp.org/tlog-checkpoint>, <https://c2sp.org/signed-note>.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use sha2::{Digest as _, Sha256};

use crate::id::Digest;
use crate::signature::{Ed25519Key, Ed25519Public};

/// What kind of key a note's key id says.
const ED25519: u8 = 1;

/// How large the tree was, and its root.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Checkpoint {
    /// The ledger's name: it stands in the note and in the verifier's key.
    pub origin: String,
    /// Leaves.
    pub size: u64,
    /// Root.
    pub root: Digest,
}

/// Why a note is no checkpoint of this ledger.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NoCheckpoint {
    /// It does not have the form.
    #[error("this is no checkpoint: {0}")]
    Form(&'static str),
    /// Another key signed it, or none.
    #[error("the checkpoint is not signed by the key {0}")]
    Unsigned(String),
    /// The signature does not fit the text.
    #[error("the checkpoint's signature does not fit: it was changed, or made by another key")]
    Forged,
}

/// The key that checkpoints are verified by, `name+hash+base64`: all that an auditor needs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VerifierKey {
    name: String,
    public: Ed25519Public,
}

impl VerifierKey {
    /// The verifier's key of a signing key under a name.
    #[must_use]
    pub fn of(key: &Ed25519Key, name: &str) -> Self {
        Self { name: name.to_owned(), public: key.public_key() }
    }

    /// Reads `name+hash+base64`.
    ///
    /// # Errors
    /// In plain words.
    pub fn parse(text: &str) -> Result<Self, &'static str> {
        let mut parts = text.trim().splitn(3, '+');
        let (Some(name), Some(hash), Some(encoded)) = (parts.next(), parts.next(), parts.next()) else {
            return Err("a verifier's key has the form name+hash+base64");
        };
        let bytes = STANDARD.decode(encoded).map_err(|_| "the key is not base64")?;
        let Some((&ED25519, bytes)) = bytes.split_first() else { return Err("the key is not an Ed25519 key") };
        let bytes: [u8; 32] = bytes.try_into().map_err(|_| "an Ed25519 key has 32 bytes")?;
        let public = Ed25519Public::from_bytes(bytes).ok_or("the key is no point of the curve")?;
        let key = Self { name: name.to_owned(), public };
        if key.hash_text() == hash { Ok(key) } else { Err("the key's hash does not fit the key") }
    }

    /// The name of the ledger that it verifies.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    fn hash(&self) -> [u8; 4] {
        let hash =
            Sha256::new().chain_update(&self.name).chain_update([b'\n', ED25519]).chain_update(self.public.bytes());
        let hash: [u8; 32] = hash.finalize().into();
        [hash[0], hash[1], hash[2], hash[3]]
    }

    fn hash_text(&self) -> String {
        self.hash().iter().map(|byte| format!("{byte:02x}")).collect()
    }
}

impl std::fmt::Display for VerifierKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut bytes = vec![ED25519];
        bytes.extend_from_slice(&self.public.bytes());
        write!(f, "{}+{}+{}", self.name, self.hash_text(), STANDARD.encode(bytes))
    }
}

impl Checkpoint {
    /// The note's text, the empty line before the signatures not included.
    #[must_use]
    pub fn text(&self) -> String {
        format!("{}\n{}\n{}\n", self.origin, self.size, STANDARD.encode(self.root.0))
    }

    /// The signed note.
    #[must_use]
    pub fn sign(&self, key: &Ed25519Key) -> String {
        sign_note(&self.text(), key, &self.origin)
    }

    /// Reads a signed note and checks its signature.
    ///
    /// # Errors
    /// It has not the form, or this key did not sign it.
    pub fn open(note: &str, key: &VerifierKey) -> Result<Self, NoCheckpoint> {
        let text = note.split_once("\n\n").ok_or(NoCheckpoint::Form("there is no signature"))?.0;
        let checkpoint = Self::read(&format!("{text}\n"))?;
        open_note(note, key)?;
        if checkpoint.origin == key.name { Ok(checkpoint) } else { Err(NoCheckpoint::Forged) }
    }

    fn read(text: &str) -> Result<Self, NoCheckpoint> {
        let mut lines = text.lines();
        let origin = lines.next().filter(|line| !line.is_empty()).ok_or(NoCheckpoint::Form("there is no origin"))?;
        let size = lines.next().filter(|line| *line == "0" || !line.starts_with('0'));
        let size =
            size.filter(|line| line.bytes().all(|byte| byte.is_ascii_digit())).and_then(|line| line.parse().ok());
        let root = lines.next().and_then(|line| STANDARD.decode(line).ok()).and_then(|bytes| bytes.try_into().ok());
        match (size, root) {
            (Some(size), Some(root)) => Ok(Self { origin: origin.to_owned(), size, root: Digest(root) }),
            (None, _) => Err(NoCheckpoint::Form("the second line is no size")),
            (_, None) => Err(NoCheckpoint::Form("the third line is no root")),
        }
    }
}

/// A text under a signature, as C2SP signed-note has it. What the text says must tell it apart from a checkpoint.
#[must_use]
pub fn sign_note(text: &str, key: &Ed25519Key, name: &str) -> String {
    let mut signature = VerifierKey::of(key, name).hash().to_vec();
    signature.extend_from_slice(&key.sign(text.as_bytes()));
    format!("{text}\n— {name} {}\n", STANDARD.encode(signature))
}

/// The text of a signed note, its last line end included.
///
/// # Errors
/// It has not the form, or this key did not sign it.
pub fn open_note(note: &str, key: &VerifierKey) -> Result<String, NoCheckpoint> {
    let (text, signatures) = note.split_once("\n\n").ok_or(NoCheckpoint::Form("there is no signature"))?;
    let text = format!("{text}\n");
    let ours = signatures.lines().filter_map(|line| line.strip_prefix("— ")?.split_once(' '));
    let ours = ours.filter(|(name, _)| *name == key.name).filter_map(|(_, encoded)| STANDARD.decode(encoded).ok());
    for signature in ours {
        let Some((hash, signature)) = signature.split_at_checked(4) else { continue };
        if hash != key.hash() {
            continue;
        }
        let signature: [u8; 64] = signature.try_into().map_err(|_| NoCheckpoint::Forged)?;
        return if key.public.verify(text.as_bytes(), &signature) { Ok(text) } else { Err(NoCheckpoint::Forged) };
    }
    Err(NoCheckpoint::Unsigned(key.name.clone()))
}

/// The notes of a file that holds one after the other, with an empty line between.
pub fn notes(text: &str) -> impl Iterator<Item = &str> {
    let mut rest = text;
    std::iter::from_fn(move || {
        rest = rest.trim_start_matches('\n');
        let end = note_end(rest)?;
        let (note, after) = rest.split_at(end);
        rest = after;
        Some(note)
    })
}

/// The last whole note of such a file, and where it ends. What stands before the first one is passed over: the file's end may be
/// all that was read.
#[must_use]
pub fn last_note(text: &str) -> Option<(&str, usize)> {
    // A signature's line begins with a long dash, the text before it stands between two empty lines.
    let at = text.match_indices("\n\n— ").map(|(at, _)| at).filter(|at| text[at + 2..].contains('\n')).last()?;
    let start = text[..at].rfind("\n\n").map_or(0, |before| before + 2);
    let note = &text[start..];
    let end = note_end(note)?;
    Some((&note[..end], start + end))
}

/// Where the note at the text's beginning ends: after its last signature's line.
fn note_end(text: &str) -> Option<usize> {
    let mut end = text.find("\n\n")? + 2;
    let start = end;
    while let Some(line) = text[end..].split_inclusive('\n').next().filter(|line| line.starts_with("— ")) {
        if !line.ends_with('\n') {
            break;
        }
        end += line.len();
    }
    (end > start).then_some(end)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn checkpoint() -> (Ed25519Key, Checkpoint) {
        let root = Digest([7; 32]);
        (Ed25519Key::from_seed([3; 32]), Checkpoint { origin: "hub.gov/ledger".to_owned(), size: 42, root })
    }

    #[test]
    fn a_note_has_the_form_of_c2sp_and_opens_with_the_verifiers_key() {
        let (key, checkpoint) = checkpoint();
        let note = checkpoint.sign(&key);
        let root = STANDARD.encode([7; 32]);
        assert!(note.starts_with(&format!("hub.gov/ledger\n42\n{root}\n\n— hub.gov/ledger ")), "{note}");
        let verifier = VerifierKey::of(&key, "hub.gov/ledger");
        let read = VerifierKey::parse(&verifier.to_string()).unwrap();
        assert_eq!((&read, Checkpoint::open(&note, &read)), (&verifier, Ok(checkpoint)));
    }

    #[test]
    fn another_key_or_text_does_not_open_it() {
        let (key, checkpoint) = checkpoint();
        let (note, verifier) = (checkpoint.sign(&key), VerifierKey::of(&key, "hub.gov/ledger"));
        assert_eq!(Checkpoint::open(&note.replace("\n42\n", "\n43\n"), &verifier), Err(NoCheckpoint::Forged));
        let other = VerifierKey::of(&Ed25519Key::from_seed([4; 32]), "hub.gov/ledger");
        assert!(matches!(Checkpoint::open(&note, &other), Err(NoCheckpoint::Unsigned(_))));
        let renamed = VerifierKey::of(&key, "elsewhere.gov");
        assert!(matches!(Checkpoint::open(&note, &renamed), Err(NoCheckpoint::Unsigned(_))));
        for wrong in ["", "a", "a\n1\n\n", "a\nx\nAAAA\n\n— a b\n", "a\n01\nAAAA\n\n— a b\n"] {
            assert!(matches!(Checkpoint::open(wrong, &verifier), Err(NoCheckpoint::Form(_))), "{wrong:?}");
        }
        assert!(VerifierKey::parse("name+00000000+AQID").is_err());
    }

    proptest::proptest! {
        #[test]
        fn any_text_is_refused_or_read(text in "\\PC{0,80}", more in ".{0,80}") {
            let (key, _) = checkpoint();
            let _ = Checkpoint::open(&format!("{text}\n\n{more}"), &VerifierKey::of(&key, "hub.gov/ledger"));
            let _ = VerifierKey::parse(&text);
        }
    }
}
