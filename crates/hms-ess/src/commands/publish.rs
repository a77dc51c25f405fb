//! `hms-ess publish`: one event, or many from an .ndjson file.

mod bulk;

use std::path::PathBuf;
use std::time::Duration;

use bytes::Bytes;
use clap::Args;
use http::Method;
use serde_json::Value;

use super::field;
use crate::client::{Body, Client};
use crate::failure::{Failure, Result};
use crate::output::Output;

/// Arguments of `publish`.
#[derive(Debug, Args)]
pub(crate) struct PublishArgs {
    /// The event as JSON, or many, one a line (.ndjson); - for standard input.
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
    let mut source = bulk::Source::open(&args.file)?;
    if let Some(lines) = source.lines_if_many()? {
        if args.plan {
            return Err(Failure::usage("one event at a time can be planned"));
        }
        return bulk::run(args, lines, client, output).await;
    }
    let path = if args.plan { "/v1/events?plan=true" } else { "/v1/events" };
    let body = Body::Bytes("application/json", Bytes::from(source.all()?));
    let reply = client.ask_with(Method::POST, path, body, &args.headers(), Duration::ZERO).await?;
    if output.json {
        return output.raw_json(&reply.body);
    }
    let value = reply.value()?;
    if args.plan { show_plan(&value, output) } else { show_receipt(&value, output) }
}

impl PublishArgs {
    fn headers(&self) -> Vec<(&'static str, &'static str)> {
        if self.dry_run { vec![("x-hms-test", "true")] } else { Vec::new() }
    }
}

fn show_receipt(receipt: &Value, output: &Output) -> Result<()> {
    let again = if receipt.get("duplicate").is_some() { " before; nothing new was sent" } else { "" };
    let test = if receipt["test"] == true { " (test)" } else { "" };
    let (id, sequence, partners) = (field(receipt, "id"), field(receipt, "sequence"), field(receipt, "partners"));
    let partners = if partners == "1" { "1 partner".to_owned() } else { format!("{partners} partners") };
    output.line(format_args!("{id}{test} recorded as number {sequence}{again}, for {partners}"))?;
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
