//! The Merkle tree of RFC 9162, section 2.1: hashes, inclusion proofs, consistency proofs.
//!
//! The tree is seen through its whole subtrees, `(level, index)`: the one of level 3 and index 2 is over the leaves 16 to 23.
//! Whoever keeps the leaves answers for these; everything else follows.

use sha2::{Digest as _, Sha256};

use crate::id::Digest;

/// A leaf's hash (section 2.1.1).
#[must_use]
pub fn leaf_hash(leaf: &[u8]) -> Digest {
    Digest(Sha256::new().chain_update([0]).chain_update(leaf).finalize().into())
}

/// The hash of a node over two others (section 2.1.1).
#[must_use]
pub fn node_hash(left: &Digest, right: &Digest) -> Digest {
    Digest(Sha256::new().chain_update([1]).chain_update(left.0).chain_update(right.0).finalize().into())
}

/// The root of a tree of `size` leaves.
///
/// # Errors
/// `node` gave one.
pub fn root<E>(size: u64, mut node: impl FnMut(u32, u64) -> Result<Digest, E>) -> Result<Digest, E> {
    if size == 0 {
        return Ok(Digest(Sha256::digest([]).into()));
    }
    subtree(0, size, &mut node)
}

/// The inclusion proof of a leaf in a tree of `size` leaves (section 2.1.3.1), from the leaf up.
///
/// # Errors
/// `node` gave one.
pub fn inclusion<E>(
    index: u64,
    size: u64,
    mut node: impl FnMut(u32, u64) -> Result<Digest, E>,
) -> Result<Vec<Digest>, E> {
    let mut path = Vec::new();
    let (mut start, mut size, mut index) = (0, size, index);
    // From the root down, and turned round at the end.
    while size > 1 {
        let split = split(size);
        if index < split {
            path.push(subtree(start + split, size - split, &mut node)?);
            size = split;
        } else {
            path.push(subtree(start, split, &mut node)?);
            (start, index, size) = (start + split, index - split, size - split);
        }
    }
    path.reverse();
    Ok(path)
}

/// The proof that a tree of `new` leaves continues the one of `old` leaves (section 2.1.4.1).
///
/// # Errors
/// `node` gave one.
pub fn consistency<E>(
    old: u64,
    new: u64,
    mut node: impl FnMut(u32, u64) -> Result<Digest, E>,
) -> Result<Vec<Digest>, E> {
    let mut path = Vec::new();
    let (mut start, mut old, mut size, mut is_whole) = (0, old, new, true);
    while old != size && old > 0 {
        let split = split(size);
        if old <= split {
            path.push(subtree(start + split, size - split, &mut node)?);
            size = split;
        } else {
            path.push(subtree(start, split, &mut node)?);
            (start, old, size, is_whole) = (start + split, old - split, size - split, false);
        }
    }
    if !is_whole && old > 0 {
        path.push(subtree(start, old, &mut node)?);
    }
    path.reverse();
    Ok(path)
}

/// Whether a leaf is in the tree of this size and root (section 2.1.3.2).
#[must_use]
pub fn includes(leaf: &Digest, index: u64, path: &[Digest], size: u64, root: &Digest) -> bool {
    if index >= size {
        return false;
    }
    let (mut node, mut last) = (index, size - 1);
    let mut hash = *leaf;
    for step in path {
        if last == 0 {
            return false;
        }
        if node & 1 == 1 || node == last {
            hash = node_hash(step, &hash);
            while node & 1 == 0 && node != 0 {
                node >>= 1;
                last >>= 1;
            }
        } else {
            hash = node_hash(&hash, step);
        }
        node >>= 1;
        last >>= 1;
    }
    last == 0 && hash == *root
}

/// Whether the tree of `new` continues the one of `old`, each a size and a root (section 2.1.4.2).
#[must_use]
pub fn continues(old: (u64, &Digest), new: (u64, &Digest), path: &[Digest]) -> bool {
    let ((old_size, old_root), (new_size, new_root)) = (old, new);
    if old_size > new_size {
        return false;
    }
    if old_size == new_size {
        return path.is_empty() && old_root == new_root;
    }
    if old_size == 0 {
        return path.is_empty();
    }
    // A whole subtree is its own first step.
    let whole = old_size.is_power_of_two().then_some(*old_root);
    let mut steps = whole.iter().chain(path);
    let Some(first) = steps.next() else { return false };
    let (mut node, mut last) = (old_size - 1, new_size - 1);
    while node & 1 == 1 {
        node >>= 1;
        last >>= 1;
    }
    let (mut old_hash, mut new_hash) = (*first, *first);
    for step in steps {
        if last == 0 {
            return false;
        }
        if node & 1 == 1 || node == last {
            old_hash = node_hash(step, &old_hash);
            new_hash = node_hash(step, &new_hash);
            while node & 1 == 0 && node != 0 {
                node >>= 1;
                last >>= 1;
            }
        } else {
            new_hash = node_hash(&new_hash, step);
        }
        node >>= 1;
        last >>= 1;
    }
    last == 0 && old_hash == *old_root && new_hash == *new_root
}

/// A tree by the roots of the whole subtrees that it is made of, the largest first: enough to go on from, and to know its root.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Peaks {
    size: u64,
    hashes: Vec<Digest>,
}

impl Peaks {
    /// The tree of `size` leaves with these peaks; `None` when it has not as many.
    #[must_use]
    pub fn new(size: u64, hashes: Vec<Digest>) -> Option<Self> {
        (size.count_ones() as usize == hashes.len()).then_some(Self { size, hashes })
    }

    /// The tree of the first `size` leaves.
    ///
    /// # Errors
    /// `node` gave one.
    pub fn of<E>(size: u64, mut node: impl FnMut(u32, u64) -> Result<Digest, E>) -> Result<Self, E> {
        let mut hashes = Vec::new();
        let mut start = 0;
        for level in (0..u64::BITS).rev().filter(|level| size >> level & 1 == 1) {
            hashes.push(node(level, start >> level)?);
            start += 1 << level;
        }
        Ok(Self { size, hashes })
    }

    /// Leaves.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.size
    }

    /// The roots, the largest subtree's first.
    #[must_use]
    pub fn hashes(&self) -> &[Digest] {
        &self.hashes
    }

    /// Adds a leaf at the right edge.
    pub fn push(&mut self, leaf: Digest) {
        let mut hash = leaf;
        for _ in 0..self.size.trailing_ones() {
            if let Some(left) = self.hashes.pop() {
                hash = node_hash(&left, &hash);
            }
        }
        self.hashes.push(hash);
        self.size += 1;
    }

    /// The tree's root.
    #[must_use]
    pub fn root(&self) -> Digest {
        let mut from_the_right = self.hashes.iter().rev().copied();
        let last = from_the_right.next().unwrap_or_else(|| Digest(Sha256::digest([]).into()));
        from_the_right.fold(last, |right, left| node_hash(&left, &right))
    }
}

/// The largest power of two below `size`, which is 2 at least.
fn split(size: u64) -> u64 {
    1 << (63 - (size - 1).leading_zeros())
}

/// The hash over `size` leaves from `start`, which begins a whole subtree at least as large.
fn subtree<E>(start: u64, size: u64, node: &mut impl FnMut(u32, u64) -> Result<Digest, E>) -> Result<Digest, E> {
    if size.is_power_of_two() {
        let level = size.trailing_zeros();
        return node(level, start >> level);
    }
    let split = split(size);
    let left = subtree(start, split, node)?;
    let right = subtree(start + split, size - split, node)?;
    Ok(node_hash(&left, &right))
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use proptest::prelude::*;

    use super::*;

    fn of(leaves: &[Digest]) -> impl FnMut(u32, u64) -> Result<Digest, Infallible> {
        move |level, index| {
            let start = (index << level) as usize;
            Ok(naive_root(&leaves[start..start + (1 << level)]))
        }
    }

    /// MTH as section 2.1.1 writes it.
    fn naive_root(leaves: &[Digest]) -> Digest {
        match leaves {
            [] => Digest(Sha256::digest([]).into()),
            [leaf] => *leaf,
            _ => {
                let (left, right) = leaves.split_at(naive_split(leaves.len()));
                node_hash(&naive_root(left), &naive_root(right))
            }
        }
    }

    fn naive_split(length: usize) -> usize {
        let mut split = 1;
        while split * 2 < length {
            split *= 2;
        }
        split
    }

    /// PATH as section 2.1.3.1 writes it.
    fn naive_path(index: usize, leaves: &[Digest]) -> Vec<Digest> {
        if leaves.len() == 1 {
            return Vec::new();
        }
        let split = naive_split(leaves.len());
        let (left, right) = leaves.split_at(split);
        let (mut path, other) = if index < split {
            (naive_path(index, left), naive_root(right))
        } else {
            (naive_path(index - split, right), naive_root(left))
        };
        path.push(other);
        path
    }

    /// SUBPROOF as section 2.1.4.1 writes it.
    fn naive_subproof(old: usize, leaves: &[Digest], is_whole: bool) -> Vec<Digest> {
        if old == leaves.len() {
            return if is_whole { Vec::new() } else { vec![naive_root(leaves)] };
        }
        let split = naive_split(leaves.len());
        let (left, right) = leaves.split_at(split);
        let (mut path, other) = if old <= split {
            (naive_subproof(old, left, is_whole), naive_root(right))
        } else {
            (naive_subproof(old - split, right, false), naive_root(left))
        };
        path.push(other);
        path
    }

    fn leaves(count: usize) -> Vec<Digest> {
        (0..count).map(|number| leaf_hash(&number.to_be_bytes())).collect()
    }

    #[test]
    fn the_roots_are_those_of_certificate_transparencys_own_tests() {
        let inputs: [&[u8]; 8] = [b"", b"\x00", b"\x10", b" !", b"01", b"@ABC", b"PQRSTUVW", b"`abcdefghijklmno"];
        let roots = [
            "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
            "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
            "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
            "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
            "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
            "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
            "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
            "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
        ];
        let hashes: Vec<Digest> = inputs.iter().map(|input| leaf_hash(input)).collect();
        for (size, expected) in (1..).zip(roots) {
            assert_eq!(root(size, of(&hashes)).unwrap().to_string(), expected);
        }
        let empty = root(0, of(&[])).unwrap().to_string();
        assert_eq!(empty, "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
    }

    proptest! {
        #[test]
        fn proofs_are_those_of_the_definition_and_hold(size in 1_usize..200, at in 0_usize..200, old in 0_usize..200) {
            let (leaves, index, old) = (leaves(size), at % size, old % (size + 1));
            let (whole, before) = (naive_root(&leaves), naive_root(&leaves[..old]));
            prop_assert_eq!(root(size as u64, of(&leaves)).unwrap(), whole);
            let path = inclusion(index as u64, size as u64, of(&leaves)).unwrap();
            prop_assert_eq!(&path, &naive_path(index, &leaves));
            prop_assert!(includes(&leaves[index], index as u64, &path, size as u64, &whole));
            let steps = consistency(old as u64, size as u64, of(&leaves)).unwrap();
            if old > 0 {
                prop_assert_eq!(&steps, &naive_subproof(old, &leaves, true));
            }
            prop_assert!(continues((old as u64, &before), (size as u64, &whole), &steps));
        }

        #[test]
        fn peaks_grow_leaf_by_leaf_to_the_same_tree(size in 0_usize..200, from in 0_usize..200) {
            let (leaves, from) = (leaves(size), from % (size + 1));
            let mut peaks = Peaks::of(from as u64, of(&leaves)).unwrap();
            prop_assert_eq!(Peaks::new(from as u64, peaks.hashes().to_vec()), Some(peaks.clone()));
            prop_assert_eq!(peaks.root(), naive_root(&leaves[..from]));
            for leaf in &leaves[from..] {
                peaks.push(*leaf);
            }
            prop_assert_eq!(&peaks, &Peaks::of(size as u64, of(&leaves)).unwrap());
            prop_assert_eq!((peaks.size(), peaks.root()), (size as u64, naive_root(&leaves)));
        }

        #[test]
        fn nothing_else_passes_for_a_proof(size in 2_usize..100, at in 0_usize..100, old in 1_usize..100, flip in 0_usize..2000) {
            let (leaves, index, old) = (leaves(size), at % size, 1 + old % (size - 1));
            let (whole, before) = (naive_root(&leaves), naive_root(&leaves[..old]));
            let path = naive_path(index, &leaves);
            let bend = |path: &[Digest]| {
                let mut path = path.to_vec();
                let step = flip / 32 % path.len();
                path[step].0[flip % 32] ^= 1;
                path
            };
            let is_in = |leaf: &Digest, index: usize, path: &[Digest]| includes(leaf, index as u64, path, size as u64, &whole);
            prop_assert!(!is_in(&leaves[index], index, &bend(&path)));
            prop_assert!(!is_in(&leaf_hash(b"another"), index, &path));
            prop_assert!(!is_in(&leaves[index], (index + 1) % size, &path));
            prop_assert!(!is_in(&leaves[index], index, &path[1..]));
            prop_assert!(!is_in(&leaves[index], index + size, &path));
            let steps = naive_subproof(old, &leaves, true);
            let goes_on = |before: &Digest, steps: &[Digest]| continues((old as u64, before), (size as u64, &whole), steps);
            prop_assert!(!goes_on(&before, &bend(&steps)));
            prop_assert!(!goes_on(&leaf_hash(b"rewritten"), &steps));
            prop_assert!(!goes_on(&before, &steps[1..]));
        }
    }
}
