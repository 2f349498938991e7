//! BLAKE3 as a tree over source blocks: the value of a block, the digest of an object from the values of its blocks, and the
//! proof that a group of values belongs to a digest (docs/PROTOCOL.md, section 6). Never touches a file.

use blake3::hazmat::{HasherExt, Mode, merge_subtrees_non_root, merge_subtrees_root};

use crate::limits::BLOCK_SIZE;
use crate::object::{Group, block_size};
use crate::types::{BlockIndex, Digest, ObjectSize};

/// The value by which a block is verified: its chaining value, or the digest itself where the object has one block only.
/// `bytes` are those of the block.
#[must_use]
pub fn block_value(size: ObjectSize, block: BlockIndex, bytes: &[u8]) -> Digest {
    assert_eq!(bytes.len() as u64, u64::from(block_size(size, block)), "the bytes of the whole block");
    let mut hasher = blake3::Hasher::new();
    if size.block_count() < 2 {
        return Digest(hasher.update(bytes).finalize().into());
    }
    hasher.set_input_offset(block.offset());
    Digest(hasher.update(bytes).finalize_non_root())
}

/// The value of a block that is all zeroes.
#[must_use]
pub fn zero_block_value(size: ObjectSize, block: BlockIndex) -> Digest {
    static ZEROES: [u8; BLOCK_SIZE as usize] = [0; BLOCK_SIZE as usize];
    block_value(size, block, &ZEROES[..block_size(size, block) as usize])
}

/// The digest of the object of no bytes.
#[must_use]
pub fn empty_digest() -> Digest {
    Digest(blake3::hash(&[]).into())
}

/// Whether the values of a group, joined with its path (nearest sibling first), give `root`. Costs at most 43 parents.
#[must_use]
pub fn proves(group: &Group, values: &[Digest], path: &[Digest], root: &Digest) -> bool {
    let path_length = group.path().count();
    if values.len() != group.len() || path.len() != path_length {
        return false;
    }
    if path_length == 0 {
        return join_root(values) == *root;
    }
    let mut node = subtree(values);
    for (step, (sibling, value)) in (1..).zip(group.path().zip(path)) {
        let (left, right) = if sibling.left { (value, &node) } else { (&node, value) };
        node = if step == path_length { root_parent(left, right) } else { parent(left, right) };
    }
    node == *root
}

fn parent(left: &Digest, right: &Digest) -> Digest {
    Digest(merge_subtrees_non_root(&left.0, &right.0, Mode::Hash))
}

fn root_parent(left: &Digest, right: &Digest) -> Digest {
    Digest(merge_subtrees_root(&left.0, &right.0, Mode::Hash).into())
}

/// The left child of a node over `count` > 1 leaves has this many: the largest power of two below `count`.
fn left_count(count: usize) -> usize {
    count.next_power_of_two() / 2
}

fn subtree(values: &[Digest]) -> Digest {
    match values {
        [value] => *value,
        _ => {
            let (left, right) = values.split_at(left_count(values.len()));
            parent(&subtree(left), &subtree(right))
        }
    }
}

fn join_root(values: &[Digest]) -> Digest {
    let (left, right) = values.split_at(left_count(values.len()));
    root_parent(&subtree(left), &subtree(right))
}

/// What a sender knows of its object: the values of all blocks, which of them are zero, and all nodes of the tree above.
/// 64 bytes a block.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ObjectTree {
    size: ObjectSize,
    digest: Digest,
    zero: Vec<bool>,
    /// `levels[k][i]` is the node over the aligned run `[i << k, (i + 1) << k)`, clipped at the end; the root is not stored.
    levels: Vec<Vec<Digest>>,
}

impl ObjectTree {
    /// `values` and `zero` have an entry for each block of an object of `size` bytes.
    #[must_use]
    pub fn new(size: ObjectSize, values: Vec<Digest>, zero: Vec<bool>) -> Self {
        assert_eq!(values.len(), size.block_count() as usize, "a value for each block");
        assert_eq!(zero.len(), values.len(), "a mark for each block");
        let digest = match values.as_slice() {
            [] => empty_digest(),
            [only] => *only,
            all => join_root(all),
        };
        let mut levels = vec![values];
        while let Some(below) = levels.last().filter(|below| below.len() > 2) {
            let above = below.chunks(2).map(subtree).collect();
            levels.push(above);
        }
        Self { size, digest, zero, levels }
    }

    /// The object's size.
    #[must_use]
    pub fn size(&self) -> ObjectSize {
        self.size
    }

    /// The object's digest.
    #[must_use]
    pub fn digest(&self) -> Digest {
        self.digest
    }

    /// Whether the block is all zeroes.
    #[must_use]
    pub fn is_zero(&self, block: BlockIndex) -> bool {
        self.zero[block.0 as usize]
    }

    /// The values of all blocks.
    #[must_use]
    pub fn values(&self) -> &[Digest] {
        &self.levels[0]
    }

    /// The siblings of a group, nearest first.
    pub fn path(&self, group: &Group) -> impl Iterator<Item = Digest> {
        group.path().map(|sibling| {
            let level = usize::from(sibling.level);
            self.levels[level][sibling.blocks.start as usize >> level]
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn tree_of(bytes: &[u8]) -> ObjectTree {
        let size = ObjectSize::new(bytes.len() as u64).unwrap();
        let blocks: Vec<_> = bytes.chunks(BLOCK_SIZE as usize).collect();
        let values = blocks.iter().zip(0..).map(|(part, b)| block_value(size, BlockIndex(b), part)).collect();
        let zero = blocks.iter().map(|part| part.iter().all(|&byte| byte == 0)).collect();
        ObjectTree::new(size, values, zero)
    }

    /// A tree of `count` arbitrary values: proofs do not care what the blocks hold.
    fn tree_of_values(count: u32) -> ObjectTree {
        let values = (0..count).map(|i| Digest(blake3::hash(&i.to_le_bytes()).into())).collect();
        let size = ObjectSize::new(u64::from(count) * BLOCK_SIZE).unwrap();
        ObjectTree::new(size, values, vec![false; count as usize])
    }

    #[test]
    fn digest_is_that_of_blake3_at_every_edge() {
        const MIB: usize = 1 << 20;
        for size in [0, 1, 1023, 1024, 1025, MIB - 1, MIB, MIB + 1, 2 * MIB, 5 * MIB + 3, 9 * MIB, 17 * MIB + 1] {
            let bytes: Vec<u8> = (0..size).map(|i| ((i * i) >> 7) as u8).collect();
            assert_eq!(tree_of(&bytes).digest(), Digest(blake3::hash(&bytes).into()), "{size} bytes");
        }
    }

    #[test]
    fn zero_blocks_have_a_value_for_each_place() {
        let bytes = vec![0; (3 << 20) + 7];
        let tree = tree_of(&bytes);
        for block in (0..4).map(BlockIndex) {
            assert!(tree.is_zero(block));
            assert_eq!(zero_block_value(tree.size(), block), tree.values()[block.0 as usize]);
        }
        assert_ne!(tree.values()[0], tree.values()[1]);
    }

    proptest! {
        #[test]
        fn every_group_is_proved_and_no_changed_one(count in 2u32..700, pick in any::<u32>(), log2 in 0u8..=4, bit in any::<u32>()) {
            let tree = tree_of_values(count);
            let group = Group::new(count, BlockIndex((pick % count) >> log2 << log2), log2).unwrap();
            let blocks = group.blocks();
            let mut values = tree.values()[blocks.start as usize..blocks.end as usize].to_vec();
            let mut path: Vec<_> = tree.path(&group).collect();
            prop_assert!(proves(&group, &values, &path, &tree.digest()));

            let place = bit as usize % ((values.len() + path.len()) * 256);
            let value = values.iter_mut().chain(path.iter_mut()).nth(place / 256).unwrap();
            value.0[place % 256 / 8] ^= 1 << (place % 8);
            prop_assert!(!proves(&group, &values, &path, &tree.digest()));
        }

        #[test]
        fn proof_of_the_wrong_length_is_refused(count in 2u32..700, pick in any::<u32>(), log2 in 0u8..=4, longer in any::<bool>()) {
            let tree = tree_of_values(count);
            let group = Group::new(count, BlockIndex((pick % count) >> log2 << log2), log2).unwrap();
            let blocks = group.blocks();
            let values = &tree.values()[blocks.start as usize..blocks.end as usize];
            let mut path: Vec<_> = tree.path(&group).collect();
            if longer { path.push(tree.digest()); } else if path.pop().is_none() { return Ok(()); }
            prop_assert!(!proves(&group, values, &path, &tree.digest()));
            prop_assert!(!proves(&group, &values[1..], &path, &tree.digest()));
        }
    }
}
