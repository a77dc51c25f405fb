//! Questions of people who look: newest first, cheap, and each sees one consistent snapshot.

use ess_core::id::{PartnerNo, Seq};
use ess_core::time::Time;

use super::Store;
use crate::error::StoreError;
use crate::look::{Direction, LogLine, LogSearch, StoredTelling, TextPage, TextSearch};
use crate::sql::{browse, deliveries, search, trouble};
use crate::types::{AuditLine, StoredDelivery};

impl Store {
    /// Dead letters of each partner, among the first `max` of all.
    ///
    /// # Errors
    /// The store can't be read.
    pub async fn dead_by_partner(&self, max: usize) -> Result<Vec<(PartnerNo, usize)>, StoreError> {
        self.engine.read(move |reader| browse::dead_by_partner(reader, max)).await
    }

    /// The last event up to `head` that was recorded at `then` or before; 0 when there is none.
    ///
    /// # Errors
    /// The store can't be read.
    pub async fn last_before(&self, then: Time, head: Seq) -> Result<Seq, StoreError> {
        self.engine.read(move |reader| browse::last_before(reader, then, head)).await
    }

    /// A page of the log before a place.
    ///
    /// # Errors
    /// The store can't be read.
    pub async fn log_before(&self, search: LogSearch, before: Seq, limit: usize) -> Result<Vec<LogLine>, StoreError> {
        self.engine.read(move |reader| browse::log_before(reader, &search, before, limit)).await
    }

    /// The newest events before a place that are for the partner, and the place down to which was looked; 0 when all was.
    ///
    /// # Errors
    /// The store can't be read.
    pub async fn seqs_of_partner(
        &self,
        partner: PartnerNo,
        before: Seq,
        limit: usize,
    ) -> Result<(Vec<Seq>, Seq), StoreError> {
        self.engine.read(move |reader| browse::seqs_of_partner(reader, partner, before, limit)).await
    }

    /// The deliveries of one event to one partner: the first sending and every replay.
    ///
    /// # Errors
    /// The store can't be read.
    pub async fn deliveries_to(&self, seq: Seq, partner: PartnerNo) -> Result<Vec<StoredDelivery>, StoreError> {
        self.engine.read(move |reader| deliveries::deliveries_to(reader, seq, partner)).await
    }

    /// Lines of the audit trail before a number, newest first.
    ///
    /// # Errors
    /// The store can't be read.
    pub async fn audit_before(&self, before: u64, limit: usize) -> Result<Vec<AuditLine>, StoreError> {
        self.engine.read(move |reader| browse::audit_before(reader, before, limit)).await
    }

    /// One step of a search for a text in payloads, from a place on.
    ///
    /// # Errors
    /// The store can't be read.
    pub async fn events_with_text(
        &self,
        search: TextSearch,
        direction: Direction,
        place: Seq,
        limit: usize,
    ) -> Result<TextPage, StoreError> {
        self.engine.read(move |reader| search::events_with_text(reader, &search, (direction, place), limit)).await
    }

    /// What Ops were told before a number, newest first.
    ///
    /// # Errors
    /// The store can't be read.
    pub async fn tellings_before(&self, before: u64, limit: usize) -> Result<Vec<StoredTelling>, StoreError> {
        self.engine.read(move |reader| trouble::tellings_before(reader, before, limit)).await
    }
}
