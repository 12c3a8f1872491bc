"""The shortcut of the two hot routes: who takes it and who does not are answered alike."""

from __future__ import annotations

import asyncio
import dataclasses
import time
from collections.abc import Iterator, Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any, NamedTuple, cast
from urllib.parse import quote, urlencode

import httpx
import orjson
import pytest
from fastapi import FastAPI
from hypothesis import given, settings
from hypothesis import strategies as st

from app.api.service import Service
from app.api.shortcut import take_shortcut
from app.main import create_app, running_service
from app.settings import Settings
from tests.factories import SMALL

KEY, ADMIN = "the-api-key", "the-admin-key"
Headers = Sequence[tuple[str, str]]


class Answer(NamedTuple):
    """What came back, without what differs from one answer to the next."""

    status: int
    headers: list[str]
    content: dict[str, Any]


class Both:
    """One service, asked by the shortcut where a request is plain, and past it."""

    def __init__(self, service: Service, runner: asyncio.Runner) -> None:
        self.service = service
        self.app = create_app(service.settings)
        self._runner = runner

    def ask(self, method: str, target: str, headers: Headers = (), body: bytes = b"") -> Answer:
        """Return the answer, which is the same both ways."""
        short, long = (
            self._ask(way, method, target, headers, body) for way in (self._short, self._long)
        )
        assert short == long
        return short

    async def _short(self, scope: Any, receive: Any, send: Any) -> None:
        await self.app({**scope, "state": self._state()}, receive, send)

    async def _long(self, scope: Any, receive: Any, send: Any) -> None:
        scope = {**scope, "state": self._state()}
        await FastAPI.__call__(self.app, scope, receive, send)

    def _state(self) -> dict[str, Any]:
        """Return what a request has with it; it came so late that there is always time."""
        return {"service": self.service, "arrived": time.perf_counter() + 3_600}

    def is_plain(self, method: str, target: str, headers: Headers = ()) -> bool:
        """Tell whether a request takes the shortcut."""
        taken: list[bool] = []

        async def way(scope: Any, receive: Any, send: Any) -> None:
            scope = {**scope, "state": self._state()}
            taken.append(await take_shortcut(scope, receive, send))
            if not taken[0]:
                await send({"type": "http.response.start", "status": 404, "headers": []})
                await send({"type": "http.response.body"})

        event = b'{"user_id": "u", "item_id": "i", "type": "click"}'
        self._ask(way, method, target, headers, event if method == "POST" else b"")
        return taken[0]

    def _ask(self, way: Any, method: str, target: str, headers: Headers, body: bytes) -> Answer:
        async def ask() -> httpx.Response:
            transport = httpx.ASGITransport(way, raise_app_exceptions=False)
            async with httpx.AsyncClient(transport=transport, base_url="http://x") as client:
                return await client.request(method, target, headers=list(headers), content=body)

        found = self._runner.run(ask())
        content = orjson.loads(found.content) if found.content else {}
        for name in ("recommendation_id", "cursor", "results"):
            content.pop(name, None)
        names = [f"{n}: {v}" for n, v in found.headers.items() if n != "content-length"]
        return Answer(found.status_code, names, content)


@pytest.fixture(scope="module")
def runner() -> Iterator[asyncio.Runner]:
    """The loop that the services of this module run in."""
    with asyncio.Runner() as runner:
        yield runner


def start(runner: asyncio.Runner, folder: Path, **changes: Any) -> Iterator[Both]:
    """Run a service as long as the fixture lives."""
    stack = AsyncExitStack()
    made = Settings(data_dir=folder, **(SMALL | changes))
    service = runner.run(stack.enter_async_context(running_service(made)))
    yield Both(service, runner)
    runner.run(stack.aclose())


@pytest.fixture(scope="module")
def both(runner: asyncio.Runner, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Both]:
    """A service without keys that knows a user."""
    declared = {"device": {"of": "context", "values": ["0", "1"]}}
    folder = tmp_path_factory.mktemp("both")
    for made in start(runner, folder, max_body_bytes=2_000, features=declared):
        for number in range(5):
            event = {"user_id": "u", "item_id": f"i{number}", "type": "click"}
            made.ask("POST", "/v1/feedback", body=orjson.dumps(event))
        yield made


@pytest.fixture(scope="module")
def guarded(runner: asyncio.Runner, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Both]:
    """A service with both keys."""
    keys = {"api_key": KEY, "admin_key": ADMIN}
    yield from start(runner, tmp_path_factory.mktemp("guarded"), **keys)


VALUES = [
    *("", "0", "1", "7", "200", "201", "1.0", " 5", "true", "maybe", "1-1", "0-0", "é", "i1"),
    *("n<=5", "n=i1,x"),
]
NAMES = [
    *("k", "exclude", "category", "category_all", "where"),
    *("explain", "deadline_ms", "min_cursor", "other", "context.device", "context.other"),
]
parameters = st.lists(st.tuples(st.sampled_from(NAMES), st.sampled_from(VALUES)), max_size=5)
segments = st.one_of(st.just("u"), st.text(max_size=6)).map(lambda text: quote(text, safe=""))


@given(parameters, segments, st.sampled_from(["", "&", "&at=x", "&k", "&k=%zz"]))
@settings(max_examples=150, deadline=None, derandomize=True, database=None)
def test_any_query_is_answered_alike(
    both: Both, query: list[tuple[str, str]], segment: str, rest: str
) -> None:
    """Whatever a GET asks for, the shortcut answers what FastAPI would, or leaves it to FastAPI."""
    both.ask("GET", f"/v1/recommendations/{segment}?{urlencode(query)}{rest}")


BODIES = [
    b'{"user_id": "v", "item_id": "i1", "type": "click"}',
    b'[{"user_id": "v", "item_id": "i1", "type": "stare"}, 7]',
    b'{"events": []}',
    b'{"user_id": ',
    b"",
    b" " * 2_001,
]


@pytest.mark.parametrize("body", BODIES)
@pytest.mark.parametrize("query", ["", "?ack=log", "?ack=learned", "?ack=never", "?x=1", "?ack="])
def test_any_feedback_is_answered_alike(both: Both, body: bytes, query: str) -> None:
    """Whatever is posted, it is taken or refused alike, with the same headers."""
    for kind in ("application/json", "application/x-ndjson; charset=utf-8", "text/plain"):
        both.ask("POST", f"/v1/feedback{query}", [("content-type", kind)], body)


@pytest.mark.parametrize("method", ["GET", "HEAD", "POST", "PUT", "OPTIONS"])
@pytest.mark.parametrize("path", ["/v1/feedback", "/v1/recommendations/u", "/v1/feedback/"])
def test_other_methods_are_answered_alike(both: Both, method: str, path: str) -> None:
    """A method that a route does not have is a 405, with Allow, whoever answers."""
    both.ask(method, path)


HEADERS: list[Headers] = [
    [],
    [("X-API-Key", KEY)],
    [("x-api-key", ADMIN)],
    [("X-API-Key", "another")],
    [("X-API-Key", "")],
    [("X-API-Key", KEY), ("X-API-Key", "another")],
    [("X-API-Key", "another"), ("X-API-Key", KEY)],
    [("X-API-Key", "another"), ("Authorization", f"Bearer {KEY}")],
    [("X-API-Key", ""), ("Authorization", f"Bearer {KEY}")],
    [("Authorization", f"Bearer {KEY}")],
    [("Authorization", f"bearer {ADMIN}")],
    [("Authorization", f"Bearer  {KEY}")],
    [("Authorization", f"Basic {KEY}")],
    [("Authorization", KEY)],
    [("Authorization", "Bearer")],
]


@pytest.mark.parametrize("headers", HEADERS)
def test_keys_are_asked_for_alike(guarded: Both, headers: Headers) -> None:
    """The shortcut lets nobody through whom FastAPI would not."""
    for target in ("/v1/recommendations/u", "/v1/recommendations/u?k=0"):
        status = guarded.ask("GET", target, headers).status
        assert status == 401 or headers
    guarded.ask("POST", "/v1/feedback", headers, BODIES[0])


def test_plain_requests_take_the_shortcut(both: Both, guarded: Both) -> None:
    """What nearly every client sends goes the short way; a list of the past does not."""
    assert both.is_plain("GET", "/v1/recommendations/u")
    assert both.is_plain("GET", "/v1/recommendations/a%2Fb?k=5&exclude=i1&exclude=i2&explain=true")
    assert both.is_plain("POST", "/v1/feedback")
    assert both.is_plain("POST", "/v1/feedback?ack=log")
    assert guarded.is_plain("GET", "/v1/recommendations/u", [("X-API-Key", KEY)])
    assert guarded.is_plain("POST", "/v1/feedback", [("Authorization", f"Bearer {KEY}")])
    assert not guarded.is_plain("GET", "/v1/recommendations/u")
    assert not both.is_plain("GET", "/v1/recommendations/u?at=1-1")
    assert not both.is_plain("GET", "/v1/recommendations/a/b")
    assert not both.is_plain("DELETE", "/v1/recommendations/u")


def test_an_error_of_ours_is_answered_alike(both: Both, caplog: pytest.LogCaptureFixture) -> None:
    """What nobody expected is a 500 in the form of all errors, logged and counted."""
    broken = dataclasses.replace(both.service, ingest=cast("Any", None))
    asked = Both(broken, both._runner)
    answer = asked.ask("GET", "/v1/recommendations/u")
    assert (answer.status, answer.content["error"]["code"]) == (500, "internal")
    assert caplog.text.count("unexpected error answering GET /v1/recommendations/u") == 2
    shown = both.service.metrics.render().decode()
    name = 'sluice_http_requests_total{route="GET /v1/recommendations/{user_id}",status="500"}'
    assert f"{name} 2.0" in shown
