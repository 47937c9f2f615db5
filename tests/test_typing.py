"""The annotations: mypy and pyright pass correct code at their strictest, and reject wrong code."""

import importlib.util
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import bide

HERE = Path(__file__).parent
TYPING = HERE / "typing_cases"
PACKAGE = Path(bide.__path__[0])

pytestmark = [
    pytest.mark.parametrize("checker", ["mypy", "basedpyright"]),
    pytest.mark.xdist_group("typing"),  # they share a cache
]


def complaints(checker: str, file: Path, cache: Path, *, strict: bool = True) -> dict[int, list[str]]:
    """Return what a type checker reports for a file, by line."""
    if importlib.util.find_spec(checker) is None:
        pytest.skip(f"{checker} is not installed")
    return of_mypy(file, cache) if checker == "mypy" else of_pyright(file, cache, strict=strict)


def of_mypy(file: Path, cache: Path) -> dict[int, list[str]]:
    done = subprocess.run(
        [sys.executable, "-m", "mypy", "--strict", "--config-file=", f"--cache-dir={cache}", str(file)],
        capture_output=True,
        text=True,
        check=False,
        cwd=cache,
        env={**os.environ, "MYPYPATH": str(PACKAGE.parent)} if "site-packages" not in PACKAGE.parts else None,
    )
    assert done.returncode in {0, 1}, done.stdout + done.stderr
    found: dict[int, list[str]] = {}
    for line in done.stdout.splitlines():
        if (match := re.match(r".*?\.pyi?:(\d+): error: (.*)", line)) is not None:
            assert file.name in line, f"an error in bide itself: {line}"
            found.setdefault(int(match[1]), []).append(match[2])
    return found


def of_pyright(file: Path, cache: Path, *, strict: bool) -> dict[int, list[str]]:
    settings: dict[str, Any] = {
        "include": [str(file)],
        "extraPaths": [str(PACKAGE.parent)],
        "pythonVersion": "3.11",
        "typeCheckingMode": "strict" if strict else "standard",
        "reportMissingModuleSource": False,  # the extension has a stub
    }
    (cache / "pyrightconfig.json").write_text(json.dumps(settings))
    done = subprocess.run(
        [sys.executable, "-m", "basedpyright", "-p", str(cache), "--outputjson", "--pythonpath", sys.executable],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode in {0, 1}, done.stdout + done.stderr
    said = json.loads(done.stdout)
    assert said["summary"]["filesAnalyzed"] == 1
    found: dict[int, list[str]] = {}
    for one in said["generalDiagnostics"]:
        assert Path(one["file"]).name == file.name, f"an error in bide itself: {one}"
        found.setdefault(one["range"]["start"]["line"] + 1, []).append(one["message"])
    return found


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("types")


def test_right_code_passes(checker: str, cache: Path) -> None:
    assert complaints(checker, TYPING / "good.py", cache) == {}


def test_exactly_the_wrong_lines_are_rejected(checker: str, cache: Path) -> None:
    file = TYPING / "wrong.py"
    marked = {n for n, line in enumerate(file.read_text().splitlines(), 1) if line.endswith("# wrong")}
    found = complaints(checker, file, cache, strict=False)
    accepted = marked - found.keys()
    refused = {n: found[n] for n in found.keys() - marked}
    assert not accepted, f"accepted, although wrong: lines {sorted(accepted)}"
    assert not refused, f"refused, although right: {refused}"
