//! A switch that snoops, with a querier: only ports behind which somebody has joined get packets, and only as long as they want them.

use std::path::Path;
use std::time::Duration;

use crate::files::{Content, MIB, make};
use crate::lab::{Family, Lab};
use crate::run::{count, receive_until, serve};
use crate::wiring::{Counter, wait_until};

/// The switch asks twice at this interval whether anybody is left, then it stops.
const LAST_MEMBER_INTERVAL: Duration = Duration::from_millis(200);
/// Packets in which nothing must come where nothing may.
const PACKET_COUNT: u64 = 1000;

/// What a switch believes of a port whose host has left without a word: 260 s (RFC 3376, section 8.4), far more than any wait here. So what ends
/// within one has ended because the switch was told.
fn wait_until_held_back(sent: &Counter, at_host: &Counter) {
    wait_until("the switch holds back", || arrivals(sent, at_host) == 0);
}

/// How many packets reach a host while the server sends `PACKET_COUNT`.
fn arrivals(departures: &Counter, arrivals: &Counter) -> u64 {
    let before = arrivals.packets();
    departures.wait_for(PACKET_COUNT);
    arrivals.packets() - before
}

/// The datagrams that a receiver says it has had, in its file of figures; none before there is one.
fn datagrams_so_far(metrics: &Path) -> u64 {
    let Ok(figures) = std::fs::read_to_string(metrics) else { return 0 };
    let line = figures.lines().find(|line| line.starts_with("iotup_receiver_datagrams_total{"));
    let value = line.and_then(|line| line.rsplit(' ').next()?.parse().ok());
    value.unwrap_or_else(|| panic!("no count of datagrams in {figures}"))
}

#[test]
fn packets_reach_a_port_only_between_joining_and_leaving() {
    for family in Family::BOTH {
        let mut lab = Lab::new();
        let (server_host, receiver_host, idle_host) = (lab.host(), lab.host(), lab.host());
        for host in [&server_host, &receiver_host, &idle_host] {
            lab.disable_offloads(host);
        }
        let (at_receiver, at_idle) = (receiver_host.count_arrivals(), idle_host.count_arrivals());
        let sent = lab.count_departures(&server_host);
        lab.snoop(LAST_MEMBER_INTERVAL);
        let source = make(&lab, "source", Content::Random { size: MIB, seed: 1 });
        let serve = || serve(&lab, &server_host, &source, family.ssm_group(), &["--rate", "20M"]);

        // Nobody has joined. The switch floods until it knows that.
        let server = serve();
        wait_until_held_back(&sent, &at_receiver);
        assert_eq!(arrivals(&sent, &at_receiver), 0);
        let _ = server.terminate();

        // One has: it gets all that is sent. It wants no file so large, and so stays.
        let metrics = lab.path("receiver.prom");
        let source_address = server_host.address(family);
        let options = ["--max-size", "1K", "--source", &source_address, "--metrics", &metrics.to_string_lossy()];
        let receiver = receive_until(&receiver_host, &lab.path("copy"), family.ssm_group(), &options);
        let _ = receiver.wait_for_event("joined");
        wait_until("the switch knows", || {
            let groups = lab.switch.command("bridge").args(["mdb", "show"]).output().expect("run bridge");
            String::from_utf8_lossy(&groups.stdout).contains(family.ssm_group())
        });
        let (sent_before, received_before, idle_before) = (sent.packets(), at_receiver.packets(), at_idle.packets());
        let server = serve();
        sent.wait_for(PACKET_COUNT);
        let _ = server.terminate();
        let (sent_meanwhile, received) = (|| sent.packets() - sent_before, || at_receiver.packets() - received_before);
        // The last may still be on their way.
        wait_until("all where one has joined", || received() == sent_meanwhile());
        let sent_meanwhile = sent_meanwhile();

        // It leaves by ending.
        let _server = serve();
        wait_until("packets come again", || received() >= sent_meanwhile + PACKET_COUNT);
        // Not only to its host: it has had more than all of the server before.
        wait_until("the receiver gets them", || datagrams_so_far(&metrics) > sent_meanwhile);
        let receiver = receiver.terminate();
        let left = sent.packets() - sent_before;
        wait_until_held_back(&sent, &at_receiver);
        assert_eq!(arrivals(&sent, &at_receiver), 0, "{family:?}: after it has left");
        // It has not read the last of those that came to its host.
        let datagrams = count(&receiver.end()["counts"], "datagrams");
        assert!(datagrams > sent_meanwhile, "{family:?}: {datagrams}, and {sent_meanwhile} of the first server alone");
        assert!(datagrams <= left, "{family:?}: {datagrams} of {left}");
        assert_eq!(at_idle.packets(), idle_before, "{family:?}: where nobody ever joined");
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
        let (sent, at_receiver) = (lab.count_departures(&server_host), receiver_host.count_arrivals());
        lab.snoop(LAST_MEMBER_INTERVAL);
        let source = make(&lab, "source", Content::Random { size: MIB, seed: 1 });
        let _server = serve(&lab, &server_host, &source, family.group(), &["--rate", "20M"]);
        wait_until_held_back(&sent, &at_receiver);
        let receiver = receive_until(&receiver_host, &lab.path("copy"), family.group(), &["--max-size", "1K"]);
        let _ = receiver.wait_for_event("listening");
        wait_until("packets come", || arrivals(&sent, &at_receiver) >= PACKET_COUNT);
        receiver.kill();
        wait_until_held_back(&sent, &at_receiver);
        assert_eq!(arrivals(&sent, &at_receiver), 0, "{family:?}");
    }
}
