//! The sender: which packet is next, and when (docs/PROTOCOL.md, section 7). A machine without I/O: it takes the time and the
//! object's bytes, and answers with packets. It never receives anything.

mod cadence;
mod carousel;
mod content;
mod manifest;
mod order;
mod pacer;
mod share;
mod stretch;

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use cadence::HashesCredit;
use carousel::Cursor;
pub use carousel::{Carousel, Fec, SentBlock};
pub use content::Content;
use manifest::Place;
pub use pacer::{Pacer, Pacing, Round};
pub use share::Share;
pub use stretch::{Stretch, WideStep};

use crate::digest::ObjectTree;
use crate::limits::{GROUP_LOG2_MAX, HEADER_SIZE, MANIFEST_EVERY, MANIFEST_INTERVAL_MIN};
use crate::object::{Group, Layout, group_count};
use crate::types::{BlockIndex, ChannelId, CodeId, Digest, Esi, ObjectKey, Position, RateBps, SymbolSize, Time};
use crate::wire::{Header, Kind, emit_hashes, hashes_size, payload_hash, seal, seal_with};

/// How an object is to be sent.
#[derive(Clone, Debug)]
pub struct SenderConfig {
    /// The payload of full data packets.
    pub symbol_size: SymbolSize,
    /// Bytes of a packet's payload at most: the MTU less IP, UDP and packet headers.
    pub payload_size_max: u32,
    /// Bytes of the IP and UDP headers of a packet: 28 or 48.
    pub ip_overhead: u32,
    /// How fast.
    pub pacing: Pacing,
    /// The first position, in millionths of the round.
    pub start_ppm: u32,
    /// Repair symbols and the order of all.
    pub fec: Fec,
    /// End after so many passes; `None`: never.
    pub passes: Option<u64>,
    /// The manifest's canonical text.
    pub manifest_text: Vec<u8>,
    /// Its signature as packets carry it; empty: it has none.
    pub manifest_signature: Vec<u8>,
}

/// Why an object cannot be sent as configured.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Unsendable {
    /// The manifest packet needs `needed` payload bytes where `room` are.
    ManifestTooLarge {
        /// Payload bytes of the manifest packet.
        needed: usize,
        /// Payload bytes that fit.
        room: usize,
    },
    /// Not even the hashes packets of single blocks fit the MTU.
    HashesTooLarge {
        /// Payload bytes that fit.
        room: usize,
    },
}

/// A packet that is due.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Outgoing {
    /// A symbol.
    Data {
        /// Its place in the cycle.
        position: Position,
        /// Its block.
        block: BlockIndex,
        /// Its number in the block.
        esi: Esi,
    },
    /// The manifest.
    Manifest,
    /// The values of a group of blocks.
    Hashes(Group),
}

/// What is to be done now.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Step {
    /// Send this packet, then ask again.
    Send(Outgoing),
    /// Nothing is due before then.
    Wait(Time),
    /// All passes are done.
    Done,
}

/// What has been sent so far.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct SenderCounts {
    /// Data packets of the cycle.
    pub data: u64,
    /// Data packets outside of the cycle, in the place of repair symbols that were not computed yet.
    pub outside: u64,
    /// Manifest packets.
    pub manifest: u64,
    /// Hashes packets.
    pub hashes: u64,
    /// Bytes of all packets with their IP and UDP headers.
    pub ip_bytes: u64,
}

/// One virtual server.
#[derive(Debug)]
pub struct Sender {
    tree: Arc<ObjectTree>,
    carousel: Carousel,
    pacer: Pacer,
    manifest_packet: Vec<u8>,
    /// That of all virtual servers together.
    total_rate: Option<RateBps>,
    key: ObjectKey,
    share: Share,
    ip_overhead: u32,
    group_log2: u8,
    /// Where it is in the cycle; `None` if there are no data packets.
    cursor: Option<Cursor>,
    /// The next source symbol to send outside of the cycle.
    outside: Option<(SentBlock, Esi)>,
    next_group: u32,
    manifest_every: u64,
    data_since_manifest: u64,
    hashes_credit: HashesCredit,
    manifest_at: Option<Time>,
    packets_left: Option<u64>,
    counts: SenderCounts,
}

impl Sender {
    /// The only virtual server that sends the object of `tree`.
    pub fn new(tree: Arc<ObjectTree>, config: &SenderConfig) -> Result<Self, Unsendable> {
        Self::with_share(tree, config, Share::WHOLE)
    }

    /// One of several virtual servers that send the object of `tree`. All get the same `config`: rate, start and passes are those of
    /// all of them together.
    pub fn with_share(tree: Arc<ObjectTree>, config: &SenderConfig, share: Share) -> Result<Self, Unsendable> {
        let layout = Layout::new(tree.size(), config.symbol_size);
        let carousel =
            Carousel::new(layout, config.fec, |block| !tree.is_zero(block) || tree.size().block_count() == 1);
        let key = ObjectKey { id: tree.digest().object_id(), size: tree.size() };
        let group_log2 = largest_group(tree.size().block_count(), config.payload_size_max)?;
        let group_count = group_count(tree.size().block_count(), group_log2);
        let mut hashes_credit = HashesCredit::new(carousel.round_length(), group_count);
        let round = Round::of(
            &carousel,
            &hashes_credit,
            group_count,
            largest_hashes_size(&tree, group_log2),
            manifest::packet(key, config, &carousel, None, Place::Session)?.len(),
            config.ip_overhead,
        );
        if !share.has_control() {
            hashes_credit = HashesCredit::new(carousel.round_length(), 0);
        }
        let total_rate = Pacer::new(config.pacing, round, Share::WHOLE).rate();
        let manifest_packet = manifest::packet(key, config, &carousel, total_rate, Place::Session)?;
        // What makes up a round: data packets, or what takes their place.
        let pass_length = match (carousel.round_length(), u64::from(group_count)) {
            (0, groups) => groups.max(1),
            (length, _) => length,
        };
        let start = carousel.position_at(config.start_ppm) + share.start_of(carousel.round_length());
        Ok(Self {
            cursor: (carousel.cycle_length() > 0).then(|| carousel.cursor_at(start % carousel.cycle_length())),
            outside: None,
            next_group: 0,
            manifest_every: pass_length.min(MANIFEST_EVERY),
            data_since_manifest: 0,
            hashes_credit,
            manifest_at: None,
            packets_left: config.passes.map(|passes| match passes {
                1 => share.part_of(pass_length),
                // Parts that differ would leave some symbols out of one of the passes.
                _ => passes.saturating_mul(pass_length.div_ceil(share.count().into())),
            }),
            counts: SenderCounts::default(),
            ip_overhead: config.ip_overhead,
            tree,
            carousel,
            pacer: Pacer::new(config.pacing, round, share),
            share,
            manifest_packet,
            total_rate,
            key,
            group_log2,
        })
    }

    /// The order in which it sends.
    #[must_use]
    pub fn carousel(&self) -> &Carousel {
        &self.carousel
    }

    /// How it keeps time.
    #[must_use]
    pub fn pacer(&self) -> &Pacer {
        &self.pacer
    }

    /// What it has handed out to be sent.
    #[must_use]
    pub fn counts(&self) -> SenderCounts {
        self.counts
    }

    /// The object that is being sent.
    #[must_use]
    pub fn key(&self) -> ObjectKey {
        self.key
    }

    /// The values of the object's blocks.
    #[must_use]
    pub fn tree(&self) -> &Arc<ObjectTree> {
        &self.tree
    }

    /// The digest of the object.
    #[must_use]
    pub fn digest(&self) -> Digest {
        self.tree.digest()
    }

    /// The manifest packet for those who only wait for news (docs/PROTOCOL.md, section 8.1), of a session that sends its data to
    /// `group`. `config` is the one that the sender was made with.
    ///
    /// # Errors
    /// [`Unsendable::ManifestTooLarge`]: it is 32 bytes longer than that of the session itself.
    pub fn announcement(&self, config: &SenderConfig, group: SocketAddr) -> Result<Vec<u8>, Unsendable> {
        manifest::packet(self.key, config, &self.carousel, self.total_rate, Place::Announcement(group))
    }

    /// The position of the next data packet.
    #[must_use]
    pub fn next_position(&self) -> u64 {
        self.cursor.map_or(0, |cursor| cursor.symbol().0)
    }

    /// The bytes of the packet at [`Self::next_position`]; 0 if there are no data packets.
    #[must_use]
    pub fn next_size(&self) -> usize {
        let Some((_, block, esi)) = self.cursor.map(|cursor| cursor.symbol()) else { return 0 };
        HEADER_SIZE + usize::from(self.carousel.layout().payload_size(block, esi).expect("a symbol of the cycle"))
    }

    /// The data packet of a position, which must be within the cycle.
    #[must_use]
    pub fn data_at(&self, position: u64) -> Outgoing {
        let (block, esi) = self.carousel.symbol_at(position);
        Outgoing::Data { position: Position::new(position).expect("within the cycle"), block, esi }
    }

    /// [`Self::poll_with`] where there are no repair symbols, or all of them have been computed.
    pub fn poll(&mut self, now: Time) -> Step {
        self.poll_ready(now, |_| true)
    }

    /// What to do at `now`. A packet that is handed out counts as sent: the caller repeats it until the kernel takes it. It can be
    /// composed from `content`: where the next repair symbol has not been computed yet, a source symbol goes in its place, outside
    /// of the cycle.
    pub fn poll_with<C: Content + ?Sized>(&mut self, now: Time, content: &C) -> Step {
        self.poll_ready(now, |block| content.repair(block).is_some())
    }

    fn poll_ready(&mut self, now: Time, is_ready: impl Fn(SentBlock) -> bool) -> Step {
        let manifest_due = self.manifest_due(now);
        // The hashes packets that go with the last data packets are part of the pass.
        if self.packets_left == Some(0) && !manifest_due && !(self.has_data() && self.hashes_credit.is_due()) {
            return Step::Done;
        }
        if let Some(due) = self.pacer.wait(now) {
            return Step::Wait(due);
        }
        if let Some(at) = self.lone_manifest_wait(now) {
            return Step::Wait(at);
        }
        let outgoing = self.next(now, manifest_due, is_ready);
        self.spend(self.packet_size(&outgoing), 1);
        Step::Send(outgoing)
    }

    /// `count` packets of so many bytes each go.
    fn spend(&mut self, packet_size: usize, count: u64) {
        let size = self.ip_size(packet_size);
        self.pacer.spend(size, count);
        self.counts.ip_bytes += size * count;
    }

    fn ip_size(&self, packet_size: usize) -> u64 {
        packet_size as u64 + u64::from(self.ip_overhead)
    }

    /// Where there is nothing but manifest packets, a late burst must not bring them closer than 1 ms.
    fn lone_manifest_wait(&self, now: Time) -> Option<Time> {
        let is_alone = !self.has_data() && self.tree.size().block_count() < 2;
        let next = self.manifest_at?.after(MANIFEST_INTERVAL_MIN);
        (is_alone && now < next).then_some(next)
    }

    fn has_data(&self) -> bool {
        self.carousel.round_length() > 0
    }

    fn manifest_due(&self, now: Time) -> bool {
        self.until_manifest(now) == 0
    }

    /// How many data packets can go before a manifest packet is due.
    fn until_manifest(&self, now: Time) -> u64 {
        match self.manifest_at {
            _ if !self.share.has_control() => u64::MAX,
            None => 0,
            Some(at) if now < at.after(MANIFEST_INTERVAL_MIN) => u64::MAX,
            Some(_) => {
                let left = self.manifest_every.saturating_sub(self.data_since_manifest);
                left.div_ceil(self.share.count().into())
            }
        }
    }

    fn next(&mut self, now: Time, manifest_due: bool, is_ready: impl Fn(SentBlock) -> bool) -> Outgoing {
        if manifest_due {
            self.manifest_at = Some(now);
            self.data_since_manifest = 0;
            self.counts.manifest += 1;
            return Outgoing::Manifest;
        }
        let groups = group_count(self.tree.size().block_count(), self.group_log2);
        if self.has_data() {
            return if self.hashes_credit.is_due() { self.next_hashes(groups) } else { self.next_data(is_ready) };
        }
        self.count_down(1);
        self.data_since_manifest += 1;
        if groups > 0 {
            return self.next_hashes(groups);
        }
        self.manifest_at = Some(now);
        self.counts.manifest += 1;
        Outgoing::Manifest
    }

    fn next_hashes(&mut self, groups: u32) -> Outgoing {
        let first = BlockIndex(self.next_group << self.group_log2);
        let group = Group::new(self.tree.size().block_count(), first, self.group_log2).expect("an existing group");
        self.next_group = (self.next_group + 1) % groups;
        if self.hashes_credit.is_due() {
            self.hashes_credit.spend();
        }
        self.counts.hashes += 1;
        Outgoing::Hashes(group)
    }

    fn next_data(&mut self, is_ready: impl Fn(SentBlock) -> bool) -> Outgoing {
        self.note_data_packets(1);
        let (position, block, esi) = self.cursor.expect("there are data packets").symbol();
        if self.carousel.is_repair(block, esi) {
            let sent = self.carousel.sent_block(block).expect("a block that is sent");
            if !is_ready(sent) {
                return self.next_outside(sent);
            }
        }
        self.pass(1);
        Outgoing::Data { position: Position::new(position).expect("within the cycle"), block, esi }
    }

    /// So many positions go, of one block at most.
    fn pass(&mut self, count: u64) {
        self.cursor.as_mut().expect("there are data packets").advance_by(count, &self.carousel);
        self.counts.data += count;
        self.count_down(count);
    }

    /// A source symbol instead of one that is not there yet. It has no position, so that nobody takes it for loss, and the
    /// position that it stands for goes later: none is skipped.
    fn next_outside(&mut self, stalled: SentBlock) -> Outgoing {
        let (sent, esi) = self.outside.unwrap_or((stalled, Esi(0)));
        let block = self.carousel.block_of(sent);
        self.outside = Some(match esi.0 + 1 < self.carousel.layout().source_symbol_count(block) {
            true => (sent, Esi(esi.0 + 1)),
            false => (SentBlock((sent.0 + 1) % self.carousel.sent_count()), Esi(0)),
        });
        self.counts.outside += 1;
        Outgoing::Data { position: Position::OUTSIDE, block, esi }
    }

    /// Control packets become due by so many data packets.
    fn note_data_packets(&mut self, count: u64) {
        // The others send as many meanwhile.
        let by_all = count * u64::from(self.share.count());
        self.data_since_manifest += by_all;
        self.hashes_credit.earn(by_all);
    }

    fn count_down(&mut self, count: u64) {
        if let Some(left) = &mut self.packets_left {
            *left = left.saturating_sub(count);
        }
    }

    /// The bytes of the longest packet.
    #[must_use]
    pub fn packet_size_max(&self) -> usize {
        let data = usize::from(self.carousel.layout().symbol_size().bytes());
        let hashes = largest_hashes_size(&self.tree, self.group_log2);
        (HEADER_SIZE + data.max(usize::try_from(hashes).unwrap_or(0))).max(self.manifest_packet.len())
    }

    /// The bytes of a packet.
    #[must_use]
    pub fn packet_size(&self, outgoing: &Outgoing) -> usize {
        match outgoing {
            Outgoing::Data { block, esi, .. } => {
                HEADER_SIZE + usize::from(self.carousel.layout().payload_size(*block, *esi).expect("a symbol"))
            }
            Outgoing::Manifest => self.manifest_packet.len(),
            Outgoing::Hashes(group) => HEADER_SIZE + hashes_size(group),
        }
    }

    /// The symbol that a packet carries, if it is a data packet: what composing it will read.
    ///
    /// # Panics
    /// As [`Self::compose`].
    #[must_use]
    pub fn payload<'a, C: Content + ?Sized>(&self, outgoing: &Outgoing, content: &'a C) -> Option<&'a [u8]> {
        let Outgoing::Data { block, esi, .. } = outgoing else { return None };
        Some(self.symbol(*block, *esi, content))
    }

    /// Writes a packet into `out`, which has exactly [`Self::packet_size`] bytes. `hashes` has a place for each packet of a round, 0 at
    /// first, or none at all: then every payload is hashed each time.
    ///
    /// # Panics
    /// If the packet carries a repair symbol that `content` does not have: [`Self::poll_with`] hands out none.
    pub fn compose<C: Content + ?Sized>(&self, outgoing: &Outgoing, content: &C, hashes: &[AtomicU64], out: &mut [u8]) {
        match outgoing {
            Outgoing::Manifest => return out.copy_from_slice(&self.manifest_packet),
            Outgoing::Data { position, block, esi } => {
                let payload = self.start_packet(out, Kind::Data, *position, *block, *esi);
                payload.copy_from_slice(self.symbol(*block, *esi, content));
                let hash = self.remembered_hash(hashes, *block, *esi, payload);
                return seal_with(out, hash);
            }
            Outgoing::Hashes(group) => {
                let payload = self.start_packet(out, Kind::Hashes, Position::ZERO, group.first(), Esi(0));
                let blocks = group.blocks().map(|b| (self.tree.values()[b as usize], self.tree.is_zero(BlockIndex(b))));
                emit_hashes(payload, group, blocks, self.tree.path(group));
            }
        }
        seal(out);
    }

    /// Hashes the payload of a data packet, and has that remembered if there is room: to compose it then costs what it will in later
    /// cycles. `None` for other packets. `hashes` as for [`Self::compose`].
    ///
    /// # Panics
    /// As [`Self::compose`].
    pub fn hash_ahead<C: Content + ?Sized>(
        &self,
        outgoing: &Outgoing,
        content: &C,
        hashes: &[AtomicU64],
    ) -> Option<u64> {
        let Outgoing::Data { block, esi, .. } = *outgoing else { return None };
        Some(self.remembered_hash(hashes, block, esi, self.symbol(block, esi, content)))
    }

    /// The bytes of a symbol.
    fn symbol<'a, C: Content + ?Sized>(&self, block: BlockIndex, esi: Esi, content: &'a C) -> &'a [u8] {
        let layout = self.carousel.layout();
        if let Some(place) = layout.place(block, esi) {
            let start = usize::try_from(place.offset).expect("the object is mapped");
            return &content.source()[start..start + usize::from(place.size)];
        }
        let shard_size = usize::from(layout.shard_size(block));
        let start = usize::from(esi.0 - layout.source_symbol_count(block)) * shard_size;
        let sent = self.carousel.sent_block(block).expect("a block that is sent");
        &content.repair(sent).expect("a repair symbol that has been computed")[start..start + shard_size]
    }

    /// The hash of the payload of a symbol, computed at most once where there is room to remember it.
    fn remembered_hash(&self, hashes: &[AtomicU64], block: BlockIndex, esi: Esi, payload: &[u8]) -> u64 {
        let slot = self.carousel.slot_of(block, esi).and_then(|slot| usize::try_from(slot).ok());
        let Some(slot) = slot.and_then(|slot| hashes.get(slot)) else {
            return payload_hash(payload);
        };
        // Virtual servers that meet here compute the same.
        match slot.load(Ordering::Relaxed) {
            0 => {
                let hash = payload_hash(payload);
                slot.store(hash, Ordering::Relaxed);
                hash
            }
            hash => hash,
        }
    }

    fn start_packet<'a>(
        &self,
        out: &'a mut [u8],
        kind: Kind,
        position: Position,
        block: BlockIndex,
        esi: Esi,
    ) -> &'a mut [u8] {
        let (head, payload) = out.split_first_chunk_mut().expect("room for a packet");
        let size_tag = self.carousel.layout().symbol_size().tag();
        let (channel, code) = (ChannelId(0), CodeId::REED_SOLOMON);
        Header { kind, channel, code, size_tag, position, key: self.key, esi, block }.emit(head);
        payload
    }
}

fn largest_hashes_size(tree: &ObjectTree, group_log2: u8) -> u64 {
    Group::new(tree.size().block_count(), BlockIndex(0), group_log2).map_or(0, |group| hashes_size(&group) as u64)
}

/// The largest group whose hashes packets fit, whichever group it is.
fn largest_group(block_count: u32, payload_size_max: u32) -> Result<u8, Unsendable> {
    let room = payload_size_max as usize;
    let fits = |log2: u8| Group::new(block_count, BlockIndex(0), log2).is_none_or(|group| hashes_size(&group) <= room);
    (0..=GROUP_LOG2_MAX).rev().find(|&log2| fits(log2)).ok_or(Unsendable::HashesTooLarge { room })
}

#[cfg(test)]
mod tests;
