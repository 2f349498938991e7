//! Memberships of multicast groups (RFC 3678, section 5.1): of whatever is sent to a group, or of what one source sends to it. The
//! kernel tells the network of them, and leaves when the socket is closed, however the program ends.

use std::io;
use std::mem;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::BorrowedFd;

use super::socket::{self, Address, OptionName};
use crate::failure::{Exit, Failure};

/// The kernel's `struct group_source_req`: the C library that is used here has none.
#[derive(Clone, Copy)]
#[repr(C)]
struct GroupSourceRequest {
    interface_index: u32,
    group: libc::sockaddr_storage,
    source: libc::sockaddr_storage,
}

// The addresses are aligned as the kernel aligns them.
const _: () = assert!(mem::offset_of!(GroupSourceRequest, group) == mem::align_of::<libc::sockaddr_storage>());

/// Joins `group` for whatever is sent to it.
pub(super) fn join(socket: BorrowedFd<'_>, interface_index: u32, group: SocketAddr) -> io::Result<()> {
    // SAFETY: the structure is plain data, for which all zeroes is a value; the padding is then initialised too.
    let mut request: libc::group_req = unsafe { mem::zeroed() };
    request.gr_interface = interface_index;
    request.gr_group = Address::from(group).storage();
    socket::set_option(socket, OptionName(socket::ip_level(group.ip()), libc::MCAST_JOIN_GROUP), &request)
}

/// Joins `group` for what `source` sends to it.
pub(super) fn join_source(
    socket: BorrowedFd<'_>,
    interface_index: u32,
    group: SocketAddr,
    source: IpAddr,
) -> io::Result<()> {
    set_source(socket, libc::MCAST_JOIN_SOURCE_GROUP, interface_index, group, source)
}

/// Takes back [`join_source`].
pub(super) fn leave_source(
    socket: BorrowedFd<'_>,
    interface_index: u32,
    group: SocketAddr,
    source: IpAddr,
) -> io::Result<()> {
    set_source(socket, libc::MCAST_LEAVE_SOURCE_GROUP, interface_index, group, source)
}

fn set_source(
    socket: BorrowedFd<'_>,
    name: libc::c_int,
    interface_index: u32,
    group: SocketAddr,
    source: IpAddr,
) -> io::Result<()> {
    // SAFETY: the structure is plain data, for which all zeroes is a value; the padding is then initialised too.
    let mut request: GroupSourceRequest = unsafe { mem::zeroed() };
    request.interface_index = interface_index;
    request.group = Address::from(group).storage();
    request.source = Address::from(SocketAddr::new(source, 0)).storage();
    socket::set_option(socket, OptionName(socket::ip_level(group.ip()), name), &request)
}

/// What a refused membership means. `source`: it was of this source alone.
pub(super) fn failure(group: IpAddr, source: Option<IpAddr>, interface: &str, error: &io::Error) -> Failure {
    let what = match source {
        None => format!("join {group} on {interface}"),
        Some(source) => format!("join {group} from {source} on {interface}"),
    };
    match error.raw_os_error() {
        Some(libc::ENODEV) => Failure::io(Exit::Usage, what, error).remedy("see --interface"),
        Some(libc::ENOBUFS) if source.is_some() => {
            let limit = if group.is_ipv4() { "net.ipv4.igmp_max_msf" } else { "net.ipv6.mld_max_msf" };
            Failure::new(Exit::Unavailable, what, "too many sources of one group").remedy(format!("sysctl {limit}"))
        }
        Some(libc::ENOBUFS) if group.is_ipv4() => {
            Failure::new(Exit::Unavailable, what, "too many memberships").remedy("sysctl net.ipv4.igmp_max_memberships")
        }
        _ => Failure::io(Exit::Unavailable, what, error),
    }
}

#[cfg(test)]
mod tests {
    use std::net::UdpSocket;
    use std::os::fd::AsFd;

    use super::*;

    fn loopback() -> u32 {
        nix::net::if_::if_nametoindex("lo").unwrap()
    }

    #[test]
    fn source_is_joined_once_and_left_once() {
        let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
        let (group, source) = ("232.77.1.1:4242".parse().unwrap(), "192.0.2.1".parse().unwrap());
        let (fd, index) = (socket.as_fd(), loopback());
        join_source(fd, index, group, source).unwrap();
        assert_eq!(join_source(fd, index, group, source).unwrap_err().raw_os_error(), Some(libc::EADDRNOTAVAIL));
        leave_source(fd, index, group, source).unwrap();
        assert!(leave_source(fd, index, group, source).is_err());
        join_source(fd, index, group, source).unwrap();
    }

    #[test]
    fn refusals_name_group_source_interface_and_remedy() {
        let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
        let (group, source): (SocketAddr, IpAddr) = ("232.77.1.1:4242".parse().unwrap(), "192.0.2.1".parse().unwrap());
        let error = join_source(socket.as_fd(), 987_654, group, source).unwrap_err();
        let refused = failure(group.ip(), Some(source), "eth9", &error);
        assert_eq!(refused.exit, Exit::Usage);
        assert_eq!(refused.to_string(), "join 232.77.1.1 from 192.0.2.1 on eth9: no such device (see --interface)");
        let full = io::Error::from_raw_os_error(libc::ENOBUFS);
        for (group, source, limit) in [
            ("232.1.1.1", Some("192.0.2.1"), "igmp_max_msf"),
            ("ff3e::8000:1", Some("2001:db8::1"), "mld_max_msf"),
            ("239.1.1.1", None, "igmp_max_memberships"),
        ] {
            let source = source.map(|source| source.parse().unwrap());
            let said = failure(group.parse().unwrap(), source, "eth0", &full).to_string();
            assert!(said.contains(limit), "{said}");
        }
    }

    #[test]
    fn more_sources_than_the_kernel_takes_are_refused() {
        let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
        let group = "232.77.1.2:4242".parse().unwrap();
        let sources = (1..=u8::MAX).map(|last| IpAddr::from([192, 0, 2, last]));
        let refused =
            sources.map(|source| join_source(socket.as_fd(), loopback(), group, source)).find_map(Result::err);
        assert_eq!(refused.unwrap().raw_os_error(), Some(libc::ENOBUFS));
    }
}
