//! An open database, whichever it is: one writer on a thread of its own, and a few readers.

use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use ess_core::id::Digest;
use tokio::sync::{mpsc, oneshot, watch};

use crate::commit_times::{CommitClock, CommitTimes};
use crate::error::StoreError;
use crate::nodes::NodeNo;
use crate::postgres;
use crate::retention::{Sweep, Swept};
use crate::seal::Seal;
use crate::sql::events::Reader;
use crate::sql::registry::Act;
use crate::sqlite;
use crate::store::Parts;
use crate::types::{Change, NewEvent, Publication, Recorded};
use crate::writer::{Item, Shared, State, Writer};

type Result<T> = std::result::Result<T, StoreError>;

/// How long who writes waits for a server: less than clients wait before they ask the next hub.
const ANSWER_WITHIN: Duration = Duration::from_secs(8);

/// Who answers questions.
pub(crate) enum Readers {
    /// On the file.
    Sqlite(Arc<sqlite::Readers>),
    /// At a server.
    Postgres(Arc<postgres::Readers>),
}

/// An open database.
pub(crate) struct Engine {
    items: std::sync::mpsc::Sender<Item>,
    shared: Arc<Shared>,
    seal: Arc<Seal>,
    readers: Readers,
    /// Guards the writer's thread; taken when it is closed.
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl Engine {
    /// Starts the writer.
    pub(crate) fn start(
        parts: Parts,
        outcome_window: Duration,
    ) -> Result<(Self, mpsc::UnboundedReceiver<Vec<Recorded>>)> {
        let Parts { keeper, readers, seal, heads, failing, start: _, nodes: _ } = parts;
        let (items, queue) = std::sync::mpsc::channel();
        let (sender, recorded) = mpsc::unbounded_channel();
        let shared = Arc::new(Shared {
            unrecorded: AtomicUsize::new(0),
            failing: Mutex::new(failing.as_ref().map(ToString::to_string)),
            records: AtomicBool::new(failing.is_none()),
            commits: watch::Sender::new(0),
            heads: Mutex::new(heads),
            commit_clock: CommitClock::default(),
            is_out: AtomicBool::new(false),
        });
        let writer = Writer {
            keeper,
            seal: seal.clone(),
            items: queue,
            recorded: sender,
            shared: shared.clone(),
            outcome_window,
            state: State::new(heads, failing.is_some()),
        };
        let thread = std::thread::Builder::new()
            .name("ess-store-writer".to_owned())
            .spawn(move || writer.run())
            .map_err(|error| StoreError::Open(format!("writer thread: {error}")))?;
        Ok((Self { items, shared, seal, readers, thread: Mutex::new(Some(thread)) }, recorded))
    }

    pub(crate) async fn publish(&self, new: NewEvent) -> Result<Publication> {
        let (reply, answer) = oneshot::channel();
        self.hand_over(Item::Publish(Box::new(new), reply))?;
        self.answered(answer).await?
    }

    pub(crate) async fn publish_many(&self, news: Vec<NewEvent>) -> Vec<Result<Publication>> {
        let count = news.len();
        let (reply, answer) = oneshot::channel();
        let answered = match self.hand_over(Item::PublishMany(news, reply)) {
            Ok(()) => self.answered(answer).await,
            Err(error) => Err(error),
        };
        answered.unwrap_or_else(|error| (0..count).map(|_| Err(error.clone())).collect())
    }

    /// What the writer says. Nobody waits for a server that hangs until the writer gives it up: it is open then whether it was done.
    async fn answered<T>(&self, answer: oneshot::Receiver<T>) -> Result<T> {
        if let Readers::Sqlite(_) = self.readers {
            return answer.await.map_err(gone);
        }
        match tokio::time::timeout(ANSWER_WITHIN, answer).await {
            Ok(answered) => answered.map_err(gone),
            Err(_) => Err(StoreError::Unanswered(format!("the database did not answer in {ANSWER_WITHIN:?}"))),
        }
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
        self.answered(answer).await?
    }

    pub(crate) fn unrecorded(&self) -> usize {
        self.shared.unrecorded.load(Ordering::Relaxed)
    }

    pub(crate) fn commits(&self) -> watch::Receiver<u64> {
        self.shared.commits.subscribe()
    }

    pub(crate) fn hear_of_commits(&self) {
        self.shared.commits.send_modify(|count| *count += 1);
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

    /// Bytes of the database with its write-ahead log; a server's are its operator's to watch.
    pub(crate) fn bytes(&self) -> Option<u64> {
        match &self.readers {
            Readers::Sqlite(readers) => Some(readers.bytes()),
            Readers::Postgres(_) => None,
        }
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
        self.answered(answer).await?
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
        match &self.readers {
            Readers::Sqlite(readers) => readers.read(question).await,
            Readers::Postgres(readers) => readers.read(question).await,
        }
    }

    /// For how long the database has said nothing to those who wait for it; the embedded one always answers.
    pub(crate) fn silence(&self) -> Duration {
        match &self.readers {
            Readers::Sqlite(_) => Duration::ZERO,
            Readers::Postgres(readers) => readers.silence(),
        }
    }

    pub(crate) fn seal(&self) -> Arc<Seal> {
        self.seal.clone()
    }

    /// The ledger's size and chain: from the writer's own memory where it is the only one, else asked for.
    pub(crate) async fn ledger_head(&self) -> Result<(u64, Digest)> {
        match &self.readers {
            Readers::Sqlite(_) => Ok(self.known_ledger_head()),
            Readers::Postgres(readers) => readers.read(postgres::ledger_head).await,
        }
    }

    /// The same as of the last commit of this process: what it wrote itself can't be taken away unnoticed.
    pub(crate) fn known_ledger_head(&self) -> (u64, Digest) {
        let heads = *self.shared.heads.lock().unwrap_or_else(PoisonError::into_inner);
        (heads.ledger, heads.chain)
    }

    /// As which node outcomes are written down from now on; what waits from before is left out.
    pub(crate) async fn set_node(&self, node: Option<NodeNo>) {
        self.shared.is_out.store(false, Ordering::Relaxed);
        let (reply, answer) = oneshot::channel();
        if self.hand_over(Item::Node(node, reply)).is_ok() {
            // A closed store writes nothing.
            drop(answer.await);
        }
    }

    /// Outcomes were refused, as this node was given up.
    pub(crate) fn is_out(&self) -> bool {
        self.shared.is_out.load(Ordering::Relaxed)
    }

    pub(crate) async fn backup(&self, file: &Path) -> Result<u64> {
        match &self.readers {
            Readers::Sqlite(readers) => readers.backup(file).await,
            Readers::Postgres(_) => Err(StoreError::Refused(
                "a hub on PostgreSQL is backed up with the database's own means: pg_dump, or base back-ups with archived \
                 WAL for a point in time; keep seal.key beside them"
                    .to_owned(),
            )),
        }
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
        match &self.readers {
            Readers::Sqlite(readers) => readers.close(),
            Readers::Postgres(readers) => readers.close(),
        }
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
