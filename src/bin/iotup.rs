//! Tools around the server and the receiver.

use std::path::Path;
use std::process::ExitCode;

use iotupd::cli::{DoctorArgs, ManifestArgs, Parsed, Tool, ToolArgs, VerifyArgs, parse};
use iotupd::digest::ObjectTree;
use iotupd::drive::digest_file::{self, CacheFolder};
use iotupd::drive::doctor::{self, DoctorOptions, SendPlan};
use iotupd::drive::verify::{VerifyOptions, verify};
use iotupd::drive::{Report, serve};
use iotupd::failure::{Exit, Failure, shown};
use iotupd::limits::{MANIFEST_SIGNED_SIZE_MAX, SIGNATURE_FIXED_SIZE, TRUSTED_COMMENT_SIZE_MAX};
use iotupd::manifest::DisplayName;
use iotupd::sys::{SourceFile, clock, signals};

const PROGRAM: &str = "iotup";
/// Bytes of a text with which every signature fits a packet.
const TEXT_SIZE_MAX: usize = MANIFEST_SIGNED_SIZE_MAX - SIGNATURE_FIXED_SIZE - TRUSTED_COMMENT_SIZE_MAX;

fn main() -> ExitCode {
    iotupd::drive::exit_code(PROGRAM, run())
}

fn run() -> Result<Exit, Failure> {
    let args = match parse::<ToolArgs>(std::env::args_os())? {
        Parsed::Run(args) => args,
        Parsed::Text(text) => return iotupd::drive::print(&text),
    };
    signals::install()?;
    match args.tool {
        Tool::Digest { files } => {
            for path in files {
                let (_, tree) = read(&path)?;
                iotupd::drive::print(&format!("{}  {}\n", tree.digest(), shown(&path)))?;
            }
            Ok(Exit::Complete)
        }
        Tool::Manifest(args) => manifest(&args),
        Tool::Verify(VerifyArgs { manifest, file, pubkey }) => {
            let options = VerifyOptions { manifest, file, public_keys: pubkey };
            iotupd::drive::print(&verify(&options, &mut Report::new(PROGRAM, false))?)
        }
        Tool::Doctor(args) => doctor(args),
    }
}

fn doctor(args: DoctorArgs) -> Result<Exit, Failure> {
    args.check()?;
    let options = DoctorOptions {
        group: args.group.addr,
        zone: args.group.zone,
        interface: args.interface,
        sources: args.sources,
        time: args.time,
        rate: args.rate,
        manifest: args.manifest,
        send: args.send.then_some(SendPlan { hops: args.hops, mtu: args.mtu }),
        json: args.json,
    };
    doctor::doctor(&options, &mut Report::new(PROGRAM, false))
}

fn read(path: &Path) -> Result<(SourceFile, ObjectTree), Failure> {
    let file = SourceFile::open(path)?;
    let tree = digest_file::tree(&file, path, &CacheFolder::default(), &mut Report::new(PROGRAM, false))?;
    Ok((file, tree))
}

fn manifest(args: &ManifestArgs) -> Result<Exit, Failure> {
    let (file, tree) = read(&args.file)?;
    let mut members = serve::manifest_members(&file, &args.file, &tree);
    let name = |option: &str, text: &str| {
        DisplayName::new(text).ok_or_else(|| {
            Failure::new(Exit::Usage, format!("{option} {text:?}"), "not 1 to 128 bytes without control characters")
        })
    };
    if let Some(text) = &args.name {
        members.name = name("--name", text)?;
    }
    if let Some(text) = &args.compatible {
        members.compatible = Some(name("--compatible", text)?);
    }
    members.version = args.version;
    let now = clock::unix_seconds();
    members.expires = args.expires.map(|when| when.unix_seconds(now));
    members.created = args.created.map(|when| when.unix_seconds(now)).or(members.created);
    let cannot = |cause: String| Failure::new(Exit::Usage, format!("write a manifest of {}", shown(&args.file)), cause);
    let text = members.manifest().map_err(|refusal| cannot(refusal.to_string()))?.to_text();
    if text.len() > TEXT_SIZE_MAX {
        let cause = format!("it has {} bytes, and with more than {TEXT_SIZE_MAX} not every signature fits", text.len());
        return Err(cannot(cause).remedy("choose a shorter --name or --compatible"));
    }
    // Exactly the text, without a line feed: these are the bytes that are signed.
    iotupd::drive::print(&text)
}
