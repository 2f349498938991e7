//! Signatures and keys as files and packets have them: read or refused, and only the one that was made is right.

use iotupd::manifest::{PublicKey, Signature, parse_signature_file};

const KEY: &str = include_str!("signed/key.pub");
const TEXT: &[u8] = include_bytes!("signed/text");
const FILE: &str = include_str!("signed/text.minisig");

/// By the first byte: the rest is a file of a key, one of a signature, a signature as packets carry it, or what changes each byte of
/// the one that is right.
pub fn signature(bytes: &[u8]) {
    let Some((kind, rest)) = bytes.split_first() else { return };
    let right = parse_signature_file(FILE).expect("it was made by minisign");
    match (kind % 4, std::str::from_utf8(rest)) {
        (0, Ok(text)) => {
            let file = PublicKey::parse_file(text);
            assert!(file.is_none() || text.lines().nth(1).and_then(PublicKey::parse) == file, "one key, one reading");
        }
        (1, Ok(text)) => {
            if let Ok(read) = parse_signature_file(text) {
                check(&read, &right);
            }
        }
        (2, _) => check(rest, &right),
        (3, _) => {
            let changes = rest.iter().chain(std::iter::repeat(&0));
            check(&right.iter().zip(changes).map(|(byte, change)| byte ^ change).collect::<Vec<_>>(), &right);
        }
        _ => {}
    }
}

/// Whether it is vouched for must be whether it is the one that was made.
fn check(bytes: &[u8], right: &[u8]) {
    let Ok(signature) = Signature::parse(bytes) else {
        return assert_ne!(bytes, right, "what minisign made has a signature's form");
    };
    let key = PublicKey::parse_file(KEY).expect("it was made by minisign");
    let verdict = signature.verify(TEXT, std::slice::from_ref(&key));
    assert_eq!(verdict.is_ok(), bytes == right, "{verdict:?}");
    assert!(signature.verify(&TEXT[1..], &[key]).is_err(), "it is of another text");
}
