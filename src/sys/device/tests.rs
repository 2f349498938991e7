//! Devices need root to make: what needs one is in the end-to-end tests.

use super::*;

#[test]
fn what_is_no_device_cannot_be_claimed() {
    for path in ["/dev/null", "/proc/self/mountinfo", "/"] {
        let failure = Device::claim(Path::new(path)).unwrap_err();
        assert_eq!(failure.exit, Exit::CannotCreate);
        assert!(failure.to_string().starts_with(&format!("overwrite {path}: is not a block device")), "{failure}");
    }
}

#[test]
fn device_that_is_missing_is_told_by_name() {
    let failure = Device::claim(Path::new("/dev/no\nsuch")).unwrap_err();
    assert_eq!(failure.to_string(), "overwrite /dev/no\\nsuch: no such file or directory");
}

/// Neither a whole number of blocks nor of pages, but of sectors.
pub(in crate::sys) const SIZE: u64 = 3 * BLOCK_SIZE + 4096 + 512;

fn byte(at: u64) -> u8 {
    (at * 31 + at / 4096) as u8 | 1
}

/// A file that stands for a device, read back in either way; the first only where the file system has it.
pub(in crate::sys) fn stand_ins(folder: &Path) -> Vec<Device> {
    let path = folder.join("device");
    fs::write(&path, (0..SIZE).map(byte).collect::<Vec<_>>()).unwrap();
    let open = |flags| OpenOptions::new().read(true).write(true).custom_flags(flags).open(&path);
    let device = |direct| {
        let (file, path, node) = (open(0).unwrap(), path.clone(), Node::of(0));
        Device { file, direct, path, node, size: SIZE, alignment: 4096, buffers: Mutex::default() }
    };
    let direct = open(libc::O_DIRECT).ok().map(Some).map(device);
    direct.into_iter().chain([device(None)]).collect()
}

/// One that says to have written what it has not.
pub(in crate::sys) fn forgetful(folder: &Path) -> Device {
    let mut device = stand_ins(folder).remove(0);
    fs::copy(folder.join("device"), folder.join("stored")).unwrap();
    device.direct = Some(File::open(folder.join("stored")).unwrap());
    device
}

#[test]
fn any_range_is_read_back_whatever_the_alignment() {
    let folder = tempfile::tempdir().unwrap();
    for device in stand_ins(folder.path()) {
        for (offset, length) in [
            (0, 1),
            (4095, 2),
            (1, BLOCK_SIZE),
            (BLOCK_SIZE - 1, BLOCK_SIZE + 2),
            (0, SIZE),
            (SIZE - 1, 1),
            (SIZE - 700, 700),
        ] {
            let mut out = vec![0; length as usize];
            device.read_exact_at(offset, &mut out).unwrap();
            assert!((offset..).zip(&out).all(|(at, &read)| read == byte(at)), "{offset} {length}");
        }
        assert!(device.read_exact_at(SIZE - 1, &mut [0; 2]).is_err(), "beyond the end");
    }
}

#[test]
fn what_was_just_written_is_read_back_and_zeroes_reach_as_far_as_they_should() {
    let folder = tempfile::tempdir().unwrap();
    for device in stand_ins(folder.path()) {
        device.file().write_all_at(&[7; 3], 4095).unwrap();
        let mut out = [0; 5];
        device.read_exact_at(4094, &mut out).unwrap();
        assert_eq!(out, [byte(4094), 7, 7, 7, byte(4098)]);
        device.write_zeroes(BLOCK_SIZE + 5, BLOCK_SIZE).unwrap();
        let mut all = vec![1; 2 * BLOCK_SIZE as usize];
        device.read_exact_at(BLOCK_SIZE, &mut all).unwrap();
        assert!(all.iter().enumerate().all(|(i, &read)| (read == 0) == (5..5 + BLOCK_SIZE as usize).contains(&i)));
    }
}
