//! The server's loop: asks the machine what is due, composes it, and hands it to the kernel, for ever or for some passes.

use std::net::{IpAddr, SocketAddr};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};

use super::burst::Burst;
pub use super::line::EngineChoice;
use super::line::Line;
use super::report::{self, Report};
use super::{choose, digest_file};
use crate::digest::ObjectTree;
use crate::failure::{Exit, Failure, shown};
use crate::limits::{MTU_DEFAULT_MAX, MTU_ROUTED, PACKET_OVERHEAD, RATE_BPS_DEFAULT, SYMBOL_SIZE_MIN};
use crate::manifest::{DisplayName, Members};
use crate::sender::{Pacing, Sender, SenderConfig, Step, Unsendable};
use crate::sys::{
    Hold, Interface, Scratch, SendOptions, SendSocket, SourceFile, SourceState, StopSignal, clock, signals,
};
use crate::types::{RateBps, SymbolSize, Time};

/// Between two looks at signals and at the source file.
const LOOK_INTERVAL: Duration = Duration::from_millis(100);

/// What to send, where, and how fast.
#[derive(Clone, Debug)]
pub struct ServeOptions {
    /// The file.
    pub file: PathBuf,
    /// The group and port.
    pub group: SocketAddr,
    /// The interface in the group's zone.
    pub zone: Option<String>,
    /// The interface asked for.
    pub interface: Option<String>,
    /// How fast; `None`: the least of 100 Mbit/s and half the link's speed.
    pub pacing: Option<Pacing>,
    /// Where to start, in millionths of a round; `None`: somewhere that differs from host to host.
    pub start_ppm: Option<u32>,
    /// End after so many passes.
    pub passes: Option<u64>,
    /// Bytes of an IP packet at most.
    pub mtu: Option<u32>,
    /// IPv4 TTL or IPv6 hop limit.
    pub hops: u8,
    /// The source address.
    pub bind_addr: Option<IpAddr>,
    /// How to send.
    pub engine: EngineChoice,
    /// Where digests are cached.
    pub cache_dir: Option<PathBuf>,
}

/// Sends until the passes are done, or a signal or a failure ends it.
pub fn serve(options: &ServeOptions, report: &mut Report) -> Result<Exit, Failure> {
    signals::install()?;
    let interface = choose::interface(options.interface.as_deref(), options.zone.as_deref())?;
    choose::warn_of_carrier(&interface, report);
    let pacing = options.pacing.map_or_else(|| default_pacing(&interface), Ok)?;
    let file = SourceFile::open(&options.file)?.set_aside();
    let bind_addr = options.bind_addr.or_else(|| choose::source_address(&interface, options.group));
    let socket = SendSocket::open(&SendOptions {
        group: options.group,
        interface_index: interface.index,
        bind_addr,
        hops: options.hops,
    })?;
    let cache_dir = options.cache_dir.clone().or_else(digest_file::default_cache_dir);
    let cache = digest_file::CacheFolder { folder: cache_dir, is_asked_for: options.cache_dir.is_some() };
    let tree = Arc::new(digest_file::tree(&file, &options.file, &cache, report)?);
    let sender = new_sender(options, &interface, pacing, &file, tree)?;
    let mut server = Server::new(options, &interface, file, socket, sender, report)?;
    server.announce();
    let outcome = server.run();
    server.finish(outcome)
}

/// RFC 8085, section 4.1.1, asks for restraint where nothing tells of congestion.
fn default_pacing(interface: &Interface) -> Result<Pacing, Failure> {
    if interface.wireless {
        let what = format!("choose a rate for {}", interface.name);
        let cause = "multicast on wireless goes at the slowest rate, which is not known";
        return Err(Failure::new(Exit::Usage, what, cause).remedy("give --rate, such as 2M"));
    }
    let half_link = interface.speed_bps.map_or(u64::MAX, |speed| speed / 2);
    let rate = RateBps::new(RATE_BPS_DEFAULT.min(half_link).max(1)).expect("100 Mbit/s or less");
    Ok(Pacing::DefaultRate(rate))
}

fn new_sender(
    options: &ServeOptions,
    interface: &Interface,
    pacing: Pacing,
    file: &SourceFile,
    tree: Arc<ObjectTree>,
) -> Result<Sender, Failure> {
    let bound = if options.hops > 1 { MTU_ROUTED } else { MTU_DEFAULT_MAX };
    let mtu = options.mtu.unwrap_or(interface.mtu.min(bound));
    let what = || format!("send {} in packets of {mtu} bytes", shown(&options.file));
    let cannot = |cause: String| Failure::new(Exit::Usage, what(), cause).remedy("see --mtu");
    if mtu > interface.mtu {
        return Err(cannot(format!("interface {} takes {} at most", interface.name, interface.mtu)));
    }
    let payload_size_max = mtu.saturating_sub(PACKET_OVERHEAD);
    let symbol_size = SymbolSize::largest_within(payload_size_max).ok_or_else(|| {
        cannot(format!("the smallest packet has {} bytes", PACKET_OVERHEAD + u32::from(SYMBOL_SIZE_MIN)))
    })?;
    let members = manifest_members(file, &options.file, &tree);
    let manifest = members.manifest().map_err(|refusal| Failure::new(Exit::BadData, what(), refusal.to_string()))?;
    let config = SenderConfig {
        symbol_size,
        payload_size_max,
        ip_overhead: if options.group.is_ipv4() { 28 } else { 48 },
        pacing,
        start_ppm: options.start_ppm.unwrap_or_else(|| start_of_host(&manifest.key().id.0, &interface.name)),
        passes: options.passes,
        manifest_text: manifest.to_text().into_bytes(),
    };
    Sender::new(tree, &config).map_err(|unsendable| match unsendable {
        Unsendable::ManifestTooLarge { needed, room } => {
            cannot(format!("the manifest needs {needed} bytes, {room} are left"))
        }
        Unsendable::HashesTooLarge { room } => {
            cannot(format!("the proofs of a file so large need more than {room} bytes"))
        }
    })
}

/// Servers on different hosts start at different places without being told to.
fn start_of_host(object: &[u8; 12], interface: &str) -> u32 {
    let host = std::fs::read("/etc/machine-id").or_else(|_| std::fs::read("/proc/sys/kernel/hostname"));
    let seed = [object, interface.as_bytes(), &host.unwrap_or_default()].concat();
    let place = xxhash_rust::xxh3::xxh3_64(&seed) % 1_000_000;
    u32::try_from(place).expect("less than a million")
}

/// Room for the hash of every payload, where there is any: without it they are computed for every packet.
fn room_for_hashes(options: &ServeOptions, sender: &Sender) -> Option<Scratch> {
    let count = usize::try_from(sender.carousel().round_length()).ok()?;
    let cache_dir = options.cache_dir.clone().or_else(digest_file::default_cache_dir)?;
    Scratch::new(&cache_dir, count).or_else(|_| Scratch::new(&std::env::temp_dir(), count)).ok()
}

/// Why the loop ended well.
enum Outcome {
    Done,
    Stopped(StopSignal),
}

struct Server<'a> {
    options: &'a ServeOptions,
    interface: &'a Interface,
    report: &'a mut Report,
    file: SourceFile,
    content: crate::sys::SourceMap,
    line: Line,
    /// The source address and port.
    source: SocketAddr,
    sender: Sender,
    /// Where payload hashes are remembered.
    hashes: Option<Scratch>,
    burst: Burst,
    started: Time,
    next_look: Time,
    said_replaced: bool,
    said_changed: bool,
}

impl<'a> Server<'a> {
    fn new(
        options: &'a ServeOptions,
        interface: &'a Interface,
        file: SourceFile,
        socket: SendSocket,
        sender: Sender,
        report: &'a mut Report,
    ) -> Result<Self, Failure> {
        file.lease();
        clock::set_timer_slack();
        let now = clock::now();
        report.restart(now);
        let what = format!("send to {} on {}", options.group, interface.name);
        Ok(Self {
            content: file.map()?,
            burst: Burst::new(socket.gso()),
            options,
            interface,
            report,
            file,
            source: socket.local_addr(),
            line: Line::new(socket, options.engine, what)?,
            hashes: room_for_hashes(options, &sender),
            sender,
            started: now,
            next_look: now,
            said_replaced: false,
            said_changed: false,
        })
    }

    fn announce(&mut self) {
        let (carousel, key) = (self.sender.carousel(), self.sender.key());
        let share = 100.0 * self.sender.next_position() as f64 / carousel.round_length().max(1) as f64;
        let pace = match self.options.pacing {
            Some(Pacing::PacketDelay(delay)) => format!("a packet every {} us", delay.as_nanos() as f64 / 1e3),
            Some(Pacing::Unpaced) => "as fast as it goes".into(),
            _ => match self.sender.pacer().rate() {
                Some(rate) => report::rate(rate.bits_per_second() as f64),
                None => "one round every 10 ms".into(),
            },
        };
        let line = format!(
            "sending {} ({}, id {}) to {} on {} from {}, {pace}, starting at {share:.1} %",
            shown(&self.options.file),
            report::bytes(key.size.bytes()),
            key.id,
            self.options.group,
            self.interface.name,
            self.source,
        );
        let delay = match self.options.pacing {
            Some(Pacing::PacketDelay(delay)) => Value::from(delay.as_nanos() as u64),
            _ => Value::Null,
        };
        let fields = json!({
            "file": self.options.file.to_string_lossy(),
            "size": key.size.bytes(),
            "digest": self.sender.digest().to_string(),
            "object": key.id.to_string(),
            "group": self.options.group.to_string(),
            "interface": self.interface.name,
            "source": self.source.to_string(),
            "engine": self.line.engine_name(),
            "hold": hold_name(self.file.hold()),
            "rate_bps": self.sender.pacer().rate().map(RateBps::bits_per_second),
            "pkt_delay_ns": delay,
            "symbol_size": carousel.layout().symbol_size().bytes(),
            "start_position": self.sender.next_position(),
            "cycle_length": carousel.cycle_length(),
            "round_length": carousel.round_length(),
        });
        self.report.event("sending", fields, Some(line));
        if self.file.hold() == Hold::None {
            let text = format!(
                "{} is a block device: a change to it is noticed by receivers alone, which take no block that does not match",
                shown(&self.options.file)
            );
            self.report.notice("warning", &text);
        }
    }

    fn run(&mut self) -> Result<Outcome, Failure> {
        loop {
            let now = clock::now();
            if now >= self.next_look {
                if let Some(signal) = signals::pending() {
                    return Ok(Outcome::Stopped(signal));
                }
                self.look(now)?;
                while let Some(warning) = self.line.take_warning() {
                    self.report.notice("warning", &warning);
                }
                self.next_look = now.after(LOOK_INTERVAL);
            }
            // A burst that the kernel has not taken goes before the next is composed: no position is skipped.
            let step = if self.line.is_stuck() { None } else { self.compose(now) };
            if self.content.is_torn() || self.line.is_torn() {
                // What was composed from it may be wrong: it does not go out.
                return Err(self.changed());
            }
            if !self.burst.is_empty() && !self.line.send(&mut self.burst)? {
                continue;
            }
            match step {
                Some(Step::Done) if self.line.drain()? => return Ok(Outcome::Done),
                Some(Step::Wait(due)) => clock::sleep_until(due.min(self.next_look)),
                _ => {}
            }
        }
    }

    /// Puts into the burst what may go now; answers with what the machine said when it had no more, `None` if the burst is full.
    fn compose(&mut self, now: Time) -> Option<Step> {
        self.burst.clear();
        while self.burst.has_room() {
            match self.sender.poll(now) {
                Step::Send(outgoing) => {
                    let (sender, content, hashes) = (&self.sender, &self.content, self.hashes.as_ref());
                    let hashes = hashes.map_or(&[][..], Scratch::words);
                    self.burst
                        .push(sender.packet_size(&outgoing), |out| sender.compose(&outgoing, content, hashes, out));
                }
                step => return Some(step),
            }
        }
        None
    }

    /// Looks at the source file, and reports progress where it is due.
    fn look(&mut self, now: Time) -> Result<(), Failure> {
        let what = || format!("send {}", shown(&self.options.file));
        let state = self.file.state().map_err(|error| Failure::io(Exit::Io, what(), &error))?;
        if state == SourceState::Changed || self.content.is_torn() {
            return Err(self.changed());
        }
        if state == SourceState::OriginalChanged && !self.said_changed {
            self.said_changed = true;
            let text = format!("{} has changed: going on with the content as it was", shown(&self.options.file));
            self.report.notice("warning", &text);
        }
        self.say_if_replaced();
        if self.report.is_due(now) {
            let passes = self.passes();
            let counts = self.sender.counts();
            let seconds = now.since(self.started).as_secs_f64();
            let rate = report::rate(8.0 * counts.ip_bytes as f64 / seconds.max(1e-3));
            let text = format!("{passes:.2} passes, {rate}, {} packets", counts.data + counts.manifest + counts.hashes);
            let fields = self.figures(now);
            self.report.progress(now, "status", fields, 0, 0, text);
        }
        Ok(())
    }

    fn changed(&self) -> Failure {
        let what = format!("send {}", shown(&self.options.file));
        if matches!(self.file.state(), Ok(SourceState::Changed)) {
            return Failure::new(Exit::Io, what, "it was changed while it was being sent")
                .remedy("start again; to publish a new file, rename it over the old one");
        }
        Failure::new(Exit::Io, what, "it can no longer be read").remedy("see what the kernel says of the disk: dmesg")
    }

    /// Another file may take the name, or the name may go: what is being sent stays what it was.
    fn say_if_replaced(&mut self) {
        let inode = std::fs::metadata(&self.options.file).map(|metadata| metadata.ino()).ok();
        if !self.said_replaced && inode != Some(self.file.identity().inode) {
            self.said_replaced = true;
            let text =
                format!("{} has been replaced or removed: going on with the old content", shown(&self.options.file));
            self.report.notice("warning", &text);
        }
    }

    fn passes(&self) -> f64 {
        self.sender.counts().data as f64 / self.sender.carousel().round_length().max(1) as f64
    }

    fn figures(&self, now: Time) -> Value {
        let (counts, lines) = (self.sender.counts(), self.line.counts());
        json!({
            "passes": self.passes(),
            "data": counts.data,
            "manifest": counts.manifest,
            "hashes": counts.hashes,
            "ip_bytes": counts.ip_bytes,
            "seconds": now.since(self.started).as_secs_f64(),
            "lost_seconds": self.sender.pacer().lost().as_secs_f64(),
            "engine": self.line.engine_name(),
            "refused": lines.refused,
            "queue_drops": lines.queue_drops,
            "icmp_errors": lines.icmp_errors,
        })
    }

    fn finish(&mut self, outcome: Result<Outcome, Failure>) -> Result<Exit, Failure> {
        self.report.clear();
        let now = clock::now();
        let (exit, message) = match &outcome {
            Ok(Outcome::Done) => (Exit::Complete, "done".to_owned()),
            Ok(Outcome::Stopped(signal)) => (Exit::from(*signal), "stopped".to_owned()),
            Err(failure) => (failure.exit, failure.to_string()),
        };
        let mut fields = self.figures(now);
        fields["exit"] = (exit as u8).into();
        fields["message"] = message.as_str().into();
        let line = format!(
            "{message} after {:.2} passes, {} in {}",
            self.passes(),
            report::bytes(self.sender.counts().ip_bytes),
            report::span(now.since(self.started).as_secs_f64())
        );
        self.report.event("end", fields, outcome.is_ok().then_some(line));
        outcome.map(|_| exit)
    }
}

/// What keeps the source as it was, for events.
fn hold_name(hold: Hold) -> &'static str {
    match hold {
        Hold::Clone => "clone",
        Hold::Lease => "lease",
        Hold::Watch => "watch",
        Hold::None => "none",
    }
}

/// What a manifest says of a file where nobody has said more.
pub fn manifest_members(file: &SourceFile, path: &Path, tree: &ObjectTree) -> Members {
    let name = DisplayName::from_file_name_lossy(path.file_name().unwrap_or_default());
    let mut members = Members::new(tree.digest(), tree.size(), name);
    members.created = file.modified_unix_seconds();
    members
}
