//! No packet reaches a panic (style rule 11): a million hostile datagrams, most of them true packets with changed fields and a
//! right checksum, against receivers in every phase.
//!
//! `HOSTILE_CASES` sets another number of datagrams; `HOSTILE_SEED` runs again the one batch whose seed a failure has printed.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use iotupd::digest::{ObjectTree, block_value};
use iotupd::limits::{BLOCK_SIZE, CHOICE_TIME_MAX};
use iotupd::manifest::{DisplayName, Members, PublicKey};
use iotupd::object::{Group, block_size};
use iotupd::receiver::{
    Action, ClockUnset, DropReason, Kept, Receiver, ReceiverConfig, SlotMemory, Store, Trust, Verdict, Work,
    plain_memory,
};
use iotupd::sender::{Fec, Outgoing, Pacing, Sender, SenderConfig};
use iotupd::types::{BlockIndex, Digest, Esi, ObjectSize, Position, SymbolSize, Time};
use iotupd::wire::seal;
use signer::{FIRST, SECOND, TestKey};

#[allow(dead_code, reason = "all tests share it, and none uses all of it")]
#[path = "keys/signer.rs"]
mod signer;

const CASES_DEFAULT: u64 = 1_000_000;
const CASES_PER_BATCH: u64 = 20_000;
const SEED: u64 = 0x107D_2026;
const HEADER_SIZE: usize = 44;
const VERSION: u64 = 3;
const COMPATIBLE: &str = "board";
const SIZE: usize = 2 * BLOCK_SIZE as usize + 700;

/// Splitmix64 (Steele, Lea and Flood, 2014).
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ z >> 31
    }

    fn below(&mut self, end: usize) -> usize {
        (self.next() % end.max(1) as u64) as usize
    }

    fn one_in(&mut self, count: usize) -> bool {
        self.below(count) == 0
    }

    fn bytes(&mut self, size: usize) -> Vec<u8> {
        (0..size).map(|_| self.next() as u8).collect()
    }

    fn pick<'a, T>(&mut self, items: &'a [T]) -> &'a T {
        &items[self.below(items.len())]
    }
}

/// What the true senders and a few others have to send.
struct World {
    size: ObjectSize,
    values: Vec<Digest>,
    /// A manifest for each symbol size.
    manifests: Vec<Vec<u8>>,
    /// All packets worth changing, of all symbol sizes.
    packets: Vec<Vec<u8>>,
    /// The symbols of one symbol size after another, each in order: true packets, so that blocks are completed.
    data: Vec<Vec<Vec<u8>>>,
}

/// Signed by a key that receivers with keys have, and such that they take it from 1970-01-01T00:16:40Z for as long again.
fn sender_of(content: &[u8], symbol_size: u16, change: impl Fn(&mut Members)) -> (Sender, Arc<ObjectTree>) {
    let (sender, tree, _) = signed_sender_of(content, symbol_size, change, |text| FIRST.sign(text, "comment"));
    (sender, tree)
}

fn signed_sender_of(
    content: &[u8],
    symbol_size: u16,
    change: impl Fn(&mut Members),
    sign: impl Fn(&[u8]) -> Vec<u8>,
) -> (Sender, Arc<ObjectTree>, SenderConfig) {
    let size = ObjectSize::new(content.len() as u64).unwrap();
    let blocks = (0..).map(BlockIndex).zip(content.chunks(BLOCK_SIZE as usize));
    let values = blocks.map(|(block, bytes)| block_value(size, block, bytes)).collect();
    let zero = content.chunks(BLOCK_SIZE as usize).map(|bytes| bytes.iter().all(|&byte| byte == 0)).collect();
    let tree = Arc::new(ObjectTree::new(size, values, zero));
    let mut members = Members::new(tree.digest(), size, DisplayName::new("object.bin").unwrap());
    (members.version, members.created, members.expires) = (VERSION, Some(1000), Some(2000));
    members.compatible = DisplayName::new(COMPATIBLE);
    change(&mut members);
    let manifest_text = members.manifest().unwrap().to_text().into_bytes();
    let config = SenderConfig {
        symbol_size: SymbolSize::new(symbol_size).unwrap(),
        payload_size_max: 8896,
        ip_overhead: 28,
        pacing: Pacing::Unpaced,
        start_ppm: 0,
        fec: Fec::OFF,
        passes: None,
        manifest_signature: sign(&manifest_text),
        manifest_text,
    };
    (Sender::new(Arc::clone(&tree), &config).unwrap(), tree, config)
}

impl World {
    fn new() -> Self {
        // Block 1 is all zeroes, block 2 short.
        let byte = |i: usize| if i >> 20 == 1 { 0 } else { ((i * 31) >> 3) as u8 };
        let content: Vec<u8> = (0..SIZE).map(byte).collect();
        let mut world = Self {
            size: ObjectSize::new(SIZE as u64).unwrap(),
            values: vec![],
            manifests: vec![],
            packets: vec![],
            data: vec![],
        };
        for symbol_size in [512, 1408, 8896] {
            let (sender, tree) = sender_of(&content, symbol_size, |_| {});
            world.add(&sender, &content);
            world.manifests.push(packet(&sender, &content, &Outgoing::Manifest));
            let positions = 0..sender.carousel().round_length();
            let symbols = positions.map(|position| packet(&sender, &content, &data_at(&sender, position)));
            world.data.push(symbols.collect());
            world.values = tree.values().to_vec();
        }
        // Rivals with the same id and size, texts that ask for what is not so, and other objects.
        let rivals: [fn(&mut Members); 3] = [
            |members| members.digest.0[31] ^= 1,
            |members| members.symbol_size = SymbolSize::new(1408),
            |members| members.repair_max = Some(0),
        ];
        for change in rivals {
            let (sender, _) = sender_of(&content, 1408, change);
            world.packets.push(packet(&sender, &content, &Outgoing::Manifest));
        }
        for other in [&content[..700], &content[..0], &content[1 << 20..2 << 20]] {
            world.add(&sender_of(other, 1408, |_| {}).0, other);
        }
        world.add_signed(&content[..700]);
        world
    }

    /// What only receivers with keys judge.
    fn add_signed(&mut self, content: &[u8]) {
        let texts: [fn(&mut Members); 5] = [
            |members| members.version = VERSION + 1,
            |members| members.version = VERSION - 1,
            |members| members.compatible = None,
            |members| (members.version, members.expires) = (VERSION + 2, None),
            |members| members.expires = Some(1400),
        ];
        for change in texts {
            let (sender, _) = sender_of(content, 1408, change);
            self.packets.push(packet(&sender, content, &Outgoing::Manifest));
        }
        type Sign = fn(&[u8]) -> Vec<u8>;
        let unsigned: Sign = |_| Vec::new();
        let by_another: Sign = |text| SECOND.sign(text, "");
        let of_another: Sign = |_| FIRST.sign(b"another text", "");
        let legacy: Sign = |text| FIRST.sign_legacy(text, "");
        for sign in [unsigned, by_another, of_another, legacy] {
            let (sender, _, config) = signed_sender_of(content, 1408, |_| {}, sign);
            self.packets.push(packet(&sender, content, &Outgoing::Manifest));
            self.packets.push(sender.announcement(&config, "239.1.2.3:4242".parse().unwrap()).unwrap());
        }
    }

    fn add(&mut self, sender: &Sender, content: &[u8]) {
        let round = sender.carousel().round_length();
        let positions = [0, 1, round / 2, round.saturating_sub(1)].into_iter().filter(|&position| position < round);
        let mut outgoing: Vec<_> = positions.map(|position| data_at(sender, position)).collect();
        outgoing.extend([Outgoing::Manifest; 3]);
        let groups = [(0, 4), (2, 1), (0, 0), (1, 0), (2, 0)];
        let group = |(first, log2)| Group::new(sender.key().size.block_count(), BlockIndex(first), log2);
        outgoing.extend(groups.into_iter().filter_map(group).map(Outgoing::Hashes));
        self.packets.extend(outgoing.iter().map(|outgoing| packet(sender, content, outgoing)));
    }
}

fn data_at(sender: &Sender, position: u64) -> Outgoing {
    let (block, esi) = sender.carousel().symbol_at(position);
    Outgoing::Data { position: Position::new(position).unwrap(), block, esi }
}

fn packet(sender: &Sender, content: &[u8], outgoing: &Outgoing) -> Vec<u8> {
    let mut packet = vec![0; sender.packet_size(outgoing)];
    sender.compose(outgoing, content, &[], &mut packet);
    packet
}

/// Where the fields of a header are that a change is interesting in: all but the checksum and, more rarely, the object id.
const FIELDS: [(usize, usize); 13] =
    [(3, 1), (4, 1), (5, 1), (6, 6), (24, 6), (28, 2), (30, 2), (30, 2), (31, 1), (32, 4), (34, 2), (35, 1), (12, 12)];

fn hostile_datagram(random: &mut Random, world: &World) -> Vec<u8> {
    if random.one_in(20) {
        let size = random.below(10_000);
        return random.bytes(size);
    }
    let mut datagram = match random.below(4) {
        0 => {
            let data = random.pick(&world.data);
            let symbol = random.pick(data);
            symbol.clone()
        }
        _ => random.pick(&world.packets).clone(),
    };
    for _ in 0..random.below(4) {
        change(random, world, &mut datagram);
    }
    if random.one_in(50) {
        return datagram;
    }
    if datagram.len() >= HEADER_SIZE {
        seal(&mut datagram);
    }
    datagram
}

fn change(random: &mut Random, world: &World, datagram: &mut Vec<u8>) {
    let head_end = datagram.len().min(HEADER_SIZE);
    let payload_size = datagram.len() - head_end;
    match random.below(11) {
        0..=3 => {
            let &(at, size) = random.pick(&FIELDS);
            let value = match random.below(5) {
                0 => vec![0; size],
                1 => vec![0xff; size],
                2 => [vec![0; size - 1], vec![random.below(20) as u8]].concat(),
                _ => random.bytes(size),
            };
            if let Some(field) = datagram.get_mut(at..at + size) {
                field.copy_from_slice(&value);
            }
        }
        // The first bytes of a payload are lengths, counts and numbers of channels.
        4..=5 => {
            let at = head_end + random.below(payload_size.min(50));
            let value = *random.pick(&[0, 1, 2, 8, 9, 16, 127, 128, 254, 255, random.0 as u8]);
            if let Some(byte) = datagram.get_mut(at) {
                *byte = value;
            }
        }
        6 => {
            let at = head_end + random.below(payload_size);
            if let Some(byte) = datagram.get_mut(at) {
                *byte = random.next() as u8;
            }
        }
        7 => {
            let less = if random.one_in(2) { random.below(4) } else { random.below(datagram.len() + 1) };
            datagram.truncate(datagram.len().saturating_sub(less));
        }
        8 => {
            let more = if random.one_in(2) { random.below(70) } else { random.below(9000) };
            datagram.extend(random.bytes(more));
        }
        // A symbol of the last block, which has but a few.
        9 if payload_size > 0 => {
            let (esi, size) = (random.below(8) as u8, *random.pick(&[704, 512]));
            move_to_last_block(datagram, esi, size);
        }
        _ => {
            let other = random.pick(&world.packets);
            datagram.truncate(head_end);
            datagram.extend(&other[HEADER_SIZE..]);
        }
    }
}

/// Makes a data packet one of the last block.
fn move_to_last_block(datagram: &mut Vec<u8>, esi: u8, size: usize) {
    datagram[30..36].copy_from_slice(&[0, esi, 0, 0, 0, 2]);
    datagram.resize(HEADER_SIZE + size, 7);
}

/// How far a batch's receiver is brought before the hostile packets come.
#[derive(Clone, Copy, Debug)]
enum Start {
    Waiting,
    Preparing,
    Receiving,
    Complete,
}

/// A receiver whose caller answers late, in any order, and with wrong answers.
struct Victim<'a> {
    /// The target is certainly a new one.
    is_fresh: bool,
    world: &'a World,
    receiver: Receiver,
    now: Time,
    stores: Vec<Store>,
    keeps: Vec<Kept>,
    works: Vec<Work>,
    may_prepare: bool,
    is_asked: bool,
    /// The words of the map that was asked for.
    word_count: Option<usize>,
    is_prepared: bool,
}

impl<'a> Victim<'a> {
    fn new(random: &mut Random, world: &'a World, start: Start) -> Self {
        let which = random.below(world.data.len());
        Self::with_session(random, world, start, which)
    }

    /// One that is sent symbols of the size with this number first.
    fn with_session(random: &mut Random, world: &'a World, start: Start, which: usize) -> Self {
        let size_max = if random.one_in(20) { 1000 } else { u64::MAX };
        let config = ReceiverConfig { size_max, timeout: None, idle_timeout: None, decode: !random.one_in(5) };
        let mut receiver = match random.one_in(4) {
            true => Receiver::with_trust(Time::default(), config, trust(random)),
            false => Receiver::new(Time::default(), config),
        };
        receiver.handle_wall_clock(1500);
        let may_prepare = !matches!(start, Start::Waiting | Start::Preparing);
        let mut victim = Self {
            world,
            receiver,
            now: Time::default(),
            stores: vec![],
            keeps: vec![],
            works: vec![],
            may_prepare,
            is_asked: false,
            word_count: None,
            is_prepared: false,
            is_fresh: false,
        };
        if !matches!(start, Start::Waiting) {
            victim.feed(random, &world.manifests[which]);
            victim.now = victim.now.after(CHOICE_TIME_MAX);
            victim.receiver.handle_timeout(victim.now);
        }
        if matches!(start, Start::Complete) {
            while !victim.is_prepared && size_max == u64::MAX {
                victim.answer(random);
            }
            for hashes in world.packets.iter().filter(|packet| packet[3] == 3) {
                victim.feed(random, hashes);
            }
            world.data[which].iter().for_each(|symbol| victim.feed(random, symbol));
        }
        victim
    }

    fn feed(&mut self, random: &mut Random, datagram: &[u8]) {
        let from = SocketAddr::from(([192, 0, 2, random.below(3) as u8], 4000 + random.below(30) as u16));
        let verdict = self.receiver.handle_datagram(self.now, from, datagram);
        if let Verdict::Keep(kept) = verdict {
            self.keeps.push(kept);
        }
        if let Verdict::Store(store) = verdict {
            assert!(self.is_prepared, "nothing is stored before the target is ready");
            let block_start = store.block.offset();
            let block_end = block_start + u64::from(block_size(self.object_size(), store.block));
            assert!(store.size > 0 && store.offset >= block_start, "{store:?}");
            assert!(store.offset + u64::from(store.size) <= block_end, "{store:?}");
            assert_eq!(usize::from(store.size), datagram.len() - HEADER_SIZE, "{store:?}");
            self.stores.push(store);
        }
    }

    /// More symbols of a block than it needs, before the first is written.
    fn feed_last_block(&mut self, random: &mut Random) {
        for esi in 0..5 {
            let mut symbol = random.pick(&self.world.data)[0].clone();
            move_to_last_block(&mut symbol, esi, 512);
            seal(&mut symbol);
            self.feed(random, &symbol);
        }
    }

    fn object_size(&self) -> ObjectSize {
        self.receiver.manifest().expect("an object is being received").size
    }

    /// Does some of what the receiver has asked for.
    fn answer(&mut self, random: &mut Random) {
        match self.receiver.poll_action() {
            Some(Action::Prepare { word_count, .. }) => {
                (self.is_asked, self.is_prepared, self.word_count) = (true, false, Some(word_count));
                // What was asked for before is void.
                (self.stores, self.keeps, self.works) = (vec![], vec![], vec![]);
            }
            Some(Action::Remap { word_count }) => self.word_count = Some(word_count),
            _ => {}
        }
        if self.may_prepare
            && let Some(word_count) = self.word_count
            && (!self.is_prepared || random.one_in(4))
        {
            self.word_count = None;
            self.give_memory(random, plain_memory(word_count));
        }
        for _ in 0..self.stores.len().min(random.below(12)) {
            let store = self.stores.swap_remove(random.below(self.stores.len()));
            match random.one_in(500) {
                true => self.receiver.handle_store_failed(&store),
                false => self.receiver.handle_stored(&[store]),
            }
        }
        for kept in std::mem::take(&mut self.keeps) {
            self.receiver.handle_kept(kept, !random.one_in(4));
        }
        self.works.extend(std::iter::from_fn(|| self.receiver.poll_work()));
        if !self.works.is_empty() && random.one_in(3) {
            let work = self.works.swap_remove(random.below(self.works.len()));
            self.finish(random, work);
        }
        while self.receiver.poll_notice().is_some() {}
    }

    /// What a map may hold: nothing, or anything.
    fn give_memory(&mut self, random: &mut Random, memory: Box<dyn SlotMemory>) {
        for word in memory.words() {
            word.store(if random.one_in(3) { random.next() as u32 } else { 0 }, Ordering::Relaxed);
        }
        if self.is_prepared {
            return self.receiver.handle_remapped(self.now, memory);
        }
        self.is_prepared = true;
        let early = {
            let is_reused = random.one_in(2) && !self.is_fresh;
            self.receiver.handle_prepared(self.now, is_reused, memory)
        };
        for (from, datagram) in early.datagrams() {
            match self.receiver.handle_datagram(self.now, from, datagram) {
                Verdict::Store(store) => self.stores.push(store),
                Verdict::Keep(kept) => self.keeps.push(kept),
                Verdict::Taken | Verdict::Dropped(_) => {}
            }
        }
    }

    fn finish(&mut self, random: &mut Random, work: Work) {
        let block = work.block();
        match work {
            Work::Clear { .. } => return self.receiver.handle_cleared(block, !random.one_in(4)),
            Work::WriteDecoded { .. } => return self.receiver.handle_written(block, !random.one_in(4)),
            Work::CheckSlots { mut slots, .. } => {
                slots.retain(|_| random.one_in(2));
                return self.receiver.handle_slots_checked(block, &slots);
            }
            Work::Hash { .. } | Work::HashZeroes { .. } | Work::Decode { .. } => {}
        }
        let is_ours = self.object_size() == self.world.size;
        let true_value = self.world.values.get(block.0 as usize).copied().filter(|_| is_ours);
        let value = match random.below(8) {
            0 => None,
            1 => Some(Digest([random.next() as u8; 32])),
            _ => true_value,
        };
        self.receiver.handle_hashed(self.now, block, value);
    }

    fn pass_time(&mut self, random: &mut Random) {
        let millis = if random.one_in(300) { random.below(40_000) } else { random.below(30) };
        self.now = self.now.after(Duration::from_millis(millis as u64));
        if random.one_in(20) {
            self.receiver.handle_wall_clock(*random.pick(&[0, 999, 1500, 1500, 1500, 2500, u64::MAX]));
        }
        self.receiver.handle_timeout(self.now);
        let _ = self.receiver.poll_timeout();
    }

    fn check(&self) {
        let progress = self.receiver.progress();
        assert!(progress.held <= progress.size, "{progress:?}");
        assert!(progress.blocks_verified <= progress.blocks, "{progress:?}");
        let mut end = 0;
        for (first, next_end) in self.receiver.missing() {
            assert!((first > end || end == 0) && first < next_end && next_end <= progress.size, "ascending and joined");
            end = next_end;
        }
        assert!(self.receiver.senders().len() <= iotupd::limits::SENDER_COUNT_MAX);
        assert!(self.is_asked || !self.is_prepared);
    }
}

/// What takes the true manifests, while the clock is right.
fn trust(random: &mut Random) -> Trust {
    let key = |key: &TestKey| PublicKey::parse(key.public()).unwrap();
    Trust {
        keys: vec![key(&FIRST)],
        version_min: VERSION,
        compatible: DisplayName::new(COMPATIBLE),
        clock_unset: if random.one_in(2) { ClockUnset::Refuse } else { ClockUnset::Ignore },
        seed: random.next(),
    }
}

/// Prints, if the batch fails, how to have it again.
struct SeedOnPanic(u64, Start);

impl Drop for SeedOnPanic {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("a batch with start {:?} failed: HOSTILE_SEED={} replays it", self.1, self.0);
        }
    }
}

/// How often each reason was met, and how many packets were taken or stored.
#[derive(Default)]
struct Totals {
    dropped: Vec<u64>,
    accepted: u64,
}

fn batch(seed: u64, world: &World, cases: u64, totals: &mut Totals) {
    let starts = [Start::Waiting, Start::Preparing, Start::Receiving, Start::Receiving, Start::Complete];
    let mut random = Random(seed);
    let start = *random.pick(&starts);
    let _guard = SeedOnPanic(seed, start);
    let mut victim = Victim::new(&mut random, world, start);
    for case in 0..cases {
        let datagram = hostile_datagram(&mut random, world);
        victim.feed(&mut random, &datagram);
        if random.one_in(50) {
            victim.feed_last_block(&mut random);
        }
        victim.answer(&mut random);
        if random.one_in(32) {
            victim.pass_time(&mut random);
        }
        if case % 256 == 0 {
            victim.check();
        }
    }
    victim.check();
    let counts = victim.receiver.counts();
    totals.dropped.resize(DropReason::ALL.len(), 0);
    for (total, &reason) in totals.dropped.iter_mut().zip(DropReason::ALL) {
        *total += counts.dropped(reason);
    }
    totals.accepted += counts.stored + counts.manifests + counts.hashes;
}

fn number_from_environment(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().unwrap_or_else(|_| panic!("{name} is no number: {text}")))
}

#[test]
fn no_datagram_makes_a_receiver_panic_or_break_its_invariants() {
    let world = World::new();
    let mut totals = Totals::default();
    if let Some(seed) = number_from_environment("HOSTILE_SEED") {
        return batch(seed, &world, CASES_PER_BATCH, &mut totals);
    }
    let cases = number_from_environment("HOSTILE_CASES").unwrap_or(CASES_DEFAULT);
    for number in 0..cases.div_ceil(CASES_PER_BATCH) {
        batch(SEED + number, &world, CASES_PER_BATCH.min(cases - number * CASES_PER_BATCH), &mut totals);
    }
    // The attack must reach behind every check, or it proves nothing.
    if cases >= CASES_DEFAULT {
        let unmet = DropReason::ALL.iter().zip(&totals.dropped).filter(|(_, count)| **count == 0);
        let unmet: Vec<_> = unmet.map(|(reason, _)| reason.name()).collect();
        assert!(unmet.is_empty(), "reasons that no datagram met: {unmet:?}");
        assert!(totals.accepted > cases / 20, "only {} datagrams were accepted", totals.accepted);
    }
}

#[test]
fn all_symbol_numbers_of_one_block_fill_each_slot_once_and_no_more() {
    let world = World::new();
    let mut random = Random(SEED);
    let mut victim = Victim::with_session(&mut random, &world, Start::Receiving, 0);
    victim.is_fresh = true;
    while !victim.is_prepared {
        victim.answer(&mut random);
    }
    let mut symbol = world.data[0][0].clone();
    for esi in (0..=u16::MAX).rev() {
        symbol[30..32].copy_from_slice(&esi.to_be_bytes());
        seal(&mut symbol);
        victim.feed(&mut random, &symbol);
    }
    assert!(victim.stores.iter().all(|store| store.esi < Esi(4 * 2048)));
    let mut offsets: Vec<_> = victim.stores.iter().map(|store| store.offset).collect();
    offsets.sort_unstable();
    offsets.dedup();
    assert_eq!(offsets.len(), victim.stores.len());
    assert!(!offsets.is_empty() && offsets.len() <= 2048 && victim.keeps.len() <= 1);
    victim.check();
}
