//! Sending through io_uring: a burst is handed to the kernel with its buffer, and both come back when all its messages are done.
//! While they are away, the next burst is composed. It does not go before: a message that waits for room in the send buffer would
//! be passed by a later one.
//!
//! Messages of an *image*, slots that do not change any more, go without being copied: the kernel answers for such a message twice,
//! when it has taken it and when the device has read it. Only the first is waited for: nobody writes to those bytes ever again.
//! Before Linux 6.2 there are no such messages here. Those that are cut at the ends of slots, as nearly all are, go by SEND_ZC, and the
//! socket knows where to cut; to read a header and a control message for each (SENDMSG_ZC) costs some percent.
//!
//! Follows io_uring(7). Whoever holds a buffer that the kernel may read is the ring: it takes the buffer by value and gives it back by
//! value, so that nobody can write to it meanwhile.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use io_uring::{IoUring, Probe, cqueue, opcode, squeue, types};

use super::error_queue::QueuedErrors;
use super::scratch::ScratchSlots;
use super::send_socket::{Batch, Lent, MESSAGE_COUNT_MAX, Memory, Message, SendSocket};

/// The longest wait for a completion before the caller may look at signals.
pub const WAIT_MAX: Duration = Duration::from_millis(10);
/// Waits for what is under way when the socket goes.
const SETTLE_WAITS_MAX: usize = 100;
/// Messages at most that the device may not have read yet, for another burst to go: enough to keep it busy, and few enough that their
/// pages, some 70 KiB each, stay below what a user may lock (RLIMIT_MEMLOCK, 8 MiB), even with two or three sockets.
const UNREAD_COUNT_MAX: usize = 32;
/// Asks for [`COPIED`] (IORING_SEND_ZC_REPORT_USAGE, Linux 6.2).
const REPORT_USAGE: u16 = 1 << 3;
/// The bit of a notification's result that says that the bytes were copied all the same (IORING_NOTIF_USAGE_ZC_COPIED).
const COPIED: u32 = 1 << 31;
/// The one registered file.
const SOCKET: types::Fixed = types::Fixed(0);

/// A ring with the socket of a [`SendSocket`].
pub struct UringSocket {
    ring: IoUring,
    flight: Flight,
    /// What image messages are ranges of. Lives as long as the kernel may follow a header to it.
    image: Option<Arc<ScratchSlots>>,
    can_send_image: bool,
    can_send_slots: bool,
    usage: ImageUsage,
    /// Messages of images that the device may not have read yet.
    unread_count: usize,
    /// Lives as long as the ring may use it; gone only while this is taken apart.
    socket: Option<SendSocket>,
}

/// The burst that is on its way, if there is one.
struct Flight {
    buffer: Option<Box<[u8]>>,
    batch: Batch,
    messages: Vec<Message>,
    /// One bit for each message that the kernel has not answered for.
    under_way: u128,
    failed: Vec<(Message, i32)>,
    mark: u32,
}

const _: () = assert!(MESSAGE_COUNT_MAX <= u128::BITS as usize);

/// What became of the messages of images.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct ImageUsage {
    /// Messages that the kernel has taken as they were.
    pub sent: u64,
    /// Messages that were copied all the same, as far as is known: the device, or whoever else was to read them, cannot do without.
    pub copied: u64,
}

/// A burst that is done.
#[derive(Debug)]
pub struct Landed {
    /// Its buffer.
    pub buffer: Box<[u8]>,
    /// The messages that the kernel refused, each with the error number, in no order.
    pub failed: Vec<(Message, i32)>,
    /// What the caller wanted to be reminded of.
    pub mark: u32,
}

impl std::fmt::Debug for UringSocket {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("UringSocket").field("socket", &self.socket).finish_non_exhaustive()
    }
}

impl UringSocket {
    /// A ring for `socket`, of use where it can send several datagrams in one message. The socket comes back with the error if
    /// there is to be no ring.
    ///
    /// # Errors
    /// What the kernel says: ENOSYS where it has no io_uring, EPERM where it is forbidden (seccomp, `kernel.io_uring_disabled`).
    pub fn new(socket: SendSocket) -> Result<Self, (SendSocket, io::Error)> {
        let ring = match Self::ring(&socket) {
            Ok(ring) => ring,
            Err(error) => return Err((socket, error)),
        };
        let flight = Flight {
            buffer: None,
            batch: Batch::new(),
            messages: Vec::with_capacity(MESSAGE_COUNT_MAX),
            under_way: 0,
            failed: Vec::with_capacity(MESSAGE_COUNT_MAX),
            mark: 0,
        };
        let mut probe = Probe::new();
        let knows = ring.submitter().register_probe(&mut probe).is_ok();
        let can_send_image = knows && probe.is_supported(opcode::SendMsgZc::CODE);
        let can_send_slots = knows && probe.is_supported(opcode::SendZc::CODE);
        let (image, usage, unread_count, socket) = (None, ImageUsage::default(), 0, Some(socket));
        Ok(Self { ring, flight, image, can_send_image, can_send_slots, usage, unread_count, socket })
    }

    fn ring(socket: &SendSocket) -> io::Result<IoUring> {
        let entries = u32::try_from(MESSAGE_COUNT_MAX).expect("a hundred or so");
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

    /// The socket without the ring, and what has to be sent again: the messages that the kernel refused or, when it can no longer
    /// be asked, has not answered for (ECANCELED). Waits for what is under way, for a second at most.
    ///
    /// # Panics
    /// Never: the socket is there until this is called.
    #[must_use]
    pub fn into_socket(mut self) -> (SendSocket, Option<Landed>) {
        let unsent = self.settle();
        (self.socket.take().expect("a socket until it is taken"), unsent)
    }

    /// Whether a message may hold several datagrams.
    #[must_use]
    pub fn gso(&self) -> bool {
        self.socket.as_ref().is_some_and(SendSocket::gso)
    }

    /// Takes the errors that are queued at the socket.
    pub fn take_errors(&mut self) -> QueuedErrors {
        self.socket.as_mut().map_or_else(QueuedErrors::default, SendSocket::take_errors)
    }

    /// Whether no burst is under way.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.flight.buffer.is_none()
    }

    /// Whether another burst may go: none is under way, and the device has read most of what went without a copy.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.is_idle() && self.unread_count < UNREAD_COUNT_MAX
    }

    /// Messages of images that the device may not have read yet.
    #[must_use]
    pub fn unread_count(&self) -> usize {
        self.unread_count
    }

    /// Whether the kernel has a way to send without a copy.
    #[must_use]
    pub fn can_send_image(&self) -> bool {
        self.can_send_image
    }

    /// From now on messages of an image are ranges of this one.
    ///
    /// # Panics
    /// If a burst is under way.
    pub fn set_image(&mut self, image: Arc<ScratchSlots>) {
        assert!(self.is_idle(), "no message is a range of another image, or cut elsewhere");
        if let (Some(socket), true) = (&mut self.socket, self.can_send_slots) {
            // If not, all messages say themselves where to cut them.
            let _ = u16::try_from(image.slot_size()).map(|size| socket.set_cut(size));
        }
        self.image = Some(image);
    }

    /// What has become of the messages of images so far.
    #[must_use]
    pub fn image_usage(&self) -> ImageUsage {
        self.usage
    }

    /// Sends at most 128 messages of `buffer` and of the image, and keeps the buffer until they are done. Then `mark` comes back too.
    ///
    /// # Errors
    /// What io_uring_enter(2) says; the messages are then still under way.
    ///
    /// # Panics
    /// If a burst is under way, there are no messages or too many, or one is not within the buffer or the image.
    pub fn submit(&mut self, buffer: Box<[u8]>, messages: &[Message], mark: u32) -> io::Result<()> {
        assert!((1..=MESSAGE_COUNT_MAX).contains(&messages.len()), "1 to 128 messages");
        assert!(self.is_idle(), "one burst at a time");
        let flight = &mut self.flight;
        let cut = self.socket.as_ref().map_or(0, |socket| usize::from(socket.cut()));
        flight.batch.fill(&Lent { buffer: &buffer, image: self.image.as_deref() }, messages, cut != 0);
        flight.buffer = Some(buffer);
        flight.messages.clear();
        flight.messages.extend_from_slice(messages);
        flight.failed.clear();
        flight.under_way = u128::MAX >> (u128::BITS as usize - messages.len());
        flight.mark = mark;
        let parts = flight.batch.headers().iter().zip(flight.batch.vectors());
        for (place, ((header, vector), message)) in parts.zip(messages).enumerate() {
            let header = &raw const header.msg_hdr;
            let is_of_slots = self.can_send_slots && message.segment_size == cut && message.size > cut;
            let entry = match message.memory {
                Memory::Image if is_of_slots => {
                    let length = u32::try_from(vector.iov_len).expect("a datagram or some");
                    opcode::SendZc::new(SOCKET, vector.iov_base.cast(), length).zc_flags(REPORT_USAGE).build()
                }
                Memory::Image => opcode::SendMsgZc::new(SOCKET, header).ioprio(REPORT_USAGE).build(),
                Memory::Buffer | Memory::ImageToCopy => opcode::SendMsg::new(SOCKET, header).build(),
            };
            push(&mut self.ring, &entry.user_data(place as u64));
        }
        match self.ring.submit() {
            Err(error) if !passes(&error) => Err(error),
            _ => Ok(()),
        }
    }

    /// The burst, if it is done; with `wait` and something that another burst must wait for, waits for it, but no longer than
    /// [`WAIT_MAX`] or until a signal comes.
    ///
    /// # Errors
    /// What io_uring_enter(2) says.
    pub fn land(&mut self, wait: bool) -> io::Result<Option<Landed>> {
        self.reap();
        if wait && (self.flight.under_way != 0 || self.unread_count >= UNREAD_COUNT_MAX) {
            self.wait()?;
            self.reap();
        }
        Ok(if self.flight.under_way == 0 { self.flight.land() } else { None })
    }

    /// Takes note of what the device has read meanwhile; with `wait`, waits for some of it, if there is any, for [`WAIT_MAX`] at most.
    ///
    /// # Errors
    /// What io_uring_enter(2) says.
    pub fn take_notice(&mut self, wait: bool) -> io::Result<()> {
        self.reap();
        if wait && self.unread_count > 0 {
            self.wait()?;
            self.reap();
        }
        Ok(())
    }

    /// Hands over what is queued and waits for a completion.
    fn wait(&mut self) -> io::Result<()> {
        let limit = types::Timespec::from(WAIT_MAX);
        match self.ring.submitter().submit_with_args(1, &types::SubmitArgs::new().timespec(&limit)) {
            Err(error) if !passes(&error) => Err(error),
            _ => Ok(()),
        }
    }

    fn reap(&mut self) {
        for completion in self.ring.completion() {
            if cqueue::notif(completion.flags()) {
                self.unread_count = self.unread_count.saturating_sub(1);
                self.usage.copied += u64::from(completion.result().cast_unsigned() & COPIED != 0);
                continue;
            }
            // Even one that is refused can be answered for a second time.
            self.unread_count += usize::from(cqueue::more(completion.flags()));
            let place = usize::try_from(completion.user_data()).expect("the place of a message");
            let flight = &mut self.flight;
            flight.under_way &= !(1 << place);
            if completion.result() < 0 {
                // Not every kernel counts the pages of both kinds of messages as locked.
                self.can_send_slots &= completion.result() != -libc::ENOMEM;
                flight.failed.push((flight.messages[place], -completion.result()));
            } else if flight.messages[place].memory == Memory::Image {
                self.usage.sent += 1;
            }
        }
    }
}

impl Drop for UringSocket {
    fn drop(&mut self) {
        let _ = self.settle();
    }
}

impl UringSocket {
    /// Waits until nothing is under way, for about a second at most. Answers with what has not been sent, as far as anybody knows.
    fn settle(&mut self) -> Option<Landed> {
        for _ in 0..SETTLE_WAITS_MAX {
            let Ok(landed) = self.land(true) else { break };
            if landed.is_some() || self.is_idle() {
                return landed.filter(|landed| !landed.failed.is_empty());
            }
        }
        let flight = &mut self.flight;
        let left: Vec<_> = flight.left().map(|message| (message, libc::ECANCELED)).collect();
        flight.failed.extend(left);
        // What the kernel may still read must not be freed: it is leaked, once in a program's life at most.
        let copy = flight.buffer.clone();
        std::mem::forget(std::mem::replace(&mut flight.buffer, copy));
        std::mem::forget(std::mem::replace(&mut flight.batch, Batch::new()));
        std::mem::forget(self.image.clone());
        flight.land()
    }
}

impl Flight {
    /// The messages that are under way.
    fn left(&self) -> impl Iterator<Item = Message> {
        let is_left = |place: usize| self.under_way >> place & 1 == 1;
        self.messages.iter().enumerate().filter(move |(place, _)| is_left(*place)).map(|(_, message)| *message)
    }

    fn land(&mut self) -> Option<Landed> {
        let buffer = self.buffer.take()?;
        self.under_way = 0;
        Some(Landed { buffer, failed: std::mem::take(&mut self.failed), mark: self.mark })
    }
}

/// Whether the call works when it is made again: what was to be handed over stays queued in the ring.
fn passes(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EINTR | libc::ETIME | libc::EAGAIN | libc::EBUSY))
}

fn push(ring: &mut IoUring, entry: &squeue::Entry) {
    // SAFETY: the entry points to the image, or to a header of a batch that the flight owns, and the header to the flight's buffer or
    // to the image, and to arrays of the batch; `UringSocket` touches none of them before the completion, and does not let them go.
    // After that of a message of the image the kernel keeps the pages by itself, and nobody writes to slots that are full.
    let pushed = unsafe { ring.submission().push(entry) };
    pushed.expect("an entry for every message of a burst");
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::{ReceiveOptions, ReceiveSocket, SendOptions, clock};

    const GROUP: &str = "239.77.9.1:47911";

    /// A ring on the loopback interface, or `None` where the kernel forbids io_uring.
    fn ring() -> Option<UringSocket> {
        ring_to(GROUP)
    }

    fn ring_to(group: &str) -> Option<UringSocket> {
        let interface_index = nix::net::if_::if_nametoindex("lo").unwrap();
        let bind_addr = Some([127, 0, 0, 1].into());
        let options = SendOptions { group: group.parse().unwrap(), interface_index, bind_addr, hops: 1 };
        match UringSocket::new(SendSocket::open(&options).unwrap()) {
            Ok(ring) => Some(ring),
            Err((_, error)) => {
                let forbidden = [libc::ENOSYS, libc::EPERM, libc::EACCES, libc::EOPNOTSUPP];
                assert!(forbidden.contains(&error.raw_os_error().unwrap()), "{error}");
                None
            }
        }
    }

    fn land(ring: &mut UringSocket) -> Landed {
        loop {
            if let Some(landed) = ring.land(true).unwrap() {
                return landed;
            }
        }
    }

    #[test]
    fn burst_arrives_in_order_and_its_buffer_comes_back() {
        let Some(mut ring) = ring() else { return };
        let interface_index = nix::net::if_::if_nametoindex("lo").unwrap();
        let (mut receiver, _) =
            ReceiveSocket::open(&ReceiveOptions { group: GROUP.parse().unwrap(), interface_index }).unwrap();
        let buffer: Box<[u8]> = (0..5000u32).map(|i| i as u8).collect();
        let messages = [
            Message { start: 0, size: 2500, segment_size: 1000, memory: Memory::Buffer },
            Message { start: 2500, size: 700, segment_size: 700, memory: Memory::Buffer },
        ];
        ring.submit(buffer.clone(), &messages, 7).unwrap();
        assert!(!ring.is_idle());
        let landed = land(&mut ring);
        assert_eq!((&landed.buffer, landed.failed.len(), landed.mark), (&buffer, 0, 7));
        assert!(ring.is_idle() && ring.land(true).unwrap().is_none());
        let mut sizes = Vec::new();
        let deadline = clock::now().after(Duration::from_secs(5));
        while sizes.len() < 4 && clock::now() < deadline {
            receiver.receive(deadline).unwrap();
            let ours = receiver.datagrams().filter(|(from, _)| *from == ring.socket.as_ref().unwrap().local_addr());
            sizes.extend(ours.map(|(_, datagram)| datagram.len()));
        }
        assert_eq!(sizes, [1000, 1000, 500, 700]);
    }

    /// Whatever the socket has been told of where to cut.
    #[test]
    fn messages_of_an_image_and_others_are_cut_where_they_say() {
        const GROUP: &str = "239.77.9.12:47922";
        let Some(mut ring) = ring_to(GROUP).filter(UringSocket::can_send_image) else { return };
        let interface_index = nix::net::if_::if_nametoindex("lo").unwrap();
        let (mut receiver, _) =
            ReceiveSocket::open(&ReceiveOptions { group: GROUP.parse().unwrap(), interface_index }).unwrap();
        let folder = tempfile::tempdir().unwrap();
        let slots = ScratchSlots::new(folder.path(), 5, 1000).unwrap();
        for index in 0..5 {
            slots.fill(index, |bytes| {
                bytes.fill(index as u8);
                true
            });
        }
        ring.set_image(Arc::new(slots));
        let message = |memory, start, size, segment_size| Message { start, size, segment_size, memory };
        let messages = [
            message(Memory::Image, 0, 2500, 1000),
            message(Memory::Image, 3000, 700, 700),
            message(Memory::Image, 3000, 1200, 600),
            message(Memory::ImageToCopy, 1000, 1800, 1000),
            message(Memory::Buffer, 0, 1400, 1400),
            message(Memory::Buffer, 1400, 650, 300),
            message(Memory::Image, 4000, 1000, 1000),
        ];
        ring.submit(vec![9; 4000].into_boxed_slice(), &messages, 0).unwrap();
        assert_eq!(land(&mut ring).failed, []);
        let (mut socket, unsent) = ring.into_socket();
        assert!(unsent.is_none());
        assert_eq!(socket.send(&[8; 1300], &[message(Memory::Buffer, 0, 1300, 1300)]).unwrap(), 1);
        let expected: [&[(usize, u8)]; 8] = [
            &[(1000, 0), (1000, 1), (500, 2)],
            &[(700, 3)],
            &[(600, 3), (600, 3)],
            &[(1000, 1), (800, 2)],
            &[(1400, 9)],
            &[(300, 9), (300, 9), (50, 9)],
            &[(1000, 4)],
            &[(1300, 8)],
        ];
        let expected = expected.concat();
        let (mut received, deadline) = (Vec::new(), clock::now().after(Duration::from_secs(5)));
        while received.len() < expected.len() && clock::now() < deadline {
            receiver.receive(deadline).unwrap();
            let ours = receiver.datagrams().filter(|(from, _)| *from == socket.local_addr());
            received.extend(ours.map(|(_, datagram)| (datagram.len(), datagram[0])));
        }
        assert_eq!(received, expected);
    }

    #[test]
    fn message_that_the_kernel_refuses_comes_back_with_its_error() {
        let Some(mut ring) = ring() else { return };
        let good = Message { start: 0, size: 100, segment_size: 100, memory: Memory::Buffer };
        // Longer than any UDP datagram.
        let bad = Message { start: 0, size: 65_530, segment_size: 65_530, memory: Memory::Buffer };
        ring.submit(vec![0; 65_536].into_boxed_slice(), &[good, bad, good], 0).unwrap();
        assert_eq!(land(&mut ring).failed, [(bad, libc::EMSGSIZE)]);
    }

    #[test]
    fn burst_after_burst_goes_and_lands() {
        let Some(mut ring) = ring() else { return };
        let message = Message { start: 0, size: 64, segment_size: 64, memory: Memory::Buffer };
        let mut buffer = vec![0; 64].into_boxed_slice();
        for mark in 0..1000 {
            ring.submit(buffer, &[message], mark).unwrap();
            let landed = land(&mut ring);
            assert_eq!((landed.failed.len(), landed.mark), (0, mark));
            buffer = landed.buffer;
        }
    }

    #[test]
    fn ring_that_is_taken_apart_has_sent_what_it_was_given() {
        let Some(mut ring) = ring() else { return };
        let message = Message { start: 0, size: 64, segment_size: 64, memory: Memory::Buffer };
        ring.submit(vec![0; 64].into_boxed_slice(), &[message], 0).unwrap();
        assert!(ring.into_socket().1.is_none());
    }
}
