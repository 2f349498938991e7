//! The update agent of a device: what it does next, given what was announced, what has come of fetching and of the hook, and a journal that
//! outlives it. A machine without I/O: it takes time and completions, and answers with one step at a time.
//!
//! ```text
//!            announced         splay over       verified, journal kept, named      hook succeeded, journal kept
//! watching ─────────────► chosen ────────► fetching ───────────────► hook pending ───────────────► watching
//!                             ▲               │ failed: back-off         │ failed: back-off, again
//!                             └───────────────┘                          └─► a newer one is announced: chosen
//! ```
//!
//! The journal is written before a file gets its name, and says what is about to be there: when the agent starts again, it looks whether
//! that is so. So wherever it was stopped, the hook of a version that is in place runs until it has succeeded, at least once, and a version
//! counts as done only after that.

mod journal;
#[cfg(test)]
mod tests;

use std::time::Duration;

pub use journal::{BadJournal, Journal};

use crate::limits::{FETCH_RETRY_MAX, FETCH_RETRY_MIN, HOOK_RETRY_MAX};
use crate::manifest::Manifest;
use crate::types::Time;

/// What an agent is told.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct AgentConfig {
    /// No version below this one.
    pub version_min: u64,
    /// Wait for a time at random up to this one before fetching what is new.
    pub splay: Duration,
    /// Between a hook that failed and the next attempt, the first time.
    pub hook_retry: Duration,
    /// There is a hook.
    pub has_hook: bool,
    /// Where the random times begin.
    pub seed: u64,
}

/// What to do next. Each but `Watch` is answered once.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Step {
    /// Look whether this is in place: `handle_checked`.
    Check(Box<Manifest>),
    /// Receive the newest there is of this version or newer ones: what was announced may have been replaced, or be a replay. Before it gets its name, keep the journal that [`Agent::journal_of`] says; then
    /// `handle_fetched`, or `handle_fetch_failed` whatever failed.
    Fetch {
        /// The oldest to take.
        version_min: u64,
    },
    /// Run the hook for what is in place: `handle_hook`.
    RunHook {
        /// What is in place.
        manifest: Box<Manifest>,
        /// How often it has been run for it since the agent started, this time included.
        attempt: u32,
        /// The last version that is done.
        previous: Option<u64>,
    },
    /// Write the journal, as a whole and for good: `handle_kept`.
    Keep(Journal),
    /// Wait for announcements, `handle_offer` of those that can be trusted, until then at the latest; without an end if there is none.
    Watch {
        /// The oldest version that is news.
        version_min: u64,
        /// When to ask again.
        until: Option<Time>,
    },
}

/// A version that has been announced and is to be fetched.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Offer {
    version: u64,
    due: Time,
}

/// Attempts that failed, and when the next may be made.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
struct BackOff {
    failure_count: u32,
    due: Time,
}

#[derive(Clone, PartialEq, Eq, Debug)]
enum Phase {
    /// The journal says that something may be in place.
    Checking,
    /// Nothing is under way.
    Waiting,
    /// A version is being fetched.
    Fetching,
    /// The hook runs.
    Hooking,
    /// This is being written.
    Keeping(Journal),
}

/// One device's agent, for one file.
#[derive(Debug)]
pub struct Agent {
    config: AgentConfig,
    random: Random,
    /// What was kept last.
    journal: Journal,
    phase: Phase,
    offer: Option<Offer>,
    fetch: BackOff,
    /// The newest version that could not be fetched.
    failed_version: Option<u64>,
    hook: BackOff,
    /// The newest version that was noted as in place, or about to be, and is not: no older one takes its place.
    lost: Option<u64>,
}

impl Agent {
    /// One that starts, with what the journal says.
    #[must_use]
    pub fn new(config: AgentConfig, journal: Journal) -> Self {
        let phase = if journal.pending().is_some() { Phase::Checking } else { Phase::Waiting };
        Self {
            random: Random(config.seed),
            config,
            journal,
            phase,
            offer: None,
            fetch: BackOff::default(),
            failed_version: None,
            hook: BackOff::default(),
            lost: None,
        }
    }

    /// What to do at `now`.
    pub fn poll(&mut self, now: Time) -> Step {
        match &self.phase {
            Phase::Checking => Step::Check(Box::new(self.pending().clone())),
            Phase::Keeping(journal) => Step::Keep(journal.clone()),
            Phase::Fetching => Step::Fetch { version_min: self.version_min() },
            Phase::Hooking => self.run_hook(),
            Phase::Waiting if self.offer.is_some_and(|offer| now >= offer.due) => {
                self.phase = Phase::Fetching;
                Step::Fetch { version_min: self.version_min() }
            }
            Phase::Waiting if self.journal.pending().is_some() && now >= self.hook.due => self.begin_hook(),
            Phase::Waiting => {
                let hook_due = self.journal.pending().map(|_| self.hook.due);
                let until = [self.offer.map(|offer| offer.due), hook_due].into_iter().flatten().min();
                Step::Watch { version_min: self.news_min(), until }
            }
        }
    }

    fn begin_hook(&mut self) -> Step {
        if self.config.has_hook {
            self.phase = Phase::Hooking;
            return self.run_hook();
        }
        let journal = Journal::done_with(self.pending().version);
        self.phase = Phase::Keeping(journal.clone());
        Step::Keep(journal)
    }

    fn run_hook(&self) -> Step {
        let attempt = self.hook.failure_count.saturating_add(1);
        Step::RunHook { manifest: Box::new(self.pending().clone()), attempt, previous: self.journal.done() }
    }

    fn pending(&self) -> &Manifest {
        self.journal.pending().expect("only in phases in which something is pending")
    }

    /// The oldest version that is neither in place nor done, and not older than one that was.
    #[must_use]
    pub fn version_min(&self) -> u64 {
        let known = [self.journal.done(), self.journal.pending().map(|pending| pending.version)];
        let known = known.into_iter().flatten().map(|version| version.saturating_add(1));
        known.chain(self.lost).fold(self.config.version_min, u64::max)
    }

    /// The oldest version that changes anything when it is announced.
    fn news_min(&self) -> u64 {
        self.offer.map_or_else(|| self.version_min(), |offer| offer.version.saturating_add(1))
    }

    /// Whether what the journal says is in place, byte for byte.
    pub fn handle_checked(&mut self, is_in_place: bool) {
        assert_eq!(self.phase, Phase::Checking, "it was asked for");
        self.phase = Phase::Waiting;
        if !is_in_place {
            // It was stopped just before the file got its name, or that has been changed since. It is fetched again.
            self.lost = self.lost.max(Some(self.pending().version));
            self.journal = self.journal.without_pending();
        }
    }

    /// A version that can be trusted and fits has been announced. Answers with when it will be fetched, if it is news.
    pub fn handle_offer(&mut self, now: Time, version: u64) -> Option<Time> {
        if version < self.news_min() {
            return None;
        }
        if self.failed_version.is_some_and(|failed| version > failed) {
            (self.fetch, self.failed_version) = (BackOff::default(), None);
        }
        // A device that waits for its turn goes on waiting when a still newer version comes.
        let due = match self.offer {
            Some(offer) => offer.due,
            None => now.after(self.random.up_to(self.config.splay)).max(self.fetch.due),
        };
        self.offer = Some(Offer { version, due });
        Some(due)
    }

    /// What the journal must say before `manifest`, whose object has been received whole, gets its name.
    #[must_use]
    pub fn journal_of(&self, manifest: &Manifest) -> Journal {
        self.journal.with_pending(manifest)
    }

    /// What was to be fetched is in place.
    pub fn handle_fetched(&mut self, now: Time, manifest: &Manifest) {
        assert_eq!(self.phase, Phase::Fetching, "it was asked for");
        self.phase = Phase::Waiting;
        self.journal = self.journal.with_pending(manifest);
        self.offer = None;
        (self.fetch, self.failed_version) = (BackOff::default(), None);
        self.hook = BackOff { failure_count: 0, due: now };
    }

    /// What was to be fetched is not in place; `noted` is the version of which the journal says by now that it is about to be. It must
    /// be announced anew; answers with the time before which it is not tried again.
    ///
    /// What was in place before may not be there any more: a device is overwritten in its place.
    pub fn handle_fetch_failed(&mut self, now: Time, noted: Option<u64>) -> Time {
        assert_eq!(self.phase, Phase::Fetching, "it was asked for");
        self.phase = if self.journal.pending().is_some() { Phase::Checking } else { Phase::Waiting };
        self.lost = self.lost.max(noted);
        if let Some(offer) = self.offer.take() {
            self.failed_version = self.failed_version.max(Some(offer.version));
        }
        self.fetch = self.fetch.failed(now, FETCH_RETRY_MIN, FETCH_RETRY_MAX, &mut self.random);
        self.fetch.due
    }

    /// The hook has ended. Answers with when it is run again, if it has failed.
    pub fn handle_hook(&mut self, now: Time, has_succeeded: bool) -> Option<Time> {
        assert_eq!(self.phase, Phase::Hooking, "it was asked for");
        if has_succeeded {
            self.phase = Phase::Keeping(Journal::done_with(self.pending().version));
            return None;
        }
        self.phase = Phase::Waiting;
        self.hook = self.hook.failed(now, self.config.hook_retry, HOOK_RETRY_MAX, &mut self.random);
        Some(self.hook.due)
    }

    /// The journal has been written.
    pub fn handle_kept(&mut self) {
        if let Phase::Keeping(journal) = std::mem::replace(&mut self.phase, Phase::Waiting) {
            self.journal = journal;
        }
    }
}

impl BackOff {
    /// One more attempt has failed: the next comes after a time that doubles with each, from `first` to `longest`, of which a random half
    /// is left out, so that a fleet that failed together does not come back together.
    fn failed(self, now: Time, first: Duration, longest: Duration, random: &mut Random) -> Self {
        let doubled = first.saturating_mul(1_u32.checked_shl(self.failure_count).unwrap_or(u32::MAX)).min(longest);
        let due = now.after(doubled / 2 + random.up_to(doubled / 2));
        Self { failure_count: self.failure_count.saturating_add(1), due }
    }
}

/// Splitmix64 (Steele, Lea and Flood, 2014).
#[derive(Debug)]
struct Random(u64);

impl Random {
    /// A time from 0 to `longest`.
    fn up_to(&mut self, longest: Duration) -> Duration {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^= z >> 31;
        let nanos = u64::try_from(longest.as_nanos()).unwrap_or(u64::MAX);
        Duration::from_nanos(z % nanos.saturating_add(1).max(1))
    }
}
