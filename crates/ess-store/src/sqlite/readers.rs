//! A few reading connections; each question sees one snapshot.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use rusqlite::{Connection, OpenFlags};
use tokio::sync::Semaphore;

use super::configure_reader;
use super::events::{Audiences, Reader};
use crate::error::StoreError;

/// The connections and what they share.
pub(super) struct Readers {
    path: PathBuf,
    /// Guards the idle connections; held to take one or give it back.
    idle: Mutex<Vec<Connection>>,
    permits: Arc<Semaphore>,
    audiences: Audiences,
}

impl Readers {
    pub(super) fn new(path: PathBuf, count: usize) -> Self {
        let permits = Arc::new(Semaphore::new(count.max(1)));
        Self { path, idle: Mutex::default(), permits, audiences: Audiences::default() }
    }

    /// Asks a question, on a thread that may wait.
    pub(super) async fn read<T: Send + 'static>(
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
        let idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let db = match idle {
            Some(db) => db,
            None => open(&self.path)?,
        };
        let snapshot = db.unchecked_transaction()?;
        let answer = question(&Reader { db: &snapshot, audiences: &self.audiences });
        // A snapshot that can't be ended goes with its connection.
        snapshot.finish()?;
        self.idle.lock().unwrap_or_else(PoisonError::into_inner).push(db);
        answer
    }

    /// Takes no more questions and closes what is idle.
    pub(super) fn close(&self) {
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
