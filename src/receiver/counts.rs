//! What happened to every datagram: one counter for each way a datagram can end.

use super::Distrust;
use crate::wire::Malformed;

macro_rules! reasons {
    ($($(#[$doc:meta])* $variant:ident = $name:literal,)*) => {
        /// Why a datagram changed nothing.
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
        pub enum DropReason {
            $($(#[$doc])* $variant,)*
        }

        impl DropReason {
            /// All of them, in the order of the counters.
            pub const ALL: &[Self] = &[$(Self::$variant,)*];

            /// The counter's name in JSON and in messages.
            #[must_use]
            pub fn name(self) -> &'static str {
                match self {
                    $(Self::$variant => $name,)*
                }
            }
        }
    };
}

reasons! {
    /// Shorter than a header.
    Short = "short",
    /// Longer than any packet.
    Long = "long",
    /// Not one of ours.
    Magic = "not_ours",
    /// An unknown version.
    Version = "unknown_version",
    /// An unknown kind.
    Kind = "unknown_kind",
    /// Damaged on the way.
    Checksum = "wrong_checksum",
    /// A manifest packet that breaks a rule of its form.
    Manifest = "malformed_manifest",
    /// A hashes packet that breaks a rule of its form.
    Hashes = "malformed_hashes",
    /// Hashes of an unknown tree.
    Tree = "unknown_tree",
    /// A manifest whose text is refused.
    ManifestRefused = "refused_manifest",
    /// A manifest for those who wait for news, where data is wanted.
    Announcement = "announcement",
    /// A manifest without a signature, where one is asked for.
    Unsigned = "unsigned_manifest",
    /// A manifest that is signed by another key.
    UnknownKey = "unknown_key",
    /// A manifest whose signature is not one of its text.
    WrongSignature = "wrong_signature",
    /// A manifest whose signature was not verified, for want of time.
    Unverified = "unverified_manifest",
    /// A manifest that has expired.
    Expired = "expired_manifest",
    /// A manifest that expires, while the clock has not been set.
    ClockUnset = "clock_unset",
    /// A manifest of a version that is too old.
    OldVersion = "old_version",
    /// A manifest of something for other devices.
    NotCompatible = "not_compatible",
    /// A manifest of an object that is larger than allowed.
    TooLarge = "too_large",
    /// A packet of another object than the accepted one.
    ForeignObject = "other_object",
    /// A packet with another symbol size or code than the one in use.
    ForeignSession = "other_symbol_size",
    /// A data packet whose block or symbol does not exist.
    OutOfRange = "out_of_range",
    /// A data packet whose payload does not have the length of its symbol.
    WrongSize = "wrong_size",
    /// A repair symbol, which this program was asked not to use.
    Repair = "repair_unused",
    /// Hashes that do not belong to the digest of the object.
    Unproved = "unproved_hashes",
    /// Hashes that came before a manifest was accepted.
    Early = "early_hashes",
    /// A symbol that came before a manifest and found no room.
    WaitingFull = "waiting_full",
    /// A symbol of a block that failed, from a sender whose turn it is not.
    Restricted = "restricted",
    /// A symbol that came while the memory for another symbol size was being made.
    Remapping = "between_symbol_sizes",
    /// A symbol that is already held.
    Duplicate = "duplicate",
    /// A symbol of a block of which enough are held.
    Full = "block_full",
    /// A symbol of a block that is verified or being verified.
    Done = "block_done",
}

impl From<Malformed> for DropReason {
    fn from(malformed: Malformed) -> Self {
        match malformed {
            Malformed::Short => Self::Short,
            Malformed::Long => Self::Long,
            Malformed::Magic => Self::Magic,
            Malformed::Version => Self::Version,
            Malformed::Kind => Self::Kind,
            Malformed::Checksum => Self::Checksum,
            Malformed::Manifest => Self::Manifest,
            Malformed::Hashes => Self::Hashes,
            Malformed::Tree => Self::Tree,
        }
    }
}

impl From<&Distrust> for DropReason {
    fn from(distrust: &Distrust) -> Self {
        match distrust {
            Distrust::Unsigned => Self::Unsigned,
            Distrust::UnknownKey(_) => Self::UnknownKey,
            Distrust::WrongSignature => Self::WrongSignature,
            Distrust::Expired(_) => Self::Expired,
            Distrust::ClockUnset => Self::ClockUnset,
            Distrust::OldVersion { .. } => Self::OldVersion,
            Distrust::NotCompatible(_) => Self::NotCompatible,
        }
    }
}

/// Counters of everything that came.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Counts {
    /// Datagrams of any kind.
    pub datagrams: u64,
    /// Bytes of all datagrams, without IP and UDP headers.
    pub bytes: u64,
    /// Symbols handed over to be stored.
    pub stored: u64,
    /// Manifest packets that were understood and belong to the accepted object.
    pub manifests: u64,
    /// Hashes packets whose proof holds.
    pub hashes: u64,
    /// Blocks whose digest did not match.
    pub blocks_failed: u64,
    dropped: [u64; DropReason::ALL.len()],
}

impl Default for Counts {
    fn default() -> Self {
        let dropped = [0; DropReason::ALL.len()];
        Self { datagrams: 0, bytes: 0, stored: 0, manifests: 0, hashes: 0, blocks_failed: 0, dropped }
    }
}

impl Counts {
    pub(super) fn drop(&mut self, reason: DropReason) {
        if let Some(counter) = self.dropped.get_mut(reason as usize) {
            *counter += 1;
        }
    }

    /// The packets in `early` will come again from there.
    pub(super) fn forget(&mut self, early: &super::Waiting) {
        for (_, datagram) in early.datagrams() {
            self.datagrams = self.datagrams.saturating_sub(1);
            self.bytes = self.bytes.saturating_sub(datagram.len() as u64);
        }
    }

    /// How many datagrams were dropped for this reason.
    #[must_use]
    pub fn dropped(&self, reason: DropReason) -> u64 {
        self.dropped.get(reason as usize).copied().unwrap_or(0)
    }
}
