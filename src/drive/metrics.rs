//! Figures for Prometheus, in a file that node_exporter's textfile collector reads, because nothing here may listen.
//!
//! The text is made by the loop that has the figures, at most once a second, and written by a thread of its own: a disk that has
//! stalled costs no packet. The file is replaced as a whole, so that whoever reads it never sees half of it.

mod text;

use std::fs::OpenOptions;
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{self, Receiver, SyncSender, TryRecvError};
use std::thread;
use std::time::Duration;

pub(super) use text::Exposition;

use crate::failure::{Exit, Failure};
use crate::sys::clock;
use crate::types::Time;

/// Between two writes.
const INTERVAL: Duration = Duration::from_secs(1);
/// How long the end of a program may wait for the last write.
const LAST_WRITE_PATIENCE: Duration = Duration::from_secs(2);

/// Where to write figures, and what tells them from those of other programs on this host.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct MetricsOptions {
    /// The file; the collector reads those whose name ends in `.prom`.
    pub file: PathBuf,
    /// What all names begin with.
    pub prefix: &'static str,
    /// The file that is sent or received.
    pub object_file: PathBuf,
    /// Where it is sent to, or who is heard.
    pub group: String,
}

/// The file of figures of one program.
#[derive(Debug)]
pub(super) struct Metrics {
    options: MetricsOptions,
    started_unix: u64,
    next: Time,
    /// What was said last, to which the end adds how it ended.
    last: Option<Exposition>,
    writer: Option<SyncSender<String>>,
    /// What came of the writes that failed; disconnected when the thread has ended.
    failures: Receiver<io::Error>,
    has_failed: bool,
}

impl Metrics {
    /// Starts the thread that writes.
    ///
    /// # Errors
    /// [`Exit::Unavailable`] if there is no thread to be had.
    pub(super) fn start(options: MetricsOptions) -> Result<Self, Failure> {
        let (writer, texts) = mpsc::sync_channel::<String>(1);
        let (sink, failures) = mpsc::channel();
        let file = options.file.clone();
        let run = move || {
            for text in texts {
                if let Err(error) = replace(&file, &text) {
                    let _ = sink.send(error);
                }
            }
        };
        let thread = thread::Builder::new().name("metrics".into()).spawn(run);
        thread.map_err(|error| Failure::io(Exit::Unavailable, "start a thread that writes metrics", &error))?;
        let started_unix = clock::unix_seconds();
        let writer = Some(writer);
        Ok(Self { options, started_unix, next: clock::now(), last: None, writer, failures, has_failed: false })
    }

    /// Whether it is time for the next figures.
    pub(super) fn is_due(&self, now: Time) -> bool {
        now >= self.next
    }

    /// Writes what `fill` says. If the last write is still under way, this one is left out.
    pub(super) fn write(&mut self, now: Time, fill: impl FnOnce(&mut Exposition)) {
        self.next = now.after(INTERVAL);
        self.note(fill);
        let mut text = self.last.clone().unwrap_or_else(|| self.head());
        text.gauge("running", "Whether the program runs: 1, and 0 when it has ended.", 1);
        if let Some(writer) = &self.writer {
            let _ = writer.try_send(text.into_text());
        }
    }

    /// Keeps what `fill` says for the end.
    pub(super) fn note(&mut self, fill: impl FnOnce(&mut Exposition)) {
        let mut text = self.head();
        fill(&mut text);
        self.last = Some(text);
    }

    /// Writes for the last time, with how it ended, and waits for that, but not for ever.
    pub(super) fn end(&mut self, exit: Exit) {
        let mut text = self.last.take().unwrap_or_else(|| self.head());
        text.gauge("running", "Whether the program runs: 1, and 0 when it has ended.", 0);
        text.gauge("exit_code", "The exit code with which the program has ended.", exit as u8);
        let Some(writer) = self.writer.take() else { return };
        let deadline = clock::now().after(LAST_WRITE_PATIENCE);
        let mut text = text.into_text();
        while let Err(mpsc::TrySendError::Full(back)) = writer.try_send(text) {
            if clock::now() >= deadline {
                return;
            }
            text = back;
            clock::sleep_until(clock::now().after(Duration::from_millis(5)));
        }
        drop(writer);
        while !matches!(self.failures.try_recv(), Err(TryRecvError::Disconnected)) && clock::now() < deadline {
            clock::sleep_until(clock::now().after(Duration::from_millis(1)));
        }
    }

    /// The first failure, once.
    pub(super) fn take_failure(&mut self) -> Option<(&Path, io::Error)> {
        let error = self.failures.try_recv().ok().filter(|_| !self.has_failed)?;
        self.has_failed = true;
        Some((&self.options.file, error))
    }

    fn head(&self) -> Exposition {
        let path = &self.options.object_file;
        // Standard output is `-`, and what is only measured has no name.
        let is_file = path.as_os_str() != "-";
        let path = std::path::absolute(path).ok().filter(|_| is_file).unwrap_or_else(|| path.clone());
        let labels = [("file", &*path.to_string_lossy()), ("group", &self.options.group)];
        let mut text = Exposition::new(self.options.prefix, &labels);
        text.gauge(
            "start_time_seconds",
            "When the program was started, in seconds since 1970.",
            self.started_unix as f64,
        );
        text
    }
}

/// Puts `text` in the place of the file.
fn replace(file: &Path, text: &str) -> io::Result<()> {
    let Some(name) = file.file_name() else { return Err(io::Error::other("it names no file")) };
    // Not the collector's ending, so that it is left alone.
    let beside = file.with_file_name(format!(".{}.tmp", name.to_string_lossy()));
    let mut options = OpenOptions::new();
    let opened = options.write(true).create(true).truncate(true).custom_flags(libc::O_NOFOLLOW).open(&beside);
    let written = opened.and_then(|mut out| out.write_all(text.as_bytes()));
    let renamed = written.and_then(|()| std::fs::rename(&beside, file));
    if renamed.is_err() {
        let _ = std::fs::remove_file(&beside);
    }
    renamed
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(file: PathBuf) -> MetricsOptions {
        MetricsOptions { file, prefix: "iotup_test", object_file: "/a/b".into(), group: "239.1.1.1:4242".into() }
    }

    #[test]
    fn file_says_how_the_program_ended_and_nothing_is_left_beside_it() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("a.prom");
        let mut metrics = Metrics::start(options(file.clone())).unwrap();
        let now = clock::now();
        assert!(metrics.is_due(now));
        metrics.write(now, |text| text.counter("packets_total", "Packets.", 7));
        assert!(!metrics.is_due(now.after(INTERVAL / 2)) && metrics.is_due(now.after(INTERVAL)));
        metrics.note(|text| text.counter("packets_total", "Packets.", 8));
        metrics.end(Exit::Io);
        let text = std::fs::read_to_string(&file).unwrap();
        let labels = "{file=\"/a/b\",group=\"239.1.1.1:4242\"}";
        for line in [
            format!("iotup_test_packets_total{labels} 8\n"),
            format!("iotup_test_running{labels} 0\n"),
            format!("iotup_test_exit_code{labels} 74\n"),
        ] {
            assert!(text.contains(&line), "{line}: {text}");
        }
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    #[test]
    fn failure_is_told_once_and_the_end_is_not_held_up() {
        let mut metrics = Metrics::start(options("/nowhere/a.prom".into())).unwrap();
        let deadline = clock::now().after(Duration::from_secs(10));
        metrics.write(clock::now(), |_| {});
        while metrics.take_failure().is_none() {
            assert!(clock::now() < deadline, "the failure is told");
            thread::yield_now();
        }
        for _ in 0..3 {
            // There is room for one text only: when the third goes in, the thread is done with the first.
            metrics.writer.as_ref().unwrap().send(String::new()).unwrap();
        }
        assert!(metrics.take_failure().is_none(), "it is told once");
        metrics.end(Exit::Complete);
    }

    #[test]
    fn link_in_the_place_of_the_file_beside_is_not_followed() {
        let folder = tempfile::tempdir().unwrap();
        let (file, other) = (folder.path().join("a.prom"), folder.path().join("other"));
        std::fs::write(&other, "mine").unwrap();
        std::os::unix::fs::symlink(&other, folder.path().join(".a.prom.tmp")).unwrap();
        assert!(replace(&file, "text").is_err());
        assert_eq!(std::fs::read_to_string(&other).unwrap(), "mine");
        // The link was not anybody's file of figures: it is gone, and the next write succeeds.
        replace(&file, "text").unwrap();
        assert_eq!(std::fs::read_to_string(&file).unwrap(), "text");
    }
}
