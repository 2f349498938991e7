//! What the kernel has to say about datagrams that a socket has sent: its error queue (IP_RECVERR of ip(7), IPV6_RECVERR of
//! ipv6(7)).
//!
//! Anybody on the path can send an ICMP message that quotes one of our packets, and the kernel hands it on as the error of a
//! later send, under the same numbers that local trouble has. The queue tells them apart. It holds no more than the socket's
//! receive buffer, whatever comes; what does not fit is lost, and only the error of the send then tells of it.

use std::io::IoSliceMut;
use std::os::fd::{AsFd, AsRawFd};

use libc::{SO_EE_ORIGIN_ICMP, SO_EE_ORIGIN_ICMP6, SO_EE_ORIGIN_LOCAL};
use nix::sys::socket::{ControlMessageOwned, MsgFlags, recvmsg};

/// Errors taken from the queue at once at most: more than its buffer can hold.
const TAKEN_COUNT_MAX: usize = 128;
/// Bytes of control messages with one error: the error, the address of who sent it, and their headers.
const CONTROL_SIZE: usize = 256;

/// What was in the error queue.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct QueuedErrors {
    /// Errors that came in ICMP messages. They say nothing that is certain: everybody can forge them.
    pub icmp_count: u64,
    /// The number of the last error that this host has found by itself, if there is one.
    pub local: Option<i32>,
}

/// Room for what one call brings, made once.
#[derive(Debug)]
pub(super) struct ErrorQueue {
    control: Vec<u8>,
}

impl ErrorQueue {
    pub(super) fn new() -> Self {
        Self { control: vec![0; CONTROL_SIZE] }
    }

    /// Empties the queue of `socket`, without waiting. What has been taken is no longer the error of the next send.
    pub(super) fn take(&mut self, socket: &impl AsFd) -> QueuedErrors {
        let mut found = QueuedErrors::default();
        for _ in 0..TAKEN_COUNT_MAX {
            // The quoted packet is of no interest.
            let mut payload: [IoSliceMut<'_>; 0] = [];
            let flags = MsgFlags::MSG_ERRQUEUE | MsgFlags::MSG_DONTWAIT;
            let fd = socket.as_fd().as_raw_fd();
            let Ok(message) = recvmsg::<()>(fd, &mut payload, Some(&mut self.control), flags) else { break };
            let Ok(controls) = message.cmsgs() else {
                // Nothing certain is known of an error that does not fit.
                found.icmp_count += 1;
                continue;
            };
            for control in controls {
                if let ControlMessageOwned::Ipv4RecvErr(error, _) | ControlMessageOwned::Ipv6RecvErr(error, _) = control
                {
                    note(&mut found, &error);
                }
            }
        }
        found
    }
}

fn note(found: &mut QueuedErrors, error: &libc::sock_extended_err) {
    match error.ee_origin {
        SO_EE_ORIGIN_ICMP | SO_EE_ORIGIN_ICMP6 => found.icmp_count += 1,
        SO_EE_ORIGIN_LOCAL => found.local = i32::try_from(error.ee_errno).ok(),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use std::net::UdpSocket;
    use std::time::Duration;

    use super::super::clock;
    use super::super::socket::{self, OptionName};
    use super::*;

    fn socket(from: &str, to: &str, level: i32, name: i32) -> UdpSocket {
        let socket = UdpSocket::bind(from).unwrap();
        socket::set_option(socket.as_fd(), OptionName(level, name), &1).unwrap();
        socket.connect(to).unwrap();
        socket
    }

    #[test]
    fn port_that_nobody_has_is_an_error_by_icmp() {
        // A port that was free a moment ago, and that nobody is given meanwhile but by chance.
        let free = |host: &str| UdpSocket::bind((host, 0)).unwrap().local_addr().unwrap().to_string();
        let v4 = socket("127.0.0.1:0", &free("127.0.0.1"), libc::IPPROTO_IP, libc::IP_RECVERR);
        let v6 = socket("[::1]:0", &free("::1"), libc::IPPROTO_IPV6, libc::IPV6_RECVERR);
        for socket in [v4, v6] {
            let mut queue = ErrorQueue::new();
            assert_eq!(queue.take(&socket), QueuedErrors::default());
            socket.send(b"nobody there").unwrap();
            // The answer comes within the call, but for a kernel that is busy.
            let deadline = clock::now().after(Duration::from_secs(5));
            let mut found = queue.take(&socket);
            while found == QueuedErrors::default() && clock::now() < deadline {
                found = queue.take(&socket);
            }
            assert_eq!(found, QueuedErrors { icmp_count: 1, local: None });
            socket.send(b"the error has been taken").unwrap();
        }
    }

    #[test]
    fn datagram_that_is_too_long_for_the_device_is_a_local_error() {
        let socket = socket("127.0.0.1:0", "127.0.0.1:9", libc::IPPROTO_IP, libc::IP_RECVERR);
        let probe = OptionName(libc::IPPROTO_IP, libc::IP_MTU_DISCOVER);
        socket::set_option(socket.as_fd(), probe, &libc::IP_PMTUDISC_PROBE).unwrap();
        // Longer than the 65,536 bytes of the loopback interface's MTU leave.
        assert_eq!(socket.send(&[0; 65_510]).unwrap_err().raw_os_error(), Some(libc::EMSGSIZE));
        let mut queue = ErrorQueue::new();
        let found = queue.take(&socket);
        assert!(found.icmp_count == 0 && found.local.is_none_or(|number| number == libc::EMSGSIZE), "{found:?}");
        assert_eq!(queue.take(&socket), QueuedErrors::default());
    }
}
