//! Retention, legal holds and redaction: what has to stay is decided in the transaction that would remove it.

use ess_core::id::{PartnerNo, Seq};

use super::Store;
use crate::error::StoreError;
use crate::retention::{Hold, Lifted, NewHold, Redaction, Sweep, Swept};
use crate::sql::registry::Deed;
use crate::sql::{holds, retention};
use crate::types::Audit;

impl Store {
    /// Where the lanes of today's partners are: an event past a cursor may be pending. Ask once for many steps.
    ///
    /// # Errors
    /// The store can't be read.
    pub async fn cursors(&self) -> Result<Vec<(PartnerNo, Seq)>, StoreError> {
        self.engine.read(retention::cursors).await
    }

    /// Makes one bounded step of retention as soon as the writer has nothing more urgent to do. A crash may forget it.
    ///
    /// # Errors
    /// The store can't write now; nothing was removed.
    pub async fn sweep(&self, sweep: Sweep) -> Result<Swept, StoreError> {
        self.engine.sweep(sweep).await
    }

    /// Takes an event's payload away, and what partners and scripts said about it; durable when this returns. `wipe_log` then
    /// takes the bytes off the write-ahead log.
    ///
    /// # Errors
    /// `Refused` when it is under legal hold, gone already, or not there. `Unavailable` when it can't be written now.
    pub async fn redact(&self, redaction: Redaction, audit: Audit) -> Result<(), StoreError> {
        self.act(Deed::Redact(redaction), audit).await.map(drop)
    }

    /// Tries to empty the write-ahead log, so that nothing of it is left on the disk; false while somebody reads from it.
    ///
    /// # Errors
    /// The store can't write now.
    pub async fn wipe_log(&self) -> Result<bool, StoreError> {
        self.engine.wipe_log().await
    }

    /// Places a legal hold; answers its number.
    ///
    /// # Errors
    /// `Refused` when there are as many as there may be. `Unavailable` when it can't be written now.
    pub async fn put_hold(&self, hold: NewHold, audit: Audit) -> Result<u64, StoreError> {
        self.act(Deed::PutHold(hold), audit).await.map(u64::from)
    }

    /// Lifts a legal hold; it stays on record.
    ///
    /// # Errors
    /// `Refused` when none of this number is in force. `Unavailable` when it can't be written now.
    pub async fn lift_hold(&self, number: u64, lifted: Lifted, audit: Audit) -> Result<(), StoreError> {
        self.act(Deed::LiftHold(number, lifted), audit).await.map(drop)
    }

    /// All legal holds, lifted ones too.
    ///
    /// # Errors
    /// The store can't be read.
    pub async fn holds(&self) -> Result<Vec<Hold>, StoreError> {
        self.engine.read(holds::holds).await
    }
}
