//! Threads that hash and clear blocks while the main thread takes datagrams.

use std::io;
use std::sync::mpsc::{self, Receiver, Sender, TryRecvError};
use std::sync::{Arc, Mutex};
use std::thread;

use crate::digest::{block_value, zero_block_value};
use crate::limits::BLOCK_SIZE;
use crate::object::block_size;
use crate::receiver::Work;
use crate::sys::Target;
use crate::types::{BlockIndex, Digest};

/// Threads at most: more cannot read faster than the disk or the page cache delivers.
const WORKER_COUNT_MAX: usize = 4;
/// Pieces of work under way for each thread: the next one waits while one is done.
const QUEUE_PER_WORKER: usize = 2;

/// What came of a piece of work.
#[derive(Debug)]
pub(super) enum Done {
    /// The value of a block.
    Hashed(BlockIndex, io::Result<Digest>),
    /// A block has been made zero.
    Cleared(BlockIndex, io::Result<()>),
}

/// The threads. They end when this is dropped.
#[derive(Debug)]
pub(super) struct Workers {
    work: Option<Sender<Work>>,
    done: Receiver<Done>,
    under_way: usize,
    room: usize,
    threads: Vec<thread::JoinHandle<()>>,
}

impl Workers {
    /// Threads that work on `target`.
    pub(super) fn new(target: &Arc<Target>) -> io::Result<Self> {
        let count = thread::available_parallelism().map_or(1, usize::from).min(WORKER_COUNT_MAX);
        let (work, work_source) = mpsc::channel();
        let (done_sink, done) = mpsc::channel();
        let work_source = Arc::new(Mutex::new(work_source));
        let threads = (0..count)
            .map(|_| {
                let (source, sink, target) = (Arc::clone(&work_source), done_sink.clone(), Arc::clone(target));
                thread::Builder::new().name("verify".into()).spawn(move || run(&source, &sink, &target))
            })
            .collect::<io::Result<Vec<_>>>()?;
        Ok(Self { work: Some(work), done, under_way: 0, room: count * QUEUE_PER_WORKER, threads })
    }

    /// Whether another piece of work may be given.
    pub(super) fn has_room(&self) -> bool {
        self.under_way < self.room
    }

    /// Whether something is under way.
    pub(super) fn is_busy(&self) -> bool {
        self.under_way > 0
    }

    pub(super) fn give(&mut self, work: Work) {
        let sender = self.work.as_ref().expect("the threads live as long as this");
        sender.send(work).expect("the threads live as long as this");
        self.under_way += 1;
    }

    /// Something that has been done, if there is any.
    pub(super) fn take(&mut self) -> Option<Done> {
        match self.done.try_recv() {
            Ok(done) => {
                self.under_way -= 1;
                Some(done)
            }
            Err(TryRecvError::Empty) => None,
            Err(TryRecvError::Disconnected) => panic!("a verifying thread has ended"),
        }
    }
}

impl Drop for Workers {
    fn drop(&mut self) {
        self.work = None;
        for thread in self.threads.drain(..) {
            // A thread that panicked has said so itself.
            let _ = thread.join();
        }
    }
}

fn run(source: &Mutex<Receiver<Work>>, sink: &Sender<Done>, target: &Target) {
    let mut buffer = vec![0; BLOCK_SIZE as usize];
    loop {
        let next = source.lock().expect("no holder panics").recv();
        let Ok(work) = next else { return };
        if sink.send(perform(work, target, &mut buffer)).is_err() {
            return;
        }
    }
}

fn perform(work: Work, target: &Target, buffer: &mut [u8]) -> Done {
    match work {
        Work::Hash { block, size } => {
            let bytes = &mut buffer[..block_size(size, block) as usize];
            let read = target.read_exact_at(block.offset(), bytes);
            Done::Hashed(block, read.map(|()| block_value(size, block, bytes)))
        }
        Work::HashZeroes { block, size } => Done::Hashed(block, Ok(zero_block_value(size, block))),
        Work::Clear { block, size } => {
            Done::Cleared(block, target.zero(block.offset(), u64::from(block_size(size, block))))
        }
    }
}
