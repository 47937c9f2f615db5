"""Child processes that a test controls by lines and files, and kills at a known point.

A script prints a line where it is, and the test waits for that line: no sleeping, and a kill always hits the same
place. Every script begins with `PRELUDE`; bodies record what they do in a ledger that survives any kill.
"""

import os
import queue
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Self

import bide

PATIENCE = 30.0
"""Seconds after which a silent child is a failure: far more than a loaded machine needs."""

PRELUDE = """
import os, signal, sys, threading, time
from pathlib import Path
import bide

db = sys.argv[1]
words = sys.argv[2:]
ledger = Path(db).with_suffix(".ledger")

def say(*what):
    sys.stdout.write(" ".join(map(str, what)) + chr(10))
    sys.stdout.flush()

def note(*what):
    with ledger.open("a") as file:
        file.write(" ".join(map(str, what)) + chr(10))
        file.flush()
        os.fsync(file.fileno())

def stay():
    "Where the parent kills this process."
    threading.Event().wait()

def die():
    os.kill(os.getpid(), signal.SIGKILL)
    stay()
"""


class Child:
    """A process that runs a script on a store."""

    def __init__(self, script: str, store: Path, *words: str) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-c", PRELUDE + textwrap.dedent(script), str(store), *words],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": str(Path(bide.__path__[0]).parent)},
        )
        self._lines: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        self._said: list[str] = []
        self._errors: list[str] = []
        self._threads = [threading.Thread(target=one, daemon=True) for one in (self._listen, self._drain)]
        for thread in self._threads:
            thread.start()

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def said(self) -> list[str]:
        return self._said

    @property
    def errors(self) -> str:
        return "".join(self._errors)

    def expect(self, line: str) -> Self:
        """Wait until the process prints this line."""
        while self.next() != line:
            pass
        return self

    def after(self, word: str) -> str:
        """Wait until the process prints a line that begins with this word; return the rest of it."""
        while not (line := self.next()).startswith(word + " "):
            pass
        return line.removeprefix(word + " ")

    def next(self) -> str:
        """Return the next line that the process prints."""
        try:
            got = self._lines.get(timeout=PATIENCE)
        except queue.Empty:
            raise AssertionError(f"the process fell silent; it said {self._said}\n{self.errors}") from None
        if got is None:
            self._process.wait()
            raise AssertionError(f"the process ended; it said {self._said}\n{self.errors}")
        self._said.append(got)
        return got

    def kill(self, *, or_ended: bool = False) -> None:
        """Send SIGKILL at any point; with `or_ended` the process may already have ended by itself."""
        self._process.send_signal(signal.SIGKILL)
        code = self._process.wait(PATIENCE)
        self.join(code=0 if or_ended and code == 0 else -signal.SIGKILL)

    def send(self, number: signal.Signals) -> None:
        self._process.send_signal(number)

    def join(self, code: int = 0) -> list[str]:
        """Wait until the process ends; return everything it printed."""
        try:
            ended = self._process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            self._process.kill()
            raise AssertionError(f"the process does not end; it said {self._said}\n{self.errors}") from None
        for thread in self._threads:
            thread.join()
        while not self._lines.empty():
            if (line := self._lines.get()) is not None:
                self._said.append(line)
        assert ended == code, f"exit code {ended}, not {code}; it said {self._said}\n{self.errors}"
        return self._said

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None) -> None:
        if self._process.poll() is None:
            self._process.kill()
            self._process.wait()
        for thread in self._threads:
            thread.join()
        for pipe in (self._process.stdout, self._process.stderr):
            if pipe is not None:
                pipe.close()

    def _listen(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self._lines.put(line.rstrip("\n"))
        self._lines.put(None)

    def _drain(self) -> None:
        assert self._process.stderr is not None
        for line in self._process.stderr:
            self._errors.append(line)


def ran(script: str, store: Path, *words: str, code: int = 0) -> list[str]:
    """Run a script to its end and return what it printed."""
    with Child(script, store, *words) as child:
        return child.join(code)


def killed(script: str, store: Path, *words: str, at: str) -> list[str]:
    """Run a script until it prints `at`, and kill it there."""
    with Child(script, store, *words) as child:
        child.expect(at)
        child.kill()
        return child.said


def ledger(store: Path) -> list[str]:
    """Return what the bodies have done so far, in all processes."""
    file = store.with_suffix(".ledger")
    return file.read_text().splitlines() if file.exists() else []


def eventually(answer: Callable[[], object], what: str, patience: float = PATIENCE) -> None:
    """Poll the store until something is true that has no signal."""
    until = time.monotonic() + patience
    while not answer():
        assert time.monotonic() < until, f"never: {what}"
        time.sleep(0.005)
