//! How names are put into messages and log lines. A name is data and may be any text; shown, it must not break a line,
//! move a terminal's cursor or change the direction of the text around it.

use std::borrow::Cow;
use std::fmt::Write;

/// The text with what does not print as itself escaped, as Python's `repr` does it.
#[must_use]
pub fn shown(text: &str) -> Cow<'_, str> {
    if !text.chars().any(is_escaped) {
        return Cow::Borrowed(text);
    }
    let mut escaped = String::with_capacity(text.len() + 16);
    for char in text.chars() {
        let code = u32::from(char);
        let _ = match char {
            '\n' => escaped.write_str("\\n"),
            '\r' => escaped.write_str("\\r"),
            '\t' => escaped.write_str("\\t"),
            _ if !is_escaped(char) => escaped.write_char(char),
            _ if code <= 0xFF => write!(escaped, "\\x{code:02x}"),
            _ if code <= 0xFFFF => write!(escaped, "\\u{code:04x}"),
            _ => write!(escaped, "\\U{code:08x}"),
        };
    }
    Cow::Owned(escaped)
}

/// Control characters, line separators, and characters that have no shape of their own but change how others are shown.
fn is_escaped(char: char) -> bool {
    char.is_control()
        || matches!(
            char,
            '\u{ad}'
                | '\u{61c}'
                | '\u{180e}'
                | '\u{200b}'..='\u{200f}'
                | '\u{2028}'..='\u{202e}'
                | '\u{2060}'..='\u{206f}'
                | '\u{feff}'
                | '\u{fff9}'..='\u{fffb}'
                | '\u{e0000}'..='\u{e007f}'
        )
}

#[cfg(test)]
mod tests {
    use super::shown;

    #[test]
    fn only_what_does_not_print_is_escaped() {
        for (text, escaped) in [
            ("load", "load"),
            ("naïve 'name' \\n 日本 🏳", "naïve 'name' \\n 日本 🏳"),
            ("a\nb\r\tc", "a\\nb\\r\\tc"),
            ("\u{1b}[31m\0\u{7f}\u{9b}", "\\x1b[31m\\x00\\x7f\\x9b"),
            ("\u{2028}\u{202e}\u{2066}\u{feff}", "\\u2028\\u202e\\u2066\\ufeff"),
            ("\u{e0041}", "\\U000e0041"),
        ] {
            assert_eq!(shown(text), escaped);
            assert_eq!(shown(&shown(text)), escaped);
        }
    }
}
