//! The one writer: takes what is to be written, commits it in groups, and tells those who wait.
//!
//! An idle hub commits at once; while an fsync runs, what comes in the meantime queues up and goes together. Outcomes alone wait for
//! the outcome window. A commit that fails changes nothing: publishers are refused, outcomes are kept and tried again. What breaks a
//! rule of the schema is refused by itself and holds nothing else up.

mod upkeep;

use std::collections::HashMap;
use std::fs::File;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use ess_core::event::Event;
use ess_core::id::{Digest, PartnerNo, Seq};
use rusqlite::{Connection, Transaction, TransactionBehavior};
use tokio::sync::{mpsc, oneshot, watch};

use super::apply::Outcomes;
use super::batch::{Batch, Durable, Item};
use super::checkpoint::Checkpointer;
use super::events::{self, Audiences, Reader};
use super::readers::Readers;
use super::{ledger, registry, set_bytes_max};
use crate::commit_times::CommitClock;
use crate::error::StoreError;
use crate::retention::{Sweep, Swept};
use crate::seal::Seal;
use crate::types::{Change, NewEvent, Publication, Recorded};

type Result<T> = std::result::Result<T, StoreError>;

/// Outcomes of one commit at most: a bound on its time.
const CHANGES_MAX: usize = 16_384;
/// How often a failing store is tried again.
const RETRY_EVERY: Duration = Duration::from_millis(250);
/// How long a step of retention lets others go before it at most.
const SWEEP_PUT_OFF_MAX: Duration = Duration::from_millis(250);
/// Audiences that are known by their digest.
const AUDIENCES_MAX: usize = 4_096;
/// What a probe writes: 64 KiB, so that it does not fit where nothing fits.
const PROBE: &str = "insert or replace into setting (key, value) values ('probe', zeroblob(65536))";
const PROBE_GONE: &str = "delete from setting where key = 'probe'";

/// What others see of the writer.
pub(super) struct Shared {
    pub(super) unrecorded: AtomicUsize,
    /// Guards why the last commit failed.
    pub(super) failing: Mutex<Option<String>>,
    /// Whether outcomes can be written down: the last commit went well.
    pub(super) records: AtomicBool,
    pub(super) commits: watch::Sender<u64>,
    /// Guards the heads as of the last commit.
    pub(super) heads: Mutex<Heads>,
    pub(super) commit_clock: CommitClock,
}

/// What the next commit goes on from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Heads {
    pub(super) seq: Seq,
    pub(super) ledger: u64,
    pub(super) chain: Digest,
}

impl Heads {
    pub(super) fn read(db: &Connection) -> Result<Self> {
        let seq = db.prepare_cached("select coalesce(max(seq), 0) from event")?.query_row([], |row| row.get(0))?;
        let (ledger, chain) = ledger::head(db)?;
        Ok(Self { seq: Seq(seq), ledger, chain })
    }
}

pub(super) struct Writer {
    /// None while a database that failed could not be opened anew.
    pub(super) db: Option<Connection>,
    pub(super) path: PathBuf,
    pub(super) bytes_max: Option<u64>,
    pub(super) readers: Arc<Readers>,
    pub(super) seal: Arc<Seal>,
    pub(super) items: Receiver<Item>,
    pub(super) recorded: mpsc::UnboundedSender<Vec<Recorded>>,
    pub(super) shared: Arc<Shared>,
    pub(super) outcome_window: Duration,
    pub(super) checkpointer: Checkpointer,
    pub(super) state: State,
    /// Keeps a second hub out of the directory for as long as this one may write.
    pub(super) _lock: Arc<File>,
}

/// What the writer remembers from commit to commit.
pub(super) struct State {
    heads: Heads,
    /// After a failure what is in the database is asked for again.
    is_stale: bool,
    /// Something failed in a way that leaves open what is on the disk: nothing is written before that was mended.
    is_shaken: bool,
    audiences: HashMap<Digest, i64>,
    reached: HashMap<PartnerNo, Seq>,
    /// Outcomes that wait for a commit.
    waiting: Vec<Change>,
    /// Outcomes taken in and outcomes dealt with, since the beginning.
    taken: u64,
    dealt_with: u64,
    durables: Vec<Durable>,
    /// A step of retention that waits until nothing more urgent is at hand.
    sweep: Option<WaitingSweep>,
}

/// A step of retention, who waits for it, and since when.
struct WaitingSweep {
    sweep: Box<Sweep>,
    reply: oneshot::Sender<Result<Swept>>,
    since: Instant,
}

impl State {
    pub(super) fn new(heads: Heads, is_shaken: bool) -> Self {
        Self {
            heads,
            is_stale: false,
            is_shaken,
            audiences: HashMap::new(),
            reached: HashMap::new(),
            waiting: Vec::new(),
            taken: 0,
            dealt_with: 0,
            durables: Vec::new(),
            sweep: None,
        }
    }
}

/// Whether items of a commit share its fate, or each has its own.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Mode {
    Together,
    OneByOne,
}

/// What a commit wrote.
struct Written {
    heads: Heads,
    audiences: HashMap<Digest, i64>,
    reached: HashMap<PartnerNo, Seq>,
    places: Vec<Result<Place>>,
    answers: Vec<Result<u32>>,
    /// Why the last refused outcome was refused.
    refused: Option<StoreError>,
}

/// Where a publish stands after its commit.
enum Place {
    New(Seq),
    Duplicate(Recorded),
    Conflict(Recorded),
}

/// What woke the writer.
enum Woken {
    Item(Item),
    TimeOver,
    Abandoned,
}

impl Writer {
    /// Runs until it is closed, or until nobody is left who could ask.
    pub(super) fn run(mut self) {
        loop {
            let mut batch = self.gather();
            let (closing, is_last) = (batch.closing.take(), batch.is_abandoned);
            self.commit(batch);
            if closing.is_some() || is_last {
                if !self.state.waiting.is_empty() {
                    let count = self.state.waiting.len();
                    tracing::error!(count, "the store closes while it can't write; these outcomes are sent again");
                }
                self.checkpointer.stop();
                self.close_db();
                drop(self._lock);
                if let Some(closed) = closing {
                    // Who closed it may have gone.
                    let _ = closed.send(());
                }
                return;
            }
        }
    }

    /// Waits for something to write.
    fn gather(&mut self) -> Batch {
        let mut batch = Batch::default();
        let is_failing = self.is_failing();
        let mut until = match (is_failing, self.state.waiting.is_empty()) {
            (true, _) => Some(Instant::now() + RETRY_EVERY),
            // What did not fit into the last commit.
            (false, false) => Some(Instant::now()),
            (false, true) => None,
        };
        if self.state.sweep.is_some() {
            // It was put off for what was urgent, and nothing else may come to wake the writer.
            self.take_in(&mut batch);
            self.sweep(batch.is_urgent());
        }
        loop {
            if batch.is_urgent() || (!batch.has_room() && !is_failing) {
                return batch;
            }
            match self.next_item(until) {
                Woken::Item(item) => self.sort_in(item, &mut batch),
                Woken::TimeOver => return batch,
                Woken::Abandoned => {
                    batch.is_abandoned = true;
                    return batch;
                }
            }
            self.take_in(&mut batch);
            self.sweep(batch.is_urgent());
            until.get_or_insert_with(|| Instant::now() + self.outcome_window);
        }
    }

    /// Takes in what is at hand.
    fn take_in(&mut self, batch: &mut Batch) {
        while batch.has_room() {
            let Ok(item) = self.items.try_recv() else { break };
            self.sort_in(item, batch);
        }
    }

    fn next_item(&self, until: Option<Instant>) -> Woken {
        let Some(until) = until else { return self.items.recv().map_or(Woken::Abandoned, Woken::Item) };
        match self.items.recv_timeout(until.saturating_duration_since(Instant::now())) {
            Ok(item) => Woken::Item(item),
            Err(RecvTimeoutError::Timeout) => Woken::TimeOver,
            Err(RecvTimeoutError::Disconnected) => Woken::Abandoned,
        }
    }

    fn sort_in(&mut self, item: Item, batch: &mut Batch) {
        match item {
            Item::Changes(changes) => {
                batch.count += changes.len();
                self.state.taken += changes.len() as u64;
                self.state.waiting.extend(changes);
            }
            Item::Durable(changes, reply) => {
                batch.count += 1 + changes.len();
                self.state.taken += changes.len() as u64;
                self.state.waiting.extend(changes);
                self.state.durables.push(Durable { after: self.state.taken, reply });
                batch.has_durable = true;
            }
            Item::BytesMax(bytes, reply) => {
                self.bytes_max = bytes;
                if let Some(db) = &self.db {
                    set_bytes_max(db, bytes);
                }
                // Who set it may have gone.
                let _ = reply.send(());
            }
            Item::Sweep(sweep, reply) => {
                self.state.sweep = Some(WaitingSweep { sweep, reply, since: Instant::now() });
            }
            Item::WipeLog(reply) => {
                // Who asked may have gone.
                drop(reply.send(self.wipe_log()));
            }
            item => batch.add(item),
        }
    }

    fn commit(&mut self, batch: Batch) {
        let was_failing = self.is_failing();
        self.state.is_shaken |= self.checkpointer.has_failed();
        if self.state.is_shaken
            && let Err(error) = self.mend()
        {
            return self.refuse(batch, error);
        }
        let count = self.state.waiting.len().min(CHANGES_MAX);
        if batch.is_empty() && count == 0 {
            if was_failing {
                self.probe_and_tell();
            } else {
                self.answer_durables(None);
            }
            return;
        }
        match self.write(&batch, count) {
            Ok(written) => {
                let has_news = written.places.iter().any(|place| matches!(place, Ok(Place::New(_))));
                self.settle(batch, written, count);
                // Outcomes may fit where an event does not: a failing store is well only when that is shown.
                self.shared.records.store(true, Ordering::Relaxed);
                match (was_failing, has_news) {
                    (true, true) => self.set_failing(None),
                    (true, false) => self.probe_and_tell(),
                    (false, _) => {}
                }
                if let Some(db) = &self.db {
                    self.checkpointer.nudge(db);
                }
            }
            Err(error) => self.refuse(batch, error),
        }
    }

    /// Tells everybody who waits that nothing was written.
    fn refuse(&mut self, batch: Batch, error: StoreError) {
        self.state.is_stale = true;
        self.state.is_shaken |= matches!(error, StoreError::Shaken(_));
        self.shared.records.store(false, Ordering::Relaxed);
        // Before any answer: whoever was refused finds the store failing.
        self.set_failing(Some(error.clone()));
        batch.refuse(&error);
        for durable in self.state.durables.drain(..) {
            drop(durable.reply.send(Err(error.clone())));
        }
    }

    fn settle(&mut self, batch: Batch, written: Written, count: usize) {
        let state = &mut self.state;
        state.heads = written.heads;
        state.is_stale = false;
        *self.shared.heads.lock().unwrap_or_else(PoisonError::into_inner) = written.heads;
        if state.audiences.len() + written.audiences.len() > AUDIENCES_MAX {
            state.audiences.clear();
        }
        state.audiences.extend(written.audiences);
        state.reached.extend(written.reached);
        state.waiting.drain(..count);
        state.dealt_with += count as u64;
        self.shared.unrecorded.fetch_sub(count, Ordering::Relaxed);
        // Before any answer: whoever has one finds its commit counted.
        self.shared.commits.send_modify(|commits| *commits += 1);
        let mut recorded = Vec::new();
        let publications = batch.news.into_iter().zip(written.places);
        let publications = publications.map(|(new, place)| Ok(publication(new, place?, &mut recorded))).collect();
        if !recorded.is_empty() {
            // A hub that stops takes no more; what is recorded is there when it starts again.
            drop(self.recorded.send(recorded));
        }
        super::batch::answer_publishers(batch.publishers, publications);
        for (reply, answer) in batch.act_replies.into_iter().zip(written.answers) {
            drop(reply.send(answer));
        }
        self.answer_durables(written.refused);
    }

    fn answer_durables(&mut self, refused: Option<StoreError>) {
        let dealt_with = self.state.dealt_with;
        for durable in self.state.durables.extract_if(.., |durable| durable.after <= dealt_with) {
            drop(durable.reply.send(refused.clone().map_or(Ok(()), Err)));
        }
    }

    /// Writes the batch as one transaction. When something in it is refused, the others go in without it.
    fn write(&mut self, batch: &Batch, count: usize) -> Result<Written> {
        if self.state.is_stale {
            self.state.heads = Heads::read(self.db.as_ref().ok_or_else(closed)?)?;
        }
        match self.write_as(Mode::Together, batch, count) {
            Err(StoreError::Refused(_) | StoreError::Damaged(_)) => self.write_as(Mode::OneByOne, batch, count),
            other => other,
        }
    }

    fn write_as(&mut self, mode: Mode, batch: &Batch, count: usize) -> Result<Written> {
        let db = self.db.as_mut().ok_or_else(closed)?;
        let tx = db.transaction_with_behavior(TransactionBehavior::Immediate)?;
        let mut written = Written {
            heads: self.state.heads,
            audiences: HashMap::new(),
            reached: HashMap::new(),
            places: Vec::with_capacity(batch.news.len()),
            answers: Vec::with_capacity(batch.acts.len()),
            refused: None,
        };
        for act in &batch.acts {
            let answer = alone(mode, &tx, || registry::apply(&tx, &self.seal, act))?;
            written.answers.push(answer);
        }
        for new in &batch.news {
            let place = alone(mode, &tx, || publish(&tx, new, &self.state.audiences, &mut written))?;
            written.places.push(place);
        }
        let mut outcomes = Outcomes::new(&tx, &self.state.reached);
        for change in &self.state.waiting[..count] {
            if let Err(error) = alone(mode, &tx, || outcomes.apply(change))? {
                // Trying it again gives the same answer for ever.
                tracing::error!(%error, ?change, "an outcome breaks a rule of the schema and is left out");
                written.refused = Some(error);
            }
        }
        written.reached = outcomes.finish(&mut written.heads)?;
        let began = Instant::now();
        tx.commit()?;
        self.shared.commit_clock.note(began.elapsed());
        Ok(written)
    }

    fn is_failing(&self) -> bool {
        self.shared.failing.lock().unwrap_or_else(PoisonError::into_inner).is_some()
    }

    fn set_failing(&self, error: Option<StoreError>) {
        let mut failing = self.shared.failing.lock().unwrap_or_else(PoisonError::into_inner);
        let error = error.map(|error| error.to_string());
        match (&*failing, &error) {
            (known, Some(error)) if known.as_ref() != Some(error) => {
                tracing::error!(error, "the store can't write; it is tried again by itself");
            }
            (Some(_), None) => tracing::info!("the store writes again"),
            _ => {}
        }
        *failing = error;
    }
}

/// The database was closed because it failed, and could not be opened yet.
fn closed() -> StoreError {
    StoreError::Shaken("the database could not be opened anew".to_owned())
}

/// One item: under `OneByOne` a refusal is the item's own answer, and what it wrote is taken back.
fn alone<T>(mode: Mode, tx: &Transaction<'_>, write: impl FnOnce() -> Result<T>) -> Result<Result<T>> {
    if mode == Mode::Together {
        return write().map(Ok);
    }
    tx.prepare_cached("savepoint item")?.execute([])?;
    let written = write();
    match &written {
        Ok(_) => {}
        Err(StoreError::Refused(_) | StoreError::Damaged(_)) => {
            tx.prepare_cached("rollback to item")?.execute([])?;
        }
        Err(error) => return Err(error.clone()),
    }
    tx.prepare_cached("release item")?.execute([])?;
    Ok(written)
}

fn publish(tx: &Transaction<'_>, new: &NewEvent, known: &HashMap<Digest, i64>, written: &mut Written) -> Result<Place> {
    if let Some((seq, digest)) = events::identity(tx, new)? {
        // What this transaction sees may be rolled back: it is not remembered.
        let reader = Reader { db: tx, audiences: &Audiences::default() };
        let first = events::event(&reader, seq)?;
        let first = first.ok_or_else(|| StoreError::Damaged(format!("event {seq} is in an index only")))?;
        return Ok(if digest == new.content_digest { Place::Duplicate(first) } else { Place::Conflict(first) });
    }
    let digest = new.audience.digest();
    let audience = match known.get(&digest).or_else(|| written.audiences.get(&digest)) {
        Some(id) => *id,
        None => events::intern(tx, &new.audience)?,
    };
    let seq = Seq(written.heads.seq.0 + 1);
    events::insert(tx, seq, new, audience)?;
    if !known.contains_key(&digest) {
        written.audiences.insert(digest, audience);
    }
    written.heads.seq = seq;
    Ok(Place::New(seq))
}

fn publication(new: NewEvent, place: Place, recorded: &mut Vec<Recorded>) -> Publication {
    match place {
        Place::Duplicate(first) => Publication::Duplicate { first },
        Place::Conflict(first) => Publication::Conflict { first },
        Place::New(seq) => {
            let NewEvent { content, trace, content_digest, message_uuid, recorded_at, audience } = new;
            let event = Arc::new(Event { seq, recorded_at, content, trace, content_digest, message_uuid, gone: None });
            recorded.push(Recorded { event: event.clone(), audience });
            Publication::Recorded(event)
        }
    }
}
