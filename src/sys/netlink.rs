//! Questions to the kernel by netlink(7): one request, and the messages that answer it. Those are the kernel's own, but no length in them is
//! taken on trust.

use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use nix::sys::socket::{AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType};

use super::socket::{self, OptionName};

/// Larger than any message of a dump (netlink(7): the kernel fills no more than 32 KiB).
const BUFFER_SIZE: usize = 32 << 10;
/// `struct nlmsghdr`.
const HEADER_SIZE: usize = 16;
/// Messages of one answer at most.
const MESSAGE_COUNT_MAX: usize = 4096;
const ANSWER_SECONDS: libc::time_t = 1;

/// Whether one message is asked for, or all.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Extent {
    One,
    All,
}

/// The bodies of the messages that answer.
pub(super) fn ask(protocol: SockProtocol, kind: u16, extent: Extent, body: &[u8]) -> io::Result<Vec<Vec<u8>>> {
    let socket = nix::sys::socket::socket(AddressFamily::Netlink, SockType::Raw, SockFlag::SOCK_CLOEXEC, protocol)?;
    let wait = libc::timeval { tv_sec: ANSWER_SECONDS, tv_usec: 0 };
    socket::set_option(socket.as_fd(), OptionName(libc::SOL_SOCKET, libc::SO_RCVTIMEO), &wait)?;
    let kernel = NetlinkAddr::new(0, 0);
    nix::sys::socket::sendto(socket.as_raw_fd(), &request(kind, extent, body), &kernel, MsgFlags::empty())?;
    let mut out = Vec::new();
    let mut buffer = vec![0; BUFFER_SIZE];
    while read(&socket, &mut buffer, extent, &mut out)? {}
    Ok(out)
}

fn request(kind: u16, extent: Extent, body: &[u8]) -> Vec<u8> {
    let size = u32::try_from(HEADER_SIZE + body.len()).expect("a request is small");
    let dump = if extent == Extent::All { libc::NLM_F_DUMP } else { 0 };
    let flags = u16::try_from(libc::NLM_F_REQUEST | dump).expect("flags of 16 bits");
    let mut bytes = size.to_ne_bytes().to_vec();
    bytes.extend(kind.to_ne_bytes());
    bytes.extend(flags.to_ne_bytes());
    bytes.extend([0; 8]);
    bytes.extend(body);
    bytes
}

/// Takes what one call yields; `false`: that was all.
fn read(socket: &OwnedFd, buffer: &mut [u8], extent: Extent, out: &mut Vec<Vec<u8>>) -> io::Result<bool> {
    let size = nix::sys::socket::recv(socket.as_raw_fd(), buffer, MsgFlags::empty())?;
    let mut rest = buffer.get(..size).unwrap_or_default();
    while let Some((kind, body, next)) = split(rest) {
        match i32::from(kind) {
            libc::NLMSG_DONE => return Ok(false),
            libc::NLMSG_ERROR => {
                let number = body.first_chunk().map_or(0, |&number| i32::from_ne_bytes(number));
                return if number == 0 { Ok(false) } else { Err(io::Error::from_raw_os_error(-number)) };
            }
            _ if out.len() == MESSAGE_COUNT_MAX => return Ok(false),
            _ => out.push(body.to_vec()),
        }
        rest = next;
    }
    Ok(extent == Extent::All)
}

/// The kind and body of the first message, and what is behind it.
fn split(bytes: &[u8]) -> Option<(u16, &[u8], &[u8])> {
    let size = usize::try_from(u32::from_ne_bytes(*bytes.first_chunk()?)).ok()?;
    let kind = u16::from_ne_bytes(*bytes.get(4..)?.first_chunk()?);
    let body = bytes.get(HEADER_SIZE..size)?;
    Some((kind, body, bytes.get(size.checked_next_multiple_of(4)?..).unwrap_or_default()))
}

/// The attributes in `bytes`: their types without flags, and what they hold.
pub(super) fn attributes(mut bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let size = usize::from(u16::from_ne_bytes(*bytes.first_chunk()?));
        let kind = u16::from_ne_bytes(*bytes.get(2..)?.first_chunk()?) & 0x3fff;
        let value = bytes.get(4..size)?;
        bytes = bytes.get(size.next_multiple_of(4)..).unwrap_or_default();
        Some((kind, value))
    })
}

/// An attribute to ask with.
pub(super) fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
    let size = u16::try_from(4 + value.len()).expect("an attribute is small");
    let mut bytes = size.to_ne_bytes().to_vec();
    bytes.extend(kind.to_ne_bytes());
    bytes.extend(value);
    bytes.resize(bytes.len().next_multiple_of(4), 0);
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attributes_are_read_as_they_are_written_and_nonsense_ends_them() {
        let bytes = [attribute(1, b"abc"), attribute(7 | 1 << 15, &[]), attribute(9, &[0; 4])].concat();
        let read: Vec<_> = attributes(&bytes).collect();
        assert_eq!(read, [(1, &b"abc"[..]), (7, &[]), (9, &[0; 4])]);
        for size in 0..bytes.len() {
            attributes(&bytes[..size]).for_each(drop);
        }
        for wrong in [0_u16, 3, 200, u16::MAX] {
            let mut bytes = bytes.clone();
            bytes[..2].copy_from_slice(&wrong.to_ne_bytes());
            assert_eq!(attributes(&bytes).count(), 0, "{wrong}");
        }
    }

    #[test]
    fn messages_that_lie_about_their_length_are_not_read() {
        let message = request(5, Extent::One, b"body");
        assert_eq!(split(&message), Some((5, &b"body"[..], &[][..])));
        for wrong in [0_u32, 15, 21, u32::MAX] {
            let mut message = message.clone();
            message[..4].copy_from_slice(&wrong.to_ne_bytes());
            assert_eq!(split(&message), None, "{wrong}");
        }
    }
}
