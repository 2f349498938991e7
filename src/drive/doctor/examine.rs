//! Looks at what is asked for, has it judged, and prints what was found.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use super::listen::Observed;
use super::{host, listen, sending, text};
use crate::diagnosis::{Buffer, Choice, Facts, ManifestDates, Status, diagnose};
use crate::drive::manifest_file::ManifestFile;
use crate::drive::{Report, choose};
use crate::failure::{Exit, Failure};
use crate::limits::{RATE_BPS_DEFAULT, SOCKET_RECEIVE_BUFFER_SIZE};
use crate::sys::interface::{self, Interface};
use crate::sys::{clock, signals};
use crate::types::RateBps;

/// Manifests that are looked at.
pub(super) const MANIFEST_COUNT_MAX: usize = 4;

/// What to look at.
#[derive(Clone, Debug)]
pub struct DoctorOptions {
    /// The group and port.
    pub group: SocketAddr,
    /// The interface in the group's zone.
    pub zone: Option<String>,
    /// The interface asked for.
    pub interface: Option<String>,
    /// The sources that are to be heard; none: any.
    pub sources: Vec<IpAddr>,
    /// How long to listen.
    pub time: Duration,
    /// The rate to be ready for; `None`: what is heard, or the default.
    pub rate: Option<RateBps>,
    /// A manifest to look at beside those that are heard.
    pub manifest: Option<PathBuf>,
    /// Look at sending, with this.
    pub send: Option<SendPlan>,
    /// Print one JSON object.
    pub json: bool,
}

/// How a server would send.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SendPlan {
    /// IPv4 TTL or IPv6 hop limit.
    pub hops: u8,
    /// Bytes of an IP packet at most.
    pub mtu: Option<u32>,
}

/// Looks, judges and prints.
///
/// # Errors
/// [`Exit::Io`] if the result cannot be printed, [`Exit::NoInput`] and [`Exit::BadData`] if the manifest is no good; those of a signal.
/// What is found to be wrong is no error: then the exit code is [`Exit::Unavailable`].
pub fn doctor(options: &DoctorOptions, report: &mut Report) -> Result<Exit, Failure> {
    signals::install()?;
    let manifest = options.manifest.as_deref().map(ManifestFile::open).transpose()?;
    let all = interface::list()?;
    let chosen = choose::find_down(all.clone(), options.interface.as_deref(), options.zone.as_deref());
    let (interface, choice) = match chosen {
        Ok(interface) => {
            let link = host::link(&interface, options.group);
            (Some(interface), Choice::Link(link))
        }
        Err(unusable) => (None, host::no_choice(&all, &unusable.into())),
    };
    let mut facts = Facts::new(options.group, choice);
    facts.is_sender = options.send.is_some();
    facts.sources.clone_from(&options.sources);
    facts.chains = host::chains(options.group);
    facts.route = interface.as_ref().map(|interface| sending::route(options, interface));
    match options.send {
        Some(plan) => facts.sending = interface.as_ref().map(|interface| sending::facts(options, plan, interface)),
        None => {
            tell(options, interface.as_ref(), report);
            let observed = listen::listen(options, interface.as_ref(), &all)?;
            add_observed(&mut facts, options, interface.as_ref(), &all, observed);
        }
    }
    facts.now = clock::unix_seconds();
    facts.manifests.extend(manifest.map(|file| dates_of(&file.manifest)));
    let findings = diagnose(&facts);
    crate::drive::print(&match options.json {
        true => text::json(options, &facts, &findings),
        false => text::lines(&findings),
    })?;
    let fails = findings.iter().any(|finding| finding.status == Status::Fail);
    Ok(if fails { Exit::Unavailable } else { Exit::Complete })
}

fn tell(options: &DoctorOptions, interface: Option<&Interface>, report: &mut Report) {
    if !options.json {
        let name = interface.map_or("every interface", |interface| interface.name.as_str());
        let text = format!("listening to {} on {name} for {} s", options.group, options.time.as_secs_f64());
        report.notice("listening", &text);
    }
}

fn add_observed(
    facts: &mut Facts,
    options: &DoctorOptions,
    interface: Option<&Interface>,
    all: &[Interface],
    observed: Observed,
) {
    let measured = 8.0 * observed.heard.ip_bytes as f64 / observed.heard.time.as_secs_f64().max(1e-3);
    let stated = observed.heard.packing.and_then(|packing| packing.rate_bps);
    let rate_bps = match (options.rate, observed.heard.data) {
        (Some(rate), _) => rate.bits_per_second(),
        (None, 0) => stated.unwrap_or(RATE_BPS_DEFAULT),
        (None, _) => stated.unwrap_or(0).max(measured as u64),
    };
    facts.buffer = observed.buffer_size.map(|granted| Buffer {
        wanted: SOCKET_RECEIVE_BUFFER_SIZE as u64,
        granted,
        limit: host::number("/proc/sys/net/core/rmem_max"),
        rate_bps,
    });
    let heard = observed.heard.senders.iter().map(SocketAddr::ip);
    let seen = observed.wire.iter().flat_map(|wire| wire.senders.iter().copied());
    let sources: Vec<_> = heard.chain(seen).chain(options.sources.iter().copied()).collect();
    if let Some(interface) = interface {
        facts.returns = host::returns(interface, all, &sources);
        facts.bridge = host::bridge(interface);
    }
    facts.heard = Some(observed.heard);
    facts.wire = observed.wire;
    facts.others = observed.others;
    facts.strangers = observed.strangers;
    facts.joined = observed.joined;
    facts.counters = observed.counters;
    facts.manifests = observed.manifests;
}

pub(super) fn dates_of(manifest: &crate::manifest::Manifest) -> ManifestDates {
    ManifestDates { name: manifest.name.as_str().to_owned(), created: manifest.created, expires: manifest.expires }
}
