//! Questions of people who look: newest first, without payloads, each bounded in the rows that it reads.

use std::collections::HashMap;

use ess_core::id::{PartnerNo, Seq};
use ess_core::time::Time;

use super::db::{Row, given};
use super::events::Reader;
use super::registry;
use super::rows;
use crate::error::StoreError;
use crate::look::{LogLine, LogSearch};
use crate::types::AuditLine;

type Result<T> = std::result::Result<T, StoreError>;

/// Events that one call looks at for those of a partner.
const SCAN_MAX: usize = 4_096;

pub(super) const DEAD_PARTNERS: &str = "select partner from ended_delivery where state in ('dead', 'nack') \
    and test = 0 order by seq, partner, round limit ?1";
pub(super) const RECORDED_UP_TO: &str = "select seq, recorded_at from event where seq <= ?1 order by seq desc limit 1";
pub(super) const LOG_BEFORE: &str = "select seq, id, test, subject, version, kind, priority, recorded_at, audience, \
    gone_at, gone_by, gone_why from event where seq < ?1 order by seq desc limit ?2";
pub(super) const LOG_OF_SUBJECT: &str = "select seq, id, test, subject, version, kind, priority, recorded_at, audience, \
    gone_at, gone_by, gone_why from event where subject = ?3 and seq < ?1 order by seq desc limit ?2";
/// By the index of ids: what begins with the text lies between it and the same text with the highest character behind it.
pub(super) const LOG_BY_ID: &str = "select seq, id, test, subject, version, kind, priority, recorded_at, audience, \
    gone_at, gone_by, gone_why from event where id >= ?1 and id < ?3 order by id limit ?2";
pub(super) const AUDIENCES_BEFORE: &str = "select seq, audience from event where seq < ?1 order by seq desc limit ?2";
pub(super) const AUDIT_BEFORE: &str =
    "select number, at, actor, act, object, reason from audit where number < ?1 order by number desc limit ?2";

/// Dead letters of each partner among the first `max` of all.
pub(crate) fn dead_by_partner(reader: &Reader<'_>, max: usize) -> Result<Vec<(PartnerNo, usize)>> {
    let mut counts: HashMap<u32, usize> = HashMap::new();
    for no in reader.db.query(DEAD_PARTNERS, given![max], |row| row.get(0))? {
        *counts.entry(no).or_default() += 1;
    }
    Ok(counts.into_iter().map(|(no, count)| (PartnerNo(no), count)).collect())
}

/// The last event up to `head` that was recorded at `then` or before; 0 when there is none. Halves the log again and again.
pub(crate) fn last_before(reader: &Reader<'_>, then: Time, head: Seq) -> Result<Seq> {
    let (mut known, mut end) = (0, head.0);
    while known < end {
        let middle = known + (end - known).div_ceil(2);
        let read = |row: &Row<'_>| Ok((row.get::<u64>(0)?, Time::from_micros(row.get(1)?)));
        match reader.db.query_one(RECORDED_UP_TO, given![rows::place(Seq(middle))], read)? {
            Some((seq, at)) if seq > known && at <= then => known = middle,
            Some((seq, _)) if seq > known => end = seq - 1,
            // Nothing lies between the two.
            _ => known = middle,
        }
    }
    Ok(Seq(known))
}

/// A page of the log before a place, newest first; by id, what begins with it, in the order of ids.
pub(crate) fn log_before(reader: &Reader<'_>, search: &LogSearch, before: Seq, limit: usize) -> Result<Vec<LogLine>> {
    let before = rows::place(before);
    let line = |row: &Row<'_>| {
        Ok(LogLine {
            seq: Seq(row.get(0)?),
            id: row.get(1)?,
            test: row.get(2)?,
            subject: row.get(3)?,
            version: row.get(4)?,
            kind: rows::kind(row.get(5)?),
            priority: rows::priority(row.get(6)?),
            recorded_at: Time::from_micros(row.get(7)?),
            partners: reader.audience(row.get(8)?)?.len(),
            gone: rows::gone(row, 9)?,
        })
    };
    match search {
        LogSearch::All => reader.db.query(LOG_BEFORE, given![before, limit], line),
        LogSearch::Subject(subject) => reader.db.query(LOG_OF_SUBJECT, given![before, limit, subject], line),
        LogSearch::Id(id) => reader.db.query(LOG_BY_ID, given![id, limit, format!("{id}{}", char::MAX)], line),
    }
}

/// The newest events before a place that are for the partner, and the place down to which was looked; 0 when all was.
pub(crate) fn seqs_of_partner(
    reader: &Reader<'_>,
    partner: PartnerNo,
    before: Seq,
    limit: usize,
) -> Result<(Vec<Seq>, Seq)> {
    let (mut found, mut looked, mut reached) = (Vec::new(), 0, before);
    reader.db.walk(AUDIENCES_BEFORE, given![rows::place(before), SCAN_MAX], |row| {
        looked += 1;
        reached = Seq(row.get(0)?);
        if reader.audience(row.get(1)?)?.contains(partner) {
            found.push(reached);
        }
        Ok(found.len() < limit)
    })?;
    let is_end = looked < SCAN_MAX && found.len() < limit;
    Ok((found, if is_end { Seq(0) } else { reached }))
}

/// Lines of the audit trail before a number, newest first.
pub(crate) fn audit_before(reader: &Reader<'_>, before: u64, limit: usize) -> Result<Vec<AuditLine>> {
    let before = i64::try_from(before).unwrap_or(i64::MAX);
    reader.db.query(AUDIT_BEFORE, given![before, limit], registry::audit_line)
}
