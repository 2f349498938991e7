//! What a receiver is told.

use std::path::PathBuf;
use std::time::Duration;

use crate::drive::listen::ListenOptions;
use crate::drive::trusted::TrustOptions;
use crate::failure::Failure;
use crate::manifest::Manifest;
use crate::sys::OutputKind;

/// What to receive, and where to put it.
#[derive(Clone, Debug)]
pub struct ReceiveFileOptions {
    /// Where to put the file.
    pub file: PathBuf,
    /// What to make of it.
    pub output: OutputKind,
    /// Overwrite a device without asking.
    pub assume_yes: bool,
    /// What to listen to, and where.
    pub listen: ListenOptions,
    /// Give up after so long.
    pub timeout: Option<Duration>,
    /// Give up after so long without a packet.
    pub idle_timeout: Option<Duration>,
    /// Refuse larger files; `None`: those for which there is no room.
    pub size_max: Option<u64>,
    /// Use repair symbols.
    pub decode: bool,
    /// Accept only what somebody vouches for; `None`: anything.
    pub trust: Option<TrustOptions>,
}

/// What an agent wants of a transfer beside the file.
pub(in crate::drive) struct FetchTerms<'a> {
    /// Called when every byte is verified, before the file gets its name; an error keeps it from that.
    pub(in crate::drive) before_commit: &'a mut dyn FnMut(&Manifest) -> Result<(), Failure>,
}
