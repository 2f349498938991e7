//! Virtual time: one queue of events, and everybody who takes part. A run is a pure function of its seed and its scenario.

use std::cmp::Ordering;
use std::collections::BinaryHeap;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use iotupd::receiver::{Counts, SenderEntry};
use iotupd::sender::{Fec, Outgoing, Pacing, Sender, SenderConfig, Step};
use iotupd::types::{SymbolSize, Time};

use crate::forger::{Forger, ForgerPlan};
use crate::host::{Host, HostEvent, HostPlan, Outcome};
use crate::network::Link;
use crate::random::Random;
use crate::truth::{Coded, Truth};

/// Bytes of the IP and UDP headers.
pub(crate) const IP_OVERHEAD: u32 = 28;
const NANOS_PER_SECOND: u128 = 1_000_000_000;

/// One virtual server and what happens to it.
#[derive(Clone, Debug)]
pub(crate) struct ServerPlan {
    pub(crate) truth: Arc<Truth>,
    pub(crate) symbol_size: SymbolSize,
    pub(crate) payload_size_max: u32,
    pub(crate) pacing: Pacing,
    pub(crate) start_ppm: u32,
    /// It wakes up to so long after it wanted to.
    pub(crate) oversleep: Duration,
    pub(crate) restarts: Vec<Restart>,
    pub(crate) fec: Fec,
}

/// A server ends, and starts again from another port at another position.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Restart {
    pub(crate) at: Time,
    pub(crate) down: Duration,
    pub(crate) start_ppm: u32,
}

/// What must come of a run.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Expect {
    /// Every receiver has the object before the deadline.
    Complete,
    /// No receiver says so before the deadline.
    NoCommit,
    /// Every receiver gives up.
    GiveUp,
}

/// Everything about a run but its seed.
#[derive(Clone, Debug)]
pub(crate) struct Scenario {
    pub(crate) servers: Vec<ServerPlan>,
    pub(crate) hosts: Vec<HostPlan>,
    pub(crate) forgers: Vec<ForgerPlan>,
    /// What may be received; the first is what disks may hold from before.
    pub(crate) truths: Vec<Arc<Truth>>,
    pub(crate) deadline: Time,
    pub(crate) expect: Expect,
}

/// What became of one receiver.
#[derive(Clone, Debug)]
pub(crate) struct HostReport {
    pub(crate) outcome: Outcome,
    /// Data packets that all servers sent from its join to its end.
    pub(crate) data_sent: u64,
    pub(crate) counts: Counts,
    pub(crate) senders: Vec<SenderEntry>,
    pub(crate) sessions_changed: u32,
    /// The version that was accepted last.
    pub(crate) version: Option<u64>,
    /// Everything that happened on the host, and the symbols that it took, in all its lives.
    pub(crate) step_count: u64,
    pub(crate) symbol_count: u64,
    pub(crate) at_risk_count: u64,
}

/// What became of a run.
#[derive(Clone, Debug)]
pub(crate) struct Report {
    pub(crate) hosts: Vec<HostReport>,
    pub(crate) data_sent: u64,
}

enum Event {
    Server { index: usize, life: u32 },
    Restart { index: usize, restart: Restart },
    Start { index: usize, start_ppm: u32 },
    Forge { index: usize },
    Arrive { host: usize, from: SocketAddr, packet: Rc<[u8]> },
    Host { index: usize, life: u32, event: HostEvent },
}

/// Ordered by time, then by the order in which the events were made.
struct Entry {
    at: Time,
    number: u64,
    event: Event,
}

impl PartialEq for Entry {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Entry {}

impl PartialOrd for Entry {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Entry {
    /// The heap gives the greatest first: the earliest.
    fn cmp(&self, other: &Self) -> Ordering {
        (other.at, other.number).cmp(&(self.at, self.number))
    }
}

struct Server {
    plan: ServerPlan,
    sender: Option<Sender>,
    content: Coded,
    addr: SocketAddr,
    life: u32,
    bucket: Bucket,
}

/// Checks a sender's rate over all windows at once: a bucket that drains at the rate may never hold more than the bursts allow.
#[derive(Default)]
struct Bucket {
    /// Bits times nanoseconds per second, so that nothing is rounded.
    level: u128,
    at: Time,
}

impl Bucket {
    fn spend(&mut self, now: Time, sender: &Sender, packet_size: usize, label: &str) {
        let Some(rate) = sender.pacer().rate().map(|rate| u128::from(rate.bits_per_second())) else { return };
        let drained = rate * now.since(self.at).as_nanos();
        self.at = now;
        self.level = self.level.saturating_sub(drained) + bits(packet_size) * NANOS_PER_SECOND;
        let bursts = 3 * rate * sender.pacer().burst_duration().as_nanos();
        let largest = usize::from(sender.carousel().layout().symbol_size().bytes()).max(1152) + 44;
        let allowed = bursts + 2 * bits(largest) * NANOS_PER_SECOND;
        assert!(self.level <= allowed, "{label}: faster than its rate: {} of {allowed}", self.level);
    }
}

/// The bits of a packet at IP level.
fn bits(packet_size: usize) -> u128 {
    8 * (packet_size as u128 + u128::from(IP_OVERHEAD))
}

struct World {
    label: String,
    now: Time,
    random: Random,
    queue: BinaryHeap<Entry>,
    next_number: u64,
    servers: Vec<Server>,
    forgers: Vec<Forger>,
    hosts: Vec<Host>,
    links: Vec<Link>,
    data_sent: u64,
    data_sent_at_join: Vec<u64>,
    reports: Vec<Option<HostReport>>,
    scratch: Vec<u8>,
}

/// Runs a scenario and checks everything that can be checked.
pub(crate) fn run(seed: u64, scenario: &Scenario) -> Report {
    let mut world = World::new(seed, scenario);
    while let Some(Entry { at, event, .. }) = world.queue.pop() {
        assert!(at >= world.now, "time does not go back");
        let is_over = !world.reports.is_empty() && world.reports.iter().all(Option::is_some);
        if at > scenario.deadline || is_over {
            break;
        }
        world.now = at;
        world.handle(event);
    }
    let report = world.report();
    for (index, host) in report.hosts.iter().enumerate() {
        let is_as_expected = match scenario.expect {
            Expect::Complete => matches!(host.outcome, Outcome::Committed(_)),
            Expect::NoCommit => !matches!(host.outcome, Outcome::Committed(_)),
            Expect::GiveUp => matches!(host.outcome, Outcome::GaveUp(..)),
        };
        let expect = scenario.expect;
        assert!(
            is_as_expected,
            "seed {seed}, host {index}: expected {expect:?}, deadline {:?}: {:?} after {} data packets from {} streams, {:?}",
            scenario.deadline,
            host.outcome,
            host.data_sent,
            host.senders.len(),
            host.counts
        );
    }
    report
}

impl World {
    fn new(seed: u64, scenario: &Scenario) -> Self {
        let mut random = Random::new(seed);
        let host_count = scenario.hosts.len();
        let mut hosts = Vec::new();
        let mut links = Vec::new();
        for (index, plan) in scenario.hosts.iter().enumerate() {
            links.push(Link::new(plan.faults, random.fork()));
            let label = format!("seed {seed}, host {index}");
            hosts.push(Host::new(label, plan.clone(), scenario.truths.clone(), random.fork()));
        }
        let forgers = scenario.forgers.iter().map(|plan| Forger::new(plan.clone(), random.fork())).collect();
        let mut world = Self {
            label: format!("seed {seed}"),
            now: Time::default(),
            random,
            queue: BinaryHeap::new(),
            next_number: 0,
            servers: Vec::new(),
            forgers,
            hosts,
            links,
            data_sent: 0,
            data_sent_at_join: vec![0; host_count],
            reports: vec![None; host_count],
            scratch: Vec::new(),
        };
        for (index, plan) in scenario.servers.iter().enumerate() {
            let addr = SocketAddr::from(([192, 0, 2, 1 + (index / 2) as u8], 40_000 + 100 * index as u16));
            let content = Coded::new(&plan.truth, plan.symbol_size, plan.fec.percent);
            world.servers.push(Server {
                plan: plan.clone(),
                sender: None,
                content,
                addr,
                life: 0,
                bucket: Bucket::default(),
            });
            world.push(Time::default(), Event::Start { index, start_ppm: plan.start_ppm });
            for &restart in &plan.restarts {
                world.push(restart.at, Event::Restart { index, restart });
            }
        }
        for (index, plan) in scenario.forgers.iter().enumerate() {
            world.push(plan.from, Event::Forge { index });
        }
        (0..host_count).for_each(|index| world.empty_outbox(index));
        world
    }

    fn push(&mut self, at: Time, event: Event) {
        self.queue.push(Entry { at, number: self.next_number, event });
        self.next_number += 1;
    }

    fn handle(&mut self, event: Event) {
        match event {
            Event::Start { index, start_ppm } => self.start(index, start_ppm),
            Event::Restart { index, restart } => {
                let server = &mut self.servers[index];
                server.sender = None;
                server.life += 1;
                self.push(self.now.after(restart.down), Event::Start { index, start_ppm: restart.start_ppm });
            }
            Event::Server { index, life } if life == self.servers[index].life => self.serve(index),
            Event::Server { .. } => {}
            Event::Forge { index } => self.forge(index),
            Event::Arrive { host, from, packet } => {
                self.hosts[host].datagram(self.now, from, &packet);
                self.after_host(host);
            }
            Event::Host { index, life, event } => {
                if matches!(event, HostEvent::Boot) && self.hosts[index].life_count == 0 {
                    self.data_sent_at_join[index] = self.data_sent;
                }
                self.hosts[index].event(self.now, life, event);
                self.after_host(index);
            }
        }
    }

    fn start(&mut self, index: usize, start_ppm: u32) {
        let server = &mut self.servers[index];
        let config = SenderConfig {
            symbol_size: server.plan.symbol_size,
            payload_size_max: server.plan.payload_size_max,
            ip_overhead: IP_OVERHEAD,
            pacing: server.plan.pacing,
            start_ppm,
            fec: server.plan.fec,
            passes: None,
            manifest_text: server.plan.truth.text.clone(),
            manifest_signature: server.plan.truth.signature.clone(),
        };
        server.sender = Some(Sender::new(Arc::clone(&server.plan.truth.tree), &config).expect("it can be sent"));
        server.addr.set_port(server.addr.port() + 1);
        server.life += 1;
        server.bucket = Bucket::default();
        let life = server.life;
        self.push(self.now, Event::Server { index, life });
    }

    /// Sends what is due.
    fn serve(&mut self, index: usize) {
        loop {
            let server = &mut self.servers[index];
            let Some(sender) = &mut server.sender else { return };
            let outgoing = match sender.poll_with(self.now, &server.content) {
                Step::Send(outgoing) => outgoing,
                Step::Wait(due) => {
                    let life = server.life;
                    let at = due.after(self.random.span(server.plan.oversleep));
                    return self.push(at, Event::Server { index, life });
                }
                Step::Done => return,
            };
            server.bucket.spend(self.now, sender, sender.packet_size(&outgoing), &self.label);
            self.data_sent += u64::from(matches!(outgoing, Outgoing::Data { .. }));
            self.send(index, &outgoing);
        }
    }

    fn send(&mut self, index: usize, outgoing: &Outgoing) {
        let from = self.servers[index].addr;
        // Composed only when somebody gets it: at 30 % loss that is a third of the work.
        let mut packet: Option<Rc<[u8]>> = None;
        for host in 0..self.hosts.len() {
            if !self.hosts[host].listens(self.now) {
                continue;
            }
            for way in self.links[host].copies().into_iter().flatten() {
                let packet = packet.get_or_insert_with(|| {
                    let server = &self.servers[index];
                    let sender = server.sender.as_ref().expect("it has just been asked");
                    self.scratch.resize(sender.packet_size(outgoing), 0);
                    sender.compose(outgoing, &server.content, &[], &mut self.scratch);
                    Rc::from(self.scratch.as_slice())
                });
                let packet = Rc::clone(packet);
                self.arrive(host, from, way, packet);
            }
        }
    }

    fn arrive(&mut self, host: usize, from: SocketAddr, way: Duration, packet: Rc<[u8]>) {
        let packet = self.links[host].damage(&packet).map_or(packet, Rc::from);
        self.push(self.now.after(way), Event::Arrive { host, from, packet });
    }

    fn forge(&mut self, index: usize) {
        let servers: Vec<_> = self.servers.iter().map(|server| server.addr).collect();
        let forger = &mut self.forgers[index];
        if self.now >= forger.plan.until {
            return;
        }
        let from = forger.addr(&servers);
        let packet: Rc<[u8]> = Rc::from(forger.packet());
        let next = self.now.after(forger.plan.every);
        for host in 0..self.hosts.len() {
            for way in self.links[host].copies().into_iter().flatten() {
                self.arrive(host, from, way, Rc::clone(&packet));
            }
        }
        self.push(next, Event::Forge { index });
    }

    fn after_host(&mut self, index: usize) {
        self.empty_outbox(index);
        if self.reports[index].is_none() && self.hosts[index].outcome != Outcome::Unfinished {
            self.reports[index] = Some(self.host_report(index));
        }
    }

    fn empty_outbox(&mut self, index: usize) {
        let life = self.hosts[index].life_count;
        for (at, event) in std::mem::take(&mut self.hosts[index].outbox) {
            self.push(at, Event::Host { index, life, event });
        }
    }

    fn host_report(&mut self, index: usize) -> HostReport {
        let host = &mut self.hosts[index];
        host.remember_last();
        HostReport {
            outcome: host.outcome,
            data_sent: self.data_sent - self.data_sent_at_join[index],
            counts: host.last_counts.clone(),
            senders: host.last_senders.clone(),
            sessions_changed: host.sessions_changed,
            version: host.version,
            step_count: host.step_count,
            symbol_count: host.symbol_count,
            at_risk_count: host.at_risk_count,
        }
    }

    fn report(&mut self) -> Report {
        let hosts = (0..self.hosts.len())
            .map(|index| self.reports[index].clone().unwrap_or_else(|| self.host_report(index)))
            .collect();
        Report { hosts, data_sent: self.data_sent }
    }
}
