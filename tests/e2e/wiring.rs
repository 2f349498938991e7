//! More of a lab's network than one flat bridge: routers, switches that snoop, cables that are pulled, and counters at ports.

use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::lab::{Family, Host, Lab, port_of, succeed};
use crate::run::{PATIENCE, Process};

impl Family {
    /// A group of source-specific multicast that may leave the link.
    pub(crate) fn ssm_group(self) -> &'static str {
        match self {
            Self::V4 => "232.77.1.1",
            Self::V6 => "ff3e::8000:77",
        }
    }

    pub(crate) const BOTH: [Self; 2] = [Self::V4, Self::V6];
}

impl Host {
    /// The address of `eth0` on the bridge that all hosts share.
    pub(crate) fn address(&self, family: Family) -> String {
        self.address_in(family, 0)
    }

    /// The address in the network of this number.
    pub(crate) fn address_in(&self, family: Family, network: u32) -> String {
        match family {
            Family::V4 => format!("10.77.{network}.{}", self.number),
            // As programs print it.
            Family::V6 if network == 0 => format!("fd77::{}", self.number),
            Family::V6 => format!("fd77:{network}::{}", self.number),
        }
    }

    /// Runs `ip WORDS...` in this host's namespace.
    pub(crate) fn ip(&self, words: &[&str]) {
        succeed(Command::new("ip").args(["-n", &self.netns]).args(words));
    }

    /// What `ip WORDS...` says in this host's namespace.
    pub(crate) fn ip_says(&self, words: &[&str]) -> String {
        output(Command::new("ip").args(["-n", &self.netns]).args(words))
    }

    /// Counts the packets of transfers that reach this host from now on, before anything of it looks at them.
    pub(crate) fn count_arrivals(&self) -> Counter {
        self.filter(
            "add table inet seen; \
             add chain inet seen arrivals { type filter hook prerouting priority -300 ; }; \
             add rule inet seen arrivals udp dport 4242 counter",
        );
        Counter { netns: self.netns.clone(), family: "inet" }
    }
}

/// Counts packets of transfers at one place.
pub(crate) struct Counter {
    netns: String,
    family: &'static str,
}

impl Counter {
    /// What was counted.
    pub(crate) fn packets(&self) -> u64 {
        let mut list = Command::new("ip");
        list.args(["netns", "exec", &self.netns, "nft", "list", "table", self.family, "seen"]);
        let said = output(&mut list);
        let count = said.split("packets ").nth(1).and_then(|rest| rest.split_whitespace().next());
        count.and_then(|count| count.parse().ok()).unwrap_or_else(|| panic!("no counter in {said}"))
    }

    /// Waits until so many more packets have been counted.
    pub(crate) fn wait_for(&self, more: u64) {
        let end = self.packets() + more;
        wait_until("packets are counted", || self.packets() >= end);
    }
}

impl Lab {
    /// A new host on the network behind a router: a host with a second interface.
    pub(crate) fn host_behind(&mut self, router: &Host) -> Host {
        let host = self.lonely_host();
        let network = router.number;
        self.connect(&host, "eth0", &format!("br{network}"), network);
        for (family, option) in [(Family::V4, "-4"), (Family::V6, "-6")] {
            host.ip(&[option, "route", "add", "default", "via", &router.address_in(family, network)]);
        }
        host
    }

    /// Lets the host carry what this source sends to this group from the shared bridge to its own network. It does so as long as the
    /// process lives.
    pub(crate) fn route(&self, router: &Host, family: Family, source: &Host) -> Process {
        let (group, source) = (family.ssm_group(), source.address(family));
        let config = self.path(&format!("{group}.routes"));
        let rules = format!("mroute from eth0 source {source} group {group} to eth1\n");
        std::fs::write(&config, rules).expect("write the router's rules");
        let mut command = router.command("smcrouted");
        command.arg("-n").arg("-f").arg(&config);
        command.arg("-P").arg(self.path(&format!("{group}.pid"))).arg("-u").arg(self.path(&format!("{group}.sock")));
        let process = Process::spawn(&mut command);
        let option = if family == Family::V4 { "-4" } else { "-6" };
        wait_until("the router has its rule", || router.ip_says(&[option, "mroute", "show"]).contains(group));
        process
    }

    /// Lets the bridge deliver groups only to those who asked for them, and ask who does. Leaving takes two of these intervals.
    pub(crate) fn snoop(&self, last_member_interval: Duration) {
        let interval = (last_member_interval.as_millis() / 10).to_string();
        let bridge = ["link", "set", "br0", "type", "bridge"];
        // The bridge begins to hold back when those who answer its first question have had the time to.
        self.switch.ip(&[&bridge[..], &["mcast_query_response_interval", "50"]].concat());
        self.switch.ip(&[&bridge[..], &["mcast_last_member_interval", &interval]].concat());
        self.switch.ip(&[&bridge[..], &["mcast_igmp_version", "3", "mcast_mld_version", "2"]].concat());
        self.switch.ip(&[&bridge[..], &["mcast_snooping", "1", "mcast_querier", "1"]].concat());
    }

    /// Counts the packets of transfers that this host sends from now on, where they reach the bridge.
    pub(crate) fn count_departures(&self, host: &Host) -> Counter {
        self.count_at_port(host, "udp dport 4242")
    }

    /// Counts the packets in which this host says which groups of IPv4 it wants, from now on.
    pub(crate) fn count_reports(&self, host: &Host) -> Counter {
        self.count_at_port(host, "ip protocol igmp")
    }

    fn count_at_port(&self, host: &Host, what: &str) -> Counter {
        let port = port_of(host, "eth0");
        self.switch.filter(&format!(
            "add table netdev seen; \
             add chain netdev seen departures {{ type filter hook ingress device {port} priority 0 ; }}; \
             add rule netdev seen departures {what} counter"
        ));
        Counter { netns: self.switch.netns.clone(), family: "netdev" }
    }

    /// Switches the bridge's port of a host on or off: the host sees its carrier come and go.
    pub(crate) fn set_port(&self, host: &Host, state: &str) {
        self.switch.ip(&["link", "set", &port_of(host, "eth0"), state]);
    }

    /// Sets how long packets may be at the bridge's port of a host.
    pub(crate) fn set_port_mtu(&self, host: &Host, mtu: u32) {
        self.switch.ip(&["link", "set", &port_of(host, "eth0"), "mtu", &mtu.to_string()]);
    }

    /// Takes the host's interface away.
    pub(crate) fn unplug(&self, host: &Host) {
        host.ip(&["link", "delete", "eth0"]);
    }

    /// Gives the host a new interface of the old name.
    pub(crate) fn plug(&self, host: &Host) {
        self.connect(host, "eth0", "br0", 0);
    }
}

/// Waits until something is so that nobody tells of.
pub(crate) fn wait_until(what: &str, is_so: impl Fn() -> bool) {
    let started = Instant::now();
    while !is_so() {
        assert!(started.elapsed() < PATIENCE, "not within {PATIENCE:?}: {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn output(command: &mut Command) -> String {
    let output = command.stdin(Stdio::null()).output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    String::from_utf8_lossy(&output.stdout).into_owned()
}
