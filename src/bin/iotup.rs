//! Tools around the server and the receiver.

use std::path::Path;
use std::process::ExitCode;

use iotupd::cli::{ManifestArgs, Parsed, Tool, ToolArgs, parse};
use iotupd::digest::ObjectTree;
use iotupd::drive::digest_file::{self, CacheFolder};
use iotupd::drive::{Report, serve};
use iotupd::failure::{Exit, Failure, shown};
use iotupd::manifest::DisplayName;
use iotupd::sys::{SourceFile, signals};

const PROGRAM: &str = "iotup";

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
    }
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
    members.expires = args.expires;
    let what = || format!("write a manifest of {}", shown(&args.file));
    let manifest = members.manifest().map_err(|refusal| Failure::new(Exit::Usage, what(), refusal.to_string()))?;
    // Exactly the text, without a line feed: these are the bytes that are signed.
    iotupd::drive::print(&manifest.to_text())
}
