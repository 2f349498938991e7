//! What a server needs to send to the group.

use super::facts::{Facts, Hook, Link, Sending};
use super::load::rate_words;
use super::remedy::{here, let_through};
use super::{Check, Finding};

/// What every switch and receiver takes.
const MTU_PLAIN: u32 = 1500;

pub(super) fn findings(facts: &Facts, sending: &Sending) -> Vec<Finding> {
    let Some(link) = facts.link().filter(|link| link.up) else { return Vec::new() };
    let mut findings: Vec<_> = firewall(facts, sending).into_iter().collect();
    findings.extend(rate(facts, sending, link));
    findings.push(mtu(facts, sending, link));
    findings.push(hops(facts, sending));
    findings.extend(engine(facts, sending));
    findings
}

fn firewall(facts: &Facts, sending: &Sending) -> Option<Finding> {
    facts.route.as_ref()?.as_ref().ok()?;
    Some(match sending.refused.as_ref()? {
        None => Finding::ok(Check::Firewall, "the kernel takes datagrams to the group"),
        Some(cause) => {
            let text =
                format!("the kernel takes no datagram to the group: {cause}: a firewall of this host drops them");
            Finding::fail(Check::Firewall, text, let_through(facts, &[Hook::Output]))
        }
    })
}

fn rate(facts: &Facts, sending: &Sending, link: &Link) -> Option<Finding> {
    let (name, group) = (&link.name, facts.group);
    let again = |rate: &str| here(format!("iotupd -i {name} --rate {rate} FILE {group}"));
    match (sending.rate_bps, link.speed_bps) {
        (None, _) if link.wireless => {
            let text =
                format!("{name} is a radio, on which multicast goes at the slowest rate: iotupd wants to be told one");
            Some(Finding::fail(Check::Rate, text, again("2M")))
        }
        (Some(rate), Some(speed)) if rate > speed => {
            let text = format!("{} are more than {name} has: {}", rate_words(rate as f64), rate_words(speed as f64));
            Some(Finding::fail(Check::Rate, text, again(&format!("{}M", speed / 2_000_000))))
        }
        (Some(rate), Some(speed)) => {
            let text = format!("{} of the {} of {name}", rate_words(rate as f64), rate_words(speed as f64));
            Some(Finding::ok(Check::Rate, text))
        }
        _ => None,
    }
}

fn mtu(facts: &Facts, sending: &Sending, link: &Link) -> Finding {
    let (name, own) = (&link.name, link.mtu);
    match sending.mtu {
        Some(asked) if asked > own => {
            let text = format!("{name} takes packets of {own} bytes, not of {asked}");
            Finding::fail(Check::Mtu, text, here(format!("ip link set {name} mtu {asked}")))
        }
        Some(asked) if asked > MTU_PLAIN => {
            let text = format!("packets of {asked} bytes reach only whom every switch on the way lets them");
            Finding::warn(Check::Mtu, text, here(format!("iotupd -i {name} --mtu {MTU_PLAIN} FILE {}", facts.group)))
        }
        _ => Finding::ok(Check::Mtu, format!("{name} takes packets of {own} bytes")),
    }
}

fn hops(facts: &Facts, sending: &Sending) -> Finding {
    let field = if facts.group.is_ipv4() { "TTL" } else { "hop limit" };
    match sending.hops {
        0 | 1 => Finding::ok(
            Check::Hops,
            format!("a {field} of 1: packets stay on this link (--hops lets them pass routers)"),
        ),
        hops => Finding::ok(Check::Hops, format!("a {field} of {hops}: packets pass {} routers", hops - 1)),
    }
}

fn engine(facts: &Facts, sending: &Sending) -> Vec<Finding> {
    let mut findings = Vec::new();
    match &sending.uring {
        None => {}
        Some(None) => findings.push(Finding::ok(Check::Engine, "io_uring can be used")),
        Some(Some(cause)) => {
            let by = match sending.uring_disabled {
                Some(value @ 1..) => format!("kernel.io_uring_disabled is {value}"),
                _ => "perhaps by a container's seccomp filter".to_owned(),
            };
            let text = format!(
                "io_uring cannot be used ({cause}; {by}): iotupd sends by sendmmsg, as well, but with more of the processor"
            );
            // Whoever switched it off for all programs of the host, or of the container, had reasons.
            let command = format!("iotupd --engine sendmmsg -i {} FILE {}", facts.interface(), facts.group);
            findings.push(Finding::warn(Check::Engine, text, here(command)));
        }
    }
    match sending.gso {
        None => {}
        Some(true) => findings.push(Finding::ok(Check::Gso, "the kernel cuts messages into datagrams (GSO)")),
        Some(false) => {
            let text =
                "the kernel does not cut messages into datagrams (GSO, Linux 4.18): each packet is sent by itself";
            findings.push(Finding::warn(Check::Gso, text, here("uname -r")));
        }
    }
    findings
}
