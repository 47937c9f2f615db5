"""bide in the workers of gunicorn, whose processes are forked after the application was loaded (`--preload`)."""

import http.client
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import bide
from commands import ENVIRONMENT, TESTS
from processes import eventually

pytest.importorskip("gunicorn")

Get = Callable[[str], tuple[int, str]]


@pytest.fixture
def serve(file: Path, tmp_path: Path) -> Iterator[Callable[..., Get]]:
    """Start gunicorn with two preloaded workers, and return what asks one of them."""
    started: list[subprocess.Popen[bytes]] = []
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address: tuple[str, int] = free.getsockname()

    def start(**environment: str) -> Get:
        command = [sys.executable, "-m", "gunicorn", "--preload", "--workers", "2", "--bind", f"127.0.0.1:{address[1]}"]
        with (tmp_path / "log").open("wb") as log:
            environment = ENVIRONMENT | {"BIDE_STORE": str(file)} | environment
            started.append(
                subprocess.Popen([*command, "preloaded:app"], cwd=TESTS, env=environment, stdout=log, stderr=log)
            )

        def get(path: str) -> tuple[int, str]:
            connection = http.client.HTTPConnection(address[0], address[1], timeout=60)
            connection.request("GET", path)
            answer = connection.getresponse()
            try:
                return answer.status, answer.read().decode()
            finally:
                connection.close()

        def listens() -> bool:
            with socket.socket() as probe:
                return probe.connect_ex(address) == 0

        eventually(listens, "gunicorn listens")
        return get

    yield start
    for process in started:
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0, (tmp_path / "log").read_text()


def test_a_runner_that_is_made_in_a_worker_after_the_fork_works(serve: Callable[..., Get], file: Path) -> None:
    get = serve()
    answers = [get(f"/{number}") for number in range(20)]
    assert {status for status, _ in answers} == {200}
    assert [text.split()[1] for _, text in answers] == [str(number * 2) for number in range(20)]
    # The same key again, in whichever worker: the run that is there.
    assert get("/7")[1].split()[1] == "14"
    with bide.Client(file) as client:
        assert len(client.runs()) == 20


def test_a_worker_that_is_killed_is_followed_by_one_that_works(serve: Callable[..., Get]) -> None:
    get = serve()
    pid = int(get("/1")[1].split()[0])
    os.kill(pid, signal.SIGKILL)
    answers = [get(f"/{number}") for number in range(2, 12)]
    assert {status for status, _ in answers} == {200}
    assert str(pid) not in {text.split()[0] for _, text in answers}


def test_a_runner_that_was_made_before_the_fork_says_so_in_each_worker(serve: Callable[..., Get]) -> None:
    get = serve(TOO_EARLY="1")
    status, text = get("/1")
    assert status == 500
    assert text.startswith("RunnerClosed: this Runner belongs to process ")
    assert text.endswith("which was forked from it: create a new one after the fork")
