"""The pytest plugin: its fixtures, and that pytest starts without bide."""

import os
import subprocess
import sys
from pathlib import Path

import bide

SOURCES = str(Path(bide.__file__).parent.parent)

WITH_FIXTURES = """
import bide

DAY = 86_400


@bide.task
def order(handle: bide.TaskHandle) -> str:
    handle.sleep(30 * DAY)
    return handle.wait_for("approval", str)


@bide.task(name="order")
async def order_async(handle: bide.AsyncTaskHandle) -> str:
    await handle.sleep(30 * DAY)
    return await handle.wait_for("approval", str)


def test_def(bide_runner, bide_clock):
    begun = bide_clock.now
    run = bide_runner.submit(bide.Workflow("orders", [order]))
    bide_clock.advance(30 * DAY)
    run.signal("approval", "fine")
    assert run.result()["order"] == "fine"
    assert (bide_runner.now - begun).days == 30


async def test_async_def(bide_runner):
    run = await bide_runner.submit_async(bide.Workflow("orders", [order_async]))
    await run.signal_async("approval", "fine")
    assert (await run)["order"] == "fine"


def test_unused(bide_runner):
    bide_runner.stub_step("charge", 1)
"""


def run_pytest(folder: Path, source: str, *options: str) -> subprocess.CompletedProcess[str]:
    (folder / "test_it.py").write_text(source)
    command = [sys.executable, *options, "-m", "pytest", "-p", "bide_pytest", "-q", "-o", "asyncio_mode=auto"]
    env = os.environ | {"PYTHONPATH": SOURCES}
    return subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, timeout=60, check=False)


def test_the_fixtures_give_a_runner_and_its_clock(tmp_path: Path) -> None:
    done = run_pytest(tmp_path, WITH_FIXTURES)
    assert "3 passed, 1 error" in done.stdout, done.stdout + done.stderr
    assert "stub_step('charge') was never called" in done.stdout


def test_pytest_starts_and_runs_other_tests_without_importing_bide(tmp_path: Path) -> None:
    source = "import sys\n\ndef test_it():\n    assert 'bide_pytest' in sys.modules and 'bide' not in sys.modules\n"
    done = run_pytest(tmp_path, source, "-X", "importtime")
    assert "1 passed" in done.stdout, done.stdout + done.stderr
    imported = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines() if "|" in line}
    assert "_pytest.fixtures" in imported
    assert not {name for name in imported if name.split(".")[0] in {"bide", "msgspec"}}


def test_pytest_does_not_rewrite_the_modules_of_bide(tmp_path: Path) -> None:
    source = "import bide._mail\n\ndef test_it():\n    assert 'Rewrit' not in type(bide._mail.__loader__).__name__\n"
    done = run_pytest(tmp_path, source)
    assert "1 passed" in done.stdout, done.stdout + done.stderr
