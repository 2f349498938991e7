//! What the user sees: JSON events on standard output, or lines and a bar on standard error; and figures in a file, where that is asked for.

use std::io::Write;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde_json::{Map, Value};

use super::log::{Log, Priority, Reader, Verbosity, takes_more};
use super::metrics::{Exposition, Metrics, MetricsOptions};
use crate::failure::{Exit, Failure, describe, shown};
use crate::sys::clock;
use crate::types::Time;

/// The version of the events' form (docs/events.schema.json); it changes when a member changes its meaning or goes away.
const SCHEMA: u64 = 1;
/// Between two events of progress.
const JSON_INTERVAL: Duration = Duration::from_secs(1);
/// Between two lines of progress where there is no terminal.
const LINE_INTERVAL: Duration = Duration::from_secs(10);
/// The same in the journal, where they are kept.
const JOURNAL_INTERVAL: Duration = Duration::from_secs(300);
/// Between two drawings of the bar.
const BAR_INTERVAL: Duration = Duration::from_millis(100);

/// Where the work stands.
#[derive(Debug)]
pub struct Standing {
    /// The event's name.
    pub name: &'static str,
    /// Its members.
    pub fields: Value,
    /// How far it is on the way to `length`.
    pub position: u64,
    /// 0: there is no end to move towards.
    pub length: u64,
    /// What people want to know first.
    pub headline: String,
    /// And then; empty if there is no more.
    pub details: String,
}

/// Where events go.
#[derive(Debug)]
pub struct Report {
    log: Log,
    json: bool,
    bar: Option<ProgressBar>,
    has_ended: bool,
    next_progress: Time,
    /// When the facts of progress are next said, with [`Verbosity::Verbose`].
    next_facts: Time,
    metrics: Option<Metrics>,
}

impl Report {
    /// For `program`, as JSON events or for people.
    #[must_use]
    pub fn new(program: &'static str, json: bool) -> Self {
        Self::with_verbosity(program, json, Verbosity::default())
    }

    /// The same, with more or less on standard error.
    #[must_use]
    pub fn with_verbosity(program: &'static str, json: bool, verbosity: Verbosity) -> Self {
        let (log, now) = (Log::new(program, verbosity), clock::now());
        Self { log, json, bar: None, has_ended: false, next_progress: now, next_facts: now, metrics: None }
    }

    /// Writes figures into a file from now on.
    ///
    /// # Errors
    /// [`Exit::Unavailable`] if there is no thread to be had that writes them.
    pub fn write_metrics(&mut self, options: MetricsOptions) -> Result<(), Failure> {
        self.metrics = Some(Metrics::start(options)?);
        Ok(())
    }

    /// One for another thread, which draws no bar.
    pub(super) fn sibling(&self) -> Self {
        let mut report = Self::with_verbosity(self.log.program, self.json, self.log.verbosity);
        if report.log.reader == Reader::Terminal {
            report.log.reader = Reader::Lines;
        }
        report
    }

    /// Something happened: `fields` is a JSON object, `line` what people are told of it, if anything.
    pub fn event(&mut self, name: &str, fields: Value, line: Option<String>) {
        self.event_of(Priority::Info, name, fields, line);
    }

    fn event_of(&mut self, priority: Priority, name: &str, fields: Value, line: Option<String>) {
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
            return;
        }
        if let Some(line) = line {
            self.line(priority, &line);
        }
        if name != "notice" {
            self.facts(name, &fields);
        }
    }

    /// Something that people should know.
    pub fn notice(&mut self, kind: &str, text: &str) {
        let fields = serde_json::json!({ "kind": kind, "text": text });
        self.event_of(Priority::of_notice(kind), "notice", fields, Some(text.to_owned()));
    }

    /// The last event, for a failure before anything began, and the last figures.
    pub(super) fn end(&mut self, result: Result<Exit, &Failure>) {
        if let Err(failure) = result
            && !self.has_ended
        {
            let fields = serde_json::json!({ "exit": failure.exit as u8, "message": failure.to_string() });
            self.event("end", fields, None);
        }
        if let Some(metrics) = &mut self.metrics {
            metrics.end(result.unwrap_or_else(|failure| failure.exit));
        }
        self.tell_metrics_failure();
    }

    fn line(&self, priority: Priority, text: &str) {
        match &self.bar {
            Some(bar) if self.log.wants(priority) => bar.suspend(|| self.log.say(priority, text)),
            _ => self.log.say(priority, text),
        }
    }

    /// The members of an event as words, for people who want to know all.
    fn facts(&self, name: &str, fields: &Value) {
        if self.log.wants(Priority::Debug)
            && let Value::Object(fields) = fields
        {
            let facts = fields.iter().map(|(name, value)| format!(" {name}={value}"));
            self.line(Priority::Debug, &format!("{name}:{}", facts.collect::<String>()));
        }
    }

    /// Whether it is time for the next report of progress.
    #[must_use]
    pub fn is_due(&self, now: Time) -> bool {
        now >= self.next_progress
    }

    /// Says where the work stands: an event, the bar, or a line, whatever fits.
    pub fn progress(&mut self, now: Time, standing: Standing) {
        self.restart(now);
        if self.json {
            return self.event(standing.name, standing.fields, None);
        }
        match self.log.reader {
            // Whoever wants to know only what is wrong gets no bar either.
            Reader::Terminal if self.log.wants(Priority::Info) => self.draw(&standing),
            Reader::Terminal | Reader::Journal | Reader::Lines => {
                let separator = if standing.details.is_empty() { "" } else { ", " };
                self.line(Priority::Info, &format!("{}{separator}{}", standing.headline, standing.details));
            }
        }
        if now >= self.next_facts {
            self.next_facts = now.after(LINE_INTERVAL);
            self.facts(standing.name, &standing.fields);
        }
    }

    fn draw(&mut self, standing: &Standing) {
        let bar = self.bar.get_or_insert_with(|| new_bar(standing));
        bar.set_length(standing.length);
        bar.set_position(standing.position);
        bar.set_prefix(standing.headline.clone());
        bar.set_message(standing.details.clone());
        bar.tick();
    }

    /// Takes the bar away: a phase has ended.
    pub fn clear(&mut self) {
        if let Some(bar) = self.bar.take() {
            bar.finish_and_clear();
        }
    }

    /// The next report of progress is due one interval after `now`.
    pub fn restart(&mut self, now: Time) {
        self.next_progress = now.after(match (self.json, self.log.reader) {
            (true, _) => JSON_INTERVAL,
            (false, Reader::Terminal) => BAR_INTERVAL,
            (false, Reader::Journal) => JOURNAL_INTERVAL,
            (false, Reader::Lines) => LINE_INTERVAL,
        });
    }

    /// Writes the figures that `fill` says, if they are asked for and it is time.
    pub(super) fn metrics(&mut self, now: Time, fill: impl FnOnce(&mut Exposition)) {
        if let Some(metrics) = &mut self.metrics
            && metrics.is_due(now)
        {
            metrics.write(now, fill);
            self.tell_metrics_failure();
        }
    }

    /// The figures that the file says when the program has ended, if they are asked for.
    pub(super) fn last_metrics(&mut self, fill: impl FnOnce(&mut Exposition)) {
        if let Some(metrics) = &mut self.metrics {
            metrics.note(fill);
        }
    }

    fn tell_metrics_failure(&mut self) {
        let failure = self.metrics.as_mut().and_then(Metrics::take_failure);
        let failure = failure.map(|(path, error)| format!("cannot write {}: {}", shown(path), describe(&error)));
        if let Some(text) = failure {
            // Nothing may come after the last event.
            if self.has_ended {
                self.line(Priority::Warning, &text);
            } else {
                self.notice("warning", &text);
            }
        }
    }
}

fn new_bar(standing: &Standing) -> ProgressBar {
    let template = match (standing.length, standing.details.is_empty()) {
        (0, _) => "{spinner} {prefix}{wide_msg}",
        (_, true) => "[{bar:20}] {percent:>3} % {prefix}",
        (_, false) => "[{bar:20}] {percent:>3} % {prefix}\n{wide_msg}",
    };
    let style = ProgressStyle::with_template(template).expect("a valid template").progress_chars("=> ");
    ProgressBar::with_draw_target(Some(standing.length), ProgressDrawTarget::stderr()).with_style(style)
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
