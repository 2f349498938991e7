//! A receiver with its disk, which does what it is asked to, late and sometimes wrongly, and watches over what it is told.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use iotupd::digest::{ObjectTree, block_value, zero_block_value};
use iotupd::fec::Decoder;
use iotupd::limits::{BLOCK_SIZE, HEADER_SIZE};
use iotupd::object::block_size;
use iotupd::receiver::{Action, Kept, Receiver, ReceiverConfig, SlotEntry, SlotMemory, Store, Verdict, Work, hash_of};
use iotupd::types::{BlockIndex, Digest, ObjectSize, Time};
use iotupd::wire::payload_hash;

/// No receiver is asked to take more, so that a disk fits memory.
pub const OBJECT_SIZE_MAX: u64 = 2 << 20;
/// Bytes of symbols that wait in memory.
const KEPT_COUNT_MAX: usize = 8;

/// How a piece of work ends.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum End {
    Done,
    Failed,
}

#[derive(Debug)]
struct PendingStore {
    store: Store,
    payload: Vec<u8>,
}

/// One receiver, and the disk that outlives it.
pub struct Sink {
    pub receiver: Receiver,
    pub now: Time,
    pub disk: Vec<u8>,
    pub map: Arc<Vec<AtomicU32>>,
    /// The disk is from an earlier receiver, and has been told so.
    is_reused: bool,
    is_prepared: bool,
    pub is_complete: bool,
    pub has_given_up: bool,
    stores: Vec<PendingStore>,
    works: Vec<Work>,
    kept: Vec<(Kept, Vec<u8>)>,
    decoded: Vec<(BlockIndex, Vec<u8>)>,
    /// An action that has not been answered: the words of the map.
    asked: Option<usize>,
}

impl Sink {
    pub fn new() -> Self {
        Self {
            receiver: machine(Time::default()),
            now: Time::default(),
            disk: Vec::new(),
            map: Arc::default(),
            is_reused: false,
            is_prepared: false,
            is_complete: false,
            has_given_up: false,
            stores: Vec::new(),
            works: Vec::new(),
            kept: Vec::new(),
            decoded: Vec::new(),
            asked: None,
        }
    }

    /// The receiver is killed: of the writes under way the first `done` bytes have been made. Another starts on what there is.
    pub fn restart(&mut self, done: usize) {
        for PendingStore { store, payload } in std::mem::take(&mut self.stores) {
            write(&mut self.disk, store.offset, &payload[..done.min(payload.len())]);
        }
        let disk = std::mem::take(&mut self.disk);
        *self = Self { receiver: machine(self.now), now: self.now, map: Arc::clone(&self.map), disk, ..Self::new() };
        self.is_reused = !self.disk.is_empty();
    }

    pub fn datagram(&mut self, from: SocketAddr, datagram: &[u8]) {
        match self.receiver.handle_datagram(self.now, from, datagram) {
            Verdict::Store(store) => {
                self.check_store(&store, datagram.len());
                self.stores.push(PendingStore { store, payload: datagram[HEADER_SIZE..].to_vec() });
            }
            Verdict::Keep(kept) => {
                let is_kept = self.kept.len() < KEPT_COUNT_MAX;
                if is_kept {
                    self.kept.push((kept, datagram[HEADER_SIZE..].to_vec()));
                }
                self.receiver.handle_kept(kept, is_kept);
            }
            Verdict::Taken | Verdict::Dropped(_) => {}
        }
        self.poll();
    }

    fn check_store(&self, store: &Store, datagram_size: usize) {
        assert!(self.is_prepared && !self.is_complete, "{store:?} where nothing is to be written");
        let end = store.block.offset() + u64::from(block_size(self.size(), store.block));
        let is_inside = store.offset >= store.block.offset() && store.offset + u64::from(store.size) <= end;
        assert!(is_inside && usize::from(store.size) + HEADER_SIZE == datagram_size, "{store:?} is outside its block");
        let is_busy = self.works.iter().any(|work| work.block() == store.block && !is_check(work));
        assert!(!is_busy, "{store:?} while its block is worked on");
    }

    fn size(&self) -> ObjectSize {
        self.receiver.manifest().expect("an object is being received").size
    }

    pub fn pass_time(&mut self, nanos: u64) {
        self.now = Time::from_nanos(self.now.as_nanos() + nanos);
        self.receiver.handle_timeout(self.now);
        self.poll();
    }

    /// Takes all that the machine asks for, and does none of it.
    fn poll(&mut self) {
        while let Some(action) = self.receiver.poll_action() {
            match action {
                Action::Prepare { word_count, .. } | Action::Remap { word_count } => self.asked = Some(word_count),
                Action::Commit => self.complete(),
                Action::GiveUp(_) => self.has_given_up = true,
            }
        }
        while let Some(work) = self.receiver.poll_work() {
            let block = work.block();
            let has_stores = self.stores.iter().any(|pending| pending.store.block == block);
            assert!(is_check(&work) || !has_stores, "{work:?} while stores are under way");
            self.works.push(work);
        }
        while self.receiver.poll_notice().is_some() {}
    }

    /// Nothing wrong is ever called right.
    fn complete(&mut self) {
        let manifest = self.receiver.manifest().expect("an object has been received");
        assert_eq!(self.disk.len() as u64, manifest.size.bytes());
        assert!(digest_of(&self.disk) == manifest.digest, "other bytes than the manifest's are called right");
        self.is_complete = true;
    }

    /// Answers what the machine has asked for, if anything.
    pub fn answer(&mut self) {
        let Some(word_count) = self.asked.take() else { return };
        if self.map.len() != word_count {
            self.map = Arc::new(std::iter::repeat_with(AtomicU32::default).take(word_count).collect());
        }
        let memory: Box<dyn SlotMemory> = Box::new(Arc::clone(&self.map));
        if self.is_prepared {
            self.receiver.handle_remapped(self.now, memory);
            return self.poll();
        }
        let size = usize::try_from(self.size().bytes()).expect("a small object");
        let is_reused = self.is_reused && self.disk.len() == size;
        if !is_reused {
            self.disk = vec![0; size];
        }
        let waiting = self.receiver.handle_prepared(self.now, is_reused, memory);
        self.is_prepared = true;
        for (from, datagram) in waiting.datagrams() {
            self.datagram(from, datagram);
        }
        self.poll();
    }

    /// Ends one of the stores under way.
    pub fn end_store(&mut self, which: usize, end: End) {
        if self.stores.is_empty() {
            return;
        }
        let PendingStore { store, payload } = self.stores.swap_remove(which % self.stores.len());
        match end {
            End::Done => {
                write(&mut self.disk, store.offset, &payload);
                self.receiver.handle_stored(&[store]);
            }
            End::Failed => {
                write(&mut self.disk, store.offset, &payload[..payload.len() / 2]);
                self.receiver.handle_store_failed(&store);
            }
        }
        self.poll();
    }

    /// Ends one piece of work.
    pub fn end_work(&mut self, which: usize, end: End) {
        if self.works.is_empty() {
            return;
        }
        let work = self.works.swap_remove(which % self.works.len());
        self.perform(work, end);
        self.poll();
    }

    /// Does everything there is to do, until there is nothing more.
    pub fn run(&mut self) {
        while self.asked.is_some() || !self.stores.is_empty() || !self.works.is_empty() {
            self.answer();
            self.end_store(0, End::Done);
            self.end_work(0, End::Done);
        }
    }

    fn perform(&mut self, work: Work, end: End) {
        let (now, block, is_done) = (self.now, work.block(), end == End::Done);
        match work {
            Work::Hash { size, .. } => {
                let value = is_done.then(|| block_value(size, block, self.block(block)));
                self.receiver.handle_hashed(now, block, value);
            }
            Work::HashZeroes { size, .. } => {
                // Reads nothing, so that it cannot fail.
                self.receiver.handle_hashed(now, block, Some(zero_block_value(size, block)));
            }
            Work::Clear { .. } => {
                let bytes = self.block(block);
                let cleared = if is_done { bytes.len() } else { bytes.len() / 2 };
                bytes[..cleared].fill(0);
                self.receiver.handle_cleared(block, is_done);
            }
            Work::CheckSlots { .. } if !is_done => self.receiver.handle_slots_unreadable(block),
            Work::CheckSlots { slots, .. } => {
                let bytes = self.block(block);
                let is_wrong = |entry: &&SlotEntry| hash_of(payload_hash(stored(bytes, entry))) != entry.hash;
                let wrong: Vec<_> = slots.iter().filter(is_wrong).copied().collect();
                self.receiver.handle_slots_checked(block, &wrong);
            }
            Work::Decode { layout, slots, kept, .. } => {
                let bytes = self.block(block).to_vec();
                let kept = kept.map(|esi| (esi, self.take_kept(Kept { block, esi })));
                let symbols = slots.iter().map(|entry| (entry.esi, stored(&bytes, entry)));
                let symbols = symbols.chain(kept.iter().map(|(esi, payload)| (*esi, payload.as_slice())));
                let mut out = vec![0; bytes.len()];
                let result = Decoder::new().decode(&layout, block, symbols, &mut out);
                let value = result.ok().filter(|()| is_done).map(|()| block_value(layout.size(), block, &out));
                self.decoded.push((block, out));
                self.receiver.handle_hashed(now, block, value);
            }
            Work::WriteDecoded { .. } => {
                let place = self.decoded.iter().rposition(|(other, _)| *other == block);
                let out = self.decoded.swap_remove(place.expect("what is written has been decoded")).1;
                let count = if is_done { out.len() } else { out.len() / 2 };
                self.block(block)[..count].copy_from_slice(&out[..count]);
                self.receiver.handle_written(block, is_done);
            }
        }
    }

    fn take_kept(&mut self, kept: Kept) -> Vec<u8> {
        let place = self.kept.iter().position(|(other, _)| *other == kept).expect("what is decoded from is kept");
        self.kept.swap_remove(place).1
    }

    fn block(&mut self, block: BlockIndex) -> &mut [u8] {
        self.disk.chunks_mut(BLOCK_SIZE as usize).nth(block.0 as usize).expect("a block of the object")
    }

    /// Changes a word of the map, or of several.
    pub fn spoil_map(&self, index: usize, word: u32) {
        if let Some(place) = self.map.get(index % self.map.len().max(1)) {
            place.store(word, Ordering::Relaxed);
        }
    }
}

fn machine(now: Time) -> Receiver {
    Receiver::new(now, ReceiverConfig { size_max: OBJECT_SIZE_MAX, timeout: None, idle_timeout: None, decode: true })
}

/// Work that other slots of its block may be written to meanwhile.
fn is_check(work: &Work) -> bool {
    matches!(work, Work::CheckSlots { .. })
}

fn write(disk: &mut [u8], offset: u64, bytes: &[u8]) {
    let start = usize::try_from(offset).expect("a small object");
    disk[start..start + bytes.len()].copy_from_slice(bytes);
}

fn stored<'a>(bytes: &'a [u8], entry: &SlotEntry) -> &'a [u8] {
    &bytes[entry.within as usize..][..usize::from(entry.size)]
}

/// The tree of these bytes.
pub fn tree_of(bytes: &[u8]) -> ObjectTree {
    let size = ObjectSize::new(bytes.len() as u64).expect("a small object");
    let blocks = || (0..).map(BlockIndex).zip(bytes.chunks(BLOCK_SIZE as usize));
    let values = blocks().map(|(index, block)| block_value(size, index, block)).collect();
    let zero = blocks().map(|(_, block)| block.iter().all(|&byte| byte == 0)).collect();
    ObjectTree::new(size, values, zero)
}

fn digest_of(bytes: &[u8]) -> Digest {
    tree_of(bytes).digest()
}
