//! Nothing is allocated for a packet, on either side, once things are under way: the whole path is run with an allocator that counts.
//!
//! Nor is a lock taken for one. That cannot be counted, but it can be read: on the sender's side a virtual server shares only atomics
//! with the others (`drive::virtual_server`: the hashes of payloads, the flag to stop, its counters) and an io_uring that belongs to
//! its thread; a channel is used for warnings alone. On the receiver's side the machine belongs to the thread that takes the datagrams; a
//! channel carries one message for each block of up to 2048 symbols to the threads that verify, and one back. What is held in the
//! kernel's locks is not ours to say.
//!
//! The allocator is `unsafe` by its nature; it does nothing but count and hand on.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::hint::black_box;
use std::path::{Path, PathBuf};
use std::time::Duration;

use iotupd::drive::bench::{Manner, OurSender, Place, Recording, Replay, Way};
use iotupd::drive::serve::{EngineChoice, ImageChoice};
use iotupd::limits::FEC_PERCENT_DEFAULT;
use iotupd::sender::{Fec, Pacing};

/// What a server does unless it is told otherwise.
const ROWS: Fec = Fec::new(FEC_PERCENT_DEFAULT);

/// Counts what the calling thread allocates: tests run side by side.
struct Counting;

#[global_allocator]
static COUNTING: Counting = Counting;

thread_local! {
    static ALLOCATIONS: Cell<u64> = const { Cell::new(0) };
}

fn count_one() {
    // A thread that is ending counts no more.
    let _ = ALLOCATIONS.try_with(|count| count.set(count.get() + 1));
}

// SAFETY: every method hands its arguments to the system's allocator, whose promises are then ours.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count_one();
        // SAFETY: the caller's promise is the one that is asked for.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        count_one();
        // SAFETY: as above.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, old: *mut u8, layout: Layout, new_size: usize) -> *mut u8 {
        count_one();
        // SAFETY: as above.
        unsafe { System.realloc(old, layout, new_size) }
    }

    unsafe fn dealloc(&self, old: *mut u8, layout: Layout) {
        // SAFETY: as above.
        unsafe { System.dealloc(old, layout) }
    }
}

/// How often `work` allocates.
fn allocations_of<T>(work: impl FnOnce() -> T) -> u64 {
    let before = ALLOCATIONS.get();
    let result = work();
    let count = ALLOCATIONS.get() - before;
    drop(result);
    count
}

/// A file of noise with a block of zeroes in it, and a last block that is not full.
fn noise() -> (tempfile::TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("noise");
    let byte = |index: usize| if index >> 20 == 2 { 0 } else { (index * 31 + (index >> 11)) as u8 | 1 };
    std::fs::write(&path, (0..(5 << 20) + 777).map(byte).collect::<Vec<u8>>()).unwrap();
    (folder, path)
}

fn sender_allocates_nothing(engine: EngineChoice, pacing: Pacing, fec: Fec) {
    let (_folder, path) = noise();
    // Loopback can multicast without being told to; nobody is a member of the group.
    let way = Way::new("lo", "239.77.7.8:4242".parse().unwrap()).unwrap();
    let (count, sent) = OurSender::with(
        &way,
        &path,
        Manner { engine, pacing, fec, image: ImageChoice::Off, remembers_hashes: true },
        |sender| {
            // Two passes: every buffer has then been in use, and every hash is known.
            sender.send_packets(2 * sender.round_length()).unwrap();
            let mut sent = 0;
            (allocations_of(|| sent = sender.send_packets(3 * sender.round_length()).unwrap()), sent)
        },
    )
    .unwrap();
    assert!(sent > 8_000, "{sent} packets");
    assert_eq!(count, 0, "allocations for {sent} packets");
}

#[test]
fn the_allocator_counts() {
    assert_eq!(allocations_of(|| black_box(Box::new(7))), 1);
    assert_eq!(allocations_of(|| [7]), 0);
    let mut list = vec![1_u8];
    assert_eq!(allocations_of(|| list.extend([2; 1000])), 1);
}

#[test]
fn sender_by_sendmmsg_allocates_nothing_for_a_packet() {
    sender_allocates_nothing(EngineChoice::Sendmmsg, Pacing::Unpaced, Fec::OFF);
}

#[test]
fn sender_by_the_best_engine_allocates_nothing_for_a_packet() {
    // io_uring, where the kernel lets us.
    sender_allocates_nothing(EngineChoice::Auto, Pacing::Unpaced, Fec::OFF);
}

#[test]
fn sender_of_repair_symbols_allocates_nothing_for_a_packet() {
    sender_allocates_nothing(EngineChoice::Auto, Pacing::Unpaced, ROWS);
    sender_allocates_nothing(EngineChoice::Sendmmsg, Pacing::Unpaced, ROWS);
}

#[test]
fn sender_that_keeps_time_allocates_nothing_for_a_packet() {
    sender_allocates_nothing(EngineChoice::Auto, Pacing::PacketDelay(Duration::from_micros(10)), ROWS);
}

/// `warm`: the batches after which all memory that is to be used again has been taken.
fn receiver_allocates_nothing(place: fn(&Path) -> Place<'_>, fec: Fec, warm: usize) {
    let (folder, path) = noise();
    let recording = Recording::of_one_pass(&path, fec).unwrap();
    let mut replay = Replay::new(&recording, place(folder.path())).unwrap();
    replay.take_batches(&recording, 0, warm).unwrap();
    let mut held = 0;
    let count = allocations_of(|| held = replay.take_batches(&recording, warm, usize::MAX).unwrap());
    assert!(held > 4 << 20, "{held} bytes");
    assert_eq!(count, 0, "allocations for {} packets", recording.packet_count());
    let blocks = replay.block_count();
    assert_eq!(blocks, if matches!(place(folder.path()), Place::Blocks(_)) { 5 } else { 0 }, "put together");
}

/// The stream is known after its first batch, but not one of the other blocks.
const FIRST: usize = 1;

#[test]
fn receiver_allocates_nothing_for_a_packet() {
    receiver_allocates_nothing(|_| Place::Memory, Fec::OFF, FIRST);
    receiver_allocates_nothing(|_| Place::Memory, ROWS, FIRST);
}

#[test]
fn receiver_that_writes_allocates_nothing_for_a_packet() {
    receiver_allocates_nothing(|folder| Place::Runs(folder), Fec::OFF, FIRST);
    receiver_allocates_nothing(|folder| Place::Runs(folder), ROWS, FIRST);
}

/// The first two blocks take memory, which all others use again.
#[test]
fn receiver_that_puts_blocks_together_allocates_nothing_for_a_packet() {
    receiver_allocates_nothing(|folder| Place::Blocks(folder), Fec::OFF, 10);
}
