//! `hms-ess ledger`: verify, export.

use clap::Subcommand;
use serde_json::json;

use super::field;
use crate::client::Client;
use crate::failure::Result;
use crate::output::Output;

/// What is done with the ledger.
#[derive(Debug, Subcommand)]
pub(crate) enum LedgerCommand {
    /// Walk the whole chain.
    Verify,
    /// Print every receipt, a JSON object a line.
    Export,
}

/// Does it.
pub(crate) async fn run(command: &LedgerCommand, client: &Client, output: &Output) -> Result<()> {
    match command {
        LedgerCommand::Verify => {
            let value = client.post("/v1/ledger/verify", &json!({})).await?.value()?;
            if output.json {
                return output.json(&value);
            }
            output.line(format_args!("{} receipts, chain whole: {}", field(&value, "size"), field(&value, "chain")))
        }
        LedgerCommand::Export => {
            let mut after: Option<String> = None;
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
    }
}
