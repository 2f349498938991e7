//! What a packet socket sees, from the IP header on (RFC 791, RFC 8200, RFC 2236, RFC 3376, RFC 3810). Every length is checked: whoever is
//! on the network chooses all of it.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

const IGMP: u8 = 2;
const UDP: u8 = 17;
const ICMP_V6: u8 = 58;
const HOP_BY_HOP: u8 = 0;
/// The length of a query of IGMPv3 or MLDv2 tells it from older ones.
const IGMP_V3_QUERY_SIZE: usize = 12;
const MLD_V2_QUERY_SIZE: usize = 28;

/// The part of multicast that matters here.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Frame<'a> {
    /// A datagram, or the first of several.
    Datagram {
        /// Who sent it.
        source: IpAddr,
        /// Where to.
        to: SocketAddr,
        /// TTL or hop limit.
        hops: u8,
        /// The beginning of what it holds.
        payload: &'a [u8],
    },
    /// IGMP or MLD.
    Control {
        /// Who sent it.
        source: IpAddr,
        /// What it is.
        control: Control,
    },
}

/// What is said of memberships.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Control {
    /// A question, in this version of the protocol.
    Query(u8),
    /// An answer, or news.
    Report,
}

impl<'a> Frame<'a> {
    /// `None` if it is nothing of this.
    #[must_use]
    pub fn parse(packet: &'a [u8]) -> Option<Self> {
        match packet.first()? >> 4 {
            4 => Self::parse_v4(packet),
            6 => Self::parse_v6(packet),
            _ => None,
        }
    }

    /// Whether it is of IPv4.
    #[must_use]
    pub fn is_ipv4(&self) -> bool {
        match self {
            Self::Datagram { source, .. } | Self::Control { source, .. } => source.is_ipv4(),
        }
    }

    fn parse_v4(packet: &'a [u8]) -> Option<Self> {
        let header: &[u8; 20] = packet.first_chunk()?;
        let header_size = usize::from(header[0] & 0xf) * 4;
        let total_size = usize::from(u16::from_be_bytes([header[2], header[3]]));
        let address = |at: usize| header.get(at..)?.first_chunk().map(|&octets: &[u8; 4]| Ipv4Addr::from(octets));
        let (source, to) = (IpAddr::V4(address(12)?), IpAddr::V4(address(16)?));
        let body = packet.get(header_size.max(header.len())..)?;
        match header[9] {
            // Of a fragment only the first has a header.
            UDP if u16::from_be_bytes([header[6], header[7]]) & 0x1fff == 0 => {
                Self::datagram(source, to, header[8], body)
            }
            IGMP => {
                let size = total_size.saturating_sub(header_size);
                let control = match (*body.first()?, *body.get(1)?) {
                    (0x11, _) if size >= IGMP_V3_QUERY_SIZE => Control::Query(3),
                    (0x11, 0) => Control::Query(1),
                    (0x11, _) => Control::Query(2),
                    (0x12 | 0x16 | 0x22, _) => Control::Report,
                    _ => return None,
                };
                Some(Self::Control { source, control })
            }
            _ => None,
        }
    }

    fn parse_v6(packet: &'a [u8]) -> Option<Self> {
        let header: &[u8; 40] = packet.first_chunk()?;
        let address = |at: usize| header.get(at..)?.first_chunk().map(|&octets: &[u8; 16]| Ipv6Addr::from(octets));
        let (source, to) = (IpAddr::V6(address(8)?), IpAddr::V6(address(24)?));
        let mut size = usize::from(u16::from_be_bytes([header[4], header[5]]));
        let (mut next, mut body) = (header[6], packet.get(header.len()..)?);
        if next == HOP_BY_HOP {
            next = *body.first()?;
            let options_size = usize::from(*body.get(1)?) * 8 + 8;
            body = body.get(options_size..)?;
            size = size.saturating_sub(options_size);
        }
        match next {
            UDP => Self::datagram(source, to, header[7], body),
            ICMP_V6 => {
                let control = match *body.first()? {
                    130 if size >= MLD_V2_QUERY_SIZE => Control::Query(2),
                    130 => Control::Query(1),
                    131 | 143 => Control::Report,
                    _ => return None,
                };
                Some(Self::Control { source, control })
            }
            _ => None,
        }
    }

    fn datagram(source: IpAddr, to: IpAddr, hops: u8, body: &'a [u8]) -> Option<Self> {
        let header: &[u8; 8] = body.first_chunk()?;
        let to = SocketAddr::new(to, u16::from_be_bytes([header[2], header[3]]));
        Some(Self::Datagram { source, to, hops, payload: body.get(header.len()..)? })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn v4(protocol: u8, options: &[u8], body: &[u8]) -> Vec<u8> {
        let header_size = 20 + options.len();
        let mut packet = vec![0x40 | (header_size / 4) as u8, 0];
        packet.extend(((header_size + body.len()) as u16).to_be_bytes());
        packet.extend([0, 0, 0, 0, 3, protocol, 0, 0, 192, 0, 2, 1, 239, 77, 1, 1]);
        [&packet, options, body].concat()
    }

    fn v6(next: u8, body: &[u8]) -> Vec<u8> {
        let mut packet = vec![0x60, 0, 0, 0];
        packet.extend((body.len() as u16).to_be_bytes());
        packet.extend([next, 3]);
        packet.extend("fe80::1".parse::<Ipv6Addr>().unwrap().octets());
        packet.extend("ff12::77".parse::<Ipv6Addr>().unwrap().octets());
        packet.extend(body);
        packet
    }

    fn udp(payload: &[u8]) -> Vec<u8> {
        [&[0x12, 0x34, 0x10, 0x92, 0, 0, 0, 0], payload].concat()
    }

    #[test]
    fn datagrams_of_both_families_are_read_behind_their_options() {
        let body = udp(b"xyz");
        for (packet, source, to) in [
            (v4(UDP, &[], &body), "192.0.2.1", "239.77.1.1:4242"),
            (v4(UDP, &[0x94, 4, 0, 0], &body), "192.0.2.1", "239.77.1.1:4242"),
            (v6(UDP, &body), "fe80::1", "[ff12::77]:4242"),
            (v6(HOP_BY_HOP, &[&[UDP, 0, 5, 2, 0, 0, 0, 0], &body[..]].concat()), "fe80::1", "[ff12::77]:4242"),
        ] {
            let (source, to) = (source.parse().unwrap(), to.parse().unwrap());
            assert_eq!(Frame::parse(&packet), Some(Frame::Datagram { source, to, hops: 3, payload: b"xyz" }));
        }
        let mut fragment = v4(UDP, &[], &body);
        fragment[7] = 9;
        assert_eq!(Frame::parse(&fragment), None);
    }

    #[test]
    fn queries_tell_their_version_and_reports_are_known() {
        let control = |packet: &[u8]| match Frame::parse(packet) {
            Some(Frame::Control { control, .. }) => Some(control),
            _ => None,
        };
        let alert = [0x94, 4, 0, 0];
        let igmp = |body: &[u8]| control(&v4(IGMP, &alert, body));
        assert_eq!(igmp(&[0x11, 0, 0, 0, 0, 0, 0, 0]), Some(Control::Query(1)));
        assert_eq!(igmp(&[0x11, 9, 0, 0, 0, 0, 0, 0]), Some(Control::Query(2)));
        assert_eq!(igmp(&[0x11, 9, 0, 0, 0, 0, 0, 0, 2, 125, 0, 0]), Some(Control::Query(3)));
        assert_eq!(igmp(&[0x22, 0, 0, 0, 0, 0, 0, 1]), Some(Control::Report));
        assert_eq!(igmp(&[0x17, 0, 0, 0, 0, 0, 0, 1]), None);
        let mld = |kind: u8, size: usize| {
            let mut body = vec![ICMP_V6, 0, 5, 2, 0, 0, 1, 0, kind];
            body.resize(8 + size, 0);
            control(&v6(HOP_BY_HOP, &body))
        };
        assert_eq!(mld(130, 24), Some(Control::Query(1)));
        assert_eq!(mld(130, 28), Some(Control::Query(2)));
        assert_eq!((mld(143, 28), mld(131, 24)), (Some(Control::Report), Some(Control::Report)));
        assert_eq!(mld(135, 24), None);
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..120), first in any::<u8>()) {
            let mut packet = bytes;
            let _ = Frame::parse(&packet);
            if let Some(byte) = packet.first_mut() {
                *byte = if first < 128 { 0x40 | first & 0xf } else { 0x60 };
            }
            for size in 0..=packet.len() {
                let _ = Frame::parse(&packet[..size]);
            }
        }
    }
}
