//! The host of one receiver: does what `drive` does around the machine, on a disk that misbehaves, and checks after every event
//! that the machine keeps its promises.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use iotupd::digest::{block_value, zero_block_value};
use iotupd::fec::Decoder;
use iotupd::limits::{HEADER_SIZE, SENDER_COUNT_MAX, WAITING_SIZE_MAX};
use iotupd::object::{Layout, block_size};
use iotupd::receiver::{
    Action, Counts, GiveUp, Kept, Notice, Receiver, SenderEntry, SlotEntry, Store, Verdict, Work, hash_of,
};
use iotupd::types::{BlockIndex, Esi, SymbolSize, Time};
use iotupd::wire::payload_hash;

use crate::disk::Disk;
pub(crate) use crate::plan::{Crash, HostPlan, StepCrash};
use crate::random::Random;
use crate::truth::Truth;

/// What happens on a host at some time to come.
#[derive(Clone, Debug)]
pub(crate) enum HostEvent {
    Boot,
    Crash(Crash),
    Timer,
    Prepared { word_count: usize },
    Remapped { word_count: usize },
    Stored(BlockIndex),
    Worked(Work),
}

/// What became of a receiver.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Outcome {
    Unfinished,
    Committed(Time),
    GaveUp(GiveUp, Time),
}

#[derive(Debug)]
struct PendingStore {
    store: Store,
    payload: Vec<u8>,
}

/// A block that has been decoded, and where in the block the disk does not have it.
#[derive(Debug)]
struct Decoded {
    bytes: Vec<u8>,
    missing: Vec<Range<usize>>,
}

/// What a machine has been told and has told, from its start to its end.
#[derive(Debug)]
struct Life {
    machine: Receiver,
    truth: Option<Arc<Truth>>,
    is_prepared: bool,
    /// It began on what an earlier one left.
    is_resumed: bool,
    /// Symbols that wait in memory.
    kept: BTreeMap<Kept, Vec<u8>>,
    decoded: BTreeMap<BlockIndex, Decoded>,
    /// What is being made zero.
    clearing: BTreeMap<BlockIndex, Range<usize>>,
    verified: Vec<bool>,
    verified_count: u32,
    busy: Vec<bool>,
    under_way: usize,
    pending: BTreeMap<BlockIndex, Vec<PendingStore>>,
    timer_at: Option<Time>,
}

impl Life {
    fn new(machine: Receiver) -> Self {
        Self {
            machine,
            truth: None,
            is_prepared: false,
            is_resumed: false,
            kept: BTreeMap::new(),
            decoded: BTreeMap::new(),
            clearing: BTreeMap::new(),
            verified: Vec::new(),
            verified_count: 0,
            busy: Vec::new(),
            under_way: 0,
            pending: BTreeMap::new(),
            timer_at: None,
        }
    }
}

/// The host.
pub(crate) struct Host {
    /// Precedes every message: which run, which host.
    label: String,
    plan: HostPlan,
    truths: Vec<Arc<Truth>>,
    random: Random,
    disk: Disk,
    life: Option<Life>,
    /// Which machine it is: completions for an earlier one are void.
    pub(crate) life_count: u32,
    pub(crate) outcome: Outcome,
    pub(crate) sessions_changed: u32,
    pub(crate) version: Option<u64>,
    /// What has happened so far, and the symbols that were to be stored or kept.
    pub(crate) step_count: u64,
    pub(crate) symbol_count: u64,
    /// Symbols that were not safe when the host crashed: in memory, half written, not flushed, or in slots being written over.
    pub(crate) at_risk_count: u64,
    pub(crate) last_counts: Counts,
    pub(crate) last_senders: Vec<SenderEntry>,
    /// Events to come, for the world to take.
    pub(crate) outbox: Vec<(Time, HostEvent)>,
}

impl Host {
    /// A host that knows all `truths`, the first of which is what its disk may hold from before.
    pub(crate) fn new(label: String, plan: HostPlan, truths: Vec<Arc<Truth>>, mut random: Random) -> Self {
        let can_lose_power = plan.crashes.iter().any(|crash| crash.loses_power)
            || plan.crash_at_step.is_some_and(|crash| crash.loses_power);
        let disk = Disk::new(&plan.disk, &truths[0].bytes, can_lose_power, random.fork());
        let mut outbox = vec![(plan.join, HostEvent::Boot)];
        outbox.extend(plan.crashes.iter().map(|&crash| (crash.at, HostEvent::Crash(crash))));
        Self {
            label,
            plan,
            truths,
            random,
            disk,
            life: None,
            life_count: 0,
            outcome: Outcome::Unfinished,
            sessions_changed: 0,
            version: None,
            step_count: 0,
            symbol_count: 0,
            at_risk_count: 0,
            last_counts: Counts::default(),
            last_senders: Vec::new(),
            outbox,
        }
    }

    /// Whether packets that arrive at `now` find anybody.
    pub(crate) fn listens(&self, now: Time) -> bool {
        let is_away = |&(from, span): &(Time, Duration)| from <= now && now < from.after(span);
        self.life.is_some() && !self.plan.absences.iter().any(is_away)
    }

    pub(crate) fn datagram(&mut self, now: Time, from: SocketAddr, datagram: &[u8]) {
        if self.listens(now) {
            self.step(now);
            self.judge(now, from, datagram);
            self.settle(now);
        }
    }

    /// Something is about to happen, unless the host crashes first.
    fn step(&mut self, now: Time) {
        if let Some(StepCrash { step, down, loses_power }) = self.plan.crash_at_step
            && step == self.step_count
        {
            self.crash(now, Crash { at: now, down, loses_power });
        }
        self.step_count += 1;
    }

    fn judge(&mut self, now: Time, from: SocketAddr, datagram: &[u8]) {
        let Some(life) = &mut self.life else { return };
        match life.machine.handle_datagram(now, from, datagram) {
            Verdict::Store(store) => {
                self.symbol_count += 1;
                self.store(now, store, &datagram[HEADER_SIZE..]);
            }
            Verdict::Keep(kept) => {
                self.symbol_count += 1;
                let is_kept = !self.random.chance(self.plan.disk.store_failure);
                if is_kept {
                    life.kept.insert(kept, datagram[HEADER_SIZE..].to_vec());
                }
                life.machine.handle_kept(kept, is_kept);
            }
            Verdict::Taken | Verdict::Dropped(_) => {}
        }
    }

    /// Something that was to happen happens now.
    pub(crate) fn event(&mut self, now: Time, life_count: u32, event: HostEvent) {
        if life_count == self.life_count {
            self.step(now);
        }
        match event {
            HostEvent::Boot => self.boot(now),
            HostEvent::Crash(crash) => self.crash(now, crash),
            _ if life_count != self.life_count => {}
            HostEvent::Timer => {
                if let Some(life) = &mut self.life {
                    life.timer_at = None;
                }
            }
            HostEvent::Prepared { word_count } => self.prepared(now, word_count),
            HostEvent::Remapped { word_count } => {
                let map = self.disk.map(word_count);
                if let Some(life) = &mut self.life {
                    life.machine.handle_remapped(now, Box::new(map));
                }
            }
            HostEvent::Stored(block) => self.complete_stores(block),
            HostEvent::Worked(work) => self.worked(now, work),
        }
        self.settle(now);
    }

    fn boot(&mut self, now: Time) {
        if self.outcome != Outcome::Unfinished || self.life.is_some() {
            return;
        }
        self.life_count += 1;
        let machine = match &self.plan.trust {
            Some(trust) => Receiver::with_trust(now, self.plan.config, trust.clone()),
            None => Receiver::new(now, self.plan.config),
        };
        self.life = Some(Life::new(machine));
    }

    fn crash(&mut self, now: Time, crash: Crash) {
        self.check_map();
        let Some(life) = self.life.take() else { return };
        self.at_risk_count += at_risk(&life) + if crash.loses_power { self.disk.unflushed_count() } else { 0 };
        // Stores under way may have been done, or in part, or not at all.
        for pending in life.pending.into_values().flatten() {
            let done = self.random.index(pending.payload.len() + 1);
            self.disk.write(pending.store.offset, &pending.payload[..done]);
        }
        for (block, decoded) in life.decoded.into_iter().filter(|(block, _)| life.busy[block.0 as usize]) {
            for range in decoded.missing {
                let end = range.start + self.random.index(range.len() + 1);
                self.disk.write(block.offset() + range.start as u64, &decoded.bytes[range.start..end]);
            }
        }
        for range in life.clearing.into_values() {
            let end = range.start + self.random.index(range.len() + 1);
            self.disk.clear(range.start..end);
        }
        if crash.loses_power {
            self.disk.lose_power();
        }
        self.life_count += 1;
        self.outbox.push((now.after(crash.down), HostEvent::Boot));
    }

    fn prepared(&mut self, now: Time, word_count: usize) {
        let Some(life) = &mut self.life else { return };
        let truth = life.truth.as_ref().expect("a manifest was accepted");
        let reused = self.disk.prepare(truth.size().bytes());
        (life.is_prepared, life.is_resumed) = (true, reused);
        let waiting = life.machine.handle_prepared(now, reused, Box::new(self.disk.map(word_count)));
        let waiting_size: usize = waiting.datagrams().map(|(_, datagram)| datagram.len()).sum();
        assert!(waiting_size <= WAITING_SIZE_MAX, "{}: {waiting_size} bytes were kept", self.label);
        for (from, datagram) in waiting.datagrams() {
            self.judge(now, from, datagram);
            self.settle(now);
        }
    }

    fn store(&mut self, now: Time, store: Store, payload: &[u8]) {
        let label = &self.label;
        let life = self.life.as_mut().expect("a machine asked for it");
        assert!(life.is_prepared, "{label}: a store before the file was prepared");
        let truth = life.truth.as_ref().expect("a manifest was accepted");
        let first = store.block.offset();
        let end = first + u64::from(block_size(truth.size(), store.block));
        let is_inside = store.offset >= first && store.offset + u64::from(store.size) <= end;
        assert!(is_inside && payload.len() == usize::from(store.size), "{label}: a store outside its block: {store:?}");
        assert!(!life.verified[store.block.0 as usize], "{label}: a store into verified block {}", store.block);
        assert!(!life.busy[store.block.0 as usize], "{label}: a store into block {} while it is read", store.block);
        let pending = life.pending.entry(store.block).or_default();
        let is_first = pending.is_empty();
        pending.push(PendingStore { store, payload: payload.to_vec() });
        if self.plan.disk.store_time == Duration::ZERO {
            self.complete_stores(store.block);
        } else if is_first {
            let at = now.after(self.random.span(self.plan.disk.store_time));
            self.outbox.push((at, HostEvent::Stored(store.block)));
        }
    }

    /// All stores of a block that are under way end, well or not.
    fn complete_stores(&mut self, block: BlockIndex) {
        let Some(life) = &mut self.life else { return };
        let mut stored = Vec::new();
        for PendingStore { store, payload } in life.pending.remove(&block).unwrap_or_default() {
            if self.random.chance(self.plan.disk.store_failure) {
                self.disk.write(store.offset, &payload[..payload.len() / 2]);
                life.machine.handle_store_failed(&store);
            } else {
                self.disk.write(store.offset, &payload);
                stored.push(store);
            }
        }
        life.machine.handle_stored(&stored);
    }

    /// Does everything that the machine asks for, until it asks for nothing that can be done now.
    fn settle(&mut self, now: Time) {
        if self.life.is_none() {
            return;
        }
        self.do_work(now);
        self.take_time(now);
        self.drain_notices();
        self.check();
        self.act(now);
        self.set_timer();
    }

    fn take_time(&mut self, now: Time) {
        let Some(life) = &mut self.life else { return };
        life.machine.handle_timeout(now);
        let due = life.machine.poll_timeout();
        assert!(
            due.is_none_or(|due| due > now),
            "{}: at {now:?} the timer is due at {due:?} again and again",
            self.label
        );
    }

    fn do_work(&mut self, now: Time) {
        loop {
            let Some(life) = &mut self.life else { return };
            if life.under_way == self.plan.disk.worker_count {
                return;
            }
            let Some(work) = life.machine.poll_work() else { return };
            let block = work.block();
            assert!(!life.verified[block.0 as usize], "{}: {work:?} of a verified block", self.label);
            if !matches!(work, Work::CheckSlots { .. }) {
                let busy = &mut life.busy[block.0 as usize];
                assert!(
                    !*busy && !life.pending.contains_key(&block),
                    "{}: {work:?} is asked for too early",
                    self.label
                );
                *busy = true;
            }
            life.under_way += 1;
            if let Work::Clear { size, .. } = work {
                let start = block.offset() as usize;
                life.clearing.insert(block, start..start + block_size(size, block) as usize);
            }
            if self.plan.disk.work_time == Duration::ZERO {
                self.worked(now, work);
            } else {
                let at = now.after(self.random.span(self.plan.disk.work_time));
                self.outbox.push((at, HostEvent::Worked(work)));
            }
        }
    }

    fn worked(&mut self, now: Time, work: Work) {
        let Some(life) = &mut self.life else { return };
        let block = work.block();
        if !matches!(work, Work::CheckSlots { .. }) {
            life.busy[block.0 as usize] = false;
        }
        life.under_way -= 1;
        let size = life.truth.as_ref().expect("a manifest was accepted").size();
        let start = block.offset() as usize;
        let end = start + block_size(size, block) as usize;
        let fails = self.random.chance(self.plan.disk.work_failure);
        match work {
            Work::Hash { .. } => {
                let value = (!fails).then(|| block_value(size, block, &self.disk.bytes()[start..end]));
                life.machine.handle_hashed(now, block, value);
            }
            Work::HashZeroes { .. } => {
                // Reads nothing, so that it cannot fail.
                life.machine.handle_hashed(now, block, Some(zero_block_value(size, block)));
            }
            Work::Clear { .. } => {
                life.clearing.remove(&block);
                let cleared = if fails { start..start + (end - start) / 2 } else { start..end };
                self.disk.clear(cleared);
                life.machine.handle_cleared(block, !fails);
            }
            Work::CheckSlots { slots, .. } => {
                let bytes = &self.disk.bytes()[start..end];
                let is_wrong = |entry: &&SlotEntry| fails || hash_of(payload_hash(stored(bytes, entry))) != entry.hash;
                let wrong: Vec<_> = slots.iter().filter(is_wrong).copied().collect();
                life.machine.handle_slots_checked(block, &wrong);
            }
            Work::Decode { layout, slots, kept, .. } => {
                let payload = kept.map(|esi| {
                    (esi, life.kept.remove(&Kept { block, esi }).expect("what is decoded from has been kept"))
                });
                let decoded =
                    decode(&self.disk.bytes()[start..end], block, &layout, &slots, payload).filter(|_| !fails);
                let value = decoded.as_ref().map(|decoded| block_value(size, block, &decoded.bytes));
                life.decoded.extend(decoded.map(|decoded| (block, decoded)));
                life.machine.handle_hashed(now, block, value);
            }
            Work::WriteDecoded { .. } => {
                let decoded = life.decoded.remove(&block).expect("what is written has been decoded");
                let count = if fails { decoded.missing.len() / 2 } else { decoded.missing.len() };
                for range in decoded.missing.into_iter().take(count) {
                    self.disk.write(block.offset() + range.start as u64, &decoded.bytes[range]);
                }
                life.machine.handle_written(block, !fails);
            }
        }
    }

    fn act(&mut self, now: Time) {
        let Some(life) = &mut self.life else { return };
        match life.machine.poll_action() {
            None => {}
            Some(Action::Prepare { manifest, word_count, .. }) => {
                let known = self.truths.iter().find(|truth| truth.key() == manifest.key());
                let truth = known.unwrap_or_else(|| panic!("{}: accepted what nobody sends", self.label));
                if let Some(trust) = &self.plan.trust {
                    assert!(!truth.signature.is_empty(), "{}: accepted what nobody vouches for", self.label);
                    let is_good = truth.version >= trust.version_min && manifest.version == truth.version;
                    assert!(is_good, "{}: accepted version {}", self.label, manifest.version);
                }
                self.version = Some(manifest.version);
                let block_count = truth.size().block_count() as usize;
                if let Some(old) = life.truth.replace(Arc::clone(truth)) {
                    assert!(old.version < truth.version, "{}: left for what is no newer", self.label);
                    // What was asked for until now is void.
                    self.life_count += 1;
                    (life.is_prepared, life.verified_count, life.under_way) = (false, 0, 0);
                    (life.kept, life.decoded, life.pending) = Default::default();
                    life.timer_at = None;
                }
                life.verified = vec![false; block_count];
                life.busy = vec![false; block_count];
                let at = now.after(self.plan.disk.prepare_time);
                self.outbox.push((at, HostEvent::Prepared { word_count }));
            }
            Some(Action::Remap { word_count }) => {
                let at = now.after(self.plan.disk.prepare_time);
                self.outbox.push((at, HostEvent::Remapped { word_count }));
            }
            Some(Action::Commit) => {
                let truth = life.truth.as_ref().expect("a manifest was accepted");
                assert!(life.is_prepared, "{}: committed before the file was prepared", self.label);
                assert!(self.disk.bytes() == truth.bytes, "{}: committed other bytes than were sent", self.label);
                let manifest = life.machine.manifest().expect("a manifest was accepted");
                assert_eq!(manifest.digest, truth.tree.digest(), "{}: committed a false digest", self.label);
                assert_eq!(life.machine.poll_timeout(), None, "{}: a timer after the end", self.label);
                self.check_map();
                self.finish(Outcome::Committed(now));
            }
            Some(Action::GiveUp(reason)) => self.finish(Outcome::GaveUp(reason, now)),
        }
    }

    fn finish(&mut self, outcome: Outcome) {
        self.outcome = outcome;
        self.remember_last();
        self.life = None;
        self.life_count += 1;
    }

    /// Keeps what the machine has counted for the report.
    pub(crate) fn remember_last(&mut self) {
        if let Some(life) = &self.life {
            self.last_counts = life.machine.counts().clone();
            self.last_senders = life.machine.senders().to_vec();
        }
    }

    fn drain_notices(&mut self) {
        let Some(life) = &mut self.life else { return };
        while let Some(notice) = life.machine.poll_notice() {
            if let Notice::SessionChanged(_) = notice {
                self.sessions_changed += 1;
            }
        }
    }

    fn check(&mut self) {
        let Some(life) = &mut self.life else { return };
        let label = &self.label;
        assert!(life.machine.senders().len() <= SENDER_COUNT_MAX, "{label}: too many streams");
        let is_about = |truth: &Arc<Truth>| life.machine.manifest().is_some_and(|found| found.key() == truth.key());
        if life.truth.as_ref().is_some_and(|truth| !is_about(truth)) {
            // Another object takes its place with the next action.
            return;
        }
        let progress = life.machine.progress();
        assert!(progress.held <= progress.size, "{label}: holds more than there is: {progress:?}");
        assert!(progress.blocks_verified >= life.verified_count, "{label}: fewer blocks are verified than before");
        if progress.blocks_verified == life.verified_count {
            return;
        }
        life.verified_count = progress.blocks_verified;
        let truth = life.truth.as_ref().expect("a manifest was accepted");
        let missing: Vec<_> = life.machine.missing().collect();
        for (block, was_verified) in (0..).map(BlockIndex).zip(&mut life.verified) {
            let is_missing = missing.iter().any(|&(from, to)| (from..to).contains(&block.offset()));
            if is_missing {
                assert!(!*was_verified, "{label}: block {block} was verified and is not any more");
                continue;
            }
            let start = block.offset() as usize;
            let range = start..start + block_size(truth.size(), block) as usize;
            assert!(
                self.disk.bytes()[range.clone()] == truth.bytes[range],
                "{label}: block {block} is called verified, but is wrong"
            );
            *was_verified = true;
        }
        let count = life.verified.iter().filter(|&&verified| verified).count();
        assert_eq!(count, progress.blocks_verified as usize, "{label}: verified blocks do not add up");
    }

    /// An entry is set after its symbol was written, and cleared before anything overwrites the slot: so what the map says of the disk
    /// holds at every moment, unless it was taken over from before.
    fn check_map(&self) {
        let Some(life) = self.life.as_ref().filter(|life| life.is_prepared && !life.is_resumed) else { return };
        let truth = life.truth.as_ref().expect("a manifest was accepted");
        let words: Vec<u32> = self.disk.map_words().iter().map(|word| word.load(Ordering::Relaxed)).collect();
        let symbol_size = SymbolSize::new((words[7] & 0xFFFF) as u16).expect("a map names its symbol size");
        let layout = Layout::new(truth.size(), symbol_size);
        let mut words = words.into_iter().skip(16 + 2 * layout.block_count().div_ceil(32) as usize);
        for block in (0..layout.block_count()).map(BlockIndex) {
            for slot in 0..layout.source_symbol_count(block) {
                let word = words.next().expect("a word for every slot");
                let Some(esi) = (word >> 16).checked_sub(1) else { continue };
                let size = layout.payload_size(block, Esi(esi as u16)).expect("a symbol of the block");
                let start = block.offset() as usize + range_of(block, &layout, slot).start;
                let hash = hash_of(payload_hash(&self.disk.bytes()[start..start + usize::from(size)]));
                let label = &self.label;
                assert_eq!(hash, word as u16, "{label}: block {block}, slot {slot} does not hold symbol {esi}");
            }
        }
    }

    fn set_timer(&mut self) {
        let Some(life) = &mut self.life else { return };
        let Some(due) = life.machine.poll_timeout() else { return };
        if life.timer_at.is_none_or(|at| due < at) {
            life.timer_at = Some(due);
            self.outbox.push((due, HostEvent::Timer));
        }
    }
}

/// Symbols that are not on the disk, or will not be when others are written over them.
fn at_risk(life: &Life) -> u64 {
    let stores: usize = life.pending.values().map(Vec::len).sum();
    let over: usize = life.decoded.values().map(|decoded| decoded.missing.len()).sum();
    (stores + life.kept.len() + over) as u64
}

/// The bytes that an entry is about.
fn stored<'a>(bytes: &'a [u8], entry: &SlotEntry) -> &'a [u8] {
    &bytes[entry.within as usize..][..usize::from(entry.size)]
}

fn decode(
    bytes: &[u8],
    block: BlockIndex,
    layout: &Layout,
    slots: &[SlotEntry],
    kept: Option<(Esi, Vec<u8>)>,
) -> Option<Decoded> {
    let symbols = slots.iter().map(|entry| (entry.esi, stored(bytes, entry)));
    let symbols = symbols.chain(kept.iter().map(|(esi, payload)| (*esi, payload.as_slice())));
    let mut out = vec![0; bytes.len()];
    Decoder::new().decode(layout, block, symbols, &mut out).ok()?;
    let is_in_place = |slot: u16| slots.iter().any(|entry| entry.slot == slot && entry.esi.0 == slot);
    let slots = (0..layout.source_symbol_count(block)).filter(|&slot| !is_in_place(slot));
    let missing = slots.map(|slot| range_of(block, layout, slot)).collect();
    Some(Decoded { bytes: out, missing })
}

/// A slot, in bytes from the start of its block.
fn range_of(block: BlockIndex, layout: &Layout, slot: u16) -> Range<usize> {
    let place = layout.place(block, Esi(slot)).expect("a slot of the block");
    let start = (place.offset - block.offset()) as usize;
    start..start + usize::from(place.size)
}
