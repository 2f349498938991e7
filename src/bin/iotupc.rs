//! The receiver.

use std::process::ExitCode;

use iotupd::cli::{ClockUnsetArg, Parsed, ReceiverArgs, parse};
use iotupd::drive::receive::{ReceiveFileOptions, receive};
use iotupd::drive::{Report, TrustOptions, run as run_reported};
use iotupd::failure::{Exit, Failure};
use iotupd::receiver::ClockUnset;

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
        file: args.file,
        group: args.group.addr,
        zone: args.group.zone,
        interface: args.interface,
        timeout: args.timeout,
        idle_timeout: args.idle_timeout,
        size_max: args.max_size.map(|size| size.0),
        decode: !args.no_decode,
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
    run_reported(&mut Report::new(PROGRAM, args.json), |report| receive(&options, report))
}
