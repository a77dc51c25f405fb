//! The Event Log: appending, and questions about events. Who an event is for stands once for each set of partners.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use ess_core::id::{Digest, PartnerNo, Seq, Subject};
use ess_core::lane::Offer;
use ess_core::time::Time;
use rusqlite::{Connection, OptionalExtension as _, Row, Transaction, params};

use super::rows::{self, Rest};
use crate::audience::Audience;
use crate::error::StoreError;
use crate::types::{Backlog, NewEvent, Recorded, UrgentBacklog};

type Result<T> = std::result::Result<T, StoreError>;

/// Events that one call to `backlog` looks at.
const SCAN_MAX: usize = 16_384;
/// Partners in the audiences that are remembered: 4 bytes each.
const REMEMBERED_PARTNERS_MAX: usize = 262_144;

pub(super) const BY_ID: &str = "select seq, id, test, subject, version, kind, priority, recorded_at, audience, \
    message, digest, rest, payload, gone_at, gone_by, gone_why from event where id = ?1 and test = ?2";
pub(super) const BY_SEQ: &str = "select seq, id, test, subject, version, kind, priority, recorded_at, audience, \
    message, digest, rest, payload, gone_at, gone_by, gone_why from event where seq = ?1";
const IS_DRY_RUN: &str = "select test from event where seq = ?1";
const HEAD: &str = "select coalesce(max(seq), 0) from event";
pub(super) const AFTER: &str = "select seq, id, test, subject, version, kind, priority, recorded_at, audience, \
    message, digest, rest, payload, gone_at, gone_by, gone_why from event where seq > ?1 order by seq limit ?2";
pub(super) const AFTER_OF_SUBJECT: &str = "select seq, id, test, subject, version, kind, priority, recorded_at, \
    audience, message, digest, rest, payload, gone_at, gone_by, gone_why from event where subject = ?3 and seq > ?1 order by seq limit ?2";
pub(super) const IDENTITY: &str = "select seq, digest from event where id = ?1 and test = ?2";
pub(super) const OFFERS_AFTER: &str = "select seq, audience, subject, priority, kind, test, recorded_at \
    from event where seq > ?1 order by seq limit ?2";
pub(super) const URGENT_AFTER: &str = "select seq, audience, subject, priority, kind, test, recorded_at \
    from event where (priority = 1 or kind = 2) and seq > ?1 order by seq limit ?2";
pub(super) const LAST_RETRACTIONS: &str = "select seq, id, test, subject, version, kind, priority, recorded_at, audience, \
    message, digest, rest, payload, gone_at, gone_by, gone_why from event where (priority = 1 or kind = 2) and kind = 2 order by seq desc limit ?1";
pub(super) const OLDER_OF_SUBJECT: &str = "select audience from event \
    where subject = ?1 and seq > ?2 and seq < ?3 and test = 0 order by seq";
pub(super) const COUNT_BETWEEN: &str = "select audience, count(*) from event where seq > ?1 and seq <= ?2 \
    group by audience";
pub(super) const AUDIENCE: &str = "select partners from audience where id = ?1";
pub(super) const AUDIENCE_ID: &str = "select id from audience where digest = ?1";
const INSERT_AUDIENCE: &str = "insert into audience (digest, partners) values (?1, ?2) on conflict (digest) do nothing";
const INSERT_EVENT: &str = "insert into event \
    (seq, id, test, subject, version, kind, priority, recorded_at, audience, message, digest, rest, payload) \
    values (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13)";

/// A snapshot of the database, with the audiences that are known by id.
pub(crate) struct Reader<'a> {
    pub(super) db: &'a Connection,
    pub(super) audiences: &'a Audiences,
}

/// Audiences by id. Only what was read in a snapshot of committed rows may come in: an id that was rolled back is given again.
#[derive(Default)]
pub(crate) struct Audiences {
    /// Guards the map; held to look one up or to put one in.
    known: Mutex<Known>,
}

#[derive(Default)]
struct Known {
    by_id: HashMap<i64, Arc<Audience>>,
    partners: usize,
}

impl Reader<'_> {
    pub(super) fn is_dry_run(&self, seq: Seq) -> Result<bool> {
        let read = |row: &Row<'_>| row.get(0);
        let found = self.db.prepare_cached(IS_DRY_RUN)?.query_row(params![rows::place(seq)], read).optional()?;
        Ok(found.unwrap_or(false))
    }

    pub(super) fn audience(&self, id: i64) -> Result<Arc<Audience>> {
        let known = self.audiences.known.lock().unwrap_or_else(PoisonError::into_inner).by_id.get(&id).cloned();
        if let Some(audience) = known {
            return Ok(audience);
        }
        let read = |row: &Row<'_>| {
            let bytes = row.get_ref(0)?.as_blob()?;
            Audience::decode(bytes).map(Arc::new).ok_or_else(|| rows::damaged(0))
        };
        let audience: Arc<Audience> = self.db.prepare_cached(AUDIENCE)?.query_row(params![id], read)?;
        let mut known = self.audiences.known.lock().unwrap_or_else(PoisonError::into_inner);
        if known.partners + audience.len() > REMEMBERED_PARTNERS_MAX {
            *known = Known::default();
        }
        // An audience without partners takes room too.
        known.partners += audience.len() + 16;
        known.by_id.insert(id, audience.clone());
        Ok(audience)
    }
}

/// What an id stands for, if it is taken: the event's place and its content's digest.
pub(super) fn identity(tx: &Transaction<'_>, new: &NewEvent) -> Result<Option<(Seq, Digest)>> {
    let read = |row: &Row<'_>| Ok((Seq(row.get(0)?), rows::digest(row, 1)?.ok_or_else(|| rows::damaged(1))?));
    let given = params![new.content.id.as_str(), new.content.test];
    Ok(tx.prepare_cached(IDENTITY)?.query_row(given, read).optional()?)
}

pub(super) fn insert(tx: &Transaction<'_>, seq: Seq, new: &NewEvent, audience: i64) -> Result<()> {
    let content = &new.content;
    tx.prepare_cached(INSERT_EVENT)?.execute(params![
        seq.0,
        content.id.as_str(),
        content.test,
        content.subject.as_str(),
        content.version.0,
        rows::kind_number(content.kind),
        rows::priority_number(content.priority),
        new.recorded_at.as_micros(),
        audience,
        new.message_uuid.as_bytes().as_slice(),
        new.content_digest.0,
        Rest::write(content, &new.trace),
        content.payload.get(),
    ])?;
    Ok(())
}

/// The id of the set, written down when it is new.
pub(super) fn intern(tx: &Transaction<'_>, audience: &Audience) -> Result<i64> {
    let digest = audience.digest();
    tx.prepare_cached(INSERT_AUDIENCE)?.execute(params![digest.0, audience.encode()])?;
    Ok(tx.prepare_cached(AUDIENCE_ID)?.query_row(params![digest.0], |row| row.get(0))?)
}

pub(crate) fn event_by_id(reader: &Reader<'_>, id: &str, test: bool) -> Result<Option<Recorded>> {
    one(reader, BY_ID, params![id, test])
}

pub(crate) fn event(reader: &Reader<'_>, seq: Seq) -> Result<Option<Recorded>> {
    one(reader, BY_SEQ, params![rows::place(seq)])
}

fn one(reader: &Reader<'_>, sql: &str, given: impl rusqlite::Params) -> Result<Option<Recorded>> {
    let found = reader.db.prepare_cached(sql)?.query_row(given, rows::event).optional()?;
    let Some((event, audience)) = found else { return Ok(None) };
    Ok(Some(Recorded { event: Arc::new(event), audience: reader.audience(audience)? }))
}

pub(crate) fn events(reader: &Reader<'_>, subject: Option<&str>, after: Seq, limit: usize) -> Result<Vec<Recorded>> {
    let mut recorded = Vec::new();
    let mut statement = reader.db.prepare_cached(if subject.is_some() { AFTER_OF_SUBJECT } else { AFTER })?;
    let mut rows = match subject {
        Some(subject) => statement.query(params![rows::place(after), limit, subject])?,
        None => statement.query(params![rows::place(after), limit])?,
    };
    while let Some(row) = rows.next()? {
        let (event, audience) = rows::event(row)?;
        recorded.push(Recorded { event: Arc::new(event), audience: reader.audience(audience)? });
    }
    Ok(recorded)
}

pub(crate) fn newest(reader: &Reader<'_>) -> Result<Seq> {
    head(reader.db)
}

/// The last recorded event's place.
pub(super) fn head(db: &Connection) -> Result<Seq> {
    Ok(db.query_row(HEAD, [], |row| Ok(Seq(row.get(0)?)))?)
}

pub(crate) fn backlog(reader: &Reader<'_>, partner: PartnerNo, after: Seq, limit: usize) -> Result<Backlog> {
    let mut page = Backlog { entries: Vec::new(), scanned_to: after };
    walk(reader, partner, (after, SCAN_MAX), |seq, offer| {
        page.scanned_to = seq;
        page.entries.extend(offer);
        page.entries.len() < limit
    })?;
    Ok(page)
}

pub(crate) fn last_retractions(reader: &Reader<'_>, limit: usize) -> Result<Vec<Recorded>> {
    let mut recorded = Vec::new();
    let mut statement = reader.db.prepare_cached(LAST_RETRACTIONS)?;
    let mut rows = statement.query(params![limit])?;
    while let Some(row) = rows.next()? {
        let (event, audience) = rows::event(row)?;
        recorded.push(Recorded { event: Arc::new(event), audience: reader.audience(audience)? });
    }
    Ok(recorded)
}

/// Walks at most so many events after a place; each comes with its offer when it is for the partner. Ends early on `false`.
pub(super) fn walk(
    reader: &Reader<'_>,
    partner: PartnerNo,
    (after, rows_max): (Seq, usize),
    mut step: impl FnMut(Seq, Option<Offer>) -> bool,
) -> Result<()> {
    let mut statement = reader.db.prepare_cached(OFFERS_AFTER)?;
    let mut rows = statement.query(params![rows::place(after), rows_max])?;
    let mut is_for: HashMap<i64, bool> = HashMap::new();
    while let Some(row) = rows.next()? {
        let audience = row.get(1)?;
        let is_wanted = match is_for.get(&audience) {
            Some(known) => *known,
            None => *is_for.entry(audience).or_insert(reader.audience(audience)?.contains(partner)),
        };
        let seq = Seq(row.get(0)?);
        let offer = if is_wanted { Some(offer(row)?) } else { None };
        if !step(seq, offer) {
            break;
        }
    }
    Ok(())
}

/// Columns: seq, audience, subject, priority, kind, test, recorded_at.
fn offer(row: &Row<'_>) -> Result<Offer> {
    Ok(Offer {
        seq: Seq(row.get(0)?),
        subject: Subject::trusted(row.get_ref(2)?.as_str().map_err(|_| rows::damaged(2))?),
        priority: rows::priority(row.get(3)?),
        kind: rows::kind(row.get(4)?),
        test: row.get(5)?,
        recorded_at: Time::from_micros(row.get(6)?),
    })
}

/// Urgent events of the partner that have nothing older of their subject between `after` and them; each with how many events of
/// the partner lie between, itself included. Looks from `scanned_to` on at `limit` urgent events at most.
pub(crate) fn urgent_backlog(
    reader: &Reader<'_>,
    partner: PartnerNo,
    (after, scanned_to): (Seq, Seq),
    limit: usize,
) -> Result<UrgentBacklog> {
    let mut page = UrgentBacklog { entries: Vec::new(), scanned_to, has_more: false };
    let mut statement = reader.db.prepare_cached(URGENT_AFTER)?;
    let mut rows = statement.query(params![rows::place(scanned_to), limit])?;
    let (mut counted_to, mut distance, mut looked_at) = (after, 0, 0);
    while let Some(row) = rows.next()? {
        let offer = offer(row)?;
        looked_at += 1;
        page.scanned_to = offer.seq;
        let is_wanted = !offer.test && reader.audience(row.get(1)?)?.contains(partner);
        if is_wanted && !has_older_of_subject(reader, partner, &offer, after)? {
            distance += count_between(reader, partner, (counted_to, offer.seq))?;
            counted_to = offer.seq;
            page.entries.push((offer, distance));
        }
    }
    page.has_more = looked_at == limit;
    Ok(page)
}

fn has_older_of_subject(reader: &Reader<'_>, partner: PartnerNo, offer: &Offer, after: Seq) -> Result<bool> {
    let mut statement = reader.db.prepare_cached(OLDER_OF_SUBJECT)?;
    let mut rows = statement.query(params![offer.subject.as_str(), rows::place(after), rows::place(offer.seq)])?;
    while let Some(row) = rows.next()? {
        if reader.audience(row.get(0)?)?.contains(partner) {
            return Ok(true);
        }
    }
    Ok(false)
}

fn count_between(reader: &Reader<'_>, partner: PartnerNo, (after, to): (Seq, Seq)) -> Result<u64> {
    let mut statement = reader.db.prepare_cached(COUNT_BETWEEN)?;
    let mut rows = statement.query(params![rows::place(after), rows::place(to)])?;
    let mut count = 0;
    while let Some(row) = rows.next()? {
        if reader.audience(row.get(0)?)?.contains(partner) {
            count += row.get::<_, u64>(1)?;
        }
    }
    Ok(count)
}
