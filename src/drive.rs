//! Machine and kernel joined: one loop that sends, one that receives, one that only counts what comes. All waiting happens here,
//! and all words to the user.

pub mod agent;
#[doc(hidden)]
#[cfg(feature = "sender")]
pub mod bench;
pub mod digest_file;
pub mod discard;
pub mod doctor;
pub mod keys;
pub mod listen;
pub mod manifest_file;
pub mod receive;
#[cfg(feature = "sender")]
pub mod serve;
#[cfg(feature = "sender")]
pub mod verify;

mod assembly;
#[cfg(feature = "sender")]
mod burst;
mod choose;
mod destination;
mod dns;
mod durable;
mod end;
mod follow;
mod hook;
#[cfg(feature = "sender")]
mod image;
mod kept;
#[cfg(feature = "sender")]
mod line;
mod log;
mod memberships;
mod metrics;
mod notices;
mod printer;
#[cfg(feature = "sender")]
mod refusal;
#[cfg(feature = "sender")]
mod repair;
mod report;
mod runs;
mod slot_map;
mod state_file;
mod tally;
mod telling;
mod trusted;
mod unreadable;
#[cfg(feature = "sender")]
mod virtual_server;
mod workers;

pub use log::Verbosity;
pub use metrics::MetricsOptions;
pub use report::{Report, Standing};
pub use trusted::TrustOptions;

use std::io::Write;
use std::process::ExitCode;

use crate::failure::{Exit, Failure};

/// Runs what `report` is about, so that every end is an event, and the last of the figures.
///
/// # Errors
/// Those of `run`.
pub fn run(report: &mut Report, run: impl FnOnce(&mut Report) -> Result<Exit, Failure>) -> Result<Exit, Failure> {
    let result = run(report);
    report.end(result.as_ref().copied());
    result
}

/// Ends a program: a failure becomes one line on standard error.
pub fn exit_code(program: &'static str, result: Result<Exit, Failure>) -> ExitCode {
    let exit = result.unwrap_or_else(|failure| {
        log::say_failure(program, &failure.to_string());
        failure.exit
    });
    ExitCode::from(exit as u8)
}

/// Prints `text` on standard output. If nobody reads it any more, that is their affair.
///
/// # Errors
/// [`Exit::Io`] if it cannot be written, as to a full disk.
pub fn print(text: &str) -> Result<Exit, Failure> {
    let mut out = std::io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => {
            Err(Failure::io(Exit::Io, "write to standard output", &error))
        }
        _ => Ok(Exit::Complete),
    }
}
