//! A crash at every single step of a small transfer, one run for each: whatever had just been written, half written or not written
//! yet, the next receiver ends with the right bytes, and takes no symbol again that was safe.

use std::sync::Arc;
use std::time::Duration;

use iotupd::sender::Fec;
use iotupd::types::SymbolSize;

use crate::disk::{Before, DiskPlan, GOOD, PowerPlan};
use crate::host::StepCrash;
use crate::network::{Faults, Loss, PERFECT};
use crate::random::{Ppm, Random};
use crate::scenario::{plain, symbol_size};
use crate::truth::Truth;
use crate::world::{HostReport, Scenario, run};

const MIB: u64 = 1 << 20;
/// Writes after which the system flushes.
const FLUSH_EVERY: u64 = 8;

/// Stores and work that take a while, so that there is a step between their start and their end.
fn scenario(truth: &Arc<Truth>, symbol_size: SymbolSize, fec: Fec) -> Scenario {
    let mut scenario = plain(truth);
    scenario.servers[0].symbol_size = symbol_size;
    scenario.servers[0].payload_size_max = u32::from(symbol_size.bytes()).max(1428);
    scenario.servers[0].fec = fec;
    scenario.hosts[0].disk = DiskPlan {
        store_time: Duration::from_micros(600),
        work_time: Duration::from_millis(2),
        prepare_time: Duration::from_millis(1),
        power: PowerPlan::FlushEvery(FLUSH_EVERY),
        ..GOOD
    };
    if fec != Fec::OFF {
        scenario.hosts[0].faults = Faults { loss: Loss::Random(Ppm::percent(20)), ..PERFECT };
    }
    scenario
}

fn run_one(scenario: &Scenario) -> HostReport {
    run(1, scenario).hosts.remove(0)
}

/// Crashes before each step of the run without a crash, in a run of its own. What was safe is not taken again, if `saves`.
fn crash_at_every_step(scenario: &Scenario, loses_power: bool, saves: bool) {
    let undisturbed = run_one(scenario);
    assert!(undisturbed.step_count > 40, "there are steps to crash at: {undisturbed:?}");
    let mut scenario = scenario.clone();
    let mut over = Vec::new();
    for step in 0..undisturbed.step_count {
        let down = Duration::from_micros(10);
        scenario.hosts[0].crash_at_step = Some(StepCrash { step, down, loses_power });
        let HostReport { symbol_count, at_risk_count, counts, .. } = run_one(&scenario);
        assert_eq!(counts.blocks_failed, 0, "step {step}: a block was put together from what was not so");
        if saves && symbol_count > undisturbed.symbol_count + at_risk_count {
            over.push((step, symbol_count, at_risk_count));
        }
    }
    let (steps, needed) = (undisturbed.step_count, undisturbed.symbol_count);
    assert!(over.is_empty(), "{needed} symbols in {steps} steps; (step, taken, at risk): {over:?}");
}

/// One short block; a whole block and a short one; three blocks of which one is zeroes, and may have to be cleared.
fn truths() -> [(Arc<Truth>, SymbolSize); 3] {
    let mut with_zeroes = vec![0; (2 * MIB + 3000) as usize];
    let mut random = Random::new(3);
    random.fill(&mut with_zeroes[..MIB as usize]);
    random.fill(&mut with_zeroes[2 * MIB as usize..]);
    let random_of = |size| Truth::random(&mut Random::new(size), size, Ppm(0));
    [
        (random_of(60_000), symbol_size(1408)),
        (random_of(MIB + 20_000), symbol_size(8896)),
        (Truth::new(with_zeroes), symbol_size(8896)),
    ]
}

#[test]
fn kill_at_every_step_costs_no_symbol_that_was_written() {
    for fec in [Fec::OFF, Fec::new(50)] {
        for (truth, symbol_size) in truths() {
            crash_at_every_step(&scenario(&truth, symbol_size, fec), false, true);
        }
    }
}

#[test]
fn loss_of_power_at_every_step_costs_no_symbol_that_was_flushed() {
    for fec in [Fec::OFF, Fec::new(50)] {
        for (truth, symbol_size) in truths() {
            crash_at_every_step(&scenario(&truth, symbol_size, fec), true, true);
        }
    }
}

/// The same where the file was there before, wrong in places, and nothing can be said of the map.
#[test]
fn loss_of_power_at_every_step_over_old_bytes_and_with_any_map_is_outlived() {
    for fec in [Fec::OFF, Fec::new(50)] {
        for (truth, symbol_size) in truths() {
            let mut scenario = scenario(&truth, symbol_size, fec);
            scenario.hosts[0].disk.before = Before::Partly(Ppm::percent(99));
            scenario.hosts[0].disk.power = PowerPlan::Hostile;
            crash_at_every_step(&scenario, true, false);
        }
    }
}
