//! Signs as the program `minisign` does (docs/PROTOCOL.md, section 5.3), with the keys of this folder, which are no secret.

use data_encoding::BASE64;

/// The text of the files of a key pair.
pub(crate) struct TestKey {
    secret_file: &'static str,
    public_file: &'static str,
}

pub(crate) const FIRST: TestKey =
    TestKey { secret_file: include_str!("first.key"), public_file: include_str!("first.pub") };
pub(crate) const SECOND: TestKey =
    TestKey { secret_file: include_str!("second.key"), public_file: include_str!("second.pub") };

/// The line of base64 in a minisign file.
fn payload(file: &str) -> &str {
    file.lines().nth(1).expect("a comment, then the payload")
}

impl TestKey {
    /// The public key as minisign takes it on its command line.
    pub(crate) fn public(&self) -> &'static str {
        payload(self.public_file)
    }

    fn secret(&self) -> Vec<u8> {
        BASE64.decode(payload(self.secret_file).as_bytes()).expect("a secret key in base64")
    }

    /// The signature of `text` with this trusted comment, as packets carry it.
    pub(crate) fn sign(&self, text: &[u8], comment: &str) -> Vec<u8> {
        self.sign_as(*b"ED", blake2b_simd::blake2b(text).as_bytes(), comment)
    }

    /// The same in the form of old versions of minisign, which is not taken.
    pub(crate) fn sign_legacy(&self, text: &[u8], comment: &str) -> Vec<u8> {
        self.sign_as(*b"Ed", text, comment)
    }

    fn sign_as(&self, algorithm: [u8; 2], message: &[u8], comment: &str) -> Vec<u8> {
        // Algorithm, key derivation, checksum algorithm, salt and limits; then key id and secret key.
        let secret = self.secret();
        let (id, key) = (&secret[54..62], &secret[62..126]);
        let key = ed25519_compact::SecretKey::from_slice(key).expect("64 bytes");
        let signature = key.sign(message, None);
        let global = key.sign([&signature[..], comment.as_bytes()].concat(), None);
        [&algorithm[..], id, &signature[..], comment.as_bytes(), &global[..]].concat()
    }

    /// A signature file, as minisign writes it.
    pub(crate) fn signature_file(signature: &[u8]) -> String {
        let (head, rest) = signature.split_at(74);
        let (comment, global) = rest.split_at(rest.len() - 64);
        let comment = std::str::from_utf8(comment).expect("a comment in UTF-8");
        let (head, global) = (BASE64.encode(head), BASE64.encode(global));
        format!("untrusted comment: signature of a test\n{head}\ntrusted comment: {comment}\n{global}\n")
    }
}
