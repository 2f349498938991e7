//! The order of the data packets: which symbol goes with a position (docs/PROTOCOL.md, section 7). Without repair symbols that is
//! block after block, each in the order of its symbols: the cheapest for receivers without loss.

use crate::limits::CYCLE_LENGTH_MIN;
use crate::object::Layout;
use crate::types::{BlockIndex, Esi};

/// The cycle of one object: a pure function from position to symbol.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Carousel {
    layout: Layout,
    /// The blocks that are sent, ascending. All have as many symbols as the first but the object's last block.
    sent: Vec<BlockIndex>,
    symbols_per_block: u64,
    round_length: u64,
    cycle_length: u64,
    /// Payload bytes of one round.
    round_bytes: u64,
}

impl Carousel {
    /// The carousel over the blocks for which `is_sent` holds.
    pub fn new(layout: Layout, is_sent: impl Fn(BlockIndex) -> bool) -> Self {
        let sent: Vec<_> = (0..layout.block_count()).map(BlockIndex).filter(|&block| is_sent(block)).collect();
        let count = |block: &BlockIndex| u64::from(layout.source_symbol_count(*block));
        let round_length = sent.iter().map(count).sum::<u64>();
        let round_bytes = sent.iter().map(|&block| u64::from(layout.block_size(block))).sum();
        let cycle_length = match round_length {
            0 => 0,
            length => length * CYCLE_LENGTH_MIN.div_ceil(length),
        };
        let symbols_per_block = sent.first().map_or(1, count);
        Self { layout, sent, symbols_per_block, round_length, cycle_length, round_bytes }
    }

    /// Where everything lies.
    #[must_use]
    pub fn layout(&self) -> &Layout {
        &self.layout
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
        assert!(position < self.cycle_length, "a position of the cycle");
        let within = position % self.round_length;
        let index = usize::try_from(within / self.symbols_per_block).expect("the blocks are in memory");
        let esi = u16::try_from(within % self.symbols_per_block).expect("at most 2,048 symbols");
        (self.sent[index], Esi(esi))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::{ObjectSize, SymbolSize};
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    fn layout(size: u64, symbol_size: u16) -> Layout {
        Layout::new(ObjectSize::new(size).unwrap(), SymbolSize::new(symbol_size).unwrap())
    }

    #[test]
    fn object_without_data_has_an_empty_cycle() {
        assert_eq!(Carousel::new(layout(0, 1408), |_| true).cycle_length(), 0);
        assert_eq!(Carousel::new(layout(5 << 20, 1408), |_| false).cycle_length(), 0);
    }

    #[test]
    fn tiny_object_repeats_until_4096_positions() {
        assert_eq!(Carousel::new(layout(1, 1408), |_| true).cycle_length(), 4096);
        assert_eq!(Carousel::new(layout(1409, 1408), |_| true).cycle_length(), 4096);
        assert_eq!(Carousel::new(layout(3000, 1408), |_| true).cycle_length(), 3 * 1366);
        assert_eq!(Carousel::new(layout(64 << 20, 1408), |_| true).cycle_length(), 64 * 745);
    }

    proptest! {
        #[test]
        fn a_round_visits_every_symbol_of_every_sent_block_once(
            size in 1u64..4_000_000, units in 8u16..=139, mask in any::<u8>(), start in 0u32..1_000_000,
        ) {
            let layout = layout(size, units * 64);
            let is_sent = |block: BlockIndex| mask >> (block.0 % 8) & 1 == 1;
            let carousel = Carousel::new(layout, is_sent);
            let first = carousel.position_at(start);
            let seen: BTreeSet<_> = (0..carousel.round_length())
                .map(|i| carousel.symbol_at((first + i) % carousel.cycle_length()))
                .collect();
            let all: BTreeSet<_> = (0..layout.block_count())
                .map(BlockIndex)
                .filter(|&block| is_sent(block))
                .flat_map(|block| (0..layout.source_symbol_count(block)).map(move |esi| (block, Esi(esi))))
                .collect();
            prop_assert_eq!(seen.len() as u64, carousel.round_length());
            prop_assert_eq!(seen, all);
            prop_assert!(carousel.round_length() == 0 || carousel.cycle_length() >= CYCLE_LENGTH_MIN);
        }
    }
}
