//! How a program ends: its exit code, and what it says last.

use crate::failure::{Exit, Failure};
use crate::sys::StopSignal;

impl From<StopSignal> for Exit {
    fn from(signal: StopSignal) -> Self {
        match signal {
            StopSignal::Interrupt => Self::Interrupted,
            StopSignal::Terminate => Self::Terminated,
        }
    }
}

/// A program stops because of a signal.
pub(super) fn interrupted(what: &str, signal: StopSignal) -> Failure {
    Failure::new(signal.into(), what, cause(signal))
}

/// What a signal is called where a program says why it stops.
pub(super) fn cause(signal: StopSignal) -> &'static str {
    match signal {
        StopSignal::Interrupt => "interrupted",
        StopSignal::Terminate => "terminated",
    }
}
