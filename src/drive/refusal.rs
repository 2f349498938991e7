//! What it means that the kernel refuses a message, as a pure function of what it says.
//!
//! An ICMP message that quotes one of our packets makes a later send fail, whoever wrote it. So whatever can have come by ICMP has no
//! consequence but that the same message is sent again. Only what this host itself says, and says again of the same message,
//! changes the way of sending or ends the program.

use std::time::Duration;

use super::report;
use crate::sys::{Message, QueuedErrors};
use crate::types::Time;

/// The same local error so many times running for one message is the state of things. Two would do but for an ICMP error whose
/// entry in the queue was taken just before the error itself was set.
const LOCAL_REFUSALS_MIN: u8 = 3;
/// The same where the number may as well have come by ICMP and the error queue does not tell: a queue that has no room for a large
/// ICMP message loses it without a word. A flood would have to strike between any two attempts so often in a row.
const UNCERTAIN_REFUSALS_MIN: u8 = 250;
/// A queue that was full so shortly ago is full without a pause.
const CONGESTION_GAP_MAX: Duration = Duration::from_millis(200);
/// A queue that has been full without a pause for so long is worth a word.
const CONGESTION_NOTICE: Duration = Duration::from_secs(1);

/// What a refusal asks for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Verdict {
    /// An ICMP message may have caused it: send the same again.
    Forgeable,
    /// Not certain yet: send the same again.
    Again,
    /// A queue of this host is full: wait a little, send the same again.
    QueueFull,
    /// The network cannot be reached: wait longer, send the same again.
    Unreachable,
    /// The kernel or the device cannot cut a message into datagrams: do that here.
    WithoutGso,
    /// The bytes to send cannot be read.
    Torn,
    /// It will not work.
    Fatal,
}

/// The local errors of one message in a row.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) struct Refusals {
    error: i32,
    count: u8,
}

impl Refusals {
    /// Takes account of one more refusal of `message` with this error number; `found` is what was in the error queue right after it.
    pub(super) fn judge(&mut self, number: i32, message: &Message, found: &QueuedErrors) -> Verdict {
        match number {
            libc::ENOBUFS | libc::ENOMEM => {
                *self = Self::default();
                return Verdict::QueueFull;
            }
            libc::EFAULT => return Verdict::Torn,
            _ => {}
        }
        let is_local = found.local == Some(number);
        if !is_local && (found.icmp_count > 0 || comes_by_icmp_alone(number)) {
            *self = Self::default();
            return Verdict::Forgeable;
        }
        self.count = if self.error == number { self.count.saturating_add(1) } else { 1 };
        self.error = number;
        let is_certain = is_local || !can_come_by_icmp(number);
        if self.count < if is_certain { LOCAL_REFUSALS_MIN } else { UNCERTAIN_REFUSALS_MIN } {
            return if is_certain { Verdict::Again } else { Verdict::Forgeable };
        }
        let is_segmented = message.size > message.segment_size;
        match number {
            libc::EIO | libc::EINVAL if is_segmented => Verdict::WithoutGso,
            libc::ENETDOWN
            | libc::ENETUNREACH
            | libc::EHOSTUNREACH
            | libc::EPERM
            | libc::EACCES
            | libc::EADDRNOTAVAIL
            | libc::EAGAIN => Verdict::Unreachable,
            _ => Verdict::Fatal,
        }
    }

    /// For the ring to keep.
    pub(super) fn to_mark(self) -> u32 {
        u32::try_from(self.error).unwrap_or(0) << 8 | u32::from(self.count)
    }

    pub(super) fn from_mark(mark: u32) -> Self {
        let [high, middle, low, count] = mark.to_be_bytes();
        Self { error: i32::from_be_bytes([0, high, middle, low]), count }
    }
}

/// What the kernel never finds out by itself when a datagram is sent to a group (the tables of icmp(7) and of its source).
fn comes_by_icmp_alone(number: i32) -> bool {
    matches!(number, libc::ECONNREFUSED | libc::ENOPROTOOPT | libc::EHOSTDOWN | libc::ENONET | libc::EPROTO)
}

/// What both the kernel and an ICMP message can say.
fn can_come_by_icmp(number: i32) -> bool {
    matches!(number, libc::EMSGSIZE | libc::ENETUNREACH | libc::EHOSTUNREACH | libc::EOPNOTSUPP | libc::EACCES)
}

/// Makes every datagram a message of its own.
pub(super) fn split(messages: &mut Vec<Message>) {
    if messages.iter().all(|message| message.size <= message.segment_size) {
        return;
    }
    for message in std::mem::take(messages) {
        let end = message.start + message.size;
        for start in (message.start..end).step_by(message.segment_size) {
            let size = message.segment_size.min(end - start);
            messages.push(Message { start, size, segment_size: size, ..message });
        }
    }
}

/// How long a queue of this host has been full, and what has gone meanwhile.
#[derive(Debug)]
pub(super) struct Congestion {
    /// Bytes of the IP and UDP headers of one datagram.
    overhead: usize,
    /// IP-level bytes that have gone.
    gone: u64,
    episode: Option<Episode>,
    is_said: bool,
}

#[derive(Debug)]
struct Episode {
    start: Time,
    last: Time,
    gone_before: u64,
    refusal_count: u64,
}

impl Congestion {
    pub(super) fn new(overhead: usize) -> Self {
        Self { overhead, gone: 0, episode: None, is_said: false }
    }

    pub(super) fn note_sent(&mut self, messages: &[Message]) {
        self.gone += self.bytes_of(messages);
    }

    /// Takes back what was noted as sent and was refused.
    pub(super) fn note_refused(&mut self, messages: &[Message]) {
        self.gone = self.gone.saturating_sub(self.bytes_of(messages));
    }

    fn bytes_of(&self, messages: &[Message]) -> u64 {
        let of = |message: &Message| message.size + self.overhead * message.size.div_ceil(message.segment_size.max(1));
        messages.iter().map(|message| of(message) as u64).sum()
    }

    /// A queue was full; answers, once, with what to tell people if it has been for a while.
    pub(super) fn note_full(&mut self, now: Time) -> Option<String> {
        let gone = self.gone;
        let new = || Episode { start: now, last: now, gone_before: gone, refusal_count: 0 };
        let episode = self.episode.get_or_insert_with(new);
        if now.since(episode.last) > CONGESTION_GAP_MAX {
            *episode = new();
        }
        episode.last = now;
        episode.refusal_count += 1;
        let span = now.since(episode.start);
        if self.is_said || span < CONGESTION_NOTICE {
            return None;
        }
        self.is_said = true;
        let taken = report::rate(8.0 * gone.saturating_sub(episode.gone_before) as f64 / span.as_secs_f64());
        let (count, seconds) = (episode.refusal_count, span.as_secs_f64());
        Some(format!(
            "the rate is above what the link takes: {taken} went and {count} messages were refused in {seconds:.1} s, \
             all of them are sent again (give a lower --rate)"
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::Memory;

    const SINGLE: Message = Message { start: 0, size: 1452, segment_size: 1452, memory: Memory::Buffer };
    const SEGMENTED: Message = Message { start: 0, size: 2904, segment_size: 1452, memory: Memory::Buffer };
    const NOTHING: QueuedErrors = QueuedErrors { icmp_count: 0, local: None };
    const ICMP: QueuedErrors = QueuedErrors { icmp_count: 2, local: None };

    /// The verdicts of so many refusals in a row.
    fn verdicts<const N: usize>(number: i32, message: &Message, found: &QueuedErrors) -> [Verdict; N] {
        let mut refusals = Refusals::default();
        std::array::from_fn(|_| refusals.judge(number, message, found))
    }

    #[test]
    fn what_can_have_come_by_icmp_never_has_consequences() {
        // All that the tables of IPv4 and IPv6 turn ICMP errors into, and what no table has.
        for number in (1..134).filter(|number| ![libc::ENOBUFS, libc::ENOMEM, libc::EFAULT].contains(number)) {
            for message in [SINGLE, SEGMENTED] {
                assert_eq!(verdicts::<300>(number, &message, &ICMP), [Verdict::Forgeable; 300], "{number}");
            }
        }
        // The entry may have been lost for want of room.
        for number in [libc::ECONNREFUSED, libc::ENOPROTOOPT, libc::EHOSTDOWN, libc::ENONET, libc::EPROTO] {
            assert_eq!(verdicts::<300>(number, &SINGLE, &NOTHING), [Verdict::Forgeable; 300]);
        }
    }

    #[test]
    fn local_error_counts_when_it_is_the_same_again_and_again() {
        let local = QueuedErrors { icmp_count: 9, local: Some(libc::EMSGSIZE) };
        let expected = [Verdict::Again, Verdict::Again, Verdict::Fatal];
        assert_eq!(verdicts(libc::EMSGSIZE, &SINGLE, &local), expected);
        let expected = [Verdict::Again, Verdict::Again, Verdict::WithoutGso];
        assert_eq!(verdicts(libc::EIO, &SEGMENTED, &NOTHING), expected);
        assert_eq!(verdicts(libc::EINVAL, &SEGMENTED, &NOTHING), expected);
        assert_eq!(verdicts::<3>(libc::EIO, &SINGLE, &NOTHING)[2], Verdict::Fatal);
        assert_eq!(verdicts(libc::EFAULT, &SINGLE, &ICMP), [Verdict::Torn]);
        let expected = [Verdict::Again, Verdict::Again, Verdict::Unreachable, Verdict::Unreachable];
        assert_eq!(verdicts(libc::ENETDOWN, &SINGLE, &NOTHING), expected);
    }

    /// The queue does not tell: a large ICMP message found no room in it.
    #[test]
    fn error_that_may_be_forged_counts_only_when_nothing_gets_through() {
        for (number, expected) in [
            (libc::EMSGSIZE, Verdict::Fatal),
            (libc::EOPNOTSUPP, Verdict::Fatal),
            (libc::ENETUNREACH, Verdict::Unreachable),
            (libc::EHOSTUNREACH, Verdict::Unreachable),
        ] {
            let verdicts = verdicts::<260>(number, &SINGLE, &NOTHING);
            assert_eq!(verdicts[..249], [Verdict::Forgeable; 249]);
            assert_eq!(verdicts[249..], [expected; 11]);
        }
    }

    #[test]
    fn another_error_or_an_icmp_message_between_starts_the_count_anew() {
        let mut refusals = Refusals::default();
        let mut judge = |number, found: &QueuedErrors| refusals.judge(number, &SINGLE, found);
        for _ in 0..10 {
            assert_eq!(judge(libc::EIO, &NOTHING), Verdict::Again);
            assert_eq!(judge(libc::EIO, &NOTHING), Verdict::Again);
            assert_eq!(judge(libc::EIO, &ICMP), Verdict::Forgeable);
            assert_eq!(judge(libc::EIO, &NOTHING), Verdict::Again);
            assert_eq!(judge(libc::ENETDOWN, &NOTHING), Verdict::Again);
            assert_eq!(judge(libc::EIO, &NOTHING), Verdict::Again);
            assert_eq!(judge(libc::ENOBUFS, &NOTHING), Verdict::QueueFull);
        }
    }

    #[test]
    fn mark_brings_back_what_it_was_made_from() {
        for refusals in [Refusals::default(), Refusals { error: 133, count: 255 }] {
            assert_eq!(Refusals::from_mark(refusals.to_mark()), refusals);
        }
    }

    #[test]
    fn without_gso_what_has_not_been_sent_is_split() {
        for memory in [Memory::Buffer, Memory::Image, Memory::ImageToCopy] {
            let message = |start, size, segment_size| Message { start, size, segment_size, memory };
            let mut messages =
                vec![message(0, 500, 500), message(500, 2 * 1452 + 700, 1452), message(4104, 1452, 1452)];
            split(&mut messages);
            let sizes: Vec<_> = messages.iter().map(|message| message.size).collect();
            assert_eq!(sizes, [500, 1452, 1452, 700, 1452]);
            assert!(messages.windows(2).all(|pair| pair[0].start + pair[0].size == pair[1].start));
            assert!(messages.iter().all(|message| message.memory == memory));
            let before = messages.clone();
            split(&mut messages);
            assert_eq!(messages, before);
        }
    }

    #[test]
    fn queue_that_stays_full_is_told_once_and_with_figures() {
        let at = |ms: u64| Time::from_nanos(ms * 1_000_000);
        let mut congestion = Congestion::new(28);
        // Now and then is no congestion.
        assert!((0..20).all(|step| congestion.note_full(at(step * 500)).is_none()));
        let mut said = Vec::new();
        for step in 0..300 {
            congestion.note_sent(&[Message { start: 0, size: 29_440, segment_size: 1472, memory: Memory::Buffer }; 2]);
            congestion.note_refused(&[Message { start: 0, size: 29_440, segment_size: 1472, memory: Memory::Buffer }]);
            said.extend(congestion.note_full(at(20_000 + step * 10)));
        }
        let [text] = said.as_slice() else { panic!("one warning, not {said:?}") };
        // 20 datagrams of 1500 bytes every 10 ms.
        assert!(text.contains("24.0 Mbit/s went and 101 messages were refused in 1.0 s"), "{text}");
    }
}
