//! The server's loop: asks the machine what is due, composes it, and hands it to the kernel, for ever or for some passes.

mod announcer;
mod defaults;
mod reload;
mod service;
mod session;

use std::net::{IpAddr, SocketAddr};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};

pub use self::announcer::Announce;
use self::announcer::Announcer;
use self::defaults::default_pacing;
use self::reload::{Reloaded, Reloader};
use self::service::Service;
use self::session::{Crew, Session, Site};
use super::choose;
pub use super::image::ImageChoice;
pub use super::line::EngineChoice;
use super::manifest_file::ManifestFile;
use super::report::{self, Report};
use super::virtual_server::{Common, Event, Findings, Published, Totals, Trouble};
use crate::digest::ObjectTree;
use crate::discovery::Family;
use crate::failure::{Exit, Failure, shown};
use crate::manifest::{DisplayName, KeyId, Members};
use crate::sender::{Fec, Pacing, Sender};
use crate::sys::{Hold, Interface, Notifier, SendSocket, SourceFile, SourceState, StopSignal, clock, signals};
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
    /// Where what is sent is announced.
    pub announce: Announce,
    /// Send what takes the file's place.
    pub watch: bool,
}

/// Sends until the passes are done, or a signal or a failure ends it.
pub fn serve(options: &ServeOptions, report: &mut Report) -> Result<Exit, Failure> {
    signals::install()?;
    signals::install_reload()?;
    let interface = choose::interface(options.interface.as_deref(), options.zone.as_deref())?;
    choose::warn(&interface, Some(Family::of(options.group.ip())), report);
    let pacing = options.pacing.map_or_else(|| default_pacing(&interface), Ok)?;
    let site = Arc::new(Site { options: options.clone(), interface, pacing });
    let reloader = Reloader::new(&site, clock::now());
    let session = Session::open(&site, report)?;
    let mut server = Server::new(&site, session, reloader, report);
    let outcome = server.run();
    server.finish(outcome)
}

/// Why the server ended well.
enum Outcome {
    Done,
    Stopped(StopSignal),
}

/// What is being sent, and by whom.
#[derive(Debug)]
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
    /// Where it is announced.
    announce: Option<SocketAddr>,
    /// From where it is announced.
    announce_source: Option<SocketAddr>,
}

impl Plan {
    fn of(senders: &[Sender], sockets: &[SendSocket], manifest: &ManifestFile, announcer: Option<&Announcer>) -> Self {
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
            announce: announcer.map(Announcer::group),
            announce_source: announcer.map(Announcer::source),
        }
    }

    /// Who signed what, for the line of the start.
    fn signature(&self) -> String {
        self.signed_by.map_or_else(String::new, |key| format!(", version {} signed by key {key}", self.version))
    }

    /// What is being sent, for the service manager's line.
    fn status(&self, options: &ServeOptions, totals: &Totals) -> String {
        let (file, size) = (shown(&options.file), report::bytes(self.key.size.bytes()));
        let passes = self.passes(totals);
        format!("sending {file} ({size}{}) to {}, {passes:.2} passes", self.signature(), options.group)
    }

    fn passes(&self, totals: &Totals) -> f64 {
        totals.counts.data as f64 / self.round_length.max(1) as f64
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
    published: Arc<[Published]>,
    crew: Crew,
    /// Virtual servers that have not ended.
    left: usize,
    announcer: Option<Announcer>,
    engine: &'static str,
    reloader: Reloader,
    service: Service,
    started: Time,
    next_look: Time,
    said_replaced: bool,
    /// What people have been told: several virtual servers meet the same trouble.
    said: Vec<String>,
}

impl<'a> Server<'a> {
    fn new(site: &'a Site, session: Session, reloader: Reloader, report: &'a mut Report) -> Self {
        let now = clock::now();
        report.restart(now);
        let Session { file, plan, published, announcer, engine, crew } = session;
        Self {
            options: &site.options,
            interface: &site.interface,
            report,
            file,
            plan,
            left: published.len(),
            published,
            crew,
            announcer,
            engine,
            reloader,
            service: Service::new(Notifier::from_environment()),
            started: now,
            next_look: now,
            said_replaced: false,
            said: Vec::new(),
        }
    }

    fn announce(&mut self) {
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
            "engine": self.engine,
            "announce": plan.announce.map(|group| group.to_string()),
            "announce_source": plan.announce_source.map(|source| source.to_string()),
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

    /// Lets the virtual servers begin, and looks after them and the file until all are done or one fails.
    fn run(&mut self) -> Result<Outcome, Failure> {
        self.begin();
        let outcome = self.watch();
        self.service.stopping();
        self.crew.end();
        outcome
    }

    fn begin(&mut self) {
        // Not before: whoever wants to write waits for the next look.
        self.file.lease();
        self.announce();
        self.started = clock::now();
        self.crew.common.begin();
        let status = self.plan.status(self.options, &Published::total(&self.published));
        self.service.ready(self.started, &status);
    }

    fn watch(&mut self) -> Result<Outcome, Failure> {
        while self.left > 0 {
            match self.crew.inbox.recv_timeout(LOOK_INTERVAL) {
                Ok(Event::Warning(text)) => self.warn(text),
                Ok(Event::Tried(findings, result)) => self.tell_findings(&findings, result),
                Ok(Event::Ended(Ok(()))) => self.left -= 1,
                Ok(Event::Ended(Err(trouble))) => return Err(self.failure_of(trouble)),
                Ok(Event::Ready(_)) | Err(_) => {}
            }
            if let Some(signal) = signals::pending() {
                return Ok(Outcome::Stopped(signal));
            }
            let now = clock::now();
            if now >= self.next_look {
                self.look(now, &Published::total(&self.published))?;
                self.look_for_news(now);
                self.next_look = now.after(LOOK_INTERVAL);
            }
        }
        Ok(Outcome::Done)
    }

    /// Announces what is sent, and goes over to another object if one is ready.
    fn look_for_news(&mut self, now: Time) {
        if let Some(text) = self.announcer.as_mut().and_then(|announcer| announcer.look(now)) {
            self.warn(text);
        }
        match self.reloader.look(now, self.report) {
            Reloaded::No => {}
            Reloaded::Begun => {
                self.service.reloading();
                let text = format!("reading {} again", shown(&self.options.file));
                self.report.notice("reload", &text);
            }
            Reloaded::Ready(session) => self.go_over(*session),
            Reloaded::Failed(failure) => {
                let text = format!("{failure}: going on with what was read before, id {}", self.plan.key.id);
                self.report.notice("reload_failed", &text);
                self.service.ready(now, &text);
            }
        }
        let (options, plan, published) = (self.options, &self.plan, &self.published);
        self.service.look(now, published, || plan.status(options, &Published::total(published)));
    }

    /// The new one begins while the old one sends its last burst: nothing stands still meanwhile.
    fn go_over(&mut self, session: Session) {
        let Session { file, plan, published, announcer, engine, crew } = session;
        (self.file, self.plan, self.announcer, self.engine) = (file, plan, announcer, engine);
        (self.left, self.published, self.said_replaced) = (published.len(), published, false);
        let old = std::mem::replace(&mut self.crew, crew);
        self.service.restart();
        old.common.stop();
        self.begin();
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
    fn look(&mut self, now: Time, totals: &Totals) -> Result<(), Failure> {
        let what = || format!("send {}", shown(&self.options.file));
        let state = self.file.state().map_err(|error| Failure::io(Exit::Io, what(), &error))?;
        let Common { content, repair, .. } = &*self.crew.common;
        if state == SourceState::Changed || content.is_torn() || repair.is_changed() {
            return Err(self.changed());
        }
        if state == SourceState::OriginalChanged {
            self.warn(format!("{} has changed: going on with the content as it was", shown(&self.options.file)));
        }
        if !self.options.watch {
            self.say_if_replaced();
        }
        if totals.refusals.image.copied * 2 > totals.refusals.image.sent.max(IMAGE_MESSAGES_JUDGED_MIN) {
            let text = "of a packet image is copied all the same by what it is sent on, or by a receiver on this host";
            self.warn(format!("most {text}: leave --image out, or try --image auto"));
        }
        if self.report.is_due(now) {
            let (passes, counts) = (self.passes(totals), totals.counts);
            let seconds = now.since(self.started).as_secs_f64();
            let rate = report::rate(8.0 * counts.ip_bytes as f64 / seconds.max(1e-3));
            let text = format!(
                "{passes:.2} passes, {rate}, {} packets",
                counts.data + counts.manifest + counts.hashes + counts.outside
            );
            let fields = self.figures(now, totals);
            self.report.progress(now, "status", fields, 0, 0, text);
        }
        Ok(())
    }

    fn changed(&self) -> Failure {
        changed(&self.file, &self.options.file)
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
        self.plan.passes(totals)
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

/// What has been read is not there any more.
fn changed(file: &SourceFile, path: &Path) -> Failure {
    let what = format!("send {}", shown(path));
    if matches!(file.state(), Ok(SourceState::Changed)) {
        return Failure::new(Exit::Io, what, "it was changed while it was being sent")
            .remedy("start again; to publish a new file, rename it over the old one");
    }
    Failure::new(Exit::Io, what, "it can no longer be read").remedy("see what the kernel says of the disk: dmesg")
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
