//! The one writer: takes what is to be written, commits it in groups, and tells those who wait.
//!
//! An idle hub commits at once; while an fsync runs, what comes in the meantime queues up and goes together. Outcomes alone wait for
//! the outcome window. A commit that fails changes nothing: publishers are refused, outcomes are kept and tried again. What breaks a
//! rule of the schema is refused by itself and holds nothing else up.

mod batch;
mod keeper;

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use ess_core::event::Event;
use tokio::sync::{mpsc, oneshot, watch};

pub(crate) use self::batch::Item;
use self::batch::{Batch, Durable};
pub(crate) use self::keeper::Keeper;
use crate::commit_times::CommitClock;
use crate::error::StoreError;
use crate::retention::{Sweep, Swept};
use crate::seal::Seal;
use crate::sql::{Heads, Known, Place, Work, Written};
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

/// What others see of the writer.
pub(crate) struct Shared {
    pub(crate) unrecorded: AtomicUsize,
    /// Guards why the last commit failed.
    pub(crate) failing: Mutex<Option<String>>,
    /// Whether outcomes can be written down: the last commit went well.
    pub(crate) records: AtomicBool,
    pub(crate) commits: watch::Sender<u64>,
    /// Guards the heads as of the last commit.
    pub(crate) heads: Mutex<Heads>,
    pub(crate) commit_clock: CommitClock,
    /// Outcomes were refused: this node was given up.
    pub(crate) is_out: AtomicBool,
}

pub(crate) struct Writer {
    pub(crate) keeper: Keeper,
    pub(crate) seal: Arc<Seal>,
    pub(crate) items: Receiver<Item>,
    pub(crate) recorded: mpsc::UnboundedSender<Vec<Recorded>>,
    pub(crate) shared: Arc<Shared>,
    pub(crate) outcome_window: Duration,
    pub(crate) state: State,
}

/// What the writer remembers from commit to commit.
pub(crate) struct State {
    heads: Heads,
    /// After a failure what is in the database is asked for again.
    is_stale: bool,
    /// Something failed in a way that leaves open what is on the disk: nothing is written before that was mended.
    is_shaken: bool,
    known: Known,
    /// Outcomes that wait for a commit.
    waiting: Vec<Change>,
    /// Outcomes taken in and outcomes dealt with, since the beginning.
    taken: u64,
    dealt_with: u64,
    durables: Vec<Durable>,
    /// A step of retention that waits until nothing more urgent is at hand.
    sweep: Option<WaitingSweep>,
    /// A commit of which it is not known whether it was made, with how many outcomes it has.
    doubted: Option<(Batch, usize)>,
}

/// A step of retention, who waits for it, and since when.
struct WaitingSweep {
    sweep: Box<Sweep>,
    reply: oneshot::Sender<Result<Swept>>,
    since: Instant,
}

impl State {
    pub(crate) fn new(heads: Heads, is_shaken: bool) -> Self {
        Self {
            heads,
            is_stale: false,
            is_shaken,
            known: Known::default(),
            waiting: Vec::new(),
            taken: 0,
            dealt_with: 0,
            durables: Vec::new(),
            sweep: None,
            doubted: None,
        }
    }
}

/// What woke the writer.
enum Woken {
    Item(Item),
    TimeOver,
    Abandoned,
}

impl Writer {
    /// Runs until it is closed, or until nobody is left who could ask.
    pub(crate) fn run(mut self) {
        loop {
            let mut batch = self.gather();
            let (closing, is_last) = (batch.closing.take(), batch.is_abandoned);
            self.commit(batch);
            if closing.is_some() || is_last {
                if !self.state.waiting.is_empty() {
                    let count = self.state.waiting.len();
                    tracing::error!(count, "the store closes while it can't write; these outcomes are sent again");
                }
                self.keeper.close(self.state.is_shaken);
                drop(self.keeper);
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
                self.keeper.set_bytes_max(bytes);
                // Who set it may have gone.
                let _ = reply.send(());
            }
            Item::Sweep(sweep, reply) => {
                self.state.sweep = Some(WaitingSweep { sweep, reply, since: Instant::now() });
            }
            Item::Node(node, reply) => {
                // What waits is of who it was before: it is not written down under another number.
                let count = self.state.waiting.len();
                if count > 0 {
                    tracing::warn!(
                        count,
                        "this node was given up; these outcomes are left to those who serve its partners"
                    );
                }
                self.state.waiting.clear();
                if let Some((_, doubted)) = &mut self.state.doubted {
                    *doubted = 0;
                }
                self.state.dealt_with += count as u64;
                self.shared.unrecorded.fetch_sub(count, Ordering::Relaxed);
                self.answer_durables(Some(StoreError::Ousted));
                self.state.known.reached.clear();
                self.keeper.set_node(node);
                // Who set it may have gone.
                let _ = reply.send(());
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
        self.state.is_shaken |= self.keeper.has_failed();
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
                self.keeper.after_commit();
            }
            Err(error) if self.keeper.is_in_doubt() => {
                let kept = batch.keep_doubted(&error);
                self.state.doubted = Some((kept, count));
                self.refuse(Batch::default(), error);
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

    /// Makes a commit known: to the writer itself, to the lanes, then to those who wait.
    fn settle(&mut self, batch: Batch, written: Written, count: usize) {
        let state = &mut self.state;
        state.heads = written.heads;
        state.is_stale = false;
        *self.shared.heads.lock().unwrap_or_else(PoisonError::into_inner) = written.heads;
        if state.known.audiences.len() + written.audiences.len() > AUDIENCES_MAX {
            state.known.audiences.clear();
        }
        state.known.audiences.extend(written.audiences);
        state.known.reached.extend(written.reached);
        state.waiting.drain(..count);
        if written.is_out {
            tracing::warn!(count, "this node was given up; these outcomes are left to those who serve its partners");
            self.shared.is_out.store(true, Ordering::Relaxed);
        }
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
        batch::answer_publishers(batch.publishers, publications);
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
            self.state.heads = self.keeper.heads()?;
        }
        let work = Work {
            seal: &self.seal,
            acts: &batch.acts,
            news: &batch.news,
            changes: &self.state.waiting[..count],
            known: &self.state.known,
        };
        let written = self.keeper.write(&work, self.state.heads)?;
        self.shared.commit_clock.note(written.took);
        Ok(written)
    }

    /// Makes the step of retention that waits, unless others have to go first.
    fn sweep(&mut self, is_urgent: bool) {
        let is_put_off = |waiting: &mut WaitingSweep| is_urgent && waiting.since.elapsed() < SWEEP_PUT_OFF_MAX;
        let Some(WaitingSweep { sweep, reply, .. }) = self.state.sweep.take_if(|waiting| !is_put_off(waiting)) else {
            return;
        };
        let swept = if self.is_failing() || self.state.is_shaken {
            Err(StoreError::Unavailable("the store can't write now".to_owned()))
        } else {
            self.keeper.sweep(&sweep)
        };
        self.state.is_shaken |= matches!(swept, Err(StoreError::Shaken(_)));
        // Who asked may have stopped meanwhile.
        drop(reply.send(swept));
        if !self.state.is_shaken {
            self.keeper.after_commit();
        }
    }

    /// Empties the log's file; not while it is open what of it is on the disk.
    fn wipe_log(&mut self) -> Result<bool> {
        if self.state.is_shaken {
            return Ok(false);
        }
        let wiped = self.keeper.wipe_log();
        self.state.is_shaken |= matches!(wiped, Err(StoreError::Shaken(_)));
        wiped
    }

    /// Makes sure of what is written, and ends what was left open about a commit.
    fn mend(&mut self) -> Result<()> {
        let found = self.keeper.mend(self.state.heads)?;
        self.state.is_shaken = false;
        self.shared.records.store(true, Ordering::Relaxed);
        // What is known may be of a commit that never was.
        self.state.known = Known::default();
        match (self.state.doubted.take(), found) {
            (Some((batch, count)), Some(written)) => self.settle(batch, written, count),
            (Some((batch, _)), None) => {
                batch.refuse(&StoreError::Unavailable("the database was lost before the commit".to_owned()));
            }
            (None, _) => {}
        }
        Ok(())
    }

    /// Finds out whether an event would fit again.
    fn probe_and_tell(&mut self) {
        let probed = self.keeper.probe().err();
        if let Some(StoreError::Shaken(_)) = probed {
            self.state.is_shaken = true;
            self.shared.records.store(false, Ordering::Relaxed);
        }
        self.set_failing(probed);
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

fn publication(new: NewEvent, place: Place, recorded: &mut Vec<Recorded>) -> Publication {
    match place {
        Place::Duplicate(first) => Publication::Duplicate { first },
        Place::Conflict(first) => Publication::Conflict { first },
        Place::New(seq) => {
            let NewEvent { content, trace, content_digest, message_uuid, recorded_at, audience, registry: _ } = new;
            let event = Arc::new(Event { seq, recorded_at, content, trace, content_digest, message_uuid, gone: None });
            recorded.push(Recorded { event: event.clone(), audience });
            Publication::Recorded(event)
        }
    }
}
