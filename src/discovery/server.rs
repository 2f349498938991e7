//! One server, as far as it is a source to join: how long it has been joined, and when it was heard.

use std::net::{IpAddr, SocketAddr};

use super::message::HostName;
use crate::limits::{SOURCE_RETURN_MIN, SOURCE_SILENCE_MAX};
use crate::types::Time;

/// One server: what to join to hear it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Server {
    /// The group and port.
    pub group: SocketAddr,
    /// The addresses that it may send from, at least one.
    pub sources: Vec<IpAddr>,
    /// Its name, if it was named.
    pub name: Option<HostName>,
    /// Its priority; 0 if the user named it.
    pub priority: u16,
    /// Since when it is to be joined.
    wanted: Option<Time>,
    /// Since when it is heard without a break, and when it was heard last.
    heard: Option<(Time, Time)>,
}

impl Server {
    pub(super) fn new(group: SocketAddr, sources: Vec<IpAddr>, name: Option<HostName>, priority: u16) -> Self {
        Self { group, sources, name, priority, wanted: None, heard: None }
    }

    /// Takes over what is known of the same server from before.
    pub(super) fn remember(&mut self, before: &[Self]) {
        let is_it = |known: &&Self| {
            known.group == self.group
                && known.name == self.name
                && (self.name.is_some() || known.sources == self.sources)
        };
        if let Some(known) = before.iter().find(is_it) {
            (self.wanted, self.heard) = (known.wanted, known.heard);
        }
    }

    /// It is to be joined.
    #[must_use]
    pub fn is_wanted(&self) -> bool {
        self.wanted.is_some()
    }

    pub(super) fn heard_at(&mut self, now: Time) {
        let first = self.heard.filter(|_| self.is_heard(now)).map_or(now, |(first, _)| first);
        self.heard = Some((first, now));
    }

    /// It has not been silent for long.
    #[must_use]
    pub fn is_heard(&self, now: Time) -> bool {
        self.heard.is_some_and(|(_, last)| now.since(last) < SOURCE_SILENCE_MAX)
    }

    /// It is heard, or has not had the time to be.
    fn is_promising(&self, now: Time) -> bool {
        self.is_heard(now) || self.wanted.is_some_and(|since| now.since(since) < SOURCE_SILENCE_MAX)
    }

    /// It is heard, and has been for long enough that others can be left.
    fn is_proven(&self, now: Time) -> bool {
        self.is_heard(now) && self.heard.is_some_and(|(first, _)| now.since(first) >= SOURCE_RETURN_MIN)
    }
}

/// Decides which of the servers, the best first, are to be joined so that `count` are heard.
pub(super) fn choose(servers: &mut [Server], count: usize, now: Time) {
    let (mut promising, mut proven) = (0, 0);
    for server in servers {
        // What is joined stays until better ones have proved themselves; what is not waits until better ones have failed.
        let is_wanted = if server.is_wanted() { proven < count } else { promising < count };
        server.wanted = is_wanted.then(|| server.wanted.unwrap_or(now));
        if is_wanted {
            promising += usize::from(server.is_promising(now));
            proven += usize::from(server.is_proven(now));
        }
    }
}

/// Nothing could be heard until now: all have their time again.
pub(super) fn restart(servers: &mut [Server], now: Time) {
    for server in servers {
        server.wanted = server.wanted.map(|_| now);
    }
}
