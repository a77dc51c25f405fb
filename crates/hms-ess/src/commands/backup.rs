//! `hms-ess backup`: copy the store while the hub runs.

use std::path::PathBuf;

use clap::Args;
use serde_json::json;

use super::field;
use crate::client::Client;
use crate::failure::{Failure, Result};
use crate::output::Output;

/// Arguments of `backup`.
#[derive(Debug, Args)]
pub(crate) struct BackupArgs {
    /// A new file on the hub's machine.
    file: PathBuf,
}

/// Copies.
pub(crate) async fn run(args: &BackupArgs, client: &Client, output: &Output) -> Result<()> {
    let file = std::path::absolute(&args.file)
        .map_err(|error| Failure::io(format_args!("could not name {}", args.file.display()), &error))?;
    let value = client.post("/v1/backup", &json!({"file": file})).await?.value()?;
    if output.json {
        return output.json(&value);
    }
    output.line(format_args!("{} bytes written to {}", field(&value, "bytes"), file.display()))?;
    output.note("keep DIR/seal.key with it, apart from the copy: without it the partners' secrets can't be read");
    Ok(())
}
