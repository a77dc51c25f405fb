//! The Event Log: appending, and questions about events. Who an event is for stands once for each set of partners.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, PoisonError};

use ess_core::id::{Digest, PartnerNo, Seq, Subject};
use ess_core::lane::Offer;
use ess_core::time::Time;

use super::db::{Cell, Db, Row, given};
use super::rows::{self, Rest};
use crate::audience::Audience;
use crate::error::StoreError;
use crate::postgres;
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
/// Only a server is asked: whether one of these is taken.
const TAKEN: &str = "select event.seq from event, unnest(?1::text[], ?2::smallint[]) asked (id, test) \
    where event.id = asked.id and event.test = asked.test limit 1";
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
    pub(crate) db: Db<'a>,
    pub(crate) audiences: &'a Audiences,
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
        let found = self.db.query_one(IS_DRY_RUN, given![rows::place(seq)], read)?;
        Ok(found.unwrap_or(false))
    }

    pub(super) fn audience(&self, id: i64) -> Result<Arc<Audience>> {
        let known = self.audiences.known.lock().unwrap_or_else(PoisonError::into_inner).by_id.get(&id).cloned();
        if let Some(audience) = known {
            return Ok(audience);
        }
        let read = |row: &Row<'_>| Audience::decode(row.get(0)?).map(Arc::new).ok_or_else(|| rows::damaged(0));
        let audience = self.db.query_row(AUDIENCE, given![id], read)?;
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
pub(super) fn identity(db: Db<'_>, new: &NewEvent) -> Result<Option<(Seq, Digest)>> {
    let read = |row: &Row<'_>| Ok((Seq(row.get(0)?), row.get(1)?));
    db.query_one(IDENTITY, given![new.content.id.as_str(), new.content.test], read)
}

/// Whether every id is free and none comes twice; asked of a server in one message.
pub(super) fn are_all_new(link: postgres::Link<'_>, news: &[NewEvent]) -> Result<bool> {
    let mut ids = HashSet::new();
    if !news.iter().all(|new| ids.insert((new.content.id.as_str(), new.content.test))) {
        return Ok(false);
    }
    let mut asked = Vec::with_capacity(news.len());
    for NewEvent { content, .. } in news {
        asked.push([Cell::Text(content.id.as_str()), Cell::Int(i64::from(content.test))]);
    }
    let mut is_one_taken = false;
    link.each_of(TAKEN, &asked, |_| {
        is_one_taken = true;
        Ok(())
    })?;
    Ok(!is_one_taken)
}

pub(super) fn insert(db: Db<'_>, seq: Seq, new: &NewEvent, audience: i64) -> Result<()> {
    let rest = Rest::write(&new.content, &new.trace);
    db.execute(INSERT_EVENT, &cells(seq, new, audience, &rest))?;
    Ok(())
}

/// Appends many whose ids are free.
pub(super) fn insert_all(db: Db<'_>, all: &[(Seq, &NewEvent, i64)]) -> Result<()> {
    let rests: Vec<String> = all.iter().map(|(_, new, _)| Rest::write(&new.content, &new.trace)).collect();
    let rows: Vec<_> =
        all.iter().zip(&rests).map(|((seq, new, audience), rest)| cells(*seq, new, *audience, rest)).collect();
    db.insert_all(INSERT_EVENT, &rows)
}

fn cells<'a>(seq: Seq, new: &'a NewEvent, audience: i64, rest: &'a str) -> [Cell<'a>; 13] {
    let content = &new.content;
    [
        Cell::Int(rows::place(seq)),
        Cell::Text(content.id.as_str()),
        Cell::Int(i64::from(content.test)),
        Cell::Text(content.subject.as_str()),
        Cell::Int(i64::from(content.version.0)),
        Cell::Int(rows::kind_number(content.kind)),
        Cell::Int(rows::priority_number(content.priority)),
        Cell::Int(new.recorded_at.as_micros()),
        Cell::Int(audience),
        Cell::Blob(new.message_uuid.as_bytes()),
        Cell::Blob(&new.content_digest.0),
        Cell::Text(rest),
        Cell::Text(content.payload.get()),
    ]
}

/// The id of the set, written down when it is new.
pub(super) fn intern(db: Db<'_>, audience: &Audience) -> Result<i64> {
    let digest = audience.digest();
    db.execute(INSERT_AUDIENCE, given![digest.0, audience.encode()])?;
    db.query_row(AUDIENCE_ID, given![digest.0], |row| row.get(0))
}

pub(crate) fn event_by_id(reader: &Reader<'_>, id: &str, test: bool) -> Result<Option<Recorded>> {
    one(reader, BY_ID, given![id, test])
}

pub(crate) fn event(reader: &Reader<'_>, seq: Seq) -> Result<Option<Recorded>> {
    one(reader, BY_SEQ, given![rows::place(seq)])
}

fn one(reader: &Reader<'_>, sql: &'static str, given: &[Cell<'_>]) -> Result<Option<Recorded>> {
    let found = reader.db.query_one(sql, given, rows::event)?;
    let Some((event, audience)) = found else { return Ok(None) };
    Ok(Some(Recorded { event: Arc::new(event), audience: reader.audience(audience)? }))
}

fn many(reader: &Reader<'_>, sql: &'static str, given: &[Cell<'_>]) -> Result<Vec<Recorded>> {
    reader.db.query(sql, given, |row| {
        let (event, audience) = rows::event(row)?;
        Ok(Recorded { event: Arc::new(event), audience: reader.audience(audience)? })
    })
}

pub(crate) fn events(reader: &Reader<'_>, subject: Option<&str>, after: Seq, limit: usize) -> Result<Vec<Recorded>> {
    let after = rows::place(after);
    match subject {
        Some(subject) => many(reader, AFTER_OF_SUBJECT, given![after, limit, subject]),
        None => many(reader, AFTER, given![after, limit]),
    }
}

pub(crate) fn newest(reader: &Reader<'_>) -> Result<Seq> {
    head(reader.db)
}

/// The last recorded event's place.
pub(super) fn head(db: Db<'_>) -> Result<Seq> {
    db.query_row(HEAD, given![], |row| Ok(Seq(row.get(0)?)))
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
    many(reader, LAST_RETRACTIONS, given![limit])
}

/// Walks at most so many events after a place; each comes with its offer when it is for the partner. Ends early on `false`.
pub(super) fn walk(
    reader: &Reader<'_>,
    partner: PartnerNo,
    (after, rows_max): (Seq, usize),
    mut step: impl FnMut(Seq, Option<Offer>) -> bool,
) -> Result<()> {
    let mut is_for: HashMap<i64, bool> = HashMap::new();
    reader.db.walk(OFFERS_AFTER, given![rows::place(after), rows_max], |row| {
        let audience = row.get(1)?;
        let is_wanted = match is_for.get(&audience) {
            Some(known) => *known,
            None => *is_for.entry(audience).or_insert(reader.audience(audience)?.contains(partner)),
        };
        let seq = Seq(row.get(0)?);
        let offer = if is_wanted { Some(offer(row)?) } else { None };
        Ok(step(seq, offer))
    })
}

/// Columns: seq, audience, subject, priority, kind, test, recorded_at.
fn offer(row: &Row<'_>) -> Result<Offer> {
    Ok(Offer {
        seq: Seq(row.get(0)?),
        subject: Subject::trusted(row.get(2)?),
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
    let (mut counted_to, mut distance, mut looked_at) = (after, 0, 0);
    reader.db.walk(URGENT_AFTER, given![rows::place(scanned_to), limit], |row| {
        let offer = offer(row)?;
        looked_at += 1;
        page.scanned_to = offer.seq;
        let is_wanted = !offer.test && reader.audience(row.get(1)?)?.contains(partner);
        if is_wanted && !has_older_of_subject(reader, partner, &offer, after)? {
            distance += count_between(reader, partner, (counted_to, offer.seq))?;
            counted_to = offer.seq;
            page.entries.push((offer, distance));
        }
        Ok(true)
    })?;
    page.has_more = looked_at == limit;
    Ok(page)
}

fn has_older_of_subject(reader: &Reader<'_>, partner: PartnerNo, offer: &Offer, after: Seq) -> Result<bool> {
    let mut has_older = false;
    let (after, before) = (rows::place(after), rows::place(offer.seq));
    reader.db.walk(OLDER_OF_SUBJECT, given![offer.subject.as_str(), after, before], |row| {
        has_older = reader.audience(row.get(0)?)?.contains(partner);
        Ok(!has_older)
    })?;
    Ok(has_older)
}

fn count_between(reader: &Reader<'_>, partner: PartnerNo, (after, to): (Seq, Seq)) -> Result<u64> {
    let mut count = 0;
    reader.db.walk(COUNT_BETWEEN, given![rows::place(after), rows::place(to)], |row| {
        if reader.audience(row.get(0)?)?.contains(partner) {
            count += row.get::<u64>(1)?;
        }
        Ok(true)
    })?;
    Ok(count)
}
