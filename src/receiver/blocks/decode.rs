//! Rebuilding a block of which enough symbols are held, but not all in their own places.

use super::{Bits, Blocks, State};
use crate::receiver::slots::{Mark, SlotEntry};
use crate::types::{BlockIndex, Esi};

impl Blocks {
    /// The symbols of which the block is to be rebuilt: those in its slots, and the one that the caller keeps.
    pub(in crate::receiver) fn symbols(&self, block: BlockIndex) -> (Vec<SlotEntry>, Option<Esi>) {
        let kept = self.get(block).kept;
        // The map is not ours alone: what it says now may not be what was written there.
        let mut seen = Bits::new(1, self.held.bit_count());
        kept.iter().for_each(|esi| seen.set(BlockIndex(0), esi.0));
        let mut entries = Vec::with_capacity(usize::from(self.get(block).held_count));
        let Some(slots) = &self.slots else { return (entries, kept) };
        for slot in 0..self.layout.source_symbol_count(block) {
            let entry = slots.entry(block, slot).filter(|_| self.occupied.get(block, slot));
            if let Some(entry) = entry.filter(|entry| !seen.get(BlockIndex(0), entry.esi.0)) {
                seen.set(BlockIndex(0), entry.esi.0);
                entries.push(entry);
            }
        }
        (entries, kept)
    }

    /// The symbols decode to the right bytes, which are to be written where they are not yet.
    ///
    /// The map keeps what it says of the slots to be overwritten: whoever goes on after the program was killed meanwhile checks each by
    /// its hash, and needs again only those that were overwritten. To forget them here would cost all of them, of every block that
    /// waits to be written, at the very moment at which most blocks become whole.
    pub(in crate::receiver) fn decoded(&mut self, block: BlockIndex) {
        if let Some(slots) = &self.slots {
            slots.mark(block, Mark::Writing);
        }
        self.get_mut(block).state = State::Writing;
        // Before everything else, because the caller keeps the bytes until then.
        self.work.push_front(block);
    }

    /// What was decoded is in its place: the symbols that were in the places of others are there no longer.
    pub(super) fn forget_displaced(&self, block: BlockIndex) {
        let Some(slots) = &self.slots else { return };
        for slot in 0..self.layout.source_symbol_count(block) {
            if slots.entry(block, slot).is_none_or(|entry| entry.esi.0 != slot) {
                slots.clear_slot(block, slot);
            }
        }
    }
}
