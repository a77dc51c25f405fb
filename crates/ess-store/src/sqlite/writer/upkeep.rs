//! What the writer does beside commits: steps of retention, and making sure of what is on the disk after something failed.

use std::sync::atomic::Ordering;

use super::{PROBE, PROBE_GONE, Result, SWEEP_PUT_OFF_MAX, WaitingSweep, Writer, closed};
use crate::error::StoreError;
use crate::sqlite::checkpoint::Checkpointer;
use crate::sqlite::{mend, retention};

impl Writer {
    /// Makes the step of retention that waits, unless others have to go first.
    pub(super) fn sweep(&mut self, is_urgent: bool) {
        let is_put_off = |waiting: &mut WaitingSweep| is_urgent && waiting.since.elapsed() < SWEEP_PUT_OFF_MAX;
        let Some(WaitingSweep { sweep, reply, .. }) = self.state.sweep.take_if(|waiting| !is_put_off(waiting)) else {
            return;
        };
        let can_write = !self.is_failing() && !self.state.is_shaken;
        let swept = match self.db.as_mut().filter(|_| can_write) {
            None => Err(StoreError::Unavailable("the store can't write now".to_owned())),
            Some(db) => retention::sweep(db, &sweep),
        };
        self.state.is_shaken |= matches!(swept, Err(StoreError::Shaken(_)));
        if swept.as_ref().is_ok_and(|swept| swept.gives_back) {
            self.checkpointer.move_all();
        }
        // Who asked may have stopped meanwhile.
        drop(reply.send(swept));
        if let Some(db) = self.db.as_ref().filter(|_| !self.state.is_shaken) {
            self.checkpointer.nudge(db);
        }
    }

    /// Empties the log's file; not while it is open what of it is on the disk.
    pub(super) fn wipe_log(&mut self) -> Result<bool> {
        let Some(db) = self.db.as_ref().filter(|_| !self.state.is_shaken) else { return Ok(false) };
        let wiped = retention::wipe_log(db);
        self.state.is_shaken |= matches!(wiped, Err(StoreError::Shaken(_)));
        wiped
    }

    /// Makes sure of what is on the disk.
    pub(super) fn mend(&mut self) -> Result<()> {
        // On the old connection first: this overwrites what a commit that failed left in the log, which a new connection would
        // take for committed.
        if let Some(db) = &self.db {
            mend::mark(db)?;
        }
        let readers = self.readers.clone();
        let _held = readers.hold()?;
        self.checkpointer.stop();
        self.db.take().map_or(Ok(()), mend::close)?;
        let db = mend::reopen(&self.path, self.bytes_max, self.state.heads)?;
        self.checkpointer = Checkpointer::start(&self.path)?;
        self.db = Some(db);
        self.state.is_shaken = false;
        self.shared.records.store(true, Ordering::Relaxed);
        Ok(())
    }

    pub(super) fn close_db(&mut self) {
        let Some(db) = self.db.take() else { return };
        if self.state.is_shaken {
            // What a failed sync left is not moved; the next start makes sure of it.
            drop(mend::close(db));
            return;
        }
        if let Err(error) = db.query_row("pragma wal_checkpoint(truncate)", [], |_| Ok(())) {
            tracing::debug!(%error, "the write-ahead log stays; it is read at the next start");
            drop(mend::close(db));
        }
    }

    /// Makes a commit known: to the writer itself, to the lanes, then to those who wait.
    /// Finds out whether an event would fit again.
    fn probe(&self) -> Result<()> {
        let db = self.db.as_ref().ok_or_else(closed)?;
        db.execute(PROBE, [])?;
        db.execute(PROBE_GONE, [])?;
        Ok(())
    }

    pub(super) fn probe_and_tell(&mut self) {
        let probed = self.probe().err();
        if let Some(StoreError::Shaken(_)) = probed {
            self.state.is_shaken = true;
            self.shared.records.store(false, Ordering::Relaxed);
        }
        self.set_failing(probed);
    }
}
