//! The server is deaf: whatever is sent to it, nothing is queued and nothing is read; nothing of it accepts input; and it needs no
//! privilege to do its work.

use std::fs;
use std::process::{Child, Stdio};
use std::time::Duration;

use serde_json::Value;

use crate::files::{Content, MIB, assert_same, make};
use crate::lab::{Family, Host, Lab};
use crate::run::{Process, Program, receive, serve_by, text};
use crate::wiring::wait_until;

/// How often each socket is written to in each way.
const DATAGRAM_COUNT: u64 = 500;
const VIRTUAL_SERVER_COUNT: usize = 2;
/// One for each virtual server, and one for announcements.
const SOCKET_COUNT: usize = VIRTUAL_SERVER_COUNT + 1;
/// `TCP_ESTABLISHED`, by which a UDP socket says that it is connected.
const CONNECTED: &str = "01";

/// Sends datagrams of several sizes. Arguments: the group, the server's address, how many, and the server's ports.
const FLOOD: &str = r"
import socket, sys, time
group, server, count, ports = sys.argv[1], sys.argv[2], int(sys.argv[3]), list(map(int, sys.argv[4:]))
interface = socket.if_nametoindex('eth0')
if ':' in group:
    out = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
    out.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_IF, interface)
    place = lambda address, port: (address, port, 0, interface)
else:
    out = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    out.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, bytes(8) + interface.to_bytes(4, sys.byteorder))
    place = lambda address, port: (address, port)
# From the port of the group, as an answer would come.
out.bind(place('', 4242))
places = [place(address, port) for address in (group, server) for port in [4242] + ports]
for number in range(count):
    for to in places:
        out.sendto(bytes([number & 255]) * (1 + number * 37 % 1452), to)
    time.sleep(0.001)
";

/// Takes a copy of every socket of a process, and asks the kernel what is on it. A line each: protocol family, type, listens,
/// filter locked, instructions of the filter, the first of them, what taking the filter off and reading came to.
const INSPECT: &str = r"
import ctypes, errno, os, socket, struct, sys
libc = ctypes.CDLL(None, use_errno=True)
pid = int(sys.argv[1])
PIDFD_GETFD, SO_GET_FILTER, SO_DETACH_FILTER, SO_LOCK_FILTER = 438, 26, 27, 44
handle = os.pidfd_open(pid)
for name in os.listdir('/proc/%d/fd' % pid):
    if not os.readlink('/proc/%d/fd/%s' % (pid, name)).startswith('socket:'):
        continue
    copy = libc.syscall(PIDFD_GETFD, handle, int(name), 0)
    if copy < 0:
        sys.exit('pidfd_getfd: ' + os.strerror(ctypes.get_errno()))
    one = socket.socket(fileno=copy)
    code, length = ctypes.create_string_buffer(8 * 16), ctypes.c_uint(16)
    if libc.getsockopt(copy, socket.SOL_SOCKET, SO_GET_FILTER, code, ctypes.byref(length)) != 0:
        length.value = 0
    first = '%d,%d' % struct.unpack('HxxI', code.raw[:8]) if length.value else 'none'
    def outcome(work):
        try:
            work()
            return 'done'
        except OSError as error:
            return errno.errorcode[error.errno]
    locked = one.getsockopt(socket.SOL_SOCKET, SO_LOCK_FILTER)
    listens = one.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
    detached = outcome(lambda: one.setsockopt(socket.SOL_SOCKET, SO_DETACH_FILTER, 0))
    read = outcome(lambda: one.recv(1, socket.MSG_DONTWAIT))
    print(one.family.name, one.type.name, listens, locked, length.value, first, detached, read)
";

#[test]
fn server_that_sends_over_ipv4_hears_nothing() {
    ["uring", "sendmmsg"].into_iter().for_each(|engine| server_hears_nothing(Family::V4, engine));
}

#[test]
fn server_that_sends_over_ipv6_hears_nothing() {
    ["uring", "sendmmsg"].into_iter().for_each(|engine| server_hears_nothing(Family::V6, engine));
}

fn server_hears_nothing(family: Family, engine: &str) {
    let mut lab = Lab::new();
    let (server_host, receiver_host, other_host) = (lab.host(), lab.host(), lab.host());
    let source = make(&lab, "source", Content::Random { size: 3 * MIB, seed: 1 });
    let server = serve_unprivileged(&lab, &server_host, &source, family, engine);
    let sending = server.wait_for_event("sending");
    assert_eq!(text(&sending, "engine"), engine);
    let sources = sources(&sending);
    has_no_privileges(server.pid());
    accepts_nothing(&server, &server_host, family, &sources);
    inspect_sockets(&server, &server_host, family);

    let before = Arrivals::read(server.pid(), family);
    let receiver = receive(&receiver_host, &lab.path("copy"), family.group());
    let mut flood = flood(&other_host, family, &sources);
    while flood.try_wait().expect("wait for python3").is_none() {
        udp_sockets(server.pid(), family).iter().for_each(Socket::has_nothing_queued);
        std::thread::sleep(Duration::from_millis(2));
    }
    assert!(flood.wait().expect("wait for python3").success(), "python3 has sent everything");
    let _ = receiver.wait().completed();
    assert_same(&lab.path("copy"), &source);

    let ways = (SOCKET_COUNT + 1) as u64;
    let expected = ways * DATAGRAM_COUNT;
    // The last may still be on their way.
    wait_until("all that was sent has come", || {
        let now = Arrivals::read(server.pid(), family);
        now.multicast - before.multicast >= expected && now.refused() - before.refused() >= expected
    });
    let after = Arrivals::read(server.pid(), family);
    assert!(after.multicast - before.multicast >= expected, "what went to the group came: {before:?}, {after:?}");
    let refused = after.refused() - before.refused();
    assert_eq!(refused, expected, "what went to the server came, and was for nobody: {before:?}, {after:?}");
    assert_eq!(after.delivered, 0, "no datagram has ever been read: {after:?}");
    accepts_nothing(&server, &server_host, family, &sources);
    inspect_sockets(&server, &server_host, family);
    assert_eq!(server.terminate().exit, Some(143));
}

/// The server as `nobody`, with no capability and no way to get one.
fn serve_unprivileged(lab: &Lab, host: &Host, source: &std::path::Path, family: Family, engine: &str) -> Process {
    std::os::unix::fs::chown(lab.folder("cache"), Some(65_534), Some(65_534)).expect("give the cache away");
    let mut command = host.command("setpriv");
    command.args(["--reuid=65534", "--regid=65534", "--clear-groups", "--inh-caps=-all", "--bounding-set=-all"]);
    command.args(["--no-new-privs", Program::Server.path()]);
    let virtual_servers = VIRTUAL_SERVER_COUNT.to_string();
    let announce = family.announcement_group();
    let options = ["--rate", "30M", "--engine", engine, "--virtual-servers", &virtual_servers, "--announce", announce];
    serve_by(command, lab, source, family.group(), &options)
}

/// The address from which the virtual servers send, without its scope, and the ports of all sockets.
fn sources(sending: &Value) -> (String, Vec<String>) {
    let all = sending["virtual_servers"].as_array().expect("a list of virtual servers");
    let sources = all.iter().map(|one| text(one, "source")).chain([text(sending, "announce_source")]);
    let pairs = sources.map(|source| source.rsplit_once(':').expect("an address and a port"));
    let (addresses, ports): (Vec<_>, Vec<_>) = pairs.map(|(address, port)| (address, port.to_owned())).unzip();
    assert_eq!(ports.len(), SOCKET_COUNT);
    let address = addresses[0].trim_matches(['[', ']']).split('%').next().expect("split gives one");
    (address.to_owned(), ports)
}

fn has_no_privileges(pid: u32) {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).expect("the server lives");
    let field = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        line.unwrap_or_else(|| panic!("no {name} in {status}")).split_whitespace().collect::<Vec<_>>()
    };
    assert_eq!(field("Uid"), ["65534"; 4]);
    assert_eq!(field("Gid"), ["65534"; 4]);
    assert_eq!(field("Groups"), [""; 0]);
    for capabilities in ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"] {
        assert_eq!(field(capabilities), ["0000000000000000"], "{capabilities}");
    }
    assert_eq!(field("NoNewPrivs"), ["1"]);
}

/// A UDP socket of a namespace, as `/proc/net/udp` shows it.
struct Socket {
    line: String,
    state: String,
    rx_queue: String,
    drops: u64,
}

impl Socket {
    fn new(line: &str) -> Self {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let rx_queue = fields[4].split_once(':').expect("two queues").1;
        let drops = fields.last().and_then(|drops| drops.parse().ok()).expect("the last field is a number");
        Self { line: line.to_owned(), state: fields[3].to_owned(), rx_queue: rx_queue.to_owned(), drops }
    }

    fn has_nothing_queued(&self) {
        assert_eq!(self.rx_queue, "00000000", "{}", self.line);
    }
}

/// What `/proc` lists in the namespace of this process, without the heading.
fn listed(pid: u32, table: &str) -> Vec<String> {
    // Not every kernel has every protocol.
    let text = fs::read_to_string(format!("/proc/{pid}/net/{table}")).unwrap_or_default();
    text.lines().skip(1).map(str::to_owned).collect()
}

fn udp_sockets(pid: u32, family: Family) -> Vec<Socket> {
    let (table, other) = if family == Family::V4 { ("udp", "udp6") } else { ("udp6", "udp") };
    assert_eq!(listed(pid, other), [""; 0], "no socket of the other family");
    let sockets: Vec<_> = listed(pid, table).iter().map(|line| Socket::new(line)).collect();
    assert_eq!(sockets.len(), SOCKET_COUNT, "a socket for each virtual server, one for announcements, and no other");
    sockets
}

/// Nobody but the server is in its namespace: so what is there is the server's.
fn accepts_nothing(server: &Process, host: &Host, family: Family, (_, ports): &(String, Vec<String>)) {
    let pid = server.pid();
    for table in ["tcp", "tcp6", "udplite", "udplite6", "raw", "raw6", "icmp", "icmp6", "packet", "unix"] {
        assert_eq!(listed(pid, table), [""; 0], "{table}");
    }
    for socket in udp_sockets(pid, family) {
        socket.has_nothing_queued();
        assert_eq!(socket.state, CONNECTED, "{}", socket.line);
    }
    let ss = |options: &[&str]| {
        let output = host.command("ss").args(options).output().expect("run ss");
        assert!(output.status.success(), "ss {options:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    assert_eq!(ss(&["-H", "-l", "-n", "-t", "-u", "-w", "-x", "-d", "-0", "--sctp", "--vsock"]), "", "nothing listens");
    let all = ss(&["-H", "-u", "-a", "-n", "-m", "-O"]);
    assert_eq!(all.lines().count(), SOCKET_COUNT, "{all}");
    for line in all.lines() {
        let fields: Vec<&str> = line.split_whitespace().collect();
        assert_eq!((fields[0], fields[1]), ("ESTAB", "0"), "connected, and nothing to read: {line}");
        assert!(ports.iter().any(|port| fields[3].ends_with(&format!(":{port}"))), "{line}");
        let peer = fields[4].trim_end_matches(":4242").trim_matches(['[', ']']);
        let peer = peer.split('%').next().expect("split gives one");
        assert!([family.group(), family.announcement_group()].contains(&peer), "{line}");
        assert!(line.contains("skmem:(r0,"), "no memory for what has come: {line}");
    }
}

/// Every socket drops all that comes by one instruction, which cannot be taken off, and has nothing to read.
fn inspect_sockets(server: &Process, host: &Host, family: Family) {
    let output =
        host.command("python3").args(["-c", INSPECT, &server.pid().to_string()]).output().expect("run python3");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let family = if family == Family::V4 { "AF_INET" } else { "AF_INET6" };
    // 6 is BPF_RET | BPF_K: of any datagram, keep 0 bytes.
    let expected = format!("{family} SOCK_DGRAM 0 1 1 6,0 EPERM EAGAIN");
    let text = String::from_utf8_lossy(&output.stdout);
    assert_eq!(text.lines().collect::<Vec<_>>(), [expected.as_str(); SOCKET_COUNT]);
}

fn flood(host: &Host, family: Family, (address, ports): &(String, Vec<String>)) -> Child {
    let mut command = host.command("python3");
    command.args(["-c", FLOOD, family.group(), address, &DATAGRAM_COUNT.to_string()]).args(ports);
    command.stdout(Stdio::null()).spawn().expect("start python3")
}

/// What has come to a namespace.
#[derive(Clone, Copy, Debug)]
struct Arrivals {
    /// Multicast packets, before anybody has asked whether they are for this host.
    multicast: u64,
    /// Datagrams for this host for which there was no socket.
    nobody: u64,
    /// Datagrams that a socket dropped.
    dropped: u64,
    /// Datagrams that were read.
    delivered: u64,
}

impl Arrivals {
    /// Datagrams for this host that nobody got.
    fn refused(&self) -> u64 {
        self.nobody + self.dropped
    }

    fn read(pid: u32, family: Family) -> Self {
        let dropped = udp_sockets(pid, family).iter().map(|socket| socket.drops).sum();
        let read = |table: &str| fs::read_to_string(format!("/proc/{pid}/net/{table}")).expect("the server lives");
        if family == Family::V6 {
            let text = read("snmp6");
            let count = |name| number_of(text.split_whitespace(), name);
            let [multicast, nobody, delivered] = ["Ip6InMcastPkts", "Udp6NoPorts", "Udp6InDatagrams"].map(count);
            return Self { multicast, nobody, dropped, delivered };
        }
        let snmp = read("snmp");
        let of_udp = |name| of_table(&snmp, "Udp:", name);
        let (nobody, delivered) = (of_udp("NoPorts"), of_udp("InDatagrams"));
        // IPv4 counts them only for members of their group: all that came less what was for this host.
        let multicast = of_table(&snmp, "Ip:", "InReceives") - nobody - delivered;
        Self { multicast, nobody, dropped, delivered }
    }
}

/// The word behind `name`.
fn number_of<'a>(words: impl Iterator<Item = &'a str>, name: &str) -> u64 {
    let number = words.skip_while(|word| *word != name).nth(1).and_then(|number| number.parse().ok());
    number.unwrap_or_else(|| panic!("no {name}"))
}

/// The counter of this name in a table of two lines, names above numbers.
fn of_table(text: &str, table: &str, name: &str) -> u64 {
    let mut lines = text.lines().filter(|line| line.starts_with(table)).map(str::split_whitespace);
    let (names, numbers) = (lines.next().expect("a heading"), lines.next().expect("numbers"));
    number_of(names.zip(numbers).flat_map(|(name, number)| [name, number]), name)
}
