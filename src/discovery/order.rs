//! The order of RFC 2782: by priority, and among servers of one priority at random, those of more weight more often first.

use domain::base::ToName;
use xxhash_rust::xxh3::xxh3_64_with_seed;

use super::message::ServerRecord;

/// What a weight of 0 counts: a very small chance beside any other.
const WEIGHT_MIN: f64 = 0.01;

/// The records in the order in which they are to be tried. What is random in it depends on the seed and the record alone: another
/// seed, so another receiver, draws another order, but records that come and go do not change the order of the others.
pub(super) fn in_order(records: &[ServerRecord], seed: u64) -> Vec<&ServerRecord> {
    let mut order: Vec<_> = records.iter().map(|record| (record.priority, delay(record, seed), record)).collect();
    order.sort_by(|(a, first, _), (b, second, _)| a.cmp(b).then(first.total_cmp(second)));
    order.into_iter().map(|(_, _, record)| record).collect()
}

/// A draw from an exponential distribution whose rate is the weight. Of several such draws the least is that of a record with the
/// probability that its weight has in their sum, and so on with those that are left: that is RFC 2782's procedure.
fn delay(record: &ServerRecord, seed: u64) -> f64 {
    let mut identity = record.target.to_canonical_name::<Vec<u8>>().as_octets().clone();
    identity.extend(record.port.to_be_bytes());
    let draw = xxh3_64_with_seed(&identity, seed);
    // Uniform in (0, 1]: the 53 bits that a float holds.
    let uniform = ((draw >> 11) + 1) as f64 / (1_u64 << 53) as f64;
    -uniform.ln() / f64::from(record.weight).max(WEIGHT_MIN)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(priority: u16, weight: u16, target: &str) -> ServerRecord {
        ServerRecord { priority, weight, port: 4242, target: target.parse().unwrap() }
    }

    fn names(records: &[ServerRecord], seed: u64) -> Vec<String> {
        in_order(records, seed).iter().map(|record| record.target.to_string()).collect()
    }

    #[test]
    fn lower_priority_comes_first_whatever_the_weight() {
        let records = [record(20, 65_535, "c.test"), record(0, 0, "a.test"), record(10, 1, "b.test")];
        for seed in 0..100 {
            assert_eq!(names(&records, seed), ["a.test", "b.test", "c.test"]);
        }
    }

    #[test]
    fn weight_is_the_share_of_receivers_that_begin_with_a_server() {
        let records =
            [record(1, 30, "a.test"), record(1, 60, "b.test"), record(1, 10, "c.test"), record(1, 0, "d.test")];
        let seeds = 20_000;
        let firsts: Vec<_> = (0..seeds).map(|seed| names(&records, seed).remove(0)).collect();
        let share = |name: &str| firsts.iter().filter(|first| *first == name).count() as f64 / seeds as f64;
        for (name, expected) in [("a.test", 0.3), ("b.test", 0.6), ("c.test", 0.1), ("d.test", 0.0)] {
            assert!((share(name) - expected).abs() < 0.02, "{name}: {}", share(name));
        }
    }

    #[test]
    fn order_of_the_others_does_not_change_when_a_record_goes() {
        let records = ["a.test", "b.test", "c.test", "d.test", "e.test"].map(|name| record(1, 5, name));
        for seed in 0..50 {
            let mut expected = names(&records, seed);
            expected.retain(|name| name != "c.test");
            let left: Vec<_> = records.iter().filter(|record| record.target.to_string() != "c.test").cloned().collect();
            assert_eq!(names(&left, seed), expected);
        }
    }

    #[test]
    fn names_that_differ_in_case_alone_draw_the_same() {
        assert_eq!(delay(&record(1, 5, "a.test"), 7).to_bits(), delay(&record(1, 5, "A.TEST"), 7).to_bits());
    }
}
