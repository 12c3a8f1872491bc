"""Model, decisions, snapshots, quarantine: what operators look at and do."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import orjson
from fastapi import APIRouter, Depends, Header, Query, Response

from app import snapshot
from app.api import schemas
from app.api.feedback import learned
from app.api.samples import decision_view
from app.api.service import (
    PageCursor,
    PageNumber,
    PageSize,
    RecordId,
    Running,
    Service,
    SnapshotId,
    StrictRoute,
    answer,
    may_operate,
    now_ms,
)
from app.api.stream import EventStream
from app.engine import Outcome
from app.errors import Conflict, InvalidRequest, SnapshotRefused
from app.events import Command, format_time
from app.keeper import read_snapshot
from app.quarantine import released
from app.store import parse_cursor

router = APIRouter(
    tags=["operations"], dependencies=[Depends(may_operate)], route_class=StrictRoute
)


Kinds = Annotated[
    list[str], Query(max_length=50, description="kinds to leave out, such as `promote`; repeats")
]


# -- model ------------------------------------------------------------------------------------


@router.get("/v1/model", responses=schemas.errors())
async def get_model(
    service: Running,
    hash_: Annotated[
        bool, Query(alias="hash", description="add model_hash and state_hash (takes a while)")
    ] = False,
) -> Response:
    """Return gate, versions with their prequential quality, detectors, learner, cost."""
    content = service.engine.describe()
    content["lag_s"] = service.ingest.lag_s
    content["cost"] = service.costs.view()
    if hash_:
        content |= await service.ingest.hashes()
    return answer(content)


@router.post("/v1/model/challenger", responses=schemas.errors(409, *schemas.WRITES))
async def start_challenger(service: Running, body: schemas.ChallengerBody) -> Response:
    """Let a second configuration of the learner shadow beside the first, until one is proven."""
    changes = body.named()
    if not changes:
        raise InvalidRequest("changes: give at least one setting")
    try:
        service.engine.settings.with_learner(changes)
    except ValueError as error:
        raise InvalidRequest(f"changes: {error}") from None
    command = Command("start_challenger", body.reason, "operator", changes=changes)
    return _acted(service, await service.submit(command))


@router.delete("/v1/model/challenger", responses=schemas.errors(409, *schemas.WRITES))
async def stop_challenger(
    service: Running,
    reason: Annotated[str, Query(min_length=1, max_length=1_000)],
) -> Response:
    """Stop the challenger and forget what it learned."""
    return _acted(service, await service.submit(Command("stop_challenger", reason, "operator")))


@router.post("/v1/model/{action}", responses=schemas.errors(409, *schemas.WRITES))
async def act_on_model(
    service: Running,
    action: Literal["promote", "rollback", "freeze", "resume", "shadow_only", "requeue", "adopt"],
    body: schemas.CommandBody,
) -> Response:
    """Act on the gate, through the log; a refusal is 409 with its reason."""
    command = Command(action, body.reason, "operator", body.force, without=body.without)
    return _acted(service, await service.submit(command))


def _acted(service: Service, outcome: Outcome) -> Response:
    return answer(
        {
            "model": service.engine.model_info(),
            "challenger": service.engine.challenges.view(),
            "decisions": [decision_view(decision) for decision in outcome.decisions],
            "cursor": outcome.cursor,
        }
    )


@router.get("/v1/decisions", response_model=schemas.DecisionPage, responses=schemas.errors())
async def list_decisions(
    service: Running,
    n: PageSize = 50,
    cursor: PageNumber = None,
    without: Kinds = [],  # noqa: B006
) -> Response:
    """Return what the gate and operators did, newest first, with the evidence."""
    before = None if cursor is None else int(cursor)
    newest_first = reversed(service.engine.gate.decisions)
    older = [
        d for d in newest_first if (before is None or d.number < before) and d.kind not in without
    ]
    following = str(older[n - 1].number) if len(older) > n else None
    return answer({"decisions": [decision_view(d) for d in older[:n]], "next": following})


@router.get(
    "/v1/stream",
    status_code=200,  # which FastAPI would look for in the signature of the class
    response_class=EventStream,
    responses={
        200: {"content": {"text/event-stream": {"schema": {"type": "string"}}}},
        **schemas.errors(429),
    },
)
async def listen(
    service: Running,
    metrics: Annotated[
        bool, Query(description="false: decisions alone, and a comment now and then")
    ] = True,
    last_event_id: Annotated[
        str | None,
        Header(pattern="^[0-9]{1,15}$", description="the number of the last decision received"),
    ] = None,
) -> Response:
    """Tell what is going on, as server-sent events, until either side hangs up.

    `history` (once): a point every ten seconds of the last hour; `metrics`: a sample every second;
    `decision`: as they are made, and those since `Last-Event-ID`.
    """
    since = None if last_event_id is None else int(last_event_id)
    return EventStream(service.stream, since, metrics=metrics)


# -- snapshots --------------------------------------------------------------------------------


@router.get("/v1/snapshots", response_model=schemas.SnapshotPage, responses=schemas.errors(503))
async def list_snapshots(service: Running) -> Response:
    """Return the snapshots there are, newest first, and those that were refused at start."""
    manifests = await service.ingest.store.list_snapshots()
    shown = [_manifest(manifest) for manifest in reversed(manifests)]
    return answer({"snapshots": shown, "refused": service.ingest.keeper.refused})


@router.post("/v1/snapshots", responses=schemas.errors(409, 503))
async def write_snapshot(service: Running) -> Response:
    """Write a snapshot now."""
    return answer(_manifest(await service.ingest.keeper.write()))


@router.get("/v1/snapshots/{snapshot_id}", responses=schemas.errors(404, 409, 503))
async def get_snapshot(service: Running, snapshot_id: SnapshotId) -> Response:
    """Return a snapshot's manifest."""
    return answer(_manifest(await service.ingest.store.read_manifest(_checked(snapshot_id))))


@router.post(
    "/v1/snapshots/{snapshot_id}/restore", responses=schemas.errors(404, 409, *schemas.WRITES)
)
async def restore_snapshot(
    service: Running, snapshot_id: SnapshotId, body: schemas.CommandBody
) -> Response:
    """Put a snapshot's shadow, champion, anchor and gate back, on every replica, by the log."""
    store = service.ingest.store
    await store.pin_snapshot(_checked(snapshot_id))
    await read_snapshot(store, snapshot_id)  # refused now, not by every replica
    command = Command("restore", body.reason, "operator", body.force, snapshot_id)
    return _acted(service, await service.submit(command))


def _checked(snapshot_id: str) -> str:
    parse_cursor(snapshot_id)
    return snapshot_id


def _manifest(manifest: dict[str, Any]) -> dict[str, Any]:
    """Leave out what only a reader of the bytes needs; say why one would be refused."""
    written_at = format_time(parse_cursor(manifest["id"])[0])
    try:
        snapshot.check_manifest(manifest)
    except SnapshotRefused as error:
        return {"id": manifest["id"], "written_at": written_at, "refused": error.message}
    hidden = ("arrays", "chunks", "header_bytes", "watermark_ms", "point")
    shown = {name: value for name, value in manifest.items() if name not in hidden}
    return shown | {
        "n_chunks": len(manifest["chunks"]),
        "watermark": format_time(manifest["watermark_ms"]),
        "written_at": written_at,
    }


# -- quarantine -------------------------------------------------------------------------------


@router.get("/v1/quarantine", response_model=schemas.QuarantinePage, responses=schemas.errors(503))
async def list_quarantine(
    service: Running, n: PageSize = 50, cursor: PageCursor = None
) -> Response:
    """Return the events that were not learned, newest first, and why."""
    if cursor is not None:
        parse_cursor(cursor)
    records = await service.ingest.store.list_quarantine(n + 1, cursor)
    following = records[n - 1][0] if len(records) > n else None
    shown = [{"id": record_id, **orjson.loads(data)} for record_id, data in records[:n]]
    return answer({"records": shown, "next": following})


@router.post(
    "/v1/quarantine/{record_id}/release",
    response_model=schemas.FeedbackAnswer,
    responses=schemas.errors(404, 409, *schemas.WRITES),
)
async def release_quarantined(service: Running, record_id: RecordId) -> Response:
    """Learn a quarantined or late event after all: it passes token, time, caps and rules.

    One of another time is learned as of the nearest that is accepted.
    """
    record = await service.ingest.store.get_quarantined(record_id)
    event = released(record, parse_cursor(record_id)[0])
    if event is None:
        raise Conflict("it could not be read as an event, so there is nothing to learn from it")
    return learned(await service.ingest.submit([event], arrival_ms=now_ms()))
