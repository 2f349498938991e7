//! The kernel's tables in /proc/net, as proc(5) and the kernel's sources lay them out.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// Which interface a table is asked about.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Device<'a> {
    /// Its name.
    pub name: &'a str,
    /// The kernel's number of it.
    pub index: u32,
}

/// What `/proc/net/dev` counts of an interface.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Arrivals {
    /// Frames that were dropped.
    pub drops: u64,
    /// Frames for which there was no room.
    pub overruns: u64,
    /// Frames that were too long or broken.
    pub frame_errors: u64,
}

/// Whether the group is listed for the interface in `/proc/net/igmp` or `/proc/net/igmp6`, whichever is of its family.
#[must_use]
pub fn is_group_listed(text: &str, device: Device<'_>, group: IpAddr) -> bool {
    match group {
        IpAddr::V4(group) => igmp_lines(text, device).skip(1).any(|line| {
            let number = line.split_whitespace().next().and_then(|word| u32::from_str_radix(word, 16).ok());
            number.is_some_and(|number| Ipv4Addr::from(number.to_ne_bytes()) == group)
        }),
        IpAddr::V6(group) => text.lines().any(|line| {
            let mut words = line.split_whitespace();
            let is_device = words.next().and_then(|word| word.parse().ok()) == Some(device.index);
            is_device && words.nth(1).and_then(hex_v6) == Some(group)
        }),
    }
}

/// Whether `/proc/net/mcfilter` or `/proc/net/mcfilter6` lists the source among those of the group that are heard on the interface.
#[must_use]
pub fn is_source_listed(text: &str, device: Device<'_>, group: IpAddr, source: IpAddr) -> bool {
    let address = |word: &str| match group {
        IpAddr::V4(_) => {
            let number = u32::from_str_radix(word.strip_prefix("0x")?, 16).ok()?;
            Some(IpAddr::V4(Ipv4Addr::from(number)))
        }
        IpAddr::V6(_) => hex_v6(word).map(IpAddr::V6),
    };
    text.lines().any(|line| {
        let words: Vec<_> = line.split_whitespace().collect();
        let [index, _, listed, from, included, ..] = words[..] else { return false };
        index.parse() == Ok(device.index)
            && address(listed) == Some(group)
            && address(from) == Some(source)
            && included.parse::<u64>().is_ok_and(|count| count > 0)
    })
}

/// The version of IGMP that the interface speaks, in `/proc/net/igmp`.
#[must_use]
pub fn igmp_version(text: &str, device: Device<'_>) -> Option<u8> {
    igmp_lines(text, device).next()?.split_whitespace().last()?.strip_prefix('V')?.parse().ok()
}

/// The line of the interface, and the lines of its groups.
fn igmp_lines<'a>(text: &'a str, device: Device<'_>) -> impl Iterator<Item = &'a str> {
    let is_heading = |line: &str| !line.starts_with(char::is_whitespace);
    let is_device = move |line: &str| {
        is_heading(line) && line.split_whitespace().next().and_then(|word| word.parse().ok()) == Some(device.index)
    };
    let mut lines = text.lines().skip_while(move |line| !is_device(line));
    let first = lines.next();
    first.into_iter().chain(lines.take_while(move |line| !is_heading(line)))
}

/// The counter `name` in a table of two lines, names above numbers, as in `/proc/net/snmp` and `/proc/net/netstat`.
#[must_use]
pub fn parse_snmp(text: &str, table: &str, name: &str) -> Option<u64> {
    let mut lines = text.lines().filter_map(|line| line.strip_prefix(table)?.strip_prefix(':'));
    let place = lines.next()?.split_whitespace().position(|word| word == name)?;
    lines.next()?.split_whitespace().nth(place)?.parse().ok()
}

/// The counter `name` in a table with one of each line, as in `/proc/net/dev_snmp6`.
#[must_use]
pub fn parse_named(text: &str, name: &str) -> Option<u64> {
    let mut words =
        text.lines().map(str::split_whitespace).find_map(|mut words| (words.next() == Some(name)).then_some(words))?;
    words.next()?.parse().ok()
}

/// What `/proc/net/dev` says of the interface.
#[must_use]
pub fn parse_device(text: &str, device: Device<'_>) -> Option<Arrivals> {
    let is_it = |line: &str| {
        let (name, rest) = line.split_once(':')?;
        (name.trim() == device.name).then(|| rest.split_whitespace().map(|word| word.parse().unwrap_or(0)).collect())
    };
    let numbers: Vec<u64> = text.lines().find_map(is_it)?;
    // Bytes, packets, errs, drop, fifo, frame.
    let [_, _, _, drops, overruns, frame_errors, ..] = numbers[..] else { return None };
    Some(Arrivals { drops, overruns, frame_errors })
}

/// Packets for which the processors' queues had no room, in `/proc/net/softnet_stat`.
#[must_use]
pub fn backlog_drops(text: &str) -> u64 {
    let of = |line: &str| line.split_whitespace().nth(1).and_then(|word| u64::from_str_radix(word, 16).ok());
    text.lines().filter_map(of).sum()
}

/// Datagrams that sockets bound to the group and port have dropped, in `/proc/net/udp` or `/proc/net/udp6`.
#[must_use]
pub fn queue_drops(text: &str, group: SocketAddr) -> u64 {
    let drops = |line: &str| {
        let mut words = line.split_whitespace();
        let (address, port) = words.nth(1)?.split_once(':')?;
        let is_group = match group.ip() {
            IpAddr::V4(ip) => Ipv4Addr::from(u32::from_str_radix(address, 16).ok()?.to_ne_bytes()) == ip,
            IpAddr::V6(ip) => native_v6(address)? == ip,
        };
        let is_it = is_group && u16::from_str_radix(port, 16) == Ok(group.port());
        words.last().filter(|_| is_it)?.parse::<u64>().ok()
    };
    text.lines().filter_map(drops).sum()
}

fn hex_v6(word: &str) -> Option<Ipv6Addr> {
    (word.len() == 32).then(|| u128::from_str_radix(word, 16).ok().map(Ipv6Addr::from)).flatten()
}

/// Four words, each in this host's byte order.
fn native_v6(text: &str) -> Option<Ipv6Addr> {
    let mut octets = [0; 16];
    for (place, out) in octets.chunks_exact_mut(4).enumerate() {
        let word = u32::from_str_radix(text.get(place * 8..place * 8 + 8)?, 16).ok()?;
        out.copy_from_slice(&word.to_ne_bytes());
    }
    Some(octets.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    const ETH0: Device<'_> = Device { name: "eth0", index: 2 };

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    /// A 32-bit word as the kernel prints one that it does not turn round.
    fn native(octets: [u8; 4]) -> String {
        format!("{:08X}", u32::from_ne_bytes(octets))
    }

    #[test]
    fn groups_of_the_interface_alone_are_found() {
        let line = |octets| format!("\t\t\t\t{}     1 0:00000000\t\t0\n", native(octets));
        let igmp = format!(
            "Idx\tDevice    : Count Querier\tGroup    Users Timer\tReporter\n1\tlo        :     1      V3\n{}2\teth0      :     2      \
             V2\n{}{}",
            line([239, 9, 9, 9]),
            line([239, 77, 1, 1]),
            line([224, 0, 0, 1])
        );
        for (group, is_listed) in [("239.77.1.1", true), ("224.0.0.1", true), ("239.9.9.9", false)] {
            assert_eq!(is_group_listed(&igmp, ETH0, ip(group)), is_listed, "{group}");
        }
        assert_eq!(igmp_version(&igmp, ETH0), Some(2));
        assert_eq!(igmp_version(&igmp, Device { name: "eth1", index: 3 }), None);
        let igmp6 = "1    lo              ff120000000000000000000000000099     1 0000000C 0\n\
                     2    eth0            ff120000000000000000000000000077     1 00000004 0\n";
        for (group, is_listed) in [("ff12::77", true), ("ff12::99", false)] {
            assert_eq!(is_group_listed(igmp6, ETH0, ip(group)), is_listed, "{group}");
        }
    }

    #[test]
    fn sources_are_found_where_they_are_included() {
        let v4 = "Idx Device        MCA        SRC    INC    EXC\n  2   eth0 0xe84d0101 0x0a4d0001      1      0\n  \
                  2   eth0 0xe84d0101 0x0a4d0002      0      1\n";
        for (source, is_listed) in [("10.77.0.1", true), ("10.77.0.2", false), ("10.77.0.3", false)] {
            assert_eq!(is_source_listed(v4, ETH0, ip("232.77.1.1"), ip(source)), is_listed, "{source}");
        }
        let v6 = "  2   eth0 ff3e0000000000000000000080000077 fd770000000000000000000000000001      1      0\n";
        assert!(is_source_listed(v6, ETH0, ip("ff3e::8000:77"), ip("fd77::1")));
        assert!(!is_source_listed(v6, ETH0, ip("ff3e::8000:77"), ip("fd77::2")));
    }

    #[test]
    fn counters_are_found_by_name() {
        let snmp = "Ip: Forwarding InReceives\nIp: 2 17\nUdp: InDatagrams InCsumErrors\nUdp: 5 6\n";
        assert_eq!(parse_snmp(snmp, "Udp", "InCsumErrors"), Some(6));
        assert_eq!(parse_snmp(snmp, "Ip", "InReceives"), Some(17));
        assert_eq!((parse_snmp(snmp, "Tcp", "X"), parse_snmp(snmp, "Ip", "X")), (None, None));
        assert_eq!(parse_named("ifIndex 2\nIcmp6InGroupMembQueries   \t3\n", "Icmp6InGroupMembQueries"), Some(3));
        assert_eq!(parse_named("ifIndex 2\n", "Icmp6InGroupMembQueries"), None);
        let dev = "Inter-| Receive\n face |bytes packets\n    lo: 0 0 0 0 0 0 0 0\n  eth0: 900 10 7 6 5 4 0 3 1 1 0 0 0 0 0 0\n";
        let expected = Arrivals { drops: 6, overruns: 5, frame_errors: 4 };
        assert_eq!(parse_device(dev, ETH0), Some(expected));
        assert_eq!(parse_device(dev, Device { name: "eth1", index: 3 }), None);
        assert_eq!(backlog_drops("00000001 0000000a 0\n00000001 00000001 0\n"), 11);
    }

    #[test]
    fn drops_of_sockets_of_the_group_are_added_up() {
        let (group, other) = (native([239, 77, 1, 1]), native([0, 0, 0, 0]));
        let line = |address: &str, port: &str, drops: u32| {
            format!(
                "  9: {address}:{port} 00000000:0000 07 00000000:00000000 00:00000000 00000000 0 0 77 2 0000000000000000 {drops}\n"
            )
        };
        let udp = ["  sl  local_address rem_address   st drops\n", &line(&group, "1092", 5), &line(&group, "1092", 2)]
            .concat()
            + &line(&group, "1093", 100)
            + &line(&other, "1092", 100);
        assert_eq!(queue_drops(&udp, "239.77.1.1:4242".parse().unwrap()), 7);
        let v6: String = ip_words("ff12::77");
        assert_eq!(queue_drops(&line(&v6, "1092", 3), "[ff12::77]:4242".parse().unwrap()), 3);
    }

    fn ip_words(text: &str) -> String {
        let address: Ipv6Addr = text.parse().unwrap();
        address.octets().chunks_exact(4).map(|word| native(word.try_into().unwrap())).collect()
    }
}
