//! Hosts that receive, each with one fault.

use super::*;

/// What looks closer, where counters of the whole host are all there is.
const LOOK: &str = "sudo iotup doctor -i eth0 239.1.1.1:4242";

#[test]
fn faults_of_the_interface_are_found() {
    let none = |candidates: &[&str], only_down: Option<&str>| Choice::None {
        cause: "no".into(),
        candidates: candidates.iter().map(|&name| name.to_owned()).collect(),
        only_down: only_down.map(str::to_owned),
    };
    let nowhere = |choice| Facts { choice, ..empty() };
    let eth1 = vec![Other { name: "eth1".into(), datagrams: 9, is_delivered: false }];
    let receive = "iotupc -i eth1 FILE 239.1.1.1:4242";
    judge(vec![
        ("elsewhere", Facts { others: eth1.clone(), ..empty() }, Check::Interface, Status::Fail, receive),
        ("several", nowhere(none(&["eth1", "eth0"], None)), Check::Interface, Status::Fail, receive),
        ("down", nowhere(none(&[], Some("eth0"))), Check::Interface, Status::Fail, "ip link set eth0 up"),
        ("none", nowhere(none(&[], None)), Check::Interface, Status::Fail, "ip link"),
        (
            "several, one heard",
            Facts { others: eth1, ..nowhere(none(&["eth0", "eth1"], None)) },
            Check::Interface,
            Status::Fail,
            receive,
        ),
        (
            "down, named",
            with_link(empty(), |link| (link.up, link.running) = (false, false)),
            Check::Link,
            Status::Fail,
            "ip link set eth0 up",
        ),
        (
            "no carrier",
            with_link(empty(), |link| link.running = false),
            Check::Link,
            Status::Fail,
            "on the switch: ip link set PORT up",
        ),
        (
            "no multicast",
            with_link(healthy(), |link| link.multicast = false),
            Check::Link,
            Status::Warn,
            "ip link set eth0 multicast on",
        ),
        (
            "no address",
            with_link(healthy(), |link| link.addresses.clear()),
            Check::Address,
            Status::Warn,
            "ip address add ADDRESS/PREFIX dev eth0",
        ),
        (
            "no IPv6",
            with_link(v6(empty()), |link| (link.name, link.v6_disabled) = ("eth0.7".into(), true)),
            Check::Address,
            Status::Fail,
            "sysctl -w net/ipv6/conf/eth0.7/disable_ipv6=0",
        ),
        (
            "no route of IPv6",
            v6(Facts { route: Some(Err("network is unreachable".into())), ..silent() }),
            Check::Route,
            Status::Fail,
            "ip -6 route add multicast ff00::/8 dev eth0 table local",
        ),
    ]);
    let loopback = with_link(v6(Facts { route: Some(Err("no".into())), ..empty() }), |link| link.loopback = true);
    let said = diagnose(&loopback).iter().find_map(|finding| finding.remedy.clone()).unwrap();
    assert_eq!(said.command, "ip -6 route add local ff12::/16 dev lo table local");
}

#[test]
fn interface_whose_socket_gets_the_group_is_told_from_a_firewall() {
    judge(vec![(
        "on the bridge of the port",
        Facts {
            others: vec![Other { name: "br0".into(), datagrams: 9, is_delivered: true }],
            returns: Returns::default(),
            ..silent()
        },
        Check::Interface,
        Status::Fail,
        "iotupc -i br0 FILE 239.1.1.1:4242",
    )]);
}

#[test]
fn faults_of_memberships_are_found() {
    let joined = |joined| Facts { joined: Some(joined), ..empty() };
    let good = Joined { refused: None, is_listed: Some(true), version: Some(3), forced_version: 0 };
    let refused =
        JoinRefused { cause: "too many memberships".into(), limit: Some("net.ipv4.igmp_max_memberships".into()) };
    let old = Joined { version: Some(2), ..good.clone() };
    let from_one = |facts| Facts { sources: vec![ip("192.0.2.1")], ..facts };
    judge(vec![
        (
            "too many",
            // What comes all the same is not for this host: no firewall is to blame.
            Facts {
                returns: Returns::default(),
                wire: silent().wire,
                ..joined(Joined { refused: Some(refused), ..good.clone() })
            },
            Check::Membership,
            Status::Fail,
            "sysctl -w net.ipv4.igmp_max_memberships=1000",
        ),
        (
            "not listed",
            joined(Joined { is_listed: Some(false), ..good.clone() }),
            Check::Membership,
            Status::Fail,
            "ip maddress show dev eth0",
        ),
        (
            "old by order",
            from_one(joined(Joined { forced_version: 2, ..old.clone() })),
            Check::Membership,
            Status::Fail,
            "sysctl -w net.ipv4.conf.all.force_igmp_version=0 net.ipv4.conf.eth0.force_igmp_version=0",
        ),
        (
            "old querier",
            from_one(joined(old)),
            Check::Membership,
            Status::Warn,
            "on the switch: ip link set BRIDGE type bridge mcast_igmp_version 3",
        ),
        (
            "no report",
            with_wire(Facts { chains: Some(vec![chain(Hook::Output), chain(Hook::Input)]), ..empty() }, |wire| {
                wire.reports = 0
            }),
            Check::Report,
            Status::Fail,
            "nft insert rule inet filter some ip protocol igmp accept",
        ),
        (
            "no report, older firewall",
            with_wire(v6(empty()), |wire| wire.reports = 0),
            Check::Report,
            Status::Fail,
            "ip6tables -I OUTPUT -p ipv6-icmp -j ACCEPT",
        ),
    ]);
}

#[test]
fn switch_that_nobody_asks_is_found() {
    let remedy = "on the switch: ip link set BRIDGE type bridge mcast_querier 1";
    let bridge = |snoops, queries| Some(Bridge { name: "br0".into(), snoops, queries });
    judge(vec![
        ("no querier", with_wire(healthy(), |wire| wire.querier = None), Check::Querier, Status::Warn, remedy),
        (
            "own bridge",
            Facts { bridge: bridge(true, false), ..unprivileged(healthy()) },
            Check::Querier,
            Status::Warn,
            "ip link set br0 type bridge mcast_querier 1",
        ),
    ]);
    let querier = |facts: Facts| {
        let findings = diagnose(&facts);
        findings.iter().find(|finding| finding.check == Check::Querier).map(|finding| finding.status)
    };
    let heard = Counters { queries_ever: Some(1), ..Counters::default() };
    assert_eq!(querier(unprivileged(healthy())), Some(Status::Skip));
    assert_eq!(querier(Facts { counters: heard, ..unprivileged(v6(healthy())) }), Some(Status::Ok));
    assert_eq!(querier(Facts { bridge: bridge(true, true), ..unprivileged(healthy()) }), Some(Status::Ok));
    assert_eq!(querier(with_link(healthy(), |link| link.loopback = true)), None);
}

#[test]
fn what_is_on_the_wire_and_not_at_the_socket_is_explained() {
    let open = || Facts { returns: Returns::default(), ..silent() };
    let undelivered = Counters { multicast: Some(500), ..Counters::default() };
    let accept = "nft insert rule inet filter some ip daddr 239.1.1.1 udp dport 4242 accept";
    judge(vec![
        (
            "firewall",
            Facts { chains: Some(vec![chain(Hook::Input), chain(Hook::Output)]), ..open() },
            Check::Firewall,
            Status::Fail,
            accept,
        ),
        (
            "older firewall",
            open(),
            Check::Firewall,
            Status::Fail,
            "iptables -I INPUT -d 239.1.1.1 -p udp --dport 4242 -j ACCEPT",
        ),
        (
            "firewall, unseen",
            Facts { counters: undelivered, ..unprivileged(open()) },
            Check::Firewall,
            Status::Warn,
            LOOK,
        ),
        (
            "checksums",
            Facts { counters: Counters { bad_checksums: Some(900), ..Counters::default() }, ..open() },
            Check::Firewall,
            Status::Fail,
            "on the server: ethtool -K IF tx off",
        ),
        (
            "checksums of others",
            Facts { counters: Counters { bad_checksums: Some(99), ..Counters::default() }, ..open() },
            Check::Firewall,
            Status::Fail,
            "iptables -I INPUT -d 239.1.1.1 -p udp --dport 4242 -j ACCEPT",
        ),
        (
            "checksums, unseen",
            Facts { counters: Counters { bad_checksums: Some(99), ..Counters::default() }, ..unprivileged(open()) },
            Check::Firewall,
            Status::Warn,
            LOOK,
        ),
    ]);
}

#[test]
fn senders_that_the_kernel_or_the_user_refuses_are_named() {
    let filter = |filter, route| Facts { returns: Returns { filter, routes: vec![route] }, ..silent() };
    let open = || Facts { returns: Returns::default(), ..silent() };
    let dropped = Counters { rp_filter: Some(70), ..Counters::default() };
    judge(vec![
        (
            "strict",
            filter(Rpf::Strict, route("eth1", Some("198.51.100.1"))),
            Check::Source,
            Status::Fail,
            "sysctl -w net.ipv4.conf.eth0.rp_filter=2",
        ),
        (
            "no way back",
            filter(Rpf::Loose, route("", None)),
            Check::Source,
            Status::Fail,
            "ip route add 192.0.2.1/32 dev eth0",
        ),
        (
            "filtered, unseen",
            Facts {
                counters: dropped,
                returns: Returns { filter: Rpf::Strict, routes: Vec::new() },
                ..unprivileged(silent())
            },
            Check::Source,
            Status::Warn,
            LOOK,
        ),
        (
            "filtered",
            Facts { counters: Counters { rp_filter: Some(900), ..dropped }, ..silent() },
            Check::Source,
            Status::Fail,
            "sysctl -w net.ipv4.conf.all.rp_filter=0 net.ipv4.conf.eth0.rp_filter=0",
        ),
        (
            "others filtered",
            Facts { counters: dropped, ..silent() },
            Check::Firewall,
            Status::Fail,
            "iptables -I INPUT -d 239.1.1.1 -p udp --dport 4242 -j ACCEPT",
        ),
        (
            "stranger",
            Facts { sources: vec![ip("192.0.2.9")], ..open() },
            Check::Source,
            Status::Fail,
            "iotupc -i eth0 FILE 239.1.1.1:4242 --source 192.0.2.1",
        ),
        (
            "stranger, unseen",
            Facts { sources: vec![ip("192.0.2.9")], strangers: vec![ip("192.0.2.1")], ..unprivileged(open()) },
            Check::Source,
            Status::Fail,
            "iotupc -i eth0 FILE 239.1.1.1:4242 --source 192.0.2.1",
        ),
    ]);
    let elsewhere = Facts { counters: dropped, ..unprivileged(open()) };
    assert_eq!(likely_causes(&elsewhere), [], "this interface does not filter");
    // A filter that finds what it wants is no fault, and neither is one that is off.
    for (filter, route) in
        [(Rpf::Strict, route("eth0", None)), (Rpf::Loose, route("eth1", None)), (Rpf::Off, route("", None))]
    {
        let facts = Facts { returns: Returns { filter, routes: vec![route] }, ..healthy() };
        assert_eq!(likely_causes(&facts), []);
    }
}

#[test]
fn packets_that_are_too_long_or_too_weak_are_found() {
    let routed = |group: &str| {
        let returns = Returns { filter: Rpf::Off, routes: vec![route("eth0", Some("192.0.2.254"))] };
        Facts { returns, group: group.parse().unwrap(), ..empty() }
    };
    let shorter = "on the server: iotupd --mtu 1500 FILE 239.1.1.1:4242";
    let jumbo = Some(Packing { ip_size: 8968, rate_bps: None });
    let drops = |link_drops, link_frame_errors| Facts {
        counters: Counters { link_drops, link_frame_errors, ..Counters::default() },
        ..empty()
    };
    judge(vec![
        (
            "hops",
            routed("239.1.1.1:4242"),
            Check::Hops,
            Status::Warn,
            "on the server: iotupd --hops 8 --rate RATE FILE 239.1.1.1:4242",
        ),
        (
            "scope",
            routed("[ff12::77]:4242"),
            Check::Hops,
            Status::Fail,
            "on the server: iotupd --hops 8 --rate RATE FILE [ff15::77]:4242",
        ),
        (
            "only short ones",
            with_heard(healthy(), |heard| (heard.data, heard.packing) = (0, jumbo)),
            Check::Mtu,
            Status::Fail,
            "ip link set eth0 mtu 9000",
        ),
        ("drops", drops(Some(100), None), Check::Mtu, Status::Warn, shorter),
        ("frame errors", drops(None, Some(1)), Check::Mtu, Status::Warn, shorter),
    ]);
    assert_eq!(likely_causes(&drops(Some(3), Some(0))), []);
    let fits = with_heard(healthy(), |heard| heard.packing = jumbo);
    assert_eq!(likely_causes(&fits), [], "some interfaces take more than they say");
}

#[test]
fn host_that_does_not_keep_up_is_found() {
    let buffer = |granted, limit, rate_bps| Facts {
        buffer: Some(Buffer { wanted: 64 << 20, granted, limit, rate_bps }),
        ..healthy()
    };
    let (mib, gigabit) = (1_u64 << 20, 1_000_000_000);
    let counted = |change: fn(&mut Counters)| {
        let mut counters = Counters::default();
        change(&mut counters);
        Facts { counters, ..healthy() }
    };
    let raise = "sysctl -w net.core.rmem_max=67108864";
    judge(vec![
        ("small", buffer(4 * mib, Some(4 * mib), 10 * gigabit), Check::Buffer, Status::Warn, raise),
        ("tiny", buffer(mib / 4, Some(mib / 4), 10 * gigabit), Check::Buffer, Status::Fail, raise),
        ("by privilege", buffer(64 * mib, Some(4 * mib), 10 * gigabit), Check::Buffer, Status::Warn, raise),
        ("drops", with_heard(healthy(), |heard| heard.dropped_buffers = 1), Check::Drops, Status::Warn, raise),
        (
            "drops of another",
            with_heard(healthy(), |heard| heard.dropped_elsewhere = 1),
            Check::Drops,
            Status::Warn,
            raise,
        ),
        (
            "drops all the same",
            with_heard(buffer(64 * mib, Some(64 * mib), 1), |heard| heard.dropped_buffers = 1),
            Check::Drops,
            Status::Warn,
            "on the server: iotupd --rate RATE FILE 239.1.1.1:4242",
        ),
        (
            "overruns",
            counted(|counters| counters.link_overruns = Some(1)),
            Check::Drops,
            Status::Warn,
            "ethtool -G eth0 rx 4096",
        ),
        (
            "backlog",
            counted(|counters| counters.backlog_drops = Some(1)),
            Check::Drops,
            Status::Warn,
            "sysctl -w net.core.netdev_max_backlog=10000",
        ),
    ]);
    assert_eq!(likely_causes(&buffer(64 * mib, Some(64 * mib), 100 * gigabit)), [], "it cannot be larger");
    assert_eq!(likely_causes(&buffer(mib / 4, None, gigabit / 10)), []);
}

#[test]
fn clock_is_compared_with_what_expires() {
    let dated = |created, expires| Facts { manifests: manifest(created, expires), ..healthy() };
    let sign = "on the server: iotup manifest --expires +90d FILE > FILE.manifest && minisign -Sm FILE.manifest";
    judge(vec![
        ("expired", dated(Some(1), Some(1_000_000)), Check::Clock, Status::Fail, sign),
        ("not set", dated(Some(1_000_001), Some(2_000_000)), Check::Clock, Status::Warn, "timedatectl set-ntp true"),
    ]);
    for (created, expires) in [(Some(1), Some(1_000_001)), (None, None), (Some(2_000_000), None)] {
        assert_eq!(likely_causes(&dated(created, expires)), [], "{created:?} {expires:?}");
    }
}
