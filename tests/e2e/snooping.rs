//! A switch that snoops, with a querier: only ports behind which somebody has joined get packets, and only as long as they want them.

use std::time::Duration;

use crate::files::{Content, MIB, make};
use crate::lab::{Family, Host, Lab};
use crate::run::{count, receive_until, serve};
use crate::wiring::wait_until;

/// The switch asks twice at this interval whether anybody is left, then it stops.
const LAST_MEMBER_INTERVAL: Duration = Duration::from_millis(200);
/// Packets in which nothing must come where nothing may.
const PACKET_COUNT: u64 = 1000;

/// How many packets reach `host` while the server sends `PACKET_COUNT`.
fn arrivals(server: &Host, host: &Host) -> u64 {
    let before = host.counted();
    server.wait_for_count(PACKET_COUNT);
    host.counted() - before
}

#[test]
fn packets_reach_a_port_only_between_joining_and_leaving() {
    for family in Family::BOTH {
        let mut lab = Lab::new();
        let (server_host, receiver_host, idle_host) = (lab.host(), lab.host(), lab.host());
        for host in [&server_host, &receiver_host, &idle_host] {
            lab.disable_offloads(host);
        }
        receiver_host.count_arrivals();
        idle_host.count_arrivals();
        server_host.count_departures();
        lab.snoop(LAST_MEMBER_INTERVAL);
        let source = make(&lab, "source", Content::Random { size: MIB, seed: 1 });
        let serve = || serve(&lab, &server_host, &source, family.ssm_group(), &["--rate", "20M"]);

        // Nobody has joined. The switch floods until it knows that.
        let server = serve();
        wait_until("the switch holds back", || arrivals(&server_host, &receiver_host) == 0);
        assert_eq!(arrivals(&server_host, &receiver_host), 0);
        let _ = server.terminate();
        let idle_before = idle_host.counted();

        // One has: it gets all that is sent. It wants no file so large, and so stays.
        let options = ["--max-size", "1K", "--source", &server_host.address(family)];
        let receiver = receive_until(&receiver_host, &lab.path("copy"), family.ssm_group(), &options);
        let _ = receiver.wait_for_event("joined");
        // What the kernel says of it comes to the switch within this time (RFC 3376, section 8.11, and RFC 3810, section 9.11).
        std::thread::sleep(Duration::from_millis(200));
        let (sent_before, received_before) = (server_host.counted(), receiver_host.counted());
        let server = serve();
        server_host.wait_for_count(PACKET_COUNT);
        let _ = server.terminate();
        let sent = server_host.counted() - sent_before;
        assert_eq!(receiver_host.counted() - received_before, sent, "{family:?}: all at the port that has joined");

        // It leaves by ending.
        let _server = serve();
        server_host.wait_for_count(PACKET_COUNT);
        let received_before_end = receiver_host.counted() - received_before;
        let receiver = receiver.terminate();
        let datagrams = count(&receiver.end()["counts"], "datagrams");
        assert!(
            (sent..=received_before_end.max(sent) + 2 * PACKET_COUNT).contains(&datagrams),
            "{datagrams} of {sent}"
        );
        std::thread::sleep(2 * LAST_MEMBER_INTERVAL + Duration::from_millis(200));
        assert_eq!(arrivals(&server_host, &receiver_host), 0, "{family:?}: after it has left");
        assert_eq!(idle_host.counted(), idle_before, "{family:?}: at the port that never joined");
    }
}

#[test]
fn receiver_that_is_killed_leaves_too() {
    for family in Family::BOTH {
        let mut lab = Lab::new();
        let (server_host, receiver_host) = (lab.host(), lab.host());
        for host in [&server_host, &receiver_host] {
            lab.disable_offloads(host);
        }
        receiver_host.count_arrivals();
        server_host.count_departures();
        lab.snoop(LAST_MEMBER_INTERVAL);
        let source = make(&lab, "source", Content::Random { size: MIB, seed: 1 });
        let _server = serve(&lab, &server_host, &source, family.group(), &["--rate", "20M"]);
        let receiver = receive_until(&receiver_host, &lab.path("copy"), family.group(), &["--max-size", "1K"]);
        let _ = receiver.wait_for_event("listening");
        wait_until("packets come", || arrivals(&server_host, &receiver_host) >= PACKET_COUNT);
        receiver.kill();
        std::thread::sleep(2 * LAST_MEMBER_INTERVAL + Duration::from_millis(200));
        assert_eq!(arrivals(&server_host, &receiver_host), 0, "{family:?}");
    }
}
