//! One object's packets, composed once: every packet is a pure function of its position, so that any number of receivers can be
//! played the same ones.

use std::ops::Range;
use std::sync::Arc;

use iotupd::digest::{ObjectTree, block_value};
use iotupd::fec::Encoder;
use iotupd::manifest::{DisplayName, Members};
use iotupd::object::Layout;
use iotupd::sender::{Content, Fec, Outgoing, Pacing, Sender, SenderConfig, SentBlock, Step};
use iotupd::types::{BlockIndex, Esi, ObjectSize, SymbolSize, Time};

use crate::random::Random;

const BLOCK_SIZE: usize = 1 << 20;
const IPV4_OVERHEAD: u32 = 28;
/// Control packets among data packets: one manifest and one hashes packet to a hundred.
const CONTROL_EVERY: u64 = 50;

/// The bytes of an object, and its repair symbols as far as they have been computed.
pub(crate) struct Truth {
    pub(crate) bytes: Vec<u8>,
    pub(crate) tree: Arc<ObjectTree>,
    layout: Layout,
    percent: u16,
    repair: Vec<Vec<u8>>,
}

impl Truth {
    /// `block_count` blocks of random bytes, with repair symbols at up to `percent`.
    pub(crate) fn new(block_count: usize, symbol_size: u16, percent: u16) -> Self {
        let mut random = Random::new(block_count as u64);
        let bytes: Vec<u8> = (0..block_count * BLOCK_SIZE / 8).flat_map(|_| random.bits().to_le_bytes()).collect();
        let size = ObjectSize::new(bytes.len() as u64).expect("a small object");
        let layout = Layout::new(size, SymbolSize::new(symbol_size).expect("an allowed size"));
        let blocks = || (0..).map(BlockIndex).zip(bytes.chunks(BLOCK_SIZE));
        let values = blocks().map(|(block, bytes)| block_value(size, block, bytes)).collect();
        let tree = Arc::new(ObjectTree::new(size, values, vec![false; block_count]));
        let mut encoder = Encoder::new();
        let encode = |(block, bytes): (BlockIndex, &[u8])| {
            let count = layout.repair_symbol_count(block, percent);
            let mut repair = vec![0; usize::from(count) * usize::from(layout.shard_size(block))];
            if count > 0 {
                encoder.encode(&layout, block, bytes, count, &mut repair);
            }
            repair
        };
        let repair = blocks().map(encode).collect();
        Self { repair, tree, layout, percent, bytes }
    }

    /// All blocks have the same size.
    pub(crate) fn block_count(&self) -> usize {
        self.repair.len()
    }

    /// Source symbols of the whole object: the packets of an ideal pass.
    pub(crate) fn source_symbol_count(&self) -> u64 {
        let blocks = (0..self.layout.block_count()).map(BlockIndex);
        blocks.map(|block| u64::from(self.layout.source_symbol_count(block))).sum()
    }

    /// A symbol, source or repair.
    pub(crate) fn symbol(&self, block: BlockIndex, esi: Esi) -> &[u8] {
        if let Some(place) = self.layout.place(block, esi) {
            return &self.bytes[place.offset as usize..][..usize::from(place.size)];
        }
        let number = usize::from(esi.0 - self.layout.source_symbol_count(block));
        let shard_size = usize::from(self.layout.shard_size(block));
        &self.repair[block.0 as usize][number * shard_size..][..shard_size]
    }
}

impl Content for Truth {
    fn source(&self) -> &[u8] {
        &self.bytes
    }

    fn repair(&self, block: SentBlock) -> Option<&[u8]> {
        // No block is all zeroes: those that are sent are all of them.
        self.repair.get(block.0 as usize).map(Vec::as_slice)
    }
}

/// A round of data packets, and the control packets between them.
pub(crate) struct Broadcast {
    bytes: Vec<u8>,
    data: Vec<Range<usize>>,
    manifest: Range<usize>,
    hashes: Vec<Range<usize>>,
}

impl Broadcast {
    /// What a sender of `truth` sends in a round.
    pub(crate) fn new(truth: &Truth, fec: Fec) -> Self {
        assert!(fec.percent <= truth.percent, "the repair symbols have been computed");
        let size = truth.tree.size();
        let members = Members::new(truth.tree.digest(), size, DisplayName::new("object").expect("a name"));
        let config = SenderConfig {
            symbol_size: truth.layout.symbol_size(),
            payload_size_max: u32::from(truth.layout.symbol_size().bytes()),
            ip_overhead: IPV4_OVERHEAD,
            pacing: Pacing::Unpaced,
            start_ppm: 0,
            fec,
            passes: None,
            manifest_text: members.manifest().expect("a manifest").to_text().into_bytes(),
            manifest_signature: Vec::new(),
        };
        let mut sender = Sender::new(Arc::clone(&truth.tree), &config).expect("it can be sent");
        let cycle = sender.carousel().cycle_length();
        let mut all = Self { bytes: Vec::new(), data: Vec::new(), manifest: 0..0, hashes: Vec::new() };
        while (all.data.len() as u64) < cycle {
            let Step::Send(outgoing) = sender.poll(Time::default()) else { panic!("an unpaced sender always sends") };
            let start = all.bytes.len();
            let packet = start..start + sender.packet_size(&outgoing);
            all.bytes.resize(packet.end, 0);
            sender.compose(&outgoing, truth, &[], &mut all.bytes[packet.clone()]);
            match outgoing {
                Outgoing::Data { .. } => all.data.push(packet),
                Outgoing::Manifest => all.manifest = packet,
                Outgoing::Hashes(_) => all.hashes.push(packet),
            }
        }
        all
    }

    /// Data packets before the order begins again.
    pub(crate) fn cycle_length(&self) -> u64 {
        self.data.len() as u64
    }

    /// The data packet at this position of an endless stream.
    pub(crate) fn data(&self, position: u64) -> &[u8] {
        &self.bytes[self.data[(position % self.cycle_length()) as usize].clone()]
    }

    /// The control packet that goes before that data packet, if there is one.
    pub(crate) fn control(&self, position: u64) -> Option<&[u8]> {
        let turn = position / CONTROL_EVERY;
        let range = match turn % 2 {
            0 => &self.manifest,
            _ => &self.hashes[(turn / 2) as usize % self.hashes.len()],
        };
        position.is_multiple_of(CONTROL_EVERY).then(|| &self.bytes[range.clone()])
    }
}
