//! The store on SQLite: one writer thread, a few readers, a thread that moves the write-ahead log.
//!
//! Nothing outside this folder names SQLite.

mod backup;
mod checkpoint;
mod keeper;
mod link;
mod mend;
mod quick_check;
mod readers;
mod schema;

use std::fs::{DirBuilder, File};
use std::os::unix::fs::DirBuilderExt as _;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use rusqlite::config::DbConfig;
use rusqlite::{Connection, ErrorCode};

use self::checkpoint::Checkpointer;
pub(crate) use self::keeper::Keeper;
pub(crate) use self::link::{Link, cell};
pub use self::quick_check::{Glance, glance};
pub(crate) use self::readers::Readers;
use crate::error::StoreError;
use crate::seal::Seal;
use crate::sql::db::Db;
use crate::sql::{Heads, registry};
use crate::store::{Options, Parts};

type Result<T> = std::result::Result<T, StoreError>;

/// Bytes of a page; measured in `docs/store.md`.
const PAGE_BYTES: u32 = 4_096;
/// Pages that the writer moves at the latest, should nothing else move them: 128 MiB.
const LOG_PAGES_MAX: u32 = 32_000;
/// Bytes of the log's file that are kept when it is begun anew.
const LOG_BYTES_KEPT: u32 = 32 * 1024 * 1024;
/// How long another program that holds the database is waited for.
const BUSY: Duration = Duration::from_secs(5);

/// Opens or makes the database of a directory.
pub(crate) fn open(options: &Options) -> Result<Parts> {
    let fail = |what: &str, error: &dyn std::fmt::Display| StoreError::Open(format!("{what}: {error}"));
    let made = DirBuilder::new().recursive(true).mode(0o700).create(&options.dir);
    made.map_err(|error| fail("data directory", &error))?;
    // Its name may be new; whoever may not open the folder above had it made by somebody else.
    if let Some(Ok(above)) = options.dir.parent().map(File::open) {
        above.sync_all().map_err(|error| fail("data directory", &error))?;
    }
    let lock = Arc::new(lock(&options.dir)?);
    let path = options.dir.join("ess.db");
    let mut db = Connection::open(&path).map_err(|error| fail("ess.db", &error))?;
    // Looked at before anything is changed: another program's database stays as it is.
    let found = schema::look(&db)?;
    let seal = Arc::new(open_seal(&options.seal_key(), found)?);
    configure_writer(&db).map_err(|error| fail("ess.db", &error))?;
    let rewritten = mend::rewrite_log(&db, &path);
    if !schema::is_newest(found) {
        rewritten.clone()?;
    }
    schema::migrate(&mut db, found)?;
    set_bytes_max(&db, options.bytes_max);
    // A hub whose disk fails or is full can show what it has; it sends nothing before it can write.
    // What was redacted just before a crash leaves the log here at the latest.
    let failing = rewritten.and_then(|()| mend::mark(&db)).and_then(|()| keeper::wipe_log(&db).map(|_| ())).err();
    if let Some(error) = &failing {
        tracing::error!(%error, "the store can't write; it is tried again by itself, and nothing is sent before");
    }
    let start = registry::start(Db::Sqlite(Link(&db)), &seal)?;
    let heads = Heads::read(Db::Sqlite(Link(&db)))?;
    let checkpointer = Checkpointer::start(&path)?;
    File::open(&options.dir).and_then(|dir| dir.sync_all()).map_err(|error| fail("data directory", &error))?;
    let readers = Arc::new(Readers::new(path.clone(), options.readers, lock.clone()));
    let bytes_max = options.bytes_max;
    let keeper = Keeper { db: Some(db), path, bytes_max, readers: readers.clone(), checkpointer, _lock: lock };
    Ok(Parts {
        keeper: crate::writer::Keeper::Sqlite(Box::new(keeper)),
        readers: crate::engine::Readers::Sqlite(readers),
        seal,
        heads,
        start,
        failing,
        nodes: None,
    })
}

/// Names what failed by what the caller can do about it.
impl From<rusqlite::Error> for StoreError {
    fn from(error: rusqlite::Error) -> Self {
        let text = error.to_string();
        match &error {
            rusqlite::Error::SqliteFailure(failure, _) => match failure.code {
                ErrorCode::ConstraintViolation | ErrorCode::TypeMismatch | ErrorCode::TooBig => Self::Refused(text),
                ErrorCode::SystemIoFailure => Self::Shaken(text),
                ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase => Self::Damaged(text),
                _ => Self::Unavailable(text),
            },
            // A value that SQLite has no room for, such as a number past 2^63.
            rusqlite::Error::ToSqlConversionFailure(_) => Self::Refused(text),
            rusqlite::Error::InvalidColumnType(..)
            | rusqlite::Error::FromSqlConversionFailure(..)
            | rusqlite::Error::IntegralValueOutOfRange(..)
            | rusqlite::Error::Utf8Error(..)
            | rusqlite::Error::QueryReturnedNoRows => Self::Damaged(text),
            _ => Self::Unavailable(text),
        }
    }
}

/// A database with its key, or neither: a new key would open none of the old secrets.
fn open_seal(path: &Path, found: schema::Found) -> Result<Seal> {
    match (Seal::read(path)?, found) {
        (Some(seal), _) => Ok(seal),
        (None, schema::Found::Fresh) => Seal::make(path),
        (None, schema::Found::Schema(_)) => {
            let text = format!("{} is missing: put it back beside ess.db; secrets open with it alone", path.display());
            Err(StoreError::Open(text))
        }
    }
}

fn configure_writer(db: &Connection) -> rusqlite::Result<()> {
    db.busy_timeout(BUSY)?;
    keep_plans(db)?;
    db.set_prepared_statement_cache_capacity(96);
    // These take effect on a fresh database only.
    db.pragma_update(None, "page_size", PAGE_BYTES)?;
    db.pragma_update(None, "auto_vacuum", "incremental")?;
    db.pragma_update(None, "cache_size", -2_048)?;
    db.pragma_update(None, "journal_mode", "wal")?;
    db.pragma_update(None, "synchronous", "full")?;
    db.pragma_update(None, "foreign_keys", true)?;
    // What is deleted is overwritten, so that a payload that was redacted is not found in a page that nobody uses.
    db.pragma_update(None, "secure_delete", true)?;
    db.pragma_update(None, "wal_autocheckpoint", LOG_PAGES_MAX)?;
    db.pragma_update(None, "journal_size_limit", LOG_BYTES_KEPT)
}

fn configure_reader(db: &Connection) -> rusqlite::Result<()> {
    db.busy_timeout(BUSY)?;
    keep_plans(db)?;
    db.set_prepared_statement_cache_capacity(48);
    db.pragma_update(None, "cache_size", -1_024)
}

/// A plan does not depend on what is given for a statement's places. Else SQLite makes a kept statement anew each time that something
/// is given for its `limit ?`, which costs more than most answers.
fn keep_plans(db: &Connection) -> rusqlite::Result<()> {
    db.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_QPSG, true).map(drop)
}

fn set_bytes_max(db: &Connection, bytes: Option<u64>) {
    let page: u64 = db.query_row("pragma page_size", [], |row| row.get(0)).unwrap_or(u64::from(PAGE_BYTES));
    let pages = bytes.map_or(4_294_967_294, |bytes| (bytes / page).clamp(1, 4_294_967_294));
    // Never below what is there: SQLite keeps the larger of the two.
    if let Err(error) = db.query_row(&format!("pragma max_page_count = {pages}"), [], |_| Ok(())) {
        tracing::warn!(%error, "could not set the ceiling of the database file");
    }
}

fn lock(dir: &Path) -> Result<File> {
    let path = dir.join("lock");
    let fail = |error: &dyn std::fmt::Display| StoreError::Open(format!("{}: {error}", path.display()));
    let file = File::options().create(true).truncate(false).write(true).open(&path).map_err(|error| fail(&error))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(std::fs::TryLockError::WouldBlock) => Err(fail(&"another hub has this data directory open")),
        Err(std::fs::TryLockError::Error(error)) => Err(fail(&error)),
    }
}

#[cfg(test)]
mod tests {
    use rusqlite::StatementStatus;

    use super::*;

    #[test]
    fn a_kept_statement_is_not_made_anew_whatever_is_given() {
        let db = Connection::open_in_memory().unwrap();
        configure_reader(&db).unwrap();
        db.execute_batch("create table event (seq integer primary key, test integer not null)").unwrap();
        let mut statement = db.prepare("select seq from event where test = ?1 order by seq limit ?2").unwrap();
        for number in 0..3 {
            assert!(statement.query((number, number)).unwrap().next().unwrap().is_none());
        }
        assert_eq!(statement.get_status(StatementStatus::RePrepare), 0);
    }

    #[track_caller]
    fn check(code: std::ffi::c_int, expected: fn(&StoreError) -> bool) {
        let error = StoreError::from(rusqlite::Error::SqliteFailure(rusqlite::ffi::Error::new(code), None));
        assert!(expected(&error), "{code}: {error:?}");
    }

    #[test]
    fn failures_are_named_by_what_can_be_done() {
        for code in [rusqlite::ffi::SQLITE_FULL, rusqlite::ffi::SQLITE_BUSY, rusqlite::ffi::SQLITE_READONLY] {
            check(code, |error| matches!(error, StoreError::Unavailable(_)));
        }
        for code in [rusqlite::ffi::SQLITE_IOERR_FSYNC, rusqlite::ffi::SQLITE_IOERR_WRITE] {
            check(code, |error| matches!(error, StoreError::Shaken(_)));
        }
        for code in [rusqlite::ffi::SQLITE_CONSTRAINT_CHECK, rusqlite::ffi::SQLITE_CONSTRAINT_UNIQUE] {
            check(code, |error| matches!(error, StoreError::Refused(_)));
        }
        for code in [rusqlite::ffi::SQLITE_CORRUPT, rusqlite::ffi::SQLITE_NOTADB] {
            check(code, |error| matches!(error, StoreError::Damaged(_)));
        }
    }
}
