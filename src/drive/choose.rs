//! Which interface to use, and which of its addresses to send from.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use super::Report;
use crate::discovery::Family;
use crate::failure::{Exit, Failure};
use crate::sys::interface::{self, Interface};

/// Why there is no interface to use.
#[derive(Debug)]
pub(super) enum Unusable {
    /// It is not there, or down: that can change.
    Absent(Failure),
    /// What is asked for makes no sense.
    Refused(Failure),
}

impl From<Unusable> for Failure {
    fn from(unusable: Unusable) -> Self {
        match unusable {
            Unusable::Absent(failure) | Unusable::Refused(failure) => failure,
        }
    }
}

/// The interface that the user names by name, number or address, in `--interface` or in the group's zone; without either, the
/// only one that can multicast.
pub(super) fn interface(asked: Option<&str>, zone: Option<&str>) -> Result<Interface, Failure> {
    Ok(find(interface::list()?, asked, zone)?)
}

/// The same among those that are listed.
pub(super) fn find(all: Vec<Interface>, asked: Option<&str>, zone: Option<&str>) -> Result<Interface, Unusable> {
    let chosen = find_down(all, asked, zone)?;
    if !chosen.up {
        let failure = Failure::new(Exit::Unavailable, format!("use interface {}", chosen.name), "it is down");
        return Err(Unusable::Absent(failure.remedy(format!("ip link set {} up", chosen.name))));
    }
    Ok(chosen)
}

/// The same, though it may be down if it is named.
pub(super) fn find_down(all: Vec<Interface>, asked: Option<&str>, zone: Option<&str>) -> Result<Interface, Unusable> {
    match (asked, zone) {
        (None, None) => only_candidate(all),
        (Some(name), None) | (None, Some(name)) => named(&all, name),
        (Some(name), Some(zone)) => {
            let (first, second) = (named(&all, name)?, named(&all, zone)?);
            if first.index != second.index {
                let what = format!("use interface {name}");
                let failure = Failure::new(Exit::Usage, what, format!("the group names interface {zone}"));
                return Err(Unusable::Refused(failure));
            }
            Ok(first)
        }
    }
}

/// Says what may keep the interface from carrying multicast of the group's family: nothing will come or go before it has a carrier.
pub(super) fn warn(interface: &Interface, family: Option<Family>, report: &mut Report) {
    for text in warnings(interface, family) {
        report.notice("warning", &text);
    }
}

fn warnings(interface: &Interface, family: Option<Family>) -> Vec<String> {
    let name = &interface.name;
    let mut out = Vec::new();
    if !interface.running {
        out.push(format!("interface {name} has no carrier: is the cable plugged in?"));
    }
    if !interface.multicast && !interface.loopback {
        out.push(format!("interface {name} is not meant for multicast (ip link set {name} multicast on)"));
    }
    if let Some(family) = family
        && addresses_of(interface, family).next().is_none()
    {
        out.push(format!("interface {name} has no {family} address"));
    }
    out
}

/// The families in which the interface can be reached, the better one first: IPv6 where it goes beyond the link.
pub(super) fn families(interface: &Interface) -> Vec<Family> {
    let has = |family| addresses_of(interface, family).next().is_some();
    let is_wide = |address: IpAddr| !matches!(address, IpAddr::V6(address) if is_link_local(&address));
    let has_wide_v6 = addresses_of(interface, Family::V6).any(is_wide);
    let order = if has_wide_v6 { [Family::V6, Family::V4] } else { [Family::V4, Family::V6] };
    let usable: Vec<_> = order.into_iter().filter(|&family| has(family)).collect();
    // One that has no address yet may get one.
    if usable.is_empty() { order.into() } else { usable }
}

/// The interface's addresses of one family.
pub(super) fn addresses_of(interface: &Interface, family: Family) -> impl Iterator<Item = IpAddr> {
    interface.addresses.iter().copied().filter(move |&address| Family::of(address) == family)
}

fn named(all: &[Interface], name: &str) -> Result<Interface, Unusable> {
    let address = name.parse::<IpAddr>().ok();
    let is_it = |candidate: &&Interface| {
        candidate.name == name
            || name.parse() == Ok(candidate.index)
            || address.is_some_and(|address| candidate.addresses.contains(&address))
    };
    all.iter().find(is_it).cloned().ok_or_else(|| {
        let names: Vec<_> = all.iter().map(|candidate| candidate.name.as_str()).collect();
        let failure = Failure::new(Exit::Usage, format!("use interface {name}"), "no such device");
        Unusable::Absent(failure.remedy(format!("see --interface; there are: {}", names.join(", "))))
    })
}

/// Whether it can be chosen unasked.
pub(super) fn is_candidate(interface: &Interface) -> bool {
    interface.up && interface.multicast && !interface.loopback
}

fn only_candidate(all: Vec<Interface>) -> Result<Interface, Unusable> {
    let mut candidates: Vec<_> = all.into_iter().filter(is_candidate).collect();
    let what = "choose an interface";
    match candidates.len() {
        1 => Ok(candidates.remove(0)),
        0 => {
            let failure = Failure::new(Exit::Unavailable, what, "none is up that can multicast");
            Err(Unusable::Absent(failure.remedy("name one with --interface; lo stays on this host")))
        }
        _ => {
            let names: Vec<_> = candidates.iter().map(|candidate| candidate.name.as_str()).collect();
            let cause = format!("several can multicast: {}", names.join(", "));
            Err(Unusable::Refused(Failure::new(Exit::Usage, what, cause).remedy("name one with --interface")))
        }
    }
}

/// The source address for packets to `group`: the first of the interface that has the group's family, and reaches as far.
pub(super) fn source_address(interface: &Interface, group: SocketAddr) -> Option<IpAddr> {
    let of_family = || addresses_of(interface, Family::of(group.ip()));
    let stays_on_link = |address: &IpAddr| matches!(address, IpAddr::V6(address) if is_link_local(address));
    let group_stays = matches!(group.ip(), IpAddr::V6(group) if group.segments()[0] & 0xf <= 2);
    of_family().find(|address| stays_on_link(address) == group_stays).or_else(|| of_family().next())
}

fn is_link_local(address: &Ipv6Addr) -> bool {
    address.segments()[0] & 0xffc0 == 0xfe80
}

#[cfg(test)]
mod tests {
    use super::*;

    fn candidate(name: &str, index: u32, addresses: &[&str]) -> Interface {
        Interface::ethernet(name, index, addresses)
    }

    #[test]
    fn interface_has_three_names() {
        let all = [candidate("eth0", 2, &["192.0.2.1"]), candidate("eth1", 3, &["192.0.2.2", "fe80::2"])];
        for name in ["eth1", "3", "192.0.2.2", "fe80::2"] {
            assert_eq!(named(&all, name).unwrap().index, 3, "{name}");
        }
        let said = Failure::from(named(&all, "eth9").unwrap_err()).to_string();
        assert!(said.contains("eth9") && said.contains("eth0, eth1"), "{said}");
    }

    #[test]
    fn choice_is_made_only_where_there_is_none() {
        let lo = Interface { loopback: true, multicast: false, ..candidate("lo", 1, &["127.0.0.1"]) };
        let eth0 = candidate("eth0", 2, &[]);
        let eth1 = candidate("eth1", 3, &[]);
        assert_eq!(only_candidate(vec![lo.clone(), eth0.clone()]).unwrap().name, "eth0");
        let down = Interface { up: false, ..eth1.clone() };
        assert_eq!(only_candidate(vec![eth0.clone(), down]).unwrap().name, "eth0");
        let failure: Failure = only_candidate(vec![lo.clone(), eth0, eth1]).unwrap_err().into();
        assert_eq!(failure.exit, Exit::Usage);
        assert!(failure.to_string().contains("eth0, eth1"));
        assert_eq!(Failure::from(only_candidate(vec![lo]).unwrap_err()).exit, Exit::Unavailable);
    }

    #[test]
    fn source_address_reaches_as_far_as_the_group() {
        let eth0 = candidate("eth0", 2, &["192.0.2.1", "fe80::1", "2001:db8::1"]);
        let source = |group: &str| source_address(&eth0, group.parse().unwrap()).unwrap().to_string();
        assert_eq!(source("239.1.1.1:4242"), "192.0.2.1");
        assert_eq!(source("[ff12::42]:4242"), "fe80::1");
        assert_eq!(source("[ff15::42]:4242"), "2001:db8::1");
        assert_eq!(source_address(&candidate("eth1", 3, &["192.0.2.1"]), "[ff12::42]:4242".parse().unwrap()), None);
    }

    #[test]
    fn only_what_can_still_come_is_absent() {
        let (eth0, eth1) = (candidate("eth0", 2, &[]), candidate("eth1", 3, &[]));
        let down = Interface { up: false, ..eth0.clone() };
        let is_absent = |all: &[&Interface], asked, zone| {
            let all = all.iter().map(|&one| one.clone()).collect();
            matches!(find(all, asked, zone).unwrap_err(), Unusable::Absent(_))
        };
        assert!(is_absent(&[&eth0], Some("eth9"), None) && is_absent(&[&down], Some("eth0"), None));
        assert!(is_absent(&[], None, None) && is_absent(&[&down], None, None));
        assert!(!is_absent(&[&eth0, &eth1], None, None) && !is_absent(&[&eth0, &eth1], Some("eth0"), Some("eth1")));
    }

    #[test]
    fn what_stands_in_the_way_of_multicast_is_said() {
        let good = candidate("eth0", 2, &["192.0.2.1", "fe80::1"]);
        assert_eq!(warnings(&good, Some(Family::V4)), [""; 0]);
        assert_eq!(warnings(&good, Some(Family::V6)), [""; 0]);
        let lo = Interface { loopback: true, multicast: false, ..candidate("lo", 1, &["127.0.0.1"]) };
        assert_eq!(warnings(&lo, Some(Family::V4)), [""; 0]);
        let bad = Interface { running: false, multicast: false, ..candidate("eth0", 2, &["192.0.2.1"]) };
        let said = warnings(&bad, Some(Family::V6));
        assert_eq!(said.len(), 3, "{said:?}");
        for (text, word) in said.iter().zip(["carrier", "multicast on", "no IPv6 address"]) {
            assert!(text.contains(word), "{text}");
        }
        assert_eq!(warnings(&candidate("eth0", 2, &[]), None), [""; 0]);
    }

    #[test]
    fn family_that_reaches_further_comes_first() {
        let of = |addresses: &[&str]| families(&candidate("eth0", 2, addresses));
        assert_eq!(of(&["192.0.2.1", "fe80::1"]), [Family::V4, Family::V6]);
        assert_eq!(of(&["192.0.2.1", "fe80::1", "2001:db8::1"]), [Family::V6, Family::V4]);
        assert_eq!(of(&["fe80::1"]), [Family::V6]);
        assert_eq!(of(&["192.0.2.1"]), [Family::V4]);
        assert_eq!(of(&[]), [Family::V4, Family::V6]);
    }
}
