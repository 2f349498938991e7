//! Any K symbols rebuild a block, and a repair symbol is the same whoever makes it.

use proptest::prelude::*;

use super::*;
use crate::limits::BLOCK_SIZE;
use crate::types::{ObjectSize, SymbolSize};

/// K and S of all forms that occur: powers of two and their neighbours, the common MTUs, the largest K.
const SHAPES: [(u32, u16); 15] = [
    (1, 512),
    (1, 8896),
    (2, 512),
    (2, 1408),
    (3, 1408),
    (3, 8896),
    (63, 8896),
    (64, 1408),
    (65, 1408),
    (65, 8896),
    (118, 8896),
    (745, 1408),
    (745, 512),
    (749, 512),
    (2048, 512),
];

const BLOCK: BlockIndex = BlockIndex(1);

/// A layout whose second and last block has K symbols of S bytes, `missing` bytes short of a whole number of them.
fn layout(source_count: u32, symbol_size: u16, missing: u16) -> Layout {
    let bytes = u64::from(source_count) * u64::from(symbol_size) - u64::from(missing % symbol_size);
    let size = ObjectSize::new(BLOCK_SIZE + bytes.min(BLOCK_SIZE)).unwrap();
    let layout = Layout::new(size, SymbolSize::new(symbol_size).unwrap());
    assert_eq!(u32::from(layout.source_symbol_count(BLOCK)), source_count);
    layout
}

fn content(layout: &Layout, seed: u64) -> Vec<u8> {
    let mut random = Random(seed);
    (0..layout.block_size(BLOCK)).map(|_| random.next() as u8).collect()
}

/// The generator splitmix64.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }
}

fn repair(encoder: &mut Encoder, layout: &Layout, source: &[u8], count: u16) -> Vec<u8> {
    let mut out = vec![0xEE; usize::from(count) * usize::from(layout.shard_size(BLOCK))];
    encoder.encode(layout, BLOCK, source, count, &mut out);
    out
}

/// All symbols of the block as packets carry them.
fn symbols(layout: &Layout, source: &[u8], repair_count: u16) -> Vec<(Esi, Vec<u8>)> {
    let parts = source.chunks(usize::from(layout.symbol_size().bytes())).map(<[u8]>::to_vec);
    let repair = repair(&mut Encoder::new(), layout, source, repair_count);
    let repair = repair.chunks(usize::from(layout.shard_size(BLOCK))).map(<[u8]>::to_vec).collect::<Vec<_>>();
    (0..).map(Esi).zip(parts.chain(repair)).collect()
}

fn decode(decoder: &mut Decoder, layout: &Layout, symbols: &[(Esi, Vec<u8>)]) -> Result<Vec<u8>, NotEnough> {
    let mut out = vec![0xEE; layout.block_size(BLOCK) as usize];
    let symbols = symbols.iter().map(|(esi, bytes)| (*esi, bytes.as_slice()));
    decoder.decode(layout, BLOCK, symbols, &mut out).map(|()| out)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]

    /// One encoder and decoder for blocks of different shapes, as a receiver uses them.
    #[test]
    fn any_k_symbols_rebuild_the_block(
        shapes in prop::collection::vec((0..SHAPES.len(), any::<u16>(), 1u16..=300, any::<u64>()), 1..4),
    ) {
        let mut decoder = Decoder::new();
        for (shape, missing, percent, seed) in shapes {
            let (source_count, symbol_size) = SHAPES[shape];
            let layout = layout(source_count, symbol_size, missing);
            let source = content(&layout, seed);
            let mut all = symbols(&layout, &source, layout.repair_symbol_count(BLOCK, percent));
            let mut random = Random(seed);
            for i in (1..all.len()).rev() {
                all.swap(i, usize::try_from(random.next() % (i as u64 + 1)).unwrap());
            }
            all.truncate(source_count as usize);
            prop_assert_eq!(decode(&mut decoder, &layout, &all), Ok(source.clone()));
            let last = all.pop().unwrap();
            let (given, needed) = (source_count as u16 - 1, source_count as u16);
            prop_assert_eq!(decode(&mut decoder, &layout, &all), Err(NotEnough { given, needed }));
            // A symbol that came twice is one symbol, and what is of no use does no harm.
            if let Some(twice) = all.first().cloned() {
                all.push(twice);
                prop_assert_eq!(decode(&mut decoder, &layout, &all), Err(NotEnough { given, needed }));
            }
            all.push((last.0, vec![0; last.1.len() + 64]));
            all.push((Esi(u16::MAX), vec![0; usize::from(symbol_size)]));
            prop_assert_eq!(decode(&mut decoder, &layout, &all), Err(NotEnough { given, needed }));
            all.push(last);
            all.push((Esi(source_count as u16), vec![0; usize::from(layout.shard_size(BLOCK))]));
            prop_assert_eq!(decode(&mut decoder, &layout, &all), Ok(source));
        }
    }
}

#[test]
fn repair_symbol_does_not_depend_on_how_many_are_made() {
    let mut encoder = Encoder::new();
    for (source_count, symbol_size) in SHAPES {
        let layout = layout(source_count, symbol_size, 7);
        let source = content(&layout, 1);
        let most = layout.repair_symbol_count(BLOCK, REPAIR_PERCENT_MAX);
        let all = repair(&mut encoder, &layout, &source, most);
        let near_powers = (0..13).map(|log2| 1u16 << log2).flat_map(|power| [power - 1, power, power + 1]);
        let percents = [1, 5, 50, 100, 299].map(|percent| layout.repair_symbol_count(BLOCK, percent));
        for count in near_powers.chain(percents).filter(|&count| count <= most) {
            let some = repair(&mut encoder, &layout, &source, count);
            assert!(some == all[..some.len()], "K = {source_count}, S = {symbol_size}, R = {count}");
        }
    }
}

#[test]
fn all_source_symbols_are_the_block_without_decoding() {
    let layout = layout(65, 1408, 1000);
    let source = content(&layout, 2);
    let all = symbols(&layout, &source, 0);
    assert_eq!(decode(&mut Decoder::new(), &layout, &all), Ok(source));
}

/// The symbols of version 1 of the protocol, for ever: another version of the crate must make the same.
#[test]
fn repair_symbols_are_those_of_version_1() {
    let hash_of = |source_count, symbol_size| {
        let layout = layout(source_count, symbol_size, 100);
        let source: Vec<u8> =
            (0..u64::from(layout.block_size(BLOCK))).map(|i| (((i * i) >> 7) + (i >> 13)) as u8).collect();
        let count = layout.repair_symbol_count(BLOCK, REPAIR_PERCENT_MAX);
        xxhash_rust::xxh3::xxh3_64(&repair(&mut Encoder::new(), &layout, &source, count))
    };
    let made =
        PINNED.map(|(source_count, symbol_size, _)| (source_count, symbol_size, hash_of(source_count, symbol_size)));
    assert_eq!(made, PINNED);
}

/// K, S, and the hash of all repair symbols.
const PINNED: [(u32, u16, u64); 6] = [
    (1, 1408, 15_102_527_907_977_533_801),
    (2, 512, 4_373_425_419_476_406_016),
    (3, 1408, 11_267_047_380_871_466_110),
    (118, 8896, 16_616_957_851_864_172_226),
    (745, 1408, 13_251_169_000_457_141_834),
    (2048, 512, 2_752_775_021_523_359_515),
];
