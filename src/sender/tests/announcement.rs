//! The manifest packet for those who only wait for news (docs/PROTOCOL.md, section 8.1).

use super::*;

/// Section 8.1: text and signature are those of the session, channel 255 is this packet's, and channel 0 is elsewhere.
#[test]
fn announcement_says_where_the_data_is() {
    for group in ["239.1.2.3:4242", "[ff12::42]:99"] {
        let group = group.parse().unwrap();
        let config = SenderConfig {
            manifest_signature: vec![7; 138],
            pacing: Pacing::Rate(RateBps::new(5_000_000).unwrap()),
            ..config()
        };
        let sender = Sender::new(tree_of(b"object"), &config).unwrap();
        let packet = sender.announcement(&config, group).unwrap();
        let (header, Packet::Manifest(said)) = parse(&packet).unwrap() else { panic!("a manifest") };
        let (_, Packet::Manifest(session)) = parse(&sender.manifest_packet).unwrap() else { panic!("a manifest") };
        assert_eq!((header.channel, header.key), (ChannelId::CONTROL, sender.key()));
        assert_eq!((said.text, said.signature), (session.text, session.signature));
        let [data, control] = *said.description.channels() else { panic!("two channels") };
        let [direct] = *session.description.channels() else { panic!("one channel") };
        assert_eq!(data, ChannelEntry { group: Some((group.ip(), group.port())), ..direct });
        let nothing = ChannelEntry { channel: ChannelId::CONTROL, group: None, cycle_length: 0, rate: None };
        assert_eq!((control, data.rate.map(RateBps::bits_per_second)), (nothing, Some(5_000_000)));
        let tight = SenderConfig { payload_size_max: u32::try_from(packet.len() - HEADER_SIZE - 1).unwrap(), ..config };
        assert!(matches!(sender.announcement(&tight, group), Err(Unsendable::ManifestTooLarge { .. })));
    }
}
