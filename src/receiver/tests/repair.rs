//! Repair symbols: where they go, and what becomes of the block (docs/PROTOCOL.md, sections 2, 4 and 9).

use super::*;
use crate::types::Digest;

/// A receiver that knows what the blocks of the source must be.
fn proven(source: &Source) -> Sink {
    let mut sink = Sink::prepared(source);
    sink.feed(at(0), host(1), &source.hashes());
    sink
}

fn feed_symbols(sink: &mut Sink, source: &Source, block: u32, symbols: impl IntoIterator<Item = u16>) {
    symbols.into_iter().for_each(|esi| {
        sink.feed(at(0), host(1), &source.symbol(block, esi));
    });
}

fn decodes(sink: &Sink) -> usize {
    sink.works.iter().filter(|work| matches!(work, Work::Decode { .. })).count()
}

#[test]
fn any_symbols_that_are_enough_make_the_block() {
    for (size, symbol_size) in [(2 * MIB, 8896), (MIB + 9000, 8896), (MIB + 8896, 8896)] {
        let source = Source::new(content(size, &[]), symbol_size);
        for block in 0..2 {
            let count = source.symbol_count(block);
            let choices: [Vec<u16>; 4] = [
                (0..count).collect(),
                (count..2 * count).collect(),
                (count / 2..count + count / 2).collect(),
                (0..count).rev().map(|esi| if esi % 2 == 0 { esi } else { 4 * count - 1 - esi }).collect(),
            ];
            for symbols in choices {
                let mut sink = proven(&source);
                feed_symbols(&mut sink, &source, block, symbols.clone());
                assert_eq!(sink.receiver.progress().blocks_verified, 1, "{size} {block} {symbols:?}");
                let start = block as usize * MIB;
                let end = size.min(start + MIB);
                assert!(sink.disk[start..end] == source.content[start..end]);
                assert!(sink.kept.is_empty() && sink.notices.is_empty());
            }
        }
    }
}

#[test]
fn block_of_source_symbols_alone_is_not_decoded() {
    let source = Source::new(content(2 * MIB, &[]), 8896);
    let mut sink = proven(&source);
    feed_symbols(&mut sink, &source, 0, (0..118).rev());
    assert_eq!((decodes(&sink), sink.receiver.progress().blocks_verified), (0, 1));
}

/// The slot that the carousel reaches last is the one just behind it.
#[test]
fn repair_symbol_goes_to_the_slot_just_behind_the_carousel() {
    let source = Source::new(content(2 * MIB, &[]), 8896);
    let mut sink = proven(&source);
    feed_symbols(&mut sink, &source, 0, [9, 10, 12, 13, 200, 201, 202, 203]);
    let slots: Vec<_> = sink.stores[4..].iter().map(|store| store.slot).collect();
    assert_eq!(slots, [11, 8, 7, 6]);
    // At the start of the block: from its end, but never in the short last slot.
    let mut sink = proven(&source);
    feed_symbols(&mut sink, &source, 0, [0, 1, 200, 201]);
    let slots: Vec<_> = sink.stores[2..].iter().map(|store| store.slot).collect();
    assert_eq!(slots, [116, 115]);
}

#[test]
fn source_symbol_whose_slot_is_taken_goes_to_another_and_counts() {
    let source = Source::new(content(2 * MIB, &[]), 8896);
    let mut sink = proven(&source);
    feed_symbols(&mut sink, &source, 0, [5, 200]);
    assert_eq!(sink.stores[1].slot, 4);
    feed_symbols(&mut sink, &source, 0, [4]);
    assert_eq!((sink.stores[2].esi, sink.stores[2].slot), (Esi(4), 3));
    assert_eq!(sink.receiver.progress().held, 3 * 8896);
    sink.drops(host(1), &source.symbol(0, 4), DropReason::Duplicate);
    sink.drops(host(1), &source.symbol(0, 200), DropReason::Duplicate);
    feed_symbols(&mut sink, &source, 0, (6..118).chain([300, 301, 302]));
    assert_eq!((decodes(&sink), sink.receiver.progress().blocks_verified), (1, 1));
    assert!(sink.disk[..MIB] == source.content[..MIB]);
}

#[test]
fn symbol_that_fits_no_free_slot_is_kept_and_completes_the_block() {
    let source = Source::new(content(2 * MIB, &[]), 8896);
    let mut sink = Sink::prepared(&source);
    feed_symbols(&mut sink, &source, 0, 0..117);
    assert_eq!(
        sink.take(at(0), host(1), &source.symbol(0, 300)),
        Verdict::Keep(Kept { block: BlockIndex(0), esi: Esi(300) })
    );
    sink.drops(host(1), &source.symbol(0, 300), DropReason::Duplicate);
    sink.drops(host(1), &source.symbol(0, 301), DropReason::Full);
    assert!(sink.receiver.keeps(sink.kept[0].0));
    assert_eq!(sink.works, [], "the block is not proven");
    sink.feed(at(0), host(1), &source.hashes());
    assert!(matches!(sink.works[0], Work::Decode { kept: Some(Esi(300)), .. }));
    assert_eq!(sink.receiver.progress().blocks_verified, 1);
    assert!(sink.disk[..MIB] == source.content[..MIB]);
}

#[test]
fn symbol_for_which_there_is_no_memory_is_needed_again() {
    let source = Source::new(content(2 * MIB, &[]), 8896);
    let mut sink = proven(&source);
    sink.kept_max = 0;
    feed_symbols(&mut sink, &source, 0, (0..117).chain([300, 301]));
    assert_eq!((sink.receiver.progress().blocks_verified, sink.works.len()), (0, 0));
    feed_symbols(&mut sink, &source, 0, [117]);
    assert_eq!((decodes(&sink), sink.receiver.progress().blocks_verified), (0, 1));
}

#[test]
fn object_of_one_symbol_is_made_of_a_repair_symbol() {
    for size in [1, 64, 1000, 1408] {
        let source = Source::new(content(size, &[]), 1408);
        let mut sink = Sink::prepared(&source);
        feed_symbols(&mut sink, &source, 0, [2]);
        assert!(sink.is_committed && sink.disk == source.content, "{size}");
    }
}

#[test]
fn forged_repair_symbol_costs_the_block_and_is_never_written() {
    let mut source = Source::new(content(2 * MIB, &[]), 8896);
    let mut sink = proven(&source);
    sink.feed(at(0), host(2), &forged(source.symbol(0, 200)));
    feed_symbols(&mut sink, &source, 0, 1..118);
    assert_eq!(sink.notices, [Notice::BlockFailed(BlockIndex(0))]);
    assert!(!sink.works.iter().any(|work| matches!(work, Work::WriteDecoded { .. })));
    assert_eq!(sink.receiver.progress().held, 0);
    sink.drops(host(2), &forged(source.symbol(0, 200)), DropReason::Restricted);
    sink.complete(at(0), host(1), &mut source);
}

#[test]
fn symbols_that_do_not_decode_are_all_needed_again() {
    let source = Source::new(content(2 * MIB, &[]), 8896);
    let mut sink = proven(&source);
    (1..118).chain([200]).for_each(|esi| {
        sink.take(at(0), host(1), &source.symbol(0, esi));
    });
    // Somebody has changed the map.
    sink.map.iter().skip(20).for_each(|word| word.store(0, std::sync::atomic::Ordering::Relaxed));
    sink.run(at(0));
    assert_eq!(sink.notices, [Notice::BlockFailed(BlockIndex(0))]);
    feed_symbols(&mut sink, &source, 0, (1..118).chain([200]));
    assert_eq!(sink.receiver.progress().blocks_verified, 1);
}

#[test]
fn block_that_could_not_be_written_is_received_again() {
    let mut source = Source::new(content(2 * MIB, &[]), 8896);
    let mut sink = proven(&source);
    (1..118).chain([200]).for_each(|esi| {
        sink.take(at(0), host(1), &source.symbol(0, esi));
    });
    let work = sink.receiver.poll_work().unwrap();
    assert!(matches!(work, Work::Decode { .. }));
    sink.perform(at(0), work);
    assert!(matches!(sink.receiver.poll_work(), Some(Work::WriteDecoded { block: BlockIndex(0), .. })));
    sink.receiver.handle_written(BlockIndex(0), false);
    assert_eq!((sink.receiver.progress().held, sink.receiver.progress().blocks_verified), (0, 0));
    sink.complete(at(0), host(1), &mut source);
}

/// Killed before the first byte that is written of a decoded block, between it and the last, and after that.
#[test]
fn receiver_killed_while_it_writes_a_decoded_block_needs_only_what_was_overwritten() {
    let source = Source::new(content(2 * MIB, &[]), 8896);
    for (written, needed) in [(0, 0), (1, 1), (3, 3), (10, 0), (118, 0)] {
        let mut sink = proven(&source);
        (10..118).chain(200..210).for_each(|esi| {
            sink.take(at(0), host(1), &source.symbol(0, esi));
        });
        let work = sink.receiver.poll_work().unwrap();
        sink.perform(at(0), work);
        assert!(matches!(sink.receiver.poll_work(), Some(Work::WriteDecoded { .. })));
        let size = MIB.min(written * 8896);
        sink.disk[..size].copy_from_slice(&source.content[..size]);
        sink.restart();
        sink.feed(at(1), host(1), &source.manifest());
        sink.feed(at(1), host(1), &source.hashes());
        let before = sink.stores.len();
        feed_symbols(&mut sink, &source, 0, 0..118);
        assert_eq!(sink.stores.len() - before, needed, "{written} slots had been written");
        assert_eq!(sink.receiver.progress().blocks_verified, 1);
        assert!(sink.disk[..MIB] == source.content[..MIB] && sink.notices.is_empty());
    }
}

/// What a map says of a verified block is true too: it tells what is left if the power fails.
#[test]
fn map_of_a_block_that_was_decoded_and_written_has_only_what_is_in_its_place() {
    let source = Source::new(content(2 * MIB, &[]), 8896);
    let mut sink = proven(&source);
    feed_symbols(&mut sink, &source, 0, (10..118).chain(200..210));
    assert_eq!(sink.receiver.progress().blocks_verified, 1);
    sink.restart();
    sink.disk[50 * 8896..52 * 8896].fill(0);
    sink.feed(at(1), host(1), &source.manifest());
    sink.feed(at(1), host(1), &source.hashes());
    let checked = sink.works.iter().find_map(|work| match work {
        Work::CheckSlots { slots, .. } => Some(slots.iter().map(|entry| (entry.slot, entry.esi.0)).collect::<Vec<_>>()),
        _ => None,
    });
    assert_eq!(checked.expect("its digest is wrong"), (10..118).map(|slot| (slot, slot)).collect::<Vec<_>>());
}

#[test]
fn killed_receiver_keeps_its_repair_symbols() {
    let source = Source::new(content(2 * MIB, &[]), 8896);
    let mut sink = proven(&source);
    feed_symbols(&mut sink, &source, 0, (50..117).chain(200..220).chain([30, 29]));
    let held = sink.receiver.progress().held;
    sink.restart();
    sink.feed(at(1), host(1), &source.manifest());
    sink.feed(at(1), host(1), &source.hashes());
    assert_eq!(sink.receiver.progress().held, held);
    feed_symbols(&mut sink, &source, 0, 220..249);
    assert_eq!(sink.receiver.progress().blocks_verified, 1);
    assert!(sink.disk[..MIB] == source.content[..MIB]);
}

#[test]
fn receiver_asked_not_to_decode_drops_repair_symbols_and_those_of_an_earlier_attempt() {
    let mut source = Source::new(content(2 * MIB, &[]), 8896);
    let config = ReceiverConfig { decode: false, ..NO_LIMITS };
    let mut sink = proven(&source);
    feed_symbols(&mut sink, &source, 0, [0, 1, 200, 201, 116]);
    assert_eq!(sink.stores[4].slot, 114, "its own place is taken");
    sink.restart();
    sink.receiver = Receiver::new(at(1), config);
    sink.feed(at(1), host(1), &source.manifest());
    assert_eq!(sink.receiver.progress().held, 2 * 8896);
    sink.drops(host(1), &source.symbol(0, 200), DropReason::Repair);
    sink.complete(at(1), host(1), &mut source);
    assert_eq!(decodes(&sink), 0);
}

#[test]
fn symbols_that_an_object_forbids_are_out_of_range() {
    let source = Source::with_text(content(2 * MIB, &[]), 8896, |members| members.repair_max = Some(50));
    let mut sink = proven(&source);
    assert!(matches!(sink.take(at(0), host(1), &source.symbol(0, 118 + 58)), Verdict::Store(_)));
    sink.drops(host(1), &source.symbol(0, 118 + 59), DropReason::OutOfRange);
}

/// The symbols of one size are of no use for another, whatever is being done with them.
#[test]
fn block_that_is_being_decoded_when_the_symbol_size_changes_is_still_right() {
    let source = Source::new(content(2 * MIB, &[]), 8896);
    let successor = Source::new(source.content.clone(), 1408);
    for is_polled in [false, true] {
        let mut sink = proven(&source);
        sink.feed(at(4), host(1), &successor.manifest());
        (1..118).chain([200]).for_each(|esi| {
            sink.take(at(4), host(1), &source.symbol(0, esi));
        });
        let work = is_polled.then(|| sink.receiver.poll_work().unwrap());
        sink.take(at(10), host(1), &successor.data(1, 0));
        sink.receiver.handle_timeout(at(10));
        let Some(Action::Remap { word_count }) = sink.receiver.poll_action() else { panic!("no other size") };
        if let Some(work) = work {
            sink.perform(at(10), work);
            let write = sink.receiver.poll_work().unwrap();
            sink.receiver.handle_remapped(at(10), plain_memory(word_count));
            sink.perform(at(10), write);
        } else {
            assert_eq!(sink.receiver.poll_work(), None);
            sink.receiver.handle_remapped(at(10), plain_memory(word_count));
        }
        assert_eq!(sink.receiver.progress().blocks_verified, u32::from(is_polled));
        sink.feed_block(at(10), host(1), &successor, 1);
        sink.feed_block(at(10), host(1), &successor, 0);
        assert!(sink.is_committed && sink.disk == source.content);
    }
}

#[test]
fn value_that_nobody_proved_is_never_written() {
    let source = Source::new(content(2 * MIB, &[]), 8896);
    let mut sink = proven(&source);
    (1..118).chain([200]).for_each(|esi| {
        sink.take(at(0), host(1), &source.symbol(0, esi));
    });
    assert!(matches!(sink.receiver.poll_work(), Some(Work::Decode { .. })));
    sink.receiver.handle_hashed(at(0), BlockIndex(0), Some(Digest([7; 32])));
    assert_eq!(sink.receiver.poll_work(), None);
    assert_eq!(sink.receiver.counts().blocks_failed, 1);
}
