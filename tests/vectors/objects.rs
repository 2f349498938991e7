//! The objects of the vectors, made by a rule that takes one line in any language, and their trees, computed here by the
//! top-down definition of docs/PROTOCOL.md, section 6, and not by the library.

use std::ops::Range;

use blake3::hazmat::{HasherExt, Mode, merge_subtrees_non_root, merge_subtrees_root};

const BLOCK_SIZE: usize = 1 << 20;

/// Name, size and all-zero blocks of every object.
const OBJECTS: [(&str, usize, &[usize]); 8] = [
    ("empty", 0, &[]),
    ("one", 1, &[]),
    ("small", 3000, &[]),
    ("block", BLOCK_SIZE, &[]),
    ("two", BLOCK_SIZE + 1, &[]),
    ("three", 3 * BLOCK_SIZE, &[1]),
    ("seventeen", 16 * BLOCK_SIZE + 5000, &[3, 9]),
    ("zeroes", 2 * BLOCK_SIZE + 1, &[0, 1, 2]),
];

pub(crate) struct Object {
    pub(crate) name: &'static str,
    pub(crate) bytes: Vec<u8>,
    pub(crate) zero_blocks: &'static [usize],
    pub(crate) values: Vec<[u8; 32]>,
    pub(crate) digest: [u8; 32],
}

impl Object {
    fn new(name: &'static str, size: usize, zero_blocks: &'static [usize]) -> Self {
        let byte = |i: usize| match zero_blocks.contains(&(i / BLOCK_SIZE)) {
            true => 0,
            false => (((i * i) >> 7) + (i >> 13)) as u8,
        };
        let bytes: Vec<u8> = (0..size).map(byte).collect();
        let value = |(block, bytes): (usize, &[u8])| {
            let mut hasher = blake3::Hasher::new();
            hasher.set_input_offset((block * BLOCK_SIZE) as u64).update(bytes).finalize_non_root()
        };
        let values = bytes.chunks(BLOCK_SIZE).enumerate().map(value).collect();
        let digest = blake3::hash(&bytes).into();
        Self { name, bytes, zero_blocks, values, digest }
    }

    pub(crate) fn id(&self) -> [u8; 12] {
        std::array::from_fn(|i| self.digest[i])
    }

    pub(crate) fn block_count(&self) -> usize {
        self.values.len()
    }

    /// The value of a node of the tree that is not the root.
    fn node(&self, range: Range<usize>) -> [u8; 32] {
        if range.len() == 1 {
            return self.values[range.start];
        }
        let (left, right) = split(range);
        merge_subtrees_non_root(&self.node(left), &self.node(right), Mode::Hash)
    }

    /// The blocks of the group of `2^log2` blocks at `first`, and its siblings, nearest first.
    pub(crate) fn group(&self, first: usize, log2: u8) -> (Range<usize>, Vec<[u8; 32]>) {
        let mut range = 0..self.block_count();
        let mut siblings = Vec::new();
        while range.len() > 1 << log2 || range.start != first {
            let (left, right) = split(range);
            let (inside, sibling) = if left.contains(&first) { (left, right) } else { (right, left) };
            siblings.push(self.node(sibling));
            range = inside;
        }
        siblings.reverse();
        (range, siblings)
    }
}

/// The halves of a range of more than one block: the first has the largest power of two that is smaller than the range.
fn split(range: Range<usize>) -> (Range<usize>, Range<usize>) {
    let middle = range.start + range.len().next_power_of_two() / 2;
    (range.start..middle, middle..range.end)
}

pub(crate) fn all() -> Vec<Object> {
    OBJECTS.into_iter().map(|(name, size, zero_blocks)| Object::new(name, size, zero_blocks)).collect()
}

#[test]
fn root_of_every_tree_is_the_digest() {
    for object in all().iter().filter(|object| object.block_count() > 1) {
        let (left, right) = split(0..object.block_count());
        let root = merge_subtrees_root(&object.node(left), &object.node(right), Mode::Hash);
        assert_eq!(object.digest, *root.as_bytes(), "{}", object.name);
    }
}
