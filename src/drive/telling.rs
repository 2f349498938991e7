//! What every receiver of one object tells while it listens: what its machine has noticed, why nothing comes, that this host drops
//! packets, and its figures.

use super::doctor::Silence;
use super::listen::Listener;
use super::notices;
use super::report::Report;
use super::tally::{self, HOST_DROPS_TEXT, HostDrops};
use crate::receiver::{Notice, Receiver};
use crate::types::Time;

/// What has been told so far.
pub(super) struct Telling {
    silence: Silence,
    drops: HostDrops,
    said_host_drops: bool,
}

impl Telling {
    /// Nothing has, at the start.
    pub(super) fn new(now: Time) -> Self {
        Self { silence: Silence::default(), drops: HostDrops { at: now, buffers: 0 }, said_host_drops: false }
    }

    /// Lets the machine know what this host has dropped, when the interval is over.
    pub(super) fn count_host_drops(&mut self, now: Time, receiver: &mut Receiver, listener: &Listener) {
        if self.drops.is_due(now) {
            self.end_drops_interval(now, receiver, listener);
        }
    }

    /// The same, at once.
    pub(super) fn end_drops_interval(&mut self, now: Time, receiver: &mut Receiver, listener: &Listener) {
        receiver.handle_host_drops(self.drops.end_interval(now, listener.dropped_buffers()));
    }

    /// The machine has noticed something. `limits`: what limits the size of its object.
    pub(super) fn notice(&mut self, notice: &Notice, limits: &str, listener: &Listener, report: &mut Report) {
        self.silence.note(notice, || listener.subject());
        if let Some((kind, text)) = notices::words(notice, limits) {
            report.notice(kind, &text);
        }
    }

    /// Says the rest, if there is something to say; answers whether progress is to be shown too.
    pub(super) fn tell(&mut self, now: Time, receiver: &Receiver, listener: &Listener, report: &mut Report) -> bool {
        self.silence.tell(listener, report);
        if listener.dropped_buffers() > 0 && !self.said_host_drops {
            self.said_host_drops = true;
            report.notice("warning", HOST_DROPS_TEXT);
        }
        report.metrics(now, |out| tally::metrics_of(out, receiver, listener.dropped_buffers()));
        report.is_due(now) && receiver.manifest().is_some()
    }
}
