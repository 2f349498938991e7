//! A receiver that was given keys: nothing is accepted before a manifest is authentic and may be trusted, and of those that are offered at
//! the same time the newest is (docs/PROTOCOL.md, section 5.4).

use std::net::SocketAddr;

use super::judge::{Purpose, agrees};
use super::trust::{Distrust, Expiry, Trust};
use super::verifier::{Authentic, Known, Queued, Unverified, Verifier};
use super::{DropReason, Notice, Phase, Receiver, ReceiverConfig, Verdict, Waiting};
use crate::limits::{CHOICE_TIME, CHOICE_TIME_MAX, RIVAL_COUNT_MAX, SUCCESSION_SILENCE_MAX};
use crate::manifest::{Manifest, Signature, Voucher};
use crate::types::{ObjectKey, Time};
use crate::wire::{Header, ManifestPayload, SessionDescription};

/// Objects whose manifests have been judged that are remembered while one is chosen.
const JUDGED_COUNT_MAX: usize = 16;

/// What only a receiver with keys has.
#[derive(Debug)]
pub(super) struct Signed {
    trust: Trust,
    verifier: Verifier,
    unix_seconds: u64,
    /// A bit for each reason of which people have been told.
    said: u32,
    said_expiry_unknown: bool,
    /// The newest that has been offered, and when the first was.
    choice: Option<(Offer, Time)>,
    rivals: Rivals,
    /// Who vouches for the accepted manifest.
    voucher: Option<Voucher>,
    /// A newer one than the accepted, and when its object was last heard.
    successor: Option<(Offer, Time)>,
}

impl Signed {
    fn new(trust: Trust) -> Self {
        Self {
            verifier: Verifier::new(trust.keys.clone(), trust.seed),
            trust,
            unix_seconds: 0,
            said: 0,
            said_expiry_unknown: false,
            choice: None,
            rivals: Rivals::default(),
            voucher: None,
            successor: None,
        }
    }

    /// When the choice ends.
    fn choice_due(&self) -> Option<Time> {
        let (_, since) = self.choice.as_ref()?;
        Some(since.after(if self.rivals.are_judged() { CHOICE_TIME } else { CHOICE_TIME_MAX }))
    }
}

/// A manifest that may be accepted, and a session that sends its object.
#[derive(Debug)]
struct Offer {
    manifest: Manifest,
    text: Vec<u8>,
    description: SessionDescription,
    voucher: Voucher,
}

/// A manifest packet whose text is authentic.
struct Packet<'a> {
    from: SocketAddr,
    header: &'a Header,
    payload: &'a ManifestPayload<'a>,
}

/// The objects of which packets have come.
#[derive(Debug, Default)]
struct Rivals {
    unjudged: Vec<ObjectKey>,
    judged: Vec<ObjectKey>,
    /// There were more than can be remembered.
    are_many: bool,
}

impl Rivals {
    fn heard(&mut self, key: ObjectKey) {
        if self.are_many || self.judged.contains(&key) || self.unjudged.contains(&key) {
            return;
        }
        if self.unjudged.len() < RIVAL_COUNT_MAX {
            self.unjudged.push(key);
        } else {
            self.are_many = true;
        }
    }

    fn judged(&mut self, key: ObjectKey) {
        self.unjudged.retain(|other| *other != key);
        if self.judged.len() < JUDGED_COUNT_MAX && !self.judged.contains(&key) {
            self.judged.push(key);
        }
    }

    fn are_judged(&self) -> bool {
        self.unjudged.is_empty() && !self.are_many
    }
}

impl Receiver {
    /// A receiver that starts at `now` and accepts only what `trust` allows.
    ///
    /// # Panics
    /// If there is no key.
    #[must_use]
    pub fn with_trust(now: Time, config: ReceiverConfig, trust: Trust) -> Self {
        assert!(!trust.keys.is_empty(), "trust needs a key");
        Self { signed: Some(Box::new(Signed::new(trust))), ..Self::new(now, config) }
    }

    /// The same, but one that only waits for news: it takes announcements (docs/PROTOCOL.md, section 8.1) and keeps no data. Its
    /// `Action::Prepare` says which object is worth receiving, and it is of no use afterwards.
    ///
    /// # Panics
    /// If there is no key.
    #[must_use]
    pub fn watching(now: Time, config: ReceiverConfig, trust: Trust) -> Self {
        Self { purpose: Purpose::Watch, waiting: Waiting::closed(), ..Self::with_trust(now, config, trust) }
    }

    /// Who vouches for the accepted manifest, where somebody must.
    #[must_use]
    pub fn voucher(&self) -> Option<&Voucher> {
        self.signed.as_ref()?.voucher.as_ref()
    }

    /// The clock on the wall says so many seconds since 1970. A receiver with keys needs to be told, and now and then again.
    pub fn handle_wall_clock(&mut self, unix_seconds: u64) {
        if let Some(signed) = &mut self.signed {
            signed.unix_seconds = unix_seconds;
        }
    }

    /// A packet of this object has come.
    pub(super) fn note_rival(&mut self, key: ObjectKey) {
        if let (Some(signed), Phase::Waiting) = (&mut self.signed, &self.phase) {
            signed.rivals.heard(key);
        }
    }

    /// A packet of another object than the accepted one, and no manifest.
    pub(super) fn note_foreign(&mut self, now: Time, key: ObjectKey) {
        let Some(signed) = &mut self.signed else {
            self.other = Some((key, now));
            return;
        };
        // Nobody vouches for the packet, but somebody did for the object, or it is not noted.
        if let Some((other, heard)) = &mut self.other
            && *other == key
        {
            *heard = now;
        }
        if let Some((offer, heard)) = &mut signed.successor
            && offer.manifest.key() == key
        {
            *heard = now;
        }
    }

    /// Judges a manifest packet whose text is not the accepted one.
    pub(super) fn judge_signature(
        &mut self,
        now: Time,
        from: SocketAddr,
        header: &Header,
        payload: &ManifestPayload<'_>,
    ) -> Verdict {
        let Some(signed) = self.signed.as_mut().filter(|_| !matches!(self.phase, Phase::Complete(_))) else {
            return Verdict::Dropped(DropReason::Done);
        };
        let Some(bytes) = payload.signature else { return self.distrust(Distrust::Unsigned) };
        let Ok(signature) = Signature::parse(bytes.0) else { return self.distrust(Distrust::WrongSignature) };
        if !signed.verifier.has_key(&signature) {
            return self.distrust(Distrust::UnknownKey(signature.key_id()));
        }
        match signed.verifier.recognise(payload) {
            Known::Authentic(authentic) => self.judge_authentic(now, &authentic, &Packet { from, header, payload }),
            Known::False => Verdict::Dropped(DropReason::WrongSignature),
            Known::New(hash) => {
                let queued = signed.verifier.queue(hash, from, header, payload);
                if queued == Queued::Displaced {
                    self.counts.drop(DropReason::Unverified);
                }
                self.verify(now);
                match queued {
                    Queued::Waits | Queued::Displaced => Verdict::Taken,
                    Queued::Repeated | Queued::Rejected => Verdict::Dropped(DropReason::Unverified),
                }
            }
        }
    }

    /// Verifies what waits for it, as far as turns have come.
    fn verify(&mut self, now: Time) {
        while let Some((unverified, found)) = self.signed.as_mut().and_then(|signed| signed.verifier.take_turn(now)) {
            let verdict = match found {
                None => self.distrust(Distrust::WrongSignature),
                Some(authentic) => {
                    let Unverified { from, header, description, .. } = &unverified;
                    let payload =
                        ManifestPayload { description: *description, text: unverified.text(), signature: None };
                    self.judge_authentic(now, &authentic, &Packet { from: *from, header, payload: &payload })
                }
            };
            if let Verdict::Dropped(reason) = verdict {
                self.counts.drop(reason);
            }
        }
        let forgotten = self.signed.as_mut().map_or(0, |signed| signed.verifier.take_forgotten());
        (0..forgotten).for_each(|_| self.counts.drop(DropReason::Unverified));
    }

    fn judge_authentic(&mut self, now: Time, authentic: &Authentic, packet: &Packet<'_>) -> Verdict {
        let Some(signed) = &mut self.signed else { return Verdict::Dropped(DropReason::ManifestRefused) };
        let manifest = match &authentic.manifest {
            Ok(manifest) => manifest,
            Err(refusal) => return self.refuse_text(refusal.clone()),
        };
        signed.rivals.judged(manifest.key());
        if !agrees(manifest, packet.header.key, packet.payload) {
            return Verdict::Dropped(DropReason::ManifestRefused);
        }
        match signed.trust.judge(manifest, signed.unix_seconds) {
            Ok(Expiry::Judged) => {}
            Ok(Expiry::Unknown) if signed.said_expiry_unknown => {}
            Ok(Expiry::Unknown) => {
                signed.said_expiry_unknown = true;
                self.notice(Notice::ExpiryUnknown);
            }
            Err(distrust) => return self.distrust(distrust),
        }
        if let Some(verdict) = self.refuse_size(manifest.size) {
            return verdict;
        }
        match self.manifest().map(|accepted| (accepted.key(), accepted.version)) {
            None => self.offer(now, authentic, manifest, packet),
            Some((key, _)) if key == manifest.key() => {
                self.note_manifest(now, packet.from, packet.header, &packet.payload.description);
                Verdict::Taken
            }
            Some((_, version)) => {
                self.other = Some((manifest.key(), now));
                if manifest.version > version {
                    self.note_successor(now, authentic, manifest, packet);
                }
                Verdict::Dropped(DropReason::ForeignObject)
            }
        }
    }

    fn offer(&mut self, now: Time, authentic: &Authentic, manifest: &Manifest, packet: &Packet<'_>) -> Verdict {
        let Some(signed) = &mut self.signed else { return Verdict::Dropped(DropReason::ManifestRefused) };
        self.senders.heard(now, packet.from, packet.header.channel);
        self.counts.manifests += 1;
        match &mut signed.choice {
            Some((offer, _)) if offer.manifest.version >= manifest.version => {}
            Some((offer, _)) => *offer = Offer::new(authentic, manifest, packet),
            choice => *choice = Some((Offer::new(authentic, manifest, packet), now)),
        }
        Verdict::Taken
    }

    fn note_successor(&mut self, now: Time, authentic: &Authentic, manifest: &Manifest, packet: &Packet<'_>) {
        let Some(signed) = &mut self.signed else { return };
        match &mut signed.successor {
            Some((offer, heard)) if offer.text == packet.payload.text => *heard = now,
            Some((offer, heard))
                if offer.manifest.version >= manifest.version && now.since(*heard) < SUCCESSION_SILENCE_MAX => {}
            successor => *successor = Some((Offer::new(authentic, manifest, packet), now)),
        }
    }

    /// What is to be done about signatures as time passes.
    pub(super) fn handle_trust_timeout(&mut self, now: Time) {
        self.verify(now);
        let Some(signed) = &mut self.signed else { return };
        let chosen = match &self.phase {
            Phase::Waiting if signed.choice_due().is_some_and(|due| now >= due) => signed.choice.take(),
            Phase::Receiving(object) if now.since(object.heard()) >= SUCCESSION_SILENCE_MAX => {
                let lives = |(_, heard): &mut (Offer, Time)| now.since(*heard) < SUCCESSION_SILENCE_MAX / 2;
                signed.successor.take_if(lives)
            }
            _ => None,
        };
        let Some((offer, _)) = chosen else { return };
        if let Phase::Receiving(object) = &self.phase {
            let (old, new) = (object.manifest().version, offer.manifest.version);
            self.notice(Notice::Succeeded { old, new });
        }
        self.accept_offer(now, offer);
    }

    fn accept_offer(&mut self, now: Time, offer: Offer) {
        let Offer { manifest, text, description, voucher } = offer;
        (self.other, self.remap) = (None, None);
        self.begin(now, manifest, &text, &description);
        if let (Phase::Preparing(object), Some(signed)) = (&mut self.phase, &mut self.signed) {
            // Another digest of the same id would have to be signed as well.
            object.prove_manifest();
            signed.voucher = Some(voucher);
        }
    }

    /// The moment at which `handle_trust_timeout` has something to do.
    pub(super) fn poll_trust_timeout(&self) -> Option<Time> {
        let signed = self.signed.as_ref()?;
        let choice = signed.choice_due().filter(|_| matches!(self.phase, Phase::Waiting));
        let succession = match (&self.phase, &signed.successor) {
            (Phase::Receiving(object), Some((_, heard))) => {
                let at = object.heard().after(SUCCESSION_SILENCE_MAX);
                // Only if the successor will then still count as living: else its next packet is what there is to wait for.
                (at > self.handled && at.since(*heard) < SUCCESSION_SILENCE_MAX / 2).then_some(at)
            }
            _ => None,
        };
        [signed.verifier.poll_timeout(), choice, succession].into_iter().flatten().min()
    }

    /// Says why a manifest is not trusted, once for each reason.
    fn distrust(&mut self, distrust: Distrust) -> Verdict {
        let reason = DropReason::from(&distrust);
        if let Some(signed) = &mut self.signed
            && signed.said & 1 << distrust.index() == 0
        {
            signed.said |= 1 << distrust.index();
            self.notice(Notice::Distrusted(distrust));
        }
        Verdict::Dropped(reason)
    }
}

impl Offer {
    fn new(authentic: &Authentic, manifest: &Manifest, packet: &Packet<'_>) -> Self {
        Self {
            manifest: manifest.clone(),
            text: packet.payload.text.to_vec(),
            description: packet.payload.description,
            voucher: authentic.voucher.clone(),
        }
    }
}
