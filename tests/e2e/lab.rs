//! A network of namespaces on one bridge, made for one test and gone after it.
//!
//! Every host is a network namespace with one interface, `eth0`, whose other end is a port of the bridge. Nothing outside the
//! namespaces is touched, so that tests can run at the same time and beside anything else on the machine.

use std::fs::{self, File, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, MutexGuard, Once, PoisonError};

use tempfile::TempDir;

use crate::wiring::wait_until;

/// Every namespace's name starts so; the process id and a number follow.
const PREFIX: &str = "iotup-e2e";
const TOOLS: [&str; 17] = [
    "ip",
    "tc",
    "nft",
    "ethtool",
    "python3",
    "setpriv",
    "mount",
    "umount",
    "losetup",
    "fincore",
    "cc",
    "ss",
    "minisign",
    "dnsmasq",
    "smcrouted",
    "prometheus-node-exporter",
    "sysctl",
];
/// The bridge's ports and the hosts' interfaces on it.
const MAIN: &str = "eth0";

/// The two families that every transfer is tried on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Family {
    V4,
    V6,
}

impl Family {
    /// The group that tests use. Labs share no network, so that one group serves all.
    pub(crate) fn group(self) -> &'static str {
        match self {
            Self::V4 => "239.77.1.1",
            Self::V6 => "ff12::77",
        }
    }

    /// Where what is sent to that group is announced.
    pub(crate) fn announcement_group(self) -> &'static str {
        match self {
            Self::V4 => "239.77.1.0",
            Self::V6 => "ff12::76",
        }
    }
}

/// One namespace with an interface on the bridge.
#[derive(Clone, Debug)]
pub(crate) struct Host {
    pub(crate) netns: String,
    pub(crate) number: u32,
}

impl Host {
    /// A command that runs in this host's namespace and dies with the test that started it.
    pub(crate) fn command(&self, program: impl AsRef<Path>) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.netns, "setpriv", "--pdeathsig", "KILL"]).arg(program.as_ref());
        command.stdin(Stdio::null());
        command
    }

    /// The same, as the user `nobody`, who owns nothing.
    pub(crate) fn command_as_nobody(&self, program: impl AsRef<Path>) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.netns, "setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"]);
        command.arg(program.as_ref()).stdin(Stdio::null());
        command
    }

    /// The IPv4 address of `eth0`.
    pub(crate) fn address_v4(&self) -> String {
        format!("10.77.0.{}", self.number)
    }

    /// Loses single packets on arrival at this host, at random, `per_mille` of every thousand.
    ///
    /// The rule sits behind the interface, so that neither the bridge nor another host notices.
    pub(crate) fn lose(&self, per_mille: u32) {
        assert!(per_mille < 1000, "{per_mille} of 1000 packets");
        let rule = format!(
            "add table inet loss; \
             add chain inet loss input {{ type filter hook input priority 0 ; }}; \
             add rule inet loss input udp dport 4242 numgen random mod 1000 < {per_mille} counter drop"
        );
        self.filter(&rule);
    }

    /// Runs a command of nft(8) in this host's namespace.
    pub(crate) fn filter(&self, rule: &str) {
        succeed(Command::new("ip").args(["netns", "exec", &self.netns, "nft", rule]));
    }

    /// Writes a number of this namespace's, such as `net/ipv4/igmp_max_memberships` or a file of its sysfs.
    pub(crate) fn write(&self, path: &str, value: &str) {
        let script = format!("echo {value} > {path}");
        succeed(Command::new("ip").args(["netns", "exec", &self.netns, "sh", "-c", &script]));
    }
}

/// The namespaces of one test, its bridge and its folder.
pub(crate) struct Lab {
    prefix: String,
    pub(crate) switch: Host,
    host_count: u32,
    netns: Vec<String>,
    folder: TempDir,
}

impl Lab {
    /// An empty network: a bridge without ports.
    pub(crate) fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        require_tools();
        let prefix = format!("{PREFIX}-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let folder = tempfile::Builder::new().prefix(&prefix).tempdir().expect("make the test's folder");
        // Some tests look at it as another user.
        fs::set_permissions(folder.path(), Permissions::from_mode(0o755)).expect("open the test's folder");
        let switch = Host { netns: format!("{prefix}-sw"), number: 0 };
        let mut lab = Self { prefix, switch: switch.clone(), host_count: 0, netns: Vec::new(), folder };
        lab.add_netns(&switch);
        lab.add_bridge("br0");
        lab
    }

    /// The folder of this test.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// A new folder in the folder of this test.
    pub(crate) fn folder(&self, name: &str) -> PathBuf {
        let path = self.path(name);
        fs::create_dir(&path).expect("make a folder");
        path
    }

    /// A new host on the bridge, with an address of each family.
    pub(crate) fn host(&mut self) -> Host {
        let host = self.lonely_host();
        self.connect(&host, MAIN, "br0", 0);
        host
    }

    /// A new host that has nothing but its loopback interface.
    pub(crate) fn lonely_host(&mut self) -> Host {
        self.host_count += 1;
        let host = Host { netns: format!("{}-h{}", self.prefix, self.host_count), number: self.host_count };
        self.add_netns(&host);
        host
    }

    /// Gives the host a second interface, `eth1`, on a network of its own.
    pub(crate) fn add_second_interface(&self, host: &Host) {
        let bridge = format!("br{}", host.number);
        self.add_bridge(&bridge);
        self.connect(host, "eth1", &bridge, host.number);
    }

    /// Takes every offload from both ends of the host's link, so that each packet travels, and is lost, alone.
    pub(crate) fn disable_offloads(&self, host: &Host) {
        let port = port_of(host, MAIN);
        for (netns, interface) in [(&host.netns, MAIN), (&self.switch.netns, port.as_str())] {
            let ethtool = ["netns", "exec", netns, "ethtool", "-K", interface];
            let off = ["gso", "off", "tso", "off", "gro", "off", "tx-udp-segmentation", "off"];
            succeed(Command::new("ip").args(ethtool).args(off));
        }
    }

    /// Puts a queue before the host's link that lets no more through than it is told (tc-tbf(8)), or changes the one there is.
    pub(crate) fn squeeze(&self, host: &Host, queue: &[&str]) {
        let tbf = ["-n", &host.netns, "qdisc", "replace", "dev", MAIN, "root", "tbf"];
        succeed(Command::new("tc").args(tbf).args(queue));
    }

    /// What has been counted at both ends of the hosts' links, for the message of a test that fails.
    pub(crate) fn link_counters(&self, hosts: &[&Host]) -> String {
        let mut said = fs::read_to_string("/proc/net/softnet_stat").unwrap_or_default();
        for host in hosts {
            for (netns, interface) in [(&host.netns, MAIN), (&self.switch.netns, &*port_of(host, MAIN))] {
                for command in [["ip", "-s", "link"], ["tc", "-s", "qdisc"]] {
                    let [program, statistics, what] = command;
                    let mut shown = Command::new(program);
                    shown.args(["-n", netns, statistics, what, "show", "dev", interface]);
                    said += &shown
                        .output()
                        .map_or_else(|error| error.to_string(), |out| String::from_utf8_lossy(&out.stdout).into());
                }
            }
        }
        said
    }

    /// Sets how long packets on the host's link may be.
    pub(crate) fn set_mtu(&self, host: &Host, mtu: u32) {
        let set = ["-n", &host.netns, "link", "set", MAIN, "mtu"];
        succeed(Command::new("ip").args(set).arg(mtu.to_string()));
    }

    /// Lets the second processor do what the bridge has to do with this host's packets, which the sender would do otherwise.
    pub(crate) fn forward_on_second_processor(&self, host: &Host) {
        self.switch.write(&format!("/sys/class/net/{}/queues/rx-0/rps_cpus", port_of(host, MAIN)), "2");
    }

    /// A file system of so many bytes, in memory.
    pub(crate) fn small_disk(&self, name: &str, bytes: u64) -> Mount {
        let path = self.folder(name);
        let size = format!("size={bytes}");
        succeed(Command::new("mount").args(["-t", "tmpfs", "-o", &size, "iotup-e2e"]).arg(&path));
        Mount(path)
    }

    /// A file system that can clone files, in an image in this lab's folder.
    pub(crate) fn cloning_disk(&self, name: &str) -> Mount {
        let image = self.path(&format!("{name}.image"));
        File::create_new(&image).and_then(|file| file.set_len(256 << 20)).expect("make an image");
        succeed(Command::new("mkfs.btrfs").arg("--quiet").arg(&image));
        let path = self.folder(name);
        succeed(Command::new("mount").args(["-t", "btrfs", "-o", "loop"]).arg(&image).arg(&path));
        Mount(path)
    }

    fn add_netns(&mut self, host: &Host) {
        succeed(Command::new("ip").args(["netns", "add", &host.netns]));
        self.netns.push(host.netns.clone());
        // Without this an IPv6 address cannot be used for its first second or two.
        host.write("/proc/sys/net/ipv6/conf/default/accept_dad", "0");
        host.write("/proc/sys/net/ipv6/conf/all/accept_dad", "0");
        succeed(Command::new("ip").args(["-n", &host.netns, "link", "set", "lo", "up"]));
    }

    fn add_bridge(&self, name: &str) {
        let switch = &self.switch.netns;
        // Snooping would hold packets back until the memberships are known; that is the switch's affair, not ours.
        let bridge = ["type", "bridge", "mcast_snooping", "0", "forward_delay", "0", "stp_state", "0"];
        succeed(Command::new("ip").args(["-n", switch, "link", "add", name]).args(bridge));
        succeed(Command::new("ip").args(["-n", switch, "link", "set", name, "up"]));
    }

    pub(crate) fn connect(&self, host: &Host, interface: &str, bridge: &str, network: u32) {
        let (switch, port) = (&self.switch.netns, port_of(host, interface));
        let peer = ["type", "veth", "peer", "name", interface, "netns", &host.netns];
        succeed(Command::new("ip").args(["-n", switch, "link", "add", &port]).args(peer));
        succeed(Command::new("ip").args(["-n", switch, "link", "set", &port, "master", bridge, "up"]));
        let number = host.number;
        let addresses = [format!("10.77.{network}.{number}/24"), format!("fd77:{network}::{number}/64")];
        for address in &addresses {
            succeed(Command::new("ip").args(["-n", &host.netns, "address", "add", address, "dev", interface]));
        }
        succeed(Command::new("ip").args(["-n", &host.netns, "link", "set", interface, "up"]));
        wait_until_usable(&host.netns, interface);
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        for netns in &self.netns {
            // Nothing can be done about a failure, and the next test run tries again.
            let _ = Command::new("ip").args(["netns", "delete", netns]).stderr(Stdio::null()).status();
        }
    }
}

/// A file system that is unmounted when this is dropped.
pub(crate) struct Mount(PathBuf);

impl Mount {
    /// The file system of a device.
    pub(crate) fn of(lab: &Lab, name: &str, device: &BlockDevice) -> Self {
        let path = lab.folder(name);
        succeed(Command::new("mount").arg(device.path()).arg(&path));
        Self(path)
    }

    /// Changes its options, such as its size.
    pub(crate) fn change(&self, options: &str) {
        succeed(Command::new("mount").args(["-o", &format!("remount,{options}")]).arg(&self.0));
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("--lazy").arg(&self.0).status();
    }
}

/// A block device whose bytes are those of a file. It is taken away when this is dropped.
pub(crate) struct BlockDevice(PathBuf);

impl BlockDevice {
    pub(crate) fn new(file: &Path) -> Self {
        Self::with(&[], file)
    }

    /// The same, with options of losetup(8).
    pub(crate) fn with(options: &[&str], file: &Path) -> Self {
        let mut command = Command::new("losetup");
        let output = command.args(["--find", "--show"]).args(options).arg(file).output().expect("run losetup");
        assert!(output.status.success(), "losetup: {}", String::from_utf8_lossy(&output.stderr));
        Self(String::from_utf8_lossy(&output.stdout).trim().into())
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for BlockDevice {
    fn drop(&mut self) {
        let _ = Command::new("losetup").arg("--detach").arg(&self.0).status();
    }
}

/// Makes a file system on a device.
pub(crate) fn make_file_system(device: &BlockDevice) {
    succeed(Command::new("mkfs.btrfs").arg("--quiet").arg(device.path()));
}

/// Held by tests that use the machine to the full or judge speed: one at a time.
pub(crate) fn whole_machine() -> MutexGuard<'static, ()> {
    static WHOLE_MACHINE: Mutex<()> = Mutex::new(());
    // A test that failed has left nothing behind that the next could trip over.
    WHOLE_MACHINE.lock().unwrap_or_else(PoisonError::into_inner)
}

pub(crate) fn port_of(host: &Host, interface: &str) -> String {
    format!("h{}-{interface}", host.number)
}

/// Waits until packets can go: there is a carrier, and every address has been looked into by the kernel, which it does in its own time.
pub(crate) fn wait_until_usable(netns: &str, interface: &str) {
    let says = |words: &[&str]| {
        let output = Command::new("ip").args(["-n", netns]).args(words).args(["dev", interface]).output();
        String::from_utf8_lossy(&output.expect("run ip").stdout).into_owned()
    };
    wait_until("the interface can be used", || {
        says(&["-o", "link", "show"]).contains("state UP") && says(&["-6", "address", "show", "tentative"]).is_empty()
    });
}

/// Runs a command that sets something up, which cannot fail where the tests can run at all.
pub(crate) fn succeed(command: &mut Command) {
    let output = command.stdin(Stdio::null()).output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {}: {stderr}", output.status);
}

/// Fails the test where it cannot be run, rather than let it pass untried.
fn require_tools() {
    static ONCE: Once = Once::new();
    assert!(nix::unistd::geteuid().is_root(), "end-to-end tests need root: run scripts/test as root");
    let path = std::env::var_os("PATH").unwrap_or_default();
    for tool in TOOLS {
        let found = std::env::split_paths(&path).any(|folder| folder.join(tool).is_file());
        assert!(found, "end-to-end tests need the program `{tool}`: scripts/test installs it");
    }
    ONCE.call_once(delete_leftovers);
}

/// Deletes the namespaces of test runs that were killed before they could do it themselves.
fn delete_leftovers() {
    let output = Command::new("ip").args(["netns", "list"]).output().expect("run ip netns");
    for name in String::from_utf8_lossy(&output.stdout).lines().filter_map(|line| line.split_whitespace().next()) {
        let owner = name.strip_prefix(PREFIX).and_then(|rest| rest.split('-').nth(1));
        if owner.is_some_and(|pid| !Path::new("/proc").join(pid).exists()) {
            let _ = Command::new("ip").args(["netns", "delete", name]).stderr(Stdio::null()).status();
        }
    }
}
