//! What a device seems to hold, by the marks that partition tables and file systems leave at its start. It is shown to whoever is
//! about to overwrite it, and nothing depends on it.

/// A mark: the bytes at an offset.
const MARKS: [(usize, &[u8], &str); 22] = [
    (0, b"LUKS\xba\xbe", "an encrypted volume (LUKS)"),
    (0, b"XFSB", "an XFS file system"),
    (0, b"hsqs", "a squashfs file system"),
    (3, b"NTFS    ", "an NTFS file system"),
    (3, b"EXFAT   ", "an exFAT file system"),
    (54, b"FAT12   ", "a FAT file system"),
    (54, b"FAT16   ", "a FAT file system"),
    (82, b"FAT32   ", "a FAT file system"),
    (512, b"EFI PART", "a GPT partition table"),
    (4096, b"EFI PART", "a GPT partition table"),
    (512, b"LABELONE", "an LVM volume"),
    (1024, b"\x10\x20\xf5\xf2", "an F2FS file system"),
    (1024, b"\xe2\xe1\xf5\xe0", "an EROFS file system"),
    (1080, b"\x53\xef", "an ext2, ext3 or ext4 file system"),
    (4086, b"SWAPSPACE2", "swap space"),
    (4086, b"SWAP-SPACE", "swap space"),
    (4096, b"\xfc\x4e\x2b\xa9", "a member of an array (md)"),
    (4120, b"\xc6\x85\x73\xf6\x4e\x1a\x45\xca", "a bcache device"),
    (32_769, b"CD001", "an ISO 9660 image"),
    (65_600, b"_BHRfS_M", "a btrfs file system"),
    (0, b"UBI#", "a UBI volume"),
    (0, b"\x27\x05\x19\x56", "a U-Boot image"),
];
/// Where a partition table of the old kind has its four entries of 16 bytes, and behind them its mark.
const MBR_ENTRIES: std::ops::Range<usize> = 446..510;

/// What the bytes at the start of a device say; `None` if that is nothing known.
pub(super) fn of(head: &[u8]) -> Option<&'static str> {
    let marked = MARKS.iter().find(|(at, mark, _)| head.get(*at..*at + mark.len()) == Some(mark));
    if let Some((_, _, name)) = marked {
        return Some(name);
    }
    let is_mbr = head.get(510..512) == Some(&[0x55, 0xaa]);
    let has_entries = head.get(MBR_ENTRIES).is_some_and(|entries| entries.iter().any(|&byte| byte != 0));
    match () {
        () if is_mbr && has_entries => Some("an MBR partition table"),
        () if !head.is_empty() && head.iter().all(|&byte| byte == 0) => Some("zeroes at its start"),
        () => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_mark_is_found_in_its_place_alone() {
        for (at, mark, name) in MARKS {
            let mut head = vec![0; 128 << 10];
            head[at..at + mark.len()].copy_from_slice(mark);
            assert_eq!(of(&head), Some(name));
            head.insert(0, 1);
            assert_eq!(of(&head), None, "{name} one byte later");
        }
    }

    #[test]
    fn old_partition_table_has_an_entry_and_its_mark() {
        let mut head = vec![0; 4096];
        assert_eq!(of(&head), Some("zeroes at its start"));
        head[450] = 0x83;
        assert_eq!(of(&head), None);
        head[510..512].copy_from_slice(&[0x55, 0xaa]);
        assert_eq!(of(&head), Some("an MBR partition table"));
    }

    #[test]
    fn short_and_unreadable_devices_hold_nothing_known() {
        assert_eq!((of(&[]), of(&[7; 100])), (None, None));
        assert_eq!(of(b"XFSB"), Some("an XFS file system"));
    }
}
