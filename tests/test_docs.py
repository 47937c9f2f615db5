"""The examples in the documentation run unchanged: each page is one script."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PAGES = [
    "docs/asyncio.md",
    "docs/steps.md",
    "docs/workflows.md",
    "docs/messages.md",
    "docs/live.md",
    "docs/intervening.md",
    "docs/limits.md",
    "docs/other-processes.md",
    "docs/deploying.md",
    "docs/running.md",
    "docs/schedules.md",
    "docs/telemetry.md",
    "docs/testing.md",
    "docs/transactions.md",
    "docs/watches.md",
    "README.md",
]


@pytest.mark.parametrize("page", PAGES)
def test_the_examples_of_a_page_run(page: str, tmp_path: Path) -> None:
    blocks = re.findall(r"^```python\n(.*?)^```", (ROOT / page).read_text(), re.DOTALL | re.MULTILINE)
    assert blocks
    (tmp_path / "page.py").write_text("\n\n".join(blocks))
    (tmp_path / "data.csv").write_text("1,2,3\n")
    script = [sys.executable, "page.py"]
    done = subprocess.run(script, cwd=tmp_path, env=os.environ, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr


def test_links_between_pages_lead_somewhere() -> None:
    for page in [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), ROOT / "benchmarks" / "README.md"]:
        for target in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", page.read_text()):
            if "://" not in target:
                assert (page.parent / target).exists(), f"{page.name} links to {target}"


# The directories of files that a page names without one.
PLACES = ["", "rust/", "python/bide/", "rust/store/src/", "rust/executor/src/", "rust/core/src/", "rust/sched/src/"]


def test_files_that_the_internals_name_exist() -> None:
    sources = {path.relative_to(ROOT).as_posix() for path in ROOT.glob("*/**/*") if "target" not in path.parts}
    for page in [ROOT / "ARCHITECTURE.md", *ROOT.glob("docs/internals/*.md"), *ROOT.glob("docs/decisions/*.md")]:
        for name in re.findall(r"`([\w./*-]+(?:\.rs|\.py|\.pyi|\.md|\.toml|/))`", page.read_text()):
            found = name.replace("000N", "0001").rstrip("/")
            known = any(place + found in sources for place in PLACES) or any(s.endswith("/" + found) for s in sources)
            assert known or any(ROOT.glob(found)), f"{page.name} names {name}"
