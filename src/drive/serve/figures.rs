//! Figures of a server, for people and for Prometheus.

use super::Plan;
use crate::drive::metrics::Exposition;
use crate::drive::virtual_server::Totals;
use crate::sys::Interface;

/// What the kernel did not take at once, where there is anything to say.
pub(super) fn trouble_text(totals: &Totals) -> String {
    let there_are = troubles(totals).into_iter().filter(|(_, count)| *count > 0);
    there_are.map(|(cause, count)| format!(", {count} sent again ({cause})")).collect()
}

/// Messages that were sent again, by cause.
fn troubles(totals: &Totals) -> [(&'static str, u64); 3] {
    let refusals = &totals.refusals;
    let other = refusals.refused.saturating_sub(refusals.queue_drops + refusals.icmp_errors);
    [("queue", refusals.queue_drops), ("icmp", refusals.icmp_errors), ("other", other)]
}

/// Figures of a server for Prometheus.
pub(super) fn metrics(out: &mut Exposition, plan: &Plan, interface: &Interface, totals: &Totals) {
    let counts = totals.counts;
    let (object, digest) = (plan.key.id.to_string(), plan.digest.to_string());
    let facts = [("object", &*object), ("digest", &*digest), ("interface", &*interface.name)];
    out.info("What is being sent.", &facts);
    out.gauge("object_version", "The version in its manifest.", plan.version);
    out.gauge("object_size_bytes", "The size of the file.", plan.key.size.bytes());
    let rate = plan.rate.map_or(f64::INFINITY, |rate| rate.bits_per_second() as f64 / 8.0);
    out.gauge("rate_limit_bytes_per_second", "The rate asked for, with IP headers; +Inf without one.", rate);
    let kinds =
        [("data", counts.data), ("outside", counts.outside), ("manifest", counts.manifest), ("hashes", counts.hashes)];
    out.counters(
        "packets_total",
        "Packets sent, by kind; outside: data before repair symbols are there.",
        "kind",
        kinds,
    );
    out.counter("sent_bytes_total", "Bytes of these packets, with IP headers.", counts.ip_bytes);
    let passes = counts.data as f64 / plan.round_length.max(1) as f64;
    out.counter("passes_total", "Passes over the file and its repair symbols.", passes);
    let held_up = totals.lost.as_secs_f64();
    out.counter("held_up_seconds_total", "Time that could not be caught up, of the slowest virtual server.", held_up);
    let help = "Messages that the kernel refused and that were sent again, by cause.";
    out.counters("sends_repeated_total", help, "cause", troubles(totals));
}
