//! Every command that README.md shows is run: those of the programs here, as they stand there, and the others where `ELSEWHERE` says.

use std::fs;
use std::path::Path;
use std::process::Command;

use crate::dns::dnsmasq;
use crate::files::{Content, MIB, assert_same, make};
use crate::lab::{Host, Lab};
use crate::run::{Process, Program, run_to_end};

const ROOT: &str = env!("CARGO_MANIFEST_DIR");

/// Commands that are run by something else: a file, and the words there that run it.
const ELSEWHERE: [(&str, &str, &str); 10] = [
    ("scripts/demo", "scripts/test", "scripts/demo --bin-dir"),
    ("scripts/test", ".ci/run", "exec scripts/test"),
    ("scripts/package", "scripts/test", "scripts/package --no-build"),
    ("sudo apt install ./target/debian/iotupd_*.deb", "scripts/test", "scripts/test-package"),
    ("scripts/small", "scripts/test", "scripts/small --check"),
    ("cargo bench", "scripts/test", "env BENCH_INTERFACE=lo cargo test --quiet --benches"),
    ("BENCH_INTERFACE=eth0 cargo bench", "scripts/test", "env BENCH_INTERFACE=lo cargo test --quiet --benches"),
    ("sudo scripts/bench-netns --quick", "scripts/test", "scripts/bench-netns --quick --only"),
    ("sudo scripts/pacing", "scripts/test", "scripts/pacing --rates"),
    ("scripts/plot --mine", "tests/scripts.py", "\"--mine\""),
];

/// The commands of each `sh` block, in their order, without comments.
fn blocks(text: &str) -> Vec<Vec<String>> {
    let command = |line: &str| line.split(" #").next().unwrap_or_default().trim().to_owned();
    let block = |block: &str| {
        let block = block.split("```").next().unwrap_or_default().replace("\\\n", " ");
        block.lines().map(command).filter(|line| !line.is_empty() && !line.starts_with('#')).collect()
    };
    text.split("```sh\n").skip(1).map(block).collect()
}

/// One host with its folder, where commands are run as somebody would type them.
struct Shell {
    host: Host,
    folder: String,
    /// What is done before, in a namespace of mounts of the command's own.
    before: String,
}

impl Shell {
    fn command(&self, line: &str) -> Command {
        let programs = Path::new(Program::Server.path()).parent().expect("it is in a folder").display();
        let (folder, before) = (&self.folder, &self.before);
        // The last command of the line becomes the process that is waited for and signalled, unless the line itself has several words of
        // the shell's.
        let exec = if line.starts_with("iotup") && !line.contains('|') { "exec " } else { "" };
        let script = format!("{before} cd '{folder}'; export HOME='{folder}' PATH='{programs}':$PATH; {exec}{line}");
        let mut command = self.host.command("sh");
        command.args(["-e", "-c", &script]);
        command
    }

    fn run(&self, line: &str) {
        let ended = run_to_end(&mut self.command(line));
        assert_eq!(ended.exit, Some(0), "{line}: {}", ended.stderr);
    }
}

/// A shell on a host whose DNS is this one, and whose /srv and /var/lib are its own.
fn shell(lab: &Lab, host: &Host, name: &str, dns_server: &str) -> Shell {
    let folder = lab.folder(name);
    let config = folder.join("resolv.conf");
    fs::write(&config, format!("nameserver {dns_server}\n")).expect("write resolv.conf");
    let own = "mount -t tmpfs tmpfs /srv; mount -t tmpfs tmpfs /var/lib; mkdir /var/lib/iotupc;";
    let before = format!("mount --bind {} /etc/resolv.conf; {own}", config.display());
    Shell { host: host.clone(), folder: folder.display().to_string(), before }
}

fn run_block(commands: &[String], server: &Shell, receiver: &Shell, servers: &mut Vec<Process>) {
    if commands.iter().any(|line| line.starts_with("iotupd ")) {
        servers.drain(..).for_each(|old| assert_eq!(old.terminate().exit, Some(143)));
    }
    for line in commands {
        match line.split(' ').next() {
            Some("iotupd") => {
                let process = Process::spawn(&mut server.command(line));
                process.wait_for_words("sending ");
                servers.push(process);
            }
            // It waits for a random time before it fetches anything.
            Some("iotupc") if line.contains(" --watch ") => {
                let agent = Process::spawn(&mut receiver.command(line));
                agent.wait_for_words("version 7 is announced");
                assert_eq!(agent.terminate().exit, Some(143), "{line}");
            }
            Some("iotupc") => {
                // The devices have what the guide gives them.
                let _ =
                    fs::copy(format!("{}/minisign.pub", server.folder), format!("{}/minisign.pub", receiver.folder));
                receiver.run(line);
            }
            // It would ask for a password twice.
            Some("minisign") => server.run(&line.replace("minisign -G", "minisign -G -W")),
            Some("iotup") => server.run(line),
            _ => require_run_elsewhere(line),
        }
    }
}

fn require_run_elsewhere(line: &str) {
    let found = ELSEWHERE.iter().find(|(command, ..)| *command == line);
    let (_, file, words) = found.unwrap_or_else(|| panic!("nothing runs this command of README.md: {line}"));
    let text = fs::read_to_string(Path::new(ROOT).join(file)).expect("read what runs it");
    assert!(text.contains(words), "{file} does not run `{line}`");
}

#[test]
fn every_command_of_the_readme_works_as_it_stands_there() {
    let mut lab = Lab::new();
    let (server_host, receiver_host) = (lab.host(), lab.host());
    let service = "_iotupd._udp.updates.example.org";
    let dns = dnsmasq(
        &server_host,
        300,
        &[
            "--local=/org/".into(),
            format!("--srv-host={service},server.example.org,4242,10,0"),
            format!("--srv-host={service},standby.example.org,4242,20,0"),
            format!("--txt-record={service},group=ff3e::8000:42"),
            format!("--host-record=server.example.org,fd77:0::{}", server_host.number),
            "--host-record=standby.example.org,fd77:0::99".into(),
        ],
    );
    let address = server_host.address_v4();
    let server = shell(&lab, &server_host, "server", &address);
    let receiver = shell(&lab, &receiver_host, "receiver", &address);
    let source = make(&lab, "source", Content::Random { size: 2 * MIB, seed: 1 });
    let path = |shell: &Shell, name: &str| Path::new(&shell.folder).join(name);
    fs::copy(&source, path(&server, "firmware.img")).expect("copy the file");

    let text = fs::read_to_string(Path::new(ROOT).join("README.md")).expect("read README.md");
    let blocks = blocks(&text);
    assert!(blocks.len() >= 8, "the blocks are found: {blocks:?}");
    let mut servers = Vec::new();
    for block in &blocks {
        run_block(block, &server, &receiver, &mut servers);
    }
    assert_same(&path(&receiver, "firmware.img"), &source);
    assert_same(&path(&receiver, "firmware.bin"), &source);
    servers.into_iter().for_each(|server| assert_eq!(server.terminate().exit, Some(143)));
    dns.kill();
}
