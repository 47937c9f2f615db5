"""A snapshot of the texts that users read: a change to one shows in tests/messages.txt."""

import difflib

import messages


def test_no_text_that_a_user_may_read_has_changed() -> None:
    before, now = messages.SNAPSHOT.read_text().splitlines(), messages.collected().splitlines()
    changes = "\n".join(difflib.unified_diff(before, now, "tests/messages.txt", "the sources", lineterm="", n=0))
    assert not changes, f"review this, then run: python tests/messages.py\n{changes}"


def test_only_the_texts_of_python_are_collected() -> None:
    source = '''
"""A docstring of a module."""
from typing import cast
LIMIT = 3
"""A docstring of a name."""
def f(value: "list[int] | None") -> "dict[str, int]":
    """A docstring of a function."""
    log.warning("%s takes long", f"task {value!r:>10}")
    msg = f"it has {len(' two words ')} parts, "  "and more"
    raise ValueError(msg + "or not" if value else "word")
    return cast("dict[str, int]", value)
'''
    assert list(messages.python_texts(source)) == [
        "%s takes long",
        "task {}",
        "it has {} parts, and more",
        " two words ",
        "or not",
    ]


def test_only_the_texts_of_rust_are_collected() -> None:
    source = r"""
//! A comment with "a string in it".
#![expect(clippy::all, reason = "no text of ours")]
/* another "one /* here" */
#[derive(Debug, thiserror::Error)]
enum Error<'a> {
    #[error("the run {0} is \"over\"")]
    Over(&'a str),
}
const SQL: &str = "SELECT id FROM run WHERE id = ?1";
fn f() -> String {
    let quote = '"';
    format!("task '{name}' of {} \
             is late", b"not this", "word")
}
#[cfg(test)]
mod tests {
    const INNER: &str = "in a test";
}
const RAW: &str = r#"what is "raw" too"#;
#[cfg(all(test, unix))]
#[path = "other_tests.rs"]
mod more;
const LAST: &str = "the last one";
"""
    assert list(messages.rust_texts(source)) == [
        'the run {} is "over"',
        "task '{}' of {} is late",
        'what is "raw" too',
        "the last one",
    ]
    assert messages.test_modules(source) == {"more"}
