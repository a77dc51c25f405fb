//! `/dashboard/escalations`: partners' trouble that Ops are told of, whether it got there, the targets, and what they were told.

use std::sync::Arc;

use askama::Template;
use axum::extract::State;
use ess_core::access::Act;
use ess_core::time::Time;
use ess_hub::view::{EscalationView, TargetTest, TargetView, TellingView};

use super::Screen;
use super::frame::{Content, Tab, event_path, page, partner_path, permit, render};
use super::sessions::Notice;
use super::visitor::{Posted, Visitor, go};
use super::words::{self, Moment, Pill};
use crate::limits::DASHBOARD_ROWS;
use crate::query::Query;
use crate::site::Site;

const PATH: &str = "/dashboard/escalations";

#[derive(Template)]
#[template(path = "dashboard/escalations.html")]
struct Live {
    headline: String,
    is_clear: bool,
    open: Vec<Open>,
    hidden: usize,
    targets: Vec<Target>,
    told: Vec<Told>,
    later: Option<String>,
    is_first: bool,
}

/// Trouble that is there now.
struct Open {
    partner: String,
    href: String,
    pill: Pill,
    is_urgent: bool,
    since: Moment,
    deliveries: String,
    oldest: Option<(String, String)>,
    error: Option<String>,
    commands: Vec<String>,
    told: Vec<String>,
    waiting: Vec<(String, Moment)>,
}

struct Target {
    name: String,
    kind: String,
    quiet: Option<String>,
    pill: Pill,
    sent: Option<Moment>,
    error: Option<String>,
    not_before: Option<Moment>,
}

/// What a target was told, and took.
struct Told {
    number: u64,
    at: Moment,
    partner: String,
    href: String,
    cause: &'static str,
    pill: Pill,
    is_urgent: bool,
    target: String,
}

#[derive(Template)]
#[template(path = "dashboard/escalations_acts.html")]
struct Acts<'a> {
    csrf: &'a str,
    names: Vec<String>,
}

/// The page.
pub(crate) async fn list_escalations(State(site): State<Arc<Site>>, visitor: Visitor, query: Query) -> Screen {
    permit(&visitor, &Act::Read)?;
    query.only(&["before"])?;
    let before = query.number("before")?;
    let now = site.hub.time();
    let open = site.hub.escalations(None);
    let targets = site.hub.targets();
    let told = site.hub.tellings(before, DASHBOARD_ROWS).await?;
    let live = Live {
        headline: match open.len() {
            0 => "Nothing to tell".to_owned(),
            count => words::count(count as u64, "trouble", "troubles"),
        },
        is_clear: open.is_empty(),
        hidden: open.len().saturating_sub(DASHBOARD_ROWS),
        open: open.into_iter().take(DASHBOARD_ROWS).map(|view| row(view, now)).collect(),
        targets: targets.iter().map(|view| target(view, now)).collect(),
        later: told.next.map(|next| format!("{PATH}?before={next}")),
        told: told.items.into_iter().map(|view| past(view, now)).collect(),
        is_first: before.is_none(),
    };
    let live = render(&live)?;
    let acts = Acts { csrf: &visitor.csrf, names: targets.into_iter().map(|target| target.name).collect() };
    let may_test = visitor.may(&Act::Operate) && !acts.names.is_empty();
    let fixed = if may_test { render(&acts)? } else { String::new() };
    page(
        &site,
        &visitor,
        &Content { title: "Escalations".to_owned(), tab: Tab::Escalations, live: &live, fixed: &fixed },
    )
    .await
}

fn row(view: EscalationView, now: Time) -> Open {
    let partner = view.partner.to_string();
    Open {
        href: partner_path(&partner),
        partner,
        pill: words::of_cause(view.cause),
        is_urgent: view.urgent,
        since: Moment::of(view.since, now),
        deliveries: words::number(view.deliveries),
        oldest: view.oldest_event.map(|id| (id.to_string(), event_path(id.as_str(), false))),
        error: view.last_error,
        commands: view.run,
        told: view.told,
        waiting: view.waiting.into_iter().map(|(name, at)| (name, Moment::of(at, now))).collect(),
    }
}

fn target(view: &TargetView, now: Time) -> Target {
    let text = |name: &str| view.document[name].as_str().map(str::to_owned);
    let quiet = &view.document["quiet"];
    Target {
        name: view.name.clone(),
        kind: text("type").unwrap_or_default(),
        quiet: text("quiet").or_else(|| (!quiet.is_null()).then(|| quiet.to_string())),
        pill: words::of_target(view.last_error.is_some() && (view.failures > 0 || view.sent_at.is_none())),
        sent: view.sent_at.map(|at| Moment::of(at, now)),
        error: view.last_error.clone(),
        not_before: view.not_before.map(|at| Moment::of(at, now)),
    }
}

fn past(view: TellingView, now: Time) -> Told {
    let partner = view.partner.to_string();
    Told {
        number: view.number,
        at: Moment::of(view.at, now),
        href: partner_path(&partner),
        partner,
        cause: words::of_cause(&view.cause).word,
        pill: words::of_telling(view.is_end),
        is_urgent: view.urgent,
        target: view.target.unwrap_or_else(|| "the hub's log".to_owned()),
    }
}

/// Sends a target one marked message and says what came back.
pub(crate) async fn test(State(site): State<Arc<Site>>, posted: Posted) -> Screen {
    let Posted { visitor, form } = posted;
    permit(&visitor, &Act::Operate)?;
    let name = form.needed("target")?;
    let TargetTest { sent, reason, took } = site.hub.test_target(name, visitor.principal()).await?;
    let text = format!("Test of {name}: {reason}, after {}.", words::span(took));
    site.desk.sessions.leave(&visitor.session, Notice { text, secret: None, is_good: sent }).await?;
    Ok(go(PATH))
}
