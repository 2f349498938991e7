//! The receiver.

use std::process::ExitCode;

use iotupd::cli::{ClockUnsetArg, Parsed, Places, ReceiverArgs, parse};
use iotupd::drive::discard::{DiscardOptions, discard};
use iotupd::drive::receive::{ReceiveFileOptions, receive};
use iotupd::drive::{Report, TrustOptions, run as run_reported};
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
    let Places { file, group } = args.places()?;
    let (size_max, decode) = (args.max_size.map(|size| size.0), !args.no_decode);
    let report = &mut Report::new(PROGRAM, args.json);
    let is_stdout = args.is_stdout();
    let Some(file) = file else {
        let options = DiscardOptions {
            group: group.addr,
            zone: group.zone,
            interface: args.interface,
            timeout: args.timeout,
            idle_timeout: args.idle_timeout,
            size_max,
            decode,
        };
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
        group: group.addr,
        zone: group.zone,
        interface: args.interface,
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
