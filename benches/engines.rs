//! What an engine makes of one core, beside the most that the kernel takes: the blast, which sends the same hot 64 KiB by GSO for ever.
//!
//! Between the two stand the copies: the same, but every payload is first copied from the file, which costs more than the kernel does
//! where the file is not in the cache. Ours composes every packet from a file larger than the caches, with header and checksum; the payloads' hashes are remembered
//! from an earlier pass. Nobody receives. The ratio to the blast is the figure to compare: both drift with the machine.

mod support;

use std::time::Duration;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use iotupd::drive::bench::{Blast, DATAGRAM_SIZE, Manner, Object, OurSender, SYMBOL_SIZE, Way};
use iotupd::drive::serve::{EngineChoice, ImageChoice};
use iotupd::sender::{Fec, Pacing};

use support::{Noise, Tally, print_machine, say, way};

const ENGINES: [EngineChoice; 2] = [EngineChoice::Uring, EngineChoice::Sendmmsg];
/// Turns that the engines take: a machine that slows down slows all of them.
const TURN_COUNT: u32 = 10;
/// Symbols that fill an MTU of 9000.
const SYMBOL_SIZE_JUMBO: u16 = 8896;
/// Packets of one turn: some tenths of a second.
const TURN_PACKETS: u64 = 500_000;

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
    let (object, mut next) = (Object::open(&noise.path).expect("map the file"), 0);
    group.bench_function("copies", |bencher| {
        let mut send = |count| blast.send_copies(&object, SYMBOL_SIZE.into(), &mut next, count).expect("send");
        bencher.iter_custom(|count| Tally::default().measure(count, &mut send));
    });
    group.bench_function("gathers", |bencher| {
        let mut send = |count| blast.send_gathered(&object, SYMBOL_SIZE.into(), &mut next, count).expect("send");
        bencher.iter_custom(|count| Tally::default().measure(count, &mut send));
    });
    for engine in ENGINES {
        let result = OurSender::with(&way, &noise.path, unpaced(engine), |sender| {
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
    compare(&way, &noise, &object, &mut blast);
    compare_gathering(&object, &mut blast);
    compare_image(&way, &noise, &mut blast);
}

/// What it brings not to copy. Worth a look on a device that cuts messages into packets by itself, as an `ifb` device does.
fn compare_image(way: &Way, noise: &Noise, blast: &mut Blast) {
    let image = Manner { image: ImageChoice::On, ..unpaced(EngineChoice::Uring) };
    let (mut most, mut ours) = (Tally::default(), Tally::default());
    let result = OurSender::with(way, &noise.path, image, |sender| {
        sender.send_packets(sender.round_length()).expect("send one pass");
        for _ in 0..TURN_COUNT {
            most.measure(TURN_PACKETS, |count| blast.send_packets(count).expect("send"));
            ours.measure(TURN_PACKETS, |count| sender.send_packets(count).expect("send"));
        }
    });
    match result {
        Err(failure) => say(&format!("a packet image is not to be had here: {failure}")),
        Ok(()) => {
            let [most, ours] = [most, ours].map(|tally| tally.per_second() * DATAGRAM_SIZE as f64 * 8e-9);
            say(&format!("blast {most:6.1}  packet image {ours:6.1}  {:.3}", ours / most));
        }
    }
}

/// Whether it pays to let the kernel gather what the virtual servers copy.
fn compare_gathering(object: &Object, blast: &mut Blast) {
    say("Gbit/s of payload, one core: headers and payloads copied together, or gathered by the kernel");
    for symbol_size in [SYMBOL_SIZE, SYMBOL_SIZE_JUMBO].map(usize::from) {
        let (mut copies, mut gathers, mut next) = (Tally::default(), Tally::default(), 0);
        let packets = TURN_PACKETS * u64::from(SYMBOL_SIZE) / symbol_size as u64;
        for _ in 0..TURN_COUNT {
            copies.measure(packets, |count| blast.send_copies(object, symbol_size, &mut next, count).expect("send"));
            gathers.measure(packets, |count| blast.send_gathered(object, symbol_size, &mut next, count).expect("send"));
        }
        let [copied, gathered] = [copies, gathers].map(|tally| tally.per_second() * symbol_size as f64 * 8e-9);
        say(&format!(
            "symbols of {symbol_size}: copied {copied:6.1}  gathered {gathered:6.1}  {:.3}",
            gathered / copied
        ));
    }
}

/// Block after block, as `--fec 0 --rate max` does it.
fn unpaced(engine: EngineChoice) -> Manner {
    Manner { engine, pacing: Pacing::Unpaced, fec: Fec::OFF, image: ImageChoice::Off }
}

/// All in turn, so that what the machine does besides meets all alike.
fn compare(way: &Way, noise: &Noise, object: &Object, blast: &mut Blast) {
    say("Gbit/s of UDP payload, one core, and the share of the blast and of the copies");
    for engine in ENGINES {
        let (mut most, mut copies, mut ours) = (Tally::default(), Tally::default(), Tally::default());
        let mut next = 0;
        let result = OurSender::with(way, &noise.path, unpaced(engine), |sender| {
            sender.send_packets(sender.round_length()).expect("send one pass");
            for _ in 0..TURN_COUNT {
                most.measure(TURN_PACKETS, |count| blast.send_packets(count).expect("send"));
                copies.measure(TURN_PACKETS, |count| {
                    blast.send_copies(object, SYMBOL_SIZE.into(), &mut next, count).expect("send")
                });
                ours.measure(TURN_PACKETS, |count| sender.send_packets(count).expect("send"));
            }
            sender.engine_name()
        });
        if let Ok(name) = result {
            let [most, copies, ours] =
                [most, copies, ours].map(|tally| tally.per_second() * DATAGRAM_SIZE as f64 * 8e-9);
            let (of_most, of_copies) = (ours / most, ours / copies);
            say(&format!("blast {most:6.1}  copies {copies:6.1}  {name:8} {ours:6.1}  {of_most:.3}  {of_copies:.3}"));
        }
    }
}

criterion_group!(benches, engines);
criterion_main!(benches);
