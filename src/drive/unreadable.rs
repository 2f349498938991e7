//! Blocks that the disk could not read back. To write a sector anew often mends it, so such a block is received again, a few times.

use std::collections::BTreeMap;
use std::io;

use crate::types::BlockIndex;

/// A block that could not be read more often is given up: once as it was found, once slot by slot, once received anew.
const TIMES_MAX: u32 = 3;
/// With more blocks that cannot be read, the disk is failing.
const BLOCK_COUNT_MAX: usize = 64;

/// How often which blocks could not be read.
#[derive(Debug, Default)]
pub(super) struct Unreadable(BTreeMap<BlockIndex, u32>);

impl Unreadable {
    /// Reading `block` has failed.
    ///
    /// # Errors
    /// `error`, if there is no point in trying again.
    pub(super) fn note(&mut self, block: BlockIndex, error: io::Error) -> io::Result<()> {
        if !error.raw_os_error().is_some_and(is_of_the_medium) {
            return Err(error);
        }
        if self.0.len() >= BLOCK_COUNT_MAX && !self.0.contains_key(&block) {
            return Err(error);
        }
        let times = self.0.entry(block).or_default();
        *times += 1;
        if *times > TIMES_MAX { Err(error) } else { Ok(()) }
    }
}

/// Whether it is the medium that fails, and perhaps in one place only: what a file system says, and what the block layer says of sectors that cannot
/// be read or do not match their checksums (block/blk-core.c, blk_errors).
fn is_of_the_medium(number: i32) -> bool {
    matches!(number, libc::EIO | libc::ENODATA | libc::EILSEQ)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn failed(number: i32) -> io::Error {
        io::Error::from_raw_os_error(number)
    }

    #[test]
    fn block_is_tried_three_times() {
        let mut unreadable = Unreadable::default();
        assert!((0..3).all(|_| unreadable.note(BlockIndex(7), failed(libc::EIO)).is_ok()));
        assert!(unreadable.note(BlockIndex(8), failed(libc::ENODATA)).is_ok());
        assert!(unreadable.note(BlockIndex(9), failed(libc::EILSEQ)).is_ok());
        assert!(unreadable.note(BlockIndex(10), failed(libc::ENODEV)).is_err());
        assert!(unreadable.note(BlockIndex(7), failed(libc::EIO)).is_err());
    }

    #[test]
    fn disk_with_too_many_bad_blocks_is_given_up_and_so_is_another_error() {
        let mut unreadable = Unreadable::default();
        assert!(unreadable.note(BlockIndex(0), io::ErrorKind::UnexpectedEof.into()).is_err());
        assert!((0..64).all(|block| unreadable.note(BlockIndex(block), failed(libc::EIO)).is_ok()));
        assert!(unreadable.note(BlockIndex(64), failed(libc::EIO)).is_err());
        assert!(unreadable.note(BlockIndex(63), failed(libc::EIO)).is_ok());
    }
}
