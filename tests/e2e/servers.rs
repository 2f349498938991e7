//! Several servers in one group: of one file, which add up, and of two files, which do not.

use std::time::Duration;

use serde_json::Value;

use crate::figures::median_rate;
use crate::files::{Content, MIB, assert_same, make};
use crate::lab::{Family, Lab, whole_machine};
use crate::loss::source_symbol_count;
use crate::run::{Process, count, figure, number, receive, senders, serve, text};

const GROUP: Family = Family::V4;

/// How many symbols came from this address, all its source ports together.
fn received_from(end: &Value, address: &str) -> u64 {
    sum_of(end, address, "received")
}

/// One of the counts of a receiver, over all that came from this address.
fn sum_of(end: &Value, address: &str, member: &str) -> u64 {
    let is_of = |sender: &&Value| text(sender, "addr").rsplit_once(':').is_some_and(|(ip, _)| ip == address);
    senders(end).iter().filter(is_of).map(|sender| count(sender, member)).sum()
}

fn wait_until_held(receiver: &Process, bytes: u64) {
    let _ = receiver.wait_for("progress", |event| event["event"] == "progress" && count(event, "held") >= bytes);
}

#[test]
fn two_servers_at_different_offsets_are_used_at_once() {
    let _alone = whole_machine();
    let mut lab = Lab::new();
    let (first_host, second_host, receiver_host) = (lab.host(), lab.host(), lab.host());
    let source = make(&lab, "source", Content::Random { size: 48 * MIB, seed: 1 });
    let start = |host, offset| serve(&lab, host, &source, GROUP.group(), &["--rate", "100M", "--start-offset", offset]);
    let servers = [start(&first_host, "0%"), start(&second_host, "50%")];
    for server in &servers {
        let _ = server.wait_for_event("sending");
    }
    let receiver = receive(&receiver_host, &lab.path("copy"), GROUP.group()).wait();
    let end = receiver.completed();
    assert_same(&lab.path("copy"), &source);
    // As much as one server can send until the receiver has enough, of its pass over the file's own symbols.
    let until_enough = number(end, "last_symbol_seconds") / number(end, "transfer_seconds");
    let shares = [&first_host, &second_host].map(|host| {
        let of = |member| sum_of(end, &host.address_v4(), member);
        let symbols = of("received") + of("lost") + of("lost_host");
        assert!(symbols > 0, "both servers are used: {:?}", senders(end));
        symbols as f64 * until_enough / source_symbol_count(48 * MIB) as f64
    });
    let share = shares[0].max(shares[1]);
    figure("what the busier of two servers sends, of its pass", &format!("{share:.3}"), "0.65");
    assert!(share <= 0.65, "two servers sent {shares:?} of a pass");
    for server in servers {
        let _ = server.wait_for("three seconds", |event| event["event"] == "status" && number(event, "seconds") > 3.0);
        // 100 Mbit/s in IP packets of 1480 bytes. One that held back for the other would send half of them.
        let rate = median_rate(&server.events("status"));
        assert!(rate > 0.9 * 100e6 / 8.0 / 1480.0, "each sends at its own rate, and not {rate} packets a second");
    }
}

#[test]
fn transfer_completes_after_one_of_two_servers_is_killed() {
    let mut lab = Lab::new();
    let (first_host, second_host, receiver_host) = (lab.host(), lab.host(), lab.host());
    let source = make(&lab, "source", Content::Random { size: 32 * MIB, seed: 1 });
    let start = |host, offset| serve(&lab, host, &source, GROUP.group(), &["--rate", "50M", "--start-offset", offset]);
    let (_first, second) = (start(&first_host, "0%"), start(&second_host, "50%"));
    let receiver = receive(&receiver_host, &lab.path("copy"), GROUP.group());
    wait_until_held(&receiver, 8 * MIB);
    second.kill();
    let receiver = receiver.wait();
    let end = receiver.completed();
    assert_same(&lab.path("copy"), &source);
    for host in [&first_host, &second_host] {
        assert!(received_from(end, &host.address_v4()) > 0, "both servers were used: {:?}", senders(end));
    }
}

#[test]
fn server_that_was_killed_is_used_again_when_it_returns() {
    let mut lab = Lab::new();
    let (server_host, receiver_host) = (lab.host(), lab.host());
    let source = make(&lab, "source", Content::Random { size: 32 * MIB, seed: 1 });
    let start =
        |offset| serve(&lab, &server_host, &source, GROUP.group(), &["--rate", "50M", "--start-offset", offset]);
    let server = start("0%");
    let receiver = receive(&receiver_host, &lab.path("copy"), GROUP.group());
    wait_until_held(&receiver, 10 * MIB);
    server.kill();
    let _ = receiver.wait_for("notice of silence", |event| event["event"] == "notice" && event["kind"] == "silent");
    // At another offset than the one it was killed at: a restart is not loss.
    let _returned = start("25%");
    let receiver = receiver.wait();
    let end = receiver.completed();
    assert_same(&lab.path("copy"), &source);
    assert_eq!(receiver.notices("heard_again").len(), 1);
    let lost: u64 = senders(end).iter().map(|sender| count(sender, "lost")).sum();
    assert_eq!(lost, 0, "a restart is not loss: {:?}", senders(end));
}

#[test]
fn receiver_keeps_to_its_object_and_names_both_when_that_one_falls_silent() {
    let mut lab = Lab::new();
    let (first_host, second_host, receiver_host) = (lab.host(), lab.host(), lab.host());
    let first_source = make(&lab, "first", Content::Random { size: 8 * MIB, seed: 1 });
    let second_source = make(&lab, "second", Content::Random { size: 8 * MIB, seed: 2 });
    let options = ["--rate", "10M"];
    let first = serve(&lab, &first_host, &first_source, GROUP.group(), &options);
    let first_object = text(&first.wait_for_event("sending"), "object").to_owned();
    let receiver = receive(&receiver_host, &lab.path("copy"), GROUP.group());
    let accepted = receiver.wait_for_event("manifest");
    assert_eq!(text(&accepted, "object"), first_object);
    let second = serve(&lab, &second_host, &second_source, GROUP.group(), &options);
    let second_object = text(&second.wait_for_event("sending"), "object").to_owned();
    wait_until_held(&receiver, 2 * MIB);
    first.kill();

    let receiver = receiver.wait();
    assert_eq!(receiver.exit, Some(75), "stderr: {}", receiver.stderr);
    let end = receiver.end();
    let message = text(end, "message");
    assert!(message.contains(&first_object) && message.contains(&second_object), "both are named in: {message}");
    assert!(count(&end["dropped"], "other_object") > 0, "the other object's packets are counted: {end}");
    assert_eq!(received_from(end, &second_host.address_v4()), 0, "the other object's server is no sender of ours");
    assert!(number(end, "seconds") >= Duration::from_secs(30).as_secs_f64(), "not before 30 s of silence");
    assert!(!end["missing"].as_array().is_none_or(Vec::is_empty), "what is missing is listed");
}
