//! The packets that a receiver takes.

use serde_json::{Value, json};

use super::objects::Object;
use super::packets::{Entry, Manifest, Packet, data, hashes, repair, text};
use super::{Objects, Vector};

/// C of section 7, for one channel without repair symbols.
pub(crate) fn cycle_length(object: &Object, symbol_size: u16) -> u64 {
    cycle_length_with(object, symbol_size, 0)
}

/// C of section 7, for one channel and one window.
fn cycle_length_with(object: &Object, symbol_size: u16, percent: usize) -> u64 {
    let blocks = object.bytes.chunks(1 << 20).enumerate();
    let sent = blocks.filter(|(block, _)| object.block_count() == 1 || !object.zero_blocks.contains(block));
    let source = sent.map(|(_, bytes)| bytes.len().div_ceil(usize::from(symbol_size)));
    let round: usize = source.map(|count| count + (count * percent).div_ceil(100)).sum();
    if round == 0 { 0 } else { (round * 4096_usize.div_ceil(round)) as u64 }
}

/// The simplest manifest of an object.
pub(crate) fn plain_manifest(object: &Object, symbol_size: u16) -> Manifest {
    let entry = Entry::own(0, cycle_length(object, symbol_size));
    Manifest::new(symbol_size, entry, text(object, "", "", ""))
}

fn vector(name: &str, object: &Object, before: Option<&str>, packet: &Packet, payload: Value) -> Vector {
    let json = json!({
        "accepted": true,
        "object": super::object_json(object),
        "accepted_before": before,
        "header": packet.header_json(),
        "payload": payload,
    });
    Vector { name: name.to_owned(), datagram: packet.datagram(), json }
}

pub(crate) fn all(objects: &Objects) -> Vec<Vector> {
    let mut vectors = manifests(objects);
    vectors.extend(special_manifests(objects));
    vectors.extend(data_packets(objects));
    vectors.extend(repair_packets(objects));
    vectors.extend(hashes_packets(objects));
    vectors
}

fn manifests(objects: &Objects) -> Vec<Vector> {
    let plain = [
        ("manifest-empty", "empty", 1408),
        ("manifest-one", "one", 1408),
        ("manifest-small-512", "small", 512),
        ("manifest-small-1152", "small", 1152),
        ("manifest-small-1408", "small", 1408),
        ("manifest-small-8896", "small", 8896),
        ("manifest-block", "block", 1408),
        ("manifest-two", "two", 1408),
        ("manifest-three", "three", 1408),
        ("manifest-seventeen", "seventeen", 1408),
        ("manifest-zeroes", "zeroes", 1408),
    ];
    let vector_of = |(name, object, symbol_size): (&str, &str, u16)| {
        let object = objects.get(object);
        let manifest = plain_manifest(object, symbol_size);
        vector(name, object, None, &manifest.packet(object), manifest.json())
    };
    plain.into_iter().map(vector_of).collect()
}

fn special_manifests(objects: &Objects) -> Vec<Vector> {
    let object = objects.get("three");
    let of = |name: &str, manifest: Manifest, change: fn(&mut Packet)| {
        let mut packet = manifest.packet(object);
        change(&mut packet);
        vector(name, object, None, &packet, manifest.json())
    };
    let plain = plain_manifest(object, 1408);
    let full = text(
        object,
        "",
        ",\"code\":1,\"compatible\":\"board \\\"A\\\" \u{e9}\",\"created\":1700000000,\
         \"critical\":[\"code\",\"expires\",\"symbol_size\"],\"expires\":1800000000",
        &format!(",\"symbol_size\":1408,\"tags\":\"{}\",\"version\":9007199254740991", "0123456789abcdef".repeat(4)),
    )
    .replace(",\"size\"", ",\"repair_max\":50,\"size\"");
    let channels = vec![
        Entry::of(0, "232.1.1.1", 1500, 4470, 100_000_000),
        Entry::of(7, "239.255.255.255", 65_535, 4096, 0),
        Entry::of(254, "ff3e::8000:1", 1501, 5960, (1 << 48) - 1),
        Entry::own(1, 0),
        Entry::of(255, "ff12::10:7d", 1, 0, 1),
    ];
    // 74 bytes, a trusted comment of 21, 64 bytes: the shape of a signature, the contents of none.
    let signature: Vec<u8> =
        b"ED".iter().copied().chain(1..=72).chain(*b"timestamp:1700000000!").chain(100..164).collect();
    vec![
        of("manifest-all-members", Manifest { text: full.into_bytes(), percent: 50, ..plain.clone() }, |_| {}),
        of("manifest-five-channels", Manifest { channels, ..plain.clone() }, |packet| packet.fields.channel = 1),
        of("manifest-control-channel", Manifest { channels: vec![Entry::own(255, 0)], ..plain.clone() }, |packet| {
            packet.fields.channel = 255;
        }),
        of("manifest-longer-description", Manifest { trailing: (0..40).collect(), ..plain.clone() }, |_| {}),
        of(
            "manifest-unknown-members",
            Manifest {
                text: text(object, "\"a\":[1,{\"b\":null}],", ",\"later\":\"\\u0001\\n\"", ",\"z\":-5").into_bytes(),
                ..plain.clone()
            },
            |_| {},
        ),
        of("manifest-signature-shape", Manifest { signature, ..plain.clone() }, |_| {}),
        of("manifest-reserved-bits", plain.clone(), |packet| {
            packet.fields.reserved = 1;
            packet.payload[6..8].copy_from_slice(&[0xff, 0xff]);
            packet.payload[14..16].copy_from_slice(&[0xff, 0xff]);
        }),
    ]
}

fn data_packets(objects: &Objects) -> Vec<Vector> {
    // Name, manifest, object, S, position, block, ESI. Block 1 of "three" is all zeroes and takes no positions.
    let packets = [
        ("data-one-byte", "manifest-one", "one", 1408, 0, 0, 0),
        ("data-one-byte-last-position", "manifest-one", "one", 1408, 4095, 0, 0),
        ("data-size-512", "manifest-small-512", "small", 512, 3, 0, 3),
        ("data-size-512-short", "manifest-small-512", "small", 512, 5, 0, 5),
        ("data-size-1152", "manifest-small-1152", "small", 1152, 1, 0, 1),
        ("data-size-1408-short", "manifest-small-1408", "small", 1408, 2, 0, 2),
        ("data-size-8896-short", "manifest-small-8896", "small", 8896, 0, 0, 0),
        ("data-single-block-last", "manifest-block", "block", 1408, 744, 0, 744),
        ("data-first", "manifest-three", "three", 1408, 0, 0, 0),
        ("data-middle", "manifest-three", "three", 1408, 372, 0, 372),
        ("data-block-end-short", "manifest-three", "three", 1408, 744, 0, 744),
        ("data-after-zero-block", "manifest-three", "three", 1408, 745, 2, 0),
        ("data-last", "manifest-three", "three", 1408, 1489, 2, 744),
        ("data-second-round", "manifest-three", "three", 1408, 1490, 0, 0),
        ("data-last-position", "manifest-three", "three", 1408, 4469, 2, 744),
        ("data-outside-cycle", "manifest-three", "three", 1408, (1 << 48) - 1, 0, 1),
        ("data-last-block-one-byte", "manifest-two", "two", 1408, 745, 1, 0),
        ("data-last-block-of-seventeen", "manifest-seventeen", "seventeen", 1408, 10_433, 16, 3),
    ];
    let vector_of = |(name, before, object, symbol_size, position, block, esi)| {
        let object = objects.get(object);
        let (packet, payload) = data(object, symbol_size, position, block, esi);
        vector(name, object, Some(before), &packet, payload)
    };
    let mut vectors: Vec<_> = packets.into_iter().map(vector_of).collect();
    let object = objects.get("three");
    let (mut packet, payload) = data(object, 1408, 9, 0, 9);
    packet.fields.channel = 254;
    packet.fields.reserved = 1;
    vectors.push(vector("data-channel-254-reserved-bit", object, Some("manifest-three"), &packet, payload));
    vectors
}

/// Repair symbols, each after a manifest that says 50 %, which bounds nothing.
fn repair_packets(objects: &Objects) -> Vec<Vector> {
    let manifests = [
        ("manifest-repair-one", "one", 1408),
        ("manifest-repair-small", "small", 1408),
        ("manifest-repair-block-512", "block", 512),
        ("manifest-repair-block-8896", "block", 8896),
        ("manifest-repair-two", "two", 1408),
        ("manifest-repair-three", "three", 1408),
        ("manifest-repair-seventeen", "seventeen", 1408),
    ];
    let manifest_of = |(name, object, symbol_size): (&str, &str, u16)| {
        let object = objects.get(object);
        let entry = Entry::own(0, cycle_length_with(object, symbol_size, 50));
        let manifest = Manifest { percent: 50, ..Manifest::new(symbol_size, entry, text(object, "", "", "")) };
        vector(name, object, None, &manifest.packet(object), manifest.json())
    };
    // Name, manifest, object, S, position, block, number of the repair symbol.
    let packets = [
        ("repair-one-symbol-block", "manifest-repair-one", "one", 1408, 1, 0, 0),
        ("repair-one-symbol-block-last", "manifest-repair-one", "one", 1408, 4095, 0, 2),
        ("repair-small-first", "manifest-repair-small", "small", 1408, 3, 0, 0),
        ("repair-small-second", "manifest-repair-small", "small", 1408, 4, 0, 1),
        ("repair-small-last", "manifest-repair-small", "small", 1408, (1 << 48) - 1, 0, 8),
        ("repair-block-512-first", "manifest-repair-block-512", "block", 512, 2048, 0, 0),
        ("repair-block-512-last", "manifest-repair-block-512", "block", 512, (1 << 48) - 1, 0, 6143),
        ("repair-block-8896-last", "manifest-repair-block-8896", "block", 8896, 176, 0, 58),
        ("repair-last-block-one-byte", "manifest-repair-two", "two", 1408, 17, 1, 0),
        ("repair-after-zero-block", "manifest-repair-three", "three", 1408, 2235, 2, 372),
        ("repair-beyond-padding", "manifest-repair-three", "three", 1408, (1 << 48) - 1, 0, 1024),
        ("repair-last-block-of-seventeen", "manifest-repair-seventeen", "seventeen", 1408, 229, 16, 1),
    ];
    let vector_of = |(name, before, object, symbol_size, position, block, number)| {
        let object = objects.get(object);
        let (packet, payload) = repair(object, symbol_size, position, block, number);
        vector(name, object, Some(before), &packet, payload)
    };
    manifests.into_iter().map(manifest_of).chain(packets.into_iter().map(vector_of)).collect()
}

fn hashes_packets(objects: &Objects) -> Vec<Vector> {
    // Name, object, first block, g.
    let packets = [
        ("hashes-two", "two", 0, 4),
        ("hashes-three-zero-bit", "three", 0, 4),
        ("hashes-three-g1-right-edge", "three", 2, 1),
        ("hashes-seventeen-first-zero-bits", "seventeen", 0, 4),
        ("hashes-seventeen-right-edge", "seventeen", 16, 4),
        ("hashes-seventeen-g3-second", "seventeen", 8, 3),
        ("hashes-seventeen-g3-right-edge", "seventeen", 16, 3),
        ("hashes-seventeen-g2", "seventeen", 4, 2),
        ("hashes-seventeen-g0", "seventeen", 5, 0),
        ("hashes-seventeen-g0-zero-bit", "seventeen", 9, 0),
        ("hashes-seventeen-g0-right-edge", "seventeen", 16, 0),
        ("hashes-zeroes-all-bits", "zeroes", 0, 4),
    ];
    let vector_of = |(name, object, first, log2)| {
        let object = objects.get(object);
        let (packet, payload) = hashes(object, 1408, first, log2);
        vector(name, object, Some(&format!("manifest-{}", object.name)), &packet, payload)
    };
    let mut vectors: Vec<_> = packets.into_iter().map(vector_of).collect();
    let object = objects.get("seventeen");
    let (mut packet, mut payload) = hashes(object, 1408, 0, 4);
    // A bit that claims nothing true: the values are proven all the same, and the bit proves false.
    packet.payload[5] |= 1;
    payload["zero_bits"] = json!(u16::from_be_bytes([packet.payload[4], packet.payload[5]]));
    vectors.push(vector("hashes-seventeen-false-zero-bit", object, Some("manifest-seventeen"), &packet, payload));
    let (mut packet, payload) = hashes(object, 1408, 0, 4);
    (packet.fields.size_tag, packet.fields.code, packet.fields.reserved) = (5, 7, 1);
    packet.payload[3] = 0xff;
    packet.payload[6..8].copy_from_slice(&[0xff, 0xff]);
    vectors.push(vector("hashes-ignored-fields", object, Some("manifest-seventeen"), &packet, payload));
    vectors
}
