//! What a network does to packets on their way to one receiver.

use std::time::Duration;

use crate::random::{Ppm, Random};

/// Which packets never arrive.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Loss {
    /// Each with the same probability, whatever became of the others.
    Random(Ppm),
    /// As many in all, but in bursts of this mean length (Gilbert and Elliott, with a bad state that loses everything).
    Bursts { loss: Ppm, length_mean: u64 },
}

/// Everything that can go wrong on the way.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Faults {
    pub(crate) loss: Loss,
    pub(crate) duplicate: Ppm,
    /// Every packet takes at least so long.
    pub(crate) delay: Duration,
    /// And up to so much longer.
    pub(crate) jitter: Duration,
    /// So many stay behind, by up to `straggle`.
    pub(crate) stragglers: Ppm,
    pub(crate) straggle: Duration,
    /// So many arrive with one to eight bits changed.
    pub(crate) flip: Ppm,
    /// So many arrive shorter than they were.
    pub(crate) cut: Ppm,
}

/// A network that does no harm.
pub(crate) const PERFECT: Faults = Faults {
    loss: Loss::Random(Ppm(0)),
    duplicate: Ppm(0),
    delay: Duration::from_micros(50),
    jitter: Duration::ZERO,
    stragglers: Ppm(0),
    straggle: Duration::ZERO,
    flip: Ppm(0),
    cut: Ppm(0),
};

/// The way to one receiver.
#[derive(Debug)]
pub(crate) struct Link {
    faults: Faults,
    random: Random,
    in_burst: bool,
}

impl Link {
    pub(crate) fn new(faults: Faults, random: Random) -> Self {
        Self { faults, random, in_burst: false }
    }

    /// How long each copy of the next packet is on its way; none if it is lost.
    pub(crate) fn copies(&mut self) -> [Option<Duration>; 2] {
        if self.loses() {
            return [None, None];
        }
        let second = self.random.chance(self.faults.duplicate);
        [Some(self.way()), second.then(|| self.way())]
    }

    fn loses(&mut self) -> bool {
        match self.faults.loss {
            Loss::Random(loss) => self.random.chance(loss),
            Loss::Bursts { loss, length_mean } => {
                let change = match self.in_burst {
                    true => 1_000_000 / length_mean,
                    false => loss.0 * 1_000_000 / (1_000_000 - loss.0) / length_mean,
                };
                self.in_burst ^= self.random.chance(Ppm(change));
                self.in_burst
            }
        }
    }

    fn way(&mut self) -> Duration {
        let mut way = self.faults.delay;
        if self.faults.jitter > Duration::ZERO {
            way += self.random.span(self.faults.jitter);
        }
        if self.random.chance(self.faults.stragglers) {
            way += self.random.span(self.faults.straggle);
        }
        way
    }

    /// The packet as it arrives where it is not as it was sent.
    pub(crate) fn damage(&mut self, packet: &[u8]) -> Option<Vec<u8>> {
        if packet.is_empty() {
            return None;
        }
        if self.random.chance(self.faults.flip) {
            let mut changed = packet.to_vec();
            for _ in 0..self.random.within(1..=8) {
                let at = self.random.index(changed.len());
                changed[at] ^= 1 << self.random.below(8);
            }
            return Some(changed);
        }
        let is_cut = self.random.chance(self.faults.cut);
        is_cut.then(|| packet[..self.random.index(packet.len())].to_vec())
    }
}
