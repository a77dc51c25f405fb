//! `/dashboard/events`: the Event Log, newest first, with a search by id, subject, time and text.
//!
//! A text is looked for in a bounded part of the log at a time; the page says how far it came and leads on.

use std::sync::Arc;

use askama::Template;
use axum::extract::State;
use ess_core::access::Act;
use ess_core::event::{Kind, Priority};
use ess_core::id::{Seq, Subject};
use ess_core::problem::{Code, Problem};
use ess_core::search::Sought;
use ess_core::time::Time;
use ess_hub::view::{LogLine, LogSearch, Page, TextSearch};

use super::Screen;
use super::form::encode;
use super::frame::{Content, Tab, event_path, page, permit, render};
use super::visitor::Visitor;
use super::words::{self, Moment, Pill};
use crate::limits::DASHBOARD_ROWS;
use crate::query::Query;
use crate::site::Site;

#[derive(Template)]
#[template(path = "dashboard/events.html")]
struct Live {
    id: String,
    subject: String,
    until: String,
    text: String,
    /// How far a search for a text came.
    reached: Option<(String, Moment)>,
    rows: Vec<Row>,
    later: Option<String>,
    is_first: bool,
}

struct Row {
    seq: String,
    id: String,
    href: String,
    subject: String,
    subject_href: String,
    version: u32,
    marks: Vec<&'static str>,
    gone: Option<(Pill, String)>,
    partners: String,
    recorded: Moment,
}

/// A page of the log.
pub(crate) async fn list_events(State(site): State<Arc<Site>>, visitor: Visitor, query: Query) -> Screen {
    permit(&visitor, &Act::ReadEvents)?;
    query.only(&["id", "subject", "until", "text", "before"])?;
    let field = |name: &str| query.text(name).unwrap_or_default().trim().to_owned();
    let (id, subject, until, text) = (field("id"), field("subject"), field("until"), field("text"));
    let before = match (query.number("before")?, until.as_str()) {
        (Some(before), _) => Some(Seq(before)),
        (None, "") => None,
        (None, until) => Some(site.hub.place_after(read_until(until)?).await?),
    };
    let search = match (id.as_str(), subject.as_str()) {
        ("", "") => LogSearch::All,
        ("", subject) => LogSearch::Subject(subject.to_owned()),
        (id, _) => LogSearch::Id(id.to_owned()),
    };
    let now = site.hub.time();
    let (Page { items, next }, reached) = match text.as_str() {
        "" => (site.hub.log(search, before, DASHBOARD_ROWS).await?, None),
        // A search walks payloads: it is not made again by itself whenever something changes.
        _ if visitor.wants_part => (Page { items: Vec::new(), next: None }, None),
        text => {
            let sought = Sought::parse(text)?;
            let subject = Some(subject.clone()).filter(|subject| !subject.is_empty());
            let search = TextSearch { text: sought, subject, within: visitor.caller.subjects() };
            let (mut items, reached) = site.hub.search_log(search, before, DASHBOARD_ROWS).await?;
            items.retain(|line| line.id.starts_with(&id));
            (Page { items, next: reached.map(|reached| reached.seq.to_string()) }, reached)
        }
    };
    let seen = items.into_iter().filter(|line| visitor.caller.may_see(&Subject::trusted(&line.subject)));
    let later = next.map(|next| {
        let [id, subject, text] = [&id, &subject, &text].map(|text| encode(text));
        format!("/dashboard/events?id={id}&subject={subject}&text={text}&before={next}")
    });
    let is_search = !text.is_empty();
    let live = Live {
        rows: seen.map(|line| row(line, now)).collect(),
        reached: reached.map(|reached| (words::number(reached.seq.0), Moment::of(reached.recorded_at, now))),
        is_first: before.is_none(),
        id,
        subject,
        until,
        text,
        later,
    };
    let log = render(&live)?;
    let (live, fixed) = if is_search { ("", log.as_str()) } else { (log.as_str(), "") };
    page(&site, &visitor, &Content { title: "Events".to_owned(), tab: Tab::Events, live, fixed }).await
}

fn row(line: LogLine, now: Time) -> Row {
    let mut marks = Vec::new();
    if line.test {
        marks.push("dry run");
    }
    if line.priority == Priority::Urgent {
        marks.push("urgent");
    }
    if line.kind != Kind::Change {
        marks.push(line.kind.word());
    }
    Row {
        seq: words::number(line.seq.0),
        href: event_path(&line.id, line.test),
        subject_href: format!("/dashboard/events?subject={}", encode(&line.subject)),
        id: line.id,
        subject: line.subject,
        version: line.version,
        marks,
        gone: line.gone.as_ref().map(|gone| (words::of_gone(gone), gone.told())),
        partners: words::number(line.partners as u64),
        recorded: Moment::of(line.recorded_at, now),
    }
}

/// A moment as a browser's field gives it, `2026-11-26T17:06`, or RFC 3339; UTC unless it says otherwise.
fn read_until(text: &str) -> Result<Time, Problem> {
    let shapes = [text.to_owned(), format!("{text}Z"), format!("{text}:00Z"), format!("{text}T23:59:59Z")];
    shapes.iter().find_map(|shape| Time::parse_rfc3339(shape).ok()).ok_or_else(|| {
        Problem::new(Code::Invalid, "the time is none")
            .with_field("until")
            .with_hint("write it as 2026-11-26T17:06 (UTC), or as 2026-11-26")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_is_read_as_browsers_and_people_write_it() {
        let exact = read_until("2026-11-26T17:06:00Z").unwrap();
        assert_eq!(read_until("2026-11-26T17:06").unwrap(), exact);
        assert_eq!(read_until("2026-11-26T18:06:00+01:00").unwrap(), exact);
        assert!(read_until("2026-11-26").unwrap() > exact);
        assert_eq!(read_until("yesterday").unwrap_err().field.as_deref(), Some("until"));
    }
}
