//! Joins the agent's machine to the network, the disk and the hook: waits for announcements, fetches by the ordinary receiver, runs the
//! user's command, and keeps the journal.

use std::ffi::OsString;
use std::fs::{File, OpenOptions};
use std::io::Read;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};
use serde_json::json;

use super::doctor::Silence;
use super::durable::DurableFile;
use super::listen::{Listener, Part};
use super::receive::{self, FetchTerms, ReceiveFileOptions};
use super::report::{self, Report};
use super::{destination, end, hook, notices, tally};
use crate::agent::{Agent, AgentConfig, Journal, Step};
use crate::failure::{Exit, Failure, describe, shown};
use crate::limits::{FETCH_IDLE_TIME_MAX, FETCH_TIME_MAX, JOURNAL_SIZE_MAX, LISTEN_RETRY_INTERVAL};
use crate::manifest::Manifest;
use crate::receiver::{Action, Distrust, DropReason, Notice, Receiver, ReceiverConfig};
use crate::sys::{Notifier, OutputKind, StopSignal, clock, random, signals};
use crate::types::Time;

/// Between two looks at signals and the interface while nothing is new: each wakes the device.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);
/// Between two looks at the room there is while what is announced is too large.
const ROOM_INTERVAL: Duration = Duration::from_secs(1);
/// Bytes read at once of what may be in place.
const PIECE_SIZE: usize = 1 << 20;

/// What a device's agent is told.
#[derive(Clone, Debug)]
pub struct WatchOptions {
    /// How to fetch, and what to trust.
    pub receive: ReceiveFileOptions,
    /// Where the journal is kept.
    pub state_dir: PathBuf,
    /// What to run for a version that is in place.
    pub hook: Option<OsString>,
    /// How long it may take.
    pub hook_time_max: Duration,
    /// Between a hook that failed and the next attempt, the first time.
    pub hook_retry: Duration,
    /// Wait for a time at random up to this one before fetching what is new.
    pub splay: Duration,
    /// Where news come.
    pub part: Part,
}

/// Keeps a file at the newest version, until a signal ends it.
///
/// # Errors
/// What is wrong from the start, and a journal that cannot be kept. Whatever fails later is tried again.
pub fn watch(options: &WatchOptions, report: &mut Report) -> Result<Exit, Failure> {
    signals::install()?;
    let journal = StateFolder::open(&options.state_dir)?;
    let config = AgentConfig {
        version_min: options.receive.trust.as_ref().and_then(|trust| trust.version_min).unwrap_or(0),
        splay: options.splay,
        hook_retry: options.hook_retry,
        has_hook: options.hook.is_some(),
        seed: random::bytes().map_or_else(|_| clock::now().as_nanos(), u64::from_ne_bytes),
    };
    let agent = Agent::new(config, journal.load()?);
    let mut watch = Watch {
        options,
        report,
        size_max: size_max(options)?,
        agent,
        journal,
        watcher: None,
        has_listened: false,
        retry_at: None,
        notifier: Notifier::from_environment(),
    };
    // What the user has got wrong is said at once.
    watch.watcher = Some(watch.new_watcher()?);
    let signal = watch.run()?;
    watch.notifier.stopping();
    let exit = Exit::from(signal);
    let fields = json!({ "exit": exit as u8, "message": end::cause(signal) });
    watch.report.event("end", fields, Some(end::cause(signal).to_owned()));
    Ok(exit)
}

/// The folder of one agent, which no other can use meanwhile.
#[derive(Debug)]
struct StateFolder {
    journal: DurableFile,
    _lock: Flock<File>,
}

impl StateFolder {
    fn open(folder: &Path) -> Result<Self, Failure> {
        let what = || format!("use {}", shown(folder));
        let cannot = |error: std::io::Error| Failure::io(Exit::CannotCreate, what(), &error).remedy("see --state-dir");
        let journal = DurableFile::new(&folder.join("journal"))?;
        let mut options = OpenOptions::new();
        let options = options.create(true).truncate(false).write(true).mode(0o600).custom_flags(libc::O_NOFOLLOW);
        let lock = Flock::lock(options.open(folder.join("lock")).map_err(cannot)?, FlockArg::LockExclusiveNonblock);
        let lock = lock.map_err(|(_, errno)| match errno {
            Errno::EWOULDBLOCK => Failure::new(Exit::CannotCreate, what(), "another iotupc --watch uses it")
                .remedy("give each its own --state-dir"),
            errno => cannot(errno.into()),
        })?;
        Ok(Self { journal, _lock: lock })
    }

    fn load(&self) -> Result<Journal, Failure> {
        let what = format!("read the journal {}", shown(self.journal.path()));
        let Some(bytes) = self.journal.load(&what, JOURNAL_SIZE_MAX)? else { return Ok(Journal::default()) };
        Journal::parse(&bytes).map_err(|_| {
            Failure::new(Exit::BadData, what, "it is damaged, or not written by iotupc")
                .remedy("restore it; without it older versions are taken again")
        })
    }

    fn keep(&self, journal: &Journal) -> Result<(), Failure> {
        self.journal
            .replace(&journal.to_text())
            .map_err(|error| Failure::io(Exit::Io, format!("keep the journal {}", shown(self.journal.path())), &error))
    }
}

/// Bytes of the largest object for which there is room.
fn size_max(options: &WatchOptions) -> Result<u64, Failure> {
    let receive = &options.receive;
    let output = crate::sys::Output::open(&receive.file, &receive.output)?;
    destination::size_max(&output, receive.size_max)
}

/// Listens for announcements of one version or a newer one.
struct Watcher {
    listener: Listener,
    silence: Silence,
    receiver: Receiver,
    version_min: u64,
}

struct Watch<'a> {
    options: &'a WatchOptions,
    report: &'a mut Report,
    size_max: u64,
    agent: Agent,
    journal: StateFolder,
    watcher: Option<Watcher>,
    has_listened: bool,
    /// Nothing can be listened to before that.
    retry_at: Option<Time>,
    notifier: Notifier,
}

impl Watch<'_> {
    fn run(&mut self) -> Result<StopSignal, Failure> {
        loop {
            let step = self.agent.poll(clock::now());
            // What has been done is recorded first.
            if let (Some(signal), false) = (signals::pending(), matches!(step, Step::Keep(_))) {
                return Ok(signal);
            }
            match step {
                Step::Check(manifest) => self.check(&manifest)?,
                Step::Fetch { version_min } => self.fetch(version_min),
                Step::RunHook { manifest, attempt, previous } => {
                    if let Some(signal) = self.run_hook(&manifest, attempt, previous) {
                        self.keep_what_is_done()?;
                        return Ok(signal);
                    }
                }
                Step::Keep(journal) => self.keep(&journal)?,
                Step::Watch { version_min, until } => self.listen(version_min, until),
            }
        }
    }

    fn keep_what_is_done(&mut self) -> Result<(), Failure> {
        match self.agent.poll(clock::now()) {
            Step::Keep(journal) => self.keep(&journal),
            _ => Ok(()),
        }
    }

    fn keep(&mut self, journal: &Journal) -> Result<(), Failure> {
        self.journal.keep(journal)?;
        self.agent.handle_kept();
        let version = journal.done().unwrap_or(0);
        let line = format!("version {version} of {} is installed", shown(&self.options.receive.file));
        self.report.event("installed", json!({ "version": version }), Some(line.clone()));
        self.notifier.status(&line);
        Ok(())
    }

    /// The program has been stopped when this was in place, or about to be.
    fn check(&mut self, manifest: &Manifest) -> Result<(), Failure> {
        let (file, version) = (shown(&self.options.receive.file), manifest.version);
        let found = is_in_place(&self.options.receive.file, manifest);
        if signals::pending().is_some() {
            return Ok(());
        }
        let text = match &found {
            Ok(true) => format!("version {version} is in place, and what is to be done for it may not be done yet"),
            Ok(false) => format!("version {version} is not what {file} holds: it is fetched when it is announced"),
            Err(error) => {
                format!(
                    "{file} cannot be read ({}): version {version} is fetched when it is announced",
                    describe(error)
                )
            }
        };
        self.report.notice("journal", &text);
        self.agent.handle_checked(found.unwrap_or(false));
        Ok(())
    }

    fn fetch(&mut self, version_min: u64) {
        // The announcements are left meanwhile: a newer version is noticed on the group of the data.
        self.watcher = None;
        let mut options = self.options.receive.clone();
        options.assume_yes = true;
        options.listen.wait_for_interface = true;
        options.timeout = options.timeout.or(Some(FETCH_TIME_MAX));
        options.idle_timeout = options.idle_timeout.or(Some(FETCH_IDLE_TIME_MAX));
        if let Some(trust) = &mut options.trust {
            trust.version_min = Some(version_min);
        }
        self.notifier.status(&format!("fetching version {version_min} or newer"));
        let (agent, journal, mut received) = (&self.agent, &self.journal, None);
        let mut before_commit = |manifest: &Manifest| {
            journal.keep(&agent.journal_of(manifest))?;
            received = Some(manifest.clone());
            Ok(())
        };
        let terms = FetchTerms { before_commit: &mut before_commit };
        let result = receive::fetch(&options, self.report, terms);
        match result {
            Ok(()) => {
                let manifest = received.expect("nothing gets its name before it has been noted");
                self.agent.handle_fetched(clock::now(), &manifest);
            }
            Err(_) if signals::pending().is_some() => {}
            Err(failure) => {
                let now = clock::now();
                let noted = received.map(|manifest| manifest.version);
                let wait = self.agent.handle_fetch_failed(now, noted).since(now);
                let text = format!("{failure}: waiting {} for another announcement", report::span(wait.as_secs_f64()));
                self.report.notice("fetch_failed", &text);
            }
        }
    }

    fn run_hook(&mut self, manifest: &Manifest, attempt: u32, previous: Option<u64>) -> Option<StopSignal> {
        let command = self.options.hook.as_deref().expect("a hook is asked for only if there is one");
        let version = manifest.version;
        self.notifier.status(&format!("running the hook for version {version}"));
        let variables = hook::variables(&self.options.receive.file, manifest, attempt, previous);
        let result = hook::run(command, &variables, self.options.hook_time_max);
        let now = clock::now();
        let has_succeeded = result.as_ref().is_ok_and(|end| end.has_succeeded);
        let retry = self.agent.handle_hook(now, has_succeeded).map(|due| due.since(now));
        let (how, span, stopped_by) = match result {
            Ok(end) => (end.how, end.span, end.stopped_by),
            Err(failure) => (failure.to_string(), Duration::ZERO, None),
        };
        let again = match (retry, stopped_by) {
            (Some(wait), None) => format!(", again in {}", report::span(wait.as_secs_f64())),
            (Some(_), Some(_)) => ", again at the next start".into(),
            (None, _) => String::new(),
        };
        let fields = json!({
            "version": version,
            "attempt": attempt,
            "succeeded": has_succeeded,
            "how": how,
            "seconds": span.as_secs_f64(),
            "retry_seconds": retry.map(|wait| wait.as_secs_f64()),
        });
        self.report.event("hook", fields, Some(format!("the hook for version {version} {how}{again}")));
        stopped_by
    }

    fn new_watcher(&mut self) -> Result<Watcher, Failure> {
        let mut listen = self.options.receive.listen.clone();
        listen.part = self.options.part;
        // An interface that is not there is a mistake at the start, and later it is not.
        listen.wait_for_interface |= self.has_listened;
        let file = self.options.receive.file.to_string_lossy().into_owned();
        let listener = Listener::open(&listen, Some(file), self.report)?;
        self.has_listened = true;
        let version_min = self.agent.version_min();
        let receiver = self.new_receiver(version_min)?;
        self.notifier.ready(&format!("waiting for version {version_min} or newer"));
        Ok(Watcher { listener, silence: Silence::default(), receiver, version_min })
    }

    fn new_receiver(&mut self, version_min: u64) -> Result<Receiver, Failure> {
        let receive = &self.options.receive;
        if !matches!(receive.output, OutputKind::Device { .. }) {
            // Other files come and go.
            self.size_max = size_max(self.options).unwrap_or(self.size_max);
        }
        let mut trust = receive.trust.clone().expect("there are keys");
        trust.version_min = Some(version_min);
        let trust = trust.load(self.report)?;
        let config =
            ReceiverConfig { size_max: self.size_max, timeout: None, idle_timeout: None, decode: receive.decode };
        Ok(Receiver::watching(clock::now(), config, trust))
    }

    /// Waits for news, or until it is time for something else. What fails is tried again later.
    fn listen(&mut self, version_min: u64, until: Option<Time>) {
        if let Some(at) = self.retry_at.filter(|at| clock::now() < *at) {
            let at = until.map_or(at, |until| at.min(until));
            return clock::sleep_until(at.min(clock::now().after(LOOK_INTERVAL)));
        }
        self.retry_at = None;
        let result = match self.watcher.take() {
            Some(watcher) => self.listen_by(watcher, version_min, until),
            None => self.new_watcher().and_then(|watcher| self.listen_by(watcher, version_min, until)),
        };
        match result {
            Ok(watcher) => self.watcher = Some(watcher),
            Err(failure) => {
                self.retry_at = Some(clock::now().after(LISTEN_RETRY_INTERVAL));
                let wait = report::span(LISTEN_RETRY_INTERVAL.as_secs_f64());
                self.report.notice("listen_failed", &format!("{failure}: trying again in {wait}"));
            }
        }
    }

    fn listen_by(&mut self, watcher: Watcher, version_min: u64, until: Option<Time>) -> Result<Watcher, Failure> {
        let mut watcher = watcher;
        if watcher.version_min != version_min {
            watcher = Watcher { receiver: self.new_receiver(version_min)?, version_min, ..watcher };
        }
        let Watcher { listener, silence, receiver, .. } = &mut watcher;
        let has_fixed_size = matches!(self.options.receive.output, OutputKind::Device { .. });
        let mut room_looked_at = clock::now();
        loop {
            let now = clock::now();
            if signals::pending().is_some() || until.is_some_and(|until| now >= until) {
                return Ok(watcher);
            }
            let ends = [until, receiver.poll_timeout()];
            listener.receive(ends.into_iter().flatten().fold(now.after(LOOK_INTERVAL), Time::min))?;
            let now = clock::now();
            receiver.handle_wall_clock(clock::unix_seconds());
            for train in listener.trains() {
                train.datagrams().for_each(|datagram| {
                    receiver.handle_datagram(now, train.from, datagram);
                });
            }
            receiver.handle_timeout(now);
            let is_too_large = receiver.counts().dropped(DropReason::TooLarge) > 0;
            if is_too_large && !has_fixed_size && now.since(room_looked_at) >= ROOM_INTERVAL {
                room_looked_at = now;
                if let Ok(size_max) = size_max(self.options) {
                    self.size_max = size_max;
                    receiver.handle_room(size_max);
                }
            }
            while let Some(notice) = receiver.poll_notice() {
                // What is known is announced all the time.
                if matches!(notice, Notice::Distrusted(Distrust::OldVersion { .. })) {
                    continue;
                }
                silence.note(&notice, || listener.subject());
                if let Some((kind, text)) = notices::words(&notice, "see --max-size and the free space") {
                    self.report.notice(kind, &text);
                }
            }
            self.report.metrics(now, |out| {
                out.gauge("version_min", "The lowest version that is taken.", version_min);
                tally::metrics(out, receiver.counts(), receiver.senders(), listener.dropped_buffers());
            });
            silence.tell(listener, self.report);
            listener.look(now, receiver.senders(), self.report)?;
            if let Some(Action::Prepare { manifest, .. }) = receiver.poll_action() {
                self.note_news(now, &manifest);
                return Ok(watcher);
            }
        }
    }

    fn note_news(&mut self, now: Time, manifest: &Manifest) {
        let Some(due) = self.agent.handle_offer(now, manifest.version) else { return };
        let wait = due.since(now).as_secs_f64();
        let line = format!(
            "version {} is announced ({}, {}): fetching it {}",
            manifest.version,
            manifest.name,
            report::bytes(manifest.size.bytes()),
            if wait < 0.5 { "now".into() } else { format!("in {}", report::span(wait)) }
        );
        let fields = json!({
            "version": manifest.version,
            "digest": manifest.digest.to_string(),
            "size": manifest.size.bytes(),
            "name": manifest.name.as_str(),
            "wait_seconds": wait,
        });
        self.report.event("news", fields, Some(line));
    }
}

/// Whether the file, or the beginning of the device, is the object that the manifest is about.
fn is_in_place(path: &Path, manifest: &Manifest) -> std::io::Result<bool> {
    let file = OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY).open(path)?;
    let (metadata, size) = (file.metadata()?, manifest.size.bytes());
    if metadata.is_file() && metadata.len() != size {
        return Ok(false);
    }
    let (mut hasher, mut piece) = (blake3::Hasher::new(), vec![0; PIECE_SIZE]);
    let (mut content, mut left) = (file.take(size), size);
    while left > 0 {
        let count = content.read(&mut piece)?;
        if count == 0 || signals::pending().is_some() {
            return Ok(false);
        }
        hasher.update(&piece[..count]);
        left -= count as u64;
    }
    Ok(*hasher.finalize().as_bytes() == manifest.digest.0)
}
