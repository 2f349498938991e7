//! Makes packets as a malicious or broken sender would: most are well-formed enough to get past the first rules.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use iotupd::digest::ObjectTree;
use iotupd::fec::Encoder;
use iotupd::limits::{BLOCK_SIZE, HEADER_SIZE, POSITION_MAX, SYMBOL_SIZE_MAX, SYMBOL_SIZE_MIN};
use iotupd::object::Group;
use iotupd::sender::{Fec, Outgoing, Pacing, Sender, SenderConfig};
use iotupd::types::{BlockIndex, ChannelId, CodeId, Digest, Esi, ObjectId, Position, SymbolSize, Time};
use iotupd::wire::{
    ChannelEntry, Header, Kind, ManifestPayload, SessionDescription, SignatureBytes, emit_hashes, emit_manifest,
    hashes_size, manifest_size, seal,
};

use crate::random::{Ppm, Random};
use crate::signer::{FIRST, SECOND};
use crate::truth::{Truth, text};

/// Repair symbols in percent of the source symbols of a block.
const REPAIR_PERCENT: u16 = 50;

/// A kind of forgery.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Forgery {
    /// Random bytes, some of them after the start of a true packet.
    Garbage,
    /// A true header and a checksum that is right, over random bytes.
    FalseData,
    /// The same id and size, but another digest.
    FalseDigest,
    /// The true text with another symbol size.
    FalseSymbolSize,
    /// Data and hashes of an object that nobody describes.
    OtherObject,
    /// True values, with random zero bits.
    FalseZeroes,
    /// Values or siblings that are wrong.
    FalseValues,
    /// Not a forgery: true values in groups of another size.
    Regrouped,
    /// A true packet with one byte changed and a checksum that is right.
    Resealed,
    /// Not a forgery: a true manifest or hashes packet.
    Control,
    /// Not a forgery: a true manifest packet.
    Manifest,
    /// The true text, or one of a later version, with a signature that names the key.
    FalseSignature,
    /// The text of a later version, signed by somebody else.
    OtherKey,
    /// The text of a later version, without a signature.
    Unsigned,
    /// Not a forgery: any true repair symbol of any block, in no order.
    Repair,
}

/// All that harm.
pub(crate) const HARMFUL: [Forgery; 8] = [
    Forgery::Garbage,
    Forgery::FalseData,
    Forgery::FalseDigest,
    Forgery::FalseSymbolSize,
    Forgery::OtherObject,
    Forgery::FalseZeroes,
    Forgery::FalseValues,
    Forgery::Resealed,
];

/// All about signatures.
pub(crate) const SIGNATURES: [Forgery; 3] = [Forgery::FalseSignature, Forgery::OtherKey, Forgery::Unsigned];

/// From which address forged packets come.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Mask {
    /// One of its own, with this port.
    Own(u16),
    /// Any of so many.
    Many(u16),
    /// That of a true server.
    Server(usize),
}

/// What is forged, and when.
#[derive(Clone, Debug)]
pub(crate) struct ForgerPlan {
    pub(crate) truth: Arc<Truth>,
    pub(crate) symbol_size: SymbolSize,
    pub(crate) kinds: Vec<Forgery>,
    pub(crate) mask: Mask,
    pub(crate) from: Time,
    pub(crate) until: Time,
    /// From one packet to the next.
    pub(crate) every: Duration,
}

/// Who forges.
pub(crate) struct Forger {
    pub(crate) plan: ForgerPlan,
    random: Random,
    /// Never polled: it only composes.
    composer: Sender,
    next_position: u64,
    /// The repair symbols of the blocks of which one has been sent.
    repair: BTreeMap<BlockIndex, Vec<u8>>,
}

impl Forger {
    pub(crate) fn new(plan: ForgerPlan, mut random: Random) -> Self {
        let config = SenderConfig {
            symbol_size: plan.symbol_size,
            payload_size_max: u32::from(SYMBOL_SIZE_MAX),
            ip_overhead: 28,
            pacing: Pacing::Unpaced,
            start_ppm: 0,
            fec: Fec::OFF,
            passes: None,
            manifest_text: plan.truth.text.clone(),
            manifest_signature: plan.truth.signature.clone(),
        };
        let composer = Sender::new(Arc::clone(&plan.truth.tree), &config).expect("room enough");
        let next_position = random.below(composer.carousel().cycle_length());
        Self { plan, random, composer, next_position, repair: BTreeMap::new() }
    }

    /// The address from which the next packet comes.
    pub(crate) fn addr(&mut self, servers: &[SocketAddr]) -> SocketAddr {
        match self.plan.mask {
            Mask::Own(port) => SocketAddr::from(([198, 51, 100, 1], port)),
            Mask::Many(count) => {
                let number = self.random.below(u64::from(count));
                SocketAddr::from(([198, 51, 100, (number >> 8) as u8], 1000 + (number % 256) as u16))
            }
            Mask::Server(index) => servers[index % servers.len()],
        }
    }

    /// The next packet.
    pub(crate) fn packet(&mut self) -> Vec<u8> {
        match self.random.pick(&self.plan.kinds.clone()) {
            Forgery::Garbage => self.garbage(),
            Forgery::FalseData => self.false_data(),
            Forgery::FalseDigest => self.false_digest(),
            Forgery::FalseSymbolSize => self.false_symbol_size(),
            Forgery::OtherObject => self.other_object(),
            Forgery::FalseZeroes => self.hashes(|random, _, zero| zero ^ random.chance(Ppm::percent(50))),
            Forgery::FalseValues => self.hashes(|random, value, zero| {
                value.0[random.index(32)] ^= 1 << random.below(8);
                zero
            }),
            Forgery::Regrouped => self.hashes(|_, _, zero| zero),
            Forgery::Resealed => self.resealed(),
            Forgery::Control => self.control(),
            Forgery::Manifest => self.compose(&Outgoing::Manifest),
            Forgery::FalseSignature => self.false_signature(),
            Forgery::OtherKey => {
                let text = self.later_text();
                let signature = SECOND.sign(&text, "");
                self.signed_manifest(self.plan.symbol_size, &text, &signature)
            }
            Forgery::Unsigned => {
                let text = self.later_text();
                self.signed_manifest(self.plan.symbol_size, &text, &[])
            }
            Forgery::Repair => self.repair(),
        }
    }

    fn compose(&self, outgoing: &Outgoing) -> Vec<u8> {
        let mut packet = vec![0; self.composer.packet_size(outgoing)];
        self.composer.compose(outgoing, &self.plan.truth.bytes, &[], &mut packet);
        packet
    }

    fn garbage(&mut self) -> Vec<u8> {
        let mut bytes = vec![0; self.random.index(9100)];
        self.random.fill(&mut bytes);
        let start = self.compose(&Outgoing::Manifest);
        let kept = self.random.index(start.len().min(bytes.len()) + 1);
        if self.random.chance(Ppm::percent(75)) {
            bytes[..kept].copy_from_slice(&start[..kept]);
        }
        bytes
    }

    fn repair(&mut self) -> Vec<u8> {
        let layout = *self.composer.carousel().layout();
        if layout.block_count() == 0 {
            return self.control();
        }
        let block = BlockIndex(self.random.below(u64::from(layout.block_count())) as u32);
        let count = layout.repair_symbol_count(block, REPAIR_PERCENT);
        let size = usize::from(layout.shard_size(block));
        let truth = Arc::clone(&self.plan.truth);
        let symbols = self.repair.entry(block).or_insert_with(|| {
            let source = truth.bytes.chunks(BLOCK_SIZE as usize).nth(block.0 as usize).expect("a block of the object");
            let mut symbols = vec![0; usize::from(count) * size];
            Encoder::new().encode(&layout, block, source, count, &mut symbols);
            symbols
        });
        let index = self.random.below(u64::from(count)) as usize;
        let symbol = symbols[index * size..(index + 1) * size].to_vec();
        let esi = Esi(layout.source_symbol_count(block) + index as u16);
        let mut packet = [vec![0; HEADER_SIZE], symbol].concat();
        let position = Position::new(POSITION_MAX).expect("the last position, which is in no cycle");
        self.header(Kind::Data, position, block, esi, &mut packet);
        seal(&mut packet);
        packet
    }

    fn block_count(&self) -> u32 {
        self.plan.truth.size().block_count()
    }

    /// A symbol of the object: mostly one after the other as a server sends them, so that whole blocks are false; now and then
    /// any of any block, also of those that are zero.
    fn symbol(&mut self) -> Option<(Position, BlockIndex, Esi)> {
        let carousel = self.composer.carousel();
        let is_next = carousel.cycle_length() > 0 && self.random.chance(Ppm::percent(70));
        if is_next {
            let position = self.next_position;
            let (block, esi) = carousel.symbol_at(position);
            self.next_position = (position + 1) % carousel.cycle_length();
            return Some((Position::new(position)?, block, esi));
        }
        let block = BlockIndex(self.random.below(u64::from(self.block_count())) as u32);
        let count = match self.block_count() {
            0 => return None,
            _ => carousel.layout().source_symbol_count(block),
        };
        let position = Position::new(self.random.below(carousel.cycle_length().max(1)))?;
        // Now and then a repair symbol; but those of a byte or two may be right by chance.
        let end =
            if carousel.layout().block_size(block) < 16 { u64::from(count) } else { u64::from(count) * 5 / 4 + 1 };
        let esi = Esi(self.random.below(end) as u16);
        Some((position, block, esi))
    }

    fn false_data(&mut self) -> Vec<u8> {
        let Some((position, block, esi)) = self.symbol() else { return self.garbage() };
        let size = self.composer.carousel().layout().payload_size(block, esi).unwrap_or(0);
        let mut packet = vec![0; HEADER_SIZE + usize::from(size)];
        self.header(Kind::Data, position, block, esi, &mut packet);
        self.random.fill(&mut packet[HEADER_SIZE..]);
        if let Some(place) = self.composer.carousel().layout().place(block, esi) {
            // Random bytes may be right where there is only one.
            packet[HEADER_SIZE] = self.plan.truth.bytes[place.offset as usize] ^ self.random.within(1..=255) as u8;
        }
        seal(&mut packet);
        packet
    }

    fn header(&self, kind: Kind, position: Position, block: BlockIndex, esi: Esi, packet: &mut [u8]) {
        let (channel, code, size_tag) = (ChannelId(0), CodeId::REED_SOLOMON, self.plan.symbol_size.tag());
        let header = Header { kind, channel, code, size_tag, position, key: self.composer.key(), esi, block };
        header.emit(packet.first_chunk_mut().expect("room for a header"));
    }

    fn false_digest(&mut self) -> Vec<u8> {
        if self.block_count() == 0 {
            // No text of an empty object with another digest is valid.
            return self.control();
        }
        let mut digest = self.plan.truth.tree.digest();
        self.random.fill(&mut digest.0[size_of::<ObjectId>()..]);
        let text = text(digest, self.plan.truth.size(), self.plan.truth.version);
        self.signed_manifest(self.plan.symbol_size, &text, &[])
    }

    /// What a version to come may say of the object.
    fn later_text(&mut self) -> Vec<u8> {
        let version = self.plan.truth.version + self.random.within(1..=9);
        text(self.plan.truth.tree.digest(), self.plan.truth.size(), version)
    }

    fn false_signature(&mut self) -> Vec<u8> {
        let text = match self.random.chance(Ppm::percent(50)) {
            true => self.plan.truth.text.clone(),
            false => self.later_text(),
        };
        let mut signature = FIRST.sign(b"something else", "");
        // Each is another one.
        self.random.fill(&mut signature[10..42]);
        self.signed_manifest(self.plan.symbol_size, &text, &signature)
    }

    fn false_symbol_size(&mut self) -> Vec<u8> {
        let units = u64::from(SYMBOL_SIZE_MIN / 64)..=u64::from(SYMBOL_SIZE_MAX / 64);
        let true_size = self.plan.symbol_size.bytes();
        // Half of them have the true size's tag.
        let same_tag = if true_size > 4608 { true_size - 1024 } else { true_size + 1024 };
        let bytes = match self.random.chance(Ppm::percent(50)) {
            true => same_tag,
            false => self.random.within(units) as u16 * 64,
        };
        let (text, signature) = (self.plan.truth.text.clone(), self.plan.truth.signature.clone());
        self.signed_manifest(SymbolSize::new(bytes).expect("an allowed size"), &text, &signature)
    }

    fn signed_manifest(&mut self, symbol_size: SymbolSize, text: &[u8], signature: &[u8]) -> Vec<u8> {
        let cycle_length = 4096 + self.random.below(100_000);
        let (channel, code) = (ChannelId(0), CodeId::REED_SOLOMON);
        let entry = ChannelEntry { channel, group: None, cycle_length, rate: None };
        let description = SessionDescription::new(symbol_size, code, 0, [entry].into_iter()).expect("one channel");
        let signature = (!signature.is_empty()).then_some(SignatureBytes(signature));
        let payload = ManifestPayload { description, text, signature };
        let mut packet = vec![0; HEADER_SIZE + manifest_size(&payload)];
        let (position, block, esi, key) = (Position::ZERO, BlockIndex(0), Esi(0), self.composer.key());
        let size_tag = symbol_size.tag();
        let (head, body) = packet.split_first_chunk_mut().expect("room for a header");
        Header { kind: Kind::Manifest, channel, code, size_tag, position, key, esi, block }.emit(head);
        emit_manifest(body, &payload);
        seal(&mut packet);
        packet
    }

    fn other_object(&mut self) -> Vec<u8> {
        let mut packet = if self.random.chance(Ppm::percent(80)) { self.false_data() } else { self.control() };
        if let Some(id) = packet.get_mut(12..24) {
            id.fill(0xEE);
            seal(&mut packet);
        }
        packet
    }

    /// A hashes packet of a random group of which every value passes through `change`, which answers its zero bit.
    fn hashes(&mut self, change: impl Fn(&mut Random, &mut Digest, bool) -> bool) -> Vec<u8> {
        let log2 = self.random.below(5) as u8;
        let first = self.random.below(u64::from(self.block_count())) as u32 >> log2 << log2;
        let Some(group) = Group::new(self.block_count(), BlockIndex(first), log2) else { return self.control() };
        let tree: &ObjectTree = &self.plan.truth.tree;
        let changed: Vec<_> = group
            .blocks()
            .map(|block| {
                let mut value = tree.values()[block as usize];
                let zero = change(&mut self.random, &mut value, tree.is_zero(BlockIndex(block)));
                (value, zero)
            })
            .collect();
        let mut packet = vec![0; HEADER_SIZE + hashes_size(&group)];
        self.header(Kind::Hashes, Position::ZERO, group.first(), Esi(0), &mut packet);
        emit_hashes(&mut packet[HEADER_SIZE..], &group, changed.into_iter(), tree.path(&group));
        seal(&mut packet);
        packet
    }

    fn resealed(&mut self) -> Vec<u8> {
        let mut packet = match self.random.below(3) {
            0 => self.control(),
            _ => match self.symbol() {
                Some((position, block, esi))
                    if self.composer.carousel().cycle_length() > 0
                        && self.composer.carousel().layout().place(block, esi).is_some() =>
                {
                    self.compose(&Outgoing::Data { position, block, esi })
                }
                _ => self.control(),
            },
        };
        // Rather in the header than in the payload: there is more to be wrong.
        let end = if self.random.chance(Ppm::percent(70)) { HEADER_SIZE } else { packet.len() };
        let at = self.random.index(end);
        packet[at] ^= 1 << self.random.below(8);
        seal(&mut packet);
        packet
    }

    fn control(&mut self) -> Vec<u8> {
        let group = Group::new(self.block_count(), BlockIndex(0), 0);
        let is_hashes = group.is_some() && self.random.chance(Ppm::percent(50));
        if is_hashes { self.hashes(|_, _, zero| zero) } else { self.compose(&Outgoing::Manifest) }
    }
}
