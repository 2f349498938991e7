//! Tells that network interfaces or their addresses have changed (rtnetlink(7)). What they are now is asked of `interface`, so that
//! nothing is built on the messages themselves: one that is lost, or not understood, counts as a change.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};

use nix::errno::Errno;
use nix::sys::socket::{AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType};

/// Larger than any message about a link or an address that was seen.
const BUFFER_SIZE: usize = 8192;
/// `struct nlmsghdr`: its size, and where the type is.
const HEADER_SIZE: usize = 16;
/// Where both `struct ifinfomsg` and `struct ifaddrmsg` have the number of the interface.
const INDEX_OFFSET: usize = HEADER_SIZE + 4;

/// A socket that hears of changes.
#[derive(Debug)]
pub struct LinkWatch {
    socket: OwnedFd,
    buffer: Box<[u8; BUFFER_SIZE]>,
}

impl LinkWatch {
    /// Hears of what changes from now on.
    ///
    /// # Errors
    /// What the kernel says, as where the program may not use netlink.
    pub fn open() -> io::Result<Self> {
        let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
        let protocol = SockProtocol::NetlinkRoute;
        let socket = nix::sys::socket::socket(AddressFamily::Netlink, SockType::Raw, flags, protocol)?;
        let groups = libc::RTMGRP_LINK | libc::RTMGRP_IPV4_IFADDR | libc::RTMGRP_IPV6_IFADDR;
        let groups = u32::try_from(groups).expect("bits of an int");
        nix::sys::socket::bind(socket.as_raw_fd(), &NetlinkAddr::new(0, groups))?;
        Ok(Self { socket, buffer: Box::new([0; BUFFER_SIZE]) })
    }

    /// Whether anything has changed since this was last asked: with the interface of this number, or, without one, with any.
    pub fn has_changed(&mut self, interface_index: Option<u32>) -> bool {
        let mut has_changed = false;
        loop {
            match nix::sys::socket::recv(self.socket.as_raw_fd(), &mut *self.buffer, MsgFlags::MSG_TRUNC) {
                Ok(size) => has_changed |= is_about(self.buffer.get(..size), interface_index),
                Err(Errno::EAGAIN) => return has_changed,
                // ENOBUFS: messages were lost.
                Err(Errno::ENOBUFS | Errno::EINTR) => has_changed = true,
                Err(_) => return true,
            }
        }
    }
}

/// Whether one of the messages may be about the interface. `None` in place of messages: there was no room for them.
fn is_about(messages: Option<&[u8]>, interface_index: Option<u32>) -> bool {
    let (Some(mut rest), Some(interface_index)) = (messages, interface_index) else { return true };
    while let Some(size) = rest.first_chunk().map(|&size| u32::from_ne_bytes(size)) {
        let index = rest.get(INDEX_OFFSET..).and_then(|tail| tail.first_chunk());
        if index.is_none_or(|&index| u32::from_ne_bytes(index) == interface_index) {
            return true;
        }
        let next = usize::try_from(size).unwrap_or(usize::MAX).max(HEADER_SIZE);
        rest = rest.get(next.checked_next_multiple_of(4).unwrap_or(usize::MAX)..).unwrap_or_default();
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A message about the interface of this number, as long as it says.
    fn message(index: u32, size: u32) -> Vec<u8> {
        let mut bytes = size.to_ne_bytes().to_vec();
        bytes.resize(INDEX_OFFSET, 0);
        bytes.extend(index.to_ne_bytes());
        bytes.resize(usize::try_from(size).unwrap(), 0);
        bytes
    }

    #[test]
    fn only_messages_about_the_interface_count() {
        let two = [message(3, 34), vec![0; 2], message(7, 32)].concat();
        for (index, counts) in [(3, true), (7, true), (5, false)] {
            assert_eq!(is_about(Some(&two), Some(index)), counts, "{index}");
        }
        assert!(is_about(Some(&two), None));
        assert!(!is_about(Some(&[]), Some(3)));
    }

    #[test]
    fn what_is_lost_or_cut_short_counts() {
        assert!(is_about(None, Some(3)));
        assert!(is_about(Some(&message(7, 32)[..20]), Some(3)));
        let mut endless = message(7, 32);
        endless[..4].copy_from_slice(&0_u32.to_ne_bytes());
        is_about(Some(&endless), Some(3));
        endless[..4].copy_from_slice(&u32::MAX.to_ne_bytes());
        is_about(Some(&endless), Some(3));
    }

    #[test]
    fn quiet_host_has_no_changes() {
        let mut watch = LinkWatch::open().unwrap();
        // Others may change interfaces while this runs, but none of this number.
        assert!(!watch.has_changed(Some(987_654)));
    }
}
