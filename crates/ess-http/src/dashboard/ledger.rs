//! `/dashboard/ledger`: the Ack Ledger, its last checkpoint, and a button that verifies all of it.

use std::sync::Arc;

use askama::Template;
use axum::extract::State;
use ess_core::access::Act;
use ess_core::time::Time;
use ess_hub::view::LedgerView;

use super::Screen;
use super::form::encode;
use super::frame::{Content, Tab, event_path, page, partner_path, permit, render};
use super::sessions::Notice;
use super::visitor::{Posted, Visitor, go};
use super::words::{self, Moment, Pill};
use crate::limits::DASHBOARD_ROWS;
use crate::query::Query;
use crate::site::Site;

const PATH: &str = "/dashboard/ledger";

#[derive(Template)]
#[template(path = "dashboard/ledger.html")]
struct Live {
    size: String,
    chain: String,
    checkpoint: Option<(String, Moment, String)>,
    verifier_key: String,
    rows: Vec<Row>,
    later: Option<String>,
    is_first: bool,
}

struct Row {
    index: String,
    event: String,
    event_href: String,
    partner: String,
    href: String,
    pill: Pill,
    by: &'static str,
    at: Moment,
    attempt: u32,
    proof: String,
}

#[derive(Template)]
#[template(path = "dashboard/ledger_acts.html")]
struct Acts<'a> {
    csrf: &'a str,
}

/// A page of the ledger, newest first.
pub(crate) async fn list_ledger(State(site): State<Arc<Site>>, visitor: Visitor, query: Query) -> Screen {
    permit(&visitor, &Act::Read)?;
    query.only(&["before"])?;
    let head = site.hub.ledger_head().await?;
    let given = query.number("before")?;
    let end = given.unwrap_or(head.size).min(head.size);
    let start = end.saturating_sub(DASHBOARD_ROWS as u64);
    let limit = u32::try_from(end - start).unwrap_or(0);
    let items = match limit {
        0 => Vec::new(),
        limit => site.hub.ledger(start.checked_sub(1), limit).await?.items,
    };
    let now = site.hub.time();
    let checkpoint = site.hub.last_checkpoint().await?;
    let live = Live {
        size: words::count(head.size, "receipt", "receipts"),
        chain: head.chain.to_string(),
        checkpoint: checkpoint.map(|last| (words::number(last.size), Moment::of(last.at, now), last.note)),
        verifier_key: site.hub.verifier_key(),
        rows: items.iter().rev().map(|view| row(view, now)).collect(),
        later: (start > 0).then(|| format!("{PATH}?before={start}")),
        is_first: given.is_none(),
    };
    let live = render(&live)?;
    let fixed = render(&Acts { csrf: &visitor.csrf })?;
    page(&site, &visitor, &Content { title: "Ledger".to_owned(), tab: Tab::Ledger, live: &live, fixed: &fixed }).await
}

fn row(view: &LedgerView, now: Time) -> Row {
    let (event, partner) = (view.event_id.as_str(), view.partner.as_str());
    let is_ack = view.word == "ack";
    let state = if is_ack { ess_core::delivery::State::Acked } else { ess_core::delivery::State::Nack };
    Row {
        index: words::number(view.index),
        event: event.to_owned(),
        event_href: event_path(event, false),
        partner: partner.to_owned(),
        href: partner_path(partner),
        pill: words::of_state(state, false),
        by: view.evidence.map_or("-", |evidence| evidence.word()),
        at: Moment::of(view.at, now),
        attempt: view.attempt,
        proof: format!("/dashboard/events/{}/proof?partner={partner}&round={}", encode(event), view.round),
    }
}

/// Verifies all of it and says what came out.
pub(crate) async fn verify(State(site): State<Arc<Site>>, posted: Posted) -> Screen {
    let visitor = posted.visitor;
    permit(&visitor, &Act::Read)?;
    let notice = match site.hub.verify_ledger().await {
        Ok(head) => Notice {
            text: format!(
                "Every one of {} fits its chain, its tree and its checkpoints.",
                words::count(head.size, "receipt", "receipts")
            ),
            secret: None,
            is_good: true,
        },
        Err(problem) if problem.code == ess_core::problem::Code::Conflict => Notice {
            text: format!("The ledger was changed: {}. {}", problem.detail, problem.hint.unwrap_or_default()),
            secret: None,
            is_good: false,
        },
        Err(problem) => return Err(problem.into()),
    };
    site.desk.sessions.leave(&visitor.session, notice).await?;
    Ok(go(PATH))
}

/// Signs a checkpoint of what there is.
pub(crate) async fn make_checkpoint(State(site): State<Arc<Site>>, posted: Posted) -> Screen {
    let visitor = posted.visitor;
    permit(&visitor, &Act::Read)?;
    let made = site.hub.make_checkpoint().await?;
    visitor
        .tell(&site, format!("A checkpoint of {} is signed.", words::count(made.size, "receipt", "receipts")))
        .await?;
    Ok(go(PATH))
}
