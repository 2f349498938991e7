//! Sending through io_uring: a burst is handed to the kernel with its buffer, and both come back when all its messages are done.
//! While they are away, the next burst is composed.
//!
//! Follows io_uring(7). Whoever holds a buffer that the kernel may read is the ring: it takes the buffer by value and gives it back by
//! value, so that nobody can write to it meanwhile.

use std::io;
use std::time::Duration;

use io_uring::{IoUring, opcode, squeue, types};

use super::send_socket::{Batch, MESSAGE_COUNT_MAX, Message, SendSocket};

/// Bursts under way at most. With two messages each these are eight messages: more leave the cache of the core's second level.
pub const BURSTS_IN_FLIGHT_MAX: usize = 4;
/// The longest wait for a completion before the caller may look at signals.
pub const WAIT_MAX: Duration = Duration::from_millis(10);
/// Waits for what is under way when the socket goes.
const SETTLE_WAITS_MAX: usize = 100;
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
        if !ring.params().is_feature_ext_arg() {
            // Without it (before Linux 5.11) a wait has no end, and a program that is told to stop could hang.
            return Err(io::Error::from_raw_os_error(libc::EOPNOTSUPP));
        }
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
        match self.ring.submit() {
            Err(error) if error.kind() != io::ErrorKind::Interrupted => Err(error),
            _ => Ok(()),
        }
    }

    /// A burst that is done, if there is one; with `wait` and something under way, waits for it, but no longer than
    /// [`WAIT_MAX`] or until a signal comes.
    ///
    /// # Errors
    /// What io_uring_enter(2) says.
    pub fn land(&mut self, wait: bool) -> io::Result<Option<Landed>> {
        self.reap();
        if wait && !self.is_idle() && !self.has_landed() {
            self.wait()?;
            self.reap();
        }
        let done = self.flights.iter_mut().find(|flight| flight.under_way == 0 && flight.buffer.is_some());
        Ok(done.and_then(|flight| {
            let failed = std::mem::take(&mut flight.failed);
            flight.buffer.take().map(|buffer| Landed { buffer, failed })
        }))
    }

    fn has_landed(&self) -> bool {
        self.flights.iter().any(|flight| flight.under_way == 0 && flight.buffer.is_some())
    }

    /// Hands over what is queued and waits for a completion.
    fn wait(&mut self) -> io::Result<()> {
        let limit = types::Timespec::from(WAIT_MAX);
        match self.ring.submitter().submit_with_args(1, &types::SubmitArgs::new().timespec(&limit)) {
            Err(error) if !matches!(error.raw_os_error(), Some(libc::EINTR | libc::ETIME)) => Err(error),
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
    /// Waits until nothing is under way, for about a second at most.
    fn settle(&mut self) {
        for _ in 0..SETTLE_WAITS_MAX {
            if self.is_idle() || self.land(true).is_err() {
                break;
            }
        }
        // What the kernel may still read must not be freed: it is leaked, and the program is about to end anyway.
        for flight in self.flights.iter_mut().filter(|flight| flight.buffer.is_some()) {
            std::mem::forget(flight.buffer.take());
            std::mem::forget(std::mem::replace(&mut flight.batch, Batch::new()));
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::{ReceiveOptions, ReceiveSocket, SendOptions, clock};

    const GROUP: &str = "239.77.9.1:47911";

    /// A ring on the loopback interface, or `None` where the kernel forbids io_uring.
    fn ring() -> Option<UringSocket> {
        let interface_index = nix::net::if_::if_nametoindex("lo").unwrap();
        let bind_addr = Some([127, 0, 0, 1].into());
        let options = SendOptions { group: GROUP.parse().unwrap(), interface_index, bind_addr, hops: 1 };
        match UringSocket::new(SendSocket::open(&options).unwrap()) {
            Ok(ring) => Some(ring),
            Err((_, error)) => {
                let forbidden = [libc::ENOSYS, libc::EPERM, libc::EACCES, libc::EOPNOTSUPP];
                assert!(forbidden.contains(&error.raw_os_error().unwrap()), "{error}");
                None
            }
        }
    }

    fn land_all(ring: &mut UringSocket) -> Vec<Landed> {
        let mut landed = Vec::new();
        while !ring.is_idle() {
            landed.extend(ring.land(true).unwrap());
        }
        landed
    }

    #[test]
    fn burst_arrives_in_order_and_its_buffer_comes_back() {
        let Some(mut ring) = ring() else { return };
        let interface_index = nix::net::if_::if_nametoindex("lo").unwrap();
        let (mut receiver, _) =
            ReceiveSocket::open(&ReceiveOptions { group: GROUP.parse().unwrap(), interface_index }).unwrap();
        let buffer: Box<[u8]> = (0..5000u32).map(|i| i as u8).collect();
        let messages = [
            Message { start: 0, size: 2500, segment_size: 1000 },
            Message { start: 2500, size: 700, segment_size: 700 },
        ];
        ring.submit(buffer.clone(), &messages).unwrap();
        let landed = land_all(&mut ring);
        assert_eq!((landed.len(), &landed[0].buffer, landed[0].failed.len()), (1, &buffer, 0));
        let mut sizes = Vec::new();
        let deadline = clock::now().after(Duration::from_secs(5));
        while sizes.len() < 4 && clock::now() < deadline {
            receiver.receive(deadline).unwrap();
            let ours = receiver.datagrams().filter(|(from, _)| *from == ring.socket.as_ref().unwrap().local_addr());
            sizes.extend(ours.map(|(_, datagram)| datagram.len()));
        }
        assert_eq!(sizes, [1000, 1000, 500, 700]);
    }

    #[test]
    fn message_that_the_kernel_refuses_comes_back_with_its_error() {
        let Some(mut ring) = ring() else { return };
        let good = Message { start: 0, size: 100, segment_size: 100 };
        // Longer than any UDP datagram.
        let bad = Message { start: 0, size: 65_530, segment_size: 65_530 };
        ring.submit(vec![0; 65_536].into_boxed_slice(), &[good, bad, good]).unwrap();
        let landed = land_all(&mut ring);
        assert_eq!(landed.len(), 1);
        assert_eq!(landed[0].failed, [(bad, libc::EMSGSIZE)]);
    }

    #[test]
    fn bursts_in_flight_are_bounded_and_all_land() {
        let Some(mut ring) = ring() else { return };
        let message = Message { start: 0, size: 64, segment_size: 64 };
        let mut landed = 0;
        for _ in 0..1000 {
            while !ring.has_room() {
                landed += usize::from(ring.land(true).unwrap().is_some());
            }
            ring.submit(vec![0; 64].into_boxed_slice(), &[message]).unwrap();
        }
        assert_eq!(landed + land_all(&mut ring).len(), 1000);
    }
}
