//! What operators see beside events: figures that a real node_exporter takes from files, and lines in the journal's form.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::doctor::backlog_drops;
use crate::files::{Content, MIB, assert_same, make};
use crate::lab::{Family, Host, Lab};
use crate::run::{PATIENCE, Process, Program, count, receive_until, run_to_end, senders, serve};

const EXPORTER: &str = "127.0.0.1:9100";
const GROUP: Family = Family::V4;

/// node_exporter with its textfile collector alone, in this host's namespace.
fn export(host: &Host, folder: &Path) -> Process {
    let mut command = host.command("prometheus-node-exporter");
    command.args(["--collector.disable-defaults", "--collector.textfile", "--web.listen-address", EXPORTER]);
    command.arg(format!("--collector.textfile.directory={}", folder.display()));
    Process::spawn(&mut command)
}

/// All that it publishes, as soon as it does.
fn scrape(host: &Host) -> String {
    let script = format!("import urllib.request as u; print(u.urlopen('http://{EXPORTER}/metrics').read().decode())");
    let started = Instant::now();
    loop {
        let output = host.command("python3").args(["-c", &script]).stderr(Stdio::null()).output().expect("run python3");
        if output.status.success() {
            return String::from_utf8(output.stdout).expect("text");
        }
        assert!(started.elapsed() < PATIENCE, "nothing to be scraped");
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// The values of a metric, with these words among its labels.
fn values(metrics: &str, name: &str, labels: &str) -> Vec<f64> {
    let line_value = |line: &str| -> Option<f64> {
        let rest = line.strip_prefix(name)?.strip_prefix('{')?;
        rest.contains(labels).then(|| rest.rsplit(' ').next().expect("a value").parse().expect("a number"))
    };
    metrics.lines().filter_map(line_value).collect()
}

#[test]
fn node_exporter_publishes_the_figures_of_a_server_and_of_two_receivers() {
    let mut lab = Lab::new();
    let (server_host, receiver_host) = (lab.host(), lab.host());
    let source = make(&lab, "source", Content::Random { size: 4 * MIB, seed: 1 });
    let folder = lab.folder("metrics");
    let file = |name: &str| folder.join(name).to_string_lossy().into_owned();
    let options = ["--rate", "100M", "--metrics", &file("server.prom")];
    let server = serve(&lab, &server_host, &source, GROUP.group(), &options);
    let drops_before = backlog_drops();
    let lost = ["one", "two"].map(|name| {
        let metrics = file(&format!("{name}.prom"));
        let options = ["--timeout", "80s", "--metrics", &metrics];
        let end = receive_until(&receiver_host, &lab.path(name), GROUP.group(), &options).wait();
        assert_eq!(count(end.completed(), "held"), 4 * MIB);
        assert_same(&lab.path(name), &source);
        senders(end.completed()).iter().map(|sender| count(sender, "lost")).sum::<u64>() as f64
    });
    assert!(lost == [0.0; 2] || backlog_drops() > drops_before, "nothing drops packets here: {lost:?}");
    let _ = server.wait_for_event("status");
    let exporter = export(&server_host, &folder);
    let metrics = scrape(&server_host);
    assert_eq!(values(&metrics, "iotup_receiver_object_held_bytes", ""), [4.0 * MIB as f64; 2]);
    assert_eq!(values(&metrics, "iotup_receiver_object_blocks_verified", "/one\""), [4.0]);
    assert_eq!(values(&metrics, "iotup_receiver_exit_code", ""), [0.0; 2]);
    assert_eq!(values(&metrics, "iotup_receiver_running", ""), [0.0; 2]);
    assert_eq!(values(&metrics, "iotup_receiver_packets_lost_total", "where=\"network\""), lost);
    assert_eq!(values(&metrics, "iotup_server_running", "group=\"239.77.1.1:4242\""), [1.0]);
    assert_eq!(values(&metrics, "iotup_server_rate_limit_bytes_per_second", ""), [12.5e6]);
    assert!(values(&metrics, "iotup_server_packets_total", "kind=\"data\"")[0] > 1000.0);
    assert_eq!(values(&metrics, "iotup_server_exit_code", ""), [] as [f64; 0]);
    // It reads nothing else, so that its complaints would be about these files.
    assert!(metrics.contains("node_textfile_scrape_error 0"), "{metrics}");
    exporter.kill();

    let server = server.terminate();
    assert_eq!(server.exit, Some(143));
    let text = fs::read_to_string(folder.join("server.prom")).expect("the file stays");
    assert_eq!(values(&text, "iotup_server_running", ""), [0.0]);
    assert_eq!(values(&text, "iotup_server_exit_code", ""), [143.0]);
    assert_eq!(values(&text, "iotup_server_sent_bytes_total", ""), [count(server.end(), "ip_bytes") as f64]);
    assert_eq!(fs::read_dir(&folder).expect("list it").count(), 3, "nothing is left beside the files");
}

#[test]
fn figures_that_cannot_be_written_stop_no_transfer_and_are_told_of_once() {
    let mut lab = Lab::new();
    let (server_host, receiver_host) = (lab.host(), lab.host());
    let source = make(&lab, "source", Content::Random { size: 16 * MIB, seed: 1 });
    let metrics = ["--metrics", "/nowhere/a.prom"];
    let server = serve(&lab, &server_host, &source, GROUP.group(), &[&["--rate", "50M"][..], &metrics].concat());
    let options = [&["--timeout", "80s"][..], &metrics].concat();
    let receiver = receive_until(&receiver_host, &lab.path("copy"), GROUP.group(), &options).wait();
    let _ = receiver.completed();
    assert_same(&lab.path("copy"), &source);
    for ended in [receiver, server.terminate()] {
        let warnings = ended.notices("warning");
        let is_told = |text: &str| text.starts_with("cannot write /nowhere/a.prom: no such file or directory");
        assert!(matches!(warnings[..], [one] if one["text"].as_str().is_some_and(is_told)), "{warnings:?}");
    }
}

/// What a receiver of nothing says on a standard error that is the journal's, for all that it knows.
fn journal(host: &Host, options: &str) -> String {
    let program = Program::Receiver.path();
    let script = format!(
        "JOURNAL_STREAM=$(stat --dereference --format %d:%i /proc/self/fd/2) \
         exec {program} {options} -i eth0 --timeout 100ms copy 239.77.1.1"
    );
    let refusal = run_to_end(host.command("sh").args(["-c", &script]));
    assert_eq!(refusal.exit, Some(69));
    refusal.stderr
}

#[test]
fn journal_gets_priorities_and_as_much_as_is_asked_for() {
    let mut lab = Lab::new();
    let host = lab.host();
    let listening = "<6>listening to 239.77.1.1:4242 on eth0\n";
    let failed = "<3>receive copy from 239.77.1.1:4242: nothing was received (is iotupd running? see --interface)\n";
    assert_eq!(journal(&host, ""), format!("{listening}{failed}"));
    assert_eq!(journal(&host, "--quiet"), failed);
    let facts = "<7>listening: file=\"copy\" group=\"239.77.1.1:4242\" interface=\"eth0\"\n";
    let verbose = journal(&host, "--verbose");
    assert!(verbose.starts_with(&format!("{listening}{facts}<7>end: ")) && verbose.ends_with(failed), "{verbose}");
    // Elsewhere lines have the program's name and no priority.
    let mut command: Command = host.command(Program::Receiver.path());
    let refusal = run_to_end(command.args(["-q", "-i", "eth0", "--timeout", "100ms", "copy", "239.77.1.1"]));
    assert_eq!(refusal.stderr, failed.replace("<3>", "iotupc: "));
}
