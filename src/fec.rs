//! The erasure code of one source block: repair symbols from source symbols, and a block from any K of its symbols
//! (docs/PROTOCOL.md, section 9). No bytes but those of a block and its symbols pass through here.
//!
//! The crate chooses between two codes by the number of symbols asked for. Here it is always the one that it calls low rate: then a
//! repair symbol depends on K, the shard size, its number and the block alone, and servers that send different numbers of repair
//! symbols may be mixed.

use std::fmt;

use reed_solomon_simd::engine::DefaultEngine;
use reed_solomon_simd::rate::{LowRateDecoder, LowRateEncoder, RateDecoder, RateEncoder};

use crate::limits::{REPAIR_PERCENT_MAX, SYMBOL_SIZE_MAX};
use crate::object::{Layout, Place};
use crate::types::{BlockIndex, Esi};

/// Makes repair symbols. Its memory, at most a few times that of a block, is kept from one block to the next.
#[derive(Default)]
pub struct Encoder {
    inner: Option<LowRateEncoder<DefaultEngine>>,
}

/// Rebuilds blocks. Its memory, at most a few times that of a block, is kept from one block to the next.
#[derive(Default)]
pub struct Decoder {
    inner: Option<LowRateDecoder<DefaultEngine>>,
}

/// Fewer distinct symbols of the block than it has source symbols.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct NotEnough {
    /// Distinct symbols that were given.
    pub given: u16,
    /// K_b: how many it takes.
    pub needed: u16,
}

impl Encoder {
    /// An encoder without memory as yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Writes the first `repair_count` repair symbols of a block into `out`, one behind the other, each of the block's shard size.
    /// `source` is the block, L_b bytes.
    ///
    /// # Panics
    /// If `source` or `out` has another length, if there is no such block, or if no packet could carry the last symbol.
    pub fn encode(&mut self, layout: &Layout, block: BlockIndex, source: &[u8], repair_count: u16, out: &mut [u8]) {
        let shard_size = usize::from(layout.shard_size(block));
        assert_eq!(source.len(), layout.block_size(block) as usize, "the whole block");
        assert_eq!(out.len(), usize::from(repair_count) * shard_size, "room for the repair symbols");
        assert!(repair_count <= layout.repair_symbol_count(block, REPAIR_PERCENT_MAX), "symbols that can be sent");
        if repair_count == 0 {
            return;
        }
        let counts = (usize::from(layout.source_symbol_count(block)), usize::from(repair_count));
        let encoder = prepared_encoder(&mut self.inner, counts, shard_size);
        let mut padded = [0; SYMBOL_SIZE_MAX as usize];
        for symbol in source.chunks(shard_size) {
            let shard = padded_to(shard_size, symbol, &mut padded);
            encoder.add_original_shard(shard).expect("K symbols of the shard size");
        }
        let result = encoder.encode().expect("all K symbols are there");
        for (symbol, shard) in out.chunks_exact_mut(shard_size).zip(result.recovery_iter()) {
            symbol.copy_from_slice(shard);
        }
    }
}

impl Decoder {
    /// A decoder without memory as yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Writes the whole block, L_b bytes, into `out` from any K_b distinct symbols of it: source symbols unpadded, repair symbols
    /// of the whole shard size. Of two with one number the first counts; what no packet of this block can carry is ignored, and
    /// so is what comes after the K_b-th. The iterator is walked twice. Nothing here shows that the symbols were right: the digest
    /// of the block does.
    ///
    /// # Errors
    /// [`NotEnough`], with `out` partly written, if there are fewer.
    ///
    /// # Panics
    /// If `out` has another length, or if there is no such block.
    pub fn decode<'a>(
        &mut self,
        layout: &Layout,
        block: BlockIndex,
        symbols: impl Iterator<Item = (Esi, &'a [u8])> + Clone,
        out: &mut [u8],
    ) -> Result<(), NotEnough> {
        let shard_size = usize::from(layout.shard_size(block));
        let source_count = layout.source_symbol_count(block);
        assert_eq!(out.len(), layout.block_size(block) as usize, "room for the whole block");
        let fits = |esi: Esi, bytes: &[u8]| layout.payload_size(block, esi).map(usize::from) == Some(bytes.len());
        let symbols = symbols.filter(|&(esi, bytes)| fits(esi, bytes));
        // The code does not depend on the number of repair symbols: the fewer, the less memory and time.
        let repair_end = symbols.clone().map(|(esi, _)| esi.0.saturating_sub(source_count) + 1).max().unwrap_or(1);
        let counts = (usize::from(source_count), usize::from(repair_end));
        let decoder = prepared_decoder(&mut self.inner, counts, shard_size);
        let mut padded = [0; SYMBOL_SIZE_MAX as usize];
        let mut given = 0;
        for (esi, bytes) in symbols {
            if given == source_count {
                break;
            }
            // The crate refuses the second of two shards with one number, and here nothing else.
            let is_new = match layout.place(block, esi) {
                Some(place) => {
                    let shard = padded_to(shard_size, bytes, &mut padded);
                    let is_new = decoder.add_original_shard(usize::from(esi.0), shard).is_ok();
                    if is_new {
                        out[within(block, place)].copy_from_slice(bytes);
                    }
                    is_new
                }
                None => decoder.add_recovery_shard(usize::from(esi.0 - source_count), bytes).is_ok(),
            };
            given += u16::from(is_new);
        }
        if given < source_count {
            return Err(NotEnough { given, needed: source_count });
        }
        let result = decoder.decode().expect("K symbols are there");
        for (index, shard) in result.restored_original_iter() {
            let esi = Esi(u16::try_from(index).expect("below K"));
            let place = layout.place(block, esi).expect("a source symbol");
            out[within(block, place)].copy_from_slice(&shard[..usize::from(place.size)]);
        }
        Ok(())
    }
}

/// Where a source symbol lies in its block.
fn within(block: BlockIndex, place: Place) -> std::ops::Range<usize> {
    let start = usize::try_from(place.offset - block.offset()).expect("less than a block");
    start..start + usize::from(place.size)
}

/// The symbol itself if it is whole, else a copy in `room` with zeroes behind it.
fn padded_to<'a>(shard_size: usize, symbol: &'a [u8], room: &'a mut [u8; SYMBOL_SIZE_MAX as usize]) -> &'a [u8] {
    if symbol.len() == shard_size {
        return symbol;
    }
    let (bytes, rest) = room[..shard_size].split_at_mut(symbol.len());
    bytes.copy_from_slice(symbol);
    rest.fill(0);
    &room[..shard_size]
}

fn prepared_encoder(
    inner: &mut Option<LowRateEncoder<DefaultEngine>>,
    (source, repair): (usize, usize),
    shard_size: usize,
) -> &mut LowRateEncoder<DefaultEngine> {
    const SIZES: &str = "within what the code can do, by the bounds of the protocol";
    match inner {
        Some(encoder) => encoder.reset(source, repair, shard_size).expect(SIZES),
        None => {
            let engine = DefaultEngine::new();
            *inner = Some(LowRateEncoder::new(source, repair, shard_size, engine, None).expect(SIZES));
        }
    }
    inner.as_mut().expect("just made")
}

fn prepared_decoder(
    inner: &mut Option<LowRateDecoder<DefaultEngine>>,
    (source, repair): (usize, usize),
    shard_size: usize,
) -> &mut LowRateDecoder<DefaultEngine> {
    const SIZES: &str = "within what the code can do, by the bounds of the protocol";
    match inner {
        Some(decoder) => decoder.reset(source, repair, shard_size).expect(SIZES),
        None => {
            let engine = DefaultEngine::new();
            *inner = Some(LowRateDecoder::new(source, repair, shard_size, engine, None).expect(SIZES));
        }
    }
    inner.as_mut().expect("just made")
}

impl fmt::Debug for Encoder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Encoder").finish_non_exhaustive()
    }
}

impl fmt::Debug for Decoder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Decoder").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
