"""A failure raised again from the journal is complete or a `TaskFailed`: tested over families of classes."""

import contextlib
import copy
import itertools
import json
import pickle
import sys
import types
from collections.abc import Callable
from typing import Any, ClassVar

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import bide
from bide._error_state import LIMIT
from bide._stored_errors import describe, describe_end, rebuild, task_failed
from conftest import shown
from failing_runs import failure

PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=5,
)
NOT_PLAIN = st.sampled_from(
    [
        b"bytes",
        (1, 2),
        {1},
        1j,
        float("nan"),
        float("inf"),
        "\ud800",
        {1: 2},
        object(),
        types.SimpleNamespace(status=503),
        10**700,
        type("Text", (str,), {})("x"),
    ]
)
ANY = st.one_of(PLAIN, PLAIN, NOT_PLAIN)
BASES: list[tuple[type[Exception], ...]] = [
    (Exception,),
    (ValueError,),
    (KeyError,),
    (OSError,),
    (FileNotFoundError,),
    (TimeoutError,),
    (ImportError,),
    (AttributeError,),
    (NameError,),
    (StopIteration,),
    (UnicodeError,),
    (LookupError, ValueError),
    (bide.BideError,),
    (bide.WaitTimeout,),
]
SEEN_TOO = {"__suppress_context__", "__cause__", "__context__", "__dict__"}
MEMBERS = ("errno", "strerror", "filename", "filename2", "name", "path", "obj", "value", "msg", "name_from")
HERE = sys.modules[__name__]
numbers = itertools.count()


def init_of_its_own(self: Exception, *args: object, **attributes: object) -> None:
    if args:
        Exception.__init__(self, f"{len(args)} of them")
    for name, value in attributes.items():
        object.__setattr__(self, name, value)


def no_assignment(self: Exception, name: str, value: object) -> None:
    raise AttributeError(name)


def text_of_its_own(self: Exception) -> str:
    return f"{type(self).__qualname__} {vars(self)} {self.args}"


# What a class may define itself, and how often.
OWN: list[tuple[str, Any, int]] = [
    ("__init__", init_of_its_own, 2),
    ("__str__", text_of_its_own, 2),
    ("code_text", property(lambda self: f"<{getattr(self, 'code', None)!r}>"), 2),
    ("__setattr__", no_assignment, 6),
    ("__new__", lambda cls, *args, **_: cls.__mro__[1].__new__(cls, *args), 6),
    ("__reduce__", lambda self: (str, ("x",)), 6),
    ("__bide_rebuild__", False, 8),
]


def make_class(draw: Callable[[st.SearchStrategy[Any]], Any]) -> type[Exception]:
    """Build one class of the family, importable under its name in this module."""
    names: dict[str, Any] = {"__module__": __name__, "__qualname__": f"Made{next(numbers)}"}
    bases = draw(st.sampled_from(BASES))
    slots = draw(st.sampled_from([None, ("code",), ("code", "extra")]))
    if slots and len(bases) == 1:
        names["__slots__"] = slots
    names |= {name: value for name, value, rare in OWN if draw(st.integers(1, rare)) == 1}
    cls = type(names["__qualname__"], bases, names)
    if draw(st.integers(0, 7)) > 0:
        setattr(HERE, names["__qualname__"], cls)
    return cls


@st.composite
def exceptions(draw: Callable[[st.SearchStrategy[Any]], Any]) -> Exception:
    cls = make_class(draw) if draw(st.integers(0, 3)) else draw(st.sampled_from(BASES))[0]
    args = draw(st.lists(ANY, max_size=3))
    try:
        exc = cls(*args)
    except TypeError:  # its own arguments
        exc = cls()
    for name in draw(st.lists(st.sampled_from([*MEMBERS, "code", "extra", "free", "__odd__"]), max_size=3)):
        with contextlib.suppress(AttributeError, TypeError):
            object.__setattr__(exc, name, draw(ANY))
    for note in draw(st.lists(st.text(max_size=5) | st.just("\ud800") | st.just("n" * (LIMIT + 1)), max_size=2)):
        vars(exc).setdefault("__notes__", []).append(note)
    if draw(st.booleans()):
        object.__setattr__(exc, "__suppress_context__", True)
    return exc


def everything(exc: BaseException) -> dict[str, Any]:
    """Everything visible of an exception except its frames."""
    seen: dict[str, Any] = {"str": str(exc), "type": type(exc), "args": exc.args}
    seen |= vars(exc)
    for name in dir(type(exc)):
        if name.startswith("__") and name not in SEEN_TOO:
            continue
        with contextlib.suppress(Exception):
            value = getattr(exc, name)
            if not callable(value):
                seen[name] = value
    return seen


def raised(exc: BaseException) -> BaseException:
    try:
        raise exc
    except BaseException as caught:  # noqa: BLE001 - the exception is under test
        return caught


@settings(max_examples=600, deadline=None)
@given(exceptions())
def test_a_failure_comes_back_complete_or_as_a_task_failed(exc: Exception) -> None:
    before, text = everything(exc), str(exc)
    again = rebuild(describe(raised(exc)))
    if type(again) is bide.TaskFailed:
        assert again.type == type(exc).__qualname__ or again.type.endswith(f".{type(exc).__qualname__}")
        return
    assert type(again) is type(exc)
    assert repr(everything(again)) == repr(before)  # so that 1, 1.0 and True are three values
    assert str(again) == text


@settings(max_examples=200, deadline=None)
@given(exceptions())
def test_a_failure_that_is_only_shown_has_neither_arguments_nor_attributes(exc: Exception) -> None:
    stored = json.loads(describe_end(raised(exc)))
    assert not stored.keys() & {"args", "state", "members"}
    assert type(rebuild(describe_end(exc))) is bide.TaskFailed


class Plain(Exception):
    """An exception with an attribute."""

    def __init__(self, message: str, *, status: object = None) -> None:
        super().__init__(message)
        self.status = status


class OptedOut(Plain):
    """An exception whose attributes cannot be stored."""

    __bide_rebuild__ = False


class OptedIn(OptedOut):
    """An exception that reverts its parent's choice."""

    __bide_rebuild__ = True


class Slotted(Exception):
    """An exception with its state in slots."""

    __slots__ = ("code", "free")

    def __init__(self, code: object) -> None:
        super().__init__("slotted")
        self.code = code


class Computed(Exception):
    """An exception whose arguments, cause and message are computed."""

    args = property(lambda self: ("computed",))

    def __init__(self) -> None:
        super().__init__("given")


class Counted(Exception):
    """An exception whose text depends on outside state."""

    seen: ClassVar[dict[int, int]] = {}

    def __init__(self) -> None:
        super().__init__()
        self.seen[id(self)] = len(self.seen) + 1

    def __str__(self) -> str:
        return f"number {self.seen.get(id(self), 0)}"


def raise_name_error() -> None:
    undefined_here  # type: ignore[name-defined] # noqa: B018, F821 # pyright: ignore[reportUndefinedVariable, reportUnusedExpression]


def caught(fn: Callable[[], object]) -> Exception:
    try:
        fn()
    except Exception as exc:  # noqa: BLE001 - the exception is under test
        return exc
    raise AssertionError


@pytest.mark.parametrize(
    ("make", "complete"),
    [
        (lambda: Plain("down", status=503), True),
        (lambda: Plain("down", status={"a": [1, None]}), True),
        (lambda: Plain("down", status=types.SimpleNamespace(status=503)), False),
        (lambda: Plain("down", status=(1, 2)), False),
        (lambda: OptedOut("down", status=503), False),
        (lambda: OptedIn("down", status=503), True),
        (lambda: Slotted(7), True),
        (lambda: Slotted(object()), False),
        (Computed, True),
        (Counted, False),
        (type("ValueError", (Exception,), {"__module__": "builtins"}), False),
        (lambda: caught(raise_name_error), True),
        (lambda: caught(lambda: getattr(None, "nothing")), True),  # noqa: B009
        (lambda: caught(lambda: getattr(object(), "nothing")), False),  # noqa: B009
        (lambda: caught(lambda: __import__("no_such_module")), True),
        (lambda: caught(lambda: open("/no/such/file")), True),  # noqa: PTH123, SIM115 - fails
        (lambda: caught(lambda: vars(bide)["k"]), True),
        (lambda: caught(lambda: "é".encode("ascii")), True),
        (lambda: caught(lambda: compile("(", "f", "exec")), False),
        (lambda: caught(lambda: json.loads("{")), True),
        (lambda: StopIteration(5), True),
        (lambda: ExceptionGroup("several", [ValueError(1)]), False),
        (lambda: bide.Skip("why"), True),
        (failure, False),
    ],
)
def test_which_failures_come_back_the_same(make: Callable[[], Exception], complete: bool) -> None:
    exc = make()
    before = everything(exc)
    again = rebuild(describe(raised(exc)))
    if complete:
        assert type(again) is type(exc)
        assert repr(everything(again)) == repr(before)
    else:
        assert type(again) is bide.TaskFailed
        assert again.message == str(exc)


def test_nothing_is_stored_of_a_class_that_is_not_rebuilt() -> None:
    hidden = "s3cret"
    for exc in (
        OptedOut("denied", status=hidden),
        OptedOut("denied", status=[hidden]),
        Plain("denied", status=(hidden,)),
    ):
        assert hidden not in describe(raised(exc)).decode()


def test_a_chain_that_is_too_long_is_not_rebuilt_with_a_part_of_it() -> None:
    exc: BaseException = ValueError(0)
    for number in range(1, 12):
        later = ValueError(number)
        later.__cause__, exc = exc, later
    again = rebuild(describe(exc))
    assert type(again) is bide.TaskFailed
    assert [cause.message for cause in again.causes] == [str(number) for number in range(10, 2, -1)]


def test_a_hidden_context_stays_hidden() -> None:
    def hides() -> None:
        try:
            raise KeyError("first")
        except KeyError:
            raise ValueError("second") from None

    again = rebuild(describe(caught(hides)))
    assert again.__suppress_context__
    assert again.__cause__ is None


def test_a_task_failed_keeps_its_task_and_causes_when_it_is_stored_again() -> None:
    def fails() -> None:
        raise OSError(5, "second") from KeyError("first")

    failed = task_failed(describe_end(caught(fails)), "load")
    again = rebuild(describe(raised(failed)))
    assert str(again) == str(failed) == "task 'load': OSError: [Errno 5] second"
    assert isinstance(again, bide.TaskFailed)
    assert [cause.type for cause in again.causes] == ["KeyError"]


# --- describing never fails ----------------------------------------------------------------------------------------

SPOILT = [
    "__str__",
    "__repr__",
    "__getattr__",
    "__getattribute__",
    "__setattr__",
    "__class__",
    "__dict__",
    "__notes__",
    "__cause__",
    "__context__",
    "__suppress_context__",
    "__traceback__",
    "__reduce__",
    "__reduce_ex__",
    "__eq__",
    "__hash__",
    "__format__",
    "__dir__",
    "__len__",
    "__bool__",
    "__iter__",
    "__instancecheck__",
    "args",
    "add_note",
    "with_traceback",
]
RAISED = [KeyError("k"), AttributeError("a"), RuntimeError("r"), SystemExit(3), KeyboardInterrupt(), RecursionError()]


DATA = {
    "__class__",
    "__dict__",
    "__notes__",
    "__cause__",
    "__context__",
    "__suppress_context__",
    "__traceback__",
    "args",
}


@pytest.mark.parametrize("name", SPOILT)
@pytest.mark.parametrize("problem", RAISED, ids=lambda problem: type(problem).__name__)
def test_describing_gives_type_message_and_traceback_for_any_error(name: str, problem: BaseException) -> None:
    def raises(*_: object, **__: object) -> object:
        raise problem

    value = property(raises) if name in DATA else raises
    cls = type("Spoilt", (ValueError,), {name: value, "__module__": __name__})

    def fails() -> None:
        raise cls("quota exceeded")

    exc: BaseException | None = None
    try:
        fails()
    except BaseException as caught:  # noqa: BLE001 - the exception is under test
        exc = caught
    assert exc is not None
    for stored in (describe(exc), describe_end(exc)):
        data = json.loads(stored)
        assert data["type"].endswith(".Spoilt")
        assert data["kind"] == "error"
        assert "in fails" in data["traceback"]
        if name != "__str__":
            assert data["message"] == "quota exceeded"
    assert isinstance(rebuild(describe(exc)), bide.TaskFailed)


ODD_VALUES: list[object] = [7, None, (), ("a",), ["a", 7], [b"x"], {"a": 1}, "text", object(), iter("ab"), [["a"]]]


@pytest.mark.parametrize("name", ["__notes__", "traceback", "causes", "__module__", "__qualname__", "type", "message"])
@pytest.mark.parametrize("value", ODD_VALUES, ids=shown)
@pytest.mark.parametrize("base", [ValueError, bide.TaskFailed])
def test_describing_does_with_attributes_of_any_type(name: str, value: object, base: type[Exception]) -> None:
    exc = base("text")
    exc.__dict__[name] = value
    assert isinstance(json.loads(describe(raised(exc)))["message"], str)
    assert json.loads(describe(exc))["traceback"]


class Meta(type):
    """A metaclass that raises on every access."""

    def __getattribute__(cls, name: str) -> Any:
        if name in {"__name__", "__qualname__", "__module__", "__mro__", "__dict__", "__bide_rebuild__"}:
            raise RuntimeError(name)
        return super().__getattribute__(name)


def test_describing_does_with_any_class() -> None:
    class Odd(Exception, metaclass=Meta):
        pass

    for cls in (Odd, type("no\nline", (Exception,), {"__module__": 7}), type("M", (Exception,), {"__module__": None})):
        stored = json.loads(describe(raised(cls("text"))))
        assert stored["message"] == "text"
        assert stored["traceback"]


def test_a_huge_attribute_costs_no_more_than_a_look() -> None:
    exc = Plain("x", status=[list(range(1000))] * 10_000)
    assert "args" not in json.loads(describe(raised(exc)))
    around: list[Any] = []
    around += [around] * 50
    assert "args" not in json.loads(describe(raised(Plain("x", status=around))))


def test_a_rebuilt_failure_can_be_copied_pickled_and_stored_again() -> None:
    again = rebuild(describe(raised(Plain("down", status=503))))
    for twin in (copy.copy(again), copy.deepcopy(again), pickle.loads(pickle.dumps(again))):  # noqa: S301 - our own
        assert type(twin) is Plain
        assert twin.__dict__ == {"status": 503}
    text = json.loads(describe(raised(again)))["traceback"]
    assert "Raised again from the journal" in text
    assert text.count("in raised") == 2
