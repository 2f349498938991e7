//! Repair symbols: computed once, by threads of their own, while the first packets go already, and kept in a mapped file without a
//! name, so that the kernel may put them away.

use std::fs::DirBuilder;
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{Builder, Scope};

use super::report;
use crate::digest::{ObjectTree, block_value};
use crate::failure::{Exit, Failure, shown};
use crate::fec::Encoder;
use crate::limits::ENCODER_THREAD_COUNT_MAX;
use crate::object::Layout;
use crate::sender::{Content, Sender, SentBlock};
use crate::sys::{ScratchSlots, SourceMap, free_space, processors};
use crate::types::BlockIndex;

/// The repair symbols of an object.
#[derive(Debug)]
pub(super) struct Repair {
    /// A slot for each block that is sent; `None` if there are no repair symbols.
    slots: Option<ScratchSlots>,
    layout: Layout,
    /// R_b and the block, for each block that is sent.
    percent: u16,
    blocks: Vec<BlockIndex>,
    queue: Queue,
    /// What the blocks were when the object got its digest.
    tree: Arc<ObjectTree>,
    is_changed: AtomicBool,
}

/// The object and its repair symbols.
#[derive(Clone, Copy, Debug)]
pub(super) struct Symbols<'a> {
    pub(super) source: &'a SourceMap,
    pub(super) repair: &'a Repair,
}

impl Content for Symbols<'_> {
    fn source(&self) -> &[u8] {
        self.source
    }

    fn repair(&self, block: SentBlock) -> Option<&[u8]> {
        self.repair.slots.as_ref()?.get(block.0 as usize)
    }
}

impl Repair {
    /// Takes the room for the repair symbols that `senders`, of which there is at least one, will send: in `cache_dir`, or in the
    /// folder for temporary files if there is none.
    ///
    /// # Errors
    /// [`Exit::CannotCreate`] if there is no room, with the largest percentage for which there is.
    pub(super) fn new(senders: &[Sender], cache_dir: Option<PathBuf>) -> Result<Self, Failure> {
        let first = senders.first().expect("there is a virtual server");
        let carousel = first.carousel();
        let (layout, percent) = (*carousel.layout(), carousel.repair_percent());
        let blocks: Vec<_> = (0..carousel.sent_count()).map(|rank| carousel.block_of(SentBlock(rank))).collect();
        let starts = senders.iter().map(|sender| carousel.window_start(sender.next_position()));
        let queue = Queue::new(carousel.sent_count(), starts.collect());
        let has_any = percent > 0 && !blocks.is_empty();
        let folder = cache_dir.unwrap_or_else(std::env::temp_dir);
        let slots = has_any.then(|| slots(&folder, &layout, &blocks, percent)).transpose()?;
        let tree = Arc::clone(first.tree());
        Ok(Self { slots, layout, percent, blocks, queue, tree, is_changed: AtomicBool::new(false) })
    }

    /// Whether a block was not what it had been when the object got its digest: no repair symbols were made of it.
    pub(super) fn is_changed(&self) -> bool {
        self.is_changed.load(Ordering::Relaxed)
    }

    /// Starts the threads that compute them. They end when all is done, when `stop` is set, and when bytes of the source are gone;
    /// `server_count` other threads have work to do.
    ///
    /// # Errors
    /// [`Exit::Unavailable`] if a thread cannot be started.
    pub(super) fn spawn<'scope>(
        &'scope self,
        scope: &'scope Scope<'scope, '_>,
        source: &'scope SourceMap,
        stop: &'scope AtomicBool,
        server_count: usize,
    ) -> Result<(), Failure> {
        if self.slots.is_none() {
            return Ok(());
        }
        let spare = processors::allowed().len().saturating_sub(server_count);
        for index in 0..spare.clamp(1, ENCODER_THREAD_COUNT_MAX) {
            let thread = Builder::new().name(format!("encoder {index}"));
            thread.spawn_scoped(scope, || self.run(source, stop)).map_err(|error| {
                Failure::io(Exit::Unavailable, format!("start the thread of encoder {index}"), &error)
            })?;
        }
        Ok(())
    }

    fn run(&self, source: &SourceMap, stop: &AtomicBool) {
        let Some(slots) = &self.slots else { return };
        // Packets that are due go first.
        processors::give_way();
        let (mut encoder, mut copy) = (Encoder::new(), Vec::new());
        while !stop.load(Ordering::Relaxed) && !source.is_torn() {
            let Some(SentBlock(rank)) = self.queue.next() else { return };
            let block = self.blocks[rank as usize];
            self.copy(block, source, &mut copy);
            if !source.is_torn() && !self.is_right(block, &copy) {
                self.is_changed.store(true, Ordering::Relaxed);
                return;
            }
            slots.fill(rank as usize, |slot| self.encode(&mut encoder, block, &copy, source, slot));
        }
    }

    /// The source can change while it is read: what is compared must be what is encoded.
    fn copy(&self, block: BlockIndex, source: &SourceMap, copy: &mut Vec<u8>) {
        let start = usize::try_from(block.offset()).expect("the object is mapped");
        copy.clear();
        copy.extend_from_slice(&source[start..start + self.layout.block_size(block) as usize]);
    }

    fn is_right(&self, block: BlockIndex, bytes: &[u8]) -> bool {
        let value = self.tree.values().get(block.0 as usize);
        value == Some(&block_value(self.layout.size(), block, bytes))
    }

    /// Whether the symbols are right: the source can be cut short while it is read.
    fn encode(
        &self,
        encoder: &mut Encoder,
        block: BlockIndex,
        bytes: &[u8],
        source: &SourceMap,
        slot: &mut [u8],
    ) -> bool {
        let count = self.layout.repair_symbol_count(block, self.percent);
        let size = usize::from(count) * usize::from(self.layout.shard_size(block));
        encoder.encode(&self.layout, block, bytes, count, &mut slot[..size]);
        !source.is_torn()
    }
}

/// Which block is next. Each virtual server's part is as near to being done as any other's: each goes through the blocks in their
/// order from its own start, and the part of one ends where that of another begins.
#[derive(Debug)]
struct Queue {
    /// First block and number of blocks of each part.
    parts: Vec<(u32, u32)>,
    block_count: u32,
    next: AtomicU64,
    end: u64,
}

impl Queue {
    fn new(block_count: u32, mut starts: Vec<SentBlock>) -> Self {
        starts.sort_unstable();
        starts.dedup();
        let ends = starts.iter().skip(1).map(|start| start.0).chain(starts.first().map(|start| start.0 + block_count));
        let parts: Vec<_> = starts.iter().zip(ends).map(|(start, end)| (start.0, end - start.0)).collect();
        let longest = parts.iter().map(|&(_, size)| size).max().unwrap_or(0);
        let end = u64::from(longest) * parts.len() as u64;
        Self { parts, block_count, next: AtomicU64::new(0), end }
    }

    fn next(&self) -> Option<SentBlock> {
        loop {
            let turn = self.next.fetch_add(1, Ordering::Relaxed);
            if turn >= self.end {
                return None;
            }
            let count = self.parts.len() as u64;
            let (start, size) = self.parts[usize::try_from(turn % count).expect("one of the parts")];
            let step = u32::try_from(turn / count).expect("less than a part");
            if step < size {
                return Some(SentBlock((start + step) % self.block_count));
            }
        }
    }
}

fn slots(folder: &Path, layout: &Layout, blocks: &[BlockIndex], percent: u16) -> Result<ScratchSlots, Failure> {
    let what = || format!("keep repair symbols in {}", shown(folder));
    let failed = |error: &io::Error| {
        let remedy = "name another folder with --cache-dir, or do without by --fec 0";
        Failure::io(Exit::CannotCreate, what(), error).remedy(remedy)
    };
    // It may not be there yet; if it cannot be made, the next step says why.
    let _ = DirBuilder::new().recursive(true).mode(0o700).create(folder);
    let free = free_space(folder).map_err(|error| failed(&error))?;
    let size = |percent| slot_size(layout, blocks, percent) as u64 * blocks.len() as u64;
    check_room(what, size, percent, free)?;
    ScratchSlots::new(folder, blocks.len(), slot_size(layout, blocks, percent)).map_err(|error| failed(&error))
}

fn check_room(what: impl Fn() -> String, size: impl Fn(u16) -> u64, percent: u16, free: u64) -> Result<(), Failure> {
    if size(percent) <= free {
        return Ok(());
    }
    let cause = format!("{} are needed, {} are free", report::bytes(size(percent)), report::bytes(free));
    let largest = (0..percent).rev().find(|&percent| size(percent) <= free).unwrap_or(0);
    let remedy = format!("there is room for --fec {largest}%; or name another folder with --cache-dir");
    Err(Failure::new(Exit::CannotCreate, what(), cause).remedy(remedy))
}

/// The bytes of all repair symbols of the block that has most. All blocks but the object's last are alike.
fn slot_size(layout: &Layout, blocks: &[BlockIndex], percent: u16) -> usize {
    let size = |&block| usize::from(layout.repair_symbol_count(block, percent)) * usize::from(layout.shard_size(block));
    blocks.first().into_iter().chain(blocks.last()).map(size).max().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::FileExt;

    use super::*;
    use crate::drive::digest_file::{self, CacheFolder};
    use crate::drive::report::Report;
    use crate::sender::{Fec, Pacing, SenderConfig, Share};
    use crate::sys::SourceFile;
    use crate::types::SymbolSize;

    const MIB: usize = 1 << 20;

    /// A file of five blocks of which the second is all zeroes, what `server_count` virtual servers are made of, and its bytes.
    fn object(folder: &Path, percent: u16, server_count: u32) -> (SourceFile, Vec<Sender>, Vec<u8>) {
        let path = folder.join("object");
        let byte = |i: usize| if i / MIB == 1 { 0 } else { ((i * i) >> 7) as u8 | 1 };
        let bytes: Vec<_> = (0..4 * MIB + 5000).map(byte).collect();
        fs::write(&path, &bytes).unwrap();
        let file = SourceFile::open(&path).unwrap();
        let mut report = Report::new("test", false);
        let tree = Arc::new(digest_file::tree(&file, &path, &CacheFolder::default(), &mut report).unwrap());
        let config = SenderConfig {
            symbol_size: SymbolSize::new(1408).unwrap(),
            payload_size_max: 1408,
            ip_overhead: 28,
            pacing: Pacing::Unpaced,
            start_ppm: 0,
            fec: Fec::new(percent),
            passes: None,
            manifest_text: b"{}".to_vec(),
            manifest_signature: Vec::new(),
        };
        let shares = (0..server_count).filter_map(|index| Share::new(index, server_count));
        let senders = shares.map(|share| Sender::with_share(Arc::clone(&tree), &config, share).unwrap()).collect();
        (file, senders, bytes)
    }

    /// Runs the encoders to their end.
    fn run(repair: &Repair, source: &SourceMap, stop: &AtomicBool) {
        std::thread::scope(|scope| repair.spawn(scope, source, stop, 1)).unwrap();
    }

    /// What the repair symbols of a block of these bytes must be.
    fn repair_symbols(layout: &Layout, block: u32, percent: u16, bytes: &[u8]) -> Vec<u8> {
        let count = layout.repair_symbol_count(BlockIndex(block), percent);
        let mut symbols = vec![0; usize::from(count) * usize::from(layout.shard_size(BlockIndex(block)))];
        let part = bytes.chunks(MIB).nth(block as usize).unwrap();
        Encoder::new().encode(layout, BlockIndex(block), part, count, &mut symbols);
        symbols
    }

    /// The file of [`object`], as somebody who writes to it has it.
    fn writable(folder: &Path) -> fs::File {
        fs::OpenOptions::new().write(true).open(folder.join("object")).unwrap()
    }

    #[test]
    fn every_block_that_is_sent_gets_its_repair_symbols() {
        let folder = tempfile::tempdir().unwrap();
        let (file, senders, bytes) = object(folder.path(), 30, 3);
        let cache = folder.path().join("not/there/yet");
        let (repair, source) = (Repair::new(&senders, Some(cache)).unwrap(), file.map().unwrap());
        let symbols = Symbols { source: &source, repair: &repair };
        assert!((0..4).all(|rank| symbols.repair(SentBlock(rank)).is_none()), "none before it is computed");
        run(&repair, &source, &AtomicBool::new(false));
        let layout = senders[0].carousel().layout();
        for (rank, block) in [0, 2, 3, 4].into_iter().enumerate() {
            let expected = repair_symbols(layout, block, 30, &bytes);
            let made = symbols.repair(SentBlock(rank as u32)).expect("it is computed");
            assert!(made.starts_with(&expected), "block {block}");
        }
        assert_eq!(symbols.repair(SentBlock(4)), None);
        assert!(symbols.source() == bytes);
    }

    #[test]
    fn nothing_is_computed_after_the_stop_or_without_repair_symbols() {
        let folder = tempfile::tempdir().unwrap();
        for (percent, is_stopped) in [(30, true), (0, false)] {
            let (file, senders, _) = object(folder.path(), percent, 1);
            let (repair, source) = (Repair::new(&senders, None).unwrap(), file.map().unwrap());
            run(&repair, &source, &AtomicBool::new(is_stopped));
            let symbols = Symbols { source: &source, repair: &repair };
            assert!((0..4).all(|rank| symbols.repair(SentBlock(rank)).is_none()));
        }
    }

    #[test]
    fn source_that_is_cut_short_makes_no_repair_symbols() {
        let folder = tempfile::tempdir().unwrap();
        let (file, senders, _) = object(folder.path(), 30, 1);
        let (repair, source) = (Repair::new(&senders, None).unwrap(), file.map().unwrap());
        writable(folder.path()).set_len(MIB as u64 / 2).unwrap();
        run(&repair, &source, &AtomicBool::new(false));
        assert!(source.is_torn());
        let symbols = Symbols { source: &source, repair: &repair };
        assert!((0..4).all(|rank| symbols.repair(SentBlock(rank)).is_none()));
    }

    #[test]
    fn block_that_is_overwritten_before_it_is_encoded_has_no_repair_symbols() {
        let folder = tempfile::tempdir().unwrap();
        let (file, senders, bytes) = object(folder.path(), 30, 1);
        let (repair, source) = (Repair::new(&senders, None).unwrap(), file.map().unwrap());
        let at = 2 * MIB + 777;
        writable(folder.path()).write_all_at(&[!bytes[at]], at as u64).unwrap();
        run(&repair, &source, &AtomicBool::new(false));
        let symbols = Symbols { source: &source, repair: &repair };
        assert!(repair.is_changed() && symbols.repair(SentBlock(1)).is_none());
    }

    /// Somebody writes other bytes and the right ones by turns: a block is encoded as its digest says, or not at all.
    #[test]
    fn block_that_is_overwritten_while_it_is_encoded_has_right_repair_symbols_or_none() {
        let folder = tempfile::tempdir().unwrap();
        let (file, senders, bytes) = object(folder.path(), 30, 1);
        let (range, at) = (2 * MIB + 1000..2 * MIB + 5000, 2 * MIB as u64 + 1000);
        let right = &bytes[range];
        let wrong: Vec<_> = right.iter().map(|byte| !byte).collect();
        let expected = repair_symbols(senders[0].carousel().layout(), 2, 30, &bytes);
        let writable = writable(folder.path());
        for _ in 0..30 {
            let (repair, source) = (Repair::new(&senders, None).unwrap(), file.map().unwrap());
            std::thread::scope(|scope| {
                let encoders = scope.spawn(|| run(&repair, &source, &AtomicBool::new(false)));
                while !encoders.is_finished() {
                    [&wrong, right].iter().for_each(|part| writable.write_all_at(part, at).unwrap());
                }
            });
            let symbols = Symbols { source: &source, repair: &repair };
            match symbols.repair(SentBlock(1)) {
                Some(made) => assert!(!repair.is_changed() && made.starts_with(&expected)),
                None => assert!(repair.is_changed()),
            }
        }
    }

    #[test]
    fn parts_of_virtual_servers_go_on_together() {
        let order = |count, starts: &[u32]| {
            let queue = Queue::new(count, starts.iter().copied().map(SentBlock).collect());
            std::iter::from_fn(|| queue.next()).map(|block| block.0).collect::<Vec<_>>()
        };
        assert_eq!(order(8, &[5, 2, 5]), [2, 5, 3, 6, 4, 7, 0, 1]);
        assert_eq!(order(4, &[3]), [3, 0, 1, 2]);
        assert!(order(0, &[0]).is_empty());
        let mut all = order(1000, &[17, 400, 401, 402, 999]);
        all.sort_unstable();
        assert_eq!(all, (0..1000).collect::<Vec<_>>());
    }

    #[test]
    fn no_room_is_refused_with_the_largest_percentage_that_fits() {
        let what = || "keep".to_owned();
        let size = |percent: u16| u64::from(percent) * 1000;
        assert_eq!(check_room(what, size, 50, 50_000), Ok(()));
        let failure = check_room(what, size, 50, 37_999).unwrap_err();
        assert_eq!(failure.exit, Exit::CannotCreate);
        assert!(failure.to_string().contains("--fec 37%"), "{failure}");
        assert!(check_room(what, size, 50, 0).unwrap_err().to_string().contains("--fec 0%"));
    }

    #[test]
    fn folder_that_cannot_be_used_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let (_, senders, _) = object(folder.path(), 30, 1);
        let failure = Repair::new(&senders, Some(folder.path().join("object"))).unwrap_err();
        assert!(failure.to_string().contains("object") && failure.exit == Exit::CannotCreate, "{failure}");
    }
}
