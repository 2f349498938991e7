//! Control messages of a received buffer, as laid out by cmsg(3).

use super::{DROP_COUNT, HOP_LIMIT, OptionName, TTL, UDP_GRO};

/// What the control messages of one buffer say.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub(super) struct Controls {
    pub(super) segment_size: Option<usize>,
    pub(super) dropped_buffers: Option<u32>,
    pub(super) hop_limit: Option<u8>,
}

// SAFETY: CMSG_LEN is arithmetic on its argument.
const CONTROL_HEADER_SIZE: usize = unsafe { libc::CMSG_LEN(0) } as usize;
const _: () = assert!(size_of::<libc::cmsghdr>() <= CONTROL_HEADER_SIZE);

impl Controls {
    /// Reads the sequence of control messages, as laid out by cmsg(3).
    pub(super) fn parse(mut bytes: &[u8]) -> Self {
        let mut controls = Self::default();
        while bytes.len() >= CONTROL_HEADER_SIZE {
            // SAFETY: there are at least as many bytes as the header has, which is plain data.
            let header = unsafe { bytes.as_ptr().cast::<libc::cmsghdr>().read_unaligned() };
            #[allow(clippy::unnecessary_cast, reason = "musl has an int here")]
            let end = header.cmsg_len as usize;
            let Some(data) = bytes.get(CONTROL_HEADER_SIZE..end) else { break };
            if let Some(&value) = data.first_chunk::<4>() {
                match OptionName(header.cmsg_level, header.cmsg_type) {
                    UDP_GRO => {
                        controls.segment_size = usize::try_from(i32::from_ne_bytes(value)).ok().filter(|&size| size > 0)
                    }
                    TTL | HOP_LIMIT => controls.hop_limit = u8::try_from(i32::from_ne_bytes(value)).ok(),
                    DROP_COUNT => controls.dropped_buffers = Some(u32::from_ne_bytes(value)),
                    _ => {}
                }
            }
            bytes = bytes.get(end.next_multiple_of(size_of::<usize>())..).unwrap_or_default();
        }
        controls
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn control_messages_are_read_in_any_order_and_ended_by_nonsense() {
        let both = [control(DROP_COUNT, 9), control(UDP_GRO, 1_452)].concat();
        let expected = Controls { segment_size: Some(1_452), dropped_buffers: Some(9), hop_limit: None };
        assert_eq!(Controls::parse(&both), expected);
        for (name, value, hop_limit) in
            [(TTL, 1, Some(1)), (HOP_LIMIT, 255, Some(255)), (TTL, 256, None), (HOP_LIMIT, -1, None)]
        {
            let all = [both.clone(), control(name, value)].concat();
            assert_eq!(Controls::parse(&all), Controls { hop_limit, ..expected });
        }
        assert_eq!(Controls::parse(&[]), Controls::default());
        assert_eq!(Controls::parse(&control(UDP_GRO, 0)).segment_size, None);
        for length in 0..both.len() {
            Controls::parse(&both[..length]);
        }
        for length in [0, 1, usize::MAX, usize::MAX / 2] {
            let mut wrong = both.clone();
            wrong[..size_of::<usize>()].copy_from_slice(&length.to_ne_bytes());
            assert_eq!(Controls::parse(&wrong).segment_size, None);
        }
    }

    /// One control message with an integer, as the kernel writes it.
    fn control(name: OptionName, value: i32) -> Vec<u8> {
        let mut bytes = (CONTROL_HEADER_SIZE + 4).to_ne_bytes().to_vec();
        bytes.extend(name.0.to_ne_bytes());
        bytes.extend(name.1.to_ne_bytes());
        bytes.extend(value.to_ne_bytes());
        bytes.resize(bytes.len().next_multiple_of(size_of::<usize>()), 0);
        bytes
    }
}
