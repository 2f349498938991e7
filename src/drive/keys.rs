//! The public keys that a user names: as they are, or in a file.

use std::path::{Path, PathBuf};

use super::manifest_file;
use crate::failure::{Exit, Failure, shown};
use crate::limits::PUBLIC_KEY_COUNT_MAX;
use crate::manifest::PublicKey;

/// Bytes of a public-key file at most.
const FILE_SIZE_MAX: usize = 4096;

/// The keys that `names` are: base64, or the paths of files.
///
/// # Errors
/// [`Exit::NoInput`] for what is neither a key nor a file that can be read, [`Exit::BadData`] for a file without a key, and
/// [`Exit::Usage`] for more than sixteen.
pub fn load(names: &[PathBuf]) -> Result<Vec<PublicKey>, Failure> {
    if names.len() > PUBLIC_KEY_COUNT_MAX {
        let what = format!("take {} public keys", names.len());
        return Err(Failure::new(Exit::Usage, what, format!("at most {PUBLIC_KEY_COUNT_MAX} are possible")));
    }
    names.iter().map(|name| load_one(name)).collect()
}

fn load_one(name: &Path) -> Result<PublicKey, Failure> {
    if let Some(key) = name.to_str().and_then(PublicKey::parse) {
        return Ok(key);
    }
    let what = || format!("read public key {}", shown(name));
    let Some(bytes) = manifest_file::read(name, FILE_SIZE_MAX)? else {
        let failure = Failure::new(Exit::NoInput, what(), "neither a minisign public key nor a file");
        return Err(failure.remedy("see minisign -G"));
    };
    std::str::from_utf8(&bytes).ok().and_then(PublicKey::parse_file).ok_or_else(|| {
        Failure::new(Exit::BadData, what(), "the file holds no minisign public key").remedy("see minisign -G")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: &str = include_str!("../../tests/keys/first.pub");

    #[test]
    fn keys_are_taken_as_they_are_and_from_files() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("first.pub");
        std::fs::write(&path, KEY).unwrap();
        let line = KEY.lines().nth(1).unwrap();
        let keys = load(&[path.clone(), line.into()]).unwrap();
        assert_eq!(keys[0], keys[1]);
        std::fs::write(&path, line).unwrap();
        assert_eq!(load(std::slice::from_ref(&path)).unwrap_err().exit, Exit::BadData, "a file without its comment");
        std::fs::write(&path, vec![b'x'; FILE_SIZE_MAX + 1]).unwrap();
        assert_eq!(load(&[path]).unwrap_err().exit, Exit::BadData);
        assert_eq!(load(&[folder.path().join("none")]).unwrap_err().exit, Exit::NoInput);
        assert_eq!(load(&vec![line.into(); PUBLIC_KEY_COUNT_MAX + 1]).unwrap_err().exit, Exit::Usage);
    }
}
