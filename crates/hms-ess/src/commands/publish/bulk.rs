//! Many events from lines: sent in parts, however long the file; each line stands alone.
//!
//! The file is never held whole: its length has no bound.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::path::Path;
use std::time::Duration;

use bytes::Bytes;
use http::Method;
use serde_json::{Value, json};

use super::{PublishArgs, field};
use crate::client::{Body, Client};
use crate::failure::{Failure, Result};
use crate::output::Output;

/// Lines that are sent at once.
const PART_LINES: u64 = 1_000;
/// Bytes after which a part is sent though it has fewer lines; the hub takes 64 MiB.
const PART_BYTES: usize = 16 << 20;
/// Longest line: an event of the hub's limit fits twice.
const LINE_BYTES_MAX: u64 = 2 << 20;
/// Refused lines that are named; the others are counted.
const NAMED_MAX: usize = 100;

/// A file or standard input, as far as it was read.
pub(super) struct Source {
    name: String,
    is_lines: bool,
    length: u64,
    // What was read to find out what it is.
    begun: Vec<u8>,
    rest: BufReader<Box<dyn Read>>,
}

/// One line after the other.
pub(super) struct Lines {
    name: String,
    length: u64,
    number: u64,
    reader: Box<dyn BufRead>,
}

impl Source {
    /// Opens a file, or standard input for `-`.
    pub(super) fn open(file: &Path) -> Result<Self> {
        let name = file.display().to_string();
        let tried = |error: io::Error| Failure::io(format_args!("could not read {name}"), &error);
        let is_lines = file.extension().is_some_and(|extension| extension == "ndjson" || extension == "jsonl");
        let (length, reader): (u64, Box<dyn Read>) = if file == Path::new("-") {
            (0, Box::new(io::stdin()))
        } else {
            let open = File::open(file).map_err(tried)?;
            let length = if is_lines { count_lines(file).map_err(tried)? } else { 0 };
            (length, Box::new(open))
        };
        Ok(Self { name, is_lines, length, begun: Vec::new(), rest: BufReader::with_capacity(1 << 18, reader) })
    }

    /// Its lines when each is an event: by the file's name, or because the first line is a whole object and more follows.
    pub(super) fn lines_if_many(&mut self) -> Result<Option<Lines>> {
        if !self.is_lines {
            let tried = |error: io::Error| Failure::io(format_args!("could not read {}", self.name), &error);
            (&mut self.rest).take(LINE_BYTES_MAX).read_until(b'\n', &mut self.begun).map_err(tried)?;
            let is_object = serde_json::from_slice::<serde_json::Map<String, Value>>(&self.begun).is_ok();
            // A file's last line end, and nothing after it, is still one event.
            let ends = self.rest.fill_buf().map_err(tried)?.iter().all(u8::is_ascii_whitespace);
            if !is_object || ends {
                return Ok(None);
            }
        }
        let begun = io::Cursor::new(std::mem::take(&mut self.begun));
        let rest = std::mem::replace(&mut self.rest, BufReader::new(Box::new(io::empty())));
        Ok(Some(Lines {
            name: self.name.clone(),
            length: self.length,
            number: 0,
            reader: Box::new(BufReader::with_capacity(1 << 18, begun.chain(rest))),
        }))
    }

    /// All of it, as one event.
    pub(super) fn all(&mut self) -> Result<Vec<u8>> {
        let mut bytes = std::mem::take(&mut self.begun);
        // The hub refuses what is longer than its limit; it need not be read to its end for that.
        (&mut self.rest)
            .take(4 * LINE_BYTES_MAX)
            .read_to_end(&mut bytes)
            .map_err(|error| Failure::io(format_args!("could not read {}", self.name), &error))?;
        Ok(bytes)
    }
}

impl Lines {
    /// The next part and how many lines it has; blank lines stay, so that the hub's line numbers fit.
    fn part(&mut self) -> Result<Option<(Bytes, u64)>> {
        let (mut part, mut lines) = (Vec::new(), 0);
        while lines < PART_LINES && part.len() < PART_BYTES {
            let read = (&mut self.reader)
                .take(LINE_BYTES_MAX)
                .read_until(b'\n', &mut part)
                .map_err(|error| Failure::io(format_args!("could not read {}", self.name), &error))?;
            if read == 0 {
                break;
            }
            if read as u64 == LINE_BYTES_MAX && !part.ends_with(b"\n") {
                let line = self.number + lines + 1;
                return Err(Failure::refused(format!("{}:{line}: a line of more than 2 MiB is no event", self.name)));
            }
            lines += 1;
        }
        self.number += lines;
        Ok((lines > 0).then(|| (Bytes::from(part), lines)))
    }
}

/// Publishes line by line; exit 1 when a line was refused, the others are recorded all the same.
pub(super) async fn run(args: &PublishArgs, mut lines: Lines, client: &Client, output: &Output) -> Result<()> {
    let bar = output.progress(lines.length, "publishing");
    let (mut counts, mut refused) = ([0u64; 3], Vec::new());
    loop {
        let first = lines.number;
        let Some((part, length)) = lines.part()? else { break };
        let body = Body::Bytes("application/x-ndjson", part);
        let sent = client.ask_with(Method::POST, "/v1/events", body, &args.headers(), Duration::from_secs(60)).await;
        let value = sent.and_then(|reply| reply.value()).map_err(|failure| interrupted(failure, first))?;
        for (count, name) in counts.iter_mut().zip(["recorded", "duplicates", "refused"]) {
            *count += value[name].as_u64().unwrap_or(0);
        }
        let results = value["results"].as_array().into_iter().flatten();
        for result in results.filter(|result| result.get("problem").is_some()) {
            let line = first + result["line"].as_u64().unwrap_or(0);
            if refused.len() < NAMED_MAX {
                refused.push(json!({"line": line, "problem": result["problem"]}));
            }
        }
        bar.inc(length);
    }
    bar.finish_and_clear();
    let [recorded, duplicates, wrong] = counts;
    if output.json {
        let totals = json!({"recorded": recorded, "duplicates": duplicates, "refused": wrong, "problems": refused});
        output.json(&totals)?;
    } else {
        for refusal in &refused {
            let detail = field(&refusal["problem"], "detail");
            output.note(format_args!("{}:{}: {detail}", lines.name, refusal["line"]));
        }
        if wrong > refused.len() as u64 {
            output.note(format_args!("… and {} more", wrong - refused.len() as u64));
        }
        output.line(format_args!("{recorded} recorded, {duplicates} known before, {wrong} refused"))?;
    }
    if wrong > 0 { Err(Failure::told()) } else { Ok(()) }
}

fn interrupted(mut failure: Failure, first: u64) -> Failure {
    if first > 0 {
        failure.detail = format!("after line {first}: {}", failure.detail);
        failure.hint = Some("run it again: what is recorded already is known by its id and not sent twice".to_owned());
    }
    failure
}

fn count_lines(file: &Path) -> io::Result<u64> {
    let mut reader = BufReader::with_capacity(1 << 18, File::open(file)?);
    let (mut lines, mut last) = (0, b'\n');
    loop {
        let bytes = reader.fill_buf()?;
        let Some(end) = bytes.last() else { return Ok(lines + u64::from(last != b'\n')) };
        last = *end;
        lines += bytes.iter().filter(|byte| **byte == b'\n').count() as u64;
        let length = bytes.len();
        reader.consume(length);
    }
}
