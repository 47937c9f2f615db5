"""How exceptions are stored and raised again: `describe` and `rebuild`.

An exception is stored as one JSON object: qualified type, message, formatted traceback (no locals), notes and causes.
It is never a pickle, so reading a store neither runs code from it nor imports anything. A failure that a body may get
again from its journal also has the exception's parts (`_error_state.py`) and the address of its class
(`_error_class.py`), if the exception can be rebuilt from them, which is tried before anything is stored. An exception
that cannot be rebuilt completely is raised again as a `TaskFailed`.

An exception's own methods and properties may raise anything. Each call of them is guarded by itself, so that one
failure does not hide the rest.
"""

import json
import linecache
import traceback
from collections.abc import Callable
from types import CodeType, TracebackType
from typing import Any, NewType, TypeVar, cast

import msgspec

from bide._error_class import address, find, find_by_type, own_names, qualified
from bide._error_state import (
    DICT,
    LIMIT,
    build,
    is_dunder,
    origin_of,
    put_together,
    remember_origin,
    stored_of,
    take_apart,
)
from bide._errors import (
    Cancelled,
    ReplayMismatch,
    SerializationError,
    Skip,
    Suspended,
    TaskFailed,
    TaskTimeout,
    WaitTimeout,
)
from bide._text import escape_surrogates

T = TypeVar("T")

StoredError = NewType("StoredError", bytes)
"""A stored exception: one JSON object."""

MAX_CAUSES, MAX_NOTES = 8, 100
"""How many exceptions of a chain, and how many notes of an exception, are kept."""

WORDS = {
    "cause": "The above exception was the direct cause of the following exception:",
    "context": "During handling of the above exception, another exception occurred:",
}

CAUSE, CONTEXT = vars(BaseException)["__cause__"], vars(BaseException)["__context__"]
SUPPRESS = vars(BaseException)["__suppress_context__"]
TRACEBACK = vars(BaseException)["__traceback__"]

TEXTS = ("type", "message", "traceback", "relation", "module", "qualname", "file", "task")
"""The members of a description that are strings."""

KINDS: tuple[tuple[type[BaseException], str], ...] = (
    (Skip, "skip"),
    (Cancelled, "cancelled"),
    (Suspended, "suspended"),
    (WaitTimeout, "wait_timeout"),
    (TaskTimeout, "task_timeout"),
    (SerializationError, "serialization"),
    (ReplayMismatch, "replay_mismatch"),
    (Exception, "error"),
)
"""The first match decides. An exception that is no `Exception` (SystemExit, KeyboardInterrupt) is an "exit"."""


def kind(exc: BaseException) -> str:
    """Return which kind of end an exception is to the run."""
    return next((name for cls, name in KINDS if issubclass(type(exc), cls)), "exit")


def describe(exc: BaseException) -> StoredError:
    """Return the stored form of an exception that a body may get again from its journal. Never raises."""
    return _describe(exc, again=True)


def describe_end(exc: BaseException) -> StoredError:
    """Return the stored form of an exception that is only shown, as a `TaskFailed`: no arguments or attributes."""
    known = stored_of(exc)
    if known is not None:
        return StoredError(known)
    return _describe_cancellation(exc) or _describe(exc, again=False)


def rebuild(stored: bytes) -> BaseException:
    """Return a stored exception to raise again: an equal one if it can be rebuilt, else a `TaskFailed`."""
    data = _read(stored)
    exc = _revive(data)
    chain: BaseException = exc
    for cause in data["causes"]:
        earlier = _revive(cause)
        if cause["relation"] == "cause":
            CAUSE.__set__(chain, earlier)
        else:
            CONTEXT.__set__(chain, earlier)
        chain = earlier
    return exc


def task_failed(stored: bytes, task: str | None = None) -> TaskFailed:
    """Return a stored exception as a `TaskFailed`, for a process that only reads."""
    return _as_task_failed(_read(stored), task)


# --- writing -------------------------------------------------------------------------------------------------------


def _guarded(call: Callable[[], T], default: T) -> T:
    """Call what may run a user's code; if it raises anything, even an exit, return `default`."""
    try:
        return call()
    except BaseException:  # noqa: BLE001 - an exit would hide the failure that is being described
        return default


def _describe(exc: BaseException, *, again: bool) -> StoredError:
    chain, ends = _chain(exc)
    text = escape_surrogates(_format(exc, chain))
    origin = _own(exc, "traceback") if issubclass(type(exc), TaskFailed) else origin_of(exc)
    if isinstance(origin, str) and origin:
        text = f"{origin}\nRaised again from the journal:\n{text}"
    stored = _summary(exc, again=again and ends) | {"traceback": _clip(text), "kind": kind(exc)}
    stored["causes"] = [_summary(one, again=again) | {"relation": relation} for relation, one in chain]
    return StoredError(json.dumps(stored, ensure_ascii=False, allow_nan=False).encode())


_FRAMES: dict[tuple[tuple[CodeType, int], ...], str] = {}
"""Formatted tracebacks of cancellations, by their lines."""

_MOST_FRAMES = 256

_OWN_MODULES = frozenset({"bide", "bide._loop"})
"""Where bide's own cancellations are defined."""


def _describe_cancellation(exc: BaseException) -> StoredError | None:
    """Return the stored form of one of bide's own cancellations; None if there is more to say of it.

    Thousands of runs may be cancelled at once, whose bodies wait at the same line. The columns are not marked, which
    takes a parser.
    """
    cls = type(exc)
    if not issubclass(cls, Cancelled) or own_names(cls).get("__module__") not in _OWN_MODULES or DICT.__get__(exc):
        return None
    if CAUSE.__get__(exc) is not None or CONTEXT.__get__(exc) is not None or SUPPRESS.__get__(exc):
        return None
    name, message = qualified(cls), escape_surrogates(BaseException.__str__(exc))
    found: list[tuple[CodeType, int]] = []
    entry: TracebackType | None = TRACEBACK.__get__(exc)
    while entry is not None:
        found.append((entry.tb_frame.f_code, entry.tb_lineno))
        entry = entry.tb_next
    lines = tuple(found)
    text = _FRAMES.get(lines)
    if text is None:
        if len(_FRAMES) >= _MOST_FRAMES:
            _FRAMES.clear()
        text = _FRAMES[lines] = escape_surrogates(_guarded(lambda: _format_lines(TRACEBACK.__get__(exc)), ""))
    stored = {
        "type": name,
        "message": _clip(message),
        "notes": (),
        "traceback": _clip(f"{text}{name}: {message}\n"),
        "kind": "cancelled",
        "causes": (),
    }
    return StoredError(msgspec.json.encode(stored))


def _summary(exc: BaseException, *, again: bool) -> dict[str, Any]:
    nothing: tuple[list[str], bool] = [], False
    notes, all_notes = _guarded(lambda: _notes(exc), nothing)
    original_type = _own(exc, "type") if issubclass(type(exc), TaskFailed) else None
    name = original_type if isinstance(original_type, str) and original_type else qualified(type(exc))
    summary: dict[str, Any] = {
        "type": escape_surrogates(name),
        "message": _clip(escape_surrogates(_message(exc))),
        "notes": notes,
    }
    if SUPPRESS.__get__(exc) and CAUSE.__get__(exc) is None:
        summary["alone"] = True
    if original_type:
        task = _own(exc, "task")
        return summary | ({"task": escape_surrogates(task)} if isinstance(task, str) else {})
    if again and all_notes:
        no_parts: dict[str, Any] = {}
        summary |= _guarded(lambda: _parts(exc), no_parts)
    return summary


def _notes(exc: BaseException) -> tuple[list[str], bool]:
    """Return the notes that are kept, and whether these are all notes, unchanged."""
    own = _own(exc, "__notes__")
    if own is None:
        return [], True
    notes = [note for note in own if isinstance(note, str)] if isinstance(own, list) else []
    kept = [_clip(escape_surrogates(note)) for note in notes[:MAX_NOTES]]
    return kept, bool(kept) and kept == own


def _parts(exc: BaseException) -> dict[str, Any]:
    """Return what the exception is rebuilt from, if an equal exception can be rebuilt from it."""
    cls, parts = type(exc), take_apart(exc)
    names = address(cls)
    if parts is None or find(**names) is not cls:
        return {}
    twin = put_together(cls, json.loads(json.dumps(parts)))
    if twin is None or _message(twin) != _message(exc):
        return {}
    return parts | names


def _own(exc: BaseException, name: str) -> object:
    """Return an attribute from the exception's `__dict__`, without calling code of its class."""
    return DICT.__get__(exc).get(name)


def _message(exc: BaseException) -> str:
    if issubclass(type(exc), TaskFailed) and isinstance(message := _own(exc, "message"), str):
        return message
    return _guarded(lambda: str.__str__(str(exc)), f"<{qualified(type(exc))} without a printable message>")


def _format(exc: BaseException, chain: list[tuple[str, BaseException]]) -> str:
    text = _guarded(lambda: "".join(traceback.format_exception(exc)), "")
    if text:
        return text
    # The exceptions' own code raises: format frames and messages of the chain, oldest first, without it.
    parts = [_format_alone(exc)]
    for relation, earlier in chain:
        parts += [f"\n{WORDS[relation]}\n\n", _format_alone(earlier)]
    return "".join(reversed(parts))


def _format_lines(frames: TracebackType | None) -> str:
    """Format the lines of a traceback as `traceback` does, but for the columns."""
    lines = []
    for frame, number in traceback.walk_tb(frames):
        code = frame.f_code
        lines.append(f'  File "{code.co_filename}", line {number}, in {code.co_name}\n')
        source = linecache.getline(code.co_filename, number, frame.f_globals).strip()
        if source:
            lines.append(f"    {source}\n")
    head = "Traceback (most recent call last):\n" if lines else ""
    return f"{head}{''.join(lines)}"


def _format_alone(exc: BaseException) -> str:
    frames = _guarded(lambda: "".join(traceback.format_tb(TRACEBACK.__get__(exc))), "")
    head = f"Traceback (most recent call last):\n{frames}" if frames else ""
    return f"{head}{qualified(type(exc))}: {_message(exc)}\n"


def _chain(exc: BaseException) -> tuple[list[tuple[str, BaseException]], bool]:
    """Return the exceptions this one came from, nearest first, each with its relation, and whether these are all."""
    found: list[tuple[str, BaseException]] = []
    seen = {id(exc)}
    while True:
        cause, context = CAUSE.__get__(exc), CONTEXT.__get__(exc)
        if cause is not None:
            relation, earlier = "cause", cause
        elif context is not None and not SUPPRESS.__get__(exc):
            relation, earlier = "context", context
        else:
            break
        if id(earlier) in seen or len(found) == MAX_CAUSES:
            return found, False
        seen.add(id(earlier))
        found.append((relation, earlier))
        exc = earlier
    causes = _own(exc, "causes") if issubclass(type(exc), TaskFailed) else ()
    if isinstance(causes, tuple):
        known = [("cause", cause) for cause in causes if isinstance(cause, TaskFailed)]
        found += known[: MAX_CAUSES - len(found)]
    return found, True


def _clip(text: str) -> str:
    """Cut the middle out of a long traceback, whose ends say where it began and where it was raised."""
    data = text.encode()
    if len(data) <= LIMIT:
        return text
    note = b"\n  [... cut ...]\n"
    head, tail = LIMIT // 4, LIMIT - LIMIT // 4 - len(note) - 8
    return (data[:head] + note + data[-tail:]).decode("utf-8", "ignore")


# --- reading -------------------------------------------------------------------------------------------------------


def _read(stored: bytes) -> dict[str, Any]:
    return _whole(json.loads(stored))


def _whole(data: object) -> dict[str, Any]:
    """Return a description with all its members; those that are missing or have another type are empty."""
    found = cast("dict[str, Any]", data) if isinstance(data, dict) else {}
    whole: dict[str, Any] = {name: text if isinstance(text := found.get(name), str) else "" for name in TEXTS}
    notes, causes = found.get("notes"), found.get("causes")
    whole["notes"] = [note for note in notes if isinstance(note, str)] if isinstance(notes, list) else []
    whole["causes"] = [_whole(cause) for cause in causes] if isinstance(causes, list) else []
    args, state, members = (found.get(name) for name in ("args", "state", "members"))
    whole["args"] = args if isinstance(args, list) else None
    whole["state"] = state if isinstance(state, dict) else {}
    whole["members"] = members if isinstance(members, dict) else {}
    whole["alone"] = found.get("alone") is True
    return whole


def _as_task_failed(data: dict[str, Any], task: str | None = None) -> TaskFailed:
    return TaskFailed(
        data["message"],
        type=data["type"],
        traceback=data["traceback"],
        notes=tuple(data["notes"]),
        causes=tuple(_as_task_failed(cause) for cause in data["causes"]),
        task=task or data["task"] or None,
    )


def _revive(data: dict[str, Any]) -> BaseException:
    exc = _guarded(lambda: _rebuilt(data), None)
    if exc is None:
        exc = _as_task_failed(data)
    if data["notes"]:
        DICT.__get__(exc)["__notes__"] = list(data["notes"])  # `add_note` might call code of the class
    if data["traceback"] and type(exc) is not TaskFailed:
        remember_origin(exc, data["traceback"])
    if data["alone"]:
        SUPPRESS.__set__(exc, data["alone"])
    return exc


def _rebuilt(data: dict[str, Any]) -> BaseException | None:
    if data["args"] is None:
        return None
    if data["qualname"]:
        cls = find(data["module"], data["qualname"], data["file"])
        return None if cls is None else put_together(cls, {name: data[name] for name in ("args", "state", "members")})
    # bide's own failures, and records of earlier versions, have only the type's name.
    cls = find_by_type(data["type"])
    exc = None if cls is None else build(cls, data["args"])
    if exc is not None:
        if any(is_dunder(name) for name in data["state"]):
            return None
        DICT.__get__(exc).update(data["state"])
    return exc
