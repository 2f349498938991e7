//! The shape of an object: source blocks, symbols and offsets (docs/PROTOCOL.md, section 2), and the tree over its blocks
//! (section 6). Arithmetic alone: no bytes of an object pass through here.

use std::ops::Range;

use crate::limits::{BLOCK_SIZE, GROUP_LOG2_MAX, REPAIR_PERCENT_MAX};
use crate::types::{BlockIndex, Esi, ObjectSize, SymbolSize};

/// Bytes of a block that is not the object's last.
const FULL_BLOCK_SIZE: u32 = BLOCK_SIZE as u32;

/// Where everything of an object lies for one symbol size.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Layout {
    size: ObjectSize,
    symbol_size: SymbolSize,
    // What follows from these, so that no packet costs a division.
    block_count: u32,
    last_block_size: u32,
    full_source_count: u16,
    last_source_count: u16,
}

/// Where a source symbol belongs.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Place {
    /// Its first byte in the object.
    pub offset: u64,
    /// Its length in bytes, at least 1.
    pub size: u16,
}

impl Layout {
    /// The layout of an object of `size` bytes in symbols of `symbol_size`.
    #[must_use]
    pub fn new(size: ObjectSize, symbol_size: SymbolSize) -> Self {
        let block_count = size.block_count();
        let last_block_size = block_size(size, BlockIndex(block_count.saturating_sub(1)));
        let source_count = |bytes: u32| {
            let count = bytes.div_ceil(u32::from(symbol_size.bytes()));
            u16::try_from(count).expect("2^20 bytes are at most 2,048 symbols")
        };
        Self {
            size,
            symbol_size,
            block_count,
            last_block_size,
            full_source_count: source_count(FULL_BLOCK_SIZE),
            last_source_count: source_count(last_block_size),
        }
    }

    /// The object's size.
    #[must_use]
    pub fn size(&self) -> ObjectSize {
        self.size
    }

    /// The symbol size.
    #[must_use]
    pub fn symbol_size(&self) -> SymbolSize {
        self.symbol_size
    }

    /// The number of source blocks.
    #[must_use]
    pub fn block_count(&self) -> u32 {
        self.block_count
    }

    /// L_b: the bytes of a block of this object.
    #[must_use]
    pub fn block_size(&self, block: BlockIndex) -> u32 {
        self.by_block(block, FULL_BLOCK_SIZE, self.last_block_size)
    }

    /// `full` for all blocks but the object's last; 0 beyond that.
    fn by_block<T: Default>(&self, block: BlockIndex, full: T, last: T) -> T {
        match block.0.checked_add(1) {
            Some(number) if number < self.block_count => full,
            Some(number) if number == self.block_count => last,
            _ => T::default(),
        }
    }

    /// K_b: the number of source symbols of a block of this object.
    #[must_use]
    pub fn source_symbol_count(&self, block: BlockIndex) -> u16 {
        self.by_block(block, self.full_source_count, self.last_source_count)
    }

    /// R_b: how many repair symbols a sender adds to a block at `percent`.
    #[must_use]
    pub fn repair_symbol_count(&self, block: BlockIndex, percent: u16) -> u16 {
        let source = u32::from(self.source_symbol_count(block));
        let repair = (source * u32::from(percent.min(REPAIR_PERCENT_MAX))).div_ceil(100);
        u16::try_from(repair).expect("three times 2,048 symbols at most")
    }

    /// The payload of symbol `esi` of a block of this object: its exact length in bytes. `None` if no packet can carry it.
    #[must_use]
    pub fn payload_size(&self, block: BlockIndex, esi: Esi) -> Option<u16> {
        if let Some(place) = self.place(block, esi) {
            return Some(place.size);
        }
        let esi_end = self.source_symbol_count(block) + self.repair_symbol_count(block, REPAIR_PERCENT_MAX);
        if esi.0 >= esi_end {
            return None;
        }
        Some(self.shard_size(block))
    }

    /// The bytes of every repair symbol of a block of this object, and of its source symbols when they are coded: S, but where the
    /// block is a single symbol its size rounded up to a multiple of 64.
    #[must_use]
    pub fn shard_size(&self, block: BlockIndex) -> u16 {
        let block_size = self.block_size(block);
        let single = u16::try_from(block_size).ok().filter(|&size| size <= self.symbol_size.bytes());
        single.map_or(self.symbol_size.bytes(), |size| size.next_multiple_of(64))
    }

    /// Where source symbol `esi` belongs; `None` if it is a repair symbol or not of this object.
    #[must_use]
    pub fn place(&self, block: BlockIndex, esi: Esi) -> Option<Place> {
        if esi.0 >= self.source_symbol_count(block) {
            return None;
        }
        let within = u32::from(esi.0) * u32::from(self.symbol_size.bytes());
        let size = (self.block_size(block) - within).min(u32::from(self.symbol_size.bytes()));
        Some(Place { offset: block.offset() + u64::from(within), size: u16::try_from(size).expect("at most a symbol") })
    }
}

/// L_b: the bytes of a block of an object of `size`, 0 beyond its end.
#[must_use]
pub fn block_size(size: ObjectSize, block: BlockIndex) -> u32 {
    let left = size.bytes().saturating_sub(block.offset()).min(BLOCK_SIZE);
    u32::try_from(left).expect("at most 2^20")
}

/// An aligned run of `2^log2` blocks, fewer at the end of the object: what one hashes packet covers.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Group {
    block_count: u32,
    first: u32,
    log2: u8,
}

/// One step from a group to the root: the sibling's blocks and on which side it lies.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Sibling {
    /// The level of both nodes: they are aligned runs of `2^level` blocks, fewer at the end of the object.
    pub level: u8,
    /// The sibling's blocks.
    pub blocks: Range<u32>,
    /// Whether it is the left child.
    pub left: bool,
}

impl Group {
    /// The group of `2^log2` blocks that starts at `first`, in an object of `block_count` blocks. `None` if there is no such
    /// group, or if the object has no tree (fewer than two blocks).
    #[must_use]
    pub fn new(block_count: u32, first: BlockIndex, log2: u8) -> Option<Self> {
        let exists = block_count >= 2
            && log2 <= GROUP_LOG2_MAX
            && first.0 < block_count
            && first.0.is_multiple_of(1 << u32::from(log2));
        exists.then_some(Self { block_count, first: first.0, log2 })
    }

    /// Its blocks.
    #[must_use]
    pub fn blocks(&self) -> Range<u32> {
        self.first..self.first.saturating_add(1 << u32::from(self.log2)).min(self.block_count)
    }

    /// Its first block.
    #[must_use]
    pub fn first(&self) -> BlockIndex {
        BlockIndex(self.first)
    }

    /// The number of its blocks, 1 to 16.
    #[must_use]
    pub fn len(&self) -> usize {
        self.blocks().len()
    }

    /// Never: a group has at least one block.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.blocks().is_empty()
    }

    /// The logarithm of the group size.
    #[must_use]
    pub fn log2(&self) -> u8 {
        self.log2
    }

    /// The siblings on the way to the root, nearest first. Empty if the group is the whole object.
    pub fn path(&self) -> impl Iterator<Item = Sibling> + use<> {
        let Self { block_count, first, log2 } = *self;
        (log2..32).take_while(move |&level| 1 << level < u64::from(block_count)).filter_map(move |level| {
            let node = first >> level;
            let start = u64::from(node ^ 1) << level;
            let end = (start + (1 << level)).min(u64::from(block_count));
            let blocks = u32::try_from(start).ok()?..u32::try_from(end).ok()?;
            (start < end).then_some(Sibling { level, blocks, left: node % 2 == 1 })
        })
    }
}

/// The number of groups of `2^log2` blocks in an object: none if it has no tree.
#[must_use]
pub fn group_count(block_count: u32, log2: u8) -> u32 {
    if block_count < 2 { 0 } else { block_count.div_ceil(1 << u32::from(log2)) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn layout(size: u64, symbol_size: u16) -> Layout {
        Layout::new(ObjectSize::new(size).unwrap(), SymbolSize::new(symbol_size).unwrap())
    }

    #[test]
    fn full_block_has_745_symbols_of_1408_and_a_short_last_one() {
        let layout = layout(5 << 20, 1408);
        assert_eq!(layout.source_symbol_count(BlockIndex(4)), 745);
        let last = layout.place(BlockIndex(4), Esi(744)).unwrap();
        assert_eq!(last, Place { offset: (4 << 20) + 744 * 1408, size: 1024 });
        assert_eq!(layout.place(BlockIndex(4), Esi(745)), None);
        assert_eq!(layout.payload_size(BlockIndex(4), Esi(745)), Some(1408));
        assert_eq!(layout.payload_size(BlockIndex(5), Esi(0)), None);
        assert_eq!(layout.payload_size(BlockIndex(4), Esi(4 * 745 - 1)), Some(1408));
        assert_eq!(layout.payload_size(BlockIndex(4), Esi(4 * 745)), None);
        assert_eq!(layout.payload_size(BlockIndex(4), Esi(u16::MAX)), None);
    }

    #[test]
    fn shard_of_a_single_symbol_block_is_its_size_rounded_up_to_64() {
        let layout = layout(BLOCK_SIZE + 1, 1408);
        assert_eq!(layout.payload_size(BlockIndex(1), Esi(0)), Some(1));
        assert_eq!(layout.payload_size(BlockIndex(1), Esi(1)), Some(64));
        assert_eq!(layout.repair_symbol_count(BlockIndex(1), 50), 1);
        assert_eq!(layout.repair_symbol_count(BlockIndex(0), 50), 373);
    }

    #[test]
    fn largest_object_has_2_to_the_28_blocks() {
        let layout = layout(crate::limits::OBJECT_SIZE_MAX, 512);
        assert_eq!(layout.block_count(), 1 << 28);
        assert_eq!(layout.block_size(BlockIndex((1 << 28) - 1)), (1 << 20) - 1);
        assert_eq!(layout.source_symbol_count(BlockIndex(0)), 2048);
    }

    proptest! {
        #[test]
        fn source_symbols_tile_every_block(size in 1u64..20_000_000, units in 8u16..=139, pick in any::<u32>()) {
            let layout = layout(size, units * 64);
            let block = BlockIndex(pick % layout.block_count());
            let mut offset = block.offset();
            for esi in 0..layout.source_symbol_count(block) {
                let place = layout.place(block, Esi(esi)).unwrap();
                prop_assert_eq!(place.offset, offset);
                prop_assert!(place.size >= 1 && place.size <= units * 64);
                offset += u64::from(place.size);
            }
            prop_assert_eq!(offset, block.offset() + u64::from(layout.block_size(block)));
        }

        /// The path as the specification of BLAKE3 has it: split from the top, the left side the largest power of two.
        #[test]
        fn path_is_the_one_found_from_the_top(block_count in 2u32..5000, pick in any::<u32>(), log2 in 0u8..=4) {
            let first = (pick % block_count) >> log2 << log2;
            let group = Group::new(block_count, BlockIndex(first), log2).unwrap();
            let mut range = 0..block_count;
            let mut siblings = Vec::new();
            while range.len() > 1 << log2 || range.start != first {
                let half = (range.end - range.start).next_power_of_two() / 2;
                let middle = range.start + half;
                if first < middle {
                    siblings.push((middle..range.end, false));
                    range.end = middle;
                } else {
                    siblings.push((range.start..middle, true));
                    range.start = middle;
                }
            }
            siblings.reverse();
            prop_assert_eq!(range, group.blocks());
            let path: Vec<_> = group.path().map(|sibling| (sibling.blocks, sibling.left)).collect();
            prop_assert_eq!(path, siblings);
        }
    }
}
