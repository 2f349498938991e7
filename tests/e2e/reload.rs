//! A server that goes over to another object while it runs, announces what it sends, and tells a service manager.

use std::fs;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use serde_json::Value;

use crate::files::{Content, MIB, assert_same, make};
use crate::lab::{Family, Host, Lab};
use crate::run::{PATIENCE, Process, Program, Witness, count, receive_until, serve, serve_by, text};
use crate::signed::{beside, keys, path_text, sign, write_manifest};

/// While the new object takes over the packets are as close as ever. Far more than the 2 ms of a burst, because everything else on this
/// machine takes its time as well, and far less than it takes to read a file. What witnesses were held up for comes on top.
const GAP_MAX: Duration = Duration::from_millis(250);

/// Says of each datagram to a group when the kernel got it, its size, kind, channel and object. Arguments: group, interface's address.
/// With SO_RCVBUFFORCE there is room for what comes while it is held up itself, and with SO_TIMESTAMPNS (35) that is no gap.
const LISTEN: &str = r"
import socket, struct, sys
inbox = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
inbox.setsockopt(socket.SOL_SOCKET, 33, 16 << 20)
inbox.setsockopt(socket.SOL_SOCKET, 35, 1)
inbox.bind((sys.argv[1], 4242))
inbox.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, socket.inet_aton(sys.argv[1]) + socket.inet_aton(sys.argv[2]))
print('ready', flush=True)
while True:
    datagram, control, _, _ = inbox.recvmsg(65536, 1024)
    seconds, nanoseconds = struct.unpack('ll', control[0][2])
    print(seconds * 10**9 + nanoseconds, len(datagram), datagram[3], datagram[4], datagram[12:24].hex(), flush=True)
";

/// What came of one datagram.
#[derive(Debug)]
pub(crate) struct Heard {
    at: Duration,
    size: usize,
    kind: u8,
    channel: u8,
    pub(crate) object: String,
}

pub(crate) fn listen(host: &Host, group: &str) -> Process {
    let mut command = host.command("python3");
    command.args(["-c", LISTEN, group, &host.address_v4()]).stdout(Stdio::piped());
    let listener = Process::spawn(&mut command);
    let _ = listener.wait_for("readiness", |line| line == "ready");
    listener
}

/// All that a listener has heard.
pub(crate) fn heard(listener: &Process) -> Vec<Heard> {
    listener
        .lines()
        .iter()
        .filter_map(|line| {
            let words: Vec<_> = line.split(' ').collect();
            let [at, size, kind, channel, object] = words[..] else { return None };
            let number = |word: &str| word.parse::<u64>().expect("a number");
            Some(Heard {
                at: Duration::from_nanos(number(at)),
                size: number(size) as usize,
                kind: number(kind) as u8,
                channel: number(channel) as u8,
                object: object.to_owned(),
            })
        })
        .collect()
}

fn gap_max(heard: &[Heard]) -> Duration {
    heard.windows(2).map(|pair| pair[1].at.saturating_sub(pair[0].at)).max().expect("datagrams")
}

/// Another file in the place of the first, with a manifest of its own, each put there by renaming. Answers with a copy.
pub(crate) fn publish(lab: &Lab, place: &Path, version: u64, size: u64) -> PathBuf {
    publish_by(lab, place, version, size, "first.key")
}

/// The same, signed by this key.
pub(crate) fn publish_by(lab: &Lab, place: &Path, version: u64, size: u64, key: &str) -> PathBuf {
    let name = format!("version-{version}-{size}-{key}");
    let new = make(lab, &name, Content::Random { size, seed: version as u8 });
    let kept = lab.path(&format!("{name}.kept"));
    fs::copy(&new, &kept).expect("copy");
    write_manifest(&new, &["--version", &version.to_string()]);
    sign(&new, key, &[]);
    for suffix in ["", ".manifest", ".manifest.minisig"] {
        fs::rename(beside(&new, suffix), beside(place, suffix)).expect("rename over");
    }
    kept
}

pub(crate) fn is_sending(version: u64) -> impl Fn(&Value) -> bool {
    move |event| event["event"] == "sending" && event["version"] == version
}

/// Takes ten seconds: so long a receiver waits before it leaves the old version.
#[test]
fn new_version_takes_over_without_a_gap_and_receivers_of_the_old_one_follow() {
    let mut lab = Lab::new();
    let (server_host, listener_host, host) = (lab.host(), lab.host(), lab.host());
    let (group, source, copy) = (Family::V4.group(), lab.path("source"), lab.path("copy"));
    // At this rate it takes more than 13 s: no receiver can have it before the new version is there.
    publish(&lab, &source, 1, 128 * MIB);
    let server = serve(&lab, &server_host, &source, group, &["--rate", "80M"]);
    let first = server.wait_for("version 1", is_sending(1));
    let receiver = receive_until(&host, &copy, group, &["--timeout", "80s", "--pubkey", &keys("first.pub")]);
    let _ = receiver.wait_for("progress", |event| event["event"] == "progress" && event["held"] != 0);
    let witness = Witness::start();
    let listener = listen(&listener_host, group);
    listener.wait_for_lines(1000);
    let new = publish(&lab, &source, 2, 33 * MIB);
    server.signal(Signal::SIGHUP);
    let second = server.wait_for("version 2", is_sending(2));
    let before = listener.lines().len();
    listener.wait_for_lines(before + 2000);
    let heard = heard(&listener);
    let held_up = witness.end();
    drop(listener);
    let ids = [text(&first, "object"), text(&second, "object")];
    assert!(gap_max(&heard) < GAP_MAX + held_up, "{:?}; witnesses were held up for {held_up:?}", gap_max(&heard));
    let position = heard.iter().position(|heard| heard.object == ids[1]).expect("version 2 is sent");
    assert!(position > 0 && heard[0].object == ids[0], "it listened before");
    // The last burst of the old one may come after the first of the new one.
    let late = heard[position..].iter().filter(|heard| heard.object == ids[0]).count();
    assert!(late < 100, "{late} packets of version 1 after the first of version 2");
    let ended = receiver.wait();
    assert_eq!((count(ended.completed(), "version"), ended.notices("succeeded").len()), (2, 1));
    assert_same(&copy, &new);
}

#[test]
fn what_cannot_be_sent_is_said_and_the_old_object_goes_on() {
    let mut lab = Lab::new();
    let (server_host, host) = (lab.host(), lab.host());
    let (group, source) = (Family::V4.group(), lab.path("source"));
    let old = publish(&lab, &source, 1, MIB);
    let server = serve(&lab, &server_host, &source, group, &["--rate", "50M"]);
    let _ = server.wait_for("version 1", is_sending(1));
    let refused = |count: usize, cause: &str| {
        server.signal(Signal::SIGHUP);
        let kind = |event: &Value| event["kind"] == "reload_failed" && text(event, "text").contains(cause);
        let notice = server.wait_for("reload_failed", kind);
        assert!(text(&notice, "text").contains("going on with"), "{notice}");
        let failed = server.events("notice").iter().filter(|event| event["kind"] == "reload_failed").count();
        assert_eq!(failed, count);
    };
    fs::write(lab.path("other"), "other").expect("write");
    fs::rename(lab.path("other"), &source).expect("rename over");
    refused(1, "says 1048576 bytes, but");
    fs::write(beside(&source, ".manifest.new"), "{").expect("write");
    fs::rename(beside(&source, ".manifest.new"), beside(&source, ".manifest")).expect("rename over");
    refused(2, "canonical form");
    fs::remove_file(&source).expect("remove");
    refused(3, "no such file");
    let copy = lab.path("copy");
    let receive = |version: u64, original: &Path| {
        let ended = receive_until(&host, &copy, group, &["--timeout", "60s", "--pubkey", &keys("first.pub")]).wait();
        assert_eq!(count(ended.completed(), "version"), version);
        assert_same(&copy, original);
    };
    receive(1, &old);
    let new = publish(&lab, &source, 2, 2 * MIB);
    server.signal(Signal::SIGHUP);
    let _ = server.wait_for("version 2", is_sending(2));
    receive(2, &new);
    let ended = server.terminate();
    assert_eq!((ended.exit, text(ended.end(), "message")), (Some(143), "stopped"));
}

#[test]
fn server_that_watches_sends_what_takes_the_place_of_its_file() {
    let mut lab = Lab::new();
    let server_host = lab.host();
    let (group, source) = (Family::V6.group(), lab.path("source"));
    publish(&lab, &source, 1, MIB);
    let server = serve(&lab, &server_host, &source, group, &["--rate", "5M", "--watch"]);
    let first = server.wait_for("version 1", is_sending(1));
    assert_eq!(text(&first, "announce"), format!("[{}]:4242", Family::V6.announcement_group()));
    for version in 2..=3 {
        publish(&lab, &source, version, version * MIB);
        let _ = server.wait_for("the next version", is_sending(version));
    }
    // The three files were renamed one after the other, and read together.
    let ended = server.terminate();
    assert_eq!((ended.exit, ended.notices("reload").len(), ended.notices("reload_failed").len()), (Some(143), 2, 0));
    assert!(ended.notices("warning").is_empty(), "{:?}", ended.notices("warning"));
}

#[test]
fn what_is_signed_is_announced_once_a_second() {
    let mut lab = Lab::new();
    let (server_host, host) = (lab.host(), lab.host());
    let source = lab.path("source");
    publish(&lab, &source, 1, MIB);
    let listener = listen(&host, Family::V4.announcement_group());
    let witness = Witness::start();
    let server = serve(&lab, &server_host, &source, Family::V4.group(), &["--rate", "100M"]);
    let sending = server.wait_for_event("sending");
    assert_eq!(text(&sending, "announce"), format!("{}:4242", Family::V4.announcement_group()));
    listener.wait_for_lines(4);
    let heard = heard(&listener);
    let held_up = witness.end();
    server.kill();
    let object = text(&sending, "object");
    for heard in &heard {
        assert!(heard.kind == 2 && heard.channel == 255 && heard.object == object && heard.size < 1152, "{heard:?}");
    }
    for pair in heard.windows(2) {
        let gap = pair[1].at - pair[0].at;
        // One that was held up comes later after the last one, and the next sooner after it.
        let (least, most) = (Duration::from_millis(900).saturating_sub(held_up), Duration::from_millis(1500) + held_up);
        assert!(gap > least && gap < most, "{gap:?}; witnesses were held up for {held_up:?}");
    }
    for options in [&["--announce", "off"][..], &["--announce", "239.77.9.9:77"]] {
        let server = serve(&lab, &server_host, &source, Family::V4.group(), options);
        let announced = server.wait_for_event("sending")["announce"].clone();
        assert_eq!(announced.as_str(), (options[1] != "off").then_some(options[1]));
    }
    fs::remove_file(beside(&source, ".manifest.minisig")).expect("remove the signature");
    let server = serve(&lab, &server_host, &source, Family::V4.group(), &[]);
    assert!(server.wait_for_event("sending")["announce"].is_null(), "nobody waits for what nobody signed");
}

/// Waits for a word to the service manager.
fn wait_for_word(socket: &UnixDatagram, word: &str) -> String {
    let started = Instant::now();
    let mut bytes = [0; 4096];
    while started.elapsed() < PATIENCE {
        let size = socket.recv(&mut bytes).unwrap_or_else(|error| panic!("{word}: {error}"));
        let said = String::from_utf8_lossy(&bytes[..size]).into_owned();
        if said.lines().any(|line| line.starts_with(word)) {
            return said;
        }
    }
    panic!("{word} was not said");
}

#[test]
fn service_manager_hears_of_readiness_reloading_life_and_the_end() {
    let mut lab = Lab::new();
    let host = lab.host();
    let (source, place) = (lab.path("source"), lab.path("notify"));
    publish(&lab, &source, 1, MIB);
    let socket = UnixDatagram::bind(&place).expect("bind");
    socket.set_read_timeout(Some(PATIENCE)).expect("set a timeout");
    let watchdog = Duration::from_secs(3);
    let mut command = host.command(Program::Server.path());
    command.env("NOTIFY_SOCKET", path_text(&place)).env("WATCHDOG_USEC", watchdog.as_micros().to_string());
    let server = serve_by(command, &lab, &source, Family::V4.group(), &["--rate", "5M"]);
    let ready = wait_for_word(&socket, "READY=1");
    assert!(ready.contains("STATUS=sending") && ready.contains("version 1"), "{ready}");
    let _ = wait_for_word(&socket, "WATCHDOG=1");
    let (witness, before) = (Witness::start(), Instant::now());
    for _ in 0..3 {
        let _ = wait_for_word(&socket, "WATCHDOG=1");
    }
    // Three times as often as asked for, so that one may be late.
    let (took, held_up) = (before.elapsed(), witness.end());
    assert!(took < watchdog.mul_f64(1.5) + held_up, "twice as often as asked for: {took:?}, held up for {held_up:?}");
    publish(&lab, &source, 2, MIB);
    server.signal(Signal::SIGHUP);
    assert!(wait_for_word(&socket, "RELOADING=1").contains("\nMONOTONIC_USEC="));
    assert!(wait_for_word(&socket, "READY=1").contains("version 2"));
    let _ = wait_for_word(&socket, "WATCHDOG=1");
    // What cannot be read ends the reloading too.
    fs::remove_file(&source).expect("remove");
    server.signal(Signal::SIGHUP);
    let _ = wait_for_word(&socket, "RELOADING=1");
    assert!(wait_for_word(&socket, "READY=1").contains("no such file"));
    server.signal(Signal::SIGTERM);
    let _ = wait_for_word(&socket, "STOPPING=1");
    assert_eq!(server.wait().exit, Some(143));
}
