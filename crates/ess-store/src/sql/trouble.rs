//! What is wrong with a partner, in a few short questions, and what Ops were told of it.
//!
//! Every question is bounded: what a partner's backlog is does not matter to what a look at it costs.

use ess_core::id::{PartnerNo, Seq};
use ess_core::time::Time;
use uuid::Uuid;

use super::db::{Db, Row, given};
use super::events::Reader;
use super::rows;
use crate::error::StoreError;
use crate::look::StoredTelling;
use crate::types::{FoundTrouble, PartnerTroubles, StoredEscalation};

type Result<T> = std::result::Result<T, StoreError>;

/// Deliveries of a kind that are looked at; what is more is said to be more.
const COUNT_MAX: u64 = 1_000;

pub(super) const BLOCKED: &str = "select o.seq, o.round, o.message, o.priority, o.reason, o.mend, e.id, e.recorded_at \
    from open_delivery o indexed by open_delivery_blocked join event e on e.seq = o.seq \
    where o.partner = ?1 and o.state = 'blocked' and o.test = 0 order by o.seq, o.round limit ?2";
pub(super) const OUTSTANDING: &str = "select o.seq, o.round, o.message, o.priority, o.reason, o.mend, e.id, e.recorded_at \
    from open_delivery o indexed by open_delivery_outstanding join event e on e.seq = o.seq \
    where o.partner = ?1 and o.state = 'awaiting_ack' and o.due_at is null and o.test = 0 \
    order by o.seq, o.round limit ?2";
pub(super) const OPEN: &str = "select o.seq, o.round, o.message, o.priority, o.reason, o.mend, e.id, e.recorded_at \
    from open_delivery o join event e on e.seq = o.seq \
    where o.partner = ?1 and o.test = 0 order by o.seq, o.round limit ?2";
pub(super) const URGENT: &str = "select o.seq, o.round, o.message, o.priority, o.reason, o.mend, e.id, e.recorded_at \
    from open_delivery o indexed by open_delivery_urgent join event e on e.seq = o.seq \
    where o.partner = ?1 and o.priority = 1 and o.test = 0 order by o.seq, o.round limit ?2";
pub(super) const DEAD: &str = "select d.seq, d.round, null, e.priority, d.reason, null, e.id, d.at \
    from ended_delivery d indexed by ended_delivery_partner join event e on e.seq = d.seq \
    where d.partner = ?1 and d.state in ('dead', 'nack') and d.test = 0 order by d.seq, d.round limit ?2";
/// With whether there is anything to find: of most partners there is not, and that ends the look.
const HEALTH: &str = "select l.offline_since, l.gave_up_at, \
    case when exists (select 1 from open_delivery o where o.partner = ?1) then 1 else 0 end, \
    case when exists (select 1 from ended_delivery d where d.partner = ?1 and d.state in ('dead', 'nack') and d.test = 0) \
    then 1 else 0 end from (select 1) one left join lane l on l.partner = ?1";
const EVENT: &str = "select id, recorded_at, priority from event where seq = ?1";
const RECORDED_AT: &str = "select seq, recorded_at from event where seq >= ?1 order by seq limit 1";
const BOUNDS: &str = "select coalesce(min(seq), 0), coalesce(max(seq), 0) from event";
const LAST_PAUSE: &str = "select actor, reason from audit where act = 'partner.pause' and object = ?1 \
    order by number desc limit 1";
const ALL: &str = "select partner, cause, target, told_at, since, urgent from escalation";
const PUT: &str = "insert into escalation (partner, cause, target, told_at, since, urgent) \
    values (?1, ?2, ?3, ?4, ?5, ?6) on conflict (partner, cause, target) \
    do update set told_at = excluded.told_at, since = excluded.since, urgent = excluded.urgent";
const TELL: &str = "insert into telling (at, partner, cause, target, is_end, urgent) values (?1, ?2, ?3, ?4, ?5, ?6)";
const FORGET: &str = "delete from telling where number <= (select max(number) from telling) - ?1";
pub(super) const TELLINGS_BEFORE: &str = "select number, at, partner, cause, target, is_end, urgent from telling \
    where number < ?1 order by number desc limit ?2";
/// What Ops were told is kept so far back.
const TELLINGS_MAX: i64 = 10_000;
const REMOVE: &str = "delete from escalation where partner = ?1 and cause = ?2 and target = ?3";

/// What is wrong with a partner.
pub(crate) fn troubles(reader: &Reader<'_>, partner: PartnerNo, pending: [Option<Seq>; 2]) -> Result<PartnerTroubles> {
    let db = reader.db;
    let read = |row: &Row<'_>| {
        Ok((rows::time(row, 0)?, rows::time(row, 1)?, row.get::<i64>(2)? == 1, row.get::<i64>(3)? == 1))
    };
    let (offline_since, gave_up_at, has_open, has_dead) = db.query_row(HEALTH, given![partner.0], read)?;
    let of_open = |sql| if has_open { found(db, sql, partner) } else { Ok(None) };
    let [pending, pending_urgent] = pending;
    let mut open = of_open(OPEN)?;
    if let Some((id, recorded_at, urgent)) = pending.map(|seq| event(db, seq)).transpose()?.flatten() {
        // Where there is one without a record there may be others.
        let known = open.get_or_insert(FoundTrouble {
            count: 0,
            has_more: true,
            oldest: id.clone(),
            since: recorded_at,
            reason: None,
            mend: None,
            urgent: false,
        });
        known.count += 1;
        known.has_more = true;
        known.urgent |= urgent;
        if recorded_at < known.since {
            (known.since, known.oldest) = (recorded_at, id);
        }
    }
    let urgent = of_open(URGENT)?.map(|found| found.since);
    let pending_urgent = pending_urgent.map(|seq| event(db, seq)).transpose()?.flatten();
    Ok(PartnerTroubles {
        blocked: of_open(BLOCKED)?,
        dead: if has_dead { found(db, DEAD, partner)? } else { None },
        outstanding: of_open(OUTSTANDING)?,
        open,
        open_urgent_since: urgent.into_iter().chain(pending_urgent.map(|(_, at, _)| at)).min(),
        offline_since,
        gave_up_at,
    })
}

fn found(db: Db<'_>, sql: &'static str, partner: PartnerNo) -> Result<Option<FoundTrouble>> {
    let mut found: Option<FoundTrouble> = None;
    db.walk(sql, given![partner.0, COUNT_MAX + 1], |row| {
        let since = since(row)?;
        let known = match &mut found {
            Some(known) => known,
            None => found.insert(FoundTrouble {
                count: 0,
                has_more: false,
                oldest: row.get(6)?,
                since,
                reason: None,
                mend: None,
                urgent: false,
            }),
        };
        if known.count == COUNT_MAX {
            known.has_more = true;
            return Ok(false);
        }
        known.count += 1;
        known.urgent |= row.get::<i64>(3)? == 1;
        if since < known.since {
            (known.since, known.oldest) = (since, row.get(6)?);
        }
        if let Some(reason) = row.get(4)? {
            known.reason = Some(reason);
            known.mend = row.get(5)?;
        }
        Ok(true)
    })?;
    Ok(found)
}

/// A replay is as old as its own message id (UUID version 7 holds its time), not as its event.
fn since(row: &Row<'_>) -> Result<Time> {
    let recorded_at: i64 = row.get(7)?;
    let replayed_at = row.get::<Option<Uuid>>(2)?.and_then(|uuid| uuid.get_timestamp()).map(|timestamp| {
        let (seconds, nanos) = timestamp.to_unix();
        i64::try_from(seconds).unwrap_or(0).saturating_mul(1_000_000) + i64::from(nanos / 1_000)
    });
    Ok(Time::from_micros(replayed_at.unwrap_or(recorded_at)))
}

fn event(db: Db<'_>, seq: Seq) -> Result<Option<(String, Time, bool)>> {
    let read = |row: &Row<'_>| Ok((row.get(0)?, Time::from_micros(row.get(1)?), row.get::<i64>(2)? == 1));
    db.query_one(EVENT, given![seq.0], read)
}

/// The last event recorded at this time or before: the log is in the order of time, so it is found by halving.
pub(crate) fn newest_at(reader: &Reader<'_>, time: Time) -> Result<Seq> {
    let (first, last): (u64, u64) = reader.db.query_row(BOUNDS, given![], |row| Ok((row.get(0)?, row.get(1)?)))?;
    // Everything up to `low` was recorded at the time or before; nothing from `high` on was.
    let (mut low, mut high) = (first.saturating_sub(1), last + 1);
    while high - low > 1 {
        let middle = low + (high - low) / 2;
        let (seq, at): (u64, i64) =
            reader.db.query_row(RECORDED_AT, given![middle], |row| Ok((row.get(0)?, row.get(1)?)))?;
        if at <= time.as_micros() {
            low = seq;
        } else {
            high = middle;
        }
    }
    Ok(Seq(low))
}

pub(crate) fn last_pause(reader: &Reader<'_>, partner: &str) -> Result<Option<(String, Option<String>)>> {
    let read = |row: &Row<'_>| Ok((row.get(0)?, row.get(1)?));
    reader.db.query_one(LAST_PAUSE, given![partner], read)
}

pub(crate) fn all(db: Db<'_>) -> Result<Vec<StoredEscalation>> {
    let read = |row: &Row<'_>| {
        Ok(StoredEscalation {
            partner: PartnerNo(row.get(0)?),
            cause: row.get(1)?,
            target: row.get(2)?,
            told_at: Time::from_micros(row.get(3)?),
            since: Time::from_micros(row.get(4)?),
            urgent: row.get(5)?,
        })
    };
    db.query(ALL, given![], read)
}

pub(super) fn put(db: Db<'_>, told: &StoredEscalation) -> Result<()> {
    let (told_at, since) = (told.told_at.as_micros(), told.since.as_micros());
    db.execute(PUT, given![told.partner.0, told.cause, told.target, told_at, since, told.urgent])?;
    let is_end = false;
    note(db, told, is_end)
}

pub(super) fn remove(db: Db<'_>, told: &StoredEscalation) -> Result<()> {
    db.execute(REMOVE, given![told.partner.0, told.cause, told.target])?;
    let is_end = true;
    note(db, told, is_end)
}

fn note(db: Db<'_>, told: &StoredEscalation, is_end: bool) -> Result<()> {
    let told_at = told.told_at.as_micros();
    db.execute(TELL, given![told_at, told.partner.0, told.cause, told.target, is_end, told.urgent])?;
    db.execute(FORGET, given![TELLINGS_MAX])?;
    Ok(())
}

/// What Ops were told before a number, newest first.
pub(crate) fn tellings_before(reader: &Reader<'_>, before: u64, limit: usize) -> Result<Vec<StoredTelling>> {
    let read = |row: &Row<'_>| {
        Ok(StoredTelling {
            number: row.get(0)?,
            at: Time::from_micros(row.get(1)?),
            partner: PartnerNo(row.get(2)?),
            cause: row.get(3)?,
            target: row.get(4)?,
            is_end: row.get(5)?,
            urgent: row.get(6)?,
        })
    };
    let before = i64::try_from(before).unwrap_or(i64::MAX);
    reader.db.query(TELLINGS_BEFORE, given![before, limit], read)
}
