//! What an engine makes of one core, beside the most that the kernel takes: the blast, which sends the same hot 64 KiB by GSO for ever.
//!
//! Ours composes every packet from a file larger than the caches, with header and checksum; the payloads' hashes are remembered
//! from an earlier pass. Nobody receives. The ratio to the blast is the figure to compare: both drift with the machine.

mod support;

use std::time::Duration;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use iotupd::drive::bench::{Blast, DATAGRAM_SIZE, OurSender};
use iotupd::drive::serve::EngineChoice;
use iotupd::sender::Pacing;

use support::{Noise, Tally, print_machine, say, way};

const ENGINES: [EngineChoice; 2] = [EngineChoice::Uring, EngineChoice::Sendmmsg];
/// Turns that the engines take: a machine that slows down slows all of them.
const TURN_COUNT: u32 = 10;
/// Packets of one turn: some tenths of a second.
const TURN_PACKETS: u64 = 1_000_000;

fn engines(criterion: &mut Criterion) {
    print_machine();
    let (way, noise) = (way(), Noise::new());
    let mut blast = Blast::new(&way).expect("open a socket");
    let mut group = criterion.benchmark_group("engines");
    group.sample_size(10).warm_up_time(Duration::from_millis(500)).measurement_time(Duration::from_secs(3));
    group.throughput(Throughput::Bytes(DATAGRAM_SIZE as u64));
    group.bench_function("blast", |bencher| {
        bencher.iter_custom(|count| Tally::default().measure(count, |count| blast.send_packets(count).expect("send")));
    });
    for engine in ENGINES {
        let result = OurSender::with(&way, &noise.path, engine, Pacing::Unpaced, |sender| {
            sender.send_packets(sender.round_length()).expect("send one pass");
            group.bench_function(BenchmarkId::from_parameter(sender.engine_name()), |bencher| {
                bencher.iter_custom(|count| {
                    Tally::default().measure(count, |count| sender.send_packets(count).expect("send"))
                });
            });
        });
        if let Err(failure) = result {
            say(&format!("{engine:?} is not to be had here: {failure}"));
        }
    }
    group.finish();
    compare(&way, &noise, &mut blast);
}

/// All in turn, so that what the machine does besides meets all alike.
fn compare(way: &iotupd::drive::bench::Way, noise: &Noise, blast: &mut Blast) {
    say("engine          Gbit/s of UDP payload, one core    of the blast");
    for engine in ENGINES {
        let (mut most, mut ours) = (Tally::default(), Tally::default());
        let result = OurSender::with(way, &noise.path, engine, Pacing::Unpaced, |sender| {
            sender.send_packets(sender.round_length()).expect("send one pass");
            for _ in 0..TURN_COUNT {
                most.measure(TURN_PACKETS, |count| blast.send_packets(count).expect("send"));
                ours.measure(TURN_PACKETS, |count| sender.send_packets(count).expect("send"));
            }
            sender.engine_name()
        });
        if let Ok(name) = result {
            let gbits = |tally: Tally| tally.per_second() * DATAGRAM_SIZE as f64 * 8e-9;
            let ratio = ours.per_second() / most.per_second();
            say(&format!("{name:9} {:10.1} (blast {:.1}) {ratio:25.3}", gbits(ours), gbits(most)));
        }
    }
}

criterion_group!(benches, engines);
criterion_main!(benches);
