//! The ledger's Merkle tree: tiles of hashes that grow at their right edge, and the proofs that follow from them.

use ess_core::id::Digest;
use ess_core::ledger::merkle::{self, Peaks, node_hash};
use ess_core::time::Time;

use super::db::{Db, Row, given};
use super::events::Reader;
use super::rows;
use crate::error::StoreError;
use crate::types::StoredCheckpoint;

type Result<T> = std::result::Result<T, StoreError>;

/// Hashes of a tile, as a power of two.
const TILE_BITS: u32 = 8;
const TILE_HASHES: u64 = 1 << TILE_BITS;
const HASH_BYTES: usize = 32;

pub(super) const TILE: &str = "select hashes from ledger_tile where level = ?1 and idx = ?2";
const PUT_TILE: &str = "insert into ledger_tile (level, idx, hashes) values (?1, ?2, ?3) \
    on conflict (level, idx) do update set hashes = excluded.hashes";
pub(super) const LAST_TILE: &str =
    "select idx, length(hashes) / 32 from ledger_tile where level = 0 order by idx desc limit 1";
const PUT_CHECKPOINT: &str =
    "insert into checkpoint (size, at, note) values (?1, ?2, ?3) on conflict (size) do nothing";
pub(super) const CHECKPOINTS: &str = "select size, at, note from checkpoint where size > ?1 order by size limit ?2";
pub(super) const LAST_CHECKPOINT: &str = "select size, at, note from checkpoint order by size desc limit 1";

/// Leaves in the tree.
pub(crate) fn size(reader: &Reader<'_>) -> Result<u64> {
    size_of(reader.db)
}

fn size_of(db: Db<'_>) -> Result<u64> {
    let read = |row: &Row<'_>| Ok(row.get::<u64>(0)? * TILE_HASHES + row.get::<u64>(1)?);
    Ok(db.query_one(LAST_TILE, given![], read)?.unwrap_or(0))
}

/// Adds leaves at the right edge; the first one has to be the next.
pub(super) fn grow(db: Db<'_>, first: u64, leaves: &[Digest]) -> Result<()> {
    let size = size_of(db)?;
    if size != first {
        return Err(StoreError::Refused(format!("the ledger's tree has {size} leaves, not {first}")));
    }
    let mut hashes = leaves.to_vec();
    let mut at = first;
    for level in 0.. {
        if hashes.is_empty() {
            break;
        }
        let (mut above, mut above_at) = (Vec::new(), None);
        let mut rest = hashes.as_slice();
        while !rest.is_empty() {
            let (index, filled) = (at / TILE_HASHES, (at % TILE_HASHES) as usize);
            let mut tile = read_tile(db, level, index)?.unwrap_or_default();
            tile.truncate(filled);
            let (taken, left) = rest.split_at(rest.len().min(TILE_HASHES as usize - filled));
            tile.extend_from_slice(taken);
            let bytes: Vec<u8> = tile.iter().flat_map(|hash| hash.0).collect();
            db.execute(PUT_TILE, given![level, index, bytes])?;
            if tile.len() as u64 == TILE_HASHES {
                above_at.get_or_insert(index);
                above.push(fold(&tile));
            }
            at += taken.len() as u64;
            rest = left;
        }
        (hashes, at) = (above, above_at.unwrap_or(0));
    }
    Ok(())
}

pub(super) fn put_checkpoint(db: Db<'_>, checkpoint: &StoredCheckpoint) -> Result<()> {
    db.execute(PUT_CHECKPOINT, given![checkpoint.size, checkpoint.at.as_micros(), checkpoint.note])?;
    Ok(())
}

pub(crate) fn checkpoints(reader: &Reader<'_>, after: Option<u64>, limit: usize) -> Result<Vec<StoredCheckpoint>> {
    let after = after.map_or(-1, |after| i64::try_from(after).unwrap_or(i64::MAX));
    reader.db.query(CHECKPOINTS, given![after, limit], read_checkpoint)
}

pub(crate) fn last_checkpoint(reader: &Reader<'_>) -> Result<Option<StoredCheckpoint>> {
    reader.db.query_one(LAST_CHECKPOINT, given![], read_checkpoint)
}

fn read_checkpoint(row: &Row<'_>) -> Result<StoredCheckpoint> {
    Ok(StoredCheckpoint { size: row.get(0)?, at: Time::from_micros(row.get(1)?), note: row.get(2)? })
}

/// The root over the first `size` leaves.
pub(crate) fn root(reader: &Reader<'_>, size: u64) -> Result<Digest> {
    merkle::root(size, |level, index| node(reader.db, level, index))
}

/// What the tree of the first `size` leaves is made of.
pub(crate) fn peaks(reader: &Reader<'_>, size: u64) -> Result<Peaks> {
    Peaks::of(size, |level, index| node(reader.db, level, index))
}

/// The way from a leaf to the root over the first `size` leaves.
pub(crate) fn inclusion(reader: &Reader<'_>, index: u64, size: u64) -> Result<Vec<Digest>> {
    merkle::inclusion(index, size, |level, index| node(reader.db, level, index))
}

/// The proof that the tree of `new` leaves continues the one of `old`.
pub(crate) fn consistency(reader: &Reader<'_>, old: u64, new: u64) -> Result<Vec<Digest>> {
    merkle::consistency(old, new, |level, index| node(reader.db, level, index))
}

/// Leaves' hashes of one tile, as many as there are.
pub(crate) fn leaves(reader: &Reader<'_>, tile: u64) -> Result<Vec<Digest>> {
    Ok(read_tile(reader.db, 0, tile)?.unwrap_or_default())
}

/// The hashes of a tile, as many as there are.
pub(crate) fn tile(reader: &Reader<'_>, level: u32, index: u64) -> Result<Vec<Digest>> {
    Ok(read_tile(reader.db, level, index)?.unwrap_or_default())
}

fn node(db: Db<'_>, level: u32, index: u64) -> Result<Digest> {
    let (tile_level, height) = (level / TILE_BITS, level % TILE_BITS);
    let first = index << height;
    let tile = read_tile(db, tile_level, first / TILE_HASHES)?.unwrap_or_default();
    let offset = (first % TILE_HASHES) as usize;
    match tile.get(offset..offset + (1 << height)) {
        Some(hashes) => Ok(fold(hashes)),
        None => Err(StoreError::Damaged(format!("the ledger's tree: node {index} of level {level} is missing"))),
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

fn read_tile(db: Db<'_>, level: u32, index: u64) -> Result<Option<Vec<Digest>>> {
    db.query_one(TILE, given![level, index], |row| {
        let bytes: &[u8] = row.get(0)?;
        let read = |hash: &[u8]| hash.try_into().map(Digest).map_err(|_| rows::damaged(0));
        bytes.chunks(HASH_BYTES).map(read).collect()
    })
}

#[cfg(test)]
mod tests {
    use ess_core::ledger::merkle::{continues, includes, leaf_hash};
    use proptest::prelude::*;
    use rusqlite::Connection;

    use crate::sqlite::Link;

    use super::*;

    fn opened() -> Connection {
        let db = Connection::open_in_memory().unwrap();
        db.execute_batch(include_str!("../sqlite/schema.sql")).unwrap();
        db
    }

    fn on(db: &Connection) -> Db<'_> {
        Db::Sqlite(Link(db))
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(32))]
        /// However the leaves come, the tree is the one of the definition.
        #[test]
        fn a_tree_that_grew_in_steps_proves_every_leaf(steps in proptest::collection::vec(1_usize..700, 1..6), at in 0_usize..4000, old in 1_u64..4000) {
            let mut db = opened();
            let mut all: Vec<Digest> = Vec::new();
            for count in steps {
                let leaves: Vec<Digest> = (0..count).map(|number| leaf_hash(&(all.len() + number).to_be_bytes())).collect();
                let tx = db.transaction().unwrap();
                grow(on(&tx), all.len() as u64, &leaves).unwrap();
                prop_assert!(grow(on(&tx), all.len() as u64, &leaves).is_err());
                tx.commit().unwrap();
                all.extend(leaves);
            }
            let size = all.len() as u64;
            prop_assert_eq!(size_of(on(&db)).unwrap(), size);
            let whole = merkle::root(size, |level, index| node(on(&db), level, index)).unwrap();
            let naive = merkle::root(size, |level, index| {
                let start = (index << level) as usize;
                Ok::<_, StoreError>(fold(&all[start..start + (1 << level)]))
            });
            prop_assert_eq!(whole, naive.unwrap());
            let index = at as u64 % size;
            let path = merkle::inclusion(index, size, |level, index| node(on(&db), level, index)).unwrap();
            prop_assert!(includes(&all[index as usize], index, &path, size, &whole));
            let old = 1 + old % size;
            let before = merkle::root(old, |level, index| node(on(&db), level, index)).unwrap();
            let steps = merkle::consistency(old, size, |level, index| node(on(&db), level, index)).unwrap();
            prop_assert!(continues((old, &before), (size, &whole), &steps));
        }
    }
}
