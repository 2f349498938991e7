//! What a receiver counts to tell people of it.

use crate::receiver::SenderEntry;
use crate::types::Time;

/// The rate at which the transfer moves, smoothed.
pub(super) struct Rate {
    pub(super) at: Time,
    pub(super) held: u64,
    pub(super) bits_per_second: f64,
}

impl Rate {
    pub(super) fn update(&mut self, now: Time, held: u64) {
        let seconds = now.since(self.at).as_secs_f64();
        if seconds > 0.0 {
            let current = 8.0 * held.saturating_sub(self.held) as f64 / seconds;
            let is_first = self.bits_per_second == 0.0;
            let weight = if is_first { 1.0 } else { (seconds / 3.0).min(1.0) };
            self.bits_per_second += weight * (current - self.bits_per_second);
            (self.at, self.held) = (now, held);
        }
    }
}

/// What the kernel had dropped when the last interval ended.
pub(super) struct HostDrops {
    pub(super) at: Time,
    pub(super) buffers: u32,
}

/// Packets of all streams together.
#[derive(Default)]
pub(super) struct Loss {
    pub(super) received: u64,
    /// Lost on the way.
    pub(super) lost: u64,
    /// Dropped by this host.
    pub(super) lost_host: u64,
}

impl Loss {
    /// Of all these streams.
    pub(super) fn of(senders: &[SenderEntry]) -> Self {
        senders.iter().fold(Self::default(), |all, sender| Self {
            received: all.received + sender.loss.received,
            lost: all.lost + sender.loss.lost,
            lost_host: all.lost_host + sender.loss.lost_host,
        })
    }

    /// What people are told.
    pub(super) fn text(&self) -> String {
        let percent = |part: u64| 100.0 * part as f64 / (self.received + self.lost + self.lost_host).max(1) as f64;
        match self.lost_host {
            0 => format!("loss {:.2} %", percent(self.lost)),
            host => format!("loss {:.2} % on the way and {:.2} % on this host", percent(self.lost), percent(host)),
        }
    }
}
