//! Which symbol size and code to take symbols of (docs/PROTOCOL.md, section 5.1). Descriptions are not signed, so each is taken
//! provisionally, and given up for the next when it leads nowhere.

use crate::limits::{DESCRIPTION_COUNT_MAX, DESCRIPTION_SILENCE_MAX};
use crate::types::{CodeId, ObjectSize, SizeTag, SymbolSize, Time};

/// The allowance starts at 3/2 of the object and doubles up to 64 times the object.
const ALLOWANCE_HALVES_START: u64 = 3;
const ALLOWANCE_HALVES_MAX: u64 = 128;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Entry {
    symbol_size: SymbolSize,
    code: CodeId,
    has_progress: bool,
}

/// The descriptions seen for one object, and the one in use.
#[derive(Clone, Debug)]
pub(super) struct Sessions {
    entries: Vec<Entry>,
    current: usize,
    object_size: u64,
    allowance_halves: u64,
    /// Payload bytes of data packets since progress was made: of the description in use, and of others.
    own_bytes: u64,
    other_bytes: u64,
    data_bytes: u64,
    current_seen: Time,
    other_seen: Option<Time>,
}

impl Sessions {
    pub(super) fn new(now: Time, size: ObjectSize, symbol_size: SymbolSize, code: CodeId) -> Self {
        let mut entries = Vec::with_capacity(DESCRIPTION_COUNT_MAX);
        entries.push(Entry { symbol_size, code, has_progress: false });
        Self {
            entries,
            current: 0,
            object_size: size.bytes(),
            allowance_halves: ALLOWANCE_HALVES_START,
            own_bytes: 0,
            other_bytes: 0,
            data_bytes: 0,
            current_seen: now,
            other_seen: None,
        }
    }

    pub(super) fn symbol_size(&self) -> SymbolSize {
        self.current().symbol_size
    }

    pub(super) fn code(&self) -> CodeId {
        self.current().code
    }

    fn current(&self) -> &Entry {
        self.entries.get(self.current).expect("the one in use is in the table")
    }

    /// A description came.
    pub(super) fn note(&mut self, symbol_size: SymbolSize, code: CodeId) {
        if self.entries.iter().any(|entry| (entry.symbol_size, entry.code) == (symbol_size, code)) {
            return;
        }
        let entry = Entry { symbol_size, code, has_progress: false };
        if self.entries.len() < DESCRIPTION_COUNT_MAX {
            self.entries.push(entry);
            return;
        }
        // Beginning behind the one in use: the one that was tried longest ago comes last in the rotation.
        let places = (1..self.entries.len()).rev().map(|step| (self.current + step) % DESCRIPTION_COUNT_MAX);
        let useless = places.into_iter().find(|&place| self.entries.get(place).is_some_and(|old| !old.has_progress));
        if let Some(slot) = useless.and_then(|place| self.entries.get_mut(place)) {
            *slot = entry;
        }
    }

    /// A data packet of the object came. Whether it is one of the description in use.
    pub(super) fn admits(&mut self, now: Time, code: CodeId, tag: SizeTag, payload_size: usize) -> bool {
        self.data_bytes = self.data_bytes.saturating_add(payload_size as u64);
        let current = self.current();
        let admitted = current.code == code && current.symbol_size.tag() == tag;
        if admitted {
            self.own_bytes = self.own_bytes.saturating_add(payload_size as u64);
            self.current_seen = now;
        } else {
            self.other_bytes = self.other_bytes.saturating_add(payload_size as u64);
            self.other_seen = Some(now);
        }
        admitted
    }

    /// Payload bytes of all data packets of the object, whoever sent them.
    pub(super) fn data_bytes(&self) -> u64 {
        self.data_bytes
    }

    /// A block of at least two symbols of the description in use has been verified.
    pub(super) fn progress(&mut self) {
        (self.own_bytes, self.other_bytes) = (0, 0);
        if let Some(entry) = self.entries.get_mut(self.current) {
            entry.has_progress = true;
        }
    }

    /// Whether to go on to the next description.
    pub(super) fn leads_nowhere(&self, now: Time) -> bool {
        let allowance = self.object_size.saturating_mul(self.allowance_halves) / 2;
        // Others may be sent at the same time, and by rows no block is complete before all are nearly so: what comes of others counts
        // only as far as it is more than three honest ones would send.
        let others_max = allowance.saturating_add(self.own_bytes.saturating_mul(2));
        let used_up = self.own_bytes > allowance || self.other_bytes > others_max;
        let silent = now.since(self.current_seen) > DESCRIPTION_SILENCE_MAX
            && self.other_seen.is_some_and(|at| now.since(at) < DESCRIPTION_SILENCE_MAX);
        self.entries.len() > 1 && (used_up || silent)
    }

    /// Goes on to the next description.
    pub(super) fn change(&mut self, now: Time) {
        self.current = (self.current + 1) % self.entries.len();
        self.allowance_halves = (self.allowance_halves * 2).min(ALLOWANCE_HALVES_MAX);
        (self.own_bytes, self.other_bytes) = (0, 0);
        self.current_seen = now;
        self.other_seen = None;
    }

    /// Symbols of the description in use can be taken from now on: until now it could not show what it is worth.
    pub(super) fn ready(&mut self, now: Time) {
        (self.own_bytes, self.other_bytes) = (0, 0);
        self.current_seen = now;
        self.other_seen = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    const CODE: CodeId = CodeId::REED_SOLOMON;

    fn size(bytes: u16) -> SymbolSize {
        SymbolSize::new(bytes).unwrap()
    }

    fn sessions() -> Sessions {
        Sessions::new(Time::default(), ObjectSize::new(1_000_000).unwrap(), size(1408), CODE)
    }

    fn feed(sessions: &mut Sessions, symbol_size: u16, bytes: u64) {
        for _ in 0..bytes / 1000 {
            sessions.admits(Time::default(), CODE, size(symbol_size).tag(), 1000);
        }
    }

    #[test]
    fn lone_description_is_kept_however_long_nothing_verifies() {
        let mut sessions = sessions();
        feed(&mut sessions, 1408, 50_000_000);
        assert!(!sessions.leads_nowhere(Time::default()));
    }

    #[test]
    fn next_one_is_tried_after_one_and_a_half_passes_then_three() {
        let mut sessions = sessions();
        sessions.note(size(1152), CODE);
        feed(&mut sessions, 1408, 1_500_000);
        assert!(!sessions.leads_nowhere(Time::default()));
        feed(&mut sessions, 1408, 1000);
        assert!(sessions.leads_nowhere(Time::default()));
        sessions.change(Time::default());
        assert_eq!(sessions.symbol_size(), size(1152));
        feed(&mut sessions, 1408, 3_000_000);
        assert!(!sessions.leads_nowhere(Time::default()));
        feed(&mut sessions, 1408, 1000);
        assert!(sessions.leads_nowhere(Time::default()));
        sessions.change(Time::default());
        assert_eq!(sessions.symbol_size(), size(1408));
    }

    /// Two, three or four honest ones at the same time: the one in use is not left before it could have been complete.
    #[test]
    fn description_is_kept_while_others_are_sent_as_well() {
        for others in 1..=3 {
            let mut sessions = sessions();
            sessions.note(size(1152), CODE);
            feed(&mut sessions, 1408, 1000);
            for _ in 0..1490 {
                feed(&mut sessions, 1408, 1000);
                feed(&mut sessions, 1152, others * 1000);
                assert!(!sessions.leads_nowhere(Time::default()));
            }
            feed(&mut sessions, 1408, 20_000);
            assert!(sessions.leads_nowhere(Time::default()));
        }
    }

    #[test]
    fn progress_restarts_the_allowance() {
        let mut sessions = sessions();
        sessions.note(size(1152), CODE);
        feed(&mut sessions, 1408, 1_400_000);
        sessions.progress();
        feed(&mut sessions, 1408, 1_400_000);
        assert!(!sessions.leads_nowhere(Time::default()));
    }

    #[test]
    fn silent_description_gives_way_to_one_that_is_alive() {
        let mut sessions = sessions();
        sessions.note(size(1152), CODE);
        let late = Time::default().after(Duration::from_secs(6));
        assert!(!sessions.leads_nowhere(late));
        assert!(!sessions.admits(late, CODE, size(1152).tag(), 1152));
        assert!(sessions.leads_nowhere(late));
    }

    #[test]
    fn full_table_replaces_what_has_led_nowhere_but_never_the_one_in_use() {
        let mut sessions = sessions();
        sessions.progress();
        for units in 8..100 {
            sessions.note(size(units * 64), CODE);
        }
        assert_eq!(sessions.entries.len(), DESCRIPTION_COUNT_MAX);
        assert_eq!(sessions.symbol_size(), size(1408));
        assert!(sessions.entries.iter().any(|entry| entry.symbol_size == size(99 * 64)), "the newest has a place");
    }
}
