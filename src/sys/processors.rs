//! Which processors this program may use, and on which of them a thread runs.

use std::io;

use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::unistd::Pid;

/// The processors that this thread may run on (sched_setaffinity(2), cpuset(7)), ascending; processor 0 alone if the kernel does not tell.
#[must_use]
pub fn allowed() -> Vec<usize> {
    let all = sched_getaffinity(Pid::from_raw(0)).map(|set| {
        (0..CpuSet::count()).filter(|&processor| set.is_set(processor).unwrap_or(false)).collect::<Vec<_>>()
    });
    all.ok().filter(|all| !all.is_empty()).unwrap_or_else(|| vec![0])
}

/// Keeps the calling thread on one processor from now on.
///
/// # Errors
/// What the kernel says: the processor is not there, or not allowed.
pub fn pin(processor: usize) -> io::Result<()> {
    let mut set = CpuSet::new();
    set.set(processor)?;
    Ok(sched_setaffinity(Pid::from_raw(0), &set)?)
}

/// Lets other threads run first from now on, as nice(1) does: for work that can wait. If the kernel will not, the thread runs on
/// like any other.
pub fn give_way() {
    // SAFETY: takes no pointer. On Linux the 0 stands for the calling thread alone (setpriority(2), bugs).
    let _ = unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, 10) };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pinned_thread_may_run_on_one_processor_and_leaves_the_others_alone() {
        let before = allowed();
        let last = *before.last().unwrap();
        let pinned = std::thread::spawn(move || pin(last).map(|()| allowed())).join().unwrap().unwrap();
        assert_eq!(pinned, [last]);
        assert_eq!(allowed(), before);
        assert!(pin(CpuSet::count()).is_err());
    }
}
