//! Interfaces that are named in three ways, are of no use, or come and go while a file is being received.

use std::path::PathBuf;

use crate::files::{Content, MIB, assert_same, make};
use crate::lab::{Family, Host, Lab};
use crate::run::{Process, Program, count, receive, receive_until, run_to_end, serve, text};
use crate::wiring::Counter;

/// A server and a receiver of 8 MiB at a rate that takes some seconds, of which one has come.
struct Transfer {
    lab: Lab,
    receiver_host: Host,
    source: PathBuf,
    receiver: Process,
    _server: Process,
}

impl Transfer {
    fn start(family: Family, options: &[&str]) -> Self {
        let mut lab = Lab::new();
        let (server_host, receiver_host) = (lab.host(), lab.host());
        let source = make(&lab, "source", Content::Random { size: 8 * MIB, seed: 1 });
        let server = serve(&lab, &server_host, &source, family.ssm_group(), &["--rate", "12M"]);
        let from = server_host.address(family);
        let options = [&["--timeout", "60s", "--source", &from], options].concat();
        let receiver = receive_until(&receiver_host, &lab.path("copy"), family.ssm_group(), &options);
        let _ = receiver.wait_for("progress", |event| event["event"] == "progress" && count(event, "held") > MIB);
        Self { lab, receiver_host, source, receiver, _server: server }
    }

    /// Waits until the receiver has said this of the interface.
    fn wait_for_notice(&self, words: &str) {
        let is_it = |event: &serde_json::Value| {
            event["event"] == "notice" && event["kind"] == "interface" && text(event, "text").contains(words)
        };
        let _ = self.receiver.wait_for(words, is_it);
    }

    /// Waits until the receiver has told the switch of its group: now, and not when it ends.
    fn wait_for_report(&self, reports: &Counter) {
        reports.wait_for(1);
        assert!(self.receiver.events("end").is_empty(), "it leaves, but has not joined again");
    }

    fn completes(self) {
        let ended = self.receiver.wait();
        let _ = ended.completed();
        assert_same(&self.lab.path("copy"), &self.source);
    }
}

#[test]
fn interface_that_is_pulled_out_and_put_in_again_is_joined_again() {
    for family in Family::BOTH {
        let transfer = Transfer::start(family, &[]);
        transfer.lab.unplug(&transfer.receiver_host);
        transfer.wait_for_notice("eth0 is gone");
        transfer.lab.plug(&transfer.receiver_host);
        transfer.wait_for_notice("joining again");
        transfer.completes();
    }
}

#[test]
fn interface_that_goes_down_and_comes_back_is_joined_again() {
    for family in Family::BOTH {
        let transfer = Transfer::start(family, &[]);
        transfer.receiver_host.ip(&["link", "set", "eth0", "down"]);
        transfer.wait_for_notice("eth0 is down");
        transfer.receiver_host.ip(&["link", "set", "eth0", "up"]);
        transfer.wait_for_notice("eth0 is back");
        transfer.completes();
    }
}

/// A switch forgets who has joined when the cable is pulled, and the kernel says nothing of its own accord when it is back.
#[test]
fn carrier_that_returns_is_reason_enough_to_tell_the_switch_again() {
    let transfer = Transfer::start(Family::V4, &[]);
    transfer.lab.set_port(&transfer.receiver_host, "down");
    transfer.wait_for_notice("has lost its carrier");
    let reports = transfer.lab.count_reports(&transfer.receiver_host);
    transfer.lab.set_port(&transfer.receiver_host, "up");
    transfer.wait_for_notice("has a carrier again");
    transfer.wait_for_report(&reports);
    transfer.completes();
}

#[test]
fn addresses_that_change_are_followed() {
    for (family, new, prefix) in [(Family::V4, "10.77.0.250", 24), (Family::V6, "fd77::250", 64)] {
        let transfer = Transfer::start(family, &[]);
        let host = &transfer.receiver_host;
        let reports = transfer.lab.count_reports(host);
        host.ip(&["address", "delete", &format!("{}/{prefix}", host.address(family)), "dev", "eth0"]);
        host.ip(&["address", "add", &format!("{new}/{prefix}"), "dev", "eth0"]);
        match family {
            Family::V4 => {
                transfer.wait_for_notice("eth0 has other IPv4 addresses");
                transfer.wait_for_report(&reports);
            }
            Family::V6 => transfer.wait_for_notice("eth0 has other IPv6 addresses"),
        }
        transfer.completes();
    }
}

#[test]
fn interface_that_is_renamed_is_followed() {
    let transfer = Transfer::start(Family::V4, &[]);
    transfer.receiver_host.ip(&["link", "set", "eth0", "name", "lan0"]);
    transfer.receiver_host.ip(&["link", "set", "lan0", "down"]);
    transfer.wait_for_notice("is down");
    transfer.receiver_host.ip(&["link", "set", "lan0", "up"]);
    transfer.wait_for_notice("lan0 is back");
    transfer.completes();
}

#[test]
fn interface_that_is_not_there_yet_is_waited_for_if_asked() {
    let mut lab = Lab::new();
    let (server_host, receiver_host) = (lab.host(), lab.lonely_host());
    let source = make(&lab, "source", Content::Random { size: MIB, seed: 1 });
    let _server = serve(&lab, &server_host, &source, Family::V6.group(), &["--rate", "20M"]);
    let options = ["--timeout", "60s", "--wait-for-interface"];
    let receiver = receive_until(&receiver_host, &lab.path("copy"), Family::V6.group(), &options);
    let warning = receiver.wait_for("warning", |event| event["event"] == "notice" && event["kind"] == "warning");
    assert!(text(&warning, "text").contains("waiting"), "{warning}");
    lab.plug(&receiver_host);
    let _ = receiver.wait().completed();
    assert_same(&lab.path("copy"), &source);
}

#[test]
fn receiver_takes_its_interface_by_name_number_or_address_and_names_it() {
    let mut lab = Lab::new();
    let (server_host, receiver_host) = (lab.host(), lab.host());
    lab.add_second_interface(&receiver_host);
    let source = make(&lab, "source", Content::Random { size: 1000, seed: 1 });
    let _server = serve(&lab, &server_host, &source, Family::V4.group(), &["--rate", "20M"]);
    let index = receiver_host.ip_says(&["-o", "link", "show", "eth0"]);
    let index = index.split(':').next().expect("a number comes first").to_owned();
    let named = ["eth0".to_owned(), index, receiver_host.address(Family::V4), receiver_host.address(Family::V6)];
    for (place, interface) in named.iter().enumerate() {
        let mut command = receiver_host.command(Program::Receiver.path());
        command.args(["--json", "--timeout", "60s", "-i", interface]).arg(lab.path(&format!("copy{place}")));
        let ended = Process::spawn(command.arg(Family::V4.group())).wait();
        let _ = ended.completed();
        assert_eq!(text(ended.first("listening"), "interface"), "eth0", "{interface}");
    }
}

#[test]
fn interface_that_is_of_no_use_is_refused_or_warned_of() {
    let mut lab = Lab::new();
    let host = lab.host();
    let warnings = || {
        let ended = receive_until(&host, &lab.path("copy"), Family::V4.group(), &["--timeout", "1ms"]).wait();
        ended.notices("warning").iter().map(|notice| text(notice, "text").to_owned()).collect::<Vec<_>>().join("\n")
    };
    let before = warnings();
    assert!(!before.contains("eth0"), "{before}");
    host.ip(&["link", "set", "eth0", "multicast", "off"]);
    assert!(warnings().contains("eth0 is not meant for multicast"), "{}", warnings());
    host.ip(&["link", "set", "eth0", "multicast", "on"]);
    host.ip(&["-4", "address", "flush", "dev", "eth0"]);
    assert!(warnings().contains("eth0 has no IPv4 address"), "{}", warnings());
    host.ip(&["link", "set", "eth0", "down"]);
    let mut command = host.command(Program::Receiver.path());
    let said = run_to_end(command.args(["-i", "eth0"]).arg(lab.path("copy")).arg(Family::V4.group()));
    assert_eq!(said.exit, Some(69), "{}", said.stderr);
    assert!(said.stderr.contains("eth0: it is down") && said.stderr.contains("ip link set eth0 up"), "{}", said.stderr);
}

#[test]
fn receiver_of_any_source_is_joined_again_too() {
    let mut lab = Lab::new();
    let (server_host, receiver_host) = (lab.host(), lab.host());
    let source = make(&lab, "source", Content::Random { size: 8 * MIB, seed: 1 });
    let _server = serve(&lab, &server_host, &source, Family::V6.group(), &["--rate", "15M"]);
    let receiver = receive(&receiver_host, &lab.path("copy"), Family::V6.group());
    let _ = receiver.wait_for_event("manifest");
    lab.unplug(&receiver_host);
    let _ = receiver.wait_for("loss of the interface", |event| event["kind"] == "interface");
    lab.plug(&receiver_host);
    let _ = receiver.wait().completed();
    assert_same(&lab.path("copy"), &source);
}
