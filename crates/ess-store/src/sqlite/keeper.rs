//! The writer's connection: commits, steps of retention, and making sure of what is on the disk after something failed.

use std::fs::File;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use rusqlite::{Connection, ErrorCode, TransactionBehavior};

use super::checkpoint::Checkpointer;
use super::readers::Readers;
use super::{BUSY, Link, mend, set_bytes_max};
use crate::error::StoreError;
use crate::retention::{Step, Sweep, Swept};
use crate::sql::commit::{self, Mode};
use crate::sql::db::Db;
use crate::sql::{Heads, Work, Written, retention};

type Result<T> = std::result::Result<T, StoreError>;

/// Free pages that are kept for what comes next: 1 MiB, or a part of the file.
const FREE_PAGES_KEPT: u64 = 256;
const FREE_PART_KEPT: u64 = 50;
/// Pages between two looks at the clock.
const PAGES_PER_LOOK: usize = 16;
/// What a probe writes: 64 KiB, so that it does not fit where nothing fits.
const PROBE: &str = "insert or replace into setting (key, value) values ('probe', zeroblob(65536))";
const PROBE_GONE: &str = "delete from setting where key = 'probe'";

/// The writer's hold on the file.
pub(crate) struct Keeper {
    /// None while a database that failed could not be opened anew.
    pub(super) db: Option<Connection>,
    pub(super) path: PathBuf,
    pub(super) bytes_max: Option<u64>,
    pub(super) readers: Arc<Readers>,
    pub(super) checkpointer: Checkpointer,
    /// Keeps a second hub out of the directory for as long as this one may write.
    pub(super) _lock: Arc<File>,
}

impl Keeper {
    pub(crate) fn write(&mut self, work: &Work<'_>, heads: Heads) -> Result<Written> {
        match self.write_as(Mode::Together, work, heads) {
            Err(StoreError::Refused(_) | StoreError::Damaged(_)) => self.write_as(Mode::OneByOne, work, heads),
            other => other,
        }
    }

    fn write_as(&mut self, mode: Mode, work: &Work<'_>, heads: Heads) -> Result<Written> {
        let db = self.db.as_mut().ok_or_else(closed)?;
        let tx = db.transaction_with_behavior(TransactionBehavior::Immediate)?;
        let mut written = commit::write(Db::Sqlite(Link(&tx)), mode, work, heads)?;
        let began = Instant::now();
        tx.commit()?;
        written.took = began.elapsed();
        Ok(written)
    }

    /// What is asked beside the writer's own business.
    pub(crate) fn link(&self) -> Result<Link<'_>> {
        self.db.as_ref().map(Link).ok_or_else(closed)
    }

    pub(crate) fn heads(&self) -> Result<Heads> {
        Heads::read(Db::Sqlite(Link(self.db.as_ref().ok_or_else(closed)?)))
    }

    /// Whether the log could not be moved.
    pub(crate) fn has_failed(&self) -> bool {
        self.checkpointer.has_failed()
    }

    /// Moves the log when it is long.
    pub(crate) fn after_commit(&mut self) {
        if let Some(db) = &self.db {
            self.checkpointer.nudge(db);
        }
    }

    pub(crate) fn set_bytes_max(&mut self, bytes: Option<u64>) {
        self.bytes_max = bytes;
        if let Some(db) = &self.db {
            set_bytes_max(db, bytes);
        }
    }

    pub(crate) fn sweep(&mut self, sweep: &Sweep) -> Result<Swept> {
        let db = self.db.as_mut().ok_or_else(closed)?;
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
        if swept.gives_back {
            self.checkpointer.move_all();
        }
        Ok(swept)
    }

    pub(crate) fn wipe_log(&self) -> Result<bool> {
        self.db.as_ref().map_or(Ok(false), wipe_log)
    }

    /// Makes sure of what is on the disk.
    pub(crate) fn mend(&mut self, known: Heads) -> Result<()> {
        // On the old connection first: this overwrites what a commit that failed left in the log, which a new connection would
        // take for committed.
        if let Some(db) = &self.db {
            mend::mark(db)?;
        }
        let readers = self.readers.clone();
        let _held = readers.hold()?;
        self.checkpointer.stop();
        self.db.take().map_or(Ok(()), mend::close)?;
        let db = mend::reopen(&self.path, self.bytes_max, known)?;
        self.checkpointer = Checkpointer::start(&self.path)?;
        self.db = Some(db);
        Ok(())
    }

    pub(crate) fn probe(&self) -> Result<()> {
        let db = self.db.as_ref().ok_or_else(closed)?;
        db.execute(PROBE, [])?;
        db.execute(PROBE_GONE, [])?;
        Ok(())
    }

    pub(crate) fn close(&mut self, is_shaken: bool) {
        self.checkpointer.stop();
        let Some(db) = self.db.take() else { return };
        if is_shaken {
            // What a failed sync left is not moved; the next start makes sure of it.
            drop(mend::close(db));
            return;
        }
        if let Err(error) = db.query_row("pragma wal_checkpoint(truncate)", [], |_| Ok(())) {
            tracing::debug!(%error, "the write-ahead log stays; it is read at the next start");
            drop(mend::close(db));
        }
    }
}

/// The database was closed because it failed, and could not be opened yet.
fn closed() -> StoreError {
    StoreError::Shaken("the database could not be opened anew".to_owned())
}

fn in_transaction(db: &mut Connection, sweep: &Sweep, began: Instant) -> Result<Swept> {
    let tx = db.transaction_with_behavior(TransactionBehavior::Immediate)?;
    let swept = retention::step(Db::Sqlite(Link(&tx)), sweep, began)?;
    tx.commit()?;
    Ok(swept)
}

/// Moves the whole log into the database and empties its file; false while somebody reads from it.
pub(super) fn wipe_log(db: &Connection) -> Result<bool> {
    db.busy_timeout(std::time::Duration::ZERO)?;
    let busy: rusqlite::Result<i64> = db.query_row("pragma wal_checkpoint(truncate)", [], |row| row.get(0));
    db.busy_timeout(BUSY)?;
    match busy {
        Ok(busy) => Ok(busy == 0),
        Err(rusqlite::Error::SqliteFailure(failure, _)) if failure.code == ErrorCode::DatabaseBusy => Ok(false),
        Err(error) => Err(error.into()),
    }
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
        if (removed as usize).is_multiple_of(PAGES_PER_LOOK) && began.elapsed() >= sweep.time_max {
            break;
        }
    }
    Ok(Swept { removed, next: Some(Step::FreePages), gives_back: false, ..Swept::default() })
}
