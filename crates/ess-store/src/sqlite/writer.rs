//! The one writer: takes what is to be written, commits it in groups, and tells those who wait.
//!
//! An idle hub commits at once; while an fsync runs, what comes in the meantime queues up and goes together. Outcomes alone wait for
//! the outcome window. A commit that fails changes nothing: publishers are refused, outcomes are kept and tried again.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

use ess_core::id::{Digest, Seq};
use rusqlite::{Connection, Transaction, params};
use tokio::sync::{mpsc, oneshot, watch};

use super::apply;
use super::read;
use crate::audience::Audience;
use crate::error::StoreError;
use crate::types::{Change, NewEvent, Publication, Recorded};

/// Items of one commit at most: a bound on its time.
const BATCH_MAX: usize = 4_096;
/// How often a failing store is tried again.
const RETRY_EVERY: Duration = Duration::from_millis(250);
/// Pages in the write-ahead log from which on an idle writer moves them into the database.
const CHECKPOINT_PAGES: i64 = 2_000;
/// Audiences that are known by id.
const AUDIENCES_MAX: usize = 16_384;

/// A change of the registry, as one transaction.
pub(super) type Act = Box<dyn FnOnce(&Transaction<'_>) -> rusqlite::Result<i64> + Send>;

pub(super) enum Item {
    Publish(Box<NewEvent>, oneshot::Sender<Result<Publication, StoreError>>),
    Changes(Vec<Change>),
    Durable(Vec<Change>, oneshot::Sender<Result<(), StoreError>>),
    Act(Act, oneshot::Sender<Result<i64, StoreError>>),
    BytesMax(Option<u64>, oneshot::Sender<()>),
    Close(oneshot::Sender<()>),
}

/// What others see of the writer.
pub(super) struct Shared {
    pub(super) unrecorded: AtomicUsize,
    pub(super) failing: std::sync::Mutex<Option<String>>,
    pub(super) commits: watch::Sender<u64>,
}

pub(super) struct Writer {
    pub(super) db: Connection,
    pub(super) items: Receiver<Item>,
    pub(super) recorded: mpsc::UnboundedSender<Vec<Recorded>>,
    pub(super) shared: Arc<Shared>,
    pub(super) outcome_window: Duration,
    pub(super) heads: Heads,
    pub(super) audiences: HashMap<Digest, i64>,
    /// Outcomes that wait for a commit.
    pub(super) waiting: Vec<Change>,
}

/// What the next commit goes on from.
#[derive(Debug, Clone, Copy)]
pub(super) struct Heads {
    pub(super) seq: Seq,
    pub(super) ledger: u64,
    pub(super) chain: Digest,
}

/// What came together for one commit.
#[derive(Default)]
struct Batch {
    publishes: Vec<(Box<NewEvent>, oneshot::Sender<Result<Publication, StoreError>>)>,
    acts: Vec<(Act, oneshot::Sender<Result<i64, StoreError>>)>,
    durable: Vec<oneshot::Sender<Result<(), StoreError>>>,
    closing: Option<oneshot::Sender<()>>,
    size: usize,
}

impl Batch {
    fn is_urgent(&self) -> bool {
        !self.publishes.is_empty() || !self.acts.is_empty() || !self.durable.is_empty() || self.closing.is_some()
    }
}

impl Writer {
    /// Runs until it is closed.
    pub(super) fn run(mut self) {
        loop {
            let mut batch = Batch::default();
            if !self.gather(&mut batch) {
                return;
            }
            let closing = batch.closing.take();
            self.commit(batch);
            if let Some(closed) = closing {
                let _ = self.db.execute_batch("pragma wal_checkpoint(truncate)");
                drop(self.db);
                let _ = closed.send(());
                return;
            }
        }
    }

    /// Waits for something to write. False when everybody who could ask is gone.
    fn gather(&mut self, batch: &mut Batch) -> bool {
        let is_failing = self.is_failing();
        let mut until = match (is_failing, self.waiting.is_empty()) {
            (true, _) => Some(Instant::now() + RETRY_EVERY),
            (false, false) => Some(Instant::now() + self.outcome_window),
            (false, true) => None,
        };
        loop {
            let Some(item) = self.next_item(until) else { return !self.waiting.is_empty() || until.is_some() };
            self.sort_in(item, batch);
            while batch.size < BATCH_MAX && batch.closing.is_none() {
                let Ok(item) = self.items.try_recv() else { break };
                self.sort_in(item, batch);
            }
            if batch.is_urgent() || batch.size >= BATCH_MAX {
                return true;
            }
            until.get_or_insert_with(|| Instant::now() + self.outcome_window);
        }
    }

    /// The next item; `None` when the time is over, or when nobody can ask any more.
    fn next_item(&mut self, until: Option<Instant>) -> Option<Item> {
        match until {
            Some(until) => match self.items.recv_timeout(until.saturating_duration_since(Instant::now())) {
                Ok(item) => Some(item),
                Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => None,
            },
            None => self.items.try_recv().ok().or_else(|| {
                self.checkpoint();
                self.items.recv().ok()
            }),
        }
    }

    fn sort_in(&mut self, item: Item, batch: &mut Batch) {
        match item {
            Item::Publish(new, reply) => {
                batch.size += 1;
                batch.publishes.push((new, reply));
            }
            Item::Changes(changes) => {
                batch.size += changes.len();
                self.waiting.extend(changes);
            }
            Item::Durable(changes, reply) => {
                batch.size += 1 + changes.len();
                self.shared.unrecorded.fetch_add(changes.len(), Ordering::Relaxed);
                self.waiting.extend(changes);
                batch.durable.push(reply);
            }
            Item::Act(act, reply) => {
                batch.size += 1;
                batch.acts.push((act, reply));
            }
            Item::BytesMax(bytes, reply) => {
                super::set_bytes_max(&self.db, bytes);
                let _ = reply.send(());
            }
            Item::Close(reply) => batch.closing = Some(reply),
        }
    }

    fn commit(&mut self, batch: Batch) {
        let Batch { publishes, acts, durable, .. } = batch;
        let is_probe = publishes.is_empty() && acts.is_empty() && self.waiting.is_empty();
        if is_probe && !self.is_failing() {
            for reply in durable {
                drop(reply.send(Ok(())));
            }
            return;
        }
        let (news, news_replies): (Vec<_>, Vec<_>) = publishes.into_iter().unzip();
        let (acts, act_replies): (Vec<_>, Vec<_>) = acts.into_iter().unzip();
        match self.write(news, acts) {
            Ok(written) => {
                self.heads = written.heads;
                if self.audiences.len() + written.audiences.len() > AUDIENCES_MAX {
                    self.audiences.clear();
                }
                self.audiences.extend(written.audiences);
                self.shared.unrecorded.fetch_sub(self.waiting.len(), Ordering::Relaxed);
                self.waiting.clear();
                self.set_failing(None);
                if !written.recorded.is_empty() {
                    // A hub that stops takes no more; what is recorded is there when it starts again.
                    drop(self.recorded.send(written.recorded));
                }
                for (reply, publication) in news_replies.into_iter().zip(written.publications) {
                    drop(reply.send(Ok(publication)));
                }
                for (reply, answer) in act_replies.into_iter().zip(written.answers) {
                    drop(reply.send(Ok(answer)));
                }
                for reply in durable {
                    drop(reply.send(Ok(())));
                }
                self.shared.commits.send_modify(|count| *count += 1);
            }
            Err(error) => {
                let error = StoreError::Unavailable(error.to_string());
                self.set_failing(Some(error.to_string()));
                for reply in news_replies {
                    drop(reply.send(Err(error.clone())));
                }
                for reply in act_replies {
                    drop(reply.send(Err(error.clone())));
                }
                for reply in durable {
                    drop(reply.send(Err(error.clone())));
                }
            }
        }
    }

    fn write(&mut self, news: Vec<Box<NewEvent>>, acts: Vec<Act>) -> rusqlite::Result<Written> {
        let mut written = Written::new(self.heads);
        let tx = self.db.transaction()?;
        for act in acts {
            written.answers.push(act(&tx)?);
        }
        for new in news {
            publish(&tx, *new, &self.audiences, &mut written)?;
        }
        apply::changes(&tx, &self.waiting, &mut written.heads)?;
        tx.commit()?;
        Ok(written)
    }

    fn is_failing(&self) -> bool {
        self.shared.failing.lock().is_ok_and(|failing| failing.is_some())
    }

    fn set_failing(&self, reason: Option<String>) {
        if let Ok(mut failing) = self.shared.failing.lock() {
            match (&*failing, &reason) {
                (None, Some(reason)) => tracing::error!(reason, "the store can't write; it is tried again by itself"),
                (Some(_), None) => tracing::info!("the store writes again"),
                _ => {}
            }
            *failing = reason;
        }
    }

    /// Moves the write-ahead log into the database while nobody waits.
    fn checkpoint(&mut self) {
        let pages = self.db.query_row("pragma wal_checkpoint(noop)", [], |row| row.get::<_, i64>(1)).unwrap_or(0);
        if pages > CHECKPOINT_PAGES {
            let _ = self.db.query_row("pragma wal_checkpoint(passive)", [], |_| Ok(()));
        }
    }
}

struct Written {
    heads: Heads,
    audiences: HashMap<Digest, i64>,
    publications: Vec<Publication>,
    recorded: Vec<Recorded>,
    answers: Vec<i64>,
}

impl Written {
    fn new(heads: Heads) -> Self {
        Self { heads, audiences: HashMap::new(), publications: Vec::new(), recorded: Vec::new(), answers: Vec::new() }
    }
}

fn publish(
    tx: &Transaction<'_>,
    new: NewEvent,
    known: &HashMap<Digest, i64>,
    written: &mut Written,
) -> rusqlite::Result<()> {
    if let Some(first) = read::event_by_id(tx, new.content.id.as_str(), new.content.test)? {
        let is_same = first.event.content_digest == new.content_digest;
        written.publications.push(if is_same {
            Publication::Duplicate { first }
        } else {
            Publication::Conflict { first }
        });
        return Ok(());
    }
    let audience_id = match known.get(&new.audience.digest()).or_else(|| written.audiences.get(&new.audience.digest()))
    {
        Some(id) => *id,
        None => {
            let id = intern(tx, &new.audience)?;
            written.audiences.insert(new.audience.digest(), id);
            id
        }
    };
    let seq = Seq(written.heads.seq.0 + 1);
    apply::insert_event(tx, seq, &new, audience_id)?;
    written.heads.seq = seq;
    let event = Arc::new(ess_core::event::Event {
        seq,
        recorded_at: new.recorded_at,
        content: new.content,
        trace: new.trace,
        content_digest: new.content_digest,
        message_uuid: new.message_uuid,
    });
    written.publications.push(Publication::Recorded(event.clone()));
    written.recorded.push(Recorded { event, audience: new.audience });
    Ok(())
}

fn intern(tx: &Transaction<'_>, audience: &Audience) -> rusqlite::Result<i64> {
    let digest = audience.digest();
    tx.prepare_cached("insert into audience (digest, partners) values (?1, ?2) on conflict (digest) do nothing")?
        .execute(params![digest.0, audience.encode()])?;
    tx.prepare_cached("select id from audience where digest = ?1")?.query_row(params![digest.0], |row| row.get(0))
}
