//! Packets a second against `PKT_DELAY`, by both engines: one virtual server of the real loop, full headers and checksums.
//!
//! Without a delay there is no ideal: the machine is the limit. A sender that the machine has no time for loses it and never makes it
//! good; how much that was, and the ratio over the rest, is told beside.

mod support;

use std::time::Duration;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use iotupd::drive::bench::{Manner, OurSender};
use iotupd::drive::serve::{EngineChoice, ImageChoice};
use iotupd::sender::{Fec, Pacing};

use support::{Noise, Tally, print_machine, say, way};

const DELAYS_US: [u64; 9] = [0, 1, 2, 5, 10, 20, 50, 100, 1000];
const ENGINES: [EngineChoice; 2] = [EngineChoice::Uring, EngineChoice::Sendmmsg];
/// Some bursts: what the server was held up for between two samples is made good by then.
const SETTLING: Duration = Duration::from_millis(3);

fn pps_vs_pkt_delay(criterion: &mut Criterion) {
    print_machine();
    let (way, noise) = (way(), Noise::new());
    let mut group = criterion.benchmark_group("pps_vs_pkt_delay");
    group.sample_size(10).warm_up_time(Duration::from_millis(300)).measurement_time(Duration::from_secs(1));
    group.throughput(Throughput::Elements(1));
    let mut lines = Vec::new();
    for engine in ENGINES {
        for delay in DELAYS_US {
            let pacing = if delay == 0 { Pacing::Unpaced } else { Pacing::PacketDelay(Duration::from_micros(delay)) };
            let mut tally = Tally::default();
            let result = OurSender::with(
                &way,
                &noise.path,
                Manner { engine, pacing, fec: Fec::OFF, image: ImageChoice::Off },
                |sender| {
                    if delay == 0 {
                        // Every payload has been hashed once.
                        sender.send_packets(sender.round_length()).expect("send one pass");
                    }
                    group.bench_function(BenchmarkId::new(sender.engine_name(), format!("{delay}us")), |bencher| {
                        bencher.iter_custom(|count| {
                            sender.settle(SETTLING).expect("send");
                            let lost = sender.lost();
                            let time = tally.measure(count, |count| sender.send_packets(count).expect("send"));
                            tally.lost += sender.lost() - lost;
                            time
                        });
                    });
                    sender.engine_name()
                },
            );
            match result {
                // A filter of the command line can leave nothing to tell.
                Ok(name) if tally.per_second() > 0.0 => lines.push(line(name, delay, &tally)),
                Ok(_) => {}
                Err(failure) => lines.push(format!("{engine:?} is not to be had here: {failure}")),
            }
        }
    }
    group.finish();
    say("engine    PKT_DELAY     packets/s         ideal   ratio    lost %   ratio without what was lost");
    lines.iter().for_each(|line| say(line));
}

fn line(engine: &str, delay: u64, tally: &Tally) -> String {
    let per_second = tally.per_second();
    match delay {
        0 => format!("{engine:9} {delay:6} us {per_second:13.0}             -       -         -        -"),
        _ => {
            let ideal = 1e6 / delay as f64;
            let (ratio, kept) = (per_second / ideal, tally.per_second_kept() / ideal);
            let lost = tally.lost_percent();
            format!("{engine:9} {delay:6} us {per_second:13.0} {ideal:13.0}  {ratio:6.4} {lost:9.2}   {kept:6.4}")
        }
    }
}

criterion_group!(benches, pps_vs_pkt_delay);
criterion_main!(benches);
