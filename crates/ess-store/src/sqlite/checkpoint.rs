//! Moves the write-ahead log into the database beside the writer, so that no publish waits for it.
//!
//! A passive checkpoint on another connection holds the writer up at no point, but only a log that was moved to its last page is
//! begun anew, and under steady load the writer is always a few pages ahead. So once the log is long the writer itself does the
//! rest, which is little.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rusqlite::Connection;

use crate::error::StoreError;

/// Pages in the log from which on they are moved.
const MOVE_PAGES: u64 = 1_000;
/// Pages in the log from which on the writer ends the round: 16 MiB.
const END_PAGES: u64 = 4_000;
/// How often the log is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// The writer's hold on the thread.
pub(super) struct Checkpointer {
    wake: Option<SyncSender<()>>,
    thread: Option<JoinHandle<()>>,
    seen: Arc<Seen>,
    nudged_at: Instant,
}

/// What the thread tells the writer.
#[derive(Default)]
struct Seen {
    log_pages: AtomicU64,
    has_failed: AtomicBool,
    /// Whatever is in the log is to be moved, however little it is.
    moves_all: AtomicBool,
}

impl Checkpointer {
    pub(super) fn start(path: &Path) -> Result<Self, StoreError> {
        let fail = |error: &dyn std::fmt::Display| StoreError::Open(format!("checkpoint thread: {error}"));
        let db = Connection::open(path).map_err(|error| fail(&error))?;
        let configured = db
            .pragma_update(None, "cache_size", -64)
            .and_then(|()| db.pragma_update(None, "synchronous", "full"))
            .and_then(|()| db.pragma_update(None, "wal_autocheckpoint", 0));
        configured.map_err(|error| fail(&error))?;
        let (wake, woken) = sync_channel(1);
        let seen = Arc::new(Seen::default());
        let told = seen.clone();
        let thread = std::thread::Builder::new()
            .name("ess-store-checkpoint".to_owned())
            .spawn(move || run(&db, &woken, &told))
            .map_err(|error| fail(&error))?;
        Ok(Self { wake: Some(wake), thread: Some(thread), seen, nudged_at: Instant::now() })
    }

    /// After a commit.
    pub(super) fn nudge(&mut self, db: &Connection) {
        if self.nudged_at.elapsed() < LOOK_EVERY {
            return;
        }
        self.nudged_at = Instant::now();
        if self.seen.log_pages.load(Ordering::Relaxed) >= END_PAGES {
            self.seen.log_pages.store(0, Ordering::Relaxed);
            checkpoint(db, &self.seen);
        }
        if let Some(wake) = &self.wake {
            // Full: it is on its way already. Gone: the ceiling of the writer's own connection holds.
            let _ = wake.try_send(());
        }
    }

    /// Whether the log could not be moved. From then on nothing of it may be overwritten before all of it was moved again.
    pub(super) fn has_failed(&self) -> bool {
        self.seen.has_failed.load(Ordering::Relaxed)
    }

    /// Has the whole log moved soon: only then the database file gets shorter.
    pub(super) fn move_all(&mut self) {
        self.seen.moves_all.store(true, Ordering::Relaxed);
        if let Some(wake) = &self.wake {
            // Full: it is on its way already.
            let _ = wake.try_send(());
        }
    }

    /// Ends the thread and waits for it.
    pub(super) fn stop(&mut self) {
        self.wake = None;
        if let Some(thread) = self.thread.take() {
            // A thread that panicked has ended too.
            drop(thread.join());
        }
    }
}

fn run(db: &Connection, woken: &Receiver<()>, seen: &Seen) {
    while woken.recv().is_ok() {
        let (log, moved) = measure(db);
        let moves_all = seen.moves_all.swap(false, Ordering::Relaxed);
        if moves_all || log.saturating_sub(moved) >= MOVE_PAGES {
            checkpoint(db, seen);
        }
        seen.log_pages.store(log, Ordering::Relaxed);
    }
}

/// Pages in the log, and how many of them were moved.
fn measure(db: &Connection) -> (u64, u64) {
    let read = |row: &rusqlite::Row<'_>| Ok((row.get(1)?, row.get(2)?));
    db.prepare_cached("pragma wal_checkpoint(noop)")
        .and_then(|mut statement| statement.query_row([], read))
        .unwrap_or((0, 0))
}

fn checkpoint(db: &Connection, seen: &Seen) {
    if seen.has_failed.load(Ordering::Relaxed) {
        return;
    }
    if let Err(error) = db.query_row("pragma wal_checkpoint(passive)", [], |_| Ok(())) {
        // SQLite may take a part for moved whose sync failed, and would begin the log anew after the next success.
        tracing::error!(%error, "could not move the write-ahead log into the database");
        seen.has_failed.store(true, Ordering::Relaxed);
    }
}
