//! Questions: each sees one consistent snapshot, and changes nothing.

use std::path::Path;

use ess_core::delivery::DeliveryKey;
use ess_core::id::{Digest, PartnerNo, Seq, Subject};
use ess_core::lane::{Offer, OpenDelivery};
use ess_core::ledger::merkle::Peaks;
use ess_core::time::Time;

use super::Store;
use crate::error::StoreError;
use crate::sql::ledger::Walked;
use crate::sql::{deliveries, events, lane, ledger, tree, trouble};
use crate::types::{
    Backlog, LaneStart, LedgerEntry, PartnerTroubles, Recorded, StoredCheckpoint, StoredDelivery, StoredEscalation,
    UrgentBacklog,
};

/// The Event Log.
impl Store {
    /// The event at this place.
    ///
    /// # Errors
    /// The store can't be read.
    pub async fn event(&self, seq: Seq) -> Result<Option<Recorded>, StoreError> {
        self.engine.read(move |reader| events::event(reader, seq)).await
    }

    /// The event of this id.
    ///
    /// # Errors
    /// The store can't be read.
    pub async fn event_by_id(&self, id: &str, test: bool) -> Result<Option<Recorded>, StoreError> {
        let id = id.to_owned();
        self.engine.read(move |reader| events::event_by_id(reader, &id, test)).await
    }

    /// A page of the log, of one subject if it is named.
    ///
    /// # Errors
    /// The store can't be read.
    pub async fn events(&self, subject: Option<&str>, after: Seq, limit: usize) -> Result<Vec<Recorded>, StoreError> {
        let subject = subject.map(str::to_owned);
        self.engine.read(move |reader| events::events(reader, subject.as_deref(), after, limit)).await
    }

    /// The place of the event recorded last; 0 when there is none.
    ///
    /// # Errors
    /// The store can't be read.
    pub async fn head(&self) -> Result<Seq, StoreError> {
        self.engine.read(events::newest).await
    }

    /// A page of the events after `after` that are for the partner. Looks at 16,384 events at most: an empty page is the end only
    /// when it scanned nothing.
    ///
    /// # Errors
    /// The store can't be read.
    pub async fn backlog(&self, partner: PartnerNo, after: Seq, limit: usize) -> Result<Backlog, StoreError> {
        self.engine.read(move |reader| events::backlog(reader, partner, after, limit)).await
    }
}

/// Lanes.
impl Store {
    /// What a lane needs to go on where it was.
    ///
    /// # Errors
    /// The store can't be read.
    pub async fn lane_start(&self, partner: PartnerNo) -> Result<LaneStart, StoreError> {
        self.engine.read(move |reader| lane::lane_start(reader, partner)).await
    }

    /// Open deliveries with records of their own, after a place.
    ///
    /// # Errors
    /// The store can't be read.
    pub async fn open_deliveries(
        &self,
        partner: PartnerNo,
        after: (Seq, u32),
        limit: usize,
    ) -> Result<Vec<OpenDelivery>, StoreError> {
        self.engine.read(move |reader| lane::open_deliveries(reader, partner, after, limit)).await
    }

    /// The oldest open deliveries of a line.
    ///
    /// # Errors
    /// The store can't be read.
    pub async fn open_of_subject(
        &self,
        partner: PartnerNo,
        subject: &Subject,
        test: bool,
        limit: usize,
    ) -> Result<Vec<OpenDelivery>, StoreError> {
        let subject = subject.clone();
        self.engine.read(move |reader| lane::open_of_subject(reader, partner, subject.as_str(), test, limit)).await
    }

    /// What is urgent in the partner's backlog, which begins after `after`, and has nothing older of its subject there; `scanned_to`
    /// is where the page before ended.
    ///
    /// # Errors
    /// The store can't be read.
    pub async fn urgent_backlog(
        &self,
        partner: PartnerNo,
        (after, scanned_to): (Seq, Seq),
        limit: usize,
    ) -> Result<UrgentBacklog, StoreError> {
        self.engine.read(move |reader| events::urgent_backlog(reader, partner, (after, scanned_to), limit)).await
    }

    /// The last retractions, newest first.
    ///
    /// # Errors
    /// The store can't be read.
    pub async fn last_retractions(&self, limit: usize) -> Result<Vec<Recorded>, StoreError> {
        self.engine.read(move |reader| events::last_retractions(reader, limit)).await
    }

    /// How many deliveries of the partner have not ended, up to `ceiling`; looks at no more than `ceiling` events past its cursor.
    ///
    /// # Errors
    /// The store can't be read.
    pub async fn backlog_count(&self, partner: PartnerNo, ceiling: u64) -> Result<u64, StoreError> {
        self.engine.read(move |reader| lane::backlog_count(reader, partner, ceiling)).await
    }

    /// The same for each of these, in one snapshot.
    ///
    /// # Errors
    /// The store can't be read.
    pub async fn backlog_counts(&self, partners: Vec<PartnerNo>, ceiling: u64) -> Result<Vec<u64>, StoreError> {
        let counts = self
            .engine
            .read(move |reader| partners.iter().map(|no| lane::backlog_count(reader, *no, ceiling)).collect());
        counts.await
    }

    /// The partner's oldest delivery without a record of its own: not yet tried, or under way for the first time.
    ///
    /// # Errors
    /// The store can't be read.
    pub async fn first_pending(&self, partner: PartnerNo) -> Result<Option<Offer>, StoreError> {
        self.engine.read(move |reader| lane::first_pending(reader, partner)).await
    }
}

/// Trouble.
impl Store {
    /// What is wrong with a partner, each kind counted up to a bound. `pending` are the oldest delivery and the oldest urgent one
    /// that have no record of their own: only the lane knows them.
    ///
    /// # Errors
    /// The store can't be read.
    pub async fn troubles(&self, partner: PartnerNo, pending: [Option<Seq>; 2]) -> Result<PartnerTroubles, StoreError> {
        self.engine.read(move |reader| trouble::troubles(reader, partner, pending)).await
    }

    /// What Ops were told and was not taken back.
    ///
    /// # Errors
    /// The store can't be read.
    pub async fn escalations(&self) -> Result<Vec<StoredEscalation>, StoreError> {
        self.engine.read(|reader| trouble::all(reader.db)).await
    }

    /// The last event that was recorded at this time or before; 0 when there is none.
    ///
    /// # Errors
    /// The store can't be read.
    pub async fn newest_at(&self, time: Time) -> Result<Seq, StoreError> {
        self.engine.read(move |reader| trouble::newest_at(reader, time)).await
    }

    /// Who paused the partner last, and why.
    ///
    /// # Errors
    /// The store can't be read.
    pub async fn last_pause(&self, partner: &str) -> Result<Option<(String, Option<String>)>, StoreError> {
        let partner = partner.to_owned();
        self.engine.read(move |reader| trouble::last_pause(reader, &partner)).await
    }
}

/// Deliveries.
impl Store {
    /// Every delivery of an event: for each partner of its audience and every replay.
    ///
    /// # Errors
    /// The store can't be read.
    pub async fn deliveries_of_event(&self, seq: Seq) -> Result<Vec<StoredDelivery>, StoreError> {
        self.engine.read(move |reader| deliveries::deliveries_of_event(reader, seq)).await
    }

    /// Dead letters, oldest first, after a place.
    ///
    /// # Errors
    /// The store can't be read.
    pub async fn dead_letters(
        &self,
        partner: Option<PartnerNo>,
        event: Option<Seq>,
        after: DeliveryKey,
        limit: usize,
    ) -> Result<Vec<StoredDelivery>, StoreError> {
        self.engine.read(move |reader| deliveries::dead_letters(reader, (partner, event), after, limit)).await
    }

    /// Open deliveries of every partner with records of their own, oldest first, after a place.
    ///
    /// # Errors
    /// The store can't be read.
    pub async fn open_everywhere(&self, after: DeliveryKey, limit: usize) -> Result<Vec<StoredDelivery>, StoreError> {
        self.engine.read(move |reader| deliveries::open_everywhere(reader, after, limit)).await
    }

    /// The newest event of the subject after `seq` that the partner acknowledged.
    ///
    /// # Errors
    /// The store can't be read.
    pub async fn acked_after_of_subject(
        &self,
        partner: PartnerNo,
        subject: &Subject,
        seq: Seq,
    ) -> Result<Option<Seq>, StoreError> {
        let subject = subject.clone();
        self.engine.read(move |reader| ledger::acked_after_of_subject(reader, partner, subject.as_str(), seq)).await
    }
}

/// The Ack Ledger, and the store as a whole.
impl Store {
    /// Receipts from an index on.
    ///
    /// # Errors
    /// The store can't be read.
    pub async fn ledger(&self, from: u64, limit: usize) -> Result<Vec<LedgerEntry>, StoreError> {
        self.engine.read(move |reader| ledger::ledger(reader, from, limit)).await
    }

    /// The receipts of one event, with their places.
    ///
    /// # Errors
    /// The store can't be read.
    pub async fn receipts_of_event(&self, seq: Seq) -> Result<Vec<LedgerEntry>, StoreError> {
        self.engine.read(move |reader| ledger::receipts_of_event(reader, seq)).await
    }

    /// How many receipts there are, and the head of their chain, as of the last commit.
    ///
    /// # Errors
    /// The store is shared and can't be read.
    pub async fn ledger_head(&self) -> Result<(u64, Digest), StoreError> {
        self.engine.ledger_head().await
    }

    /// Walks the whole chain in bounded steps, recomputing every leaf and link, and compares it with the head that this process
    /// wrote: what was cut off or written anew since it started is found too.
    ///
    /// # Errors
    /// `Damaged` names the first entry that does not fit.
    pub async fn verify_ledger(&self) -> Result<(u64, Digest), StoreError> {
        let (size, chain) = self.engine.known_ledger_head();
        let mut walked = Walked::START;
        let mut has_met_head = size == 0;
        loop {
            let from = walked;
            walked = self.engine.read(move |reader| ledger::verify_step(reader, from, size)).await?;
            if walked.size == size && !has_met_head {
                has_met_head = true;
                if walked.chain != chain {
                    let text = format!("ledger entry {size}: the chain up to it is not the one that was written");
                    return Err(StoreError::Damaged(text));
                }
            }
            if walked == from {
                break;
            }
        }
        if !has_met_head {
            let text = format!("ledger entry {}: missing; {size} were written", walked.size);
            return Err(StoreError::Damaged(text));
        }
        Ok((walked.size, walked.chain))
    }

    /// Leaves of the ledger's tree, which follows the ledger at some distance.
    ///
    /// # Errors
    /// The store can't be read.
    pub async fn tree_size(&self) -> Result<u64, StoreError> {
        self.engine.read(tree::size).await
    }

    /// The root of the tree over its first `size` leaves.
    ///
    /// # Errors
    /// `Damaged` when a node is missing.
    pub async fn tree_root(&self, size: u64) -> Result<Digest, StoreError> {
        self.engine.read(move |reader| tree::root(reader, size)).await
    }

    /// The inclusion proof of a leaf in the tree of `size` leaves.
    ///
    /// # Errors
    /// `Damaged` when a node is missing.
    pub async fn tree_inclusion(&self, index: u64, size: u64) -> Result<Vec<Digest>, StoreError> {
        self.engine.read(move |reader| tree::inclusion(reader, index, size)).await
    }

    /// The proof that the tree of `new` leaves continues the one of `old` leaves.
    ///
    /// # Errors
    /// `Damaged` when a node is missing.
    pub async fn tree_consistency(&self, old: u64, new: u64) -> Result<Vec<Digest>, StoreError> {
        self.engine.read(move |reader| tree::consistency(reader, old, new)).await
    }

    /// What the tree of the first `size` leaves is made of.
    ///
    /// # Errors
    /// `Damaged` when a node is missing.
    pub async fn tree_peaks(&self, size: u64) -> Result<Peaks, StoreError> {
        self.engine.read(move |reader| tree::peaks(reader, size)).await
    }

    /// The hashes of the leaves from 256 × `tile` on, 256 at most.
    ///
    /// # Errors
    /// The store can't be read.
    pub async fn tree_leaves(&self, tile: u64) -> Result<Vec<Digest>, StoreError> {
        self.engine.read(move |reader| tree::leaves(reader, tile)).await
    }

    /// The hashes of a tile of the tree, as many as there are: level 0 is of leaves, a hash of the next one over 256 of them.
    ///
    /// # Errors
    /// The store can't be read.
    pub async fn tree_tile(&self, level: u32, index: u64) -> Result<Vec<Digest>, StoreError> {
        self.engine.read(move |reader| tree::tile(reader, level, index)).await
    }

    /// Signed checkpoints of more than `after` leaves, the smallest first.
    ///
    /// # Errors
    /// The store can't be read.
    pub async fn checkpoints(&self, after: Option<u64>, limit: usize) -> Result<Vec<StoredCheckpoint>, StoreError> {
        self.engine.read(move |reader| tree::checkpoints(reader, after, limit)).await
    }

    /// The last signed checkpoint.
    ///
    /// # Errors
    /// The store can't be read.
    pub async fn last_checkpoint(&self) -> Result<Option<StoredCheckpoint>, StoreError> {
        self.engine.read(tree::last_checkpoint).await
    }

    /// Writes a consistent copy of the database to a new file while the hub goes on; answers its bytes. The file is whole, checked
    /// and durable when this returns; `seal.key` is not in it.
    ///
    /// # Errors
    /// The file exists already or can't be written.
    pub async fn backup(&self, file: &Path) -> Result<u64, StoreError> {
        self.engine.backup(file).await
    }
}
