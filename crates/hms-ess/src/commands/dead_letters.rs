//! `hms-ess dead-letters`: list, redrive, discard.

use clap::{Args, Subcommand};
use serde_json::{Map, Value, json};

use super::{client, delivery_table, field};
use crate::cli::Globals;
use crate::client::encode;
use crate::failure::{Failure, Result};
use crate::output::Output;

/// Which dead letters.
#[derive(Debug, Args)]
pub(crate) struct Which {
    /// Only of this partner.
    #[arg(long)]
    partner: Option<String>,
    /// Only of this event.
    #[arg(long)]
    event: Option<String>,
    /// Only those whose reason holds this text, such as `status 422`.
    #[arg(long, value_name = "TEXT")]
    matching: Option<String>,
}

/// What is done with dead letters.
#[derive(Debug, Subcommand)]
pub(crate) enum DeadLettersCommand {
    /// List them, oldest first.
    List(Which),
    /// Try them again; a partner that is given up is tried at once. Takes --reason.
    Redrive(Which),
    /// Give them up for good; takes --reason.
    Discard(Which),
}

/// Does it.
pub(crate) async fn run(command: &DeadLettersCommand, globals: &Globals, output: &Output) -> Result<()> {
    let client = client(globals)?;
    let (act, done, which) = match command {
        DeadLettersCommand::List(which) => {
            let query: Vec<String> = which.named().map(|(name, text)| format!("{name}={}", encode(text))).collect();
            let start = if query.is_empty() { "" } else { "?" };
            let items = client.list(&format!("/v1/dead-letters{start}{}", query.join("&")), 10_000).await?;
            return if output.json { output.json(&json!({"items": items})) } else { delivery_table(output, &items) };
        }
        DeadLettersCommand::Redrive(which) => ("redrive", "redriven", which),
        DeadLettersCommand::Discard(which) => ("discard", "discarded", which),
    };
    if act == "discard" && globals.reason.is_none() {
        return Err(Failure::usage("say why they are discarded: --reason TEXT"));
    }
    let body: Map<String, Value> = which.named().map(|(name, text)| (name.to_owned(), json!(text))).collect();
    let value = client.post(&format!("/v1/dead-letters/{act}"), &Value::Object(body)).await?.value()?;
    if output.json { output.json(&value) } else { output.line(format_args!("{} {done}", field(&value, done))) }
}

impl Which {
    fn named(&self) -> impl Iterator<Item = (&'static str, &String)> {
        let all = [("partner", &self.partner), ("event", &self.event), ("matching", &self.matching)];
        all.into_iter().filter_map(|(name, text)| Some((name, text.as_ref()?)))
    }
}
