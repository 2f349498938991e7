//! Whole transfers: every kind of file, over IPv4 and IPv6, to one receiver and to three; joining early and late.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;

use crate::doctor::backlog_drops;
use crate::fec::{needed, sent_to_receiver};
use crate::figures::median_rate;
use crate::files::{self, Content, MIB, SPARSE_BLOCK_COUNT, allocated, assert_same, make};
use crate::lab::{Family, Host, Lab, whole_machine};
use crate::loss::source_symbol_count;
use crate::run::{Ended, Process, count, figure, number, part_of, receive, senders, serve, text};

/// What either program may use of memory that is not a mapped file's, whatever the size of the object, without repair symbols. What it may
/// use with them is in `fec`.
const MEMORY_MAX: u64 = 24 * MIB;

/// Makes a module of tests, one for each kind of file, that send it over this family to so many receivers.
macro_rules! transfers {
    ($name:ident, $family:expr, $receiver_count:expr) => {
        mod $name {
            use super::{Content, Family, MIB, transfer, transfer_sparse};

            #[test]
            fn file_of_0_bytes_arrives() {
                transfer($family, $receiver_count, Content::Random { size: 0, seed: 1 });
            }

            #[test]
            fn file_of_1_byte_arrives() {
                transfer($family, $receiver_count, Content::Random { size: 1, seed: 1 });
            }

            #[test]
            fn file_of_1_mib_and_1_byte_arrives() {
                transfer($family, $receiver_count, Content::Random { size: MIB + 1, seed: 1 });
            }

            #[test]
            fn file_of_64_mib_of_noise_arrives() {
                transfer($family, $receiver_count, Content::Random { size: 64 * MIB, seed: 1 });
            }

            #[test]
            fn file_of_64_mib_of_zeroes_arrives() {
                transfer($family, $receiver_count, Content::Zeroes { size: 64 * MIB });
            }

            #[test]
            fn sparse_file_of_5_gib_arrives_in_seconds_and_little_memory() {
                transfer_sparse($family, $receiver_count);
            }
        }
    };
}

transfers!(ipv4_to_1_receiver, Family::V4, 1);
transfers!(ipv4_to_3_receivers, Family::V4, 3);
transfers!(ipv6_to_1_receiver, Family::V6, 1);
transfers!(ipv6_to_3_receivers, Family::V6, 3);

/// Sends a file to receivers on as many hosts, and compares every copy.
fn transfer(family: Family, receiver_count: u32, content: Content) {
    let _alone = whole_machine();
    let mut lab = Lab::new();
    let source = make(&lab, "source", content);
    let (server, ended) = serve_to_all(&mut lab, family, receiver_count, &source, &["--rate", "300M"]);
    for (index, receiver) in ended.iter().enumerate() {
        let copy = lab.path(&format!("copy{index}"));
        check_end(receiver, &server, &copy);
        assert_same(&copy, &source);
        if let Content::Zeroes { size } = content {
            assert_eq!(count(receiver.end(), "held"), size);
            assert!(allocated(&copy) <= MIB, "zeroes leave a hole, not {} bytes on disk", allocated(&copy));
            assert_eq!(count(&receiver.end()["counts"], "stored"), 0, "zeroes are never sent");
        }
    }
    let ended = server.terminate();
    assert_eq!(ended.exit, Some(143), "a server goes on until it is stopped; stderr: {}", ended.stderr);
}

fn transfer_sparse(family: Family, receiver_count: u32) {
    let _alone = whole_machine();
    let mut lab = Lab::new();
    let source = make(&lab, "source", Content::Sparse { size: 5 * 1024 * MIB });
    let (server, ended) = serve_to_all(&mut lab, family, receiver_count, &source, &["--rate", "300M", "--fec", "0"]);
    for (index, receiver) in ended.iter().enumerate() {
        let copy = lab.path(&format!("copy{index}"));
        check_end(receiver, &server, &copy);
        assert_same(&copy, &source);
        assert!(allocated(&copy) <= (SPARSE_BLOCK_COUNT + 1) * MIB, "{} bytes on disk", allocated(&copy));
        let seconds = number(receiver.end(), "seconds") - number(receiver.end(), "sync_seconds");
        assert!(seconds <= 30.0, "5 GiB of mostly zeroes took {seconds} s");
        figure(
            &format!("5 GiB sparse, {family:?}, receiver {} of {receiver_count}", index + 1),
            &format!("{seconds:.2} s"),
            "30 s",
        );
        check_memory(receiver, "receiver", family);
    }
    let ended = server.terminate();
    check_memory(&ended, "sender", family);
}

#[test]
fn zeroes_beside_data_stay_holes_in_memory_too() {
    let _alone = whole_machine();
    let mut lab = Lab::new();
    // Where room is taken in pages of 2 MiB, of which each has a data block.
    let memory = tempfile::tempdir_in("/dev/shm").expect("a tmpfs");
    let (data_count, copy) = (48, memory.path().join("copy"));
    let source = lab.path("source");
    let file = File::create(&source).expect("create the source");
    file.set_len(2 * data_count * MIB).expect("set its length");
    for index in 0..data_count {
        let block = vec![index as u8 + 1; MIB as usize];
        // The first of a page, and the second of the next.
        file.write_all_at(&block, (2 * index + index % 2) * MIB).expect("write a block");
    }
    let (server_host, host) = (lab.host(), lab.host());
    let receiver = receive(&host, &copy, Family::V4.group());
    let _ = receiver.wait_for_event("listening");
    // Fast enough for blocks to be put together in memory.
    let server = serve(&lab, &server_host, &source, Family::V4.group(), &["--rate", "2G", "--fec", "0"]);
    let receiver = receiver.wait();
    check_end(&receiver, &server, &copy);
    assert_same(&copy, &source);
    assert!(allocated(&copy) <= (data_count + 1) * MIB, "{} bytes of memory", allocated(&copy));
}

/// Starts the receivers, each on a host of its own, then the server, and waits for the receivers.
fn serve_to_all(
    lab: &mut Lab,
    family: Family,
    receiver_count: u32,
    source: &Path,
    options: &[&str],
) -> (Process, Vec<Ended>) {
    let host = lab.host();
    let receivers: Vec<Process> = (0..receiver_count)
        .map(|index| {
            let host = lab.host();
            receive(&host, &lab.path(&format!("copy{index}")), family.group())
        })
        .collect();
    for receiver in &receivers {
        let _ = receiver.wait_for_event("listening");
    }
    let server = serve(lab, &host, source, family.group(), options);
    let ended = receivers.into_iter().map(Process::wait).collect();
    (server, ended)
}

/// A receiver's end says that it has just what the server sends, and nothing is left over.
fn check_end(receiver: &Ended, server: &Process, copy: &Path) {
    let sending = server.wait_for_event("sending");
    let end = receiver.completed();
    for member in ["digest", "size"] {
        assert_eq!(end[member], sending[member], "{member}");
    }
    assert_eq!(text(receiver.first("manifest"), "object"), text(&sending, "object"));
    assert_eq!(receiver.first("manifest")["authenticated"], false, "nothing is signed yet");
    assert_eq!(count(&end["counts"], "blocks_failed"), 0);
    assert!(end["missing"].as_array().is_none_or(Vec::is_empty), "nothing is missing: {end}");
    assert!(!part_of(copy).exists(), "the partial file has been renamed");
}

#[test]
#[ignore = "moves 5 GiB and takes a minute: run by scripts/measure"]
fn full_file_of_5_gib_arrives_in_little_memory() {
    let _alone = whole_machine();
    let mut lab = Lab::new();
    let source = make(&lab, "source", Content::Random { size: 5 * 1024 * MIB, seed: 1 });
    let (server, ended) = serve_to_all(&mut lab, Family::V4, 1, &source, &["--rate", "1500M", "--fec", "0"]);
    check_end(&ended[0], &server, &lab.path("copy0"));
    assert_same(&lab.path("copy0"), &source);
    let seconds = number(ended[0].end(), "transfer_seconds");
    figure("5 GiB full at 1500 Mbit/s", &format!("{seconds:.2} s"), "-");
    check_memory(&ended[0], "receiver of a full file", Family::V4);
    check_memory(&server.terminate(), "sender of a full file", Family::V4);
}

fn check_memory(ended: &Ended, who: &str, family: Family) {
    let memory = ended.memory;
    let mib = |bytes: u64| format!("{:.1} MiB", bytes as f64 / MIB as f64);
    figure(&format!("{who}'s peak memory, 5 GiB, {family:?}"), &mib(memory.own), &mib(MEMORY_MAX));
    figure(&format!("{who}'s VmHWM with mapped files, 5 GiB, {family:?}"), &mib(memory.resident), "-");
    assert!(memory.own > 0, "the {who}'s memory has been seen");
    assert!(memory.own <= MEMORY_MAX, "the {who} used {}", mib(memory.own));
}

#[test]
fn receiver_that_joins_at_30_percent_needs_no_more_than_1_03_passes() {
    let _alone = whole_machine();
    let mut lab = Lab::new();
    let (server_host, receiver_host) = (lab.host(), lab.host());
    // 75 MiB at 100 Mbit/s take 6.6 s, and half as much again with repair symbols, so that the third status comes at 30 % of the
    // server's round.
    let size = 75 * MIB;
    let source = make(&lab, "source", Content::Random { size, seed: 1 });
    let options = ["--rate", "100M", "--start-offset", "0%"];
    let server = serve(&lab, &server_host, &source, Family::V4.group(), &options);
    let joined =
        server.wait_for("30 % of a round", |event| event["event"] == "status" && number(event, "passes") >= 0.28);
    let drops_before = backlog_drops();
    let receiver = receive(&receiver_host, &lab.path("copy"), Family::V4.group()).wait();
    let end = receiver.completed();
    assert_same(&lab.path("copy"), &source);
    if backlog_drops() == drops_before {
        assert!(senders(end).iter().all(|sender| count(sender, "lost") == 0), "nothing was lost: {:?}", senders(end));
    }

    // The symbols that went by until it had enough are the measure, in passes of as many as the file has itself. Time is only told, by
    // what the server's own account says that such a pass takes.
    let ended = server.terminate();
    let lost_seconds = number(ended.end(), "lost_seconds");
    let pass_symbols = source_symbol_count(size) as f64;
    let rounds = number(ended.end(), "passes") * count(ended.first("sending"), "round_length") as f64 / pass_symbols;
    let pass_seconds = (number(ended.end(), "seconds") - lost_seconds) / rounds;
    let passes = number(end, "transfer_seconds") / pass_seconds;
    let passes_of_symbols = needed(end, size);
    let start = number(&joined, "passes");
    figure(
        &format!("passes of a receiver that joins at {start:.2}"),
        &format!("{passes:.4} by time, {passes_of_symbols:.4} by symbols"),
        "1.03",
    );
    assert!((0.2..0.5).contains(&start), "the receiver was to join at about 30 %, not {start}");
    assert!(passes_of_symbols <= 1.03, "{passes_of_symbols} passes by symbols: {end}");
    let in_all = sent_to_receiver(end, size);
    assert!(in_all <= 1.5, "{in_all} passes by symbols until all was decoded: {end}");
}

#[test]
fn receiver_that_is_there_before_the_server_says_so_and_completes() {
    let mut lab = Lab::new();
    let (server_host, receiver_host) = (lab.host(), lab.host());
    let source = make(&lab, "source", Content::Random { size: MIB + 1, seed: 1 });
    let receiver = receive(&receiver_host, &lab.path("copy"), Family::V4.group());
    let _ = receiver.wait_for("notice of silence", |event| event["event"] == "notice" && event["kind"] == "silent");
    assert!(!part_of(&lab.path("copy")).exists(), "nothing is allocated before there is a manifest");
    let _server = serve(&lab, &server_host, &source, Family::V4.group(), &["--rate", "50M"]);
    let receiver = receiver.wait();
    let _ = receiver.completed();
    assert_same(&lab.path("copy"), &source);
    assert_eq!(receiver.notices("heard_again").len(), 1, "the end of the silence is told once");
}

#[test]
fn three_receivers_on_one_host_and_port_all_complete() {
    let mut lab = Lab::new();
    let (server_host, receiver_host) = (lab.host(), lab.host());
    let source = make(&lab, "source", Content::Random { size: 4 * MIB, seed: 1 });
    let copies: Vec<_> = (0..3).map(|index| lab.path(&format!("copy{index}"))).collect();
    let start = |copy| receive(&receiver_host, copy, "239.77.1.1:5353");
    let receivers: Vec<Process> = copies.iter().map(|copy| start(copy)).collect();
    let _server = serve(&lab, &server_host, &source, "239.77.1.1:5353", &["--rate", "50M"]);
    for (receiver, copy) in receivers.into_iter().zip(&copies) {
        let _ = receiver.wait().completed();
        assert_same(copy, &source);
    }
}

#[test]
fn every_start_offset_and_symbol_size_completes() {
    for (offset, mtu) in [("37%", "1280"), ("99.5%", "700"), ("0%", "1500")] {
        let mut lab = Lab::new();
        let (server_host, receiver_host) = (lab.host(), lab.host());
        let source = make(&lab, "source", Content::Random { size: 3 * MIB + 17, seed: 1 });
        let options = ["--rate", "50M", "--start-offset", offset, "--mtu", mtu];
        let _server = serve(&lab, &server_host, &source, Family::V6.group(), &options);
        let receiver = receive(&receiver_host, &lab.path("copy"), Family::V6.group()).wait();
        let _ = receiver.completed();
        assert_same(&lab.path("copy"), &source);
    }
}

#[test]
fn server_ends_after_the_cycles_asked_for() {
    let mut lab = Lab::new();
    let (server_host, receiver_host) = (lab.host(), lab.host());
    let source = make(&lab, "source", Content::Random { size: 2 * MIB, seed: 1 });
    let receiver = receive(&receiver_host, &lab.path("copy"), Family::V4.group());
    let _ = receiver.wait_for_event("listening");
    let server = serve(&lab, &server_host, &source, Family::V4.group(), &["--rate", "50M", "--cycles", "2"]);
    let _ = receiver.wait().completed();
    let server = server.wait();
    let end = server.completed();
    let sent = count(end, "data");
    assert_eq!(sent, 2 * count(server.first("sending"), "round_length"), "two passes, to the packet");
    assert_same(&lab.path("copy"), &source);
}

#[test]
fn delay_between_packets_is_kept() {
    let _alone = whole_machine();
    let mut lab = Lab::new();
    let host = lab.host();
    let source = make(&lab, "source", Content::Random { size: 2 * MIB, seed: 1 });
    let server = serve(&lab, &host, &source, Family::V4.group(), &["--pkt-delay", "1ms"]);
    let _ = server.wait_for("four seconds", |event| event["event"] == "status" && number(event, "seconds") > 4.0);
    let per_second = median_rate(&server.events("status"));
    let ended = server.terminate();
    let end = ended.end();
    let packets = (count(end, "data") + count(end, "manifest") + count(end, "hashes")) as f64;
    let of_all = packets / number(end, "seconds");
    assert!((980.0..1020.0).contains(&per_second), "{per_second} packets a second with 1 ms between them");
    // Time that was lost is not made up for.
    assert!(of_all < 1020.0, "{of_all} packets a second with 1 ms between them, in all: {end}");
}

#[test]
fn silent_machine_of_loopback_alone_serves_itself() {
    let mut lab = Lab::new();
    let host: Host = lab.lonely_host();
    let source = make(&lab, "source", Content::Random { size: MIB + 1, seed: 1 });
    let options = ["-i", "lo", "--rate", "50M"];
    let mut server = host.command(crate::run::Program::Server.path());
    server.args(["--json", "--cache-dir"]).arg(lab.path("cache")).args(options);
    let _server = Process::spawn(server.arg(&source).arg("239.77.1.1"));
    let mut receiver = host.command(crate::run::Program::Receiver.path());
    receiver.args(["--json", "-i", "lo", "--timeout", "60s"]).arg(lab.path("copy")).arg("239.77.1.1");
    let _ = Process::spawn(&mut receiver).wait().completed();
    files::assert_same(&lab.path("copy"), &source);
}
