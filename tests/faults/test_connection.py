"""A connection to the store that breaks in every way: nothing acknowledged goes, reads go on."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from tests.faults.log import LOG, Archive, agree
from tests.faults.posters import posting
from tests.faults.proxy import Fault, Proxy
from tests.faults.servers import Server
from tests.integration.service import Service, small, until

# What posts are refused under, and what they only take longer under.
BREAKING: list[Fault] = ["refuse", "cut", "stall", "late", "lose", "half", "garbage"]
ANNOYING: list[Fault] = ["slow", "trickle"]


class Set:
    """A service whose store is behind a proxy."""

    def __init__(self, folder: Path, **settings: object) -> None:
        self.server = Server().start()
        self.proxy = Proxy(self.server.socket)
        self.archive = Archive(self.server.url)
        # The proxy is a thread of this process, which may be busy with other things for a while.
        defaults = {"store_timeout_s": 2.5, "feedback_timeout_s": 5, "redis_url": self.proxy.url}
        self.service: Service = small(folder, **(defaults | settings))

    def close(self) -> None:
        """End all of it."""
        self.service.close()
        self.archive.close()
        self.proxy.close()
        self.server.close()


MakeSet = Callable[..., Set]


@pytest.fixture
def behind_proxy(tmp_path: Path) -> Iterator[Set]:
    """A service that runs, with its store behind a proxy."""
    made = Set(tmp_path)
    try:
        made.service.start()
        yield made
    finally:
        made.close()


@pytest.mark.parametrize("fault", BREAKING)
def test_a_connection_that_breaks(behind_proxy: Set, fault: Fault) -> None:
    """Posts are 503 with Retry-After meanwhile, GETs 200; sent again, each event is there once."""
    service, proxy = behind_proxy.service, behind_proxy.proxy
    with posting(service.url, 4) as posters:
        posters.wait_until_heard()
        with proxy.broken(fault):
            posters.wait_until_refused()
            until(lambda: posters.total("n_degraded") > 0)
        posters.wait_until_heard()
    agree(service, behind_proxy.archive, posters.acknowledged)
    assert posters.total("n_broken") == 0
    assert "Traceback" not in service.log
    service.kill()
    service.start()
    agree(service, behind_proxy.archive, posters.acknowledged)


@pytest.mark.parametrize("fault", ANNOYING)
def test_a_connection_that_is_slow(behind_proxy: Set, fault: Fault) -> None:
    """Nothing is refused: posts only take longer."""
    with posting(behind_proxy.service.url, 4) as posters:
        posters.wait_until_heard()
        with behind_proxy.proxy.broken(fault):
            posters.wait_until_heard()
        posters.wait_until_heard()
    assert posters.total("n_refused") == posters.total("n_broken") == 0
    agree(behind_proxy.service, behind_proxy.archive, posters.acknowledged)


def test_connections_that_are_cut_all_the_time(behind_proxy: Set) -> None:
    """Cut again and again at any point, the service connects again, and admits each event once."""
    with posting(behind_proxy.service.url, 4) as posters:
        for _ in range(20):
            behind_proxy.proxy.cut()
            posters.wait_until_heard(n=1)
    agree(behind_proxy.service, behind_proxy.archive, posters.acknowledged)


def test_a_stop_while_a_post_waits(tmp_path: Path) -> None:
    """Who still waits when a stop has waited long enough is told 503, and to send it again."""
    made = Set(tmp_path, store_timeout_s=60, feedback_timeout_s=60)
    event = {"event_id": "e1", "user_id": "u", "item_id": "i", "type": "click"}
    try:
        service = made.service
        service.start()
        n_before = len(logged(made.server))
        with ThreadPoolExecutor(1) as pool, made.proxy.broken("lose"):
            waiting = pool.submit(service.client.post, "/v1/feedback", json=event)
            until(lambda: len(logged(made.server)) > n_before)
            os.kill(service.pid or 0, signal.SIGTERM)
            answer = waiting.result(timeout=60)
        assert answer.status_code == 503
        assert answer.json()["error"]["code"] == "store_unavailable"
        assert answer.headers["Retry-After"] == "1"
        service.wait()
        assert "Traceback" not in service.log
    finally:
        made.close()


def test_a_store_that_answers_other_questions(behind_proxy: Set) -> None:
    """Replies that make no sense end learning at the latest there: reads go on, nothing is lost."""
    service = behind_proxy.service
    with posting(service.url, 4) as posters:
        for poster in posters:
            poster.codes |= {"log_stopped"}
        posters.wait_until_heard()
        with behind_proxy.proxy.broken("wrong"):
            posters.wait_until_refused()
    service.kill()
    service.start()
    agree(service, behind_proxy.archive, posters.acknowledged)


def test_a_store_that_forgets_what_was_not_read_yet(behind_proxy: Set) -> None:
    """An event acknowledged as in the log is there again, too, after a store that forgot it died.

    At everysec a server may answer before its file has it; here also before anybody has read it.
    """
    service, server = behind_proxy.service, behind_proxy.server
    event = {"event_id": "e1", "user_id": "u", "item_id": "i", "type": "click"}
    service.post("/v1/feedback", event)
    unread = event | {"event_id": "e2", "item_id": "j"}
    with behind_proxy.proxy.broken("stall", only="XREAD log"):
        service.post("/v1/feedback", unread, ack="log")
        until(lambda: len(logged(server)) == 3)
        server.kill()
        server.forget("XADD")
        behind_proxy.proxy.cut()
    server.start()
    until(lambda: service.get("/v1/trending")["degraded"] is None)
    until(lambda: service.client.post("/v1/feedback", json=event).status_code == 200)
    agree(service, behind_proxy.archive, ["e1", "e2"])


def logged(server: Server) -> list[Any]:
    """Return the entries of the log."""
    with server.client() as client:
        found: list[Any] = client.xrange(LOG)
        return found
