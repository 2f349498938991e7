//! What a receiver counts to tell people of it.

use serde_json::{Value, json};

use super::metrics::Exposition;
use crate::receiver::{Counts, DropReason, Progress, SenderEntry};
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

    /// Seconds until so many more bytes have come; `None` while nothing does.
    pub(super) fn seconds_for(&self, bytes: u64) -> Option<f64> {
        let seconds = 8.0 * bytes as f64 / self.bits_per_second;
        seconds.is_finite().then_some(seconds)
    }
}

/// What the kernel had dropped when the last interval ended.
pub(super) struct HostDrops {
    pub(super) at: Time,
    pub(super) buffers: u32,
}

/// Packets of all streams together.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
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
        format!("loss {:.2} % on the way and {:.2} % on this host", percent(self.lost), percent(self.lost_host))
    }
}

/// One stream, as a member of the last event.
pub(super) fn sender_fields(sender: &SenderEntry) -> Value {
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
}

/// Why which datagrams changed nothing: only the reasons that there were.
pub(super) fn dropped_fields(counts: &Counts) -> Value {
    reasons(counts).filter(|(_, count)| *count > 0).map(|(name, count)| (name.to_owned(), Value::from(count))).collect()
}

fn reasons(counts: &Counts) -> impl Iterator<Item = (&'static str, u64)> {
    DropReason::ALL.iter().map(|&reason| (reason.name(), counts.dropped(reason)))
}

/// Figures of a receiver for Prometheus.
pub(super) fn metrics(out: &mut Exposition, counts: &Counts, senders: &[SenderEntry], dropped_buffers: u32) {
    let loss = Loss::of(senders);
    let sum = |of: fn(&SenderEntry) -> u64| senders.iter().map(of).sum::<u64>();
    out.counter("datagrams_total", "Datagrams that came, of whatever kind.", counts.datagrams);
    out.counter("received_bytes_total", "Their bytes, without IP and UDP headers.", counts.bytes);
    out.counter("packets_received_total", "Data packets that came for the first time.", loss.received);
    let lost = [("network", loss.lost), ("host", loss.lost_host)];
    out.counters("packets_lost_total", "Data packets lost on the way, or dropped by this host.", "where", lost);
    out.counter("packets_late_total", "Data packets that came after a later one.", sum(|sender| sender.loss.late));
    let repeated = sum(|sender| sender.loss.duplicates);
    out.counter("packets_repeated_total", "Data packets that came more than once.", repeated);
    let help = "Datagrams that changed nothing, by reason.";
    out.counters("datagrams_dropped_total", help, "reason", reasons(counts));
    let help = "Receive buffers that the kernel of this host dropped, of one or many packets each.";
    out.counter("host_dropped_buffers_total", help, dropped_buffers);
    out.counter("symbols_stored_total", "Symbols that were of use.", counts.stored);
    out.counter("manifests_total", "Manifests of the accepted object.", counts.manifests);
    out.counter("hashes_total", "Hashes packets whose proof holds.", counts.hashes);
    out.counter(
        "blocks_failed_total",
        "Blocks whose digest did not match, and that were received again.",
        counts.blocks_failed,
    );
}

/// How far a receiver is, for Prometheus.
pub(super) fn progress_metrics(out: &mut Exposition, progress: Progress) {
    out.gauge("object_size_bytes", "The size of the file; 0 before a manifest was accepted.", progress.size);
    out.gauge("object_held_bytes", "How much of it has come.", progress.held);
    out.gauge("object_blocks", "Its blocks of 1 MiB.", progress.blocks);
    out.gauge("object_blocks_verified", "Blocks whose digest was found right.", progress.blocks_verified);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_left_is_known_only_while_something_comes() {
        let mut rate = Rate { at: Time::from_nanos(0), held: 0, bits_per_second: 0.0 };
        assert_eq!(rate.seconds_for(1000), None);
        rate.update(Time::from_nanos(1_000_000_000), 500);
        assert_eq!(rate.seconds_for(1000), Some(2.0));
    }

    #[test]
    fn loss_is_told_apart_by_where_it_happens() {
        let loss = Loss { received: 96, lost: 3, lost_host: 1 };
        assert_eq!(loss.text(), "loss 3.00 % on the way and 1.00 % on this host");
        assert_eq!(Loss::default().text(), "loss 0.00 % on the way and 0.00 % on this host");
    }
}
