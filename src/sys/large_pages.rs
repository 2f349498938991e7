//! Large pages for a file that is kept in memory (tmpfs), and maps that begin where such a page can.
//!
//! A tmpfs that was not mounted for them finds, accounts for and fills one page of 4 KiB after the other, and that is what writing to it
//! costs: 0.34 s for 1 GiB here, 0.15 s into large pages, clearing them included (docs/performance.md has what a receiver gains). The kernel
//! makes large pages of such a file when it is asked (MADV_COLLAPSE, Linux 6.1), however the file system was mounted. Where it does not, or
//! where that takes longer than it saves, the file is written as always.

use std::ffi::c_void;
use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::ptr::{self, NonNull};
use std::sync::Mutex;
use std::time::Duration;

use libc::c_int;
use nix::errno::Errno;
use nix::sys::statfs::{TMPFS_MAGIC, fstatfs};

use super::clock;
use super::target::{allocate, signed};

/// Bytes of a large page. Where the processor has larger ones, the kernel makes none.
const LARGE_PAGE_SIZE: u64 = 2 << 20;
/// Bytes of the smallest page of any processor, or more: one must be there for the kernel to make a large one of it.
const FIRST_PAGE_SIZE: u64 = 4096;
/// From asm-generic/mman-common.h of Linux 6.1; not every C library names it.
const MADV_COLLAPSE: c_int = 25;
/// How many times as long as its thread has worked it may take to make a large page, for what it waits for not to count: for other threads,
/// or for other processors to put away what they have not accounted for.
const WAIT_FACTOR: u32 = 8;
/// Processor time that writing to a large page saves, against small ones.
const SAVED: Duration = Duration::from_micros(500);
/// What large pages may have cost more than they saved. Most of what one costs is to clear it, 0.15 ms here; but it can be ten times that:
/// where memory is in pieces and the kernel has to move what is in them, or where a virtual machine has given it back to its host.
const LOSS_MAX: Duration = Duration::from_millis(5);
/// So many large pages are not made when that is lost, or after one that could not be made.
const PAUSE: u32 = 64;

/// Makes large pages while that is worth it.
#[derive(Debug)]
pub(super) struct LargePages {
    /// `None`: the kernel makes none of this file.
    state: Mutex<Option<State>>,
    /// Bytes of the file.
    size: u64,
}

#[derive(Debug)]
struct State {
    /// A bit for each large page of the file: it has been made, or is not to be.
    settled: Box<[u64]>,
    /// So many that could be made are not.
    pause: u32,
    /// What may still be lost.
    credit: Duration,
    /// The kernel has made one of this file.
    has_made: bool,
}

impl LargePages {
    /// For a file that is or will be of `size` bytes; `None` if it is not in memory.
    pub(super) fn of(file: &File, size: u64) -> Option<Self> {
        is_in_memory(file).then(|| Self::new(size))
    }

    fn new(size: u64) -> Self {
        let words = usize::try_from((size / LARGE_PAGE_SIZE).div_ceil(64));
        let state = words.ok().map(|words| {
            let settled = vec![0; words].into();
            State { settled, pause: 0, credit: LOSS_MAX, has_made: false }
        });
        Self { state: Mutex::new(state), size }
    }

    /// Soon everything in a range of `file` will be written: its room is taken in large pages, as far as they lie in the file. What is in
    /// them already stays.
    pub(super) fn make(&self, file: &File, offset: u64, size: u64) {
        let mut held = self.state.lock().expect("no holder panics");
        for page in self.pages(offset, size) {
            let Some(state) = held.as_mut() else { return };
            if state.settle(page) && state.is_due() && !state.make(file, page) {
                *held = None;
            }
        }
    }

    /// A range is to be a hole: no room is taken there any more. Answers whether some may have been.
    pub(super) fn leave(&self, offset: u64, size: u64) -> bool {
        let mut held = self.state.lock().expect("no holder panics");
        // It may have made some before it gave up.
        let Some(state) = held.as_mut() else { return true };
        let new_count = self.pages(offset, size).filter(|page| state.settle(*page)).count();
        new_count < self.pages(offset, size).count()
    }

    /// The large pages that have a byte of the range, and that lie in the file.
    fn pages(&self, offset: u64, size: u64) -> std::ops::Range<u64> {
        let end = (offset + size).div_ceil(LARGE_PAGE_SIZE).min(self.size / LARGE_PAGE_SIZE);
        offset / LARGE_PAGE_SIZE..end
    }
}

impl State {
    /// Whether a large page was not settled before.
    fn settle(&mut self, page: u64) -> bool {
        let (word, bit) = (&mut self.settled[(page / 64) as usize], 1 << (page % 64));
        let is_new = *word & bit == 0;
        *word |= bit;
        is_new
    }

    /// Whether the next one is to be made.
    fn is_due(&mut self) -> bool {
        let is_due = self.pause == 0;
        self.pause = self.pause.saturating_sub(1);
        is_due
    }

    /// Makes one. False: the kernel makes none of this file.
    fn make(&mut self, file: &File, page: u64) -> bool {
        let (began, worked) = (clock::now(), clock::processor_time());
        match make(file, page * LARGE_PAGE_SIZE) {
            Ok(()) => {
                self.has_made = true;
                let worked = clock::processor_time().saturating_sub(worked);
                self.account(worked.max(clock::now().since(began) / WAIT_FACTOR));
            }
            // It also says so of what has gone wrong this time.
            Err(error) if error.raw_os_error() == Some(libc::EINVAL) && !self.has_made => return false,
            Err(_) => self.pause = PAUSE,
        }
        true
    }

    /// One has been made, at this cost.
    fn account(&mut self, cost: Duration) {
        match (self.credit + SAVED).checked_sub(cost) {
            Some(credit) => self.credit = credit.min(LOSS_MAX),
            // The first one after the pause decides whether there is another.
            None => (self.credit, self.pause) = (Duration::ZERO, PAUSE),
        }
    }
}

/// Makes large pages of the first `size` bytes of a file in memory, at any cost, until the kernel refuses or `is_over`. All of them must
/// lie in it.
pub(super) fn make_all(file: &File, size: u64, is_over: &dyn Fn() -> bool) {
    if is_in_memory(file) {
        let mut pages = (0..size / LARGE_PAGE_SIZE).take_while(|_| !is_over());
        // What is left has small ones.
        let _ = pages.try_for_each(|page| make(file, page * LARGE_PAGE_SIZE));
    }
}

fn is_in_memory(file: &File) -> bool {
    fstatfs(file).is_ok_and(|state| state.filesystem_type() == TMPFS_MAGIC)
}

/// Makes a large page of the file at `offset`, a multiple of its size. All of it must lie in the file.
fn make(file: &File, offset: u64) -> io::Result<()> {
    // Of nothing at all the kernel makes no large page.
    allocate(file, 0, offset, FIRST_PAGE_SIZE)?;
    AlignedMap::new(file, offset, LARGE_PAGE_SIZE as usize)?.advise(MADV_COLLAPSE)
}

/// A part of a file in memory, shared with whoever else has it open: at an address at which large pages are mapped as such.
#[derive(Debug)]
pub(super) struct AlignedMap {
    start: NonNull<c_void>,
    size: usize,
    /// The addresses that are ours.
    _reserved: Reserved,
}

// SAFETY: the addresses belong to the value, and are reached only through raw pointers: whoever does so sees to the rest.
unsafe impl Send for AlignedMap {}
// SAFETY: as above.
unsafe impl Sync for AlignedMap {}

impl AlignedMap {
    /// Maps `size` bytes, at least one, of `file` from `offset` on, a multiple of [`LARGE_PAGE_SIZE`], to be read and written.
    ///
    /// # Errors
    /// What mmap(2) says.
    pub(super) fn new(file: &File, offset: u64, size: usize) -> io::Result<Self> {
        let alignment = LARGE_PAGE_SIZE as usize;
        let offset = signed(offset)?;
        let reserved = Reserved::new(size.checked_add(alignment).ok_or(Errno::ENOMEM)?)?;
        let place = reserved.start.as_ptr().wrapping_byte_add(reserved.start.as_ptr().align_offset(alignment));
        let (protection, flags) = (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_SHARED | libc::MAP_FIXED);
        // SAFETY: what is replaced lies within the reserved addresses, where there is nothing that anybody uses.
        let start = unsafe { libc::mmap64(place, size, protection, flags, file.as_raw_fd(), offset) };
        match mapped(start) {
            Ok(start) => Ok(Self { start, size, _reserved: reserved }),
            Err(error) => {
                // Before Linux 6.12 what was to be replaced may be gone, and another thread may have been given those addresses: they
                // are nobody's to unmap. A few addresses without memory are lost.
                std::mem::forget(reserved);
                Err(error)
            }
        }
    }

    /// The first byte. The map lives as long as `self`.
    pub(super) fn as_mut_ptr(&self) -> *mut u8 {
        self.start.as_ptr().cast()
    }

    /// Its bytes.
    pub(super) fn len(&self) -> usize {
        self.size
    }

    /// Asks for large pages, where the file system can have them.
    pub(super) fn prefer_large_pages(&self) {
        // Advice alone: what it does not give is only slower.
        let _ = self.advise(libc::MADV_HUGEPAGE);
    }

    fn advise(&self, advice: c_int) -> io::Result<()> {
        // SAFETY: the range is mapped, and neither advice changes a byte of it.
        let result = unsafe { libc::madvise(self.start.as_ptr(), self.size, advice) };
        Errno::result(result).map(drop).map_err(io::Error::from)
    }
}

/// Addresses that nobody else uses, with whatever has been mapped there.
#[derive(Debug)]
struct Reserved {
    start: NonNull<c_void>,
    size: usize,
}

impl Reserved {
    fn new(size: usize) -> io::Result<Self> {
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
        // SAFETY: a new mapping, where the kernel finds room for it, replaces nothing.
        let start = unsafe { libc::mmap(ptr::null_mut(), size, libc::PROT_NONE, flags, -1, 0) };
        Ok(Self { start: mapped(start)?, size })
    }
}

impl Drop for Reserved {
    fn drop(&mut self) {
        // SAFETY: nothing refers to these addresses any more, and they belong to `self`.
        let result = unsafe { libc::munmap(self.start.as_ptr(), self.size) };
        debug_assert_eq!(result, 0, "what was mapped can be unmapped");
    }
}

/// What mmap(2) says.
fn mapped(start: *mut c_void) -> io::Result<NonNull<c_void>> {
    if start == libc::MAP_FAILED {
        return Err(io::Error::last_os_error());
    }
    NonNull::new(start).ok_or_else(|| Errno::EFAULT.into())
}

#[cfg(test)]
pub(super) mod tests {
    use std::cell::Cell;
    use std::os::unix::fs::{FileExt, MetadataExt};
    use std::path::Path;

    use super::*;
    use crate::sys::unnamed;

    /// Where there is a tmpfs.
    pub(in crate::sys) const MEMORY: &str = "/dev/shm";
    const SIZE: u64 = 3 * LARGE_PAGE_SIZE + 5;

    fn file() -> File {
        let file = unnamed::file_in(Path::new(MEMORY)).unwrap();
        file.set_len(SIZE).unwrap();
        file
    }

    fn bytes(file: &File) -> Vec<u8> {
        let mut bytes = vec![9; SIZE as usize];
        file.read_exact_at(&mut bytes, 0).unwrap();
        bytes
    }

    /// Large pages' worth of room that a file has.
    fn room(file: &File) -> u64 {
        file.metadata().unwrap().blocks() * 512 / LARGE_PAGE_SIZE
    }

    /// Whether the kernel makes large pages of this size here, if it has the memory.
    pub(in crate::sys) fn is_possible() -> bool {
        let setting = |name| std::fs::read_to_string(format!("/sys/kernel/mm/transparent_hugepage/{name}"));
        let has_size = setting("hpage_pmd_size").is_ok_and(|size| size.trim() == LARGE_PAGE_SIZE.to_string());
        let is_denied = setting("shmem_enabled").is_ok_and(|modes| modes.contains("[deny]"));
        let release = nix::sys::utsname::uname().unwrap().release().to_string_lossy().into_owned();
        let version = release.split(['.', '-']).map_while(|part| part.parse::<u32>().ok()).take(2).collect::<Vec<_>>();
        has_size && !is_denied && version >= vec![6, 1]
    }

    #[test]
    fn room_is_taken_once_for_each_large_page_that_lies_in_the_file() {
        let (file, pages) = (file(), LargePages::new(SIZE));
        file.write_all_at(b"here", LARGE_PAGE_SIZE + 7).unwrap();
        pages.make(&file, LARGE_PAGE_SIZE + (1 << 20), 1 << 20);
        assert_eq!(room(&file), u64::from(is_possible()));
        let mut expected = vec![0; SIZE as usize];
        expected[LARGE_PAGE_SIZE as usize + 7..][..4].copy_from_slice(b"here");
        assert!(bytes(&file) == expected, "what is there stays, and all else is zero");
        file.set_len(0).unwrap();
        file.set_len(SIZE).unwrap();
        pages.make(&file, LARGE_PAGE_SIZE, LARGE_PAGE_SIZE);
        assert_eq!(file.metadata().unwrap().blocks(), 0, "it was made before");
        pages.make(&file, 3 * LARGE_PAGE_SIZE, 5);
        assert_eq!(file.metadata().unwrap().blocks(), 0, "the file ends in it");
    }

    #[test]
    fn all_large_pages_that_lie_in_a_file_are_made_at_once() {
        let file = file();
        let asked = Cell::new(0);
        make_all(&file, SIZE, &|| asked.replace(asked.get() + 1) == 1);
        assert_eq!(room(&file), u64::from(is_possible()), "the second is not made any more");
        make_all(&file, SIZE, &|| false);
        assert_eq!(room(&file), 3 * u64::from(is_possible()));
    }

    #[test]
    fn hole_stays_a_hole() {
        let (file, pages) = (file(), LargePages::new(SIZE));
        assert!(!pages.leave(LARGE_PAGE_SIZE - 1, 2));
        assert!(pages.leave(0, 1), "whether it was left or made is not known");
        pages.make(&file, 0, 2 * LARGE_PAGE_SIZE);
        assert_eq!(file.metadata().unwrap().blocks(), 0);
        pages.make(&file, 0, SIZE);
        assert_eq!(room(&file), u64::from(is_possible()), "the third");
    }

    #[test]
    fn one_that_cannot_be_made_is_followed_by_a_pause() {
        let size = 100 * LARGE_PAGE_SIZE;
        let pages = LargePages::new(size);
        let file = unnamed::file_in(Path::new(MEMORY)).unwrap();
        file.set_len(size).unwrap();
        let read_only = File::open(std::env::current_exe().unwrap()).unwrap();
        // EBADF: room cannot be taken.
        pages.make(&read_only, 0, LARGE_PAGE_SIZE);
        pages.make(&file, 0, LARGE_PAGE_SIZE * u64::from(PAUSE + 1));
        assert_eq!(file.metadata().unwrap().blocks(), 0, "the first, and those of the pause");
        pages.make(&file, 0, LARGE_PAGE_SIZE * u64::from(PAUSE + 2));
        assert_eq!(room(&file), u64::from(is_possible()), "the pause is over");
    }

    #[test]
    fn pause_comes_when_too_much_is_lost_and_not_before() {
        let pages = LargePages::new(100 * LARGE_PAGE_SIZE);
        let mut held = pages.state.lock().unwrap();
        let state = held.as_mut().unwrap();
        let mut made_at = |cost| {
            state.account(cost);
            std::mem::take(&mut state.pause)
        };
        let (cheap, dear) = (SAVED / 4, 5 * SAVED);
        assert!((0..50).all(|_| made_at(dear) == 0 && (0..8).all(|_| made_at(cheap) == 0)), "some are dear");
        assert_eq!([made_at(dear), made_at(dear), made_at(dear), made_at(dear)], [0, 0, PAUSE, PAUSE]);
        assert_eq!([made_at(cheap), made_at(dear)], [0, PAUSE], "what was saved before the pause counts no more");
    }

    #[test]
    fn small_file_has_no_large_page() {
        let (file, pages) = (file(), LargePages::new(LARGE_PAGE_SIZE - 1));
        pages.make(&file, 0, LARGE_PAGE_SIZE - 1);
        assert!(!pages.leave(0, LARGE_PAGE_SIZE - 1));
        assert_eq!(file.metadata().unwrap().blocks(), 0);
    }
}
