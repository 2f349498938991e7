//! Manifest packets: composed once, sent again and again (docs/PROTOCOL.md, sections 5 and 8.1).

use std::net::SocketAddr;

use super::{Carousel, SenderConfig, Unsendable};
use crate::limits::{HEADER_SIZE, MANIFEST_PAYLOAD_SIZE_MAX, MANIFEST_SIGNED_SIZE_MAX};
use crate::types::{BlockIndex, ChannelId, CodeId, Esi, ObjectKey, Position, RateBps};
use crate::wire::{
    ChannelEntry, Header, Kind, ManifestPayload, SessionDescription, SignatureBytes, emit_manifest, manifest_size, seal,
};

/// Where a manifest packet goes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Place {
    /// Between the data packets.
    Session,
    /// To a group of its own. The data goes to this one.
    Announcement(SocketAddr),
}

/// The manifest packet of the session that `carousel` is the order of.
pub(super) fn packet(
    key: ObjectKey,
    config: &SenderConfig,
    carousel: &Carousel,
    rate: Option<RateBps>,
    place: Place,
) -> Result<Vec<u8>, Unsendable> {
    let code = CodeId::REED_SOLOMON;
    let data = ChannelEntry { channel: ChannelId(0), group: None, cycle_length: carousel.cycle_length(), rate };
    let control = ChannelEntry { channel: ChannelId::CONTROL, group: None, cycle_length: 0, rate: None };
    let (channel, entries) = match place {
        Place::Session => (data.channel, vec![data]),
        Place::Announcement(group) => {
            let elsewhere = ChannelEntry { group: Some((group.ip(), group.port())), ..data };
            (control.channel, vec![elsewhere, control])
        }
    };
    let description = SessionDescription::new(config.symbol_size, code, carousel.repair_percent(), entries.into_iter());
    let description = description.expect("two channels with different numbers");
    let (text, signature) = (config.manifest_text.as_slice(), config.manifest_signature.as_slice());
    let is_signed = !signature.is_empty();
    let payload = ManifestPayload { description, text, signature: is_signed.then_some(SignatureBytes(signature)) };
    let needed = manifest_size(&payload);
    let room = MANIFEST_PAYLOAD_SIZE_MAX.min(config.payload_size_max as usize);
    if needed > room || text.len() + signature.len() > MANIFEST_SIGNED_SIZE_MAX {
        return Err(Unsendable::ManifestTooLarge { needed, room });
    }
    let mut packet = vec![0; HEADER_SIZE + needed];
    let (head, body) = packet.split_first_chunk_mut().expect("room for a header");
    let size_tag = config.symbol_size.tag();
    let (position, esi, block) = (Position::ZERO, Esi(0), BlockIndex(0));
    Header { kind: Kind::Manifest, channel, code, size_tag, position, key, esi, block }.emit(head);
    emit_manifest(body, &payload);
    seal(&mut packet);
    Ok(packet)
}
