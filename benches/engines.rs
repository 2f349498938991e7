//! What an engine makes of one core, beside the most that the kernel takes: the blast, which sends the same hot 64 KiB by GSO for ever.
//!
//! Between the two stand the copies: the same, but every payload is first copied from the file, which costs more than the kernel does
//! where the file is not in the cache; and the gathers, where the kernel takes each payload from where it is. Ours composes every
//! packet from a file larger than the caches, with header and checksum; the payloads' hashes are remembered from an earlier pass, but once.
//! Nobody receives. The ratio to the blast is the figure to compare: both drift with the machine. So the table at the end has all of
//! them take turns.

mod support;

use std::time::Duration;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use iotupd::drive::bench::{Blast, DATAGRAM_SIZE, Manner, Object, OurSender, SYMBOL_SIZE, Way};
use iotupd::drive::serve::{EngineChoice, ImageChoice};
use iotupd::failure::Failure;
use iotupd::limits::HEADER_SIZE;
use iotupd::sender::{Fec, Pacing};

use support::{Noise, Tally, is_measuring, keep, print_machine, say, way};

/// How to send, and whether the hashes of payloads are remembered from the first pass.
type Engine = (EngineChoice, ImageChoice, bool);
const URING: Engine = (EngineChoice::Uring, ImageChoice::Off, true);
const SENDMMSG: Engine = (EngineChoice::Sendmmsg, ImageChoice::Off, true);
const IMAGE: Engine = (EngineChoice::Uring, ImageChoice::On, true);
/// What a first pass is like, or any where there is no room for hashes.
const HASHING: Engine = (EngineChoice::Uring, ImageChoice::Off, false);
/// Turns that the contenders take: a machine that slows down slows all of them. Of each the median counts, and of the ratios to the
/// blast in the same turn, so that one in which the machine was busy with something else does not.
const TURN_COUNT: u32 = 11;
/// What is called jumbo, and symbols that fill it.
const MTU_JUMBO: u32 = 9000;
const SYMBOL_SIZE_JUMBO: u16 = 8896;
/// Bytes of UDP payload that one turn sends: a tenth of a second and more.
const TURN_SIZE: u64 = 1_500_000_000;
const COLUMNS: [&str; 4] = ["method", "symbol_size", "gbit_per_second", "of_blast"];

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
    for engine in [URING, SENDMMSG, IMAGE, HASHING] {
        let result = with_engine(&way, &noise, engine, |sender| {
            group.bench_function(BenchmarkId::from_parameter(name(sender, engine)), |bencher| {
                bencher.iter_custom(|count| {
                    Tally::default().measure(count, |count| sender.send_packets(count).expect("send"))
                });
            });
        });
        if let Err(failure) = result {
            say(&format!("{:?} is not to be had here: {failure}", engine));
        }
    }
    group.finish();
    if is_measuring() {
        compare(&way, &noise, &object);
    }
}

/// A virtual server that sends block after block, as `--fec 0 --rate max` does it, and has sent everything once.
fn with_engine<R>(
    way: &Way,
    noise: &Noise,
    (engine, image, remembers_hashes): Engine,
    body: impl FnOnce(&mut OurSender<'_>) -> R,
) -> Result<R, Failure> {
    let manner = Manner { engine, pacing: Pacing::Unpaced, fec: Fec::OFF, image, remembers_hashes };
    OurSender::with(way, &noise.path, manner, |sender| {
        sender.send_packets(sender.round_length()).expect("send one pass");
        body(sender)
    })
}

/// One way of sending, and what has come of it.
struct Contender<'a> {
    method: &'static str,
    symbol_size: u16,
    send: Box<dyn FnMut(u64) -> u64 + 'a>,
    /// Gbit/s of each turn.
    turns: Vec<f64>,
}

impl<'a> Contender<'a> {
    fn new(method: &'static str, symbol_size: u16, send: impl FnMut(u64) -> u64 + 'a) -> Self {
        Self { method, symbol_size, send: Box::new(send), turns: Vec::new() }
    }

    fn datagram_size(&self) -> u64 {
        HEADER_SIZE as u64 + u64::from(self.symbol_size)
    }

    fn take_turn(&mut self) {
        let mut tally = Tally::default();
        tally.measure(TURN_SIZE / self.datagram_size(), &mut self.send);
        self.turns.push(tally.per_second() * self.datagram_size() as f64 * 8e-9);
    }
}

/// The one in the middle; there is an odd number of them.
fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// All in turn, so that what the machine does besides meets all alike.
fn compare(way: &Way, noise: &Noise, object: &Object) {
    let all = with_engine(way, noise, URING, |uring| {
        with_engine(way, noise, SENDMMSG, |sendmmsg| {
            with_engine(way, noise, IMAGE, |image| {
                with_engine(way, noise, HASHING, |hashing| {
                    let (uring, sendmmsg) = (ours(uring, URING), ours(sendmmsg, SENDMMSG));
                    contest(way, object, vec![uring, sendmmsg, ours(image, IMAGE), ours(hashing, HASHING)])
                })
            })
        })
    });
    let rows = all.and_then(|rows| rows).and_then(|rows| rows).and_then(|rows| rows).or_else(|_| {
        with_engine(way, noise, SENDMMSG, |sendmmsg| contest(way, object, vec![ours(sendmmsg, SENDMMSG)]))
    });
    let rows = rows.expect("every Linux has sendmmsg");
    say("method    symbol size  Gbit/s of UDP payload from one core  of the blast");
    for row in &rows {
        let [method, symbol_size, gbit_per_second, of_blast] = row.as_slice() else { continue };
        say(&format!("{method:9} {symbol_size:>11}  {gbit_per_second:>35}  {of_blast:>12}"));
    }
    // The blast, copies, gathers and four of ours; and copies and gathers of jumbo symbols where these fit.
    let row_count = if way.mtu() >= MTU_JUMBO { 9 } else { 7 };
    keep("engines", "Gbit/s of UDP payload from one core, nobody receiving: medians", &COLUMNS, &rows, row_count);
}

/// What results call it.
fn name(sender: &OurSender<'_>, engine: Engine) -> &'static str {
    match engine {
        IMAGE => "image",
        HASHING => "hashing",
        _ => sender.engine_name(),
    }
}

fn ours<'a>(sender: &'a mut OurSender<'_>, engine: Engine) -> Contender<'a> {
    Contender::new(name(sender, engine), SYMBOL_SIZE, |count| sender.send_packets(count).expect("send"))
}

fn contest<'a>(way: &Way, object: &'a Object, engines: Vec<Contender<'a>>) -> Vec<Vec<String>> {
    let new_blast = || Blast::new(way).expect("open a socket");
    let copies = |symbol_size: u16| {
        let (mut blast, mut next) = (new_blast(), 0);
        let send = move |count| blast.send_copies(object, symbol_size.into(), &mut next, count).expect("send");
        Contender::new("copies", symbol_size, send)
    };
    let gathers = |symbol_size: u16| {
        let (mut blast, mut next) = (new_blast(), 0);
        let send = move |count| blast.send_gathered(object, symbol_size.into(), &mut next, count).expect("send");
        Contender::new("gathers", symbol_size, send)
    };
    let mut blast = new_blast();
    let mut contenders =
        vec![Contender::new("blast", SYMBOL_SIZE, move |count| blast.send_packets(count).expect("send"))];
    contenders.extend([copies(SYMBOL_SIZE), gathers(SYMBOL_SIZE)]);
    contenders.extend(engines);
    if way.mtu() >= MTU_JUMBO {
        contenders.extend([copies(SYMBOL_SIZE_JUMBO), gathers(SYMBOL_SIZE_JUMBO)]);
    }
    for _ in 0..TURN_COUNT {
        contenders.iter_mut().for_each(Contender::take_turn);
    }
    contenders.iter().map(|contender| row(contender, &contenders[0])).collect()
}

fn row(contender: &Contender<'_>, blast: &Contender<'_>) -> Vec<String> {
    let rate = median(contender.turns.iter().copied());
    let of_blast = median(contender.turns.iter().zip(&blast.turns).map(|(rate, blast)| rate / blast));
    let (symbol_size, of_blast) = (contender.symbol_size.to_string(), format!("{of_blast:.3}"));
    vec![contender.method.to_owned(), symbol_size, format!("{rate:.2}"), of_blast]
}

criterion_group!(benches, engines);
criterion_main!(benches);
