"""Locations and names of the file."""

import os
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

import bide
from kept_runs import kept
from processes import PATIENCE, PRELUDE


def test_a_network_file_system_is_refused_naming_it(tmp_path: Path) -> None:
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("a network file system is imitated by a library that a C compiler makes, and there is none")
    source = tmp_path / "nfs.c"
    source.write_text(
        "#include <sys/vfs.h>\n#include <string.h>\n"
        "int statfs(const char *path, struct statfs *to) "
        "{ memset(to, 0, sizeof *to); to->f_type = 0x6969; return 0; }\n"
        "int statfs64(const char *path, struct statfs64 *to) "
        "{ memset(to, 0, sizeof *to); to->f_type = 0x6969; return 0; }\n"
    )
    library = tmp_path / "nfs.so"
    subprocess.run([compiler, "-D_GNU_SOURCE", "-shared", "-fPIC", "-o", library, source], check=True)
    script = """
    try:
        bide.Runner(db)
    except bide.StoreError as error:
        say(error)
    say(Path(db).exists())
    """
    got = subprocess.run(
        [sys.executable, "-c", PRELUDE + textwrap.dedent(script), str(tmp_path / "bide.db")],
        env={**os.environ, "PYTHONPATH": str(Path(bide.__path__[0]).parent), "LD_PRELOAD": str(library)},
        capture_output=True,
        text=True,
        check=True,
        timeout=PATIENCE,
    )
    message, exists = got.stdout.splitlines()
    assert str(tmp_path / "bide.db") in message
    assert "network file system (nfs)" in message
    assert "use a local path" in message
    assert exists == "False"


@pytest.mark.parametrize(
    "name", ["a?mode=ro.db", "a#b.db", "100%41.db", "new\nline.db", " x ", "\U0001f980.db", os.fsdecode(b"\xff\xfe.db")]
)
def test_a_file_may_have_any_name(tmp_path: Path, name: str) -> None:
    file = tmp_path / name
    with bide.Runner(file) as runner:
        assert runner.run(bide.Workflow("w", [kept]), key="k", timeout=PATIENCE)["kept"] == "kept"
    assert file.exists()
    with bide.Runner(str(file)) as runner:
        assert runner.get("k")["kept"] == "kept"


def test_a_path_that_cannot_be_a_file_is_refused_naming_it(tmp_path: Path) -> None:
    cases: dict[str | Path, str] = {
        tmp_path / "nowhere" / "bide.db": "does not exist; create it",
        tmp_path: "it is a directory; name a file in it",
        Path("/dev/null"): "not a regular file",
        tmp_path / ("d" * 250) / ("x" * 250): "does not exist",
        tmp_path / ("x" * 248): "its name is longer than 247 bytes",
        f"{tmp_path}/new.db/": "ends with a slash",
        tmp_path / "text" / "bide.db": "text is not a directory",
        f"{tmp_path}/text/": "ends with a slash",
        "~/bide/bide.db": "~ does not stand for the home directory",
    }
    (tmp_path / "text").touch()
    for path, reason in cases.items():
        with pytest.raises(bide.StoreError, match=reason) as raised:
            bide.Runner(path)
        assert str(path) in str(raised.value)
