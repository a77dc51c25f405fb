//! `hms-ess unacked`: what lacks its ACK, urgent first, then oldest, each with what to run.

use clap::Args;
use ess_core::duration;
use serde_json::{Value, json};

use super::field;
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
    let mut items = client.list("/v1/unacked", args.limit).await?;
    items.sort_by_key(|item| (item["urgent"] != true, item["sequence"].as_u64()));
    if output.json {
        return output.json(&json!({"items": items}));
    }
    let rows = items.iter().map(|item| {
        let age = duration::spoken(std::time::Duration::from_secs(item["age_s"].as_u64().unwrap_or_default()));
        let urgent = if item["urgent"] == true { "urgent" } else { "" };
        let of = |name: &str| field(item, name);
        vec![age, of("partner"), of("event_id"), of("state"), urgent.to_owned(), of("reason"), to_run(item)]
    });
    output.table(&["AGE", "PARTNER", "EVENT", "STATE", "URGENT", "WHY", "RUN"], rows.collect())
}

/// What mends it, else what shows more.
fn to_run(item: &Value) -> String {
    let (event, partner) = (field(item, "event_id"), field(item, "partner"));
    match item["state"].as_str() {
        _ if item["mend"].is_string() => field(item, "mend"),
        Some("paused") => format!("hms-ess partner resume {partner}"),
        Some("awaiting_ack") => format!("hms-ess status {event}"),
        _ => format!("hms-ess partner show {partner}"),
    }
}
