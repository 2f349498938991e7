//! Random numbers from a seed: xoshiro256** by Blackman and Vigna (public domain), started by splitmix64. The same seed gives the
//! same run on every machine, so nothing here may use floating point.

use std::ops::RangeInclusive;
use std::time::Duration;

/// A probability in millionths.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default)]
pub(crate) struct Ppm(pub(crate) u64);

impl Ppm {
    /// So many in a hundred.
    pub(crate) const fn percent(percent: u64) -> Self {
        Self(percent * 10_000)
    }
}

/// A stream of random numbers.
#[derive(Clone, Debug)]
pub(crate) struct Random {
    state: [u64; 4],
}

impl Random {
    pub(crate) fn new(seed: u64) -> Self {
        let mut mixed = seed;
        let state = std::array::from_fn(|_| {
            mixed = mixed.wrapping_add(0x9E37_79B9_7F4A_7C15);
            let first = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
            let second = (first ^ (first >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
            second ^ (second >> 31)
        });
        Self { state }
    }

    /// A stream of its own, so that more draws in one place do not change those of another.
    pub(crate) fn fork(&mut self) -> Self {
        Self::new(self.bits())
    }

    pub(crate) fn bits(&mut self) -> u64 {
        let [a, b, c, d] = &mut self.state;
        let result = b.wrapping_mul(5).rotate_left(7).wrapping_mul(9);
        let shifted = *b << 17;
        *c ^= *a;
        *d ^= *b;
        *b ^= *c;
        *a ^= *d;
        *c ^= shifted;
        *d = d.rotate_left(45);
        result
    }

    /// A number less than `end`; 0 if `end` is 0.
    pub(crate) fn below(&mut self, end: u64) -> u64 {
        ((u128::from(self.bits()) * u128::from(end)) >> 64) as u64
    }

    pub(crate) fn index(&mut self, len: usize) -> usize {
        self.below(len as u64) as usize
    }

    pub(crate) fn within(&mut self, range: RangeInclusive<u64>) -> u64 {
        range.start() + self.below(range.end() - range.start() + 1)
    }

    pub(crate) fn chance(&mut self, probability: Ppm) -> bool {
        probability.0 > 0 && self.below(1_000_000) < probability.0
    }

    /// A span of at most `max`.
    pub(crate) fn span(&mut self, max: Duration) -> Duration {
        Duration::from_nanos(self.below(max.as_nanos() as u64 + 1))
    }

    pub(crate) fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.index(from.len())]
    }

    pub(crate) fn fill(&mut self, out: &mut [u8]) {
        for part in out.chunks_mut(8) {
            part.copy_from_slice(&self.bits().to_le_bytes()[..part.len()]);
        }
    }
}
