"""A runner in the lifespan of a web application, FastAPI's or Starlette's: its bodies execute on the server's loop."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

import bide

loops: dict[str, asyncio.AbstractEventLoop] = {}


@bide.task
async def approve(handle: bide.AsyncTaskHandle) -> list[Any]:
    said = await handle.wait_for("said", str)
    return [said, asyncio.get_running_loop() is loops["server"]]


workflow = bide.Workflow("approval", [approve])


def application(framework: str, file: Path) -> Starlette:
    """Make an application with a runner: one path submits a run and one sends to it; the third waits for its end."""

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        loops["server"] = asyncio.get_running_loop()
        async with bide.Runner(file, workflows=[workflow]) as app.state.runner:
            yield

    async def submit(request: Request) -> JSONResponse:
        run = await request.app.state.runner.submit_async(workflow, key=request.path_params["key"])
        return JSONResponse(run.id)

    async def say(request: Request) -> JSONResponse:
        await request.app.state.runner.signal_async(request.path_params["key"], "said", "yes")
        return JSONResponse(None)

    async def result(request: Request) -> JSONResponse:
        ended = await request.app.state.runner.run_async(workflow, key=request.path_params["key"], timeout=30)
        return JSONResponse(ended["approve"])

    routes = {"/submit/{key}": submit, "/say/{key}": say, "/result/{key}": result}
    if framework == "starlette":
        return Starlette(routes=[Route(path, endpoint) for path, endpoint in routes.items()], lifespan=lifespan)
    app = FastAPI(lifespan=lifespan)
    for path, endpoint in routes.items():
        app.add_route(path, endpoint)
    return app


@asynccontextmanager
async def served(app: Starlette) -> AsyncIterator[httpx.AsyncClient]:
    """Start and stop the application as its server does; its requests come on the loop that runs here."""
    transport = httpx.ASGITransport(app)
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=transport, base_url="http://here") as client,
    ):
        yield client


@pytest.mark.parametrize("framework", ["fastapi", "starlette"])
def test_a_run_of_one_lifespan_continues_in_the_next(file: Path, framework: str) -> None:
    async def first(app: Starlette) -> str:
        async with served(app) as client:
            run = (await client.get("/submit/k")).json()
            # Nothing that one request waits for holds up another one.
            waiting = asyncio.create_task(client.get("/result/k"))
            while not await app.state.runner.waiting_async():  # noqa: ASYNC110 - a store has no event
                await asyncio.sleep(0.005)
            waiting.cancel()
            return str(run)

    async def second(app: Starlette, run: str) -> None:
        async with served(app) as client:
            assert (await client.get("/submit/k")).json() == run
            result = asyncio.create_task(client.get("/result/k"))
            await client.get("/say/k")
            assert (await result).json() == ["yes", True]

    app = application(framework, file)
    run = asyncio.run(first(app))
    asyncio.run(second(app, run))
