//! `/dashboard`: who has not acknowledged what, why, and what to do; then the flow of the last hour.

use std::sync::Arc;

use askama::Template;
use axum::extract::State;
use ess_core::access::Act;
use ess_core::lane::Wait;
use ess_core::problem::Problem;
use ess_core::time::Time;
use ess_hub::overview::{Condition, DEAD_COUNTED, Overview, PartnerStanding};

use super::Screen;
use super::frame::{Content, Tab, event_path, home, page, partner_path, render};
use super::plot::{self, Plot};
use super::visitor::{Visitor, go};
use super::words::{self, Moment, Pill};
use crate::query::Query;
use crate::site::Site;

/// Partners that are shown; the list of partners has the rest.
const ATTENTION_MAX: usize = 25;
/// Partners whose dead letters are named.
const DEAD_NAMED_MAX: usize = 5;

#[derive(Template)]
#[template(path = "dashboard/overview.html")]
struct Live {
    headline: String,
    is_clear: bool,
    at: String,
    unready: Option<String>,
    unheard: Option<String>,
    /// Other hubs count their own hours.
    is_shared: bool,
    tiles: Vec<Tile>,
    attention: Vec<Row>,
    more: Option<(String, usize)>,
    dead: Vec<(String, String, String)>,
    plots: [Plot; 3],
    minutes: Vec<[String; 6]>,
    totals: [(String, &'static str); 3],
}

struct Tile {
    pill: Pill,
    count: String,
    label: &'static str,
    href: String,
    is_zero: bool,
}

/// A partner that needs somebody.
pub(crate) struct Row {
    pub(crate) partner: String,
    pub(crate) href: String,
    pub(crate) pill: Pill,
    pub(crate) is_urgent: bool,
    pub(crate) oldest: Option<(String, String, Moment)>,
    pub(crate) open: String,
    pub(crate) why: String,
    /// The command that mends it.
    pub(crate) command: Option<String>,
    /// What happens by itself.
    pub(crate) by_itself: Option<String>,
    /// Where the button leads.
    pub(crate) act: (String, &'static str),
}

/// The overview; everybody who may not read all begins elsewhere.
pub(crate) async fn read_overview(State(site): State<Arc<Site>>, visitor: Visitor, query: Query) -> Screen {
    query.only(&[])?;
    if !visitor.may(&Act::Read) {
        return Ok(go(&home(&visitor.principal().role)));
    }
    let part = site.desk.part("overview");
    let live = part.get(|| make_live(&site)).await?;
    page(&site, &visitor, &Content { title: "Overview".to_owned(), tab: Tab::Overview, live: &live, fixed: "" }).await
}

async fn make_live(site: &Site) -> Result<String, Problem> {
    render(&live(&site.hub.overview(ATTENTION_MAX).await?, site.hub.is_shared()))
}

fn live(overview: &Overview, is_shared: bool) -> Live {
    let count = |condition: Condition| overview.counts.get(&condition).copied().unwrap_or(0);
    let troubled: usize =
        words::CONDITIONS.iter().filter(|condition| **condition != Condition::Well).map(|known| count(*known)).sum();
    let is_known = overview.unready.is_none() && overview.unheard == 0;
    let is_clear = troubled == count(Condition::Paused) && overview.dead == 0 && is_known;
    let attention: Vec<Row> = overview.attention.iter().map(|standing| row(standing, overview.at)).collect();
    let hidden = troubled - attention.len();
    Live {
        headline: headline(overview, troubled, is_clear),
        is_clear,
        at: words::to_second(overview.at),
        unready: overview.unready.clone(),
        unheard: words::unheard(overview.unheard),
        is_shared,
        tiles: tiles(overview),
        more: (hidden > 0).then(|| ("/dashboard/partners".to_owned(), hidden)),
        attention,
        dead: dead(overview),
        plots: [plot::events(&overview.hour), plot::deliveries(&overview.hour), plot::spans(&overview.hour)],
        minutes: minutes(overview),
        totals: [
            (words::number(overview.partners as u64), "partners"),
            (words::number(overview.events.0), "events in the log"),
            (words::number(overview.receipts), "receipts in the ledger"),
        ],
    }
}

fn headline(overview: &Overview, troubled: usize, is_clear: bool) -> String {
    if is_clear && overview.partners == 0 {
        return "No partners yet".to_owned();
    }
    if is_clear {
        return "All clear: every partner is in step".to_owned();
    }
    if troubled == 0 && overview.dead > 0 {
        return format!("{} to decide on", words::count(overview.dead as u64, "dead letter", "dead letters"));
    }
    if troubled == 0 && overview.unready.is_none() {
        return "Not every partner was heard of".to_owned();
    }
    if troubled == 0 {
        return "The hub needs you".to_owned();
    }
    format!("{} not acknowledged", words::count(troubled as u64, "partner has", "partners have"))
}

fn tiles(overview: &Overview) -> Vec<Tile> {
    let of = |condition: Condition, label: &'static str| {
        let count = overview.counts.get(&condition).copied().unwrap_or(0);
        let pill = words::of_condition(condition);
        let href = format!("/dashboard/partners?state={}", pill.icon);
        Tile { pill, count: words::number(count as u64), label, href, is_zero: count == 0 }
    };
    let is_more = overview.dead >= DEAD_COUNTED;
    vec![
        of(Condition::Blocked, "blocked"),
        of(Condition::Offline, "offline"),
        of(Condition::Unacknowledged, "without ACK"),
        of(Condition::Retrying, "retrying"),
        Tile {
            pill: words::of_state(ess_core::delivery::State::Dead, false),
            count: format!("{}{}", words::number(overview.dead as u64), if is_more { "+" } else { "" }),
            label: "dead letters",
            href: "/dashboard/dead-letters".to_owned(),
            is_zero: overview.dead == 0,
        },
    ]
}

fn dead(overview: &Overview) -> Vec<(String, String, String)> {
    let most = overview.dead_by_partner.iter().take(DEAD_NAMED_MAX);
    most.map(|(partner, count)| {
        let href = format!("/dashboard/dead-letters?partner={partner}");
        (partner.to_string(), href, words::count(*count as u64, "dead letter", "dead letters"))
    })
    .collect()
}

fn minutes(overview: &Overview) -> Vec<[String; 6]> {
    let span = |span: Option<std::time::Duration>| span.map_or_else(|| "-".to_owned(), words::span);
    let busy = overview.hour.iter().rev().filter(|minute| minute.events + minute.acked + minute.failed > 0);
    busy.map(|minute| {
        // `2026-11-26T17:06:00Z` has its minute in the middle.
        let clock = words::to_second(minute.at).get(11..16).unwrap_or_default().to_owned();
        let [events, acked, failed] = [minute.events, minute.acked, minute.failed].map(words::number);
        [clock, events, acked, failed, span(minute.p50), span(minute.p99)]
    })
    .collect()
}

/// One partner in words: why it does not move, and what to do about it.
pub(crate) fn row(standing: &PartnerStanding, now: Time) -> Row {
    let id = standing.partner.id.as_str();
    let href = partner_path(id);
    let speaker = standing.standing.speaker.as_ref();
    let said = speaker.and_then(|speaker| speaker.reason.clone()).or_else(|| standing.last_error.clone());
    let next = match speaker.map(|speaker| speaker.wait) {
        Some(Wait::Retry(due)) if due > now => Some(format!("tried again {}", words::ago(due, now))),
        Some(Wait::Retry(_)) => Some("tried again as soon as it is its turn".to_owned()),
        Some(Wait::AckUntil(due)) if due > now => Some(format!("sent again {} without an ACK", words::ago(due, now))),
        _ => None,
    };
    let (why, command, act) = match standing.condition {
        _ if !standing.is_heard => (
            "the hub that serves it is being replaced or does not answer".to_owned(),
            Some("hms-ess nodes".to_owned()),
            ("/dashboard/nodes".to_owned(), "Look at the hubs"),
        ),
        Condition::Blocked => (
            said.unwrap_or_else(|| "there is no way to the version that it pinned".to_owned()),
            speaker.and_then(|speaker| speaker.mend.clone()),
            ("/dashboard/bridges".to_owned(), "Try a bridge"),
        ),
        Condition::Offline | Condition::GivenUp => {
            let lasts = standing.standing.offline_since.map_or_else(String::new, |since| words::span(now.since(since)));
            let is_given_up = standing.condition == Condition::GivenUp;
            let lasts = if is_given_up { format!("{lasts}, given up until it answers") } else { lasts };
            let why = format!("offline for {lasts}: {}", said.unwrap_or_else(|| "it does not answer".to_owned()));
            (why, Some(format!("hms-ess partner test {id}")), (format!("{href}#acts"), "Test it"))
        }
        Condition::Unacknowledged => (
            said.unwrap_or_else(|| "it took the event but sent no ACK".to_owned()),
            Some(format!("hms-ess partner show {id}")),
            (href.clone(), "Look at it"),
        ),
        Condition::Retrying => (
            said.unwrap_or_else(|| "the last attempt failed".to_owned()),
            Some(format!("hms-ess partner test {id}")),
            (format!("{href}#acts"), "Test it"),
        ),
        Condition::Slow => (
            said.unwrap_or_else(|| "nothing failed, but it has been open for more than a minute".to_owned()),
            None,
            (href.clone(), "Look at it"),
        ),
        Condition::Paused => {
            let since = standing.paused_since.map_or_else(String::new, |since| words::ago(since, now));
            let command = Some(format!("hms-ess partner resume {id}"));
            (format!("paused {since}; its events wait"), command, (format!("{href}#acts"), "Resume it"))
        }
        Condition::Well => ("in step".to_owned(), None, (href.clone(), "Look at it")),
    };
    Row {
        partner: id.to_owned(),
        href,
        pill: if standing.is_heard { words::of_condition(standing.condition) } else { words::UNHEARD },
        is_urgent: standing.standing.urgent > 0,
        oldest: standing.oldest.as_ref().map(|oldest| {
            let event = oldest.event.to_string();
            (event.clone(), event_path(&event, false), Moment::of(oldest.recorded_at, now))
        }),
        open: open(standing),
        why,
        command,
        by_itself: next,
        act,
    }
}

/// How many deliveries are open, as far as the lane knows.
pub(crate) fn open(standing: &PartnerStanding) -> String {
    let more = if standing.standing.has_more { "+" } else { "" };
    format!("{}{more}", words::number(u64::from(standing.standing.open)))
}
