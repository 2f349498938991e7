//! Symbols that lie one after another in the object are written by one system call, straight from the receive buffers, unless their
//! whole block is put together first.

use std::io::{self, IoSlice};

use super::assembly::Assembly;
use super::kept::KeptSymbols;
use crate::limits::HEADER_SIZE;
use crate::receiver::{Receiver, Store, Verdict, Waiting};
use crate::sys::{Target, Train, memory};
use crate::types::{BlockIndex, Esi, Time};

/// Symbols of one run at most.
const RUN_LENGTH_MAX: usize = 256;

/// What is in a place of a run that is not in use.
const NOTHING: Store = Store { block: BlockIndex(0), esi: Esi(0), slot: 0, offset: 0, size: 0, hash: 0 };

/// Memory for symbols that are not yet, or not at all, written to the target.
#[derive(Debug, Default)]
pub(super) struct Memory {
    pub(super) kept: KeptSymbols,
    pub(super) assembly: Assembly,
}

/// Hands datagrams to the machine, writes what it wants stored or puts it together with the rest of its block, and keeps what it wants
/// kept.
///
/// # Errors
/// What the kernel says of a write that failed. The program then ends, so the machine is not told.
pub(super) fn take<'a>(
    receiver: &mut Receiver,
    target: Option<&Target>,
    held: &mut Memory,
    now: Time,
    trains: impl Iterator<Item = Train<'a>>,
) -> io::Result<()> {
    let mut run =
        Run { parts: [IoSlice::new(&[]); RUN_LENGTH_MAX], stores: [NOTHING; RUN_LENGTH_MAX], length: 0, end: 0 };
    let mut result = Ok(());
    let object_size = receiver.manifest().map(|manifest| manifest.size);
    let mut trains = trains.peekable();
    while let Some(train) = trains.next() {
        let behind = trains.peek().and_then(|next| next.datagram(0));
        for (index, datagram) in train.datagrams().enumerate() {
            // The kernel has just copied it here, but by way of memory.
            train.datagram(index + 1).or(behind).into_iter().for_each(memory::prefetch);
            match receiver.handle_datagram(now, train.from, datagram) {
                Verdict::Store(store) => {
                    let size = object_size.expect("there are symbols only of an object");
                    if held.assembly.take(now, &store, size, &datagram[HEADER_SIZE..]) {
                        continue;
                    }
                    if !run.takes(&store) {
                        result = result.and(run.write(receiver, target));
                    }
                    run.push(store, &datagram[HEADER_SIZE..]);
                }
                Verdict::Keep(kept) => {
                    let is_kept = held.kept.keep(receiver, kept, &datagram[HEADER_SIZE..]);
                    receiver.handle_kept(kept, is_kept);
                }
                Verdict::Taken | Verdict::Dropped(_) => {}
            }
        }
    }
    result.and(run.write(receiver, target))
}

/// Packets that have waited, in the order in which they came.
pub(super) fn singles(waiting: &Waiting) -> impl Iterator<Item = Train<'_>> {
    waiting.datagrams().map(|(from, datagram)| Train::single(from, datagram))
}

/// Symbols side by side.
struct Run<'a> {
    parts: [IoSlice<'a>; RUN_LENGTH_MAX],
    stores: [Store; RUN_LENGTH_MAX],
    length: usize,
    end: u64,
}

impl<'a> Run<'a> {
    fn takes(&self, store: &Store) -> bool {
        self.length > 0 && self.length < RUN_LENGTH_MAX && self.end == store.offset
    }

    fn push(&mut self, store: Store, payload: &'a [u8]) {
        self.parts[self.length] = IoSlice::new(payload);
        self.stores[self.length] = store;
        self.length += 1;
        self.end = store.offset + payload.len() as u64;
    }

    fn write(&mut self, receiver: &mut Receiver, target: Option<&Target>) -> io::Result<()> {
        let stores = &self.stores[..self.length];
        let Some(first) = stores.first() else { return Ok(()) };
        let target = target.expect("nothing is stored before the target is there");
        let written = target.write_run(first.offset, &self.parts[..self.length]);
        self.length = 0;
        written.inspect(|()| receiver.handle_stored(stores))
    }
}
