//! Sees the multicast packets of all interfaces before the firewall and sockets do, and those that leave (packet(7)). Needs CAP_NET_RAW.

use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use libc::c_uint;
use nix::errno::Errno;
use nix::sys::socket::{AddressFamily, LinkAddr, SockFlag, SockProtocol, SockType};

use super::socket::{self, OptionName};

/// Bytes of each packet that are kept: headers with options, and the beginning of what follows.
const KEPT_SIZE: u32 = 192;
/// How the addresses of groups begin: 224.0.0.0/4 and ff00::/8.
const V4_MULTICAST: u32 = 0xe0;
const V6_MULTICAST: u32 = 0xff;

/// A packet socket that hears multicast of IPv4 and IPv6.
#[derive(Debug)]
pub struct Tap {
    socket: OwnedFd,
    buffer: [u8; KEPT_SIZE as usize],
}

/// A packet that was seen.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Seen<'a> {
    /// Its beginning, from the IP header on.
    pub bytes: &'a [u8],
    /// The interface.
    pub interface_index: u32,
    /// It leaves this host.
    pub is_outgoing: bool,
}

impl Tap {
    /// Sees what comes and goes from now on.
    ///
    /// # Errors
    /// What the kernel says: EPERM without CAP_NET_RAW.
    pub fn open() -> io::Result<Self> {
        let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
        // Datagrams begin at the IP header, whatever the link is.
        let socket = nix::sys::socket::socket(AddressFamily::Packet, SockType::Datagram, flags, SockProtocol::EthAll)?;
        let mut filter = multicast();
        let length = u16::try_from(filter.len()).expect("a short program");
        let program = libc::sock_fprog { len: length, filter: filter.as_mut_ptr() };
        socket::set_option(socket.as_fd(), OptionName(libc::SOL_SOCKET, libc::SO_ATTACH_FILTER), &program)?;
        Ok(Self { socket, buffer: [0; KEPT_SIZE as usize] })
    }

    /// The next packet that waits; `None` if none does.
    ///
    /// # Errors
    /// What the kernel says, as when the interface has gone down.
    pub fn take(&mut self) -> io::Result<Option<Seen<'_>>> {
        match nix::sys::socket::recvfrom::<LinkAddr>(self.socket.as_raw_fd(), &mut self.buffer) {
            Ok((size, from)) => {
                let index = from.map_or(0, |from| from.ifindex());
                Ok(Some(Seen {
                    bytes: self.buffer.get(..size).unwrap_or_default(),
                    interface_index: u32::try_from(index).unwrap_or(0),
                    is_outgoing: from.is_some_and(|from| from.pkttype() == libc::PACKET_OUTGOING),
                }))
            }
            Err(Errno::EAGAIN | Errno::EINTR) => Ok(None),
            Err(errno) => Err(errno.into()),
        }
    }
}

/// Classic BPF: the beginning of packets to a group of either family, and nothing of others.
fn multicast() -> [libc::sock_filter; 10] {
    let step = |code: c_uint, jt, jf, k| libc::sock_filter {
        code: u16::try_from(code).expect("operations have 16 bits"),
        jt,
        jf,
        k,
    };
    let (load, mask) = (libc::BPF_LD | libc::BPF_B | libc::BPF_ABS, libc::BPF_ALU | libc::BPF_AND | libc::BPF_K);
    let (is, end) = (libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, libc::BPF_RET | libc::BPF_K);
    [
        step(load, 0, 0, 0),
        step(mask, 0, 0, 0xf0),
        step(is, 0, 3, 0x40),
        // The destination of IPv4.
        step(load, 0, 0, 16),
        step(mask, 0, 0, 0xf0),
        step(is, 3, 2, V4_MULTICAST),
        // That of IPv6; of anything else this is some byte, and whoever reads looks again.
        step(load, 0, 0, 24),
        step(is, 1, 0, V6_MULTICAST),
        step(end, 0, 0, 0),
        step(end, 0, 0, KEPT_SIZE),
    ]
}

#[cfg(test)]
mod tests {
    use std::net::UdpSocket;
    use std::time::Duration;

    use super::*;
    use crate::sys::clock;

    #[test]
    fn multicast_is_seen_and_nothing_else() {
        // Only root may.
        let Ok(mut tap) = Tap::open() else { return };
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        let index = nix::net::if_::if_nametoindex("lo").unwrap();
        let interface = libc::ip_mreqn {
            imr_multiaddr: libc::in_addr { s_addr: 0 },
            imr_address: libc::in_addr { s_addr: 0 },
            imr_ifindex: index.try_into().unwrap(),
        };
        socket::set_option(socket.as_fd(), OptionName(libc::IPPROTO_IP, libc::IP_MULTICAST_IF), &interface).unwrap();
        socket.send_to(b"unicast, 192 bytes", socket.local_addr().unwrap()).unwrap();
        socket.send_to(b"multicast", "239.77.3.3:20003").unwrap();
        let deadline = clock::now().after(Duration::from_secs(5));
        loop {
            assert!(clock::now() < deadline, "it is seen");
            let Some(seen) = tap.take().unwrap() else { continue };
            assert!(!seen.bytes.ends_with(b"unicast, 192 bytes"));
            if seen.bytes.ends_with(b"multicast") {
                assert_eq!(seen.interface_index, index);
                break;
            }
        }
    }
}
