//! Repair symbols: computed once, by threads of their own, while the first packets go already, and kept in a mapped file without a
//! name, so that the kernel may put them away.

use std::fs::DirBuilder;
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{Builder, Scope};

use super::report;
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
        let carousel = senders.first().expect("there is a virtual server").carousel();
        let (layout, percent) = (*carousel.layout(), carousel.repair_percent());
        let blocks: Vec<_> = (0..carousel.sent_count()).map(|rank| carousel.block_of(SentBlock(rank))).collect();
        let starts = senders.iter().map(|sender| carousel.window_start(sender.next_position()));
        let queue = Queue::new(carousel.sent_count(), starts.collect());
        let has_any = percent > 0 && !blocks.is_empty();
        let folder = cache_dir.unwrap_or_else(std::env::temp_dir);
        let slots = has_any.then(|| slots(&folder, &layout, &blocks, percent)).transpose()?;
        Ok(Self { slots, layout, percent, blocks, queue })
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
        let mut encoder = Encoder::new();
        while !stop.load(Ordering::Relaxed) && !source.is_torn() {
            let Some(SentBlock(rank)) = self.queue.next() else { return };
            slots.fill(rank as usize, |slot| self.encode(&mut encoder, self.blocks[rank as usize], source, slot));
        }
    }

    /// Whether the symbols are right: the source can be cut short while it is read.
    fn encode(&self, encoder: &mut Encoder, block: BlockIndex, source: &SourceMap, slot: &mut [u8]) -> bool {
        let start = usize::try_from(block.offset()).expect("the object is mapped");
        let bytes = &source[start..start + self.layout.block_size(block) as usize];
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
    if size(percent) > free {
        let cause = format!("{} are needed, {} are free", report::bytes(size(percent)), report::bytes(free));
        let largest = (0..percent).rev().find(|&percent| size(percent) <= free).unwrap_or(0);
        let remedy = format!("there is room for --fec {largest}%, or see --cache-dir");
        return Err(Failure::new(Exit::CannotCreate, what(), cause).remedy(remedy));
    }
    ScratchSlots::new(folder, blocks.len(), slot_size(layout, blocks, percent)).map_err(|error| failed(&error))
}

/// The bytes of all repair symbols of the block that has most. All blocks but the object's last are alike.
fn slot_size(layout: &Layout, blocks: &[BlockIndex], percent: u16) -> usize {
    let size = |&block| usize::from(layout.repair_symbol_count(block, percent)) * usize::from(layout.shard_size(block));
    blocks.first().into_iter().chain(blocks.last()).map(size).max().unwrap_or(0)
}
