//! Moments: a date and time in UTC (RFC 3339), seconds since 1970, or so long from now.

/// The largest number of a manifest: 2^53 - 1.
const SECONDS_MAX: u64 = (1 << 53) - 1;
const DAY: u64 = 86_400;
const MONTH_DAYS: [u64; 12] = [31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31];

/// A moment, as far as a command line says it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum When {
    /// So many seconds after 1970-01-01T00:00:00Z.
    At(u64),
    /// So many seconds from now.
    After(u64),
}

impl When {
    /// Seconds since 1970, if it is `now`.
    #[must_use]
    pub fn unix_seconds(self, now: u64) -> u64 {
        match self {
            Self::At(seconds) => seconds,
            Self::After(seconds) => now.saturating_add(seconds).min(SECONDS_MAX),
        }
    }
}

pub(super) fn parse(text: &str) -> Result<When, String> {
    let when = match text.strip_prefix('+') {
        Some(span) => parse_span(span).map(When::After),
        None if text.contains('-') => parse_date(text).map(When::At),
        None => number(text).map(When::At),
    };
    let seconds = |when: &When| matches!(when, When::At(seconds) | When::After(seconds) if *seconds <= SECONDS_MAX);
    when.filter(seconds).ok_or_else(|| {
        format!("{text} is not a moment, such as 2027-01-31, 2027-01-31T12:00:00Z, +90d, or seconds since 1970")
    })
}

/// Digits alone.
fn number(text: &str) -> Option<u64> {
    let is_number = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    text.parse().ok().filter(|_| is_number)
}

fn parse_span(text: &str) -> Option<u64> {
    let (count, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    let seconds = match unit {
        "s" => 1,
        "m" => 60,
        "h" => 3600,
        "d" => DAY,
        _ => return None,
    };
    number(count)?.checked_mul(seconds)
}

/// `YYYY-MM-DD` or `YYYY-MM-DDThh:mm:ssZ`, from 1970 on.
fn parse_date(text: &str) -> Option<u64> {
    let (date, time) = text.split_once('T').map_or((text, None), |(date, time)| (date, Some(time)));
    let [year, month, day] = fields(date, '-', [4, 2, 2])?;
    let month_index = usize::try_from(month).ok()?.checked_sub(1)?;
    let leap_day = u64::from(is_leap(year));
    let month_days = MONTH_DAYS.get(month_index)? + if month == 2 { leap_day } else { 0 };
    if year < 1970 || !(1..=month_days).contains(&day) {
        return None;
    }
    let before: u64 = MONTH_DAYS.iter().take(month_index).sum();
    let leap_days = (1970..year).filter(|&year| is_leap(year)).count() as u64 + if month > 2 { leap_day } else { 0 };
    let days = (year - 1970) * 365 + leap_days + before + day - 1;
    let seconds = match time {
        None => 0,
        Some(time) => {
            let [hour, minute, second] = fields(time.strip_suffix('Z')?, ':', [2, 2, 2])?;
            let is_time = hour < 24 && minute < 60 && second < 60;
            is_time.then_some(hour * 3600 + minute * 60 + second)?
        }
    };
    Some(days * DAY + seconds)
}

/// Three numbers of so many digits each.
fn fields(text: &str, separator: char, lengths: [usize; 3]) -> Option<[u64; 3]> {
    let mut parts = text.split(separator);
    let mut out = [0; 3];
    for (value, length) in out.iter_mut().zip(lengths) {
        *value = number(parts.next().filter(|part| part.len() == length)?)?;
    }
    parts.next().is_none().then_some(out)
}

fn is_leap(year: u64) -> bool {
    year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_are_those_of_date() {
        // Each by `date --utc --date TEXT +%s`.
        for (text, seconds) in [
            ("0", 0),
            ("1700000000", 1_700_000_000),
            ("9007199254740991", (1 << 53) - 1),
            ("1970-01-01", 0),
            ("1999-12-31T23:59:59Z", 946_684_799),
            ("2000-02-29", 951_782_400),
            ("2000-03-01", 951_868_800),
            ("2027-01-31T12:00:00Z", 1_801_396_800),
            ("2100-03-01", 4_107_542_400),
            ("9999-12-31T23:59:59Z", 253_402_300_799),
        ] {
            assert_eq!(parse(text), Ok(When::At(seconds)), "{text}");
        }
        assert_eq!(parse("+90d").unwrap().unix_seconds(1000), 1000 + 90 * 86_400);
        assert_eq!(parse("+2h").unwrap().unix_seconds(u64::MAX), SECONDS_MAX);
        assert_eq!(parse("+5m"), Ok(When::After(300)));
    }

    #[test]
    fn what_is_no_moment_is_refused() {
        for text in [
            "",
            "+",
            "-",
            "-1",
            "+1",
            "+d",
            "+1y",
            "+1é",
            "++1d",
            "1e9",
            "tomorrow",
            "2027",
            "2027-1-1",
            "2027-13-01",
            "2027-00-01",
            "2027-02-29",
            "2100-02-29",
            "2027-04-31",
            "2027-01-00",
            "1969-12-31",
            "2027-01-31T",
            "2027-01-31T24:00:00Z",
            "2027-01-31T12:00:00",
            "2027-01-31T12:00:60Z",
            "2027-01-31T12:00:00+01:00",
            "2027-01-31-01",
            "9007199254740992",
            "+9007199254740991d",
            "18446744073709551616",
        ] {
            // A year alone is a number of seconds.
            assert_eq!(parse(text).is_ok(), text == "2027", "{text}");
        }
    }
}
