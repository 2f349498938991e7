//! `iotup doctor` on networks that are in order, and on such as are broken in one way each: it names the cause, and what it says mends it,
//! does.

use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::files::{Content, MIB, make};
use crate::lab::{Family, Host, Lab, succeed, wait_until_usable};
use crate::run::{PATIENCE, Process, Program, count, receive_until, serve, text};
use crate::wiring::wait_until;

/// Long enough for some hundred packets and for a querier's answer.
const TIME: &str = "800ms";
/// For where nothing may be amiss: a machine that stands still for a while is not to be taken for a network that is silent.
const LONG_TIME: &str = "2s";
/// Within this the switch asks after a group that somebody left.
const LAST_MEMBER_INTERVAL: Duration = Duration::from_millis(200);

/// What the doctor said.
#[derive(Debug)]
struct Diagnosis(Value);

impl Diagnosis {
    /// What it says of an overflow of the processors' queues is of the whole machine, on which other tests run: one that happened
    /// meanwhile makes it look again.
    fn of(mut command: Command, words: &[&str]) -> Self {
        command.args(["doctor", "--json"]).args(words).stdin(Stdio::null());
        let started = Instant::now();
        loop {
            let before = backlog_drops();
            let diagnosis = Self::take(&mut command);
            let is_of_queues = |finding: &Value| text(finding, "finding").contains("processors' queues had no room");
            if !diagnosis.findings().iter().any(is_of_queues) || backlog_drops() == before {
                return diagnosis;
            }
            assert!(started.elapsed() < PATIENCE, "the processors' queues overflow all the time: {:#}", diagnosis.0);
        }
    }

    fn take(command: &mut Command) -> Self {
        let output = command.output().expect("run iotup");
        let said = String::from_utf8_lossy(&output.stdout);
        assert_eq!(said.lines().count(), 1, "one object: {said}{}", String::from_utf8_lossy(&output.stderr));
        let object: Value = serde_json::from_str(&said).expect("JSON");
        assert_eq!(object["exit"].as_i64(), output.status.code().map(i64::from), "{object}");
        Self(object)
    }

    /// Of receiving on this host.
    fn on(host: &Host, words: &[&str]) -> Self {
        Self::on_for(TIME, host, words)
    }

    fn on_for(time: &str, host: &Host, words: &[&str]) -> Self {
        Self::of(host.command(Program::Tool.path()), &[&["--seconds", time], words].concat())
    }

    fn status(&self) -> &str {
        text(&self.0, "status")
    }

    fn findings(&self) -> &Vec<Value> {
        self.0["findings"].as_array().expect("findings")
    }

    /// The finding of this check that is as bad.
    fn finding(&self, check: &str, status: &str) -> &Value {
        let is_it = |finding: &&Value| finding["check"] == check && finding["status"] == status;
        self.findings().iter().find(is_it).unwrap_or_else(|| panic!("no {status} of {check} in {:#}", self.0))
    }

    fn remedy(&self, check: &str, status: &str) -> &str {
        text(self.finding(check, status), "remedy")
    }

    /// Nothing is wrong, and every check was made.
    fn is_all_ok(&self) {
        assert!(self.findings().iter().all(|finding| finding["status"] == "OK"), "{:#}", self.0);
        assert_eq!((self.status(), self.0["exit"].as_u64()), ("OK", Some(0)));
    }
}

/// Packets for which the processors of this machine had no room in their queues: the second column of a line for each.
pub(crate) fn backlog_drops() -> u64 {
    let table = std::fs::read_to_string("/proc/net/softnet_stat").expect("read the processors' counters");
    let of_one = |line: &str| line.split(' ').nth(1).and_then(|count| u64::from_str_radix(count, 16).ok());
    table.lines().map(|line| of_one(line).expect("a counter")).sum()
}

/// Gives a command in the host's namespace, as somebody would who reads it.
fn shell(host: &Host, command: &str) {
    succeed(Command::new("ip").args(["netns", "exec", &host.netns, "sh", "-c", command]));
}

/// A server of both families and a receiver on a switch that snoops, with a querier.
struct Ward {
    lab: Lab,
    server_host: Host,
    host: Host,
    _servers: Vec<Process>,
}

impl Ward {
    fn new() -> Self {
        let mut lab = Lab::new();
        let (server_host, host) = (lab.host(), lab.host());
        lab.snoop(LAST_MEMBER_INTERVAL);
        let source = make(&lab, "source", Content::Random { size: MIB, seed: 1 });
        let groups = Family::BOTH.into_iter().flat_map(|family| [family.group(), family.ssm_group()]);
        let start = |group| serve(&lab, &server_host, &source, group, &["--rate", "5M"]);
        let servers: Vec<_> = groups.map(start).collect();
        servers.iter().for_each(|server| drop(server.wait_for_event("sending")));
        Self { lab, server_host, host, _servers: servers }
    }
}

#[test]
fn healthy_host_is_ok() {
    let ward = Ward::new();
    for family in Family::BOTH {
        let source = ward.server_host.address(family);
        let of_one = [family.ssm_group(), "--source", &source];
        for words in [&[family.group()][..], &of_one] {
            let diagnosis = Diagnosis::on_for(LONG_TIME, &ward.host, words);
            diagnosis.is_all_ok();
            let checks = diagnosis.findings().len();
            assert!(checks >= 13, "all checks were made: {:#}", diagnosis.0);
        }
        let sending = Diagnosis::of(
            ward.server_host.command(Program::Tool.path()),
            &["--send", "--rate", "100M", family.group()],
        );
        sending.is_all_ok();
        assert!(sending.findings().len() >= 9, "all checks were made: {:#}", sending.0);
    }
}

/// One way to break a host that listens to a group, the check that finds it, and the remedy that is to mend it.
struct Fault {
    group: &'static str,
    options: &'static [&'static str],
    breaks: &'static str,
    check: &'static str,
    remedy: &'static str,
}

const FAULTS: [Fault; 8] = [
    Fault {
        group: "239.77.1.1",
        options: &["-i", "eth0"],
        breaks: "ip link set eth0 down",
        check: "link",
        remedy: "ip link set eth0 up",
    },
    Fault {
        group: "239.77.1.1",
        options: &[],
        breaks: "ip link set eth0 down",
        check: "interface",
        remedy: "ip link set eth0 up",
    },
    Fault {
        group: "239.77.1.1",
        options: &[],
        breaks: "nft 'add table inet wall; add chain inet wall in { type filter hook input priority 0 ; policy drop ; }'",
        check: "firewall",
        remedy: "nft insert rule inet wall in ip daddr 239.77.1.1 udp dport 4242 accept",
    },
    Fault {
        group: "ff12::77",
        options: &[],
        breaks: "nft 'add table ip6 wall; add chain ip6 wall in { type filter hook prerouting priority 0 ; }; \
                 add rule ip6 wall in udp dport 4242 drop'",
        check: "firewall",
        remedy: "nft insert rule ip6 wall in ip6 daddr ff12::77 udp dport 4242 accept",
    },
    Fault {
        group: "239.77.1.1",
        options: &[],
        breaks: "nft 'add table ip wall; add chain ip wall out { type filter hook output priority 0 ; }; \
                 add rule ip wall out ip protocol igmp drop'",
        check: "report",
        remedy: "nft insert rule ip wall out ip protocol igmp accept",
    },
    Fault {
        group: "232.77.1.1",
        options: &["--source", "10.77.0.1"],
        breaks: "sysctl -w net.ipv4.conf.eth0.force_igmp_version=2",
        check: "membership",
        remedy: "sysctl -w net.ipv4.conf.all.force_igmp_version=0 net.ipv4.conf.eth0.force_igmp_version=0",
    },
    Fault {
        group: "ff12::77",
        options: &[],
        breaks: "sysctl -w net.ipv6.conf.eth0.disable_ipv6=1",
        check: "address",
        remedy: "sysctl -w net.ipv6.conf.eth0.disable_ipv6=0",
    },
    Fault {
        group: "ff12::77",
        options: &[],
        breaks: "ip -6 route delete multicast ff00::/8 dev eth0 table local",
        check: "route",
        remedy: "ip -6 route add multicast ff00::/8 dev eth0 table local",
    },
];

#[test]
fn faults_of_a_host_are_named_and_mended_by_what_is_said() {
    let ward = Ward::new();
    for Fault { group, options, breaks, check, remedy } in FAULTS {
        shell(&ward.host, breaks);
        let words = [options, &[group]].concat();
        let broken = Diagnosis::on(&ward.host, &words);
        assert_eq!(broken.remedy(check, "FAIL"), remedy, "{breaks}: {:#}", broken.0);
        assert_eq!((broken.status(), broken.0["exit"].as_u64()), ("FAIL", Some(69)), "{breaks}");
        shell(&ward.host, broken.remedy(check, "FAIL"));
        wait_until_usable(&ward.host.netns, "eth0");
        let mended = Diagnosis::on_for(LONG_TIME, &ward.host, &words);
        assert_eq!(mended.status(), "OK", "{breaks}: {:#}", mended.0);
        shell(&ward.host, "nft flush ruleset");
    }
}

#[test]
fn packets_on_another_interface_are_found_with_and_without_privileges() {
    let ward = Ward::new();
    ward.lab.add_second_interface(&ward.host);
    let group = Family::V4.group();
    let remedy = "iotupc -i eth0 FILE 239.77.1.1:4242";
    for words in [&["-i", "eth1", group][..], &[group]] {
        let diagnosis = Diagnosis::on(&ward.host, words);
        assert_eq!(diagnosis.remedy("interface", "FAIL"), remedy, "{words:?}");
        assert_eq!(diagnosis.remedy("packets", "FAIL"), remedy, "{words:?}");
        let unprivileged = as_nobody(&ward, words);
        assert_eq!(unprivileged.remedy("interface", "FAIL"), remedy, "{words:?}");
    }
    assert_eq!(Diagnosis::on(&ward.host, &["-i", "eth0", group]).status(), "OK");
}

/// The diagnosis that somebody gets who may do nothing special.
fn as_nobody(ward: &Ward, words: &[&str]) -> Diagnosis {
    let copy = ward.lab.path("iotup");
    if !copy.exists() {
        // Not by this program: what it starts meanwhile in other threads would hold the copy open for writing for a moment.
        succeed(Command::new("cp").arg(Program::Tool.path()).arg(&copy));
    }
    Diagnosis::of(ward.host.command_as_nobody(copy), &[&["--seconds", TIME], words].concat())
}

#[test]
fn what_takes_a_privilege_is_said_and_the_rest_is_found_without() {
    let ward = Ward::new();
    let group = Family::V4.group();
    let healthy = as_nobody(&ward, &[group]);
    assert_eq!(healthy.status(), "OK", "{:#}", healthy.0);
    for check in ["report", "querier"] {
        let finding = healthy.finding(check, "SKIP");
        assert!(text(finding, "finding").contains("CAP_NET_RAW"), "{finding}");
        assert_eq!(text(finding, "remedy"), "sudo iotup doctor -i eth0 239.77.1.1:4242");
    }
    // No test may change net.core.rmem_max, which is that of the whole machine.
    let fast = as_nobody(&ward, &["--rate", "1T", group]);
    assert_eq!(fast.remedy("buffer", "FAIL"), "sysctl -w net.core.rmem_max=67108864");
    shell(
        &ward.host,
        "nft 'add table inet wall; add chain inet wall in { type filter hook input priority 0 ; policy drop ; }'",
    );
    let walled = as_nobody(&ward, &[group]);
    assert!(text(walled.finding("firewall", "WARN"), "finding").contains("none of them to the socket"));
    assert_eq!(walled.remedy("firewall", "WARN"), "sudo iotup doctor -i eth0 239.77.1.1:4242");
    assert_eq!(walled.remedy("packets", "FAIL"), walled.remedy("firewall", "WARN"));
}

#[test]
fn way_back_that_rp_filter_does_not_like_is_found_and_mended() {
    let ward = Ward::new();
    let (host, server_host) = (&ward.host, &ward.server_host);
    ward.lab.add_second_interface(host);
    let far = "10.99.0.1";
    server_host.ip(&["address", "add", &format!("{far}/32"), "dev", "eth0"]);
    let source = make(&ward.lab, "far", Content::Random { size: MIB, seed: 2 });
    let group = "239.77.1.9";
    let _server = serve(&ward.lab, server_host, &source, group, &["--rate", "5M", "--bind-addr", far]);
    let words = ["-i", "eth0", group];
    assert_eq!(Diagnosis::on(host, &words).status(), "OK");

    host.write("/proc/sys/net/ipv4/conf/eth0/rp_filter", "1");
    let routeless = Diagnosis::on(host, &words);
    assert_eq!(routeless.remedy("source", "FAIL"), "ip route add 10.99.0.1/32 dev eth0");
    let unprivileged = as_nobody(&ward, &words);
    let look = "sudo iotup doctor -i eth0 239.77.1.9:4242";
    assert_eq!(unprivileged.remedy("source", "WARN"), look, "{:#}", unprivileged.0);

    shell(host, "ip route add default via 10.77.2.77 dev eth1");
    let elsewhere = Diagnosis::on(host, &words);
    assert_eq!(elsewhere.remedy("source", "FAIL"), "sysctl -w net.ipv4.conf.eth0.rp_filter=2");
    shell(host, elsewhere.remedy("source", "FAIL"));
    assert_eq!(Diagnosis::on(host, &words).status(), "OK");
}

#[test]
fn source_that_does_not_send_is_told_from_one_that_does() {
    let ward = Ward::new();
    for family in Family::BOTH {
        let false_source = ward.host.address(family);
        let diagnosis = Diagnosis::on(&ward.host, &[family.ssm_group(), "--source", &false_source]);
        let remedy = diagnosis.remedy("source", "FAIL");
        let true_source = format!("--source {}", ward.server_host.address(family));
        assert!(remedy.ends_with(&true_source), "{remedy}");
    }
}

#[test]
fn switch_that_snoops_without_a_querier_is_found_from_the_host_and_mended_on_the_switch() {
    let ward = Ward::new();
    let bridge = &ward.lab.switch;
    bridge.ip(&["address", "add", "10.77.0.200/24", "dev", "br0"]);
    bridge.ip(&["link", "set", "br0", "type", "bridge", "mcast_querier", "0"]);
    for family in Family::BOTH {
        let diagnosis = Diagnosis::on(&ward.host, &[family.group()]);
        let finding = diagnosis.finding("querier", "WARN");
        assert_eq!(text(finding, "remedy_on"), "switch");
        assert_eq!(diagnosis.0["exit"], 0, "packets still come: {:#}", diagnosis.0);
    }
    let here = Diagnosis::on(bridge, &["-i", "br0", Family::V4.group()]);
    let remedy = "ip link set br0 type bridge mcast_querier 1";
    assert_eq!(here.remedy("querier", "WARN"), remedy);
    shell(bridge, remedy);
    assert_eq!(Diagnosis::on(bridge, &["-i", "br0", Family::V4.group()]).status(), "OK");
    assert_eq!(Diagnosis::on(&ward.host, &[Family::V4.group()]).status(), "OK");
}

#[test]
fn cable_that_is_pulled_is_found() {
    let ward = Ward::new();
    ward.lab.set_port(&ward.host, "down");
    wait_until("the carrier has gone", || ward.host.ip_says(&["link", "show", "eth0"]).contains("NO-CARRIER"));
    let diagnosis = Diagnosis::on(&ward.host, &["-i", "eth0", Family::V4.group()]);
    let finding = diagnosis.finding("link", "FAIL");
    assert!(text(finding, "finding").contains("no carrier"), "{finding}");
}

#[test]
fn packets_longer_than_the_receivers_mtu_are_found_and_mended() {
    let mut lab = Lab::new();
    let (server_host, host) = (lab.host(), lab.host());
    for host in [&server_host, &host] {
        lab.disable_offloads(host);
        lab.set_port_mtu(host, 9000);
    }
    lab.set_mtu(&server_host, 9000);
    let source = make(&lab, "source", Content::Random { size: MIB, seed: 1 });
    for family in Family::BOTH {
        let _server = serve(&lab, &server_host, &source, family.group(), &["--rate", "20M", "--mtu", "9000"]);
        let diagnosis = Diagnosis::on(&host, &[family.group()]);
        let remedy = diagnosis.remedy("mtu", "FAIL");
        assert_eq!(remedy, "ip link set eth0 mtu 9000");
        shell(&host, remedy);
        let mended = Diagnosis::on(&host, &[family.group()]);
        assert_eq!(text(mended.finding("mtu", "OK"), "check"), "mtu");
        assert!(text(mended.finding("packets", "OK"), "finding").contains("packets came"));
        lab.set_mtu(&host, 1500);
    }
}

/// The server sends with the hop limit that it has unless it is told: its packets end at the first router.
#[test]
fn hop_limit_that_ends_at_a_router_is_found() {
    for family in Family::BOTH {
        let mut lab = Lab::new();
        let (server_host, router) = (lab.host(), lab.host());
        lab.add_second_interface(&router);
        lab.disable_offloads(&server_host);
        let host = lab.host_behind(&router);
        let _router = lab.route(&router, family, &server_host);
        let source = make(&lab, "source", Content::Random { size: MIB, seed: 1 });
        let serve = |options: &[&str]| {
            let options = [&["--rate", "5M"], options].concat();
            serve(&lab, &server_host, &source, family.ssm_group(), &options)
        };
        let near = serve(&[]);
        let _ = near.wait_for_event("sending");
        let words = [family.ssm_group(), "--source", &server_host.address(family)];
        let diagnosis = Diagnosis::on(&host, &words);
        let remedy = diagnosis.remedy("hops", "WARN");
        assert!(remedy.starts_with("iotupd --hops "), "{remedy}");
        assert_eq!(diagnosis.remedy("packets", "FAIL"), remedy, "{:#}", diagnosis.0);
        // Where they still are, it can be seen that they go no further.
        let at_router = Diagnosis::on(&router, &[&["-i", "eth0"], &words[..]].concat());
        assert!(text(at_router.finding("hops", "OK"), "finding").contains("no router passes them on"));
        let _ = near.terminate();

        let _far = serve(&["--hops", "3"]);
        let mended = Diagnosis::on(&host, &words);
        assert_eq!(mended.0["exit"], 0, "{:#}", mended.0);
        let hops = mended.finding("hops", "OK");
        assert!(text(hops, "finding").contains(" of 2:"), "one router was passed: {hops}");
    }
}

#[test]
fn faults_of_a_server_are_named_and_mended() {
    let mut lab = Lab::new();
    let host = lab.host();
    let walls =
        "nft 'add table inet wall; add chain inet wall out { type filter hook output priority 0 ; policy drop ; }'";
    let lets = "nft insert rule inet wall out ip daddr 239.77.1.1 udp dport 4242 accept";
    let unroutes = "ip -6 route delete multicast ff00::/8 dev eth0 table local";
    let routes = "ip -6 route add multicast ff00::/8 dev eth0 table local";
    let sending = |words: &[&str]| Diagnosis::of(host.command(Program::Tool.path()), &[&["--send"], words].concat());
    for (words, breaks, check, remedy) in [
        (&["239.77.1.1"][..], walls, "firewall", lets),
        (&["ff12::77"], unroutes, "route", routes),
        (&["239.77.1.1", "-i", "eth0"], "ip link set eth0 down", "link", "ip link set eth0 up"),
        (&["239.77.1.1", "--mtu", "9000"], "true", "mtu", "ip link set eth0 mtu 9000"),
    ] {
        shell(&host, breaks);
        let broken = sending(words);
        assert_eq!(broken.remedy(check, "FAIL"), remedy, "{:#}", broken.0);
        shell(&host, remedy);
        assert!(sending(words).findings().iter().all(|finding| finding["status"] != "FAIL"), "{breaks}");
        shell(&host, "nft flush ruleset");
    }
}

/// What the doctor sends to try the firewall must not reach receivers, and not even the network.
#[test]
fn nothing_of_what_a_server_would_send_leaves_the_host() {
    let mut lab = Lab::new();
    let host = lab.host();
    lab.disable_offloads(&host);
    let sent = lab.count_departures(&host);
    for family in Family::BOTH {
        for group in [family.group(), family.ssm_group()] {
            Diagnosis::of(host.command(Program::Tool.path()), &["--send", "--rate", "100M", group]).is_all_ok();
        }
    }
    let source = make(&lab, "source", Content::Random { size: 1000, seed: 1 });
    let server = serve(&lab, &host, &source, Family::V4.group(), &["--rate", "1M", "--cycles", "1"]).wait();
    // What the server sent, and nothing before it.
    let packet_count =
        ["data", "outside", "manifest", "hashes"].map(|kind| count(server.end(), kind)).iter().sum::<u64>();
    assert!(packet_count > 0);
    wait_until("the server's packets are counted", || sent.packets() >= packet_count);
    assert_eq!(sent.packets(), packet_count);
}

#[test]
fn silence_of_a_server_and_packets_for_another_port_are_told_apart() {
    let ward = Ward::new();
    let silent = Diagnosis::on(&ward.host, &["239.77.1.1:5000"]);
    assert_eq!(silent.remedy("packets", "FAIL"), "iotupc -i eth0 FILE 239.77.1.1:4242");
    let mut lab = Lab::new();
    let host = lab.host();
    let silent = Diagnosis::on(&host, &[Family::V4.group()]);
    let finding = silent.finding("packets", "FAIL");
    assert!(text(finding, "finding").contains("does iotupd run"), "{finding}");
    assert_eq!(text(finding, "remedy_on"), "server");
}

#[test]
fn manifest_that_has_expired_is_found_whether_heard_or_named() {
    let mut lab = Lab::new();
    let (server_host, host) = (lab.host(), lab.host());
    let source = make(&lab, "source", Content::Random { size: 1000, seed: 1 });
    let mut command = Command::new(Program::Tool.path());
    command.arg("manifest").args(["--created", "1000", "--expires", "2026-01-01"]).arg(&source);
    let manifest = lab.path("source.manifest");
    std::fs::write(&manifest, command.output().expect("run iotup").stdout).expect("write the manifest");
    let path = manifest.to_str().expect("the paths of tests are UTF-8");
    let named =
        Diagnosis::of(server_host.command(Program::Tool.path()), &["--send", "--manifest", path, Family::V4.group()]);
    assert!(text(named.finding("clock", "FAIL"), "finding").contains("expired"));
    let _server = serve(&lab, &server_host, &source, Family::V4.group(), &["--rate", "5M"]);
    let heard = Diagnosis::on(&host, &[Family::V4.group()]);
    assert!(heard.remedy("clock", "FAIL").contains("iotup manifest --expires"));
}

#[test]
fn people_get_a_line_for_each_check_and_one_for_what_mends_it() {
    let mut lab = Lab::new();
    let host = lab.host();
    host.ip(&["link", "set", "eth0", "down"]);
    let output =
        host.command(Program::Tool.path()).args(["doctor", "--seconds", "100ms", "-i", "eth0", "239.77.1.1"]).output();
    let output = output.expect("run iotup");
    let said = String::from_utf8_lossy(&output.stdout);
    assert_eq!(output.status.code(), Some(69), "{said}");
    let mut lines = said.lines().skip_while(|line| !line.starts_with("FAIL  link "));
    assert_eq!(lines.next(), Some("FAIL  link        eth0 is down"), "{said}");
    assert_eq!(lines.next().map(str::trim), Some("=> ip link set eth0 up"), "{said}");
    assert!(said.ends_with("2 FAIL, 0 WARN\n"), "{said}");
}

/// Takes the 5 s after which a receiver says that it hears nothing, for all hosts at the same time.
#[test]
fn receiver_that_hears_nothing_names_the_cause() {
    let mut ward = Ward::new();
    let (filtered, idle) = (ward.lab.host(), ward.lab.host());
    let group = Family::V4.group();
    let walls =
        "nft 'add table inet wall; add chain inet wall in { type filter hook input priority 0 ; policy drop ; }'";
    shell(&ward.host, walls);
    filtered.write("/proc/sys/net/ipv4/conf/eth0/rp_filter", "1");
    shell(&filtered, "ip address flush dev eth0 && ip address add 10.5.0.1/24 dev eth0");
    let start = |host: &Host, group| receive_until(host, &ward.lab.path(&host.netns), group, &["--timeout", "60s"]);
    let receivers = [start(&ward.host, group), start(&filtered, group), start(&idle, "239.77.9.9")];
    let people = {
        let mut command = ward.host.command(Program::Receiver.path());
        Process::spawn(command.args(["-i", "eth0", "--discard", "--timeout", "60s", group]))
    };
    let notices = receivers.map(|receiver| {
        let is_it = |event: &Value| event["event"] == "notice" && event["kind"] == "silent";
        receiver.wait_for("notice of silence", is_it)
    });
    let causes = |place: usize| notices[place]["causes"].as_array().expect("causes");
    let first = |place: usize| &causes(place)[0];
    assert_eq!(first(0)["check"], "firewall", "{}", notices[0]);
    assert_eq!(text(first(0), "remedy"), "sudo iotup doctor -i eth0 239.77.1.1:4242", "{}", notices[0]);
    assert_eq!(first(1)["check"], "source", "{}", notices[1]);
    assert!(text(first(1), "finding").contains("rp_filter"), "{}", notices[1]);
    assert!(causes(2).is_empty() && text(&notices[2], "text").contains("is iotupd running"), "{}", notices[2]);
    for notice in &notices {
        let said = text(notice, "text");
        assert!(said.contains("5 s") && said.contains("iotup doctor") && said.lines().count() <= 4, "{said}");
    }
    people.wait_for_words("(sudo iotup doctor -i eth0 239.77.1.1:4242 looks closer)");
}
