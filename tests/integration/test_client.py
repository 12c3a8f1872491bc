"""The Python client, against a real service, and against servers that do not do as they should."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import httpx
import pytest

from sluice import (
    AsyncClient,
    Batching,
    BufferFull,
    Client,
    Closed,
    Event,
    Outcome,
    Retries,
    ServiceError,
    Slate,
    Unavailable,
)
from sluice.feedback import AsyncFeedback
from tests.integration.service import ROOT, Service, until

QUICK = Retries(first_s=0.01, most_s=0.05, give_up_s=20)
NEVER = Retries(first_s=0.01, most_s=0.05, give_up_s=None)


GARBLED = -1


class Scripted:
    """An HTTP server that answers feedback as it is told: a status, garbled, or nothing at all."""

    def __init__(self, *script: int | None) -> None:
        self.script = list(script)
        self.bodies: list[list[dict[str, Any]]] = []
        self.gate = threading.Event()
        self.gate.set()
        scripted = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                """Answer as the script says; after its end, as a service does."""
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                scripted.gate.wait(20)
                scripted.bodies.append(body)
                status = scripted.script.pop(0) if scripted.script else 200
                if status is None:
                    self.close_connection = True
                    return
                results = [
                    {"event_id": event["event_id"], "status": "learned", "reason": None}
                    for event in body
                ]
                error = {"code": "busy", "message": "not now", "details": []}
                content = {"results": results} if status == 200 else {"error": error}
                answer = json.dumps(content).encode()
                self.send_response(200 if status == GARBLED else status)
                if status == GARBLED:
                    self.send_header("Content-Encoding", "gzip")
                self.send_header("Content-Length", str(len(answer)))
                self.send_header("Retry-After", "0")
                self.end_headers()
                self.wfile.write(answer)

            def log_message(self, *_: Any) -> None:
                """Say nothing."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,))
        self._thread.start()

    def close(self) -> None:
        """End it."""
        self.gate.set()
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def ids(self) -> list[str]:
        """Return the ids of the events that came, in their order."""
        return [event["event_id"] for body in self.bodies for event in body]


@contextmanager
def scripted(*script: int | None) -> Iterator[Scripted]:
    """Run a scripted server for a while."""
    server = Scripted(*script)
    try:
        yield server
    finally:
        server.close()


def batching(**changes: Any) -> Batching:
    """Return quick batching."""
    quick: dict[str, Any] = {"every_s": 0.01, "retries": NEVER}
    return Batching(**(quick | changes))


# -- a real service ---------------------------------------------------------------------------


def test_a_shop(api: Service) -> None:
    """Events go in one by one and in the background; lists, similar items and merges come out."""
    outcomes: list[Outcome] = []
    with Client(api.url, batching=batching(on_outcome=outcomes.append)) as shop:
        sent = shop.feedback.send(
            [Event("client-a", "client-1", "click"), Event("client-a", "client-2", "nonsense")]
        )
        assert [(one.status, one.reason) for one in sent] == [
            ("learned", None),
            ("quarantined", "unknown_type"),
        ]
        assert [one.is_acknowledged for one in sent] == [True, False]
        for user in "abc":
            for item in (1, 2, 3):
                shop.feedback.track(f"client-{user}", f"client-{item}", "click")
        assert shop.feedback.flush(20)
        assert shop.feedback.counts.waiting == 0
        assert len(outcomes) == 9
        assert {one.status for one in outcomes} == {"learned"}
        shop.feedback.send([Event("client/anonymous é", "client-1", "like")])
        slate = shop.recommend("client/anonymous é", k=2, explain=True)
        assert isinstance(slate, Slate)
        assert slate.user_id == "client/anonymous é"
        assert [item.position for item in slate.items] == [1, 2]
        assert slate.items[0].why
        assert "client-2" in [item.item_id for item in slate.items]
        shown = [
            item.item_id
            for item in shop.recommend("client/anonymous é", exclude=["client-2"]).items
        ]
        assert "client-2" not in shown
        given = shop.recommend(
            history=["client-1", {"item_id": "client-3"}], candidates=["client-2"]
        )
        assert [item.item_id for item in given.items] == ["client-2"]
        assert shop.recommend(candidates=[]).items == ()
        assert "client-2" in [item.item_id for item in shop.similar("client-1").items]
        assert len(shop.trending(k=2).items) == 2
        assert shop.merge("client-d", "client/anonymous é").merged
        assert not shop.merge("client-d", "client/anonymous é").merged
        with pytest.raises(ServiceError, match="not_found"):
            shop.similar("client-none")


@pytest.mark.parametrize("id_", [".", "..", "../trending", "a/b?c#d", "%2E", "é"])
def test_any_id_is_one_part_of_a_path(api: Service, id_: str) -> None:
    """Whatever users and items are called, it is they who are asked for."""
    api.post("/v1/feedback", {"user_id": id_, "item_id": id_, "type": "click"})
    with Client(api.url) as shop:
        assert shop.recommend(id_).user_id == id_
        assert all(item.item_id != id_ for item in shop.similar(id_).items)
        assert not shop.merge(id_, "nobody").merged


@pytest.mark.anyio
async def test_an_asynchronous_shop(api: Service) -> None:
    """The same, awaited."""
    outcomes: list[Outcome] = []
    async with AsyncClient(api.url, batching=batching(on_outcome=outcomes.append)) as shop:
        for item in (1, 2, 3):
            await shop.feedback.track("async-a", f"async-{item}", "click")
        assert await shop.feedback.flush(20)
        assert len(outcomes) == 3
        [one] = await shop.feedback.send([Event("async-b", "async-1", "click")])
        assert one.status == "learned"
        slate = await shop.recommend("async-b", k=3)
        assert "async-2" in [item.item_id for item in slate.items]
        assert (await shop.similar("async-1")).items
        assert (await shop.trending()).items
        assert (await shop.merge("async-c", "async-b")).merged
        await shop.feedback.track("async-c", "async-3", "click")
    assert len(outcomes) == 4
    with pytest.raises(Closed):
        await shop.feedback.track("async-c", "async-3", "click")


def test_a_service_that_is_not_there() -> None:
    """Nobody answers: it is tried again for as long as was said, then it is Unavailable."""
    once = Retries(give_up_s=0)
    with (
        Client("http://127.0.0.1:9", retries=once) as shop,
        pytest.raises(Unavailable, match="ConnectError"),
    ):
        shop.feedback.send([Event("u", "i", "click")])


# -- servers that do not do as they should ----------------------------------------------------


def test_the_same_events_are_sent_again() -> None:
    """After a lost answer, a 503 and a 429 the very same events are sent; each is answered once."""
    outcomes: list[Outcome] = []
    with scripted(None, 503, 429) as server:
        with Client(server.url, batching=batching(on_outcome=outcomes.append)) as shop:
            ids = [shop.feedback.track("u", f"i{n}", "click") for n in range(5)]
            assert shop.feedback.flush(20)
        assert len(server.bodies) >= 4
        assert server.bodies[0] == server.bodies[1] == server.bodies[2] == server.bodies[3]
    assert [one.event_id for one in outcomes] == ids
    assert dict(shop.feedback.counts.outcomes) == {"learned": 5}
    with scripted(None, 503) as server, Client(server.url, retries=QUICK) as shop:
        assert len(shop.feedback.send([Event("u", "i", "click")])) == 1
        assert server.bodies == [server.bodies[0]] * 3


def test_nobody_waits_for_the_network() -> None:
    """While the service does not answer, events are taken all the same, up to the bound."""
    with scripted() as server:
        server.gate.clear()
        with Client(server.url, batching=batching(batch=10, buffer=50)) as shop:
            taken = [shop.feedback.track("u", f"i{n}", "click") for n in range(60)]
            assert sum(one is not None for one in taken) == 50
            assert shop.feedback.counts.dropped == 10
            assert not shop.feedback.flush(0.05)
            server.gate.set()
            assert shop.feedback.flush(20)
            assert shop.feedback.track("u", "i", "click") is not None
        assert server.ids()[:50] == taken[:50]
        assert len(server.ids()) == 51


def test_a_full_buffer_may_be_an_error() -> None:
    """Told to raise, it raises, and takes events again once there is room."""
    with scripted() as server:
        server.gate.clear()
        with Client(server.url, batching=batching(batch=1, buffer=2, when_full="raise")) as shop:
            for n in range(2):
                shop.feedback.track("u", f"i{n}", "click")
            with pytest.raises(BufferFull):
                shop.feedback.track("u", "i", "click")
            server.gate.set()
            assert shop.feedback.flush(20)
            shop.feedback.track("u", "i", "click")


def test_a_full_buffer_may_be_waited_for() -> None:
    """Told to block, nothing is dropped, and all comes in the order in which it was tracked."""
    with scripted() as server:
        with Client(server.url, batching=batching(batch=3, buffer=5, when_full="block")) as shop:
            ids = [shop.feedback.track("u", f"i{n}", "click") for n in range(100)]
        assert server.ids() == ids
        assert shop.feedback.counts.outcomes == {"learned": 100}


def test_what_is_too_much_is_sent_in_parts() -> None:
    """A batch that is refused whole is sent in halves; an event refused alone has failed."""
    outcomes: list[Outcome] = []
    with scripted(413, 422, 422) as server:
        with Client(server.url, batching=batching(every_s=5, on_outcome=outcomes.append)) as shop:
            ids = [shop.feedback.track("u", f"i{n}", "click") for n in range(4)]
            assert shop.feedback.flush(20)
        assert [len(body) for body in server.bodies] == [4, 2, 1, 1, 2]
    assert [one.event_id for one in outcomes] == ids
    assert [one.status for one in outcomes] == ["failed", "learned", "learned", "learned"]
    assert "422 busy" in str(outcomes[0].reason)


def test_mistakes_in_the_callback_stop_nothing() -> None:
    """An exception of on_outcome is logged; the next events are sent."""

    def fail(_: Outcome) -> None:
        raise RuntimeError("a mistake")

    with scripted() as server, Client(server.url, batching=batching(on_outcome=fail)) as shop:
        for _ in range(2):
            shop.feedback.track("u", "i", "click")
            assert shop.feedback.flush(20)


def test_closed_means_closed() -> None:
    """What cannot be sent in time is counted as unsent and told; nothing more is taken."""
    outcomes: list[Outcome] = []
    with scripted(*[503] * 10_000) as server:
        shop = Client(server.url, batching=batching(close_s=0.2, on_outcome=outcomes.append))
        for _ in range(3):
            shop.feedback.track("u", "i", "click")
        shop.close()
        assert [one.status for one in outcomes] == ["unsent"] * 3
        with pytest.raises(Closed):
            shop.feedback.track("u", "i", "click")
        shop.close()


EXIT = """
import sys
from sluice import Batching, Client
shop = Client(sys.argv[1], batching=Batching(every_s=60))
for n in range(7):
    shop.feedback.track("u", f"i{n}", "click")
"""


def test_at_exit_what_waits_is_sent() -> None:
    """A program that just ends has its events sent."""
    with scripted() as server:
        subprocess.run([sys.executable, "-c", EXIT, server.url], cwd=ROOT, check=True, timeout=60)
        assert len(server.ids()) == 7


FORK = """
import os, sys
from sluice import Batching, Client
shop = Client(sys.argv[1], batching=Batching(every_s=60))
shop.feedback.track("parent", "i", "click")
child = os.fork()
shop.feedback.track("child" if child == 0 else "parent", "i", "click")
shop.close()
if child:
    os.waitpid(child, 0)
"""


def test_after_a_fork_each_process_sends_its_own() -> None:
    """What waited at a fork is sent by the parent alone; the child has a thread of its own."""
    with scripted() as server:
        subprocess.run([sys.executable, "-c", FORK, server.url], cwd=ROOT, check=True, timeout=60)
        users = sorted(event["user_id"] for body in server.bodies for event in body)
        assert users == ["child", "parent", "parent"]


def test_from_many_threads() -> None:
    """Events of many threads are all sent, each once."""
    with scripted() as server:
        with Client(server.url, batching=batching(batch=50, when_full="block")) as shop:
            found: list[str | None] = []

            def track() -> None:
                found.extend(shop.feedback.track("u", "i", "click") for _ in range(200))

            threads = [threading.Thread(target=track) for _ in range(8)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
        assert sorted(server.ids()) == sorted(str(one) for one in found)


def test_the_client_imports_nothing_of_the_service() -> None:
    """An application that uses the client does not load numpy, FastAPI or the service."""
    code = (
        "import sys, sluice; print([m for m in ('app', 'learners', 'numpy', 'fastapi', 'redis')"
        " if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, capture_output=True)
    assert done.stdout == b"[]\n"


def test_the_key_is_sent(
    make_service: Callable[..., Service], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A service with a key is asked with it: as given, or as the environment has it."""
    monkeypatch.setenv("SLUICE_API_KEY", "the-api-key")
    service = make_service(api_key="the-api-key").start()
    with Client(service.url) as shop:
        assert shop.trending().items == ()
    with Client(service.url, api_key="another") as shop, pytest.raises(ServiceError, match="401"):
        shop.trending()


# -- what happens at the same time ------------------------------------------------------------


def test_who_waits_no_longer_stops_nobody_elses_flush() -> None:
    """Of two flushes the one whose time is up leaves the other one to send what waits."""
    with scripted() as server, Client(server.url, batching=batching(every_s=60)) as shop:
        server.gate.clear()
        shop.feedback.track("u", "i1", "click")
        assert not shop.feedback.flush(0.2)  # the first event is on its way
        shop.feedback.track("u", "i2", "click")
        flushed: list[bool] = []
        other = threading.Thread(target=lambda: flushed.append(shop.feedback.flush(20)))
        other.start()
        until(lambda: getattr(shop.feedback._changed, "_waiters"))  # noqa: B009  as nobody says it
        assert not shop.feedback.flush(0.01)
        server.gate.set()
        other.join()
        assert flushed == [True]


def test_an_answer_that_cannot_be_read_is_asked_for_again() -> None:
    """One whose bytes are not what its head says, as something in between makes, stops nothing."""
    with scripted(GARBLED) as server, Client(server.url, batching=batching()) as shop:
        shop.feedback.track("u", "i", "click")
        assert shop.feedback.flush(20)
        assert shop.feedback.counts.outcomes == {"learned": 1}
        assert len(server.bodies) == 2


@pytest.mark.anyio
async def test_what_is_answered_as_the_client_is_closed_counts() -> None:
    """An answer that has come is taken note of, whenever the task that sends is cancelled."""
    asked, answered = asyncio.Event(), asyncio.Event()

    async def post(body: bytes, ack: str, retries: Retries | None) -> httpx.Response:
        [event] = json.loads(body)
        asked.set()
        await answered.wait()
        result = {"event_id": event["event_id"], "status": "learned", "reason": None}
        return httpx.Response(200, json={"results": [result]})

    feedback = AsyncFeedback(post, batching())
    await feedback.track("u", "i", "click")
    await asked.wait()
    async with feedback._changed:  # as somebody who tracks at this moment
        answered.set()
        for _ in range(20):
            await asyncio.sleep(0)
        assert feedback._task is not None
        feedback._task.cancel()
    await feedback.close(0.0)
    assert feedback.counts.waiting == 0
    assert feedback.counts.outcomes == {"learned": 1}
