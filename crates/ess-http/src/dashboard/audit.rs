//! `/dashboard/audit`: who did what, when and why.

use std::sync::Arc;

use askama::Template;
use axum::extract::State;
use ess_core::access::Act;

use super::Screen;
use super::frame::{Content, Tab, page, permit, render};
use super::visitor::Visitor;
use super::words::{self, Moment};
use crate::limits::DASHBOARD_ROWS;
use crate::query::Query;
use crate::site::Site;

#[derive(Template)]
#[template(path = "dashboard/audit.html")]
struct Live {
    rows: Vec<Row>,
    later: Option<String>,
    is_first: bool,
}

struct Row {
    number: String,
    at: Moment,
    actor: String,
    act: String,
    object: String,
    reason: String,
}

/// A page of the audit trail, newest first.
pub(crate) async fn list_audit(State(site): State<Arc<Site>>, visitor: Visitor, query: Query) -> Screen {
    permit(&visitor, &Act::Read)?;
    query.only(&["before"])?;
    let before = query.number("before")?;
    let found = site.hub.newest_audit(before, DASHBOARD_ROWS).await?;
    let now = site.hub.time();
    let rows = found.items.into_iter().map(|line| Row {
        number: words::number(line.number),
        at: Moment::of(line.at, now),
        actor: line.actor,
        act: line.act,
        object: line.object,
        reason: line.reason.unwrap_or_default(),
    });
    let later = found.next.map(|next| format!("/dashboard/audit?before={next}"));
    let live = render(&Live { rows: rows.collect(), later, is_first: before.is_none() })?;
    page(&site, &visitor, &Content { title: "Audit".to_owned(), tab: Tab::Audit, live: &live, fixed: "" }).await
}
