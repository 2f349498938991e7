//! What the receiver's tests stand on: a real sender of which any packet can be had, and a receiver with its disk, a `Vec`.

use std::sync::Arc;
use std::sync::atomic::AtomicU32;

use super::super::*;
use crate::digest::{ObjectTree, block_value, zero_block_value};
use crate::fec::{Decoder, Encoder};
use crate::limits::BLOCK_SIZE;
use crate::manifest::{DisplayName, Members};
use crate::object::Group;
use crate::sender::{Fec, Outgoing, Pacing, Sender, SenderConfig, Step};
use crate::types::Position;
use crate::wire::{payload_hash, seal};

pub(super) const MIB: usize = BLOCK_SIZE as usize;
pub(super) const NO_LIMITS: ReceiverConfig =
    ReceiverConfig { size_max: u64::MAX, timeout: None, idle_timeout: None, decode: true };

pub(super) fn at(seconds: u64) -> Time {
    Time::default().after(Duration::from_secs(seconds))
}

/// Host `number`; 1 is the true sender.
pub(super) fn host(number: u8) -> SocketAddr {
    SocketAddr::from(([192, 0, 2, number], 4000))
}

/// Bytes that differ from block to block, but for the blocks that are all zeroes.
pub(super) fn content(size: usize, zero_blocks: &[usize]) -> Vec<u8> {
    (0..size).map(|i| if zero_blocks.contains(&(i / MIB)) { 0 } else { (i * 31 + i / MIB) as u8 | 1 }).collect()
}

/// A sender with its object, and any packet of it.
pub(super) struct Source {
    pub(super) sender: Sender,
    /// The packet for those who wait for news.
    pub(super) announcement: Vec<u8>,
    pub(super) content: Vec<u8>,
    pub(super) digest: Digest,
}

impl Source {
    pub(super) fn new(content: Vec<u8>, symbol_size: u16) -> Self {
        Self::with_text(content, symbol_size, |_| {})
    }

    pub(super) fn with_text(content: Vec<u8>, symbol_size: u16, change: impl Fn(&mut Members)) -> Self {
        Self::signed(content, symbol_size, change, |_| Vec::new())
    }

    /// One whose text has the signature that `sign` gives it.
    pub(super) fn signed(
        content: Vec<u8>,
        symbol_size: u16,
        change: impl Fn(&mut Members),
        sign: impl Fn(&[u8]) -> Vec<u8>,
    ) -> Self {
        let size = ObjectSize::new(content.len() as u64).unwrap();
        let blocks = (0..).map(BlockIndex).zip(content.chunks(MIB));
        let values = blocks.map(|(block, bytes)| block_value(size, block, bytes)).collect();
        let zero = content.chunks(MIB).map(|bytes| bytes.iter().all(|&byte| byte == 0)).collect();
        let tree = Arc::new(ObjectTree::new(size, values, zero));
        let digest = tree.digest();
        let mut members = Members::new(digest, size, DisplayName::new("object.bin").unwrap());
        change(&mut members);
        let manifest_text = members.manifest().unwrap().to_text().into_bytes();
        let config = SenderConfig {
            symbol_size: SymbolSize::new(symbol_size).unwrap(),
            payload_size_max: u32::from(symbol_size).max(1152),
            ip_overhead: 28,
            pacing: Pacing::Unpaced,
            start_ppm: 0,
            fec: Fec::OFF,
            passes: None,
            manifest_signature: sign(&manifest_text),
            manifest_text,
        };
        let sender = Sender::new(tree, &config).unwrap();
        let group = SocketAddr::from(([239, 1, 2, 3], 4242));
        Self { announcement: sender.announcement(&config, group).unwrap(), sender, content, digest }
    }

    pub(super) fn packet(&self, outgoing: &Outgoing) -> Vec<u8> {
        let mut packet = vec![0; self.sender.packet_size(outgoing)];
        self.sender.compose(outgoing, &self.content, &[], &mut packet);
        packet
    }

    pub(super) fn manifest(&self) -> Vec<u8> {
        self.packet(&Outgoing::Manifest)
    }

    pub(super) fn data(&self, block: u32, esi: u16) -> Vec<u8> {
        self.packet(&Outgoing::Data { position: Position::ZERO, block: BlockIndex(block), esi: Esi(esi) })
    }

    /// Any symbol, repair symbols included.
    pub(super) fn symbol(&self, block: u32, esi: u16) -> Vec<u8> {
        let layout = *self.sender.carousel().layout();
        let (index, source_count) = (BlockIndex(block), self.symbol_count(block));
        if esi < source_count {
            return self.data(block, esi);
        }
        let source = self.content.chunks(MIB).nth(block as usize).unwrap();
        let (count, size) = (esi - source_count + 1, usize::from(layout.shard_size(index)));
        let mut repair = vec![0; usize::from(count) * size];
        Encoder::new().encode(&layout, index, source, count, &mut repair);
        changed(self.data(block, 0), |packet| {
            packet[30..32].copy_from_slice(&esi.to_be_bytes());
            packet.truncate(44);
            packet.extend_from_slice(&repair[repair.len() - size..]);
        })
    }

    /// The hashes packet of the first sixteen blocks.
    pub(super) fn hashes(&self) -> Vec<u8> {
        let group = Group::new(self.sender.key().size.block_count(), BlockIndex(0), 4).unwrap();
        self.packet(&Outgoing::Hashes(group))
    }

    pub(super) fn symbol_count(&self, block: u32) -> u16 {
        self.sender.carousel().layout().source_symbol_count(BlockIndex(block))
    }

    /// The packets in the order of the sender, from its start.
    pub(super) fn next(&mut self, now: Time) -> Vec<u8> {
        match self.sender.poll(now) {
            Step::Send(outgoing) => self.packet(&outgoing),
            other => panic!("an unpaced sender always has a packet, not {other:?}"),
        }
    }
}

/// The packet with a change and a right checksum.
pub(super) fn changed(mut packet: Vec<u8>, change: impl Fn(&mut Vec<u8>)) -> Vec<u8> {
    change(&mut packet);
    seal(&mut packet);
    packet
}

fn stored<'a>(bytes: &'a [u8], entry: &SlotEntry) -> &'a [u8] {
    &bytes[entry.within as usize..][..usize::from(entry.size)]
}

/// The symbol with other bytes.
pub(super) fn forged(packet: Vec<u8>) -> Vec<u8> {
    changed(packet, |bytes| bytes[44] ^= 0x80)
}

/// A receiver with its disk.
pub(super) struct Sink {
    pub(super) receiver: Receiver,
    pub(super) disk: Vec<u8>,
    pub(super) is_reused: bool,
    pub(super) is_committed: bool,
    pub(super) stores: Vec<Store>,
    pub(super) notices: Vec<Notice>,
    pub(super) works: Vec<Work>,
    /// The sidecar map, which outlives receivers.
    pub(super) map: Arc<Vec<AtomicU32>>,
    pub(super) kept: Vec<(Kept, Vec<u8>)>,
    /// Symbols that may be kept.
    pub(super) kept_max: usize,
    decoded: Option<Vec<u8>>,
    is_prepared: bool,
}

impl Sink {
    pub(super) fn new() -> Self {
        Self::with(NO_LIMITS)
    }

    pub(super) fn with(config: ReceiverConfig) -> Self {
        Self::of(Receiver::new(Time::default(), config))
    }

    pub(super) fn of(receiver: Receiver) -> Self {
        let (stores, notices, works) = (vec![], vec![], vec![]);
        let (map, kept) = (Arc::default(), vec![]);
        Self {
            receiver,
            disk: vec![],
            is_reused: false,
            is_committed: false,
            stores,
            notices,
            works,
            map,
            kept,
            kept_max: usize::MAX,
            decoded: None,
            is_prepared: false,
        }
    }

    /// The receiver is killed, and another starts on what there is.
    pub(super) fn restart(&mut self) {
        let old = std::mem::replace(self, Self::new());
        (self.disk, self.map, self.is_reused) = (old.disk, old.map, true);
    }

    /// Memory of so many words: what there was, if it had as many.
    fn memory(&mut self, word_count: usize) -> Box<dyn SlotMemory> {
        if self.map.len() != word_count {
            self.map = Arc::new(std::iter::repeat_with(AtomicU32::default).take(word_count).collect());
        }
        Box::new(Arc::clone(&self.map))
    }

    /// One that has accepted the source's manifest and can store.
    pub(super) fn prepared(source: &Source) -> Self {
        let mut sink = Self::new();
        assert_eq!(sink.feed(at(0), host(1), &source.manifest()), Verdict::Taken);
        sink
    }

    /// Takes a datagram and does all that it leads to.
    pub(super) fn feed(&mut self, now: Time, from: SocketAddr, datagram: &[u8]) -> Verdict {
        let verdict = self.take(now, from, datagram);
        self.run(now);
        verdict
    }

    pub(super) fn take(&mut self, now: Time, from: SocketAddr, datagram: &[u8]) -> Verdict {
        let verdict = self.receiver.handle_datagram(now, from, datagram);
        match verdict {
            Verdict::Store(store) => {
                let start = usize::try_from(store.offset).unwrap();
                self.disk[start..start + usize::from(store.size)].copy_from_slice(&datagram[44..]);
                self.stores.push(store);
                self.receiver.handle_stored(&[store]);
            }
            Verdict::Keep(kept) => {
                let is_kept = self.kept.len() < self.kept_max;
                if is_kept {
                    self.kept.push((kept, datagram[44..].to_vec()));
                }
                self.receiver.handle_kept(kept, is_kept);
            }
            Verdict::Taken | Verdict::Dropped(_) => {}
        }
        verdict
    }

    /// Timeouts, actions, notices and work, until nothing is left to do.
    pub(super) fn run(&mut self, now: Time) {
        self.receiver.handle_timeout(now);
        while let Some(action) = self.receiver.poll_action() {
            match action {
                Action::Prepare { manifest, word_count, .. } => {
                    if std::mem::replace(&mut self.is_prepared, true) {
                        // Another object takes the place of the one before.
                        (self.kept, self.stores, self.decoded) = (vec![], vec![], None);
                        self.disk.clear();
                    }
                    self.disk.resize(usize::try_from(manifest.size.bytes()).unwrap(), 0);
                    let memory = self.memory(word_count);
                    let early = self.receiver.handle_prepared(now, self.is_reused, memory);
                    for (from, datagram) in early.datagrams() {
                        self.take(now, from, datagram);
                    }
                }
                Action::Remap { word_count } => {
                    let memory = self.memory(word_count);
                    self.receiver.handle_remapped(now, memory);
                }
                Action::Commit => self.is_committed = true,
                Action::GiveUp(reason) => panic!("gave up: {reason:?}"),
            }
            self.work(now);
        }
        self.work(now);
        self.notices.extend(std::iter::from_fn(|| self.receiver.poll_notice()));
        if let Some(action) = self.receiver.poll_action() {
            assert_eq!(action, Action::Commit);
            self.is_committed = true;
        }
    }

    pub(super) fn work(&mut self, now: Time) {
        while let Some(work) = self.receiver.poll_work() {
            self.works.push(work.clone());
            self.perform(now, work);
        }
    }

    pub(super) fn perform(&mut self, now: Time, work: Work) {
        match work {
            Work::Hash { block, size } => {
                let value = block_value(size, block, self.block_bytes(block));
                self.receiver.handle_hashed(now, block, Some(value));
            }
            Work::HashZeroes { block, size } => {
                self.receiver.handle_hashed(now, block, Some(zero_block_value(size, block)));
            }
            Work::Clear { block, .. } => {
                self.block_bytes(block).fill(0);
                self.receiver.handle_cleared(block, true);
            }
            Work::CheckSlots { block, slots, .. } => {
                let bytes = self.block_bytes(block);
                let is_wrong = |entry: &&SlotEntry| hash_of(payload_hash(stored(bytes, entry))) != entry.hash;
                let wrong: Vec<_> = slots.iter().filter(is_wrong).copied().collect();
                self.receiver.handle_slots_checked(block, &wrong);
            }
            Work::Decode { block, layout, slots, kept } => {
                let bytes = self.block_bytes(block).to_vec();
                let kept = kept.map(|esi| {
                    let place =
                        self.kept.iter().position(|(kept, _)| *kept == Kept { block, esi }).expect("it was kept");
                    (esi, self.kept.swap_remove(place).1)
                });
                let symbols = slots.iter().map(|entry| (entry.esi, stored(&bytes, entry)));
                let symbols = symbols.chain(kept.iter().map(|(esi, payload)| (*esi, payload.as_slice())));
                let mut out = vec![0; bytes.len()];
                let result = Decoder::new().decode(&layout, block, symbols, &mut out);
                let value = result.ok().map(|()| block_value(layout.size(), block, &out));
                self.decoded = Some(out);
                self.receiver.handle_hashed(now, block, value);
            }
            Work::WriteDecoded { block, .. } => {
                let out = self.decoded.take().expect("what is written was decoded last");
                self.block_bytes(block).copy_from_slice(&out);
                self.receiver.handle_written(block, true);
            }
        }
    }

    pub(super) fn block_bytes(&mut self, block: BlockIndex) -> &mut [u8] {
        self.disk.chunks_mut(MIB).nth(block.0 as usize).unwrap()
    }

    /// Feeds what the source sends until the object is whole; the number of packets.
    pub(super) fn complete(&mut self, now: Time, from: SocketAddr, source: &mut Source) -> usize {
        for count in 0..10_000 {
            if self.is_committed {
                assert_eq!(self.disk, source.content);
                let size = source.content.len() as u64;
                let progress = self.receiver.progress();
                assert_eq!((progress.held, progress.blocks_verified), (size, progress.blocks));
                assert_eq!(self.receiver.missing().count(), 0);
                return count;
            }
            let packet = source.next(now);
            self.feed(now, from, &packet);
        }
        panic!("not complete: {:?}", self.receiver.progress());
    }

    pub(super) fn feed_block(&mut self, now: Time, from: SocketAddr, source: &Source, block: u32) {
        (0..source.symbol_count(block)).for_each(|esi| {
            self.feed(now, from, &source.data(block, esi));
        });
    }

    /// Feeds a datagram that must be dropped for `reason`, which must change nothing but its counter.
    pub(super) fn drops(&mut self, from: SocketAddr, datagram: &[u8], reason: DropReason) {
        let mut expected = self.receiver.counts().clone();
        expected.datagrams += 1;
        expected.bytes += datagram.len() as u64;
        expected.drop(reason);
        let (progress, stores) = (self.receiver.progress(), self.stores.len());
        let manifest = self.receiver.manifest().cloned();
        let missing: Vec<_> = self.receiver.missing().collect();
        assert_eq!(self.take(at(0), from, datagram), Verdict::Dropped(reason));
        assert_eq!(self.receiver.counts(), &expected, "{}", reason.name());
        assert_eq!((self.receiver.progress(), self.stores.len()), (progress, stores));
        assert_eq!(self.receiver.manifest().cloned(), manifest);
        assert!(self.receiver.missing().eq(missing));
        assert_eq!((self.receiver.poll_work(), self.receiver.poll_action()), (None, None));
    }
}
