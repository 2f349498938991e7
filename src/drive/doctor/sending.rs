//! What there is to know before sending: the way, the firewall, the engine.

use super::{DoctorOptions, SendPlan, host};
use crate::diagnosis::Sending;
use crate::drive::choose;
use crate::failure::describe;
use crate::sys::interface::Interface;
use crate::sys::{Memory, Message, SendOptions, SendSocket, UringSocket};
use crate::types::RateBps;

/// Opens what a server opens. The one datagram that is tried has a TTL of 0: it goes through the firewall and stays on this host.
pub(super) fn facts(options: &DoctorOptions, plan: SendPlan, interface: &Interface) -> Sending {
    let mut facts = Sending {
        route: Err(String::new()),
        refused: None,
        rate_bps: options.rate.map(RateBps::bits_per_second),
        hops: plan.hops,
        mtu: plan.mtu,
        gso: None,
        uring: None,
        uring_disabled: host::number("/proc/sys/kernel/io_uring_disabled"),
    };
    let opened = SendSocket::open(&SendOptions {
        group: options.group,
        interface_index: interface.index,
        bind_addr: choose::source_address(interface, options.group),
        hops: 0,
    });
    match opened {
        Err(failure) => facts.route = Err(failure.summary()),
        Ok(mut socket) => {
            facts.route = Ok(socket.local_addr().ip());
            let message = Message { memory: Memory::Buffer, start: 0, size: 1, segment_size: 1 };
            facts.refused = socket.send(&[0], &[message]).err().map(|error| describe(&error));
            facts.gso = Some(socket.gso());
            facts.uring = Some(UringSocket::new(socket).err().map(|(_, error)| describe(&error)));
        }
    }
    facts
}
