//! The store as the hub sees it: what each method promises at a crash. Which database keeps it is decided beneath.

mod browse;
mod questions;
mod registry;
mod retention;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, watch};

use crate::commit_times::CommitTimes;
use crate::engine::{Engine, Readers};
use crate::error::StoreError;
use crate::nodes::{NodeNo, Nodes};
use crate::postgres;
use crate::seal::Seal;
use crate::server_url::ServerUrl;
use crate::sql::Heads;
use crate::sqlite;
use crate::types::{Change, NewEvent, Publication, Recorded, Start};
use crate::writer::Keeper;

/// Where the store is and how it behaves.
#[derive(Debug, Clone)]
pub struct Options {
    /// The data directory.
    pub dir: PathBuf,
    /// How long outcomes wait for others before they are committed.
    pub outcome_window: Duration,
    /// Reading connections.
    pub readers: usize,
    /// Ceiling of the database file.
    pub bytes_max: Option<u64>,
    /// The PostgreSQL server; `None` for the embedded database in the directory.
    pub server: Option<ServerUrl>,
    /// The file of the sealing key, where it is not `seal.key` in the directory.
    pub seal_key: Option<PathBuf>,
}

impl Options {
    /// The embedded database of a directory, with the usual behaviour.
    #[must_use]
    pub fn embedded(dir: PathBuf) -> Self {
        Self {
            dir,
            outcome_window: Duration::from_millis(25),
            readers: 2,
            bytes_max: None,
            server: None,
            seal_key: None,
        }
    }

    /// Where the sealing key is.
    pub(crate) fn seal_key(&self) -> PathBuf {
        self.seal_key.clone().unwrap_or_else(|| self.dir.join("seal.key"))
    }
}

/// What an engine has opened.
pub(crate) struct Parts {
    pub(crate) keeper: Keeper,
    pub(crate) readers: Readers,
    pub(crate) seal: Arc<Seal>,
    pub(crate) heads: Heads,
    pub(crate) start: Start,
    /// Why it can't be written to yet.
    pub(crate) failing: Option<StoreError>,
    /// The others that share it.
    pub(crate) nodes: Option<Nodes>,
}

/// An open store with what it holds.
pub struct Opened {
    /// The store.
    pub store: Store,
    /// Every event that is recorded from now on, once, in the order of the log, after its commit.
    pub recorded: mpsc::UnboundedReceiver<Vec<Recorded>>,
    /// What it holds.
    pub start: Start,
    /// The other hubs that share it; none where nobody can.
    pub nodes: Option<Nodes>,
}

/// The store; cheap to clone.
#[derive(Clone)]
pub struct Store {
    engine: Arc<Engine>,
}

impl Store {
    /// Opens or makes the store of a directory.
    ///
    /// # Errors
    /// Another hub has it open, it is damaged or of a newer hub, or the directory can't be written.
    pub fn open(options: &Options) -> Result<Opened, StoreError> {
        let mut parts = match &options.server {
            None => sqlite::open(options)?,
            Some(server) => postgres::open(options, server)?,
        };
        let start = std::mem::take(&mut parts.start);
        let nodes = parts.nodes.take();
        let (engine, recorded) = Engine::start(parts, options.outcome_window)?;
        Ok(Opened { store: Store { engine: Arc::new(engine) }, recorded, start, nodes })
    }

    /// Appends an event, unless its identity (id, test) is taken; durable when this returns.
    ///
    /// # Errors
    /// `Unavailable`: nothing was recorded, the id is free, and no number of the log was used up. After a power cut at this very
    /// moment the event may be in the log all the same; publishing it again tells.
    pub async fn publish(&self, new: NewEvent) -> Result<Publication, StoreError> {
        self.engine.publish(new).await
    }

    /// Appends events in this order, in one commit; an answer for each, all durable when this returns.
    pub async fn publish_many(&self, news: Vec<NewEvent>) -> Vec<Result<Publication, StoreError>> {
        self.engine.publish_many(news).await
    }

    /// Hands outcomes over; they are committed within the outcome window, in this order, and tried again while the store fails.
    /// A crash before that forgets them: what they were about is sent again.
    pub fn record(&self, changes: Vec<Change>) {
        self.engine.record(changes);
    }

    /// Hands outcomes over and waits for their commit; all that was handed over before is durable too.
    ///
    /// # Errors
    /// `Unavailable`, `Unanswered`: they are kept and tried again. `Refused`: one of the commit's outcomes broke a rule of the schema and was
    /// left out.
    pub async fn record_durably(&self, changes: Vec<Change>) -> Result<(), StoreError> {
        self.engine.record_durably(changes).await
    }

    /// For how long the database has said nothing to those who wait for it: one that hangs. None of a directory.
    #[must_use]
    pub fn silence(&self) -> Duration {
        self.engine.silence()
    }

    /// Outcomes that were handed over and are not yet committed.
    #[must_use]
    pub fn unrecorded(&self) -> usize {
        self.engine.unrecorded()
    }

    /// Counts commits: who waits for something to change waits for this.
    #[must_use]
    pub fn commits(&self) -> watch::Receiver<u64> {
        self.engine.commits()
    }

    /// Others committed something: who waits for a commit looks.
    pub fn hear_of_commits(&self) {
        self.engine.hear_of_commits();
    }

    /// Why the last commit failed, until one succeeds; the store tries by itself.
    #[must_use]
    pub fn failing(&self) -> Option<String> {
        self.engine.failing()
    }

    /// Whether outcomes can be written down: false from a commit that failed until one succeeds, and at the start until then.
    #[must_use]
    pub fn records(&self) -> bool {
        self.engine.records()
    }

    /// How long commits took since the store was opened.
    #[must_use]
    pub fn commit_times(&self) -> CommitTimes {
        self.engine.commit_times()
    }

    /// Bytes that the store takes now; none at a server, which its operator watches.
    #[must_use]
    pub fn bytes(&self) -> Option<u64> {
        self.engine.bytes()
    }

    /// Sets another ceiling of the database file.
    pub async fn set_bytes_max(&self, bytes: Option<u64>) {
        self.engine.set_bytes_max(bytes).await;
    }

    /// As which node outcomes are written down from now on. Those that wait from before are left out: they are of who it was before.
    pub async fn set_node(&self, node: Option<NodeNo>) {
        self.engine.set_node(node).await;
    }

    /// Outcomes were refused since the node was set: it was given up, and others serve its partners.
    #[must_use]
    pub fn is_out(&self) -> bool {
        self.engine.is_out()
    }

    /// Writes what is left and closes the database; every later call answers `Closed`.
    pub async fn close(&self) {
        self.engine.close().await;
    }
}
