//! Block devices as outputs: loop devices, whose bytes are those of a file.

use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::process::Stdio;

use crate::errors::human_receiver;
use crate::files::{Content, MIB, make};
use crate::lab::{BlockDevice, Family, Host, Lab, Mount, make_file_system};
use crate::run::{Process, Program, count, receive_until, run_to_end, serve, text};

const GROUP: &str = "239.77.1.1";
/// The object has a last block that ends in the middle of a sector.
const SIZE: u64 = 6 * MIB + 12_345;
const DEVICE_SIZE: u64 = 9 * MIB;
/// A block of the object that is all zeroes.
const ZERO_BLOCK: u64 = 2;

/// Runs a command at a terminal of its own, whose keys are standard input, and ends as it does.
const TERMINAL: &str = "import os, pty, sys; sys.exit(os.waitstatus_to_exitcode(pty.spawn(sys.argv[1:])))";

/// An object, a device full of something else, a server's host and a receiver's.
struct Bench {
    lab: Lab,
    server_host: Host,
    host: Host,
    source: PathBuf,
    backing: PathBuf,
}

impl Bench {
    fn new() -> Self {
        let mut lab = Lab::new();
        let (server_host, host) = (lab.host(), lab.host());
        let source = make(&lab, "source", Content::Random { size: SIZE, seed: 1 });
        let file = OpenOptions::new().write(true).open(&source).expect("open the source");
        file.write_all_at(&vec![0; MIB as usize], ZERO_BLOCK * MIB).expect("make a block zero");
        let backing = make(&lab, "backing", Content::Random { size: DEVICE_SIZE, seed: 2 });
        Self { lab, server_host, host, source, backing }
    }

    fn serve(&self, rate: &str, options: &[&str]) -> Process {
        serve(&self.lab, &self.server_host, &self.source, GROUP, &[&["--rate", rate], options].concat())
    }

    fn receive(&self, device: &BlockDevice, options: &[&str]) -> Process {
        let all = [&["--device", "--yes", "--timeout", "80s"], options].concat();
        receive_until(&self.host, device.path(), GROUP, &all)
    }

    /// What the device should hold: the object, and behind it what was there before.
    fn expected(&self) -> Vec<u8> {
        let mut expected = fs::read(&self.backing).expect("read the backing file");
        let source = fs::read(&self.source).expect("read the source");
        expected[..source.len()].copy_from_slice(&source);
        expected
    }
}

#[test]
fn object_is_written_to_a_device_and_what_is_behind_it_stays() {
    for options in [&["--fec", "0"][..], &[]] {
        let bench = Bench::new();
        let expected = bench.expected();
        let device = BlockDevice::new(&bench.backing);
        let server = bench.serve("100M", options);
        let ended = bench.receive(&device, &[]).wait();
        let _ = ended.completed();
        let [notice] = ended.notices("device")[..] else { panic!("one notice, not {:?}", ended.notices("device")) };
        assert!(text(notice, "text").contains(&*device.path().to_string_lossy()), "{notice}");
        assert!(fs::read(&bench.backing).expect("read the backing file") == expected);

        // What is there already need not come again.
        let again = bench.receive(&device, &[]).wait();
        assert_eq!(count(&again.completed()["counts"], "stored"), 0);
        assert!(fs::read(&bench.backing).expect("read the backing file") == expected);
        server.terminate();
    }
}

#[test]
fn device_is_decoded_to_where_packets_are_lost() {
    let bench = Bench::new();
    bench.lab.disable_offloads(&bench.server_host);
    bench.lab.disable_offloads(&bench.host);
    bench.host.lose(50);
    let expected = bench.expected();
    let device = BlockDevice::new(&bench.backing);
    let _server = bench.serve("100M", &[]);
    let _ = bench.receive(&device, &[]).wait().completed();
    assert!(fs::read(&bench.backing).expect("read the backing file") == expected);
}

#[test]
fn device_is_not_touched_unasked_or_while_it_is_in_use() {
    let bench = Bench::new();
    let before = fs::read(&bench.backing).expect("read the backing file");
    let refused = |device: &Path, options: &[&str], exit: i32, words: &[&str]| {
        human_receiver(&bench.host, device, &[options, &["--timeout", "5s"]].concat()).is(
            Program::Receiver,
            exit,
            words,
        );
    };
    let device = BlockDevice::new(&bench.backing);
    refused(device.path(), &[], 73, &["is a block device", "--device"]);
    refused(device.path(), &["--device"], 64, &["overwrite", "9.0 MiB", "no terminal", "--yes"]);
    refused(&bench.source, &["--device", "--yes"], 73, &["source", "is not a block device"]);
    refused(&bench.lab.path("nothing"), &["--device", "--yes"], 73, &["nothing", "no such file or directory"]);

    let mut options = OpenOptions::new();
    let claimed = options.read(true).custom_flags(nix::libc::O_EXCL).open(device.path()).expect("claim the device");
    refused(device.path(), &["--device", "--yes"], 73, &["is in use"]);
    drop(claimed);

    let program = bench.lab.path("iotupc");
    fs::copy(Program::Receiver.path(), &program).expect("copy the program");
    let mut nobody = bench.host.command_as_nobody(program);
    let said = run_to_end(nobody.args(["--device", "--yes"]).arg(device.path()).arg(GROUP));
    said.is(Program::Receiver, 73, &["overwrite", "permission denied"]);

    let read_only = BlockDevice::with(&["--read-only"], &bench.backing);
    refused(read_only.path(), &["--device", "--yes"], 73, &["is read-only"]);
    drop((read_only, device));
    assert!(fs::read(&bench.backing).expect("read the backing file") == before);
}

#[test]
fn device_that_is_mounted_is_left_alone() {
    let bench = Bench::new();
    let image = bench.lab.path("image");
    File::create_new(&image).and_then(|file| file.set_len(128 << 20)).expect("make an image");
    let device = BlockDevice::new(&image);
    make_file_system(&device);
    // What it holds is named to whoever is to agree.
    let said = human_receiver(&bench.host, device.path(), &["--device", "--timeout", "5s"]);
    said.is(Program::Receiver, 64, &["btrfs"]);
    let mount = Mount::of(&bench.lab, "mounted", &device);
    let said = human_receiver(&bench.host, device.path(), &["--device", "--yes", "--timeout", "5s"]);
    said.is(Program::Receiver, 73, &["is mounted on", "mounted"]);
    fs::write(mount.path("file"), "still here").expect("the file system works");
}

#[test]
fn somebody_at_a_terminal_is_asked() {
    let bench = Bench::new();
    let before = fs::read(&bench.backing).expect("read the backing file");
    let device = BlockDevice::new(&bench.backing);
    // Nobody serves: whoever goes on receives nothing.
    for (answer, exit, word) in [("no\n", 73, "the answer was not yes"), ("yes\n", 69, "nothing was received")] {
        let mut command = bench.host.command("python3");
        command.args(["-c", TERMINAL, Program::Receiver.path(), "--device", "--timeout", "1s"]);
        command.arg(device.path()).arg(GROUP).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().expect("start a terminal");
        let mut input = child.stdin.take().expect("stdin is piped");
        input.write_all(answer.as_bytes()).expect("answer");
        let output = child.wait_with_output().expect("wait for the receiver");
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        assert_eq!(output.status.code(), Some(exit), "{said}");
        assert!(said.contains("Type yes") && said.contains(word), "{said}");
    }
    assert!(fs::read(&bench.backing).expect("read the backing file") == before);
}

#[test]
fn object_larger_than_the_device_is_refused() {
    let bench = Bench::new();
    let small = make(&bench.lab, "small", Content::Random { size: 4 * MIB, seed: 3 });
    let before = fs::read(&small).expect("read the backing file");
    let device = BlockDevice::new(&small);
    let server = bench.serve("100M", &[]);
    let _ = server.wait_for_event("sending");
    let options = ["--device", "--yes", "--max-size", "1G", "--timeout", "5s"];
    let ended = receive_until(&bench.host, device.path(), GROUP, &options).wait();
    assert_eq!(ended.exit, Some(69), "stderr: {}", ended.stderr);
    let [notice] = ended.notices("too_large")[..] else { panic!("one notice, not {:?}", ended.notices("too_large")) };
    assert!(text(notice, "text").contains("the size of the device"), "{notice}");
    assert!(fs::read(&small).expect("read the backing file") == before);
}

#[test]
fn killed_receiver_goes_on_with_the_device_where_it_was() {
    let bench = Bench::new();
    let expected = bench.expected();
    let device = BlockDevice::new(&bench.backing);
    let state = bench.lab.folder("state");
    let state_dir = state.to_string_lossy().into_owned();
    // Without a map only whole blocks outlive the end of the program, so they come in order, from the first: two thirds of the object
    // are three data blocks of five, of which the third may not be on the device yet, beside the one of zeroes.
    let from_start = ["--start-offset", "0%"];
    let in_order = [&from_start[..], &["--fec", "0"]].concat();
    for (options, serving) in [(vec!["--state-dir", &state_dir], from_start.to_vec()), (vec![], in_order)] {
        let receiver = bench.receive(&device, &options);
        let _ = receiver.wait_for_event("listening");
        let server = bench.serve("10M", &serving);
        let symbol_count = count(&server.wait_for_event("sending"), "round_length");
        let most = |event: &serde_json::Value| event["event"] == "progress" && count(event, "held") >= SIZE * 2 / 3;
        let _ = receiver.wait_for("two thirds of the object", most);
        receiver.kill();
        let resumed = bench.receive(&device, &options).wait();
        let stored = count(&resumed.completed()["counts"], "stored");
        assert!(stored < symbol_count * 2 / 3, "{stored} of {symbol_count} symbols came again");
        assert!(fs::read(&bench.backing).expect("read the backing file") == expected);
        assert_eq!(fs::read_dir(&state).expect("list the folder").count(), 0, "the map has gone");
        server.terminate();
        // The next is to begin anew.
        let noise = vec![0xEE; SIZE as usize];
        let file = OpenOptions::new().write(true).open(device.path()).expect("open the device");
        file.write_all_at(&noise, 0).and_then(|()| file.sync_all()).expect("overwrite the object");
    }
}

#[test]
fn device_that_fails_ends_the_transfer_in_one_line() {
    let mut lab = Lab::new();
    let (server_host, host) = (lab.host(), lab.host());
    let source = make(&lab, "source", Content::Random { size: 8 * MIB, seed: 1 });
    // A device that says to have 64 MiB and cannot keep more than 3.
    let disk = lab.small_disk("disk", 3 * MIB);
    let backing = disk.path("backing");
    File::create_new(&backing).and_then(|file| file.set_len(64 << 20)).expect("make a backing file");
    let device = BlockDevice::new(&backing);
    let _server = serve(&lab, &server_host, &source, Family::V4.group(), &["--rate", "100M"]);
    let said = human_receiver(&host, device.path(), &["--device", "--yes", "--timeout", "60s"]);
    said.ends_with(Program::Receiver, 74, &[&device.path().to_string_lossy(), "run again"]);
    drop(device);
}
