"""A job on a remote cluster that is submitted once, although the process dies while it waits for the job.

    python examples/batch_job.py

The script starts itself as a worker, which submits the job, polls it, and is killed with
SIGKILL. Then the job finishes. The script runs the same workflow on the same file: it
continues that run, finds the job's id in the journal, and collects the result. A folder
stands for the cluster, with a file for each job.
"""

import signal
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

import bide

KEY = "train 2026-11-24"


def submit(cluster: Path, data: str, token: str) -> str:
    """Create a job and return its id, which is made of the token: one token is one job."""
    job = f"job-{token[:13]}"
    with (cluster / f"{job}.submitted").open("a") as file:
        file.write(f"{data}\n")
    return job


def model_of(cluster: Path, job: str) -> str | None:
    """Return what the job has made, or None while it computes."""
    (cluster / f"{job}.polled").touch()
    finished = cluster / f"{job}.finished"
    return finished.read_text() if finished.exists() else None


@bide.task
def train(cluster: Path, data: str, handle: bide.TaskHandle) -> str:
    # Recorded before the wait begins. The token is for a death between the request and its record.
    job = handle.step(submit, cluster, data, token=handle.run_id)
    return handle.defer_until(lambda: model_of(cluster, job), poll_interval_ms=100, timeout=24 * 3600)


@bide.task
def publish(train: str) -> str:
    return f"published {train}"


workflow = bide.Workflow("training", [train, publish])


def run(folder: Path) -> bide.RunResult:
    """Start the run, or continue it if it exists; return its result."""
    with bide.Runner(folder / "bide.db") as runner:
        return runner.run(workflow, {"cluster": folder / "cluster", "data": "orders.csv"}, key=KEY)


def main() -> None:
    """Kill a worker during the wait, finish the job, continue the run, and check what the cluster saw."""
    with tempfile.TemporaryDirectory() as name:
        cluster = Path(name) / "cluster"
        cluster.mkdir()
        with subprocess.Popen([sys.executable, __file__, name]) as worker:
            while not (polled := list(cluster.glob("*.polled"))) and worker.poll() is None:
                threading.Event().wait(0.02)
            worker.kill()
        assert polled, "the worker ended before it waited"
        polled[0].with_suffix(".finished").write_text("model 7")

        result = run(Path(name))
        jobs = [job.read_text() for job in cluster.glob("*.submitted")]
        print(f"worker:   ended by {signal.Signals(-worker.returncode).name} while it waited")
        print(f"cluster:  {len(jobs)} job, submitted {len(jobs[0].splitlines())} time")
        print(f"publish:  {result[publish]}")
        assert (result[publish], jobs) == ("published model 7", ["orders.csv\n"])


if __name__ == "__main__":
    run(Path(sys.argv[1])) if sys.argv[1:] else main()
