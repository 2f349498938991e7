//! Prometheus' text format: families of samples, each with a line of help and a type, and labels that are the same for all.

use std::fmt::Write;

/// Figures of one moment.
#[derive(Clone, Debug)]
pub(in crate::drive) struct Exposition {
    prefix: &'static str,
    /// `name="value"`, separated by commas.
    labels: String,
    text: String,
}

impl Exposition {
    /// Nothing yet. Every name begins with `prefix`, every sample has `labels`.
    pub(in crate::drive) fn new(prefix: &'static str, labels: &[(&str, &str)]) -> Self {
        let labels: Vec<_> = labels.iter().map(|(name, value)| label(name, value)).collect();
        Self { prefix, labels: labels.join(","), text: String::new() }
    }

    /// A value that goes up and down.
    pub(in crate::drive) fn gauge(&mut self, name: &str, help: &str, value: impl Into<Number>) {
        self.family("gauge", name, help, [(&[] as &[_], value.into())]);
    }

    /// A value that only grows while the program runs; `name` ends in `_total`.
    pub(in crate::drive) fn counter(&mut self, name: &str, help: &str, value: impl Into<Number>) {
        self.family("counter", name, help, [(&[] as &[_], value.into())]);
    }

    /// One counter for each value of a label.
    pub(in crate::drive) fn counters<'a>(
        &mut self,
        name: &str,
        help: &str,
        label: &str,
        samples: impl IntoIterator<Item = (&'a str, u64)>,
    ) {
        self.head("counter", name, help);
        for (value, count) in samples {
            self.sample(name, &[(label, value)], count.into());
        }
    }

    /// Facts that are words: a gauge that is always 1, with a label for each.
    pub(in crate::drive) fn info(&mut self, help: &str, facts: &[(&str, &str)]) {
        self.family("gauge", "info", help, [(facts, Number::from(1))]);
    }

    /// What to write into the file.
    pub(in crate::drive) fn into_text(self) -> String {
        self.text
    }

    fn family<'a>(
        &mut self,
        kind: &str,
        name: &str,
        help: &str,
        samples: impl IntoIterator<Item = (&'a [(&'a str, &'a str)], Number)>,
    ) {
        self.head(kind, name, help);
        for (labels, value) in samples {
            self.sample(name, labels, value);
        }
    }

    fn head(&mut self, kind: &str, name: &str, help: &str) {
        let prefix = self.prefix;
        let _ = writeln!(self.text, "# HELP {prefix}_{name} {help}\n# TYPE {prefix}_{name} {kind}");
    }

    fn sample(&mut self, name: &str, labels: &[(&str, &str)], value: Number) {
        let (prefix, common) = (self.prefix, &self.labels);
        let _ = write!(self.text, "{prefix}_{name}{{{common}");
        for (name, value) in labels {
            let _ = write!(self.text, ",{}", label(name, value));
        }
        let _ = writeln!(self.text, "}} {}", value.0);
    }
}

/// A value as the format writes it.
#[derive(Clone, Debug)]
pub(in crate::drive) struct Number(String);

impl From<u64> for Number {
    fn from(value: u64) -> Self {
        Self(value.to_string())
    }
}

impl From<u32> for Number {
    fn from(value: u32) -> Self {
        Self(value.to_string())
    }
}

impl From<u8> for Number {
    fn from(value: u8) -> Self {
        Self(value.to_string())
    }
}

impl From<i32> for Number {
    fn from(value: i32) -> Self {
        Self(value.to_string())
    }
}

impl From<f64> for Number {
    fn from(value: f64) -> Self {
        Self(match value {
            _ if value.is_nan() => "NaN".into(),
            f64::INFINITY => "+Inf".into(),
            f64::NEG_INFINITY => "-Inf".into(),
            _ => value.to_string(),
        })
    }
}

fn label(name: &str, value: &str) -> String {
    let escaped = value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
    format!("{name}=\"{escaped}\"")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_family_has_help_type_and_the_common_labels() {
        let mut text = Exposition::new("iotup_x", &[("file", "a\"\\\n")]);
        text.gauge("size_bytes", "A size.", 5_u64);
        text.counters("packets_total", "Packets.", "kind", [("data", 1), ("hashes", u64::MAX)]);
        text.info("Facts.", &[("object", "0b")]);
        assert_eq!(
            text.into_text(),
            "# HELP iotup_x_size_bytes A size.\n# TYPE iotup_x_size_bytes gauge\n\
             iotup_x_size_bytes{file=\"a\\\"\\\\\\n\"} 5\n\
             # HELP iotup_x_packets_total Packets.\n# TYPE iotup_x_packets_total counter\n\
             iotup_x_packets_total{file=\"a\\\"\\\\\\n\",kind=\"data\"} 1\n\
             iotup_x_packets_total{file=\"a\\\"\\\\\\n\",kind=\"hashes\"} 18446744073709551615\n\
             # HELP iotup_x_info Facts.\n# TYPE iotup_x_info gauge\n\
             iotup_x_info{file=\"a\\\"\\\\\\n\",object=\"0b\"} 1\n"
        );
    }

    #[test]
    fn numbers_are_written_as_the_format_has_them() {
        let text = |value: f64| Number::from(value).0;
        assert_eq!(
            [text(1.5), text(3.0), text(f64::NAN), text(f64::INFINITY), text(-f64::INFINITY)],
            ["1.5", "3", "NaN", "+Inf", "-Inf"]
        );
    }
}
