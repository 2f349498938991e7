//! The deterministic simulation: the real sender and receiver machines on virtual time, on networks, disks and machines that
//! fail in every way, among senders who lie. What is checked after every event is in `host` (receivers) and `world` (senders).
//!
//! A run is a pure function of its seed. `SIM_SEED=123 cargo test --test sim replay_seed -- --nocapture` replays one of the swarm;
//! `SIM_SEEDS=10000 cargo test --test sim swarm` runs more of them; `UPDATE_SNAPSHOTS=1` rewrites the table of passes.

mod disk;
mod forger;
mod host;
mod network;
mod plan;
mod random;
mod scenario;
mod signed;
mod steps;
mod table;
mod truth;
mod world;

#[allow(dead_code, reason = "all tests share it, and none uses all of it")]
#[path = "../keys/signer.rs"]
mod signer;

use std::panic::catch_unwind;
use std::sync::Arc;
use std::time::Duration;

use iotupd::limits::{OBJECT_SILENCE_MAX, RATE_BPS_DEFAULT};
use iotupd::receiver::{DropReason, GiveUp};
use iotupd::sender::Pacing;
use iotupd::types::{RateBps, Time};

use disk::{Before, DiskPlan, GOOD};
use forger::{ForgerPlan, Forgery, Mask};
use host::{Crash, Outcome};
use network::{Faults, Loss, PERFECT};
use random::{Ppm, Random};
use scenario::{draw, plain, plain_host, plain_server, rate, seconds, symbol_size};
use truth::Truth;
use world::{Expect, IP_OVERHEAD, Report, Restart, Scenario, run};

/// Scenarios of the swarm where nobody asks for more.
const SWARM_SEED_COUNT: u64 = 300;
const MIB: u64 = 1 << 20;
const END: Time = Time::from_nanos(u64::MAX);

fn number_from(variable: &str) -> Option<u64> {
    let text = std::env::var(variable).ok()?;
    Some(text.parse().unwrap_or_else(|error| panic!("{variable}={text}: {error}")))
}

fn truth(size: u64) -> Arc<Truth> {
    Truth::random(&mut Random::new(size), size, Ppm(0))
}

/// Three data blocks in forty.
fn sparse_truth() -> Arc<Truth> {
    let mut bytes = vec![0; (40 * MIB + 5) as usize];
    let mut random = Random::new(40);
    for block in [0, 17, 40] {
        let start = block * MIB as usize;
        let end = bytes.len().min(start + MIB as usize);
        random.fill(&mut bytes[start..end]);
    }
    Truth::new(bytes)
}

fn forger(truth: &Arc<Truth>, kinds: &[Forgery], every: Duration) -> ForgerPlan {
    ForgerPlan {
        truth: Arc::clone(truth),
        symbol_size: symbol_size(1408),
        kinds: kinds.to_vec(),
        mask: Mask::Own(1),
        from: Time::default(),
        until: END,
        every,
    }
}

fn committed_at(report: &Report, host: usize) -> Time {
    match report.hosts[host].outcome {
        Outcome::Committed(at) => at,
        other => panic!("host {host}: {other:?}"),
    }
}

fn run_seeds(count: u64, scenario: &Scenario) {
    for seed in 0..count {
        run(seed, scenario);
    }
}

#[test]
fn swarm() {
    let count = number_from("SIM_SEEDS").unwrap_or(SWARM_SEED_COUNT);
    let failed: Vec<_> = (0..count).filter(|&seed| catch_unwind(|| run(seed, &draw(seed))).is_err()).collect();
    for seed in &failed {
        eprintln!("replay with: SIM_SEED={seed} cargo test --test sim replay_seed -- --nocapture");
    }
    assert!(failed.is_empty(), "seeds {failed:?} of {count} failed");
}

#[test]
fn replay_seed() {
    let seed = number_from("SIM_SEED").unwrap_or(0);
    let scenario = draw(seed);
    println!("{scenario:#?}");
    println!("{:#?}", run(seed, &scenario));
}

#[test]
fn same_seed_gives_the_same_run() {
    for seed in 0..5 {
        let (first, second) = (run(seed, &draw(seed)), run(seed, &draw(seed)));
        assert_eq!(format!("{first:?}"), format!("{second:?}"), "seed {seed}");
    }
}

#[test]
fn passes_by_loss_and_servers_are_those_of_the_snapshot() {
    table::compare("passes.txt", &table::passes());
}

#[test]
fn joining_at_30_percent_without_loss_takes_at_most_1_03_passes() {
    let truth = truth(16 * MIB + 12_345);
    let (_, bytes) = truth.round(symbol_size(1408), 44 + u64::from(IP_OVERHEAD));
    let pass_ns = 8 * bytes * 10;
    let mut scenario = plain(&truth);
    let join = Time::from_nanos(pass_ns * 3 / 10);
    scenario.hosts[0].join = join;
    let took_ns = committed_at(&run(1, &scenario), 0).since(join).as_nanos() as u64;
    assert!(took_ns * 100 <= pass_ns * 103, "{took_ns} ns, a pass takes {pass_ns}");
}

#[test]
fn objects_of_every_edge_size_arrive() {
    for size in [0, 1, 1407, 1408, 1409, MIB - 1, MIB, MIB + 1, 2 * MIB, 3 * MIB + 1408, 17 * MIB + 1] {
        let truth = truth(size);
        let mut scenario = plain(&truth);
        scenario.servers =
            vec![plain_server(&truth, Pacing::DefaultRate(RateBps::new(RATE_BPS_DEFAULT).expect("a rate")))];
        run(size, &scenario);
    }
}

#[test]
fn sparse_object_needs_only_its_data_blocks() {
    let truth = sparse_truth();
    let (packets, _) = truth.round(symbol_size(1408), 0);
    let report = run(1, &plain(&truth));
    assert!(report.data_sent <= packets * 105 / 100, "{} sent, {packets} in a round", report.data_sent);
}

#[test]
fn object_of_zeroes_arrives_over_anything() {
    let truth = Truth::new(vec![0; (5 * MIB + 7) as usize]);
    let mut scenario = plain(&truth);
    for before in [Before::Nothing, Before::Partly(Ppm(0)), Before::Partly(Ppm::percent(50))] {
        scenario.hosts[0].disk = DiskPlan { before, work_failure: Ppm::percent(30), ..GOOD };
        run(3, &scenario);
    }
}

#[test]
fn receivers_that_come_and_go_all_complete() {
    let truth = truth(5 * MIB + 99);
    let mut scenario = plain(&truth);
    scenario.hosts = (0..6).map(|index| plain_host(Time::from_nanos(index * 150_000_000))).collect();
    scenario.hosts[1].absences = vec![(Time::from_nanos(200_000_000), Duration::from_millis(100))];
    scenario.hosts[2].absences = vec![(Time::from_nanos(400_000_000), Duration::from_secs(20))];
    run_seeds(3, &scenario);
}

#[test]
fn reordering_beyond_the_window_and_doubling_harm_nothing() {
    let truth = truth(4 * MIB + 99);
    let mut scenario = plain(&truth);
    let faults = Faults {
        duplicate: Ppm::percent(50),
        jitter: Duration::from_millis(5),
        stragglers: Ppm::percent(5),
        straggle: Duration::from_millis(200),
        ..PERFECT
    };
    scenario.hosts[0].faults = faults;
    run_seeds(3, &scenario);
}

#[test]
fn damaged_packets_are_no_worse_than_lost_ones() {
    let truth = truth(3 * MIB + 99);
    let mut scenario = plain(&truth);
    scenario.hosts[0].faults = Faults { flip: Ppm::percent(5), cut: Ppm::percent(5), ..PERFECT };
    let report = run(1, &scenario);
    assert!(report.hosts[0].counts.dropped(DropReason::Checksum) > 100);
    assert_eq!(report.hosts[0].counts.blocks_failed, 0);
}

#[test]
fn lost_packets_are_counted_as_lost() {
    let truth = truth(6 * MIB + 99);
    let mut scenario = plain(&truth);
    for loss in [Loss::Random(Ppm::percent(5)), Loss::Bursts { loss: Ppm::percent(5), length_mean: 20 }] {
        scenario.hosts[0].faults = Faults { loss, jitter: Duration::from_millis(1), ..PERFECT };
        let report = run(1, &scenario);
        let loss = &report.hosts[0].senders[0].loss;
        let sent = report.hosts[0].data_sent;
        assert!((loss.received + loss.lost).abs_diff(sent) < 300, "{loss:?} of {sent}");
        assert_eq!(loss.restarts, 0);
    }
}

#[test]
fn restarted_servers_are_no_obstacle() {
    let truth = truth(5 * MIB + 99);
    let mut scenario = plain(&truth);
    scenario.servers.push(plain_server(&truth, rate(50_000_000)));
    for (index, server) in (0u64..).zip(&mut scenario.servers) {
        server.restarts = (1..6)
            .map(|turn| Restart {
                at: Time::from_nanos((turn * 100 + index * 37) * 1_000_000),
                down: Duration::from_millis(20),
                start_ppm: (turn * 150_000) as u32,
            })
            .collect();
    }
    scenario.hosts[0].faults = Faults { loss: Loss::Random(Ppm::percent(10)), ..PERFECT };
    run_seeds(3, &scenario);
}

#[test]
fn server_that_is_away_for_a_minute_is_waited_for() {
    let truth = truth(5 * MIB + 99);
    let mut scenario = plain(&truth);
    let down = Duration::from_secs(60);
    scenario.servers[0].restarts = vec![Restart { at: Time::from_nanos(200_000_000), down, start_ppm: 0 }];
    let report = run(1, &scenario);
    assert!(committed_at(&report, 0) > seconds(60));
}

#[test]
fn receiver_that_crashes_again_and_again_resumes_on_torn_writes() {
    let truth = truth(6 * MIB + 99);
    let mut scenario = plain(&truth);
    let crash = |turn: u64| Crash {
        at: Time::from_nanos(turn * 130_000_000),
        down: Duration::from_millis(30),
        loses_power: true,
    };
    scenario.hosts[0].crashes = (1..10).map(crash).collect();
    scenario.hosts[0].disk = DiskPlan { store_time: Duration::from_millis(2), ..GOOD };
    run_seeds(5, &scenario);
}

/// Killed, but with the power on: what came is not needed again.
#[test]
fn receiver_that_is_killed_again_and_again_needs_hardly_more_than_one_pass() {
    let truth = truth(6 * MIB + 99);
    let (packets, bytes) = truth.round(symbol_size(1408), 44 + u64::from(IP_OVERHEAD));
    let pass_ns = 8 * bytes * 10;
    let mut scenario = plain(&truth);
    for count in [1, 20] {
        let crash = |turn: u64| {
            let down = Duration::from_micros(1);
            Crash { at: Time::from_nanos(turn * pass_ns / (count + 1)), down, loses_power: false }
        };
        scenario.hosts[0].crashes = (1..=count).map(crash).collect();
        let report = run(count, &scenario);
        assert!(report.data_sent <= packets * 105 / 100, "{count}: {} sent, {packets} in a round", report.data_sent);
    }
}

/// The power fails: at worst what came since it last did is lost.
#[test]
fn loss_of_power_costs_at_most_a_pass() {
    let truth = truth(6 * MIB + 99);
    let (packets, bytes) = truth.round(symbol_size(1408), 44 + u64::from(IP_OVERHEAD));
    let mut scenario = plain(&truth);
    let at = Time::from_nanos(8 * bytes * 10 * 7 / 10);
    scenario.hosts[0].crashes = vec![Crash { at, down: Duration::from_millis(1), loses_power: true }];
    for seed in 0..40 {
        let report = run(seed, &scenario);
        assert!(
            report.data_sent <= packets * 180 / 100,
            "seed {seed}: {} sent, {packets} in a round",
            report.data_sent
        );
        assert_eq!(report.hosts[0].counts.blocks_failed, 0, "seed {seed}");
    }
}

/// True repair symbols in no order, and source symbols at 20 % loss, killed now and then.
#[test]
fn repair_symbols_make_up_for_loss() {
    let truth = truth(3 * MIB + 5);
    let (packets, _) = truth.round(symbol_size(1408), 0);
    let mut scenario = plain(&truth);
    scenario.forgers = vec![forger(&truth, &[Forgery::Repair], Duration::from_micros(240))];
    scenario.hosts[0].faults = Faults { loss: Loss::Random(Ppm::percent(20)), ..PERFECT };
    for (seed, crash_count) in [(0, 0), (1, 0), (2, 3), (3, 3)] {
        let down = Duration::from_micros(1);
        let crash = |turn: u64| Crash { at: Time::from_nanos(turn * 40_000_000), down, loses_power: false };
        scenario.hosts[0].crashes = (1..=crash_count).map(crash).collect();
        let report = run(seed, &scenario);
        // Half a round of repair symbols comes with each round.
        assert!(report.data_sent <= packets * 110 / 100, "seed {seed}: {} of {packets} sent", report.data_sent);
    }
}

/// A forger who sends a few false symbols among true repair symbols costs passes, and no more.
#[test]
fn repair_symbols_among_forged_ones_are_outlived() {
    let truth = truth(3 * MIB + 5);
    let mut scenario = plain(&truth);
    scenario.forgers = vec![
        forger(&truth, &[Forgery::Repair], Duration::from_micros(500)),
        forger(&truth, &[Forgery::FalseData], Duration::from_millis(20)),
    ];
    scenario.hosts[0].faults = Faults { loss: Loss::Random(Ppm::percent(5)), ..PERFECT };
    run_seeds(5, &scenario);
}

#[test]
fn crash_between_the_last_block_and_the_rename_costs_a_block_and_no_pass() {
    // A block that the server is sending before a hashes packet has come is received again.
    let truth = truth(16 * MIB + 99);
    let mut scenario = plain(&truth);
    scenario.hosts[0].disk = DiskPlan { before: Before::Partly(Ppm::percent(100)), ..GOOD };
    let (packets, _) = truth.round(symbol_size(1408), 0);
    let report = run(1, &scenario);
    assert!(report.data_sent < packets / 4, "{} sent", report.data_sent);
}

#[test]
fn slow_and_failing_disk_takes_longer_and_no_more() {
    let truth = sparse_truth();
    let mut scenario = plain(&truth);
    scenario.hosts[0].disk = DiskPlan {
        before: Before::Partly(Ppm::percent(99)),
        store_time: Duration::from_millis(20),
        work_time: Duration::from_millis(50),
        prepare_time: Duration::from_millis(300),
        store_failure: Ppm::percent(2),
        work_failure: Ppm::percent(20),
        worker_count: 3,
        ..GOOD
    };
    run_seeds(3, &scenario);
}

#[test]
fn more_comes_before_the_file_is_ready_than_can_be_kept() {
    let truth = truth(6 * MIB);
    let mut scenario = plain(&truth);
    scenario.hosts[0].disk.prepare_time = Duration::from_secs(3);
    let report = run(6, &scenario);
    assert!(report.hosts[0].counts.dropped(DropReason::WaitingFull) > 0);
}

#[test]
fn forged_data_alone_never_completes() {
    for size in [1, 1000, MIB, 3 * MIB + 5] {
        let truth = truth(size);
        let mut scenario = plain(&truth);
        scenario.servers.clear();
        scenario.forgers = vec![forger(&truth, &[Forgery::FalseData, Forgery::Control], Duration::from_micros(50))];
        scenario.deadline = seconds(2);
        scenario.expect = Expect::NoCommit;
        let report = run(size, &scenario);
        assert!(report.hosts[0].counts.blocks_failed > 0, "the forger fills whole blocks");
    }
}

#[test]
fn false_digest_alone_never_completes() {
    for size in [1, 1000, 2 * MIB + 5] {
        let truth = truth(size);
        let mut scenario = plain(&truth);
        let silent = Truth::new(Vec::new());
        // The data are true, but whoever vouches for them says something else.
        let mut data = forger(&truth, &[Forgery::FalseDigest], Duration::from_micros(500));
        data.until = seconds(1);
        scenario.servers = vec![plain_server(&silent, Pacing::PacketDelay(Duration::from_millis(1)))];
        scenario.servers[0].restarts =
            vec![Restart { at: Time::default(), down: Duration::from_secs(9), start_ppm: 0 }];
        scenario.forgers = vec![data];
        scenario.deadline = seconds(2);
        scenario.expect = Expect::NoCommit;
        run(size, &scenario);
    }
}

#[test]
fn false_digest_that_comes_first_gives_way_to_the_true_one() {
    for size in [1, 1000, MIB, 3 * MIB + 5] {
        let truth = truth(size);
        let mut scenario = plain(&truth);
        scenario.servers[0].restarts =
            vec![Restart { at: Time::default(), down: Duration::from_millis(50), start_ppm: 1000 }];
        let mut forger = forger(&truth, &[Forgery::FalseDigest], Duration::from_millis(2));
        forger.until = seconds(1);
        scenario.forgers = vec![forger];
        run(size, &scenario);
    }
}

#[test]
fn false_description_that_comes_first_gives_way_to_the_true_one() {
    for size in [1000, MIB, 3 * MIB + 5] {
        let truth = truth(size);
        let mut scenario = plain(&truth);
        scenario.servers[0].restarts =
            vec![Restart { at: Time::default(), down: Duration::from_millis(50), start_ppm: 1000 }];
        let mut forger = forger(&truth, &[Forgery::FalseSymbolSize], Duration::from_millis(10));
        forger.until = Time::from_nanos(45_000_000);
        scenario.forgers = vec![forger];
        let report = run(size, &scenario);
        // A block of one symbol is right whatever the symbol size.
        assert!(size < MIB || report.hosts[0].sessions_changed > 0);
    }
}

#[test]
fn false_hashes_change_nothing() {
    let truth = sparse_truth();
    let mut scenario = plain(&truth);
    let kinds = [Forgery::FalseZeroes, Forgery::FalseValues, Forgery::Regrouped];
    scenario.forgers = vec![forger(&truth, &kinds, Duration::from_micros(300))];
    let (packets, _) = truth.round(symbol_size(1408), 0);
    let report = run(1, &scenario);
    assert!(report.data_sent <= packets * 110 / 100, "{} sent, {packets} in a round", report.data_sent);
    assert!(report.hosts[0].counts.dropped(DropReason::Unproved) > 0);
}

#[test]
fn forged_symbols_in_zero_blocks_are_cleared() {
    let truth = sparse_truth();
    let mut scenario = plain(&truth);
    // Forged data come long before the first hashes packet says which blocks are zero.
    scenario.servers[0].restarts =
        vec![Restart { at: Time::default(), down: Duration::from_millis(300), start_ppm: 1000 }];
    let mut early = forger(&truth, &[Forgery::FalseData], Duration::from_micros(150));
    early.until = Time::from_nanos(400_000_000);
    let mut manifest = forger(&truth, &[Forgery::FalseDigest], Duration::from_millis(50));
    manifest.until = early.until;
    scenario.forgers = vec![early, manifest];
    run_seeds(3, &scenario);
}

#[test]
fn lone_forged_symbol_now_and_then_is_outlived() {
    let truth = truth(3 * MIB + 5);
    let mut scenario = plain(&truth);
    scenario.hosts[0].faults = Faults { loss: Loss::Random(Ppm::percent(2)), ..PERFECT };
    scenario.forgers = vec![forger(&truth, &[Forgery::FalseData], Duration::from_millis(30))];
    run_seeds(5, &scenario);
}

/// Without turns to fill a failed block no block would ever be right: several forged symbols fall into each.
#[test]
fn forged_data_without_end_cost_a_few_passes_and_no_more() {
    let truth = truth(5 * MIB + 5);
    let mut scenario = plain(&truth);
    let mut forger = forger(&truth, &[Forgery::FalseData], Duration::from_micros(500));
    forger.from = Time::from_nanos(20_000_000);
    scenario.forgers = vec![forger];
    scenario.deadline = seconds(10);
    let (packets, _) = truth.round(symbol_size(1408), 0);
    for seed in 0..5 {
        let report = run(seed, &scenario);
        assert!(report.hosts[0].counts.blocks_failed > 0);
        assert!(report.data_sent <= packets * 4, "seed {seed}: {} sent, {packets} in a round", report.data_sent);
    }
}

/// The forger's symbols are in every block before the receiver has found anybody to trust, and then it only says that it is there.
#[test]
fn forger_that_stays_but_sends_no_symbols_holds_up_nobody() {
    let truth = truth(3 * MIB + 5);
    let mut scenario = plain(&truth);
    let mut data = forger(&truth, &[Forgery::FalseData], Duration::from_micros(200));
    data.until = Time::from_nanos(300_000_000);
    scenario.servers[0].restarts =
        vec![Restart { at: Time::default(), down: Duration::from_millis(50), start_ppm: 1000 }];
    let squat = forger(&truth, &[Forgery::Manifest], Duration::from_secs(1));
    scenario.forgers = vec![data, squat];
    scenario.deadline = seconds(60);
    run_seeds(5, &scenario);
}

/// The table of streams is full of forged ones that stay.
#[test]
fn many_forged_addresses_that_stay_hold_up_nobody() {
    let truth = truth(3 * MIB + 5);
    let mut scenario = plain(&truth);
    scenario.hosts[0].join = Time::from_nanos(50_000_000);
    let mut data = forger(&truth, &[Forgery::FalseData], Duration::from_micros(200));
    data.until = Time::from_nanos(300_000_000);
    data.mask = Mask::Many(500);
    let mut squat = forger(&truth, &[Forgery::Manifest], Duration::from_millis(2));
    squat.mask = Mask::Many(500);
    scenario.forgers = vec![squat, data];
    scenario.deadline = seconds(60);
    run_seeds(3, &scenario);
}

#[test]
fn forger_with_the_servers_address_is_outlived() {
    let truth = truth(3 * MIB + 5);
    let mut scenario = plain(&truth);
    let kinds = [Forgery::FalseData, Forgery::Resealed, Forgery::Garbage, Forgery::FalseSymbolSize];
    let mut forger = forger(&truth, &kinds, Duration::from_micros(300));
    forger.mask = Mask::Server(0);
    forger.until = seconds(3);
    scenario.forgers = vec![forger];
    run_seeds(3, &scenario);
}

#[test]
fn packets_of_other_objects_are_ignored() {
    let truth = truth(3 * MIB + 5);
    let mut scenario = plain(&truth);
    scenario.forgers = vec![forger(&truth, &[Forgery::OtherObject], Duration::from_micros(100))];
    let report = run(1, &scenario);
    assert!(report.hosts[0].counts.dropped(DropReason::ForeignObject) > 1000);
    assert_eq!(report.hosts[0].counts.blocks_failed, 0);
}

#[test]
fn two_sessions_with_different_symbol_sizes_do_not_mix() {
    let truth = truth(4 * MIB + 5);
    let mut scenario = plain(&truth);
    for bytes in [1152, 1408 + 1024] {
        let mut other = plain_server(&truth, rate(80_000_000));
        other.symbol_size = symbol_size(bytes);
        other.payload_size_max = 4000;
        scenario.servers.truncate(1);
        scenario.servers.push(other);
        scenario.hosts[0].faults = Faults { loss: Loss::Random(Ppm::percent(20)), ..PERFECT };
        run_seeds(3, &scenario);
    }
}

#[test]
fn object_that_is_replaced_by_another_is_given_up() {
    let (old, new) = (truth(20 * MIB), truth(MIB + 1));
    let mut scenario = plain(&old);
    scenario.truths.push(Arc::clone(&new));
    scenario.servers.push(plain_server(&new, rate(1_000_000)));
    scenario.servers[0].restarts =
        vec![Restart { at: Time::from_nanos(300_000_000), down: Duration::from_secs(7200), start_ppm: 0 }];
    scenario.servers[1].restarts = vec![Restart { at: Time::default(), down: Duration::from_secs(3), start_ppm: 0 }];
    scenario.expect = Expect::GiveUp;
    let report = run(1, &scenario);
    let Outcome::GaveUp(reason, at) = report.hosts[0].outcome else { panic!("{report:?}") };
    assert_eq!(reason, GiveUp::Superseded { accepted: old.key(), other: new.key() });
    assert!(at.since(Time::from_nanos(300_000_000)) < OBJECT_SILENCE_MAX + Duration::from_secs(1));
}

#[test]
fn timeouts_are_kept_to_the_nanosecond() {
    let truth = truth(MIB);
    let mut scenario = plain(&truth);
    scenario.expect = Expect::GiveUp;
    scenario.servers[0].restarts = vec![Restart { at: Time::default(), down: Duration::from_secs(7200), start_ppm: 0 }];
    scenario.hosts[0].config.timeout = Some(Duration::from_secs(40));
    assert_eq!(run(1, &scenario).hosts[0].outcome, Outcome::GaveUp(GiveUp::Timeout, seconds(40)));
    scenario.hosts[0].config.idle_timeout = Some(Duration::from_secs(7));
    assert_eq!(run(1, &scenario).hosts[0].outcome, Outcome::GaveUp(GiveUp::IdleTimeout, seconds(7)));
}
