//! `/dashboard/partners/{id}`: how one partner stands, what it was sent and said, how it is set up. Its own token sees it, too.

use std::sync::Arc;

use askama::Template;
use axum::extract::{Path, State};
use ess_core::access::{Act, Role};
use ess_core::id::{PartnerId, Seq};
use ess_core::partner::Secrets;
use ess_core::problem::{Code, Problem};
use ess_core::time::Time;
use ess_hub::Letters;
use ess_hub::journey::Leg;
use ess_hub::overview::{Condition, PartnerStanding};
use ess_hub::view::{DeliveryView, Page};

use super::Screen;
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
    configuration: String,
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
    let shown = Shown { standing: &standing, deliveries, missed, is_first: before.is_none(), now: site.hub.time() };
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
    page(&site, &visitor, &Content { title: id.to_string(), tab: Tab::Partners, live: &live, fixed: &fixed })
}

struct Shown<'a> {
    standing: &'a PartnerStanding,
    deliveries: Page<Leg>,
    missed: Page<DeliveryView>,
    is_first: bool,
    now: Time,
}

fn live<'a>(id: &'a PartnerId, visitor: &Visitor, shown: Shown<'_>) -> Live<'a> {
    let Shown { standing, deliveries, missed, is_first, now } = shown;
    let may_prove = visitor.may(&Act::Read);
    let overview::Row { pill, why, command, by_itself, oldest, .. } = overview::row(standing, now);
    let is_well = standing.condition == Condition::Well;
    let path = partner_path(id.as_str());
    let configuration = standing.partner.to_json(Secrets::Masked);
    Live {
        id: id.as_str(),
        is_own: matches!(visitor.principal().role, Role::Partner(_)),
        has_links: visitor.may(&Act::ReadEvents),
        pill,
        why: (!is_well).then_some(why),
        // A command line of the hub's is nothing that a partner has.
        command: command.filter(|_| visitor.may(&Act::Read)),
        by_itself,
        facts: facts(standing, now),
        oldest,
        has_more_missed: missed.next.is_some(),
        missed: missed.items.into_iter().map(|letter| missed_of(&letter, now)).collect(),
        rows: deliveries.items.iter().map(|leg| event::row(leg, may_prove && !leg.event.content.test, now)).collect(),
        later: deliveries.next.map(|next| format!("{path}?before={next}")),
        is_first,
        configuration: serde_json::to_string_pretty(&configuration).unwrap_or_default(),
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

fn facts(standing: &PartnerStanding, now: Time) -> Vec<(&'static str, String)> {
    let lane = &standing.standing;
    let partner = &standing.partner;
    let mut facts = vec![
        ("Channel", format!("{} {}", partner.channel.word(), partner.url.as_deref().unwrap_or_default())),
        ("Open", overview::open(standing)),
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
    let pretty = serde_json::from_str::<serde_json::Value>(&body);
    let body = pretty.ok().and_then(|value| serde_json::to_string_pretty(&value).ok()).unwrap_or(body);
    let fixed = render(&Sent { id: id.as_str(), path: partner_path(id.as_str()), number, body })?;
    let title = format!("{id}, number {number}");
    page(&site, &visitor, &Content { title, tab: Tab::Partners, live: "", fixed: &fixed })
}

/// The way back to a partner's page, at its acts.
pub(crate) fn back_to(id: &PartnerId) -> String {
    format!("/dashboard/partners/{}", encode(id.as_str()))
}
