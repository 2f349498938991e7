use super::*;
use crate::manifest::signer::{FIRST, SECOND, TestKey};
use proptest::prelude::*;

const TEXT: &[u8] = b"what is signed";
/// Made by the program minisign 0.11.
const MADE_BY_MINISIGN: &str = "untrusted comment: signature from minisign secret key\n\
    RURuP16DjbJA4TyjnovCSOu49fBZQwYMGnZRIN6mJcykLqQBWUbs7+qN7jw2Dzc3NMkzP74bnGBOcYkBpgCJQF7wv4R3diBu3QM=\n\
    trusted comment: timestamp:1795268048\tfile:x.manifest\thashed\n\
    +MEuCRTUT5z7SFOfpdYaDz4zevy5ubUKUVpo585ZZbF++zriUe4kHUYbo3UpdnQsAuqxygoMRHrxZIcHViYxBg==\n";

fn key(key: &TestKey) -> PublicKey {
    PublicKey::parse(key.public()).unwrap()
}

fn verify(signature: &[u8], text: &[u8], keys: &[PublicKey]) -> Result<Voucher, NotAuthentic> {
    Signature::parse(signature).unwrap().verify(text, keys)
}

#[test]
fn signature_of_the_program_is_right_and_that_of_the_tests_is_the_same() {
    let signature = parse_signature_file(MADE_BY_MINISIGN).unwrap();
    let voucher = verify(&signature, b"abc", &[key(&SECOND), key(&FIRST)]).unwrap();
    assert_eq!(voucher.key_id().to_string(), "E140B28D835E3F6E");
    assert_eq!(voucher.comment(), "timestamp:1795268048\tfile:x.manifest\thashed");
    assert_eq!(FIRST.sign(b"abc", voucher.comment()), signature);
    assert_eq!(key(&SECOND).id().to_string(), "D0C38A61F2176A3", "without leading zeroes, as minisign has it");
}

#[test]
fn every_bit_of_a_signature_counts() {
    let signature = FIRST.sign(TEXT, "comment");
    assert!(verify(&signature, TEXT, &[key(&FIRST)]).is_ok());
    for bit in 0..8 * signature.len() {
        let mut changed = signature.clone();
        changed[bit / 8] ^= 1 << (bit % 8);
        let is_taken = Signature::parse(&changed).is_ok_and(|it| it.verify(TEXT, &[key(&FIRST)]).is_ok());
        assert!(!is_taken, "bit {bit}");
    }
    assert_eq!(verify(&signature, b"what is signet", &[key(&FIRST)]), Err(NotAuthentic::WrongSignature));
    let shifted = [&signature[..74], b"comments", &signature[81..]].concat();
    assert_eq!(verify(&shifted, TEXT, &[key(&FIRST)]), Err(NotAuthentic::WrongSignature));
}

#[test]
fn other_key_is_named_and_one_that_takes_its_id_is_found_out() {
    let signature = SECOND.sign(TEXT, "");
    let second = key(&SECOND);
    assert_eq!(verify(&signature, TEXT, &[key(&FIRST)]), Err(NotAuthentic::UnknownKey(second.id())));
    assert_eq!(verify(&signature, TEXT, &[]), Err(NotAuthentic::UnknownKey(second.id())));
    let mut renamed = signature.clone();
    renamed[2..10].copy_from_slice(&key(&FIRST).id().0);
    assert_eq!(verify(&renamed, TEXT, &[key(&FIRST), second]), Err(NotAuthentic::WrongSignature));
}

#[test]
fn form_of_signatures_is_kept() {
    let good = FIRST.sign(TEXT, "a\tb");
    let with = |comment: &[u8]| [&good[..74], comment, &good[77..]].concat();
    for (bytes, expected) in [
        (vec![], BadSignature::Form),
        (good[..137].to_vec(), BadSignature::Form),
        (FIRST.sign_legacy(TEXT, "a\tb"), BadSignature::Legacy),
        ([b"XX", &good[2..]].concat(), BadSignature::Algorithm),
        (with(&[b'x'; 257]), BadSignature::CommentSize(257)),
        (with(b"\xff"), BadSignature::Comment),
        (with(b"a\nb"), BadSignature::Comment),
        (with(b"a\r"), BadSignature::Comment),
        (with(b"\x1b[2J"), BadSignature::Comment),
        (with("\u{9b}2J".as_bytes()), BadSignature::Comment),
    ] {
        assert_eq!(Signature::parse(&bytes), Err(expected), "{}", bytes.escape_ascii());
    }
    for comment in ["", "a\tb", &"x".repeat(256), "\u{1f512} signed by me"] {
        assert!(verify(&FIRST.sign(TEXT, comment), TEXT, &[key(&FIRST)]).is_ok(), "{comment}");
    }
}

#[test]
fn form_of_signature_files_is_kept() {
    let lines: Vec<&str> = MADE_BY_MINISIGN.lines().collect();
    let [untrusted, head, trusted, global] = lines[..] else { panic!("four lines") };
    let long = format!("trusted comment: {}", "x".repeat(257));
    let legacy = TestKey::signature_file(&FIRST.sign_legacy(TEXT, ""));
    let file = |lines: [&str; 4]| lines.join("\n");
    for (text, expected) in [
        (String::new(), BadSignature::Form),
        (lines[..3].join("\n"), BadSignature::Form),
        (file([head, untrusted, trusted, global]), BadSignature::Form),
        (file([untrusted, global, trusted, head]), BadSignature::Form),
        (file([untrusted, &head[1..], trusted, global]), BadSignature::Form),
        (file([untrusted, head, untrusted, global]), BadSignature::Form),
        (file([untrusted, head, trusted, "===="]), BadSignature::Form),
        (file([head, head, trusted, global]), BadSignature::Form),
        (format!("{MADE_BY_MINISIGN}more\n"), BadSignature::Form),
        (file([untrusted, head, &long, global]), BadSignature::CommentSize(257)),
        (legacy, BadSignature::Legacy),
    ] {
        assert_eq!(parse_signature_file(&text), Err(expected), "{text:?}");
    }
    assert!(parse_signature_file(&MADE_BY_MINISIGN.replace('\n', "\r\n")).is_ok());
    let signature = FIRST.sign(TEXT, "a\tb");
    assert_eq!(parse_signature_file(&TestKey::signature_file(&signature)), Ok(signature));
}

#[test]
fn form_of_public_keys_is_kept() {
    let good = FIRST.public();
    let file = format!("untrusted comment: minisign public key\n{good}\n");
    assert_eq!(PublicKey::parse_file(&file), PublicKey::parse(good));
    assert!(PublicKey::parse(good).is_some());
    let other_algorithm = BASE64.encode(&[b'X'; 42]);
    for bad in ["", "minisign.pub", &good[1..], &good[4..], &format!("{good}AAAA"), &other_algorithm, "\u{e9}"] {
        assert_eq!(PublicKey::parse(bad), None, "{bad}");
        assert_eq!(PublicKey::parse_file(&format!("untrusted comment: x\n{bad}\n")), None, "{bad}");
    }
    for bad in [good, &format!("{good}\n"), &format!("{file}more\n"), &format!("\n{good}"), "untrusted comment: "] {
        assert_eq!(PublicKey::parse_file(bad), None, "{bad}");
    }
}

proptest! {
    /// Nor does whatever the crate below is handed.
    #[test]
    fn no_bytes_make_it_panic_or_believe(
        fixed in prop::collection::vec(any::<u8>(), 128),
        comment in prop::collection::vec(any::<u8>(), 0..300),
        key in prop::array::uniform32(any::<u8>()),
        text in any::<String>(),
    ) {
        let id = [7; 8];
        let bytes = [b"ED", &id[..], &fixed[..64], &comment, &fixed[64..]].concat();
        let key = PublicKey::parse(&BASE64.encode(&[b"Ed", &id[..], &key].concat())).unwrap();
        if let Ok(signature) = Signature::parse(&bytes) {
            prop_assert_eq!(signature.verify(text.as_bytes(), &[key]), Err(NotAuthentic::WrongSignature));
            prop_assert_eq!(parse_signature_file(&signature.to_file()).unwrap(), bytes);
        }
        let _ = Signature::parse(&comment);
        let _ = (parse_signature_file(&text), PublicKey::parse(&text), PublicKey::parse_file(&text));
    }

    #[test]
    fn no_text_that_is_nearly_a_signature_file_makes_it_panic(
        at in any::<prop::sample::Index>(),
        replacement in any::<char>(),
        cut in any::<prop::sample::Index>(),
    ) {
        let mut letters: Vec<char> = MADE_BY_MINISIGN.chars().collect();
        let place = at.index(letters.len());
        letters[place] = replacement;
        let end = cut.index(letters.len() + 1);
        let text: String = letters[..end].iter().collect();
        if let Ok(bytes) = parse_signature_file(&text) {
            let voucher = verify(&bytes, b"abc", &[key(&FIRST)]);
            let is_in_untrusted_comment = place < MADE_BY_MINISIGN.find('\n').unwrap();
            prop_assert!(voucher.is_err() || is_in_untrusted_comment || letters[place] == MADE_BY_MINISIGN.chars().nth(place).unwrap());
        }
    }
}
