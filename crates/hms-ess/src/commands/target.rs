//! `hms-ess target`: where Ops are told of trouble, and whether they are reached.

use clap::Subcommand;
use serde_json::{Value, json};

use super::field;
use crate::client::{Client, encode};
use crate::failure::{Failure, Kind, Result};
use crate::output::Output;

/// What is done with targets.
#[derive(Debug, Subcommand)]
pub(crate) enum TargetCommand {
    /// List the configured targets and how they fare.
    List,
    /// Send one marked message and say what came back.
    Test {
        /// Its name.
        name: String,
    },
}

/// Lists, or tests.
pub(crate) async fn run(command: &TargetCommand, client: &Client, output: &Output) -> Result<()> {
    match command {
        TargetCommand::List => {
            let items = client.list("/v1/targets", 1_000).await?;
            if output.json {
                return output.json(&json!({"items": items}));
            }
            let row = |item: &Value| {
                let state = match item["failures"].as_u64() {
                    _ if !item["last_error"].is_null() => "failing",
                    Some(0) if !item["sent_at"].is_null() => "ok",
                    _ => "",
                };
                let of = |name: &str| field(item, name);
                vec![of("name"), of("type"), of("quiet"), state.to_owned(), of("sent_at"), of("last_error")]
            };
            output.table(
                &["TARGET", "TYPE", "QUIET", "STATE", "LAST SENT", "LAST ERROR"],
                items.iter().map(row).collect(),
            )
        }
        TargetCommand::Test { name } => {
            let value = client.post(&format!("/v1/targets/{}/test", encode(name)), &json!({})).await?.value()?;
            let is_sent = value["sent"] == true;
            if output.json {
                output.json(&value)?;
                return if is_sent { Ok(()) } else { Err(Failure { kind: Kind::Told, ..Failure::refused("") }) };
            }
            if is_sent {
                let took = value["took_ms"].as_u64().unwrap_or_default();
                return output
                    .line(format_args!("{name}: the test message was {} after {took} ms", field(&value, "reason")));
            }
            Err(Failure::refused(format!("{name}: the test message did not get there: {}", field(&value, "reason")))
                .with_hint("`hms-ess config show` shows the target; a secret named by env: or file: is read when the hub starts"))
        }
    }
}
