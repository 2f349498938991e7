//! Commands that mend things, as one would type them.

use std::fmt;
use std::net::{IpAddr, SocketAddr};

use super::facts::{Chain, Facts, Hook};

/// Where a command is to be given.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Where {
    /// On this host.
    Here,
    /// On the host that sends, or is to.
    Server,
    /// On a switch of the network, here as on one that runs Linux.
    Switch,
}

impl Where {
    /// The name by which programs know it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Here => "host",
            Self::Server => "server",
            Self::Switch => "switch",
        }
    }
}

/// A command.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Remedy {
    /// As a shell takes it. Words in capitals are to be replaced.
    pub command: String,
    /// Where.
    pub place: Where,
}

impl fmt::Display for Remedy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.place {
            Where::Here => f.write_str(&self.command),
            Where::Server => write!(f, "on the server: {}", self.command),
            Where::Switch => write!(f, "on the switch: {}", self.command),
        }
    }
}

pub(super) fn here(command: impl Into<String>) -> Remedy {
    Remedy { command: command.into(), place: Where::Here }
}

pub(super) fn on_server(command: impl Into<String>) -> Remedy {
    Remedy { command: command.into(), place: Where::Server }
}

pub(super) fn on_switch(command: impl Into<String>) -> Remedy {
    Remedy { command: command.into(), place: Where::Switch }
}

/// The same diagnosis with all privileges.
pub(super) fn as_root(facts: &Facts) -> Remedy {
    let sources: String = facts.sources.iter().map(|source| format!(" --source {source}")).collect();
    let send = if facts.is_sender { " --send" } else { "" };
    here(format!("sudo iotup doctor -i {} {}{sources}{send}", facts.interface(), facts.group))
}

/// Receiving by this interface, or sending. The receiver's FILE is overwritten: it is never named to who wants to send.
pub(super) fn use_interface(facts: &Facts, interface: &str) -> Remedy {
    let program = if facts.is_sender { "iotupd" } else { "iotupc" };
    here(format!("{program} -i {interface} FILE {}", facts.group))
}

/// What lets the group through all chains that may drop it at the hook.
pub(super) fn let_through(facts: &Facts, hooks: &[Hook]) -> Remedy {
    let command = match &facts.chains {
        None => "sudo nft list ruleset".to_owned(),
        Some(chains) => {
            let rules: Vec<_> = chains
                .iter()
                .filter(|chain| hooks.contains(&chain.hook))
                .map(|chain| accept(chain, &datagrams_of(facts.group)))
                .collect();
            if rules.is_empty() { legacy(facts.group, hooks) } else { rules.join(" && ") }
        }
    };
    here(command)
}

/// What lets through what this host says of its memberships.
pub(super) fn let_reports_through(facts: &Facts) -> Remedy {
    let what = if facts.group.is_ipv4() { "ip protocol igmp" } else { "meta l4proto ipv6-icmp" };
    let chains = facts.chains.iter().flatten().filter(|chain| chain.hook == Hook::Output);
    let rules: Vec<_> = chains.map(|chain| accept(chain, what)).collect();
    here(match (rules.is_empty(), facts.group.is_ipv4()) {
        (false, _) => rules.join(" && "),
        (true, true) => "iptables -I OUTPUT -p igmp -j ACCEPT".into(),
        (true, false) => "ip6tables -I OUTPUT -p ipv6-icmp -j ACCEPT".into(),
    })
}

fn accept(chain: &Chain, what: &str) -> String {
    format!("nft insert rule {} {} {} {what} accept", chain.family, chain.table, chain.name)
}

fn datagrams_of(group: SocketAddr) -> String {
    let family = if group.is_ipv4() { "ip" } else { "ip6" };
    format!("{family} daddr {} udp dport {}", group.ip(), group.port())
}

/// Without a chain of nftables it is the older way.
fn legacy(group: SocketAddr, hooks: &[Hook]) -> String {
    let program = if group.is_ipv4() { "iptables" } else { "ip6tables" };
    let chain = if hooks.contains(&Hook::Output) { "OUTPUT" } else { "INPUT" };
    format!("{program} -I {chain} -d {} -p udp --dport {} -j ACCEPT", group.ip(), group.port())
}

/// The name that sysctl(8) knows an interface's option by: with slashes where the interface has a dot in its own.
pub(super) fn conf(family: &str, interface: &str, option: &str) -> String {
    let separator = if interface.contains('.') { "/" } else { "." };
    ["net", family, "conf", interface, option].join(separator)
}

/// `address` and the length that makes it a route to it alone.
pub(super) fn host_route(address: IpAddr) -> String {
    match address {
        IpAddr::V4(address) => format!("{address}/32"),
        IpAddr::V6(address) => format!("{address}/128"),
    }
}
