//! What happens to the file while it is sent: whatever is done to it, at whatever moment, receivers get its content as it was, or
//! nothing, and the server says so and ends, or goes on with the old content.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use crate::files::{Content, MIB, assert_same, make};
use crate::lab::{BlockDevice, Family, Host, Lab, Mount};
use crate::run::{Process, Witness, count, receive, receive_until, serve, text};

/// Moments after the first packet, within the first pass and the second: a pass takes about 1.15 s.
const MOMENTS_MS: [u64; 4] = [30, 333, 800, 1700];
const SIZE: u64 = 4 * MIB;
/// Within this a server sees what is done to its file, and lets a writer in: it looks ten times a second. What the machine was held up
/// for comes on top.
const NOTICED_WITHIN: Duration = Duration::from_secs(1);

/// What is done to the file.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Deed {
    CutShort,
    Overwrite,
    RenameOver,
    Delete,
}

impl Deed {
    fn is_a_change(self) -> bool {
        matches!(self, Self::CutShort | Self::Overwrite)
    }

    /// Does it; the seed chooses where.
    fn commit(self, file: &Path, seed: u64) {
        let place = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) % SIZE;
        let open = || File::options().write(true).open(file).expect("open for writing");
        match self {
            Self::CutShort => open().set_len(place).expect("cut short"),
            Self::Overwrite => open().write_all_at(&[0xEE; 65_536], place.min(SIZE - 65_536)).expect("overwrite"),
            Self::RenameOver => {
                let other = file.with_extension("other");
                fs::write(&other, vec![0xEE; 100_000]).expect("write another file");
                fs::rename(&other, file).expect("rename over");
            }
            Self::Delete => fs::remove_file(file).expect("delete"),
        }
    }
}

fn status_has(server: &Process, wanted: impl Fn(&str) -> bool) -> serde_json::Value {
    let is_it = |event: &serde_json::Value| event["kind"] == "warning" && wanted(text(event, "text"));
    server.wait_for("a warning", |event| event["event"] == "notice" && is_it(event))
}

/// Does the deed at each of the moments, in a transfer of its own, in files that `place` names.
fn try_all(lab: &mut Lab, deed: Deed, place: &dyn Fn(&Lab, &str) -> PathBuf) {
    let original = make(lab, "original", Content::Random { size: SIZE, seed: 1 });
    let (server_host, receiver_host) = (lab.host(), lab.host());
    for moment in MOMENTS_MS {
        let source = place(lab, &format!("source-{moment}"));
        fs::copy(&original, &source).expect("copy");
        let copy = lab.path(&format!("copy-{moment}"));
        let receiver = receive(&receiver_host, &copy, Family::V4.group());
        let _ = receiver.wait_for_event("listening");
        let server = serve(lab, &server_host, &source, Family::V4.group(), &["--rate", "30M"]);
        let _ = server.wait_for_event("sending");
        std::thread::sleep(Duration::from_millis(moment));
        let witness = Witness::start();
        deed.commit(&source, moment);
        if deed.is_a_change() {
            let done = Instant::now();
            let server = server.wait();
            let (took, held_up) = (server.ended_at - done, witness.end());
            assert!(took < NOTICED_WITHIN + held_up, "{deed:?} at {moment} ms: {took:?}, held up for {held_up:?}");
            assert_eq!(server.exit, Some(74), "{deed:?} at {moment} ms; stderr: {}", server.stderr);
            assert!(text(server.end(), "message").contains("changed while it was being sent"), "{}", server.end());
            end_or_complete(receiver, &copy, &original);
        } else {
            let _ = receiver.wait().completed();
            assert_same(&copy, &original);
            let _ = status_has(&server, |text| text.contains("going on with the old content"));
            assert_eq!(server.terminate().exit, Some(143));
        }
        let _ = fs::remove_file(&source);
    }
}

/// A receiver whose server has gone has the old content, or no file.
fn end_or_complete(receiver: Process, copy: &Path, original: &Path) {
    // It may have completed, which a signal must not spoil.
    std::thread::sleep(Duration::from_millis(200));
    if !copy.exists() {
        receiver.signal(Signal::SIGTERM);
    }
    let ended = receiver.wait();
    if ended.exit == Some(0) {
        assert_same(copy, original);
    } else {
        assert_eq!(ended.exit, Some(143), "stderr: {}", ended.stderr);
        assert!(!copy.exists(), "no file has the real name that is not the whole content");
    }
}

fn on_disk(deed: Deed) {
    try_all(&mut Lab::new(), deed, &|lab, name| lab.path(name));
}

fn in_memory(deed: Deed) {
    let mut lab = Lab::new();
    let memory = lab.small_disk("memory", 64 * MIB);
    try_all(&mut lab, deed, &|_, name| memory.path(name));
}

#[test]
fn file_on_disk_is_cut_short() {
    on_disk(Deed::CutShort);
}

#[test]
fn file_on_disk_is_overwritten() {
    on_disk(Deed::Overwrite);
}

#[test]
fn file_on_disk_is_renamed_over() {
    on_disk(Deed::RenameOver);
}

#[test]
fn file_on_disk_is_deleted() {
    on_disk(Deed::Delete);
}

#[test]
fn file_in_memory_is_cut_short() {
    in_memory(Deed::CutShort);
}

#[test]
fn file_in_memory_is_overwritten() {
    in_memory(Deed::Overwrite);
}

#[test]
fn file_in_memory_is_renamed_over() {
    in_memory(Deed::RenameOver);
}

#[test]
fn file_in_memory_is_deleted() {
    in_memory(Deed::Delete);
}

/// Compares the payload of every source symbol that comes with the file. Arguments: the file, the group, the interface's address.
/// Says `enough` when more than a hundred were right. Prints how many were right and how many were not when it has been asked to end and
/// nothing more comes. With SO_RCVBUFFORCE (33) there is room for what comes while it is held up.
const COMPARE: &str = r"
import signal, socket, sys
is_over = False
def end(*_):
    global is_over
    is_over = True
signal.signal(signal.SIGTERM, end)
content = open(sys.argv[1], 'rb').read()
inbox = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
inbox.setsockopt(socket.SOL_SOCKET, 33, 16 << 20)
inbox.bind((sys.argv[2], 4242))
inbox.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, socket.inet_aton(sys.argv[2]) + socket.inet_aton(sys.argv[3]))
print('ready', flush=True)
inbox.settimeout(0.1)
right = wrong = 0
while True:
    try:
        datagram = inbox.recv(65536)
    except TimeoutError:
        if is_over:
            break
        continue
    esi, block, payload = int.from_bytes(datagram[30:32], 'big'), int.from_bytes(datagram[32:36], 'big'), datagram[44:]
    start = (block << 20) + esi * 1408
    if datagram[3] != 1 or esi * 1408 >= 1 << 20:
        continue
    if payload == content[start:start + len(payload)]:
        right += 1
        if right == 101:
            print('enough', flush=True)
    else:
        wrong += 1
print(right, wrong)
";

/// A file that is cut reads as zeroes where it was: none of them goes out, with a good checksum or a bad one.
#[test]
fn no_packet_has_what_is_not_in_the_file() {
    let mut lab = Lab::new();
    let (server_host, listener_host) = (lab.host(), lab.host());
    let memory = lab.small_disk("memory", 64 * MIB);
    let original = make(&lab, "original", Content::Random { size: SIZE, seed: 1 });
    for (engine, seed) in [("uring", 1), ("uring", 2), ("sendmmsg", 3), ("sendmmsg", 4)] {
        let source = memory.path(&format!("source-{seed}"));
        fs::copy(&original, &source).expect("copy");
        let mut command = listener_host.command("python3");
        let address = listener_host.address_v4();
        command.args(["-c", COMPARE]).arg(&original).args([Family::V4.group(), &address]).stdout(Stdio::piped());
        let listener = Process::spawn(&mut command);
        let _ = listener.wait_for("readiness", |line| line == "ready");
        // The hashes of payloads are remembered in the first pass, and would give zeroes away in the second.
        let server = serve(&lab, &server_host, &source, Family::V4.group(), &["--rate", "30M", "--engine", engine]);
        let _ = server.wait_for_event("sending");
        std::thread::sleep(Duration::from_millis(100 * seed));
        let _ = listener.wait_for("more than a hundred packets", |line| line == "enough");
        File::options().write(true).open(&source).and_then(|file| file.set_len(0)).expect("cut");
        assert_eq!(server.wait().exit, Some(74));
        let said = listener.terminate();
        let counts = said.events.last().and_then(|line| line.as_str()).expect("two numbers");
        let (right, wrong) = counts.split_once(' ').expect("two numbers");
        assert!(right.parse::<u32>().is_ok_and(|right| right > 100), "{counts}");
        assert_eq!(wrong, "0", "of {counts} packets");
    }
}

#[test]
fn opening_for_writing_without_writing_is_no_change() {
    let mut lab = Lab::new();
    let (server_host, receiver_host) = (lab.host(), lab.host());
    let source = make(&lab, "source", Content::Random { size: SIZE, seed: 1 });
    let server = serve(&lab, &server_host, &source, Family::V4.group(), &["--rate", "30M"]);
    assert_eq!(text(&server.wait_for_event("sending"), "hold"), "lease");
    for _ in 0..3 {
        let (witness, asked) = (Witness::start(), Instant::now());
        drop(File::options().write(true).open(&source).expect("open for writing"));
        let (waited, held_up) = (asked.elapsed(), witness.end());
        assert!(waited < NOTICED_WITHIN + held_up, "a writer waits no longer: {waited:?}, held up for {held_up:?}");
    }
    let _ = receive(&receiver_host, &lab.path("copy"), Family::V4.group()).wait().completed();
    assert_same(&lab.path("copy"), &source);
    let server = server.terminate();
    assert_eq!((server.exit, server.notices("warning").len()), (Some(143), 0), "stderr: {}", server.stderr);
}

#[test]
fn file_that_can_be_cloned_is_sent_as_it_was_whatever_happens_to_it() {
    let mut lab = Lab::new();
    let (server_host, receiver_host) = (lab.host(), lab.host());
    let disk: Mount = lab.cloning_disk("btrfs");
    let original = make(&lab, "original", Content::Random { size: SIZE, seed: 1 });
    for deed in [Deed::CutShort, Deed::Overwrite, Deed::RenameOver, Deed::Delete] {
        let source = disk.path(&format!("source-{deed:?}"));
        fs::copy(&original, &source).expect("copy");
        let server = serve(&lab, &server_host, &source, Family::V4.group(), &["--rate", "30M"]);
        assert_eq!(text(&server.wait_for_event("sending"), "hold"), "clone");
        deed.commit(&source, 7);
        let word = if deed.is_a_change() { "going on with the content as it was" } else { "the old content" };
        let _ = status_has(&server, |text| text.contains(word));
        let copy = lab.path(&format!("copy-{deed:?}"));
        let _ = receive(&receiver_host, &copy, Family::V4.group()).wait().completed();
        assert_same(&copy, &original);
        let server = server.terminate();
        assert_eq!((server.exit, server.notices("warning").len()), (Some(143), 1), "it is said once");
    }
    let names: Vec<_> =
        fs::read_dir(disk.path("")).expect("list").map(|entry| entry.expect("entry").file_name()).collect();
    assert_eq!(names.len(), 3, "the clones have no names: {names:?}");
}

#[test]
fn block_device_is_sent_and_its_changes_reach_no_receiver() {
    let mut lab = Lab::new();
    let (server_host, receiver_host) = (lab.host(), lab.host());
    let original = make(&lab, "original", Content::Random { size: SIZE, seed: 1 });
    let image = lab.path("image");
    fs::copy(&original, &image).expect("copy");
    let device = BlockDevice::new(&image);
    // Without repair symbols, from which the old content could be rebuilt.
    let options = ["--rate", "30M", "--fec", "0"];
    let server = serve(&lab, &server_host, device.path(), Family::V4.group(), &options);
    let sending = server.wait_for_event("sending");
    assert_eq!((text(&sending, "hold"), count(&sending, "size")), ("none", SIZE));
    let _ =
        status_has(&server, |text| text.contains("is a block device: a change to it is noticed by receivers alone"));
    let _ = receive(&receiver_host, &lab.path("copy"), Family::V4.group()).wait().completed();
    assert_same(&lab.path("copy"), &original);
    let kept = fs::read_dir(lab.path("cache")).into_iter().flatten().filter_map(Result::ok);
    let digests: Vec<_> =
        kept.map(|entry| entry.file_name()).filter(|name| name.to_string_lossy().contains("digest")).collect();
    assert!(digests.is_empty(), "the digest of a device is not kept: {digests:?}");

    // One block is no longer what the manifest says: that one is never accepted, the others are.
    File::options()
        .write(true)
        .open(device.path())
        .and_then(|file| file.write_all_at(&[0xEE; 4096], MIB))
        .expect("write");
    let again = lab.path("again");
    let receiver = refused(&receiver_host, &again);
    assert!(!again.exists(), "nothing with wrong bytes has the real name");
    assert_eq!(count(receiver.end(), "exit"), 75, "{}", receiver.end());
    assert_eq!(server.terminate().exit, Some(143));
}

/// A receiver that cannot complete, some passes long.
fn refused(host: &Host, file: &Path) -> crate::run::Ended {
    receive_until(host, file, Family::V4.group(), &["--timeout", "5s"]).wait()
}
