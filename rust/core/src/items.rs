//! The items of an encoded list, without decoding them: what a mapped task's elements take one each of.

use std::collections::HashMap;

use crate::value::Value;

/// Tags of scalars that a reader takes without a look at its annotation.
#[derive(Clone, Copy, Debug, Default)]
pub struct Tags(u8);

impl Tags {
    /// Those of a text, one byte each.
    #[must_use]
    pub fn new(tags: &str) -> Self {
        Self(tags.bytes().fold(0, |bits, tag| bits | Self::bit(tag)))
    }

    const fn bit(tag: u8) -> u8 {
        match tag {
            b'n' => 1,
            b't' => 2,
            b'f' => 4,
            b'i' => 8,
            b'd' => 16,
            b's' => 32,
            _ => 0,
        }
    }

    /// Whether this one is among them.
    #[must_use]
    pub const fn has(self, tag: u8) -> bool {
        self.0 & Self::bit(tag) != 0
    }
}

/// An encoded list and where its items begin.
#[derive(Debug)]
pub struct Items {
    /// The list: JSON text.
    list: Value,
    /// Where each item begins in the list's bytes, and one more: where the next would.
    starts: Box<[u32]>,
    /// Of items with models: the fields that were not set, as the codec notes them.
    marks: HashMap<u32, Vec<u8>>,
}

/// Why a value is not a list, as it stands in a message after "which is".
#[derive(Clone, Copy, Debug)]
pub struct NotAList(pub &'static str);

impl Items {
    /// Finds the items of a list.
    ///
    /// # Errors
    /// It is not one.
    pub fn of(list: &Value) -> Result<Self, NotAList> {
        let bytes = list.as_bytes();
        let (begin, marks) = match list.tag() {
            b'j' => (1, HashMap::new()),
            b'm' => {
                let line = bytes.iter().position(|byte| *byte == b'\n').unwrap_or(bytes.len());
                (line + 1, marks(&bytes[1..line]))
            }
            b'p' => return Err(NotAList("a pickle")),
            b's' => return Err(NotAList("a text")),
            b'n' => return Err(NotAList("None")),
            _ => return Err(NotAList("a single value")),
        };
        let text = bytes.get(begin..).unwrap_or_default();
        let blank = text.iter().take_while(|byte| byte.is_ascii_whitespace()).count();
        match text.get(blank) {
            Some(b'[') => {}
            Some(b'{') => return Err(NotAList("a mapping or an object")),
            _ => return Err(NotAList("a single value")),
        }
        let starts = starts(bytes, begin + blank);
        Ok(Self { list: list.clone(), starts: starts.into(), marks })
    }

    /// How many there are.
    #[must_use]
    #[expect(clippy::len_without_is_empty, reason = "nobody asks")]
    pub fn len(&self) -> usize {
        self.starts.len() - 1
    }

    /// One of them, encoded as the codec encodes it. A scalar gets its own tag if the reader takes it as it is.
    #[must_use]
    pub fn get(&self, index: u32, fast: Tags) -> Option<Value> {
        let at = index as usize;
        let (from, to) = (*self.starts.get(at)? as usize, *self.starts.get(at + 1)? as usize);
        // Without the comma or bracket after it.
        let item = self.list.as_bytes().get(from..to - 1)?.trim_ascii();
        if let Some(marks) = self.marks.get(&index) {
            let mut bytes = Vec::with_capacity(marks.len() + item.len() + 2);
            bytes.push(b'm');
            bytes.extend_from_slice(marks);
            bytes.push(b'\n');
            bytes.extend_from_slice(item);
            return Some(Value::new(&bytes));
        }
        Some(scalar(item, fast).unwrap_or_else(|| Value::tagged(b'j', item)))
    }
}

/// A JSON scalar with the tag that the codec gives it, if the reader takes such without a look at its annotation.
fn scalar(item: &[u8], fast: Tags) -> Option<Value> {
    let (tag, payload) = match item {
        b"null" => (b'n', &b""[..]),
        b"true" => (b't', &b""[..]),
        b"false" => (b'f', &b""[..]),
        [b'"', text @ .., b'"'] if !text.contains(&b'\\') => (b's', text),
        [b'-' | b'0'..=b'9', ..] if item.iter().all(|byte| matches!(byte, b'-' | b'0'..=b'9')) => (b'i', item),
        _ => return None,
    };
    fast.has(tag).then(|| Value::tagged(tag, payload))
}

/// Where the items of the JSON array at `open` begin, and one more.
fn starts(bytes: &[u8], open: usize) -> Vec<u32> {
    let mut starts = vec![open as u32 + 1];
    let (mut depth, mut at) = (0_usize, open);
    let mut empty = true;
    while let Some(&byte) = bytes.get(at) {
        match byte {
            b'"' => {
                at += 1;
                while let Some(&byte) = bytes.get(at)
                    && byte != b'"'
                {
                    at += if byte == b'\\' { 2 } else { 1 };
                }
                empty = false;
            }
            b'[' | b'{' => {
                empty &= depth == 0;
                depth += 1;
            }
            b']' | b'}' => {
                depth = depth.saturating_sub(1);
                if depth == 0 {
                    break;
                }
            }
            b',' if depth == 1 => starts.push(at as u32 + 1),
            byte if !byte.is_ascii_whitespace() => empty = false,
            _ => {}
        }
        at += 1;
    }
    if !empty {
        starts.push(at as u32 + 1);
    }
    starts
}

/// The notes on the models in a list, by item. Notes that do not read back are left to the codec, which reports them.
fn marks(line: &[u8]) -> HashMap<u32, Vec<u8>> {
    type Mark = (Vec<serde_json::Value>, Vec<String>);
    let all: Vec<Mark> = serde_json::from_slice(line).unwrap_or_default();
    let mut by_item: HashMap<u32, Vec<Mark>> = HashMap::new();
    for (mut place, names) in all {
        let index = place.first().and_then(serde_json::Value::as_u64).and_then(|index| u32::try_from(index).ok());
        if let Some(index) = index {
            place.remove(0);
            by_item.entry(index).or_default().push((place, names));
        }
    }
    by_item.into_iter().map(|(index, marks)| (index, serde_json::to_vec(&marks).unwrap_or_default())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn items(json: &str) -> Vec<String> {
        let Ok(items) = Items::of(&Value::tagged(b'j', json.as_bytes())) else { return vec!["no list".to_owned()] };
        let item = |index| items.get(index, Tags::default()).map(|value| format!("{value:?}")).unwrap_or_default();
        (0..items.len() as u32).map(item).collect()
    }

    #[test]
    fn a_list_is_split_at_its_own_commas() {
        assert_eq!(items("[]"), [""; 0]);
        assert_eq!(items(" [ ] "), [""; 0]);
        assert_eq!(items("[[]]"), ["Value(j[])"]);
        assert_eq!(items("[[],{}]"), ["Value(j[])", "Value(j{})"]);
        assert_eq!(
            items(r#"[1,"a,]\"",[2,{"b":[3]}], null ]"#),
            ["Value(j1)", r#"Value(j"a,]\"")"#, r#"Value(j[2,{"b":[3]}])"#, "Value(jnull)"]
        );
        assert_eq!(items(r#"[""]"#), [r#"Value(j"")"#]);
        assert_eq!(items(r#"{"a":1}"#), ["no list"]);
        assert_eq!(items("5"), ["no list"]);
    }

    #[test]
    fn a_scalar_gets_its_tag_if_its_reader_takes_it() {
        let Ok(items) = Items::of(&Value::tagged(b'j', br#"[1,"a",true,null,1.5,"\n"]"#)) else { panic!("no list") };
        let tags = |fast: &str| -> String {
            (0..6).filter_map(|at| items.get(at, Tags::new(fast))).map(|value| value.tag() as char).collect()
        };
        assert_eq!(tags("ntfids"), "istnjj");
        assert_eq!(tags("s"), "jsjjjj");
    }

    #[test]
    fn unset_fields_are_noted_with_their_item() {
        let Ok(items) = Items::of(&Value::new(b"m[[[1,\"part\"],[\"b\"]]]\n[{\"a\":1},{\"part\":{}}]")) else {
            panic!("no list")
        };
        let item =
            |at| items.get(at, Tags::default()).map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned());
        assert_eq!(item(0).as_deref(), Some("j{\"a\":1}"));
        assert_eq!(item(1).as_deref(), Some("m[[[\"part\"],[\"b\"]]]\n{\"part\":{}}"));
        assert_eq!(item(2), None);
    }

    #[test]
    fn bytes_that_are_no_json_do_not_panic() {
        for text in ["[", "[1", "[\"", "[\"\\", "[1,", "]", "", "[}", "[1}2]"] {
            let _ = items(text);
        }
    }
}
