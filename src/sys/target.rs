//! Where what is received is put: a file that gets its name when it is complete ([`PartFile`]), a block device ([`DeviceTarget`]), or
//! a file without a name from which verified blocks go to standard output in order ([`Spool`]).
//!
//! | | written to | a block is verified by | zeroes | done |
//! |---|---|---|---|---|
//! | file | `.NAME.part` | what is in memory before it is written, where a block is there as a whole, else what the page cache holds | a hole | synced, renamed |
//! | device | the device | reading it back from the device itself | written, unless they are there | synced |
//! | standard output | an unnamed file | the same, and once more when it is printed | a hole | printed |

mod device;
mod file;
pub(super) mod part;
mod spool;

use std::fs::File;
use std::io::{self, IoSlice};
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use libc::c_int;
use nix::errno::Errno;

pub use self::device::DeviceTarget;
pub use self::file::{Existing, PartFile};
pub use self::part::Other;
pub use self::spool::Spool;
use crate::failure::{Failure, shown};

/// Parts that pwritev(2) takes at once (IOV_MAX of Linux).
const PART_COUNT_MAX: usize = 1024;
/// What is written where a hole cannot be punched.
static ZEROES: [u8; 16 << 10] = [0; 16 << 10];

/// What is being received goes here.
#[derive(Debug)]
pub enum Target {
    /// A file in the making.
    File(PartFile),
    /// A block device.
    Device(DeviceTarget),
    /// What standard output is to get.
    Spool(Spool),
}

/// A target that has been made ready.
#[derive(Debug)]
pub struct Created<T = Target> {
    /// Where to write to.
    pub target: T,
    /// It holds bytes from an earlier attempt, which may be of use and may be anything.
    pub reused: bool,
    /// Where the `.part` that was in the way has been moved to: it belongs to another object.
    pub set_aside: Option<PathBuf>,
}

impl<T> Created<T> {
    pub(super) fn map<U>(self, into: impl FnOnce(T) -> U) -> Created<U> {
        Created { target: into(self.target), reused: self.reused, set_aside: self.set_aside }
    }
}

impl Target {
    /// A file at `path`, as [`PartFile::create`] makes it, that replaces what is there.
    ///
    /// # Errors
    /// Those of [`PartFile::create`].
    pub fn create(path: &Path, size: u64, object: &str) -> Result<Created, Failure> {
        Ok(PartFile::create(path, size, object)?.map(Self::File))
    }

    /// Writes `parts` one after the other from `offset` on, all of them.
    ///
    /// # Errors
    /// What the kernel says, such as ENOSPC; how much has then been written is unknown.
    ///
    /// # Panics
    /// If the range is not within the target.
    pub fn write_run(&self, offset: u64, parts: &[IoSlice<'_>]) -> io::Result<()> {
        match self {
            Self::File(file) => file.write_run(offset, parts),
            Self::Device(device) => device.write_run(offset, parts),
            Self::Spool(spool) => spool.write_run(offset, parts),
        }
    }

    /// All bytes of a range are about to be written.
    pub fn expect(&self, offset: u64, size: u64) {
        match self {
            Self::File(file) => file.expect(offset, size),
            Self::Device(_) | Self::Spool(_) => {}
        }
    }

    /// A range that nothing has been written to is to stay a hole, where there are holes.
    ///
    /// # Panics
    /// If the range is not within the target.
    pub fn leave_hole(&self, offset: u64, size: u64) {
        match self {
            Self::File(file) => file.leave_hole(offset, size),
            Self::Device(_) | Self::Spool(_) => {}
        }
    }

    /// Fills `out` from the bytes at `offset`: those of the device itself where there is one, else what the kernel holds.
    ///
    /// # Errors
    /// What pread(2) says; [`io::ErrorKind::UnexpectedEof`] if somebody has shortened the target.
    pub fn read_exact_at(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        match self {
            Self::File(file) => file.read_exact_at(offset, out),
            Self::Device(device) => device.read_exact_at(offset, out),
            Self::Spool(spool) => spool.read_exact_at(offset, out),
        }
    }

    /// Makes `size` bytes from `offset` on read as zeroes.
    ///
    /// # Errors
    /// What the kernel says, such as ENOSPC; of a device also that it reads back something else.
    ///
    /// # Panics
    /// If the range is not within the target.
    pub fn zero(&self, offset: u64, size: u64) -> io::Result<()> {
        match self {
            Self::File(file) => file.zero(offset, size),
            Self::Device(device) => device.zero(offset, size),
            Self::Spool(spool) => spool.zero(offset, size),
        }
    }

    /// Whether what has been written counts only when [`read_exact_at`](Self::read_exact_at) has brought it back.
    #[must_use]
    pub fn reads_back(&self) -> bool {
        matches!(self, Self::Device(_))
    }

    /// A block has not the bytes that it should have, and whoever sent them may be to blame: fails if it is the device.
    ///
    /// # Errors
    /// The device does not keep what is written to it.
    pub fn require_kept(&self, offset: u64, size: usize) -> io::Result<()> {
        match self {
            Self::Device(device) => device.require_kept(offset, size),
            Self::File(_) | Self::Spool(_) => Ok(()),
        }
    }

    /// The error for bytes that were written and are not there.
    #[must_use]
    pub fn not_kept() -> io::Error {
        io::Error::other(device::FORGETFUL)
    }

    /// Every byte is verified: stores them for good, and gives a file its name.
    ///
    /// # Errors
    /// [`Exit::Io`](crate::failure::Exit::Io) if they cannot be stored, [`Exit::CannotCreate`](crate::failure::Exit::CannotCreate) if
    /// the file cannot be named.
    pub fn commit(self) -> Result<(), Failure> {
        match self {
            Self::File(file) => file.commit(),
            Self::Device(device) => device.commit(),
            Self::Spool(_) => Ok(()),
        }
    }

    /// What it is called in messages.
    #[must_use]
    pub fn name(&self) -> String {
        match self {
            Self::File(file) => shown(file.part_path()),
            Self::Device(device) => shown(device.path()),
            Self::Spool(spool) => spool.name(),
        }
    }

    /// What of it another run can use, after one that failed; `None`: nothing.
    #[must_use]
    pub fn remains(&self) -> Option<String> {
        match self {
            Self::File(file) => Some(format!("run again to resume from {}", shown(file.part_path()))),
            Self::Device(device) => Some(device.remains().to_owned()),
            Self::Spool(_) => None,
        }
    }
}

#[cfg(test)]
impl Target {
    /// A device of more than three blocks in `folder` that says to have written what it has not, for tests of what is above.
    pub(crate) fn forgetful_device(folder: &Path) -> Self {
        let device = std::sync::Arc::new(super::device::tests::forgetful(folder));
        Self::Device(DeviceTarget::new(&device, device.size(), None).unwrap())
    }
}

/// Writes `parts` one after the other from `offset` on, all of them.
fn write_parts(file: &File, mut offset: u64, mut parts: &[IoSlice<'_>]) -> io::Result<()> {
    loop {
        let skipped = parts.iter().take_while(|part| part.is_empty()).count();
        parts = &parts[skipped..];
        if parts.is_empty() {
            return Ok(());
        }
        let mut written = match write_some(file, offset, &parts[..parts.len().min(PART_COUNT_MAX)]) {
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
            file.write_all_at(remainder, offset)?;
            offset += remainder.len() as u64;
            parts = rest;
        }
    }
}

/// One pwritev(2) of at most [`PART_COUNT_MAX`] parts.
fn write_some(file: &File, offset: u64, parts: &[IoSlice<'_>]) -> io::Result<usize> {
    let offset = signed(offset)?;
    let count = c_int::try_from(parts.len()).expect("IOV_MAX is an int");
    // SAFETY: IoSlice has the layout of iovec (std::io), and the parts and their bytes are borrowed until the call returns.
    let written = unsafe { libc::pwritev64(file.as_raw_fd(), parts.as_ptr().cast(), count, offset) };
    usize::try_from(written).map_err(|_| io::Error::last_os_error())
}

pub(super) fn write_zeroes(file: &File, offset: u64, size: u64) -> io::Result<()> {
    let end = offset + size;
    let mut at = offset;
    while at < end {
        let step = (end - at).min(ZEROES.len() as u64);
        file.write_all_at(&ZEROES[..step as usize], at)?;
        at += step;
    }
    Ok(())
}

/// fallocate(2), as often as it is interrupted.
pub(super) fn allocate(file: &File, mode: c_int, offset: u64, size: u64) -> io::Result<()> {
    let (offset, size) = (signed(offset)?, signed(size)?);
    loop {
        // SAFETY: fallocate takes no pointer.
        let result = unsafe { libc::fallocate64(file.as_raw_fd(), mode, offset, size) };
        match Errno::result(result) {
            Ok(_) => return Ok(()),
            Err(Errno::EINTR) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
}

/// Makes a range of a file a hole.
fn punch(file: &File, offset: u64, size: u64) -> io::Result<()> {
    allocate(file, libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE, offset, size)
}

fn assert_within(target_size: u64, offset: u64, size: u64) {
    assert!(offset.checked_add(size).is_some_and(|end| end <= target_size), "a range is within the target");
}

/// An offset or length in the kernel's form.
pub(super) fn signed(value: u64) -> io::Result<libc::off64_t> {
    libc::off64_t::try_from(value).map_err(|_| io::Error::from_raw_os_error(libc::EFBIG))
}
