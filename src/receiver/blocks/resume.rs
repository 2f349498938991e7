//! Going on from an earlier attempt: what its sidecar map claims, checked before it counts.
//!
//! A block that is marked as verified, or as being written, is looked at as a whole. Where that fails, and for all other blocks, every
//! claimed slot is checked by its own hash, in the background. Until then the block takes symbols for the other slots, and cannot go on.

use super::{Blocks, Check, Origin, slot_bits};
use crate::receiver::slots::{Mark, SlotEntry, SlotMemory, Slots};
use crate::types::{BlockIndex, CodeId, ObjectId};

impl Blocks {
    /// The target is there with its map. `reused`: the target had its full size before, and may have right bytes.
    pub(in crate::receiver) fn attach(
        &mut self,
        memory: Box<dyn SlotMemory>,
        reused: bool,
        id: ObjectId,
        code: CodeId,
        decodes: bool,
    ) {
        if self.counts_only {
            return;
        }
        let slots = Slots::new(self.layout, memory);
        let is_known = slots.is_of(id, code);
        if !reused || !is_known {
            slots.clear();
            for (block, entry) in (0..).map(BlockIndex).zip(&mut self.blocks).filter(|_| reused) {
                // Without a map any block may be right. It is noted in the new one, lest a restart forget it.
                entry.marked = true;
                slots.mark(block, Mark::Verified);
            }
            slots.own(id, code);
        }
        self.slots = Some(slots);
        if !reused {
            return;
        }
        self.blocks.iter_mut().for_each(|entry| entry.touched = true);
        if is_known {
            self.claimed = slot_bits(&self.layout);
            (0..self.layout.block_count()).for_each(|block| self.load(BlockIndex(block), decodes));
        }
        if self.layout.block_count() == 1 {
            // An object of one block needs no value from elsewhere.
            self.advance(BlockIndex(0));
        }
    }

    /// Takes up what the map claims of a block, as far as it can be true.
    fn load(&mut self, block: BlockIndex, decodes: bool) {
        let slots = self.slots.as_ref().expect("it has just been attached");
        let marked = slots.is_marked(block, Mark::Verified) || slots.is_marked(block, Mark::Writing);
        let (mut held, mut displaced, mut bytes) = (0, 0, 0);
        for slot in 0..self.layout.source_symbol_count(block) {
            let entry = slots
                .entry(block, slot)
                .filter(|entry| (decodes || entry.esi.0 == slot) && !self.held.get(block, entry.esi.0));
            let Some(entry) = entry else {
                slots.clear_slot(block, slot);
                continue;
            };
            self.held.set(block, entry.esi.0);
            self.occupied.set(block, slot);
            self.claimed.set(block, slot);
            held += 1;
            displaced += u16::from(entry.esi.0 != slot);
            bytes += u64::from(self.slot_size(block, slot));
        }
        self.held_bytes += bytes;
        let entry = self.get_mut(block);
        (entry.held_count, entry.displaced_count, entry.marked) = (held, displaced, marked);
        if held > 0 {
            // Nobody knows who sent them: nobody is to be credited with the block.
            entry.origin = Origin::Several;
        }
        if held > 0 && !marked {
            self.ask_for_check(block);
        }
    }

    fn ask_for_check(&mut self, block: BlockIndex) {
        self.get_mut(block).check = Check::Waiting;
        self.checks.push_back(block);
    }

    /// The digest of a marked block is not right: what else the map claims of it remains to be checked.
    pub(super) fn unmark(&mut self, block: BlockIndex) {
        if !std::mem::take(&mut self.get_mut(block).marked) {
            return;
        }
        if let Some(slots) = &self.slots {
            slots.unmark(block, Mark::Verified);
            slots.unmark(block, Mark::Writing);
        }
        if self.get(block).held_count > 0 {
            self.ask_for_check(block);
        }
    }

    /// The next block of which claimed slots are to be checked, with what they are said to hold.
    pub(in crate::receiver) fn next_check(&mut self) -> Option<(BlockIndex, Vec<SlotEntry>)> {
        while let Some(block) = self.checks.pop_front() {
            // It may have been emptied meanwhile.
            if self.get(block).check == Check::Waiting {
                self.get_mut(block).check = Check::UnderWay;
                return Some((block, self.claims(block)));
            }
        }
        None
    }

    fn claims(&self, block: BlockIndex) -> Vec<SlotEntry> {
        let Some(slots) = &self.slots else { return Vec::new() };
        let claimed = (0..self.layout.source_symbol_count(block)).filter(|&slot| self.claimed.get(block, slot));
        claimed.filter_map(|slot| slots.entry(block, slot)).collect()
    }

    /// The claimed slots of a block have been looked at: `wrong` do not hold what they are said to hold.
    pub(in crate::receiver) fn checked(&mut self, block: BlockIndex, wrong: &[SlotEntry]) {
        // It may have been emptied meanwhile, and its slots filled anew.
        if self.get(block).check != Check::UnderWay {
            return;
        }
        self.get_mut(block).check = Check::Done;
        for entry in wrong {
            if self.claimed.get(block, entry.slot) && self.held.get(block, entry.esi.0) {
                self.drop_claim(block, entry);
            }
        }
        self.claimed.clear_block(block);
        self.advance(block);
    }

    /// The claimed slots of a block cannot be read: all of them are needed again.
    pub(in crate::receiver) fn unreadable(&mut self, block: BlockIndex) {
        let claims = self.claims(block);
        self.checked(block, &claims);
    }

    fn drop_claim(&mut self, block: BlockIndex, entry: &SlotEntry) {
        if let Some(slots) = &self.slots {
            slots.clear_slot(block, entry.slot);
        }
        self.claimed.clear(block, entry.slot);
        self.occupied.clear(block, entry.slot);
        self.held_bytes -= u64::from(self.slot_size(block, entry.slot));
        self.release(block, entry.esi, entry.slot != entry.esi.0);
    }
}
