//! What is held of every block, and in which state it is. A block goes from open to verified and never back; everything else
//! returns to open.

use std::collections::VecDeque;

use super::counts::DropReason;
use super::senders::SenderIndex;
use crate::object::Layout;
use crate::types::{BlockIndex, Digest, Esi};

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
    /// Nothing: its bytes are right and on their way to the disk.
    Verified,
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

#[derive(Clone, Copy, Debug)]
struct Block {
    state: State,
    value: Option<Digest>,
    held_count: u16,
    /// Symbols handed out to be stored of which no completion has come.
    in_flight: u16,
    origin: Origin,
    turn: Option<Turn>,
    attempts: u32,
    claimed_zero: bool,
    refuted_zero: bool,
    /// The file had bytes here before, which may be right.
    unchecked: bool,
    /// Something has been written here, so that a hole cannot be assumed.
    touched: bool,
}

const NEW_BLOCK: Block = Block {
    state: State::Open,
    value: None,
    held_count: 0,
    in_flight: 0,
    origin: Origin::Nobody,
    turn: None,
    attempts: 0,
    claimed_zero: false,
    refuted_zero: false,
    unchecked: false,
    touched: false,
};

/// All blocks of an object. Its memory is taken when the object is accepted and does not grow.
#[derive(Debug)]
pub(super) struct Blocks {
    layout: Layout,
    blocks: Vec<Block>,
    held: Vec<u64>,
    words_per_block: usize,
    /// Blocks in one of the states that ask for work, in the order in which they came to it; each at most once.
    work: VecDeque<BlockIndex>,
    verified_count: u32,
    held_bytes: u64,
    in_flight: u64,
}

impl Blocks {
    pub(super) fn new(layout: Layout) -> Self {
        let block_count = layout.block_count() as usize;
        let words_per_block = words_per_block(&layout);
        Self {
            layout,
            blocks: vec![NEW_BLOCK; block_count],
            held: vec![0; words_per_block * block_count],
            words_per_block,
            work: VecDeque::with_capacity(block_count),
            verified_count: 0,
            held_bytes: 0,
            in_flight: 0,
        }
    }

    /// The file had its full size before, and may have right bytes.
    pub(super) fn mark_reused(&mut self) {
        for block in &mut self.blocks {
            block.unchecked = true;
            block.touched = true;
        }
    }

    pub(super) fn layout(&self) -> &Layout {
        &self.layout
    }

    pub(super) fn verified_count(&self) -> u32 {
        self.verified_count
    }

    pub(super) fn is_complete(&self) -> bool {
        self.verified_count == self.layout.block_count()
    }

    /// Bytes of verified blocks and of symbols held.
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

    fn is_held(&self, block: BlockIndex, esi: Esi) -> bool {
        let (word, bit) = self.bit(block, esi);
        self.held.get(word).is_some_and(|word| word & bit != 0)
    }

    fn bit(&self, block: BlockIndex, esi: Esi) -> (usize, u64) {
        (block.0 as usize * self.words_per_block + usize::from(esi.0 / 64), 1 << (esi.0 % 64))
    }

    /// A source symbol has come. `Ok` if it is to be stored: from then on it counts as held.
    pub(super) fn take(&mut self, block: BlockIndex, esi: Esi, sender: SenderIndex) -> Result<(), DropReason> {
        if self.get(block).state != State::Open {
            return Err(DropReason::Done);
        }
        if self.is_held(block, esi) {
            return Err(DropReason::Duplicate);
        }
        let size = u64::from(self.layout.place(block, esi).map_or(0, |place| place.size));
        let (word, bit) = self.bit(block, esi);
        *self.held.get_mut(word).expect("a word for every symbol") |= bit;
        let entry = self.get_mut(block);
        entry.origin = match entry.origin {
            _ if sender == SenderIndex::UNLISTED => Origin::Several,
            Origin::Nobody => Origin::One(sender),
            Origin::One(sole) if sole == sender => Origin::One(sole),
            Origin::One(_) | Origin::Several => Origin::Several,
        };
        entry.held_count += 1;
        entry.in_flight += 1;
        entry.touched = true;
        // What was in the file before has been overwritten in part.
        entry.unchecked = false;
        self.held_bytes += size;
        self.in_flight += 1;
        Ok(())
    }

    /// `count` symbols of the block have been written.
    pub(super) fn stored(&mut self, block: BlockIndex, count: u16) {
        let entry = self.get_mut(block);
        entry.in_flight = entry.in_flight.checked_sub(count).expect("no more completions than stores");
        self.in_flight -= u64::from(count);
        self.advance(block);
    }

    /// A symbol could not be written: it is needed again.
    pub(super) fn store_failed(&mut self, block: BlockIndex, esi: Esi) {
        let (word, bit) = self.bit(block, esi);
        if let Some(word) = self.held.get_mut(word) {
            *word &= !bit;
        }
        let size = u64::from(self.layout.place(block, esi).map_or(0, |place| place.size));
        self.held_bytes -= size;
        self.get_mut(block).held_count -= 1;
        self.stored(block, 1);
    }

    /// The block's value is proven, and its zero bit is as given.
    pub(super) fn prove(&mut self, block: BlockIndex, value: Digest, claims_zero: bool) {
        let entry = self.get_mut(block);
        entry.value = Some(value);
        entry.claimed_zero |= claims_zero;
        self.advance(block);
    }

    /// An object of one block needs no value from elsewhere: look at what was in the file before.
    pub(super) fn check_unproven(&mut self, block: BlockIndex) {
        if self.get(block).unchecked {
            self.ask(block, State::Checking);
        }
    }

    /// Asks for the work that the block has become ready for, if any.
    fn advance(&mut self, block: BlockIndex) {
        let entry = *self.get(block);
        if entry.state != State::Open || entry.in_flight > 0 {
            return;
        }
        let is_full = entry.held_count == self.layout.source_symbol_count(block);
        let has_value = entry.value.is_some() || self.layout.block_count() == 1;
        if !has_value {
            return;
        }
        if entry.claimed_zero && !entry.refuted_zero {
            self.ask(block, State::HashingZeroes);
        } else if is_full {
            self.ask(block, State::Hashing);
        } else if entry.unchecked {
            self.ask(block, State::Checking);
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

    /// The block is as claimed: all zeroes. Whether its bytes must be made so first.
    pub(super) fn zero_confirmed(&mut self, block: BlockIndex) {
        if self.get(block).touched {
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
        let entry = self.get_mut(block);
        entry.unchecked = false;
        entry.state = State::Open;
        self.advance(block);
    }

    /// The bytes are right.
    pub(super) fn verified(&mut self, block: BlockIndex) {
        self.forget(block);
        let size = u64::from(self.layout.block_size(block));
        self.get_mut(block).state = State::Verified;
        self.verified_count += 1;
        self.held_bytes += size;
    }

    /// Whether no store of the block is under way.
    pub(super) fn is_idle_block(&self, block: BlockIndex) -> bool {
        self.get(block).in_flight == 0
    }

    /// All symbols of an open block are needed again.
    pub(super) fn empty(&mut self, block: BlockIndex) {
        self.forget(block);
    }

    /// The bytes are wrong, or cannot be read: all of them are needed again.
    pub(super) fn failed(&mut self, block: BlockIndex) {
        self.forget(block);
        self.get_mut(block).state = State::Open;
    }

    fn forget(&mut self, block: BlockIndex) {
        let held = (0..self.layout.source_symbol_count(block)).map(Esi).filter(|&esi| self.is_held(block, esi));
        let bytes: u64 = held.filter_map(|esi| self.layout.place(block, esi)).map(|place| u64::from(place.size)).sum();
        self.held_bytes -= bytes;
        let first = block.0 as usize * self.words_per_block;
        if let Some(words) = self.held.get_mut(first..first + self.words_per_block) {
            words.fill(0);
        }
        let entry = self.get_mut(block);
        entry.held_count = 0;
        entry.origin = Origin::Nobody;
    }

    /// From now on symbols have another size. Verified blocks stay; a block that is being looked at is looked at to the end.
    pub(super) fn relayout(&mut self, layout: Layout) {
        assert!(self.is_idle(), "no store may be under way");
        for block in (0..self.layout.block_count()).map(BlockIndex) {
            if self.state(block) == State::Verified {
                continue;
            }
            self.forget(block);
            self.get_mut(block).turn = None;
        }
        self.layout = layout;
        self.words_per_block = words_per_block(&layout);
        self.held = vec![0; self.words_per_block * self.blocks.len()];
    }
}

fn words_per_block(layout: &Layout) -> usize {
    usize::from(layout.source_symbol_count(BlockIndex(0))).div_ceil(64)
}
