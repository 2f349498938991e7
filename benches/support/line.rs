//! What a line between two hosts takes at most, without any of the protocol: a sender that sends the same hot 64 KiB by GSO again and
//! again, and receivers that read and forget. scripts/bench-netns measures the programs against it.
//!
//! usage: line send INTERFACE GROUP:PORT DATAGRAM_SIZE SECONDS
//!        line take INTERFACE GROUP:PORT     (until SIGTERM)
//!        line describe INTERFACE
//!
//! The first two end with one line of JSON; the second says `{"event":"listening"}` before. The third tells of the machine.

mod machine;

use std::io::{self, Write};
use std::net::SocketAddr;
use std::process::ExitCode;
use std::time::Duration;

use iotupd::drive::bench::{Blast, Way};
use iotupd::failure::{Exit, Failure};
use iotupd::sys::{ReceiveOptions, ReceiveSocket, clock, interface, signals};
use serde_json::{Value, json};

/// Datagrams between two looks at the clock.
const LOOK_PACKETS: u64 = 1000;
const LOOK_INTERVAL: Duration = Duration::from_millis(100);

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let result = match *args.as_slice() {
        ["send", interface, group, size, seconds] => send(interface, group, size, seconds),
        ["take", interface, group] => take(interface, group),
        ["describe", interface] => {
            machine::describe(interface).iter().for_each(|line| say(line));
            Ok(())
        }
        _ => Err(usage("send INTERFACE GROUP:PORT SIZE SECONDS | take INTERFACE GROUP:PORT | describe INTERFACE")),
    };
    iotupd::drive::exit_code("line", result.map(|()| Exit::Complete))
}

fn usage(cause: &str) -> Failure {
    Failure::new(Exit::Usage, "read the command line", cause)
}

fn parse<T: std::str::FromStr>(text: &str) -> Result<T, Failure> {
    text.parse().map_err(|_| usage(&format!("what is {text}?")))
}

fn say(line: &str) {
    // If nobody reads it any more, that is their affair.
    let _ = writeln!(io::stdout(), "{line}");
}

fn tell(event: Value) {
    say(&event.to_string());
}

fn send(interface: &str, group: &str, size: &str, seconds: &str) -> Result<(), Failure> {
    let (group, size, seconds): (SocketAddr, usize, f64) = (parse(group)?, parse(size)?, parse(seconds)?);
    let mut blast = Blast::with_datagrams(&Way::new(interface, group)?, size)?;
    let start = clock::now();
    let (mut sent, mut elapsed) = (0, 0.0);
    while elapsed < seconds {
        match blast.send_packets(LOOK_PACKETS) {
            Ok(count) => sent += count,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(Failure::io(Exit::Io, format!("send to {group} on {interface}"), &error)),
        }
        elapsed = clock::now().since(start).as_secs_f64();
    }
    tell(json!({ "packets": sent, "bytes": sent * size as u64, "seconds": elapsed }));
    Ok(())
}

fn take(interface: &str, group: &str) -> Result<(), Failure> {
    signals::install()?;
    let group: SocketAddr = parse(group)?;
    let all = interface::list()?;
    let found = all.iter().find(|candidate| candidate.name == interface);
    let interface_index = found.ok_or_else(|| usage(&format!("there is no interface {interface}")))?.index;
    let (mut socket, _) = ReceiveSocket::open(&ReceiveOptions { group, interface_index })?;
    tell(json!({ "event": "listening" }));
    let (mut packets, mut bytes) = (0_u64, 0_u64);
    let (mut first, mut last) = (None, clock::now());
    while signals::pending().is_none() {
        let count = socket
            .receive(clock::now().after(LOOK_INTERVAL))
            .map_err(|error| Failure::io(Exit::Io, format!("receive {group} on {interface}"), &error))?;
        if count > 0 {
            last = clock::now();
            first.get_or_insert(last);
            packets += count as u64;
            bytes += socket.datagrams().map(|(_, datagram)| datagram.len() as u64).sum::<u64>();
        }
    }
    let seconds = last.since(first.unwrap_or(last)).as_secs_f64();
    let dropped = socket.dropped_buffers();
    tell(json!({ "packets": packets, "bytes": bytes, "seconds": seconds, "dropped_buffers": dropped }));
    Ok(())
}
