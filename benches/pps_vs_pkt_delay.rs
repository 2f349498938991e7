//! Packets a second against `PKT_DELAY`, by both engines: one virtual server of the real loop, full headers and checksums.
//!
//! Criterion's samples are short. How exact the rate is shows over seconds, so that each delay is measured once more in one stretch:
//! packets sent, against the time divided by the delay. A sender that the machine has no time for catches up by two bursts and loses
//! what is beyond that for good (`sender::pacer`): how much that was is told beside, and the error is that over the rest.
//!
//! Without a delay there is no ideal: the machine is the limit, as it is for a delay of which much of the time is lost.

mod support;

use std::time::Duration;

use criterion::measurement::WallTime;
use criterion::{BenchmarkGroup, BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use iotupd::drive::bench::{Manner, OurSender};
use iotupd::drive::serve::{EngineChoice, ImageChoice};
use iotupd::sender::{Fec, Pacing};
use iotupd::sys::clock;

use support::{Noise, Tally, is_measuring, keep, print_machine, say, way};

const DELAYS_US: [u64; 9] = [0, 1, 2, 5, 10, 20, 50, 100, 1000];
const ENGINES: [EngineChoice; 2] = [EngineChoice::Uring, EngineChoice::Sendmmsg];
/// Some bursts: what the server was held up for between two samples is made good by then.
const SETTLING: Duration = Duration::from_millis(5);
/// A sender may be two bursts late at the end of it, 0.4 ms, or 2 ms with the longest delay: less than 0.1 % of this.
const STRETCH: Duration = Duration::from_secs(3);
const COLUMNS: [&str; 6] =
    ["engine", "pkt_delay_us", "packets_per_second", "ideal_per_second", "lost_percent", "error_percent"];

fn pps_vs_pkt_delay(criterion: &mut Criterion) {
    print_machine();
    let (way, noise) = (way(), Noise::new());
    let mut group = criterion.benchmark_group("pps_vs_pkt_delay");
    group.sample_size(10).warm_up_time(Duration::from_millis(300)).measurement_time(Duration::from_secs(1));
    group.throughput(Throughput::Elements(1));
    let mut rows = Vec::new();
    for engine in ENGINES {
        for delay in DELAYS_US {
            let pacing = if delay == 0 { Pacing::Unpaced } else { Pacing::PacketDelay(Duration::from_micros(delay)) };
            let result = OurSender::with(
                &way,
                &noise.path,
                Manner { engine, pacing, fec: Fec::OFF, image: ImageChoice::Off, remembers_hashes: true },
                |sender| {
                    if delay == 0 {
                        // Every payload has been hashed once.
                        sender.send_packets(sender.round_length()).expect("send one pass");
                    }
                    // A filter of the command line can leave it out.
                    let is_wanted = sample(&mut group, sender, delay);
                    (is_wanted && is_measuring()).then(|| row(sender.engine_name(), delay, &stretch(sender)))
                },
            );
            match result {
                Ok(row) => rows.extend(row),
                Err(failure) => say(&format!("{engine:?} is not to be had here: {failure}")),
            }
        }
    }
    group.finish();
    print(&rows);
    let (what, row_count) =
        ("packets per second of one virtual server against PKT_DELAY", ENGINES.len() * DELAYS_US.len());
    keep("pps_vs_pkt_delay", what, &COLUMNS, &rows, row_count);
}

/// Criterion's own samples; whether it took any.
fn sample(group: &mut BenchmarkGroup<'_, WallTime>, sender: &mut OurSender<'_>, delay: u64) -> bool {
    let mut is_wanted = false;
    group.bench_function(BenchmarkId::new(sender.engine_name(), format!("{delay}us")), |bencher| {
        is_wanted = true;
        bencher.iter_custom(|count| {
            sender.settle(SETTLING).expect("send");
            Tally::default().measure(count, |count| sender.send_packets(count).expect("send"))
        });
    });
    is_wanted
}

/// What comes of one uninterrupted stretch.
fn stretch(sender: &mut OurSender<'_>) -> Tally {
    sender.settle(SETTLING).expect("send");
    let (lost, end) = (sender.lost(), clock::now().after(STRETCH));
    let mut tally = Tally::default();
    tally.measure(1, |_| {
        let mut sent = 0;
        while clock::now() < end {
            sent += sender.send_packets(1).expect("send");
        }
        sent
    });
    tally.lost = sender.lost() - lost;
    tally
}

fn row(engine: &str, delay: u64, tally: &Tally) -> Vec<String> {
    let ideal = 1e6 / delay as f64;
    let (ideal, error) = match delay {
        0 => (String::new(), String::new()),
        _ => (format!("{ideal:.1}"), format!("{:.4}", 100.0 * (tally.per_second_kept() / ideal - 1.0))),
    };
    let (per_second, lost) = (format!("{:.1}", tally.per_second()), format!("{:.3}", tally.lost_percent()));
    vec![engine.to_owned(), delay.to_string(), per_second, ideal, lost, error]
}

fn print(rows: &[Vec<String>]) {
    if !rows.is_empty() {
        say("engine    PKT_DELAY us    packets/s        ideal   lost %   error % without what was lost");
    }
    for row in rows {
        let [engine, delay, per_second, ideal, lost, error] = row.as_slice() else { continue };
        say(&format!("{engine:9} {delay:>12} {per_second:>12} {ideal:>12} {lost:>8} {error:>9}"));
    }
}

criterion_group!(benches, pps_vs_pkt_delay);
criterion_main!(benches);
