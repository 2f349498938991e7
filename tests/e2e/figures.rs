//! What receivers cost the server: nothing that they could make it do, and, in this laboratory, what the cable charges.
//!
//! A veth pair has no wire: `send` itself carries the packet over the bridge and into every receiver's socket, and wakes whoever
//! waits there, all on the sender's account. A real network card does none of that for the sender. So the processor time is
//! taken three times, by `scripts/measure`:
//!
//! 1. the server as it is: its own work and the carrying;
//! 2. a plain sender of as many datagrams of the same size, which knows nothing of this protocol, to the same receivers: what
//!    its time grows by from 0 receivers to 8 is the carrying alone;
//! 3. the server, with the carrying given to the other processor (receive packet steering on the bridge's port): its own work.
//!
//! Packets per second come from the server's own account and must not depend on the receivers at all, which is also checked
//! without the plain sender and with fewer receivers. Processor times are printed and not judged: they are the machine's.

use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::files::{Content, MIB, make};
use crate::lab::{Family, Host, Lab, whole_machine};
use crate::run::{PATIENCE, Process, Program, count, cpu_seconds, figure, number, receive};

const RATE: &str = "100M";
/// What the server sends in a second at that rate: IP packets of 1480 bytes, and a few shorter ones.
const PACKET_RATE: u32 = 8_563;
const SETTLE: Duration = Duration::from_millis(1500);
/// How many seconds are measured.
const WINDOW_SECONDS: usize = 7;
/// The packets per second may differ by so much: a burst may fall before or after a report.
const TOLERANCE: f64 = 0.01;
/// A report that comes just after the machine has stood still does not know yet what that cost, and spoils a measurement now and then.
/// What receivers did to a server they would do every time.
const ATTEMPT_COUNT: usize = 3;
/// Sends datagrams at an absolute schedule: group, interface's address, packets per second.
const PLAIN_SENDER: &str = "
import socket, sys, time
group, address, rate = sys.argv[1], sys.argv[2], int(sys.argv[3])
sender = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
sender.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, socket.inet_aton(address))
sender.connect((group, 4242))
datagram, start, sent = bytes(1452), time.monotonic(), 0
while True:
    sender.send(datagram)
    sent += 1
    if sent == rate:
        print('settled', flush=True)
    wait = start + sent / rate - time.monotonic()
    if wait > 0:
        time.sleep(wait)
";

/// Who sends, and who does the carrying.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Sending {
    Server,
    PlainSender,
    ServerWithoutCarrying,
}

impl Sending {
    fn name(self) -> &'static str {
        match self {
            Self::Server => "server",
            Self::PlainSender => "plain sender",
            Self::ServerWithoutCarrying => "server, carrying on the other processor",
        }
    }
}

/// What was used per second of sending.
#[derive(Clone, Copy, Debug)]
struct Cost {
    /// Packets per second, without the seconds in which the machine did not let the server run.
    packets: f64,
    /// The share of those seconds.
    lost_share: f64,
    user: f64,
    system: f64,
}

#[test]
fn receivers_do_not_change_the_rate_of_the_server() {
    compare(&[Sending::Server, Sending::ServerWithoutCarrying], &[0, 8]);
}

#[test]
#[ignore = "takes more than a minute; scripts/measure runs it"]
fn receivers_change_neither_rate_nor_work_of_the_server() {
    compare(&[Sending::Server, Sending::PlainSender, Sending::ServerWithoutCarrying], &[0, 1, 8]);
}

fn compare(ways: &[Sending], receiver_counts: &[u32]) {
    let _alone = whole_machine();
    let mut attempts: Vec<Vec<f64>> = Vec::new();
    let are_equal = |rates: &Vec<f64>| rates.iter().all(|rate| (rate / rates[0] - 1.0).abs() <= TOLERANCE);
    while !attempts.last().is_some_and(are_equal) {
        assert!(attempts.len() < ATTEMPT_COUNT, "packets per second differ: {attempts:?}");
        attempts.push(packet_rates(ways, receiver_counts));
    }
}

/// Packets per second of the server in each of these cases. Prints what was measured.
fn packet_rates(ways: &[Sending], receiver_counts: &[u32]) -> Vec<f64> {
    let mut packet_rates = Vec::new();
    for &sending in ways {
        for &receiver_count in receiver_counts {
            let cost = measure(sending, receiver_count);
            let name = format!("{}, {receiver_count} receivers", sending.name());
            let cpu = format!("CPU {:.2} % user + {:.2} % system", 100.0 * cost.user, 100.0 * cost.system);
            let late = format!("{:.1} % of the time lost by lateness", 100.0 * cost.lost_share);
            figure(&name, &format!("{:.0} packets/s ({late}), {cpu}", cost.packets), "equal packets/s");
            if sending != Sending::PlainSender {
                packet_rates.push(cost.packets);
            }
        }
    }
    packet_rates
}

fn measure(sending: Sending, receiver_count: u32) -> Cost {
    let mut lab = Lab::new();
    let host = lab.host();
    if sending == Sending::ServerWithoutCarrying {
        lab.forward_on_second_processor(&host);
    }
    // More than is sent before it is over, so that no receiver completes and leaves.
    let source = make(&lab, "source", Content::Random { size: 160 * MIB, seed: 1 });
    let receivers: Vec<Process> = (0..receiver_count)
        .map(|index| {
            let host = lab.host();
            receive(&host, &lab.path(&format!("copy{index}")), Family::V4.group())
        })
        .collect();
    for receiver in &receivers {
        let _ = receiver.wait_for_event("listening");
    }
    match sending {
        Sending::PlainSender => measure_plain_sender(&host),
        Sending::Server | Sending::ServerWithoutCarrying => measure_server(&lab, &host, &source),
    }
}

/// The server on the first processor, over some of its own reports, of which it makes one a second.
fn measure_server(lab: &Lab, host: &Host, source: &Path) -> Cost {
    let mut command = host.command("taskset");
    command.args(["-c", "0", Program::Server.path(), "--json", "-i", "eth0", "--rate", RATE, "--cache-dir"]);
    let server = Process::spawn(command.arg(lab.path("cache")).arg(source).arg(Family::V4.group()));
    let _ = server.wait_for_event("sending");
    std::thread::sleep(SETTLE);
    let first = server.events("status").len();
    let last = first + WINDOW_SECONDS;
    let before = cpu_seconds(server.pid());
    let start = Instant::now();
    while server.events("status").len() <= last {
        assert!(start.elapsed() < PATIENCE, "no report each second");
        std::thread::sleep(Duration::from_millis(20));
    }
    let (after, seconds) = (cpu_seconds(server.pid()), start.elapsed().as_secs_f64());
    let window = &server.events("status")[first..=last];
    let lost = number(&window[WINDOW_SECONDS], "lost_seconds") - number(&window[0], "lost_seconds");
    Cost {
        packets: median_rate(window),
        lost_share: lost / seconds,
        user: (after.0 - before.0) / seconds,
        system: (after.1 - before.1) / seconds,
    }
}

/// Packets per second between neighbouring reports, without the time that the server says it has lost. It is the median, because
/// a report that comes just after the machine has stood still has not yet counted that time as lost.
pub(crate) fn median_rate(window: &[Value]) -> f64 {
    let packets = |status: &Value| (count(status, "data") + count(status, "manifest") + count(status, "hashes")) as f64;
    let working = |status: &Value| number(status, "seconds") - number(status, "lost_seconds");
    let mut rates: Vec<f64> = window
        .windows(2)
        .map(|pair| (packets(&pair[1]) - packets(&pair[0])) / (working(&pair[1]) - working(&pair[0])))
        .collect();
    rates.sort_by(f64::total_cmp);
    rates[rates.len() / 2]
}

fn measure_plain_sender(host: &Host) -> Cost {
    let mut command = host.command("taskset");
    command.args(["-c", "0", "python3", "-c", PLAIN_SENDER, Family::V4.group(), &host.address_v4()]);
    let sender = Process::spawn(command.arg(PACKET_RATE.to_string()).stdin(Stdio::null()));
    let _ = sender.wait_for("its first second", |line| line == "settled");
    let (packets, before, start) = (sent_packets(sender.pid()), cpu_seconds(sender.pid()), Instant::now());
    std::thread::sleep(Duration::from_secs(WINDOW_SECONDS as u64));
    let (sent, after, seconds) = (sent_packets(sender.pid()), cpu_seconds(sender.pid()), start.elapsed().as_secs_f64());
    Cost {
        packets: (sent - packets) as f64 / seconds,
        lost_share: 0.0,
        user: (after.0 - before.0) / seconds,
        system: (after.1 - before.1) / seconds,
    }
}

/// What the process's network has sent by `eth0`, as the kernel counts it.
fn sent_packets(pid: u32) -> u64 {
    let table = std::fs::read_to_string(format!("/proc/{pid}/net/dev")).expect("the sender lives");
    let line = table.lines().find_map(|line| line.trim().strip_prefix("eth0:"));
    line.and_then(|line| line.split_whitespace().nth(9)?.parse().ok()).expect("packets sent by eth0")
}
