//! The page of a packet that a person can read, and its README. Stands alone: no script, no other file, printable.

use std::collections::BTreeMap;

use askama::Template;
use ess_core::delivery::State;
use ess_core::id::Digest;
use ess_core::ledger::packet::{Listed, Payload};
use ess_hub::audit::{EventAudit, KnownScript};
use ess_hub::view::DeliveryView;

/// What the files are and how to check them.
pub(crate) const README: &str = include_str!("../templates/packet.txt");

#[derive(Template)]
#[template(path = "packet.html")]
struct Page<'a> {
    audit: &'a EventAudit,
    payload: &'a str,
    is_whole: bool,
    key: &'a str,
    counts: Vec<(usize, &'static str)>,
    deliveries: Vec<Row<'a>>,
    attempts: Vec<Tried<'a>>,
    scripts: Vec<(String, String, &'a str)>,
    checkpoint: Option<&'a str>,
}

/// A delivery and what came of it.
struct Row<'a> {
    partner: &'a str,
    round: u32,
    state: &'static str,
    reason: &'a str,
    version: String,
    bytes: String,
    bytes_file: Option<String>,
    scripts: Vec<(String, Option<String>)>,
    receipts: Vec<Receipt<'a>>,
}

struct Receipt<'a> {
    word: &'static str,
    at: &'a str,
    evidence: &'static str,
    attempt: u32,
    index: u64,
    proof: &'a str,
}

struct Tried<'a> {
    partner: &'a str,
    round: u32,
    number: u32,
    at: String,
    took_ms: u128,
    status: String,
    outcome: &'static str,
    reason: &'a str,
}

/// The page.
pub(crate) fn page(audit: &EventAudit, listed: &[Listed], key: &str) -> String {
    let mut by_delivery: BTreeMap<(&str, u32), Vec<&Listed>> = BTreeMap::new();
    for one in listed {
        by_delivery.entry((&one.receipt.partner, one.receipt.round)).or_default().push(one);
    }
    let deliveries: Vec<Row<'_>> = audit
        .deliveries
        .iter()
        .map(|delivery| {
            let receipts = by_delivery.remove(&(delivery.partner.as_str(), delivery.round)).unwrap_or_default();
            row(audit, delivery, &receipts)
        })
        .collect();
    let mut counts: BTreeMap<&'static str, usize> = BTreeMap::new();
    for delivery in &audit.deliveries {
        *counts.entry(state_words(delivery)).or_default() += 1;
    }
    let page = Page {
        audit,
        payload: audit.event.content.payload.get(),
        is_whole: audit.record.payload == Payload::Whole,
        key,
        counts: counts.into_iter().map(|(words, count)| (count, words)).collect(),
        deliveries,
        attempts: audit.deliveries.iter().flat_map(tried).collect(),
        scripts: audit
            .scripts
            .iter()
            .map(|(digest, script)| (script.what.clone(), script_file(digest, script), &*script.text))
            .collect(),
        checkpoint: audit.checkpoint.as_ref().map(|checkpoint| checkpoint.note.as_str()),
    };
    page.render().unwrap_or_else(|error| {
        tracing::error!(%error, "could not render the page of a packet");
        String::new()
    })
}

/// Where a script stands in the packet.
pub(crate) fn script_file(digest: &Digest, script: &KnownScript) -> String {
    if script.is_table { format!("tables/{digest}.json") } else { format!("scripts/{digest}.jsonata") }
}

/// Where bytes that were sent stand in the packet.
pub(crate) fn sent_file(digest: &Digest, extension: &str) -> String {
    format!("sent/{digest}.{extension}")
}

fn row<'a>(audit: &EventAudit, delivery: &'a DeliveryView, listed: &[&'a Listed]) -> Row<'a> {
    let sent =
        delivery.body_digest.and_then(|digest| audit.sent.get(&digest).map(|(_, kind)| sent_file(&digest, kind)));
    let script = |digest: &Digest| {
        let file = audit.scripts.get(digest).map(|script| script_file(digest, script));
        (short(&digest.to_string()), file)
    };
    let receipts = listed.iter().map(|one| Receipt {
        word: if one.receipt.word == "ack" { "acknowledged" } else { "refused" },
        at: &one.receipt.at,
        evidence: evidence_words(&one.receipt.evidence),
        attempt: one.receipt.attempt,
        index: one.index,
        proof: &one.proof,
    });
    Row {
        partner: delivery.partner.as_str(),
        round: delivery.round,
        state: state_words(delivery),
        reason: delivery.reason.as_deref().unwrap_or_default(),
        version: delivery
            .version
            .filter(|version| version.0 > 0)
            .map(|version| version.to_string())
            .unwrap_or_default(),
        bytes: delivery.body_digest.map(|digest| digest.to_string()).unwrap_or_default(),
        bytes_file: sent,
        scripts: delivery.scripts.iter().map(script).collect(),
        receipts: receipts.collect(),
    }
}

fn tried(delivery: &DeliveryView) -> impl Iterator<Item = Tried<'_>> {
    delivery.attempts.iter().map(|attempt| Tried {
        partner: delivery.partner.as_str(),
        round: delivery.round,
        number: attempt.number,
        at: attempt.at.to_string(),
        took_ms: attempt.took.as_millis(),
        status: attempt.status.map(|status| status.to_string()).unwrap_or_default(),
        outcome: attempt.outcome,
        reason: attempt.reason.as_deref().unwrap_or_default(),
    })
}

fn state_words(delivery: &DeliveryView) -> &'static str {
    match delivery.state {
        state if delivery.paused && !state.is_end() => "waiting: the partner is paused",
        State::Acked => "acknowledged",
        State::Nack => "refused by the partner",
        State::Dead => "given up",
        State::Superseded => "replaced by a newer event before it was delivered",
        State::Cancelled => "cancelled before it was acknowledged",
        State::AwaitingAck => "delivered; the receipt is outstanding",
        State::Blocked => "held back: it can't be converted for the partner",
        State::Retrying => "not delivered yet; tried again",
        State::Pending | State::Sending => "not delivered yet",
    }
}

/// How a receipt is evidenced, for people.
fn evidence_words(word: &str) -> &'static str {
    match word {
        "body" => "the partner's answer to the message said so",
        "status" => "the partner's system took the message without an error",
        "callback" => "the partner said so itself, with its own access token or link",
        "file" => "the partner left a receipt file",
        "topic" => "the partner answered on its receipt topic",
        _ => "see the receipt",
    }
}

fn short(hash: &str) -> String {
    hash.chars().take(12).collect()
}
