//! Which symbol goes with a position, as arithmetic on numbers alone (docs/PROTOCOL.md, section 7). Blocks are counted among those
//! that are sent; the object's last block, which may have fewer symbols than the others, comes last.
//!
//! The sent blocks are cut into *windows*. A *visit* goes over one window after the other and takes so many symbols of each block,
//! going on in each block where the last visit left off, around and around. Within a window a visit goes by *rows*: a short *run* of
//! consecutive symbols of every block, each row beginning with another block. All visits together go around every block a whole
//! number of times; then the order begins again.

use std::ops::Range;

use crate::limits::{VISIT_COUNT_MAX, VISIT_EXCESS_PERCENT};

/// What the order depends on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Shape {
    /// Sent blocks but the object's last.
    pub(super) full_count: u64,
    /// K of each of them.
    pub(super) full_source_count: u64,
    /// K + R of each of them.
    pub(super) full_symbol_count: u64,
    /// K + R of the object's last block; `None` if it is not sent.
    pub(super) last_symbol_count: Option<u64>,
    /// Blocks of a window, at least 1.
    pub(super) window_blocks: u64,
    /// Symbols of a run, at least 1.
    pub(super) run: u64,
}

/// The order of the symbols.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Order {
    shape: Shape,
    visits: Vec<Visit>,
    round_count: u64,
    length: u64,
}

/// What one visit takes of each block: symbols are counted on, and taken modulo K + R.
#[derive(Clone, PartialEq, Eq, Debug)]
struct Visit {
    /// Its first position.
    start: u64,
    full: Range<u64>,
    last: Range<u64>,
}

/// A place in the order, and how far it goes on by consecutive symbols of the same block.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Place {
    /// The block, counted among those that are sent.
    pub(super) rank: u64,
    /// The number of the symbol in its block.
    pub(super) esi: u64,
    /// Symbols of this run from this one on; behind the block's last symbol comes its first.
    pub(super) left: u64,
}

/// A visit's part in one window.
struct Window {
    full_count: u64,
    has_last: bool,
    full_taken: u64,
    last_taken: u64,
    run: u64,
}

impl Order {
    pub(super) fn new(shape: Shape) -> Self {
        let has_one_window = shape.block_count() <= shape.window_blocks;
        let (round_count, visit_count) = if has_one_window { (1, 1) } else { rounds_and_visits(&shape) };
        let last_symbol_count = shape.last_symbol_count.unwrap_or(0);
        let mut length = 0;
        let cut = |total: u64, index: u64| total * round_count * index / visit_count;
        let visits = (0..visit_count).map(|index| {
            let full = cut(shape.full_symbol_count, index)..cut(shape.full_symbol_count, index + 1);
            let last = cut(last_symbol_count, index)..cut(last_symbol_count, index + 1);
            let start = length;
            length += shape.full_count * size(&full) + size(&last);
            Visit { start, full, last }
        });
        let visits = visits.collect();
        Self { shape, visits, round_count, length }
    }

    /// Positions before the order begins again.
    pub(super) fn length(&self) -> u64 {
        self.length
    }

    /// How often each symbol comes before the order begins again.
    pub(super) fn round_count(&self) -> u64 {
        self.round_count
    }

    /// The place at `position`, which must be less than [`Self::length`].
    pub(super) fn locate(&self, position: u64) -> Place {
        assert!(position < self.length, "a position of the order");
        let visit = &self.visits[self.visits.partition_point(|visit| visit.start <= position) - 1];
        let within = position - visit.start;
        let window_length = self.shape.window_blocks * size(&visit.full);
        let window_last = (self.shape.block_count() - 1) / self.shape.window_blocks;
        // Only the last window can be shorter, and only it has the last block.
        let number = within.checked_div(window_length).map_or(window_last, |number| number.min(window_last));
        let (index, taken, left) = self.window(visit, number).locate(within - number * window_length);
        let rank = number * self.shape.window_blocks + index;
        let (start, symbol_count) = match rank == self.shape.full_count {
            true => (visit.last.start, self.shape.last_symbol_count.expect("the last block is sent")),
            false => (visit.full.start, self.shape.full_symbol_count),
        };
        Place { rank, esi: (start + taken) % symbol_count, left }
    }

    /// The first block of the window that is visited at `position`.
    pub(super) fn window_start(&self, position: u64) -> u64 {
        let rank = self.locate(position).rank;
        rank - rank % self.shape.window_blocks
    }

    fn window(&self, visit: &Visit, number: u64) -> Window {
        let before = number * self.shape.window_blocks;
        let full_count = (self.shape.full_count - before).min(self.shape.window_blocks);
        Window {
            full_count,
            has_last: self.shape.last_symbol_count.is_some() && full_count < self.shape.window_blocks,
            full_taken: size(&visit.full),
            last_taken: size(&visit.last),
            run: self.shape.run,
        }
    }
}

impl Shape {
    fn block_count(&self) -> u64 {
        self.full_count + u64::from(self.last_symbol_count.is_some())
    }
}

impl Window {
    /// Symbols before a row.
    fn row_start(&self, row: u64) -> u64 {
        let last = if self.has_last { (row * self.run).min(self.last_taken) } else { 0 };
        self.full_count * (row * self.run).min(self.full_taken) + last
    }

    fn row_of(&self, within: u64) -> u64 {
        let both = if self.has_last { self.full_taken.min(self.last_taken) } else { self.full_taken };
        let whole_rows = both / self.run;
        let guess = within / ((self.full_count + u64::from(self.has_last)) * self.run);
        if guess < whole_rows {
            return guess;
        }
        // Of the rows behind, each has something until all symbols are taken.
        let (mut low, mut high) = (whole_rows, self.full_taken.max(self.last_taken).div_ceil(self.run));
        while high - low > 1 {
            let middle = low.midpoint(high);
            if self.row_start(middle) <= within { low = middle } else { high = middle }
        }
        low
    }

    /// The block in the window, the symbol as counted from what the visit takes first, and those left of its run.
    fn locate(&self, within: u64) -> (u64, u64, u64) {
        let row = self.row_of(within);
        let taken = row * self.run;
        let full = self.full_taken.saturating_sub(taken).min(self.run);
        let last = if self.has_last { self.last_taken.saturating_sub(taken).min(self.run) } else { 0 };
        let first = row % (self.full_count + u64::from(self.has_last));
        let mut rest = within - self.row_start(row);
        let before_last = (self.full_count - first.min(self.full_count)) * full;
        if rest < before_last {
            return (first + rest / full, taken + rest % full, full - rest % full);
        }
        rest -= before_last;
        if rest < last {
            return (self.full_count, taken + rest, last - rest);
        }
        rest -= last;
        (rest / full, taken + rest % full, full - rest % full)
    }
}

fn size(range: &Range<u64>) -> u64 {
    range.end - range.start
}

/// In how many visits to go around how often, so that each takes K and a little more, and as little more as possible.
fn rounds_and_visits(shape: &Shape) -> (u64, u64) {
    let symbols = shape.full_symbol_count;
    let wanted = (shape.full_source_count * (100 + VISIT_EXCESS_PERCENT)).div_ceil(100).min(symbols);
    let of = |visits: u64| ((wanted * visits).div_ceil(symbols), visits);
    let all = (1..=VISIT_COUNT_MAX).map(of);
    // The first of the least: rounds / visits compared without division.
    all.reduce(|best, other| if other.0 * best.1 < best.0 * other.1 { other } else { best })
        .expect("there is one at least")
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    fn shape() -> impl Strategy<Value = Shape> {
        (0u64..40, 1u64..60, 0u64..=100, prop::option::of((1u64..60, 0u64..=100)), 1u64..45, 1u64..70).prop_map(
            |(full_count, source, percent, last, window_blocks, run)| Shape {
                full_count,
                full_source_count: source,
                full_symbol_count: source + (source * percent).div_ceil(100),
                last_symbol_count: last.map(|(last, _)| last.min(source) + (last.min(source) * percent).div_ceil(100)),
                window_blocks,
                run,
            },
        )
    }

    /// The order as the description has it, by loops.
    fn by_loops(shape: &Shape) -> Vec<(u64, u64)> {
        let (rounds, visits) =
            if shape.block_count() <= shape.window_blocks { (1, 1) } else { rounds_and_visits(shape) };
        let symbols_of =
            |rank| if rank < shape.full_count { shape.full_symbol_count } else { shape.last_symbol_count.unwrap() };
        let ranks: Vec<u64> = (0..shape.block_count()).collect();
        let mut next = vec![0; ranks.len()];
        let mut out = Vec::new();
        for visit in 1..=visits {
            let end = |rank| symbols_of(rank) * rounds * visit / visits;
            for window in ranks.chunks(shape.window_blocks as usize) {
                let mut row = 0;
                while window.iter().any(|&rank| next[rank as usize] < end(rank)) {
                    for i in 0..window.len() {
                        let rank = window[(i + row) % window.len()];
                        for _ in 0..shape.run.min(end(rank) - next[rank as usize]) {
                            out.push((rank, next[rank as usize] % symbols_of(rank)));
                            next[rank as usize] += 1;
                        }
                    }
                    row += 1;
                }
            }
        }
        out
    }

    proptest! {
        #[test]
        fn every_position_is_what_the_loops_make(shape in shape()) {
            let order = Order::new(shape);
            let expected = by_loops(&shape);
            prop_assert_eq!(order.length(), expected.len() as u64);
            let mut counts = BTreeMap::new();
            for (position, &(rank, esi)) in expected.iter().enumerate() {
                let place = order.locate(position as u64);
                prop_assert_eq!((place.rank, place.esi), (rank, esi));
                *counts.entry((rank, esi)).or_insert(0) += 1;
                // What is left of the run: consecutive positions with the block's next symbols.
                let end = position + place.left as usize;
                prop_assert!(place.left >= 1 && end <= expected.len());
                prop_assert!(expected[position..end].iter().all(|&(other, _)| other == rank));
            }
            let symbols = shape.full_count * shape.full_symbol_count + shape.last_symbol_count.unwrap_or(0);
            prop_assert_eq!(counts.len() as u64, symbols, "every symbol");
            prop_assert!(counts.values().all(|&count| count == order.round_count()), "equally often");
        }

        /// Going on from any place of a block, every symbol of it comes once before one comes again.
        #[test]
        fn symbols_of_a_block_go_around(shape in shape()) {
            let mut of_block = BTreeMap::<u64, Vec<u64>>::new();
            by_loops(&shape).into_iter().for_each(|(rank, esi)| of_block.entry(rank).or_default().push(esi));
            for esis in of_block.values() {
                let count = *esis.iter().max().unwrap() + 1;
                prop_assert!(esis.iter().enumerate().all(|(i, &esi)| esi == i as u64 % count));
            }
        }
    }

    #[test]
    fn visit_takes_a_little_more_than_the_source_symbols() {
        let shape = |percent: u64| Shape {
            full_count: 1000,
            full_source_count: 745,
            full_symbol_count: 745 + (745 * percent).div_ceil(100),
            last_symbol_count: None,
            window_blocks: 256,
            run: 16,
        };
        for percent in 0..=100 {
            let (shape, order) = (shape(percent), Order::new(shape(percent)));
            let least = (745 * 103u64).div_ceil(100).min(shape.full_symbol_count);
            for visit in &order.visits {
                assert!(size(&visit.full) >= least && size(&visit.full) <= least + 745 / 50, "{percent} %: {visit:?}");
            }
        }
        assert_eq!(Order::new(shape(3)).visits.len(), 1);
    }

    #[test]
    fn one_window_goes_around_once() {
        let shape = Shape {
            full_count: 63,
            full_source_count: 745,
            full_symbol_count: 1118,
            last_symbol_count: Some(12),
            window_blocks: 64,
            run: 16,
        };
        let order = Order::new(shape);
        assert_eq!((order.round_count(), order.length()), (1, 63 * 1118 + 12));
        assert_eq!(order.locate(0), Place { rank: 0, esi: 0, left: 16 });
        assert_eq!(order.locate(63 * 16 + 5), Place { rank: 63, esi: 5, left: 7 });
        // The second row begins with the second block, and has no symbol of the last.
        assert_eq!(order.locate(63 * 16 + 12 + 1), Place { rank: 1, esi: 17, left: 15 });
        assert_eq!(order.locate(2 * 63 * 16 + 12 - 1), Place { rank: 0, esi: 31, left: 1 });
    }
}
