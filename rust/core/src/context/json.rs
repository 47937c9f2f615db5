//! JSON parsed for merging. Numbers keep their text, maps their order.
//!
//! Not serde_json's own value: it keeps the text of a number only as a map with a private key, and so takes a user's
//! map with that key for a number.

use std::collections::HashMap;
use std::sync::Arc;

/// Deeper text is not parsed; the codec writes none that is nearly as deep.
const DEEPEST: u32 = 256;

/// A JSON value.
#[derive(Clone, Debug)]
pub(super) enum Json {
    /// A number, `true`, `false` or `null`, as written.
    Plain(Box<str>),
    Text(Box<str>),
    List(Vec<Json>),
    /// Each key once, in the order in which they came.
    Map(Vec<(Arc<str>, Json)>),
}

impl PartialEq for Json {
    /// By value: the order of a map's keys does not count.
    fn eq(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Plain(one), Self::Plain(other)) | (Self::Text(one), Self::Text(other)) => one == other,
            (Self::List(one), Self::List(other)) => one == other,
            (Self::Map(one), Self::Map(other)) if one.len() == other.len() => {
                one.iter().map(|(key, _)| key).eq(other.iter().map(|(key, _)| key))
                    && one.iter().zip(other).all(|((_, one), (_, other))| one == other)
                    || {
                        let other: HashMap<&str, &Self> = other.iter().map(|(key, value)| (&**key, value)).collect();
                        one.iter().all(|(key, value)| other.get(&**key) == Some(&value))
                    }
            }
            _ => false,
        }
    }
}

impl Json {
    /// Reads JSON text; `None` if it is not JSON, or too deep.
    pub(super) fn parse(text: &[u8]) -> Option<Self> {
        let mut reader = Reader { text: std::str::from_utf8(text).ok()?, at: 0 };
        let value = reader.value(DEEPEST)?;
        (reader.peek().is_none()).then_some(value)
    }

    /// Appends the value as JSON text.
    pub(super) fn write(&self, out: &mut String) {
        match self {
            Self::Plain(text) => out.push_str(text),
            Self::Text(text) => quote(text, out),
            Self::List(items) => {
                out.push('[');
                for (at, item) in items.iter().enumerate() {
                    if at > 0 {
                        out.push(',');
                    }
                    item.write(out);
                }
                out.push(']');
            }
            Self::Map(pairs) => {
                out.push('{');
                for (at, (key, value)) in pairs.iter().enumerate() {
                    if at > 0 {
                        out.push(',');
                    }
                    quote(key, out);
                    out.push(':');
                    value.write(out);
                }
                out.push('}');
            }
        }
    }
}

fn quote(text: &str, out: &mut String) {
    out.push_str(&serde_json::Value::from(text).to_string());
}

/// Reads from `at` on.
struct Reader<'a> {
    text: &'a str,
    at: usize,
}

impl<'a> Reader<'a> {
    /// The next byte that is no white space, which is not taken.
    fn peek(&mut self) -> Option<u8> {
        let bytes = self.text.as_bytes();
        while matches!(bytes.get(self.at), Some(b' ' | b'\t' | b'\n' | b'\r')) {
            self.at += 1;
        }
        bytes.get(self.at).copied()
    }

    fn take(&mut self, byte: u8) -> Option<()> {
        let found = self.peek()? == byte;
        self.at += usize::from(found);
        found.then_some(())
    }

    fn value(&mut self, deeper: u32) -> Option<Json> {
        let deeper = deeper.checked_sub(1)?;
        match self.peek()? {
            b'[' => {
                let mut items = Vec::new();
                self.each(b'[', b']', |reader| {
                    items.push(reader.value(deeper)?);
                    Some(())
                })?;
                Some(Json::List(items))
            }
            b'{' => {
                let mut pairs: Vec<(Arc<str>, Json)> = Vec::new();
                let mut places: HashMap<Arc<str>, usize> = HashMap::new();
                self.each(b'{', b'}', |reader| {
                    let key: Arc<str> = reader.string()?.into();
                    reader.take(b':')?;
                    let value = reader.value(deeper)?;
                    match places.get(&key) {
                        Some(&at) => pairs[at].1 = value,
                        None => {
                            places.insert(Arc::clone(&key), pairs.len());
                            pairs.push((key, value));
                        }
                    }
                    Some(())
                })?;
                Some(Json::Map(pairs))
            }
            b'"' => Some(Json::Text(self.string()?)),
            _ => Some(Json::Plain(self.plain()?.into())),
        }
    }

    /// What stands between two brackets, parted by commas.
    fn each(&mut self, open: u8, close: u8, mut read: impl FnMut(&mut Self) -> Option<()>) -> Option<()> {
        self.take(open)?;
        if self.take(close).is_some() {
            return Some(());
        }
        loop {
            read(self)?;
            if self.take(b',').is_none() {
                return self.take(close);
            }
        }
    }

    fn string(&mut self) -> Option<Box<str>> {
        self.take(b'"')?;
        let (bytes, start) = (self.text.as_bytes(), self.at);
        let mut plain = true;
        loop {
            match bytes.get(self.at)? {
                b'"' => break,
                b'\\' => {
                    plain = false;
                    self.at += 2;
                }
                byte => {
                    plain &= *byte >= b' ';
                    self.at += 1;
                }
            }
        }
        self.at += 1;
        if plain {
            return Some(self.text[start..self.at - 1].into());
        }
        serde_json::from_str(&self.text[start - 1..self.at]).ok()
    }

    fn plain(&mut self) -> Option<&'a str> {
        let rest = &self.text[self.at..];
        let end = rest.find([',', ']', '}', ':', ' ', '\t', '\n', '\r']).unwrap_or(rest.len());
        let word = &rest[..end];
        self.at += end;
        let known =
            matches!(word, "true" | "false" | "null") || serde_json::from_str::<serde_json::Number>(word).is_ok();
        known.then_some(word)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn written(json: &Json) -> String {
        let mut out = String::new();
        json.write(&mut out);
        out
    }

    fn parse(text: &str) -> Option<Json> {
        Json::parse(text.as_bytes())
    }

    fn any_json() -> impl Strategy<Value = Json> {
        let key = prop_oneof![
            3 => any::<String>(),
            1 => Just("$serde_json::private::Number".to_owned()),
            1 => Just("$serde_json::private::RawValue".to_owned()),
        ];
        let plain = prop_oneof![
            Just("null".to_owned()),
            any::<bool>().prop_map(|it| it.to_string()),
            any::<i128>().prop_map(|it| it.to_string()),
            "-?[1-9][0-9]{0,40}(\\.[0-9]{1,40})?([eE][+-]?[0-9]{1,3})?",
        ];
        let leaf = prop_oneof![
            plain.prop_map(|text| Json::Plain(text.into())),
            any::<String>().prop_map(|text| Json::Text(text.into())),
        ];
        leaf.prop_recursive(4, 40, 6, move |inner| {
            let map = proptest::collection::hash_map(key.clone(), inner.clone(), 0..6);
            prop_oneof![
                proptest::collection::vec(inner, 0..6).prop_map(Json::List),
                map.prop_map(|map| Json::Map(map.into_iter().map(|(key, value)| (key.into(), value)).collect())),
            ]
        })
    }

    proptest! {
        #[test]
        fn what_is_written_reads_back_in_the_same_order(json in any_json()) {
            let text = written(&json);
            let back = parse(&text);
            prop_assert_eq!(back.as_ref().map(written), Some(text));
            prop_assert_eq!(back, Some(json));
        }

        #[test]
        fn it_takes_what_serde_json_takes_and_nothing_else(text in "[ \\t\\[\\]{}:,\"a\\\\u0-9.eE+\\-truefalsn]{0,12}") {
            prop_assert_eq!(parse(&text).is_some(), serde_json::from_str::<serde_json::Value>(&text).is_ok(), "{}", text);
        }

        #[test]
        fn bytes_that_nobody_wrote_are_read_or_refused(text: Vec<u8>) {
            let _ = Json::parse(&text);
        }
    }

    #[test]
    fn maps_are_equal_whatever_their_order_and_numbers_by_their_text() {
        assert_eq!(parse(r#"{"a":1,"b":[{"c":2,"d":3}]}"#), parse(r#" { "b" : [{"d":3,"c":2}], "a":1 }"#));
        assert_eq!(parse(r#""\u00e9""#), parse(r#""é""#));
        assert_ne!(parse("1"), parse("1.0"));
        assert_ne!(parse(r#"{"a":1}"#), parse(r#"{"a":1,"b":2}"#));
        assert_eq!(parse(r#"{"a":1,"b":2,"a":3}"#).as_ref().map(written).as_deref(), Some(r#"{"a":3,"b":2}"#));
    }

    #[test]
    fn what_is_too_deep_is_refused_without_a_deep_stack() {
        let deep = |levels: usize| parse(&("[".repeat(levels) + &"]".repeat(levels)));
        assert!(deep(200).is_some() && deep(255).is_some());
        assert!(deep(257).is_none() && deep(1_000_000).is_none());
    }
}
