//! A row of bits for every block.

use crate::types::BlockIndex;

/// Bits by block and number. Its memory is taken once.
#[derive(Debug)]
pub(super) struct Bits {
    words: Vec<u64>,
    words_per_block: usize,
    bit_count: u16,
}

impl Bits {
    /// All 0: `bit_count` for each of `block_count` blocks.
    pub(super) fn new(block_count: u32, bit_count: u16) -> Self {
        let words_per_block = usize::from(bit_count).div_ceil(64);
        Self { words: vec![0; words_per_block * block_count as usize], words_per_block, bit_count }
    }

    /// The bits of one block.
    pub(super) fn bit_count(&self) -> u16 {
        self.bit_count
    }

    pub(super) fn get(&self, block: BlockIndex, bit: u16) -> bool {
        let (word, mask) = self.place(block, bit);
        self.words.get(word).is_some_and(|word| word & mask != 0)
    }

    /// # Panics
    /// If there is no such bit.
    pub(super) fn set(&mut self, block: BlockIndex, bit: u16) {
        let (word, mask) = self.place(block, bit);
        *self.words.get_mut(word).expect("a word for every bit") |= mask;
    }

    pub(super) fn clear(&mut self, block: BlockIndex, bit: u16) {
        let (word, mask) = self.place(block, bit);
        if let Some(word) = self.words.get_mut(word) {
            *word &= !mask;
        }
    }

    pub(super) fn clear_block(&mut self, block: BlockIndex) {
        let first = block.0 as usize * self.words_per_block;
        if let Some(words) = self.words.get_mut(first..first + self.words_per_block) {
            words.fill(0);
        }
    }

    /// The number of ones.
    pub(super) fn count(&self, block: BlockIndex) -> u32 {
        self.row(block).iter().map(|word| word.count_ones()).sum()
    }

    /// The highest bit below `end` that is 0.
    pub(super) fn last_zero_below(&self, block: BlockIndex, end: u16) -> Option<u16> {
        let mut end = u32::from(end);
        while end > 0 {
            // The bits of one word, shifted so that the one below `end` is at the top.
            let top = (end - 1) % 64;
            let word = self.row(block).get(((end - 1) / 64) as usize)?;
            let taken = (word << (63 - top)).leading_ones();
            if taken <= top {
                return u16::try_from(end - 1 - taken).ok();
            }
            end -= top + 1;
        }
        None
    }

    fn row(&self, block: BlockIndex) -> &[u64] {
        let first = block.0 as usize * self.words_per_block;
        self.words.get(first..first + self.words_per_block).unwrap_or(&[])
    }

    fn place(&self, block: BlockIndex, bit: u16) -> (usize, u64) {
        (block.0 as usize * self.words_per_block + usize::from(bit / 64), 1 << (bit % 64))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn last_zero_is_found_as_by_looking_at_each(ones in prop::collection::vec(prop::bool::weighted(0.97), 1..300), end in 0u16..300) {
            let count = ones.len() as u16;
            let end = end.min(count);
            let mut bits = Bits::new(3, count);
            let block = BlockIndex(1);
            (0..count).filter(|&bit| ones[usize::from(bit)]).for_each(|bit| bits.set(block, bit));
            let expected = (0..end).rev().find(|&bit| !ones[usize::from(bit)]);
            prop_assert_eq!(bits.last_zero_below(block, end), expected);
            prop_assert_eq!(bits.count(block) as usize, ones.iter().filter(|&&one| one).count());
            prop_assert_eq!(bits.count(BlockIndex(0)) + bits.count(BlockIndex(2)), 0);
        }
    }
}
