//! The server.

use std::process::ExitCode;

use iotupd::cli::{AnnouncedOn, EngineArg, ImageArg, PacingArg, Parsed, RateArg, ServerArgs, announced_on, parse};
use iotupd::drive::serve::{Announce, EngineChoice, ImageChoice, ServeOptions, serve};
use iotupd::drive::{Report, run as run_reported};
use iotupd::failure::{Exit, Failure};
use iotupd::sender::{Fec, Pacing};

const PROGRAM: &str = "iotupd";

fn main() -> ExitCode {
    iotupd::drive::exit_code(PROGRAM, run())
}

fn run() -> Result<Exit, Failure> {
    let args = match parse::<ServerArgs>(std::env::args_os())? {
        Parsed::Run(args) => args,
        Parsed::Text(text) => return iotupd::drive::print(&text),
    };
    let pacing = args.pacing(std::env::var_os("PKT_DELAY"))?;
    args.check(pacing)?;
    let announce = match announced_on(args.announce.as_ref(), &args.group)? {
        AnnouncedOn::Derived => Announce::Derived,
        AnnouncedOn::Group(group) => Announce::To(group),
        AnnouncedOn::Nowhere => Announce::Off,
    };
    let options = ServeOptions {
        file: args.file,
        group: args.group.addr,
        zone: args.group.zone,
        interface: args.interface,
        pacing: match pacing {
            PacingArg::Default => None,
            PacingArg::Rate(RateArg::Limit(rate)) => Some(Pacing::Rate(rate)),
            PacingArg::Rate(RateArg::Max) => Some(Pacing::Unpaced),
            PacingArg::PacketDelay(delay) => Some(Pacing::PacketDelay(delay)),
        },
        virtual_servers: args.virtual_servers,
        start_ppm: args.start_offset.map(|offset| offset.ppm),
        fec: Fec { percent: args.fec, run: args.run, window_size: args.window.map(|size| size.0) },
        passes: args.cycles,
        mtu: args.mtu,
        hops: args.hops,
        bind_addr: args.bind_addr,
        engine: match args.engine {
            EngineArg::Auto => EngineChoice::Auto,
            EngineArg::Uring => EngineChoice::Uring,
            EngineArg::Sendmmsg => EngineChoice::Sendmmsg,
        },
        image: match args.image {
            ImageArg::Off => ImageChoice::Off,
            ImageArg::Auto => ImageChoice::Auto,
            ImageArg::On => ImageChoice::On,
        },
        cache_dir: args.cache_dir,
        announce,
        watch: args.watch,
    };
    run_reported(&mut Report::new(PROGRAM, args.json), |report| serve(&options, report))
}
