//! Scenarios: a plain one to begin with, and one drawn from a seed with every fault at once.

use std::sync::Arc;
use std::time::Duration;

use iotupd::manifest::PublicKey;
use iotupd::receiver::{ClockUnset, ReceiverConfig, Trust};
use iotupd::sender::{Fec, Pacing};
use iotupd::types::{RateBps, SymbolSize, Time};

use crate::disk::{Before, DiskPlan, GOOD, PowerPlan};
use crate::forger::{ForgerPlan, Forgery, HARMFUL, Mask, SIGNATURES};
use crate::host::{Crash, HostPlan};
use crate::network::{Faults, Loss, PERFECT};
use crate::random::{Ppm, Random};
use crate::signer::FIRST;
use crate::truth::{Truth, random_bytes};
use crate::world::{Expect, IP_OVERHEAD, Restart, Scenario, ServerPlan};

/// Bytes of a block.
const MIB: u64 = 1 << 20;
/// Objects smaller than that are sent at the default rate or with a delay, so that a scenario has few packets.
const SMALL: u64 = 65_536;
/// The version of signed objects.
const VERSION: u64 = 7;
/// Passes after the last fault in which a receiver must have the object, whatever happened before. Without repair symbols 30 % loss
/// takes ten, and false descriptions, each of which may be followed for a while, take many more.
const PASS_COUNT_MAX: u32 = 600;
/// Silence and forged addresses are waited out.
const PATIENCE: Duration = Duration::from_secs(90);

pub(crate) fn seconds(seconds: u64) -> Time {
    Time::from_nanos(seconds * 1_000_000_000)
}

pub(crate) fn rate(bits_per_second: u64) -> Pacing {
    Pacing::Rate(RateBps::new(bits_per_second).expect("a rate"))
}

pub(crate) fn symbol_size(bytes: u16) -> SymbolSize {
    SymbolSize::new(bytes).expect("a symbol size")
}

/// A receiver without limits, on a good network with a good disk.
pub(crate) fn plain_host(join: Time) -> HostPlan {
    let config = ReceiverConfig { size_max: 1 << 40, timeout: None, idle_timeout: None, decode: true };
    HostPlan {
        join,
        faults: PERFECT,
        disk: GOOD,
        config,
        trust: None,
        absences: Vec::new(),
        crashes: Vec::new(),
        crash_at_step: None,
    }
}

/// What only the first key vouches for, from a version on.
pub(crate) fn trust(version_min: u64, seed: u64) -> Trust {
    let keys = vec![PublicKey::parse(FIRST.public()).expect("a key")];
    Trust { keys, version_min, compatible: None, clock_unset: ClockUnset::Refuse, seed }
}

pub(crate) fn plain_server(truth: &Arc<Truth>, pacing: Pacing) -> ServerPlan {
    ServerPlan {
        truth: Arc::clone(truth),
        symbol_size: symbol_size(1408),
        payload_size_max: 1428,
        pacing,
        start_ppm: 0,
        oversleep: Duration::ZERO,
        restarts: Vec::new(),
        fec: Fec::OFF,
    }
}

/// One server at 100 Mbit/s, one receiver from the start, an hour to complete.
pub(crate) fn plain(truth: &Arc<Truth>) -> Scenario {
    Scenario {
        servers: vec![plain_server(truth, rate(100_000_000))],
        hosts: vec![plain_host(Time::default())],
        forgers: Vec::new(),
        truths: vec![Arc::clone(truth)],
        deadline: seconds(3600),
        expect: Expect::Complete,
    }
}

/// Everything at once.
pub(crate) fn draw(seed: u64) -> Scenario {
    Draw::new(seed).scenario()
}

struct Draw {
    random: Random,
    truth: Arc<Truth>,
    /// Receivers ask for a signature.
    is_signed: bool,
    symbol_size: SymbolSize,
    /// How long a pass of one server takes.
    pass: Duration,
    /// How long a packet takes.
    packet: Duration,
    pacing: Pacing,
    last_fault: Time,
}

impl Draw {
    fn new(seed: u64) -> Self {
        // Another stream than that of the run.
        let mut random = Random::new(!seed);
        let size = object_size(&mut random);
        let zero = random.pick(&[Ppm(0), Ppm(0), Ppm::percent(30), Ppm::percent(80), Ppm::percent(100)]);
        let bytes = random_bytes(&mut random, size, zero);
        let is_signed = random.chance(Ppm::percent(30));
        let truth = if is_signed { Truth::signed(bytes, VERSION, &FIRST) } else { Truth::new(bytes) };
        let symbol_size = any_symbol_size(&mut random);
        let (packets, bytes) = truth.round(symbol_size, 44 + u64::from(IP_OVERHEAD));
        let (pacing, pass) = if bytes < SMALL {
            let delay = Duration::from_micros(random.within(200..=2000));
            let slowest = delay * packets.max(10) as u32;
            match random.chance(Ppm::percent(50)) {
                true => (Pacing::PacketDelay(delay), slowest),
                false => (Pacing::DefaultRate(RateBps::new(100_000_000).expect("a rate")), slowest),
            }
        } else {
            let pass = Duration::from_millis(random.within(30..=800));
            let bits_per_second = 8 * u128::from(bytes) * 1_000_000_000 / pass.as_nanos();
            (rate(bits_per_second as u64), pass)
        };
        let packet = pass / packets.max(10) as u32;
        Self { random, truth, is_signed, symbol_size, pass, packet, pacing, last_fault: Time::default() }
    }

    fn scenario(mut self) -> Scenario {
        let server_count = self.random.pick(&[1, 1, 1, 2, 2, 3, 5]);
        let mut servers: Vec<_> = (0..server_count).map(|index| self.server(index, server_count)).collect();
        let mut truths = vec![Arc::clone(&self.truth)];
        if self.random.chance(Ppm::percent(15)) {
            // Another object on the group, sent in earnest: whichever manifest comes first decides.
            let size = self.random.below(MIB);
            let other = Truth::random(&mut self.random, size, Ppm(0));
            servers.push(plain_server(&other, self.pacing));
            truths.push(other);
        }
        let host_count = self.random.pick(&[1, 1, 1, 2, 4]);
        let hosts: Vec<_> = (0..host_count).map(|_| self.host()).collect();
        if self.is_signed && self.often(50) {
            // Somebody replays what is true no longer, or has yet to be.
            let size = self.random.below(MIB);
            let bytes = random_bytes(&mut self.random, size, Ppm(0));
            let old = Truth::signed(bytes, VERSION - 1, &FIRST);
            servers.push(plain_server(&old, self.pacing));
            truths.push(old);
        }
        let forger_count = self.random.pick(&[0, 0, 0, 1, 2]);
        let mut forgers: Vec<_> = (0..forger_count).map(|_| self.forger()).collect();
        if self.often(40) {
            forgers.push(self.repairer());
        }
        let deadline = self.last_fault.after(self.pass * PASS_COUNT_MAX).after(PATIENCE);
        Scenario { servers, hosts, forgers, truths, deadline, expect: Expect::Complete }
    }

    fn often(&mut self, percent: u64) -> bool {
        self.random.chance(Ppm::percent(percent))
    }

    /// A moment within the first passes.
    fn moment(&mut self, passes: u32) -> Time {
        let at = Time::default().after(self.random.span(self.pass * passes));
        self.last_fault = self.last_fault.max(at);
        at
    }

    fn server(&mut self, index: u32, count: u32) -> ServerPlan {
        // Some have another symbol size, so that there are two sessions.
        let symbol_size = if self.often(8) { any_symbol_size(&mut self.random) } else { self.symbol_size };
        let restart_count = self.random.pick(&[0, 0, 0, 1, 3]);
        let restarts = (0..restart_count).map(|_| self.restart()).collect();
        let oversleep = Duration::from_micros(self.random.pick(&[0, 0, 50, 1000]));
        let start_ppm = match self.often(50) {
            true => 1_000_000 / count * index,
            false => self.random.below(1_000_000) as u32,
        };
        ServerPlan {
            truth: Arc::clone(&self.truth),
            symbol_size,
            payload_size_max: u32::from(symbol_size.bytes()) + self.random.below(64) as u32,
            pacing: self.pacing,
            start_ppm,
            oversleep,
            restarts,
            fec: Fec::OFF,
        }
    }

    fn restart(&mut self) -> Restart {
        let at = self.moment(4);
        let down = self.random.span(self.pass);
        self.last_fault = self.last_fault.max(at.after(down));
        Restart { at, down, start_ppm: self.random.below(1_000_000) as u32 }
    }

    fn faults(&mut self) -> Faults {
        let loss = self.random.pick(&[0, 0, 1, 2, 5, 10, 20, 30]);
        let loss = match self.random.pick(&[0, 0, 20, 200]) {
            0 => Loss::Random(Ppm::percent(loss)),
            length_mean => Loss::Bursts { loss: Ppm::percent(loss), length_mean },
        };
        let damaged = [Ppm(0), Ppm(0), Ppm(1000), Ppm::percent(2)];
        let jitter_packets = self.random.pick(&[0, 0, 3, 100]);
        let straggle_packets = self.random.pick(&[100, 300, 3000]);
        Faults {
            loss,
            duplicate: self.random.pick(&[Ppm(0), Ppm(0), Ppm::percent(1), Ppm::percent(50)]),
            delay: self.random.span(Duration::from_millis(5)),
            jitter: self.packet * jitter_packets,
            stragglers: self.random.pick(&[Ppm(0), Ppm(0), Ppm::percent(1), Ppm::percent(10)]),
            straggle: self.packet * straggle_packets,
            flip: self.random.pick(&damaged),
            cut: self.random.pick(&damaged),
        }
    }

    fn disk(&mut self) -> DiskPlan {
        let before = match self.random.pick(&[0, 0, 0, 1, 2, 3]) {
            0 => Before::Nothing,
            1 => Before::Partly(Ppm(0)),
            2 => Before::Partly(Ppm(999_900)),
            _ => Before::Partly(Ppm::percent(100)),
        };
        let (store_packets, work_packets) = (self.random.pick(&[0, 0, 5, 300]), self.random.pick(&[0, 0, 5, 300]));
        DiskPlan {
            before,
            store_time: self.packet * store_packets,
            work_time: self.packet * work_packets,
            prepare_time: self.packet * self.random.pick(&[0, 10, 1000]),
            store_failure: self.random.pick(&[Ppm(0), Ppm(0), Ppm(500), Ppm::percent(2)]),
            work_failure: self.random.pick(&[Ppm(0), Ppm(0), Ppm::percent(1), Ppm::percent(10)]),
            worker_count: self.random.within(1..=4) as usize,
            power: PowerPlan::Hostile,
        }
    }

    fn host(&mut self) -> HostPlan {
        let join = self.moment(2);
        let crash_count = self.random.pick(&[0, 0, 1, 4]);
        let crashes = (0..crash_count).map(|_| self.crash()).collect();
        let absence_count = self.random.pick(&[0, 0, 0, 2]);
        let absences = (0..absence_count).map(|_| (self.moment(4), self.random.span(self.pass))).collect();
        let config = ReceiverConfig { decode: self.often(85), ..plain_host(join).config };
        let trust = self.is_signed.then(|| trust(VERSION, self.random.bits()));
        HostPlan { config, faults: self.faults(), disk: self.disk(), trust, absences, crashes, ..plain_host(join) }
    }

    fn crash(&mut self) -> Crash {
        Crash { at: self.moment(4), down: self.random.span(self.pass), loses_power: self.often(60) }
    }

    /// Sends true repair symbols to the end, in no order.
    fn repairer(&mut self) -> ForgerPlan {
        let (from, every) = (self.moment(2), self.packet * self.random.within(1..=20) as u32);
        ForgerPlan {
            truth: Arc::clone(&self.truth),
            symbol_size: self.symbol_size,
            kinds: vec![Forgery::Repair, Forgery::Repair, Forgery::Repair, Forgery::Control],
            mask: Mask::Own(7),
            from,
            until: Time::from_nanos(u64::MAX),
            every,
        }
    }

    fn forger(&mut self) -> ForgerPlan {
        let mut kinds: Vec<_> = HARMFUL.into_iter().filter(|_| self.random.chance(Ppm::percent(40))).collect();
        kinds.extend([Forgery::Regrouped, Forgery::Control]);
        if self.is_signed {
            kinds.extend(SIGNATURES);
        }
        let mask = match self.random.below(3) {
            0 => Mask::Own(1),
            1 => Mask::Many(self.random.within(1..=300) as u16),
            _ => Mask::Server(0),
        };
        let (from, until) = (self.moment(2), self.moment(5));
        let every = self.packet * self.random.within(1..=40) as u32;
        ForgerPlan { truth: Arc::clone(&self.truth), symbol_size: self.symbol_size, kinds, mask, from, until, every }
    }
}

fn object_size(random: &mut Random) -> u64 {
    match random.below(10) {
        0 => 0,
        1 => 1,
        2 => random.below(10_000),
        3 => random.below(MIB),
        // Just at and about the edges of blocks.
        4 => (random.within(1..=4) * MIB + random.below(3)).saturating_sub(1),
        5 => random.within(1..=2) * MIB + random.below(9000),
        _ => random.below(6 * MIB),
    }
}

fn any_symbol_size(random: &mut Random) -> SymbolSize {
    match random.below(4) {
        0 => symbol_size(1408),
        1 => symbol_size(random.pick(&[512, 1152, 8896])),
        _ => symbol_size(random.within(8..=139) as u16 * 64),
    }
}
