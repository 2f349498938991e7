//! The 44 bytes before every payload (docs/PROTOCOL.md, section 3).

use xxhash_rust::xxh3::xxh3_64;

use super::Malformed;
use super::checksum::HeaderWords;
use crate::limits::HEADER_SIZE;
use crate::types::{BlockIndex, ChannelId, CodeId, Esi, ObjectId, ObjectKey, ObjectSize, Position, SizeTag};

const MAGIC: u16 = 0x107D;
const VERSION: u8 = 1;

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
        self.words().emit(0, out);
    }

    fn words(&self) -> HeaderWords {
        let position = self.position.value();
        let [id_0, id_1, id_2, id_3, id_rest @ ..] = self.key.id.0;
        let kind = u64::from(MAGIC) << 48 | u64::from(VERSION) << 40 | u64::from(self.kind.to_wire()) << 32;
        let session = u64::from(self.channel.0) << 24 | u64::from(self.size_tag.0 << 4 | self.code.0) << 16;
        let words = [
            kind | session | position >> 32,
            position << 32 | u64::from(u32::from_be_bytes([id_0, id_1, id_2, id_3])),
            u64::from_be_bytes(id_rest),
            self.key.size.bytes() << 16 | u64::from(self.esi.0),
        ];
        HeaderWords { words, block: self.block.0 }
    }

    /// Rules 2 to 4 of section 4, in their order.
    fn parse(header: &HeaderWords) -> Result<Self, Malformed> {
        let [first, second, third, fourth] = header.words.map(u64::to_be_bytes);
        let [magic_0, magic_1, version, kind, channel, tag_and_code, p0, p1] = first;
        if u16::from_be_bytes([magic_0, magic_1]) != MAGIC {
            return Err(Malformed::Magic);
        }
        if version != VERSION {
            return Err(Malformed::Version);
        }
        let kind = Kind::from_wire(kind).ok_or(Malformed::Kind)?;
        let ([p2, p3, p4, p5, i0, i1, i2, i3], [i4, i5, i6, i7, i8, i9, i10, i11]) = (second, third);
        let [s0, s1, s2, s3, s4, s5, esi_0, esi_1] = fourth;
        let position = Position::new(u64::from_be_bytes([0, 0, p0, p1, p2, p3, p4, p5]));
        let size = ObjectSize::new(u64::from_be_bytes([0, 0, s0, s1, s2, s3, s4, s5]));
        // Both have 48 bits, whatever they are.
        let (position, size) = position.zip(size).ok_or(Malformed::Short)?;
        Ok(Self {
            kind,
            channel: ChannelId(channel),
            code: CodeId(tag_and_code & 0b111),
            size_tag: SizeTag(tag_and_code >> 4),
            position,
            key: ObjectKey { id: ObjectId([i0, i1, i2, i3, i4, i5, i6, i7, i8, i9, i10, i11]), size },
            esi: Esi(u16::from_be_bytes([esi_0, esi_1])),
            block: BlockIndex(header.block),
        })
    }
}

/// Rules 2 to 5 of section 4, in their order: the header, and the hash of the payload.
#[inline]
pub(super) fn parse(head: &[u8; HEADER_SIZE], payload: &[u8]) -> Result<(Header, u64), Malformed> {
    let header = Header::parse(&HeaderWords::of(head))?;
    let hash = checked_payload_hash(head, payload).ok_or(Malformed::Checksum)?;
    Ok((header, hash))
}

/// Rule 5 alone: the hash of the payload if the checksum holds.
#[inline]
pub(super) fn checked_payload_hash(head: &[u8; HEADER_SIZE], payload: &[u8]) -> Option<u64> {
    let hash = xxh3_64(payload);
    let found = head.last_chunk().map(|field| u64::from_be_bytes(*field));
    (found == Some(HeaderWords::of(head).checksum(hash))).then_some(hash)
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
    let words = HeaderWords::of(head);
    words.emit(words.checksum(payload_hash), head);
}
