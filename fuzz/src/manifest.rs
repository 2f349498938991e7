//! The text of manifests: what is accepted is in its one form.

use iotupd::manifest::{Manifest, parse};

/// The bytes as the text of a manifest.
pub fn manifest(text: &[u8]) {
    let Ok(manifest) = parse(text) else { return };
    let again = manifest.to_text();
    let read: Manifest = parse(again.as_bytes()).expect("what is written can be read");
    assert_eq!(read.ignored(), 0, "only members that are known are written");
    assert_eq!(*read, *manifest, "it says what it said");
    if manifest.ignored() == 0 {
        assert_eq!(again.as_bytes(), text, "what was accepted has one form");
    }
}
