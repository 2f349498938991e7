//! The sender as a whole: the packets that it hands out, in their order (docs/PROTOCOL.md, section 7).

mod announcement;
mod stretches;

use std::collections::BTreeMap;
use std::time::Duration;

use super::*;
use crate::digest::block_value;
use crate::fec::Encoder;
use crate::limits::BLOCK_SIZE;
use crate::types::ObjectSize;
use crate::wire::{ChannelEntry, Packet, parse};

const MIB: usize = BLOCK_SIZE as usize;
const TEXT: &[u8] = b"{\"the\":\"text\"}";

/// Bytes that differ from block to block, but for the blocks that are all zeroes.
fn content(size: usize, zero_blocks: &[usize]) -> Vec<u8> {
    (0..size).map(|i| if zero_blocks.contains(&(i / MIB)) { 0 } else { (i * 31 + i / MIB) as u8 | 1 }).collect()
}

fn tree_of(content: &[u8]) -> Arc<ObjectTree> {
    let size = ObjectSize::new(content.len() as u64).unwrap();
    let blocks = (0..).map(BlockIndex).zip(content.chunks(MIB));
    let values = blocks.map(|(block, bytes)| block_value(size, block, bytes)).collect();
    let zero = content.chunks(MIB).map(|bytes| bytes.iter().all(|&byte| byte == 0)).collect();
    Arc::new(ObjectTree::new(size, values, zero))
}

fn config() -> SenderConfig {
    SenderConfig {
        symbol_size: SymbolSize::new(1408).unwrap(),
        payload_size_max: 1408,
        ip_overhead: 28,
        pacing: Pacing::Unpaced,
        start_ppm: 0,
        fec: Fec::OFF,
        passes: None,
        manifest_text: TEXT.to_vec(),
        manifest_signature: Vec::new(),
    }
}

/// An object with repair symbols, as far as they are ready.
struct Coded {
    bytes: Vec<u8>,
    repair: Vec<Vec<u8>>,
    ready_count: usize,
}

impl Coded {
    /// All repair symbols, none of them ready.
    fn new(bytes: Vec<u8>, carousel: &Carousel) -> Self {
        let layout = carousel.layout();
        let repair = |rank| {
            let block = carousel.block_of(SentBlock(rank));
            let count = carousel.repair_symbol_count(block);
            let mut out = vec![0; usize::from(count) * usize::from(layout.shard_size(block))];
            let source = bytes.chunks(MIB).nth(block.0 as usize).unwrap();
            Encoder::new().encode(layout, block, source, count, &mut out);
            out
        };
        let repair = (0..carousel.sent_count()).map(repair).collect();
        Self { bytes, repair, ready_count: 0 }
    }
}

impl Content for Coded {
    fn source(&self) -> &[u8] {
        &self.bytes
    }

    fn repair(&self, block: SentBlock) -> Option<&[u8]> {
        self.repair[..self.ready_count].get(block.0 as usize).map(Vec::as_slice)
    }
}

/// The next data packet.
fn next_data(sender: &mut Sender, content: &Coded) -> Option<(u64, BlockIndex, Esi)> {
    loop {
        match sender.poll_with(Time::default(), content) {
            Step::Send(outgoing) => {
                if let Some(data) = data_of(&outgoing) {
                    return Some(data);
                }
            }
            Step::Done => return None,
            Step::Wait(due) => panic!("unpaced, and yet it waits until {due:?}"),
        }
    }
}

/// A sender on a clock that jumps to whenever the next packet is due.
struct Run {
    sender: Sender,
    content: Vec<u8>,
    now: Time,
    /// Added to the clock after each packet.
    step: Duration,
}

impl Run {
    fn new(content: Vec<u8>, config: &SenderConfig) -> Self {
        let sender = Sender::new(tree_of(&content), config).unwrap();
        Self { sender, content, now: Time::default(), step: Duration::ZERO }
    }

    fn packet(&self, outgoing: &Outgoing) -> Vec<u8> {
        let mut packet = vec![0; self.sender.packet_size(outgoing)];
        self.sender.compose(outgoing, &self.content, &[], &mut packet);
        packet
    }
}

impl Iterator for Run {
    type Item = (Time, Outgoing);

    fn next(&mut self) -> Option<(Time, Outgoing)> {
        loop {
            match self.sender.poll(self.now) {
                Step::Send(outgoing) => {
                    let sent = (self.now, outgoing);
                    self.now = self.now.after(self.step);
                    return Some(sent);
                }
                Step::Wait(due) => {
                    assert!(due > self.now, "it asks to wait for what is to come");
                    self.now = due;
                }
                Step::Done => return None,
            }
        }
    }
}

fn is_data(outgoing: &Outgoing) -> bool {
    matches!(outgoing, Outgoing::Data { .. })
}

fn data_of(outgoing: &Outgoing) -> Option<(u64, BlockIndex, Esi)> {
    match *outgoing {
        Outgoing::Data { position, block, esi } => Some((position.value(), block, esi)),
        Outgoing::Manifest | Outgoing::Hashes(_) => None,
    }
}

/// Section 7: a manifest packet is the first; the credit of hashes packets starts at 1.
#[test]
fn manifest_is_first_and_hashes_are_second() {
    for size in [1, MIB, MIB + 1, 3 * MIB] {
        let mut run = Run::new(content(size, &[]), &config());
        assert_eq!(run.next().unwrap().1, Outgoing::Manifest);
        assert_eq!(matches!(run.next().unwrap().1, Outgoing::Hashes(_)), size > MIB, "{size} bytes");
    }
}

#[test]
fn every_packet_is_one_that_a_receiver_reads() {
    let mut run = Run::new(content(3 * MIB, &[1]), &config());
    for _ in 0..2000 {
        let (_, outgoing) = run.next().unwrap();
        let bytes = run.packet(&outgoing);
        let (header, packet) = parse(&bytes).expect("a packet of ours");
        assert_eq!((header.key, header.channel), (run.sender.key(), ChannelId(0)));
        match (outgoing, packet) {
            (Outgoing::Data { position, block, esi }, Packet::Data(payload)) => {
                assert_eq!((header.position, header.block, header.esi), (position, block, esi));
                let start = block.offset() as usize + usize::from(esi.0) * 1408;
                assert_eq!(payload, &run.content[start..start + payload.len()]);
            }
            (Outgoing::Manifest, Packet::Manifest(payload)) => {
                assert_eq!((payload.text, payload.signature), (TEXT, None));
                let entry = ChannelEntry { channel: ChannelId(0), group: None, cycle_length: 4470, rate: None };
                assert_eq!(payload.description.channels(), [entry]);
            }
            (Outgoing::Hashes(group), Packet::Hashes(payload)) => {
                assert_eq!(payload.group, group);
                assert!(payload.is_proved_by(&tree_of(&run.content).digest()));
                assert_eq!((0..3).map(|i| payload.claims_zero(i)).collect::<Vec<_>>(), [false, true, false]);
            }
            other => panic!("{other:?}"),
        }
    }
}

/// Section 7: after every 100 data packets, but not less than 1 ms after the previous one.
#[test]
fn manifests_are_one_in_a_hundred_data_packets() {
    let mut run = Run::new(content(3 * MIB, &[]), &config());
    run.step = Duration::from_micros(11);
    let mut since = None;
    for (_, outgoing) in run.take(20_000) {
        match (outgoing, &mut since) {
            (Outgoing::Manifest, since) => assert_eq!(since.replace(0).unwrap_or(100), 100),
            (Outgoing::Data { .. }, Some(since)) => *since += 1,
            _ => {}
        }
    }
}

#[test]
fn manifests_are_a_millisecond_apart_at_a_high_rate() {
    let rate = RateBps::new(20_000_000_000).unwrap();
    let run = Run::new(content(3 * MIB, &[]), &SenderConfig { pacing: Pacing::Rate(rate), ..config() });
    let sent = run.take(50_000);
    let times: Vec<_> = sent.filter(|(_, outgoing)| *outgoing == Outgoing::Manifest).map(|(at, _)| at).collect();
    assert!(times.windows(2).all(|pair| pair[1].since(pair[0]) >= Duration::from_millis(1)));
    assert!(times.windows(2).all(|pair| pair[1].since(pair[0]) < Duration::from_micros(1200)), "but no rarer");
    assert!(times.len() > 20);
}

/// Section 7: `2H / N`.
#[test]
fn every_round_of_a_sparse_object_carries_each_hashes_packet_twice() {
    for (blocks, payload_size_max) in [(33, 1408), (40, 232)] {
        // One block of `blocks` has data, and only 4 symbols of it: the last one is short.
        let zero_blocks: Vec<_> = (0..blocks - 1).collect();
        let content = content((blocks - 1) * MIB + 5000, &zero_blocks);
        let run = Run::new(content, &SenderConfig { payload_size_max, manifest_text: vec![b'x'; 9], ..config() });
        let (round, groups) = (run.sender.carousel().round_length(), blocks.div_ceil(1 << run.sender.group_log2));
        assert_eq!(round, 4);
        let mut counts = BTreeMap::new();
        let mut data = 0;
        for (_, outgoing) in run.take(3000) {
            if let Outgoing::Hashes(group) = outgoing {
                *counts.entry(group.first().0).or_insert(0) += 1;
            }
            data += u64::from(is_data(&outgoing));
            if is_data(&outgoing) && data.is_multiple_of(round) && data > round {
                assert!(counts.len() == groups && counts.values().all(|&count| count == 2), "{counts:?}");
            }
            if is_data(&outgoing) && data.is_multiple_of(round) {
                counts.clear();
            }
        }
        assert!(data > 3 * round);
    }
}

#[test]
fn hashes_of_a_dense_object_come_in_turn_once_in_a_hundred() {
    let run = Run::new(content(18 * MIB, &[]), &config());
    let sent: Vec<_> = run.take(10_000).map(|(_, outgoing)| outgoing).collect();
    let firsts = sent.iter().filter_map(|outgoing| match outgoing {
        Outgoing::Hashes(group) => Some(group.first().0),
        _ => None,
    });
    let firsts = firsts.collect::<Vec<_>>();
    assert!(firsts.iter().zip([0, 16].iter().cycle()).all(|(first, expected)| first == expected));
    let data = sent.iter().filter(|outgoing| is_data(outgoing)).count();
    assert_eq!(firsts.len(), 1 + (data - 1) / 100);
}

#[test]
fn positions_count_to_the_end_of_the_cycle_and_wrap() {
    let run = Run::new(content(MIB + 1, &[]), &config());
    let cycle = run.sender.carousel().cycle_length();
    assert_eq!(cycle, 746 * 6);
    let positions = run.filter_map(|(_, outgoing)| data_of(&outgoing)).map(|(position, _, _)| position);
    assert!(positions.take(2 * cycle as usize + 5).eq((0..cycle).chain(0..cycle).chain(0..5)));
}

/// Section 7: the same (object, S, code id, percent, order, channel, position) has the same bytes.
#[test]
fn equal_positions_have_equal_bytes_whoever_sends_them_and_when() {
    let content = content(2 * MIB + 100, &[0]);
    let rate = |bps| Pacing::Rate(RateBps::new(bps).unwrap());
    let configs = [
        config(),
        SenderConfig { start_ppm: 333_333, pacing: rate(1_000_000_000), ..config() },
        SenderConfig { start_ppm: 999_999, pacing: rate(7_000_000), ip_overhead: 48, ..config() },
        SenderConfig { pacing: Pacing::PacketDelay(Duration::from_millis(3)), payload_size_max: 1500, ..config() },
    ];
    let mut seen: BTreeMap<u64, Vec<u8>> = BTreeMap::new();
    for config in configs {
        let mut run = Run::new(content.clone(), &config);
        let cycle = run.sender.carousel().cycle_length();
        let mut left = 2 * cycle + 10;
        while left > 0 {
            let (_, outgoing) = run.next().unwrap();
            if let Some((position, _, _)) = data_of(&outgoing) {
                left -= 1;
                let bytes = run.packet(&outgoing);
                assert_eq!(seen.entry(position).or_insert_with(|| bytes.clone()), &bytes, "position {position}");
            }
        }
        assert_eq!(seen.len() as u64, cycle);
    }
}

#[test]
fn sender_starts_where_it_is_told_within_the_round() {
    for (start_ppm, position) in [(0, 0), (500_000, 745), (999_999, 1489)] {
        let run = Run::new(content(2 * MIB, &[]), &SenderConfig { start_ppm, ..config() });
        assert_eq!(run.sender.next_position(), position);
        let first = run.map(|(_, outgoing)| outgoing).find_map(|outgoing| data_of(&outgoing)).unwrap();
        assert_eq!(first.0, position);
    }
}

/// Section 2: symbols of blocks that are all zeroes are never sent, except where n = 1.
#[test]
fn zero_blocks_are_not_sent_unless_there_is_one_block_only() {
    let run = Run::new(content(4 * MIB, &[0, 2]), &config());
    let blocks = run.take(9000).filter_map(|(_, outgoing)| data_of(&outgoing)).map(|(_, block, _)| block.0);
    assert!(blocks.into_iter().all(|block| block % 2 == 1));
    let run = Run::new(content(3000, &[0]), &config());
    assert_eq!(run.take(300).filter(|(_, outgoing)| is_data(outgoing)).count(), 300 - 1);
}

/// Section 7: where N = 0.
#[test]
fn object_without_data_sends_control_packets_alone() {
    let empty: Vec<_> = Run::new(vec![], &config()).take(500).collect();
    assert!(empty.iter().all(|(_, outgoing)| *outgoing == Outgoing::Manifest));
    assert!(empty.windows(2).all(|pair| pair[1].0.since(pair[0].0) >= Duration::from_millis(1)));

    let mut run = Run::new(content(17 * MIB, &(0..17).collect::<Vec<_>>()), &config());
    run.step = Duration::from_millis(1);
    let kinds: Vec<_> = run.take(10).map(|(_, outgoing)| outgoing == Outgoing::Manifest).collect();
    assert_eq!(kinds, [true, false, false, true, false, false, true, false, false, true], "one to H hashes packets");
}

#[test]
fn passes_end_after_exactly_as_many_rounds() {
    for passes in [1, 3] {
        let config = SenderConfig { passes: Some(passes), start_ppm: 400_000, ..config() };
        let run = Run::new(content(2 * MIB + 1, &[1]), &config);
        let round = run.sender.carousel().round_length();
        assert_eq!(round, 746);
        assert_eq!(run.filter(|(_, outgoing)| is_data(outgoing)).count() as u64, passes * round);
    }
}

#[test]
fn virtual_servers_send_each_symbol_once_in_a_pass_and_the_first_of_them_the_control_packets() {
    let bytes = content(3 * MIB + 5, &[1]);
    let config = SenderConfig { passes: Some(1), start_ppm: 700_000, ..config() };
    let shares = (0..4).map(|index| Share::new(index, 4).unwrap());
    let runs = shares.map(|share| Run {
        sender: Sender::with_share(tree_of(&bytes), &config, share).unwrap(),
        content: Vec::new(),
        now: Time::default(),
        step: Duration::from_micros(100),
    });
    let sent: Vec<Vec<_>> = runs.map(|run| run.map(|(_, outgoing)| outgoing).collect()).collect();
    let mut positions: Vec<_> =
        sent.iter().flatten().filter_map(data_of).map(|(position, ..)| position % 1491).collect();
    positions.sort_unstable();
    assert_eq!(positions, (0..1491).collect::<Vec<_>>());
    assert!(sent[1..].iter().flatten().all(is_data));
    let control = sent[0].iter().filter(|outgoing| !is_data(outgoing)).count();
    assert!(
        (30..=34).contains(&control),
        "{control}: one manifest and one hashes packet to a hundred of all data packets"
    );
}

/// However many virtual servers share the rate, and however many hashes packets the object needs.
#[test]
fn control_packets_are_as_many_to_all_data_packets_of_several_virtual_servers() {
    // 64 blocks, of which two are sent: each of the four groups of hashes goes twice a round.
    let bytes = content(64 * MIB, &(2..64).collect::<Vec<_>>());
    let rate = Pacing::Rate(RateBps::new(50_000_000).unwrap());
    let config = SenderConfig { pacing: rate, ..config() };
    let until = Time::from_nanos(4_000_000_000);
    let counts = |count: u32| {
        let mut sum = SenderCounts::default();
        for index in 0..count {
            let share = Share::new(index, count).unwrap();
            let sender = Sender::with_share(tree_of(&bytes), &config, share).unwrap();
            let mut run = Run { sender, content: Vec::new(), now: Time::default(), step: Duration::ZERO };
            while run.next().is_some_and(|(at, _)| at < until) {}
            let counts = run.sender.counts();
            sum.data += counts.data;
            sum.hashes += counts.hashes;
            sum.manifest += counts.manifest;
            sum.ip_bytes += counts.ip_bytes;
        }
        sum
    };
    let (one, eight) = (counts(1), counts(8));
    let share = |part: u64, counts: &SenderCounts| part as f64 / counts.data as f64;
    assert!((share(one.hashes, &one) / share(eight.hashes, &eight) - 1.0).abs() < 0.03, "{one:?} {eight:?}");
    // Eight data packets at a time: not always at the hundredth.
    assert!((share(one.manifest, &one) / share(eight.manifest, &eight) - 1.0).abs() < 0.06, "{one:?} {eight:?}");
    assert!((one.ip_bytes as f64 / eight.ip_bytes as f64 - 1.0).abs() < 0.02, "{one:?} {eight:?}");
}

#[test]
fn passes_over_objects_without_data_end_too() {
    let config = SenderConfig { passes: Some(2), ..config() };
    assert!(Run::new(vec![], &config).take(100).count() < 100);
    let run = Run::new(content(17 * MIB, &(0..17).collect::<Vec<_>>()), &config);
    let hashes = run.take(1000).filter(|(_, outgoing)| matches!(outgoing, Outgoing::Hashes(_)));
    assert_eq!(hashes.count(), 4, "two groups, twice");
}

#[test]
fn counts_are_of_what_was_handed_out() {
    let mut run = Run::new(content(2 * MIB, &[]), &config());
    let mut expected = SenderCounts::default();
    for _ in 0..1000 {
        let (_, outgoing) = run.next().unwrap();
        match outgoing {
            Outgoing::Data { .. } => expected.data += 1,
            Outgoing::Manifest => expected.manifest += 1,
            Outgoing::Hashes(_) => expected.hashes += 1,
        }
        expected.ip_bytes += run.packet(&outgoing).len() as u64 + 28;
    }
    assert_eq!(run.sender.counts(), expected);
}

/// Section 5: a sender must refuse an MTU for which its manifest packet is too long; T + G is at most 880.
#[test]
fn manifest_that_does_not_fit_is_refused() {
    let sender = |text: usize, room: u32| {
        let config = SenderConfig { manifest_text: vec![b'x'; text], payload_size_max: room, ..config() };
        Sender::new(tree_of(b"object"), &config).map(|_| ())
    };
    let signed = |text: usize| {
        let signature = vec![7; 138 + 256];
        let config = SenderConfig { manifest_text: vec![b'x'; text], manifest_signature: signature, ..config() };
        Sender::new(tree_of(b"object"), &config).map(|_| ())
    };
    assert_eq!(signed(486), Ok(()));
    assert_eq!(signed(487), Err(Unsendable::ManifestTooLarge { needed: 48 + 881, room: 1152 }));
    assert_eq!(sender(880, 1408), Ok(()));
    assert_eq!(sender(881, 1408), Err(Unsendable::ManifestTooLarge { needed: 48 + 881, room: 1152 }));
    assert_eq!(sender(500, 548), Ok(()));
    assert_eq!(sender(501, 548), Err(Unsendable::ManifestTooLarge { needed: 549, room: 548 }));
}

/// Section 6: g = 4 unless the packet would not fit, then the largest g that fits for every group.
#[test]
fn groups_shrink_with_the_room_for_a_packet() {
    let content = content(20 * MIB, &(0..20).collect::<Vec<_>>());
    let log2 = |room: u32| {
        let config = SenderConfig { payload_size_max: room, manifest_text: vec![b'x'], ..config() };
        Sender::new(tree_of(&content), &config).map(|sender| sender.group_log2)
    };
    // 20 blocks: the path of a group of 16, 8, 4, 2, 1 at block 0 has 1, 2, 3, 4, 5 siblings.
    let size = |values: u32, path: u32| 8 + 32 * (values + path);
    // Single blocks need as much room as pairs, and so are never chosen here.
    for (group_log2, path) in (1..=4).rev().zip(1..) {
        assert_eq!(log2(size(1 << group_log2, path)), Ok(group_log2));
    }
    assert_eq!(log2(size(16, 1) - 1), Ok(3));
    assert_eq!(log2(size(8, 2) - 1), Ok(2));
    assert_eq!(log2(size(1, 5) - 1), Err(Unsendable::HashesTooLarge { room: 199 }));
}

#[test]
fn all_groups_together_cover_every_block_whatever_their_size() {
    for room in [600, 400, 300, 232, 200] {
        let config = SenderConfig { payload_size_max: room, manifest_text: vec![b'x'], ..config() };
        let run = Run::new(content(20 * MIB, &(0..20).collect::<Vec<_>>()), &config);
        let mut covered = [false; 20];
        for (_, outgoing) in run.take(45) {
            if let Outgoing::Hashes(group) = outgoing {
                group.blocks().for_each(|block| covered[block as usize] = true);
            }
        }
        assert_eq!(covered, [true; 20], "{room} bytes");
    }
}

#[test]
fn every_pass_carries_each_hashes_packet_twice() {
    // 33 blocks, H = 3, one symbol of data.
    let zero: Vec<_> = (0..32).collect();
    let run = Run::new(content(32 * MIB + 1, &zero), &SenderConfig { passes: Some(1), ..config() });
    let hashes = run.filter(|(_, outgoing)| matches!(outgoing, Outgoing::Hashes(_))).count();
    assert!(hashes >= 6, "{hashes}");
}

const SMALL_WINDOW: Fec = Fec { window_size: Some(BLOCK_SIZE), ..Fec::new(40) };

/// Sections 5.1 and 9, with a block that is not sent, and a last one that is short.
#[test]
fn every_symbol_of_a_round_is_right_whether_its_hash_is_remembered_or_not() {
    for fec in [Fec::new(40), Fec { run: 1, ..Fec::new(40) }, SMALL_WINDOW] {
        let bytes = content(3 * MIB + 3000, &[1]);
        let sender = Sender::new(tree_of(&bytes), &SenderConfig { fec, ..config() }).unwrap();
        let carousel = sender.carousel();
        assert_eq!(carousel.round_length(), 2 * (745 + 298) + 3 + 2);
        let coded = Coded { ready_count: 3, ..Coded::new(bytes, carousel) };
        let hashes: Vec<_> = (0..carousel.round_length()).map(|_| AtomicU64::new(0)).collect();
        // Twice around: the second time the hashes are remembered.
        for position in (0..carousel.cycle_length()).chain(0..carousel.cycle_length()) {
            let (block, esi) = carousel.symbol_at(position);
            let outgoing = Outgoing::Data { position: Position::new(position).unwrap(), block, esi };
            let mut packet = vec![0; sender.packet_size(&outgoing)];
            sender.compose(&outgoing, &coded, &hashes, &mut packet);
            let (header, Packet::Data(payload)) = parse(&packet).expect("a packet of ours") else { panic!("no data") };
            assert_eq!((header.position.value(), header.block, header.esi), (position, block, esi));
            let source_count = carousel.layout().source_symbol_count(block);
            let expected = match esi.0.checked_sub(source_count) {
                Some(number) => {
                    coded.repair[carousel.sent_block(block).unwrap().0 as usize].chunks(1408).nth(number.into())
                }
                None => coded.bytes.chunks(MIB).nth(block.0 as usize).unwrap().chunks(1408).nth(esi.0.into()),
            };
            assert_eq!(Some(payload), expected, "block {block:?}, symbol {esi:?}");
        }
        assert!(hashes.iter().all(|hash| hash.load(Ordering::Relaxed) != 0), "each has its own place");
        let mut packet = vec![0; sender.packet_size(&Outgoing::Manifest)];
        sender.compose(&Outgoing::Manifest, &coded, &[], &mut packet);
        let Ok((_, Packet::Manifest(manifest))) = parse(&packet) else { panic!("no manifest") };
        assert_eq!(manifest.description.repair_percent, 40);
        assert_eq!(manifest.description.channels()[0].cycle_length, carousel.cycle_length());
    }
}

/// Section 7: in the place of a symbol that is not there yet goes a source symbol without a position, and no position is skipped.
#[test]
fn repair_symbol_that_is_not_ready_is_waited_for_without_a_gap() {
    for fec in [Fec::new(40), SMALL_WINDOW] {
        let bytes = content(3 * MIB + 3000, &[1]);
        let mut sender = Sender::new(tree_of(&bytes), &SenderConfig { fec, ..config() }).unwrap();
        let mut coded = Coded::new(bytes, sender.carousel());
        let (mut expected, mut outside) = (0, Vec::new());
        for count in 0..20_000 {
            // A block becomes ready now and then.
            coded.ready_count = (count / 3000).min(3);
            let (position, block, esi) = next_data(&mut sender, &coded).unwrap();
            let is_repair = sender.carousel().is_repair(block, esi);
            if position == Position::OUTSIDE.value() {
                assert!(!is_repair && coded.ready_count < 3);
                outside.push((block, esi));
                continue;
            }
            assert_eq!(position, expected, "no position is skipped");
            assert!(!is_repair || coded.repair(sender.carousel().sent_block(block).unwrap()).is_some());
            expected = (expected + 1) % sender.carousel().cycle_length();
        }
        assert!(outside.len() > 1000);
        assert_eq!(sender.counts().outside, outside.len() as u64);
        assert_eq!(sender.counts().data, 20_000 - outside.len() as u64);
        let all = outside.iter().collect::<std::collections::BTreeSet<_>>().len();
        assert_eq!(all, outside.len().min(2 * 745 + 3), "each source symbol before one comes again");
    }
}

#[test]
fn packets_outside_of_the_cycle_are_not_part_of_a_pass() {
    let bytes = content(2 * MIB, &[]);
    let config = SenderConfig { fec: Fec::new(10), passes: Some(1), ..config() };
    let mut sender = Sender::new(tree_of(&bytes), &config).unwrap();
    let mut coded = Coded::new(bytes, sender.carousel());
    let first = std::iter::from_fn(|| next_data(&mut sender, &coded)).take(3000).count();
    assert_eq!(first, 3000);
    coded.ready_count = 2;
    while next_data(&mut sender, &coded).is_some() {}
    assert_eq!(sender.counts().data, 2 * (745 + 75));
    // The last whole row of source symbols ends with number 735; behind it the first block has 9 more.
    assert_eq!(sender.counts().outside, 3000 - (2 * 736 + 9));
}

/// Three that start a third of a round apart.
#[test]
fn virtual_servers_send_no_symbol_twice_in_a_round() {
    let bytes = content(3 * MIB, &[]);
    let mut seen = std::collections::BTreeSet::new();
    for index in 0..3 {
        let config = SenderConfig { fec: Fec::new(60), start_ppm: 999_999, ..config() };
        let mut sender = Sender::with_share(tree_of(&bytes), &config, Share::new(index, 3).unwrap()).unwrap();
        let coded = Coded { ready_count: 3, ..Coded::new(bytes.clone(), sender.carousel()) };
        for _ in 0..sender.carousel().round_length() / 3 {
            let (_, block, esi) = next_data(&mut sender, &coded).unwrap();
            assert!(seen.insert((block, esi)));
        }
    }
    assert_eq!(seen.len(), 3 * (745 + 447));
}

#[test]
#[should_panic(expected = "a repair symbol that has been computed")]
fn symbol_that_is_not_there_is_never_composed() {
    let bytes = content(2 * MIB, &[]);
    let sender = Sender::new(tree_of(&bytes), &SenderConfig { fec: Fec::new(10), ..config() }).unwrap();
    let outgoing = Outgoing::Data { position: Position::ZERO, block: BlockIndex(0), esi: Esi(745) };
    let mut packet = vec![0; sender.packet_size(&outgoing)];
    sender.compose(&outgoing, &Coded::new(bytes, sender.carousel()), &[], &mut packet);
}
