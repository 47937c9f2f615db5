"""What a child process of `bide.Processes` does: calls functions, one after the other, until its parent is gone.

Its main thread executes the calls, as signal handlers and many libraries want it. Another thread reads from the parent,
and ends the process at once when that has ended in the middle of a call.
"""

import contextlib
import ctypes
import os
import pickle
import queue
import signal
import sys
import threading
from multiprocessing import spawn
from multiprocessing.connection import Connection

from bide._errors import DefinitionError
from bide._remote_call import Failed, execute

READY = b"ready"
"""The first message of a child that has imported the program; any other one says why it could not."""

PR_SET_PDEATHSIG = 1

importing = False
"""Whether this is a child that imports the main module of its program."""


def main(fd: int, parent: int) -> None:
    """Execute what the parent sends, up to its end."""
    _die_with(parent)
    connection = Connection(fd)
    try:
        if not _prepare(connection):
            return
        calls: queue.SimpleQueue[tuple[str, bytes] | None] = queue.SimpleQueue()
        idle = threading.Event()
        idle.set()
        threading.Thread(target=_read, args=(connection, calls, idle), name="bide-parent", daemon=True).start()
        me = os.getpid()
        while (call := calls.get()) is not None:
            reply = _answer(*call)
            if os.getpid() != me:
                os._exit(0)  # the body has forked, and this is the fork
            idle.set()
            connection.send_bytes(reply)
    except OSError:
        pass  # the parent is gone


def _die_with(parent: int) -> None:
    """Have the kernel kill this process when its parent ends."""
    if sys.platform == "linux":
        with contextlib.suppress(OSError, AttributeError):
            ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)


def _prepare(connection: Connection) -> bool:
    """Import the main module of the program as `multiprocessing` does. False, and the parent is told, if it fails."""
    global importing  # noqa: PLW0603 - of this process
    try:
        data = pickle.loads(connection.recv_bytes())  # noqa: S301 - from the parent
    except EOFError:
        return False
    importing = True
    try:
        spawn.prepare(data)
    except BaseException as error:  # noqa: BLE001 - the program's own code
        import traceback  # noqa: PLC0415 - for failures alone

        text = "".join(traceback.format_exception(error))
        connection.send_bytes(f"could not import the main module of the program:\n{text}".encode(errors="replace"))
        return False
    finally:
        importing = False
    connection.send_bytes(READY)
    return True


def _read(connection: Connection, calls: "queue.SimpleQueue[tuple[str, bytes] | None]", idle: threading.Event) -> None:
    try:
        while True:
            task = connection.recv_bytes().decode(errors="replace")
            message = connection.recv_bytes()
            idle.clear()
            calls.put((task, message))
    except (EOFError, OSError):
        if not idle.is_set():
            os._exit(1)  # nobody wants what it computes
        calls.put(None)


def _answer(task: str, message: bytes) -> bytes:
    try:
        fn, args, kwargs = pickle.loads(message)  # noqa: S301 - from the parent
    except BaseException as problem:  # noqa: BLE001 - code of the arguments' classes
        msg = (
            f"task {task!r}: its function or arguments could not be loaded in another process: "
            f"{type(problem).__name__}: {problem}. Define what they need at the top level of a module"
        )
        error = DefinitionError(msg)
        error.__cause__ = problem
        return pickle.dumps(Failed(error))
    return pickle.dumps(execute(fn, task, args, kwargs), protocol=5)
