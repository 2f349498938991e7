//! The file that the server sends: opened once, of a size that is then fixed, and read only.
//!
//! Whether it is still the same file is for the caller to ask, by comparing identities.

use std::fs::{self, File, FileType, Metadata, OpenOptions};
use std::io;
use std::ops::Deref;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileExt, FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use memmap2::{Advice, Mmap, MmapOptions};

use crate::failure::{Exit, Failure};
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
}

impl SourceFile {
    /// Opens `path`, following symbolic links. Never waits, even if a fifo has been put there.
    ///
    /// # Errors
    /// [`Exit::NoInput`] if there is none, it cannot be read or is not a regular file; [`Exit::BadData`] if it is too large.
    pub fn open(path: &Path) -> Result<Self, Failure> {
        let what = || format!("open {}", path.display());
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
    /// [`Exit::NoInput`] if the kernel refuses, or the address space is too small.
    pub fn map(&self) -> Result<SourceMap, Failure> {
        let what = || format!("map {}", self.path.display());
        if self.size.bytes() == 0 {
            // The kernel does not map nothing.
            return Ok(SourceMap(None));
        }
        let size = usize::try_from(self.size.bytes())
            .map_err(|_| Failure::new(Exit::NoInput, what(), "too large for the address space of this machine"))?;
        let mut options = MmapOptions::new();
        let options = options.len(size);
        // SAFETY: the mapping is read only. Other programs can write to the file meanwhile: `drive` only copies and hashes the
        // bytes and never relies on reading the same twice, and ends when the identity has changed. Truncation kills (SIGBUS).
        let map = unsafe { options.map(&self.file) }.map_err(|error| Failure::io(Exit::NoInput, what(), &error))?;
        // Advice alone: reading goes on without it.
        let _ = map.advise(Advice::Sequential);
        Ok(SourceMap(Some(map)))
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
/// Touching bytes that have been cut off the file since kills the process (SIGBUS).
#[derive(Debug)]
pub struct SourceMap(Option<Mmap>);

impl Deref for SourceMap {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        self.0.as_deref().unwrap_or_default()
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
}
