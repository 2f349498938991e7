//! Counting instead of keeping: a block is done with as soon as enough different symbols of it have come. What they were is forgotten, so
//! nothing is known of its bytes, and it never counts as verified.

use super::{Blocks, State};
use crate::types::BlockIndex;

impl Blocks {
    /// From now on symbols are only counted. To be said before any has come.
    pub(in crate::receiver) fn count_only(&mut self) {
        self.counts_only = true;
    }

    /// Blocks of which enough symbols were counted.
    pub(in crate::receiver) fn counted_count(&self) -> u32 {
        self.counted_count
    }

    /// Whether of every block enough symbols were counted, or it is known to be all zeroes.
    pub(in crate::receiver) fn has_enough(&self) -> bool {
        self.verified_count + self.counted_count == self.layout.block_count()
    }

    /// Enough symbols of the block have come.
    pub(super) fn counted(&mut self, block: BlockIndex) {
        self.forget(block);
        self.get_mut(block).state = State::Counted;
        self.counted_count += 1;
        self.held_bytes += u64::from(self.layout.block_size(block));
    }
}
