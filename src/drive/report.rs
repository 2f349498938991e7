//! What the user sees: JSON events on standard output, or lines and a bar on standard error.

use std::io::{IsTerminal, Write};
use std::os::fd::AsFd;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use serde_json::{Map, Value};

use crate::failure::Failure;
use crate::sys::clock;
use crate::types::Time;

/// The version of the events' form; it changes when a member changes its meaning or goes away.
const SCHEMA: u64 = 1;
/// Between two events of progress.
const JSON_INTERVAL: Duration = Duration::from_secs(1);
/// Between two lines of progress where there is no terminal.
const LINE_INTERVAL: Duration = Duration::from_secs(10);
/// Between two drawings of the bar.
const BAR_INTERVAL: Duration = Duration::from_millis(100);

/// Where events go.
#[derive(Debug)]
pub struct Report {
    program: &'static str,
    json: bool,
    bar: Option<ProgressBar>,
    is_terminal: bool,
    has_ended: bool,
    next_progress: Time,
}

impl Report {
    /// For `program`, as JSON events or for people.
    #[must_use]
    pub fn new(program: &'static str, json: bool) -> Self {
        // A terminal that cannot move its cursor gets lines.
        let is_dumb = std::env::var_os("TERM").is_some_and(|term| term == "dumb");
        let is_terminal = std::io::stderr().is_terminal() && !is_dumb;
        Self { program, json, bar: None, is_terminal, has_ended: false, next_progress: clock::now() }
    }

    /// One for another thread, which draws no bar.
    pub(super) fn sibling(&self) -> Self {
        Self { is_terminal: false, ..Self::new(self.program, self.json) }
    }

    /// Something happened: `fields` is a JSON object, `line` what people are told of it, if anything.
    pub fn event(&mut self, name: &str, fields: Value, line: Option<String>) {
        if self.json {
            let mut event = Map::new();
            event.insert("schema".into(), SCHEMA.into());
            event.insert("event".into(), name.into());
            if let Value::Object(fields) = fields {
                event.extend(fields);
            }
            self.has_ended |= name == "end";
            let mut out = std::io::stdout().lock();
            // A reader that has stalled must not stop the transfer: all but the last word is dropped. One that has gone is no reason
            // to stop either.
            if name == "end" || takes_more(&out) {
                let _ = writeln!(out, "{}", Value::Object(event)).and_then(|()| out.flush());
            }
        } else if let Some(line) = line {
            self.line(&line);
        }
    }

    /// Something that people should know.
    pub fn notice(&mut self, kind: &str, text: &str) {
        self.event("notice", serde_json::json!({ "kind": kind, "text": text }), Some(text.to_owned()));
    }

    /// The last event, for a failure before anything began.
    pub(super) fn end_if_open(&mut self, failure: &Failure) {
        if !self.has_ended {
            let fields = serde_json::json!({ "exit": failure.exit as u8, "message": failure.to_string() });
            self.event("end", fields, None);
        }
    }

    fn line(&self, text: &str) {
        let show = || {
            let mut out = std::io::stderr().lock();
            if takes_more(&out) {
                let _ = writeln!(out, "{}: {text}", self.program);
            }
        };
        match &self.bar {
            Some(bar) => bar.suspend(show),
            None => show(),
        }
    }

    /// Whether it is time for the next report of progress.
    #[must_use]
    pub fn is_due(&self, now: Time) -> bool {
        now >= self.next_progress
    }

    /// Where the work stands: an event, the bar, or a line, whatever fits. `length` 0: there is no end to move towards.
    pub fn progress(&mut self, now: Time, name: &str, fields: Value, position: u64, length: u64, text: String) {
        self.restart(now);
        if self.json {
            self.event(name, fields, None);
        } else if self.is_terminal {
            let bar = self.bar.get_or_insert_with(|| new_bar(length));
            bar.set_length(length);
            bar.set_position(position);
            bar.set_message(text);
            bar.tick();
        } else {
            self.line(&text);
        }
    }

    /// Takes the bar away: a phase has ended.
    pub fn clear(&mut self) {
        if let Some(bar) = self.bar.take() {
            bar.finish_and_clear();
        }
    }

    /// The next report of progress is due one interval after `now`.
    pub fn restart(&mut self, now: Time) {
        self.next_progress = now.after(match (self.json, self.is_terminal) {
            (true, _) => JSON_INTERVAL,
            (false, true) => BAR_INTERVAL,
            (false, false) => LINE_INTERVAL,
        });
    }
}

/// Whether a line can be written without waiting for whoever reads.
fn takes_more(out: &impl AsFd) -> bool {
    let mut sinks = [PollFd::new(out.as_fd(), PollFlags::POLLOUT)];
    !matches!(poll(&mut sinks, PollTimeout::ZERO), Ok(0))
}

fn new_bar(length: u64) -> ProgressBar {
    let template = if length > 0 { "{bar:30} {percent:>3}% {msg}" } else { "{spinner} {msg}" };
    let style = ProgressStyle::with_template(template).expect("a valid template").progress_chars("=> ");
    ProgressBar::with_draw_target(Some(length), ProgressDrawTarget::stderr()).with_style(style)
}

/// A number of bytes for people.
#[must_use]
pub(super) fn bytes(count: u64) -> String {
    match count {
        0..1024 => format!("{count} B"),
        1024..1_048_576 => format!("{:.1} KiB", count as f64 / 1024.0),
        1_048_576..1_073_741_824 => format!("{:.1} MiB", count as f64 / 1_048_576.0),
        _ => format!("{:.2} GiB", count as f64 / 1_073_741_824.0),
    }
}

/// A rate in bits per second for people.
#[must_use]
pub(super) fn rate(bits_per_second: f64) -> String {
    match bits_per_second {
        rate if rate < 1e6 => format!("{:.1} kbit/s", rate / 1e3),
        rate if rate < 1e9 => format!("{:.1} Mbit/s", rate / 1e6),
        rate => format!("{:.2} Gbit/s", rate / 1e9),
    }
}

/// A time to go for people.
#[must_use]
pub(super) fn span(seconds: f64) -> String {
    match seconds {
        _ if !seconds.is_finite() || seconds > 1e6 => "a long time".into(),
        s if s < 120.0 => format!("{s:.0} s"),
        s if s < 7200.0 => format!("{:.0} min", s / 60.0),
        s => format!("{:.1} h", s / 3600.0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_for_people() {
        assert_eq!(
            [bytes(0), bytes(1536), bytes(64 << 20), bytes(5 << 30)],
            ["0 B", "1.5 KiB", "64.0 MiB", "5.00 GiB"]
        );
        assert_eq!([rate(64e3), rate(100e6), rate(2.5e9)], ["64.0 kbit/s", "100.0 Mbit/s", "2.50 Gbit/s"]);
        assert_eq!(
            [span(3.2), span(600.0), span(9000.0), span(f64::INFINITY)],
            ["3 s", "10 min", "2.5 h", "a long time"]
        );
    }
}
