//! The nouns of the project as types, so that two of them cannot be swapped, and the glossary.
//!
//! | word | meaning | source |
//! |---|---|---|
//! | object | the file being distributed; its id is the start of its BLAKE3 digest | RFC 5651 (transport object) |
//! | session, channel | one delivery of one object; one (group, port) of it, sent at one rate | RFC 5651, RFC 5775 |
//! | carousel, cycle, round | the endless sending; the unit in which positions repeat; one visit to every symbol | RFC 6968 |
//! | row | one pass over all blocks with a run of symbols from each | |
//! | virtual server | one carousel instance on one core, with its own socket and starting position | |
//! | source block | an aligned 1 MiB range of the object: the unit of FEC and of verification | RFC 5052 |
//! | symbol (source, repair), ESI | the unit of transport: one packet's payload; its number in its block | RFC 5052, RFC 6330 |
//! | manifest | what the object is and who vouches for it | RFC 6726 (FDT), RFC 9019 |
//! | NAK, NCF, RDATA, repairer | request for repair, its confirmation, its answer, who answers | RFC 3208 |
//!
//! `packet` is ours, `datagram` is UDP's. A host that sends is a `sender_addr`. Never reads a clock, never allocates.

mod group;

use std::fmt;
use std::time::Duration;

pub use group::{announcement_group, is_source_specific, unusable_group, unusable_source};

use crate::limits::{BLOCK_SIZE, OBJECT_SIZE_MAX, POSITION_MAX, SYMBOL_SIZE_MAX, SYMBOL_SIZE_MIN};

/// A BLAKE3 digest or chaining value: 32 bytes.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Digest(pub [u8; 32]);

impl Digest {
    /// The object id of an object with this digest (docs/PROTOCOL.md, section 2).
    #[must_use]
    pub fn object_id(&self) -> ObjectId {
        let mut id = [0; 12];
        id.copy_from_slice(&self.0[..12]);
        ObjectId(id)
    }

    /// Reads 64 lower-case hexadecimal digits, and nothing else.
    #[must_use]
    pub fn from_hex(text: &str) -> Option<Self> {
        let digits = text.as_bytes();
        if digits.len() != 64 {
            return None;
        }
        let mut out = [0; 32];
        for (byte, pair) in out.iter_mut().zip(digits.chunks_exact(2)) {
            *byte = hex_value(pair[0])? << 4 | hex_value(pair[1])?;
        }
        Some(Self(out))
    }
}

fn hex_value(digit: u8) -> Option<u8> {
    match digit {
        b'0'..=b'9' => Some(digit - b'0'),
        b'a'..=b'f' => Some(digit - b'a' + 10),
        _ => None,
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The first 12 bytes of an object's digest.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ObjectId(pub [u8; 12]);

impl fmt::Display for ObjectId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for ObjectId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The length of an object in bytes, less than 2^48.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct ObjectSize(u64);

impl ObjectSize {
    /// `None` if `bytes` does not fit the wire's 48 bits.
    #[must_use]
    pub fn new(bytes: u64) -> Option<Self> {
        (bytes <= OBJECT_SIZE_MAX).then_some(Self(bytes))
    }

    /// The length in bytes.
    #[must_use]
    pub fn bytes(self) -> u64 {
        self.0
    }

    /// The number of source blocks: at most 2^28, because the size is less than 2^48.
    #[must_use]
    pub fn block_count(self) -> u32 {
        u32::try_from(self.0.div_ceil(BLOCK_SIZE)).expect("2^48 bytes are 2^28 blocks")
    }
}

/// The number of a source block, from 0.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct BlockIndex(pub u32);

impl BlockIndex {
    /// The block's first byte in the object.
    #[must_use]
    pub fn offset(self) -> u64 {
        u64::from(self.0) * BLOCK_SIZE
    }
}

impl fmt::Display for BlockIndex {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

/// Encoding symbol id: the number of a symbol in its block, from 0; source symbols first (RFC 5052, section 6.2).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Esi(pub u16);

/// The bytes of a full symbol: a multiple of 64 from 512 to 8896.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct SymbolSize(u16);

impl SymbolSize {
    /// `None` unless `bytes` is an allowed symbol size.
    #[must_use]
    pub fn new(bytes: u16) -> Option<Self> {
        ((SYMBOL_SIZE_MIN..=SYMBOL_SIZE_MAX).contains(&bytes) && bytes.is_multiple_of(64)).then_some(Self(bytes))
    }

    /// The largest symbol size of at most `room` bytes, or `None` if even the smallest is larger.
    #[must_use]
    pub fn largest_within(room: u32) -> Option<Self> {
        let room = room.min(u32::from(SYMBOL_SIZE_MAX)) / 64 * 64;
        Self::new(u16::try_from(room).ok()?)
    }

    /// The size in bytes.
    #[must_use]
    pub fn bytes(self) -> u16 {
        self.0
    }

    /// The four bits of the header that tell symbol sizes apart (docs/PROTOCOL.md, section 3).
    #[must_use]
    pub fn tag(self) -> SizeTag {
        SizeTag((self.0 / 64 % 16) as u8)
    }
}

/// The size tag of a header: `(S / 64) mod 16`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct SizeTag(pub u8);

/// The number of an erasure code, 3 bits (docs/PROTOCOL.md, section 9).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct CodeId(pub u8);

impl CodeId {
    /// Systematic Reed-Solomon over GF(2^16): the code of every sender of this version.
    pub const REED_SOLOMON: Self = Self(1);
}

/// The number of a channel; 0 where there is only one.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct ChannelId(pub u8);

impl ChannelId {
    /// Carries manifest and hashes packets alone, for devices that wait for news.
    pub const CONTROL: Self = Self(255);
}

/// The place of a data packet in the cycle: 48 bits on the wire.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Position(u64);

impl Position {
    /// The first position; also what manifest and hashes packets carry.
    pub const ZERO: Self = Self(0);

    /// What data packets carry that are not part of a cycle.
    pub const OUTSIDE: Self = Self(POSITION_MAX);

    /// `None` if `value` does not fit 48 bits.
    #[must_use]
    pub fn new(value: u64) -> Option<Self> {
        (value <= POSITION_MAX).then_some(Self(value))
    }

    /// The number of packets before it in the cycle.
    #[must_use]
    pub fn value(self) -> u64 {
        self.0
    }
}

/// A rate of IP-level bits per second, at least 1.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct RateBps(u64);

impl RateBps {
    /// `None` if `bits_per_second` is 0 or does not fit the wire's 48 bits.
    #[must_use]
    pub fn new(bits_per_second: u64) -> Option<Self> {
        (1..1 << 48).contains(&bits_per_second).then_some(Self(bits_per_second))
    }

    /// Bits per second.
    #[must_use]
    pub fn bits_per_second(self) -> u64 {
        self.0
    }
}

/// A moment on some monotonic clock: nanoseconds since an epoch of the clock's own. State machines compare and subtract
/// moments, and never ask for one.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct Time(u64);

impl Time {
    /// The moment `ns` nanoseconds after the clock's epoch.
    #[must_use]
    pub const fn from_nanos(ns: u64) -> Self {
        Self(ns)
    }

    /// Nanoseconds since the clock's epoch.
    #[must_use]
    pub const fn as_nanos(self) -> u64 {
        self.0
    }

    /// How long after `earlier` this is; zero if it is not after it.
    #[must_use]
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }

    /// The moment `span` later; the end of time if there is none.
    #[must_use]
    pub fn after(self, span: Duration) -> Self {
        Self(self.0.saturating_add(u64::try_from(span.as_nanos()).unwrap_or(u64::MAX)))
    }
}

/// Which object a packet belongs to: what a data packet says of it before a manifest has said more.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct ObjectKey {
    /// The start of the digest.
    pub id: ObjectId,
    /// The length.
    pub size: ObjectSize,
}

impl fmt::Display for ObjectKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({} bytes)", self.id, self.size.bytes())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hexadecimal_digest_round_trips_and_refuses_other_forms() {
        let digest = Digest(std::array::from_fn(|i| (i * 7) as u8));
        assert_eq!(Digest::from_hex(&digest.to_string()), Some(digest));
        assert_eq!(Digest::from_hex(&digest.to_string().to_uppercase()), None);
        assert_eq!(Digest::from_hex(&digest.to_string()[1..]), None);
        assert_eq!(Digest::from_hex(&format!("{}+", &digest.to_string()[..63])), None);
    }

    #[test]
    fn symbol_size_is_a_multiple_of_64_within_bounds() {
        assert_eq!(SymbolSize::new(1408).map(SymbolSize::bytes), Some(1408));
        assert!([0, 448, 511, 1404, 8960, 65_535].iter().all(|&bytes| SymbolSize::new(bytes).is_none()));
        assert_eq!(SymbolSize::largest_within(1408), SymbolSize::new(1408));
        assert_eq!(SymbolSize::largest_within(1188), SymbolSize::new(1152));
        assert_eq!(SymbolSize::largest_within(70_000), SymbolSize::new(8896));
        assert_eq!(SymbolSize::largest_within(511), None);
    }

    #[test]
    fn time_neither_overflows_nor_goes_below_zero() {
        let end = Time::from_nanos(u64::MAX);
        assert_eq!(end.after(Duration::MAX), end);
        assert_eq!(Time::from_nanos(5).since(Time::from_nanos(9)), Duration::ZERO);
    }
}
