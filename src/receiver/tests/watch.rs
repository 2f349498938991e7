//! A receiver that only waits for news (docs/PROTOCOL.md, section 8.1).

use super::signed::{after, false_signature, millis, source, trust};
use super::*;
use crate::limits::CHOICE_TIME;
use crate::manifest::signer::FIRST;

fn watcher(version_min: u64) -> Sink {
    let trust = Trust { version_min, ..trust(&[&FIRST]) };
    Sink::of(Receiver::watching(Time::default(), NO_LIMITS, trust))
}

/// The version that it would receive now.
fn found(sink: &mut Sink) -> Option<u64> {
    sink.receiver.handle_timeout(after(CHOICE_TIME));
    match sink.receiver.poll_action() {
        Some(Action::Prepare { manifest, .. }) => Some(manifest.version),
        _ => None,
    }
}

#[test]
fn newest_version_that_fits_is_found() {
    let mut sink = watcher(2);
    for version in [1, 2, 3, 2, 1] {
        let datagram = source(version).announcement;
        let verdict = sink.receiver.handle_datagram(at(0), host(1), &datagram);
        assert!(verdict == Verdict::Taken || version == 1, "{version}: {verdict:?}");
        sink.receiver.handle_timeout(at(0));
    }
    assert_eq!(found(&mut sink), Some(3));
}

#[test]
fn nothing_is_found_where_nothing_is_new_and_nothing_is_kept() {
    let (old, new) = (source(1), source(2));
    let mut sink = watcher(2);
    let other = (0..50).map(|number| false_signature(&new, number));
    let datagrams = [old.announcement.clone(), old.manifest(), new.data(0, 0), new.hashes()];
    for (number, datagram) in datagrams.into_iter().chain(other).enumerate() {
        let time = millis(20 * number as u64);
        let verdict = sink.receiver.handle_datagram(time, host(1), &datagram);
        assert!(verdict == Verdict::Taken || matches!(verdict, Verdict::Dropped(_)), "{verdict:?}");
        sink.receiver.handle_timeout(time);
    }
    assert_eq!(sink.receiver.counts().dropped(DropReason::WaitingFull), 1, "data is not kept");
    assert_eq!(found(&mut sink), None);
}

/// Else a receiver of the group below another would wait for data that never comes there.
#[test]
fn whoever_wants_data_takes_no_announcement() {
    let source = source(1);
    let with_key = Receiver::with_trust(Time::default(), NO_LIMITS, trust(&[&FIRST]));
    for receiver in [Receiver::new(Time::default(), NO_LIMITS), with_key] {
        let mut sink = Sink::of(receiver);
        sink.drops(host(1), &source.announcement, DropReason::Announcement);
        assert_eq!(found(&mut sink), None);
    }
}
