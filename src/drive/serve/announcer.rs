//! Sends the manifest alone to a group of its own, once a second, for devices that only wait for news (docs/PROTOCOL.md, section 8.1).

use std::net::SocketAddr;

use crate::failure::{Exit, Failure, describe};
use crate::limits::ANNOUNCEMENT_INTERVAL;
use crate::sys::{Memory, Message, SendSocket};
use crate::types::{Time, announcement_group};

/// Attempts to send one announcement: an ICMP error that somebody has forged takes one of them.
const ATTEMPT_COUNT_MAX: usize = 3;
/// So many announcements in a row that could not be sent are worth a word.
const FAILURE_COUNT_NOTICE: u32 = 5;

/// Where a server announces what it sends.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Announce {
    /// On the group that belongs to that of the data, what is signed: whoever waits for news takes nothing else.
    Derived,
    /// On this one, whatever it is.
    To(SocketAddr),
    /// Nowhere.
    Off,
}

impl Announce {
    /// The group and port, if there is one.
    ///
    /// # Errors
    /// [`Exit::Usage`] if none belongs to `group`.
    pub(super) fn group(self, group: SocketAddr, is_signed: bool) -> Result<Option<SocketAddr>, Failure> {
        match self {
            Self::Derived if is_signed => {
                let derived = announcement_group(group.ip()).map_err(|cause| {
                    Failure::new(
                        Exit::Usage,
                        format!("announce what is sent to {group}"),
                        format!("the group for that {cause}"),
                    )
                    .remedy("name one with --announce, or give --announce off")
                })?;
                Ok(Some(SocketAddr::new(derived, group.port())))
            }
            Self::To(group) => Ok(Some(group)),
            Self::Derived | Self::Off => Ok(None),
        }
    }
}

/// Announces one object.
#[derive(Debug)]
pub(super) struct Announcer {
    group: SocketAddr,
    socket: SendSocket,
    packet: Vec<u8>,
    next: Time,
    failure_count: u32,
}

impl Announcer {
    /// Sends `packet` to `group`, by `socket`. The first is due at once.
    pub(super) fn new(group: SocketAddr, socket: SendSocket, packet: Vec<u8>) -> Self {
        Self { group, socket, packet, next: Time::default(), failure_count: 0 }
    }

    /// Where to.
    pub(super) fn group(&self) -> SocketAddr {
        self.group
    }

    /// From where.
    pub(super) fn source(&self) -> SocketAddr {
        self.socket.local_addr()
    }

    /// Sends the packet if it is time; answers with what to tell people.
    pub(super) fn look(&mut self, now: Time) -> Option<String> {
        if now < self.next {
            return None;
        }
        // Counted from now: two are never closer, however late the first was.
        self.next = now.after(ANNOUNCEMENT_INTERVAL);
        let size = self.packet.len();
        let message = Message { start: 0, size, segment_size: size, memory: Memory::Buffer };
        let mut last = None;
        for _ in 0..ATTEMPT_COUNT_MAX {
            match self.socket.send(&self.packet, &[message]) {
                Ok(_) => {
                    self.failure_count = 0;
                    return None;
                }
                Err(error) => last = Some(error),
            }
            let _ = self.socket.take_errors();
        }
        self.failure_count = self.failure_count.saturating_add(1);
        let cause = describe(&last?);
        (self.failure_count == FAILURE_COUNT_NOTICE).then(|| format!("cannot announce to {}: {cause}", self.group))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_signed_is_announced_unless_the_user_says_otherwise() {
        let at = |text: &str| text.parse::<SocketAddr>().unwrap();
        let (group, other) = (at("239.1.2.3:99"), at("239.9.9.9:5"));
        assert_eq!(Announce::Derived.group(group, true).unwrap(), Some(at("239.1.2.2:99")));
        assert_eq!(Announce::Derived.group(group, false).unwrap(), None);
        assert_eq!(Announce::To(other).group(group, false).unwrap(), Some(other));
        assert_eq!(Announce::Off.group(group, true).unwrap(), None);
        let failure = Announce::Derived.group(at("[ff02::3]:99"), true).unwrap_err();
        assert!(failure.exit == Exit::Usage && failure.to_string().contains("--announce"), "{failure}");
    }
}
