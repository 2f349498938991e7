//! What there is to know before sending: the way, the firewall, the engine.

use std::net::IpAddr;

use super::{DoctorOptions, SendPlan, host};
use crate::diagnosis::Sending;
use crate::drive::choose;
use crate::failure::describe;
use crate::sys::interface::Interface;
use crate::sys::{Memory, Message, ReceiveOptions, ReceiveSocket, SendOptions, SendSocket, UringSocket};
use crate::types::RateBps;

/// The address that packets to the group would have as their source, or why there is no way to it.
pub(super) fn route(options: &DoctorOptions, interface: &Interface) -> Result<IpAddr, String> {
    open(options, interface).map(|socket| socket.local_addr().ip())
}

/// The socket that a server opens, but for the TTL of 0.
fn open(options: &DoctorOptions, interface: &Interface) -> Result<SendSocket, String> {
    let options = SendOptions {
        group: options.group,
        interface_index: interface.index,
        bind_addr: choose::source_address(interface, options.group),
        hops: 0,
    };
    SendSocket::open(&options).map_err(|failure| failure.cause().to_owned())
}

/// Tries what a server does. The one datagram that it sends has a TTL of 0: it goes through the firewall and stays on this host, which is
/// only so for groups that the interface has joined. For others Linux looks at no TTL.
pub(super) fn facts(options: &DoctorOptions, plan: SendPlan, interface: &Interface) -> Sending {
    let mut facts = Sending {
        refused: None,
        rate_bps: options.rate.map(RateBps::bits_per_second),
        hops: plan.hops,
        mtu: plan.mtu,
        gso: None,
        uring: None,
        uring_disabled: host::number("/proc/sys/kernel/io_uring_disabled"),
    };
    // Joined before the other socket is connected, which then keeps the way that it has found, and until the datagram is sent.
    let membership = ReceiveSocket::open(&ReceiveOptions { group: options.group, interface_index: interface.index });
    if let Ok(mut socket) = open(options, interface) {
        if membership.is_ok() {
            let message = Message { memory: Memory::Buffer, start: 0, size: 1, segment_size: 1 };
            facts.refused = Some(socket.send(&[0], &[message]).err().map(|error| describe(&error)));
        }
        drop(membership);
        facts.gso = Some(socket.gso());
        facts.uring = Some(UringSocket::new(socket).err().map(|(_, error)| describe(&error)));
    }
    facts
}
