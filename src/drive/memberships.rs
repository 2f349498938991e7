//! The sockets of a receiver and the groups and sources that they are joined to: one socket for each group and port.

use std::io;
use std::net::{IpAddr, SocketAddr};

use crate::failure::{Exit, Failure};
use crate::limits::{JOIN_RETRY_INTERVAL, RECEIVE_SOCKET_COUNT_MAX};
use crate::sys::{ReceiveOptions, ReceiveSocket, Train, clock};
use crate::types::Time;

/// A group and port, and the source to hear; without one, whatever is sent to it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Membership {
    pub(super) group: SocketAddr,
    pub(super) source: Option<IpAddr>,
}

/// What has come of a membership.
#[derive(Debug)]
pub(super) enum Event {
    Joined(Membership),
    Left(Membership),
    /// It is tried again later. Said once for each.
    Failed(Failure),
    /// Something that people should know.
    Warning(String),
}

/// One group and port.
#[derive(Debug)]
struct Group {
    addr: SocketAddr,
    /// The sources, and whether anything has come from each since that was last asked; `None`: any source.
    sources: Option<Vec<(IpAddr, bool)>>,
}

impl Group {
    fn has(&self, source: Option<IpAddr>) -> bool {
        match (&self.sources, source) {
            (None, None) => true,
            (Some(sources), Some(source)) => sources.iter().any(|(known, _)| *known == source),
            _ => false,
        }
    }

    fn memberships(&self) -> Vec<Membership> {
        let one = |source| Membership { group: self.addr, source };
        match &self.sources {
            None => vec![one(None)],
            Some(sources) => sources.iter().map(|(source, _)| one(Some(*source))).collect(),
        }
    }
}

/// All that is joined.
#[derive(Debug, Default)]
pub(super) struct Memberships {
    sockets: Vec<ReceiveSocket>,
    /// That of the socket in the same place.
    groups: Vec<Group>,
    /// The socket that has the last batch.
    current: Option<usize>,
    /// What could not be joined, and when to try again.
    failed: Vec<(Membership, Time)>,
    /// Counts of sockets that are closed.
    dropped_buffers: u32,
    truncated: u64,
}

impl Memberships {
    /// Waits for a batch of datagrams, at most until `deadline`: see [`ReceiveSocket::receive`].
    pub(super) fn receive(&mut self, deadline: Time) -> io::Result<usize> {
        let last = self.current.take().unwrap_or(0);
        let (place, deadline) = match self.sockets.len() {
            // It waits better itself.
            1 => (0, deadline),
            _ => match ReceiveSocket::wait_for_any(&self.sockets, last, deadline)? {
                Some(place) => (place, clock::now()),
                None => return Ok(0),
            },
        };
        let count = self.sockets[place].receive(deadline)?;
        self.current = Some(place);
        if let Some(sources) = &mut self.groups[place].sources {
            for sender in self.sockets[place].batch_senders() {
                if let Some((_, is_heard)) = sources.iter_mut().find(|(source, _)| *source == sender) {
                    *is_heard = true;
                }
            }
        }
        Ok(count)
    }

    /// The last batch: see [`ReceiveSocket::trains`].
    pub(super) fn trains(&self) -> impl Iterator<Item = Train<'_>> {
        self.current.into_iter().flat_map(|place| self.sockets[place].trains())
    }

    /// What the kernel has dropped: see [`ReceiveSocket::dropped_buffers`].
    pub(super) fn dropped_buffers(&self) -> u32 {
        self.sockets.iter().map(ReceiveSocket::dropped_buffers).fold(self.dropped_buffers, u32::wrapping_add)
    }

    /// Buffers that were longer than the room for them.
    pub(super) fn truncated(&self) -> u64 {
        self.truncated + self.sockets.iter().map(ReceiveSocket::truncated).sum::<u64>()
    }

    pub(super) fn are_none(&self) -> bool {
        self.sockets.is_empty()
    }

    /// The sources from which anything has come since this was last asked.
    pub(super) fn take_heard(&mut self) -> impl Iterator<Item = (SocketAddr, IpAddr)> {
        self.groups.iter_mut().flat_map(|group| {
            let addr = group.addr;
            let heard =
                move |(source, is_heard): &mut (IpAddr, bool)| std::mem::take(is_heard).then_some((addr, *source));
            group.sources.iter_mut().flatten().filter_map(heard)
        })
    }

    /// Joins and leaves until what is wanted, and nothing else, is joined on the interface. What could not be joined is tried
    /// again from time to time.
    pub(super) fn sync(&mut self, now: Time, interface_index: u32, wanted: &[Membership]) -> Vec<Event> {
        let mut events = Vec::new();
        self.leave_others(wanted, &mut events);
        self.failed.retain(|(membership, _)| wanted.contains(membership));
        for &membership in wanted {
            let is_put_off = |(failed, retry): &(Membership, Time)| *failed == membership && now < *retry;
            if self.is_joined(membership) || self.failed.iter().any(is_put_off) {
                continue;
            }
            let is_new = !self.failed.iter().any(|(failed, _)| *failed == membership);
            self.failed.retain(|(failed, _)| *failed != membership);
            match self.join(interface_index, membership) {
                Ok(warnings) => {
                    events.push(Event::Joined(membership));
                    events.extend(warnings.into_iter().map(Event::Warning));
                }
                Err(failure) => {
                    self.failed.push((membership, now.after(JOIN_RETRY_INTERVAL)));
                    events.extend(is_new.then_some(Event::Failed(failure)));
                }
            }
        }
        events
    }

    fn is_joined(&self, membership: Membership) -> bool {
        self.groups.iter().any(|group| group.addr == membership.group && group.has(membership.source))
    }

    fn join(&mut self, interface_index: u32, membership: Membership) -> Result<Vec<String>, Failure> {
        let Membership { group: addr, source } = membership;
        let options = ReceiveOptions { group: addr, interface_index };
        let Some(source) = source else {
            let (socket, warnings) = ReceiveSocket::open(&options)?;
            self.sockets.push(socket);
            self.groups.push(Group { addr, sources: None });
            return Ok(warnings);
        };
        if let Some(place) = self.groups.iter().position(|group| group.addr == addr) {
            self.sockets[place].join_source(source)?;
            self.groups[place].sources.get_or_insert_default().push((source, false));
            return Ok(Vec::new());
        }
        if self.sockets.len() == RECEIVE_SOCKET_COUNT_MAX {
            let cause = format!("more than {RECEIVE_SOCKET_COUNT_MAX} groups and ports");
            return Err(Failure::new(Exit::Unavailable, format!("join {addr} from {source}"), cause));
        }
        let (socket, warnings) = ReceiveSocket::open_without_sources(&options)?;
        socket.join_source(source)?;
        self.sockets.push(socket);
        self.groups.push(Group { addr, sources: Some(vec![(source, false)]) });
        Ok(warnings)
    }

    fn leave_others(&mut self, wanted: &[Membership], events: &mut Vec<Event>) {
        for place in (0..self.groups.len()).rev() {
            let memberships = self.groups[place].memberships();
            let unwanted: Vec<_> =
                memberships.iter().filter(|membership| !wanted.contains(membership)).copied().collect();
            if unwanted.len() == memberships.len() {
                self.close(place);
            } else {
                for source in unwanted.iter().filter_map(|membership| membership.source) {
                    self.sockets[place].leave_source(source);
                    self.groups[place]
                        .sources
                        .iter_mut()
                        .for_each(|sources| sources.retain(|(known, _)| *known != source));
                }
            }
            events.extend(unwanted.into_iter().map(Event::Left));
        }
    }

    fn close(&mut self, place: usize) {
        let socket = self.sockets.remove(place);
        self.groups.remove(place);
        self.dropped_buffers = self.dropped_buffers.wrapping_add(socket.dropped_buffers());
        self.truncated += socket.truncated();
        self.current = None;
    }

    /// Leaves everything, so that `sync` joins it anew.
    pub(super) fn leave_all(&mut self) {
        while !self.sockets.is_empty() {
            self.close(self.sockets.len() - 1);
        }
        self.failed.clear();
    }
}

#[cfg(test)]
mod tests {
    use std::collections::hash_map::RandomState;
    use std::hash::BuildHasher;
    use std::time::Duration;

    use super::*;
    use crate::sys::{Memory, Message, SendOptions, SendSocket};

    fn loopback() -> u32 {
        nix::net::if_::if_nametoindex("lo").unwrap()
    }

    fn source(last: u8) -> IpAddr {
        [127, 0, 0, last].into()
    }

    /// A group and port that no other test has, but for chance.
    fn group() -> SocketAddr {
        let random = RandomState::new().hash_one(0).to_ne_bytes();
        let port = 20_000 + u16::from_ne_bytes([random[3], random[4]]) % 12_000;
        SocketAddr::from(([232, random[0], random[1], random[2]], port))
    }

    fn of(group: SocketAddr, source: Option<IpAddr>) -> Membership {
        Membership { group, source }
    }

    fn send(from: IpAddr, group: SocketAddr) {
        let options = SendOptions { group, interface_index: loopback(), bind_addr: Some(from), hops: 1 };
        let message = Message { start: 0, size: 1, segment_size: 1, memory: Memory::Buffer };
        assert_eq!(SendSocket::open(&options).unwrap().send(b"x", &[message]).unwrap(), 1);
    }

    /// The senders of so many datagrams.
    fn take(memberships: &mut Memberships, count: usize) -> Vec<IpAddr> {
        let mut senders = Vec::new();
        while senders.len() < count {
            assert!(memberships.receive(soon()).unwrap() > 0, "{senders:?} and no more");
            senders.extend(memberships.trains().flat_map(|train| train.datagrams().map(move |_| train.from.ip())));
        }
        senders
    }

    fn joined(events: &[Event]) -> Vec<Membership> {
        let one = |event: &Event| match event {
            Event::Joined(membership) => Some(*membership),
            _ => None,
        };
        events.iter().filter_map(one).collect()
    }

    fn soon() -> Time {
        clock::now().after(Duration::from_secs(5))
    }

    #[test]
    fn only_the_joined_source_is_heard_and_told() {
        let (group, mut memberships) = (group(), Memberships::default());
        let wanted = [of(group, Some(source(2)))];
        assert_eq!(joined(&memberships.sync(clock::now(), loopback(), &wanted)), wanted);
        assert!(memberships.sync(clock::now(), loopback(), &wanted).is_empty(), "nothing is done twice");
        for last in [3, 4, 2] {
            send(source(last), group);
        }
        assert_eq!(take(&mut memberships, 1), [source(2)]);
        assert_eq!(memberships.take_heard().collect::<Vec<_>>(), [(group, source(2))]);
        assert_eq!(memberships.take_heard().count(), 0);
    }

    #[test]
    fn sources_change_one_by_one_without_the_others_noticing() {
        let (group, mut memberships) = (group(), Memberships::default());
        memberships.sync(clock::now(), loopback(), &[of(group, Some(source(2)))]);
        let both = [of(group, Some(source(2))), of(group, Some(source(3)))];
        assert_eq!(joined(&memberships.sync(clock::now(), loopback(), &both)), both[1..]);
        send(source(2), group);
        send(source(3), group);
        assert_eq!(take(&mut memberships, 2), [source(2), source(3)]);
        let events = memberships.sync(clock::now(), loopback(), &both[1..]);
        assert!(matches!(events[..], [Event::Left(left)] if left == both[0]), "{events:?}");
        send(source(2), group);
        send(source(3), group);
        assert_eq!(take(&mut memberships, 1), [source(3)]);
        assert_eq!(memberships.sync(clock::now(), loopback(), &[]).len(), 1);
        assert_eq!(memberships.receive(clock::now()).unwrap(), 0);
    }

    #[test]
    fn several_groups_are_heard_in_turn() {
        let (first, second, mut memberships) = (group(), group(), Memberships::default());
        let wanted = [of(first, Some(source(2))), of(second, None)];
        memberships.sync(clock::now(), loopback(), &wanted);
        for _ in 0..40 {
            send(source(2), first);
            send(source(3), second);
        }
        let senders = take(&mut memberships, 80);
        let of_first = |senders: &[IpAddr]| senders.iter().filter(|sender| **sender == source(2)).count();
        assert_eq!(of_first(&senders), 40);
        assert!((1..40).contains(&of_first(&senders[..40])), "neither waits for the other to end");
        assert_eq!(memberships.receive(clock::now()).unwrap(), 0);
        assert_eq!(memberships.trains().count(), 0, "no batch is given twice");
    }

    #[test]
    fn what_cannot_be_joined_is_said_once_and_tried_again_and_the_others_go_on() {
        let (group, mut memberships) = (group(), Memberships::default());
        // The kernel takes ten sources of an IPv4 group unless it is told otherwise.
        let wanted: Vec<_> = (1..=200).map(|last| of(group, Some(source(last)))).collect();
        let now = clock::now();
        let events = memberships.sync(now, loopback(), &wanted);
        let count = joined(&events).len();
        assert!((1..200).contains(&count), "{count}");
        assert_eq!(events.iter().filter(|event| matches!(event, Event::Failed(_))).count(), 200 - count);
        assert!(memberships.sync(now, loopback(), &wanted).is_empty());
        assert!(memberships.sync(now.after(JOIN_RETRY_INTERVAL), loopback(), &wanted).is_empty(), "tried, not said");
        // There is room for the last one now.
        assert_eq!(
            joined(&memberships.sync(now.after(JOIN_RETRY_INTERVAL * 2), loopback(), &wanted[199..])),
            wanted[199..]
        );
    }

    #[test]
    fn interface_that_is_missing_fails_and_another_is_joined_anew() {
        let (group, mut memberships) = (group(), Memberships::default());
        let wanted = [of(group, None)];
        let events = memberships.sync(clock::now(), 987_654, &wanted);
        assert!(matches!(&events[..], [Event::Failed(_)]), "{events:?}");
        memberships.leave_all();
        assert_eq!(joined(&memberships.sync(clock::now(), loopback(), &wanted)), wanted);
        memberships.leave_all();
        assert_eq!(joined(&memberships.sync(clock::now(), loopback(), &wanted)), wanted);
        send(source(3), group);
        assert_eq!(take(&mut memberships, 1), [source(3)]);
    }
}
