//! What the service manager is told of a server (sd_notify(3)): that it sends, that it reads another file, that it stops, what it sends, and,
//! as often as it is asked for, that it lives.

use std::time::Duration;

use crate::drive::virtual_server::Published;
use crate::sys::Notifier;
use crate::types::Time;

/// Between two status lines.
const STATUS_INTERVAL: Duration = Duration::from_secs(5);

/// A server as the service manager sees it.
#[derive(Debug)]
pub(super) struct Service {
    notifier: Notifier,
    next_status: Time,
    next_beat: Time,
    /// The turns of each virtual server at the last sign of life.
    turns: Vec<u64>,
}

impl Service {
    /// One that has not begun.
    pub(super) fn new(notifier: Notifier) -> Self {
        Self { notifier, next_status: Time::default(), next_beat: Time::default(), turns: Vec::new() }
    }

    /// Packets go.
    pub(super) fn ready(&mut self, now: Time, status: &str) {
        self.next_status = now.after(STATUS_INTERVAL);
        self.notifier.ready(status);
    }

    /// Another object is made ready. [`Self::ready`] tells how that ended, whichever way.
    pub(super) fn reloading(&self) {
        self.notifier.reloading();
    }

    /// No more packets go.
    pub(super) fn stopping(&self) {
        self.notifier.stopping();
    }

    /// Time has passed. `status` is asked for only if it is told.
    pub(super) fn look(&mut self, now: Time, servers: &[Published], status: impl FnOnce() -> String) {
        if now >= self.next_status && self.notifier.is_heard() {
            self.next_status = now.after(STATUS_INTERVAL);
            self.notifier.status(&status());
        }
        if self.is_beat_due(now, servers) {
            self.notifier.watchdog();
        }
    }

    /// Whether a sign of life is due, and every thread that sends has had a turn since the last one.
    fn is_beat_due(&mut self, now: Time, servers: &[Published]) -> bool {
        let Some(watchdog) = self.notifier.watchdog_interval().filter(|_| now >= self.next_beat) else { return false };
        let turns: Vec<_> = servers.iter().map(Published::turns).collect();
        let have_moved = turns.iter().enumerate().all(|(i, turns)| match turns {
            // It has sent all that it was to send.
            None => true,
            Some(turns) => Some(turns) != self.turns.get(i),
        });
        if have_moved {
            self.next_beat = now.after(watchdog / 3);
            self.turns = turns.into_iter().map(Option::unwrap_or_default).collect();
        }
        have_moved
    }

    /// Other virtual servers have taken over.
    pub(super) fn restart(&mut self) {
        self.turns.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sign_of_life_needs_a_turn_of_every_virtual_server() {
        let mut service = Service::new(Notifier::mute(Some(Duration::from_millis(300))));
        let servers = [Published::default(), Published::default()];
        let mut is_due =
            |millis: u64| service.is_beat_due(Time::default().after(Duration::from_millis(millis)), &servers);
        servers.iter().for_each(Published::note_turn);
        assert!(is_due(0) && !is_due(50), "not oftener than asked for");
        assert!(!is_due(100), "none has moved");
        servers[0].note_turn();
        assert!(!is_due(110), "one has not");
        servers[1].note_turn();
        assert!(is_due(120) && !is_due(200));
        servers[0].note_turn();
        servers[1].note_end();
        assert!(is_due(220), "one that is done need not");
    }
}
