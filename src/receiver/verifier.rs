//! Which signatures are verified, and when: few enough for a small device, chosen so that forged ones, however many, can delay a true one
//! and never keep it out.
//!
//! What has been verified once is recognised when it comes again, whether it was authentic or false. The rest waits, in bounded
//! memory, until a turn picks one of those that wait at random. Where more come between two turns than can wait, those that do are
//! a fair sample of all of them, and the next turn begins anew: a true one has the share of turns that it has of the packets, in
//! whatever order they come. There are two kinds of turns, equally many: one for addresses that have sent an authentic manifest before
//! (they can be forged as well, but a forger has to know them), one for all others.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use crate::limits::{
    AUTHENTIC_COUNT_MAX, FALSE_SIGNATURE_COUNT_MAX, MANIFEST_SIGNED_SIZE_MAX, UNVERIFIED_COUNT_MAX, VERIFY_INTERVAL,
    VOUCHED_ADDR_COUNT_MAX,
};
use crate::manifest::{self, Manifest, PublicKey, Refusal, Signature, Voucher};
use crate::types::{Digest, Time};
use crate::wire::{Header, ManifestPayload, SessionDescription};

/// A text that somebody vouches for, and what it says.
#[derive(Debug)]
pub(super) struct Authentic {
    hash: Digest,
    pub(super) voucher: Voucher,
    pub(super) manifest: Result<Manifest, Refusal>,
}

/// A manifest packet whose signature waits to be verified.
#[derive(Clone, Debug)]
pub(super) struct Unverified {
    hash: Digest,
    pub(super) from: SocketAddr,
    pub(super) header: Header,
    pub(super) description: SessionDescription,
    text_size: usize,
    signature_size: usize,
    bytes: [u8; MANIFEST_SIGNED_SIZE_MAX],
}

impl Unverified {
    fn new(hash: Digest, from: SocketAddr, header: &Header, payload: &ManifestPayload<'_>) -> Self {
        let signature = payload.signature.map_or(&[][..], |signature| signature.0);
        let mut bytes = [0; MANIFEST_SIGNED_SIZE_MAX];
        let content = payload.text.iter().chain(signature);
        // What has been parsed has no more than fits.
        bytes.iter_mut().zip(content).for_each(|(byte, &value)| *byte = value);
        let (text_size, signature_size) = (payload.text.len(), signature.len());
        Self { hash, from, header: *header, description: payload.description, text_size, signature_size, bytes }
    }

    pub(super) fn text(&self) -> &[u8] {
        self.bytes.get(..self.text_size).unwrap_or_default()
    }

    fn signature(&self) -> &[u8] {
        self.bytes.get(self.text_size..self.text_size + self.signature_size).unwrap_or_default()
    }
}

/// What is known of a text with its signature.
#[derive(Debug)]
pub(super) enum Known {
    /// It has been verified.
    Authentic(Arc<Authentic>),
    /// It has been found to be false.
    False,
    /// Nothing yet.
    New(Digest),
}

/// What became of a manifest that nothing was known of.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Queued {
    /// It waits.
    Waits,
    /// The same waits already.
    Repeated,
    /// It waits in the place of another.
    Displaced,
    /// It was not drawn.
    Rejected,
}

/// One kind of turns, and what waits for them.
#[derive(Debug)]
struct Queue {
    waiting: Vec<Unverified>,
    /// Those that wait are drawn from so many.
    drawn_from: usize,
    next_turn: Time,
}

impl Queue {
    fn new() -> Self {
        Self { waiting: Vec::with_capacity(UNVERIFIED_COUNT_MAX), drawn_from: 0, next_turn: Time::default() }
    }
}

/// All of it.
#[derive(Debug)]
pub(super) struct Verifier {
    keys: Vec<PublicKey>,
    random: Random,
    vouched_addrs: Ring<IpAddr>,
    /// For addresses that have sent an authentic manifest, and for all others.
    queues: [Queue; 2],
    authentic: Ring<Arc<Authentic>>,
    /// Each in the place that its first bytes name.
    false_hashes: Vec<Option<Digest>>,
    /// Those that waited and will have no turn.
    forgotten: u64,
}

impl Verifier {
    pub(super) fn new(keys: Vec<PublicKey>, seed: u64) -> Self {
        Self {
            keys,
            random: Random(seed),
            vouched_addrs: Ring::new(VOUCHED_ADDR_COUNT_MAX),
            queues: [Queue::new(), Queue::new()],
            authentic: Ring::new(AUTHENTIC_COUNT_MAX),
            false_hashes: vec![None; FALSE_SIGNATURE_COUNT_MAX],
            forgotten: 0,
        }
    }

    pub(super) fn has_key(&self, signature: &Signature<'_>) -> bool {
        self.keys.iter().any(|key| key.id() == signature.key_id())
    }

    pub(super) fn recognise(&self, payload: &ManifestPayload<'_>) -> Known {
        let hash = hash_of(payload);
        if let Some(authentic) = self.authentic.items.iter().find(|authentic| authentic.hash == hash) {
            return Known::Authentic(Arc::clone(authentic));
        }
        match self.false_hashes.get(place_of(&hash)) {
            Some(Some(known)) if *known == hash => Known::False,
            _ => Known::New(hash),
        }
    }

    /// Lets a manifest of which nothing is known wait for its turn.
    pub(super) fn queue(
        &mut self,
        hash: Digest,
        from: SocketAddr,
        header: &Header,
        payload: &ManifestPayload<'_>,
    ) -> Queued {
        let is_vouched = self.vouched_addrs.items.contains(&from.ip());
        let [vouched, others] = &mut self.queues;
        let queue = if is_vouched { vouched } else { others };
        if queue.waiting.iter().any(|other| other.hash == hash) {
            return Queued::Repeated;
        }
        // Reservoir sampling (Vitter, 1985, algorithm R).
        queue.drawn_from = queue.drawn_from.saturating_add(1);
        if queue.waiting.len() < UNVERIFIED_COUNT_MAX {
            queue.waiting.push(Unverified::new(hash, from, header, payload));
            return Queued::Waits;
        }
        let place = self.random.below(queue.drawn_from);
        let Some(old) = queue.waiting.get_mut(place) else { return Queued::Rejected };
        *old = Unverified::new(hash, from, header, payload);
        Queued::Displaced
    }

    /// How many of those that waited will have no turn, since this was last asked.
    pub(super) fn take_forgotten(&mut self) -> u64 {
        std::mem::take(&mut self.forgotten)
    }

    /// Verifies one of those that wait, if a turn has come: the packet, and what it proved to be.
    pub(super) fn take_turn(&mut self, now: Time) -> Option<(Unverified, Option<Arc<Authentic>>)> {
        let queue = self.queues.iter_mut().find(|queue| !queue.waiting.is_empty() && now >= queue.next_turn)?;
        queue.next_turn = now.after(VERIFY_INTERVAL);
        let packet = queue.waiting.swap_remove(self.random.below(queue.waiting.len()));
        if queue.drawn_from > UNVERIFIED_COUNT_MAX {
            self.forgotten += queue.waiting.len() as u64;
            queue.waiting.clear();
        }
        queue.drawn_from = queue.waiting.len();
        let voucher = Signature::parse(packet.signature()).ok();
        let voucher = voucher.and_then(|signature| signature.verify(packet.text(), &self.keys).ok());
        let Some(voucher) = voucher else {
            if let Some(place) = self.false_hashes.get_mut(place_of(&packet.hash)) {
                *place = Some(packet.hash);
            }
            return Some((packet, None));
        };
        if !self.vouched_addrs.items.contains(&packet.from.ip()) {
            self.vouched_addrs.push(packet.from.ip());
        }
        let manifest = manifest::parse(packet.text());
        let authentic = Arc::new(Authentic { hash: packet.hash, voucher, manifest });
        self.authentic.push(Arc::clone(&authentic));
        Some((packet, Some(authentic)))
    }

    /// When the next turn comes, if anything waits for one.
    pub(super) fn poll_timeout(&self) -> Option<Time> {
        let busy = self.queues.iter().filter(|queue| !queue.waiting.is_empty());
        busy.map(|queue| queue.next_turn).min()
    }
}

/// What tells a text with its signature from all others.
fn hash_of(payload: &ManifestPayload<'_>) -> Digest {
    let mut hasher = blake3::Hasher::new();
    let signature = payload.signature.map_or(&[][..], |signature| signature.0);
    hasher.update(&(payload.text.len() as u64).to_be_bytes()).update(payload.text).update(signature);
    Digest(hasher.finalize().into())
}

fn place_of(hash: &Digest) -> usize {
    let [first, second, ..] = hash.0;
    usize::from(u16::from_be_bytes([first, second])) % FALSE_SIGNATURE_COUNT_MAX
}

/// The last so many things.
#[derive(Debug)]
struct Ring<T> {
    items: Vec<T>,
    next: usize,
    count_max: usize,
}

impl<T> Ring<T> {
    fn new(count_max: usize) -> Self {
        Self { items: Vec::with_capacity(count_max), next: 0, count_max }
    }

    fn push(&mut self, item: T) {
        match self.items.get_mut(self.next) {
            Some(oldest) => *oldest = item,
            None => self.items.push(item),
        }
        self.next = (self.next + 1) % self.count_max;
    }
}

/// Splitmix64 (Steele, Lea and Flood, 2014): nobody sees what it answers.
#[derive(Debug)]
struct Random(u64);

impl Random {
    /// From 0 to `end` - 1; 0 if `end` is 0.
    fn below(&mut self, end: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^= z >> 31;
        usize::try_from(z % (end.max(1) as u64)).unwrap_or(0)
    }
}
