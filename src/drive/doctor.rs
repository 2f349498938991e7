//! `iotup doctor`: gathers what there is to know of this host and of what comes in a few seconds, has it judged by `diagnosis`, and prints
//! that. It sends nothing to the group, but for one datagram with a TTL of 0, which stays on this host because that has joined the group,
//! where it is asked about sending.

#[cfg(feature = "sender")]
mod examine;
mod host;
#[cfg(feature = "sender")]
mod listen;
#[cfg(feature = "sender")]
mod sending;
mod silence;
#[cfg(feature = "sender")]
mod text;
#[cfg(feature = "sender")]
mod watch;

use serde_json::{Value, json};

#[cfg(feature = "sender")]
pub use examine::{DoctorOptions, SendPlan, doctor};
pub(super) use silence::{Silence, Subject};

use crate::diagnosis::Finding;

/// One finding as JSON.
fn value(finding: &Finding) -> Value {
    let remedy = finding.remedy.as_ref();
    json!({
        "check": finding.check.name(),
        "status": finding.status.to_string(),
        "finding": finding.text,
        "remedy": remedy.map(|remedy| remedy.command.as_str()),
        "remedy_on": remedy.map(|remedy| remedy.place.name()),
    })
}
