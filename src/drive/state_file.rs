//! The newest version that a device has received, kept in a file so that nobody can bring back an older one.
//!
//! The file is replaced as a whole, and synced before and after it gets its name, so that a crash leaves the old or the new one. What
//! is not exactly what was written here is an error and never taken for a lower version, or for none.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use nix::unistd::{AccessFlags, access, geteuid};

use crate::failure::{Exit, Failure, describe, shown};

/// The first line; its number is that of the form.
const MAGIC: &str = "iotupc state 1";
/// No file of this form is longer.
const SIZE_MAX: u64 = 256;
/// The bits of a mode by which others than the owner may write.
const OTHERS_WRITE: u32 = 0o022;

/// The file of one device, or of one of its parts.
#[derive(Clone, Debug)]
pub(super) struct StateFile {
    path: PathBuf,
}

impl StateFile {
    /// The file at `path`, which need not be there yet.
    ///
    /// # Errors
    /// [`Exit::CannotCreate`] if it could not be written later: found out now rather than when the transfer is complete.
    pub(super) fn new(path: &Path) -> Result<Self, Failure> {
        let cannot = |cause: &str| Failure::new(Exit::CannotCreate, format!("write {}", shown(path)), cause.to_owned());
        let name = path.file_name().ok_or_else(|| cannot("not the name of a file"))?;
        let folder = folder_of(path);
        access(folder, AccessFlags::W_OK | AccessFlags::X_OK)
            .map_err(|errno| cannot(&format!("its folder {}: {}", shown(folder), describe(&errno.into()))))?;
        Ok(Self { path: folder.join(name) })
    }

    /// The version in the file; `None` if there is no file.
    ///
    /// # Errors
    /// [`Exit::BadData`] if the file is not one that was written here, or others could have written it; [`Exit::NoInput`] if it cannot
    /// be read.
    pub(super) fn load(&self) -> Result<Option<u64>, Failure> {
        let what = || format!("read the last version from {}", shown(&self.path));
        let bad = |cause: &str| Failure::new(Exit::BadData, what(), cause);
        // A symbolic link is not followed, and a fifo does not make it wait.
        let flags = libc::O_NOFOLLOW | libc::O_NONBLOCK | libc::O_NOCTTY;
        let unreadable = |error: io::Error| Failure::io(Exit::NoInput, what(), &error);
        let file = match OpenOptions::new().read(true).custom_flags(flags).open(&self.path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) if error.raw_os_error() == Some(libc::ELOOP) => return Err(bad("it is a symbolic link")),
            opened => opened.map_err(unreadable)?,
        };
        let metadata = file.metadata().map_err(unreadable)?;
        let is_ours = metadata.uid() == geteuid().as_raw() || metadata.uid() == 0;
        match () {
            () if !metadata.is_file() => return Err(bad("it is not a regular file")),
            () if !is_ours => return Err(bad("it belongs to another user")),
            () if metadata.mode() & OTHERS_WRITE != 0 => return Err(bad("others can write it").remedy("chmod go-w")),
            () => {}
        }
        let mut bytes = Vec::new();
        file.take(SIZE_MAX + 1).read_to_end(&mut bytes).map_err(unreadable)?;
        parse(&bytes).map(Some).ok_or_else(|| {
            bad("it is damaged, or not written by iotupc")
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
        self.replace(&text(version)).map_err(|error| {
            let what = format!("keep version {version} in {}", shown(&self.path));
            Failure::io(Exit::Io, what, &error)
                .remedy("the file itself is complete; older versions are not refused yet")
        })
    }

    fn replace(&self, text: &str) -> io::Result<()> {
        let mut name = std::ffi::OsString::from(".");
        name.push(self.path.file_name().unwrap_or_default());
        name.push(".new");
        let new = self.path.with_file_name(name);
        // What a crash has left.
        let _ = fs::remove_file(&new);
        let written = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&new).and_then(|mut file| {
            file.write_all(text.as_bytes())?;
            file.sync_all()?;
            fs::rename(&new, &self.path)
        });
        if written.is_err() {
            let _ = fs::remove_file(&new);
        }
        written?;
        match File::open(folder_of(&self.path)).and_then(|folder| folder.sync_all()) {
            // Some file systems cannot sync a folder, and some folders can be written to but not read.
            Err(error) if !matches!(error.raw_os_error(), Some(libc::EINVAL | libc::EACCES)) => Err(error),
            _ => Ok(()),
        }
    }
}

fn folder_of(path: &Path) -> &Path {
    path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."))
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
    use std::fs::Permissions;
    use std::os::unix::fs::{PermissionsExt, symlink};

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
        assert_eq!(fs::metadata(&state.path).unwrap().mode() & 0o777, 0o600);
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
        let good = fs::read(&state.path).unwrap();
        let refused = |content: &[u8]| {
            fs::write(&state.path, content).unwrap();
            let failure = state.load().unwrap_err();
            assert_eq!(failure.exit, Exit::BadData, "{}: {failure}", content.escape_ascii());
            assert_eq!(state.keep(5000).unwrap_err().exit, Exit::BadData, "and it is not overwritten");
            assert_eq!(fs::read(&state.path).unwrap(), content);
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
        fs::write(&state.path, &good).unwrap();
        assert_eq!(state.load().unwrap(), Some(4711));
    }

    #[test]
    fn what_others_could_have_written_is_not_believed() {
        let folder = tempfile::tempdir().unwrap();
        let state = state(&folder);
        state.keep(5).unwrap();
        for mode in [0o620, 0o602] {
            fs::set_permissions(&state.path, Permissions::from_mode(mode)).unwrap();
            assert_eq!(state.load().unwrap_err().exit, Exit::BadData);
        }
        let elsewhere = folder.path().join("elsewhere");
        fs::rename(&state.path, &elsewhere).unwrap();
        symlink(&elsewhere, &state.path).unwrap();
        assert_eq!(state.load().unwrap_err().exit, Exit::BadData);
        fs::remove_file(&state.path).unwrap();
        fs::create_dir(&state.path).unwrap();
        assert_eq!(state.load().unwrap_err().exit, Exit::BadData);
    }

    #[test]
    fn place_that_cannot_be_written_is_found_at_once() {
        let folder = tempfile::tempdir().unwrap();
        for path in [folder.path().join("none").join("state"), PathBuf::from("/"), folder.path().join("..")] {
            assert_eq!(StateFile::new(&path).unwrap_err().exit, Exit::CannotCreate, "{path:?}");
        }
        assert_eq!(StateFile::new(Path::new("state")).unwrap().path, Path::new("./state"));
    }
}
