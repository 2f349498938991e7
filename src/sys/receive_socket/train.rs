//! What came in one buffer.

use std::net::SocketAddr;

/// Datagrams of one sender, one after the other as they came.
#[derive(Clone, Copy, Debug)]
pub struct Train<'a> {
    /// Who sent them.
    pub from: SocketAddr,
    bytes: &'a [u8],
    segment_size: usize,
}

impl<'a> Train<'a> {
    /// Datagrams of `segment_size` bytes each, but the last, which may be shorter.
    #[must_use]
    pub fn new(from: SocketAddr, bytes: &'a [u8], segment_size: usize) -> Self {
        Self { from, bytes, segment_size: segment_size.max(1) }
    }

    /// One datagram alone.
    #[must_use]
    pub fn single(from: SocketAddr, datagram: &'a [u8]) -> Self {
        Self::new(from, datagram, datagram.len())
    }

    /// The datagrams.
    pub fn datagrams(self) -> impl Iterator<Item = &'a [u8]> {
        (0..).map_while(move |index| self.datagram(index))
    }

    /// The datagram of this index.
    #[must_use]
    pub fn datagram(&self, index: usize) -> Option<&'a [u8]> {
        let start = index.checked_mul(self.segment_size)?;
        let rest = self.bytes.get(start..).filter(|rest| index == 0 || !rest.is_empty())?;
        Some(&rest[..rest.len().min(self.segment_size)])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sizes(bytes: &[u8], segment_size: usize) -> Vec<usize> {
        let train = Train::new(SocketAddr::from(([192, 0, 2, 1], 4000)), bytes, segment_size);
        train.datagrams().map(<[u8]>::len).collect()
    }

    #[test]
    fn last_datagram_takes_the_rest_and_an_empty_one_is_one_too() {
        assert_eq!(sizes(&[0; 10], 4), [4, 4, 2]);
        assert_eq!(sizes(&[0; 8], 4), [4, 4]);
        assert_eq!(sizes(&[0; 3], 4), [3]);
        assert_eq!(sizes(&[], 4), [0]);
        assert_eq!(sizes(&[0; 2], 0), [1, 1], "no size is none that never ends");
    }

    #[test]
    fn datagrams_are_found_by_their_index() {
        let bytes: Vec<u8> = (0..10).collect();
        let train = Train::new(SocketAddr::from(([192, 0, 2, 1], 4000)), &bytes, 4);
        assert_eq!([1, 2, 3].map(|index| train.datagram(index)), [Some(&bytes[4..8]), Some(&bytes[8..]), None]);
        assert_eq!(train.datagram(usize::MAX), None);
    }
}
