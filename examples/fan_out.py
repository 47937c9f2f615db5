"""A book whose chapters are translated side by side, while one of them waits for an answer from the author.

    python examples/fan_out.py

The body of `chapters` starts a child run for each chapter and waits for all of them. One child finds a word that it
does not know, and waits for a signal. There is one slot: neither that child nor its parent holds it, so all others are
translated meanwhile. The script starts itself as a worker, and kills it with SIGKILL when only the answer is missing.
Then it sends the answer to the child, whose process is dead, and continues the runs. No chapter is translated again.
"""

import signal
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

import bide

CHAPTERS = [f"chapter {number}" for number in range(1, 21)]
CHAPTERS[6] += " with a snark"
KEY = "the book"

answer = bide.signal("answer", str)


def draft(folder: Path, text: str) -> str:
    """Stand for a translation service that charges for each call."""
    with (folder / "calls.txt").open("a") as file:
        file.write(f"{text}\n")
    return text.replace("chapter", "Kapitel").replace("with a", "mit einem")


@bide.task
def translate(text: str, folder: Path, handle: bide.TaskHandle) -> str:
    translated = handle.step(draft, folder, text)
    if "snark" in translated:
        translated = translated.replace("snark", handle.wait(answer))
    return translated


translation = bide.Workflow("translation", [translate], signals=[answer])


@bide.task
def chapters(texts: list[str], folder: Path, handle: bide.TaskHandle) -> list[str]:
    children = [handle.start(translation, {"text": text, "folder": folder}, key=text) for text in texts]
    return [child[translate] for child in handle.wait_all(*children)]


@bide.task
def bind(chapters: list[str]) -> str:
    return "; ".join(chapters)


book = bide.Workflow("book", [chapters, bind])


def run(runner: bide.Runner, folder: Path) -> bide.RunResult:
    """Start the run of the book, or continue it if it exists; return its result."""
    return runner.run(book, {"texts": CHAPTERS, "folder": folder}, key=KEY)


def work(folder: Path) -> None:
    """Be the worker."""
    with bide.Runner(folder / "bide.db", slots=1) as runner:
        run(runner, folder)


def main() -> None:
    """Kill a worker while one child waits, answer that child, and check the book and the calls of the service."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        with bide.Runner(folder / "bide.db", slots=1) as runner:  # without workflows it only watches
            with subprocess.Popen([sys.executable, __file__, name]) as worker:
                while (
                    len(runner.runs(workflow=translation, status="Completed")) < len(CHAPTERS) - 1
                    and worker.poll() is None
                ):
                    threading.Event().wait(0.02)
                worker.kill()
            done = runner.runs(workflow=translation, status="Completed")
            [waiting] = runner.runs(workflow=translation, status="Running")
            print(f"worker:  ended by {signal.Signals(-worker.returncode).name}, {len(done)} chapters are translated")
            print(f"child:   {waiting.context['text']!r} {waiting.tasks['translate'].blocked_by}")

            runner.signal(waiting, answer, "Schnark")
            result = run(runner, folder)
            children = runner.runs(workflow=translation)
        calls = (folder / "calls.txt").read_text().splitlines()

    print(f"book:    {result[chapters][6]!r} is one of {len(result[chapters])} chapters, by {len(calls)} calls")
    assert waiting.context["text"] == CHAPTERS[6]
    assert waiting.parent == result.id
    assert sorted(calls) == sorted(CHAPTERS), "a chapter was translated twice, or not at all"
    assert len(children) == len(CHAPTERS), "a child was started twice"
    expected = [f"Kapitel {number}" for number in range(1, 21)]
    expected[6] += " mit einem Schnark"
    assert result[bind] == "; ".join(expected)


if __name__ == "__main__":
    work(Path(sys.argv[1])) if sys.argv[1:] else main()
