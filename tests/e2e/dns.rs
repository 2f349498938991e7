//! DNS servers for the tests: a real one, and one that answers whatever a test wants.

use std::fs::File;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpListener, UdpSocket};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use nix::sched::{CloneFlags, setns};

use crate::lab::{Family, Host, Lab};
use crate::run::{Process, Program};

/// The domain of all tests, and where its records are.
pub(crate) const DOMAIN: &str = "updates.example.test";
pub(crate) const SERVICE: &str = "_iotupd._udp.updates.example.test";

/// Records for dnsmasq: an SRV record of this priority for a host of this name.
pub(crate) fn srv(priority: u16, name: &str) -> String {
    format!("--srv-host={SERVICE},{name},4242,{priority},0")
}

/// A TXT record.
pub(crate) fn txt(text: &str) -> String {
    format!("--txt-record={SERVICE},{text}")
}

/// The group of tests as a TXT record.
pub(crate) fn group(family: Family) -> String {
    txt(&format!("group={}", family.ssm_group()))
}

/// The address of a host under this name.
pub(crate) fn address(name: &str, host: &Host, family: Family) -> String {
    format!("--host-record={name},{}", host.address(family))
}

/// A real DNS server with these records, that hold for so many seconds.
pub(crate) fn dnsmasq(host: &Host, ttl: u32, records: &[String]) -> Process {
    let mut command = host.command("dnsmasq");
    command.args(["--keep-in-foreground", "--conf-file=/dev/null", "--no-resolv", "--no-hosts", "--user=root"]);
    command.args(["--pid-file", "--log-facility=-", "--local=/test/", &format!("--local-ttl={ttl}")]).args(records);
    let process = Process::spawn(&mut command);
    // The sockets are open by then.
    process.wait_for_words("started, version");
    process
}

/// `iotupc OPTIONS... COPY --srv` for the tests' domain, asking this server.
pub(crate) fn receive_by_srv(host: &Host, copy: &Path, dns_server: &str, options: &[&str]) -> Process {
    let mut command = host.command(Program::Receiver.path());
    command.args(["--json", "--timeout", "80s", "--dns-server", dns_server, "--srv", DOMAIN]);
    Process::spawn(command.args(options).arg(copy))
}

/// `iotupc COPY --srv` as a user would type it, on a host that is configured to ask this DNS server.
pub(crate) fn receive_as_configured(lab: &Lab, host: &Host, copy: &Path, dns_server: &str) -> Process {
    let config = lab.path(&format!("{}.resolv.conf", host.number));
    std::fs::write(&config, format!("nameserver {dns_server}\n")).expect("write resolv.conf");
    let mut command = host.command("sh");
    // The namespace of mounts is the command's own.
    command.args(["-c", "mount --bind \"$0\" /etc/resolv.conf && exec \"$@\""]).arg(&config);
    Process::spawn(command.arg(Program::Receiver.path()).arg("--json").arg(copy).args(["--srv", DOMAIN]))
}

/// A DNS server that answers as a test says. It lives as long as the test program.
pub(crate) struct Responder {
    pub(crate) address: String,
    asked: Arc<AtomicU32>,
}

impl Responder {
    /// `answer` gives the datagrams that follow a question, which is the whole message.
    pub(crate) fn start(host: &Host, port: u16, answer: impl Fn(&[u8]) -> Vec<Vec<u8>> + Send + 'static) -> Self {
        let asked = Arc::new(AtomicU32::new(0));
        let counter = Arc::clone(&asked);
        let socket = in_netns(host, move || UdpSocket::bind((Ipv4Addr::UNSPECIFIED, port)).expect("bind a DNS server"));
        std::thread::spawn(move || {
            let mut buffer = [0; 512];
            while let Ok((size, from)) = socket.recv_from(&mut buffer) {
                counter.fetch_add(1, Ordering::Relaxed);
                for datagram in answer(&buffer[..size]) {
                    // Whoever asked may have gone.
                    let _ = socket.send_to(&datagram, from);
                }
            }
        });
        Self { address: format!("{}:{port}", host.address(Family::V4)), asked }
    }

    /// Answers by TCP at the same port.
    pub(crate) fn start_stream(host: &Host, port: u16, answer: impl Fn(&[u8]) -> Vec<u8> + Send + 'static) {
        let listener =
            in_netns(host, move || TcpListener::bind((Ipv4Addr::UNSPECIFIED, port)).expect("bind a DNS server"));
        std::thread::spawn(move || {
            for mut stream in listener.incoming().map_while(Result::ok) {
                let mut size = [0; 2];
                let mut query = Vec::new();
                let read = stream.read_exact(&mut size).and_then(|()| {
                    query.resize(usize::from(u16::from_be_bytes(size)), 0);
                    stream.read_exact(&mut query)
                });
                if read.is_ok() {
                    let answer = answer(&query);
                    let size = u16::try_from(answer.len()).expect("an answer fits TCP");
                    let _ = stream.write_all(&[&size.to_be_bytes()[..], &answer].concat());
                }
            }
        });
    }

    /// How many questions have come by UDP.
    pub(crate) fn asked(&self) -> u32 {
        self.asked.load(Ordering::Relaxed)
    }
}

/// Runs `make` in the host's network; sockets made there stay there.
fn in_netns<T: Send + 'static>(host: &Host, make: impl FnOnce() -> T + Send + 'static) -> T {
    let path = format!("/run/netns/{}", host.netns);
    let run = move || {
        let netns = File::open(&path).expect("open the namespace");
        setns(netns, CloneFlags::CLONE_NEWNET).expect("enter the namespace");
        make()
    };
    std::thread::spawn(run).join().expect("the namespace can be entered")
}

/// A record: its owner's name in wire form, its type, its time to live and its data.
pub(crate) type Record<'a> = (&'a [u8], u16, u32, Vec<u8>);

pub(crate) const A: u16 = 1;
pub(crate) const CNAME: u16 = 5;
pub(crate) const TXT: u16 = 16;
pub(crate) const SRV: u16 = 33;

/// A pointer to the name of the question.
pub(crate) const OWNER: &[u8] = &[0xc0, 12];

/// The answer to `query` with this code and these records.
pub(crate) fn reply(query: &[u8], code: u8, records: &[Record<'_>]) -> Vec<u8> {
    let mut answer = query.to_vec();
    answer[2..4].copy_from_slice(&[0x81, 0x80 | code]);
    answer[6..8].copy_from_slice(&u16::try_from(records.len()).expect("few records").to_be_bytes());
    for (owner, kind, ttl, data) in records {
        answer.extend(*owner);
        answer.extend(kind.to_be_bytes());
        answer.extend([0, 1]);
        answer.extend(ttl.to_be_bytes());
        answer.extend(u16::try_from(data.len()).expect("short data").to_be_bytes());
        answer.extend(data);
    }
    answer
}

/// The type that is asked for.
pub(crate) fn asked_type(query: &[u8]) -> u16 {
    let end = &query[query.len() - 4..];
    u16::from_be_bytes([end[0], end[1]])
}

/// A name in wire form.
pub(crate) fn wire_name(name: &str) -> Vec<u8> {
    let labels = name.split('.').filter(|label| !label.is_empty());
    let one = |label: &str| [&[u8::try_from(label.len()).expect("a short label")], label.as_bytes()].concat();
    labels.flat_map(one).chain([0]).collect()
}

/// The data of an SRV record for port 4242.
pub(crate) fn srv_data(priority: u16, target: &str) -> Vec<u8> {
    let numbers = [priority, 0, 4242].map(u16::to_be_bytes).concat();
    [numbers, wire_name(target)].concat()
}

/// The data of a TXT record.
pub(crate) fn txt_data(text: &str) -> Vec<u8> {
    [&[u8::try_from(text.len()).expect("a short text")], text.as_bytes()].concat()
}

/// What a good DNS answers: one server at `address`, whose records hold for `ttl` seconds.
pub(crate) fn good_answer(query: &[u8], family: Family, address: Ipv4Addr, ttl: u32) -> Vec<u8> {
    let records: Vec<Record<'_>> = match asked_type(query) {
        SRV => vec![(OWNER, SRV, ttl, srv_data(1, "a.test"))],
        TXT => vec![(OWNER, TXT, ttl, txt_data(&format!("group={}", family.ssm_group())))],
        A => vec![(OWNER, A, ttl, address.octets().to_vec())],
        _ => vec![],
    };
    reply(query, 0, &records)
}

/// Far more than a lookup takes in these tests.
pub(crate) const LOOKUP_SECONDS_MAX: Duration = Duration::from_secs(30);
