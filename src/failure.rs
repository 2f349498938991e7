//! What a program says when it cannot go on: one line that names the operation, its object, the cause and the remedy, and an exit
//! code. Bad packets are never a `Failure`: they are counted and dropped.

use std::fmt;
use std::io;
use std::path::Path;

/// The exit codes of all programs: those of sysexits where they exist.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum Exit {
    /// Done: for a receiver, every byte is verified and on disk, or printed; or, if it keeps nothing, enough has come.
    Complete = 0,
    /// The command line cannot be understood or asks for what cannot be (EX_USAGE).
    Usage = 64,
    /// Input was read but is not what it must be (EX_DATAERR).
    BadData = 65,
    /// Input is missing or unreadable (EX_NOINPUT).
    NoInput = 66,
    /// No source, or nothing received; or a diagnosis has found what keeps packets away (EX_UNAVAILABLE).
    Unavailable = 69,
    /// The output cannot be created (EX_CANTCREAT).
    CannotCreate = 73,
    /// Reading, writing or sending failed (EX_IOERR).
    Io = 74,
    /// Incomplete at the deadline; can be resumed (EX_TEMPFAIL).
    Incomplete = 75,
    /// Nothing authentic was offered (EX_NOPERM).
    NotAuthentic = 77,
    /// Stopped by SIGINT; can be resumed.
    Interrupted = 130,
    /// Stopped by SIGTERM; can be resumed.
    Terminated = 143,
}

/// Why a program ends without having done what it was asked to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// The exit code.
    pub exit: Exit,
    what: String,
    cause: String,
    remedy: String,
}

impl Failure {
    /// `what` names the operation and its object, `cause` why it failed.
    pub fn new(exit: Exit, what: impl Into<String>, cause: impl Into<String>) -> Self {
        Self { exit, what: what.into(), cause: cause.into(), remedy: String::new() }
    }

    /// A refused system call.
    pub fn io(exit: Exit, what: impl Into<String>, error: &io::Error) -> Self {
        Self::new(exit, what, describe(error))
    }

    /// What failed on what, and why, without what to do about it.
    #[must_use]
    pub fn summary(&self) -> String {
        format!("{}: {}", self.what, self.cause)
    }

    /// Why it failed.
    #[must_use]
    pub fn cause(&self) -> &str {
        &self.cause
    }

    /// What the user can do about it; empty if nothing is known.
    #[must_use]
    pub fn advice(&self) -> &str {
        &self.remedy
    }

    /// Adds what the user can do about it.
    #[must_use]
    pub fn remedy(mut self, remedy: impl Into<String>) -> Self {
        self.remedy = remedy.into();
        self
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.what, self.cause)?;
        if self.remedy.is_empty() { Ok(()) } else { write!(f, " ({})", self.remedy) }
    }
}

impl std::error::Error for Failure {}

/// A path for a message: whatever its name holds, it stays on one line and steers no terminal.
#[must_use]
pub fn shown(path: &Path) -> String {
    let text = path.to_string_lossy();
    text.chars().fold(String::new(), |mut out, character| {
        match character {
            character if character.is_control() => out.extend(character.escape_default()),
            character => out.push(character),
        }
        out
    })
}

/// The kernel's words for an error, in lower case and without its number.
#[must_use]
pub fn describe(error: &io::Error) -> String {
    let text = match error.raw_os_error() {
        Some(number) => nix::errno::Errno::from_raw(number).desc().to_owned(),
        None => error.to_string(),
    };
    let mut letters = text.chars();
    match (letters.next(), letters.next()) {
        // An acronym at the start (I/O error) keeps its case.
        (Some(first), Some(second)) if second.is_lowercase() || second == ' ' => {
            first.to_lowercase().chain(text.chars().skip(1)).collect()
        }
        _ => text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failure_is_one_line_of_what_cause_and_remedy() {
        let error = io::Error::from_raw_os_error(libc::ENODEV);
        let failure = Failure::io(Exit::Usage, "join 239.1.1.1 on eth9", &error).remedy("see --interface");
        assert_eq!(failure.to_string(), "join 239.1.1.1 on eth9: no such device (see --interface)");
    }

    #[test]
    fn name_with_a_line_feed_stays_on_one_line() {
        assert_eq!(shown(Path::new("a\nb\u{1b}[1m é")), "a\\nb\\u{1b}[1m é");
    }

    #[test]
    fn acronyms_keep_their_case() {
        assert_eq!(describe(&io::Error::from_raw_os_error(libc::EIO)), "I/O error");
    }
}
