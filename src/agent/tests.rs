//! An agent in a world that stops it anywhere: between any two steps, and within those that take effect in several.

use proptest::prelude::*;

use super::*;
use crate::manifest::{DisplayName, Members};
use crate::types::{Digest, ObjectSize};

const CONFIG: AgentConfig = AgentConfig {
    version_min: 0,
    splay: Duration::from_secs(60),
    hook_retry: Duration::from_secs(10),
    has_hook: true,
    seed: 7,
};

fn at(seconds: u64) -> Time {
    Time::default().after(Duration::from_secs(seconds))
}

fn manifest(version: u64) -> Manifest {
    let (digest, size) = (Digest([version as u8; 32]), ObjectSize::new(5).unwrap());
    let mut members = Members::new(digest, size, DisplayName::new("name \"7\"").unwrap());
    members.version = version;
    members.manifest().unwrap()
}

fn watch(agent: &mut Agent, now: Time) -> (u64, Option<Time>) {
    match agent.poll(now) {
        Step::Watch { version_min, until } => (version_min, until),
        step => panic!("{step:?}"),
    }
}

/// An agent that has this version in place, whose hook is due.
fn with_pending(version: u64) -> Agent {
    let mut agent = Agent::new(AgentConfig { splay: Duration::ZERO, ..CONFIG }, Journal::default());
    agent.handle_offer(at(0), version);
    assert_eq!(agent.poll(at(0)), Step::Fetch { version_min: 0 });
    agent.handle_fetched(at(0), &manifest(version));
    agent
}

#[test]
fn version_is_fetched_hooked_and_recorded_in_this_order() {
    let mut agent = Agent::new(CONFIG, Journal::done_with(4));
    assert_eq!(watch(&mut agent, at(0)), (5, None));
    assert_eq!(agent.handle_offer(at(0), 4), None, "it is done");
    let due = agent.handle_offer(at(0), 5).unwrap();
    assert!(due <= at(60), "within the splay");
    assert_eq!(watch(&mut agent, at(0)), (6, Some(due)));
    assert_eq!(agent.handle_offer(at(1), 6), Some(due), "the newer one has the turn of the older");
    assert_eq!(agent.poll(due), Step::Fetch { version_min: 5 }, "the newer one may have been a replay");
    assert_eq!(agent.journal_of(&manifest(6)).done(), Some(4));
    agent.handle_fetched(due, &manifest(6));
    let Step::RunHook { manifest: hooked, attempt, previous } = agent.poll(due) else { panic!("the hook") };
    assert_eq!((hooked.version, attempt, previous), (6, 1, Some(4)));
    assert_eq!(agent.handle_hook(due, true), None);
    assert_eq!(agent.poll(due), Step::Keep(Journal::done_with(6)));
    agent.handle_kept();
    assert_eq!(watch(&mut agent, due), (7, None));
}

#[test]
fn splay_spreads_devices_over_its_whole_length() {
    let due = |seed| Agent::new(AgentConfig { seed, ..CONFIG }, Journal::default()).handle_offer(at(0), 1).unwrap();
    let mut quarters = [0; 4];
    (0..400).for_each(|seed| quarters[(due(seed).as_nanos() / 15_000_000_001) as usize] += 1);
    assert!(quarters.iter().all(|count| (60..140).contains(count)), "{quarters:?}");
}

#[test]
fn hook_that_fails_is_run_again_later_and_later() {
    let mut agent = with_pending(1);
    let mut now = at(0);
    let mut waits = Vec::new();
    for attempt in 1..=20 {
        assert!(matches!(agent.poll(now), Step::RunHook { attempt: number, .. } if number == attempt));
        let due = agent.handle_hook(now, false).unwrap();
        assert_eq!(watch(&mut agent, now), (2, Some(due)));
        waits.push(due.since(now).as_secs_f64());
        now = due;
    }
    let mut longest = 10.0;
    for wait in waits {
        assert!((longest / 2.0..=longest).contains(&wait), "{wait} of {longest}");
        longest = f64::min(2.0 * longest, HOOK_RETRY_MAX.as_secs_f64());
    }
}

#[test]
fn newer_version_takes_the_place_of_one_whose_hook_fails() {
    let mut agent = with_pending(1);
    assert!(matches!(agent.poll(at(0)), Step::RunHook { .. }));
    agent.handle_hook(at(0), false);
    assert_eq!(agent.handle_offer(at(1), 1), None, "it is in place");
    agent.handle_offer(at(1), 2).unwrap();
    assert_eq!(agent.poll(at(1)), Step::Fetch { version_min: 2 });
    agent.handle_fetched(at(2), &manifest(2));
    assert!(
        matches!(agent.poll(at(2)), Step::RunHook { manifest, attempt: 1, previous: None } if manifest.version == 2)
    );
}

#[test]
fn fetch_that_fails_waits_for_another_announcement_longer_each_time() {
    let mut agent = Agent::new(AgentConfig { splay: Duration::ZERO, ..CONFIG }, Journal::default());
    let (mut now, mut longest) = (at(0), FETCH_RETRY_MIN);
    for _ in 0..20 {
        let due = agent.handle_offer(now, 3).unwrap();
        assert_eq!(agent.poll(due), Step::Fetch { version_min: 0 });
        now = due;
        let due = agent.handle_fetch_failed(now, None);
        assert!(due.since(now) >= longest / 2 && due.since(now) <= longest, "{:?} of {longest:?}", due.since(now));
        assert_eq!(watch(&mut agent, now), (0, None), "nothing is done before it is announced again");
        assert_eq!(agent.handle_offer(now, 3), Some(due));
        agent.offer = None;
        longest = (2 * longest).min(FETCH_RETRY_MAX);
        now = due;
    }
    assert_eq!(agent.handle_offer(now, 4), Some(now), "what failed was another one");
}

/// A device is overwritten in its place, and a journal may be ahead of what it says.
#[test]
fn fetch_that_fails_leaves_nothing_unchecked_and_no_way_back() {
    let mut agent = with_pending(7);
    assert!(matches!(agent.poll(at(0)), Step::RunHook { .. }));
    agent.handle_hook(at(0), false);
    agent.handle_offer(at(1), 8).unwrap();
    assert_eq!(agent.poll(at(1)), Step::Fetch { version_min: 8 });
    agent.handle_fetch_failed(at(2), None);
    assert!(matches!(agent.poll(at(100)), Step::Check(manifest) if manifest.version == 7));
    agent.handle_checked(false);
    assert_eq!(watch(&mut agent, at(100)).0, 7, "it may come again, and nothing older");
    agent.handle_offer(at(1000), 7).unwrap();
    assert_eq!(agent.poll(at(1000)), Step::Fetch { version_min: 7 });
    agent.handle_fetch_failed(at(1000), Some(9));
    assert_eq!(watch(&mut agent, at(1000)).0, 9);
}

#[test]
fn without_a_hook_what_is_in_place_is_done() {
    let mut agent = with_pending(1);
    agent.config.has_hook = false;
    assert_eq!(agent.poll(at(0)), Step::Keep(Journal::done_with(1)));
}

#[test]
fn journal_reads_back_and_nothing_else_does() {
    let all = [
        Journal::default(),
        Journal::done_with(u64::MAX),
        Journal::default().with_pending(&manifest(7)),
        Journal::done_with(6).with_pending(&manifest(7)),
    ];
    for journal in all {
        let text = journal.to_text().into_bytes();
        assert!(text.len() <= crate::limits::JOURNAL_SIZE_MAX);
        assert_eq!(Journal::parse(&text), Ok(journal));
        for bit in 0..8 * text.len() {
            let mut damaged = text.clone();
            damaged[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(Journal::parse(&damaged), Err(BadJournal), "bit {bit}");
        }
        assert!((0..text.len()).all(|size| Journal::parse(&text[..size]).is_err()));
        assert!(Journal::parse(&[&text[..], b"\n"].concat()).is_err());
    }
}

/// What is on the disk of a device, and what has happened on it.
#[derive(Clone, Debug, Default)]
struct Disk {
    journal: String,
    place: Option<u64>,
    /// Versions whose hook has succeeded, in order.
    hooked: Vec<u64>,
}

impl Disk {
    fn journal(&self) -> Journal {
        if self.journal.is_empty() { Journal::default() } else { Journal::parse(self.journal.as_bytes()).unwrap() }
    }
}

/// What the world does with one step.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Fate {
    /// It is done.
    Done,
    /// It fails.
    Fails,
    /// The device loses its power before it.
    CrashBefore,
    /// Half-way: after the journal and before the name, or after the hook and before anybody knows.
    CrashWithin,
    /// After it has taken effect, before the machine hears of it.
    CrashAfter,
}

fn fate() -> impl Strategy<Value = Fate> {
    prop_oneof![
        4 => Just(Fate::Done),
        2 => Just(Fate::Fails),
        1 => Just(Fate::CrashBefore),
        1 => Just(Fate::CrashWithin),
        1 => Just(Fate::CrashAfter),
    ]
}

/// A device whose agent is stopped and started again.
struct World {
    disk: Disk,
    agent: Agent,
    now: Time,
    /// The version that is announced, and sent.
    announced: u64,
    /// What is fetched overwrites what is in place as it comes.
    is_device: bool,
    /// The newest version that has been in place.
    newest_placed: u64,
}

impl World {
    fn new() -> Self {
        let (disk, agent) = (Disk::default(), Agent::new(CONFIG, Journal::default()));
        Self { disk, agent, now: at(0), announced: 0, is_device: false, newest_placed: 0 }
    }

    fn crash(&mut self) {
        let before = self.agent.journal.done();
        self.agent = Agent::new(AgentConfig { seed: self.now.as_nanos(), ..CONFIG }, self.disk.journal());
        assert!(self.agent.journal.done() >= before, "a version that is done stays so");
    }

    /// One step, after which the journal says what is in place and not done, or what is about to take its place.
    fn step(&mut self, fate: Fate) {
        self.act(fate);
        let journal = self.disk.journal();
        if self.disk.place > journal.done() {
            let pending = journal.pending().map(|pending| pending.version);
            assert!(pending >= self.disk.place, "{:?}: {journal:?}", self.disk.place);
        }
    }

    /// Does what the agent says, with its effects on the disk, in their order.
    fn act(&mut self, fate: Fate) {
        if fate == Fate::CrashBefore {
            return self.crash();
        }
        let (has_failed, dies_within) = (fate == Fate::Fails, fate == Fate::CrashWithin);
        match self.agent.poll(self.now) {
            Step::Check(pending) => {
                let is_in_place = self.disk.place == Some(pending.version) && !has_failed;
                self.agent.handle_checked(is_in_place);
            }
            Step::Fetch { version_min } => {
                assert!(self.disk.journal().done() < Some(version_min), "nothing is fetched twice that is done");
                if has_failed && self.is_device {
                    self.disk.place = None;
                }
                if has_failed || self.announced < version_min {
                    self.agent.handle_fetch_failed(self.now, None);
                    return;
                }
                let manifest = manifest(self.announced);
                self.disk.journal = self.agent.journal_of(&manifest).to_text();
                if dies_within {
                    return self.crash();
                }
                assert!(self.announced >= self.newest_placed, "nothing older takes the place of what was there");
                (self.disk.place, self.newest_placed) = (Some(self.announced), self.announced);
                if fate != Fate::CrashAfter {
                    self.agent.handle_fetched(self.now, &manifest);
                }
            }
            Step::RunHook { manifest, .. } => {
                assert_eq!(self.disk.place, Some(manifest.version), "the hook is of what is in place");
                assert!(Some(manifest.version) > self.disk.journal().done(), "no version is hooked that is done");
                if has_failed {
                    self.agent.handle_hook(self.now, false);
                    return;
                }
                self.disk.hooked.push(manifest.version);
                if !dies_within && fate != Fate::CrashAfter {
                    self.agent.handle_hook(self.now, true);
                }
            }
            Step::Keep(journal) => {
                assert_eq!(journal.done(), self.disk.hooked.last().copied(), "only after its hook");
                if !has_failed && !dies_within {
                    self.disk.journal = journal.to_text();
                }
                if fate == Fate::Done {
                    self.agent.handle_kept();
                } else {
                    // What cannot be written ends the agent.
                    self.crash();
                }
            }
            Step::Watch { version_min, until } => {
                if self.announced >= version_min {
                    self.agent.handle_offer(self.now, self.announced);
                } else if let Some(until) = until {
                    self.now = self.now.max(until);
                }
            }
        }
        if matches!(fate, Fate::CrashWithin | Fate::CrashAfter) {
            self.crash();
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, failure_persistence: None, ..ProptestConfig::default() })]

    /// Whatever fails and wherever it is stopped: hooks succeed in the order of versions, and once nothing fails any more the newest
    /// is in place, hooked and recorded.
    #[test]
    fn newest_version_is_installed_whatever_happens(
        events in prop::collection::vec((fate(), 0_u64..5), 0..80), is_device in any::<bool>(),
    ) {
        let mut world = World::new();
        (world.announced, world.is_device) = (1, is_device);
        let mishap_count = events.iter().filter(|(fate, _)| *fate != Fate::Done).count();
        for (fate, news) in events {
            let newest = world.announced + u64::from(news == 0);
            // Now and then somebody replays what was sent before.
            world.announced = if news == 1 { newest.saturating_sub(1).max(1) } else { newest };
            world.step(fate);
            world.announced = newest;
        }
        for _ in 0..100 {
            world.step(Fate::Done);
        }
        let newest = world.announced;
        prop_assert_eq!(world.disk.journal(), Journal::done_with(newest));
        prop_assert_eq!(world.disk.place, Some(newest));
        prop_assert!(world.disk.hooked.is_sorted() && world.disk.hooked.last() == Some(&newest));
        let again = world.disk.hooked.windows(2).filter(|pair| pair[0] == pair[1]).count();
        prop_assert!(again <= mishap_count, "a hook that succeeded is run again only where that could not be recorded");
        let is_at_rest = matches!(world.agent.poll(world.now), Step::Watch { until: None, .. });
        prop_assert!(is_at_rest);
    }
}
