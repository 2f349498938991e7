//! Receiving without keeping: what a network and this host let through, measured with no disk in the way. Every packet is judged, and
//! every symbol counted, as in a transfer; none is stored, so nothing is verified, and nothing here says that it is.

use std::net::SocketAddr;
use std::time::Duration;

use serde_json::{Value, json};

use super::end;
use super::listen::{ListenOptions, Listener};
use super::report::{self, Report, Standing};
use super::runs::singles;
use super::tally::{self, Loss, dropped_fields, sender_fields};
use super::telling::Telling;
use crate::digest::zero_block_value;
use crate::failure::{Exit, Failure};
use crate::limits::{BLOCK_SIZE, HEADER_SIZE};
use crate::receiver::{Action, DropReason, GiveUp, Receiver, ReceiverConfig, Verdict, Work, plain_memory};
use crate::sys::{StopSignal, Train, clock, memory, signals};
use crate::types::Time;

/// Between two looks at signals while nothing comes.
const LOOK_INTERVAL: Duration = Duration::from_millis(100);
/// Memory for the bookkeeping of one block with the smallest symbols, rounded up.
const BYTES_PER_BLOCK: u64 = 2048;
/// What every measurement ends with.
const NOTHING_KEPT: &str = "nothing was stored or verified";

/// What to listen to, and for how long.
#[derive(Clone, Debug)]
pub struct DiscardOptions {
    /// What to listen to, and where.
    pub listen: ListenOptions,
    /// End after so long.
    pub timeout: Option<Duration>,
    /// End after so long without a packet.
    pub idle_timeout: Option<Duration>,
    /// Refuse larger files; `None`: those whose bookkeeping would take more than a quarter of the memory that is free.
    pub size_max: Option<u64>,
    /// Count repair symbols as well.
    pub decode: bool,
}

/// Receives until enough symbols of every block have come, and keeps none of them.
///
/// # Errors
/// [`Exit::Incomplete`] if that is not so in time, [`Exit::Unavailable`] if nothing can be received, [`Exit::Usage`] if the interface
/// cannot be used.
pub fn discard(options: &DiscardOptions, report: &mut Report) -> Result<Exit, Failure> {
    signals::install()?;
    let listener = Listener::open(&options.listen, None, report)?;
    let now = clock::now();
    let config = ReceiverConfig {
        size_max: options.size_max.unwrap_or_else(size_for_memory),
        timeout: options.timeout,
        idle_timeout: options.idle_timeout,
        decode: options.decode,
    };
    let mut measurement = Measurement {
        place: listener.to_string(),
        report,
        listener,
        receiver: Receiver::new(now, config).counting(),
        tally: Tally::default(),
        shown: Shown { at: now, bytes: 0 },
        started: now,
        telling: Telling::new(now),
    };
    let outcome = measurement.run();
    measurement.finish(outcome)
}

/// Anybody on the network can announce a file of any size.
fn size_for_memory() -> u64 {
    let blocks = memory::available().map_or(u64::MAX, |bytes| bytes / 4 / BYTES_PER_BLOCK);
    blocks.saturating_mul(BLOCK_SIZE)
}

/// How the loop ended.
enum Outcome {
    /// Enough symbols of every block have come.
    Enough,
    GaveUp(GiveUp),
    Stopped(StopSignal),
}

/// What has come.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
struct Tally {
    /// When the first datagram came.
    first: Option<Time>,
    /// Different symbols.
    symbols: u64,
    /// Their bytes.
    bytes: u64,
}

impl Tally {
    /// Hands datagrams to the machine, and counts the symbols that it would have kept.
    fn take<'a>(&mut self, receiver: &mut Receiver, now: Time, trains: impl Iterator<Item = Train<'a>>) {
        for train in trains {
            self.first.get_or_insert(now);
            train.datagrams().for_each(|datagram| self.take_one(receiver, now, train.from, datagram));
        }
    }

    fn take_one(&mut self, receiver: &mut Receiver, now: Time, from: SocketAddr, datagram: &[u8]) {
        match receiver.handle_datagram(now, from, datagram) {
            Verdict::Store(store) => receiver.handle_stored(&[store]),
            Verdict::Keep(kept) => receiver.handle_kept(kept, true),
            Verdict::Taken | Verdict::Dropped(_) => return,
        }
        self.symbols += 1;
        self.bytes += datagram.len().saturating_sub(HEADER_SIZE) as u64;
    }

    fn seconds(&self, now: Time) -> f64 {
        self.first.map_or(0.0, |first| now.since(first).as_secs_f64())
    }

    /// Bits per second of different symbols, without any header, from the first datagram on.
    fn goodput(&self, now: Time) -> f64 {
        8.0 * self.bytes as f64 / self.seconds(now).max(1e-3)
    }

    /// What people are told at the end.
    fn text(&self, now: Time, loss: &Loss) -> String {
        format!(
            "{} of different symbols in {:.1} s, goodput {}, {}; {NOTHING_KEPT}",
            report::bytes(self.bytes),
            self.seconds(now),
            report::rate(self.goodput(now)),
            loss.text_of_both()
        )
    }
}

/// What the last report of progress said.
struct Shown {
    at: Time,
    bytes: u64,
}

struct Measurement<'a> {
    /// The group and interface, for messages.
    place: String,
    report: &'a mut Report,
    listener: Listener,
    receiver: Receiver,
    tally: Tally,
    shown: Shown,
    started: Time,
    telling: Telling,
}

impl Measurement<'_> {
    fn run(&mut self) -> Result<Outcome, Failure> {
        let mut has_worked = false;
        loop {
            if let Some(signal) = signals::pending() {
                return Ok(Outcome::Stopped(signal));
            }
            let now = clock::now();
            let look = if has_worked { now } else { now.after(LOOK_INTERVAL) };
            let deadline = self.receiver.poll_timeout().map_or(look, |timeout| timeout.min(look));
            self.listener.receive(deadline)?;
            let now = clock::now();
            self.tally.take(&mut self.receiver, now, self.listener.trains());
            has_worked = self.work(now);
            self.telling.count_host_drops(now, &mut self.receiver, &self.listener);
            self.receiver.handle_timeout(now);
            if let Some(outcome) = self.act(now) {
                return Ok(outcome);
            }
            self.tell(now);
            self.listener.look(now, self.receiver.senders(), self.report)?;
        }
    }

    /// Does one piece of work, which takes less time than the socket's buffer holds; answers whether there was one.
    fn work(&mut self, now: Time) -> bool {
        let Some(work) = self.receiver.poll_work() else { return false };
        let Work::HashZeroes { block, size } = work else {
            unreachable!("a receiver that counts has no bytes to look at: {work:?}")
        };
        self.receiver.handle_hashed(now, block, Some(zero_block_value(size, block)));
        true
    }

    fn act(&mut self, now: Time) -> Option<Outcome> {
        while let Some(action) = self.receiver.poll_action() {
            match action {
                Action::Prepare { .. } => {
                    self.say_what_comes();
                    self.report.restart(now);
                    let early = self.receiver.handle_prepared(now, false, plain_memory(0));
                    self.tally.take(&mut self.receiver, now, singles(&early));
                }
                Action::Remap { .. } => unreachable!("a receiver that counts has no map"),
                // No block of the object has data.
                Action::Commit => {}
                Action::GiveUp(reason) => return Some(Outcome::GaveUp(reason)),
            }
        }
        self.receiver.has_enough().then_some(Outcome::Enough)
    }

    fn say_what_comes(&mut self) {
        let Some(manifest) = self.receiver.manifest() else { return };
        let (size, key) = (manifest.size.bytes(), manifest.key());
        let line = format!("measuring {} ({}, id {}), not authenticated", manifest.name, report::bytes(size), key.id);
        let fields = json!({
            "object": key.id.to_string(),
            "digest": manifest.digest.to_string(),
            "size": size,
            "name": manifest.name.as_str(),
            "version": manifest.version,
            "authenticated": false,
        });
        self.report.event("manifest", fields, Some(line));
    }

    fn tell(&mut self, now: Time) {
        while let Some(notice) = self.receiver.poll_notice() {
            self.telling.notice(&notice, "see --max-size", &self.listener, self.report);
        }
        if self.telling.tell(now, &self.receiver, &self.listener, self.report) {
            self.show_progress(now);
        }
    }

    fn show_progress(&mut self, now: Time) {
        let (progress, loss) = (self.receiver.progress(), Loss::of(self.receiver.senders()));
        let seconds = now.since(self.shown.at).as_secs_f64().max(1e-3);
        let goodput = 8.0 * (self.tally.bytes - self.shown.bytes) as f64 / seconds;
        self.shown = Shown { at: now, bytes: self.tally.bytes };
        let mut fields = self.figures(now);
        fields["goodput_bps"] = goodput.into();
        let (held, size) = (report::bytes(progress.held), report::bytes(progress.size));
        let standing = Standing {
            name: "progress",
            fields,
            position: progress.held,
            length: progress.size,
            headline: format!("{held} of {size}, goodput {}", report::rate(goodput)),
            details: loss.text_of_both(),
        };
        self.report.progress(now, standing);
    }

    /// What an event has to say of the measurement so far.
    fn figures(&self, now: Time) -> Value {
        let (progress, loss) = (self.receiver.progress(), Loss::of(self.receiver.senders()));
        json!({
            "size": progress.size,
            "symbols": self.tally.symbols,
            "bytes": self.tally.bytes,
            "blocks": progress.blocks,
            // Of those that are all zeroes no symbol is needed.
            "blocks_enough": progress.blocks_counted + progress.blocks_verified,
            "goodput_bps": self.tally.goodput(now),
            "received": loss.received,
            "lost": loss.lost,
            "lost_host": loss.lost_host,
            "seconds": now.since(self.started).as_secs_f64(),
            "measured_seconds": self.tally.seconds(now),
        })
    }

    fn finish(mut self, outcome: Result<Outcome, Failure>) -> Result<Exit, Failure> {
        self.report.clear();
        let now = clock::now();
        self.telling.end_drops_interval(now, &mut self.receiver, &self.listener);
        self.report.last_metrics(|out| tally::metrics_of(out, &self.receiver, self.listener.dropped_buffers()));
        let text = self.tally.text(now, &Loss::of(self.receiver.senders()));
        let result = match outcome {
            Ok(Outcome::Enough) => Ok(format!("enough of every block has come: {text}")),
            Ok(Outcome::GaveUp(reason)) => Err(self.give_up_failure(reason, &text)),
            Ok(Outcome::Stopped(signal)) => {
                Err(Failure::new(signal.into(), self.what(), format!("{}: {text}", end::cause(signal))))
            }
            Err(failure) => Err(failure),
        };
        let (exit, message) = match &result {
            Ok(_) => (Exit::Complete, "enough of every block has come".to_owned()),
            Err(failure) => (failure.exit, failure.to_string()),
        };
        let mut fields = self.figures(now);
        fields["exit"] = (exit as u8).into();
        fields["message"] = message.into();
        (fields["stored"], fields["verified"]) = (false.into(), false.into());
        fields["host_dropped_buffers"] = self.listener.dropped_buffers().into();
        fields["truncated"] = self.listener.truncated().into();
        fields["dropped"] = dropped_fields(self.receiver.counts());
        fields["senders"] = sender_fields(self.receiver.senders());
        self.report.event("end", fields, result.as_ref().ok().cloned());
        result.map(|_| Exit::Complete)
    }

    fn what(&self) -> String {
        format!("measure {}", self.place)
    }

    fn give_up_failure(&self, reason: GiveUp, text: &str) -> Failure {
        let counts = self.receiver.counts();
        let unavailable = |cause: String| Failure::new(Exit::Unavailable, self.what(), cause);
        let cause = match reason {
            _ if self.receiver.manifest().is_none() => {
                return match counts.datagrams {
                    _ if counts.dropped(DropReason::TooLarge) > 0 => {
                        unavailable("the file is larger than allowed".into()).remedy("see --max-size")
                    }
                    0 => unavailable("nothing was received".into()).remedy("is iotupd running? see --interface"),
                    count => unavailable(format!("{count} packets, but no manifest to accept")),
                };
            }
            GiveUp::Timeout => "incomplete at the deadline".to_owned(),
            GiveUp::IdleTimeout => "the sender has fallen silent".to_owned(),
            GiveUp::Superseded { accepted, other } => format!("object {accepted} is no longer sent, but {other} is"),
        };
        Failure::new(Exit::Incomplete, self.what(), format!("{cause}: {text}"))
    }
}

#[cfg(test)]
mod tests {
    use super::super::bench::Recording;
    use super::*;
    use crate::sender::Fec;

    const MIB: usize = 1 << 20;

    /// The packets of one pass over a file of three blocks, of which the second is all zeroes, and a machine that counts.
    fn recording() -> (Recording, Receiver) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("object");
        let bytes: Vec<_> = (0..2 * MIB + 5000).map(|i| if i / MIB == 1 { 0 } else { i as u8 | 1 }).collect();
        std::fs::write(&path, bytes).unwrap();
        let config = ReceiverConfig { size_max: u64::MAX, timeout: None, idle_timeout: None, decode: true };
        let receiver = Receiver::new(Time::from_nanos(1), config).counting();
        (Recording::of_one_pass(&path, Fec::OFF).unwrap(), receiver)
    }

    #[test]
    fn symbols_are_counted_once_each() {
        let (recording, mut receiver) = recording();
        let mut tally = Tally::default();
        for second in 1..=2 {
            for batch in recording.batches() {
                let now = Time::from_nanos(second * 1_000_000_000);
                tally.take(&mut receiver, now, batch);
                if let Some(Action::Prepare { .. }) = receiver.poll_action() {
                    let early = receiver.handle_prepared(now, false, plain_memory(0));
                    tally.take(&mut receiver, now, singles(&early));
                }
            }
        }
        let bytes = MIB as u64 + 5000;
        assert_eq!((tally.symbols, tally.bytes), (745 + 4, bytes));
        assert_eq!(receiver.progress().blocks_counted, 2);
        assert_eq!(tally.goodput(Time::from_nanos(3_000_000_000)), 4.0 * bytes as f64, "over two seconds");
        assert_eq!((receiver.poll_action(), receiver.progress().blocks_verified), (None, 0));
    }

    #[test]
    fn what_is_said_last_has_all_figures_and_claims_nothing() {
        let tally = Tally { first: Some(Time::from_nanos(0)), symbols: 745, bytes: 1 << 20 };
        let loss = Loss { received: 96, lost: 3, lost_host: 1 };
        let text = tally.text(Time::from_nanos(2_000_000_000), &loss);
        assert_eq!(
            text,
            "1.0 MiB of different symbols in 2.0 s, goodput 4.2 Mbit/s, loss 3.00 % on the way and 1.00 % on this host; \
             nothing was stored or verified"
        );
        assert!(Tally::default().text(Time::default(), &Loss::default()).contains("goodput 0.0 kbit/s, loss 0.00 %"));
    }
}
