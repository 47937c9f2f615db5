"""`Child`: a child process as its parent sees it. What it executes is in `_process_main.py`."""

import contextlib
import os
import pickle
import signal
import socket
import subprocess
import sys
from multiprocessing import spawn, util
from multiprocessing.connection import Connection, wait
from typing import Any

from bide import _process_main
from bide._errors import BideError
from bide._process_main import READY
from bide._remote_call import Ended

PATIENCE, LAST = 2.0, 0.5
"""Seconds that an idle child may take to end, and one that has closed its pipe."""


class Child:
    """A child process with a pipe to it. Used by one thread; any may `kill`."""

    def __init__(self) -> None:
        """Start the process."""
        if _process_main.importing:
            msg = (
                "a child process of bide.Processes imports the main module of its program, which executes bodies there "
                'again: put what the program does under `if __name__ == "__main__":`'
            )
            raise BideError(msg)
        ours, theirs = socket.socketpair()
        with theirs:
            fd = theirs.fileno()
            path = [one for one in sys.path if isinstance(one, str)]
            first = f"import sys; sys.path[:] = {path!r}; from bide._process_main import main; "
            self._process = subprocess.Popen(  # noqa: S603 - this interpreter
                [
                    os.fsdecode(spawn.get_executable() or sys.executable),
                    *util._args_from_interpreter_flags(),  # type: ignore[attr-defined]
                    "-c",
                    f"{first}main({fd}, {os.getpid()})",
                ],
                stdin=subprocess.DEVNULL,
                pass_fds=[fd],
                process_group=0,  # Ctrl-C is for the parent
            )
        self.pid = self._process.pid
        self._connection = Connection(ours.detach())
        self._alive = os.pidfd_open(self.pid)
        self._killed = False
        self._is_silent = False
        """It has closed its end of the pipe."""

    def begin(self) -> str | None:
        """Have it import the program, and wait for that: None, or what it could not do; empty if it has died."""
        data = spawn.get_preparation_data("bide process")
        data.pop("authkey", None)  # it has no pickle, and nobody talks to the child but by the pipe
        try:
            self._connection.send_bytes(pickle.dumps(data))
        except OSError:
            return ""
        first = self._receive(None)
        if first is None:
            return ""
        return None if first == READY else first.decode(errors="replace")

    def send(self, task: str, message: bytes) -> bool:
        """Send a call. False: it has died or was killed, and has not begun it."""
        if self._killed or self._process.poll() is not None:
            return False
        try:
            self._connection.send_bytes(task.encode(errors="replace"))
            self._connection.send_bytes(message)
        except OSError:
            return False
        return True

    def reply(self, timeout: float | None) -> Ended | None:
        """Return what it has sent back: None if it has died, or the time is over."""
        data = self._receive(timeout)
        if data is None:
            return None
        ended: Ended = pickle.loads(data)  # noqa: S301 - from our own child
        return ended

    def kill(self) -> None:
        """Kill it, and what it has started in its process group."""
        self._killed = True
        if self._process.returncode is None:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self.pid, signal.SIGKILL)

    def end(self, *, kill: bool) -> str:
        """End it, and return in words how it has ended. Without `kill`, it may take a while."""
        self._connection.close()
        # One that cannot be talked to any more is about to end, unless its pipe alone is gone.
        if self._is_silent and not self._killed and not wait([self._alive], LAST):
            self.kill()
            self._wait()
            return "has closed the pipe to this process, and was killed"
        if kill:
            self.kill()
        return _in_words(self._wait())

    def _wait(self) -> int:
        try:
            code = self._process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            self.kill()
            code = self._process.wait()
        with contextlib.suppress(OSError):
            os.close(self._alive)
        return code

    def _receive(self, timeout: float | None) -> bytes | None:
        ready: list[Any] = wait([self._connection, self._alive], timeout)
        if self._connection not in ready and not self._connection.poll(0):
            return None
        try:
            return self._connection.recv_bytes()
        except (EOFError, OSError):
            self._is_silent = True
            return None


def _in_words(code: int) -> str:
    if code >= 0:
        return f"has ended with exit code {code}"
    try:
        name = signal.Signals(-code).name
    except ValueError:
        name = f"signal {-code}"
    hint = ", as the system does where memory runs out" if -code == signal.SIGKILL else ""
    return f"was killed by {name}{hint}"
