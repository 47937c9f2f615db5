"""Patched threads, a replaced clock, and names of stores: `Runner()` notices and names them."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

import bide

RUN = """
import bide
try:
    with bide.Runner(":memory:") as runner:
        def one(handle: bide.TaskHandle) -> int:
            handle.sleep(0.01)
            return handle.step(int, 1)
        print("ran", runner.run(bide.Workflow("w", [one]), timeout=30)["one"])
except bide.BideError as problem:
    print(type(problem).__name__, problem)
"""

GREEN = """
import _thread, threading, types, sys
library = types.ModuleType("LIBRARY.thread")
library.real = _thread.get_ident
exec("def get_ident(): return real()", vars(library))
_thread.get_ident = threading.get_ident = library.get_ident
"""

FAKE_CLASS = """
import datetime
class Fake(datetime.datetime): pass
Fake.__module__ = "freezegun.api"
datetime.datetime = Fake
"""

MOCKED = """
import datetime, unittest.mock
datetime.datetime = unittest.mock.MagicMock()
"""

SHIFTED = """
import time
real = time.time
time.time = lambda: real() + 3600
"""

MOCKED_TIME = """
import time, unittest.mock
time.time = unittest.mock.MagicMock()
"""

BROKEN_TIME = """
import logging, time  # logging, too, reads the time, when it is imported
def broken(): raise OSError("no clock")
time.time = broken
"""

DEBUGGED = """
import _thread, threading
start = _thread.start_new_thread
def traced(*args, **kwargs): return start(*args, **kwargs)
_thread.start_new_thread = threading._start_new_thread = traced
"""

TRAVELS = """
import sys, types
sys.modules["time_machine"] = types.ModuleType("time_machine")
sys.modules["time_machine"].STACK = [object()]
"""

TRAVELED = TRAVELS.replace("[object()]", "[]")

LIBRARIES = {
    "gevent": ("from gevent import monkey; monkey.patch_all()", ("gevent", "patch_all(thread=False)")),
    "gevent without threads": ("from gevent import monkey; monkey.patch_all(thread=False)", ("ran 1",)),
    "eventlet": ("import eventlet; eventlet.monkey_patch()", ("eventlet", "monkey_patch(thread=False)")),
    "eventlet without threads": ("import eventlet; eventlet.monkey_patch(thread=False)", ("ran 1",)),
    "freezegun": ("import freezegun; freezegun.freeze_time('2020-01-01').start()", ("freezegun", "system's clock")),
    "time_machine": ("import time_machine; time_machine.travel(0).start()", ("time_machine", "system's clock")),
}


def said(code: str, **environment: str) -> str:
    """Return what a process prints that runs this code and then a workflow."""
    env = {**os.environ, "PYTHONPATH": str(Path(bide.__path__[0]).parent), **environment}
    command = [sys.executable, "-W", "ignore", "-c", code + RUN]
    return subprocess.run(command, env=env, capture_output=True, check=True, timeout=60).stdout.decode().strip()


@pytest.mark.parametrize(
    ("patch", "words"),
    [
        ("", ["ran 1"]),
        (
            GREEN.replace("LIBRARY", "gevent"),
            ["BideError", "patched by gevent", "gevent.monkey.patch_all(thread=False)"],
        ),
        (GREEN.replace("LIBRARY", "eventlet"), ["BideError", "by eventlet", "eventlet.monkey_patch(thread=False)"]),
        (GREEN.replace("LIBRARY", "greener"), ["BideError", "patched by greener", "a process without"]),
        (DEBUGGED, ["ran 1"]),
        (FAKE_CLASS, ["BideError", "datetime.datetime is freezegun's 'Fake'", "as an input"]),
        (MOCKED, ["BideError", "datetime.datetime is unittest's"]),
        (SHIFTED, ["BideError", "time.time() is +3600 s from the system's clock"]),
        (MOCKED_TIME, ["BideError", "time.time() is not the system's", "system's clock"]),
        (BROKEN_TIME, ["BideError", "time.time() is not the system's", "system's clock"]),
        (TRAVELS.replace("STACK", "traveller_stack"), ["BideError", "time_machine"]),
        (TRAVELS.replace("STACK", "coordinates_stack"), ["BideError", "time_machine"]),
        (TRAVELED.replace("STACK", "traveller_stack"), ["ran 1"]),
    ],
)
def test_a_patched_library_is_named_with_a_working_alternative(patch: str, words: list[str]) -> None:
    line = said(patch)
    for word in words:
        assert word in line


@pytest.mark.parametrize("library", LIBRARIES)
def test_the_real_libraries_are_noticed(library: str) -> None:
    if importlib.util.find_spec(library.split(maxsplit=1)[0]) is None:
        pytest.skip("not installed")
    code, words = LIBRARIES[library]
    line = said(code)
    for word in words:
        assert word in line


# --- names of stores -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [":memory:", "sqlite:///:memory:", Path(":memory:")])
def test_memory_is_memory_in_any_spelling(name: str | Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with bide.Runner(name) as runner:
        assert runner.run(bide.Workflow("w", [bide.task(lambda: 1, name="one")]))["one"] == 1  # type: ignore[misc]
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("name", "word"),
    [
        ("sqlite:///", "names no file"),
        ("sqlite://", "three slashes"),
        ("sqlite://:memory:", "three slashes"),
        ("file::memory:", '":memory:"'),
        ("file::memory:?cache=shared", '":memory:"'),
        ("file:name?mode=memory", '":memory:"'),
        ("sqlite+aiosqlite:///:memory:", "no store for URLs of sqlite+aiosqlite://"),
        ("sqlite:name.db", "three slashes"),
        ("sqlite:///name.db?mode=ro", "no options"),
        ("file:name.db", "without file:"),
        ("a\0b", "NUL"),
    ],
)
def test_a_store_that_is_none_says_what_to_use(
    name: str, word: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(bide.BideError) as refused:
        bide.Runner(name)
    assert word in str(refused.value)
    assert str(refused.value).isprintable()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["é.db", "sqlite:///é.db", "日本.db"])
def test_a_path_that_the_locale_cannot_spell_is_refused_with_the_remedy(name: str, tmp_path: Path) -> None:
    code = f"""
import bide, os
os.chdir({str(tmp_path)!r})
try:
    bide.Runner({name!a})
except bide.BideError as problem:
    print(problem)
"""
    line = said(code, LC_ALL="C", PYTHONUTF8="0", PYTHONCOERCECLOCALE="0").splitlines()[0]
    assert "paths in ascii" in line
    assert "PYTHONUTF8=1" in line
    assert "surrogate" not in line
    assert said("", LC_ALL="C") == "ran 1"
