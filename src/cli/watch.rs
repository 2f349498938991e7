//! `--watch`: what a receiver is told that waits for new versions.

use std::ffi::OsString;
use std::time::Duration;

use clap::Args;

use super::ReceiverArgs;
use super::announce::{self, AnnounceArg};
use super::units::parse_duration;
use crate::failure::{Exit, Failure};

/// How to wait, and what to do then.
#[derive(Args, Debug)]
pub struct WatchArgs {
    /// Keep FILE at the newest version: wait for announcements, which cost next to nothing, fetch what is newer than the last version that was
    /// installed, and go on until a signal comes. Needs --pubkey and --state-dir
    #[arg(long, requires = "pubkey", requires = "state_dir", conflicts_with_all = ["discard", "no_clobber", "state_file", "spool_dir"])]
    pub watch: bool,
    /// With --watch: run this by /bin/sh when a new version is in place; it counts as installed when this has succeeded, and until then it
    /// is run again and again, also after a restart. IOTUP_FILE, IOTUP_VERSION, IOTUP_DIGEST, IOTUP_SIZE, IOTUP_NAME, IOTUP_COMPATIBLE,
    /// IOTUP_PREVIOUS_VERSION and IOTUP_ATTEMPT in its environment say what is new
    #[arg(long, value_name = "CMD", requires = "watch")]
    pub exec: Option<OsString>,
    /// With --exec: how long the command may take before it is ended (default: 1 h)
    #[arg(long, value_name = "TIME", requires = "exec", value_parser = parse_duration)]
    pub exec_timeout: Option<Duration>,
    /// With --exec: how long to wait after the first failure; twice as long after each other, up to an hour (default: 10 s)
    #[arg(long, value_name = "TIME", requires = "exec", value_parser = parse_duration)]
    pub exec_retry: Option<Duration>,
    /// With --watch: wait for a time at random up to this one before fetching a new version, so that many devices do not do all at once
    #[arg(long, value_name = "TIME", requires = "watch", value_parser = parse_duration)]
    pub splay: Option<Duration>,
    /// With --watch: where versions are announced; off: nowhere but between the data, which then comes all the time (default: where
    /// iotupd does without this option)
    #[arg(long, value_name = "GROUP|off", requires = "watch", value_parser = announce::parse)]
    pub announce: Option<AnnounceArg>,
}

impl ReceiverArgs {
    /// Checks what no single option shows.
    pub(super) fn check_watch(&self) -> Result<(), Failure> {
        let refused = |option: &str, cause: &str| Err(Failure::new(Exit::Usage, format!("obey {option}"), cause));
        match () {
            () if self.watch.watch && self.is_stdout() => refused("--watch", "the file is to go to standard output")
                .map_err(|failure: Failure| failure.remedy("name a file instead of `-`")),
            () if self.watch.watch && self.device && !self.yes => {
                refused("--watch", "nobody is there to ask whether the device may be overwritten")
                    .map_err(|failure: Failure| failure.remedy("give --yes if it may"))
            }
            () if self.state_dir.is_some() && !self.device && !self.watch.watch => {
                refused("--state-dir", "neither --device nor --watch is given")
            }
            () => Ok(()),
        }
    }
}
