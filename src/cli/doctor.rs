//! What `iotup doctor` is to look at.

use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::Args;

use super::group::{self, GroupArg};
use super::units::{RateArg, parse_duration, parse_rate};
use crate::failure::{Exit, Failure};
use crate::limits::{MTU_MAX, SOURCE_COUNT_MAX};
use crate::types::{RateBps, unusable_source};

/// The longest that anybody is to wait for a diagnosis.
const TIME_MAX: Duration = Duration::from_secs(3600);

/// What to look at.
#[derive(Args, Clone, PartialEq, Eq, Debug)]
pub struct DoctorArgs {
    /// The multicast group and port, and for IPv6 perhaps the interface
    #[arg(value_parser = group::parse, help = super::GROUP_HELP)]
    pub group: GroupArg,
    /// The network interface, by name, number or address (default: the only one that can multicast)
    #[arg(short, long, value_name = "IF")]
    pub interface: Option<String>,
    /// Expect only what this address sends, as iotupc does with the same option (repeatable); also tells how far away the server is
    #[arg(long = "source", value_name = "ADDR", value_parser = parse_source, conflicts_with = "send")]
    pub sources: Vec<IpAddr>,
    /// Look at sending instead of receiving
    #[arg(long)]
    pub send: bool,
    /// The rate to be ready for: 100M, 2.5Gbit (default: what comes or is announced, else 100M)
    #[arg(long, value_name = "RATE", value_parser = parse_limit)]
    pub rate: Option<RateBps>,
    /// How long to listen
    #[arg(long = "seconds", value_name = "TIME", default_value = "5", value_parser = parse_time, conflicts_with = "send")]
    pub time: Duration,
    /// With --send: the TTL or hop limit to send with
    #[arg(long, value_name = "N", visible_alias = "ttl", default_value_t = 1, requires = "send", value_parser = clap::value_parser!(u8).range(1..))]
    pub hops: u8,
    /// With --send: bytes of an IP packet at most
    #[arg(long, value_name = "N", requires = "send", value_parser = clap::value_parser!(u32).range(super::MTU_MIN..=MTU_MAX as i64))]
    pub mtu: Option<u32>,
    /// Compare the clock with what this manifest says, too
    #[arg(long, value_name = "FILE")]
    pub manifest: Option<PathBuf>,
    /// Print one JSON object
    #[arg(long)]
    pub json: bool,
}

impl DoctorArgs {
    /// Checks what no single option shows.
    ///
    /// # Errors
    /// [`Exit::Usage`].
    pub fn check(&self) -> Result<(), Failure> {
        let group = &self.group;
        let what = format!("listen to {group}");
        if self.sources.len() > SOURCE_COUNT_MAX {
            return Err(Failure::new(Exit::Usage, what, format!("more than {SOURCE_COUNT_MAX} sources")));
        }
        if !self.send && group.is_source_specific() && self.sources.is_empty() {
            let cause = "a source-specific group cannot be joined without its source";
            return Err(Failure::new(Exit::Usage, what, cause).remedy("name the server's address with --source"));
        }
        if let Some(source) = self.sources.iter().find(|source| source.is_ipv4() != group.addr.is_ipv4()) {
            let cause = format!("the source {source} is of the other IP version");
            return Err(Failure::new(Exit::Usage, what, cause));
        }
        Ok(())
    }
}

fn parse_source(text: &str) -> Result<IpAddr, String> {
    let address: IpAddr = text.parse().map_err(|_| "not an address".to_owned())?;
    match unusable_source(address) {
        Some(cause) => Err(format!("{address} {cause}")),
        None => Ok(address),
    }
}

fn parse_limit(text: &str) -> Result<RateBps, String> {
    match parse_rate(text)? {
        RateArg::Limit(rate) => Ok(rate),
        RateArg::Max => Err("max is no number, such as 100M or 2.5Gbit".into()),
    }
}

fn parse_time(text: &str) -> Result<Duration, String> {
    parse_duration(text).and_then(|time| match time <= TIME_MAX {
        true => Ok(time),
        false => Err(format!("at most {} s", TIME_MAX.as_secs())),
    })
}

#[cfg(test)]
mod tests {
    use std::ffi::OsString;

    use super::super::{Parsed, Tool, ToolArgs, parse};
    use super::*;

    fn doctor(words: &[&str]) -> Result<DoctorArgs, String> {
        let all = ["iotup", "doctor"].iter().chain(words).map(OsString::from);
        match parse::<ToolArgs>(all).map_err(|failure| failure.to_string())? {
            Parsed::Run(ToolArgs { tool: Tool::Doctor(args) }) => {
                args.check().map_err(|failure| failure.to_string())?;
                Ok(args)
            }
            other => Err(format!("{other:?}")),
        }
    }

    #[test]
    fn group_alone_is_enough() {
        let args = doctor(&["239.1.1.1"]).unwrap();
        assert_eq!((args.time, args.send, args.rate, args.hops), (Duration::from_secs(5), false, None, 1));
        let args = doctor(&["239.1.1.1", "--send", "--rate", "2G", "--hops", "4", "--mtu", "9000"]).unwrap();
        assert_eq!((args.rate, args.hops, args.mtu), (RateBps::new(2_000_000_000), 4, Some(9000)));
        assert!(doctor(&["232.1.1.1", "--source", "192.0.2.1", "--seconds", "500ms"]).is_ok());
        assert!(doctor(&["232.1.1.1", "--send"]).is_ok());
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        for (words, cause) in [
            (&[][..], "<GROUP>"),
            (&["232.1.1.1"], "--source"),
            (&["239.1.1.1", "--source", "fd77::1"], "other IP version"),
            (&["239.1.1.1", "--source", "server.test"], "not an address"),
            (&["239.1.1.1", "--source", "239.1.1.2"], "multicast group"),
            (&["239.1.1.1", "--rate", "max"], "max is no number"),
            (&["239.1.1.1", "--seconds", "0"], "more than 0"),
            (&["239.1.1.1", "--seconds", "2h"], "at most"),
            (&["239.1.1.1", "--hops", "2"], "--send"),
            (&["239.1.1.1", "--send", "--source", "192.0.2.1"], "--source"),
        ] {
            let said = doctor(words).unwrap_err();
            assert!(!said.contains('\n') && said.contains(cause), "{words:?}: {said}");
        }
    }
}
