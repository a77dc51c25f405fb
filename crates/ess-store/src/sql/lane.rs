//! What a lane needs of the store: where it was, what is open, what is behind.

use std::collections::HashSet;

use ess_core::id::{PartnerNo, Seq};
use ess_core::lane::{Health, Offer, OpenDelivery, WINDOW};

use super::db::{Db, Row, given};
use super::events::{Reader, walk};
use super::rows;
use crate::error::StoreError;
use crate::ledger::{Entry, Word, decode_all};
use crate::types::LaneStart;

type Result<T> = std::result::Result<T, StoreError>;

/// Events that are looked at for the first pending one.
const PENDING_SCAN_MAX: usize = 16_384;

pub(super) const LANE: &str = "select cursor, counted, offline_since, first_failed_at, failures, reached, gave_up_at \
    from lane where partner = ?1";
pub(super) const OPEN_PAST: &str = "select seq from open_delivery where partner = ?1 and seq > ?2 and round = 0";
pub(super) const ENDED_PAST: &str = "select seq from ended_delivery where partner = ?1 and seq > ?2 and round = 0";
pub(super) const RECEIPTS_BETWEEN: &str = "select seq, entries from ledger where seq > ?1 and seq <= ?2";
pub(super) const OPEN_OF_PARTNER: &str = "select partner, seq, round, subject, test, kind, priority, state, attempts, \
    resends, due_at, first_failed_at, partner_seq, reason, mend, message, sent_version, sent_digest, sent_scripts, \
    fallback_at, (select recorded_at from event where event.seq = open_delivery.seq) \
    from open_delivery where partner = ?1 and (seq, round) > (?2, ?3) order by seq, round limit ?4";
pub(super) const OPEN_OF_SUBJECT: &str = "select partner, seq, round, subject, test, kind, priority, state, attempts, \
    resends, due_at, first_failed_at, partner_seq, reason, mend, message, sent_version, sent_digest, sent_scripts, \
    fallback_at, (select recorded_at from event where event.seq = open_delivery.seq) \
    from open_delivery where partner = ?1 and subject = ?2 and test = ?3 order by seq, round limit ?4";
pub(super) const COUNT_OPEN: &str =
    "select count(*) from (select 1 from open_delivery where partner = ?1 limit ?2) as counted";

/// Where a lane was, and the first-sending deliveries past its cursor that it need not send.
pub(super) struct Place {
    pub(super) cursor: Seq,
    counted: u64,
    health: Health,
    pub(super) done: Vec<Seq>,
}

pub(crate) fn lane_start(reader: &Reader<'_>, partner: PartnerNo) -> Result<LaneStart> {
    let Place { cursor, counted, health, done } = place(reader.db, partner)?;
    let open = open_deliveries(reader, partner, (Seq(0), 0), WINDOW)?;
    Ok(LaneStart { cursor, counted, ended: done, open, health })
}

pub(super) fn place(db: Db<'_>, partner: PartnerNo) -> Result<Place> {
    let read = |row: &Row<'_>| {
        let health = Health {
            offline_since: rows::time(row, 2)?,
            first_failed_at: rows::time(row, 3)?,
            failures: row.get(4)?,
            gave_up_at: rows::time(row, 6)?,
        };
        Ok((Seq(row.get(0)?), row.get(1)?, health, Seq(row.get(5)?)))
    };
    let found = db.query_one(LANE, given![partner.0], read)?;
    let (cursor, counted, health, reached) = found.unwrap_or_default();
    let mut done = acked_between(db, partner, (cursor, reached))?;
    for sql in [OPEN_PAST, ENDED_PAST] {
        done.extend(db.query(sql, given![partner.0, cursor.0], |row| Ok(Seq(row.get(0)?)))?);
    }
    Ok(Place { cursor, counted, health, done })
}

/// Events in this part of the log that the partner acknowledged in their first sending.
fn acked_between(db: Db<'_>, partner: PartnerNo, (cursor, reached): (Seq, Seq)) -> Result<Vec<Seq>> {
    let mut seqs = Vec::new();
    db.walk(RECEIPTS_BETWEEN, given![cursor.0, reached.0], |row| {
        let entries = decode_all(row.get(1)?).ok_or_else(|| rows::damaged(1))?;
        let is_acked = |entry: &Entry| entry.partner == partner && entry.round == 0 && entry.word == Word::Ack;
        if entries.iter().any(is_acked) {
            seqs.push(Seq(row.get(0)?));
        }
        Ok(true)
    })?;
    Ok(seqs)
}

pub(crate) fn open_deliveries(
    reader: &Reader<'_>,
    partner: PartnerNo,
    after: (Seq, u32),
    limit: usize,
) -> Result<Vec<OpenDelivery>> {
    reader.db.query(OPEN_OF_PARTNER, given![partner.0, rows::place(after.0), after.1, limit], rows::open_delivery)
}

pub(crate) fn open_of_subject(
    reader: &Reader<'_>,
    partner: PartnerNo,
    subject: &str,
    test: bool,
    limit: usize,
) -> Result<Vec<OpenDelivery>> {
    reader.db.query(OPEN_OF_SUBJECT, given![partner.0, subject, test, limit], rows::open_delivery)
}

/// Deliveries of the partner that have not ended, up to `ceiling`; looks at no more than `ceiling` events past the cursor.
pub(crate) fn backlog_count(reader: &Reader<'_>, partner: PartnerNo, ceiling: u64) -> Result<u64> {
    let Place { cursor, done, .. } = place(reader.db, partner)?;
    let mut count: u64 = reader.db.query_row(COUNT_OPEN, given![partner.0, ceiling], |row| row.get(0))?;
    let done: HashSet<Seq> = done.into_iter().collect();
    let rows_max = usize::try_from(ceiling).unwrap_or(usize::MAX).min(i64::MAX as usize);
    walk(reader, partner, (cursor, rows_max), |seq, offer| {
        count += u64::from(offer.is_some() && !done.contains(&seq));
        count < ceiling
    })?;
    Ok(count.min(ceiling))
}

/// The oldest delivery of the partner that has no record of its own: not yet tried, or under way for the first time.
pub(crate) fn first_pending(reader: &Reader<'_>, partner: PartnerNo) -> Result<Option<Offer>> {
    let Place { cursor, done, .. } = place(reader.db, partner)?;
    let done: HashSet<Seq> = done.into_iter().collect();
    let mut first = None;
    walk(reader, partner, (cursor, PENDING_SCAN_MAX), |seq, offer| {
        first = offer.filter(|_| !done.contains(&seq));
        first.is_none()
    })?;
    Ok(first)
}
