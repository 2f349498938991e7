//! What fuzzing has found worth keeping, replayed by the ordinary toolchain: every input in `fuzz/corpus`, and in `fuzz/regressions`
//! every one that once broke something. `scripts/fuzz` looks for more.

use std::fs;
use std::panic::catch_unwind;
use std::path::{Path, PathBuf};

#[path = "../fuzz/src/lib.rs"]
mod targets;

/// The inputs of a folder, in the order of their names.
fn inputs(folder: &Path) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(folder) else { return Vec::new() };
    let mut paths: Vec<_> = entries.map(|entry| entry.expect("an entry").path()).collect();
    paths.sort();
    paths
}

#[test]
fn every_input_of_every_corpus_keeps_every_promise() {
    let fuzz = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz");
    let mut broken = Vec::new();
    for (name, target) in targets::TARGETS {
        let corpus = inputs(&fuzz.join("corpus").join(name));
        assert!(corpus.len() >= 10, "{name} has a corpus: {}", corpus.len());
        for path in corpus.iter().chain(&inputs(&fuzz.join("regressions").join(name))) {
            let bytes = fs::read(path).expect("read an input");
            if catch_unwind(|| target(&bytes)).is_err() {
                broken.push(path.clone());
            }
        }
    }
    assert!(broken.is_empty(), "{broken:?}");
}

#[test]
fn packets_of_the_vectors_keep_every_promise() {
    let vectors = inputs(&Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/vectors"));
    let packets: Vec<_> = vectors.iter().filter(|path| path.extension().is_some_and(|end| end == "bin")).collect();
    assert!(packets.len() > 50, "the vectors are found");
    packets.into_iter().for_each(|path| targets::packet(&fs::read(path).expect("read a vector")));
}
