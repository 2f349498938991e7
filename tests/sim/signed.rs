//! Receivers with keys among forged manifests, old versions and new ones.

use std::time::Duration;

use iotupd::limits::{CHOICE_TIME, SUCCESSION_SILENCE_MAX};
use iotupd::receiver::{DropReason, GiveUp};
use iotupd::types::Time;

use super::*;
use crate::forger::SIGNATURES;
use crate::scenario::trust;
use crate::signer::{FIRST, SECOND};
use crate::truth::random_bytes;

/// An object of this version, with bytes of its own.
fn version(number: u64, size: u64) -> Arc<Truth> {
    Truth::signed(random_bytes(&mut Random::new(number), size, Ppm(0)), number, &FIRST)
}

/// A receiver that takes `truth` and what is newer.
fn signed(truth: &Arc<Truth>) -> Scenario {
    let mut scenario = plain(truth);
    scenario.hosts[0].trust = Some(trust(truth.version, 1));
    scenario
}

fn away_from(at: Time) -> Vec<Restart> {
    vec![Restart { at, down: Duration::from_secs(7200), start_ppm: 0 }]
}

#[test]
fn authentic_object_arrives_as_fast_as_any_other() {
    let truth = version(1, 16 * MIB + 12_345);
    let signed = committed_at(&run(1, &signed(&truth)), 0);
    let plain = committed_at(&run(1, &plain(&truth)), 0);
    assert!(signed.since(plain) <= CHOICE_TIME, "{signed:?} against {plain:?}");
}

#[test]
fn forged_manifests_neither_block_nor_crowd_out_a_true_one() {
    let truth = version(3, 2 * MIB + 5);
    let mut scenario = signed(&truth);
    // Twice as many as all packets of the server together; of those every hundredth is a manifest.
    let mut flood = forger(&truth, &SIGNATURES, Duration::from_micros(60));
    for mask in [Mask::Own(1), Mask::Many(300), Mask::Server(0)] {
        flood.mask = mask;
        scenario.forgers = vec![flood.clone()];
        for seed in 0..4 {
            let report = run(seed, &scenario);
            let at = committed_at(&report, 0);
            assert!(at < seconds(30), "seed {seed}, {mask:?}: {at:?}");
            let counts = &report.hosts[0].counts;
            for reason in [DropReason::Unsigned, DropReason::UnknownKey, DropReason::Unverified] {
                assert!(counts.dropped(reason) > 0, "{}", reason.name());
            }
            let turns = counts.dropped(DropReason::WrongSignature);
            assert!(turns <= at.as_nanos() / 5_000_000 + 2, "{turns} verifications in {at:?}");
        }
    }
}

#[test]
fn forged_manifests_alone_lead_to_nothing() {
    let truth = version(3, MIB + 5);
    let mut scenario = signed(&truth);
    scenario.servers[0].restarts = away_from(Time::default());
    let kinds = [&SIGNATURES[..], &[Forgery::FalseData]].concat();
    scenario.forgers = vec![forger(&truth, &kinds, Duration::from_micros(500))];
    scenario.deadline = seconds(20);
    scenario.expect = Expect::NoCommit;
    let report = run(1, &scenario);
    assert_eq!(report.hosts[0].counts.stored, 0);
}

#[test]
fn newest_of_several_versions_is_received() {
    let truths: Vec<_> = (1..=3).map(|number| version(number, 2 * MIB + number)).collect();
    for join in [0, 1, 30, 77, 150] {
        let mut scenario = signed(&truths[0]);
        scenario.hosts[0].join = Time::from_nanos(join * 1_000_000);
        scenario.servers = truths.iter().map(|truth| plain_server(truth, rate(30_000_000))).collect();
        // What is not the newest must not be.
        scenario.truths = truths.clone();
        let newest = Arc::clone(&truths[2]);
        let report = run(join, &scenario);
        assert!(matches!(report.hosts[0].outcome, Outcome::Committed(_)));
        assert_eq!(report.hosts[0].version, Some(newest.version), "joined at {join} ms");
    }
}

#[test]
fn replayed_version_is_never_taken_and_harms_nothing() {
    let (old, new) = (version(1, MIB + 99), version(2, 3 * MIB + 5));
    let mut scenario = signed(&new);
    scenario.truths.push(Arc::clone(&old));
    scenario.servers.push(plain_server(&old, rate(100_000_000)));
    assert_eq!(run(1, &scenario).hosts[0].version, Some(2));

    scenario.servers.remove(0);
    scenario.deadline = seconds(60);
    scenario.expect = Expect::NoCommit;
    let report = run(1, &scenario);
    assert!(report.hosts[0].counts.dropped(DropReason::OldVersion) > 100);
    assert_eq!(report.hosts[0].counts.stored, 0);
    scenario.hosts[0].config.timeout = Some(Duration::from_secs(10));
    scenario.expect = Expect::GiveUp;
    assert_eq!(run(1, &scenario).hosts[0].outcome, Outcome::GaveUp(GiveUp::Timeout, seconds(10)));
}

/// A slow disk, so that much is under way when the object changes.
#[test]
fn newer_version_takes_over_when_the_old_one_ends() {
    let (old, new) = (version(1, 20 * MIB), version(2, 3 * MIB + 5));
    let mut scenario = signed(&old);
    scenario.truths.push(Arc::clone(&new));
    scenario.servers.push(plain_server(&new, rate(100_000_000)));
    let end = Time::from_nanos(700_000_000);
    scenario.servers[0].restarts = away_from(end);
    scenario.servers[1].restarts = vec![Restart { at: Time::default(), down: Duration::from_secs(3), start_ppm: 0 }];
    for (disk, seed) in [(GOOD, 0), (DiskPlan { work_time: Duration::from_secs(30), worker_count: 4, ..GOOD }, 1)] {
        scenario.hosts[0].disk = disk;
        let report = run(seed, &scenario);
        assert_eq!(report.hosts[0].version, Some(2));
        assert!(committed_at(&report, 0) > end.after(SUCCESSION_SILENCE_MAX));
    }
    // Without a key nothing is left for anything.
    scenario.hosts[0].trust = None;
    scenario.expect = Expect::GiveUp;
    run(1, &scenario);
}

#[test]
fn object_is_received_to_the_end_while_a_newer_one_is_sent() {
    let (old, new) = (version(1, 6 * MIB), version(2, 3 * MIB + 5));
    let mut scenario = signed(&old);
    scenario.truths.push(Arc::clone(&new));
    scenario.servers.push(plain_server(&new, rate(100_000_000)));
    scenario.servers[1].restarts =
        vec![Restart { at: Time::default(), down: Duration::from_millis(200), start_ppm: 0 }];
    assert_eq!(run(1, &scenario).hosts[0].version, Some(1));
}

#[test]
fn what_another_key_signed_is_not_taken() {
    let other = Truth::signed(vec![7; 5000], 9, &SECOND);
    let mut scenario = plain(&other);
    scenario.hosts[0].trust = Some(trust(0, 1));
    scenario.deadline = seconds(5);
    scenario.expect = Expect::NoCommit;
    assert!(run(1, &scenario).hosts[0].counts.dropped(DropReason::UnknownKey) > 10);
}
