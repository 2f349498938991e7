//! What the receiver's thread does with packets once it has them: one pass that was recorded before is judged, and its symbols are put
//! where they belong, in memory, in a file in memory and in a file on disk, both in the order of `--fec 0`, block after block, and in
//! rows of short runs. System calls that receive are not in it, nor is the
//! verification of blocks, which other threads do.

mod support;

use std::path::Path;
use std::time::Duration;

use criterion::{BatchSize, BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use iotupd::drive::bench::{Recording, Replay};
use iotupd::limits::FEC_PERCENT_DEFAULT;
use iotupd::sender::Fec;

use support::{Noise, print_machine};

fn receive(criterion: &mut Criterion) {
    print_machine();
    let noise = Noise::new();
    let record = |fec| Recording::of_one_pass(&noise.path, fec).expect("record a pass");
    let recordings = [("blocks", record(Fec::OFF)), ("rows", record(Fec::new(FEC_PERCENT_DEFAULT)))];
    let on_disk = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("make a folder");
    let mut group = criterion.benchmark_group("receive");
    group.sample_size(10).warm_up_time(Duration::from_millis(500)).measurement_time(Duration::from_secs(2));
    let folders: [(&str, Option<&Path>); 3] =
        [("memory", None), ("tmpfs", Some(noise.folder.path())), ("disk", Some(on_disk.path()))];
    for (order, recording) in &recordings {
        group.throughput(Throughput::Bytes(recording.object_size()));
        for (name, folder) in folders {
            group.bench_function(BenchmarkId::new(name, order), |bencher| {
                // A file that is there would be resumed, and its pages are warm.
                let fresh = || {
                    if let Some(folder) = folder {
                        let _ = std::fs::remove_file(folder.join(".replay.part"));
                    }
                    Replay::new(recording, folder).expect("make a receiver")
                };
                let take = |mut replay: Replay| {
                    let held = replay.take_all(recording).expect("write");
                    assert_eq!(held, recording.object_size(), "a pass without loss holds everything");
                    replay
                };
                bencher.iter_batched(fresh, take, BatchSize::PerIteration);
            });
        }
    }
    group.finish();
}

criterion_group!(benches, receive);
criterion_main!(benches);
