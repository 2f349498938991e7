//! When hashes packets go between data packets (docs/PROTOCOL.md, section 7): at least one in a hundred, and each of them at least
//! twice in a round, so that no receiver waits for a proof longer than for the data.

use crate::limits::{HASHES_EVERY, HASHES_PER_ROUND};

/// Credit for hashes packets, in units of one packet divided by the round's length: integers, so that nothing drifts.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct HashesCredit {
    per_data_packet: u128,
    per_hashes_packet: u128,
    credit: u128,
}

impl HashesCredit {
    /// For `group_count` hashes packets in a round of `round_length` data packets.
    pub(super) fn new(round_length: u64, group_count: u32) -> Self {
        let round = u128::from(round_length.max(1));
        // max(1 / 100, 2H / N), both times 100 N.
        let per_data_packet = round.max(u128::from(HASHES_EVERY * HASHES_PER_ROUND) * u128::from(group_count));
        let per_hashes_packet = u128::from(HASHES_EVERY) * round;
        let credit = if group_count == 0 { 0 } else { per_hashes_packet };
        Self { per_data_packet: if group_count == 0 { 0 } else { per_data_packet }, per_hashes_packet, credit }
    }

    /// Whether a hashes packet is due.
    pub(super) fn is_due(&self) -> bool {
        self.credit >= self.per_hashes_packet
    }

    /// How many data packets can go before a hashes packet is due, when each that goes stands for `share_count` of them.
    pub(super) fn room(&self, share_count: u32) -> u64 {
        let per_packet = self.per_data_packet * u128::from(share_count);
        let missing = self.per_hashes_packet.saturating_sub(self.credit);
        if per_packet == 0 { u64::MAX } else { u64::try_from(missing.div_ceil(per_packet)).unwrap_or(u64::MAX) }
    }

    /// A hashes packet goes.
    pub(super) fn spend(&mut self) {
        self.credit -= self.per_hashes_packet;
    }

    /// So many data packets go, those of other virtual servers included.
    pub(super) fn earn(&mut self, data_packets: u64) {
        self.credit += self.per_data_packet * u128::from(data_packets);
    }

    /// The hashes packets that go with a round of data packets, rounded up.
    pub(super) fn per_round(&self, round_length: u64) -> u64 {
        let due = u128::from(round_length) * self.per_data_packet;
        u64::try_from(due.div_ceil(self.per_hashes_packet)).unwrap_or(u64::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hashes_in(round_length: u64, group_count: u32, data_packets: u64) -> u64 {
        let mut credit = HashesCredit::new(round_length, group_count);
        let mut sent = 0;
        for _ in 0..data_packets {
            while credit.is_due() {
                credit.spend();
                sent += 1;
            }
            credit.earn(1);
        }
        sent
    }

    #[test]
    fn dense_object_has_one_in_a_hundred() {
        assert_eq!(hashes_in(745 * 1024, 64, 100_000), 1000);
        assert_eq!(HashesCredit::new(745 * 1024, 64).per_round(745 * 1024), 7629);
    }

    #[test]
    fn sparse_object_has_each_twice_a_round() {
        assert_eq!(hashes_in(745, 320, 745), 640);
        assert_eq!(HashesCredit::new(745, 320).per_round(745), 640);
    }

    #[test]
    fn object_without_tree_has_none() {
        assert_eq!(hashes_in(1, 0, 1000), 0);
    }
}
