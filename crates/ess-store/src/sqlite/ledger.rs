//! Questions to the Ack Ledger, and the walk along its chain.

use ess_core::id::{Digest, PartnerNo, Seq};
use rusqlite::{Connection, OptionalExtension as _, Row, params};

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
pub(super) const ACKED_OF_SUBJECT: &str = "select ledger.seq, entries from event join ledger on ledger.seq = event.seq \
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

pub(super) fn entries_of_event(db: &Connection, seq: Seq) -> Result<Vec<Entry>> {
    let mut statement = db.prepare_cached(OF_EVENT)?;
    let mut rows = statement.query(params![seq.0])?;
    let mut entries = Vec::new();
    while let Some(row) = rows.next()? {
        let bytes = row.get_ref(0)?.as_blob().map_err(|_| rows::damaged(0))?;
        entries.extend(decode_all(bytes).ok_or_else(|| rows::damaged(0))?);
    }
    Ok(entries)
}

pub(crate) fn ledger(reader: &Reader<'_>, from: u64, limit: usize) -> Result<Vec<LedgerEntry>> {
    let mut page = Vec::new();
    let Ok(from_row) = i64::try_from(from) else { return Ok(page) };
    let mut statement = reader.db.prepare_cached(FROM)?;
    let mut rows = statement.query(params![from_row])?;
    while let Some(row) = rows.next()? {
        let first: u64 = row.get(0)?;
        let (seq, chain) = (Seq(row.get(1)?), rows::digest(row, 3)?.ok_or_else(|| rows::damaged(3))?);
        let bytes = row.get_ref(2)?.as_blob().map_err(|_| rows::damaged(2))?;
        for (index, entry) in (first..).zip(decode_all(bytes).ok_or_else(|| rows::damaged(2))?) {
            if page.len() >= limit {
                return Ok(page);
            }
            if index >= from {
                page.push(LedgerEntry { index, seq, entry, chain });
            }
        }
    }
    Ok(page)
}

/// The receipts of one event, each with its place in the ledger.
pub(crate) fn receipts_of_event(reader: &Reader<'_>, seq: Seq) -> Result<Vec<LedgerEntry>> {
    let mut statement = reader.db.prepare_cached(RECEIPTS_OF_EVENT)?;
    let mut rows = statement.query(params![seq.0])?;
    let mut receipts = Vec::new();
    while let Some(row) = rows.next()? {
        let first: u64 = row.get(0)?;
        let chain = rows::digest(row, 2)?.ok_or_else(|| rows::damaged(2))?;
        let bytes = row.get_ref(1)?.as_blob().map_err(|_| rows::damaged(1))?;
        let entries = decode_all(bytes).ok_or_else(|| rows::damaged(1))?;
        receipts.extend((first..).zip(entries).map(|(index, entry)| LedgerEntry { index, seq, entry, chain }));
    }
    Ok(receipts)
}

pub(super) fn head(db: &Connection) -> Result<(u64, Digest)> {
    let read = |row: &Row<'_>| {
        let chain = rows::digest(row, 1)?.ok_or_else(|| rows::damaged(1))?;
        Ok((row.get(0)?, chain))
    };
    Ok(db.prepare_cached(HEAD)?.query_row([], read).optional()?.unwrap_or((Walked::START.size, Walked::START.chain)))
}

/// One step along the chain: recomputes every leaf and link of the next rows. The same place again means that the end is reached.
/// The error names the first entry that does not fit. Stops at `stop`, when a row ends there, so that the chain can be compared.
pub(crate) fn verify_step(reader: &Reader<'_>, from: Walked, stop: u64) -> Result<Walked> {
    let mut statement = reader.db.prepare_cached(STEP)?;
    let mut rows = statement.query(params![from.last, STEP_ROWS])?;
    let mut walked = from;
    while let Some(row) = rows.next()? {
        walked = verify_row(row, walked)?;
        if walked.size == stop {
            break;
        }
    }
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
    let stored = rows::digest(row, 4).map_err(unreadable)?;
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
    let mut statement = reader.db.prepare_cached(ACKED_OF_SUBJECT)?;
    let mut rows = statement.query(params![subject, rows::place(seq)])?;
    while let Some(row) = rows.next()? {
        let bytes = row.get_ref(1)?.as_blob().map_err(|_| rows::damaged(1))?;
        let entries = decode_all(bytes).ok_or_else(|| rows::damaged(1))?;
        if entries.iter().any(|entry| entry.partner == partner && entry.word == Word::Ack) {
            return Ok(Some(Seq(row.get(0)?)));
        }
    }
    Ok(None)
}
