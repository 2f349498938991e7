//! What is and is not a manifest's text.

use std::ffi::OsStr;
use std::os::unix::ffi::{OsStrExt, OsStringExt};

use proptest::prelude::*;

use super::canonical::tests::{any_edit, edited, is_canonical};
use super::*;

const HEX: &str = "00112233445566778899aabbccddeeff0123456789abcdef0123456789abcdef";

/// A valid text in which members are replaced, added (JSON) or, where the value is empty, left out.
fn text_with(changes: &[(&str, &str)]) -> String {
    let mut members = std::collections::BTreeMap::from([
        ("blake3", format!("\"{HEX}\"")),
        ("name", "\"firmware.bin\"".to_owned()),
        ("size", "7700077".to_owned()),
    ]);
    for &(name, value) in changes {
        members.insert(name, value.to_owned());
    }
    let present = members.iter().filter(|(_, value)| !value.is_empty());
    let members: Vec<String> = present.map(|(name, value)| format!("\"{name}\":{value}")).collect();
    format!("{{{}}}", members.join(","))
}

fn refusal_of(changes: &[(&str, &str)]) -> Option<Refusal> {
    parse(text_with(changes).as_bytes()).err()
}

fn in_quotes(text: &str) -> String {
    format!("\"{text}\"")
}

#[test]
fn every_member_is_read() {
    let text = text_with(&[
        ("code", "1"),
        ("compatible", "\"board \\\"rev\\\" 2\""),
        ("created", "1700000000"),
        ("critical", "[\"blake3\",\"expires\",\"symbol_size\"]"),
        ("expires", "1700000000"),
        ("repair_max", "300"),
        ("symbol_size", "1408"),
        ("tags", &in_quotes(HEX)),
        ("version", "9007199254740991"),
    ]);
    let manifest = parse(text.as_bytes()).unwrap();
    let digest = Digest::from_hex(HEX).unwrap();
    let members = Members {
        version: (1 << 53) - 1,
        compatible: DisplayName::new("board \"rev\" 2"),
        created: Some(1_700_000_000),
        expires: Some(1_700_000_000),
        symbol_size: SymbolSize::new(1408),
        code: Some(CodeId::REED_SOLOMON),
        repair_max: Some(300),
        tags: Some(digest),
        critical: ["blake3", "expires", "symbol_size"].map(str::to_owned).to_vec(),
        ..good_members()
    };
    assert_eq!(*manifest, members);
    assert_eq!(manifest.ignored(), 0);
    assert_eq!(manifest.key(), ObjectKey { id: digest.object_id(), size: members.size });
    assert_eq!(manifest.to_text(), text);
}

#[test]
fn absent_members_are_absent_and_the_version_0() {
    let manifest = parse(text_with(&[]).as_bytes()).unwrap();
    assert_eq!(*manifest, good_members());
}

#[test]
fn unknown_members_of_every_type_are_counted_and_ignored() {
    let values = ["null", "true", "false", "0", "-9007199254740991", "\"\\u0000\u{202e}\"", "[]", "[1,[{}]]", "{}"];
    for value in values {
        let manifest = parse(text_with(&[("unknown", value)]).as_bytes()).unwrap();
        assert_eq!(manifest.ignored(), 1, "{value}");
        assert_eq!(manifest.to_text(), text_with(&[]), "{value}");
    }
    let nested = "{\"blake3\":0,\"critical\":[\"x\"],\"name\":{}}";
    assert_eq!(parse(text_with(&[("!", nested), ("~", nested)]).as_bytes()).unwrap().ignored(), 2);
}

#[test]
fn bounds_of_values_are_allowed() {
    let good: [&[(&str, &str)]; 12] = [
        &[("size", "0"), ("blake3", "\"af1349b9f5f9a1a6a0404dea36dcc9499bcb25c9adc112b7cc9a93cae41f3262\"")],
        &[("size", "281474976710655")],
        &[("version", "0")],
        &[("critical", "[\"version\"]"), ("version", "0")],
        &[("created", "0"), ("expires", "0")],
        &[("expires", "0")],
        &[("created", "9007199254740991")],
        &[("symbol_size", "512")],
        &[("symbol_size", "8896")],
        &[("code", "7")],
        &[("repair_max", "0")],
        &[("name", "\"\u{a0}\u{200d}\u{2027}\u{202f}\u{2065}\u{206a}/..\"")],
    ];
    for changes in good {
        assert_eq!(refusal_of(changes), None, "{changes:?}");
    }
}

#[test]
fn value_of_the_wrong_type_or_range_is_refused() {
    let long = in_quotes(&"é".repeat(65));
    let upper = in_quotes(&HEX.to_uppercase());
    let short = in_quotes(&HEX[1..]);
    let bad: [(&'static str, &[&str]); 10] = [
        ("blake3", &["null", "0", "\"\"", "[]", &upper, &short]),
        ("name", &["null", "0", "[\"a\"]", "\"\"", &long, "\"\\n\"", "\"\\u0000\""]),
        ("size", &["null", "\"1\"", "-1", "281474976710656", "[1]"]),
        ("version", &["null", "\"1\"", "-1", "{}"]),
        ("compatible", &["null", "1", "\"\"", &long, "\"\\t\""]),
        ("created", &["null", "\"2020-01-01\"", "-1"]),
        ("expires", &["null", "false", "-1"]),
        ("symbol_size", &["null", "0", "448", "1400", "8960", "65536", "66944", "-1408"]),
        ("code", &["null", "-1", "8", "256", "257"]),
        ("repair_max", &["null", "-1", "1001", "65536"]),
    ];
    for (name, values) in bad {
        for value in values {
            assert_eq!(refusal_of(&[(name, value)]), Some(Refusal::Bad(name)), "{value}");
        }
    }
    assert_eq!(refusal_of(&[("tags", &upper)]), Some(Refusal::Bad("tags")));
    assert_eq!(refusal_of(&[("created", "7"), ("expires", "6")]), Some(Refusal::Bad("expires")));
}

#[test]
fn member_that_is_needed_is_missed() {
    for name in ["blake3", "name", "size"] {
        assert_eq!(refusal_of(&[(name, "")]), Some(Refusal::Missing(name)));
    }
}

#[test]
fn critical_is_an_ascending_array_of_other_members() {
    let bad = [
        "null",
        "\"name\"",
        "[]",
        "{}",
        "[1]",
        "[\"name\",null]",
        "[\"name\",\"blake3\"]",
        "[\"name\",\"name\"]",
        "[\"critical\"]",
        "[\"blake3\",\"critical\",\"name\"]",
    ];
    for value in bad {
        assert_eq!(refusal_of(&[("critical", value)]), Some(Refusal::Bad("critical")), "{value}");
    }
}

/// docs/PROTOCOL.md, sections 5.2 and 10: a receiver MUST refuse what `critical` names and it does not understand.
#[test]
fn critical_that_is_not_understood_is_refused() {
    let unknown = |name: &str| Some(Refusal::UnknownCritical(name.to_owned()));
    let tags = in_quotes(HEX);
    assert_eq!(refusal_of(&[("critical", "[\"x\"]"), ("x", "0")]), unknown("x"));
    assert_eq!(refusal_of(&[("critical", "[\"x\"]")]), unknown("x"));
    assert_eq!(refusal_of(&[("critical", "[\"\"]"), ("", "0")]), unknown(""));
    assert_eq!(refusal_of(&[("critical", "[\"tags\"]"), ("tags", &tags)]), unknown("tags"));
    // For this reason, even if what is understood is wrong as well.
    assert_eq!(refusal_of(&[("critical", "[\"name\",\"x\"]"), ("name", "0"), ("x", "0")]), unknown("x"));
    assert_eq!(refusal_of(&[("tags", &tags), ("code", "1"), ("symbol_size", "1408")]), None);
}

#[test]
fn digest_of_nothing_and_tags_without_their_parameters_are_refused() {
    assert_eq!(refusal_of(&[("size", "0")]), Some(Refusal::Bad("blake3")));
    let tags = in_quotes(HEX);
    assert_eq!(refusal_of(&[("tags", &tags), ("code", "1")]), Some(Refusal::Bad("tags")));
    assert_eq!(refusal_of(&[("tags", &tags), ("symbol_size", "1408")]), Some(Refusal::Bad("tags")));
}

#[test]
fn critical_that_is_absent_is_refused() {
    for name in ["code", "compatible", "created", "expires", "repair_max", "symbol_size", "version"] {
        let critical = format!("[\"{name}\"]");
        assert_eq!(refusal_of(&[("critical", &critical)]), Some(Refusal::AbsentCritical(name)));
    }
}

#[test]
fn text_that_is_no_canonical_object_is_refused() {
    let good = text_with(&[]);
    let bad = [
        (String::new(), Refusal::NotCanonical),
        (good.clone() + "\n", Refusal::NotCanonical),
        (good.clone() + &good, Refusal::NotCanonical),
        (format!("\u{feff}{good}"), Refusal::NotCanonical),
        (good.replace(':', ": "), Refusal::NotCanonical),
        (good.replace("firm", "\\u0066irm"), Refusal::NotCanonical),
        (good.replace("7700077", "7700077.0"), Refusal::NotCanonical),
        (good.replace("7700077", "-0"), Refusal::NotCanonical),
        (good.replace("7700077", "7700077,\"size\":7700077"), Refusal::NotCanonical),
        (good.replace("7700077", "7700077,\"nested\":0"), Refusal::NotCanonical),
        (good.replace("7700077", "7700077,\"x\":{\"a\":[{\"b\":0,\"b\":0}]}"), Refusal::NotCanonical),
        (good.replace("7700077", "7700077,\"x\":\"\\ud800\""), Refusal::NotCanonical),
        (good.replace("7700077", "9007199254740992"), Refusal::IntegerRange),
        (good.replace("7700077", "7700077,\"x\":-9007199254740992"), Refusal::IntegerRange),
        (good.replace("7700077", "7700077,\"x\":[[[[[[[[]]]]]]]]"), Refusal::TooDeep),
        ("[".repeat(MANIFEST_PAYLOAD_SIZE_MAX), Refusal::TooDeep),
        ("[]".to_owned(), Refusal::NotAnObject),
        ("0".to_owned(), Refusal::NotAnObject),
        ("null".to_owned(), Refusal::NotAnObject),
        (in_quotes(&"a".repeat(MANIFEST_PAYLOAD_SIZE_MAX - 2)), Refusal::NotAnObject),
        (in_quotes(&"a".repeat(MANIFEST_PAYLOAD_SIZE_MAX - 1)), Refusal::TooLarge(MANIFEST_PAYLOAD_SIZE_MAX + 1)),
        ("{}".to_owned(), Refusal::Missing("blake3")),
    ];
    for (text, refusal) in bad {
        assert_eq!(parse(text.as_bytes()), Err(refusal), "{text}");
    }
    assert_eq!(refusal_of(&[("x", "[[[[[[[]]]]]]]")]), None);
    for bytes in [b"\xff".as_slice(), b"{\"name\":\"\xed\xa0\x80\"}", b"\"\xc0\x80\""] {
        assert_eq!(parse(bytes), Err(Refusal::NotUtf8));
    }
    assert_eq!(parse(&[0xff; MANIFEST_PAYLOAD_SIZE_MAX + 1]), Err(Refusal::TooLarge(MANIFEST_PAYLOAD_SIZE_MAX + 1)));
}

#[test]
fn name_with_a_control_or_bidirectional_character_is_refused() {
    let ranges = [
        '\0'..='\u{1f}',
        '\u{7f}'..='\u{9f}',
        '\u{2028}'..='\u{2029}',
        '\u{61c}'..='\u{61c}',
        '\u{200e}'..='\u{200f}',
        '\u{202a}'..='\u{202e}',
        '\u{2066}'..='\u{2069}',
    ];
    let forbidden: Vec<char> = ranges.into_iter().flatten().collect();
    for character in '\0'..=char::MAX {
        let valid = DisplayName::new(&format!("a{character}b")).is_some();
        assert_eq!(valid, !forbidden.contains(&character), "{character:?}");
    }
    for character in forbidden {
        let name = quote(&character.to_string());
        assert_eq!(refusal_of(&[("name", &name)]), Some(Refusal::Bad("name")));
        assert_eq!(refusal_of(&[("compatible", &name)]), Some(Refusal::Bad("compatible")));
    }
}

#[test]
fn name_of_any_file_can_be_shown() {
    let name_of = |bytes: &[u8]| DisplayName::from_file_name_lossy(OsStr::from_bytes(bytes)).to_string();
    assert_eq!(name_of(b"firmware.bin"), "firmware.bin");
    assert_eq!(name_of(b""), "\u{fffd}");
    assert_eq!(name_of(b"a\x1b[2J\xff\xe2\x80\xaeb"), "a\u{fffd}[2J\u{fffd}\u{fffd}b");
    assert_eq!(name_of(&[b'\n'; 200]), "\u{fffd}".repeat(42));
    assert_eq!(name_of("aé".repeat(60).as_bytes()), "aé".repeat(42) + "a");
}

#[test]
fn members_that_a_receiver_would_refuse_make_no_manifest() {
    let base = good_members();
    assert_eq!(base.manifest(), parse(text_with(&[]).as_bytes()));
    let bad = [
        (Members { version: 1 << 53, ..base.clone() }, Refusal::IntegerRange),
        (Members { expires: Some(u64::MAX), ..base.clone() }, Refusal::IntegerRange),
        (Members { created: Some(2), expires: Some(1), ..base.clone() }, Refusal::Bad("expires")),
        (Members { code: Some(CodeId(8)), ..base.clone() }, Refusal::Bad("code")),
        (Members { repair_max: Some(1001), ..base.clone() }, Refusal::Bad("repair_max")),
        (Members { critical: vec!["\n".to_owned()], ..base.clone() }, Refusal::UnknownCritical("\n".to_owned())),
        (Members { critical: vec!["code".to_owned()], ..base }, Refusal::AbsentCritical("code")),
    ];
    for (members, refusal) in bad {
        assert_eq!(members.manifest(), Err(refusal));
    }
}

/// What `text_with` says without changes.
fn good_members() -> Members {
    let name = DisplayName::new("firmware.bin").unwrap();
    Members::new(Digest::from_hex(HEX).unwrap(), ObjectSize::new(7700077).unwrap(), name)
}

#[test]
fn refusal_of_a_hostile_name_prints_no_control_character() {
    let text = Refusal::UnknownCritical("\u{1b}[2J\u{202e}\n".to_owned()).to_string();
    assert_eq!(text, "critical names member \"\\u{1b}[2J\\u{202e}\\n\", which is not understood");
}

#[test]
fn largest_members_fit_a_packet() {
    let name = DisplayName::new(&"\"".repeat(MANIFEST_NAME_SIZE_MAX)).unwrap();
    let members = Members {
        size: ObjectSize::new(crate::limits::OBJECT_SIZE_MAX).unwrap(),
        name: name.clone(),
        version: canonical::INTEGER_MAX,
        compatible: Some(name),
        created: Some(canonical::INTEGER_MAX),
        expires: Some(canonical::INTEGER_MAX),
        symbol_size: SymbolSize::new(8896),
        code: Some(CodeId(7)),
        repair_max: Some(300),
        tags: Digest::from_hex(HEX),
        critical: UNDERSTOOD.map(str::to_owned).to_vec(),
        ..good_members()
    };
    let manifest = members.manifest().unwrap();
    assert_eq!(*manifest, members);
    assert!(manifest.to_text().len() < MANIFEST_PAYLOAD_SIZE_MAX);
}

fn any_name() -> impl Strategy<Value = DisplayName> {
    prop_oneof![
        any::<Vec<u8>>(),
        any::<String>().prop_map(String::into_bytes),
        "[\"\\\\a/ ]{1,40}".prop_map(String::into_bytes)
    ]
    .prop_map(|bytes| DisplayName::from_file_name_lossy(&std::ffi::OsString::from_vec(bytes)))
}

fn any_members() -> impl Strategy<Value = Members> {
    let second = || prop::option::of(0..=canonical::INTEGER_MAX);
    let object = (any::<[u8; 32]>(), 1..=crate::limits::OBJECT_SIZE_MAX, any_name());
    let use_of = (prop_oneof![Just(0), 0..=canonical::INTEGER_MAX], prop::option::of(any_name()), second(), second());
    let coding = (
        prop::option::of((8u16..=139).prop_map(|count| SymbolSize::new(count * 64).unwrap())),
        prop::option::of((0u8..=7).prop_map(CodeId)),
        prop::option::of(0u16..=300),
        prop::option::of(any::<[u8; 32]>().prop_map(Digest)),
    );
    (object, use_of, coding, prop::sample::subsequence(UNDERSTOOD.to_vec(), 0..=UNDERSTOOD.len())).prop_map(
        |(
            (digest, size, name),
            (version, compatible, created, expires),
            (symbol_size, code, repair_max, tags),
            names,
        )| {
            let mut members = Members {
                version,
                compatible,
                created: created.min(expires.or(created)),
                expires,
                symbol_size,
                code,
                repair_max,
                tags: tags.filter(|_| symbol_size.is_some() && code.is_some()),
                ..Members::new(Digest(digest), ObjectSize::new(size).unwrap(), name)
            };
            let text = members.emit();
            let present = |name: &&str| *name == "version" || text.contains(&format!("\"{name}\":"));
            members.critical = names.into_iter().filter(present).map(str::to_owned).collect();
            members
        },
    )
}

proptest! {
    #[test]
    fn members_are_read_back_as_they_were(members in any_members()) {
        let manifest = members.manifest().unwrap();
        prop_assert_eq!(&*manifest, &members);
        prop_assert_eq!(manifest.ignored(), 0);
        prop_assert_eq!(parse(manifest.to_text().as_bytes()), Ok(manifest));
    }

    #[test]
    fn arbitrary_bytes_do_no_harm(bytes in prop::collection::vec(any::<u8>(), 0..1400)) {
        prop_assert!(parse(&bytes).is_err());
    }

    #[test]
    fn whatever_is_accepted_is_canonical(
        members in any_members(),
        unknown in prop_oneof![Just(""), Just(",\"x\":{\"a\":[1,-2,\"\\u001f\"],\"b\":null}"), Just(",\"x\":0,\"y\":[{}]")],
        edits in prop::collection::vec(any_edit(), 0..3),
    ) {
        let text = members.emit().strip_suffix('}').unwrap().to_owned() + unknown + "}";
        let text = edits.iter().fold(text.into_bytes(), |text, edit| edited(&text, edit));
        if let Ok(manifest) = parse(&text) {
            prop_assert!(is_canonical(std::str::from_utf8(&text).unwrap(), MANIFEST_DEPTH_MAX));
            let again = parse(manifest.to_text().as_bytes()).unwrap();
            prop_assert_eq!(&*again, &*manifest);
            prop_assert_eq!(again.ignored(), 0);
        }
    }
}
