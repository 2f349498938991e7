//! Receivers that are killed again and again, and slot maps that say what is not so: never a wrong file, and little is sent twice.
//!
//! What a receiver needed is counted in its kernel, behind the loss: packets reach that rule only while a receiver is a member of
//! the group, which ends with the receiver, however that ends. So the sum over all runs of a campaign is what the campaign needed,
//! and the packets that the network lost, or that came while no receiver ran, are not in it.
//!
//! Packets that nobody hears cost more than themselves all the same: as bursts they hit some blocks and spare others, and what comes
//! for blocks that are whole is counted and of no use. That is the price of being away, not of being killed. So the server is halted
//! while no receiver listens wherever the bound is asserted, and goes on in one campaign whose figure is only stated.

use std::fs::{self, OpenOptions};
use std::os::unix::fs::{FileExt, MetadataExt, symlink};
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::sys::signal::Signal;

use crate::files::{Content, MIB, assert_same, make};
use crate::lab::{Family, Host, Lab, whole_machine};
use crate::run::{PATIENCE, Process, count, figure, part_of, receive, serve};

/// Packets lost of a thousand.
const LOSS_PER_MILLE: u32 = 30;
/// What killed receivers may need at most, against one that is left alone.
const NEED_MAX: f64 = 1.10;

/// A campaign: a receiver is stopped at so many moments drawn from the seed, and started again each time.
#[derive(Clone, Copy, Debug)]
struct Campaign {
    signal: Signal,
    stop_count: u32,
    seed: u64,
    /// Whether the server is halted while no receiver listens.
    server_waits: bool,
}

#[test]
fn receiver_that_is_stopped_ten_times_needs_hardly_more() {
    campaigns(64 * MIB, "100M", 10, &[(Signal::SIGKILL, 7, true), (Signal::SIGTERM, 8, true)]);
}

/// Run by `scripts/measure`: it takes minutes.
#[test]
#[ignore = "takes minutes; scripts/measure runs it"]
fn receiver_that_is_stopped_fifty_times_needs_hardly_more() {
    let kinds = [(Signal::SIGKILL, 7, true), (Signal::SIGTERM, 8, true), (Signal::SIGKILL, 9, false)];
    campaigns(256 * MIB, "200M", 50, &kinds);
}

fn campaigns(size: u64, rate: &str, stop_count: u32, kinds: &[(Signal, u64, bool)]) {
    let _alone = whole_machine();
    let mut lab = Lab::new();
    let (server_host, receiver_host) = (lab.host(), lab.host());
    lab.disable_offloads(&server_host);
    lab.disable_offloads(&receiver_host);
    receiver_host.lose(LOSS_PER_MILLE);
    count_delivered(&receiver_host);
    let source = make(&lab, "source", Content::Random { size, seed: 1 });
    let server = serve(&lab, &server_host, &source, Family::V4.group(), &["--rate", rate]);

    let alone = receive(&receiver_host, &lab.path("alone"), Family::V4.group()).wait();
    let seconds = alone.completed()["transfer_seconds"].as_f64().expect("how long it took");
    assert_same(&lab.path("alone"), &source);
    let needed_alone = delivered(&receiver_host);
    let mut needed_before = needed_alone;
    let mut over = Vec::new();
    for &(signal, seed, server_waits) in kinds {
        let copy = lab.path(&format!("{signal}-{seed}"));
        let campaign = Campaign { signal, stop_count, seed, server_waits };
        let stopped = run_campaign(&receiver_host, &copy, &source, campaign, Duration::from_secs_f64(seconds), &server);
        let needed = delivered(&receiver_host) - needed_before;
        needed_before += needed;
        let ratio = needed as f64 / needed_alone as f64;
        let halted = if server_waits { ", server halted meanwhile" } else { "" };
        let what = format!("{} MiB, {stopped} times {signal}{halted}, 3 % loss: packets needed", size / MIB);
        let bound = if server_waits { format!("{NEED_MAX:.2}") } else { "-".to_owned() };
        figure(&what, &format!("{ratio:.3} of one run"), &bound);
        assert!(stopped * 10 >= stop_count * 6, "{stopped} of {stop_count} stops before it was complete");
        if server_waits && ratio > NEED_MAX {
            over.push(format!("{campaign:?} needed {ratio:.3} of what one run needs"));
        }
    }
    assert!(over.is_empty(), "{over:?}");
}

/// Stops and starts receivers until one completes; how often one was stopped. The moments are spread over what one run alone takes.
fn run_campaign(host: &Host, copy: &Path, source: &Path, campaign: Campaign, alone: Duration, server: &Process) -> u32 {
    let mut random = Random(campaign.seed);
    let longest = 2 * alone.mul_f64(0.9) / campaign.stop_count;
    let start = || {
        let receiver = receive(host, copy, Family::V4.group());
        if campaign.server_waits {
            receiver.wait_for_event("listening");
            server.signal(Signal::SIGCONT);
        }
        receiver
    };
    for stopped in 0..campaign.stop_count {
        let receiver = start();
        std::thread::sleep(longest.mul_f64(random.fraction()));
        receiver.signal(campaign.signal);
        if campaign.server_waits {
            server.signal(Signal::SIGSTOP);
        }
        let ended = receiver.wait();
        if ended.exit == Some(0) {
            server.signal(Signal::SIGCONT);
            assert_same(copy, source);
            return stopped;
        }
        let expected = if campaign.signal == Signal::SIGKILL { None } else { Some(143) };
        // A program that has hardly begun has no handler for the signal yet.
        assert!(ended.exit == expected || ended.exit.is_none(), "{:?}; stderr: {}", ended.exit, ended.stderr);
        assert!(!copy.exists(), "stop {stopped}: a file that is not whole has the real name");
    }
    let _ = start().wait().completed();
    assert_same(copy, source);
    assert!(!part_of(copy).exists() && !slots_of(copy).exists(), "nothing is left beside the file");
    campaign.stop_count
}

/// Counts the packets of the group that get through to this host.
pub(crate) fn count_delivered(host: &Host) {
    let rule = r#"add rule inet loss input udp dport 4242 counter comment "delivered""#;
    let added = host.command("nft").arg(rule).status().expect("run nft");
    assert!(added.success(), "nft {rule}");
}

pub(crate) fn delivered(host: &Host) -> u64 {
    let output = host.command("nft").args(["list", "chain", "inet", "loss", "input"]).output().expect("run nft");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let line = text.lines().find(|line| line.contains("delivered")).unwrap_or_else(|| panic!("no counter in {text}"));
    let number = line.split("packets ").nth(1).and_then(|rest| rest.split(' ').next());
    number.and_then(|number| number.parse().ok()).unwrap_or_else(|| panic!("no number in {line}"))
}

fn slots_of(copy: &Path) -> PathBuf {
    part_of(copy).with_extension("slots")
}

/// xorshift64*: the same moments whenever the seed is the same.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    /// From 0 to 1.
    fn fraction(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1_u64 << 53) as f64
    }
}

/// What a receiver had on disk when it was killed.
struct Remains {
    part: PathBuf,
    record: PathBuf,
    slots: PathBuf,
}

impl Remains {
    /// Kills a receiver as soon as it holds so many bytes.
    fn of(lab: &Lab, host: &Host, name: &str, held: u64) -> Self {
        let folder = lab.folder(name);
        let copy = folder.join("copy");
        let receiver = receive(host, &copy, Family::V4.group());
        wait_until_held(&receiver, &copy, held);
        receiver.kill();
        let remains = Self { part: part_of(&copy), record: folder.join(".copy.object"), slots: slots_of(&copy) };
        if !remains.slots.exists() {
            // A receiver that keeps no slot map: noise stands for one.
            fs::write(&remains.slots, noise(1, 32 << 10)).expect("write a slot map");
        }
        remains
    }

    /// Puts the remains beside a new output, with the slot map of `slots`.
    fn put(&self, lab: &Lab, name: &str, slots: &Path) -> PathBuf {
        let copy = lab.folder(name).join("copy");
        fs::copy(&self.part, part_of(&copy)).expect("copy the part");
        fs::copy(&self.record, copy.with_file_name(".copy.object")).expect("copy the record");
        fs::copy(slots, slots_of(&copy)).expect("copy the slot map");
        copy
    }
}

/// Waits until the part takes up so many bytes on disk. A receiver reports too seldom for that.
fn wait_until_held(receiver: &Process, copy: &Path, held: u64) {
    let _ = receiver.wait_for_event("manifest");
    let started = std::time::Instant::now();
    while fs::metadata(part_of(copy)).map_or(0, |metadata| metadata.blocks() * 512) < held {
        assert!(started.elapsed() < PATIENCE, "no {held} bytes within {PATIENCE:?}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

fn noise(seed: u64, size: usize) -> Vec<u8> {
    let mut random = Random(seed);
    std::iter::repeat_with(|| random.next().to_le_bytes()).flatten().take(size).collect()
}

#[test]
fn slot_map_that_says_what_is_not_so_costs_symbols_and_nothing_else() {
    let mut lab = Lab::new();
    let (server_host, receiver_host) = (lab.host(), lab.host());
    let source = make(&lab, "source", Content::Random { size: 6 * MIB + 12_345, seed: 1 });
    let other = make(&lab, "other", Content::Random { size: 6 * MIB + 12_345, seed: 2 });
    let foreign = {
        let _server = serve(&lab, &server_host, &other, Family::V4.group(), &["--rate", "20M"]);
        Remains::of(&lab, &receiver_host, "foreign", 3 * MIB)
    };
    let server = serve(&lab, &server_host, &source, Family::V4.group(), &["--rate", "20M"]);
    let early = Remains::of(&lab, &receiver_host, "early", MIB);
    let late = Remains::of(&lab, &receiver_host, "late", 4 * MIB);
    server.terminate();
    let _server = serve(&lab, &server_host, &source, Family::V4.group(), &["--rate", "100M"]);

    let as_it_was = late.put(&lab, "as-it-was", &late.slots);
    let stale = late.put(&lab, "stale", &early.slots);
    let ahead = early.put(&lab, "ahead", &late.slots);
    let foreigner = late.put(&lab, "of-another-object", &foreign.slots);
    let of_another_part = foreign.put(&lab, "of-another-part", &late.slots);
    let truncated = late.put(&lab, "truncated", &late.slots);
    let size = fs::metadata(&late.slots).expect("the slot map is there").len();
    open(&truncated).set_len(size / 2 + 1).expect("cut the slot map off");
    let longer = late.put(&lab, "longer", &late.slots);
    open(&longer).set_len(size + 4096).expect("extend the slot map");
    let torn = late.put(&lab, "torn", &late.slots);
    let mut random = Random(3);
    for _ in 0..200 {
        let place = random.next() % (size / 4) * 4;
        open(&torn).write_all_at(&random.next().to_le_bytes()[..4], place).expect("tear the slot map");
    }
    let full = late.put(&lab, "all-ones", &late.slots);
    // The header stays, so that it is believed.
    open(&full).write_all_at(&vec![0xff; usize::try_from(size - 64).expect("it is small")], 64).expect("fill it");
    let random_one = late.put(&lab, "noise", &late.slots);
    fs::write(slots_of(&random_one), noise(4, usize::try_from(size).expect("it is small"))).expect("write noise");

    let all = [as_it_was, stale, ahead, foreigner, of_another_part, truncated, longer, torn, full, random_one];
    for copy in all {
        let ended = receive(&receiver_host, &copy, Family::V4.group()).wait();
        let end = ended.completed();
        assert_same(&copy, &source);
        assert!(count(&end["counts"], "stored") > 0, "some of it was missing");
        assert!(!slots_of(&copy).exists(), "{}: the slot map has gone", copy.display());
    }
}

fn open(copy: &Path) -> fs::File {
    OpenOptions::new().write(true).open(slots_of(copy)).expect("open the slot map")
}

#[test]
fn slot_map_that_somebody_else_has_prepared_is_neither_believed_nor_written_to() {
    let mut lab = Lab::new();
    let (server_host, receiver_host) = (lab.host(), lab.host());
    let source = make(&lab, "source", Content::Random { size: 3 * MIB, seed: 1 });
    let _server = serve(&lab, &server_host, &source, Family::V4.group(), &["--rate", "50M"]);
    let remains = Remains::of(&lab, &receiver_host, "remains", MIB);
    let precious = lab.path("precious");
    fs::copy(&remains.slots, &precious).expect("write a file");
    let before = fs::read(&precious).expect("read the file");

    let linked = remains.put(&lab, "linked", &remains.slots);
    fs::remove_file(slots_of(&linked)).expect("remove the slot map");
    symlink(&precious, slots_of(&linked)).expect("make a link");
    let hard = remains.put(&lab, "hard-linked", &remains.slots);
    fs::remove_file(slots_of(&hard)).expect("remove the slot map");
    fs::hard_link(&precious, slots_of(&hard)).expect("make a link");
    let theirs = remains.put(&lab, "theirs", &remains.slots);
    std::os::unix::fs::chown(slots_of(&theirs), Some(65_534), None).expect("give the slot map away");
    let folder = remains.put(&lab, "folder", &remains.slots);
    fs::remove_file(slots_of(&folder)).expect("remove the slot map");
    fs::create_dir(slots_of(&folder)).expect("make a folder in its place");

    for copy in [&linked, &hard, &theirs, &folder] {
        let _ = receive(&receiver_host, copy, Family::V4.group()).wait().completed();
        assert_same(copy, &source);
        assert!(fs::symlink_metadata(slots_of(copy)).is_ok(), "{}: what is not ours stays", copy.display());
    }
    assert_eq!(fs::read(&precious).expect("read the file"), before, "what is linked to is not written to");
}
