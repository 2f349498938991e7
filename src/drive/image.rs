//! The packet image: the packets of a cycle, header and payload, one after another in the order in which they are sent, in a mapped file
//! without a name. What lies side by side goes as one message, which the device reads from where it is.
//!
//! A position has the same bytes in every cycle (docs/PROTOCOL.md, section 7). So each packet is composed once, by the first virtual
//! server that comes to its position, and sent from then on by all of them; nothing that the kernel may still read is ever
//! written to. Manifest and hashes packets, and what goes in the place of repair symbols that are not there yet, are not in it.

use std::fs::DirBuilder;
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock, mpsc};

use super::burst::Burst;
use super::report;
use super::virtual_server::{Event, Findings, Trial};
use crate::failure::{Exit, Failure, shown};
use crate::limits::{GSO_MESSAGE_SIZE_MAX, GSO_SEGMENT_COUNT_MAX, HEADER_SIZE, REORDER_WINDOW};
use crate::sender::{Carousel, Sender, Stretch};
use crate::sys::{ScratchSlots, free_space, memory};
use crate::types::{BlockIndex, Position};

/// The parts of memory that the kernel can hang on one message (MAX_SKB_FRAGS, which can be configured to be more): a message of more
/// is refused.
const FRAGMENT_COUNT_MAX: usize = 17;
/// The smallest pages that there are.
const PAGE_SIZE_MIN: usize = 4096;
/// An image may take so much of the memory that is available, in percent: the rest of the machine needs some, and an image that is not
/// in memory is slower than to copy.
const MEMORY_PERCENT_MAX: u64 = 80;

const _: () = assert!(fragment_count_max(GSO_MESSAGE_SIZE_MAX) <= FRAGMENT_COUNT_MAX);
const _: () =
    assert!(4 * GSO_SEGMENT_COUNT_MAX as u64 <= REORDER_WINDOW, "a burst has messages enough to be worth its call");

/// Whether to send from a packet image.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ImageChoice {
    /// Copy every packet.
    Off,
    /// If that is faster, as measured at the start.
    Auto,
    /// In any case.
    On,
}

/// Packets of a cycle, or of a part of it.
#[derive(Clone, Debug)]
pub(super) struct Image {
    slots: Arc<ScratchSlots>,
    slot_size: usize,
    slot_count: u64,
    /// The position of the first packet.
    first: u64,
    cycle_length: u64,
}

/// The pages that so many consecutive bytes touch at most, wherever they begin.
const fn fragment_count_max(size: usize) -> usize {
    if size == 0 { 0 } else { 1 + (size - 1).div_ceil(PAGE_SIZE_MIN) }
}

impl Image {
    /// An empty image of `count` packets from position `first` on, in `folder`; no more than the whole cycle.
    ///
    /// # Errors
    /// What the kernel says: the folder cannot be written to, or there is no room. [`io::ErrorKind::Interrupted`] if `is_over` said so
    /// meanwhile.
    pub(super) fn new(
        folder: &Path,
        carousel: &Carousel,
        first: u64,
        count: u64,
        is_over: &dyn Fn() -> bool,
    ) -> io::Result<Self> {
        let (cycle_length, slot_size) = (carousel.cycle_length(), slot_size(carousel));
        let slot_count = count.min(cycle_length);
        let too_large = || io::Error::from_raw_os_error(libc::EFBIG);
        let slot_total = usize::try_from(slot_count).map_err(|_| too_large())?;
        let slots = ScratchSlots::in_large_pages(folder, slot_total, slot_size, is_over)?;
        Ok(Self { slots: Arc::new(slots), slot_size, slot_count, first, cycle_length })
    }

    /// An empty image of the whole cycle, in `folder`, which is made if need be. To take its room can take long: until `is_over`.
    ///
    /// # Errors
    /// [`Exit::CannotCreate`] if there is no room for it, or not in memory; or it is over.
    pub(super) fn of_cycle(folder: &Path, carousel: &Carousel, is_over: &dyn Fn() -> bool) -> Result<Self, Failure> {
        let what = || format!("keep a packet image in {}", shown(folder));
        let failed = |error: &io::Error| {
            let remedy = "name another folder with --cache-dir, or leave --image out";
            Failure::io(Exit::CannotCreate, what(), error).remedy(remedy)
        };
        make(folder);
        let free = free_space(folder).map_err(|error| failed(&error))?;
        check_room(what, carousel, free, memory::available())?;
        Self::new(folder, carousel, 0, carousel.cycle_length(), is_over).map_err(|error| failed(&error))
    }

    /// What its messages are ranges of.
    pub(super) fn slots(&self) -> &Arc<ScratchSlots> {
        &self.slots
    }

    /// How many packets from the sender's next one on surely fit a burst besides so many that are to be copied.
    pub(super) fn count_max(&self, sender: &Sender, burst: &Burst, copied_count: usize) -> u64 {
        // Behind a packet that is shorter than its place there is a gap; all of a stretch but the last are as long as its first.
        burst.image_count_max(copied_count, sender.next_size() != self.slot_size)
    }

    /// How many packets are there side by side from `position` on, `count_max` at most.
    pub(super) fn full_count(&self, position: u64, count_max: u64) -> u64 {
        let Some(index) = Position::new(position).and_then(|position| self.index_of(position)) else { return 0 };
        self.slots.full_count(index, usize::try_from(count_max).unwrap_or(usize::MAX)) as u64
    }

    /// Adds the packets of a stretch, all of which are there, to a burst.
    pub(super) fn push(&self, stretch: &Stretch, burst: &mut Burst) {
        let index = self.index_of(stretch.first).expect("the packets of the stretch are there");
        let start = |place: usize| (index + place) * self.slot_size;
        let last = usize::try_from(stretch.count).expect("within an image") - 1;
        if stretch.size == self.slot_size {
            burst.push_from_image(start(0), stretch.size, last);
        } else {
            (0..last).for_each(|place| burst.push_from_image(start(place), stretch.size, 1));
        }
        burst.push_from_image(start(last), stretch.last_size, 1);
    }

    /// The first byte of the packet at `position`, which has `size` bytes. Unless it is there, `compose` writes it, and says whether
    /// it is right. `None` if the packet is not to be had from here: it is none of the image's, it is not right, or another thread is
    /// about to compose it.
    pub(super) fn packet(
        &self,
        position: Position,
        size: usize,
        compose: impl FnOnce(&mut [u8]) -> bool,
    ) -> Option<usize> {
        let index = self.index_of(position)?;
        if !self.slots.is_full(index) {
            self.slots.fill(index, |slot| compose(&mut slot[..size]));
        }
        self.slots.is_full(index).then_some(index * self.slot_size)
    }

    fn index_of(&self, position: Position) -> Option<usize> {
        let position = position.value();
        if position >= self.cycle_length {
            return None;
        }
        let index = if position >= self.first { position } else { position + self.cycle_length } - self.first;
        usize::try_from(index).ok().filter(|_| index < self.slot_count)
    }
}

/// The image of the cycle, if it is wanted whether or not it pays, and there is anything to send.
///
/// # Errors
/// As [`Image::of_cycle`].
pub(super) fn made(
    choice: ImageChoice,
    folder: Option<PathBuf>,
    carousel: &Carousel,
) -> Result<OnceLock<Image>, Failure> {
    if choice != ImageChoice::On || !is_of_use(carousel) {
        return Ok(OnceLock::new());
    }
    Image::of_cycle(&or_temporary(folder), carousel, &|| false).map(OnceLock::from)
}

/// Whether there are packets that can share a message: not so where the only block that is sent is no more than a symbol.
pub(super) fn is_of_use(carousel: &Carousel) -> bool {
    let layout = carousel.layout();
    let mut blocks = (0..layout.size().block_count()).map(BlockIndex);
    blocks.any(|block| carousel.sent_block(block).is_some() && layout.source_symbol_count(block) > 1)
}

/// It may not be there yet; if it cannot be made, the next step says why.
fn make(folder: &Path) {
    let _ = DirBuilder::new().recursive(true).mode(0o700).create(folder);
}

fn or_temporary(folder: Option<PathBuf>) -> PathBuf {
    folder.unwrap_or_else(std::env::temp_dir)
}

/// Makes an image if a trial finds it good, in a thread of its own: to take the room can take long.
#[derive(Debug)]
pub(super) struct ImageMaker {
    folder: PathBuf,
    carousel: Carousel,
    trial: Option<Trial>,
    findings: mpsc::Receiver<Findings>,
}

impl ImageMaker {
    /// In `folder`, or in that for temporary files.
    pub(super) fn new(folder: Option<PathBuf>, carousel: Carousel) -> Self {
        let folder = or_temporary(folder);
        make(&folder);
        let (outcome, findings) = mpsc::channel();
        Self { trial: Some(Trial::new(folder.clone(), outcome)), folder, carousel, findings }
    }

    /// What the virtual server needs that makes the trial; `None` if another one makes it.
    pub(super) fn take_trial(&mut self) -> Option<Trial> {
        self.trial.take()
    }

    /// Waits until the trial ends, or the virtual server that makes it. What takes room after that ends with `stop`.
    pub(super) fn run(self, image: &OnceLock<Image>, stop: &AtomicBool, events: &mpsc::Sender<Event>) {
        drop(self.trial);
        let Ok(findings) = self.findings.recv() else { return };
        let is_over = || stop.load(Ordering::Relaxed);
        let mut result = Ok(());
        if findings.are_good() {
            result = Image::of_cycle(&self.folder, &self.carousel, &is_over).map(|made| {
                // Nobody else sets it.
                let _ = image.set(made);
            });
        }
        if is_over() {
            return;
        }
        // Nobody listens any more only if the program is ending.
        let _ = events.send(Event::Tried(findings, result));
    }
}

/// The bytes of a full packet. Those that are shorter leave a gap behind them, where a message ends anyway.
fn slot_size(carousel: &Carousel) -> usize {
    HEADER_SIZE + usize::from(carousel.layout().symbol_size().bytes())
}

fn check_room(
    what: impl Fn() -> String,
    carousel: &Carousel,
    free: u64,
    memory_available: Option<u64>,
) -> Result<(), Failure> {
    let needed = carousel.cycle_length().saturating_mul(slot_size(carousel) as u64);
    let bound = memory_available.map_or(u64::MAX, |bytes| bytes / 100 * MEMORY_PERCENT_MAX);
    let cause = match needed {
        _ if needed > free => format!("{} are needed, {} are free", report::bytes(needed), report::bytes(free)),
        _ if needed > bound => {
            let (needed, bound) = (report::bytes(needed), report::bytes(bound));
            format!("{needed} are needed, and {bound} of memory can be spared, without which it is slower than copying")
        }
        _ => return Ok(()),
    };
    let rounds = carousel.cycle_length() / carousel.round_length().max(1);
    let remedy = match carousel.repair_percent() {
        0 => "leave --image out".to_owned(),
        _ if rounds > 1 => {
            format!(
                "leave --image out, or give --fec 0 or a --window of the whole file: with a smaller one a cycle is {rounds} passes"
            )
        }
        _ => "leave --image out, or give a smaller --fec".to_owned(),
    };
    Err(Failure::new(Exit::CannotCreate, what(), cause).remedy(remedy))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;

    use super::*;
    use crate::digest::{ObjectTree, block_value};
    use crate::drive::burst::MESSAGE_COUNT_MAX;
    use crate::fec::Encoder;
    use crate::sender::{Content, Fec, Outgoing, Pacing, SenderConfig, SentBlock, Share, WideStep};
    use crate::types::{ObjectSize, SymbolSize, Time};

    const MIB: usize = 1 << 20;

    struct Coded(Vec<u8>, Vec<Vec<u8>>);

    impl Content for Coded {
        fn source(&self) -> &[u8] {
            &self.0
        }

        fn repair(&self, block: SentBlock) -> Option<&[u8]> {
            self.1.get(block.0 as usize).map(Vec::as_slice)
        }
    }

    fn config(percent: u16) -> SenderConfig {
        SenderConfig {
            symbol_size: SymbolSize::new(1408).unwrap(),
            payload_size_max: 1408,
            ip_overhead: 28,
            pacing: Pacing::PacketDelay(Duration::from_micros(1)),
            start_ppm: 0,
            fec: Fec::new(percent),
            passes: None,
            manifest_text: b"{}".to_vec(),
            manifest_signature: Vec::new(),
        }
    }

    fn sender_of(size: usize, percent: u16) -> (Sender, Coded) {
        let bytes: Vec<u8> = (0..size).map(|i| (i * 31 + (i >> 11)) as u8 | 1).collect();
        let object_size = ObjectSize::new(size as u64).unwrap();
        let blocks = || (0..).map(BlockIndex).zip(bytes.chunks(MIB));
        let values: Vec<_> = blocks().map(|(block, part)| block_value(object_size, block, part)).collect();
        let tree = Arc::new(ObjectTree::new(object_size, values, blocks().map(|_| false).collect()));
        let sender = Sender::new(tree, &config(percent)).unwrap();
        let layout = sender.carousel().layout();
        let repair = blocks().map(|(block, part)| {
            let count = sender.carousel().repair_symbol_count(block);
            let mut out = vec![0; usize::from(count) * usize::from(layout.shard_size(block))];
            Encoder::new().encode(layout, block, part, count, &mut out);
            out
        });
        let repair = repair.collect();
        (sender, Coded(bytes, repair))
    }

    fn composed(sender: &Sender, content: &Coded, outgoing: &Outgoing) -> Vec<u8> {
        let mut packet = vec![0; sender.packet_size(outgoing)];
        sender.compose(outgoing, content, &[], &mut packet);
        packet
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(24))]
        /// In whatever order they are laid out, and however often they are asked for again.
        #[test]
        fn packets_of_the_image_are_those_that_would_be_composed(
            size in 1409usize..2 * MIB + 9000, percent in prop::sample::select(vec![0u16, 50]),
            places in prop::collection::vec(any::<u64>(), 200),
        ) {
            let (sender, content) = sender_of(size, percent);
            let folder = tempfile::tempdir().unwrap();
            let image = Image::of_cycle(folder.path(), sender.carousel(), &|| false).unwrap();
            for pass in 0..3 {
                for place in &places {
                    let outgoing = sender.data_at(place % sender.carousel().cycle_length());
                    let Outgoing::Data { position, .. } = outgoing else { unreachable!("a data packet") };
                    let expected = composed(&sender, &content, &outgoing);
                    let start = image.packet(position, expected.len(), |out| {
                        assert_eq!(pass, 0, "it is composed once");
                        out.copy_from_slice(&expected);
                        true
                    });
                    let bytes = image.slots().bytes(start.unwrap(), expected.len());
                    prop_assert_eq!(bytes, Some(&expected[..]));
                }
            }
            prop_assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0, "the image has no name");
        }

        /// Also where symbols are shorter than their slots, as those of a last block that is a single symbol.
        #[test]
        fn stretch_of_the_image_goes_as_the_packets_it_stands_for(
            size in prop_oneof![1409usize..2 * MIB + 9000, MIB + 1..MIB + 1400], percent in prop::sample::select(vec![0u16, 50, 300]),
            gso in any::<bool>(), count_max in 1u64..200,
        ) {
            let (mut sender, content) = sender_of(size, percent);
            let folder = tempfile::tempdir().unwrap();
            let image = Image::of_cycle(folder.path(), sender.carousel(), &|| false).unwrap();
            let all: Vec<_> = (0..sender.carousel().cycle_length()).map(|position| {
                let outgoing = sender.data_at(position);
                let Outgoing::Data { position, .. } = outgoing else { unreachable!("a data packet") };
                let packet = composed(&sender, &content, &outgoing);
                image.packet(position, packet.len(), |out| {
                    out.copy_from_slice(&packet);
                    true
                });
                packet
            }).collect();
            let mut burst = Burst::new(gso, sender.packet_size_max());
            for turn in 0..400 {
                let now = Time::from_nanos(turn * 100_000);
                let WideStep::SendStretch(stretch) = sender.poll_stretch(now, &content, count_max) else { continue };
                burst.clear();
                image.push(&stretch, &mut burst);
                let messages = burst.messages().iter().map(|message| {
                    (image.slots().bytes(message.start, message.size).expect("all are there"), message.segment_size)
                });
                let sent: Vec<_> = messages.flat_map(|(bytes, segment_size)| bytes.chunks(segment_size)).collect();
                let first = usize::try_from(stretch.first.value()).unwrap();
                prop_assert_eq!(&sent[..], &all[first..first + stretch.count as usize]);
            }
        }

        #[test]
        fn no_message_touches_more_pages_than_the_kernel_takes(start in 0usize..1 << 30, size in 1usize..=GSO_MESSAGE_SIZE_MAX) {
            let pages = (start + size - 1) / PAGE_SIZE_MIN - start / PAGE_SIZE_MIN + 1;
            prop_assert!(pages <= fragment_count_max(size) && pages <= FRAGMENT_COUNT_MAX);
        }
    }

    #[test]
    fn packet_that_is_not_right_or_not_of_the_cycle_is_not_had_from_the_image() {
        let (sender, _) = sender_of(10_000, 0);
        let folder = tempfile::tempdir().unwrap();
        let image = Image::of_cycle(folder.path(), sender.carousel(), &|| false).unwrap();
        let at = |position| Position::new(position).unwrap();
        assert_eq!(image.packet(at(1), 100, |_| false), None);
        assert_eq!(image.packet(at(1), 100, |_| panic!("it is given up")), None);
        assert_eq!(image.packet(Position::OUTSIDE, 100, |_| panic!("it has no place")), None);
        assert_eq!(image.packet(at(sender.carousel().cycle_length()), 100, |_| panic!("it has no place")), None);
        assert_eq!(image.full_count(0, 10), 0);
    }

    /// Content that nobody reads.
    struct Unread;

    impl Content for Unread {
        fn source(&self) -> &[u8] {
            &[]
        }

        fn repair(&self, _: SentBlock) -> Option<&[u8]> {
            Some(&[])
        }
    }

    /// The most messages of a burst of `count` packets or more that are sent from position `first` on, from an image.
    fn message_count_max(sender: &mut Sender, first: u64, count: u64, gso: bool) -> usize {
        let folder = tempfile::tempdir().unwrap();
        let image = Image::new(folder.path(), sender.carousel(), first, count, &|| false).unwrap();
        (0..image.slot_count as usize).for_each(|index| image.slots().fill(index, |_| true));
        // Everything is due.
        let now = Time::from_nanos(1_000_000);
        let go_to = |sender: &mut Sender, position: u64| {
            while sender.next_position() < position {
                let _ = sender.poll_stretch(now, &Unread, position - sender.next_position());
            }
        };
        go_to(sender, first);
        let mut burst = Burst::new(gso, sender.packet_size_max());
        let (mut most, mut sent) = (0, 0);
        while sent < count {
            burst.clear();
            loop {
                let count_max = image.full_count(sender.next_position(), image.count_max(sender, &burst, 0));
                if count_max == 0 {
                    break;
                }
                if let WideStep::SendStretch(stretch) = sender.poll_stretch(now, &Unread, count_max) {
                    image.push(&stretch, &mut burst);
                    sent += stretch.count;
                }
            }
            if burst.is_empty() {
                break;
            }
            most = most.max(burst.messages().len());
        }
        assert!(sent >= count / 2, "{sent} of {count} packets");
        most
    }

    fn unread_sender(size: usize, fec: Fec, share: Share, is_zero: fn(BlockIndex) -> bool) -> Sender {
        let object_size = ObjectSize::new(size as u64).unwrap();
        let blocks = || (0..object_size.block_count()).map(BlockIndex);
        let values = blocks().map(|_| crate::types::Digest([7; 32])).collect();
        let tree = Arc::new(ObjectTree::new(object_size, values, blocks().map(is_zero).collect()));
        let config = SenderConfig { pacing: Pacing::Unpaced, fec, ..config(fec.percent) };
        Sender::with_share(tree, &config, share).unwrap()
    }

    /// A disk image that is empty but for its last sector, which is all that is sent.
    #[test]
    fn packets_of_a_short_block_make_no_more_messages_than_one_call_takes() {
        let mut sender = unread_sender(MIB + 512, Fec::new(50), Share::new(1, 2).unwrap(), |block| block.0 == 0);
        assert!(!is_of_use(sender.carousel()), "an image of the one symbol that is sent");
        let (first, count) = (0, sender.carousel().cycle_length() / 2);
        assert_eq!(message_count_max(&mut sender, first, count, true), MESSAGE_COUNT_MAX);
    }

    /// A row of the last symbols of all blocks, each of which is shorter than a full one.
    #[test]
    fn packets_of_a_short_row_make_no_more_messages_than_one_call_takes() {
        const BLOCK_COUNT: usize = 300;
        let fec = Fec { run: 1, ..Fec::new(50) };
        for (share, gso) in [(Share::WHOLE, true), (Share::new(1, 2).unwrap(), true), (Share::WHOLE, false)] {
            let mut sender = unread_sender(BLOCK_COUNT * MIB, fec, share, |_| false);
            assert!(is_of_use(sender.carousel()));
            let last_esi = sender.carousel().layout().source_symbol_count(BlockIndex(0)) - 1;
            let first = u64::from(last_esi) * BLOCK_COUNT as u64;
            for position in [first, first + BLOCK_COUNT as u64 - 1] {
                assert_eq!(sender.carousel().symbol_at(position).1.0, last_esi, "a row for each symbol");
            }
            let most = message_count_max(&mut sender, first, BLOCK_COUNT as u64, gso);
            assert!((100..=MESSAGE_COUNT_MAX).contains(&most), "{most} messages");
        }
    }

    #[test]
    fn image_is_not_made_once_nobody_waits_for_it() {
        let (sender, _) = sender_of(3 * MIB, 50);
        let folder = tempfile::tempdir().unwrap();
        let failure = Image::of_cycle(folder.path(), sender.carousel(), &|| true).unwrap_err();
        assert_eq!((failure.exit, std::fs::read_dir(folder.path()).unwrap().count()), (Exit::CannotCreate, 0));
    }

    #[test]
    fn image_that_does_not_fit_is_refused_with_what_is_missing() {
        let (sender, _) = sender_of(3 * MIB, 50);
        let needed = sender.carousel().cycle_length() * slot_size(sender.carousel()) as u64;
        let check = |free, available| check_room(|| "keep".into(), sender.carousel(), free, available);
        assert_eq!(check(needed, None), Ok(()));
        assert_eq!(check(needed, Some(needed * 2)), Ok(()));
        let failure = check(needed - 1, None).unwrap_err();
        assert!(failure.exit == Exit::CannotCreate && failure.to_string().contains("are free"), "{failure}");
        let failure = check(needed, Some(needed)).unwrap_err();
        assert!(failure.to_string().contains("of memory can be spared"), "{failure}");
    }
}
