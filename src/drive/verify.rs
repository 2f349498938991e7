//! Checks a manifest, its signature and its file without a network: what receivers would say, before anything is sent.

use std::path::{Path, PathBuf};

use super::digest_file::{self, CacheFolder};
use super::keys;
use super::manifest_file::ManifestFile;
use super::report::{self, Report};
use crate::failure::{Exit, Failure, shown};
use crate::manifest::{NotAuthentic, Signature};
use crate::sys::{SourceFile, clock};

/// What to check.
#[derive(Clone, Debug)]
pub struct VerifyOptions {
    /// The manifest.
    pub manifest: PathBuf,
    /// The file; `None`: the one that the manifest's name names, if it is there.
    pub file: Option<PathBuf>,
    /// The keys of which one must have signed, as the user names them; none: whoever signed.
    pub public_keys: Vec<PathBuf>,
}

/// Checks all there is, and returns the lines that say what was found.
///
/// # Errors
/// [`Exit::NoInput`] if something cannot be read, [`Exit::BadData`] if the manifest, the form of its signature or the file is not what it
/// must be, [`Exit::NotAuthentic`] if no key that was given signed the manifest, or if it has expired.
pub fn verify(options: &VerifyOptions, report: &mut Report) -> Result<String, Failure> {
    let keys = keys::load(&options.public_keys)?;
    let found = ManifestFile::open(&options.manifest)?;
    let manifest = &found.manifest;
    let mut lines = vec![format!(
        "{}: {}, version {}, {}, blake3 {}",
        shown(&options.manifest),
        manifest.name,
        manifest.version,
        report::bytes(manifest.size.bytes()),
        manifest.digest
    )];
    let not_authentic = |cause: &str| {
        Failure::new(Exit::NotAuthentic, format!("verify {}", shown(&options.manifest)), cause.to_owned())
    };
    if keys.is_empty() {
        lines.push(match found.key_id() {
            Some(key) => format!("not authenticated: key {key} is said to have signed it (see --pubkey)"),
            None => "not authenticated: it has no signature".to_owned(),
        });
    } else {
        let signature = Signature::parse(&found.signature)
            .map_err(|_| not_authentic("it has no signature beside it").remedy("sign it with minisign -Sm"))?;
        let voucher = signature.verify(&found.text, &keys).map_err(|cause| {
            let remedy = match cause {
                NotAuthentic::UnknownKey(_) => "see --pubkey",
                NotAuthentic::WrongSignature => "sign it again with minisign -Sm",
            };
            not_authentic(&cause.to_string()).remedy(remedy)
        })?;
        lines.push(format!("authenticated by key {}, trusted comment: {}", voucher.key_id(), voucher.comment()));
        if manifest.expires.is_some_and(|expires| expires <= clock::unix_seconds()) {
            return Err(not_authentic("it has expired").remedy("see iotup manifest --expires"));
        }
    }
    if let Some(file) = options.file.clone().or_else(|| file_beside(&options.manifest)) {
        let source = SourceFile::open(&file)?;
        let tree = digest_file::tree(&source, &file, &CacheFolder::default(), report)?;
        found.check_object(&file, &tree)?;
        lines.push(format!("{}: matches", shown(&file)));
    }
    lines.push(String::new());
    Ok(lines.join("\n"))
}

/// The file whose manifest has this name, if it is there.
fn file_beside(manifest: &Path) -> Option<PathBuf> {
    let is_manifest = manifest.extension().is_some_and(|extension| extension == "manifest");
    Some(manifest.with_extension("")).filter(|file| is_manifest && file.exists())
}
