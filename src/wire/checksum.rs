//! The checksum of a packet (docs/PROTOCOL.md, section 3), computed from numbers.
//!
//! A general hash reads bytes, here some that have just been put together by stores of other widths. The processor cannot forward those,
//! so it waits until they have reached the cache, and before them all others, such as the copy of a payload (docs/performance.md).
//! Words that are read as they were written are forwarded, and the rest is arithmetic.

use crate::limits::HEADER_SIZE;

/// The bytes before the checksum.
const LEADING_SIZE: usize = HEADER_SIZE - 8;

/// XXH3 for 17 to 128 bytes (XXH3_len_17to128_64b of xxHash 0.8): the first 64 bytes of its default secret as little-endian words, and
/// the factors that its length and its result are multiplied by.
const SECRET: [u64; 8] = [
    0xbe4b_a423_396c_feb8,
    0x1cad_21f7_2c81_017c,
    0xdb97_9083_e96d_d4de,
    0x1f67_b3b7_a4a4_4072,
    0x78e5_c0cc_4ee6_79cb,
    0x2172_ffcc_7dd0_5a82,
    0x8e24_43f7_7446_08b8,
    0x4c26_3a81_e690_35e0,
];
const PRIME64_1: u64 = 0x9e37_79b1_85eb_ca87;
const PRIME_MX1: u64 = 0x1656_6791_9e37_79f9;

const _: () = assert!(
    HEADER_SIZE == 44,
    "four words, a block's number and the checksum; XXH3 has another way for 32 bytes or 65"
);

/// The bytes of a header before its checksum, as big-endian numbers.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct HeaderWords {
    pub(super) words: [u64; 4],
    pub(super) block: u32,
}

impl HeaderWords {
    pub(super) fn of(head: &[u8; HEADER_SIZE]) -> Self {
        let ([a, b, c, d, block_and_more], _) = head.as_chunks::<8>() else { unreachable!("five words and a half") };
        let [b0, b1, b2, b3, ..] = *block_and_more;
        Self { words: [*a, *b, *c, *d].map(u64::from_be_bytes), block: u32::from_be_bytes([b0, b1, b2, b3]) }
    }

    /// Writes the header with this checksum.
    pub(super) fn emit(&self, checksum: u64, out: &mut [u8; HEADER_SIZE]) {
        let (leading, field) = out.split_at_mut(LEADING_SIZE);
        let (words, block) = leading.as_chunks_mut::<8>();
        for (place, word) in words.iter_mut().zip(self.words) {
            *place = word.to_be_bytes();
        }
        block.copy_from_slice(&self.block.to_be_bytes());
        field.copy_from_slice(&checksum.to_be_bytes());
    }

    /// XXH3-64 of these bytes and the hash of the payload behind them.
    pub(super) fn checksum(&self, payload_hash: u64) -> u64 {
        let [a, b, c, d] = self.words;
        // The eight bytes that begin in the middle of one word and end in that of the next.
        let across = |word: u64, next: u64| (word << 32 | next >> 32).swap_bytes();
        let block = u64::from(self.block) << 32;
        let sum = (HEADER_SIZE as u64)
            .wrapping_mul(PRIME64_1)
            .wrapping_add(mix([c.swap_bytes(), d.swap_bytes()], 4))
            .wrapping_add(mix([across(b, c), across(c, d)], 6))
            .wrapping_add(mix([a.swap_bytes(), b.swap_bytes()], 0))
            .wrapping_add(mix([across(d, block), payload_hash.swap_bytes()], 2));
        let folded = (sum ^ sum >> 37).wrapping_mul(PRIME_MX1);
        folded ^ folded >> 32
    }
}

/// Sixteen bytes with the secret from the word `first` on.
fn mix([low, high]: [u64; 2], first: usize) -> u64 {
    let product = u128::from(low ^ SECRET[first]) * u128::from(high ^ SECRET[first + 1]);
    product as u64 ^ (product >> 64) as u64
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use xxhash_rust::xxh3::xxh3_64;

    proptest! {
        #[test]
        fn checksum_is_that_of_the_library(bytes in prop::array::uniform32(any::<u8>()), more in any::<[u8; 12]>(), hash in any::<u64>()) {
            let mut head: [u8; HEADER_SIZE] = [bytes.as_slice(), &more].concat().try_into().unwrap();
            let words = HeaderWords::of(&head);
            head[LEADING_SIZE..].copy_from_slice(&hash.to_be_bytes());
            prop_assert_eq!(words.checksum(hash), xxh3_64(&head));
            let mut again = [0; HEADER_SIZE];
            words.emit(hash, &mut again);
            prop_assert_eq!(again, head);
        }
    }
}
