"""`bide cancel`, `pause`, `resume`, `retry` and `delete` of the runs that a filter chooses, on a store in use."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

import bide
import shop
from bide._cli._main import cli
from processes import eventually


@pytest.fixture
def runner(file: Path) -> Iterator[bide.Runner]:
    """Three runs that wait, of which two have the tag, and two that have failed."""
    with bide.Runner(file, workflows=shop.workflows) as runner:
        for key, tags in (("a", {"customer": "7"}), ("b", {"customer": "7", "rush": "no"}), ("c", {"customer": "8"})):
            runner.submit(shop.order, {"items": [1]}, key=key, tags=tags)
        for key in ("d", "e"):
            with pytest.raises(bide.RunFailed):
                runner.run(shop.failing, key=key)
        eventually(lambda: len(runner.waiting()) == 3, "three wait")
        yield runner


def called(*words: object, store: Path | None = None) -> Result:
    return CliRunner().invoke(cli, list(map(str, words)), env={"BIDE_STORE": None if store is None else str(store)})


def asked(*words: object) -> dict[str, object]:
    done = called(*words, "-o", "json")
    assert done.exit_code == 0, done.output
    found: dict[str, object] = json.loads(done.stdout)
    return found


def keys(runner: bide.Runner, status: str) -> set[str | None]:
    return {run.key for run in runner.runs(status=status)}


def test_a_filter_chooses_runs_and_the_answer_is_how_many(runner: bide.Runner, file: Path) -> None:
    both = ("--tag", "customer=7", "--reason", "a recall")
    assert asked("pause", file, *both) == {"runs": 2, "asked": "pause"}
    eventually(lambda: keys(runner, "Paused") == {"a", "b"}, "two are paused")
    assert asked("pause", file, *both) == {"runs": 0, "asked": "pause"}
    assert asked("resume", file, "--status", "paused", "--tag", "rush=no") == {"runs": 1, "asked": "resume"}
    assert asked("cancel", file, "--workflow", "order", "--since", "1h") == {"runs": 3, "asked": "cancel"}
    eventually(lambda: keys(runner, "Cancelled") == {"a", "b", "c"}, "three are cancelled")
    history = runner.history("a", workflow="order")
    assert [entry.reason for entry in history if entry.what == "pause"] == ["a recall"]
    assert asked("retry", file, "--status", "Failed", "--fresh") == {"runs": 2, "asked": "retry"}
    eventually(lambda: keys(runner, "Failed") == {"d", "e"}, "they have failed again")
    assert {run.tasks["fails"].attempts for run in runner.runs(status="Failed")} == {2}
    assert asked("delete", file, "--status", "Cancelled") == {"runs": 3, "asked": "delete"}
    assert asked("delete", file, "--all") == {"runs": 2, "asked": "delete"}
    assert runner.runs() == []


def test_one_run_is_deleted_and_force_ends_it_first(runner: bide.Runner, file: Path) -> None:
    refused = called("delete", file, "a")
    assert (refused.exit_code, "has not ended" in refused.stderr) == (1, True)
    assert asked("delete", file, "d")["asked"] == "delete"
    assert keys(runner, "Failed") == {"e"}
    assert asked("cancel", file, "--status", "Running", "--tag", "customer=8", "--force")["runs"] == 1
    eventually(lambda: keys(runner, "Cancelled") == {"c"}, "it is cancelled")


def test_the_store_may_come_from_the_environment_also_with_a_filter(runner: bide.Runner, file: Path) -> None:
    assert called("pause", "--workflow", "order", store=file).stdout == "3 runs: pause is asked for\n"
    eventually(lambda: keys(runner, "Paused") == {"a", "b", "c"}, "three are paused")
    assert called("resume", "a", "--workflow", "order", store=file).exit_code == 0
    eventually(lambda: keys(runner, "Paused") == {"b", "c"}, "one is resumed")
    assert called("resume", file, "b", store=Path("another.db")).exit_code == 0
    assert called("resume", file, "--tag", "customer=8", store=Path("another.db")).stdout == (
        "1 run: resume is asked for\n"
    )


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ["cancel", "STORE"],
            "cancel takes a RUN, or a filter (--status, --workflow, --tag, --since); --all means every",
        ),
        (["cancel", "STORE", "a", "--status", "Failed"], "cancel takes a RUN or a filter (--status,"),
        (["delete", "STORE", "a", "--all"], "not both"),
        (["retry", "STORE", "--all", "--from-task", "fails"], "--from-task needs a RUN"),
        (["pause", "STORE", "--tag", "customer"], "'customer' has no name: write NAME=VALUE"),
        (["pause", "STORE", "--since", "soon"], "'soon' is no time"),
        (["resume", "STORE", "a", "b"], "too many arguments: resume takes [STORE] RUN"),
    ],
)
def test_a_filter_that_is_none_is_refused_in_words(
    runner: bide.Runner, file: Path, words: list[str], message: str
) -> None:
    done = called(*(file if word == "STORE" else word for word in words))
    assert (done.exit_code, message in done.stderr) == (2, True), done.stderr
    assert len(keys(runner, "Running")) == 3
