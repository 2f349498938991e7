//! Why a receiver hears nothing, as far as that can be told without privileges and without a packet. Found out on a thread of its own, so
//! that the one that receives never waits.

use std::fmt::Display;
use std::net::{IpAddr, SocketAddr};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use serde_json::{Value, json};

use super::host::{self, Snapshot};
use super::value;
use crate::diagnosis::{Choice, Facts, Finding, Heard, Joined, likely_causes};
use crate::drive::Report;
use crate::limits::SILENCE_NOTICE;
use crate::receiver::Notice;
use crate::sys::{clock, interface};

/// How long the kernel's counters are watched.
const WATCH_TIME: Duration = Duration::from_millis(500);
/// Causes that are named.
const CAUSE_COUNT_MAX: usize = 3;

/// What a receiver listens to.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(in crate::drive) struct Subject {
    /// The group and port.
    pub(in crate::drive) group: SocketAddr,
    /// The sources that are heard; none: any.
    pub(in crate::drive) sources: Vec<IpAddr>,
    /// The interface.
    pub(in crate::drive) interface: String,
}

/// Somebody who looks, or nobody.
#[derive(Debug, Default)]
pub(in crate::drive) struct Silence {
    findings: Option<mpsc::Receiver<Vec<Finding>>>,
    subject: Option<Subject>,
}

impl Silence {
    /// Begins to look why nothing comes, or stops, if that is what the notice says.
    pub(in crate::drive) fn note(&mut self, notice: &Notice, subject: impl FnOnce() -> Option<Subject>) {
        match notice {
            Notice::Silent => self.begin(subject()),
            Notice::HeardAgain => self.findings = None,
            _ => {}
        }
    }

    fn begin(&mut self, subject: Option<Subject>) {
        let (sink, findings) = mpsc::channel();
        self.subject.clone_from(&subject);
        let run = move || {
            // If packets come meanwhile, nobody wants to know any more.
            let _ = sink.send(subject.map(|subject| causes(&subject)).unwrap_or_default());
        };
        // Where no thread can be had, its end of the channel is closed, which says as much as that nothing was found.
        let _ = thread::Builder::new().name("doctor".into()).spawn(run);
        self.findings = Some(findings);
    }

    /// Says what was found, once, if it is time. `place`: the group and interface, for people.
    pub(in crate::drive) fn tell(&mut self, place: &impl Display, report: &mut Report) {
        let Some(inbox) = &self.findings else { return };
        let found = match inbox.try_recv() {
            Err(mpsc::TryRecvError::Empty) => return,
            Ok(found) => found,
            Err(mpsc::TryRecvError::Disconnected) => Vec::new(),
        };
        self.findings = None;
        let text = words(&place.to_string(), self.subject.as_ref(), &found);
        let causes: Vec<Value> = found.iter().map(value).collect();
        let fields = json!({ "kind": "silent", "text": text, "causes": causes });
        report.event("notice", fields, Some(text));
    }
}

/// A few lines.
fn words(place: &str, subject: Option<&Subject>, found: &[Finding]) -> String {
    let seconds = SILENCE_NOTICE.as_secs();
    let closer = match subject {
        Some(Subject { group, sources, interface }) => {
            let sources: String = sources.iter().map(|source| format!(" --source {source}")).collect();
            format!("sudo iotup doctor -i {interface} {group}{sources}")
        }
        None => "sudo iotup doctor GROUP".into(),
    };
    let Some(first) = found.first() else {
        return format!(
            "nothing has come from {place} for {seconds} s: is iotupd running, is this its group, port and network, does a firewall \
             drop UDP, is --hops large enough? ({closer} looks closer)"
        );
    };
    let mut out = format!("nothing has come from {place} for {seconds} s: {}", one(first, &closer));
    for finding in found.iter().skip(1).take(CAUSE_COUNT_MAX - 1) {
        out += &format!("\n  or {}", one(finding, &closer));
    }
    out + &format!("\n  ({closer} looks closer)")
}

/// `closer`: the command that is named at the end, and not twice.
fn one(finding: &Finding, closer: &str) -> String {
    let remedy = finding.remedy.as_ref().filter(|remedy| remedy.command != closer);
    let remedy = remedy.map(|remedy| format!(" ({remedy})")).unwrap_or_default();
    format!("{}{remedy}", finding.text)
}

/// What may be the cause, the likeliest first.
fn causes(subject: &Subject) -> Vec<Finding> {
    let Ok(all) = interface::list() else { return Vec::new() };
    let Some(interface) = all.iter().find(|interface| interface.name == subject.interface) else {
        return Vec::new();
    };
    let before = Snapshot::take(interface, subject.group);
    clock::sleep_until(clock::now().after(WATCH_TIME));
    let (version, forced_version) = host::versions(interface, subject.group.ip());
    let facts = Facts {
        sources: subject.sources.clone(),
        heard: Some(Heard { time: SILENCE_NOTICE, ..Heard::default() }),
        joined: Some(Joined {
            refused: None,
            is_listed: host::is_listed(interface, subject.group.ip(), &subject.sources),
            version,
            forced_version,
        }),
        bridge: host::bridge(interface),
        returns: host::returns(interface, &all, &subject.sources),
        chains: host::chains(subject.group),
        counters: Snapshot::take(interface, subject.group).since(&before),
        now: clock::unix_seconds(),
        ..Facts::new(subject.group, Choice::Link(host::link(interface, subject.group)))
    };
    likely_causes(&facts)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn silence_without_a_known_cause_names_the_usual_ones() {
        let said = words("239.1.1.1:4242 on eth0", None, &[]);
        for word in ["239.1.1.1:4242 on eth0", "5 s", "iotupd", "firewall", "--hops", "iotup doctor"] {
            assert!(said.contains(word), "{said}");
        }
        assert!(!said.contains('\n'));
    }
}
