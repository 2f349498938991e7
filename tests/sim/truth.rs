//! The objects that are sent, and what is true of them.

use std::fmt;
use std::sync::Arc;

use iotupd::digest::{ObjectTree, block_value};
use iotupd::fec::Encoder;
use iotupd::limits::BLOCK_SIZE;
use iotupd::manifest::{DisplayName, Members};
use iotupd::object::Layout;
use iotupd::sender::{Content, SentBlock};
use iotupd::types::{BlockIndex, Digest, ObjectKey, ObjectSize, SymbolSize};

use crate::random::{Ppm, Random};
use crate::signer::TestKey;

/// One object.
pub(crate) struct Truth {
    pub(crate) bytes: Vec<u8>,
    pub(crate) tree: Arc<ObjectTree>,
    pub(crate) text: Vec<u8>,
    /// Empty if nobody vouches for it.
    pub(crate) signature: Vec<u8>,
    pub(crate) version: u64,
}

impl Truth {
    pub(crate) fn new(bytes: Vec<u8>) -> Arc<Self> {
        Self::with_version(bytes, 0, |_| Vec::new())
    }

    /// An object whose text says this version, and is signed.
    pub(crate) fn signed(bytes: Vec<u8>, version: u64, key: &TestKey) -> Arc<Self> {
        Self::with_version(bytes, version, |text| key.sign(text, "simulated"))
    }

    fn with_version(bytes: Vec<u8>, version: u64, sign: impl Fn(&[u8]) -> Vec<u8>) -> Arc<Self> {
        let size = ObjectSize::new(bytes.len() as u64).expect("small enough");
        let blocks: Vec<_> = bytes.chunks(BLOCK_SIZE as usize).collect();
        let values = blocks.iter().zip(0..).map(|(block, index)| block_value(size, BlockIndex(index), block)).collect();
        let zero = blocks.iter().map(|block| block.iter().all(|&byte| byte == 0)).collect();
        let tree = Arc::new(ObjectTree::new(size, values, zero));
        let text = text(tree.digest(), size, version);
        Arc::new(Self { bytes, tree, signature: sign(&text), text, version })
    }

    /// An object of so many random bytes, with so many of its blocks zero.
    pub(crate) fn random(random: &mut Random, size: u64, zero: Ppm) -> Arc<Self> {
        Self::new(random_bytes(random, size, zero))
    }

    pub(crate) fn size(&self) -> ObjectSize {
        self.tree.size()
    }

    pub(crate) fn key(&self) -> ObjectKey {
        ObjectKey { id: self.tree.digest().object_id(), size: self.size() }
    }

    /// The data packets of a round, and their bytes at IP level.
    pub(crate) fn round(&self, symbol_size: SymbolSize, overhead: u64) -> (u64, u64) {
        let layout = Layout::new(self.size(), symbol_size);
        let sent = (0..layout.block_count()).map(BlockIndex).filter(|&block| !self.tree.is_zero(block));
        sent.fold((0, 0), |(packets, bytes), block| {
            let count = u64::from(layout.source_symbol_count(block));
            (packets + count, bytes + u64::from(layout.block_size(block)) + count * overhead)
        })
    }
}

/// So many random bytes, with so many of their blocks zero.
pub(crate) fn random_bytes(random: &mut Random, size: u64, zero: Ppm) -> Vec<u8> {
    let mut bytes = vec![0; size as usize];
    for block in bytes.chunks_mut(BLOCK_SIZE as usize) {
        if !random.chance(zero) {
            random.fill(block);
        }
    }
    bytes
}

impl fmt::Debug for Truth {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let zero_count = (0..self.size().block_count()).filter(|&block| self.tree.is_zero(BlockIndex(block))).count();
        let (size, version, signed) = (self.bytes.len(), self.version, !self.signature.is_empty());
        write!(f, "{size} bytes, {zero_count} zero blocks, version {version}, signed {signed}")
    }
}

/// An object with its repair symbols, as a server has them.
pub(crate) struct Coded {
    truth: Arc<Truth>,
    /// Those of each block that is sent.
    repair: Vec<Vec<u8>>,
}

impl Coded {
    pub(crate) fn new(truth: &Arc<Truth>, symbol_size: SymbolSize, percent: u16) -> Self {
        let layout = Layout::new(truth.size(), symbol_size);
        let mut encoder = Encoder::new();
        let mut repair_of = |block: BlockIndex| {
            let (start, size) = (block.offset() as usize, layout.block_size(block) as usize);
            let count = layout.repair_symbol_count(block, percent);
            let mut repair = vec![0; usize::from(count) * usize::from(layout.shard_size(block))];
            encoder.encode(&layout, block, &truth.bytes[start..start + size], count, &mut repair);
            repair
        };
        let sent = (0..layout.block_count()).map(BlockIndex).filter(|&block| !truth.tree.is_zero(block));
        Self { truth: Arc::clone(truth), repair: sent.map(&mut repair_of).collect() }
    }
}

impl Content for Coded {
    fn source(&self) -> &[u8] {
        &self.truth.bytes
    }

    fn repair(&self, block: SentBlock) -> Option<&[u8]> {
        self.repair.get(block.0 as usize).map(Vec::as_slice)
    }
}

/// The canonical text of a manifest that says this.
pub(crate) fn text(digest: Digest, size: ObjectSize, version: u64) -> Vec<u8> {
    let name = DisplayName::new("object").expect("a name");
    let mut members = Members::new(digest, size, name);
    members.version = version;
    members.manifest().expect("a manifest that no rule refuses").to_text().into_bytes()
}
