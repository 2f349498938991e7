//! Which way the kernel would send to an address (rtnetlink(7), RTM_GETROUTE), as `ip route get` shows it.

use std::io;
use std::net::IpAddr;

use nix::sys::socket::SockProtocol;

use super::netlink::{self, Extent};

const RTM_GETROUTE: u16 = 26;
const RTA_DST: u16 = 1;
const RTA_OIF: u16 = 4;
const RTA_GATEWAY: u16 = 5;
/// `struct rtmsg`, and where it has the type of the route.
const HEADER_SIZE: usize = 12;
const TYPE_OFFSET: usize = 7;
/// From this type on (RTN_BLACKHOLE) there is no way.
const TYPE_REFUSING_MIN: u8 = 6;

/// A way.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Route {
    /// The interface by which it goes.
    pub interface_index: u32,
    /// The router that it goes to first; `None`: the address is on the link.
    pub gateway: Option<IpAddr>,
}

/// The way to a host.
///
/// # Errors
/// What the kernel says: ENETUNREACH or EHOSTUNREACH if there is none.
pub fn toward(destination: IpAddr) -> io::Result<Route> {
    let octets = match destination {
        IpAddr::V4(address) => address.octets().to_vec(),
        IpAddr::V6(address) => address.octets().to_vec(),
    };
    let family = if destination.is_ipv4() { libc::AF_INET } else { libc::AF_INET6 };
    let mut body = vec![0; HEADER_SIZE];
    body[0] = u8::try_from(family).expect("a small number");
    body[1] = u8::try_from(octets.len() * 8).expect("at most 128");
    body.extend(netlink::attribute(RTA_DST, &octets));
    let answer = netlink::ask(SockProtocol::NetlinkRoute, RTM_GETROUTE, Extent::One, &body)?;
    let unreachable = || io::Error::from_raw_os_error(libc::ENETUNREACH);
    answer.first().and_then(|message| parse(message)).ok_or_else(unreachable)
}

fn parse(message: &[u8]) -> Option<Route> {
    message.get(TYPE_OFFSET).filter(|&&kind| kind < TYPE_REFUSING_MIN)?;
    let (mut interface_index, mut gateway) = (None, None);
    for (kind, value) in netlink::attributes(message.get(HEADER_SIZE..)?) {
        match kind {
            RTA_OIF => interface_index = value.first_chunk().map(|&index| u32::from_ne_bytes(index)),
            RTA_GATEWAY => gateway = address(value),
            _ => {}
        }
    }
    Some(Route { interface_index: interface_index?, gateway })
}

fn address(octets: &[u8]) -> Option<IpAddr> {
    let v4 = <[u8; 4]>::try_from(octets).map(IpAddr::from);
    v4.or_else(|_| <[u8; 16]>::try_from(octets).map(IpAddr::from)).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_host_is_on_its_loopback_interface() {
        let index = nix::net::if_::if_nametoindex("lo").unwrap();
        let expected = Route { interface_index: index, gateway: None };
        assert_eq!(toward([127, 0, 0, 1].into()).unwrap(), expected);
    }

    #[test]
    fn answers_without_an_interface_or_of_a_refusing_type_are_no_route() {
        let message = |kind: u8, attributes: &[Vec<u8>]| {
            let mut bytes = vec![0; HEADER_SIZE];
            bytes[TYPE_OFFSET] = kind;
            [bytes, attributes.concat()].concat()
        };
        let by = netlink::attribute(RTA_OIF, &7_u32.to_ne_bytes());
        let gateway = netlink::attribute(RTA_GATEWAY, &[192, 0, 2, 1]);
        let expected = Route { interface_index: 7, gateway: Some([192, 0, 2, 1].into()) };
        assert_eq!(parse(&message(1, &[by.clone(), gateway.clone()])), Some(expected));
        assert_eq!(parse(&message(7, std::slice::from_ref(&by))), None);
        assert_eq!(parse(&message(1, &[gateway])), None);
        let whole = message(1, &[by]);
        (0..whole.len()).for_each(|size| assert_eq!(parse(&whole[..size]), None));
    }
}
