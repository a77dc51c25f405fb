//! `hms-ess replay`: send events again.

use clap::Args;
use ess_core::partner::Glob;
use serde_json::{Value, json};

use super::field;
use crate::client::{Client, encode};
use crate::failure::{Failure, Result};
use crate::output::Output;

/// Events of a bulk replay at most.
const BULK_MAX: usize = 1_000_000;

/// Arguments of `replay`.
#[derive(Debug, Args)]
pub(crate) struct ReplayArgs {
    /// The events' ids.
    #[arg(required_unless_present = "subject")]
    events: Vec<String>,
    /// To whom; commas between several, or repeated. Everyone who was to get it when absent.
    #[arg(long, value_name = "PARTNER", value_delimiter = ',')]
    to: Vec<String>,
    /// Also what a newer acknowledged event of the subject has overtaken.
    #[arg(long)]
    force: bool,
    /// Every event of these subjects, as a glob.
    #[arg(long, value_name = "GLOB", conflicts_with = "events")]
    subject: Option<String>,
    /// With --subject: only what came after this sequence number.
    #[arg(long, value_name = "SEQ", requires = "subject", default_value_t = 0)]
    since: u64,
}

/// Replays.
pub(crate) async fn run(args: &ReplayArgs, client: &Client, output: &Output) -> Result<()> {
    let events = match &args.subject {
        None => args.events.clone(),
        Some(subject) => of_subject(client, subject, args.since).await?,
    };
    let bar = output.progress(events.len() as u64, "replaying");
    let (mut replayed, mut failed) = (Vec::new(), 0);
    for event in &events {
        let body = json!({"to": args.to, "force": args.force});
        match client.post(&format!("/v1/events/{}/replay", encode(event)), &body).await {
            Ok(reply) => replayed.push(reply.value()?),
            // One of many is told and the others go on; the only one is the command's failure.
            Err(failure) if events.len() > 1 => {
                failed += 1;
                bar.suspend(|| output.note(format_args!("{event}: {}", failure.detail)));
            }
            Err(failure) => return Err(failure),
        }
        bar.inc(1);
    }
    bar.finish_and_clear();
    if output.json {
        output.json(&Value::Array(replayed))?;
    } else if let [one] = replayed.as_slice() {
        for entry in one["replayed"].as_array().into_iter().flatten() {
            let (id, partner, round) = (field(one, "id"), field(entry, "partner"), field(entry, "round"));
            output.line(format_args!("{id} goes to {partner} again (replay {round})"))?;
        }
    } else {
        output.line(format_args!("{} replayed, {failed} refused", replayed.len()))?;
    }
    if failed > 0 { Err(Failure::told()) } else { Ok(()) }
}

/// The real events of the subjects that `pattern` fits, after `since`, in their order.
async fn of_subject(client: &Client, pattern: &str, since: u64) -> Result<Vec<String>> {
    let glob = Glob::parse(pattern).map_err(|wrong| Failure::usage(format!("--subject: {wrong}")))?;
    // The hub looks up one subject; a pattern is matched here.
    let path = match pattern.contains('*') {
        true => "/v1/events?".to_owned(),
        false => format!("/v1/events?subject={}&", encode(pattern)),
    };
    let mut after = since;
    let mut ids = Vec::new();
    loop {
        let page = client.get(&format!("{path}after={after}&limit=1000")).await?;
        let items = page["items"].as_array().map(Vec::as_slice).unwrap_or_default();
        let is_wanted = |event: &&Value| event["test"] != true && glob.matches(&field(event, "subject"));
        ids.extend(items.iter().filter(is_wanted).map(|event| field(event, "id")));
        if ids.len() > BULK_MAX {
            return Err(Failure::refused(format!("more than {BULK_MAX} events fit {pattern}"))
                .with_hint("replay them in parts, with --since SEQ"));
        }
        match items.last().and_then(|last| last["sequence"].as_u64()) {
            Some(last) if page.get("next").is_some() => after = last,
            _ => return Ok(ids),
        }
    }
}
