//! What came, and what kept the rest: the firewall, the routes back, the hop limit, the MTU.

use super::facts::{Facts, Heard, Hook, Returns, Rpf, SourceRoute, Wire};
use super::load::rate_words;
use super::place::{elsewhere, list};
use super::remedy::{Remedy, as_root, conf, here, host_route, let_through, on_server};
use super::{Check, Finding, Status};

/// Multicast packets that the kernel counts and the socket does not get, from which on it is no chance: other programs hear groups too.
const UNDELIVERED_MIN: u64 = 20;
/// Frames that an interface drops, from which on it is worth a word: some go where nobody wants their protocol.
const LINK_DROPS_MIN: u64 = 20;
/// The MTU of jumbo frames, which a receiver is to have whose server announces longer packets than it takes.
const MTU_JUMBO: u32 = 9000;

pub(super) fn findings(facts: &Facts) -> Vec<Finding> {
    let Some(heard) = &facts.heard else { return Vec::new() };
    let source = source(facts, heard);
    // A packet that cannot be routed is dropped before any firewall's chain for this host.
    let has_no_route = facts.group.is_ipv6() && matches!(facts.route, Some(Err(_)));
    let is_refused = facts.joined.as_ref().is_some_and(|joined| joined.refused.is_some());
    let is_source = source.as_ref().is_some_and(|finding| finding.status == Status::Fail);
    let is_explained = has_no_route || is_refused || is_source || elsewhere(facts).is_some();
    let mut findings: Vec<_> = source.into_iter().collect();
    findings.extend(firewall(facts, heard).filter(|_| !is_explained));
    findings.extend(hops(facts, heard));
    findings.extend(mtu(facts, heard));
    findings
}

/// What packets that the kernel dropped say of the group, where nothing of it came to the socket. The kernel counts those of all groups and
/// interfaces: only if a packet socket saw frames of the group, and not many more than were dropped, were those dropped.
fn blame(facts: &Facts, heard: &Heard, dropped: Option<u64>) -> Option<(Status, u64)> {
    let dropped = dropped.filter(|&count| count >= UNDELIVERED_MIN && heard.datagrams == 0)?;
    match &facts.wire {
        None => Some((Status::Warn, dropped)),
        Some(wire) if wire.frames > 0 && dropped >= wire.frames / 2 => Some((Status::Fail, dropped)),
        Some(_) => None,
    }
}

/// The route to a sender of which nothing comes, that the kernel does not take.
fn refused_route<'a>(returns: &'a Returns, interface: &str) -> Option<&'a SourceRoute> {
    returns.routes.iter().find(|route| match (returns.filter, &route.interface) {
        (Rpf::Off, _) => false,
        (_, None) => true,
        (Rpf::Strict, Some(name)) => name != interface,
        (Rpf::Loose, Some(_)) => false,
    })
}

fn source(facts: &Facts, heard: &Heard) -> Option<Finding> {
    let name = facts.interface();
    if heard.datagrams == 0
        && let Some(stranger) = stranger(facts)
    {
        let text = format!("packets come from {}, not from {}", list(&stranger), list(&facts.sources));
        let sources: String = stranger.iter().map(|source| format!(" --source {source}")).collect();
        return Some(Finding::fail(
            Check::Source,
            text,
            here(format!("iotupc -i {name} FILE {}{sources}", facts.group)),
        ));
    }
    if facts.group.is_ipv4()
        && heard.datagrams == 0
        && let Some(finding) = filtered(facts, heard)
    {
        return Some(finding);
    }
    let route = facts.returns.routes.first()?;
    let by = match (&route.interface, route.gateway) {
        (None, _) => "there is no route back".to_owned(),
        (Some(by), Some(gateway)) => format!("the route back goes by {by} and {gateway}"),
        (Some(by), None) => format!("it is on the link of {by}"),
    };
    Some(Finding::ok(Check::Source, format!("{}: {by}{}", route.source, filter_words(facts.returns.filter))))
}

fn filter_words(filter: Rpf) -> &'static str {
    match filter {
        Rpf::Off => "",
        Rpf::Strict => " (rp_filter is strict)",
        Rpf::Loose => " (rp_filter is loose)",
    }
}

/// Who sends, where only others are to be heard.
fn stranger(facts: &Facts) -> Option<Vec<std::net::IpAddr>> {
    let seen = facts.wire.iter().flat_map(|wire| &wire.senders);
    let senders: std::collections::BTreeSet<_> = facts.strangers.iter().chain(seen).copied().collect();
    let are_all_others = senders.iter().all(|sender| !facts.sources.contains(sender));
    (!facts.sources.is_empty() && !senders.is_empty() && are_all_others).then(|| senders.into_iter().collect())
}

/// What rp_filter drops (RFC 3704).
fn filtered(facts: &Facts, heard: &Heard) -> Option<Finding> {
    let (name, returns) = (facts.interface(), &facts.returns);
    if let Some(route) = refused_route(returns, name) {
        let source = route.source;
        let (text, remedy) = match &route.interface {
            Some(by) => (
                format!("the route back to {source} goes by {by}, and rp_filter is strict on {name}"),
                here(format!("sysctl -w {}=2", conf("ipv4", name, "rp_filter"))),
            ),
            None => (
                format!("there is no route back to {source}, and rp_filter on {name} wants one"),
                here(format!("ip route add {} dev {name}", host_route(source))),
            ),
        };
        return Some(Finding::fail(Check::Source, text, remedy));
    }
    if returns.filter == Rpf::Off {
        return None;
    }
    let (status, dropped) = blame(facts, heard, facts.counters.rp_filter)?;
    let text = format!("rp_filter has dropped {dropped} packets on this host");
    if status == Status::Warn {
        return Some(Finding::warn(Check::Source, format!("{text}, perhaps those of the group"), as_root(facts)));
    }
    // The routes back to the senders seem right, so a looser filter may not be loose enough.
    let remedy = here(format!("sysctl -w net.ipv4.conf.all.rp_filter=0 {}=0", conf("ipv4", name, "rp_filter")));
    Some(Finding::fail(Check::Source, text, remedy))
}

fn firewall(facts: &Facts, heard: &Heard) -> Option<Finding> {
    if let Some((status, count)) = blame(facts, heard, facts.counters.bad_checksums) {
        let text = format!("{count} datagrams came with wrong UDP checksums");
        return Some(match status {
            Status::Warn => {
                Finding::warn(Check::Firewall, format!("{text}, perhaps those of the group"), as_root(facts))
            }
            _ => Finding::fail(Check::Firewall, text, on_server("ethtool -K IF tx off")),
        });
    }
    match &facts.wire {
        Some(Wire { frames: 0, .. }) if heard.datagrams == 0 => None,
        Some(wire) if heard.datagrams == 0 => {
            let text = format!(
                "{} frames of the group from {} came by {}, and no datagram to the socket: a firewall drops them",
                wire.frames,
                list(&wire.senders),
                facts.interface()
            );
            Some(Finding::fail(Check::Firewall, text, let_through(facts, &[Hook::Input, Hook::Prerouting])))
        }
        Some(_) => Some(Finding::ok(Check::Firewall, "what is on the wire reaches the socket")),
        None if heard.datagrams > 0 => Some(Finding::ok(Check::Firewall, "datagrams reach the socket")),
        None => match facts.counters.multicast {
            Some(count) if count >= UNDELIVERED_MIN => {
                let text = format!(
                    "{count} multicast packets came to this host, and none of them to the socket: they are of \
                     other groups, or a firewall drops them"
                );
                Some(Finding::warn(Check::Firewall, text, as_root(facts)))
            }
            _ => Some(Finding::needs_raw_socket(
                facts,
                Check::Firewall,
                "to see what is on the wire and not at the socket",
            )),
        },
    }
}

/// The group with the scope of a site, where it had that of the link (RFC 4291, section 2.7).
fn wider(group: std::net::SocketAddr) -> Option<std::net::SocketAddr> {
    let std::net::SocketAddr::V6(v6) = group else { return None };
    let mut segments = v6.ip().segments();
    if segments[0] & 0xf > 2 {
        return None;
    }
    segments[0] = segments[0] & 0xfff0 | 5;
    Some((std::net::Ipv6Addr::from(segments), v6.port()).into())
}

fn hops(facts: &Facts, heard: &Heard) -> Option<Finding> {
    let (field, group) = (if facts.group.is_ipv4() { "TTL" } else { "hop limit" }, facts.group);
    let seen = heard.hops_min.or(facts.wire.as_ref().and_then(|wire| wire.hops_min));
    if let Some(hops) = seen {
        let reach = match hops {
            0 | 1 => "no router passes them on".to_owned(),
            _ => format!("{} more routers may pass them on", hops - 1),
        };
        return Some(Finding::ok(Check::Hops, format!("packets come with a {field} of {hops}: {reach}")));
    }
    let route = facts.returns.routes.iter().find(|route| route.gateway.is_some())?;
    let (source, gateway) = (route.source, route.gateway?);
    if let Some(wider) = wider(group) {
        let text = format!(
            "{source} is behind the router {gateway}, and no router passes {} on: its scope is the link",
            group.ip()
        );
        return Some(Finding::fail(Check::Hops, text, on_server(format!("iotupd --hops 8 --rate RATE FILE {wider}"))));
    }
    let text = format!("{source} is behind the router {gateway}, and without --hops packets stay on their link");
    Some(Finding::warn(Check::Hops, text, on_server(format!("iotupd --hops 8 --rate RATE FILE {group}"))))
}

fn mtu(facts: &Facts, heard: &Heard) -> Option<Finding> {
    let link = facts.link()?;
    let (name, mtu) = (&link.name, link.mtu);
    if let Some(packing) = heard.packing.filter(|packing| packing.ip_size > mtu && heard.data == 0) {
        let size = packing.ip_size;
        let text = format!(
            "packets with data have {size} bytes and do not come, only shorter ones do: {name} takes {mtu} (or iotupd --mtu {mtu})"
        );
        return Some(Finding::fail(Check::Mtu, text, here(format!("ip link set {name} mtu {}", size.max(MTU_JUMBO)))));
    }
    if heard.longest > 0 {
        let size = heard.packing.map_or(heard.longest, |packing| packing.ip_size);
        return Some(Finding::ok(Check::Mtu, format!("packets have up to {size} bytes, {name} takes {mtu}")));
    }
    let drops = facts.counters.link_drops.unwrap_or(0);
    let errors = facts.counters.link_frame_errors.unwrap_or(0);
    if errors > 0 || drops >= LINK_DROPS_MIN {
        let text = format!(
            "{name} dropped {} frames: perhaps packets of the group, if those are longer than {mtu} bytes",
            drops.max(errors)
        );
        // How long they were is not known, and a longer MTU than the network's would do harm to whatever else this host does.
        return Some(Finding::warn(Check::Mtu, text, on_server(format!("iotupd --mtu {mtu} FILE {}", facts.group))));
    }
    None
}

/// Whether packets come. `explained`: the finding that says why not.
pub(super) fn packets(facts: &Facts, explained: Option<&Finding>) -> Option<Finding> {
    let heard = facts.heard.as_ref()?;
    let seconds = heard.time.as_secs_f64();
    let ours = heard.data + heard.control;
    if ours > 0 {
        let rate = rate_words(8.0 * heard.ip_bytes as f64 / seconds.max(1e-3));
        let senders: Vec<_> = heard.senders.iter().map(ToString::to_string).collect();
        let text = format!("{ours} packets came from {} in {seconds:.0} s, {rate}", senders.join(", "));
        return Some(Finding::ok(Check::Packets, text));
    }
    if explained.is_none_or(|finding| finding.status < Status::Fail)
        && let Some(finding) = stray(facts)
    {
        return Some(finding);
    }
    if heard.datagrams > 0 {
        let what = if heard.damaged > 0 { "all damaged" } else { "none of iotupd" };
        let text = format!("{} datagrams came in {seconds:.0} s, {what}", heard.datagrams);
        let other_port = facts.group.port().checked_add(1).unwrap_or(4242);
        let group = std::net::SocketAddr::new(facts.group.ip(), other_port);
        return Some(Finding::fail(Check::Packets, text, on_server(format!("iotupd -i IF FILE {group}"))));
    }
    let (text, remedy) = unheard(facts, explained, seconds);
    Some(Finding::fail(Check::Packets, text, remedy))
}

fn stray(facts: &Facts) -> Option<Finding> {
    // Another port of the same group is likelier to be meant than another group.
    let strays = &facts.wire.as_ref()?.strays;
    let of_group = strays.iter().find(|stray| stray.group.ip() == facts.group.ip());
    let stray = of_group.or_else(|| strays.iter().find(|stray| stray.group.is_ipv4() == facts.group.is_ipv4()))?;
    let text = format!(
        "nothing came to {}, but packets of iotupd come to {} on {}",
        facts.group, stray.group, stray.interface
    );
    let command = format!("iotupc -i {} FILE {}", stray.interface, stray.group);
    Some(Finding::fail(Check::Packets, text, here(command)))
}

fn unheard(facts: &Facts, explained: Option<&Finding>, seconds: f64) -> (String, Remedy) {
    let on_wire = match &facts.wire {
        Some(wire) if wire.frames == 0 && facts.link().is_some() => ", not even on the wire",
        _ => "",
    };
    let text = format!("nothing came in {seconds:.0} s{on_wire}");
    match explained.and_then(|finding| Some((finding.check, finding.remedy.clone()?))) {
        Some((check, remedy)) => (format!("{text}: see {}", check.name()), remedy),
        None => {
            let text = format!("{text}: does iotupd run, on this network, for this group and port?");
            (text, on_server(format!("iotup doctor --send -i IF {}", facts.group)))
        }
    }
}
