//! Agents: receivers that wait for new versions, install them and run a hook, whatever happens to them meanwhile.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use serde_json::Value;

use crate::dns;
use crate::files::{Content, MIB, assert_same, make};
use crate::lab::{BlockDevice, Family, Host, Lab, whole_machine};
use crate::reload::{heard, is_sending, listen, publish, publish_by};
use crate::run::{PATIENCE, Process, Program, count, figure, run_to_end, serve, text};
use crate::signed::{forgeries, keys, path_text, pour};

/// Attempts at whatever fails follow each other quickly.
const QUICK: [&str; 2] = ["--exec-retry", "200ms"];

/// A device with an agent: what it writes to, and what its hook has noted.
struct Device {
    host: Host,
    file: PathBuf,
    state: PathBuf,
    log: PathBuf,
}

impl Device {
    fn new(lab: &mut Lab) -> Self {
        let host = lab.host();
        let place = |name: &str| lab.path(&format!("{name}-{}", host.number));
        let (file, state, log) = (place("file"), place("state"), place("log"));
        fs::create_dir(&state).expect("make a folder");
        Self { file, state, log, host }
    }

    /// Starts the agent, with a hook that notes version, the version before and the attempt, and then does this.
    fn start(&self, hook: &str, options: &[&str]) -> Process {
        self.start_at(&self.file, Family::V4.group(), hook, options)
    }

    fn start_at(&self, file: &Path, group: &str, hook: &str, options: &[&str]) -> Process {
        self.spawn(hook, &[options, &[path_text(file), group]].concat())
    }

    fn spawn(&self, hook: &str, words: &[&str]) -> Process {
        let note = "echo \"$IOTUP_VERSION,$IOTUP_PREVIOUS_VERSION,$IOTUP_ATTEMPT\"";
        let hook = format!("{note} >> {}; {hook}", path_text(&self.log));
        let mut command = self.host.command(Program::Receiver.path());
        command.args(["--json", "-i", "eth0", "--watch", "--pubkey", &keys("first.pub"), "--state-dir"]);
        command.arg(&self.state).args(["--exec", &hook]).args(words);
        Process::spawn(&mut command)
    }

    /// What the hook has noted, line by line.
    fn log(&self) -> Vec<String> {
        fs::read_to_string(&self.log).unwrap_or_default().lines().map(str::to_owned).collect()
    }

    fn journal(&self) -> String {
        fs::read_to_string(self.state.join("journal")).unwrap_or_default()
    }

    /// The groups that are joined on its interface.
    fn groups(&self) -> String {
        self.host.ip_says(&["maddress", "show", "dev", "eth0"])
    }
}

fn installed(version: u64) -> impl Fn(&Value) -> bool {
    move |event| event["event"] == "installed" && event["version"] == version
}

fn until(what: &str, is_so: impl Fn() -> bool) {
    let started = Instant::now();
    while !is_so() {
        assert!(started.elapsed() < PATIENCE, "never: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn device_ends_at_the_newest_true_version_with_its_hook_run_once_for_each() {
    let mut lab = Lab::new();
    let (server_host, replay_host, forger_host, listener_host) = (lab.host(), lab.host(), lab.host(), lab.host());
    let (device, source, replayed, forged) =
        (Device::new(&mut lab), lab.path("source"), lab.path("replayed"), lab.path("forged"));
    let (group, announcements) = (Family::V4.group(), Family::V4.announcement_group());
    publish(&lab, &source, 1, 3 * MIB);
    publish(&lab, &replayed, 1, 3 * MIB + 1);
    publish_by(&lab, &forged, 3, 2 * MIB, "second.key");
    let server = serve(&lab, &server_host, &source, group, &["--rate", "50M"]);
    let agent = device.start("test -f \"$IOTUP_FILE\"", &[]);
    let _ = agent.wait_for("version 1", installed(1));
    let new = publish(&lab, &source, 2, 4 * MIB);
    server.signal(Signal::SIGHUP);
    let _ = agent.wait_for("version 2", installed(2));
    assert_same(&device.file, &new);

    let listener = listen(&listener_host, announcements);
    let (mut forger, feeder) = pour(&forger_host, announcements, forgeries(9 * MIB, 3000));
    let _servers = [(&replay_host, &replayed), (&forger_host, &forged)].map(|(host, file)| {
        let server = serve(&lab, host, file, group, &["--rate", "20M"]);
        (text(&server.wait_for_event("sending"), "object").to_owned(), server)
    });
    for reason in ["not signed", "another key", "forged"] {
        let said = |event: &Value| event["kind"] == "not_trusted" && text(event, "text").contains(reason);
        let _ = agent.wait_for(reason, said);
    }
    let said = |object: &str| heard(&listener).iter().filter(|heard| heard.object == object).count();
    until("both have been announced several times", || _servers.iter().all(|(object, _)| said(object) >= 3));
    let groups = device.groups();
    assert!(groups.contains(announcements) && !groups.lines().any(|line| line.ends_with(group)), "{groups}");
    let ended = agent.terminate();
    forger.kill().and_then(|()| forger.wait()).expect("end python3");
    feeder.join().expect("the feeder ends with python3");
    assert_eq!((ended.exit, text(ended.end(), "message")), (Some(143), "terminated"));
    assert_eq!(device.log(), ["1,,1", "2,1,1"]);
    assert!(device.journal().contains("\ndone 2\npending none\n"), "{}", device.journal());
    assert_same(&device.file, &new);
    assert!(ended.notices("fetch_failed").is_empty());
}

#[test]
fn hook_that_fails_is_run_again_and_what_it_is_for_is_not_done_before() {
    let mut lab = Lab::new();
    let (server_host, source) = (lab.host(), lab.path("source"));
    let device = Device::new(&mut lab);
    let old = publish(&lab, &source, 1, MIB);
    let server = serve(&lab, &server_host, &source, Family::V4.group(), &["--rate", "50M"]);
    let go = lab.path("go");
    let agent = device.start(&format!("test -e {}", path_text(&go)), &QUICK);
    let _ = agent.wait_for("the third attempt", |event| event["event"] == "hook" && event["attempt"] == 3);
    assert!(device.journal().contains("\ndone none\npending {"), "{}", device.journal());
    assert_same(&device.file, &old);
    // A newer version takes its place, and counts its attempts anew.
    let new = publish(&lab, &source, 2, MIB);
    server.signal(Signal::SIGHUP);
    let is_second = |event: &Value| event["event"] == "hook" && event["version"] == 2 && event["attempt"] == 2;
    let _ = agent.wait_for("the second attempt for version 2", is_second);
    fs::write(&go, "").expect("let it succeed");
    let _ = agent.wait_for("version 2", installed(2));
    assert_same(&device.file, &new);
    let log = device.log();
    assert!(log.starts_with(&["1,,1".into(), "1,,2".into(), "1,,3".into()]), "{log:?}");
    let ended = agent.terminate();
    let hooks: Vec<_> = ended.events.iter().filter(|event| event["event"] == "hook").collect();
    assert_eq!(hooks.len(), log.len());
    let succeeded = hooks.iter().filter(|event| event["succeeded"] == true).count();
    assert_eq!((succeeded, &hooks.last().expect("a hook")["version"]), (1, &Value::from(2)));
}

#[test]
fn killed_anywhere_the_agent_goes_on_where_it_was() {
    let mut lab = Lab::new();
    let (server_host, source) = (lab.host(), lab.path("source"));
    let device = Device::new(&mut lab);
    publish(&lab, &source, 1, 8 * MIB);
    let serve = |rate| serve(&lab, &server_host, &source, Family::V4.group(), &["--rate", rate, "--fec", "0"]);
    // Progress is told of once a second, and the whole takes seven.
    let server = serve("10M");
    let (go, pid) = (lab.path("go"), lab.path("pid"));
    let hook =
        format!("echo $$ > {0}.new; mv {0}.new {0}; test -e {1} || exec sleep 1000", path_text(&pid), path_text(&go));

    // While it fetches.
    let agent = device.start(&hook, &[]);
    let _ = agent.wait_for("progress", |event| event["event"] == "progress" && event["held"] != 0);
    agent.kill();
    assert!(!device.file.exists() && device.journal().is_empty());
    server.kill();
    let server = serve("50M");

    // While the hook runs, which does not outlive it.
    let agent = device.start(&hook, &[]);
    until("the hook runs", || pid.exists());
    let fetched = agent.wait_for_event("fetched");
    assert!(count(&fetched["counts"], "bytes") < 8 * MIB, "some of it had come before: {fetched}");
    let hook_pid = fs::read_to_string(&pid).expect("read").trim().to_owned();
    agent.kill();
    until("the hook has ended", || !is_alive(&hook_pid));
    fs::remove_file(&pid).expect("remove");
    let log = fs::read_to_string(&device.log).expect("read");
    assert!(device.journal().contains("\ndone none\npending {"));

    // It is remembered, and needs no announcement.
    let version_1 = lab.path("version-1");
    fs::copy(&source, &version_1).expect("copy");
    server.kill();
    fs::write(&go, "").expect("let it succeed");
    let agent = device.start(&hook, &[]);
    let _ = agent.wait_for("version 1", installed(1));
    assert!(agent.events("fetched").is_empty());
    assert_eq!(device.log().len(), log.lines().count() + 1);
    agent.kill();

    // It is done: the hook is not run again, and what is newer is fetched.
    let new = publish(&lab, &source, 2, MIB);
    let _server = serve("50M");
    let agent = device.start(&hook, &[]);
    let _ = agent.wait_for("version 2", installed(2));
    assert_same(&device.file, &new);
    assert_eq!(device.log(), ["1,,1", "1,,1", "2,1,1"]);
}

/// Versions that come faster than they can be fetched must not fill the disk.
#[test]
fn version_that_is_superseded_while_it_is_fetched_leaves_nothing_on_the_disk() {
    let mut lab = Lab::new();
    let (server_host, source) = (lab.host(), lab.path("source"));
    let device = Device::new(&mut lab);
    let hidden = format!(".{}", device.file.file_name().and_then(|name| name.to_str()).expect("the file has a name"));
    let beside = || {
        let names =
            fs::read_dir(lab.path("")).expect("the lab has a folder").map(|entry| entry.expect("an entry").file_name());
        let mut names: Vec<_> =
            names.filter_map(|name| name.into_string().ok()).filter(|name| name.starts_with(&hidden)).collect();
        names.sort();
        names
    };
    publish(&lab, &source, 1, 8 * MIB);
    let server = serve(&lab, &server_host, &source, Family::V4.group(), &["--rate", "10M"]);
    let agent = device.start("true", &[]);
    let _ = agent.wait_for("progress", |event| event["event"] == "progress" && event["held"] != 0);
    let new = publish(&lab, &source, 2, 2 * MIB);
    server.signal(Signal::SIGHUP);
    let is_second = |event: &Value| event["event"] == "manifest" && event["version"] == 2;
    let _ = agent.wait_for("version 2", is_second);
    let meanwhile = [".object", ".part", ".slots"].map(|suffix| format!("{hidden}{suffix}"));
    assert!(beside().iter().all(|name| meanwhile.contains(name)), "{:?}", beside());
    let _ = agent.wait_for("version 2", installed(2));
    assert_same(&device.file, &new);
    assert_eq!(beside(), [""; 0]);
}

/// Whether the process is there and has not ended.
fn is_alive(pid: &str) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(") ").is_some_and(|(_, rest)| !rest.starts_with('Z'))
}

#[test]
fn file_that_is_not_what_the_journal_says_is_fetched_again() {
    let mut lab = Lab::new();
    let (server_host, source) = (lab.host(), lab.path("source"));
    let device = Device::new(&mut lab);
    let original = publish(&lab, &source, 1, MIB);
    let _server = serve(&lab, &server_host, &source, Family::V4.group(), &["--rate", "50M"]);
    let agent = device.start("false", &[]);
    let _ = agent.wait_for_event("hook");
    agent.kill();
    fs::write(&device.file, "what somebody has put there").expect("overwrite");
    let agent = device.start("true", &[]);
    let _ = agent.wait_for("version 1", installed(1));
    assert_eq!(agent.events("fetched").len(), 1);
    assert_same(&device.file, &original);
}

#[test]
fn agent_that_is_to_stop_waits_for_its_hook_and_records_it() {
    let mut lab = Lab::new();
    let (server_host, source) = (lab.host(), lab.path("source"));
    let device = Device::new(&mut lab);
    publish(&lab, &source, 1, MIB);
    let _server = serve(&lab, &server_host, &source, Family::V4.group(), &["--rate", "50M"]);
    let fifo = lab.path("fifo");
    nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRWXU).expect("make a fifo");
    let agent = device.start(&format!("read word < {}", path_text(&fifo)), &[]);
    // Opens when the hook does.
    let mut writer = fs::File::options().write(true).open(&fifo).expect("open the fifo");
    agent.signal(Signal::SIGTERM);
    std::thread::sleep(Duration::from_millis(300));
    writer.write_all(b"word\n").expect("let the hook end");
    let ended = agent.wait();
    assert_eq!(ended.exit, Some(143), "{}", ended.stderr);
    assert!(device.journal().contains("\ndone 1\n"), "{}", device.journal());
}

#[test]
fn device_is_written_by_versions_from_the_source_that_is_named() {
    let mut lab = Lab::new();
    let (server_host, source) = (lab.host(), lab.path("source"));
    let device = Device::new(&mut lab);
    let image = make(&lab, "image", Content::Zeroes { size: 4 * MIB });
    let block_device = BlockDevice::new(&image);
    let old = publish(&lab, &source, 1, 4 * MIB);
    let group = Family::V4.ssm_group();
    let server = serve(&lab, &server_host, &source, group, &["--rate", "80M", "--watch"]);
    let options = ["--device", "--yes", "--source", &server_host.address_v4()];
    // What it has written is nobody's while the hook looks at it.
    let hook = "test \"$(b3sum --no-names < \"$IOTUP_FILE\")\" = \"$IOTUP_DIGEST\"";
    let hook = if has_b3sum() { hook } else { "test -b \"$IOTUP_FILE\"" };
    let agent = device.start_at(block_device.path(), group, hook, &options);
    let _ = agent.wait_for("version 1", installed(1));
    assert_holds(&block_device, &old);
    assert!(device.groups().contains("232.77.1.0"), "{}", device.groups());
    let new = publish(&lab, &source, 2, 4 * MIB);
    let _ = server.wait_for("version 2", is_sending(2));
    let _ = agent.wait_for("version 2", installed(2));
    assert_holds(&block_device, &new);
    assert_eq!(device.log(), ["1,,1", "2,1,1"]);
}

/// Takes a few seconds: as long as it takes to give up a source that is silent.
#[test]
fn agent_finds_its_server_by_srv_and_stays_with_it_while_nothing_is_new() {
    let family = Family::V6;
    let mut lab = Lab::new();
    let (server_host, other_host, source) = (lab.host(), lab.host(), lab.path("source"));
    let device = Device::new(&mut lab);
    let hosts = [("server.test", &server_host), ("other.test", &other_host)];
    let mut records = vec![dns::srv(10, "server.test"), dns::srv(20, "other.test"), dns::group(family)];
    records.extend(hosts.map(|(name, host)| dns::address(name, host, family)));
    let _dns = dns::dnsmasq(&device.host, 60, &records);
    publish(&lab, &source, 1, MIB);
    let server = serve(&lab, &server_host, &source, family.ssm_group(), &["--rate", "50M", "--hops", "2"]);
    let words = ["--srv", dns::DOMAIN, "--dns-server", "::1", path_text(&device.file)];
    let agent = device.spawn("true", &words);
    let _ = agent.wait_for("version 1", installed(1));
    std::thread::sleep(Duration::from_secs(4));
    let new = publish(&lab, &source, 2, MIB);
    server.signal(Signal::SIGHUP);
    let _ = agent.wait_for("version 2", installed(2));
    assert_same(&device.file, &new);
    let joined = agent.events("joined");
    let is_server = |event: &Value| text(event, "source") == server_host.address(family);
    assert!(joined.iter().all(is_server), "{joined:?}");
    assert!(joined.iter().any(|event| text(event, "group").starts_with("[ff3e::8000:76]")), "{joined:?}");
}

fn assert_holds(device: &BlockDevice, file: &Path) {
    let read = |path: &Path| fs::read(path).expect("read");
    assert!(read(device.path()) == read(file), "the device holds the file");
}

fn has_b3sum() -> bool {
    std::process::Command::new("b3sum").arg("--version").output().is_ok_and(|output| output.status.success())
}

#[test]
fn mistakes_are_told_at_once() {
    let mut lab = Lab::new();
    let host = lab.host();
    let (state, other, file) = (lab.folder("state"), lab.folder("other"), lab.path("file"));
    let (key, state) = (keys("first.pub"), path_text(&state).to_owned());
    fs::write(other.join("journal"), "iotupc journal 1\n").expect("write");
    let damaged = path_text(&other).to_owned();
    let good = ["--watch", "--pubkey", &key, "--state-dir", &state];
    let cases: [(&[&str], &str, i32, &str); 9] = [
        (&["--watch", "--state-dir", &state], "239.77.1.1", 64, "--pubkey"),
        (&["--watch", "--pubkey", &key], "239.77.1.1", 64, "--state-dir"),
        (&["--pubkey", &key, "--exec", "true"], "239.77.1.1", 64, "--watch"),
        (&["--state-dir", &state], "239.77.1.1", 64, "--state-dir"),
        (&["--watch", "--pubkey", &key, "--state-dir", "/nonexistent"], "239.77.1.1", 73, "/nonexistent"),
        (&["--watch", "--pubkey", &key, "--state-dir", &damaged], "239.77.1.1", 65, "damaged"),
        (&good, "ff02::3", 64, "--announce"),
        (&[&good[..], &["--announce", "239.77.1.1"]].concat(), "239.77.1.1", 64, "that is where the data goes"),
        (&[&good[..], &["--device"]].concat(), "239.77.1.1", 64, "--yes"),
    ];
    for (options, group, exit, cause) in cases {
        let mut command = host.command(Program::Receiver.path());
        let refusal = run_to_end(command.args(["-i", "eth0"]).args(options).arg(&file).arg(group));
        assert_eq!(refusal.exit, Some(exit), "{options:?}: {}", refusal.stderr);
        let is_one_line = refusal.stderr.matches('\n').count() == 1;
        assert!(is_one_line && refusal.stderr.contains(cause), "{options:?}: {}", refusal.stderr);
    }
    let mut command = host.command(Program::Receiver.path());
    let running = Process::spawn(command.args(["--json", "-i", "eth0"]).args(good).arg(&file).arg("239.77.1.1"));
    let _ = running.wait_for_event("listening");
    let mut command = host.command(Program::Receiver.path());
    let refusal = run_to_end(command.args(["-i", "eth0"]).args(good).arg(&file).arg("239.77.1.1"));
    assert!(refusal.exit == Some(73) && refusal.stderr.contains("another iotupc"), "{}", refusal.stderr);
}

/// What a program has used of the processors, by the scheduler's account.
fn cpu_time(pid: u32) -> Duration {
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).expect("the program lives");
    let of_task = |task: fs::DirEntry| fs::read_to_string(task.path().join("schedstat")).expect("the task lives");
    let nanos = tasks.map(|task| {
        let stat = of_task(task.expect("a task"));
        stat.split_whitespace().next().and_then(|nanos| nanos.parse::<u64>().ok()).expect("a number")
    });
    Duration::from_nanos(nanos.sum())
}

/// Datagrams that sockets of a host have been given.
fn delivered(host: &Host) -> u64 {
    let mut nstat = std::process::Command::new("ip");
    nstat.args(["netns", "exec", &host.netns, "cat", "/proc/net/snmp"]);
    let said = String::from_utf8(nstat.output().expect("read snmp").stdout).expect("text");
    let mut lines = said.lines().filter(|line| line.starts_with("Udp:")).map(str::split_whitespace);
    let (names, numbers) = (lines.next().expect("names"), lines.next().expect("numbers"));
    let (_, number) = names.zip(numbers).find(|(name, _)| *name == "InDatagrams").expect("a counter");
    number.parse().expect("a number")
}

#[test]
#[ignore = "measures for half a minute; scripts/measure runs it"]
fn agent_that_waits_costs_its_device_next_to_nothing() {
    const SPAN: Duration = Duration::from_secs(10);
    let _machine = whole_machine();
    for snooping in [false, true] {
        let mut lab = Lab::new();
        let (server_host, source) = (lab.host(), lab.path("source"));
        let device = Device::new(&mut lab);
        let arrivals = device.host.count_arrivals();
        if snooping {
            lab.snoop(Duration::from_secs(1));
        }
        publish(&lab, &source, 1, 16 * MIB);
        let server = serve(&lab, &server_host, &source, Family::V4.group(), &["--rate", "1G"]);
        let agent = device.start("true", &[]);
        let _ = agent.wait_for("version 1", installed(1));
        let counters = || (arrivals.packets(), delivered(&device.host), cpu_time(agent.pid()));
        if snooping {
            crate::wiring::wait_until("the switch holds back", || {
                let before = arrivals.packets();
                std::thread::sleep(Duration::from_millis(500));
                arrivals.packets() - before < 10
            });
        }
        let (sent_before, before) = (sent(&server), counters());
        std::thread::sleep(SPAN);
        let after = counters();
        let per_second = |count: u64| count as f64 / SPAN.as_secs_f64();
        let (arrived, given) = (per_second(after.0 - before.0), per_second(after.1 - before.1));
        let cpu = (after.2 - before.2).as_secs_f64() / SPAN.as_secs_f64();
        let rate = 8.0 * (sent(&server) - sent_before) as f64 / SPAN.as_secs_f64();
        assert!(rate > 0.8e9, "the server keeps its rate: {rate}");
        let network = if snooping { "switch that snoops" } else { "switch that floods" };
        let what = "buffers of up to 45 packets at its host";
        figure(&format!("agent that waits, {network}, 1 Gbit/s: {what}"), &format!("{arrived:.1}/s"), "-");
        figure(&format!("agent that waits, {network}: packets that it gets"), &format!("{given:.1}/s"), "1.5/s");
        figure(&format!("agent that waits, {network}: processor time"), &format!("{:.3} %", 100.0 * cpu), "0.1 %");
        assert!(given <= 1.5, "announcements and nothing else: {given}");
        assert!(cpu < 0.001, "{cpu}");
        assert!(!snooping || arrived <= 1.5, "{arrived}");
    }
}

/// The bytes that the server has told of last.
fn sent(server: &Process) -> u64 {
    server.events("status").last().map_or(0, |status| count(status, "ip_bytes"))
}
