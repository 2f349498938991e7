//! The receiver.

use std::process::ExitCode;

use iotupd::cli::{ClockUnsetArg, Parsed, Places, ReceiverArgs, ReportArgs, SourceArg, SourceArgs, parse};
use iotupd::discovery::{Origin, SourceName, service_of};
use iotupd::drive::discard::{DiscardOptions, discard};
use iotupd::drive::listen::{Heard, ListenOptions};
use iotupd::drive::receive::{ReceiveFileOptions, receive};
use iotupd::drive::{MetricsOptions, Report, TrustOptions, Verbosity, run as run_reported};
use iotupd::failure::{Exit, Failure};
use iotupd::receiver::ClockUnset;
use iotupd::sys::OutputKind;

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
        false if args.device => OutputKind::Device { state_dir: args.state_dir },
        false => OutputKind::File { no_clobber: args.no_clobber },
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
    run_reported(report, |report| receive(&options, report))
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
