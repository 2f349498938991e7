//! What the kernel says of this host without being asked for privileges.

use std::fs;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};

use super::super::choose;
use crate::diagnosis::{
    Arrivals, Bridge, Chain, Counters, Device, Hook, Link, Returns, Rpf, SourceRoute, backlog_drops, igmp_version,
    is_group_listed, is_source_listed, parse_device, parse_named, parse_snmp,
};
use crate::discovery::Family;
use crate::sys::firewall::{self, BaseChain};
use crate::sys::interface::Interface;
use crate::sys::route;

/// Routes that are looked up.
const ROUTE_COUNT_MAX: usize = 4;

/// A file of the kernel's, or nothing.
fn read(path: impl AsRef<Path>) -> String {
    fs::read_to_string(path).unwrap_or_default()
}

/// The number in a file of the kernel's.
pub(super) fn number(path: impl AsRef<Path>) -> Option<u64> {
    read(path).trim().parse().ok()
}

pub(super) fn device(interface: &Interface) -> Device<'_> {
    Device { name: &interface.name, index: interface.index }
}

/// An option that can be set for all interfaces and for each: of both the larger one holds.
fn conf(family: &str, interface: &str, option: &str) -> u64 {
    let of = |name: &str| number(Path::new("/proc/sys/net").join(family).join("conf").join(name).join(option));
    of("all").unwrap_or(0).max(of(interface).unwrap_or(0))
}

pub(super) fn link(interface: &Interface, group: SocketAddr) -> Link {
    let disable = Path::new("/proc/sys/net/ipv6/conf").join(&interface.name).join("disable_ipv6");
    Link {
        name: interface.name.clone(),
        up: interface.up,
        running: interface.running,
        multicast: interface.multicast,
        loopback: interface.loopback,
        wireless: interface.wireless,
        mtu: interface.mtu,
        speed_bps: interface.speed_bps,
        addresses: choose::addresses_of(interface, Family::of(group.ip())).collect(),
        v6_disabled: number(disable) == Some(1),
    }
}

/// Why there is no interface, and which there could be.
#[cfg(feature = "sender")]
pub(super) fn no_choice(all: &[Interface], failure: &crate::failure::Failure) -> crate::diagnosis::Choice {
    let candidates = all.iter().filter(|interface| choose::is_candidate(interface));
    let mut down = all.iter().filter(|interface| !interface.up && interface.multicast && !interface.loopback);
    let only_down = down.next().filter(|_| down.next().is_none()).map(|interface| interface.name.clone());
    crate::diagnosis::Choice::None {
        cause: failure.summary(),
        candidates: candidates.map(|interface| interface.name.clone()).collect(),
        only_down,
    }
}

/// What the firewall may do to packets of the group; `None`: the kernel does not say.
pub(super) fn chains(group: SocketAddr) -> Option<Vec<Chain>> {
    let chains = firewall::chains().ok()?;
    Some(chains.iter().filter_map(|chain| chain_of(chain, group)).collect())
}

fn chain_of(chain: &BaseChain, group: SocketAddr) -> Option<Chain> {
    let (family, hook) = match (chain.family, chain.hook) {
        (1, 0 | 5) => ("inet", Hook::Prerouting),
        (1, 1) => ("inet", Hook::Input),
        (1, 3) => ("inet", Hook::Output),
        (2, 0) => ("ip", Hook::Prerouting),
        (2, 1) => ("ip", Hook::Input),
        (2, 3) => ("ip", Hook::Output),
        (5, 0) => ("netdev", Hook::Prerouting),
        (5, 1) => ("netdev", Hook::Output),
        (10, 0) => ("ip6", Hook::Prerouting),
        (10, 1) => ("ip6", Hook::Input),
        (10, 3) => ("ip6", Hook::Output),
        _ => return None,
    };
    let other = if group.is_ipv4() { "ip6" } else { "ip" };
    let is_fit = chain.kind == "filter" && family != other;
    is_fit.then(|| Chain { family, table: chain.table.clone(), name: chain.name.clone(), hook })
}

/// How the kernel routes back to the first of `sources`.
pub(super) fn returns(interface: &Interface, all: &[Interface], sources: &[IpAddr]) -> Returns {
    let filter = match conf("ipv4", &interface.name, "rp_filter") {
        0 => Rpf::Off,
        1 => Rpf::Strict,
        _ => Rpf::Loose,
    };
    let mut routes: Vec<SourceRoute> = Vec::new();
    for &source in sources {
        let is_known = routes.iter().any(|route| route.source == source);
        if !is_known && routes.len() < ROUTE_COUNT_MAX {
            routes.push(route_to(source, interface, all));
        }
    }
    Returns { filter, routes }
}

fn route_to(source: IpAddr, interface: &Interface, all: &[Interface]) -> SourceRoute {
    let is_on_link = matches!(source, IpAddr::V6(address) if address.is_unicast_link_local());
    if is_on_link {
        return SourceRoute { source, interface: Some(interface.name.clone()), gateway: None };
    }
    match route::toward(source) {
        Ok(route) => {
            let by = all.iter().find(|candidate| candidate.index == route.interface_index);
            let name = by.map_or_else(|| format!("interface {}", route.interface_index), |by| by.name.clone());
            SourceRoute { source, interface: Some(name), gateway: route.gateway }
        }
        Err(_) => SourceRoute { source, interface: None, gateway: None },
    }
}

/// The bridge that the interface is, or a port of.
pub(super) fn bridge(interface: &Interface) -> Option<Bridge> {
    let folder = Path::new("/sys/class/net").join(&interface.name);
    // A sysfs that was mounted in another network namespace shows others of the same name.
    if number(folder.join("ifindex")) != Some(interface.index.into()) {
        return None;
    }
    let folder: PathBuf = if folder.join("bridge").is_dir() { folder } else { folder.join("master") };
    let is_on = |option: &str| number(folder.join("bridge").join(option)).map(|value| value > 0);
    let name = fs::canonicalize(&folder).ok()?.file_name()?.to_string_lossy().into_owned();
    Some(Bridge { name, snoops: is_on("multicast_snooping")?, queries: is_on("multicast_querier")? })
}

/// Whether the kernel lists the group, and each of the sources.
pub(super) fn is_listed(interface: &Interface, group: IpAddr, sources: &[IpAddr]) -> Option<bool> {
    let (groups, filters) = match group {
        IpAddr::V4(_) => ("/proc/net/igmp", "/proc/net/mcfilter"),
        IpAddr::V6(_) => ("/proc/net/igmp6", "/proc/net/mcfilter6"),
    };
    let groups = fs::read_to_string(groups).ok()?;
    let filters = read(filters);
    let has_source = |source: &IpAddr| is_source_listed(&filters, device(interface), group, *source);
    Some(is_group_listed(&groups, device(interface), group) && sources.iter().all(has_source))
}

/// The version of IGMP or MLD that the kernel speaks, and the one that it was told to speak.
pub(super) fn versions(interface: &Interface, group: IpAddr) -> (Option<u8>, u8) {
    let (family, option) = match group {
        IpAddr::V4(_) => ("ipv4", "force_igmp_version"),
        IpAddr::V6(_) => ("ipv6", "force_mld_version"),
    };
    let forced = u8::try_from(conf(family, &interface.name, option)).unwrap_or(0);
    let spoken = match group {
        IpAddr::V4(_) => igmp_version(&read("/proc/net/igmp"), device(interface)),
        // The kernel does not list it.
        IpAddr::V6(_) => (forced > 0).then_some(forced),
    };
    (spoken, forced)
}

/// Datagrams that sockets of the group and port have dropped.
#[cfg(feature = "sender")]
pub(super) fn socket_drops(group: SocketAddr) -> u64 {
    crate::diagnosis::queue_drops(&read(if group.is_ipv4() { "/proc/net/udp" } else { "/proc/net/udp6" }), group)
}

/// What the kernel has counted up to a moment.
#[derive(Clone, Copy, Debug)]
pub(super) struct Snapshot {
    multicast: Option<u64>,
    rp_filter: Option<u64>,
    bad_checksums: Option<u64>,
    queries: Option<u64>,
    arrivals: Option<Arrivals>,
    backlog_drops: u64,
}

impl Snapshot {
    pub(super) fn take(interface: &Interface, group: SocketAddr) -> Self {
        let netstat = read("/proc/net/netstat");
        let of_device = read(Path::new("/proc/net/dev_snmp6").join(&interface.name));
        let (multicast, bad_checksums) = match group {
            SocketAddr::V4(_) => (
                parse_snmp(&netstat, "IpExt", "InMcastPkts"),
                parse_snmp(&read("/proc/net/snmp"), "Udp", "InCsumErrors"),
            ),
            SocketAddr::V6(_) => {
                (parse_named(&of_device, "Ip6InMcastPkts"), parse_named(&read("/proc/net/snmp6"), "Udp6InCsumErrors"))
            }
        };
        Self {
            multicast,
            rp_filter: parse_snmp(&netstat, "TcpExt", "IPReversePathFilter"),
            bad_checksums,
            queries: group.is_ipv6().then(|| parse_named(&of_device, "Icmp6InGroupMembQueries")).flatten(),
            arrivals: parse_device(&read("/proc/net/dev"), device(interface)),
            backlog_drops: backlog_drops(&read("/proc/net/softnet_stat")),
        }
    }

    /// What was counted since `earlier`.
    pub(super) fn since(&self, earlier: &Self) -> Counters {
        let more = |now: Option<u64>, before: Option<u64>| Some(now?.wrapping_sub(before?));
        let of_link = |pick: fn(Arrivals) -> u64| more(self.arrivals.map(pick), earlier.arrivals.map(pick));
        Counters {
            multicast: more(self.multicast, earlier.multicast),
            rp_filter: more(self.rp_filter, earlier.rp_filter),
            bad_checksums: more(self.bad_checksums, earlier.bad_checksums),
            queries_ever: self.queries,
            link_drops: of_link(|arrivals| arrivals.drops),
            link_frame_errors: of_link(|arrivals| arrivals.frame_errors),
            link_overruns: of_link(|arrivals| arrivals.overruns),
            backlog_drops: Some(self.backlog_drops.wrapping_sub(earlier.backlog_drops)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_chains_that_filter_the_family_count() {
        let chain = |family, kind: &str, hook| BaseChain {
            family,
            table: "t".into(),
            name: "c".into(),
            kind: kind.into(),
            hook,
        };
        let group = "239.77.1.1:4242".parse().unwrap();
        let found = |chain: &BaseChain| chain_of(chain, group).map(|chain| (chain.family, chain.hook));
        assert_eq!(found(&chain(1, "filter", 1)), Some(("inet", Hook::Input)));
        assert_eq!(found(&chain(2, "filter", 3)), Some(("ip", Hook::Output)));
        assert_eq!(found(&chain(5, "filter", 0)), Some(("netdev", Hook::Prerouting)));
        assert_eq!(
            (found(&chain(10, "filter", 1)), found(&chain(1, "nat", 1)), found(&chain(1, "filter", 2))),
            (None, None, None)
        );
    }
}
