//! The file that the server sends: opened once, of a size that is then fixed, and read only.
//!
//! Whether it is still the same file is for the caller to ask, by comparing identities. To touch a mapped page that has been cut
//! off the file, or that the disk cannot read, raises SIGBUS: a handler puts a page of zeroes there, so that the program lives to say
//! what happened.

use std::fs::{self, File, FileType, Metadata, OpenOptions};
use std::io;
use std::ops::Deref;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileExt, FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::ptr;
use std::sync::Once;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering, fence};

use libc::{c_int, c_void, siginfo_t};
use memmap2::{Advice, Mmap, MmapOptions};
use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, sigaction};

use crate::failure::{Exit, Failure, shown};
use crate::types::ObjectSize;

/// A regular file, open for reading.
#[derive(Debug)]
pub struct SourceFile {
    file: File,
    path: PathBuf,
    size: ObjectSize,
    identity: FileIdentity,
}

/// What changes when a file is replaced, resized or written to, as far as stat(2) shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileIdentity {
    /// The file system's device number.
    pub device: u64,
    /// The inode number.
    pub inode: u64,
    /// The length in bytes.
    pub size: u64,
    /// Nanoseconds from 1970 to the last modification of the content.
    pub mtime_ns: i128,
    /// Nanoseconds from 1970 to the last change of content or inode, which programs cannot set.
    pub ctime_ns: i128,
}

impl FileIdentity {
    fn of(metadata: &Metadata) -> Self {
        let nanoseconds = |seconds: i64, rest: i64| i128::from(seconds) * 1_000_000_000 + i128::from(rest);
        Self {
            device: metadata.dev(),
            inode: metadata.ino(),
            size: metadata.len(),
            mtime_ns: nanoseconds(metadata.mtime(), metadata.mtime_nsec()),
            ctime_ns: nanoseconds(metadata.ctime(), metadata.ctime_nsec()),
        }
    }

    /// Whether it is the same file and, as far as the time of modification shows it, with the same content. The time of change is
    /// left out: other permissions, another link or another name change that too.
    #[must_use]
    pub fn same_content(&self, other: &Self) -> bool {
        let content = |identity: &Self| (identity.device, identity.inode, identity.size, identity.mtime_ns);
        content(self) == content(other)
    }
}

impl SourceFile {
    /// Opens `path`, following symbolic links. Never waits, even if a fifo has been put there.
    ///
    /// # Errors
    /// [`Exit::NoInput`] if there is none, it cannot be read or is not a regular file; [`Exit::BadData`] if it is too large.
    pub fn open(path: &Path) -> Result<Self, Failure> {
        let what = || format!("open {}", shown(path));
        let no_input = |error: io::Error| Failure::io(Exit::NoInput, what(), &error);
        let require_regular = |kind: FileType| match other_kind(kind) {
            Some(kind) => Err(Failure::new(Exit::NoInput, what(), kind)),
            None => Ok(()),
        };
        // Asked before it is opened too: to open a device can do something to it.
        require_regular(fs::metadata(path).map_err(no_input)?.file_type())?;
        let file = OpenOptions::new()
            .read(true)
            .custom_flags(libc::O_NOCTTY | libc::O_NONBLOCK)
            .open(path)
            .map_err(no_input)?;
        let metadata = file.metadata().map_err(no_input)?;
        require_regular(metadata.file_type())?;
        let size = size_of_source(&metadata).ok_or_else(|| {
            Failure::new(
                Exit::BadData,
                what(),
                format!("{} bytes are too large, the limit is 2^48 - 1", metadata.len()),
            )
        })?;
        Ok(Self { file, path: path.to_owned(), size, identity: FileIdentity::of(&metadata) })
    }

    /// The length when it was opened.
    #[must_use]
    pub fn size(&self) -> ObjectSize {
        self.size
    }

    /// The identity when it was opened.
    #[must_use]
    pub fn identity(&self) -> &FileIdentity {
        &self.identity
    }

    /// The identity of the open file now. A file put in its place under the same name does not show here.
    ///
    /// # Errors
    /// What fstat(2) says, as over a network file system.
    pub fn identity_now(&self) -> io::Result<FileIdentity> {
        Ok(FileIdentity::of(&self.file.metadata()?))
    }

    /// Seconds from 1970 to the last modification before it was opened; 0 if that is earlier than 1970.
    #[must_use]
    pub fn modified_unix_seconds(&self) -> u64 {
        u64::try_from(self.identity.mtime_ns / 1_000_000_000).unwrap_or(0)
    }

    /// Fills `out` from the bytes at `offset`.
    ///
    /// # Errors
    /// What pread(2) says; [`io::ErrorKind::UnexpectedEof`] if the file ends before.
    pub fn read_exact_at(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.file.read_exact_at(out, offset)
    }

    /// If `offset` is in a hole, which reads as zeroes and takes no room, the offset where it ends; `None` where there is data,
    /// beyond the end, and where the file system does not tell.
    #[must_use]
    pub fn hole_at(&self, offset: u64) -> Option<u64> {
        let size = self.size.bytes();
        let start = libc::off64_t::try_from(offset).ok().filter(|_| offset < size)?;
        // SAFETY: lseek takes no pointer; nothing here reads at the file's own position, which it moves.
        let data = unsafe { libc::lseek64(self.file.as_raw_fd(), start, libc::SEEK_DATA) };
        let end = match u64::try_from(data) {
            Ok(data) => data.min(size),
            Err(_) if io::Error::last_os_error().raw_os_error() == Some(libc::ENXIO) => size,
            Err(_) => return None,
        };
        (end > offset).then_some(end)
    }

    /// Maps the whole file.
    ///
    /// # Errors
    /// [`Exit::NoInput`] if the kernel refuses, the address space is too small, or too many files are mapped at once.
    pub fn map(&self) -> Result<SourceMap, Failure> {
        let what = || format!("map {}", shown(&self.path));
        if self.size.bytes() == 0 {
            // The kernel does not map nothing.
            return Ok(SourceMap(None));
        }
        let size = usize::try_from(self.size.bytes())
            .map_err(|_| Failure::new(Exit::NoInput, what(), "too large for the address space of this machine"))?;
        let mut options = MmapOptions::new();
        let options = options.len(size);
        // SAFETY: the mapping is read only. Other programs can write to the file meanwhile: `drive` only copies and hashes the
        // bytes and never relies on reading the same twice, and ends when the identity has changed or the map is torn.
        let map = unsafe { options.map(&self.file) }.map_err(|error| Failure::io(Exit::NoInput, what(), &error))?;
        // Advice alone: reading goes on without it.
        let _ = map.advise(Advice::Sequential);
        let guard = Guard::register(map.as_ptr(), map.len()).ok_or_else(|| {
            Failure::new(Exit::NoInput, what(), format!("{GUARDED_COUNT_MAX} files are mapped already"))
        })?;
        Ok(SourceMap(Some(Guarded { guard, map })))
    }
}

/// The one place that finds how long a source is.
fn size_of_source(metadata: &Metadata) -> Option<ObjectSize> {
    ObjectSize::new(metadata.len())
}

/// What the file is instead of a regular file.
fn other_kind(kind: FileType) -> Option<&'static str> {
    match kind {
        _ if kind.is_file() => None,
        _ if kind.is_dir() => Some("is a directory"),
        _ if kind.is_fifo() => Some("is a fifo"),
        _ if kind.is_socket() => Some("is a socket"),
        _ if kind.is_char_device() => Some("is a character device"),
        _ if kind.is_block_device() => Some("is a block device, not a regular file"),
        _ => Some("not a regular file"),
    }
}

/// The bytes of a [`SourceFile`], read from storage when touched.
///
/// Bytes that have been cut off the file since, or that cannot be read, are zeroes, and the map is then [torn](Self::is_torn).
#[derive(Debug)]
pub struct SourceMap(Option<Guarded>);

impl SourceMap {
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
pub(super) struct Guard {
    region: &'static Region,
}

impl Guard {
    /// Has the handler look after a mapping, which must outlive the guard; `None` if there are too many.
    pub(super) fn register(start: *const u8, size: usize) -> Option<Self> {
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
    use std::hint::black_box;
    use std::os::unix::net::UnixListener;
    use std::os::unix::process::ExitStatusExt;
    use std::process::{Command, Stdio};

    use nix::sys::stat::Mode;

    use super::*;

    fn refusal(path: &Path) -> String {
        let failure = SourceFile::open(path).unwrap_err();
        assert_eq!(failure.exit, Exit::NoInput);
        failure.to_string().rsplit(": ").next().unwrap().to_owned()
    }

    #[test]
    fn what_is_not_a_regular_file_is_refused_by_its_kind() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        nix::unistd::mkfifo(&at("fifo"), Mode::S_IRWXU).unwrap();
        let _listener = UnixListener::bind(at("socket")).unwrap();
        assert_eq!(refusal(&at("missing")), "no such file or directory");
        assert_eq!(refusal(folder.path()), "is a directory");
        assert_eq!(refusal(&at("fifo")), "is a fifo");
        assert_eq!(refusal(&at("socket")), "is a socket");
        assert_eq!(refusal(Path::new("/dev/null")), "is a character device");
    }

    #[test]
    fn unreadable_file_is_refused() {
        if nix::unistd::geteuid().is_root() {
            return;
        }
        let file = tempfile::NamedTempFile::new().unwrap();
        fs::set_permissions(file.path(), std::os::unix::fs::PermissionsExt::from_mode(0o000)).unwrap();
        assert_eq!(refusal(file.path()), "permission denied");
    }

    #[test]
    fn map_and_reads_agree_with_the_content() {
        let file = tempfile::NamedTempFile::new().unwrap();
        fs::write(file.path(), b"0123456789").unwrap();
        let source = SourceFile::open(file.path()).unwrap();
        let mut middle = [0; 4];
        source.read_exact_at(3, &mut middle).unwrap();
        assert_eq!((&*source.map().unwrap(), &middle, source.size().bytes()), (&b"0123456789"[..], b"3456", 10));
        assert_eq!(source.read_exact_at(8, &mut middle).unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
    }

    #[test]
    fn empty_file_maps_to_an_empty_slice() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let source = SourceFile::open(file.path()).unwrap();
        assert!(source.map().unwrap().is_empty());
        assert_eq!((source.size().bytes(), source.hole_at(0)), (0, None));
    }

    #[test]
    fn too_large_file_is_bad_data() {
        let file = tempfile::NamedTempFile::new().unwrap();
        // Not every file system has files of that length.
        if file.as_file().set_len(1 << 48).is_ok() {
            assert_eq!(SourceFile::open(file.path()).unwrap_err().exit, Exit::BadData);
        }
    }

    #[test]
    fn holes_are_found_or_the_file_system_does_not_tell() {
        let file = tempfile::NamedTempFile::new().unwrap();
        file.as_file().write_all_at(&[7; 4096], 1 << 20).unwrap();
        file.as_file().set_len(3 << 20).unwrap();
        let source = SourceFile::open(file.path()).unwrap();
        assert_eq!((source.hole_at(1 << 20), source.hole_at(3 << 20), source.hole_at(u64::MAX)), (None, None, None));
        if let Some(end) = source.hole_at(0) {
            assert_eq!((end, source.hole_at(2 << 20)), (1 << 20, Some(3 << 20)));
        }
    }

    #[test]
    fn identity_changes_with_the_content() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let source = SourceFile::open(file.path()).unwrap();
        assert_eq!(source.identity_now().unwrap(), *source.identity());
        file.as_file().write_all_at(b"x", 0).unwrap();
        assert_ne!(source.identity_now().unwrap(), *source.identity());
        assert!(source.modified_unix_seconds() > 1_577_836_800);
    }

    #[test]
    fn change_of_permissions_is_not_one_of_content() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let source = SourceFile::open(file.path()).unwrap();
        fs::set_permissions(file.path(), std::os::unix::fs::PermissionsExt::from_mode(0o400)).unwrap();
        assert!(source.identity_now().unwrap().same_content(source.identity()));
        let of = |change: fn(&mut FileIdentity)| {
            let mut identity = source.identity().clone();
            change(&mut identity);
            identity.same_content(source.identity())
        };
        assert!(of(|identity| identity.ctime_ns += 1));
        assert!(!of(|identity| identity.mtime_ns += 1));
        assert!(!of(|identity| identity.size += 1));
        assert!(!of(|identity| identity.inode += 1));
        assert!(!of(|identity| identity.device += 1));
    }

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
        command.args(["--exact", "sys::source_file::tests::child_that_does_what_its_environment_says"]);
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
