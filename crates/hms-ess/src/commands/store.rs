//! `hms-ess store`: the store itself, without a hub.

use std::path::PathBuf;

use clap::{Args, Subcommand};
use serde_json::json;

use crate::failure::{Failure, Result};
use crate::output::Output;
use crate::wire::{self, ServerUrl};

/// What is done with a store.
#[derive(Debug, Subcommand)]
pub(crate) enum StoreCommand {
    /// Copy the store of a stopped hub into an empty PostgreSQL database.
    Copy(CopyArgs),
}

/// Arguments of `store copy`.
#[derive(Debug, Args)]
pub(crate) struct CopyArgs {
    /// The data directory of a hub that is stopped.
    #[arg(long, value_name = "DIR")]
    from: PathBuf,
    /// The empty database, as in `serve --store`.
    #[arg(long, value_name = "URL", value_parser = read_url)]
    to: ServerUrl,
}

/// Never repeats the text: it may hold a password.
fn read_url(text: &str) -> std::result::Result<ServerUrl, String> {
    ServerUrl::new(text).ok_or_else(|| "expected postgres://USER:PASSWORD@HOST:PORT/DATABASE".to_owned())
}

/// Copies.
pub(crate) async fn run(command: StoreCommand, output: &Output) -> Result<()> {
    let StoreCommand::Copy(CopyArgs { from, to }) = command;
    let dir = from.display().to_string();
    let copied = tokio::task::spawn_blocking(move || wire::copy_store(&from, &to)).await;
    let copied = copied.map_err(|error| Failure::refused(error.to_string()))??;
    if output.json {
        return output.json(&json!({"events": copied.events, "receipts": copied.receipts, "rows": copied.rows}));
    }
    let (events, receipts, rows) = (copied.events, copied.receipts, copied.rows);
    output.line(format_args!(
        "copied {events} events and {receipts} receipts, {rows} rows in all; the ledger's chain fits"
    ))?;
    output.note(format!("start the hub with --data {dir} --store …; {dir}/seal.key opens the copy's secrets"));
    Ok(())
}
