//! What one of several virtual servers does of the whole: where it starts, how much of the rate and of a pass is its own, and whether
//! it sends the control packets (docs/PROTOCOL.md, section 7).

/// One virtual server among those of a sender.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Share {
    index: u32,
    count: u32,
}

impl Share {
    /// The only virtual server.
    pub const WHOLE: Self = Self { index: 0, count: 1 };

    /// Number `index`, from 0, of `count`; `None` if there is no such one.
    #[must_use]
    pub fn new(index: u32, count: u32) -> Option<Self> {
        (index < count).then_some(Self { index, count })
    }

    /// How many there are.
    #[must_use]
    pub fn count(self) -> u32 {
        self.count
    }

    /// Whether it is the one that sends manifest and hashes packets.
    #[must_use]
    pub fn has_control(self) -> bool {
        self.index == 0
    }

    /// Where its part of `total` begins. The parts join without gap or overlap, and differ by one at most.
    #[must_use]
    pub fn start_of(self, total: u64) -> u64 {
        Self::cut(total, self.index, self.count)
    }

    /// How much of `total` is its own.
    #[must_use]
    pub fn part_of(self, total: u64) -> u64 {
        Self::cut(total, self.index + 1, self.count) - self.start_of(total)
    }

    fn cut(total: u64, index: u32, count: u32) -> u64 {
        let place = u128::from(total) * u128::from(index) / u128::from(count);
        u64::try_from(place).expect("a part of a number that fits")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn parts_join_and_differ_by_one_at_most(total in any::<u64>(), count in 1u32..200) {
            let shares: Vec<_> = (0..count).map(|index| Share::new(index, count).unwrap()).collect();
            let mut end = 0;
            for share in &shares {
                prop_assert_eq!(share.start_of(total), end);
                end += share.part_of(total);
                prop_assert!(share.part_of(total).abs_diff(total / u64::from(count)) <= 1);
            }
            prop_assert_eq!(end, total);
            prop_assert_eq!(Share::new(count, count), None);
        }
    }
}
