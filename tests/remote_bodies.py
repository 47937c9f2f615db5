"""Bodies that tests have executed in other processes, which import this module."""

import os
import signal
import threading
import time
from pathlib import Path
from typing import Any

import bide

PATIENCE = 30.0
"""Seconds after which a body that waits gives up."""


def note(folder: Path, name: str) -> None:
    """Note in a folder that a body executes, and in which process."""
    with (folder / name).open("a") as file:
        file.write(f"{os.getpid()}\n")


def notes(folder: Path, name: str) -> list[int]:
    """Return what was noted under a name."""
    file = folder / name
    return [int(line) for line in file.read_text().splitlines()] if file.exists() else []


def pid(_item: int = 0) -> int:
    """Return the id of the process."""
    return os.getpid()


def squares(count: int) -> list[int]:
    """Return a list."""
    return [number * number for number in range(count)]


def total(squares: list[int]) -> int:
    """Read a list."""
    return sum(squares)


def meets(folder: Path, item: int) -> int:
    """Return once another process executes this too."""
    note(folder, f"met {item}")
    until = time.monotonic() + PATIENCE
    while len(list(folder.glob("met *"))) < 2:
        assert time.monotonic() < until, "nobody else came"
        time.sleep(0.005)
    return os.getpid()


def stays(folder: Path) -> int:
    """Execute until the process is killed."""
    note(folder, "stays")
    threading.Event().wait(PATIENCE)
    return 0


def dies_at_first(folder: Path) -> str:
    """Kill the process the first time, and return the second time."""
    first = not notes(folder, "died")
    note(folder, "died")
    if first:
        os.kill(os.getpid(), signal.SIGKILL)
    return "second"


def exits() -> None:
    """End the process without a word."""
    os._exit(3)


def leaves() -> None:
    """Ask for an exit, as a script does."""
    raise SystemExit("no more")


def returns_when_told(folder: Path) -> int:
    """Return once a file is there."""
    note(folder, "entered")
    until = time.monotonic() + PATIENCE
    while not (folder / "go").exists():
        assert time.monotonic() < until, "nobody said go"
        time.sleep(0.005)
    return os.getpid()


class Declined(Exception):
    """An error with more than a message."""

    def __init__(self, card: str, code: int) -> None:
        super().__init__(f"card {card} was declined")
        self.card, self.code = card, code

    def __reduce__(self) -> tuple[type["Declined"], tuple[str, int]]:
        return Declined, (self.card, self.code)


class NeverPickled(Exception):
    """An error that no other process can have."""

    def __reduce__(self) -> Any:
        raise TypeError("not this one")


def declines() -> None:
    """Raise an error."""
    raise Declined("7", 402)


def raises_alone() -> None:
    """Raise an error that cannot be pickled."""
    raise NeverPickled("too private")


class Hostile(Exception):
    """An error that ends the process which reads its pickle."""

    def __reduce__(self) -> Any:
        return leaves, ()


def raises_hostile() -> None:
    """Raise an error whose pickle ends processes."""
    raise Hostile("mine")


def closes_everything() -> None:
    """Close all files but the standard ones, as a daemon does, and stay."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    os.closerange(3, 256)
    threading.Event().wait(PATIENCE)


class Adder:
    """A callable with a state."""

    def __init__(self, addend: int) -> None:
        self.addend = addend

    def __call__(self, value: int) -> int:
        return value + self.addend


def skips() -> None:
    """Skip the task."""
    raise bide.Skip("nothing to do")


def returns_a_set() -> Any:
    """Return what cannot be stored as it is."""
    return {1, 2}


def forks() -> int:
    """Fork, and return in both processes."""
    return os.fork() and 1


def sum_of(mapped: bide.Mapped[int]) -> int:
    """Read what the elements of a mapped task came to."""
    return sum(mapped.succeeded)
