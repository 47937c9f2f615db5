"""`serve()`: the long-lived form, in real processes, ended by signals."""

import signal
import threading
from pathlib import Path

import pytest

import bide
from processes import Child, eventually, ledger, ran

SERVER = """
flag = Path(db).with_suffix(".flag")

@bide.task
def waits(handle: bide.TaskHandle) -> str:
    note("enter")
    try:
        handle.defer_until(flag.exists, poll_interval_ms=10)
    finally:
        note("suspended" if handle.suspending else "left")
    return "done"

workflow = bide.Workflow("w", [waits])
"""
SERVE = SERVER + "runner = bide.Runner(db, workflows=[workflow])\nsay('serving')\nrunner.serve()\nsay('over')\n"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_it_executes_new_runs_until_a_signal_and_closes(file: Path, number: signal.Signals) -> None:
    with Child(SERVE, file) as server:
        server.expect("serving")
        ran(SERVER + "bide.Runner(db).submit(workflow, key='k'); os._exit(0)", file)
        with bide.Runner(file) as reader:
            eventually(lambda: reader.get("k").tasks["waits"].sub_status is bide.SubStatus.Deferred, "the server waits")
        server.send(number)
        server.expect("over")
        server.join()
        assert server.errors == ""
    before = ledger(file)  # the submitter may have entered the body, too, before it died
    assert before[-2:] == ["enter", "suspended"]
    file.with_suffix(".flag").touch()
    with Child(SERVE, file), bide.Runner(file) as reader:
        eventually(lambda: reader.get("k").status is bide.RunStatus.Completed, "another server ends the run")
    assert ledger(file) == [*before, "enter", "left"]


def test_it_is_for_the_main_thread_only(runner: bide.Runner) -> None:
    raised: list[BaseException] = []

    def serve() -> None:
        try:
            runner.serve()
        except bide.BideError as error:
            raised.append(error)

    thread = threading.Thread(target=serve)
    thread.start()
    thread.join(30)
    assert "main thread" in str(raised[0])


def test_it_puts_the_signal_handlers_back(file: Path) -> None:
    script = """
    runner = bide.Runner(db)
    threading.Timer(0.1, os.kill, (os.getpid(), signal.SIGTERM)).start()
    runner.serve()
    say(signal.getsignal(signal.SIGTERM) is signal.SIG_DFL)
    say(signal.getsignal(signal.SIGINT) is signal.default_int_handler)
    """
    assert ran(script, file) == ["True", "True"]
