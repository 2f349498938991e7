//! `FILE.manifest` and `FILE.manifest.minisig`, as they lie beside a file: what `iotup manifest` and `minisign` wrote. Their secret
//! key need not be where they are used, so a server only sees whether they go together with the file, not who signed.

use std::ffi::OsString;
use std::fs::OpenOptions;
use std::io::{self, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use super::report::Report;
use crate::digest::ObjectTree;
use crate::failure::{Exit, Failure, describe, shown};
use crate::limits::MANIFEST_SIGNED_SIZE_MAX;
use crate::manifest::{self, KeyId, Manifest, Members, Signature, parse_signature_file};
use crate::types::{CodeId, SymbolSize};

/// Bytes of a signature file at most: its comments are one line each.
const SIGNATURE_FILE_SIZE_MAX: usize = 8 << 10;
const WRITE_AGAIN: &str = "write it again with iotup manifest, and sign it with minisign";

/// A manifest, and perhaps its signature.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ManifestFile {
    path: PathBuf,
    /// The bytes that are signed.
    pub text: Vec<u8>,
    /// What they say.
    pub manifest: Manifest,
    /// The signature as packets carry it; empty if there is none.
    pub signature: Vec<u8>,
}

impl ManifestFile {
    /// What lies beside the file at `path`; `None` if nothing does.
    ///
    /// # Errors
    /// [`Exit::BadData`] if it is not a manifest with its signature, [`Exit::NoInput`] if it cannot be read.
    pub fn beside(path: &Path) -> Result<Option<Self>, Failure> {
        let manifest_path = manifest_path(path);
        let signature_path = signature_path(&manifest_path);
        match read(&manifest_path, MANIFEST_SIGNED_SIZE_MAX)? {
            Some(text) => Self::of_text(manifest_path, text).map(Some),
            None if exists(&signature_path) => {
                let cause = format!("there is no {}, which it signs", shown(&manifest_path));
                Err(bad(&signature_path, cause).remedy("put it there, or take the signature away"))
            }
            None => Ok(None),
        }
    }

    /// The manifest at `path`, with the signature that lies beside it.
    ///
    /// # Errors
    /// As above; [`Exit::NoInput`] if there is no manifest.
    pub fn open(path: &Path) -> Result<Self, Failure> {
        let missing = || Failure::io(Exit::NoInput, format!("read {}", shown(path)), &nix::errno::Errno::ENOENT.into());
        let text = read(path, MANIFEST_SIGNED_SIZE_MAX)?.ok_or_else(missing)?;
        Self::of_text(path.to_owned(), text)
    }

    /// What is said of the file at `path` where nobody has written a manifest.
    ///
    /// # Errors
    /// [`Exit::BadData`] if the members do not go together.
    pub fn of(path: &Path, members: &Members) -> Result<Self, Failure> {
        let manifest = members
            .manifest()
            .map_err(|refusal| Failure::new(Exit::BadData, format!("describe {}", shown(path)), refusal.to_string()))?;
        let text = manifest.to_text().into_bytes();
        Ok(Self { path: manifest_path(path), text, manifest, signature: Vec::new() })
    }

    fn of_text(path: PathBuf, text: Vec<u8>) -> Result<Self, Failure> {
        let manifest = manifest::parse(&text).map_err(|refusal| bad(&path, refusal.to_string()).remedy(WRITE_AGAIN))?;
        let signature_path = signature_path(&path);
        let signature = match read(&signature_path, SIGNATURE_FILE_SIZE_MAX)? {
            None => Vec::new(),
            Some(file) => {
                let file = String::from_utf8_lossy(&file);
                parse_signature_file(&file).map_err(|cause| {
                    bad(&signature_path, cause.to_string()).remedy("sign the manifest with minisign -Sm")
                })?
            }
        };
        let size = text.len() + signature.len();
        if size > MANIFEST_SIGNED_SIZE_MAX {
            let cause =
                format!("with its signature it has {size} bytes, at most {MANIFEST_SIGNED_SIZE_MAX} fit a packet");
            return Err(bad(&path, cause).remedy("choose a shorter name or trusted comment (minisign -t)"));
        }
        Ok(Self { path, text, manifest, signature })
    }

    /// Where it was found.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Which key the signature names, if there is one.
    #[must_use]
    pub fn key_id(&self) -> Option<KeyId> {
        Signature::parse(&self.signature).ok().map(|signature| signature.key_id())
    }

    /// Tells whether the manifest is about the file at `file`, whose digest and size are those of `tree`.
    ///
    /// # Errors
    /// [`Exit::BadData`] if it is about something else.
    pub fn check_object(&self, file: &Path, tree: &ObjectTree) -> Result<(), Failure> {
        let (said, found) = (self.manifest.size.bytes(), tree.size().bytes());
        let cause = match () {
            () if said != found => format!("says {said} bytes, but {} has {found}", shown(file)),
            () if self.manifest.digest != tree.digest() => {
                format!("says blake3 {}, but {} has {}", self.manifest.digest, shown(file), tree.digest())
            }
            () => return Ok(()),
        };
        Err(bad(&self.path, cause).remedy(WRITE_AGAIN))
    }

    /// The symbol size to send with, where the packets have room for `largest`, and with so many repair symbols.
    ///
    /// # Errors
    /// [`Exit::BadData`] if receivers would have to refuse every packet.
    pub(super) fn check_session(&self, largest: SymbolSize, repair_percent: u16) -> Result<SymbolSize, Failure> {
        let cannot = |cause: String, remedy: &str| Err(bad(&self.path, cause).remedy(remedy));
        if self.manifest.code.is_some_and(|code| code != CodeId::REED_SOLOMON) {
            return cannot("allows only a code that is not sent".to_owned(), WRITE_AGAIN);
        }
        if let Some(percent) = self.manifest.repair_max.filter(|percent| *percent < repair_percent) {
            return cannot(format!("allows at most {percent} % of repair symbols"), "see --fec");
        }
        match self.manifest.symbol_size {
            Some(size) if size > largest => cannot(
                format!("allows only symbols of {} bytes, which do not fit the packets", size.bytes()),
                "see --mtu",
            ),
            named => Ok(named.unwrap_or(largest)),
        }
    }

    /// What whoever starts a server should know before receivers find it out.
    pub(super) fn warn(&self, now: u64, report: &mut Report) {
        let path = shown(&self.path);
        if self.signature.is_empty() {
            let text = format!("{path} has no signature beside it: receivers that ask for one will refuse it");
            report.notice("unsigned", &text);
        }
        if self.manifest.expires.is_some_and(|expires| expires <= now) {
            report.notice("expired", &format!("{path} has expired: receivers will refuse it"));
        }
    }
}

/// Where the manifest of a file lies.
#[must_use]
pub fn manifest_path(file: &Path) -> PathBuf {
    with_suffix(file, ".manifest")
}

/// Where minisign puts the signature of a manifest.
pub(super) fn signature_path(manifest: &Path) -> PathBuf {
    with_suffix(manifest, ".minisig")
}

fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = OsString::from(path);
    name.push(suffix);
    name.into()
}

fn exists(path: &Path) -> bool {
    std::fs::symlink_metadata(path).is_ok()
}

fn bad(path: &Path, cause: impl Into<String>) -> Failure {
    Failure::new(Exit::BadData, format!("read {}", shown(path)), cause)
}

/// The whole file; `None` if there is none.
///
/// # Errors
/// [`Exit::BadData`] if it has more than `size_max` bytes, [`Exit::NoInput`] if it cannot be read, or is no regular file.
pub(super) fn read(path: &Path, size_max: usize) -> Result<Option<Vec<u8>>, Failure> {
    let mut bytes = Vec::new();
    let refused = |cause: String| Err(Failure::new(Exit::NoInput, format!("read {}", shown(path)), cause));
    // A fifo does not make it wait, and a terminal does not become ours.
    let flags = libc::O_NONBLOCK | libc::O_NOCTTY;
    let file = match OpenOptions::new().read(true).custom_flags(flags).open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return refused(describe(&error)),
        Ok(file) => file,
    };
    if file.metadata().is_ok_and(|metadata| !metadata.is_file() && !metadata.is_dir()) {
        return refused("is not a regular file".into());
    }
    match file.take(size_max as u64 + 1).read_to_end(&mut bytes) {
        Err(error) => refused(describe(&error)),
        Ok(size) if size > size_max => Err(bad(path, format!("has more than {size_max} bytes"))),
        Ok(_) => Ok(Some(bytes)),
    }
}

#[cfg(test)]
mod tests;
