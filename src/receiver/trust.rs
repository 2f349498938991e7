//! Whom a receiver believes, and what it takes from them (docs/PROTOCOL.md, section 5.4): a pure function of a text that is
//! authentic, of what the device was told, and of its clock.

use std::fmt;

use crate::manifest::{DisplayName, KeyId, Manifest, PublicKey};

/// What a receiver takes.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Trust {
    /// The keys of which one must have signed: at least one.
    pub keys: Vec<PublicKey>,
    /// Refuse versions below this one.
    pub version_min: u64,
    /// Refuse what is not for this.
    pub compatible: Option<DisplayName>,
    /// Whether to take what expires when the clock has not been set.
    pub clock_unset: ClockUnset,
    /// Where the choice among signatures that wait to be verified begins: nobody on the network may know it.
    pub seed: u64,
}

/// What to do with a text that expires while the clock says a time before the text was made.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ClockUnset {
    /// Refuse it.
    Refuse,
    /// Take it as if it did not expire.
    Ignore,
}

/// Why a manifest is not trusted.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Distrust {
    /// It has no signature.
    Unsigned,
    /// Another key signed it.
    UnknownKey(KeyId),
    /// Its signature is not one of its text.
    WrongSignature,
    /// It was good until then, in seconds since 1970.
    Expired(u64),
    /// It expires, and the clock says a time before it was made.
    ClockUnset,
    /// Its version is too old.
    OldVersion {
        /// The version.
        version: u64,
        /// The oldest that is taken.
        version_min: u64,
    },
    /// It is for something else, or for nothing in particular.
    NotCompatible(Option<DisplayName>),
}

impl Distrust {
    /// A number for each reason, whatever its particulars.
    pub(super) fn index(&self) -> u32 {
        match self {
            Self::Unsigned => 0,
            Self::UnknownKey(_) => 1,
            Self::WrongSignature => 2,
            Self::Expired(_) => 3,
            Self::ClockUnset => 4,
            Self::OldVersion { .. } => 5,
            Self::NotCompatible(_) => 6,
        }
    }
}

impl fmt::Display for Distrust {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unsigned => f.write_str("it is not signed"),
            Self::UnknownKey(id) => write!(f, "it is signed by another key, {id}"),
            Self::WrongSignature => f.write_str("its signature is forged or damaged"),
            Self::Expired(at) => write!(f, "it expired at {at} s after 1970"),
            Self::ClockUnset => f.write_str("it expires, and the clock of this host is not set"),
            Self::OldVersion { version, version_min } => {
                write!(f, "version {version} is too old, {version_min} or above is wanted")
            }
            Self::NotCompatible(Some(other)) => write!(f, "it is for {other}"),
            Self::NotCompatible(None) => f.write_str("it does not say what it is for"),
        }
    }
}

impl Trust {
    /// Whether a text that is authentic is to be taken at `unix_seconds`, and whether its `expires` could be judged.
    ///
    /// # Errors
    /// The first reason not to.
    pub(super) fn judge(&self, manifest: &Manifest, unix_seconds: u64) -> Result<Expiry, Distrust> {
        if self.compatible.is_some() && manifest.compatible != self.compatible {
            return Err(Distrust::NotCompatible(manifest.compatible.clone()));
        }
        if manifest.version < self.version_min {
            let (version, version_min) = (manifest.version, self.version_min);
            return Err(Distrust::OldVersion { version, version_min });
        }
        let Some(expires) = manifest.expires else { return Ok(Expiry::Judged) };
        let is_unset = manifest.created.is_some_and(|created| unix_seconds < created);
        match self.clock_unset {
            ClockUnset::Refuse if is_unset => Err(Distrust::ClockUnset),
            ClockUnset::Ignore if is_unset => Ok(Expiry::Unknown),
            _ if unix_seconds >= expires => Err(Distrust::Expired(expires)),
            _ => Ok(Expiry::Judged),
        }
    }
}

/// Whether the clock was of use.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Expiry {
    /// The text does not expire, or has not yet.
    Judged,
    /// Nobody knows.
    Unknown,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::manifest::Members;
    use crate::types::{Digest, ObjectSize};

    fn name(text: &str) -> Option<DisplayName> {
        DisplayName::new(text)
    }

    fn trust() -> Trust {
        Trust { keys: vec![], version_min: 0, compatible: None, clock_unset: ClockUnset::Ignore, seed: 0 }
    }

    fn manifest(change: impl FnOnce(&mut Members)) -> Manifest {
        let size = ObjectSize::new(5).unwrap();
        let mut members = Members::new(Digest([7; 32]), size, DisplayName::new("object").unwrap());
        change(&mut members);
        members.manifest().unwrap()
    }

    #[test]
    fn version_counts_from_the_oldest_that_is_wanted() {
        let trust = Trust { version_min: 3, ..trust() };
        let judge = |version| trust.judge(&manifest(|members| members.version = version), 0);
        assert_eq!(judge(2), Err(Distrust::OldVersion { version: 2, version_min: 3 }));
        assert_eq!((judge(3), judge(4)), (Ok(Expiry::Judged), Ok(Expiry::Judged)));
    }

    #[test]
    fn what_it_is_for_must_be_said_where_it_is_asked_for() {
        let asked = Trust { compatible: name("board-a"), ..trust() };
        let of = |text: &str| manifest(|members| members.compatible = name(text));
        assert_eq!(asked.judge(&of("board-a"), 0), Ok(Expiry::Judged));
        assert_eq!(asked.judge(&of("board-b"), 0), Err(Distrust::NotCompatible(name("board-b"))));
        assert_eq!(asked.judge(&manifest(|_| {}), 0), Err(Distrust::NotCompatible(None)));
        assert_eq!(trust().judge(&of("board-b"), 0), Ok(Expiry::Judged));
    }

    #[test]
    fn clock_is_asked_only_about_what_expires() {
        let expiring = manifest(|members| (members.created, members.expires) = (Some(1000), Some(2000)));
        let refuse = Trust { clock_unset: ClockUnset::Refuse, ..trust() };
        for (now, ignoring, refusing) in [
            (0, Ok(Expiry::Unknown), Err(Distrust::ClockUnset)),
            (999, Ok(Expiry::Unknown), Err(Distrust::ClockUnset)),
            (1000, Ok(Expiry::Judged), Ok(Expiry::Judged)),
            (1999, Ok(Expiry::Judged), Ok(Expiry::Judged)),
            (2000, Err(Distrust::Expired(2000)), Err(Distrust::Expired(2000))),
        ] {
            assert_eq!(trust().judge(&expiring, now), ignoring, "{now}");
            assert_eq!(refuse.judge(&expiring, now), refusing, "{now}");
            assert_eq!(refuse.judge(&manifest(|members| members.created = Some(1000)), now), Ok(Expiry::Judged));
        }
        let undated = manifest(|members| members.expires = Some(2000));
        assert_eq!(refuse.judge(&undated, 0), Ok(Expiry::Judged), "nothing shows that the clock is wrong");
    }
}
