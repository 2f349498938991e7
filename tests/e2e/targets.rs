//! Files as outputs: their mode, names that are taken, and disks that refuse. What is on disk can be resumed after each failure.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

use crate::errors::human_receiver;
use crate::files::{Content, MIB, assert_same, make};
use crate::lab::{Host, Lab};
use crate::run::{Process, Program, Refusal, count, part_of, receive, receive_until, run_to_end, serve};

const GROUP: &str = "239.77.1.1";

/// A receiver that a shell starts after it has run `before`.
fn receive_after(host: &Host, before: &str, copy: &Path) -> Command {
    let mut command = host.command("/bin/sh");
    command.args(["-c", &format!("{before}; exec \"$@\""), "sh", Program::Receiver.path()]);
    command.args(["-i", "eth0", "--timeout", "80s"]).arg(copy).arg(GROUP);
    command
}

fn serve_noise(lab: &Lab, host: &Host, size: u64, rate: &str) -> Process {
    let source = make(lab, "source", Content::Random { size, seed: 1 });
    serve(lab, host, &source, GROUP, &["--rate", rate])
}

#[test]
fn mode_of_a_new_file_is_for_the_umask_to_say() {
    let mut lab = Lab::new();
    let (server_host, host) = (lab.host(), lab.host());
    let _server = serve_noise(&lab, &server_host, MIB, "100M");
    for (umask, mode) in [("027", 0o640), ("002", 0o664)] {
        let copy = lab.path(umask);
        let said = run_to_end(&mut receive_after(&host, &format!("umask {umask}"), &copy));
        assert_eq!(said.exit, Some(0), "{}", said.stderr);
        let metadata = fs::metadata(&copy).expect("the file is there");
        assert_eq!(metadata.permissions().mode() & 0o7777, mode, "umask {umask}");
    }
}

#[test]
fn file_that_is_there_or_appears_meanwhile_is_kept() {
    let mut lab = Lab::new();
    let (server_host, host) = (lab.host(), lab.host());
    let copy = lab.path("copy");
    fs::write(&copy, "the old file").expect("write a file");
    let said = human_receiver(&host, &copy, &["--no-clobber", "--timeout", "5s"]);
    said.is(Program::Receiver, 73, &["copy", "is there already", "--no-clobber"]);
    fs::remove_file(&copy).expect("remove the file");

    let receiver = receive_until(&host, &copy, GROUP, &["--no-clobber", "--timeout", "80s"]);
    let _ = receiver.wait_for_event("listening");
    fs::write(&copy, "another file").expect("write a file");
    let _server = serve_noise(&lab, &server_host, 2 * MIB, "100M");
    let ended = receiver.wait();
    assert_eq!(ended.exit, Some(73), "{}", ended.stderr);
    Refusal { exit: ended.exit, stderr: ended.stderr }.names(&["copy", "is there already"]);
    assert_eq!(fs::read(&copy).expect("read the file"), b"another file");

    // The whole of it is kept, and need not come again.
    let again = receive(&host, &copy, GROUP).wait();
    assert_eq!(count(&again.completed()["counts"], "stored"), 0);
    assert_same(&copy, &lab.path("source"));
}

#[test]
fn full_disk_can_be_resumed_when_there_is_room() {
    let mut lab = Lab::new();
    let (server_host, host) = (lab.host(), lab.host());
    let disk = lab.small_disk("disk", 4 * MIB);
    let _server = serve_noise(&lab, &server_host, 8 * MIB, "50M");
    let copy = disk.path("copy");
    human_receiver(&host, &copy, &["--max-size", "1G", "--timeout", "60s"]).ends_with(
        Program::Receiver,
        74,
        &["copy", "no space left on device", "run again"],
    );
    assert!(part_of(&copy).is_file() && !copy.exists());
    disk.change("size=20m");
    let ended = receive(&host, &copy, GROUP).wait();
    // 745 symbols are 1 MiB; some 3 MiB were there.
    assert!(count(&ended.completed()["counts"], "stored") < 7 * 745, "{}", ended.end());
    assert_same(&copy, &lab.path("source"));
}

#[test]
fn room_that_is_made_after_the_start_is_used() {
    let mut lab = Lab::new();
    let (server_host, host) = (lab.host(), lab.host());
    let disk = lab.small_disk("disk", 2 * MIB);
    let copy = disk.path("copy");
    let _server = serve_noise(&lab, &server_host, 8 * MIB, "100M");
    let receiver = receive(&host, &copy, GROUP);
    let _ = receiver.wait_for("a refusal", |event| event["kind"] == "too_large");
    disk.change("size=20m");
    let ended = receiver.wait();
    let _ = ended.completed();
    assert_eq!(ended.notices("too_large").len(), 1, "said once");
    assert_same(&copy, &lab.path("source"));
}

#[test]
fn file_that_is_there_stays_until_the_new_one_is_complete() {
    let mut lab = Lab::new();
    let (server_host, host) = (lab.host(), lab.host());
    let copy = lab.path("copy");
    fs::write(&copy, "the old file").expect("write a file");
    let _server = serve_noise(&lab, &server_host, 4 * MIB, "10M");
    let receiver = receive(&host, &copy, GROUP);
    let half = |event: &serde_json::Value| event["event"] == "progress" && count(event, "held") >= 2 * MIB;
    let _ = receiver.wait_for("half of the object", half);
    assert_eq!(fs::read(&copy).expect("read the file"), b"the old file");
    let _ = receiver.wait().completed();
    assert_same(&copy, &lab.path("source"));
}

#[test]
fn limit_on_the_size_of_files_is_an_error_like_any_other() {
    let mut lab = Lab::new();
    let (server_host, host) = (lab.host(), lab.host());
    let _server = serve_noise(&lab, &server_host, 4 * MIB, "100M");
    let copy = lab.path("copy");
    // In units of 512 bytes: 1 MiB.
    let said = run_to_end(&mut receive_after(&host, "ulimit -f 2048", &copy));
    said.ends_with(Program::Receiver, 73, &["copy", "file too large"]);
    assert!(!copy.exists());
    let _ = receive(&host, &copy, GROUP).wait().completed();
    assert_same(&copy, &lab.path("source"));
}

#[test]
fn file_system_that_is_or_becomes_read_only_is_named() {
    let mut lab = Lab::new();
    let (server_host, host) = (lab.host(), lab.host());
    let disk = lab.small_disk("disk", 8 * MIB);
    let copy = disk.path("copy");
    disk.change("ro");
    let said = human_receiver(&host, &copy, &["--timeout", "5s"]);
    said.is(Program::Receiver, 73, &["copy", "read-only file system"]);
    disk.change("rw");
    let receiver = receive_until(&host, &copy, GROUP, &["--timeout", "80s"]);
    let _ = receiver.wait_for_event("listening");
    disk.change("ro");
    let _server = serve_noise(&lab, &server_host, 2 * MIB, "100M");
    let ended = receiver.wait();
    assert_eq!(ended.exit, Some(73), "{}", ended.stderr);
    Refusal { exit: ended.exit, stderr: ended.stderr }.names(&["copy", "read-only file system"]);
    disk.change("rw");
    let _ = receive(&host, &copy, GROUP).wait().completed();
    assert_same(&copy, &lab.path("source"));
}
