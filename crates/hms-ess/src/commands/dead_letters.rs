//! `hms-ess dead-letters`: list, redrive, discard.

use clap::Subcommand;
use serde_json::{Value, json};

use super::{client, delivery_table, field};
use crate::cli::Globals;
use crate::client::encode;
use crate::failure::{Failure, Result};
use crate::output::Output;

/// What is done with dead letters.
#[derive(Debug, Subcommand)]
pub(crate) enum DeadLettersCommand {
    /// List them, oldest first.
    List {
        /// Only of this partner.
        #[arg(long)]
        partner: Option<String>,
    },
    /// Try them again.
    Redrive {
        /// Only of this partner.
        #[arg(long)]
        partner: Option<String>,
        /// Only of this event.
        #[arg(long)]
        event: Option<String>,
    },
    /// Give them up for good; takes --reason.
    Discard {
        /// Only of this partner.
        #[arg(long)]
        partner: Option<String>,
        /// Only of this event.
        #[arg(long)]
        event: Option<String>,
    },
}

/// Does it.
pub(crate) async fn run(command: &DeadLettersCommand, globals: &Globals, output: &Output) -> Result<()> {
    let client = client(globals)?;
    match command {
        DeadLettersCommand::List { partner } => {
            let path = match partner {
                Some(partner) => format!("/v1/dead-letters?partner={}", encode(partner)),
                None => "/v1/dead-letters".to_owned(),
            };
            let items = client.list(&path, 10_000).await?;
            if output.json { output.json(&json!({"items": items})) } else { delivery_table(output, &items) }
        }
        DeadLettersCommand::Redrive { partner, event } => {
            let value = client.post("/v1/dead-letters/redrive", &which(partner, event)).await?.value()?;
            if output.json {
                output.json(&value)
            } else {
                output.line(format_args!("{} redriven", field(&value, "redriven")))
            }
        }
        DeadLettersCommand::Discard { partner, event } => {
            if globals.reason.is_none() {
                return Err(Failure::usage("say why they are discarded: --reason TEXT"));
            }
            let value = client.post("/v1/dead-letters/discard", &which(partner, event)).await?.value()?;
            if output.json {
                output.json(&value)
            } else {
                output.line(format_args!("{} discarded", field(&value, "discarded")))
            }
        }
    }
}

fn which(partner: &Option<String>, event: &Option<String>) -> Value {
    let mut value = json!({});
    if let Some(partner) = partner {
        value["partner"] = json!(partner);
    }
    if let Some(event) = event {
        value["event"] = json!(event);
    }
    value
}
