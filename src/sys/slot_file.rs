//! The receiver's slot map beside its output, `.NAME.slots`: mapped words in which it notes what each place of the `.part` holds.
//!
//! The words survive the program, however it ends, because they are in the page cache; after a power failure they may be of any age.
//! What they say is for the receiver to check. Here it is only made sure that nobody else has put the file there, that its room is
//! taken before it is needed, and that the program lives if the file is cut off, the disk is full after all or cannot be read: the
//! words of that page are then 0, and what is written to them is lost when the program ends.
//!
//! The `.part` beside it must be locked: that keeps other receivers away.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicU32;

use memmap2::{MmapOptions, MmapRaw};
use nix::errno::Errno;

use super::source_file::Guard;
use super::target::part::{OPEN_FLAGS, beside, create_new, distrust};

/// Bytes of a word.
const WORD_SIZE: usize = size_of::<AtomicU32>();
/// What is written where room cannot be taken otherwise.
static ZEROES: [u8; 16 << 10] = [0; 16 << 10];

/// Mapped words of 32 bits, in the byte order of this machine.
#[derive(Debug)]
pub struct SlotFile {
    /// Dropped before the map: no address is guarded that is no longer ours. `None` without a file: nothing can tear it.
    _guard: Option<Guard>,
    map: MmapRaw,
    word_count: usize,
}

impl SlotFile {
    /// Opens or creates the slot map of the output `target`, of `word_count` words.
    ///
    /// The words are those that were left there if there were as many, and may say anything; else all are 0. Their room on disk
    /// is taken now.
    ///
    /// # Errors
    /// What the kernel says, such as that there is no room (nothing is then left there); or that what is there could have been
    /// prepared by somebody else, and then it is left alone: a symbolic link, a file of another user or with another name, or no
    /// regular file. [`anonymous`](Self::anonymous) words serve in its place.
    pub fn open(target: &Path, word_count: usize) -> io::Result<Self> {
        let path = path_of(target)?;
        let size = size_of_words(word_count)?;
        let mut file = open_trusted(&path)?;
        let size_before = file.metadata()?.len();
        if size_before != 0 && size_before != size {
            // Whoever still has the old words mapped keeps them to himself.
            fs::remove_file(&path)?;
            file = create_new(&path, 0o600)?;
        }
        let prepared = prepare(&file, size).and_then(|()| map_file(&file, word_count));
        if prepared.is_err() {
            // It has been emptied, or what it says cannot be kept up.
            let _ = fs::remove_file(&path);
        }
        prepared
    }

    /// `word_count` words in memory alone, all 0, lost when this is dropped.
    ///
    /// # Errors
    /// What the kernel says: there is not so much memory.
    pub fn anonymous(word_count: usize) -> io::Result<Self> {
        let size = usize::try_from(size_of_words(word_count)?).map_err(|_| Errno::ENOMEM)?;
        let map = MmapOptions::new().len(size).map_anon()?;
        Ok(Self { _guard: None, map: map.into(), word_count })
    }

    /// The words, for any thread.
    #[must_use]
    pub fn words(&self) -> &[AtomicU32] {
        // SAFETY: a mapping begins at a page, holds this many words, may be written to, and lives as long as `self`; its bytes are
        // only ever reached through these atomics, to which what others write to the file is but another value. Beyond the end of
        // a file that has been cut off, the guard puts a page that is just as good.
        unsafe { std::slice::from_raw_parts(self.map.as_mut_ptr().cast::<AtomicU32>(), self.word_count) }
    }

    /// Removes the slot map of the output `target`, if there is one that [`open`](Self::open) would take.
    ///
    /// # Errors
    /// What the kernel says, or why it is left alone.
    pub fn remove(target: &Path) -> io::Result<()> {
        Self::remove_at(&path_of(target)?)
    }

    /// The same, where the name of the slot map itself is known.
    pub(super) fn remove_at(path: &Path) -> io::Result<()> {
        match fs::symlink_metadata(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            found => {
                require_trust(&found?)?;
                fs::remove_file(path)
            }
        }
    }
}

fn path_of(target: &Path) -> io::Result<PathBuf> {
    beside(target, ".slots").map_err(|failure| io::Error::new(io::ErrorKind::InvalidInput, failure))
}

/// Bytes of so many words; at least one, as the kernel does not map nothing.
fn size_of_words(word_count: usize) -> io::Result<u64> {
    let size = word_count.max(1).checked_mul(WORD_SIZE).filter(|&size| isize::try_from(size).is_ok());
    size.and_then(|size| u64::try_from(size).ok()).ok_or_else(|| Errno::EFBIG.into())
}

fn require_trust(metadata: &fs::Metadata) -> io::Result<()> {
    match distrust(metadata) {
        Some(cause) => Err(io::Error::new(io::ErrorKind::PermissionDenied, cause)),
        None => Ok(()),
    }
}

/// Opens what is there if it may be trusted, or creates it.
fn open_trusted(path: &Path) -> io::Result<File> {
    match create_new(path, 0o600) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
        created => return created,
    }
    // Asked before it is opened too: to open a device can do something to it.
    require_trust(&fs::symlink_metadata(path)?)?;
    let file = OpenOptions::new().read(true).write(true).custom_flags(OPEN_FLAGS).open(path)?;
    require_trust(&file.metadata()?)?;
    Ok(file)
}

/// Gives the file, which is empty or has it already, its length and its room.
fn prepare(file: &File, size: u64) -> io::Result<()> {
    let size_before = file.metadata()?.len();
    // Asked even of a file of the right length, which may be a hole: to run out of room later would tear the map.
    match allocate(file, 0, size) {
        Err(Errno::EOPNOTSUPP | Errno::EINVAL | Errno::ENOSYS) if size_before == size => Ok(()),
        Err(Errno::EOPNOTSUPP | Errno::EINVAL | Errno::ENOSYS) => write_zeroes(file, size),
        result => Ok(result?),
    }
}

/// posix_fallocate(3), as often as it is interrupted.
pub(super) fn allocate(file: &File, offset: u64, size: u64) -> Result<(), Errno> {
    let [offset, size] = [i64::try_from(offset), i64::try_from(size)].map(|value| value.map_err(|_| Errno::EFBIG));
    let (offset, size) = (offset?, size?);
    loop {
        match nix::fcntl::posix_fallocate(file, offset, size) {
            Err(Errno::EINTR) => {}
            result => return result,
        }
    }
}

fn write_zeroes(file: &File, size: u64) -> io::Result<()> {
    let mut at = 0;
    while at < size {
        let step = (size - at).min(ZEROES.len() as u64);
        file.write_all_at(&ZEROES[..step as usize], at)?;
        at += step;
    }
    Ok(())
}

fn map_file(file: &File, word_count: usize) -> io::Result<SlotFile> {
    let map = MmapOptions::new().map_raw(file)?;
    // The file can have been cut off since: a shorter map must not be taken for one that holds all words.
    if map.len() < word_count * WORD_SIZE {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    let guard = Guard::register(map.as_ptr(), map.len()).ok_or_else(|| io::Error::from(Errno::EMFILE))?;
    Ok(SlotFile { _guard: Some(guard), map, word_count })
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt, symlink};
    use std::sync::atomic::Ordering;

    use super::*;

    /// Several pages, and not a whole number of them.
    const COUNT: usize = 10_001;

    /// A folder, the output in it, and its slot map.
    fn folder() -> (tempfile::TempDir, PathBuf, PathBuf) {
        let folder = tempfile::tempdir().unwrap();
        let (target, slots) = (folder.path().join("out.img"), folder.path().join(".out.img.slots"));
        (folder, target, slots)
    }

    fn get(file: &SlotFile, index: usize) -> u32 {
        file.words()[index].load(Ordering::Relaxed)
    }

    fn set(file: &SlotFile, index: usize, value: u32) {
        file.words()[index].store(value, Ordering::Relaxed);
    }

    fn refusal(target: &Path) -> String {
        let opened = SlotFile::open(target, 2).unwrap_err().to_string();
        let removed = SlotFile::remove(target).unwrap_err().to_string();
        assert_eq!(opened, removed, "what is not taken is not removed");
        opened
    }

    #[test]
    fn words_are_zero_at_first_and_kept_when_opened_again() {
        let (_folder, target, slots) = folder();
        let file = SlotFile::open(&target, COUNT).unwrap();
        assert_eq!(file.words().len(), COUNT);
        assert!(file.words().iter().all(|word| word.load(Ordering::Relaxed) == 0));
        set(&file, 0, 7);
        set(&file, COUNT - 1, u32::MAX);
        drop(file);
        let metadata = fs::metadata(&slots).unwrap();
        assert_eq!((metadata.len(), metadata.permissions().mode() & 0o777), (4 * COUNT as u64, 0o600));
        let file = SlotFile::open(&target, COUNT).unwrap();
        assert_eq!((get(&file, 0), get(&file, 1), get(&file, COUNT - 1)), (7, 0, u32::MAX));
        SlotFile::remove(&target).unwrap();
        SlotFile::remove(&target).unwrap();
        assert!(!slots.exists());
    }

    #[test]
    fn file_of_another_length_is_emptied() {
        let (_folder, target, _) = folder();
        for (before, after) in [(COUNT, COUNT + 1), (COUNT + 1, 5), (5, COUNT)] {
            let file = SlotFile::open(&target, before).unwrap();
            file.words().iter().for_each(|word| word.store(9, Ordering::Relaxed));
            drop(file);
            let file = SlotFile::open(&target, after).unwrap();
            assert_eq!(file.words().len(), after);
            assert!(file.words().iter().all(|word| word.load(Ordering::Relaxed) == 0), "{before} {after}");
        }
    }

    #[test]
    fn words_that_are_still_mapped_do_not_reach_a_map_of_another_length() {
        let (_folder, target, _) = folder();
        let old = SlotFile::open(&target, COUNT).unwrap();
        let new = SlotFile::open(&target, COUNT + 1).unwrap();
        (0..COUNT).for_each(|index| set(&old, index, 9));
        assert!(new.words().iter().all(|word| word.load(Ordering::Relaxed) == 0));
        set(&new, 0, 5);
        assert_eq!((get(&old, 0), get(&old, COUNT - 1)), (9, 9));
    }

    #[test]
    fn length_that_is_not_one_of_words_is_another() {
        let (_folder, target, slots) = folder();
        fs::write(&slots, [9; 41]).unwrap();
        let file = SlotFile::open(&target, 10).unwrap();
        assert!((0..10).all(|index| get(&file, index) == 0));
    }

    #[test]
    fn no_words_are_an_empty_slice() {
        let (_folder, target, _) = folder();
        assert!(SlotFile::open(&target, 0).unwrap().words().is_empty());
        assert!(SlotFile::anonymous(0).unwrap().words().is_empty());
    }

    #[test]
    fn room_is_taken_at_once_even_for_a_file_that_was_a_hole() {
        use std::os::unix::fs::MetadataExt;
        let (_folder, target, slots) = folder();
        File::create(&slots).unwrap().set_len(4 << 20).unwrap();
        let _file = SlotFile::open(&target, 1 << 20).unwrap();
        assert!(fs::metadata(&slots).unwrap().blocks() * 512 >= 4 << 20);
    }

    #[test]
    fn anonymous_words_are_zero_and_have_no_file() {
        let (folder, ..) = folder();
        let file = SlotFile::anonymous(COUNT).unwrap();
        assert_eq!((file.words().len(), get(&file, COUNT - 1)), (COUNT, 0));
        set(&file, COUNT - 1, 3);
        assert_eq!(get(&file, COUNT - 1), 3);
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
    }

    #[test]
    fn no_room_is_an_error_at_once_and_leaves_nothing() {
        let (_folder, target, slots) = folder();
        // 2^60 bytes, for which there is no room, or which are more than a file can have.
        assert!(SlotFile::open(&target, 1 << 58).is_err());
        assert!(!slots.exists());
        assert_eq!(SlotFile::open(&target, usize::MAX / 2).unwrap_err().raw_os_error(), Some(libc::EFBIG));
        assert!(SlotFile::anonymous(usize::MAX / 2).is_err());
        assert!(SlotFile::open(Path::new(".."), 1).is_err());
    }

    #[test]
    fn what_somebody_else_could_have_prepared_is_left_alone() {
        let (folder, target, slots) = folder();
        let other = folder.path().join("other");
        fs::write(&other, b"precious").unwrap();
        symlink(&other, &slots).unwrap();
        assert_eq!(refusal(&target), "is a symbolic link");
        fs::remove_file(&slots).unwrap();
        symlink(folder.path().join("missing"), &slots).unwrap();
        assert_eq!(refusal(&target), "is a symbolic link");
        assert!(!folder.path().join("missing").exists());
        fs::remove_file(&slots).unwrap();
        fs::hard_link(&other, &slots).unwrap();
        assert_eq!(refusal(&target), "has another name too");
        fs::remove_file(&slots).unwrap();
        nix::unistd::mkfifo(&slots, nix::sys::stat::Mode::S_IRWXU).unwrap();
        assert_eq!(refusal(&target), "is not a regular file");
        fs::remove_file(&slots).unwrap();
        fs::create_dir(&slots).unwrap();
        assert_eq!(refusal(&target), "is not a regular file");
        assert_eq!(fs::read(&other).unwrap(), b"precious");
    }

    #[test]
    fn file_of_another_user_is_left_alone() {
        if !nix::unistd::geteuid().is_root() {
            return;
        }
        let (_folder, target, slots) = folder();
        fs::write(&slots, b"prepared").unwrap();
        std::os::unix::fs::chown(&slots, Some(65_534), None).unwrap();
        assert_eq!(refusal(&target), "belongs to another user");
        assert_eq!(fs::read(&slots).unwrap(), b"prepared");
    }

    #[test]
    fn words_of_a_file_that_is_cut_off_are_zero_and_can_be_written() {
        let (_folder, target, slots) = folder();
        let file = SlotFile::open(&target, COUNT).unwrap();
        file.words().iter().for_each(|word| word.store(9, Ordering::Relaxed));
        OpenOptions::new().write(true).open(&slots).unwrap().set_len(0).unwrap();
        // The first access to one page is a write, and to the others a read.
        set(&file, 2000, 5);
        assert_eq!((get(&file, 2000), get(&file, 2001)), (5, 0));
        assert!((0..COUNT).all(|index| index == 2000 || get(&file, index) == 0));
        drop(file);
        let file = SlotFile::open(&target, COUNT).unwrap();
        assert_eq!(get(&file, 2000), 0, "what was written beyond the end of the file is lost");
    }

    #[test]
    fn words_can_be_shared_among_threads() {
        fn shared<T: Send + Sync>() {}
        shared::<SlotFile>();
    }
}
