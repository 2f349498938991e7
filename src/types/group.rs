//! Which addresses are multicast groups that can be used, and by whom (RFC 5771, RFC 4291, RFC 4607).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Why `address` cannot be a group to send to or to receive from; `None` if it can.
#[must_use]
pub fn unusable_group(address: IpAddr) -> Option<&'static str> {
    match address {
        _ if !address.is_multicast() => Some("is not a multicast group (224.0.0.0/4 or ff00::/8)"),
        IpAddr::V4(group) if is_link_control(group) => Some("is reserved for the link's own protocols (224.0.0.0/24)"),
        IpAddr::V6(group) if is_well_known(group) => Some("is the group of all nodes or routers"),
        _ => None,
    }
}

/// Why `address` cannot be the source of anything; `None` if it can.
#[must_use]
pub fn unusable_source(address: IpAddr) -> Option<&'static str> {
    match address {
        _ if address.is_unspecified() => Some("is the address of no host"),
        _ if address.is_multicast() => Some("is a multicast group, not a host"),
        IpAddr::V4(source) if source.is_broadcast() => Some("is the address of all hosts"),
        IpAddr::V6(source) if source.to_ipv4_mapped().is_some() => Some("is an IPv4 address: write it as one"),
        _ => None,
    }
}

/// Whether the group is reserved for source-specific multicast (RFC 4607, section 1), so that it means something only together with
/// a source.
#[must_use]
pub fn is_source_specific(group: IpAddr) -> bool {
    match group {
        IpAddr::V4(group) => group.octets()[0] == 232,
        // ff3x::/32: flags P and T set, and no network prefix.
        IpAddr::V6(group) => group.segments()[0] & 0xfff0 == 0xff30 && group.segments()[1] == 0,
    }
}

/// The group on which the manifests alone of a session on `group` are announced (docs/PROTOCOL.md, section 8.1): its last byte is one
/// less, and 255 where it is 0, so that it stays within whatever range of addresses `group` belongs to.
///
/// # Errors
/// Why that group cannot be used.
pub fn announcement_group(group: IpAddr) -> Result<IpAddr, &'static str> {
    let derived = match group {
        IpAddr::V4(group) => {
            let [a, b, c, last] = group.octets();
            IpAddr::from([a, b, c, last.wrapping_sub(1)])
        }
        IpAddr::V6(group) => {
            let mut octets = group.octets();
            octets[15] = octets[15].wrapping_sub(1);
            IpAddr::from(octets)
        }
    };
    unusable_group(derived).map_or(Ok(derived), Err)
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

    fn address(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn source_specific_ranges_are_known() {
        let is = |text: &str| is_source_specific(address(text));
        assert!(is("232.1.1.1") && is("ff3e::8000:42") && is("ff32::1:42"));
        assert!(!is("239.1.1.1") && !is("ff12::42") && !is("ff3e:40:2001:db8::42"));
    }

    #[test]
    fn announcements_stay_within_the_range_of_their_group() {
        for (group, announced) in [
            ("239.1.2.3", "239.1.2.2"),
            ("239.1.2.0", "239.1.2.255"),
            ("232.0.0.0", "232.0.0.255"),
            ("239.255.255.255", "239.255.255.254"),
            ("224.0.1.0", "224.0.1.255"),
            ("ff12::42", "ff12::41"),
            ("ff12::100", "ff12::1ff"),
            ("ff3e::8000:0", "ff3e::8000:ff"),
            ("ff02::3:0", "ff02::3:ff"),
        ] {
            assert_eq!(announcement_group(address(group)), Ok(address(announced)), "{group}");
        }
        // All nodes and all routers listen to these.
        assert!(announcement_group(address("ff05::3")).is_err() && announcement_group(address("ff02::3")).is_err());
    }

    #[test]
    fn sources_are_hosts() {
        for text in ["0.0.0.0", "::", "239.1.1.1", "ff02::1", "255.255.255.255", "::ffff:10.0.0.1"] {
            assert!(unusable_source(address(text)).is_some(), "{text}");
        }
        for text in ["10.0.0.1", "127.0.0.1", "2001:db8::1", "fe80::1"] {
            assert_eq!(unusable_source(address(text)), None, "{text}");
        }
    }
}
