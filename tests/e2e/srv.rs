//! Sources found by the DNS alone: SRV records, priorities, times to live, and answers that are of no use.

use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::dns::{
    A, CNAME, DOMAIN, LOOKUP_SECONDS_MAX, OWNER, Record, Responder, SERVICE, SRV, TXT, address, asked_type, dnsmasq,
    good_answer, group, receive_as_configured, receive_by_srv, reply, srv, srv_data, txt, txt_data, wire_name,
};
use crate::files::{Content, MIB, assert_same, make};
use crate::lab::{Family, Host, Lab};
use crate::run::{Process, Witness, count, senders, serve, text};

fn serve_ssm(lab: &Lab, host: &Host, source: &std::path::Path, family: Family, rate: &str) -> Process {
    serve(lab, host, source, family.ssm_group(), &["--rate", rate, "--hops", "2"])
}

/// The addresses that symbols came from.
fn sender_addresses(end: &Value) -> Vec<String> {
    let address = |sender: &Value| {
        let addr = text(sender, "addr");
        addr.rsplit_once(':').expect("an address has a port").0.trim_matches(['[', ']']).to_owned()
    };
    let mut addresses: Vec<_> =
        senders(end).iter().filter(|sender| count(sender, "received") > 0).map(address).collect();
    addresses.dedup();
    addresses
}

fn wait_until_held(receiver: &Process, bytes: u64) {
    let _ = receiver.wait_for("progress", |event| event["event"] == "progress" && count(event, "held") >= bytes);
}

/// Waits until the receiver has joined or left (`event`) a source so many times.
fn wait_for_source(receiver: &Process, event: &str, source: &str) -> Value {
    receiver.wait_for(&format!("{event} {source}"), |value| value["event"] == event && value["source"] == source)
}

#[test]
fn routed_transfer_is_found_by_srv_alone() {
    for family in Family::BOTH {
        let mut lab = Lab::new();
        let (server_host, router) = (lab.host(), lab.host());
        lab.add_second_interface(&router);
        // The kernel routes no multicast packet that is longer than the MTU, as GSO leaves them to a card that there is none of here.
        lab.disable_offloads(&server_host);
        let receiver_host = lab.host_behind(&router);
        let _router = lab.route(&router, family, &server_host);
        let records =
            [srv(10, "server.example.test"), group(family), address("server.example.test", &server_host, family)];
        let _dns = dnsmasq(&router, 60, &records);
        let source = make(&lab, "firmware.img", Content::Random { size: 4 * MIB, seed: 1 });
        let _server = serve_ssm(&lab, &server_host, &source, family, "50M");
        let copy = lab.path("firmware.bin");
        let resolver = router.address_in(family, router.number);
        let receiver = receive_as_configured(&lab, &receiver_host, &copy, &resolver).wait();
        let end = receiver.completed();
        assert_same(&copy, &source);
        assert_eq!(sender_addresses(end), [server_host.address(family)], "{family:?}");
        let joined = receiver.first("joined");
        assert_eq!(text(joined, "source"), server_host.address(family));
        assert_eq!((text(joined, "name"), count(joined, "priority")), ("server.example.test", 10));
        assert_eq!(receiver.notices("dns"), Vec::<&Value>::new());
    }
}

#[test]
fn next_by_priority_is_joined_when_the_first_dies_and_left_when_it_returns() {
    let family = Family::V6;
    let mut lab = Lab::new();
    let (first_host, second_host, receiver_host) = (lab.host(), lab.host(), lab.host());
    let hosts = [("first.test", &first_host), ("second.test", &second_host)];
    let mut records = vec![srv(10, "first.test"), srv(20, "second.test"), group(family)];
    records.extend(hosts.map(|(name, host)| address(name, host, family)));
    let _dns = dnsmasq(&receiver_host, 2, &records);
    let source = make(&lab, "source", Content::Random { size: 32 * MIB, seed: 1 });
    let (first, _second) =
        (serve_ssm(&lab, &first_host, &source, family, "20M"), serve_ssm(&lab, &second_host, &source, family, "20M"));
    let receiver = receive_by_srv(&receiver_host, &lab.path("copy"), "::1", &["-i", "eth0"]);
    wait_until_held(&receiver, 2 * MIB);
    let (first_address, second_address) = (first_host.address(family), second_host.address(family));
    assert_eq!(receiver.events("joined").len(), 1, "one is enough: {:?}", receiver.events("joined"));

    first.kill();
    let (witness, died) = (Witness::start(), Instant::now());
    let joined = wait_for_source(&receiver, "joined", &second_address);
    let (waited, held_up) = (died.elapsed(), witness.end());
    assert!(waited < Duration::from_secs(5) + held_up, "the next was joined after {waited:?}, held up for {held_up:?}");
    assert_eq!((text(&joined, "name"), count(&joined, "priority")), ("second.test", 20));

    let _first = serve_ssm(&lab, &first_host, &source, family, "20M");
    let _ = wait_for_source(&receiver, "left", &second_address);
    let receiver = receiver.wait();
    let end = receiver.completed();
    assert_same(&lab.path("copy"), &source);
    let of_first = senders(end).iter().filter(|sender| text(sender, "addr").contains(&format!("[{first_address}]")));
    let received: Vec<u64> = of_first.map(|sender| count(sender, "received")).collect();
    assert_eq!(received.len(), 2, "before it died and after it returned: {end}");
    assert!(received.iter().all(|&count| count > 1000), "it is used again: {received:?}");
}

#[test]
fn records_that_change_are_followed_while_receiving_when_their_time_is_over() {
    let family = Family::V4;
    let mut lab = Lab::new();
    let (first_host, second_host, receiver_host) = (lab.host(), lab.host(), lab.host());
    let records = |name: &str, host: &Host| [srv(10, name), group(family), address(name, host, family)];
    let dns = dnsmasq(&receiver_host, 2, &records("first.test", &first_host));
    let source = make(&lab, "source", Content::Random { size: 24 * MIB, seed: 1 });
    let _servers = [&first_host, &second_host].map(|host| serve_ssm(&lab, host, &source, family, "20M"));
    let receiver = receive_by_srv(&receiver_host, &lab.path("copy"), "127.0.0.1", &["-i", "eth0"]);
    wait_until_held(&receiver, 2 * MIB);

    dns.kill();
    let dns = dnsmasq(&receiver_host, 2, &records("second.test", &second_host));
    let (witness, changed) = (Witness::start(), Instant::now());
    let _ = wait_for_source(&receiver, "left", &first_host.address(family));
    let _ = wait_for_source(&receiver, "joined", &second_host.address(family));
    let (waited, held_up) = (changed.elapsed(), witness.end());
    let most = Duration::from_secs(5) + held_up;
    assert!(waited < most, "{waited:?} for a time to live of 2 s, held up for {held_up:?}");

    // Without any DNS at all the transfer goes on, and what is wrong is said.
    dns.kill();
    let is_refused = |event: &Value| {
        event["event"] == "notice" && event["kind"] == "dns" && text(event, "text").contains("connection refused")
    };
    let _ = receiver.wait_for("notice that the DNS is gone", is_refused);
    let receiver = receiver.wait();
    let end = receiver.completed();
    assert_same(&lab.path("copy"), &source);
    assert_eq!(sender_addresses(end), [first_host.address(family), second_host.address(family)]);
}

#[test]
fn group_on_the_command_line_is_used_in_place_of_the_domain_s() {
    let mut lab = Lab::new();
    let (server_host, receiver_host) = (lab.host(), lab.host());
    let records = [srv(10, "a.test"), txt("group=232.9.9.9"), address("a.test", &server_host, Family::V4)];
    let _dns = dnsmasq(&receiver_host, 60, &records);
    let source = make(&lab, "source", Content::Random { size: MIB, seed: 1 });
    let _server = serve(&lab, &server_host, &source, "239.77.1.9:999", &["--rate", "50M"]);
    let mut command = receiver_host.command(crate::run::Program::Receiver.path());
    command.args(["--json", "--timeout", "60s", "--dns-server", "127.0.0.1", "--srv", DOMAIN]);
    let receiver = Process::spawn(command.arg(lab.path("copy")).arg("239.77.1.9:999")).wait();
    let _ = receiver.completed();
    assert_eq!(text(receiver.first("joined"), "group"), "239.77.1.9:999");
}

/// One way in which a DNS server is of no use, and what is said of it.
struct Broken {
    answer: fn(&[u8]) -> Vec<Vec<u8>>,
    words: &'static [&'static str],
}

/// The good answers, but for questions of one type.
fn spoiled(query: &[u8], kind: u16, answer: Vec<Vec<u8>>) -> Vec<Vec<u8>> {
    match asked_type(query) {
        asked if asked == kind => answer,
        _ => vec![good_answer(query, Family::V4, Ipv4Addr::new(10, 77, 0, 9), 60)],
    }
}

const BROKEN: [Broken; 16] = [
    Broken { answer: |query| vec![reply(query, 3, &[])], words: &["NXDOMAIN"] },
    Broken { answer: |query| vec![reply(query, 0, &[])], words: &["SRV", "no such record"] },
    Broken {
        answer: |query| spoiled(query, SRV, vec![reply(query, 0, &[(OWNER, SRV, 60, srv_data(0, "."))])]),
        words: &["no such service"],
    },
    Broken { answer: |query| spoiled(query, TXT, vec![reply(query, 0, &[])]), words: &["TXT", "no such record"] },
    Broken {
        answer: |query| spoiled(query, TXT, vec![reply(query, 0, &[(OWNER, TXT, 60, txt_data("group=10.1.1.1"))])]),
        words: &["TXT", "10.1.1.1 is not a multicast group"],
    },
    Broken { answer: |query| spoiled(query, A, vec![reply(query, 0, &[])]), words: &["a.test A", "no such record"] },
    Broken {
        answer: |query| {
            let records: [Record<'_>; 2] =
                [(OWNER, CNAME, 60, wire_name("b.test")), (b"\x01b\x04test\x00", A, 60, vec![10, 77, 0, 9])];
            spoiled(query, A, vec![reply(query, 0, &records)])
        },
        words: &["a.test A", "alias (CNAME)"],
    },
    Broken {
        answer: |query| {
            let records: [Record<'_>; 2] =
                [(OWNER, CNAME, 60, wire_name("b.test")), (b"\x01b\x04test\x00", CNAME, 60, wire_name("a.test"))];
            spoiled(query, A, vec![reply(query, 0, &records)])
        },
        words: &["a.test A", "circle"],
    },
    Broken { answer: |query| vec![reply(query, 2, &[])], words: &["SERVFAIL"] },
    Broken { answer: |query| vec![reply(query, 5, &[])], words: &["REFUSED"] },
    Broken {
        answer: |query| {
            let mut lame = reply(query, 0, &[]);
            lame[3] = 0;
            vec![lame]
        },
        words: &["lame"],
    },
    Broken {
        answer: |query| {
            let mut truncated = reply(query, 0, &[]);
            truncated[2] |= 2;
            vec![truncated]
        },
        words: &["too long for UDP", "TCP", "connection refused"],
    },
    Broken { answer: |_| Vec::new(), words: &["no DNS server answers in time"] },
    Broken {
        answer: |query| {
            let good = good_answer(query, Family::V4, Ipv4Addr::new(10, 77, 0, 9), 60);
            let (mut other_id, mut other_name) = (good.clone(), good);
            other_id[0] ^= 0x55;
            other_name[14] ^= 0x01;
            vec![other_id, other_name, vec![0; 400]]
        },
        words: &["no DNS server answers in time", "fit no question"],
    },
    Broken {
        // The owner's name points at itself.
        answer: |query| {
            let here = u16::try_from(query.len()).expect("a short question") | 0xc000;
            vec![reply(query, 0, &[(&here.to_be_bytes(), SRV, 60, srv_data(0, "a.test"))])]
        },
        words: &["malformed"],
    },
    Broken {
        answer: |query| {
            let mut absurd = reply(query, 0, &[(OWNER, SRV, 60, srv_data(0, "a.test"))]);
            absurd[6..12].fill(0xff);
            vec![absurd]
        },
        words: &["malformed"],
    },
];

/// Takes as long as a receiver tries a DNS server that is silent: 12 s. All others end meanwhile.
#[test]
fn answers_that_are_of_no_use_end_in_one_line_that_says_why() {
    let mut lab = Lab::new();
    let (dns_host, receiver_host) = (lab.host(), lab.host());
    let start = |place: usize, broken: &Broken| {
        let port = 5300 + u16::try_from(place).expect("few");
        let responder = Responder::start(&dns_host, port, broken.answer);
        let mut command = receiver_host.command(crate::run::Program::Receiver.path());
        command.args(["-i", "eth0", "--dns-server", &responder.address, "--srv", DOMAIN]);
        (responder, Process::spawn(command.arg(lab.path(&format!("copy{place}")))))
    };
    let started: Vec<_> = BROKEN.iter().enumerate().map(|(place, broken)| start(place, broken)).collect();
    for (broken, (responder, receiver)) in BROKEN.iter().zip(started) {
        let ended = receiver.wait_within(LOOKUP_SECONDS_MAX);
        let last = ended.stderr.lines().last().unwrap_or_default();
        assert_eq!(ended.exit, Some(69), "{:?}: {}", broken.words, ended.stderr);
        assert!(last.starts_with("iotupc: find the sources of ") && last.contains(SERVICE), "{last}");
        for word in broken.words {
            assert!(last.contains(word), "`{word}` is not in: {last}");
        }
        // Two questions at the start, each asked twice at each of three attempts at most.
        assert!((1..=18).contains(&responder.asked()), "{:?}: {} questions", broken.words, responder.asked());
    }
}

#[test]
fn times_to_live_of_zero_and_of_2_to_the_31_are_survived_with_few_questions() {
    let mut lab = Lab::new();
    let (server_host, receiver_host) = (lab.host(), lab.host());
    let source = make(&lab, "source", Content::Random { size: 4 * MIB, seed: 1 });
    let _server = serve_ssm(&lab, &server_host, &source, Family::V4, "10M");
    let at: Ipv4Addr = server_host.address(Family::V4).parse().expect("an address");
    let start = |(place, ttl): (u16, u32)| {
        let answer = move |query: &[u8]| vec![good_answer(query, Family::V4, at, ttl)];
        let responder = Responder::start(&receiver_host, 5300 + place, answer);
        let copy: PathBuf = lab.path(&format!("copy{place}"));
        (receive_by_srv(&receiver_host, &copy, &responder.address, &["-i", "eth0"]), copy, responder)
    };
    let started: Vec<_> = (0..).zip([0, 1 << 31, u32::MAX, i32::MAX.unsigned_abs()]).map(start).collect();
    for (receiver, copy, responder) in started {
        let _ = receiver.wait().completed();
        assert_same(&copy, &source);
        assert!((3..=6).contains(&responder.asked()), "{} questions in some 4 s", responder.asked());
    }
}

#[test]
fn answer_that_is_too_long_for_a_datagram_comes_by_tcp() {
    let mut lab = Lab::new();
    let (server_host, receiver_host) = (lab.host(), lab.host());
    let source = make(&lab, "source", Content::Random { size: MIB, seed: 1 });
    let _server = serve_ssm(&lab, &server_host, &source, Family::V4, "50M");
    let at: Ipv4Addr = server_host.address(Family::V4).parse().expect("an address");
    let responder = Responder::start(&receiver_host, 53, |query| {
        let mut truncated = reply(query, 0, &[]);
        truncated[2] |= 2;
        vec![truncated]
    });
    Responder::start_stream(&receiver_host, 53, move |query| match asked_type(query) {
        // Fifty servers of which only the best is there.
        SRV => {
            let names: Vec<_> = (0..50).map(|i| format!("{}{i}.test", if i == 0 { "a" } else { "x" })).collect();
            let record =
                |(priority, name): (u16, &String)| -> Record<'_> { (OWNER, SRV, 60, srv_data(priority, name)) };
            reply(query, 0, &(0..).zip(&names).map(record).collect::<Vec<_>>())
        }
        _ => good_answer(query, Family::V4, at, 60),
    });
    let receiver = receive_by_srv(&receiver_host, &lab.path("copy"), &responder.address, &["-i", "eth0"]).wait();
    let _ = receiver.completed();
    assert_same(&lab.path("copy"), &source);
}
