//! A disk that is slow, fails, and forgets: what a receiver's host has under it.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use crate::random::{Ppm, Random};

/// A disk writes so much at once, or not at all.
const SECTOR_SIZE: usize = 512;
/// Where nothing else is said the system flushes now and then: after one write in so many.
const FLUSH_ONCE_IN: u64 = 2000;
/// Words of the map that are not those of slots or marks, and 32-bit words of a sector.
const MAP_HEADER_WORDS: usize = 16;
const SECTOR_WORDS: usize = SECTOR_SIZE / 4;

/// How bad the disk is.
#[derive(Clone, Copy, Debug)]
pub(crate) struct DiskPlan {
    /// What the file is before the first receiver starts.
    pub(crate) before: Before,
    /// A store takes up to so long; zero: no time at all.
    pub(crate) store_time: Duration,
    /// Hashing or clearing a block takes up to so long.
    pub(crate) work_time: Duration,
    /// Creating the file takes so long.
    pub(crate) prepare_time: Duration,
    /// So many stores fail, half done.
    pub(crate) store_failure: Ppm,
    /// So many blocks cannot be read or cleared.
    pub(crate) work_failure: Ppm,
    /// Blocks that are worked on at once.
    pub(crate) worker_count: usize,
    pub(crate) power: PowerPlan,
}

/// What becomes of what was written when the power fails.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum PowerPlan {
    /// File and map are flushed seldom and apart, and of the map anything may be left.
    Hostile,
    /// Both are flushed after so many writes, and the map suffers what a disk does and nothing else.
    FlushEvery(u64),
}

/// What the target file holds before the first receiver starts.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Before {
    /// There is none.
    Nothing,
    /// It has the object's size, and so many of its sectors are right.
    Partly(Ppm),
}

/// A disk that does no harm.
pub(crate) const GOOD: DiskPlan = DiskPlan {
    before: Before::Nothing,
    store_time: Duration::ZERO,
    work_time: Duration::ZERO,
    prepare_time: Duration::ZERO,
    store_failure: Ppm(0),
    work_failure: Ppm(0),
    worker_count: 2,
    power: PowerPlan::Hostile,
};

/// What a loss of power leaves of the sidecar map.
#[derive(Clone, Copy, Debug)]
enum MapLoss {
    /// All of it.
    None,
    /// What was flushed last.
    Stale,
    /// Of every sector, or of every word, the old or the new content.
    Torn { step: usize },
    /// Some words are anything.
    Damaged,
    /// All words are anything, but for the header.
    Garbage,
    /// The map of another file, to a word.
    Foreign,
    /// Nothing.
    Emptied,
}

/// So many of them are what a disk does by itself.
const HONEST_MAP_LOSS_COUNT: usize = 4;
const MAP_LOSSES: [MapLoss; 8] = [
    MapLoss::None,
    MapLoss::Stale,
    MapLoss::Torn { step: 1 },
    MapLoss::Torn { step: SECTOR_WORDS },
    MapLoss::Damaged,
    MapLoss::Garbage,
    MapLoss::Foreign,
    MapLoss::Emptied,
];

/// The target file, and the sidecar map beside it.
#[derive(Debug)]
pub(crate) struct Disk {
    random: Random,
    file: Option<Vec<u8>>,
    /// What a loss of power leaves for certain; kept only where power can be lost.
    flushed: Option<Vec<u8>>,
    map: Arc<Vec<AtomicU32>>,
    /// What a loss of power leaves of it: an older state than that of the file, or a newer one.
    flushed_map: Vec<u32>,
    can_lose_power: bool,
    power: PowerPlan,
    write_count: u64,
    flushed_write_count: u64,
}

impl Disk {
    pub(crate) fn new(plan: &DiskPlan, truth: &[u8], can_lose_power: bool, mut random: Random) -> Self {
        let file = match plan.before {
            Before::Nothing => None,
            Before::Partly(right) => {
                let mut file = truth.to_vec();
                for sector in file.chunks_mut(SECTOR_SIZE) {
                    if !random.chance(right) {
                        random.fill(sector);
                    }
                }
                Some(file)
            }
        };
        let (flushed, map, flushed_map, power) = (None, Arc::default(), Vec::new(), plan.power);
        let mut disk = Self {
            random,
            file,
            flushed,
            map,
            flushed_map,
            can_lose_power,
            power,
            write_count: 0,
            flushed_write_count: 0,
        };
        disk.flush();
        disk
    }

    /// Makes the file as large as asked. Whether it was so before, and may hold right bytes.
    pub(crate) fn prepare(&mut self, size: u64) -> bool {
        let reused = self.file.as_ref().is_some_and(|file| file.len() as u64 == size);
        if !reused {
            // Not flushed: a loss of power may leave no file at all.
            self.file = Some(vec![0; size as usize]);
        }
        reused
    }

    /// A map of so many words: the one that is there if it has as many.
    pub(crate) fn map(&mut self, word_count: usize) -> Arc<Vec<AtomicU32>> {
        if self.map.len() != word_count {
            self.map = Arc::new(std::iter::repeat_with(AtomicU32::default).take(word_count).collect());
            self.flush_map();
        }
        Arc::clone(&self.map)
    }

    pub(crate) fn map_words(&self) -> &[AtomicU32] {
        &self.map
    }

    fn flush_map(&mut self) {
        if self.can_lose_power {
            self.flushed_map = self.map.iter().map(|word| word.load(Ordering::Relaxed)).collect();
        }
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        self.file.as_deref().expect("the file has been prepared")
    }

    pub(crate) fn write(&mut self, offset: u64, bytes: &[u8]) {
        let start = offset as usize;
        self.file.as_mut().expect("the file has been prepared")[start..start + bytes.len()].copy_from_slice(bytes);
        self.write_count += 1;
        self.flush_in_time();
    }

    /// Writes that a loss of power may undo, and words of the map. What was written a moment ago may have been flushed before its
    /// word was set: then it is safe, but nobody knows.
    pub(crate) fn unflushed_count(&self) -> u64 {
        let old = self.flushed_map.iter().copied().chain(std::iter::repeat(0));
        let words = self.map.iter().zip(old).filter(|(word, old)| word.load(Ordering::Relaxed) != *old).count();
        self.write_count - self.flushed_write_count + words as u64
    }

    fn flush_in_time(&mut self) {
        let [flush, flush_map] = match self.power {
            _ if !self.can_lose_power => return,
            PowerPlan::Hostile => [(); 2].map(|()| self.random.below(FLUSH_ONCE_IN) == 0),
            PowerPlan::FlushEvery(count) => [self.write_count.is_multiple_of(count); 2],
        };
        if flush {
            self.flush();
        }
        if flush_map {
            self.flush_map();
        }
    }

    pub(crate) fn clear(&mut self, range: Range<usize>) {
        self.file.as_mut().expect("the file has been prepared")[range].fill(0);
    }

    fn flush(&mut self) {
        if self.can_lose_power {
            self.flushed_write_count = self.write_count;
            self.flushed.clone_from(&self.file);
        }
    }

    /// The power fails: of every sector that was not flushed, the old or the new bytes survive. What an older file had says
    /// nothing of a new one, which is lost or has zeroes for old bytes.
    pub(crate) fn lose_power(&mut self) {
        if let Some(file) = &mut self.file {
            let flushed = self.flushed.take().filter(|flushed| flushed.len() == file.len());
            let is_lost = flushed.is_none() && self.random.chance(Ppm::percent(50));
            let flushed = flushed.unwrap_or_else(|| vec![0; file.len()]);
            for (new, old) in file.chunks_mut(SECTOR_SIZE).zip(flushed.chunks(SECTOR_SIZE)) {
                if new != old && self.random.chance(Ppm::percent(50)) {
                    new.copy_from_slice(old);
                }
            }
            if is_lost {
                self.file = None;
            }
        }
        self.flush();
        let losses = match self.power {
            PowerPlan::Hostile => &MAP_LOSSES[..],
            PowerPlan::FlushEvery(_) => &MAP_LOSSES[..HONEST_MAP_LOSS_COUNT],
        };
        let loss = self.random.pick(losses);
        self.lose_map(loss);
        self.flush_map();
    }

    fn lose_map(&mut self, loss: MapLoss) {
        let (random, map, flushed) = (&mut self.random, &self.map, &self.flushed_map);
        let restore = |first: usize, words: &[AtomicU32]| {
            for (index, word) in (first..).zip(words) {
                word.store(flushed.get(index).copied().unwrap_or(0), Ordering::Relaxed);
            }
        };
        match loss {
            MapLoss::None => {}
            MapLoss::Stale => restore(0, map),
            MapLoss::Torn { step } => {
                for (number, words) in map.chunks(step).enumerate() {
                    if random.chance(Ppm::percent(50)) {
                        restore(number * step, words);
                    }
                }
            }
            MapLoss::Damaged => {
                for word in map.iter() {
                    if random.chance(Ppm::percent(1)) {
                        word.store(random_word(random), Ordering::Relaxed);
                    }
                }
            }
            MapLoss::Garbage => {
                for word in map.iter().skip(MAP_HEADER_WORDS) {
                    word.store(random_word(random), Ordering::Relaxed);
                }
            }
            MapLoss::Foreign => map.iter().take(3).for_each(|word| {
                word.fetch_xor(1, Ordering::Relaxed);
            }),
            MapLoss::Emptied => self.map = Arc::default(),
        }
    }
}

/// An entry that names a symbol that exists, or any word at all.
fn random_word(random: &mut Random) -> u32 {
    match random.chance(Ppm::percent(80)) {
        true => (random.below(1200) as u32) << 16 | random.below(65_536) as u32,
        false => random.below(1 << 32) as u32,
    }
}
