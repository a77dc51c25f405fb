//! Outcomes to rows, in the order in which they were handed over; ACKs and NACKs to the ledger.

use std::collections::{BTreeMap, HashMap};

use ess_core::delivery::{DeliveryKey, State};
use ess_core::id::{Digest, PartnerNo, Seq, Version};
use ess_core::lane::{Health, OpenDelivery, Tried};
use ess_core::receipt::Evidence;
use ess_core::time::Time;

use super::Heads;
use super::db::{Cell, Db, given};
use super::ledger::entries_of_event;
use super::rows;
use crate::error::StoreError;
use crate::ledger::{Entry, Pack, Word, decode_all};
use crate::types::{AckReceipt, Change};

type Result<T> = std::result::Result<T, StoreError>;

/// How far ahead of an ACK `lane.reached` is put: that row is written once in so many events, not for each ACK.
const REACH: u64 = 4_096;

const UPSERT_OPEN: &str = "insert into open_delivery \
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
const INSERT_ENDED: &str = "insert into ended_delivery \
    (partner, seq, round, test, state, at, reason, attempts, partner_seq, message, sent_version, sent_digest) \
    values (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12) on conflict (partner, seq, round) \
    do update set test = excluded.test, state = excluded.state, at = excluded.at, reason = excluded.reason, \
    attempts = excluded.attempts, partner_seq = excluded.partner_seq, message = excluded.message, \
    sent_version = excluded.sent_version, sent_digest = excluded.sent_digest";
const DELETE_ENDED: &str = "delete from ended_delivery where partner = ?1 and seq = ?2 and round = ?3";
const INSERT_ATTEMPT: &str = "insert into attempt \
    (seq, partner, round, number, at, took, status, outcome, reason) values (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9) \
    on conflict (seq, partner, round, number, at) \
    do update set took = excluded.took, status = excluded.status, outcome = excluded.outcome, \
    reason = excluded.reason";
const UPSERT_CURSOR: &str = "insert into lane (partner, cursor, counted, failures) values (?1, ?2, ?3, 0) \
    on conflict (partner) do update set cursor = excluded.cursor, counted = excluded.counted";
const UPSERT_HEALTH: &str = "insert into lane \
    (partner, cursor, counted, offline_since, first_failed_at, failures, gave_up_at) values (?1, 0, 0, ?2, ?3, ?4, ?5) \
    on conflict (partner) do update set offline_since = excluded.offline_since, \
    first_failed_at = excluded.first_failed_at, failures = excluded.failures, gave_up_at = excluded.gave_up_at";
const UPSERT_REACHED: &str = "insert into lane (partner, cursor, counted, failures, reached) values (?1, 0, 0, 0, ?2) \
    on conflict (partner) do update set \
    reached = case when excluded.reached > lane.reached then excluded.reached else lane.reached end";
const INSERT_LEDGER: &str = "insert into ledger (first, count, seq, entries, chain) values (?1, ?2, ?3, ?4, ?5)";

/// The outcomes of one commit.
pub(super) struct Outcomes<'a> {
    db: Db<'a>,
    /// Receipts by event.
    packs: BTreeMap<Seq, Pack>,
    /// `lane.reached` as far as it is known from earlier commits.
    reached_before: &'a HashMap<PartnerNo, Seq>,
    /// As this commit moved it.
    reached: HashMap<PartnerNo, Seq>,
}

impl<'a> Outcomes<'a> {
    pub(super) fn new(db: Db<'a>, reached_before: &'a HashMap<PartnerNo, Seq>) -> Self {
        Self { db, packs: BTreeMap::new(), reached_before, reached: HashMap::new() }
    }

    /// Writes one change. After an error nothing of it is in the packs; its rows are the caller's to roll back.
    pub(super) fn apply(&mut self, change: &Change) -> Result<()> {
        let db = self.db;
        match change {
            Change::Acked(receipt) => self.acked(receipt)?,
            Change::AttemptFailed { open, tried } => {
                put_open(db, open)?;
                put_attempt(db, open.key, tried)?;
            }
            Change::Opened(open) => put_open(db, open)?,
            Change::Ended { open, state, at, reason, evidence, tried } => {
                delete(db, DELETE_OPEN, open.key)?;
                put_ended(db, open, *state, *at, reason)?;
                if let Some(tried) = tried {
                    put_attempt(db, open.key, tried)?;
                }
                if *state == State::Nack {
                    let entry = refusal(open, *at, evidence.unwrap_or(Evidence::Body), reason);
                    self.pack(open.key.seq, &entry);
                }
            }
            Change::Reopened(open) => {
                delete(db, DELETE_ENDED, open.key)?;
                put_open(db, open)?;
            }
            Change::CursorMoved { partner, cursor, counted } => {
                db.execute(UPSERT_CURSOR, given![partner.0, cursor.0, counted])?;
            }
            Change::HealthChanged { partner, health } => put_health(db, *partner, *health)?,
        }
        Ok(())
    }

    fn acked(&mut self, receipt: &AckReceipt) -> Result<()> {
        let key = receipt.key;
        if receipt.has_rows {
            let gone = delete(self.db, DELETE_OPEN, key)? + delete(self.db, DELETE_ENDED, key)?;
            if gone == 0 && self.is_acked(key)? {
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
        self.db.execute(UPSERT_REACHED, given![partner.0, reached.0])?;
        self.reached.insert(partner, reached);
        Ok(())
    }

    fn pack(&mut self, seq: Seq, entry: &Entry) {
        self.packs.entry(seq).or_insert_with(|| Pack::new(seq)).push(entry);
    }

    /// Writes the packs and links them to the chain; answers how far lanes reached.
    pub(super) fn finish(self, heads: &mut Heads) -> Result<HashMap<PartnerNo, Seq>> {
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
            all.push(vec![Cell::Int(first), Cell::Int(count), seq, entries, Cell::Blob(&chain.0)]);
        }
        self.db.execute_all(INSERT_LEDGER, &all)?;
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

fn put_open(db: Db<'_>, open: &OpenDelivery) -> Result<()> {
    let sent = open.sent.as_ref();
    let scripts: Option<Vec<u8>> = sent.map(|sent| sent.scripts.iter().flat_map(|digest| digest.0).collect());
    db.execute(
        UPSERT_OPEN,
        given![
            open.key.partner.0,
            open.key.seq.0,
            open.key.round,
            open.subject.as_str(),
            open.test,
            rows::kind_number(open.kind),
            rows::priority_number(open.priority),
            rows::open_word(open.state),
            open.attempts,
            open.resends,
            open.due_at.map(Time::as_micros),
            open.first_failed_at.map(Time::as_micros),
            open.partner_seq,
            open.reason,
            open.mend,
            open.message_uuid.map(|uuid| uuid.as_bytes().to_vec()),
            sent.map(|sent| sent.version.0),
            sent.map(|sent| sent.body_digest.0),
            scripts,
            open.fallback_at.map(Time::as_micros),
        ],
    )?;
    Ok(())
}

fn put_ended(db: Db<'_>, open: &OpenDelivery, state: State, at: Time, reason: &str) -> Result<()> {
    let sent = open.sent.as_ref();
    db.execute(
        INSERT_ENDED,
        given![
            open.key.partner.0,
            open.key.seq.0,
            open.key.round,
            open.test,
            state.word(),
            at.as_micros(),
            reason,
            open.attempts,
            open.partner_seq,
            open.message_uuid.map(|uuid| uuid.as_bytes().to_vec()),
            sent.map(|sent| sent.version.0),
            sent.map(|sent| sent.body_digest.0),
        ],
    )?;
    Ok(())
}

fn put_attempt(db: Db<'_>, key: DeliveryKey, tried: &Tried) -> Result<()> {
    db.execute(
        INSERT_ATTEMPT,
        given![
            key.seq.0,
            key.partner.0,
            key.round,
            tried.number,
            tried.at.as_micros(),
            i64::try_from(tried.took.as_micros()).unwrap_or(i64::MAX),
            tried.status,
            tried.outcome,
            tried.reason,
        ],
    )?;
    Ok(())
}

fn put_health(db: Db<'_>, partner: PartnerNo, health: Health) -> Result<()> {
    db.execute(
        UPSERT_HEALTH,
        given![
            partner.0,
            health.offline_since.map(Time::as_micros),
            health.first_failed_at.map(Time::as_micros),
            health.failures,
            health.gave_up_at.map(Time::as_micros),
        ],
    )?;
    Ok(())
}

fn delete(db: Db<'_>, sql: &'static str, key: DeliveryKey) -> Result<usize> {
    db.execute(sql, given![key.partner.0, key.seq.0, key.round])
}
