"""GET /v1/stream: what comes, when, and when it ends."""

from __future__ import annotations

import asyncio
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from app.api.costs import Costs
from app.api.metrics import Metrics
from app.api.samples import Samples
from app.api.stream import ABORT, MAX_LISTENERS, EventStream, Stream
from app.ingest import Ingest
from app.settings import Settings
from app.store import Store
from tests.factories import SMALL
from tests.integration.conftest import StartService
from tests.integration.listening import Heard, listening, next_of
from tests.integration.service import Service, error_of, until


def act(service: Service, action: str, reason: str) -> Any:
    """Act on the gate, over another connection than the one that listens."""
    return service.post(f"/v1/model/{action}", {"reason": reason})


def test_a_listener_gets_the_past_and_then_samples(api: Service) -> None:
    """First comes the ring of the last hour, then sample after sample, all with the same names."""
    with listening(api) as heard:
        first, *samples = [next(heard) for _ in range(3)]
    assert first.event == "history"
    assert all(len(row) == len(first.content["columns"]) for row in first.content["rows"])
    assert [each.event for each in samples] == ["metrics", "metrics"]
    one, two = (each.content for each in samples)
    assert one["time"] < two["time"]
    assert set(one["versions"]) == {"shadow", "champion", "anchor"}
    assert set(one) == set(two)
    assert {"gate", "detectors", "events", "latency", "process", "lag_s", "store"} <= set(one)


def test_a_sample_says_what_was_learned(api: Service) -> None:
    """Events that were posted are in the next samples' counts, rates and freshness."""
    other = api.another()
    with listening(api) as heard:
        before = next_of(heard, "metrics").content["events"]["total"]["learned"]
        event = {"event_id": "stream-1", "user_id": "stream", "item_id": "i", "type": "click"}
        other.post("/v1/feedback", event)
        samples = (each.content for each in heard if each.event == "metrics")
        sample = next(s for s in samples if s["events"]["total"]["learned"] > before)
    assert sample["events"]["per_second"]["learned"] > 0
    assert sample["latency"]["freshness"]["p50_ms"] > 0
    assert sample["latency"]["feedback"]["per_second"] > 0


def test_a_decision_comes_as_it_is_made(api: Service) -> None:
    """An operator's act is told to who listens, as GET /v1/decisions has it, numbered."""
    other = api.another()
    with listening(api, metrics="false") as heard:
        until(lambda: other.counter("sluice_stream_listeners") > 0)
        for action in ("freeze", "resume"):
            [decision] = act(other, action, "somebody listens")["decisions"]
            assert next(heard) == Heard("decision", str(decision["number"]), decision)
    assert other.get("/v1/decisions", n=1)["decisions"] == [decision]


def test_who_comes_back_gets_what_was_missed(api: Service) -> None:
    """With Last-Event-ID the decisions after that one come first, in their order."""
    acts = [act(api, action, "nobody listens") for action in ("freeze", "resume", "shadow_only")]
    act(api, "resume", "the last one")
    numbers = [each["decisions"][0]["number"] for each in acts]
    with listening(api.another(), {"Last-Event-ID": str(numbers[0])}, metrics="false") as heard:
        missed = [next(heard) for _ in range(3)]
    assert [int(each.id or 0) for each in missed] == [numbers[1], numbers[2], numbers[2] + 1]
    assert missed[-1].content["reason"] == "the last one"


def test_a_number_that_is_none_is_refused(api: Service) -> None:
    """Last-Event-ID is a decision's number; anything else is 422, and says so."""
    answer = api.client.get("/v1/stream", headers={"Last-Event-ID": "yesterday"})
    assert "last-event-id" in error_of(answer, 422)["message"].lower()


def test_there_are_so_many_places(make_service: StartService) -> None:
    """One listener too many is 429; when another goes, there is a place for it."""
    service = make_service().start()
    others = [service.another() for _ in range(MAX_LISTENERS)]
    with ExitStack() as stack:
        for other in others:
            stack.enter_context(listening(other))
        assert service.counter("sluice_stream_listeners") == MAX_LISTENERS
        error_of(service.client.get("/v1/stream"), 429)
    until(lambda: service.counter("sluice_stream_listeners") == 0)
    with listening(service) as heard:
        assert next(heard).event == "history"


def test_a_stop_ends_streams(make_service: StartService) -> None:
    """A service that is asked to stop ends its streams in order, and waits for nobody."""
    service = make_service().start()
    with listening(service.another()) as heard:
        next_of(heard, "metrics")
        service.stop()
        assert {each.event for each in heard} <= {"metrics"}
    assert "Application shutdown complete" in service.log
    assert "timeout graceful shutdown exceeded" not in service.log
    assert "Traceback" not in service.log


@pytest.mark.anyio
async def test_who_takes_nothing_is_cut_off(tmp_path: Path) -> None:
    """A listener who takes no byte for too long loses the place, and the connection."""
    settings = Settings(**SMALL)
    ingest = Ingest(Store(f"unix://{tmp_path}/none", settings), settings)
    metrics = Metrics(lambda: ingest)
    samples = Samples(ingest, metrics, Costs(ingest, metrics))
    stream = Stream(ingest, samples, asyncio.Event())
    n_sent, n_cut = 0, 0

    async def send(message: Any) -> None:
        nonlocal n_sent
        n_sent += 1
        if n_sent > 2:
            await asyncio.Event().wait()

    async def receive() -> Any:
        return await asyncio.Event().wait()

    def cut() -> None:
        nonlocal n_cut
        n_cut += 1

    answering = EventStream(stream, None, metrics=True, slow_s=0.01)
    await answering({"type": "http", "extensions": {ABORT: {"now": cut}}}, receive, send)
    assert (stream.n_listeners, n_cut) == (0, 1)
    assert n_sent == 4  # the head, one frame, one that was never taken, the end
