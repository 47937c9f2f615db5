"""The command line as a shell calls it: exit codes, pipes, and commands that go on until something ends."""

import contextlib
import importlib
import json
import os
import pty
import re
import signal
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

import bide
import bide._cli
import shop
from commands import ENVIRONMENT, TESTS, Said, call, start
from processes import eventually

pytestmark = pytest.mark.xdist_group("command line")


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store that has a run of each kind; nothing executes them any more."""
    file = tmp_path_factory.mktemp("store") / "bide.db"
    with bide.Runner(file, workflows=shop.workflows) as runner:
        runner.run(shop.priced, {"items": [1, 2]}, key="priced-1", tags={"customer": "7"})
        with pytest.raises(bide.RunFailed):
            runner.run(shop.failing, key="broken")
        runner.submit(shop.waiting, key="stuck")
        eventually(lambda: runner.waiting(), "a gate is open")
    return file


@pytest.fixture
def serving(file: Path) -> "Iterator[subprocess.Popen[str]]":
    """A `bide serve` on the store, ready."""
    process = start("serve", file, "shop:workflows", "--create")
    try:
        eventually(file.exists, "it makes the store")
        with bide.Client(file) as client:
            client.submit(shop.priced, {"items": []}).result(timeout=30)
        yield process
    finally:
        process.kill()
        process.communicate()


def ids(said: Said) -> list[str]:
    return [json.loads(line)["id"] for line in said.out.splitlines()]


def test_each_outcome_has_its_exit_code(shared: Path, tmp_path: Path) -> None:
    missing = tmp_path / "missing.db"
    assert call("runs", shared).code == 0
    assert call("show", shared, "broken").code == 0
    assert call("show", shared, "broken", "--exit-status").code == 1
    assert call("watch", shared, "broken").code == 1
    assert call("watch", shared, "priced-1").code == 0
    assert call("follow", shared, "broken").code == 1
    assert call("runs", shared, "--status", "Lost").code == 2
    assert call("shwo", shared, "broken").code == 2
    assert call("show", shared, "nothing").code == 3
    assert call("runs", missing).code == 3
    assert call("serve", missing, "shop:workflows").code == 3
    assert list(tmp_path.iterdir()) == []


def test_what_is_wrong_is_said_in_words(shared: Path, tmp_path: Path) -> None:
    assert "there is no command 'shwo', did you mean 'show'?" in call("shwo", shared).err
    assert "no run has the id or key 'nothing', or an id that begins so" in call("show", shared, "nothing").err
    assert f"there is no store {tmp_path / 'missing.db'}" in call("runs", tmp_path / "missing.db").err
    assert "which store? Name it first, `bide show STORE RUN`, or set BIDE_STORE" in call("show", "broken").err
    assert "show takes [STORE] RUN: RUN missing" in call("show", BIDE_STORE=str(shared)).err
    assert f"show takes [STORE] RUN: RUN missing after the store {shared}" in call("show", shared).err
    assert f"NAME missing after the store {shared}" in call("signal", shared, "stuck").err
    assert "only ended runs can be deleted; --force ends it first" in call("delete", shared, "stuck").err
    assert "cancel comes too late; `bide retry` continues it" in call("cancel", shared, "broken").err
    assert "of 'failing' is Failed: task 'fails': OSError: the disk is gone" in call("why", shared, "broken").out
    assert "show takes [STORE] RUN: STORE and RUN missing" in call("show").err
    assert "--value is not JSON" in call("signal", shared, "stuck", "never", "--value", "yes").err
    assert "a text has quotes, '\"yes\"'" in call("signal", shared, "stuck", "never", "--value", "yes").err
    assert "'soon' is no time: write 2026-11-28T10:00" in call("runs", shared, "--since", "soon").err
    assert "'7' has no name: write NAME=VALUE" in call("runs", shared, "--tag", "7").err
    assert "'2y' is no span: write seconds, or a number with" in call("extend", shared, "stuck", "gated", "2y").err
    other = tmp_path / "other.db"
    other.write_text("not a database, " * 100)
    said = call("runs", other)
    assert (said.code, "is not a database" in said.err) == (1, True)


def test_the_store_and_the_application_come_from_the_environment_unless_they_are_named(shared: Path) -> None:
    named = ids(call("runs", shared, "-o", "jsonl", BIDE_STORE="elsewhere.db"))
    assert named == ids(call("runs", "-o", "jsonl", BIDE_STORE=str(shared)))
    assert len(named) == 3
    assert call("show", "broken", BIDE_STORE=str(shared)).code == 0
    assert call("show", "broken", BIDE_STORE=str(shared), BIDE_OUTPUT="json").out.startswith("{")
    said = call("show", shared, "broken", "--app", "nowhere:at_all", BIDE_APP="shop:workflows")
    assert (said.code, "importing nowhere raised ModuleNotFoundError" in said.err) == (2, True)


def test_an_id_may_be_shortened_to_a_beginning_that_only_one_has(shared: Path) -> None:
    runs = sorted(ids(call("runs", shared, "-o", "jsonl")))
    common = next(at for at in range(36) if len({run[:at] for run in runs}) > 1)
    for run in runs:
        length = next(at for at in range(36) if sum(one.startswith(run[:at]) for one in runs) == 1)
        for text in (run, run.upper(), run[:length], run[:length].replace("-", "")):
            assert json.loads(call("show", shared, text, "-o", "json").out)["id"] == run, text
    said = call("show", shared, runs[0][: common - 1])
    assert said.code == 2
    assert all(run in said.err for run in runs)


def test_nothing_is_cut_off_in_a_pipe_and_a_reader_may_stop(shared: Path) -> None:
    said = call("runs", shared, COLUMNS="20")
    assert len(said.out.splitlines()) == 4
    assert "customer=7" in said.out
    assert "…" not in said.out
    shell = f"{sys.executable} -m bide runs {shared} --all -o jsonl | head -c 1"
    command = ["/bin/sh", "-c", shell]
    done = subprocess.run(command, cwd=TESTS, env=ENVIRONMENT, capture_output=True, text=True, timeout=60, check=False)
    assert (done.stdout, done.stderr) == ("{", "")


def test_without_the_extra_it_says_what_to_install(shared: Path) -> None:
    script = "import sys; sys.modules['click'] = None; from bide._cli import main; main()"
    command = [sys.executable, "-c", script, "runs", str(shared)]
    done = subprocess.run(command, env=ENVIRONMENT, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 2
    assert done.stderr == (
        "bide: the command line needs the package click, which is not installed: pip install 'bide[cli]'\n"
    )


def test_serve_executes_until_a_signal_and_others_act_on_its_runs(file: Path, serving: "subprocess.Popen[str]") -> None:
    with bide.Client(file) as client:
        run = client.submit(shop.order, {"items": [3, 4]}, key="order-7")
        eventually(lambda: client.waiting(), "it waits")
        token = next(event.value for event in client.events("order-7"))
        follower = start("follow", file, "order-7", "--channel", "tokens", "--raw")
        watcher = start("watch", file, "order-7", "-o", "jsonl")
        (wait,) = json.loads(call("waiting", file, "-o", "json").out)
        assert (wait["key"], wait["task"], wait["name"]) == ("order-7", "approval", "approved")
        assert "task 'approval' waits for approved (signal)" in call("why", file, "order-7").out
        assert call("pause", file, "order-7", "--by", "ana", "--reason", "lunch").code == 0
        assert call("resume", file, "order-7").code == 0
        typed = call("signal", file, "order-7", "approved", "--value", "7", "--app", "shop:workflows")
        assert (typed.code, "the signal 'approved'" in typed.err) == (2, True)
        assert call("signal", file, "order-7", "refused").code == 1
        assert call("signal", file, "order-7", "approved", "--text", "bo", "--app", "shop").code == 0
        assert call("resolve", file, token, "--value", '"cy"').code == 0
        assert call("resolve", file, token, "--value", '"di"').code == 1
        assert run.result(timeout=30)["approval"] == "7 approved by bo, paid by cy"
        assert follower.communicate(timeout=30)[0] == "7 to approve now"
        states = [json.loads(line)["status"] for line in watcher.communicate(timeout=30)[0].splitlines()]
        assert (states[-1], watcher.returncode) == ("Completed", 0)
        history = json.loads(call("history", file, "order-7", "-o", "json").out)
        assert [(one["what"], one["by"], one["reason"]) for one in history if one["what"] == "pause"] == [
            ("pause", "ana", "lunch")
        ]
    serving.send_signal(signal.SIGTERM)
    _, errors = serving.communicate(timeout=30)
    assert serving.returncode == 0
    assert "executes order, priced, failing, waiting, asking, listing, counting on" in errors


def test_a_server_that_has_to_stop_says_why_and_fails(file: Path, serving: "subprocess.Popen[str]") -> None:
    file.unlink()
    _, errors = serving.communicate(timeout=30)
    assert (serving.returncode, "was deleted or replaced while it was open" in errors) == (1, True)
    assert "Traceback" not in errors


@pytest.mark.parametrize("command", ["follow", "watch"])
def test_an_interrupt_ends_a_command_that_waits(shared: Path, command: str) -> None:
    process = start(command, shared, "stuck", "-o", "jsonl")
    try:
        eventually(lambda: Path(f"/proc/{process.pid}/task").exists() and waits(process.pid), "it waits")
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=30)
    finally:
        process.kill()
    assert (process.returncode, errors) == (130, "")


def waits(pid: int) -> bool:
    """Whether a process has the threads of a client, and has handled no signal yet."""
    names = [(thread / "comm").read_text() for thread in Path(f"/proc/{pid}/task").iterdir()]
    return any(name.startswith("bide-lease") for name in names)


@pytest.mark.parametrize(
    ("words", "environment", "store", "app"),
    [
        (("a.db", "shop:all"), {}, "a.db", "shop:all"),
        (("shop:all",), {"BIDE_STORE": "b.db"}, "b.db", "shop:all"),
        (("a.db",), {"BIDE_STORE": "b.db", "BIDE_APP": "other:app"}, "a.db", "other:app"),
        ((), {"BIDE_STORE": "b.db", "BIDE_APP": "other:app"}, "b.db", "other:app"),
        (("a.db", "--app", "nowhere"), {"BIDE_APP": "other:app"}, "a.db", "nowhere"),
    ],
)
def test_serve_takes_arguments_before_the_environment(
    words: tuple[str, ...], environment: dict[str, str], store: str, app: str, tmp_path: Path
) -> None:
    environment = {name: str(tmp_path / text) if name == "BIDE_STORE" else text for name, text in environment.items()}
    said = call("serve", *(tmp_path / word if word.endswith(".db") else word for word in words), **environment)
    assert said.code == 3
    assert f"there is no store {tmp_path / store}" in said.err
    (tmp_path / store).touch()
    said = call("serve", *(tmp_path / word if word.endswith(".db") else word for word in words), **environment)
    assert (said.code, app.partition(":")[0] in said.err) == (2, True)


def test_runs_are_repaired_from_the_command_line(file: Path, serving: "subprocess.Popen[str]") -> None:
    app = ("--app", "shop:workflows")
    with bide.Client(file) as client:
        priced = client.submit(shop.priced, {"items": [1, 2]}, key="a")
        priced.result(timeout=30)
        edits = ("--start-at", "price", "--input", "factor=5", "--input", "items=[4]")
        said = call("fork", file, "a", *edits, *app, "-o", "json", "--by", "ana")
        forked = json.loads(said.out)
        assert forked["forked_from"] == priced.id
        assert client.get(forked["run"]).inputs == {"items": [4], "factor": 5}
        eventually(lambda: client.get(forked["run"]).status == "Completed", "a runner executes the fork")
        assert client.get(forked["run"])["price"] == 20
        assert call("fork", file, "a", "--start-at", "price").code == 2
        wrong = call("fork", file, "a", "--start-at", "price", "--input", 'items="x"', *app)
        assert (wrong.code, "items" in wrong.err) == (2, True)

        client.submit(shop.waiting, key="stuck")
        eventually(lambda: client.waiting(), "it waits")
        assert call("satisfy", file, "stuck", "gated", "--reason", "by hand").code == 0
        eventually(lambda: client.get("stuck").status == "Completed", "its gate is satisfied")

        client.submit(shop.asking, key="asking")
        eventually(lambda: client.waiting(), "it waits")
        before = client.waiting()[0].deadline
        assert call("extend", file, "asking", "asks", "2h").code == 0
        eventually(lambda: client.waiting()[0].deadline != before, "its deadline moves")
        assert call("skip", file, "asking", "asks").code == 0
        eventually(lambda: client.get("asking").status == "Completed", "it is skipped")

        broken = client.submit(shop.failing, key="broken")
        with pytest.raises(bide.RunFailed):
            broken.result(timeout=30)
        assert call("retry", file, "broken", "--fresh").code == 0
        assert call("cancel", file, "a").code == 1
        last = client.submit(shop.waiting, key="last")
        assert call("cancel", file, "last", "--force").code == 0
        eventually(lambda: last.status() == "Cancelled", "it is cancelled")


def test_watch_draws_the_run_in_a_terminal_and_exits_with_its_outcome(shared: Path) -> None:
    for key, status, code in (("priced-1", "Completed", 0), ("broken", "Failed", 1)):
        terminal, screen = pty.openpty()
        process = subprocess.Popen(
            [sys.executable, "-m", "bide", "watch", str(shared), key],
            cwd=TESTS,
            env=ENVIRONMENT | {"TERM": "xterm", "COLUMNS": "120", "LINES": "40"},
            stdout=screen,
        )
        os.close(screen)
        drawn = b""
        with os.fdopen(terminal, "rb", buffering=0) as reader, contextlib.suppress(OSError):  # of a screen that is gone
            while part := reader.read(65536):
                drawn += part
        assert process.wait(30) == code
        assert status in drawn.decode()
        assert ("OSError: the disk is gone" in drawn.decode()) == (key == "broken")


def test_the_installed_command_is_this_one() -> None:
    project = tomllib.loads((TESTS.parent / "pyproject.toml").read_text())["project"]
    module, _, name = project["scripts"]["bide"].partition(":")
    assert getattr(importlib.import_module(module), name) is bide._cli.main
    assert {re.split("[>=<]", one)[0] for one in project["optional-dependencies"]["cli"]} == bide._cli.NEEDED
