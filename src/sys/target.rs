//! The receiver's output: `.NAME.part` beside where it is to be, then, when it is complete, renamed into place.
//!
//! Whoever can write to the folder could have prepared the `.part`, so it is used only if it is a regular file of this user's
//! with no other name, and locked. Nothing is ever written through a symbolic link.

use std::ffi::OsString;
use std::fs::{self, File, OpenOptions};
use std::io::{self, IoSlice};
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use libc::c_int;
use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, AtFlags, Flock, FlockArg};
use nix::unistd::{AccessFlags, faccessat, geteuid};

use crate::failure::{Exit, Failure};

/// Parts that pwritev(2) takes at once (IOV_MAX of Linux).
const PART_COUNT_MAX: usize = 1024;
/// The mode bit of a folder whose files only their owners (and the folder's) can rename or replace (S_ISVTX).
const STICKY: u32 = 0o1000;
/// What is written where a hole cannot be punched.
static ZEROES: [u8; 16 << 10] = [0; 16 << 10];

/// A file that is being received. Dropped without [`commit`](Self::commit), the `.part` stays and can be resumed.
#[derive(Debug)]
pub struct Target {
    file: Flock<File>,
    size: u64,
    part: PathBuf,
    path: PathBuf,
}

impl Target {
    /// Tells, before anything is received, whether `path` could be created: its folder can be written to, and what has the name
    /// now, if anything, is a regular file that the rename can replace.
    ///
    /// # Errors
    /// [`Exit::CannotCreate`].
    pub fn check(path: &Path) -> Result<(), Failure> {
        let refused = |cause: &str| Failure::new(Exit::CannotCreate, create_what(path), cause);
        part_path(path)?;
        let folder = folder_of(path);
        let in_folder = |error: io::Error| {
            Failure::io(Exit::CannotCreate, format!("{} in {}", create_what(path), folder.display()), &error)
        };
        let folder_metadata = fs::metadata(folder).map_err(in_folder)?;
        if !folder_metadata.is_dir() {
            return Err(in_folder(Errno::ENOTDIR.into()));
        }
        faccessat(AT_FDCWD, folder, AccessFlags::W_OK | AccessFlags::X_OK, AtFlags::AT_EACCESS)
            .map_err(|errno| in_folder(errno.into()))?;
        let metadata = match fs::symlink_metadata(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            found => found.map_err(|error| Failure::io(Exit::CannotCreate, create_what(path), &error))?,
        };
        let kind = metadata.file_type();
        if kind.is_dir() {
            return Err(refused("is a directory"));
        }
        if kind.is_symlink() {
            return Err(refused("is a symbolic link").remedy("name the file it points to"));
        }
        if !kind.is_file() {
            return Err(refused("is not a regular file"));
        }
        let user = geteuid();
        let sticky = folder_metadata.mode() & STICKY != 0;
        if sticky && !user.is_root() && ![metadata.uid(), folder_metadata.uid()].contains(&user.as_raw()) {
            return Err(refused("belongs to another user"));
        }
        Ok(())
    }

    /// Bytes that this user can still store in the folder of `path`.
    ///
    /// # Errors
    /// [`Exit::CannotCreate`] if the file system will not tell.
    pub fn free_space(path: &Path) -> Result<u64, Failure> {
        let folder = folder_of(path);
        let status = nix::sys::statvfs::statvfs(folder).map_err(|errno| {
            Failure::io(Exit::CannotCreate, format!("find free space of {}", folder.display()), &errno.into())
        })?;
        #[allow(clippy::useless_conversion, reason = "the types differ from platform to platform")]
        let (blocks, block_size) = (u64::from(status.blocks_available()), u64::from(status.fragment_size()));
        Ok(blocks.saturating_mul(block_size))
    }

    /// Bytes of storage that the `.part` of `path` already takes up; 0 if there is none.
    #[must_use]
    pub fn occupied(path: &Path) -> u64 {
        let part = part_path(path).ok().and_then(|part| fs::symlink_metadata(part).ok());
        part.filter(fs::Metadata::is_file).map_or(0, |metadata| metadata.blocks().saturating_mul(512))
    }

    /// Creates or resumes the `.part` of `path` and gives it `size` bytes, as a hole as far as it is new. Returned with it is
    /// whether it already had exactly that size, more than 0: its bytes may then be of use, and may be anything.
    ///
    /// # Errors
    /// [`Exit::CannotCreate`].
    pub fn create(path: &Path, size: u64) -> Result<(Self, bool), Failure> {
        let part = part_path(path)?;
        let what = create_what(&part);
        let refused = |error: io::Error| Failure::io(Exit::CannotCreate, what.clone(), &error);
        let (file, is_new) = open_part(&part).map_err(|error| match error.raw_os_error() {
            Some(libc::ELOOP) => {
                Failure::new(Exit::CannotCreate, what.clone(), "is a symbolic link").remedy("remove it")
            }
            _ => refused(error),
        })?;
        let metadata = file.metadata().map_err(refused)?;
        // A new one is ours, even where the file system shows another owner, as vfat does.
        if let Some(cause) = distrust(&metadata).filter(|_| !is_new) {
            return Err(Failure::new(Exit::CannotCreate, what, cause).remedy("remove it"));
        }
        let file = Flock::lock(file, FlockArg::LockExclusiveNonblock).map_err(|(_, errno)| match errno {
            Errno::EWOULDBLOCK => Failure::new(Exit::CannotCreate, what.clone(), "another iotupc is writing it"),
            errno => refused(errno.into()),
        })?;
        // Between opening and locking, another may have completed it: then this is no longer a `.part`.
        if !names(&part, &file).map_err(refused)? {
            return Err(Failure::new(Exit::CannotCreate, what, "was replaced meanwhile").remedy("start again"));
        }
        let size_before = file.metadata().map_err(refused)?.len();
        if size_before != size {
            // By way of nothing, so that what it held before gives its room back.
            file.set_len(0).map_err(refused)?;
            file.set_len(size).map_err(refused)?;
        }
        let resumable = size > 0 && size_before == size;
        Ok((Self { file, size, part, path: path.to_owned() }, resumable))
    }

    /// Writes `parts` one after the other from `offset` on, all of them.
    ///
    /// # Errors
    /// What the kernel says, such as ENOSPC; how much has then been written is unknown.
    ///
    /// # Panics
    /// If the range is not within the target.
    pub fn write_run(&self, mut offset: u64, mut parts: &[IoSlice<'_>]) -> io::Result<()> {
        self.assert_within(offset, parts.iter().map(|part| part.len() as u64).sum());
        loop {
            let skipped = parts.iter().take_while(|part| part.is_empty()).count();
            parts = &parts[skipped..];
            if parts.is_empty() {
                return Ok(());
            }
            let mut written = match self.write_some(offset, &parts[..parts.len().min(PART_COUNT_MAX)]) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                result => result?,
            };
            offset += written as u64;
            while let Some((first, rest)) = parts.split_first() {
                if written < first.len() {
                    break;
                }
                written -= first.len();
                parts = rest;
            }
            if let Some((first, rest)) = parts.split_first().filter(|_| written > 0) {
                // The kernel stopped within a part, which is rare: the rest of the part is written alone.
                let remainder = &first[written..];
                self.file.write_all_at(remainder, offset)?;
                offset += remainder.len() as u64;
                parts = rest;
            }
        }
    }

    /// Fills `out` from the bytes at `offset`.
    ///
    /// # Errors
    /// What pread(2) says; [`io::ErrorKind::UnexpectedEof`] if somebody has shortened the file.
    pub fn read_exact_at(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.file.read_exact_at(out, offset)
    }

    /// Makes `size` bytes from `offset` on read as zeroes: by a hole where the file system has them, else by writing.
    ///
    /// # Errors
    /// What the kernel says, such as ENOSPC.
    ///
    /// # Panics
    /// If the range is not within the target.
    pub fn zero(&self, offset: u64, size: u64) -> io::Result<()> {
        self.assert_within(offset, size);
        if size == 0 || self.punch_hole(offset, size).is_ok() {
            return Ok(());
        }
        let end = offset + size;
        let mut at = offset;
        while at < end {
            let step = (end - at).min(ZEROES.len() as u64);
            self.file.write_all_at(&ZEROES[..step as usize], at)?;
            at += step;
        }
        Ok(())
    }

    /// Syncs the file, gives it its final name, and syncs the folder: a crash at any moment leaves a complete file or a `.part`.
    ///
    /// # Errors
    /// [`Exit::Io`] if it cannot be stored for good, [`Exit::CannotCreate`] if it cannot be renamed. The `.part` stays, unless
    /// it was only the folder that could not be synced.
    pub fn commit(self) -> Result<(), Failure> {
        let failure =
            |exit, verb: &str, path: &Path, error| Failure::io(exit, format!("{verb} {}", path.display()), &error);
        self.file.sync_all().map_err(|error| failure(Exit::Io, "sync", &self.part, error))?;
        let rename = |error| failure(Exit::CannotCreate, "rename to", &self.path, error);
        if !names(&self.part, &self.file).map_err(rename)? {
            let what = format!("rename to {}", self.path.display());
            return Err(Failure::new(
                Exit::CannotCreate,
                what,
                format!("{} was replaced meanwhile", self.part.display()),
            ));
        }
        fs::rename(&self.part, &self.path).map_err(rename)?;
        let folder = folder_of(&self.path);
        match File::open(folder).and_then(|folder| folder.sync_all()) {
            // Some file systems cannot sync a folder, and some folders can be written to but not read.
            Err(error) if !matches!(error.raw_os_error(), Some(libc::EINVAL | libc::EACCES)) => {
                Err(failure(Exit::Io, "sync", folder, error))
            }
            _ => Ok(()),
        }
    }

    /// Where the bytes are until they are complete.
    #[must_use]
    pub fn part_path(&self) -> &Path {
        &self.part
    }

    fn assert_within(&self, offset: u64, size: u64) {
        assert!(offset.checked_add(size).is_some_and(|end| end <= self.size), "a range is within the target");
    }

    /// One pwritev(2) of at most [`PART_COUNT_MAX`] parts.
    fn write_some(&self, offset: u64, parts: &[IoSlice<'_>]) -> io::Result<usize> {
        let offset = signed(offset)?;
        let count = c_int::try_from(parts.len()).expect("IOV_MAX is an int");
        // SAFETY: IoSlice has the layout of iovec (std::io), and the parts and their bytes are borrowed until the call returns.
        let written = unsafe { libc::pwritev64(self.file.as_raw_fd(), parts.as_ptr().cast(), count, offset) };
        usize::try_from(written).map_err(|_| io::Error::last_os_error())
    }

    fn punch_hole(&self, offset: u64, size: u64) -> io::Result<()> {
        let mode = libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE;
        let (offset, size) = (signed(offset)?, signed(size)?);
        // SAFETY: fallocate takes no pointer.
        let result = unsafe { libc::fallocate64(self.file.as_raw_fd(), mode, offset, size) };
        if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
    }
}

/// An offset or length in the kernel's form.
fn signed(value: u64) -> io::Result<libc::off64_t> {
    libc::off64_t::try_from(value).map_err(|_| io::Error::from_raw_os_error(libc::EFBIG))
}

fn create_what(path: &Path) -> String {
    format!("create {}", path.display())
}

fn folder_of(path: &Path) -> &Path {
    path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// `.NAME.part` in the folder of `path`, if that ends in a name.
fn part_path(path: &Path) -> Result<PathBuf, Failure> {
    // `file_name` looks past a slash at the end, which the kernel takes for a folder.
    let name = path.file_name().filter(|name| path.as_os_str().as_bytes().ends_with(name.as_bytes()));
    let name = name.ok_or_else(|| Failure::new(Exit::CannotCreate, create_what(path), "not the name of a file"))?;
    let mut part = OsString::from(".");
    part.push(name);
    part.push(".part");
    Ok(path.with_file_name(part))
}

/// Opens the `.part`, and says whether it is new.
fn open_part(part: &Path) -> io::Result<(File, bool)> {
    let mut options = OpenOptions::new();
    // A fifo in its place must not hang; the mode is for the umask to narrow.
    options.read(true).write(true).mode(0o666).custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK | libc::O_NOCTTY);
    match options.clone().create_new(true).open(part) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok((options.open(part)?, false)),
        result => Ok((result?, true)),
    }
}

/// Why a `.part` found in the folder must not be written to.
fn distrust(metadata: &fs::Metadata) -> Option<&'static str> {
    match metadata {
        _ if !metadata.is_file() => Some("is not a regular file"),
        _ if metadata.uid() != geteuid().as_raw() => Some("belongs to another user"),
        _ if metadata.nlink() != 1 => Some("has another name too"),
        _ => None,
    }
}

/// Whether `path` is a name of the open file.
fn names(path: &Path, file: &File) -> io::Result<bool> {
    let ours = file.metadata()?;
    match fs::symlink_metadata(path) {
        Ok(named) => Ok((named.dev(), named.ino()) == (ours.dev(), ours.ino())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn folder() -> (tempfile::TempDir, PathBuf) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("out.img");
        (folder, path)
    }

    /// The cause for which the target cannot be created.
    fn refusal(result: Result<impl Sized, Failure>) -> String {
        let failure = result.err().expect("it is refused");
        assert_eq!(failure.exit, Exit::CannotCreate);
        failure.to_string().rsplit(": ").next().unwrap().to_owned()
    }

    #[test]
    fn committed_target_has_its_name_and_no_part() {
        let (folder, path) = folder();
        Target::check(&path).unwrap();
        let (target, resumable) = Target::create(&path, 6).unwrap();
        assert!(!resumable);
        assert_eq!(target.part_path(), folder.path().join(".out.img.part"));
        target.write_run(1, &[IoSlice::new(b"ab"), IoSlice::new(b""), IoSlice::new(b"c")]).unwrap();
        let mut all = [9; 6];
        target.read_exact_at(0, &mut all).unwrap();
        target.commit().unwrap();
        assert_eq!((&all, fs::read(&path).unwrap().as_slice()), (b"\0abc\0\0", &b"\0abc\0\0"[..]));
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
        Target::check(&path).unwrap();
    }

    #[test]
    fn only_a_part_of_the_same_size_is_resumable() {
        let (_folder, path) = folder();
        let resumable = |size| Target::create(&path, size).unwrap().1;
        assert_eq!(
            [resumable(6), resumable(6), resumable(7), resumable(0), resumable(0)],
            [false, true, false, false, false]
        );
    }

    #[test]
    fn resumed_part_keeps_its_bytes_and_another_size_does_not() {
        let (_folder, path) = folder();
        let first_byte = |target: &Target| {
            let mut byte = [0];
            target.read_exact_at(0, &mut byte).unwrap();
            byte[0]
        };
        Target::create(&path, 6).unwrap().0.write_run(0, &[IoSlice::new(b"x")]).unwrap();
        assert_eq!(first_byte(&Target::create(&path, 6).unwrap().0), b'x');
        assert_eq!(first_byte(&Target::create(&path, 7).unwrap().0), 0);
    }

    #[test]
    fn more_parts_than_one_call_takes_are_written() {
        let (_folder, path) = folder();
        let bytes: Vec<u8> = (0..3_000_u32).map(|i| (i % 251) as u8).collect();
        let parts: Vec<IoSlice<'_>> = bytes.chunks(1).map(IoSlice::new).collect();
        let (target, _) = Target::create(&path, 3_000).unwrap();
        target.write_run(0, &parts).unwrap();
        let mut all = vec![0; 3_000];
        target.read_exact_at(0, &mut all).unwrap();
        assert_eq!(all, bytes);
    }

    #[test]
    #[should_panic(expected = "a range is within the target")]
    fn run_beyond_the_target_is_a_broken_invariant() {
        let (_folder, path) = folder();
        let _ = Target::create(&path, 6).unwrap().0.write_run(5, &[IoSlice::new(b"ab")]);
    }

    #[test]
    fn zeroed_range_reads_as_zeroes_and_nothing_else_does() {
        let (_folder, path) = folder();
        let (target, _) = Target::create(&path, 100_000).unwrap();
        target.write_run(0, &[IoSlice::new(&[7; 100_000])]).unwrap();
        target.zero(10, 90_000).unwrap();
        target.zero(99_999, 0).unwrap();
        let mut all = vec![0; 100_000];
        target.read_exact_at(0, &mut all).unwrap();
        assert!(all.iter().enumerate().all(|(i, &byte)| byte == if (10..90_010).contains(&i) { 0 } else { 7 }));
        assert_eq!(target.file.metadata().unwrap().len(), 100_000);
    }

    #[test]
    fn part_that_somebody_else_could_have_prepared_is_refused() {
        let (folder, path) = folder();
        let (part, other) = (folder.path().join(".out.img.part"), folder.path().join("other"));
        fs::write(&other, b"precious").unwrap();
        std::os::unix::fs::symlink(&other, &part).unwrap();
        assert_eq!(refusal(Target::create(&path, 8)), "is a symbolic link (remove it)");
        fs::remove_file(&part).unwrap();
        fs::hard_link(&other, &part).unwrap();
        assert_eq!(refusal(Target::create(&path, 8)), "has another name too (remove it)");
        fs::remove_file(&part).unwrap();
        nix::unistd::mkfifo(&part, nix::sys::stat::Mode::S_IRWXU).unwrap();
        assert_eq!(refusal(Target::create(&path, 8)), "is not a regular file (remove it)");
        assert_eq!(fs::read(&other).unwrap(), b"precious");
    }

    #[test]
    fn part_of_another_user_is_refused() {
        if !geteuid().is_root() {
            return;
        }
        let (folder, path) = folder();
        let part = folder.path().join(".out.img.part");
        fs::write(&part, b"").unwrap();
        std::os::unix::fs::chown(&part, Some(65_534), None).unwrap();
        assert_eq!(refusal(Target::create(&path, 8)), "belongs to another user (remove it)");
    }

    #[test]
    fn part_that_another_is_writing_is_refused() {
        let (_folder, path) = folder();
        let writer = Target::create(&path, 8).unwrap();
        assert_eq!(refusal(Target::create(&path, 8)), "another iotupc is writing it");
        drop(writer);
        assert!(Target::create(&path, 8).unwrap().1);
    }

    #[test]
    fn replaced_part_is_not_committed() {
        let (_folder, path) = folder();
        let (target, _) = Target::create(&path, 8).unwrap();
        fs::remove_file(target.part_path()).unwrap();
        fs::write(target.part_path(), b"impostor").unwrap();
        assert_eq!(target.commit().unwrap_err().exit, Exit::CannotCreate);
        assert!(!path.exists());
    }

    #[test]
    fn output_that_cannot_be_is_refused_beforehand() {
        let (folder, path) = folder();
        let at = |name: &str| folder.path().join(name);
        std::os::unix::fs::symlink(&path, at("link")).unwrap();
        fs::write(at("file"), b"").unwrap();
        nix::unistd::mkfifo(&at("fifo"), nix::sys::stat::Mode::S_IRWXU).unwrap();
        assert_eq!(refusal(Target::check(folder.path())), "is a directory");
        assert_eq!(refusal(Target::check(&at("name/"))), "not the name of a file");
        assert_eq!(refusal(Target::check(&at(".."))), "not the name of a file");
        assert_eq!(refusal(Target::check(Path::new(""))), "not the name of a file");
        assert_eq!(refusal(Target::check(&at("missing/name"))), "no such file or directory");
        assert_eq!(refusal(Target::check(&at("file/name"))), "not a directory");
        assert_eq!(refusal(Target::check(&at("link"))), "is a symbolic link (name the file it points to)");
        assert_eq!(refusal(Target::check(&at("fifo"))), "is not a regular file");
    }

    #[test]
    fn folder_that_may_not_be_written_to_is_refused() {
        if geteuid().is_root() {
            return;
        }
        let (folder, path) = folder();
        fs::set_permissions(folder.path(), std::os::unix::fs::PermissionsExt::from_mode(0o555)).unwrap();
        assert_eq!(refusal(Target::check(&path)), "permission denied");
    }

    #[test]
    fn free_space_is_that_of_the_folder() {
        let (_folder, path) = folder();
        assert!(Target::free_space(&path).unwrap() > 0);
        assert!(Target::free_space(Path::new("name-in-the-working-folder")).is_ok());
    }

    #[test]
    fn targets_can_be_shared_among_threads() {
        fn shared<T: Send + Sync>() {}
        shared::<Target>();
    }
}
