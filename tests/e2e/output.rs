//! The file on the receiver's disk: never half a file under the real name, and nothing held is lost when stopped.

use std::fs;

use nix::sys::signal::Signal;

use crate::files::{Content, MIB, assert_same, make};
use crate::lab::{Family, Lab};
use crate::run::{count, part_of, receive, serve};

#[test]
fn interrupted_receiver_leaves_a_partial_file_and_the_next_goes_on_from_it() {
    stopped_receiver_is_resumed(Signal::SIGINT, 130);
}

#[test]
fn terminated_receiver_leaves_a_partial_file_and_the_next_goes_on_from_it() {
    stopped_receiver_is_resumed(Signal::SIGTERM, 143);
}

fn stopped_receiver_is_resumed(signal: Signal, exit: i32) {
    let mut lab = Lab::new();
    let (server_host, receiver_host) = (lab.host(), lab.host());
    let source = make(&lab, "source", Content::Random { size: 24 * MIB, seed: 1 });
    let server = serve(&lab, &server_host, &source, Family::V4.group(), &["--rate", "50M"]);
    let symbol_count = count(&server.wait_for_event("sending"), "round_length");
    let copy = lab.path("copy");
    let receiver = receive(&receiver_host, &copy, Family::V4.group());
    let half = |event: &serde_json::Value| event["event"] == "progress" && count(event, "held") >= 8 * MIB;
    let _ = receiver.wait_for("a third of the file", half);
    receiver.signal(signal);
    let stopped = receiver.wait();
    assert_eq!(stopped.exit, Some(exit), "stderr: {}", stopped.stderr);
    assert!(count(stopped.end(), "held") >= 8 * MIB);
    assert!(part_of(&copy).is_file(), "the partial file stays");
    assert!(!copy.exists(), "and does not have the real name");

    let resumed = receive(&receiver_host, &copy, Family::V4.group()).wait();
    let stored = count(&resumed.completed()["counts"], "stored");
    assert_same(&copy, &source);
    assert!(!part_of(&copy).exists(), "the partial file has become the file");
    // What was held, but for the blocks that were incomplete, need not be sent again.
    assert!(stored < symbol_count * 3 / 4, "{stored} of {symbol_count} symbols were stored again");
}

#[test]
fn existing_file_is_untouched_until_the_new_one_is_whole() {
    let mut lab = Lab::new();
    let (server_host, receiver_host) = (lab.host(), lab.host());
    let source = make(&lab, "source", Content::Random { size: 8 * MIB, seed: 1 });
    let copy = lab.path("copy");
    fs::write(&copy, "the old file").expect("write the old file");
    let _server = serve(&lab, &server_host, &source, Family::V4.group(), &["--rate", "30M"]);
    let receiver = receive(&receiver_host, &copy, Family::V4.group());
    let _ = receiver.wait_for("progress", |event| event["event"] == "progress" && count(event, "held") > MIB);
    assert_eq!(fs::read(&copy).expect("read the old file"), b"the old file");
    let _ = receiver.wait().completed();
    assert_same(&copy, &source);
}
