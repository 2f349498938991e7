//! Whether this host keeps up, and what its clock is good for.

use super::facts::{Buffer, Facts, Heard, ManifestDates};
use super::remedy::{here, on_server};
use super::{Check, Finding};

/// A buffer that holds so many milliseconds of the rate carries a receiver over what its host does beside.
const BUFFER_MS_GOOD: f64 = 10.0;
/// One that holds less than this loses packets whenever anything else runs.
const BUFFER_MS_MIN: f64 = 1.0;
const DAY: u64 = 86_400;

pub(super) fn findings(facts: &Facts) -> Vec<Finding> {
    let buffer = facts.buffer.as_ref().map(buffer);
    buffer.into_iter().chain(facts.heard.as_ref().map(|heard| drops(facts, heard))).collect()
}

/// How many milliseconds of the rate some bytes hold.
fn milliseconds(bytes: u64, rate_bps: u64) -> f64 {
    8e3 * bytes as f64 / rate_bps.max(1) as f64
}

fn time_words(milliseconds: f64) -> String {
    match milliseconds {
        0.0..10.0 => format!("{milliseconds:.1} ms"),
        10.0..1000.0 => format!("{milliseconds:.0} ms"),
        _ => format!("{:.0} s", milliseconds / 1e3),
    }
}

fn buffer(buffer: &Buffer) -> Finding {
    let rate = rate_words(buffer.rate_bps as f64);
    let hold = |bytes| {
        let time = time_words(milliseconds(bytes, buffer.rate_bps));
        format!("{} hold {time} of {rate}", size_words(bytes))
    };
    let remedy = || here(format!("sysctl -w net.core.rmem_max={}", buffer.wanted));
    let limit = buffer.limit.unwrap_or(buffer.granted).min(buffer.wanted);
    let judged = milliseconds(limit.min(buffer.granted), buffer.rate_bps);
    if judged >= BUFFER_MS_GOOD || limit >= buffer.wanted {
        return Finding::ok(Check::Buffer, format!("the receive buffer's {}", hold(buffer.granted)));
    }
    if limit < buffer.granted {
        let text = format!(
            "the receive buffer's {}, by privilege: without it net.core.rmem_max allows {}",
            hold(buffer.granted),
            size_words(limit)
        );
        return Finding::warn(Check::Buffer, text, remedy());
    }
    let text = format!("the receive buffer's {}", hold(buffer.granted));
    match judged < BUFFER_MS_MIN {
        true => Finding::fail(Check::Buffer, text, remedy()),
        false => Finding::warn(Check::Buffer, text, remedy()),
    }
}

fn drops(facts: &Facts, heard: &Heard) -> Finding {
    let (name, counters) = (facts.interface(), &facts.counters);
    if heard.dropped_buffers > 0 || heard.dropped_elsewhere > 0 {
        let text = match heard.dropped_buffers {
            0 => format!("another socket of the group on this host dropped {} datagrams", heard.dropped_elsewhere),
            count => {
                format!("the socket dropped {count} buffers of datagrams, because its program was not quick enough")
            }
        };
        let wanted = facts.buffer.as_ref().map_or(64 << 20, |buffer| buffer.wanted);
        let has_all = facts.buffer.as_ref().is_some_and(|buffer| buffer.limit.is_some_and(|limit| limit >= wanted));
        let remedy = match has_all {
            true => on_server(format!("iotupd --rate RATE FILE {}", facts.group)),
            false => here(format!("sysctl -w net.core.rmem_max={wanted}")),
        };
        return Finding::warn(Check::Drops, text, remedy);
    }
    if let Some(count) = counters.link_overruns.filter(|&count| count > 0) {
        let text = format!("{name} had no room for {count} frames");
        return Finding::warn(Check::Drops, text, here(format!("ethtool -G {name} rx 4096")));
    }
    if let Some(count) = counters.backlog_drops.filter(|&count| count > 0) {
        let text = format!("the processors' queues had no room for {count} packets");
        return Finding::warn(Check::Drops, text, here("sysctl -w net.core.netdev_max_backlog=10000"));
    }
    Finding::ok(Check::Drops, "this host dropped nothing")
}

/// What receivers that verify signatures make of what manifests say of time (docs/PROTOCOL.md, section 5).
pub(super) fn clock(facts: &Facts) -> Option<Finding> {
    if facts.manifests.is_empty() {
        return None;
    }
    let is_unset = |dates: &&ManifestDates| dates.created.is_some_and(|created| facts.now < created);
    let is_expired = |dates: &&ManifestDates| dates.expires.is_some_and(|expires| facts.now >= expires);
    let judged: Vec<_> = facts.manifests.iter().filter(|dates| dates.expires.is_some()).collect();
    if let Some(dates) = judged.iter().copied().find(is_unset) {
        let text = format!(
            "this host's clock says a time before the manifest of {} was made, by {}",
            dates.name,
            span_words(dates.created.unwrap_or(0) - facts.now)
        );
        return Some(Finding::warn(Check::Clock, text, here("timedatectl set-ntp true")));
    }
    if let Some(dates) = judged.iter().copied().find(is_expired) {
        let text = format!(
            "the manifest of {} expired {} ago, if this host's clock is right",
            dates.name,
            span_words(facts.now - dates.expires.unwrap_or(0))
        );
        let command = "iotup manifest --expires +90d FILE > FILE.manifest && minisign -Sm FILE.manifest";
        return Some(Finding::fail(Check::Clock, text, on_server(command)));
    }
    let soonest = judged.iter().filter_map(|dates| dates.expires).min();
    Some(Finding::ok(
        Check::Clock,
        match soonest {
            Some(expires) => format!("no manifest expires within {}", span_words(expires - facts.now)),
            None => "no manifest expires".into(),
        },
    ))
}

fn span_words(seconds: u64) -> String {
    match seconds {
        0..120 => format!("{seconds} s"),
        120..7200 => format!("{} min", seconds / 60),
        7200..172_800 => format!("{} h", seconds / 3600),
        _ => format!("{} days", seconds / DAY),
    }
}

fn size_words(bytes: u64) -> String {
    match bytes >> 20 {
        0 => format!("{} KiB", bytes >> 10),
        mebibytes => format!("{mebibytes} MiB"),
    }
}

pub(super) fn rate_words(bits_per_second: f64) -> String {
    match bits_per_second {
        rate if rate < 1e6 => format!("{:.1} kbit/s", rate / 1e3),
        rate if rate < 1e9 => format!("{:.1} Mbit/s", rate / 1e6),
        rate => format!("{:.2} Gbit/s", rate / 1e9),
    }
}
