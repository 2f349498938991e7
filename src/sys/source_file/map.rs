//! The mapping of a source file. To touch a mapped page that has been cut off the file, or that the disk cannot read, raises
//! SIGBUS: a handler puts a page of zeroes there, so that the program lives to say what happened.

use std::fs::File;
use std::io;
use std::ops::Deref;
use std::ptr;
use std::sync::Once;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering, fence};

use libc::{c_int, c_void, siginfo_t};
use memmap2::{Advice, Mmap, MmapOptions};
use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, sigaction};

/// The bytes of a [`SourceFile`](super::SourceFile), read from storage when touched.
///
/// Bytes that have been cut off the file since, or that cannot be read, are zeroes, and the map is then [torn](Self::is_torn).
#[derive(Debug)]
pub struct SourceMap(Option<Guarded>);

impl SourceMap {
    /// Maps `size` bytes of `file`; nothing, if that is 0, because the kernel does not map nothing.
    ///
    /// # Errors
    /// What mmap(2) says; ENFILE if too many files are mapped at once.
    pub(super) fn new(file: &File, size: usize) -> io::Result<Self> {
        if size == 0 {
            return Ok(Self(None));
        }
        let mut options = MmapOptions::new();
        let options = options.len(size);
        // SAFETY: the mapping is read only. Other programs can write to the file meanwhile: `drive` only copies and hashes the
        // bytes and never relies on reading the same twice, and ends when the identity has changed or the map is torn.
        let map = unsafe { options.map(file) }?;
        // Advice alone: reading goes on without it.
        let _ = map.advise(Advice::Sequential);
        let guard =
            Guard::register(map.as_ptr(), map.len()).ok_or_else(|| io::Error::from_raw_os_error(libc::ENFILE))?;
        Ok(Self(Some(Guarded { guard, map })))
    }

    /// Whether bytes that have been read from it up to now may be zeroes in place of the content. Once torn, it remains so.
    #[must_use]
    pub fn is_torn(&self) -> bool {
        // The bytes were read before, even by another thread, for which the page was already there.
        fence(Ordering::SeqCst);
        self.0.as_ref().is_some_and(|guarded| guarded.guard.region.torn.load(Ordering::SeqCst))
    }
}

impl Deref for SourceMap {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        self.0.as_ref().map_or(&[], |guarded| &guarded.map)
    }
}

/// A mapping and its entry in [`REGIONS`], which is dropped first: the handler touches no address that is no longer ours.
#[derive(Debug)]
struct Guarded {
    guard: Guard,
    map: Mmap,
}

/// Mappings that can be guarded at once.
const GUARDED_COUNT_MAX: usize = 64;
/// Where an entry that has been taken but not yet filled begins: no address is beyond.
const TAKEN: usize = usize::MAX;
/// What the handler looks faults up in.
static REGIONS: [Region; GUARDED_COUNT_MAX] = [const { Region::new() }; GUARDED_COUNT_MAX];
/// The size of a page in bytes, for the handler; 0 until it is installed.
static PAGE_SIZE: AtomicUsize = AtomicUsize::new(0);

/// Addresses that are guarded; free if `start` is 0.
#[derive(Debug)]
struct Region {
    start: AtomicUsize,
    end: AtomicUsize,
    torn: AtomicBool,
}

impl Region {
    const fn new() -> Self {
        Self { start: AtomicUsize::new(0), end: AtomicUsize::new(0), torn: AtomicBool::new(false) }
    }

    fn take(&self) -> bool {
        self.start.compare_exchange(0, TAKEN, Ordering::SeqCst, Ordering::SeqCst).is_ok()
    }

    /// Whether the address is guarded. Another thread can be filling or emptying the entry, but not that of a mapping in use.
    fn contains(&self, address: usize) -> bool {
        let start = self.start.load(Ordering::SeqCst);
        let end = self.end.load(Ordering::SeqCst);
        start != 0 && (start..end).contains(&address) && self.start.load(Ordering::SeqCst) == start
    }
}

/// An entry of [`REGIONS`].
#[derive(Debug)]
pub(in crate::sys) struct Guard {
    region: &'static Region,
}

impl Guard {
    /// Has the handler look after a mapping, which must outlive the guard; `None` if there are too many.
    pub(in crate::sys) fn register(start: *const u8, size: usize) -> Option<Self> {
        install_handler();
        let region = REGIONS.iter().find(|region| region.take())?;
        let start = start.addr();
        region.torn.store(false, Ordering::SeqCst);
        region.end.store(start + size, Ordering::SeqCst);
        region.start.store(start, Ordering::SeqCst);
        Some(Self { region })
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        self.region.end.store(0, Ordering::SeqCst);
        self.region.start.store(0, Ordering::SeqCst);
    }
}

fn install_handler() {
    static INSTALLED: Once = Once::new();
    INSTALLED.call_once(|| {
        // SAFETY: sysconf takes no pointer.
        let page_size = unsafe { libc::sysconf(libc::_SC_PAGESIZE) };
        PAGE_SIZE.store(usize::try_from(page_size).expect("Linux knows the size of a page"), Ordering::SeqCst);
        // A thread that has a stack for signals uses it, as after an overflow of its own stack.
        let flags = SaFlags::SA_SIGINFO | SaFlags::SA_ONSTACK;
        let action = SigAction::new(SigHandler::SigAction(mend), flags, SigSet::empty());
        // SAFETY: `mend` calls only async-signal-safe functions and touches nothing but atomics.
        let installed = unsafe { sigaction(Signal::SIGBUS, &action) };
        installed.expect("a handler for SIGBUS can be installed");
    });
}

/// The handler of SIGBUS: makes the page at fault readable if it is one of a guarded mapping, else lets the signal kill.
extern "C" fn mend(number: c_int, info: *mut siginfo_t, _context: *mut c_void) {
    // SAFETY: the kernel passes a pointer to what it says about the signal, valid until the handler returns.
    let info = unsafe { &*info };
    // SAFETY: the field is there for every SIGBUS that the kernel raises, and used only then; else it is some number.
    let address = unsafe { info.si_addr() }.addr();
    // What another program sends has a code of 0 or less.
    let is_fault = info.si_code > 0;
    if is_fault && REGIONS.iter().any(|region| mend_region(region, address)) {
        return;
    }
    // SAFETY: signal() is async-signal-safe, and SIG_DFL refers to no memory. The fault happens again on return, and kills.
    unsafe { libc::signal(number, libc::SIG_DFL) };
    if !is_fault {
        // SAFETY: raise() is async-signal-safe; the signal is blocked until this handler returns, and then kills.
        unsafe { libc::raise(number) };
    }
}

/// Puts a page of zeroes where the fault was, if that is in `region`.
fn mend_region(region: &Region, address: usize) -> bool {
    if !region.contains(address) {
        return false;
    }
    // Before the page is there: no thread reads its zeroes and finds the map whole.
    region.torn.store(true, Ordering::SeqCst);
    let page_size = PAGE_SIZE.load(Ordering::SeqCst);
    let page = ptr::without_provenance_mut::<c_void>(address - address % page_size);
    let flags = libc::MAP_FIXED | libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
    // Writable, for the mappings that are.
    let protection = libc::PROT_READ | libc::PROT_WRITE;
    // SAFETY: the page is within a mapping that outlives its guard, and is unmapped as a whole; nobody could have read bytes of it
    // that now change, as it is not readable. mmap is a system call that takes no lock of this process.
    let mapped = unsafe { libc::mmap(page, page_size, protection, flags, -1, 0) };
    mapped != libc::MAP_FAILED
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::hint::black_box;
    use std::os::unix::process::ExitStatusExt;
    use std::process::{Command, Stdio};

    use super::super::SourceFile;
    use super::*;

    #[test]
    fn map_of_a_file_that_is_cut_off_reads_zeroes_and_is_torn() {
        let (cut, whole) = (mapped_sevens(), mapped_sevens());
        assert!(cut.1.iter().all(|&byte| byte == 7));
        cut.0.as_file().set_len(0).unwrap();
        assert!(!cut.1.is_torn(), "nothing has been read since");
        assert!(cut.1.iter().all(|&byte| black_box(byte) == 0));
        assert!(cut.1.is_torn());
        assert!(whole.1.iter().all(|&byte| byte == 7));
        assert!(!whole.1.is_torn());
    }

    #[test]
    fn entry_of_a_dropped_map_can_be_used_again() {
        for _ in 0..2 * GUARDED_COUNT_MAX {
            let (file, map) = mapped_sevens();
            file.as_file().set_len(0).unwrap();
            assert!(!map.is_torn());
            assert_eq!((black_box(map[0]), map.is_torn()), (0, true));
        }
    }

    #[test]
    fn fault_elsewhere_kills() {
        assert_eq!(signal_of_child("fault"), Some(libc::SIGBUS));
    }

    #[test]
    fn signal_of_another_program_kills() {
        assert_eq!(signal_of_child("raise"), Some(libc::SIGBUS));
    }

    /// What kills needs a process of its own: this test, run again with a word in its environment.
    #[test]
    fn child_that_does_what_its_environment_says() {
        let Ok(word) = std::env::var(SCRIPT) else { return };
        nix::sys::resource::setrlimit(nix::sys::resource::Resource::RLIMIT_CORE, 0, 0).unwrap();
        let (file, _map) = mapped_sevens();
        if word == "raise" {
            nix::sys::signal::raise(Signal::SIGBUS).unwrap();
        }
        // SAFETY: nothing else uses the file, and to read beyond its end is what is tested.
        let unguarded = unsafe { MmapOptions::new().map(file.as_file()) }.unwrap();
        file.as_file().set_len(0).unwrap();
        black_box(unguarded[0]);
    }

    const SCRIPT: &str = "IOTUPD_TEST_SOURCE_FILE";

    fn signal_of_child(word: &str) -> Option<i32> {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args(["--exact", "sys::source_file::map::tests::child_that_does_what_its_environment_says"]);
        command.env(SCRIPT, word).stdout(Stdio::null()).stderr(Stdio::null()).status().unwrap().signal()
    }

    /// A file of several pages, not a whole number of them.
    fn mapped_sevens() -> (tempfile::NamedTempFile, SourceMap) {
        let file = tempfile::NamedTempFile::new().unwrap();
        fs::write(file.path(), vec![7; 300_001]).unwrap();
        let map = SourceFile::open(file.path()).unwrap().map().unwrap();
        (file, map)
    }
}
