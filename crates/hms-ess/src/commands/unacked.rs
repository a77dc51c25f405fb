//! `hms-ess unacked`: what lacks its ACK.

use clap::Args;
use serde_json::json;

use super::delivery_table;
use crate::client::Client;
use crate::failure::Result;
use crate::output::Output;

/// Arguments of `unacked`.
#[derive(Debug, Args)]
pub(crate) struct UnackedArgs {
    /// How many at most.
    #[arg(long, default_value_t = 1_000)]
    limit: usize,
}

/// Lists.
pub(crate) async fn run(args: &UnackedArgs, client: &Client, output: &Output) -> Result<()> {
    let items = client.list("/v1/unacked", args.limit).await?;
    if output.json { output.json(&json!({"items": items})) } else { delivery_table(output, &items) }
}
