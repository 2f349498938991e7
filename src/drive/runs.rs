//! Symbols that lie one after another in the object are written by one system call, straight from the receive buffers.

use std::io::{self, IoSlice};
use std::net::SocketAddr;

use crate::limits::HEADER_SIZE;
use crate::receiver::{Receiver, Store, Verdict};
use crate::sys::Target;
use crate::types::{BlockIndex, Time};

/// Symbols of one run at most.
const RUN_LENGTH_MAX: usize = 256;

/// Hands datagrams to the machine and writes what it wants stored.
///
/// # Errors
/// What the kernel says of a write that failed. The program then ends, so the machine is not told.
pub(super) fn take<'a>(
    receiver: &mut Receiver,
    target: Option<&Target>,
    now: Time,
    datagrams: impl Iterator<Item = (SocketAddr, &'a [u8])>,
) -> io::Result<()> {
    let mut run = Run { parts: [IoSlice::new(&[]); RUN_LENGTH_MAX], length: 0, block: BlockIndex(0), start: 0, end: 0 };
    let mut result = Ok(());
    for (from, datagram) in datagrams {
        let Verdict::Store(store) = receiver.handle_datagram(now, from, datagram) else { continue };
        if !run.takes(&store) {
            result = result.and(run.write(receiver, target));
        }
        run.push(&store, &datagram[HEADER_SIZE..]);
    }
    result.and(run.write(receiver, target))
}

/// Symbols of one block, side by side.
struct Run<'a> {
    parts: [IoSlice<'a>; RUN_LENGTH_MAX],
    length: usize,
    block: BlockIndex,
    start: u64,
    end: u64,
}

impl<'a> Run<'a> {
    fn takes(&self, store: &Store) -> bool {
        self.length > 0 && self.length < RUN_LENGTH_MAX && self.block == store.block && self.end == store.offset
    }

    fn push(&mut self, store: &Store, payload: &'a [u8]) {
        if self.length == 0 {
            (self.block, self.start, self.end) = (store.block, store.offset, store.offset);
        }
        self.parts[self.length] = IoSlice::new(payload);
        self.length += 1;
        self.end += payload.len() as u64;
    }

    fn write(&mut self, receiver: &mut Receiver, target: Option<&Target>) -> io::Result<()> {
        if self.length == 0 {
            return Ok(());
        }
        let target = target.expect("nothing is stored before the target is there");
        let written = target.write_run(self.start, &self.parts[..self.length]);
        let count = u16::try_from(self.length).expect("a run is short");
        self.length = 0;
        written.inspect(|()| receiver.handle_stored(self.block, count))
    }
}
