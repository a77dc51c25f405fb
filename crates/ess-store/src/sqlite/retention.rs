//! Retention in bounded steps, legal holds and redaction: what goes, row by row, and what has to stay.
//!
//! A step is a transaction of its own on the writer's connection. It asks for each event, in the same transaction, whether somebody
//! may still need it; what lanes wrote before is seen, so nothing open can be missed. It is committed without an fsync: a step that
//! a crash forgets is made again. The ledger is never touched, and of an event the payload goes, never the row.

use std::collections::{HashMap, HashSet};
use std::time::Instant;

use ess_core::id::{PartnerNo, Seq};
use ess_core::retention::{Standing, Verdict};
use ess_core::time::Time;
use rusqlite::{Connection, OptionalExtension as _, Row, Transaction, TransactionBehavior, params};

use super::events::{Audiences, Reader};
use super::holds::Cover;
use super::ledger::entries_of_event;
use super::rows;
use crate::error::StoreError;
use crate::ledger::Word;
use crate::retention::{AttemptPlace, Redaction, Step, Sweep, Swept};

type Result<T> = std::result::Result<T, StoreError>;

/// Free pages that are kept for what comes next: 1 MiB, or a part of the file.
const FREE_PAGES_KEPT: u64 = 256;
const FREE_PART_KEPT: u64 = 50;
/// Rows between two looks at the clock.
const ROWS_PER_LOOK: usize = 16;

pub(super) const CURSORS: &str =
    "select partner, cursor from lane where partner in (select no from partner where removed_at is null)";
pub(super) const TO_LOOK_AT: &str = "select seq, id, subject, test, recorded_at, audience, gone_at from event \
    where seq > ?1 order by seq limit ?2";
pub(super) const ONE: &str = "select seq, id, subject, test, recorded_at, audience, gone_at from event where seq = ?1";
pub(super) const HAS_OPEN: &str = "select 1 from open_delivery where seq = ?1 \
    and partner in (select no from partner where removed_at is null) limit 1";
pub(super) const HAS_DEAD_LETTER: &str =
    "select 1 from ended_delivery where seq = ?1 and state in ('dead', 'nack') and test = 0 limit 1";
pub(super) const FIRST_SENDINGS: &str = "select partner from open_delivery where seq = ?1 and round = 0 \
    union all select partner from ended_delivery where seq = ?1 and round = 0";
const EXPIRE: &str = "update event set payload = 'null', rest = '{}', gone_at = ?2 where seq = ?1 and gone_at is null";
const MARK: &str = "select seq from retention_mark where what = ?1";
const PUT_MARK: &str = "insert or replace into retention_mark (what, seq) values (?1, ?2)";
const LATER: &str = "select seq from retention_later where seq > ?1 order by seq limit ?2";
const PUT_LATER: &str = "insert or ignore into retention_later (seq) values (?1)";
const NOT_LATER: &str = "delete from retention_later where seq = ?1";
pub(super) const ATTEMPTS_AFTER: &str = "select seq, partner, round, number, at from attempt \
    where (seq, partner, round, number, at) > (?1, ?2, ?3, ?4, ?5) order by seq, partner, round, number, at limit ?6";
pub(super) const DELETE_ATTEMPTS: &str = "delete from attempt \
    where (seq, partner, round, number, at) >= (?1, ?2, ?3, ?4, ?5) \
    and (seq, partner, round, number, at) <= (?6, ?7, ?8, ?9, ?10)";
const OLDEST_AUDIT: &str = "select number, at from audit order by number limit ?1";
const DELETE_AUDIT: &str = "delete from audit where number <= ?1";
const REDACT: &str = "update event set payload = 'null', gone_at = ?2, gone_by = ?3, gone_why = ?4 \
    where seq = ?1 and gone_at is null";
// What the partner or a script said may quote the payload.
const WITHDRAW_DEAD_LETTERS: &str = "update ended_delivery set state = 'cancelled', reason = ?2 \
    where seq = ?1 and state in ('dead', 'nack')";
const CLEAR_OPEN: &str = "update open_delivery set reason = ?2, mend = null where seq = ?1";
const CLEAR_ATTEMPTS: &str = "update attempt set reason = '' where seq = ?1 and reason <> ''";

/// Makes one step.
pub(super) fn sweep(db: &mut Connection, sweep: &Sweep) -> Result<Swept> {
    let began = Instant::now();
    let mut swept = match sweep.step {
        Step::FreePages => free_pages(db, sweep, began)?,
        _ => {
            // The next commit's fsync takes this one along; without one before a crash the step was never made.
            db.pragma_update(None, "synchronous", "normal")?;
            let swept = in_transaction(db, sweep, began);
            db.pragma_update(None, "synchronous", "full")?;
            swept?
        }
    };
    swept.took = began.elapsed();
    Ok(swept)
}

/// Moves the whole log into the database and empties its file; false while somebody reads from it.
pub(super) fn wipe_log(db: &Connection) -> Result<bool> {
    db.busy_timeout(std::time::Duration::ZERO)?;
    let busy: rusqlite::Result<i64> = db.query_row("pragma wal_checkpoint(truncate)", [], |row| row.get(0));
    db.busy_timeout(super::BUSY)?;
    match busy {
        Ok(busy) => Ok(busy == 0),
        Err(rusqlite::Error::SqliteFailure(failure, _)) if failure.code == rusqlite::ErrorCode::DatabaseBusy => {
            Ok(false)
        }
        Err(error) => Err(error.into()),
    }
}

/// Takes a payload away at once, with what was said about its deliveries. Its digest and its receipts stay.
pub(super) fn redact(tx: &Transaction<'_>, redaction: &Redaction) -> Result<()> {
    let Redaction { seq, at, by, reason } = redaction;
    let refused = |why: &str| StoreError::Refused(format!("event {seq} can't be redacted: {why}"));
    let Some(event) = tx.prepare_cached(ONE)?.query_row(params![seq.0], read_looked_at).optional()? else {
        return Err(refused("it is not in the log"));
    };
    if Cover::read(tx)?.covers(&event.id, &event.subject) {
        return Err(refused("it is under legal hold"));
    }
    if tx.prepare_cached(REDACT)?.execute(params![seq.0, at.as_micros(), by, reason])? == 0 {
        return Err(refused("its payload is gone already"));
    }
    let told = format!("redacted: {reason}");
    for sql in [WITHDRAW_DEAD_LETTERS, CLEAR_OPEN] {
        tx.prepare_cached(sql)?.execute(params![seq.0, told])?;
    }
    tx.prepare_cached(CLEAR_ATTEMPTS)?.execute(params![seq.0])?;
    tx.prepare_cached(NOT_LATER)?.execute(params![seq.0])?;
    Ok(())
}

/// Where the lanes of today's partners are.
pub(crate) fn cursors(reader: &Reader<'_>) -> Result<Vec<(PartnerNo, Seq)>> {
    let mut statement = reader.db.prepare_cached(CURSORS)?;
    let read = |row: &Row<'_>| Ok((PartnerNo(row.get(0)?), Seq(row.get(1)?)));
    Ok(statement.query_map([], read)?.collect::<rusqlite::Result<_>>()?)
}

fn in_transaction(db: &mut Connection, sweep: &Sweep, began: Instant) -> Result<Swept> {
    let tx = db.transaction_with_behavior(TransactionBehavior::Immediate)?;
    let mut judge = Judge { tx: &tx, sweep, cover: Cover::read(&tx)?, behind: HashMap::new() };
    let swept = match sweep.step {
        Step::Later(after) => later(&mut judge, after, began)?,
        Step::Payloads { test } => payloads(&mut judge, test, began)?,
        Step::Attempts(after) => attempts(&mut judge, after, began)?,
        Step::Audit => audit(&judge)?,
        Step::FreePages => Swept::default(),
    };
    tx.commit()?;
    Ok(swept)
}

/// The part of an event's row that is looked at.
struct LookedAt {
    seq: Seq,
    id: String,
    subject: String,
    test: bool,
    recorded_at: Time,
    audience: i64,
    is_gone: bool,
}

fn read_looked_at(row: &Row<'_>) -> rusqlite::Result<LookedAt> {
    Ok(LookedAt {
        seq: Seq(row.get(0)?),
        id: row.get(1)?,
        subject: row.get(2)?,
        test: row.get(3)?,
        recorded_at: Time::from_micros(row.get(4)?),
        audience: row.get(5)?,
        is_gone: rows::time(row, 6)?.is_some(),
    })
}

/// Finds out what is known of an event.
struct Judge<'a> {
    tx: &'a Transaction<'a>,
    sweep: &'a Sweep,
    cover: Cover,
    /// Of an audience, those whose lanes are not at the log's end, with their cursors.
    behind: HashMap<i64, Vec<(PartnerNo, Seq)>>,
}

impl Judge<'_> {
    fn standing(&mut self, event: &LookedAt) -> Result<Standing> {
        let seq = event.seq;
        let has = |sql: &str| -> Result<bool> {
            Ok(self.tx.prepare_cached(sql)?.query_row(params![seq.0], |_| Ok(())).optional()?.is_some())
        };
        let is_open = has(HAS_OPEN)?;
        let has_dead_letter = has(HAS_DEAD_LETTER)?;
        Ok(Standing {
            test: event.test,
            recorded_at: event.recorded_at,
            is_held: self.cover.covers(&event.id, &event.subject),
            is_open: is_open || self.is_pending(event)?,
            has_dead_letter,
        })
    }

    /// Whether it lies past the cursor of a partner that it is for and that has neither acknowledged it nor has a row of it.
    fn is_pending(&mut self, event: &LookedAt) -> Result<bool> {
        let seq = event.seq;
        if !self.behind.contains_key(&event.audience) {
            // What this transaction sees may be rolled back: it is not remembered.
            let audience = Reader { db: self.tx, audiences: &Audiences::default() }.audience(event.audience)?;
            let behind = self.sweep.cursors.iter().filter(|(partner, _)| audience.contains(*partner)).copied();
            self.behind.insert(event.audience, behind.collect());
        }
        let behind = &self.behind[&event.audience];
        let waiting: Vec<PartnerNo> =
            behind.iter().filter(|(_, cursor)| *cursor < seq).map(|(partner, _)| *partner).collect();
        if waiting.is_empty() {
            return Ok(false);
        }
        let mut known: HashSet<PartnerNo> = HashSet::new();
        for entry in entries_of_event(self.tx, seq)? {
            if entry.round == 0 && entry.word == Word::Ack {
                known.insert(entry.partner);
            }
        }
        let mut statement = self.tx.prepare_cached(FIRST_SENDINGS)?;
        for partner in statement.query_map(params![seq.0], |row| Ok(PartnerNo(row.get(0)?)))? {
            known.insert(partner?);
        }
        Ok(waiting.iter().any(|partner| !known.contains(partner)))
    }

    fn judge_payload(&mut self, event: &LookedAt) -> Result<Verdict> {
        let standing = self.standing(event)?;
        Ok(self.sweep.keep.judge_payload(&standing, self.sweep.now))
    }

    fn expire(&self, seq: Seq, swept: &mut Swept) -> Result<()> {
        self.tx.prepare_cached(EXPIRE)?.execute(params![seq.0, self.sweep.now.as_micros()])?;
        swept.removed += 1;
        swept.expired.push(seq);
        Ok(())
    }

    fn one(&self, seq: Seq) -> Result<Option<LookedAt>> {
        Ok(self.tx.prepare_cached(ONE)?.query_row(params![rows::place(seq)], read_looked_at).optional()?)
    }
}

/// Looks again at what was needed when its time came.
fn later(judge: &mut Judge<'_>, after: Seq, began: Instant) -> Result<Swept> {
    let (tx, sweep) = (judge.tx, judge.sweep);
    let mut swept = Swept::default();
    let mut statement = tx.prepare_cached(LATER)?;
    let read = |row: &Row<'_>| Ok(Seq(row.get(0)?));
    let seqs: Vec<Seq> =
        statement.query_map(params![after.0, sweep.rows_max], read)?.collect::<rusqlite::Result<_>>()?;
    for seq in &seqs {
        let event = judge.one(*seq)?.filter(|event| !event.is_gone);
        let verdict = event.map(|event| judge.judge_payload(&event)).transpose()?;
        if verdict == Some(Verdict::Due) {
            judge.expire(*seq, &mut swept)?;
        }
        if verdict.is_none_or(|verdict| verdict == Verdict::Due) {
            tx.prepare_cached(NOT_LATER)?.execute(params![seq.0])?;
        }
        swept.next = Some(Step::Later(*seq));
        if began.elapsed() >= sweep.time_max {
            return Ok(swept);
        }
    }
    if seqs.len() < sweep.rows_max {
        swept.next = None;
    }
    Ok(swept)
}

/// Goes on along the log, up to what is too young.
fn payloads(judge: &mut Judge<'_>, test: bool, began: Instant) -> Result<Swept> {
    let (tx, sweep) = (judge.tx, judge.sweep);
    let what = if test { "tests" } else { "events" };
    let mark: u64 = tx.prepare_cached(MARK)?.query_row(params![what], |row| row.get(0)).optional()?.unwrap_or(0);
    let mut swept = Swept { next: Some(sweep.step), ..Swept::default() };
    let mut reached = mark;
    let mut statement = tx.prepare_cached(TO_LOOK_AT)?;
    let mut rows = statement.query(params![mark, sweep.rows_max])?;
    let mut count = 0;
    while let Some(row) = rows.next()? {
        let event = read_looked_at(row)?;
        // The age comes first: what is too young is not worth three questions, nor is what comes after it.
        let bare =
            Standing { test, recorded_at: event.recorded_at, is_held: false, is_open: false, has_dead_letter: false };
        if sweep.keep.judge_payload(&bare, sweep.now) == Verdict::Young {
            swept.next = None;
            break;
        }
        if event.test == test && !event.is_gone {
            match judge.judge_payload(&event)? {
                Verdict::Due => judge.expire(event.seq, &mut swept)?,
                Verdict::Young | Verdict::Needed => {
                    tx.prepare_cached(PUT_LATER)?.execute(params![event.seq.0])?;
                }
            }
        }
        reached = event.seq.0;
        count += 1;
        if count % ROWS_PER_LOOK == 0 && began.elapsed() >= sweep.time_max {
            break;
        }
    }
    if reached == mark {
        swept.next = None;
    } else {
        tx.prepare_cached(PUT_MARK)?.execute(params![what, reached])?;
    }
    Ok(swept)
}

/// Goes on along the attempts, which lie in the order of the log; those that may go lie in runs.
fn attempts(judge: &mut Judge<'_>, after: AttemptPlace, began: Instant) -> Result<Swept> {
    let (tx, sweep) = (judge.tx, judge.sweep);
    let mut swept = Swept { next: Some(sweep.step), ..Swept::default() };
    let mut statement = tx.prepare_cached(ATTEMPTS_AFTER)?;
    let limit = sweep.rows_max;
    let given =
        params![rows::place(after.seq), after.partner.0, after.round, after.number, after.at.as_micros(), limit];
    let places: Vec<AttemptPlace> = statement.query_map(given, read_attempt)?.collect::<rusqlite::Result<_>>()?;
    let mut known: Option<(Seq, Standing)> = None;
    let mut run: Option<(AttemptPlace, AttemptPlace)> = None;
    let mut is_end = places.len() < limit;
    for (count, place) in places.iter().enumerate() {
        if count % ROWS_PER_LOOK == ROWS_PER_LOOK - 1 && began.elapsed() >= sweep.time_max {
            is_end = false;
            break;
        }
        let standing = match known {
            Some((seq, standing)) if seq == place.seq => standing,
            _ => {
                let Some(event) = judge.one(place.seq)? else {
                    return Err(StoreError::Damaged(format!(
                        "attempts of event {}, which is not in the log",
                        place.seq
                    )));
                };
                if !sweep.keep.has_old_attempts(event.recorded_at, sweep.now) {
                    is_end = true;
                    break;
                }
                let standing = judge.standing(&event)?;
                known = Some((place.seq, standing));
                standing
            }
        };
        if sweep.keep.judge_attempt(&standing, place.at, sweep.now) == Verdict::Due {
            run = Some((run.map_or(*place, |(first, _)| first), *place));
            swept.removed += 1;
        } else if let Some(run) = run.take() {
            delete_attempts(tx, run)?;
        }
        swept.next = Some(Step::Attempts(*place));
    }
    if let Some(run) = run {
        delete_attempts(tx, run)?;
    }
    if is_end {
        swept.next = None;
    }
    Ok(swept)
}

fn read_attempt(row: &Row<'_>) -> rusqlite::Result<AttemptPlace> {
    Ok(AttemptPlace {
        seq: Seq(row.get(0)?),
        partner: PartnerNo(row.get(1)?),
        round: row.get(2)?,
        number: row.get(3)?,
        at: Time::from_micros(row.get(4)?),
    })
}

fn delete_attempts(tx: &Transaction<'_>, (first, last): (AttemptPlace, AttemptPlace)) -> Result<()> {
    tx.prepare_cached(DELETE_ATTEMPTS)?.execute(params![
        first.seq.0,
        first.partner.0,
        first.round,
        first.number,
        first.at.as_micros(),
        last.seq.0,
        last.partner.0,
        last.round,
        last.number,
        last.at.as_micros(),
    ])?;
    Ok(())
}

/// The oldest lines of the audit trail, up to the first that stays.
fn audit(judge: &Judge<'_>) -> Result<Swept> {
    let sweep = judge.sweep;
    let has_holds = !judge.cover.is_empty();
    let mut statement = judge.tx.prepare_cached(OLDEST_AUDIT)?;
    let mut rows = statement.query(params![sweep.rows_max])?;
    let (mut last, mut count, mut has_more) = (None, 0, false);
    while let Some(row) = rows.next()? {
        has_more = sweep.keep.judge_audit(Time::from_micros(row.get(1)?), has_holds, sweep.now) == Verdict::Due;
        if !has_more {
            break;
        }
        last = Some(row.get::<_, i64>(0)?);
        count += 1;
    }
    if let Some(last) = last {
        judge.tx.prepare_cached(DELETE_AUDIT)?.execute(params![last])?;
    }
    Ok(Swept { removed: count, next: has_more.then_some(Step::Audit), ..Swept::default() })
}

/// Moves pages from the file's end into free ones. A file that was made before this was known has to be copied for it once.
fn free_pages(db: &Connection, sweep: &Sweep, began: Instant) -> Result<Swept> {
    let number = |sql: &str| db.query_row(sql, [], |row| row.get::<_, u64>(0));
    let (free, pages) = (number("pragma freelist_count")?, number("pragma page_count")?);
    let is_incremental = number("pragma auto_vacuum")? == 2;
    if !is_incremental || free <= FREE_PAGES_KEPT.max(pages / FREE_PART_KEPT) {
        return Ok(Swept { gives_back: is_incremental, ..Swept::default() });
    }
    let mut statement = db.prepare(&format!("pragma incremental_vacuum({})", sweep.rows_max))?;
    let mut rows = statement.query([])?;
    let mut removed = 0;
    // Each row is a page.
    while rows.next()?.is_some() {
        removed += 1;
        if (removed as usize).is_multiple_of(ROWS_PER_LOOK) && began.elapsed() >= sweep.time_max {
            break;
        }
    }
    Ok(Swept { removed, next: Some(Step::FreePages), gives_back: false, ..Swept::default() })
}
