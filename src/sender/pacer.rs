//! When the next packet may go: one absolute schedule, so that errors never add up. Packets go in bursts, because a sleep for
//! each packet would cost more than the packet. A sender that was held up catches up by two bursts at most; what it lost
//! beyond that is counted and never made good.
//!
//! A burst holds what is sent in 1 ms, at most 64 KiB, or what is sent in 200 us if that is more: at 10 Gbit/s a sleep for each 64 KiB
//! took a fifth of the sender's time. Shorter ones buy nothing that a switch's buffer would notice and cost a
//! processor a great deal: on one core of a virtual machine, bursts of 100 / 500 / 1000 us took 22 / 5.7 / 3.4 % of it at 100 Mbit/s
//! and 33 / 10 / 9 % at 1 Gbit/s, and a machine that was busy with other things lost 0.7 / 0.2 / 0.0 % of the time at 100 Mbit/s.

use std::time::Duration;

use super::cadence::HashesCredit;
use super::{Carousel, Share};
use crate::limits::{
    BURST_DURATION, BURST_DURATION_SHORT, BURST_SIZE_MAX, HEADER_SIZE, MANIFEST_EVERY, MANIFEST_INTERVAL_MIN,
    MTU_DEFAULT_MAX, ROUND_DURATION_MIN,
};
use crate::types::{RateBps, Time};

const NANOS_PER_SECOND: u64 = 1_000_000_000;
/// A held-up sender catches up by so many bursts.
const CATCH_UP_BURSTS: u32 = 2;

/// How fast to send.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Pacing {
    /// IP-level bits per second that nobody asked for: a round also takes at least 10 ms.
    DefaultRate(RateBps),
    /// IP-level bits per second.
    Rate(RateBps),
    /// From one packet to the next.
    PacketDelay(Duration),
    /// As fast as the kernel takes them.
    Unpaced,
}

/// How much one round is, hashes packets included: what the least duration of a round is about.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Round {
    /// Data and hashes packets; 0 if the object has neither.
    pub packets: u64,
    /// Their bits at IP level, and those of the manifest packets that go with them.
    pub ip_bits: u128,
    /// Those of them that are of hashes and manifest packets: what one virtual server sends beside its data.
    pub control_ip_bits: u128,
}

impl Round {
    pub(super) fn of(
        carousel: &Carousel,
        credit: &HashesCredit,
        group_count: u32,
        hashes_size: u64,
        manifest_size: usize,
        ip_overhead: u32,
    ) -> Self {
        let data = carousel.round_length();
        let hashes = if data == 0 { u64::from(group_count) } else { credit.per_round(data) };
        let packets = data.saturating_add(hashes);
        let overhead = HEADER_SIZE as u128 + u128::from(ip_overhead);
        let payload = u128::from(carousel.round_bytes()) + u128::from(hashes) * u128::from(hashes_size);
        let manifests = u128::from(data / MANIFEST_EVERY) * (manifest_size as u128 + u128::from(ip_overhead));
        let control = u128::from(hashes) * (u128::from(hashes_size) + overhead) + manifests;
        let all = payload + u128::from(packets) * overhead + manifests;
        Self { packets, ip_bits: 8 * all, control_ip_bits: 8 * control }
    }
}

/// Says when a packet may go, and is told what went.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Pacer {
    unit: Unit,
    rate: Option<RateBps>,
    /// Units cost `nanos / per` each.
    nanos: u64,
    per: u64,
    burst_units: u64,
    /// The moment at which unit 0 was due; moved on by every loss of time. `None` before the first packet.
    anchor: Option<Time>,
    spent: u64,
    burst_end: u64,
    lost: Duration,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Unit {
    Bit,
    Packet,
}

impl Pacer {
    /// The pacer of one virtual server, for an object of which one round is as given. A rate is shared among all of them, to the bit;
    /// a time between packets is kept by each.
    #[must_use]
    pub fn new(pacing: Pacing, round: Round, share: Share) -> Self {
        match pacing {
            _ if round.packets == 0 => Self::per_packet(lone_manifest_interval(pacing)),
            Pacing::Unpaced => Self::per_packet(Duration::ZERO),
            Pacing::PacketDelay(delay) => Self::per_packet(delay),
            Pacing::Rate(rate) => Self::per_bit(part_of(rate, share, &round)),
            Pacing::DefaultRate(rate) => {
                let round_nanos = round.ip_bits * u128::from(NANOS_PER_SECOND) / u128::from(rate.bits_per_second());
                if round_nanos < ROUND_DURATION_MIN.as_nanos() {
                    let per_packet = ROUND_DURATION_MIN.as_nanos().div_ceil(u128::from(round.packets));
                    let per_packet = Duration::from_nanos(u64::try_from(per_packet).expect("10 ms at most"));
                    return Self::per_packet(per_packet * share.count());
                }
                Self::per_bit(part_of(rate, share, &round))
            }
        }
    }

    fn per_bit(rate: RateBps) -> Self {
        let in_time = |time: Duration| {
            let bits = u128::from(rate.bits_per_second()) * time.as_nanos() / u128::from(NANOS_PER_SECOND);
            u64::try_from(bits).expect("a rate fits 48 bits")
        };
        let burst_units = in_time(BURST_DURATION).min(8 * BURST_SIZE_MAX).max(in_time(BURST_DURATION_SHORT)).max(1);
        Self::with_units(Unit::Bit, NANOS_PER_SECOND, rate.bits_per_second(), burst_units, Some(rate))
    }

    fn per_packet(delay: Duration) -> Self {
        let nanos = u64::try_from(delay.as_nanos()).unwrap_or(u64::MAX);
        let burst_units = match nanos {
            0 => u64::MAX,
            nanos => {
                let in_burst = u64::try_from(BURST_DURATION_SHORT.as_nanos()).unwrap_or(u64::MAX) / nanos;
                in_burst.max(1)
            }
        };
        Self::with_units(Unit::Packet, nanos, 1, burst_units, None)
    }

    fn with_units(unit: Unit, nanos: u64, per: u64, burst_units: u64, rate: Option<RateBps>) -> Self {
        Self { unit, rate, nanos, per, burst_units, anchor: None, spent: 0, burst_end: 0, lost: Duration::ZERO }
    }

    /// The rate in IP-level bits per second where there is one.
    #[must_use]
    pub fn rate(&self) -> Option<RateBps> {
        self.rate
    }

    /// The time lost because the machine held the sender up for longer than two bursts.
    #[must_use]
    pub fn lost(&self) -> Duration {
        self.lost
    }

    /// How long one burst lasts on the schedule.
    #[must_use]
    pub fn burst_duration(&self) -> Duration {
        if self.nanos == 0 { Duration::ZERO } else { self.duration_of(self.burst_units) }
    }

    /// `None` if a packet may go at `now`, else when the next one may. At the start of a burst this moves the schedule on if
    /// it is too far behind.
    pub(super) fn wait(&mut self, now: Time) -> Option<Time> {
        if self.spent < self.burst_end || self.nanos == 0 {
            return None;
        }
        let anchor = *self.anchor.get_or_insert(now);
        let due = anchor.after(self.duration_of(self.spent));
        if now < due {
            return Some(due);
        }
        let allowed = self.burst_duration() * CATCH_UP_BURSTS;
        let lost = now.since(due).saturating_sub(allowed);
        self.lost += lost;
        self.anchor = Some(anchor.after(lost));
        self.burst_end = self.spent.saturating_add(self.burst_units);
        None
    }

    /// How many packets of so many bytes at IP level can go before [`Self::wait`] must be asked again.
    pub(super) fn room(&self, ip_size: u64) -> u64 {
        if self.nanos == 0 {
            return u64::MAX;
        }
        self.burst_end.saturating_sub(self.spent).div_ceil(self.units_of(ip_size))
    }

    /// `count` packets of so many bytes each at IP level go.
    pub(super) fn spend(&mut self, ip_size: u64, count: u64) {
        self.spent += self.units_of(ip_size) * count;
    }

    fn units_of(&self, ip_size: u64) -> u64 {
        match self.unit {
            Unit::Bit => 8 * ip_size,
            Unit::Packet => 1,
        }
    }

    fn duration_of(&self, units: u64) -> Duration {
        let nanos = u128::from(units) * u128::from(self.nanos) / u128::from(self.per);
        Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
    }
}

/// What one virtual server sends of the rate of all: the same data as any other, and one of them the control packets besides. One that
/// would get nothing sends a bit a second: nobody asks for that.
fn part_of(rate: RateBps, share: Share, round: &Round) -> RateBps {
    let all = u128::from(rate.bits_per_second());
    let control = all * round.control_ip_bits / round.ip_bits.max(1);
    let control = u64::try_from(control).expect("less than the rate");
    let data = share.part_of(rate.bits_per_second() - control);
    let bits = if share.has_control() { data + control } else { data };
    RateBps::new(bits.max(1)).expect("a part of a rate is a rate")
}

/// An object without data and hashes packets sends a manifest packet a millisecond, or fewer if the pacing asks for that.
fn lone_manifest_interval(pacing: Pacing) -> Duration {
    let asked = match pacing {
        Pacing::Unpaced => Duration::ZERO,
        Pacing::PacketDelay(delay) => delay,
        Pacing::DefaultRate(_) => ROUND_DURATION_MIN,
        Pacing::Rate(rate) => {
            // The largest packet at the rate: slower than asked rather than faster.
            let bits = 8 * u64::from(MTU_DEFAULT_MAX);
            Duration::from_nanos(bits.saturating_mul(NANOS_PER_SECOND) / rate.bits_per_second())
        }
    };
    asked.max(MANIFEST_INTERVAL_MIN)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const GIB: Round = Round { packets: 762_880, ip_bits: 9_033_000_000, control_ip_bits: 120_000_000 };
    const ONE_PACKET: Round = Round { packets: 1, ip_bits: 8 * 73, control_ip_bits: 0 };

    fn pacer(pacing: Pacing) -> Pacer {
        Pacer::new(pacing, GIB, Share::WHOLE)
    }

    fn rate(bits: u64) -> RateBps {
        RateBps::new(bits).unwrap()
    }

    /// Sends packets of 1480 bytes from 0 to `until`, waking `late` after each deadline; returns how many went.
    fn run(pacer: &mut Pacer, until: Time, late: Duration) -> u64 {
        let (mut now, mut packets) = (Time::from_nanos(0), 0);
        while now < until {
            match pacer.wait(now) {
                Some(due) => now = due.after(late),
                None => {
                    pacer.spend(1480, 1);
                    packets += 1;
                }
            }
        }
        packets
    }

    #[test]
    fn rate_is_exact_over_ten_seconds() {
        for bits in [1_000_000, 100_000_000, 2_500_000_000, 10_000_000_000] {
            let mut pacer = pacer(Pacing::Rate(rate(bits)));
            let packets = run(&mut pacer, Time::from_nanos(10_000_000_000), Duration::ZERO);
            let (ideal, burst) = (10.0 * bits as f64 / (8.0 * 1480.0), pacer.burst_units as f64 / (8.0 * 1480.0));
            assert!((packets as f64 - ideal).abs() < 2.0 + burst + ideal * 1e-6, "{bits}: {packets} for {ideal}");
        }
    }

    #[test]
    fn bursts_last_between_200_us_and_1_ms_or_hold_64_kib() {
        let burst = |bits| pacer(Pacing::Rate(rate(bits))).burst_duration();
        assert_eq!(burst(100_000_000), Duration::from_millis(1));
        assert_eq!(burst(1_000_000_000), Duration::from_nanos(524_288));
        assert_eq!(burst(10_000_000_000), Duration::from_micros(200));
        let delay = |micros| pacer(Pacing::PacketDelay(Duration::from_micros(micros))).burst_duration();
        assert_eq!((delay(1), delay(300)), (Duration::from_micros(200), Duration::from_micros(300)));
    }

    #[test]
    fn waking_late_within_two_bursts_loses_nothing() {
        let mut pacer = pacer(Pacing::Rate(rate(1_000_000_000)));
        let late = pacer.burst_duration();
        let packets = run(&mut pacer, Time::from_nanos(1_000_000_000), late);
        assert_eq!(pacer.lost(), Duration::ZERO);
        assert!((84_300..84_600).contains(&packets), "{packets}");
    }

    #[test]
    fn time_beyond_two_bursts_is_lost_and_counted() {
        let mut pacer = pacer(Pacing::PacketDelay(Duration::from_millis(1)));
        assert_eq!(pacer.wait(Time::from_nanos(0)), None);
        pacer.spend(1480, 1);
        let mut burst = 0;
        let late = Time::from_nanos(1_000_000_000);
        while pacer.wait(late).is_none() {
            pacer.spend(1480, 1);
            burst += 1;
        }
        assert_eq!(burst, 3, "two bursts to catch up and the one that is due");
        assert_eq!(pacer.lost(), Duration::from_millis(997));
    }

    #[test]
    fn packet_delay_counts_from_packet_to_packet() {
        let delay = Duration::from_micros(10);
        let packets = run(&mut pacer(Pacing::PacketDelay(delay)), Time::from_nanos(1_000_000_000), Duration::ZERO);
        assert!((100_000..=100_010).contains(&packets), "{packets}");
    }

    #[test]
    fn tiny_object_does_not_flood_at_the_default_rate() {
        let mut pacer = Pacer::new(Pacing::DefaultRate(rate(100_000_000)), ONE_PACKET, Share::WHOLE);
        assert_eq!(run(&mut pacer, Time::from_nanos(1_000_000_000), Duration::ZERO), 100);
        let mut asked = Pacer::new(Pacing::Rate(rate(100_000_000)), ONE_PACKET, Share::WHOLE);
        assert!(run(&mut asked, Time::from_nanos(1_000_000_000), Duration::ZERO) > 8000);
    }

    #[test]
    fn virtual_servers_share_the_rate_to_the_bit() {
        let total = 10_000_000_007;
        let shares = (0..7).map(|index| Share::new(index, 7).unwrap());
        let pacers = shares.clone().map(|share| Pacer::new(Pacing::Rate(rate(total)), GIB, share));
        assert_eq!(pacers.map(|pacer| pacer.rate().unwrap().bits_per_second()).sum::<u64>(), total);
        let tiny = |share| Pacer::new(Pacing::DefaultRate(rate(100_000_000)), ONE_PACKET, share);
        let packets = shares.map(|share| run(&mut tiny(share), Time::from_nanos(1_000_000_000), Duration::ZERO));
        assert!((98..=107).contains(&packets.sum::<u64>()), "a round in 10 ms, whoever sends it");
    }

    #[test]
    fn object_without_data_sends_at_most_one_packet_a_millisecond() {
        let mut pacer = Pacer::new(Pacing::Unpaced, Round::default(), Share::WHOLE);
        assert_eq!(run(&mut pacer, Time::from_nanos(1_000_000_000), Duration::ZERO), 1000);
    }

    proptest! {
        /// Whatever the moments at which it is asked: never more than the schedule and the bursts it may catch up by.
        #[test]
        fn no_window_exceeds_the_rate_by_more_than_the_catch_up(
            bits in 1_000_000u64..20_000_000_000, steps in prop::collection::vec(0u64..3_000_000, 1..200),
        ) {
            let mut pacer = pacer(Pacing::Rate(rate(bits)));
            let (mut now, mut sent, mut marks) = (Time::from_nanos(0), 0u64, Vec::new());
            for step in steps {
                while pacer.wait(now).is_none() {
                    marks.push((now, sent));
                    pacer.spend(1480, 1);
                    sent += 8 * 1480;
                }
                now = now.after(Duration::from_nanos(step));
            }
            let slack = 3 * pacer.burst_units + 4 * 8 * 1480;
            for (i, &(from, before)) in marks.iter().enumerate().step_by(marks.len() / 20 + 1) {
                for &(to, after) in marks[i..].iter().step_by(marks.len() / 20 + 1) {
                    let allowed = u128::from(to.since(from).as_nanos() as u64) * u128::from(bits) / 1_000_000_000;
                    prop_assert!(u128::from(after - before) <= allowed + u128::from(slack));
                }
            }
        }
    }
}
