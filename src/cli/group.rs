//! GROUP: a multicast address with an optional port and, for IPv6, an optional interface.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// The port where none is given.
const PORT_DEFAULT: u16 = 4242;

/// A multicast group and port.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct GroupArg {
    /// The address and port.
    pub addr: SocketAddr,
    /// The interface named in the address (RFC 4007, section 11), as in `ff12::42%eth0`.
    pub zone: Option<String>,
}

impl GroupArg {
    /// Whether the group is reserved for source-specific multicast (RFC 4607, section 1).
    #[must_use]
    pub fn is_source_specific(&self) -> bool {
        match self.addr.ip() {
            IpAddr::V4(group) => group.octets()[0] == 232,
            // ff3x::/32: flags P and T set, and no network prefix.
            IpAddr::V6(group) => group.segments()[0] & 0xfff0 == 0xff30 && group.segments()[1] == 0,
        }
    }
}

impl fmt::Display for GroupArg {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&self.zone, self.addr) {
            (Some(zone), SocketAddr::V6(addr)) => write!(f, "[{}%{zone}]:{}", addr.ip(), addr.port()),
            _ => write!(f, "{}", self.addr),
        }
    }
}

/// Reads a group.
pub(super) fn parse(text: &str) -> Result<GroupArg, String> {
    let (address, zone, port) = split(text)?;
    let unusable = match address {
        _ if !address.is_multicast() => Some("is not a multicast group (224.0.0.0/4 or ff00::/8)"),
        IpAddr::V4(group) if is_link_control(group) => Some("is reserved for the link's own protocols (224.0.0.0/24)"),
        IpAddr::V6(group) if is_well_known(group) => Some("is the group of all nodes or routers"),
        _ if port == 0 => Some("has port 0"),
        _ => None,
    };
    match unusable {
        Some(cause) => Err(format!("{address} {cause}")),
        None => Ok(GroupArg { addr: SocketAddr::new(address, port), zone }),
    }
}

/// The parts of `a.b.c.d`, `a.b.c.d:port`, `v6`, `v6%zone`, `[v6]:port` or `[v6%zone]:port`.
fn split(text: &str) -> Result<(IpAddr, Option<String>, u16), String> {
    if let Ok(address) = text.parse::<Ipv4Addr>() {
        return Ok((address.into(), None, PORT_DEFAULT));
    }
    let (host, port) = match text.strip_prefix('[') {
        Some(rest) => {
            let (host, after) = rest.split_once(']').ok_or("a ']' is missing")?;
            let port = match after {
                "" => PORT_DEFAULT,
                _ => parse_port(after.strip_prefix(':').ok_or("after ']' only ':' and a port may follow")?)?,
            };
            (host, port)
        }
        None if text.matches(':').count() == 1 => {
            let (host, port) = text.split_once(':').unwrap_or((text, ""));
            let address = host.parse::<Ipv4Addr>().map_err(|_| format!("{host} is not an IPv4 address"))?;
            return Ok((address.into(), None, parse_port(port)?));
        }
        None => (text, PORT_DEFAULT),
    };
    let (address, zone) = match host.split_once('%') {
        Some((_, "")) => return Err("an interface is missing after '%'".into()),
        Some((address, zone)) => (address, Some(zone.to_owned())),
        None => (host, None),
    };
    let address = address.parse::<Ipv6Addr>().map_err(|_| format!("{address} is not an address"))?;
    Ok((address.into(), zone, port))
}

fn parse_port(text: &str) -> Result<u16, String> {
    text.parse().map_err(|_| format!("{text} is not a port (1 to 65535)"))
}

fn is_link_control(group: Ipv4Addr) -> bool {
    matches!(group.octets(), [224, 0, 0, _])
}

fn is_well_known(group: Ipv6Addr) -> bool {
    matches!(group.segments(), [first, 0, 0, 0, 0, 0, 0, 1 | 2] if first & 0xfff0 == 0xff00)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_documented_forms_are_read() {
        let form = |text: &str| parse(text).unwrap().to_string();
        assert_eq!(form("239.1.2.3"), "239.1.2.3:4242");
        assert_eq!(form("239.1.2.3:99"), "239.1.2.3:99");
        assert_eq!(form("ff12::42"), "[ff12::42]:4242");
        assert_eq!(form("[ff12::42]"), "[ff12::42]:4242");
        assert_eq!(form("[ff12::42]:99"), "[ff12::42]:99");
        assert_eq!(form("[ff12::42%eth0]:99"), "[ff12::42%eth0]:99");
        assert_eq!(form("ff12::42%eth0"), "[ff12::42%eth0]:4242");
    }

    #[test]
    fn what_is_no_group_is_refused_with_the_cause() {
        for (text, cause) in [
            ("10.0.0.1", "not a multicast group"),
            ("[::1]:99", "not a multicast group"),
            ("224.0.0.5", "reserved"),
            ("ff02::1", "all nodes"),
            ("239.1.2.3:0", "port 0"),
            ("239.1.2.3:70000", "not a port"),
            ("239.1.2.3:", "not a port"),
            ("[ff12::42", "missing"),
            ("[ff12::42]99", "only ':'"),
            ("ff12::42%", "missing"),
            ("example.org", "not an address"),
            ("example.org:99", "not an IPv4 address"),
            ("", "not an address"),
        ] {
            let said = parse(text).unwrap_err();
            assert!(said.contains(cause), "{text}: {said}");
        }
    }

    #[test]
    fn source_specific_ranges_are_known() {
        let is = |text: &str| parse(text).unwrap().is_source_specific();
        assert!(is("232.1.1.1") && is("ff3e::8000:42") && is("ff32::1:42"));
        assert!(!is("239.1.1.1") && !is("ff12::42") && !is("ff3e:40:2001:db8::42"));
    }
}
