"""`submit_many` submits all or nothing: a refused key or input leaves nothing behind."""

import itertools
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import bide

ran: list[int] = []


@bide.task
def charge(x: int) -> int:
    ran.append(x)
    return x


workflow = bide.Workflow("charges", [charge])


@pytest.fixture
def runner(store: str) -> Iterator[bide.Runner]:
    """A runner with a run under the key "taken"."""
    ran.clear()
    with bide.Runner(store) as runner:
        runner.run(workflow, {"x": 0}, key="taken")
        yield runner


def refused(runner: bide.Runner, inputs: list[Any], keys: list[Any] | None, error: type[Exception]) -> str:
    """Return the error's message; check that nothing was submitted, executed or stored."""
    before, executed = [run.id for run in runner.runs()], list(ran)
    with pytest.raises(error) as raised:
        runner.submit_many(workflow, inputs, keys)
    assert [run.id for run in runner.runs()] == before
    assert runner.run(workflow, {"x": -1})["charge"] == -1  # everything submitted before has executed by now
    assert ran == [*executed, -1]
    return str(raised.value)


@pytest.mark.parametrize("at", range(4))
def test_a_key_that_belongs_to_other_inputs_is_named(runner: bide.Runner, at: int) -> None:
    inputs, keys = [{"x": n} for n in range(1, 5)], [None, "b", None, "d"]
    keys[at] = "taken"
    message = refused(runner, inputs, keys, bide.DefinitionError)
    taken = runner.get("taken")
    assert message == (
        f"keys[{at}]: key 'taken' of workflow 'charges' belongs to run {taken.id}, which has other inputs "
        "('x' differs): give this run another key. Nothing was submitted"
    )
    # The valid keys are still free.
    assert runner.run(workflow, {"x": 7}, key="b" if at != 1 else "d")["charge"] == 7


def test_a_key_given_twice_with_other_inputs_is_named(runner: bide.Runner) -> None:
    message = refused(runner, [{"x": 1}, {"x": 2}, {"x": 3}], ["k", None, "k"], bide.DefinitionError)
    assert "keys[2]: key 'k' of workflow 'charges' is also keys[0], with other inputs ('x' differs)" in message


@pytest.mark.parametrize("key", [3, b"k", "", "\ud800", 1.5, ["k"]])
def test_a_key_that_is_invalid_text_is_named(runner: bide.Runner, key: Any) -> None:
    message = refused(runner, [{"x": 1}, {"x": 2}], ["fine", key], bide.DefinitionError)
    assert "keys[1]" in message
    assert repr(key) in message


@pytest.mark.parametrize("inputs", [{"y": 1}, {}, {"x": "text"}, {"x": object()}, 3])
def test_inputs_that_are_refused_leave_nothing(runner: bide.Runner, inputs: Any) -> None:
    refused(runner, [{"x": 1}, inputs, {"x": 2}], ["a", "b", "c"], bide.BideError)


@pytest.mark.parametrize("given", [{"inputs": 3}, {"inputs": None}, {"keys": "kk"}, {"keys": 3}])
def test_an_argument_that_is_not_a_list_is_named(runner: bide.Runner, given: dict[str, Any]) -> None:
    ((what, value),) = given.items()
    message = refused(runner, given.get("inputs", [{"x": 1}, {"x": 2}]), given.get("keys"), bide.DefinitionError)
    assert f"submit_many takes a list of {what}, not {value!r}" in message


def test_an_iterator_that_raises_leaves_nothing(runner: bide.Runner) -> None:
    def fails(values: list[Any]) -> Iterator[Any]:
        yield from values
        raise ConnectionError

    for inputs, keys in ((fails([{"x": 1}]), None), ([{"x": 1}, {"x": 2}], fails(["a"]))):
        with pytest.raises(ConnectionError):
            runner.submit_many(workflow, inputs, keys)
    assert len(runner.runs()) == 1


def test_keys_that_exist_with_the_same_inputs_attach(runner: bide.Runner) -> None:
    handles = runner.submit_many(workflow, [{"x": 0}, {"x": 1}, {"x": 1}, {"x": 0}], ["taken", "new", "new", None])
    assert [handle.result()["charge"] for handle in handles] == [0, 1, 1, 0]
    assert handles[0].id == runner.get("taken").id
    assert handles[1].id == handles[2].id
    assert len(runner.runs()) == 3
    assert sorted(ran) == [0, 0, 1]


def test_one_run_alone_is_refused_in_the_same_way(runner: bide.Runner) -> None:
    assert refused(runner, [{"x": 9}], ["taken"], bide.DefinitionError).startswith("keys[0]: key 'taken'")
    with pytest.raises(bide.DefinitionError, match=r"^key 'taken' of workflow"):
        runner.submit(workflow, {"x": 9}, key="taken")


@pytest.fixture(scope="module")
def shared() -> Iterator[bide.Runner]:
    """One runner for all examples."""
    with bide.Runner(":memory:") as runner:
        yield runner


numbers = itertools.count()


@given(wanted=st.lists(st.tuples(st.sampled_from(["a", "b", "c", None]), st.integers(0, 1)), max_size=6))
def test_all_or_nothing_for_any_keys(shared: bide.Runner, wanted: list[tuple[str | None, int]]) -> None:
    workflow = bide.Workflow(f"charges {next(numbers)}", [charge])
    shared.run(workflow, {"x": 0}, key="a")
    keys, inputs = [key for key, _ in wanted], [{"x": x} for _, x in wanted]
    known: dict[str | None, int] = {"a": 0}
    if any(known.setdefault(key, x) != x for key, x in wanted if key is not None):
        with pytest.raises(bide.DefinitionError, match="Nothing was submitted"):
            shared.submit_many(workflow, inputs, keys)
        assert len(shared.runs(workflow=workflow)) == 1
    else:
        handles = shared.submit_many(workflow, inputs, keys)
        assert [handle.result()["charge"] for handle in handles] == [x for _, x in wanted]
        assert len(shared.runs(workflow=workflow)) == len(known) + keys.count(None)
