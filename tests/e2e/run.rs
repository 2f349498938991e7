//! Starts the real programs, collects what they say, waits for them with deadlines, and measures what they use.

use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Condvar, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

use crate::lab::{Host, Lab};

/// Far more than anything here takes; a program that hangs fails its test after this.
pub(crate) const PATIENCE: Duration = Duration::from_secs(90);
pub(crate) const IOTUPD: &str = env!("CARGO_BIN_EXE_iotupd");
const IOTUPC: &str = env!("CARGO_BIN_EXE_iotupc");
/// How often memory is looked at.
const SAMPLE_INTERVAL: Duration = Duration::from_millis(5);

/// The programs under test.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Program {
    Server,
    Receiver,
}

impl Program {
    pub(crate) fn path(self) -> &'static str {
        match self {
            Self::Server => IOTUPD,
            Self::Receiver => IOTUPC,
        }
    }

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Server => "iotupd",
            Self::Receiver => "iotupc",
        }
    }
}

/// What a command line that failed at once said.
#[derive(Debug)]
pub(crate) struct Refusal {
    pub(crate) exit: Option<i32>,
    pub(crate) stderr: String,
}

/// Runs a command that is expected to end by itself, and waits for it.
pub(crate) fn run_to_end(command: &mut Command) -> Refusal {
    let process = Process::spawn(command);
    let ended = process.wait();
    Refusal { exit: ended.exit, stderr: ended.stderr }
}

/// What a program had said and used by its end.
#[derive(Debug)]
pub(crate) struct Ended {
    /// Absent if a signal ended it.
    pub(crate) exit: Option<i32>,
    pub(crate) events: Vec<Value>,
    pub(crate) stderr: String,
    pub(crate) memory: Memory,
}

impl Ended {
    /// The last event.
    pub(crate) fn end(&self) -> &Value {
        let last = self.events.last().unwrap_or_else(|| panic!("no event at all; stderr: {}", self.stderr));
        assert_eq!(last["event"], "end", "the last event; stderr: {}", self.stderr);
        assert_eq!(last["exit"].as_i64(), self.exit.map(i64::from), "the exit code in JSON is the exit code");
        last
    }

    /// The same, of a program that was to succeed.
    pub(crate) fn completed(&self) -> &Value {
        assert_eq!(self.exit, Some(0), "exit code; last event {:?}; stderr: {}", self.events.last(), self.stderr);
        self.end()
    }

    pub(crate) fn first(&self, event: &str) -> &Value {
        self.events.iter().find(|value| value["event"] == event).unwrap_or_else(|| panic!("no {event} event"))
    }

    /// The notices of this kind.
    pub(crate) fn notices(&self, kind: &str) -> Vec<&Value> {
        self.events.iter().filter(|value| value["event"] == "notice" && value["kind"] == kind).collect()
    }
}

/// The most memory that a process was seen to use, in bytes.
#[derive(Clone, Copy, Default, Debug)]
pub(crate) struct Memory {
    /// Pages of no file: heap, stacks and shared memory. What the machine has to find for this process.
    pub(crate) own: u64,
    /// All resident pages, those of mapped files included, which the kernel can take back at any time.
    pub(crate) resident: u64,
}

#[derive(Default)]
struct Log {
    events: Vec<Value>,
    stderr: String,
    ended: bool,
    stderr_ended: bool,
}

type SharedLog = Arc<(Mutex<Log>, Condvar)>;

/// A running program. It is killed when this is dropped.
pub(crate) struct Process {
    child: Child,
    log: SharedLog,
    readers: Vec<JoinHandle<()>>,
    sampler: Option<JoinHandle<Memory>>,
}

impl Process {
    /// Starts the command and threads that read all it says.
    pub(crate) fn spawn(command: &mut Command) -> Self {
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap_or_else(|error| panic!("start {command:?}: {error}"));
        let log = SharedLog::default();
        let stdout = child.stdout.take().expect("stdout is piped");
        let stderr = child.stderr.take().expect("stderr is piped");
        let (events_log, stderr_log) = (Arc::clone(&log), Arc::clone(&log));
        let pid = child.id();
        Self {
            child,
            log,
            readers: vec![
                std::thread::spawn(move || read_events(BufReader::new(stdout), &events_log)),
                std::thread::spawn(move || read_stderr(BufReader::new(stderr), &stderr_log)),
            ],
            sampler: Some(std::thread::spawn(move || sample_memory(pid))),
        }
    }

    /// The process id, which is that of the program itself: `ip` and `setpriv` replace themselves by it.
    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Waits for an event, past or future, that has the quality asked for.
    pub(crate) fn wait_for(&self, what: &str, quality: impl Fn(&Value) -> bool) -> Value {
        let (lock, changed) = &*self.log;
        let started = Instant::now();
        let mut log = lock.lock().expect("no reader panics");
        loop {
            if let Some(event) = log.events.iter().find(|event| quality(event)) {
                return event.clone();
            }
            let last = log.events.last();
            assert!(!log.ended, "ended before {what}; last event: {last:?}; stderr: {}", log.stderr);
            let left = PATIENCE.saturating_sub(started.elapsed());
            assert!(!left.is_zero(), "no {what} within {PATIENCE:?}; last event: {last:?}; stderr: {}", log.stderr);
            log = changed.wait_timeout(log, left).expect("no reader panics").0;
        }
    }

    pub(crate) fn wait_for_event(&self, event: &str) -> Value {
        self.wait_for(event, |value| value["event"] == event)
    }

    /// Waits until the program has said these words on standard error.
    pub(crate) fn wait_for_words(&self, words: &str) {
        let (lock, changed) = &*self.log;
        let started = Instant::now();
        let mut log = lock.lock().expect("no reader panics");
        while !log.stderr.contains(words) {
            let left = PATIENCE.saturating_sub(started.elapsed());
            assert!(!log.stderr_ended && !left.is_zero(), "`{words}` was never said; stderr: {}", log.stderr);
            log = changed.wait_timeout(log, left).expect("no reader panics").0;
        }
    }

    /// The events of this name so far.
    pub(crate) fn events(&self, event: &str) -> Vec<Value> {
        let log = self.log.0.lock().expect("no reader panics");
        log.events.iter().filter(|value| value["event"] == event).cloned().collect()
    }

    /// What a tool has said so far, line by line.
    pub(crate) fn lines(&self) -> Vec<String> {
        let log = self.log.0.lock().expect("no reader panics");
        log.events.iter().filter_map(|line| line.as_str().map(str::to_owned)).collect()
    }

    /// Waits until a tool has said so many lines.
    pub(crate) fn wait_for_lines(&self, line_count: usize) {
        let started = Instant::now();
        while self.lines().len() < line_count {
            assert!(started.elapsed() < PATIENCE, "fewer than {line_count} lines");
            std::thread::sleep(SAMPLE_INTERVAL);
        }
    }

    pub(crate) fn signal(&self, signal: Signal) {
        let pid = i32::try_from(self.child.id()).expect("a process id fits i32");
        kill(Pid::from_raw(pid), signal).unwrap_or_else(|error| panic!("send {signal} to {pid}: {error}"));
    }

    /// Waits for the end. A program that takes too long is killed, and the test fails.
    pub(crate) fn wait(self) -> Ended {
        self.wait_within(PATIENCE)
    }

    /// The same, for what may take longer.
    pub(crate) fn wait_within(mut self, patience: Duration) -> Ended {
        let started = Instant::now();
        let status = loop {
            if let Some(status) = self.child.try_wait().expect("wait for the program") {
                break status;
            }
            if started.elapsed() > patience {
                let log = self.log.0.lock().expect("no reader panics");
                panic!("still running after {patience:?}; last event {:?}; stderr: {}", log.events.last(), log.stderr);
            }
            std::thread::sleep(Duration::from_millis(5));
        };
        self.collect(status)
    }

    /// Asks the program to stop, as a service manager does, and waits.
    pub(crate) fn terminate(self) -> Ended {
        self.signal(Signal::SIGTERM);
        self.wait()
    }

    /// Ends the program without warning, as a loss of power does.
    pub(crate) fn kill(self) {
        self.signal(Signal::SIGKILL);
        let _ = self.wait();
    }

    fn collect(&mut self, status: ExitStatus) -> Ended {
        for reader in self.readers.drain(..) {
            reader.join().expect("what the program said can be read");
        }
        let memory = self.sampler.take().expect("collected once").join().expect("memory can be sampled");
        let log = std::mem::take(&mut *self.log.0.lock().expect("no reader panics"));
        Ended { exit: status.code(), events: log.events, stderr: log.stderr, memory }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // After a regular end the process has been waited for, and this does nothing.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn read_events(stdout: impl BufRead, shared: &SharedLog) {
    let (lock, changed) = &**shared;
    for line in stdout.lines().map_while(Result::ok) {
        // Without --json a program has nothing to say on stdout; tools say what they like.
        let event = serde_json::from_str(&line).unwrap_or(Value::String(line));
        lock.lock().expect("no reader panics").events.push(event);
        changed.notify_all();
    }
    lock.lock().expect("no reader panics").ended = true;
    changed.notify_all();
}

fn read_stderr(mut stderr: impl BufRead, shared: &SharedLog) {
    let mut line = Vec::new();
    while stderr.by_ref().take(1 << 16).read_until(b'\n', &mut line).is_ok_and(|size| size > 0) {
        shared.0.lock().expect("no reader panics").stderr.push_str(&String::from_utf8_lossy(&line));
        shared.1.notify_all();
        line.clear();
    }
    shared.0.lock().expect("no reader panics").stderr_ended = true;
    shared.1.notify_all();
}

/// Looks at a process's memory until it is gone.
fn sample_memory(pid: u32) -> Memory {
    let mut peak = Memory::default();
    let path = format!("/proc/{pid}/status");
    // A process that has ended and waits to be waited for has no memory to show.
    while let Some((own, resident)) = fs::read_to_string(&path).ok().as_deref().and_then(memory_of) {
        peak = Memory { own: peak.own.max(own), resident: peak.resident.max(resident) };
        std::thread::sleep(SAMPLE_INTERVAL);
    }
    peak
}

fn memory_of(status: &str) -> Option<(u64, u64)> {
    let kibibytes = |name: &str| -> Option<u64> {
        let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
        line.split_whitespace().next()?.parse().ok()
    };
    Some(((kibibytes("RssAnon")? + kibibytes("RssShmem")?) * 1024, kibibytes("VmHWM")? * 1024))
}

/// Seconds of processor time that a process has used so far: in the program, and in the kernel on its behalf.
pub(crate) fn cpu_seconds(pid: u32) -> (f64, f64) {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).expect("the process lives");
    // The name, in parentheses, may hold spaces; after it come the fields from the third on.
    let fields: Vec<&str> = stat.rsplit(") ").next().expect("rsplit gives one").split(' ').collect();
    // The unit is USER_HZ, which is 100 on every Linux that Rust runs on.
    let seconds = |field: usize| -> f64 { fields[field].parse::<f64>().expect("a number of ticks") / 100.0 };
    (seconds(11), seconds(12))
}

/// A server of this file, as the tests use it: its cache stays in the lab.
pub(crate) fn serve(lab: &Lab, host: &Host, file: &Path, group: &str, options: &[&str]) -> Process {
    serve_by(host.command(IOTUPD), lab, file, group, options)
}

/// The same, by a command that becomes the server.
pub(crate) fn serve_by(mut command: Command, lab: &Lab, file: &Path, group: &str, options: &[&str]) -> Process {
    command.args(["--json", "-i", "eth0", "--cache-dir"]).arg(lab.path("cache"));
    Process::spawn(command.args(options).arg(file).arg(group))
}

/// A receiver into this file, with options that say when it is to give up.
pub(crate) fn receive_until(host: &Host, file: &Path, group: &str, options: &[&str]) -> Process {
    let mut command = host.command(IOTUPC);
    Process::spawn(command.args(["--json", "-i", "eth0"]).args(options).arg(file).arg(group))
}

/// A receiver into this file that is to succeed.
pub(crate) fn receive(host: &Host, file: &Path, group: &str) -> Process {
    receive_until(host, file, group, &["--timeout", "80s"])
}

/// A member that must be a number.
pub(crate) fn number(value: &Value, member: &str) -> f64 {
    value[member].as_f64().unwrap_or_else(|| panic!("no number `{member}` in {value}"))
}

/// A member that must be a whole number.
pub(crate) fn count(value: &Value, member: &str) -> u64 {
    value[member].as_u64().unwrap_or_else(|| panic!("no count `{member}` in {value}"))
}

/// A member that must be a string.
pub(crate) fn text<'a>(value: &'a Value, member: &str) -> &'a str {
    value[member].as_str().unwrap_or_else(|| panic!("no text `{member}` in {value}"))
}

/// The senders that the last event of a receiver names.
pub(crate) fn senders(end: &Value) -> &Vec<Value> {
    end["senders"].as_array().unwrap_or_else(|| panic!("no senders in {end}"))
}

/// The hidden file that a transfer into `file` is collected in.
pub(crate) fn part_of(file: &Path) -> PathBuf {
    let name = file.file_name().expect("a file has a name").to_string_lossy();
    file.with_file_name(format!(".{name}.part"))
}

/// One line for `scripts/measure`.
pub(crate) fn figure(name: &str, value: &str, bound: &str) {
    println!("figure | {name} | {value} | {bound}");
}
