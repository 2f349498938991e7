//! What a text pins stays pinned, and time stays ahead.

use super::*;

#[test]
fn a_pin_holds_after_acceptance() {
    // Section 5.2: "If the text names `symbol_size` or `code`, a packet whose description differs is refused."
    let pinned = |members: &mut Members| members.symbol_size = SymbolSize::new(1152);
    let good = Source::with_text(content(2 * MIB, &[]), 1152, pinned);
    let bad = Source::with_text(content(2 * MIB, &[]), 1408, pinned);
    Sink::prepared(&good).drops(host(2), &bad.manifest(), DropReason::ManifestRefused);
}

#[test]
fn repair_max_holds_after_acceptance() {
    let source = Source::with_text(content(2 * MIB, &[]), 1408, |members| members.repair_max = Some(9));
    let bad = changed(source.manifest(), |bytes| bytes[44 + 13] = 10);
    Sink::prepared(&source).drops(host(2), &bad, DropReason::ManifestRefused);
}

#[test]
fn esi_beyond_repair_max_is_out_of_range() {
    let source = Source::with_text(content(2 * MIB, &[]), 1408, |members| members.repair_max = Some(0));
    let packet = changed(source.data(0, 0), |bytes| bytes[30..32].copy_from_slice(&745u16.to_be_bytes()));
    Sink::prepared(&source).drops(host(1), &packet, DropReason::OutOfRange);
}

#[test]
fn timeout_is_not_in_the_past_for_ever() {
    let source = Source::new(content(2 * MIB, &[]), 1408);
    let mut sink = Sink::prepared(&source);
    sink.run(at(31));
    sink.run(at(40));
    let due = sink.receiver.poll_timeout();
    assert!(due.is_none_or(|due| due > at(40)), "{due:?}");
}

#[test]
fn timeout_is_not_in_the_past_while_another_object_is_sent() {
    let source = Source::new(content(2 * MIB, &[]), 1408);
    let other = Source::new(content(2 * MIB, &[1]), 1408);
    let mut sink = Sink::prepared(&source);
    sink.feed(at(10), host(1), &other.data(0, 0));
    sink.run(at(31));
    let due = sink.receiver.poll_timeout();
    assert!(due.is_none_or(|due| due > at(31)), "{due:?}");
}

#[test]
fn early_data_is_counted_once() {
    let source = Source::new(content(3000, &[]), 1408);
    let mut sink = Sink::new();
    sink.feed(at(0), host(1), &source.data(0, 0));
    sink.feed(at(0), host(1), &source.manifest());
    assert_eq!(sink.receiver.counts().datagrams, 2);
}

#[test]
fn allowance_of_one_byte_is_one_and_a_half() {
    let forged = Source::new(content(1, &[]), 1152);
    let source = Source::new(content(1, &[]), 1408);
    let mut sink = Sink::prepared(&forged);
    sink.feed(at(0), host(1), &source.manifest());
    sink.take(at(0), host(1), &source.data(0, 0));
    sink.receiver.handle_timeout(at(0));
    assert_eq!(sink.receiver.poll_notice(), None);
}
