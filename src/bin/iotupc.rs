//! The receiver.

use std::path::PathBuf;
use std::process::ExitCode;

use iotupd::cli::{
    AnnounceArg, AnnouncedOn, ClockUnsetArg, GroupArg, Parsed, Places, ReceiverArgs, ReportArgs, SourceArg, SourceArgs,
    WatchArgs, announced_on, parse,
};
use iotupd::discovery::{Origin, SourceName, service_of};
use iotupd::drive::agent::{WatchOptions, watch};
use iotupd::drive::discard::{DiscardOptions, discard};
use iotupd::drive::listen::{Heard, ListenOptions, Part};
use iotupd::drive::receive::{ReceiveFileOptions, receive};
use iotupd::drive::{MetricsOptions, Report, TrustOptions, Verbosity, run as run_reported};
use iotupd::failure::{Exit, Failure};
use iotupd::limits::{HOOK_RETRY_DEFAULT, HOOK_TIME_DEFAULT};
use iotupd::receiver::ClockUnset;
use iotupd::sys::{Other, OutputKind};

const PROGRAM: &str = "iotupc";

fn main() -> ExitCode {
    iotupd::drive::exit_code(PROGRAM, run())
}

fn run() -> Result<Exit, Failure> {
    let args = match parse::<ReceiverArgs>(std::env::args_os())? {
        Parsed::Run(args) => args,
        Parsed::Text(text) => return iotupd::drive::print(&text),
    };
    let Places { file, sources } = args.places()?;
    let group = sources.group.clone();
    let listen = listen_options(sources, args.interface.clone())?;
    let (size_max, decode) = (args.max_size.map(|size| size.0), !args.no_decode);
    let report = &mut Report::with_verbosity(PROGRAM, args.report.json, verbosity(&args.report));
    if let Some(path) = args.report.metrics.clone() {
        let (object_file, group) = (file.clone().unwrap_or_default(), listen.heard.to_string());
        report.write_metrics(MetricsOptions { file: path, prefix: "iotup_receiver", object_file, group })?;
    }
    let is_stdout = args.is_stdout();
    let Some(file) = file else {
        let options =
            DiscardOptions { listen, timeout: args.timeout, idle_timeout: args.idle_timeout, size_max, decode };
        return run_reported(report, |report| discard(&options, report));
    };
    let output = match is_stdout {
        true => OutputKind::Stdout { spool_dir: args.spool_dir.unwrap_or_else(std::env::temp_dir) },
        false if args.device => OutputKind::Device { state_dir: args.state_dir.clone() },
        // An agent never goes back to an older version.
        false => {
            let other = if args.watch.watch { Other::Remove } else { Other::SetAside };
            OutputKind::File { no_clobber: args.no_clobber, other }
        }
    };
    let options = ReceiveFileOptions {
        file,
        output,
        assume_yes: args.yes,
        listen,
        timeout: args.timeout,
        idle_timeout: args.idle_timeout,
        size_max,
        decode,
        trust: (!args.pubkey.is_empty()).then_some(TrustOptions {
            public_keys: args.pubkey,
            version_min: args.min_version,
            state_file: args.state_file,
            compatible: args.compatible,
            clock_unset: match args.clock_unset {
                ClockUnsetArg::Refuse => ClockUnset::Refuse,
                ClockUnsetArg::Ignore => ClockUnset::Ignore,
            },
        }),
    };
    match args.state_dir.filter(|_| args.watch.watch) {
        Some(state_dir) => {
            let options = watch_options(options, args.watch, state_dir, group.as_ref())?;
            run_reported(report, |report| watch(&options, report))
        }
        None => run_reported(report, |report| receive(&options, report)),
    }
}

fn watch_options(
    receive: ReceiveFileOptions,
    args: WatchArgs,
    state_dir: PathBuf,
    group: Option<&GroupArg>,
) -> Result<WatchOptions, Failure> {
    Ok(WatchOptions {
        receive,
        state_dir,
        part: part(&args, group)?,
        hook: args.exec,
        hook_time_max: args.exec_timeout.unwrap_or(HOOK_TIME_DEFAULT),
        hook_retry: args.exec_retry.unwrap_or(HOOK_RETRY_DEFAULT),
        splay: args.splay.unwrap_or_default(),
    })
}

/// Where news come.
fn part(watch: &WatchArgs, group: Option<&GroupArg>) -> Result<Part, Failure> {
    match (watch.announce.as_ref(), group) {
        (asked, Some(group)) => Ok(match announced_on(asked, group)? {
            AnnouncedOn::Derived => Part::Announcements(None),
            AnnouncedOn::Group(group) => Part::Announcements(Some(group)),
            AnnouncedOn::Nowhere => Part::Data,
        }),
        (Some(AnnounceArg::Off), None) => Ok(Part::Data),
        (Some(AnnounceArg::Group(asked)), None) => Ok(Part::Announcements(Some(asked.addr))),
        (None, None) => Ok(Part::Announcements(None)),
    }
}

fn listen_options(args: SourceArgs, interface: Option<String>) -> Result<ListenOptions, Failure> {
    let source = |source| match source {
        SourceArg::Address(address) => SourceName::Address(address),
        SourceArg::Host(name) => SourceName::Host(name),
    };
    let group = args.group.as_ref();
    let heard = match (&args.srv, group) {
        (None, Some(group)) if args.sources.is_empty() => Heard::Anyone(group.addr),
        (None, Some(group)) => Heard::Sources(Origin::Sources {
            group: group.addr,
            sources: args.sources.into_iter().map(source).collect(),
        }),
        (Some(domain), _) => Heard::Sources(Origin::Domain {
            service: service_of(domain).map_err(|cause| Failure::new(Exit::Usage, "--srv", cause))?,
            group: group.map(|group| group.addr.ip()),
            port: group.filter(|group| group.has_port).map(|group| group.addr.port()),
            server_count: args.srv_count.into(),
        }),
        (None, None) => return Err(Failure::new(Exit::Usage, "receive", "neither a group nor a domain is named")),
    };
    Ok(ListenOptions {
        heard,
        part: Part::Data,
        zone: args.group.and_then(|group| group.zone),
        interface,
        wait_for_interface: args.wait_for_interface,
        dns_servers: args.dns_servers,
    })
}

fn verbosity(args: &ReportArgs) -> Verbosity {
    match (args.quiet, args.verbose) {
        (true, _) => Verbosity::Quiet,
        (false, true) => Verbosity::Verbose,
        (false, false) => Verbosity::Normal,
    }
}
