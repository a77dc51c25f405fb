//! What the hub says of itself and of its partners: reachable, trusted, its clock, ready, each partner's address, targets, tokens.

use std::sync::Arc;
use std::time::Duration;

use ess_core::time::Time;
use http::Method;
use serde_json::Value;
use tokio::task::JoinSet;

use super::finding::{self, Finding, Grade};
use super::machine::{ends_s, now_s};
use crate::cli::Globals;
use crate::client::{Body, Client, encode};
use crate::commands::{client, field};
use crate::failure::{Failure, Result};
use crate::output::Output;

/// Partners that are reached for at once.
const AT_ONCE: usize = 16;
/// Partners that are looked at.
const PARTNERS_MAX: usize = 10_000;

/// Asks the hub; without one there is a single finding that says so.
pub(crate) async fn examine(globals: &Globals, output: &Output) -> Vec<Finding> {
    let client = match client(globals) {
        Ok(client) => Arc::new(client),
        Err(failure) => return vec![failed("hub", failure)],
    };
    let each = match client.each() {
        Ok(each) => each,
        Err(failure) => return vec![failed("hub", failure)],
    };
    let (mut findings, mut answers) = (Vec::new(), false);
    for address in each {
        answers |= examine_address(&address, &mut findings).await;
    }
    if !answers {
        return findings;
    }
    match client.list("/v1/partners", PARTNERS_MAX).await {
        Err(failure) => {
            findings.push(failed("partners", failure));
            return findings;
        }
        Ok(partners) => findings.extend(reach(&client, &partners, output).await),
    }
    findings.extend(targets(&client).await);
    findings.extend(tokens(&client).await);
    findings
}

/// Looks at one address of the hub; whether a hub answers there.
async fn examine_address(address: &Client, findings: &mut Vec<Finding>) -> bool {
    match address.certificate().await {
        Err(failure) => {
            findings.push(failed("hub", failure));
            return false;
        }
        Ok(None) => {}
        Ok(Some(der)) => {
            let name = format!("the certificate of {}, trusted and of the right name,", address.hub());
            findings.extend(ends_s(&der).map(|ends| finding::certificate(&name, ends, now_s(), true)));
        }
    }
    match address.send(Method::GET, "/readyz", Body::Empty, &[], Duration::ZERO).await {
        Err(failure) => {
            findings.push(failed("hub", failure));
            false
        }
        Ok(reply) => {
            findings.push(ready(address.hub(), reply.status.as_u16(), &reply.value().unwrap_or_default()));
            findings.extend(reply.date.as_deref().and_then(skew_s).map(finding::clock));
            true
        }
    }
}

fn failed(check: &'static str, failure: Failure) -> Finding {
    let hint = failure.hint.unwrap_or_else(|| "look at the hub's log".to_owned());
    Finding::fail(check, failure.detail, "nothing of the hub and its partners could be asked", hint)
}

fn ready(hub: &str, status: u16, said: &Value) -> Finding {
    if status == 200 {
        return Finding::ok("hub", format!("{hub} answers and is ready"));
    }
    let why = ["detail", "reason", "title"].iter().map(|name| field(said, name)).find(|text| !text.is_empty());
    Finding::fail(
        "hub",
        format!("{hub} answers and is not ready"),
        why.unwrap_or_else(|| format!("it says {status}")),
        "look at the hub's log and its disk; it takes up its work by itself when it can write",
    )
}

/// How far the hub's clock is ahead, by its `Date` header.
fn skew_s(date: &str) -> Option<i64> {
    let hub = Time::parse_rfc3339(&finding::rfc3339(date)?).ok()?;
    Some(hub.as_micros() / 1_000_000 - now_s())
}

async fn reach(client: &Arc<Client>, partners: &[Value], output: &Output) -> Vec<Finding> {
    let bar = output.progress(partners.len() as u64, "reaching for partners");
    let mut waiting = partners.iter();
    let mut probes: JoinSet<(String, Result<Value>)> = JoinSet::new();
    let mut findings = Vec::new();
    let mut reached = 0;
    loop {
        while probes.len() < AT_ONCE {
            let Some(partner) = waiting.next() else { break };
            let (client, id) = (client.clone(), field(partner, "id"));
            probes.spawn(async move {
                let path = format!("/v1/partners/{}/probe", encode(&id));
                let said = client.ask(Method::POST, &path, Body::Empty).await;
                (id, said.and_then(|reply| reply.value()))
            });
        }
        let Some(Ok((id, said))) = probes.join_next().await else { break };
        bar.inc(1);
        match said {
            Ok(said) if said["reached"] == true => reached += 1,
            Ok(said) => findings.push(Finding::fail(
                "partner",
                format!("{id} can't be reached"),
                field(&said, "reason"),
                format!("mend the way to it, then `hms-ess partner test {id}`; until then its events wait"),
            )),
            // A token that may not reach for one may not for any.
            Err(failure) => {
                findings.push(Finding { grade: Grade::Warn, ..failed("partner", failure) });
                probes.abort_all();
                break;
            }
        }
    }
    bar.finish_and_clear();
    findings.sort_by(|a, b| a.what.cmp(&b.what));
    let troubled = partners.iter().filter_map(|partner| standing(partner, &findings));
    let troubled: Vec<Finding> = troubled.collect();
    findings.extend(troubled);
    let of = if partners.len() == 1 { "1 partner".to_owned() } else { format!("{} partners", partners.len()) };
    findings.insert(0, Finding::ok("partners", format!("{reached} of {of} can be reached; nothing was sent to them")));
    findings
}

/// What the hub already knows of a partner that can be reached.
fn standing(partner: &Value, findings: &[Finding]) -> Option<Finding> {
    let (id, state) = (field(partner, "id"), field(partner, "state"));
    let is_known = findings.iter().any(|finding| finding.what.starts_with(&format!("{id} ")));
    let why = field(partner, "last_error");
    match state.as_str() {
        "paused" => Some(Finding::warn(
            "partner",
            format!("{id} is paused"),
            format!("{} deliveries wait", field(partner, "backlog")),
            format!("hms-ess partner resume {id}"),
        )),
        "offline" if !is_known => {
            let what_to_do = format!("hms-ess partner test {id}; the hub goes on by itself when it answers");
            Some(Finding::warn("partner", format!("{id} can be reached and keeps failing"), why, what_to_do))
        }
        _ => None,
    }
}

async fn targets(client: &Client) -> Vec<Finding> {
    let items = match client.list("/v1/targets", PARTNERS_MAX).await {
        Ok(items) => items,
        Err(failure) => return vec![Finding { grade: Grade::Warn, ..failed("target", failure) }],
    };
    if items.is_empty() {
        let why = "`targets` is empty in the hub's configuration";
        let what_to_do = "name a target: docs/operations.md, \"Be told\"";
        return vec![Finding::warn("target", "nobody is told of trouble", why, what_to_do)];
    }
    let graded = items.iter().map(|item| {
        let name = field(item, "name");
        match field(item, "last_error") {
            why if why.is_empty() => Finding::ok("target", format!("{name}: no message failed")),
            why => {
                let what_to_do = format!("hms-ess target test {name}");
                Finding::fail("target", format!("{name}: the last message did not get there"), why, what_to_do)
            }
        }
    });
    graded.collect()
}

async fn tokens(client: &Client) -> Vec<Finding> {
    let items = match client.get("/v1/tokens").await {
        Ok(page) => page["items"].as_array().cloned().unwrap_or_default(),
        Err(_) => return vec![Finding::ok("token", "not looked at: only an admin's token may list tokens")],
    };
    let now = Time::from_micros(now_s().saturating_mul(1_000_000));
    let live: Vec<&Value> = items.iter().filter(|item| item.get("revoked_at").is_none()).collect();
    let mut findings = Vec::new();
    for item in &live {
        let ends = item["expires_at"].as_str().and_then(|text| Time::parse_rfc3339(text).ok());
        if let Some(ends) = ends.filter(|ends| *ends > now) {
            let note = field(item, "note");
            let name = format!(
                "{} ({}{}{note})",
                field(item, "id"),
                field(item, "role"),
                if note.is_empty() { "" } else { ", " }
            );
            findings.extend(finding::token(&name, ends.since(now)));
        }
    }
    if findings.is_empty() {
        findings.push(Finding::ok("token", format!("none of {} ends soon", live.len())));
    }
    findings
}
