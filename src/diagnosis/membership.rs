//! The membership, from the socket to whoever must know of it.

use super::facts::{Facts, Joined};
use super::remedy::{conf, here, let_reports_through, on_switch};
use super::{Check, Finding};

pub(super) fn findings(facts: &Facts) -> Vec<Finding> {
    let Some(link) = facts.link().filter(|link| link.up) else { return Vec::new() };
    let mut findings: Vec<_> = facts.joined.iter().map(|joined| membership(facts, joined)).collect();
    // What stays on this host is told to nobody.
    if !link.loopback && link.running {
        findings.extend(report(facts));
        findings.extend(querier(facts));
    }
    findings
}

fn protocol(facts: &Facts) -> &'static str {
    if facts.group.is_ipv4() { "IGMP" } else { "MLD" }
}

/// The version in which sources can be told (RFC 3376, RFC 3810).
fn version_with_sources(facts: &Facts) -> u8 {
    if facts.group.is_ipv4() { 3 } else { 2 }
}

fn membership(facts: &Facts, joined: &Joined) -> Finding {
    let (name, group, protocol) = (facts.interface(), facts.group.ip(), protocol(facts));
    if let Some(refused) = &joined.refused {
        let remedy = match &refused.limit {
            Some(limit) => here(format!("sysctl -w {limit}=1000")),
            None => here(format!("ip link show {name}")),
        };
        return Finding::fail(Check::Membership, refused.cause.clone(), remedy);
    }
    let needed = version_with_sources(facts);
    let is_old = joined.version.is_some_and(|version| version < needed);
    if !facts.sources.is_empty() && is_old {
        let version = joined.version.unwrap_or_default();
        let text = format!("{name} speaks {protocol}v{version}, in which no source can be named");
        let (family, what) = if facts.group.is_ipv4() { ("ipv4", "igmp") } else { ("ipv6", "mld") };
        if joined.forced_version > 0 {
            let option = format!("force_{what}_version");
            let remedy = format!("sysctl -w net.{family}.conf.all.{option}=0 {}=0", conf(family, name, &option));
            return Finding::fail(Check::Membership, format!("{text}: it was told to"), here(remedy));
        }
        let remedy = on_switch(format!("ip link set BRIDGE type bridge mcast_{what}_version {needed}"));
        return Finding::warn(Check::Membership, format!("{text}, because a querier does"), remedy);
    }
    if joined.is_listed == Some(false) {
        let text = format!("the kernel does not list {group} on {name}");
        return Finding::fail(Check::Membership, text, here(format!("ip maddress show dev {name}")));
    }
    let version = joined.version.map(|version| format!(", {protocol}v{version}")).unwrap_or_default();
    let from =
        if facts.sources.is_empty() { String::new() } else { format!(" from {}", super::place::list(&facts.sources)) };
    Finding::ok(Check::Membership, format!("the kernel lists {group}{from} on {name}{version}"))
}

fn report(facts: &Facts) -> Option<Finding> {
    let (name, protocol) = (facts.interface(), protocol(facts));
    let Some(wire) = &facts.wire else {
        facts.heard.as_ref()?;
        return Some(Finding::needs_raw_socket(
            facts,
            Check::Report,
            &format!("to see {protocol} reports leave {name}"),
        ));
    };
    Some(match wire.reports {
        0 => {
            let text = format!("no {protocol} report leaves {name}: a firewall of this host drops them");
            Finding::fail(Check::Report, text, let_reports_through(facts))
        }
        _ => Finding::ok(Check::Report, format!("{protocol} reports leave {name}")),
    })
}

fn querier(facts: &Facts) -> Option<Finding> {
    let (name, protocol) = (facts.interface(), protocol(facts));
    if let Some((address, version)) = facts.wire.as_ref().and_then(|wire| wire.querier) {
        let who = if address.is_unspecified() { String::new() } else { format!(" {address}") };
        return Some(Finding::ok(Check::Querier, format!("a querier{who} asks on {name} ({protocol}v{version})")));
    }
    if let Some(bridge) = &facts.bridge {
        let bridge_name = &bridge.name;
        match (bridge.snoops, bridge.queries) {
            (false, _) => {}
            (true, true) => return Some(Finding::ok(Check::Querier, format!("the bridge {bridge_name} asks"))),
            (true, false) => {
                let text = format!("the bridge {bridge_name} snoops, and nobody asks who has joined");
                let remedy = here(format!("ip link set {bridge_name} type bridge mcast_querier 1"));
                return Some(Finding::warn(Check::Querier, text, remedy));
            }
        }
    }
    if facts.wire.is_some() {
        let text = format!(
            "no {protocol} querier answers on {name}: a switch that snoops stops delivering some minutes after joining, or never begins"
        );
        return Some(Finding::warn(Check::Querier, text, on_switch("ip link set BRIDGE type bridge mcast_querier 1")));
    }
    match facts.counters.queries_ever {
        Some(1..) => Some(Finding::ok(Check::Querier, format!("{protocol} queries have come on {name}"))),
        _ => {
            facts.heard.as_ref()?;
            Some(Finding::needs_raw_socket(facts, Check::Querier, "to hear a querier"))
        }
    }
}
