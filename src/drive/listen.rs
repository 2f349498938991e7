//! What a receiver listens to: one group, or the sources that its user or the DNS names, on an interface that may come and go. Joins
//! `discovery` to the DNS and to the sockets, and says what happens. Nothing here waits.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use serde_json::json;

use super::choose;
use super::dns::Dns;
use super::doctor::Subject;
use super::follow::{Change, Followed};
use super::memberships::{Event, Membership, Memberships};
use super::report::Report;
use crate::discovery::{Discovery, DiscoveryConfig, Family, Origin, SourceName};
use crate::failure::{Exit, Failure};
use crate::limits::RECEIVE_SOCKET_COUNT_MAX;
use crate::receiver::SenderEntry;
use crate::sys::{Train, clock, random};
use crate::types::{Time, announcement_group};

/// Between two looks at the interface, the sources and the DNS.
const LOOK_INTERVAL: Duration = Duration::from_millis(100);
/// The same where only news are waited for: each look wakes the device.
const NEWS_LOOK_INTERVAL: Duration = Duration::from_secs(1);
/// The same while an answer is being waited for.
const ASKING_INTERVAL: Duration = Duration::from_millis(5);

/// What to listen to.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Heard {
    /// Whatever is sent to a group.
    Anyone(SocketAddr),
    /// Sources.
    Sources(Origin),
}

impl Heard {
    /// The family, if it is known before the DNS is asked.
    fn family(&self) -> Option<Family> {
        match self {
            Self::Anyone(group) | Self::Sources(Origin::Sources { group, .. }) => Some(Family::of(group.ip())),
            Self::Sources(Origin::Domain { group, .. }) => group.map(Family::of),
        }
    }
}

impl fmt::Display for Heard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Anyone(group) => write!(f, "{group}"),
            Self::Sources(Origin::Sources { group, sources }) => {
                write!(f, "{group} from ")?;
                for (i, source) in sources.iter().enumerate() {
                    f.write_str(if i > 0 { " and " } else { "" })?;
                    match source {
                        SourceName::Address(address) => write!(f, "{address}")?,
                        SourceName::Host(name) => write!(f, "{name}")?,
                    }
                }
                Ok(())
            }
            Self::Sources(Origin::Domain { service, .. }) => write!(f, "{service}"),
        }
    }
}

/// Which part of what is sent to hear (docs/PROTOCOL.md, section 8.1).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Part {
    /// The data.
    Data,
    /// Announcements alone: on this group, or on that which belongs to the group of the data.
    Announcements(Option<SocketAddr>),
}

impl Part {
    /// Where that part comes of what is sent to `group`.
    ///
    /// # Errors
    /// Why it comes nowhere.
    fn group(self, group: SocketAddr) -> Result<SocketAddr, &'static str> {
        match self {
            Self::Data => Ok(group),
            Self::Announcements(Some(asked)) => Ok(asked),
            Self::Announcements(None) => {
                announcement_group(group.ip()).map(|derived| SocketAddr::new(derived, group.port()))
            }
        }
    }
}

/// What a receiver listens to, and where.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ListenOptions {
    /// Whom.
    pub heard: Heard,
    /// What of them.
    pub part: Part,
    /// The interface in the group's zone.
    pub zone: Option<String>,
    /// The interface asked for.
    pub interface: Option<String>,
    /// Wait for an interface that is not there yet, or down.
    pub wait_for_interface: bool,
    /// The DNS servers to ask; none: the host's.
    pub dns_servers: Vec<SocketAddr>,
}

impl ListenOptions {
    /// Fails if what is to be heard comes nowhere.
    fn check(&self) -> Result<(), Failure> {
        let (Heard::Anyone(group) | Heard::Sources(Origin::Sources { group, .. })) = &self.heard else { return Ok(()) };
        let refused = |cause| {
            Failure::new(
                Exit::Usage,
                format!("hear what is announced of {group}"),
                format!("the group for that {cause}"),
            )
            .remedy("name one with --announce")
        };
        self.part.group(*group).map(|_| ()).map_err(refused)
    }

    fn look_interval(&self) -> Duration {
        if self.part == Part::Data { LOOK_INTERVAL } else { NEWS_LOOK_INTERVAL }
    }
}

/// Sources, and how they are found.
struct Search {
    discovery: Discovery,
    dns: Option<Dns>,
}

/// Listens.
pub(super) struct Listener {
    options: ListenOptions,
    /// The file that is received into, for the events; `None`: what comes is only counted.
    file: Option<String>,
    followed: Followed,
    memberships: Memberships,
    search: Option<Search>,
    last_look: Time,
    next_look: Time,
    /// Groups of which it has been said that they are listened to.
    announced: Vec<SocketAddr>,
}

impl Listener {
    /// Begins to listen, and says to what.
    ///
    /// # Errors
    /// [`Exit::Usage`] and [`Exit::Unavailable`] if the interface cannot be used, or nothing can be joined.
    pub(super) fn open(options: &ListenOptions, file: Option<String>, report: &mut Report) -> Result<Self, Failure> {
        options.check()?;
        let (asked, zone) = (options.interface.as_deref(), options.zone.as_deref());
        let (followed, warnings) = Followed::find(asked, zone, options.heard.family(), options.wait_for_interface)?;
        warnings.iter().for_each(|warning| report.notice("warning", warning));
        if let Some(interface) = followed.usable() {
            choose::warn(interface, options.heard.family(), report);
        }
        let mut listener = Self {
            options: options.clone(),
            file,
            followed,
            memberships: Memberships::default(),
            search: None,
            last_look: clock::now(),
            next_look: clock::now(),
            announced: Vec::new(),
        };
        listener.start(clock::now(), report)?;
        Ok(listener)
    }

    /// Joins for the first time. What cannot be joined then is an error, unless something else can.
    fn start(&mut self, now: Time, report: &mut Report) -> Result<(), Failure> {
        if self.followed.usable().is_none() {
            return Ok(());
        }
        self.begin_search(now, report)?;
        let failures = self.sync(now, report);
        match failures.into_iter().next() {
            Some(failure) if self.memberships.are_none() => Err(failure),
            Some(failure) => {
                report.notice("join", &failure.to_string());
                Ok(())
            }
            None => Ok(()),
        }
    }

    fn begin_search(&mut self, now: Time, report: &mut Report) -> Result<(), Failure> {
        let (Heard::Sources(origin), Some(interface), None) =
            (&self.options.heard, self.followed.usable(), &self.search)
        else {
            return Ok(());
        };
        let families = choose::families(interface);
        let seed = random::bytes().map_or_else(|_| now.as_nanos(), u64::from_ne_bytes);
        let asks = match origin {
            Origin::Domain { service, .. } => {
                let line = format!("looking for the sources of {service}");
                let fields = json!({ "service": service.to_string(), "interface": interface.name });
                report.event("searching", fields, Some(line));
                true
            }
            Origin::Sources { sources, .. } => sources.iter().any(|source| matches!(source, SourceName::Host(_))),
        };
        let dns = if asks { Some(Dns::start(self.options.dns_servers.clone())?) } else { None };
        let config = DiscoveryConfig { origin: origin.clone(), families, seed };
        self.search = Some(Search { discovery: Discovery::new(now, config), dns });
        Ok(())
    }

    /// Waits for a batch of datagrams until `deadline`.
    ///
    /// # Errors
    /// [`Exit::Io`] if the kernel refuses.
    pub(super) fn receive(&mut self, deadline: Time) -> Result<usize, Failure> {
        self.memberships
            .receive(deadline.min(self.next_look))
            .map_err(|error| Failure::io(Exit::Io, format!("receive {self}"), &error))
    }

    /// The last batch: see [`ReceiveSocket::trains`](crate::sys::ReceiveSocket::trains).
    pub(super) fn trains(&self) -> impl Iterator<Item = Train<'_>> {
        self.memberships.trains()
    }

    /// Buffers that the kernel has dropped, modulo 2^32.
    pub(super) fn dropped_buffers(&self) -> u32 {
        self.memberships.dropped_buffers()
    }

    /// Buffers that were longer than the room for them.
    pub(super) fn truncated(&self) -> u64 {
        self.memberships.truncated()
    }

    /// Looks whether it is time to join or leave anything, and does so. `senders`: the streams that have been of use. To be
    /// called after each batch.
    ///
    /// # Errors
    /// [`Exit::Unavailable`] if no source can be found; [`Exit::Usage`] if an interface that has come leaves a choice.
    pub(super) fn look(&mut self, now: Time, senders: &[SenderEntry], report: &mut Report) -> Result<(), Failure> {
        if now < self.next_look {
            return Ok(());
        }
        self.look_at_interface(now, report)?;
        if self.followed.usable().is_some() {
            self.begin_search(now, report)?;
            self.look_at_sources(now, senders, report)?;
            for failure in self.sync(now, report) {
                report.notice("join", &failure.to_string());
            }
        }
        let is_asking = self.search.as_ref().is_some_and(|search| search.discovery.is_asking());
        self.last_look = now;
        self.next_look = now.after(if is_asking { ASKING_INTERVAL } else { self.options.look_interval() });
        Ok(())
    }

    fn look_at_interface(&mut self, now: Time, report: &mut Report) -> Result<(), Failure> {
        let text = match self.followed.look()? {
            Change::None => return Ok(()),
            Change::Lost(text) | Change::Said(text) => text,
            Change::Back(text) => {
                self.memberships.leave_all();
                if let Some(search) = &mut self.search {
                    search.discovery.handle_rejoined(now);
                }
                text
            }
        };
        report.notice("interface", &text);
        Ok(())
    }

    fn look_at_sources(&mut self, now: Time, senders: &[SenderEntry], report: &mut Report) -> Result<(), Failure> {
        let Some(Search { discovery, dns }) = &mut self.search else { return Ok(()) };
        let since = self.last_look;
        let part = self.options.part;
        // Of announcements none is of use that is known already, and those come all the time.
        let is_useful =
            |source: IpAddr| part != Part::Data || senders.iter().any(|sender| sender.is_useful(source, since));
        for (group, source) in self.memberships.take_heard().filter(|(_, source)| is_useful(*source)) {
            let groups = discovery.wanted().map(|server| server.group).filter(|of| part.group(*of) == Ok(group));
            let groups: Vec<_> = groups.collect();
            groups.into_iter().for_each(|group| discovery.handle_heard(now, group, source));
        }
        if self.followed.can_hear() {
            discovery.handle_timeout(now);
        }
        if let Some(dns) = dns {
            while let Some((question, answer)) = dns.take() {
                discovery.handle_answer(now, &question, answer);
            }
            while let Some(question) = discovery.poll_question(now) {
                dns.ask(question);
            }
        }
        while let Some(text) = discovery.poll_notice() {
            report.notice("dns", &text);
        }
        match discovery.poll_failure() {
            Some(cause) => {
                let what = format!("find the sources of {}", self.options.heard);
                Err(Failure::new(Exit::Unavailable, what, cause))
            }
            None => Ok(()),
        }
    }

    /// Joins and leaves; returns what could not be joined.
    fn sync(&mut self, now: Time, report: &mut Report) -> Vec<Failure> {
        let Some(interface_index) = self.followed.usable().map(|interface| interface.index) else { return Vec::new() };
        let wanted = self.wanted();
        let mut failures = Vec::new();
        for event in self.memberships.sync(now, interface_index, &wanted) {
            match event {
                Event::Joined(membership) => self.announce(membership, report),
                Event::Left(membership) => self.tell_of_source("left", membership, report),
                Event::Failed(failure) => failures.push(failure),
                Event::Warning(text) => report.notice("warning", &text),
            }
        }
        failures
    }

    fn wanted(&self) -> Vec<Membership> {
        let part = self.options.part;
        match (&self.options.heard, &self.search) {
            (Heard::Anyone(group), _) => {
                part.group(*group).map(|group| Membership { group, source: None }).into_iter().collect()
            }
            (Heard::Sources(_), None) => Vec::new(),
            (Heard::Sources(_), Some(search)) => {
                let mut wanted = Vec::new();
                for server in search.discovery.wanted() {
                    // A domain whose group has no neighbour has no announcements.
                    let Ok(group) = part.group(server.group) else { continue };
                    for &source in &server.sources {
                        let membership = Membership { group, source: Some(source) };
                        if !wanted.contains(&membership) {
                            wanted.push(membership);
                        }
                    }
                }
                wanted
            }
        }
    }

    /// What to look at when nothing comes; `None` if nothing is joined.
    pub(super) fn subject(&self) -> Option<Subject> {
        let interface = self.followed.usable()?.name.clone();
        let wanted = self.wanted();
        let group = wanted.first()?.group;
        let of_group = wanted.iter().filter(|membership| membership.group == group);
        let sources = of_group.filter_map(|membership| membership.source).collect();
        Some(Subject { group, sources, interface })
    }

    fn announce(&mut self, membership: Membership, report: &mut Report) {
        let group = membership.group;
        if !self.announced.contains(&group) {
            self.announced.truncate(RECEIVE_SOCKET_COUNT_MAX);
            self.announced.insert(0, group);
            let interface = self.followed.name();
            let mut fields = json!({ "group": group.to_string(), "interface": interface });
            let purpose = match &self.file {
                Some(file) => {
                    fields["file"] = file.as_str().into();
                    if self.options.part == Part::Data { "" } else { ", for news" }
                }
                None => {
                    fields["discard"] = true.into();
                    ", to measure and keep nothing"
                }
            };
            report.event("listening", fields, Some(format!("listening to {group} on {interface}{purpose}")));
        }
        self.tell_of_source("joined", membership, report);
    }

    fn tell_of_source(&self, event: &str, membership: Membership, report: &mut Report) {
        let Some(source) = membership.source else { return };
        let server = self.search.as_ref().and_then(|search| {
            let is_it = |server: &&crate::discovery::Server| {
                self.options.part.group(server.group) == Ok(membership.group) && server.sources.contains(&source)
            };
            search.discovery.wanted().find(is_it)
        });
        let name = server.and_then(|server| server.name.as_ref()).map(ToString::to_string);
        let fields = json!({
            "group": membership.group.to_string(),
            "source": source.to_string(),
            "name": name,
            "priority": server.map(|server| server.priority),
        });
        let called = name.map(|name| format!(" ({name})")).unwrap_or_default();
        let line = format!("{event} source {source}{called} of {}", membership.group);
        report.event(event, fields, Some(line));
    }
}

/// What is listened to, and where.
impl fmt::Display for Listener {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let part = if self.options.part == Part::Data { "" } else { "announcements of " };
        write!(f, "{part}{} on {}", self.options.heard, self.followed.name())
    }
}
