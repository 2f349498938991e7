use super::*;
use crate::digest::block_value;
use crate::manifest::{DisplayName, Members};
use crate::types::{BlockIndex, ObjectSize};
use std::fs;

use crate::manifest::signer::{FIRST, TestKey};

fn tree(bytes: &[u8]) -> ObjectTree {
    let size = ObjectSize::new(bytes.len() as u64).unwrap();
    ObjectTree::new(size, vec![block_value(size, BlockIndex(0), bytes)], vec![false])
}

fn text(bytes: &[u8]) -> String {
    let tree = tree(bytes);
    let members = Members::new(tree.digest(), tree.size(), DisplayName::new("object").unwrap());
    members.manifest().unwrap().to_text()
}

fn signature_file(text: &str, comment: &str) -> String {
    TestKey::signature_file(&FIRST.sign(text.as_bytes(), comment))
}

#[test]
fn manifest_and_signature_are_found_beside_the_file() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("object");
    assert_eq!(ManifestFile::beside(&file).unwrap(), None);
    let text = text(b"abc");
    fs::write(folder.path().join("object.manifest"), &text).unwrap();
    let found = ManifestFile::beside(&file).unwrap().unwrap();
    assert_eq!((found.text.as_slice(), found.signature.len(), found.key_id()), (text.as_bytes(), 0, None));
    fs::write(folder.path().join("object.manifest.minisig"), signature_file(&text, "")).unwrap();
    let found = ManifestFile::beside(&file).unwrap().unwrap();
    assert_eq!(found.signature, FIRST.sign(text.as_bytes(), ""));
    assert_eq!(ManifestFile::open(found.path()).unwrap(), found);
    assert!(found.check_object(&file, &tree(b"abc")).is_ok());
    for other in [tree(b"abd"), tree(b"abcd")] {
        let failure = found.check_object(&file, &other).unwrap_err();
        assert_eq!(failure.exit, Exit::BadData, "{failure}");
    }
}

#[test]
fn what_does_not_go_together_is_said() {
    let text = text(b"abc");
    let long = format!("{}{}", text, " ".repeat(MANIFEST_SIGNED_SIZE_MAX));
    let good = signature_file(&text, "");
    let cases: [(Option<&str>, Option<&str>, &str); 7] = [
        (None, Some(&good), "there is no"),
        (Some(""), None, "canonical form"),
        (Some(&format!("{text}\n")), Some(&good), "canonical form"),
        (Some(&long), None, "more than 880 bytes"),
        (Some(&text), Some(""), "not a minisign signature"),
        (Some(&text), Some(&signature_file(&text, &"x".repeat(257))), "257 bytes, at most 256"),
        (Some(&text), Some(&"x".repeat(9000)), "more than 8192 bytes"),
    ];
    for (manifest, signature, cause) in cases {
        let folder = tempfile::tempdir().unwrap();
        for (suffix, content) in [("manifest", manifest), ("manifest.minisig", signature)] {
            if let Some(content) = content {
                fs::write(folder.path().join(format!("object.{suffix}")), content).unwrap();
            }
        }
        let failure = ManifestFile::beside(&folder.path().join("object")).unwrap_err();
        assert_eq!(failure.exit, Exit::BadData, "{failure}");
        assert!(failure.to_string().contains(cause), "{failure}");
    }
    let folder = tempfile::tempdir().unwrap();
    fs::create_dir(folder.path().join("object.manifest")).unwrap();
    assert_eq!(ManifestFile::beside(&folder.path().join("object")).unwrap_err().exit, Exit::NoInput);
    assert_eq!(ManifestFile::open(&folder.path().join("none")).unwrap_err().exit, Exit::NoInput);
}
