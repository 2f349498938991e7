//! What both sockets need: creation, options, and addresses in the kernel's form.

use std::io;
use std::mem;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use libc::{c_int, socklen_t};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, SockaddrStorage};

/// A new UDP socket of the address's family, not inherited by children.
pub(super) fn open(family_of: &SocketAddr) -> io::Result<OwnedFd> {
    let family = if family_of.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
    Ok(nix::sys::socket::socket(family, SockType::Datagram, SockFlag::SOCK_CLOEXEC, None)?)
}

pub(super) fn bind(socket: &impl AsFd, address: SocketAddr) -> io::Result<()> {
    Ok(nix::sys::socket::bind(socket.as_fd().as_raw_fd(), &SockaddrStorage::from(address))?)
}

pub(super) fn connect(socket: &impl AsFd, address: SocketAddr) -> io::Result<()> {
    Ok(nix::sys::socket::connect(socket.as_fd().as_raw_fd(), &SockaddrStorage::from(address))?)
}

/// An option of a socket: its level, then its name.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct OptionName(pub(super) c_int, pub(super) c_int);

/// Sets a socket option. `T` is the structure or integer that the option is documented to take; a wrong one is an error of the
/// kernel's (EINVAL, EFAULT), not a danger, because the kernel only reads.
pub(super) fn set_option<T: Copy>(socket: BorrowedFd<'_>, name: OptionName, value: &T) -> io::Result<()> {
    let size = socklen_t::try_from(size_of::<T>()).expect("options are small");
    // SAFETY: the pointer and size are those of a live value, and setsockopt writes nothing to it.
    let result = unsafe { libc::setsockopt(socket.as_raw_fd(), name.0, name.1, (&raw const *value).cast(), size) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// The value of an integer socket option.
pub(super) fn option(socket: BorrowedFd<'_>, name: OptionName) -> io::Result<c_int> {
    let mut value: c_int = 0;
    let mut size = socklen_t::try_from(size_of::<c_int>()).expect("options are small");
    let out = (&raw mut value).cast();
    // SAFETY: the kernel writes at most `size` bytes to `value`, and the size to `size`; both outlive the call.
    let result = unsafe { libc::getsockopt(socket.as_raw_fd(), name.0, name.1, out, &raw mut size) };
    if result == 0 { Ok(value) } else { Err(io::Error::last_os_error()) }
}

/// `address` with the interface as its scope, without which the kernel refuses the link-local addresses and groups of IPv6.
pub(super) fn scoped(address: SocketAddr, interface_index: u32) -> SocketAddr {
    match address {
        SocketAddr::V6(v6) if needs_scope(v6.ip()) => {
            SocketAddr::V6(SocketAddrV6::new(*v6.ip(), v6.port(), v6.flowinfo(), interface_index))
        }
        other => other,
    }
}

/// Unicast fe80::/10, and multicast of interface-local and link-local scope (RFC 4291, section 2.7).
fn needs_scope(address: &Ipv6Addr) -> bool {
    if address.is_multicast() { matches!(address.octets()[1] & 0xf, 1 | 2) } else { address.is_unicast_link_local() }
}

/// The interface's name, or its number if it has gone.
pub(super) fn interface_name(index: u32) -> String {
    // For an unknown index nix answers with an empty name rather than an error.
    match nix::net::if_::if_indextoname(index) {
        Ok(name) if !name.is_empty() => name.to_string_lossy().into_owned(),
        _ => format!("interface {index}"),
    }
}

/// A socket address that the kernel reads or writes. The bytes of every variant are always initialised.
#[derive(Clone, Copy)]
#[repr(C)]
pub(super) union Address {
    storage: libc::sockaddr_storage,
    v4: libc::sockaddr_in,
    v6: libc::sockaddr_in6,
}

/// Bytes of an [`Address`].
pub(super) const ADDRESS_SIZE: socklen_t = size_of::<Address>() as socklen_t;

impl Address {
    /// The address of no family.
    pub(super) fn none() -> Self {
        // SAFETY: the variants are plain data of the kernel's, for which all zeroes is a value.
        unsafe { mem::zeroed() }
    }

    /// The form that structures like `group_req` hold.
    pub(super) fn storage(self) -> libc::sockaddr_storage {
        // SAFETY: `none` initialised every byte, and the variants are plain data.
        unsafe { self.storage }
    }

    /// The address, or `None` if the family is neither IPv4's nor IPv6's.
    pub(super) fn get(&self) -> Option<SocketAddr> {
        match c_int::from(self.storage().ss_family) {
            libc::AF_INET => {
                // SAFETY: every byte is initialised, and the family says that this variant is meant.
                let v4 = unsafe { self.v4 };
                let ip = Ipv4Addr::from(v4.sin_addr.s_addr.to_ne_bytes());
                Some(SocketAddr::V4(SocketAddrV4::new(ip, u16::from_be(v4.sin_port))))
            }
            libc::AF_INET6 => {
                // SAFETY: as above.
                let v6 = unsafe { self.v6 };
                let (ip, port) = (Ipv6Addr::from(v6.sin6_addr.s6_addr), u16::from_be(v6.sin6_port));
                Some(SocketAddr::V6(SocketAddrV6::new(ip, port, u32::from_be(v6.sin6_flowinfo), v6.sin6_scope_id)))
            }
            _ => None,
        }
    }
}

impl From<SocketAddr> for Address {
    fn from(address: SocketAddr) -> Self {
        let mut out = Self::none();
        match address {
            SocketAddr::V4(v4) => {
                out.v4 = libc::sockaddr_in {
                    sin_family: libc::AF_INET as libc::sa_family_t,
                    sin_port: v4.port().to_be(),
                    sin_addr: libc::in_addr { s_addr: u32::from_ne_bytes(v4.ip().octets()) },
                    sin_zero: [0; 8],
                }
            }
            SocketAddr::V6(v6) => {
                out.v6 = libc::sockaddr_in6 {
                    sin6_family: libc::AF_INET6 as libc::sa_family_t,
                    sin6_port: v6.port().to_be(),
                    sin6_flowinfo: v6.flowinfo().to_be(),
                    sin6_addr: libc::in6_addr { s6_addr: v6.ip().octets() },
                    sin6_scope_id: v6.scope_id(),
                }
            }
        }
        out
    }
}

/// The IP-level protocol number whose options fit the address.
pub(super) fn ip_level(address: IpAddr) -> c_int {
    if address.is_ipv4() { libc::IPPROTO_IP } else { libc::IPPROTO_IPV6 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_survive_the_kernels_form() {
        for text in ["239.1.2.3:4242", "[ff12::42%3]:4242", "[2001:db8::1]:65535", "0.0.0.0:0"] {
            let address: SocketAddr = text.parse().unwrap();
            assert_eq!(Address::from(address).get(), Some(address));
        }
        assert_eq!(Address::none().get(), None);
    }

    #[test]
    fn only_link_scope_addresses_get_a_scope() {
        for (text, scope) in [("[ff12::1]:1", 7), ("[ff01::1]:1", 7), ("[fe80::1]:1", 7), ("[ff15::1]:1", 0)] {
            let SocketAddr::V6(address) = scoped(text.parse().unwrap(), 7) else { panic!("{text} is IPv6") };
            assert_eq!(address.scope_id(), scope, "{text}");
        }
    }
}
