//! A packet for a court as it lies on this machine, and its check with nothing but the key.
//!
//! A packet may come from anybody: nothing of it is unpacked, and what is read of it is bounded.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::Read as _;
use std::path::{Path, PathBuf};

use ess_core::ledger::checkpoint::VerifierKey;
use ess_core::ledger::packet::{Checked, Payload, check};
use rawzip::{CompressionMethod, ZipArchive, ZipArchiveEntryWayfinder, ZipSliceArchive};
use serde_json::json;

use crate::failure::{Failure, Result};
use crate::output::Output;

/// Bytes of a packet that are read.
const PACKET_BYTES_MAX: u64 = 1 << 30;
/// Files of a packet.
const FILES_MAX: usize = 1_000_000;
/// How a zip file begins.
const ZIP_MAGIC: [u8; 4] = *b"PK\x03\x04";

/// The files of a packet.
pub(crate) enum Files {
    /// Unpacked.
    Folder(PathBuf, BTreeSet<String>),
    /// As it came.
    Zip(ZipSliceArchive<Vec<u8>>, BTreeMap<String, ZipArchiveEntryWayfinder>),
}

/// Opens a packet; `None` when it is something else.
pub(crate) fn open(file: &Path) -> Result<Option<Files>> {
    let unreadable = |error| Failure::io(format_args!("could not read {}", file.display()), &error);
    if file.is_dir() {
        let mut names = BTreeSet::new();
        list(file, "", &mut names)?;
        return Ok(Some(Files::Folder(file.to_owned(), names)));
    }
    if file == Path::new("-") {
        return Ok(None);
    }
    let mut open = File::open(file).map_err(unreadable)?;
    let mut bytes = Vec::new();
    (&mut open).take(ZIP_MAGIC.len() as u64).read_to_end(&mut bytes).map_err(unreadable)?;
    if bytes != ZIP_MAGIC {
        return Ok(None);
    }
    open.take(PACKET_BYTES_MAX).read_to_end(&mut bytes).map_err(unreadable)?;
    from_zip(bytes).map(Some).map_err(|why| Failure::refused(format!("{}: {why}", file.display())))
}

/// The files of a zip file.
pub(crate) fn from_zip(bytes: Vec<u8>) -> std::result::Result<Files, String> {
    let broken = |error: rawzip::Error| format!("the zip file is damaged: {error}");
    let archive = ZipArchive::from_slice(bytes).map_err(broken)?;
    let mut found = BTreeMap::new();
    let mut entries = archive.entries();
    while let Some(entry) = entries.next_entry().map_err(broken)? {
        let name = String::from_utf8(entry.file_path().as_bytes().to_vec())
            .map_err(|_| "the zip file has a name that is no text".to_owned())?;
        if entry.is_dir() {
            continue;
        }
        if entry.compression_method() != CompressionMethod::STORE {
            return Err(format!("{name} is compressed: the packet was packed anew; unpack it and name the folder"));
        }
        if found.len() == FILES_MAX {
            return Err(format!("the zip file has over {FILES_MAX} files"));
        }
        if found.insert(name.clone(), entry.wayfinder()).is_some() {
            return Err(format!("{name} stands twice in the zip file"));
        }
    }
    Ok(Files::Zip(archive, found))
}

fn list(dir: &Path, prefix: &str, names: &mut BTreeSet<String>) -> Result<()> {
    let unreadable = |error| Failure::io(format_args!("could not read {}", dir.display()), &error);
    for entry in std::fs::read_dir(dir).map_err(unreadable)? {
        let entry = entry.map_err(unreadable)?;
        let name = format!("{prefix}{}", entry.file_name().to_string_lossy());
        // A packet has folders of files and none deeper.
        if entry.file_type().map_err(unreadable)?.is_dir() && prefix.is_empty() {
            list(&entry.path(), &format!("{name}/"), names)?;
        } else {
            names.insert(name);
        }
        if names.len() > FILES_MAX {
            return Err(Failure::refused(format!("{} has over {FILES_MAX} files", dir.display())));
        }
    }
    Ok(())
}

impl Files {
    fn names(&self) -> BTreeSet<String> {
        match self {
            Files::Folder(_, names) => names.clone(),
            Files::Zip(_, found) => found.keys().cloned().collect(),
        }
    }

    fn read(&self, name: &str) -> std::result::Result<Cow<'_, [u8]>, String> {
        let missing = || format!("{name}: it is missing");
        match self {
            Files::Folder(dir, names) => {
                // Names of the manifest lead to files that are in the folder, and nowhere else.
                let name_here = names.get(name).ok_or_else(missing)?;
                let file = File::open(dir.join(name_here));
                let mut bytes = Vec::new();
                let read = file.and_then(|file| file.take(PACKET_BYTES_MAX).read_to_end(&mut bytes));
                read.map(|_| Cow::Owned(bytes)).map_err(|error| format!("{name}: {}", crate::failure::plain(&error)))
            }
            Files::Zip(archive, found) => {
                let wayfinder = found.get(name).ok_or_else(missing)?;
                let entry = archive.get_entry(*wayfinder).map_err(|error| format!("{name}: {error}"))?;
                Ok(Cow::Borrowed(entry.data()))
            }
        }
    }

    /// Checks the packet.
    pub(crate) fn check(&self, key: &VerifierKey) -> std::result::Result<Checked, String> {
        check(&self.names(), |name| self.read(name), key)
    }
}

/// Checks a packet and says what it holds.
pub(crate) fn verify(file: &Path, files: &Files, key: &VerifierKey, output: &Output) -> Result<()> {
    let checked = files.check(key).map_err(|why| super::broken(file, &why))?;
    if output.json {
        let receipts: Vec<serde_json::Value> =
            checked.receipts.iter().filter_map(|receipt| serde_json::from_str(&receipt.line()).ok()).collect();
        return output.json(&json!({
            "proven": true,
            "event": checked.event,
            "test": checked.test,
            "event_sha256": checked.event_sha256,
            "payload": checked.payload,
            "made_at": checked.made_at,
            "files": checked.files,
            "receipts": receipts,
            "checkpoint": checked.checkpoint.map(|checkpoint| json!({
                "origin": checkpoint.origin, "size": checkpoint.size, "root": checkpoint.root.to_string(),
            })),
        }));
    }
    output.text(&words(&checked))
}

/// What a packet holds, in words.
pub(crate) fn words(checked: &Checked) -> String {
    let acks = checked.receipts.iter().filter(|receipt| receipt.word == "ack").count();
    let nacks = checked.receipts.len() - acks;
    let test = if checked.test { "the dry run " } else { "" };
    let mut text = format!("whole: the packet of {test}{}, made at {}\n", checked.event, checked.made_at);
    text.push_str(&format!("  {} files as the hub signed them\n", checked.files));
    match checked.payload {
        Payload::Whole => text.push_str(&format!("  event, SHA-256: {}\n", checked.event_sha256)),
        Payload::Gone => {
            text.push_str("  the event's payload was redacted or is over its time; the receipts name its hash\n")
        }
    }
    match &checked.checkpoint {
        None => text.push_str("  no receipt yet: nothing to prove\n"),
        Some(checkpoint) => text.push_str(&format!(
            "  proven: {acks} acknowledged, {nacks} refused, in the ledger {} of {} receipts\n",
            checkpoint.origin, checkpoint.size
        )),
    }
    text
}
