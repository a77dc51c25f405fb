//! A few reading connections; each question sees one snapshot.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, RwLock, RwLockWriteGuard, TryLockError};
use std::time::{Duration, Instant};

use rusqlite::{Connection, OpenFlags};
use tokio::sync::Semaphore;

use super::configure_reader;
use super::{Link, backup};
use crate::error::StoreError;
use crate::sql::db::Db;
use crate::sql::events::{Audiences, Reader};

/// How long the end of questions under way is waited for, and how often it is looked for.
const QUIET_WITHIN: Duration = Duration::from_millis(200);
const LOOK_EVERY: Duration = Duration::from_millis(1);

/// The connections and what they share.
pub(crate) struct Readers {
    path: PathBuf,
    /// Guards the idle connections; held to take one or give it back.
    idle: Mutex<Vec<Connection>>,
    /// Guards the database against being opened while the writer opens it anew; read while a connection is used.
    gate: RwLock<()>,
    permits: Arc<Semaphore>,
    audiences: Audiences,
    /// Keeps a second hub out of the directory.
    _lock: Arc<File>,
}

impl Readers {
    pub(super) fn new(path: PathBuf, count: usize, lock: Arc<File>) -> Self {
        let permits = Arc::new(Semaphore::new(count.max(1)));
        Self {
            path,
            idle: Mutex::default(),
            gate: RwLock::default(),
            permits,
            audiences: Audiences::default(),
            _lock: lock,
        }
    }

    /// Bytes of the database with its write-ahead log.
    pub(crate) fn bytes(&self) -> u64 {
        let log = self.path.with_extension("db-wal");
        [&self.path, &log].iter().map(|path| std::fs::metadata(path).map_or(0, |meta| meta.len())).sum()
    }

    /// Asks a question, on a thread that may wait.
    pub(crate) async fn read<T: Send + 'static>(
        self: &Arc<Self>,
        question: impl FnOnce(&Reader<'_>) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        let permit = self.permits.clone().acquire_owned().await.map_err(|_| StoreError::Closed)?;
        let readers = self.clone();
        let asked = tokio::task::spawn_blocking(move || {
            // Until the question is answered, also when nobody waits for it any more.
            let _permit = permit;
            readers.answer(question)
        });
        asked.await.map_err(|error| StoreError::Unavailable(error.to_string()))?
    }

    fn answer<T>(&self, question: impl FnOnce(&Reader<'_>) -> Result<T, StoreError>) -> Result<T, StoreError> {
        let _open = self.gate.read().unwrap_or_else(PoisonError::into_inner);
        let idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let db = match idle {
            Some(db) => db,
            None => open(&self.path)?,
        };
        let snapshot = db.unchecked_transaction()?;
        let answer = question(&Reader { db: Db::Sqlite(Link(&snapshot)), audiences: &self.audiences });
        // A snapshot that can't be ended goes with its connection.
        snapshot.finish()?;
        self.idle.lock().unwrap_or_else(PoisonError::into_inner).push(db);
        answer
    }

    /// Copies the database to a new file, on a connection of its own: the readers stay free.
    pub(crate) async fn backup(self: &Arc<Self>, file: &Path) -> Result<u64, StoreError> {
        let (readers, file) = (self.clone(), file.to_owned());
        let copied = tokio::task::spawn_blocking(move || {
            let _open = readers.gate.read().unwrap_or_else(PoisonError::into_inner);
            backup::backup(&readers.path, &file)
        });
        copied.await.map_err(|error| StoreError::Unavailable(error.to_string()))?
    }

    /// Closes every connection and holds new ones back while the answer lives; fails when one is used for long, such as by a back-up.
    pub(super) fn hold(&self) -> Result<RwLockWriteGuard<'_, ()>, StoreError> {
        let end = Instant::now() + QUIET_WITHIN;
        loop {
            // Never waits in the line of the lock: questions that come meanwhile would wait behind it.
            let held = match self.gate.try_write() {
                Ok(held) => held,
                Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
                Err(TryLockError::WouldBlock) if Instant::now() < end => {
                    std::thread::sleep(LOOK_EVERY);
                    continue;
                }
                Err(TryLockError::WouldBlock) => {
                    let text = "the database is to be opened anew, and a back-up or a long question is using it";
                    return Err(StoreError::Unavailable(text.to_owned()));
                }
            };
            self.idle.lock().unwrap_or_else(PoisonError::into_inner).clear();
            return Ok(held);
        }
    }

    /// Takes no more questions and closes what is idle.
    pub(crate) fn close(&self) {
        self.permits.close();
        self.idle.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }
}

pub(super) fn open(path: &Path) -> Result<Connection, StoreError> {
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let db = Connection::open_with_flags(path, flags)?;
    configure_reader(&db)?;
    Ok(db)
}
