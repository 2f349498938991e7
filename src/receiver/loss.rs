//! Loss of one stream, from the gaps in its positions (docs/PROTOCOL.md, section 7). An estimate for people: nothing else
//! depends on it.

use crate::limits::{LOSS_STEP_MAX, POSITION_MAX, REORDER_WINDOW};
use crate::types::Position;

const WORDS: usize = (REORDER_WINDOW / 64) as usize;

/// What is known of one stream.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct LossTracker {
    expected: Option<u64>,
    /// A position far from the expected one, of which it is not clear what it means.
    set_aside: Option<u64>,
    /// Bit i: position `expected - 1 - i` is not missing.
    seen: [u64; WORDS],
    /// Packets that came for the first time.
    pub received: u64,
    /// Packets that are missing, but for those of `lost_host`.
    pub lost: u64,
    /// Packets that went missing in intervals in which this host dropped some.
    pub lost_host: u64,
    /// `lost` at the end of the last interval.
    settled: u64,
    /// Packets that came again.
    pub duplicates: u64,
    /// Packets that came after a later one.
    pub late: u64,
    /// Jumps that no loss explains.
    pub restarts: u64,
}

impl LossTracker {
    /// A data packet came at `position` of a cycle of `cycle_length`, if that is known.
    pub fn packet(&mut self, position: Position, cycle_length: Option<u64>) {
        let position = position.value();
        let cycle = cycle_length.unwrap_or(POSITION_MAX + 1);
        // The last position is reserved for packets that are in no cycle.
        if position >= cycle || position == POSITION_MAX {
            return;
        }
        let Some(expected) = self.expected.filter(|&expected| expected < cycle) else {
            return self.start(position, cycle);
        };
        let ahead = distance(expected, position, cycle);
        if ahead <= REORDER_WINDOW {
            self.advance(ahead);
            self.received += 1;
            self.lost += ahead;
            self.expected = Some(next(position, cycle));
        } else if cycle - ahead <= REORDER_WINDOW {
            self.fill_in(cycle - ahead - 1);
        } else {
            self.jump(expected, position, cycle);
        }
    }

    /// An interval ends. If this host dropped packets in it, what went missing in it is put down to the host: the kernel counts buffers,
    /// not packets, and does not tell whose they were.
    pub fn end_interval(&mut self, host_dropped: bool) {
        if host_dropped {
            self.lost_host += self.lost.saturating_sub(self.settled);
            self.lost = self.lost.min(self.settled);
        }
        self.settled = self.lost;
    }

    /// A packet far from the expected one is believed only when another follows it: one forged packet changes nothing.
    fn jump(&mut self, expected: u64, position: u64, cycle: u64) {
        let Some(first) = self.set_aside.filter(|&first| first < cycle) else {
            self.set_aside = Some(position);
            return;
        };
        let step = distance(first, position, cycle);
        if step == 0 || step > REORDER_WINDOW {
            self.set_aside = Some(position);
            return;
        }
        self.set_aside = None;
        let missing = distance(expected, first, cycle);
        if missing <= LOSS_STEP_MAX.min(cycle / 4) {
            self.advance(missing);
            self.received += 1;
            self.lost += missing;
        } else {
            self.restarts += 1;
            self.start(first, cycle);
        }
        self.advance(step - 1);
        self.received += 1;
        self.lost += step - 1;
        self.expected = Some(next(position, cycle));
    }

    fn start(&mut self, position: u64, cycle: u64) {
        self.expected = Some(next(position, cycle));
        self.set_aside = None;
        // What came before the start is not missing.
        self.seen = [u64::MAX; WORDS];
        self.received += 1;
    }

    /// Moves the window over `missing` packets that have not come and one that has.
    fn advance(&mut self, missing: u64) {
        let shift = missing + 1;
        let (words, bits) = (usize::try_from(shift / 64).unwrap_or(WORDS), (shift % 64) as u32);
        let old = self.seen;
        let word = |index: Option<usize>| index.and_then(|index| old.get(index)).copied().unwrap_or(0);
        for (index, slot) in self.seen.iter_mut().enumerate() {
            let low = word(index.checked_sub(words));
            let carry = index.checked_sub(words).and_then(|source| source.checked_sub(1));
            *slot = low << bits | word(carry).checked_shr(64 - bits).unwrap_or(0);
        }
        self.seen[0] |= 1;
    }

    fn fill_in(&mut self, index: u64) {
        let (word, bit) = (usize::try_from(index / 64).unwrap_or(WORDS), 1 << (index % 64));
        let Some(word) = self.seen.get_mut(word) else { return };
        if *word & bit != 0 {
            self.duplicates += 1;
            return;
        }
        *word |= bit;
        self.late += 1;
        self.received += 1;
        if self.lost > 0 {
            self.lost -= 1;
        } else {
            self.lost_host = self.lost_host.saturating_sub(1);
        }
    }
}

/// How far `to` is ahead of `from`, both within the cycle.
fn distance(from: u64, to: u64, cycle: u64) -> u64 {
    if to >= from { to - from } else { cycle - from + to }
}

fn next(position: u64, cycle: u64) -> u64 {
    if position.saturating_add(1) >= cycle { 0 } else { position + 1 }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const CYCLE: u64 = 10_000;

    fn after(positions: impl IntoIterator<Item = u64>, cycle: Option<u64>) -> LossTracker {
        let mut tracker = LossTracker::default();
        for position in positions {
            tracker.packet(Position::new(position).unwrap(), cycle);
        }
        tracker
    }

    #[test]
    fn gap_is_loss_and_a_late_packet_takes_it_back() {
        let tracker = after([5, 6, 9, 10], Some(CYCLE));
        assert_eq!((tracker.received, tracker.lost), (4, 2));
        let tracker = after([5, 6, 9, 10, 8], Some(CYCLE));
        assert_eq!((tracker.received, tracker.lost, tracker.late), (5, 1, 1));
        let tracker = after([5, 6, 9, 10, 8, 8, 6], Some(CYCLE));
        assert_eq!((tracker.lost, tracker.duplicates), (1, 2));
    }

    #[test]
    fn loss_of_an_interval_in_which_the_host_dropped_is_the_hosts() {
        let mut tracker = after([5, 6, 9], Some(CYCLE));
        tracker.end_interval(false);
        tracker.packet(Position::new(13).unwrap(), Some(CYCLE));
        assert_eq!((tracker.lost, tracker.lost_host), (5, 0));
        tracker.end_interval(true);
        assert_eq!((tracker.lost, tracker.lost_host), (2, 3));
        tracker.end_interval(true);
        assert_eq!((tracker.lost, tracker.lost_host), (2, 3), "no interval is counted twice");
        // Late packets take back loss, whoever it was put down to.
        for position in [12, 11, 10, 8, 7] {
            tracker.packet(Position::new(position).unwrap(), Some(CYCLE));
        }
        tracker.end_interval(true);
        assert_eq!((tracker.lost, tracker.lost_host, tracker.received), (0, 0, 9));
    }

    #[test]
    fn end_of_the_cycle_is_no_gap() {
        let tracker = after([9998, 9999, 0, 1], Some(CYCLE));
        assert_eq!((tracker.received, tracker.lost, tracker.restarts), (4, 0, 0));
        let tracker = after([9998, 1], Some(CYCLE));
        assert_eq!((tracker.received, tracker.lost), (2, 2));
        let tracker = after([9998, 1, 9999], Some(CYCLE));
        assert_eq!((tracker.received, tracker.lost, tracker.late), (3, 1, 1));
    }

    #[test]
    fn restarted_sender_is_not_loss() {
        let tracker = after([100, 101, 7000, 7001, 7002], Some(CYCLE));
        assert_eq!((tracker.lost, tracker.restarts, tracker.received), (0, 1, 5));
    }

    #[test]
    fn outage_of_a_quarter_of_a_cycle_is_loss() {
        let tracker = after([100, 101, 2600, 2601, 2603], Some(CYCLE));
        assert_eq!((tracker.lost, tracker.restarts, tracker.received), (2499, 0, 5));
    }

    #[test]
    fn late_packets_take_back_the_end_of_an_outage() {
        let tracker = after([100, 101, 1000, 1001, 999, 998, 746, 745, 999], Some(CYCLE));
        // The window of what may be late reaches back to 746.
        assert_eq!((tracker.lost, tracker.late, tracker.duplicates), (898 - 3, 3, 1));
        assert_eq!((tracker.received, tracker.restarts), (7, 0));
    }

    #[test]
    fn one_forged_position_changes_nothing() {
        let tracker = after([100, 101, 2000, 102, 103, 9000, 104], Some(CYCLE));
        assert_eq!((tracker.lost, tracker.restarts, tracker.received), (0, 0, 5));
    }

    #[test]
    fn unknown_cycle_takes_its_end_for_a_restart() {
        let tracker = after([9998, 9999, 0, 1, 3], None);
        assert_eq!((tracker.lost, tracker.restarts, tracker.received), (1, 1, 5));
    }

    #[test]
    fn positions_outside_the_cycle_do_not_count() {
        let tracker = after([20_000, 5, 30_000, (1 << 48) - 1, 6], Some(CYCLE));
        assert_eq!((tracker.lost, tracker.received), (0, 2));
    }

    proptest! {
        /// However packets are lost, doubled and reordered within the window: received + lost is what was sent.
        #[test]
        fn every_packet_is_received_or_lost(
            keep in prop::collection::vec(0u8..10, 600..3000), start in 0..CYCLE, swaps in prop::collection::vec((0usize..3000, 1usize..100), 0..50),
        ) {
            let mut order: Vec<u64> = (0..keep.len() as u64).collect();
            for (at, by) in swaps {
                let (a, b) = (at % order.len(), (at + by) % order.len());
                if a < b { order[a..=b].reverse(); }
            }
            // The first and the last packet arrive in place, so that the span is known.
            let last = keep.len() as u64 - 1;
            let mut arrived: Vec<u64> = order.into_iter().filter(|&i| i != 0 && i != last && keep[i as usize] > 2).collect();
            arrived.insert(0, 0);
            arrived.push(last);
            let mut highest = 0;
            let within = arrived.iter().all(|&i| { highest = highest.max(i); highest - i < REORDER_WINDOW });
            prop_assume!(within);
            let distinct = arrived.len() as u64;
            let tracker = after(arrived.iter().map(|i| (start + i) % CYCLE), Some(CYCLE));
            prop_assert_eq!(tracker.received, distinct);
            prop_assert_eq!(tracker.lost, keep.len() as u64 - distinct);
        }

        #[test]
        fn no_position_overflows_anything(positions in prop::collection::vec(0u64..1 << 48, 0..200), cycle in proptest::option::of(0u64..1 << 48)) {
            let tracker = after(positions.iter().copied(), cycle);
            prop_assert!(tracker.received + tracker.duplicates <= positions.len() as u64);
        }
    }
}
