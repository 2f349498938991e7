//! Runs the user's command for a version that is in place, and waits for it.

use std::ffi::{OsStr, OsString};
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::ExitStatus;
use std::time::Duration;

use crate::failure::{Exit, Failure};
use crate::limits::{HOOK_GRACE, HOOK_KILL_DELAY};
use crate::manifest::Manifest;
use crate::sys::{StopSignal, child::Child, clock, signals};
use crate::types::Time;

/// Between two looks whether the command has ended, at first and at last.
const LOOK_INTERVALS: (Duration, Duration) = (Duration::from_millis(5), Duration::from_millis(100));

/// How the command has ended.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct HookEnd {
    /// Whether what it was to do is done.
    pub(super) has_succeeded: bool,
    /// In words.
    pub(super) how: String,
    /// How long it took.
    pub(super) span: Duration,
    /// This program is to stop.
    pub(super) stopped_by: Option<StopSignal>,
}

/// What the command is told, by the environment.
pub(super) fn variables(
    file: &Path,
    manifest: &Manifest,
    attempt: u32,
    previous: Option<u64>,
) -> Vec<(&'static str, OsString)> {
    let file = std::path::absolute(file).unwrap_or_else(|_| file.to_owned());
    let compatible = manifest.compatible.as_ref().map_or("", |name| name.as_str());
    vec![
        ("IOTUP_FILE", file.into()),
        ("IOTUP_VERSION", manifest.version.to_string().into()),
        ("IOTUP_DIGEST", manifest.digest.to_string().into()),
        ("IOTUP_SIZE", manifest.size.bytes().to_string().into()),
        ("IOTUP_NAME", manifest.name.as_str().into()),
        ("IOTUP_COMPATIBLE", compatible.into()),
        ("IOTUP_PREVIOUS_VERSION", previous.map_or_else(String::new, |version| version.to_string()).into()),
        ("IOTUP_ATTEMPT", attempt.to_string().into()),
    ]
}

/// What ends a command that does not end by itself.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Patience {
    /// It may go on until then.
    Until(Time),
    /// It has been asked to end, and is killed then.
    KillAt(Time),
    /// It has been killed.
    Over,
}

/// Runs it, for `time_max` at most. When this program is to stop, it has [`HOOK_GRACE`] to end.
///
/// # Errors
/// [`Exit::Unavailable`] if it cannot be run or waited for.
pub(super) fn run(command: &OsStr, variables: &[(&str, OsString)], time_max: Duration) -> Result<HookEnd, Failure> {
    let failed = |error| Failure::io(Exit::Unavailable, "run the command of --exec", &error);
    let started = clock::now();
    let mut child = Child::spawn(command, variables).map_err(failed)?;
    let mut patience = Patience::Until(started.after(time_max));
    let (mut interval, interval_max) = LOOK_INTERVALS;
    let (mut stopped_by, mut has_run_over, mut ended) = (None, false, None);
    loop {
        let now = clock::now();
        if ended.is_none() {
            ended = child.try_wait().map_err(failed)?;
        }
        // What it has left behind is not this program's affair, unless it had to be ended: then that has as long.
        let is_waited_for = matches!(patience, Patience::KillAt(end) if now < end && child.is_anything_left());
        if let Some(status) = ended.filter(|_| !is_waited_for) {
            if patience == Patience::Over || matches!(patience, Patience::KillAt(_)) {
                child.kill();
            }
            // One that had to be asked to end has not done what it was to do, whatever it says.
            let has_succeeded = status.success() && !has_run_over;
            let how = if has_run_over { format!("{} after its time was over", words(status)) } else { words(status) };
            return Ok(HookEnd { has_succeeded, how, span: now.since(started), stopped_by });
        }
        if stopped_by.is_none()
            && let Some(signal) = signals::pending()
        {
            stopped_by = Some(signal);
            if let Patience::Until(end) = patience {
                patience = Patience::Until(end.min(now.after(HOOK_GRACE)));
            }
        }
        match patience {
            Patience::Until(end) if now >= end => {
                has_run_over = true;
                child.terminate();
                patience = Patience::KillAt(now.after(HOOK_KILL_DELAY));
            }
            Patience::KillAt(end) if now >= end => {
                child.kill();
                patience = Patience::Over;
            }
            _ => {}
        }
        clock::sleep_until(now.after(interval));
        interval = (interval * 2).min(interval_max);
    }
}

fn words(status: ExitStatus) -> String {
    match (status.code(), status.signal()) {
        (Some(0), _) => "succeeded".into(),
        (Some(code), _) => format!("failed with exit code {code}"),
        (None, Some(signal)) => format!("was ended by signal {signal}"),
        (None, None) => "failed".into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::manifest::{DisplayName, Members};
    use crate::types::{Digest, ObjectSize};

    fn run_for(command: &str, time_max: Duration) -> HookEnd {
        run(OsStr::new(command), &[], time_max).unwrap()
    }

    #[test]
    fn command_is_told_all_that_the_manifest_says() {
        let (digest, size) = (Digest([7; 32]), ObjectSize::new(5).unwrap());
        let mut members = Members::new(digest, size, DisplayName::new("a name").unwrap());
        members.version = 3;
        let told = |members: &Members, previous| -> Vec<String> {
            let told = variables(Path::new("/srv/file"), &members.manifest().unwrap(), 2, previous);
            told.into_iter().map(|(name, value)| format!("{name}={}", value.to_string_lossy())).collect()
        };
        let digest = format!("IOTUP_DIGEST={digest}");
        let common = ["IOTUP_FILE=/srv/file", "IOTUP_VERSION=3", &digest, "IOTUP_SIZE=5", "IOTUP_NAME=a name"];
        let with = |rest: [&'static str; 3]| [&common[..], &rest].concat();
        let nothing = ["IOTUP_COMPATIBLE=", "IOTUP_PREVIOUS_VERSION=", "IOTUP_ATTEMPT=2"];
        assert_eq!(told(&members, None), with(nothing));
        members.compatible = DisplayName::new("board-a");
        let all = ["IOTUP_COMPATIBLE=board-a", "IOTUP_PREVIOUS_VERSION=1", "IOTUP_ATTEMPT=2"];
        assert_eq!(told(&members, Some(1)), with(all));
    }

    #[test]
    fn end_is_told_in_words() {
        let minute = Duration::from_secs(60);
        let end = |command| {
            let HookEnd { has_succeeded, how, .. } = run_for(command, minute);
            (has_succeeded, how)
        };
        assert_eq!(end("true"), (true, "succeeded".into()));
        assert_eq!(end("exit 3"), (false, "failed with exit code 3".into()));
        assert_eq!(end("kill -USR1 $$"), (false, "was ended by signal 10".into()));
    }

    #[test]
    fn what_a_command_has_started_has_time_to_clean_up() {
        let folder = tempfile::tempdir().unwrap();
        let (ready, done) = (folder.path().join("ready"), folder.path().join("done"));
        let trap = format!("trap 'sleep 0.3; echo >{}; exit' TERM; echo >{}", done.display(), ready.display());
        let command = format!("({trap}; sleep 100 & wait) & wait");
        // A shell that was ended before it had set its trap could not clean up: it gets more time.
        let times = [200, 2_000, 20_000].map(Duration::from_millis);
        let mut ends = times.into_iter().map(|time| run_for(&command, time));
        let end = ends.find(|_| ready.exists()).expect("a shell sets a trap within seconds");
        assert!(!end.has_succeeded && done.exists(), "{}", end.how);
    }

    #[test]
    fn command_that_takes_too_long_is_ended() {
        let started = clock::now();
        let end = run_for("sleep 100", Duration::from_millis(50));
        assert_eq!((end.has_succeeded, &*end.how), (false, "was ended by signal 15 after its time was over"));
        assert!(clock::now().since(started) < HOOK_KILL_DELAY, "it does not wait for what obeys");
    }
}
