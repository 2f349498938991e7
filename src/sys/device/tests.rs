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
