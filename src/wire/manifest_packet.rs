//! The payload of a manifest packet: session description, text and signature (docs/PROTOCOL.md, section 5).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::cursor::{Reader, Writer};
use super::{Header, Malformed};
use crate::limits::{
    CHANNEL_COUNT_MAX, CYCLE_LENGTH_MIN, MANIFEST_PAYLOAD_SIZE_MAX, MANIFEST_SIGNED_SIZE_MAX, POSITION_MAX,
    REPAIR_PERCENT_MAX, SIGNATURE_FIXED_SIZE, TRUSTED_COMMENT_SIZE_MAX,
};
use crate::types::{BlockIndex, ChannelId, CodeId, Esi, Position, RateBps, SymbolSize};

const LENGTHS_SIZE: usize = 8;
const DESCRIPTION_FIXED_SIZE: usize = 8;
const ENTRY_SIZE: usize = 32;

/// How a session sends its object: unsigned, because no signature can know it (section 5.1).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SessionDescription {
    /// S.
    pub symbol_size: SymbolSize,
    /// The erasure code.
    pub code: CodeId,
    /// Repair symbols in percent of source symbols; 0: none.
    pub repair_percent: u16,
    channel_count: usize,
    channels: [ChannelEntry; CHANNEL_COUNT_MAX],
}

/// One channel of a session.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ChannelEntry {
    /// Its number.
    pub channel: ChannelId,
    /// Its group and port; `None` where it is that of the packet itself.
    pub group: Option<(IpAddr, u16)>,
    /// C: the data packets of a cycle; 0 if it carries none.
    pub cycle_length: u64,
    /// The rate of one sender; `None` if it is not stated.
    pub rate: Option<RateBps>,
}

/// A signature as it came: present, of a possible length, and not checked.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SignatureBytes<'a>(pub &'a [u8]);

/// A manifest packet's content: its lengths and its description are right; the text has not been read.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ManifestPayload<'a> {
    /// How the object is sent.
    pub description: SessionDescription,
    /// The canonical JSON.
    pub text: &'a [u8],
    /// The signature, if there is one.
    pub signature: Option<SignatureBytes<'a>>,
}

impl SessionDescription {
    /// A description with the channels of `entries`: 1 to 8 with different numbers, or `None`.
    #[must_use]
    pub fn new(
        symbol_size: SymbolSize,
        code: CodeId,
        repair_percent: u16,
        entries: impl Iterator<Item = ChannelEntry>,
    ) -> Option<Self> {
        let unused = ChannelEntry { channel: ChannelId(0), group: None, cycle_length: 0, rate: None };
        let mut channels = [unused; CHANNEL_COUNT_MAX];
        let mut channel_count = 0;
        for entry in entries {
            let taken = channels.get(..channel_count)?.iter().any(|other| other.channel == entry.channel);
            if taken {
                return None;
            }
            *channels.get_mut(channel_count)? = entry;
            channel_count += 1;
        }
        (channel_count > 0).then_some(Self { symbol_size, code, repair_percent, channel_count, channels })
    }

    /// The channels of the session.
    #[must_use]
    pub fn channels(&self) -> &[ChannelEntry] {
        self.channels.get(..self.channel_count).unwrap_or_default()
    }

    /// The bytes of the description on the wire.
    fn size(&self) -> usize {
        DESCRIPTION_FIXED_SIZE + ENTRY_SIZE * self.channel_count
    }

    fn parse(bytes: &[u8], carried_by: ChannelId) -> Option<Self> {
        let mut reader = Reader::new(bytes);
        let symbol_size = SymbolSize::new(reader.u16()?)?;
        let code = CodeId(reader.u8()?);
        let channel_count = reader.u8()?;
        let repair_percent = reader.u16()?;
        let _reserved: u16 = reader.u16()?;
        let too_many = usize::from(channel_count) > CHANNEL_COUNT_MAX || repair_percent > REPAIR_PERCENT_MAX;
        if too_many || code != CodeId::REED_SOLOMON {
            return None;
        }
        let unused = ChannelEntry { channel: ChannelId(0), group: None, cycle_length: 0, rate: None };
        let mut entries = [unused; CHANNEL_COUNT_MAX];
        for entry in entries.iter_mut().take(usize::from(channel_count)) {
            *entry = ChannelEntry::parse(&mut reader).filter(|entry| entry.is_sound(carried_by))?;
        }
        Self::new(symbol_size, code, repair_percent, entries.into_iter().take(usize::from(channel_count)))
    }

    fn emit(&self, writer: &mut Writer<'_>) {
        let channel_count = u8::try_from(self.channel_count).expect("at most 8");
        writer.u16(self.symbol_size.bytes()).u8(self.code.0).u8(channel_count).u16(self.repair_percent).u16(0);
        self.channels().iter().for_each(|entry| entry.emit(writer));
    }
}

impl ChannelEntry {
    fn parse(reader: &mut Reader<'_>) -> Option<Self> {
        let channel = ChannelId(reader.u8()?);
        let family = reader.u8()?;
        let port = reader.u16()?;
        let cycle_length = reader.u48()?;
        let rate = RateBps::new(reader.u48()?);
        let address: [u8; 16] = reader.bytes()?;
        let group = Self::parse_group(family, port, address)?;
        Some(Self { channel, group, cycle_length, rate })
    }

    fn is_sound(&self, carried_by: ChannelId) -> bool {
        let cycle_is_sound = match self.cycle_length {
            0 => true,
            length => length >= CYCLE_LENGTH_MIN && self.channel != ChannelId::CONTROL,
        };
        cycle_is_sound && (self.group.is_some() || self.channel == carried_by)
    }

    /// `None` if it breaks a rule; `Some(None)` if it is the group of the packet itself.
    fn parse_group(family: u8, port: u16, address: [u8; 16]) -> Option<Option<(IpAddr, u16)>> {
        let [a, b, c, d, padding @ ..] = address;
        let group = match family {
            0 => return (port == 0 && address == [0; 16]).then_some(None),
            4 if padding == [0; 12] => IpAddr::V4(Ipv4Addr::new(a, b, c, d)),
            6 => IpAddr::V6(Ipv6Addr::from(address)),
            _ => return None,
        };
        (group.is_multicast() && port != 0).then_some(Some((group, port)))
    }

    fn emit(&self, writer: &mut Writer<'_>) {
        assert!(self.cycle_length <= POSITION_MAX, "a cycle's positions fit 48 bits");
        let (family, port, address) = match self.group {
            None => (0, 0, [0; 16]),
            Some((IpAddr::V4(group), port)) => {
                let [a, b, c, d] = group.octets();
                (4, port, [a, b, c, d, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0])
            }
            Some((IpAddr::V6(group), port)) => (6, port, group.octets()),
        };
        let rate = self.rate.map_or(0, RateBps::bits_per_second);
        writer.u8(self.channel.0).u8(family).u16(port).u48(self.cycle_length).u48(rate).bytes(&address);
    }
}

impl<'a> ManifestPayload<'a> {
    pub(super) fn parse(header: &Header, payload: &'a [u8]) -> Result<Self, Malformed> {
        Self::parse_parts(header, payload).ok_or(Malformed::Manifest)
    }

    fn parse_parts(header: &Header, payload: &'a [u8]) -> Option<Self> {
        if payload.len() > MANIFEST_PAYLOAD_SIZE_MAX
            || (header.position, header.esi, header.block) != (Position::ZERO, Esi(0), BlockIndex(0))
        {
            return None;
        }
        let mut reader = Reader::new(payload);
        let (description_size, text_size, signature_size) = (reader.u16()?, reader.u16()?, reader.u16()?);
        let _reserved: u16 = reader.u16()?;
        let description = SessionDescription::parse(reader.slice(usize::from(description_size))?, header.channel)?;
        let text = reader.slice(usize::from(text_size))?;
        let signature = parse_signature(reader.slice(usize::from(signature_size))?)?;
        let agrees = (description.symbol_size.tag(), description.code) == (header.size_tag, header.code);
        let signed_size = usize::from(text_size).checked_add(usize::from(signature_size))?;
        let sound = reader.is_empty() && agrees && signed_size <= MANIFEST_SIGNED_SIZE_MAX;
        sound.then_some(Self { description, text, signature })
    }
}

fn parse_signature(bytes: &[u8]) -> Option<Option<SignatureBytes<'_>>> {
    match bytes.len() {
        0 => Some(None),
        size if (SIGNATURE_FIXED_SIZE..=SIGNATURE_FIXED_SIZE + TRUSTED_COMMENT_SIZE_MAX).contains(&size) => {
            Some(Some(SignatureBytes(bytes)))
        }
        _ => None,
    }
}

/// The payload bytes of a manifest packet.
#[must_use]
pub fn manifest_size(payload: &ManifestPayload<'_>) -> usize {
    let signature_size = payload.signature.map_or(0, |signature| signature.0.len());
    LENGTHS_SIZE + payload.description.size() + payload.text.len() + signature_size
}

/// Writes the payload of a manifest packet into `out`, which must have exactly [`manifest_size`] bytes.
pub fn emit_manifest(out: &mut [u8], payload: &ManifestPayload<'_>) {
    assert_eq!(out.len(), manifest_size(payload), "room for the manifest");
    let part_size = |bytes: usize| u16::try_from(bytes).expect("a manifest fits one packet");
    let signature = payload.signature.map_or(&[][..], |signature| signature.0);
    let mut writer = Writer::new(out);
    writer.u16(part_size(payload.description.size())).u16(part_size(payload.text.len()));
    writer.u16(part_size(signature.len())).u16(0);
    payload.description.emit(&mut writer);
    writer.bytes(payload.text).bytes(signature);
}
