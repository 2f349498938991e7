//! An object that is written to a block device. It lies at the start of it; what is behind it stays as it was.

use std::io::{self, IoSlice};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::{assert_within, write_parts};
use crate::failure::{Exit, Failure, shown};
use crate::limits::BLOCK_SIZE;
use crate::sys::{Device, SlotFile};

/// What a device that does not keep what it is given is said to do.
pub(super) const FORGETFUL: &str = "reads back other bytes than were written: it is failing, or smaller than it says";

/// An object on a claimed device.
#[derive(Debug)]
pub struct DeviceTarget {
    device: Arc<Device>,
    size: u64,
    /// The output beside which the slot map is.
    slots: Option<PathBuf>,
}

impl DeviceTarget {
    /// An object of `size` bytes, with the slot map of `slots` if there is to be one.
    ///
    /// # Errors
    /// [`Exit::CannotCreate`]: the device is smaller.
    pub(in crate::sys) fn new(device: &Arc<Device>, size: u64, slots: Option<PathBuf>) -> Result<Self, Failure> {
        if size > device.size() {
            let cause = format!("it has {} bytes, and the object {size}", device.size());
            return Err(Failure::new(Exit::CannotCreate, format!("overwrite {}", shown(device.path())), cause));
        }
        Ok(Self { device: Arc::clone(device), size, slots })
    }

    pub(super) fn path(&self) -> &Path {
        self.device.path()
    }

    pub(super) fn remains(&self) -> &'static str {
        match self.slots {
            Some(_) => "run again to resume",
            None => "run again: blocks that are right are kept",
        }
    }

    pub(super) fn write_run(&self, offset: u64, parts: &[IoSlice<'_>]) -> io::Result<()> {
        assert_within(self.size, offset, parts.iter().map(|part| part.len() as u64).sum());
        write_parts(self.device.file(), offset, parts)
    }

    pub(super) fn read_exact_at(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.device.read_exact_at(offset, out)
    }

    /// What is zero already is not written again: flash memory wears.
    pub(super) fn zero(&self, offset: u64, size: u64) -> io::Result<()> {
        assert_within(self.size, offset, size);
        // What cannot be read is written: that often mends it.
        if self.is_zero(offset, size).is_ok_and(|is_zero| is_zero) {
            return Ok(());
        }
        self.device.write_zeroes(offset, size)?;
        if self.is_zero(offset, size)? { Ok(()) } else { Err(io::Error::other(FORGETFUL)) }
    }

    fn is_zero(&self, offset: u64, size: u64) -> io::Result<bool> {
        let mut bytes = vec![0; size.min(BLOCK_SIZE) as usize];
        let mut at = offset;
        while at < offset + size {
            let step = (offset + size - at).min(BLOCK_SIZE) as usize;
            self.device.read_exact_at(at, &mut bytes[..step])?;
            if bytes[..step].iter().any(|&byte| byte != 0) {
                return Ok(false);
            }
            at += step as u64;
        }
        Ok(true)
    }

    /// Whether the device gives back what the kernel has for it, which is what was written last. Pages that the kernel does not have any
    /// more say nothing.
    pub(super) fn require_kept(&self, offset: u64, size: usize) -> io::Result<()> {
        let (mut cached, mut stored) = (vec![0; size], vec![0; size]);
        self.device.file().read_exact_at(&mut cached, offset)?;
        self.device.read_exact_at(offset, &mut stored)?;
        if cached == stored { Ok(()) } else { Err(io::Error::other(FORGETFUL)) }
    }

    pub(super) fn commit(self) -> Result<(), Failure> {
        self.device.file().sync_all().map_err(|error| {
            Failure::io(Exit::Io, format!("sync {}", shown(self.path())), &error)
                .remedy("the device may be failing: do not trust it, the next run verifies its blocks again")
        })?;
        if let Some(slots) = &self.slots {
            // It names its object, and is of no use for another.
            let _ = SlotFile::remove(slots);
        }
        self.device.reread_partitions();
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::device::tests::{SIZE, forgetful, stand_ins};
    use crate::sys::{Target, target::PART_COUNT_MAX};

    #[test]
    fn device_that_is_too_small_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let device = Arc::new(stand_ins(folder.path()).remove(0));
        let failure = DeviceTarget::new(&device, SIZE + 1, None).unwrap_err();
        assert_eq!(failure.exit, Exit::CannotCreate);
        assert!(failure.to_string().contains(&format!("it has {SIZE} bytes")), "{failure}");
    }

    #[test]
    fn runs_go_where_they_belong_and_zeroes_are_there() {
        let folder = tempfile::tempdir().unwrap();
        for device in stand_ins(folder.path()) {
            let target = DeviceTarget::new(&Arc::new(device), SIZE, None).unwrap();
            let parts = vec![IoSlice::new(b"ab"); PART_COUNT_MAX + 1];
            target.write_run(3, &parts).unwrap();
            target.zero(7, 10).unwrap();
            let mut out = [1; 16];
            target.read_exact_at(3, &mut out).unwrap();
            assert_eq!(&out, b"abab\0\0\0\0\0\0\0\0\0\0ab");
            assert!(target.require_kept(0, 100).is_ok());
            let target = Target::Device(target);
            assert!(target.reads_back() && target.remains().is_some());
            target.commit().unwrap();
        }
    }

    #[test]
    fn device_that_does_not_keep_what_is_written_is_found_out() {
        let folder = tempfile::tempdir().unwrap();
        let target = DeviceTarget::new(&Arc::new(forgetful(folder.path())), SIZE, None).unwrap();
        target.require_kept(0, BLOCK_SIZE as usize).unwrap();
        assert_eq!(target.zero(BLOCK_SIZE, 10).unwrap_err().to_string(), FORGETFUL);
        target.write_run(5, &[IoSlice::new(b"ab")]).unwrap();
        assert_eq!(target.require_kept(0, BLOCK_SIZE as usize).unwrap_err().to_string(), FORGETFUL);
        target.require_kept(2 * BLOCK_SIZE, BLOCK_SIZE as usize).unwrap();
    }

    #[test]
    #[should_panic(expected = "a range is within the target")]
    fn run_behind_the_object_is_a_broken_invariant() {
        let folder = tempfile::tempdir().unwrap();
        let device = Arc::new(stand_ins(folder.path()).remove(0));
        let _ = DeviceTarget::new(&device, 6, None).unwrap().write_run(5, &[IoSlice::new(b"ab")]);
    }
}
