//! Several virtual servers in one program: they share the rate and the pass, and wait for no other.

use std::fs;
use std::time::{Duration, Instant};

use nix::sys::ptrace;
use nix::sys::wait::{WaitPidFlag, waitpid};
use nix::unistd::Pid;
use serde_json::Value;

use crate::files::{Content, MIB, assert_same, make};
use crate::lab::{Family, Lab, whole_machine};
use crate::run::{Process, Witness, count, figure, number, receive, receive_until, senders, serve, text};

/// The virtual servers that the server's first event names, each with its first position.
fn virtual_servers(sending: &Value) -> Vec<(String, u64)> {
    let all = sending["virtual_servers"].as_array().expect("a list of virtual servers");
    all.iter().map(|one| (text(one, "source").to_owned(), count(one, "start_position"))).collect()
}

/// Packets that came from this address and port, and that were missed.
fn received_from(end: &Value, source: &str) -> (u64, u64) {
    let sender = senders(end).iter().find(|sender| text(sender, "addr") == source);
    let sender = sender.unwrap_or_else(|| panic!("{source} is not among {:?}", senders(end)));
    (count(sender, "received"), count(sender, "lost"))
}

#[test]
fn one_pass_of_three_virtual_servers_is_every_symbol_once() {
    for (family, engine) in [(Family::V4, "uring"), (Family::V6, "sendmmsg")] {
        let mut lab = Lab::new();
        let (server_host, receiver_host) = (lab.host(), lab.host());
        let source = make(&lab, "source", Content::Random { size: 8 * MIB + 77, seed: 1 });
        let receiver = receive(&receiver_host, &lab.path("copy"), family.group());
        let _ = receiver.wait_for_event("listening");
        let options = ["--rate", "100M", "--virtual-servers", "3", "--cycles", "1", "--fec", "0", "--engine", engine];
        let server = serve(&lab, &server_host, &source, family.group(), &options).wait();
        let receiver = receiver.wait();
        let (sent, end) = (server.completed(), receiver.completed());
        assert_same(&lab.path("copy"), &source);
        let sending = server.first("sending");
        let round = count(sending, "round_length");
        assert_eq!(count(sent, "data"), round);
        assert_eq!(count(&end["counts"], "stored"), round, "no symbol twice");
        let all = virtual_servers(sending);
        assert_eq!(all.len(), 3);
        for (index, (address, start)) in all.iter().enumerate() {
            let apart = (start + round - all[0].1) % round;
            assert!(apart.abs_diff(round * index as u64 / 3) <= 1, "they start evenly: {all:?}");
            let (received, lost) = received_from(end, address);
            assert!(received.abs_diff(round / 3) <= 1 && lost == 0, "{received} received, {lost} lost of {round}");
        }
        let control = count(sent, "manifest") + count(sent, "hashes");
        assert!(control.abs_diff(round / 50) <= round / 200, "{control} control packets to {round}");
    }
}

#[test]
fn rate_is_that_of_all_virtual_servers_together() {
    let _alone = whole_machine();
    let mut lab = Lab::new();
    let host = lab.host();
    let source = make(&lab, "source", Content::Random { size: 8 * MIB, seed: 1 });
    let options = ["--rate", "80M", "--virtual-servers", "4", "--cycles", "3", "--fec", "0"];
    let server = serve(&lab, &host, &source, Family::V4.group(), &options).wait();
    let end = server.completed();
    let bits = 8.0 * number(end, "ip_bytes");
    let rate = bits / (number(end, "seconds") - number(end, "lost_seconds"));
    figure("rate of four virtual servers asked for 80 Mbit/s", &format!("{:.3} Mbit/s", rate / 1e6), "80");
    // The one that sends the control packets as well ends last: its data takes 8 % longer.
    assert!(rate >= 72e6, "{rate}: {end}");
    // The time that was lost is that of the one that lost most, which need not be the last.
    assert!(bits / number(end, "seconds") <= 80.5e6, "{end}");
}

#[test]
fn virtual_server_that_stands_still_does_not_hold_up_the_other() {
    let mut lab = Lab::new();
    let (server_host, receiver_host) = (lab.host(), lab.host());
    let source = make(&lab, "source", Content::Random { size: 8 * MIB, seed: 1 });
    let options = ["--rate", "40M", "--virtual-servers", "2", "--fec", "0"];
    let server = serve(&lab, &server_host, &source, Family::V4.group(), &options);
    let all = virtual_servers(&server.wait_for_event("sending"));
    let stopped = Stopped::new(&server, "server 1");
    let copy = lab.path("copy");
    let receiver = receive_until(&receiver_host, &copy, Family::V4.group(), &["--timeout", "30s"]).wait();
    let end = receiver.completed();
    assert_same(&copy, &source);
    assert!(senders(end).iter().all(|sender| text(sender, "addr") == all[0].0), "one sends: {:?}", senders(end));
    drop(stopped);
    let again = lab.path("again");
    let receiver = receive_until(&receiver_host, &again, Family::V4.group(), &["--timeout", "30s"]).wait();
    let end = receiver.completed();
    assert!(received_from(end, &all[1].0).0 > 0, "it goes on when it can");
    assert_eq!(server.terminate().exit, Some(143));
}

/// The second one begins half a delay after the first, and neither has anything to do for long.
#[test]
fn virtual_servers_that_wait_for_long_stop_at_once() {
    let mut lab = Lab::new();
    let host = lab.host();
    let source = make(&lab, "source", Content::Random { size: MIB, seed: 1 });
    let options = ["--pkt-delay", "40s", "--virtual-servers", "2"];
    let server = serve(&lab, &host, &source, Family::V4.group(), &options);
    let _ = server.wait_for_event("sending");
    let (witness, asked) = (Witness::start(), Instant::now());
    let ended = server.terminate();
    assert_eq!(ended.exit, Some(143), "stderr: {}", ended.stderr);
    let (took, held_up) = (ended.ended_at - asked, witness.end());
    assert!(took < Duration::from_secs(1) + held_up, "{took:?} to stop, held up for {held_up:?}");
}

/// A thread of a program that stands still until this is dropped, as if its processor did nothing.
struct Stopped(Pid);

impl Stopped {
    fn new(process: &Process, thread: &str) -> Self {
        let folder = format!("/proc/{}/task", process.pid());
        let threads = fs::read_dir(folder).expect("the process lives").map(|entry| entry.expect("a thread").path());
        let is_it = |path: &std::path::PathBuf| {
            fs::read_to_string(path.join("comm")).is_ok_and(|name| name.trim_end() == thread)
        };
        let path = threads.into_iter().find(is_it).unwrap_or_else(|| panic!("no thread is named {thread}"));
        let id = path.file_name().and_then(|id| id.to_str()).and_then(|id| id.parse().ok()).expect("a thread id");
        let id = Pid::from_raw(id);
        ptrace::seize(id, ptrace::Options::empty()).expect("root may trace");
        ptrace::interrupt(id).expect("a traced thread can be stopped");
        let _ = waitpid(id, Some(WaitPidFlag::__WALL)).expect("it stops");
        Self(id)
    }
}

impl Drop for Stopped {
    fn drop(&mut self) {
        let _ = ptrace::detach(self.0, None);
    }
}
