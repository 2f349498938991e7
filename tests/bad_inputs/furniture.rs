//! The folder in which bad inputs are tried: files of every kind that is of no use, and one that is good.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

use nix::sys::stat::Mode;

use crate::signer::{FIRST, TestKey};

const SIZE: usize = 5000;

/// A file of this name, with a manifest and a signature beside it, in the forms that they are given.
fn described(folder: &Path, name: &str, manifest: Option<&[u8]>, signature: Option<&[u8]>) {
    let write = |suffix: &str, bytes: &[u8]| {
        fs::write(folder.join(format!("{name}{suffix}")), bytes).expect("write a file");
    };
    write("", &[7; SIZE]);
    manifest.iter().for_each(|text| write(".manifest", text));
    signature.iter().for_each(|file| write(".manifest.minisig", file));
}

/// The text of a manifest (docs/PROTOCOL.md, section 5.2), with these members between others.
fn text(size: usize, digest: &blake3::Hash, critical: &str, rest: &str) -> Vec<u8> {
    format!(r#"{{"blake3":"{digest}",{critical}"name":"n",{rest}"size":{size}}}"#).into_bytes()
}

fn minisig(signature: &[u8]) -> Vec<u8> {
    TestKey::signature_file(signature).into_bytes()
}

/// Makes everything that a command of the table names.
pub(crate) fn fill(folder: &Path) {
    let at = |name: &str| folder.join(name);
    for (name, bytes) in [("file", &[7; SIZE][..]), ("empty", b""), ("note", b"hello\n")] {
        fs::write(at(name), bytes).expect("write a file");
    }
    for name in ["folder", "home", "unwanted.manifest"] {
        fs::create_dir(at(name)).expect("make a folder");
    }
    for name in ["fifo", "stuck.manifest"] {
        nix::unistd::mkfifo(&at(name), Mode::S_IRWXU).expect("make a fifo");
    }
    symlink("nowhere", at("dangling")).expect("make a link");
    fs::write(at("unwanted"), [7; SIZE]).and_then(|()| fs::write(at("stuck"), [7; SIZE])).expect("write a file");
    fs::write(at("secret.key"), include_str!("../keys/first.key")).expect("write a key");
    fs::write(at("first.pub"), include_str!("../keys/first.pub")).expect("write a key");
    let content = "iotupc state 2\nversion 1\n";
    fs::write(at("newer-state"), format!("{content}blake3 {}\n", blake3::hash(content.as_bytes()))).expect("write");

    let digest = blake3::hash(&[7; SIZE]);
    let good = text(SIZE, &digest, "", "");
    let signature = minisig(&FIRST.sign(&good, ""));
    let long_comment = minisig(&FIRST.sign(&good, &"x".repeat(257)));
    let legacy = minisig(&FIRST.sign_legacy(&good, ""));
    let expired = text(SIZE, &digest, r#""created":1,"expires":2,"#, "");
    let altered = good.clone().replace_end(r#","version":9}"#);
    let symbols = good.clone().replace_end(r#","symbol_size":8896}"#);
    let sparing = text(SIZE, &digest, "", r#""repair_max":10,"#);
    let padded: Vec<u8> = [&good[..], b"\n"].concat();
    let with = |critical: &str, rest: &str| text(SIZE, &digest, critical, rest);
    for (name, manifest, signature) in [
        ("signed", Some(&good[..]), Some(&signature[..])),
        ("unsigned", Some(&good), None),
        ("altered", Some(&altered), Some(&signature)),
        ("expired", Some(&expired), Some(&minisig(&FIRST.sign(&expired, "")))),
        ("too-short", Some(&text(SIZE + 1, &digest, "", "")), None),
        ("other", Some(&text(SIZE, &blake3::hash(b"another"), "", "")), None),
        ("padded", Some(&padded), None),
        ("twice", Some(&with("", r#""name":"n","#)), None),
        ("critical", Some(&with(r#""critical":["x"],"#, "")), None),
        ("large", Some(&[b' '; 881]), None),
        ("symbols", Some(&symbols), Some(&minisig(&FIRST.sign(&symbols, "")))),
        ("sparing", Some(&sparing), Some(&minisig(&FIRST.sign(&sparing, "")))),
        ("lonely", None, Some(&signature)),
        ("legacy", Some(&good), Some(&legacy)),
        ("talkative", Some(&good), Some(&long_comment)),
        ("blank", Some(&good), Some(b"")),
        ("scribbled", Some(&good), Some(b"untrusted comment: x\nAAAA\ntrusted comment: y\nAAAA\n")),
        ("endless", Some(&good), Some(&[b'x'; 9000])),
    ] {
        described(folder, name, manifest, signature);
    }
}

trait ReplaceEnd {
    fn replace_end(self, end: &str) -> Self;
}

impl ReplaceEnd for Vec<u8> {
    /// With this in place of the last byte.
    fn replace_end(mut self, end: &str) -> Self {
        self.pop();
        self.extend(end.bytes());
        self
    }
}

/// Whether a folder is as it was when it had just been filled.
pub(crate) fn is_untouched(folder: &Path) -> bool {
    let other = tempfile::tempdir().expect("make a folder");
    fill(other.path());
    listing(folder) == listing(other.path())
}

/// Names, lengths and contents.
fn listing(folder: &Path) -> Vec<(std::ffi::OsString, u64, Option<blake3::Hash>)> {
    let entries = fs::read_dir(folder).expect("list a folder").map(|entry| entry.expect("an entry"));
    let one = |entry: fs::DirEntry| {
        let metadata = entry.metadata().expect("what it is");
        let digest = metadata.is_file().then(|| blake3::hash(&fs::read(entry.path()).expect("read a file")));
        // How long folders are is their own affair.
        (entry.file_name(), if metadata.is_file() { metadata.len() } else { 0 }, digest)
    };
    let mut listing: Vec<_> = entries.map(one).collect();
    listing.sort_by(|one, other| one.0.cmp(&other.0));
    listing
}
