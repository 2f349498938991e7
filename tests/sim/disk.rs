//! A disk that is slow, fails, and forgets: what a receiver's host has under it.

use std::ops::Range;
use std::time::Duration;

use crate::random::{Ppm, Random};

/// A disk writes so much at once, or not at all.
const SECTOR_SIZE: usize = 512;
/// The system flushes now and then: after one write in so many.
const FLUSH_ONCE_IN: u64 = 2000;

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
};

/// The target file.
#[derive(Debug)]
pub(crate) struct Disk {
    random: Random,
    file: Option<Vec<u8>>,
    /// What a loss of power leaves for certain; kept only where power can be lost.
    flushed: Option<Vec<u8>>,
    can_lose_power: bool,
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
        let mut disk = Self { random, file, flushed: None, can_lose_power };
        disk.flush();
        disk
    }

    /// Makes the file as large as asked. Whether it was so before, and may hold right bytes.
    pub(crate) fn prepare(&mut self, size: u64) -> bool {
        let reused = self.file.as_ref().is_some_and(|file| file.len() as u64 == size);
        if !reused {
            self.file = Some(vec![0; size as usize]);
            self.flush();
        }
        reused
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        self.file.as_deref().expect("the file has been prepared")
    }

    pub(crate) fn write(&mut self, offset: u64, bytes: &[u8]) {
        let start = offset as usize;
        self.file.as_mut().expect("the file has been prepared")[start..start + bytes.len()].copy_from_slice(bytes);
        if self.can_lose_power && self.random.below(FLUSH_ONCE_IN) == 0 {
            self.flush();
        }
    }

    pub(crate) fn clear(&mut self, range: Range<usize>) {
        self.file.as_mut().expect("the file has been prepared")[range].fill(0);
    }

    fn flush(&mut self) {
        if self.can_lose_power {
            self.flushed.clone_from(&self.file);
        }
    }

    /// The power fails: of every sector that was not flushed, the old or the new bytes survive.
    pub(crate) fn lose_power(&mut self) {
        if let (Some(file), Some(flushed)) = (&mut self.file, &self.flushed) {
            for (new, old) in file.chunks_mut(SECTOR_SIZE).zip(flushed.chunks(SECTOR_SIZE)) {
                if new != old && self.random.chance(Ppm::percent(50)) {
                    new.copy_from_slice(old);
                }
            }
        }
        self.flush();
    }
}
