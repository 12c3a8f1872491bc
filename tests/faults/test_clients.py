"""Clients that hang up, and more of them than there are descriptors."""

from __future__ import annotations

import resource
import socket
import struct
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import orjson
import pytest

from tests.faults.log import Archive, agree
from tests.faults.posters import posting
from tests.integration.service import Service, until

StartService = Callable[..., Service]
needs_proc = pytest.mark.skipif(sys.platform != "linux", reason="needs /proc and prlimit")


@pytest.fixture
def service(make_service: StartService) -> Service:
    """A service that runs."""
    return make_service().start()


@pytest.fixture
def archive(service: Service) -> Iterator[Archive]:
    """What is in its log."""
    archive = Archive(service.store_url)
    yield archive
    archive.close()


def connect(service: Service) -> socket.socket:
    """Open a connection."""
    host, port = service.url.removeprefix("http://").rstrip("/").split(":")
    return socket.create_connection((host, int(port)), timeout=30)


def hang_up(client: socket.socket) -> None:
    """Close a connection as a crash does: with a reset."""
    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    client.close()


def post_bytes(n: int) -> bytes:
    """Return a POST of some events, whole."""
    events = [
        {"event_id": f"hung-{n}-{i}", "user_id": f"u{i}", "item_id": f"i{n % 50}", "type": "click"}
        for i in range(20)
    ]
    body = orjson.dumps(events)
    head = f"POST /v1/feedback HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n"
    return head.encode() + body


def get_bytes(n: int) -> bytes:
    """Return a GET that waits for what will not come."""
    path = f"/v1/recommendations/u{n}?min_cursor={2**60}-0&deadline_ms=300"
    return f"GET {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode()


def n_descriptors(service: Service) -> int:
    """Count the descriptors that a service has open."""
    return len(list(Path(f"/proc/{service.pid}/fd").iterdir()))


@needs_proc
def test_clients_that_hang_up(service: Service, archive: Archive) -> None:
    """Cut off anywhere in a POST or GET, nothing is left behind: all of its events or none."""
    with posting(service.url, 2) as posters:
        posters.wait_until_heard()
        n_open = n_descriptors(service)
        for n in range(120):
            whole = get_bytes(n) if n % 4 == 0 else post_bytes(n)
            # The whole request, or less of it.
            part = whole[: len(whole) * (n % 10 + 1) // 10]
            client = connect(service)
            client.sendall(part)
            hang_up(client)
        posters.wait_until_heard()
        until(lambda: n_descriptors(service) <= n_open + 4)
    replayed = agree(service, archive, posters.acknowledged)
    n_there = [sum(f"hung-{n}-{i}" in replayed.admitted for i in range(20)) for n in range(120)]
    assert set(n_there) == {0, 20}
    assert "Traceback" not in service.log
    until(lambda: service.counter("sluice_log_lag_seconds") < 1)


@needs_proc
def test_no_descriptor_is_left(service: Service, archive: Archive) -> None:
    """Where no connection can be taken any more, those that are there go on; then all is well."""
    assert service.pid is not None
    waiting = []
    with posting(service.url, 2) as posters:
        posters.wait_until_heard()
        old = resource.prlimit(service.pid, resource.RLIMIT_NOFILE)
        n_most = n_descriptors(service) + 10
        resource.prlimit(service.pid, resource.RLIMIT_NOFILE, (n_most, old[1]))
        try:
            waiting = [connect(service) for _ in range(50)]
            until(lambda: n_descriptors(service) >= n_most - 1)
            posters.wait_until_heard()
        finally:
            for client in waiting:
                client.close()
            resource.prlimit(service.pid, resource.RLIMIT_NOFILE, old)
        until(lambda: is_answered(service))
        posters.wait_until_heard()
    assert posters.total("n_refused") == posters.total("n_broken") == 0
    agree(service, archive, posters.acknowledged)


def is_answered(service: Service) -> bool:
    """Tell whether a new connection is answered."""
    with connect(service) as client:
        client.sendall(b"GET /healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        try:
            return client.recv(12) == b"HTTP/1.1 200"
        except ConnectionError:
            return False
