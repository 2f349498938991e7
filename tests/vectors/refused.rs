//! The packets that a receiver drops, each for one broken rule. All but the checksum's own vectors have a right checksum.

use serde_json::{Value, json};

use super::accepted::plain_manifest;
use super::objects::Object;
use super::packets::{Entry, Manifest, Packet, data, hashes, text};
use super::{Objects, Vector};

/// What a refused packet says of itself: name, the rule of docs/PROTOCOL.md, the receiver's counter.
type Case<'a> = (&'a str, &'a str, &'a str);

fn vector(case: Case<'_>, object: &Object, before: Option<&str>, header: Value, datagram: Vec<u8>) -> Vector {
    let (name, rule, counter) = case;
    let json = json!({
        "accepted": false,
        "object": super::object_json(object),
        "accepted_before": before,
        "rule": rule,
        "counter": counter,
        "header": header,
        "datagram_size": datagram.len(),
    });
    Vector { name: format!("refused-{name}"), datagram, json }
}

pub(crate) fn all(objects: &Objects) -> Vec<Vector> {
    let mut vectors = headers(objects);
    vectors.extend(data_packets(objects));
    vectors.extend(manifest_shapes(objects));
    vectors.extend(descriptions(objects));
    vectors.extend(channel_entries(objects));
    vectors.extend(texts(objects));
    vectors.extend(hashes_packets(objects));
    vectors.extend(false_proofs(objects));
    vectors
}

fn headers(objects: &Objects) -> Vec<Vector> {
    let object = objects.get("one");
    let (base, _) = data(object, 1408, 7, 0, 0);
    let raw = |case, datagram| vector(case, object, None, Value::Null, datagram);
    let of = |case, change: fn(&mut Packet)| {
        let mut packet = base.clone();
        change(&mut packet);
        vector(case, object, None, packet.header_json(), packet.datagram())
    };
    let flipped = |case, byte: usize| {
        let mut datagram = base.datagram();
        datagram[byte] ^= 1;
        vector(case, object, None, base.header_json(), datagram)
    };
    let whole = {
        let mut zeroed = base.datagram_with(0);
        let sum = xxhash_rust::xxh3::xxh3_64(&zeroed);
        zeroed[36..44].copy_from_slice(&sum.to_be_bytes());
        zeroed
    };
    vec![
        raw(("no-bytes", "4: at least 44 bytes", "short"), vec![]),
        raw(("43-bytes", "4: at least 44 bytes", "short"), base.datagram()[..43].to_vec()),
        of(("8941-bytes", "4: at most 44 + 8896 bytes", "long"), |packet| packet.payload = vec![0; 8897]),
        of(("magic", "4: magic", "not_ours"), |packet| packet.fields.magic = 0x7D10),
        of(("version-0", "4: version is 1", "unknown_version"), |packet| packet.fields.version = 0),
        of(("version-2", "4: version is 1", "unknown_version"), |packet| packet.fields.version = 2),
        of(("kind-0", "4: kind is known", "unknown_kind"), |packet| packet.fields.kind = 0),
        of(("kind-4", "4: kind is known", "unknown_kind"), |packet| packet.fields.kind = 4),
        of(("kind-18", "4: kind is known", "unknown_kind"), |packet| packet.fields.kind = 18),
        flipped(("flipped-position-bit", "4: checksum", "wrong_checksum"), 11),
        flipped(("flipped-payload-bit", "4: checksum", "wrong_checksum"), 44),
        flipped(("flipped-checksum-bit", "4: checksum", "wrong_checksum"), 43),
        raw(("checksum-of-the-whole", "3: the checksum covers the payload by its hash", "wrong_checksum"), whole),
    ]
}

fn data_packets(objects: &Objects) -> Vec<Vector> {
    let object = objects.get("three");
    let of = |case, esi, change: fn(&mut Packet)| {
        let (mut packet, _) = data(object, 1408, 0, 0, esi);
        change(&mut packet);
        vector(case, object, Some("manifest-three"), packet.header_json(), packet.datagram())
    };
    let length = "4: a payload of exactly the length of its symbol";
    vec![
        of(("data-channel-255", "4: a channel other than 255", "out_of_range"), 0, |packet| {
            packet.fields.channel = 255;
        }),
        of(("data-object-id", "4: object id of the accepted manifest", "other_object"), 0, |packet| {
            packet.fields.object_id[11] ^= 1;
        }),
        of(("data-object-size", "4: object size of the accepted manifest", "other_object"), 0, |packet| {
            packet.fields.object_size += 1;
        }),
        of(("data-size-tag", "4: size tag of the description in use", "other_symbol_size"), 0, |packet| {
            packet.fields.size_tag = 2;
        }),
        of(("data-code", "4: code id of the description in use", "other_symbol_size"), 0, |packet| {
            packet.fields.code = 2;
        }),
        of(("data-block", "4: block index < n", "out_of_range"), 0, |packet| packet.fields.block = 3),
        of(("data-block-max", "4: block index < n", "out_of_range"), 0, |packet| packet.fields.block = u32::MAX),
        of(("data-esi", "4: ESI < 4 x K_b", "out_of_range"), 0, |packet| packet.fields.esi = 4 * 745),
        of(("data-one-byte-short", length, "wrong_size"), 0, |packet| packet.payload.truncate(1407)),
        of(("data-one-byte-long", length, "wrong_size"), 0, |packet| packet.payload.push(0)),
        of(("data-no-payload", length, "wrong_size"), 0, |packet| packet.payload.clear()),
        of(("data-last-symbol-padded", length, "wrong_size"), 744, |packet| packet.payload.resize(1408, 0)),
    ]
}

fn of_manifest(
    objects: &Objects,
    name: &str,
    (rule, counter): (&str, &str),
    change: impl Fn(&mut Manifest, &mut dyn FnMut(fn(&mut Packet))),
) -> Vector {
    let object = objects.get("three");
    let mut manifest = plain_manifest(object, 1408);
    let mut changes: Vec<fn(&mut Packet)> = vec![];
    change(&mut manifest, &mut |on_packet| changes.push(on_packet));
    let mut packet = manifest.packet(object);
    changes.iter().for_each(|change| change(&mut packet));
    let case = (format!("manifest-{name}"), rule, counter);
    vector((&case.0, case.1, case.2), object, None, packet.header_json(), packet.datagram())
}

fn manifest_shapes(objects: &Objects) -> Vec<Vector> {
    let of = |name, rule, change: fn(&mut Packet)| {
        of_manifest(objects, name, (rule, "malformed_manifest"), |_, on_packet| on_packet(change))
    };
    let with = |name, rule, change: fn(&mut Manifest)| {
        of_manifest(objects, name, (rule, "malformed_manifest"), |manifest, _| change(manifest))
    };
    let exact = "5: the payload has exactly 8 + D + T + G bytes";
    let fits = "5: the payload has at most 1152 bytes";
    let signed = "5: T + G is at most 880";
    vec![
        of("position", "5: position is 0", |packet| packet.fields.position = 1),
        of("esi", "5: ESI is 0", |packet| packet.fields.esi = 1),
        of("block", "5: block index is 0", |packet| packet.fields.block = 1),
        of("no-payload", exact, |packet| packet.payload.clear()),
        of("one-byte-short", exact, |packet| packet.payload.truncate(packet.payload.len() - 1)),
        of("one-byte-long", exact, |packet| packet.payload.push(0)),
        with("1153-bytes", fits, |manifest| {
            manifest.trailing = vec![0; 1153 - 8 - 8 - 32 - manifest.text.len()];
        }),
        with("881-signed-bytes", signed, |manifest| {
            let padding = 881 - manifest.text.len() - ",\"z\":\"\"".len();
            manifest.text.pop();
            manifest.text.extend(format!(",\"z\":\"{}\"}}", "p".repeat(padding)).bytes());
        }),
        with("137-byte-signature", "5.3: G is 0 or 138 + c", |manifest| manifest.signature = vec![0; 137]),
        with("395-byte-signature", "5.3: c is at most 256", |manifest| manifest.signature = vec![0; 395]),
        of("size-tag", "5.1: the size tag is that of S", |packet| packet.fields.size_tag = 7),
        of("code", "5.1: the code id is that of the description", |packet| packet.fields.code = 2),
    ]
}

fn descriptions(objects: &Objects) -> Vec<Vector> {
    let with = |name, rule, change: fn(&mut Manifest)| {
        of_manifest(objects, name, (rule, "malformed_manifest"), |manifest, _| change(manifest))
    };
    let allowed = "5.1: S is a multiple of 64 from 512 to 8896";
    vec![
        of_manifest(objects, "short-description", ("5.1: D is at least 8 + 32 x channels", "malformed_manifest"), {
            |_, on_packet| on_packet(|packet| packet.payload[11] = 2)
        }),
        with("symbol-size-448", allowed, |manifest| manifest.symbol_size = 448),
        with("symbol-size-1404", allowed, |manifest| manifest.symbol_size = 1404),
        with("symbol-size-8960", allowed, |manifest| manifest.symbol_size = 8960),
        of_manifest(objects, "code-2", ("5.1: the code id is known", "malformed_manifest"), |manifest, on_packet| {
            manifest.code = 2;
            on_packet(|packet| packet.fields.code = 2);
        }),
        with("no-channel", "5.1: 1 to 8 channels", |manifest| {
            manifest.channels.clear();
            manifest.trailing = vec![0; 32];
        }),
        with("nine-channels", "5.1: 1 to 8 channels", |manifest| {
            manifest.channels = (0..9).map(|channel| Entry::of(channel, "232.1.1.1", 1500, 0, 0)).collect();
        }),
        with("channel-twice", "5.1: no number twice", |manifest| {
            manifest.channels.push(Entry::of(0, "232.1.1.1", 1500, 0, 0));
        }),
        with("percent-301", "5.1: percent is at most 300", |manifest| manifest.percent = 301),
    ]
}

fn channel_entries(objects: &Objects) -> Vec<Vector> {
    let with = |name, rule, change: fn(&mut Entry)| {
        of_manifest(objects, name, (rule, "malformed_manifest"), |manifest, _| change(&mut manifest.channels[0]))
    };
    let four = "5.1: family 4 with a multicast group, a port and twelve zero bytes";
    let six = "5.1: family 6 with a multicast group and a port";
    vec![
        with("family-0-port", "5.1: family 0 with port 0", |entry| entry.port = 1500),
        with("family-0-group", "5.1: family 0 with sixteen zero bytes", |entry| entry.group[15] = 1),
        with("family-0-channel", "5.1: family 0 with the channel of the header", |entry| entry.channel = 1),
        with("family-5", "5.1: family 0, 4 or 6", |entry| (entry.family, entry.port) = (5, 1500)),
        with("ipv4-unicast", four, |entry| *entry = Entry::of(0, "192.0.2.1", 1500, 4470, 0)),
        with("ipv4-port", four, |entry| *entry = Entry::of(0, "232.1.1.1", 0, 4470, 0)),
        with("ipv4-padding", four, |entry| {
            *entry = Entry::of(0, "232.1.1.1", 1500, 4470, 0);
            entry.group[4] = 1;
        }),
        with("ipv6-unicast", six, |entry| *entry = Entry::of(0, "2001:db8::1", 1500, 4470, 0)),
        with("ipv6-port", six, |entry| *entry = Entry::of(0, "ff3e::1", 0, 4470, 0)),
        with("cycle-4095", "5.1: the cycle length is 0 or at least 4096", |entry| entry.cycle_length = 4095),
        of_manifest(
            objects,
            "control-cycle",
            ("5.1: the cycle length is 0 on channel 255", "malformed_manifest"),
            |manifest, on_packet| {
                manifest.channels[0].channel = 255;
                on_packet(|packet| packet.fields.channel = 255);
            },
        ),
    ]
}

fn texts(objects: &Objects) -> Vec<Vector> {
    let object = objects.get("three");
    let with = |name, rule, text: String| {
        of_manifest(objects, name, (rule, "refused_manifest"), |manifest, _| manifest.text = text.clone().into_bytes())
    };
    let plain = || text(object, "", "", "");
    let digest = super::packets::hex(&object.digest);
    let between = |member: &str| text(object, "", member, "");
    let behind = |member: &str| text(object, "", "", member);
    let agrees = "5.2: a description that differs from the text is refused";
    vec![
        with("text-space", "5.2: no white space outside strings", plain().replace(",\"size\"", ", \"size\"")),
        with("text-line-feed", "5.2: no white space outside strings", plain() + "\n"),
        with("text-order", "5.2: members in ascending order", text(object, "\"z\":0,", "", "")),
        with("text-member-twice", "5.2: no name twice", behind(",\"size\":3145728")),
        with("text-fraction", "5.2: numbers are integers without fraction", behind(",\"z\":1.0")),
        with("text-big-integer", "5.2: integers to 2^53 - 1", behind(",\"z\":9007199254740992")),
        with("text-escape", "5.2: no other character is escaped", behind(",\"z\":\"\\u0041\"")),
        with("text-nesting", "5.2: at most 8 levels", behind(&format!(",\"z\":{}{}", "[".repeat(8), "]".repeat(8)))),
        with("text-array", "5.2: the whole text is one object", "[]".to_owned()),
        with("text-no-name", "5.2: name is needed", plain().replace("\"name\":\"three.bin\",", "")),
        with("text-control-in-name", "5.2: no control characters in names", plain().replace("three.bin", "a\\nb")),
        with("text-upper-case-digest", "5.2: lower-case digits", plain().replace(&digest, &digest.to_uppercase())),
        with("text-expired-before-created", "5.2: expires not before created", between(",\"created\":2,\"expires\":1")),
        with("text-critical-unknown", "5.2: critical names what is not understood", {
            between(",\"critical\":[\"later\"],\"later\":1")
        }),
        with("text-critical-absent", "5.2: critical names an absent member", between(",\"critical\":[\"version\"]")),
        with("text-tags-alone", "5.2: tags needs symbol_size and code", behind(&format!(",\"tags\":\"{digest}\""))),
        with("text-symbol-size", agrees, behind(",\"symbol_size\":1152")),
        of_manifest(objects, "text-repair-max", ("5.1: percent is at most repair_max", "refused_manifest"), {
            |manifest, _| {
                manifest.percent = 31;
                manifest.text = plain().replace(",\"size\"", ",\"repair_max\":30,\"size\"").into_bytes();
            }
        }),
        of_manifest(objects, "text-not-utf8", ("5.2: UTF-8", "refused_manifest"), |manifest, _| {
            manifest.text = behind(",\"z\":\"!\"").into_bytes();
            manifest.text.iter_mut().filter(|byte| **byte == b'!').for_each(|byte| *byte = 0xff);
        }),
        of_manifest(objects, "object-id", ("5: the object id is that of the text", "refused_manifest"), {
            |_, on_packet| on_packet(|packet| packet.fields.object_id[0] ^= 1)
        }),
        of_manifest(objects, "object-size", ("5: the object size is that of the text", "refused_manifest"), {
            |_, on_packet| on_packet(|packet| packet.fields.object_size += 1)
        }),
        empty_with_another_digest(objects),
    ]
}

fn empty_with_another_digest(objects: &Objects) -> Vector {
    let (empty, other) = (objects.get("empty"), objects.get("one"));
    let mut manifest = plain_manifest(empty, 1408);
    manifest.text = text(other, "", "", "").replace("\"size\":1", "\"size\":0").into_bytes();
    let mut packet = manifest.packet(empty);
    packet.fields.object_id = other.id();
    let case = ("manifest-empty-digest", "5.2: for size 0 the digest of no bytes", "refused_manifest");
    vector(case, empty, None, packet.header_json(), packet.datagram())
}

fn hashes_packets(objects: &Objects) -> Vec<Vector> {
    let object = objects.get("seventeen");
    let of = |name: &str, rule, first, log2, change: fn(&mut Packet)| {
        let (mut packet, _) = hashes(object, 1408, first, log2);
        change(&mut packet);
        let counter = if name == "tree-1" { "unknown_tree" } else { "malformed_hashes" };
        let name = format!("hashes-{name}");
        vector((&name, rule, counter), object, Some("manifest-seventeen"), packet.header_json(), packet.datagram())
    };
    let exact = "6: the payload has exactly 8 + 32m + 32p bytes";
    vec![
        of("tree-1", "6: tree id 0", 0, 4, |packet| packet.payload[0] = 1),
        of("g-5", "6: g is 0 to 4", 0, 4, |packet| packet.payload[1] = 5),
        of("path-length", "6: the path length follows from n, f and g", 0, 4, |packet| {
            packet.payload[2] = 2;
            packet.payload.extend([0; 32]);
        }),
        of("misaligned", "6: the block index is a multiple of 2^g", 4, 2, |packet| packet.fields.block = 5),
        of("block", "6: the block index is less than n", 16, 4, |packet| packet.fields.block = 32),
        of("zero-bits", "6: zero bits from m on are 0", 16, 4, |packet| packet.payload[5] = 2),
        of("no-payload", exact, 0, 4, |packet| packet.payload.clear()),
        of("one-byte-short", exact, 0, 4, |packet| packet.payload.truncate(packet.payload.len() - 1)),
        of("one-byte-long", exact, 0, 4, |packet| packet.payload.push(0)),
        of("position", "6: position is 0", 0, 4, |packet| packet.fields.position = 1),
        of("esi", "6: ESI is 0", 0, 4, |packet| packet.fields.esi = 1),
        {
            let object = objects.get("block");
            let mut packet = Packet::new(3, object, 1408, vec![0; 8]);
            packet.payload.extend(&object.digest);
            let case = ("hashes-one-block", "6: n is at least 2", "malformed_hashes");
            vector(case, object, Some("manifest-block"), packet.header_json(), packet.datagram())
        },
    ]
}

fn false_proofs(objects: &Objects) -> Vec<Vector> {
    let object = objects.get("seventeen");
    let of = |name, first, log2, byte: usize| {
        let (mut packet, _) = hashes(object, 1408, first, log2);
        packet.payload[byte] ^= 1;
        let case = (name, "6: the root is the digest of the accepted manifest", "unproved_hashes");
        vector(case, object, Some("manifest-seventeen"), packet.header_json(), packet.datagram())
    };
    vec![
        of("hashes-false-value", 0, 4, 8),
        of("hashes-false-sibling", 0, 4, 8 + 32 * 16),
        of("hashes-false-last-sibling", 5, 0, 8 + 32 + 32 * 4),
        {
            // The values of blocks 0 to 3 at the place of blocks 4 to 7: right nodes, wrong sides.
            let (mut packet, _) = hashes(object, 1408, 0, 2);
            packet.fields.block = 4;
            let case = ("hashes-moved", "6: the root is the digest of the accepted manifest", "unproved_hashes");
            vector(case, object, Some("manifest-seventeen"), packet.header_json(), packet.datagram())
        },
    ]
}
