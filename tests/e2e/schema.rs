//! Every event that a test sees is one that docs/events.schema.json describes. One checker serves all tests.

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::{Mutex, Once};

use serde_json::Value;

const SCRIPT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/events.py");

/// Bytes of events that are handed over before their verdicts are read: they fit the pipe, so that the checker, whatever it has to say of
/// them, is never waited for before it is listened to.
const BATCH_SIZE: usize = 32 << 10;

/// `tests/events.py`. It ends when this process does, for want of input.
struct Checker {
    _child: Child,
    events: ChildStdin,
    verdicts: BufReader<ChildStdout>,
}

impl Checker {
    fn start() -> Self {
        let mut command = Command::new("python3");
        let mut child = command.arg(SCRIPT).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("run python3");
        let events = child.stdin.take().expect("its input is piped");
        let verdicts = BufReader::new(child.stdout.take().expect("its output is piped"));
        Self { _child: child, events, verdicts }
    }

    /// What it says of each line.
    fn verdicts(&mut self, lines: &[String]) -> Vec<String> {
        self.events.write_all(lines.concat().as_bytes()).expect("the checker runs: is python3-jsonschema installed?");
        let verdict = |_| {
            let mut verdict = String::new();
            self.verdicts.read_line(&mut verdict).expect("the checker answers");
            verdict.trim_end().to_owned()
        };
        lines.iter().map(verdict).collect()
    }
}

/// Held while it works. Nobody waits for it inside of what a test measures: see `Ended::ended_at`.
static CHECKER: Mutex<Option<Checker>> = Mutex::new(None);

/// Starts the checker if it does not run yet, and waits until it answers: it takes a second to load, which must not fall into whatever
/// the first test measures.
pub(crate) fn start() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| with_checker(|checker| _ = checker.verdicts(&["null\n".to_owned()])));
}

fn with_checker<T>(act: impl FnOnce(&mut Checker) -> T) -> T {
    act(CHECKER.lock().expect("no test panics while it holds the checker").get_or_insert_with(Checker::start))
}

/// Fails unless all events of a program are as described. What tools print is not an event.
pub(crate) fn require_described(events: &[Value]) {
    let events = events.iter().filter(|event| event.get("event").is_some());
    let lines: Vec<String> = events.map(|event| format!("{event}\n")).collect();
    let mut rest = &lines[..];
    while !rest.is_empty() {
        let (batch, others) = rest.split_at(batch_count(rest));
        let verdicts = with_checker(|checker| checker.verdicts(batch));
        if let Some((event, verdict)) = batch.iter().zip(verdicts).find(|(_, verdict)| verdict != "ok") {
            panic!("an event is not as docs/events.schema.json says: {verdict}: {event}");
        }
        rest = others;
    }
}

/// How many lines make a batch: one at least.
fn batch_count(lines: &[String]) -> usize {
    let mut size = 0;
    let fits = |line: &&String| {
        size += line.len();
        size <= BATCH_SIZE
    };
    lines.iter().take_while(fits).count().max(1)
}
