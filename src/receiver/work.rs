//! Work that the machine asks for, and the answers to it.

use super::{Notice, Phase, Receiver, SlotEntry, object};
use crate::object::Layout;
use crate::types::{BlockIndex, Digest, Esi, ObjectSize, Time};

/// Work on a block that takes too long for the thread that takes datagrams. Each is answered once.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Work {
    /// Read the block back and compute its value: `handle_hashed`.
    Hash {
        /// The block.
        block: BlockIndex,
        /// The object's size.
        size: ObjectSize,
    },
    /// Compute the value that the block would have if it were all zeroes: `handle_hashed`.
    HashZeroes {
        /// The block.
        block: BlockIndex,
        /// The object's size.
        size: ObjectSize,
    },
    /// Make the block's bytes zero: `handle_cleared`.
    Clear {
        /// The block.
        block: BlockIndex,
        /// The object's size.
        size: ObjectSize,
    },
    /// Read the block back and tell in which of these slots are other bytes than their hash says: `handle_slots_checked`. Other slots of
    /// the block may be written to meanwhile.
    CheckSlots {
        /// The block.
        block: BlockIndex,
        /// The object's size.
        size: ObjectSize,
        /// What the slots are said to hold.
        slots: Vec<SlotEntry>,
    },
    /// Read the block back, decode its symbols into memory, and compute the value of what comes out: `handle_hashed`. The bytes are to be
    /// kept until `WriteDecoded` asks for them, which it does at once if they are right.
    Decode {
        /// The block.
        block: BlockIndex,
        /// Where its symbols lie.
        layout: Layout,
        /// The symbols that are in its slots.
        slots: Vec<SlotEntry>,
        /// The symbol that the caller keeps; it is not needed afterwards.
        kept: Option<Esi>,
    },
    /// Write what was decoded to all slots of the block that did not hold their own source symbols: `handle_written`.
    WriteDecoded {
        /// The block.
        block: BlockIndex,
        /// The object's size.
        size: ObjectSize,
    },
}

impl Work {
    /// The block that it is about.
    #[must_use]
    pub fn block(&self) -> BlockIndex {
        match self {
            Self::Hash { block, .. }
            | Self::HashZeroes { block, .. }
            | Self::Clear { block, .. }
            | Self::CheckSlots { block, .. }
            | Self::Decode { block, .. }
            | Self::WriteDecoded { block, .. } => *block,
        }
    }
}

impl Receiver {
    /// The next piece of work, if there is any. The caller bounds how many it has under way.
    pub fn poll_work(&mut self) -> Option<Work> {
        match &mut self.phase {
            Phase::Receiving(object) => object.poll_work(),
            _ => None,
        }
    }

    /// Whether `Work::Hash` waits for this block, whose last symbols have just been stored; it is then not asked for any more: for a caller
    /// that has the value already, and answers with that at once.
    pub fn take_hash_work(&mut self, block: BlockIndex) -> bool {
        match &mut self.phase {
            Phase::Receiving(object) => object.blocks.take_hash_work(block),
            _ => false,
        }
    }

    /// The answer to `Work::Hash`, `Work::HashZeroes` and `Work::Decode`: the value, or `None` if the block could not be read, or its
    /// symbols not be decoded.
    pub fn handle_hashed(&mut self, now: Time, block: BlockIndex, value: Option<Digest>) {
        let Phase::Receiving(object) = &mut self.phase else { return };
        if object.hashed(now, block, value, &mut self.senders) == object::Outcome::Failed {
            self.counts.blocks_failed += 1;
            self.notice(Notice::BlockFailed(block));
        }
        self.settle();
    }

    /// The answer to `Work::Clear`; `cleared`: the bytes are zero.
    pub fn handle_cleared(&mut self, block: BlockIndex, cleared: bool) {
        let Phase::Receiving(object) = &mut self.phase else { return };
        if cleared {
            object.blocks.verified(block);
        } else {
            object.blocks.failed(block);
        }
        self.settle();
    }

    /// The other answer to `Work::CheckSlots`: the block could not be read.
    pub fn handle_slots_unreadable(&mut self, block: BlockIndex) {
        if let Phase::Receiving(object) = &mut self.phase {
            object.blocks.unreadable(block);
        }
    }

    /// The answer to `Work::CheckSlots`: those of the slots that do not hold what they are said to.
    pub fn handle_slots_checked(&mut self, block: BlockIndex, wrong: &[SlotEntry]) {
        if let Phase::Receiving(object) = &mut self.phase {
            object.blocks.checked(block, wrong);
        }
    }

    /// The answer to `Work::WriteDecoded`; `written`: every byte of the block is in its place.
    pub fn handle_written(&mut self, block: BlockIndex, written: bool) {
        let Phase::Receiving(object) = &mut self.phase else { return };
        object.written(block, written);
        self.settle();
    }
}
