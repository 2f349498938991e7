//! What a receiver does with packets once it has them: one pass that was recorded before is judged, and its symbols are put where they
//! belong. System calls that receive are not in it.
//!
//! - `memory`: the receiving thread alone; each symbol is copied to its place in the object.
//! - `tmpfs runs`, `disk runs`: symbols side by side are written by one system call, as the program does it below 0.8 Gbit/s and
//!   wherever packets are lost or come out of order. Verification, which other threads do later, is not in it.
//! - `tmpfs blocks`, `disk blocks`: what comes fast and in order, put together, hashed and written by whole blocks. The program spreads
//!   that over its threads, here it is all done by one.
//!
//! Packets come in the order of `--fec 0` (`in order`), or as with repair symbols: in rows over all blocks, whose runs are short.

mod support;

use std::time::Duration;

use criterion::{BatchSize, BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use iotupd::drive::bench::{Place, Recording, Replay};
use iotupd::limits::{BLOCK_SIZE, FEC_PERCENT_DEFAULT};
use iotupd::sender::Fec;

use support::{Noise, print_machine};

fn receive(criterion: &mut Criterion) {
    print_machine();
    let noise = Noise::new();
    let record = |fec| Recording::of_one_pass(&noise.path, fec).expect("record a pass");
    let recordings = [("in order", record(Fec::OFF)), ("in rows", record(Fec::new(FEC_PERCENT_DEFAULT)))];
    let on_disk = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("make a folder");
    let (memory, disk) = (noise.folder.path(), on_disk.path());
    let mut group = criterion.benchmark_group("receive");
    group.sample_size(10).warm_up_time(Duration::from_millis(500)).measurement_time(Duration::from_secs(2));
    for (order, recording) in &recordings {
        group.throughput(Throughput::Bytes(recording.object_size()));
        let blocks = [("tmpfs blocks", Place::Blocks(memory)), ("disk blocks", Place::Blocks(disk))];
        // In rows no block comes whole at once.
        let blocks = blocks.into_iter().filter(|_| *order == "in order");
        let runs = [("memory", Place::Memory), ("tmpfs runs", Place::Runs(memory)), ("disk runs", Place::Runs(disk))];
        for (name, place) in runs.into_iter().chain(blocks) {
            group.bench_function(BenchmarkId::new(name, order), |bencher| {
                // A file that is there would be resumed, and its pages are warm.
                let fresh = || {
                    for folder in [memory, disk] {
                        let _ = std::fs::remove_file(folder.join(".replay.part"));
                    }
                    Replay::new(recording, place).expect("make a receiver")
                };
                bencher.iter_batched(fresh, |replay| take(replay, recording, place), BatchSize::PerIteration);
            });
        }
    }
    group.finish();
}

fn take(mut replay: Replay, recording: &Recording, place: Place<'_>) -> Replay {
    let held = replay.take_all(recording).expect("write");
    assert_eq!(held, recording.object_size(), "a pass without loss holds everything");
    let whole = if matches!(place, Place::Blocks(_)) { held / BLOCK_SIZE } else { 0 };
    assert_eq!(replay.block_count(), whole, "blocks put together");
    replay
}

criterion_group!(benches, receive);
criterion_main!(benches);
