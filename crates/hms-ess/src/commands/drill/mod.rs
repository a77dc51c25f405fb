//! `hms-ess drill`: an exercise. A dry run goes to all or chosen partners, and a report says who received it, who acknowledged,
//! how fast, and who did not and why.
//!
//! Nothing real changes: what is sent is marked as a test on every channel.

mod page;
mod report;

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use clap::Args;
use ess_core::nearest::nearest;
use ess_core::partner::Glob;
use ess_core::time::Time;
use serde_json::{Value, json, value::RawValue};

use self::report::{Asked, Report};
use super::{field, read_input};
use crate::client::{Body, Client, encode};
use crate::config::profile::write_whole;
use crate::failure::{Failure, Result};
use crate::output::Output;

/// Partners of one drill.
const PARTNERS_MAX: usize = 10_000;
/// The longest wait of one request: progress is shown in between.
const STEP: Duration = Duration::from_secs(1);
/// The mode of the report's files: anybody may read them.
const PUBLIC: u32 = 0o644;

/// Arguments of `drill`.
#[derive(Debug, Args)]
pub(crate) struct DrillArgs {
    /// Only these partners; globs, commas between several, or repeated. All when absent.
    #[arg(long, value_name = "PARTNER", value_delimiter = ',')]
    to: Vec<String>,
    /// Send this event as a dry run instead of an exercise in each partner's own version.
    #[arg(long, value_name = "FILE")]
    event: Option<PathBuf>,
    /// The longest wait for acknowledgements.
    #[arg(long, value_name = "SPAN", default_value = "60s")]
    wait: String,
    /// Where the report goes: a directory, or a file that ends in .html or .json.
    #[arg(long, value_name = "PATH", default_value = ".")]
    out: PathBuf,
}

/// Drills; exit 0 when all who were asked acknowledged.
pub(crate) async fn run(args: &DrillArgs, client: &Client, output: &Output) -> Result<()> {
    let wait = ess_core::duration::parse(&args.wait).map_err(|wrong| Failure::usage(format!("--wait: {wrong}")))?;
    let event = args.event.as_deref().map(read_event).transpose()?;
    let partners = client.list("/v1/partners", PARTNERS_MAX).await?;
    let asked = choose(&partners, &args.to)?;
    let told: Vec<&str> = asked.iter().filter(|one| !one.is_skipped).map(|one| one.partner.as_str()).collect();
    if told.is_empty() {
        return Err(Failure::refused("there is nobody to drill with: every partner that was meant says `tests: skip`")
            .with_hint("set `tests: deliver`, or an address for tests, in the partner's file"));
    }
    let (began, begun_at) = (Instant::now(), now());
    let mut request = json!({"to": told}).to_string();
    if let Some(event) = &event {
        // As it was written, so that no number loses a digit.
        request = format!("{},\"event\":{}}}", &request[..request.len() - 1], event.get());
    }
    let body = Body::Bytes("application/json", request.into());
    let begun = client.ask(http::Method::POST, "/v1/drills", body).await?.value()?;
    let receipts = begun["events"].as_array().map(Vec::as_slice).unwrap_or_default();
    let events: Vec<String> = receipts.iter().map(|receipt| field(receipt, "id")).collect();
    let deliveries = follow(&events, told.len(), began, wait, client, output).await?;
    let standing = client.list("/v1/partners", PARTNERS_MAX).await?;
    let offline = standing.iter().filter(|partner| partner["state"] == "offline");
    let offline = offline.map(|partner| (field(partner, "id"), field(partner, "last_error"))).collect();
    let report = Report::of(report::Facts {
        hub: client.hub().to_owned(),
        reason: client.reason(),
        begun_at,
        ended_at: now(),
        wait,
        is_exercise: event.is_none(),
        events,
        asked,
        deliveries,
        offline,
    });
    write(&report, &args.out, output)?;
    show(&report, output)?;
    if report.is_complete() { Ok(()) } else { Err(Failure::told()) }
}

fn now() -> Time {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    Time::from_micros(i64::try_from(since.as_micros()).unwrap_or(i64::MAX))
}

fn read_event(file: &Path) -> Result<Box<RawValue>> {
    serde_json::from_str(&read_input(file)?).map_err(|error| {
        Failure::refused(format!("{} is no JSON: {error}", file.display()))
            .with_hint("an event is {\"id\": …, \"version\": …, \"payload\": …}")
    })
}

/// The partners that are meant, by id; each pattern must mean somebody.
fn choose(partners: &[Value], to: &[String]) -> Result<Vec<Asked>> {
    let mut globs = Vec::new();
    for pattern in to {
        let glob = Glob::parse(pattern).map_err(|wrong| Failure::usage(format!("--to: {wrong}")))?;
        if !partners.iter().any(|partner| glob.matches(&field(partner, "id"))) {
            let ids: Vec<String> = partners.iter().map(|partner| field(partner, "id")).collect();
            let known: Vec<&str> = ids.iter().map(String::as_str).collect();
            let hint = match nearest(pattern, &known) {
                Some(meant) => format!("did you mean `{meant}`?"),
                None => "`hms-ess partner list` shows the partners".to_owned(),
            };
            return Err(Failure::refused(format!("there is no partner {pattern}")).with_hint(hint));
        }
        globs.push(glob);
    }
    if partners.is_empty() {
        return Err(Failure::refused("there is no partner yet").with_hint("add one with `hms-ess partner add FILE`"));
    }
    let is_meant = |id: &str| globs.is_empty() || globs.iter().any(|glob| glob.matches(id));
    Ok(partners.iter().filter(|partner| is_meant(&field(partner, "id"))).map(Asked::of).collect())
}

/// Waits until every delivery of the drill has ended, or the wait is over; what became of each partner's.
async fn follow(
    events: &[String],
    partners: usize,
    began: Instant,
    wait: Duration,
    client: &Client,
    output: &Output,
) -> Result<HashMap<String, Value>> {
    let bar = output.progress(partners as u64, "acknowledged");
    loop {
        let left = wait.saturating_sub(began.elapsed());
        let (mut acked, mut is_open) = (0, false);
        for event in events {
            // Only the first that is open is waited for: the others are asked for what they are by then.
            let pause = if is_open { Duration::ZERO } else { left.min(STEP) };
            let path = format!("/v1/events/{}/status?test=true&wait={}ms", encode(event), pause.as_millis());
            let words = client.ask_with(http::Method::GET, &path, Body::Empty, &[], pause).await?.value()?;
            let words: Vec<&str> =
                words.as_object().into_iter().flat_map(|map| map.values()).filter_map(Value::as_str).collect();
            acked += words.iter().filter(|word| **word == "ack").count();
            // What is blocked or paused waits for somebody, not for time.
            is_open |= words.iter().any(|word| matches!(*word, "pending" | "retrying" | "awaiting_ack"));
        }
        bar.set_position(acked as u64);
        if !is_open || left.is_zero() {
            break;
        }
    }
    bar.finish_and_clear();
    let mut found = HashMap::new();
    for event in events {
        let deliveries = client.get(&format!("/v1/events/{}/deliveries?test=true", encode(event))).await?;
        for delivery in deliveries["items"].as_array().into_iter().flatten() {
            found.insert(field(delivery, "partner"), delivery.clone());
        }
    }
    Ok(found)
}

/// Writes the report: both forms into a directory, one into a file by its ending.
fn write(report: &Report, out: &Path, output: &Output) -> Result<()> {
    let json = report.to_json().to_string() + "\n";
    let html = page::render(report)?;
    let name = format!("drill-{}", report.stamp());
    let files = match out.extension().and_then(|ending| ending.to_str()) {
        Some("html") => vec![(out.to_owned(), html)],
        Some("json") => vec![(out.to_owned(), json)],
        _ => {
            std::fs::create_dir_all(out)
                .map_err(|error| Failure::io(format_args!("could not make {}", out.display()), &error))?;
            vec![(out.join(format!("{name}.html")), html), (out.join(format!("{name}.json")), json)]
        }
    };
    for (path, text) in files {
        write_whole(&path, text.as_bytes(), PUBLIC)
            .map_err(|error| Failure::io(format_args!("could not write {}", path.display()), &error))?;
        output.note(format_args!("the report is in {}", path.display()));
    }
    Ok(())
}

fn show(report: &Report, output: &Output) -> Result<()> {
    if output.json {
        return output.json(&report.to_json());
    }
    let rows = report.lines.iter().map(|line| {
        let took = line.took.map(crate::output::span).unwrap_or_default();
        let tests = if line.test_address { "its address for tests" } else { "" };
        vec![
            line.partner.clone(),
            line.word().to_owned(),
            took,
            tests.to_owned(),
            line.why.clone(),
            line.what_to_do.clone(),
        ]
    });
    output.table(&["PARTNER", "RESULT", "TOOK", "SENT TO", "WHY", "WHAT TO DO"], rows.collect())?;
    output.line(format_args!("\n{}", report.sentence()))
}
