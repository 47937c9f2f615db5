"""Processes killed at random moments: `make soak KILLS=1000` runs longer. See kills.py."""

import random
from pathlib import Path

import pytest

from kills import events_are_there, judge, kill


def test_no_kill_at_any_moment_breaks_a_guarantee(file: Path) -> None:
    seed = random.SystemRandom().randrange(10**6)
    print(f"to see it again: python tests/kills.py 60 {seed}")  # noqa: T201 - shown if it fails
    kill(file, seed, 60)


@pytest.mark.parametrize(
    ("lines", "broken"),
    [
        (["did r orders a", "got r orders a 1", "did r orders a"], "a committed step runs again"),
        (["got r orders a 1", "got r orders a 2"], "a step returns something else"),
        (
            ["enter r orders 1 5", "leave r orders 5", "enter r gated 1 6", "enter r orders 1 7"],
            "a committed task again",
        ),
        (["enter r gated 1 6"], "before what it depends on"),
        (["enter r flaky 2 5", "enter r flaky 1 6"], "an attempt that was over"),
        (["leave r orders 5", "enter r gated 1 5.01"], "a gate opens early"),
        (["woke r polls 5.0 4.9"], "an early wake"),
        (["answered r serves 11", "answered r serves 12"], "another answer"),
        (["taken r asks token"], "another answer"),
        (["together p"], "two processes call the source"),
        (["paused r", "born p", "enter r orders 1 5 p"], "a body of a paused run starts"),
        (["paused r", "sleeps r orders", "did r orders a"], "a paused run goes on"),
        (
            ["enter r mail 1 5 o", "cancelled r", "born p", "enter r mail 1 6 p", "enter r last 1 6 p"],
            "of a cancelled run",
        ),
        (["enter r items 1 5", "leave r items 5", "enter r each[1] 1 6", "enter r follows[1] 1 7"], "before what it"),
        (["got r starts child-0 a", "got r starts child-0 b"], "a step returns something else"),
    ],
)
def test_the_judge_sees_each_broken_guarantee(lines: list[str], broken: str) -> None:
    judge(lines[:-1])
    with pytest.raises(AssertionError, match=broken):
        judge(lines)


def test_the_judge_allows_what_a_paused_run_may_do() -> None:
    paused = ["born o", "paused r", "enter r orders 1 5 o", "sleeps r orders"]
    judge(
        [*paused, "resuming r", "did r orders a", "born p", "enter r mail 1 5 p", "cancelled r", "enter r tidies 1 5 p"]
    )


@pytest.mark.parametrize(("shown", "broken"), [([0], "has lost events"), ([1, 0], "out of order"), ([0, 1, 1], "out")])
def test_lost_events_and_events_in_another_order_are_seen(shown: list[int], broken: str) -> None:
    lines = ["got r orders charge-0 1", "got r orders charge-1 2", "got other orders charge-2 3", "got r polls due 1"]
    events_are_there([0, 0, 1], "r", lines)
    with pytest.raises(AssertionError, match=broken):
        events_are_there(shown, "r", lines)
