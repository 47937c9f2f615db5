"""The wake-up channel between the processes of a file: what it leaves behind, and that a process without it works.

That hints arrive is tested in rust/store/tests/sqlite_wake.rs; how soon, by `make bench`.
"""

import contextlib
import sys
from pathlib import Path

import pytest

import bide
from processes import Child, eventually

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="other systems poll")


def sockets(file: Path) -> list[str]:
    """Return the names of the sockets of all processes that have this file open."""
    stat = file.stat()
    prefix = f"@bide-1-{stat.st_dev:x}-{stat.st_ino:x}-"
    names = (line.split()[-1] for line in Path("/proc/net/unix").read_text().splitlines())
    return sorted(name.removeprefix(prefix) for name in names if name.startswith(prefix))


def wake_threads() -> int:
    names = []
    for task in Path("/proc/self/task").iterdir():
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            names.append((task / "comm").read_text().strip())
    return names.count("bide-wake")


@bide.task
def one() -> int:
    return 1


workflow = bide.Workflow("w", [one])

OTHER = """
@bide.task
def work(handle: bide.TaskHandle) -> int:
    say("in work")
    handle.defer_until(Path(db).with_suffix(".flag").exists, poll_interval_ms=10)
    return 7

with bide.Runner(db) as runner:
    print(runner.run(bide.Workflow("shared", [work]), key="k")["work"])
"""


def test_a_store_has_one_socket_and_one_thread_until_its_last_runner_closes(file: Path) -> None:
    before = wake_threads()
    with bide.Runner(file) as first:
        (name,) = sockets(file)
        with bide.Runner(file) as second:
            assert sockets(file) == [name]
            assert wake_threads() == before + 1
            assert second.run(workflow)["one"] == 1
        assert sockets(file) == [name]
        assert first.run(workflow)["one"] == 1
    assert sockets(file) == []
    eventually(lambda: wake_threads() == before, "the thread is gone")


def test_a_store_in_memory_has_neither() -> None:
    before = wake_threads()
    with bide.Runner(":memory:") as runner:
        assert runner.run(workflow)["one"] == 1
        assert wake_threads() == before


def test_a_process_that_watches_a_run_of_another_has_a_second_socket(file: Path) -> None:
    @bide.task
    def work(handle: bide.TaskHandle) -> int:
        raise AssertionError(handle)

    with Child(OTHER, file) as child:
        child.expect("in work")
        with bide.Runner(file) as runner:
            assert len(sockets(file)) == 2
            handle = runner.submit(bide.Workflow("shared", [work]), key="k")
            (watcher,) = (name for name in sockets(file) if name.endswith("-watcher"))
            assert watcher.removesuffix("-watcher") in sockets(file)
            file.with_suffix(".flag").touch()
            assert handle.result(30)["work"] == 7
            child.join()
    assert sockets(file) == []


FORKS = """
@bide.task
def one() -> int:
    return 1

workflow = bide.Workflow("w", [one])
with bide.Runner(db) as runner:
    runner.run(workflow)
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(write)
        os.read(read, 1)
        os._exit(0)
    os.close(read)
    runner.run(workflow)
say("closed")
os.close(write)
os.waitpid(pid, 0)
with bide.Runner(db) as runner:
    runner.run(workflow)
"""


def test_a_runner_closes_and_opens_again_beside_a_forked_child_that_lives_on(file: Path) -> None:
    with Child(FORKS, file) as child:
        child.expect("closed")
        child.join()
    assert sockets(file) == []


NO_FILES = """
import resource

@bide.task
def work(handle: bide.TaskHandle) -> int:
    handle.defer_until(Path(db).with_suffix(".flag").exists, poll_interval_ms=10)
    return 7

with bide.Runner(db) as runner:
    handle = runner.submit(bide.Workflow("shared", [work]), key="k")
    # From here on this process gets no descriptor, so none for the end of a process.
    resource.setrlimit(resource.RLIMIT_NOFILE, (len(os.listdir("/proc/self/fd")) - 1, 4096))
    say("submitted")
    print(handle.result()["work"])
"""


def test_a_process_without_descriptors_polls(file: Path) -> None:
    with Child(NO_FILES, file) as child:
        child.expect("submitted")
        with Child(OTHER.replace("say(", "print("), file) as victim:
            eventually(lambda: len([name for name in sockets(file) if "watcher" not in name]) == 2, "it is there")
            victim.kill()
        file.with_suffix(".flag").touch()
        assert child.join()[-1] == "7"
