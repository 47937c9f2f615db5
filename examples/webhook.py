"""A shop behind FastAPI: a payment arrives at a webhook, and the browser sees the order's progress as it happens.

    python examples/webhook.py        # needs fastapi, uvicorn and httpx

Placing an order starts a run. Its body asks a payment provider for a payment, with the token of a callback in the URL
that the provider is to call, and waits. `GET /orders/…/events` streams a channel of the run as server-sent events. An
event's id is its offset in the channel, so a browser that has lost its connection continues where it was: it sends the
id back as `Last-Event-ID`.

The script starts itself as the server, and kills it with SIGKILL while the order waits for its payment. It starts a
second server on the same file: the URL that the provider has still works, and the browser misses nothing.
"""

import json
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import httpx
import uvicorn
from fastapi import FastAPI, Header, HTTPException
from fastapi.responses import StreamingResponse

import bide


@dataclass
class Payment:
    cents: int
    method: str


progress = bide.channel("progress", str)


def ask_for_payment(provider: Path, order: str, url: str) -> None:
    """Stand for a request to the payment provider, which calls `url` when the customer has paid."""
    with (provider / f"{order}.txt").open("a") as file:
        file.write(f"{url}\n")
    bide.current().emit("waiting for the payment", channel=progress)  # in a step: not emitted again after a crash


def ship(order: str) -> str:
    bide.current().emit("shipped", channel=progress)
    return f"parcel of {order}"


@bide.task
async def sell(order: str, provider: Path, handle: bide.AsyncTaskHandle) -> str:
    paid = await handle.callback("paid", Payment)
    await handle.step(ask_for_payment, provider, order, f"/paid/{paid.token}")
    payment = await handle.wait(paid, timeout=3 * 24 * 3600)
    return await handle.step(ship, order) + f", {payment.cents / 100:.2f} by {payment.method}"


workflow = bide.Workflow("order", [sell])


def shop(folder: Path) -> FastAPI:
    """Make the application on a folder with the store."""

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        # Orders that an earlier server has left continue at once. Their bodies execute on the server's event loop.
        async with bide.Runner(folder / "bide.db", workflows=[workflow]) as app.state.runner:
            yield

    app = FastAPI(lifespan=lifespan)

    def runner() -> bide.Runner:
        found: bide.Runner = app.state.runner
        return found

    @app.put("/orders/{order}", status_code=202)
    async def place(order: str) -> None:
        """Place an order. The key makes it one run, however often the request is repeated."""
        await runner().submit_async(workflow, {"order": order, "provider": folder}, key=order)

    @app.get("/orders/{order}/events")
    async def watch(order: str, last_event_id: Annotated[int, Header()] = 0) -> StreamingResponse:
        """Stream what happens to an order, until it has ended."""
        try:
            events = runner().follow(order, progress, after=last_event_id)
        except KeyError as error:
            raise HTTPException(404, f"there is no order {order}") from error

        async def stream() -> AsyncIterator[str]:
            async for event in events:
                yield f"id: {event.offset}\ndata: {json.dumps(event.value)}\n\n"

        return StreamingResponse(stream(), media_type="text/event-stream")

    @app.post("/paid/{token}", status_code=204)
    async def paid(token: str, payment: Payment, webhook_id: Annotated[str, Header()]) -> None:
        """Take the provider's word. The id makes it one answer: providers call again when they are in doubt."""
        try:
            await runner().resolve_async(token, payment, id=webhook_id)
        except bide.SignalRejected as refusal:
            raise HTTPException(409, str(refusal)) from refusal

    return app


def serve(folder: Path, listening: int) -> None:
    """Be the server, on a socket that is listening already: requests that come before it is up wait there."""
    server = uvicorn.Server(uvicorn.Config(shop(folder), log_level="warning", timeout_graceful_shutdown=5))
    server.run([socket.socket(fileno=listening)])


@contextmanager
def started(folder: Path, port: socket.socket) -> "Iterator[subprocess.Popen[bytes]]":
    """Start a server, and kill it at the end."""
    command = [sys.executable, __file__, str(folder), str(port.fileno())]
    with subprocess.Popen(command, pass_fds=[port.fileno()]) as server:
        try:
            yield server
        finally:
            server.kill()


def browse(client: httpx.Client, order: str, after: int = 0, until: str | None = None) -> list[tuple[int, str]]:
    """Read an order's stream as a browser's `EventSource` does: the ids and the values."""
    found: list[tuple[int, str]] = []
    with client.stream("GET", f"/orders/{order}/events", headers={"Last-Event-ID": str(after)}) as response:
        offset = 0
        for line in response.raise_for_status().iter_lines():
            field, _, value = line.partition(": ")
            if field == "id":
                offset = int(value)
            elif field == "data":
                found.append((offset, json.loads(value)))
                if found[-1][1] == until:
                    break
    return found


def main() -> None:
    """Kill the server while an order waits, start another one, pay, and check what provider and browser saw."""
    with tempfile.TemporaryDirectory() as name, socket.create_server(("127.0.0.1", 0)) as port:
        folder = Path(name)
        address = f"http://127.0.0.1:{port.getsockname()[1]}"
        with started(folder, port) as first, httpx.Client(base_url=address, timeout=30) as client:
            client.put("/orders/A1").raise_for_status()
            client.put("/orders/A1").raise_for_status()  # an impatient customer
            before = browse(client, "A1", until="waiting for the payment")

        [url] = (folder / "A1.txt").read_text().splitlines()  # what the provider has, of the server that is dead
        payment = {"cents": 4200, "method": "card"}
        with started(folder, port), httpx.Client(base_url=address, timeout=30) as client:
            answers = [
                client.post(url, json=payment, headers={"Webhook-Id": "evt_1"}),
                client.post(url, json=payment, headers={"Webhook-Id": "evt_1"}),  # a webhook may come twice
                client.post(url, json=payment, headers={"Webhook-Id": "evt_2"}),
                client.post("/paid/forged", json=payment, headers={"Webhook-Id": "evt_3"}),
            ]
            after = browse(client, "A1", after=before[-1][0])
        with bide.Runner(folder / "bide.db") as runner:
            result = runner.get("A1")
        requests = (folder / "A1.txt").read_text().splitlines()

    print(f"server:   ended by {signal.Signals(-first.returncode).name} while the order waited for its payment")
    print(f"browser:  {before} and then {after}")
    print(f"provider: {[answer.status_code for answer in answers]}")
    print(f"order:    {result[sell]}")
    assert before == [(1, "waiting for the payment")]
    assert after == [(2, "shipped")], "the browser has missed an event, or has seen one twice"
    assert [answer.status_code for answer in answers] == [204, 204, 409, 409]
    assert result[sell] == "parcel of A1, 42.00 by card"
    assert requests == [url], "the provider was asked twice"


if __name__ == "__main__":
    serve(Path(sys.argv[1]), int(sys.argv[2])) if sys.argv[1:] else main()
