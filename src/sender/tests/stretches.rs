//! Several data packets handed out at once.

use proptest::prelude::*;

use super::*;

/// What a stretch stands for, one by one.
fn packets_of(step: WideStep, carousel: &Carousel) -> Vec<Step> {
    let WideStep::SendStretch(stretch) = step else {
        let WideStep::Other(step) = step else { unreachable!("there are two") };
        return vec![step];
    };
    let sizes = |place| if place + 1 == stretch.count { stretch.last_size } else { stretch.size };
    let packet = |place| {
        let position = stretch.first.value() + place;
        let (block, esi) = carousel.symbol_at(position);
        let size = HEADER_SIZE + usize::from(carousel.layout().payload_size(block, esi).unwrap());
        assert_eq!(sizes(place), size, "{stretch:?}");
        Step::Send(Outgoing::Data { position: Position::new(position).unwrap(), block, esi })
    };
    assert!(stretch.last_size <= stretch.size);
    (0..stretch.count).map(packet).collect()
}

fn any_pacing() -> impl Strategy<Value = Pacing> {
    let rate = |rate| Pacing::Rate(RateBps::new(rate).unwrap());
    prop_oneof![
        Just(Pacing::Unpaced),
        (10_000_000u64..1_000_000_000).prop_map(rate),
        (1_000_000_000u64..200_000_000_000).prop_map(rate),
        (1u64..200_000).prop_map(|nanos| Pacing::PacketDelay(Duration::from_nanos(nanos))),
    ]
}

#[test]
fn stretch_ends_where_a_manifest_packet_is_due() {
    for share in [Share::WHOLE, Share::new(0, 4).unwrap()] {
        let config = SenderConfig { fec: Fec::OFF, pacing: Pacing::Unpaced, passes: None, ..config() };
        // A single block: no hashes packet ends a stretch.
        let bytes = content(MIB, &[]);
        let mut sender = Sender::with_share(tree_of(&bytes), &config, share).unwrap();
        let (mut now, mut since, mut manifests) = (Time::default(), 0, 0);
        for _ in 0..500 {
            match sender.poll_stretch(now, bytes.as_slice(), 300) {
                WideStep::SendStretch(stretch) => since += stretch.count,
                WideStep::Other(Step::Send(Outgoing::Manifest)) => {
                    assert!(manifests == 0 || since == MANIFEST_EVERY / u64::from(share.count()), "{since}");
                    (since, manifests) = (0, manifests + 1);
                }
                WideStep::Other(_) => {}
            }
            // A manifest packet may go again at once.
            now = now.after(Duration::from_millis(2));
        }
        assert!(manifests > 50);
    }
}

proptest! {
    /// Whoever asks for stretches gets the same packets at the same times as whoever asks for packets.
    #[test]
    fn stretches_are_the_packets_that_would_go_one_by_one(
        size in 1usize..3 * MIB + 5000, percent in 0u16..=60, run in 1u16..50, window in prop::option::of(1u64..4), share in 0u32..3,
        passes in prop::option::of(1u64..4), pacing in any_pacing(),
        count_max in 1u64..300, ready_every in 1usize..400,
    ) {
        let window_size = window.map(|blocks| blocks << 20);
        let config = SenderConfig { fec: Fec { percent, run, window_size }, pacing, passes, ..config() };
        let bytes = content(size, &[1]);
        let share = Share::new(share % 2, 1 + share.min(1)).unwrap();
        let mut by_stretches = Sender::with_share(tree_of(&bytes), &config, share).unwrap();
        let mut one_by_one = Sender::with_share(tree_of(&bytes), &config, share).unwrap();
        let mut coded = Coded::new(bytes, by_stretches.carousel());
        let (mut now, mut longest) = (Time::default(), 0);
        for turn in 0..2000 {
            coded.ready_count = (turn / ready_every).min(coded.repair.len());
            let step = by_stretches.poll_stretch(now, &coded, count_max);
            let steps = packets_of(step, one_by_one.carousel());
            prop_assert!(steps.len() as u64 <= count_max);
            longest = longest.max(steps.len());
            for step in steps {
                prop_assert_eq!(one_by_one.poll_with(now, &coded), step);
            }
            prop_assert_eq!(by_stretches.counts(), one_by_one.counts());
            match step {
                WideStep::Other(Step::Done) => break,
                WideStep::Other(Step::Wait(due)) => now = due,
                // Long enough for a manifest packet to become due, now and then.
                _ if turn % 50 == 49 => now = now.after(Duration::from_millis(2)),
                _ => now = now.after(Duration::from_nanos(turn as u64 % 7 * 100)),
            }
        }
        let has_long_blocks = size >= 200 * 1408 && percent == 0 && pacing == Pacing::Unpaced && passes.is_none();
        prop_assert!(longest > 30.min(count_max as usize - 1) || !has_long_blocks, "{longest}");
    }
}
