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

use super::db::{Db, Row, given};
use super::events::{Audiences, Reader};
use super::holds::Cover;
use super::ledger::entries_of_event;
use super::rows;
use crate::error::StoreError;
use crate::ledger::Word;
use crate::retention::{AttemptPlace, Redaction, Step, Sweep, Swept};

type Result<T> = std::result::Result<T, StoreError>;

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
const PUT_MARK: &str = "insert into retention_mark (what, seq) values (?1, ?2) \
    on conflict (what) do update set seq = excluded.seq";
const LATER: &str = "select seq from retention_later where seq > ?1 order by seq limit ?2";
const PUT_LATER: &str = "insert into retention_later (seq) values (?1) on conflict (seq) do nothing";
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

/// Takes a payload away at once, with what was said about its deliveries. Its digest and its receipts stay.
pub(super) fn redact(db: Db<'_>, redaction: &Redaction) -> Result<()> {
    let Redaction { seq, at, by, reason } = redaction;
    let refused = |why: &str| StoreError::Refused(format!("event {seq} can't be redacted: {why}"));
    let Some(event) = db.query_one(ONE, given![seq.0], read_looked_at)? else {
        return Err(refused("it is not in the log"));
    };
    if Cover::read(db)?.covers(&event.id, &event.subject) {
        return Err(refused("it is under legal hold"));
    }
    if db.execute(REDACT, given![seq.0, at.as_micros(), by, reason])? == 0 {
        return Err(refused("its payload is gone already"));
    }
    let told = format!("redacted: {reason}");
    for sql in [WITHDRAW_DEAD_LETTERS, CLEAR_OPEN] {
        db.execute(sql, given![seq.0, told])?;
    }
    db.execute(CLEAR_ATTEMPTS, given![seq.0])?;
    db.execute(NOT_LATER, given![seq.0])?;
    Ok(())
}

/// Where the lanes of today's partners are.
pub(crate) fn cursors(reader: &Reader<'_>) -> Result<Vec<(PartnerNo, Seq)>> {
    let read = |row: &Row<'_>| Ok((PartnerNo(row.get(0)?), Seq(row.get(1)?)));
    reader.db.query(CURSORS, given![], read)
}

/// Makes one step in the transaction that this is.
pub(crate) fn step(db: Db<'_>, sweep: &Sweep, began: Instant) -> Result<Swept> {
    let mut judge = Judge { db, sweep, cover: Cover::read(db)?, behind: HashMap::new() };
    match sweep.step {
        Step::Later(after) => later(&mut judge, after, began),
        Step::Payloads { test } => payloads(&mut judge, test, began),
        Step::Attempts(after) => attempts(&mut judge, after, began),
        Step::Audit => audit(&judge),
        Step::FreePages => Ok(Swept::default()),
    }
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

fn read_looked_at(row: &Row<'_>) -> Result<LookedAt> {
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
    db: Db<'a>,
    sweep: &'a Sweep,
    cover: Cover,
    /// Of an audience, those whose lanes are not at the log's end, with their cursors.
    behind: HashMap<i64, Vec<(PartnerNo, Seq)>>,
}

impl Judge<'_> {
    fn standing(&mut self, event: &LookedAt) -> Result<Standing> {
        let seq = event.seq;
        let has = |sql| self.db.query_one(sql, given![seq.0], |_| Ok(())).map(|found| found.is_some());
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
            let audience = Reader { db: self.db, audiences: &Audiences::default() }.audience(event.audience)?;
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
        for entry in entries_of_event(self.db, seq)? {
            if entry.round == 0 && entry.word == Word::Ack {
                known.insert(entry.partner);
            }
        }
        known.extend(self.db.query(FIRST_SENDINGS, given![seq.0], |row| Ok(PartnerNo(row.get(0)?)))?);
        Ok(waiting.iter().any(|partner| !known.contains(partner)))
    }

    fn judge_payload(&mut self, event: &LookedAt) -> Result<Verdict> {
        let standing = self.standing(event)?;
        Ok(self.sweep.keep.judge_payload(&standing, self.sweep.now))
    }

    fn expire(&self, seq: Seq, swept: &mut Swept) -> Result<()> {
        self.db.execute(EXPIRE, given![seq.0, self.sweep.now.as_micros()])?;
        swept.removed += 1;
        swept.expired.push(seq);
        Ok(())
    }

    fn one(&self, seq: Seq) -> Result<Option<LookedAt>> {
        self.db.query_one(ONE, given![rows::place(seq)], read_looked_at)
    }
}

/// Looks again at what was needed when its time came.
fn later(judge: &mut Judge<'_>, after: Seq, began: Instant) -> Result<Swept> {
    let (db, sweep) = (judge.db, judge.sweep);
    let mut swept = Swept::default();
    let seqs = db.query(LATER, given![after.0, sweep.rows_max], |row| Ok(Seq(row.get(0)?)))?;
    for seq in &seqs {
        let event = judge.one(*seq)?.filter(|event| !event.is_gone);
        let verdict = event.map(|event| judge.judge_payload(&event)).transpose()?;
        if verdict == Some(Verdict::Due) {
            judge.expire(*seq, &mut swept)?;
        }
        if verdict.is_none_or(|verdict| verdict == Verdict::Due) {
            db.execute(NOT_LATER, given![seq.0])?;
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
    let (db, sweep) = (judge.db, judge.sweep);
    let what = if test { "tests" } else { "events" };
    let mark: u64 = db.query_one(MARK, given![what], |row| row.get(0))?.unwrap_or(0);
    let mut swept = Swept { next: Some(sweep.step), ..Swept::default() };
    let mut reached = mark;
    let mut count = 0;
    db.walk(TO_LOOK_AT, given![mark, sweep.rows_max], |row| {
        let event = read_looked_at(row)?;
        // The age comes first: what is too young is not worth three questions, nor is what comes after it.
        let bare =
            Standing { test, recorded_at: event.recorded_at, is_held: false, is_open: false, has_dead_letter: false };
        if sweep.keep.judge_payload(&bare, sweep.now) == Verdict::Young {
            swept.next = None;
            return Ok(false);
        }
        if event.test == test && !event.is_gone {
            match judge.judge_payload(&event)? {
                Verdict::Due => judge.expire(event.seq, &mut swept)?,
                Verdict::Young | Verdict::Needed => {
                    db.execute(PUT_LATER, given![event.seq.0])?;
                }
            }
        }
        reached = event.seq.0;
        count += 1;
        Ok(count % ROWS_PER_LOOK != 0 || began.elapsed() < sweep.time_max)
    })?;
    if reached == mark {
        swept.next = None;
    } else {
        db.execute(PUT_MARK, given![what, reached])?;
    }
    Ok(swept)
}

/// Goes on along the attempts, which lie in the order of the log; those that may go lie in runs.
fn attempts(judge: &mut Judge<'_>, after: AttemptPlace, began: Instant) -> Result<Swept> {
    let (db, sweep) = (judge.db, judge.sweep);
    let mut swept = Swept { next: Some(sweep.step), ..Swept::default() };
    let limit = sweep.rows_max;
    let (seq, at) = (rows::place(after.seq), after.at.as_micros());
    let given = given![seq, after.partner.0, after.round, after.number, at, limit];
    let places = db.query(ATTEMPTS_AFTER, given, read_attempt)?;
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
            delete_attempts(db, run)?;
        }
        swept.next = Some(Step::Attempts(*place));
    }
    if let Some(run) = run {
        delete_attempts(db, run)?;
    }
    if is_end {
        swept.next = None;
    }
    Ok(swept)
}

fn read_attempt(row: &Row<'_>) -> Result<AttemptPlace> {
    Ok(AttemptPlace {
        seq: Seq(row.get(0)?),
        partner: PartnerNo(row.get(1)?),
        round: row.get(2)?,
        number: row.get(3)?,
        at: Time::from_micros(row.get(4)?),
    })
}

fn delete_attempts(db: Db<'_>, (first, last): (AttemptPlace, AttemptPlace)) -> Result<()> {
    db.execute(
        DELETE_ATTEMPTS,
        given![
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
        ],
    )?;
    Ok(())
}

/// The oldest lines of the audit trail, up to the first that stays.
fn audit(judge: &Judge<'_>) -> Result<Swept> {
    let sweep = judge.sweep;
    let has_holds = !judge.cover.is_empty();
    let (mut last, mut count, mut has_more) = (None, 0, false);
    judge.db.walk(OLDEST_AUDIT, given![sweep.rows_max], |row| {
        has_more = sweep.keep.judge_audit(Time::from_micros(row.get(1)?), has_holds, sweep.now) == Verdict::Due;
        if has_more {
            last = Some(row.get::<i64>(0)?);
            count += 1;
        }
        Ok(has_more)
    })?;
    if let Some(last) = last {
        judge.db.execute(DELETE_AUDIT, given![last])?;
    }
    Ok(Swept { removed: count, next: has_more.then_some(Step::Audit), ..Swept::default() })
}
