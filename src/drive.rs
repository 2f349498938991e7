//! Machine and kernel joined: one loop that sends, one that receives, one that only counts what comes. All waiting happens here,
//! and all words to the user.

pub mod agent;
#[doc(hidden)]
pub mod bench;
pub mod digest_file;
pub mod discard;
pub mod doctor;
pub mod keys;
pub mod listen;
pub mod manifest_file;
pub mod receive;
pub mod serve;
pub mod verify;

mod assembly;
mod burst;
mod choose;
mod destination;
mod dns;
mod durable;
mod end;
mod follow;
mod hook;
mod image;
mod kept;
mod line;
mod memberships;
mod notices;
mod printer;
mod refusal;
mod repair;
mod report;
mod runs;
mod state_file;
mod tally;
mod trusted;
mod unreadable;
mod virtual_server;
mod workers;

pub use report::Report;
pub use trusted::TrustOptions;

use std::io::Write;
use std::process::ExitCode;

use crate::failure::{Exit, Failure};

/// Runs what `report` is about, so that every end is an event.
///
/// # Errors
/// Those of `run`.
pub fn run(report: &mut Report, run: impl FnOnce(&mut Report) -> Result<Exit, Failure>) -> Result<Exit, Failure> {
    let result = run(report);
    if let Err(failure) = &result {
        report.end_if_open(failure);
    }
    result
}

/// Ends a program: a failure becomes one line on standard error.
pub fn exit_code(program: &str, result: Result<Exit, Failure>) -> ExitCode {
    let exit = result.unwrap_or_else(|failure| {
        let _ = writeln!(std::io::stderr(), "{program}: {failure}");
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
