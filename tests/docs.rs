//! What is written down and what the programs take agree: README, `--help`, man pages, completions.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use clap::{Arg, ArgAction, Command, CommandFactory};
use clap_complete::{Shell, generate};
use iotupd::cli::{ReceiverArgs, ServerArgs, ToolArgs};
use iotupd::failure::Exit;

fn readme() -> String {
    fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("README.md")).unwrap()
}

/// The programs, and the tools of `iotup`, with what clap adds to them.
fn programs() -> Vec<Command> {
    let mut all = vec![ServerArgs::command(), ReceiverArgs::command(), ToolArgs::command()];
    all.iter_mut().for_each(Command::build);
    all
}

fn is_documented(arg: &&Arg) -> bool {
    // Those that clap adds; a tool of ours has a --version that takes a value.
    let is_claps =
        matches!(arg.get_action(), ArgAction::Help | ArgAction::HelpShort | ArgAction::HelpLong | ArgAction::Version);
    !arg.is_hide_set() && !is_claps
}

/// `--long`, and `-s` where there is one, with aliases.
fn options(command: &Command) -> BTreeSet<String> {
    let mut all = BTreeSet::new();
    for arg in command.get_arguments().filter(is_documented) {
        all.extend(arg.get_long().map(|long| format!("--{long}")));
        all.extend(arg.get_visible_aliases().unwrap_or_default().iter().map(|alias| format!("--{alias}")));
        all.extend(arg.get_short().map(|short| format!("-{short}")));
    }
    all
}

/// The rows of the table that follows the line which begins with these words, as cells.
fn table<'a>(text: &'a str, start: &str) -> Vec<Vec<&'a str>> {
    let after = text.lines().skip_while(|line| !line.starts_with(start)).skip(1);
    let rows = after.skip_while(|line| !line.starts_with('|')).take_while(|line| line.starts_with('|')).skip(2);
    rows.map(|row| row.trim_matches('|').split(" | ").map(str::trim).collect()).collect()
}

/// The options that a cell names: words in backquotes that begin with a dash.
fn options_in(cell: &str) -> BTreeSet<String> {
    let quoted = cell.split('`').skip(1).step_by(2);
    quoted
        .filter_map(|text| text.split_whitespace().next())
        .filter(|word| word.starts_with('-'))
        .map(str::to_owned)
        .collect()
}

#[test]
fn tables_of_the_readme_name_all_options_and_no_others() {
    let readme = readme();
    for (command, start) in programs().iter().zip(["`iotupd [options] FILE GROUP`", "`iotupc [options] FILE GROUP`"]) {
        let rows = table(&readme, start);
        assert!(rows.len() > 10, "the table behind {start} is found");
        let named: BTreeSet<_> = rows.iter().flat_map(|row| options_in(row[0])).collect();
        assert_eq!(named, options(command), "the options of {}", command.get_name());
    }
}

#[test]
fn defaults_of_the_readme_are_those_of_the_programs() {
    let readme = readme();
    let mut checked = 0;
    for (command, start) in programs().iter().zip(["`iotupd [options] FILE GROUP`", "`iotupc [options] FILE GROUP`"]) {
        for row in table(&readme, start) {
            let names = options_in(row[0]);
            let is_named = |arg: &&Arg| arg.get_long().is_some_and(|long| names.contains(&format!("--{long}")));
            for arg in command.get_arguments().filter(is_named) {
                let values = arg.get_default_values().iter().map(|value| value.to_string_lossy());
                // Words are explained instead: only numbers stand as they are.
                for value in values.filter(|value| value.starts_with(|first: char| first.is_ascii_digit())) {
                    assert!(row[2].split([' ', ';']).any(|word| word == value), "{}: {value}: {row:?}", arg.get_id());
                    checked += 1;
                }
            }
        }
    }
    assert!(checked >= 4, "defaults are found: {checked}");
}

#[test]
fn readme_names_all_tools_and_their_options() {
    let readme = readme();
    let [.., toolbox] = &programs()[..] else { panic!("the last is iotup") };
    let tools: Vec<_> = toolbox.get_subcommands().filter(|tool| tool.get_name() != "help").collect();
    assert!(tools.len() >= 3);
    for tool in tools {
        let name = format!("`iotup {}", tool.get_name());
        let words = readme.split_once(&name).unwrap_or_else(|| panic!("README does not name {name}`")).1;
        let paragraph = words.split("\n\n").next().unwrap();
        for option in options(tool).iter().filter(|option| option.starts_with("--")) {
            assert!(paragraph.contains(option.as_str()), "README does not name {option} of {name}`");
        }
    }
}

/// A man page as somebody reads it: roff escapes dashes.
fn man_page(command: &Command) -> String {
    let mut page = Vec::new();
    clap_mangen::Man::new(command.clone()).render(&mut page).unwrap();
    String::from_utf8(page).unwrap().replace("\\-", "-")
}

#[test]
fn help_man_pages_and_completions_name_all_options() {
    for mut command in programs() {
        let name = command.get_name().to_owned();
        let shells = [Shell::Bash, Shell::Fish, Shell::Zsh].map(|shell| {
            let mut script = Vec::new();
            generate(shell, &mut command.clone(), &name, &mut script);
            String::from_utf8(script).unwrap()
        });
        let help = command.render_long_help().to_string();
        let page = man_page(&command);
        for option in options(&command).iter().filter(|option| option.starts_with("--")) {
            let bare = option.trim_start_matches('-');
            assert!(help.contains(option.as_str()), "{name} --help: {option}");
            // Pages and shells have no second names for the same.
            if command.get_arguments().any(|arg| arg.get_long() == Some(bare)) {
                assert!(page.contains(option.as_str()), "{name}(1): {option}");
                // Fish has the name without its dashes.
                assert!(shells.iter().all(|script| script.contains(bare)), "a completion of {name}: {option}");
            }
        }
        for tool in command.get_subcommands().filter(|tool| tool.get_name() != "help") {
            let page = man_page(tool);
            for option in options(tool).iter().filter(|option| option.starts_with("--")) {
                let bare = option.trim_start_matches('-');
                if tool.get_arguments().any(|arg| arg.get_long() == Some(bare)) {
                    assert!(page.contains(option.as_str()), "{name}-{}(1): {option}", tool.get_name());
                    assert!(shells.iter().all(|script| script.contains(bare)), "{option}");
                }
            }
        }
    }
}

#[test]
fn exit_codes_are_those_of_the_readme_the_help_and_the_schema_of_events() {
    let all = [
        Exit::Complete,
        Exit::Usage,
        Exit::BadData,
        Exit::NoInput,
        Exit::Unavailable,
        Exit::CannotCreate,
        Exit::Io,
        Exit::Incomplete,
        Exit::NotAuthentic,
        Exit::Interrupted,
        Exit::Terminated,
    ];
    let codes: Vec<String> = all.iter().map(|exit| (*exit as u8).to_string()).collect();
    let readme = readme();
    let table = table(&readme, "`iotup digest FILE...` prints");
    let named: Vec<String> = table.iter().flat_map(|row| row[0].split(", ")).map(str::to_owned).collect();
    assert_eq!(named, codes, "README");
    for mut command in programs() {
        let help = command.render_long_help().to_string();
        let line = help.split_once("Exit codes: ").expect("help names the exit codes").1;
        let words: Vec<&str> = line.split([',', ' ', '\n']).collect();
        assert!(codes.iter().all(|code| words.contains(&code.as_str())), "{}: {line}", command.get_name());
    }
    let schema = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/events.schema.json")).unwrap();
    let schema: serde_json::Value = serde_json::from_str(&schema).unwrap();
    let listed: Vec<String> =
        schema["$defs"]["exit"]["enum"].as_array().unwrap().iter().map(ToString::to_string).collect();
    assert_eq!(listed, codes, "schema");
}
