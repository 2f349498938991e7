//! Who sends: a bounded table of streams, by source address and port and channel, with the loss of each.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use super::loss::LossTracker;
use crate::limits::SENDER_COUNT_MAX;
use crate::types::{ChannelId, Position, Time};

/// A stream that has been silent so long may lose its place in the table, or its turn to fill a failed block.
pub(super) const SENDER_SILENCE_MAX: Duration = Duration::from_secs(2);

/// A place in the table.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct SenderIndex(pub u8);

impl SenderIndex {
    /// All streams for which there is no place.
    pub(super) const UNLISTED: Self = Self(u8::MAX);
}

const _: () = assert!(SENDER_COUNT_MAX < u8::MAX as usize);

/// One stream.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SenderEntry {
    /// Source address and port.
    pub addr: SocketAddr,
    /// The channel.
    pub channel: ChannelId,
    /// What came of it, and what did not.
    pub loss: LossTracker,
    cycle: Cycle,
    last_seen: Time,
    last_data: Option<Time>,
    /// Blocks that were made of its symbols alone.
    pub(super) verified_alone: u64,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Cycle {
    Unknown,
    Known(u64),
    /// Descriptions from this address disagree.
    Disputed,
}

impl SenderEntry {
    /// Whether a packet of the stream has been of use since that moment, if it is one of this source's.
    #[must_use]
    pub fn is_useful(&self, source: IpAddr, since: Time) -> bool {
        self.addr.ip() == source && self.last_seen >= since
    }

    fn is_silent(&self, now: Time) -> bool {
        now.since(self.last_seen) > SENDER_SILENCE_MAX
    }
}

/// All streams that are kept account of.
#[derive(Clone, Debug)]
pub(super) struct Senders {
    entries: Vec<SenderEntry>,
    recent: usize,
}

impl Senders {
    pub(super) fn new() -> Self {
        Self { entries: Vec::with_capacity(SENDER_COUNT_MAX), recent: 0 }
    }

    pub(super) fn entries(&self) -> &[SenderEntry] {
        &self.entries
    }

    /// The place of a stream from which a packet came, made if there is room. Its symbols are welcome without one.
    pub(super) fn heard(&mut self, now: Time, addr: SocketAddr, channel: ChannelId) -> SenderIndex {
        self.place_of(now, addr, channel).unwrap_or(SenderIndex::UNLISTED)
    }

    fn place_of(&mut self, now: Time, addr: SocketAddr, channel: ChannelId) -> Option<SenderIndex> {
        let is_it = |entry: &SenderEntry| entry.addr == addr && entry.channel == channel;
        let place = match self.entries.get(self.recent) {
            Some(entry) if is_it(entry) => self.recent,
            _ => match self.entries.iter().position(is_it) {
                Some(place) => place,
                None => self.place_for_new(now, addr, channel)?,
            },
        };
        self.recent = place;
        self.entries.get_mut(place)?.last_seen = now;
        u8::try_from(place).ok().map(SenderIndex)
    }

    fn place_for_new(&mut self, now: Time, addr: SocketAddr, channel: ChannelId) -> Option<usize> {
        let loss = LossTracker::default();
        let cycle = Cycle::Unknown;
        let entry = SenderEntry { addr, channel, loss, cycle, last_seen: now, last_data: None, verified_alone: 0 };
        if self.entries.len() < SENDER_COUNT_MAX {
            self.entries.push(entry);
            return Some(self.entries.len() - 1);
        }
        // A flood of forged addresses must not drive out a stream that is alive or has proved useful.
        let silent = self.entries.iter_mut().enumerate().filter(|(_, old)| old.is_silent(now));
        let (place, old) = silent.min_by_key(|(_, old)| (old.verified_alone, old.last_seen))?;
        *old = entry;
        Some(place)
    }

    /// A description came from `addr`: it holds for all streams of that address on the channel.
    pub(super) fn describe(&mut self, addr: SocketAddr, channel: ChannelId, cycle_length: u64) {
        let of_address = |entry: &&mut SenderEntry| entry.addr.ip() == addr.ip() && entry.channel == channel;
        for entry in self.entries.iter_mut().filter(of_address) {
            entry.cycle = match entry.cycle {
                Cycle::Unknown => Cycle::Known(cycle_length),
                Cycle::Known(known) if known == cycle_length => entry.cycle,
                _ => Cycle::Disputed,
            };
        }
    }

    /// A data packet of the stream has been judged good.
    pub(super) fn track(&mut self, now: Time, index: SenderIndex, position: Position) {
        if let Some(entry) = self.entries.get_mut(usize::from(index.0)) {
            entry.last_data = Some(now);
            let cycle_length = match entry.cycle {
                Cycle::Known(length) if length > 0 => Some(length),
                _ => None,
            };
            entry.loss.packet(position, cycle_length);
        }
    }

    /// An interval ends, in which this host dropped packets or not.
    pub(super) fn end_interval(&mut self, host_dropped: bool) {
        self.entries.iter_mut().for_each(|entry| entry.loss.end_interval(host_dropped));
    }

    /// A block made of this stream's symbols alone has been verified.
    pub(super) fn credit(&mut self, index: SenderIndex) {
        if let Some(entry) = self.entries.get_mut(usize::from(index.0)) {
            entry.verified_alone += 1;
        }
    }

    /// Whether no data comes from the stream any more.
    pub(super) fn is_silent(&self, index: SenderIndex, now: Time) -> bool {
        let silent = |entry: &SenderEntry| entry.last_data.is_none_or(|at| now.since(at) > SENDER_SILENCE_MAX);
        self.entries.get(usize::from(index.0)).is_some_and(silent)
    }

    /// Whose turn it is to fill a block, `attempt` turns after its first failure. Streams that have given whole blocks have every
    /// other turn, however many others there are; those without a place in a full table have one together.
    pub(super) fn in_turn(&self, attempt: u32, now: Time) -> Option<SenderIndex> {
        let trusted = self.candidates(now, true);
        let others = self.candidates(now, false);
        let (trusted_count, other_count) = (trusted.clone().count(), others.clone().count());
        let (round, is_odd) = (attempt / 2, attempt % 2 == 1);
        // The tables are short and the attempts may be many: the remainder first.
        let nth = |count: usize, turn: u32| turn as usize % count;
        match (trusted_count, other_count) {
            (0, 0) => None,
            (0, _) => others.clone().nth(nth(other_count, attempt)),
            (_, 0) => trusted.clone().nth(nth(trusted_count, attempt)),
            _ if is_odd => others.clone().nth(nth(other_count, round)),
            _ => trusted.clone().nth(nth(trusted_count, round)),
        }
    }

    /// How many turns there are before one comes again.
    pub(super) fn turn_count(&self, now: Time) -> usize {
        self.candidates(now, true).count() + self.candidates(now, false).count()
    }

    /// The streams that send data now.
    fn candidates(&self, now: Time, trusted: bool) -> impl Iterator<Item = SenderIndex> + Clone + use<'_> {
        let is_one = move |entry: &SenderEntry| {
            let sends = entry.last_data.is_some_and(|at| now.since(at) <= SENDER_SILENCE_MAX);
            sends && (entry.verified_alone > 0) == trusted
        };
        let places = self.entries.iter().zip(0..).filter(move |(entry, _)| is_one(entry));
        let is_full = self.entries.len() == SENDER_COUNT_MAX;
        places.map(|(_, place)| SenderIndex(place)).chain((is_full && !trusted).then_some(SenderIndex::UNLISTED))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn addr(port: u16) -> SocketAddr {
        SocketAddr::from(([192, 0, 2, 1], port))
    }

    fn at(seconds: u64) -> Time {
        Time::from_nanos(seconds * 1_000_000_000)
    }

    #[test]
    fn flood_of_addresses_neither_grows_the_table_nor_evicts_the_living() {
        let mut senders = Senders::new();
        let true_one = senders.heard(at(0), addr(1), ChannelId(0));
        for port in 2..2000 {
            senders.heard(at(0), addr(port), ChannelId(0));
        }
        assert_eq!(senders.entries.len(), SENDER_COUNT_MAX);
        assert_eq!(senders.heard(at(1), addr(1), ChannelId(0)), true_one);
        assert_eq!(senders.heard(at(1), addr(3000), ChannelId(0)), SenderIndex::UNLISTED);
        let turns = (0..=64).filter_map(|attempt| senders.in_turn(attempt, at(1)));
        assert!(turns.into_iter().any(|turn| turn == SenderIndex::UNLISTED), "those without a place have a turn too");
        // The forged ones have fallen silent; the true one has not.
        senders.heard(at(3), addr(1), ChannelId(0));
        assert_ne!(senders.heard(at(3), addr(3000), ChannelId(0)), SenderIndex::UNLISTED);
        assert_eq!(senders.entries[0].addr, addr(1));
    }

    #[test]
    fn description_holds_for_all_ports_of_its_address() {
        let mut senders = Senders::new();
        let first = senders.heard(at(0), addr(1), ChannelId(0));
        let second = senders.heard(at(0), addr(2), ChannelId(0));
        senders.describe(addr(1), ChannelId(0), 5000);
        for position in [4998, 4999, 0, 1] {
            senders.track(at(0), second, Position::new(position).unwrap());
        }
        assert_eq!(senders.entries[1].loss.restarts, 0);
        senders.describe(addr(2), ChannelId(0), 6000);
        for index in [first, second] {
            assert_eq!(senders.entries[usize::from(index.0)].cycle, Cycle::Disputed, "the address contradicts itself");
        }
    }

    #[test]
    fn proven_streams_come_first_and_all_have_their_turn() {
        let mut senders = Senders::new();
        let indices: Vec<_> = (0..3).map(|port| senders.heard(at(0), addr(port), ChannelId(0))).collect();
        indices.iter().for_each(|&index| senders.track(at(0), index, Position::ZERO));
        senders.credit(indices[2]);
        assert_eq!(senders.turn_count(at(1)), 3);
        let turns: Vec<_> = (0..4).map(|attempt| senders.in_turn(attempt, at(1)).unwrap()).collect();
        assert_eq!(turns, [indices[2], indices[0], indices[2], indices[1]]);
        let late: Vec<_> = (100_000..100_004).map(|attempt| senders.in_turn(attempt, at(1)).unwrap()).collect();
        assert_eq!(late, turns, "turns never stop going round");
        assert_eq!(senders.in_turn(0, at(9)), None, "all are silent");
    }
}
