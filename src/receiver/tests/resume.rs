//! What a receiver takes up from the sidecar map of one that was killed, and what it does with one that lies.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use proptest::prelude::*;

use super::*;

/// Words before the marks of a map.
const HEADER_WORDS: usize = 16;

/// A receiver that was killed after it had all of block 0 and every third symbol of block 1.
fn killed(source: &Source) -> Sink {
    let mut sink = Sink::prepared(source);
    sink.feed(at(0), host(1), &source.hashes());
    sink.feed_block(at(0), host(1), source, 0);
    for esi in (0..source.symbol_count(1)).step_by(3) {
        sink.feed(at(0), host(1), &source.data(1, esi));
    }
    sink.restart();
    sink
}

fn word_of(sink: &Sink, block: u32, slot: u16) -> &AtomicU32 {
    &sink.map[HEADER_WORDS + 2 + 745 * block as usize + usize::from(slot)]
}

/// The symbols of a block that the receiver stores when all are offered.
fn stored_of(sink: &mut Sink, source: &Source, block: u32) -> Vec<u16> {
    let before = sink.stores.len();
    sink.feed_block(at(1), host(1), source, block);
    sink.stores[before..].iter().map(|store| store.esi.0).collect()
}

#[test]
fn killed_receiver_needs_only_what_it_did_not_have() {
    let source = Source::new(content(2 * MIB, &[]), 1408);
    let mut sink = killed(&source);
    sink.feed(at(1), host(1), &source.manifest());
    assert!(matches!(sink.works[..], [Work::CheckSlots { block: BlockIndex(1), .. }]), "in the background, at once");
    let missing: Vec<_> = (0..745).filter(|esi| esi % 3 != 0).collect();
    assert_eq!(stored_of(&mut sink, &source, 1), missing);
    assert_eq!(stored_of(&mut sink, &source, 0), [] as [u16; 0], "marked as verified");
    sink.feed(at(1), host(1), &source.hashes());
    assert!(sink.is_committed && sink.disk == source.content && sink.notices.is_empty());
}

#[test]
fn wrong_slot_costs_one_symbol() {
    let source = Source::new(content(2 * MIB, &[]), 1408);
    let mut sink = killed(&source);
    sink.disk[MIB + 3 * 1408 + 5] ^= 1;
    sink.feed(at(1), host(1), &source.manifest());
    let missing: Vec<_> = (0..745).filter(|esi| esi % 3 != 0 || *esi == 3).collect();
    assert_eq!(stored_of(&mut sink, &source, 1), missing);
    sink.feed(at(1), host(1), &source.hashes());
    assert!(sink.is_committed && sink.disk == source.content && sink.notices.is_empty());
}

#[test]
fn torn_verified_block_keeps_its_right_slots() {
    let source = Source::new(content(2 * MIB, &[]), 1408);
    let mut sink = killed(&source);
    sink.disk[7 * 1408..9 * 1408].fill(0);
    sink.feed(at(1), host(1), &source.manifest());
    sink.feed(at(1), host(1), &source.hashes());
    assert_eq!(stored_of(&mut sink, &source, 0), [7, 8]);
    assert_eq!(sink.receiver.progress().blocks_verified, 1);
    assert!(sink.notices.is_empty(), "what was wrong before is no failure");
}

#[test]
fn block_takes_other_symbols_while_its_claims_are_checked_but_goes_no_further() {
    let source = Source::new(content(2 * MIB, &[]), 1408);
    let mut sink = killed(&source);
    sink.take(at(1), host(1), &source.manifest());
    let Some(Action::Prepare { word_count, .. }) = sink.receiver.poll_action() else { panic!("no target asked for") };
    assert_eq!(word_count, sink.map.len());
    sink.receiver.handle_prepared(at(1), true, Box::new(Arc::clone(&sink.map)));
    sink.take(at(1), host(1), &source.hashes());
    let works: Vec<_> = std::iter::from_fn(|| sink.receiver.poll_work()).collect();
    assert!(matches!(works[..], [Work::Hash { .. }, Work::CheckSlots { .. }]), "{works:?}");
    for esi in 0..745 {
        let verdict = sink.take(at(1), host(1), &source.data(1, esi));
        let expected = if esi % 3 == 0 { Verdict::Dropped(DropReason::Duplicate) } else { verdict };
        assert_eq!(verdict, expected);
    }
    assert_eq!(sink.receiver.poll_work(), None, "it is full, but not checked");
    works.into_iter().for_each(|work| sink.perform(at(1), work));
    sink.run(at(1));
    assert!(sink.is_committed && sink.disk == source.content);
}

#[test]
fn map_of_another_object_or_symbol_size_is_forgotten() {
    let source = Source::new(content(2 * MIB, &[]), 1408);
    let other = Source::new(content(2 * MIB, &[0]), 1408);
    let mut sink = killed(&other);
    sink.feed(at(1), host(1), &source.manifest());
    assert!(sink.works.is_empty());
    // Beside the marks that say that all blocks are to be looked at.
    assert!(sink.map[HEADER_WORDS + 2..].iter().all(|word| word.load(Ordering::Relaxed) == 0));
    let mut source = Source::new(source.content.clone(), 1344);
    let mut sink = killed(&source);
    (sink.is_reused, source) = (true, Source::new(source.content, 1408));
    sink.complete(at(1), host(1), &mut source);
}

/// Without a map for this symbol size any block may be right, and that is noted in the new map before anything comes.
#[test]
fn verified_block_outlives_a_restart_with_another_symbol_size_and_a_kill_before_its_hashes() {
    let mut source = Source::new(content(2 * MIB, &[]), 1408);
    let mut sink = killed(&Source::new(source.content.clone(), 1152));
    sink.feed(at(1), host(1), &source.manifest());
    assert_eq!(sink.feed(at(1), host(1), &source.data(0, 7)), Verdict::Dropped(DropReason::Done));
    sink.restart();
    sink.feed(at(2), host(1), &source.manifest());
    sink.feed(at(2), host(1), &source.hashes());
    assert_eq!((sink.receiver.progress().blocks_verified, sink.notices.len()), (1, 0));
    sink.complete(at(2), host(1), &mut source);
    assert!(sink.stores.iter().all(|store| store.block == BlockIndex(1)), "block 0 was not received again");
}

/// Whether or not another kill follows.
#[test]
fn block_that_the_map_marks_as_verified_outlives_a_session_change_by_silence() {
    let source = Source::new(content(2 * MIB, &[]), 1408);
    let mut successor = Source::new(source.content.clone(), 1152);
    for is_killed_again in [false, true] {
        let mut sink = killed(&source);
        sink.feed(at(1), host(1), &source.manifest());
        sink.feed(at(5), host(1), &successor.manifest());
        sink.feed(at(7), host(1), &successor.data(0, 7));
        assert_eq!(sink.notices, [Notice::SessionChanged(SymbolSize::new(1152).unwrap())]);
        let verdict = sink.feed(at(7), host(1), &successor.data(0, 7));
        assert_eq!(verdict, Verdict::Dropped(DropReason::Done), "its digest comes first");
        if is_killed_again {
            sink.restart();
            sink.feed(at(8), host(1), &successor.manifest());
        }
        sink.feed(at(8), host(1), &successor.hashes());
        assert_eq!(sink.receiver.progress().blocks_verified, 1);
        sink.complete(at(8), host(1), &mut successor);
        assert!(sink.stores.iter().all(|store| store.block == BlockIndex(1)), "block 0 was not received again");
    }
}

/// Nobody knows who sent what the map claims.
#[test]
fn stream_that_adds_to_what_the_map_claims_is_not_credited_with_the_block() {
    let source = Source::new(content(3 * MIB, &[]), 1408);
    let mut sink = killed(&source);
    sink.feed(at(1), host(1), &source.manifest());
    sink.feed(at(1), host(1), &source.hashes());
    let credits = |sink: &Sink| sink.receiver.senders().iter().map(|entry| entry.verified_alone).collect::<Vec<_>>();
    sink.feed_block(at(1), host(2), &source, 1);
    assert_eq!((sink.receiver.progress().blocks_verified, credits(&sink)), (2, vec![0, 0]));
    sink.feed_block(at(1), host(2), &source, 2);
    assert_eq!(credits(&sink), [0, 1], "this one it gave alone");
}

/// A target that is new has nothing of what an old map says.
#[test]
fn map_beside_a_new_target_is_forgotten() {
    let mut source = Source::new(content(2 * MIB, &[]), 1408);
    let mut sink = killed(&source);
    (sink.is_reused, sink.disk) = (false, vec![]);
    sink.feed(at(1), host(1), &source.manifest());
    assert!(sink.works.is_empty() && sink.receiver.progress().held == 0);
    sink.complete(at(1), host(1), &mut source);
}

/// A forged manifest with the same object id must not cost what was received.
#[test]
fn rival_manifest_that_comes_first_leaves_the_map() {
    let source = Source::new(content(2 * MIB, &[]), 1408);
    let mut sink = killed(&source);
    sink.feed(at(1), host(2), &rival(&source, 1));
    sink.feed(at(1), host(1), &source.manifest());
    sink.feed(at(1), host(1), &source.hashes());
    let missing: Vec<_> = (0..745).filter(|esi| esi % 3 != 0).collect();
    assert_eq!(stored_of(&mut sink, &source, 1), missing);
    assert!(sink.is_committed);
}

#[test]
fn claims_that_cannot_be_true_are_dropped_unread() {
    let source = Source::new(content(2 * MIB, &[]), 1408);
    let mut sink = killed(&source);
    let entry = |esi: u32| (esi + 1) << 16 | 77;
    word_of(&sink, 1, 744).store(entry(745), Ordering::Relaxed);
    word_of(&sink, 1, 1).store(entry(4 * 745), Ordering::Relaxed);
    word_of(&sink, 1, 2).store(u32::MAX, Ordering::Relaxed);
    word_of(&sink, 1, 4).store(entry(0), Ordering::Relaxed);
    word_of(&sink, 1, 5).store(77, Ordering::Relaxed);
    sink.feed(at(1), host(1), &source.manifest());
    let [Work::CheckSlots { slots, .. }] = &sink.works[..] else { panic!("{:?}", sink.works) };
    assert!(slots.iter().all(|entry| entry.slot % 3 == 0 && entry.esi.0 == entry.slot && entry.slot != 744));
    for slot in [1, 2, 4, 5, 744] {
        assert_eq!(word_of(&sink, 1, slot).load(Ordering::Relaxed), 0);
    }
}

#[test]
fn failed_block_leaves_no_entry() {
    let source = Source::new(content(2 * MIB, &[]), 1408);
    let mut sink = Sink::prepared(&source);
    sink.feed(at(0), host(1), &source.hashes());
    sink.feed(at(0), host(2), &forged(source.data(0, 5)));
    sink.feed_block(at(0), host(1), &source, 0);
    assert_eq!(sink.notices, [Notice::BlockFailed(BlockIndex(0))]);
    assert!((0..745).all(|slot| word_of(&sink, 0, slot).load(Ordering::Relaxed) == 0));
}

/// Between two symbol sizes there is no map, and nothing can be taken.
#[test]
fn symbols_are_dropped_until_there_is_a_map_for_their_size() {
    let source = Source::new(content(2 * MIB, &[]), 1408);
    let stranger = Source::new(source.content.clone(), 1152);
    let mut sink = Sink::prepared(&stranger);
    sink.feed(at(0), host(1), &source.manifest());
    let mut words = None;
    for esi in (0..745).cycle().take(4000) {
        sink.receiver.handle_datagram(at(0), host(1), &source.data(0, esi));
        sink.receiver.handle_timeout(at(0));
        if let Some(Action::Remap { word_count }) = sink.receiver.poll_action() {
            words = Some(word_count);
            break;
        }
    }
    let word_count = words.expect("the session changes");
    assert_eq!(
        sink.receiver.handle_datagram(at(0), host(1), &source.data(0, 0)),
        Verdict::Dropped(DropReason::Remapping)
    );
    sink.receiver.handle_remapped(at(0), plain_memory(word_count));
    assert!(matches!(sink.take(at(0), host(1), &source.data(0, 0)), Verdict::Store(_)));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(if cfg!(miri) { 1 } else { 24 }))]

    /// Whatever is in the map and on the disk: the object arrives, and is right.
    #[test]
    fn no_map_can_make_a_wrong_object(
        seed in any::<u64>(), symbol_size in prop::sample::select(vec![512u16, 1408, 8896]), damage in 0u32..4, torn in 0u8..10,
    ) {
        let size = [1000, MIB, 2 * MIB + 3000, 3 * MIB][(seed % 4) as usize];
        let mut source = Source::new(content(size, &[]), symbol_size);
        let mut sink = Sink::prepared(&source);
        let mut state = seed;
        let mut next = || {
            state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            (state >> 33) as u32
        };
        for _ in 0..size / usize::from(symbol_size) {
            let packet = source.next(at(0));
            if next() % 4 != 0 {
                sink.feed(at(0), host(1), &packet);
            }
        }
        sink.restart();
        for word in &sink.map[HEADER_WORDS..] {
            let value = match (damage, next() % 10) {
                (1, 0) => next() << 16 ^ next(),
                // Plausible: a number that exists, at random, in a slot at random.
                (2, 0..3) => (next() % 3000 + 1) << 16 | next() & 0xFFFF,
                (3, _) => next() << 16 ^ next(),
                _ => continue,
            };
            word.store(value, Ordering::Relaxed);
        }
        for sector in sink.disk.chunks_mut(512) {
            if next() % 100 < u32::from(torn) {
                sector.fill(next() as u8);
            }
        }
        sink.complete(at(1), host(1), &mut source);
    }
}
