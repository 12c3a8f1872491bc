"""Puts the parts together: create_app(settings) and its lifespan. The only file that knows all."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from typing import Any, TypedDict

from fastapi import FastAPI
from starlette.types import Receive, Scope, Send

from app import collector, pages, tasks, traces
from app.api import (
    catalogue,
    dashboard,
    features,
    feedback,
    health,
    impressions,
    operations,
    recommendations,
    replicas,
    rules,
)
from app.api.asgi import BodyLimit, LastAnswer, Measure, PlainFailure, RawPath
from app.api.costs import Costs
from app.api.errors import add_error_handlers
from app.api.metrics import Metrics
from app.api.past import PastAnswers
from app.api.samples import Samples
from app.api.schemas import FeedbackEvent, rule_schemas
from app.api.service import Service
from app.api.sessions import Sessions
from app.api.shortcut import take_shortcut
from app.api.signing import Signing
from app.api.stream import Stream
from app.cost import RECEIVING
from app.embedded import EmbeddedServer
from app.engine import Outcome
from app.events import Entry
from app.feature_store import FeatureStore
from app.impressions import Impressions
from app.ingest import Ingest
from app.peers import Peers
from app.rule_watch import RuleWatch
from app.settings import Settings
from app.store import Store
from app.thinning import Thinning
from app.warm_up import warm_up

VERSION = "0.1.0"

logger = logging.getLogger(__name__)


class _State(TypedDict):
    service: Service


def create_app(settings: Settings, *, reconfigure: bool = False) -> FastAPI:
    """Return the application; its lifespan starts the store and the learning.

    Whoever serves it sets `state.stopping` when the service is to stop: streams then end.
    """

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[_State]:
        _make_routes(app)
        async with running_service(settings, stopping, reconfigure=reconfigure) as service:
            yield {"service": service}

    stopping = asyncio.Event()
    app = _App(
        title="Sluice",
        version=VERSION,
        summary="Online-learning recommendations that are boring to run",
        lifespan=lifespan,
        redirect_slashes=False,
    )
    app.state.stopping = stopping
    modules = (
        recommendations,
        feedback,
        impressions,
        catalogue,
        features,
        rules,
        operations,
        replicas,
        health,
        dashboard,
    )
    for module in modules:
        app.include_router(module.router)
    add_error_handlers(app)
    # Last added, first run.
    app.add_middleware(BodyLimit, max_bytes=settings.max_body_bytes)
    app.add_middleware(LastAnswer)
    app.add_middleware(Measure)
    app.add_middleware(RawPath)
    app.add_middleware(PlainFailure)
    _describe_bodies(app, settings)
    return app


class _App(FastAPI):
    """FastAPI, with a shortcut for the requests that are nearly all."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if not await take_shortcut(scope, receive, send):
            await super().__call__(scope, receive, send)


def _describe_bodies(app: FastAPI, settings: Settings) -> None:
    """Put what no model says into /openapi.json: bodies read by hand, and declared features."""
    original = app.openapi

    def openapi() -> dict[str, object]:
        if app.openapi_schema is not None:  # it is made once
            return app.openapi_schema
        schema = original()
        schemas = schema["components"]["schemas"]
        schemas["FeedbackEvent"] = FeedbackEvent.model_json_schema()
        schemas |= rule_schemas()
        features.describe(schema, settings.features)
        return schema

    app.openapi = openapi  # type: ignore[method-assign]


@asynccontextmanager
async def running_service(
    settings: Settings, stopping: asyncio.Event | None = None, *, reconfigure: bool = False
) -> AsyncIterator[Service]:
    """Start store, engine and ingest, and stop them in the opposite order."""
    logger.info("loading compiled code; the first start compiles it, which takes a minute")
    warm_up()
    with traces.exported(settings.traces):
        async with _service_on_store(settings, stopping, reconfigure=reconfigure) as service:
            yield service


@asynccontextmanager
async def _service_on_store(
    settings: Settings, stopping: asyncio.Event | None, *, reconfigure: bool
) -> AsyncIterator[Service]:
    async with opened_store(settings) as (store, server):
        ingest = Ingest(store, settings, server=server, reconfigure=reconfigure)
        metrics = Metrics(lambda: ingest)
        await ingest.start()
        # Most of it now, while nobody waits: a snapshot then finds little to do.
        await asyncio.to_thread(pages.collapse)
        stopping = stopping or asyncio.Event()
        try:
            peers, past = Peers(ingest), PastAnswers(settings, store)
            costs = Costs(ingest, metrics)
            metrics.watch_costs(costs)
            samples = Samples(ingest, metrics, costs)
            stream = Stream(ingest, samples, stopping)
            metrics.watch_stream(lambda: stream.n_listeners)
            ingest.on_outcome = lambda outcome, entry: _tell(metrics, stream, outcome, entry)
            rule_watch = RuleWatch(ingest)
            metrics.watch_rules(rule_watch)
            async with (
                _in_background(rule_watch.run(), "nobody looks for rules that fight"),
                _in_background(peers.run(), "this replica is no longer listed"),
                _in_background(stream.run(), "the dashboard gets no news"),
                _in_background(
                    Thinning(ingest).run(), "judging stays as it is, whatever the budget"
                ),
                _in_background(costs.run(), "costs of late are no longer known"),
                _in_background(_hurry(ingest, stopping), "stopping waits for the budget"),
                impression_service(settings, ingest, metrics) as shown,
            ):
                signing = None
                if settings.tokens != "off":
                    signing = Signing(settings, shown, metrics)
                async with feature_store_of(settings, metrics) as read:
                    with collector.calmed():
                        sessions = Sessions(settings)
                        watching = (peers, stream, sessions, shown, rule_watch)
                        service = Service(
                            settings, ingest, metrics, costs, past, *watching, signing, read
                        )
                        ingest.on_turn = service.arrivals.look
                        yield service
        finally:
            await ingest.stop()


async def _hurry(ingest: Ingest, stopping: asyncio.Event) -> None:
    """Learn at full speed once the service is to stop: requests that wait have seconds for it."""
    await stopping.wait()
    ingest.budget.lift()


@asynccontextmanager
async def impression_service(
    settings: Settings, ingest: Ingest, metrics: Metrics
) -> AsyncIterator[Impressions]:
    """Log impressions meanwhile: with tokens on all that is served, else what clients declare."""
    shown = Impressions(ingest, settings)
    metrics.watch(shown)
    appending = ingest.meter.timed(RECEIVING, shown.run())
    async with _in_background(appending, "impressions are no longer logged"):
        yield shown


@asynccontextmanager
async def feature_store_of(
    settings: Settings, metrics: Metrics
) -> AsyncIterator[FeatureStore | None]:
    """Open where users' features are read, if they are."""
    if not settings.feature_store_url:
        yield None
        return
    store = FeatureStore(settings)
    metrics.watch_features(store)
    try:
        yield store
    finally:
        await store.close()


@asynccontextmanager
async def _in_background(work: Coroutine[Any, Any, None], lost: str) -> AsyncIterator[None]:
    """Let something run meanwhile; say what is `lost` if it ends by a fault of ours.

    Serving and learning go on without.
    """

    def tell(task: asyncio.Task[None]) -> None:
        error = None if task.cancelled() else task.exception()
        if error is not None:
            logger.critical("%s: %s", lost, error, exc_info=error)

    task = asyncio.create_task(work)
    task.add_done_callback(tell)
    try:
        yield
    finally:
        await tasks.end(task)


def _tell(metrics: Metrics, stream: Stream, outcome: Outcome, entry: Entry) -> None:
    """Count what an entry did, and let those who watch know of it."""
    for decision in outcome.decisions:
        metrics.decisions.labels(decision.kind).inc()
    if entry.arrival_ms is not None:
        metrics.note_applied(time.time() - entry.arrival_ms / 1_000)
    if outcome.decisions:
        stream.wake()


@asynccontextmanager
async def opened_store(
    settings: Settings,
) -> AsyncIterator[tuple[Store, EmbeddedServer | None]]:
    """Open the store: the one at redis_url, or our own server in the data folder."""
    server = None
    if not settings.redis_url:
        server = EmbeddedServer(settings.data_dir / "store", settings.fsync)
        await server.start()
    try:
        store = Store(settings.redis_url or server.url, settings)  # type: ignore[union-attr]
        try:
            await store.open()
            yield store, server
        finally:
            await store.close()
    finally:
        if server is not None:
            await server.stop()


def _make_routes(app: FastAPI) -> None:
    """Let FastAPI make what it makes of its routes when the first request comes: that takes 50 ms.

    For a path that nobody has, so that it looks at all of them.
    """
    scope = {"type": "http", "method": "GET", "path": "/-", "root_path": "", "headers": []}
    for route in app.router.routes:
        route.matches(scope)
