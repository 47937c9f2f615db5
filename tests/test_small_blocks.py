"""A full disk with blocks smaller than a page raises an error, never a bus error.

SQLite maps the index of its log into memory; access to an address without a block, on a full disk, would end the
process. The test mounts real file systems from files in its own mount namespace, which only root may do.
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import bide

SCRIPT = """
import os, subprocess, sys
import bide

image, folder, free, moment = sys.argv[1], sys.argv[2], int(sys.argv[3]), sys.argv[4]
subprocess.run(["mount", "-o", "loop", image, folder], check=True)
os.chdir(folder)

def fill():
    "Leave this many KiB free."
    keep = os.open("keep", os.O_CREAT | os.O_WRONLY)
    os.posix_fallocate(keep, 0, free * 1024 or 1)
    with open("rest", "wb", buffering=0) as rest:
        for size in (65536, 1024, 1):
            try:
                while True:
                    rest.write(b"x" * size)
            except OSError:
                pass
    os.close(keep)
    os.unlink("keep")
    os.sync()

@bide.task
def work(n: int) -> str:
    return "x" * 3000

workflow = bide.Workflow("work", [work])
outcome = "no error"
try:
    bide.Runner("bide.db", workflows=[workflow]).close()
    if moment == "opened":
        fill()
    with bide.Runner("bide.db", workflows=[workflow]) as runner:
        if moment == "running":
            fill()
        for n in range(2000):
            runner.run(workflow, {"n": n})
except bide.StoreError as error:
    outcome = str(error)
print(outcome)
"""


MAKES, ALONE, MOUNTS = (shutil.which(tool) or "" for tool in ("mkfs.ext4", "unshare", "mount"))


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if not (sys.platform == "linux" and os.geteuid() == 0 and MAKES and ALONE and MOUNTS):
        pytest.skip("only root on Linux can make and mount a file system")
    image = tmp_path_factory.mktemp("image") / "small"
    with image.open("wb") as file:
        file.truncate(4 << 20)
    subprocess.run([MAKES, "-q", "-b", "1024", "-m", "0", image], check=True)
    tried = subprocess.run(
        [ALONE, "-m", MOUNTS, "-o", "loop", image, image.parent], capture_output=True, text=True, check=False
    )
    if tried.returncode != 0:
        pytest.skip(f"no file system can be mounted here: {tried.stderr}")
    return image


@pytest.mark.parametrize("moment", ["opened", "running"])
@pytest.mark.parametrize("free", [0, 1, 2, 4, 6, 8, 12, 16, 20, 24, 32, 40, 48, 64, 96, 160])
def test_a_full_disk_with_small_blocks_is_an_error(image: Path, tmp_path: Path, free: int, moment: str) -> None:
    copy, folder = tmp_path / "image", tmp_path / "folder"
    shutil.copy(image, copy)
    folder.mkdir()
    done = subprocess.run(
        [ALONE, "-m", sys.executable, "-c", SCRIPT, copy, folder, str(free), moment],
        capture_output=True,
        text=True,
        timeout=60,
        env={**os.environ, "PYTHONPATH": str(Path(bide.__path__[0]).parent)},
        check=False,
    )
    assert done.returncode == 0, done.stderr  # a bus error is -7
    assert "the disk is full" in done.stdout
