//! The packets of one burst, one after another in one buffer or at their places in an image, and the messages in which they go to
//! the kernel: neighbours of equal size, and one shorter behind them, make one GSO message.

use crate::limits::{GSO_MESSAGE_SIZE_MAX, GSO_SEGMENT_COUNT_MAX, REORDER_WINDOW};
use crate::sys::{Memory, Message};

/// Bytes of the buffer: two full messages, so that an unpaced sender shares the cost of a system call, and little enough to stay in
/// the cache of one core.
pub(super) const BUFFER_SIZE: usize = 2 * 65_536;
/// Messages of one burst at most: what the socket takes at once.
pub(super) const MESSAGE_COUNT_MAX: usize = 128;
/// Bytes of an image that go in one burst: four full messages share the cost of a system call.
const IMAGE_SIZE_MAX: usize = 4 * 65_536;
/// Messages that so many bytes without gaps can add to a burst: each but the first and the last is full, or as good as full.
const IMAGE_MESSAGE_COUNT_MAX: usize = 8;

/// A burst that is being composed, or sent.
#[derive(Debug)]
pub(super) struct Burst {
    buffer: Box<[u8]>,
    used: usize,
    messages: Vec<Message>,
    segment_counts: Vec<usize>,
    packet_count: u64,
    /// Bytes of the image.
    image_size: usize,
    gso: bool,
    packet_size_max: usize,
}

impl Burst {
    /// For packets of at most so many bytes.
    pub(super) fn new(gso: bool, packet_size_max: usize) -> Self {
        Self {
            packet_size_max,
            buffer: Self::new_buffer(),
            used: 0,
            packet_count: 0,
            image_size: 0,
            messages: Vec::with_capacity(MESSAGE_COUNT_MAX),
            segment_counts: Vec::with_capacity(MESSAGE_COUNT_MAX),
            gso,
        }
    }

    pub(super) fn clear(&mut self) {
        self.used = 0;
        self.packet_count = 0;
        self.image_size = 0;
        self.messages.clear();
        self.segment_counts.clear();
    }

    pub(super) fn is_empty(&self) -> bool {
        self.messages.is_empty()
    }

    /// Packets that surely fit, whatever messages they make.
    pub(super) fn packet_count_max(&self) -> usize {
        (BUFFER_SIZE / self.packet_size_max).min(MESSAGE_COUNT_MAX)
    }

    /// Packets that surely fit if they are copied, besides so many others, whatever messages they make.
    pub(super) fn copied_count_max(&self, other_count: usize) -> usize {
        let by_size = (BUFFER_SIZE - self.used) / self.packet_size_max;
        by_size.min(MESSAGE_COUNT_MAX - self.messages.len()).saturating_sub(other_count)
    }

    /// Packets of the image that surely fit besides so many that are to be copied. Where there are gaps between them each is a message.
    /// No more go in one burst than a receiver puts in order again: a message that is refused goes after all others of its burst.
    pub(super) fn image_count_max(&self, copied_count: usize, has_gaps: bool) -> u64 {
        if self.messages.len() + IMAGE_MESSAGE_COUNT_MAX + copied_count > MESSAGE_COUNT_MAX {
            return 0;
        }
        let by_size = (IMAGE_SIZE_MAX - self.image_size) / self.packet_size_max;
        let by_messages = MESSAGE_COUNT_MAX - self.messages.len() - copied_count;
        let count = if has_gaps || !self.gso { by_size.min(by_messages) } else { by_size };
        REORDER_WINDOW.saturating_sub(self.packet_count).min(count as u64)
    }

    /// Whether the last message has room for exactly one more of the longest packets.
    pub(super) fn takes_one_more(&self) -> bool {
        let (Some(last), Some(count)) = (self.messages.last(), self.segment_counts.last()) else { return false };
        let room = GSO_MESSAGE_SIZE_MAX - last.size;
        let is_near_end = room < 2 * self.packet_size_max || *count + 1 == GSO_SEGMENT_COUNT_MAX;
        self.gso
            && last.memory == Memory::Buffer
            && is_near_end
            && room >= self.packet_size_max
            && *count < GSO_SEGMENT_COUNT_MAX
    }

    /// Adds a packet of `size` bytes, which `compose` writes.
    pub(super) fn push(&mut self, size: usize, compose: impl FnOnce(&mut [u8])) {
        let start = self.used;
        compose(&mut self.buffer[start..start + size]);
        self.used += size;
        self.add(Memory::Buffer, start, size, 1);
    }

    /// Adds `count` packets of `size` bytes each that are in the image, one right behind the other from `start` on.
    pub(super) fn push_from_image(&mut self, start: usize, size: usize, count: usize) {
        self.image_size += size * count;
        let mut added = 0;
        while added < count {
            added += self.add(Memory::Image, start + added * size, size, count - added);
        }
    }

    /// Adds the first of `count` packets of `size` bytes each that lie one right behind the other, and those that go in its message with
    /// it; answers with how many that are.
    fn add(&mut self, memory: Memory, start: usize, size: usize, count: usize) -> usize {
        let added = match (self.messages.last_mut(), self.segment_counts.last_mut()) {
            (Some(last), Some(segment_count)) if self.gso => {
                let is_open = last.size == last.segment_size * *segment_count;
                let is_next = last.memory == memory && last.start + last.size == start;
                let room = match size {
                    _ if !is_open || !is_next || size > last.segment_size => 0,
                    // A shorter one is the message's last.
                    _ if size < last.segment_size => 1,
                    _ => count,
                };
                let mut added = room.min(GSO_SEGMENT_COUNT_MAX - *segment_count);
                // Most fit: to divide each time would cost more than all the rest.
                if last.size + size * added > GSO_MESSAGE_SIZE_MAX {
                    added = (GSO_MESSAGE_SIZE_MAX - last.size) / size;
                }
                last.size += size * added;
                *segment_count += added;
                added
            }
            _ => 0,
        };
        if added > 0 {
            self.packet_count += added as u64;
            return added;
        }
        self.messages.push(Message { memory, start, size, segment_size: size });
        self.segment_counts.push(1);
        self.packet_count += 1;
        1
    }

    pub(super) fn bytes(&self) -> &[u8] {
        &self.buffer
    }

    pub(super) fn messages(&self) -> &[Message] {
        &self.messages
    }

    /// A buffer for [`put_buffer`](Self::put_buffer).
    pub(super) fn new_buffer() -> Box<[u8]> {
        vec![0; BUFFER_SIZE].into_boxed_slice()
    }

    /// Whether neighbours may share a message from now on.
    pub(super) fn set_gso(&mut self, gso: bool) {
        self.gso = gso;
    }

    /// Takes the buffer away, for an engine that keeps it while it sends. The messages stay until `clear`.
    pub(super) fn take_buffer(&mut self) -> Box<[u8]> {
        std::mem::take(&mut self.buffer)
    }

    /// Puts in another buffer, to compose the next burst in.
    pub(super) fn put_buffer(&mut self, buffer: Box<[u8]>) {
        self.buffer = buffer;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sizes(burst: &Burst) -> Vec<(usize, usize)> {
        burst.messages().iter().map(|message| (message.size, message.segment_size)).collect()
    }

    fn burst_of(gso: bool, packets: &[usize]) -> Burst {
        let mut burst = Burst::new(gso, 1452);
        for (&size, mark) in packets.iter().zip(1..) {
            burst.push(size, |out| out.fill(mark));
        }
        burst
    }

    #[test]
    fn equal_neighbours_and_a_shorter_one_make_a_message() {
        let burst = burst_of(true, &[500, 1452, 1452, 1452, 700, 1452, 1452]);
        assert_eq!(sizes(&burst), [(500, 500), (3 * 1452 + 700, 1452), (2 * 1452, 1452)]);
        let end = 500 + 3 * 1452 + 700;
        assert_eq!((burst.bytes()[499], burst.bytes()[500], burst.bytes()[end - 1], burst.bytes()[end]), (1, 2, 5, 6));
    }

    #[test]
    fn message_has_no_more_bytes_than_a_datagram_may_have() {
        let burst = burst_of(true, &[1452; 80]);
        assert_eq!(sizes(&burst), [(45 * 1452, 1452), (35 * 1452, 1452)]);
        let burst = burst_of(true, &[100; 65]);
        assert_eq!(sizes(&burst), [(6400, 100), (100, 100)]);
    }

    #[test]
    fn packets_of_an_image_make_the_same_messages_together_as_one_by_one() {
        let pushed = |gso, parts: &[(usize, usize, usize)], at_once: bool| {
            let mut burst = Burst::new(gso, 1452);
            for &(start, size, count) in parts {
                match at_once {
                    true => burst.push_from_image(start, size, count),
                    false => (0..count).for_each(|index| burst.push_from_image(start + index * size, size, 1)),
                }
            }
            (burst.messages().to_vec(), burst.segment_counts.clone(), burst.packet_count, burst.image_size)
        };
        // One behind the other with a shorter one at the end; a gap; small ones; and a longer one behind shorter ones.
        let parts = [(0, 1452, 100), (145_200, 700, 1), (145_900, 1452, 3), (200_000, 100, 130), (213_000, 1452, 2)];
        // A message that goes on beyond its bound by size, and one by number; several shorter ones.
        let others = [(0, 1452, 10), (14_520, 1452, 40), (72_600, 700, 3), (80_000, 100, 60), (86_000, 100, 10)];
        for gso in [true, false] {
            assert_eq!(pushed(gso, &parts, true), pushed(gso, &parts, false));
            assert_eq!(pushed(gso, &others, true), pushed(gso, &others, false));
        }
        assert_eq!(pushed(true, &others, true).1, [45, 6, 2, 64, 6]);
        let (messages, counts, packet_count, _) = pushed(true, &parts, true);
        assert_eq!(counts, [45, 45, 11, 3, 64, 64, 2, 2]);
        assert_eq!((messages[2].size, messages[2].segment_size, packet_count), (10 * 1452 + 700, 1452, 236));
    }

    #[test]
    fn without_gso_every_packet_is_a_message() {
        assert_eq!(sizes(&burst_of(false, &[1452, 1452])), [(1452, 1452), (1452, 1452)]);
    }

    #[test]
    fn as_many_of_the_longest_packets_fit_as_it_says() {
        for size in [100, 1452, 8940] {
            let mut burst = Burst::new(true, size);
            (0..burst.packet_count_max()).for_each(|_| burst.push(size, |out| out.fill(1)));
            assert!(burst.messages().iter().map(|message| message.size).sum::<usize>() <= BUFFER_SIZE);
        }
    }
}
