//! What fuzzing tries: a function for each target, which takes any bytes and panics if a promise is broken.
//!
//! `fuzz_targets` hands them to libFuzzer; `tests/fuzz_corpus.rs` replays the corpora by them, with nothing but the ordinary
//! toolchain.

#![allow(unreachable_pub, reason = "a module of a test where the corpora are replayed")]

mod code;
mod input;
mod manifest;
mod packet;
mod proofs;
mod receiver;
mod signature;
mod sink;

pub use code::fec;
pub use manifest::manifest;
pub use packet::packet;
pub use proofs::proofs;
pub use receiver::{receiver, slots};
pub use signature::signature;

/// A target: takes any bytes.
pub type Target = fn(&[u8]);

/// Every target by the name of its corpus.
pub const TARGETS: [(&str, Target); 7] = [
    ("fec", fec),
    ("manifest", manifest),
    ("packet", packet),
    ("proofs", proofs),
    ("receiver", receiver),
    ("signature", signature),
    ("slots", slots),
];
