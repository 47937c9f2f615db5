"""The command line, `bide` and `python -m bide`. It needs the extra `bide[cli]`.

`_main.py` knows the commands and imports the module of the one that is called: `_look.py`, `_live.py`, `_act.py`,
`_keep.py` or `_serve.py`. `_store.py` opens stores and finds runs, `_output.py` prints, `_shapes.py` says what.
"""

import io
import sys

NEEDED = {"click", "rich"}


def main() -> None:
    """Run the command line, and exit with its code."""
    try:
        from bide._cli._main import cli
    except ModuleNotFoundError as missing:
        if missing.name not in NEEDED:
            raise
        sys.stderr.write(
            f"bide: the command line needs the package {missing.name}, which is not installed: "
            "pip install 'bide[cli]'\n"
        )
        sys.exit(2)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # whatever a terminal can show
    cli(prog_name="bide")
