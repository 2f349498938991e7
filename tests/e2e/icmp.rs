//! ICMP errors that somebody on the path makes up: whatever they say, the server goes on as if nothing had been said.

use std::process::Stdio;
use std::time::Duration;

use serde_json::Value;

use crate::files::{Content, MIB, assert_same, make};
use crate::lab::{Family, Host, Lab, whole_machine};
use crate::run::{Process, count, figure, number, receive, senders, serve, text};

/// Sends ICMP errors that quote a datagram of ours. Arguments: the server's address, its port, the group, how many a second, for
/// how many seconds, how many bytes to quote of the datagram beside its headers, and the kinds: `type.code.rest`, where the rest is
/// the second word of the message, such as an MTU.
const FORGE: &str = r"
import socket, struct, sys, time
server, port, group, rate, seconds = sys.argv[1], int(sys.argv[2]), sys.argv[3], int(sys.argv[4]), float(sys.argv[5])
pad, kinds = int(sys.argv[6]), [tuple(map(int, kind.split('.'))) for kind in sys.argv[7:]]
udp = struct.pack('!HHHH', port, 4242, 1460, 0) + bytes(pad)
def checksum(data):
    total = sum(struct.unpack('!%dH' % (len(data) // 2), data))
    total = (total & 0xffff) + (total >> 16)
    return ~((total & 0xffff) + (total >> 16)) & 0xffff
if ':' in server:
    out = socket.socket(socket.AF_INET6, socket.SOCK_RAW, socket.IPPROTO_ICMPV6)
    to = (server, 0, 0, socket.if_nametoindex('eth0'))
    quoted = struct.pack('!IHBB', 6 << 28, 1460, 17, 1)
    quoted += socket.inet_pton(socket.AF_INET6, server) + socket.inet_pton(socket.AF_INET6, group) + udp
else:
    out = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP)
    to = (server, 0)
    quoted = struct.pack('!BBHHHBBH', 0x45, 0, 1480, 1, 0x4000, 1, 17, 0) + socket.inet_aton(server) + socket.inet_aton(group) + udp
def message(kind, code, rest):
    # The kernel writes the checksum of ICMPv6 itself.
    whole = struct.pack('!BBHI', kind, code, 0, rest) + quoted
    return whole if ':' in server else whole[:2] + struct.pack('!H', checksum(whole)) + whole[4:]
messages = [message(*kind) for kind in kinds]
end, sent = time.monotonic() + seconds, 0
while time.monotonic() < end:
    # A few at a time: of those between two sends, one is noticed.
    for _ in range(max(1, rate // 1500)):
        out.sendto(messages[sent % len(messages)], to)
        sent += 1
    time.sleep(0.0005)
print(sent)
";

/// Unreachable: host, protocol, port, fragmentation needed (with an MTU of 576), forbidden; time exceeded; parameter problem.
const KINDS_V4: [&str; 7] = ["3.1.0", "3.2.0", "3.3.0", "3.4.576", "3.13.0", "11.0.0", "12.0.0"];
/// Unreachable: no route, forbidden, address, port; packet too big (an MTU of 1280); time exceeded; parameter problem.
const KINDS_V6: [&str; 7] = ["1.0.0", "1.1.0", "1.3.0", "1.4.0", "2.0.1280", "3.0.0", "4.0.0"];

/// What is forged.
#[derive(Clone, Copy, Debug)]
struct Flood<'a> {
    /// Messages per second.
    rate: u32,
    seconds: f64,
    kinds: &'a [&'a str],
    /// Bytes that are quoted beside the headers of the datagram.
    pad: u32,
}

/// Forges errors about what the server that said `sending` sends, and waits until that is done.
fn forge(host: &Host, sending: &Value, group: &str, flood: &Flood<'_>) {
    let (address, port) = text(sending, "source").rsplit_once(':').expect("an address and a port");
    // The scope of a link-local address is the other host's affair.
    let address = address.trim_matches(['[', ']']).split('%').next().expect("split gives one");
    let numbers = [flood.rate.to_string(), flood.seconds.to_string(), flood.pad.to_string()];
    let mut command = host.command("python3");
    command.args(["-c", FORGE, address, port, group]).args(numbers).args(flood.kinds);
    let output = command.stdout(Stdio::piped()).stderr(Stdio::inherit()).output().expect("run python3");
    assert!(output.status.success(), "python3 has forged {:?}", flood.kinds);
}

fn icmp_errors(server: &Process) -> u64 {
    server.events("status").last().map_or(0, |status| count(status, "icmp_errors"))
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

fn forged_errors_change_nothing(family: Family, engine: &str) {
    const RATE_BPS: f64 = 30e6;
    let _alone = whole_machine();
    let mut lab = Lab::new();
    let (server_host, forger_host, receiver_host) = (lab.host(), lab.host(), lab.host());
    let source = make(&lab, "source", Content::Random { size: 8 * MIB, seed: 1 });
    let server = serve(&lab, &server_host, &source, family.group(), &["--rate", "30M", "--engine", engine]);
    let sending = server.wait_for_event("sending");
    let kinds = if family == Family::V4 { KINDS_V4 } else { KINDS_V6 };
    // Each kind by itself is one that the server has to live with.
    for kind in kinds {
        let before = icmp_errors(&server);
        let flood = Flood { rate: 1000, seconds: 0.2, kinds: &[kind], pad: 0 };
        forge(&forger_host, &sending, family.group(), &flood);
        let more = |event: &Value| event["event"] == "status" && count(event, "icmp_errors") > before + 20;
        let _ = server.wait_for(&format!("notice of errors of kind {kind}"), more);
    }
    // And now a flood, longer than the transfer.
    let receiver = receive(&receiver_host, &lab.path("copy"), family.group());
    let before = icmp_errors(&server);
    let flood = Flood { rate: 10_000, seconds: 4.0, kinds: &kinds, pad: 0 };
    forge(&forger_host, &sending, family.group(), &flood);
    let receiver = receiver.wait();
    let end = receiver.completed();
    assert_same(&lab.path("copy"), &source);
    let [sender] = senders(end).as_slice() else { panic!("one sender, not {:?}", senders(end)) };
    assert_eq!(count(sender, "lost"), 0, "no position is skipped: {sender}");

    let server = server.terminate();
    assert_eq!(server.exit, Some(143), "stderr: {}", server.stderr);
    let end = server.end();
    assert_eq!(text(end, "engine"), engine, "the engine is the same: {end}");
    assert_eq!(server.notices("warning").len(), 0, "nothing to warn of: {:?}", server.notices("warning"));
    assert!(count(end, "icmp_errors") > before + 500, "the flood has come: {end}");
    // Now and then an error is set just after its entry has been taken from the queue: it is taken for a local one, once.
    let others = count(end, "refused") - count(end, "icmp_errors");
    assert!(others * 100 <= count(end, "refused"), "hardly anything else was refused: {end}");
    let rate = 8.0 * number(end, "ip_bytes") / number(end, "seconds");
    // Other tests take turns on this machine, but for some that take most of a second.
    assert!(rate > 0.85 * RATE_BPS, "the rate is still {RATE_BPS} and not {rate}");
    figure(&format!("rate under forged errors, {family:?}, {engine}"), &format!("{:.3}", rate / RATE_BPS), "0.85");
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
        let flood = Flood { rate: 300_000, seconds: 1.5, kinds: &[kind], pad: 40_000 };
        // From the host itself: there a message of this size needs no fragments, so that they come thick and fast.
        forge(&host, &sending, family.group(), &flood);
        let data = server.events("status").last().map_or(0, |status| count(status, "data"));
        let goes_on = |event: &Value| event["event"] == "status" && count(event, "data") > data + 1000;
        let _ = server.wait_for("packets after the flood", goes_on);
        let ended = server.terminate();
        assert_eq!(ended.exit, Some(143), "stderr: {}", ended.stderr);
        assert_eq!((text(ended.end(), "engine"), ended.notices("warning").len()), (engine, 0), "{:?}", ended.events);
        assert!(count(ended.end(), "icmp_errors") > 100, "the flood has come: {}", ended.end());
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
        std::thread::scope(|scope| {
            let flood = Flood { rate: 10_000, seconds: 1.5, kinds: &KINDS_V4, pad: 0 };
            let (host, sending) = (&forger_host, &sending);
            scope.spawn(move || forge(host, sending, Family::V4.group(), &flood));
            std::thread::sleep(Duration::from_millis(500));
            stops_within_a_second(server);
        });
        // A filter of this host refuses every packet (EPERM).
        let rule = "add table inet out; add chain inet out output { type filter hook output priority 0 ; }; \
                    add rule inet out output udp dport 4242 reject";
        server_host.filter(rule);
        let server = serve(&lab, &server_host, &source, Family::V4.group(), &["--rate", "30M", "--engine", engine]);
        let warned = server.wait_for("a warning", |event| event["event"] == "notice" && event["kind"] == "warning");
        assert!(text(&warned, "text").contains("trying again until it works"), "{warned}");
        stops_within_a_second(server);
        server_host.filter("delete table inet out");
    }
}

fn stops_within_a_second(server: Process) {
    let asked = std::time::Instant::now();
    let server = server.terminate();
    assert_eq!(server.exit, Some(143), "stderr: {}", server.stderr);
    assert!(asked.elapsed() < Duration::from_secs(1), "{:?} to stop", asked.elapsed());
}
