//! Starts the real programs, collects what they say, waits for them with deadlines, and measures what they use.

use std::ffi::OsString;
use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Barrier, Condvar, LazyLock, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{Id, WaitPidFlag, WaitStatus, waitid};
use nix::unistd::Pid;
use serde_json::Value;

use crate::lab::{Host, Lab};
use crate::schema;

/// Far more than anything here takes; a program that hangs fails its test after this.
pub(crate) const PATIENCE: Duration = Duration::from_secs(90);
/// How often memory is looked at.
const SAMPLE_INTERVAL: Duration = Duration::from_millis(5);

/// The programs under test.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Program {
    Server,
    Receiver,
    Tool,
}

impl Program {
    const ALL: [Self; 3] = [Self::Server, Self::Receiver, Self::Tool];

    /// Where it is: in the folder that IOTUP_PROGRAMS names, or else where it was built together with the tests.
    pub(crate) fn path(self) -> &'static str {
        static PATHS: LazyLock<[String; 3]> = LazyLock::new(|| {
            let folder = std::env::var_os("IOTUP_PROGRAMS");
            let in_folder = |folder: &OsString, program: Program| {
                let path = fs::canonicalize(Path::new(folder).join(program.name()));
                let path = path.unwrap_or_else(|error| panic!("{} in IOTUP_PROGRAMS: {error}", program.name()));
                path.into_os_string().into_string().expect("a path of ordinary letters")
            };
            let path = |program: Program| {
                folder.as_ref().map_or_else(|| program.built_here().to_owned(), |folder| in_folder(folder, program))
            };
            Program::ALL.map(path)
        });
        &PATHS[self as usize]
    }

    fn built_here(self) -> &'static str {
        match self {
            Self::Server => env!("CARGO_BIN_EXE_iotupd"),
            Self::Receiver => env!("CARGO_BIN_EXE_iotupc"),
            Self::Tool => env!("CARGO_BIN_EXE_iotup"),
        }
    }

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Server => "iotupd",
            Self::Receiver => "iotupc",
            Self::Tool => "iotup",
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
    /// When the end was seen, a few milliseconds after it. Bounds on how soon a program ends are judged by this: reading the rest of
    /// what it has said, and comparing that with the schema, takes time that is the test's own.
    pub(crate) ended_at: Instant,
    /// Seconds of processor time that it used in its life, to the hundredth.
    pub(crate) cpu_seconds: f64,
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
        schema::start();
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
        let pid = self.raw_pid();
        kill(pid, signal).unwrap_or_else(|error| panic!("send {signal} to {pid}: {error}"));
    }

    /// Stops all threads of the program where they are, until SIGCONT, and waits until they stand still.
    pub(crate) fn halt(&self) {
        self.signal(Signal::SIGSTOP);
        let started = Instant::now();
        loop {
            let threads = self.threads();
            assert!(threads.iter().all(|thread| thread.state != 'Z'), "it has ended");
            if !threads.is_empty() && threads.iter().all(|thread| thread.state == 'T') {
                break;
            }
            assert!(started.elapsed() < PATIENCE, "it does not stand still");
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    /// The program's threads.
    pub(crate) fn threads(&self) -> Vec<Thread> {
        let folder = fs::read_dir(format!("/proc/{}/task", self.pid())).expect("the process lives");
        // One that ends meanwhile is none.
        folder.filter_map(|entry| Thread::of(&fs::read_to_string(entry.ok()?.path().join("stat")).ok()?)).collect()
    }

    /// Waits for the end. A program that takes too long is killed, and the test fails.
    pub(crate) fn wait(self) -> Ended {
        self.wait_within(PATIENCE)
    }

    /// The same, for what may take longer.
    pub(crate) fn wait_within(mut self, patience: Duration) -> Ended {
        let started = Instant::now();
        while !self.has_ended() {
            if started.elapsed() > patience {
                let log = self.log.0.lock().expect("no reader panics");
                panic!("still running after {patience:?}; last event {:?}; stderr: {}", log.events.last(), log.stderr);
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        let ended_at = Instant::now();
        let (program, kernel) = cpu_seconds(self.pid());
        let status = self.child.wait().expect("wait for the program");
        self.collect(status, ended_at, program + kernel)
    }

    /// Whether the program has ended. What it has used can be read until it is waited for, which this does not do.
    fn has_ended(&self) -> bool {
        let flags = WaitPidFlag::WEXITED | WaitPidFlag::WNOHANG | WaitPidFlag::WNOWAIT;
        waitid(Id::Pid(self.raw_pid()), flags).expect("it is a child") != WaitStatus::StillAlive
    }

    fn raw_pid(&self) -> Pid {
        Pid::from_raw(i32::try_from(self.child.id()).expect("a process id fits i32"))
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

    fn collect(&mut self, status: ExitStatus, ended_at: Instant, cpu_seconds: f64) -> Ended {
        for reader in self.readers.drain(..) {
            reader.join().expect("what the program said can be read");
        }
        let memory = self.sampler.take().expect("collected once").join().expect("memory can be sampled");
        let log = std::mem::take(&mut *self.log.0.lock().expect("no reader panics"));
        schema::require_described(&log.events);
        Ended { exit: status.code(), events: log.events, stderr: log.stderr, memory, ended_at, cpu_seconds }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // After a regular end the process has been waited for, and this does nothing.
        let _ = self.child.kill();
        let _ = self.child.wait();
        if !std::thread::panicking() {
            // A last line that the kill has cut off is not an event.
            schema::require_described(&std::mem::take(&mut self.log.0.lock().expect("no reader panics").events));
        }
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
    Thread::of(&stat).expect("what the kernel says of a process").cpu_seconds
}

/// What the kernel says of a thread, or of all threads of a process together (proc_pid_stat(5)).
#[derive(Debug)]
pub(crate) struct Thread {
    pub(crate) name: String,
    state: char,
    /// In the program, and in the kernel on its behalf.
    pub(crate) cpu_seconds: (f64, f64),
}

impl Thread {
    fn of(stat: &str) -> Option<Self> {
        // The name, in parentheses, may hold spaces; after it come the fields from the third on.
        let (start, rest) = stat.rsplit_once(") ")?;
        let fields: Vec<&str> = rest.split(' ').collect();
        // The unit is USER_HZ, which is 100 on every Linux that Rust runs on.
        let seconds = |field: usize| Some(fields.get(field)?.parse::<f64>().ok()? / 100.0);
        let name = start.split_once('(')?.1.to_owned();
        Some(Self { name, state: fields.first()?.chars().next()?, cpu_seconds: (seconds(11)?, seconds(12)?) })
    }
}

/// How often the witnesses look at the clock.
const WITNESS_INTERVAL: Duration = Duration::from_millis(1);

/// Threads, one on each processor, that sleep for a millisecond again and again, and keep the longest that one of them was away.
///
/// A machine that stands still, or whose processors are taken away from it, holds them up as it does the programs under test. What
/// a program may be late by is what it promises, and that on top.
pub(crate) struct Witness {
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<Duration>>,
}

impl Witness {
    /// They look from now on.
    pub(crate) fn start() -> Self {
        let allowed = sched_getaffinity(Pid::from_raw(0)).expect("ask for the processors");
        let processors: Vec<_> = (0..CpuSet::count()).filter(|&number| allowed.is_set(number) == Ok(true)).collect();
        let (stop, ready) = (Arc::new(AtomicBool::new(false)), Arc::new(Barrier::new(processors.len() + 1)));
        let watch = |number| {
            let (stop, ready) = (Arc::clone(&stop), Arc::clone(&ready));
            std::thread::spawn(move || watch(number, &stop, &ready))
        };
        let threads = processors.into_iter().map(watch).collect();
        ready.wait();
        Self { stop, threads }
    }

    /// The longest that one of them was away.
    pub(crate) fn end(mut self) -> Duration {
        self.stop.store(true, Ordering::Relaxed);
        let gaps = self.threads.drain(..).map(|thread| thread.join().expect("a witness does not panic"));
        gaps.max().expect("there is a processor")
    }
}

impl Drop for Witness {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

fn watch(processor: usize, stop: &AtomicBool, ready: &Barrier) -> Duration {
    let mut here = CpuSet::new();
    here.set(processor).expect("it is a processor");
    sched_setaffinity(Pid::from_raw(0), &here).expect("stay on one processor");
    ready.wait();
    let (mut last, mut gap_max) = (Instant::now(), Duration::ZERO);
    while !stop.load(Ordering::Relaxed) {
        std::thread::sleep(WITNESS_INTERVAL);
        let now = Instant::now();
        gap_max = gap_max.max(now - last);
        last = now;
    }
    gap_max
}

/// A server of this file, as the tests use it: its cache stays in the lab.
pub(crate) fn serve(lab: &Lab, host: &Host, file: &Path, group: &str, options: &[&str]) -> Process {
    serve_by(host.command(Program::Server.path()), lab, file, group, options)
}

/// The same, by a command that becomes the server.
pub(crate) fn serve_by(mut command: Command, lab: &Lab, file: &Path, group: &str, options: &[&str]) -> Process {
    command.args(["--json", "-i", "eth0", "--cache-dir"]).arg(lab.path("cache"));
    Process::spawn(command.args(options).arg(file).arg(group))
}

/// A receiver into this file, with options that say when it is to give up.
pub(crate) fn receive_until(host: &Host, file: &Path, group: &str, options: &[&str]) -> Process {
    let mut command = host.command(Program::Receiver.path());
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
