//! The store on SQLite: one writer thread, a few readers, a thread that moves the write-ahead log.
//!
//! Nothing outside this folder names SQLite.

mod apply;
mod backup;
mod batch;
pub(crate) mod browse;
mod checkpoint;
pub(crate) mod deliveries;
pub(crate) mod events;
mod given_up;
pub(crate) mod holds;
pub(crate) mod lane;
pub(crate) mod ledger;
mod mend;
mod quick_check;
mod readers;
pub(crate) mod registry;
pub(crate) mod retention;
mod rows;
mod schema;
pub(crate) mod search;
pub(crate) mod tree;
pub(crate) mod trouble;
mod writer;

use std::fs::{DirBuilder, File};
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use ess_core::id::Digest;
use rusqlite::{Connection, ErrorCode};
use tokio::sync::{mpsc, oneshot, watch};

use self::batch::Item;
use self::checkpoint::Checkpointer;
use self::events::Reader;
use self::readers::Readers;
use self::registry::Act;
use self::writer::{Heads, Shared, State, Writer};
use crate::commit_times::{CommitClock, CommitTimes};
use crate::error::StoreError;
use crate::retention::{Sweep, Swept};
use crate::seal::Seal;
use crate::store::Options;
use crate::types::{Change, NewEvent, Publication, Recorded, Start};

type Result<T> = std::result::Result<T, StoreError>;

/// Bytes of a page; measured in `docs/store.md`.
const PAGE_BYTES: u32 = 4_096;
/// Pages that the writer moves at the latest, should nothing else move them: 128 MiB.
const LOG_PAGES_MAX: u32 = 32_000;
/// Bytes of the log's file that are kept when it is begun anew.
const LOG_BYTES_KEPT: u32 = 32 * 1024 * 1024;
/// How long another program that holds the database is waited for.
const BUSY: Duration = Duration::from_secs(5);

pub use quick_check::{Glance, glance};

/// An open database.
pub(crate) struct Sqlite {
    items: std::sync::mpsc::Sender<Item>,
    shared: Arc<Shared>,
    seal: Arc<Seal>,
    readers: Arc<Readers>,
    path: PathBuf,
    /// Guards the writer's thread; taken when it is closed.
    thread: Mutex<Option<JoinHandle<()>>>,
    /// Keeps a second hub out of the directory.
    _lock: Arc<File>,
}

/// What `open` gives.
pub(crate) struct OpenedSqlite {
    pub(crate) sqlite: Sqlite,
    pub(crate) recorded: mpsc::UnboundedReceiver<Vec<Recorded>>,
    pub(crate) start: Start,
}

impl Sqlite {
    pub(crate) fn open(options: &Options) -> Result<OpenedSqlite> {
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
        let seal = Arc::new(open_seal(&options.dir.join("seal.key"), found)?);
        configure_writer(&db).map_err(|error| fail("ess.db", &error))?;
        let rewritten = mend::rewrite_log(&db, &path);
        if !schema::is_newest(found) {
            rewritten.clone()?;
        }
        schema::migrate(&mut db, found)?;
        set_bytes_max(&db, options.bytes_max);
        // A hub whose disk fails or is full can show what it has; it sends nothing before it can write.
        // What was redacted just before a crash leaves the log here at the latest.
        let failing =
            rewritten.and_then(|()| mend::mark(&db)).and_then(|()| retention::wipe_log(&db).map(|_| ())).err();
        if let Some(error) = &failing {
            tracing::error!(%error, "the store can't write; it is tried again by itself, and nothing is sent before");
        }
        let start = registry::start(&db, &seal)?;
        let heads = Heads::read(&db)?;
        let checkpointer = Checkpointer::start(&path)?;
        File::open(&options.dir).and_then(|dir| dir.sync_all()).map_err(|error| fail("data directory", &error))?;
        let (items, queue) = std::sync::mpsc::channel();
        let (sender, recorded) = mpsc::unbounded_channel();
        let shared = Arc::new(Shared {
            unrecorded: AtomicUsize::new(0),
            failing: Mutex::new(failing.as_ref().map(ToString::to_string)),
            records: AtomicBool::new(failing.is_none()),
            commits: watch::Sender::new(0),
            heads: Mutex::new(heads),
            commit_clock: CommitClock::default(),
        });
        let readers = Arc::new(Readers::new(path.clone(), options.readers));
        let writer = Writer {
            db: Some(db),
            path: path.clone(),
            bytes_max: options.bytes_max,
            readers: readers.clone(),
            seal: seal.clone(),
            items: queue,
            recorded: sender,
            shared: shared.clone(),
            outcome_window: options.outcome_window,
            checkpointer,
            state: State::new(heads, failing.is_some()),
            _lock: lock.clone(),
        };
        let thread = std::thread::Builder::new()
            .name("ess-store-writer".to_owned())
            .spawn(move || writer.run())
            .map_err(|error| fail("writer thread", &error))?;
        let thread = Mutex::new(Some(thread));
        Ok(OpenedSqlite { sqlite: Sqlite { items, shared, seal, readers, path, thread, _lock: lock }, recorded, start })
    }

    pub(crate) async fn publish(&self, new: NewEvent) -> Result<Publication> {
        let (reply, answer) = oneshot::channel();
        self.hand_over(Item::Publish(Box::new(new), reply))?;
        answer.await.map_err(gone)?
    }

    pub(crate) async fn publish_many(&self, news: Vec<NewEvent>) -> Vec<Result<Publication>> {
        let count = news.len();
        let (reply, answer) = oneshot::channel();
        if self.hand_over(Item::PublishMany(news, reply)).is_ok()
            && let Ok(publications) = answer.await
        {
            return publications;
        }
        (0..count).map(|_| Err(StoreError::Closed)).collect()
    }

    pub(crate) fn record(&self, changes: Vec<Change>) {
        let count = changes.len();
        self.shared.unrecorded.fetch_add(count, Ordering::Relaxed);
        // A store that was closed has nobody left who could ask for what is lost here.
        if self.hand_over(Item::Changes(changes)).is_err() {
            self.shared.unrecorded.fetch_sub(count, Ordering::Relaxed);
        }
    }

    pub(crate) async fn record_durably(&self, changes: Vec<Change>) -> Result<()> {
        let count = changes.len();
        let (reply, answer) = oneshot::channel();
        self.shared.unrecorded.fetch_add(count, Ordering::Relaxed);
        if let Err(error) = self.hand_over(Item::Durable(changes, reply)) {
            self.shared.unrecorded.fetch_sub(count, Ordering::Relaxed);
            return Err(error);
        }
        answer.await.map_err(gone)?
    }

    pub(crate) fn unrecorded(&self) -> usize {
        self.shared.unrecorded.load(Ordering::Relaxed)
    }

    pub(crate) fn commits(&self) -> watch::Receiver<u64> {
        self.shared.commits.subscribe()
    }

    pub(crate) fn failing(&self) -> Option<String> {
        self.shared.failing.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(crate) fn records(&self) -> bool {
        self.shared.records.load(Ordering::Relaxed)
    }

    pub(crate) fn commit_times(&self) -> CommitTimes {
        self.shared.commit_clock.times()
    }

    /// Bytes of the database with its write-ahead log.
    pub(crate) fn bytes(&self) -> u64 {
        let log = self.path.with_extension("db-wal");
        [&self.path, &log].iter().map(|path| std::fs::metadata(path).map_or(0, |meta| meta.len())).sum()
    }

    pub(crate) async fn set_bytes_max(&self, bytes: Option<u64>) {
        let (reply, answer) = oneshot::channel();
        if self.hand_over(Item::BytesMax(bytes, reply)).is_ok() {
            // A closed store has no ceiling.
            drop(answer.await);
        }
    }

    pub(crate) async fn act(&self, act: Act) -> Result<u32> {
        let (reply, answer) = oneshot::channel();
        self.hand_over(Item::Act(Box::new(act), reply))?;
        answer.await.map_err(gone)?
    }

    /// One step of retention, when the writer has nothing more urgent to do.
    pub(crate) async fn sweep(&self, sweep: Sweep) -> Result<Swept> {
        let (reply, answer) = oneshot::channel();
        self.hand_over(Item::Sweep(Box::new(sweep), reply))?;
        answer.await.map_err(gone)?
    }

    /// Tries to empty the write-ahead log; false while somebody still reads from it.
    pub(crate) async fn wipe_log(&self) -> Result<bool> {
        let (reply, answer) = oneshot::channel();
        self.hand_over(Item::WipeLog(reply))?;
        answer.await.map_err(gone)?
    }

    /// Asks a question of one snapshot.
    pub(crate) async fn read<T: Send + 'static>(
        &self,
        question: impl FnOnce(&Reader<'_>) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        self.readers.read(question).await
    }

    pub(crate) fn seal(&self) -> Arc<Seal> {
        self.seal.clone()
    }

    /// The ledger's size and chain as of the last commit, from the writer's own memory.
    pub(crate) fn ledger_head(&self) -> (u64, Digest) {
        let heads = *self.shared.heads.lock().unwrap_or_else(PoisonError::into_inner);
        (heads.ledger, heads.chain)
    }

    pub(crate) async fn backup(&self, file: &Path) -> Result<u64> {
        let (path, file, readers) = (self.path.clone(), file.to_owned(), self.readers.clone());
        // On a connection of its own: the readers stay free.
        let copied = tokio::task::spawn_blocking(move || readers.beside(|| backup::backup(&path, &file))).await;
        copied.map_err(|error| StoreError::Unavailable(error.to_string()))?
    }

    fn hand_over(&self, item: Item) -> Result<()> {
        self.items.send(item).map_err(|_| StoreError::Closed)
    }

    /// Writes what is left, closes the database and waits for the writer's end.
    pub(crate) async fn close(&self) {
        let (reply, answer) = oneshot::channel();
        if self.hand_over(Item::Close(reply)).is_ok() {
            // The writer that is gone already has closed it.
            drop(answer.await);
        }
        self.readers.close();
        let thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(thread) = thread {
            // It has answered: it is at its last line.
            drop(tokio::task::spawn_blocking(move || drop(thread.join())).await);
        }
    }
}

/// A reply that never came: the writer is gone.
fn gone(_: oneshot::error::RecvError) -> StoreError {
    StoreError::Closed
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
    db.set_prepared_statement_cache_capacity(48);
    db.pragma_update(None, "cache_size", -1_024)
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
    use super::*;

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
