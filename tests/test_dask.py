"""`bide.Dask`: bodies on the workers of a Dask cluster."""

import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import bide
import remote_bodies
from processes import Child, eventually, ran
from test_other_processes import SCRIPT, TESTS, alone

distributed = pytest.importorskip("distributed", reason="dask.distributed is not installed")

CLUSTER = """
import sys, json
sys.path.insert(0, sys.argv[1])
from distributed import LocalCluster
if __name__ == "__main__":
    with LocalCluster(n_workers=1, threads_per_worker=2, dashboard_address=None, processes=False) as cluster:
        print(json.dumps(cluster.scheduler_address if cluster.scheduler_address.startswith("tcp") else
              cluster.scheduler.address), flush=True)
        sys.stdin.read()
"""


@pytest.fixture(scope="module")
def scheduler() -> Iterator[str]:
    """The address of a scheduler in a process of its own."""
    script = CLUSTER.replace("processes=False", 'processes=False, protocol="tcp", host="127.0.0.1"')
    with subprocess.Popen(
        [sys.executable, "-c", script, str(TESTS)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as cluster:
        assert cluster.stdout is not None
        yield json.loads(cluster.stdout.readline())
        cluster.communicate(timeout=30)


@pytest.fixture
def client(scheduler: str) -> Iterator[Any]:
    with distributed.Client(scheduler) as client:
        yield client
        assert client.list_datasets() == (), "a result was not forgotten"


def test_values_go_through_dask_and_their_keys_are_forgotten(client: Any, file: Path) -> None:
    dask = bide.Dask(client)
    first, second = (bide.task(one, executor=dask) for one in (remote_bodies.squares, remote_bodies.total))
    with bide.Runner(file) as runner:
        assert runner.run(bide.Workflow("w", [first, second]), {"count": 4})["total"] == 14
        eventually(lambda: client.list_datasets() == (), "the results are unpublished")


def test_an_exception_comes_back_from_dask(client: Any) -> None:
    with bide.Runner(":memory:") as runner:
        with pytest.raises(bide.RunFailed) as failed:
            runner.run(alone(remote_bodies.declines, bide.Dask(client)))
        eventually(lambda: client.list_datasets() == (), "the failure is unpublished")
    assert isinstance(failed.value.__cause__, remote_bodies.Declined)


def test_a_cancelled_run_forgets_the_call(client: Any, tmp_path: Path) -> None:
    with bide.Runner(":memory:") as runner:
        run = runner.submit(alone(remote_bodies.returns_when_told, bide.Dask(client)), {"folder": tmp_path})
        eventually(lambda: remote_bodies.notes(tmp_path, "entered"), "the body executes")
        # It may execute before the executor has said so.
        eventually(lambda: "executes in bide.Dask('tcp://" in str(run.why()), "the run says where it executes")
        run.cancel()
        with pytest.raises(bide.RunFailed, match="cancelled"):
            run.result()
        eventually(lambda: client.list_datasets() == (), "it is unpublished")
        (tmp_path / "go").touch()


def test_a_call_outlives_its_runner_and_is_executed_once(
    scheduler: str, client: Any, file: Path, tmp_path: Path
) -> None:
    script = f"""{SCRIPT}
from distributed import Client
client = Client({scheduler!r})
dask = bide.Dask(client)
workflow = bide.Workflow("w", [bide.task(remote_bodies.returns_when_told, executor=dask)])
with bide.Runner(db) as runner:
    run = runner.submit(workflow, {{"folder": folder}}, key="k")
    if words:
        (folder / "go").touch()
        say("ended", run.result().tasks["returns_when_told"].attempts)
        while client.list_datasets():
            time.sleep(0.01)
    else:
        stay()
client.close()
"""
    with Child(script, file) as child:
        eventually(lambda: remote_bodies.notes(tmp_path, "entered"), "the body executes")
        eventually(client.list_datasets, "it is published")
        child.kill()
    assert ran(script, file, "again")[-1] == "ended 1"
    assert len(remote_bodies.notes(tmp_path, "entered")) == 1


def test_a_scheduler_that_is_gone_is_an_error_of_the_attempt(tmp_path: Path) -> None:
    script = CLUSTER.replace("processes=False", 'processes=False, protocol="tcp", host="127.0.0.1"')
    with subprocess.Popen(
        [sys.executable, "-c", script, str(TESTS)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as cluster:
        assert cluster.stdout is not None
        address = json.loads(cluster.stdout.readline())
        with distributed.Client(address, timeout=2, set_as_default=False) as client:
            workflow = alone(remote_bodies.returns_when_told, bide.Dask(client))
            with bide.Runner(":memory:") as runner:
                run = runner.submit(workflow, {"folder": tmp_path})
                eventually(lambda: remote_bodies.notes(tmp_path, "entered"), "the body executes")
                cluster.send_signal(signal.SIGKILL)
                with pytest.raises(bide.RunFailed, match=r"task 'body': bide\.Dask"):
                    run.result()
                with pytest.raises(bide.RunFailed, match=r"task 'body': bide\.Dask"):
                    runner.run(workflow, {"folder": tmp_path})


def test_what_is_no_client_is_refused() -> None:
    with pytest.raises(bide.DefinitionError, match=r"bide.Dask takes a dask.distributed.Client, not 'tcp://x'"):
        bide.Dask("tcp://x")
