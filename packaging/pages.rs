//! Man pages and completions, made from the command lines that the programs themselves use.
//!
//! usage: pages FOLDER        (writes FOLDER/{man,bash,fish,zsh}/...)

use std::fs;
use std::io;
use std::path::Path;

use clap::{Command, CommandFactory};
use clap_complete::{Shell, generate_to};
use iotupd::cli::{ReceiverArgs, ServerArgs, ToolArgs};

fn main() -> io::Result<()> {
    let folder = std::env::args_os().nth(1).ok_or_else(|| io::Error::other("usage: pages FOLDER"))?;
    let folder = Path::new(&folder);
    for kind in ["man", "bash", "fish", "zsh"] {
        fs::create_dir_all(folder.join(kind))?;
    }
    for command in [ServerArgs::command(), ReceiverArgs::command(), ToolArgs::command()] {
        clap_mangen::generate_to(command.clone(), folder.join("man"))?;
        complete(command, folder)?;
    }
    Ok(())
}

fn complete(mut command: Command, folder: &Path) -> io::Result<()> {
    let name = command.get_name().to_owned();
    for (shell, kind) in [(Shell::Bash, "bash"), (Shell::Fish, "fish"), (Shell::Zsh, "zsh")] {
        generate_to(shell, &mut command, &name, folder.join(kind))?;
    }
    // As bash-completion looks for them: without an ending.
    fs::rename(folder.join(format!("bash/{name}.bash")), folder.join(format!("bash/{name}")))
}
