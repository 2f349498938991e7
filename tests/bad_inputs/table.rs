//! docs/bad-inputs.md, read and compared with the tests that it names.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use crate::Case;
use crate::cases::{COMMAND_LINE, ENVIRONMENT, FILES};

/// So many rows the table has at least, in all and in each section.
const ROW_COUNT_MIN: usize = 60;
const SECTION_ROW_COUNT_MIN: usize = 8;
const SECTIONS: [(&str, &[Case]); 4] =
    [("Network", &[]), ("Files", FILES), ("Command line", COMMAND_LINE), ("Environment", ENVIRONMENT)];
/// The codes of `iotupd::failure::Exit`, and `-` for a program that goes on.
const EXITS: [&str; 11] = ["-", "0", "64", "65", "66", "69", "73", "74", "75", "77", "143"];
const PREFIX: &str = "bad_inputs::cases::";

/// A row of a section.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
struct Row {
    section: String,
    input: String,
    says: String,
    exit: String,
    test: String,
}

impl Row {
    fn of_case(section: &str, case: &Case) -> Self {
        let command = format!("`{}`", case.command.replace('|', "\\|"));
        let input = if case.about.is_empty() { command } else { format!("{}: {command}", case.about) };
        let says = if case.says.contains('`') { format!("`` {} ``", case.says) } else { format!("`{}`", case.says) };
        let (exit, test) = (case.exit.to_string(), format!("`{PREFIX}{}`", case.name));
        Self { section: section.to_owned(), input, says, exit, test }
    }

    fn text(&self) -> String {
        format!("| {} | {} | {} | {} |", self.input, self.says, self.exit, self.test)
    }

    /// What stands between backticks in `cell`.
    fn quoted(cell: &str) -> impl Iterator<Item = &str> {
        cell.split('`').skip(1).step_by(2)
    }
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// All rows of the table.
fn rows() -> Vec<Row> {
    let text = fs::read_to_string(root().join("docs/bad-inputs.md")).expect("read the table");
    let mut rows = Vec::new();
    let mut section = "";
    for line in text.lines() {
        if let Some(heading) = line.strip_prefix("## ") {
            section = heading;
        }
        // Of the line under the headings, and of what is no table, there is nothing to see.
        let Some(cells) = line.strip_prefix("| ").and_then(|line| line.strip_suffix(" |")) else { continue };
        let cells: Vec<_> = cells.split(" | ").map(str::to_owned).collect();
        let [input, says, exit, test] = <[String; 4]>::try_from(cells).unwrap_or_else(|_| panic!("four cells: {line}"));
        if test != "test" {
            rows.push(Row { section: section.to_owned(), input, says, exit, test });
        }
    }
    rows
}

/// The file that a test's full name leads to, and its text: of `target::module::name`, where `iotupd` is the library.
fn source_of(test: &str) -> Option<(PathBuf, String)> {
    let (target, path) = test.split_once("::")?;
    let (modules, name) =
        path.rsplit_once("::").map_or((vec![], path), |(all, name)| (all.split("::").collect(), name));
    let folder = if target == "iotupd" { root().join("src") } else { root().join("tests").join(target) };
    let module = modules.iter().fold(folder.clone(), |path, word| path.join(word));
    let parent = module.parent().expect("a module is in a folder").to_owned();
    let main = if target == "iotupd" { folder.join("lib.rs") } else { folder.join("main.rs") };
    let files = match modules.last() {
        None => [main, folder.with_extension("rs")],
        // A module of tests is in a file of its own, or at the end of its parent's.
        Some(_) => [module.with_extension("rs"), parent.with_extension("rs")],
    };
    let marks = [format!("fn {name}()"), format!("fn {name}(")];
    files.into_iter().find_map(|file| {
        let text = fs::read_to_string(&file).ok()?;
        let is_there = marks.iter().any(|mark| text.contains(mark)) && text.contains("#[test]");
        is_there.then_some((file, text))
    })
}

/// How a test of the library names the counter that users see as `name`.
fn variant_of(name: &str) -> Option<String> {
    let text = fs::read_to_string(root().join("src/receiver/counts.rs")).expect("read the counters");
    let (before, _) = text.split_once(&format!(" = \"{name}\","))?;
    before.split_whitespace().last().map(|variant| format!("DropReason::{variant}"))
}

#[test]
fn every_case_has_its_row_and_every_row_its_case() {
    let mut expected = BTreeSet::new();
    for (section, cases) in SECTIONS {
        expected.extend(cases.iter().map(|case| Row::of_case(section, case)));
    }
    let is_ours = |row: &Row| row.test.contains("bad_inputs::");
    let found: BTreeSet<_> = rows().into_iter().filter(is_ours).collect();
    let missing: Vec<_> = expected.difference(&found).map(Row::text).collect();
    let excess: Vec<_> = found.difference(&expected).map(Row::text).collect();
    let (missing, excess) = (missing.join("\n"), excess.join("\n"));
    assert!(missing.is_empty() && excess.is_empty(), "to be added:\n{missing}\nto be taken away:\n{excess}");
}

#[test]
fn every_row_names_a_test_that_has_its_words() {
    for row in rows() {
        assert!(EXITS.contains(&row.exit.as_str()), "no exit code: {}", row.text());
        if row.test.contains(PREFIX) {
            // Compared above.
            continue;
        }
        let tests: Vec<_> = Row::quoted(&row.test).collect();
        assert!(!tests.is_empty(), "no test: {}", row.text());
        let (vectors, tests): (Vec<_>, Vec<_>) = tests.into_iter().partition(|test| test.ends_with(".json"));
        let sources = tests.iter().map(|test| source_of(test).unwrap_or_else(|| panic!("there is no test {test}")));
        // What a vector is dropped for stands beside it.
        let vectors = vectors.iter().map(|vector| fs::read_to_string(root().join(vector)).expect("read a vector"));
        let said: Vec<_> = sources.map(|(_, text)| text).chain(vectors).collect();
        for word in Row::quoted(&row.says) {
            let by_variant = variant_of(word);
            let is_there = |text: &String| text.contains(word) || by_variant.iter().any(|name| text.contains(name));
            assert!(said.iter().any(is_there), "no test has `{word}`: {}", row.text());
        }
    }
}

#[test]
fn table_is_long_and_says_nothing_twice() {
    let rows = rows();
    assert!(rows.len() >= ROW_COUNT_MIN, "{} rows", rows.len());
    for (section, _) in SECTIONS {
        let count = rows.iter().filter(|row| row.section == section).count();
        assert!(count >= SECTION_ROW_COUNT_MIN, "{count} rows of {section}");
    }
    assert!(rows.iter().all(|row| SECTIONS.iter().any(|(section, _)| row.section == *section)));
    let inputs: BTreeSet<_> = rows.iter().map(|row| &row.input).collect();
    assert_eq!(inputs.len(), rows.len(), "an input is there twice");
}

#[test]
fn tests_are_found_by_their_full_names() {
    let here = "bad_inputs::table::tests_are_found_by_their_full_names";
    assert!(source_of(here).is_some_and(|(file, _)| file.ends_with("tests/bad_inputs/table.rs")));
    let there = [
        "iotupd::drive::state_file::tests::version_is_kept_and_never_lowered",
        "iotupd::receiver::tests::waiting_room_is_bounded",
        "hostile::no_datagram_makes_a_receiver_panic_or_break_its_invariants",
        "e2e::errors::missing_words_are_usage_errors",
    ];
    assert_eq!(there.iter().find(|test| source_of(test).is_none()), None);
    for wrong in ["e2e::errors::none_such", "e2e::none::missing_words_are_usage_errors", "errors::missing", "e2e"] {
        assert!(source_of(wrong).is_none(), "{wrong}");
    }
}
