"""Deadlines: what is answered when there is less time than a whole list takes."""

from __future__ import annotations

import asyncio
import dataclasses
import time
from collections.abc import Callable, Iterator
from contextlib import AsyncExitStack
from typing import Any

import httpx
import msgspec
import orjson
import pytest
from starlette.responses import Response

from app.api.arrivals import Arrivals
from app.api.direct import Head, answer_asked, begin_asked, refuse_directly
from app.api.popular import LENGTH
from app.api.service import Service
from app.main import running_service
from app.recommend import Request
from app.settings import Settings
from learners.kernels import MISS
from tests.factories import SMALL, mixed
from tests.integration import service as processes

StartService = Callable[..., processes.Service]
PATH = b"/v1/recommendations/"


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """A service that knows users, in this process."""
    with asyncio.Runner() as runner:
        stack = AsyncExitStack()
        settings = Settings(data_dir=tmp_path_factory.mktemp("deadlines"), **SMALL)
        running = runner.run(stack.enter_async_context(running_service(settings)))
        runner.run(running.ingest.submit(mixed(800), arrival_ms=None))  # type: ignore[arg-type]
        yield running
        runner.run(stack.aclose())


def hurried(service: Service, spent_s: float) -> Service:
    """Return the service as it is so many seconds into a turn."""
    clock = [1_000.0]
    arrivals = Arrivals(lambda: clock[0], lambda: 0.0)
    clock[0] += spent_s
    for _ in range(2):  # which are never refused
        arrivals.rung(0.001)
    return dataclasses.replace(service, arrivals=arrivals)


def answered(service: Service, head: Head) -> Response | None:
    """Return what is answered directly, None for what has to queue up."""
    asked = begin_asked(service, head)
    return refuse_directly(service, head) if asked is None else answer_asked(service, asked)


def ask(service: Service, url: bytes, headers: list[tuple[bytes, bytes]] | None = None) -> Any:
    """Return status, `X-Degraded` and content of what is answered directly."""
    response = answered(service, Head(b"GET", url, headers or []))
    assert response is not None
    content = orjson.loads(response.body)
    return response.status_code, response.headers.get("x-degraded"), content


def test_what_is_trending_is_ready(service: Service) -> None:
    """A list made in haste is what a stranger would get, without what its user had or refused."""
    late, engine = hurried(service, 0.1999), service.engine
    ready = msgspec.to_builtins(engine.recommend(Request(k=LENGTH, in_haste=True)).items)
    for user_id in ["u1", "u2", "u3", "nobody"]:
        user = engine.history.users.get(user_id)
        had = {one.item_id for one in engine.history.had(user)} if user != MISS else set()
        allowed = [item for item in ready if item["item_id"] not in had]
        for k in (1, 10, 40):
            url = PATH + f"{user_id}?k={k}&deadline_ms=500".encode()
            status, degraded, content = ask(late, url)
            assert (status, degraded) == (200, "deadline")
            assert len(content.pop("recommendation_id")) == 24
            expected = [item | {"position": n} for n, item in enumerate(allowed[:k], 1)]
            assert content == {
                "user_id": user_id,
                "items": expected,
                "model": engine.model_info(),
                "degraded": "deadline",
            }


def test_longer_lists_are_the_engines(service: Service) -> None:
    """What is ready may be too little; then the engine makes the list, in haste as well."""
    late = hurried(service, 0.1999)
    status, degraded, content = ask(late, PATH + b"u1?k=200&deadline_ms=500")
    slate = service.engine.recommend(Request("u1", 200, in_haste=True))
    assert (status, degraded) == (200, "deadline")
    assert len(slate.items) > LENGTH // 2
    shown = [item["item_id"] for item in content["items"]]
    assert shown == [scored.item_id for scored in slate.items]


def test_what_is_ready_is_of_now(service: Service) -> None:
    """An item that is hidden is not in the next list, however that is made."""
    late = hurried(service, 0.1999)
    first = ask(late, PATH + b"nobody?k=1&deadline_ms=500")[2]["items"][0]["item_id"]
    engine = service.engine
    index = engine.history.items.get(first)
    engine.catalogue.hidden[index] = 1
    engine.tick += 1  # as an entry does
    assert ask(late, PATH + b"nobody?k=1&deadline_ms=500")[2]["items"][0]["item_id"] != first
    engine.catalogue.hidden[index] = 0
    engine.tick += 1


def test_a_request_is_held_to_whatever_it_asks_for(service: Service) -> None:
    """In haste, too, nothing is shown that was excluded or is of another category."""
    late = hurried(service, 0.1999)
    first, second = ask(late, PATH + b"nobody?k=2&deadline_ms=500")[2]["items"]
    excluded = PATH + f"nobody?k=1&deadline_ms=500&exclude={first['item_id']}".encode()
    assert ask(late, excluded)[2]["items"][0]["item_id"] == second["item_id"]
    assert ask(late, PATH + b"nobody?deadline_ms=500&category=none")[2]["items"] == []


def test_rungs(service: Service) -> None:
    """In time a list is whole, then it is what is trending, then there is a 503 in the one form."""
    url = PATH + b"u1?deadline_ms=500"
    status, degraded, whole = ask(hurried(service, 0.0), url)
    assert (status, degraded, whole["degraded"]) == (200, None, None)
    assert ask(hurried(service, 0.1999), url)[1] == "deadline"
    status, degraded, content = ask(hurried(service, 0.3), url)
    assert (status, degraded, content["error"]["code"]) == (503, None, "overloaded")
    # The service's own deadline holds for who names none.
    assert ask(hurried(service, 0.3), PATH + b"u1")[0] == 503
    assert ask(hurried(service, 0.3), PATH + b"u1?deadline_ms=5000")[1] is None


def test_what_has_to_wait_is_not_answered_directly(service: Service) -> None:
    """A cursor that is not applied, a bad query, another route: these queue up as ever."""
    for url in (
        PATH + b"u1?min_cursor=%d-0" % 2**60,
        PATH + b"u1?k=0",
        PATH + b"u1?at=1-1",
        PATH + b"a/b",
        b"/v1/trending",
        b"/healthz",
    ):
        assert answered(service, Head(b"GET", url, [])) is None, url
    assert answered(service, Head(b"POST", PATH + b"u1", [])) is None


def test_a_queue_has_an_end(service: Service) -> None:
    """Where more wait than may, requests are refused at once; probes are not."""
    full = hurried(service, 0.0)
    full.arrivals.n_waiting = service.settings.max_waiting
    assert ask(full, b"/v1/trending")[2]["error"]["code"] == "overloaded"
    post = answered(full, Head(b"POST", b"/v1/feedback", []))
    assert post is not None
    assert post.headers["retry-after"] == "1"
    assert answered(full, Head(b"GET", b"/readyz", [])) is None


def test_a_cursor_is_waited_for_until_the_deadline(make_service: StartService) -> None:
    """With `min_cursor` the answer is there by the deadline, not after it; POST does the same."""
    running = make_service().start()
    for deadline_ms in (400, 800):
        query = {"min_cursor": f"{2**60}-0", "deadline_ms": deadline_ms}
        begin = time.monotonic()
        assert running.get("/v1/recommendations/u", **query)["degraded"] == "replica_behind"
        assert running.post("/v1/recommendations", query)["degraded"] == "replica_behind"
        assert time.monotonic() - begin > deadline_ms / 1_000
    shown = running.client.get("/metrics").text
    assert 'sluice_degraded_total{reason="replica_behind"} 4.0' in shown
    assert 'sluice_deadlines_total{outcome="kept"}' in shown


def test_requests_in_one_packet_are_answered_in_order(make_service: StartService) -> None:
    """Of pipelined requests each is answered, in turn, whichever way it goes."""
    import socket

    running = make_service().start()
    url = httpx.URL(running.url)
    paths = ["/v1/recommendations/a", "/v1/model", "/v1/recommendations/b", "/v1/recommendations/c"]
    request = "".join(f"GET {path} HTTP/1.1\r\nHost: x\r\n\r\n" for path in paths)
    last = "GET /v1/recommendations/d HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
    with socket.create_connection((url.host, url.port or 80), timeout=20) as client:
        client.sendall((request + last).encode())
        answer = b""
        while part := client.recv(65_536):
            answer += part
    assert answer.count(b"HTTP/1.1 200 OK") == 5
    places = [answer.index(text) for text in (b'"a"', b'"gate"', b'"b"', b'"c"', b'"d"')]
    assert places[0] < places[2] < places[3] < places[4]
    assert b'"detectors"' in answer[places[0] : places[2]]
