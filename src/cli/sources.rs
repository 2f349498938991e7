//! Whom a receiver is to hear: GROUP alone, GROUP with sources, or what the DNS says of a domain.

use std::fmt;
use std::net::{IpAddr, SocketAddr};

use clap::Args;
use domain::base::Name;

use super::group::{self, GroupArg};
use crate::failure::{Exit, Failure};
use crate::limits::{DNS_SERVER_COUNT_MAX, SERVER_COUNT_MAX, SOURCE_COUNT_MAX};
use crate::types::unusable_source;

/// The port of a DNS server where none is given.
const DNS_PORT: u16 = 53;

/// A name in the DNS.
pub type HostName = Name<Vec<u8>>;

/// A source, by address or name.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum SourceArg {
    /// Its address.
    Address(IpAddr),
    /// Its name.
    Host(HostName),
}

impl fmt::Display for SourceArg {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Address(address) => write!(f, "{address}"),
            Self::Host(name) => write!(f, "{name}"),
        }
    }
}

/// Whom to hear.
#[derive(Args, Clone, PartialEq, Eq, Debug)]
pub struct SourceArgs {
    /// The multicast group and port, and for IPv6 perhaps the interface
    #[arg(value_parser = group::parse, help = super::GROUP_HELP, required_unless_present_any = ["srv", "discard"])]
    pub group: Option<GroupArg>,
    /// Take only what this host sends, given by address or name (source-specific multicast; repeatable). Groups in 232.0.0.0/8 and
    /// ff3x::/32 need a source
    #[arg(long = "source", value_name = "ADDR", value_parser = parse_source, conflicts_with = "srv")]
    pub sources: Vec<SourceArg>,
    /// Find port and sources by the SRV records at _iotupd._udp.DOMAIN, and the group, if it is not given, by the TXT record there
    #[arg(long, value_name = "DOMAIN", value_parser = parse_name)]
    pub srv: Option<HostName>,
    /// How many of the domain's servers to hear at once, with --srv; the others stand in for those that are silent
    #[arg(long, value_name = "N", default_value_t = 1, requires = "srv",
        value_parser = clap::value_parser!(u8).range(1..=SERVER_COUNT_MAX as i64))]
    pub srv_count: u8,
    /// Ask this DNS server, by address (repeatable; default: those of /etc/resolv.conf)
    #[arg(long = "dns-server", value_name = "ADDR[:PORT]", value_parser = parse_dns_server)]
    pub dns_servers: Vec<SocketAddr>,
    /// Wait for the interface if it is not there yet, or down
    #[arg(long)]
    pub wait_for_interface: bool,
}

impl SourceArgs {
    /// Checks what no single option shows.
    pub(super) fn check(&self) -> Result<(), Failure> {
        let refused = |what: String, cause: String| Failure::new(Exit::Usage, what, cause);
        if self.sources.len() > SOURCE_COUNT_MAX {
            return Err(refused("join".into(), format!("more than {SOURCE_COUNT_MAX} sources")));
        }
        if self.dns_servers.len() > DNS_SERVER_COUNT_MAX {
            return Err(refused("ask the DNS".into(), format!("more than {DNS_SERVER_COUNT_MAX} servers")));
        }
        let Some(group) = &self.group else { return Ok(()) };
        if group.is_source_specific() && self.sources.is_empty() && self.srv.is_none() {
            let cause = "a source-specific group cannot be joined without its source";
            return Err(refused(format!("join {group}"), cause.into())
                .remedy("name the server's address with --source, or a domain with --srv"));
        }
        for source in &self.sources {
            if let SourceArg::Address(address) = source
                && address.is_ipv4() != group.addr.is_ipv4()
            {
                let family = |is_v4| if is_v4 { "IPv4" } else { "IPv6" };
                let (ours, theirs) = (family(address.is_ipv4()), family(group.addr.is_ipv4()));
                let cause = format!("the source is an {ours} address, and the group an {theirs} one");
                return Err(refused(format!("join {group} from {address}"), cause));
            }
        }
        Ok(())
    }
}

fn parse_source(text: &str) -> Result<SourceArg, String> {
    match text.parse::<IpAddr>() {
        Ok(address) => match unusable_source(address) {
            Some(cause) => Err(format!("{address} {cause}")),
            None => Ok(SourceArg::Address(address)),
        },
        Err(_) => parse_name(text).map(SourceArg::Host),
    }
}

/// A complete name, with or without a dot at its end.
fn parse_name(text: &str) -> Result<HostName, String> {
    if !text.is_ascii() {
        return Err("not ASCII: write the name in its encoded form, xn--".into());
    }
    let is_fit = |character: char| character.is_ascii_alphanumeric() || "-_.".contains(character);
    if text.parse::<IpAddr>().is_ok() || !text.chars().all(is_fit) || text.chars().all(|character| character == '.') {
        return Err("not the name of a domain or host".into());
    }
    text.parse().map_err(|_| "not a name that the DNS can have".into())
}

fn parse_dns_server(text: &str) -> Result<SocketAddr, String> {
    let address = text.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>();
    let server = address.map(|address| SocketAddr::new(address, DNS_PORT)).or_else(|_| text.parse());
    match server {
        Ok(server) if server.port() == 0 => Err("port 0".into()),
        Ok(server) => Ok(server),
        Err(_) => Err("not an address, with or without a port".into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sources_are_addresses_or_names() {
        assert_eq!(parse_source("192.0.2.1"), Ok(SourceArg::Address([192, 0, 2, 1].into())));
        assert_eq!(parse_source("a.test").unwrap().to_string(), "a.test");
        assert_eq!(parse_source("A.test."), parse_source("a.TEST"));
        for bad in ["239.1.1.1", "0.0.0.0", "", ".", "a..b", "a b", "192.0.2.1:99", "b\u{fc}cher.test", "-v\u{1b}"] {
            assert!(parse_source(bad).is_err(), "{bad}");
        }
        assert!(parse_source(&format!("{}.test", "a".repeat(64))).is_err());
        assert!(parse_name("192.0.2.1").is_err());
    }

    #[test]
    fn dns_servers_are_addresses_with_or_without_port() {
        for (text, server) in [
            ("192.0.2.1", "192.0.2.1:53"),
            ("192.0.2.1:5353", "192.0.2.1:5353"),
            ("2001:db8::1", "[2001:db8::1]:53"),
            ("[2001:db8::1]", "[2001:db8::1]:53"),
            ("[2001:db8::1]:99", "[2001:db8::1]:99"),
        ] {
            assert_eq!(parse_dns_server(text).unwrap().to_string(), server, "{text}");
        }
        for bad in ["", "a.test", "192.0.2.1:0", "192.0.2.1:", "192.0.2.1:70000"] {
            assert!(parse_dns_server(bad).is_err(), "{bad}");
        }
    }
}
