//! The receiver: what a datagram changes, where its symbol belongs, and when the object is whole (docs/PROTOCOL.md, sections 4
//! to 7). A machine without I/O: it takes time, datagrams and completions, and answers with values.
//!
//! A symbol goes this way: `handle_datagram` answers `Verdict::Store`, the caller writes the payload and says so by
//! `handle_stored`; when a block has enough of them, `poll_work` asks for its value, `handle_hashed` brings it. Where not all symbols are
//! in their own places, the caller decodes the block in memory, and writes it only after its value proved right (`Work::WriteDecoded`).
//! Nothing is stored before `Action::Prepare` has been answered by `handle_prepared`, and nothing is right before a digest says so.
//!
//! What is in every slot is noted in memory that outlives the process (`slots`), so that a receiver that is killed goes on where it was.

mod authentic;
mod bits;
mod blocks;
mod counts;
mod judge;
mod loss;
mod object;
mod senders;
mod sessions;
mod slots;
mod trust;
mod verifier;
mod waiting;
mod work;

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::time::Duration;

pub use counts::{Counts, DropReason};
pub use loss::LossTracker;
pub use senders::SenderEntry;
pub use slots::{DecodedNotes, SlotEntry, SlotMemory, hash_of, plain_memory};
pub use trust::{ClockUnset, Distrust, Trust};
pub use waiting::Waiting;
pub use work::Work;

use crate::limits::{OBJECT_SILENCE_MAX, SILENCE_NOTICE};
use crate::manifest::{Manifest, Refusal};
use crate::types::{BlockIndex, Digest, Esi, ObjectKey, ObjectSize, SymbolSize, Time};
use judge::Purpose;
use object::Object;
use senders::Senders;

/// Notices that wait to be shown at most; more are dropped.
const NOTICE_COUNT_MAX: usize = 32;

/// What a receiver is asked to do.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ReceiverConfig {
    /// Refuse objects of more bytes.
    pub size_max: u64,
    /// Give up after so long.
    pub timeout: Option<Duration>,
    /// Give up after so long without a packet.
    pub idle_timeout: Option<Duration>,
    /// Use repair symbols. If not, an object is completed from source symbols alone.
    pub decode: bool,
}

/// What became of a datagram.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Verdict {
    /// Its payload is to be written, then reported by `handle_stored` or `handle_store_failed`.
    Store(Store),
    /// Its payload is to be kept in memory, or not if there is no room, and then reported by `handle_kept`.
    Keep(Kept),
    /// It was a manifest or hashes packet, or is kept until a manifest comes.
    Taken,
    /// It changed nothing.
    Dropped(DropReason),
}

/// Where a payload belongs: `payload` is the datagram without its header.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Store {
    /// The block.
    pub block: BlockIndex,
    /// The symbol.
    pub esi: Esi,
    /// The slot of the block to which it goes.
    pub slot: u16,
    /// Its first byte in the object.
    pub offset: u64,
    /// Its bytes.
    pub size: u16,
    /// [`hash_of`] its payload.
    pub hash: u16,
}

/// A symbol for which no slot is free that it fits into, and with which its block has enough.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Kept {
    /// The block.
    pub block: BlockIndex,
    /// The symbol.
    pub esi: Esi,
}

/// What the caller must do next. Each is asked for once.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Action {
    /// A manifest has been accepted: create the target, then call `handle_prepared`. If one was accepted before, this one takes its
    /// place: answers to what was asked for until now are void, and must not be given any more.
    Prepare {
        /// What will be received.
        manifest: Box<Manifest>,
        /// The symbol size with which it begins.
        symbol_size: SymbolSize,
        /// The words that its map needs.
        word_count: usize,
    },
    /// Symbols have another size from now on: make memory for another map, then call `handle_remapped`. What was in the one before is
    /// of no use any more.
    Remap {
        /// The words that the map needs.
        word_count: usize,
    },
    /// Every byte is verified: sync and rename the target.
    Commit,
    /// There is no point in going on.
    GiveUp(GiveUp),
}

/// Why a receiver ends without the object.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum GiveUp {
    /// The time is over.
    Timeout,
    /// Nothing has come for the time allowed.
    IdleTimeout,
    /// The accepted object is no longer sent, but another is.
    Superseded {
        /// The object that was accepted.
        accepted: ObjectKey,
        /// The object that is being sent.
        other: ObjectKey,
    },
}

/// Something that people should be told.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Notice {
    /// A manifest was refused; said for the first one only.
    ManifestRefused(Refusal),
    /// An object larger than allowed is being sent; said for the first one only.
    TooLarge {
        /// Its size.
        size: ObjectSize,
        /// The largest that is allowed.
        size_max: u64,
    },
    /// A manifest is not trusted; said for the first one of each reason.
    Distrusted(Distrust),
    /// A manifest that expires is taken although the clock has not been set; said for the first one only.
    ExpiryUnknown,
    /// The accepted object is no longer sent, and a newer one takes its place.
    Succeeded {
        /// The version that was accepted.
        old: u64,
        /// The version that is accepted now.
        new: u64,
    },
    /// The bytes of a block did not have its digest.
    BlockFailed(BlockIndex),
    /// A session description led nowhere, the next is tried.
    SessionChanged(SymbolSize),
    /// No packet has come for five seconds.
    Silent,
    /// Packets come again.
    HeardAgain,
}

/// How far a transfer is.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Progress {
    /// Bytes of the object; 0 before a manifest was accepted.
    pub size: u64,
    /// Bytes of verified and of counted blocks, and of symbols held.
    pub held: u64,
    /// Blocks of the object.
    pub blocks: u32,
    /// Blocks that are verified.
    pub blocks_verified: u32,
    /// Blocks of which enough symbols have come, where they are only counted. Nothing is known of their bytes.
    pub blocks_counted: u32,
}

#[derive(Debug)]
enum Phase {
    /// No manifest has been accepted.
    Waiting,
    /// One has, and the target is being made.
    Preparing(Box<Object>),
    /// Symbols are being stored.
    Receiving(Box<Object>),
    /// Every byte is verified.
    Complete(Box<Object>),
}

/// One transfer.
#[derive(Debug)]
pub struct Receiver {
    config: ReceiverConfig,
    purpose: Purpose,
    /// What it needs to tell who vouches for a manifest; `None`: anybody may.
    signed: Option<Box<authentic::Signed>>,
    phase: Phase,
    waiting: Waiting,
    senders: Senders,
    counts: Counts,
    notices: VecDeque<Notice>,
    said_refused: bool,
    said_too_large: bool,
    said_silent: bool,
    action: Option<Action>,
    /// The words of a map that is to be asked for.
    remap: Option<usize>,
    given_up: bool,
    started: Time,
    heard: Time,
    /// When `handle_timeout` was last called.
    handled: Time,
    /// Another object than the accepted one, and when it was last heard.
    other: Option<(ObjectKey, Time)>,
}

impl Receiver {
    /// A receiver that starts at `now`.
    #[must_use]
    pub fn new(now: Time, config: ReceiverConfig) -> Self {
        Self {
            config,
            purpose: Purpose::Store,
            signed: None,
            phase: Phase::Waiting,
            waiting: Waiting::new(),
            senders: Senders::new(),
            counts: Counts::default(),
            notices: VecDeque::with_capacity(NOTICE_COUNT_MAX),
            said_refused: false,
            said_too_large: false,
            said_silent: false,
            action: None,
            remap: None,
            given_up: false,
            started: now,
            heard: now,
            handled: now,
            other: None,
        }
    }

    /// The same, but one that only counts symbols. It judges them like any other; the caller stores and keeps nothing, and says at once
    /// that it has. No memory is needed for a map. Of work it asks for `Work::HashZeroes` alone, and nothing else is ever verified, so that
    /// `Action::Commit` comes only for an object without data: whether it is done, [`has_enough`](Self::has_enough) tells.
    #[must_use]
    pub fn counting(self) -> Self {
        Self { purpose: Purpose::Count, ..self }
    }

    /// Whether enough symbols of every block have come, of a receiver that only counts.
    #[must_use]
    pub fn has_enough(&self) -> bool {
        matches!(&self.phase, Phase::Receiving(object) | Phase::Complete(object) if object.blocks.has_enough())
    }

    /// What happened to all datagrams.
    #[must_use]
    pub fn counts(&self) -> &Counts {
        &self.counts
    }

    /// The streams that were heard.
    #[must_use]
    pub fn senders(&self) -> &[SenderEntry] {
        self.senders.entries()
    }

    /// The accepted manifest.
    #[must_use]
    pub fn manifest(&self) -> Option<&Manifest> {
        self.object().map(Object::manifest)
    }

    fn object(&self) -> Option<&Object> {
        match &self.phase {
            Phase::Waiting => None,
            Phase::Preparing(object) | Phase::Receiving(object) | Phase::Complete(object) => Some(object),
        }
    }

    /// How far it is.
    #[must_use]
    pub fn progress(&self) -> Progress {
        self.object().map(Object::progress).unwrap_or_default()
    }

    /// Byte ranges of the object that are not verified, ascending and joined, as (first, end).
    pub fn missing(&self) -> impl Iterator<Item = (u64, u64)> + '_ {
        self.object().into_iter().flat_map(Object::missing)
    }

    /// The value of a block, if that is verified; of an object of one block, the digest.
    #[must_use]
    pub fn verified_value(&self, block: BlockIndex) -> Option<Digest> {
        self.object()?.verified_value(block)
    }

    /// The target is ready; `reused`: it had the object's size before, so that its bytes may be right. `memory` has the words that were
    /// asked for, with whatever an earlier attempt left in them. The answer holds the data packets that came early: hand each to
    /// `handle_datagram` now.
    ///
    /// # Panics
    /// If the memory does not have as many words as were asked for.
    pub fn handle_prepared(&mut self, now: Time, reused: bool, memory: Box<dyn SlotMemory>) -> Waiting {
        if let Phase::Preparing(mut object) = std::mem::replace(&mut self.phase, Phase::Waiting) {
            if self.purpose == Purpose::Count {
                object.blocks.count_only();
            }
            object.prepared(now, reused, memory);
            self.phase = Phase::Receiving(object);
            self.settle();
        }
        let early = std::mem::replace(&mut self.waiting, Waiting::closed());
        // They are about to be counted again.
        self.counts.forget(&early);
        early
    }

    /// The answer to `Action::Remap`: memory with the words that were asked for, whatever is in them.
    ///
    /// # Panics
    /// If the memory does not have as many words as were asked for.
    pub fn handle_remapped(&mut self, now: Time, memory: Box<dyn SlotMemory>) {
        if let Phase::Receiving(object) = &mut self.phase {
            object.remapped(now, memory);
        }
    }

    /// Symbols have been written.
    pub fn handle_stored(&mut self, stores: &[Store]) {
        if let Phase::Receiving(object) = &mut self.phase {
            stores.iter().for_each(|store| object.stored(store));
        }
    }

    /// A symbol could not be written; what is in its slot now does not matter.
    pub fn handle_store_failed(&mut self, store: &Store) {
        if let Phase::Receiving(object) = &mut self.phase {
            object.blocks.store_failed(store);
        }
    }

    /// A symbol is kept; or not, for want of room: then it is needed again.
    pub fn handle_kept(&mut self, kept: Kept, is_kept: bool) {
        if let Phase::Receiving(object) = &mut self.phase {
            object.kept(kept, is_kept);
        }
    }

    /// Whether a symbol that was kept is still of use.
    #[must_use]
    pub fn keeps(&self, kept: Kept) -> bool {
        matches!(&self.phase, Phase::Receiving(object) if object.blocks.keeps(kept))
    }

    /// An interval ends in which this host dropped so many packets or buffers, before anybody could judge them: what streams lost in it is
    /// put down to the host. To be called several times a second, with 0 as well.
    pub fn handle_host_drops(&mut self, count: u64) {
        self.senders.end_interval(count > 0);
    }

    /// Goes over to `Complete` when every block is verified.
    fn settle(&mut self) {
        if !matches!(&self.phase, Phase::Receiving(object) if object.is_complete()) {
            return;
        }
        if let Phase::Receiving(object) = std::mem::replace(&mut self.phase, Phase::Waiting) {
            self.phase = Phase::Complete(object);
            self.action = Some(Action::Commit);
        }
    }

    /// The next thing that the caller must do.
    pub fn poll_action(&mut self) -> Option<Action> {
        self.action.take().or_else(|| self.remap.take().map(|word_count| Action::Remap { word_count }))
    }

    /// The next thing to tell people.
    pub fn poll_notice(&mut self) -> Option<Notice> {
        self.notices.pop_front()
    }

    fn notice(&mut self, notice: Notice) {
        if self.notices.len() < NOTICE_COUNT_MAX {
            self.notices.push_back(notice);
        }
    }

    /// The moment at which `handle_timeout` has something to do, at the latest.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Time> {
        if self.given_up || matches!(self.phase, Phase::Complete(_)) {
            return None;
        }
        let silence = (!self.said_silent).then(|| self.heard.after(SILENCE_NOTICE));
        // Only if the other object will then still count as living: else its next packet is what there is to wait for.
        let superseded = self.object().zip(self.other).and_then(|(object, (_, other_heard))| {
            let at = object.heard().after(OBJECT_SILENCE_MAX);
            (at > self.handled && at.since(other_heard) < OBJECT_SILENCE_MAX / 2).then_some(at)
        });
        let timeout = self.config.timeout.map(|timeout| self.started.after(timeout));
        let idle = self.config.idle_timeout.map(|timeout| self.heard.after(timeout));
        [silence, superseded, timeout, idle, self.poll_trust_timeout()].into_iter().flatten().min()
    }

    /// Time has passed. To be called after each batch of datagrams as well.
    pub fn handle_timeout(&mut self, now: Time) {
        if self.given_up || matches!(self.phase, Phase::Complete(_)) {
            return;
        }
        self.handled = now;
        if let Some(reason) = self.reason_to_give_up(now) {
            self.given_up = true;
            self.action = Some(Action::GiveUp(reason));
            return;
        }
        if !self.said_silent && now.since(self.heard) >= SILENCE_NOTICE {
            self.said_silent = true;
            self.notice(Notice::Silent);
        }
        self.handle_trust_timeout(now);
        if let Phase::Receiving(object) = &mut self.phase
            && let Some(symbol_size) = object.change_session_if_useless(now)
        {
            self.remap = (!object.blocks.is_attached()).then(|| object.blocks.word_count());
            self.notice(Notice::SessionChanged(symbol_size));
        }
    }

    fn reason_to_give_up(&self, now: Time) -> Option<GiveUp> {
        let is_over = |since: Time, limit: Option<Duration>| limit.is_some_and(|limit| now.since(since) >= limit);
        if is_over(self.started, self.config.timeout) {
            return Some(GiveUp::Timeout);
        }
        if is_over(self.heard, self.config.idle_timeout) {
            return Some(GiveUp::IdleTimeout);
        }
        let object = self.object()?;
        let (other, other_heard) = self.other?;
        let superseded =
            now.since(object.heard()) >= OBJECT_SILENCE_MAX && now.since(other_heard) < OBJECT_SILENCE_MAX / 2;
        superseded.then_some(GiveUp::Superseded { accepted: object.key(), other })
    }

    fn heard_something(&mut self, now: Time) {
        self.heard = now;
        if self.said_silent {
            self.said_silent = false;
            self.notice(Notice::HeardAgain);
        }
    }

    /// A datagram came from `from`.
    pub fn handle_datagram(&mut self, now: Time, from: SocketAddr, datagram: &[u8]) -> Verdict {
        self.counts.datagrams += 1;
        self.counts.bytes += datagram.len() as u64;
        let verdict = self.judge(now, from, datagram);
        match verdict {
            Verdict::Dropped(reason) => self.counts.drop(reason),
            Verdict::Store(_) | Verdict::Keep(_) => self.counts.stored += 1,
            Verdict::Taken => {}
        }
        verdict
    }
}

#[cfg(test)]
mod tests;
