//! Which sources to hear, and what to ask the DNS for it (RFC 2782, RFC 4607; docs/PROTOCOL.md, section 12). A machine without I/O: it
//! takes answers and what was heard of whom, and says what to ask and what to join.
//!
//! The domain's SRV records name hosts and ports, a TXT record the group, A or AAAA records the hosts' addresses. A host's addresses
//! are joined together, because it sends from only one of them. Hosts are taken in the order of `order`: the best first, the next when it
//! stays silent, and so on. Better ones that are silent stay joined, so that they are heard at once when they return; then what is worse is
//! left. Every answer is asked for again when its time is over, so that sources come and go. An answer that cannot be had leaves
//! the last one in force: a DNS server that is down must not end a transfer. Nothing that an answer says is trusted beyond which
//! source to listen to.

mod lookup;
mod message;
mod order;
mod server;

use std::collections::VecDeque;
use std::fmt;
use std::net::{IpAddr, SocketAddr};

pub use message::{
    Answer, HostName, Judgement, LookupError, Question, QuestionKind, Records, ServerRecord, judge, query,
};
pub use server::Server;

use crate::limits::{ADDRESS_COUNT_MAX, SERVER_COUNT_MAX};
use crate::types::{Time, unusable_group, unusable_source};
use lookup::Lookups;

/// Notices that wait to be shown at most; more are dropped.
const NOTICE_COUNT_MAX: usize = 32;
/// Where a domain's records are (RFC 2782).
const SERVICE: &str = "_iotupd._udp";
/// How a TXT record names the group.
const GROUP_KEY: &[u8] = b"group=";
/// What may be added to the time between two questions, in parts of it, so that receivers do not ask all at once.
const EXCESS_MAX: f64 = 0.1;

/// The name at which the records of `domain` are.
///
/// # Errors
/// If there is no room for it in a name.
pub fn service_of(domain: &HostName) -> Result<HostName, String> {
    format!("{SERVICE}.{domain}").parse().map_err(|_| format!("{domain} is too long a name"))
}

/// An address family.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

impl Family {
    /// The family of an address.
    #[must_use]
    pub fn of(address: IpAddr) -> Self {
        if address.is_ipv4() { Self::V4 } else { Self::V6 }
    }

    fn question(self) -> QuestionKind {
        match self {
            Self::V4 => QuestionKind::V4,
            Self::V6 => QuestionKind::V6,
        }
    }
}

impl fmt::Display for Family {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::V4 => "IPv4",
            Self::V6 => "IPv6",
        })
    }
}

/// A source that the user names.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum SourceName {
    /// By its address.
    Address(IpAddr),
    /// By its name.
    Host(HostName),
}

/// Where to find sources.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Origin {
    /// The user names them. All are joined.
    Sources {
        /// The group and port.
        group: SocketAddr,
        /// The sources.
        sources: Vec<SourceName>,
    },
    /// The DNS does.
    Domain {
        /// Where the records are: see [`service_of`].
        service: HostName,
        /// The group, if the user says it.
        group: Option<IpAddr>,
        /// The port, if the user says it.
        port: Option<u16>,
        /// How many servers to hear at once.
        server_count: usize,
    },
}

/// What a machine is to do.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct DiscoveryConfig {
    /// Where to find sources.
    pub origin: Origin,
    /// The families in which a domain's groups can be received, the better one first.
    pub families: Vec<Family>,
    /// Any number that differs from receiver to receiver.
    pub seed: u64,
}

/// What is wrong, as far as anybody can tell now.
#[derive(Debug, Default)]
struct Problems {
    texts: Vec<(Question, String)>,
    /// There is no hope.
    are_final: bool,
}

impl Problems {
    fn add(&mut self, question: &Question, text: String) {
        self.texts.push((question.clone(), text));
    }
}

/// Finds sources.
#[derive(Debug)]
pub struct Discovery {
    config: DiscoveryConfig,
    lookups: Lookups,
    servers: Vec<Server>,
    notices: VecDeque<String>,
    /// What has been said of which question.
    said: Vec<(Question, String)>,
    has_found: bool,
    failure: Option<String>,
    draw_count: u64,
}

impl Discovery {
    /// A machine that begins at `now`.
    #[must_use]
    pub fn new(now: Time, config: DiscoveryConfig) -> Self {
        let mut discovery = Self {
            config,
            lookups: Lookups::default(),
            servers: Vec::new(),
            notices: VecDeque::new(),
            said: Vec::new(),
            has_found: false,
            failure: None,
            draw_count: 0,
        };
        discovery.review(now);
        discovery
    }

    /// The next question to ask. Each is answered once, by `handle_answer`.
    pub fn poll_question(&mut self, now: Time) -> Option<Question> {
        self.lookups.poll(now)
    }

    /// Whether an answer is being waited for.
    #[must_use]
    pub fn is_asking(&self) -> bool {
        self.lookups.is_asking()
    }

    /// What has come of a question.
    pub fn handle_answer(&mut self, now: Time, question: &Question, answer: Result<Answer, LookupError>) {
        let excess = self.draw() * EXCESS_MAX;
        if self.lookups.take(now, question, answer, excess) {
            self.review(now);
        }
    }

    /// Something useful has come from `source` at `group`.
    pub fn handle_heard(&mut self, now: Time, group: SocketAddr, source: IpAddr) {
        let is_it = |server: &&mut Server| server.group == group && server.sources.contains(&source);
        self.servers.iter_mut().filter(is_it).for_each(|server| server.heard_at(now));
    }

    /// Nothing could be heard until now, which says nothing about the sources: they have their time again.
    pub fn handle_rejoined(&mut self, now: Time) {
        server::restart(&mut self.servers, now);
    }

    /// Decides what to join. To be called several times a second, while anything could be heard.
    pub fn handle_timeout(&mut self, now: Time) {
        let count = match &self.config.origin {
            Origin::Sources { .. } => usize::MAX,
            Origin::Domain { server_count, .. } => *server_count,
        };
        server::choose(&mut self.servers, count, now);
    }

    /// The servers to be joined now, the best first.
    pub fn wanted(&self) -> impl Iterator<Item = &Server> {
        self.servers.iter().filter(|server| server.is_wanted())
    }

    /// The next thing to tell people: one line.
    pub fn poll_notice(&mut self) -> Option<String> {
        self.notices.pop_front()
    }

    /// Why no source can be found; told once, and never after one has been.
    pub fn poll_failure(&mut self) -> Option<String> {
        self.failure.take()
    }

    /// A number from 0 to 1.
    fn draw(&mut self) -> f64 {
        self.draw_count += 1;
        let draw = xxhash_rust::xxh3::xxh3_64_with_seed(&self.draw_count.to_le_bytes(), self.config.seed);
        (draw >> 11) as f64 / (1_u64 << 53) as f64
    }

    /// Draws conclusions from what is known.
    fn review(&mut self, now: Time) {
        let mut problems = Problems::default();
        let mut servers = match self.config.origin.clone() {
            Origin::Sources { group, sources } => self.named_servers(now, group, &sources, &mut problems),
            Origin::Domain { service, group, port, .. } => {
                self.domain_servers(now, &service, group, port, &mut problems)
            }
        };
        self.lookups.forget_others();
        servers.iter_mut().for_each(|server| server.remember(&self.servers));
        self.servers = servers;
        self.handle_timeout(now);
        self.has_found |= !self.servers.is_empty();
        if !self.has_found && (problems.are_final || self.lookups.are_settled()) {
            let first = problems.texts.into_iter().next();
            self.failure = Some(first.map_or_else(|| "there is none".to_owned(), |(_, text)| text));
        } else {
            self.tell(problems.texts);
        }
    }

    /// Tells what has not been told.
    fn tell(&mut self, texts: Vec<(Question, String)>) {
        for problem in &texts {
            if !self.said.contains(problem) && self.notices.len() < NOTICE_COUNT_MAX {
                self.notices.push_back(problem.1.clone());
            }
        }
        self.said = texts;
    }

    /// The servers that the user names.
    fn named_servers(
        &mut self,
        now: Time,
        group: SocketAddr,
        sources: &[SourceName],
        problems: &mut Problems,
    ) -> Vec<Server> {
        let groups = [group.ip()];
        let mut servers = Vec::new();
        for source in sources {
            match source {
                SourceName::Address(address) => servers.push(Server::new(group, vec![*address], None, 0)),
                SourceName::Host(name) => {
                    for (_, sources) in self.addresses(now, name, &groups, Alias::Allowed, problems) {
                        servers.push(Server::new(group, sources, Some(name.clone()), 0));
                    }
                }
            }
        }
        servers
    }

    /// The servers that the domain names, the best first.
    fn domain_servers(
        &mut self,
        now: Time,
        service: &HostName,
        group: Option<IpAddr>,
        port: Option<u16>,
        problems: &mut Problems,
    ) -> Vec<Server> {
        let records = self.server_records(now, service, problems);
        let groups = match group {
            Some(group) => vec![group],
            None => self.groups(now, service, problems),
        };
        let mut servers: Vec<Server> = Vec::new();
        for record in order::in_order(&records, self.config.seed).into_iter().take(SERVER_COUNT_MAX) {
            for (group, sources) in self.addresses(now, &record.target, &groups, Alias::Forbidden, problems) {
                let group = SocketAddr::new(group, port.unwrap_or(record.port));
                let server = Server::new(group, sources, Some(record.target.clone()), record.priority);
                if !servers.iter().any(|other| other.group == group && other.name == server.name) {
                    servers.push(server);
                }
            }
        }
        servers
    }

    /// The usable SRV records.
    fn server_records(&mut self, now: Time, service: &HostName, problems: &mut Problems) -> Vec<ServerRecord> {
        let question = Question { name: service.clone(), kind: QuestionKind::Servers };
        let Some(Records::Servers(mut records)) = self.found(now, &question, problems) else { return Vec::new() };
        let is_none = records.iter().all(|record| record.target.is_root());
        records.retain(|record| !record.target.is_root() && record.port != 0);
        if records.is_empty() {
            let cause = if is_none { "there is no such service (SRV target \".\")" } else { "the port is 0" };
            problems.add(&question, format!("{question}: {cause}"));
            problems.are_final = true;
        }
        records
    }

    /// The groups that the TXT records name and that can be received, the best first.
    fn groups(&mut self, now: Time, service: &HostName, problems: &mut Problems) -> Vec<IpAddr> {
        let question = Question { name: service.clone(), kind: QuestionKind::Texts };
        let Some(Records::Texts(texts)) = self.found(now, &question, problems) else { return Vec::new() };
        let groups = match groups_in(&texts) {
            Ok(groups) => groups,
            Err(cause) => {
                problems.add(&question, format!("{question}: {cause}"));
                problems.are_final = true;
                return Vec::new();
            }
        };
        let of_family = |family: &Family| groups.iter().copied().find(|group| Family::of(*group) == *family);
        let usable: Vec<_> = self.config.families.iter().filter_map(of_family).collect();
        if usable.is_empty() {
            let named = groups.iter().map(IpAddr::to_string).collect::<Vec<_>>().join(" and ");
            problems.add(&question, format!("{question}: the interface has no address to receive {named} with"));
            problems.are_final = true;
        }
        usable
    }

    /// The records that answer a root question; without any there is nothing to hope for.
    fn found(&mut self, now: Time, question: &Question, problems: &mut Problems) -> Option<Records> {
        let lookup = self.lookups.need(now, question.clone());
        if let Some(error) = &lookup.error {
            problems.add(question, format!("{question}: {error}"));
        }
        match &lookup.answer {
            Some(Answer::Found { records, .. }) => Some(records.clone()),
            Some(Answer::Missing { no_name, .. }) => {
                problems.add(question, format!("{question}: {}", missing(*no_name)));
                problems.are_final = true;
                None
            }
            None => None,
        }
    }

    /// The addresses of a host, for each of the groups of whose family it has any.
    fn addresses(
        &mut self,
        now: Time,
        name: &HostName,
        groups: &[IpAddr],
        alias: Alias,
        problems: &mut Problems,
    ) -> Vec<(IpAddr, Vec<IpAddr>)> {
        let mut out = Vec::new();
        let mut causes = Vec::new();
        for &group in groups {
            let question = Question { name: name.clone(), kind: Family::of(group).question() };
            let lookup = self.lookups.need(now, question.clone());
            causes.extend(lookup.error.as_ref().map(|error| (question.clone(), error.to_string())));
            match &lookup.answer {
                Some(Answer::Found { is_alias: true, .. }) if alias == Alias::Forbidden => {
                    causes.push((question, "it is an alias (CNAME), which an SRV record must not name".to_owned()));
                }
                Some(Answer::Found { records: Records::Addresses(addresses), .. }) => {
                    let mut sources: Vec<_> = addresses.clone();
                    sources.retain(|&source| unusable_source(source).is_none());
                    sources.sort();
                    sources.dedup();
                    sources.truncate(ADDRESS_COUNT_MAX);
                    if sources.is_empty() {
                        causes.push((question, "none of its addresses can be a source".to_owned()));
                    } else {
                        out.push((group, sources));
                    }
                }
                Some(Answer::Found { .. }) => {}
                Some(Answer::Missing { no_name, .. }) => causes.push((question, missing(*no_name).to_owned())),
                None => {}
            }
        }
        // Of a host that has addresses of one family, nothing need be said of the other.
        if out.is_empty() {
            for (question, cause) in causes {
                problems.add(&question, format!("{question}: {cause}"));
            }
        }
        out
    }
}

/// Whether a host may be named by an alias.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Alias {
    Allowed,
    Forbidden,
}

fn missing(no_name: bool) -> &'static str {
    if no_name { "there is no such name (NXDOMAIN)" } else { "there is no such record" }
}

/// The groups that TXT records name, at most one of each family. Other strings are somebody else's.
fn groups_in(texts: &[Vec<u8>]) -> Result<Vec<IpAddr>, String> {
    let mut groups: Vec<IpAddr> = Vec::new();
    let key_size = GROUP_KEY.len();
    let is_ours = |text: &&Vec<u8>| text.get(..key_size).is_some_and(|key| key.eq_ignore_ascii_case(GROUP_KEY));
    for text in texts.iter().filter(is_ours) {
        let value = text.get(key_size..).unwrap_or_default();
        let shown = value.escape_ascii();
        let address = str::from_utf8(value).ok().and_then(|value| value.parse().ok());
        let address: IpAddr = address.ok_or_else(|| format!("group={shown} is not an address"))?;
        if let Some(cause) = unusable_group(address) {
            return Err(format!("group={address} {cause}"));
        }
        match groups.iter().find(|known| Family::of(**known) == Family::of(address)) {
            Some(known) if *known != address => {
                return Err(format!("it names two groups of one family, {known} and {address}"));
            }
            Some(_) => {}
            None => groups.push(address),
        }
    }
    if groups.is_empty() { Err("no group is named (group=ADDRESS)".into()) } else { Ok(groups) }
}

#[cfg(test)]
mod tests;
