//! Blocks that come in order and fast are put together in memory: they are then hashed where they are and written by one system
//! call, by the threads that verify, instead of being written in pieces by the thread that takes datagrams and read back later. That
//! is more than half of what receiving costs.
//!
//! What is in memory only is lost when the program is killed, so no block waits here for more symbols longer than [`PATIENCE`]. One that is not
//! complete by then, because packets were lost or go round all blocks, is written as far as it has come.

use std::io::IoSlice;
use std::time::Duration;

use crate::limits::{ASSEMBLY_BLOCKS, BLOCK_SIZE};
use crate::object::block_size;
use crate::receiver::Store;
use crate::sys::memory;
use crate::types::{BlockIndex, ObjectSize, Time};

/// A block is put together only while a whole one comes in less than this, and is given up after it.
pub(super) const PATIENCE: Duration = Duration::from_millis(10);

/// A block, as far as it has been put together.
#[derive(Debug)]
pub(super) struct Assembled {
    pub(super) block: BlockIndex,
    pub(super) object_size: ObjectSize,
    /// What the machine is told when it has been written: where the bytes of the block are that have come.
    pub(super) stores: Vec<Store>,
    bytes: Vec<u8>,
    /// The bytes of the block that have come.
    filled: usize,
    /// The bytes of the whole block.
    size: usize,
    began: Time,
}

impl Assembled {
    /// The whole block; `None` if it is not complete.
    pub(super) fn whole(&self) -> Option<&[u8]> {
        (self.filled == self.size).then(|| &self.bytes[..self.size])
    }

    /// What there is of the block: where it begins in the object, and the bytes.
    pub(super) fn runs(&self) -> impl Iterator<Item = (u64, IoSlice<'_>)> {
        let start = self.block.offset();
        self.stores.chunk_by(|one, next| one.offset + u64::from(one.size) == next.offset).map(move |run| {
            let (first, last) = (run[0], run[run.len() - 1]);
            let within = (first.offset - start) as usize..(last.offset - start) as usize + usize::from(last.size);
            (first.offset, IoSlice::new(&self.bytes[within]))
        })
    }
}

/// The blocks that are being put together. Its memory is taken when it is first needed, and is [`ASSEMBLY_BLOCKS`] blocks.
#[derive(Debug, Default)]
pub(super) struct Assembly {
    open: Vec<Assembled>,
    /// To be written, complete or not.
    ready: Vec<Assembled>,
    /// Those that have been, to be used again.
    free: Vec<Assembled>,
    /// How many there are in all, wherever they are.
    count: usize,
    /// How many more than one there may be: memory is taken as blocks prove to come whole.
    credit: usize,
    is_fast: bool,
    window: Window,
}

/// What came since some moment.
#[derive(Debug, Default)]
struct Window {
    began: Time,
    bytes: u64,
}

impl Assembly {
    /// Takes the payload of a symbol of an object of some size that is to be stored, or leaves it to be written at once.
    pub(super) fn take(&mut self, now: Time, store: &Store, object_size: ObjectSize, payload: &[u8]) -> bool {
        self.note(payload.len() as u64);
        if store.slot != store.esi.0 {
            return false;
        }
        let Some(place) = self.open.iter().position(|open| open.block == store.block).or_else(|| {
            // Only from the beginning: a block of which something is elsewhere already can never be complete here.
            let begins = self.is_fast && store.slot == 0;
            begins.then(|| self.begin(now, store.block, object_size)).flatten()
        }) else {
            return false;
        };
        let open = &mut self.open[place];
        let within = (store.offset - open.block.offset()) as usize;
        let (bytes, rest) = open.bytes[within..].split_at_mut(payload.len());
        bytes.copy_from_slice(payload);
        // The next symbol's place: its stores then find it near, and need not wait for memory.
        memory::prefetch(&rest[..rest.len().min(payload.len())]);
        open.stores.push(*store);
        open.filled += payload.len();
        if open.filled == open.size {
            self.credit = (self.credit + 1).min(ASSEMBLY_BLOCKS - 1);
            self.ready.push(self.open.swap_remove(place));
        }
        true
    }

    /// So many bytes have come.
    pub(super) fn note(&mut self, bytes: u64) {
        self.window.bytes += bytes;
    }

    /// A place for a block that begins, if there is one free.
    fn begin(&mut self, now: Time, block: BlockIndex, object_size: ObjectSize) -> Option<usize> {
        if self.count - self.free.len() > self.credit {
            return None;
        }
        let mut free = self.free.pop().unwrap_or_else(|| self.another());
        free.block = block;
        free.object_size = object_size;
        free.size = block_size(object_size, block) as usize;
        free.filled = 0;
        free.began = now;
        self.open.push(free);
        Some(self.open.len() - 1)
    }

    fn another(&mut self) -> Assembled {
        self.count += 1;
        let bytes = vec![0; BLOCK_SIZE as usize];
        let object_size = ObjectSize::new(0).expect("an object may be empty");
        let (block, stores, began) = (BlockIndex(0), Vec::new(), Time::default());
        Assembled { block, object_size, stores, bytes, filled: 0, size: 0, began }
    }

    /// A batch has been taken: measures how fast they come, and gives up blocks that wait for too long.
    pub(super) fn tick(&mut self, now: Time) {
        let elapsed = now.since(self.window.began);
        if elapsed >= PATIENCE {
            // What has piled up while nobody looked says nothing of how fast it comes.
            self.is_fast = elapsed < 2 * PATIENCE && self.window.bytes >= BLOCK_SIZE;
            self.window = Window { began: now, bytes: 0 };
        }
        let is_over = |open: &mut Assembled| now.since(open.began) >= PATIENCE;
        let before = self.ready.len();
        self.ready.extend(self.open.extract_if(.., is_over));
        if self.ready.len() > before {
            self.credit /= 2;
        }
    }

    /// When [`tick`](Self::tick) has something to give up, at the latest.
    pub(super) fn deadline(&self) -> Option<Time> {
        self.open.iter().map(|open| open.began.after(PATIENCE)).min()
    }

    /// Gives up all that is here.
    pub(super) fn give_up(&mut self) {
        self.ready.append(&mut self.open);
    }

    /// The next block to be written.
    pub(super) fn next(&mut self) -> Option<Assembled> {
        self.ready.pop()
    }

    /// It has been written.
    pub(super) fn reuse(&mut self, mut written: Assembled) {
        written.stores.clear();
        self.free.push(written);
    }

    /// Whether something has been taken and not come back.
    pub(super) fn is_idle(&self) -> bool {
        self.free.len() == self.count
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::Esi;

    const MIB: usize = BLOCK_SIZE as usize;
    /// A symbol size of which a block has 128.
    const SYMBOL: usize = 8192;

    fn size(bytes: usize) -> ObjectSize {
        ObjectSize::new(bytes as u64).unwrap()
    }

    fn at(millis: u64) -> Time {
        Time::from_nanos(millis * 1_000_000)
    }

    fn store(block: u32, slot: u16) -> Store {
        let offset = BlockIndex(block).offset() + u64::from(slot) * SYMBOL as u64;
        Store { block: BlockIndex(block), esi: Esi(slot), slot, offset, size: SYMBOL as u16, hash: 0 }
    }

    fn payload(block: u32, slot: u16) -> Vec<u8> {
        vec![block as u8 ^ slot as u8; SYMBOL]
    }

    /// Hands over symbols of a block; answers how many were taken.
    fn give(assembly: &mut Assembly, now: Time, block: u32, slots: impl Iterator<Item = u16>) -> usize {
        slots.filter(|&slot| assembly.take(now, &store(block, slot), size(300 * MIB), &payload(block, slot))).count()
    }

    /// One that has seen a fast stream, at 10 ms.
    fn fast() -> Assembly {
        let mut assembly = Assembly::default();
        assembly.tick(at(0));
        assert_eq!(give(&mut assembly, at(0), 0, 0..128), 0, "nothing is known of the rate");
        assembly.tick(at(10));
        assembly
    }

    fn written(assembled: &Assembled) -> Vec<u8> {
        let mut object = vec![0xEE; 4 * MIB];
        for (offset, run) in assembled.runs() {
            object[offset as usize..offset as usize + run.len()].copy_from_slice(&run);
        }
        object
    }

    #[test]
    fn block_that_comes_whole_is_whole_in_whatever_order_it_comes() {
        let mut assembly = fast();
        assert_eq!(give(&mut assembly, at(10), 2, (0..128).map(|i| i * 37 % 128)), 128);
        let whole = assembly.next().expect("it is complete");
        let expected: Vec<u8> = (0..128).flat_map(|slot| payload(2, slot)).collect();
        assert_eq!(whole.whole(), Some(expected.as_slice()));
        assert_eq!(written(&whole)[2 * MIB..3 * MIB], expected);
        assert_eq!(whole.stores.len(), 128);
        assert!(!assembly.is_idle());
        assembly.reuse(whole);
        assert!(assembly.is_idle() && assembly.next().is_none());
    }

    #[test]
    fn block_with_a_hole_is_given_up_in_time_and_only_what_came_is_written() {
        let mut assembly = fast();
        assert_eq!(give(&mut assembly, at(10), 1, (0..128).filter(|slot| !(5..7).contains(slot))), 126);
        assembly.tick(at(19));
        assert!(assembly.next().is_none());
        assert_eq!(assembly.deadline(), Some(at(20)));
        assembly.tick(at(20));
        let part = assembly.next().expect("its time is over");
        assert_eq!(part.whole(), None);
        let object = written(&part);
        let (start, hole) = (MIB, MIB + 5 * SYMBOL..MIB + 7 * SYMBOL);
        assert!(
            object[..start].iter().chain(&object[hole.clone()]).chain(&object[2 * MIB..]).all(|&byte| byte == 0xEE)
        );
        let (before, after): (Vec<u8>, Vec<u8>) =
            ((0..5).flat_map(|slot| payload(1, slot)).collect(), (7..128).flat_map(|slot| payload(1, slot)).collect());
        assert!(object[start..hole.start] == before && object[hole.end..2 * MIB] == after);
        assert_eq!(assembly.deadline(), None);
        assert_eq!(give(&mut assembly, at(21), 1, 5..7), 0, "what comes later is written at once");
    }

    #[test]
    fn bytes_of_the_block_before_do_not_count_in_the_next() {
        let mut assembly = fast();
        give(&mut assembly, at(10), 0, 0..128);
        let first = assembly.next().unwrap();
        assembly.reuse(first);
        give(&mut assembly, at(11), 1, 0..127);
        assembly.give_up();
        let second = assembly.next().unwrap();
        assert_eq!((second.whole(), second.stores.len()), (None, 127));
        assert!(written(&second)[MIB + 127 * SYMBOL..].iter().all(|&byte| byte == 0xEE));
    }

    #[test]
    fn slow_streams_displaced_symbols_and_the_middle_of_a_block_are_written_at_once() {
        let mut assembly = fast();
        assert_eq!(give(&mut assembly, at(10), 0, 1..128), 0, "no beginning");
        let displaced = Store { esi: Esi(200), ..store(0, 0) };
        assert!(!assembly.take(at(10), &displaced, size(4 * MIB), &payload(0, 0)));
        assembly.tick(at(20));
        assembly.tick(at(30));
        assert_eq!(give(&mut assembly, at(30), 1, 0..128), 0, "nothing came for 10 ms");
        assert!(assembly.is_idle());
    }

    #[test]
    fn memory_grows_only_while_blocks_come_whole() {
        let mut assembly = fast();
        let begin = |assembly: &mut Assembly, block| give(assembly, at(10), block, 0..1) == 1;
        assert!(begin(&mut assembly, 0) && !begin(&mut assembly, 1), "one until it has proved worth it");
        for block in 0..20 {
            give(&mut assembly, at(10), block, u16::from(block == 0)..128);
            let whole = assembly.next().expect("complete");
            assembly.reuse(whole);
        }
        assert_eq!((100..120).filter(|&block| begin(&mut assembly, block)).count(), ASSEMBLY_BLOCKS);
        assembly.tick(at(20));
        let all: Vec<_> = std::iter::from_fn(|| assembly.next()).collect();
        assert_eq!(all.len(), ASSEMBLY_BLOCKS);
        all.into_iter().for_each(|part| assembly.reuse(part));
        give(&mut assembly, at(20), 0, 0..128);
        assert!((200..220).filter(|&block| begin(&mut assembly, block)).count() < ASSEMBLY_BLOCKS, "none came whole");
    }

    #[test]
    fn last_block_is_whole_with_its_own_size() {
        let mut assembly = fast();
        let size = size(3 * MIB + 3 * SYMBOL - 100);
        let last = Store { size: SYMBOL as u16 - 100, ..store(3, 2) };
        assert!(assembly.take(at(10), &store(3, 0), size, &payload(3, 0)));
        assert!(assembly.take(at(10), &store(3, 1), size, &payload(3, 1)));
        assert!(assembly.next().is_none());
        assert!(assembly.take(at(10), &last, size, &payload(3, 2)[..SYMBOL - 100]));
        assert_eq!(assembly.next().unwrap().whole().map(<[u8]>::len), Some(3 * SYMBOL - 100));
    }
}
