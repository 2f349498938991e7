//! How many passes a receiver needs, by loss and number of servers: the figures of the documentation, kept as a snapshot.

use std::fmt::Write;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use iotupd::types::Time;

use crate::network::{Faults, Loss, PERFECT};
use crate::random::{Ppm, Random};
use crate::scenario::{plain, plain_host, plain_server, rate, symbol_size};
use crate::truth::Truth;
use crate::world::{IP_OVERHEAD, Scenario, run};

const OBJECT_SIZE: u64 = (8 << 20) + 12_345;
const RATE_BPS: u64 = 100_000_000;
const SEED_COUNT: u64 = 20;
const LOSSES: [(&str, Loss); 6] = [
    ("0 %", Loss::Random(Ppm(0))),
    ("1 %", Loss::Random(Ppm::percent(1))),
    ("5 %", Loss::Random(Ppm::percent(5))),
    ("5 % in bursts of 20", Loss::Bursts { loss: Ppm::percent(5), length_mean: 20 }),
    ("20 %", Loss::Random(Ppm::percent(20))),
    ("30 %", Loss::Random(Ppm::percent(30))),
];
const SERVER_COUNTS: [u32; 3] = [1, 2, 3];

/// The table as text.
pub(crate) fn passes() -> String {
    let truth = Truth::random(&mut Random::new(8), OBJECT_SIZE, Ppm(0));
    let mut text = format!(
        "Median passes of {SEED_COUNT} receivers: data packets that each server sends from the join to the last verified block,\n\
         divided by those of a round. {OBJECT_SIZE} bytes in symbols of 1408, join at a random moment, no repair symbols,\n\
         servers at evenly spread positions, each at the same rate.\n\n"
    );
    writeln!(text, "{:<20} {:>9} {:>9} {:>9}", "loss", "1 server", "2 servers", "3 servers").expect("memory");
    for (name, loss) in LOSSES {
        let medians = SERVER_COUNTS.map(|count| median(&truth, loss, count));
        let [one, two, three] = medians.map(|milli| format!("{}.{:03}", milli / 1000, milli % 1000));
        writeln!(text, "{name:<20} {one:>9} {two:>9} {three:>9}").expect("memory");
    }
    text
}

/// Thousandths of a pass.
fn median(truth: &Arc<Truth>, loss: Loss, server_count: u32) -> u64 {
    let mut passes: Vec<_> = (0..SEED_COUNT).map(|seed| passes_of(truth, loss, server_count, seed)).collect();
    passes.sort_unstable();
    let middle = passes.len() / 2;
    (passes[middle - 1] + passes[middle]) / 2
}

fn passes_of(truth: &Arc<Truth>, loss: Loss, server_count: u32, seed: u64) -> u64 {
    let (packets, bytes) = truth.round(symbol_size(1408), 44 + u64::from(IP_OVERHEAD));
    let pass = Duration::from_nanos(8 * bytes * 1_000_000_000 / RATE_BPS);
    let join = Time::default().after(Random::new(!seed).span(pass));
    let mut host = plain_host(join);
    host.faults = Faults { loss, ..PERFECT };
    let servers = (0..server_count).map(|index| {
        let mut server = plain_server(truth, rate(RATE_BPS));
        server.start_ppm = 1_000_000 / server_count * index;
        server
    });
    let scenario = Scenario { servers: servers.collect(), hosts: vec![host], ..plain(truth) };
    let report = run(seed, &scenario);
    report.hosts[0].data_sent * 1000 / (packets * u64::from(server_count))
}

/// Compares with the snapshot, or writes it where `UPDATE_SNAPSHOTS` is set.
pub(crate) fn compare(name: &str, text: &str) {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/sim/snapshots").join(name);
    if std::env::var_os("UPDATE_SNAPSHOTS").is_some() {
        std::fs::write(&path, text).unwrap_or_else(|error| panic!("write {}: {error}", path.display()));
        return;
    }
    let expected = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("read {}: {error}", path.display()));
    assert!(expected == text, "{} has changed; UPDATE_SNAPSHOTS=1 rewrites it. It is now:\n{text}", path.display());
}
