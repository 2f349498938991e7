//! Sending through io_uring: a burst is handed to the kernel with its buffer, and both come back when all its messages are done.
//! While they are away, the next burst is composed.
//!
//! Follows io_uring(7). Whoever holds a buffer that the kernel may read is the ring: it takes the buffer by value and gives it back by
//! value, so that nobody can write to it meanwhile.

use std::io;

use io_uring::{IoUring, opcode, squeue, types};

use super::send_socket::{Batch, MESSAGE_COUNT_MAX, Message, SendSocket};

/// Bursts under way at most. With two messages each these are eight messages: more leave the cache of the core's second level.
pub const BURSTS_IN_FLIGHT_MAX: usize = 4;
/// The one registered file.
const SOCKET: types::Fixed = types::Fixed(0);

/// A ring with the socket of a [`SendSocket`].
pub struct UringSocket {
    ring: IoUring,
    flights: [Flight; BURSTS_IN_FLIGHT_MAX],
    /// Lives as long as the ring may use it; gone only while this is taken apart.
    socket: Option<SendSocket>,
}

/// One burst on its way.
struct Flight {
    buffer: Option<Box<[u8]>>,
    batch: Batch,
    messages: Vec<Message>,
    under_way: usize,
    failed: Vec<(Message, i32)>,
}

/// A burst that is done.
#[derive(Debug)]
pub struct Landed {
    /// Its buffer.
    pub buffer: Box<[u8]>,
    /// The messages that the kernel refused, each with the error number, in no order.
    pub failed: Vec<(Message, i32)>,
}

impl std::fmt::Debug for UringSocket {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("UringSocket").field("socket", &self.socket).finish_non_exhaustive()
    }
}

impl UringSocket {
    /// A ring for `socket`, which must be able to send several datagrams in one message. The socket comes back with the error if
    /// there is to be no ring.
    ///
    /// # Errors
    /// What the kernel says: ENOSYS where it has no io_uring, EPERM where it is forbidden (seccomp, `kernel.io_uring_disabled`).
    pub fn new(socket: SendSocket) -> Result<Self, (SendSocket, io::Error)> {
        let ring = match Self::ring(&socket) {
            Ok(ring) => ring,
            Err(error) => return Err((socket, error)),
        };
        let flights = std::array::from_fn(|_| Flight {
            buffer: None,
            batch: Batch::new(),
            messages: Vec::with_capacity(MESSAGE_COUNT_MAX),
            under_way: 0,
            failed: Vec::with_capacity(MESSAGE_COUNT_MAX),
        });
        Ok(Self { ring, flights, socket: Some(socket) })
    }

    fn ring(socket: &SendSocket) -> io::Result<IoUring> {
        let entries = u32::try_from(BURSTS_IN_FLIGHT_MAX * MESSAGE_COUNT_MAX).expect("a few hundred");
        // Completions are then handled when this thread asks, not by an interrupt in the middle of composing. Linux 6.1.
        let best = IoUring::builder().setup_single_issuer().setup_defer_taskrun().build(entries);
        let ring = match best {
            Err(error) if error.raw_os_error() == Some(libc::EINVAL) => IoUring::new(entries)?,
            ring => ring?,
        };
        ring.submitter().register_files(&[socket.as_raw_fd()])?;
        Ok(ring)
    }

    /// The socket without the ring, when all that is under way has landed.
    ///
    /// # Panics
    /// Never: the socket is there until this is called.
    #[must_use]
    pub fn into_socket(mut self) -> SendSocket {
        self.settle();
        self.socket.take().expect("a socket until it is taken")
    }

    /// Whether another burst can be sent before one has landed.
    #[must_use]
    pub fn has_room(&self) -> bool {
        self.flights.iter().any(|flight| flight.buffer.is_none())
    }

    /// Whether nothing is under way.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.flights.iter().all(|flight| flight.buffer.is_none())
    }

    /// Sends at most 64 messages of `buffer`, and keeps the buffer until they are done.
    ///
    /// # Errors
    /// What io_uring_enter(2) says; the messages are then still under way.
    ///
    /// # Panics
    /// If there is no room, there are no messages or too many, or one is not within the buffer.
    pub fn submit(&mut self, buffer: Box<[u8]>, messages: &[Message]) -> io::Result<()> {
        assert!((1..=MESSAGE_COUNT_MAX).contains(&messages.len()), "1 to 64 messages");
        let index = self.flights.iter().position(|flight| flight.buffer.is_none()).expect("room for a burst");
        let flight = &mut self.flights[index];
        flight.batch.fill(&buffer, messages);
        flight.buffer = Some(buffer);
        flight.messages.clear();
        flight.messages.extend_from_slice(messages);
        flight.failed.clear();
        flight.under_way = messages.len();
        for (place, header) in flight.batch.headers().iter().take(messages.len()).enumerate() {
            let entry = opcode::SendMsg::new(SOCKET, &raw const header.msg_hdr).build().user_data(token(index, place));
            push(&mut self.ring, &entry);
        }
        self.enter(0)
    }

    /// A burst that is done, if there is one; with `wait` and something under way, waits for it.
    ///
    /// # Errors
    /// What io_uring_enter(2) says.
    pub fn land(&mut self, wait: bool) -> io::Result<Option<Landed>> {
        loop {
            self.reap();
            let done = self.flights.iter_mut().find(|flight| flight.under_way == 0 && flight.buffer.is_some());
            if let Some(flight) = done {
                let failed = std::mem::take(&mut flight.failed);
                return Ok(flight.buffer.take().map(|buffer| Landed { buffer, failed }));
            }
            if !wait || self.is_idle() {
                return Ok(None);
            }
            self.enter(1)?;
        }
    }

    /// Hands over what is queued and waits for `count` completions. A signal ends the wait early.
    fn enter(&mut self, count: usize) -> io::Result<()> {
        match self.ring.submit_and_wait(count) {
            Err(error) if error.kind() != io::ErrorKind::Interrupted => Err(error),
            _ => Ok(()),
        }
    }

    fn reap(&mut self) {
        for completion in self.ring.completion() {
            let (index, place) = parse_token(completion.user_data());
            let flight = &mut self.flights[index];
            flight.under_way -= 1;
            if completion.result() < 0 {
                flight.failed.push((flight.messages[place], -completion.result()));
            }
        }
    }
}

impl Drop for UringSocket {
    fn drop(&mut self) {
        self.settle();
    }
}

impl UringSocket {
    /// Waits until nothing is under way.
    fn settle(&mut self) {
        // The kernel may still read the buffers: they must not go before it is done with them.
        while !self.is_idle() {
            if self.land(true).is_err() {
                // Then nobody can say when: what the kernel may still read is leaked rather than freed.
                for flight in &mut self.flights {
                    std::mem::forget(flight.buffer.take());
                    std::mem::forget(std::mem::replace(&mut flight.batch, Batch::new()));
                }
            }
        }
    }
}

fn push(ring: &mut IoUring, entry: &squeue::Entry) {
    // SAFETY: the entry points to a header of a batch that the flight owns, and the header to the flight's buffer and to arrays of
    // the batch; `UringSocket` touches none of them before the completion, and does not let them go.
    let pushed = unsafe { ring.submission().push(entry) };
    pushed.expect("an entry for every message of every burst");
}

fn token(flight: usize, place: usize) -> u64 {
    (flight * MESSAGE_COUNT_MAX + place) as u64
}

fn parse_token(token: u64) -> (usize, usize) {
    let token = usize::try_from(token).expect("what `token` made");
    (token / MESSAGE_COUNT_MAX, token % MESSAGE_COUNT_MAX)
}
