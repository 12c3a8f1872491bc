"""The servers that `scripts.bench` measures: floors, and ours; each in a process of its own."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import orjson
import uvicorn
from fastapi import FastAPI, Response
from pydantic import BaseModel

from app.api.protocol import SluiceProtocol
from app.engine import Engine
from app.main import create_app
from app.settings import Settings
from tests.benchmarks.made import filled_engine, learned_engine

# What every floor answers: ten items, and no more.
ITEMS = [{"item_id": f"i{n}", "score": 1.0 / (n + 1)} for n in range(10)]


# As many as `scripts.bench` asks for.
N_USERS = 250


class Item(BaseModel):
    """One of ten."""

    item_id: str
    score: float


class Items(BaseModel):
    """What a route with a response model returns."""

    items: list[Item]


async def bare(scope: Any, receive: Any, send: Any) -> None:
    """Answer ten items as orjson, without any framework."""
    if scope["type"] != "http":
        return
    body = orjson.dumps({"items": ITEMS})
    headers = [
        (b"content-length", b"%d" % len(body)),
        (b"content-type", b"application/json"),
    ]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})


def floor() -> FastAPI:
    """Return FastAPI with two routes that do nothing else but answer ten items."""
    app = FastAPI()

    @app.get("/orjson/{user_id}")
    async def empty(user_id: str, k: int = 10) -> Response:
        return Response(orjson.dumps({"items": ITEMS}), media_type="application/json")

    @app.get("/model/{user_id}")
    async def modelled(user_id: str, k: int = 10) -> Items:
        return Items(items=[Item(**item) for item in ITEMS])

    return app


def service(folder: Path, make: Callable[[], Engine] | None) -> FastAPI:
    """Return Sluice as it is served; with the engine that `make` makes, if there is one.

    That is put in the place of the one that started, as it would take hours to fill it through
    HTTP: requests meet it like any other.
    """
    # On a busy machine a deadline would be missed, and what is not computed costs nothing.
    app = create_app(Settings(data_dir=folder, deadline_ms=60_000))
    if make is None:
        return app
    started: Any = app.router.lifespan_context

    @asynccontextmanager
    async def filled(app: FastAPI) -> AsyncIterator[Any]:
        async with started(app) as state:
            ingest = state["service"].ingest
            engine = make()
            engine.cursor = ingest.engine.cursor  # the log goes on from there
            ingest.engine = engine
            yield state

    app.router.lifespan_context = filled
    return app


def _maker(name: str, n_items: int) -> Callable[[], Engine] | None:
    """Return what makes the engine of a server, None for one that begins with nothing."""
    if name == "learned":
        return lambda: learned_engine(n_items)
    return (lambda: filled_engine(n_items, N_USERS)) if n_items else None


def main(name: str, port: int, n_items: int) -> None:
    """Serve one of them on a port until killed."""
    with tempfile.TemporaryDirectory(prefix="sluice-bench-") as folder:
        app: Any = bare if name == "bare" else floor()
        is_ours = name in ("sluice", "learned")
        if is_ours:
            app = service(Path(folder), _maker(name, n_items))
        uvicorn.run(
            app,
            port=port,
            log_level="warning",
            access_log=False,
            server_header=False,
            lifespan="off" if name == "bare" else "on",
            http=SluiceProtocol if is_ours else "auto",
        )


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
