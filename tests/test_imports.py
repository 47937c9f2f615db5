"""`import bide` is quick because it imports little: rarely used modules are imported on first use."""

import subprocess
import sys
from pathlib import Path

import pytest

import bide

LATE = {
    "asyncio",
    "bide._canonical",
    "bide._draw",
    "bide._fingerprint",
    "bide._logging",
    "bide._plain_snapshot",
    "bide._stored_errors",
    "concurrent",
    "dataclasses",
    "decimal",
    "difflib",
    "hashlib",
    "html",
    "json",
    "logging",
    "numpy",
    "pathlib",
    "pickle",
    "pydantic",
    "queue",
    "signal",
    "socket",
    "sqlite3",
    "ssl",
    "subprocess",
    "tempfile",
    "traceback",
    "unicodedata",
    "zoneinfo",
}


def added_by(statement: str, before: str) -> set[str]:
    """Return the modules that a statement imports in a new process, after another statement."""
    script = f"import sys\n{before}\nbefore = set(sys.modules)\n{statement}\nprint(*sys.modules.keys() - before)"
    done = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True)
    return set(done.stdout.split())


def test_importing_bide_imports_nothing_that_few_programs_use() -> None:
    assert added_by("import bide", before="import msgspec") & LATE == set()


def test_listing_runs_from_the_command_line_imports_nothing_that_other_commands_need(file: Path) -> None:
    with bide.Runner(file):
        pass
    script = f"from bide._cli import main\nsys.argv = ['bide', 'runs', {str(file)!r}, '-o', 'jsonl']\n"
    script += "try:\n    main()\nexcept SystemExit:\n    pass"
    late = {"rich", "sqlite3", "asyncio", "subprocess", "tempfile", "bide._cli._act", "bide._cli._serve"}
    imported = added_by(script, before="")
    assert "bide._cli._look" in imported
    assert imported & late == set()


@pytest.mark.parametrize("name", ["LogFilter", "install_log_record_factory"])
def test_a_name_that_is_imported_late_is_one_like_all_others(name: str) -> None:
    shown = f"import bide\nassert {name!r} in dir(bide)\nfrom bide import *\nassert {name} is bide.{name}"
    assert "bide._logging" in added_by(shown, before="")
    assert getattr(bide, name).__name__ == name


def test_a_name_that_is_not_there_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="module 'bide' has no attribute 'Tsak'"):
        _ = bide.Tsak
