//! The machine that figures come from: a figure without it says nothing.

use std::fs;
use std::path::Path;
use std::process::Command;

/// What there is to say of the machine and of one of its interfaces, as lines of `key: value`.
#[must_use]
pub(crate) fn describe(interface: &str) -> Vec<String> {
    vec![
        format!("machine: {}", machine()),
        format!(
            "kernel: Linux {}",
            read("/proc/sys/kernel/osrelease").map_or_else(unknown, |release| version_of(&release))
        ),
        format!("interface: {}", describe_interface(interface)),
        format!("offloads: {}", offloads(interface)),
    ]
}

fn unknown() -> String {
    "unknown".into()
}

/// The only line of a file of the kernel's; some end with a zero byte.
fn read(path: impl AsRef<Path>) -> Option<String> {
    let text = fs::read_to_string(path).ok()?;
    let text = text.trim_end_matches('\0').trim();
    (!text.is_empty()).then(|| text.to_owned())
}

/// The numbers of a kernel's release, without what its builder has added.
fn version_of(release: &str) -> String {
    release.split(|letter: char| !letter.is_ascii_digit() && letter != '.').next().unwrap_or_default().to_owned()
}

fn machine() -> String {
    let cpu_info = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let field = |name: &str| cpu_info.lines().find_map(|line| line.strip_prefix(name)?.trim_start().strip_prefix(':'));
    let product = || {
        let [vendor, product] = ["sys_vendor", "product_name"].map(|file| read(format!("/sys/class/dmi/id/{file}")));
        Some(format!("{} {}", vendor?, product?))
    };
    // A board names itself where it has no BIOS.
    let name = read("/proc/device-tree/model").or_else(product);
    let processors = std::thread::available_parallelism().map_or(1, usize::from);
    let model = field("model name").or_else(|| field("Hardware")).map(str::trim).unwrap_or(std::env::consts::ARCH);
    let is_virtual = field("flags").is_some_and(|flags| flags.split_whitespace().any(|flag| flag == "hypervisor"));
    let parts = [name, Some(format!("{processors} x {model}")), memory(), is_virtual.then(|| "virtual".to_owned())];
    parts.into_iter().flatten().collect::<Vec<_>>().join(", ")
}

fn memory() -> Option<String> {
    let table = fs::read_to_string("/proc/meminfo").ok()?;
    let total = table.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    let kibibytes = total.trim().strip_suffix("kB")?.trim().parse::<f64>().ok()?;
    Some(format!("{:.1} GiB", kibibytes / 1_048_576.0))
}

fn describe_interface(name: &str) -> String {
    let folder = Path::new("/sys/class/net").join(name);
    let driver = fs::read_link(folder.join("device/driver")).ok();
    let driver = driver.as_deref().and_then(Path::file_name).map_or("none (virtual)".into(), |at| at.to_string_lossy());
    let mtu = read(folder.join("mtu")).unwrap_or_else(unknown);
    // What is virtual has none, and says so by an error or by -1.
    let speed = read(folder.join("speed")).filter(|speed| !speed.starts_with('-'));
    let speed = speed.map_or("speed unknown".into(), |speed| format!("{speed} Mbit/s"));
    format!("{name}, driver {driver}, MTU {mtu}, {speed}")
}

/// The offloads that matter here, as ethtool(8) tells them: sysfs does not.
fn offloads(name: &str) -> String {
    const NAMES: [&str; 5] = [
        "tx-udp-segmentation",
        "generic-segmentation-offload",
        "generic-receive-offload",
        "tx-checksumming",
        "scatter-gather",
    ];
    let output = Command::new("ethtool").args(["-k", name]).output();
    let Ok(output) = output else { return "unknown (no ethtool)".into() };
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let state = |wanted: &&str| {
        let line = text.lines().find_map(|line| line.trim().strip_prefix(*wanted)?.strip_prefix(": "));
        format!("{wanted} {}", line.unwrap_or("?"))
    };
    NAMES.iter().map(state).collect::<Vec<_>>().join(", ")
}
