//! The sender's socket: egress only. It is connected to the group, and a locked filter in the kernel drops whatever arrives, so
//! that no datagram can reach the program. What still comes in is the kernel's own word on an ICMP error, as the error of a
//! later send and in the error queue, which tells such errors from local ones.
//!
//! Datagrams are never fragmented: one that exceeds the interface's MTU is refused (EMSGSIZE). Equal-sized neighbours go out as
//! one GSO message where the kernel can (UDP_SEGMENT of udp(7), Linux 4.18).

use std::io;
use std::mem;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};

use libc::{c_int, c_uint, iovec, mmsghdr};

use super::error_queue::{ErrorQueue, QueuedErrors};
use super::scratch::ScratchSlots;
use super::socket::{self, OptionName};
use crate::failure::{Exit, Failure};

/// Messages handed to the kernel by one call at most.
pub(super) const MESSAGE_COUNT_MAX: usize = 128;
/// The same, where each is one datagram: each may have to wait.
const SINGLE_COUNT_MAX: usize = 16;
/// Bytes of the send buffer that are asked for: some bursts wait there while the interface's queue is full.
const SOCKET_SEND_BUFFER_SIZE: c_int = 4 << 20;
/// Bytes that the error queue may hold. The kernel doubles it.
const ERROR_QUEUE_SIZE: c_int = 16 << 10;
/// The longest wait for room in the send buffer before the caller may look at other things.
const SEND_WAIT_US_MAX: libc::suseconds_t = 10_000;
/// The socket option and control message of GSO.
const UDP_SEGMENT: OptionName = OptionName(libc::SOL_UDP, libc::UDP_SEGMENT);

/// What a [`SendSocket`] is opened for.
#[derive(Clone, Debug)]
pub struct SendOptions {
    /// The multicast group and port to send to.
    pub group: SocketAddr,
    /// The interface to send from.
    pub interface_index: u32,
    /// The source address, if not the kernel's choice. It must be this host's.
    pub bind_addr: Option<IpAddr>,
    /// The IPv4 TTL or IPv6 hop limit: 1 stays on the link.
    pub hops: u8,
}

/// A range of bytes to send: one datagram, or several by GSO.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Message {
    /// Which bytes.
    pub memory: Memory,
    /// The first of them.
    pub start: usize,
    /// Its bytes.
    pub size: usize,
    /// The bytes of each datagram but the last, which takes the rest; `size` or more for a message that is one datagram.
    pub segment_size: usize,
}

/// What a message is a range of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Memory {
    /// A buffer, which the kernel copies from.
    Buffer,
    /// Slots that do not change any more: the device can read them in its own time, if the engine has a way to ask for that.
    Image,
    /// The same slots, to be copied from.
    ImageToCopy,
}

/// The bytes that messages are ranges of.
#[derive(Clone, Copy, Debug)]
pub struct Lent<'a> {
    /// For [`Memory::Buffer`].
    pub buffer: &'a [u8],
    /// For the others.
    pub image: Option<&'a ScratchSlots>,
}

impl<'a> Lent<'a> {
    /// The bytes of a message.
    ///
    /// # Panics
    /// If it is not within what is lent.
    fn bytes(&self, message: &Message) -> &'a [u8] {
        let end = message.start.checked_add(message.size).expect("a message is within its memory");
        match (message.memory, self.image) {
            (Memory::Buffer, _) => &self.buffer[message.start..end],
            (_, image) => {
                image.and_then(|image| image.bytes(message.start, message.size)).expect("slots that are full")
            }
        }
    }
}

/// A UDP socket that sends to one multicast group and hears nothing.
#[derive(Debug)]
pub struct SendSocket {
    socket: UdpSocket,
    local_addr: SocketAddr,
    gso: bool,
    /// Where the kernel cuts messages that do not say it; 0: nowhere.
    cut: u16,
    batch: Batch,
    errors: ErrorQueue,
}

impl SendSocket {
    /// Opens, deafens, binds and connects the socket.
    ///
    /// # Errors
    /// [`Exit::Usage`] if the interface or the source address does not exist or fits the group not; [`Exit::Unavailable`] if
    /// there is no route to the group, or the kernel refuses for another reason.
    pub fn open(options: &SendOptions) -> Result<Self, Failure> {
        let interface = socket::interface_name(options.interface_index);
        let what = || format!("send to {} on {interface}", options.group);
        let refused = |error: io::Error| Failure::io(Exit::Unavailable, what(), &error);
        if options.bind_addr.is_some_and(|address| address.is_ipv4() != options.group.is_ipv4()) {
            return Err(Failure::new(Exit::Usage, what(), "the source address is of the other IP version"));
        }
        let socket = UdpSocket::from(socket::open(&options.group).map_err(refused)?);
        // Deaf before it has an address: nothing can slip in between.
        deafen(socket.as_fd()).map_err(refused)?;
        configure(socket.as_fd(), options).map_err(|error| match error.raw_os_error() {
            Some(libc::ENODEV | libc::EADDRNOTAVAIL) => {
                Failure::new(Exit::Usage, what(), "no such device").remedy("see --interface")
            }
            _ => refused(error),
        })?;
        if let Some(address) = options.bind_addr {
            let local = socket::scoped(SocketAddr::new(address, 0), options.interface_index);
            socket::bind(&socket, local).map_err(|error| bind_failure(address, &interface, &error))?;
        }
        let group = socket::scoped(options.group, options.interface_index);
        socket::connect(&socket, group).map_err(|error| match error.raw_os_error() {
            Some(libc::ENETUNREACH | libc::EHOSTUNREACH | libc::EADDRNOTAVAIL) => {
                refused(error).remedy(route_remedy(options.group.ip(), &interface))
            }
            _ => refused(error),
        })?;
        let local_addr = socket.local_addr().map_err(refused)?;
        let gso = socket::set_option(socket.as_fd(), UDP_SEGMENT, &(0 as c_int)).is_ok();
        Ok(Self { socket, local_addr, gso, cut: 0, batch: Batch::new(), errors: ErrorQueue::new() })
    }

    /// The address and port that receivers see, unless a router translates them. The address is unspecified where the kernel
    /// found none on the interface.
    #[must_use]
    pub fn local_addr(&self) -> SocketAddr {
        self.local_addr
    }

    /// Whether a message may hold several datagrams.
    #[must_use]
    pub fn gso(&self) -> bool {
        self.gso
    }

    pub(crate) fn as_raw_fd(&self) -> i32 {
        self.socket.as_raw_fd()
    }

    /// Gives up GSO, after the kernel has refused a message of several datagrams (EIO, EINVAL).
    pub fn disable_gso(&mut self) {
        self.gso = false;
    }

    /// Has the kernel cut messages that do not say where, after this many bytes, from now on. Those of a [`Batch`] then all say it.
    ///
    /// # Errors
    /// What the kernel says; all is then as it was.
    pub(super) fn set_cut(&mut self, size: u16) -> io::Result<()> {
        socket::set_option(self.socket.as_fd(), UDP_SEGMENT, &c_int::from(size)).inspect(|()| self.cut = size)
    }

    /// Where the kernel cuts messages that do not say it; 0: nowhere.
    pub(super) fn cut(&self) -> u16 {
        self.cut
    }

    /// Takes the errors that are queued: to be asked after every refusal, to know whether it was meant.
    pub fn take_errors(&mut self) -> QueuedErrors {
        self.errors.take(&self.socket)
    }

    /// [`Self::send_lent`] where all messages are of `buffer`.
    ///
    /// # Errors
    /// The same.
    ///
    /// # Panics
    /// In the same cases.
    pub fn send(&mut self, buffer: &[u8], messages: &[Message]) -> io::Result<usize> {
        self.send_lent(&Lent { buffer, image: None }, messages)
    }

    /// Sends as many of `messages` as one system call takes, in order, and returns how many those are: at most 128, and 0
    /// only if there are none or a signal came first. Waits while the send buffer is full, for 10 ms at most for each message; without
    /// [`gso`](Self::gso), when many messages wait behind one another, those are 16 at most.
    ///
    /// # Errors
    /// What the kernel says of the first message; none has then been sent. [`io::ErrorKind::WouldBlock`] if the send buffer was
    /// full all the time. If it says so of a later one, the messages before it count as sent, and that one can be tried again.
    ///
    /// # Panics
    /// If a message is not within what is lent, or holds several datagrams without [`gso`](Self::gso).
    pub fn send_lent(&mut self, lent: &Lent<'_>, messages: &[Message]) -> io::Result<usize> {
        let count_max = if self.gso { MESSAGE_COUNT_MAX } else { SINGLE_COUNT_MAX };
        let messages = &messages[..messages.len().min(count_max)];
        assert!(self.gso || messages.iter().all(|message| message.size <= message.segment_size), "GSO is off");
        self.batch.fill(lent, messages, self.cut != 0);
        let headers = self.batch.headers.as_mut_ptr();
        // SAFETY: `fill` has pointed this many headers at what is lent, borrowed until the call returns, and at the arrays of the
        // batch, which nobody else touches meanwhile.
        let sent = unsafe { libc::sendmmsg(self.socket.as_raw_fd(), headers, messages.len() as c_uint, 0) };
        if let Ok(sent) = usize::try_from(sent) {
            return Ok(sent);
        }
        let error = io::Error::last_os_error();
        // An interrupted call has sent nothing, or it would have said how much.
        if error.kind() == io::ErrorKind::Interrupted { Ok(0) } else { Err(error) }
    }
}

/// The arrays that one system call takes, made once.
#[derive(Debug)]
pub(super) struct Batch {
    headers: Box<[mmsghdr]>,
    vectors: Box<[iovec]>,
    controls: Box<[SegmentControl]>,
}

// SAFETY: every pointer in the arrays is written by `fill` before the kernel follows it, in the same `&mut` call; what is left in
// them between calls is never followed.
unsafe impl Send for Batch {}

impl Batch {
    pub(super) fn headers(&self) -> &[mmsghdr] {
        &self.headers
    }

    pub(super) fn new() -> Self {
        // SAFETY: the structure is plain data and pointers, for which all zeroes is a value.
        let header: mmsghdr = unsafe { mem::zeroed() };
        let vector = iovec { iov_base: std::ptr::null_mut(), iov_len: 0 };
        Self {
            headers: vec![header; MESSAGE_COUNT_MAX].into_boxed_slice(),
            vectors: vec![vector; MESSAGE_COUNT_MAX].into_boxed_slice(),
            controls: vec![SegmentControl::new(); MESSAGE_COUNT_MAX].into_boxed_slice(),
        }
    }

    /// The bytes of the messages.
    pub(super) fn vectors(&self) -> &[iovec] {
        &self.vectors
    }

    /// Describes `messages` in the first headers. `says_all`: also of those that are not to be cut it says so.
    pub(super) fn fill(&mut self, lent: &Lent<'_>, messages: &[Message], says_all: bool) {
        for ((message, vector), control) in messages.iter().zip(&mut self.vectors).zip(&mut self.controls) {
            let bytes = lent.bytes(message);
            assert!(message.segment_size > 0 || message.size == 0, "a segment holds something");
            // The kernel only reads what is sent, whatever the type says.
            *vector = iovec { iov_base: bytes.as_ptr().cast_mut().cast(), iov_len: bytes.len() };
            let segment_size = if message.size > message.segment_size { message.segment_size } else { 0 };
            control.segment_size = u16::try_from(segment_size).expect("a segment is a datagram");
        }
        let (vectors, controls) = (self.vectors.as_mut_ptr(), self.controls.as_mut_ptr());
        for (i, (message, header)) in messages.iter().zip(&mut self.headers).enumerate() {
            let header = &mut header.msg_hdr;
            header.msg_iov = vectors.wrapping_add(i);
            header.msg_iovlen = 1;
            let says = says_all || message.size > message.segment_size;
            header.msg_control = if says { controls.wrapping_add(i).cast() } else { std::ptr::null_mut() };
            header.msg_controllen = if says { size_of::<SegmentControl>() as _ } else { 0 };
        }
    }
}

/// The control message that says where to cut (UDP_SEGMENT), or with 0 that it is not to be cut, laid out as cmsg(3) demands.
#[derive(Clone, Copy)]
#[repr(C)]
struct SegmentControl {
    header: libc::cmsghdr,
    segment_size: u16,
    padding: [u8; size_of::<usize>() - size_of::<u16>()],
}

// SAFETY: CMSG_LEN is arithmetic on its argument.
const CONTROL_LENGTH: c_uint = unsafe { libc::CMSG_LEN(size_of::<u16>() as c_uint) };
// SAFETY: CMSG_SPACE is arithmetic on its argument.
const CONTROL_SPACE: c_uint = unsafe { libc::CMSG_SPACE(size_of::<u16>() as c_uint) };
const _: () = assert!(mem::offset_of!(SegmentControl, segment_size) + size_of::<u16>() == CONTROL_LENGTH as usize);
const _: () = assert!(size_of::<SegmentControl>() == CONTROL_SPACE as usize);

impl SegmentControl {
    fn new() -> Self {
        // SAFETY: the structure is plain data, for which all zeroes is a value.
        let mut control: Self = unsafe { mem::zeroed() };
        control.header.cmsg_len = CONTROL_LENGTH as _;
        control.header.cmsg_level = UDP_SEGMENT.0;
        control.header.cmsg_type = UDP_SEGMENT.1;
        control
    }
}

impl std::fmt::Debug for SegmentControl {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "UDP_SEGMENT {}", self.segment_size)
    }
}

/// Drops every datagram in the kernel, for as long as the socket lives: the filter cannot be taken off again.
fn deafen(socket: BorrowedFd<'_>) -> io::Result<()> {
    // Classic BPF: return 0, keep no byte of the packet.
    let mut drop_all = [libc::sock_filter { code: (libc::BPF_RET | libc::BPF_K) as u16, jt: 0, jf: 0, k: 0 }];
    let program = libc::sock_fprog { len: 1, filter: drop_all.as_mut_ptr() };
    socket::set_option(socket, OptionName(libc::SOL_SOCKET, libc::SO_ATTACH_FILTER), &program)?;
    socket::set_option(socket, OptionName(libc::SOL_SOCKET, libc::SO_LOCK_FILTER), &(1 as c_int))?;
    // All that is left to hold are errors: enough for some, so that one is there when it is looked for, and no more.
    socket::set_option(socket, OptionName(libc::SOL_SOCKET, libc::SO_RCVBUF), &ERROR_QUEUE_SIZE)
}

fn configure(socket: BorrowedFd<'_>, options: &SendOptions) -> io::Result<()> {
    let set =
        |name, value: c_int| socket::set_option(socket, OptionName(socket::ip_level(options.group.ip()), name), &value);
    let index = c_int::try_from(options.interface_index).map_err(|_| io::Error::from_raw_os_error(libc::ENODEV))?;
    let hops = c_int::from(options.hops);
    if options.group.is_ipv4() {
        let any = libc::in_addr { s_addr: libc::INADDR_ANY };
        let interface = libc::ip_mreqn { imr_multiaddr: any, imr_address: any, imr_ifindex: index };
        socket::set_option(socket, OptionName(libc::IPPROTO_IP, libc::IP_MULTICAST_IF), &interface)?;
        set(libc::IP_MULTICAST_TTL, hops)?;
        set(libc::IP_MULTICAST_LOOP, 1)?;
        set(libc::IP_MTU_DISCOVER, libc::IP_PMTUDISC_PROBE)?;
        set(libc::IP_RECVERR, 1)?;
    } else {
        set(libc::IPV6_MULTICAST_IF, index)?;
        set(libc::IPV6_MULTICAST_HOPS, hops)?;
        set(libc::IPV6_MULTICAST_LOOP, 1)?;
        set(libc::IPV6_MTU_DISCOVER, libc::IPV6_PMTUDISC_PROBE)?;
        set(libc::IPV6_RECVERR, 1)?;
    }
    let wait = libc::timeval { tv_sec: 0, tv_usec: SEND_WAIT_US_MAX };
    socket::set_option(socket, OptionName(libc::SOL_SOCKET, libc::SO_SNDTIMEO), &wait)?;
    // A smaller buffer than asked for costs some waiting and nothing else.
    let size = SOCKET_SEND_BUFFER_SIZE;
    let _ = socket::set_option(socket, OptionName(libc::SOL_SOCKET, libc::SO_SNDBUFFORCE), &size)
        .or_else(|_| socket::set_option(socket, OptionName(libc::SOL_SOCKET, libc::SO_SNDBUF), &size));
    Ok(())
}

fn bind_failure(address: IpAddr, interface: &str, error: &io::Error) -> Failure {
    let what = format!("send from {address} on {interface}");
    match error.raw_os_error() {
        Some(libc::EADDRNOTAVAIL | libc::EINVAL | libc::ENODEV) => {
            let remedy = format!("give --bind-addr an address of this host: ip address show dev {interface}");
            Failure::new(Exit::Usage, what, "not an address of this host").remedy(remedy)
        }
        _ => Failure::io(Exit::Unavailable, what, error),
    }
}

/// How to get a route to the group. Over the loopback interface IPv6 needs a route of type `local`: with another, datagrams are
/// sent and never arrive. On every other interface that is up and has an address the kernel makes the route itself.
fn route_remedy(group: IpAddr, interface: &str) -> String {
    match group {
        IpAddr::V4(_) => {
            format!("ip link set {interface} up, or ip route add {group} dev {interface}, or give --bind-addr")
        }
        IpAddr::V6(v6) if interface == "lo" => {
            format!("ip -6 route add local {:x}::/16 dev lo table local", v6.segments()[0])
        }
        IpAddr::V6(_) => format!("ip link set {interface} up, and give it an IPv6 address, or give --bind-addr"),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn options(group: &str) -> SendOptions {
        let interface_index = nix::net::if_::if_nametoindex("lo").unwrap();
        SendOptions { group: group.parse().unwrap(), interface_index, bind_addr: None, hops: 1 }
    }

    #[test]
    fn deaf_socket_queues_nothing_and_stays_deaf() {
        let hearing = UdpSocket::bind("127.0.0.1:0").unwrap();
        hearing.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        let talker = UdpSocket::bind("127.0.0.1:0").unwrap();
        let mut heard = [0; 8];
        talker.send_to(b"heard", hearing.local_addr().unwrap()).unwrap();
        assert_eq!(hearing.recv(&mut heard).unwrap(), 5);

        deafen(hearing.as_fd()).unwrap();
        talker.send_to(b"not", hearing.local_addr().unwrap()).unwrap();
        hearing.set_nonblocking(true).unwrap();
        assert_eq!(hearing.recv(&mut heard).unwrap_err().kind(), io::ErrorKind::WouldBlock);

        let detach = OptionName(libc::SOL_SOCKET, libc::SO_DETACH_FILTER);
        let refused = socket::set_option(hearing.as_fd(), detach, &(0 as c_int)).unwrap_err();
        assert_eq!(refused.raw_os_error(), Some(libc::EPERM));
    }

    #[test]
    fn open_socket_is_deaf_and_locked() {
        let sender = SendSocket::open(&options("239.77.1.2:9")).unwrap();
        let to = SocketAddr::new([127, 0, 0, 1].into(), sender.local_addr().port());
        UdpSocket::bind("127.0.0.1:0").unwrap().send_to(b"not", to).unwrap();
        let socket = sender.socket.try_clone().unwrap();
        socket.set_nonblocking(true).unwrap();
        assert_eq!(socket.recv(&mut [0; 8]).unwrap_err().kind(), io::ErrorKind::WouldBlock);
        let locked = socket::option(socket.as_fd(), OptionName(libc::SOL_SOCKET, libc::SO_LOCK_FILTER)).unwrap();
        assert_eq!(locked, 1);
    }

    #[test]
    fn errors_are_told_and_the_room_for_them_is_bounded() {
        let sender = SendSocket::open(&options("239.77.1.7:9")).unwrap();
        let value = |level, name| socket::option(sender.socket.as_fd(), OptionName(level, name)).unwrap();
        assert_eq!(value(libc::IPPROTO_IP, libc::IP_RECVERR), 1);
        assert_eq!(value(libc::SOL_SOCKET, libc::SO_RCVBUF), 2 * ERROR_QUEUE_SIZE);
    }

    #[test]
    fn foreign_source_address_is_a_usage_failure() {
        let foreign = SendOptions { bind_addr: Some([192, 0, 2, 1].into()), ..options("239.77.1.3:9") };
        let failure = SendSocket::open(&foreign).unwrap_err();
        assert_eq!(failure.exit, Exit::Usage);
        assert!(failure.to_string().starts_with("send from 192.0.2.1 on lo: not an address of this host ("));
        let mixed = SendOptions { bind_addr: Some([127, 0, 0, 1].into()), ..options("[ff12::1]:9") };
        assert_eq!(SendSocket::open(&mixed).unwrap_err().exit, Exit::Usage);
    }

    #[test]
    fn interface_that_does_not_exist_is_named() {
        for group in ["239.77.1.4:9", "[ff12::1]:9"] {
            let failure = SendSocket::open(&SendOptions { interface_index: 987_654, ..options(group) }).unwrap_err();
            let expected = format!("send to {group} on interface 987654: no such device (see --interface)");
            assert_eq!((failure.exit, failure.to_string()), (Exit::Usage, expected));
        }
    }

    #[test]
    fn datagram_beyond_the_mtu_is_refused_not_fragmented() {
        let mut sender = SendSocket::open(&options("239.77.1.5:9")).unwrap();
        let buffer = vec![0; 65_530];
        let refused = sender
            .send(&buffer, &[Message { start: 0, size: 65_530, segment_size: 65_530, memory: Memory::Buffer }])
            .unwrap_err();
        assert_eq!(refused.raw_os_error(), Some(libc::EMSGSIZE));
        assert_eq!(sender.take_errors().icmp_count, 0);
    }

    #[test]
    #[should_panic(expected = "out of range")]
    fn message_beyond_the_buffer_is_a_broken_invariant() {
        let mut sender = SendSocket::open(&options("239.77.1.6:9")).unwrap();
        let _ = sender.send(&[0; 10], &[Message { start: 1, size: 10, segment_size: 10, memory: Memory::Buffer }]);
    }

    #[test]
    fn missing_ipv6_route_is_a_failure_with_the_command_that_adds_it() {
        // With the route, as some hosts have it, the socket simply opens.
        let Err(failure) = SendSocket::open(&options("[ff12::77]:9")) else { return };
        assert_eq!(failure.exit, Exit::Unavailable);
        assert!(failure.to_string().contains("ip -6 route add local ff12::/16 dev lo table local"), "{failure}");
    }
}
