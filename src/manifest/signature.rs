//! Minisign signatures (docs/PROTOCOL.md, section 5.3): their form in packets and in files, and whether one is right.
//!
//! The mathematics is the crate `minisign-verify`'s: it checks the signature of the prehashed text, and the global signature, which covers
//! the trusted comment. It reads the form of files, so a signature from a packet is put into that form first; whatever could read
//! otherwise there is refused before. Old signatures, of the text itself, are refused. Never panics on what it is given, reads no
//! clock and no file, and knows nothing of who may be trusted with what.

use std::fmt;

use data_encoding::BASE64;

use crate::limits::{SIGNATURE_FIXED_SIZE, TRUSTED_COMMENT_SIZE_MAX};

/// The signature is of the BLAKE2b-512 hash of the text.
const PREHASHED: [u8; 2] = *b"ED";
/// The signature is of the text itself.
const LEGACY: [u8; 2] = *b"Ed";
/// Algorithm, key id, signature.
const HEAD_SIZE: usize = 74;
const GLOBAL_SIZE: usize = 64;
/// Algorithm, key id, key.
const PUBLIC_KEY_SIZE: usize = 42;
const UNTRUSTED_PREFIX: &str = "untrusted comment: ";
const TRUSTED_PREFIX: &str = "trusted comment: ";

const _: () = assert!(HEAD_SIZE + GLOBAL_SIZE == SIGNATURE_FIXED_SIZE);

/// Which key made a signature: eight bytes that say so, and prove nothing.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct KeyId([u8; 8]);

impl fmt::Display for KeyId {
    /// As minisign writes it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:X}", u64::from_le_bytes(self.0))
    }
}

impl fmt::Debug for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A key by which signatures are checked.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PublicKey {
    id: KeyId,
    key: minisign_verify::PublicKey,
}

impl PublicKey {
    /// The key in the 56 characters of base64 that minisign calls the public key; `None` if they are not one.
    #[must_use]
    pub fn parse(base64: &str) -> Option<Self> {
        let bytes: [u8; PUBLIC_KEY_SIZE] = BASE64.decode(base64.as_bytes()).ok()?.try_into().ok()?;
        let (algorithm, rest) = bytes.split_first_chunk::<2>()?;
        let id = KeyId(*rest.first_chunk()?);
        let key = minisign_verify::PublicKey::from_base64(base64).ok()?;
        (*algorithm == LEGACY).then_some(Self { id, key })
    }

    /// The key in the text of a public-key file: a comment, then the key.
    #[must_use]
    pub fn parse_file(text: &str) -> Option<Self> {
        let mut lines = text.lines();
        let is_commented = lines.next()?.starts_with(UNTRUSTED_PREFIX);
        let key = Self::parse(lines.next()?)?;
        (is_commented && lines.all(str::is_empty)).then_some(key)
    }

    /// What its signatures say that they are made by.
    #[must_use]
    pub fn id(&self) -> KeyId {
        self.id
    }
}

/// A signature that has a signature's form.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Signature<'a> {
    head: &'a [u8; HEAD_SIZE],
    key_id: KeyId,
    comment: &'a str,
    global: &'a [u8; GLOBAL_SIZE],
}

impl<'a> Signature<'a> {
    /// Reads a signature as packets carry it.
    ///
    /// # Errors
    /// The first rule of form that it breaks.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, BadSignature> {
        let (head, rest) = bytes.split_first_chunk::<HEAD_SIZE>().ok_or(BadSignature::Form)?;
        let (comment, global) = rest.split_last_chunk::<GLOBAL_SIZE>().ok_or(BadSignature::Form)?;
        let (algorithm, tail) = head.split_first_chunk::<2>().ok_or(BadSignature::Form)?;
        let key_id = KeyId(*tail.first_chunk().ok_or(BadSignature::Form)?);
        match *algorithm {
            PREHASHED => {}
            LEGACY => return Err(BadSignature::Legacy),
            _ => return Err(BadSignature::Algorithm),
        }
        if comment.len() > TRUSTED_COMMENT_SIZE_MAX {
            return Err(BadSignature::CommentSize(comment.len()));
        }
        let comment = std::str::from_utf8(comment).map_err(|_| BadSignature::Comment)?;
        if comment.contains(|character: char| character.is_control() && character != '\t') {
            return Err(BadSignature::Comment);
        }
        Ok(Self { head, key_id, comment, global })
    }

    /// Who says that he signed.
    #[must_use]
    pub fn key_id(&self) -> KeyId {
        self.key_id
    }

    /// Whether one of `keys` signed `text`, and the trusted comment with it.
    ///
    /// # Errors
    /// None of them has the key id, or those that have it did not sign this.
    pub fn verify(&self, text: &[u8], keys: &[PublicKey]) -> Result<Voucher, NotAuthentic> {
        let mut candidates = keys.iter().filter(|key| key.id == self.key_id).peekable();
        if candidates.peek().is_none() {
            return Err(NotAuthentic::UnknownKey(self.key_id));
        }
        let signature = minisign_verify::Signature::decode(&self.to_file());
        let signature = signature.map_err(|_| NotAuthentic::WrongSignature)?;
        let is_signed = candidates.any(|key| key.key.verify(text, &signature, false).is_ok());
        // What was verified is what will be shown.
        if !is_signed || signature.trusted_comment() != self.comment {
            return Err(NotAuthentic::WrongSignature);
        }
        Ok(Voucher { key_id: self.key_id, comment: self.comment.to_owned() })
    }

    /// The text of a signature file.
    fn to_file(self) -> String {
        let (head, global) = (BASE64.encode(self.head), BASE64.encode(self.global));
        format!("{UNTRUSTED_PREFIX}\n{head}\n{TRUSTED_PREFIX}{}\n{global}\n", self.comment)
    }
}

/// Reads the text of a signature file, and returns the signature as packets carry it: [`Signature::parse`] takes it.
///
/// # Errors
/// The first rule of form that it breaks.
pub fn parse_signature_file(text: &str) -> Result<Vec<u8>, BadSignature> {
    let mut lines = text.lines();
    let mut next = || lines.next().ok_or(BadSignature::Form);
    let (first, head, comment, global) = (next()?, next()?, next()?, next()?);
    let comment = comment.strip_prefix(TRUSTED_PREFIX).ok_or(BadSignature::Form)?;
    let decode = |line: &str, size| {
        BASE64.decode(line.as_bytes()).ok().filter(|bytes| bytes.len() == size).ok_or(BadSignature::Form)
    };
    let (head, global) = (decode(head, HEAD_SIZE)?, decode(global, GLOBAL_SIZE)?);
    if !first.starts_with(UNTRUSTED_PREFIX) || !lines.all(str::is_empty) {
        return Err(BadSignature::Form);
    }
    let bytes = [&head, comment.as_bytes(), &global].concat();
    Signature::parse(&bytes)?;
    Ok(bytes)
}

/// That a text is signed by a key that was asked for. Only a successful verification makes one.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Voucher {
    key_id: KeyId,
    comment: String,
}

impl Voucher {
    /// The key.
    #[must_use]
    pub fn key_id(&self) -> KeyId {
        self.key_id
    }

    /// What was signed beside the text: at most 256 bytes, no control characters but tabs.
    #[must_use]
    pub fn comment(&self) -> &str {
        &self.comment
    }
}

/// Why bytes or a file are not a signature.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum BadSignature {
    /// Lengths, lines or base64 are wrong.
    Form,
    /// It is one of the text itself, as old versions of minisign made them.
    Legacy,
    /// Its algorithm has another name.
    Algorithm,
    /// Its trusted comment has so many bytes.
    CommentSize(usize),
    /// Its trusted comment is not UTF-8, or has a control character.
    Comment,
}

impl fmt::Display for BadSignature {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Form => f.write_str("not a minisign signature"),
            Self::Legacy => f.write_str("a signature that is not prehashed (made by minisign -l or an old version)"),
            Self::Algorithm => f.write_str("a signature by another algorithm than Ed25519"),
            Self::CommentSize(size) => {
                write!(f, "the trusted comment has {size} bytes, at most {TRUSTED_COMMENT_SIZE_MAX} are allowed")
            }
            Self::Comment => f.write_str("the trusted comment is not UTF-8 or has control characters"),
        }
    }
}

impl std::error::Error for BadSignature {}

/// Why nobody vouches for a text.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum NotAuthentic {
    /// The signature names a key that was not asked for.
    UnknownKey(KeyId),
    /// The key did not sign this text or this trusted comment.
    WrongSignature,
}

impl fmt::Display for NotAuthentic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::UnknownKey(id) => write!(f, "it is signed by another key, {id}"),
            Self::WrongSignature => f.write_str("the signature is not that of this text"),
        }
    }
}

impl std::error::Error for NotAuthentic {}

#[cfg(test)]
mod tests;
