//! `hms-ess status`: who acknowledged.

use std::time::{Duration, Instant};

use clap::Args;
use serde_json::Value;

use super::field;
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
    let timeout =
        ess_core::duration::parse(&args.timeout).map_err(|wrong| Failure::usage(format!("--timeout: {wrong}")))?;
    if args.watch {
        return watch(args, client, output).await;
    }
    if !args.wait {
        let words = ask(args, client, None).await?;
        return show(args, &words, client, output).await;
    }
    let began = Instant::now();
    loop {
        let left = timeout.saturating_sub(began.elapsed());
        let words = ask(args, client, Some(left.min(STEP))).await?;
        if !has_open(&words) || began.elapsed() >= timeout {
            show(args, &words, client, output).await?;
            let all_acked = words.as_object().is_some_and(|map| map.values().all(|word| word == "ack"));
            return if all_acked { Ok(()) } else { Err(Failure::told()) };
        }
    }
}

/// On a terminal the table is drawn anew at each change; in a pipe each change is a line.
async fn watch(args: &StatusArgs, client: &Client, output: &Output) -> Result<()> {
    let mut last = Value::Null;
    let mut drawn = 0;
    loop {
        // A short wait: changes are shown as they happen, an idle hub is asked twice a second.
        let words = ask(args, client, (!last.is_null()).then_some(Duration::from_millis(500))).await?;
        if words != last {
            if output.json {
                output.json(&words)?;
            } else if output.terminal {
                let text = table(args, &words, client, output).await?;
                output.rewind(drawn)?;
                drawn = text.lines().count();
                output.text(&text)?;
            } else {
                for (partner, word) in words.as_object().into_iter().flatten() {
                    if last.get(partner) != Some(word) {
                        output.line(format_args!("{partner} {}", word.as_str().unwrap_or_default()))?;
                    }
                }
            }
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

async fn show(args: &StatusArgs, words: &Value, client: &Client, output: &Output) -> Result<()> {
    if output.json {
        return output.json(words);
    }
    output.text(&table(args, words, client, output).await?)
}

/// The table of partners and words, with the reason and the mending command of those who lack their ACK.
async fn table(args: &StatusArgs, words: &Value, client: &Client, output: &Output) -> Result<String> {
    let path = format!("/v1/events/{}/deliveries?test={}", encode(&args.event), args.test);
    let deliveries = client.get(&path).await?;
    Ok(table_of(words, &deliveries, output))
}

/// The same from what the hub said.
pub(crate) fn table_of(words: &Value, deliveries: &Value, output: &Output) -> String {
    let items = deliveries["items"].as_array().map(Vec::as_slice).unwrap_or_default();
    let (mut rows, mut mends) = (Vec::new(), Vec::new());
    for (partner, word) in words.as_object().into_iter().flatten() {
        let word = word.as_str().unwrap_or_default();
        // A replay is a later round of the same partner: the last one is what the word is about.
        let found = items.iter().filter(|item| item["partner"] == partner.as_str());
        let delivery = found.max_by_key(|item| item["round"].as_u64()).unwrap_or(&Value::Null);
        let why = if word == "ack" { String::new() } else { field(delivery, "reason") };
        let when = ["ended_at", "due_at"].map(|name| field(delivery, name));
        let when = match (word, when) {
            ("retrying" | "awaiting_ack", [_, due]) if !due.is_empty() => format!("again {}", seconds(&due)),
            (_, [ended, _]) => seconds(&ended),
        };
        rows.push(vec![
            partner.clone(),
            word.to_owned(),
            field(delivery, "version"),
            field(delivery, "attempts_made"),
            when,
            why,
        ]);
        if let Some(mend) = delivery["mend"].as_str().filter(|_| word != "ack") {
            mends.push(format!("  {mend}"));
        }
    }
    if rows.is_empty() {
        return "nobody was to get it: no partner subscribed to its subject when it was recorded\n".to_owned();
    }
    let mut text = output.render(&["PARTNER", "STATUS", "VERSION", "ATTEMPTS", "WHEN", "WHY"], rows);
    mends.dedup();
    if !mends.is_empty() {
        text.push_str(&format!("\nto mend it:\n{}\n", mends.join("\n")));
    }
    text
}

/// A time to the second: finer is for `--json`.
fn seconds(time: &str) -> String {
    match time.split(['.', 'Z']).next() {
        Some(whole) if !whole.is_empty() => format!("{whole}Z"),
        _ => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn the_table_says_why_and_how_to_mend_it() {
        let words = json!({"COURT-CAL": "blocked", "LAW-FIRM-SYS": "ack", "COUNTY-KIOSK": "retrying"});
        let deliveries = json!({"items": [
            {"partner": "COURT-CAL", "round": 0, "attempts_made": 0, "reason": "no bridge from 3 to 1",
             "mend": "hms-ess bridge add FILE --subject S --from 3 --to 1"},
            {"partner": "LAW-FIRM-SYS", "round": 0, "attempts_made": 4, "version": 3, "reason": "old"},
            {"partner": "LAW-FIRM-SYS", "round": 1, "attempts_made": 1, "version": 3,
             "ended_at": "2026-01-31T12:00:01.5Z", "reason": "x"},
            {"partner": "COUNTY-KIOSK", "round": 0, "attempts_made": 2, "due_at": "2026-01-31T12:00:09Z",
             "reason": "status 503"},
        ]});
        let output = Output::plain();
        insta::assert_snapshot!(table_of(&words, &deliveries, &output), @r"
        PARTNER       STATUS    VERSION  ATTEMPTS  WHEN                        WHY
        COURT-CAL     blocked            0                                     no bridge from 3 to 1
        LAW-FIRM-SYS  ack       3        1         2026-01-31T12:00:01Z
        COUNTY-KIOSK  retrying           2         again 2026-01-31T12:00:09Z  status 503

        to mend it:
          hms-ess bridge add FILE --subject S --from 3 --to 1
        ");
    }

    #[test]
    fn an_event_for_nobody_says_so() {
        assert!(table_of(&json!({}), &json!({"items": []}), &Output::plain()).starts_with("nobody was to get it"));
    }
}
