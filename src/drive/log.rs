//! Lines on standard error: which of them are wanted, and in which form whoever reads them takes them.

use std::io::{IsTerminal, Write};
use std::os::fd::AsFd;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::stat::fstat;

/// How much is said on standard error.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default)]
pub enum Verbosity {
    /// Warnings, and why a program fails.
    Quiet,
    /// What happens, and how far it has come.
    #[default]
    Normal,
    /// The facts of every event as well.
    Verbose,
}

/// How much a line matters: the priorities of syslog(3), whose numbers sd-daemon(3) takes at the start of a line.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
#[repr(u8)]
pub(super) enum Priority {
    /// The program fails.
    Error = 3,
    /// Something is wrong, or may be.
    Warning = 4,
    /// Something has changed that people may want to know of.
    Notice = 5,
    /// What happens.
    Info = 6,
    /// The facts behind it.
    Debug = 7,
}

impl Priority {
    /// That of a notice of this kind.
    pub(super) fn of_notice(kind: &str) -> Self {
        match kind {
            "device" | "interface" | "succeeded" | "heard_again" => Self::Notice,
            _ => Self::Warning,
        }
    }

    fn is_wanted(self, verbosity: Verbosity) -> bool {
        self <= match verbosity {
            Verbosity::Quiet => Self::Warning,
            Verbosity::Normal => Self::Info,
            Verbosity::Verbose => Self::Debug,
        }
    }
}

/// Who reads standard error.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Reader {
    /// Somebody at a terminal that can move its cursor.
    Terminal,
    /// The journal, which takes priorities, and knows the program's name and the time.
    Journal,
    /// A file, a pipe, or a terminal that can only print.
    Lines,
}

impl Reader {
    /// The one of this process.
    pub(super) fn of_stderr() -> Self {
        let is_dumb = std::env::var_os("TERM").is_some_and(|term| term == "dumb");
        if std::io::stderr().is_terminal() && !is_dumb {
            return Self::Terminal;
        }
        let stream = std::env::var("JOURNAL_STREAM").unwrap_or_default();
        // A program may have been given another standard error since systemd set the variable.
        match fstat(std::io::stderr()) {
            Ok(stat) if stream == format!("{}:{}", stat.st_dev, stat.st_ino) => Self::Journal,
            _ => Self::Lines,
        }
    }

    /// A line as this reader takes it. Whatever the text holds, it is one line.
    fn line(self, program: &str, priority: Priority, text: &str) -> String {
        let text = text.replace('\n', " ");
        match self {
            Self::Journal => format!("<{}>{text}\n", priority as u8),
            Self::Terminal | Self::Lines => format!("{program}: {text}\n"),
        }
    }
}

/// Standard error, as far as it is wanted.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Log {
    pub(super) program: &'static str,
    pub(super) verbosity: Verbosity,
    pub(super) reader: Reader,
}

impl Log {
    /// For `program`, whose standard error this is.
    pub(super) fn new(program: &'static str, verbosity: Verbosity) -> Self {
        Self { program, verbosity, reader: Reader::of_stderr() }
    }

    /// Whether lines of this priority are wanted.
    pub(super) fn wants(self, priority: Priority) -> bool {
        priority.is_wanted(self.verbosity)
    }

    /// Says a line, if it is wanted. A reader that has stalled must not stop a transfer: it misses the line.
    pub(super) fn say(self, priority: Priority, text: &str) {
        let mut out = std::io::stderr().lock();
        if self.wants(priority) && takes_more(&out) {
            let _ = out.write_all(self.reader.line(self.program, priority, text).as_bytes());
        }
    }
}

/// Says why a program fails.
pub(super) fn say_failure(program: &'static str, text: &str) {
    let line = Reader::of_stderr().line(program, Priority::Error, text);
    let _ = std::io::stderr().write_all(line.as_bytes());
}

/// Whether a line can be written without waiting for whoever reads.
pub(super) fn takes_more(out: &impl AsFd) -> bool {
    let mut sinks = [PollFd::new(out.as_fd(), PollFlags::POLLOUT)];
    !matches!(poll(&mut sinks, PollTimeout::ZERO), Ok(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn journal_is_told_the_priority_and_not_the_name() {
        let line = |reader: Reader| reader.line("iotupc", Priority::Warning, "a\nb");
        assert_eq!(line(Reader::Journal), "<4>a b\n");
        assert_eq!(line(Reader::Lines), "iotupc: a b\n");
    }

    #[test]
    fn quiet_keeps_warnings_and_verbose_adds_facts() {
        let wanted = |verbosity: Verbosity| {
            let all = [Priority::Error, Priority::Warning, Priority::Notice, Priority::Info, Priority::Debug];
            all.map(|priority| priority.is_wanted(verbosity))
        };
        assert_eq!(wanted(Verbosity::Quiet), [true, true, false, false, false]);
        assert_eq!(wanted(Verbosity::Normal), [true, true, true, true, false]);
        assert_eq!(wanted(Verbosity::Verbose), [true; 5]);
        assert!(Priority::of_notice("block_failed") == Priority::Warning);
        assert!(Priority::of_notice("heard_again") == Priority::Notice);
    }
}
