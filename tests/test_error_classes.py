"""The class of a stored failure: found in modules that are already imported, without executing anything."""

import json
import os
import subprocess
import sys
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import bide
from bide._stored_errors import describe, rebuild


def record(type_name: str, **more: object) -> bytes:
    plain = {
        "type": type_name,
        "message": "m",
        "notes": [],
        "causes": [],
        "args": ["m"],
        "traceback": "",
        "kind": "error",
    }
    return json.dumps(plain | more).encode()


@pytest.fixture
def module(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A module on the path that was never imported."""
    (tmp_path / "not_imported_yet.py").write_text("class X(Exception): pass\n")
    monkeypatch.syspath_prepend(tmp_path)
    yield "not_imported_yet"
    sys.modules.pop("not_imported_yet", None)


def test_reading_imports_no_module(module: str) -> None:
    for more in ({}, {"module": module, "qualname": "X", "state": {}, "members": {}}):
        assert type(rebuild(record(f"{module}.X", **more))) is bide.TaskFailed
        assert module not in sys.modules
    found = __import__(module)
    for more in ({}, {"module": module, "qualname": "X", "state": {}, "members": {}}):
        assert type(rebuild(record(f"{module}.X", **more))) is found.X


def test_reading_asks_no_module_or_class_for_what_it_does_not_have(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    class Lazy(types.ModuleType):
        def __getattribute__(self, name: str) -> Any:
            asked.append(name)
            return super().__getattribute__(name)

    lazy = Lazy("lazy_one")
    monkeypatch.setitem(sys.modules, "lazy_one", lazy)
    monkeypatch.setitem(sys.modules, "no_module", asked)  # pyright: ignore[reportArgumentType]
    asked.clear()
    for name in ("lazy_one.X", "lazy_one.X.Y", "no_module.X"):
        module, _, qualname = name.partition(".")
        for more in ({}, {"module": module, "qualname": qualname}):
            assert type(rebuild(record(name, **more))) is bide.TaskFailed
    assert asked == []


CALLED: list[str] = []


class Watched(Exception):
    """A module that records each access."""

    def __init__(self, *args: object) -> None:
        CALLED.append("__init__")
        super().__init__(*args)

    def __setattr__(self, name: str, value: object) -> None:
        CALLED.append(f"__setattr__ {name}")
        super().__setattr__(name, value)

    def __getattr__(self, name: str) -> Any:
        CALLED.append(f"__getattr__ {name}")
        raise AttributeError(name)

    @property
    def effect(self) -> None:
        CALLED.append("effect")

    @effect.setter
    def effect(self, value: object) -> None:
        CALLED.append(f"effect = {value}")


@pytest.mark.parametrize("state", [{}, {"free": 1}, {"effect": 1}, {"__class__": 1}, {"__dict__": {}}, {"__odd__": 1}])
@pytest.mark.parametrize("new", [True, False])
def test_reading_calls_nothing_of_the_class(state: dict[str, Any], new: bool) -> None:
    more: dict[str, Any] = {"state": state}
    if new:
        more |= {"module": __name__, "qualname": "Watched", "members": {}}
    CALLED.clear()
    again = rebuild(record(f"{__name__}.Watched", **more))
    assert CALLED == []
    expected = bide.TaskFailed if any(name.startswith("__") for name in state) else Watched
    assert type(again) is expected


SCRIPT = """
import sys
class Down(Exception): pass
class Outer:
    class Down(Exception): pass
def work(what):
    from bide._stored_errors import describe, rebuild
    if what == "write":
        sys.stdout.buffer.write(b"\\n".join(describe(cls("x")) for cls in (Down, Outer.Down)))
    else:
        found = [rebuild(line) for line in sys.stdin.buffer.read().split(b"\\n")]
        print([type(one) is cls for one, cls in zip(found, (Down, Outer.Down))])
if __name__ == "__main__":
    work(sys.argv[1])
"""
WAYS = {
    "script": ["pkg/jobs.py"],
    "module": ["-m", "pkg.jobs"],
    "import": ["-c", "import sys, pkg.jobs; pkg.jobs.work(sys.argv[1])"],
    "import alone": ["-c", "import sys; sys.path.insert(0, 'pkg'); import jobs; jobs.work(sys.argv[1])"],
}


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """One package in two places, as before and after a deploy."""
    places = {name: tmp_path_factory.mktemp(name) for name in ("before", "after")}
    for place in places.values():
        (place / "pkg").mkdir()
        (place / "pkg" / "__init__.py").touch()
        (place / "pkg" / "jobs.py").write_text(SCRIPT)
    return places


def executed(place: Path, way: str, what: str, given: bytes = b"") -> bytes:
    return ran([*WAYS[way], what], place, given)


def ran(words: list[str], place: Path, given: bytes) -> bytes:
    """Run Python in a folder and return what it prints."""
    env = {**os.environ, "PYTHONPATH": str(Path(bide.__path__[0]).parent.absolute())}
    command = [sys.executable, *words]
    return subprocess.run(command, cwd=place, env=env, input=given, capture_output=True, check=True, timeout=60).stdout


@pytest.mark.parametrize("writer", ["script", "module", "import", "import alone"])
@pytest.mark.parametrize("place", ["before", "after"])
def test_a_class_is_found_for_any_way_of_executing_its_file(package: dict[str, Path], writer: str, place: str) -> None:
    stored = executed(package["before"], writer, "write")
    # A file imported without its package name counts as another module.
    readers = {"module": {"script", "module", "import"}, "import": {"script", "module", "import"}}
    for reader in readers.get(writer, {"script", "import alone", *(["import"] if writer == "script" else [])}):
        assert executed(package[place], reader, "read", stored) == b"[True, True]\n", reader


def test_another_script_with_a_class_of_that_name_is_another_class(package: dict[str, Path], tmp_path: Path) -> None:
    stored = executed(package["before"], "script", "write")
    (tmp_path / "pkg").mkdir()
    (tmp_path / "pkg" / "other.py").write_text(SCRIPT)
    (tmp_path / "pkg" / "__init__.py").touch()
    assert ran(["pkg/other.py", "read"], tmp_path, stored) == b"[False, False]\n"


def test_a_class_that_moved_within_its_package_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    inner, outer = types.ModuleType("pack._inner.deep"), types.ModuleType("pack")
    cls = type("Moved", (Exception,), {"__module__": "pack._inner.deep"})
    vars(inner)["Moved"] = vars(outer)["Moved"] = cls
    monkeypatch.setitem(sys.modules, "pack", outer)
    monkeypatch.setitem(sys.modules, "pack._inner.deep", inner)
    stored = describe(cls("x"))
    assert type(rebuild(stored)) is cls
    monkeypatch.delitem(sys.modules, "pack._inner.deep")
    assert type(rebuild(stored)) is cls
    monkeypatch.delitem(sys.modules, "pack")
    assert type(rebuild(stored)) is bide.TaskFailed


UNICODE = {"encoding": "ascii", "object": "é", "start": 0, "end": 1, "reason": "bad"}


@pytest.mark.parametrize(
    ("name", "more"),
    [
        ("UnicodeEncodeError", {"args": ["ascii", "é", 0, 1, "bad"], "members": UNICODE | {"object": 5}}),
        ("UnicodeEncodeError", {"args": []}),
        ("ValueError", {"members": {"no_member": 1}}),
        ("OSError", {"args": [2, "gone"]}),  # would be a FileNotFoundError
        ("ExceptionGroup", {"args": ["m", []]}),
        ("BaseException", {}),
        ("SystemExit", {}),
        ("Exception.__init__", {}),
        ("print", {}),
        ("", {}),
    ],
)
def test_a_record_that_makes_no_sense_is_a_task_failed(name: str, more: dict[str, Any]) -> None:
    full = {"module": "builtins", "qualname": name, "state": {}, "members": {}} | more
    assert type(rebuild(record(name, **full))) is bide.TaskFailed
