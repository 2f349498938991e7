//! Several data packets at once: for a caller who has them side by side already, and whose time would go into asking for each.

use super::{Content, Outgoing, Position, Sender, SentBlock, Step, Time};

/// Data packets at consecutive positions. All have the same size but the last, which may be shorter.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Stretch {
    /// The position of the first.
    pub first: Position,
    /// How many there are, at least 1.
    pub count: u64,
    /// The bytes of each but the last.
    pub size: usize,
    /// The bytes of the last.
    pub last_size: usize,
}

/// What is to be done now.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum WideStep {
    /// Send these packets, then ask again.
    SendStretch(Stretch),
    /// Do this; it may be a data packet outside of the cycle.
    Other(Step),
}

impl Sender {
    /// [`Self::poll_with`], so many times at once as that hands out data packets that make up a stretch, but at most `count_max`
    /// times, which must not be 0.
    pub fn poll_stretch<C: Content + ?Sized>(&mut self, now: Time, content: &C, count_max: u64) -> WideStep {
        let is_ready = |block: SentBlock| content.repair(block).is_some();
        let step = self.poll_ready(now, is_ready);
        let Step::Send(outgoing @ Outgoing::Data { position, .. }) = step else { return WideStep::Other(step) };
        if position == Position::OUTSIDE {
            return WideStep::Other(step);
        }
        let size = self.packet_size(&outgoing);
        let mut stretch = Stretch { first: position, count: 1, size, last_size: size };
        while stretch.count < count_max && stretch.last_size == size {
            let Some(more) = self.follows(now, position.value() + stretch.count, size, is_ready) else { break };
            stretch.last_size = more;
            stretch.count += 1;
        }
        WideStep::SendStretch(stretch)
    }

    /// Hands out another data packet, if the next one is that of `position` and has no more than `size_max` bytes; answers with its
    /// size.
    fn follows(
        &mut self,
        now: Time,
        position: u64,
        size_max: usize,
        is_ready: impl Fn(SentBlock) -> bool,
    ) -> Option<usize> {
        let (next, block, esi) = self.cursor.as_ref()?.symbol();
        let is_there = || {
            !self.carousel.is_repair(block, esi)
                || is_ready(self.carousel.sent_block(block).expect("a block that is sent"))
        };
        if next != position || !is_there() || self.manifest_due(now) || self.hashes_credit.is_due() {
            return None;
        }
        let size = self.packet_size(&Outgoing::Data { position: Position::ZERO, block, esi });
        if size > size_max || self.packets_left == Some(0) || self.pacer.wait(now).is_some() {
            return None;
        }
        let _ = self.next_data(|_| true);
        self.spend(size);
        Some(size)
    }
}
