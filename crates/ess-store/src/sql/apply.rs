//! Outcomes to rows, in the order in which they were handed over; ACKs and NACKs to the ledger.

use std::collections::{BTreeMap, HashMap};

use ess_core::delivery::{DeliveryKey, State};
use ess_core::id::{Digest, PartnerNo, Seq, Version};
use ess_core::lane::{Health, OpenDelivery, Tried};
use ess_core::receipt::Evidence;
use ess_core::time::Time;

use super::changed_rows::{ChangedRows, Ended};
use super::commit::Mode;
use super::db::{Cell, Db};
use super::ledger::entries_of_event;
use super::{Heads, Work, rows};
use crate::error::StoreError;
use crate::ledger::{Entry, Pack, Word, decode_all};
use crate::types::{AckReceipt, Change};

type Result<T> = std::result::Result<T, StoreError>;

/// How far ahead of an ACK `lane.reached` is put: that row is written once in so many events, not for each ACK.
const REACH: u64 = 4_096;

pub(super) const UPSERT_OPEN: &str = "insert into open_delivery \
    (partner, seq, round, subject, test, kind, priority, state, attempts, resends, due_at, first_failed_at, \
     partner_seq, reason, mend, message, sent_version, sent_digest, sent_scripts, fallback_at) \
    values (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, ?16, ?17, ?18, ?19, ?20) on conflict (partner, seq, round) \
    do update set subject = excluded.subject, test = excluded.test, kind = excluded.kind, \
    priority = excluded.priority, state = excluded.state, attempts = excluded.attempts, \
    resends = excluded.resends, due_at = excluded.due_at, first_failed_at = excluded.first_failed_at, \
    partner_seq = excluded.partner_seq, reason = excluded.reason, mend = excluded.mend, \
    message = excluded.message, sent_version = excluded.sent_version, sent_digest = excluded.sent_digest, \
    sent_scripts = excluded.sent_scripts, fallback_at = excluded.fallback_at";
const DELETE_OPEN: &str = "delete from open_delivery where partner = ?1 and seq = ?2 and round = ?3";
pub(super) const INSERT_ENDED: &str = "insert into ended_delivery \
    (partner, seq, round, test, state, at, reason, attempts, partner_seq, message, sent_version, sent_digest) \
    values (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12) on conflict (partner, seq, round) \
    do update set test = excluded.test, state = excluded.state, at = excluded.at, reason = excluded.reason, \
    attempts = excluded.attempts, partner_seq = excluded.partner_seq, message = excluded.message, \
    sent_version = excluded.sent_version, sent_digest = excluded.sent_digest";
const DELETE_ENDED: &str = "delete from ended_delivery where partner = ?1 and seq = ?2 and round = ?3";
pub(super) const INSERT_ATTEMPT: &str = "insert into attempt \
    (seq, partner, round, number, at, took, status, outcome, reason) values (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9) \
    on conflict (seq, partner, round, number, at) \
    do update set took = excluded.took, status = excluded.status, outcome = excluded.outcome, \
    reason = excluded.reason";
pub(super) const UPSERT_CURSOR: &str = "insert into lane (partner, cursor, counted, failures) values (?1, ?2, ?3, 0) \
    on conflict (partner) do update set cursor = excluded.cursor, counted = excluded.counted";
pub(super) const UPSERT_HEALTH: &str = "insert into lane \
    (partner, cursor, counted, offline_since, first_failed_at, failures, gave_up_at) values (?1, 0, 0, ?2, ?3, ?4, ?5) \
    on conflict (partner) do update set offline_since = excluded.offline_since, \
    first_failed_at = excluded.first_failed_at, failures = excluded.failures, gave_up_at = excluded.gave_up_at";
pub(super) const UPSERT_REACHED: &str = "insert into lane (partner, cursor, counted, failures, reached) values (?1, 0, 0, 0, ?2) \
    on conflict (partner) do update set \
    reached = case when excluded.reached > lane.reached then excluded.reached else lane.reached end";
const INSERT_LEDGER: &str = "insert into ledger (first, count, seq, entries, chain) values (?1, ?2, ?3, ?4, ?5)";

/// The outcomes of one commit.
pub(super) struct Outcomes<'a> {
    db: Db<'a>,
    /// The rows as far as they are written at the end; without it each is written at once.
    rows: Option<ChangedRows<'a>>,
    /// Receipts by event.
    packs: BTreeMap<Seq, Pack>,
    /// `lane.reached` as far as it is known from earlier commits.
    reached_before: &'a HashMap<PartnerNo, Seq>,
    /// As this commit moved it.
    reached: HashMap<PartnerNo, Seq>,
}

impl<'a> Outcomes<'a> {
    /// For these changes, of which each can be refused by itself unless they go together.
    pub(super) fn begin(db: Db<'a>, mode: Mode, work: &'a Work<'a>) -> Result<Self> {
        let rows = match db {
            Db::Postgres(link) if mode == Mode::Together => Some(ChangedRows::begin(link, work.changes)?),
            Db::Postgres(_) | Db::Sqlite(_) => None,
        };
        Ok(Self { db, rows, packs: BTreeMap::new(), reached_before: &work.known.reached, reached: HashMap::new() })
    }

    /// Writes one change. After an error nothing of it is in the packs; its rows are the caller's to roll back.
    pub(super) fn apply(&mut self, change: &'a Change) -> Result<()> {
        match change {
            Change::Acked(receipt) => self.acked(receipt)?,
            Change::AttemptFailed { open, tried } => {
                self.put_open(open)?;
                self.put_attempt(open.key, tried)?;
            }
            Change::Opened(open) => self.put_open(open)?,
            Change::Ended { open, state, at, reason, evidence, tried } => {
                self.end(Ended { open, state: *state, at: *at, reason })?;
                if let Some(tried) = tried {
                    self.put_attempt(open.key, tried)?;
                }
                if *state == State::Nack {
                    let entry = refusal(open, *at, evidence.unwrap_or(Evidence::Body), reason);
                    self.pack(open.key.seq, &entry);
                }
            }
            Change::Reopened(open) => self.reopen(open)?,
            Change::CursorMoved { partner, cursor, counted } => match &mut self.rows {
                Some(rows) => rows.put_cursor(*partner, *cursor, *counted),
                None => drop(self.db.execute(UPSERT_CURSOR, &cursor_cells(*partner, *cursor, *counted))?),
            },
            Change::HealthChanged { partner, health } => match &mut self.rows {
                Some(rows) => rows.put_health(*partner, *health),
                None => drop(self.db.execute(UPSERT_HEALTH, &health_cells(*partner, *health))?),
            },
        }
        Ok(())
    }

    fn put_open(&mut self, open: &'a OpenDelivery) -> Result<()> {
        match &mut self.rows {
            Some(rows) => rows.put_open(open),
            None => drop(self.db.execute(UPSERT_OPEN, &open_cells(open, scripts_of(open).as_deref()))?),
        }
        Ok(())
    }

    fn put_attempt(&mut self, key: DeliveryKey, tried: &'a Tried) -> Result<()> {
        match &mut self.rows {
            Some(rows) => rows.put_attempt(key, tried),
            None => drop(self.db.execute(INSERT_ATTEMPT, &attempt_cells(key, tried))?),
        }
        Ok(())
    }

    fn end(&mut self, ended: Ended<'a>) -> Result<()> {
        match &mut self.rows {
            Some(rows) => {
                rows.delete_open(ended.open.key);
                rows.put_ended(ended);
            }
            None => {
                delete(self.db, DELETE_OPEN, ended.open.key)?;
                self.db.execute(INSERT_ENDED, &ended_cells(&ended))?;
            }
        }
        Ok(())
    }

    fn reopen(&mut self, open: &'a OpenDelivery) -> Result<()> {
        match &mut self.rows {
            Some(rows) => rows.delete_ended(open.key),
            None => drop(delete(self.db, DELETE_ENDED, open.key)?),
        }
        self.put_open(open)
    }

    fn acked(&mut self, receipt: &AckReceipt) -> Result<()> {
        let key = receipt.key;
        if receipt.has_rows {
            let had_one = match &mut self.rows {
                Some(rows) => rows.let_go(key),
                None => delete(self.db, DELETE_OPEN, key)? + delete(self.db, DELETE_ENDED, key)? > 0,
            };
            if !had_one && self.is_acked(key)? {
                tracing::debug!(event.seq = key.seq.0, partner.no = key.partner.0, "an ACK was said twice");
                return Ok(());
            }
        }
        if key.round == 0 {
            self.reach(key.partner, key.seq)?;
        }
        let entry = Entry {
            partner: key.partner,
            round: key.round,
            attempt: receipt.attempt,
            version: receipt.version,
            partner_seq: receipt.partner_seq,
            at: receipt.at,
            evidence: receipt.evidence,
            body_digest: receipt.body_digest,
            scripts: receipt.scripts.clone(),
            word: Word::Ack,
        };
        self.pack(key.seq, &entry);
        Ok(())
    }

    fn is_acked(&self, key: DeliveryKey) -> Result<bool> {
        let mut entries = entries_of_event(self.db, key.seq)?;
        if let Some(pack) = self.packs.get(&key.seq) {
            entries.extend(decode_all(pack.entries()).unwrap_or_default());
        }
        let is_this = |entry: &Entry| (entry.partner, entry.round) == (key.partner, key.round);
        Ok(entries.iter().any(|entry| is_this(entry) && entry.word == Word::Ack))
    }

    fn reach(&mut self, partner: PartnerNo, seq: Seq) -> Result<()> {
        let known = self.reached.get(&partner).or_else(|| self.reached_before.get(&partner));
        if known.is_some_and(|reached| *reached >= seq) {
            return Ok(());
        }
        let reached = Seq(seq.0.saturating_add(REACH));
        match &mut self.rows {
            Some(rows) => rows.put_reached(partner, reached),
            None => drop(self.db.execute(UPSERT_REACHED, &reached_cells(partner, reached))?),
        }
        self.reached.insert(partner, reached);
        Ok(())
    }

    fn pack(&mut self, seq: Seq, entry: &Entry) {
        self.packs.entry(seq).or_insert_with(|| Pack::new(seq)).push(entry);
    }

    /// Writes what is left, and the packs, which it links to the chain; answers how far lanes reached.
    pub(super) fn finish(self, heads: &mut Heads) -> Result<HashMap<PartnerNo, Seq>> {
        if let Some(rows) = self.rows {
            rows.write()?;
        }
        let mut packs = self.packs;
        let mut places = Vec::with_capacity(packs.len());
        for (seq, pack) in &mut packs {
            heads.chain = pack.extend_chain(heads.chain);
            places.push((heads.ledger, *seq, heads.chain));
            heads.ledger += pack.count();
        }
        let mut all = Vec::with_capacity(places.len());
        for ((first, seq, chain), pack) in places.iter().zip(packs.values()) {
            let (first, count) = (rows::place(Seq(*first)), rows::place(Seq(pack.count())));
            let entries = Cell::Blob(pack.entries());
            let seq = Cell::Int(rows::place(*seq));
            all.push([Cell::Int(first), Cell::Int(count), seq, entries, Cell::Blob(&chain.0)]);
        }
        self.db.insert_all(INSERT_LEDGER, &all)?;
        Ok(self.reached)
    }
}

fn refusal(open: &OpenDelivery, at: Time, evidence: Evidence, reason: &str) -> Entry {
    let sent = open.sent.as_ref();
    Entry {
        partner: open.key.partner,
        round: open.key.round,
        attempt: open.attempts,
        version: sent.map_or(Version(0), |sent| sent.version),
        partner_seq: open.partner_seq,
        at,
        evidence,
        body_digest: sent.map_or(Digest([0; 32]), |sent| sent.body_digest),
        scripts: sent.map_or_else(|| [].into(), |sent| sent.scripts.clone()),
        word: Word::Nack(reason.to_owned()),
    }
}

/// What was applied to make the message that was sent last.
pub(super) fn scripts_of(open: &OpenDelivery) -> Option<Vec<u8>> {
    open.sent.as_ref().map(|sent| sent.scripts.iter().flat_map(|digest| digest.0).collect())
}

pub(super) fn open_cells<'a>(open: &'a OpenDelivery, scripts: Option<&'a [u8]>) -> [Cell<'a>; 20] {
    let sent = open.sent.as_ref();
    let [partner, seq, round] = key_cells(open.key);
    [
        partner,
        seq,
        round,
        Cell::Text(open.subject.as_str()),
        number(open.test),
        Cell::Int(rows::kind_number(open.kind)),
        Cell::Int(rows::priority_number(open.priority)),
        Cell::Text(rows::open_word(open.state)),
        number(open.attempts),
        number(open.resends),
        time(open.due_at),
        time(open.first_failed_at),
        open.partner_seq.map_or(Cell::Null, big_number),
        open.reason.as_deref().map_or(Cell::Null, Cell::Text),
        open.mend.as_deref().map_or(Cell::Null, Cell::Text),
        open.message_uuid.as_ref().map_or(Cell::Null, |uuid| Cell::Blob(uuid.as_bytes())),
        sent.map_or(Cell::Null, |sent| number(sent.version.0)),
        sent.map_or(Cell::Null, |sent| Cell::Blob(&sent.body_digest.0)),
        scripts.map_or(Cell::Null, Cell::Blob),
        time(open.fallback_at),
    ]
}

pub(super) fn ended_cells<'a>(ended: &Ended<'a>) -> [Cell<'a>; 12] {
    let Ended { open, state, at, reason } = *ended;
    let sent = open.sent.as_ref();
    let [partner, seq, round] = key_cells(open.key);
    [
        partner,
        seq,
        round,
        number(open.test),
        Cell::Text(state.word()),
        time(Some(at)),
        Cell::Text(reason),
        number(open.attempts),
        open.partner_seq.map_or(Cell::Null, big_number),
        open.message_uuid.as_ref().map_or(Cell::Null, |uuid| Cell::Blob(uuid.as_bytes())),
        sent.map_or(Cell::Null, |sent| number(sent.version.0)),
        sent.map_or(Cell::Null, |sent| Cell::Blob(&sent.body_digest.0)),
    ]
}

pub(super) fn attempt_cells(key: DeliveryKey, tried: &Tried) -> [Cell<'_>; 9] {
    let [partner, seq, round] = key_cells(key);
    [
        seq,
        partner,
        round,
        number(tried.number),
        time(Some(tried.at)),
        Cell::Int(i64::try_from(tried.took.as_micros()).unwrap_or(i64::MAX)),
        tried.status.map_or(Cell::Null, number),
        Cell::Text(tried.outcome),
        Cell::Text(&tried.reason),
    ]
}

pub(super) fn health_cells(partner: PartnerNo, health: Health) -> [Cell<'static>; 5] {
    [
        number(partner.0),
        time(health.offline_since),
        time(health.first_failed_at),
        number(health.failures),
        time(health.gave_up_at),
    ]
}

pub(super) fn cursor_cells(partner: PartnerNo, cursor: Seq, counted: u64) -> [Cell<'static>; 3] {
    [number(partner.0), big_number(cursor.0), big_number(counted)]
}

pub(super) fn reached_cells(partner: PartnerNo, reached: Seq) -> [Cell<'static>; 2] {
    [number(partner.0), big_number(reached.0)]
}

pub(super) fn key_cells(key: DeliveryKey) -> [Cell<'static>; 3] {
    [number(key.partner.0), big_number(key.seq.0), number(key.round)]
}

fn number(number: impl Into<i64>) -> Cell<'static> {
    Cell::Int(number.into())
}

fn big_number(number: u64) -> Cell<'static> {
    i64::try_from(number).map_or(Cell::TooBig(number), Cell::Int)
}

fn time(time: Option<Time>) -> Cell<'static> {
    time.map_or(Cell::Null, |time| Cell::Int(time.as_micros()))
}

fn delete(db: Db<'_>, sql: &'static str, key: DeliveryKey) -> Result<usize> {
    db.execute(sql, &key_cells(key))
}
