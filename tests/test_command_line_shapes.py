"""What `-o json` prints has the documented fields, and the other forms say the same."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

import bide
import shop
from bide._cli import _output
from bide._cli._main import PLACES, cli
from commands import ENVIRONMENT
from processes import eventually

RUN = {"id", "workflow", "key", "status", "tags", "parent", "started_at", "ended_at", "blocked_by"}
WAIT = {
    *("run", "key", "workflow", "task", "kind", "name", "since", "due", "deadline", "polls", "next_poll", "error"),
    *("child", "members", "others", "cursor"),
}
EVENT = {"offset", "time", "task", "attempt", "entry", "value"}
ENTRY = {"at", "what", "task", "name", "by", "reason"}
TASK = {
    *("name", "status", "sub_status", "attempts", "first_started_at", "started_at", "ended_at", "waited"),
    *("blocked_by", "error", "progress", "output"),
}
HELD = {"name", "status", "held_by", "attempts", "started_at", "retry_at", "error", "blocked_by", "needs", "waits"}
WHY = {
    *("run", "workflow", "key", "status", "parent", "held_by", "reason", "by", "runner", "start_at", "tasks"),
    *("children", "requests"),
}
SCHEDULE = {
    *("name", "workflow", "cron", "zone", "every", "inputs", "on_miss", "overlap", "jitter", "created_at"),
    *("paused_at", "next", "last", "last_run", "queued"),
}
WATCH = {
    *("name", "workflow", "every", "cursor", "created_at", "paused_at", "served", "started", "last", "last_run"),
    *("error", "failing_since"),
}
LIMIT = {
    *("name", "by", "key", "executing", "most_executing", "in_flight", "most_in_flight", "started", "most_started"),
    *("rate_seconds", "waiting"),
}
SHAPES: list[tuple[list[str], set[str]]] = [
    (["runs"], RUN),
    (["show", "order-7"], RUN | {"inputs", "error", "tasks", "context"}),
    (["why", "order-7"], WHY),
    (["waiting"], WAIT),
    (["history", "order-7"], ENTRY),
    (["events", "order-7", "--channel", "tokens"], EVENT),
    (["signal", "order-7", "approved", "--text", "bo"], {"run", "signal"}),
    (["pause", "order-7"], {"run", "asked"}),
    (["resume", "order-7"], {"run", "asked"}),
    (["extend", "asking", "asks", "60"], {"run", "asked"}),
    (["satisfy", "asking", "asks", "--value", "7"], {"run", "asked"}),
    (["skip", "stuck", "gated"], {"run", "asked"}),
    (["cancel", "order-7"], {"run", "asked"}),
    (["retry", "broken"], {"run", "asked"}),
    (["schedules"], SCHEDULE),
    (["watches"], WATCH),
    (["pause-watch", "inbox"], {"watch"}),
    (["resume-watch", "inbox"], {"watch"}),
    (["unwatch", "inbox"], {"watch"}),
    (["limits"], LIMIT),
    (["pause-schedule", "yearly"], {"schedule"}),
    (["resume-schedule", "yearly"], {"schedule"}),
    (["trigger", "yearly"], {"schedule", "run"}),
    (["backfill", "yearly", "2025-01-01T00:00+00:00", "2026-06-01T00:00+00:00"], {"run"}),
    (["unschedule", "hourly"], {"schedule"}),
    (["fork", "broken", "--start-at", "fails", "--app", "shop"], {"run", "forked_from"}),
]


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A store that a runner of this process uses."""
    file = tmp_path_factory.mktemp("store") / "bide.db"
    with bide.Runner(file, workflows=shop.workflows) as runner:
        runner.submit(shop.order, {"items": [1]}, key="order-7", tags={"customer": "7"})
        runner.submit(shop.asking, key="asking")
        runner.submit(shop.waiting, key="stuck")
        with pytest.raises(bide.RunFailed):
            runner.run(shop.failing, key="broken")
        eventually(lambda: len(runner.waiting()) == 3, "three wait")
        runner.schedule("yearly", shop.counting, "0 0 1 1 *", tz="Europe/Berlin")
        runner.schedule("hourly", shop.counting, timedelta(hours=1))
        runner.watch("inbox", shop.counting, lambda _: ([], {"page": 2}), every=3600)
        runner.run(shop.counting)
        yield str(file)


def called(store: str, *words: str) -> str:
    done = CliRunner().invoke(cli, [words[0], store, *words[1:]])
    assert done.exit_code == 0, (done.output, done.exception)
    return done.stdout


@pytest.mark.xdist_group("shapes of the command line")
@pytest.mark.parametrize(("words", "fields"), SHAPES, ids=[words[0] for words, _ in SHAPES])
def test_the_json_of_a_command_has_its_fields(store: str, words: list[str], fields: set[str]) -> None:
    found: Any = json.loads(called(store, *words, "-o", "json"))
    for item in found if isinstance(found, list) else [found]:
        assert set(item) == fields
    if words[0] == "show":
        assert {frozenset(task) for task in found["tasks"]} == {frozenset(TASK)}
    if words[0] == "why":
        assert {frozenset(task) for task in found["tasks"]} == {frozenset(HELD)}
        assert {frozenset(wait) for task in found["tasks"] for wait in task["waits"]} == {frozenset(WAIT)}


@pytest.mark.xdist_group("shapes of the command line")
def test_the_json_of_answers_and_of_what_goes_on_has_its_fields(store: str) -> None:
    with bide.Client(store) as client:
        for command, words, fields in (
            ("resolve", ["--value", '"cy"'], {"answered"}),
            ("reject", ["too late"], {"rejected"}),
        ):
            run = client.submit(shop.order, {"items": [2]}, key=command)
            eventually(lambda run=run: len(list(client.events(run))) == 1, "it has a token")  # type: ignore[misc]
            token = next(event.value for event in client.events(run))
            assert set(json.loads(called(store, command, token, *words, "-o", "json"))) == fields
            client.signal(run, "approved", "bo")
            eventually(lambda run=run: run.status() in {"Completed", "Failed"}, "it ends")  # type: ignore[misc]
    done = CliRunner().invoke(cli, ["watch", store, "reject", "-o", "jsonl"])
    (state,) = map(json.loads, done.stdout.splitlines())
    assert (done.exit_code, set(state)) == (1, RUN | {"inputs", "error", "tasks", "context"})
    assert set(state["error"]) == {"task", "type", "message", "traceback"}
    lines = called(store, "follow", "resolve", "--channel", "tokens", "-o", "jsonl").splitlines()
    assert [set(json.loads(line)) for line in lines] == [EVENT, EVENT]


@pytest.mark.xdist_group("shapes of the command line")
def test_every_form_lists_the_same_runs(store: str) -> None:
    listed = json.loads(called(store, "runs", "-o", "json"))
    assert [json.loads(line) for line in called(store, "runs", "-o", "jsonl").splitlines()] == listed
    title, *rows = called(store, "runs").splitlines()
    assert title.split()[:4] == ["ID", "STATUS", "WORKFLOW", "KEY"]
    assert [row.split()[0] for row in rows] == [run["id"] for run in listed]
    yaml = called(store, "runs", "-o", "yaml")
    assert [line.removeprefix("- id: ").strip('"') for line in yaml.splitlines() if line.startswith("- id: ")] == [
        run["id"] for run in listed
    ]


@pytest.mark.xdist_group("shapes of the command line")
def test_filters_choose_runs(store: str) -> None:
    def keys(*words: str) -> set[str]:
        return {run["key"] for run in json.loads(called(store, "runs", "-o", "json", *words))}

    assert keys("--tag", "customer=7") == {"order-7"}
    assert keys("--key", "stuck") == {"stuck"}
    assert keys("--key", "stuck", "--tag", "customer=7") == set()
    assert keys("--key-prefix", "ord") == {"order-7"}
    assert keys("--workflow", "asking") == {"asking"}
    assert keys("--since", "1h", "--workflow", "asking") == {"asking"}
    assert keys("--since", "2999-01-01") == set()
    assert keys("--all") >= {"order-7", "asking", "stuck", "broken"}
    assert len(json.loads(called(store, "runs", "-o", "json", "--limit", "2"))) == 2


def test_every_command_has_a_help_and_a_page_that_names_it() -> None:
    page = (Path(__file__).parent.parent / "docs" / "command-line.md").read_text()
    for name in PLACES:
        done = CliRunner().invoke(cli, [name, "--help"])
        assert (done.exit_code, "Usage:" in done.output) == (0, True)
        assert f"`{name}" in page or f"bide {name}" in page, name


BASH = """
set -u
eval "$(_BIDE_COMPLETE=bash_source bide)"
complete -p bide | grep -q "_bide_completion bide" || exit 1
COMP_WORDS=({words})
COMP_CWORD=$((${{#COMP_WORDS[@]}} - 1))
COMPREPLY=()
_bide_completion bide
printf '%s\\n' "${{COMPREPLY[@]}}"
"""

ZSH = """
compdef() {{ [[ $* == "_bide_completion bide" ]] || exit 1 }}
offer() {{ local one; for one in ${{(P)1}}; do print -r -- ${{one%%:*}}; done }}
_describe() {{ offer $3 }}
compadd() {{ offer ${{@[-1]}} }}
eval "$(_BIDE_COMPLETE=zsh_source bide)"
words=({words})
CURRENT=$#words
_bide_completion
"""

FISH = """
_BIDE_COMPLETE=fish_source bide | source
complete -C "{words}" | string split -f 1 \\t
"""


@pytest.mark.parametrize(
    ("words", "completed"),
    [
        ("bide ca", ["cancel"]),
        ("bide pause", ["pause", "pause-schedule", "pause-watch"]),
        ("bide runs bide.db --stat", ["--status"]),
        ("bide runs bide.db --status F", ["failed"]),
        ("bide watch bide.db order-7 -o y", ["yaml"]),
    ],
)
@pytest.mark.parametrize(
    ("shell", "script"),
    [(["bash", "--norc", "-c"], BASH), (["zsh", "-f", "-c"], ZSH), (["fish", "--no-config", "-c"], FISH)],
    ids=["bash", "zsh", "fish"],
)
def test_a_shell_completes_commands_options_and_their_values(
    tmp_path: Path, shell: list[str], script: str, words: str, completed: list[str]
) -> None:
    if shutil.which(shell[0]) is None:
        pytest.skip(f"there is no {shell[0]}")
    command = tmp_path / "bide"
    command.write_text(f'#!/bin/sh\nexec {sys.executable} -m bide "$@"\n')
    command.chmod(0o755)
    environment = ENVIRONMENT | {"PATH": f"{tmp_path}:{os.environ['PATH']}", "HOME": str(tmp_path)}
    done = subprocess.run(
        [*shell, script.format(words=words)], env=environment, capture_output=True, text=True, timeout=60, check=False
    )
    assert sorted(filter(None, done.stdout.splitlines())) == completed, done.stderr


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_a_shell_gets_its_completion(shell: str) -> None:
    done = CliRunner().invoke(cli, [], prog_name="bide", env={"_BIDE_COMPLETE": f"{shell}_source"})
    assert done.exit_code == 0
    assert "_BIDE_COMPLETE" in done.output


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ({}, "{}"),
        ([], "[]"),
        ("plain", "plain"),
        ("yes", '"yes"'),
        ("7", '"7"'),
        ("a: b", '"a: b"'),
        ("\u2028\x7f", '"\\U00002028\\U0000007f"'),
        ({"a": [1, {"b": None, "c": []}], "d e": {}}, 'a:\n  - 1\n  - b: null\n    c: []\n"d e": {}'),
        ([[1, 2], "x"], "- - 1\n  - 2\n- x"),
    ],
)
def test_yaml_is_written_in_blocks_with_scalars_of_json(
    value: object, text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    _output.write_yaml(value)
    assert capsys.readouterr().out == text + "\n"


def test_a_cell_is_one_line_whatever_a_name_contains() -> None:
    assert _output.cell("a\x1b[31m\nb") == "a\\x1b[31m\\nb"
    rows = list(_output.table(["a", "b"], [["漢字", "1"], ["abc", "2"]]))
    assert rows == [["A   ", "B"], ["漢字", "1"], ["abc ", "2"]]


@pytest.mark.xdist_group("shapes of the command line")
def test_a_backfill_over_a_million_ticks_needs_a_yes(store: str) -> None:
    with bide.Client(store) as client:
        client.schedule("each second", shop.counting, timedelta(seconds=1))
        before = len(client.runs(workflow="counting"))
        done = CliRunner().invoke(cli, ["backfill", store, "each second", "31d", "1d"])
        assert (done.exit_code, "pass --yes to start that many" in done.output) == (2, True), done.output  # 2.6 million
        assert len(client.runs(workflow="counting")) == before
        client.unschedule("each second")
