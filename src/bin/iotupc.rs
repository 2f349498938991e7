//! The receiver.

use std::process::ExitCode;

use iotupd::cli::{Parsed, ReceiverArgs, SourceArg, SourceArgs, parse};
use iotupd::discovery::{Origin, SourceName, service_of};
use iotupd::drive::listen::{Heard, ListenOptions};
use iotupd::drive::receive::{ReceiveFileOptions, receive};
use iotupd::drive::{Report, run as run_reported};
use iotupd::failure::{Exit, Failure};

const PROGRAM: &str = "iotupc";

fn main() -> ExitCode {
    iotupd::drive::exit_code(PROGRAM, run())
}

fn run() -> Result<Exit, Failure> {
    let args = match parse::<ReceiverArgs>(std::env::args_os())? {
        Parsed::Run(args) => args,
        Parsed::Text(text) => return iotupd::drive::print(&text),
    };
    args.check()?;
    let options = ReceiveFileOptions {
        listen: listen_options(args.sources, args.interface)?,
        file: args.file,
        timeout: args.timeout,
        idle_timeout: args.idle_timeout,
        size_max: args.max_size.map(|size| size.0),
        decode: !args.no_decode,
    };
    run_reported(&mut Report::new(PROGRAM, args.json), |report| receive(&options, report))
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
