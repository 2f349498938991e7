//! A receiver with keys (docs/PROTOCOL.md, sections 5.3 and 5.4).

use super::*;
use crate::limits::{
    CHOICE_TIME, CHOICE_TIME_MAX, FALSE_SIGNATURE_COUNT_MAX, SUCCESSION_SILENCE_MAX, UNVERIFIED_COUNT_MAX,
};
use crate::manifest::signer::{FIRST, SECOND, TestKey};
use crate::manifest::{DisplayName, PublicKey};

pub(super) fn trust(keys: &[&TestKey]) -> Trust {
    let keys = keys.iter().map(|key| PublicKey::parse(key.public()).unwrap()).collect();
    Trust { keys, version_min: 0, compatible: None, clock_unset: ClockUnset::Refuse, seed: 7 }
}

pub(super) fn sink_with(trust: Trust) -> Sink {
    Sink::of(Receiver::with_trust(Time::default(), NO_LIMITS, trust))
}

fn sink() -> Sink {
    sink_with(trust(&[&FIRST]))
}

/// Version `version` of something, signed by the first key. Versions have different bytes.
pub(super) fn source(version: u64) -> Source {
    source_by(&FIRST, |members| members.version = version, version as usize)
}

fn source_by(key: &TestKey, change: impl Fn(&mut Members), number: usize) -> Source {
    Source::signed(content(2 * MIB + 10 * number, &[]), 1408, change, |text| key.sign(text, "comment"))
}

/// The manifest packet with a signature that nobody made; each `number` gives another one.
pub(super) fn false_signature(source: &Source, number: u32) -> Vec<u8> {
    changed(source.manifest(), |bytes| {
        let end = bytes.len();
        bytes[end - 4..].copy_from_slice(&number.to_be_bytes());
    })
}

pub(super) fn after(span: Duration) -> Time {
    at(0).after(span)
}

pub(super) fn millis(count: u64) -> Time {
    after(Duration::from_millis(count))
}

/// Feeds a manifest and lets the time for others pass.
fn accepted(sink: &mut Sink, source: &Source) {
    assert_eq!(sink.feed(at(0), host(1), &source.manifest()), Verdict::Taken);
    sink.run(after(CHOICE_TIME));
    assert_eq!(sink.receiver.manifest().map(Manifest::key), Some(source.sender.key()));
}

#[test]
fn nothing_is_accepted_but_what_a_key_vouches_for() {
    let unsigned = Source::new(content(2 * MIB, &[]), 1408);
    let other_key = source_by(&SECOND, |_| {}, 0);
    let legacy = Source::signed(content(2 * MIB, &[]), 1408, |_| {}, |text| FIRST.sign_legacy(text, ""));
    let other_text = Source::signed(content(2 * MIB, &[]), 1408, |_| {}, |_| FIRST.sign(b"other", ""));
    let false_comment = changed(source(1).manifest(), |bytes| {
        let comment = bytes.len() - 64 - 7;
        bytes[comment] ^= 1;
    });
    let mut sink = sink();
    for (datagram, reason) in [
        (unsigned.manifest(), DropReason::Unsigned),
        (other_key.manifest(), DropReason::UnknownKey),
        (legacy.manifest(), DropReason::WrongSignature),
    ] {
        sink.take(at(1), host(1), &datagram);
        sink.take(at(1), host(1), &datagram);
        assert_eq!(sink.receiver.counts().dropped(reason), 2, "{}", reason.name());
    }
    // These wait for a turn, and are known when they come again.
    for (time, datagram) in [(millis(1500), other_text.manifest()), (millis(1600), false_comment)] {
        assert_eq!(sink.take(time, host(1), &datagram), Verdict::Taken);
        assert_eq!(sink.take(time, host(1), &datagram), Verdict::Dropped(DropReason::WrongSignature));
    }
    for block in 0..2 {
        assert_eq!(sink.take(at(1), host(1), &unsigned.data(block, 0)), Verdict::Taken, "it waits in memory");
    }
    sink.run(at(60));
    assert!(sink.receiver.manifest().is_none() && sink.disk.is_empty() && sink.stores.is_empty());
    assert_eq!(sink.receiver.counts().dropped(DropReason::WrongSignature), 2 + 2 + 2);
    let told: Vec<_> = sink.notices.iter().filter(|notice| matches!(notice, Notice::Distrusted(_))).collect();
    assert_eq!(told.len(), 3, "each reason once: {told:?}");
}

#[test]
fn authentic_object_is_accepted_and_its_voucher_known() {
    let mut source = source(3);
    let mut sink = sink_with(trust(&[&SECOND, &FIRST]));
    sink.feed(at(0), host(1), &source.data(0, 0));
    accepted(&mut sink, &source);
    let voucher = sink.receiver.voucher().unwrap();
    assert_eq!((voucher.key_id().to_string().as_str(), voucher.comment()), ("E140B28D835E3F6E", "comment"));
    assert_eq!(sink.stores.len(), 1, "what came before is of use");
    sink.complete(at(1), host(1), &mut source);
}

/// "What it remembers of past verifications it remembers by (text, signature), not by packet" (section 5.3).
#[test]
fn accepted_text_needs_no_signature_and_no_turn() {
    let source = source(3);
    let mut sink = sink();
    accepted(&mut sink, &source);
    let bare = Source::with_text(source.content.clone(), 1408, |members| members.version = 3);
    for manifest in [bare.manifest(), false_signature(&source, 1), source.manifest()] {
        assert_eq!(sink.feed(at(1), host(2), &manifest), Verdict::Taken);
    }
    assert_eq!(sink.receiver.counts().manifests, 4);
    let wrong_key = changed(source.manifest(), |bytes| bytes[12] ^= 1);
    assert_eq!(sink.feed(at(1), host(2), &wrong_key), Verdict::Dropped(DropReason::ManifestRefused));
}

#[test]
fn newest_of_those_that_are_offered_is_chosen() {
    let (old, new) = (source(1), source(2));
    for order in [[&old, &new], [&new, &old]] {
        let mut sink = sink();
        sink.feed(millis(0), host(1), &order[0].manifest());
        sink.feed(millis(20), host(2), &order[1].manifest());
        assert!(sink.receiver.manifest().is_none());
        sink.run(after(CHOICE_TIME));
        assert_eq!(sink.receiver.manifest().unwrap().version, 2);
    }
}

#[test]
fn manifest_of_an_object_that_has_been_heard_is_waited_for() {
    let (old, new, third) = (source(1), source(2), source(3));
    let start = |sink: &mut Sink| {
        sink.feed(millis(0), host(2), &new.data(0, 0));
        sink.feed(millis(1), host(1), &old.manifest());
        sink.run(millis(1).after(CHOICE_TIME));
        assert!(sink.receiver.manifest().is_none(), "another object is there");
    };
    let mut sink = sink();
    start(&mut sink);
    sink.feed(millis(1500), host(2), &new.manifest());
    assert_eq!(sink.receiver.manifest().unwrap().version, 2, "nobody else is to be waited for");

    let mut sink = self::sink();
    start(&mut sink);
    sink.feed(millis(1000), host(3), &third.data(0, 0));
    assert_eq!(sink.receiver.poll_timeout(), Some(millis(1).after(CHOICE_TIME_MAX)));
    sink.run(millis(1).after(CHOICE_TIME_MAX));
    assert_eq!(sink.receiver.manifest().unwrap().version, 1, "but not for ever");
}

#[test]
fn authentic_manifest_may_still_not_be_what_is_wanted() {
    let asked = Trust { version_min: 5, compatible: DisplayName::new("board-a"), ..trust(&[&FIRST]) };
    let of = |version: u64, compatible: Option<&'static str>, expires: Option<u64>| {
        let change = move |members: &mut Members| {
            members.version = version;
            members.compatible = compatible.and_then(DisplayName::new);
            (members.created, members.expires) = (Some(1000), expires);
        };
        source_by(&FIRST, change, 0)
    };
    let board = Some("board-a");
    for (source, now, reason) in [
        (of(4, board, None), 0, DropReason::OldVersion),
        (of(5, Some("board-b"), None), 0, DropReason::NotCompatible),
        (of(5, None, None), 0, DropReason::NotCompatible),
        (of(5, board, Some(2000)), 2000, DropReason::Expired),
        (of(5, board, Some(2000)), 999, DropReason::ClockUnset),
    ] {
        let mut sink = sink_with(asked.clone());
        sink.receiver.handle_wall_clock(now);
        sink.feed(at(0), host(1), &source.manifest());
        sink.feed(at(1), host(1), &source.manifest());
        sink.run(at(10));
        assert!(sink.receiver.manifest().is_none());
        assert_eq!(sink.receiver.counts().dropped(reason), 2, "{}", reason.name());
        let told = sink.notices.iter().filter(|notice| matches!(notice, Notice::Distrusted(_))).count();
        assert_eq!(told, 1, "{:?}", sink.notices);
    }
    accepted(&mut sink_with(asked), &of(5, board, None));
}

#[test]
fn clock_that_is_set_later_is_asked_again() {
    let expiring = |members: &mut Members| (members.created, members.expires) = (Some(1000), Some(2000));
    let source = source_by(&FIRST, expiring, 0);
    let mut sink = sink();
    assert_eq!(sink.take(at(0), host(1), &source.manifest()), Verdict::Taken);
    assert_eq!(sink.receiver.counts().dropped(DropReason::ClockUnset), 1);
    sink.receiver.handle_wall_clock(1500);
    sink.feed(at(1), host(1), &source.manifest());
    sink.run(at(2));
    assert!(sink.receiver.manifest().is_some());

    let mut sink = sink_with(Trust { clock_unset: ClockUnset::Ignore, ..trust(&[&FIRST]) });
    accepted(&mut sink, &source);
    assert_eq!(sink.notices, [Notice::ExpiryUnknown]);
}

#[test]
fn object_that_is_too_large_is_refused_though_authentic() {
    let source = source(1);
    let config = ReceiverConfig { size_max: 2 * MIB as u64, ..NO_LIMITS };
    let mut sink = Sink::of(Receiver::with_trust(Time::default(), config, trust(&[&FIRST])));
    sink.feed(at(0), host(1), &source.manifest());
    sink.run(at(10));
    assert_eq!(sink.receiver.counts().dropped(DropReason::TooLarge), 1);
    assert!(sink.receiver.manifest().is_none());
}

/// Ten thousand forged manifests a second, each of them another, and one true one every 20 ms: half a percent.
#[test]
fn forged_manifests_delay_a_true_one_by_no_more_than_their_share() {
    let source = source(1);
    let mut worst = 0;
    for seed in 0..8 {
        let mut sink = sink_with(Trust { seed, ..trust(&[&FIRST]) });
        let mut number = 0;
        let ended = (0..60_000).find(|&ms| {
            for _ in 0..10 {
                number += 1;
                sink.take(millis(ms), host(9), &false_signature(&source, number));
            }
            if ms % 20 == 0 {
                sink.take(millis(ms), host(1), &source.manifest());
            }
            sink.run(millis(ms));
            sink.receiver.manifest().is_some()
        });
        let ended = ended.expect("accepted within a minute");
        worst = worst.max(ended);
        let verified = sink.receiver.counts().dropped(DropReason::WrongSignature);
        assert!(verified <= ended / 10 + 2, "{verified} verifications in {ended} ms");
        assert_eq!(sink.receiver.counts().stored, 0);
    }
    // A turn every 10 ms, of which one in 200 falls to the true one: 2 s on average.
    assert!(worst < 20_000, "{worst} ms");
}

#[test]
fn half_of_the_turns_belong_to_addresses_that_have_sent_something_authentic() {
    let (old, new) = (source(1), source(2));
    let mut sink = sink_with(Trust { version_min: 2, ..trust(&[&FIRST]) });
    // The true sender is known by an old version; then a flood comes from elsewhere.
    sink.feed(millis(0), host(1), &old.manifest());
    for number in 0..10 * UNVERIFIED_COUNT_MAX as u32 {
        sink.take(millis(500), host(9), &false_signature(&new, number));
    }
    let unverified = sink.receiver.counts().dropped(DropReason::Unverified);
    assert!(unverified > 8 * UNVERIFIED_COUNT_MAX as u64, "the queue of all others is full: {unverified}");
    sink.take(millis(501), host(1), &new.manifest());
    sink.run(millis(501));
    sink.run(millis(501).after(CHOICE_TIME_MAX));
    assert_eq!(sink.receiver.manifest().map(|manifest| manifest.version), Some(2), "at once");
}

#[test]
fn what_was_false_once_takes_no_second_turn_and_memory_is_bounded() {
    let source = source(1);
    let mut sink = sink();
    let mut now = at(0);
    let count = 3 * FALSE_SIGNATURE_COUNT_MAX as u32;
    for number in 0..count {
        now = now.after(Duration::from_millis(10));
        sink.take(now, host(9), &false_signature(&source, number));
        sink.run(now);
    }
    assert_eq!(sink.receiver.counts().dropped(DropReason::WrongSignature), u64::from(count));
    let again = false_signature(&source, count - 1);
    assert_eq!(sink.take(now, host(9), &again), Verdict::Dropped(DropReason::WrongSignature));
    assert_eq!(sink.take(now, host(9), &false_signature(&source, count)), Verdict::Taken, "no turn yet");
    let pending = false_signature(&source, count);
    assert_eq!(sink.take(now, host(9), &pending), Verdict::Dropped(DropReason::Unverified), "it waits already");
    let due = sink.receiver.poll_timeout().unwrap();
    sink.run(due);
    assert_eq!(sink.take(due, host(9), &pending), Verdict::Dropped(DropReason::WrongSignature));
}

#[test]
fn newer_version_takes_the_place_of_one_that_has_fallen_silent() {
    let (current, mut newer) = (source(2), source(3));
    let mut sink = sink();
    accepted(&mut sink, &current);
    sink.feed(at(1), host(1), &current.data(0, 0));
    // The newer one is sent from 5 s on.
    for second in 5..11 {
        let verdict = sink.feed(at(second), host(2), &newer.manifest());
        let is_first = second == 5;
        assert_eq!(verdict, if is_first { Verdict::Taken } else { Verdict::Dropped(DropReason::ForeignObject) });
        assert_eq!(sink.receiver.manifest().unwrap().version, 2, "at {second} s");
    }
    assert_eq!(sink.receiver.poll_timeout(), Some(at(11)));
    sink.run(at(11));
    assert_eq!(sink.receiver.manifest().unwrap().version, 3);
    assert!(sink.notices.contains(&Notice::Succeeded { old: 2, new: 3 }));
    assert_eq!(sink.feed(at(12), host(1), &current.data(0, 1)), Verdict::Dropped(DropReason::ForeignObject));
    sink.complete(at(12), host(2), &mut newer);
}

#[test]
fn data_of_the_newer_version_show_that_it_lives() {
    let (current, newer) = (source(2), source(3));
    let mut sink = sink();
    accepted(&mut sink, &current);
    sink.feed(at(1), host(2), &newer.manifest());
    sink.run(at(10).after(CHOICE_TIME));
    assert_eq!(sink.receiver.manifest().unwrap().version, 2, "both are silent");
    sink.feed(at(20), host(2), &newer.data(0, 0));
    assert_eq!(sink.receiver.manifest().unwrap().version, 3);
}

#[test]
fn current_version_is_not_left_while_it_is_sent_nor_for_one_that_is_not_newer() {
    let (current, newer, older) = (source(2), source(3), source(1));
    let same = source_by(&FIRST, |members| members.version = 2, 7);
    let mut sink = sink();
    accepted(&mut sink, &current);
    for second in 0..40 {
        sink.feed(at(second), host(1), &current.data(0, second as u16));
        sink.feed(at(second), host(2), &newer.manifest());
        assert_eq!(sink.receiver.manifest().unwrap().version, 2);
    }
    for other in [older, same] {
        let mut sink = self::sink();
        accepted(&mut sink, &current);
        let silence = SUCCESSION_SILENCE_MAX.as_secs();
        for second in 0..2 * silence {
            sink.feed(at(second), host(2), &other.manifest());
            sink.feed(at(second), host(2), &other.data(0, 0));
            assert_eq!(sink.receiver.manifest().map(Manifest::key), Some(current.sender.key()));
        }
    }
}

/// Nobody may drive a receiver from its object by sending something else.
#[test]
fn object_is_not_given_up_for_what_nobody_vouches_for() {
    let (current, replayed) = (source(5), source(1));
    let unsigned = Source::new(content(MIB, &[]), 1408);
    let mut sink = sink_with(Trust { version_min: 4, ..trust(&[&FIRST]) });
    accepted(&mut sink, &current);
    for second in 0..120 {
        for other in [&unsigned, &replayed] {
            sink.feed(at(second), host(2), &other.manifest());
            sink.feed(at(second), host(2), &other.data(0, 0));
        }
    }
    assert_eq!(sink.receiver.manifest().unwrap().version, 5);
    // One that is older, but not too old, is what a new start would take.
    let other = source(4);
    let mut last = None;
    for second in 120..160 {
        sink.take(at(second), host(2), &other.manifest());
        sink.receiver.handle_timeout(at(second));
        last = last.or(sink.receiver.poll_action());
    }
    assert!(matches!(last, Some(Action::GiveUp(GiveUp::Superseded { .. }))), "{last:?}");
}

#[test]
fn second_digest_of_the_same_id_is_no_candidate_without_a_signature() {
    let mut source = source(1);
    let mut sink = sink();
    accepted(&mut sink, &source);
    let rival = Source::with_text(source.content.clone(), 1408, |members| members.digest.0[31] ^= 1);
    let rival = changed(rival.manifest(), |bytes| bytes[12..24].copy_from_slice(&source.sender.key().id.0));
    assert_eq!(sink.feed(at(1), host(2), &rival), Verdict::Dropped(DropReason::Unsigned));
    sink.complete(at(1), host(1), &mut source);
}
