//! The clocks, and waiting for one of them: the only place that reads any.

use std::time::Duration;

use nix::sys::time::{TimeSpec, TimeValLike};
use nix::time::{ClockId, ClockNanosleepFlags, clock_gettime, clock_nanosleep};

use crate::types::Time;

/// No single wait is longer: what the seconds of a 32-bit kernel interface can hold.
const WAIT_MAX: Duration = Duration::from_secs(i32::MAX as u64);

/// The present moment: nanoseconds of CLOCK_MONOTONIC.
///
/// # Panics
/// If the kernel has no monotonic clock.
#[must_use]
pub fn now() -> Time {
    let time = clock_gettime(ClockId::CLOCK_MONOTONIC).expect("every Linux has a monotonic clock");
    Time::from_nanos(u64::try_from(time.num_nanoseconds()).expect("the monotonic clock starts at 0"))
}

/// Seconds since 1970, as far as this host knows; 0 if its clock says an earlier time.
#[must_use]
pub fn unix_seconds() -> u64 {
    clock_gettime(ClockId::CLOCK_REALTIME).map_or(0, |time| u64::try_from(time.tv_sec()).unwrap_or(0))
}

/// What the calling thread has used of a processor until now.
///
/// # Panics
/// If the kernel does not keep account of that.
#[must_use]
pub(super) fn processor_time() -> Duration {
    clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID).expect("every Linux keeps account of threads").into()
}

/// Sleeps until `deadline`; returns early when a signal arrives, at once when `deadline` has passed.
pub fn sleep_until(deadline: Time) {
    let deadline = time_spec(Duration::from_nanos(deadline.as_nanos()));
    // The only error that can occur is EINTR, and the caller looks for signals and at the clock anyway.
    let _ = clock_nanosleep(ClockId::CLOCK_MONOTONIC, ClockNanosleepFlags::TIMER_ABSTIME, &deadline);
}

/// Lets the calling thread's sleeps end when they should: the kernel's default is up to 50 us late, a whole burst.
pub fn set_timer_slack() {
    // A kernel that refuses is merely less exact, which the pacer's account of lost time shows.
    let _ = nix::sys::prctl::set_timerslack(1);
}

/// `span` in the kernel's form, shortened to the longest that every kernel takes.
pub(super) fn time_spec(span: Duration) -> TimeSpec {
    TimeSpec::from_duration(span.min(WAIT_MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sleep_ends_at_the_deadline_and_not_before() {
        set_timer_slack();
        let deadline = now().after(Duration::from_millis(2));
        sleep_until(deadline);
        assert!(now() >= deadline);
    }

    #[test]
    fn past_deadline_does_not_sleep() {
        let before = now();
        sleep_until(Time::default());
        assert!(now().since(before) < Duration::from_secs(5));
    }

    #[test]
    fn wall_clock_is_past_2020() {
        assert!(unix_seconds() > 1_577_836_800);
    }

    #[test]
    fn end_of_time_is_a_valid_wait() {
        let longest = time_spec(Duration::from_nanos(u64::MAX));
        assert_eq!(Duration::from(longest), WAIT_MAX);
    }
}
