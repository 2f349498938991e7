//! What the benches share: where they send, what they send, the machine they run on, and how they measure.

#![allow(dead_code, reason = "every bench uses its part")]

mod machine;

use std::fs;
use std::io::Write;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
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

/// Tells, once, what machine this is, and notes it beside what criterion keeps.
pub(crate) fn print_machine() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let lines = machine::describe(&interface());
        lines.iter().for_each(|line| say(line));
        if is_measuring() {
            write(&criterion_folder().join("machine.txt"), &(lines.join("\n") + "\n"));
        }
    });
}

/// Whether the figures are to be measured: not if criterion was asked to try the benches once, or to list them.
#[must_use]
pub(crate) fn is_measuring() -> bool {
    // Criterion takes any other call for a test.
    std::env::args().any(|arg| arg == "--bench")
        && !std::env::args().any(|arg| arg == "--test" || arg == "--list" || arg.starts_with("--profile-time"))
}

/// The folder of everything that is built.
fn target_folder() -> PathBuf {
    let scratch = Path::new(env!("CARGO_TARGET_TMPDIR"));
    scratch.parent().unwrap_or(scratch).to_owned()
}

fn criterion_folder() -> PathBuf {
    std::env::var_os("CRITERION_HOME").map_or_else(|| target_folder().join("criterion"), PathBuf::from)
}

/// Keeps figures as `target/results/NAME.tsv`, which scripts/plot reads: what they are, the machine, the columns' names, the rows. What
/// was measured on another interface than `lo` is kept as `NAME-INTERFACE.tsv`. Where there are not `row_count` rows, because some were
/// not asked for or are not to be had, the figures say so.
pub(crate) fn keep(name: &str, what: &str, columns: &[&str], rows: &[Vec<String>], row_count: usize) {
    if !is_measuring() || rows.is_empty() {
        return;
    }
    let interface = interface();
    let file = if interface == "lo" { format!("{name}.tsv") } else { format!("{name}-{interface}.tsv") };
    let partial = (rows.len() < row_count).then(|| format!("partial: {} of {row_count} rows", rows.len()));
    let notes = std::iter::once(format!("what: {what}")).chain(machine::describe(&interface)).chain(partial);
    let notes = notes.map(|note| format!("# {note}\n"));
    let table = std::iter::once(columns.join("\t")).chain(rows.iter().map(|row| row.join("\t")));
    let text: String = notes.chain(table.map(|line| line + "\n")).collect();
    write(&target_folder().join("results").join(file), &text);
}

/// Writes a file, or says why it cannot: the figures have been printed all the same.
fn write(path: &Path, text: &str) {
    let folder = path.parent().unwrap_or(Path::new("."));
    if let Err(error) = fs::create_dir_all(folder).and_then(|()| fs::write(path, text)) {
        say(&format!("write {}: {error}", path.display()));
    }
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
