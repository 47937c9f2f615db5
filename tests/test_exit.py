"""The interpreter may exit, or the process fork, at any moment.

It ends promptly, quietly and with the exit code that it was given.

Each case is a script run by each CPython at hand in a process of its own. A script
makes pools of threads, and has bodies run and park in them, only through its prelude,
so that the same scripts try whatever a prelude is written for.

``BIDE_PYTHONS`` (paths, separated like ``PATH``) names the interpreters; without it
they are looked for among pyenv's and on ``PATH``. ``BIDE_EXIT_REPEAT`` runs each case
that many times.
"""

import importlib
import os
import shutil
import signal
import subprocess
import sys
import textwrap
import time
from dataclasses import dataclass
from pathlib import Path

import pytest

import bide

VERSIONS = ("3.11", "3.12", "3.13", "3.14")
REPEAT = int(os.environ.get("BIDE_EXIT_REPEAT", "1"))
PROMPT = 1.0
"""Seconds from the end of a script to the end of its process."""

COMMON = """
import os, sys, threading, time, warnings

def end():
    # The last statement of a script: from here on the time to the exit counts.
    sys.stdout.flush()
    os.write(1, b"end %r\\n" % time.monotonic())

def forever(handle=None):
    while True:
        pass

class Linger:
    # Dies while the interpreter is being finalized and lets other threads in just then:
    # each that asks for the interpreter has its thread ended.
    def __del__(self, sleep=time.sleep):
        sleep(0.05)

sys.linger = Linger()

def until(condition):
    while not condition():
        time.sleep(0.001)
"""

PROBE = """
from bide._core import _probe

Suspended = _probe.Suspended
Refused = RuntimeError
pool = _probe.Pool                       # pool(slots)

def go(pool, body):                      # has body(handle) run; .result(timeout=None)
    return pool.go(body)
"""

PRELUDES = {"probe": PROBE}


# ---------------------------------------------------------------------------- the cases


@dataclass(frozen=True)
class Case:
    """A script and what must come of it."""

    script: str
    code: int = 0
    out: str = ""
    """What it must print before its end."""


CASES = {
    "nothing was ever run": Case("p = pool(2)\nend()"),
    "no pool was ever made": Case("end()"),
    "idle workers": Case("p = pool(2)\nassert go(p, lambda h: 7).result() == 7\nend()"),
    "the pool is gone": Case("p = pool(2)\ngo(p, lambda h: 7).result()\ndel p\nend()"),
    "busy workers with a long queue": Case(
        """
        p = pool(2)
        for i in range(5000):
            go(p, lambda h: sum(range(10_000)))
        go(p, len)  # raises
        end()
        """,
    ),
    "busy workers with callables of C": Case(
        """
        p = pool(2)
        for i in range(50_000):
            go(p, repr)
        end()
        """,
    ),
    "bodies that never return": Case(
        """
        p = pool(2)
        entered = [threading.Event(), threading.Event()]
        def body(event):
            event.set()
            forever()
        for event in entered:
            go(p, lambda h, event=event: body(event))
        for event in entered:
            event.wait()
        end()
        """,
    ),
    "a body that never returns and holds a lock of Python's": Case(
        """
        p = pool(2)
        lock = threading.RLock()
        def body(handle):
            with lock:
                entered.set()
                forever()
        entered = threading.Event()
        go(p, body)
        go(p, body)
        entered.wait()
        end()
        """,
    ),
    "bodies that sleep": Case(
        """
        p = pool(2)
        entered = threading.Event()
        go(p, lambda h: (entered.set(), time.sleep(1e9)))
        entered.wait()
        end()
        """,
    ),
    "a body whose sleep ends while the interpreter goes": Case(
        """
        import atexit
        p = pool(8)
        entered = threading.Barrier(9)
        for i in range(8):
            go(p, lambda h, i=i: (entered.wait(), time.sleep(0.29 + i * 0.01)))
        entered.wait()
        atexit.register(time.sleep, 0.1)
        end()
        """,
    ),
    "bodies blocked in C": Case(
        """
        import queue, select, socket
        p = pool(4)
        entered = threading.Barrier(5)
        lock = threading.Lock()
        lock.acquire()
        left, right = socket.socketpair()
        reader, writer = os.pipe()
        for call in (
            lock.acquire,
            queue.SimpleQueue().get,
            lambda: left.recv(1),
            lambda: os.read(reader, 1),
        ):
            go(p, lambda h, call=call: (entered.wait(), call()))
        entered.wait()
        end()
        """,
    ),
    "100 parked bodies": Case(
        """
        p = pool(2)
        polled = set()
        def body(handle, i):
            def condition():
                polled.add(i)
            handle.defer_until(condition, 10_000_000)
        for i in range(100):
            go(p, lambda h, i=i: body(h, i))
        until(lambda: len(polled) == 100)
        end()
        """,
    ),
    "100 parked bodies polled every millisecond": Case(
        """
        p = pool(2)
        polled = set()
        def body(handle, i):
            handle.defer_until(lambda: polled.add(i), 1)
        for i in range(100):
            go(p, lambda h, i=i: body(h, i))
        until(lambda: len(polled) == 100)
        end()
        """,
    ),
    "parked bodies have Suspended raised and clean up": Case(
        """
        p = pool(2)
        polled = set()
        def body(handle, i):
            try:
                handle.defer_until(lambda: polled.add(i), 10_000_000)
            except Suspended:
                os.write(1, b"suspended\\n")
                raise
            finally:
                os.write(1, b"clean\\n")
        go(p, lambda h: body(h, 0))
        until(lambda: polled)
        """,
        out="suspended\nclean\n",
    ),
    "a body that swallows Suspended and waits again": Case(
        """
        p = pool(2)
        polled = set()
        def body(handle, i):
            for _ in range(3):
                try:
                    handle.defer_until(lambda: polled.add(i), 10_000_000)
                except BaseException:
                    pass
            try:
                return handle.defer_until(lambda: False, 10_000_000)
            finally:
                handle.defer_until(lambda: False, 10_000_000)
        for i in range(10):
            go(p, lambda h, i=i: body(h, i))
        until(lambda: len(polled) == 10)
        end()
        """,
    ),
    "a body that swallows Suspended and never returns": Case(
        """
        p = pool(2)
        polled = set()
        def body(handle, i):
            try:
                handle.defer_until(lambda: polled.add(i), 10_000_000)
            except BaseException:
                forever()
        for i in range(3):
            go(p, lambda h, i=i: body(h, i))
        until(lambda: len(polled) == 3)
        end()
        """,
    ),
    "a condition that never returns, in a body, in a worker": Case(
        """
        p = pool(2)
        entered = threading.Event()
        def condition():
            entered.set()
            forever()
        go(p, lambda h: h.defer_until(condition, 1))
        entered.wait()
        end()
        """,
    ),
    "a condition that sleeps, polled again and again": Case(
        """
        p = pool(8)
        polled = set()
        def body(handle, i):
            def condition():
                polled.add(i)
                time.sleep(0.005 * (i + 1))
            handle.defer_until(condition, 1)
        for i in range(8):
            go(p, lambda h, i=i: body(h, i))
        until(lambda: len(polled) == 8)
        end()
        """,
    ),
    "truth of a value that never tells": Case(
        """
        p = pool(2)
        entered = threading.Event()
        class Value:
            def __bool__(self):
                entered.set()
                forever()
        go(p, lambda h: h.defer_until(Value, 1))
        entered.wait()
        end()
        """,
    ),
    "a body that waits for a body": Case(
        """
        p = pool(2)
        entered = threading.Event()
        go(p, lambda h: go(p, lambda h: (entered.set(), forever())).result())
        entered.wait()
        end()
        """,
    ),
    "sys.exit in a body": Case(
        """
        p = pool(2)
        t = go(p, lambda h: sys.exit(3))
        try:
            t.result()
        except BaseException:
            print("raised")
        assert go(p, lambda h: 7).result() == 7
        end()
        """,
        out="raised\n",
    ),
    "sys.exit in the script": Case(
        "p = pool(2)\ngo(p, forever)\nend()\nsys.exit(5)",
        code=5,
    ),
    "os._exit in the script": Case(
        "p = pool(2)\ngo(p, forever)\nend()\nos._exit(7)", code=7
    ),
    "os._exit in a body": Case(
        "p = pool(2)\ngo(p, lambda h: (end(), os._exit(7)))\ntime.sleep(60)",
        code=7,
    ),
    "__del__ that raises": Case(
        """
        sys.unraisablehook = lambda args: seen.append(str(args.exc_value))
        seen = []
        class Body:
            def __call__(self, handle):
                pass
            def __del__(self):
                raise ValueError("in __del__")
        p = pool(2)
        go(p, Body()).result()
        until(lambda: seen)
        go(p, lambda h, local=Body(): forever())
        print(*seen)
        end()
        """,
        out="in __del__\n",
    ),
    "__del__ of a body that never returns": Case(
        """
        entered = threading.Event()
        class Body:
            def __call__(self, handle):
                pass
            def __del__(self):
                entered.set()
                forever()
        p = pool(2)
        go(p, Body())
        entered.wait()
        end()
        """,
    ),
    "__del__ of a returned value that never returns": Case(
        """
        entered = threading.Event()
        class Value:
            def __del__(self):
                entered.set()
                forever()
        p = pool(2)
        go(p, lambda h: Value())
        entered.wait()
        end()
        """,
    ),
    "__del__ of a local in a traceback that never returns": Case(
        """
        entered = threading.Event()
        class Value:
            def __del__(self):
                entered.set()
                forever()
        def body(handle):
            local = Value()
            raise ValueError
        p = pool(2)
        go(p, body)
        entered.wait()
        end()
        """,
    ),
    "an exception whose class never returns": Case(
        """
        import ctypes
        entered = threading.Event()
        class Slow(Exception):
            def __init__(self, *args):
                entered.set()
                forever()
        set_error = ctypes.pythonapi.PyErr_SetObject  # made late by 3.11
        p = pool(2)
        go(p, lambda h: set_error(ctypes.py_object(Slow), ctypes.py_object(1)))
        entered.wait()
        end()
        """,
    ),
    "a pool made in a thread that has ended": Case(
        """
        made = []
        def thread():
            made.append(pool(2))
            go(made[0], forever)
            assert go(made[0], lambda h: 7).result() == 7
        t = threading.Thread(target=thread)
        t.start()
        t.join()
        end()
        """,
    ),
    "a thread that still waits for a body": Case(
        """
        def thread():
            p = pool(2)
            t = go(p, lambda h: (entered.set(), forever()))
            try:
                t.result()
            except Refused as e:
                os.write(1, b"refused\\n")
        entered = threading.Event()
        threading.Thread(target=thread).start()
        entered.wait()
        """,
        out="refused\n",
    ),
    "a daemon thread that still waits for a body": Case(
        """
        def thread():
            p = pool(2)
            try:
                go(p, lambda h: (entered.set(), time.sleep(1e9))).result()
            except Refused:
                pass  # or else the thread is left where it is
        entered = threading.Event()
        threading.Thread(target=thread, daemon=True).start()
        entered.wait()
        end()
        """,
    ),
    "ten pools": Case(
        """
        pools = [pool(2) for _ in range(10)]
        go(pools[4], forever)
        for p in pools:
            go(p, lambda h: 7).result()
            go(p, lambda h: h.defer_until(lambda: False, 1))
        end()
        """,
    ),
    "a pool made while exiting": Case(
        """
        import atexit
        def late():
            for call in (lambda: pool(2), lambda: go(p, forever)):
                try:
                    call()
                except Refused:
                    os.write(1, b"refused\\n")
            end()
        p = pool(2)
        atexit.register(late)
        """,
        out="refused\nrefused\n",
    ),
    "fork, and the child uses the pool": Case(
        """
        warnings.simplefilter("ignore", DeprecationWarning)
        p = pool(2)
        t = go(p, lambda h: (time.sleep(0.05), 7)[1])
        go(p, lambda h: h.defer_until(lambda: False, 10_000_000))
        child = os.fork()
        if not child:
            for call in (lambda: go(p, forever), t.result):
                try:
                    call()
                except Refused as e:
                    assert str(os.getpid()) in str(e), e
                    assert str(os.getppid()) in str(e), e
                    print("refused")
            sys.exit(4)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 4
        assert t.result() == 7
        assert go(p, lambda h: 8).result() == 8
        end()
        """,
        out="refused\nrefused\n",
    ),
    "fork, and the child makes a pool of its own": Case(
        """
        warnings.simplefilter("ignore", DeprecationWarning)
        p = pool(2)
        go(p, lambda h: h.defer_until(lambda: False, 1))
        reader, writer = os.pipe()
        child = os.fork()
        if not child:
            p = pool(2)
            assert go(p, lambda h: 7).result() == 7
            go(p, forever)
            go(p, lambda h: h.defer_until(lambda: False, 1))
            os.write(writer, b"%r" % time.monotonic())
            sys.exit(4)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 4
        assert time.monotonic() - float(os.read(reader, 99)) < 1
        end()
        """,
    ),
    "fork in a body, and the child goes on from there": Case(
        """
        warnings.simplefilter("ignore", DeprecationWarning)
        p = pool(2)
        def body(handle):
            child = os.fork()
            return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) if child else 0
        assert go(p, body).result() == 0
        assert go(p, lambda h: 7).result() == 7
        end()
        """,
    ),
    "multiprocessing by fork": Case(
        """
        import multiprocessing
        warnings.simplefilter("ignore", DeprecationWarning)
        p = pool(2)
        go(p, forever)
        def target():
            own = pool(2)
            assert go(own, lambda h: 7).result() == 7
            go(own, forever)
        process = multiprocessing.get_context("fork").Process(target=target)
        process.start()
        process.join()
        assert process.exitcode == 0, process.exitcode
        end()
        """,
    ),
    "a second interpreter": Case(
        """
        try:
            import _interpreters as interpreters
        except ImportError:
            import _xxsubinterpreters as interpreters
        # (Beside a thread that never waits, CPython 3.11 itself hangs in the second.)
        p = pool(2)
        go(p, lambda h: h.defer_until(lambda: False, 1))
        code = '''if True:
            import os
            try:
                import bide._core
            except ImportError as e:
                os.write(1, b"refused\\\\n")
        '''
        one = interpreters.create()
        interpreters.run_string(one, code)
        interpreters.destroy(one)
        assert go(p, lambda h: 7).result() == 7
        end()
        """,
        out="refused\n",
    ),
}

PROBE_CASES = {
    "a thread of Rust's that calls Python": Case(
        """
        called = threading.Event()
        _probe.from_rust_thread(called.set)
        called.wait()
        end()
        """,
    ),
    "a thread of Rust's in a call that never returns": Case(
        """
        entered = threading.Event()
        _probe.from_rust_thread(lambda: (entered.set(), forever()))
        entered.wait()
        end()
        """,
    ),
    "every form of call": Case(
        """
        def show(*args, **kwargs):
            return args, kwargs
        for n in range(7):
            args = tuple(range(n))
            assert _probe.call(show, *args) == (args, {})
            assert _probe.call(show, *args, k=n) == (args, {"k": n})
        def fail(*args, **kwargs):
            raise KeyError(args)
        for n in range(7):
            try:
                _probe.call(fail, *range(n))
            except KeyError as e:
                assert e.args == (tuple(range(n)),), e
                assert e.__traceback__.tb_next.tb_frame.f_code is fail.__code__
            else:
                raise AssertionError
        try:
            _probe.call(int, "x")  # raised in C: the exception is made late in 3.11
        except ValueError as e:
            assert "'x'" in str(e)
        end()
        """,
    ),
    "a neighbour gets in between callables of C": Case(
        """
        p = pool(2)
        gate = threading.Event()
        for i in range(2):
            go(p, lambda h: gate.wait())
        tickets = [go(p, repr) for i in range(200_000)]
        gate.set()
        for i in range(2):
            time.sleep(0)  # leaves the interpreter and wants it back
        # All of that, beside 200,000 bodies that never look whether anybody waits.
        try:
            tickets[-1].result(0)
        except TimeoutError:
            print("while they ran")
        """,
        out="while they ran\n",
    ),
    "a panic": Case(
        """
        p = pool(2)
        for call in (_probe.panic, go(p, lambda h: _probe.panic()).result):
            try:
                call()
            except RuntimeError as e:
                for part in ("bug in bide", "report", "asked to"):
                    assert part in str(e), e
                print("told")
        end()
        """,
        out="told\ntold\n",
    ),
}


# --------------------------------------------------------------------- the interpreters


def version_of(python: str) -> str | None:
    """``3.12`` for a CPython that runs, else nothing."""
    code = "import sys; print(sys.implementation.name, '%d.%d' % sys.version_info[:2])"
    try:
        done = subprocess.run(
            [python, "-c", code],
            capture_output=True,
            text=True,
            check=True,
            timeout=60,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    name, version = done.stdout.split()
    return version if name == "cpython" else None


def find_pythons() -> dict[str, str]:
    """One interpreter for each version, by version."""
    if named := os.environ.get("BIDE_PYTHONS"):
        candidates = named.split(os.pathsep)
    else:
        pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv"))
        candidates = [
            sys.executable,
            *map(str, sorted(pyenv.glob("versions/3.*/bin/python"))),
            *filter(None, (shutil.which(f"python{v}") for v in VERSIONS)),
        ]
    found: dict[str, str] = {}
    for python in candidates:
        version = version_of(python)
        if version in VERSIONS and version not in found:
            found[version] = python
    return found


PYTHONS = find_pythons()
each_python = pytest.mark.parametrize("version", PYTHONS)
each_prelude = pytest.mark.parametrize("prelude", PRELUDES)


@pytest.mark.parametrize("version", VERSIONS)
def test_each_cpython_is_at_hand(version: str) -> None:
    """Name in the summary the interpreters that the other tests did not try."""
    if version not in PYTHONS:
        pytest.skip(f"no CPython {version} at hand")


def run(
    python: str,
    prelude: str,
    script: str,
) -> tuple[subprocess.CompletedProcess[str], float]:
    """Run a script with the bide that is being tested; with it, the time of its end."""
    place = str(Path(bide.__path__[0]).parent)
    done = subprocess.run(
        [python, "-c", COMMON + prelude + textwrap.dedent(script)],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
        env={**os.environ, "PYTHONPATH": place, "PYTHONDONTWRITEBYTECODE": "1"},
    )
    return done, time.monotonic()


def check_probe() -> None:
    """Skip where the probe is not built in."""
    if not hasattr(importlib.import_module("bide._core"), "_probe"):
        pytest.skip("bide is built without its cargo feature `probe`")


def check(version: str, prelude: str, case: Case) -> None:
    """Run a case and compare."""
    if prelude == "probe":
        check_probe()
    for _ in range(REPEAT):
        done, ended = run(PYTHONS[version], PRELUDES[prelude], case.script)
        lines = done.stdout.splitlines(keepends=True)
        printed = "".join(line for line in lines if not line.startswith("end "))
        ends = [float(line.split()[1]) for line in lines if line.startswith("end ")]
        assert (done.returncode, done.stderr, printed) == (case.code, "", case.out)
        assert all(ended - end < PROMPT for end in ends)


@each_python
@each_prelude
@pytest.mark.parametrize("name", CASES)
def test_exit_is_prompt_and_quiet(version: str, prelude: str, name: str) -> None:
    """Whatever bodies do, the process ends as the script asked, and at once."""
    check(version, prelude, CASES[name])


@each_python
@pytest.mark.parametrize("name", PROBE_CASES)
def test_exit_with_the_probe_is_prompt_and_quiet(version: str, name: str) -> None:
    """The same for what only the probe can do."""
    check(version, "probe", PROBE_CASES[name])


@each_python
def test_without_the_guard_the_process_aborts(version: str) -> None:
    """What the guard is for. CPython 3.14 leaves such a thread alone by itself."""
    script = """
        entered = threading.Event()
        _probe.unguarded(lambda: (entered.set(), forever()))
        entered.wait()
    """
    check_probe()
    done, _ = run(PYTHONS[version], PROBE, script)
    aborts = version in {"3.11", "3.12", "3.13"}
    assert done.returncode == (-signal.SIGABRT if aborts else 0)
