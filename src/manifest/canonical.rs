//! JSON (RFC 8259) in the one form of docs/PROTOCOL.md, section 5.2, and nothing else: every text has at most one reading and
//! every reading has exactly one text.
//!
//! The grammar is that of the canonical form itself, so that no second pass has to compare, and the verdict does not hang on the
//! features of a general parser (whether it keeps the order of members or the spelling of numbers). Never panics, never
//! descends below the levels it is given.

use std::borrow::Cow;
use std::collections::BTreeMap;

/// The largest magnitude of an integer: what a double holds without loss (RFC 8259, section 6).
pub(super) const INTEGER_MAX: u64 = (1 << 53) - 1;

/// The members of an object by name.
pub(super) type Object = BTreeMap<String, Value>;

/// A JSON value.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Value {
    /// `null`, `true` or `false`: nothing here tells them apart.
    Literal,
    /// Within +-`INTEGER_MAX`.
    Integer(i64),
    String(String),
    Array(Vec<Value>),
    Object(Object),
}

impl Value {
    /// The integer, if it is one and not negative.
    pub(super) fn into_unsigned(self) -> Option<u64> {
        match self {
            Self::Integer(integer) => u64::try_from(integer).ok(),
            _ => None,
        }
    }

    /// The string, if it is one.
    pub(super) fn into_string(self) -> Option<String> {
        match self {
            Self::String(string) => Some(string),
            _ => None,
        }
    }

    /// The strings, if it is an array of nothing else.
    pub(super) fn into_strings(self) -> Option<Vec<String>> {
        match self {
            Self::Array(values) => values.into_iter().map(Self::into_string).collect(),
            _ => None,
        }
    }
}

/// Why a text is not canonical.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Fault {
    /// It is not JSON, or has another canonical form.
    Form,
    /// It has an integer beyond `INTEGER_MAX`.
    Integer,
    /// It has more levels than were allowed.
    Depth,
}

/// Reads the whole text as one value of at most `level_count` nested arrays and objects, the outermost counted.
pub(super) fn read(text: &str, level_count: usize) -> Result<Value, Fault> {
    let mut scanner = Scanner { rest: text };
    let value = scanner.value(level_count)?;
    if scanner.rest.is_empty() { Ok(value) } else { Err(Fault::Form) }
}

/// The string in quotes, in its canonical form.
pub(super) fn quote(string: &str) -> String {
    let mut text = String::with_capacity(string.len() + 2);
    text.push('"');
    for character in string.chars() {
        match escape(character) {
            Some(escaped) => text.push_str(&escaped),
            None => text.push(character),
        }
    }
    text.push('"');
    text
}

/// How a character must be escaped, or `None` if it must not be.
fn escape(character: char) -> Option<Cow<'static, str>> {
    Some(match character {
        '"' => "\\\"".into(),
        '\\' => "\\\\".into(),
        '\u{8}' => "\\b".into(),
        '\t' => "\\t".into(),
        '\n' => "\\n".into(),
        '\u{c}' => "\\f".into(),
        '\r' => "\\r".into(),
        '\0'..='\u{1f}' => format!("\\u{:04x}", u32::from(character)).into(),
        _ => return None,
    })
}

/// What has not been read yet.
struct Scanner<'a> {
    rest: &'a str,
}

impl Scanner<'_> {
    fn value(&mut self, level_count: usize) -> Result<Value, Fault> {
        match self.rest.as_bytes().first() {
            Some(b'{') => self.object(level_count).map(Value::Object),
            Some(b'[') => self.array(level_count).map(Value::Array),
            Some(b'"') => self.string().map(Value::String),
            Some(b'-' | b'0'..=b'9') => self.integer().map(Value::Integer),
            _ if ["null", "true", "false"].into_iter().any(|word| self.take(word)) => Ok(Value::Literal),
            _ => Err(Fault::Form),
        }
    }

    fn object(&mut self, level_count: usize) -> Result<Object, Fault> {
        let inner = level_count.checked_sub(1).ok_or(Fault::Depth)?;
        let mut members = Object::new();
        self.require("{")?;
        if self.take("}") {
            return Ok(members);
        }
        loop {
            let name = self.string()?;
            // Strictly ascending: this refuses a second member of the same name, too.
            if members.last_key_value().is_some_and(|(last, _)| *last >= name) {
                return Err(Fault::Form);
            }
            self.require(":")?;
            members.insert(name, self.value(inner)?);
            if self.take("}") {
                return Ok(members);
            }
            self.require(",")?;
        }
    }

    fn array(&mut self, level_count: usize) -> Result<Vec<Value>, Fault> {
        let inner = level_count.checked_sub(1).ok_or(Fault::Depth)?;
        let mut values = Vec::new();
        self.require("[")?;
        if self.take("]") {
            return Ok(values);
        }
        loop {
            values.push(self.value(inner)?);
            if self.take("]") {
                return Ok(values);
            }
            self.require(",")?;
        }
    }

    fn string(&mut self) -> Result<String, Fault> {
        let mut string = String::new();
        self.require("\"")?;
        loop {
            match self.character()? {
                '"' => return Ok(string),
                '\\' => string.push(self.escaped()?),
                character if escape(character).is_none() => string.push(character),
                _ => return Err(Fault::Form),
            }
        }
    }

    /// What follows a backslash.
    fn escaped(&mut self) -> Result<char, Fault> {
        match self.character()? {
            character @ ('"' | '\\') => Ok(character),
            'b' => Ok('\u{8}'),
            't' => Ok('\t'),
            'n' => Ok('\n'),
            'f' => Ok('\u{c}'),
            'r' => Ok('\r'),
            'u' => {
                let (digits, rest) = self.rest.split_at_checked(4).ok_or(Fault::Form)?;
                self.rest = rest;
                let character = u8::from_str_radix(digits, 16).map(char::from).map_err(|_| Fault::Form)?;
                // Refuses what has a shorter form, what needs no escape, and upper-case digits.
                let canonical = escape(character).is_some_and(|escaped| escaped.strip_prefix("\\u") == Some(digits));
                if canonical { Ok(character) } else { Err(Fault::Form) }
            }
            _ => Err(Fault::Form),
        }
    }

    /// A fraction or an exponent is left where it is, and nothing that may follow an integer starts like one.
    fn integer(&mut self) -> Result<i64, Fault> {
        let rest = self.rest.trim_start_matches(|character: char| character == '-' || character.is_ascii_digit());
        let digits = self.rest.strip_suffix(rest).ok_or(Fault::Form)?;
        self.rest = rest;
        let integer: i64 = digits.parse().map_err(|error: std::num::ParseIntError| match error.kind() {
            std::num::IntErrorKind::PosOverflow | std::num::IntErrorKind::NegOverflow => Fault::Integer,
            _ => Fault::Form,
        })?;
        // Refuses leading zeroes and -0.
        if integer.to_string() != digits {
            return Err(Fault::Form);
        }
        if integer.unsigned_abs() > INTEGER_MAX { Err(Fault::Integer) } else { Ok(integer) }
    }

    fn character(&mut self) -> Result<char, Fault> {
        let mut characters = self.rest.chars();
        let character = characters.next().ok_or(Fault::Form)?;
        self.rest = characters.as_str();
        Ok(character)
    }

    fn take(&mut self, token: &str) -> bool {
        let rest = self.rest.strip_prefix(token);
        self.rest = rest.unwrap_or(self.rest);
        rest.is_some()
    }

    fn require(&mut self, token: &str) -> Result<(), Fault> {
        if self.take(token) { Ok(()) } else { Err(Fault::Form) }
    }
}

#[cfg(test)]
pub(super) mod tests {
    use proptest::prelude::*;

    use super::*;

    const LEVELS: usize = 8;

    /// The same verdict by another route: a general parser, then its emission compared with the text.
    pub(in super::super) fn is_canonical(text: &str, level_count: usize) -> bool {
        let value: Result<serde_json::Value, _> = serde_json::from_str(text);
        let text_of = |value: &serde_json::Value| serde_json::to_string(value).expect("every value has a text");
        value.is_ok_and(|value| text_of(&value) == text && fits(&value, level_count))
    }

    fn fits(value: &serde_json::Value, level_count: usize) -> bool {
        match value {
            serde_json::Value::Number(number) => {
                number.as_i64().is_some_and(|integer| integer.unsigned_abs() < 1 << 53)
            }
            serde_json::Value::Array(values) => level_count > 0 && values.iter().all(|v| fits(v, level_count - 1)),
            serde_json::Value::Object(members) => level_count > 0 && members.values().all(|v| fits(v, level_count - 1)),
            _ => true,
        }
    }

    /// Forms that JSON has and the canonical form has not, and what is no JSON.
    const NOT_CANONICAL: &[&str] = &[
        "",
        " ",
        "\u{feff}0",
        "0 ",
        "\t0",
        "[0, 1]",
        "{\"a\": 0}",
        "[0,]",
        "[,0]",
        "[0 1]",
        "[",
        "]",
        "[0",
        "{",
        "{\"a\"",
        "{\"a\":",
        "{\"a\":0",
        "{\"a\":0,}",
        "{a:0}",
        "{0:0}",
        "{\"b\":0,\"a\":0}",
        "{\"a\":0,\"a\":0}",
        "{\"a\":0,\"\\u0061\":0}",
        "[{\"a\":{\"b\":0,\"b\":1}}]",
        // Ordered by UTF-16 units (RFC 8785), not by UTF-8 bytes.
        "{\"\u{10000}\":0,\"\u{ffff}\":0}",
        "00",
        "01",
        "-0",
        "-",
        "--1",
        "-01",
        "+1",
        "1-",
        "1-2",
        "1.0",
        "1.5",
        "1e0",
        "1E9",
        ".5",
        "0x1",
        "NaN",
        "Infinity",
        "nul",
        "True",
        "nullnull",
        "0null",
        "\"",
        "\"a",
        "'a'",
        "\"\\\"",
        "\"\\",
        "\"\\x\"",
        "\"\\/\"",
        "\"\\u\"",
        "\"\\u00",
        "\"\\u0041\"",
        "\"\\u001F\"",
        "\"\\u+01f\"",
        "\"\\u007f\"",
        "\"\\u000a\"",
        "\"\\u0022\"",
        "\"\\u00e9\"",
        "\"\\ud800\"",
        "\"\\udc00\\ud800\"",
        "\"\\ud83d\\ude00\"",
        "\"\\u00é\"",
        "\"\n\"",
        "\"\0\"",
        "\"a\"\"b\"",
        "0 // remark",
    ];

    #[test]
    fn text_that_is_not_canonical_is_refused() {
        for text in NOT_CANONICAL {
            assert_eq!(read(text, LEVELS), Err(Fault::Form), "{text:?}");
            assert!(!is_canonical(text, LEVELS), "{text:?}");
        }
    }

    #[test]
    fn canonical_text_is_read() {
        let good = [
            "0",
            "-1",
            "9007199254740991",
            "-9007199254740991",
            "null",
            "true",
            "false",
            "\"\"",
            "[]",
            "{}",
            "[[],{},\"\",0,null]",
            "\"\\\"\\\\\\b\\t\\n\\f\\r\\u0000\\u001f\u{7f}/é\u{1f600}\u{2028}\"",
            "{\"\":0,\"\\n\":1,\"!\":2,\"A\":3,\"a\":4,\"\u{ffff}\":5,\"\u{10000}\":6}",
        ];
        for text in good {
            assert!(read(text, LEVELS).is_ok(), "{text:?}");
            assert!(is_canonical(text, LEVELS), "{text:?}");
        }
    }

    #[test]
    fn integer_beyond_what_a_double_holds_is_refused() {
        for text in ["9007199254740992", "-9007199254740992", "9223372036854775808", &"9".repeat(400)] {
            assert_eq!(read(text, LEVELS), Err(Fault::Integer), "{text}");
        }
    }

    #[test]
    fn levels_are_counted_from_the_outermost() {
        let nested = |count: usize| "[".repeat(count) + &"]".repeat(count);
        assert!(read(&nested(LEVELS), LEVELS).is_ok());
        assert_eq!(read(&nested(LEVELS + 1), LEVELS), Err(Fault::Depth));
        assert_eq!(read(&"[".repeat(1_000_000), LEVELS), Err(Fault::Depth));
        assert_eq!(read(&"{\"a\":".repeat(1_000_000), LEVELS), Err(Fault::Depth));
    }

    fn any_value() -> impl Strategy<Value = serde_json::Value> {
        let leaf = prop_oneof![
            Just(serde_json::Value::Null),
            any::<bool>().prop_map(serde_json::Value::from),
            (-3i64..12).prop_map(serde_json::Value::from),
            any::<i64>().prop_map(serde_json::Value::from),
            any::<f64>().prop_map(serde_json::Value::from),
            any::<String>().prop_map(serde_json::Value::from),
            "[\u{0}-\u{80}\"\\\\]{0,6}".prop_map(serde_json::Value::from),
        ];
        leaf.prop_recursive(10, 40, 5, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..5).prop_map(serde_json::Value::from),
                prop::collection::btree_map("[\u{0}-\u{80}é]{0,3}", inner, 0..5)
                    .prop_map(|members| serde_json::Value::Object(members.into_iter().collect())),
            ]
        })
    }

    /// Bytes put in the place of a range: (place, bytes removed, bytes put there).
    pub(in super::super) fn any_edit() -> impl Strategy<Value = (prop::sample::Index, usize, String)> {
        let token = "[-+.eE0-9{}\\[\\],:\"\\\\ \nbu]{0,3}|\\\\u00[01][0-9a-fA-F]|\"a\":|,\"a\":0|null|\\PC";
        (any::<prop::sample::Index>(), 0usize..4, token)
    }

    /// `text` after such an edit.
    pub(in super::super) fn edited(text: &[u8], edit: &(prop::sample::Index, usize, String)) -> Vec<u8> {
        let start = edit.0.index(text.len() + 1);
        let end = text.len().min(start + edit.1);
        [&text[..start], edit.2.as_bytes(), &text[end..]].concat()
    }

    proptest! {
        #[test]
        fn verdict_is_that_of_a_general_parser_whose_emission_is_compared(
            value in any_value(),
            edits in prop::collection::vec(any_edit(), 0..3),
        ) {
            let text = edits.iter().fold(value.to_string().into_bytes(), |text, edit| edited(&text, edit));
            let text = String::from_utf8_lossy(&text);
            prop_assert_eq!(read(&text, LEVELS).is_ok(), is_canonical(&text, LEVELS), "{:?}", text);
        }

        #[test]
        fn quoted_string_is_read_back(string: String, controls in "[\u{0}-\u{80}\"\\\\]{0,20}") {
            for string in [string, controls] {
                prop_assert_eq!(&quote(&string), &serde_json::Value::from(string.as_str()).to_string());
                prop_assert_eq!(read(&quote(&string), 0), Ok(Value::String(string)));
            }
        }
    }
}
