"""A condition is provably the same wait, or it is asked again: no false match."""

import functools
import json
import os
import subprocess
import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given

import bide
import conditions
from bide._fingerprint import SIZE, fingerprint, name_of
from conditions import PROVABLE, UNPROVABLE, Job, Mode, calling_local, capturing, defaulting
from test_codec import exactly, json_values


def digest(condition: Callable[..., Any]) -> bytes:
    found = fingerprint(condition)[1]
    assert found is not None
    return found


@pytest.mark.parametrize("name", PROVABLE)
def test_the_same_condition_made_twice_is_the_same(name: str) -> None:
    one, two = digest(PROVABLE[name]()), digest(PROVABLE[name]())
    assert one == two
    assert len(one) == SIZE


def test_no_two_different_conditions_are_the_same() -> None:
    digests = [digest(make()) for make in PROVABLE.values()]
    assert len(set(digests)) == len(digests)


@pytest.mark.parametrize("name", UNPROVABLE)
def test_a_value_that_cannot_be_encoded_is_never_proved(name: str) -> None:
    assert fingerprint(UNPROVABLE[name]())[1] is None


def test_another_process_computes_the_same() -> None:
    program = (
        "import conftest, json, conditions\n"
        "from bide._fingerprint import fingerprint\n"
        "found = {n: fingerprint(make()) for n, make in conditions.PROVABLE.items()}\n"
        "print(json.dumps({n: [name, digest.hex()] for n, (name, digest) in found.items()}))\n"
    )
    here = Path(__file__).parent
    expected = {name: [*fingerprint(make())[:1], digest(make()).hex()] for name, make in PROVABLE.items()}
    for seed in ("0", "1", "12345"):
        env = os.environ | {"PYTHONHASHSEED": seed, "PYTHONPATH": os.pathsep.join([str(here), *sys.path])}
        output = subprocess.run([sys.executable, "-c", program], env=env, check=True, capture_output=True).stdout
        assert json.loads(output) == expected


@given(json_values, json_values)
def test_a_captured_value_decides(one: object, two: object) -> None:
    for make in (capturing, defaulting, calling_local, lambda value: functools.partial(conditions.done, value)):
        same = digest(make(one)) == digest(make(two))
        assert same == exactly(one, two) or (one == two and same)


DIFFERENT: list[tuple[Callable[[], Any], Callable[[], Any]]] = [
    (lambda: Path("a").exists, lambda: Path("b").exists),
    (lambda: Path("a").exists, lambda: Path("a").is_file),
    (lambda: Job(1).done, lambda: Job(2).done),
    (lambda: Job(1), lambda: Job(2)),
    (lambda: capturing(1), lambda: capturing(True)),
    (lambda: capturing(1), lambda: capturing(1.0)),
    (lambda: capturing(0.0), lambda: capturing(-0.0)),
    (lambda: capturing((1,)), lambda: capturing([1])),
    (lambda: capturing("1"), lambda: capturing(b"1")),
    (lambda: capturing({"a": 1}), lambda: capturing({"a": 2})),
    (lambda: capturing({1}), lambda: capturing({2})),
    (lambda: capturing(range(3)), lambda: capturing(range(4))),
    (lambda: capturing(Mode.FAST), lambda: capturing(Mode.SLOW)),
    (lambda: capturing(Job), lambda: capturing(Mode)),
    (lambda: capturing(Path("a")), lambda: capturing("a")),
    (lambda: capturing([["a"], "b"]), lambda: capturing([["a", "b"]])),
    (lambda: capturing(bide.Context({"a": 1})), lambda: capturing(bide.Context({"a": 2}))),
    (lambda: "abc".isdigit, lambda: "abd".isdigit),
    (lambda: "abc".isdigit, lambda: "abc".isalpha),
    (lambda: functools.partial(conditions.done, 1), lambda: functools.partial(conditions.done, job=1)),
    (lambda: calling_local(1), lambda: calling_local(2)),
    (lambda: conditions.recursive(1), lambda: conditions.recursive(2)),
    (lambda: lambda: 1, lambda: lambda: 2),
    (lambda: lambda: [x + 1 for x in (1,)], lambda: lambda: [x + 2 for x in (1,)]),
    (lambda: lambda *, a=1: a, lambda: lambda *, a=2: a),
]


@pytest.mark.parametrize(("one", "two"), DIFFERENT)
def test_any_difference_counts(one: Callable[[], Any], two: Callable[[], Any]) -> None:
    assert digest(one()) != digest(two())


def with_globals(condition: types.FunctionType, **values: object) -> Any:
    """Return the same function in a module where these names have other values."""
    scope = condition.__globals__ | values
    return types.FunctionType(condition.__code__, scope, condition.__name__, condition.__defaults__)


def test_a_global_that_the_code_names_decides() -> None:
    condition: Any = conditions.uses_globals
    same = digest(with_globals(condition))
    assert digest(with_globals(condition, LIMIT=4)) != same
    assert digest(with_globals(condition, TABLE={"a": {1, 2, 4}, "b": conditions.TABLE["b"]})) != same
    assert digest(with_globals(condition, done=conditions.ready)) != same
    assert digest(with_globals(condition, os=sys)) != same
    assert digest(with_globals(condition, Path=Job)) != same
    assert digest(with_globals(condition, not_named=1)) == same
    assert fingerprint(with_globals(condition, LIMIT=conditions.Opaque()))[1] is None


def test_a_global_that_only_nested_code_names_decides() -> None:
    condition: Any = conditions.uses_globals_within
    assert digest(with_globals(condition, LIMIT=4)) != digest(with_globals(condition, LIMIT=3))


def test_a_global_lambda_is_looked_into() -> None:
    condition: Any = conditions.uses_globals
    one = digest(with_globals(condition, done=lambda job: job))
    assert one != digest(with_globals(condition, done=lambda job: not job))


def test_a_condition_may_move_to_another_line() -> None:
    scopes: list[dict[str, Any]] = [{}, {}]
    exec("def f():\n    return 1 + g()\ndef g(): return 1", scopes[0])  # noqa: S102 - test data
    exec("\n\n# moved\ndef f():\n    return 1 + g()\ndef g(): return 1", scopes[1])  # noqa: S102 - test data
    assert digest(scopes[0]["f"]) == digest(scopes[1]["f"])


def test_a_captured_handle_does_not_prevent_a_match() -> None:
    digests = []

    @bide.task
    def work(handle: bide.TaskHandle) -> None:
        digests.append(digest(capturing(handle)))

    workflow = bide.Workflow("captures", [work])
    with bide.Runner(":memory:") as runner:
        runner.run(workflow)
        runner.run(workflow)
    assert digests[0] == digests[1]


def test_a_value_that_refers_to_itself_has_an_end() -> None:
    ring: list[Any] = [1]
    ring.append(ring)
    other: list[Any] = [1]
    other.append([1, other])
    assert digest(capturing(ring)) == digest(capturing(ring))
    assert digest(capturing(ring)) != digest(capturing([1, [1]]))


@pytest.mark.parametrize(
    ("condition", "name"),
    [
        (Path("a").exists, "Path.exists"),
        (conditions.ready, "ready"),
        (capturing(1), "capturing.<locals>.<lambda>"),
        (functools.partial(functools.partial(conditions.done, 1)), "done"),
        (functools.partial(Job(1).done, 3), "Job.done"),
        (Job(1), "Job"),
        ("abc".isdigit, "str.isdigit"),
        (len, "len"),
        (dict, "dict"),
        (functools.lru_cache(conditions.ready), "ready"),
    ],
)
def test_the_journal_name_is_readable_and_has_no_address(condition: Callable[..., Any], name: str) -> None:
    found = name_of(condition)
    assert found.replace("PathBase.", "Path.") == name
    assert "0x" not in found
