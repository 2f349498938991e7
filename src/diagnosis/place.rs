//! The interface: whether it is the right one, and fit.

use std::net::IpAddr;

use super::facts::{Choice, Facts, Link};
use super::remedy::{conf, here, host_route, on_switch, use_interface};
use super::{Check, Finding};

pub(super) fn findings(facts: &Facts) -> Vec<Finding> {
    match &facts.choice {
        Choice::None { cause, candidates, only_down } => {
            vec![no_interface(facts, cause, candidates, only_down.as_deref())]
        }
        Choice::Link(link) => {
            let mut findings = vec![interface(facts, link), state(link)];
            findings.extend(address(facts, link));
            findings.extend(route(facts, link));
            findings
        }
    }
}

/// The other interface on which most of the group came.
fn better(facts: &Facts) -> Option<&str> {
    let heard = facts.others.iter().filter(|other| other.datagrams > 0);
    heard.max_by_key(|other| other.datagrams).map(|other| other.name.as_str())
}

/// The interface that the group comes on instead of the one that is looked at. Frames that come by that one as well, as by a port of a
/// bridge or beneath a VLAN, are of no use where a socket on the other gets what they hold.
pub(super) fn elsewhere(facts: &Facts) -> Option<&str> {
    let is_seen_here = facts.wire.as_ref().is_some_and(|wire| wire.frames > 0);
    let others = facts.others.iter().filter(|_| facts.is_silent());
    let fit = others.filter(|other| other.datagrams > 0 && (other.is_delivered || !is_seen_here));
    fit.max_by_key(|other| other.datagrams).map(|other| other.name.as_str())
}

fn no_interface(facts: &Facts, cause: &str, candidates: &[String], only_down: Option<&str>) -> Finding {
    let (text, remedy) = match (better(facts), candidates.first(), only_down) {
        (Some(name), _, _) => (format!("{cause}; the group's packets come on {name}"), use_interface(facts, name)),
        (None, Some(name), _) => (cause.to_owned(), use_interface(facts, name)),
        (None, None, Some(name)) => (format!("{cause}; {name} is down"), here(format!("ip link set {name} up"))),
        (None, None, None) => (cause.to_owned(), here("ip link")),
    };
    Finding::fail(Check::Interface, text, remedy)
}

fn interface(facts: &Facts, link: &Link) -> Finding {
    if let Some(other) = elsewhere(facts) {
        let text = match &facts.wire {
            Some(wire) if wire.frames > 0 => {
                format!("the group's packets reach sockets on {other}, and none on {}, by which they pass", link.name)
            }
            _ => format!("the group's packets come on {other}, not on {}", link.name),
        };
        return Finding::fail(Check::Interface, text, use_interface(facts, other));
    }
    let kind = match (link.loopback, link.wireless) {
        (true, _) => ", which no packet leaves",
        (_, true) => ", a radio",
        _ => "",
    };
    Finding::ok(Check::Interface, format!("{}{kind}", link.name))
}

fn state(link: &Link) -> Finding {
    let name = &link.name;
    match link {
        Link { up: false, .. } => {
            Finding::fail(Check::Link, format!("{name} is down"), here(format!("ip link set {name} up")))
        }
        Link { running: false, .. } => {
            let text = format!("{name} has no carrier: a cable is not plugged in, or a port of the switch is off");
            Finding::fail(Check::Link, text, on_switch("ip link set PORT up"))
        }
        Link { multicast: false, loopback: false, .. } => {
            let text = format!("{name} is not meant for multicast");
            Finding::warn(Check::Link, text, here(format!("ip link set {name} multicast on")))
        }
        _ => Finding::ok(Check::Link, format!("{name} is up and has a carrier")),
    }
}

fn address(facts: &Facts, link: &Link) -> Option<Finding> {
    let name = &link.name;
    let family = if facts.group.is_ipv4() { "IPv4" } else { "IPv6" };
    if facts.group.is_ipv6() && link.v6_disabled {
        let remedy = here(format!("sysctl -w {}=0", conf("ipv6", name, "disable_ipv6")));
        return Some(Finding::fail(Check::Address, format!("IPv6 is switched off on {name}"), remedy));
    }
    if !link.addresses.is_empty() {
        return Some(Finding::ok(Check::Address, format!("{name} has {}", list(&link.addresses))));
    }
    if !link.up {
        // It may have one when it is up.
        return None;
    }
    let option = if facts.group.is_ipv4() { "" } else { "-6 " };
    let remedy = here(format!("ip {option}address add ADDRESS/PREFIX dev {name}"));
    let text = format!("{name} has no {family} address");
    Some(match facts.sending {
        Some(_) => Finding::fail(Check::Address, format!("{text} to send from"), remedy),
        None => {
            Finding::warn(Check::Address, format!("{text}: switches and routers may not believe that it joins"), remedy)
        }
    })
}

/// IPv6 takes nothing from a group to which it has no route; IPv4 minds only where it sends.
fn route(facts: &Facts, link: &Link) -> Option<Finding> {
    let (group, name) = (facts.group.ip(), &link.name);
    let route = facts.route.as_ref().filter(|_| link.up && (facts.sending.is_some() || group.is_ipv6()))?;
    Some(match route {
        Ok(source) => Finding::ok(Check::Route, format!("the kernel reaches {group} by {name} from {source}")),
        Err(cause) => {
            let command = match group {
                IpAddr::V4(_) => format!("ip route add {} dev {name}", host_route(group)),
                // With another type datagrams over the loopback interface are sent and never arrive.
                IpAddr::V6(v6) if link.loopback => {
                    format!("ip -6 route add local {:x}::/16 dev lo table local", v6.segments()[0])
                }
                IpAddr::V6(_) => format!("ip -6 route add multicast ff00::/8 dev {name} table local"),
            };
            let text = format!("the kernel does not reach {group} by {name}: {cause}");
            Finding::fail(Check::Route, text, here(command))
        }
    })
}

/// Some addresses in words.
pub(super) fn list(addresses: &[IpAddr]) -> String {
    let words: Vec<_> = addresses.iter().map(ToString::to_string).collect();
    words.join(", ")
}
