//! The receiver as a whole, fed by a real sender in memory (docs/PROTOCOL.md, sections 4 to 7).

mod bounds;
mod count;
mod harness;
mod repair;
mod resume;
mod signed;
mod watch;

use super::*;
use crate::limits::{BLOCK_SIZE, WAITING_SIZE_MAX};
use crate::manifest::Members;
use crate::sender::Outgoing;
use crate::types::Position;
use harness::{MIB, NO_LIMITS, Sink, Source, at, changed, content, forged, host};

/// Section 4, rules 1 to 5, and the forms of sections 5 and 6.
#[test]
fn malformed_datagram_raises_its_counter_alone() {
    let source = Source::new(content(2 * MIB, &[]), 1408);
    let mut damaged = source.data(0, 0);
    damaged[100] ^= 1;
    let cases = [
        (source.data(0, 0)[..43].to_vec(), DropReason::Short),
        (vec![0; 44 + 8897], DropReason::Long),
        (changed(source.data(0, 0), |bytes| bytes[0] = 0), DropReason::Magic),
        (changed(source.data(0, 0), |bytes| bytes[2] = 2), DropReason::Version),
        (changed(source.data(0, 0), |bytes| bytes[3] = 4), DropReason::Kind),
        (damaged, DropReason::Checksum),
        (changed(source.manifest(), |bytes| bytes.push(0)), DropReason::Manifest),
        (changed(source.hashes(), |bytes| bytes.push(0)), DropReason::Hashes),
        (changed(source.hashes(), |bytes| bytes[44] = 1), DropReason::Tree),
    ];
    for (datagram, reason) in cases {
        Sink::new().drops(host(1), &datagram, reason);
        Sink::prepared(&source).drops(host(1), &datagram, reason);
    }
}

/// Section 4, the rules of data packets.
#[test]
fn data_packet_that_does_not_fit_raises_its_counter_alone() {
    let source = Source::new(content(2 * MIB, &[]), 1408);
    let other = Source::new(content(2 * MIB, &[0]), 1408);
    let small = Source::new(source.content.clone(), 1152);
    let cases = [
        (other.data(1, 0), DropReason::ForeignObject),
        (other.hashes(), DropReason::ForeignObject),
        (other.manifest(), DropReason::ForeignObject),
        (changed(source.data(0, 0), |bytes| bytes[29] ^= 1), DropReason::ForeignObject),
        (small.data(0, 0), DropReason::ForeignSession),
        (changed(source.data(0, 0), |bytes| bytes[5] ^= 2), DropReason::ForeignSession),
        (changed(source.data(0, 0), |bytes| bytes[4] = 255), DropReason::OutOfRange),
        (changed(source.data(0, 0), |bytes| bytes[35] = 2), DropReason::OutOfRange),
        (changed(source.data(0, 0), |bytes| bytes[32] = 255), DropReason::OutOfRange),
        (
            changed(source.data(0, 0), |bytes| bytes[30..32].copy_from_slice(&2980u16.to_be_bytes())),
            DropReason::OutOfRange,
        ),
        (changed(source.data(0, 0), |bytes| bytes.truncate(44 + 1407)), DropReason::WrongSize),
        (changed(source.data(0, 0), |bytes| bytes.push(0)), DropReason::WrongSize),
        (changed(source.data(0, 744), |bytes| bytes.resize(44 + 1408, 0)), DropReason::WrongSize),
        (changed(source.symbol(0, 745), |bytes| bytes.truncate(44 + 1344)), DropReason::WrongSize),
        (changed(source.hashes(), |bytes| bytes[60] ^= 1), DropReason::Unproved),
    ];
    for (datagram, reason) in cases {
        Sink::prepared(&source).drops(host(1), &datagram, reason);
    }
}

#[test]
fn refused_and_too_large_manifests_raise_their_counters_alone_and_are_said_once() {
    let source = Source::new(content(2 * MIB, &[]), 1408);
    let mut sink = Sink::with(ReceiverConfig { size_max: 2 * BLOCK_SIZE - 1, ..NO_LIMITS });
    let refused = changed(source.manifest(), |bytes| bytes[44 + 8 + 40] = b'[');
    for _ in 0..2 {
        sink.drops(host(1), &refused, DropReason::ManifestRefused);
        sink.drops(host(1), &source.manifest(), DropReason::TooLarge);
    }
    sink.drops(host(1), &changed(source.manifest(), |bytes| bytes[12] ^= 1), DropReason::ManifestRefused);
    sink.run(at(0));
    let too_large = Notice::TooLarge { size: source.sender.key().size, size_max: 2 * BLOCK_SIZE - 1 };
    assert_eq!(sink.notices, [Notice::ManifestRefused(Refusal::NotCanonical), too_large]);
}

/// Section 5.2: a packet whose description differs from what the text names is refused.
#[test]
fn description_that_the_text_forbids_is_refused() {
    let pinned = |members: &mut Members| members.symbol_size = SymbolSize::new(1152);
    let source = Source::with_text(content(2 * MIB, &[]), 1408, pinned);
    Sink::new().drops(host(1), &source.manifest(), DropReason::ManifestRefused);
    let source = Source::with_text(content(2 * MIB, &[]), 1152, pinned);
    Sink::prepared(&source);
    let source = Source::with_text(content(2 * MIB, &[]), 1408, |members| members.repair_max = Some(9));
    let percent = |percent: u8| changed(source.manifest(), |bytes| bytes[44 + 13] = percent);
    Sink::new().drops(host(1), &percent(10), DropReason::ManifestRefused);
    assert_eq!(Sink::new().feed(at(0), host(1), &percent(9)), Verdict::Taken);
}

#[test]
fn early_hashes_and_repeated_symbols_raise_their_counters_alone() {
    let source = Source::new(content(2 * MIB, &[]), 1408);
    Sink::new().drops(host(1), &source.hashes(), DropReason::Early);
    let mut sink = Sink::prepared(&source);
    sink.feed(at(0), host(1), &source.data(0, 7));
    sink.drops(host(1), &source.data(0, 7), DropReason::Duplicate);
    sink.drops(host(2), &forged(source.data(0, 7)), DropReason::Duplicate);
    assert_eq!(sink.stores.len(), 1, "of two symbols with equal block and ESI the first is kept");
    sink.feed(at(0), host(1), &source.hashes());
    sink.feed_block(at(0), host(1), &source, 0);
    sink.drops(host(1), &source.data(0, 7), DropReason::Done);
    sink.feed_block(at(0), host(1), &source, 1);
    assert!(sink.is_committed);
    sink.drops(host(1), &source.data(1, 7), DropReason::Done);
    sink.drops(host(1), &source.hashes(), DropReason::Done);
}

#[test]
fn waiting_room_is_bounded() {
    let source = Source::new(content(2 * MIB, &[]), 8896);
    let mut sink = Sink::new();
    let packet = source.data(0, 0);
    for _ in 0..WAITING_SIZE_MAX / packet.len() {
        assert_eq!(sink.take(at(0), host(1), &packet), Verdict::Taken);
    }
    sink.drops(host(1), &packet, DropReason::WaitingFull);
}

/// Section 4: nothing is allocated or written before a manifest is accepted.
#[test]
fn nothing_is_stored_before_the_target_is_ready_and_early_data_counts_afterwards() {
    let source = Source::new(content(3000, &[]), 1408);
    let mut sink = Sink::new();
    assert_eq!(sink.take(at(0), host(1), &source.data(0, 0)), Verdict::Taken);
    assert_eq!(sink.receiver.progress(), Progress::default());
    assert_eq!(sink.take(at(0), host(1), &source.manifest()), Verdict::Taken);
    assert_eq!(sink.take(at(0), host(1), &source.data(0, 2)), Verdict::Taken, "the target is being made");
    assert_eq!((sink.receiver.poll_work(), sink.stores.len()), (None, 0));
    sink.run(at(0));
    assert_eq!(sink.stores.len(), 2);
    sink.feed(at(0), host(1), &source.data(0, 1));
    assert!(sink.is_committed && sink.disk == source.content);
}

#[test]
fn action_names_what_was_accepted() {
    let source = Source::new(content(3000, &[]), 1408);
    let mut receiver = Receiver::new(at(0), NO_LIMITS);
    assert_eq!((receiver.poll_action(), receiver.manifest()), (None, None));
    receiver.handle_datagram(at(0), host(1), &source.manifest());
    let Some(Action::Prepare { manifest, symbol_size, word_count }) = receiver.poll_action() else {
        panic!("no target asked for")
    };
    assert_eq!((manifest.key(), symbol_size.bytes()), (source.sender.key(), 1408));
    assert_eq!(word_count, 16 + 2 + 3, "a header, two marks and three slots");
    assert_eq!(receiver.manifest(), Some(&*manifest));
    assert_eq!(receiver.poll_action(), None, "each is asked for once");
}

#[test]
fn objects_of_all_shapes_are_completed() {
    let objects = [(0, vec![]), (1, vec![]), (1, vec![0]), (MIB, vec![]), (MIB + 1, vec![]), (3 * MIB, vec![1])];
    for (size, zero_blocks) in objects {
        for symbol_size in [512, 1408, 8896] {
            let mut source = Source::new(content(size, &zero_blocks), symbol_size);
            let mut sink = Sink::new();
            sink.complete(at(0), host(1), &mut source);
            assert!(sink.notices.is_empty());
            assert_eq!(sink.receiver.counts().stored, sink.stores.len() as u64);
        }
    }
}

/// Section 2: symbols of blocks that are all zeroes are never sent; their hashes packets say so.
#[test]
fn object_of_zeroes_is_completed_without_data() {
    let mut source = Source::new(content(2 * MIB + 9, &[0, 1, 2]), 1408);
    let mut sink = Sink::new();
    sink.complete(at(0), host(1), &mut source);
    assert!(sink.stores.is_empty());
    assert!(sink.works.iter().all(|work| matches!(work, Work::HashZeroes { .. })) && sink.works.len() == 3);
}

#[test]
fn zero_block_is_cleared_where_something_was_written() {
    let mut source = Source::new(content(2 * MIB, &[1]), 1408);
    let mut sink = Sink::prepared(&source);
    sink.feed(at(0), host(2), &forged(source.data(1, 3)));
    sink.complete(at(0), host(1), &mut source);
    assert!(sink.works.contains(&Work::Clear { block: BlockIndex(1), size: source.sender.key().size }));
}

/// Section 6: a bit of 1 is checked before it is believed, once; one that proves false changes nothing else.
#[test]
fn false_zero_bit_is_checked_once_and_the_block_received() {
    let mut source = Source::new(content(2 * MIB, &[]), 1408);
    let mut sink = Sink::prepared(&source);
    let lie = changed(source.hashes(), |bytes| bytes[44 + 5] = 0b11);
    for _ in 0..3 {
        assert_eq!(sink.feed(at(0), host(2), &lie), Verdict::Taken);
    }
    let size = source.sender.key().size;
    let checked: Vec<_> = (0..2).map(|block| Work::HashZeroes { block: BlockIndex(block), size }).collect();
    assert_eq!(sink.works, checked);
    assert_eq!(sink.receiver.progress().blocks_verified, 0);
    sink.complete(at(0), host(1), &mut source);
    assert!(sink.notices.is_empty());
}

/// A block of which a forged symbol came first: what it is made of is blamed on nobody.
fn sink_with_a_failed_block(source: &Source, first_heard: SocketAddr) -> Sink {
    let mut sink = Sink::new();
    sink.feed(at(0), first_heard, &source.manifest());
    sink.feed(at(0), host(1), &source.hashes());
    sink.feed(at(0), host(2), &forged(source.data(0, 5)));
    sink.feed_block(at(0), host(1), source, 0);
    assert_eq!(sink.notices, [Notice::BlockFailed(BlockIndex(0))]);
    assert_eq!(sink.receiver.counts().blocks_failed, 1);
    assert_eq!(sink.receiver.progress().held, 0, "all symbols of the block are needed again");
    sink
}

/// Section 6, verifying a block.
#[test]
fn block_with_a_forged_symbol_is_received_again_from_one_stream() {
    let mut source = Source::new(content(2 * MIB, &[]), 1408);
    let mut sink = sink_with_a_failed_block(&source, host(1));
    sink.drops(host(2), &forged(source.data(0, 5)), DropReason::Restricted);
    sink.feed(at(0), host(2), &source.data(1, 5));
    assert_eq!(sink.stores.last().map(|store| store.block), Some(BlockIndex(1)), "other blocks take all streams");
    sink.feed_block(at(0), host(1), &source, 0);
    assert_eq!(sink.receiver.progress().blocks_verified, 1);
    sink.complete(at(0), host(1), &mut source);
}

#[test]
fn stream_that_forges_in_its_turn_loses_it_to_the_next() {
    let source = Source::new(content(2 * MIB, &[]), 1408);
    let mut sink = sink_with_a_failed_block(&source, host(2));
    sink.drops(host(1), &source.data(0, 5), DropReason::Restricted);
    for esi in 0..source.symbol_count(0) {
        sink.feed(at(1), host(2), &forged(source.data(0, esi)));
    }
    assert_eq!(sink.receiver.counts().blocks_failed, 2);
    sink.drops(host(2), &forged(source.data(0, 5)), DropReason::Restricted);
    sink.feed_block(at(1), host(1), &source, 0);
    assert_eq!(sink.receiver.progress().blocks_verified, 1);
}

#[test]
fn stream_that_falls_silent_in_its_turn_loses_it() {
    let source = Source::new(content(2 * MIB, &[]), 1408);
    let mut sink = sink_with_a_failed_block(&source, host(2));
    assert_eq!(sink.feed(at(2), host(1), &source.data(0, 5)), Verdict::Dropped(DropReason::Restricted));
    sink.feed_block(at(3), host(1), &source, 0);
    assert_eq!(sink.receiver.progress().blocks_verified, 1);
}

/// A source of the same id and size with a manifest that names another digest.
fn rival(source: &Source, number: u8) -> Vec<u8> {
    let mut digest = source.digest;
    digest.0[31] ^= number;
    Source::with_text(source.content.clone(), 1408, |members| members.digest = digest).manifest()
}

/// Section 5.4: at least four texts are candidates, and the first that a proof meets is accepted.
#[test]
fn proof_decides_between_manifests_of_the_same_id_and_size() {
    for (size, rivals) in [(2 * MIB, 3), (3000, 3), (2 * MIB, 9)] {
        let mut source = Source::new(content(size, &[]), 1408);
        let mut sink = Sink::new();
        for number in 1..=rivals {
            assert_eq!(sink.feed(at(0), host(2), &rival(&source, number)), Verdict::Taken);
        }
        assert_ne!(sink.receiver.manifest().unwrap().digest, source.digest);
        sink.complete(at(0), host(1), &mut source);
        assert_eq!(sink.receiver.manifest().unwrap().digest, source.digest);
        // A rival that comes after the proof changes nothing.
        sink.feed(at(0), host(2), &rival(&source, 77));
        assert_eq!(sink.receiver.manifest().unwrap().digest, source.digest);
    }
}

#[test]
fn value_of_a_block_is_told_when_it_is_verified_and_not_before() {
    let mut source = Source::new(content(2 * MIB + 77, &[1]), 1408);
    let mut sink = Sink::prepared(&source);
    let told = |sink: &Sink| (0..4).map(|block| sink.receiver.verified_value(BlockIndex(block))).collect::<Vec<_>>();
    assert_eq!(told(&sink), [None; 4]);
    let value = |block: u32| {
        let size = ObjectSize::new(source.content.len() as u64).unwrap();
        let bytes = source.content.chunks(MIB).nth(block as usize)?;
        Some(crate::digest::block_value(size, BlockIndex(block), bytes))
    };
    let expected: Vec<_> = (0..4).map(value).collect();
    assert_eq!(sink.feed(at(0), host(1), &source.hashes()), Verdict::Taken);
    assert_eq!(told(&sink), [None, expected[1], None, None], "zeroes need no data");
    sink.complete(at(0), host(1), &mut source);
    assert_eq!(told(&sink), expected);

    // An object of one block has no value but its digest.
    let mut source = Source::new(content(5000, &[]), 1408);
    let mut sink = Sink::prepared(&source);
    assert_eq!(sink.receiver.verified_value(BlockIndex(0)), None);
    sink.complete(at(0), host(1), &mut source);
    assert_eq!(sink.receiver.verified_value(BlockIndex(0)), Some(source.digest));
}

/// Section 5.4: hashes packets alone never complete an object, and a rival's do not prove anything.
#[test]
fn false_digest_alone_is_never_complete() {
    let mut source = Source::new(content(2 * MIB, &[]), 1408);
    let mut sink = Sink::new();
    sink.feed(at(0), host(2), &rival(&source, 1));
    let _manifest: Vec<u8> = source.next(at(0));
    for _ in 0..1490 {
        let packet = source.next(at(0));
        // Only the data and the hashes come, of which the latter prove nothing to the rival.
        if packet[3] != 2 {
            sink.feed(at(0), host(1), &packet);
        }
    }
    assert!(sink.receiver.counts().dropped(DropReason::Unproved) > 0);
    assert!(!sink.is_committed && sink.receiver.progress().blocks_verified == 0 && sink.works.is_empty());
}

/// Section 5.1: the allowance of a description that leads nowhere.
#[test]
fn forged_symbol_size_is_given_up_for_the_true_one() {
    let mut source = Source::new(content(2 * MIB, &[]), 1408);
    let forged = Source::new(source.content.clone(), 1152);
    let mut sink = Sink::prepared(&forged);
    sink.feed(at(0), host(2), &forged.data(0, 0));
    let packets = sink.complete(at(0), host(1), &mut source);
    assert_eq!(sink.notices, [Notice::SessionChanged(SymbolSize::new(1408).unwrap())]);
    assert!(packets < 2 * 1490 + 1490 + 100, "one and a half objects in vain, one to be received: {packets}");
}

/// Section 5.1: no packet of the one in use for 5 s while another's come. Verified blocks are kept.
#[test]
fn silent_description_is_given_up_and_its_verified_blocks_are_kept() {
    let source = Source::new(content(3 * MIB, &[]), 1152);
    let mut sink = Sink::prepared(&source);
    sink.feed(at(0), host(1), &source.hashes());
    sink.feed_block(at(0), host(1), &source, 0);
    sink.feed(at(0), host(1), &source.data(1, 0));
    assert_eq!(sink.receiver.progress().held, BLOCK_SIZE + 1152);
    let mut successor = Source::new(source.content.clone(), 1408);
    sink.feed(at(4), host(1), &successor.manifest());
    sink.feed(at(5), host(1), &successor.data(1, 0));
    assert_eq!(sink.receiver.progress().held, BLOCK_SIZE + 1152, "five seconds are not yet over");
    sink.feed(at(6), host(1), &successor.data(1, 0));
    assert_eq!(sink.receiver.progress().held, BLOCK_SIZE, "symbols of another size are of no use");
    sink.complete(at(6), host(1), &mut successor);
    let first = BlockIndex(0);
    assert!(sink.works.iter().filter(|work| matches!(work, Work::Hash { block, .. } if *block == first)).count() == 1);
}

#[test]
fn lone_description_is_never_given_up() {
    let source = Source::new(content(2 * MIB, &[]), 1408);
    let stranger = Source::new(source.content.clone(), 1152);
    let mut sink = Sink::prepared(&source);
    sink.feed(at(0), host(1), &source.data(0, 0));
    for second in 0..20 {
        for esi in 0..900 {
            sink.feed(at(second), host(2), &stranger.data(0, esi));
        }
    }
    assert_eq!((sink.notices.len(), sink.receiver.progress().held), (0, 1408));
}

#[test]
fn object_that_is_replaced_by_another_is_given_up() {
    let source = Source::new(content(2 * MIB, &[]), 1408);
    let other = Source::new(content(2 * MIB, &[1]), 1408);
    let mut sink = Sink::prepared(&source);
    let mut receiver = sink.receiver;
    receiver.handle_datagram(at(20), host(1), &other.data(0, 0));
    receiver.handle_timeout(at(29));
    assert_eq!(receiver.poll_action(), None);
    receiver.handle_timeout(at(30));
    let (accepted, other) = (source.sender.key(), other.sender.key());
    assert_eq!(receiver.poll_action(), Some(Action::GiveUp(GiveUp::Superseded { accepted, other })));
    receiver.handle_timeout(at(40));
    assert_eq!((receiver.poll_action(), receiver.poll_timeout()), (None, None), "said once");
    // Another object that fell silent as well is no reason.
    sink = Sink::prepared(&source);
    sink.take(at(14), host(1), &Source::new(content(2 * MIB, &[1]), 1408).manifest());
    sink.receiver.handle_timeout(at(30));
    assert_eq!(sink.receiver.poll_action(), None);
}

#[test]
fn time_limits_end_the_transfer() {
    let config = ReceiverConfig {
        timeout: Some(Duration::from_secs(100)),
        idle_timeout: Some(Duration::from_secs(7)),
        ..NO_LIMITS
    };
    let source = Source::new(content(2 * MIB, &[]), 1408);
    let mut receiver = Receiver::new(at(0), config);
    for second in (4..=96).step_by(4) {
        receiver.handle_datagram(at(second), host(1), &source.data(0, 0));
        receiver.handle_timeout(at(second));
    }
    assert_eq!(receiver.poll_timeout(), Some(at(100)));
    receiver.handle_timeout(at(100));
    assert_eq!(receiver.poll_action(), Some(Action::GiveUp(GiveUp::Timeout)));

    let mut receiver = Receiver::new(at(0), config);
    receiver.handle_datagram(at(1), host(1), b"not a packet of ours");
    receiver.handle_timeout(at(5));
    assert_eq!((receiver.poll_action(), receiver.poll_timeout()), (None, Some(at(7))));
    receiver.handle_timeout(at(7));
    assert_eq!(receiver.poll_action(), Some(Action::GiveUp(GiveUp::IdleTimeout)));
}

#[test]
fn silence_and_its_end_are_said_once_each() {
    let source = Source::new(content(2 * MIB, &[]), 1408);
    let mut receiver = Receiver::new(at(0), NO_LIMITS);
    assert_eq!(receiver.poll_timeout(), Some(at(5)));
    for second in 4..9 {
        receiver.handle_timeout(at(second));
    }
    assert_eq!((receiver.poll_notice(), receiver.poll_notice()), (Some(Notice::Silent), None));
    receiver.handle_datagram(at(9), host(1), &source.data(0, 0));
    receiver.handle_datagram(at(9), host(1), &source.data(0, 1));
    assert_eq!((receiver.poll_notice(), receiver.poll_notice()), (Some(Notice::HeardAgain), None));
    assert_eq!(receiver.poll_timeout(), Some(at(14)));
}

#[test]
fn symbol_that_could_not_be_written_is_taken_again() {
    let mut source = Source::new(content(MIB + 1, &[]), 1408);
    let mut sink = Sink::prepared(&source);
    let packet = source.data(0, 9);
    let Verdict::Store(store) = sink.receiver.handle_datagram(at(0), host(1), &packet) else { panic!("not stored") };
    assert_eq!(sink.receiver.progress().held, 1408);
    sink.receiver.handle_store_failed(&store);
    assert_eq!(sink.receiver.progress().held, 0);
    assert!(matches!(sink.feed(at(0), host(1), &packet), Verdict::Store(_)));
    sink.complete(at(0), host(1), &mut source);
}

#[test]
fn block_is_looked_at_only_when_all_its_symbols_are_written() {
    let source = Source::new(content(3000, &[]), 1408);
    let mut sink = Sink::prepared(&source);
    let verdicts = (0..3).map(|esi| sink.receiver.handle_datagram(at(0), host(1), &source.data(0, esi)));
    let stores: Vec<_> =
        verdicts.filter_map(|verdict| if let Verdict::Store(store) = verdict { Some(store) } else { None }).collect();
    assert_eq!(sink.receiver.poll_work(), None);
    sink.receiver.handle_stored(&stores[..2]);
    assert_eq!(sink.receiver.poll_work(), None);
    sink.receiver.handle_stored(&stores[2..]);
    assert_eq!(sink.receiver.poll_work(), Some(Work::Hash { block: BlockIndex(0), size: source.sender.key().size }));
    sink.receiver.handle_hashed(at(0), BlockIndex(0), None);
    assert_eq!(sink.receiver.poll_notice(), Some(Notice::BlockFailed(BlockIndex(0))), "it could not be read");
    assert!(matches!(sink.feed(at(0), host(1), &source.data(0, 0)), Verdict::Store(_)));
}

/// However many others wait before it, and those go on waiting.
#[test]
fn value_that_is_known_already_is_not_asked_for() {
    let source = Source::new(content(3 * MIB, &[]), 1408);
    let mut sink = Sink::prepared(&source);
    sink.feed(at(0), host(1), &source.hashes());
    let store_all = |sink: &mut Sink, block| {
        let verdicts = (0..745).map(|esi| sink.receiver.handle_datagram(at(0), host(1), &source.data(block, esi)));
        let stores: Vec<_> = verdicts
            .filter_map(|verdict| if let Verdict::Store(store) = verdict { Some(store) } else { None })
            .collect();
        assert!(!sink.receiver.take_hash_work(BlockIndex(block)), "nothing of it is stored");
        sink.receiver.handle_stored(&stores);
    };
    (0..3).for_each(|block| store_all(&mut sink, block));
    assert!(sink.receiver.take_hash_work(BlockIndex(2)));
    assert!(!sink.receiver.take_hash_work(BlockIndex(2)), "it has been taken");
    let value = crate::digest::block_value(source.sender.key().size, BlockIndex(2), &source.content[2 * MIB..]);
    sink.receiver.handle_hashed(at(0), BlockIndex(2), Some(value));
    assert_eq!(sink.receiver.progress().blocks_verified, 1);
    let size = source.sender.key().size;
    for block in [BlockIndex(0), BlockIndex(1)] {
        assert_eq!(sink.receiver.poll_work(), Some(Work::Hash { block, size }));
        assert!(!sink.receiver.take_hash_work(block), "it is under way");
    }
    assert_eq!(sink.receiver.poll_work(), None);
}

#[test]
fn right_blocks_of_a_reused_target_are_not_received_again() {
    let mut source = Source::new(content(3 * MIB, &[2]), 1408);
    let mut sink = Sink::new();
    sink.is_reused = true;
    sink.disk = source.content.clone();
    sink.disk[MIB + 77] ^= 1;
    sink.disk[2 * MIB + 5] = 1;
    sink.complete(at(0), host(1), &mut source);
    assert!(sink.stores.iter().all(|store| store.block == BlockIndex(1)));
    assert_eq!(sink.stores.len(), 745);
    assert!(sink.notices.is_empty(), "a block that was wrong before is no failure");
    assert!(sink.receiver.counts().dropped(DropReason::Done) >= 745, "block 0 came, and was not needed");

    let mut source = Source::new(content(3000, &[]), 1408);
    let mut sink = Sink::new();
    (sink.is_reused, sink.disk) = (true, source.content.clone());
    assert_eq!(sink.complete(at(0), host(1), &mut source), 1, "the manifest is enough");
}

#[test]
fn missing_ranges_are_joined_and_end_with_the_object() {
    let source = Source::new(content(4 * MIB + 10, &[]), 1408);
    let mut sink = Sink::new();
    assert_eq!(sink.receiver.missing().count(), 0, "nothing is known to be missing");
    sink.feed(at(0), host(1), &source.manifest());
    sink.feed(at(0), host(1), &source.hashes());
    let (mib, end) = (BLOCK_SIZE, 4 * BLOCK_SIZE + 10);
    assert!(sink.receiver.missing().eq([(0, end)]));
    sink.feed_block(at(0), host(1), &source, 1);
    assert!(sink.receiver.missing().eq([(0, mib), (2 * mib, end)]));
    sink.feed_block(at(0), host(1), &source, 4);
    assert!(sink.receiver.missing().eq([(0, mib), (2 * mib, 4 * mib)]));
    sink.feed_block(at(0), host(1), &source, 0);
    assert!(sink.receiver.missing().eq([(2 * mib, 4 * mib)]));
}

#[test]
fn streams_are_kept_account_of() {
    let source = Source::new(content(2 * MIB, &[]), 1408);
    let mut sink = Sink::prepared(&source);
    for position in [3, 4, 7] {
        let outgoing = Outgoing::Data {
            position: Position::new(position).unwrap(),
            block: BlockIndex(0),
            esi: Esi(position as u16),
        };
        sink.feed(at(0), host(3), &source.packet(&outgoing));
    }
    let entries: Vec<_> = sink.receiver.senders().iter().map(|entry| (entry.addr, entry.loss.lost)).collect();
    assert_eq!(entries, [(host(1), 0), (host(3), 2)]);
}
