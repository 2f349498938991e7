//! The floors of `src/lib.rs`: a module uses only what is below it, the protocol does no I/O, and `unsafe` stays under `sys`.
//!
//! The sources are read as text: comments, strings and characters are blanked out, and what is left is split into words and
//! signs. That is enough, because the rules are about names and not about types. By the same means: tests that `cargo test` ignores
//! are run by somebody.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

/// Every module at the top of the crate, and the modules that it may use besides itself. `bin` stands for `src/bin`, `lib` for
/// `src/lib.rs`. A module that is not here is an error: whoever adds one says where it stands.
const FLOORS: [(&str, &[&str]); 18] = [
    ("limits", &[]),
    ("types", &["limits"]),
    ("failure", &["limits", "types"]),
    ("object", &["types", "limits", "failure"]),
    ("digest", &["types", "limits", "failure", "object"]),
    ("fec", &["types", "limits", "failure", "object"]),
    ("manifest", &["types", "limits", "failure", "object", "digest"]),
    ("wire", PROTOCOL_BELOW_WIRE),
    ("sender", PROTOCOL_BELOW_MACHINES),
    ("receiver", PROTOCOL_BELOW_MACHINES),
    ("discovery", PROTOCOL_BELOW_MACHINES),
    ("agent", PROTOCOL_BELOW_MACHINES),
    ("diagnosis", &["types", "limits", "failure"]),
    ("sys", &["types", "limits", "failure"]),
    ("cli", &["types", "limits", "failure"]),
    ("drive", ALL_BUT_CLI),
    ("bin", ALL),
    ("lib", ALL),
];
const PROTOCOL_BELOW_WIRE: &[&str] = &["types", "limits", "failure", "object", "digest", "manifest"];
const PROTOCOL_BELOW_MACHINES: &[&str] = &["types", "limits", "failure", "object", "digest", "manifest", "wire"];
const ALL: &[&str] = &[
    "types",
    "limits",
    "failure",
    "object",
    "digest",
    "fec",
    "manifest",
    "wire",
    "sender",
    "receiver",
    "discovery",
    "agent",
    "diagnosis",
    "sys",
    "cli",
    "drive",
];
/// Without the last two of them, `cli` and `drive`.
const ALL_BUT_CLI: &[&str] = ALL.split_at(ALL.len() - 2).0;

/// The tests of a machine may drive it by its counterpart: the receiver's by a real sender, and do what `drive` does around it.
const TESTS_MAY_USE_AS_WELL: [(&str, &str); 3] = [("receiver", "sender"), ("receiver", "fec"), ("sender", "fec")];

/// The modules that are functions of what they are given.
const PROTOCOL: [&str; 13] = [
    "types",
    "limits",
    "object",
    "digest",
    "fec",
    "manifest",
    "wire",
    "sender",
    "receiver",
    "discovery",
    "agent",
    "diagnosis",
    "failure",
];

/// What the protocol never names, as paths.
const FORBIDDEN_IN_PROTOCOL: [&str; 7] = [
    "std::fs",
    "std::net::UdpSocket",
    "std::thread",
    "std::time::Instant",
    "std::time::SystemTime",
    "std::collections::HashMap",
    "std::collections::HashSet",
];

/// The source without comments, and with nothing in strings and characters.
fn blanked(source: &str) -> String {
    let mut out = String::with_capacity(source.len());
    let mut rest = source;
    while let Some(first) = rest.chars().next() {
        let size = blank_size(rest, out.chars().last());
        if size > 0 {
            out.push(' ');
            rest = &rest[size..];
        } else {
            out.push(first);
            rest = &rest[first.len_utf8()..];
        }
    }
    out
}

/// The bytes of the comment, string or character at the start of `rest`; 0 if there is none.
fn blank_size(rest: &str, before: Option<char>) -> usize {
    if rest.starts_with("//") {
        return rest.find('\n').unwrap_or(rest.len());
    }
    if rest.starts_with("/*") {
        return block_comment_size(rest);
    }
    let is_word_start = before.is_none_or(|before| !before.is_alphanumeric() && before != '_');
    let marks = rest.trim_start_matches(['b', 'c']);
    let prefix = rest.len() - marks.len();
    if let Some(raw) = marks.strip_prefix('r').filter(|_| is_word_start && prefix <= 1) {
        let hashes = raw.len() - raw.trim_start_matches('#').len();
        if raw[hashes..].starts_with('"') {
            let end = format!("\"{}", "#".repeat(hashes));
            let body = &raw[hashes + 1..];
            return rest.len() - body.len() + body.find(&end).map_or(body.len(), |at| at + end.len());
        }
    }
    match rest.chars().next() {
        Some('"') => quoted_size(rest, '"'),
        // A lifetime has no closing quote behind its first character.
        Some('\'') if rest[1..].starts_with('\\') || rest.chars().nth(2) == Some('\'') => quoted_size(rest, '\''),
        _ => 0,
    }
}

fn block_comment_size(rest: &str) -> usize {
    let (mut depth, mut at) = (0, 0);
    while at < rest.len() {
        let tail = &rest[at..];
        let step = match tail {
            _ if tail.starts_with("/*") => {
                depth += 1;
                2
            }
            _ if tail.starts_with("*/") => {
                depth -= 1;
                2
            }
            _ => tail.chars().next().map_or(1, char::len_utf8),
        };
        at += step;
        if depth == 0 {
            return at;
        }
    }
    rest.len()
}

fn quoted_size(rest: &str, quote: char) -> usize {
    let mut is_escaped = false;
    for (at, character) in rest.char_indices().skip(1) {
        match character {
            _ if is_escaped => is_escaped = false,
            '\\' => is_escaped = true,
            _ if character == quote => return at + quote.len_utf8(),
            _ => {}
        }
    }
    rest.len()
}

/// Words, `::` and single signs.
fn tokens(blanked: &str) -> Vec<&str> {
    let mut tokens = Vec::new();
    let mut rest = blanked.trim_start();
    while let Some(first) = rest.chars().next() {
        let is_word = |character: char| character.is_alphanumeric() || character == '_';
        let size = match first {
            _ if is_word(first) => rest.find(|character| !is_word(character)).unwrap_or(rest.len()),
            _ if rest.starts_with("::") => 2,
            _ => first.len_utf8(),
        };
        tokens.push(&rest[..size]);
        rest = rest[size..].trim_start();
    }
    tokens
}

/// A path that the source names, with what stands in braces multiplied out, and whether it stands in tests.
#[derive(Clone, PartialEq, Eq, Debug)]
struct Named {
    path: Vec<String>,
    /// How many modules lie between the path and the file's own module.
    inline_depth: usize,
    in_tests: bool,
}

/// All paths of more than one word.
fn paths(tokens: &[&str]) -> Vec<Named> {
    let mut found = Vec::new();
    // For each open brace: whether it opened a module, and whether that has the name by which tests go.
    let mut braces: Vec<(bool, bool)> = Vec::new();
    let mut at = 0;
    while at < tokens.len() {
        let inline_depth = braces.iter().filter(|brace| brace.0).count();
        let in_tests = braces.iter().any(|brace| brace.1);
        match tokens[at] {
            "{" => {
                let is_module = at >= 2 && tokens[at - 2] == "mod";
                braces.push((is_module, is_module && tokens[at - 1] == "tests"));
                at += 1;
            }
            "}" => {
                braces.pop();
                at += 1;
            }
            _ if tokens.get(at + 1) == Some(&"::") && is_name(tokens[at]) => {
                let (mut some, end) = path_tree(tokens, at, &[]);
                found.extend(some.drain(..).map(|path| Named { path, inline_depth, in_tests }));
                at = end;
            }
            _ => at += 1,
        }
    }
    found
}

fn is_name(token: &str) -> bool {
    token.starts_with(|character: char| character.is_alphabetic() || character == '_')
}

/// The paths that begin at `at`, behind `prefix`, and where they end.
fn path_tree(tokens: &[&str], mut at: usize, prefix: &[String]) -> (Vec<Vec<String>>, usize) {
    let mut path = prefix.to_vec();
    loop {
        match tokens.get(at) {
            Some(&"{") => {
                let mut all = Vec::new();
                at += 1;
                while at < tokens.len() && tokens[at] != "}" {
                    let (some, end) = path_tree(tokens, at, &path);
                    all.extend(some);
                    at = end.max(at + 1);
                    // `as name` and commas.
                    while at < tokens.len() && !["}", ","].contains(&tokens[at]) {
                        at += 1;
                    }
                    at += usize::from(tokens.get(at) == Some(&","));
                }
                return (all, at + 1);
            }
            Some(token) if is_name(token) || *token == "*" => {
                path.push((*token).to_owned());
                at += 1;
                if tokens.get(at) != Some(&"::") {
                    return (vec![path], at);
                }
                at += 1;
            }
            _ => return (vec![path], at),
        }
    }
}

/// The modules that a file at `path` under `src` is in: `receiver/judge.rs` is `[receiver, judge]`.
fn module_of(path: &Path) -> Vec<String> {
    let words = path.with_extension("");
    words.iter().map(|word| word.to_string_lossy().into_owned()).collect()
}

/// All rules that the source breaks, `path` being its place under `src`.
fn faults(path: &Path, source: &str) -> Vec<String> {
    let module = module_of(path);
    let floor = module[0].as_str();
    let Some((_, allowed)) = FLOORS.iter().find(|(name, _)| *name == floor) else {
        return vec![format!("{floor} has no floor")];
    };
    let is_test_file = module.iter().any(|word| word == "tests");
    let blanked = blanked(source);
    let tokens = tokens(&blanked);
    let mut faults = Vec::new();
    if floor != "sys" && tokens.contains(&"unsafe") {
        faults.push("unsafe outside sys".to_owned());
    }
    for named in paths(&tokens) {
        let text = named.path.join("::");
        if PROTOCOL.contains(&floor)
            && FORBIDDEN_IN_PROTOCOL.iter().any(|path| text == *path || text.starts_with(&format!("{path}::")))
        {
            faults.push(format!("{text} in the protocol"));
        }
        let ups = named.path.iter().take_while(|word| *word == "super").count();
        // The crate's root is above the floors: whatever is named from there names a floor.
        let from_root = match named.path[0].as_str() {
            "crate" | "iotupd" => 1,
            "super" if floor != "lib" && ups >= module.len() + named.inline_depth => ups,
            _ => continue,
        };
        let used = named.path.get(from_root).map_or("*", String::as_str);
        let is_for_tests = (is_test_file || named.in_tests) && TESTS_MAY_USE_AS_WELL.contains(&(floor, used));
        if used != floor && !allowed.contains(&used) && !is_for_tests {
            faults.push(format!("{text}: {floor} may not use {used}"));
        }
    }
    faults
}

fn rust_files(folder: &Path, out: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display())) {
        let path = entry.unwrap().path();
        if path.is_dir() {
            rust_files(&path, out);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            out.push(path);
        }
    }
}

#[test]
fn no_module_uses_what_is_above_it() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = Vec::new();
    rust_files(&root, &mut files);
    assert!(files.len() > 20, "the sources are found");
    let mut broken = BTreeMap::new();
    for file in files {
        let path = file.strip_prefix(&root).unwrap();
        let faults = faults(path, &fs::read_to_string(&file).unwrap());
        if !faults.is_empty() {
            broken.insert(path.to_owned(), faults);
        }
    }
    assert!(broken.is_empty(), "{broken:#?}");
}

#[test]
fn table_of_floors_has_no_circle() {
    for (place, (name, allowed)) in FLOORS.iter().enumerate() {
        let below = |other: &&&str| FLOORS[..place].iter().any(|(name, _)| *name == **other);
        assert_eq!(allowed.iter().find(|other| !below(other)), None, "{name} may use only what is listed before it");
    }
}

fn fault_count(path: &str, source: &str) -> usize {
    faults(Path::new(path), source).len()
}

#[test]
fn upward_and_sideways_imports_are_found() {
    assert_eq!(fault_count("wire.rs", "use crate::object::Group; use crate::types::{Esi, Time};"), 0);
    assert_eq!(fault_count("wire/hashes.rs", "use crate::receiver::Receiver;"), 1);
    assert_eq!(fault_count("sender/pacer.rs", "use crate::receiver::Counts;"), 1);
    assert_eq!(fault_count("receiver.rs", "fn f() { crate::sender::Sender::new() }"), 1);
    assert_eq!(fault_count("receiver.rs", "use crate::{types::Esi, sys::clock, wire::{Header, Kind as K}};"), 1);
    assert_eq!(fault_count("types.rs", "use crate::failure::Exit;"), 1);
    assert_eq!(fault_count("limits.rs", "use crate::types::Esi;"), 1);
    assert_eq!(fault_count("sys/socket.rs", "use crate::wire::Header;"), 1);
    assert_eq!(fault_count("sys/socket.rs", "use crate::failure::{Exit, Failure};"), 0);
    assert_eq!(fault_count("drive/send.rs", "use crate::{sys::SendSocket, sender::Sender};"), 0);
    assert_eq!(fault_count("drive/send.rs", "use crate::cli::Args;"), 1);
    assert_eq!(fault_count("cli.rs", "use crate::sys::Interface;"), 1);
    assert_eq!(fault_count("bin/iotupd.rs", "use iotupd::{cli, drive};"), 0);
    assert_eq!(fault_count("wire.rs", "use iotupd::receiver::Receiver;"), 1);
    assert_eq!(fault_count("wire.rs", "use crate::*;"), 1);
    assert_eq!(fault_count("novel.rs", ""), 1);
}

#[test]
fn super_that_leaves_the_floor_is_found() {
    assert_eq!(fault_count("wire/hashes.rs", "use super::cursor::Reader;"), 0);
    assert_eq!(fault_count("wire/hashes.rs", "use super::super::receiver::Receiver;"), 1);
    assert_eq!(fault_count("wire.rs", "use super::receiver::Receiver;"), 1);
    assert_eq!(fault_count("wire.rs", "mod tests { use super::receiver::Receiver; }"), 0);
    assert_eq!(fault_count("wire.rs", "mod tests { use super::super::receiver::Receiver; }"), 1);
    assert_eq!(fault_count("sys/a.rs", "mod tests { use super::super::b::B; }"), 0);
    assert_eq!(fault_count("sys/a.rs", "mod tests { use super::super::super::wire::B; }"), 1);
}

#[test]
fn tests_of_the_receiver_alone_may_use_a_sender() {
    let source = "use crate::sender::Sender;";
    assert_eq!(fault_count("receiver/tests.rs", source), 0);
    assert_eq!(fault_count("receiver/tests/harness.rs", source), 0);
    assert_eq!(fault_count("receiver/loss.rs", &format!("#[cfg(test)] mod tests {{ {source} }}")), 0);
    assert_eq!(fault_count("receiver/loss.rs", &format!("mod inner {{ {source} }}")), 1);
    assert_eq!(fault_count("sender/tests.rs", "use crate::receiver::Receiver;"), 1);
}

#[test]
fn unsafe_is_found_outside_sys_alone_and_not_in_comments_and_strings() {
    assert_eq!(fault_count("wire.rs", "fn f() { unsafe { g() } }"), 1);
    assert_eq!(fault_count("sys/socket.rs", "fn f() { unsafe { g() } }"), 0);
    assert_eq!(fault_count("bin/iotup.rs", "unsafe fn f() {}"), 1);
    let harmless = "#![deny(unsafe_code)] // unsafe\n/* unsafe /* twice */ unsafe */ const A: &str = \"un\\\"unsafe\"; \
                    const B: &str = r#\"\"unsafe\"#; const C: char = '\"'; fn f<'a>(x: &'a str) -> char { '\\'' }";
    assert_eq!(fault_count("wire.rs", harmless), 0);
    assert_eq!(fault_count("wire.rs", &format!("{harmless} unsafe fn g() {{}}")), 1);
}

#[test]
fn io_clocks_and_hash_tables_are_found_in_the_protocol_alone() {
    let sources = [
        "use std::fs::File;",
        "use std::fs;",
        "use std::{fmt, fs};",
        "use std::net::{SocketAddr, UdpSocket};",
        "use std::thread;",
        "fn f() { std::thread::sleep(d) }",
        "use std::time::{Duration, Instant};",
        "fn f(now: std::time::SystemTime) {}",
        "use std::collections::{BTreeMap, HashMap};",
        "use std::collections::HashSet as Set;",
    ];
    for source in sources {
        assert_eq!(fault_count("receiver/loss.rs", source), 1, "{source}");
        assert_eq!(fault_count("sys/clock.rs", source), 0, "{source}");
    }
    assert_eq!(fault_count("receiver.rs", "use std::net::SocketAddr; use std::time::Duration;"), 0);
}

/// The names of the tests in a source that are run only when somebody asks for them.
fn ignored_tests(source: &str) -> Vec<String> {
    let blanked = blanked(source);
    let tokens = tokens(&blanked);
    let marks = tokens.windows(3).zip(0..).filter(|(window, _)| *window == ["#", "[", "ignore"]).map(|(_, at)| at);
    let name_after = |at: usize| tokens[at..].windows(2).find(|pair| pair[0] == "fn").map(|pair| pair[1].to_owned());
    marks.filter_map(name_after).collect()
}

#[test]
fn ignored_tests_are_found() {
    let source =
        "#[test] #[ignore = \"slow\"] fn a() {} #[test] fn b() {} // #[ignore] fn c()\n#[ignore]#[test] fn d() {}";
    assert_eq!(ignored_tests(source), ["a", "d"]);
}

#[test]
fn every_ignored_test_is_run_by_the_script_that_measures() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let script = fs::read_to_string(root.join("scripts/measure")).unwrap();
    let list = script.split_once("TESTS=(").and_then(|(_, rest)| rest.split_once(')')).expect("a list of tests").0;
    assert!(script.contains("--test e2e -- ") && script.contains("--include-ignored \"${TESTS[@]}\""));
    let mut files = Vec::new();
    ["src", "tests"].iter().for_each(|folder| rust_files(&root.join(folder), &mut files));
    let mut names = Vec::new();
    for file in files {
        let path = file.strip_prefix(root).unwrap().with_extension("");
        // The script runs end-to-end tests alone: no other has a name that it knows.
        let module =
            path.strip_prefix("tests/e2e").map_or_else(|_| "elsewhere".into(), |module| module.to_string_lossy());
        names.extend(ignored_tests(&fs::read_to_string(&file).unwrap()).iter().map(|name| format!("{module}::{name}")));
    }
    let is_run =
        |name: &&String| !name.starts_with("elsewhere") && list.split_whitespace().any(|part| name.contains(part));
    assert!(names.len() > 5, "the ignored tests are found: {names:?}");
    assert_eq!(names.iter().find(|name| !is_run(name)), None, "scripts/measure does not run it");
}
