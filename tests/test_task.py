"""`@task`: a plain function stays a plain function."""

import asyncio
import doctest
import functools
import inspect
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import bide
from bide._task import as_task


def plain(x: int) -> int:
    """Add one.

    >>> plain(1)
    2
    """
    return x + 1


decorated = bide.task(plain)


class Service:
    """A class with tasks as methods."""

    def __init__(self, name: str) -> None:
        self.name = name

    @bide.task(name="greet")
    def greet(self, who: str) -> str:
        return f"{self.name} greets {who}"

    def plain(self, who: str) -> str:
        return f"{self.name} and {who}"


def test_the_same_function_comes_back() -> None:
    assert decorated is plain
    assert decorated(1) == 2
    assert pickle.loads(pickle.dumps(plain)) is plain  # noqa: S301 - our own
    example = doctest.DocTestFinder().find(plain, "plain", globs={"plain": plain})
    assert doctest.DocTestRunner().run(example[0]) == (0, 1)
    assert list(inspect.signature(plain).parameters) == ["x"]
    assert as_task(plain).name == "plain"
    assert as_task(plain).fn is plain


def test_settings_are_kept() -> None:
    gate = bide.after(3)

    @bide.task(name="n", depends_on=["a", decorated], retry=bide.Retry(attempts=2), timeout=5, gate=gate, run_if="done")
    def body() -> None: ...

    one = as_task(body)
    assert (one.name, one.depends_on, one.timeout, one.gate, one.run_if) == ("n", ("a", "plain"), 5.0, gate, "done")
    assert one.retry == bide.Retry(attempts=2)


def test_one_dependency_may_stand_alone() -> None:
    assert as_task(bide.task(lambda: 1, name="x", depends_on="load")).depends_on == ("load",)
    assert as_task(bide.task(lambda: 1, name="x", depends_on=plain)).depends_on == ("plain",)


def test_a_callable_without_attributes_is_wrapped() -> None:
    service = Service("Ann")
    for original, args, expected in (
        (service.plain, ("Bo",), "Ann and Bo"),
        (len, ("abc",), 3),
        (Path("/").exists, (), True),
    ):
        wrapped = bide.task(original, name="wrapped")
        assert wrapped is not original
        assert wrapped(*args) == expected
        assert as_task(wrapped).fn is original


def test_one_function_may_be_two_tasks() -> None:
    def body() -> int:
        return 7

    first = bide.task(body)
    second = bide.task(body, name="second")
    assert first is body
    assert second is not body
    assert second() == 7
    assert (as_task(first).name, as_task(second).name) == ("body", "second")
    assert as_task(second).fn is body


def test_a_decorator_around_a_task_is_not_left_out() -> None:
    @bide.task(retry=bide.Retry(attempts=2))
    def inner() -> int:
        return 1

    @functools.wraps(inner)
    def outer() -> int:
        return inner() + 1

    one = as_task(outer)
    assert one.fn is outer
    assert (one.name, one.retry) == ("inner", bide.Retry(attempts=2))
    again = bide.task(outer, name="again")
    assert again is outer
    assert (as_task(outer).name, as_task(inner).name) == ("again", "inner")


def test_a_method_is_a_task_of_its_object() -> None:
    ann = Service("Ann")
    one = as_task(ann.greet)
    assert one.name == "greet"
    assert one.fn("Bo") == "Ann greets Bo"
    assert Service("Cy").greet("Bo") == "Cy greets Bo"


def test_a_coroutine_function_stays_one_to_others() -> None:
    async def body() -> None: ...

    assert bide.task(body) is body
    assert asyncio.iscoroutinefunction(body)


class Thing:
    def __call__(self) -> int:
        return 3


def generator() -> Any:
    yield 1


async def async_generator() -> Any:
    yield 1


BAD: list[tuple[Callable[[], Any], type[Exception], str]] = [
    (lambda: bide.task(3), bide.DefinitionError, "a task must be callable, not 3"),  # type: ignore[call-overload]
    (lambda: bide.task(lambda: 1), bide.DefinitionError, "is a lambda: give it a name"),
    (lambda: bide.task(functools.partial(plain, 1)), bide.DefinitionError, "is a partial: give it a name"),
    (lambda: bide.task(Service("a").plain), bide.DefinitionError, "is a bound method: give it a name"),
    (lambda: bide.task(Thing()), bide.DefinitionError, "is an object without __name__: give it a name"),
    (lambda: bide.task(plain, name=""), bide.DefinitionError, "must have a name that is not empty, not ''"),
    (lambda: bide.task(plain, name="  "), bide.DefinitionError, "not empty"),
    (lambda: bide.task(plain, name=3), bide.DefinitionError, "not 3"),  # type: ignore[call-overload]
    (lambda: bide.task(plain, name="\ud800"), bide.DefinitionError, "lone surrogate"),
    (lambda: bide.task(plain, name="context"), bide.DefinitionError, "a task cannot be named 'context'"),
    (lambda: bide.task(plain, name="ctx"), bide.DefinitionError, "receives the Context"),
    (lambda: bide.task(plain, name="handle"), bide.DefinitionError, "receives the handle"),
    (lambda: bide.task(plain, name="task_handle"), bide.DefinitionError, "cannot be named 'task_handle'"),
    (lambda: bide.task(plain, name="p", retry=3), bide.DefinitionError, "task 'p': retry must be a bide.Retry"),  # type: ignore[call-overload]
    (lambda: bide.task(plain, name="p", timeout=0), bide.DefinitionError, "task 'p': timeout must be positive, not 0"),
    (
        lambda: bide.task(plain, name="p", gate=plain),  # type: ignore[call-overload]
        bide.DefinitionError,
        "task 'p': gate must be a wait, such",
    ),
    (lambda: bide.task(plain, name="p", run_if="always"), bide.DefinitionError, "task 'p': run_if must be one of"),
    (lambda: bide.task(plain, name="p", depends_on=[3]), bide.DefinitionError, "task 'p': depends_on takes names"),  # type: ignore[list-item]
    (lambda: bide.task(plain, name="p", depends_on=3), bide.DefinitionError, "task 'p': depends_on takes names"),  # type: ignore[call-overload]
    (lambda: bide.task(generator), bide.DefinitionError, "task 'generator' is a generator function"),
    (lambda: bide.task(async_generator), bide.DefinitionError, "is a generator function"),
    (lambda: bide.task(plain, name="p", tolerate=-1), bide.DefinitionError, "task 'p': tolerate must be a count"),
]


@pytest.mark.parametrize(("make", "error", "message"), BAD)
def test_bad_definitions_are_refused_at_once(make: Callable[[], Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error) as caught:
        make()
    assert message in str(caught.value)
    assert type(caught.value) is error


def test_partials_and_objects_with_a_name_are_tasks() -> None:
    partial = functools.partial(plain, 1)
    assert bide.task(partial, name="p") is partial
    assert as_task(partial).fn() == 2
    thing = Thing()
    assert bide.task(thing, name="c") is thing
    assert as_task(thing).fn() == 3


# --- methods -------------------------------------------------------------------------------------------------------

RETRY = bide.Retry(attempts=3, delay=0)


class Forward:
    """A decorator class that returns another object when it is read from a class."""

    def __init__(self, fn: Callable[..., Any]) -> None:
        functools.update_wrapper(self, fn)
        self.fn = fn

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.fn(*args, **kwargs)

    def __get__(self, obj: object, owner: type | None = None) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            return self.fn(*args, **kwargs)

        call.__name__ = self.fn.__name__
        return call


class Jobs:
    """Tasks in a class, with the decorators in either order."""

    tried = 0

    @bide.task(retry=RETRY, timeout=5)
    @staticmethod
    def above_static() -> int:
        return flaky()

    @staticmethod
    @bide.task(retry=RETRY, timeout=5)
    def below_static() -> int:
        return flaky()

    @bide.task(retry=RETRY, timeout=5)
    @classmethod
    def above_class(cls) -> int:
        assert cls is Jobs
        return flaky()

    @classmethod
    @bide.task(retry=RETRY, timeout=5)
    def below_class(cls) -> int:
        assert cls is Jobs
        return flaky()

    @bide.task(retry=RETRY, timeout=5)
    @functools.cache
    @staticmethod
    def above_cache() -> int:
        return flaky()

    @bide.task(name="twice", timeout=3)
    @bide.task(retry=RETRY, timeout=5)
    @staticmethod
    def two_tasks() -> int:
        return 1

    @bide.task(depends_on=[above_static, above_class], retry=RETRY, timeout=5)
    @staticmethod
    def last() -> int:
        return flaky()

    workflow_in_class = bide.Workflow("in class", [above_static])


def flaky() -> int:
    Jobs.tried += 1
    if Jobs.tried < 3:
        raise OSError("flaky")
    return Jobs.tried


@pytest.mark.parametrize("name", ["above_static", "below_static", "above_class", "below_class", "above_cache"])
def test_a_method_keeps_its_settings_in_any_order_of_its_decorators(name: str) -> None:
    method = getattr(Jobs, name)
    definition = as_task(method)
    assert (definition.name, definition.retry, definition.timeout) == (name, RETRY, 5.0)
    Jobs.tried = 0
    with bide.Runner(":memory:") as runner:
        assert runner.run(bide.Workflow("w", [method]))[name] == 3
        if name != "above_cache":  # a cache binds the object that it is read from
            Jobs.tried = 0
            assert runner.run(bide.Workflow("w", [getattr(Jobs(), name)]))[name] == 3
    Jobs.tried = 7
    assert method() == 3 if name == "above_cache" else method() == 8


def test_static_methods_within_their_class_are_tasks() -> None:
    Jobs.tried = 5
    with bide.Runner(":memory:") as runner:
        assert runner.run(Jobs.workflow_in_class)["above_static"] == 6
    workflow = bide.Workflow("w", [Jobs.above_static, Jobs.above_class, Jobs.last])
    assert as_task(Jobs.last).depends_on == ("above_static", "above_class")
    assert set(workflow.tasks) == {"above_static", "above_class", "last"}
    assert (as_task(Jobs.two_tasks).name, as_task(Jobs.two_tasks).timeout) == ("twice", 3.0)


@pytest.mark.parametrize(
    "made",
    [property(plain), functools.cached_property(plain), functools.partialmethod(plain), Forward(plain)],
    ids=lambda made: type(made).__name__,
)
def test_a_wrapper_that_would_lose_the_settings_is_refused(made: Any) -> None:
    with pytest.raises(bide.DefinitionError, match=r"put @bide\.task below"):
        bide.task(retry=RETRY)(made)
