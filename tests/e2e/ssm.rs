//! Source-specific multicast: only whom the user names is heard.

use serde_json::Value;

use crate::files::{Content, MIB, assert_same, make};
use crate::lab::{Family, Host, Lab};
use crate::run::{Process, receive_until, senders, serve, text};

/// A receiver of the family's group from these sources that is to succeed.
fn receive_from(host: &Host, copy: &std::path::Path, family: Family, sources: &[&str]) -> Process {
    let mut options = vec!["--timeout", "60s"];
    options.extend(sources.iter().flat_map(|source| ["--source", source]));
    receive_until(host, copy, family.ssm_group(), &options)
}

fn is_of(sender: &Value, host: &Host, family: Family) -> bool {
    text(sender, "addr").trim_start_matches('[').starts_with(&host.address(family))
}

#[test]
fn attacker_on_another_address_delivers_nothing() {
    for family in Family::BOTH {
        let mut lab = Lab::new();
        let (server_host, attacker_host, receiver_host) = (lab.host(), lab.host(), lab.host());
        let source = make(&lab, "source", Content::Random { size: 4 * MIB, seed: 1 });
        let forgery = make(&lab, "forgery", Content::Random { size: 4 * MIB, seed: 2 });
        let attacker = serve(&lab, &attacker_host, &forgery, family.ssm_group(), &["--rate", "100M"]);
        let _ = attacker.wait_for_event("sending");
        let (copy, deceived) = (lab.path("copy"), lab.path("deceived"));
        let (true_address, false_address) = (server_host.address(family), attacker_host.address(family));
        let receiver = receive_from(&receiver_host, &copy, family, &[&true_address]);
        let _ = receiver.wait_for_event("joined");
        // Who asks for the attacker gets what it sends, beside the other: it does arrive at this host.
        let other = receive_from(&receiver_host, &deceived, family, &[&false_address]).wait();
        let _ = other.completed();
        assert_same(&deceived, &forgery);

        let _server = serve(&lab, &server_host, &source, family.ssm_group(), &["--rate", "50M"]);
        let receiver = receiver.wait();
        let end = receiver.completed();
        assert_same(&copy, &source);
        assert!(senders(end).iter().all(|sender| is_of(sender, &server_host, family)), "{:?}", senders(end));
        assert_eq!(end["dropped"]["other_object"], Value::Null, "{family:?}: {end}");
        assert_eq!(receiver.notices("heard_again").len() + receiver.notices("manifest_refused").len(), 0);
    }
}

#[test]
fn any_group_can_be_heard_from_one_source() {
    let mut lab = Lab::new();
    let (server_host, other_host, receiver_host) = (lab.host(), lab.host(), lab.host());
    let source = make(&lab, "source", Content::Random { size: MIB, seed: 1 });
    let forgery = make(&lab, "forgery", Content::Random { size: MIB, seed: 2 });
    let serve = |host, file| serve(&lab, host, file, Family::V4.group(), &["--rate", "20M"]);
    let other = serve(&other_host, &forgery);
    let _ = other.wait_for_event("sending");
    let options = ["--timeout", "60s", "--source", &server_host.address(Family::V4)];
    let receiver = receive_until(&receiver_host, &lab.path("copy"), Family::V4.group(), &options);
    let _ = receiver.wait_for_event("joined");
    let _server = serve(&server_host, &source);
    let _ = receiver.wait().completed();
    assert_same(&lab.path("copy"), &source);
}

#[test]
fn source_that_cannot_be_joined_is_said_and_the_others_go_on() {
    for (family, limit) in [(Family::V4, "net/ipv4/igmp_max_msf"), (Family::V6, "net/ipv6/mld_max_msf")] {
        let mut lab = Lab::new();
        let (server_host, receiver_host) = (lab.host(), lab.host());
        // The limit of IPv6 is that of the whole machine, so the receiver goes beyond it.
        let others: Vec<_> = (1..100_u32).map(|i| format!("{}9{i}", server_host.address(family))).collect();
        if family == Family::V4 {
            receiver_host.write(&format!("/proc/sys/{limit}"), "1");
        }
        let source = make(&lab, "source", Content::Random { size: MIB, seed: 1 });
        let _server = serve(&lab, &server_host, &source, family.ssm_group(), &["--rate", "50M"]);
        let server_address = server_host.address(family);
        let mut sources = vec![server_address.as_str()];
        let kernel_max: usize = match family {
            Family::V4 => 1,
            Family::V6 => std::fs::read_to_string(format!("/proc/sys/{limit}"))
                .expect("a limit")
                .trim()
                .parse()
                .expect("a number"),
        };
        if kernel_max >= 64 {
            // No more can be named on a command line.
            continue;
        }
        sources.extend(others.iter().take(kernel_max).map(String::as_str));
        let receiver = receive_from(&receiver_host, &lab.path("copy"), family, &sources).wait();
        let _ = receiver.completed();
        assert_same(&lab.path("copy"), &source);
        let [notice] = receiver.notices("join")[..] else { panic!("one notice: {:?}", receiver.notices("join")) };
        let name = limit.replace('/', ".");
        assert!(text(notice, "text").contains(&name), "{notice}");
    }
}
