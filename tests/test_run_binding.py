"""Where a body's arguments come from in a runner: specials, return values, inputs, defaults."""

import functools
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import pytest

import bide


def outputs(runner: bide.Runner, *tasks: Any, **inputs: Any) -> dict[str, Any]:
    return runner.run(bide.Workflow("w", tasks), inputs).outputs


@bide.task
def load(path: str) -> str:
    return path.upper()


def test_a_parameter_is_a_tasks_return_value_or_an_input_or_its_default(runner: bide.Runner) -> None:
    @bide.task
    def join(load: str, suffix: str, times: int = 2) -> str:
        return load + suffix * times

    assert outputs(runner, load, join, path="x", suffix="!")["join"] == "X!!"
    assert outputs(runner, load, join, path="x", suffix="!", times=3)["join"] == "X!!!"


def test_from_and_input_say_it_outright(runner: bide.Runner) -> None:
    @bide.task(name="load-data")
    def first(a: Annotated[str, bide.Input("where")]) -> str:
        return a + "1"

    @bide.task
    def second(got: Annotated[str, bide.From("load-data")], where: str) -> list[str]:
        return [got, where]

    assert outputs(runner, first, second, where="x")["second"] == ["x1", "x"]


def test_positional_only_keyword_only_and_keywords(runner: bide.Runner) -> None:
    @bide.task
    def mixed(path: str, /, load: str, *, flag: bool = True, **rest: Any) -> list[Any]:
        return [path, load, flag, rest]

    assert outputs(runner, load, mixed, path="x", flag=False)["mixed"] == ["x", "X", False, {}]


def test_context_and_handle_come_by_name_or_by_annotation(runner: bide.Runner) -> None:
    @bide.task
    def by_name(handle, ctx) -> list[bool]:  # type: ignore[no-untyped-def] # noqa: ANN001
        return [isinstance(handle, bide.TaskHandle), isinstance(ctx, bide.Context)]

    @bide.task
    def by_annotation(h: bide.TaskHandle, c: "bide.Context") -> list[bool]:
        return [isinstance(h, bide.TaskHandle), isinstance(c, bide.Context)]

    @bide.task
    def plain_inputs(context: str, handle: int) -> list[Any]:
        return [context, handle]

    assert outputs(runner, by_name, by_annotation) == {"by_name": [True, True], "by_annotation": [True, True]}
    assert outputs(runner, plain_inputs, context="x", handle=3) == {"plain_inputs": ["x", 3]}


class Service:
    def __init__(self, factor: int) -> None:
        self.factor = factor

    def scale(self, number: int) -> int:
        return number * self.factor

    def __call__(self, number: int) -> int:
        return number + self.factor


def test_methods_partials_lambdas_and_callable_objects_are_bodies(runner: bide.Runner) -> None:
    service = Service(10)
    tasks = [
        bide.task(service.scale, name="method"),
        bide.task(functools.partial(service.scale, 7), name="partial"),
        bide.task(service, name="object"),
        bide.task(lambda number: -number, name="lambda"),
        bide.task(wrapped, name="wrapped"),
    ]
    assert outputs(runner, *tasks, number=3) == {
        "method": 30,
        "partial": 70,
        "object": 13,
        "lambda": -3,
        "wrapped": 4,
    }


def plus_one(number: int) -> int:
    return number + 1


@functools.wraps(plus_one)
def wrapped(*args: Any, **kwargs: Any) -> Any:
    return plus_one(*args, **kwargs)


def test_depends_on_orders_without_passing_a_value(runner: bide.Runner) -> None:
    order: list[str] = []

    @bide.task
    def first() -> None:
        order.append("first")

    @bide.task(depends_on=[first, "load"])
    def second() -> None:
        order.append("second")

    assert outputs(runner, second, load, first, path="x")["second"] is None
    assert order == ["first", "second"]


@dataclass
class Order:
    customer: str
    amounts: list[float]
    file: Path


def test_a_reader_gets_the_value_by_its_own_annotation_else_by_the_writers(runner: bide.Runner) -> None:
    made: list[Order] = []

    @bide.task
    def make() -> Order:
        made.append(Order("Ada", [1.5], Path("x")))
        return made[0]

    @bide.task
    def plain(make) -> bool:  # type: ignore[no-untyped-def] # noqa: ANN001
        return isinstance(make, Order) and make == made[0] and make is not made[0]

    @bide.task
    def as_dict(make: dict[str, Any]) -> dict[str, Any]:
        return make

    result = outputs(runner, make, plain, as_dict)
    assert result["plain"] is True
    assert result["as_dict"] == {"customer": "Ada", "amounts": [1.5], "file": "x"}
    assert result["make"] == made[0]


def test_a_reader_whose_annotation_does_not_fit_fails_and_says_so(runner: bide.Runner) -> None:
    @bide.task
    def load() -> int | str:
        return "x"

    @bide.task
    def count(load: int) -> int:
        return load

    with pytest.raises(bide.RunFailed) as failed:
        outputs(runner, load, count)
    assert isinstance(failed.value.__cause__, bide.SerializationError)
    assert "'count'" in str(failed.value.__cause__)
    assert "'load'" in str(failed.value.__cause__)


def test_each_reader_has_a_copy_of_its_own(runner: bide.Runner) -> None:
    @bide.task
    def make() -> list[int]:
        return [1]

    @bide.task
    def spoils(make: list[int]) -> None:
        make.append(2)

    @bide.task(depends_on="spoils")
    def reads(make: list[int]) -> list[int]:
        return make

    assert outputs(runner, make, spoils, reads)["reads"] == [1]


def test_a_default_need_not_be_storable(runner: bide.Runner) -> None:
    marker = object()

    @bide.task
    def work(thing: Any = marker) -> bool:
        return thing is marker

    assert outputs(runner, work) == {"work": True}


def test_tasks_can_be_called_as_the_functions_they_are() -> None:
    assert load("x") == "X"
    assert load.__name__ == "load"


def test_the_same_task_serves_two_workflows(runner: bide.Runner) -> None:
    for name in ("one", "two"):
        assert runner.run(bide.Workflow(name, [load]), {"path": name})["load"] == name.upper()


def test_names_of_any_alphabet_are_data(runner: bide.Runner) -> None:
    names = ["naïve", "日本語", "a/b", "x y", "';--", "🦀", "\U000e0041"]
    tasks = [bide.task(lambda: 1, name=name) for name in names]
    result = runner.run(bide.Workflow("ワークフロー 🦀", tasks), key="clé 🔑")
    assert list(result) == names
    assert runner.get("clé 🔑").workflow == "ワークフロー 🦀"
