//! Machine and kernel joined: one loop that sends, one that receives. All waiting happens here, and all words to the user.

pub mod digest_file;
pub mod receive;
pub mod serve;

mod burst;
mod choose;
mod end;
mod line;
mod report;
mod runs;
mod workers;

pub use report::Report;

use std::io::Write;
use std::process::ExitCode;

use crate::failure::{Exit, Failure};

/// Ends a program: a failure becomes one line on standard error.
pub fn exit_code(program: &str, result: Result<Exit, Failure>) -> ExitCode {
    let exit = result.unwrap_or_else(|failure| {
        let _ = writeln!(std::io::stderr(), "{program}: {failure}");
        failure.exit
    });
    ExitCode::from(exit as u8)
}

/// Prints `text` on standard output. If nobody reads it, that is their affair.
pub fn print(text: &str) -> Exit {
    let mut out = std::io::stdout().lock();
    let _ = out.write_all(text.as_bytes()).and_then(|()| out.flush());
    Exit::Complete
}
