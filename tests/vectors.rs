//! The test vectors of docs/PROTOCOL.md, section 11: each is made again from its description and compared byte for byte, then
//! judged by the library. `UPDATE_VECTORS=1` writes them instead.

use std::fs;
use std::path::PathBuf;

use iotupd::limits::CHOICE_TIME_MAX;
use iotupd::manifest::{self, DisplayName, PublicKey};
use iotupd::receiver::{Action, ClockUnset, DropReason, Receiver, ReceiverConfig, Trust, Verdict, plain_memory};
use iotupd::types::Time;
use iotupd::wire::{ManifestPayload, Packet, parse};
use serde_json::{Value, json};

#[path = "vectors/accepted.rs"]
mod accepted;
#[path = "vectors/objects.rs"]
mod objects;
#[path = "vectors/packets.rs"]
mod packets;
#[path = "vectors/reed_solomon.rs"]
mod reed_solomon;
#[path = "vectors/refused.rs"]
mod refused;
#[path = "vectors/signed.rs"]
mod signed;
#[allow(dead_code, reason = "all tests share it, and none uses all of it")]
#[path = "keys/signer.rs"]
mod signer;

/// One datagram and its meaning.
struct Vector {
    name: String,
    datagram: Vec<u8>,
    json: Value,
}

struct Objects(Vec<objects::Object>);

impl Objects {
    fn get(&self, name: &str) -> &objects::Object {
        self.0.iter().find(|object| object.name == name).unwrap_or_else(|| panic!("no object {name}"))
    }
}

fn object_json(object: &objects::Object) -> Value {
    json!({
        "name": object.name, "size": object.bytes.len(), "zero_blocks": object.zero_blocks,
        "blake3": packets::hex(&object.digest),
    })
}

fn folder() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/vectors")
}

fn read(name: &str) -> (Vec<u8>, Value) {
    let at = |kind: &str| folder().join(format!("{name}.{kind}"));
    let datagram = fs::read(at("bin")).unwrap_or_else(|error| panic!("{name}.bin: {error}"));
    let json = fs::read(at("json")).unwrap_or_else(|error| panic!("{name}.json: {error}"));
    (datagram, serde_json::from_slice(&json).unwrap_or_else(|error| panic!("{name}.json: {error}")))
}

/// The names of all vectors on the disk.
fn names() -> Vec<String> {
    let entries = fs::read_dir(folder()).expect("the folder of the vectors").map(|entry| entry.unwrap().path());
    let bins = entries.filter(|path| path.extension().is_some_and(|extension| extension == "bin"));
    let mut names: Vec<_> = bins.map(|path| path.file_stem().unwrap().to_str().unwrap().to_owned()).collect();
    names.sort();
    names
}

#[test]
fn files_are_what_their_descriptions_make() {
    let objects = Objects(objects::all());
    let mut vectors = accepted::all(&objects);
    assert!(vectors.len() >= 20, "accepted vectors");
    vectors.extend(refused::all(&objects));
    vectors.extend(signed::all(&objects));
    let is_update = std::env::var_os("UPDATE_VECTORS").is_some();
    for Vector { name, datagram, json } in &vectors {
        if is_update {
            fs::write(folder().join(format!("{name}.bin")), datagram).unwrap();
            fs::write(folder().join(format!("{name}.json")), format!("{json:#}\n")).unwrap();
        }
        let (stored_datagram, stored_json) = read(name);
        assert!(stored_datagram == *datagram, "{name}.bin");
        assert_eq!(stored_json, *json, "{name}.json");
    }
    let mut made: Vec<_> = vectors.into_iter().map(|vector| vector.name).collect();
    made.sort();
    assert_eq!(names(), made, "no vector without a description, none twice");
}

#[test]
fn every_field_of_an_accepted_vector_is_read_as_described() {
    for name in names() {
        let (datagram, json) = read(&name);
        if json["accepted"] == true {
            let (header, packet) = parse(&datagram).unwrap_or_else(|reason| panic!("{name}: {reason:?}"));
            let expected = &json["header"];
            let actual = json!({
                "magic": 0x107D, "version": 1, "kind": kind_number(&packet), "channel": header.channel.0,
                "size_tag": header.size_tag.0, "reserved": expected["reserved"], "code": header.code.0,
                "position": header.position.value(), "object_id": header.key.id.to_string(),
                "object_size": header.key.size.bytes(), "esi": header.esi.0, "block": header.block.0,
                "checksum": packets::hex(&datagram[36..44]),
            });
            assert_eq!(actual, *expected, "{name}");
            assert_eq!(payload_json(&packet, &json["payload"]), json["payload"], "{name}");
        }
    }
}

fn kind_number(packet: &Packet<'_>) -> u8 {
    match packet {
        Packet::Data(_) => 1,
        Packet::Manifest(_) => 2,
        Packet::Hashes(_) => 3,
    }
}

/// What the library reads, and what it does not tell (offsets, ignored bytes) as expected.
fn payload_json(packet: &Packet<'_>, expected: &Value) -> Value {
    let mut actual = expected.clone();
    match packet {
        Packet::Data(payload) => actual["size"] = json!(payload.len()),
        Packet::Manifest(payload) => manifest_json(payload, &mut actual),
        Packet::Hashes(payload) => {
            let values: Vec<_> = payload.values().map(|value| value.to_string()).collect();
            let zero_bits: u32 = (0..16).map(|i| u32::from(payload.claims_zero(i)) << i).sum();
            actual["group_log2"] = json!(payload.group.log2());
            actual["path_length"] = json!(payload.group.path().count());
            actual["zero_bits"] = json!(zero_bits);
            actual["values"] = json!(values);
        }
    }
    actual
}

fn manifest_json(payload: &ManifestPayload<'_>, actual: &mut Value) {
    let channel = |entry: &iotupd::wire::ChannelEntry| {
        let (family, port, group) = match entry.group {
            None => (0, 0, [0; 16]),
            Some((std::net::IpAddr::V4(group), port)) => {
                let mut octets = [0; 16];
                octets[..4].copy_from_slice(&group.octets());
                (4, port, octets)
            }
            Some((std::net::IpAddr::V6(group), port)) => (6, port, group.octets()),
        };
        json!({
            "channel": entry.channel.0, "family": family, "port": port, "cycle_length": entry.cycle_length,
            "rate": entry.rate.map_or(0, |rate| rate.bits_per_second()), "group": packets::hex(&group),
        })
    };
    let description = &payload.description;
    actual["description"]["symbol_size"] = json!(description.symbol_size.bytes());
    actual["description"]["code"] = json!(description.code.0);
    actual["description"]["repair_percent"] = json!(description.repair_percent);
    actual["description"]["channels"] = description.channels().iter().map(channel).collect();
    actual["text"] = json!(std::str::from_utf8(payload.text).expect("a text"));
    actual["text_size"] = json!(payload.text.len());
    let signature = payload.signature.map_or(&[][..], |signature| signature.0);
    actual["signature"] = json!(packets::hex(signature));
    actual["signature_size"] = json!(signature.len());
    let members = manifest::parse(payload.text).expect("an accepted text");
    assert_eq!(members.size.bytes(), serde_json::from_slice::<Value>(payload.text).unwrap()["size"]);
}

/// A receiver that has taken the manifest that the vector names, if it names one.
fn receiver_before(json: &Value) -> Receiver {
    let config = ReceiverConfig { size_max: u64::MAX, timeout: None, idle_timeout: None, decode: true };
    let mut receiver = match json["receiver"].as_object() {
        Some(told) if told.get("waits_for_news") == Some(&Value::Bool(true)) => {
            Receiver::watching(Time::default(), config, trust(&json["receiver"]))
        }
        Some(_) => Receiver::with_trust(Time::default(), config, trust(&json["receiver"])),
        None => Receiver::new(Time::default(), config),
    };
    receiver.handle_wall_clock(json["receiver"]["clock"].as_u64().unwrap_or(0));
    if let Some(before) = json["accepted_before"].as_str() {
        assert_eq!(judge(&mut receiver, &read(before).0), Verdict::Taken, "{before}");
        let Some(Action::Prepare { word_count, .. }) = receiver.poll_action() else { panic!("{before}: no target") };
        receiver.handle_prepared(Time::default(), false, plain_memory(word_count));
    }
    receiver
}

/// What the member `receiver` of a vector asks for.
fn trust(json: &Value) -> Trust {
    let keys = json["keys"].as_array().expect("keys").iter().map(|key| PublicKey::parse(key.as_str().unwrap()));
    Trust {
        keys: keys.map(|key| key.expect("a public key")).collect(),
        version_min: json["min_version"].as_u64().expect("a version"),
        compatible: json["compatible"].as_str().and_then(DisplayName::new),
        clock_unset: if json["clock_unset"] == "refuse" { ClockUnset::Refuse } else { ClockUnset::Ignore },
        seed: 0,
    }
}

fn judge(receiver: &mut Receiver, datagram: &[u8]) -> Verdict {
    receiver.handle_datagram(Time::default(), ([192, 0, 2, 1], 4000).into(), datagram)
}

#[test]
fn accepted_vectors_are_taken() {
    for name in names() {
        let (datagram, json) = read(&name);
        if json["accepted"] == true {
            match judge(&mut receiver_before(&json), &datagram) {
                Verdict::Store(store) => {
                    // A repair symbol may be stored anywhere.
                    if json["payload"]["repair_symbol"].is_null() {
                        assert_eq!(json["payload"]["object_offset"], store.offset, "{name}");
                    }
                    assert_eq!(json["payload"]["size"], store.size, "{name}");
                }
                Verdict::Keep(kept) => {
                    assert_eq!(json["header"]["esi"], kept.esi.0, "{name}");
                    assert!(json["payload"]["repair_symbol"].is_number(), "{name}");
                }
                Verdict::Taken => assert_ne!(json["header"]["kind"], 1, "{name}"),
                Verdict::Dropped(reason) => panic!("{name}: dropped as {}", reason.name()),
            }
        }
    }
}

#[test]
fn signed_vectors_are_accepted_and_their_vouchers_known() {
    let mut count = 0;
    for name in names() {
        let (datagram, json) = read(&name);
        if json["accepted"] == true && json["receiver"].is_object() {
            let mut receiver = receiver_before(&json);
            assert_eq!(judge(&mut receiver, &datagram), Verdict::Taken, "{name}");
            receiver.handle_timeout(Time::default().after(CHOICE_TIME_MAX));
            assert!(matches!(receiver.poll_action(), Some(Action::Prepare { .. })), "{name}");
            let voucher = receiver.voucher().expect("somebody vouches for it");
            let found = json!({ "key_id": voucher.key_id().to_string(), "comment": voucher.comment() });
            assert_eq!(found, json["voucher"], "{name}");
            count += 1;
        }
    }
    assert!(count >= 5, "signed vectors");
}

#[test]
fn refused_vectors_are_dropped_for_the_stated_reason() {
    let mut count = 0;
    for name in names() {
        let (datagram, json) = read(&name);
        if json["accepted"] == false {
            let mut receiver = receiver_before(&json);
            let verdict = judge(&mut receiver, &datagram);
            // A signature is verified when its turn comes, so that a receiver with keys may say nothing yet.
            assert!(matches!(verdict, Verdict::Dropped(_)) || json["receiver"].is_object(), "{name}: {verdict:?}");
            receiver.handle_timeout(Time::default().after(CHOICE_TIME_MAX));
            assert_eq!(receiver.poll_action(), None, "{name}");
            let counts = DropReason::ALL.iter().filter(|reason| receiver.counts().dropped(**reason) > 0);
            let counters: Vec<_> = counts.map(|reason| reason.name()).collect();
            assert_eq!(vec![json["counter"].clone()], counters, "{name}");
            count += 1;
        }
    }
    assert!(count >= 25, "refused vectors");
}
