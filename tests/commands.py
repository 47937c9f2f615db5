"""Calls of the command line in processes of their own, as a shell makes them."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

import bide

TESTS = Path(__file__).parent
ENVIRONMENT = {
    **{name: text for name, text in os.environ.items() if not name.startswith("BIDE_")},
    "PYTHONPATH": str(Path(bide.__path__[0]).parent),
}


class Said(NamedTuple):
    """What a command has printed, and its exit code."""

    code: int
    out: str
    err: str


def call(*words: object, **environment: str) -> Said:
    """Run `bide` with these words to its end, where `shop` can be imported."""
    done = subprocess.run(
        [sys.executable, "-m", "bide", *map(str, words)],
        cwd=TESTS,
        env=ENVIRONMENT | environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert "Traceback" not in done.stderr, done.stderr
    return Said(done.returncode, done.stdout, done.stderr)


def start(*words: object, **options: Any) -> "subprocess.Popen[str]":
    """Start `bide` with these words."""
    return subprocess.Popen(
        [sys.executable, "-m", "bide", *map(str, words)],
        cwd=TESTS,
        env=ENVIRONMENT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        **options,
    )
