//! GROUP: a multicast address with an optional port and, for IPv6, an optional interface.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use crate::types::{is_source_specific, unusable_group};

/// The port where none is given.
const PORT_DEFAULT: u16 = 4242;

/// A multicast group and port.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct GroupArg {
    /// The address and port.
    pub addr: SocketAddr,
    /// The port was written, and is not the default.
    pub has_port: bool,
    /// The interface named in the address (RFC 4007, section 11), as in `ff12::42%eth0`.
    pub zone: Option<String>,
}

impl GroupArg {
    /// Whether the group is reserved for source-specific multicast (RFC 4607, section 1).
    #[must_use]
    pub fn is_source_specific(&self) -> bool {
        is_source_specific(self.addr.ip())
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
    let unusable = unusable_group(address).or((port == Some(0)).then_some("has port 0"));
    match unusable {
        Some(cause) => Err(format!("{address} {cause}")),
        None => {
            let addr = SocketAddr::new(address, port.unwrap_or(PORT_DEFAULT));
            Ok(GroupArg { addr, has_port: port.is_some(), zone })
        }
    }
}

/// The parts of `a.b.c.d`, `a.b.c.d:port`, `v6`, `v6%zone`, `[v6]:port` or `[v6%zone]:port`.
fn split(text: &str) -> Result<(IpAddr, Option<String>, Option<u16>), String> {
    if let Ok(address) = text.parse::<Ipv4Addr>() {
        return Ok((address.into(), None, None));
    }
    let (host, port) = match text.strip_prefix('[') {
        Some(rest) => {
            let (host, after) = rest.split_once(']').ok_or("a ']' is missing")?;
            let port = match after {
                "" => None,
                _ => Some(parse_port(after.strip_prefix(':').ok_or("after ']' only ':' and a port may follow")?)?),
            };
            (host, port)
        }
        None if text.matches(':').count() == 1 => {
            let (host, port) = text.split_once(':').unwrap_or((text, ""));
            let address = host.parse::<Ipv4Addr>().map_err(|_| format!("{host} is not an IPv4 address"))?;
            return Ok((address.into(), None, Some(parse_port(port)?)));
        }
        None => (text, None),
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
    fn port_that_is_written_is_told_from_the_default() {
        for (text, has_port) in
            [("239.1.2.3", false), ("239.1.2.3:4242", true), ("[ff12::42]", false), ("[ff12::42]:9", true)]
        {
            assert_eq!(parse(text).unwrap().has_port, has_port, "{text}");
        }
    }
}
