//! What the kernel tells of a block device in sysfs and `/proc`: its name and model, its partitions, and who uses it.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// A block device as sysfs shows it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Node {
    /// `major:minor`.
    number: String,
    folder: PathBuf,
}

impl Node {
    /// The one with this device number (`st_rdev`).
    pub(super) fn of(rdev: u64) -> Self {
        Self::numbered(number(rdev))
    }

    fn numbered(number: String) -> Self {
        let link = Path::new("/sys/dev/block").join(&number);
        Self { number, folder: fs::canonicalize(&link).unwrap_or(link) }
    }

    /// The kernel's name for it.
    pub(super) fn name(&self) -> String {
        // Where there is no sysfs, the number is as good.
        self.folder.file_name().unwrap_or_default().to_string_lossy().replace(':', "-")
    }

    pub(super) fn is_read_only(&self) -> bool {
        self.read("ro").is_some_and(|text| text == "1")
    }

    /// What its maker calls it; of a partition, the disk.
    pub(super) fn model(&self) -> Option<String> {
        let found = ["device/model", "device/name", "../device/model", "../device/name", "loop/backing_file"];
        let text = found.iter().find_map(|name| self.read(name))?;
        let text: String = text.chars().filter(|character| !character.is_control()).collect();
        Some(text).filter(|text| !text.is_empty())
    }

    fn read(&self, name: &str) -> Option<String> {
        Some(fs::read_to_string(self.folder.join(name)).ok()?.trim().to_owned())
    }

    /// Its partitions, by name.
    pub(super) fn partitions(&self) -> Vec<Self> {
        let entries = fs::read_dir(&self.folder).into_iter().flatten().flatten();
        let folders = entries.map(|entry| entry.path()).filter(|path| path.join("partition").exists());
        let number = |folder: &Path| fs::read_to_string(folder.join("dev")).map(|text| text.trim().to_owned());
        let nodes = folders.filter_map(|folder| Some(Self { number: number(&folder).ok()?, folder }));
        let mut nodes: Vec<Self> = nodes.collect();
        nodes.sort_by(|one, other| {
            (one.folder.as_os_str().len(), &one.folder).cmp(&(other.folder.as_os_str().len(), &other.folder))
        });
        nodes
    }

    /// Who uses it or one of its partitions, as far as this namespace can see.
    pub(super) fn usage(&self) -> Option<String> {
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
        let swaps = fs::read_to_string("/proc/swaps").unwrap_or_default();
        let loops = backing_files();
        let parts = self.partitions();
        std::iter::once(self).chain(&parts).find_map(|node| {
            let subject = if node == self { String::new() } else { format!("its partition {} ", node.name()) };
            let usage = mount_point(&mounts, &node.number, number_of)
                .map(|at| format!("is mounted on {at}"))
                .or_else(|| node.holder().map(|holder| format!("is in use by {holder}")))
                .or_else(|| is_swap(&swaps, &node.number, number_of).then(|| "is in use as swap space".to_owned()))
                .or_else(|| {
                    let under = loops.iter().find(|(_, file)| number_of(file).as_ref() == Some(&node.number));
                    under.map(|(name, _)| format!("is in use by {name}"))
                })?;
            Some(format!("{subject}{usage}"))
        })
    }

    /// A device that is made of this one, such as an array or an encrypted volume.
    fn holder(&self) -> Option<String> {
        let mut holders = fs::read_dir(self.folder.join("holders")).ok()?.flatten();
        holders.next().map(|entry| entry.file_name().to_string_lossy().into_owned())
    }
}

/// `major:minor` of a device number.
fn number(rdev: u64) -> String {
    format!("{}:{}", libc::major(rdev), libc::minor(rdev))
}

/// The number of the device at a path.
fn number_of(path: &str) -> Option<String> {
    let metadata = fs::metadata(path).ok().filter(|_| path.starts_with("/dev/"))?;
    Some(number(metadata.rdev()))
}

/// Loop devices and the files that they show, which they do not claim.
fn backing_files() -> Vec<(String, String)> {
    let entries = fs::read_dir("/sys/block").into_iter().flatten().flatten();
    let shown = entries.filter_map(|entry| {
        let file = fs::read_to_string(entry.path().join("loop/backing_file")).ok()?;
        Some((entry.file_name().to_string_lossy().into_owned(), file.trim().to_owned()))
    });
    shown.collect()
}

/// Where the device is mounted, from the lines of mountinfo (proc(5)).
fn mount_point(mounts: &str, number: &str, number_of: impl Fn(&str) -> Option<String>) -> Option<String> {
    let line = mounts.lines().find(|line| {
        let of_device = line.split(' ').nth(2) == Some(number);
        // A file system on several devices has a number of its own, and names one of them.
        let source = line.split_once(" - ").and_then(|(_, rest)| rest.split(' ').nth(1));
        of_device || source.and_then(&number_of).as_deref() == Some(number)
    })?;
    // It may hold anything: the kernel writes spaces and line feeds as octal numbers, and control characters are not for terminals.
    let shown: String = line.split(' ').nth(4)?.chars().filter(|character| !character.is_control()).collect();
    Some(shown)
}

/// Whether the device is among the lines of `/proc/swaps`.
fn is_swap(swaps: &str, number: &str, number_of: impl Fn(&str) -> Option<String>) -> bool {
    let mut paths = swaps.lines().skip(1).filter_map(|line| line.split_whitespace().next());
    paths.any(|path| number_of(path).as_deref() == Some(number))
}

#[cfg(test)]
mod tests {
    use super::*;

    const MOUNTS: &str = "\
22 1 259:2 / / rw,relatime shared:1 - ext4 /dev/root rw
30 22 0:45 / /data\\040disk rw master:1 - btrfs /dev/sdb rw
31 22 8:1 /boot /boot rw - vfat /dev/sda1 rw";

    fn known(path: &str) -> Option<String> {
        match path {
            "/dev/sdb" => Some("8:16".into()),
            "/dev/sda2" => Some("8:2".into()),
            _ => None,
        }
    }

    #[test]
    fn mount_is_found_by_number_and_by_source() {
        let at = |number| mount_point(MOUNTS, number, known);
        assert_eq!(at("259:2").as_deref(), Some("/"));
        assert_eq!(at("8:16").as_deref(), Some("/data\\040disk"));
        assert_eq!(at("8:1").as_deref(), Some("/boot"));
        assert_eq!((at("8:2"), at("8:17"), mount_point("", "8:1", known)), (None, None, None));
        assert_eq!(mount_point("not a mount\n- - - -\n", "8:1", known), None);
    }

    #[test]
    fn swap_is_found_by_its_path() {
        let swaps = "Filename Type Size Used Priority\n/swapfile file 1 0 -2\n/dev/sda2 partition 1 0 -3\n";
        assert!(is_swap(swaps, "8:2", known));
        assert!(!is_swap(swaps, "8:16", known) && !is_swap("", "8:2", known));
    }

    #[test]
    fn device_that_sysfs_does_not_know_has_a_number_for_a_name_and_no_user() {
        let node = Node::numbered("4095:1048575".into());
        assert_eq!((node.name().as_str(), node.usage()), ("4095-1048575", None));
        assert_eq!((node.partitions(), node.model(), node.is_read_only()), (vec![], None, false));
    }
}
