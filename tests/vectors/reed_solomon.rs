//! The erasure code as docs/PROTOCOL.md, section 9, defines it: slowly, symbol by symbol, and without the library.

/// x^16 + x^5 + x^3 + x^2 + 1.
const POLYNOMIAL: u32 = 0x1002D;

const BASIS: [u16; 16] = [
    0x0001, 0xACCA, 0x3C0E, 0x163E, 0xC582, 0xED2E, 0x914C, 0x4012, 0x6C98, 0x10D8, 0x6A72, 0xB900, 0xFDB8, 0xFB34,
    0xFF38, 0x991E,
];

/// Words multiplied as the elements that they stand for.
pub(crate) struct Field {
    /// The power of x that each word but 0 stands for.
    log: Vec<u32>,
    /// The word that stands for each power of x.
    word: Vec<u16>,
}

impl Field {
    pub(crate) fn new() -> Self {
        let element = |word: u16| (0..16).filter(|bit| word >> bit & 1 == 1).fold(0, |sum, bit| sum ^ BASIS[bit]);
        let mut power_of = vec![0; 1 << 16];
        let mut power = 1;
        for exponent in 0..65_535 {
            power_of[power as usize] = exponent;
            power <<= 1;
            if power >= 1 << 16 {
                power ^= POLYNOMIAL;
            }
        }
        assert_eq!(power, 1, "x generates the field");
        let mut field = Self { log: vec![0; 1 << 16], word: vec![0; 65_535] };
        for word in 1..=u16::MAX {
            let log: u32 = power_of[usize::from(element(word))];
            field.log[usize::from(word)] = log;
            field.word[log as usize] = word;
        }
        field
    }

    fn product(&self, a: u16, b: u16) -> u16 {
        if a == 0 || b == 0 {
            return 0;
        }
        self.word[((self.log[usize::from(a)] + self.log[usize::from(b)]) % 65_535) as usize]
    }

    fn quotient(&self, a: u16, b: u16) -> u16 {
        assert_ne!(b, 0);
        if a == 0 {
            return 0;
        }
        self.word[((65_535 + self.log[usize::from(a)] - self.log[usize::from(b)]) % 65_535) as usize]
    }

    /// The weights of the K source symbols in repair symbol j.
    fn weights(&self, source_count: usize, repair: usize) -> Vec<u16> {
        let m = source_count.next_power_of_two();
        let word = |value: usize| u16::try_from(value).expect("16 bits");
        let product = |words: &mut dyn Iterator<Item = u16>| words.fold(1, |all, one| self.product(all, one));
        let x = word(m + repair);
        let z = product(&mut (0..m).map(|k| x ^ word(k)));
        let c = product(&mut (1..m).map(word));
        (0..source_count).map(|i| self.quotient(z, self.product(c, x ^ word(i)))).collect()
    }
}

/// Repair symbol j of a block, for each of `repairs`.
pub(crate) fn repair_symbols(field: &Field, block: &[u8], symbol_size: usize, repairs: &[usize]) -> Vec<Vec<u8>> {
    let source_count = block.len().div_ceil(symbol_size);
    let shard_size = if source_count == 1 { block.len().next_multiple_of(64) } else { symbol_size };
    let symbol = |repair: &usize| {
        let mut sum = vec![0; shard_size];
        for (weight, source) in field.weights(source_count, *repair).into_iter().zip(block.chunks(symbol_size)) {
            let mut shard = source.to_vec();
            shard.resize(shard_size, 0);
            for (sum, group) in sum.chunks_mut(64).zip(shard.chunks(64)) {
                for e in 0..32 {
                    let word = u16::from(group[e]) | u16::from(group[32 + e]) << 8;
                    let [low, high] = field.product(weight, word).to_le_bytes();
                    sum[e] ^= low;
                    sum[32 + e] ^= high;
                }
            }
        }
        sum
    };
    repairs.iter().map(symbol).collect()
}

#[test]
fn library_makes_the_symbols_that_the_text_defines() {
    use iotupd::fec::Encoder;
    use iotupd::object::Layout;
    use iotupd::types::{BlockIndex, ObjectSize, SymbolSize};

    let field = Field::new();
    let mut encoder = Encoder::new();
    for (source_count, symbol_size, missing) in [
        (1, 512, 1),
        (1, 1408, 1407),
        (1, 8896, 64),
        (2, 512, 0),
        (3, 1408, 1000),
        (4, 8896, 1),
        (5, 512, 511),
        (63, 512, 3),
        (64, 1408, 0),
        (65, 512, 70),
        (118, 8896, 1152),
        (745, 1408, 384),
        (749, 512, 5),
        (1024, 512, 0),
        (1025, 512, 0),
        (2048, 512, 0),
    ] {
        let size = source_count * symbol_size - missing;
        let block: Vec<u8> = (0..size).map(|i| (((i * i) >> 5) + (i >> 3) + i) as u8).collect();
        let object = ObjectSize::new(size as u64).unwrap();
        let layout = Layout::new(object, SymbolSize::new(symbol_size as u16).unwrap());
        let count = layout.repair_symbol_count(BlockIndex(0), 300);
        let mut made = vec![0; usize::from(count) * usize::from(layout.shard_size(BlockIndex(0)))];
        encoder.encode(&layout, BlockIndex(0), &block, count, &mut made);
        let made: Vec<_> = made.chunks(usize::from(layout.shard_size(BlockIndex(0)))).collect();
        let repairs: Vec<_> =
            (0..usize::from(count)).step_by(1 + usize::from(count) / 20).chain([made.len() - 1]).collect();
        let defined = repair_symbols(&field, &block, symbol_size, &repairs);
        for (repair, symbol) in repairs.into_iter().zip(defined) {
            assert!(made[repair] == symbol, "K = {source_count}, S = {symbol_size}, repair symbol {repair}");
        }
    }
}
