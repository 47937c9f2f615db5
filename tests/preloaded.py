"""A WSGI application that gunicorn loads before it forks its workers: each makes its runner when it is first needed."""

import functools
import os
from collections.abc import Callable, Iterable
from typing import Any

import bide


@bide.task
def double(number: int) -> int:
    return number * 2


doubling = bide.Workflow("doubling", [double])


@functools.cache
def runner() -> bide.Runner:
    """Return the runner of this worker, made after the fork."""
    return bide.Runner(os.environ["BIDE_STORE"], workflows=[doubling])


EARLY = runner() if os.environ.get("TOO_EARLY") else None
"""What must not be done: a runner that is made while the application is loaded, before the fork."""


def app(environ: dict[str, Any], start_response: Callable[[str, list[tuple[str, str]]], object]) -> Iterable[bytes]:
    """Answer /NUMBER with the process and the double, or with the error."""
    number = int(environ["PATH_INFO"].removeprefix("/"))
    try:
        doubled = runner().run(doubling, {"number": number}, key=str(number))["double"]
        status, text = "200 OK", f"{os.getpid()} {doubled}"
    except bide.BideError as error:
        status, text = "500 Internal Server Error", f"{type(error).__name__}: {error}"
    start_response(status, [("Content-Type", "text/plain")])
    return [text.encode()]
