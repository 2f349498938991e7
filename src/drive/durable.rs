//! Small files that say what must not be forgotten. Each is replaced as a whole, and synced before and after it gets its name, so that a crash
//! leaves the old or the new one; and only one that nobody else can have written is read.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use nix::unistd::{AccessFlags, access, geteuid};

use crate::failure::{Exit, Failure, describe, shown};

/// The bits of a mode by which others than the owner may write.
const OTHERS_WRITE: u32 = 0o022;

/// One such file.
#[derive(Clone, Debug)]
pub(super) struct DurableFile {
    path: PathBuf,
}

impl DurableFile {
    /// The file at `path`, which need not be there yet.
    ///
    /// # Errors
    /// [`Exit::CannotCreate`] if it could not be written later: found out now rather than when there is something to write.
    pub(super) fn new(path: &Path) -> Result<Self, Failure> {
        let cannot = |cause: &str| Failure::new(Exit::CannotCreate, format!("write {}", shown(path)), cause.to_owned());
        let name = path.file_name().ok_or_else(|| cannot("not the name of a file"))?;
        let folder = folder_of(path);
        access(folder, AccessFlags::W_OK | AccessFlags::X_OK)
            .map_err(|errno| cannot(&format!("its folder {}: {}", shown(folder), describe(&errno.into()))))?;
        Ok(Self { path: folder.join(name) })
    }

    /// Where it is.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Its content, and one byte more than `size_max` if it is longer; `None` if there is no file. `what` names the attempt.
    ///
    /// # Errors
    /// [`Exit::BadData`] if others could have written it; [`Exit::NoInput`] if it cannot be read.
    pub(super) fn load(&self, what: &str, size_max: usize) -> Result<Option<Vec<u8>>, Failure> {
        let bad = |cause: &str| Failure::new(Exit::BadData, what, cause);
        // A symbolic link is not followed, and a fifo does not make it wait.
        let flags = libc::O_NOFOLLOW | libc::O_NONBLOCK | libc::O_NOCTTY;
        let unreadable = |error: io::Error| Failure::io(Exit::NoInput, what, &error);
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
        file.take(size_max as u64 + 1).read_to_end(&mut bytes).map_err(unreadable)?;
        Ok(Some(bytes))
    }

    /// Puts `text` in its place.
    ///
    /// # Errors
    /// What the kernel says; the file is then as it was, or, if only its folder could not be synced, as it is to be.
    pub(super) fn replace(&self, text: &str) -> io::Result<()> {
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
