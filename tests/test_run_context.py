"""The Context in a runner: what a body changes, which tasks see it, and how changes merge."""

import logging
import threading
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import bide
from processes import eventually, killed, ran


def test_roots_start_from_the_inputs_and_changes_workflow_down(runner: bide.Runner) -> None:
    @bide.task
    def first(context: bide.Context) -> dict[str, Any]:
        before = context.to_dict()
        context["count"] = 1
        context.insert("new", [1])
        context.remove("gone")
        return before

    @bide.task(depends_on="first")
    def second(context: bide.Context) -> dict[str, Any]:
        context.update("count", context["count"] + 1)
        return context.to_dict()

    result = runner.run(bide.Workflow("w", [first, second]), {"start": "x", "gone": 1})
    assert result["first"] == {"start": "x", "gone": 1}
    assert result["second"] == {"start": "x", "count": 2, "new": [1]}
    assert result.context.to_dict() == {"start": "x", "count": 2, "new": [1]}


def test_a_change_in_place_counts_for_any_return_of_the_body(runner: bide.Runner) -> None:
    @bide.task
    def first(context: bide.Context) -> None:
        context["items"] = [1]

    @bide.task(depends_on="first")
    def second(context: bide.Context) -> None:
        context["items"].append({"deep": []})
        context["items"][1]["deep"].append(2)

    assert runner.run(bide.Workflow("w", [first, second])).context["items"] == [1, {"deep": [2]}]


def test_a_body_sees_only_the_changes_of_its_ancestors(runner: bide.Runner) -> None:
    @bide.task
    def left(context: bide.Context) -> None:
        context["left"] = 1

    @bide.task
    def right(context: bide.Context) -> None:
        context["right"] = 1

    @bide.task(depends_on="left")
    def below_left(context: bide.Context) -> list[str]:
        return sorted(context)

    @bide.task(depends_on=["below_left", "right"])
    def bottom(context: bide.Context) -> list[str]:
        return sorted(context)

    result = runner.run(bide.Workflow("w", [left, right, below_left, bottom]))
    assert result["below_left"] == ["left"]
    assert result["bottom"] == ["left", "right"]


def diamond(change: Any, other: Any) -> bide.Workflow:
    """Two concurrent changes of the key "k", made in an order that would show which task ended last."""
    late = threading.Event()

    @bide.task
    def top(context: bide.Context) -> None:
        context["k"] = {"base": 0}
        context["list"] = [0]

    @bide.task(depends_on="top")
    def left(context: bide.Context) -> None:
        late.wait(30)
        change(context)

    @bide.task(depends_on="top")
    def right(context: bide.Context) -> None:
        other(context)
        late.set()

    @bide.task(depends_on=["left", "right"])
    def bottom(context: bide.Context) -> dict[str, Any]:
        return context.to_dict()

    return bide.Workflow("diamond", [top, left, right, bottom])


def test_concurrent_changes_of_maps_merge_by_key(runner: bide.Runner) -> None:
    result = runner.run(diamond(lambda c: c["k"].update(left=1), lambda c: c["k"].update(right=2)))
    assert result["bottom"]["k"] == {"base": 0, "left": 1, "right": 2}


def test_two_pure_appends_concatenate_in_declaration_order(runner: bide.Runner) -> None:
    result = runner.run(diamond(lambda c: c["list"].append("left"), lambda c: c["list"].append("right")))
    assert result["bottom"]["list"] == [0, "left", "right"]


def test_otherwise_the_later_declared_wins_with_a_warning_that_names_both(
    runner: bide.Runner, caplog: pytest.LogCaptureFixture
) -> None:
    def set_to(value: int) -> Any:
        return lambda context: context.set("k", value)

    with caplog.at_level(logging.WARNING, "bide"):
        result = runner.run(diamond(set_to(1), set_to(2)))
        eventually(lambda: caplog.records, "the conflict is reported")
    assert result["bottom"]["k"] == 2  # right ended first, but left is declared before it
    warnings = [record.getMessage() for record in caplog.records if record.name == "bide"]
    assert any("left" in line and "right" in line and "k" in line for line in warnings)


@pytest.mark.parametrize("readers", [0, 1, 2])
def test_a_conflict_is_warned_of_once_when_seen_or_at_the_end(
    runner: bide.Runner, caplog: pytest.LogCaptureFixture, readers: int
) -> None:
    def changing(name: str, value: object, depends_on: list[str]) -> Any:
        def body(context: bide.Context) -> None:
            if value is None:
                context["seen by " + name] = context["k"]
            else:
                context["k"] = value

        return bide.task(body, name=name, depends_on=depends_on)

    leaves = [changing("left", 1, []), changing("right", 2, [])]
    workflow = bide.Workflow("w", leaves + [changing(f"reader{n}", None, ["left", "right"]) for n in range(readers)])
    with caplog.at_level(logging.WARNING, "bide"):
        result = runner.run(workflow)
        assert [result.context["k"] for _ in range(3)] == [2, 2, 2]
        eventually(lambda: caplog.records, "the conflict is reported")
        runner.close()
    warnings = [record.getMessage() for record in caplog.records if record.name == "bide"]
    assert len(warnings) == 1
    assert warnings[0].startswith("tasks 'left' and 'right' of workflow 'w' both changed 'k' of the context")


@pytest.mark.parametrize("value", [1, [1], {"a": [1, {"b": 2}]}])
def test_leaves_that_agree_are_no_conflict(
    runner: bide.Runner, caplog: pytest.LogCaptureFixture, value: object
) -> None:
    def body(context: bide.Context) -> None:
        context["k"] = {"same": value}

    with caplog.at_level(logging.WARNING, "bide"):
        runner.run(bide.Workflow("w", [bide.task(body, name="left"), bide.task(body, name="right")]))
        runner.close()
    assert not [record for record in caplog.records if record.name == "bide"]


PRIVATE = ("$serde_json::private::Number", "$serde_json::private::RawValue")


@settings(max_examples=20, deadline=None)
@given(
    st.dictionaries(
        st.sampled_from([*PRIVATE, "a", "b", "", "é\n"]),
        st.recursive(
            st.none() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.sampled_from(["12", "é"]),
            lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from([*PRIVATE, "x"]), inner),
            max_leaves=6,
        ),
    )
)
def test_a_dict_with_any_keys_survives_a_merge(start: dict[str, Any]) -> None:
    def side(name: str) -> Any:
        def body(context: bide.Context) -> None:
            context["k"][name] = {PRIVATE[0]: "1"}

        return bide.task(body, name=name)

    @bide.task(depends_on=["left", "right"])
    def bottom(context: bide.Context) -> Any:
        return context["k"]

    with bide.Runner(":memory:") as runner:
        got = runner.run(bide.Workflow("w", [side("left"), side("right"), bottom]), {"k": start})["bottom"]
    assert repr(got) == repr(start | {"left": {PRIVATE[0]: "1"}, "right": {PRIVATE[0]: "1"}})


def test_an_untouched_key_never_wins_over_a_touched_one(runner: bide.Runner) -> None:
    result = runner.run(diamond(lambda c: c.set("k", "left"), lambda c: c["k"]))
    assert result["bottom"]["k"] == "left"


def test_each_body_has_its_own_copy(runner: bide.Runner) -> None:
    @bide.task
    def first(context: bide.Context) -> None:
        context["k"] = [1]

    @bide.task(depends_on="first", retry=bide.Retry(attempts=2, delay=0))
    def fails_once(context: bide.Context, handle: bide.TaskHandle) -> list[int]:
        context["k"].append(handle.attempt)
        if handle.attempt == 1:
            raise ValueError
        return list(context["k"])

    assert runner.run(bide.Workflow("w", [first, fails_once]))["fails_once"] == [1, 2]


def test_within_a_step_and_a_condition_it_is_read_only(runner: bide.Runner) -> None:
    refused: list[str] = []

    @bide.task
    def work(context: bide.Context, handle: bide.TaskHandle) -> None:
        context["list"] = [1]

        def change(value: int) -> int:
            context["list"].append(99)  # of a copy
            try:
                context["k"] = value
            except bide.BideError as error:
                refused.append(str(error))
            return value

        handle.step(change, 1)
        handle.defer_until(lambda: change(2))
        context["after"] = True

    result = runner.run(bide.Workflow("w", [work]))
    assert result.context.to_dict() == {"list": [1], "after": True}
    assert len(refused) == 2
    assert all("read-only" in line for line in refused)


def test_a_value_that_is_no_json_is_refused_where_it_is_set(runner: bide.Runner) -> None:
    @bide.task
    def work(context: bide.Context) -> None:
        context["k"] = {"deep": [object()]}

    with pytest.raises(bide.RunFailed) as failed:
        runner.run(bide.Workflow("w", [work]))
    assert isinstance(failed.value.__cause__, bide.SerializationError)
    for word in ("'work'", '"k"', '"deep"', "[0]"):
        assert word in str(failed.value.__cause__)


def test_a_value_made_invalid_in_place_fails_the_task(runner: bide.Runner) -> None:
    @bide.task
    def work(context: bide.Context) -> None:
        context["k"] = []
        context["k"].append(float("nan"))

    with pytest.raises(bide.RunFailed) as failed:
        runner.run(bide.Workflow("w", [work]))
    assert isinstance(failed.value.__cause__, bide.SerializationError)
    assert "'work'" in str(failed.value.__cause__)


SCRIPT = """
@bide.task
def top(context: bide.Context) -> None:
    context["k"] = {"top": 1}

@bide.task(depends_on="top")
def left(context: bide.Context) -> None:
    context["k"]["left"] = 1

@bide.task(depends_on="top")
def right(context: bide.Context) -> None:
    context["k"]["right"] = 1

@bide.task(depends_on=["left", "right"])
def bottom(context: bide.Context) -> dict:
    context["k"]["lost"] = 1
    if "stay" in words:
        say("in bottom")
        stay()
    del context["k"]["lost"]
    context["done"] = True
    return context.to_dict()

with bide.Runner(db) as runner:
    result = runner.run(bide.Workflow("w", [top, left, right, bottom]), {"x": 1}, key="k")
    say(result["bottom"])
    say(result.context.to_dict())
"""


def test_a_restart_keeps_the_committed_view_and_drops_the_rest(file: Path) -> None:
    killed(SCRIPT, file, "stay", at="in bottom")
    expected = str({"x": 1, "k": {"top": 1, "left": 1, "right": 1}, "done": True})
    assert ran(SCRIPT, file) == [expected, expected]
    assert ran(SCRIPT, file) == [expected, expected]  # and as recorded
