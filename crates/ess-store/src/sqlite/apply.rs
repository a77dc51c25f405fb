//! Changes to rows, in the order in which they were handed over.

use std::collections::BTreeMap;

use ess_core::delivery::{DeliveryKey, State};
use ess_core::id::{PartnerNo, Seq, Version};
use ess_core::lane::{Health, OpenDelivery, Tried};
use ess_core::receipt::Evidence;
use ess_core::time::Time;
use rusqlite::{Transaction, params};

use super::rows::{self, Rest};
use super::writer::Heads;
use crate::ledger::{Entry, Word, extend_chain};
use crate::types::{AckReceipt, Change, NewEvent};

/// Receipts of this commit, by event.
type Packs = BTreeMap<Seq, (u64, Vec<u8>)>;

const INSERT_EVENT: &str = "insert into event \
    (seq, id, test, subject, version, kind, priority, recorded_at, audience, message, digest, rest, payload) \
    values (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13)";
const UPSERT_OPEN: &str = "insert or replace into open_delivery \
    (partner, seq, round, subject, test, kind, priority, state, attempts, resends, due_at, first_failed_at, \
     partner_seq, reason, mend, message, sent_version, sent_digest, sent_scripts) \
    values (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, ?16, ?17, ?18, ?19)";
const DELETE_OPEN: &str = "delete from open_delivery where partner = ?1 and seq = ?2 and round = ?3";
const INSERT_ENDED: &str = "insert or replace into ended_delivery \
    (partner, seq, round, test, state, at, reason, attempts, partner_seq, message, sent_version, sent_digest) \
    values (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12)";
const DELETE_ENDED: &str = "delete from ended_delivery where partner = ?1 and seq = ?2 and round = ?3";
const INSERT_ATTEMPT: &str = "insert or replace into attempt \
    (seq, partner, round, number, at, took, status, outcome, reason) values (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)";
const UPSERT_CURSOR: &str = "insert into lane (partner, cursor, counted, failures) values (?1, ?2, ?3, 0) \
    on conflict (partner) do update set cursor = excluded.cursor, counted = excluded.counted";
const UPSERT_HEALTH: &str = "insert into lane (partner, cursor, counted, offline_since, first_failed_at, failures) \
    values (?1, 0, 0, ?2, ?3, ?4) on conflict (partner) do update set offline_since = excluded.offline_since, \
    first_failed_at = excluded.first_failed_at, failures = excluded.failures";
const INSERT_LEDGER: &str = "insert into ledger (first, count, seq, entries, chain) values (?1, ?2, ?3, ?4, ?5)";

pub(super) fn insert_event(tx: &Transaction<'_>, seq: Seq, new: &NewEvent, audience: i64) -> rusqlite::Result<()> {
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

pub(super) fn changes(tx: &Transaction<'_>, changes: &[Change], heads: &mut Heads) -> rusqlite::Result<()> {
    let mut packs = Packs::new();
    for change in changes {
        match change {
            Change::Acked(receipt) => acked(tx, receipt, &mut packs)?,
            Change::AttemptFailed { open, tried } => {
                put_open(tx, open)?;
                put_attempt(tx, open.key, tried)?;
            }
            Change::Opened(open) => put_open(tx, open)?,
            Change::Ended { open, state, at, reason, evidence, tried } => {
                delete(tx, DELETE_OPEN, open.key)?;
                put_ended(tx, open, *state, *at, reason)?;
                if let Some(tried) = tried {
                    put_attempt(tx, open.key, tried)?;
                }
                if *state == State::Nack {
                    pack(&mut packs, open.key.seq, &refusal(open, *at, evidence.unwrap_or(Evidence::Body), reason));
                }
            }
            Change::Reopened(open) => {
                delete(tx, DELETE_ENDED, open.key)?;
                put_open(tx, open)?;
            }
            Change::CursorMoved { partner, cursor, counted } => {
                tx.prepare_cached(UPSERT_CURSOR)?.execute(params![partner.0, cursor.0, counted])?;
            }
            Change::HealthChanged { partner, health } => put_health(tx, *partner, *health)?,
        }
    }
    for (seq, (count, entries)) in packs {
        // Invariant: the entries were encoded a moment ago.
        heads.chain = extend_chain(heads.chain, seq, &entries).expect("own entries decode");
        tx.prepare_cached(INSERT_LEDGER)?.execute(params![heads.ledger, count, seq.0, entries, heads.chain.0])?;
        heads.ledger += count;
    }
    Ok(())
}

fn acked(tx: &Transaction<'_>, receipt: &AckReceipt, packs: &mut Packs) -> rusqlite::Result<()> {
    if receipt.has_rows {
        delete(tx, DELETE_OPEN, receipt.key)?;
        delete(tx, DELETE_ENDED, receipt.key)?;
    }
    let entry = Entry {
        partner: receipt.key.partner,
        round: receipt.key.round,
        attempt: receipt.attempt,
        version: receipt.version,
        partner_seq: receipt.partner_seq,
        at: receipt.at,
        evidence: receipt.evidence,
        body_digest: receipt.body_digest,
        scripts: receipt.scripts.clone(),
        word: Word::Ack,
    };
    pack(packs, receipt.key.seq, &entry);
    Ok(())
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
        body_digest: sent.map_or(ess_core::id::Digest([0; 32]), |sent| sent.body_digest),
        scripts: sent.map_or_else(|| [].into(), |sent| sent.scripts.clone()),
        word: Word::Nack(reason.to_owned()),
    }
}

fn pack(packs: &mut Packs, seq: Seq, entry: &Entry) {
    let (count, entries) = packs.entry(seq).or_default();
    *count += 1;
    entry.encode(entries);
}

fn put_open(tx: &Transaction<'_>, open: &OpenDelivery) -> rusqlite::Result<()> {
    let sent = open.sent.as_ref();
    let scripts: Option<Vec<u8>> = sent.map(|sent| sent.scripts.iter().flat_map(|digest| digest.0).collect());
    tx.prepare_cached(UPSERT_OPEN)?.execute(params![
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
    ])?;
    Ok(())
}

fn put_ended(tx: &Transaction<'_>, open: &OpenDelivery, state: State, at: Time, reason: &str) -> rusqlite::Result<()> {
    let sent = open.sent.as_ref();
    tx.prepare_cached(INSERT_ENDED)?.execute(params![
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
    ])?;
    Ok(())
}

fn put_attempt(tx: &Transaction<'_>, key: DeliveryKey, tried: &Tried) -> rusqlite::Result<()> {
    tx.prepare_cached(INSERT_ATTEMPT)?.execute(params![
        key.seq.0,
        key.partner.0,
        key.round,
        tried.number,
        tried.at.as_micros(),
        i64::try_from(tried.took.as_micros()).unwrap_or(i64::MAX),
        tried.status,
        tried.outcome,
        tried.reason,
    ])?;
    Ok(())
}

fn put_health(tx: &Transaction<'_>, partner: PartnerNo, health: Health) -> rusqlite::Result<()> {
    tx.prepare_cached(UPSERT_HEALTH)?.execute(params![
        partner.0,
        health.offline_since.map(Time::as_micros),
        health.first_failed_at.map(Time::as_micros),
        health.failures,
    ])?;
    Ok(())
}

fn delete(tx: &Transaction<'_>, sql: &str, key: DeliveryKey) -> rusqlite::Result<()> {
    tx.prepare_cached(sql)?.execute(params![key.partner.0, key.seq.0, key.round])?;
    Ok(())
}
