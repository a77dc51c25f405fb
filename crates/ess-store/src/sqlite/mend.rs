//! What makes a database trustworthy again after a write or a sync of it failed, or after a life that nobody saw the end of.
//!
//! A sync that failed is not mended by the next one: the kernel takes the pages for clean that never reached the disk, and SQLite
//! reads them from memory as if they had. Invariants:
//! * the log is only gone on from where every byte was written and synced, without an error after its last writing;
//! * it is only begun anew when the database was written from all of it, without an error.

use std::fs::OpenOptions;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

use rusqlite::Connection;
use rusqlite::config::DbConfig;

use super::{Link, configure_writer, set_bytes_max};
use crate::error::StoreError;
use crate::sql::Heads;
use crate::sql::db::Db;

type Result<T> = std::result::Result<T, StoreError>;

/// Bytes that are written at once.
const STEP_BYTES: usize = 1024 * 1024;
/// A commit of the smallest size: it fits also where the database is at its ceiling. Never of the same content, for which SQLite
/// writes nothing.
const MARK: &str = "insert or replace into setting (key, value) values ('written', randomblob(8))";

/// At the start: writes the log over itself and syncs it. A life before this one may have ended just after a sync that failed; what
/// is read here then is in memory only, and whatever is appended to it would be lost with it.
pub(super) fn rewrite_log(db: &Connection, path: &Path) -> Result<()> {
    let fail = |error: std::io::Error| StoreError::Shaken(format!("write-ahead log: {error}"));
    let mut log = path.as_os_str().to_owned();
    log.push("-wal");
    if std::fs::metadata(&log).map_or(0, |found| found.len()) == 0 {
        return Ok(());
    }
    // Nobody else writes meanwhile.
    let tx = rusqlite::Transaction::new_unchecked(db, rusqlite::TransactionBehavior::Immediate)?;
    let file = OpenOptions::new().read(true).write(true).open(PathBuf::from(log)).map_err(fail)?;
    let mut bytes = vec![0; STEP_BYTES];
    let mut offset = 0;
    loop {
        let count = file.read_at(&mut bytes, offset).map_err(fail)?;
        if count == 0 {
            break;
        }
        file.write_all_at(&bytes[..count], offset).map_err(fail)?;
        offset += count as u64;
    }
    file.sync_all().map_err(fail)?;
    tx.finish()?;
    Ok(())
}

/// Finds out whether outcomes can be written down.
pub(super) fn mark(db: &Connection) -> Result<()> {
    db.execute(MARK, [])?;
    Ok(())
}

/// Closes without moving the log: what it would move is not trusted yet.
pub(super) fn close(db: Connection) -> Result<()> {
    db.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true)?;
    drop(db);
    Ok(())
}

/// Opens a database that no connection of this process holds, so that SQLite forgets which part of the log it took for moved, and
/// moves all of it again.
pub(super) fn reopen(path: &Path, bytes_max: Option<u64>, known: Heads) -> Result<Connection> {
    let db = Connection::open(path)?;
    if let Err(error) = check(&db, bytes_max, known) {
        close(db)?;
        return Err(error);
    }
    Ok(db)
}

fn check(db: &Connection, bytes_max: Option<u64>, known: Heads) -> Result<()> {
    configure_writer(db)?;
    set_bytes_max(db, bytes_max);
    let found = Heads::read(Db::Sqlite(Link(db)))?;
    if found != known {
        let text = format!("event {} was the last and now it is {}; start the hub anew", known.seq, found.seq);
        return Err(StoreError::Damaged(text));
    }
    db.query_row("pragma wal_checkpoint(passive)", [], |_| Ok(()))?;
    Ok(())
}
