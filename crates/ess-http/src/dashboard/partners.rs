//! `/dashboard/partners`: all partners with how they stand, by id, with a filter.

use std::sync::Arc;

use askama::Template;
use axum::extract::State;
use ess_core::access::Act;
use ess_hub::overview::{Condition, PartnerStanding, Search};

use super::Screen;
use super::form::encode;
use super::frame::{Content, Tab, page, partner_path, permit, render};
use super::overview;
use super::visitor::Visitor;
use super::words::{self, CONDITIONS, Moment, Pill};
use crate::limits::DASHBOARD_ROWS;
use crate::query::Query;
use crate::site::Site;

#[derive(Template)]
#[template(path = "dashboard/partners.html")]
struct Live {
    text: String,
    states: Vec<(&'static str, &'static str, bool)>,
    count: String,
    unheard: Option<String>,
    rows: Vec<Row>,
    later: Option<String>,
    is_first: bool,
}

struct Row {
    id: String,
    href: String,
    url: String,
    channel: &'static str,
    pill: Pill,
    open: String,
    oldest: Option<(String, String, Moment)>,
    why: String,
}

/// A page of partners.
pub(crate) async fn list_partners(State(site): State<Arc<Site>>, visitor: Visitor, query: Query) -> Screen {
    permit(&visitor, &Act::Read)?;
    query.only(&["text", "state", "after"])?;
    let wanted = query.text("state");
    let condition: Option<Condition> =
        CONDITIONS.into_iter().find(|condition| Some(words::of_condition(*condition).icon) == wanted);
    let text = query.text("text").unwrap_or_default().trim().to_owned();
    let search = Search { text: text.clone(), condition };
    let after = query.text("after");
    let (found, count) = site.hub.partner_standings(&search, after, DASHBOARD_ROWS).await?;
    let is_full = found.len() == DASHBOARD_ROWS;
    let later = found.last().filter(|_| is_full).map(|last| {
        let (text, state) = (encode(&text), encode(wanted.unwrap_or_default()));
        format!("/dashboard/partners?text={text}&state={state}&after={}", last.partner.id)
    });
    let now = site.hub.time();
    let states = CONDITIONS.map(|known| {
        let pill = words::of_condition(known);
        (pill.icon, pill.word, condition == Some(known))
    });
    let live = Live {
        text,
        states: states.to_vec(),
        count: words::count(count as u64, "partner", "partners"),
        unheard: words::unheard(site.hub.unheard_partners().await),
        rows: found.iter().map(|standing| row(standing, now)).collect(),
        later,
        is_first: after.is_none(),
    };
    let live = render(&live)?;
    page(&site, &visitor, &Content { title: "Partners".to_owned(), tab: Tab::Partners, live: &live, fixed: "" }).await
}

fn row(standing: &PartnerStanding, now: ess_core::time::Time) -> Row {
    let overview::Row { partner, pill, oldest, open, why, .. } = overview::row(standing, now);
    Row {
        href: partner_path(&partner),
        id: partner,
        url: standing.partner.url.clone().unwrap_or_default(),
        channel: standing.partner.channel.word(),
        pill,
        open,
        oldest,
        why: if standing.condition == Condition::Well { String::new() } else { why },
    }
}
