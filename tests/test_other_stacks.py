"""A body that waits on a C stack other than its thread's, as coroutines and fibers of C libraries do.

A parked body must release memory only of the stack on which it executes.
"""

import platform
import subprocess
import sys
from pathlib import Path

import pytest

import bide

SCRIPT = """
import ctypes, mmap, sys
import bide

where, wait = sys.argv[1:]
libc = ctypes.CDLL(None, use_errno=True)
size = 4 << 20
if where == "heap":
    keeps = ctypes.create_string_buffer(size)
    address = ctypes.addressof(keeps)
else:
    keeps = mmap.mmap(-1, size)
    address = ctypes.addressof(ctypes.c_char.from_buffer(keeps))
caller, callee = ctypes.create_string_buffer(2048), ctypes.create_string_buffer(2048)
polls = []

@bide.task
def t(handle: bide.TaskHandle) -> list[int]:
    seen = []

    @ctypes.CFUNCTYPE(None)
    def on_another_stack():
        if wait == "time":
            handle.sleep(0.02)
        elif wait == "condition":
            handle.defer_until(lambda: polls.append(1) or len(polls) > 3, poll_interval_ms=2, name="c")
        seen.append(1)

    for _ in range(3):
        # ucontext_t on x86-64: uc_link at 8, uc_stack.ss_sp at 16, ss_size at 32.
        libc.getcontext(callee)
        ctypes.c_void_p.from_buffer(callee, 8).value = ctypes.addressof(caller)
        ctypes.c_void_p.from_buffer(callee, 16).value = address
        ctypes.c_size_t.from_buffer(callee, 32).value = size
        libc.makecontext(callee, on_another_stack, 0)
        ctypes.PyDLL(None).swapcontext(caller, callee)
        handle.sleep(0.001)  # and on its own one
    return seen

with bide.Runner(":memory:", slots=2) as runner:
    print(runner.run(bide.Workflow("w", [t]), timeout=20)["t"])
"""


@pytest.mark.skipif(
    (sys.platform, platform.machine()) != ("linux", "x86_64"), reason="the script knows one layout of ucontext_t"
)
@pytest.mark.parametrize("wait", ["none", "time", "condition"])
@pytest.mark.parametrize("where", ["heap", "mapping"])
def test_a_wait_on_another_stack_leaves_memory_alone(where: str, wait: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, where, wait],
        capture_output=True,
        text=True,
        timeout=60,
        env={"PYTHONPATH": str(Path(bide.__path__[0]).parent)},
        check=False,
    )
    assert (done.returncode, done.stdout.strip()) == (0, "[1, 1, 1]"), done.stderr
