//! The file on the server's disk: whatever happens to it, receivers get its content as it was, or nothing. And the ways by which
//! packets reach the kernel.

use std::fs::{self, File};
use std::path::PathBuf;

use crate::files::{Content, MIB, assert_same, make};
use crate::lab::{Family, Host, Lab};
use crate::run::{count, part_of, receive, serve, text};

/// Two hosts and 4 MiB to send.
fn desk() -> (Lab, Host, Host, PathBuf) {
    let mut lab = Lab::new();
    let (server_host, receiver_host) = (lab.host(), lab.host());
    let source = make(&lab, "source", Content::Random { size: 4 * MIB, seed: 1 });
    (lab, server_host, receiver_host, source)
}

#[test]
fn server_whose_file_is_cut_short_says_so_and_ends() {
    let (lab, server_host, _, source) = desk();
    let server = serve(&lab, &server_host, &source, Family::V4.group(), &["--rate", "50M"]);
    let _ = server.wait_for_event("status");
    File::options().write(true).open(&source).and_then(|file| file.set_len(100)).expect("cut the file short");
    let ended = server.wait();
    assert_eq!(ended.exit, Some(74), "stderr: {}", ended.stderr);
    assert!(text(ended.end(), "message").contains("changed while it was being sent"), "{}", ended.end());
}

#[test]
fn file_that_is_removed_or_replaced_is_sent_on_as_it_was() {
    let (lab, server_host, receiver_host, source) = desk();
    let original = lab.path("original");
    fs::copy(&source, &original).expect("copy");
    let server = serve(&lab, &server_host, &source, Family::V4.group(), &["--rate", "50M"]);
    let _ = server.wait_for_event("sending");
    let other = make(&lab, "other", Content::Random { size: MIB, seed: 2 });
    fs::rename(&other, &source).expect("replace");
    let warned = server.wait_for("a warning", |event| event["event"] == "notice" && event["kind"] == "warning");
    assert!(text(&warned, "text").contains("going on with the old content"), "{warned}");
    let copy = lab.path("copy");
    let _ = receive(&receiver_host, &copy, Family::V4.group()).wait().completed();
    assert_same(&copy, &original);
}

#[test]
fn both_engines_send_the_same() {
    for engine in ["uring", "sendmmsg"] {
        let (lab, server_host, receiver_host, source) = desk();
        let server = serve(&lab, &server_host, &source, Family::V4.group(), &["--rate", "200M", "--engine", engine]);
        assert_eq!(text(&server.wait_for_event("sending"), "engine"), engine);
        let copy = lab.path("copy");
        let ended = receive(&receiver_host, &copy, Family::V4.group()).wait();
        assert_eq!(count(&ended.completed()["counts"], "blocks_failed"), 0);
        assert_same(&copy, &source);
    }
}

#[test]
fn partial_file_of_another_object_is_set_aside_and_taken_up_again() {
    let (lab, server_host, receiver_host, first) = desk();
    let second = make(&lab, "second", Content::Random { size: 2 * MIB, seed: 2 });
    let copy = lab.path("copy");
    let server = serve(&lab, &server_host, &first, Family::V4.group(), &["--rate", "10M"]);
    let receiver = receive(&receiver_host, &copy, Family::V4.group());
    let id = text(&receiver.wait_for_event("manifest"), "object").to_owned();
    let most = |event: &serde_json::Value| event["event"] == "progress" && count(event, "held") >= 3 * MIB;
    let _ = receiver.wait_for("most of the first file", most);
    receiver.signal(nix::sys::signal::Signal::SIGTERM);
    assert_eq!(receiver.wait().exit, Some(143));
    drop(server);

    let server = serve(&lab, &server_host, &second, Family::V4.group(), &["--rate", "50M"]);
    let ended = receive(&receiver_host, &copy, Family::V4.group()).wait();
    let _ = ended.completed();
    assert_same(&copy, &second);
    let aside = lab.path(&format!(".copy.{id}.part"));
    assert!(aside.is_file(), "what had come of the first file is kept");
    assert_eq!(ended.notices("warning").len(), 1, "and that is said");
    drop(server);

    let server = serve(&lab, &server_host, &first, Family::V4.group(), &["--rate", "50M"]);
    let symbols = count(&server.wait_for_event("sending"), "round_length");
    let ended = receive(&receiver_host, &copy, Family::V4.group()).wait();
    let stored = count(&ended.completed()["counts"], "stored");
    assert_same(&copy, &first);
    assert!(stored < symbols * 3 / 4, "{stored} of {symbols} symbols were stored again");
    assert!(!aside.exists() && !part_of(&copy).exists());
}
