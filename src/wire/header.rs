//! The 44 bytes before every payload (docs/PROTOCOL.md, section 3).

use xxhash_rust::xxh3::xxh3_64;

use super::Malformed;
use super::cursor::{Reader, Writer};
use crate::limits::HEADER_SIZE;
use crate::types::{BlockIndex, ChannelId, CodeId, Esi, ObjectId, ObjectKey, ObjectSize, Position, SizeTag};

const MAGIC: u16 = 0x107D;
const VERSION: u8 = 1;
const CHECKSUM_OFFSET: usize = HEADER_SIZE - 8;

/// Whether these bytes begin as every packet does: all that can be said where the rest is missing.
#[must_use]
pub fn begins_packet(bytes: &[u8]) -> bool {
    bytes.starts_with(&MAGIC.to_be_bytes())
}

/// The kinds of packets that this version sends and takes (section 1).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// One symbol.
    Data,
    /// What the object is and how it is sent.
    Manifest,
    /// Values of blocks with their proof.
    Hashes,
}

impl Kind {
    fn from_wire(value: u8) -> Option<Self> {
        match value {
            1 => Some(Self::Data),
            2 => Some(Self::Manifest),
            3 => Some(Self::Hashes),
            _ => None,
        }
    }

    fn to_wire(self) -> u8 {
        match self {
            Self::Data => 1,
            Self::Manifest => 2,
            Self::Hashes => 3,
        }
    }
}

/// The fields of a header but magic, version and checksum.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Header {
    /// What the payload is.
    pub kind: Kind,
    /// The channel it is sent on.
    pub channel: ChannelId,
    /// The erasure code of the session.
    pub code: CodeId,
    /// The tag of the session's symbol size.
    pub size_tag: SizeTag,
    /// The place in the cycle; zero but for data.
    pub position: Position,
    /// The object it belongs to.
    pub key: ObjectKey,
    /// The symbol; zero but for data.
    pub esi: Esi,
    /// The block, or the first of the group; zero for manifests.
    pub block: BlockIndex,
}

impl Header {
    /// The bytes of the header with zeroes for the checksum; [`seal`] completes them.
    pub fn emit(&self, out: &mut [u8; HEADER_SIZE]) {
        Writer::new(out)
            .u16(MAGIC)
            .u8(VERSION)
            .u8(self.kind.to_wire())
            .u8(self.channel.0)
            .u8(self.size_tag.0 << 4 | self.code.0)
            .u48(self.position.value())
            .bytes(&self.key.id.0)
            .u48(self.key.size.bytes())
            .u16(self.esi.0)
            .u32(self.block.0)
            .bytes(&[0; 8]);
    }

    /// Rules 2 to 4 of section 4, in their order.
    pub(super) fn parse(head: &[u8; HEADER_SIZE]) -> Result<Self, Malformed> {
        let mut reader = Reader::new(head);
        if reader.u16() != Some(MAGIC) {
            return Err(Malformed::Magic);
        }
        if reader.u8() != Some(VERSION) {
            return Err(Malformed::Version);
        }
        let kind = reader.u8().and_then(Kind::from_wire).ok_or(Malformed::Kind)?;
        Self::parse_fields(kind, &mut reader).ok_or(Malformed::Short)
    }

    fn parse_fields(kind: Kind, reader: &mut Reader<'_>) -> Option<Self> {
        let channel = ChannelId(reader.u8()?);
        let tag_and_code = reader.u8()?;
        Some(Self {
            kind,
            channel,
            code: CodeId(tag_and_code & 0b111),
            size_tag: SizeTag(tag_and_code >> 4),
            position: Position::new(reader.u48()?)?,
            key: ObjectKey { id: ObjectId(reader.bytes()?), size: ObjectSize::new(reader.u48()?)? },
            esi: Esi(reader.u16()?),
            block: BlockIndex(reader.u32()?),
        })
    }
}

/// The checksum over a header, whatever its checksum field holds, and the hash of its payload.
fn checksum(head: &[u8; HEADER_SIZE], payload_hash: u64) -> u64 {
    let mut sealed = *head;
    if let Some(field) = sealed.last_chunk_mut::<8>() {
        *field = payload_hash.to_be_bytes();
    }
    xxh3_64(&sealed)
}

/// The hash of a payload that goes into the checksum. It is that of the bytes alone: a sender may keep it.
#[must_use]
pub fn payload_hash(payload: &[u8]) -> u64 {
    xxh3_64(payload)
}

/// Puts the checksum into the header at the start of `packet`, whose payload is the rest.
pub fn seal(packet: &mut [u8]) {
    let hash = payload_hash(packet.get(HEADER_SIZE..).expect("a packet starts with a header"));
    seal_with(packet, hash);
}

/// The same, where the hash of the payload is known.
pub fn seal_with(packet: &mut [u8], payload_hash: u64) {
    let head = packet.first_chunk_mut::<HEADER_SIZE>().expect("a packet starts with a header");
    let sum = checksum(head, payload_hash);
    head[CHECKSUM_OFFSET..].copy_from_slice(&sum.to_be_bytes());
}

/// Rule 5 of section 4: the hash of the payload if the checksum holds.
pub(super) fn checked_payload_hash(head: &[u8; HEADER_SIZE], payload: &[u8]) -> Option<u64> {
    let hash = xxh3_64(payload);
    (head.last_chunk::<8>() == Some(&checksum(head, hash).to_be_bytes())).then_some(hash)
}
