//! Files that the kernel may not keep in memory.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use nix::fcntl::{PosixFadviseAdvice, posix_fadvise};

/// Takes the pages of files out of the kernel's memory, again and again, until this is dropped.
///
/// It stands for a limit on memory (memory.max of a control group), within which the kernel takes back what it keeps of files. A limit
/// would also let the kernel kill a program whose own memory grows beyond it: that is measured instead.
pub(crate) struct NoCache {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<Seen>>,
}

/// What `NoCache` has seen whenever it looked, just before it took the pages out.
pub(crate) struct Seen {
    /// The most bytes that were in memory.
    pub(crate) most: u64,
    /// How often there were some, and it looked soon enough.
    pub(crate) judged_count: u32,
    /// How often it was too late: what was in memory then tells how slow the disk or this thread was, not what the receiver keeps.
    pub(crate) late_count: u32,
}

/// The longest time, from before pages are taken out to the next look, after which that look tells anything.
const NO_CACHE_SPAN_MAX: Duration = Duration::from_millis(100);

impl NoCache {
    pub(crate) fn new(paths: Vec<PathBuf>) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let thread = std::thread::spawn(move || {
            let mut seen = Seen { most: 0, judged_count: 0, late_count: 0 };
            let mut emptied_at = Instant::now();
            while !stopped.load(Ordering::Relaxed) {
                let bytes = paths.iter().map(|path| cached(path)).sum();
                if emptied_at.elapsed() <= NO_CACHE_SPAN_MAX {
                    seen.most = seen.most.max(bytes);
                    seen.judged_count += u32::from(bytes > 0);
                } else {
                    seen.late_count += 1;
                }
                emptied_at = Instant::now();
                // They come and go with the transfer.
                paths.iter().filter_map(|path| File::open(path).ok()).for_each(|file| drop_cache(&file));
                std::thread::sleep(Duration::from_millis(20));
            }
            seen
        });
        Self { stop, thread: Some(thread) }
    }

    pub(crate) fn end(mut self) -> Seen {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.take().expect("ended once").join().expect("it does not panic")
    }
}

impl Drop for NoCache {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

/// Bytes of a file that are in memory; 0 if there is no such file.
fn cached(path: &Path) -> u64 {
    let output = Command::new("fincore").args(["--bytes", "--noheadings", "--output", "RES"]).arg(path).output();
    let output = output.expect("run fincore");
    String::from_utf8_lossy(&output.stdout).trim().parse().unwrap_or(0)
}

fn drop_cache(file: &File) {
    // Only what is on the disk can be taken out.
    file.sync_data().expect("write the file to the disk");
    posix_fadvise(file, 0, 0, PosixFadviseAdvice::POSIX_FADV_DONTNEED).expect("take it out of memory");
}
