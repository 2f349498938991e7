//! What goes to standard output: kept in a file without a name, because symbols come in any order, until the blocks before it have
//! been printed. The file is gone with the program, whatever ends that.

use std::fs::File;
use std::io::{self, IoSlice};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use super::{assert_within, punch, write_parts, write_zeroes};
use crate::failure::{Exit, Failure, shown};
use crate::sys::unnamed;

/// Bytes on their way to standard output.
#[derive(Debug)]
pub struct Spool {
    file: File,
    size: u64,
    folder: PathBuf,
}

impl Spool {
    /// Room for `size` bytes in `folder`, all 0 and taken as they are written.
    ///
    /// # Errors
    /// [`Exit::CannotCreate`].
    pub fn create(folder: &Path, size: u64) -> Result<Self, Failure> {
        let file = create(folder)?;
        file.set_len(size).map_err(|error| Failure::io(Exit::CannotCreate, create_what(folder), &error))?;
        Ok(Self { file, size, folder: folder.to_owned() })
    }

    /// Tells, before anything is received, whether files can be made in `folder`.
    ///
    /// # Errors
    /// [`Exit::CannotCreate`].
    pub fn check(folder: &Path) -> Result<(), Failure> {
        create(folder).map(drop)
    }

    pub(super) fn write_run(&self, offset: u64, parts: &[IoSlice<'_>]) -> io::Result<()> {
        assert_within(self.size, offset, parts.iter().map(|part| part.len() as u64).sum());
        write_parts(&self.file, offset, parts)
    }

    pub(super) fn read_exact_at(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.file.read_exact_at(out, offset)
    }

    pub(super) fn zero(&self, offset: u64, size: u64) -> io::Result<()> {
        assert_within(self.size, offset, size);
        if size == 0 || punch(&self.file, offset, size).is_ok() {
            return Ok(());
        }
        write_zeroes(&self.file, offset, size)
    }

    /// These bytes are printed, and need no room any more. They read as zeroes where the file system can give the room back.
    pub fn forget(&self, offset: u64, size: u64) {
        // Else it is given back at the end.
        let _ = punch(&self.file, offset, size);
    }

    pub(super) fn name(&self) -> String {
        format!("a temporary file in {}", shown(&self.folder))
    }
}

fn create(folder: &Path) -> Result<File, Failure> {
    unnamed::file_in(folder).map_err(|error| {
        let failure = Failure::io(Exit::CannotCreate, create_what(folder), &error);
        failure.remedy("name a folder for it by --spool-dir")
    })
}

fn create_what(folder: &Path) -> String {
    format!("create a temporary file in {}", shown(folder))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spool_has_no_name_and_keeps_what_is_written_until_it_is_forgotten() {
        let folder = tempfile::tempdir().unwrap();
        let spool = Spool::create(folder.path(), 100_000).unwrap();
        spool.write_run(70_000, &[IoSlice::new(&[7; 10_000]), IoSlice::new(&[8; 20_000])]).unwrap();
        spool.zero(75_000, 1000).unwrap();
        let mut all = vec![1; 100_000];
        spool.read_exact_at(0, &mut all).unwrap();
        let expected = |i| match i {
            70_000..75_000 | 76_000..80_000 => 7,
            80_000.. => 8,
            _ => 0,
        };
        assert!(all.iter().enumerate().all(|(i, &byte)| byte == expected(i)));
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
        spool.forget(0, 90_000);
        spool.read_exact_at(90_000, &mut all[..10_000]).unwrap();
        assert!(all[..10_000].iter().all(|&byte| byte == 8));
    }

    #[test]
    #[should_panic(expected = "a range is within the target")]
    fn run_beyond_the_spool_is_a_broken_invariant() {
        let folder = tempfile::tempdir().unwrap();
        let _ = Spool::create(folder.path(), 6).unwrap().write_run(5, &[IoSlice::new(b"ab")]);
    }

    #[test]
    fn folder_that_cannot_be_used_is_refused_with_its_remedy() {
        let folder = tempfile::tempdir().unwrap();
        let failure = Spool::check(&folder.path().join("missing")).unwrap_err();
        assert_eq!(failure.exit, Exit::CannotCreate);
        assert!(failure.to_string().ends_with("no such file or directory (name a folder for it by --spool-dir)"));
    }
}
