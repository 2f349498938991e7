//! Threads that hash, decode, write and clear blocks while the main thread takes datagrams.
//!
//! What they need of memory does not depend on the object: each has a block's worth to read into, one to decode into and what a decoder
//! takes (3 MiB), and what has been decoded and is not yet written is at most what a block lacked for each piece of work under way.

mod decoded;

use std::collections::BTreeMap;
use std::io::{self, IoSlice};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, Receiver, Sender, TryRecvError};
use std::sync::{Arc, Mutex};
use std::thread;

use self::decoded::Decoded;
use super::assembly::Assembled;
use super::slot_map::SlotMap;
use crate::digest::{block_value, zero_block_value};
use crate::fec::Decoder;
use crate::limits::BLOCK_SIZE;
use crate::object::{Layout, block_size};
use crate::receiver::{DecodedNotes, SlotEntry, Work, hash_of};
use crate::sys::{Target, processors};
use crate::types::{BlockIndex, Digest, Esi, ObjectSize};
use crate::wire::payload_hash;

/// Threads at most: decoding takes a core for each 0.4 GB/s, but each has 5 MiB of its own, and as many cores as there are would take
/// as many times that, beside the 8 MiB of the code's tables.
const WORKER_COUNT_MAX: usize = 4;
/// Pieces of work under way for each thread: the next one waits while one is done.
const QUEUE_PER_WORKER: usize = 2;

/// What came of a piece of work.
#[derive(Debug)]
pub(super) enum Done {
    /// The value of a block; `None` if its symbols do not make one.
    Hashed(BlockIndex, io::Result<Option<Digest>>),
    /// The value of a block if it is all zeroes.
    HashedZeroes(BlockIndex, Digest),
    /// A block has been made zero.
    Cleared(BlockIndex, io::Result<()>),
    /// Slots have been looked at: those that are wrong.
    Checked(BlockIndex, io::Result<Vec<SlotEntry>>),
    /// What was decoded has been written.
    Written(BlockIndex, io::Result<()>),
    /// What was put together in memory has been written, and if it was a whole block, this is its value.
    Stored(Assembled, Option<Digest>, io::Result<()>),
}

#[derive(Debug)]
enum Job {
    /// A piece of work with what it needs.
    Work {
        work: Work,
        /// The symbol that was kept for it.
        kept: Option<(Esi, Vec<u8>)>,
        /// What it is to write.
        decoded: Option<Decoded>,
        /// Where what it decodes is to be noted.
        notes: Option<DecodedNotes>,
    },
    /// To hash, if it is whole, and write what was put together of a block.
    Store(Assembled),
}

/// The threads. They end when this is dropped, each with what it is about; what waits is not done.
#[derive(Debug)]
pub(super) struct Workers {
    work: Option<Sender<Job>>,
    done: Receiver<(Done, Option<Decoded>)>,
    /// What has been decoded and may have to be written.
    decoded: BTreeMap<BlockIndex, Decoded>,
    /// The sidecar map of the target, once there is one.
    map: Option<Arc<SlotMap>>,
    under_way: usize,
    room: usize,
    /// Nobody waits any more for what is under way.
    over: Arc<AtomicBool>,
    threads: Vec<thread::JoinHandle<()>>,
}

impl Workers {
    /// Threads that work on `target`.
    pub(super) fn new(target: &Arc<Target>) -> io::Result<Self> {
        let count = thread::available_parallelism().map_or(1, usize::from).min(WORKER_COUNT_MAX);
        let (work, work_source) = mpsc::channel();
        let (done_sink, done) = mpsc::channel();
        let (work_source, writing) = (Arc::new(Mutex::new(work_source)), Arc::new(Mutex::new(())));
        let over = Arc::new(AtomicBool::new(false));
        let threads = (0..count)
            .map(|_| {
                let (source, sink, target) = (Arc::clone(&work_source), done_sink.clone(), Arc::clone(target));
                let (writing, over) = (Arc::clone(&writing), Arc::clone(&over));
                let work = move || run(&source, &sink, &target, &writing, &over);
                thread::Builder::new().name("verify".into()).spawn(work)
            })
            .collect::<io::Result<Vec<_>>>()?;
        Ok(Self {
            work: Some(work),
            done,
            decoded: BTreeMap::new(),
            map: None,
            under_way: 0,
            room: count * QUEUE_PER_WORKER,
            over,
            threads,
        })
    }

    /// From now on work is about slots that this map tells of.
    pub(super) fn note_in(&mut self, map: &Arc<SlotMap>) {
        self.map = Some(Arc::clone(map));
    }

    /// Whether another piece of work may be given.
    pub(super) fn has_room(&self) -> bool {
        self.under_way < self.room
    }

    /// Whether to ask the machine for work. What has been decoded needs no room, because it is here until it is written: what was put
    /// together in memory may have taken all there was since the work was given.
    pub(super) fn asks_for_work(&self) -> bool {
        self.has_room() || !self.decoded.is_empty()
    }

    /// Whether something is under way.
    pub(super) fn is_busy(&self) -> bool {
        self.under_way > 0
    }

    /// `kept` is the symbol that was kept for this work. The machine has what is decoded written first, so that what it has not asked
    /// for when it asks for something else was not right, and is dropped.
    ///
    /// # Panics
    /// If something is to be written that was not decoded, or was discarded.
    pub(super) fn give(&mut self, work: Work, kept: Option<(Esi, Vec<u8>)>) {
        let decoded = match work {
            Work::WriteDecoded { block, .. } => {
                Some(self.decoded.remove(&block).expect("what is to be written has been decoded"))
            }
            _ => {
                self.discard_decoded();
                None
            }
        };
        let notes = match (&work, &self.map) {
            (Work::Decode { layout, .. }, Some(map)) => DecodedNotes::new(*layout, Box::new(Arc::clone(map))),
            _ => None,
        };
        self.send(Job::Work { work, kept, decoded, notes });
    }

    /// To be given whether or not there is room: there are few, and what they hold has already come.
    pub(super) fn give_assembled(&mut self, assembled: Assembled) {
        self.send(Job::Store(assembled));
    }

    fn send(&mut self, job: Job) {
        let sender = self.work.as_ref().expect("the threads live as long as this");
        sender.send(job).expect("the threads live as long as this");
        self.under_way += 1;
    }

    /// Drops what has been decoded but was not asked for again: it was not right.
    pub(super) fn discard_decoded(&mut self) {
        self.decoded.clear();
    }

    /// Something that has been done, if there is any.
    pub(super) fn take(&mut self) -> Option<Done> {
        match self.done.try_recv() {
            Ok(done) => Some(self.taken(done)),
            Err(TryRecvError::Empty) => None,
            Err(TryRecvError::Disconnected) => panic!("a verifying thread has ended"),
        }
    }

    /// Waits for something that is under way; `None` if nothing is.
    pub(super) fn wait(&mut self) -> Option<Done> {
        let done = self.is_busy().then(|| self.done.recv().expect("a verifying thread has ended"))?;
        Some(self.taken(done))
    }

    fn taken(&mut self, (done, decoded): (Done, Option<Decoded>)) -> Done {
        self.under_way -= 1;
        if let (Done::Hashed(block, _), Some(decoded)) = (&done, decoded) {
            self.decoded.insert(*block, decoded);
        }
        done
    }
}

impl Drop for Workers {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Relaxed);
        self.work = None;
        for thread in self.threads.drain(..) {
            // A thread that panicked has said so itself.
            let _ = thread.join();
        }
    }
}

fn run(
    source: &Mutex<Receiver<Job>>,
    sink: &Sender<(Done, Option<Decoded>)>,
    target: &Target,
    writing: &Mutex<()>,
    over: &AtomicBool,
) {
    // Datagrams that have come go first: what is not taken in time is lost.
    processors::give_way();
    let mut worker =
        Worker { target, writing, buffer: vec![0; BLOCK_SIZE as usize], decoded: Vec::new(), decoder: Decoder::new() };
    loop {
        let next = source.lock().expect("no holder panics").recv();
        let Ok(job) = next else { return };
        if over.load(Ordering::Relaxed) {
            return;
        }
        let done = match job {
            Job::Work { work, kept, decoded, notes } => {
                let (done, decoded) = worker.perform(work, kept, decoded);
                (done, decoded.map(|decoded| decoded.noted_by(notes)))
            }
            Job::Store(assembled) => (worker.store(assembled), None),
        };
        if sink.send(done).is_err() {
            return;
        }
    }
}

/// What a thread keeps from one piece of work to the next.
struct Worker<'a> {
    target: &'a Target,
    /// Held by the one who writes a whole block.
    writing: &'a Mutex<()>,
    buffer: Vec<u8>,
    /// Room for a block to be decoded into; empty before the first.
    decoded: Vec<u8>,
    decoder: Decoder,
}

impl Worker<'_> {
    fn perform(
        &mut self,
        work: Work,
        kept: Option<(Esi, Vec<u8>)>,
        decoded: Option<Decoded>,
    ) -> (Done, Option<Decoded>) {
        let done = match work {
            Work::Hash { block, size } => {
                let read = self.read(block, block_size(size, block));
                Done::Hashed(block, read.map(|bytes| Some(block_value(size, block, bytes))))
            }
            Work::HashZeroes { block, size } => Done::HashedZeroes(block, zero_block_value(size, block)),
            Work::Clear { block, size } => {
                Done::Cleared(block, self.target.zero(block.offset(), u64::from(block_size(size, block))))
            }
            Work::CheckSlots { block, size, slots } => {
                let read = self.read(block, block_size(size, block));
                Done::Checked(block, read.map(|bytes| wrong_slots(bytes, slots)))
            }
            Work::Decode { block, layout, slots, .. } => {
                return match self.decode(block, &layout, &slots, kept) {
                    Ok(Some(decoded)) => (Done::Hashed(block, Ok(Some(decoded.value))), Some(decoded)),
                    Ok(None) => (Done::Hashed(block, Ok(None)), None),
                    Err(error) => (Done::Hashed(block, Err(error)), None),
                };
            }
            Work::WriteDecoded { block, size } => {
                let decoded = decoded.expect("what is to be written comes with the work");
                Done::Written(block, self.write(block, size, &decoded))
            }
        };
        (done, None)
    }

    fn store(&self, assembled: Assembled) -> Done {
        let value = hash(self.target, &assembled);
        // Writes to one file wait for one another, and a processor while they do.
        let turn = self.writing.lock().expect("no holder panics");
        let written = write(self.target, &assembled);
        drop(turn);
        Done::Stored(assembled, value, written)
    }

    fn read(&mut self, block: BlockIndex, size: u32) -> io::Result<&[u8]> {
        let bytes = &mut self.buffer[..size as usize];
        self.target.read_exact_at(block.offset(), bytes)?;
        Ok(bytes)
    }

    /// The block that the symbols make, with its value; `None` if they are too few.
    fn decode(
        &mut self,
        block: BlockIndex,
        layout: &Layout,
        slots: &[SlotEntry],
        kept: Option<(Esi, Vec<u8>)>,
    ) -> io::Result<Option<Decoded>> {
        let size = layout.block_size(block);
        self.decoded.resize(BLOCK_SIZE as usize, 0);
        let bytes = &mut self.decoded[..size as usize];
        let read = &mut self.buffer[..size as usize];
        self.target.read_exact_at(block.offset(), read)?;
        let stored = slots.iter().map(|entry| (entry.esi, &read[entry.within as usize..][..usize::from(entry.size)]));
        let symbols = stored.chain(kept.iter().map(|(esi, payload)| (*esi, payload.as_slice())));
        if self.decoder.decode(layout, block, symbols, bytes).is_err() {
            return Ok(None);
        }
        let value = block_value(layout.size(), block, bytes);
        Ok(Some(Decoded::of(bytes, decoded::missing(block, layout, slots), layout.symbol_size(), value)))
    }

    fn write(&mut self, block: BlockIndex, size: ObjectSize, decoded: &Decoded) -> io::Result<()> {
        for (start, piece) in decoded.pieces() {
            self.target.write_run(block.offset() + u64::from(start), &[IoSlice::new(piece)])?;
            if let Some(notes) = &decoded.notes {
                notes.written(block, start, piece);
            }
        }
        if self.target.reads_back()
            && block_value(size, block, self.read(block, block_size(size, block))?) != decoded.value
        {
            return Err(Target::not_kept());
        }
        Ok(())
    }
}

/// What was put together of a block, if it is the whole block and that counts.
fn whole<'a>(target: &Target, assembled: &'a Assembled) -> Option<&'a [u8]> {
    // Where only what is read back counts, there is nothing to be gained from what is here.
    assembled.whole().filter(|_| !target.reads_back())
}

/// The value of a block that was put together; `None` if it is not whole, or has to be read back.
pub(super) fn hash(target: &Target, assembled: &Assembled) -> Option<Digest> {
    whole(target, assembled).map(|bytes| block_value(assembled.object_size, assembled.block, bytes))
}

/// Writes what was put together of a block.
pub(super) fn write(target: &Target, assembled: &Assembled) -> io::Result<()> {
    if let Some(bytes) = whole(target, assembled) {
        target.expect(assembled.block.offset(), bytes.len() as u64);
    }
    assembled.runs().try_for_each(|(offset, run)| target.write_run(offset, &[run]))
}

fn wrong_slots(bytes: &[u8], mut slots: Vec<SlotEntry>) -> Vec<SlotEntry> {
    slots.retain(|entry| {
        let stored = &bytes[entry.within as usize..][..usize::from(entry.size)];
        hash_of(payload_hash(stored)) != entry.hash
    });
    slots
}

#[cfg(test)]
mod tests {
    use super::super::assembly::{self, Assembly};
    use super::*;
    use crate::fec::Encoder;
    use std::ops::Range;
    use std::sync::atomic::Ordering;

    use crate::receiver::{SlotMemory, Store};
    use crate::types::{SymbolSize, Time};

    const ID: &str = "0123456789abcdef01234567";
    const MIB: usize = BLOCK_SIZE as usize;

    fn content(size: usize) -> Vec<u8> {
        (0..size).map(|i| (i * 31 + i / 1408) as u8).collect()
    }

    fn layout(size: usize) -> Layout {
        Layout::new(ObjectSize::new(size as u64).unwrap(), SymbolSize::new(1408).unwrap())
    }

    /// A target of which `block` holds `symbols`, each in the slot beside it.
    fn target_with(
        folder: &std::path::Path,
        content: &[u8],
        block: BlockIndex,
        symbols: &[(u16, Esi)],
    ) -> (Arc<Target>, Vec<SlotEntry>) {
        let layout = layout(content.len());
        let target = Target::create(&folder.join("file"), content.len() as u64, ID).unwrap().target;
        let source = content.chunks(MIB).nth(block.0 as usize).unwrap();
        let (first, size) = (layout.source_symbol_count(block), usize::from(layout.shard_size(block)));
        let count = layout.repair_symbol_count(block, 100).min(100);
        let mut repair = vec![0; usize::from(count) * size];
        Encoder::new().encode(&layout, block, source, count, &mut repair);
        let entries = symbols.iter().map(|&(slot, esi)| {
            let payload = match layout.place(block, esi) {
                Some(place) => &content[place.offset as usize..][..usize::from(place.size)],
                None => &repair[usize::from(esi.0 - first) * size..][..size],
            };
            let place = layout.place(block, Esi(slot)).unwrap();
            target.write_run(place.offset, &[IoSlice::new(payload)]).unwrap();
            let within = u32::try_from(place.offset - block.offset()).unwrap();
            let size = u16::try_from(payload.len()).unwrap();
            SlotEntry { slot, esi, within, size, hash: hash_of(payload_hash(payload)) }
        });
        let entries = entries.collect();
        (Arc::new(target), entries)
    }

    fn done(workers: &mut Workers) -> Done {
        loop {
            if let Some(done) = workers.take() {
                return done;
            }
            thread::yield_now();
        }
    }

    #[test]
    fn decoded_block_is_written_where_it_was_not_in_place_and_is_right() {
        let folder = tempfile::tempdir().unwrap();
        let content = content(2 * MIB);
        let (block, layout) = (BlockIndex(1), layout(content.len()));
        // The first has a repair symbol in its place, the second and third have changed places, the fourth is missing but kept.
        let mut symbols: Vec<_> = (4..745).map(|slot| (slot, Esi(slot))).collect();
        symbols.extend([(0, Esi(800)), (1, Esi(2)), (2, Esi(1))]);
        let (target, mut slots) = target_with(folder.path(), &content, block, &symbols);
        slots.sort_unstable_by_key(|entry| entry.slot);
        let kept = Esi(3);
        let kept_bytes = content[MIB + 3 * 1408..][..1408].to_vec();
        let mut workers = Workers::new(&target).unwrap();
        // A header, a word for each of the two marks, and one for each slot.
        let map = Arc::new(SlotMap::anonymous(16 + 2 + 2 * 745).unwrap());
        workers.note_in(&map);
        workers.give(Work::Decode { block, layout, slots, kept: Some(kept) }, Some((kept, kept_bytes)));
        let Done::Hashed(_, Ok(Some(value))) = done(&mut workers) else { panic!("not decoded") };
        assert_eq!(value, block_value(layout.size(), block, &content[MIB..]));
        let mut bytes = vec![0; MIB];
        target.read_exact_at(block.offset(), &mut bytes).unwrap();
        assert_ne!(bytes, content[MIB..], "nothing is written before it is asked for");
        workers.give(Work::WriteDecoded { block, size: layout.size() }, None);
        assert!(matches!(done(&mut workers), Done::Written(BlockIndex(1), Ok(()))));
        target.read_exact_at(block.offset(), &mut bytes).unwrap();
        assert_eq!(bytes, content[MIB..]);
        let noted: Vec<_> = map.words()[16 + 2 + 745..].iter().map(|word| word.load(Ordering::Relaxed)).collect();
        for (slot, word) in (0..).zip(noted) {
            let hash = u32::from(hash_of(payload_hash(
                &bytes[slot as usize * 1408..][..1408.min(MIB - slot as usize * 1408)],
            )));
            assert_eq!(
                word,
                if slot < 4 { (slot + 1) << 16 | hash } else { 0 },
                "slot {slot}: what was written is noted"
            );
        }
    }

    #[test]
    fn too_few_symbols_make_no_block() {
        let folder = tempfile::tempdir().unwrap();
        let content = content(MIB + 3000);
        let (block, layout) = (BlockIndex(1), layout(content.len()));
        let (target, slots) = target_with(folder.path(), &content, block, &[(0, Esi(0)), (1, Esi(4))]);
        let mut workers = Workers::new(&target).unwrap();
        workers.give(Work::Decode { block, layout, slots, kept: None }, None);
        assert!(matches!(done(&mut workers), Done::Hashed(BlockIndex(1), Ok(None))));
    }

    #[test]
    fn slots_that_hold_something_else_are_told() {
        let folder = tempfile::tempdir().unwrap();
        let content = content(2 * MIB);
        let block = BlockIndex(1);
        let (target, slots) =
            target_with(folder.path(), &content, block, &[(0, Esi(0)), (5, Esi(800)), (7, Esi(744)), (744, Esi(744))]);
        target.write_run(block.offset() + 5 * 1408 + 1407, &[IoSlice::new(&[0xEE])]).unwrap();
        // Behind the short symbol in a long slot anything may be.
        target.write_run(block.offset() + 7 * 1408 + 1024, &[IoSlice::new(&[0xEE])]).unwrap();
        let size = layout(content.len()).size();
        let mut workers = Workers::new(&target).unwrap();
        workers.give(Work::CheckSlots { block, size, slots: slots.clone() }, None);
        let Done::Checked(_, Ok(wrong)) = done(&mut workers) else { panic!("not checked") };
        assert_eq!(wrong, [slots[1]]);
    }

    /// These symbols of a block, put together in memory.
    fn assembled(layout: &Layout, content: &[u8], block: BlockIndex, slots: Range<u16>) -> Assembled {
        let mut assembly = Assembly::default();
        let (start, fast) = (Time::from_nanos(1), Time::from_nanos(1).after(assembly::PATIENCE));
        assembly.note(MIB as u64);
        assembly.tick(fast);
        for slot in slots {
            let place = layout.place(block, Esi(slot)).unwrap();
            let store = Store { block, esi: Esi(slot), slot, offset: place.offset, size: place.size, hash: 0 };
            let payload = &content[place.offset as usize..][..usize::from(place.size)];
            assert!(assembly.take(start, &store, layout.size(), payload));
        }
        assembly.give_up();
        assembly.next().unwrap()
    }

    #[test]
    fn decoded_block_is_asked_for_and_written_when_there_is_no_room_for_more_work() {
        let folder = tempfile::tempdir().unwrap();
        let content = content(MIB + 3000);
        let (layout, block) = (layout(content.len()), BlockIndex(1));
        let (target, slots) = target_with(folder.path(), &content, block, &[(0, Esi(3)), (1, Esi(1)), (2, Esi(2))]);
        let mut workers = Workers::new(&target).unwrap();
        let decode = |workers: &mut Workers| {
            workers.give(Work::Decode { block, layout, slots: slots.clone(), kept: None }, None);
            assert!(matches!(done(workers), Done::Hashed(BlockIndex(1), Ok(Some(_)))));
        };
        decode(&mut workers);
        while workers.has_room() {
            workers.give_assembled(assembled(&layout, &content, BlockIndex(0), 0..3));
        }
        assert!(workers.asks_for_work());
        workers.give(Work::WriteDecoded { block, size: layout.size() }, None);
        assert!(!workers.asks_for_work(), "nothing else is waiting");
        while workers.is_busy() {
            let done = done(&mut workers);
            assert!(matches!(done, Done::Stored(_, _, Ok(())) | Done::Written(BlockIndex(1), Ok(()))), "{done:?}");
        }
        let mut bytes = vec![0; 3000];
        target.read_exact_at(MIB as u64, &mut bytes).unwrap();
        assert_eq!(bytes, content[MIB..]);

        decode(&mut workers);
        workers.give(Work::Hash { block, size: layout.size() }, None);
        assert!(workers.decoded.is_empty(), "what is not asked for first was not right");
    }

    #[test]
    fn block_put_together_is_written_and_its_value_is_that_of_its_bytes() {
        let folder = tempfile::tempdir().unwrap();
        let content = content(MIB + 3000);
        let (layout, block) = (layout(content.len()), BlockIndex(1));
        let target = Arc::new(Target::create(&folder.path().join("file"), content.len() as u64, ID).unwrap().target);
        let mut workers = Workers::new(&target).unwrap();
        for slots in [0..3, 0..2] {
            let expected = (slots.len() == 3).then(|| block_value(layout.size(), block, &content[MIB..]));
            workers.give_assembled(assembled(&layout, &content, block, slots));
            let Some(Done::Stored(stored, value, Ok(()))) = workers.wait() else { panic!("not stored") };
            assert_eq!((stored.block, value), (block, expected));
        }
        let mut bytes = vec![0; 3000];
        target.read_exact_at(MIB as u64, &mut bytes).unwrap();
        assert_eq!(bytes, content[MIB..]);
        assert!(workers.wait().is_none());
    }

    #[test]
    fn block_put_together_for_a_device_counts_only_as_it_is_read_back() {
        let folder = tempfile::tempdir().unwrap();
        let content = content(MIB + 3000);
        let (layout, block) = (layout(content.len()), BlockIndex(1));
        let mut workers = Workers::new(&Arc::new(Target::forgetful_device(folder.path()))).unwrap();
        workers.give_assembled(assembled(&layout, &content, block, 0..3));
        let Some(Done::Stored(_, None, Ok(()))) = workers.wait() else { panic!("nothing is known of it yet") };
        workers.give(Work::Hash { block, size: layout.size() }, None);
        let Done::Hashed(_, Ok(Some(value))) = done(&mut workers) else { panic!("not read") };
        assert_ne!(value, block_value(layout.size(), block, &content[MIB..]), "the device has not kept it");
    }
}
