//! Lossy links: packets dropped one by one, at random, in front of the receiver.

use crate::files::{Content, MIB, assert_same, make};
use crate::lab::{Family, Lab, whole_machine};
use crate::run::{count, figure, number, receive, senders, serve};

/// Bytes of a symbol on a link with an MTU of 1500.
pub(crate) const SYMBOL_SIZE: u64 = 1408;

/// Symbols that an object of so many bytes has without repair symbols.
pub(crate) fn source_symbol_count(size: u64) -> u64 {
    let last = size % MIB;
    size / MIB * MIB.div_ceil(SYMBOL_SIZE) + last.div_ceil(SYMBOL_SIZE)
}

#[test]
fn transfer_over_ipv4_survives_loss_of_1_percent() {
    lossy_transfer(Family::V4, 10, 0.004);
}

#[test]
fn transfer_over_ipv6_survives_loss_of_1_percent() {
    lossy_transfer(Family::V6, 10, 0.004);
}

#[test]
fn transfer_over_ipv4_survives_loss_of_20_percent() {
    lossy_transfer(Family::V4, 200, 0.015);
}

#[test]
fn transfer_over_ipv6_survives_loss_of_20_percent() {
    lossy_transfer(Family::V6, 200, 0.015);
}

/// Completes in spite of the loss, and reports it to within `tolerance`, more than three standard deviations.
fn lossy_transfer(family: Family, per_mille: u32, tolerance: f64) {
    let _alone = whole_machine();
    let mut lab = Lab::new();
    let (server_host, receiver_host) = (lab.host(), lab.host());
    lab.disable_offloads(&server_host);
    lab.disable_offloads(&receiver_host);
    receiver_host.lose(per_mille);
    let source = make(&lab, "source", Content::Random { size: 16 * MIB, seed: 1 });
    let server = serve(&lab, &server_host, &source, family.group(), &["--rate", "150M"]);
    let receiver = receive(&receiver_host, &lab.path("copy"), family.group()).wait();
    let end = receiver.completed();
    assert_same(&lab.path("copy"), &source);
    assert_eq!(count(&end["counts"], "blocks_failed"), 0, "loss damages nothing");

    let [sender] = senders(end).as_slice() else { panic!("one sender, not {:?}", senders(end)) };
    let (received, lost) = (count(sender, "received") as f64, count(sender, "lost") as f64);
    let (reported, real) = (lost / (lost + received), f64::from(per_mille) / 1000.0);
    let server = server.terminate();
    // A round of the server holds repair symbols too; what a receiver needs is measured in the symbols of the file.
    let round = count(server.first("sending"), "round_length") as f64 / source_symbol_count(16 * MIB) as f64;
    let rounds = number(end, "transfer_seconds") / number(server.end(), "seconds") * number(server.end(), "passes");
    let passes = rounds * round;
    figure(&format!("loss of {real}, {family:?}"), &format!("{reported:.4} reported, {passes:.2} passes"), "-");
    assert!((reported - real).abs() <= tolerance, "{reported} reported instead of {real}");
}
