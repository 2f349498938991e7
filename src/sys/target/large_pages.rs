//! Large pages for a file that is kept in memory (tmpfs).
//!
//! A tmpfs that was not mounted for them finds, accounts for and fills one page of 4 KiB after the other, and that is what writing to it
//! costs: 0.34 s for 1 GiB here, 0.15 s into large pages, clearing them included (`scripts/bench-netns` has what a receiver gains). The kernel
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

use super::{allocate, signed};
use crate::sys::clock;

/// Bytes of a large page. Where the processor has others, the kernel refuses.
pub(super) const LARGE_PAGE_SIZE: u64 = 2 << 20;
/// Bytes of the smallest page of any processor, or more: one must be there for the kernel to make a large one of it.
const FIRST_PAGE_SIZE: u64 = 4096;
/// From asm-generic/mman-common.h of Linux 6.1; not every C library names it.
const MADV_COLLAPSE: c_int = 25;

/// Processor time that a large page may take. Most of it clears the page, 0.15 ms here, and what it saves is 0.5 ms. It can take ten times
/// that: where memory is in pieces and the kernel has to move what is in them, or where a virtual machine has given it back to its host.
const COST_MAX: Duration = Duration::from_millis(1);
/// So many large pages are not made after one that could not be, or took too long.
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
    window: Window,
    /// A bit for each large page of the file: it has been made, or is not to be.
    settled: Box<[u64]>,
    /// So many that could be made are not.
    pause: u32,
}

impl LargePages {
    /// For a file of `size` bytes.
    pub(super) fn new(size: u64) -> Self {
        let words = usize::try_from((size / LARGE_PAGE_SIZE).div_ceil(64));
        let state = words.ok().filter(|&words| words > 0).and_then(|words| {
            let window = Window::new().ok()?;
            Some(State { window, settled: vec![0; words].into(), pause: 0 })
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

    /// A range is to be a hole: no room is taken there any more.
    pub(super) fn leave(&self, offset: u64, size: u64) {
        let mut held = self.state.lock().expect("no holder panics");
        let Some(state) = held.as_mut() else { return };
        for page in self.pages(offset, size) {
            state.settle(page);
        }
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
        let before = clock::processor_time();
        match self.window.make(file, page * LARGE_PAGE_SIZE) {
            Ok(()) if clock::processor_time().saturating_sub(before) <= COST_MAX => {}
            Err(error) if error.raw_os_error() == Some(libc::EINVAL) => return false,
            Ok(()) | Err(_) => self.pause = PAUSE,
        }
        true
    }
}

/// Addresses at which one large page of the file at a time is mapped, to name it to the kernel. Nothing is read or written there.
#[derive(Debug)]
struct Window {
    /// Addresses that nobody else uses: [`SIZE`](Self::SIZE) bytes of them.
    start: NonNull<c_void>,
}

// SAFETY: the addresses belong to the value, and nothing is reached through them.
unsafe impl Send for Window {}

impl Window {
    /// Enough for one large page that begins at a multiple of its size, wherever the kernel puts it.
    const SIZE: usize = 2 * LARGE_PAGE_SIZE as usize;

    fn new() -> io::Result<Self> {
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
        // SAFETY: a new mapping, where the kernel finds room for it, replaces nothing.
        let start = unsafe { libc::mmap(ptr::null_mut(), Self::SIZE, libc::PROT_NONE, flags, -1, 0) };
        mapped(start).map(|start| Self { start })
    }

    /// Makes a large page of the file at `offset`, a multiple of its size; all of it must lie in the file.
    fn make(&self, file: &File, offset: u64) -> io::Result<()> {
        // Of nothing at all the kernel makes no large page.
        allocate(file, 0, offset, FIRST_PAGE_SIZE)?;
        let size = LARGE_PAGE_SIZE as usize;
        let place = self.start.as_ptr().wrapping_byte_add(self.start.as_ptr().align_offset(size));
        let (flags, offset) = (libc::MAP_SHARED | libc::MAP_FIXED, signed(offset)?);
        // SAFETY: the large page that begins at the first multiple of its size lies within the addresses of `self`, where there is
        // nothing that anybody uses.
        let start = unsafe { libc::mmap64(place, size, libc::PROT_READ, flags, file.as_raw_fd(), offset) };
        let start = mapped(start)?;
        // SAFETY: the range has just been mapped. The advice changes no byte of the file, and nobody reads them there.
        let result = unsafe { libc::madvise(start.as_ptr(), size, MADV_COLLAPSE) };
        Errno::result(result).map(drop).map_err(io::Error::from)
    }
}

impl Drop for Window {
    fn drop(&mut self) {
        // SAFETY: nothing refers to these addresses, and they belong to `self`.
        let result = unsafe { libc::munmap(self.start.as_ptr(), Self::SIZE) };
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
mod tests {
    use std::os::unix::fs::{FileExt, MetadataExt};

    use super::*;

    /// Where a tmpfs is on every Linux.
    const MEMORY: &str = "/dev/shm";
    const SIZE: u64 = 3 * LARGE_PAGE_SIZE + 5;

    fn file() -> File {
        let file = crate::sys::unnamed::file_in(std::path::Path::new(MEMORY)).unwrap();
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

    /// Whether the processor's large pages are those that are asked for.
    fn is_possible() -> bool {
        let size = std::fs::read_to_string("/sys/kernel/mm/transparent_hugepage/hpage_pmd_size");
        size.is_ok_and(|size| size.trim() == LARGE_PAGE_SIZE.to_string())
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
    fn hole_stays_a_hole() {
        let (file, pages) = (file(), LargePages::new(SIZE));
        pages.leave(LARGE_PAGE_SIZE - 1, 2);
        pages.make(&file, 0, 2 * LARGE_PAGE_SIZE);
        assert_eq!(file.metadata().unwrap().blocks(), 0);
        pages.make(&file, 0, SIZE);
        assert_eq!(room(&file), u64::from(is_possible()), "the third");
    }

    #[test]
    fn one_that_cannot_be_made_is_followed_by_a_pause() {
        let size = 100 * LARGE_PAGE_SIZE;
        let pages = LargePages::new(size);
        let file = crate::sys::unnamed::file_in(std::path::Path::new(MEMORY)).unwrap();
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
    fn small_file_has_no_large_page() {
        let (file, pages) = (file(), LargePages::new(LARGE_PAGE_SIZE - 1));
        pages.make(&file, 0, LARGE_PAGE_SIZE - 1);
        pages.leave(0, LARGE_PAGE_SIZE - 1);
        assert_eq!(file.metadata().unwrap().blocks(), 0);
    }
}
