//! What is done to a partner from its page: test, pause, resume, another secret, redrive, one event again.
//!
//! Each asks the hub as the API does, with the session's principal and a reason, and leads back to the page.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::{Path, State};
use ess_core::access::Act;
use ess_core::id::{EventId, PartnerId};
use ess_core::problem::{Code, Problem};
use ess_hub::Letters;
use ess_hub::view::{PartnerTest, ReplayRequest};

use super::Screen;
use super::frame::permit;
use super::partner::back_to;
use super::sessions::Notice;
use super::visitor::{Posted, go};
use super::words;
use crate::site::Site;

/// Sends one marked message and says what came back.
pub(crate) async fn test(State(site): State<Arc<Site>>, Path(id): Path<String>, posted: Posted) -> Screen {
    let Posted { visitor, .. } = posted;
    let id = PartnerId::parse(&id)?;
    permit(&visitor, &Act::Tend(&id))?;
    let PartnerTest { status, acked, took, reason, .. } = site.hub.test_partner(&id, visitor.principal()).await?;
    let status = status.map_or_else(String::new, |status| format!("status {status}, "));
    let text = format!("Test of {id}: {status}{reason}, after {}.", words::span(took));
    let notice = Notice { text, secret: None, is_good: acked };
    site.desk.sessions.leave(&visitor.session, notice).await?;
    Ok(go(&back_to(&id)))
}

/// Sends it nothing until it is resumed.
pub(crate) async fn pause(State(site): State<Arc<Site>>, Path(id): Path<String>, posted: Posted) -> Screen {
    let Posted { visitor, form } = posted;
    permit(&visitor, &Act::Operate)?;
    let id = PartnerId::parse(&id)?;
    site.hub.pause_partner(&id, Some(form.reason()?), visitor.principal()).await?;
    visitor.tell(&site, format!("{id} is paused; its events wait.")).await?;
    Ok(go(&back_to(&id)))
}

/// Lets it go on.
pub(crate) async fn resume(State(site): State<Arc<Site>>, Path(id): Path<String>, posted: Posted) -> Screen {
    let Posted { visitor, form } = posted;
    permit(&visitor, &Act::Operate)?;
    let id = PartnerId::parse(&id)?;
    site.hub.resume_partner(&id, Some(form.reason()?), visitor.principal()).await?;
    visitor.tell(&site, format!("{id} goes on; what waited goes out.")).await?;
    Ok(go(&back_to(&id)))
}

/// Makes another signing secret and shows it this once.
pub(crate) async fn rotate_secret(State(site): State<Arc<Site>>, Path(id): Path<String>, posted: Posted) -> Screen {
    let Posted { visitor, form } = posted;
    let id = PartnerId::parse(&id)?;
    permit(&visitor, &Act::Tend(&id))?;
    let reason = form.reason()?;
    let wrong = |detail: String| Problem::new(Code::Invalid, detail).with_field("overlap");
    let overlap = ess_core::duration::parse(form.text("overlap").unwrap_or("24h")).map_err(wrong)?;
    if overlap > Duration::from_secs(30 * 86_400) {
        return Err(wrong("the old secret may sign for 30d at most".to_owned()).into());
    }
    let secret = site.hub.rotate_secret(&id, overlap, Some(reason), visitor.principal()).await?;
    let text = format!(
        "{id} has a new signing secret, shown this once. The old one signs too for {}.",
        ess_core::duration::format(overlap)
    );
    site.desk.sessions.leave(&visitor.session, Notice { text, secret: Some(secret), is_good: true }).await?;
    Ok(go(&back_to(&id)))
}

/// Tries its dead letters again.
pub(crate) async fn redrive(State(site): State<Arc<Site>>, Path(id): Path<String>, posted: Posted) -> Screen {
    let Posted { visitor, form } = posted;
    let id = PartnerId::parse(&id)?;
    permit(&visitor, &Act::Tend(&id))?;
    let own = Letters { partner: Some(id.clone()), ..Letters::default() };
    let count = site.hub.redrive(&own, Some(form.reason()?), visitor.principal()).await?;
    visitor
        .tell(&site, format!("{} of {id} tried again.", words::count(count, "dead letter is", "dead letters are")))
        .await?;
    Ok(go(&back_to(&id)))
}

/// Sends one of its events again.
pub(crate) async fn resend(State(site): State<Arc<Site>>, Path(id): Path<String>, posted: Posted) -> Screen {
    let Posted { visitor, form } = posted;
    let id = PartnerId::parse(&id)?;
    permit(&visitor, &Act::Tend(&id))?;
    let event = EventId::parse(form.needed("event")?).map_err(|problem| problem.with_field("event"))?;
    let reason = form.reason()?;
    site.hub.need_delivery(&event, &id).await?;
    let request = ReplayRequest { event: event.clone(), to: vec![id.clone()], force: false, reason: Some(reason) };
    site.hub.replay(request, visitor.principal()).await?;
    visitor.tell(&site, format!("{event} goes again to {id}.")).await?;
    Ok(go(&back_to(&id)))
}
