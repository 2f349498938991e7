//! What an agent remembers: the last version that is done, and what is in place, or about to be, whose hook has not succeeded yet.
//!
//! ```text
//! iotupc journal 1
//! done 6                                       or: done none
//! pending {"blake3":"...",...,"version":7}     or: pending none
//! blake3 64 digits, of the lines above
//! ```
//!
//! Only exactly what is written here is read: a journal that is damaged is an error and never one that forgets a version.

use crate::limits::JOURNAL_SIZE_MAX;
use crate::manifest::{self, Manifest};

/// The first line; its number is that of the form.
const MAGIC: &str = "iotupc journal 1";

/// All that outlives an agent.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Journal {
    done: Option<u64>,
    pending: Option<Box<Manifest>>,
}

/// It is damaged, or nobody's journal.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct BadJournal;

impl Journal {
    /// A version is done, and nothing is pending.
    #[must_use]
    pub fn done_with(version: u64) -> Self {
        Self { done: Some(version), pending: None }
    }

    /// The last version whose hook has succeeded.
    #[must_use]
    pub fn done(&self) -> Option<u64> {
        self.done
    }

    /// What is in place, or about to be, and not done.
    #[must_use]
    pub fn pending(&self) -> Option<&Manifest> {
        self.pending.as_deref()
    }

    pub(super) fn with_pending(&self, manifest: &Manifest) -> Self {
        Self { done: self.done, pending: Some(Box::new(manifest.clone())) }
    }

    pub(super) fn without_pending(&self) -> Self {
        Self { done: self.done, pending: None }
    }

    /// The file's whole content.
    #[must_use]
    pub fn to_text(&self) -> String {
        let done = self.done.map_or_else(|| "none".to_owned(), |version| version.to_string());
        // Canonical JSON has no line feeds.
        let pending = self.pending.as_ref().map_or_else(|| "none".to_owned(), |manifest| manifest.to_text());
        let content = format!("{MAGIC}\ndone {done}\npending {pending}\n");
        format!("{content}blake3 {}\n", blake3::hash(content.as_bytes()))
    }

    /// Reads it.
    ///
    /// # Errors
    /// If it is anything but what [`Self::to_text`] writes.
    pub fn parse(bytes: &[u8]) -> Result<Self, BadJournal> {
        if bytes.len() > JOURNAL_SIZE_MAX {
            return Err(BadJournal);
        }
        let journal = Self::read(bytes).ok_or(BadJournal)?;
        let is_whole = journal.to_text().as_bytes() == bytes;
        is_whole.then_some(journal).ok_or(BadJournal)
    }

    fn read(bytes: &[u8]) -> Option<Self> {
        let mut lines = std::str::from_utf8(bytes).ok()?.lines().skip(1);
        let done = match lines.next()?.strip_prefix("done ")? {
            "none" => None,
            version => Some(version.parse().ok()?),
        };
        let pending = match lines.next()?.strip_prefix("pending ")? {
            "none" => None,
            text => Some(Box::new(manifest::parse(text.as_bytes()).ok()?)),
        };
        Some(Self { done, pending })
    }
}
