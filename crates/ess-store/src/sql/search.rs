//! Events by a text in their payloads: a walk of the log, bounded in the rows and bytes of each step. What was redacted or has
//! expired has no payload and is never found.

use std::sync::Arc;

use ess_core::id::Seq;
use ess_core::time::Time;

use super::db::{Row, given};
use super::events::{AFTER, AFTER_OF_SUBJECT, Reader};
use super::rows;
use crate::error::StoreError;
use crate::look::{Direction, Reached, TextPage, TextSearch};
use crate::types::Recorded;

type Result<T> = std::result::Result<T, StoreError>;

/// Events that one step looks at.
const EVENTS_MAX: usize = 4_096;
/// Bytes of payloads that one step looks at, more by the last one.
const BYTES_MAX: usize = 8 * 1024 * 1024;

pub(super) const BEFORE: &str = "select seq, id, test, subject, version, kind, priority, recorded_at, audience, \
    message, digest, rest, payload, gone_at, gone_by, gone_why from event where seq < ?1 order by seq desc limit ?2";
pub(super) const BEFORE_OF_SUBJECT: &str = "select seq, id, test, subject, version, kind, priority, recorded_at, \
    audience, message, digest, rest, payload, gone_at, gone_by, gone_why from event \
    where subject = ?3 and seq < ?1 order by seq desc limit ?2";

/// One step from a place on, at most `limit` events.
pub(crate) fn events_with_text(
    reader: &Reader<'_>,
    search: &TextSearch,
    (direction, place): (Direction, Seq),
    limit: usize,
) -> Result<TextPage> {
    let sql = match (direction, &search.subject) {
        (Direction::Newer, None) => AFTER,
        (Direction::Newer, Some(_)) => AFTER_OF_SUBJECT,
        (Direction::Older, None) => BEFORE,
        (Direction::Older, Some(_)) => BEFORE_OF_SUBJECT,
    };
    let from = rows::place(place);
    let mut page = TextPage { items: Vec::new(), reached: None };
    let (mut looked, mut bytes) = (0, 0);
    let look = |row: &Row<'_>| {
        looked += 1;
        if let Some(size) = readable(row, search)? {
            bytes += size;
            if search.text.is_in(row.get(12)?) {
                let (event, audience) = rows::event(row)?;
                page.items.push(Recorded { event: Arc::new(event), audience: reader.audience(audience)? });
            }
        }
        let is_enough = page.items.len() == limit || bytes >= BYTES_MAX || looked == EVENTS_MAX;
        if is_enough {
            page.reached = Some(Reached { seq: Seq(row.get(0)?), recorded_at: Time::from_micros(row.get(7)?) });
        }
        Ok(!is_enough)
    };
    match &search.subject {
        Some(subject) => reader.db.walk(sql, given![from, EVENTS_MAX, subject], look)?,
        None => reader.db.walk(sql, given![from, EVENTS_MAX], look)?,
    }
    Ok(page)
}

/// The bytes of a payload that is there and may be looked into. What may not leaves no trace, not in the length of a step either.
fn readable(row: &Row<'_>, search: &TextSearch) -> Result<Option<usize>> {
    let subject: &str = row.get(3)?;
    let is_hidden = !search.within.is_empty() && !search.within.iter().any(|glob| glob.matches(subject));
    if is_hidden || rows::time(row, 13)?.is_some() {
        return Ok(None);
    }
    Ok(Some(row.get::<&str>(12)?.len()))
}
