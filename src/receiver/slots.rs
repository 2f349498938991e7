//! The sidecar map: what is in every slot of the target, in memory that outlives the process.
//!
//! A *slot* is the place of one source symbol in the target file. The caller gives the memory, as words of 32 bits in the byte order
//! of the host. Where it is a mapped file it survives the end of the process; after a loss of power any part of it may be stale, and
//! whoever can write the folder may have prepared it. So nothing in it is believed: it only says where to look.
//!
//! | words | content |
//! |---|---|
//! | 0 | magic, which also shows the byte order |
//! | 1 | version |
//! | 2 to 4 | object id |
//! | 5 to 6 | object size, low half first |
//! | 7 | symbol size, and the code id in the upper half |
//! | 8 to 9 | XXH3-64 over words 0 to 7, low half first |
//! | 10 to 15 | zero |
//! | then ceil(n / 32) | bit b mod 32 of word b / 32: block b is verified |
//! | then ceil(n / 32) | the same: decoded symbols are being written into block b |
//! | then one for each slot, block by block | upper half: ESI + 1, or 0 if the slot is empty; lower half: low bits of the XXH3-64 of the payload stored there |
//!
//! The header has the object id and not the whole digest: symbols are kept by id (docs/PROTOCOL.md, section 4), and a forged manifest
//! with the same id that comes first must not cost what was received. Every block is proven by its digest in any case.
//!
//! An entry is set after its symbol was written, and cleared before another symbol overwrites the slot. While decoded symbols are
//! written into a block, which its mark tells, each slot's entry is set anew after it ([`DecodedNotes`]): until then it says what was
//! there before, and fails by its hash where that has been overwritten.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use xxhash_rust::xxh3::xxh3_64;

use crate::object::Layout;
use crate::types::{BlockIndex, CodeId, Esi, ObjectId};

const MAGIC: u32 = 0x107D_5107;
const VERSION: u32 = 1;
/// A cache line.
const HEADER_WORDS: usize = 16;
/// The words that the hash in the header is over.
const HASHED_WORDS: usize = 8;

/// Memory that the caller lends to the machine: words that are its alone while it has them.
pub trait SlotMemory: Send + fmt::Debug {
    /// The words, always as many as were asked for. Their content may be anything, at first and later.
    fn words(&self) -> &[AtomicU32];
}

impl SlotMemory for Vec<AtomicU32> {
    fn words(&self) -> &[AtomicU32] {
        self
    }
}

impl<T: SlotMemory + Sync> SlotMemory for Arc<T> {
    fn words(&self) -> &[AtomicU32] {
        (**self).words()
    }
}

/// Ordinary memory, lost with the process: for tests, and where nothing better is to be had.
#[must_use]
pub fn plain_memory(word_count: usize) -> Box<dyn SlotMemory> {
    let words: Vec<AtomicU32> = std::iter::repeat_with(AtomicU32::default).take(word_count).collect();
    Box::new(words)
}

/// A symbol that is in a slot of a block.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SlotEntry {
    /// The slot.
    pub slot: u16,
    /// The symbol.
    pub esi: Esi,
    /// Where it begins, in bytes from the start of the block.
    pub within: u32,
    /// Its bytes.
    pub size: u16,
    /// [`hash_of`] its bytes when it was stored.
    pub hash: u16,
}

/// What an entry keeps of the XXH3-64 of a payload.
#[must_use]
pub fn hash_of(payload_hash: u64) -> u16 {
    (payload_hash & u64::from(u16::MAX)) as u16
}

/// The words that a map for this layout has; `usize::MAX` if they cannot be counted.
pub(super) fn word_count(layout: &Layout) -> usize {
    let Some(last) = layout.block_count().checked_sub(1) else { return HEADER_WORDS };
    let before = u64::from(last) * u64::from(layout.source_symbol_count(BlockIndex(0)));
    let slots = before + u64::from(layout.source_symbol_count(BlockIndex(last)));
    let words = HEADER_WORDS as u64 + 2 * u64::from(layout.block_count().div_ceil(32)) + slots;
    usize::try_from(words).unwrap_or(usize::MAX)
}

/// The two marks of a block.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Mark {
    Verified,
    Writing,
}

/// The map of one object in symbols of one size.
#[derive(Debug)]
pub(super) struct Slots {
    layout: Layout,
    memory: Box<dyn SlotMemory>,
    slots_per_block: usize,
    first_slot: usize,
    words_per_bitmap: usize,
}

impl Slots {
    /// # Panics
    /// If the memory does not have the words that were asked for.
    pub(super) fn new(layout: Layout, memory: Box<dyn SlotMemory>) -> Self {
        assert_eq!(memory.words().len(), word_count(&layout), "the words that were asked for");
        let words_per_bitmap = layout.block_count().div_ceil(32) as usize;
        let first_slot = HEADER_WORDS + 2 * words_per_bitmap;
        let slots_per_block = usize::from(layout.source_symbol_count(BlockIndex(0)));
        Self { layout, memory, slots_per_block, first_slot, words_per_bitmap }
    }

    /// Whether the map is one of this object in this layout.
    pub(super) fn is_of(&self, id: ObjectId, code: CodeId) -> bool {
        let header = header(id, &self.layout, code);
        (0..).zip(header).all(|(index, word)| self.load(index) == word)
    }

    /// Forgets all there is, and belongs to no object then.
    pub(super) fn clear(&self) {
        // The header goes first, so that no moment shows one with entries that are not its own.
        self.store(0, 0);
        for word in self.memory.words() {
            // A page that holds zeroes stays a hole.
            if word.load(Ordering::Relaxed) != 0 {
                word.store(0, Ordering::Relaxed);
            }
        }
    }

    /// Becomes the map of this object, with all that is in it.
    pub(super) fn own(&self, id: ObjectId, code: CodeId) {
        for (index, word) in header(id, &self.layout, code).into_iter().enumerate().rev() {
            self.store(index, word);
        }
    }

    pub(super) fn is_marked(&self, block: BlockIndex, mark: Mark) -> bool {
        let (index, bit) = self.mark_place(block, mark);
        self.load(index) & bit != 0
    }

    pub(super) fn mark(&self, block: BlockIndex, mark: Mark) {
        let (index, bit) = self.mark_place(block, mark);
        self.store(index, self.load(index) | bit);
    }

    pub(super) fn unmark(&self, block: BlockIndex, mark: Mark) {
        let (index, bit) = self.mark_place(block, mark);
        self.store(index, self.load(index) & !bit);
    }

    fn mark_place(&self, block: BlockIndex, mark: Mark) -> (usize, u32) {
        let bitmap = match mark {
            Mark::Verified => 0,
            Mark::Writing => self.words_per_bitmap,
        };
        (HEADER_WORDS + bitmap + block.0 as usize / 32, 1 << (block.0 % 32))
    }

    /// The entry of a slot, if it says anything that could be true.
    pub(super) fn entry(&self, block: BlockIndex, slot: u16) -> Option<SlotEntry> {
        let word = self.load(self.slot_place(block, slot));
        let esi = Esi(u16::try_from(word >> 16).ok()?.checked_sub(1)?);
        let place = self.layout.place(block, Esi(slot))?;
        let size = self.layout.payload_size(block, esi).filter(|&size| size <= place.size)?;
        let within = u32::try_from(place.offset - block.offset()).ok()?;
        Some(SlotEntry { slot, esi, within, size, hash: hash_of(u64::from(word)) })
    }

    pub(super) fn set(&self, block: BlockIndex, slot: u16, esi: Esi, hash: u16) {
        let word = (u32::from(esi.0) + 1) << 16 | u32::from(hash);
        self.store(self.slot_place(block, slot), word);
    }

    pub(super) fn clear_slot(&self, block: BlockIndex, slot: u16) {
        let index = self.slot_place(block, slot);
        if self.load(index) != 0 {
            self.store(index, 0);
        }
    }

    /// Forgets what is in the slots of a block, and its marks.
    pub(super) fn clear_block(&self, block: BlockIndex) {
        (0..self.layout.source_symbol_count(block)).for_each(|slot| self.clear_slot(block, slot));
        self.unmark(block, Mark::Verified);
        self.unmark(block, Mark::Writing);
    }

    fn slot_place(&self, block: BlockIndex, slot: u16) -> usize {
        self.first_slot + block.0 as usize * self.slots_per_block + usize::from(slot)
    }

    fn load(&self, index: usize) -> u32 {
        self.memory.words().get(index).map_or(0, |word| word.load(Ordering::Relaxed))
    }

    fn store(&self, index: usize, value: u32) {
        if let Some(word) = self.memory.words().get(index) {
            word.store(value, Ordering::Relaxed);
        }
    }
}

/// Notes in a map which decoded symbols have been written to their own slots: for the thread that writes them, while it does.
///
/// A program killed between two of them then loses neither what was overwritten nor what was not.
#[derive(Debug)]
pub struct DecodedNotes(Box<Slots>);

impl DecodedNotes {
    /// `None` if the map is not one of this layout: then nothing can be noted.
    #[must_use]
    pub fn new(layout: Layout, memory: Box<dyn SlotMemory>) -> Option<Self> {
        (memory.words().len() == word_count(&layout)).then(|| Self(Box::new(Slots::new(layout, memory))))
    }

    /// From `start` on, in bytes from the start of the block, these whole slots hold their source symbols now.
    pub fn written(&self, block: BlockIndex, start: u32, bytes: &[u8]) {
        let symbol_size = self.0.layout.symbol_size().bytes();
        let first = start / u32::from(symbol_size);
        for (slot, payload) in (first..).zip(bytes.chunks(usize::from(symbol_size))) {
            let Ok(slot) = u16::try_from(slot) else { return };
            self.0.set(block, slot, Esi(slot), hash_of(xxh3_64(payload)));
        }
    }
}

fn header(id: ObjectId, layout: &Layout, code: CodeId) -> [u32; HEADER_WORDS] {
    let halves = |value: u64| [value as u32, (value >> 32) as u32];
    let [size_low, size_high] = halves(layout.size().bytes());
    let session = u32::from(layout.symbol_size().bytes()) | u32::from(code.0) << 16;
    let mut words = [0; HEADER_WORDS];
    words[0] = MAGIC;
    words[1] = VERSION;
    for (word, bytes) in words[2..5].iter_mut().zip(id.0.as_chunks::<4>().0) {
        *word = u32::from_le_bytes(*bytes);
    }
    (words[5], words[6], words[7]) = (size_low, size_high, session);
    let mut bytes = [0; 4 * HASHED_WORDS];
    for (chunk, word) in bytes.as_chunks_mut::<4>().0.iter_mut().zip(words) {
        *chunk = word.to_le_bytes();
    }
    [words[8], words[9]] = halves(xxh3_64(&bytes));
    words
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::{ObjectSize, SymbolSize};
    use proptest::prelude::*;

    const ID: ObjectId = ObjectId([7; 12]);
    const CODE: CodeId = CodeId::REED_SOLOMON;

    fn layout(size: u64, symbol_size: u16) -> Layout {
        Layout::new(ObjectSize::new(size).unwrap(), SymbolSize::new(symbol_size).unwrap())
    }

    fn fresh(layout: Layout) -> Slots {
        let slots = Slots::new(layout, plain_memory(word_count(&layout)));
        slots.clear();
        slots.own(ID, CODE);
        slots
    }

    #[test]
    fn map_is_of_one_object_size_symbol_size_and_code_alone() {
        let slots = fresh(layout(3 << 20, 1408));
        assert!(slots.is_of(ID, CODE));
        assert!(!slots.is_of(ObjectId([8; 12]), CODE) && !slots.is_of(ID, CodeId(2)));
        for other in [layout((3 << 20) - 1, 1408), layout(3 << 20, 1344)] {
            let memory = plain_memory(word_count(&other));
            for (word, old) in memory.words().iter().zip(slots.memory.words()) {
                word.store(old.load(Ordering::Relaxed), Ordering::Relaxed);
            }
            assert!(!Slots::new(other, memory).is_of(ID, CODE));
        }
    }

    #[test]
    fn header_with_any_bit_changed_is_refused() {
        let slots = fresh(layout(3 << 20, 1408));
        for (index, bit) in (0..HEADER_WORDS).flat_map(|index| (0..32).map(move |bit| (index, bit))) {
            slots.store(index, slots.load(index) ^ 1 << bit);
            assert!(!slots.is_of(ID, CODE), "bit {bit} of word {index}");
            slots.store(index, slots.load(index) ^ 1 << bit);
        }
        assert!(slots.is_of(ID, CODE));
    }

    #[test]
    fn reset_leaves_no_entry_and_no_mark() {
        let slots = fresh(layout(2 << 20, 1408));
        slots.set(BlockIndex(1), 744, Esi(744), 9);
        slots.mark(BlockIndex(1), Mark::Verified);
        slots.mark(BlockIndex(0), Mark::Writing);
        slots.clear();
        slots.own(ID, CODE);
        assert!(slots.memory.words()[HEADER_WORDS..].iter().all(|word| word.load(Ordering::Relaxed) == 0));
    }

    #[test]
    fn neighbours_do_not_touch() {
        let slots = fresh(layout((2 << 20) + 3000, 1408));
        for block in 0..3 {
            for slot in 0..slots.layout.source_symbol_count(BlockIndex(block)) {
                slots.set(BlockIndex(block), slot, Esi(slot), slot ^ block as u16);
            }
            slots.mark(BlockIndex(block), if block == 1 { Mark::Writing } else { Mark::Verified });
        }
        for block in 0..3 {
            for slot in 0..slots.layout.source_symbol_count(BlockIndex(block)) {
                let entry = slots.entry(BlockIndex(block), slot).unwrap();
                assert_eq!((entry.slot, entry.esi, entry.hash), (slot, Esi(slot), slot ^ block as u16));
            }
            assert_eq!(slots.is_marked(BlockIndex(block), Mark::Writing), block == 1);
            assert_eq!(slots.is_marked(BlockIndex(block), Mark::Verified), block != 1);
        }
        assert!(slots.is_of(ID, CODE));
        slots.clear_block(BlockIndex(1));
        assert_eq!(slots.entry(BlockIndex(1), 0), None);
        assert!(slots.entry(BlockIndex(0), 744).is_some() && slots.entry(BlockIndex(2), 0).is_some());
    }

    #[test]
    fn symbol_that_does_not_fit_its_slot_is_no_entry() {
        let slots = fresh(layout(2 << 20, 1408));
        slots.set(BlockIndex(0), 744, Esi(745), 0);
        assert_eq!(slots.entry(BlockIndex(0), 744), None, "a repair symbol in the short last slot");
        slots.set(BlockIndex(0), 3, Esi(744), 0);
        assert_eq!(slots.entry(BlockIndex(0), 3).unwrap().size, 1024, "the short symbol fits everywhere");
        slots.set(BlockIndex(0), 3, Esi(4 * 745), 0);
        assert_eq!(slots.entry(BlockIndex(0), 3), None);
    }

    proptest! {
        #[test]
        fn no_word_makes_an_entry_that_leaves_its_block(
            size in 1u64..4_000_000, units in 8u16..=139, word in any::<u32>(), pick in any::<u32>(), slot in any::<u16>(),
        ) {
            let layout = layout(size, units * 64);
            let slots = fresh(layout);
            let block = BlockIndex(pick % layout.block_count());
            let slot = slot % layout.source_symbol_count(block);
            slots.store(slots.slot_place(block, slot), word);
            if let Some(entry) = slots.entry(block, slot) {
                prop_assert!(entry.within + u32::from(entry.size) <= layout.block_size(block));
                prop_assert_eq!(Some(entry.size), layout.payload_size(block, entry.esi));
            }
        }
    }
}
