//! Files without a name: gone with the program, whatever ends that.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use super::random;

/// Names that may be taken already before one is given up: each has 64 random bits.
const ATTEMPT_COUNT_MAX: usize = 4;

/// An empty file without a name in `folder`, to be read and written.
///
/// # Errors
/// What the kernel says: the folder cannot be written to.
pub(super) fn file_in(folder: &Path) -> io::Result<File> {
    match options().custom_flags(libc::O_TMPFILE).open(folder) {
        // Not all file systems have such files; those of networks have not. For a kernel that does not know the flag it is a folder that
        // is to be written to.
        Err(error) if matches!(error.raw_os_error(), Some(libc::EOPNOTSUPP | libc::EISDIR)) => removed_at_once(folder),
        opened => opened,
    }
}

/// The same by way of a name. A program that is killed between the two steps leaves an empty file.
fn removed_at_once(folder: &Path) -> io::Result<File> {
    for _ in 0..ATTEMPT_COUNT_MAX {
        let path = folder.join(format!(".iotup-{:016x}", u64::from_ne_bytes(random::bytes()?)));
        match options().create_new(true).open(&path) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(error),
            Ok(file) => return fs::remove_file(&path).map(|()| file),
        }
    }
    Err(io::ErrorKind::AlreadyExists.into())
}

fn options() -> OpenOptions {
    let mut options = OpenOptions::new();
    options.read(true).write(true).mode(0o600);
    options
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{FileExt, MetadataExt};

    use super::*;

    #[test]
    fn file_has_no_name_however_it_was_made() {
        let folder = tempfile::tempdir().unwrap();
        for make in [file_in, removed_at_once] {
            let file = make(folder.path()).unwrap();
            file.write_all_at(b"bytes", 3).unwrap();
            let (mut bytes, metadata) = ([9; 8], file.metadata().unwrap());
            file.read_exact_at(&mut bytes, 0).unwrap();
            assert_eq!((&bytes, metadata.nlink(), metadata.mode() & 0o777), (b"\0\0\0bytes", 0, 0o600));
            assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
            assert_eq!(make(&folder.path().join("missing")).unwrap_err().kind(), io::ErrorKind::NotFound);
        }
    }
}
