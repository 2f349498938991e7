//! What a packet socket sees while the doctor listens.

use std::net::{IpAddr, SocketAddr};

use crate::diagnosis::{Control, Frame, Stray, Wire};
use crate::sys::interface::Interface;
use crate::sys::{Seen, Tap};
use crate::wire::begins_packet;

/// Packets that are looked at before the socket of the group has its turn again.
const PACKETS_PER_TURN: usize = 256;
/// Different senders, groups and interfaces that are told of.
const DIFFERENT_MAX: usize = 4;

/// A packet socket, and what it saw.
#[derive(Debug)]
pub(super) struct Watch {
    tap: Tap,
    sights: Sights,
}

#[derive(Debug)]
struct Sights {
    group: SocketAddr,
    interface_index: Option<u32>,
    wire: Wire,
    /// Frames of the group on other interfaces, by their numbers.
    elsewhere: Vec<(u32, u64)>,
}

impl Watch {
    /// `None` without the privilege.
    pub(super) fn open(group: SocketAddr, interface: Option<&Interface>) -> Option<Self> {
        let tap = Tap::open().ok()?;
        let interface_index = interface.map(|interface| interface.index);
        Some(Self { tap, sights: Sights { group, interface_index, wire: Wire::default(), elsewhere: Vec::new() } })
    }

    /// Looks at what waits.
    pub(super) fn look(&mut self, all: &[Interface]) {
        for _ in 0..PACKETS_PER_TURN {
            match self.tap.take() {
                Ok(Some(seen)) => self.sights.take(all, &seen),
                // An interface that has gone down is told of once.
                Err(_) => {}
                Ok(None) => break,
            }
        }
    }

    /// What was seen on the interface, and how many frames of the group on others.
    pub(super) fn finish(self) -> (Wire, Vec<(u32, u64)>) {
        (self.sights.wire, self.sights.elsewhere)
    }
}

impl Sights {
    fn take(&mut self, all: &[Interface], seen: &Seen<'_>) {
        let is_here = Some(seen.interface_index) == self.interface_index;
        // What is said of groups of the other family says nothing of this one.
        match Frame::parse(seen.bytes).filter(|frame| frame.is_ipv4() == self.group.is_ipv4()) {
            Some(Frame::Datagram { .. }) if seen.is_outgoing => {}
            Some(Frame::Datagram { source, to, hops, .. }) if is_same(to, self.group) => match is_here {
                true => note_sender(&mut self.wire, source, hops),
                false => self.note_elsewhere(seen.interface_index),
            },
            Some(Frame::Datagram { to, payload, .. }) if begins_packet(payload) => {
                let found = all.iter().find(|candidate| candidate.index == seen.interface_index);
                if let Some(interface) = found {
                    note_stray(&mut self.wire, to, &interface.name);
                }
            }
            Some(Frame::Control { source, control: Control::Query(version) }) if is_here => {
                self.wire.querier = Some((source, version));
            }
            Some(Frame::Control { control: Control::Report, .. }) if is_here && seen.is_outgoing => {
                self.wire.reports += 1;
            }
            _ => {}
        }
    }

    fn note_elsewhere(&mut self, interface_index: u32) {
        if let Some((_, count)) = self.elsewhere.iter_mut().find(|(index, _)| *index == interface_index) {
            *count += 1;
        } else if self.elsewhere.len() < DIFFERENT_MAX {
            self.elsewhere.push((interface_index, 1));
        }
    }
}

fn is_same(to: SocketAddr, group: SocketAddr) -> bool {
    (to.ip(), to.port()) == (group.ip(), group.port())
}

fn note_sender(wire: &mut Wire, source: IpAddr, hops: u8) {
    wire.frames += 1;
    wire.hops_min = Some(wire.hops_min.map_or(hops, |least| least.min(hops)));
    if !wire.senders.contains(&source) && wire.senders.len() < DIFFERENT_MAX {
        wire.senders.push(source);
    }
}

fn note_stray(wire: &mut Wire, group: SocketAddr, interface: &str) {
    let is_known = wire.strays.iter().any(|stray| stray.group == group && stray.interface == interface);
    if !is_known && wire.strays.len() < DIFFERENT_MAX {
        wire.strays.push(Stray { group, interface: interface.to_owned() });
    }
}
