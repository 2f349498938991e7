//! SIGINT and SIGTERM as a value that a loop asks for, and SIGHUP where that asks for something. The handlers store a number and do
//! nothing else.
//!
//! A signal can arrive between the question and the next wait, which then lasts to its deadline: a loop never waits longer than
//! it may take to stop.

use std::sync::atomic::{AtomicBool, AtomicI32, Ordering};

use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, sigaction};

use crate::failure::{Exit, Failure};

/// The number of the first stop signal that came; 0 while none has.
static PENDING: AtomicI32 = AtomicI32::new(0);

/// SIGHUP has come.
static RELOAD: AtomicBool = AtomicBool::new(false);

/// Who asked the program to stop.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum StopSignal {
    /// SIGINT, as by Ctrl-C.
    Interrupt,
    /// SIGTERM, as by a service manager.
    Terminate,
}

/// Installs the handlers. The first stop signal is kept for [`pending`], and ends whatever sleep or poll the main thread is in;
/// a second one, of either kind, has its default action and so kills. A file size limit (SIGXFSZ) becomes an ordinary error.
///
/// # Errors
/// [`Exit::Unavailable`] if the kernel refuses, which it does for no reason known.
pub fn install() -> Result<(), Failure> {
    // No SA_RESTART: sleeps and polls return to the loop, which then asks.
    let stop = SigAction::new(SigHandler::Handler(note), SaFlags::empty(), SigSet::empty());
    let ignore = SigAction::new(SigHandler::SigIgn, SaFlags::empty(), SigSet::empty());
    for (signal, action) in [(Signal::SIGINT, &stop), (Signal::SIGTERM, &stop), (Signal::SIGXFSZ, &ignore)] {
        // SAFETY: `note` calls only async-signal-safe functions and touches nothing but an atomic.
        let installed = unsafe { sigaction(signal, action) };
        installed
            .map_err(|errno| Failure::io(Exit::Unavailable, format!("install {signal} handler"), &errno.into()))?;
    }
    Ok(())
}

/// The first stop signal since [`install`], if any.
#[must_use]
pub fn pending() -> Option<StopSignal> {
    match PENDING.load(Ordering::Relaxed) {
        libc::SIGINT => Some(StopSignal::Interrupt),
        libc::SIGTERM => Some(StopSignal::Terminate),
        _ => None,
    }
}

/// Lets SIGHUP ask to reload, instead of killing.
///
/// # Errors
/// As [`install`] says.
pub fn install_reload() -> Result<(), Failure> {
    // With SA_RESTART: nothing waits for it.
    let reload = SigAction::new(SigHandler::Handler(note_reload), SaFlags::SA_RESTART, SigSet::empty());
    // SAFETY: `note_reload` touches nothing but an atomic.
    let installed = unsafe { sigaction(Signal::SIGHUP, &reload) };
    installed.map(|_| ()).map_err(|errno| Failure::io(Exit::Unavailable, "install SIGHUP handler", &errno.into()))
}

/// Whether SIGHUP has come since this was last asked.
#[must_use]
pub fn take_reload() -> bool {
    RELOAD.swap(false, Ordering::Relaxed)
}

extern "C" fn note_reload(_: libc::c_int) {
    RELOAD.store(true, Ordering::Relaxed);
}

extern "C" fn note(number: libc::c_int) {
    if PENDING.compare_exchange(0, number, Ordering::Relaxed, Ordering::Relaxed).is_ok() {
        return;
    }
    // SAFETY: signal() is async-signal-safe, and SIG_DFL refers to no memory.
    unsafe { libc::signal(number, libc::SIG_DFL) };
    // SAFETY: raise() is async-signal-safe; the signal is blocked until this handler returns, and then kills.
    unsafe { libc::raise(number) };
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::ExitStatusExt;
    use std::process::{Command, ExitStatus};

    use super::*;

    const SCRIPT: &str = "IOTUPD_TEST_SIGNALS";

    #[test]
    fn first_signal_is_kept_and_ends_a_sleep() {
        assert_eq!(run_in_child("interrupt").code(), Some(0));
    }

    #[test]
    fn hangup_asks_to_reload_where_that_is_wanted_and_kills_elsewhere() {
        assert_eq!(run_in_child("reload").code(), Some(0));
        assert_eq!(run_in_child("hangup").signal(), Some(libc::SIGHUP));
    }

    #[test]
    fn second_signal_of_the_other_kind_kills() {
        assert_eq!(run_in_child("interrupt,terminate").signal(), Some(libc::SIGTERM));
    }

    #[test]
    fn second_signal_of_the_same_kind_kills() {
        assert_eq!(run_in_child("terminate,terminate").signal(), Some(libc::SIGTERM));
    }

    /// Handlers belong to a process, so these tests need one each: this test, run again with a script in its environment.
    #[test]
    fn child_that_raises_what_its_environment_says() {
        let Ok(script) = std::env::var(SCRIPT) else { return };
        install().unwrap();
        assert_eq!(pending(), None);
        for (index, word) in script.split(',').enumerate() {
            if word == "reload" {
                install_reload().unwrap();
                nix::sys::signal::raise(Signal::SIGHUP).unwrap();
                assert!(take_reload() && !take_reload() && pending().is_none());
                continue;
            }
            let (signal, meaning) = match word {
                "interrupt" => (Signal::SIGINT, StopSignal::Interrupt),
                "hangup" => (Signal::SIGHUP, StopSignal::Terminate),
                _ => (Signal::SIGTERM, StopSignal::Terminate),
            };
            if signal == Signal::SIGHUP {
                // Whoever has run the tests by nohup(1) has it ignored.
                let default = SigAction::new(SigHandler::SigDfl, SaFlags::empty(), SigSet::empty());
                // SAFETY: no handler of ours is involved.
                unsafe { sigaction(signal, &default) }.unwrap();
            }
            nix::sys::signal::raise(signal).unwrap();
            assert_eq!((index, pending()), (0, Some(meaning)));
        }
    }

    fn run_in_child(script: &str) -> ExitStatus {
        Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "sys::signals::tests::child_that_raises_what_its_environment_says"])
            .env(SCRIPT, script)
            .stdout(std::process::Stdio::null())
            .stderr(std::process::Stdio::null())
            .status()
            .unwrap()
    }
}
