//! Data packets that came before a manifest was accepted: kept as they are in bounded memory, judged afterwards.

use std::net::SocketAddr;

use crate::limits::{DATAGRAM_SIZE_MAX, WAITING_SIZE_MAX};

const PACKET_COUNT_MAX: usize = WAITING_SIZE_MAX / 512;

/// Packets in the order in which they came. Its memory is reserved at once and used up page by page, never grown.
#[derive(Debug)]
pub struct Waiting {
    bytes: Vec<u8>,
    packets: Vec<(SocketAddr, u16)>,
}

impl Waiting {
    pub(super) fn new() -> Self {
        Self { bytes: Vec::with_capacity(WAITING_SIZE_MAX), packets: Vec::with_capacity(PACKET_COUNT_MAX) }
    }

    /// One that holds nothing and takes nothing.
    pub(super) fn closed() -> Self {
        Self { bytes: Vec::new(), packets: Vec::new() }
    }

    /// Whether there was room for the packet.
    pub(super) fn keep(&mut self, from: SocketAddr, datagram: &[u8]) -> bool {
        let room = self.bytes.capacity() - self.bytes.len() >= datagram.len()
            && self.packets.len() < self.packets.capacity()
            && datagram.len() <= DATAGRAM_SIZE_MAX;
        let Ok(size) = u16::try_from(datagram.len()) else { return false };
        if room {
            self.bytes.extend_from_slice(datagram);
            self.packets.push((from, size));
        }
        room
    }

    /// The packets.
    pub fn datagrams(&self) -> impl Iterator<Item = (SocketAddr, &[u8])> {
        let mut rest = self.bytes.as_slice();
        self.packets.iter().map_while(move |&(from, size)| {
            let (datagram, tail) = rest.split_at_checked(usize::from(size))?;
            rest = tail;
            Some((from, datagram))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packets_come_back_in_order_and_memory_never_grows() {
        let from: SocketAddr = "192.0.2.1:4000".parse().unwrap();
        let mut waiting = Waiting::new();
        let before = (waiting.bytes.capacity(), waiting.packets.capacity());
        let mut kept = 0;
        while waiting.keep(from, &[kept as u8; 1452]) {
            kept += 1;
        }
        assert_eq!(kept, WAITING_SIZE_MAX / 1452);
        assert_eq!(before, (waiting.bytes.capacity(), waiting.packets.capacity()));
        assert!(waiting.datagrams().zip(0..).all(|((_, bytes), i)| bytes == [i as u8; 1452]));
        assert_eq!(waiting.datagrams().count(), kept);
    }

    #[test]
    fn many_tiny_packets_are_bounded_too() {
        let from: SocketAddr = "192.0.2.1:4000".parse().unwrap();
        let mut waiting = Waiting::new();
        let kept = (0..2 * PACKET_COUNT_MAX).filter(|_| waiting.keep(from, &[0; 45])).count();
        assert_eq!(kept, waiting.packets.capacity());
        assert!(!Waiting::closed().keep(from, &[0; 45]));
    }
}
