//! `/dashboard/dead-letters`: deliveries given up, with redrive and discard, of many at once.

use std::sync::Arc;

use askama::Template;
use axum::extract::State;
use ess_core::access::Act;
use ess_core::id::{EventId, PartnerId};
use ess_core::problem::{Code, Problem};
use ess_core::time::Time;
use ess_hub::Letters;
use ess_hub::view::DeliveryView;

use super::Screen;
use super::form::{Form, encode};
use super::frame::{Content, Tab, event_path, page, partner_path, permit, render};
use super::visitor::{Posted, Visitor, go};
use super::words::{self, Moment, Pill};
use crate::limits::DASHBOARD_ROWS;
use crate::query::Query;
use crate::refusal::Refusal;
use crate::site::Site;

const PATH: &str = "/dashboard/dead-letters";

#[derive(Template)]
#[template(path = "dashboard/dead_letters.html")]
struct Live<'a> {
    partner: &'a str,
    matching: &'a str,
    rows: Vec<Row>,
    later: Option<String>,
    is_first: bool,
}

struct Row {
    key: String,
    event: String,
    event_href: String,
    partner: String,
    href: String,
    pill: Pill,
    reason: String,
    attempts: u32,
    ended: Option<Moment>,
}

#[derive(Template)]
#[template(path = "dashboard/dead_letters_acts.html")]
struct Acts<'a> {
    csrf: &'a str,
    partner: &'a str,
    matching: &'a str,
}

/// A page of dead letters.
pub(crate) async fn list_dead_letters(State(site): State<Arc<Site>>, visitor: Visitor, query: Query) -> Screen {
    permit(&visitor, &Act::Read)?;
    query.only(&["partner", "matching", "after"])?;
    let partner = query.text("partner").map(PartnerId::parse).transpose()?;
    let letters = Letters { partner, event: None, matching: query.text("matching").map(str::to_owned) };
    let after = query.text("after");
    let found = site.hub.dead_letters(&letters, after, DASHBOARD_ROWS as u32).await?;
    let named = letters.partner.as_ref().map_or("", PartnerId::as_str);
    let matching = letters.matching.as_deref().unwrap_or_default();
    let later = found
        .next
        .map(|next| format!("{PATH}?partner={}&matching={}&after={}", encode(named), encode(matching), encode(&next)));
    let now = site.hub.time();
    let rows = found.items.iter().map(|letter| row(letter, now)).collect();
    let live = render(&Live { partner: named, matching, rows, later, is_first: after.is_none() })?;
    let may_act = visitor.may(&Act::Operate) && !found.items.is_empty();
    let fixed = if may_act { render(&Acts { csrf: &visitor.csrf, partner: named, matching })? } else { String::new() };
    page(
        &site,
        &visitor,
        &Content { title: "Dead letters".to_owned(), tab: Tab::DeadLetters, live: &live, fixed: &fixed },
    )
    .await
}

fn row(letter: &DeliveryView, now: Time) -> Row {
    let (event, partner) = (letter.event_id.as_str(), letter.partner.as_str());
    Row {
        key: format!("{event}.{partner}.{}", letter.round),
        event: event.to_owned(),
        event_href: event_path(event, letter.test),
        partner: partner.to_owned(),
        href: partner_path(partner),
        pill: words::of_state(letter.state, false),
        reason: letter.reason.clone().unwrap_or_default(),
        attempts: letter.attempts_made,
        ended: letter.ended_at.map(|at| Moment::of(at, now)),
    }
}

/// Tries them again.
pub(crate) async fn redrive(State(site): State<Arc<Site>>, posted: Posted) -> Screen {
    let Posted { visitor, form } = posted;
    permit(&visitor, &Act::Operate)?;
    let letters = chosen(&form)?;
    let count = site.hub.redrive(&letters, Some(form.reason()?), visitor.principal()).await?;
    visitor.tell(&site, format!("{} tried again.", words::count(count, "dead letter is", "dead letters are"))).await?;
    Ok(go(PATH))
}

/// Gives them up for good.
pub(crate) async fn discard(State(site): State<Arc<Site>>, posted: Posted) -> Screen {
    let Posted { visitor, form } = posted;
    permit(&visitor, &Act::Operate)?;
    let letters = chosen(&form)?;
    let count = site.hub.discard(&letters, form.reason()?, visitor.principal()).await?;
    visitor
        .tell(&site, format!("{} discarded; they stay on record.", words::count(count, "dead letter", "dead letters")))
        .await?;
    Ok(go(PATH))
}

/// Of which partner, of which event, with which reason; all of them only when that is what was ticked.
fn chosen(form: &Form) -> Result<Letters, Refusal> {
    let text = |name: &str| form.text(name).map(str::trim).filter(|text| !text.is_empty());
    let partner = text("partner").map(PartnerId::parse).transpose().map_err(|wrong| wrong.with_field("partner"))?;
    let event = text("event").map(EventId::parse).transpose().map_err(|wrong| wrong.with_field("event"))?;
    let matching = text("matching").map(str::to_owned);
    let is_all = form.is_ticked("all");
    if (partner.is_none() && event.is_none() && matching.is_none()) != is_all {
        let detail = match is_all {
            true => "name a partner, an event or a reason, or tick all, not both",
            false => "name a partner, an event or a reason, or tick all",
        };
        return Err(Refusal(Problem::new(Code::Invalid, detail).with_field("partner")));
    }
    Ok(Letters { partner, event, matching })
}
