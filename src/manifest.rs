//! The text of a manifest: what the object is, for which devices, and until when (docs/PROTOCOL.md, section 5.2), and its signature
//! (section 5.3).
//!
//! A text has exactly one form, so that the bytes that a signature covers are the bytes that are understood. Reading refuses every
//! other form; a `Manifest` cannot be had but by reading, so that what a sender emits has been read as a receiver will read it.
//! Never panics on what it is given, reads no clock (whether an object has expired is the caller's affair), and never takes a
//! name for a path. Reading a text does not look at its signature (`signature`), and a signature covers any text.

mod canonical;
mod signature;
#[cfg(test)]
#[allow(dead_code, reason = "all tests share it, and none uses all of it")]
#[path = "../tests/keys/signer.rs"]
pub(crate) mod signer;
#[cfg(test)]
mod tests;

use std::ffi::OsStr;
use std::fmt;
use std::ops::Deref;

use crate::digest::empty_digest;
use crate::limits::{MANIFEST_DEPTH_MAX, MANIFEST_NAME_SIZE_MAX, MANIFEST_PAYLOAD_SIZE_MAX, REPAIR_PERCENT_MAX};
use crate::types::{CodeId, Digest, ObjectKey, ObjectSize, SymbolSize};

use canonical::{Fault, Object, Value, quote};
pub use signature::{BadSignature, KeyId, NotAuthentic, PublicKey, Signature, Voucher, parse_signature_file};

/// The largest code id: the header has three bits for it.
const CODE_ID_MAX: u8 = 7;
/// The members that `critical` may name. Not `tags`, which this version reads but does not check (section 10).
const UNDERSTOOD: [&str; 10] =
    ["blake3", "code", "compatible", "created", "expires", "name", "repair_max", "size", "symbol_size", "version"];

/// What a valid manifest text says. Its members are read as fields: `manifest.digest`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Manifest {
    members: Members,
    ignored: usize,
}

impl Manifest {
    /// The number of members that this version does not know, and that `critical` does not name.
    #[must_use]
    pub fn ignored(&self) -> usize {
        self.ignored
    }

    /// The canonical text of the members that this version knows. If none was ignored, it reads back as an equal manifest.
    #[must_use]
    pub fn to_text(&self) -> String {
        self.members.emit()
    }

    /// The object that the text is about: what the header of its packet must say.
    #[must_use]
    pub fn key(&self) -> ObjectKey {
        ObjectKey { id: self.digest.object_id(), size: self.size }
    }
}

impl Deref for Manifest {
    type Target = Members;

    fn deref(&self) -> &Members {
        &self.members
    }
}

/// The members of a manifest (docs/PROTOCOL.md, section 5.2). On their own they need not go together: `manifest` checks.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Members {
    /// `blake3`: the digest of the object.
    pub digest: Digest,
    /// `size`: its length.
    pub size: ObjectSize,
    /// `name`: what to call it. Not a path.
    pub name: DisplayName,
    /// `version`: a larger one is newer; less than 2^53. 0 if the text names none.
    pub version: u64,
    /// `compatible`: what the object is for.
    pub compatible: Option<DisplayName>,
    /// `created`: seconds since 1970-01-01T00:00:00Z, less than 2^53.
    pub created: Option<u64>,
    /// `expires`: the same, not before `created`.
    pub expires: Option<u64>,
    /// `symbol_size`: the only one to accept.
    pub symbol_size: Option<SymbolSize>,
    /// `code`: the only code id to accept, 0 to 7.
    pub code: Option<CodeId>,
    /// `repair_max`: the largest repair percent to accept, 0 to 300.
    pub repair_max: Option<u16>,
    /// `tags`: the root of the tag tree (section 10).
    pub tags: Option<Digest>,
    /// `critical`: the names of members that a receiver must understand, ascending. Empty if the text has no such member.
    pub critical: Vec<String>,
}

impl Members {
    /// The members that every text has; the others are absent.
    #[must_use]
    pub fn new(digest: Digest, size: ObjectSize, name: DisplayName) -> Self {
        Self {
            digest,
            size,
            name,
            version: 0,
            compatible: None,
            created: None,
            expires: None,
            symbol_size: None,
            code: None,
            repair_max: None,
            tags: None,
            critical: Vec::new(),
        }
    }

    /// The manifest that says this, or the reason for which a receiver would refuse it.
    ///
    /// # Errors
    ///
    /// What `parse` says to the text of these members.
    pub fn manifest(&self) -> Result<Manifest, Refusal> {
        parse(self.emit().as_bytes())
    }

    /// The text, ascending by name. It is canonical, but says what it is told to.
    fn emit(&self) -> String {
        let stated = self.version != 0 || self.critical.iter().any(|name| name == "version");
        let names: Vec<String> = self.critical.iter().map(|name| quote(name)).collect();
        let members = [
            ("blake3", Some(quote(&self.digest.to_string()))),
            ("code", self.code.map(|code| code.0.to_string())),
            ("compatible", self.compatible.as_ref().map(|name| quote(name.as_str()))),
            ("created", self.created.map(|seconds| seconds.to_string())),
            ("critical", (!names.is_empty()).then(|| format!("[{}]", names.join(",")))),
            ("expires", self.expires.map(|seconds| seconds.to_string())),
            ("name", Some(quote(self.name.as_str()))),
            ("repair_max", self.repair_max.map(|percent| percent.to_string())),
            ("size", Some(self.size.bytes().to_string())),
            ("symbol_size", self.symbol_size.map(|size| size.bytes().to_string())),
            ("tags", self.tags.map(|root| quote(&root.to_string()))),
            ("version", stated.then(|| self.version.to_string())),
        ];
        let present: Vec<String> =
            members.into_iter().filter_map(|(name, value)| Some(format!("\"{name}\":{}", value?))).collect();
        format!("{{{}}}", present.join(","))
    }
}

/// A name to show to people: 1 to 128 bytes without characters that break lines, steer terminals or reorder text
/// (docs/PROTOCOL.md, section 5.2).
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct DisplayName(String);

impl DisplayName {
    /// `None` if the text is empty, too long, or has a forbidden character.
    #[must_use]
    pub fn new(text: &str) -> Option<Self> {
        let valid = (1..=MANIFEST_NAME_SIZE_MAX).contains(&text.len()) && !text.contains(is_forbidden);
        valid.then(|| Self(text.to_owned()))
    }

    /// A name like the file's: what cannot be shown becomes U+FFFD, and what is too long is cut.
    #[must_use]
    pub fn from_file_name_lossy(name: &OsStr) -> Self {
        let mut text = String::new();
        for character in name.to_string_lossy().chars() {
            let character = if is_forbidden(character) { char::REPLACEMENT_CHARACTER } else { character };
            if text.len() + character.len_utf8() > MANIFEST_NAME_SIZE_MAX {
                break;
            }
            text.push(character);
        }
        if text.is_empty() {
            text.push(char::REPLACEMENT_CHARACTER);
        }
        Self(text)
    }

    /// The name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for DisplayName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

/// Control characters, line separators and bidirectional controls.
fn is_forbidden(character: char) -> bool {
    matches!(character,
        '\0'..='\u{1f}' | '\u{7f}'..='\u{9f}' | '\u{2028}' | '\u{2029}'
        | '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// Why a text is not taken for a manifest. Who counts refusals must not count by the value of `UnknownCritical`: whoever sends
/// texts chooses it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Refusal {
    /// It has this many bytes, more than any packet can carry.
    TooLarge(usize),
    /// It is not UTF-8.
    NotUtf8,
    /// It is not JSON, or not in its canonical form.
    NotCanonical,
    /// A number is beyond +-(2^53 - 1).
    IntegerRange,
    /// It has more levels of nesting than are allowed.
    TooDeep,
    /// It is some other value than an object.
    NotAnObject,
    /// It lacks a member that is needed.
    Missing(&'static str),
    /// A member has a value of the wrong type, range or form.
    Bad(&'static str),
    /// `critical` names a member that this version does not understand.
    UnknownCritical(String),
    /// `critical` names a member that the text does not have.
    AbsentCritical(&'static str),
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TooLarge(size) => write!(f, "text has {size} bytes, at most {MANIFEST_PAYLOAD_SIZE_MAX} are allowed"),
            Self::NotUtf8 => f.write_str("text is not UTF-8"),
            Self::NotCanonical => f.write_str("text is not JSON in canonical form"),
            Self::IntegerRange => write!(f, "a number is beyond +-{}", canonical::INTEGER_MAX),
            Self::TooDeep => write!(f, "text has more than {MANIFEST_DEPTH_MAX} levels of nesting"),
            Self::NotAnObject => f.write_str("text is not a JSON object"),
            Self::Missing(name) => write!(f, "member {name} is missing"),
            Self::Bad(name) => write!(f, "member {name} has a value that is not allowed"),
            // Quoted as Rust does, because the name comes from the network and may hold control characters.
            Self::UnknownCritical(name) => write!(f, "critical names member {name:?}, which is not understood"),
            Self::AbsentCritical(name) => write!(f, "critical names member {name}, which is missing"),
        }
    }
}

impl std::error::Error for Refusal {}

impl From<Fault> for Refusal {
    fn from(fault: Fault) -> Self {
        match fault {
            Fault::Form => Self::NotCanonical,
            Fault::Integer => Self::IntegerRange,
            Fault::Depth => Self::TooDeep,
        }
    }
}

/// Reads a manifest's text (docs/PROTOCOL.md, section 5.2).
///
/// # Errors
///
/// The first rule that the text breaks.
pub fn parse(text: &[u8]) -> Result<Manifest, Refusal> {
    if text.len() > MANIFEST_PAYLOAD_SIZE_MAX {
        return Err(Refusal::TooLarge(text.len()));
    }
    let text = std::str::from_utf8(text).map_err(|_| Refusal::NotUtf8)?;
    let Value::Object(mut object) = canonical::read(text, MANIFEST_DEPTH_MAX)? else {
        return Err(Refusal::NotAnObject);
    };
    // First, because a member that is not understood may change the meaning of those that are.
    let critical = take_critical(&mut object)?;
    let members = Members {
        digest: take_needed(&mut object, "blake3", digest)?,
        size: take_needed(&mut object, "size", |value| ObjectSize::new(value.into_unsigned()?))?,
        name: take_needed(&mut object, "name", display_name)?,
        version: take(&mut object, "version", Value::into_unsigned)?.unwrap_or(0),
        compatible: take(&mut object, "compatible", display_name)?,
        created: take(&mut object, "created", Value::into_unsigned)?,
        expires: take(&mut object, "expires", Value::into_unsigned)?,
        symbol_size: take(&mut object, "symbol_size", symbol_size)?,
        code: take(&mut object, "code", code)?,
        repair_max: take(&mut object, "repair_max", repair_percent)?,
        tags: take(&mut object, "tags", digest)?,
        critical,
    };
    if members.expires.is_some_and(|expires| members.created.is_some_and(|created| expires < created)) {
        return Err(Refusal::Bad("expires"));
    }
    if members.size.bytes() == 0 && members.digest != empty_digest() {
        // Such an object is complete at its manifest: nothing else would ever check the digest.
        return Err(Refusal::Bad("blake3"));
    }
    if members.tags.is_some() && (members.symbol_size.is_none() || members.code.is_none()) {
        return Err(Refusal::Bad("tags"));
    }
    Ok(Manifest { members, ignored: object.len() })
}

fn take_critical(object: &mut Object) -> Result<Vec<String>, Refusal> {
    let Some(names) = take(object, "critical", Value::into_strings)? else {
        return Ok(Vec::new());
    };
    let ascending = names.is_sorted_by(|first, second| first < second);
    if names.is_empty() || !ascending || names.iter().any(|name| name == "critical") {
        return Err(Refusal::Bad("critical"));
    }
    for name in &names {
        match UNDERSTOOD.into_iter().find(|understood| understood == name) {
            None => return Err(Refusal::UnknownCritical(name.clone())),
            Some(absent) if !object.contains_key(absent) => return Err(Refusal::AbsentCritical(absent)),
            Some(_) => {}
        }
    }
    Ok(names)
}

/// Removes a member, so that what is left in the end is what is not known.
fn take<T>(object: &mut Object, name: &'static str, read: fn(Value) -> Option<T>) -> Result<Option<T>, Refusal> {
    object.remove(name).map(|value| read(value).ok_or(Refusal::Bad(name))).transpose()
}

fn take_needed<T>(object: &mut Object, name: &'static str, read: fn(Value) -> Option<T>) -> Result<T, Refusal> {
    take(object, name, read)?.ok_or(Refusal::Missing(name))
}

fn digest(value: Value) -> Option<Digest> {
    Digest::from_hex(&value.into_string()?)
}

fn display_name(value: Value) -> Option<DisplayName> {
    DisplayName::new(&value.into_string()?)
}

fn symbol_size(value: Value) -> Option<SymbolSize> {
    SymbolSize::new(u16::try_from(value.into_unsigned()?).ok()?)
}

fn code(value: Value) -> Option<CodeId> {
    let id = u8::try_from(value.into_unsigned()?).ok()?;
    (id <= CODE_ID_MAX).then_some(CodeId(id))
}

fn repair_percent(value: Value) -> Option<u16> {
    let percent = u16::try_from(value.into_unsigned()?).ok()?;
    (percent <= REPAIR_PERCENT_MAX).then_some(percent)
}
