//! The ledger's tree and its signed checkpoints: what an auditor can check without this hub.
//!
//! The tree follows the ledger off the path of deliveries, at each checkpoint. A leaf is a receipt's line with the names of
//! event and partner in it, so that a proof says everything by itself.

use std::sync::Arc;
use std::time::Duration;

use ess_core::event::Event;
use ess_core::id::{Digest, EventId, PartnerId};
use ess_core::ledger::Receipt;
use ess_core::ledger::checkpoint::{Checkpoint, VerifierKey};
use ess_core::ledger::merkle::leaf_hash;
use ess_core::ledger::proof::Proof;
use ess_core::problem::{Code, Problem};
use ess_core::signature::Ed25519Key;
use ess_store::{LedgerEntry, StoreError, StoredCheckpoint, Word};

use crate::cluster::Call;
use crate::elsewhere::{Elsewhere, Place};
use crate::hub::Hub;
use crate::publish::unavailable;
use crate::registry::Snapshot;
use crate::verify::damaged;
use crate::view::{CheckpointView, ConsistencyView, PlaceView};

/// Receipts that are read, hashed and written together.
const PAGE: usize = 1_024;
/// Leaves of a tile, as the store keeps them.
const TILE: u64 = 256;
/// How often a node looks whether it is the one that signs.
const LOOK_AGAIN: Duration = Duration::from_secs(1);

/// Signs the ledger's checkpoints.
pub struct Notary {
    pub(crate) key: Ed25519Key,
    pub(crate) verifier: VerifierKey,
    pub(crate) elsewhere: Elsewhere,
    every: Duration,
    /// The tree grows in one place at a time.
    growing: tokio::sync::Mutex<()>,
}

/// When checkpoints are made, and where they go.
#[derive(Debug, Clone)]
pub struct NotaryOptions {
    /// How often.
    pub every: Duration,
    /// Where each one is brought to as well.
    pub places: Vec<Place>,
}

impl Notary {
    pub(crate) fn new(key: Ed25519Key, options: NotaryOptions) -> Self {
        // The name tells two hubs' ledgers apart; it follows from the key, so that nobody has to think of one.
        let digest = Digest::of(&key.public_key().bytes()).to_string();
        let verifier = VerifierKey::of(&key, &format!("hms-ess/{}", &digest[..16]));
        let NotaryOptions { every, places } = options;
        let elsewhere = Elsewhere::new(places);
        Self { key, verifier, elsewhere, every, growing: tokio::sync::Mutex::default() }
    }
}

impl Notary {
    /// The ledger's name, which is the hub's where two of them report to one place.
    pub(crate) fn name(&self) -> &str {
        self.verifier.name()
    }
}

/// Makes a checkpoint whenever it is time and there is something new.
pub(crate) async fn run(hub: Hub) {
    let mut ticks = tokio::time::interval(hub.notary.every);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        // One node signs for all; another may take its place at any time, and a node that has just begun is none yet.
        hub.wait_to_lead(LOOK_AGAIN).await;
        if hub.delivery.store.ledger_head().await.is_ok_and(|(size, _)| size == 0) {
            continue;
        }
        if let Err(problem) = hub.make_checkpoint().await {
            tracing::warn!(
                detail = problem.detail,
                "could not make a checkpoint of the ledger; trying again next time"
            );
        }
    }
}

impl Hub {
    /// What checkpoints and proofs are verified by.
    #[must_use]
    pub fn verifier_key(&self) -> String {
        self.notary.verifier.to_string()
    }

    /// The last signed checkpoint, if there is one.
    ///
    /// # Errors
    /// The store can't be read.
    pub async fn last_checkpoint(&self) -> Result<Option<CheckpointView>, Problem> {
        let last = self.delivery.store.last_checkpoint().await.map_err(|error| unavailable(&error))?;
        Ok(last.map(CheckpointView::of))
    }

    /// Signs what the ledger is now; the last checkpoint when nothing was added since.
    ///
    /// # Errors
    /// The store can't be read or written.
    pub async fn make_checkpoint(&self) -> Result<CheckpointView, Problem> {
        if let Some(answer) = self.ask_leader(Call::Checkpoint).await? {
            return answer.checkpoint();
        }
        let _growing = self.notary.growing.lock().await;
        let size = self.grow_tree().await?;
        let store = &self.delivery.store;
        let last = store.last_checkpoint().await.map_err(|error| unavailable(&error))?;
        if let Some(last) = last.filter(|last| last.size == size) {
            return Ok(CheckpointView::of(last));
        }
        let root = store.tree_root(size).await.map_err(|error| unavailable(&error))?;
        let checkpoint = Checkpoint { origin: self.notary.verifier.name().to_owned(), size, root };
        let stored = StoredCheckpoint { size, at: self.now(), note: checkpoint.sign(&self.notary.key) };
        store.put_checkpoint(stored.clone()).await.map_err(|error| unavailable(&error))?;
        self.notary.elsewhere.new.notify_one();
        Ok(CheckpointView::of(stored))
    }

    /// The places that checkpoints are brought to, and how they fare.
    #[must_use]
    pub fn checkpoint_places(&self) -> Vec<PlaceView> {
        self.notary.elsewhere.view()
    }

    /// Brings the tree to the ledger's head; answers how many leaves it has.
    async fn grow_tree(&self) -> Result<u64, Problem> {
        let store = &self.delivery.store;
        let (head, _) = store.ledger_head().await.map_err(|error| unavailable(&error))?;
        let mut size = store.tree_size().await.map_err(|error| unavailable(&error))?;
        while size < head {
            let count = PAGE.min(usize::try_from(head - size).unwrap_or(PAGE));
            let receipts = self.receipts(size, count).await?;
            if receipts.is_empty() {
                break;
            }
            let leaves: Vec<Digest> = receipts.iter().map(|receipt| leaf_hash(receipt.line().as_bytes())).collect();
            let grown = leaves.len() as u64;
            store.grow_tree(size, leaves).await.map_err(|error| unavailable(&error))?;
            size += grown;
        }
        Ok(size)
    }

    /// The receipts from a place on.
    pub(crate) async fn receipts(&self, from: u64, count: usize) -> Result<Vec<Receipt>, Problem> {
        let entries = self.delivery.store.ledger(from, count).await.map_err(|error| unavailable(&error))?;
        let snapshot = self.delivery.registry.snapshot();
        let mut receipts = Vec::with_capacity(entries.len());
        let mut event: Option<Arc<Event>> = None;
        for entry in entries {
            let of = match event.take().filter(|known| known.seq == entry.seq) {
                Some(known) => known,
                None => self.event_at(entry.seq).await?.event,
            };
            receipts.push(receipt(&of, &snapshot, &entry));
            event = Some(of);
        }
        Ok(receipts)
    }

    /// A proof of a partner's newest receipt for an event, or for the replay of this round.
    ///
    /// # Errors
    /// There is no such receipt.
    pub async fn prove(&self, id: &EventId, partner: &PartnerId, round: Option<u32>) -> Result<Proof, Problem> {
        let event = self.recorded(id, false).await?.event;
        let store = &self.delivery.store;
        let entries = store.receipts_of_event(event.seq).await.map_err(|error| unavailable(&error))?;
        let snapshot = self.delivery.registry.snapshot();
        let is_meant = |entry: &&LedgerEntry| {
            snapshot.name(entry.entry.partner) == *partner && round.is_none_or(|round| entry.entry.round == round)
        };
        let Some(entry) = entries.iter().filter(is_meant).max_by_key(|entry| (entry.entry.round, entry.index)) else {
            let detail = format!("there is no receipt of {partner} for {id}");
            return Err(Problem::new(Code::NotFound, detail)
                .with_hint(format!("`hms-ess status {id}` shows who acknowledged it")));
        };
        let checkpoint = self.checkpoint_over(entry.index).await?;
        self.proof(receipt(&event, &snapshot, entry), entry.index, &checkpoint).await
    }

    /// A checkpoint that covers the receipt of this place: the last one, or a new one.
    pub(crate) async fn checkpoint_over(&self, index: u64) -> Result<CheckpointView, Problem> {
        let last = self.delivery.store.last_checkpoint().await.map_err(|error| unavailable(&error))?;
        match last.filter(|last| last.size > index) {
            Some(last) => Ok(CheckpointView::of(last)),
            None => self.make_checkpoint().await,
        }
    }

    /// The proof of the receipt at this place, up to a checkpoint that covers it.
    ///
    /// # Errors
    /// The store can't be read.
    pub async fn proof(&self, receipt: Receipt, index: u64, checkpoint: &CheckpointView) -> Result<Proof, Problem> {
        let path = self.delivery.store.tree_inclusion(index, checkpoint.size).await;
        let path = path.map_err(|error| unavailable(&error))?;
        Ok(Proof { receipt, index, path, checkpoint: checkpoint.note.clone() })
    }

    /// The proof that the ledger of `from` receipts was continued, not rewritten.
    ///
    /// # Errors
    /// The tree has not as many leaves.
    pub async fn consistency(&self, from: u64, to: u64) -> Result<ConsistencyView, Problem> {
        let size = self.delivery.store.tree_size().await.map_err(|error| unavailable(&error))?;
        if from > to || to > size {
            let detail = format!("from must not be over to, and to not over {size}, the receipts under checkpoints");
            return Err(Problem::new(Code::Invalid, detail).with_field("to"));
        }
        let path = self.delivery.store.tree_consistency(from, to).await.map_err(|error| unavailable(&error))?;
        Ok(ConsistencyView { from, to, path })
    }

    /// Makes the tree anew from events, partners and receipts, and compares; then every checkpoint. What was changed is named.
    pub(crate) async fn verify_tree(&self) -> Result<(), Problem> {
        let store = &self.delivery.store;
        for tile in 0.. {
            let leaves = store.tree_leaves(tile).await.map_err(|error| unavailable(&error))?;
            let receipts = match self.receipts(tile * TILE, leaves.len()).await {
                Ok(receipts) => receipts,
                Err(problem) => {
                    // An event that can't be read is named.
                    self.verify_events().await?;
                    return Err(damaged(format!("ledger entries from {}: {}", tile * TILE, problem.detail)));
                }
            };
            for (offset, leaf) in (0..).zip(&leaves) {
                let index = tile * TILE + offset as u64;
                let Some(receipt) = receipts.get(offset) else {
                    return Err(damaged(format!("ledger entry {index}: missing; the tree has it")));
                };
                if leaf_hash(receipt.line().as_bytes()) != *leaf {
                    let (event, partner) = (&receipt.event, &receipt.partner);
                    let what = format!("ledger entry {index}, {partner} for {event}: not what the tree was made of");
                    return Err(damaged(what));
                }
            }
            if (leaves.len() as u64) < TILE {
                break;
            }
        }
        let mut after = None;
        loop {
            let page = store.checkpoints(after, PAGE).await.map_err(|error| unavailable(&error))?;
            let Some(last) = page.last() else { return Ok(()) };
            after = Some(last.size);
            for stored in &page {
                let name = format!("the checkpoint of {} receipts", stored.size);
                let checkpoint = Checkpoint::open(&stored.note, &self.notary.verifier)
                    .map_err(|error| damaged(format!("{name}: {error}")))?;
                match store.tree_root(checkpoint.size).await {
                    Ok(root) if root == checkpoint.root && checkpoint.size == stored.size => {}
                    Ok(_) => return Err(damaged(format!("{name}: the ledger was rewritten since"))),
                    Err(StoreError::Damaged(what)) => return Err(damaged(format!("{name}: {what}"))),
                    Err(error) => return Err(unavailable(&error)),
                }
            }
        }
    }
}

/// A receipt as the tree holds it.
pub(crate) fn receipt(event: &Event, snapshot: &Snapshot, line: &LedgerEntry) -> Receipt {
    let entry = &line.entry;
    let (word, reason) = match &entry.word {
        Word::Ack => ("ack", None),
        Word::Nack(reason) => ("nack", Some(reason.clone())),
    };
    Receipt {
        event: event.content.id.to_string(),
        sequence: event.seq.0,
        // Made anew: a payload that was changed in the database shows. Of one that is gone the digest was kept, and the tree holds it.
        event_sha256: match event.gone {
            None => event.content.digest().to_string(),
            Some(_) => event.content_digest.to_string(),
        },
        test: event.content.test,
        partner: snapshot.name(entry.partner).to_string(),
        word: word.to_owned(),
        at: entry.at.to_string(),
        evidence: entry.evidence.word().to_owned(),
        round: entry.round,
        attempt: entry.attempt,
        version: entry.version.0,
        partner_seq: entry.partner_seq,
        body_sha256: entry.body_digest.to_string(),
        scripts: entry.scripts.iter().map(Digest::to_string).collect(),
        reason,
    }
}
