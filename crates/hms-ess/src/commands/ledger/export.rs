//! `hms-ess ledger export`, and the check of what it wrote: the whole ledger without a hub.

use std::fs::File;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::path::{Path, PathBuf};

use ess_core::ledger::checkpoint::{Checkpoint, VerifierKey};
use ess_core::ledger::export::{FORMAT, LINE_BYTES_MAX, Walk};
use http_body_util::BodyExt as _;
use serde_json::json;

use crate::client::Client;
use crate::failure::{Failure, Result};
use crate::output::Output;

/// How files of a directory end.
const EXTENSION: &str = "ledger";

/// Prints every receipt as the API lists it.
pub(super) async fn print(after: Option<u64>, client: &Client, output: &Output) -> Result<()> {
    // The API counts from 0 and leaves the named one out.
    let mut after = after.filter(|after| *after > 0).map(|after| (after - 1).to_string());
    loop {
        let path = match &after {
            Some(after) => format!("/v1/ledger?limit=1000&after={after}"),
            None => "/v1/ledger?limit=1000".to_owned(),
        };
        let page = client.get(&path).await?;
        for item in page["items"].as_array().into_iter().flatten() {
            output.line(item)?;
        }
        match page["next"].as_str() {
            Some(next) => after = Some(next.to_owned()),
            None => return Ok(()),
        }
    }
}

/// Writes the ledger into a file, or what is new into a directory.
pub(super) async fn write(out: &Path, after: Option<u64>, client: &Client, output: &Output) -> Result<()> {
    let is_dir = out.is_dir() || out.as_os_str().to_string_lossy().ends_with('/');
    let failed = |path: &Path| {
        let path = path.display().to_string();
        move |error| Failure::io(format_args!("could not write {path}"), &error)
    };
    if is_dir {
        std::fs::create_dir_all(out).map_err(failed(out))?;
    }
    let known = if is_dir { in_directory(out)?.last().and_then(|file| range(file)).map(|(_, to)| to) } else { None };
    let from = after.or(known).unwrap_or(0);
    let part = if is_dir { out.join("new.part") } else { out.with_extension("part") };
    let mut body = client.open(&format!("/v1/ledger/export?from={from}")).await?.body;
    let mut file = File::create(&part).map_err(failed(&part))?;
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|error| Failure::refused(format!("the hub's export broke off: {error}")))?;
        if let Ok(bytes) = frame.into_data() {
            file.write_all(&bytes).map_err(failed(&part))?;
        }
    }
    file.sync_all().map_err(failed(&part))?;
    let key = client.get("/v1/ledger/checkpoint").await?;
    let key = VerifierKey::parse(&super::field(&key, "verifier_key")).map_err(Failure::refused)?;
    let mut walk = Walk::new(&key, None);
    walk_file(&part, &mut walk)?;
    let walked = walk.end().map_err(|why| Failure::refused(format!("the hub's export does not hold: {why}")))?;
    let path =
        if is_dir { out.join(format!("{:020}-{:020}.{EXTENSION}", walked.from, walked.to)) } else { out.to_owned() };
    std::fs::rename(&part, &path).map_err(failed(&path))?;
    if output.json {
        return output.json(&json!({"export": path.display().to_string(), "from": walked.from, "to": walked.to}));
    }
    let count = walked.to - walked.from;
    output.line(format_args!("{}: {count} receipts, up to {}", path.display(), walked.to))
}

/// The files of an export, in their order; `None` when it is something else.
pub(super) fn files(path: &Path) -> Result<Option<Vec<PathBuf>>> {
    if path.is_dir() {
        let files = in_directory(path)?;
        return Ok((!files.is_empty()).then_some(files));
    }
    let Ok(file) = File::open(path) else { return Ok(None) };
    let mut begin = Vec::new();
    let magic = format!("{{\"format\":\"{FORMAT}\"");
    let read = file.take(magic.len() as u64).read_to_end(&mut begin);
    read.map_err(|error| Failure::io(format_args!("could not read {}", path.display()), &error))?;
    Ok((begin == magic.as_bytes()).then(|| vec![path.to_owned()]))
}

/// Checks an export with nothing but the key.
pub(super) fn verify(files: &[PathBuf], kept: Option<&Checkpoint>, key: &VerifierKey, output: &Output) -> Result<()> {
    let mut walk = Walk::new(key, kept);
    for file in files {
        walk_file(file, &mut walk)?;
    }
    let last = files.last().map(|file| file.display().to_string()).unwrap_or_default();
    let walked = walk.end().map_err(|why| Failure::refused(format!("{last}: {why}")))?;
    if output.json {
        return output.json(&json!({
            "whole": true, "from": walked.from, "to": walked.to, "root": walked.root.to_string(),
            "checkpoints": walked.checkpoints, "continues": kept.map(|kept| kept.size),
        }));
    }
    output.line(format_args!(
        "whole: receipts {} to {} of the ledger {}, under {} checkpoints",
        walked.from,
        walked.to,
        key.name(),
        walked.checkpoints
    ))?;
    match kept {
        Some(kept) => output.line(format_args!("  it continues the checkpoint of {}", kept.size)),
        None => Ok(()),
    }
}

/// Walks along a file, a line at a time.
fn walk_file(path: &Path, walk: &mut Walk<'_>) -> Result<()> {
    let unreadable = |error| Failure::io(format_args!("could not read {}", path.display()), &error);
    let mut reader = BufReader::new(File::open(path).map_err(unreadable)?);
    let mut line = Vec::new();
    for number in 1_u64.. {
        line.clear();
        let most = LINE_BYTES_MAX as u64 + 1;
        let count = reader.by_ref().take(most).read_until(b'\n', &mut line).map_err(unreadable)?;
        if count == 0 {
            break;
        }
        let refused = |why: &str| Failure::refused(format!("{}:{number}: {why}", path.display()));
        // A line without its end was cut off, or is none.
        let text = line.strip_suffix(b"\n").ok_or_else(|| refused("it is cut off within a line"))?;
        let text = std::str::from_utf8(text).map_err(|_| refused("it is not UTF-8"))?;
        let taken = if number == 1 { walk.begin(text) } else { walk.line(text) };
        taken.map_err(|why| refused(&why))?;
    }
    Ok(())
}

/// Exports in a directory, by where they begin.
fn in_directory(dir: &Path) -> Result<Vec<PathBuf>> {
    let unreadable = |error| Failure::io(format_args!("could not read {}", dir.display()), &error);
    let mut files = Vec::new();
    for entry in std::fs::read_dir(dir).map_err(unreadable)? {
        let path = entry.map_err(unreadable)?.path();
        if range(&path).is_some() {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}

/// From how many receipts to how many a file goes, by its name.
fn range(path: &Path) -> Option<(u64, u64)> {
    let name = path.file_name()?.to_str()?.strip_suffix(EXTENSION)?.strip_suffix('.')?;
    let (from, to) = name.split_once('-')?;
    Some((from.parse().ok()?, to.parse().ok()?))
}
