//! What the benches share: where they send, what they send, the machine they run on, and how they measure.

#![allow(dead_code, reason = "every bench uses its part")]

use std::fs;
use std::io::Write;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Once;
use std::time::Duration;

use iotupd::drive::bench::Way;
use iotupd::sys::clock;

/// Nobody is a member of this group: the kernel drops its packets where they would be received.
const GROUP: ([u8; 4], u16) = ([239, 77, 7, 7], 4242);
/// The interface to send on, `lo` unless the environment says otherwise.
const INTERFACE: &str = "BENCH_INTERFACE";
/// More than the caches of one core hold.
pub(crate) const OBJECT_SIZE: usize = 64 << 20;

/// Where to send.
#[must_use]
pub(crate) fn way() -> Way {
    let name = interface();
    Way::new(&name, SocketAddr::from(GROUP)).unwrap_or_else(|failure| panic!("{failure}; see {INTERFACE}"))
}

fn interface() -> String {
    std::env::var(INTERFACE).unwrap_or_else(|_| "lo".to_owned())
}

/// A folder with a file of noise in it.
pub(crate) struct Noise {
    /// Removed when this is dropped.
    pub(crate) folder: tempfile::TempDir,
    /// The file.
    pub(crate) path: PathBuf,
}

impl Noise {
    /// A file of [`OBJECT_SIZE`] bytes, in memory where the machine has a folder for that.
    #[must_use]
    pub(crate) fn new() -> Self {
        let memory = Path::new("/dev/shm");
        let folder = tempfile::tempdir_in(memory).or_else(|_| tempfile::tempdir()).expect("make a folder");
        let path = folder.path().join("noise");
        let mut state = 0x9e37_79b9_7f4a_7c15_u64;
        let word = || {
            // xorshift64: what is sent must not compress, nor be all zeroes, which is not sent.
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state.to_le_bytes()
        };
        let bytes: Vec<u8> = std::iter::repeat_with(word).take(OBJECT_SIZE / 8).flatten().collect();
        fs::write(&path, bytes).expect("write the file to send");
        Self { folder, path }
    }
}

impl Default for Noise {
    fn default() -> Self {
        Self::new()
    }
}

/// Tells, once, what machine this is.
pub(crate) fn print_machine() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let cpu = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let model = cpu.lines().find_map(|line| line.strip_prefix("model name")).unwrap_or("\t: unknown");
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
        say(&format!(
            "machine: {}, {cores} cores, Linux {}",
            model.trim_start_matches(['\t', ' ', ':']),
            kernel.trim()
        ));
        say(&format!("interface: {}", describe(&interface())));
    });
}

fn describe(name: &str) -> String {
    let folder = Path::new("/sys/class/net").join(name);
    let read = |file: &str| fs::read_to_string(folder.join(file)).map_or("?".into(), |text| text.trim().to_owned());
    let driver = fs::read_link(folder.join("device/driver")).ok();
    let driver = driver.as_deref().and_then(Path::file_name).map_or("none (virtual)".into(), |at| at.to_string_lossy());
    let (mtu, speed) = (read("mtu"), read("speed"));
    format!("{name}, driver {driver}, MTU {mtu}, {speed} Mbit/s, {}", offloads(name))
}

/// The offloads that matter here, as ethtool(8) tells them: sysfs does not.
fn offloads(name: &str) -> String {
    const NAMES: [&str; 4] =
        ["tx-udp-segmentation", "generic-segmentation-offload", "tx-checksumming", "scatter-gather"];
    let output = Command::new("ethtool").args(["-k", name]).output();
    let Ok(output) = output else { return "offloads unknown (no ethtool)".into() };
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let state = |wanted: &&str| {
        let line = text.lines().find_map(|line| line.trim().strip_prefix(*wanted)?.strip_prefix(": "));
        format!("{wanted} {}", line.unwrap_or("?"))
    };
    NAMES.iter().map(state).collect::<Vec<_>>().join(", ")
}

/// Packets, and the time that they took.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Tally {
    packets: u64,
    time: Duration,
    /// What of it the machine had no time for the sender, which is not the sender's to make good.
    pub(crate) lost: Duration,
}

impl Tally {
    /// Measures `send`, which is asked for `count` packets and answers with how many it has sent; the time of exactly `count`.
    pub(crate) fn measure(&mut self, count: u64, send: impl FnOnce(u64) -> u64) -> Duration {
        let start = clock::now();
        let sent = send(count);
        let time = clock::now().since(start);
        self.packets += sent;
        self.time += time;
        time.mul_f64(count as f64 / sent as f64)
    }

    /// The share of the time that was lost, in percent.
    #[must_use]
    pub(crate) fn lost_percent(&self) -> f64 {
        100.0 * self.lost.as_secs_f64() / self.time.as_secs_f64().max(1e-9)
    }

    /// Packets in a second of the time that was not lost.
    #[must_use]
    pub(crate) fn per_second_kept(&self) -> f64 {
        self.packets as f64 / self.time.saturating_sub(self.lost).as_secs_f64().max(1e-9)
    }

    /// Packets in a second, of all that was measured.
    #[must_use]
    pub(crate) fn per_second(&self) -> f64 {
        self.packets as f64 / self.time.as_secs_f64().max(1e-9)
    }
}

/// Prints a line. If nobody reads it any more, that is their affair.
pub(crate) fn say(line: &str) {
    let _ = writeln!(std::io::stdout(), "{line}");
}
