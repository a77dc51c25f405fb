//! `hms-ess status`: who acknowledged.

use std::time::{Duration, Instant};

use clap::Args;
use serde_json::Value;

use crate::client::{Body, Client, encode};
use crate::failure::{Failure, Result};
use crate::output::Output;

/// The longest wait of one request.
const STEP: Duration = Duration::from_secs(30);

/// Arguments of `status`.
#[derive(Debug, Args)]
pub(crate) struct StatusArgs {
    /// The event's id.
    event: String,
    /// Wait until every delivery has ended; exit 0 only if all acknowledged.
    #[arg(long)]
    wait: bool,
    /// The longest that --wait waits.
    #[arg(long, value_name = "SPAN", default_value = "60s")]
    timeout: String,
    /// Show every change until all have ended.
    #[arg(long, conflicts_with = "wait")]
    watch: bool,
    /// The dry run of this id.
    #[arg(long)]
    test: bool,
}

/// Asks.
pub(crate) async fn run(args: &StatusArgs, client: &Client, output: &Output) -> Result<()> {
    if args.watch {
        return watch(args, client, output).await;
    }
    if !args.wait {
        let words = ask(args, client, None).await?;
        return show(&words, output);
    }
    let timeout =
        ess_core::duration::parse(&args.timeout).map_err(|wrong| Failure::usage(format!("--timeout: {wrong}")))?;
    let began = Instant::now();
    loop {
        let left = timeout.saturating_sub(began.elapsed());
        let words = ask(args, client, Some(left.min(STEP))).await?;
        if !has_open(&words) || began.elapsed() >= timeout {
            show(&words, output)?;
            let all_acked = words.as_object().is_some_and(|map| map.values().all(|word| word == "ack"));
            return if all_acked { Ok(()) } else { Err(Failure::told()) };
        }
    }
}

async fn watch(args: &StatusArgs, client: &Client, output: &Output) -> Result<()> {
    let mut last = Value::Null;
    loop {
        // A short wait: changes are shown as they happen, an idle hub is asked twice a second.
        let words = ask(args, client, (!last.is_null()).then_some(Duration::from_millis(500))).await?;
        if words != last {
            if output.terminal && !last.is_null() {
                let lines = 1 + last.as_object().map_or(0, serde_json::Map::len);
                output.rewind(lines)?;
            }
            show(&words, output)?;
            last = words;
        }
        if !has_open(&last) {
            return Ok(());
        }
    }
}

async fn ask(args: &StatusArgs, client: &Client, wait: Option<Duration>) -> Result<Value> {
    let mut path = format!("/v1/events/{}/status?test={}", encode(&args.event), args.test);
    if let Some(wait) = wait {
        path.push_str(&format!("&wait={}ms", wait.as_millis()));
    }
    client.ask_with(http::Method::GET, &path, Body::Empty, &[], wait.unwrap_or_default()).await?.value()
}

fn has_open(words: &Value) -> bool {
    let is_open =
        |word: &Value| matches!(word.as_str(), Some("pending" | "retrying" | "awaiting_ack" | "blocked" | "paused"));
    words.as_object().is_some_and(|map| map.values().any(is_open))
}

/// The table of partners and words.
pub(crate) fn show(words: &Value, output: &Output) -> Result<()> {
    if output.json {
        return output.json(words);
    }
    let rows = words.as_object().into_iter().flatten();
    let rows = rows.map(|(partner, word)| vec![partner.clone(), word.as_str().unwrap_or_default().to_owned()]);
    output.table(&["PARTNER", "STATUS"], rows.collect())
}
