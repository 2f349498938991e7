//! The file that the server sends: opened once, of a size that is then fixed, and read only. A regular file or a block device.
//!
//! What is guaranteed while it is sent:
//!
//! | how it is held | where | what a change to the file does |
//! |---|---|---|
//! | [`Hold::Clone`] | btrfs, XFS with reflinks, and other file systems that share blocks (FICLONE), if the folder can be written to | nothing: what is sent is a copy as of the start, without a name; the change is seen and can be told |
//! | [`Hold::Lease`] | most local file systems, for the owner or with CAP_LEASE, while nobody has it open for writing (F_SETLEASE of fcntl(2)) | whoever opens it for writing or cuts it waits until [`SourceFile::state`] has been asked: up to then nothing has changed; from then on it is watched |
//! | [`Hold::Watch`] | everywhere else | it is seen when [`SourceFile::state`] is asked next, by size or time of modification; not so a write that sets the time back, nor, on tmpfs, a write through a mapping |
//! | [`Hold::None`] | block devices | it is not seen, unless the size changes |
//!
//! What is not seen here cannot harm a receiver: it takes no block whose digest is not that of the manifest. To open a file for
//! writing and change nothing is no change. A server that is halted (SIGSTOP) while it has a lease keeps a writer waiting, for
//! `/proc/sys/fs/lease-break-time` seconds at most.

mod hold;
mod map;

use std::fs::{self, File, FileType, Metadata, OpenOptions};
use std::io::{self, Seek, SeekFrom};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileExt, FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

pub(super) use self::map::Guard;
pub use self::map::SourceMap;
use crate::failure::{Exit, Failure, shown};
use crate::types::ObjectSize;

/// A regular file or a block device, open for reading.
#[derive(Debug)]
pub struct SourceFile {
    /// What is read: the file, or its clone.
    file: File,
    /// The file, where `file` is its clone.
    original: Option<File>,
    path: PathBuf,
    size: ObjectSize,
    identity: FileIdentity,
    is_device: bool,
    /// Whether this process has a lease on the file.
    has_lease: AtomicBool,
}

/// What keeps the content as it was when it was opened.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Hold {
    /// A copy that shares the file's blocks as long as they are the same.
    Clone,
    /// Whoever wants to write waits until that has been noticed.
    Lease,
    /// Nothing, but a change shows.
    Watch,
    /// Nothing, and a change does not show.
    None,
}

/// What has become of the content.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum SourceState {
    /// As far as can be seen it is what it was.
    Same,
    /// The file has changed, and what is read here has not.
    OriginalChanged,
    /// What is read here is no longer what it was.
    Changed,
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

    /// The identity of what is at `path`; `None` if there is nothing, or nobody can tell.
    #[must_use]
    pub fn at(path: &Path) -> Option<Self> {
        fs::metadata(path).ok().as_ref().map(Self::of)
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
    /// [`Exit::NoInput`] if there is none, it cannot be read or is neither a regular file nor a block device; [`Exit::BadData`] if it
    /// is too large.
    pub fn open(path: &Path) -> Result<Self, Failure> {
        let what = || format!("open {}", shown(path));
        let no_input = |error: io::Error| Failure::io(Exit::NoInput, what(), &error);
        let require_source = |kind: FileType| match other_kind(kind) {
            Some(kind) => Err(Failure::new(Exit::NoInput, what(), kind)),
            None => Ok(()),
        };
        // Asked before it is opened too: to open a device can do something to it.
        require_source(fs::metadata(path).map_err(no_input)?.file_type())?;
        let file = OpenOptions::new()
            .read(true)
            .custom_flags(libc::O_NOCTTY | libc::O_NONBLOCK)
            .open(path)
            .map_err(no_input)?;
        let metadata = file.metadata().map_err(no_input)?;
        require_source(metadata.file_type())?;
        let identity = identity_of(&file).map_err(no_input)?;
        let size = ObjectSize::new(identity.size).ok_or_else(|| {
            let cause = format!("{} bytes are too large, the limit is 2^48 - 1", identity.size);
            Failure::new(Exit::BadData, what(), cause)
        })?;
        let is_device = metadata.file_type().is_block_device();
        let has_lease = AtomicBool::new(false);
        Ok(Self { file, original: None, path: path.to_owned(), size, identity, is_device, has_lease })
    }

    /// The same content, kept apart from the file where the file system can do that without copying; else the file itself. Needs
    /// a moment, while what has been written to the file lately goes to the disk.
    #[must_use]
    pub fn set_aside(mut self) -> Self {
        if !self.is_device
            && self.size.bytes() > 0
            && let Ok(clone) = hold::clone(&self.file, &self.path)
            && self.is_as_opened().unwrap_or(false)
            && clone.metadata().is_ok_and(|metadata| metadata.len() == self.size.bytes())
        {
            self.original = Some(std::mem::replace(&mut self.file, clone));
        }
        self
    }

    /// Takes a lease, if the content has not been [set aside](Self::set_aside) and the kernel gives one. From then on
    /// [`state`](Self::state) has to be asked often: whoever opens the file for writing waits for that.
    pub fn lease(&self) {
        if !self.is_device && self.original.is_none() && hold::take_lease(&self.file).is_ok() {
            self.has_lease.store(true, Ordering::Relaxed);
        }
    }

    /// What keeps the content as it was.
    #[must_use]
    pub fn hold(&self) -> Hold {
        match () {
            () if self.is_device => Hold::None,
            () if self.original.is_some() => Hold::Clone,
            () if self.has_lease.load(Ordering::Relaxed) => Hold::Lease,
            () => Hold::Watch,
        }
    }

    /// What has become of the content. Lets a writer go on who waits for the lease, which is then gone.
    ///
    /// # Errors
    /// What fstat(2) says, as over a network file system.
    pub fn state(&self) -> io::Result<SourceState> {
        if self.has_lease.load(Ordering::Relaxed) && !hold::lease_is_whole(&self.file) {
            hold::give_up_lease(&self.file);
            self.has_lease.store(false, Ordering::Relaxed);
        }
        Ok(match (self.is_as_opened()?, &self.original) {
            (true, _) => SourceState::Same,
            (false, Some(_)) => SourceState::OriginalChanged,
            (false, None) => SourceState::Changed,
        })
    }

    /// Whether the file, not its clone, is what it was when it was opened.
    fn is_as_opened(&self) -> io::Result<bool> {
        Ok(identity_of(self.original.as_ref().unwrap_or(&self.file))?.same_content(&self.identity))
    }

    /// Whether another content has another [identity](Self::identity), which a block device's has not.
    #[must_use]
    pub fn shows_changes(&self) -> bool {
        !self.is_device
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

    /// The identity of what is read here, now. A file put in its place under the same name does not show, nor does a change to a
    /// file that has been [set aside](Self::set_aside).
    ///
    /// # Errors
    /// What fstat(2) says, as over a network file system.
    pub fn identity_now(&self) -> io::Result<FileIdentity> {
        if self.original.is_some() { Ok(self.identity.clone()) } else { identity_of(&self.file) }
    }

    /// Seconds from 1970 to the last modification before it was opened; 0 if that is earlier than 1970, `None` if nobody knows.
    #[must_use]
    pub fn modified_unix_seconds(&self) -> Option<u64> {
        (!self.is_device).then(|| u64::try_from(self.identity.mtime_ns / 1_000_000_000).unwrap_or(0))
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
        let size = usize::try_from(self.size.bytes())
            .map_err(|_| Failure::new(Exit::NoInput, what(), "too large for the address space of this machine"))?;
        SourceMap::new(&self.file, size).map_err(|error| Failure::io(Exit::NoInput, what(), &error))
    }
}

/// What fstat(2) says. Of a block device that is only what it is, and how long: nothing tells when it was written to.
fn identity_of(file: &File) -> io::Result<FileIdentity> {
    let metadata = file.metadata()?;
    if metadata.file_type().is_block_device() {
        let mut file = file;
        let size = file.seek(SeekFrom::End(0))?;
        return Ok(FileIdentity { device: metadata.rdev(), inode: metadata.ino(), size, mtime_ns: 0, ctime_ns: 0 });
    }
    Ok(FileIdentity::of(&metadata))
}

/// What the file is instead of a regular file or a block device.
fn other_kind(kind: FileType) -> Option<&'static str> {
    match kind {
        _ if kind.is_file() || kind.is_block_device() => None,
        _ if kind.is_dir() => Some("is a directory"),
        _ if kind.is_fifo() => Some("is a fifo"),
        _ if kind.is_socket() => Some("is a socket"),
        _ if kind.is_char_device() => Some("is a character device"),
        _ => Some("not a regular file"),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixListener;

    use nix::sys::stat::Mode;

    use super::*;

    fn refusal(path: &Path) -> String {
        let failure = SourceFile::open(path).unwrap_err();
        assert_eq!(failure.exit, Exit::NoInput);
        failure.to_string().rsplit(": ").next().unwrap().to_owned()
    }

    #[test]
    fn what_cannot_be_a_source_is_refused_by_its_kind() {
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
        assert!(source.modified_unix_seconds().unwrap() > 1_577_836_800);
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
    fn file_that_is_watched_shows_a_change_and_no_other_openings() {
        let file = tempfile::NamedTempFile::new().unwrap();
        file.as_file().write_all_at(b"content", 0).unwrap();
        let source = SourceFile::open(file.path()).unwrap();
        assert_eq!((source.hold(), source.state().unwrap()), (Hold::Watch, SourceState::Same));
        drop(OpenOptions::new().write(true).open(file.path()).unwrap());
        assert_eq!(source.state().unwrap(), SourceState::Same);
        file.as_file().set_len(3).unwrap();
        assert_eq!(source.state().unwrap(), SourceState::Changed);
    }

    #[test]
    fn writer_waits_for_the_lease_until_the_state_has_been_asked() {
        let file = tempfile::NamedTempFile::new().unwrap().into_temp_path();
        fs::write(&file, b"content").unwrap();
        let source = SourceFile::open(&file).unwrap();
        source.lease();
        if source.hold() != Hold::Lease {
            // Not every file system or user has leases.
            return;
        }
        let open = || OpenOptions::new().write(true).custom_flags(libc::O_NONBLOCK).open(&file);
        assert_eq!(open().unwrap_err().raw_os_error(), Some(libc::EWOULDBLOCK));
        assert_eq!(source.state().unwrap(), SourceState::Same);
        assert_eq!(source.hold(), Hold::Watch);
        open().unwrap().write_all_at(b"another", 0).unwrap();
        assert_eq!(source.state().unwrap(), SourceState::Changed);
    }

    #[test]
    fn clone_has_no_name_and_keeps_the_content() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("object");
        fs::write(&path, b"content").unwrap();
        let source = SourceFile::open(&path).unwrap().set_aside();
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
        fs::write(&path, b"CHANGED").unwrap();
        // The end-to-end tests bring a file system that can clone.
        let can_clone = source.hold() == Hold::Clone;
        let expected: (&[u8], _) =
            if can_clone { (b"content", SourceState::OriginalChanged) } else { (b"CHANGED", SourceState::Changed) };
        assert_eq!((&*source.map().unwrap(), source.state().unwrap()), expected);
    }
}
