"""An agent that books a journey: a model that calls tools side by side, a person who approves, and two crashes.

    python examples/agent.py

The body is the usual loop. It asks the model, calls the tools that the model wants, and asks the model again with what
they returned. Each call of the model and each tool is a step: what has returned is recorded, and after a crash the
loop runs through its records to where it was. The tools of one turn run side by side, so they have keys. What the
model says is streamed word by word to a channel of the run, which any process can follow.

A tool that costs money waits for a person first. Its step is called at most once: if the process dies in the middle of
it, nobody knows whether it took effect, so the model is told so and looks it up. The script starts itself as a worker
three times. It kills the first one with SIGKILL while it waits for the person; the second one dies in the middle of the
booking. No tool is called twice. The model here has no network: it answers by what it finds in the conversation.
"""

import asyncio
import signal
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import bide

KEY = "journey to Lisbon"


@dataclass
class Call:
    """A tool that the model wants to be called; its id is the model's, and identifies it in the conversation."""

    id: str
    tool: str
    argument: str


@dataclass
class Said:
    """A message of the conversation: by the model, or by the tool that the call `of` has called."""

    text: str
    calls: list[Call] = field(default_factory=list)
    of: str | None = None


@dataclass
class Approval:
    """What a person is asked, with the token to answer."""

    what: str
    token: str


words = bide.channel("words", str)
approvals = bide.channel("approvals", Approval)


# --- the model ---------------------------------------------------------------------------------------------------


async def model(conversation: list[Said]) -> AsyncIterator[str | Call]:
    """Stand for a model's streaming API: yield words, and the tools to call."""
    known = {said.of: said.text for said in conversation if said.of is not None}
    if not known:
        text, calls = "Let me look.", [Call("c1", "weather", "Lisbon"), Call("c2", "trains", "Lisbon")]
    elif "c3" not in known:
        text, calls = f"It is {known['c1']}. I would take {known['c2']}.", [Call("c3", "book", known["c2"])]
    elif "c4" not in known and "unknown" in known["c3"]:
        text, calls = "I must make sure.", [Call("c4", "bookings", known["c2"])]
    else:
        text, calls = f"Done: {known.get('c4', known['c3'])}.", []
    for word in text.split():
        await asyncio.sleep(0)  # as a network would
        yield word
    for call in calls:
        yield call


async def ask(conversation: list[Said]) -> Said:
    """Ask the model, and show its words while they come."""
    said = Said("")
    async for part in model(conversation):
        if isinstance(part, Call):
            said.calls.append(part)
        else:
            said.text = f"{said.text} {part}".strip()
            bide.current().emit(part, channel=words)
    return said


# --- the tools ---------------------------------------------------------------------------------------------------


async def call_tool(desk: Path, call: Call) -> str:
    """Stand for the services behind the tools: a folder that keeps the bookings and a line for each call."""
    with (desk / "calls.txt").open("a") as file:
        file.write(f"{call.tool} {call.argument}\n")
    booked = desk / "booked.txt"
    if call.tool == "weather":
        return "sunny"
    if call.tool == "trains":
        return "the 9:40"
    if call.tool == "book":
        booked.write_text(call.argument)
        # The worst moment: it is booked, and the process that would record it dies.
        signal.raise_signal(signal.SIGKILL)
    return f"{booked.read_text()} is booked" if booked.exists() else "nothing is booked"


async def use(call: Call, desk: Path, handle: bide.AsyncTaskHandle) -> Said:
    """Call a tool, at most once, and say what came of it."""
    try:
        text = await handle.step(call_tool, desk, call, key=call.id, once=True)
    except bide.StepInterrupted:
        text = f"unknown: the call of {call.tool} was interrupted"
    return Said(text, of=call.id)


# --- the agent ---------------------------------------------------------------------------------------------------


@bide.task
async def travel(wish: str, desk: Path, handle: bide.AsyncTaskHandle) -> str:
    conversation = [Said(wish)]
    while True:
        said = await handle.step(ask, conversation)
        conversation.append(said)
        if not said.calls:
            return said.text
        wanted = []
        for call in said.calls:
            if call.tool == "book" and not await is_approved(call, handle):
                conversation.append(Said("the person has refused", of=call.id))
            else:
                wanted.append(call)
        conversation += await asyncio.gather(*(use(call, desk, handle) for call in wanted))


async def is_approved(call: Call, handle: bide.AsyncTaskHandle) -> bool:
    """Ask a person, who may take days: the wait holds no slot and survives the process."""
    decision = await handle.callback(f"approve {call.id}", bool)
    handle.emit(Approval(f"{call.tool} {call.argument}", decision.token), channel=approvals)
    return await handle.wait(decision)


workflow = bide.Workflow("agent", [travel])


async def work(folder: Path) -> None:
    """Be the worker: start the run, or continue it if it exists."""
    async with bide.Runner(folder / "bide.db") as runner:
        wish = {"wish": "to Lisbon, if the weather is good", "desk": folder}
        run = await runner.submit_async(workflow, wish, key=KEY)
        print(run.id, flush=True)
        await run


@contextmanager
def started(folder: Path) -> "Iterator[tuple[subprocess.Popen[str], str]]":
    """Start a worker, give it and the id of its run, and kill it at the end, if it has not ended."""
    with subprocess.Popen([sys.executable, __file__, str(folder)], stdout=subprocess.PIPE, text=True) as worker:
        try:
            assert worker.stdout is not None
            yield worker, worker.stdout.readline().strip()
        finally:
            worker.kill()


def main() -> None:
    """Kill one worker in the wait, let one die in the booking, and check what the tools and the reader saw."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        with started(folder) as (first, run), bide.Client(folder / "bide.db") as chat:
            asked = next(chat.follow(run, approvals)).value
        with bide.Client(folder / "bide.db") as chat:
            chat.resolve(asked.token, value=True)  # while no process executes the run
            with started(folder) as (second, _):
                second.wait(timeout=30)
            with started(folder) as (third, _):
                stream = [event.value for event in chat.follow(run, words)]
                third.wait(timeout=30)
            result = chat.get(run)
        calls = (folder / "calls.txt").read_text().splitlines()

    print(f"first:   ended by {signal.Signals(-first.returncode).name} while a person was asked to {asked.what}")
    print(f"second:  ended by {signal.Signals(-second.returncode).name} in the middle of the booking")
    print(f"third:   {result[travel]}")
    print(f"tools:   {', '.join(calls)}")
    print(f"stream:  {' '.join(stream)}")
    assert third.returncode == 0
    assert sorted(calls[:2]) == ["trains Lisbon", "weather Lisbon"]
    assert calls[2:] == ["book the 9:40", "bookings the 9:40"], "a tool was called twice, or not at all"
    assert " ".join(stream) == (
        "Let me look. It is sunny. I would take the 9:40. I must make sure. Done: the 9:40 is booked."
    ), "a word is missing, or was streamed twice"


if __name__ == "__main__":
    asyncio.run(work(Path(sys.argv[1]))) if sys.argv[1:] else main()
