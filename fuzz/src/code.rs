//! The erasure code: any K symbols of a block give the block, and fewer give nothing.

use iotupd::fec::{Decoder, Encoder, NotEnough};
use iotupd::limits::REPAIR_PERCENT_MAX;
use iotupd::object::Layout;
use iotupd::types::{BlockIndex, Esi, ObjectSize, SymbolSize};

use super::input::Input;

/// Small blocks, so that many can be tried; the form of the code depends on K and not on the size.
const SYMBOL_COUNT_MAX: usize = 40;
const BLOCK: BlockIndex = BlockIndex(0);

/// A block, and which of its symbols arrive in which order, among some that are not of it.
pub fn fec(bytes: &[u8]) {
    let mut input = Input::new(bytes);
    let symbol_size = SymbolSize::new((8 + u16::from(input.u8() % 8)) * 64).expect("an allowed size");
    let size = 1 + input.below(SYMBOL_COUNT_MAX * usize::from(symbol_size.bytes()));
    let layout = Layout::new(ObjectSize::new(size as u64).expect("a small object"), symbol_size);
    let source = source(size, input.u8());
    let source_count = layout.source_symbol_count(BLOCK);
    let repair_count = layout.repair_symbol_count(BLOCK, u16::from(input.u8()) * 4 % (REPAIR_PERCENT_MAX + 1));
    let shard_size = usize::from(layout.shard_size(BLOCK));
    let mut repair = vec![0; usize::from(repair_count) * shard_size];
    Encoder::new().encode(&layout, BLOCK, &source, repair_count, &mut repair);
    let all: Vec<&[u8]> = source.chunks(usize::from(symbol_size.bytes())).chain(repair.chunks(shard_size)).collect();
    assert_eq!(all.len(), usize::from(source_count + repair_count));

    let mut arrived: Vec<(Esi, &[u8])> = Vec::new();
    let mut is_there = vec![false; all.len()];
    while !input.is_empty() && arrived.len() < 4 * all.len() {
        let choice = input.u16();
        let index = usize::from(choice & 0x3fff) % all.len();
        let esi = Esi(u16::try_from(index).expect("few symbols"));
        if choice >> 14 == 3 {
            // No packet of this block could carry it.
            let size = usize::from(layout.payload_size(BLOCK, esi).expect("a symbol of the block"));
            arrived.push((esi, &source[..(size / 2).min(source.len())]));
            arrived.push((Esi(u16::MAX), all[index]));
            continue;
        }
        is_there[index] = true;
        arrived.push((esi, all[index]));
    }
    let given = is_there.iter().filter(|&&is_there| is_there).count();
    let given = u16::try_from(given).expect("few symbols");
    let mut out = vec![0; size];
    let result = Decoder::new().decode(&layout, BLOCK, arrived.iter().copied(), &mut out);
    if given < source_count {
        assert_eq!(result, Err(NotEnough { given, needed: source_count }));
    } else {
        assert_eq!(result, Ok(()), "{given} of {source_count} are enough");
        assert!(out == source, "the block comes out as it went in");
    }
}

fn source(size: usize, seed: u8) -> Vec<u8> {
    let mut state = u64::from(seed) + 1;
    let next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 24) as u8
    };
    std::iter::repeat_with(next).take(size).collect()
}
