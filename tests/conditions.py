"""Conditions for the fingerprint tests, built by name so that another process can build the same ones."""

import dataclasses
import enum
import functools
import os
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import bide

LIMIT = 3
TABLE = {"a": {1, 2, 3}, "b": frozenset({"x", "y", "z", "w"})}


class Mode(enum.Enum):
    """An enum."""

    FAST = 1
    SLOW = 2


@dataclasses.dataclass
class Job:
    """Stands for the handle that `submit` returns."""

    id: int

    def done(self, at_least: int = 1) -> bool:
        """A condition that is a method."""
        return self.id > at_least

    def __call__(self) -> bool:
        """A condition that is an object."""
        return self.id > 0


def started(job: Job) -> Job:
    """Return a job with state that is not among its fields."""
    job.__dict__["started"] = True
    return job


class Opaque:
    """Cannot be stored."""

    def done(self) -> bool:
        """A condition about which nothing can be proved."""
        return True


def done(job: object) -> bool:
    """A function that a condition calls."""
    return job is not None


def uses_globals() -> bool:
    """Refer to a value, a function, a module and a class."""
    return LIMIT > 2 and done(TABLE) and os.path.exists("x") and Path("x").exists()  # noqa: PTH110


def uses_globals_within() -> bool:
    """Refer to a value in nested code only."""
    return any(n > LIMIT for n in (1, 2))


def ready() -> bool:
    """Any function."""
    return True


def capturing(value: Any) -> Callable[[], bool]:
    """Return a condition that has captured a value."""
    return lambda: done(value)


def defaulting(value: Any) -> Callable[[], bool]:
    """Return a condition with the value as a default."""

    def condition(v: Any = value, *, w: Any = value) -> bool:
        return done((v, w))

    return condition


def calling_local(value: Any) -> Callable[[], bool]:
    """Return a condition that calls a local function that captured a value."""

    def check() -> bool:
        return done(value)

    return lambda: check()


def nested_set() -> Callable[[], bool]:
    """Return a condition with a set among its constants, and nested code."""
    return lambda: all(x in {"q", "w", "e", "r", "t", "y"} for x in ("q", "w"))


def recursive(n: int) -> Callable[[], bool]:
    """Return a condition that refers to itself."""

    def loop(left: int = n) -> bool:
        return left == 0 or loop(left - 1)

    return loop


PROVABLE: dict[str, Callable[[], Callable[..., Any]]] = {
    "path": lambda: Path("a/b").exists,
    "global": lambda: ready,
    "uses globals": lambda: uses_globals,
    "captured": lambda: capturing({"a": [1, 2.5, None, "x", b"y"], "s": {3, 1, 2}}),
    "captured job": lambda: capturing(Job(3)),
    "captured path": lambda: capturing([Path("x"), Mode.FAST, Job]),
    "captured context": lambda: capturing(bide.Context({"a": 1})),
    "defaults": lambda: defaulting((1, "a")),
    "method": lambda: Job(3).done,
    "object": lambda: Job(3),
    "partial": lambda: functools.partial(done, Job(4)),
    "partial of method": lambda: functools.partial(Job(4).done, at_least=3),
    "builtin method": lambda: "abc".isdigit,
    "builtin": lambda: functools.partial(any, [True]),
    "cached": lambda: functools.lru_cache(ready),
    "nested": lambda: nested_set(),
    "local": lambda: calling_local("x"),
    "recursive": lambda: recursive(3),
    "class": lambda: dict,
}

UNPROVABLE: dict[str, Callable[[], Callable[..., Any]]] = {
    "lock": lambda: capturing(threading.Lock()),
    "event": lambda: threading.Event().is_set,
    "hidden state": lambda: started(Job(3)).done,
    "opaque": lambda: Opaque().done,
    "opaque inside": lambda: capturing([1, {"a": Opaque()}]),
    "local class": lambda: capturing(type("Local", (), {})),
    "large": lambda: capturing("x" * 5_000_000),
    "a file": lambda: capturing(sys.__stdout__),
}
