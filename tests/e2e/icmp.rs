//! ICMP errors that somebody on the path makes up: whatever they say, the server goes on as if nothing had been said.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::files::{Content, MIB, assert_same, make};
use crate::lab::{Family, Host, Lab, whole_machine};
use crate::run::{Ended, Process, Witness, count, figure, number, receive, senders, serve, text};

/// Sends ICMP errors that quote datagrams of ours, until it is ended. It says so when the first has gone, and when as many have gone as
/// are asked for. Arguments: the server's address, the group, how many a second, the number to tell of, how many bytes to quote of the
/// datagram beside its headers, and what to send in turn: `port.type.code.rest`, where the port is the server's and the rest is the
/// second word of the message, such as an MTU.
const FORGE: &str = r"
import socket, struct, sys, time
server, group, rate, enough, pad = sys.argv[1], sys.argv[2], *map(int, sys.argv[3:6])
kinds = [tuple(map(int, kind.split('.'))) for kind in sys.argv[6:]]
def checksum(data):
    total = sum(struct.unpack('!%dH' % (len(data) // 2), data))
    total = (total & 0xffff) + (total >> 16)
    return ~((total & 0xffff) + (total >> 16)) & 0xffff
if ':' in server:
    out = socket.socket(socket.AF_INET6, socket.SOCK_RAW, socket.IPPROTO_ICMPV6)
    to = (server, 0, 0, socket.if_nametoindex('eth0'))
    head = struct.pack('!IHBB', 6 << 28, 1460, 17, 1)
    head += socket.inet_pton(socket.AF_INET6, server) + socket.inet_pton(socket.AF_INET6, group)
else:
    out = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP)
    to = (server, 0)
    head = struct.pack('!BBHHHBBH', 0x45, 0, 1480, 1, 0x4000, 1, 17, 0) + socket.inet_aton(server) + socket.inet_aton(group)
def message(port, kind, code, rest):
    # The kernel writes the checksum of ICMPv6 itself.
    whole = struct.pack('!BBHI', kind, code, 0, rest) + head + struct.pack('!HHHH', port, 4242, 1460, 0) + bytes(pad)
    return whole if ':' in server else whole[:2] + struct.pack('!H', checksum(whole)) + whole[4:]
messages = [message(*kind) for kind in kinds]
sent = 0
while True:
    # A few at a time: of those between two sends, one is noticed.
    for _ in range(max(1, rate // 1500)):
        out.sendto(messages[sent % len(messages)], to)
        sent += 1
        if sent in (1, enough):
            print('sent', sent, flush=True)
    time.sleep(0.0005)
";

/// Unreachable: host, protocol, port, fragmentation needed (with an MTU of 576), forbidden; time exceeded; parameter problem.
const KINDS_V4: [&str; 7] = ["3.1.0", "3.2.0", "3.3.0", "3.4.576", "3.13.0", "11.0.0", "12.0.0"];
/// Unreachable: no route, forbidden, address, port; packet too big (an MTU of 1280); time exceeded; parameter problem.
const KINDS_V6: [&str; 7] = ["1.0.0", "1.1.0", "1.3.0", "1.4.0", "2.0.1280", "3.0.0", "4.0.0"];

/// What the servers that are flooded are asked to send, in bits per second.
const RATE: f64 = 30e6;
/// What a server that is flooded sends at least of what one that is spared sends.
const RATIO_MIN: f64 = 0.85;
/// What a server that is spared sends at least of what it is asked to: a flood that slows all of its host would slow it as well.
const SPARED_RATIO_MIN: f64 = 0.5;
/// A flood that slows a server does so every time. What else goes on here may slow one of two servers now and then.
const ATTEMPT_COUNT: usize = 3;

/// What is forged.
#[derive(Clone, Copy, Debug)]
struct Flood {
    /// Messages per second.
    rate: u32,
    /// How many have gone when `Forger::has_sent_enough` returns, if it is asked.
    enough: u32,
    /// Bytes that are quoted beside the headers of the datagram.
    pad: u32,
}

/// Somebody who forges errors until this is dropped.
struct Forger(Process);

impl Forger {
    /// Forges errors about what servers of one host send, which said `sending`: of this kind about the packets of that one.
    fn start(host: &Host, group: &str, flood: Flood, about: &[(&Value, &str)]) -> Self {
        let ends = |sending: &Value| {
            let (address, port) = text(sending, "source").rsplit_once(':').expect("an address and a port");
            // The scope of a link-local address is the other host's affair.
            let address = address.trim_matches(['[', ']']).split('%').next().expect("split gives one");
            (address.to_owned(), port.to_owned())
        };
        let (address, _) = ends(about[0].0);
        let mut command = host.command("python3");
        command.args(["-c", FORGE, &address, group]);
        command.args([flood.rate, flood.enough, flood.pad].map(|number| number.to_string()));
        command.args(about.iter().map(|(sending, kind)| format!("{}.{kind}", ends(sending).1)));
        let forger = Self(Process::spawn(&mut command));
        forger.0.wait_for_lines(1);
        forger
    }

    fn has_sent_enough(&self) {
        self.0.wait_for_lines(2);
    }
}

/// Waits until the server has told of more than so many forged errors.
fn notices(server: &Process, errors: u64) {
    let more = |event: &Value| event["event"] == "status" && count(event, "icmp_errors") > errors;
    let _ = server.wait_for(&format!("notice of {errors} forged errors"), more);
}

/// Ends a server that must have gone on as ever.
fn end_unchanged(server: Process, engine: &str) -> Ended {
    let ended = server.terminate();
    assert_eq!(ended.exit, Some(143), "stderr: {}", ended.stderr);
    assert_eq!(text(ended.end(), "engine"), engine, "the engine is the same: {}", ended.end());
    assert_eq!(ended.notices("warning").len(), 0, "nothing to warn of: {:?}", ended.notices("warning"));
    ended
}

#[test]
fn forged_errors_over_ipv4_change_nothing_with_io_uring() {
    forged_errors_change_nothing(Family::V4, "uring");
}

#[test]
fn forged_errors_over_ipv4_change_nothing_with_sendmmsg() {
    forged_errors_change_nothing(Family::V4, "sendmmsg");
}

#[test]
fn forged_errors_over_ipv6_change_nothing_with_io_uring() {
    forged_errors_change_nothing(Family::V6, "uring");
}

#[test]
fn forged_errors_over_ipv6_change_nothing_with_sendmmsg() {
    forged_errors_change_nothing(Family::V6, "sendmmsg");
}

fn forged_errors_change_nothing(family: Family, engine: &'static str) {
    let _alone = whole_machine();
    let mut lab = Lab::new();
    let (server_host, forger_host, receiver_host) = (lab.host(), lab.host(), lab.host());
    let source = make(&lab, "source", Content::Random { size: 8 * MIB, seed: 1 });
    let scene = Scene { lab: &lab, server_host, forger_host, receiver_host, source, family, engine };
    // Each kind by itself is one that a server has to live with: a server for each, because they tell of what they noticed but once
    // a second.
    let servers = scene.kinds().map(|_| scene.serve(family.group()));
    let sending = servers.each_ref().map(|server| server.wait_for_event("sending"));
    let about: Vec<_> = sending.iter().zip(scene.kinds()).collect();
    let forger = Forger::start(&scene.forger_host, family.group(), Flood { rate: 7000, enough: 0, pad: 0 }, &about);
    servers.iter().for_each(|server| notices(server, 20));
    drop(forger);
    for server in servers {
        end_unchanged(server, engine);
    }

    // And now all of them in a flood.
    let mut attempts = Vec::new();
    let is_as_ever = |[rate, spared_rate]: [f64; 2]| {
        // Time that the server waited would not show if it were taken off as lost.
        rate > RATIO_MIN * spared_rate && spared_rate > SPARED_RATIO_MIN * RATE
    };
    while !attempts.last().copied().is_some_and(is_as_ever) {
        assert!(attempts.len() < ATTEMPT_COUNT, "bits per second of one in a flood and of one spared: {attempts:?}");
        attempts.push(scene.rates_in_flood());
    }
    let ratio = attempts.last().map_or(0.0, |[rate, spared_rate]| rate / spared_rate);
    figure(&format!("rate under forged errors, {family:?}, {engine}, of that without"), &format!("{ratio:.3}"), "0.85");
}

/// Where errors are forged, and what is sent there.
struct Scene<'a> {
    lab: &'a Lab,
    server_host: Host,
    forger_host: Host,
    receiver_host: Host,
    source: PathBuf,
    family: Family,
    engine: &'static str,
}

impl Scene<'_> {
    fn kinds(&self) -> [&'static str; 7] {
        if self.family == Family::V4 { KINDS_V4 } else { KINDS_V6 }
    }

    fn serve(&self, group: &str) -> Process {
        let options = ["--rate", &format!("{RATE}"), "--engine", self.engine];
        serve(self.lab, &self.server_host, &self.source, group, &options)
    }

    /// All kinds of errors in a flood, for longer than a transfer: what its server sends meanwhile, and what another does that is
    /// not meant, in bits per second. What else is done to this machine is done to both.
    fn rates_in_flood(&self) -> [f64; 2] {
        let group = self.family.group();
        let (server, spared) = (self.serve(group), self.serve(self.family.announcement_group()));
        let sending = server.wait_for_event("sending");
        let _ = spared.wait_for_event("sending");
        let about = self.kinds().map(|kind| (&sending, kind));
        let forger = Forger::start(&self.forger_host, group, Flood { rate: 10_000, enough: 0, pad: 0 }, &about);
        let copy = self.lab.path("copy");
        let receiver = receive(&self.receiver_host, &copy, group).wait();
        let end = receiver.completed();
        assert_same(&copy, &self.source);
        std::fs::remove_file(&copy).expect("remove the copy");
        let [sender] = senders(end).as_slice() else { panic!("one sender, not {:?}", senders(end)) };
        assert_eq!(count(sender, "lost"), 0, "no position is skipped: {sender}");
        notices(&server, 500);

        let server = end_unchanged(server, self.engine);
        drop(forger);
        let spared = end_unchanged(spared, self.engine);
        let end = server.end();
        // Now and then an error is set just after its entry has been taken from the queue: it is taken for a local one, once.
        let others = count(end, "refused") - count(end, "icmp_errors");
        assert!(others * 100 <= count(end, "refused"), "hardly anything else was refused: {end}");
        assert_eq!(count(spared.end(), "icmp_errors"), 0, "{}", spared.end());
        [end, spared.end()].map(|end| 8.0 * number(end, "ip_bytes") / number(end, "seconds"))
    }
}

#[test]
fn long_forged_errors_over_ipv4_change_nothing() {
    long_forged_errors_change_nothing(Family::V4);
}

#[test]
fn long_forged_errors_over_ipv6_change_nothing() {
    long_forged_errors_change_nothing(Family::V6);
}

/// A message for which the error queue has no room leaves nothing there that would tell it from an error of this host.
fn long_forged_errors_change_nothing(family: Family) {
    let _alone = whole_machine();
    let mut lab = Lab::new();
    let host = lab.host();
    let source = make(&lab, "source", Content::Random { size: 8 * MIB, seed: 1 });
    // Each is one that this host itself may find: too long for the device.
    let kind = if family == Family::V4 { "3.4.576" } else { "2.0.1280" };
    for engine in ["sendmmsg", "uring"] {
        let server = serve(&lab, &host, &source, family.group(), &["--rate", "30M", "--engine", engine]);
        let sending = server.wait_for_event("sending");
        // From the host itself: there a message of this size needs no fragments, so that they come thick and fast.
        let flood = Flood { rate: 300_000, enough: 20_000, pad: 40_000 };
        let forger = Forger::start(&host, family.group(), flood, &[(&sending, kind)]);
        forger.has_sent_enough();
        notices(&server, 100);
        drop(forger);
        let data = server.events("status").last().map_or(0, |status| count(status, "data"));
        let goes_on = |event: &Value| event["event"] == "status" && count(event, "data") > data + 1000;
        let _ = server.wait_for("packets after the flood", goes_on);
        end_unchanged(server, engine);
    }
}

#[test]
fn server_stops_in_time_while_it_is_flooded_and_while_nothing_goes() {
    let mut lab = Lab::new();
    let (server_host, forger_host) = (lab.host(), lab.host());
    let source = make(&lab, "source", Content::Random { size: MIB, seed: 1 });
    for engine in ["uring", "sendmmsg"] {
        let server = serve(&lab, &server_host, &source, Family::V4.group(), &["--rate", "30M", "--engine", engine]);
        let sending = server.wait_for_event("sending");
        let flood = Flood { rate: 10_000, enough: 0, pad: 0 };
        let forger = Forger::start(&forger_host, Family::V4.group(), flood, &KINDS_V4.map(|kind| (&sending, kind)));
        notices(&server, 20);
        stops_in_time(server);
        drop(forger);
        // A filter of this host refuses every packet (EPERM).
        let rule = "add table inet out; add chain inet out output { type filter hook output priority 0 ; }; \
                    add rule inet out output udp dport 4242 reject";
        server_host.filter(rule);
        let server = serve(&lab, &server_host, &source, Family::V4.group(), &["--rate", "30M", "--engine", engine]);
        let warned = server.wait_for("a warning", |event| event["event"] == "notice" && event["kind"] == "warning");
        assert!(text(&warned, "text").contains("trying again until it works"), "{warned}");
        stops_in_time(server);
        server_host.filter("delete table inet out");
    }
}

/// One that is not stopped by what it tries again, and by what it waits for before it does, looks up every 100 ms, and ends within a
/// second, and what the machine was held up on top. One that is goes on for as long as the network is like that: for ever.
fn stops_in_time(server: Process) {
    const TIME_MAX: Duration = Duration::from_secs(1);
    let witness = Witness::start();
    let asked_at = Instant::now();
    let server = server.terminate();
    let held_up = witness.end();
    let took = server.ended_at - asked_at;
    assert_eq!(server.exit, Some(143), "stderr: {}", server.stderr);
    assert!(took < TIME_MAX + held_up, "{took:?} to stop; witnesses were held up for {held_up:?}");
}
