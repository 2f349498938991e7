//! Measuring without keeping: what has come is told, nothing is stored, and nothing is said to be verified.

use std::fs;
use std::path::Path;
use std::process::Command;

use crate::files::{Content, MIB, make};
use crate::lab::{Family, Host, Lab, whole_machine};
use crate::loss::{SYMBOL_SIZE, source_symbol_count};
use crate::run::{Process, Program, Refusal, count, figure, number, run_to_end, senders, serve, text};

/// A receiver that discards, in this folder.
fn command(host: &Host, folder: &Path, options: &[&str]) -> Command {
    let mut command = host.command(Program::Receiver.path());
    command.current_dir(folder).args(["-i", "eth0", "--discard"]).args(options);
    command
}

fn assert_empty(folder: &Path) {
    assert_eq!(fs::read_dir(folder).expect("read the folder").count(), 0, "nothing is in {}", folder.display());
}

/// Says all that a measurement is to say in its last line, and nothing that it cannot know.
fn claims_nothing(said: &Refusal) {
    let last = said.stderr.lines().last().expect("a last line");
    for words in ["of different symbols", "goodput", "on the way and", "on this host", "nothing was stored or verified"]
    {
        assert!(last.contains(words), "`{words}` is not in: {last}");
    }
    assert_eq!(said.stderr.matches("verified").count(), 1, "verified: {}", said.stderr);
}

#[test]
fn loss_and_goodput_are_measured_and_nothing_is_stored() {
    let _alone = whole_machine();
    let mut lab = Lab::new();
    let (server_host, receiver_host) = (lab.host(), lab.host());
    [&server_host, &receiver_host].iter().for_each(|host| lab.disable_offloads(host));
    receiver_host.lose(50);
    let source = make(&lab, "source", Content::Random { size: 16 * MIB, seed: 1 });
    let server = serve(&lab, &server_host, &source, Family::V6.group(), &["--rate", "150M"]);
    let sending = server.wait_for_event("sending");
    let folder = lab.folder("empty");
    // The name of a file changes nothing.
    let options = ["--json", "--timeout", "60s", "file", Family::V6.group()];
    let ended = Process::spawn(&mut command(&receiver_host, &folder, &options)).wait();
    let end = ended.completed();
    assert_eq!((count(end, "size"), count(end, "blocks_enough")), (16 * MIB, 16));
    assert_eq!(count(end, "symbols"), source_symbol_count(16 * MIB), "so many and no more were needed");
    let padding = count(end, "bytes").checked_sub(16 * MIB).expect("as many bytes as the file has");
    assert!(padding < 16 * SYMBOL_SIZE, "the last symbol of a block is short, and a repair symbol is not: {padding}");
    assert_eq!((&end["stored"], &end["verified"]), (&false.into(), &false.into()));
    let [sender] = senders(end).as_slice() else { panic!("one sender, not {:?}", senders(end)) };
    let (received, lost) = (count(sender, "received") as f64, count(sender, "lost") as f64);
    let loss = lost / (lost + received);
    assert!((loss - 0.05).abs() < 0.01, "{loss} reported instead of 0.05");
    for member in ["received", "lost", "lost_host"] {
        assert_eq!(count(end, member), count(sender, member), "{member} of the only sender");
    }
    let goodput = number(end, "goodput_bps");
    figure("goodput of 150 Mbit/s at 5 % loss, measured", &format!("{:.1} Mbit/s", goodput / 1e6), "-");
    let measured = 8.0 * count(end, "bytes") as f64 / number(end, "measured_seconds");
    assert!((goodput / measured - 1.0).abs() < 1e-6, "{goodput} for {measured}");
    // No more than 150 Mbit/s less headers and loss. How much less it is, is the machine's affair: it gives no time to whom it has none for.
    assert!((30e6..143e6).contains(&goodput), "{goodput} of 150 Mbit/s with headers and loss");
    assert_eq!(text(ended.first("manifest"), "digest"), text(&sending, "digest"));
    assert_empty(&folder);
}

#[test]
fn people_are_told_that_nothing_was_stored_or_verified_however_it_ends() {
    let mut lab = Lab::new();
    let (server_host, receiver_host) = (lab.host(), lab.host());
    let folder = lab.folder("empty");
    let run = |options: &[&str]| run_to_end(&mut command(&receiver_host, &folder, options));
    let said = run(&["--timeout", "1s", Family::V4.group()]);
    assert_eq!(said.exit, Some(69), "stderr: {}", said.stderr);

    let source = make(&lab, "source", Content::Sparse { size: 64 * MIB });
    let server = serve(&lab, &server_host, &source, Family::V4.group(), &["--rate", "100M"]);
    let _ = server.wait_for_event("sending");
    let said = run(&["--timeout", "60s", Family::V4.group()]);
    assert_eq!(said.exit, Some(0), "stderr: {}", said.stderr);
    claims_nothing(&said);
    let _ = server.terminate();

    let source = make(&lab, "large", Content::Random { size: 8 * MIB, seed: 1 });
    // Seven seconds for a pass.
    let server = serve(&lab, &server_host, &source, Family::V4.group(), &["--rate", "10M"]);
    let _ = server.wait_for_event("sending");
    let said = run(&["--timeout", "3s", Family::V4.group()]);
    assert_eq!(said.exit, Some(75), "stderr: {}", said.stderr);
    assert!(said.stderr.contains("incomplete at the deadline"), "{}", said.stderr);
    claims_nothing(&said);
    assert_empty(&folder);
}
