//! A kernel that forbids what the server would like to use, at the start or on the way, and a link that takes less than the rate:
//! one warning, and the transfer completes.

use std::path::Path;
use std::process::Command;

use serde_json::Value;

use crate::files::{Content, MIB, assert_same, make};
use crate::lab::{Family, Host, Lab, whole_machine};
use crate::run::{Ended, Process, Program, count, number, receive, senders, serve, serve_by, text};

/// Runs a program with a system call forbidden by seccomp(2). Arguments: its number, the error instead of it, the values that its
/// first arguments must have (`-` for any), `--`, the program and its arguments.
const FORBID: &str = r"
import ctypes, errno, os, struct, sys
end = sys.argv.index('--')
number, error, values = int(sys.argv[1]), getattr(errno, sys.argv[2]), sys.argv[3:end]
LOAD, EQUAL, RETURN = 0x20, 0x15, 0x06
tests = [(0, number)] + [(16 + 8 * place, int(value)) for place, value in enumerate(values) if value != '-']
code = []
for place, (offset, value) in enumerate(tests):
    left = 2 * (len(tests) - place) - 1
    code += [(LOAD, 0, 0, offset), (EQUAL, 0, left, value)]
code += [(RETURN, 0, 0, 0x00050000 | error), (RETURN, 0, 0, 0x7fff0000)]
program = ctypes.create_string_buffer(b''.join(struct.pack('HBBI', *line) for line in code))
class Program(ctypes.Structure):
    _fields_ = [('length', ctypes.c_ushort), ('filter', ctypes.c_void_p)]
libc = ctypes.CDLL(None, use_errno=True)
if libc.prctl(38, 1, 0, 0, 0) or libc.prctl(22, 2, ctypes.byref(Program(len(code), ctypes.addressof(program))), 0, 0):
    sys.exit('seccomp: ' + os.strerror(ctypes.get_errno()))
os.execv(sys.argv[end + 1], sys.argv[end + 1:])
";

const IO_URING_SETUP: &str = "425";
const IO_URING_ENTER: &str = "426";
const SETSOCKOPT: &str = if cfg!(target_arch = "x86_64") { "54" } else { "208" };

/// The server in a program that forbids a system call.
fn without(host: &Host, rule: &[&str]) -> Command {
    let mut command = host.command("python3");
    command.args(["-c", FORBID]).args(rule).args(["--", Program::Server.path()]);
    command
}

/// What a transfer by such a server came to.
struct Outcome {
    first_engine: String,
    server: Ended,
    lost: u64,
}

/// Sends one file in one pass to a receiver that waits for it: every position is needed.
fn transfer(server: impl FnOnce(&Lab, &Host) -> Command, options: &[&str]) -> Outcome {
    let mut lab = Lab::new();
    let (server_host, receiver_host) = (lab.host(), lab.host());
    let source = make(&lab, "source", Content::Random { size: 4 * MIB, seed: 1 });
    let receiver = receive(&receiver_host, &lab.path("copy"), Family::V4.group());
    let _ = receiver.wait_for_event("listening");
    let command = server(&lab, &server_host);
    let server = serve_by(
        command,
        &lab,
        &source,
        Family::V4.group(),
        &[&["--rate", "30M", "--cycles", "1", "--fec", "0"], options].concat(),
    );
    let first_engine = text(&server.wait_for_event("sending"), "engine").to_owned();
    let receiver = receiver.wait();
    let end = receiver.completed();
    assert_same(&lab.path("copy"), &source);
    assert_eq!(count(&end["counts"], "blocks_failed"), 0);
    let lost = senders(end).iter().map(|sender| count(sender, "lost")).sum();
    let server = server.wait();
    assert_eq!(server.exit, Some(0), "one pass is done; stderr: {}", server.stderr);
    Outcome { first_engine, server, lost }
}

impl Outcome {
    /// Fails unless the server changed its engine so, and said just this of it.
    fn is(&self, engines: [&str; 2], warning: &str) {
        assert_eq!([&self.first_engine, text(self.server.end(), "engine")], engines);
        let [said] = self.server.notices("warning")[..] else {
            panic!("one warning, not {:?}", self.server.notices("warning"))
        };
        assert!(text(said, "text").contains(warning), "{said}");
        assert_eq!(self.lost, 0, "no position is skipped");
    }
}

#[test]
fn io_uring_that_is_forbidden_is_done_without() {
    for error in ["EPERM", "ENOSYS"] {
        let outcome = transfer(|_, host| without(host, &[IO_URING_SETUP, error]), &[]);
        outcome.is(["sendmmsg", "sendmmsg"], "io_uring cannot be used");
    }
}

#[test]
fn io_uring_that_is_forbidden_and_asked_for_is_a_failure() {
    let mut lab = Lab::new();
    let host = lab.host();
    let source = make(&lab, "source", Content::Random { size: MIB, seed: 1 });
    let command = without(&host, &[IO_URING_SETUP, "EPERM"]);
    let ended = serve_by(command, &lab, &source, Family::V4.group(), &["--engine", "uring"]).wait();
    assert_eq!(ended.exit, Some(69), "stderr: {}", ended.stderr);
    assert!(ended.stderr.contains("kernel.io_uring_disabled"), "{}", ended.stderr);
}

#[test]
fn io_uring_that_fails_on_the_way_is_left_and_nothing_is_skipped() {
    for error in ["EPERM", "ENOSYS"] {
        let outcome = transfer(|_, host| without(host, &[IO_URING_ENTER, error]), &[]);
        outcome.is(["uring", "sendmmsg"], "io_uring has failed");
    }
}

#[test]
fn kernel_without_segmentation_offload_is_served_by_single_packets() {
    // The socket option UDP_SEGMENT.
    let rule = [SETSOCKOPT, "ENOPROTOOPT", "-", "17", "103"];
    let outcome = transfer(|_, host| without(host, &rule), &[]);
    outcome.is(["sendmmsg", "sendmmsg"], "no segmentation offload");
}

/// Refuses messages of several datagrams from the hundredth call on, as a device does whose checksums are not made by hardware.
const REFUSE_SEGMENTS: &str = r"
#define _GNU_SOURCE
#include <errno.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>
int sendmmsg(int fd, struct mmsghdr *headers, unsigned int count, int flags)
{
    static unsigned int calls;
    if (++calls > 100 && count > 0 && headers[0].msg_hdr.msg_controllen > 0) {
        errno = EIO;
        return -1;
    }
    /* What comes before a message that is refused goes. */
    unsigned int before = 1;
    while (calls > 100 && before < count && headers[before].msg_hdr.msg_controllen == 0)
        before++;
    return syscall(SYS_sendmmsg, fd, headers, calls > 100 ? before : count, flags);
}
";

#[test]
fn segmentation_offload_that_is_refused_on_the_way_is_left_and_nothing_is_skipped() {
    let server = |lab: &Lab, host: &Host| {
        let (code, library) = (lab.path("refuse.c"), lab.path("refuse.so"));
        std::fs::write(&code, REFUSE_SEGMENTS).expect("write C");
        let compiled = Command::new("cc").args(["-shared", "-fPIC", "-o"]).arg(&library).arg(&code).status();
        assert!(compiled.expect("run cc").success());
        let mut command = host.command("env");
        command.arg(format!("LD_PRELOAD={}", library.display())).arg(Program::Server.path());
        command
    };
    let outcome = transfer(server, &["--engine", "sendmmsg"]);
    outcome.is(["sendmmsg", "sendmmsg"], "refuses segmentation offload");
    assert_eq!(count(outcome.server.end(), "refused"), 3, "a few times, to be certain");
}

#[test]
fn smaller_mtu_on_the_way_ends_the_server_with_the_remedy() {
    let mut lab = Lab::new();
    let host = lab.host();
    let source = make(&lab, "source", Content::Random { size: MIB, seed: 1 });
    for engine in ["uring", "sendmmsg"] {
        lab.set_mtu(&host, 1500);
        let server = serve(&lab, &host, &source, Family::V4.group(), &["--rate", "30M", "--engine", engine]);
        let _ = server.wait_for_event("sending");
        lab.set_mtu(&host, 1300);
        let ended = server.wait();
        assert_eq!(ended.exit, Some(74), "stderr: {}", ended.stderr);
        assert!(text(ended.end(), "message").contains("message too long") && ended.stderr.contains("--mtu"));
    }
}

#[test]
fn slow_link_is_told_with_figures_and_loses_nothing() {
    for engine in ["uring", "sendmmsg"] {
        // Messages of several datagrams wait in the queue, or are refused, as a whole.
        let (server, lost) = squeezed_transfer(engine, ["burst", "128kb", "limit", "256kb"]);
        let end = server.end();
        assert_eq!(lost, 0, "what is refused is sent again at the same position: {end}");
        assert!(count(end, "queue_drops") > 50, "{end}");
        assert_eq!(text(end, "engine"), engine);
        let [said] = server.notices("warning")[..] else { panic!("one warning, not {:?}", server.notices("warning")) };
        let said = text(said, "text");
        assert!(said.contains("the rate is above what the link takes") && said.contains("--rate"), "{said}");
        let rate: f64 = said.split(": ").nth(1).and_then(|rest| rest.split(' ').next()?.parse().ok()).expect("a rate");
        assert!((15.0..30.0).contains(&rate), "20 Mbit/s went: {said}");
        assert!(number(end, "lost_seconds") > 0.5, "time that was lost is told: {end}");
    }
}

#[test]
fn slow_link_that_cuts_messages_itself_is_survived() {
    // The queue takes some datagrams of a message and drops the others without a word: that is loss, as on any link.
    let (server, _) = squeezed_transfer("uring", ["burst", "5kb", "limit", "20kb"]);
    assert_eq!(server.exit, Some(143));
}

/// A queue that is longer than the send buffer refuses nothing: what does not go yet waits in the ring, or in the system call. The
/// server sends one pass without repair symbols: the receiver completes only if nothing is skipped.
#[test]
fn messages_that_wait_for_a_slow_link_are_not_overtaken_when_it_becomes_fast() {
    let _alone = whole_machine();
    for engine in ["uring", "sendmmsg"] {
        let mut lab = Lab::new();
        let (server_host, receiver_host) = (lab.host(), lab.host());
        // Whichever processor takes a message from the queue: otherwise the network itself lets one overtake another.
        lab.forward_on_second_processor(&server_host);
        lab.squeeze(&server_host, &["rate", "50mbit", "burst", "128kb", "limit", "8mb"]);
        let source = make(&lab, "source", Content::Random { size: 22 * MIB, seed: 1 });
        let receiver = receive(&receiver_host, &lab.path("copy"), Family::V4.group());
        let _ = receiver.wait_for_event("listening");
        let options = ["--rate", "100M", "--fec", "0", "--cycles", "1", "--engine", engine];
        let server = serve(&lab, &server_host, &source, Family::V4.group(), &options);
        let has = |size| move |event: &Value| event["event"] == "progress" && count(event, "held") >= size;
        let _ = receiver.wait_for("ten MiB", has(10 * MIB));
        lab.squeeze(&server_host, &["rate", "1gbit", "burst", "128kb", "limit", "8mb"]);
        let receiver = receiver.wait();
        let links = lab.link_counters(&[&server_host, &receiver_host]);
        let server = server.wait();
        let (end, sent) = (receiver.end(), server.completed());
        assert_eq!(receiver.exit, Some(0), "{engine}, something was skipped: {end}\n{sent}\n{links}");
        let [sender] = senders(end).as_slice() else { panic!("one sender, not {:?}", senders(end)) };
        let disorder = ["late", "restarts", "duplicates", "lost"].map(|member| count(sender, member));
        assert_eq!(disorder, [0; 4], "{engine}: {sender}\n{sent}\n{links}");
        assert_eq!(count(sent, "queue_drops"), 0, "the send buffer was full before the queue: {sent}");
        assert!(number(sent, "lost_seconds") > 0.1, "the link was slow: {sent}");
    }
}

/// Sends at five times what the link takes. Answers with the server's end, and how much the receiver missed.
fn squeezed_transfer(engine: &str, queue: [&str; 4]) -> (Ended, u64) {
    let _alone = whole_machine();
    let mut lab = Lab::new();
    let (server_host, receiver_host) = (lab.host(), lab.host());
    lab.forward_on_second_processor(&server_host);
    lab.squeeze(&server_host, &[&["rate", "20mbit"], &queue[..]].concat());
    let source = make(&lab, "source", Content::Random { size: 5 * MIB, seed: 1 });
    let server = serve(&lab, &server_host, &source, Family::V4.group(), &["--rate", "100M", "--engine", engine]);
    let _ = server.wait_for_event("sending");
    let receiver = receive(&receiver_host, &lab.path("copy"), Family::V4.group()).wait();
    let lost = senders(receiver.completed()).iter().map(|sender| count(sender, "lost")).sum();
    assert_same(&lab.path("copy"), &source);
    (server.terminate(), lost)
}

/// Makes sure that the launcher forbids something at all.
#[test]
fn launcher_forbids_what_it_is_told() {
    let mut lab = Lab::new();
    let host = lab.host();
    let mut command = without(&host, &[SETSOCKOPT, "EPERM"]);
    let source = make(&lab, "source", Content::Random { size: 10, seed: 1 });
    let ended = Process::spawn(command.arg("--json").arg(Path::new(&source)).arg(Family::V4.group())).wait();
    assert_eq!(ended.exit, Some(69), "stderr: {}", ended.stderr);
    let is_told = |event: &&Value| text(event, "message").contains("operation not permitted");
    assert!(ended.events.last().is_some_and(|event| is_told(&event)), "{:?}", ended.events);
}
