//! A receiver that stands still for longer than a cycle: what its socket has kept comes all at once, more than there is room to work on.

use std::time::Duration;

use nix::sys::signal::Signal;

use crate::files::{Content, MIB, assert_same, make};
use crate::lab::{Family, Lab, whole_machine};
use crate::run::{count, receive, serve};

#[test]
fn receiver_that_stands_still_for_longer_than_a_cycle_goes_on() {
    let _alone = whole_machine();
    let mut lab = Lab::new();
    let (server_host, receiver_host) = (lab.host(), lab.host());
    lab.disable_offloads(&receiver_host);
    receiver_host.lose(50);
    let source = make(&lab, "source", Content::Random { size: 8 * MIB + 12_345, seed: 1 });
    // A cycle takes 1.1 s.
    let _server = serve(&lab, &server_host, &source, Family::V4.group(), &["--rate", "100M"]);
    for turn in 0..3 {
        let copy = lab.path(&format!("copy-{turn}"));
        let receiver = receive(&receiver_host, &copy, Family::V4.group());
        let half = |event: &serde_json::Value| event["event"] == "progress" && count(event, "held") > 3 * MIB;
        let _ = receiver.wait_for("some of it", half);
        receiver.signal(Signal::SIGSTOP);
        // Longer than the cycle: this is what is tried, and nothing is waited for.
        std::thread::sleep(Duration::from_millis(1300));
        receiver.signal(Signal::SIGCONT);
        let _ = receiver.wait().completed();
        assert_same(&copy, &source);
    }
}
