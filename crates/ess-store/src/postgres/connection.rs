//! A server's runtime and its connections.

use std::cell::RefCell;
use std::collections::HashMap;
use std::future::Future;
use std::future::poll_fn;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::runtime::Runtime;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_postgres::{AsyncMessage, Client, NoTls, Statement};

use super::address::{self, Address};
use super::link::Form;
use super::silence::Silence;
use crate::error::StoreError;
use crate::nodes::Notice;

type Result<T> = std::result::Result<T, StoreError>;

/// How long an answer is waited for that may take its time, as a commit's does; the server gives a statement up a little earlier.
const ANSWER_WITHIN: Duration = Duration::from_secs(35);
/// How long one server may take to let a connection in, and to hear what it begins with.
const REACH_WITHIN: Duration = Duration::from_secs(5);
/// What every connection begins with: a client that is gone is given up within some ten seconds, with all that it held. A commit is durable before it is answered, whatever the database's own setting.
const BEGIN: &str = "select set_config('synchronous_commit', 'on', false) \
        where current_setting('synchronous_commit') in ('off', 'local'); \
    set statement_timeout = '30s'; set lock_timeout = '10s'; set idle_in_transaction_session_timeout = '60s'; \
    set tcp_keepalives_idle = 5; set tcp_keepalives_interval = 2; set tcp_keepalives_count = 3; \
    set tcp_user_timeout = 10000; set jit = off; set client_min_messages = warning";

/// A server, with what drives its connections.
pub(super) struct Server {
    address: Address,
    /// Which of the address' servers the writer went to last: it is asked first.
    last: AtomicUsize,
    /// Counts the writer's connections. Those that were made before the last of them may lead to a server that was replaced since.
    era: AtomicU64,
    /// Taken when the last one goes: a runtime may not be dropped within another.
    runtime: Option<Runtime>,
    /// Other nodes want to hear of new events.
    pub(super) has_peers: AtomicBool,
    pub(super) silence: Arc<Silence>,
}

impl Server {
    pub(super) fn start(address: Address) -> Result<Self> {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .thread_name("ess-store-postgres")
            .enable_all()
            .build()
            .map_err(|error| StoreError::Open(format!("connections' thread: {error}")))?;
        Ok(Self {
            address,
            last: AtomicUsize::new(0),
            era: AtomicU64::new(0),
            runtime: Some(runtime),
            has_peers: AtomicBool::new(false),
            silence: Arc::default(),
        })
    }

    /// Waits on this thread, within a bound.
    pub(super) fn wait<T, E: Into<StoreError>>(
        &self,
        answer: impl Future<Output = std::result::Result<T, E>>,
    ) -> Result<T> {
        self.wait_for(ANSWER_WITHIN, answer)
    }

    /// The same, within a bound of one's own.
    pub(super) fn wait_for<T, E: Into<StoreError>>(
        &self,
        within: Duration,
        answer: impl Future<Output = std::result::Result<T, E>>,
    ) -> Result<T> {
        let runtime = self.runtime.as_ref().ok_or(StoreError::Closed)?;
        let asked = self.silence.ask();
        match runtime.block_on(async { timeout(within, answer).await }) {
            Ok(Ok(answered)) => {
                asked.heard();
                Ok(answered)
            }
            Ok(Err(error)) => Err(error.into()),
            Err(_) => {
                self.silence.give_up();
                Err(StoreError::Shaken(format!("the database did not answer in {within:?}")))
            }
        }
    }

    pub(super) fn connect(self: &Arc<Self>) -> Result<Connection> {
        self.connect_with(None)
    }

    /// One of these that is idle, or a new one, told so first; those whose server went away meanwhile are dropped.
    pub(super) fn idle_or_new(self: &Arc<Self>, idle: &Mutex<Vec<Connection>>, first: &str) -> Result<Connection> {
        loop {
            let known = idle.lock().unwrap_or_else(PoisonError::into_inner).pop();
            match known {
                Some(connection) if connection.is_closed() => {}
                Some(connection) => return Ok(connection),
                None => break,
            }
        }
        let connection = self.connect()?;
        if !first.is_empty() {
            self.wait_for(REACH_WITHIN, connection.client.batch_execute(first))?;
        }
        Ok(connection)
    }

    /// The same, with an ear for what is told to all; it hears nothing more when the connection ends.
    pub(super) fn connect_with(self: &Arc<Self>, ear: Option<mpsc::UnboundedSender<Notice>>) -> Result<Connection> {
        let connection = self.wait(self.reach(&ear))?;
        self.wait_for(REACH_WITHIN, connection.client.batch_execute(BEGIN))?;
        Ok(connection)
    }

    /// Connects to the server that can be written to: the one that the writer went to last, else the next one that is.
    async fn reach(self: &Arc<Self>, ear: &Option<mpsc::UnboundedSender<Notice>>) -> Result<Connection> {
        let servers = &self.address.servers;
        let first = self.last.load(Ordering::Relaxed);
        let mut failures = Vec::new();
        for index in (0..servers.len()).map(|offset| (first + offset) % servers.len()) {
            let failure = match timeout(REACH_WITHIN, self.reach_one(index, ear.clone())).await {
                Ok(Ok(connection)) => return Ok(connection),
                Ok(Err(error)) => error,
                Err(_) => {
                    self.silence.give_up();
                    StoreError::Shaken(format!("the database did not answer in {REACH_WITHIN:?}"))
                }
            };
            failures.push((address::name(&servers[index]), failure));
        }
        Err(all_of(failures))
    }

    async fn reach_one(
        self: &Arc<Self>,
        index: usize,
        ear: Option<mpsc::UnboundedSender<Notice>>,
    ) -> Result<Connection> {
        let runtime = self.runtime.as_ref().ok_or(StoreError::Closed)?;
        let (server, era) = (&self.address.servers[index], self.era.load(Ordering::Relaxed));
        let (client, driver) = match &self.address.tls {
            Some(tls) => {
                let (client, connection) = server.connect(tls.clone()).await?;
                (client, runtime.spawn(drive(connection, ear)))
            }
            None => {
                let (client, connection) = server.connect(NoTls).await?;
                (client, runtime.spawn(drive(connection, ear)))
            }
        };
        Ok(Connection { server: self.clone(), index, era, client, driver, statements: RefCell::default() })
    }
}

/// Why none of the servers can be written to. It may pass when it may for one of them.
fn all_of(mut failures: Vec<(String, StoreError)>) -> StoreError {
    if failures.len() == 1
        && let Some((_, failure)) = failures.pop()
    {
        return failure;
    }
    let (mut told, mut may_pass) = (Vec::new(), false);
    for (name, failure) in failures {
        may_pass |= matches!(failure, StoreError::Shaken(_));
        told.push(match failure {
            StoreError::Unavailable(text) | StoreError::Shaken(text) => format!("{name}: {text}"),
            other => format!("{name}: {other}"),
        });
    }
    let text = told.join("; ");
    if may_pass { StoreError::Shaken(text) } else { StoreError::Unavailable(text) }
}

/// Moves what is said and heard until the connection ends.
async fn drive<S, T>(
    mut connection: tokio_postgres::Connection<S, T>,
    ear: Option<mpsc::UnboundedSender<Notice>>,
) -> std::result::Result<(), tokio_postgres::Error>
where
    S: AsyncRead + AsyncWrite + Unpin,
    T: AsyncRead + AsyncWrite + Unpin,
{
    while let Some(message) = poll_fn(|context| connection.poll_message(context)).await {
        if let AsyncMessage::Notification(told) = message?
            && let (Some(ear), Some(notice)) = (&ear, Notice::parse(told.payload()))
        {
            // Who does not listen any more closes the connection.
            let _ = ear.send(notice);
        }
    }
    Ok(())
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

/// A connection with the statements that it knows.
pub(super) struct Connection {
    pub(super) server: Arc<Server>,
    /// To which of the address' servers.
    index: usize,
    era: u64,
    pub(super) client: Client,
    /// Ends when the client is gone or the server is.
    driver: JoinHandle<std::result::Result<(), tokio_postgres::Error>>,
    pub(super) statements: RefCell<HashMap<(Form, &'static str), Statement>>,
}

impl Connection {
    /// Whether nothing more may be asked by it: it has ended, or the writer went elsewhere since it was made.
    pub(super) fn is_closed(&self) -> bool {
        self.client.is_closed() || self.era != self.server.era.load(Ordering::Relaxed)
    }

    /// The writer goes by it from now on, and everybody else to the same server: one that was replaced and still answers knows
    /// nothing of what is written.
    pub(super) fn lead(&mut self) {
        self.server.last.store(self.index, Ordering::Relaxed);
        self.era = self.server.era.fetch_add(1, Ordering::Relaxed) + 1;
    }

    /// Ends it in order, so that the server lets go of what it held.
    pub(super) fn close(self) {
        let Self { server, client, driver, .. } = self;
        drop(client);
        // A connection that ended badly has ended too.
        drop(server.wait(async { driver.await.map_err(|error| StoreError::Unavailable(error.to_string())) }));
    }
}
