//! The object that is being received: which texts claim to describe it, which session's symbols are taken, and its blocks.

use std::net::SocketAddr;

use super::blocks::{Arrival, Blocks, Placed, State, Turn};
use super::counts::DropReason;
use super::senders::{SenderIndex, Senders};
use super::sessions::Sessions;
use super::slots::SlotMemory;
use super::{Kept, Progress, Store, Work};
use crate::limits::REPAIR_PERCENT_MAX;
use crate::manifest::Manifest;
use crate::object::Layout;
use crate::types::{BlockIndex, ChannelId, Digest, ObjectKey, SymbolSize, Time};
use crate::wire::{HashesPayload, Header, SessionDescription};

/// Texts with the same object id and size, but different digests, that are held until a proof decides (section 5.4).
const CANDIDATE_COUNT_MAX: usize = 4;
/// A turn to fill a block is at most 2^6 times as long as the first.
const TURN_DOUBLINGS_MAX: u32 = 6;

/// What came of a block's value.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Outcome {
    /// Nothing that anybody need be told.
    Settled,
    /// The bytes received are not those of the block.
    Failed,
}

/// A data packet, as far as it concerns an object.
#[derive(Clone, Copy, Debug)]
pub(super) struct Symbol<'a> {
    pub(super) header: &'a Header,
    /// The bytes of its payload.
    pub(super) size: usize,
    /// What an entry of the map keeps of the hash of its payload.
    pub(super) hash: u16,
}

#[derive(Debug)]
struct Candidate {
    manifest: Manifest,
    text: Vec<u8>,
}

/// The object that was accepted.
#[derive(Debug)]
pub(super) struct Object {
    candidates: Vec<Candidate>,
    /// Whether the first candidate is the only one, because a proof has met its digest.
    is_proven: bool,
    next_evicted: usize,
    sessions: Sessions,
    pub(super) blocks: Blocks,
    heard: Time,
    /// Whether repair symbols are used.
    decodes: bool,
}

impl Object {
    pub(super) fn new(
        now: Time,
        manifest: Manifest,
        text: &[u8],
        description: &SessionDescription,
        decodes: bool,
    ) -> Self {
        let layout = Layout::new(manifest.size, description.symbol_size);
        let sessions = Sessions::new(now, manifest.size, description.symbol_size, description.code);
        let candidates = vec![Candidate { manifest, text: text.to_vec() }];
        let blocks = Blocks::new(layout);
        Self { candidates, is_proven: false, next_evicted: 1, sessions, blocks, heard: now, decodes }
    }

    /// The manifest needs no proof by hashes packets: somebody vouches for it.
    pub(super) fn prove_manifest(&mut self) {
        self.is_proven = true;
    }

    pub(super) fn manifest(&self) -> &Manifest {
        &self.candidates.first().expect("there is always one").manifest
    }

    pub(super) fn key(&self) -> ObjectKey {
        self.manifest().key()
    }

    pub(super) fn heard(&self) -> Time {
        self.heard
    }

    pub(super) fn heard_at(&mut self, now: Time) {
        self.heard = now;
    }

    pub(super) fn prepared(&mut self, now: Time, reused: bool, memory: Box<dyn SlotMemory>) {
        self.heard = now;
        let (id, code) = (self.key().id, self.sessions.code());
        self.blocks.attach(memory, reused, id, code, self.decodes);
    }

    /// There is memory for the symbol size that was changed to.
    pub(super) fn remapped(&mut self, now: Time, memory: Box<dyn SlotMemory>) {
        if !self.blocks.is_attached() {
            self.sessions.ready(now);
            let (id, code) = (self.key().id, self.sessions.code());
            self.blocks.attach_new(memory, id, code);
        }
    }

    pub(super) fn is_complete(&self) -> bool {
        self.blocks.is_complete()
    }

    pub(super) fn progress(&self) -> Progress {
        let layout = self.blocks.layout();
        Progress {
            size: layout.size().bytes(),
            held: self.blocks.held_bytes(),
            blocks: layout.block_count(),
            blocks_verified: self.blocks.verified_count(),
            blocks_counted: self.blocks.counted_count(),
        }
    }

    pub(super) fn verified_value(&self, block: BlockIndex) -> Option<Digest> {
        let is_verified = block.0 < self.blocks.layout().block_count() && self.blocks.state(block) == State::Verified;
        is_verified.then(|| self.blocks.value(block).unwrap_or(self.manifest().digest))
    }

    pub(super) fn missing(&self) -> impl Iterator<Item = (u64, u64)> + '_ {
        let layout = *self.blocks.layout();
        let mut blocks = (0..layout.block_count()).map(BlockIndex).peekable();
        let is_missing = |block: BlockIndex| self.blocks.state(block) != State::Verified;
        std::iter::from_fn(move || {
            let first = blocks.find(|&block| is_missing(block))?;
            let mut last = first;
            while let Some(next) = blocks.next_if(|&block| is_missing(block)) {
                last = next;
            }
            Some((first.offset(), last.offset() + u64::from(layout.block_size(last))))
        })
    }

    /// What this text says, if it has been read before.
    pub(super) fn manifest_of(&self, text: &[u8]) -> Option<&Manifest> {
        self.candidates.iter().find(|candidate| candidate.text == text).map(|candidate| &candidate.manifest)
    }

    /// The symbols of a block are numbered below this: what the text allows, or the format.
    fn esi_end(&self, block: BlockIndex) -> u16 {
        let layout = self.blocks.layout();
        let percent = self.manifest().repair_max.unwrap_or(REPAIR_PERCENT_MAX);
        layout.source_symbol_count(block) + layout.repair_symbol_count(block, percent)
    }

    /// Another text claims the same id and size.
    pub(super) fn add_candidate(&mut self, manifest: Manifest, text: &[u8]) {
        let is_new = self.candidates.iter().all(|candidate| candidate.manifest.digest != manifest.digest);
        if self.is_proven || !is_new {
            return;
        }
        let candidate = Candidate { manifest, text: text.to_vec() };
        if self.candidates.len() < CANDIDATE_COUNT_MAX {
            self.candidates.push(candidate);
            return;
        }
        // The oldest goes: the true text comes again and again, and one hashes packet is enough to decide.
        if let Some(slot) = self.candidates.get_mut(self.next_evicted) {
            *slot = candidate;
        }
        self.next_evicted = (self.next_evicted + 1) % CANDIDATE_COUNT_MAX;
    }

    /// Whether the description is that of the session in use.
    pub(super) fn is_current(&self, description: &SessionDescription) -> bool {
        self.sessions.symbol_size() == description.symbol_size
    }

    pub(super) fn note_description(&mut self, description: &SessionDescription) {
        self.sessions.note(description.symbol_size, description.code);
    }

    /// Keeps the first candidate for which `holds`, and no other. Whether there is one.
    fn decide(&mut self, holds: impl Fn(&Digest) -> bool) -> bool {
        let Some(place) = self.candidates.iter().position(|candidate| holds(&candidate.manifest.digest)) else {
            return false;
        };
        if !self.is_proven {
            self.candidates.swap(0, place);
            self.candidates.truncate(1);
            self.is_proven = true;
        }
        true
    }

    /// Takes the values of a hashes packet; false if they are not those of the object.
    pub(super) fn prove(&mut self, payload: &HashesPayload<'_>) -> bool {
        let blocks = || payload.group.blocks().map(BlockIndex).zip(payload.values());
        let all_known = blocks().all(|(block, value)| self.blocks.value(block) == Some(value));
        if !all_known && !self.decide(|digest| payload.is_proved_by(digest)) {
            return false;
        }
        for (index, (block, value)) in blocks().enumerate() {
            self.blocks.prove(block, value, payload.claims_zero(index));
        }
        true
    }

    pub(super) fn judge_data(
        &mut self,
        now: Time,
        from: SocketAddr,
        symbol: &Symbol<'_>,
        senders: &mut Senders,
    ) -> Result<Placed, DropReason> {
        let Symbol { header, hash, .. } = *symbol;
        let (block, esi) = (header.block, header.esi);
        if header.channel == ChannelId::CONTROL {
            return Err(DropReason::OutOfRange);
        }
        self.heard = now;
        if !self.sessions.admits(now, header.code, header.size_tag, symbol.size) {
            return Err(DropReason::ForeignSession);
        }
        let size = self.blocks.layout().payload_size(block, esi).ok_or(DropReason::OutOfRange)?;
        if esi.0 >= self.esi_end(block) {
            return Err(DropReason::OutOfRange);
        }
        if usize::from(size) != symbol.size {
            return Err(DropReason::WrongSize);
        }
        let sender = senders.heard(now, from, header.channel);
        senders.track(now, sender, header.position);
        if !self.decodes && esi.0 >= self.blocks.layout().source_symbol_count(block) {
            return Err(DropReason::Repair);
        }
        if !self.blocks.is_attached() {
            return Err(DropReason::Remapping);
        }
        if !self.may_fill(now, block, sender, senders) {
            return Err(DropReason::Restricted);
        }
        self.blocks.take(&Arrival { block, esi, size, hash, sender })
    }

    /// Whether a symbol from `sender` may go into the block: into one that has failed only those of whose turn it is may.
    fn may_fill(&mut self, now: Time, block: BlockIndex, sender: SenderIndex, senders: &Senders) -> bool {
        let Some(turn) = self.blocks.turn(block) else { return true };
        if self.blocks.state(block) != State::Open {
            // It takes no symbols from anybody now, and what is being hashed must stay as it is counted.
            return true;
        }
        let used = self.sessions.data_bytes().saturating_sub(turn.began);
        let is_over = senders.is_silent(turn.sender, now) || used > self.turn_allowance(now, block, senders);
        if turn.sender == sender && !is_over {
            return true;
        }
        if !is_over {
            return false;
        }
        // Whoever has the next turn fills the block from the beginning, so that nobody else's symbols spoil it.
        if self.blocks.is_idle_block(block) {
            self.blocks.empty(block);
            self.begin_turn(now, block, senders);
        }
        self.blocks.turn(block).is_none_or(|turn| turn.sender == sender)
    }

    /// A turn lasts for 1.5 passes of whatever comes, and twice as long when all have had theirs: a forger who has one cannot keep
    /// it, and one who floods cannot cut short all those of others.
    fn turn_allowance(&self, now: Time, block: BlockIndex, senders: &Senders) -> u64 {
        let turn_count = u32::try_from(senders.turn_count(now)).unwrap_or(u32::MAX).max(1);
        let doublings = (self.blocks.attempts(block) / turn_count).min(TURN_DOUBLINGS_MAX);
        (self.blocks.layout().size().bytes().saturating_mul(3) / 2).saturating_mul(1 << doublings)
    }

    fn begin_turn(&mut self, now: Time, block: BlockIndex, senders: &Senders) {
        let sender = senders.in_turn(self.blocks.attempts(block), now);
        let began = self.sessions.data_bytes();
        self.blocks.restrict(block, sender.map(|sender| Turn { sender, began }));
    }

    pub(super) fn poll_work(&mut self) -> Option<Work> {
        let size = self.blocks.layout().size();
        let Some((block, state)) = self.blocks.next_work() else {
            let (block, slots) = self.blocks.next_check()?;
            return Some(Work::CheckSlots { block, size, slots });
        };
        match state {
            State::Hashing | State::Checking => Some(Work::Hash { block, size }),
            State::HashingZeroes => Some(Work::HashZeroes { block, size }),
            State::Clearing => Some(Work::Clear { block, size }),
            State::Decoding => {
                let (slots, kept) = self.blocks.symbols(block);
                Some(Work::Decode { block, layout: *self.blocks.layout(), slots, kept })
            }
            State::Writing => Some(Work::WriteDecoded { block, size }),
            State::Open | State::Verified | State::Counted => None,
        }
    }

    /// The value of a block has been computed; `None`: it could not be read, or not be decoded.
    pub(super) fn hashed(
        &mut self,
        now: Time,
        block: BlockIndex,
        value: Option<Digest>,
        senders: &mut Senders,
    ) -> Outcome {
        let state = self.blocks.state(block);
        let is_right = value.is_some_and(|value| match self.blocks.value(block) {
            Some(proven) => proven == value,
            None => self.decide(|digest| *digest == value),
        });
        match (state, is_right) {
            (State::Hashing, true) => {
                self.block_rebuilt(block, senders);
                self.blocks.verified(block);
            }
            (State::Decoding, true) => {
                self.block_rebuilt(block, senders);
                self.blocks.decoded(block);
            }
            (State::Checking, true) => self.blocks.verified(block),
            (State::HashingZeroes, true) => self.blocks.zero_confirmed(block),
            (State::HashingZeroes, false) => self.blocks.zero_refuted(block),
            (State::Checking, false) => self.blocks.check_failed(block),
            (State::Hashing | State::Decoding, false) => {
                // Addresses can be forged, so a failure blames nobody: one stream at a time fills the block next.
                self.blocks.failed(block);
                self.begin_turn(now, block, senders);
                return Outcome::Failed;
            }
            (State::Open | State::Clearing | State::Writing | State::Verified | State::Counted, _) => {}
        }
        Outcome::Settled
    }

    /// A symbol has been written.
    pub(super) fn stored(&mut self, store: &Store) {
        self.blocks.stored(store);
        self.note_counted(store.block);
    }

    /// The caller keeps a symbol, or has no room for it.
    pub(super) fn kept(&mut self, kept: Kept, is_kept: bool) {
        self.blocks.kept(kept, is_kept);
        self.note_counted(kept.block);
    }

    /// Where symbols are only counted, that there are enough of them is all that can be known of a description.
    fn note_counted(&mut self, block: BlockIndex) {
        if self.blocks.state(block) == State::Counted && self.blocks.layout().source_symbol_count(block) >= 2 {
            self.sessions.progress();
        }
    }

    /// What was decoded has been written, or could not be.
    pub(super) fn written(&mut self, block: BlockIndex, is_written: bool) {
        if self.blocks.state(block) != State::Writing {
            return;
        }
        if is_written {
            self.blocks.verified(block);
        } else {
            self.blocks.failed(block);
        }
    }

    /// The symbols of a block have turned out to be right.
    fn block_rebuilt(&mut self, block: BlockIndex, senders: &mut Senders) {
        // A block that was full before the session changed says nothing about the new one.
        if self.blocks.held_count(block) >= 2 {
            self.sessions.progress();
        }
        if let Some(sender) = self.blocks.sole_sender(block) {
            senders.credit(sender);
        }
    }

    /// Goes on to the next session description if this one leads nowhere and nothing is being stored.
    pub(super) fn change_session_if_useless(&mut self, now: Time) -> Option<SymbolSize> {
        if !self.blocks.is_idle() || !self.blocks.is_attached() || !self.sessions.leads_nowhere(now) {
            return None;
        }
        self.sessions.change(now);
        let symbol_size = self.sessions.symbol_size();
        self.blocks.relayout(Layout::new(self.blocks.layout().size(), symbol_size));
        Some(symbol_size)
    }
}
