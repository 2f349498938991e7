//! Every event that a test sees is one that docs/events.schema.json describes. One checker serves all tests.

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::Mutex;

use serde_json::Value;

const CHECKER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/events.py");

/// `tests/events.py`. It ends when this process does, for want of input.
struct Checker {
    _child: Child,
    events: ChildStdin,
    verdicts: BufReader<ChildStdout>,
}

impl Checker {
    fn start() -> Self {
        let mut command = Command::new("python3");
        let mut child = command.arg(CHECKER).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("run python3");
        let events = child.stdin.take().expect("its input is piped");
        let verdicts = BufReader::new(child.stdout.take().expect("its output is piped"));
        Self { _child: child, events, verdicts }
    }

    fn verdict(&mut self, event: &Value) -> String {
        let mut verdict = String::new();
        writeln!(self.events, "{event}").expect("the checker runs: is python3-jsonschema installed?");
        self.verdicts.read_line(&mut verdict).expect("the checker answers");
        verdict.trim_end().to_owned()
    }
}

/// Fails unless all events of a program are as described. What tools print is not an event.
pub(crate) fn require_described(events: &[Value]) {
    if let Some((event, verdict)) = events.iter().find_map(wrong) {
        panic!("an event is not as docs/events.schema.json says: {verdict}: {event}");
    }
}

/// The event and what is wrong with it.
fn wrong(event: &Value) -> Option<(&Value, String)> {
    static CHECKER: Mutex<Option<Checker>> = Mutex::new(None);
    event.get("event")?;
    let mut checker = CHECKER.lock().expect("no test panics while it holds the checker");
    let verdict = checker.get_or_insert_with(Checker::start).verdict(event);
    (verdict != "ok").then_some((event, verdict))
}
