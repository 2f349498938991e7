//! The newest version that a device has received, kept in a file so that nobody can bring back an older one.
//!
//! What is not exactly what was written here is an error and never taken for a lower version, or for none.

use std::path::Path;

use super::durable::DurableFile;
use crate::failure::{Exit, Failure, shown};

/// The first line; its number is that of the form.
const MAGIC: &str = "iotupc state 1";
/// No file of this form is longer.
const SIZE_MAX: usize = 256;

/// The file of one device, or of one of its parts.
#[derive(Clone, Debug)]
pub(super) struct StateFile(DurableFile);

impl StateFile {
    /// The file at `path`, which need not be there yet.
    ///
    /// # Errors
    /// [`Exit::CannotCreate`] if it could not be written later: found out now rather than when the transfer is complete.
    pub(super) fn new(path: &Path) -> Result<Self, Failure> {
        DurableFile::new(path).map(Self)
    }

    /// The version in the file; `None` if there is no file.
    ///
    /// # Errors
    /// [`Exit::BadData`] if the file is not one that was written here, or others could have written it; [`Exit::NoInput`] if it cannot
    /// be read.
    pub(super) fn load(&self) -> Result<Option<u64>, Failure> {
        let what = format!("read the last version from {}", shown(self.0.path()));
        let Some(bytes) = self.0.load(&what, SIZE_MAX)? else { return Ok(None) };
        parse(&bytes).map(Some).ok_or_else(|| {
            Failure::new(Exit::BadData, what, "it is damaged, or not written by iotupc")
                .remedy("restore it; without it older versions are taken again")
        })
    }

    /// Sees to it that the file says `version`, or a larger one that it says already.
    ///
    /// # Errors
    /// [`Exit::Io`], or as [`load`](Self::load) says; the file is then as it was.
    pub(super) fn keep(&self, version: u64) -> Result<(), Failure> {
        if self.load()?.is_some_and(|kept| kept >= version) {
            return Ok(());
        }
        self.0.replace(&text(version)).map_err(|error| {
            let what = format!("keep version {version} in {}", shown(self.0.path()));
            Failure::io(Exit::Io, what, &error)
                .remedy("the file itself is complete; older versions are not refused yet")
        })
    }
}

/// The file's whole content.
fn text(version: u64) -> String {
    let content = format!("{MAGIC}\nversion {version}\n");
    format!("{content}blake3 {}\n", blake3::hash(content.as_bytes()))
}

fn parse(bytes: &[u8]) -> Option<u64> {
    let line = std::str::from_utf8(bytes).ok()?.lines().nth(1)?;
    let version = line.strip_prefix("version ")?.parse().ok()?;
    // Only what is written as we write it.
    (text(version).as_bytes() == bytes).then_some(version)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::{self, Permissions};
    use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
    use std::path::PathBuf;

    fn state(folder: &tempfile::TempDir) -> StateFile {
        StateFile::new(&folder.path().join("state")).unwrap()
    }

    #[test]
    fn version_is_kept_and_never_lowered() {
        let folder = tempfile::tempdir().unwrap();
        let state = state(&folder);
        assert_eq!(state.load().unwrap(), None);
        for (version, kept) in [(0, 0), (7, 7), (3, 7), (u64::MAX, u64::MAX), (8, u64::MAX)] {
            state.keep(version).unwrap();
            assert_eq!(state.load().unwrap(), Some(kept));
        }
        let names: Vec<_> = fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(names, ["state"], "nothing else is left");
        assert_eq!(fs::metadata(state.0.path()).unwrap().mode() & 0o777, 0o600);
    }

    #[test]
    fn what_a_crash_left_is_no_obstacle() {
        let folder = tempfile::tempdir().unwrap();
        let state = state(&folder);
        fs::write(folder.path().join(".state.new"), "half").unwrap();
        state.keep(1).unwrap();
        assert_eq!(state.load().unwrap(), Some(1));
    }

    #[test]
    fn every_damage_is_an_error_and_never_a_lower_version() {
        let folder = tempfile::tempdir().unwrap();
        let state = state(&folder);
        state.keep(4711).unwrap();
        let good = fs::read(state.0.path()).unwrap();
        let refused = |content: &[u8]| {
            fs::write(state.0.path(), content).unwrap();
            let failure = state.load().unwrap_err();
            assert_eq!(failure.exit, Exit::BadData, "{}: {failure}", content.escape_ascii());
            assert_eq!(state.keep(5000).unwrap_err().exit, Exit::BadData, "and it is not overwritten");
            assert_eq!(fs::read(state.0.path()).unwrap(), content);
        };
        for bit in 0..8 * good.len() {
            let mut damaged = good.clone();
            damaged[bit / 8] ^= 1 << (bit % 8);
            refused(&damaged);
        }
        (0..good.len()).for_each(|size| refused(&good[..size]));
        let other = [
            [&good[..], b"\n"].concat(),
            vec![0; 4096],
            b"7\n".to_vec(),
            text(4711).replace("version 4711", "version 04711").into_bytes(),
            text(4711).replace("version 4711", "version 1").into_bytes(),
        ];
        other.iter().for_each(|content| refused(content));
        fs::write(state.0.path(), &good).unwrap();
        assert_eq!(state.load().unwrap(), Some(4711));
    }

    #[test]
    fn what_others_could_have_written_is_not_believed() {
        let folder = tempfile::tempdir().unwrap();
        let state = state(&folder);
        state.keep(5).unwrap();
        for mode in [0o620, 0o602] {
            fs::set_permissions(state.0.path(), Permissions::from_mode(mode)).unwrap();
            assert_eq!(state.load().unwrap_err().exit, Exit::BadData);
        }
        let elsewhere = folder.path().join("elsewhere");
        fs::rename(state.0.path(), &elsewhere).unwrap();
        symlink(&elsewhere, state.0.path()).unwrap();
        assert_eq!(state.load().unwrap_err().exit, Exit::BadData);
        fs::remove_file(state.0.path()).unwrap();
        fs::create_dir(state.0.path()).unwrap();
        assert_eq!(state.load().unwrap_err().exit, Exit::BadData);
    }

    #[test]
    fn place_that_cannot_be_written_is_found_at_once() {
        let folder = tempfile::tempdir().unwrap();
        for path in [folder.path().join("none").join("state"), PathBuf::from("/"), folder.path().join("..")] {
            assert_eq!(StateFile::new(&path).unwrap_err().exit, Exit::CannotCreate, "{path:?}");
        }
        assert_eq!(StateFile::new(Path::new("state")).unwrap().0.path(), Path::new("./state"));
    }
}
