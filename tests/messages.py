"""Collects every text of the sources that a user may read: `python tests/messages.py` writes tests/messages.txt.

A text is a string literal of more than one word, in Python or in Rust, that is not a docstring, annotation, attribute,
SQL statement or part of a test. A substitution shows as `{}`, so that renaming a variable changes nothing. The
texts are grouped by package and not by file, so that moving code changes nothing either.
"""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parent.parent
SNAPSHOT = ROOT / "tests" / "messages.txt"
CRATES = ("core", "sched", "store", "executor", "py")

SQL = re.compile(
    r"\b(SELECT|INSERT|UPDATE|DELETE|CREATE|PRAGMA|FROM|WHERE|VALUES|SET|JOIN|BEGIN IMMEDIATE|ON CONFLICT"
    r"|LISTEN|LOCK TABLE|CASE WHEN|ARRAY|AS MATERIALIZED|LIMIT|unnest|t\.task)\b"
    r"|\b[rw]\.\w+ (=|<|>|>=) |^run r ?$|\b(BETWEEN|INDEXED BY)\b"  # parts of the statement of a listing
)
NOTHING_PUT_IN = re.compile(r"[{}\W\d]*")
PUT_IN = re.compile(r"\{[^{}]*\}")

TEST_MODULE = re.compile(r"#\[cfg\([^\n]*\btest\b[^\n]*\)\]\s*(?:#\[[^\n]*\]\s*)*(?:pub(?:\([a-z]+\))? )?mod (\w+);")

# In this order: a delimiter inside another token does not count.
TOKEN = re.compile(
    r"""
    (?P<comment> //[^\n]* | /\*.*?\*/ )
    | (?P<bytes> br(?P<h>\#*)".*?"(?P=h) | b"(?:[^"\\]|\\.)*" )
    | r(?P<hashes>\#*)"(?P<raw>.*?)"(?P=hashes)
    | "(?P<string>(?:[^"\\]|\\.)*)"
    | (?P<char> b?'(?:[^'\\\n]|\\[^\n]+?)' )
    | (?P<other> \#!?\[ | [\[\]{};] | \w+ )
    """,
    re.VERBOSE | re.DOTALL,
)


def is_text(text: str) -> bool:
    """Whether a literal is readable text: two words or more."""
    words = PUT_IN.sub("", text).strip()
    return " " in text.strip() and NOTHING_PUT_IN.fullmatch(words) is None and SQL.search(text) is None


def python_texts(source: str) -> Iterator[str]:
    """Yield the texts of a Python module."""
    yield from filter(is_text, _in_python(ast.parse(source)))


def _in_python(node: ast.AST) -> Iterator[str]:
    if isinstance(node, ast.JoinedStr):
        parts = (part.value if isinstance(part, ast.Constant) else "{}" for part in node.values)
        yield "".join(map(str, parts))
        for part in node.values:
            if isinstance(part, ast.FormattedValue):
                yield from _in_python(part.value)
        return
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        yield node.value
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "cast":
        node = node.args[1]
    for name, field in ast.iter_fields(node):
        if name in {"annotation", "returns", "format_spec"}:
            continue
        for child in field if isinstance(field, list) else [field]:
            docstring = isinstance(child, ast.Expr) and isinstance(child.value, ast.Constant)
            if isinstance(child, ast.AST) and not docstring:
                yield from _in_python(child)


def rust_texts(source: str) -> Iterator[str]:
    """Yield the texts of a Rust module without its tests."""
    tokens = [match for match in TOKEN.finditer(source) if not (match["comment"] or match["char"] or match["bytes"])]
    at = 0
    while at < len(tokens):
        token = tokens[at]
        if token["other"] in {"#[", "#!["}:
            end = _closing(tokens, at)
            attribute = tokens[at + 1 : end]
            words = [one["other"] for one in attribute]
            at = end + 1
            if words[:1] == ["cfg"] and "test" in words and "not" not in words:
                at = _after_item(tokens, at)
            elif words[:1] == ["error"]:  # thiserror: the text of an error
                yield from filter(is_text, map(_literal, (one for one in attribute if one["other"] is None)))
            continue
        if token["other"] is None and is_text(text := _literal(token)):
            yield text
        at += 1


def _closing(tokens: list[re.Match[str]], at: int) -> int:
    """Return the end of the bracket that the token at `at` opens."""
    depth = 0
    while True:
        sign = tokens[at]["other"]
        depth += (sign in {"[", "{", "#[", "#!["}) - (sign in {"]", "}"})
        if depth == 0:
            return at
        at += 1


def _after_item(tokens: list[re.Match[str]], at: int) -> int:
    """Return the end of the item that begins at `at`: its semicolon or its closing brace."""
    while tokens[at]["other"] not in {"{", ";"}:
        at = _closing(tokens, at) + 1 if tokens[at]["other"] == "#[" else at + 1
    return (_closing(tokens, at) if tokens[at]["other"] == "{" else at) + 1


def _literal(token: re.Match[str]) -> str:
    text = token["raw"]
    if text is None:
        text = re.sub(r"\\\n\s*", "", token["string"])
        text = text.replace('\\"', '"').replace("\\n", "\n").replace("\\\\", "\\")
    return PUT_IN.sub("{}", text.replace("{{", "{").replace("}}", "}") if "{{" in text else text)


def test_modules(source: str) -> set[str]:
    """Return the names of a Rust module's test-only modules that have their own files."""
    return set(
        re.findall(r"#\[cfg\([^\n]*\btest\b[^\n]*\)\]\s*(?:#\[[^\n]*\]\s*)*(?:pub(?:\([a-z]+\))? )?mod (\w+);", source)
    )


def rust_sources(crate: Path) -> Iterator[str]:
    """Yield the sources of a crate without its tests."""
    files = {file: file.read_text() for file in sorted(crate.rglob("*.rs"))}
    tests = {name for source in files.values() for name in test_modules(source)}
    for file, source in files.items():
        if tests.isdisjoint((*file.relative_to(crate).parts[:-1], file.stem)):
            yield source


def collected() -> str:
    """Return the snapshot: every text, by package, in alphabetical order."""
    python = [file.read_text() for file in sorted((ROOT / "python" / "bide").rglob("*.py"))]
    found = {"python/bide": {text for source in python for text in python_texts(source)}}
    for crate in CRATES:
        sources = rust_sources(ROOT / "rust" / crate / "src")
        found[f"rust/{crate}"] = {text for source in sources for text in rust_texts(source)}
    parts = [
        "\n".join([f"# {package}", "", *sorted(text.replace("\n", "\\n") for text in texts)])
        for package, texts in found.items()
    ]
    return "\n\n".join(parts) + "\n"


if __name__ == "__main__":
    SNAPSHOT.write_text(collected())
