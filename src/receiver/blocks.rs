//! What is held of every block, where, and in which state it is. A block goes from open to verified and never back; everything else
//! returns to open.
//!
//! Any K_b distinct symbols make a block, so any symbol that fits may be in any free slot: a source symbol goes to its own place if that is
//! free, everything else to the free slot that the carousel reaches last. So every new symbol counts, whatever came before it, and
//! nothing is ever moved. A block in which every symbol is in its own place is only hashed; any other is decoded in memory, verified there,
//! and then written where it was not in place.

mod count;
mod decode;
mod resume;

use std::collections::VecDeque;

use super::bits::Bits;
use super::counts::DropReason;
use super::senders::SenderIndex;
use super::slots::{Mark, SlotMemory, Slots, word_count};
use super::{Kept, Store};
use crate::limits::REPAIR_PERCENT_MAX;
use crate::object::Layout;
use crate::types::{BlockIndex, CodeId, Digest, Esi, ObjectId};

/// What a block is waiting for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum State {
    /// Symbols.
    Open,
    /// The value of what has been received.
    Hashing,
    /// The value of what was in the file before.
    Checking,
    /// The value of as many zeroes.
    HashingZeroes,
    /// Its bytes to be made zero.
    Clearing,
    /// The value of what its symbols decode to.
    Decoding,
    /// What has been decoded, and is right, to be written.
    Writing,
    /// Nothing: its bytes are right and on their way to the disk.
    Verified,
    /// Nothing: enough symbols have come, and none was kept.
    Counted,
}

/// Whose symbols a block is made of.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Origin {
    Nobody,
    One(SenderIndex),
    Several,
}

/// Who alone may fill a block that has failed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Turn {
    /// Whose turn it is.
    pub(super) sender: SenderIndex,
    /// The bytes of data that had come for the object when it began.
    pub(super) began: u64,
}

/// How far the check of what the sidecar map claims is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Check {
    /// There is nothing to check.
    Done,
    Waiting,
    UnderWay,
}

/// Where a symbol goes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Placed {
    /// Into a slot.
    Store(Store),
    /// Into the caller's memory.
    Keep(Kept),
}

/// A symbol that has come.
#[derive(Clone, Copy, Debug)]
pub(super) struct Arrival {
    pub(super) block: BlockIndex,
    pub(super) esi: Esi,
    pub(super) size: u16,
    /// What an entry keeps of the hash of its payload.
    pub(super) hash: u16,
    pub(super) sender: SenderIndex,
}

#[derive(Clone, Copy, Debug)]
struct Block {
    state: State,
    value: Option<Digest>,
    /// Distinct symbols held, in slots or kept.
    held_count: u16,
    /// Those of them that are not in their own place.
    displaced_count: u16,
    /// Symbols handed out to be stored of which no completion has come.
    in_flight: u16,
    /// The source symbol that came last: where the carousel is.
    last_source: u16,
    /// The symbol that the caller keeps.
    kept: Option<Esi>,
    origin: Origin,
    turn: Option<Turn>,
    attempts: u32,
    claimed_zero: bool,
    refuted_zero: bool,
    /// The bytes that were in the file before may be right as they are: it takes nothing before its digest has been looked at.
    marked: bool,
    check: Check,
    /// Something has been written here, so that a hole cannot be assumed.
    touched: bool,
}

/// With 6 bits for each of 2,048 slots at most, a block costs less than 2 KiB: 4,096 of them, which are 4 GiB, less than 8 MiB.
const _: () = assert!(size_of::<Block>() + 6 * 2048 / 8 <= 2048);

const NEW_BLOCK: Block = Block {
    state: State::Open,
    value: None,
    held_count: 0,
    displaced_count: 0,
    in_flight: 0,
    last_source: 0,
    kept: None,
    origin: Origin::Nobody,
    turn: None,
    attempts: 0,
    claimed_zero: false,
    refuted_zero: false,
    marked: false,
    check: Check::Done,
    touched: false,
};

/// All blocks of an object. Its memory is taken when the object is accepted and does not grow: some 100 bytes a block and 6 bits a
/// slot, apart from the map.
#[derive(Debug)]
pub(super) struct Blocks {
    layout: Layout,
    blocks: Vec<Block>,
    /// By ESI: the symbols held.
    held: Bits,
    /// By slot: those that hold a symbol, or will when it is written.
    occupied: Bits,
    /// By slot: those of which only the map says what they hold.
    claimed: Bits,
    /// `None` while the caller makes memory for another symbol size.
    slots: Option<Slots>,
    /// Blocks in one of the states that ask for work, in the order in which they came to it; each at most once.
    work: VecDeque<BlockIndex>,
    /// Blocks whose claims are to be checked when there is nothing better to do.
    checks: VecDeque<BlockIndex>,
    verified_count: u32,
    /// Symbols are only counted: there is no map, and no block is ever looked at.
    counts_only: bool,
    counted_count: u32,
    held_bytes: u64,
    in_flight: u64,
}

impl Blocks {
    pub(super) fn new(layout: Layout) -> Self {
        let block_count = layout.block_count() as usize;
        Self {
            layout,
            blocks: vec![NEW_BLOCK; block_count],
            held: held_bits(&layout),
            occupied: slot_bits(&layout),
            claimed: Bits::new(0, 0),
            slots: None,
            work: VecDeque::with_capacity(block_count),
            checks: VecDeque::new(),
            verified_count: 0,
            counts_only: false,
            counted_count: 0,
            held_bytes: 0,
            in_flight: 0,
        }
    }

    pub(super) fn layout(&self) -> &Layout {
        &self.layout
    }

    /// The words that the map needs.
    pub(super) fn word_count(&self) -> usize {
        word_count(&self.layout)
    }

    /// Whether there is a map, if one is needed; without it nothing can be taken.
    pub(super) fn is_attached(&self) -> bool {
        self.slots.is_some() || self.counts_only
    }

    pub(super) fn verified_count(&self) -> u32 {
        self.verified_count
    }

    pub(super) fn is_complete(&self) -> bool {
        self.verified_count == self.layout.block_count()
    }

    /// Bytes of verified blocks and of slots that hold a symbol.
    pub(super) fn held_bytes(&self) -> u64 {
        self.held_bytes
    }

    pub(super) fn is_idle(&self) -> bool {
        self.in_flight == 0
    }

    pub(super) fn state(&self, block: BlockIndex) -> State {
        self.get(block).state
    }

    pub(super) fn value(&self, block: BlockIndex) -> Option<Digest> {
        self.get(block).value
    }

    /// The one stream whose symbols alone made the block.
    pub(super) fn sole_sender(&self, block: BlockIndex) -> Option<SenderIndex> {
        match self.get(block).origin {
            Origin::One(sender) => Some(sender),
            Origin::Nobody | Origin::Several => None,
        }
    }

    /// Symbols held of the block.
    pub(super) fn held_count(&self, block: BlockIndex) -> u16 {
        self.get(block).held_count
    }

    /// Whether the caller is to keep this symbol.
    pub(super) fn keeps(&self, kept: Kept) -> bool {
        self.blocks.get(kept.block.0 as usize).is_some_and(|block| block.kept == Some(kept.esi))
    }

    /// Whose turn it is to fill a block that has failed.
    pub(super) fn turn(&self, block: BlockIndex) -> Option<Turn> {
        self.get(block).turn
    }

    /// The next turn to fill the block begins.
    pub(super) fn restrict(&mut self, block: BlockIndex, turn: Option<Turn>) {
        let entry = self.get_mut(block);
        entry.turn = turn;
        entry.attempts = entry.attempts.saturating_add(1);
    }

    /// How many turns there have been.
    pub(super) fn attempts(&self, block: BlockIndex) -> u32 {
        self.get(block).attempts
    }

    fn get(&self, block: BlockIndex) -> &Block {
        self.blocks.get(block.0 as usize).expect("block indices are checked at the edge")
    }

    fn get_mut(&mut self, block: BlockIndex) -> &mut Block {
        self.blocks.get_mut(block.0 as usize).expect("block indices are checked at the edge")
    }

    fn slot_size(&self, block: BlockIndex, slot: u16) -> u16 {
        self.layout.place(block, Esi(slot)).map_or(0, |place| place.size)
    }

    /// A symbol has come. `Ok` if it is to be stored or kept: from then on it counts as held.
    pub(super) fn take(&mut self, arrival: &Arrival) -> Result<Placed, DropReason> {
        let Arrival { block, esi, hash, .. } = *arrival;
        let entry = self.get(block);
        if entry.state != State::Open || entry.marked {
            return Err(DropReason::Done);
        }
        if self.held.get(block, esi.0) {
            return Err(DropReason::Duplicate);
        }
        let slot_count = self.layout.source_symbol_count(block);
        if entry.held_count >= slot_count {
            return Err(DropReason::Full);
        }
        let placed = match self.slot_for(arrival, slot_count) {
            Some(slot) => {
                let place = self.layout.place(block, Esi(slot)).expect("a slot of the block");
                self.occupied.set(block, slot);
                self.held_bytes += u64::from(place.size);
                self.slots.iter().for_each(|slots| slots.clear_slot(block, slot));
                Placed::Store(Store { block, esi, slot, offset: place.offset, size: arrival.size, hash })
            }
            None if entry.kept.is_none() => Placed::Keep(Kept { block, esi }),
            None => return Err(DropReason::Full),
        };
        self.held.set(block, esi.0);
        self.note_taken(arrival, placed, slot_count);
        Ok(placed)
    }

    fn note_taken(&mut self, arrival: &Arrival, placed: Placed, slot_count: u16) {
        self.in_flight += 1;
        let entry = self.get_mut(arrival.block);
        match placed {
            Placed::Store(store) => {
                entry.displaced_count += u16::from(store.slot != arrival.esi.0);
                entry.touched = true;
            }
            Placed::Keep(_) => {
                entry.displaced_count += 1;
                entry.kept = Some(arrival.esi);
            }
        }
        if arrival.esi.0 < slot_count {
            entry.last_source = arrival.esi.0;
        }
        entry.origin = match entry.origin {
            _ if arrival.sender == SenderIndex::UNLISTED => Origin::Several,
            Origin::Nobody => Origin::One(arrival.sender),
            Origin::One(sole) if sole == arrival.sender => Origin::One(sole),
            Origin::One(_) | Origin::Several => Origin::Several,
        };
        entry.held_count += 1;
        entry.in_flight += 1;
    }

    /// The free slot in which the symbol does least harm: its own, else the one that the carousel, which is at the last source symbol seen,
    /// reaches last.
    fn slot_for(&self, arrival: &Arrival, slot_count: u16) -> Option<u16> {
        let Arrival { block, esi, size, .. } = *arrival;
        if esi.0 < slot_count && !self.occupied.get(block, esi.0) {
            return Some(esi.0);
        }
        let last = slot_count.saturating_sub(1);
        let end = if size > self.slot_size(block, last) { last } else { slot_count };
        let behind = self.get(block).last_source.min(end);
        self.occupied.last_zero_below(block, behind).or_else(|| self.occupied.last_zero_below(block, end))
    }

    /// A symbol has been written.
    pub(super) fn stored(&mut self, store: &Store) {
        if let Some(slots) = &self.slots {
            slots.set(store.block, store.slot, store.esi, store.hash);
        }
        self.completed(store.block);
    }

    /// A symbol could not be written: it is needed again.
    pub(super) fn store_failed(&mut self, store: &Store) {
        self.occupied.clear(store.block, store.slot);
        self.held_bytes -= u64::from(self.slot_size(store.block, store.slot));
        self.release(store.block, store.esi, store.slot != store.esi.0);
        self.completed(store.block);
    }

    /// The caller keeps a symbol, or has no room for it: then it is needed again.
    pub(super) fn kept(&mut self, kept: Kept, is_kept: bool) {
        if !is_kept {
            self.release(kept.block, kept.esi, true);
            self.get_mut(kept.block).kept = None;
        }
        self.completed(kept.block);
    }

    /// A symbol is not held any more.
    fn release(&mut self, block: BlockIndex, esi: Esi, was_displaced: bool) {
        self.held.clear(block, esi.0);
        let entry = self.get_mut(block);
        // What the map says may have changed under us: then the block fails later, and begins anew.
        entry.held_count = entry.held_count.saturating_sub(1);
        entry.displaced_count = entry.displaced_count.saturating_sub(u16::from(was_displaced));
    }

    fn completed(&mut self, block: BlockIndex) {
        let entry = self.get_mut(block);
        entry.in_flight = entry.in_flight.checked_sub(1).expect("no more completions than stores");
        self.in_flight -= 1;
        self.advance(block);
    }

    /// The block's value is proven, and its zero bit is as given.
    pub(super) fn prove(&mut self, block: BlockIndex, value: Digest, claims_zero: bool) {
        let entry = self.get_mut(block);
        entry.value = Some(value);
        entry.claimed_zero |= claims_zero;
        self.advance(block);
    }

    /// Asks for the work that the block has become ready for, if any.
    fn advance(&mut self, block: BlockIndex) {
        let entry = *self.get(block);
        if entry.state != State::Open || entry.in_flight > 0 {
            return;
        }
        let is_full = entry.held_count == self.layout.source_symbol_count(block);
        if self.counts_only && is_full {
            return self.counted(block);
        }
        let has_value = entry.value.is_some() || self.layout.block_count() == 1;
        if !has_value {
            return;
        }
        if entry.claimed_zero && !entry.refuted_zero {
            self.ask(block, State::HashingZeroes);
        } else if entry.marked {
            self.ask(block, State::Checking);
        } else if entry.check != Check::Done {
            // What the map claims comes first: a wrong symbol costs one symbol then, and a block later.
        } else if is_full {
            self.ask(block, if entry.displaced_count == 0 { State::Hashing } else { State::Decoding });
        }
    }

    fn ask(&mut self, block: BlockIndex, state: State) {
        self.get_mut(block).state = state;
        self.work.push_back(block);
    }

    /// The next block that waits for work, with its state.
    pub(super) fn next_work(&mut self) -> Option<(BlockIndex, State)> {
        let block = self.work.pop_front()?;
        Some((block, self.state(block)))
    }

    /// Takes a block out of those that wait for work, if what it waits for is the value of what has been received.
    pub(super) fn take_hash_work(&mut self, block: BlockIndex) -> bool {
        if self.state(block) != State::Hashing {
            return false;
        }
        // It was the last to ask.
        let place = self.work.iter().rposition(|waiting| *waiting == block);
        place.is_some_and(|place| self.work.remove(place).is_some())
    }

    /// The block is as claimed: all zeroes. Whatever else is in it is made so first.
    pub(super) fn zero_confirmed(&mut self, block: BlockIndex) {
        if self.get(block).touched && !self.counts_only {
            self.empty(block);
            self.ask(block, State::Clearing);
        } else {
            self.verified(block);
        }
    }

    /// The block is not all zeroes, and never will be.
    pub(super) fn zero_refuted(&mut self, block: BlockIndex) {
        let entry = self.get_mut(block);
        entry.refuted_zero = true;
        entry.state = State::Open;
        self.advance(block);
    }

    /// The bytes that were in the file before are not those of the block.
    pub(super) fn check_failed(&mut self, block: BlockIndex) {
        self.get_mut(block).state = State::Open;
        self.unmark(block);
        self.advance(block);
    }

    /// The bytes are right.
    pub(super) fn verified(&mut self, block: BlockIndex) {
        if self.state(block) == State::Writing {
            self.forget_displaced(block);
        }
        self.forget(block);
        if let Some(slots) = &self.slots {
            // The entries stay: if the bytes are lost with the power, they tell which are not.
            slots.mark(block, Mark::Verified);
            slots.unmark(block, Mark::Writing);
        }
        let size = u64::from(self.layout.block_size(block));
        self.get_mut(block).state = State::Verified;
        self.verified_count += 1;
        self.held_bytes += size;
    }

    /// Whether no store of the block is under way.
    pub(super) fn is_idle_block(&self, block: BlockIndex) -> bool {
        self.get(block).in_flight == 0
    }

    /// All symbols of a block are needed again.
    pub(super) fn empty(&mut self, block: BlockIndex) {
        self.forget(block);
        if let Some(slots) = &self.slots {
            slots.clear_block(block);
        }
    }

    /// The bytes are wrong, or cannot be read: all of them are needed again.
    pub(super) fn failed(&mut self, block: BlockIndex) {
        self.empty(block);
        self.get_mut(block).state = State::Open;
    }

    fn forget(&mut self, block: BlockIndex) {
        self.held_bytes -= self.occupied_bytes(block);
        self.held.clear_block(block);
        self.occupied.clear_block(block);
        self.claimed.clear_block(block);
        let entry = self.get_mut(block);
        (entry.held_count, entry.displaced_count, entry.kept) = (0, 0, None);
        (entry.marked, entry.check) = (false, Check::Done);
        entry.origin = Origin::Nobody;
    }

    fn occupied_bytes(&self, block: BlockIndex) -> u64 {
        let all = u64::from(self.occupied.count(block)) * u64::from(self.layout.symbol_size().bytes());
        let last = self.layout.source_symbol_count(block).saturating_sub(1);
        let short = u64::from(self.layout.symbol_size().bytes() - self.slot_size(block, last));
        all - if self.occupied.get(block, last) { short } else { 0 }
    }

    /// From now on symbols have another size. Verified blocks stay; a block that is being looked at is looked at to the end. Nothing is
    /// taken before there is a map for the new size.
    pub(super) fn relayout(&mut self, layout: Layout) {
        assert!(self.is_idle(), "no store may be under way");
        for block in (0..self.layout.block_count()).map(BlockIndex) {
            if self.state(block) == State::Verified {
                continue;
            }
            // What has not been looked at yet may be right whatever the size of symbols.
            let marked = self.get(block).marked;
            self.forget(block);
            let entry = self.get_mut(block);
            (entry.turn, entry.marked) = (None, marked);
        }
        // What was to be decoded is gone, unless somebody has it already.
        let blocks = &mut self.blocks;
        self.work.retain(|block| match blocks.get_mut(block.0 as usize) {
            Some(entry) if entry.state == State::Decoding => {
                entry.state = State::Open;
                false
            }
            _ => true,
        });
        self.checks.clear();
        self.layout = layout;
        self.slots = None;
        (self.held, self.occupied, self.claimed) = (held_bits(&layout), slot_bits(&layout), Bits::new(0, 0));
    }

    /// There is a map for the new symbol size.
    pub(super) fn attach_new(&mut self, memory: Box<dyn SlotMemory>, id: ObjectId, code: CodeId) {
        let slots = Slots::new(self.layout, memory);
        slots.clear();
        for (block, entry) in (0..).map(BlockIndex).zip(&self.blocks) {
            match entry.state {
                State::Verified => slots.mark(block, Mark::Verified),
                State::Writing => slots.mark(block, Mark::Writing),
                _ if entry.marked => slots.mark(block, Mark::Verified),
                _ => {}
            }
        }
        slots.own(id, code);
        self.slots = Some(slots);
    }
}

fn slot_bits(layout: &Layout) -> Bits {
    Bits::new(layout.block_count(), layout.source_symbol_count(BlockIndex(0)))
}

fn held_bits(layout: &Layout) -> Bits {
    let first = BlockIndex(0);
    let count = layout.source_symbol_count(first) + layout.repair_symbol_count(first, REPAIR_PERCENT_MAX);
    Bits::new(layout.block_count(), count)
}
