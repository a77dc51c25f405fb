//! Questions to the Ack Ledger, and the walk along its chain.

use ess_core::id::{Digest, PartnerNo, Seq};

use super::db::{Db, Row, given};
use super::events::Reader;
use super::rows;
use crate::error::StoreError;
use crate::ledger::{Entry, Pack, Word, decode_all};
use crate::types::LedgerEntry;

type Result<T> = std::result::Result<T, StoreError>;

/// Rows that one step of a verification walks: what a reader's snapshot may hold up is bounded.
const STEP_ROWS: usize = 2_048;

pub(super) const OF_EVENT: &str = "select entries from ledger where seq = ?1 order by first";
// The row that holds an index may begin before it.
pub(super) const FROM: &str = "select first, seq, entries, chain from ledger \
    where first >= coalesce((select max(first) from ledger where first <= ?1), 0) order by first";
const RECEIPTS_OF_EVENT: &str = "select first, entries, chain from ledger where seq = ?1 order by first";
pub(super) const HEAD: &str = "select first + count, chain from ledger order by first desc limit 1";
pub(super) const STEP: &str = "select first, count, seq, entries, chain from ledger where first > ?1 \
    order by first limit ?2";
pub(super) const ACKED_OF_SUBJECT: &str = "select ledger.seq, ledger.entries from event join ledger on ledger.seq = event.seq \
    where event.subject = ?1 and event.seq > ?2 and event.test = 0 order by event.seq desc";

/// How far a verification has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Walked {
    /// Entries so far.
    pub(crate) size: u64,
    /// The chain after them.
    pub(crate) chain: Digest,
    /// Where the last row began: the next one is searched from there, so that none hides between two steps.
    last: i64,
}

impl Walked {
    pub(crate) const START: Walked = Walked { size: 0, chain: Digest([0; 32]), last: i64::MIN };
}

pub(super) fn entries_of_event(db: Db<'_>, seq: Seq) -> Result<Vec<Entry>> {
    let rows = db.query(OF_EVENT, given![seq.0], |row| decode_all(row.get(0)?).ok_or_else(|| rows::damaged(0)))?;
    Ok(rows.into_iter().flatten().collect())
}

pub(crate) fn ledger(reader: &Reader<'_>, from: u64, limit: usize) -> Result<Vec<LedgerEntry>> {
    let mut page = Vec::new();
    let Ok(from_row) = i64::try_from(from) else { return Ok(page) };
    reader.db.walk(FROM, given![from_row], |row| {
        let first: u64 = row.get(0)?;
        let (seq, chain) = (Seq(row.get(1)?), row.get(3)?);
        let entries = (first..).zip(decode_all(row.get(2)?).ok_or_else(|| rows::damaged(2))?);
        let entries = entries.filter(|(index, _)| *index >= from).take(limit - page.len());
        page.extend(entries.map(|(index, entry)| LedgerEntry { index, seq, entry, chain }));
        Ok(page.len() < limit)
    })?;
    Ok(page)
}

/// The receipts of one event, each with its place in the ledger.
pub(crate) fn receipts_of_event(reader: &Reader<'_>, seq: Seq) -> Result<Vec<LedgerEntry>> {
    let mut receipts = Vec::new();
    reader.db.walk(RECEIPTS_OF_EVENT, given![seq.0], |row| {
        let (first, chain) = (row.get::<u64>(0)?, row.get(2)?);
        let entries = decode_all(row.get(1)?).ok_or_else(|| rows::damaged(1))?;
        receipts.extend((first..).zip(entries).map(|(index, entry)| LedgerEntry { index, seq, entry, chain }));
        Ok(true)
    })?;
    Ok(receipts)
}

pub(super) fn head(db: Db<'_>) -> Result<(u64, Digest)> {
    let read = |row: &Row<'_>| Ok((row.get(0)?, row.get(1)?));
    Ok(db.query_one(HEAD, given![], read)?.unwrap_or((Walked::START.size, Walked::START.chain)))
}

/// One step along the chain: recomputes every leaf and link of the next rows. The same place again means that the end is reached.
/// The error names the first entry that does not fit. Stops at `stop`, when a row ends there, so that the chain can be compared.
pub(crate) fn verify_step(reader: &Reader<'_>, from: Walked, stop: u64) -> Result<Walked> {
    let mut walked = from;
    reader.db.walk(STEP, given![from.last, STEP_ROWS], |row| {
        walked = verify_row(row, walked)?;
        Ok(walked.size != stop)
    })?;
    Ok(walked)
}

fn verify_row(row: &Row<'_>, before: Walked) -> Result<Walked> {
    let size = before.size;
    let damaged = |what: &str| StoreError::Damaged(format!("ledger entry {size}: {what}"));
    let unreadable = |_| damaged("the row can't be read");
    let first: u64 = row.get(0).map_err(unreadable)?;
    let count: u64 = row.get(1).map_err(unreadable)?;
    let seq = Seq(row.get(2).map_err(unreadable)?);
    let entries: Vec<u8> = row.get(3).map_err(unreadable)?;
    let stored = row.get::<Option<Digest>>(4).map_err(unreadable)?;
    let last = row.get(0)?;
    if first != size {
        return Err(damaged(&format!("missing; the next row begins at {first}")));
    }
    let mut pack = Pack::read(seq, &entries).ok_or_else(|| damaged("the entries can't be read"))?;
    if pack.count() != count {
        return Err(damaged("the row has another number of entries than it says"));
    }
    let chain = pack.extend_chain(before.chain);
    if stored != Some(chain) {
        return Err(damaged("the chain does not fit the entries: they were changed after they were written"));
    }
    Ok(Walked { size: size + count, chain, last })
}

/// The newest event of the subject after `seq` that the partner acknowledged.
pub(crate) fn acked_after_of_subject(
    reader: &Reader<'_>,
    partner: PartnerNo,
    subject: &str,
    seq: Seq,
) -> Result<Option<Seq>> {
    let mut newest = None;
    reader.db.walk(ACKED_OF_SUBJECT, given![subject, rows::place(seq)], |row| {
        let entries = decode_all(row.get(1)?).ok_or_else(|| rows::damaged(1))?;
        if entries.iter().any(|entry| entry.partner == partner && entry.word == Word::Ack) {
            newest = Some(Seq(row.get(0)?));
        }
        Ok(newest.is_none())
    })?;
    Ok(newest)
}
