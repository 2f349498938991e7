//! Joins the group as a receiver would, and counts what comes. With a packet socket it also asks the network a question: it joins and leaves a
//! group that nobody uses, upon which a querier has to ask who else is in it. If nothing comes for a while, the other interfaces are tried.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use super::DoctorOptions;
use super::examine::{MANIFEST_COUNT_MAX, dates_of};
use super::host::{self, Snapshot};
use super::watch::Watch;
use crate::diagnosis::{Counters, Heard, JoinRefused, Joined, ManifestDates, Other, Packing, Wire};
use crate::drive::{choose, end};
use crate::failure::Failure;
use crate::limits::HEADER_SIZE;
use crate::manifest;
use crate::sys::interface::Interface;
use crate::sys::{ReceiveOptions, ReceiveSocket, clock, random, signals};
use crate::types::{RateBps, Time};
use crate::wire::{self, Malformed, ManifestPayload, Packet};

/// How long one socket is waited for before the others have their turn.
const TURN: Duration = Duration::from_millis(10);
/// How long the group is joined that nobody uses: the kernel tells the network within this.
const PROBE_TIME: Duration = Duration::from_millis(100);
/// Different senders that are told of.
const SENDER_COUNT_MAX: usize = 4;
/// Interfaces that are tried beside the one that is looked at.
const OTHER_COUNT_MAX: usize = 8;

/// What came of listening.
#[derive(Debug, Default)]
pub(super) struct Observed {
    pub(super) heard: Heard,
    pub(super) wire: Option<Wire>,
    pub(super) others: Vec<Other>,
    /// Who sends to the group, though it is not one of the sources.
    pub(super) strangers: Vec<IpAddr>,
    pub(super) joined: Option<Joined>,
    pub(super) counters: Counters,
    pub(super) manifests: Vec<ManifestDates>,
    /// Bytes of the receive buffer.
    pub(super) buffer_size: Option<u64>,
}

/// Listens for as long as is asked.
///
/// # Errors
/// That of a signal.
pub(super) fn listen(
    options: &DoctorOptions,
    interface: Option<&Interface>,
    all: &[Interface],
) -> Result<Observed, Failure> {
    let mut out = Observed::default();
    let before = interface.map(|interface| Snapshot::take(interface, options.group));
    let drops_before = host::socket_drops(options.group);
    let started = clock::now();
    let mut ear = Ear::open(options, interface, &mut out);
    ear.run(options, all, started, &mut out)?;
    if let Some(interface) = interface {
        out.counters = before.map(|before| Snapshot::take(interface, options.group).since(&before)).unwrap_or_default();
    }
    out.heard.time = clock::now().since(started);
    ear.finish(all, &mut out);
    out.heard.dropped_elsewhere = host::socket_drops(options.group).saturating_sub(drops_before);
    Ok(out)
}

/// The sockets.
struct Ear<'a> {
    interface: Option<&'a Interface>,
    socket: Option<ReceiveSocket>,
    watch: Option<Watch>,
    /// Sockets on other interfaces, and what came to them.
    others: Vec<(u32, ReceiveSocket, u64)>,
    /// A socket that hears whoever sends, where the first hears only some.
    anyone: Option<ReceiveSocket>,
    probe: Probe,
    has_tried_others: bool,
    /// The text of the manifest that was seen last.
    last_text: Vec<u8>,
}

/// Where the question to the network stands.
enum Probe {
    ToJoin,
    Joined(Box<ReceiveSocket>, Time),
    Done,
}

impl<'a> Ear<'a> {
    fn open(options: &DoctorOptions, interface: Option<&'a Interface>, out: &mut Observed) -> Self {
        let watch = Watch::open(options.group, interface);
        let socket = interface.and_then(|interface| match join(options, interface, &options.sources) {
            Ok(socket) => {
                let (version, forced_version) = host::versions(interface, options.group.ip());
                let is_listed = host::is_listed(interface, options.group.ip(), &options.sources);
                out.joined = Some(Joined { refused: None, is_listed, version, forced_version });
                out.buffer_size = socket.buffer_size().ok().map(|size| size as u64);
                Some(socket)
            }
            Err(failure) => {
                out.joined = Some(refused(&failure));
                None
            }
        });
        let probe = if watch.is_some() { Probe::ToJoin } else { Probe::Done };
        Self {
            interface,
            socket,
            watch,
            others: Vec::new(),
            anyone: None,
            probe,
            has_tried_others: false,
            last_text: Vec::new(),
        }
    }

    fn run(
        &mut self,
        options: &DoctorOptions,
        all: &[Interface],
        started: Time,
        out: &mut Observed,
    ) -> Result<(), Failure> {
        let deadline = started.after(options.time);
        loop {
            let now = clock::now();
            if now >= deadline {
                return Ok(());
            }
            if let Some(signal) = signals::pending() {
                return Err(end::interrupted(&format!("listen to {}", options.group), signal));
            }
            self.hear(deadline.min(now.after(TURN)), out);
            if let Some(watch) = &mut self.watch {
                watch.look(all);
            }
            self.ask_for_querier(options.group, now);
            let is_late = now.since(started) >= options.time / 3;
            if !self.has_tried_others && out.heard.datagrams == 0 && (is_late || self.interface.is_none()) {
                self.has_tried_others = true;
                self.join_others(options, all);
            }
            self.hear_others(now, out);
        }
    }

    fn hear(&mut self, deadline: Time, out: &mut Observed) {
        match &mut self.socket {
            // An error is that of an interface which has gone: its link is looked at anyway.
            Some(socket) => match socket.receive(deadline) {
                Ok(_) => take_batch(socket, &mut self.last_text, out),
                Err(_) => clock::sleep_until(deadline),
            },
            None => clock::sleep_until(deadline),
        }
    }

    /// Joins a group that nobody uses, and leaves it again.
    fn ask_for_querier(&mut self, group: SocketAddr, now: Time) {
        self.probe = match std::mem::replace(&mut self.probe, Probe::Done) {
            Probe::ToJoin => match self.interface.map(|interface| (interface, unused_group(group))) {
                Some((interface, group)) => {
                    let options = ReceiveOptions { group, interface_index: interface.index };
                    ReceiveSocket::open(&options)
                        .map_or(Probe::Done, |(socket, _)| Probe::Joined(Box::new(socket), now))
                }
                None => Probe::Done,
            },
            Probe::Joined(socket, since) if now.since(since) < PROBE_TIME => Probe::Joined(socket, since),
            Probe::Joined(..) | Probe::Done => Probe::Done,
        };
    }

    /// Joins on the other interfaces, and whatever is sent to the group on the own one, if that was for some sources only.
    fn join_others(&mut self, options: &DoctorOptions, all: &[Interface]) {
        let own = self.interface.map(|interface| interface.index);
        let others = all.iter().filter(|other| choose::is_candidate(other) && Some(other.index) != own);
        let joined = others.take(OTHER_COUNT_MAX).filter_map(|other| {
            let socket = join(options, other, &options.sources).ok()?;
            Some((other.index, socket, 0))
        });
        self.others = joined.collect();
        if let Some(interface) = self.interface.filter(|_| !options.sources.is_empty()) {
            self.anyone = join(options, interface, &[]).ok();
        }
    }

    fn hear_others(&mut self, now: Time, out: &mut Observed) {
        for (_, socket, count) in &mut self.others {
            *count += socket.receive(now).unwrap_or(0) as u64;
        }
        if let Some(socket) = &mut self.anyone
            && socket.receive(now).is_ok()
        {
            for sender in socket.batch_senders() {
                if out.strangers.len() < SENDER_COUNT_MAX && !out.strangers.contains(&sender) {
                    out.strangers.push(sender);
                }
            }
        }
    }

    fn finish(self, all: &[Interface], out: &mut Observed) {
        if let Some(socket) = &self.socket {
            out.heard.dropped_buffers = socket.dropped_buffers();
        }
        let (wire, elsewhere) = self.watch.map(Watch::finish).unzip();
        let elsewhere = elsewhere.unwrap_or_default();
        for other in all {
            let heard = self.others.iter().find(|(index, ..)| *index == other.index).map_or(0, |(_, _, count)| *count);
            let seen = elsewhere.iter().find(|(index, _)| *index == other.index).map_or(0, |(_, count)| *count);
            if heard.max(seen) > 0 {
                out.others.push(Other {
                    name: other.name.clone(),
                    datagrams: heard.max(seen),
                    is_delivered: heard > 0,
                });
            }
        }
        out.wire = wire;
    }
}

fn join(options: &DoctorOptions, interface: &Interface, sources: &[IpAddr]) -> Result<ReceiveSocket, Failure> {
    let receive = ReceiveOptions { group: options.group, interface_index: interface.index };
    let socket = match sources.is_empty() {
        true => ReceiveSocket::open(&receive)?.0,
        false => {
            let (socket, _) = ReceiveSocket::open_without_sources(&receive)?;
            sources.iter().try_for_each(|source| socket.join_source(*source))?;
            socket
        }
    };
    // Where the kernel does not tell, nobody knows.
    let _ = socket.tell_hop_limits();
    Ok(socket)
}

fn refused(failure: &Failure) -> Joined {
    let limit = failure.advice().strip_prefix("sysctl ").map(str::to_owned);
    let refused = Some(JoinRefused { cause: failure.summary(), limit });
    Joined { refused, is_listed: None, version: None, forced_version: 0 }
}

/// A group of the link or of this organisation, so that no router has to do with it, at random: nobody else uses it.
fn unused_group(group: SocketAddr) -> SocketAddr {
    let [a, b, c, d, ..] = random::bytes().unwrap_or_else(|_| clock::now().as_nanos().to_ne_bytes());
    let address = match group {
        SocketAddr::V4(_) => IpAddr::from([239, 255, a, b]),
        SocketAddr::V6(_) => {
            let high = u16::from_be_bytes([a, b]);
            Ipv6Addr::new(0xff12, 0, 0, 0, 0, 0, high, u16::from_be_bytes([c, d])).into()
        }
    };
    SocketAddr::new(address, group.port())
}

fn take_batch(socket: &ReceiveSocket, last_text: &mut Vec<u8>, out: &mut Observed) {
    let heard = &mut out.heard;
    heard.hops_min = heard.hops_min.into_iter().chain(socket.hop_limit_min()).min();
    for (from, datagram) in socket.datagrams() {
        let ip_size = (datagram.len() + overhead(from)) as u64;
        heard.datagrams += 1;
        heard.ip_bytes += ip_size;
        heard.longest = heard.longest.max(u32::try_from(ip_size).unwrap_or(u32::MAX));
        match wire::parse(datagram) {
            Ok((_, packet)) => {
                if !heard.senders.contains(&from) && heard.senders.len() < SENDER_COUNT_MAX {
                    heard.senders.push(from);
                }
                match packet {
                    Packet::Data(_) => heard.data += 1,
                    Packet::Hashes(_) => heard.control += 1,
                    Packet::Manifest(payload) => {
                        heard.control += 1;
                        if payload.text != *last_text {
                            last_text.clear();
                            last_text.extend(payload.text);
                            heard.packing = Some(packing(&payload, from));
                            note_manifest(&payload, &mut out.manifests);
                        }
                    }
                }
            }
            Err(Malformed::Checksum) => heard.damaged += 1,
            Err(_) => {}
        }
    }
}

/// Bytes of IP and UDP headers.
fn overhead(from: SocketAddr) -> usize {
    if from.is_ipv4() { 28 } else { 48 }
}

fn packing(payload: &ManifestPayload<'_>, from: SocketAddr) -> Packing {
    let size = usize::from(payload.description.symbol_size.bytes()) + HEADER_SIZE + overhead(from);
    let rates = payload.description.channels().iter().filter_map(|channel| channel.rate);
    let rate = rates.map(RateBps::bits_per_second).fold(0, u64::saturating_add);
    Packing { ip_size: u32::try_from(size).unwrap_or(u32::MAX), rate_bps: (rate > 0).then_some(rate) }
}

fn note_manifest(payload: &ManifestPayload<'_>, manifests: &mut Vec<ManifestDates>) {
    if let Ok(manifest) = manifest::parse(payload.text) {
        let dates = dates_of(&manifest);
        if manifests.len() < MANIFEST_COUNT_MAX && !manifests.contains(&dates) {
            manifests.push(dates);
        }
    }
}
