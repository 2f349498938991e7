//! A table of hosts, healthy and not, and what is found.

mod receiving;
mod sending;

use std::net::IpAddr;
use std::time::Duration;

use super::*;

fn eth0() -> Link {
    Link {
        name: "eth0".into(),
        up: true,
        running: true,
        multicast: true,
        loopback: false,
        wireless: false,
        mtu: 1500,
        speed_bps: Some(1_000_000_000),
        addresses: vec![ip("192.0.2.2")],
        v6_disabled: false,
    }
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn chain(hook: Hook) -> Chain {
    Chain { family: "inet", table: "filter".into(), name: "some".into(), hook }
}

/// A receiver with all privileges to which packets come from 192.0.2.1.
fn healthy() -> Facts {
    let packing = Packing { ip_size: 1480, rate_bps: Some(20_000_000) };
    Facts {
        heard: Some(Heard {
            time: Duration::from_secs(5),
            datagrams: 1000,
            ip_bytes: 1_480_000,
            data: 990,
            control: 10,
            senders: vec!["192.0.2.1:5555".parse().unwrap()],
            hops_min: Some(1),
            longest: 1480,
            packing: Some(packing),
            ..Heard::default()
        }),
        wire: Some(Wire {
            frames: 900,
            senders: vec![ip("192.0.2.1")],
            hops_min: Some(1),
            strays: Vec::new(),
            querier: Some((ip("0.0.0.0"), 3)),
            reports: 2,
        }),
        joined: Some(Joined { refused: None, is_listed: Some(true), version: Some(3), forced_version: 0 }),
        returns: Returns { filter: Rpf::Strict, routes: vec![route("eth0", None)] },
        chains: Some(Vec::new()),
        buffer: Some(Buffer { wanted: 64 << 20, granted: 64 << 20, limit: Some(4 << 20), rate_bps: 20_000_000 }),
        now: 1_000_000,
        ..Facts::new("239.1.1.1:4242".parse().unwrap(), Choice::Link(eth0()))
    }
}

fn route(interface: &str, gateway: Option<&str>) -> SourceRoute {
    let interface = (!interface.is_empty()).then(|| interface.to_owned());
    SourceRoute { source: ip("192.0.2.1"), interface, gateway: gateway.map(ip) }
}

/// The same where nothing comes to the socket.
fn silent() -> Facts {
    let heard = Some(Heard { time: Duration::from_secs(5), ..Heard::default() });
    Facts { heard, ..healthy() }
}

/// And nothing to the interface.
fn empty() -> Facts {
    let wire = healthy().wire.map(|wire| Wire { frames: 0, senders: Vec::new(), hops_min: None, ..wire });
    Facts { wire, returns: Returns::default(), ..silent() }
}

fn unprivileged(facts: Facts) -> Facts {
    Facts { wire: None, chains: None, ..facts }
}

fn sending() -> Facts {
    Facts {
        route: Some(Ok(ip("192.0.2.2"))),
        is_sender: true,
        sending: Some(Sending {
            refused: Some(None),
            rate_bps: Some(100_000_000),
            hops: 1,
            mtu: None,
            gso: Some(true),
            uring: Some(None),
            uring_disabled: Some(0),
        }),
        chains: Some(vec![chain(Hook::Output), chain(Hook::Input)]),
        ..Facts::new("239.1.1.1:4242".parse().unwrap(), Choice::Link(eth0()))
    }
}

fn with_link(facts: Facts, change: impl FnOnce(&mut Link)) -> Facts {
    let mut link = eth0();
    change(&mut link);
    Facts { choice: Choice::Link(link), ..facts }
}

fn with_heard(mut facts: Facts, change: impl FnOnce(&mut Heard)) -> Facts {
    change(facts.heard.as_mut().expect("somebody listened"));
    facts
}

fn with_wire(mut facts: Facts, change: impl FnOnce(&mut Wire)) -> Facts {
    change(facts.wire.as_mut().expect("a packet socket"));
    facts
}

fn with_sending(mut facts: Facts, change: impl FnOnce(&mut Sending)) -> Facts {
    change(facts.sending.as_mut().expect("it is about sending"));
    facts
}

fn v6(facts: Facts) -> Facts {
    Facts { group: "[ff12::77]:4242".parse().unwrap(), ..facts }
}

fn manifest(created: Option<u64>, expires: Option<u64>) -> Vec<ManifestDates> {
    vec![ManifestDates { name: "firmware.img".into(), created, expires }]
}

/// A host, the check that finds what is wrong with it, its judgement, and the remedy.
type Row = (&'static str, Facts, Check, Status, &'static str);

/// Every row finds its fault and, if that is a failure which can silence a receiver, the summary has the same remedy.
fn judge(rows: Vec<Row>) {
    for (name, facts, check, status, remedy) in rows {
        let findings = diagnose(&facts);
        let found = findings.iter().find(|finding| finding.check == check && finding.status != Status::Ok);
        let finding = found.unwrap_or_else(|| panic!("{name}: no {} in {findings:#?}", check.name()));
        let said = finding.remedy.as_ref().map(ToString::to_string).unwrap_or_default();
        assert_eq!((finding.status, said.as_str()), (status, remedy), "{name}: {}", finding.text);
        assert!(!finding.text.contains('\n'), "{name}: {}", finding.text);
        let faults = findings.iter().filter(|finding| finding.status >= Status::Warn);
        assert!(faults.clone().all(|fault| fault.remedy.is_some()), "{name}: {findings:#?}");
        if facts.is_silent() && status == Status::Fail {
            let last = findings.last().expect("a summary");
            assert_eq!((last.check, last.status), (Check::Packets, Status::Fail), "{name}");
            assert_eq!(last.remedy, finding.remedy, "{name}: {}", last.text);
        }
        let others: Vec<_> = faults.filter(|fault| fault.check != check && fault.check != Check::Packets).collect();
        assert!(others.is_empty(), "{name}: nothing else is wrong: {others:#?}");
    }
}

#[test]
fn healthy_host_has_no_faults() {
    for facts in [healthy(), sending(), v6(Facts { route: Some(Ok(ip("fe80::2"))), ..healthy() })] {
        let findings = diagnose(&facts);
        assert!(findings.iter().all(|finding| finding.status == Status::Ok), "{findings:#?}");
        assert!(findings.iter().all(|finding| finding.remedy.is_none()), "{findings:#?}");
        assert_eq!(likely_causes(&facts), []);
    }
    let checks: Vec<_> = diagnose(&healthy()).iter().map(|finding| finding.check.name()).collect();
    let expected = [
        "interface",
        "link",
        "address",
        "membership",
        "report",
        "querier",
        "source",
        "firewall",
        "hops",
        "mtu",
        "buffer",
        "drops",
        "packets",
    ];
    assert_eq!(checks, expected);
}

/// The summary and its remedy.
fn summary(facts: &Facts) -> (Status, String, String) {
    let last = diagnose(facts).pop().expect("a summary");
    assert_eq!(last.check, Check::Packets);
    (last.status, last.text, last.remedy.map(|remedy| remedy.to_string()).unwrap_or_default())
}

#[test]
fn silence_that_nothing_explains_is_the_servers_affair() {
    let (status, text, remedy) = summary(&empty());
    assert_eq!((status, remedy.as_str()), (Status::Fail, "on the server: iotup doctor --send -i IF 239.1.1.1:4242"));
    assert!(text.contains("not even on the wire") && text.contains("does iotupd run"), "{text}");
    // That nobody asks who has joined is so on most networks.
    let without_querier = with_wire(empty(), |wire| wire.querier = None);
    assert_eq!(summary(&without_querier).2, remedy);
    let stray = |group: &str| vec![Stray { group: group.parse().unwrap(), interface: "eth0".into() }];
    let both = || [stray("239.9.9.9:4242"), stray("239.1.1.1:5000")].concat();
    let (_, text, remedy) = summary(&with_wire(empty(), |wire| wire.strays = both()));
    assert_eq!(remedy, "iotupc -i eth0 FILE 239.1.1.1:5000", "{text}");
    let (_, text, _) = summary(&with_wire(empty(), |wire| wire.strays = stray("[ff12::77]:4242")));
    assert!(text.contains("does iotupd run"), "other family: {text}");
    let foreign = with_heard(healthy(), |heard| (heard.data, heard.control) = (0, 0));
    let (status, text, remedy) = summary(&foreign);
    assert_eq!((status, remedy.as_str()), (Status::Fail, "on the server: iotupd -i IF FILE 239.1.1.1:4243"), "{text}");
}

#[test]
fn what_takes_a_privilege_says_so_and_how_to_get_it() {
    let findings = diagnose(&unprivileged(empty()));
    let skipped: Vec<_> = findings.iter().filter(|finding| finding.status == Status::Skip).collect();
    assert_eq!(
        skipped.iter().map(|finding| finding.check).collect::<Vec<_>>(),
        [Check::Report, Check::Querier, Check::Firewall]
    );
    for finding in skipped {
        assert!(finding.text.contains("CAP_NET_RAW"), "{}", finding.text);
        let remedy = finding.remedy.as_ref().unwrap().to_string();
        assert_eq!(remedy, "sudo iotup doctor -i eth0 239.1.1.1:4242");
    }
}

#[test]
fn failures_come_first_among_the_causes_and_the_summary_is_none() {
    let facts = Facts {
        returns: Returns { filter: Rpf::Strict, routes: vec![route("eth1", None)] },
        ..with_wire(silent(), |wire| wire.querier = None)
    };
    let causes: Vec<_> = likely_causes(&facts).iter().map(|finding| (finding.check, finding.status)).collect();
    assert_eq!(causes, [(Check::Source, Status::Fail), (Check::Querier, Status::Warn)]);
}
