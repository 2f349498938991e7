//! Which interface to use, and which of its addresses to send from.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use super::Report;
use crate::failure::{Exit, Failure};
use crate::sys::interface::{self, Interface};

/// The interface that the user names by name, number or address, in `--interface` or in the group's zone; without either, the
/// only one that can multicast.
pub(super) fn interface(asked: Option<&str>, zone: Option<&str>) -> Result<Interface, Failure> {
    let all = interface::list()?;
    let chosen = match (asked, zone) {
        (None, None) => only_candidate(all)?,
        (Some(name), None) | (None, Some(name)) => named(&all, name)?,
        (Some(name), Some(zone)) => {
            let (first, second) = (named(&all, name)?, named(&all, zone)?);
            if first.index != second.index {
                let what = format!("use interface {name}");
                return Err(Failure::new(Exit::Usage, what, format!("the group names interface {zone}")));
            }
            first
        }
    };
    if !chosen.up {
        let failure = Failure::new(Exit::Unavailable, format!("use interface {}", chosen.name), "it is down");
        return Err(failure.remedy(format!("ip link set {} up", chosen.name)));
    }
    Ok(chosen)
}

/// Says so if the interface has no carrier: nothing will come or go before it has.
pub(super) fn warn_of_carrier(interface: &Interface, report: &mut Report) {
    if !interface.running {
        report.notice("warning", &format!("interface {} has no carrier: is the cable plugged in?", interface.name));
    }
}

fn named(all: &[Interface], name: &str) -> Result<Interface, Failure> {
    let address = name.parse::<IpAddr>().ok();
    let is_it = |candidate: &&Interface| {
        candidate.name == name
            || name.parse() == Ok(candidate.index)
            || address.is_some_and(|address| candidate.addresses.contains(&address))
    };
    all.iter().find(is_it).cloned().ok_or_else(|| {
        let names: Vec<_> = all.iter().map(|candidate| candidate.name.as_str()).collect();
        Failure::new(Exit::Usage, format!("use interface {name}"), "no such device")
            .remedy(format!("see --interface; there are: {}", names.join(", ")))
    })
}

fn only_candidate(all: Vec<Interface>) -> Result<Interface, Failure> {
    let can = |candidate: &Interface| candidate.up && candidate.multicast && !candidate.loopback;
    let mut candidates: Vec<_> = all.into_iter().filter(can).collect();
    let what = "choose an interface";
    match candidates.len() {
        1 => Ok(candidates.remove(0)),
        0 => Err(Failure::new(Exit::Unavailable, what, "none is up that can multicast")
            .remedy("name one with --interface; lo stays on this host")),
        _ => {
            let names: Vec<_> = candidates.iter().map(|candidate| candidate.name.as_str()).collect();
            Err(Failure::new(Exit::Usage, what, format!("several can multicast: {}", names.join(", ")))
                .remedy("name one with --interface"))
        }
    }
}

/// The source address for packets to `group`: the first of the interface that has the group's family, and reaches as far.
pub(super) fn source_address(interface: &Interface, group: SocketAddr) -> Option<IpAddr> {
    let of_family = || interface.addresses.iter().copied().filter(|address| address.is_ipv4() == group.is_ipv4());
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
        Interface {
            name: name.into(),
            index,
            mtu: 1500,
            up: true,
            running: true,
            multicast: true,
            loopback: false,
            addresses: addresses.iter().map(|address| address.parse().unwrap()).collect(),
            speed_bps: None,
            wireless: false,
        }
    }

    #[test]
    fn interface_has_three_names() {
        let all = [candidate("eth0", 2, &["192.0.2.1"]), candidate("eth1", 3, &["192.0.2.2", "fe80::2"])];
        for name in ["eth1", "3", "192.0.2.2", "fe80::2"] {
            assert_eq!(named(&all, name).unwrap().index, 3, "{name}");
        }
        let said = named(&all, "eth9").unwrap_err().to_string();
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
        let failure = only_candidate(vec![lo.clone(), eth0, eth1]).unwrap_err();
        assert_eq!(failure.exit, Exit::Usage);
        assert!(failure.to_string().contains("eth0, eth1"));
        assert_eq!(only_candidate(vec![lo]).unwrap_err().exit, Exit::Unavailable);
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
}
