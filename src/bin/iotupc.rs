//! The receiver.

use std::process::ExitCode;

use iotupd::cli::{Parsed, ReceiverArgs, parse};
use iotupd::drive::receive::{ReceiveFileOptions, receive};
use iotupd::drive::{Report, run as run_reported};
use iotupd::failure::{Exit, Failure};
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
    args.check()?;
    let output = match args.is_stdout() {
        true => OutputKind::Stdout { spool_dir: args.spool_dir.unwrap_or_else(std::env::temp_dir) },
        false if args.device => OutputKind::Device { state_dir: args.state_dir },
        false => OutputKind::File { no_clobber: args.no_clobber },
    };
    let options = ReceiveFileOptions {
        file: args.file,
        output,
        assume_yes: args.yes,
        group: args.group.addr,
        zone: args.group.zone,
        interface: args.interface,
        timeout: args.timeout,
        idle_timeout: args.idle_timeout,
        size_max: args.max_size.map(|size| size.0),
        decode: !args.no_decode,
    };
    run_reported(&mut Report::new(PROGRAM, args.json), |report| receive(&options, report))
}
