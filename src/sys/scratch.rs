//! Memory that the kernel may put away: a mapped file without a name, so that what is large and can be computed again does not count
//! as the program's own memory.

use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicU8, AtomicU64, AtomicUsize, Ordering};

use super::large_pages::AlignedMap;
use super::slot_file::allocate;
use super::{large_pages, unnamed};

/// Bytes for which room is taken at once: in memory it takes a tenth of a second.
const ROOM_STEP: u64 = 256 << 20;

/// Words of 64 bits, all 0 at first.
#[derive(Debug)]
pub struct Scratch {
    map: AlignedMap,
}

impl Scratch {
    /// `count` words, at least one, in a file without a name in `folder`.
    ///
    /// # Errors
    /// What the kernel says: the folder cannot be written to, or there is no room.
    pub fn new(folder: &Path, count: usize) -> io::Result<Self> {
        let size = count.max(1).checked_mul(8);
        Ok(Self { map: mapped(folder, size, Pages::Any, &|| false)? })
    }

    /// The words.
    #[must_use]
    pub fn words(&self) -> &[AtomicU64] {
        let count = self.map.len() / 8;
        // SAFETY: a mapping begins at a page, holds this many words, may be written to, and lives as long as `self`; its bytes are only
        // ever reached through these atomics. The file has no name and no other handle: nobody can shorten it.
        unsafe { std::slice::from_raw_parts(self.map.as_mut_ptr().cast::<AtomicU64>(), count) }
    }
}

/// Slots of bytes, each of which is filled once, by one thread, and read by any number of them from then on.
#[derive(Debug)]
pub struct ScratchSlots {
    map: AlignedMap,
    slot_size: usize,
    states: Box<[AtomicU8]>,
    /// How many have been filled: once it is all of them, nobody need look at each.
    full_count: AtomicUsize,
}

/// The states of a slot, in their order: nobody has it; one thread writes to it; it never changes again.
const EMPTY: u8 = 0;
const BEING_FILLED: u8 = 1;
const FULL: u8 = 2;

impl ScratchSlots {
    /// `count` slots of `slot_size` bytes each, at least one byte together, in a file without a name in `folder`.
    ///
    /// # Errors
    /// What the kernel says: the folder cannot be written to, or there is no room.
    pub fn new(folder: &Path, count: usize, slot_size: usize) -> io::Result<Self> {
        Self::with_pages(folder, count, slot_size, Pages::Any, &|| false)
    }

    /// The same, in large pages as far as they are to be had: the kernel then finds its way to the bytes at less cost. It can take long to
    /// take them: until `is_over`.
    ///
    /// # Errors
    /// The same, and [`io::ErrorKind::Interrupted`] if it was over first.
    pub fn in_large_pages(
        folder: &Path,
        count: usize,
        slot_size: usize,
        is_over: &dyn Fn() -> bool,
    ) -> io::Result<Self> {
        Self::with_pages(folder, count, slot_size, Pages::Large, is_over)
    }

    fn with_pages(
        folder: &Path,
        count: usize,
        slot_size: usize,
        pages: Pages,
        is_over: &dyn Fn() -> bool,
    ) -> io::Result<Self> {
        let size = count.checked_mul(slot_size).map(|size| size.max(1));
        let map = mapped(folder, size, pages, is_over)?;
        let states = (0..count).map(|_| AtomicU8::new(EMPTY)).collect();
        Ok(Self { map, slot_size, states, full_count: AtomicUsize::new(0) })
    }

    /// The bytes of a slot.
    #[must_use]
    pub fn slot_size(&self) -> usize {
        self.slot_size
    }

    /// Lets `fill` write to a slot that nobody has written to, and then lets everybody read it, if `fill` says that it is right;
    /// else nobody ever will. Does nothing if another thread is or was there, or if there is no such slot.
    pub fn fill(&self, index: usize, fill: impl FnOnce(&mut [u8]) -> bool) {
        let Some(state) = self.states.get(index) else { return };
        if state.compare_exchange(EMPTY, BEING_FILLED, Ordering::Relaxed, Ordering::Relaxed).is_err() {
            return;
        }
        // SAFETY: the slot lies within the mapping, whose size is that of all slots.
        let start = unsafe { self.map.as_mut_ptr().add(index * self.slot_size) };
        // SAFETY: the bytes are mapped for reading and writing as long as `self` lives. Only the thread that took the slot out of
        // `EMPTY`, which happens once, comes here, and nobody reads before it is `FULL`: nothing else reaches these bytes.
        let slot = unsafe { std::slice::from_raw_parts_mut(start, self.slot_size) };
        if fill(slot) {
            // Pairs with the load in `is_full`: whoever sees `FULL` sees the bytes.
            state.store(FULL, Ordering::Release);
            // Pairs with the load in `are_all_full`: whoever sees the last addition sees what was done before all of them.
            self.full_count.fetch_add(1, Ordering::Release);
        }
    }

    /// How many slots have been filled from `first` on without a gap, `count_max` at most.
    #[must_use]
    pub fn full_count(&self, first: usize, count_max: usize) -> usize {
        let states = self.states.get(first..).unwrap_or_default();
        let count_max = count_max.min(states.len());
        if self.are_all_full() {
            return count_max;
        }
        states[..count_max].iter().take_while(|state| is_full(state)).count()
    }

    fn are_all_full(&self) -> bool {
        self.full_count.load(Ordering::Acquire) == self.states.len()
    }

    /// Whether a slot has been filled.
    #[must_use]
    pub fn is_full(&self, index: usize) -> bool {
        self.states.get(index).is_some_and(is_full)
    }

    /// The bytes of a slot, if it has been filled.
    #[must_use]
    pub fn get(&self, index: usize) -> Option<&[u8]> {
        self.bytes(index.checked_mul(self.slot_size)?, self.slot_size).filter(|_| index < self.states.len())
    }

    /// So many bytes, counted from the start of the first slot, if all slots that they touch have been filled.
    #[must_use]
    pub fn bytes(&self, start: usize, size: usize) -> Option<&[u8]> {
        let end = start.checked_add(size)?;
        let slots = start.checked_div(self.slot_size)?..end.div_ceil(self.slot_size);
        let states = self.states.get(slots)?;
        if !self.are_all_full() && !states.iter().all(is_full) {
            return None;
        }
        // SAFETY: the slots lie within the mapping, whose size is that of all slots.
        let start = unsafe { self.map.as_mut_ptr().add(start) };
        // SAFETY: the bytes are mapped for reading as long as `self` lives, and slots that are `FULL` are never written to again. The
        // file has no name and no other handle: nobody can shorten it.
        Some(unsafe { std::slice::from_raw_parts(start, size) })
    }
}

fn is_full(state: &AtomicU8) -> bool {
    state.load(Ordering::Acquire) == FULL
}

/// What a map is made of.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Pages {
    /// Pages as they come.
    Any,
    /// Large ones, as far as they are to be had.
    Large,
}

fn mapped(folder: &Path, size: Option<usize>, pages: Pages, is_over: &dyn Fn() -> bool) -> io::Result<AlignedMap> {
    let file = unnamed::file_in(folder)?;
    let too_large = || io::Error::from_raw_os_error(libc::EFBIG);
    let map_size = size.ok_or_else(too_large)?;
    let size = u64::try_from(map_size).map_err(|_| too_large())?;
    // Room is taken now: to run out of it later would kill the program (SIGBUS).
    if pages == Pages::Large {
        file.set_len(size)?;
        large_pages::make_all(&file, size, is_over);
        for start in (0..size).step_by(ROOM_STEP as usize) {
            if is_over() {
                return Err(io::ErrorKind::Interrupted.into());
            }
            allocate(&file, start, ROOM_STEP.min(size - start))?;
        }
    } else {
        allocate(&file, 0, size)?;
    }
    let map = AlignedMap::new(&file, 0, map_size)?;
    if pages == Pages::Large {
        map.prefer_large_pages();
    }
    Ok(map)
}

/// Bytes that an unprivileged program can still write to the file system of `folder`.
///
/// # Errors
/// What statvfs(3) says.
#[allow(clippy::useless_conversion, reason = "both have 32 bits on some machines")]
pub fn free_space(folder: &Path) -> io::Result<u64> {
    let state = nix::sys::statvfs::statvfs(folder)?;
    Ok(u64::from(state.blocks_available()).saturating_mul(u64::from(state.fragment_size())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_zero_at_first_and_kept() {
        let folder = tempfile::tempdir().unwrap();
        let scratch = Scratch::new(folder.path(), 1000).unwrap();
        assert_eq!(scratch.words().len(), 1000);
        assert!(scratch.words().iter().all(|word| word.load(Ordering::Relaxed) == 0));
        scratch.words()[999].store(7, Ordering::Relaxed);
        assert_eq!(scratch.words()[999].load(Ordering::Relaxed), 7);
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0, "the file has no name");
    }

    #[test]
    fn no_room_is_an_error_at_once() {
        let folder = tempfile::tempdir().unwrap();
        assert!(Scratch::new(folder.path(), usize::MAX / 16).is_err());
        assert!(Scratch::new(&folder.path().join("missing"), 1).is_err());
    }

    #[test]
    fn slot_is_read_once_it_is_full_and_filled_once() {
        let folder = tempfile::tempdir().unwrap();
        let slots = ScratchSlots::new(folder.path(), 3, 5000).unwrap();
        assert_eq!(slots.get(1), None);
        slots.fill(1, |bytes| {
            assert_eq!((bytes.len(), slots.get(1)), (5000, None));
            slots.fill(1, |_| panic!("it is taken"));
            bytes.fill(7);
            true
        });
        slots.fill(1, |_| panic!("it is full"));
        assert!(slots.get(1).unwrap() == [7; 5000]);
        slots.fill(2, |bytes| {
            bytes.fill(8);
            false
        });
        assert_eq!((slots.get(0), slots.get(2), slots.get(3)), (None, None, None));
        slots.fill(2, |_| panic!("it is given up"));
        slots.fill(3, |_| panic!("there is none"));
    }

    #[test]
    fn bytes_of_neighbours_are_read_together_once_all_are_full() {
        let folder = tempfile::tempdir().unwrap();
        let slots = ScratchSlots::in_large_pages(folder.path(), 4, 10, &|| false).unwrap();
        for index in [0, 1, 3] {
            slots.fill(index, |bytes| {
                bytes.fill(index as u8);
                true
            });
        }
        assert_eq!(slots.bytes(8, 4), Some(&[0, 0, 1, 1][..]));
        assert_eq!(slots.bytes(0, 20).map(<[u8]>::len), Some(20));
        assert_eq!((slots.bytes(0, 21), slots.bytes(29, 3), slots.bytes(20, 1)), (None, None, None));
        assert_eq!((slots.bytes(30, 11), slots.bytes(usize::MAX, 2), slots.bytes(40, 1)), (None, None, None));
        assert_eq!((slots.is_full(1), slots.is_full(2), slots.is_full(4)), (true, false, false));
    }

    #[test]
    fn full_slots_are_counted_up_to_the_first_that_is_not() {
        let folder = tempfile::tempdir().unwrap();
        let slots = ScratchSlots::new(folder.path(), 5, 10).unwrap();
        for index in [0, 1, 3, 4] {
            slots.fill(index, |_| true);
        }
        assert_eq!([0, 1, 2, 3].map(|first| slots.full_count(first, 9)), [2, 1, 0, 2]);
        assert_eq!((slots.full_count(0, 1), slots.full_count(5, 1), slots.full_count(6, 1)), (1, 0, 0));
        slots.fill(2, |_| true);
        assert_eq!((slots.full_count(0, 9), slots.full_count(3, 9), slots.full_count(1, 2)), (5, 2, 2));
        assert_eq!((slots.full_count(5, 1), slots.full_count(6, 1), slots.bytes(0, 50)), (0, 0, Some(&[0; 50][..])));
    }

    #[test]
    fn threads_that_fill_together_fill_every_slot_once() {
        let folder = tempfile::tempdir().unwrap();
        let slots = ScratchSlots::new(folder.path(), 500, 64).unwrap();
        let filled = AtomicU64::new(0);
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    (0..500).for_each(|index| {
                        slots.fill(index, |bytes| {
                            bytes.fill(index as u8);
                            filled.fetch_add(1, Ordering::Relaxed) < u64::MAX
                        });
                    });
                });
            }
            scope.spawn(|| {
                // Whatever is seen is whole.
                for index in (0..500).cycle().take(100_000) {
                    assert!(slots.get(index).is_none_or(|bytes| bytes == [index as u8; 64]));
                }
            });
        });
        assert_eq!(filled.into_inner(), 500);
        assert!((0..500).all(|index| slots.get(index).is_some()));
    }

    #[test]
    fn slots_without_room_are_an_error_at_once() {
        let folder = tempfile::tempdir().unwrap();
        assert!(free_space(folder.path()).unwrap() > 0);
        assert!(ScratchSlots::new(folder.path(), usize::MAX / 16, 17).is_err());
        assert!(ScratchSlots::new(folder.path(), 1 << 30, 1 << 30).is_err());
    }
}
