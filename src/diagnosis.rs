//! Why nothing comes, or may not: facts of a host and of what it heard in some seconds go in, findings come out, each with the command that
//! mends it. Facts are gathered elsewhere. What is not known is no finding, or one that says what it would take to know.

mod arrival;
mod facts;
mod frame;
mod load;
mod membership;
mod place;
mod remedy;
mod sending;
mod tables;

pub use facts::{
    Bridge, Buffer, Chain, Choice, Counters, Facts, Heard, Hook, JoinRefused, Joined, Link, ManifestDates, Other,
    Packing, Returns, Rpf, Sending, SourceRoute, Stray, Wire,
};
pub use frame::{Control, Frame};
pub use remedy::{Remedy, Where};
pub use tables::{
    Arrivals, Device, backlog_drops, igmp_version, is_group_listed, is_source_listed, parse_device, parse_named,
    parse_snmp, queue_drops,
};

use std::fmt;

/// What came of one check.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Status {
    /// All is well.
    Ok,
    /// It could not be made: the text says what it takes.
    Skip,
    /// It may be, or become, the cause of trouble.
    Warn,
    /// This keeps packets from coming or going.
    Fail,
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Ok => "OK",
            Self::Skip => "SKIP",
            Self::Warn => "WARN",
            Self::Fail => "FAIL",
        })
    }
}

/// What is checked. docs/doctor.md describes each under the same name.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Check {
    /// Which interface is used.
    Interface,
    /// It is up, has a carrier and can multicast.
    Link,
    /// It has an address of the group's family.
    Address,
    /// The kernel would send to the group by it.
    Route,
    /// The rate that is asked for fits the link.
    Rate,
    /// The kernel has joined the group.
    Membership,
    /// The network was told so.
    Report,
    /// Somebody asks from time to time who has joined.
    Querier,
    /// The routes back to the senders, and whether the kernel minds.
    Source,
    /// What is on the wire reaches the socket.
    Firewall,
    /// How many routers packets may pass.
    Hops,
    /// Packets fit the interface.
    Mtu,
    /// The receive buffer holds what comes while nobody reads.
    Buffer,
    /// This host drops nothing.
    Drops,
    /// How packets would be handed to the kernel.
    Engine,
    /// Whether the kernel cuts messages into datagrams.
    Gso,
    /// The clock, against what manifests say.
    Clock,
    /// Packets of the group come.
    Packets,
}

impl Check {
    /// The name by which people and programs know it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Interface => "interface",
            Self::Link => "link",
            Self::Address => "address",
            Self::Route => "route",
            Self::Rate => "rate",
            Self::Membership => "membership",
            Self::Report => "report",
            Self::Querier => "querier",
            Self::Source => "source",
            Self::Firewall => "firewall",
            Self::Hops => "hops",
            Self::Mtu => "mtu",
            Self::Buffer => "buffer",
            Self::Drops => "drops",
            Self::Engine => "engine",
            Self::Gso => "gso",
            Self::Clock => "clock",
            Self::Packets => "packets",
        }
    }
}

/// One thing that was found.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Finding {
    /// By which check.
    pub check: Check,
    /// What came of it.
    pub status: Status,
    /// One line for people.
    pub text: String,
    /// What mends it. Every warning and failure has one.
    pub remedy: Option<Remedy>,
}

impl Finding {
    fn new(check: Check, status: Status, text: impl Into<String>) -> Self {
        Self { check, status, text: text.into(), remedy: None }
    }

    fn ok(check: Check, text: impl Into<String>) -> Self {
        Self::new(check, Status::Ok, text)
    }

    /// `text` says what could not be seen.
    fn needs_raw_socket(facts: &Facts, check: Check, text: &str) -> Self {
        let text = format!("{text} needs CAP_NET_RAW");
        Self { remedy: Some(remedy::as_root(facts)), ..Self::new(check, Status::Skip, text) }
    }

    fn warn(check: Check, text: impl Into<String>, remedy: Remedy) -> Self {
        Self { remedy: Some(remedy), ..Self::new(check, Status::Warn, text) }
    }

    fn fail(check: Check, text: impl Into<String>, remedy: Remedy) -> Self {
        Self { remedy: Some(remedy), ..Self::new(check, Status::Fail, text) }
    }
}

/// All findings, in the order in which a packet meets what they are about.
#[must_use]
pub fn diagnose(facts: &Facts) -> Vec<Finding> {
    let mut findings = place::findings(facts);
    match &facts.sending {
        Some(sending) => findings.extend(sending::findings(facts, sending)),
        None => {
            findings.extend(membership::findings(facts));
            findings.extend(arrival::findings(facts));
            findings.extend(load::findings(facts));
        }
    }
    findings.extend(load::clock(facts));
    // Last, because its remedy is that of whatever explains it.
    let explained = explanation(&findings).cloned();
    findings.extend(arrival::packets(facts, explained.as_ref()));
    findings
}

/// The findings that may be the cause of silence, the likeliest first.
#[must_use]
pub fn likely_causes(facts: &Facts) -> Vec<Finding> {
    let explains = |finding: &Finding| finding.status >= Status::Warn && finding.check != Check::Packets;
    let mut causes: Vec<_> = diagnose(facts).into_iter().filter(|finding| explains(finding)).collect();
    causes.sort_by_key(|finding| std::cmp::Reverse(finding.status));
    causes
}

/// The finding that explains best why nothing comes.
fn explanation(findings: &[Finding]) -> Option<&Finding> {
    let can_silence = |finding: &&Finding| {
        !matches!(
            finding.check,
            Check::Buffer | Check::Drops | Check::Clock | Check::Engine | Check::Gso | Check::Packets
        )
    };
    let with = |status| findings.iter().filter(can_silence).find(move |finding| finding.status == status);
    // That nobody is heard to ask is so on most networks.
    let is_weak = |finding: &&Finding| finding.check == Check::Querier && finding.status == Status::Warn;
    with(Status::Fail).or_else(|| {
        let mut warnings = findings.iter().filter(can_silence).filter(|finding| finding.status == Status::Warn);
        warnings.find(|finding| !is_weak(finding))
    })
}

#[cfg(test)]
mod tests;
