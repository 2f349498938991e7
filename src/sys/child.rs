//! A program of the user's: run by the shell, in a process group of its own, so that it can be stopped with all that it has started.

use std::ffi::{OsStr, OsString};
use std::io;
use std::os::fd::AsFd;
use std::os::unix::process::CommandExt;
use std::process::{Command, ExitStatus, Stdio};

use nix::sys::signal::{SigHandler, Signal, killpg, signal};
use nix::unistd::Pid;

/// What only this program is meant to hear of.
const NOT_PASSED_ON: [&str; 3] = ["NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID"];

/// A command that runs.
#[derive(Debug)]
pub struct Child {
    child: std::process::Child,
    group: Pid,
}

impl Child {
    /// Runs `command` by `/bin/sh -c`, with these variables beside those of this program. It has nothing to read, and writes to the
    /// standard error of this program. If this program is killed, the shell is killed too, or the command that has taken its place:
    /// so whoever starts again does not meet it.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn spawn(command: &OsStr, variables: &[(&str, OsString)]) -> io::Result<Self> {
        let output = || io::stderr().as_fd().try_clone_to_owned().map(Stdio::from);
        let mut shell = Command::new("/bin/sh");
        shell.arg("-c").arg(command).stdin(Stdio::null()).stdout(output()?).stderr(output()?).process_group(0);
        NOT_PASSED_ON.iter().for_each(|name| _ = shell.env_remove(name));
        shell.envs(variables.iter().map(|(name, value)| (name, value)));
        let parent = nix::unistd::getpid();
        let prepare = move || {
            nix::sys::prctl::set_pdeathsig(Signal::SIGKILL)?;
            // This program may have died before the line above.
            if nix::unistd::getppid() != parent {
                return Err(io::ErrorKind::Interrupted.into());
            }
            // Ignored here, which would be passed on.
            // SAFETY: the default action refers to no code.
            unsafe { signal(Signal::SIGXFSZ, SigHandler::SigDfl) }?;
            Ok(())
        };
        // SAFETY: between fork and exec `prepare` makes system calls and nothing else: it allocates nothing and takes no lock.
        unsafe { shell.pre_exec(prepare) };
        let child = shell.spawn()?;
        let group = Pid::from_raw(i32::try_from(child.id()).expect("a process id fits i32"));
        Ok(Self { child, group })
    }

    /// How it has ended, if it has.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn try_wait(&mut self) -> io::Result<Option<ExitStatus>> {
        self.child.try_wait()
    }

    /// Asks it, and all that it has started, to end.
    pub fn terminate(&self) {
        // None is left if this fails.
        let _ = killpg(self.group, Signal::SIGTERM);
    }

    /// Whether something is left of what it has started, itself included.
    #[must_use]
    pub fn is_anything_left(&self) -> bool {
        killpg(self.group, None).is_ok()
    }

    /// Ends it, and all that it has started.
    pub fn kill(&self) {
        let _ = killpg(self.group, Signal::SIGKILL);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::sys::clock;

    fn end(child: &mut Child) -> ExitStatus {
        loop {
            if let Some(status) = child.try_wait().unwrap() {
                return status;
            }
            clock::sleep_until(clock::now().after(Duration::from_millis(2)));
        }
    }

    fn run(command: &str, variables: &[(&str, OsString)]) -> Option<i32> {
        end(&mut Child::spawn(OsStr::new(command), variables).unwrap()).code()
    }

    #[test]
    fn command_has_its_variables_and_nothing_to_read() {
        let hostile = "$(exit 9) `exit 9` \"; exit 9; \n'";
        let variables = [("IOTUP_NAME", OsString::from(hostile)), ("IOTUP_EXPECTED", OsString::from(hostile))];
        assert_eq!(run("test \"$IOTUP_NAME\" = \"$IOTUP_EXPECTED\" && ! read line && exit 7", &variables), Some(7));
        assert_eq!(run("exit 0", &[]), Some(0));
        assert_eq!(run("no-such-program-anywhere 2>&-", &[]), Some(127));
    }

    #[test]
    fn all_that_it_has_started_ends_with_it() {
        let folder = tempfile::tempdir().unwrap();
        let fifo = folder.path().join("fifo");
        nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRWXU).unwrap();
        // The fifo has writers as long as one of the two lives.
        let command = format!("exec 2>&- >{}; (trap '' TERM; echo; sleep 100) & sleep 100; exit 3", fifo.display());
        let mut child = Child::spawn(OsStr::new(&command), &[]).unwrap();
        let mut reader = std::fs::File::open(&fifo).unwrap();
        // It is deaf to that signal from now on.
        assert_eq!(std::io::Read::read(&mut reader, &mut [0; 8]).unwrap(), 1);
        child.terminate();
        assert_eq!(end(&mut child).code(), None, "a signal has ended the shell");
        assert!(child.is_anything_left());
        child.kill();
        assert_eq!(std::io::Read::read(&mut reader, &mut [0; 8]).unwrap(), 0, "nobody is left");
    }
}
