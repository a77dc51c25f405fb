//! `/dashboard/partners/{id}`: how one partner stands and fared, what it was sent and said, how it is set up. Its own token sees
//! it, too.

use std::sync::Arc;

use askama::Template;
use axum::extract::{Path, State};
use ess_core::access::{Act, Role};
use ess_core::id::{EventId, PartnerId, Seq};
use ess_core::partner::{Auth, KEYS, Partner, SecretRef, Secrets};
use ess_core::problem::{Code, Problem};
use ess_core::time::Time;
use ess_hub::Letters;
use ess_hub::journey::Leg;
use ess_hub::overview::{Condition, PartnerStanding};
use ess_hub::past::Day;
use ess_hub::view::{AttemptView, DeliveryView, Page, SecretView};
use serde_json::Value;

use super::Screen;
use super::day::{self, DayPlot};
use super::event::{self, Row};
use super::form::encode;
use super::frame::{Content, Tab, event_path, page, partner_path, permit, render};
use super::overview;
use super::visitor::Visitor;
use super::words::{self, Moment, Pill};
use crate::limits::DASHBOARD_ROWS;
use crate::query::Query;
use crate::site::Site;

/// Deliveries on one page; each is looked up by itself.
const DELIVERIES: usize = 25;
/// What waits for it is counted up to here.
const BACKLOG_MAX: u64 = 10_000;
/// Failed attempts that are named, the newest.
const FAILURES: usize = 5;

#[derive(Template)]
#[template(path = "dashboard/partner.html")]
struct Live<'a> {
    id: &'a str,
    path: String,
    is_own: bool,
    /// Whether events have pages for this reader.
    has_links: bool,
    pill: Pill,
    why: Option<String>,
    command: Option<String>,
    by_itself: Option<String>,
    facts: Vec<(&'static str, String)>,
    oldest: Option<(String, String, Moment)>,
    missed: Vec<Missed>,
    has_more_missed: bool,
    rows: Vec<Row>,
    later: Option<String>,
    is_first: bool,
    day: DayPlot,
    errors: Vec<Failure>,
    configuration: Vec<Setting>,
    secrets: Vec<(String, String)>,
}

/// A key of its document.
struct Setting {
    name: String,
    value: String,
    meaning: &'static str,
}

/// An attempt that failed.
struct Failure {
    event: String,
    href: String,
    at: Moment,
    answer: String,
    reason: String,
}

/// A delivery that was given up.
struct Missed {
    event: String,
    href: String,
    pill: Pill,
    number: String,
    reason: String,
    ended: Option<Moment>,
}

#[derive(Template)]
#[template(path = "dashboard/partner_acts.html")]
struct Acts<'a> {
    id: &'a str,
    path: String,
    csrf: &'a str,
    may_operate: bool,
    is_paused: bool,
    has_missed: bool,
}

#[derive(Template)]
#[template(path = "dashboard/sent.html")]
struct Sent<'a> {
    id: &'a str,
    path: String,
    number: u64,
    body: String,
    gone: Option<(Pill, Moment)>,
}

/// One partner.
pub(crate) async fn read_partner(
    State(site): State<Arc<Site>>,
    visitor: Visitor,
    Path(id): Path<String>,
    query: Query,
) -> Screen {
    let id = PartnerId::parse(&id)?;
    permit(&visitor, &Act::ReadPartner(&id))?;
    query.only(&["before"])?;
    let before = query.number("before")?.map(Seq);
    let standing = site.hub.partner_standing(&id).await?;
    let deliveries = site.hub.newest_deliveries(&id, before, DELIVERIES).await?;
    let own = Letters { partner: Some(id.clone()), ..Letters::default() };
    let missed = site.hub.dead_letters(&own, None, DASHBOARD_ROWS as u32).await?;
    let has_missed = !missed.items.is_empty();
    let (secrets, backlog) = site.hub.secrets_and_backlog(&id, BACKLOG_MAX).await?;
    let day = site.hub.partner_day(&id).await?;
    let shown = Shown {
        standing: &standing,
        deliveries,
        missed,
        secrets,
        backlog,
        day,
        is_first: before.is_none(),
        now: site.hub.time(),
    };
    let live = render(&live(&id, &visitor, shown))?;
    let acts = Acts {
        id: id.as_str(),
        path: partner_path(id.as_str()),
        csrf: &visitor.csrf,
        may_operate: visitor.may(&Act::Operate),
        is_paused: standing.paused_since.is_some(),
        has_missed,
    };
    let fixed = if visitor.may(&Act::Tend(&id)) { render(&acts)? } else { String::new() };
    page(&site, &visitor, &Content { title: id.to_string(), tab: Tab::Partners, live: &live, fixed: &fixed }).await
}

struct Shown<'a> {
    standing: &'a PartnerStanding,
    deliveries: Page<Leg>,
    missed: Page<DeliveryView>,
    secrets: Vec<SecretView>,
    backlog: u64,
    day: Day,
    is_first: bool,
    now: Time,
}

fn live<'a>(id: &'a PartnerId, visitor: &Visitor, shown: Shown<'_>) -> Live<'a> {
    let Shown { standing, deliveries, missed, secrets, backlog, day, is_first, now } = shown;
    let may_prove = visitor.may(&Act::Read);
    let overview::Row { pill, why, command, by_itself, oldest, .. } = overview::row(standing, now);
    let is_own = matches!(visitor.principal().role, Role::Partner(_));
    let is_well = standing.condition == Condition::Well && standing.is_heard;
    let path = partner_path(id.as_str());
    Live {
        id: id.as_str(),
        is_own,
        has_links: visitor.may(&Act::ReadEvents),
        pill,
        why: (!is_well).then_some(why),
        // A command line of the hub's is nothing that a partner has.
        command: command.filter(|_| visitor.may(&Act::Read)),
        by_itself,
        facts: facts(standing, backlog, now),
        day: day::plot(&day, now),
        errors: failures(&deliveries.items, now),
        secrets: secret_names(&standing.partner, &secrets, now)
            .into_iter()
            // Where the hub has them is nothing that a partner must know.
            .map(|(name, place)| if is_own { (name, "kept by the hub".to_owned()) } else { (name, place) })
            .collect(),
        oldest,
        has_more_missed: missed.next.is_some(),
        missed: missed.items.into_iter().map(|letter| missed_of(&letter, now)).collect(),
        rows: deliveries.items.iter().map(|leg| event::row(leg, may_prove && !leg.event.content.test, now)).collect(),
        later: deliveries.next.map(|next| format!("{path}?before={next}")),
        is_first,
        configuration: settings(&standing.partner),
        path,
    }
}

fn missed_of(letter: &DeliveryView, now: Time) -> Missed {
    Missed {
        event: letter.event_id.to_string(),
        href: event_path(letter.event_id.as_str(), letter.test),
        pill: words::of_state(letter.state, false),
        number: letter.partner_seq.map_or_else(|| "-".to_owned(), words::number),
        reason: letter.reason.clone().unwrap_or_default(),
        ended: letter.ended_at.map(|at| Moment::of(at, now)),
    }
}

/// Its document key by key, in the order in which people read it, each with its line.
fn settings(partner: &Partner) -> Vec<Setting> {
    let document = partner.to_json(Secrets::Masked);
    let rows = KEYS.iter().filter_map(|key| {
        let value = match &document[key.name] {
            Value::Null => return None,
            Value::String(text) => text.clone(),
            other => other.to_string(),
        };
        Some(Setting { name: key.name.to_owned(), value, meaning: key.meaning })
    });
    rows.collect()
}

/// Which secrets there are: where each is found, and never what it is.
fn secret_names(partner: &Partner, signing: &[SecretView], now: Time) -> Vec<(String, String)> {
    let mut named = Vec::new();
    for secret in signing {
        named.push(match secret.ends_at {
            None => ("signing secret".to_owned(), "sealed in the store; signs every message".to_owned()),
            Some(end) => (
                "signing secret before it".to_owned(),
                format!("sealed in the store; signs too, ends {}", words::ago(end, now)),
            ),
        });
    }
    let refer = |secret: &SecretRef| match secret {
        SecretRef::Env(name) => format!("the hub's environment variable {name}"),
        SecretRef::File(path) => format!("the hub's file {path}"),
        SecretRef::Inline(_) => "sealed in the store".to_owned(),
    };
    let mut put = |name: &str, secret: &SecretRef| named.push((name.to_owned(), refer(secret)));
    match &partner.auth {
        None => {}
        Some(Auth::Bearer(token)) => put("login: bearer token", token),
        Some(Auth::Basic { password, .. } | Auth::Password { password, .. }) => put("login: password", password),
        Some(Auth::OAuth2 { client_secret, .. }) => put("login: client secret", client_secret),
        Some(Auth::Key { key, passphrase, .. }) => {
            put("login: private key", key);
            if let Some(passphrase) = passphrase {
                put("login: the key's passphrase", passphrase);
            }
        }
        Some(Auth::Mtls { cert, key }) => {
            put("login: client certificate", cert);
            put("login: its private key", key);
        }
    }
    named
}

/// The newest attempts that failed, among the deliveries that are shown.
fn failures(legs: &[Leg], now: Time) -> Vec<Failure> {
    let attempts = legs.iter().flat_map(|leg| leg.delivery.attempts.iter().map(move |attempt| (leg, attempt)));
    let mut failed: Vec<_> = attempts.filter(|(_, attempt)| !matches!(attempt.outcome, "acked" | "received")).collect();
    failed.sort_by_key(|(_, attempt)| std::cmp::Reverse(attempt.at));
    let row = |(leg, attempt): (&Leg, &AttemptView)| Failure {
        event: leg.delivery.event_id.to_string(),
        href: event_path(leg.delivery.event_id.as_str(), leg.delivery.test),
        at: Moment::of(attempt.at, now),
        answer: attempt.status.map_or_else(String::new, |status| format!("status {status}")),
        reason: attempt.reason.clone().unwrap_or_else(|| attempt.outcome.to_owned()),
    };
    failed.into_iter().take(FAILURES).map(row).collect()
}

fn facts(standing: &PartnerStanding, backlog: u64, now: Time) -> Vec<(&'static str, String)> {
    let lane = &standing.standing;
    let partner = &standing.partner;
    let mut facts = vec![
        ("Channel", format!("{} {}", partner.channel.word(), partner.url.as_deref().unwrap_or_default())),
        ("Backlog", format!("{}{}", words::number(backlog), if backlog >= BACKLOG_MAX { "+" } else { "" })),
        ("Under way", words::number(u64::from(lane.in_flight))),
    ];
    let counted = [("Blocked", lane.blocked), ("Retrying", lane.retrying), ("Without ACK", lane.awaiting_ack)];
    let counted = counted.into_iter().filter(|(_, count)| *count > 0);
    facts.extend(counted.map(|(name, count)| (name, words::number(u64::from(count)))));
    let since = |name, time: Option<Time>| time.map(|time| (name, words::ago(time, now)));
    facts.extend(since("Offline", lane.offline_since));
    facts.extend(since("Paused", standing.paused_since));
    facts.extend(standing.last_error.clone().map(|error| ("Last failure", error)));
    facts
}

/// The envelope that the partner is sent under one of its own numbers.
pub(crate) async fn read_sent(
    State(site): State<Arc<Site>>,
    visitor: Visitor,
    Path(id): Path<String>,
    query: Query,
) -> Screen {
    let id = PartnerId::parse(&id)?;
    permit(&visitor, &Act::ReadPartner(&id))?;
    query.only(&["number"])?;
    let number = query.number("number")?.unwrap_or_default();
    let found = site.hub.partner_events(&id, number, number).await?;
    let Some((_, body)) = found.into_iter().next() else {
        return Err(Problem::new(Code::NotFound, format!("{id} was sent nothing under number {number}")).into());
    };
    let envelope = serde_json::from_str::<Value>(&body).unwrap_or_default();
    let gone = gone_of(&site, &envelope).await?;
    let body = if envelope.is_null() { body } else { serde_json::to_string_pretty(&envelope).unwrap_or(body) };
    let fixed = render(&Sent { id: id.as_str(), path: partner_path(id.as_str()), number, body, gone })?;
    let title = format!("{id}, number {number}");
    page(&site, &visitor, &Content { title, tab: Tab::Partners, live: "", fixed: &fixed }).await
}

/// How the payload of an envelope's event went. Who did it and why is the hub's own.
async fn gone_of(site: &Site, envelope: &Value) -> Result<Option<(Pill, Moment)>, Problem> {
    let Some(id) = envelope["id"].as_str() else { return Ok(None) };
    let event = site.hub.event(&EventId::parse(id)?, envelope["test"] == Value::Bool(true)).await?.event;
    Ok(event.gone.as_ref().map(|gone| (words::of_gone(gone), Moment::of(gone.at, site.hub.time()))))
}

/// The way back to a partner's page, at its acts.
pub(crate) fn back_to(id: &PartnerId) -> String {
    format!("/dashboard/partners/{}", encode(id.as_str()))
}
