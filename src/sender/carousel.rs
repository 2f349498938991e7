//! The order of the data packets: which symbol goes with a position (docs/PROTOCOL.md, section 7). Without repair symbols that is
//! block after block, each in the order of its symbols: the cheapest for receivers without loss. With repair symbols it is by rows,
//! so that whatever a receiver loses, it loses of every block alike.

use super::order::{Order, Shape};
use crate::limits::{BLOCK_SIZE, CYCLE_LENGTH_MIN, RUN_DEFAULT, RUN_MAX, WINDOW_SIZE_DEFAULT, WINDOW_WHOLE_SIZE_MAX};
use crate::object::Layout;
use crate::types::{BlockIndex, Esi};

/// How many repair symbols are sent, and in which order everything is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Fec {
    /// Repair symbols in percent of source symbols, at most 300; 0: none.
    pub percent: u16,
    /// Symbols of a block before the next block's turn, at least 1.
    pub run: u16,
    /// Bytes of the object that are sent before the next ones; rounded up to whole blocks. `None`: everything where that is no
    /// more than 1 GiB, else 256 MiB.
    pub window_size: Option<u64>,
}

impl Fec {
    /// No repair symbols.
    pub const OFF: Self = Self::new(0);

    /// Repair symbols at `percent`, in the default order.
    #[must_use]
    pub const fn new(percent: u16) -> Self {
        Self { percent, run: RUN_DEFAULT, window_size: None }
    }
}

/// A block, counted among those that are sent.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct SentBlock(pub u32);

/// The cycle of one object: a pure function from position to symbol.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Carousel {
    layout: Layout,
    percent: u16,
    sent: SentBlocks,
    order: Order,
    /// K + R of a block that is not the object's last.
    full_symbol_count: u64,
    round_length: u64,
    cycle_length: u64,
    /// Payload bytes of one round.
    round_bytes: u64,
}

/// The blocks that are sent, ascending.
#[derive(Clone, Debug, PartialEq, Eq)]
enum SentBlocks {
    All,
    /// Each block that is sent, and for each block how many before it are.
    Some {
        blocks: Vec<BlockIndex>,
        ranks: Vec<u32>,
    },
}

/// Walks over the positions, cheaper than asking for each.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Cursor {
    position: u64,
    block: BlockIndex,
    esi: u16,
    /// Symbols of the block.
    symbol_count: u16,
    /// Symbols of this run, this one included.
    left: u64,
}

impl Carousel {
    /// The carousel over the blocks for which `is_sent` holds.
    pub fn new(layout: Layout, fec: Fec, is_sent: impl Fn(BlockIndex) -> bool) -> Self {
        let sent = SentBlocks::new(layout.block_count(), is_sent);
        let last = BlockIndex(layout.block_count().saturating_sub(1));
        let sends_last = layout.block_count() > 0 && sent.rank(last).is_some();
        let symbol_count = |block| u64::from(symbol_count(&layout, fec.percent, block));
        let sent_count = u64::from(sent.count(&layout));
        let shape = Shape {
            full_count: sent_count - u64::from(sends_last),
            full_source_count: u64::from(layout.source_symbol_count(BlockIndex(0))),
            full_symbol_count: symbol_count(BlockIndex(0)),
            last_symbol_count: sends_last.then(|| symbol_count(last)),
            window_blocks: window_blocks(fec, sent_count),
            // Block after block: all of a block is one run.
            run: if fec.percent == 0 { u64::from(RUN_MAX) } else { u64::from(fec.run.max(1)) },
        };
        let order = Order::new(shape);
        let round_length = order.length() / order.round_count();
        let cycle_length = match order.length() {
            0 => 0,
            length => length * CYCLE_LENGTH_MIN.div_ceil(length),
        };
        let payload_bytes = |block| {
            let repair = u64::from(layout.repair_symbol_count(block, fec.percent));
            u64::from(layout.block_size(block)) + repair * u64::from(layout.shard_size(block))
        };
        let last_bytes = if sends_last { payload_bytes(last) } else { 0 };
        let full_bytes = if shape.full_count > 0 { shape.full_count * payload_bytes(BlockIndex(0)) } else { 0 };
        let round_bytes = full_bytes + last_bytes;
        let full_symbol_count = shape.full_symbol_count;
        Self { layout, percent: fec.percent, sent, order, full_symbol_count, round_length, cycle_length, round_bytes }
    }

    /// Where everything lies.
    #[must_use]
    pub fn layout(&self) -> &Layout {
        &self.layout
    }

    /// Repair symbols in percent of source symbols.
    #[must_use]
    pub fn repair_percent(&self) -> u16 {
        self.percent
    }

    /// R_b: the repair symbols of a block that are sent.
    #[must_use]
    pub fn repair_symbol_count(&self, block: BlockIndex) -> u16 {
        self.layout.repair_symbol_count(block, self.percent)
    }

    /// Whether a symbol is a repair symbol.
    #[must_use]
    pub fn is_repair(&self, block: BlockIndex, esi: Esi) -> bool {
        esi.0 >= self.layout.source_symbol_count(block)
    }

    /// How many blocks are sent.
    #[must_use]
    pub fn sent_count(&self) -> u32 {
        self.sent.count(&self.layout)
    }

    /// The number of a block among those that are sent; `None` if it is not.
    #[must_use]
    pub fn sent_block(&self, block: BlockIndex) -> Option<SentBlock> {
        (block.0 < self.layout.block_count()).then(|| self.sent.rank(block)).flatten().map(SentBlock)
    }

    /// The block that is sent as number `sent`, which must be less than [`Self::sent_count`].
    #[must_use]
    pub fn block_of(&self, sent: SentBlock) -> BlockIndex {
        assert!(sent.0 < self.sent_count(), "a block that is sent");
        self.sent.block(sent.0)
    }

    /// The first block of the window that is visited at `position`, which must be within the cycle if there is one.
    #[must_use]
    pub fn window_start(&self, position: u64) -> SentBlock {
        if self.cycle_length == 0 {
            return SentBlock(0);
        }
        let first = self.order.window_start(position % self.order.length());
        SentBlock(u32::try_from(first).expect("as many as blocks"))
    }

    /// N: the data packets of one round, 0 if the object has no data to send.
    #[must_use]
    pub fn round_length(&self) -> u64 {
        self.round_length
    }

    /// C: the positions of one cycle.
    #[must_use]
    pub fn cycle_length(&self) -> u64 {
        self.cycle_length
    }

    /// The payload bytes of one round.
    #[must_use]
    pub fn round_bytes(&self) -> u64 {
        self.round_bytes
    }

    /// The position so many millionths into the round.
    #[must_use]
    pub fn position_at(&self, ppm: u32) -> u64 {
        let position = u128::from(self.round_length) * u128::from(ppm) / 1_000_000;
        u64::try_from(position).expect("less than a round") % self.round_length.max(1)
    }

    /// The symbol at `position`, which must be within the cycle.
    #[must_use]
    pub fn symbol_at(&self, position: u64) -> (BlockIndex, Esi) {
        let cursor = self.cursor_at(position);
        (cursor.block, Esi(cursor.esi))
    }

    /// The place of a symbol among the symbols of a round in the order of the object: less than [`Self::round_length`], and different
    /// for each. `None` if its block is not sent.
    pub(super) fn slot_of(&self, block: BlockIndex, esi: Esi) -> Option<u64> {
        let rank = u64::from(self.sent.rank(block)?);
        Some(rank * self.full_symbol_count + u64::from(esi.0))
    }

    /// A cursor at `position`, which must be within the cycle.
    pub(super) fn cursor_at(&self, position: u64) -> Cursor {
        assert!(position < self.cycle_length, "a position of the cycle");
        let place = self.order.locate(position % self.order.length());
        let block = self.sent.block(u32::try_from(place.rank).expect("as many as blocks"));
        let esi = u16::try_from(place.esi).expect("a symbol of a block");
        let symbol_count = symbol_count(&self.layout, self.percent, block);
        Cursor { position, block, esi, symbol_count, left: place.left }
    }
}

impl Cursor {
    /// The position, and the symbol that goes with it.
    pub(super) fn symbol(&self) -> (u64, BlockIndex, Esi) {
        (self.position, self.block, Esi(self.esi))
    }

    /// How many positions from this one on have consecutive symbols of this block: to the end of the run, or to the block's last symbol.
    pub(super) fn left(&self) -> u64 {
        self.left.min(u64::from(self.symbol_count - self.esi))
    }

    /// Moves on by `count` positions, at least one and at most [`Self::left`].
    pub(super) fn advance_by(&mut self, count: u64, carousel: &Carousel) {
        assert!((1..=self.left()).contains(&count), "within the block");
        self.left -= count - 1;
        self.position += count - 1;
        self.esi += u16::try_from(count - 1).expect("symbols of a block");
        self.advance(carousel);
    }

    /// Moves on to the next position of the cycle.
    pub(super) fn advance(&mut self, carousel: &Carousel) {
        if self.left > 1 {
            self.left -= 1;
            self.position += 1;
            self.esi = if self.esi + 1 == self.symbol_count { 0 } else { self.esi + 1 };
            return;
        }
        let next = if self.position + 1 == carousel.cycle_length { 0 } else { self.position + 1 };
        *self = carousel.cursor_at(next);
    }
}

impl SentBlocks {
    fn new(block_count: u32, is_sent: impl Fn(BlockIndex) -> bool) -> Self {
        let blocks: Vec<_> = (0..block_count).map(BlockIndex).filter(|&block| is_sent(block)).collect();
        if blocks.len() == block_count as usize {
            return Self::All;
        }
        let mut ranks = vec![u32::MAX; block_count as usize];
        for (rank, block) in (0..).zip(&blocks) {
            ranks[block.0 as usize] = rank;
        }
        Self::Some { blocks, ranks }
    }

    fn count(&self, layout: &Layout) -> u32 {
        match self {
            Self::All => layout.block_count(),
            Self::Some { blocks, .. } => u32::try_from(blocks.len()).expect("no more than there are"),
        }
    }

    fn block(&self, rank: u32) -> BlockIndex {
        match self {
            Self::All => BlockIndex(rank),
            Self::Some { blocks, .. } => blocks[rank as usize],
        }
    }

    fn rank(&self, block: BlockIndex) -> Option<u32> {
        match self {
            Self::All => Some(block.0),
            Self::Some { ranks, .. } => Some(ranks[block.0 as usize]).filter(|&rank| rank != u32::MAX),
        }
    }
}

/// K_b + R_b.
fn symbol_count(layout: &Layout, percent: u16, block: BlockIndex) -> u16 {
    layout.source_symbol_count(block) + layout.repair_symbol_count(block, percent)
}

fn window_blocks(fec: Fec, sent_count: u64) -> u64 {
    let whole = sent_count.max(1);
    let blocks = |size: u64| size.div_ceil(BLOCK_SIZE).max(1);
    match fec.window_size {
        _ if fec.percent == 0 => 1,
        Some(size) => blocks(size),
        None if whole <= blocks(WINDOW_WHOLE_SIZE_MAX) => whole,
        None => blocks(WINDOW_SIZE_DEFAULT),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::{ObjectSize, SymbolSize};
    use proptest::prelude::*;
    use std::collections::{BTreeMap, BTreeSet};

    fn layout(size: u64, symbol_size: u16) -> Layout {
        Layout::new(ObjectSize::new(size).unwrap(), SymbolSize::new(symbol_size).unwrap())
    }

    #[test]
    fn object_without_data_has_an_empty_cycle() {
        assert_eq!(Carousel::new(layout(0, 1408), Fec::OFF, |_| true).cycle_length(), 0);
        assert_eq!(Carousel::new(layout(5 << 20, 1408), Fec::OFF, |_| false).cycle_length(), 0);
    }

    #[test]
    fn tiny_object_repeats_until_4096_positions() {
        assert_eq!(Carousel::new(layout(1, 1408), Fec::OFF, |_| true).cycle_length(), 4096);
        assert_eq!(Carousel::new(layout(1409, 1408), Fec::OFF, |_| true).cycle_length(), 4096);
        assert_eq!(Carousel::new(layout(3000, 1408), Fec::OFF, |_| true).cycle_length(), 3 * 1366);
        assert_eq!(Carousel::new(layout(64 << 20, 1408), Fec::OFF, |_| true).cycle_length(), 64 * 745);
    }

    #[test]
    fn without_repair_symbols_block_follows_block() {
        let layout = layout((3 << 20) + 5000, 1408);
        let carousel = Carousel::new(layout, Fec::OFF, |block| block.0 != 1);
        let blocks = [(0, 745), (2, 745), (3, 4)];
        let expected =
            blocks.iter().flat_map(|&(block, count)| (0..count).map(move |esi| (BlockIndex(block), Esi(esi))));
        assert!((0..carousel.round_length()).map(|position| carousel.symbol_at(position)).eq(expected));
    }

    #[test]
    fn window_is_the_whole_object_up_to_1_gib() {
        // One window is gone around once; with several, a visit takes less than a round.
        let rounds = |size: u64, window_size| {
            let carousel = Carousel::new(layout(size, 1408), Fec { window_size, ..Fec::new(50) }, |_| true);
            carousel.cycle_length() / carousel.round_length()
        };
        assert_eq!(rounds(1 << 30, None), 1);
        assert!(rounds((1 << 30) + 1, None) > 1);
        assert_eq!(rounds(4 << 20, Some((4 << 20) - 1)), 1, "rounded up to whole blocks");
        assert!(rounds(4 << 20, Some(3 << 20)) > 1);
        let carousel = Carousel::new(layout(2 << 30, 1408), Fec::new(50), |_| true);
        assert_eq!(carousel.window_start(0), SentBlock(0));
        let second = 256 * 745 * 103 / 100 + 256 * 10;
        assert_eq!(carousel.window_start(second), SentBlock(256));
    }

    fn any_fec() -> impl Strategy<Value = Fec> {
        (0u16..=100, 1u16..100, prop::option::of(0u64..4_000_000)).prop_map(|(percent, run, window_size)| Fec {
            percent,
            run,
            window_size,
        })
    }

    proptest! {
        #[test]
        fn a_cycle_visits_every_symbol_of_every_sent_block_equally_often(
            size in 1u64..4_000_000, units in 8u16..=139, mask in any::<u8>(), fec in any_fec(),
        ) {
            let layout = layout(size, units * 64);
            let is_sent = |block: BlockIndex| mask >> (block.0 % 8) & 1 == 1;
            let carousel = Carousel::new(layout, fec, is_sent);
            let mut seen = BTreeMap::new();
            let mut slots = BTreeSet::new();
            let mut bytes = 0;
            for position in 0..carousel.cycle_length() {
                let (block, esi) = carousel.symbol_at(position);
                *seen.entry((block, esi)).or_insert(0) += 1;
                slots.insert(carousel.slot_of(block, esi).unwrap());
            }
            let all: BTreeSet<_> = (0..layout.block_count())
                .map(BlockIndex)
                .filter(|&block| is_sent(block))
                .flat_map(|block| (0..symbol_count(&layout, fec.percent, block)).map(move |esi| (block, Esi(esi))))
                .collect();
            for &(block, esi) in &all {
                bytes += u64::from(layout.payload_size(block, esi).unwrap());
                let sent = carousel.sent_block(block).unwrap();
                prop_assert_eq!(carousel.block_of(sent), block);
            }
            prop_assert_eq!(all.len() as u64, carousel.round_length());
            prop_assert_eq!(bytes, carousel.round_bytes());
            prop_assert!(seen.keys().eq(all.iter()));
            prop_assert!(seen.values().all(|count| count * carousel.round_length() == carousel.cycle_length()));
            prop_assert!(slots.into_iter().eq(0..carousel.round_length()));
            prop_assert!(carousel.round_length() == 0 || carousel.cycle_length() >= CYCLE_LENGTH_MIN);
        }

        #[test]
        fn cursor_walks_the_positions_around_the_cycle(
            size in 1u64..3_000_000, units in 8u16..=139, skip in 0u32..4, fec in any_fec(), from in any::<u64>(),
        ) {
            let carousel = Carousel::new(layout(size, units * 64), fec, |block| block.0 != skip);
            prop_assume!(carousel.cycle_length() > 0);
            let mut position = from % carousel.cycle_length();
            let mut cursor = carousel.cursor_at(position);
            for _ in 0..carousel.cycle_length() + 3 {
                let (block, esi) = carousel.symbol_at(position);
                prop_assert_eq!(cursor.symbol(), (position, block, esi));
                cursor.advance(&carousel);
                position = (position + 1) % carousel.cycle_length();
            }
        }
    }
}
