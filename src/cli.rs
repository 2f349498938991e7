//! The command lines: what users may write, parsed once into values that cannot be wrong. Defaults that depend on the machine
//! (the interface, its MTU, its speed) are left to `drive`.

mod announce;
mod doctor;
mod group;
mod report;
mod sources;
mod units;
mod watch;
mod when;

use std::ffi::OsString;
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::error::ErrorKind;
use clap::{Args, Parser, Subcommand, ValueEnum};

pub use announce::{AnnounceArg, AnnouncedOn, announced_on};
pub use doctor::DoctorArgs;
pub use group::GroupArg;
pub use report::ReportArgs;
pub use sources::{HostName, SourceArg, SourceArgs};
pub use units::{ByteCount, Percent, RateArg};
pub use watch::WatchArgs;
pub use when::When;

use crate::failure::{Exit, Failure};
use crate::limits::{MTU_MAX, PACKET_OVERHEAD, RUN_DEFAULT, RUN_MAX, SYMBOL_SIZE_MIN, VIRTUAL_SERVER_COUNT_MAX};
use units::{parse_bytes, parse_duration, parse_fec, parse_packet_delay, parse_percent, parse_rate, parse_window};

/// The smallest MTU with room for the smallest symbol behind IPv6, UDP and packet headers.
const MTU_MIN: i64 = PACKET_OVERHEAD as i64 + SYMBOL_SIZE_MIN as i64;

const GROUP_HELP: &str = "The multicast group: 239.1.2.3, 239.1.2.3:4242, ff12::42, [ff12::42]:4242 or [ff12::42%eth0]:4242 \
    (default port 4242)";

const RECEIVER_USAGE: &str = "iotupc [OPTIONS] <FILE> <GROUP>\n       iotupc [OPTIONS] <FILE> --srv <DOMAIN>\n       \
    iotupc [OPTIONS] --discard <GROUP>\n       iotupc [OPTIONS] --watch --pubkey <FILE|KEY> --state-dir <DIR> <FILE> <GROUP>";

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
    #[arg(long, value_name = "SIZE", value_parser = parse_window)]
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
    /// Lay out all packets once, in a file without a name in the cache folder, and send them from there without copying: takes as
    /// much room and memory as the file with its repair symbols, and pays where the network card cuts messages into packets
    /// (auto: where that is measured at the start; not below 1 Gbit/s)
    #[arg(long, value_name = "WHEN", value_enum, default_value_t = ImageArg::Off)]
    pub image: ImageArg,
    /// Where to keep digests of files, so that they need not be read again, and meanwhile repair symbols, hashes and the packet image
    /// (default: the user's cache folder)
    #[arg(long, value_name = "DIR")]
    pub cache_dir: Option<PathBuf>,
    /// Where to announce what is sent, for receivers that wait for it (iotupc --watch): a group, and perhaps a port; off: nowhere
    /// (default: what is signed, on GROUP with its last number one less, or 255 where that is 0)
    #[arg(long, value_name = "GROUP|off", value_parser = announce::parse)]
    pub announce: Option<AnnounceArg>,
    /// Send what takes FILE's place, and what is signed anew: when FILE, FILE.manifest and its signature have stood still for a second. The
    /// signal SIGHUP asks for the same at any time
    #[arg(long)]
    pub watch: bool,
    /// What to say, and where
    #[command(flatten)]
    pub report: ReportArgs,
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

/// Whether a server sends from a packet image.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub enum ImageArg {
    /// Copy every packet
    Off,
    /// Measure at the start
    Auto,
    /// Image or nothing
    On,
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
        if self.image == ImageArg::On && self.engine == EngineArg::Sendmmsg {
            let cause = "only io_uring sends without copying";
            return Err(Failure::new(Exit::Usage, "--image on with --engine sendmmsg", cause));
        }
        Ok(())
    }
}

/// Receive a file that iotupd sends to GROUP, verify it, and write it to FILE.
///
/// It can start at any time and any number of them can run. What has been received stays in .FILE.part until it is complete.
#[derive(Parser, Debug)]
#[command(name = "iotupc", version, after_help = EXIT_CODES, override_usage = RECEIVER_USAGE)]
pub struct ReceiverArgs {
    /// Where to write the file; an existing one is replaced when the new one is complete and verified. `-` is standard output: bytes are
    /// printed in order, as they are verified
    #[arg(required_unless_present = "discard")]
    file: Option<PathBuf>,
    /// Whom to hear
    #[command(flatten)]
    sources: SourceArgs,
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
    /// Take only what this minisign key has signed: the key itself or a file with it; may be given several times
    #[arg(long, value_name = "FILE|KEY")]
    pub pubkey: Vec<PathBuf>,
    /// With --pubkey: refuse versions below this one
    #[arg(long, value_name = "N", requires = "pubkey", value_parser = clap::value_parser!(u64).range(..1 << 53))]
    pub min_version: Option<u64>,
    /// With --pubkey: refuse versions that are not above the last that was received, which is kept in this file
    #[arg(long, value_name = "PATH", requires = "pubkey")]
    pub state_file: Option<PathBuf>,
    /// With --pubkey: refuse what is not for this, as its manifest says
    #[arg(long, value_name = "STRING", requires = "pubkey")]
    pub compatible: Option<String>,
    /// With --pubkey: what to do with a manifest that expires while this clock says a time before it was made
    #[arg(long, value_name = "WHAT", requires = "pubkey", value_enum, default_value_t = ClockUnsetArg::Ignore)]
    pub clock_unset: ClockUnsetArg,
    /// Keep a FILE that is there, and fail
    #[arg(long, conflicts_with = "device")]
    pub no_clobber: bool,
    /// FILE is a block device: overwrite it, and verify what it reads back. It must not be mounted or in use; what is behind the end of
    /// the file stays as it was
    #[arg(long)]
    pub device: bool,
    /// Overwrite the device without asking
    #[arg(long, requires = "device")]
    pub yes: bool,
    /// Where to keep what is needed to resume a device (default: nowhere; what is on the device and right is kept all the same), and with
    /// --watch what has been installed: one folder for each receiver that watches
    #[arg(long, value_name = "DIR")]
    pub state_dir: Option<PathBuf>,
    /// Where blocks wait, in a file without a name, for their turn on standard output (default: $TMPDIR or /tmp)
    #[arg(long, value_name = "DIR")]
    pub spool_dir: Option<PathBuf>,
    /// Use no repair symbols: complete the file from its own bytes alone, which takes longer where packets are lost
    #[arg(long)]
    pub no_decode: bool,
    /// Wait for new versions
    #[command(flatten)]
    pub watch: WatchArgs,
    /// Only measure: judge and count what comes until it would be enough, and store nothing, so that no disk is in the way; FILE is not
    /// needed and not touched, and nothing is verified
    #[arg(long, conflicts_with_all = ["device", "no_clobber", "spool_dir", "pubkey"])]
    pub discard: bool,
    /// What to say, and where
    #[command(flatten)]
    pub report: ReportArgs,
}

/// From where to where.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Places {
    /// The file to write; `None`: what comes is only counted.
    pub file: Option<PathBuf>,
    /// Whom to hear.
    pub sources: SourceArgs,
}

/// What a clock is good for that has obviously not been set.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub enum ClockUnsetArg {
    /// Refuse it
    Refuse,
    /// Take it as if it did not expire
    Ignore,
}

impl ReceiverArgs {
    /// Checks what no single option shows.
    pub fn places(&self) -> Result<Places, Failure> {
        let mut sources = self.sources.clone();
        if sources.group.is_none() && sources.srv.is_none() {
            // With --discard, a word that stands alone is GROUP.
            let Some(word) = &self.file else {
                return Err(Failure::new(Exit::Usage, "command line", "<GROUP> is missing").remedy("see --help"));
            };
            sources.group = Some(group_of(&word.to_string_lossy())?);
        }
        sources.check()?;
        self.check_output()?;
        self.check_watch()?;
        Ok(Places { file: self.file.clone().filter(|_| !self.discard), sources })
    }

    /// Whether FILE is standard output. A file of that name is `./-`.
    #[must_use]
    pub fn is_stdout(&self) -> bool {
        self.file.as_ref().is_some_and(|file| file.as_os_str() == "-")
    }

    fn check_output(&self) -> Result<(), Failure> {
        let unfit = [("--json", self.report.json), ("--device", self.device), ("--no-clobber", self.no_clobber)];
        if let Some((option, _)) = unfit.iter().find(|(_, is_given)| *is_given && self.is_stdout()) {
            let cause = "the file is to go to standard output";
            return Err(Failure::new(Exit::Usage, format!("obey {option}"), cause).remedy("name a file instead of `-`"));
        }
        if self.spool_dir.is_some() && !self.is_stdout() {
            let cause = "nothing is to go to standard output";
            return Err(Failure::new(Exit::Usage, "obey --spool-dir", cause).remedy("FILE `-` is standard output"));
        }
        Ok(())
    }
}

fn group_of(word: &str) -> Result<GroupArg, Failure> {
    group::parse(word).map_err(|cause| {
        let cause = format!("invalid value '{word}' for '<GROUP>': {cause}");
        Failure::new(Exit::Usage, "command line", cause).remedy("see --help")
    })
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
    /// Print the manifest of a file, to be stored as FILE.manifest and signed with minisign
    Manifest(ManifestArgs),
    /// Check a manifest, its signature, and its file
    Verify(VerifyArgs),
    /// Look why nothing comes from GROUP, and say what mends it; ends with 69 if something keeps packets away
    Doctor(DoctorArgs),
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
    /// Until when it is good: 2027-01-31, 2027-01-31T12:00:00Z, +90d (s, m, h, d from now), or seconds since 1970
    #[arg(long, value_name = "WHEN", value_parser = when::parse)]
    pub expires: Option<When>,
    /// When it was made, in the same forms (default: when the file was last modified)
    #[arg(long, value_name = "WHEN", value_parser = when::parse)]
    pub created: Option<When>,
}

/// What is to be checked.
#[derive(Args, Debug)]
pub struct VerifyArgs {
    /// The manifest; its signature is MANIFEST.minisig beside it
    pub manifest: PathBuf,
    /// The file that it is about (default: the one beside it without .manifest, if that is there)
    pub file: Option<PathBuf>,
    /// The key that must have signed it: a minisign public key or a file with it; may be given several times
    #[arg(long, value_name = "FILE|KEY")]
    pub pubkey: Vec<PathBuf>,
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

    fn receiver(words: &[&str]) -> Result<Places, String> {
        let all = ["iotupc"].iter().chain(words).map(OsString::from);
        match parse::<ReceiverArgs>(all) {
            Ok(Parsed::Run(args)) => args.places().map_err(|failure| failure.to_string()),
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
    fn file_is_needed_unless_what_comes_is_discarded() {
        let places = |words: &[&str]| receiver(words).map(|places| (places.file, places.sources.group));
        let group = Some(group::parse("239.1.1.1").unwrap());
        let (kept, discarded) = (Some(PathBuf::from("file")), None);
        assert_eq!(places(&["file", "239.1.1.1"]), Ok((kept, group.clone())));
        for words in [&["--discard", "239.1.1.1"][..], &["239.1.1.1", "--discard"], &["file", "--discard", "239.1.1.1"]]
        {
            assert_eq!(places(words), Ok((discarded.clone(), group.clone())));
        }
        assert_eq!(places(&["--discard", "--srv", "updates.test"]), Ok((None, None)));
        assert!(receiver(&["--discard", "232.1.1.1", "--source", "192.0.2.1"]).is_ok());
        for (words, cause) in [
            (&["239.1.1.1"][..], "<GROUP>"),
            (&[], "<FILE>"),
            (&["--discard"], "<GROUP>"),
            (&["--discard", "file"], "'<GROUP>': file"),
            (&["--discard", "232.1.1.1"], "source"),
            (&["--discard", "file", "239.1.1.1", "more"], "more"),
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

    fn receiver_args(words: &[&str]) -> Result<ReceiverArgs, String> {
        let all = ["iotupc"].iter().chain(words).map(OsString::from);
        match parse::<ReceiverArgs>(all) {
            Ok(Parsed::Run(args)) => args.places().map(|_| args).map_err(|failure| failure.to_string()),
            Ok(Parsed::Text(text)) => Err(text),
            Err(failure) => Err(failure.to_string()),
        }
    }

    #[test]
    fn options_that_do_not_fit_the_output_are_refused() {
        let group = "239.1.1.1";
        for words in [
            &["-", group, "--json"][..],
            &["-", group, "--device"],
            &["-", group, "--no-clobber"],
            &["file", group, "--spool-dir", "/tmp"],
            &["file", group, "--yes"],
            &["file", group, "--state-dir", "/tmp"],
            &["file", group, "--device", "--no-clobber"],
            &["--discard", group, "--no-clobber"],
            &["--discard", group, "--pubkey", "key"],
        ] {
            let said = receiver_args(words).unwrap_err();
            assert!(!said.contains('\n') && said.contains("--"), "{words:?}: {said}");
        }
        assert!(receiver_args(&["-", group, "--spool-dir", "/tmp"]).unwrap().is_stdout());
        assert!(!receiver_args(&["./-", group, "--json"]).unwrap().is_stdout());
        assert!(receiver_args(&["/dev/sdb", group, "--device", "--yes", "--state-dir", "/tmp", "--json"]).is_ok());
    }

    #[test]
    fn image_is_off_unless_asked_for_and_needs_io_uring() {
        let image = |words: &[&str]| {
            let args = server(&[&["file", "239.1.1.1"], words].concat()).unwrap();
            (args.image, args.check(PacingArg::Default).is_ok())
        };
        assert_eq!(image(&[]), (ImageArg::Off, true));
        assert_eq!(image(&["--image", "auto", "--engine", "sendmmsg"]), (ImageArg::Auto, true));
        assert_eq!(image(&["--image", "on", "--engine", "uring"]), (ImageArg::On, true));
        assert_eq!(image(&["--image", "on", "--engine", "sendmmsg"]), (ImageArg::On, false));
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
            ["--image", "maybe"],
            ["--run", "2049"],
            ["--window", "x"],
            ["--window", "0"],
        ] {
            assert!(server(&["file", "239.1.1.1", bad[0], bad[1]]).is_err(), "{bad:?}");
        }
    }
}
