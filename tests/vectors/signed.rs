//! Signed manifests, and receivers that were given keys (sections 5.3 and 5.4). Every signature is made by the keys of `tests/keys`.

use serde_json::{Value, json};

use super::accepted::plain_manifest;
use super::objects::Object;
use super::packets::{Entry, Manifest, hex, text};
use super::signer::{FIRST, SECOND};
use super::{Objects, Vector};

const COMMENT: &str = "timestamp:1700000000\tfile:three.bin.manifest\thashed";
/// The key id of the first key, as minisign writes it.
const FIRST_ID: &str = "E140B28D835E3F6E";

/// A receiver that has the first key, wants nothing in particular, and whose clock is right.
fn receiver() -> Value {
    json!({
        "keys": [FIRST.public()], "min_version": 0, "compatible": null, "clock": 1_750_000_000, "clock_unset": "ignore",
    })
}

fn with(change: impl FnOnce(&mut Value)) -> Value {
    let mut receiver = receiver();
    change(&mut receiver);
    receiver
}

pub(crate) fn all(objects: &Objects) -> Vec<Vector> {
    let object = objects.get("three");
    let mut vectors = accepted(object);
    vectors.extend(refused_signatures(object));
    vectors.extend(refused_texts(object));
    vectors.extend(announcements(object));
    vectors
}

/// The packet of section 8.1, by a receiver that waits for news and by one that wants data.
fn announcements(object: &Object) -> Vec<Vector> {
    let channels = vec![Entry::of(0, "239.1.2.3", 4242, 4470, 100_000_000), Entry::own(255, 0)];
    let manifest = Manifest { channels, ..signed(object, &versioned(object)) };
    let waiting = with(|receiver| receiver["waits_for_news"] = json!(true));
    let taken = json!({ "accepted": true, "voucher": { "key_id": FIRST_ID, "comment": COMMENT } });
    let case = ("announcement", "8.1: what is announced here is sent elsewhere", "announcement");
    let mut vectors =
        vec![vector("announcement", object, &manifest, &waiting, taken), refused(object, case, &manifest, &receiver())];
    // Made of a packet of the data channel.
    for Vector { datagram, json, .. } in &mut vectors {
        let mut packet = manifest.packet(object);
        packet.fields.channel = 255;
        (*datagram, json["header"]) = (packet.datagram(), packet.header_json());
    }
    vectors
}

fn vector(name: &str, object: &Object, manifest: &Manifest, receiver: &Value, outcome: Value) -> Vector {
    let packet = manifest.packet(object);
    let mut json = json!({
        "object": super::object_json(object),
        "accepted_before": null,
        "receiver": receiver,
        "header": packet.header_json(),
        "payload": manifest.json(),
        "signed_bytes": hex(&manifest.text),
    });
    let (json_members, outcome) = (json.as_object_mut().unwrap(), outcome.as_object().unwrap().clone());
    json_members.extend(outcome);
    Vector { name: name.to_owned(), datagram: packet.datagram(), json }
}

fn versioned(object: &Object) -> String {
    text(object, "", "", ",\"version\":3")
}

/// A manifest with this text, signed by the first key.
fn signed(object: &Object, text: &str) -> Manifest {
    let signature = FIRST.sign(text.as_bytes(), COMMENT);
    Manifest { text: text.into(), signature, ..plain_manifest(object, 1408) }
}

fn accepted(object: &Object) -> Vec<Vector> {
    let outcome = |comment: &str| json!({ "accepted": true, "voucher": { "key_id": FIRST_ID, "comment": comment } });
    let plain = signed(object, &versioned(object));
    let two_keys = with(|receiver| receiver["keys"] = json!([SECOND.public(), FIRST.public()]));
    // 880 bytes together, of which the comment has 256.
    let long_comment = "\u{e9}".repeat(128);
    let padding = "x".repeat(880 - 138 - 256 - versioned(object).len() - r#""a":"","#.len());
    let long_text = text(object, &format!("\"a\":\"{padding}\","), "", ",\"version\":3");
    let long_signature = FIRST.sign(long_text.as_bytes(), &long_comment);
    let longest = Manifest { text: long_text.into_bytes(), signature: long_signature, ..plain.clone() };
    let empty_comment = Manifest { signature: FIRST.sign(&plain.text, ""), ..plain.clone() };
    let dated = versioned(object).replace(",\"name\"", ",\"created\":1700000000,\"expires\":1800000000,\"name\"");
    let dated = dated.replace("\"created\"", "\"compatible\":\"board-a\",\"created\"");
    let asked = with(|receiver| {
        (receiver["min_version"], receiver["compatible"]) = (json!(3), json!("board-a"));
    });
    let unset = with(|receiver| receiver["clock"] = json!(1_699_999_999));
    vec![
        vector("signed", object, &plain, &receiver(), outcome(COMMENT)),
        vector("signed-two-keys", object, &plain, &two_keys, outcome(COMMENT)),
        vector("signed-empty-comment", object, &empty_comment, &receiver(), outcome("")),
        vector("signed-longest", object, &longest, &receiver(), outcome(&long_comment)),
        vector("signed-as-asked-for", object, &signed(object, &dated), &asked, outcome(COMMENT)),
        vector("signed-clock-unset-ignored", object, &signed(object, &dated), &unset, outcome(COMMENT)),
    ]
}

fn refused(
    object: &Object,
    (name, rule, counter): (&str, &str, &str),
    manifest: &Manifest,
    receiver: &Value,
) -> Vector {
    let outcome = json!({ "accepted": false, "rule": rule, "counter": counter });
    vector(&format!("refused-signed-{name}"), object, manifest, receiver, outcome)
}

fn refused_signatures(object: &Object) -> Vec<Vector> {
    let good = signed(object, &versioned(object));
    let by = |signature: Vec<u8>| Manifest { signature, ..good.clone() };
    let changed = |at: usize| {
        let mut signature = good.signature.clone();
        signature[at] ^= 1;
        by(signature)
    };
    let other_text = versioned(object).replace("\"version\":3", "\"version\":4");
    let mut renamed = SECOND.sign(&good.text, COMMENT);
    renamed[2..10].copy_from_slice(&good.signature[2..10]);
    let wrong = |name, rule| (name, rule, "wrong_signature");
    let end = good.signature.len();
    let cases = [
        (("not-at-all", "5.3: G = 0", "unsigned_manifest"), by(vec![])),
        (("by-another-key", "5.3: another key id", "unknown_key"), by(SECOND.sign(&good.text, COMMENT))),
        (wrong("under-another-name", "5.3: the signature fails"), by(renamed)),
        (wrong("legacy", "5.3: the algorithm is ED"), by(FIRST.sign_legacy(&good.text, COMMENT))),
        (wrong("algorithm", "5.3: the algorithm is ED"), by([b"XX", &good.signature[2..]].concat())),
        (wrong("first-byte", "5.3: the signature fails"), changed(10)),
        (wrong("last-byte-of-s", "5.3: the signature fails"), changed(73)),
        (wrong("comment", "5.3: the global signature fails"), changed(74)),
        (wrong("global", "5.3: the global signature fails"), changed(end - 1)),
        (wrong("other-text", "5.3: the signature fails"), Manifest { text: other_text.into_bytes(), ..good.clone() }),
        (wrong("comment-line-feed", "5.3: control characters"), by(FIRST.sign(&good.text, "a\nb"))),
        (wrong("comment-escape", "5.3: control characters"), by(FIRST.sign(&good.text, "\u{1b}[2J"))),
        (wrong("comment-c1", "5.3: control characters"), by(FIRST.sign(&good.text, "\u{9b}2J"))),
        (wrong("comment-not-utf8", "5.3: UTF-8"), {
            let end = good.signature.len() - 64;
            let mut signature = good.signature.clone();
            signature[end - 1] = 0xff;
            by(signature)
        }),
    ];
    cases.iter().map(|(case, manifest)| refused(object, *case, manifest, &receiver())).collect()
}

fn refused_texts(object: &Object) -> Vec<Vector> {
    let expiring = versioned(object).replace(",\"name\"", ",\"created\":1700000000,\"expires\":1800000000,\"name\"");
    let for_board = versioned(object).replace(",\"name\"", ",\"compatible\":\"board-a\",\"name\"");
    let clock = |seconds: u64| with(|receiver| receiver["clock"] = json!(seconds));
    let asks = |text: &str| with(|receiver| receiver["compatible"] = json!(text));
    let refuses = with(|receiver| {
        (receiver["clock"], receiver["clock_unset"]) = (json!(1_699_999_999), json!("refuse"));
    });
    let newer = with(|receiver| receiver["min_version"] = json!(4));
    let false_text = versioned(object).replace("\"size\":", "\"size\": ");
    let other_object = versioned(object).replace(r#""blake3":"8"#, r#""blake3":"9"#);
    let cases = [
        (("expired", "5.4: expires is later than the clock", "expired_manifest"), &expiring, clock(1_800_000_000)),
        (("clock-unset", "5.4: a clock before created", "clock_unset"), &expiring, refuses),
        (("old-version", "5.4: the oldest version that is taken", "old_version"), &expiring, newer),
        (("not-for-this", "5.4: compatible", "not_compatible"), &for_board, asks("board-b")),
        (("for-nothing", "5.4: compatible", "not_compatible"), &expiring, asks("board-a")),
        (("text-form", "5.2: one canonical form", "refused_manifest"), &false_text, receiver()),
        (("object-id", "5: the header's object id is that of the text", "refused_manifest"), &other_object, receiver()),
    ];
    cases.iter().map(|(case, text, receiver)| refused(object, *case, &signed(object, text), receiver)).collect()
}
