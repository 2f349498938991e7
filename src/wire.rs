//! The bytes on the wire (docs/PROTOCOL.md, sections 3 to 6): parse and emit. Every field that comes from the network is checked
//! here, once; what is below gets values that cannot be wrong. No datagram can make this code panic or allocate.

mod checksum;
mod cursor;
mod hashes;
mod header;
mod manifest_packet;

pub use hashes::{HashesPayload, emit_hashes, hashes_size};
pub use header::{Header, Kind, begins_packet, payload_hash, seal, seal_with};
pub use manifest_packet::{
    ChannelEntry, ManifestPayload, SessionDescription, SignatureBytes, emit_manifest, manifest_size,
};

use crate::limits::{DATAGRAM_SIZE_MAX, HEADER_SIZE};

/// Why a datagram was dropped. Counted by reason, never logged one by one.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Malformed {
    /// Shorter than a header.
    Short,
    /// Longer than any packet.
    Long,
    /// Not one of ours.
    Magic,
    /// A version that this program does not know.
    Version,
    /// A kind that this program does not know.
    Kind,
    /// The checksum of header and payload does not match: damaged on the way.
    Checksum,
    /// A manifest packet whose lengths or session description break a rule.
    Manifest,
    /// A hashes packet whose lengths or fields break a rule.
    Hashes,
    /// A hashes packet of a tree that this program does not know.
    Tree,
}

#[allow(
    clippy::large_enum_variant,
    reason = "a packet is looked at on the stack and never stored; a box would allocate"
)]
/// A packet that has kept every rule that can be checked without knowing the object.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Packet<'a> {
    /// One symbol. Whether block, ESI and length fit depends on the object: the receiver asks `object::Layout`.
    Data(&'a [u8]),
    /// What the object is and how it is sent.
    Manifest(ManifestPayload<'a>),
    /// The values of a group of blocks with their proof.
    Hashes(HashesPayload<'a>),
}

/// Judges a datagram by rules 1 to 6 of section 4.
pub fn parse(datagram: &[u8]) -> Result<(Header, Packet<'_>), Malformed> {
    parse_hashed(datagram).map(|(header, packet, _)| (header, packet))
}

/// The same, with the XXH3-64 of the payload, which the checksum is made of: nobody need compute it again.
pub fn parse_hashed(datagram: &[u8]) -> Result<(Header, Packet<'_>, u64), Malformed> {
    if datagram.len() > DATAGRAM_SIZE_MAX {
        return Err(Malformed::Long);
    }
    let (head, payload) = datagram.split_first_chunk::<HEADER_SIZE>().ok_or(Malformed::Short)?;
    let (header, hash) = header::parse(head, payload)?;
    let packet = match header.kind {
        Kind::Data => Packet::Data(payload),
        Kind::Manifest => Packet::Manifest(ManifestPayload::parse(&header, payload)?),
        Kind::Hashes => Packet::Hashes(HashesPayload::parse(&header, payload)?),
    };
    Ok((header, packet, hash))
}

#[cfg(test)]
mod tests;
