//! `/dashboard/events/{id}`: an event's way to every partner, as a picture and one by one; replay and retraction.

use std::collections::BTreeMap;
use std::sync::Arc;

use askama::Template;
use axum::extract::{Path, State};
use axum::http::HeaderValue;
use axum::http::header::{CONTENT_DISPOSITION, CONTENT_TYPE};
use axum::response::IntoResponse;
use ess_core::access::Act;
use ess_core::delivery::State as Stage;
use ess_core::event::{Content as EventContent, Gone, GoneCause, Kind, Priority, Trace};
use ess_core::id::{EventId, PartnerId};
use ess_core::problem::{Code, Problem};
use ess_core::time::Time;
use ess_hub::journey::{Journey, Leg};
use ess_hub::view::ReplayRequest;

use super::Screen;
use super::form::encode;
use super::frame::{Content, Tab, event_path, page, partner_path, permit, protect, render};
use super::visitor::{Posted, Visitor, go};
use super::way::{self, Group, Stop};
use super::words::{self, Moment, Pill};
use crate::limits::DASHBOARD_ROWS;
use crate::packet;
use crate::query::Query;
use crate::refusal::Refusal;
use crate::site::Site;

/// Bytes of a payload that a page shows.
const PAYLOAD_BYTES_SHOWN: usize = 16 * 1024;
/// Attempts of one delivery that a page shows, the newest.
const ATTEMPTS_SHOWN: usize = 20;

#[derive(Template)]
#[template(path = "dashboard/event.html")]
struct Live<'a> {
    id: &'a str,
    test: bool,
    facts: Vec<(&'static str, String)>,
    recorded: Moment,
    subject_href: Option<String>,
    subject: &'a str,
    groups: Vec<Group>,
    picture_height: usize,
    picture_words: String,
    tally: Tally,
    rows: Vec<Row>,
    filter: &'a str,
    earlier: Option<String>,
    later: Option<String>,
    payload: String,
    is_cut: bool,
    gone: Option<Faded>,
    hold: Option<(u64, String)>,
    packet: Option<String>,
    references: Vec<(String, String)>,
}

/// How its payload went.
pub(crate) struct Faded {
    pub(crate) pill: Pill,
    pub(crate) at: Moment,
    pub(crate) by: Option<String>,
    pub(crate) reason: Option<String>,
}

impl Faded {
    fn of(gone: &Gone, now: Time) -> Self {
        let (by, reason) = match &gone.cause {
            GoneCause::Expired => (None, None),
            GoneCause::Redacted { by, reason } => (Some(by.clone()), Some(reason.clone())),
        };
        Self { pill: words::of_gone(gone), at: Moment::of(gone.at, now), by, reason }
    }
}

/// How many deliveries are in each state.
struct Tally {
    states: Vec<(Pill, String)>,
    /// Where each share begins in a bar of 1,000 units, how wide it is, and its tone.
    bar: Vec<(u64, u64, &'static str)>,
}

/// One delivery on a page.
pub(crate) struct Row {
    pub(crate) key: String,
    pub(crate) event: String,
    pub(crate) event_href: String,
    pub(crate) partner: String,
    pub(crate) href: String,
    pub(crate) round: u32,
    pub(crate) gone: Option<Pill>,
    pub(crate) pill: Pill,
    pub(crate) stops: Vec<Stop>,
    pub(crate) why: Option<String>,
    pub(crate) command: Option<String>,
    pub(crate) due: Option<Moment>,
    pub(crate) ended: Option<Moment>,
    pub(crate) attempts_made: u32,
    pub(crate) attempts: Vec<Attempt>,
    pub(crate) receipt: Option<Receipt>,
    pub(crate) partner_seq: Option<u64>,
    pub(crate) message_id: String,
}

/// One attempt on a page.
pub(crate) struct Attempt {
    pub(crate) number: u32,
    pub(crate) at: Moment,
    pub(crate) took: String,
    pub(crate) answer: String,
    pub(crate) reason: String,
}

/// A receipt, and where its proof is.
pub(crate) struct Receipt {
    pub(crate) by: &'static str,
    pub(crate) digest: String,
    pub(crate) proof: Option<String>,
}

#[derive(Template)]
#[template(path = "dashboard/event_acts.html")]
struct Acts<'a> {
    path: String,
    csrf: &'a str,
    may_replay: bool,
    may_retract: bool,
    /// Why neither can be done.
    gone: Option<String>,
}

/// One event.
pub(crate) async fn read_event(
    State(site): State<Arc<Site>>,
    visitor: Visitor,
    Path(id): Path<String>,
    query: Query,
) -> Screen {
    permit(&visitor, &Act::ReadEvents)?;
    query.only(&["test", "partner", "from"])?;
    let (id, test) = (EventId::parse(&id)?, query.flag("test")?);
    let journey = site.hub.journey(&id, test).await?;
    let content = &journey.event.event.content;
    visitor.caller.permit_event(&content.subject)?;
    let filter = query.text("partner").unwrap_or_default();
    let from = usize::try_from(query.number("from")?.unwrap_or(0)).unwrap_or(usize::MAX);
    let hold = if visitor.may(&Act::Read) { site.hub.hold_on(content).await? } else { None };
    let hold = hold.map(|hold| (hold.number, hold.reason));
    let live = render(&live(&journey, &visitor, Shown { filter, from, now: site.hub.time(), hold }))?;
    let gone = journey.event.event.gone.as_ref();
    let (may_operate, may_publish) = (visitor.may(&Act::Operate), visitor.may(&Act::Publish(&content.subject)));
    let acts = Acts {
        path: format!("/dashboard/events/{}", encode(id.as_str())),
        csrf: &visitor.csrf,
        may_replay: !test && gone.is_none() && may_operate,
        may_retract: !test && gone.is_none() && content.kind != Kind::Retraction && may_publish,
        gone: gone.filter(|_| may_operate || may_publish).map(Gone::told),
    };
    let fixed = render(&acts)?;
    page(&site, &visitor, &Content { title: id.to_string(), tab: Tab::Events, live: &live, fixed: &fixed }).await
}

/// Which rows, as of when.
struct Shown<'a> {
    filter: &'a str,
    from: usize,
    now: Time,
    hold: Option<(u64, String)>,
}

fn live<'a>(journey: &'a Journey, visitor: &Visitor, shown: Shown<'a>) -> Live<'a> {
    let Shown { filter, from, now, hold } = shown;
    let event = &journey.event.event;
    let content = &event.content;
    let id = content.id.as_str();
    let mut legs: Vec<&Leg> =
        journey.legs.iter().filter(|leg| leg.delivery.partner.as_str().contains(filter)).collect();
    // What needs somebody stands first.
    legs.sort_by_key(|leg| (severity(leg), leg.delivery.partner.clone(), leg.delivery.round));
    let may_prove = visitor.may(&Act::Read) && !content.test;
    let rows: Vec<Row> = legs.iter().skip(from).take(DASHBOARD_ROWS).map(|leg| row(leg, may_prove, now)).collect();
    let place = |from: usize| {
        let test = if content.test { "&test=true" } else { "" };
        format!("/dashboard/events/{}?from={from}&partner={}{test}", encode(id), encode(filter))
    };
    let groups = way::groups(&journey.legs);
    let (payload, is_cut) = cut(content.payload.get(), PAYLOAD_BYTES_SHOWN);
    let reference = |id: &EventId| (id.to_string(), event_path(id.as_str(), false));
    Live {
        id,
        test: content.test,
        facts: facts(journey),
        recorded: Moment::of(event.recorded_at, now),
        subject: content.subject.as_str(),
        subject_href: visitor
            .may(&Act::ReadEvents)
            .then(|| format!("/dashboard/events?subject={}", encode(content.subject.as_str()))),
        picture_height: way::height(&groups),
        picture_words: way::words(&groups, journey.event.partners),
        groups,
        tally: tally(&journey.legs),
        earlier: (from > 0).then(|| place(from.saturating_sub(DASHBOARD_ROWS))),
        later: (from.saturating_add(rows.len()) < legs.len()).then(|| place(from + rows.len())),
        rows,
        filter,
        payload,
        is_cut,
        gone: event.gone.as_ref().map(|gone| Faded::of(gone, now)),
        hold,
        packet: visitor.may(&Act::Read).then(|| {
            format!("/dashboard/events/{}/packet{}", encode(id), if content.test { "?test=true" } else { "" })
        }),
        references: content.references.iter().map(reference).collect(),
    }
}

fn facts(journey: &Journey) -> Vec<(&'static str, String)> {
    let event = &journey.event.event;
    let content = &event.content;
    let mut facts = vec![
        ("Number in the log", words::number(event.seq.0)),
        ("Version", content.version.to_string()),
        ("Kind", content.kind.word().to_owned()),
        ("Priority", content.priority.word().to_owned()),
        ("Partners", words::number(u64::from(journey.event.partners))),
    ];
    let given = [
        ("Source", &content.source),
        ("Time", &content.time),
        ("Effective", &content.effective),
        ("Expires", &content.expires),
    ];
    facts.extend(given.into_iter().filter_map(|(name, value)| Some((name, value.clone()?))));
    facts.push(("Content SHA-256", event.content_digest.to_string()));
    facts
}

fn severity(leg: &Leg) -> u8 {
    match leg.delivery.state {
        Stage::Blocked => 0,
        Stage::Dead | Stage::Nack => 1,
        Stage::Retrying => 2,
        Stage::AwaitingAck => 3,
        Stage::Pending | Stage::Sending => 4,
        Stage::Superseded | Stage::Cancelled => 5,
        Stage::Acked => 6,
    }
}

fn tally(legs: &[Leg]) -> Tally {
    let mut counts: BTreeMap<u8, (Pill, u64)> = BTreeMap::new();
    for leg in legs {
        let pill = words::of_state(leg.delivery.state, leg.delivery.paused);
        counts.entry(severity(leg)).or_insert((pill, 0)).1 += 1;
    }
    let all = legs.len().max(1) as u64;
    let (mut states, mut bar, mut before) = (Vec::new(), Vec::new(), 0);
    for (pill, count) in counts.into_values().rev() {
        let (from, to) = (before * 1_000 / all, (before + count) * 1_000 / all);
        bar.push((from, to - from, pill.tone));
        states.push((pill, words::number(count)));
        before += count;
    }
    Tally { states, bar }
}

/// One delivery, as it is shown.
pub(crate) fn row(leg: &Leg, may_prove: bool, now: Time) -> Row {
    let delivery = &leg.delivery;
    let partner = delivery.partner.as_str();
    let event = delivery.event_id.as_str();
    let is_acked = delivery.state == Stage::Acked;
    let has_receipt = is_acked || delivery.state == Stage::Nack;
    let attempts = delivery.attempts.iter().rev().take(ATTEMPTS_SHOWN).map(|attempt| Attempt {
        number: attempt.number,
        at: Moment::of(attempt.at, now),
        took: words::span(attempt.took),
        answer: match attempt.status {
            Some(status) => format!("{status}, {}", attempt.outcome),
            None => attempt.outcome.to_owned(),
        },
        reason: attempt.reason.clone().unwrap_or_default(),
    });
    Row {
        key: format!("{event}.{partner}.{}", delivery.round),
        event: event.to_owned(),
        event_href: event_path(event, delivery.test),
        partner: partner.to_owned(),
        href: partner_path(partner),
        round: delivery.round,
        gone: leg.event.gone.as_ref().map(words::of_gone),
        pill: words::of_state(delivery.state, delivery.paused),
        stops: way::stops(leg),
        why: delivery.reason.clone().filter(|_| !is_acked),
        command: delivery.mend.clone().filter(|_| !is_acked),
        due: delivery.due_at.filter(|due| !delivery.state.is_end() && *due > now).map(|due| Moment::of(due, now)),
        ended: delivery.ended_at.map(|at| Moment::of(at, now)),
        attempts_made: delivery.attempts_made,
        attempts: attempts.collect(),
        receipt: has_receipt.then(|| Receipt {
            by: delivery.evidence.map_or("its word", |evidence| evidence.word()),
            digest: delivery.body_digest.map_or_else(|| "-".to_owned(), |digest| digest.to_string()),
            proof: (may_prove && delivery.evidence.is_some()).then(|| {
                format!("/dashboard/events/{}/proof?partner={partner}&round={}", encode(event), delivery.round)
            }),
        }),
        partner_seq: delivery.partner_seq,
        message_id: delivery.message_id.clone(),
    }
}

/// The proof of one receipt, as a file.
pub(crate) async fn read_proof(
    State(site): State<Arc<Site>>,
    visitor: Visitor,
    Path(id): Path<String>,
    query: Query,
) -> Screen {
    permit(&visitor, &Act::Read)?;
    query.only(&["partner", "round"])?;
    let (id, partner) = (EventId::parse(&id)?, PartnerId::parse(query.needed("partner")?)?);
    let round = query.number("round")?.map(|round| u32::try_from(round).unwrap_or(u32::MAX));
    let proof = site.hub.prove(&id, &partner, round).await?;
    let mut response = proof.write().into_response();
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    // Ids are of letters that need no quoting.
    let name = format!("attachment; filename=\"{id}.{partner}.proof.json\"");
    if let Ok(name) = HeaderValue::from_str(&name) {
        headers.insert(CONTENT_DISPOSITION, name);
    }
    protect(headers);
    Ok(response)
}

/// The packet for a court, as a file.
pub(crate) async fn read_packet(
    State(site): State<Arc<Site>>,
    visitor: Visitor,
    Path(id): Path<String>,
    query: Query,
) -> Screen {
    permit(&visitor, &Act::Read)?;
    let test = query.only(&["test"])?.flag("test")?;
    let audit = site.hub.audit_event(&EventId::parse(&id)?, test).await?;
    let mut response = packet::answer(site.hub.clone(), audit);
    protect(response.headers_mut());
    Ok(response)
}

/// Sends it again.
pub(crate) async fn replay(State(site): State<Arc<Site>>, Path(id): Path<String>, posted: Posted) -> Screen {
    let Posted { visitor, form } = posted;
    permit(&visitor, &Act::Operate)?;
    let event = EventId::parse(&id)?;
    let reason = form.reason()?;
    let named = form.text("to").unwrap_or_default().split([',', ' ', '\n', '\r']).filter(|name| !name.is_empty());
    let to: Result<Vec<PartnerId>, Problem> = named.map(PartnerId::parse).collect();
    let to = to.map_err(|problem| problem.with_field("to"))?;
    let is_everyone = form.is_ticked("everyone");
    if to.is_empty() != is_everyone {
        let detail =
            if is_everyone { "name partners or tick everyone, not both" } else { "name partners, or tick everyone" };
        return Err(Refusal(Problem::new(Code::Invalid, detail).with_field("to")));
    }
    let request = ReplayRequest { event, to, force: form.is_ticked("force"), reason: Some(reason) };
    let receipt = site.hub.replay(request, visitor.principal()).await?;
    let told = words::count(receipt.replayed.len() as u64, "partner", "partners");
    visitor.tell(&site, format!("{} goes again to {told}.", receipt.id)).await?;
    Ok(go(&event_path(&id, false)))
}

/// Takes it back at everyone who got it: the same version and payload, so that every partner's bridge fits.
pub(crate) async fn retract(State(site): State<Arc<Site>>, Path(id): Path<String>, posted: Posted) -> Screen {
    let Posted { visitor, form } = posted;
    let original = site.hub.event(&EventId::parse(&id)?, false).await?;
    let content = &original.event.content;
    permit(&visitor, &Act::Publish(&content.subject))?;
    if let Some(gone) = &original.event.gone {
        let problem = Problem::new(Code::PayloadGone, format!("the payload of {id} is gone: {}", gone.told()));
        return Err(Refusal(problem.with_hint("publish a retraction of your own that refers to it")));
    }
    let reason = form.reason()?;
    if !form.is_ticked("sure") {
        let problem = Problem::new(Code::Invalid, "tick that you are sure: a retraction goes to everyone at once");
        return Err(Refusal(problem.with_field("sure")));
    }
    let retraction = EventContent {
        id: EventId::parse(&format!("{}.retraction", content.id))?,
        priority: Priority::Urgent,
        references: vec![content.id.clone()],
        kind: Kind::Retraction,
        ..content.clone()
    };
    let receipt = site.hub.publish(retraction, Trace::default(), visitor.principal()).await?;
    site.hub.note("event.retract", content.id.as_str(), reason, visitor.principal()).await?;
    let told = words::count(u64::from(receipt.partners), "partner", "partners");
    visitor.tell(&site, format!("{} takes {id} back; {told} told.", receipt.id)).await?;
    Ok(go(&event_path(receipt.id.as_str(), false)))
}

/// The beginning of a text, never in the middle of a character.
fn cut(text: &str, bytes_max: usize) -> (String, bool) {
    if text.len() <= bytes_max {
        return (text.to_owned(), false);
    }
    let end = (0..=bytes_max).rev().find(|end| text.is_char_boundary(*end)).unwrap_or(0);
    (text[..end].to_owned(), true)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_payload_is_cut_between_characters() {
        assert_eq!(cut("abc", 3), ("abc".to_owned(), false));
        assert_eq!(cut("aéé", 2), ("a".to_owned(), true));
    }
}
