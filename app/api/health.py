"""Alive, ready, and numbers for Prometheus."""

from __future__ import annotations

from fastapi import APIRouter, Depends, Response
from fastapi.responses import PlainTextResponse
from prometheus_client import CONTENT_TYPE_LATEST

from app.api import schemas
from app.api.service import Running, answer, may_use

router = APIRouter(tags=["health"])


@router.get("/healthz")
async def healthz() -> Response:
    """Say that the process answers."""
    return answer({"status": "ok"})


@router.get("/readyz", responses={503: {"description": "Not ready, and why"}})
async def readyz(service: Running) -> Response:
    """Say whether this process should get traffic: restored, and not far behind the log.

    A store that does not answer leaves it ready, as reads go on from memory; so does a budget that
    delays learning, as other processes would be no less behind. It says so.
    """
    ingest = service.ingest
    problems = []
    if ingest.stopped is not None:
        problems.append(ingest.stopped.message)
    if ingest.lag_s > service.settings.ready_lag_s and not ingest.budget.is_delaying:
        problems.append(f"{ingest.lag_s:.1f} s behind the log")
    content = {
        "status": "not_ready" if problems else "ready",
        "problems": problems,
        "store": "up" if ingest.is_store_up else "unavailable",
        "lag_s": ingest.lag_s,
        "is_delayed_by_budget": ingest.is_delayed,
        "cursor": service.engine.cursor,
        "refused_snapshots": ingest.keeper.refused,
    }
    return answer(content, status=503 if problems else 200)


@router.get(
    "/metrics",
    dependencies=[Depends(may_use)],
    response_class=PlainTextResponse,
    responses=schemas.errors(),
)
async def metrics(service: Running) -> Response:
    """Return metrics in Prometheus' text format."""
    return Response(service.metrics.render(), media_type=CONTENT_TYPE_LATEST)
