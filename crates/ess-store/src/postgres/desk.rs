//! A few connections for short transactions beside the writer's and the readers'.
//!
//! Who asks never waits for longer than it says: a server that hangs costs it that time and no more.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::Semaphore;

use super::connection::{Connection, Server};
use super::link::{Link, Statements};
use crate::error::StoreError;

type Result<T> = std::result::Result<T, StoreError>;

/// A node that stalls within a transaction may hold the head: not for long.
const OF_DESK: &str = "set idle_in_transaction_session_timeout = '2s'";

/// A connection for short transactions, made when it is asked for and anew when it was lost or does not answer.
pub(super) struct Desk {
    server: Arc<Server>,
    /// Guards the idle connections; one is taken out while it is used.
    idle: Mutex<Vec<Connection>>,
    permits: Arc<Semaphore>,
}

impl Desk {
    pub(super) fn new(server: &Arc<Server>, connections_max: usize) -> Arc<Self> {
        let permits = Arc::new(Semaphore::new(connections_max));
        Arc::new(Self { server: server.clone(), idle: Mutex::default(), permits })
    }

    /// Does something in a transaction, on a thread that may wait. One that takes longer than `within` is given up: whether it
    /// was done is then open.
    pub(super) async fn ask<T: Send + 'static>(
        self: &Arc<Self>,
        within: Duration,
        work: impl FnOnce(Link<'_>) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let desk = self.clone();
        let asked = async move {
            let permit = desk.permits.clone().acquire_owned().await.map_err(|_| StoreError::Closed)?;
            let asked = tokio::task::spawn_blocking(move || {
                // Until it is answered, also when nobody waits for it any more.
                let _permit = permit;
                desk.answer(within, work)
            });
            asked.await.map_err(|error| StoreError::Unavailable(error.to_string()))?
        };
        match tokio::time::timeout(within, asked).await {
            Ok(answered) => answered,
            Err(_) => Err(StoreError::Unavailable(format!("the database did not answer in {within:?}"))),
        }
    }

    /// A connection that does not answer within the time is dropped: the next question has another one.
    fn answer<T>(&self, within: Duration, work: impl FnOnce(Link<'_>) -> Result<T>) -> Result<T> {
        let mut connection = self.server.idle_or_new(&self.idle, OF_DESK)?;
        let Connection { server, client, statements, .. } = &mut connection;
        let tx = server.wait_for(within, client.transaction())?;
        let done = work(Link { tx: &tx, with: Statements { server, known: statements, within: Some(within) } })?;
        server.wait_for(within, tx.commit())?;
        self.idle.lock().unwrap_or_else(PoisonError::into_inner).push(connection);
        Ok(done)
    }
}
