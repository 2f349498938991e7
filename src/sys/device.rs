//! A block device that is to be overwritten: found, claimed, described, written to by way of the page cache, and read back past it.
//!
//! The claim is the kernel's (O_EXCL, open(2)): it is refused while a file system of the device or of one of its partitions is mounted,
//! and to all who want to mount, or claim, it from then on. What sysfs and `/proc` tell only explains a refusal, and adds the uses that
//! claim nothing.
//!
//! # Reading back
//!
//! A second descriptor reads with O_DIRECT, into memory that is aligned for it: the kernel first writes what it holds of that range, then
//! reads the device. Where a device refuses O_DIRECT, the range is written and dropped from the page cache before it is read, which
//! the kernel does unless somebody else uses those pages ([`ReadBack`]). A device may still answer from memory of its own.

mod content;
mod usage;

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileExt, FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use memmap2::MmapMut;
use nix::fcntl::{PosixFadviseAdvice, posix_fadvise};

use self::usage::Node;
use crate::failure::{Exit, Failure, shown};
use crate::limits::BLOCK_SIZE;

/// Every device takes pieces that begin and end at multiples of this, or of its logical sector if that is larger.
const ALIGNMENT_MIN: u64 = 4096;
/// Bytes at the start of a device in which it says what it holds.
const HEAD_SIZE: u64 = 128 << 10;

/// The calls of linux/fs.h that are needed.
mod calls {
    nix::ioctl_read_bad!(
        /// Bytes of a logical sector (BLKSSZGET).
        sector_size, nix::request_code_none!(0x12, 104), libc::c_int
    );
    nix::ioctl_none_bad!(
        /// Looks at the partition table anew (BLKRRPART).
        reread_partitions, nix::request_code_none!(0x12, 95)
    );
    nix::ioctl_write_ptr_bad!(
        /// Makes a range zero: its first byte, its length (BLKZEROOUT).
        zero_out, nix::request_code_none!(0x12, 127), [u64; 2]
    );
}

/// How what has been written is read back.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ReadBack {
    /// By O_DIRECT: what comes is what the device says.
    Direct,
    /// After the page cache was told to forget it, because the device refuses O_DIRECT.
    Forgotten,
}

/// A device that is claimed.
#[derive(Debug)]
pub struct Device {
    file: File,
    direct: Option<File>,
    path: PathBuf,
    node: Node,
    size: u64,
    alignment: u64,
    /// Memory to read into by O_DIRECT: as many as threads have read at once.
    buffers: Mutex<Vec<MmapMut>>,
}

impl Device {
    /// Claims the device at `path`, which may be a symbolic link, as those of `/dev/disk` are. Nothing is written to it.
    ///
    /// # Errors
    /// [`Exit::CannotCreate`]: it is no block device, in use, read-only, without a medium, or this user may not write to it.
    pub fn claim(path: &Path) -> Result<Self, Failure> {
        let refused = |cause: &str| Failure::new(Exit::CannotCreate, what(path), cause);
        let failed = |error: io::Error| Failure::io(Exit::CannotCreate, what(path), &error);
        let real = fs::canonicalize(path).map_err(failed)?;
        let metadata = fs::metadata(&real).map_err(failed)?;
        if !metadata.file_type().is_block_device() {
            return Err(refused("is not a block device").remedy("leave out --device to write a file"));
        }
        let node = Node::of(metadata.rdev());
        if let Some(usage) = node.usage() {
            return Err(refused(&usage));
        }
        if node.is_read_only() {
            return Err(refused("is read-only"));
        }
        let mut options = OpenOptions::new();
        options.read(true).write(true).custom_flags(libc::O_EXCL | libc::O_NOFOLLOW | libc::O_NOCTTY);
        let mut file = options.open(&real).map_err(|error| match error.raw_os_error() {
            Some(libc::EBUSY) => {
                refused("is in use").remedy("another program has claimed it, or a mount elsewhere has")
            }
            _ => failed(error),
        })?;
        let is_same = |file: &File| {
            file.metadata().is_ok_and(|opened| opened.file_type().is_block_device() && opened.rdev() == metadata.rdev())
        };
        if !is_same(&file) {
            return Err(refused("was replaced meanwhile").remedy("start again"));
        }
        let size = file.seek(SeekFrom::End(0)).map_err(failed)?;
        if size == 0 {
            return Err(refused("has no medium"));
        }
        let alignment = ALIGNMENT_MIN.max(sector_size(&file).map_err(failed)?);
        let direct = OpenOptions::new().read(true).custom_flags(libc::O_DIRECT | libc::O_NOFOLLOW).open(&real);
        let direct = direct.ok().filter(is_same);
        let mut device = Self { file, direct, path: path.to_owned(), node, size, alignment, buffers: Mutex::default() };
        // Some refuse when it is opened, some when it is read.
        if device.read_exact_at(0, &mut [0]).is_err_and(|error| error.raw_os_error() == Some(libc::EINVAL)) {
            device.direct = None;
        }
        Ok(device)
    }

    /// As it was named.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The kernel's name for it, such as `sda1`, which no other device has.
    #[must_use]
    pub fn kernel_name(&self) -> String {
        self.node.name()
    }

    /// Its bytes.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.size
    }

    /// How it is read back.
    #[must_use]
    pub fn read_back(&self) -> ReadBack {
        if self.direct.is_some() { ReadBack::Direct } else { ReadBack::Forgotten }
    }

    /// What it is and what it seems to hold, without its size: `Ultra Fit, GPT partition table: sda1 (ext4), sda2`.
    #[must_use]
    pub fn description(&self) -> String {
        let content = content::of(&head(&self.file)).unwrap_or("no known content");
        let parts: Vec<_> = self.node.partitions().iter().map(Node::name).collect();
        let parts = if parts.is_empty() { String::new() } else { format!(" with {}", parts.join(", ")) };
        let model = self.node.model().map_or_else(String::new, |model| format!("{model}, "));
        format!("{model}{content}{parts}")
    }

    /// The descriptor that writes.
    pub(super) fn file(&self) -> &File {
        &self.file
    }

    /// Fills `out` from the bytes that the device has at `offset`, whatever the page cache holds.
    ///
    /// # Errors
    /// What the kernel says of reading, or of writing what had not been written yet.
    pub fn read_exact_at(&self, mut offset: u64, out: &mut [u8]) -> io::Result<()> {
        let Some(direct) = &self.direct else { return self.forget_and_read(offset, out) };
        let mut buffer = self.take_buffer()?;
        let mut result = Ok(());
        for part in out.chunks_mut(BLOCK_SIZE as usize) {
            result = result.and_then(|()| self.read_part(direct, &mut buffer, offset, part));
            offset += part.len() as u64;
        }
        self.buffers.lock().expect("no holder panics").push(buffer);
        result
    }

    /// Reads a part of at most a block.
    fn read_part(&self, direct: &File, buffer: &mut [u8], offset: u64, out: &mut [u8]) -> io::Result<()> {
        let start = offset / self.alignment * self.alignment;
        let skipped = (offset - start) as usize;
        let end = (offset + out.len() as u64).next_multiple_of(self.alignment).min(self.size);
        let span = end.checked_sub(start).and_then(|span| buffer.get_mut(..span as usize));
        let span = span.ok_or(io::ErrorKind::UnexpectedEof)?;
        let mut filled = 0;
        while filled < skipped + out.len() {
            match direct.read_at(&mut span[filled..], start + filled as u64) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(count) => filled += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        out.copy_from_slice(&span[skipped..skipped + out.len()]);
        Ok(())
    }

    /// A mapping begins at a page, which is enough for every device.
    fn take_buffer(&self) -> io::Result<MmapMut> {
        let free = self.buffers.lock().expect("no holder panics").pop();
        let size = (BLOCK_SIZE + 2 * self.alignment) as usize;
        free.map_or_else(|| MmapMut::map_anon(size), Ok)
    }

    fn forget_and_read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let start = offset / ALIGNMENT_MIN * ALIGNMENT_MIN;
        let size = super::target::signed((offset + out.len() as u64).next_multiple_of(ALIGNMENT_MIN) - start)?;
        let start = super::target::signed(start)?;
        let flags = libc::SYNC_FILE_RANGE_WAIT_BEFORE | libc::SYNC_FILE_RANGE_WRITE | libc::SYNC_FILE_RANGE_WAIT_AFTER;
        // SAFETY: sync_file_range takes no pointer.
        let synced = unsafe { libc::sync_file_range(self.file.as_raw_fd(), start, size, flags) };
        nix::errno::Errno::result(synced)?;
        posix_fadvise(&self.file, start, size, PosixFadviseAdvice::POSIX_FADV_DONTNEED)?;
        self.file.read_exact_at(out, offset)
    }

    /// Writes zeroes to a range, by the device's own means if it has any that leave zeroes behind for certain.
    ///
    /// # Errors
    /// What the kernel says.
    pub(super) fn write_zeroes(&self, offset: u64, size: u64) -> io::Result<()> {
        let end = offset + size;
        let (first, last) = (offset.next_multiple_of(self.alignment), end / self.alignment * self.alignment);
        // The kernel promises zeroes (BLKZEROOUT), unlike for what is discarded.
        // SAFETY: the argument is two numbers, which live until the call returns.
        if first < last && unsafe { calls::zero_out(self.file.as_raw_fd(), &[first, last - first]) }.is_ok() {
            super::target::write_zeroes(&self.file, offset, first - offset)?;
            return super::target::write_zeroes(&self.file, last, end - last);
        }
        super::target::write_zeroes(&self.file, offset, size)
    }

    /// Has the kernel look at the new partition table, if it can: nobody has to have the old one in use for that.
    pub(super) fn reread_partitions(&self) {
        // SAFETY: the call takes no argument.
        let _ = unsafe { calls::reread_partitions(self.file.as_raw_fd()) };
    }
}

/// The start of the device, or as much of it as can be read.
fn head(file: &File) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut file = file;
    if file.seek(SeekFrom::Start(0)).is_ok() {
        let _ = file.take(HEAD_SIZE).read_to_end(&mut bytes);
    }
    bytes
}

fn sector_size(file: &File) -> io::Result<u64> {
    let mut size = 0;
    // SAFETY: the kernel writes one int to a place that holds one.
    unsafe { calls::sector_size(file.as_raw_fd(), &raw mut size) }?;
    Ok(u64::try_from(size).unwrap_or_default())
}

fn what(path: &Path) -> String {
    format!("overwrite {}", shown(path))
}

#[cfg(test)]
pub(super) mod tests;
