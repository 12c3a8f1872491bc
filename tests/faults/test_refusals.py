"""A store that answers, and says no: posts are refused meanwhile, and nothing else happens."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import pytest
import redis

from tests.faults.log import Archive, agree
from tests.faults.posters import posting
from tests.faults.servers import Server
from tests.integration.service import small, until


@contextmanager
def out_of_memory(store: Any) -> Iterator[None]:
    """Leave it no memory to write with."""
    store.config_set("maxmemory", "1")
    yield
    store.config_set("maxmemory", "0")


@contextmanager
def read_only(store: Any) -> Iterator[None]:
    """Make it a copy of a server that is not there, as after a failover."""
    store.execute_command("REPLICAOF", "127.0.0.1", "1")
    yield
    store.execute_command("REPLICAOF", "NO", "ONE")


@contextmanager
def too_few_copies(store: Any) -> Iterator[None]:
    """Let it ask for copies that it does not have."""
    store.config_set("min-replicas-to-write", "1")
    yield
    store.config_set("min-replicas-to-write", "0")


@contextmanager
def paused(store: Any) -> Iterator[None]:
    """Let it hold back all writes; reads are answered."""
    store.execute_command("CLIENT", "PAUSE", "600000", "WRITE")
    yield
    store.execute_command("CLIENT", "UNPAUSE")


@contextmanager
def busy(store: Any) -> Iterator[None]:
    """Keep it busy with a script that does not end, so that it says BUSY to everybody."""

    def spin() -> None:
        with pytest.raises(redis.RedisError), client_of(store) as other:
            other.eval("while true do end", 0)

    store.config_set("busy-reply-threshold", "50")
    spinning = threading.Thread(target=spin)
    spinning.start()
    yield
    until(lambda: is_killed(store))
    spinning.join(20)


def client_of(store: Any) -> redis.Redis:
    """Return another client of the same server, which waits."""
    return redis.Redis(connection_pool=redis.ConnectionPool(**kwargs_of(store)))


def kwargs_of(store: Any) -> dict[str, Any]:
    """Return how a client is connected."""
    return {"connection_class": redis.UnixDomainSocketConnection} | {
        "path": store.connection_pool.connection_kwargs["path"]
    }


def is_killed(store: Any) -> bool:
    """End the script that runs; tell whether that went well."""
    try:
        store.execute_command("SCRIPT", "KILL")
    except redis.RedisError:
        return False
    return True


@contextmanager
def without_permission(store: Any) -> Iterator[None]:
    """Take the right to write the log from its user."""
    store.execute_command("ACL", "SETUSER", "shop", "-xadd")
    yield
    store.execute_command("ACL", "SETUSER", "shop", "+xadd")


REFUSALS: list[Callable[[Any], AbstractContextManager[None]]] = [
    out_of_memory,
    read_only,
    too_few_copies,
    paused,
    busy,
    without_permission,
]


@pytest.fixture
def server() -> Iterator[Server]:
    """A store of somebody else's."""
    server = Server()
    try:
        yield server.start()
    finally:
        server.close()


def test_a_store_that_refuses(server: Server, tmp_path: Path) -> None:
    """Whatever it says no for, posts are 503 meanwhile, GETs 200, and each event is there once."""
    archive = Archive(server.url)
    url = f"{server.url}?username=shop&password=secret"
    service = small(tmp_path, redis_url=url, store_timeout_s=0.5)
    try:
        with server.client() as store:
            store.execute_command("ACL", "SETUSER", "shop", "on", ">secret", "~*", "&*", "+@all")
            service.start()
            with posting(service.url, 4) as posters:
                for refusal in REFUSALS:
                    posters.wait_until_heard(n=2)
                    with refusal(store):
                        posters.wait_until_refused()
                posters.wait_until_heard()
        assert posters.total("n_broken") == 0
        assert "Traceback" not in service.log
        assert "secret" not in service.log
        agree(service, archive, posters.acknowledged)
        service.kill()
        service.start()
        agree(service, archive, posters.acknowledged)
    finally:
        service.close()
        archive.close()
