"""Errors: one hierarchy, and the stored form of an exception restores the same failure."""

import json
import pickle
import sys
from collections.abc import Callable
from typing import Any, Self

import pytest

import bide
from bide._error_state import LIMIT
from bide._stored_errors import describe, kind, rebuild, task_failed
from failing_runs import failure


class Refused(Exception):
    """An exception whose __init__ takes other arguments than it passes to its base."""

    def __init__(self, code: int, where: str) -> None:
        super().__init__(f"refused at {where}")
        self.code = code
        self.where = where


class DiskGone(OSError):
    """An OSError with its own __init__."""

    def __init__(self, disk: str) -> None:
        super().__init__(5, f"{disk} is gone")
        self.disk = disk


class Dangerous(Exception):
    """An exception whose __init__ must not run again."""

    runs = 0

    def __init__(self) -> None:
        type(self).runs += 1
        super().__init__("once")


class Fixed(Exception):
    """An exception with its own __new__."""

    def __new__(cls, *args: object) -> Self:
        return super().__new__(cls, *args)


def raised(make: Callable[[], BaseException]) -> BaseException:
    try:
        raise make()
    except BaseException as exc:  # noqa: BLE001 - the exception is under test
        return exc


@pytest.mark.parametrize(
    ("name", "parents"),
    [
        ("DefinitionError", (bide.BideError, ValueError)),
        ("RunFailed", (bide.BideError,)),
        ("TaskFailed", (bide.BideError,)),
        ("WaitTimeout", (bide.BideError, TimeoutError)),
        ("TaskTimeout", (bide.BideError, TimeoutError)),
        ("ReplayMismatch", (bide.BideError,)),
        ("SignalRejected", (bide.BideError,)),
        ("StoreError", (bide.BideError,)),
        ("SerializationError", (bide.BideError, TypeError)),
        ("RunnerClosed", (bide.BideError, RuntimeError)),
        ("Skip", (bide.BideError,)),
        ("Cancelled", (BaseException,)),
        ("Suspended", (BaseException,)),
    ],
)
def test_the_family(name: str, parents: tuple[type, ...]) -> None:
    cls = getattr(bide, name)
    assert all(issubclass(cls, parent) for parent in parents)
    assert cls.__module__ == "bide"
    exc = failure() if cls is bide.RunFailed else cls("what failed")
    assert "failed" in str(exc)
    again = pickle.loads(pickle.dumps(exc))  # noqa: S301 - our own
    assert type(again) is cls
    assert str(again) == str(exc)


def test_cancel_and_suspension_pass_an_except_exception() -> None:
    assert not issubclass(bide.Cancelled, Exception)
    assert not issubclass(bide.Suspended, Exception)


SAME: list[Callable[[], Exception]] = [
    lambda: ValueError("bad", 3),
    lambda: KeyError("k"),
    lambda: FileNotFoundError(2, "No such file", "a.csv"),
    lambda: ZeroDivisionError(),
    lambda: Refused(7, "door"),
    lambda: DiskGone("sda"),
    lambda: bide.WaitTimeout("data did not come"),
    lambda: bide.Skip("nothing to do"),
    lambda: json.JSONDecodeError("bad", "doc", 1),
    lambda: ValueError({"a": [1, None]}),
]


@pytest.mark.parametrize("make", SAME)
def test_a_replayed_failure_is_the_same_exception(make: Callable[[], Exception]) -> None:
    exc = raised(make)
    exc.add_note("seen at noon")
    again = rebuild(describe(exc))
    assert type(again) is type(exc)
    assert (str(again), again.args) == (str(exc), exc.args)
    assert again.__dict__.items() >= exc.__dict__.items()
    assert again.__notes__ == ["seen at noon"]
    if isinstance(exc, OSError):
        assert isinstance(again, OSError)
        assert (again.errno, again.filename) == (exc.errno, exc.filename)


def test_an_exceptions_own_init_does_not_run_again() -> None:
    stored = describe(raised(Dangerous))
    again = rebuild(stored)
    assert type(again) is Dangerous
    assert str(again) == "once"
    assert Dangerous.runs == 1


class _Local:
    pass


OTHER: list[Callable[[], BaseException]] = [
    lambda: type("Made", (Exception,), {})("x"),
    lambda: Fixed("x"),
    lambda: ValueError(_Local()),
    lambda: ValueError(float("nan")),
    lambda: ValueError("\ud800"),
    lambda: SystemExit(3),
    lambda: KeyboardInterrupt(),
    lambda: UnicodeDecodeError("utf-8", b"x", 0, 1, "bad"),
    lambda: ExceptionGroup("several", [ValueError(1)]),
]


@pytest.mark.parametrize("make", OTHER)
def test_an_error_that_cannot_be_rebuilt_safely_is_a_task_failed(make: Callable[[], BaseException]) -> None:
    again = rebuild(describe(raised(make)))
    assert type(again) is bide.TaskFailed
    assert again.type.endswith(type(make()).__qualname__)


def test_a_stored_type_is_never_anything_but_an_exception() -> None:
    for name in ("builtins.eval", "os.system", "builtins.type", "no.such.module", "builtins.KeyboardInterrupt", "int"):
        stored = {
            "type": name,
            "message": "m",
            "notes": [],
            "causes": [],
            "args": ["1"],
            "traceback": "",
            "kind": "error",
        }
        again = rebuild(json.dumps(stored).encode())
        assert type(again) is bide.TaskFailed
        assert again.type == name


def test_the_traceback_is_kept_without_locals() -> None:
    def fails() -> None:
        secret = "hunter2"  # noqa: F841, S105 - it must not be stored
        msg = "no"
        raise ValueError(msg)

    exc = raised_by(fails)
    stored = json.loads(describe(exc))
    assert "in fails" in stored["traceback"]
    assert stored["traceback"].endswith("ValueError: no\n")
    assert '"hunter2" ' not in stored["traceback"].replace('secret = "hunter2"', "")
    assert stored["kind"] == "error"


def raised_by(fn: Callable[[], None]) -> BaseException:
    try:
        fn()
    except BaseException as exc:  # noqa: BLE001 - the exception is under test
        return exc
    raise AssertionError


def test_causes_come_back_as_causes() -> None:
    def fails() -> None:
        try:
            try:
                raise KeyError("first")
            except KeyError:
                raise OSError(5, "second")  # noqa: B904 - no cause on purpose
        except OSError as problem:
            raise RuntimeError("third") from problem

    again = rebuild(describe(raised_by(fails)))
    assert type(again) is RuntimeError
    assert type(again.__cause__) is OSError
    assert type(again.__cause__.__context__) is KeyError
    failed = task_failed(describe(raised_by(fails)), "load")
    assert [cause.type for cause in failed.causes] == ["OSError", "KeyError"]
    assert str(failed) == "task 'load': RuntimeError: third"
    assert "in fails" in failed.traceback


def test_a_hidden_context_and_a_ring_of_causes_end() -> None:
    def hides() -> None:
        try:
            raise KeyError("first")
        except KeyError:
            raise ValueError("second") from None

    assert json.loads(describe(raised_by(hides)))["causes"] == []
    one, two = ValueError(1), ValueError(2)
    one.__cause__, two.__cause__ = two, one
    assert len(json.loads(describe(one))["causes"]) == 1


def test_storing_a_replayed_failure_again_keeps_where_it_came_from() -> None:
    def fails() -> None:
        raise ValueError("original")

    again = rebuild(describe(raised_by(fails)))

    def once_more() -> None:
        raise again

    text = json.loads(describe(raised_by(once_more)))["traceback"]
    assert "in fails" in text
    assert "in once_more" in text


def test_a_task_failed_keeps_its_original_type() -> None:
    failed = rebuild(describe(raised(lambda: type("Made", (Exception,), {})("x"))))
    again = rebuild(describe(raised(lambda: failed)))
    assert isinstance(again, bide.TaskFailed)
    assert isinstance(failed, bide.TaskFailed)
    assert (again.type, again.message) == (failed.type, "x")


def test_any_exception_can_be_described() -> None:
    class Rude(Exception):
        def __str__(self) -> str:
            raise RuntimeError

    assert "printable" in json.loads(describe(raised(Rude)))["message"]
    strange = ValueError("x")
    strange.__notes__ = 7  # type: ignore[assignment]
    assert json.loads(describe(raised(lambda: strange)))["notes"] == []


def test_long_texts_are_cut_in_the_middle() -> None:
    def deep(left: int) -> None:
        if left == 0:
            raise ValueError("é" * LIMIT)
        scope: dict[str, Any] = {}
        exec(compile(f"def f{left}(g): g()", f"<{left}>" * 20, "exec"), scope)  # noqa: S102 - one line each
        scope[f"f{left}"](lambda: deep(left - 1))

    sys.setrecursionlimit(max(sys.getrecursionlimit(), 3000))
    exc = raised_by(lambda: deep(300))
    stored = json.loads(describe(exc))
    assert LIMIT * 0.9 < len(stored["traceback"].encode()) <= LIMIT
    assert stored["traceback"].startswith("Traceback")
    assert "cut" in stored["traceback"]
    long = json.loads(describe(ValueError("é" * LIMIT)))
    assert len(long["message"].encode()) <= LIMIT
    assert "args" not in long


@pytest.mark.parametrize(
    ("exc", "expected"),
    [
        (bide.Skip("x"), "skip"),
        (bide.Cancelled(), "cancelled"),
        (bide.Suspended(), "suspended"),
        (bide.WaitTimeout(), "wait_timeout"),
        (bide.TaskTimeout(), "task_timeout"),
        (bide.SerializationError(), "serialization"),
        (bide.ReplayMismatch(), "replay_mismatch"),
        (ValueError(), "error"),
        (TimeoutError(), "error"),
        (SystemExit(), "exit"),
    ],
)
def test_the_kind_says_what_it_means_to_the_run(exc: BaseException, expected: str) -> None:
    assert kind(exc) == expected
    assert json.loads(describe(exc))["kind"] == expected


def test_run_failed_carries_the_rest() -> None:
    exc = failure()
    assert exc.result.tasks["load"].status is bide.TaskStatus.Failed
    assert list(exc.errors) == ["load"]
    again = bide.RunFailed("run failed", result=exc.result, errors=exc.errors)
    assert (again.result, again.errors) == (exc.result, exc.errors)
    assert bide.Skip("why").reason == "why"
    assert bide.Skip().reason == ""
