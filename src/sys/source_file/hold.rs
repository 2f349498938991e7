//! What keeps a file from changing under its reader: clones and leases.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use libc::c_int;
use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, sigaction};

/// A file without a name, in the folder of `path`, that shares all blocks of `file` (FICLONE of ioctl_ficlone(2)).
///
/// # Errors
/// What the kernel says: EOPNOTSUPP where the file system cannot, or the folder cannot be written to.
pub(super) fn clone(file: &File, path: &Path) -> io::Result<File> {
    let path = fs::canonicalize(path)?;
    let folder = path.parent().unwrap_or(Path::new("/"));
    let clone = OpenOptions::new().read(true).write(true).custom_flags(libc::O_TMPFILE).mode(0o600).open(folder)?;
    // SAFETY: the request takes a file descriptor and no pointer; both files are open during the call.
    let result = unsafe { libc::ioctl(clone.as_raw_fd(), libc::FICLONE, file.as_raw_fd()) };
    if result == 0 { Ok(clone) } else { Err(io::Error::last_os_error()) }
}

/// Takes a read lease on `file`. Whoever opens it for writing, or cuts it, waits until it is given up.
///
/// # Errors
/// What the kernel says: EACCES without the right to it, EAGAIN while somebody has it open for writing, EINVAL where there are none.
pub(super) fn take_lease(file: &File) -> io::Result<()> {
    // The kernel tells of a waiting writer by a signal whose default is to kill; `lease_is_whole` is asked instead.
    let ignore = SigAction::new(SigHandler::SigIgn, SaFlags::empty(), SigSet::empty());
    // SAFETY: to ignore a signal refers to no code.
    unsafe { sigaction(Signal::SIGIO, &ignore) }?;
    set_lease(file, libc::F_RDLCK)
}

/// Gives a lease up, so that whoever waits can go on.
pub(super) fn give_up_lease(file: &File) {
    // The kernel has broken it already if this fails.
    let _ = set_lease(file, libc::F_UNLCK);
}

/// Whether nobody waits to write: else the kernel tells what the lease is to become.
pub(super) fn lease_is_whole(file: &File) -> bool {
    // SAFETY: the command takes no argument.
    let kind = unsafe { libc::fcntl(file.as_raw_fd(), libc::F_GETLEASE) };
    kind == c_int::from(libc::F_RDLCK)
}

fn set_lease(file: &File, kind: impl Into<c_int>) -> io::Result<()> {
    // SAFETY: the command takes an integer and no pointer.
    let result = unsafe { libc::fcntl(file.as_raw_fd(), libc::F_SETLEASE, kind.into()) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
