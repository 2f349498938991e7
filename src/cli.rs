//! The command lines: what users may write, parsed once into values that cannot be wrong. Defaults that depend on the machine
//! (the interface, its MTU, its speed) are left to `drive`.

mod group;
mod sources;
mod units;

use std::ffi::OsString;
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::error::ErrorKind;
use clap::{Args, Parser, Subcommand, ValueEnum};

pub use group::GroupArg;
pub use sources::{HostName, SourceArg, SourceArgs};
pub use units::{ByteCount, Percent, RateArg};

use crate::failure::{Exit, Failure};
use crate::limits::{MTU_MAX, PACKET_OVERHEAD, RUN_DEFAULT, RUN_MAX, SYMBOL_SIZE_MIN, VIRTUAL_SERVER_COUNT_MAX};
use units::{parse_bytes, parse_duration, parse_fec, parse_packet_delay, parse_percent, parse_rate};

/// The smallest MTU with room for the smallest symbol behind IPv6, UDP and packet headers.
const MTU_MIN: i64 = PACKET_OVERHEAD as i64 + SYMBOL_SIZE_MIN as i64;

const GROUP_HELP: &str = "The multicast group: 239.1.2.3, 239.1.2.3:4242, ff12::42, [ff12::42]:4242 or [ff12::42%eth0]:4242 \
    (default port 4242)";

const EXIT_CODES: &str = "\
Exit codes: 0 complete, 64 usage, 65 bad data, 66 input missing or unreadable, 69 no source or nothing received, \
73 cannot create, 74 input/output error, 75 incomplete (run again to resume), 77 not authentic, 130 interrupted, 143 terminated";

/// Send FILE for ever in a loop over UDP multicast to GROUP.
///
/// It accepts nothing and listens on nothing; any number of receivers (iotupc) takes the file at no cost to the server.
#[derive(Parser, Debug)]
#[command(name = "iotupd", version, after_help = EXIT_CODES)]
pub struct ServerArgs {
    /// The file to send
    pub file: PathBuf,
    /// The multicast group and port, and for IPv6 perhaps the interface
    #[arg(value_parser = group::parse, help = GROUP_HELP)]
    pub group: GroupArg,
    /// The network interface, by name, number or address (default: the only one that can multicast)
    #[arg(short, long, value_name = "IF")]
    pub interface: Option<String>,
    /// IP-level bits per second of all packets: 100M, 2.5Gbit, max (default: 100M, or half the link's speed if that is less)
    #[arg(long, value_name = "RATE", value_parser = parse_rate, conflicts_with = "pkt_delay")]
    pub rate: Option<RateArg>,
    /// Time from one packet to the next, in microseconds unless a unit is given: 10, 10us, 1ms; packets less than 200 us apart go
    /// in groups of up to 200 us [env: PKT_DELAY]
    #[arg(long, value_name = "TIME", value_parser = parse_packet_delay)]
    pub pkt_delay: Option<Duration>,
    /// Threads that send, each the whole cycle from its own place; a rate is shared among them, PKT_DELAY is of each (default: one
    /// for every 10 Gbit/s of the rate, at most one for each processor; one with --pkt-delay)
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=i64::from(VIRTUAL_SERVER_COUNT_MAX)))]
    pub virtual_servers: Option<u32>,
    /// Where in the cycle to start, in percent: 30% (default: differs from host to host)
    #[arg(long, value_name = "PERCENT", value_parser = parse_percent)]
    pub start_offset: Option<Percent>,
    /// Repair symbols in percent of the file, computed once and kept in the cache folder: any packets make up for as many lost ones
    /// of the same MiB; 0% sends the file in its order
    #[arg(long, value_name = "PERCENT", default_value = "50%", value_parser = parse_fec)]
    pub fec: u16,
    /// Packets of one MiB before the next MiB's turn, with --fec: longer runs are cheaper to write, shorter ones spread bursts of loss
    #[arg(long, value_name = "N", default_value_t = RUN_DEFAULT, value_parser = clap::value_parser!(u16).range(1..=i64::from(RUN_MAX)))]
    pub run: u16,
    /// How much of the file to send before going on, with --fec: no more than receivers can cache; whole MiB (default: all up to 1G,
    /// else 256M)
    #[arg(long, value_name = "SIZE", value_parser = parse_bytes)]
    pub window: Option<ByteCount>,
    /// End after so many passes over the file and its repair symbols (default: never)
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub cycles: Option<u64>,
    /// Bytes of an IP packet at most (default: the interface's MTU, at most 1500; 1280 with --hops above 1)
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(MTU_MIN..=MTU_MAX as i64))]
    pub mtu: Option<u32>,
    /// Routers that a packet may pass, plus one (IPv4 TTL, IPv6 hop limit); above 1 needs --rate or --pkt-delay
    #[arg(long, value_name = "N", visible_alias = "ttl", default_value_t = 1, value_parser = clap::value_parser!(u8).range(1..))]
    pub hops: u8,
    /// The source address (default: the interface's)
    #[arg(long, value_name = "ADDR")]
    pub bind_addr: Option<IpAddr>,
    /// How to hand packets to the kernel (auto: io_uring where it may be used)
    #[arg(long, value_name = "ENGINE", value_enum, default_value_t = EngineArg::Auto)]
    pub engine: EngineArg,
    /// Where to keep digests of files, so that they need not be read again (default: the user's cache folder)
    #[arg(long, value_name = "DIR")]
    pub cache_dir: Option<PathBuf>,
    /// Print events as JSON, one object a line, on standard output
    #[arg(long)]
    pub json: bool,
}

/// How a server hands packets to the kernel.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub enum EngineArg {
    /// io_uring where it may be used, else sendmmsg
    Auto,
    /// io_uring or nothing
    Uring,
    /// sendmmsg
    Sendmmsg,
}

/// How fast a server was asked to send.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum PacingArg {
    /// Not at all.
    Default,
    /// By rate.
    Rate(RateArg),
    /// By the time from one packet to the next.
    PacketDelay(Duration),
}

impl ServerArgs {
    /// The pacing asked for: options beat the environment, whose PKT_DELAY is `environment`.
    pub fn pacing(&self, environment: Option<OsString>) -> Result<PacingArg, Failure> {
        match (self.rate, self.pkt_delay, environment) {
            (Some(rate), _, _) => Ok(PacingArg::Rate(rate)),
            (None, Some(delay), _) => Ok(PacingArg::PacketDelay(delay)),
            (None, None, Some(value)) => {
                let value = value.to_string_lossy();
                let refused = |cause| Failure::new(Exit::Usage, format!("PKT_DELAY={value} in the environment"), cause);
                parse_packet_delay(&value).map(PacingArg::PacketDelay).map_err(refused)
            }
            (None, None, None) => Ok(PacingArg::Default),
        }
    }

    /// Checks what no single option shows.
    pub fn check(&self, pacing: PacingArg) -> Result<(), Failure> {
        if self.hops > 1 && pacing == PacingArg::Default {
            return Err(Failure::new(
                Exit::Usage,
                format!("send beyond the link with --hops {}", self.hops),
                "no rate is given, and nothing else keeps the path from being flooded",
            )
            .remedy("give --rate or --pkt-delay"));
        }
        Ok(())
    }
}

/// Receive a file that iotupd sends to GROUP, verify it, and write it to FILE.
///
/// It can start at any time and any number of them can run. What has been received stays in .FILE.part until it is complete.
#[derive(Parser, Debug)]
#[command(name = "iotupc", version, after_help = EXIT_CODES)]
pub struct ReceiverArgs {
    /// Where to write the file; an existing one is replaced when the new one is complete and verified
    pub file: PathBuf,
    /// Whom to hear
    #[command(flatten)]
    pub sources: SourceArgs,
    /// The network interface, by name, number or address (default: the only one that can multicast)
    #[arg(short, long, value_name = "IF")]
    pub interface: Option<String>,
    /// Give up after so long: 90, 90s, 10m, 2h
    #[arg(long, value_name = "TIME", value_parser = parse_duration)]
    pub timeout: Option<Duration>,
    /// Give up when no packet has come for so long
    #[arg(long, value_name = "TIME", value_parser = parse_duration)]
    pub idle_timeout: Option<Duration>,
    /// Refuse larger files: 500M, 2GiB (K, M, G, T are powers of 1024; KB, MB, GB, TB of 1000; default: the free space)
    #[arg(long, value_name = "SIZE", value_parser = parse_bytes)]
    pub max_size: Option<ByteCount>,
    /// Use no repair symbols: complete the file from its own bytes alone, which takes longer where packets are lost
    #[arg(long)]
    pub no_decode: bool,
    /// Print events as JSON, one object a line, on standard output
    #[arg(long)]
    pub json: bool,
}

impl ReceiverArgs {
    /// Checks what no single option shows.
    pub fn check(&self) -> Result<(), Failure> {
        self.sources.check()
    }
}

/// Tools around iotupd and iotupc.
#[derive(Parser, Debug)]
#[command(name = "iotup", version, after_help = EXIT_CODES)]
pub struct ToolArgs {
    /// What to do
    #[command(subcommand)]
    pub tool: Tool,
}

/// One tool.
#[derive(Subcommand, Debug)]
pub enum Tool {
    /// Print the BLAKE3 digest of files, as b3sum does
    Digest {
        /// The files
        #[arg(required = true)]
        files: Vec<PathBuf>,
    },
    /// Print the manifest of a file
    Manifest(ManifestArgs),
}

/// What a manifest is to say.
#[derive(Args, Debug)]
pub struct ManifestArgs {
    /// The file
    pub file: PathBuf,
    /// The name to show (default: the file's)
    #[arg(long)]
    pub name: Option<String>,
    /// The version; a larger one is newer
    #[arg(long, value_name = "N", default_value_t = 0, value_parser = clap::value_parser!(u64).range(..1 << 53))]
    pub version: u64,
    /// What the file is for
    #[arg(long, value_name = "STRING")]
    pub compatible: Option<String>,
    /// Until when it is good, in seconds since 1970
    #[arg(long, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(..1 << 53))]
    pub expires: Option<u64>,
}

/// What came of reading a command line.
#[derive(Debug)]
pub enum Parsed<T> {
    /// The arguments.
    Run(T),
    /// Help or version, to be printed on standard output.
    Text(String),
}

/// Reads the command line `words`, of which the first is the program.
pub fn parse<T: Parser>(words: impl Iterator<Item = OsString>) -> Result<Parsed<T>, Failure> {
    match T::try_parse_from(words) {
        Ok(args) => Ok(Parsed::Run(args)),
        Err(error) => match error.kind() {
            ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => Ok(Parsed::Text(error.render().to_string())),
            ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand => {
                Err(Failure::new(Exit::Usage, "command line", "nothing to do is named").remedy("see --help"))
            }
            _ => Err(usage_failure(&error)),
        },
    }
}

/// clap's explanation in one line.
fn usage_failure(error: &clap::Error) -> Failure {
    let text = error.render().to_string();
    let lines = text.lines().map(str::trim).take_while(|line| !line.is_empty() && !line.starts_with("Usage:"));
    let cause = lines.collect::<Vec<_>>().join(" ");
    let cause = cause.strip_prefix("error: ").unwrap_or(&cause);
    Failure::new(Exit::Usage, "command line", cause).remedy("see --help")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::limits::FEC_PERCENT_DEFAULT;

    fn server(words: &[&str]) -> Result<ServerArgs, String> {
        let all = ["iotupd"].iter().chain(words).map(OsString::from);
        match parse::<ServerArgs>(all) {
            Ok(Parsed::Run(args)) => Ok(args),
            Ok(Parsed::Text(text)) => Err(text),
            Err(failure) => Err(failure.to_string()),
        }
    }

    #[test]
    fn usage_error_is_one_line_with_the_cause() {
        let said = server(&["file", "10.1.2.3"]).unwrap_err();
        assert!(!said.contains('\n') && said.contains("10.1.2.3") && said.contains("not a multicast group"), "{said}");
        let said = server(&["file"]).unwrap_err();
        assert!(!said.contains('\n') && said.contains("<GROUP>"), "{said}");
        let said = server(&["file", "239.1.1.1", "--rate", "1M", "--pkt-delay", "1"]).unwrap_err();
        assert!(!said.contains('\n') && said.contains("--rate") && said.contains("--pkt-delay"), "{said}");
    }

    fn receiver(words: &[&str]) -> Result<ReceiverArgs, String> {
        let all = ["iotupc"].iter().chain(words).map(OsString::from);
        match parse::<ReceiverArgs>(all) {
            Ok(Parsed::Run(args)) => args.check().map(|()| args).map_err(|failure| failure.to_string()),
            Ok(Parsed::Text(text)) => Err(text),
            Err(failure) => Err(failure.to_string()),
        }
    }

    #[test]
    fn receiver_needs_a_group_or_a_domain_and_a_source_where_the_group_does() {
        assert!(receiver(&["file", "239.1.1.1"]).is_ok());
        assert!(receiver(&["file", "239.1.1.1", "--source", "192.0.2.1"]).is_ok());
        assert!(receiver(&["file", "232.1.1.1", "--source", "192.0.2.1", "--source", "a.test"]).is_ok());
        assert!(receiver(&["file", "ff3e::8000:1", "--source", "2001:db8::1"]).is_ok());
        assert!(receiver(&["file", "--srv", "updates.test"]).is_ok());
        assert!(receiver(&["file", "232.1.1.1", "--srv", "updates.test", "--srv-count", "2"]).is_ok());
        for (words, cause) in [
            (&["file"][..], "<GROUP>"),
            (&["file", "--source", "192.0.2.1"], "<GROUP>"),
            (&["file", "232.1.1.1"], "--source"),
            (&["file", "ff3e::8000:1"], "--srv"),
            (&["file", "232.1.1.1", "--source", "2001:db8::1"], "IPv6"),
            (&["file", "ff3e::8000:1", "--source", "192.0.2.1"], "IPv4"),
            (&["file", "239.1.1.1", "--source", "192.0.2.1", "--srv", "a.test"], "--srv"),
            (&["file", "--srv", "192.0.2.1"], "192.0.2.1"),
            (&["file", "239.1.1.1", "--srv-count", "2"], "--srv"),
            (&["file", "--srv", "a.test", "--srv-count", "9"], "9"),
            (&["file", "--srv", "a.test", "--dns-server", "b.test"], "b.test"),
        ] {
            let said = receiver(words).unwrap_err();
            assert!(!said.contains('\n') && said.contains(cause), "{words:?}: {said}");
        }
    }

    #[test]
    fn options_beat_the_environment() {
        let args = server(&["file", "239.1.1.1", "--rate", "10M"]).unwrap();
        assert_eq!(args.pacing(Some("7".into())).unwrap(), PacingArg::Rate(parse_rate("10M").unwrap()));
        let args = server(&["file", "239.1.1.1"]).unwrap();
        assert_eq!(args.pacing(Some("7".into())).unwrap(), PacingArg::PacketDelay(Duration::from_micros(7)));
        assert_eq!(args.pacing(None).unwrap(), PacingArg::Default);
        let said = args.pacing(Some("soon".into())).unwrap_err().to_string();
        assert!(said.starts_with("PKT_DELAY=soon in the environment: "), "{said}");
    }

    #[test]
    fn leaving_the_link_needs_a_rate() {
        let args = server(&["file", "239.1.1.1", "--ttl", "2"]).unwrap();
        assert_eq!(args.check(PacingArg::Default).unwrap_err().exit, Exit::Usage);
        assert!(args.check(PacingArg::PacketDelay(Duration::from_micros(1))).is_ok());
    }

    #[test]
    fn repair_symbols_are_half_of_the_file_unless_asked_for() {
        let fec = |words: &[&str]| server(&[&["file", "239.1.1.1"], words].concat()).map(|args| (args.fec, args.run));
        assert_eq!(fec(&[]), Ok((FEC_PERCENT_DEFAULT, RUN_DEFAULT)));
        assert_eq!(fec(&["--fec", "0"]), Ok((0, RUN_DEFAULT)));
        assert_eq!(fec(&["--fec", "100%", "--run", "46"]), Ok((100, 46)));
    }

    #[test]
    fn bounds_of_numbers_are_kept() {
        for bad in [
            ["--cycles", "0"],
            ["--mtu", "603"],
            ["--mtu", "9217"],
            ["--hops", "0"],
            ["--hops", "256"],
            ["--start-offset", "101%"],
            ["--fec", "101%"],
            ["--fec", "-1"],
            ["--fec", "0.5%"],
            ["--run", "0"],
            ["--run", "2049"],
            ["--window", "x"],
        ] {
            assert!(server(&["file", "239.1.1.1", bad[0], bad[1]]).is_err(), "{bad:?}");
        }
    }
}
