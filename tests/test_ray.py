"""`bide.Ray`: bodies in actors of a Ray cluster. Run by `make test-ray` alone: `scripts/test-ray` says why."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import bide
import remote_bodies
from processes import Child, eventually, ran
from test_other_processes import SCRIPT, TESTS, alone

if "BIDE_TEST_RAY" not in os.environ:
    pytest.skip("Ray is tested by make test-ray", allow_module_level=True)

ray = pytest.importorskip("ray", reason="Ray is not installed")

pytestmark = pytest.mark.filterwarnings("ignore")  # Ray has some of its own


@pytest.fixture(scope="module", autouse=True)
def cluster() -> Iterator[None]:
    """A cluster on this machine, which processes of tests connect to."""
    os.environ["PYTHONPATH"] = os.pathsep.join([str(Path(bide.__path__[0]).parent), str(TESTS)])
    ray.init(num_cpus=2, include_dashboard=False, namespace="tests", log_to_driver=False)
    yield
    ray.shutdown()


def actors() -> list[str]:
    """Return the names of the actors that hold calls."""
    return [one["name"] for one in ray.util.list_named_actors(all_namespaces=True) if one["namespace"] == "bide"]


def test_values_go_through_ray_and_their_actors_end(file: Path) -> None:
    executor = bide.Ray()
    first, second = (bide.task(one, executor=executor) for one in (remote_bodies.squares, remote_bodies.total))
    with bide.Runner(file) as runner:
        assert runner.run(bide.Workflow("w", [first, second]), {"count": 4})["total"] == 14
        eventually(lambda: not actors(), "the actors are gone")


def test_an_exception_comes_back_from_ray() -> None:
    with bide.Runner(":memory:") as runner:
        with pytest.raises(bide.RunFailed) as failed:
            runner.run(alone(remote_bodies.declines, bide.Ray()))
        eventually(lambda: not actors(), "the actor is gone")
    assert isinstance(failed.value.__cause__, remote_bodies.Declined)


@pytest.mark.parametrize("how", ["cancel", "timeout", "dies"])
def test_the_end_of_a_call_before_its_time_ends_its_actor(how: str, tmp_path: Path) -> None:
    fn: Any = remote_bodies.exits if how == "dies" else remote_bodies.stays
    inputs = {} if how == "dies" else {"folder": tmp_path}
    with bide.Runner(":memory:") as runner:
        run = runner.submit(alone(fn, bide.Ray(), timeout=10 if how == "timeout" else None), inputs)
        if how != "dies":
            eventually(lambda: remote_bodies.notes(tmp_path, "stays"), "the body executes")
            assert "on Ray, in the actor 'bide-" in str(run.why())
        if how == "cancel":
            run.cancel()
        expected = {"cancel": "cancelled", "timeout": "not done 10 s after", "dies": "Ray has lost the call"}
        with pytest.raises(bide.RunFailed, match=expected[how]):
            run.result()
        eventually(lambda: not actors(), "the actor is gone")


def test_a_call_outlives_its_runner_and_is_executed_once(file: Path, tmp_path: Path) -> None:
    script = f"""{SCRIPT}
import ray
ray.init(address="auto", log_to_driver=False)
workflow = bide.Workflow("w", [bide.task(remote_bodies.returns_when_told, executor=bide.Ray())])
with bide.Runner(db) as runner:
    run = runner.submit(workflow, {{"folder": folder}}, key="k")
    if words:
        (folder / "go").touch()
        say("ended", run.result().tasks["returns_when_told"].attempts)
        while ray.util.list_named_actors(all_namespaces=True):
            time.sleep(0.01)
    else:
        stay()
"""
    with Child(script, file) as child:
        eventually(lambda: remote_bodies.notes(tmp_path, "entered"), "the body executes")
        child.kill()
    assert ran(script, file, "again")[-1] == "ended 1"
    assert len(remote_bodies.notes(tmp_path, "entered")) == 1
