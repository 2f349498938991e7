//! What a sender reads to compose packets: bytes of the object and repair symbols, wherever the caller keeps them.

use super::SentBlock;

/// The symbols of an object.
pub trait Content {
    /// The whole object.
    fn source(&self) -> &[u8];

    /// The repair symbols of a block, R_b of them or more one behind the other, each of the block's shard size. `None` if they
    /// have not been computed yet; once computed they stay.
    fn repair(&self, block: SentBlock) -> Option<&[u8]>;
}

/// The object alone.
impl Content for [u8] {
    fn source(&self) -> &[u8] {
        self
    }

    fn repair(&self, _: SentBlock) -> Option<&[u8]> {
        None
    }
}

/// The object alone.
impl Content for Vec<u8> {
    fn source(&self) -> &[u8] {
        self
    }

    fn repair(&self, _: SentBlock) -> Option<&[u8]> {
        None
    }
}
