//! The sidecar map of a target, as the machine and those who write decoded symbols see it.

use std::path::Path;
use std::sync::atomic::AtomicU32;

use super::report::Report;
use crate::failure::{Exit, Failure, describe, shown};
use crate::receiver::SlotMemory;
use crate::sys::{Output, SlotFile};

/// Words in a file beside the target, or in memory.
#[derive(Debug)]
pub(super) struct SlotMap(SlotFile);

impl SlotMap {
    /// The map of `output`, which is for `file`, or, if it cannot be had, memory that is lost with the program.
    ///
    /// # Errors
    /// [`Exit::Unavailable`] if there is no memory either.
    pub(super) fn of(output: &Output, file: &Path, word_count: usize, report: &mut Report) -> Result<Self, Failure> {
        output.slot_file(word_count).map(Self).or_else(|error| {
            let (cause, name) = (describe(&error), shown(file));
            let text = format!("what is received will not outlive an interruption: no map beside {name}: {cause}");
            report.notice("warning", &text);
            Self::anonymous(word_count)
                .map_err(|error| Failure::io(Exit::Unavailable, "take memory for the map of what is received", &error))
        })
    }

    /// One in memory alone.
    ///
    /// # Errors
    /// What the kernel says: there is not so much memory.
    pub(super) fn anonymous(word_count: usize) -> std::io::Result<Self> {
        SlotFile::anonymous(word_count).map(Self)
    }
}

impl SlotMemory for SlotMap {
    fn words(&self) -> &[AtomicU32] {
        self.0.words()
    }
}
