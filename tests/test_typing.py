"""The annotations: correct code passes a strict type checker, and wrong code does not."""

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import bide

HERE = Path(__file__).parent
TYPING = HERE / "typing_cases"

pytestmark = [
    pytest.mark.skipif(importlib.util.find_spec("mypy") is None, reason="mypy is not installed"),
    pytest.mark.xdist_group("typing"),  # they share a cache
]


def complaints(file: Path, cache: Path) -> dict[int, list[str]]:
    """Return what mypy reports for a file, by line."""
    package = Path(bide.__path__[0])
    done = subprocess.run(
        [sys.executable, "-m", "mypy", "--strict", "--config-file=", f"--cache-dir={cache}", str(file)],
        capture_output=True,
        text=True,
        check=False,
        cwd=cache,
        env={**os.environ, "MYPYPATH": str(package.parent)} if "site-packages" not in package.parts else None,
    )
    assert done.returncode in {0, 1}, done.stdout + done.stderr
    found: dict[int, list[str]] = {}
    for line in done.stdout.splitlines():
        if (match := re.match(r".*?\.pyi?:(\d+): error: (.*)", line)) is not None:
            assert file.name in line, f"an error in bide itself: {line}"
            found.setdefault(int(match[1]), []).append(match[2])
    return found


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("mypy")


def test_right_code_passes(cache: Path) -> None:
    assert complaints(TYPING / "good.py", cache) == {}


def test_exactly_the_wrong_lines_are_rejected(cache: Path) -> None:
    file = TYPING / "wrong.py"
    marked = {n for n, line in enumerate(file.read_text().splitlines(), 1) if line.endswith("# wrong")}
    found = complaints(file, cache)
    accepted = marked - found.keys()
    refused = {n: found[n] for n in found.keys() - marked}
    assert not accepted, f"accepted, although wrong: lines {sorted(accepted)}"
    assert not refused, f"refused, although right: {refused}"
