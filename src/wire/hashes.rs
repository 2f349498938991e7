//! The payload of a hashes packet (docs/PROTOCOL.md, section 6).

use super::cursor::{Reader, Writer};
use super::{Header, Malformed};
use crate::limits::PATH_LENGTH_MAX;
use crate::object::Group;
use crate::types::{Digest, Esi, Position};

const FIXED_SIZE: usize = 8;
const TREE_OBJECT: u8 = 0;
const GROUP_LEN_MAX: usize = 1 << crate::limits::GROUP_LOG2_MAX;

/// A hashes packet's content: its shape is right, but the proof has not been checked.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct HashesPayload<'a> {
    /// The blocks it is about.
    pub group: Group,
    zero_bits: u16,
    values: &'a [u8],
    path: &'a [u8],
}

impl<'a> HashesPayload<'a> {
    pub(super) fn parse(header: &Header, payload: &'a [u8]) -> Result<Self, Malformed> {
        let mut reader = Reader::new(payload);
        if reader.u8().ok_or(Malformed::Hashes)? != TREE_OBJECT {
            return Err(Malformed::Tree);
        }
        Self::parse_group(header, &mut reader).ok_or(Malformed::Hashes)
    }

    fn parse_group(header: &Header, reader: &mut Reader<'a>) -> Option<Self> {
        let group = Group::new(header.key.size.block_count(), header.block, reader.u8()?)?;
        let path_length = usize::from(reader.u8()?);
        let _reserved: u8 = reader.u8()?;
        let zero_bits = reader.u16()?;
        let _reserved: u16 = reader.u16()?;
        let values = reader.slice(group.len().checked_mul(32)?)?;
        let path = reader.slice(path_length.checked_mul(32)?)?;
        let sound = reader.is_empty()
            && path_length == group.path().count()
            && u32::from(zero_bits).checked_shr(u32::try_from(group.len()).ok()?) == Some(0)
            && (header.position, header.esi) == (Position::ZERO, Esi(0));
        sound.then_some(Self { group, zero_bits, values, path })
    }

    /// Whether the packet claims that the `index`th block of the group is all zeroes.
    #[must_use]
    pub fn claims_zero(&self, index: usize) -> bool {
        index < GROUP_LEN_MAX && self.zero_bits >> index & 1 == 1
    }

    /// The values of the group's blocks.
    pub fn values(&self) -> impl Iterator<Item = Digest> + use<'a> {
        digests(self.values)
    }

    /// Whether the values belong to the object with this digest.
    #[must_use]
    pub fn is_proved_by(&self, digest: &Digest) -> bool {
        let mut values = [Digest([0; 32]); GROUP_LEN_MAX];
        let mut path = [Digest([0; 32]); PATH_LENGTH_MAX];
        let value_count = fill(&mut values, self.values);
        let path_length = fill(&mut path, self.path);
        match (values.get(..value_count), path.get(..path_length)) {
            (Some(values), Some(path)) => crate::digest::proves(&self.group, values, path, digest),
            _ => false,
        }
    }
}

fn digests(bytes: &[u8]) -> impl Iterator<Item = Digest> + use<'_> {
    bytes.as_chunks::<32>().0.iter().map(|value| Digest(*value))
}

fn fill(out: &mut [Digest], bytes: &[u8]) -> usize {
    out.iter_mut().zip(digests(bytes)).map(|(slot, value)| *slot = value).count()
}

/// The payload bytes of a hashes packet for `group`.
#[must_use]
pub fn hashes_size(group: &Group) -> usize {
    FIXED_SIZE + 32 * (group.len() + group.path().count())
}

/// Writes the payload of a hashes packet into `out`, which must have exactly [`hashes_size`] bytes. `is_zero` and `values` go
/// with the blocks of the group.
pub fn emit_hashes(
    out: &mut [u8],
    group: &Group,
    blocks: impl Iterator<Item = (Digest, bool)>,
    path: impl Iterator<Item = Digest>,
) {
    assert_eq!(out.len(), hashes_size(group), "room for the group and its path");
    let (fixed, digests) = out.split_at_mut(FIXED_SIZE);
    let mut writer = Writer::new(digests);
    let mut zero_bits = 0u16;
    for (index, (value, zero)) in blocks.take(group.len()).enumerate() {
        zero_bits |= u16::from(zero) << index;
        writer.bytes(&value.0);
    }
    path.for_each(|value| {
        writer.bytes(&value.0);
    });
    let path_length = u8::try_from(group.path().count()).expect("at most 28");
    Writer::new(fixed).u8(TREE_OBJECT).u8(group.log2()).u8(path_length).u8(0).u16(zero_bits).u16(0);
}
