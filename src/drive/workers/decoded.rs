//! What of a block has been decoded and is not in its place yet.

use std::ops::Range;

use crate::object::Layout;
use crate::receiver::{DecodedNotes, SlotEntry};
use crate::types::{BlockIndex, Digest, Esi, SymbolSize};

/// Bytes of a decoded block that are written by one call, unless one symbol is longer.
const PIECE_SIZE: usize = 16 << 10;

/// What of a block has been decoded that the target does not hold.
#[derive(Debug)]
pub(super) struct Decoded {
    /// Where it lies, in bytes from the start of the block.
    missing: Vec<Range<u32>>,
    /// The bytes of these ranges, one after the other.
    bytes: Vec<u8>,
    /// The value of the whole block.
    pub(super) value: Digest,
    /// Bytes of a slot.
    symbol_size: usize,
    /// Where it is noted that it has been written.
    pub(super) notes: Option<DecodedNotes>,
}

impl Decoded {
    /// Of a block with these `bytes`, and this `value`.
    pub(super) fn of(bytes: &[u8], missing: Vec<Range<u32>>, symbol_size: SymbolSize, value: Digest) -> Self {
        let parts: Vec<_> = missing.iter().map(|range| &bytes[range.start as usize..range.end as usize]).collect();
        Self { bytes: parts.concat(), missing, value, symbol_size: usize::from(symbol_size.bytes()), notes: None }
    }

    /// The same, noted there as it is written.
    pub(super) fn noted_by(self, notes: Option<DecodedNotes>) -> Self {
        Self { notes, ..self }
    }

    /// Each range with its bytes, in pieces of few slots: while one is being written nobody can say what is in them.
    pub(super) fn pieces(&self) -> impl Iterator<Item = (u32, &[u8])> {
        let size = (PIECE_SIZE / self.symbol_size).max(1) * self.symbol_size;
        self.parts().flat_map(move |(start, part)| {
            let starts = (start..).step_by(size);
            starts.zip(part.chunks(size))
        })
    }

    /// Each range with its bytes.
    pub(super) fn parts(&self) -> impl Iterator<Item = (u32, &[u8])> {
        let mut rest = self.bytes.as_slice();
        self.missing.iter().map(move |range| {
            let (part, after) = rest.split_at((range.end - range.start) as usize);
            rest = after;
            (range.start, part)
        })
    }
}

/// Where a block does not hold its source symbols, in bytes from its start: everywhere but in the slots that were decoded from as what they are.
pub(super) fn missing(block: BlockIndex, layout: &Layout, slots: &[SlotEntry]) -> Vec<Range<u32>> {
    let mut in_place = slots.iter().filter(|entry| entry.esi.0 == entry.slot).peekable();
    let mut ranges: Vec<Range<u32>> = Vec::new();
    for slot in 0..layout.source_symbol_count(block) {
        if in_place.next_if(|entry| entry.slot == slot).is_some() {
            continue;
        }
        let place = layout.place(block, Esi(slot)).expect("a slot of the block");
        let start = u32::try_from(place.offset - block.offset()).expect("less than a block");
        let end = start + u32::from(place.size);
        match ranges.last_mut() {
            Some(last) if last.end == start => last.end = end,
            _ => ranges.push(start..end),
        }
    }
    ranges
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::digest::block_value;
    use crate::limits::BLOCK_SIZE;
    use crate::types::ObjectSize;

    #[test]
    fn only_what_is_missing_is_kept_to_be_written() {
        let bytes: Vec<u8> = (0..10).collect();
        let value = block_value(ObjectSize::new(10).unwrap(), BlockIndex(0), &bytes);
        let decoded = Decoded::of(&bytes, vec![0..1, 2..4, 9..10], SymbolSize::new(512).unwrap(), value);
        assert_eq!(decoded.bytes, [0, 2, 3, 9]);
        assert!(decoded.parts().eq([(0, &bytes[..1]), (2, &bytes[2..4]), (9, &bytes[9..])]));
        assert!(decoded.pieces().eq(decoded.parts()), "none is long");
    }

    #[test]
    fn missing_ranges_are_joined() {
        let layout = Layout::new(ObjectSize::new(2 << 20).unwrap(), SymbolSize::new(1408).unwrap());
        let entry =
            |slot: u16, esi: u16| SlotEntry { slot, esi: Esi(esi), within: u32::from(slot) * 1408, size: 1, hash: 0 };
        let mut slots: Vec<_> = (0..745).map(|slot| entry(slot, slot)).collect();
        assert_eq!(missing(BlockIndex(0), &layout, &slots), []);
        slots[3].esi = Esi(800);
        slots.remove(4);
        slots.pop();
        assert_eq!(missing(BlockIndex(0), &layout, &slots), [3 * 1408..5 * 1408, 744 * 1408..BLOCK_SIZE as u32]);
        let all = missing(BlockIndex(0), &layout, &[]);
        assert_eq!((all.len(), all.first()), (1, Some(&(0..BLOCK_SIZE as u32))));
    }
}
