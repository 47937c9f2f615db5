"""Names of the store's file: second names, dangling links, files that others can read, and too many open files."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

import bide
from processes import Child, ran

FLOW = """
import logging
logging.basicConfig(stream=sys.stdout, format="log %(levelname)s %(message)s", force=True)

@bide.task
def work(n: int) -> int:
    return n

workflow = bide.Workflow("w", [work])

def put(name, base):
    with bide.Runner(name) as runner:
        for n in range(10):
            runner.run(workflow, {"n": n}, key=f"{base}-{n}")
"""

PUTS = (
    FLOW
    + """
try:
    put(db, words[0])
    say("done")
except bide.StoreError as error:
    say("refused", error)
"""
)


@bide.task
def work(n: int) -> int:
    return n


workflow = bide.Workflow("w", [work])


def link(file: Path, second: Path) -> None:
    os.link(file, second)


def link_all(file: Path, second: Path) -> None:
    for suffix in ("", "-wal", "-shm", "-lock"):
        os.link(f"{file}{suffix}", f"{second}{suffix}")


def sym_and_link(file: Path, second: Path) -> None:
    os.link(file, second.with_suffix(".hard"))
    second.symlink_to(second.with_suffix(".hard").name)


@pytest.mark.parametrize("make", [link, link_all, sym_and_link])
@pytest.mark.parametrize("where", [".", "sub"])
def test_a_hard_link_is_refused_by_another_process(file: Path, make: Callable[[Path, Path], None], where: str) -> None:
    second = file.parent / where / "two.db"
    second.parent.mkdir(exist_ok=True)
    with bide.Runner(file) as runner:
        runner.run(workflow, {"n": 0}, key="first")
        make(file, second)
        said = ran(PUTS, second, "two")[-1]
        assert said.startswith("refused ")
        assert str(second) in said
        assert "hard links" in said
        assert ran(PUTS, file, "one")[-1] == "done"
        for n in range(10):
            runner.run(workflow, {"n": n}, key=f"own-{n}")
    with bide.Runner(file) as runner:
        assert len(runner.runs()) == 21


def test_a_hard_link_shares_everything_within_a_process(file: Path) -> None:
    second = file.parent / "two.db"
    with bide.Runner(file) as one:
        one.run(workflow, {"n": 0}, key="k")
        os.link(file, second)
        with bide.Runner(second) as two:
            assert two.run(workflow, {"n": 1}, key="l")["work"] == 1
            assert two.get("k")["work"] == 0
        assert one.get("l")["work"] == 1


def test_a_link_under_a_running_store_is_reported_once(file: Path) -> None:
    script = (
        FLOW
        + """
with bide.Runner(db) as runner:
    runner.run(workflow, {"n": 0})
    os.link(db, db + ".backup")
    say("linked")
    while Path(db + ".backup").exists():
        time.sleep(0.001)
"""
    )
    with Child(script, file) as child:
        child.expect("linked")
        warning = child.after("log WARNING")
        assert str(file) in warning
        assert "2 names" in warning
        Path(f"{file}.backup").unlink()
        assert [line for line in child.join() if "names" in line] == [f"log WARNING {warning}"]


MOUNTS = """
import ctypes, subprocess
second = os.path.join(os.path.dirname(db), "container", "two.db")
os.mkdir(os.path.dirname(second))
open(second, "w").close()
libc = ctypes.CDLL(None)
new_namespace, private = 0x20000, 0x4000 | 0x40000
alone = libc.unshare(new_namespace) == 0 and libc.mount(None, b"/", None, private, None) == 0
if not alone or subprocess.run(["mount", "--bind", db, second]).returncode:
    say("cannot mount")
else:
    try:
        bide.Runner(second)
    except bide.StoreError as error:
        say("refused", error)
    say(*os.listdir(os.path.dirname(second)))
    bide.Runner(db).close()
"""


def test_a_file_that_is_mounted_alone_is_refused(file: Path) -> None:
    bide.Runner(file).close()
    said = ran(MOUNTS, file)
    if said == ["cannot mount"]:
        pytest.skip("only root on Linux can mount a file")
    assert said[0].startswith("refused ")
    assert "mount the directory" in said[0]
    assert said[1:] == ["two.db"]


@pytest.mark.parametrize("target", ["volume/state.db", "./volume/../volume/state.db", "{}/volume/state.db"])
def test_a_dangling_link_names_the_file_to_make(tmp_path: Path, target: str) -> None:
    (tmp_path / "volume").mkdir()
    path = tmp_path / "state.db"
    path.symlink_to(target.format(tmp_path))
    with bide.Runner(path) as runner:
        assert runner.run(workflow, {"n": 1}, key="k")["work"] == 1
    assert (tmp_path / "volume" / "state.db").is_file()
    with bide.Runner(path) as runner:
        assert runner.get("k")["work"] == 1


@pytest.mark.parametrize("target", ["volume/state.db", "/nowhere/at/all/state.db", "again.db", "state.db"])
def test_a_link_that_leads_nowhere_is_refused_in_words_that_say_so(tmp_path: Path, target: str) -> None:
    (tmp_path / "again.db").symlink_to("missing/further.db")
    path = tmp_path / "state.db"
    path.symlink_to(target)
    with pytest.raises(bide.StoreError) as raised:
        bide.Runner(path)
    message = str(raised.value)
    assert str(path) in message
    if target == "state.db":
        assert "in a circle" in message
    else:
        assert "is a symbolic link to" in message
        assert "does not exist; create it" in message
    assert "deleted" not in message
    assert ": :" not in message


def test_too_many_open_files_are_named_at_any_point(file: Path) -> None:
    script = """
import resource
hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
bide.Runner(f"{db}.0").close()  # imports what it needs
opened = refused = 0
for left in range(24):
    held = [os.open("/dev/null", os.O_RDONLY)]
    resource.setrlimit(resource.RLIMIT_NOFILE, (held[0] + 1 + left, hard))
    try:
        bide.Runner(f"{db}.{left % 2}").close()
        opened += 1
    except bide.StoreError as error:
        refused += 1
        assert f"{db}.{left % 2}" in str(error), error
        assert "too many files open" in str(error) and f"its limit is {held[0] + 1 + left}" in str(error), error
        assert "ulimit -n" in str(error), error
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        os.close(held[0])
bide.Runner(f"{db}.0").close()
say(opened, refused)
"""
    opened, refused = map(int, ran(script, file)[-1].split())
    assert opened > 5
    assert refused > 5


@pytest.mark.parametrize(("mode", "expected"), [(0o600, 0), (0o640, 1), (0o644, 1), (0o666, 1), (0o604, 1), (0o620, 1)])
def test_a_file_that_others_can_read_is_reported_once(file: Path, mode: int, expected: int) -> None:
    script = FLOW + "put(db, 'a')\nput(db, 'b')\nwith bide.Runner(db):\n    put(db, 'c')\n"
    bide.Runner(file).close()
    file.chmod(mode)
    said = [line for line in ran(script, file) if line.startswith("log")]
    assert len(said) == expected, said
    if expected:
        assert said[0].startswith("log WARNING ")
        assert str(file) in said[0]
        assert f"{mode:04o}" in said[0]


def test_a_new_file_is_its_owners_alone_and_nothing_is_reported(file: Path) -> None:
    said = ran(FLOW + "os.umask(0)\nput(db, 'a')\nput(db, 'b')\n", file)
    assert said == []
    assert file.stat().st_mode & 0o777 == 0o600
