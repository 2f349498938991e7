//! The receiver's socket: bound to the group's own address, a member of it on one interface, and read in batches. It hears whatever is
//! sent to the group, or only what some sources send (RFC 4607).
//!
//! The kernel may hand over several datagrams of one sender in one buffer (UDP_GRO of udp(7), Linux 5.0); they come out singly
//! and in order. Nothing here judges a datagram.

mod controls;
mod train;

use std::io;
use std::mem;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use libc::{c_int, c_uint, iovec, mmsghdr};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, ppoll};

use super::clock;
use super::membership;
use super::socket::{self, ADDRESS_SIZE, Address, OptionName};
use crate::failure::{Exit, Failure};
use crate::limits::{RECEIVE_BATCH, RECEIVE_BUFFER_SIZE, RECEIVE_SOCKET_COUNT_MAX, SOCKET_RECEIVE_BUFFER_SIZE};
use crate::types::Time;
use controls::Controls;
pub use train::Train;

/// Bytes of control messages taken with a buffer: the segment size, the drop count and the hop limit need 72.
const CONTROL_SIZE: usize = 96;
/// The option and control message of GRO.
const UDP_GRO: OptionName = OptionName(libc::SOL_UDP, libc::UDP_GRO);
/// The option and control message of the drop count.
const DROP_COUNT: OptionName = OptionName(libc::SOL_SOCKET, libc::SO_RXQ_OVFL);
/// The control messages of the TTL and of the hop limit.
const TTL: OptionName = OptionName(libc::IPPROTO_IP, libc::IP_TTL);
const HOP_LIMIT: OptionName = OptionName(libc::IPPROTO_IPV6, libc::IPV6_HOPLIMIT);

/// What a [`ReceiveSocket`] is opened for.
#[derive(Clone, Debug)]
pub struct ReceiveOptions {
    /// The multicast group and port to receive.
    pub group: SocketAddr,
    /// The interface to join it on.
    pub interface_index: u32,
}

/// A UDP socket that hears one multicast group on one interface.
#[derive(Debug)]
pub struct ReceiveSocket {
    socket: OwnedFd,
    group: SocketAddr,
    interface_index: u32,
    batch: Batch,
    received: [Received; RECEIVE_BATCH],
    received_count: usize,
    dropped_buffers: u32,
    truncated: u64,
}

/// What the kernel said of one filled buffer.
#[derive(Clone, Copy, Debug)]
struct Received {
    sender_addr: SocketAddr,
    size: usize,
    segment_size: usize,
    hop_limit: Option<u8>,
}

/// An empty datagram is one too.
fn datagram_count(size: usize, segment_size: usize) -> usize {
    size.div_ceil(segment_size).max(1)
}

impl ReceiveSocket {
    /// Opens the socket and joins the group for whatever is sent to it. Several receivers on one host can; each gets every datagram.
    /// Returned with it are warnings, one line each.
    ///
    /// # Errors
    /// [`Exit::Usage`] if the interface does not exist; [`Exit::Unavailable`] if the port is taken, the group cannot be joined,
    /// or the kernel refuses for another reason.
    pub fn open(options: &ReceiveOptions) -> Result<(Self, Vec<String>), Failure> {
        Self::open_then(options, |socket, group| {
            membership::join(socket, options.interface_index, group).map_err(|error| {
                membership::failure(group.ip(), None, &socket::interface_name(options.interface_index), &error)
            })
        })
    }

    /// Opens the socket and hears nothing before [`join_source`](Self::join_source).
    ///
    /// # Errors
    /// Those of [`open`](Self::open).
    pub fn open_without_sources(options: &ReceiveOptions) -> Result<(Self, Vec<String>), Failure> {
        Self::open_then(options, |_, _| Ok(()))
    }

    fn open_then(
        options: &ReceiveOptions,
        join: impl FnOnce(BorrowedFd<'_>, SocketAddr) -> Result<(), Failure>,
    ) -> Result<(Self, Vec<String>), Failure> {
        let group = socket::scoped(options.group, options.interface_index);
        let refused = |error| {
            let interface = socket::interface_name(options.interface_index);
            Failure::io(Exit::Unavailable, format!("receive {} on {interface}", options.group), &error)
        };
        let socket = socket::open(&group).map_err(refused)?;
        configure(socket.as_fd(), options).map_err(refused)?;
        let warning = enlarge_buffer(socket.as_fd()).map_err(refused)?;
        join(socket.as_fd(), group)?;
        // Bound last, so that nothing is queued that came before all is set.
        socket::bind(&socket, group).map_err(|error| bind_failure(options.group, &error))?;
        let nothing = Received { sender_addr: group, size: 0, segment_size: 1, hop_limit: None };
        let receiver = Self {
            socket,
            group,
            interface_index: options.interface_index,
            batch: Batch::new(),
            received: [nothing; RECEIVE_BATCH],
            received_count: 0,
            dropped_buffers: 0,
            truncated: 0,
        };
        Ok((receiver, warning.into_iter().collect()))
    }

    /// Hears what `source` sends to the group, from now on.
    ///
    /// # Errors
    /// [`Exit::Usage`] if the interface does not exist any more, else [`Exit::Unavailable`].
    pub fn join_source(&self, source: IpAddr) -> Result<(), Failure> {
        membership::join_source(self.socket.as_fd(), self.interface_index, self.group, source).map_err(|error| {
            membership::failure(self.group.ip(), Some(source), &socket::interface_name(self.interface_index), &error)
        })
    }

    /// Hears `source` no more. What has come is still there to be read. If it had not been joined, nothing happens.
    pub fn leave_source(&self, source: IpAddr) {
        // Of an interface that has gone the membership has gone too.
        let _ = membership::leave_source(self.socket.as_fd(), self.interface_index, self.group, source);
    }

    /// Waits until one of the sockets has something to read, at most until `deadline`. Those behind `last` are looked at first, so that
    /// each has its turn.
    ///
    /// # Errors
    /// What the kernel says, but for EINTR.
    pub fn wait_for_any(sockets: &[Self], last: usize, deadline: Time) -> io::Result<Option<usize>> {
        let count = sockets.len().min(RECEIVE_SOCKET_COUNT_MAX);
        let Some(first) = sockets.first() else {
            clock::sleep_until(deadline);
            return Ok(None);
        };
        let mut polled: [_; RECEIVE_SOCKET_COUNT_MAX] =
            std::array::from_fn(|i| PollFd::new(sockets.get(i).unwrap_or(first).socket.as_fd(), PollFlags::POLLIN));
        match ppoll(&mut polled[..count], Some(clock::time_spec(deadline.since(clock::now()))), None) {
            Ok(_) | Err(Errno::EINTR) => {}
            Err(errno) => return Err(errno.into()),
        }
        let is_ready = |&i: &usize| polled[i].any().unwrap_or(false);
        Ok((1..=count).map(|step| (last + step) % count).find(is_ready))
    }

    /// Who sent what is in the last batch: one address for each buffer that the kernel filled.
    pub fn batch_senders(&self) -> impl Iterator<Item = IpAddr> {
        self.received[..self.received_count].iter().map(|received| received.sender_addr.ip())
    }

    /// Has the kernel tell TTLs and hop limits from now on.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn tell_hop_limits(&self) -> io::Result<()> {
        let name = match self.group {
            SocketAddr::V4(_) => OptionName(libc::IPPROTO_IP, libc::IP_RECVTTL),
            SocketAddr::V6(_) => OptionName(libc::IPPROTO_IPV6, libc::IPV6_RECVHOPLIMIT),
        };
        socket::set_option(self.socket.as_fd(), name, &(1 as c_int))
    }

    /// The smallest TTL or hop limit in the last batch, if the kernel was asked to tell.
    #[must_use]
    pub fn hop_limit_min(&self) -> Option<u8> {
        self.received[..self.received_count].iter().filter_map(|received| received.hop_limit).min()
    }

    /// Bytes that the kernel keeps for this socket while nobody reads.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn buffer_size(&self) -> io::Result<usize> {
        let doubled = socket::option(self.socket.as_fd(), OptionName(libc::SOL_SOCKET, libc::SO_RCVBUF))?;
        Ok(usize::try_from(doubled).unwrap_or(0) / 2)
    }

    /// Waits until there is something to read, at most until `deadline`, and takes one batch. Returns the number of datagrams
    /// that [`datagrams`](Self::datagrams) now yields: 0 if the deadline has come, or a signal.
    ///
    /// # Errors
    /// What the kernel says, but for EINTR and EAGAIN.
    pub fn receive(&mut self, deadline: Time) -> io::Result<usize> {
        // After a full batch there is probably more, and the question would cost a system call.
        let ask_first = self.received_count < RECEIVE_BATCH;
        self.received_count = 0;
        if ask_first && !self.wait(deadline)? {
            return Ok(0);
        }
        self.batch.aim();
        let headers = self.batch.headers.as_mut_ptr();
        let (fd, count, no_timeout) = (self.socket.as_raw_fd(), RECEIVE_BATCH as c_uint, std::ptr::null_mut());
        // SAFETY: `aim` has pointed this many headers at the arrays of the batch, each with its own part and that part's size;
        // they live as long as `self`, which is borrowed mutably, so that nobody else touches them meanwhile.
        let filled = unsafe { libc::recvmmsg(fd, headers, count, libc::MSG_DONTWAIT, no_timeout) };
        let Ok(filled) = usize::try_from(filled) else {
            let error = io::Error::last_os_error();
            // A datagram with a wrong checksum makes the socket readable and is gone when read.
            return match error.kind() {
                io::ErrorKind::Interrupted | io::ErrorKind::WouldBlock => Ok(0),
                _ => Err(error),
            };
        };
        self.account(filled);
        Ok(self.received[..self.received_count]
            .iter()
            .map(|received| datagram_count(received.size, received.segment_size))
            .sum())
    }

    /// The datagrams of the last batch with their senders, in the order in which the kernel delivered them.
    pub fn datagrams(&self) -> impl Iterator<Item = (SocketAddr, &[u8])> {
        self.trains().flat_map(|train| train.datagrams().map(move |datagram| (train.from, datagram)))
    }

    /// The same, those together that came in one buffer.
    pub fn trains(&self) -> impl Iterator<Item = Train<'_>> {
        let buffers = self.batch.arena.chunks_exact(RECEIVE_BUFFER_SIZE);
        self.received[..self.received_count]
            .iter()
            .zip(buffers)
            .map(|(received, buffer)| Train::new(received.sender_addr, &buffer[..received.size], received.segment_size))
    }

    /// How many buffers the kernel has dropped because the socket's queue was full, as it last said, modulo 2^32. With GRO a
    /// buffer holds up to 64 datagrams. The kernel tells with the next datagram that it does deliver.
    #[must_use]
    pub fn dropped_buffers(&self) -> u32 {
        self.dropped_buffers
    }

    /// How many buffers were longer than what there was room for; their beginnings were yielded.
    #[must_use]
    pub fn truncated(&self) -> u64 {
        self.truncated
    }

    /// Whether there is something to read (or an error to learn of) by `deadline`; not if a signal came first.
    fn wait(&self, deadline: Time) -> io::Result<bool> {
        let mut sockets = [PollFd::new(self.socket.as_fd(), PollFlags::POLLIN)];
        let span = deadline.since(clock::now());
        match ppoll(&mut sockets, Some(clock::time_spec(span)), None) {
            Ok(ready) => Ok(ready > 0),
            Err(Errno::EINTR) => Ok(false),
            Err(errno) => Err(errno.into()),
        }
    }

    fn account(&mut self, filled: usize) {
        for (i, received) in self.received[..filled].iter_mut().enumerate() {
            let header = &self.batch.headers[i];
            let controls = Controls::parse(self.batch.controls[i].filled(header));
            let size = RECEIVE_BUFFER_SIZE.min(header.msg_len as usize);
            if let Some(sender_addr) = self.batch.addresses[i].get() {
                received.sender_addr = sender_addr;
            }
            received.size = size;
            received.segment_size = controls.segment_size.unwrap_or(size).max(1);
            received.hop_limit = controls.hop_limit;
            self.dropped_buffers = controls.dropped_buffers.unwrap_or(self.dropped_buffers);
            self.truncated += u64::from(header.msg_hdr.msg_flags & libc::MSG_TRUNC != 0);
        }
        self.received_count = filled;
    }
}

/// The arrays that one system call takes, made once. Memory of the arena is used from the first datagram that needs it on.
struct Batch {
    headers: Box<[mmsghdr]>,
    vectors: Box<[iovec]>,
    addresses: Box<[Address]>,
    controls: Box<[ControlBuffer]>,
    arena: Box<[u8]>,
}

// SAFETY: every pointer in the arrays is written by `aim` before the kernel follows it, in the same `&mut` call; what is left in
// them between calls is never followed.
unsafe impl Send for Batch {}

impl Batch {
    fn new() -> Self {
        // SAFETY: the structure is plain data and pointers, for which all zeroes is a value.
        let header: mmsghdr = unsafe { mem::zeroed() };
        let vector = iovec { iov_base: std::ptr::null_mut(), iov_len: 0 };
        Self {
            headers: vec![header; RECEIVE_BATCH].into_boxed_slice(),
            vectors: vec![vector; RECEIVE_BATCH].into_boxed_slice(),
            addresses: vec![Address::none(); RECEIVE_BATCH].into_boxed_slice(),
            controls: vec![ControlBuffer { bytes: [0; CONTROL_SIZE] }; RECEIVE_BATCH].into_boxed_slice(),
            arena: vec![0; RECEIVE_BATCH * RECEIVE_BUFFER_SIZE].into_boxed_slice(),
        }
    }

    /// Gives each header its parts of the arrays, and their whole sizes, which the kernel has overwritten the last time.
    fn aim(&mut self) {
        for (vector, buffer) in self.vectors.iter_mut().zip(self.arena.chunks_exact_mut(RECEIVE_BUFFER_SIZE)) {
            *vector = iovec { iov_base: buffer.as_mut_ptr().cast(), iov_len: buffer.len() };
        }
        let (vectors, addresses) = (self.vectors.as_mut_ptr(), self.addresses.as_mut_ptr());
        for ((i, header), control) in self.headers.iter_mut().enumerate().zip(&mut self.controls) {
            let header = &mut header.msg_hdr;
            header.msg_name = addresses.wrapping_add(i).cast();
            header.msg_namelen = ADDRESS_SIZE;
            header.msg_iov = vectors.wrapping_add(i);
            header.msg_iovlen = 1;
            header.msg_control = control.bytes.as_mut_ptr().cast();
            header.msg_controllen = CONTROL_SIZE as _;
            header.msg_flags = 0;
        }
    }
}

impl std::fmt::Debug for Batch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} buffers of {RECEIVE_BUFFER_SIZE} bytes", self.headers.len())
    }
}

/// Room for control messages, aligned as the kernel's headers are.
#[derive(Clone, Copy)]
#[repr(C, align(8))]
struct ControlBuffer {
    bytes: [u8; CONTROL_SIZE],
}

impl ControlBuffer {
    /// What the kernel has written, as it says in the header.
    fn filled(&self, header: &mmsghdr) -> &[u8] {
        #[allow(clippy::unnecessary_cast, reason = "musl has an int here")]
        let size = header.msg_hdr.msg_controllen as usize;
        &self.bytes[..CONTROL_SIZE.min(size)]
    }
}

fn configure(socket: BorrowedFd<'_>, options: &ReceiveOptions) -> io::Result<()> {
    let set = |name, value: c_int| socket::set_option(socket, name, &value);
    set(OptionName(libc::SOL_SOCKET, libc::SO_REUSEADDR), 1)?;
    // Otherwise what other programs' memberships bring to the host comes here too. Kernels before 2.6.31 (IPv6: 4.20) cannot.
    let (level, name) = match options.group {
        SocketAddr::V4(_) => (libc::IPPROTO_IP, libc::IP_MULTICAST_ALL),
        SocketAddr::V6(_) => (libc::IPPROTO_IPV6, libc::IPV6_MULTICAST_ALL),
    };
    match set(OptionName(level, name), 0) {
        Err(error) if !matches!(error.raw_os_error(), Some(libc::ENOPROTOOPT | libc::EINVAL)) => return Err(error),
        _ => {}
    }
    if options.group.is_ipv6() {
        // A membership of IPv6 does not say on which interface a datagram must arrive: this does. Kernels before 5.7 reserve
        // it to CAP_NET_RAW; there, the same group on another interface that this host listens to is heard as well.
        let _ =
            socket::set_option(socket, OptionName(libc::SOL_SOCKET, libc::SO_BINDTOIFINDEX), &options.interface_index);
    }
    // Without these two, datagrams come singly and drops of this host look like any loss.
    let _ = set(UDP_GRO, 1);
    let _ = set(DROP_COUNT, 1);
    Ok(())
}

/// Asks for the receive buffer; a warning tells of a smaller one.
fn enlarge_buffer(socket: BorrowedFd<'_>) -> io::Result<Option<String>> {
    let wanted = c_int::try_from(SOCKET_RECEIVE_BUFFER_SIZE).expect("the kernel counts it in an int");
    let name = |name| OptionName(libc::SOL_SOCKET, name);
    // To exceed the limit takes CAP_NET_ADMIN.
    if socket::set_option(socket, name(libc::SO_RCVBUFFORCE), &wanted).is_err() {
        socket::set_option(socket, name(libc::SO_RCVBUF), &wanted)?;
    }
    // The kernel says twice what was asked for: the other half is for its own bookkeeping (socket(7)).
    let granted = socket::option(socket, name(libc::SO_RCVBUF))? / 2;
    Ok((granted < wanted).then(|| buffer_warning(granted, wanted)))
}

fn buffer_warning(granted: c_int, wanted: c_int) -> String {
    let size = |bytes: c_int| match bytes >> 20 {
        0 => format!("{} KiB", bytes >> 10),
        mebibytes => format!("{mebibytes} MiB"),
    };
    format!("receive buffer is {} of {} (sysctl -w net.core.rmem_max={wanted})", size(granted), size(wanted))
}

fn bind_failure(group: SocketAddr, error: &io::Error) -> Failure {
    let failure = Failure::io(Exit::Unavailable, format!("receive {group}"), error);
    match error.raw_os_error() {
        Some(libc::EADDRINUSE) => {
            failure.remedy("another program keeps the port to itself: ss -ulnp, or send to another port")
        }
        Some(libc::EACCES) => failure.remedy("ports below 1024 need CAP_NET_BIND_SERVICE"),
        _ => failure,
    }
}

#[cfg(test)]
mod tests {
    use std::collections::hash_map::RandomState;
    use std::hash::BuildHasher;
    use std::net::UdpSocket;
    use std::time::Duration;

    use super::super::send_socket::{Memory, Message, SendOptions, SendSocket};
    use super::*;

    /// A sender and a receiver of a group of their own on the loopback interface. Tests, and runs of them, at the same time get
    /// different groups and ports, but for chance.
    fn pair() -> (SendSocket, ReceiveSocket) {
        let random = RandomState::new().hash_one(0).to_ne_bytes();
        let port = 20_000 + u16::from_ne_bytes([random[3], random[4]]) % 12_000;
        let group = SocketAddr::from(([239, random[0], random[1], random[2]], port));
        let interface_index = loopback();
        let (receiver, _) = ReceiveSocket::open(&ReceiveOptions { group, interface_index }).unwrap();
        let bind_addr = Some(IpAddr::from([127, 0, 0, 1]));
        let sender = SendSocket::open(&SendOptions { group, interface_index, bind_addr, hops: 1 }).unwrap();
        (sender, receiver)
    }

    fn loopback() -> u32 {
        nix::net::if_::if_nametoindex("lo").unwrap()
    }

    fn soon() -> Time {
        clock::now().after(Duration::from_secs(5))
    }

    /// Receives until `count` datagrams have come.
    fn take(receiver: &mut ReceiveSocket, count: usize) -> Vec<(SocketAddr, Vec<u8>)> {
        let mut taken = Vec::new();
        while taken.len() < count {
            let announced = receiver.receive(soon()).unwrap();
            assert!(announced > 0, "{} of {count} datagrams came", taken.len());
            let before = taken.len();
            taken.extend(receiver.datagrams().map(|(from, bytes)| (from, bytes.to_vec())));
            assert_eq!(taken.len() - before, announced);
        }
        taken
    }

    fn pattern(size: usize) -> Vec<u8> {
        (0..size).map(|i| (i * 31 + i / 251) as u8).collect()
    }

    #[test]
    fn datagrams_arrive_singly_with_their_sizes_bytes_and_sender() {
        let (mut sender, mut receiver) = pair();
        let buffer = pattern(5_000);
        let message = |start, size| Message { start, size, segment_size: size, memory: Memory::Buffer };
        let messages = [message(0, 1_452), message(1_452, 44), message(1_496, 0), message(100, 3_000)];
        assert_eq!(sender.send(&buffer, &messages).unwrap(), 4);
        let taken = take(&mut receiver, 4);
        for (message, (from, bytes)) in messages.iter().zip(&taken) {
            assert_eq!(*from, sender.local_addr());
            assert_eq!(bytes, &buffer[message.start..message.start + message.size]);
        }
        assert_eq!((receiver.truncated(), receiver.dropped_buffers()), (0, 0));
    }

    #[test]
    fn gso_message_arrives_as_its_segments_with_a_short_last_one() {
        let (mut sender, mut receiver) = pair();
        if !sender.gso() {
            return;
        }
        let buffer = pattern(44 * 1_452 + 700);
        let messages = [
            Message { start: 0, size: buffer.len(), segment_size: 1_452, memory: Memory::Buffer },
            Message { start: 7, size: 3 * 600, segment_size: 600, memory: Memory::Buffer },
            Message { start: 0, size: 600, segment_size: 600, memory: Memory::Buffer },
        ];
        assert_eq!(sender.send(&buffer, &messages).unwrap(), 3);
        let sent = messages.iter().flat_map(|m| buffer[m.start..m.start + m.size].chunks(m.segment_size));
        let taken = take(&mut receiver, 45 + 3 + 1);
        assert!(sent.eq(taken.iter().map(|(_, bytes)| bytes.as_slice())));
        assert!(taken.iter().all(|(from, _)| *from == sender.local_addr()));
    }

    #[test]
    fn more_messages_than_a_call_takes_are_sent_in_several() {
        let (mut sender, mut receiver) = pair();
        let buffer = pattern(150);
        let messages: Vec<Message> =
            (0..150).map(|start| Message { start, size: 1, segment_size: 1, memory: Memory::Buffer }).collect();
        let mut sent = 0;
        while sent < messages.len() {
            sent += sender.send(&buffer, &messages[sent..]).unwrap();
        }
        let taken = take(&mut receiver, 150);
        assert!(buffer.iter().copied().eq(taken.iter().map(|(_, bytes)| bytes[0])));
    }

    #[test]
    fn sender_without_gso_panics_rather_than_send_what_receivers_cannot_read() {
        let (mut sender, _receiver) = pair();
        sender.disable_gso();
        let message = Message { start: 0, size: 20, segment_size: 10, memory: Memory::Buffer };
        let sending = std::panic::AssertUnwindSafe(|| sender.send(&[0; 20], &[message]));
        assert!(std::panic::catch_unwind(sending).is_err());
    }

    #[test]
    fn unicast_to_the_port_is_not_heard() {
        let (_sender, mut receiver) = pair();
        let group = nix::sys::socket::getsockname::<nix::sys::socket::SockaddrIn>(receiver.socket.as_raw_fd()).unwrap();
        UdpSocket::bind("127.0.0.1:0").unwrap().send_to(b"x", ("127.0.0.1", group.port())).unwrap();
        assert_eq!(receiver.receive(clock::now().after(Duration::from_millis(2))).unwrap(), 0);
    }

    #[test]
    fn silence_ends_at_the_deadline() {
        let (_sender, mut receiver) = pair();
        let deadline = clock::now().after(Duration::from_millis(2));
        assert_eq!(receiver.receive(deadline).unwrap(), 0);
        assert!(clock::now() >= deadline);
        assert_eq!(receiver.datagrams().count(), 0);
    }

    #[test]
    fn two_receivers_share_a_group_but_an_exclusive_owner_of_the_port_refuses() {
        let (mut sender, mut first) = pair();
        let group = nix::sys::socket::getsockname::<nix::sys::socket::SockaddrIn>(first.socket.as_raw_fd()).unwrap();
        let group = SocketAddr::from((group.ip(), group.port()));
        let options = ReceiveOptions { group, interface_index: loopback() };
        let (mut second, _) = ReceiveSocket::open(&options).unwrap();
        sender.send(b"both", &[Message { start: 0, size: 4, segment_size: 4, memory: Memory::Buffer }]).unwrap();
        assert_eq!((take(&mut first, 1).len(), take(&mut second, 1).len()), (1, 1));
        drop((first, second));

        let _owner = UdpSocket::bind(group).unwrap();
        let failure = ReceiveSocket::open(&options).unwrap_err();
        assert_eq!(failure.exit, Exit::Unavailable);
        assert!(failure.to_string().starts_with(&format!("receive {group}: address already in use (")), "{failure}");
    }

    #[test]
    fn join_on_a_missing_interface_names_it() {
        for (group, ip) in [("239.77.2.1:20001", "239.77.2.1"), ("[ff12::77]:20001", "ff12::77")] {
            let options = ReceiveOptions { group: group.parse().unwrap(), interface_index: 987_654 };
            let failure = ReceiveSocket::open(&options).unwrap_err();
            let expected = format!("join {ip} on interface 987654: no such device (see --interface)");
            assert_eq!((failure.exit, failure.to_string()), (Exit::Usage, expected));
        }
    }

    #[test]
    fn ipv6_round_trip_where_the_loopback_has_a_route() {
        let group: SocketAddr = "[ff12::7:7:7]:20002".parse().unwrap();
        let interface_index = loopback();
        // Without the route (it takes privileges to add) there is nothing to send with.
        let Ok(mut sender) = SendSocket::open(&SendOptions { group, interface_index, bind_addr: None, hops: 1 }) else {
            return;
        };
        let (mut receiver, _) = ReceiveSocket::open(&ReceiveOptions { group, interface_index }).unwrap();
        sender.send(b"six", &[Message { start: 0, size: 3, segment_size: 3, memory: Memory::Buffer }]).unwrap();
        assert_eq!(take(&mut receiver, 1), [(sender.local_addr(), b"six".to_vec())]);
    }

    #[test]
    fn warning_names_the_sysctl_and_the_figures() {
        let expected = "receive buffer is 4 MiB of 16 MiB (sysctl -w net.core.rmem_max=16777216)";
        assert_eq!(buffer_warning(4 << 20, 16 << 20), expected);
        assert!(buffer_warning(212_992, 16 << 20).starts_with("receive buffer is 208 KiB of 16 MiB"));
    }
}
