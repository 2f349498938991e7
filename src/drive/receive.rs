//! The receiver's loop: takes batches of datagrams, writes runs of symbols, keeps the verifying threads busy, and does what the
//! machine asks for.

use std::io;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicU32;
use std::time::Duration;

use serde_json::{Value, json};

use super::kept::KeptSymbols;
use super::listen::{ListenOptions, Listener};
use super::report::{self, Report};
use super::runs;
use super::unreadable::Unreadable;
use super::workers::{Done, Workers};
use crate::failure::{Exit, Failure, describe, shown};
use crate::limits::BLOCK_SIZE;
use crate::manifest::Manifest;
use crate::receiver::{Action, DropReason, GiveUp, Kept, Notice, Receiver, ReceiverConfig, SlotMemory, Work};
use crate::sys::{SlotFile, StopSignal, Target, clock, memory, signals};
use crate::types::{SymbolSize, Time};

/// Between two looks at signals while nothing comes.
const LOOK_INTERVAL: Duration = Duration::from_millis(100);
/// Between two looks at what the verifying threads have done while nothing comes.
const WORK_INTERVAL: Duration = Duration::from_millis(1);
/// Loss in an interval in which this host dropped packets is put down to the host.
const DROPS_INTERVAL: Duration = Duration::from_millis(100);
/// Ranges of missing bytes that are listed at most.
const MISSING_COUNT_MAX: usize = 1000;
/// Memory for the bookkeeping of one block with the smallest symbols, rounded up.
const BYTES_PER_BLOCK: u64 = 2048;
/// Failed blocks of which each is told; after that they are only counted.
const FAILED_BLOCKS_TOLD: u64 = 5;

/// What to receive, and where to put it.
#[derive(Clone, Debug)]
pub struct ReceiveFileOptions {
    /// Where to put the file.
    pub file: PathBuf,
    /// What to listen to, and where.
    pub listen: ListenOptions,
    /// Give up after so long.
    pub timeout: Option<Duration>,
    /// Give up after so long without a packet.
    pub idle_timeout: Option<Duration>,
    /// Refuse larger files; `None`: those for which there is no room.
    pub size_max: Option<u64>,
    /// Use repair symbols.
    pub decode: bool,
}

/// Receives one file.
pub fn receive(options: &ReceiveFileOptions, report: &mut Report) -> Result<Exit, Failure> {
    signals::install()?;
    Target::check(&options.file)?;
    let size_max = match options.size_max {
        Some(size) => size,
        None => room_for(&options.file)?,
    };
    let listener = Listener::open(&options.listen, options.file.to_string_lossy().into_owned(), report)?;
    let now = clock::now();
    let (timeout, idle_timeout, decode) = (options.timeout, options.idle_timeout, options.decode);
    let config = ReceiverConfig { size_max, timeout, idle_timeout, decode };
    let receiver = Receiver::new(now, config);
    let mut transfer = Transfer {
        options,
        listener,
        report,
        receiver,
        target: None,
        workers: None,
        kept: KeptSymbols::default(),
        started: now,
        accepted: now,
        last_symbol: now,
        rate: Rate { at: now, held: 0, bits_per_second: 0.0 },
        said_host_drops: false,
        unreadable: Unreadable::default(),
        drops: HostDrops { at: now, buffers: 0 },
    };
    let outcome = transfer.run();
    transfer.finish(outcome)
}

/// The free space, and what an earlier attempt already occupies; but no file whose bookkeeping would take more than a quarter of the
/// memory that is free now, because anybody on the network can announce one.
fn room_for(path: &Path) -> Result<u64, Failure> {
    let space = Target::free_space(path)?.saturating_add(Target::occupied(path));
    let blocks = memory::available().map_or(u64::MAX, |bytes| bytes / 4 / BYTES_PER_BLOCK);
    Ok(space.min(blocks.saturating_mul(BLOCK_SIZE)))
}

/// How the loop ended.
enum Outcome {
    /// Every byte is verified.
    Verified,
    GaveUp(GiveUp),
    Stopped(StopSignal),
}

/// The rate at which the transfer moves, smoothed.
struct Rate {
    at: Time,
    held: u64,
    bits_per_second: f64,
}

impl Rate {
    fn update(&mut self, now: Time, held: u64) {
        let seconds = now.since(self.at).as_secs_f64();
        if seconds > 0.0 {
            let current = 8.0 * held.saturating_sub(self.held) as f64 / seconds;
            let is_first = self.bits_per_second == 0.0;
            let weight = if is_first { 1.0 } else { (seconds / 3.0).min(1.0) };
            self.bits_per_second += weight * (current - self.bits_per_second);
            (self.at, self.held) = (now, held);
        }
    }
}

/// The sidecar map, as the machine sees it.
#[derive(Debug)]
struct SlotMap(SlotFile);

impl SlotMemory for SlotMap {
    fn words(&self) -> &[AtomicU32] {
        self.0.words()
    }
}

/// What the kernel had dropped when the last interval ended.
struct HostDrops {
    at: Time,
    buffers: u32,
}

/// Packets of all streams together.
#[derive(Default)]
struct Loss {
    received: u64,
    /// Lost on the way.
    lost: u64,
    /// Dropped by this host.
    lost_host: u64,
}

impl Loss {
    /// What people are told.
    fn text(&self) -> String {
        let percent = |part: u64| 100.0 * part as f64 / (self.received + self.lost + self.lost_host).max(1) as f64;
        match self.lost_host {
            0 => format!("loss {:.2} %", percent(self.lost)),
            host => format!("loss {:.2} % on the way and {:.2} % on this host", percent(self.lost), percent(host)),
        }
    }
}

struct Transfer<'a> {
    options: &'a ReceiveFileOptions,
    listener: Listener,
    report: &'a mut Report,
    receiver: Receiver,
    target: Option<Arc<Target>>,
    workers: Option<Workers>,
    kept: KeptSymbols,
    started: Time,
    accepted: Time,
    /// When the last symbol came that was of use: what is left from then on is decoding and verifying.
    last_symbol: Time,
    rate: Rate,
    said_host_drops: bool,
    drops: HostDrops,
    unreadable: Unreadable,
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
            let stored = self.receiver.counts().stored;
            let datagrams = self.listener.datagrams();
            runs::take(&mut self.receiver, self.target.as_deref(), &mut self.kept, now, datagrams)
                .map_err(|error| self.write_failure(&error))?;
            if self.receiver.counts().stored > stored {
                self.last_symbol = now;
            }
            self.work(now)?;
            self.count_host_drops(now);
            self.receiver.handle_timeout(now);
            if let Some(outcome) = self.act(now)? {
                return Ok(outcome);
            }
            self.tell(now);
            let senders = self.receiver.senders();
            let is_useful = |source: IpAddr, since| senders.iter().any(|sender| sender.is_useful(source, since));
            self.listener.look(now, is_useful, self.report)?;
        }
    }

    fn deadline(&self, now: Time) -> Time {
        let is_busy = self.workers.as_ref().is_some_and(Workers::is_busy);
        let look = now.after(if is_busy { WORK_INTERVAL } else { LOOK_INTERVAL });
        self.receiver.poll_timeout().map_or(look, |timeout| timeout.min(look))
    }

    /// Takes what the threads have done, and gives them more.
    fn work(&mut self, now: Time) -> Result<(), Failure> {
        let Some(workers) = &mut self.workers else { return Ok(()) };
        while let Some(done) = workers.take() {
            match done {
                Done::Hashed(block, Ok(value)) => self.receiver.handle_hashed(now, block, value),
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
                Done::Cleared(_, Err(error)) | Done::Written(_, Err(error)) => {
                    return Err(disk_failure("write", &self.target, &error));
                }
            }
        }
        while workers.has_room()
            && let Some(work) = self.receiver.poll_work()
        {
            let kept = match work {
                Work::Decode { block, kept: Some(esi), .. } => {
                    self.kept.take(Kept { block, esi }).map(|payload| (esi, payload))
                }
                _ => None,
            };
            workers.give(work, kept);
        }
        // What is right has just been asked for: every piece of work that was taken made room for another, and writing comes first.
        workers.discard_decoded();
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
        let line = format!(
            "receiving {} ({}, id {}), not authenticated",
            manifest.name,
            report::bytes(size),
            manifest.key().id
        );
        let fields = json!({
            "object": manifest.key().id.to_string(),
            "digest": manifest.digest.to_string(),
            "size": size,
            "name": manifest.name.as_str(),
            "version": manifest.version,
            "symbol_size": symbol_size.bytes(),
            "authenticated": false,
        });
        self.report.event("manifest", fields, Some(line));
        let created = Target::create(&self.options.file, size, &manifest.key().id.to_string())?;
        if let Some(path) = &created.set_aside {
            self.report.notice("warning", &format!("what had come of another file is kept as {}", shown(path)));
        }
        let (target, reused) = (Arc::new(created.target), created.reused);
        let workers = Workers::new(&target)
            .map_err(|error| Failure::io(Exit::Unavailable, "start threads to verify blocks", &error))?;
        (self.target, self.workers) = (Some(target), Some(workers));
        (self.accepted, self.last_symbol, self.rate.at) = (now, now, now);
        self.report.restart(now);
        let memory = self.slot_memory(word_count)?;
        let early = self.receiver.handle_prepared(now, reused, memory);
        runs::take(&mut self.receiver, self.target.as_deref(), &mut self.kept, now, early.datagrams())
            .map_err(|error| self.write_failure(&error))?;
        self.work(now)
    }

    /// The sidecar map of the target, or, if it cannot be had, memory that is lost with the program.
    fn slot_memory(&mut self, word_count: usize) -> Result<Box<dyn SlotMemory>, Failure> {
        let path = &self.options.file;
        let file = match SlotFile::open(path, word_count) {
            Ok(file) => file,
            Err(error) => {
                let cause = describe(&error);
                let text = format!(
                    "what is received will not outlive an interruption: no map beside {}: {cause}",
                    shown(path)
                );
                self.report.notice("warning", &text);
                SlotFile::anonymous(word_count).map_err(|error| {
                    Failure::io(Exit::Unavailable, "take memory for the map of what is received", &error)
                })?
            }
        };
        Ok(Box::new(SlotMap(file)))
    }

    fn count_host_drops(&mut self, now: Time) {
        if now.since(self.drops.at) >= DROPS_INTERVAL {
            self.end_drops_interval(now);
        }
    }

    fn end_drops_interval(&mut self, now: Time) {
        let buffers = self.listener.dropped_buffers();
        // The kernel counts modulo 2^32.
        self.receiver.handle_host_drops(u64::from(buffers.wrapping_sub(self.drops.buffers)));
        self.drops = HostDrops { at: now, buffers };
    }

    /// Says what there is to say.
    fn tell(&mut self, now: Time) {
        while let Some(notice) = self.receiver.poll_notice() {
            let failed = self.receiver.counts().blocks_failed;
            if matches!(notice, Notice::BlockFailed(_)) && failed > FAILED_BLOCKS_TOLD {
                continue;
            }
            let (kind, text) = self.words(&notice);
            self.report.notice(kind, &text);
        }
        if self.listener.dropped_buffers() > 0 && !self.said_host_drops {
            self.said_host_drops = true;
            let text = "this host drops packets because it cannot take them fast enough: see sysctl net.core.rmem_max";
            self.report.notice("warning", text);
        }
        if self.report.is_due(now) && self.receiver.manifest().is_some() {
            self.show_progress(now);
        }
    }

    fn show_progress(&mut self, now: Time) {
        let progress = self.receiver.progress();
        self.rate.update(now, progress.held);
        let loss = self.loss();
        let left = 8.0 * progress.size.saturating_sub(progress.held) as f64 / self.rate.bits_per_second;
        let text = format!(
            "{} of {}, {}, {} left, {}",
            report::bytes(progress.held),
            report::bytes(progress.size),
            report::rate(self.rate.bits_per_second),
            report::span(left),
            loss.text()
        );
        let fields = json!({
            "size": progress.size,
            "held": progress.held,
            "blocks": progress.blocks,
            "blocks_verified": progress.blocks_verified,
            "received": loss.received,
            "lost": loss.lost,
            "lost_host": loss.lost_host,
            "seconds": now.since(self.started).as_secs_f64(),
        });
        self.report.progress(now, "progress", fields, progress.held, progress.size, text);
    }

    fn words(&self, notice: &Notice) -> (&'static str, String) {
        match notice {
            Notice::ManifestRefused(refusal) => ("manifest_refused", format!("a manifest is refused: {refusal}")),
            Notice::TooLarge { size, size_max } => (
                "too_large",
                format!(
                    "the file on the group has {} bytes, at most {size_max} are allowed (see --max-size and the free space)",
                    size.bytes()
                ),
            ),
            Notice::BlockFailed(block) => {
                ("block_failed", format!("block {block} does not match its digest: it is received again"))
            }
            Notice::SessionChanged(size) => {
                ("session_changed", format!("nothing verifies: trying symbols of {} bytes", size.bytes()))
            }
            Notice::Silent => (
                "silent",
                format!(
                    "nothing has come from {} for 5 s (is iotupd running, is this its group, port and interface, \
                     does a firewall drop UDP, does a switch snoop without a querier, is --hops large enough?)",
                    self.listener
                ),
            ),
            Notice::HeardAgain => ("heard_again", "packets come again".into()),
        }
    }

    fn loss(&self) -> Loss {
        self.receiver.senders().iter().fold(Loss::default(), |all, sender| Loss {
            received: all.received + sender.loss.received,
            lost: all.lost + sender.loss.lost,
            lost_host: all.lost_host + sender.loss.lost_host,
        })
    }

    fn finish(mut self, outcome: Result<Outcome, Failure>) -> Result<Exit, Failure> {
        self.report.clear();
        let verified = clock::now();
        self.end_drops_interval(verified);
        let result = match outcome {
            Ok(Outcome::Verified) => self.commit(),
            Ok(Outcome::GaveUp(reason)) => Err(self.give_up_failure(reason)),
            Ok(Outcome::Stopped(signal)) => {
                let failure = super::end::interrupted(&format!("receive {}", shown(&self.options.file)), signal);
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
                "{}: complete and verified, {} in {seconds:.1} s (received at {}), {}, blake3 {}, not authenticated",
                shown(&self.options.file),
                report::bytes(size),
                report::rate(8.0 * self.receiver.counts().bytes as f64 / seconds.max(1e-3)),
                self.loss().text(),
                manifest.digest
            )
        });
        self.report.event("end", fields, line.filter(|_| result.is_ok()));
        result.map(|()| Exit::Complete)
    }

    fn commit(&mut self) -> Result<(), Failure> {
        // The threads hold the target too: they end first.
        self.workers = None;
        let target = self.target.take().and_then(Arc::into_inner);
        target.expect("a verified object has a target that only this thread holds").commit()
    }

    fn give_up_failure(&self, reason: GiveUp) -> Failure {
        let what = format!("receive {} from {}", shown(&self.options.file), self.options.listen.heard);
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
        match &self.target {
            Some(target) => failure.remedy(format!("run again to resume from {}", shown(target.part_path()))),
            None => failure,
        }
    }

    fn figures(&self, exit: Exit, message: &str, verified: Time, synced: Time) -> Value {
        let counts = self.receiver.counts();
        let progress = self.receiver.progress();
        let senders = self.receiver.senders().iter().map(|sender| {
            json!({
                "addr": sender.addr.to_string(),
                "channel": sender.channel.0,
                "received": sender.loss.received,
                "lost": sender.loss.lost,
                "lost_host": sender.loss.lost_host,
                "duplicates": sender.loss.duplicates,
                "late": sender.loss.late,
                "restarts": sender.loss.restarts,
            })
        });
        let senders: Vec<_> = senders.collect();
        let dropped: serde_json::Map<_, _> = DropReason::ALL
            .iter()
            .map(|&reason| (reason.name().to_owned(), counts.dropped(reason).into()))
            .filter(|(_, count): &(String, Value)| count.as_u64() != Some(0))
            .collect();
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
            "dropped": dropped,
            "senders": senders,
        });
        if let Some(manifest) = self.receiver.manifest() {
            fields["digest"] = manifest.digest.to_string().into();
            let missing: Vec<_> =
                self.receiver.missing().take(MISSING_COUNT_MAX).map(|(from, to)| json!([from, to])).collect();
            fields["missing"] = missing.into();
        }
        fields
    }
}

fn disk_failure(verb: &str, target: &Option<Arc<Target>>, error: &io::Error) -> Failure {
    let path = target.as_ref().map(|target| shown(target.part_path())).unwrap_or_default();
    Failure::io(Exit::Io, format!("{verb} {path}"), error).remedy("it is kept: run again to resume")
}
