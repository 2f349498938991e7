//! What is to happen to one receiver.

use std::time::Duration;

use iotupd::receiver::{ReceiverConfig, Trust};
use iotupd::types::Time;

use crate::disk::DiskPlan;
use crate::network::Faults;

/// One receiver and everything that happens to it.
#[derive(Clone, Debug)]
pub(crate) struct HostPlan {
    pub(crate) join: Time,
    pub(crate) faults: Faults,
    pub(crate) disk: DiskPlan,
    pub(crate) config: ReceiverConfig,
    /// `None`: it accepts anything.
    pub(crate) trust: Option<Trust>,
    /// When it leaves the group, and for how long.
    pub(crate) absences: Vec<(Time, Duration)>,
    pub(crate) crashes: Vec<Crash>,
    pub(crate) crash_at_step: Option<StepCrash>,
}

/// The receiver stops in the middle of whatever it does, and starts again on what the disk holds.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Crash {
    pub(crate) at: Time,
    pub(crate) down: Duration,
    /// What was not flushed is lost or torn.
    pub(crate) loses_power: bool,
}

/// The same before the step of this number: a datagram that comes, or anything else that happens on a host.
#[derive(Clone, Copy, Debug)]
pub(crate) struct StepCrash {
    pub(crate) step: u64,
    pub(crate) down: Duration,
    pub(crate) loses_power: bool,
}
