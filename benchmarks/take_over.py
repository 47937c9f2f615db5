"""Measure how long after a SIGKILL another process continues the run: `python -m benchmarks.take_over [KILLS]`.

One process serves. Others, one after the other, submit a run whose body does not return, and are killed in it. The
measured time is from just before the kill to the first line of the body in the serving process. All processes are
forked from this one, so that no measurement includes the start of an interpreter. This process opens no runner,
because a process that forks must not have one.
"""

import os
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from threading import Event
from typing import NoReturn

import bide

MOST = 10.0
"""The limit in milliseconds for the 99th percentile."""

KILLS = 50


def born(act: Callable[[], None]) -> int:
    pid = os.fork()
    if pid:
        return pid
    try:
        act()
    finally:
        os._exit(1)


def kill(pid: int) -> None:
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)


def appears(file: Path) -> str:
    """Wait for a file, which its writer renames into place when it is complete."""
    until = time.monotonic() + 60
    while not file.exists():
        if time.monotonic() > until:
            raise SystemExit(f"{file.name} never comes")
        time.sleep(0.001)
    return file.read_text()


def put(file: Path, text: str) -> None:
    draft = file.with_suffix(".draft")
    draft.write_text(text)
    draft.rename(file)


def measure(folder: Path, kills: int) -> list[float]:
    store = folder / "bide.db"

    @bide.task
    def stays(n: int) -> None:
        if os.getpid() == server:
            put(folder / f"{n}.taken", repr(time.time()))
        else:
            put(folder / f"{n}.entered", "")
            Event().wait()

    workflow = bide.Workflow("stays", [stays])
    server = 0

    def serve() -> None:
        nonlocal server
        server = os.getpid()
        runner = bide.Runner(store, workflows=[workflow])
        put(folder / "serving", "")
        runner.serve()

    def victim(n: int) -> NoReturn:
        runner = bide.Runner(store)
        runner.submit(workflow, {"n": n})
        while True:
            Event().wait()

    serving = born(serve)
    appears(folder / "serving")
    spans = []
    for n in range(kills):
        pid = born(lambda n=n: victim(n))  # type: ignore[misc]
        appears(folder / f"{n}.entered")
        # At any moment between two change polls of the server, which are 50 ms apart.
        time.sleep(0.05 * n / kills)
        died = time.time()
        kill(pid)
        spans.append((float(appears(folder / f"{n}.taken")) - died) * 1000)
    kill(serving)
    return sorted(spans)


def main() -> None:
    kills = int(sys.argv[1]) if len(sys.argv) > 1 else KILLS
    with tempfile.TemporaryDirectory() as name:
        spans = measure(Path(name), kills)
    late = spans[min(len(spans) - 1, len(spans) * 99 // 100)]
    print(f"take-over after SIGKILL, {kills} kills: median {spans[len(spans) // 2]:.0f} ms, p99 {late:.0f} ms", end=" ")
    print(f"(at most {MOST:.0f}: {'reached' if late <= MOST else 'MISSED'})")


if __name__ == "__main__":
    main()
