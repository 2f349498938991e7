//! Signed manifests, from `iotup manifest` and `minisign` to the receiver that takes nothing else.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

use serde_json::Value;

use crate::files::{Content, MIB, assert_same, make};
use crate::garbage::{CODE_AND_TAG, Header, MANIFEST, SEND_LINES, manifest_payload};
use crate::lab::{Family, Host, Lab};
use crate::run::{Ended, Process, Program, count, part_of, receive_until, run_to_end, serve, text};
use crate::signer::{FIRST, SECOND, TestKey};

const FIRST_ID: &str = "E140B28D835E3F6E";

pub(crate) fn keys(name: &str) -> String {
    format!("{}/tests/keys/{name}", env!("CARGO_MANIFEST_DIR"))
}

pub(crate) fn beside(file: &Path, suffix: &str) -> PathBuf {
    PathBuf::from(format!("{}{suffix}", file.display()))
}

/// `iotup WORDS...`
fn iotup(words: &[&str]) -> Output {
    Command::new(Program::Tool.path()).args(words).stdin(Stdio::null()).output().expect("run iotup")
}

pub(crate) fn path_text(path: &Path) -> &str {
    path.to_str().expect("the paths of tests are UTF-8")
}

/// Writes FILE.manifest as the README says.
pub(crate) fn write_manifest(file: &Path, options: &[&str]) {
    let output = iotup(&[&["manifest", path_text(file)], options].concat());
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    fs::write(beside(file, ".manifest"), output.stdout).expect("write the manifest");
}

/// Signs FILE.manifest as the README says.
pub(crate) fn sign(file: &Path, key: &str, options: &[&str]) {
    let mut command = Command::new("minisign");
    command.args(["-S", "-s", &keys(key), "-m"]).arg(beside(file, ".manifest")).args(options);
    let output = command.stdin(Stdio::null()).output().expect("run minisign");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

pub(crate) fn signed_file(lab: &Lab, name: &str, seed: u8, options: &[&str]) -> PathBuf {
    let file = make(lab, name, Content::Random { size: 2 * MIB + 777, seed });
    write_manifest(&file, options);
    sign(&file, "first.key", &[]);
    file
}

fn receive(host: &Host, file: &Path, group: &str, options: &[&str]) -> Process {
    receive_until(host, file, group, &[&["--pubkey", &keys("first.pub")], options].concat())
}

fn dropped(ended: &Ended, reason: &str) -> u64 {
    ended.end()["dropped"][reason].as_u64().unwrap_or(0)
}

/// What a receiver leaves that has accepted nothing.
fn assert_nothing_was_created(file: &Path) {
    for path in [file.to_owned(), part_of(file), part_of(file).with_extension("slots")] {
        assert!(!path.exists(), "{}", path.display());
    }
}

/// Signed v1; v2 replaces it; v1 comes again.
#[test]
fn newer_version_replaces_an_older_one_and_a_replayed_one_replaces_nothing() {
    let mut lab = Lab::new();
    let (server_host, host) = (lab.host(), lab.host());
    let (group, copy, state) = (Family::V6.group(), lab.path("copy"), lab.path("state"));
    let state = path_text(&state);
    let old = signed_file(&lab, "old", 1, &["--version", "1"]);
    let new = signed_file(&lab, "new", 2, &["--version", "2"]);
    for (version, file) in [(1, &old), (2, &new)] {
        let server = serve(&lab, &server_host, file, group, &["--rate", "100M"]);
        let sending = server.wait_for_event("sending");
        assert_eq!((count(&sending, "version"), text(&sending, "signed_by")), (version, FIRST_ID));
        let ended = receive(&host, &copy, group, &["--timeout", "60s", "--state-file", state]).wait();
        let end = ended.completed();
        assert_same(&copy, file);
        for event in [end, ended.first("manifest")] {
            assert_eq!((count(event, "version"), &event["authenticated"]), (version, &Value::Bool(true)));
            assert_eq!(text(event, "key"), FIRST_ID);
            assert!(text(event, "trusted_comment").contains(".manifest"), "{event}");
        }
        let kept = fs::read_to_string(state).expect("read the state");
        assert!(kept.contains(&format!("version {version}\n")), "{kept}");
        server.kill();
    }
    let replayer = serve(&lab, &server_host, &old, group, &["--rate", "100M"]);
    let _ = replayer.wait_for_event("sending");
    let ended = receive(&host, &copy, group, &["--timeout", "5s", "--state-file", state]).wait();
    assert_eq!(ended.exit, Some(77), "{}", ended.stderr);
    assert!(dropped(&ended, "old_version") > 10, "{}", ended.end());
    assert_eq!(ended.notices("not_trusted").len(), 1, "said once");
    assert!(text(ended.end(), "message").contains("too old a version"), "{}", ended.end());
    assert_same(&copy, &new);
    assert!(!part_of(&copy).exists());
    assert!(fs::read_to_string(state).expect("read the state").contains("version 2\n"));
}

/// Many receivers of the same packets, each told something else.
#[test]
fn only_what_is_asked_for_is_taken() {
    let mut lab = Lab::new();
    let (server_host, host) = (lab.host(), lab.host());
    let good = &["--version", "7", "--compatible", "board-a", "--created", "2020-01-01", "--expires", "2100-01-01"];
    let sources = [
        ("239.77.1.1", signed_file(&lab, "good", 1, good)),
        ("239.77.1.2", make(&lab, "unsigned", Content::Random { size: MIB, seed: 2 })),
        ("239.77.1.3", signed_file(&lab, "expired", 3, &["--created", "2020-01-01", "--expires", "2021-01-01"])),
        ("239.77.1.4", signed_file(&lab, "future", 4, &["--created", "2100-01-01", "--expires", "2101-01-01"])),
    ];
    let servers: Vec<_> =
        sources.iter().map(|(group, file)| serve(&lab, &server_host, file, group, &["--rate", "40M"])).collect();
    servers.iter().for_each(|server| _ = server.wait_for_event("sending"));
    let first = keys("first.pub");
    let [good, unsigned, expired, future] = ["239.77.1.1", "239.77.1.2", "239.77.1.3", "239.77.1.4"];
    // The group, what it is told, and why it refuses, if it does.
    let cases: [(&str, &[&str], Option<&str>); 15] = [
        (good, &[], None),
        (good, &["--pubkey", &first], None),
        (good, &["--pubkey", FIRST.public()], None),
        (good, &["--pubkey", SECOND.public()], Some("unknown_key")),
        (good, &["--pubkey", SECOND.public(), "--pubkey", &first], None),
        (good, &["--pubkey", &first, "--compatible", "board-a"], None),
        (good, &["--pubkey", &first, "--compatible", "board-b"], Some("not_compatible")),
        (good, &["--pubkey", &first, "--min-version", "7"], None),
        (good, &["--pubkey", &first, "--min-version", "8"], Some("old_version")),
        (good, &["--pubkey", &first, "--max-size", "1M"], Some("too_large")),
        (unsigned, &["--pubkey", &first], Some("unsigned_manifest")),
        (unsigned, &[], None),
        (expired, &["--pubkey", &first], Some("expired_manifest")),
        (future, &["--pubkey", &first], None),
        (future, &["--pubkey", &first, "--clock-unset", "refuse"], Some("clock_unset")),
    ];
    let start = |(number, (group, options, refused)): (usize, &(&str, &[&str], Option<&str>))| {
        // Enough for all to start at once on a machine that is busy with other things, too.
        let timeout = if refused.is_some() { "12s" } else { "60s" };
        let file = lab.path(&format!("copy{number}"));
        let receiver = receive_until(&host, &file, group, &[*options, &["--timeout", timeout]].concat());
        (file, receiver)
    };
    let running: Vec<_> = cases.iter().enumerate().map(start).collect();
    for ((group, options, refused), (copy, receiver)) in cases.iter().zip(running) {
        let ended = receiver.wait();
        match refused {
            None => {
                let is_authenticated = ended.completed()["authenticated"] == true;
                assert_eq!(is_authenticated, !options.is_empty(), "{options:?}");
                let (_, source) = sources.iter().find(|(other, _)| other == group).expect("a group of this test");
                assert_same(&copy, source);
            }
            Some(reason) => {
                assert_eq!(ended.exit, Some(77), "{options:?}: {:?} {}", ended.events.last(), ended.stderr);
                assert!(dropped(&ended, reason) > 0, "{options:?}: {}", ended.end());
                assert_nothing_was_created(&copy);
            }
        }
    }
}

/// Manifest packets of everything that a forger can send, each of them another one.
pub(crate) fn forgeries(size: u64, rounds: u32) -> Vec<Vec<u8>> {
    let digest = blake3::hash(b"what a forger would like to be installed");
    let object: &[u8; 12] = digest.as_bytes()[..12].try_into().expect("12 of 32 bytes");
    let header = Header {
        magic: 0x107D,
        version: 1,
        kind: MANIFEST,
        code_and_tag: CODE_AND_TAG,
        position: 0,
        object,
        size,
        esi: 0,
        block: 0,
    };
    let text_of = |version: u32| format!(r#"{{"blake3":"{digest}","name":"n","size":{size},"version":{version}}}"#);
    let forge = |number: u32| {
        let text = text_of(number + 1000);
        let text = text.as_bytes();
        let by_other_key = SECOND.sign(text, "");
        let of_other_text = FIRST.sign(text_of(number).as_bytes(), "");
        let payloads: [&[u8]; 3] = [&[], &by_other_key, &of_other_text];
        payloads.map(|signature| header.packet(&manifest_payload(text, signature)))
    };
    (0..rounds).flat_map(forge).collect()
}

/// Sends packets to a group one after the other and over again, 500 a second, until it is killed.
pub(crate) fn pour(host: &Host, group: &str, packets: Vec<Vec<u8>>) -> (Child, std::thread::JoinHandle<()>) {
    let mut command = host.command("python3");
    command.args(["-c", SEND_LINES, group, "4242", &host.address_v4()]).stdin(Stdio::piped());
    let mut child = command.spawn().expect("start python3");
    let mut lines = child.stdin.take().expect("stdin is piped");
    let thread = std::thread::spawn(move || {
        for packet in packets.iter().cycle() {
            let line: String = packet.iter().map(|byte| format!("{byte:02x}")).chain(["\n".to_owned()]).collect();
            if lines.write_all(line.as_bytes()).is_err() {
                // The test has ended, and python3 with it.
                return;
            }
        }
    });
    (child, thread)
}

#[test]
fn nothing_is_written_before_a_signature_is_right_however_many_are_wrong() {
    let mut lab = Lab::new();
    let (server_host, forger_host, host) = (lab.host(), lab.host(), lab.host());
    let file = signed_file(&lab, "source", 1, &["--version", "3"]);
    let copies = lab.folder("copies");
    let receiver = receive(&host, &copies.join("copy"), Family::V4.group(), &["--timeout", "60s"]);
    let _ = receiver.wait_for_event("listening");
    let (mut forger, feeder) = pour(&forger_host, Family::V4.group(), forgeries(9 * MIB, 1000));
    for reason in ["not signed", "another key", "forged"] {
        let said = |event: &Value| event["kind"] == "not_trusted" && text(event, "text").contains(reason);
        let _ = receiver.wait_for(reason, said);
    }
    let entries = fs::read_dir(&copies).expect("list the folder").count();
    assert_eq!(entries, 0, "not even a .part");
    let _server = serve(&lab, &server_host, &file, Family::V4.group(), &["--rate", "20M"]);
    let ended = receiver.wait();
    let end = ended.completed();
    assert_eq!((&end["authenticated"], count(end, "version")), (&Value::Bool(true), 3));
    assert_same(&copies.join("copy"), &file);
    assert!(forger.try_wait().expect("look at python3").is_none(), "forged until the end");
    forger.kill().and_then(|()| forger.wait()).expect("end python3");
    feeder.join().expect("the feeder ends with python3");
}

/// Takes ten seconds: so long the old version must have been silent.
#[test]
fn version_that_is_withdrawn_gives_way_to_a_newer_one() {
    let mut lab = Lab::new();
    let (server_host, host) = (lab.host(), lab.host());
    let (group, copy) = (Family::V4.group(), lab.path("copy"));
    let old = make(&lab, "old", Content::Random { size: 8 * MIB, seed: 1 });
    write_manifest(&old, &["--version", "1"]);
    sign(&old, "first.key", &[]);
    let new = signed_file(&lab, "new", 2, &["--version", "2"]);
    let server = serve(&lab, &server_host, &old, group, &["--rate", "10M"]);
    let receiver = receive(&host, &copy, group, &["--timeout", "80s"]);
    let _ = receiver.wait_for("progress", |event| event["event"] == "progress" && event["held"] != 0);
    server.kill();
    let _server = serve(&lab, &server_host, &new, group, &["--rate", "20M"]);
    let ended = receiver.wait();
    let end = ended.completed();
    assert_eq!(count(end, "version"), 2);
    assert_eq!(ended.notices("succeeded").len(), 1);
    assert_same(&copy, &new);
}

#[test]
fn server_refuses_a_manifest_that_is_not_that_of_its_file() {
    let mut lab = Lab::new();
    let host = lab.host();
    let case = |name: &str, change: &dyn Fn(&Path), cause: &str| {
        let file = make(&lab, name, Content::Random { size: 5000, seed: 1 });
        write_manifest(&file, &["--version", "3"]);
        sign(&file, "first.key", &[]);
        change(&file);
        let mut command = host.command(Program::Server.path());
        let refusal = run_to_end(command.args(["-i", "eth0", "--cycles", "1"]).arg(&file).arg("239.77.1.1"));
        assert_eq!(refusal.exit, Some(65), "{name}: {}", refusal.stderr);
        let is_one_line = refusal.stderr.matches('\n').count() == 1;
        assert!(is_one_line && refusal.stderr.contains(cause), "{name}: {}", refusal.stderr);
    };
    let append = |path: PathBuf| {
        let mut file = fs::File::options().append(true).open(path).expect("open to append");
        file.write_all(b"\n").expect("append a line feed");
    };
    case("longer", &|file| append(file.to_owned()), "says 5000 bytes, but");
    case("other", &|file| fs::write(file, [7; 5000]).expect("overwrite"), "says blake3");
    case("edited", &|file| append(beside(file, ".manifest")), "canonical form");
    case("alone", &|file| fs::remove_file(beside(file, ".manifest")).expect("remove"), "there is no");
    case("legacy", &|file| sign(file, "first.key", &["-l"]), "not prehashed");
    case("comment", &|file| sign(file, "first.key", &["-t", &"x".repeat(257)]), "257 bytes, at most 256");
    let empty = |file: &Path| fs::write(beside(file, ".manifest.minisig"), b"").expect("overwrite");
    case("empty", &empty, "not a minisign signature");
}

/// The signer of the tests, the program minisign and the two of ours that read signatures agree.
#[test]
fn what_minisign_signs_is_what_is_verified() {
    let lab = Lab::new();
    let file = make(&lab, "source", Content::Random { size: 5000, seed: 1 });
    write_manifest(&file, &["--version", "3", "--expires", "+90d"]);
    sign(&file, "first.key", &["-t", "a\tcomment"]);
    let manifest = beside(&file, ".manifest");
    let signature = beside(&file, ".manifest.minisig");
    let signed = fs::read_to_string(&signature).expect("read the signature");
    let by_tests = TestKey::signature_file(&FIRST.sign(&fs::read(&manifest).expect("read the text"), "a\tcomment"));
    let without_untrusted = |text: &str| text.split_once('\n').map(|(_, rest)| rest.to_owned());
    assert_eq!(without_untrusted(&signed), without_untrusted(&by_tests));

    let (manifest, file_text) = (path_text(&manifest), path_text(&file));
    let (first, second) = (keys("first.pub"), keys("second.pub"));
    let verify = |words: &[&str]| {
        let output = iotup(&[&["verify"], words].concat());
        (output.status.code(), String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned())
    };
    let (exit, said) = verify(&[manifest, "--pubkey", &first]);
    assert!(exit == Some(0) && said.contains(FIRST_ID) && said.contains("a\tcomment"), "{said}");
    assert!(said.contains("source: matches"), "the file beside it is looked at: {said}");
    let (exit, said) = verify(&[manifest]);
    assert!(exit == Some(0) && said.contains("not authenticated"), "{said}");
    assert_eq!(verify(&[manifest, "--pubkey", &second, "--pubkey", &first, file_text]).0, Some(0));
    assert_eq!(verify(&[manifest, "--pubkey", &second]).0, Some(77));
    assert_eq!(verify(&[manifest, "--pubkey", "none.pub"]).0, Some(66));
    assert_eq!(verify(&[file_text, "--pubkey", &first]).0, Some(65), "not a manifest");
    assert_eq!(verify(&["none.manifest", "--pubkey", &first]).0, Some(66));
    assert_eq!(verify(&[manifest, "--pubkey", &first, "none"]).0, Some(66));
    fs::write(&signature, signed.replace("a\tcomment", "b\tcomment")).expect("change the comment");
    assert_eq!(verify(&[manifest, "--pubkey", &first]).0, Some(77));
    fs::write(&signature, &signed).expect("restore the signature");
    fs::write(&file, "other").expect("change the file");
    assert_eq!(verify(&[manifest, "--pubkey", &first]).0, Some(65));
    fs::remove_file(&signature).expect("remove the signature");
    assert_eq!(verify(&[manifest, "--pubkey", &first]).0, Some(77));
    write_manifest(&file, &["--created", "2020-01-01", "--expires", "2021-01-01"]);
    sign(&file, "first.key", &[]);
    assert_eq!(verify(&[manifest, "--pubkey", &first]).0, Some(77), "expired");
}

#[test]
fn mistakes_with_trust_are_told_before_anything_is_received() {
    let mut lab = Lab::new();
    let host = lab.host();
    let (first, copy) = (keys("first.pub"), lab.path("copy"));
    let written = |name: &str, content: &str| {
        let path = lab.path(name);
        fs::write(&path, content).expect("write a file");
        path_text(&path).to_owned()
    };
    let (damaged, no_key) = (written("damaged", "iotupc state 1\nversion 1\n"), written("no-key", "hello\n"));
    let nowhere = lab.path("none").join("state");
    let cases: [(&[&str], i32, &str); 8] = [
        (&["--min-version", "1"], 64, "--pubkey"),
        (&["--state-file", "x"], 64, "--pubkey"),
        (&["--pubkey", &first, "--compatible", ""], 64, "--compatible"),
        (&["--pubkey", &first, "--clock-unset", "maybe"], 64, "--clock-unset"),
        (&["--pubkey", "none.pub"], 66, "neither a minisign public key nor a file"),
        (&["--pubkey", &no_key], 65, "holds no minisign public key"),
        (&["--pubkey", &first, "--state-file", &damaged], 65, "damaged"),
        (&["--pubkey", &first, "--state-file", path_text(&nowhere)], 73, "none"),
    ];
    for (options, exit, cause) in cases {
        let mut command = host.command(Program::Receiver.path());
        let refusal = run_to_end(command.args(options).args(["-i", "eth0"]).arg(&copy).arg("239.77.1.1"));
        assert_eq!(refusal.exit, Some(exit), "{options:?}: {}", refusal.stderr);
        let is_one_line = refusal.stderr.matches('\n').count() == 1;
        assert!(is_one_line && refusal.stderr.contains(cause), "{options:?}: {}", refusal.stderr);
    }
    assert_eq!(fs::read_to_string(&damaged).expect("read the state"), "iotupc state 1\nversion 1\n");
    assert_nothing_was_created(&copy);
    let file = make(&lab, "source", Content::Random { size: 10, seed: 1 });
    let long = "\"".repeat(128);
    let output = iotup(&["manifest", path_text(&file), "--name", &long, "--compatible", &long]);
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.code() == Some(64) && said.contains("not every signature fits"), "{said}");
}
