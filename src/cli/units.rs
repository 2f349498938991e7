//! Numbers with units: rates in bits per second, times, sizes in bytes, percentages. Read exactly, in integers.

use std::time::Duration;

use crate::limits::{BLOCK_SIZE, FEC_PERCENT_MAX, OBJECT_SIZE_MAX, PKT_DELAY_MAX};
use crate::types::RateBps;

/// How fast to send.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum RateArg {
    /// IP-level bits per second.
    Limit(RateBps),
    /// As fast as it goes.
    Max,
}

/// A number of bytes.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct ByteCount(pub u64);

/// A share in millionths, below 100 %.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Percent {
    /// Millionths of the whole.
    pub ppm: u32,
}

/// The value of a decimal number times `scale`, rounded down; at most 9 digits after the point.
fn scaled(number: &str, scale: u64) -> Option<u64> {
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    let is_digits = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
    if whole.is_empty() || !is_digits(whole) || !is_digits(fraction) || fraction.len() > 9 || number.ends_with('.') {
        return None;
    }
    let scale = u128::from(scale);
    let unit = 10_u128.pow(u32::try_from(fraction.len()).ok()?);
    let part = if fraction.is_empty() { 0 } else { fraction.parse::<u128>().ok()? * scale / unit };
    let value = u128::from(whole.parse::<u64>().ok()?).checked_mul(scale)?.checked_add(part)?;
    u64::try_from(value).ok()
}

/// The number and its unit.
fn split_unit(text: &str) -> (&str, &str) {
    let end = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(end);
    (number, unit.trim_start())
}

pub(super) fn parse_rate(text: &str) -> Result<RateArg, String> {
    if text == "max" {
        return Ok(RateArg::Max);
    }
    let (number, unit) = split_unit(text);
    let unit = unit.strip_suffix("/s").or_else(|| unit.strip_suffix("ps")).unwrap_or(unit);
    let scale = match unit.strip_suffix("bit").or_else(|| unit.strip_suffix('b')).unwrap_or(unit) {
        "" => 1,
        "k" | "K" => 1_000,
        "M" => 1_000_000,
        "G" => 1_000_000_000,
        "T" => 1_000_000_000_000,
        _ => return Err(format!("{unit} is not a unit of a rate (k, M, G, T, with or without bit)")),
    };
    let bits = scaled(number, scale).ok_or_else(|| format!("{text} is not a rate, such as 100M, 2.5Gbit or max"))?;
    let rate = RateBps::new(bits).filter(|rate| rate.bits_per_second() >= 1_000);
    rate.map(RateArg::Limit).ok_or_else(|| "a rate is from 1k to 281T".to_owned())
}

fn parse_time(text: &str, unit_default: &str) -> Result<Duration, String> {
    let (number, unit) = split_unit(text);
    let scale = match if unit.is_empty() { unit_default } else { unit } {
        "ns" => 1,
        "us" | "µs" => 1_000,
        "ms" => 1_000_000,
        "s" => 1_000_000_000,
        "m" | "min" => 60_000_000_000,
        "h" => 3_600_000_000_000,
        other => return Err(format!("{other} is not a unit of time (ns, us, ms, s, m, h)")),
    };
    let nanos = scaled(number, scale).ok_or_else(|| format!("{text} is not a time, such as 10us, 1.5s or 2m"))?;
    Ok(Duration::from_nanos(nanos))
}

pub(super) fn parse_packet_delay(text: &str) -> Result<Duration, String> {
    let delay = parse_time(text, "us")?;
    if delay > PKT_DELAY_MAX {
        return Err(format!("a packet delay is at most {} s", PKT_DELAY_MAX.as_secs()));
    }
    Ok(delay)
}

pub(super) fn parse_duration(text: &str) -> Result<Duration, String> {
    match parse_time(text, "s")? {
        Duration::ZERO => Err("the time must be more than 0".into()),
        time => Ok(time),
    }
}

pub(super) fn parse_bytes(text: &str) -> Result<ByteCount, String> {
    let (number, unit) = split_unit(text);
    let scale = match unit {
        "" | "B" => 1,
        "K" | "k" | "KiB" => 1 << 10,
        "M" | "MiB" => 1 << 20,
        "G" | "GiB" => 1 << 30,
        "T" | "TiB" => 1 << 40,
        "KB" | "kB" => 1_000,
        "MB" => 1_000_000,
        "GB" => 1_000_000_000,
        "TB" => 1_000_000_000_000,
        _ => return Err(format!("{unit} is not a unit of size (K, M, G, T, KiB, KB, ...)")),
    };
    let bytes = scaled(number, scale).ok_or_else(|| format!("{text} is not a size, such as 500M or 2GiB"))?;
    if bytes > OBJECT_SIZE_MAX { Err("a size is less than 256 TiB".into()) } else { Ok(ByteCount(bytes)) }
}

pub(super) fn parse_window(text: &str) -> Result<ByteCount, String> {
    match parse_bytes(text)? {
        ByteCount(size) if size < BLOCK_SIZE => Err("a window is at least 1M".into()),
        size => Ok(size),
    }
}

pub(super) fn parse_percent(text: &str) -> Result<Percent, String> {
    let number = text.strip_suffix('%').unwrap_or(text);
    let ppm = scaled(number, 10_000).and_then(|ppm| u32::try_from(ppm).ok()).filter(|&ppm| ppm < 1_000_000);
    ppm.map(|ppm| Percent { ppm }).ok_or_else(|| format!("{text} is not from 0% to less than 100%"))
}

pub(super) fn parse_fec(text: &str) -> Result<u16, String> {
    let number = text.strip_suffix('%').unwrap_or(text);
    let percent = number.parse().ok().filter(|percent| *percent <= FEC_PERCENT_MAX && !number.starts_with('+'));
    percent.ok_or_else(|| format!("{text} is not a whole number of percent from 0% to {FEC_PERCENT_MAX}%"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_are_decimal_and_exact() {
        let bits = |text: &str| match parse_rate(text) {
            Ok(RateArg::Limit(rate)) => Some(rate.bits_per_second()),
            Ok(RateArg::Max) => Some(0),
            Err(_) => None,
        };
        assert_eq!(bits("100M"), Some(100_000_000));
        assert_eq!(bits("2.5Gbit"), Some(2_500_000_000));
        assert_eq!(bits("2.5 Gbit/s"), Some(2_500_000_000));
        assert_eq!(bits("10Gbps"), Some(10_000_000_000));
        assert_eq!(bits("0.1M"), Some(100_000));
        assert_eq!(bits("max"), Some(0));
        for bad in
            ["0", "-1", "abc", "1X", "", "1.", ".5M", "1e6", "999999T", "18446744073709551616", "10", "1.0000000001M"]
        {
            assert_eq!(bits(bad), None, "{bad}");
        }
    }

    #[test]
    fn packet_delay_is_in_microseconds_by_default() {
        assert_eq!(parse_packet_delay("10"), Ok(Duration::from_micros(10)));
        assert_eq!(parse_packet_delay("1.5us"), Ok(Duration::from_nanos(1500)));
        assert_eq!(parse_packet_delay("1ms"), Ok(Duration::from_millis(1)));
        assert_eq!(parse_packet_delay("0"), Ok(Duration::ZERO));
        assert!(["2h", "-1", "x", "10 parsecs"].iter().all(|bad| parse_packet_delay(bad).is_err()));
    }

    #[test]
    fn durations_are_in_seconds_by_default() {
        assert_eq!(parse_duration("90"), Ok(Duration::from_secs(90)));
        assert_eq!(parse_duration("2m"), Ok(Duration::from_secs(120)));
        assert!(parse_duration("0").is_err());
    }

    #[test]
    fn sizes_are_binary_unless_they_say_otherwise() {
        assert_eq!(parse_bytes("2K"), Ok(ByteCount(2048)));
        assert_eq!(parse_bytes("1.5MiB"), Ok(ByteCount(3 << 19)));
        assert_eq!(parse_bytes("1GB"), Ok(ByteCount(1_000_000_000)));
        assert!(["1Q", "-1", "256T"].iter().all(|bad| parse_bytes(bad).is_err()));
        assert_eq!(parse_window("1M"), Ok(ByteCount(1 << 20)));
        assert!(["0", "1023K", "256T"].iter().all(|bad| parse_window(bad).is_err()));
    }

    #[test]
    fn percentages_are_below_the_whole() {
        assert_eq!(parse_percent("30%"), Ok(Percent { ppm: 300_000 }));
        assert_eq!(parse_percent("12.5"), Ok(Percent { ppm: 125_000 }));
        assert!(["100%", "101", "-1%", "x"].iter().all(|bad| parse_percent(bad).is_err()));
    }
}
