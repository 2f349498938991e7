//! What a receiver counts to tell people of it.

use std::time::Duration;

use serde_json::{Value, json};

use crate::receiver::{Counts, DropReason, SenderEntry};
use crate::types::Time;

/// Loss in an interval in which this host dropped packets is put down to the host.
const DROPS_INTERVAL: Duration = Duration::from_millis(100);
/// What people are told, once, when it does.
pub(super) const HOST_DROPS_TEXT: &str =
    "this host drops packets because it cannot take them fast enough: see sysctl net.core.rmem_max";

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

impl HostDrops {
    /// Whether the interval is over.
    pub(super) fn is_due(&self, now: Time) -> bool {
        now.since(self.at) >= DROPS_INTERVAL
    }

    /// Ends the interval, at whose end the kernel has dropped so many `buffers`; answers how many of them in the interval.
    pub(super) fn end_interval(&mut self, now: Time, buffers: u32) -> u64 {
        // The kernel counts modulo 2^32.
        let count = u64::from(buffers.wrapping_sub(self.buffers));
        *self = Self { at: now, buffers };
        count
    }
}

/// Packets of all streams together.
#[derive(Clone, Copy, Default, Debug)]
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

    /// What people are told, of this host only if it has lost something.
    pub(super) fn text(&self) -> String {
        if self.lost_host > 0 { self.text_of_both() } else { format!("loss {:.2} %", self.percent(self.lost)) }
    }

    /// What people are told.
    pub(super) fn text_of_both(&self) -> String {
        let (way, host) = (self.percent(self.lost), self.percent(self.lost_host));
        format!("loss {way:.2} % on the way and {host:.2} % on this host")
    }

    fn percent(&self, part: u64) -> f64 {
        100.0 * part as f64 / (self.received + self.lost + self.lost_host).max(1) as f64
    }
}

/// What an event says of these streams.
pub(super) fn sender_fields(senders: &[SenderEntry]) -> Value {
    let one = |sender: &SenderEntry| {
        json!({
            "addr": sender.addr.to_string(),
            "channel": sender.channel.0,
            "received": sender.loss.received,
            "lost": sender.loss.lost,
            "lost_host": sender.loss.lost_host,
            "duplicates": sender.loss.duplicates,
            "late": sender.loss.late,
            "restarts": sender.loss.restarts,
        })
    };
    senders.iter().map(one).collect()
}

/// Why which datagrams changed nothing.
pub(super) fn dropped_fields(counts: &Counts) -> Value {
    let reasons = DropReason::ALL.iter().map(|&reason| (reason.name().to_owned(), counts.dropped(reason)));
    reasons.filter(|(_, count)| *count > 0).map(|(name, count)| (name, Value::from(count))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn drops_are_those_of_the_interval_though_the_kernel_s_counter_overflows() {
        let at = |millis: u64| Time::from_nanos(millis * 1_000_000);
        let mut drops = HostDrops { at: at(0), buffers: u32::MAX };
        assert!(!drops.is_due(at(99)) && drops.is_due(at(100)));
        assert_eq!(drops.end_interval(at(100), 4), 5);
        assert!(!drops.is_due(at(199)));
        assert_eq!(drops.end_interval(at(200), 4), 0);
    }
}
