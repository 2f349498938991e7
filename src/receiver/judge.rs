//! What a datagram means to the receiver as it is now (docs/PROTOCOL.md, section 4): the first rule that it breaks, or what it
//! changes.

use std::net::SocketAddr;

use super::blocks::Placed;
use super::object::{Object, Symbol};
use super::slots::hash_of;
use super::{Action, DropReason, Notice, Phase, Receiver, Verdict};
use crate::manifest::{self, Manifest, Refusal};
use crate::types::{ChannelId, ObjectKey, ObjectSize, Time};
use crate::wire::{Header, ManifestPayload, Packet, SessionDescription, parse_hashed};

/// What a receiver is there for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Purpose {
    /// To get an object.
    Store,
    /// To count what comes of one.
    Count,
    /// To hear of one.
    Watch,
}

impl Receiver {
    pub(super) fn judge(&mut self, now: Time, from: SocketAddr, datagram: &[u8]) -> Verdict {
        let (header, packet, hash) = match parse_hashed(datagram) {
            Ok(parsed) => parsed,
            Err(malformed) => return Verdict::Dropped(malformed.into()),
        };
        self.heard_something(now);
        if self.purpose != Purpose::Watch && is_announcement(&header, &packet) {
            return Verdict::Dropped(DropReason::Announcement);
        }
        self.note_rival(header.key);
        if let Some(accepted) = self.object().map(Object::key)
            && accepted != header.key
        {
            return self.judge_foreign(now, from, &header, &packet);
        }
        match packet {
            Packet::Manifest(payload) => self.judge_manifest(now, from, header.key, &header, &payload),
            Packet::Data(payload) => {
                let symbol = Symbol { header: &header, size: payload.len(), hash: hash_of(hash) };
                self.judge_data(now, from, datagram, &symbol)
            }
            Packet::Hashes(payload) => match &mut self.phase {
                Phase::Receiving(object) => {
                    if !object.prove(&payload) {
                        return Verdict::Dropped(DropReason::Unproved);
                    }
                    object.heard_at(now);
                    self.counts.hashes += 1;
                    Verdict::Taken
                }
                Phase::Waiting | Phase::Preparing(_) => Verdict::Dropped(DropReason::Early),
                Phase::Complete(_) => Verdict::Dropped(DropReason::Done),
            },
        }
    }

    fn judge_data(&mut self, now: Time, from: SocketAddr, datagram: &[u8], symbol: &Symbol<'_>) -> Verdict {
        let verdict = match &mut self.phase {
            Phase::Receiving(object) => object.judge_data(now, from, symbol, &mut self.senders),
            Phase::Waiting | Phase::Preparing(_) => {
                // The stream's place in the table, so that a description that comes now already holds for it.
                self.senders.heard(now, from, symbol.header.channel);
                match self.waiting.keep(from, datagram) {
                    true => return Verdict::Taken,
                    false => Err(DropReason::WaitingFull),
                }
            }
            Phase::Complete(_) => Err(DropReason::Done),
        };
        match verdict {
            Ok(Placed::Store(store)) => Verdict::Store(store),
            Ok(Placed::Keep(kept)) => Verdict::Keep(kept),
            Err(reason) => Verdict::Dropped(reason),
        }
    }

    /// A packet of another object than the accepted one: of no use, unless it is a manifest that shows that a newer version is sent.
    fn judge_foreign(&mut self, now: Time, from: SocketAddr, header: &Header, packet: &Packet<'_>) -> Verdict {
        if let (Packet::Manifest(payload), true) = (packet, self.signed.is_some()) {
            return self.judge_signature(now, from, header, payload);
        }
        self.note_foreign(now, header.key);
        Verdict::Dropped(DropReason::ForeignObject)
    }

    fn judge_manifest(
        &mut self,
        now: Time,
        from: SocketAddr,
        key: ObjectKey,
        header: &Header,
        payload: &ManifestPayload<'_>,
    ) -> Verdict {
        let known = self.object().and_then(|object| object.manifest_of(payload.text));
        match known.map(|manifest| agrees(manifest, key, payload)) {
            Some(true) => {}
            Some(false) => return Verdict::Dropped(DropReason::ManifestRefused),
            None if self.signed.is_some() => return self.judge_signature(now, from, header, payload),
            None => match self.read_manifest(key, payload) {
                Ok(manifest) => self.accept(now, manifest, payload),
                Err(verdict) => return verdict,
            },
        }
        self.note_manifest(now, from, header, &payload.description);
        Verdict::Taken
    }

    /// A manifest of the accepted object came: what it says of the session.
    pub(super) fn note_manifest(
        &mut self,
        now: Time,
        from: SocketAddr,
        header: &Header,
        description: &SessionDescription,
    ) {
        if let Some(object) = self.object_mut() {
            object.heard_at(now);
            object.note_description(description);
        }
        self.senders.heard(now, from, header.channel);
        // Positions of another symbol size count something else.
        let is_current = self.object().is_some_and(|object| object.is_current(description));
        for entry in description.channels().iter().filter(|_| is_current) {
            self.senders.describe(from, entry.channel, entry.cycle_length);
        }
        self.counts.manifests += 1;
    }

    fn object_mut(&mut self) -> Option<&mut Object> {
        match &mut self.phase {
            Phase::Waiting => None,
            Phase::Preparing(object) | Phase::Receiving(object) | Phase::Complete(object) => Some(object),
        }
    }

    fn read_manifest(&mut self, key: ObjectKey, payload: &ManifestPayload<'_>) -> Result<Manifest, Verdict> {
        let manifest = manifest::parse(payload.text).map_err(|refusal| self.refuse_text(refusal))?;
        if !agrees(&manifest, key, payload) {
            return Err(Verdict::Dropped(DropReason::ManifestRefused));
        }
        match self.refuse_size(manifest.size) {
            Some(verdict) => Err(verdict),
            None => Ok(manifest),
        }
    }

    /// A text is not one of a manifest.
    pub(super) fn refuse_text(&mut self, refusal: Refusal) -> Verdict {
        if !self.said_refused {
            self.said_refused = true;
            self.notice(Notice::ManifestRefused(refusal));
        }
        Verdict::Dropped(DropReason::ManifestRefused)
    }

    /// Refuses objects that are larger than allowed.
    pub(super) fn refuse_size(&mut self, size: ObjectSize) -> Option<Verdict> {
        let size_max = self.config.size_max;
        if size.bytes() <= size_max {
            return None;
        }
        if !self.said_too_large {
            self.said_too_large = true;
            self.notice(Notice::TooLarge { size, size_max });
        }
        Some(Verdict::Dropped(DropReason::TooLarge))
    }

    /// There is room for objects of other sizes than when it began. Those that were too large are looked at again when they are next
    /// announced.
    pub fn handle_room(&mut self, size_max: u64) {
        self.config.size_max = size_max;
    }

    /// The first manifest decides the object; others of the same id and size are candidates until a proof decides.
    fn accept(&mut self, now: Time, manifest: Manifest, payload: &ManifestPayload<'_>) {
        match self.object_mut() {
            Some(object) => object.add_candidate(manifest, payload.text),
            None => self.begin(now, manifest, payload.text, &payload.description),
        }
    }

    /// From now on it is about this object, whatever it was about before.
    pub(super) fn begin(&mut self, now: Time, manifest: Manifest, text: &[u8], description: &SessionDescription) {
        let symbol_size = description.symbol_size;
        let boxed = Box::new(manifest.clone());
        let object = Object::new(now, manifest, text, description, self.config.decode);
        self.action = Some(Action::Prepare { manifest: boxed, symbol_size, word_count: object.blocks.word_count() });
        self.phase = Phase::Preparing(Box::new(object));
    }
}

/// Whether the packet is for those who wait for news (docs/PROTOCOL.md, section 8.1): the data of its object comes elsewhere.
fn is_announcement(header: &Header, packet: &Packet<'_>) -> bool {
    let Packet::Manifest(payload) = packet else { return false };
    header.channel == ChannelId::CONTROL && payload.description.channels().iter().any(|entry| entry.group.is_some())
}

/// Whether header and session description are what the text allows.
pub(super) fn agrees(manifest: &Manifest, key: ObjectKey, payload: &ManifestPayload<'_>) -> bool {
    let description = &payload.description;
    manifest.key() == key
        && manifest.symbol_size.is_none_or(|size| size == description.symbol_size)
        && manifest.code.is_none_or(|code| code == description.code)
        && manifest.repair_max.is_none_or(|percent| percent >= description.repair_percent)
}
