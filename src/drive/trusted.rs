//! What a receiver was told of whom to trust, made into what the machine needs; and what is said of authenticity.

use std::fs::File;
use std::io::Read;
use std::path::PathBuf;

use serde_json::{Value, json};

use super::keys;
use super::report::Report;
use super::state_file::StateFile;
use crate::failure::{Exit, Failure, shown};
use crate::manifest::{DisplayName, Voucher};
use crate::receiver::{ClockUnset, Counts, DropReason, Trust};
use crate::sys::clock;

/// Why manifests are refused, and what people call it.
const REFUSALS: [(DropReason, &str); 10] = [
    (DropReason::Unsigned, "unsigned"),
    (DropReason::UnknownKey, "signed by another key"),
    (DropReason::WrongSignature, "with a wrong signature"),
    (DropReason::Unverified, "not verified for want of time"),
    (DropReason::Expired, "expired"),
    (DropReason::ClockUnset, "that expire while the clock is not set"),
    (DropReason::OldVersion, "of too old a version"),
    (DropReason::NotCompatible, "for something else"),
    (DropReason::TooLarge, "of a file that is too large"),
    (DropReason::ManifestRefused, "that break a rule"),
];

/// Whom to trust, and with what.
#[derive(Clone, Debug)]
pub struct TrustOptions {
    /// The keys as the user names them: themselves or files; at least one.
    pub public_keys: Vec<PathBuf>,
    /// Refuse versions below this one.
    pub version_min: Option<u64>,
    /// Where the last version is kept: refuse what is not above it.
    pub state_file: Option<PathBuf>,
    /// Refuse what is not for this.
    pub compatible: Option<String>,
    /// What to do about `expires` while the clock has not been set.
    pub clock_unset: ClockUnset,
}

impl TrustOptions {
    /// What the machine needs.
    pub(super) fn load(&self, report: &mut Report) -> Result<Trust, Failure> {
        let keys = keys::load(&self.public_keys)?;
        let compatible = self.compatible.as_deref().map(|text| {
            let cause = "not 1 to 128 bytes without control characters";
            DisplayName::new(text)
                .ok_or_else(|| Failure::new(Exit::Usage, format!("--compatible {text:?}"), cause.to_owned()))
        });
        let mut version_min = self.version_min.unwrap_or(0);
        if let Some(path) = &self.state_file {
            match StateFile::new(path)?.load()? {
                Some(last) => version_min = version_min.max(last.saturating_add(1)),
                None => {
                    let text = format!("{} is not there yet: no version is known to be too old", shown(path));
                    report.notice("no_state", &text);
                }
            }
        }
        let (compatible, clock_unset) = (compatible.transpose()?, self.clock_unset);
        Ok(Trust { keys, version_min, compatible, clock_unset, seed: seed() })
    }

    /// A version has been received.
    pub(super) fn keep(&self, version: u64) -> Result<(), Failure> {
        self.state_file.as_deref().map_or(Ok(()), |path| StateFile::new(path)?.keep(version))
    }
}

/// Something that nobody on the network knows.
fn seed() -> u64 {
    let mut bytes = [0; 8];
    match File::open("/dev/urandom").and_then(|mut file| file.read_exact(&mut bytes)) {
        Ok(()) => u64::from_be_bytes(bytes),
        // A forger who can guess it is as well off as one who need not: he still has no key.
        Err(_) => clock::now().as_nanos() ^ u64::from(std::process::id()),
    }
}

/// Who vouches for a file, in one phrase.
pub(super) fn phrase(voucher: Option<&Voucher>) -> String {
    voucher.map_or_else(|| "not authenticated".into(), |voucher| format!("authenticated by key {}", voucher.key_id()))
}

/// The same for an event.
pub(super) fn add_fields(fields: &mut Value, voucher: Option<&Voucher>) {
    fields["authenticated"] = json!(voucher.is_some());
    if let Some(voucher) = voucher {
        fields["key"] = json!(voucher.key_id().to_string());
        fields["trusted_comment"] = json!(voucher.comment());
    }
}

/// Why no manifest was accepted by a receiver that asks for a signature; `None` if none came.
pub(super) fn refusals(counts: &Counts) -> Option<String> {
    let refused = REFUSALS.iter().map(|(reason, words)| (counts.dropped(*reason), words));
    let causes: Vec<_> =
        refused.filter(|(count, _)| *count > 0).map(|(count, words)| format!("{count} {words}")).collect();
    (!causes.is_empty()).then(|| format!("no manifest can be trusted: {}", causes.join(", ")))
}
