"""The buffer of impressions: bounded, lossy, and never sent twice."""

from __future__ import annotations

import os
import signal
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from itertools import chain

import pytest

from app import events
from app.embedded import EmbeddedServer
from app.events import Impression
from app.impressions import MAX_BUFFERED, MAX_RECORDS, Impressions
from app.ingest import Ingest
from app.recommend import Request, as_scored
from app.serving import Draft, Slate
from app.settings import Settings
from app.store import BEGINNING, Store
from tests.factories import SMALL, sessions

pytestmark = pytest.mark.anyio

Eventually = Callable[[Callable[[], bool]], Awaitable[None]]
OpenStore = Callable[..., Awaitable[Store]]
SHOWN_MS = 1_795_456_800_000
DUE_MS = SHOWN_MS + 30_000
SLATE = Slate(as_scored(["i1", "i2"], [2.5, 1.0], [["covisit"], ["trending"]]), {})


@asynccontextmanager
async def running(store: Store) -> AsyncIterator[tuple[Ingest, Impressions]]:
    """The loop on a store, which knows u0, and a buffer before it."""
    settings = Settings(**SMALL, namespace="test", tokens="check", token_keys="k" * 16)
    ingest = Ingest(store, settings)
    await ingest.start()
    try:
        await ingest.submit(sessions(20, n_users=1), arrival_ms=SHOWN_MS)
        yield ingest, Impressions(ingest, settings)
    finally:
        await ingest.stop()


async def logged(store: Store) -> list[list[str]]:
    """Return the slates of each entry of the log that has any."""
    found = []
    for _, payload, _ in await store.read(BEGINNING, block_ms=0, count=10_000):
        records = events.decode(payload).records
        found.append([r.recommendation_id for r in records if isinstance(r, Impression)])
    return [slates for slates in found if slates]


async def test_the_buffer_is_bounded(server: EmbeddedServer, open_store: OpenStore) -> None:
    """Past its bound a slate is dropped and counted; what is due goes out 1,000 at a time."""
    store = await open_store(server.url)
    async with running(store) as (_, impressions):
        for n in range(MAX_BUFFERED + 7):
            impressions.note(Request("u0"), SLATE, f"slate-{n}", SHOWN_MS + n)
        assert (impressions.n_buffered, impressions.n_dropped) == (MAX_BUFFERED, 7)
        for _ in range(MAX_BUFFERED // MAX_RECORDS + 2):
            await impressions.append_due(DUE_MS + MAX_BUFFERED)
        assert (impressions.n_appended, impressions.n_dropped) == (MAX_BUFFERED, 7)
        found = await logged(store)
    assert [len(slates) for slates in found] == [MAX_RECORDS] * (MAX_BUFFERED // MAX_RECORDS)
    assert list(chain(*found)) == [f"slate-{n}" for n in range(MAX_BUFFERED)]


async def test_only_what_is_due_goes_out(server: EmbeddedServer, open_store: OpenStore) -> None:
    """A slate waits for its answers to the millisecond, and goes out once."""
    store = await open_store(server.url)
    async with running(store) as (_, impressions):
        for n in range(3):
            impressions.note(Request("u0"), SLATE, f"slate-{n}", SHOWN_MS + n)
        await impressions.append_due(DUE_MS - 1)
        assert impressions.n_appended == 0
        await impressions.append_due(DUE_MS + 1)
        await impressions.append_due(DUE_MS + 1)
        assert impressions.n_appended == 2
        assert await logged(store) == [["slate-0", "slate-1"]]


async def test_what_two_versions_drafted_is_no_impression(
    server: EmbeddedServer, open_store: OpenStore
) -> None:
    """A drafted slate is judged by its draft; an empty one, or nobody's, by nothing."""
    store = await open_store(server.url)
    async with running(store) as (_, impressions):
        drafted = Slate(SLATE.items, {}, Draft("hold:1", ["a", "b"]))
        impressions.note(Request("u0"), drafted, "drafted", SHOWN_MS)
        impressions.note(Request("u0"), Slate([], {}), "empty", SHOWN_MS)
        impressions.note(Request(None), SLATE, "nobody's", SHOWN_MS)
        assert (impressions.n_buffered, impressions.n_strangers) == (0, 0)
        impressions.note(Request("never seen"), SLATE, "a stranger's", SHOWN_MS)
        assert (impressions.n_buffered, impressions.n_strangers) == (0, 1)


async def test_an_append_that_fails_is_not_tried_again(
    server: EmbeddedServer, open_store: OpenStore, eventually: Eventually
) -> None:
    """What was sent when the store stopped answering is dropped, and in the log at most once."""
    store = await open_store(server.url, store_timeout_s=1.5)
    async with running(store) as (ingest, impressions):
        impressions.note(Request("u0"), SLATE, "unknown", SHOWN_MS)
        impressions.note(Request("u0"), SLATE, "waiting", SHOWN_MS + 60_000)
        assert server.pid
        os.kill(server.pid, signal.SIGSTOP)
        try:
            assert ingest.is_store_up
            await impressions.append_due(DUE_MS)
            assert (impressions.n_appended, impressions.n_dropped) == (0, 1)
            await eventually(lambda: not ingest.is_store_up)
            impressions.note(Request("u0"), SLATE, "while down", SHOWN_MS)
            await impressions.append_due(DUE_MS)
            assert (impressions.n_buffered, impressions.n_dropped) == (2, 2)
        finally:
            os.kill(server.pid, signal.SIGCONT)
        await eventually(lambda: ingest.is_store_up)
        impressions.note(Request("u0"), SLATE, "after", SHOWN_MS)
        await impressions.append_due(DUE_MS + 60_000)
        assert (impressions.n_appended, impressions.n_dropped) == (1, 2)
        found = list(chain(*await logged(store)))
    assert found in (["after"], ["unknown", "after"])
