//! Memory that the kernel may put away: a mapped file without a name, so that what is large and can be computed again does not count
//! as the program's own memory.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::atomic::AtomicU64;

use memmap2::{MmapOptions, MmapRaw};

/// Words of 64 bits, all 0 at first.
#[derive(Debug)]
pub struct Scratch {
    map: MmapRaw,
}

impl Scratch {
    /// `count` words, at least one, in a file without a name in `folder`.
    ///
    /// # Errors
    /// What the kernel says: the folder cannot be written to, or there is no room.
    pub fn new(folder: &Path, count: usize) -> io::Result<Self> {
        let file = unnamed(folder)?;
        let size = count.max(1).checked_mul(8).and_then(|size| u64::try_from(size).ok());
        let size = size.ok_or_else(|| io::Error::from_raw_os_error(libc::EFBIG))?;
        // Room is taken now: to run out of it later would kill the program (SIGBUS).
        nix::fcntl::posix_fallocate(&file, 0, i64::try_from(size).unwrap_or(i64::MAX))?;
        Ok(Self { map: MmapOptions::new().map_raw(&file)? })
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

fn unnamed(folder: &Path) -> io::Result<File> {
    OpenOptions::new().read(true).write(true).custom_flags(libc::O_TMPFILE).mode(0o600).open(folder)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::Ordering;

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
}
