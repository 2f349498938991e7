//! Datagrams that no server would send: each is counted by its reason, and changes nothing.
//!
//! They are made here by the letter of docs/PROTOCOL.md, without the program's own code.

use std::io::Write;
use std::process::Stdio;

use nix::sys::signal::Signal;

use crate::files::{Content, MIB, assert_same, make};
use crate::lab::{Family, Host, Lab};
use crate::run::{count, receive_until, senders, serve, text};

pub(crate) const DATA: u8 = 1;
pub(crate) const MANIFEST: u8 = 2;
const HASHES: u8 = 3;
/// Symbols of 1408 bytes, as servers use them on a link with an MTU of 1500.
pub(crate) const SYMBOL_SIZE: u16 = 1408;
pub(crate) const CODE_AND_TAG: u8 = ((SYMBOL_SIZE / 64 % 16) as u8) << 4 | 1;
/// How often each of them is sent in a round.
const REPETITIONS: u64 = 7;
/// Packets that a server sends during a round at least, if it is not stopped: a tenth of what it sends where nothing holds it up.
const TRUE_PACKETS_MIN: u64 = 12;
/// Sends lines of hexadecimal digits, each as a datagram: group, port, and the interface's address (IPv4) or name (IPv6).
pub(crate) const SEND_LINES: &str = "
import socket, sys, time
group, port, interface = sys.argv[1], int(sys.argv[2]), sys.argv[3]
if ':' in group:
    sender = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
    sender.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_IF, socket.if_nametoindex(interface))
else:
    sender = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sender.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, socket.inet_aton(interface))
for line in sys.stdin:
    sender.sendto(bytes.fromhex(line), (group, port))
    time.sleep(0.002)
";

/// The fields of a header that the tests choose (section 3).
#[derive(Clone, Copy)]
pub(crate) struct Header<'a> {
    pub(crate) magic: u16,
    pub(crate) version: u8,
    pub(crate) kind: u8,
    pub(crate) code_and_tag: u8,
    pub(crate) position: u64,
    pub(crate) object: &'a [u8; 12],
    pub(crate) size: u64,
    pub(crate) esi: u16,
    pub(crate) block: u32,
}

impl Header<'_> {
    /// The packet with this payload and the right checksum.
    pub(crate) fn packet(&self, payload: &[u8]) -> Vec<u8> {
        let mut packet = Vec::with_capacity(44 + payload.len());
        packet.extend(self.magic.to_be_bytes());
        packet.extend([self.version, self.kind, 0, self.code_and_tag]);
        packet.extend(&self.position.to_be_bytes()[2..]);
        packet.extend(self.object);
        packet.extend(&self.size.to_be_bytes()[2..]);
        packet.extend(self.esi.to_be_bytes());
        packet.extend(self.block.to_be_bytes());
        packet.extend(xxhash_rust::xxh3::xxh3_64(payload).to_be_bytes());
        let checksum = xxhash_rust::xxh3::xxh3_64(&packet).to_be_bytes();
        packet[36..].copy_from_slice(&checksum);
        packet.extend(payload);
        packet
    }
}

/// A datagram and the counter that it must move.
type Garbage = (&'static str, Vec<u8>);

/// One or more of everything that section 4 and those it refers to tell a receiver to drop.
fn all_garbage(digest: &blake3::Hash, size: u64) -> Vec<Garbage> {
    let object: &[u8; 12] = digest.as_bytes()[..12].try_into().expect("12 of 32 bytes");
    let good = Header {
        magic: 0x107D,
        version: 1,
        kind: DATA,
        code_and_tag: CODE_AND_TAG,
        position: 5,
        object,
        size,
        esi: 3,
        block: 0,
    };
    let symbol = vec![0xA5; SYMBOL_SIZE.into()];
    let mut damaged = good.packet(&symbol);
    *damaged.last_mut().expect("not empty") ^= 1;
    let control = Header { position: 0, esi: 0, ..good };
    let hashes = Header { kind: HASHES, ..control };
    // 745 symbols a block, the last of 1 MiB - 744 x 1408 bytes.
    let source_symbol_count = 745;
    vec![
        ("short", Vec::new()),
        ("short", good.packet(&[])[..43].to_vec()),
        ("long", good.packet(&[0xA5; 8897])),
        ("not_ours", Header { magic: 0x107E, ..good }.packet(&symbol)),
        ("not_ours", b"M-SEARCH * HTTP/1.1\r\nHOST: 239.255.255.250:1900\r\nMAN: ssdp:discover\r\n\r\n".to_vec()),
        ("unknown_version", Header { version: 2, ..good }.packet(&symbol)),
        ("unknown_kind", Header { kind: 0, ..good }.packet(&symbol)),
        ("unknown_kind", Header { kind: 4, ..good }.packet(&symbol)),
        ("unknown_kind", Header { kind: 255, ..good }.packet(&symbol)),
        ("wrong_checksum", damaged),
        ("malformed_manifest", Header { kind: MANIFEST, ..control }.packet(&symbol[..100])),
        ("refused_manifest", Header { kind: MANIFEST, ..control }.packet(&critical_manifest(digest, size))),
        ("malformed_hashes", hashes.packet(&[0; 7])),
        ("unknown_tree", hashes.packet(&hashes_payload(9, 0, 0, 3))),
        ("unproved_hashes", hashes.packet(&hashes_payload(0, 0, 2, 3))),
        ("out_of_range", Header { block: 3, ..good }.packet(&symbol)),
        ("out_of_range", Header { block: u32::MAX, ..good }.packet(&symbol)),
        ("out_of_range", Header { esi: u16::MAX, ..good }.packet(&symbol)),
        ("wrong_size", good.packet(&symbol[..1407])),
        ("wrong_size", good.packet(&[])),
        ("wrong_size", Header { esi: source_symbol_count - 1, ..good }.packet(&symbol)),
        ("repair_unused", Header { esi: source_symbol_count, ..good }.packet(&symbol)),
        ("other_object", Header { object: b"not this one", ..good }.packet(&symbol)),
        ("other_object", Header { size: size + 1, ..good }.packet(&symbol)),
        ("other_symbol_size", Header { code_and_tag: 8 << 4 | 1, ..good }.packet(&symbol[..512])),
    ]
}

/// The payload of a hashes packet (section 6) with made-up values.
fn hashes_payload(tree: u8, group_log2: u8, path_length: u8, value_count: usize) -> Vec<u8> {
    let mut payload = vec![tree, group_log2, path_length, 0, 0, 0, 0, 0];
    payload.resize(8 + 32 * value_count, 0x5A);
    payload
}

/// A manifest packet's payload (section 5) in perfect form whose text says that nobody who does not know `x` may take it.
fn critical_manifest(digest: &blake3::Hash, size: u64) -> Vec<u8> {
    let text = format!(r#"{{"blake3":"{digest}","critical":["x"],"name":"n","size":{size},"x":1}}"#);
    manifest_payload(text.as_bytes(), &[])
}

/// A manifest packet's payload (section 5) of one channel and symbols of 1408 bytes.
pub(crate) fn manifest_payload(text: &[u8], signature: &[u8]) -> Vec<u8> {
    let size = |bytes: &[u8]| u16::try_from(bytes.len()).expect("what fits a packet");
    let mut payload = Vec::new();
    [40, size(text), size(signature), 0].iter().for_each(|field| payload.extend(field.to_be_bytes()));
    payload.extend(SYMBOL_SIZE.to_be_bytes());
    // Code 1, one channel, no repair symbols, reserved.
    payload.extend([1, 1, 0, 0, 0, 0]);
    // Channel 0 on this very group and port, with a cycle of 8192 and no stated rate.
    payload.extend([0, 0, 0, 0, 0, 0, 0, 0, 0x20, 0, 0, 0, 0, 0, 0, 0]);
    payload.extend([0; 16]);
    payload.extend(text);
    payload.extend(signature);
    payload
}

fn send(host: &Host, family: Family, garbage: &[Garbage]) {
    let mut command = host.command("python3");
    let interface = if family == Family::V4 { host.address_v4() } else { "eth0".to_owned() };
    command.args(["-c", SEND_LINES, family.group(), "4242", &interface]).stdin(Stdio::piped());
    let mut child = command.spawn().expect("start python3");
    let mut lines = child.stdin.take().expect("stdin is piped");
    for (_, datagram) in garbage {
        let line: String = datagram.iter().map(|byte| format!("{byte:02x}")).chain(["\n".to_owned()]).collect();
        for _ in 0..REPETITIONS {
            lines.write_all(line.as_bytes()).expect("python3 reads");
        }
    }
    drop(lines);
    assert!(child.wait().expect("wait for python3").success(), "python3 has sent everything");
}

#[test]
fn garbage_over_ipv4_is_counted_by_reason_and_changes_nothing() {
    garbage_changes_nothing(Family::V4);
}

#[test]
fn garbage_over_ipv6_is_counted_by_reason_and_changes_nothing() {
    garbage_changes_nothing(Family::V6);
}

fn garbage_changes_nothing(family: Family) {
    let mut lab = Lab::new();
    let (server_host, forger_host, receiver_host) = (lab.host(), lab.host(), lab.host());
    let sent = lab.count_departures(&server_host);
    let size = 2 * MIB + 12_345;
    let source = make(&lab, "source", Content::Random { size, seed: 1 });
    let digest = blake3::hash(&std::fs::read(&source).expect("read the source"));
    // 4.4 s for a pass: when the receiver has said that it knows the object, most of it is still to come.
    let server = serve(&lab, &server_host, &source, family.group(), &["--rate", "4M", "--fec", "0"]);
    let sending = server.wait_for_event("sending");
    assert_eq!(text(&sending, "digest"), digest.to_string());
    // A repair symbol that nobody has sent would be no garbage to a receiver that decodes, but the start of a block that fails.
    let options = ["--timeout", "80s", "--no-decode"];
    let receiver = receive_until(&receiver_host, &lab.path("copy"), family.group(), &options);
    let _ = receiver.wait_for_event("manifest");
    let garbage = all_garbage(&digest, size);
    // The first round comes among true packets. The receiver stands still meanwhile, so that it gets them all together: true ones are
    // in the same batches as garbage, and the object is not complete before the end of the round.
    receiver.halt();
    let sent_before = sent.packets();
    send(&forger_host, family, &garbage);
    let true_packets = sent.packets() - sent_before;
    assert!(true_packets >= TRUE_PACKETS_MIN, "{true_packets} true packets are hardly among the garbage");
    // The second comes alone, and before the rest, however long it takes to be sent.
    server.halt();
    receiver.signal(Signal::SIGCONT);
    send(&forger_host, family, &garbage);
    server.signal(Signal::SIGCONT);
    let receiver = receiver.wait();
    let end = receiver.completed();
    assert_same(&lab.path("copy"), &source);

    for (reason, _) in &garbage {
        let kinds = garbage.iter().filter(|(other, _)| other == reason).count() as u64;
        assert_eq!(end["dropped"][reason].as_u64(), Some(2 * kinds * REPETITIONS), "{reason}: {}", end["dropped"]);
    }
    assert_eq!(count(&end["counts"], "blocks_failed"), 0);
    // A repair symbol is no garbage to a receiver that can use it, so its sender is a sender, at one position.
    for sender in senders(end) {
        let is_forger = text(sender, "addr") != text(&sending, "source");
        let lost = count(sender, "lost") + count(sender, "lost_host");
        assert_eq!(lost, 0, "garbage is no loss, and nothing that came with it is lost: {sender}");
        assert!(!is_forger || count(sender, "received") <= 1, "the forger is no sender: {sender}");
    }
    assert!(!receiver.stderr.contains("panicked"), "{}", receiver.stderr);
}

#[test]
fn receiver_that_hears_only_garbage_writes_nothing() {
    let mut lab = Lab::new();
    let (forger_host, receiver_host) = (lab.host(), lab.host());
    let garbage = all_garbage(&blake3::hash(b"an object that nobody sends"), 2 * MIB + 12_345);
    let receiver = receive_until(&receiver_host, &lab.path("copy"), Family::V4.group(), &["--timeout", "3s"]);
    let _ = receiver.wait_for_event("listening");
    send(&forger_host, Family::V4, &garbage);
    let receiver = receiver.wait();
    assert_eq!(receiver.exit, Some(69), "stderr: {}", receiver.stderr);
    assert_eq!(count(&receiver.end()["counts"], "stored"), 0);
    let entries = std::fs::read_dir(lab.path("")).expect("list the test's folder").count();
    assert_eq!(entries, 0, "nothing has been created");
}
