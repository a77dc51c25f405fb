//! A few reading connections; each question sees one snapshot.
//!
//! A connection that hangs is waited for as long as a question may take, and then dropped: it never keeps the next question waiting.

use std::pin::pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::Semaphore;
use tokio::time::timeout;
use tokio_postgres::IsolationLevel;

use super::connection::{Connection, Server};
use super::link::{Link, Statements};
use crate::error::StoreError;
use crate::sql::db::Db;
use crate::sql::events::{Audiences, Reader};

type Result<T> = std::result::Result<T, StoreError>;

/// How long a question waits for a server that says nothing, and for the answer to each statement of it.
const ANSWER_WITHIN: Duration = Duration::from_secs(8);
/// The server gives up what nobody waits for any more.
const OF_READER: &str = "set statement_timeout = '8s'";

/// The connections and what they share.
pub(crate) struct Readers {
    server: Arc<Server>,
    /// Guards the idle connections; held to take one or give it back.
    idle: Mutex<Vec<Connection>>,
    permits: Arc<Semaphore>,
    audiences: Audiences,
}

impl Readers {
    pub(super) fn new(server: Arc<Server>, count: usize) -> Self {
        let permits = Arc::new(Semaphore::new(count.max(1)));
        Self { server, idle: Mutex::default(), permits, audiences: Audiences::default() }
    }

    /// Asks a question, on a thread that may wait. Nobody waits for longer than a bound in which the server says nothing to anybody.
    pub(crate) async fn read<T: Send + 'static>(
        self: &Arc<Self>,
        question: impl FnOnce(&Reader<'_>) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let silence = &self.server.silence;
        if silence.lasts() >= ANSWER_WITHIN {
            return Err(silent());
        }
        let mut asked = pin!(self.ask(question));
        let began = Instant::now();
        loop {
            let left = ANSWER_WITHIN.saturating_sub(began.elapsed().min(silence.lasts()));
            if left.is_zero() {
                return Err(silent());
            }
            if let Ok(answered) = timeout(left, &mut asked).await {
                return answered;
            }
        }
    }

    async fn ask<T: Send + 'static>(
        self: &Arc<Self>,
        question: impl FnOnce(&Reader<'_>) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let permit = self.permits.clone().acquire_owned().await.map_err(|_| StoreError::Closed)?;
        let readers = self.clone();
        let asked = tokio::task::spawn_blocking(move || {
            // Until the question is answered, also when nobody waits for it any more.
            let _permit = permit;
            readers.answer(question)
        });
        asked.await.map_err(|error| StoreError::Unavailable(error.to_string()))?
    }

    fn answer<T>(&self, question: impl FnOnce(&Reader<'_>) -> Result<T>) -> Result<T> {
        let mut connection = self.server.idle_or_new(&self.idle, OF_READER)?;
        let Connection { server, client, statements, .. } = &mut connection;
        let with = Statements { server, known: statements, within: Some(ANSWER_WITHIN) };
        let begun = client.build_transaction().isolation_level(IsolationLevel::RepeatableRead).read_only(true).start();
        let tx = server.wait_for(ANSWER_WITHIN, begun)?;
        let answer = question(&Reader { db: Db::Postgres(Link { tx: &tx, with }), audiences: &self.audiences });
        // Says that the snapshot is done with, and waits for no answer: whoever asks next on this connection comes after it.
        drop(tx);
        if !matches!(answer, Err(StoreError::Shaken(_))) {
            self.idle.lock().unwrap_or_else(PoisonError::into_inner).push(connection);
        }
        answer
    }

    /// For how long the server has said nothing to those who wait for it.
    pub(crate) fn silence(&self) -> Duration {
        self.server.silence.lasts()
    }

    /// Takes no more questions and closes what is idle.
    pub(crate) fn close(&self) {
        self.permits.close();
        self.idle.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }
}

fn silent() -> StoreError {
    StoreError::Unavailable(format!("the database did not answer in {ANSWER_WITHIN:?}"))
}
