//! The table of docs/bad-inputs.md: each of its rows is a test, and says what that test demands.
//!
//! Rows whose test is `bad_inputs::...` are made from the table in `bad_inputs/cases.rs`: commands as a shell takes them, that are run
//! here, where they fail before they would use a network (and use the loopback interface should they not). All other rows name a test
//! elsewhere, which must be there, in a file with the very words that the row quotes.

// The tests wait for real processes.
#![allow(clippy::disallowed_methods)]

mod cases;
mod furniture;
#[allow(dead_code, reason = "all tests share it, and none uses all of it")]
#[path = "../keys/signer.rs"]
mod signer;
mod table;

use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::time::Duration;

/// Far more than any of them takes.
const PATIENCE: Duration = Duration::from_secs(30);
const PROGRAMS: [(&str, &str); 3] = [
    ("iotupd", env!("CARGO_BIN_EXE_iotupd")),
    ("iotupc", env!("CARGO_BIN_EXE_iotupc")),
    ("iotup", env!("CARGO_BIN_EXE_iotup")),
];

/// A command that must fail.
struct Case {
    /// Of its test.
    name: &'static str,
    /// What is bad, where the command alone does not show it.
    about: &'static str,
    /// In a folder that [`furniture`] has filled; see [`command_of`].
    command: &'static str,
    exit: i32,
    /// Words of the one line that is said.
    says: &'static str,
}

impl Case {
    /// The program that is to say so.
    fn program(&self) -> (&'static str, &'static str) {
        let is_named = |name: &str| self.command.split([' ', ';']).any(|word| word == name);
        *PROGRAMS.iter().find(|(name, _)| is_named(name)).expect("a command names a program")
    }

    fn check(&self) {
        let folder = tempfile::tempdir().expect("make a folder");
        furniture::fill(folder.path());
        let (exit, stderr) = run(&self.command_line(), self.program().1, folder.path());
        assert_eq!(exit, Some(self.exit), "{}: {stderr}", self.command);
        assert_eq!(stderr.lines().count(), 1, "one line, not: {stderr}");
        assert!(stderr.starts_with(&format!("{}: ", self.program().0)), "says who speaks: {stderr}");
        assert!(stderr.contains(self.says), "`{}` is not in: {stderr}", self.says);
        assert!(furniture::is_untouched(folder.path()), "nothing is created or changed: {}", self.command);
    }

    /// The command with options that make it harmless should it not fail: it would send on the loopback interface, once, or not
    /// wait long for what comes there.
    fn command_line(&self) -> String {
        let (name, _) = self.program();
        let options: &[(&str, &str)] = match name {
            "iotupd" => &[("-i ", "-i lo"), ("--cycles", "--cycles 1")],
            "iotupc" => &[("-i ", "-i lo"), ("--timeout", "--timeout 1s")],
            _ => &[],
        };
        let missing: Vec<_> = options.iter().filter(|(mark, _)| !self.command.contains(mark)).collect();
        let words: String = missing.iter().map(|(_, option)| format!(" {option}")).collect();
        self.command.replacen(name, &format!("\"$PROGRAM\"{words}"), 1)
    }
}

/// The exit code of a shell's command, and what was said on standard error.
fn run(command: &str, program: &str, folder: &Path) -> (Option<i32>, String) {
    let mut shell = Command::new("/bin/sh");
    shell.args(["-c", command]).current_dir(folder).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
    // What the environment says besides is not to matter.
    shell.env_clear().env("PATH", "/usr/bin:/bin").env("HOME", folder.join("home")).env("PROGRAM", program);
    let child = shell.spawn().expect("start a shell");
    let pid = nix::unistd::Pid::from_raw(i32::try_from(child.id()).expect("a process id fits i32"));
    let (sink, ended) = mpsc::channel();
    std::thread::spawn(move || sink.send(child.wait_with_output()));
    let Ok(output) = ended.recv_timeout(PATIENCE) else {
        let _ = nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL);
        panic!("still running: {command}");
    };
    let output = output.expect("wait for the shell");
    (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
}
