//! The ledger's tree and its signed checkpoints: what an auditor can check without this hub.
//!
//! The tree follows the ledger off the path of deliveries, at each checkpoint. A leaf is a receipt's line with the names of
//! event and partner in it, so that a proof says everything by itself.

use std::fs::File;
use std::io::Write as _;
use std::path::PathBuf;
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

use crate::hub::Hub;
use crate::publish::unavailable;
use crate::registry::Snapshot;
use crate::view::{CheckpointView, ConsistencyView};

/// Receipts that are read, hashed and written together.
const PAGE: usize = 1_024;
/// Leaves of a tile, as the store keeps them.
const TILE: u64 = 256;

/// Signs the ledger's checkpoints.
pub struct Notary {
    key: Ed25519Key,
    verifier: VerifierKey,
    options: NotaryOptions,
    /// The tree grows in one place at a time.
    growing: tokio::sync::Mutex<()>,
}

/// When checkpoints are made, and where they go.
#[derive(Debug, Clone)]
pub struct NotaryOptions {
    /// How often.
    pub every: Duration,
    /// A directory that each one is written to as well: another disk, or one that is copied away.
    pub dir: Option<PathBuf>,
}

impl Notary {
    pub(crate) fn new(key: Ed25519Key, options: NotaryOptions) -> Self {
        // The name tells two hubs' ledgers apart; it follows from the key, so that nobody has to think of one.
        let digest = Digest::of(&key.public_key().bytes()).to_string();
        let verifier = VerifierKey::of(&key, &format!("hms-ess/{}", &digest[..16]));
        Self { key, verifier, options, growing: tokio::sync::Mutex::default() }
    }
}

/// Makes a checkpoint whenever it is time and there is something new.
pub(crate) async fn run(hub: Hub) {
    let mut ticks = tokio::time::interval(hub.notary.options.every);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
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
        self.export(&stored);
        Ok(CheckpointView::of(stored))
    }

    /// Writes a checkpoint to the directory elsewhere. One that can't be written is in the store all the same.
    fn export(&self, checkpoint: &StoredCheckpoint) {
        let Some(dir) = &self.notary.options.dir else { return };
        let path = dir.join(format!("{:020}.checkpoint", checkpoint.size));
        let part = path.with_extension("part");
        // Whole or not there, also after a power cut.
        let write = || -> std::io::Result<()> {
            std::fs::create_dir_all(dir)?;
            // The directory's own name may be new.
            if let Some(Ok(above)) = dir.parent().map(File::open) {
                above.sync_all()?;
            }
            let mut file = File::create(&part)?;
            file.write_all(checkpoint.note.as_bytes())?;
            file.sync_all()?;
            std::fs::rename(&part, &path)?;
            File::open(dir)?.sync_all()
        };
        if let Err(error) = write() {
            tracing::error!(%error, path = %path.display(), "could not write a checkpoint of the ledger elsewhere");
        }
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
    async fn receipts(&self, from: u64, count: usize) -> Result<Vec<Receipt>, Problem> {
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
        let last = store.last_checkpoint().await.map_err(|error| unavailable(&error))?;
        let checkpoint = match last.filter(|last| last.size > entry.index) {
            Some(last) => CheckpointView::of(last),
            None => self.make_checkpoint().await?,
        };
        let path = store.tree_inclusion(entry.index, checkpoint.size).await.map_err(|error| unavailable(&error))?;
        Ok(Proof { receipt: receipt(&event, &snapshot, entry), index: entry.index, path, checkpoint: checkpoint.note })
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
        let damaged = |what: String| {
            Problem::new(Code::Conflict, what)
                .with_hint("keep the database file as it is for the investigation, and restore the last back-up")
        };
        let store = &self.delivery.store;
        for tile in 0.. {
            let leaves = store.tree_leaves(tile).await.map_err(|error| unavailable(&error))?;
            let receipts = match self.receipts(tile * TILE, leaves.len()).await {
                Ok(receipts) => receipts,
                Err(problem) => {
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
fn receipt(event: &Event, snapshot: &Snapshot, line: &LedgerEntry) -> Receipt {
    let entry = &line.entry;
    let (word, reason) = match &entry.word {
        Word::Ack => ("ack", None),
        Word::Nack(reason) => ("nack", Some(reason.clone())),
    };
    Receipt {
        event: event.content.id.to_string(),
        sequence: event.seq.0,
        // Made anew: a payload that was changed in the database shows.
        event_sha256: event.content.digest().to_string(),
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
