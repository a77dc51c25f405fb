//! Questions to the store, each on one consistent snapshot.

use std::collections::HashMap;
use std::sync::Arc;

use ess_core::delivery::{DeliveryKey, State};
use ess_core::id::{Digest, PartnerNo, Seq, Subject, Version};
use ess_core::lane::{Health, Offer, OpenDelivery, OpenState};
use ess_core::time::Time;
use rusqlite::{Connection, OptionalExtension as _, Row, params};

use super::rows::{self, EVENT_COLUMNS, OPEN_COLUMNS};
use crate::audience::Audience;
use crate::error::StoreError;
use crate::ledger::{Entry, Word, decode_all, extend_chain};
use crate::types::{AuditLine, Backlog, LaneStart, LedgerEntry, Recorded, StoredAttempt, StoredDelivery};

/// Events that one call to `backlog` looks at.
const SCAN_MAX: usize = 16_384;
/// Open deliveries that a lane starts with.
pub(super) const OPEN_AT_START: usize = 1_024;

type Result<T> = rusqlite::Result<T>;

pub(super) fn event_by_id(db: &Connection, id: &str, test: bool) -> Result<Option<Recorded>> {
    let sql = format!("select {EVENT_COLUMNS} from event where id = ?1 and test = ?2");
    one_event(db, &sql, params![id, test])
}

pub(super) fn event(db: &Connection, seq: Seq) -> Result<Option<Recorded>> {
    one_event(db, &format!("select {EVENT_COLUMNS} from event where seq = ?1"), params![seq.0])
}

fn one_event(db: &Connection, sql: &str, given: impl rusqlite::Params) -> Result<Option<Recorded>> {
    let found = db.prepare_cached(sql)?.query_row(given, rows::event).optional()?;
    let Some((event, audience)) = found else { return Ok(None) };
    Ok(Some(Recorded { event: Arc::new(event), audience: read_audience(db, audience)? }))
}

pub(super) fn read_audience(db: &Connection, id: i64) -> Result<Arc<Audience>> {
    let read = |row: &Row<'_>| {
        let bytes = row.get_ref(0)?.as_blob()?;
        Audience::decode(bytes).map(Arc::new).ok_or_else(|| rows::damaged(0))
    };
    db.prepare_cached("select partners from audience where id = ?1")?.query_row(params![id], read)
}

pub(super) fn events(db: &Connection, subject: Option<&str>, after: Seq, limit: usize) -> Result<Vec<Recorded>> {
    let sql = match subject {
        Some(_) => {
            format!("select {EVENT_COLUMNS} from event where subject = ?3 and seq > ?1 order by seq limit ?2")
        }
        None => format!("select {EVENT_COLUMNS} from event where seq > ?1 and ?3 is null order by seq limit ?2"),
    };
    let mut statement = db.prepare_cached(&sql)?;
    let found: Vec<_> = statement.query_map(params![after.0, limit, subject], rows::event)?.collect::<Result<_>>()?;
    let mut audiences: HashMap<i64, Arc<Audience>> = HashMap::new();
    let mut recorded = Vec::with_capacity(found.len());
    for (event, id) in found {
        let audience = match audiences.get(&id) {
            Some(audience) => audience.clone(),
            None => audiences.entry(id).or_insert(read_audience(db, id)?).clone(),
        };
        recorded.push(Recorded { event: Arc::new(event), audience });
    }
    Ok(recorded)
}

pub(super) fn lane_start(db: &Connection, partner: PartnerNo) -> Result<LaneStart> {
    let lane = "select cursor, counted, offline_since, first_failed_at, failures from lane where partner = ?1";
    let read = |row: &Row<'_>| {
        let health =
            Health { offline_since: rows::time(row, 2)?, first_failed_at: rows::time(row, 3)?, failures: row.get(4)? };
        Ok((Seq(row.get(0)?), row.get(1)?, health))
    };
    let (cursor, counted, health) =
        db.prepare_cached(lane)?.query_row(params![partner.0], read).optional()?.unwrap_or_default();
    let mut ended = acked_after(db, partner, cursor)?;
    for table in ["open_delivery", "ended_delivery"] {
        let sql = format!("select seq from {table} where partner = ?1 and seq > ?2 and round = 0");
        let mut statement = db.prepare_cached(&sql)?;
        let seqs = statement.query_map(params![partner.0, cursor.0], |row| Ok(Seq(row.get(0)?)))?;
        ended.extend(seqs.collect::<Result<Vec<Seq>>>()?);
    }
    let open = open_deliveries(db, partner, (Seq(0), 0), OPEN_AT_START)?;
    Ok(LaneStart { cursor, counted, ended, open, health })
}

/// Events past the cursor that the partner acknowledged in their first sending.
fn acked_after(db: &Connection, partner: PartnerNo, cursor: Seq) -> Result<Vec<Seq>> {
    let mut statement = db.prepare_cached("select seq, entries from ledger where seq > ?1")?;
    let mut rows = statement.query(params![cursor.0])?;
    let mut seqs = Vec::new();
    while let Some(row) = rows.next()? {
        let entries = decode_all(row.get_ref(1)?.as_blob()?).ok_or_else(|| rows::damaged(1))?;
        let is_acked = |entry: &Entry| entry.partner == partner && entry.round == 0 && entry.word == Word::Ack;
        if entries.iter().any(is_acked) {
            seqs.push(Seq(row.get(0)?));
        }
    }
    Ok(seqs)
}

pub(super) fn open_deliveries(
    db: &Connection,
    partner: PartnerNo,
    after: (Seq, u32),
    limit: usize,
) -> Result<Vec<OpenDelivery>> {
    let sql = format!(
        "select {OPEN_COLUMNS} from open_delivery where partner = ?1 and (seq, round) > (?2, ?3) \
         order by seq, round limit ?4"
    );
    let mut statement = db.prepare_cached(&sql)?;
    statement.query_map(params![partner.0, after.0.0, after.1, limit], rows::open_delivery)?.collect()
}

pub(super) fn open_of_subject(
    db: &Connection,
    partner: PartnerNo,
    subject: &str,
    test: bool,
    limit: usize,
) -> Result<Vec<OpenDelivery>> {
    let sql = format!(
        "select {OPEN_COLUMNS} from open_delivery where partner = ?1 and subject = ?2 and test = ?3 \
         order by seq, round limit ?4"
    );
    let mut statement = db.prepare_cached(&sql)?;
    statement.query_map(params![partner.0, subject, test, limit], rows::open_delivery)?.collect()
}

pub(super) fn backlog(db: &Connection, partner: PartnerNo, after: Seq, limit: usize) -> Result<Backlog> {
    let sql = "select seq, audience, subject, priority, kind, test from event where seq > ?1 order by seq limit ?2";
    let mut statement = db.prepare_cached(sql)?;
    let mut rows = statement.query(params![after.0, SCAN_MAX])?;
    let mut page = Backlog { entries: Vec::new(), scanned_to: after };
    let mut is_for: HashMap<i64, bool> = HashMap::new();
    while let Some(row) = rows.next()? {
        let seq = Seq(row.get(0)?);
        let audience = row.get(1)?;
        let wanted = match is_for.get(&audience) {
            Some(wanted) => *wanted,
            None => *is_for.entry(audience).or_insert(read_audience(db, audience)?.contains(partner)),
        };
        if wanted {
            page.entries.push(Offer {
                seq,
                subject: Subject::trusted(row.get_ref(2)?.as_str()?),
                priority: rows::priority(row.get(3)?),
                kind: rows::kind(row.get(4)?),
                test: row.get(5)?,
            });
        }
        page.scanned_to = seq;
        if page.entries.len() >= limit {
            break;
        }
    }
    Ok(page)
}

/// How many events are past the partner's cursor and for it, up to `ceiling`.
pub(super) fn backlog_count(db: &Connection, partner: PartnerNo, ceiling: u64) -> Result<u64> {
    let start = lane_start(db, partner)?;
    let open: u64 = db
        .prepare_cached("select count(*) from (select 1 from open_delivery where partner = ?1 limit ?2)")?
        .query_row(params![partner.0, ceiling], |row| row.get(0))?;
    let mut statement = db.prepare_cached("select seq, audience from event where seq > ?1 order by seq limit ?2")?;
    let mut rows = statement.query(params![start.cursor.0, ceiling])?;
    let ended: std::collections::HashSet<Seq> = start.ended.into_iter().collect();
    let mut is_for: HashMap<i64, bool> = HashMap::new();
    let mut count = open;
    while let Some(row) = rows.next()? {
        let audience = row.get(1)?;
        let wanted = match is_for.get(&audience) {
            Some(wanted) => *wanted,
            None => *is_for.entry(audience).or_insert(read_audience(db, audience)?.contains(partner)),
        };
        count += u64::from(wanted && !ended.contains(&Seq(row.get(0)?)));
    }
    Ok(count.min(ceiling))
}

/// Every delivery of an event: for its audience, and every replay.
pub(super) fn deliveries_of_event(db: &Connection, seq: Seq) -> Result<Vec<StoredDelivery>> {
    let Some(recorded) = event(db, seq)? else { return Ok(Vec::new()) };
    let mut found: HashMap<(PartnerNo, u32), StoredDelivery> = HashMap::new();
    for partner in recorded.audience.partners() {
        found.insert((*partner, 0), pending(DeliveryKey { seq, partner: *partner, round: 0 }));
    }
    for delivery in ended_where(db, "seq = ?1", params![seq.0])? {
        found.insert((delivery.key.partner, delivery.key.round), delivery);
    }
    let sql = format!("select {OPEN_COLUMNS} from open_delivery where seq = ?1");
    for open in db.prepare_cached(&sql)?.query_map(params![seq.0], rows::open_delivery)? {
        let delivery = from_open(open?);
        found.insert((delivery.key.partner, delivery.key.round), delivery);
    }
    for entry in entries_of_event(db, seq)? {
        let key = (entry.partner, entry.round);
        match (&entry.word, found.get_mut(&key)) {
            (Word::Ack, _) => {
                found.insert(key, from_entry(seq, &entry));
            }
            (Word::Nack(_), Some(ended)) => ended.evidence = Some(entry.evidence),
            (Word::Nack(_), None) => {}
        }
    }
    add_attempts(db, seq, &mut found)?;
    let mut deliveries: Vec<StoredDelivery> = found.into_values().collect();
    deliveries.sort_by_key(|delivery| (delivery.key.partner, delivery.key.round));
    Ok(deliveries)
}

pub(super) fn entries_of_event(db: &Connection, seq: Seq) -> Result<Vec<Entry>> {
    let mut statement = db.prepare_cached("select entries from ledger where seq = ?1 order by first")?;
    let mut rows = statement.query(params![seq.0])?;
    let mut entries = Vec::new();
    while let Some(row) = rows.next()? {
        entries.extend(decode_all(row.get_ref(0)?.as_blob()?).ok_or_else(|| rows::damaged(0))?);
    }
    Ok(entries)
}

fn add_attempts(db: &Connection, seq: Seq, found: &mut HashMap<(PartnerNo, u32), StoredDelivery>) -> Result<()> {
    let sql = "select partner, round, number, at, took, status, outcome, reason from attempt where seq = ?1 \
               order by partner, round, number, at";
    let mut statement = db.prepare_cached(sql)?;
    let mut rows = statement.query(params![seq.0])?;
    while let Some(row) = rows.next()? {
        let key = (PartnerNo(row.get(0)?), row.get(1)?);
        let attempt = StoredAttempt {
            number: row.get(2)?,
            at: Time::from_micros(row.get(3)?),
            took: std::time::Duration::from_micros(row.get(4)?),
            status: row.get(5)?,
            outcome: row.get(6)?,
            reason: row.get(7)?,
        };
        if let Some(delivery) = found.get_mut(&key) {
            delivery.attempts.push(attempt);
        }
    }
    Ok(())
}

pub(super) fn dead_letters(
    db: &Connection,
    partner: Option<PartnerNo>,
    event: Option<Seq>,
    after: (Seq, PartnerNo, u32),
    limit: usize,
) -> Result<Vec<StoredDelivery>> {
    let condition = "state in ('dead', 'nack') and test = 0 and (seq, partner, round) > (?1, ?2, ?3) \
                     and (?4 is null or partner = ?4) and (?5 is null or seq = ?5) \
                     order by seq, partner, round limit ?6";
    let given = params![after.0.0, after.1.0, after.2, partner.map(|no| no.0), event.map(|seq| seq.0), limit];
    ended_where(db, condition, given)
}

/// Open deliveries with records of their own, oldest first, dry runs left out.
pub(super) fn open_everywhere(db: &Connection, after: DeliveryKey, limit: usize) -> Result<Vec<StoredDelivery>> {
    let sql = format!(
        "select {OPEN_COLUMNS} from open_delivery where (seq, partner, round) > (?1, ?2, ?3) and test = 0 \
         order by seq, partner, round limit ?4"
    );
    let mut statement = db.prepare_cached(&sql)?;
    let given = params![after.seq.0, after.partner.0, after.round, limit];
    statement.query_map(given, |row| rows::open_delivery(row).map(from_open))?.collect()
}

fn ended_where(db: &Connection, condition: &str, given: impl rusqlite::Params) -> Result<Vec<StoredDelivery>> {
    let sql = format!(
        "select partner, seq, round, state, at, reason, attempts, partner_seq, message, sent_version, sent_digest \
         from ended_delivery where {condition}"
    );
    let mut statement = db.prepare_cached(&sql)?;
    let read = |row: &Row<'_>| {
        let mut delivery = pending(rows::key(row)?);
        delivery.state = rows::ended_state(row.get_ref(3)?.as_str()?).ok_or_else(|| rows::damaged(3))?;
        delivery.ended_at = rows::time(row, 4)?;
        delivery.reason = row.get(5)?;
        delivery.attempts_made = row.get(6)?;
        delivery.partner_seq = row.get(7)?;
        delivery.message_uuid = rows::uuid(row, 8)?;
        delivery.version = row.get::<_, Option<u32>>(9)?.map(Version);
        delivery.body_digest = rows::digest(row, 10)?;
        Ok(delivery)
    };
    statement.query_map(given, read)?.collect()
}

fn pending(key: DeliveryKey) -> StoredDelivery {
    StoredDelivery {
        key,
        state: State::Pending,
        attempts_made: 0,
        due_at: None,
        reason: None,
        mend: None,
        ended_at: None,
        evidence: None,
        body_digest: None,
        version: None,
        scripts: [].into(),
        partner_seq: None,
        message_uuid: None,
        attempts: Vec::new(),
    }
}

fn from_open(open: OpenDelivery) -> StoredDelivery {
    let state = match open.state {
        OpenState::Pending => State::Pending,
        OpenState::Retrying => State::Retrying,
        OpenState::AwaitingAck => State::AwaitingAck,
        OpenState::Blocked => State::Blocked,
    };
    let mut delivery = pending(open.key);
    delivery.state = state;
    delivery.attempts_made = open.attempts;
    delivery.due_at = open.due_at;
    delivery.reason = open.reason;
    delivery.mend = open.mend;
    delivery.partner_seq = open.partner_seq;
    delivery.message_uuid = open.message_uuid;
    if let Some(sent) = open.sent {
        delivery.version = Some(sent.version);
        delivery.body_digest = Some(sent.body_digest);
        delivery.scripts = sent.scripts;
    }
    delivery
}

fn from_entry(seq: Seq, entry: &Entry) -> StoredDelivery {
    let mut delivery = pending(DeliveryKey { seq, partner: entry.partner, round: entry.round });
    delivery.state = State::Acked;
    delivery.attempts_made = entry.attempt;
    delivery.ended_at = Some(entry.at);
    delivery.evidence = Some(entry.evidence);
    delivery.body_digest = Some(entry.body_digest);
    delivery.version = Some(entry.version);
    delivery.scripts = entry.scripts.clone();
    delivery.partner_seq = entry.partner_seq;
    delivery
}

/// The newest event of the subject after `seq` that the partner acknowledged.
pub(super) fn acked_after_of_subject(
    db: &Connection,
    partner: PartnerNo,
    subject: &str,
    seq: Seq,
) -> Result<Option<Seq>> {
    let sql = "select ledger.seq, entries from event join ledger on ledger.seq = event.seq \
               where event.subject = ?1 and event.seq > ?2 and event.test = 0 order by event.seq desc";
    let mut statement = db.prepare_cached(sql)?;
    let mut rows = statement.query(params![subject, seq.0])?;
    while let Some(row) = rows.next()? {
        let entries = decode_all(row.get_ref(1)?.as_blob()?).ok_or_else(|| rows::damaged(1))?;
        if entries.iter().any(|entry| entry.partner == partner && entry.word == Word::Ack) {
            return Ok(Some(Seq(row.get(0)?)));
        }
    }
    Ok(None)
}

pub(super) fn ledger(db: &Connection, from: u64, limit: usize) -> Result<Vec<LedgerEntry>> {
    // The row that holds `from` may begin before it.
    let sql = "select first, seq, entries, chain from ledger \
               where first >= coalesce((select max(first) from ledger where first <= ?1), 0) order by first";
    let mut statement = db.prepare_cached(sql)?;
    let mut rows = statement.query(params![from])?;
    let mut page = Vec::new();
    while let Some(row) = rows.next()? {
        let first: u64 = row.get(0)?;
        let (seq, chain) = (Seq(row.get(1)?), rows::digest(row, 3)?.ok_or_else(|| rows::damaged(3))?);
        let entries = decode_all(row.get_ref(2)?.as_blob()?).ok_or_else(|| rows::damaged(2))?;
        for (index, entry) in (first..).zip(entries) {
            if index >= from {
                page.push(LedgerEntry { index, seq, entry, chain });
            }
            if page.len() >= limit {
                return Ok(page);
            }
        }
    }
    Ok(page)
}

pub(super) fn ledger_head(db: &Connection) -> Result<(u64, Digest)> {
    let sql = "select first + count, chain from ledger order by first desc limit 1";
    let read = |row: &Row<'_>| Ok((row.get(0)?, rows::digest(row, 1)?.ok_or_else(|| rows::damaged(1))?));
    Ok(db.prepare_cached(sql)?.query_row([], read).optional()?.unwrap_or((0, Digest([0; 32]))))
}

/// Walks the chain from the beginning; the error names the first row that does not fit.
pub(super) fn verify_ledger(db: &Connection) -> std::result::Result<(u64, Digest), StoreError> {
    let unavailable = |error: rusqlite::Error| StoreError::Unavailable(error.to_string());
    let mut statement =
        db.prepare("select first, count, seq, entries, chain from ledger order by first").map_err(unavailable)?;
    let mut rows = statement.query([]).map_err(unavailable)?;
    let (mut size, mut chain) = (0u64, Digest([0; 32]));
    while let Some(row) = rows.next().map_err(unavailable)? {
        let damaged = |what: &str| StoreError::Damaged(format!("ledger entry {size}: {what}"));
        let read = || -> Result<(u64, u64, Seq, Vec<u8>, Option<Digest>)> {
            Ok((row.get(0)?, row.get(1)?, Seq(row.get(2)?), row.get(3)?, rows::digest(row, 4)?))
        };
        let (first, count, seq, entries, stored) = read().map_err(|_| damaged("the row can't be read"))?;
        if first != size {
            return Err(damaged(&format!("missing; the next row begins at {first}")));
        }
        let decoded = decode_all(&entries).ok_or_else(|| damaged("the entries can't be read"))?;
        if decoded.len() as u64 != count {
            return Err(damaged("the row has another number of entries than it says"));
        }
        let expected = extend_chain(chain, seq, &entries).ok_or_else(|| damaged("the entries can't be read"))?;
        if stored != Some(expected) {
            return Err(damaged("the chain does not fit the entries: they were changed after they were written"));
        }
        (size, chain) = (size + count, expected);
    }
    Ok((size, chain))
}

pub(super) fn audit(db: &Connection, after: u64, limit: usize) -> Result<Vec<AuditLine>> {
    let sql = "select number, at, actor, act, object, reason from audit where number > ?1 order by number limit ?2";
    let mut statement = db.prepare_cached(sql)?;
    let read = |row: &Row<'_>| {
        Ok(AuditLine {
            number: row.get(0)?,
            at: Time::from_micros(row.get(1)?),
            actor: row.get(2)?,
            act: row.get(3)?,
            object: row.get(4)?,
            reason: row.get(5)?,
        })
    };
    statement.query_map(params![after, limit], read)?.collect()
}
