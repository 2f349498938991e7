use std::collections::BTreeMap;
use std::time::Duration;

use proptest::prelude::*;

use super::*;
use crate::limits::{
    DNS_ATTEMPT_COUNT_MAX, DNS_BACKOFF_MAX, DNS_TTL_MAX, DNS_TTL_ZERO, SOURCE_RETURN_MIN, SOURCE_SILENCE_MAX,
};

const SERVICE_TEXT: &str = "_iotupd._udp.updates.test";
const PORT: u16 = 4242;
const GROUP_V4: &str = "232.1.1.1";
const GROUP_V6: &str = "ff3e::8000:42";
const TICK: Duration = Duration::from_millis(100);

fn name(text: &str) -> HostName {
    text.parse().unwrap()
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

/// A DNS, a network and a receiver in it.
struct World {
    now: Time,
    discovery: Discovery,
    /// What the DNS answers; other questions stay without an answer.
    answers: BTreeMap<Question, Result<Answer, LookupError>>,
    asked: Vec<(Time, Question)>,
    /// Sources that send to their groups.
    alive: Vec<IpAddr>,
    notices: Vec<String>,
}

impl World {
    fn new(origin: Origin) -> Self {
        let config = DiscoveryConfig { origin, families: vec![Family::V6, Family::V4], seed: 1 };
        let now = Time::from_nanos(1_000_000_000);
        Self {
            now,
            discovery: Discovery::new(now, config),
            answers: BTreeMap::new(),
            asked: Vec::new(),
            alive: Vec::new(),
            notices: Vec::new(),
        }
    }

    fn of_domain() -> Self {
        Self::new(domain(None, None, 1))
    }

    /// A domain of an IPv4 group with these servers, as (priority, name), each with the address that [`address_of`] gives.
    fn with_servers(servers: &[(u16, &str)]) -> Self {
        let mut world = Self::of_domain();
        world.texts(&["group=232.1.1.1"], 3600);
        world.servers(servers, 3600);
        for (_, server) in servers {
            world.addresses(server, &[&address_of(server)], 3600);
        }
        world
    }

    fn servers(&mut self, servers: &[(u16, &str)], ttl: u64) {
        let record =
            |&(priority, target): &(u16, &str)| ServerRecord { priority, weight: 1, port: PORT, target: name(target) };
        self.answer(SERVICE_TEXT, QuestionKind::Servers, Records::Servers(servers.iter().map(record).collect()), ttl);
    }

    fn texts(&mut self, texts: &[&str], ttl: u64) {
        let texts = texts.iter().map(|text| text.as_bytes().to_vec()).collect();
        self.answer(SERVICE_TEXT, QuestionKind::Texts, Records::Texts(texts), ttl);
    }

    fn addresses(&mut self, host: &str, addresses: &[&str], ttl: u64) {
        for (kind, is_v4) in [(QuestionKind::V4, true), (QuestionKind::V6, false)] {
            let own: Vec<_> = addresses.iter().map(|text| ip(text)).filter(|own| own.is_ipv4() == is_v4).collect();
            if own.is_empty() {
                self.fail(host, kind, Ok(missing_for(ttl)));
            } else {
                self.answer(host, kind, Records::Addresses(own), ttl);
            }
        }
    }

    fn answer(&mut self, host: &str, kind: QuestionKind, records: Records, ttl: u64) {
        let answer = Answer::Found { records, is_alias: false, ttl: Duration::from_secs(ttl) };
        self.fail(host, kind, Ok(answer));
    }

    fn fail(&mut self, host: &str, kind: QuestionKind, answer: Result<Answer, LookupError>) {
        self.answers.insert(Question { name: name(host), kind }, answer);
    }

    /// Lets so much time pass.
    fn pass(&mut self, span: Duration) {
        let end = self.now.after(span);
        while self.now < end {
            self.step();
            self.now = self.now.after(TICK);
        }
        self.step();
    }

    fn step(&mut self) {
        while let Some(question) = self.discovery.poll_question(self.now) {
            self.asked.push((self.now, question.clone()));
            if let Some(answer) = self.answers.get(&question) {
                self.discovery.handle_answer(self.now, &question, answer.clone());
            }
        }
        let joined: Vec<_> = self
            .discovery
            .wanted()
            .flat_map(|server| server.sources.iter().map(|&source| (server.group, source)))
            .collect();
        for (group, source) in joined.into_iter().filter(|(_, source)| self.alive.contains(source)) {
            self.discovery.handle_heard(self.now, group, source);
        }
        self.discovery.handle_timeout(self.now);
        self.notices.extend(std::iter::from_fn(|| self.discovery.poll_notice()));
    }

    /// The sources that are joined.
    fn joined(&self) -> Vec<String> {
        self.discovery.wanted().flat_map(|server| &server.sources).map(IpAddr::to_string).collect()
    }

    fn failure(&mut self) -> String {
        self.discovery.poll_failure().expect("no hope")
    }

    fn ask_count(&self, kind: QuestionKind) -> usize {
        self.asked.iter().filter(|(_, question)| question.kind == kind).count()
    }
}

fn domain(group: Option<&str>, port: Option<u16>, server_count: usize) -> Origin {
    Origin::Domain { service: name(SERVICE_TEXT), group: group.map(ip), port, server_count }
}

fn missing_for(ttl: u64) -> Answer {
    Answer::Missing { no_name: false, ttl: Duration::from_secs(ttl) }
}

/// `a.test` has 192.0.2.97.
fn address_of(host: &str) -> String {
    format!("192.0.2.{}", host.as_bytes()[0])
}

fn seconds(count: u64) -> Duration {
    Duration::from_secs(count)
}

#[test]
fn domain_is_found_with_group_port_and_source() {
    let mut world = World::with_servers(&[(10, "a.test")]);
    world.pass(TICK);
    let server = world.discovery.wanted().next().unwrap();
    assert_eq!(server.group, SocketAddr::new(ip(GROUP_V4), PORT));
    assert_eq!((server.sources.clone(), server.priority), (vec![ip("192.0.2.97")], 10));
    assert_eq!(server.name, Some(name("a.test")));
    assert_eq!((world.notices.as_slice(), world.discovery.poll_failure()), ([].as_slice(), None));
}

#[test]
fn name_of_the_records_follows_from_the_domain() {
    assert_eq!(service_of(&name("updates.test")).unwrap(), name(SERVICE_TEXT));
    let long = format!("{0}.{0}.{0}.{1}", "a".repeat(63), "b".repeat(55));
    assert!(service_of(&name(&long)).unwrap_err().contains("too long"));
}

#[test]
fn group_and_port_that_the_user_gives_are_used_instead() {
    let mut world = World::new(domain(Some("239.9.9.9"), Some(9), 1));
    world.servers(&[(1, "a.test")], 60);
    world.addresses("a.test", &["192.0.2.97"], 60);
    world.pass(TICK);
    assert_eq!(world.discovery.wanted().next().unwrap().group, SocketAddr::new(ip("239.9.9.9"), 9));
    assert_eq!(world.ask_count(QuestionKind::Texts), 0);
    assert_eq!(world.ask_count(QuestionKind::V6), 0);
}

#[test]
fn better_family_comes_first_and_the_other_when_it_is_silent() {
    let mut world = World::of_domain();
    world.texts(&["v=1", "GROUP=232.1.1.1", "group=ff3e::8000:42"], 60);
    world.servers(&[(1, "a.test")], 60);
    world.addresses("a.test", &["192.0.2.97", "2001:db8::97"], 60);
    world.pass(TICK);
    assert_eq!(world.joined(), ["2001:db8::97"]);
    assert_eq!(world.discovery.wanted().next().unwrap().group, SocketAddr::new(ip(GROUP_V6), PORT));
    world.pass(SOURCE_SILENCE_MAX + TICK);
    assert_eq!(world.joined(), ["2001:db8::97", "192.0.2.97"]);
}

#[test]
fn addresses_of_one_host_are_joined_together_up_to_a_bound() {
    let mut world = World::with_servers(&[(1, "a.test")]);
    let all = ["192.0.2.5", "192.0.2.1", "192.0.2.4", "192.0.2.2", "192.0.2.3", "192.0.2.1", "0.0.0.0", "224.1.1.1"];
    world.addresses("a.test", &all, 60);
    world.pass(TICK);
    assert_eq!(world.joined(), ["192.0.2.1", "192.0.2.2", "192.0.2.3", "192.0.2.4"]);
}

#[test]
fn next_by_priority_is_joined_within_five_seconds_of_silence() {
    let mut world = World::with_servers(&[(20, "b.test"), (10, "a.test"), (30, "c.test")]);
    world.alive = vec![ip("192.0.2.97"), ip("192.0.2.98"), ip("192.0.2.99")];
    world.pass(seconds(30));
    assert_eq!(world.joined(), ["192.0.2.97"]);
    world.alive.remove(0);
    let died = world.now;
    while world.joined().len() < 2 {
        world.pass(TICK);
        assert!(world.now.since(died) < seconds(5));
    }
    assert_eq!(world.joined(), ["192.0.2.97", "192.0.2.98"], "the silent one stays joined");
    world.pass(seconds(60));
    assert_eq!(world.joined(), ["192.0.2.97", "192.0.2.98"], "one is enough");
}

#[test]
fn server_that_returns_is_used_again_and_the_worse_one_is_left() {
    let mut world = World::with_servers(&[(10, "a.test"), (20, "b.test")]);
    world.alive = vec![ip("192.0.2.98")];
    world.pass(seconds(10));
    assert_eq!(world.joined(), ["192.0.2.97", "192.0.2.98"]);
    world.alive.push(ip("192.0.2.97"));
    world.pass(SOURCE_RETURN_MIN - TICK - TICK);
    assert_eq!(world.joined(), ["192.0.2.97", "192.0.2.98"], "not before it has proved itself");
    world.pass(seconds(1));
    assert_eq!(world.joined(), ["192.0.2.97"]);
}

#[test]
fn several_servers_can_be_heard_at_once() {
    let mut world = World::with_servers(&[(10, "a.test"), (20, "b.test"), (30, "c.test")]);
    let config = DiscoveryConfig { origin: domain(None, None, 2), families: vec![Family::V4], seed: 1 };
    world.discovery = Discovery::new(world.now, config);
    world.pass(TICK);
    assert_eq!(world.joined(), ["192.0.2.97", "192.0.2.98"]);
    world.alive = vec![ip("192.0.2.98"), ip("192.0.2.99")];
    world.pass(seconds(10));
    assert_eq!(world.joined(), ["192.0.2.97", "192.0.2.98", "192.0.2.99"]);
}

#[test]
fn time_in_which_nothing_can_be_heard_is_nobodys_silence() {
    let mut world = World::with_servers(&[(10, "a.test"), (20, "b.test")]);
    world.alive = vec![ip("192.0.2.97")];
    world.pass(seconds(2));
    // The interface is gone meanwhile: nobody calls the machine.
    world.now = world.now.after(seconds(60));
    world.discovery.handle_rejoined(world.now);
    world.pass(seconds(2));
    assert_eq!(world.joined(), ["192.0.2.97"]);
}

#[test]
fn sources_come_and_go_with_the_records_when_their_time_is_over() {
    let mut world = World::with_servers(&[(10, "a.test")]);
    world.servers(&[(10, "a.test")], 20);
    world.alive = vec![ip("192.0.2.97")];
    world.pass(seconds(1));
    world.servers(&[(5, "b.test")], 20);
    world.addresses("b.test", &["192.0.2.98"], 20);
    world.pass(seconds(18));
    assert_eq!((world.joined(), world.ask_count(QuestionKind::Servers)), (vec!["192.0.2.97".to_owned()], 1));
    world.pass(seconds(4));
    assert_eq!((world.joined(), world.ask_count(QuestionKind::Servers)), (vec!["192.0.2.98".to_owned()], 2));
    // Nobody wants to know of the first any more.
    world.pass(seconds(7200));
    let of_first = world.asked.iter().filter(|(_, question)| question.name == name("a.test")).count();
    assert_eq!(of_first, 1);
}

#[test]
fn better_server_that_appears_takes_over() {
    let mut world = World::with_servers(&[(10, "b.test")]);
    world.servers(&[(10, "b.test")], 10);
    world.alive = vec![ip("192.0.2.97"), ip("192.0.2.98")];
    world.pass(seconds(5));
    assert_eq!(world.joined(), ["192.0.2.98"]);
    world.servers(&[(10, "b.test"), (5, "a.test")], 10);
    world.addresses("a.test", &["192.0.2.97"], 10);
    world.pass(seconds(10));
    assert_eq!(world.joined(), ["192.0.2.97"]);
}

#[test]
fn extreme_times_are_bounded() {
    let mut world = World::with_servers(&[(10, "a.test")]);
    world.servers(&[(10, "a.test")], 0);
    world.pass(DNS_TTL_ZERO * 10);
    assert!((9..=11).contains(&world.ask_count(QuestionKind::Servers)), "{}", world.ask_count(QuestionKind::Servers));

    let mut world = World::with_servers(&[(10, "a.test")]);
    world.servers(&[(10, "a.test")], 0x7fff_ffff);
    world.pass(TICK);
    world.now = world.now.after(DNS_TTL_MAX * 2);
    world.step();
    assert_eq!(world.ask_count(QuestionKind::Servers), 2);
}

#[test]
fn dns_that_fails_leaves_the_last_answer_in_force_and_is_asked_less_and_less() {
    let mut world = World::with_servers(&[(10, "a.test")]);
    world.servers(&[(10, "a.test")], 10);
    world.alive = vec![ip("192.0.2.97")];
    world.pass(seconds(1));
    world.fail(SERVICE_TEXT, QuestionKind::Servers, Err(LookupError::ServerFailure));
    world.pass(seconds(3600));
    assert_eq!(world.joined(), ["192.0.2.97"]);
    assert_eq!(world.notices.len(), 1, "said once: {:?}", world.notices);
    assert!(world.notices[0].contains("SRV") && world.notices[0].contains("SERVFAIL"), "{:?}", world.notices);
    let asked = world.ask_count(QuestionKind::Servers);
    assert!((55..75).contains(&asked), "about once a minute: {asked}");
    // It recovers, fails again, and says so again.
    world.servers(&[(10, "a.test")], 10);
    world.pass(DNS_BACKOFF_MAX * 2);
    world.fail(SERVICE_TEXT, QuestionKind::Servers, Err(LookupError::ServerFailure));
    world.pass(seconds(20));
    assert_eq!(world.notices.len(), 2);
}

#[test]
fn service_that_goes_away_is_said_and_comes_back() {
    let mut world = World::with_servers(&[(10, "a.test")]);
    world.servers(&[(10, "a.test")], 10);
    world.pass(seconds(1));
    world.fail(SERVICE_TEXT, QuestionKind::Servers, Ok(Answer::Missing { no_name: true, ttl: seconds(86_400) }));
    world.pass(seconds(12));
    assert_eq!(world.joined(), [""; 0]);
    assert!(world.notices[0].contains("NXDOMAIN"), "{:?}", world.notices);
    assert_eq!(world.discovery.poll_failure(), None, "what was found once may come back");
    world.servers(&[(10, "a.test")], 10);
    world.pass(seconds(331));
    assert_eq!(world.joined(), ["192.0.2.97"]);
}

#[test]
fn hopeless_answers_are_failures_at_once() {
    type Spoil = fn(&mut World);
    let cases: [(&str, Spoil); 8] = [
        ("NXDOMAIN", |world| {
            let answer = Answer::Missing { no_name: true, ttl: seconds(9) };
            world.fail(SERVICE_TEXT, QuestionKind::Servers, Ok(answer));
        }),
        ("no such record", |world| world.fail(SERVICE_TEXT, QuestionKind::Servers, Ok(missing_for(9)))),
        ("no such service", |world| world.servers(&[(0, ".")], 9)),
        ("TXT: there is no such record", |world| world.fail(SERVICE_TEXT, QuestionKind::Texts, Ok(missing_for(9)))),
        ("no group is named", |world| world.texts(&["groups=232.1.1.1", ""], 9)),
        ("not an address", |world| world.texts(&["group=232.1.1.\u{1b}"], 9)),
        ("not a multicast group", |world| world.texts(&["group=10.1.1.1"], 9)),
        ("two groups of one family", |world| world.texts(&["group=232.1.1.1", "group=232.1.1.2"], 9)),
    ];
    for (words, spoil) in cases {
        let mut world = World::with_servers(&[(10, "a.test")]);
        spoil(&mut world);
        world.step();
        let said = world.failure();
        assert!(said.contains(words) && said.starts_with(SERVICE_TEXT) && !said.contains('\u{1b}'), "{words}: {said}");
    }
}

#[test]
fn host_without_a_usable_address_is_named() {
    for (answer, words) in [
        (Ok(missing_for(9)), "no such record"),
        (Ok(Answer::Missing { no_name: true, ttl: seconds(9) }), "NXDOMAIN"),
        (
            Ok(Answer::Found { records: Records::Addresses(vec![ip("192.0.2.1")]), is_alias: true, ttl: seconds(9) }),
            "alias",
        ),
        (
            Ok(Answer::Found { records: Records::Addresses(vec![ip("224.0.0.1")]), is_alias: false, ttl: seconds(9) }),
            "none of its addresses",
        ),
    ] {
        let mut world = World::with_servers(&[(10, "a.test")]);
        world.fail("a.test", QuestionKind::V4, answer.clone());
        world.step();
        let said = world.failure();
        assert!(said.starts_with("a.test A: ") && said.contains(words), "{said}");

        // With another host that is good, it is only said.
        let mut world = World::with_servers(&[(10, "a.test"), (20, "b.test")]);
        world.fail("a.test", QuestionKind::V4, answer);
        world.step();
        assert_eq!((world.joined(), world.notices.len()), (vec!["192.0.2.98".to_owned()], 1), "{:?}", world.notices);
    }
}

#[test]
fn attempts_at_the_start_are_bounded() {
    let mut world = World::of_domain();
    world.fail(SERVICE_TEXT, QuestionKind::Servers, Err(LookupError::Timeout { ignored: 0 }));
    world.fail(SERVICE_TEXT, QuestionKind::Texts, Err(LookupError::Timeout { ignored: 0 }));
    world.pass(seconds(2));
    assert_eq!(world.discovery.poll_failure(), None);
    assert!(!world.notices.is_empty(), "it is said at once that it is slow");
    world.pass(seconds(10));
    assert!(world.failure().contains("no DNS server answers"));
    assert!(world.ask_count(QuestionKind::Servers) >= usize::try_from(DNS_ATTEMPT_COUNT_MAX).unwrap());
}

#[test]
fn named_sources_are_all_joined_and_those_without_address_are_said() {
    let sources = vec![
        SourceName::Address(ip("192.0.2.1")),
        SourceName::Host(name("a.test")),
        SourceName::Host(name("nowhere.test")),
    ];
    let group = SocketAddr::new(ip(GROUP_V4), PORT);
    let mut world = World::new(Origin::Sources { group, sources });
    assert_eq!(world.joined(), ["192.0.2.1"], "without waiting for anybody");
    let alias = Answer::Found { records: Records::Addresses(vec![ip("192.0.2.97")]), is_alias: true, ttl: seconds(9) };
    world.fail("a.test", QuestionKind::V4, Ok(alias));
    world.fail("nowhere.test", QuestionKind::V4, Ok(missing_for(9)));
    world.pass(seconds(60));
    assert_eq!(world.joined(), ["192.0.2.1", "192.0.2.97"], "silent or not");
    assert_eq!(world.notices, ["nowhere.test A: there is no such record"]);
}

#[test]
fn named_sources_of_which_none_is_found_are_a_failure() {
    let group = SocketAddr::new(ip(GROUP_V4), PORT);
    let mut world = World::new(Origin::Sources { group, sources: vec![SourceName::Host(name("a.test"))] });
    world.fail("a.test", QuestionKind::V4, Ok(missing_for(9)));
    world.step();
    assert_eq!(world.failure(), "a.test A: there is no such record");
}

#[test]
fn only_the_best_servers_of_many_are_asked_for() {
    let hosts: Vec<String> = (0..200_u8).map(|i| format!("h{i}.test")).collect();
    let servers: Vec<_> = (0..).zip(&hosts).map(|(priority, host)| (priority, host.as_str())).collect();
    let mut world = World::with_servers(&servers);
    world.pass(SOURCE_SILENCE_MAX * 20);
    assert_eq!(world.ask_count(QuestionKind::V4), SERVER_COUNT_MAX);
    assert_eq!(world.discovery.wanted().count(), SERVER_COUNT_MAX);
}

/// What a DNS may do to a receiver.
#[derive(Clone, Debug)]
enum Event {
    Servers(Vec<(u16, u16, u8)>, u32),
    Texts(Vec<String>, u32),
    Addresses(u8, Vec<u8>, bool, u32),
    Error(u8),
    Alive(Vec<u8>),
    Pass(u32),
}

fn events() -> impl Strategy<Value = Vec<Event>> {
    let ttl = || prop_oneof![Just(0), 1_u32..100, Just(u32::MAX)];
    let text = prop_oneof![Just("group=232.1.1.1"), Just("group=ff3e::1"), Just("group="), Just("x"), Just("group=1")];
    let server = (0_u16..3, any::<u16>(), 0_u8..6);
    let event = prop_oneof![
        (proptest::collection::vec(server, 0..6), ttl()).prop_map(|(servers, ttl)| Event::Servers(servers, ttl)),
        (proptest::collection::vec(text.prop_map(str::to_owned), 0..3), ttl())
            .prop_map(|(texts, ttl)| Event::Texts(texts, ttl)),
        (0_u8..6, proptest::collection::vec(any::<u8>(), 0..6), any::<bool>(), ttl())
            .prop_map(|(host, addresses, is_alias, ttl)| Event::Addresses(host, addresses, is_alias, ttl)),
        (0_u8..4).prop_map(Event::Error),
        proptest::collection::vec(any::<u8>(), 0..40).prop_map(Event::Alive),
        (0_u32..20_000).prop_map(Event::Pass),
    ];
    proptest::collection::vec(event, 1..40)
}

impl World {
    fn take(&mut self, event: Event) {
        let records = |records: Records, is_alias, ttl: u32| {
            Ok(match &records {
                Records::Servers(list) if list.is_empty() => missing_for(ttl.into()),
                Records::Texts(list) if list.is_empty() => missing_for(ttl.into()),
                Records::Addresses(list) if list.is_empty() => missing_for(ttl.into()),
                _ => Answer::Found { records, is_alias, ttl: Duration::from_secs(ttl.into()) },
            })
        };
        match event {
            Event::Servers(servers, ttl) => {
                let target = |host| if host == 0 { HostName::root_vec() } else { name(&format!("h{host}.test")) };
                let record = |(priority, port, host)| ServerRecord { priority, weight: 1, port, target: target(host) };
                let servers = Records::Servers(servers.into_iter().map(record).collect());
                self.fail(SERVICE_TEXT, QuestionKind::Servers, records(servers, false, ttl));
            }
            Event::Texts(texts, ttl) => {
                let texts = Records::Texts(texts.into_iter().map(String::into_bytes).collect());
                self.fail(SERVICE_TEXT, QuestionKind::Texts, records(texts, false, ttl));
            }
            Event::Addresses(host, addresses, is_alias, ttl) => {
                let v4 = addresses.iter().map(|&last| IpAddr::from([192, 0, 2, last])).collect();
                let v6 = addresses.iter().map(|&last| ip(&format!("2001:db8::{last:x}"))).collect();
                let host = format!("h{host}.test");
                self.fail(&host, QuestionKind::V4, records(Records::Addresses(v4), is_alias, ttl));
                self.fail(&host, QuestionKind::V6, records(Records::Addresses(v6), is_alias, ttl));
            }
            Event::Error(kind) => {
                let kinds = [QuestionKind::Servers, QuestionKind::Texts, QuestionKind::V4, QuestionKind::V6];
                let kind = kinds[usize::from(kind)];
                let questions: Vec<_> = self.answers.keys().filter(|question| question.kind == kind).cloned().collect();
                for question in questions {
                    self.answers.insert(question, Err(LookupError::Malformed));
                }
            }
            Event::Alive(last) => self.alive = last.into_iter().map(|last| IpAddr::from([192, 0, 2, last])).collect(),
            Event::Pass(milliseconds) => self.pass(Duration::from_millis(milliseconds.into())),
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    /// Whatever the DNS answers: joins and questions stay bounded, no question is asked twice within a second, and as long as anything
    /// is known, something is joined.
    #[test]
    fn whatever_the_dns_does_is_bounded(script in events()) {
        let mut world = World::of_domain();
        for event in script {
            world.take(event);
            world.step();
            let joined = world.discovery.wanted().count();
            prop_assert!(joined <= 2 * SERVER_COUNT_MAX);
            prop_assert!(world.discovery.wanted().all(|server| (1..=ADDRESS_COUNT_MAX).contains(&server.sources.len())));
            prop_assert_eq!(joined == 0, world.discovery.servers.is_empty());
        }
        let mut last: BTreeMap<&Question, Time> = BTreeMap::new();
        for (at, question) in &world.asked {
            if let Some(before) = last.insert(question, *at)
                && question.kind != QuestionKind::V4
                && question.kind != QuestionKind::V6
            {
                prop_assert!(at.since(before) >= seconds(1), "{question} twice within {:?}", at.since(before));
            }
        }
    }
}
