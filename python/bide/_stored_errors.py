"""What the store keeps of an exception, and how it is raised again: `describe` and `rebuild`.

An exception is kept as one JSON object: qualified type, message, formatted traceback (no locals), notes,
causes, and its arguments where JSON carries them. Never a pickle: reading a store runs no code of its own
choosing. A replayed failure is of the same class again if that class can be found and built by `__new__`
and its built-in `__init__` alone, else it is a `TaskFailed`.
"""

import importlib
import json
import math
import os
import sys
import traceback
from types import FunctionType
from typing import Any, NewType, cast

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
from bide._text import written_out

StoredError = NewType("StoredError", bytes)
"""An exception as the store has it: one JSON object."""

LIMIT = 64 * 1024
"""At most so many bytes of traceback, of message, and of arguments are kept."""

MOST_CAUSES = 8
"""At most so many exceptions of a chain are kept; the formatted traceback shows the chain anyway."""

ORIGIN = "__bide_traceback__"
"""Attribute of a rebuilt exception: the traceback of its first life, kept when it is stored again."""

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
"""First match decides; what is no `Exception` (SystemExit, KeyboardInterrupt) is an "exit"."""


def kind(exc: BaseException) -> str:
    """Return what an exception means to a run."""
    return next((name for cls, name in KINDS if isinstance(exc, cls)), "exit")


def describe(exc: BaseException) -> StoredError:
    """Return what is stored of `exc`. Never raises an `Exception`, whatever the exception's own methods do."""
    text = written_out(_format(exc))
    origin = exc.traceback if isinstance(exc, TaskFailed) else getattr(exc, ORIGIN, None)
    if isinstance(origin, str) and origin:
        text = f"{origin}\nRaised again from the journal:\n{text}"
    stored = _summary(exc) | {"traceback": _clip(text), "kind": kind(exc), "causes": _causes(exc)}
    return StoredError(json.dumps(stored, ensure_ascii=False, allow_nan=False).encode())


def rebuild(stored: bytes) -> BaseException:
    """Return a stored exception to raise again: of the same class if that is safe, else a `TaskFailed`."""
    data = _read(stored)
    exc = _revive(data)
    chain: BaseException = exc
    for cause in data["causes"]:
        earlier = _revive(cause)
        if cause["relation"] == "cause":
            chain.__cause__ = earlier
        else:
            chain.__context__ = earlier
        chain = earlier
    return exc


def task_failed(stored: bytes, task: str | None = None) -> TaskFailed:
    """Return a stored exception as a `TaskFailed`, for a process that only reads."""
    return _as_task_failed(_read(stored), task)


def qualified(cls: type) -> str:
    """Return a class's name as a user would write it: with its module, unless built in."""
    return cls.__qualname__ if cls.__module__ == "builtins" else f"{cls.__module__}.{cls.__qualname__}"


# --- writing -------------------------------------------------------------------------------------------------------


def _summary(exc: BaseException) -> dict[str, Any]:
    notes = getattr(exc, "__notes__", None)
    standing_in = isinstance(exc, TaskFailed) and exc.type
    summary: dict[str, Any] = {
        "type": standing_in or written_out(qualified(type(exc))),
        "message": _clip(written_out(_message(exc))),
        "notes": [
            _clip(written_out(note)) for note in (notes if isinstance(notes, list) else ()) if isinstance(note, str)
        ],
    }
    if standing_in:
        return summary
    args, state = _arguments(exc), _state(exc)
    if args is not None and len(json.dumps([args, state])) <= LIMIT:
        summary["args"] = args
        if state:
            summary["state"] = state
    return summary


def _message(exc: BaseException) -> str:
    try:
        if isinstance(exc, TaskFailed):
            return exc.message
        return str(exc)
    except Exception:  # noqa: BLE001 - a broken __str__ must not hide the failure that it belongs to
        return f"<{type(exc).__name__} without a printable message>"


def _format(exc: BaseException) -> str:
    try:
        return "".join(traceback.format_exception(exc))
    except Exception as problem:  # noqa: BLE001 - likewise
        return f"<traceback of {type(exc).__name__} cannot be formatted: {type(problem).__name__}>\n"


def _causes(exc: BaseException) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    seen = {id(exc)}
    while len(found) < MOST_CAUSES:
        if exc.__cause__ is not None:
            relation, earlier = "cause", exc.__cause__
        elif exc.__context__ is not None and not exc.__suppress_context__:
            relation, earlier = "context", exc.__context__
        else:
            break
        if id(earlier) in seen:
            break
        seen.add(id(earlier))
        found.append(_summary(earlier) | {"relation": relation})
        exc = earlier
    return found


def _arguments(exc: BaseException) -> list[Any] | None:
    """Return the arguments if JSON carries every one exactly; an OSError's with its file names."""
    args: tuple[Any, ...] = exc.args
    if isinstance(exc, OSError) and exc.errno is not None and exc.filename is not None:
        names = [exc.filename] if exc.filename2 is None else [exc.filename, None, exc.filename2]
        args = (exc.errno, exc.strerror, *(os.fspath(n) if isinstance(n, os.PathLike) else n for n in names))
    return list(args) if all(_is_plain(arg) for arg in args) else None


def _state(exc: BaseException) -> dict[str, Any]:
    """Return the attributes that JSON carries: with them `__init__` need not run again."""
    attributes = getattr(exc, "__dict__", None) or {}
    return {
        name: value
        for name, value in attributes.items()
        if isinstance(name, str) and name not in {"__notes__", ORIGIN} and _is_plain(name) and _is_plain(value)
    }


def _is_plain(value: object, depth: int = 8) -> bool:
    """Whether JSON gives exactly this value back."""
    if value is None or type(value) in {bool, int}:
        return True
    if type(value) is float:
        return math.isfinite(value)
    if type(value) is str:
        return written_out(value) == value
    if depth == 0:
        return False
    if type(value) is list:
        return all(_is_plain(item, depth - 1) for item in cast("list[object]", value))
    if type(value) is dict:
        items = cast("dict[object, object]", value).items()
        return all(type(k) is str and _is_plain(k) and _is_plain(v, depth - 1) for k, v in items)
    return False


def _clip(text: str) -> str:
    """Cut the middle out of a long text: where it began and where it was raised are at its ends."""
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
    """Return a description with all of its members: what other hands have taken out or bent is empty."""
    found = cast("dict[str, Any]", data) if isinstance(data, dict) else {}
    texts = ("type", "message", "traceback", "relation")
    whole: dict[str, Any] = {name: text if isinstance(text := found.get(name), str) else "" for name in texts}
    notes, causes, args, state = (found.get(name) for name in ("notes", "causes", "args", "state"))
    whole["notes"] = [note for note in notes if isinstance(note, str)] if isinstance(notes, list) else []
    whole["causes"] = [_whole(cause) for cause in causes] if isinstance(causes, list) else []
    whole["args"] = args if isinstance(args, list) else None
    whole["state"] = state if isinstance(state, dict) else {}
    return whole


def _as_task_failed(data: dict[str, Any], task: str | None = None) -> TaskFailed:
    return TaskFailed(
        data["message"],
        type=data["type"],
        traceback=data["traceback"],
        notes=tuple(data["notes"]),
        causes=tuple(_as_task_failed(cause) for cause in data["causes"]),
        task=task,
    )


def _revive(data: dict[str, Any]) -> BaseException:
    exc = _same_class(data)
    if exc is None:
        exc = _as_task_failed(data)
    for note in data["notes"]:
        exc.add_note(note)
    if data["traceback"]:
        exc.__bide_traceback__ = data["traceback"]  # type: ignore[attr-defined] # pyright: ignore[reportAttributeAccessIssue]
    return exc


def _same_class(data: dict[str, Any]) -> BaseException | None:
    """Build the exception by `__new__` and the built-in part of `__init__`; None if that is not safe."""
    if data["args"] is None:
        return None
    cls = _find_class(data["type"])
    if cls is None or not issubclass(cls, Exception):
        return None
    if any(isinstance(vars(base).get("__new__"), staticmethod) for base in cls.__mro__):
        return None  # a __new__ of its own may want what was not stored
    try:
        # A Python __init__ may want other arguments than those it passed on; what it set is in the state.
        init = next(base.__init__ for base in cls.__mro__ if not isinstance(base.__init__, FunctionType))  # type: ignore[misc]
        exc = cls.__new__(cls, *data["args"])
        init(exc, *data["args"])
        for name, value in data["state"].items():
            setattr(exc, name, value)
    except Exception:  # noqa: BLE001 - whatever goes wrong in there, TaskFailed is the answer
        return None
    return exc


def _find_class(name: str) -> type | None:
    """Return the class of a qualified name, importing its module if need be."""
    parts = name.split(".")
    if len(parts) == 1:
        return _walk(sys.modules["builtins"], parts)
    for split in range(len(parts) - 1, 0, -1):
        module = ".".join(parts[:split])
        try:
            found = sys.modules.get(module) or importlib.import_module(module)
        except Exception:  # noqa: BLE001, S112 - a module that fails to import has no class for us
            continue
        return _walk(found, parts[split:])
    return None


def _walk(owner: object, names: list[str]) -> type | None:
    for name in names:
        owner = getattr(owner, name, None)
    return owner if isinstance(owner, type) else None
