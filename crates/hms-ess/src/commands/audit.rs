//! `hms-ess audit`: the packet for a court.

use std::fs::OpenOptions;
use std::io::Write as _;
use std::path::{Path, PathBuf};

use clap::Args;
use ess_core::ledger::checkpoint::VerifierKey;
use serde_json::json;

use super::field;
use super::ledger::packet;
use crate::client::{Body, Client, encode};
use crate::failure::{Failure, Result};
use crate::output::Output;

/// Arguments of `audit`.
#[derive(Debug, Args)]
pub(crate) struct AuditArgs {
    /// The event's id.
    event: String,
    /// The packet, a zip file.
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
    /// Write over a file that is there.
    #[arg(long)]
    force: bool,
    /// The dry run of this id.
    #[arg(long)]
    test: bool,
}

/// Fetches the packet, checks it, and writes it down.
pub(crate) async fn run(args: &AuditArgs, client: &Client, output: &Output) -> Result<()> {
    if args.out.exists() && !args.force {
        return Err(there_already(&args.out));
    }
    let path = format!("/v1/events/{}/audit?test={}", encode(&args.event), args.test);
    // A packet of 10,000 partners holds as many proofs.
    let patience = std::time::Duration::from_secs(300);
    let bytes = client.ask_with(http::Method::GET, &path, Body::Empty, &[], patience).await?.body;
    let key = client.get("/v1/ledger/checkpoint").await?;
    let key = VerifierKey::parse(&field(&key, "verifier_key")).map_err(Failure::refused)?;
    let files = packet::from_zip(bytes.to_vec());
    let checked = files.and_then(|files| files.check(&key)).map_err(|why| {
        Failure::refused(format!("the hub's packet does not hold: {why}"))
            .with_hint("`hms-ess ledger verify` names what was changed in the hub's store")
    })?;
    write(&args.out, &bytes, args.force)?;
    if output.json {
        return output.json(&json!({
            "packet": args.out.display().to_string(), "event": checked.event, "files": checked.files,
            "receipts": checked.receipts.len(), "bytes": bytes.len(),
        }));
    }
    output.line(format_args!("{}: {} bytes", args.out.display(), bytes.len()))?;
    output.text(&packet::words(&checked))?;
    output.line(format_args!("check it with: hms-ess ledger verify {} --key KEY", args.out.display()))
}

/// Beside it first, so that there is never half a packet under its name.
fn write(file: &Path, bytes: &[u8], force: bool) -> Result<()> {
    let failed = |error| Failure::io(format_args!("could not write {}", file.display()), &error);
    let mut name = file.file_name().unwrap_or_default().to_owned();
    name.push(".part");
    let part = file.with_file_name(name);
    let mut open = OpenOptions::new().write(true).create(true).truncate(true).open(&part).map_err(failed)?;
    open.write_all(bytes).and_then(|()| open.sync_all()).map_err(failed)?;
    if file.exists() && !force {
        // Nobody reads what was left beside it.
        let _ = std::fs::remove_file(&part);
        return Err(there_already(file));
    }
    std::fs::rename(&part, file).map_err(failed)
}

fn there_already(file: &Path) -> Failure {
    Failure::refused(format!("{} is there already", file.display()))
        .with_hint("name another file, or write over it with --force")
}
