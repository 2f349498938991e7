//! Where the user wants the object: checked, and held where it can be held, before anything is received; made a [`Target`] when it is
//! known what comes.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::target::{Created, DeviceTarget, Existing, Other, PartFile, Spool, Target};
use super::{Device, SlotFile, free_space};
use crate::failure::{Exit, Failure, shown};

/// What is to be made of a path.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum OutputKind {
    /// A file, which appears when it is complete.
    File {
        /// A file that is there stays, and is a failure.
        no_clobber: bool,
        /// What has come of another object.
        other: Other,
    },
    /// The path is a block device, whose content is overwritten.
    Device {
        /// Where to keep what is needed to resume; `None`: nowhere.
        state_dir: Option<PathBuf>,
    },
    /// Standard output gets the bytes in order; the path is a name for messages.
    Stdout {
        /// Where blocks wait for those before them.
        spool_dir: PathBuf,
    },
}

/// An output that can be written to, as far as can be told beforehand.
#[derive(Debug)]
pub enum Output {
    /// A file.
    File {
        /// Its final name.
        path: PathBuf,
        /// A file that is there stays.
        no_clobber: bool,
        /// What has come of another object.
        other: Other,
    },
    /// A device that is claimed.
    Device {
        /// The device.
        device: Arc<Device>,
        /// The name beside which its slot map is.
        slots: Option<PathBuf>,
    },
    /// Standard output.
    Stdout {
        /// Where blocks wait for those before them.
        spool_dir: PathBuf,
    },
}

impl Output {
    /// Checks `path`, and claims it if it is a device.
    ///
    /// # Errors
    /// [`Exit::CannotCreate`], with what is in the way.
    pub fn open(path: &Path, kind: &OutputKind) -> Result<Self, Failure> {
        match kind {
            OutputKind::File { no_clobber, other } => {
                if *no_clobber {
                    PartFile::check_absent(path)?;
                }
                PartFile::check(path)?;
                Ok(Self::File { path: path.to_owned(), no_clobber: *no_clobber, other: *other })
            }
            OutputKind::Device { state_dir } => {
                if let Some(folder) = state_dir.as_deref().filter(|folder| !folder.is_dir()) {
                    return Err(Failure::new(
                        Exit::CannotCreate,
                        format!("use {}", shown(folder)),
                        "is not a directory",
                    )
                    .remedy("see --state-dir"));
                }
                let device = Arc::new(Device::claim(path)?);
                let slots = state_dir.as_ref().map(|folder| folder.join(device.kernel_name()));
                Ok(Self::Device { device, slots })
            }
            OutputKind::Stdout { spool_dir } => {
                Spool::check(spool_dir)?;
                Ok(Self::Stdout { spool_dir: spool_dir.clone() })
            }
        }
    }

    /// Bytes of the largest object for which there is room.
    ///
    /// # Errors
    /// [`Exit::CannotCreate`] if the file system will not tell.
    pub fn room(&self) -> Result<u64, Failure> {
        match self {
            Self::File { path, .. } => Ok(PartFile::free_space(path)?.saturating_add(PartFile::occupied(path))),
            Self::Device { device, .. } => Ok(device.size()),
            Self::Stdout { spool_dir } => free_space(spool_dir).map_err(|error| {
                Failure::io(Exit::CannotCreate, format!("find free space of {}", shown(spool_dir)), &error)
            }),
        }
    }

    /// What to look at when an object is too large.
    #[must_use]
    pub fn limits(&self) -> &'static str {
        match self {
            Self::File { .. } => "see --max-size and the free space",
            Self::Device { .. } => "see --max-size and the size of the device",
            Self::Stdout { .. } => "see --max-size, and the free space of --spool-dir",
        }
    }

    /// Makes it ready for the object with the id `object`, of `size` bytes.
    ///
    /// # Errors
    /// [`Exit::CannotCreate`].
    ///
    /// # Panics
    /// If `object` is not 24 hexadecimal digits, in lower case.
    pub fn create(&self, size: u64, object: &str) -> Result<Created, Failure> {
        let unnamed = |target, reused| Created { target, reused, set_aside: None };
        match self {
            Self::File { path, no_clobber, other } => {
                let existing = if *no_clobber { Existing::Keep } else { Existing::Replace };
                Ok(PartFile::create_over(path, size, object, *other)?.map(|file| Target::File(file.with(existing))))
            }
            // What is on the device may be what is wanted, or most of it: an older version, or what an earlier attempt has left.
            Self::Device { device, slots } => {
                Ok(unnamed(Target::Device(DeviceTarget::new(device, size, slots.clone())?), size > 0))
            }
            Self::Stdout { spool_dir } => Ok(unnamed(Target::Spool(Spool::create(spool_dir, size)?), false)),
        }
    }

    /// Words for the slot map, which outlive the program if the output has a place for that.
    ///
    /// # Errors
    /// What the kernel says; memory alone will then do.
    pub fn slot_file(&self, word_count: usize) -> io::Result<SlotFile> {
        match self {
            Self::File { path, .. } | Self::Device { slots: Some(path), .. } => SlotFile::open(path, word_count),
            Self::Device { slots: None, .. } | Self::Stdout { .. } => SlotFile::anonymous(word_count),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    const ID: &str = "0123456789abcdef01234567";

    fn refusal(path: &Path, kind: &OutputKind) -> String {
        let failure = Output::open(path, kind).expect_err("it is refused");
        assert_eq!(failure.exit, Exit::CannotCreate);
        failure.to_string()
    }

    #[test]
    fn file_that_is_there_is_kept_at_the_start_and_when_it_appears_later() {
        let folder = tempfile::tempdir().unwrap();
        let (path, kind) = (folder.path().join("file"), OutputKind::File { no_clobber: true, other: Other::SetAside });
        let output = Output::open(&path, &kind).unwrap();
        let target = output.create(3, ID).unwrap().target;
        target.write_run(0, &[io::IoSlice::new(b"new")]).unwrap();
        fs::write(&path, "old").unwrap();
        let failure = target.commit().unwrap_err();
        assert_eq!(failure.exit, Exit::CannotCreate);
        assert!(failure.to_string().contains("--no-clobber"), "{failure}");
        assert!(refusal(&path, &kind).contains("--no-clobber"));
        assert_eq!(fs::read(&path).unwrap(), b"old");
        assert_eq!(fs::read(folder.path().join(".file.part")).unwrap(), b"new", "what has come is kept");
        // Nothing of it has to come again.
        fs::remove_file(&path).unwrap();
        let created = Output::open(&path, &kind).unwrap().create(3, ID).unwrap();
        assert!(created.reused);
        created.target.commit().unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"new");
    }

    #[test]
    fn what_is_no_device_is_not_overwritten() {
        let folder = tempfile::tempdir().unwrap();
        let (path, kind) = (folder.path().join("file"), OutputKind::Device { state_dir: None });
        assert!(refusal(&path, &kind).ends_with("file: no such file or directory"));
        fs::write(&path, "precious").unwrap();
        assert!(refusal(&path, &kind).ends_with("is not a block device (leave out --device to write a file)"));
        assert!(refusal(Path::new("/dev/null"), &kind).contains("is not a block device"));
        assert_eq!(fs::read(&path).unwrap(), b"precious");
        let state_dir = Some(folder.path().join("missing"));
        assert!(refusal(&path, &OutputKind::Device { state_dir }).contains("--state-dir"));
    }

    #[test]
    fn standard_output_has_room_and_a_map_in_memory() {
        let folder = tempfile::tempdir().unwrap();
        let kind = OutputKind::Stdout { spool_dir: folder.path().to_owned() };
        let output = Output::open(Path::new("-"), &kind).unwrap();
        assert!(output.room().unwrap() > 0);
        assert_eq!(output.slot_file(5).unwrap().words().len(), 5);
        let created = output.create(3, ID).unwrap();
        assert!(!created.reused && !created.target.reads_back() && created.target.remains().is_none());
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
    }
}
