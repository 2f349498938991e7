//! The server's loop: asks the machine what is due, composes it, and hands it to the kernel, for ever or for some passes.

mod defaults;
mod figures;

use std::net::{IpAddr, SocketAddr};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, OnceLock, mpsc};
use std::time::Duration;

use serde_json::{Value, json};

use self::defaults::{default_pacing, start_of_host, virtual_server_count};
pub use super::image::ImageChoice;
use super::image::{self, ImageMaker};
pub use super::line::EngineChoice;
use super::manifest_file::ManifestFile;
use super::repair::Repair;
use super::report::{self, Report, Standing};
use super::tally::Rate;
use super::virtual_server::{self, Common, Event, Findings, Published, Recipe, Totals, Trouble};
use super::{choose, digest_file};
use crate::digest::ObjectTree;
use crate::discovery::Family;
use crate::failure::{Exit, Failure, shown};
use crate::limits::{MTU_DEFAULT_MAX, MTU_ROUTED, PACKET_OVERHEAD, SYMBOL_SIZE_MIN};
use crate::manifest::{DisplayName, KeyId, Members};
use crate::sender::{Fec, Pacing, Sender, SenderConfig, Share, Unsendable};
use crate::sys::{
    Hold, Interface, Scratch, SendOptions, SendSocket, SourceFile, SourceState, StopSignal, clock, processors, signals,
};
use crate::types::{Digest, ObjectKey, RateBps, SymbolSize, Time};

/// Between two looks at signals and at the source file.
const LOOK_INTERVAL: Duration = Duration::from_millis(100);

/// Messages from a packet image before it is said that it is of no use.
const IMAGE_MESSAGES_JUDGED_MIN: u64 = 1000;

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
    /// Repair symbols and the order of all.
    pub fec: Fec,
    /// End after so many passes.
    pub passes: Option<u64>,
    /// Bytes of an IP packet at most.
    pub mtu: Option<u32>,
    /// IPv4 TTL or IPv6 hop limit.
    pub hops: u8,
    /// How many virtual servers; `None`: as many as the rate needs.
    pub virtual_servers: Option<u32>,
    /// The source address.
    pub bind_addr: Option<IpAddr>,
    /// How to send.
    pub engine: EngineChoice,
    /// Whether to send from a packet image.
    pub image: ImageChoice,
    /// Where digests are cached, and what is computed once is kept.
    pub cache_dir: Option<PathBuf>,
}

/// Sends until the passes are done, or a signal or a failure ends it.
pub fn serve(options: &ServeOptions, report: &mut Report) -> Result<Exit, Failure> {
    signals::install()?;
    let interface = choose::interface(options.interface.as_deref(), options.zone.as_deref())?;
    choose::warn(&interface, Some(Family::of(options.group.ip())), report);
    let pacing = options.pacing.map_or_else(|| default_pacing(&interface), Ok)?;
    let file = SourceFile::open(&options.file)?.set_aside();
    let first_socket = open_socket(options, &interface)?;
    // Before the file is read, which may take long.
    let found = ManifestFile::beside(&options.file)?;
    let cache_dir = options.cache_dir.clone().or_else(digest_file::default_cache_dir);
    let cache = digest_file::CacheFolder { folder: cache_dir, is_asked_for: options.cache_dir.is_some() };
    let tree = Arc::new(digest_file::tree(&file, &options.file, &cache, report)?);
    let manifest = match found {
        Some(found) => {
            found.check_object(&options.file, &tree)?;
            found.warn(clock::unix_seconds(), report);
            found
        }
        None => ManifestFile::of(&options.file, &manifest_members(&file, &options.file, &tree))?,
    };
    let senders = new_senders(options, &interface, pacing, tree, &manifest)?;
    let mut sockets = vec![first_socket];
    for _ in 1..senders.len() {
        sockets.push(open_socket(options, &interface)?);
    }
    let plan = Plan::of(&senders, &sockets, &manifest);
    let mut server = Server::new(options, &interface, file, plan, report);
    let outcome = server.run(senders, sockets);
    server.finish(outcome)
}

fn open_socket(options: &ServeOptions, interface: &Interface) -> Result<SendSocket, Failure> {
    SendSocket::open(&SendOptions {
        group: options.group,
        interface_index: interface.index,
        bind_addr: options.bind_addr.or_else(|| choose::source_address(interface, options.group)),
        hops: options.hops,
    })
}

fn new_senders(
    options: &ServeOptions,
    interface: &Interface,
    pacing: Pacing,
    tree: Arc<ObjectTree>,
    manifest: &ManifestFile,
) -> Result<Vec<Sender>, Failure> {
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
    let symbol_size = manifest.check_session(symbol_size, options.fec.percent)?;
    let config = SenderConfig {
        symbol_size,
        payload_size_max,
        ip_overhead: if options.group.is_ipv4() { 28 } else { 48 },
        pacing,
        start_ppm: options.start_ppm.unwrap_or_else(|| start_of_host(&manifest.manifest.key().id.0, &interface.name)),
        fec: options.fec,
        passes: options.passes,
        manifest_text: manifest.text.clone(),
        manifest_signature: manifest.signature.clone(),
    };
    let unsendable = |unsendable| match unsendable {
        Unsendable::ManifestTooLarge { needed, room } => {
            cannot(format!("the manifest needs {needed} bytes, {room} are left"))
        }
        Unsendable::HashesTooLarge { room } => {
            cannot(format!("the proofs of a file so large need more than {room} bytes"))
        }
    };
    let count = virtual_server_count(options, pacing, processors::allowed().len());
    let first = Sender::new(Arc::clone(&tree), &config).map_err(unsendable)?;
    // None would be left with nothing to send.
    let count = count.min(u32::try_from(first.carousel().round_length()).unwrap_or(u32::MAX)).max(1);
    let shares = (0..count).filter_map(|index| Share::new(index, count));
    shares.map(|share| Sender::with_share(Arc::clone(&tree), &config, share).map_err(unsendable)).collect()
}

/// Room for the hash of every payload, where there is any: without it they are computed for every packet.
fn room_for_hashes(options: &ServeOptions, sender: &Sender) -> Option<Scratch> {
    let count = usize::try_from(sender.carousel().round_length()).ok()?;
    let cache_dir = options.cache_dir.clone().or_else(digest_file::default_cache_dir)?;
    Scratch::new(&cache_dir, count).or_else(|_| Scratch::new(&std::env::temp_dir(), count)).ok()
}

/// Why the server ended well.
enum Outcome {
    Done,
    Stopped(StopSignal),
}

/// What is being sent, and by whom.
struct Plan {
    key: ObjectKey,
    digest: Digest,
    symbol_size: SymbolSize,
    cycle_length: u64,
    round_length: u64,
    /// Of all virtual servers together.
    rate: Option<RateBps>,
    /// The address of each virtual server, and its first position.
    origins: Vec<(SocketAddr, u64)>,
    version: u64,
    /// The key that the signature names.
    signed_by: Option<KeyId>,
}

impl Plan {
    fn of(senders: &[Sender], sockets: &[SendSocket], manifest: &ManifestFile) -> Self {
        let first = senders.first().expect("there is a virtual server");
        let rates = senders.iter().filter_map(|sender| sender.pacer().rate());
        let places = senders.iter().map(Sender::next_position);
        Self {
            key: first.key(),
            digest: first.digest(),
            symbol_size: first.carousel().layout().symbol_size(),
            cycle_length: first.carousel().cycle_length(),
            round_length: first.carousel().round_length(),
            rate: RateBps::new(rates.map(RateBps::bits_per_second).sum()),
            origins: sockets.iter().map(SendSocket::local_addr).zip(places).collect(),
            version: manifest.manifest.version,
            signed_by: manifest.key_id(),
        }
    }

    /// Who signed what, for the line of the start.
    fn signature(&self) -> String {
        self.signed_by.map_or_else(String::new, |key| format!(", version {} signed by key {key}", self.version))
    }

    /// Where each virtual server starts, in percent of the round.
    fn starts(&self) -> String {
        let share = |place: u64| 100.0 * (place % self.round_length.max(1)) as f64 / self.round_length.max(1) as f64;
        let starts: Vec<_> = self.origins.iter().map(|(_, place)| format!("{:.1}", share(*place))).collect();
        match starts.len() {
            1 => format!("starting at {} %", starts[0]),
            count => format!("by {count} virtual servers, starting at {} %", starts.join(", ")),
        }
    }
}

struct Server<'a> {
    options: &'a ServeOptions,
    interface: &'a Interface,
    report: &'a mut Report,
    file: SourceFile,
    plan: Plan,
    published: Vec<Published>,
    started: Time,
    rate: Rate,
    next_look: Time,
    said_replaced: bool,
    /// What people have been told: several virtual servers meet the same trouble.
    said: Vec<String>,
}

impl<'a> Server<'a> {
    fn new(
        options: &'a ServeOptions,
        interface: &'a Interface,
        file: SourceFile,
        plan: Plan,
        report: &'a mut Report,
    ) -> Self {
        let now = clock::now();
        report.restart(now);
        Self {
            published: plan.origins.iter().map(|_| Published::default()).collect(),
            plan,
            options,
            interface,
            report,
            file,
            started: now,
            rate: Rate { at: now, held: 0, bits_per_second: 0.0 },
            next_look: now,
            said_replaced: false,
            said: Vec::new(),
        }
    }

    fn announce(&mut self, engine: &str) {
        let plan = &self.plan;
        let pace = match self.options.pacing {
            Some(Pacing::PacketDelay(delay)) => format!("a packet every {} us", delay.as_nanos() as f64 / 1e3),
            Some(Pacing::Unpaced) => "as fast as it goes".into(),
            _ => match plan.rate {
                Some(rate) => report::rate(rate.bits_per_second() as f64),
                None => "one round every 10 ms".into(),
            },
        };
        let (source, start) = plan.origins.first().expect("there is a virtual server");
        let line = format!(
            "sending {} ({}, id {}{}) to {} on {} from {source}, {pace}, {}",
            shown(&self.options.file),
            report::bytes(plan.key.size.bytes()),
            plan.key.id,
            plan.signature(),
            self.options.group,
            self.interface.name,
            plan.starts(),
        );
        let delay = match self.options.pacing {
            Some(Pacing::PacketDelay(delay)) => Value::from(delay.as_nanos() as u64),
            _ => Value::Null,
        };
        let origin =
            |(source, start): &(SocketAddr, u64)| json!({"source": source.to_string(), "start_position": start});
        let fields = json!({
            "file": self.options.file.to_string_lossy(),
            "size": plan.key.size.bytes(),
            "digest": plan.digest.to_string(),
            "object": plan.key.id.to_string(),
            "version": plan.version,
            "signed_by": plan.signed_by.map(|key| key.to_string()),
            "group": self.options.group.to_string(),
            "interface": self.interface.name,
            "source": source.to_string(),
            "engine": engine,
            "hold": hold_name(self.file.hold()),
            "rate_bps": plan.rate.map(RateBps::bits_per_second),
            "pkt_delay_ns": delay,
            "symbol_size": plan.symbol_size.bytes(),
            "start_position": start,
            "cycle_length": plan.cycle_length,
            "round_length": plan.round_length,
            "image": self.options.image == ImageChoice::On,
            "virtual_servers": plan.origins.iter().map(origin).collect::<Vec<_>>(),
        });
        self.report.event("sending", fields, Some(line));
        if self.file.hold() == Hold::None {
            let text = "is a block device: a change to it is noticed by receivers alone, which take no block that does not match";
            self.warn(format!("{} {text}", shown(&self.options.file)));
        }
    }

    /// Runs all virtual servers, each in its thread, and watches them and the file.
    fn run(&mut self, senders: Vec<Sender>, sockets: Vec<SendSocket>) -> Result<Outcome, Failure> {
        let count = senders.len();
        let folder = self.options.cache_dir.clone().or_else(digest_file::default_cache_dir);
        let common = Common {
            content: self.file.map()?,
            repair: Repair::new(&senders, folder.clone())?,
            hashes: room_for_hashes(self.options, &senders[0]),
            image: image::made(self.options.image, folder.clone(), senders[0].carousel())?,
            stop: AtomicBool::new(false),
            start: OnceLock::new(),
        };
        let processors = processors::allowed();
        let what = format!("send to {} on {}", self.options.group, self.interface.name);
        let (events, inbox) = mpsc::channel();
        let published = std::mem::take(&mut self.published);
        let mut maker = self.image_maker(&senders[0], folder);
        let outcome = std::thread::scope(|scope| {
            let spawn = |(index, (sender, socket)): (usize, (Sender, SendSocket))| {
                let part = Share::new(u32::try_from(index).unwrap_or(0), u32::try_from(count).unwrap_or(1));
                let burst_ns = u64::try_from(sender.pacer().burst_duration().as_nanos()).unwrap_or(u64::MAX);
                let recipe = Recipe {
                    delay: Duration::from_nanos(part.map_or(0, |part| part.start_of(burst_ns))),
                    sender,
                    socket,
                    engine: self.options.engine,
                    needs_image: common.image.get().is_some(),
                    trial: maker.as_mut().and_then(ImageMaker::take_trial),
                    what: what.clone(),
                    processor: (count > 1).then(|| processors[index % processors.len()]),
                };
                let (common, published, events) = (&common, &published[index], events.clone());
                let thread = std::thread::Builder::new().name(format!("server {index}"));
                let run = move || virtual_server::run(recipe, common, published, &events);
                thread.spawn_scoped(scope, run).map(|_| ()).map_err(|error| {
                    Failure::io(Exit::Unavailable, format!("start the thread of virtual server {index}"), &error)
                })
            };
            let spawned = senders.into_iter().zip(sockets).enumerate().try_for_each(spawn);
            if let Some(maker) = maker {
                let (common, events) = (&common, events.clone());
                scope.spawn(move || maker.run(&common.image, &events));
            }
            let spawned = spawned.and_then(|()| common.repair.spawn(scope, &common.content, &common.stop, count));
            let outcome = spawned.and_then(|()| self.watch(&common, &published, &inbox));
            common.stop();
            outcome
        });
        self.published = published;
        outcome
    }

    /// Who tries whether an image pays, where that is to be found out.
    fn image_maker(&self, sender: &Sender, folder: Option<PathBuf>) -> Option<ImageMaker> {
        let pacing = self.options.pacing.filter(|pacing| virtual_server::is_worthwhile(*pacing));
        let is_asked_for = self.options.image == ImageChoice::Auto && image::is_of_use(sender.carousel());
        pacing.filter(|_| is_asked_for).map(|_| ImageMaker::new(folder, sender.carousel().clone()))
    }

    /// Waits until all are ready, starts them, and looks after them until all are done or one fails.
    fn watch(
        &mut self,
        common: &Common,
        published: &[Published],
        inbox: &mpsc::Receiver<Event>,
    ) -> Result<Outcome, Failure> {
        self.start(common, inbox, published.len())?;
        let mut left = published.len();
        while left > 0 {
            match inbox.recv_timeout(LOOK_INTERVAL) {
                Ok(Event::Warning(text)) => self.warn(text),
                Ok(Event::Tried(findings, result)) => self.tell_findings(&findings, result),
                Ok(Event::Ended(Ok(()))) => left -= 1,
                Ok(Event::Ended(Err(trouble))) => return Err(self.failure_of(trouble)),
                Ok(Event::Ready(_)) | Err(_) => {}
            }
            if let Some(signal) = signals::pending() {
                return Ok(Outcome::Stopped(signal));
            }
            let now = clock::now();
            if now >= self.next_look {
                self.look(now, common, &Published::total(published))?;
                self.next_look = now.after(LOOK_INTERVAL);
            }
        }
        Ok(Outcome::Done)
    }

    fn start(&mut self, common: &Common, inbox: &mpsc::Receiver<Event>, count: usize) -> Result<(), Failure> {
        let mut engine = "none";
        let mut ready = 0;
        while ready < count {
            match inbox.recv() {
                Ok(Event::Ready(name)) => (engine, ready) = (name, ready + 1),
                Ok(Event::Ended(Err(trouble))) => return Err(self.failure_of(trouble)),
                Ok(Event::Warning(_) | Event::Tried(..) | Event::Ended(Ok(()))) | Err(_) => {}
            }
        }
        // Not before: whoever wants to write waits for the next look.
        self.file.lease();
        self.announce(engine);
        self.started = clock::now();
        self.rate.at = self.started;
        common.begin();
        Ok(())
    }

    fn failure_of(&self, trouble: Trouble) -> Failure {
        match trouble {
            Trouble::Torn => self.changed(),
            Trouble::Failed(failure) => failure,
        }
    }

    fn tell_findings(&mut self, findings: &Findings, result: Result<(), Failure>) {
        let [copied, image] = [findings.copied_bps, findings.image_bps].map(report::rate);
        let text = match (&result, findings.are_good()) {
            (_, false) => format!("packet image: off, {image} of one core against {copied} by copying"),
            (Ok(()), true) => format!("packet image: on, {image} of one core against {copied} by copying"),
            (Err(failure), true) => {
                format!("packet image: off, though {image} of one core against {copied}: {failure}")
            }
        };
        let fields = json!({
            "on": findings.are_good() && result.is_ok(),
            "copied_bps": findings.copied_bps,
            "image_bps": findings.image_bps,
            "image_sent": findings.usage.sent,
            "image_copied": findings.usage.copied,
        });
        self.report.event("image", fields, Some(text));
    }

    fn warn(&mut self, text: String) {
        // What comes after the colon are figures and causes, of which each has its own.
        let subject = text.split(": ").next().unwrap_or_default().to_owned();
        if !self.said.contains(&subject) {
            self.report.notice("warning", &text);
            self.said.push(subject);
        }
    }

    /// Looks at the source file, and reports progress where it is due.
    fn look(&mut self, now: Time, common: &Common, totals: &Totals) -> Result<(), Failure> {
        let what = || format!("send {}", shown(&self.options.file));
        let state = self.file.state().map_err(|error| Failure::io(Exit::Io, what(), &error))?;
        if state == SourceState::Changed || common.content.is_torn() || common.repair.is_changed() {
            return Err(self.changed());
        }
        if state == SourceState::OriginalChanged {
            self.warn(format!("{} has changed: going on with the content as it was", shown(&self.options.file)));
        }
        self.say_if_replaced();
        if totals.refusals.image.copied * 2 > totals.refusals.image.sent.max(IMAGE_MESSAGES_JUDGED_MIN) {
            let text = "of a packet image is copied all the same by what it is sent on, or by a receiver on this host";
            self.warn(format!("most {text}: leave --image out, or try --image auto"));
        }
        self.report.metrics(now, |out| figures::metrics(out, &self.plan, self.interface, totals));
        if self.report.is_due(now) {
            self.show_progress(now, totals);
        }
        Ok(())
    }

    fn show_progress(&mut self, now: Time, totals: &Totals) {
        let (passes, counts) = (self.passes(totals), totals.counts);
        self.rate.update(now, counts.ip_bytes);
        let packets = counts.data + counts.manifest + counts.hashes + counts.outside;
        let mut fields = self.figures(now, totals);
        fields["rate_bps"] = self.rate.bits_per_second.into();
        let rate = report::rate(self.rate.bits_per_second);
        let standing = Standing {
            name: "status",
            fields,
            position: 0,
            length: 0,
            headline: format!("{passes:.2} passes, {rate}, {packets} packets"),
            details: figures::trouble_text(totals),
        };
        self.report.progress(now, standing);
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

    fn passes(&self, totals: &Totals) -> f64 {
        totals.counts.data as f64 / self.plan.round_length.max(1) as f64
    }

    fn figures(&self, now: Time, totals: &Totals) -> Value {
        json!({
            "passes": self.passes(totals),
            "data": totals.counts.data,
            "manifest": totals.counts.manifest,
            "hashes": totals.counts.hashes,
            "outside": totals.counts.outside,
            "ip_bytes": totals.counts.ip_bytes,
            "seconds": now.since(self.started).as_secs_f64(),
            "lost_seconds": totals.lost.as_secs_f64(),
            "engine": if totals.ring_count < self.plan.origins.len() { "sendmmsg" } else { "uring" },
            "refused": totals.refusals.refused,
            "queue_drops": totals.refusals.queue_drops,
            "icmp_errors": totals.refusals.icmp_errors,
            "image_sent": totals.refusals.image.sent,
            "image_copied": totals.refusals.image.copied,
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
        let totals = Published::total(&self.published);
        self.report.last_metrics(|out| figures::metrics(out, &self.plan, self.interface, &totals));
        let mut fields = self.figures(now, &totals);
        fields["exit"] = (exit as u8).into();
        fields["message"] = message.as_str().into();
        let usage = totals.refusals.image;
        let from_image = match usage.sent {
            0 => String::new(),
            sent => {
                format!(", {sent} messages from the packet image, of which {} were copied all the same", usage.copied)
            }
        };
        let line = format!(
            "{message} after {:.2} passes, {} in {}{from_image}",
            self.passes(&totals),
            report::bytes(totals.counts.ip_bytes),
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
