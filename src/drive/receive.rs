//! The receiver's loop: takes batches of datagrams, writes runs of symbols, keeps the verifying threads busy, and does what the
//! machine asks for.

mod options;

use std::io;
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};

pub(super) use self::options::FetchTerms;
pub use self::options::ReceiveFileOptions;
use super::listen::Listener;
use super::printer::Printer;
use super::report::{self, Report, Standing};
use super::slot_map::SlotMap;
use super::tally::{self, Loss, Rate, dropped_fields, sender_fields};
use super::telling::Telling;
use super::trusted;
use super::unreadable::Unreadable;
use super::workers::{Done, Workers};
use super::{destination, runs};
use crate::failure::{Exit, Failure, shown};
use crate::limits::{FETCH_ACCEPT_TIME_MAX, FETCH_ACCEPT_TIME_MIN, FETCH_DATAGRAM_COUNT_VAIN};
use crate::manifest::Manifest;
use crate::object::block_size;
use crate::receiver::{Action, DropReason, GiveUp, Kept, Notice, Receiver, ReceiverConfig, SlotMemory, Work};
use crate::sys::{Output, StopSignal, Target, clock, signals};
use crate::types::{BlockIndex, SymbolSize, Time};

/// Between two looks at signals while nothing comes.
const LOOK_INTERVAL: Duration = Duration::from_millis(100);
/// Between two looks at what the verifying threads have done while nothing comes.
const WORK_INTERVAL: Duration = Duration::from_millis(1);
/// Between two looks at the room there is while what comes is too large.
const ROOM_INTERVAL: Duration = Duration::from_secs(1);
/// Ranges of missing bytes that are listed at most.
const MISSING_COUNT_MAX: usize = 1000;
/// Failed blocks of which each is told; after that they are only counted.
const FAILED_BLOCKS_TOLD: u64 = 5;

/// Receives one file.
pub fn receive(options: &ReceiveFileOptions, report: &mut Report) -> Result<Exit, Failure> {
    run(options, report, None)
}

/// Receives one file of those that an agent receives one after the other.
pub(super) fn fetch<'a>(
    options: &'a ReceiveFileOptions,
    report: &'a mut Report,
    terms: FetchTerms<'a>,
) -> Result<(), Failure> {
    run(options, report, Some(terms)).map(|_| ())
}

fn run<'a>(
    options: &'a ReceiveFileOptions,
    report: &'a mut Report,
    terms: Option<FetchTerms<'a>>,
) -> Result<Exit, Failure> {
    signals::install()?;
    let trust = options.trust.as_ref().map(|trust| trust.load(report)).transpose()?;
    let output = destination::open(options, report)?;
    let size_max = destination::size_max(&output, options.size_max)?;
    let listener = Listener::open(&options.listen, Some(options.file.to_string_lossy().into_owned()), report)?;
    let now = clock::now();
    let (timeout, idle_timeout, decode) = (options.timeout, options.idle_timeout, options.decode);
    let config = ReceiverConfig { size_max, timeout, idle_timeout, decode };
    let receiver = match trust {
        Some(trust) => Receiver::with_trust(now, config, trust),
        None => Receiver::new(now, config),
    };
    let mut transfer = Transfer {
        options,
        terms,
        listener,
        report,
        receiver,
        output,
        printer: None,
        target: None,
        workers: None,
        memory: runs::Memory::default(),
        started: now,
        accepted: now,
        last_symbol: now,
        rate: Rate { at: now, held: 0, bits_per_second: 0.0 },
        room_looked_at: now,
        unreadable: Unreadable::default(),
        telling: Telling::new(now),
    };
    let outcome = transfer.run();
    transfer.finish(outcome)
}

/// How the loop ended.
enum Outcome {
    /// Every byte is verified.
    Verified,
    GaveUp(GiveUp),
    Stopped(StopSignal),
}

struct Transfer<'a> {
    options: &'a ReceiveFileOptions,
    /// It is one of an agent's.
    terms: Option<FetchTerms<'a>>,
    listener: Listener,
    report: &'a mut Report,
    receiver: Receiver,
    output: Output,
    /// Who prints what is verified, where that is asked for.
    printer: Option<Printer>,
    target: Option<Arc<Target>>,
    workers: Option<Workers>,
    memory: runs::Memory,
    started: Time,
    accepted: Time,
    /// When the last symbol came that was of use: what is left from then on is decoding and verifying.
    last_symbol: Time,
    rate: Rate,
    room_looked_at: Time,
    unreadable: Unreadable,
    telling: Telling,
}

impl Transfer<'_> {
    fn run(&mut self) -> Result<Outcome, Failure> {
        loop {
            if let Some(signal) = signals::pending() {
                return Ok(Outcome::Stopped(signal));
            }
            let deadline = self.deadline(clock::now());
            self.listener.receive(deadline)?;
            let now = clock::now();
            self.receiver.handle_wall_clock(clock::unix_seconds());
            let stored = self.receiver.counts().stored;
            let trains = self.listener.trains();
            runs::take(&mut self.receiver, self.target.as_deref(), &mut self.memory, now, trains)
                .map_err(|error| self.write_failure(&error))?;
            if self.receiver.counts().stored > stored {
                self.last_symbol = now;
            }
            self.memory.assembly.tick(now);
            self.work(now)?;
            self.telling.count_host_drops(now, &mut self.receiver, &self.listener);
            self.look_for_room(now);
            self.receiver.handle_timeout(now);
            if let Some(outcome) = self.act(now)? {
                return Ok(outcome);
            }
            if self.is_in_vain(now) {
                return Ok(Outcome::GaveUp(GiveUp::Timeout));
            }
            self.tell(now);
            self.listener.look(now, self.receiver.senders(), self.report)?;
        }
    }

    /// Whether an agent has waited long enough for something that it would accept.
    fn is_in_vain(&self, now: Time) -> bool {
        let span = now.since(self.started);
        let is_plenty = self.receiver.counts().datagrams >= FETCH_DATAGRAM_COUNT_VAIN && span >= FETCH_ACCEPT_TIME_MIN;
        self.terms.is_some() && self.receiver.manifest().is_none() && (is_plenty || span >= FETCH_ACCEPT_TIME_MAX)
    }

    fn deadline(&self, now: Time) -> Time {
        let is_busy = self.workers.as_ref().is_some_and(Workers::is_busy);
        let look = now.after(if is_busy { WORK_INTERVAL } else { LOOK_INTERVAL });
        let give_up = self.memory.assembly.deadline();
        [self.receiver.poll_timeout(), give_up].into_iter().flatten().fold(look, Time::min)
    }

    /// Takes what the threads have done, and gives them more.
    fn work(&mut self, now: Time) -> Result<(), Failure> {
        while let Some(done) = self.workers.as_mut().and_then(Workers::take) {
            self.take_done(now, done)?;
        }
        self.give_work();
        self.printer.as_mut().map_or(Ok(()), |printer| printer.advance(&self.receiver))
    }

    fn take_done(&mut self, now: Time, done: Done) -> Result<(), Failure> {
        match done {
            Done::Stored(assembled, value, Ok(())) => {
                self.receiver.handle_stored(&assembled.stores);
                if let Some(value) = value
                    && self.receiver.take_hash_work(assembled.block)
                {
                    // Nothing else has been written to the block since.
                    self.receiver.handle_hashed(now, assembled.block, Some(value));
                }
                self.memory.assembly.reuse(assembled);
            }
            Done::Hashed(block, Ok(value)) => {
                let failed = self.receiver.counts().blocks_failed;
                self.receiver.handle_hashed(now, block, value);
                if self.receiver.counts().blocks_failed > failed {
                    self.require_kept(block)?;
                }
            }
            Done::HashedZeroes(block, value) => {
                self.receiver.handle_hashed(now, block, Some(value));
                self.leave_hole(block);
            }
            Done::Checked(block, Ok(wrong)) => self.receiver.handle_slots_checked(block, &wrong),
            Done::Cleared(block, Ok(())) => self.receiver.handle_cleared(block, true),
            Done::Written(block, Ok(())) => self.receiver.handle_written(block, true),
            Done::Hashed(block, Err(error)) => {
                self.unreadable.note(block, error).map_err(|error| disk_failure("read", &self.target, &error))?;
                self.receiver.handle_hashed(now, block, None);
            }
            Done::Checked(block, Err(error)) => {
                self.unreadable.note(block, error).map_err(|error| disk_failure("read", &self.target, &error))?;
                self.receiver.handle_slots_unreadable(block);
            }
            Done::Cleared(_, Err(error)) | Done::Written(_, Err(error)) | Done::Stored(_, _, Err(error)) => {
                return Err(disk_failure("write", &self.target, &error));
            }
        }
        Ok(())
    }

    /// A block has failed: that must not be because the device does not keep what is written to it.
    fn require_kept(&self, block: BlockIndex) -> Result<(), Failure> {
        let Some((target, manifest)) = self.target.as_ref().zip(self.receiver.manifest()) else { return Ok(()) };
        let size = block_size(manifest.size, block) as usize;
        target.require_kept(block.offset(), size).map_err(|error| disk_failure("read", &self.target, &error))
    }

    /// Nothing has been written to a block that is all zeroes, if that is all it took to verify it.
    fn leave_hole(&self, block: BlockIndex) {
        let Some((target, manifest)) = self.target.as_ref().zip(self.receiver.manifest()) else { return };
        if self.receiver.verified_value(block).is_some() {
            target.leave_hole(block.offset(), block_size(manifest.size, block).into());
        }
    }

    fn give_work(&mut self) {
        let Some(workers) = &mut self.workers else { return };
        while let Some(assembled) = self.memory.assembly.next() {
            workers.give_assembled(assembled);
        }
        while workers.asks_for_work()
            && let Some(work) = self.receiver.poll_work()
        {
            let kept = match work {
                Work::Decode { block, kept: Some(esi), .. } => {
                    self.memory.kept.take(Kept { block, esi }).map(|payload| (esi, payload))
                }
                _ => None,
            };
            workers.give(work, kept);
        }
        workers.discard_decoded();
    }

    /// Has everything written that is in memory only, so that it outlives the program.
    fn flush(&mut self) -> Result<(), Failure> {
        self.memory.assembly.give_up();
        self.give_work();
        while !self.memory.assembly.is_idle()
            && let Some(done) = self.workers.as_mut().and_then(Workers::wait)
        {
            self.take_done(clock::now(), done)?;
        }
        Ok(())
    }

    fn write_failure(&self, error: &io::Error) -> Failure {
        disk_failure("write", &self.target, error)
    }

    fn act(&mut self, now: Time) -> Result<Option<Outcome>, Failure> {
        while let Some(action) = self.receiver.poll_action() {
            match action {
                Action::Prepare { manifest, symbol_size, word_count } => {
                    self.prepare(now, &manifest, symbol_size, word_count)?;
                }
                Action::Remap { word_count } => {
                    let memory = self.slot_memory(word_count)?;
                    self.receiver.handle_remapped(now, memory);
                }
                Action::Commit => return Ok(Some(Outcome::Verified)),
                Action::GiveUp(reason) => return Ok(Some(Outcome::GaveUp(reason))),
            }
        }
        Ok(None)
    }

    /// A manifest has been accepted: the target is created, and what came early is stored.
    fn prepare(
        &mut self,
        now: Time,
        manifest: &Manifest,
        symbol_size: SymbolSize,
        word_count: usize,
    ) -> Result<(), Failure> {
        let size = manifest.size.bytes();
        let voucher = self.receiver.voucher();
        let line = format!(
            "receiving {} ({}, id {}), {}",
            manifest.name,
            report::bytes(size),
            manifest.key().id,
            trusted::phrase(voucher)
        );
        let mut fields = json!({
            "object": manifest.key().id.to_string(),
            "digest": manifest.digest.to_string(),
            "size": size,
            "name": manifest.name.as_str(),
            "version": manifest.version,
            "symbol_size": symbol_size.bytes(),
        });
        trusted::add_fields(&mut fields, voucher);
        self.report.event("manifest", fields, Some(line));
        // What there was of an older version: its threads end, and its `.part` can be set aside.
        (self.workers, self.target, self.memory) = (None, None, runs::Memory::default());
        let created = self.output.create(size, &manifest.key().id.to_string())?;
        if let Some(path) = &created.set_aside {
            self.report.notice("warning", &format!("what had come of another file is kept as {}", shown(path)));
        }
        let (target, reused) = (Arc::new(created.target), created.reused);
        let workers = Workers::new(&target)
            .map_err(|error| Failure::io(Exit::Unavailable, "start threads to verify blocks", &error))?;
        self.printer = Printer::after(self.printer.take(), &target, manifest.size)?;
        (self.target, self.workers) = (Some(target), Some(workers));
        (self.accepted, self.last_symbol, self.rate.at) = (now, now, now);
        self.report.restart(now);
        let memory = self.slot_memory(word_count)?;
        let early = self.receiver.handle_prepared(now, reused, memory);
        runs::take(&mut self.receiver, self.target.as_deref(), &mut self.memory, now, runs::singles(&early))
            .map_err(|error| self.write_failure(&error))?;
        self.work(now)
    }

    fn slot_memory(&mut self, word_count: usize) -> Result<Box<dyn SlotMemory>, Failure> {
        let map = Arc::new(SlotMap::of(&self.output, &self.options.file, word_count, self.report)?);
        if let Some(workers) = &mut self.workers {
            workers.note_in(&map);
        }
        Ok(Box::new(map))
    }

    /// What was too large at the start may fit when somebody has made room.
    fn look_for_room(&mut self, now: Time) {
        let is_refused = self.receiver.manifest().is_none() && self.receiver.counts().dropped(DropReason::TooLarge) > 0;
        if !is_refused || now.since(self.room_looked_at) < ROOM_INTERVAL {
            return;
        }
        self.room_looked_at = now;
        // A file system that does not tell leaves things as they are.
        if let Ok(size_max) = destination::size_max(&self.output, self.options.size_max) {
            self.receiver.handle_room(size_max);
        }
    }

    /// Says what there is to say.
    fn tell(&mut self, now: Time) {
        while let Some(notice) = self.receiver.poll_notice() {
            let failed = self.receiver.counts().blocks_failed;
            if matches!(notice, Notice::BlockFailed(_)) && failed > FAILED_BLOCKS_TOLD {
                continue;
            }
            self.telling.notice(&notice, self.output.limits(), &self.listener, self.report);
        }
        if self.telling.tell(now, &self.receiver, &self.listener, self.report) {
            self.show_progress(now);
        }
    }

    fn show_progress(&mut self, now: Time) {
        let progress = self.receiver.progress();
        self.rate.update(now, progress.held);
        let loss = self.loss();
        let eta = self.rate.seconds_for(progress.size.saturating_sub(progress.held));
        let left = eta.map_or_else(|| "nothing comes".to_owned(), |seconds| format!("{} left", report::span(seconds)));
        let (held, size) = (report::bytes(progress.held), report::bytes(progress.size));
        let rate = report::rate(self.rate.bits_per_second);
        let fields = json!({
            "size": progress.size,
            "held": progress.held,
            "blocks": progress.blocks,
            "blocks_verified": progress.blocks_verified,
            "blocks_failed": self.receiver.counts().blocks_failed,
            "rate_bps": self.rate.bits_per_second,
            "eta_seconds": eta,
            "received": loss.received,
            "lost": loss.lost,
            "lost_host": loss.lost_host,
            "dropped": dropped_fields(self.receiver.counts()),
            "seconds": now.since(self.started).as_secs_f64(),
        });
        let standing = Standing {
            name: "progress",
            fields,
            position: progress.held,
            length: progress.size,
            headline: format!("{held} of {size}, {rate}, {left}"),
            details: format!(
                "{} of {} blocks verified, {}",
                progress.blocks_verified,
                progress.blocks,
                loss.text_of_both()
            ),
        };
        self.report.progress(now, standing);
    }

    fn loss(&self) -> Loss {
        Loss::of(self.receiver.senders())
    }

    fn finish(mut self, outcome: Result<Outcome, Failure>) -> Result<Exit, Failure> {
        self.report.clear();
        let verified = clock::now();
        self.telling.end_drops_interval(verified, &mut self.receiver, &self.listener);
        self.report.last_metrics(|out| tally::metrics_of(out, &self.receiver, self.listener.dropped_buffers()));
        let result = match outcome.and_then(|outcome| self.flush().map(|()| outcome)) {
            Ok(Outcome::Verified) => self.commit(),
            Ok(Outcome::GaveUp(reason)) => Err(self.give_up_failure(reason)),
            Ok(Outcome::Stopped(signal)) => {
                let failure = super::end::interrupted(&format!("receive {}", destination::name(self.options)), signal);
                Err(self.with_resume_hint(failure))
            }
            Err(failure) => Err(failure),
        };
        let synced = clock::now();
        let seconds = verified.since(self.accepted).as_secs_f64();
        let size = self.receiver.progress().size;
        let (exit, message) = match &result {
            Ok(()) => (Exit::Complete, "complete".to_owned()),
            Err(failure) => (failure.exit, failure.to_string()),
        };
        let fields = self.figures(exit, &message, verified, synced);
        let line = self.receiver.manifest().map(|manifest| {
            format!(
                "{}: complete and verified, {} in {seconds:.1} s (received at {}), {}, blake3 {}, {}",
                destination::name(self.options),
                report::bytes(size),
                report::rate(8.0 * self.receiver.counts().bytes as f64 / seconds.max(1e-3)),
                self.loss().text(),
                manifest.digest,
                trusted::phrase(self.receiver.voucher())
            )
        });
        let event = if self.terms.is_some() { "fetched" } else { "end" };
        self.report.event(event, fields, line.filter(|_| result.is_ok()));
        result.map(|()| Exit::Complete)
    }

    fn commit(&mut self) -> Result<(), Failure> {
        // The threads hold the target too: they end first.
        self.workers = None;
        if let Some(mut printer) = self.printer.take() {
            printer.advance(&self.receiver)?;
            printer.finish()?;
        }
        if let (Some(terms), Some(manifest)) = (&mut self.terms, self.receiver.manifest()) {
            (terms.before_commit)(manifest)?;
        }
        let target = self.target.take().and_then(Arc::into_inner);
        target.expect("a verified object has a target that only this thread holds").commit()?;
        // Not before: what the file says of itself must not shut out the version that it has not got.
        let version = self.receiver.manifest().map_or(0, |manifest| manifest.version);
        self.options.trust.as_ref().map_or(Ok(()), |trust| trust.keep(version))
    }

    fn give_up_failure(&self, reason: GiveUp) -> Failure {
        let what = format!("receive {} from {}", destination::name(self.options), self.options.listen.heard);
        let has_manifest = self.receiver.manifest().is_some();
        let counts = self.receiver.counts();
        match reason {
            GiveUp::Superseded { accepted, other } => {
                let cause = format!("object {accepted} is no longer sent, but {other} is");
                Failure::new(Exit::Incomplete, what, cause)
                    .remedy("run again to receive that one; what has come of the first is kept")
            }
            GiveUp::Timeout | GiveUp::IdleTimeout if has_manifest => {
                let cause = match reason {
                    GiveUp::Timeout => "incomplete at the deadline",
                    _ => "the sender has fallen silent",
                };
                let missing: u64 = self.receiver.missing().map(|(first, end)| end - first).sum();
                let cause = format!("{cause}, {} are missing", report::bytes(missing));
                self.with_resume_hint(Failure::new(Exit::Incomplete, what, cause))
            }
            _ if self.options.trust.is_some()
                && let Some(cause) = trusted::refusals(counts) =>
            {
                Failure::new(Exit::NotAuthentic, what, cause)
            }
            _ if counts.dropped(DropReason::TooLarge) > 0 => {
                Failure::new(Exit::Unavailable, what, "the file is larger than allowed").remedy("see --max-size")
            }
            _ if counts.datagrams > 0 => Failure::new(
                Exit::Unavailable,
                what,
                format!("{} packets, but no manifest to accept", counts.datagrams),
            ),
            _ => Failure::new(Exit::Unavailable, what, "nothing was received")
                .remedy("is iotupd running? see --interface"),
        }
    }

    fn with_resume_hint(&self, failure: Failure) -> Failure {
        match self.target.as_ref().and_then(|target| target.remains()) {
            Some(remains) => failure.remedy(remains),
            None => failure,
        }
    }

    fn figures(&self, exit: Exit, message: &str, verified: Time, synced: Time) -> Value {
        let counts = self.receiver.counts();
        let progress = self.receiver.progress();
        let mut fields = json!({
            "exit": exit as u8,
            "message": message,
            "size": progress.size,
            "held": progress.held,
            "seconds": verified.since(self.started).as_secs_f64(),
            "transfer_seconds": verified.since(self.accepted).as_secs_f64(),
            "last_symbol_seconds": self.last_symbol.since(self.accepted).as_secs_f64(),
            "sync_seconds": synced.since(verified).as_secs_f64(),
            "host_dropped_buffers": self.listener.dropped_buffers(),
            "truncated": self.listener.truncated(),
            "counts": {
                "datagrams": counts.datagrams,
                "bytes": counts.bytes,
                "stored": counts.stored,
                "manifests": counts.manifests,
                "hashes": counts.hashes,
                "blocks_failed": counts.blocks_failed,
            },
            "dropped": dropped_fields(counts),
            "senders": sender_fields(self.receiver.senders()),
        });
        if let Some(manifest) = self.receiver.manifest() {
            trusted::add_fields(&mut fields, self.receiver.voucher());
            fields["version"] = manifest.version.into();
            fields["digest"] = manifest.digest.to_string().into();
            let missing: Vec<_> =
                self.receiver.missing().take(MISSING_COUNT_MAX).map(|(from, to)| json!([from, to])).collect();
            fields["missing"] = missing.into();
        }
        fields
    }
}

fn disk_failure(verb: &str, target: &Option<Arc<Target>>, error: &io::Error) -> Failure {
    let name = target.as_ref().map(|target| target.name()).unwrap_or_default();
    let failure = Failure::io(Exit::Io, format!("{verb} {name}"), error);
    match target.as_ref().and_then(|target| target.remains()) {
        Some(remains) => failure.remedy(format!("what has come is kept: {remains}")),
        None => failure,
    }
}
