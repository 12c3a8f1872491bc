"""Real stores for the tests: the embedded one, and servers as somebody else would run them."""

from __future__ import annotations

import asyncio
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest
import redis

from app.embedded import EmbeddedServer, find_server
from app.settings import Settings
from app.store import Store
from tests.integration.service import Service, small

Eventually = Callable[[Callable[[], bool]], Awaitable[None]]
StartServer = Callable[..., str]
StartService = Callable[..., Service]
OpenStore = Callable[..., Awaitable[Store]]


@pytest.fixture
def anyio_backend() -> str:
    """The event loop that the service runs on."""
    return "asyncio"


@pytest.fixture
def eventually() -> Eventually:
    """Wait for a condition, and fail when it has not come true within 15 s."""

    async def wait(condition: Callable[[], bool]) -> None:
        deadline = time.monotonic() + 15
        while not condition():
            assert time.monotonic() < deadline, "the condition did not come true in time"
            await asyncio.sleep(0.01)

    return wait


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[EmbeddedServer]:
    """An embedded store that runs."""
    server = EmbeddedServer(tmp_path / "store", "everysec")
    await server.start()
    yield server
    await server.stop()


@pytest.fixture
def start_external() -> Iterator[StartServer]:
    """Start a server that is not ours, with these options; return its URL."""
    with ExitStack() as stack:
        yield lambda binary, *options: stack.enter_context(_external(binary, options))


@pytest.fixture
def redis_server() -> Path:
    """The redis-server on PATH; without one, what needs it is skipped."""
    if not (found := shutil.which("redis-server")):
        pytest.skip("no redis-server on PATH (Debian: apt-get install redis-server)")
    return Path(found)


@pytest.fixture
async def open_store() -> AsyncIterator[OpenStore]:
    """Open a store; it is closed after the test."""
    stores: list[Store] = []

    async def connect(url: str, **settings: Any) -> Store:
        store = Store(url, Settings(**{"namespace": "test", **settings}))
        stores.append(store)
        await store.open()
        return store

    yield connect
    for store in stores:
        await store.close()


@pytest.fixture(params=["embedded", "redis-server"])
def store_url(request: pytest.FixtureRequest) -> str:
    """The URL of an empty store: ours, and a plain redis-server."""
    if request.param == "embedded":
        embedded: EmbeddedServer = request.getfixturevalue("server")
        return embedded.url
    start: StartServer = request.getfixturevalue("start_external")
    return start(request.getfixturevalue("redis_server"))


@pytest.fixture
async def store(store_url: str, open_store: OpenStore) -> Store:
    """An empty store, open."""
    return await open_store(store_url)


@pytest.fixture
def raw(store_url: str) -> Iterator[Any]:
    """A plain client of the same server, to look behind the store's back."""
    with redis.Redis.from_url(store_url) as client:
        yield client


@pytest.fixture
def valkey_server() -> Path:
    """The server that the embedded store runs, to be started as somebody else's."""
    return find_server()


def _listens(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX) as client:
        return client.connect_ex(str(path)) == 0


@contextmanager
def _external(binary: Path, options: tuple[str, ...]) -> Iterator[str]:
    folder = Path(tempfile.mkdtemp(prefix="sluice-test-"))
    path = folder / "s"
    process = subprocess.Popen(
        [binary, "--port", "0", "--unixsocket", path, "--save", "", "--dir", folder, *options],
        stdout=subprocess.DEVNULL,
    )
    try:
        deadline = time.monotonic() + 10
        while not _listens(path):
            assert process.poll() is None, "the external server did not start"
            assert time.monotonic() < deadline, "the external server did not start in time"
            time.sleep(0.01)
        yield f"unix://{path}"
    finally:
        process.kill()
        process.wait()
        shutil.rmtree(folder)


@pytest.fixture
def make_service(tmp_path: Path) -> Iterator[StartService]:
    """Make small services, by name; they are gone after the test."""
    with ExitStack() as stack:

        def make(name: str = "service", **settings: object) -> Service:
            service = small(tmp_path / name, **settings)
            stack.callback(service.close)
            return service

        yield make


@pytest.fixture(scope="session")
def api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """A service that runs all the time; tests share it, so each uses ids of its own.

    It never leaves its warm-up: what was just learned is what is served.
    """
    folder = tmp_path_factory.mktemp("api")
    service = small(folder, max_items=20_000, max_users=20_000, warmup_events=1_000_000).start()
    yield service
    service.close()
