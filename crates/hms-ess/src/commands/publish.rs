//! `hms-ess publish`: one event, or many from an .ndjson file.

use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::Bytes;
use clap::Args;
use http::Method;
use serde_json::Value;

use super::{field, read_input};
use crate::client::{Body, Client};
use crate::failure::{Failure, Result};
use crate::output::Output;

/// Lines that are sent at once.
const BULK_LINES: usize = 1_000;

/// Arguments of `publish`.
#[derive(Debug, Args)]
pub(crate) struct PublishArgs {
    /// The event as JSON, many as .ndjson, or - for standard input.
    file: PathBuf,
    /// Mark it as a test: partners get it, nothing is applied.
    #[arg(long)]
    dry_run: bool,
    /// Say who would get what, and send nothing.
    #[arg(long)]
    plan: bool,
}

/// Publishes.
pub(crate) async fn run(args: &PublishArgs, client: &Client, output: &Output) -> Result<()> {
    let text = read_input(&args.file)?;
    let is_bulk = args.file.extension().is_some_and(|extension| extension == "ndjson" || extension == "jsonl");
    if is_bulk {
        return bulk(args, &text, client, output).await;
    }
    let path = if args.plan { "/v1/events?plan=true" } else { "/v1/events" };
    let body = Body::Bytes("application/json", Bytes::from(text));
    let reply = client.ask_with(Method::POST, path, body, &headers(args), Duration::ZERO).await?;
    if output.json {
        return output.raw_json(&reply.body);
    }
    let value = reply.value()?;
    if args.plan { show_plan(&value, output) } else { show_receipt(&value, output) }
}

fn headers(args: &PublishArgs) -> Vec<(&'static str, &'static str)> {
    if args.dry_run { vec![("x-hms-test", "true")] } else { Vec::new() }
}

fn show_receipt(receipt: &Value, output: &Output) -> Result<()> {
    let again = if receipt.get("duplicate").is_some() { " before; nothing new was sent" } else { "" };
    let test = if receipt["test"] == true { " (test)" } else { "" };
    let (id, sequence, partners) = (field(receipt, "id"), field(receipt, "sequence"), field(receipt, "partners"));
    output.line(format_args!("{id}{test} recorded as number {sequence}{again}, for {partners} partner(s)"))?;
    for blocked in receipt["blocked"].as_array().into_iter().flatten() {
        output.line(format_args!(
            "{} {}: {}",
            output.word("blocked"),
            field(blocked, "partner"),
            field(blocked, "reason")
        ))?;
        output.line(format_args!("  mend with: {}", field(blocked, "mend")))?;
    }
    Ok(())
}

fn show_plan(plan: &Value, output: &Output) -> Result<()> {
    let rows = plan["partners"].as_array().into_iter().flatten().map(|entry| {
        let bridges: Vec<&str> = entry["bridges"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
        let what = if entry["outcome"] == "blocked" { field(entry, "reason") } else { field(entry, "body") };
        vec![field(entry, "partner"), field(entry, "version"), field(entry, "outcome"), bridges.join(", "), what]
    });
    output.table(&["PARTNER", "VERSION", "OUTCOME", "BRIDGES", "BODY OR REASON"], rows.collect())
}

async fn bulk(args: &PublishArgs, text: &str, client: &Client, output: &Output) -> Result<()> {
    if args.plan {
        return Err(Failure::usage("one event at a time can be planned"));
    }
    let lines: Vec<&str> = text.lines().filter(|line| !line.trim().is_empty()).collect();
    let bar = output.progress(lines.len() as u64, "publishing");
    let (mut counts, mut refused) = ([0u64; 3], Vec::new());
    for (chunk, first) in lines.chunks(BULK_LINES).zip((0..).step_by(BULK_LINES)) {
        let body = Body::Bytes("application/x-ndjson", Bytes::from(chunk.join("\n")));
        let reply = client.ask_with(Method::POST, "/v1/events", body, &headers(args), Duration::from_secs(60)).await?;
        let value = reply.value()?;
        for (count, name) in counts.iter_mut().zip(["recorded", "duplicates", "refused"]) {
            *count += value[name].as_u64().unwrap_or(0);
        }
        for result in value["results"].as_array().into_iter().flatten().filter(|result| result.get("problem").is_some())
        {
            let line = first + result["line"].as_u64().unwrap_or(0);
            refused.push(format!("{}:{line}: {}", name(&args.file), field(&result["problem"], "detail")));
        }
        bar.inc(chunk.len() as u64);
    }
    bar.finish_and_clear();
    let [recorded, duplicates, wrong] = counts;
    if output.json {
        output.json(&serde_json::json!({"recorded": recorded, "duplicates": duplicates, "refused": wrong}))?;
    } else {
        output.line(format_args!("{recorded} recorded, {duplicates} known before, {wrong} refused"))?;
    }
    for line in &refused {
        output.note(line);
    }
    if wrong > 0 { Err(Failure::told()) } else { Ok(()) }
}

fn name(file: &Path) -> String {
    file.display().to_string()
}
