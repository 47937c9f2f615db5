"""Values through the store: a value comes back as it was given, before and after a crash, without loss."""

import math
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from decimal import Decimal
from enum import Enum
from pathlib import Path
from typing import Annotated, Any
from uuid import UUID

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import bide
from processes import killed, ran


class Colour(Enum):
    Red = "red"


@dataclass
class Item:
    name: str
    price: Decimal
    tags: set[str] = field(default_factory=set)
    at: datetime | None = None


CASES: list[tuple[Any, Any]] = [
    (None, None),
    (bool, True),
    (int, 2**200),
    (int, -(2**63)),
    (float, 1e300),
    (float, 5e-324),
    (float, -0.0),
    (float, 0.1),
    (str, "\0 \u2028 🦀"),
    (bytes, b"\x00\xff"),
    (list[int], [1, 2]),
    (tuple[int, str], (1, "x")),
    (set[int], {3, 1}),
    (frozenset[str], frozenset({"a"})),
    (dict[int, str], {1: "x"}),
    (Path, Path("a/b")),
    (Decimal, Decimal("1.10")),
    (UUID, UUID(int=7)),
    (date, date(2026, 11, 24)),
    (datetime, datetime(2026, 11, 24, 1, 2, 3, 4, tzinfo=UTC)),
    (Colour, Colour.Red),
    (Item, Item("x", Decimal("0.5"), {"b", "a"}, datetime(2026, 1, 1, tzinfo=UTC))),
    (list[Item], [Item("x", Decimal(1))]),
    (dict[str, Item | None], {"x": None}),
]


@pytest.mark.parametrize(("annotation", "value"), CASES, ids=lambda case: repr(case)[:40])
def test_a_value_comes_back_as_it_was_given_for_reader_caller_and_store(
    runner: bide.Runner, annotation: Any, value: Any
) -> None:
    seen: list[Any] = []

    def give() -> Any:
        return value

    give.__annotations__["return"] = annotation

    def take(give) -> None:  # type: ignore[no-untyped-def] # noqa: ANN001
        seen.append(give)

    workflow = bide.Workflow("w", [give, take])
    result = runner.run(workflow, key="k")
    for got in (seen[0], result["give"], runner.get("k")["give"]):
        assert got == value
        assert type(got) is type(value)
        assert math.copysign(1, got) == math.copysign(1, value) if isinstance(value, float) else True


@settings(max_examples=40)
@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
        lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
        max_leaves=10,
    ).filter(lambda value: "\\ud" not in ascii(value))
)
def test_any_json_value_comes_back_equal(value: Any) -> None:
    @bide.task
    def echo(thing: Any) -> Any:
        return thing

    with bide.Runner(":memory:") as runner:
        result = runner.run(bide.Workflow("w", [echo]), {"thing": value})
    assert repr(result["echo"]) == repr(value)


LOSSY: dict[str, tuple[Any, Any]] = {
    "a tuple": (Any, (1, 2)),
    "a set": (Any, {1}),
    "bytes": (Any, b"x"),
    "a Path": (Any, Path("x")),
    "integer keys": (Any, {1: 2}),
    "NaN": (float, math.nan),
    "infinity": (list[float], [math.inf]),
    "a subclass": (int, True),
    "an Enum": (Any, Colour.Red),
    "a naive guess": (list[str], [1]),
}


@pytest.mark.parametrize("case", LOSSY)
def test_a_value_that_would_come_back_changed_is_the_writers_error(runner: bide.Runner, case: str) -> None:
    annotation, value = LOSSY[case]

    def give() -> Any:
        return value

    give.__annotations__["return"] = annotation
    with pytest.raises(bide.RunFailed) as failed:
        runner.run(bide.Workflow("w", [give]))
    assert isinstance(failed.value.__cause__, bide.SerializationError)
    assert "'give'" in str(failed.value.__cause__)


CRASH = """
from dataclasses import dataclass
from decimal import Decimal

@dataclass
class Item:
    name: str
    price: Decimal
    files: list[Path]

@bide.task
def make() -> Item:
    note("make")
    return Item("x", Decimal("1.10"), [Path("a")])

@bide.task
def show(make: Item, handle: bide.TaskHandle) -> str:
    seen = [repr(make), repr(handle.step(step, 3)), repr(handle.defer_until(lambda: {"found": [1.5]}))]
    say(seen)
    if "stay" in words:
        say("stay")
        stay()
    return "|".join(seen)

def step(n: int) -> tuple[int, Path]:
    note("step")
    return (n, Path("s"))

with bide.Runner(db) as runner:
    say(runner.run(bide.Workflow("w", [make, show]), key="k")["show"])
"""


def test_before_and_after_a_crash_a_body_sees_the_same_values(file: Path) -> None:
    before = killed(CRASH, file, "stay", at="stay")[0]
    after = ran(CRASH, file)[0]
    assert before == after
    assert file.with_suffix(".ledger").read_text() == "make\nstep\n"


def test_a_value_that_is_nested_too_deeply_is_refused_in_few_words(runner: bide.Runner) -> None:
    @bide.task
    def give() -> Any:
        value: list[Any] = []
        for _ in range(10_000):
            value = [value]
        return value

    with pytest.raises(bide.RunFailed, match="'give'") as failed:
        runner.run(bide.Workflow("w", [give]))
    assert isinstance(failed.value.__cause__, bide.SerializationError)
    assert "nested too deeply" in str(failed.value.__cause__)
    assert len(str(failed.value.__cause__)) < 1000


def test_a_large_value_warns_and_a_huge_one_is_refused(runner: bide.Runner, caplog: pytest.LogCaptureFixture) -> None:
    @bide.task
    def large() -> str:
        return "x" * 1_100_000

    assert len(runner.run(bide.Workflow("w", [large]))["large"]) == 1_100_000
    assert any("'large'" in line and "path" in line for line in caplog.messages), caplog.messages

    @bide.task
    def huge() -> str:
        return "x" * (64 * 1024 * 1024 + 1)

    with pytest.raises(bide.RunFailed) as failed:
        runner.run(bide.Workflow("v", [huge]))
    assert isinstance(failed.value.__cause__, bide.SerializationError)
    assert "store a path" in str(failed.value.__cause__)


class Celsius:
    def __init__(self, degrees: float) -> None:
        self.degrees = degrees

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Celsius) and other.degrees == self.degrees

    def __hash__(self) -> int:
        return hash(self.degrees)


bide.codec(Celsius, lambda it: it.degrees, Celsius)


def test_a_registered_type_is_carried(runner: bide.Runner) -> None:
    @bide.task
    def measure(raw: float) -> Celsius:
        return Celsius(raw)

    @bide.task
    def read(measure: Celsius) -> list[Celsius]:
        return [measure]

    assert runner.run(bide.Workflow("w", [measure, read]), {"raw": 36.6})["read"] == [Celsius(36.6)]


def test_pickle_only_where_both_sides_say_so(runner: bide.Runner) -> None:
    @bide.task
    def give() -> Annotated[complex, bide.Pickle]:
        return 1 + 2j

    @bide.task
    def take(give: Annotated[complex, bide.Pickle]) -> str:
        return str(give)

    @bide.task
    def careless(give: complex) -> None: ...

    assert runner.run(bide.Workflow("w", [give, take]))["take"] == "(1+2j)"
    with pytest.raises(bide.DefinitionError, match="'careless'"):
        bide.Workflow("w", [give, careless])
