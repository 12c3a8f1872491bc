"""Spans: of what, beneath what, and none where nobody asked for them."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind

from app import events, traces
from app.api.service import Service
from app.errors import SettingsError
from app.events import Entry
from app.main import create_app, running_service
from app.settings import Settings
from tests.factories import SMALL, mixed

pytestmark = pytest.mark.anyio

CALLER = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


@asynccontextmanager
async def asked(folder: Path, **more: Any) -> AsyncIterator[tuple[httpx.AsyncClient, Service]]:
    """Run a service in this process, and lend who asks it."""
    settings = Settings(**{**SMALL, **more, "data_dir": folder})
    async with running_service(settings) as service:
        app = create_app(settings)

        async def with_state(scope: Any, receive: Any, send: Any) -> None:
            await app({**scope, "state": {"service": service}}, receive, send)

        transport = httpx.ASGITransport(with_state)
        async with httpx.AsyncClient(transport=transport, base_url="http://here") as client:
            yield client, service


def named(spans: tuple[ReadableSpan, ...], name: str) -> ReadableSpan:
    """Return the one span of a name."""
    [found] = [span for span in spans if span.name == name]
    return found


async def test_a_request_is_traced_to_where_it_is_learned(tmp_path: Path) -> None:
    """Append and apply are parts of the POST, the POST of its caller; nobody is named in them."""
    kept = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(kept))
    event = {"user_id": "ann-of-secrets", "item_id": "kettle-of-secrets", "type": "click"}
    with traces.recorded(provider):
        async with asked(tmp_path) as (client, _):
            await client.post("/v1/feedback", json=event, headers={"traceparent": CALLER})
            await client.get("/v1/recommendations/ann-of-secrets")
            await client.post("/v1/snapshots")
            await client.get("/v1/items/nothing-of-secrets")
            await client.get("/nowhere")
            spans = kept.get_finished_spans()
    post = named(spans, "POST /v1/feedback")
    assert post.kind is SpanKind.SERVER
    assert post.parent is not None
    assert f"{post.parent.trace_id:032x}" == CALLER.split("-")[1]
    assert f"{post.parent.span_id:016x}" == CALLER.split("-")[2]
    for name in ("append", "apply"):
        [part] = [s for s in spans if s.name == name and s.parent == post.context]
        assert dict(part.attributes or {}) == {"records": 1}
    assert named(spans, "GET /v1/recommendations/{user_id}").parent is None
    missing = named(spans, "GET /v1/items/{item_id}").attributes or {}
    assert missing["http.response.status_code"] == 404
    assert (named(spans, "GET").attributes or {})["http.response.status_code"] == 404
    snapshot = named(spans, "snapshot")
    assert snapshot.parent == named(spans, "POST /v1/snapshots").context
    assert "secrets" not in "".join(span.to_json() for span in spans)


async def test_a_traced_post_waits_no_longer_than_it_may(tmp_path: Path) -> None:
    """Who waits for a store that is given more time is answered when its own time is up."""
    event = {"user_id": "u", "item_id": "i", "type": "click"}
    with traces.recorded(TracerProvider()):
        async with asked(tmp_path, store_timeout_s=15, feedback_timeout_s=1) as (client, service):
            await client.post("/v1/feedback", json=event)
            server = service.ingest._server
            pid = None if server is None else server.pid
            assert pid is not None
            os.kill(pid, signal.SIGSTOP)
            begin = time.monotonic()
            try:
                assert (await client.post("/v1/feedback", json=event)).status_code == 503
                assert time.monotonic() - begin < 8
            finally:
                os.kill(pid, signal.SIGCONT)


async def test_what_is_applied_together_is_one_span(tmp_path: Path) -> None:
    """Entries that nobody here waits for are applied together: the span has the records of all."""
    kept = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(kept))
    entries = [events.encode(Entry([event], 10**13)) for event in mixed(5)]
    with traces.recorded(provider):
        async with asked(tmp_path) as (_, service):
            kept.clear()
            cursors = await service.ingest.store.append([(entry, "x") for entry in entries])
            assert await service.ingest.wait_for(cursors[-1], 20)
    spans = [span for span in kept.get_finished_spans() if span.name == "apply"]
    assert len(spans) < len(entries)
    assert sum((span.attributes or {})["records"] for span in spans) == len(entries)  # type: ignore[misc]


async def test_without_traces_nothing_is_made() -> None:
    """By default what makes spans is not even loaded, and the parts of a request make no span."""
    code = (
        "import sys; import scripts.serve; from app import traces;"
        " a, b = traces.span('a'), traces.span('b'); assert a is b;"
        " assert traces.here() is None;"
        " assert traces.request('GET', ()) is traces.request('POST', ());"
        " assert 'opentelemetry.sdk.trace' not in sys.modules"
    )
    done = await asyncio.to_thread(subprocess.run, [sys.executable, "-c", code], check=False)
    assert done.returncode == 0


async def test_without_the_extra_the_start_says_so() -> None:
    """SLUICE_TRACES=otlp without the library stops the start, and names what is to be installed."""
    code = (
        "import sys; sys.modules['opentelemetry.sdk.trace'] = None;"
        " from app import traces; traces.exported('otlp').__enter__()"
    )
    done = await asyncio.to_thread(
        subprocess.run, [sys.executable, "-c", code], check=False, capture_output=True, text=True
    )
    assert SettingsError.__name__ in done.stderr
    assert "pip install 'sluice[otel]'" in done.stderr
