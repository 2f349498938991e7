//! Symbols that are only counted.

use super::*;

/// A receiver that counts, and what it had to be answered.
struct Counter {
    receiver: Receiver,
    actions: Vec<Action>,
}

impl Counter {
    /// One that has accepted the source's manifest.
    fn prepared(source: &Source) -> Self {
        let mut counter = Self { receiver: Receiver::new(at(0), NO_LIMITS).counting(), actions: vec![] };
        counter.feed(at(0), &source.manifest());
        counter
    }

    /// And knows what the blocks of the source must be.
    fn proven(source: &Source) -> Self {
        let mut counter = Self::prepared(source);
        counter.feed(at(0), &source.hashes());
        counter
    }

    /// Takes a datagram, and does what a caller does who keeps nothing.
    fn feed(&mut self, now: Time, datagram: &[u8]) -> Verdict {
        let verdict = self.receiver.handle_datagram(now, host(1), datagram);
        match verdict {
            Verdict::Store(store) => self.receiver.handle_stored(&[store]),
            Verdict::Keep(kept) => self.receiver.handle_kept(kept, true),
            Verdict::Taken | Verdict::Dropped(_) => {}
        }
        self.receiver.handle_timeout(now);
        while let Some(action) = self.receiver.poll_action() {
            if matches!(action, Action::Prepare { .. }) {
                self.receiver.handle_prepared(now, false, plain_memory(0));
            }
            self.actions.push(action);
        }
        while let Some(work) = self.receiver.poll_work() {
            let Work::HashZeroes { block, size } = work else { panic!("{work:?} of bytes that nobody has") };
            let value = crate::digest::zero_block_value(size, block);
            self.receiver.handle_hashed(now, block, Some(value));
        }
        verdict
    }

    fn feed_all(&mut self, now: Time, source: &Source, block: u32, symbols: impl Iterator<Item = u16>) {
        symbols.for_each(|esi| {
            self.feed(now, &source.symbol(block, esi));
        });
    }

    fn blocks(&self) -> (u32, u32) {
        let progress = self.receiver.progress();
        (progress.blocks_counted, progress.blocks_verified)
    }
}

#[test]
fn enough_symbols_of_every_block_are_enough_and_verify_nothing() {
    let source = Source::new(content(2 * MIB + 3000, &[]), 8896);
    let mut counter = Counter::proven(&source);
    counter.feed_all(at(0), &source, 0, (0..118).rev());
    counter.feed_all(at(0), &source, 2, 0..1);
    assert_eq!((counter.blocks(), counter.receiver.has_enough()), ((2, 0), false));
    // Any symbols: of these one has no place, and another comes twice.
    counter.feed_all(at(0), &source, 1, (59..117).chain([117, 200]).chain(300..356));
    assert_eq!(counter.feed(at(0), &source.symbol(1, 300)), Verdict::Dropped(DropReason::Duplicate));
    assert_eq!((counter.blocks(), counter.receiver.has_enough()), ((2, 0), false));
    counter.feed_all(at(0), &source, 1, 400..402);
    assert_eq!((counter.blocks(), counter.receiver.has_enough()), ((3, 0), true));
    assert_eq!(counter.feed(at(0), &source.symbol(1, 402)), Verdict::Dropped(DropReason::Done));
    let progress = counter.receiver.progress();
    assert_eq!((progress.held, counter.receiver.counts().stored), (progress.size, 118 + 1 + 118));
    assert!(counter.receiver.missing().eq([(0, progress.size)]), "nothing is known of any byte");
    assert!(matches!(counter.actions[..], [Action::Prepare { .. }]) && counter.receiver.senders().len() == 1);
}

#[test]
fn symbols_that_came_before_the_manifest_count() {
    let source = Source::new(content(3000, &[]), 1408);
    let mut receiver = Receiver::new(at(0), NO_LIMITS).counting();
    for datagram in [source.data(0, 0), source.data(0, 2), source.manifest()] {
        assert_eq!(receiver.handle_datagram(at(0), host(1), &datagram), Verdict::Taken);
    }
    assert!(matches!(receiver.poll_action(), Some(Action::Prepare { .. })));
    let early = receiver.handle_prepared(at(0), false, plain_memory(0));
    let mut counter = Counter { receiver, actions: vec![] };
    early.datagrams().for_each(|(_, datagram)| {
        counter.feed(at(0), datagram);
    });
    assert!(!counter.receiver.has_enough());
    counter.feed(at(0), &source.data(0, 1));
    assert!(counter.receiver.has_enough());
}

/// What is proven without data is verified.
#[test]
fn blocks_of_zeroes_need_no_symbols() {
    let source = Source::new(content(3 * MIB, &[1]), 8896);
    let mut counter = Counter::proven(&source);
    assert_eq!(counter.blocks(), (0, 1));
    counter.feed_all(at(0), &source, 0, 0..118);
    counter.feed_all(at(0), &source, 2, 0..118);
    assert_eq!((counter.blocks(), counter.receiver.has_enough()), ((2, 1), true));
    // A symbol of such a block that somebody forges before its proof comes leaves nothing to be cleared.
    let mut counter = Counter::prepared(&source);
    counter.feed(at(0), &forged(source.data(1, 3)));
    counter.feed(at(0), &source.hashes());
    assert_eq!((counter.blocks(), counter.receiver.progress().held), ((0, 1), BLOCK_SIZE));
}

#[test]
fn object_without_data_is_complete() {
    assert!(Counter::prepared(&Source::new(vec![], 1408)).receiver.has_enough());
    assert!(Counter::proven(&Source::new(vec![0; 2 * MIB], 1408)).receiver.has_enough());
}

#[test]
fn silent_description_is_given_up_without_a_map_and_what_was_counted_stays() {
    let source = Source::new(content(2 * MIB, &[]), 8896);
    let successor = Source::new(source.content.clone(), 1408);
    let mut counter = Counter::proven(&source);
    counter.feed_all(at(0), &source, 0, 0..118);
    counter.feed_all(at(0), &source, 1, 0..100);
    counter.feed(at(4), &successor.manifest());
    counter.feed(at(6), &successor.data(1, 0));
    assert_eq!(counter.receiver.progress().held, BLOCK_SIZE, "symbols of another size are of no use");
    assert_eq!(counter.feed(at(6), &successor.data(0, 0)), Verdict::Dropped(DropReason::Done));
    counter.feed_all(at(6), &successor, 1, 0..745);
    assert_eq!((counter.blocks(), counter.receiver.has_enough()), ((2, 0), true));
    assert!(matches!(counter.actions[..], [Action::Prepare { .. }]), "{:?}", counter.actions);
}

/// A block that has enough is progress, as a verified one is elsewhere.
#[test]
fn description_of_which_blocks_have_enough_is_kept() {
    let source = Source::new(content(2 * MIB, &[]), 8896);
    let mut counter = Counter::proven(&source);
    counter.feed(at(0), &Source::new(source.content.clone(), 1408).manifest());
    for block in [0, 1] {
        counter.feed_all(at(0), &source, block, (0..117).chain((0..117).cycle().take(200)).chain([117]));
    }
    assert_eq!((counter.blocks(), counter.receiver.poll_notice()), ((2, 0), None));
}
