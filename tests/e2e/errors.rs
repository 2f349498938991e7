//! Everything that users can get wrong: the exit code says what kind of mistake it was, and one line says which and what to do.

use std::fs::{self, Permissions};
use std::os::unix::fs::{FileExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use nix::sys::signal::Signal;
use nix::sys::stat::Mode;

use crate::files::{Content, MIB, make};
use crate::lab::{Family, Host, Lab};
use crate::run::{Process, Program, Refusal, part_of, receive, receive_until, run_to_end, serve, text};

const GROUP: &str = "239.77.1.1";

/// A host with one interface, a file to send and a place to receive to: all that a command line can name.
struct Desk {
    lab: Lab,
    host: Host,
    file: PathBuf,
}

impl Desk {
    fn new() -> Self {
        let mut lab = Lab::new();
        let host = lab.host();
        let file = make(&lab, "source", Content::Random { size: 1000, seed: 1 });
        Self { lab, host, file }
    }

    fn command(&self, program: Program) -> Command {
        let mut command = self.host.command(program.path());
        command.env_remove("PKT_DELAY").env("HOME", self.lab.path(""));
        command
    }

    /// `iotupd WORDS...`
    fn serve(&self, words: &[&str]) -> Refusal {
        run_to_end(self.command(Program::Server).args(words))
    }

    /// `iotupd OPTIONS... FILE GROUP` with a good file and a good group.
    fn serve_with(&self, options: &[&str]) -> Refusal {
        run_to_end(self.command(Program::Server).args(options).arg(&self.file).arg(GROUP))
    }

    /// `iotupc WORDS...`
    fn receive(&self, words: &[&str]) -> Refusal {
        run_to_end(self.command(Program::Receiver).args(words))
    }

    /// `iotupc OPTIONS... FILE GROUP` with a good file and a good group.
    fn receive_with(&self, options: &[&str]) -> Refusal {
        run_to_end(self.command(Program::Receiver).args(options).arg(self.lab.path("copy")).arg(GROUP))
    }

    /// `iotupc FILE GROUP` with a good group, told to give up soon should it start.
    fn receive_into(&self, file: &Path) -> Refusal {
        run_to_end(self.command(Program::Receiver).args(["--timeout", "5s"]).arg(file).arg(GROUP))
    }
}

impl Refusal {
    /// Fails unless the program said just one line, with all these words in it.
    pub(crate) fn is(&self, program: Program, exit: i32, words: &[&str]) {
        let stderr = &self.stderr;
        assert_eq!(self.exit, Some(exit), "exit code for {words:?}; stderr: {stderr}");
        assert_eq!(stderr.lines().count(), 1, "one line on stderr, not: {stderr}");
        assert!(stderr.starts_with(&format!("{}: ", program.name())), "says who speaks: {stderr}");
        self.names(words);
    }

    /// The same of a program that had begun its work, and said so.
    pub(crate) fn ends_with(&self, program: Program, exit: i32, words: &[&str]) {
        assert_eq!(self.exit, Some(exit), "exit code for {words:?}; stderr: {}", self.stderr);
        let last = self.stderr.lines().last().unwrap_or_default().to_owned();
        Self { exit: self.exit, stderr: last }.is(program, exit, words);
    }

    pub(crate) fn names(&self, words: &[&str]) {
        for word in words {
            assert!(self.stderr.contains(word), "`{word}` is not in: {}", self.stderr);
        }
    }

    fn is_usage(&self, program: Program, words: &[&str]) {
        self.is(program, 64, words);
    }
}

#[test]
fn missing_words_are_usage_errors() {
    let desk = Desk::new();
    desk.serve(&[]).is_usage(Program::Server, &["<FILE>", "<GROUP>"]);
    desk.serve(&["file"]).is_usage(Program::Server, &["<GROUP>"]);
    desk.receive(&[]).is_usage(Program::Receiver, &["<FILE>", "<GROUP>"]);
    desk.receive(&["file"]).is_usage(Program::Receiver, &["<GROUP>"]);
    desk.serve_with(&["--no-such-option"]).is_usage(Program::Server, &["--no-such-option"]);
    desk.receive_with(&["--no-such-option"]).is_usage(Program::Receiver, &["--no-such-option"]);
    desk.serve_with(&["extra"]).is_usage(Program::Server, &[GROUP]);
}

#[test]
fn help_and_version_are_no_errors() {
    let desk = Desk::new();
    for program in [Program::Server, Program::Receiver] {
        for option in ["--help", "--version"] {
            let said = run_to_end(desk.command(program).arg(option));
            assert_eq!((said.exit, said.stderr.as_str()), (Some(0), ""), "{} {option}", program.name());
        }
    }
}

#[test]
fn source_that_cannot_be_read_is_refused() {
    let desk = Desk::new();
    let lab = &desk.lab;
    let serve = |path: &Path| desk.serve(&[&path.to_string_lossy(), GROUP]);
    serve(&lab.path("nothing")).is(Program::Server, 66, &["nothing", "no such file or directory"]);
    serve(&lab.folder("folder")).is(Program::Server, 66, &["folder", "is a directory"]);
    nix::unistd::mkfifo(&lab.path("fifo"), Mode::S_IRWXU).expect("make a fifo");
    serve(&lab.path("fifo")).is(Program::Server, 66, &["fifo", "is a fifo"]);
    serve(Path::new("/dev/null")).is(Program::Server, 66, &["/dev/null", "is a character device"]);
}

#[test]
fn source_of_another_user_is_refused() {
    let desk = Desk::new();
    let secret = make(&desk.lab, "secret", Content::Random { size: 10, seed: 1 });
    fs::set_permissions(&secret, Permissions::from_mode(0o600)).expect("hide the file");
    let program = readable_copy(&desk.lab, Program::Server);
    let said = run_to_end(desk.host.command_as_nobody(program).arg(&secret).arg(GROUP));
    said.is(Program::Server, 66, &["secret", "permission denied"]);
}

/// The program where everybody can reach it, which the folder it was built in need not allow.
fn readable_copy(lab: &Lab, program: Program) -> PathBuf {
    let copy = lab.path(program.name());
    fs::copy(program.path(), &copy).expect("copy the program");
    fs::set_permissions(&copy, Permissions::from_mode(0o755)).expect("open the program");
    copy
}

#[test]
fn groups_that_cannot_be_used_are_refused() {
    let desk = Desk::new();
    let file = desk.file.to_string_lossy();
    let refused = [
        ("10.1.2.3", "not a multicast group"),
        ("fd77::1", "not a multicast group"),
        ("224.0.0.1", "reserved"),
        ("ff02::1", "all nodes"),
        ("239.1.2.3:0", "port 0"),
        ("239.1.2.3:70000", "70000"),
        ("239.1.2.3:", "239.1.2.3"),
        ("[ff12::42", "]"),
        ("[ff12::42]4242", "]"),
        ("example.org", "example.org"),
        ("", "GROUP"),
    ];
    for (group, word) in refused {
        desk.serve(&[&file, group]).is_usage(Program::Server, &[group, word]);
        desk.receive(&["copy", group]).is_usage(Program::Receiver, &[group, word]);
    }
}

#[test]
fn source_specific_group_without_a_source_is_refused() {
    let desk = Desk::new();
    for group in ["232.1.1.1", "ff3e::8000:1", "[ff32::1]:4242"] {
        let address = group.trim_start_matches('[').split("]:").next().expect("split gives one");
        desk.receive(&["copy", group]).is_usage(Program::Receiver, &[address, "source"]);
    }
}

#[test]
fn interface_that_does_not_exist_is_refused() {
    let desk = Desk::new();
    desk.serve_with(&["-i", "eth9"]).is_usage(Program::Server, &["eth9", "no such device", "eth0"]);
    desk.receive_with(&["-i", "eth9"]).is_usage(Program::Receiver, &["eth9", "no such device", "eth0"]);
    let file = desk.file.to_string_lossy();
    desk.serve(&[&file, "ff12::42%eth9"]).is_usage(Program::Server, &["eth9", "no such device"]);
    desk.receive(&["copy", "[ff12::42%eth9]:4242"]).is_usage(Program::Receiver, &["eth9", "no such device"]);
    desk.serve(&["-i", "lo", &file, "ff12::42%eth0"]).is_usage(Program::Server, &["lo", "eth0"]);
}

#[test]
fn two_interfaces_and_no_choice_are_refused_and_listed() {
    let desk = Desk::new();
    desk.lab.add_second_interface(&desk.host);
    desk.serve_with(&[]).is_usage(Program::Server, &["eth0", "eth1", "--interface"]);
    desk.receive_with(&[]).is_usage(Program::Receiver, &["eth0", "eth1", "--interface"]);
}

#[test]
fn loopback_is_never_chosen_unasked() {
    let mut lab = Lab::new();
    let host = lab.lonely_host();
    let file = make(&lab, "source", Content::Random { size: 10, seed: 1 });
    let serve = run_to_end(host.command(Program::Server.path()).arg(&file).arg(GROUP));
    serve.is(Program::Server, 69, &["interface", "--interface", "lo"]);
    let receive = run_to_end(host.command(Program::Receiver.path()).arg(lab.path("copy")).arg(GROUP));
    receive.is(Program::Receiver, 69, &["interface", "--interface", "lo"]);
}

#[test]
fn numbers_that_make_no_sense_are_refused() {
    let desk = Desk::new();
    let refused = [
        ("--rate", vec!["0", "-1", "abc", "", "1T0", "99999999999999999999T", "1e400"]),
        ("--pkt-delay", vec!["-1", "abc", "", "10x", "2h", "99999999999999999999"]),
        ("--cycles", vec!["0", "-1", "abc"]),
        ("--start-offset", vec!["101%", "-1%", "abc", "NaN%"]),
        ("--mtu", vec!["100", "100000", "-1", "abc"]),
        ("--hops", vec!["0", "256", "abc"]),
        ("--bind-addr", vec!["abc", "10.1.2"]),
    ];
    for (option, values) in refused {
        for value in values {
            desk.serve_with(&[&format!("{option}={value}")]).is_usage(Program::Server, &[option]);
        }
    }
    for option in ["--timeout", "--idle-timeout", "--max-size"] {
        for value in ["-1", "abc", "", "10parsecs"] {
            desk.receive_with(&[&format!("{option}={value}")]).is_usage(Program::Receiver, &[option]);
        }
    }
}

#[test]
fn two_ways_to_say_how_fast_conflict() {
    let desk = Desk::new();
    let said = desk.serve_with(&["--rate", "1M", "--pkt-delay", "10"]);
    said.is_usage(Program::Server, &["--rate", "--pkt-delay"]);
}

#[test]
fn delay_in_the_environment_is_used_unless_an_option_says_otherwise() {
    let desk = Desk::new();
    let start = |options: &[&str]| {
        let mut command = desk.command(Program::Server);
        command.env("PKT_DELAY", "2ms").args(["--json", "--cache-dir"]).arg(desk.lab.path("cache"));
        let server = Process::spawn(command.args(options).arg(&desk.file).arg(GROUP));
        let sending = server.wait_for_event("sending");
        let _ = server.terminate();
        (sending["rate_bps"].as_u64(), sending["pkt_delay_ns"].as_u64())
    };
    assert_eq!(start(&[]), (None, Some(2_000_000)));
    assert_eq!(start(&["--rate", "1M"]), (Some(1_000_000), None));
    assert_eq!(start(&["--pkt-delay", "5"]), (None, Some(5_000)));
    let said = run_to_end(desk.command(Program::Server).env("PKT_DELAY", "soon").arg(&desk.file).arg(GROUP));
    said.is_usage(Program::Server, &["PKT_DELAY", "soon"]);
}

#[test]
fn leaving_the_link_needs_a_rate() {
    let desk = Desk::new();
    desk.serve_with(&["--hops", "2"]).is_usage(Program::Server, &["--hops 2", "--rate"]);
    desk.serve_with(&["--ttl", "2"]).is_usage(Program::Server, &["--hops 2", "--rate"]);
}

#[test]
fn packets_larger_than_the_interface_takes_are_refused() {
    let desk = Desk::new();
    desk.serve_with(&["--mtu", "1501"]).is_usage(Program::Server, &["1501", "1500", "eth0"]);
}

#[test]
fn address_that_is_not_ours_is_refused() {
    let desk = Desk::new();
    let said = desk.serve_with(&["--bind-addr", "192.0.2.1"]);
    assert!(matches!(said.exit, Some(64 | 69)), "exit code {:?}: {}", said.exit, said.stderr);
    said.is(Program::Server, said.exit.unwrap_or_default(), &["192.0.2.1"]);
}

#[test]
fn output_that_cannot_be_created_is_refused_at_once() {
    let desk = Desk::new();
    let lab = &desk.lab;
    let folder = lab.folder("folder");
    desk.receive_into(&lab.path("nowhere/copy")).is(Program::Receiver, 73, &["nowhere", "no such file or directory"]);
    desk.receive_into(&folder).is(Program::Receiver, 73, &["folder", "is a directory"]);
    desk.receive_into(&lab.path("source/copy")).is(Program::Receiver, 73, &["source", "not a directory"]);

    let program = readable_copy(lab, Program::Receiver);
    let said = run_to_end(desk.host.command_as_nobody(program).arg(folder.join("copy")).arg(GROUP));
    said.is(Program::Receiver, 73, &["folder", "permission denied"]);
}

#[test]
fn partial_file_that_is_a_link_is_refused_and_its_target_is_untouched() {
    let mut lab = Lab::new();
    let (server_host, receiver_host) = (lab.host(), lab.host());
    let precious = make(&lab, "precious", Content::Random { size: 100, seed: 3 });
    let before = fs::read(&precious).expect("read what is precious");
    let copy = lab.path("copy");
    symlink(&precious, part_of(&copy)).expect("make a link");
    let _server = serve_small(&lab, &server_host);
    human_receiver(&receiver_host, &copy, &["--timeout", "60s"]).ends_with(
        Program::Receiver,
        73,
        &[".copy.part", "symbolic link"],
    );
    assert_eq!(fs::read(&precious).expect("read what is precious"), before);
}

#[test]
fn partial_file_that_another_receiver_writes_is_refused() {
    let mut lab = Lab::new();
    let (server_host, receiver_host) = (lab.host(), lab.host());
    let source = make(&lab, "source", Content::Random { size: 4 * MIB, seed: 1 });
    let _server = serve(&lab, &server_host, &source, GROUP, &["--rate", "10M"]);
    let copy = lab.path("copy");
    let first = receive(&receiver_host, &copy, GROUP);
    let _ = first.wait_for_event("progress");
    // So that it is not done before the other has begun.
    first.signal(Signal::SIGSTOP);
    human_receiver(&receiver_host, &copy, &["--timeout", "60s"]).ends_with(
        Program::Receiver,
        73,
        &[".copy.part", "another iotupc"],
    );
    first.signal(Signal::SIGCONT);
    let _ = first.wait().completed();
    crate::files::assert_same(&copy, &source);
}

#[test]
fn full_disk_ends_the_transfer_in_one_line() {
    let mut lab = Lab::new();
    let (server_host, receiver_host) = (lab.host(), lab.host());
    let disk = lab.small_disk("disk", 2 * MIB);
    let source = make(&lab, "source", Content::Random { size: 8 * MIB, seed: 1 });
    let _server = serve(&lab, &server_host, &source, GROUP, &["--rate", "50M"]);
    let copy = disk.path("copy");
    let said = human_receiver(&receiver_host, &copy, &["--max-size", "1G", "--timeout", "60s"]);
    assert!(matches!(said.exit, Some(73 | 74)), "exit code {:?}: {}", said.exit, said.stderr);
    said.ends_with(Program::Receiver, said.exit.unwrap_or_default(), &["copy", "no space left on device"]);
    assert!(!copy.exists(), "no half file under the real name");
}

#[test]
fn object_larger_than_the_free_space_is_refused() {
    let mut lab = Lab::new();
    let (server_host, receiver_host) = (lab.host(), lab.host());
    let disk = lab.small_disk("disk", 2 * MIB);
    let source = make(&lab, "source", Content::Random { size: 8 * MIB, seed: 1 });
    let server = serve(&lab, &server_host, &source, GROUP, &["--rate", "50M"]);
    let _ = server.wait_for_event("sending");
    refused_as_too_large(&receiver_host, &disk.path("copy"), &[]);
}

#[test]
fn object_larger_than_allowed_is_refused() {
    let mut lab = Lab::new();
    let (server_host, receiver_host) = (lab.host(), lab.host());
    let server = serve_small(&lab, &server_host);
    let _ = server.wait_for_event("sending");
    refused_as_too_large(&receiver_host, &lab.path("copy"), &["--max-size", "1M"]);
}

fn refused_as_too_large(host: &Host, copy: &Path, options: &[&str]) {
    let ended = receive_until(host, copy, GROUP, &[options, &["--timeout", "5s"]].concat()).wait();
    assert!(matches!(ended.exit, Some(69 | 75)), "exit code {:?}: {}", ended.exit, ended.stderr);
    let [notice] = ended.notices("too_large")[..] else { panic!("one notice, not {:?}", ended.notices("too_large")) };
    assert!(text(notice, "text").contains("--max-size"), "the remedy is in: {notice}");
    assert!(ended.end()["dropped"]["too_large"].as_u64() > Some(0), "counted: {}", ended.end());
    assert!(!copy.exists() && !part_of(copy).exists(), "nothing is allocated");
}

#[test]
fn receiver_that_hears_nothing_says_why_that_may_be_and_gives_up() {
    let mut lab = Lab::new();
    let host = lab.host();
    // One that waits for packets beside one that has so much time for all: it is noticed after 5 s.
    let idle = receive_until(&host, &lab.path("other"), GROUP, &["--idle-timeout", "8s"]);
    let said = human_receiver(&host, &lab.path("copy"), &["--timeout", "8s"]);
    said.ends_with(Program::Receiver, 69, &[GROUP]);
    assert!(said.stderr.lines().any(|line| line.contains("5 s")), "the silence is noticed: {}", said.stderr);
    assert!(!part_of(&lab.path("copy")).exists());

    let ended = idle.wait();
    assert_eq!(ended.exit, Some(69), "stderr: {}", ended.stderr);
    assert_eq!(ended.notices("silent").len(), 1);
}

#[test]
fn incomplete_transfer_at_the_deadline_can_be_resumed_and_lists_what_is_missing() {
    let mut lab = Lab::new();
    let (server_host, receiver_host) = (lab.host(), lab.host());
    let source = make(&lab, "source", Content::Random { size: 8 * MIB, seed: 1 });
    let serve = |rate| serve(&lab, &server_host, &source, GROUP, &["--rate", rate, "--start-offset", "0%"]);
    // Seven seconds for a pass.
    let server = serve("10M");
    let _ = server.wait_for_event("sending");
    let copy = lab.path("copy");
    let ended = receive_until(&receiver_host, &copy, GROUP, &["--timeout", "3s"]).wait();
    assert_eq!(ended.exit, Some(75), "stderr: {}", ended.stderr);
    let missing = ended.end()["missing"].as_array().expect("a list of ranges");
    assert!(!missing.is_empty() && missing.iter().all(|range| range[0].as_u64() <= range[1].as_u64()), "{missing:?}");
    assert!(part_of(&copy).is_file() && !copy.exists());
    server.kill();
    let _server = serve("50M");
    let _ = receive(&receiver_host, &copy, GROUP).wait().completed();
    crate::files::assert_same(&copy, &source);
}

#[test]
fn server_ends_when_its_file_changes() {
    let mut lab = Lab::new();
    let host = lab.host();
    let source = make(&lab, "source", Content::Random { size: MIB, seed: 1 });
    let mut command = host.command(Program::Server.path());
    command.args(["--cache-dir"]).arg(lab.path("cache")).args(["--rate", "1M"]).arg(&source).arg(GROUP);
    let server = Process::spawn(&mut command);
    server.wait_for_words("sending");
    let file = fs::OpenOptions::new().write(true).open(&source).expect("open the file");
    file.write_all_at(b"something else", 1000).expect("change the file");
    let ended = server.wait();
    let said = Refusal { exit: ended.exit, stderr: ended.stderr };
    said.ends_with(Program::Server, 74, &["source", "changed"]);
}

fn serve_small(lab: &Lab, host: &Host) -> Process {
    let source = make(lab, "source", Content::Random { size: 2 * MIB, seed: 1 });
    serve(lab, host, &source, Family::V4.group(), &["--rate", "20M"])
}

/// A receiver that speaks to people.
pub(crate) fn human_receiver(host: &Host, copy: &Path, options: &[&str]) -> Refusal {
    let mut command = host.command(Program::Receiver.path());
    run_to_end(command.args(["-i", "eth0"]).args(options).arg(copy).arg(GROUP))
}
