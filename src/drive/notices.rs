//! What the receiver's machine has noticed, in words.

use crate::receiver::Notice;

/// What kind of notice it is, and its text, for a receiver that has `limits` on the size of its object. Silence is told of by
/// `doctor::Silence`.
pub(super) fn words(notice: &Notice, limits: &str) -> Option<(&'static str, String)> {
    Some(match notice {
        Notice::ManifestRefused(refusal) => ("manifest_refused", format!("a manifest is refused: {refusal}")),
        Notice::TooLarge { size, size_max } => (
            "too_large",
            format!("the file on the group has {} bytes, at most {size_max} are allowed ({limits})", size.bytes()),
        ),
        Notice::Distrusted(distrust) => ("not_trusted", format!("a manifest is not trusted: {distrust}")),
        Notice::ExpiryUnknown => (
            "clock_unset",
            "the clock of this host is not set, so nobody knows whether the manifest has expired (see --clock-unset)"
                .into(),
        ),
        Notice::Succeeded { old, new } => {
            ("succeeded", format!("version {old} is no longer sent: going over to version {new}"))
        }
        Notice::BlockFailed(block) => {
            ("block_failed", format!("block {block} does not match its digest: it is received again"))
        }
        Notice::SessionChanged(size) => {
            ("session_changed", format!("nothing verifies: trying symbols of {} bytes", size.bytes()))
        }
        Notice::Silent => return None,
        Notice::HeardAgain => ("heard_again", "packets come again".into()),
    })
}
