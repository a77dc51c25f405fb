//! `/dashboard/holds`: legal holds, those in force first; placing one, and lifting one where the role may.

use std::sync::Arc;

use askama::Template;
use axum::extract::State;
use ess_core::access::Act;
use ess_core::id::EventId;
use ess_core::partner::Glob;
use ess_core::problem::{Code, Problem};
use ess_core::time::Time;
use ess_hub::view::{HeldThing, HoldView};

use super::Screen;
use super::form::{Form, encode};
use super::frame::{Content, Tab, event_path, page, permit, render};
use super::visitor::{Posted, Visitor, go};
use super::words::{self, Moment, Pill};
use crate::limits::DASHBOARD_ROWS;
use crate::query::Query;
use crate::site::Site;

const PATH: &str = "/dashboard/holds";

#[derive(Template)]
#[template(path = "dashboard/holds.html")]
struct Live {
    count: String,
    rows: Vec<Row>,
    later: Option<String>,
    is_first: bool,
}

struct Row {
    number: u64,
    what: &'static str,
    name: String,
    href: String,
    pill: Pill,
    at: Moment,
    by: String,
    reason: String,
    lifted: Option<(Moment, String, String)>,
}

#[derive(Template)]
#[template(path = "dashboard/holds_acts.html")]
struct Acts<'a> {
    csrf: &'a str,
    may_lift: bool,
    has_any: bool,
}

/// A page of holds.
pub(crate) async fn list_holds(State(site): State<Arc<Site>>, visitor: Visitor, query: Query) -> Screen {
    permit(&visitor, &Act::Read)?;
    query.only(&["from"])?;
    let from = usize::try_from(query.number("from")?.unwrap_or(0)).unwrap_or(usize::MAX);
    let lifted_too = true;
    let mut holds = site.hub.holds(lifted_too).await?;
    holds.sort_by_key(|hold| (hold.lifted.is_some(), std::cmp::Reverse(hold.number)));
    let in_force = holds.iter().filter(|hold| hold.lifted.is_none()).count();
    let now = site.hub.time();
    let rows: Vec<Row> = holds.iter().skip(from).take(DASHBOARD_ROWS).map(|hold| row(hold, now)).collect();
    let reached = from.saturating_add(rows.len());
    let live = Live {
        count: format!("{} in force", words::count(in_force as u64, "hold is", "holds are")),
        rows,
        later: (reached < holds.len()).then(|| format!("{PATH}?from={reached}")),
        is_first: from == 0,
    };
    let live = render(&live)?;
    let acts = Acts { csrf: &visitor.csrf, may_lift: visitor.may(&Act::Redact), has_any: in_force > 0 };
    let fixed = if visitor.may(&Act::Operate) { render(&acts)? } else { String::new() };
    page(&site, &visitor, &Content { title: "Legal holds".to_owned(), tab: Tab::Holds, live: &live, fixed: &fixed })
        .await
}

fn row(hold: &HoldView, now: Time) -> Row {
    let (what, name, href) = match &hold.on {
        HeldThing::Event(id) => ("event", id.to_string(), event_path(id.as_str(), false)),
        HeldThing::Subject(glob) => {
            let name = glob.as_str();
            // A pattern is no subject: only a plain one can be looked up.
            let href =
                if name.contains('*') { String::new() } else { format!("/dashboard/events?subject={}", encode(name)) };
            ("subjects", name.to_owned(), href)
        }
    };
    Row {
        number: hold.number,
        what,
        name,
        href,
        pill: words::of_hold(hold.lifted.is_none()),
        at: Moment::of(hold.at, now),
        by: hold.by.clone(),
        reason: hold.reason.clone(),
        lifted: hold.lifted.clone().map(|(at, by, reason)| (Moment::of(at, now), by, reason)),
    }
}

/// Places one.
pub(crate) async fn place(State(site): State<Arc<Site>>, posted: Posted) -> Screen {
    let Posted { visitor, form } = posted;
    permit(&visitor, &Act::Operate)?;
    let hold = site.hub.place_hold(held(&form)?, form.reason()?, visitor.principal()).await?;
    visitor
        .tell(&site, format!("Hold {} is in force: nothing that it covers goes by age or is redacted.", hold.number))
        .await?;
    Ok(go(PATH))
}

/// Lifts one; it stays on record.
pub(crate) async fn lift(State(site): State<Arc<Site>>, posted: Posted) -> Screen {
    let Posted { visitor, form } = posted;
    permit(&visitor, &Act::Redact)?;
    let number = form.needed("number")?.parse::<u64>();
    let number = number.map_err(|_| Problem::new(Code::Invalid, "a hold has a number").with_field("number"))?;
    site.hub.lift_hold(number, form.reason()?, visitor.principal()).await?;
    visitor.tell(&site, format!("Hold {number} is lifted; it stays on record.")).await?;
    Ok(go(PATH))
}

/// One event, or subjects.
fn held(form: &Form) -> Result<HeldThing, Problem> {
    let text = |name: &str| form.text(name).map(str::trim).filter(|text| !text.is_empty());
    match (text("event"), text("subject")) {
        (Some(id), None) => Ok(HeldThing::Event(EventId::parse(id).map_err(|problem| problem.with_field("event"))?)),
        (None, Some(glob)) => {
            let wrong = |wrong: String| Problem::new(Code::Invalid, format!("subjects: {wrong}")).with_field("subject");
            Ok(HeldThing::Subject(Glob::parse(glob).map_err(wrong)?))
        }
        _ => Err(Problem::new(Code::Invalid, "a hold is on one event or on subjects: fill in one of the two")
            .with_field("event")
            .with_hint("an event's id, or a pattern of subjects such as RULE-COURT-*")),
    }
}
