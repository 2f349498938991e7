//! A forger on the same link, who knows the group, the port and the object, and makes packets that are right but for their bytes:
//! no wrong byte is ever accepted, and the copy completes: at once where the forger has an address of its own, and where packets
//! bear the server's, when they end.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::PathBuf;
use std::time::Duration;

use serde_json::Value;

use crate::files::{Content, MIB, assert_same, make};
use crate::garbage::{CODE_AND_TAG, DATA, Header, MANIFEST, SYMBOL_SIZE, manifest_payload};
use crate::lab::{Family, Host, Lab, whole_machine};
use crate::run::{Process, count, figure, number, receive, serve, text};

/// Of what the server sends, in bits a second.
const RATE_BPS: u64 = 20_000_000;
const SIZE: u64 = 3 * MIB + 12_345;
/// Symbols of a whole block that are forged: its own and as many repair symbols as the server sends.
const SYMBOL_COUNT: u16 = 745 + 373;
const FORGED_COUNT: usize = 6000;

/// Sends the packets of a file again and again at a rate, and says so when the first has gone. Arguments: the file, the group, bits a
/// second, for how many seconds, and the address and port to send them from, where they are not this host's own.
const FORGE: &str = r"
import socket, struct, sys, time
path, group, rate, seconds = sys.argv[1], sys.argv[2], float(sys.argv[3]), float(sys.argv[4])
data, packets, at = open(path, 'rb').read(), [], 0
while at < len(data):
    size = struct.unpack_from('!H', data, at)[0]
    packets.append(data[at + 2:at + 2 + size])
    at += 2 + size
interface = bytes(8) + socket.if_nametoindex('eth0').to_bytes(4, sys.byteorder)
if len(sys.argv) > 5:
    source, port = sys.argv[5].rsplit(':', 1)
    out = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW)
    ends = socket.inet_aton(source) + socket.inet_aton(group)
    # The kernel writes the length and the checksum of the IP header; UDP may go without.
    head = lambda size: struct.pack('!BBHHHBBH', 0x45, 0, 0, 0, 0, 1, 17, 0) + ends + struct.pack('!HHHH', int(port), 4242, 8 + size, 0)
    packets = [head(len(packet)) + packet for packet in packets]
else:
    out = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
out.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, interface)
start, sent, bits = time.monotonic(), 0, 0.0
while (now := time.monotonic() - start) < seconds:
    while bits < now * rate:
        packet = packets[sent % len(packets)]
        out.sendto(packet, (group, 4242))
        if sent == 0:
            print('forging', flush=True)
        sent, bits = sent + 1, bits + 8 * (len(packet) + 28)
    time.sleep(0.001)
";

/// Writes packets of the true object that are false: symbols in no order, and now and then a manifest of another digest.
fn forged_packets(lab: &Lab, digest: &blake3::Hash) -> PathBuf {
    let object: &[u8; 12] = digest.as_bytes()[..12].try_into().expect("12 of 32 bytes");
    let mut false_digest = *digest.as_bytes();
    false_digest[31] ^= 1;
    let text = format!(r#"{{"blake3":"{}","name":"n","size":{SIZE}}}"#, blake3::Hash::from(false_digest));
    let path = lab.path("forged");
    let mut file = BufWriter::new(File::create_new(&path).expect("create the file of forged packets"));
    let mut noise = blake3::Hasher::new().update(b"forged").finalize_xof();
    let mut payload = [0; SYMBOL_SIZE as usize];
    for index in 0..FORGED_COUNT {
        noise.fill(&mut payload);
        let esi = u16::from_be_bytes([payload[0], payload[1]]) % SYMBOL_COUNT;
        let block = u32::from(payload[2]) % 3;
        // The last source symbol of a block is shorter; it is left out.
        let esi = if esi == 744 { 0 } else { esi };
        let data = Header {
            magic: 0x107D,
            version: 1,
            kind: DATA,
            code_and_tag: CODE_AND_TAG,
            position: index as u64,
            object,
            size: SIZE,
            esi,
            block,
        };
        let packet = match index % 100 {
            0 => Header { kind: MANIFEST, position: 0, esi: 0, block: 0, ..data }
                .packet(&manifest_payload(text.as_bytes(), &[])),
            _ => data.packet(&payload),
        };
        let size = u16::try_from(packet.len()).expect("a packet fits a datagram");
        file.write_all(&[&size.to_be_bytes()[..], &packet].concat()).expect("write a forged packet");
    }
    file.flush().expect("write the forged packets");
    path
}

/// A network with a server, and what a copy takes where nobody lies.
struct Stage {
    lab: Lab,
    forger_host: Host,
    receiver_host: Host,
    source: PathBuf,
    forged: PathBuf,
    _server: Process,
    sending: Value,
    seconds_alone: f64,
}

impl Stage {
    fn new() -> Self {
        let mut lab = Lab::new();
        let (server_host, forger_host, receiver_host) = (lab.host(), lab.host(), lab.host());
        let source = make(&lab, "source", Content::Random { size: SIZE, seed: 1 });
        let rate = RATE_BPS.to_string();
        let server = serve(&lab, &server_host, &source, Family::V4.group(), &["--rate", &rate]);
        let sending = server.wait_for_event("sending");
        let digest = blake3::hash(&std::fs::read(&source).expect("read the source"));
        let forged = forged_packets(&lab, &digest);
        let alone = receive(&receiver_host, &lab.path("alone"), Family::V4.group()).wait();
        let seconds_alone = number(alone.completed(), "transfer_seconds");
        Self { lab, forger_host, receiver_host, source, forged, _server: server, sending, seconds_alone }
    }

    /// Forges at so many times the server's rate, from before this returns.
    fn forge(&self, times: u64, duration: Duration, spoofed: Option<&str>) -> Process {
        let mut command = self.forger_host.command("python3");
        command.arg("-c").arg(FORGE).arg(&self.forged).arg(Family::V4.group());
        command.arg((times * RATE_BPS).to_string()).arg(duration.as_secs_f64().to_string()).args(spoofed);
        let forger = Process::spawn(&mut command);
        let _ = forger.wait_for("the first forged packet", |line| line == "forging");
        forger
    }

    /// Receives a copy, which must be right; its last event.
    fn copy(&self, name: &str) -> Value {
        let copy = self.lab.path(name);
        let ended = receive(&self.receiver_host, &copy, Family::V4.group()).wait();
        assert_same(&copy, &self.source);
        ended.completed().clone()
    }

    fn say(&self, what: &str, end: &Value, bound: &str) {
        let extra = number(end, "transfer_seconds") - self.seconds_alone;
        let failed = count(&end["counts"], "blocks_failed");
        let value = format!("{extra:.2} s more than {:.2} s, {failed} blocks failed", self.seconds_alone);
        figure(&format!("forger {what}"), &value, bound);
    }
}

#[test]
fn forger_with_an_address_of_its_own_costs_time_and_nothing_else() {
    let _alone = whole_machine();
    let stage = Stage::new();
    for times in [1, 10] {
        let forger = stage.forge(times, Duration::from_secs(600), None);
        let end = stage.copy(&format!("copy-{times}"));
        drop(forger);
        stage.say(&format!("of its own address at {times} times the rate"), &end, "complete");
        assert!(count(&end["counts"], "blocks_failed") > 0, "forged symbols have come into blocks: {end}");
    }
}

#[test]
fn forger_with_the_servers_address_and_port_is_outlived() {
    const FORGED_FOR: Duration = Duration::from_secs(3);
    let _alone = whole_machine();
    let stage = Stage::new();
    let forger = stage.forge(1, FORGED_FOR, Some(text(&stage.sending, "source")));
    let end = stage.copy("copy");
    stage.say("of the server's address for 3 s", &end, "complete when it ends");
    assert!(count(&end["counts"], "blocks_failed") > 0, "forged symbols have come into blocks: {end}");
    let forger = forger.wait();
    assert_eq!(forger.exit, Some(0), "{}", forger.stderr);
}
