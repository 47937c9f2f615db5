"""bide in a program that embeds Python and has no main module: it starts, waits and exits as usual.

The C program is compiled here against each installed CPython that has headers and a library. The summary names the
versions that were not tried.
"""

import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from pythons import HERE, PYTHONS, Done, Jobs, Place, jobs

pytestmark = pytest.mark.xdist_group("embedding")  # the first of them starts the jobs that all wait for

COMPILER = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")

PROGRAM = r"""
#include <Python.h>

/* Runs a module of its own that is called "host"; "__main__" is taken away first. */
static int run(const char *path)
{
    char text[1 << 16];
    FILE *file = fopen(path, "r");
    if (file == NULL)
        return 90;
    text[fread(text, 1, sizeof text - 1, file)] = 0;
    fclose(file);
    if (PyDict_DelItemString(PyImport_GetModuleDict(), "__main__") != 0)
        return 91;
    PyObject *module = PyImport_AddModule("host");
    PyObject *names = PyModule_GetDict(module);
    PyObject *result = PyRun_String(text, Py_file_input, names, names);
    if (result == NULL) {
        PyErr_Print();
        return 92;
    }
    Py_DECREF(result);
    return 0;
}

static int begin(char **arguments)
{
    PyConfig config;
    PyConfig_InitPythonConfig(&config);
    PyConfig_SetBytesString(&config, &config.executable, arguments[1]);
    PyConfig_SetBytesString(&config, &config.program_name, arguments[1]);
    PyStatus status = Py_InitializeFromConfig(&config);
    PyConfig_Clear(&config);
    return PyStatus_Exception(status) ? 93 : 0;
}

/* embed PYTHON SCRIPT HOW: "ends" finalizes, "again" does it all twice, "leaves" does not finalize. */
int main(int count, char **arguments)
{
    int code, rounds = strcmp(arguments[3], "again") == 0 ? 2 : 1;
    while (rounds--) {
        if ((code = begin(arguments)) != 0 || (code = run(arguments[2])) != 0)
            return code;
        if (strcmp(arguments[3], "leaves") == 0) {
            /* As a program that has its own loop: nobody holds the interpreter when it ends. */
            PyEval_SaveThread();
            return 7;
        }
        if (Py_FinalizeEx() != 0)
            return 94;
    }
    return 0;
}
"""

FIRST = """
import sys
sys.path[:0] = [HERE]
from exit_prelude import *
from parked import *
assert "__main__" not in sys.modules
p = pool(2)
assert go(p, lambda h: h.step(lambda: 7)).result() == 7
go(p, forever)
handles = p.runner.submit_many(workflow, [{"n": n} for n in range(20)], keys=map(str, range(20)))
until(lambda: all(deferred(handle) for handle in handles))
print("parked", flush=True)
"""
SECOND = """
from exit_prelude import *
from parked import *
flag.touch()
with bide.Runner(store(), workflows=[workflow]) as runner:
    for n in range(20):
        assert runner.run(workflow, {"n": n}, key=str(n))["waits"][0] == n
print("resumed")
"""
TWICE = """
import sys
sys.path[:0] = [HERE]
try:
    import bide
except ImportError as e:
    sys.stdout.write("refused: " + str(e) + chr(10))
else:
    runner = bide.Runner(":memory:")
    one = bide.Workflow("one", [bide.task(lambda: 7, name="one")])
    sys.stdout.write(str(runner.run(one)["one"]) + chr(10))
sys.stdout.flush()
"""

ASK = "import sysconfig; print(*map(sysconfig.get_config_var, ('INCLUDEPY', 'LIBDIR', 'LDVERSION')), sep=chr(10))"


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Jobs]:
    with jobs() as running:
        for version in PYTHONS:
            running.start(version, compiled, version, tmp_path_factory.mktemp("embed"))
        yield running


def compiled(version: str, files: Path) -> Path | None:
    """The program for one CPython, or None if it cannot be built."""
    asked = subprocess.run([PYTHONS[version], "-c", ASK], capture_output=True, text=True, check=True, timeout=60)
    include, library, name = asked.stdout.splitlines()
    if COMPILER is None or not Path(include, "Python.h").exists():
        return None
    source, program = files / "embed.c", files / "embed"
    source.write_text(PROGRAM)
    linked = [f"-L{library}", f"-Wl,-rpath,{library}", f"-lpython{name}"]
    done = subprocess.run([COMPILER, source, f"-I{include}", "-o", program, *linked], check=False, capture_output=True)
    return program if done.returncode == 0 else None


def embed(outcomes: Jobs, version: str, files: Path, script: str, how: str) -> tuple[Place, Done]:
    program = outcomes.result(version)
    if program is None:
        pytest.skip(f"no C compiler, or no headers and library of CPython {version}: embedding is not tried on it")
    place = Place(PYTHONS[version], files, str(files))
    (files / "host.py").write_text(script.replace("HERE", repr(str(HERE))))
    return place, place.call([str(program), PYTHONS[version], str(files / "host.py"), how])


@pytest.mark.parametrize(("how", "code"), [("ends", 0), ("leaves", 7)])
@pytest.mark.parametrize("version", PYTHONS)
def test_a_program_ends_with_parked_bodies_and_the_next_resumes_them(
    version: str, how: str, code: int, outcomes: Jobs, tmp_path: Path
) -> None:
    place, done = embed(outcomes, version, tmp_path, FIRST, how)
    assert (done.code, done.err, done.out) == (code, "", "parked\n")
    done = place.run(SECOND)
    assert (done.code, done.err, done.out) == (0, "", "resumed\n")


@pytest.mark.parametrize("version", PYTHONS)
def test_the_interpreter_that_comes_after_the_first_is_refused(version: str, outcomes: Jobs, tmp_path: Path) -> None:
    _, done = embed(outcomes, version, tmp_path, TWICE, "again")
    assert (done.code, done.err) == (0, "")
    first, second = done.out.splitlines()
    assert first == "7"
    assert second.startswith("refused: bide")
