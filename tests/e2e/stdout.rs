//! Standard output as output: what is printed is the start of the object at every moment, and all of it at the end.

use std::fs::{self, File};
use std::io::{BufRead, BufReader, Read};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::files::{Content, MIB, assert_same, make};
use crate::lab::{Host, Lab};
use crate::run::{Process, Program, Refusal, run_to_end, serve};

const GROUP: &str = "239.77.1.1";

struct Bench {
    lab: Lab,
    server_host: Host,
    host: Host,
    source: PathBuf,
}

impl Bench {
    fn new(size: u64) -> Self {
        let mut lab = Lab::new();
        let (server_host, host) = (lab.host(), lab.host());
        let source = make(&lab, "source", Content::Random { size, seed: 1 });
        lab.folder("spool");
        Self { lab, server_host, host, source }
    }

    fn serve(&self, rate: &str, options: &[&str]) -> Process {
        serve(&self.lab, &self.server_host, &self.source, GROUP, &[&["--rate", rate], options].concat())
    }

    fn command(&self, options: &[&str]) -> Command {
        let mut command = self.host.command(Program::Receiver.path());
        command.args(["-i", "eth0", "--timeout", "80s", "--spool-dir"]).arg(self.lab.path("spool"));
        command.args(options).arg("-").arg(GROUP);
        command
    }

    fn start(&self, out: impl Into<Stdio>) -> Child {
        self.command(&[]).stdout(out).stderr(Stdio::piped()).spawn().expect("start a receiver")
    }

    fn assert_no_spool(&self) {
        assert_eq!(fs::read_dir(self.lab.path("spool")).expect("list the folder").count(), 0);
    }
}

fn ended(child: Child) -> Refusal {
    let output = child.wait_with_output().expect("wait for the receiver");
    Refusal { exit: output.status.code(), stderr: String::from_utf8_lossy(&output.stderr).into_owned() }
}

#[test]
fn object_is_printed_whole_and_in_order() {
    for (size, options) in [(9 * MIB + 77, &[][..]), (9 * MIB + 77, &["--fec", "0"]), (1000, &[]), (0, &[])] {
        let bench = Bench::new(size);
        let _server = bench.serve("100M", options);
        let copy = bench.lab.path("copy");
        let said = ended(bench.start(File::create(&copy).expect("create the copy")));
        assert_eq!(said.exit, Some(0), "{size}: {}", said.stderr);
        assert!(said.stderr.contains("standard output: complete and verified"), "{}", said.stderr);
        assert_same(&copy, &bench.source);
        bench.assert_no_spool();
    }
}

#[test]
fn what_is_printed_before_the_end_is_the_start_of_the_object() {
    let bench = Bench::new(24 * MIB);
    let mut receiver = bench.start(Stdio::piped());
    // So that it has the first block first.
    let mut said = BufReader::new(receiver.stderr.take().expect("stderr is piped")).lines().map_while(Result::ok);
    assert!(said.any(|line| line.contains("listening")));
    let _server = bench.serve("60M", &["--fec", "0", "--start-offset", "0%"]);
    let mut printed = vec![0; MIB as usize];
    receiver.stdout.as_mut().expect("stdout is piped").read_exact(&mut printed).expect("a block is printed");
    let pid = Pid::from_raw(i32::try_from(receiver.id()).expect("a process id fits i32"));
    kill(pid, Signal::SIGTERM).expect("stop the receiver");
    let mut out = receiver.stdout.take().expect("stdout is piped");
    out.read_to_end(&mut printed).expect("read what is printed");
    assert_eq!(receiver.wait().expect("wait for the receiver").code(), Some(143));
    drop(said);
    let source = fs::read(&bench.source).expect("read the source");
    assert!(printed.len() < source.len(), "{} bytes", printed.len());
    assert!(printed == source[..printed.len()]);
    bench.assert_no_spool();
}

#[test]
fn reader_that_goes_away_ends_the_transfer() {
    let bench = Bench::new(8 * MIB);
    let _server = bench.serve("50M", &[]);
    let mut receiver = bench.start(Stdio::piped());
    drop(receiver.stdout.take());
    ended(receiver).ends_with(Program::Receiver, 74, &["write to standard output", "broken pipe"]);
    let full = File::options().write(true).open("/dev/full").expect("open /dev/full");
    let said = ended(bench.start(full));
    said.ends_with(Program::Receiver, 74, &["write to standard output", "no space left on device"]);
    bench.assert_no_spool();
}

#[test]
fn events_cannot_share_standard_output_with_the_object() {
    let bench = Bench::new(1);
    run_to_end(&mut bench.command(&["--json"])).is(Program::Receiver, 64, &["--json", "standard output"]);
    let mut command = bench.host.command(Program::Receiver.path());
    let said = run_to_end(command.args(["--spool-dir"]).arg(bench.lab.path("missing")).arg("-").arg(GROUP));
    said.is(Program::Receiver, 73, &["missing", "no such file or directory", "--spool-dir"]);
}
