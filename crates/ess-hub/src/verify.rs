//! The rest of a verification: what the ledger's chain and leaves do not reach. The Event Log without holes, every event as it was
//! recorded, and the tree's upper hashes.

use ess_core::id::{Digest, Seq};
use ess_core::ledger::merkle::node_hash;
use ess_core::problem::{Code, Problem};

use crate::hub::Hub;
use crate::publish::unavailable;

/// Events that are read together.
const PAGE: usize = 256;
/// Hashes of a tile, as the store keeps them.
const TILE: usize = 256;
/// Levels of tiles that the store may keep.
const LEVELS: u32 = 8;

/// What was changed behind the hub's back.
pub(crate) fn damaged(what: String) -> Problem {
    Problem::new(Code::Conflict, what)
        .with_hint("keep the database file as it is for the investigation, and restore the last back-up")
}

impl Hub {
    /// Every event has the content that its digest is of, and none is missing between two others.
    pub(crate) async fn verify_events(&self) -> Result<(), Problem> {
        let store = &self.delivery.store;
        let mut last = Seq(0);
        loop {
            let page = match store.events(None, last, PAGE).await {
                Ok(page) => page,
                Err(error) => return Err(self.unreadable_event(last, &error).await),
            };
            if page.is_empty() {
                return Ok(());
            }
            for recorded in page {
                let event = recorded.event;
                if event.seq.0 != last.0 + 1 {
                    return Err(damaged(format!(
                        "event number {}: missing; the next one is {}",
                        last.0 + 1,
                        event.seq
                    )));
                }
                // Of a payload that is gone nothing is left but its digest.
                let is_emptied = event.gone.is_some() && event.content.payload.get() == "null";
                if !is_emptied && event.content.digest() != event.content_digest {
                    let id = &event.content.id;
                    let what = format!("event number {}, {id}: its content is not what was recorded", event.seq);
                    return Err(damaged(what));
                }
                last = event.seq;
            }
        }
    }

    /// Names the event after a place that can't be read.
    async fn unreadable_event(&self, last: Seq, error: &ess_store::StoreError) -> Problem {
        for seq in (last.0 + 1..).take(PAGE) {
            if self.delivery.store.event(Seq(seq)).await.is_err() {
                return damaged(format!("event number {seq}: its row can't be read"));
            }
        }
        unavailable(error)
    }

    /// Every tile's hashes are those that the tile beneath gives.
    pub(crate) async fn verify_tiles(&self) -> Result<(), Problem> {
        let store = &self.delivery.store;
        for level in 0..LEVELS {
            let mut whole = 0_u64;
            loop {
                let tile = store.tree_tile(level, whole).await.map_err(|error| unavailable(&error))?;
                if tile.len() < TILE {
                    break;
                }
                let above = store.tree_tile(level + 1, whole / TILE as u64).await;
                let above = above.map_err(|error| unavailable(&error))?;
                let stored = above.get(usize::try_from(whole).unwrap_or_default() % TILE);
                if stored != Some(&fold(&tile)) {
                    let what =
                        format!("the ledger's tree: hash {whole} of level {} is not of those beneath", level + 1);
                    return Err(damaged(what));
                }
                whole += 1;
            }
            let above = store.tree_tile(level + 1, whole / TILE as u64).await.map_err(|error| unavailable(&error))?;
            let next =
                store.tree_tile(level + 1, whole / TILE as u64 + 1).await.map_err(|error| unavailable(&error))?;
            if above.len() as u64 > whole % TILE as u64 || !next.is_empty() {
                let what = format!("the ledger's tree: level {} has hashes of nothing", level + 1);
                return Err(damaged(what));
            }
        }
        Ok(())
    }
}

/// The root over a power of two of hashes.
fn fold(hashes: &[Digest]) -> Digest {
    match hashes {
        [hash] => *hash,
        _ => {
            let (left, right) = hashes.split_at(hashes.len() / 2);
            node_hash(&fold(left), &fold(right))
        }
    }
}
