//! The `.NAME.part` of a receiver's output: whether it may be written to, and which object's bytes it holds.
//!
//! `.NAME.object` beside it records the object, and is written before the first byte of that object. A `.part` that holds bytes of
//! another object is never shortened nor written to: it is set aside as `.NAME.ID.part`, and taken back when that object comes again.
//! Only who knows that it will not come again ([`Other::Remove`]) has it emptied instead, so that versions do not fill the disk.
//! At every moment between, a crash leaves a `.part` that is empty or agrees with its record.
//!
//! The slot map `.NAME.slots` ([`SlotFile`](crate::sys::SlotFile)) goes with its `.part` wherever that goes, as `.NAME.ID.slots`, so
//! that an object that was set aside goes on from the symbol where it stopped. Nothing depends on it: it names its object itself,
//! and one that cannot be moved is removed.

use std::ffi::{CString, OsString};
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use libc::c_long;
use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};
use nix::unistd::{Whence, geteuid, lseek};

use crate::failure::{Exit, Failure, shown};
use crate::sys::SlotFile;

/// Digits of an object's id.
const ID_DIGITS: usize = 24;
/// No record is longer: an id, a space, the 20 digits of the largest number, a line feed.
const RECORD_SIZE_MAX: usize = ID_DIGITS + 22;
/// Parts of one object, or of objects unknown, that can be set aside beside one output.
const ASIDE_COUNT_MAX: u32 = 100;
/// A symbolic link is not followed, a fifo does not make it wait, and a terminal does not become ours.
pub(in crate::sys) const OPEN_FLAGS: i32 = libc::O_NOFOLLOW | libc::O_NONBLOCK | libc::O_NOCTTY;

/// A `.part`, ready to be written to.
pub(super) struct Part {
    pub(super) file: Flock<File>,
    /// It holds bytes that may be of the object.
    pub(super) reused: bool,
    /// Where the `.part` of another object has been moved to.
    pub(super) set_aside: Option<PathBuf>,
}

/// What to do with the `.part` of another object that is in the way.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Other {
    /// It gets another name, and waits there for its object.
    SetAside,
    /// It goes: nobody wants its object any more.
    Remove,
}

/// Which object a `.part` belongs to.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Record {
    object: String,
    size: u64,
}

impl Record {
    /// # Panics
    /// If `object` is not an id.
    pub(super) fn new(object: &str, size: u64) -> Self {
        assert!(is_id(object), "an object's id is {ID_DIGITS} hexadecimal digits");
        Self { object: object.to_owned(), size }
    }

    fn text(&self) -> String {
        format!("{} {}\n", self.object, self.size)
    }

    fn parse(text: &str) -> Option<Self> {
        let (object, size) = text.strip_suffix('\n')?.split_once(' ')?;
        let record = Self { object: object.to_owned(), size: size.parse().ok()? };
        // Only what is written as we write it.
        (is_id(object) && record.text() == text).then_some(record)
    }

    /// The record beside `path`, if it is one and nobody else could have put it there.
    fn read(path: &Path) -> Option<Self> {
        let mut options = OpenOptions::new();
        let file = options.read(true).custom_flags(OPEN_FLAGS).open(record_path(path).ok()?).ok()?;
        if distrust(&file.metadata().ok()?).is_some() {
            return None;
        }
        let mut text = String::new();
        file.take(RECORD_SIZE_MAX as u64 + 1).read_to_string(&mut text).ok()?;
        Self::parse(&text)
    }

    /// Puts the record beside `path`, in place of any other. The `.part` must be locked.
    fn write(&self, path: &Path) -> Result<(), Failure> {
        let (record, new) = (record_path(path)?, beside(path, ".object.new")?);
        // One that was left by a crash: nobody else writes it while the `.part` is locked.
        let _ = fs::remove_file(&new);
        let written = create_new(&new, 0o600).and_then(|mut file| {
            file.write_all(self.text().as_bytes())?;
            file.sync_all()?;
            fs::rename(&new, &record)
        });
        written.map_err(|error| {
            let _ = fs::remove_file(&new);
            Failure::io(Exit::CannotCreate, create_what(&record), &error)
        })
    }
}

fn is_id(text: &str) -> bool {
    text.len() == ID_DIGITS && text.bytes().all(|digit| matches!(digit, b'0'..=b'9' | b'a'..=b'f'))
}

/// Tells whether [`obtain`] would be refused what it needs, and changes nothing.
pub(super) fn check(path: &Path) -> Result<(), Failure> {
    let part = beside(path, ".part")?;
    for name in [&part, &record_path(path)?, &beside(path, ".object.new")?] {
        let refused = |error: io::Error| Failure::io(Exit::CannotCreate, create_what(name), &error);
        match fs::symlink_metadata(name) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) if error.raw_os_error() == Some(libc::ENAMETOOLONG) => {
                return Err(refused(error).remedy("choose a shorter name for the output"));
            }
            found => {
                let is_dir = found.map_err(refused)?.is_dir();
                if is_dir && *name != part {
                    return Err(refused(Errno::EISDIR.into()).remedy("remove it"));
                }
            }
        }
    }
    match open_existing(&part)? {
        Some(file) => lock(&part, file).map(drop),
        None => Ok(()),
    }
}

/// Opens and locks the `.part` of `path` for the object of `record`: the one that is there if it may hold bytes of the object, else
/// the one that was set aside earlier, else an empty one. The length is not yet that of the object.
pub(super) fn obtain(path: &Path, record: &Record, other: Other) -> Result<Part, Failure> {
    let part = beside(path, ".part")?;
    let refused = |error: io::Error| Failure::io(Exit::CannotCreate, create_what(&part), &error);
    let mut file = lock(&part, open_or_create(&part)?)?;
    let found = Record::read(path);
    let (mut reused, mut set_aside) = (false, None);
    if holds_data(&file).map_err(refused)? {
        let size = file.metadata().map_err(refused)?.len();
        // Without a record it may be the same object: every block is verified before it counts.
        reused = found.as_ref().map_or(size == record.size, |found| found == record);
        if !reused && other == Other::Remove {
            // Before there is a record of what comes: an empty one agrees with any.
            file.set_len(0).map_err(refused)?;
            let _ = SlotFile::remove_at(&part.with_extension("slots"));
        } else if !reused {
            let owner = found.as_ref().map_or("unknown", |found| &found.object);
            let aside = move_aside(path, &part, owner)?;
            move_slots(&part, &aside);
            set_aside = Some(aside);
            // Only a new one: what somebody else has put there meanwhile is not ours to judge again.
            file = lock(&part, create_new(&part, 0o666).map_err(refused)?)?;
        }
    }
    if found.as_ref() != Some(record) {
        record.write(path)?;
    }
    if !reused && let Some(earlier) = take_back(path, &part, record) {
        (file, reused) = (earlier, true);
    }
    Ok(Part { file, reused, set_aside })
}

/// Removes the record beside `path`, whose `.part` is no more.
pub(super) fn forget(path: &Path) {
    // Without a `.part` it says nothing.
    let _ = record_path(path).map(fs::remove_file);
}

/// `.NAME` and `suffix` in the folder of `path`, if that ends in a name.
pub(in crate::sys) fn beside(path: &Path, suffix: &str) -> Result<PathBuf, Failure> {
    // `file_name` looks past a slash at the end, which the kernel takes for a folder.
    let name = path.file_name().filter(|name| path.as_os_str().as_bytes().ends_with(name.as_bytes()));
    let name = name.ok_or_else(|| Failure::new(Exit::CannotCreate, create_what(path), "not the name of a file"))?;
    let mut hidden = OsString::from(".");
    hidden.push(name);
    hidden.push(suffix);
    Ok(path.with_file_name(hidden))
}

/// Whether `path` is a name of the open file.
pub(super) fn names(path: &Path, file: &File) -> io::Result<bool> {
    let ours = file.metadata()?;
    match fs::symlink_metadata(path) {
        Ok(named) => Ok((named.dev(), named.ino()) == (ours.dev(), ours.ino())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

pub(super) fn create_what(path: &Path) -> String {
    format!("create {}", shown(path))
}

fn record_path(path: &Path) -> Result<PathBuf, Failure> {
    beside(path, ".object")
}

/// Creates a file that is not there. The mode is for the umask to narrow.
pub(in crate::sys) fn create_new(path: &Path, mode: u32) -> io::Result<File> {
    OpenOptions::new().read(true).write(true).create_new(true).mode(mode).custom_flags(OPEN_FLAGS).open(path)
}

fn open_or_create(part: &Path) -> Result<File, Failure> {
    let refused = |error: io::Error| Failure::io(Exit::CannotCreate, create_what(part), &error);
    match create_new(part, 0o666) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            open_existing(part)?.ok_or_else(|| replaced(part))
        }
        // A new one is ours, even where the file system shows another owner, as vfat does.
        created => created.map_err(refused),
    }
}

/// Opens a `.part` that is there, if it may be written to.
fn open_existing(part: &Path) -> Result<Option<File>, Failure> {
    let refused = |error: io::Error| Failure::io(Exit::CannotCreate, create_what(part), &error);
    let require_trust = |metadata: fs::Metadata| match distrust(&metadata) {
        Some(cause) => Err(Failure::new(Exit::CannotCreate, create_what(part), cause).remedy("remove it")),
        None => Ok(()),
    };
    // Asked before it is opened too: to open a device can do something to it.
    match fs::symlink_metadata(part) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        found => require_trust(found.map_err(refused)?)?,
    }
    let file = OpenOptions::new().read(true).write(true).custom_flags(OPEN_FLAGS).open(part).map_err(refused)?;
    require_trust(file.metadata().map_err(refused)?)?;
    Ok(Some(file))
}

fn lock(part: &Path, file: File) -> Result<Flock<File>, Failure> {
    let refused = |error: io::Error| Failure::io(Exit::CannotCreate, create_what(part), &error);
    let file = Flock::lock(file, FlockArg::LockExclusiveNonblock).map_err(|(_, errno)| match errno {
        Errno::EWOULDBLOCK => Failure::new(Exit::CannotCreate, create_what(part), "another iotupc is writing it"),
        errno => refused(errno.into()),
    })?;
    // Between opening and locking, another may have completed it or set it aside: then this is no longer the `.part`.
    if names(part, &file).map_err(refused)? { Ok(file) } else { Err(replaced(part)) }
}

fn replaced(part: &Path) -> Failure {
    Failure::new(Exit::CannotCreate, create_what(part), "was replaced meanwhile").remedy("start again")
}

/// Why a file found in the folder must not be written to, nor believed.
pub(in crate::sys) fn distrust(metadata: &fs::Metadata) -> Option<&'static str> {
    match metadata {
        _ if metadata.is_symlink() => Some("is a symbolic link"),
        _ if !metadata.is_file() => Some("is not a regular file"),
        _ if metadata.uid() != geteuid().as_raw() => Some("belongs to another user"),
        _ if metadata.nlink() != 1 => Some("has another name too"),
        _ => None,
    }
}

/// Whether the file is more than a hole.
fn holds_data(file: &File) -> io::Result<bool> {
    let metadata = file.metadata()?;
    // Some file systems count the blocks of what was just written only later, but find data there at once.
    let data = || lseek(file, 0, Whence::SeekData) != Err(Errno::ENXIO);
    Ok(metadata.len() > 0 && (metadata.blocks() > 0 || data()))
}

/// Renames the `.part` to a name that nothing has yet, and returns that.
fn move_aside(path: &Path, part: &Path, owner: &str) -> Result<PathBuf, Failure> {
    let refused = |error: io::Error| {
        Failure::io(Exit::CannotCreate, format!("set aside {}", shown(part)), &error)
            .remedy("it belongs to another object: move it away")
    };
    for number in 1..=ASIDE_COUNT_MAX {
        let suffix = if number == 1 { format!(".{owner}.part") } else { format!(".{owner}.{number}.part") };
        let aside = beside(path, &suffix)?;
        match rename_to_new(part, &aside) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            result => return result.map(|()| aside).map_err(refused),
        }
    }
    Err(refused(io::ErrorKind::AlreadyExists.into()))
}

/// Renames, but never onto something that is there.
pub(super) fn rename_to_new(from: &Path, to: &Path) -> io::Result<()> {
    let (old, new) = (CString::new(from.as_os_str().as_bytes())?, CString::new(to.as_os_str().as_bytes())?);
    let (here, flags) = (c_long::from(libc::AT_FDCWD), c_long::from(libc::RENAME_NOREPLACE));
    // SAFETY: both names end in a zero byte and live until the call returns; not all C libraries have a function for the call.
    let result = unsafe { libc::syscall(libc::SYS_renameat2, here, old.as_ptr(), here, new.as_ptr(), flags) };
    if result == 0 {
        return Ok(());
    }
    let error = io::Error::last_os_error();
    if !matches!(error.raw_os_error(), Some(libc::EINVAL | libc::ENOSYS)) {
        return Err(error);
    }
    // A file system that cannot do both at once, such as NFS. Other receivers keep away, as the `.part` is locked.
    match fs::symlink_metadata(to) {
        Ok(_) => Err(io::ErrorKind::AlreadyExists.into()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => fs::rename(from, to),
        Err(error) => Err(error),
    }
}

/// Renames what was set aside for the object of `record`, if it can be of use, onto the empty `.part`, and returns it locked.
fn take_back(path: &Path, part: &Path, record: &Record) -> Option<Flock<File>> {
    let aside = beside(path, &format!(".{}.part", record.object)).ok()?;
    let file = lock(&aside, open_existing(&aside).ok()??).ok()?;
    let is_useful = file.metadata().ok()?.len() == record.size && holds_data(&file).ok()?;
    if !is_useful || fs::rename(&aside, part).is_err() {
        return None;
    }
    move_slots(&aside, part);
    Some(file)
}

/// Renames the slot map of one `.part` to that of another, after the `.part` itself: a crash between the two costs the map's help.
fn move_slots(from: &Path, to: &Path) {
    let (from, to) = (from.with_extension("slots"), to.with_extension("slots"));
    // What is there was the map of an emptier or an older `.part`.
    let _ = SlotFile::remove_at(&to);
    if rename_to_new(&from, &to).is_err() {
        let _ = SlotFile::remove_at(&from);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn record_is_what_was_written() {
        let record = Record::new("0123456789abcdef01234567", u64::MAX);
        assert_eq!(record.text().len(), RECORD_SIZE_MAX);
        assert_eq!(Record::parse(&record.text()), Some(record));
    }

    #[test]
    fn record_that_is_written_otherwise_is_none() {
        let id = "0123456789abcdef01234567";
        let texts =
            ["", "\n", id, &format!("{id}\n"), &format!("{id} 7"), &format!("{id} +7\n"), &format!("{id} 07\n")];
        assert!(texts.iter().all(|text| Record::parse(text).is_none()));
        let texts = [&format!("{id} 7\n\n"), &format!("{id}0 7\n"), "../../../../../../etc/abc 7\n"];
        assert!(texts.iter().all(|text| Record::parse(text).is_none()));
        assert!(Record::parse(&format!("{} 7\n", id.to_uppercase())).is_none());
    }
}
