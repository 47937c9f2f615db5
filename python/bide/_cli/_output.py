"""Printing: tables for people, and JSON, JSON lines and YAML for programs. Nothing is cut off."""

import re
import sys
import unicodedata
from collections.abc import Callable, Iterable, Sequence
from datetime import datetime
from typing import Any, TypeAlias

import click
import msgspec

from bide._hooks import to_json
from bide._text import shown

Item: TypeAlias = dict[str, Any]
Column: TypeAlias = tuple[str, Callable[[Item], object]]

FORMS = ("table", "json", "jsonl", "yaml")
COLOURS = {"Failed": "red", "Cancelled": "yellow", "Paused": "yellow", "Completed": "green", "Running": "cyan"}

output_option = click.option(
    "-o",
    "--output",
    "form",
    type=click.Choice(FORMS),
    default="table",
    envvar="BIDE_OUTPUT",
    help="How to print it (default: table).",
)

_encode = msgspec.json.Encoder(enc_hook=to_json).encode


def write(text: str) -> None:
    """Print a line, at once."""
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def note(text: str) -> None:
    """Print a line that is not part of the result."""
    click.echo(text, err=True)


def json_of(item: object) -> str:
    """Return JSON in one line."""
    return _encode(item).decode()


def write_all(form: str, items: Iterable[Item], columns: Sequence[Column], *, nothing: str = "") -> None:
    """Print a list. For a table, `nothing` is said of an empty one."""
    if form == "table":
        rows = [[cell(of(item)) for _, of in columns] for item in items]
        if not rows and nothing:
            note(nothing)
        elif rows:
            _write_table([title for title, _ in columns], rows)
    elif form == "json":
        texts = [json_of(item) for item in items]
        write("[" + ",\n ".join(texts) + "]")
    elif form == "jsonl":
        for item in items:
            write(json_of(item))
    else:
        write_yaml(list(items))


def write_one(form: str, item: Item, text: Callable[[], str]) -> None:
    """Print one thing; `text` says it for people."""
    if form == "table":
        write(text())
    elif form == "yaml":
        write_yaml(item)
    elif form == "jsonl":
        write(json_of(item))
    else:
        write(msgspec.json.format(_encode(item), indent=2).decode())


# --- tables ----------------------------------------------------------------------------------------------------------


def cell(value: object) -> str:
    """Return a value as a cell shows it: one line, without anything that moves a terminal's cursor."""
    if value is None:
        return "-"
    if isinstance(value, datetime):
        return f"{value:%Y-%m-%d %H:%M:%S}"
    return shown(value if isinstance(value, str) else json_of(value))


def _width(text: str) -> int:
    if text.isascii():
        return len(text)
    wide = sum(1 for char in text if unicodedata.east_asian_width(char) in "WF")
    return len(text) + wide - sum(1 for char in text if unicodedata.combining(char))


def table(titles: Sequence[str], rows: Sequence[Sequence[str]]) -> Iterable[list[str]]:
    """Yield the rows of a table, below its titles, with their cells padded to the same widths."""
    everything = [[title.upper() for title in titles], *rows]
    widths = [max(_width(row[at]) for row in everything) for at in range(len(titles))]
    for row in everything:
        last = len(row) - 1
        yield [text + " " * (0 if at == last else widths[at] - _width(text)) for at, text in enumerate(row)]


def _write_table(titles: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    has_colours = sys.stdout.isatty()
    for at, row in enumerate(table(titles, rows)):
        texts = [painted(text) for text in row] if has_colours and at else row
        line = "  ".join(texts)
        write(click.style(line, bold=True) if has_colours and not at else line)


def painted(text: str) -> str:
    """Return the name of a status in its colour, and any other text as it is."""
    colour = COLOURS.get(text.strip())
    return text if colour is None else click.style(text, fg=colour)


# --- YAML ------------------------------------------------------------------------------------------------------------

_PLAIN = re.compile(r"[A-Za-z_][\w./-]*", re.ASCII)
_WORDS = {"true", "false", "null", "yes", "no", "on", "off", "y", "n"}


def write_yaml(item: object) -> None:
    """Print a value as YAML: its blocks are indented, its scalars as JSON has them, which is YAML too."""
    write("\n".join(_yaml(msgspec.json.decode(_encode(item)))))


def _yaml(value: object) -> Iterable[str]:
    if isinstance(value, dict) and value:
        for name, one in value.items():
            yield from _entry(f"{_scalar(name)}:", one)
    elif isinstance(value, list) and value:
        for one in value:
            first, *rest = _yaml(one)
            yield f"- {first}"
            yield from (f"  {line}" for line in rest)
    else:
        yield _scalar(value)


def _entry(name: str, value: object) -> Iterable[str]:
    if isinstance(value, (dict, list)) and value:
        yield name
        yield from (f"  {line}" for line in _yaml(value))
    else:
        yield f"{name} {_scalar(value)}"


def _scalar(value: object) -> str:
    if isinstance(value, str) and _PLAIN.fullmatch(value) and value.lower() not in _WORDS:
        return value
    # YAML takes some characters for line breaks, and refuses others.
    return "".join(char if char.isprintable() else f"\\U{ord(char):08x}" for char in json_of(value))
