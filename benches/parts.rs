//! The parts of both programs one by one, without the kernel: what a packet, a block and a proof cost a core. All of it is in the
//! processor's cache, as it is where the programs do the same: what the memory costs is in the other benches.

mod support;

use std::hint::black_box;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use iotupd::digest::block_value;
use iotupd::drive::bench::{Object, SEGMENT_COUNT, SYMBOL_SIZE};
use iotupd::fec::{Decoder, Encoder};
use iotupd::limits::{BLOCK_SIZE, FEC_PERCENT_DEFAULT, HEADER_SIZE};
use iotupd::object::Layout;
use iotupd::sender::{Fec, Outgoing, Pacing, Step};
use iotupd::types::{BlockIndex, Esi, ObjectSize, RateBps, SymbolSize, Time};
use iotupd::wire::{Packet, parse, seal};

use support::{Noise, print_machine};

/// Repair symbols in percent of source symbols.
const PERCENTS: [u16; 4] = [5, 25, 50, 100];
const WINDOW_SIZE: u64 = 16 << 20;

fn wire(criterion: &mut Criterion, object: &Object) {
    let sender = object.sender(Pacing::Unpaced, Fec::OFF);
    let packets = first_packets(object);
    let hot: Vec<_> = packets.iter().filter(|(outgoing, _)| is_data(outgoing)).take(SEGMENT_COUNT).collect();
    let find =
        |is_it: fn(&Outgoing) -> bool| &packets.iter().find(|(outgoing, _)| is_it(outgoing)).expect("sent early").1;
    let manifest = find(|outgoing| matches!(outgoing, Outgoing::Manifest));
    let hashes = find(|outgoing| matches!(outgoing, Outgoing::Hashes(_)));

    let mut group = criterion.benchmark_group("wire");
    group.sample_size(20).warm_up_time(Duration::from_millis(300)).measurement_time(Duration::from_secs(1));
    let mut turn = (0..hot.len()).cycle();
    group.bench_function("parse/data", |bencher| {
        bencher.iter(|| parse(black_box(&hot[turn.next().expect("endless")].1)).is_ok());
    });
    group.bench_function("parse/manifest", |bencher| bencher.iter(|| parse(black_box(manifest)).is_ok()));
    group.bench_function("parse/hashes", |bencher| bencher.iter(|| parse(black_box(hashes)).is_ok()));
    let mut out = vec![0; HEADER_SIZE + usize::from(SYMBOL_SIZE)];
    let mut emit = |hashes: &[AtomicU64]| {
        let (outgoing, _) = hot[turn.next().expect("endless")];
        sender.compose(black_box(outgoing), object.content(), hashes, &mut out);
    };
    group.bench_function("emit/data", |bencher| bencher.iter(|| emit(&[])));
    let room = usize::try_from(sender.carousel().round_length()).expect("the packets of a mapped file");
    let remembered: Vec<_> = std::iter::repeat_with(AtomicU64::default).take(room).collect();
    group.bench_function("emit/data, hash remembered", |bencher| bencher.iter(|| emit(&remembered)));
    let mut packet = hot[0].1.clone();
    group.bench_function("seal/data", |bencher| bencher.iter(|| seal(black_box(&mut packet))));
    group.finish();
}

fn is_data(outgoing: &Outgoing) -> bool {
    matches!(outgoing, Outgoing::Data { .. })
}

/// Packets of each kind with what they are: more than one GSO message holds.
fn first_packets(object: &Object) -> Vec<(Outgoing, Vec<u8>)> {
    let mut sender = object.sender(Pacing::Unpaced, Fec::OFF);
    let mut next = || {
        let Step::Send(outgoing) = sender.poll(Time::from_nanos(0)) else { panic!("it always has a packet") };
        let mut packet = vec![0; sender.packet_size(&outgoing)];
        sender.compose(&outgoing, object.content(), &[], &mut packet);
        (outgoing, packet)
    };
    std::iter::repeat_with(&mut next).take(1000).collect()
}

fn digest(criterion: &mut Criterion, object: &Object) {
    let size = ObjectSize::new(object.content().len() as u64).expect("a size");
    let block = &object.content()[..BLOCK_SIZE as usize];
    let sender = object.sender(Pacing::Unpaced, Fec::OFF);
    let packets = first_packets(object);
    let hashes = packets.iter().find_map(|(_, bytes)| match parse(bytes) {
        Ok((_, Packet::Hashes(payload))) => Some(payload),
        _ => None,
    });
    let hashes = hashes.expect("sent early");

    let mut group = criterion.benchmark_group("digest");
    group.sample_size(20).warm_up_time(Duration::from_millis(300)).measurement_time(Duration::from_secs(1));
    group.bench_function("proof of 16 blocks", |bencher| {
        bencher.iter(|| assert!(black_box(&hashes).is_proved_by(&sender.digest())));
    });
    group.throughput(Throughput::Bytes(BLOCK_SIZE));
    group.bench_function("value of a block", |bencher| {
        bencher.iter(|| block_value(size, BlockIndex(0), black_box(block)));
    });
    group.finish();
}

fn schedule(criterion: &mut Criterion, object: &Object) {
    let rows = Fec::new(FEC_PERCENT_DEFAULT);
    let windows = Fec { window_size: Some(WINDOW_SIZE), ..rows };
    let rate = RateBps::new(10_000_000_000).expect("a rate");
    let cases = [
        ("order of blocks", Pacing::Unpaced, Fec::OFF),
        ("order of rows", Pacing::Unpaced, rows),
        ("order of windows", Pacing::Unpaced, windows),
        ("order of blocks, paced by rate", Pacing::Rate(rate), Fec::OFF),
        ("order of blocks, paced by PKT_DELAY", Pacing::PacketDelay(Duration::from_micros(5)), Fec::OFF),
    ];
    let mut group = criterion.benchmark_group("schedule");
    group.sample_size(20).warm_up_time(Duration::from_millis(300)).measurement_time(Duration::from_secs(1));
    for (name, pacing, fec) in cases {
        let (mut sender, mut now) = (object.sender(pacing, fec), Time::from_nanos(0));
        group.bench_function(name, |bencher| {
            bencher.iter(|| {
                loop {
                    match sender.poll(now) {
                        Step::Send(outgoing) => break outgoing,
                        // Whoever sleeps wakes up when it is due.
                        Step::Wait(due) => now = due,
                        Step::Done => panic!("an endless carousel"),
                    }
                }
            });
        });
    }
    let (sender, mut position) = (object.sender(Pacing::Unpaced, windows), 0);
    let carousel = sender.carousel();
    group.bench_function("symbol of any position", |bencher| {
        bencher.iter(|| {
            // A step that shares no factor with the length visits everything.
            position = (position + 104_729) % carousel.round_length();
            carousel.symbol_at(black_box(position))
        });
    });
    group.finish();
}

fn fec(criterion: &mut Criterion, object: &Object) {
    let size = ObjectSize::new(object.content().len() as u64).expect("a size");
    let layout = Layout::new(size, SymbolSize::new(SYMBOL_SIZE).expect("a symbol size"));
    let block = &object.content()[..BLOCK_SIZE as usize];
    let (source_count, shard_size) = (layout.source_symbol_count(BlockIndex(0)), usize::from(SYMBOL_SIZE));

    let mut group = criterion.benchmark_group("fec");
    group.sample_size(20).warm_up_time(Duration::from_millis(300)).measurement_time(Duration::from_secs(1));
    group.throughput(Throughput::Bytes(BLOCK_SIZE));
    for percent in PERCENTS {
        let count = layout.repair_symbol_count(BlockIndex(0), percent);
        let mut repair = vec![0; usize::from(count) * shard_size];
        let mut encoder = Encoder::new();
        group.bench_function(BenchmarkId::new("encode", format!("{percent} %")), |bencher| {
            bencher.iter(|| encoder.encode(&layout, BlockIndex(0), black_box(block), count, &mut repair));
        });
        // A filter of the command line can leave the encoder out.
        encoder.encode(&layout, BlockIndex(0), block, count, &mut repair);
        // As many are lost as can be made good.
        let source = (0..source_count).map(Esi).zip(block.chunks(shard_size)).skip(usize::from(count));
        let symbols = source.chain((source_count..).map(Esi).zip(repair.chunks(shard_size)));
        let (mut decoder, mut out) = (Decoder::new(), vec![0; BLOCK_SIZE as usize]);
        group.bench_function(BenchmarkId::new("decode", format!("{percent} %")), |bencher| {
            bencher.iter(|| decoder.decode(&layout, BlockIndex(0), black_box(symbols.clone()), &mut out));
        });
        decoder.decode(&layout, BlockIndex(0), symbols, &mut out).expect("K symbols");
        assert!(out == block, "what was decoded is the block");
    }
    group.finish();
}

fn parts(criterion: &mut Criterion) {
    print_machine();
    let noise = Noise::new();
    let object = Object::open(&noise.path).expect("map the file");
    wire(criterion, &object);
    digest(criterion, &object);
    schedule(criterion, &object);
    fec(criterion, &object);
}

criterion_group!(benches, parts);
criterion_main!(benches);
