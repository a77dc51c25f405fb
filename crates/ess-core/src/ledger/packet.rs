//! The packet for a court: what happened to one event, in files that a person and a program can read, and the check of it without
//! a hub.
//!
//! What is proven and what is only said are kept apart: receipts are leaves of the ledger's tree; everything else is what the hub
//! has on record, under the hub's signature over the manifest.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::Receipt;
use super::checkpoint::{Checkpoint, VerifierKey, open_note, sign_note};
use super::proof::Proof;
use crate::event::Content;
use crate::id::Digest;
use crate::signature::Ed25519Key;

/// The form of a packet.
pub const FORMAT: &str = "hms-ess-packet/1";
/// The list of files with their hashes.
pub const MANIFEST: &str = "manifest.json";
/// The hub's signature over it.
pub const MANIFEST_NOTE: &str = "manifest.note";
/// The event as it was recorded.
pub const EVENT: &str = "event.json";
/// When and by whom it was recorded.
pub const RECORD: &str = "record.json";
/// Every receipt, with the name of its proof.
pub const RECEIPTS: &str = "receipts.json";
/// The signed checkpoint that the proofs lead to.
pub const CHECKPOINT: &str = "checkpoint.txt";

/// Every file of a packet but itself and its signature.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// `hms-ess-packet/1`.
    pub format: String,
    /// The event's id.
    pub event: String,
    /// The dry run of this id.
    pub test: bool,
    /// When the packet was made, RFC 3339.
    pub made_at: String,
    /// File to SHA-256, hex.
    pub files: BTreeMap<String, String>,
}

impl Manifest {
    /// The file's text.
    #[must_use]
    pub fn write(&self) -> String {
        // Invariant: texts always serialise.
        let mut text = serde_json::to_string_pretty(self).expect("a manifest serialises");
        text.push('\n');
        text
    }

    /// The hub's signature over its text.
    #[must_use]
    pub fn sign(text: &str, key: &Ed25519Key, name: &str) -> String {
        sign_note(&format!("{FORMAT}\n{}\n", Digest::of(text.as_bytes())), key, name)
    }
}

/// What is on record about an event beside its content.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// The event's id.
    pub id: String,
    /// Its place in the Event Log.
    pub sequence: u64,
    /// What it is about.
    pub subject: String,
    /// When it was recorded, RFC 3339.
    pub recorded_at: String,
    /// Public name of the token that published it.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub published_by: Option<String>,
    /// SHA-256 of its content in canonical form, hex: what receipts name.
    pub event_sha256: String,
    /// Whether the payload is still there.
    pub payload: Payload,
    /// When and why it went, if it is not.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub gone: Option<String>,
    /// How many partners it was for.
    pub partners: u64,
    /// `traceparent` of the publish.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub traceparent: Option<String>,
    /// `x-hms-trace-id` of the publish.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub trace_id: Option<String>,
    /// `x-hms-docket-id` of the publish.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub docket_id: Option<String>,
    /// The ledger's name.
    pub ledger: String,
    /// The hub's program and version.
    pub program: String,
}

/// Whether an event's payload is still there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Payload {
    /// As it was published.
    Whole,
    /// Redacted or expired: its hash is left, and the proofs hold.
    Gone,
}

/// A receipt as a packet lists it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Listed {
    /// Its place in the ledger, from 0.
    pub index: u64,
    /// The file that proves it.
    pub proof: String,
    /// What was said.
    pub receipt: Receipt,
}

/// An event as a publisher writes it.
#[derive(Serialize)]
struct EventFile<'a> {
    id: &'a str,
    version: u32,
    subject: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    source: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    time: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    effective: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    expires: Option<&'a str>,
    priority: &'static str,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    references: Vec<&'a str>,
    kind: &'static str,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    test: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    payload: Option<&'a RawValue>,
}

/// The event's file: its payload byte for byte as it came; reading it gives the same content, of the same hash.
#[must_use]
pub fn write_event(content: &Content, payload: Payload) -> String {
    let file = EventFile {
        id: content.id.as_str(),
        version: content.version.0,
        subject: content.subject.as_str(),
        source: content.source.as_deref(),
        time: content.time.as_deref(),
        effective: content.effective.as_deref(),
        expires: content.expires.as_deref(),
        priority: content.priority.word(),
        references: content.references.iter().map(crate::id::EventId::as_str).collect(),
        kind: content.kind.word(),
        test: content.test,
        payload: (payload == Payload::Whole).then_some(&*content.payload),
    };
    // Invariant: texts, numbers and JSON always serialise.
    let mut text = serde_json::to_string(&file).expect("an event serialises");
    text.push('\n');
    text
}

/// What a packet was found to hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Checked {
    /// The event's id.
    pub event: String,
    /// The dry run of this id.
    pub test: bool,
    /// Its hash, hex.
    pub event_sha256: String,
    /// Whether its payload is there.
    pub payload: Payload,
    /// When the packet was made.
    pub made_at: String,
    /// Files, the manifest and its signature not counted.
    pub files: usize,
    /// Proven receipts.
    pub receipts: Vec<Receipt>,
    /// What their proofs lead to; absent when there is no receipt.
    pub checkpoint: Option<Checkpoint>,
}

/// Checks a packet with the verifier's key alone: the signature over the manifest, every file's hash, the event's hash, and the
/// proof of every receipt. `names` are the files that are there.
///
/// # Errors
/// The first thing that does not fit, with the file's name.
pub fn check<'a>(
    names: &BTreeSet<String>,
    mut read: impl FnMut(&str) -> Result<Cow<'a, [u8]>, String>,
    key: &VerifierKey,
) -> Result<Checked, String> {
    let mut text = |name: &str| {
        let bytes = read(name)?;
        String::from_utf8(bytes.into_owned()).map_err(|_| format!("{name}: it is not UTF-8"))
    };
    let manifest = check_manifest(&text(MANIFEST)?, &text(MANIFEST_NOTE)?, key)?;
    let is_listed = |name: &String| manifest.files.contains_key(name) || name == MANIFEST || name == MANIFEST_NOTE;
    if let Some(stranger) = names.iter().find(|name| !is_listed(name)) {
        return Err(format!("{stranger}: the manifest does not list it"));
    }
    for (name, expected) in &manifest.files {
        if !names.contains(name) {
            return Err(format!("{name}: it is missing"));
        }
        if Digest::of(&read(name)?).to_string() != *expected {
            return Err(format!("{name}: it was changed; its hash is not the manifest's"));
        }
        // Scripts and sent bytes are named by their hash: receipts lead to them by it.
        let named = name.split_once('/').filter(|(folder, _)| matches!(*folder, "scripts" | "tables" | "sent"));
        if let Some((_, file)) = named
            && file.split('.').next() != Some(expected.as_str())
        {
            return Err(format!("{name}: its name is not its hash"));
        }
    }
    let mut text = |name: &str| {
        let bytes = read(name)?;
        String::from_utf8(bytes.into_owned()).map_err(|_| format!("{name}: it is not UTF-8"))
    };
    let record: Record = parse(RECORD, &text(RECORD)?)?;
    if record.id != manifest.event {
        return Err(format!("{RECORD}: it is about another event"));
    }
    check_event(&text(EVENT)?, &record, manifest.test)?;
    let (receipts, checkpoint) = check_receipts(&manifest, &record, &mut text, key)?;
    Ok(Checked {
        event: manifest.event,
        test: manifest.test,
        event_sha256: record.event_sha256,
        payload: record.payload,
        made_at: manifest.made_at,
        files: manifest.files.len(),
        receipts,
        checkpoint,
    })
}

/// Every receipt by its proof, and what the proofs lead to.
fn check_receipts(
    manifest: &Manifest,
    record: &Record,
    text: &mut impl FnMut(&str) -> Result<String, String>,
    key: &VerifierKey,
) -> Result<(Vec<Receipt>, Option<Checkpoint>), String> {
    let listed: Vec<Listed> = parse(RECEIPTS, &text(RECEIPTS)?)?;
    let proofs: BTreeSet<&String> = manifest.files.keys().filter(|name| name.starts_with("proofs/")).collect();
    let named: BTreeSet<&String> = listed.iter().map(|one| &one.proof).collect();
    if proofs != named || named.len() != listed.len() {
        return Err(format!("{RECEIPTS}: not each receipt has a proof of its own"));
    }
    let mut checkpoint = None;
    for one in &listed {
        let proof = Proof::read(&text(&one.proof)?).map_err(|why| format!("{}: {why}", one.proof))?;
        let proven = proof.check(key).map_err(|why| format!("{}: {why}", one.proof))?;
        if (&proof.receipt, proof.index) != (&one.receipt, one.index) {
            return Err(format!("{}: it proves another receipt than {RECEIPTS} lists", one.proof));
        }
        let (receipt, test) = (&one.receipt, manifest.test);
        if receipt.event != manifest.event || receipt.event_sha256 != record.event_sha256 || receipt.test != test {
            return Err(format!("{}: its receipt is for another event", one.proof));
        }
        if proof.checkpoint != text(CHECKPOINT)? {
            return Err(format!("{}: it leads to another checkpoint than {CHECKPOINT}", one.proof));
        }
        checkpoint = Some(proven);
    }
    Ok((listed.into_iter().map(|one| one.receipt).collect(), checkpoint))
}

fn check_manifest(text: &str, note: &str, key: &VerifierKey) -> Result<Manifest, String> {
    let signed = open_note(note, key).map_err(|error| format!("{MANIFEST_NOTE}: {error}"))?;
    if signed != format!("{FORMAT}\n{}\n", Digest::of(text.as_bytes())) {
        return Err(format!("{MANIFEST}: it is not the one that the hub signed"));
    }
    let manifest: Manifest = parse(MANIFEST, text)?;
    if manifest.format != FORMAT {
        return Err(format!("{MANIFEST}: the form is {:?}, and {FORMAT:?} is understood", manifest.format));
    }
    Ok(manifest)
}

fn check_event(text: &str, record: &Record, test: bool) -> Result<(), String> {
    if record.payload == Payload::Gone {
        return Ok(());
    }
    let content =
        Content::from_json(text.as_bytes(), false).map_err(|problem| format!("{EVENT}: {}", problem.detail))?;
    let is_same = content.id.as_str() == record.id && content.test == test;
    if is_same && content.digest().to_string() == record.event_sha256 {
        return Ok(());
    }
    Err(format!("{EVENT}: its hash is not the one in {RECORD}"))
}

fn parse<T: for<'de> Deserialize<'de>>(name: &str, text: &str) -> Result<T, String> {
    serde_json::from_str(text).map_err(|error| format!("{name}: it can't be read: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ledger::merkle::{leaf_hash, node_hash};

    const NAME: &str = "hub.gov/ledger";

    type Files = BTreeMap<String, Vec<u8>>;

    fn key() -> Ed25519Key {
        Ed25519Key::from_seed([5; 32])
    }

    fn verifier() -> VerifierKey {
        VerifierKey::of(&key(), NAME)
    }

    fn receipt(content: &Content, partner: &str) -> Receipt {
        Receipt {
            event: content.id.to_string(),
            sequence: 1,
            event_sha256: content.digest().to_string(),
            test: false,
            partner: partner.to_owned(),
            word: "ack".to_owned(),
            at: "2026-11-23T12:00:00Z".to_owned(),
            evidence: "body".to_owned(),
            round: 0,
            attempt: 1,
            version: 3,
            partner_seq: Some(1),
            body_sha256: "11".repeat(32),
            scripts: Vec::new(),
            reason: None,
        }
    }

    fn content() -> Content {
        let text = r#"{"id":"RULE-V3","version":3,"source":"s","references":["RULE-V2"],"payload":{"b": 1.10, "a":[9007199254740993]}}"#;
        Content::from_json(text.as_bytes(), false).unwrap()
    }

    /// A packet of two receipts.
    fn files(payload: Payload) -> Files {
        let content = content();
        let receipts = ["A", "B"].map(|partner| receipt(&content, partner));
        let leaves = receipts.each_ref().map(|receipt| leaf_hash(receipt.line().as_bytes()));
        let root = node_hash(&leaves[0], &leaves[1]);
        let checkpoint = Checkpoint { origin: NAME.to_owned(), size: 2, root }.sign(&key());
        let mut files = Files::new();
        let mut listed = Vec::new();
        for (index, receipt) in receipts.into_iter().enumerate() {
            let name = format!("proofs/{}.json", receipt.partner);
            let path = vec![leaves[1 - index]];
            let proof = Proof { receipt: receipt.clone(), index: index as u64, path, checkpoint: checkpoint.clone() };
            files.insert(name.clone(), proof.write().into_bytes());
            listed.push(Listed { index: index as u64, proof: name, receipt });
        }
        files.insert(CHECKPOINT.to_owned(), checkpoint.into_bytes());
        files.insert(RECEIPTS.to_owned(), serde_json::to_vec(&listed).unwrap());
        files.insert(EVENT.to_owned(), write_event(&content, payload).into_bytes());
        files.insert(format!("scripts/{}.jsonata", Digest::of(b"$")), b"$".to_vec());
        let record = Record {
            id: content.id.to_string(),
            sequence: 1,
            subject: content.subject.to_string(),
            recorded_at: "2026-11-23T12:00:00Z".to_owned(),
            published_by: Some("tok_1".to_owned()),
            event_sha256: content.digest().to_string(),
            payload,
            gone: None,
            partners: 2,
            traceparent: None,
            trace_id: None,
            docket_id: None,
            ledger: NAME.to_owned(),
            program: "hms-ess".to_owned(),
        };
        files.insert(RECORD.to_owned(), serde_json::to_vec(&record).unwrap());
        seal(&mut files);
        files
    }

    /// The manifest and its signature, made anew.
    fn seal(files: &mut Files) {
        files.retain(|name, _| name != MANIFEST && name != MANIFEST_NOTE);
        let manifest = Manifest {
            format: FORMAT.to_owned(),
            event: "RULE-V3".to_owned(),
            test: false,
            made_at: "2026-11-23T12:00:00Z".to_owned(),
            files: files.iter().map(|(name, bytes)| (name.clone(), Digest::of(bytes).to_string())).collect(),
        }
        .write();
        files.insert(MANIFEST_NOTE.to_owned(), Manifest::sign(&manifest, &key(), NAME).into_bytes());
        files.insert(MANIFEST.to_owned(), manifest.into_bytes());
    }

    fn checked(files: &Files) -> Result<Checked, String> {
        let names = files.keys().cloned().collect();
        let read = |name: &str| {
            files.get(name).map(|bytes| Cow::Borrowed(bytes.as_slice())).ok_or_else(|| format!("{name}: missing"))
        };
        check(&names, read, &verifier())
    }

    #[test]
    fn a_packet_holds_with_the_key_alone() {
        let found = checked(&files(Payload::Whole)).unwrap();
        assert_eq!((found.event.as_str(), found.receipts.len(), found.files), ("RULE-V3", 2, 7));
        assert_eq!(found.checkpoint.unwrap().size, 2);
        let other = VerifierKey::of(&Ed25519Key::from_seed([6; 32]), NAME);
        let names = files(Payload::Whole).keys().cloned().collect();
        let files = files(Payload::Whole);
        let refused = check(&names, |name| Ok(Cow::Borrowed(files[name].as_slice())), &other).unwrap_err();
        assert!(refused.starts_with(MANIFEST_NOTE), "{refused}");
    }

    #[test]
    fn a_packet_whose_payload_is_gone_still_proves_its_receipts() {
        let files = files(Payload::Gone);
        assert!(!String::from_utf8_lossy(&files[EVENT]).contains("payload"));
        let found = checked(&files).unwrap();
        assert_eq!((found.payload, found.receipts.len()), (Payload::Gone, 2));
    }

    #[test]
    fn the_events_file_keeps_every_digit_and_its_hash() {
        let content = content();
        let text = write_event(&content, Payload::Whole);
        assert!(text.contains(r#""payload":{"b": 1.10, "a":[9007199254740993]}"#), "{text}");
        assert_eq!(Content::from_json(text.as_bytes(), false).unwrap().digest(), content.digest());
    }

    #[test]
    fn any_changed_missing_or_added_file_is_named() {
        let whole = files(Payload::Whole);
        for name in whole.keys() {
            for at in [0, whole[name].len() / 2, whole[name].len() - 1] {
                let mut changed = whole.clone();
                changed.get_mut(name).unwrap()[at] ^= 1;
                let why = checked(&changed).expect_err(name);
                let is_named = why.starts_with(name.as_str()) || (name == MANIFEST_NOTE && why.starts_with(MANIFEST));
                assert!(is_named, "{name}: {why}");
            }
            let mut without = whole.clone();
            without.remove(name);
            assert!(checked(&without).unwrap_err().starts_with(name.as_str()));
        }
        let mut more = whole;
        more.insert("proofs/C.json".to_owned(), Vec::new());
        assert!(checked(&more).unwrap_err().starts_with("proofs/C.json"));
    }

    /// Somebody with the hub's key can sign anything, and still can't make a receipt that the ledger has not.
    #[test]
    fn what_does_not_fit_together_is_refused_even_under_the_hubs_signature() {
        let refused = |change: &dyn Fn(&mut Files), why: &str| {
            let mut files = files(Payload::Whole);
            change(&mut files);
            seal(&mut files);
            let found = checked(&files).unwrap_err();
            assert!(found.contains(why), "{found}");
        };
        let swap = |files: &mut Files, name: &str, from: &str, to: &str| {
            let text = String::from_utf8(files[name].clone()).unwrap();
            assert!(text.contains(from), "{name} has no {from}");
            files.insert(name.to_owned(), text.replace(from, to).into_bytes());
        };
        refused(&|files| swap(files, EVENT, "1.10", "1.11"), "event.json: its hash");
        refused(&|files| swap(files, RECEIPTS, "12:00:00Z", "11:00:00Z"), "it proves another receipt");
        refused(&|files| swap(files, "proofs/A.json", "12:00:00Z", "11:00:00Z"), "proofs/A.json: the receipt is not");
        refused(&|files| drop(files.remove("proofs/A.json")), "receipts.json: not each receipt");
        refused(&|files| swap(files, RECORD, "RULE-V3", "RULE-V4"), "record.json: it is about another event");
        let script = format!("scripts/{}.jsonata", Digest::of(b"$"));
        refused(&|files| files.get_mut(&script).unwrap().push(b' '), "its name is not its hash");
    }

    proptest::proptest! {
        #[test]
        fn any_bytes_are_checked_and_nothing_panics(text in "\\PC{0,200}", at in 0_usize..20) {
            let mut files = files(Payload::Whole);
            let name = files.keys().nth(at % files.len()).unwrap().clone();
            let was = files.insert(name, text.clone().into_bytes()); // by chance its own: the script is a single `$`
            proptest::prop_assert!(checked(&files).is_err() || was.is_some_and(|was| was == text.as_bytes()));
        }
    }
}
