"""Feedback: one event, a list, {"events": [...]}, or NDJSON."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Sequence
from typing import Annotated, Any, Literal

import orjson
from fastapi import APIRouter, Depends, Query, Request, Response
from starlette.types import Receive, Scope

from app.api import schemas
from app.api.asgi import read_body
from app.api.features import with_features
from app.api.service import Running, Service, StrictRoute, answer, may_use, now_ms
from app.engine import Outcome
from app.errors import Delayed, InvalidRequest
from app.events import MAX_ID_BYTES, Event, malformed_line, parse_feedback
from app.tokens import MAX_TOKEN_BYTES

router = APIRouter(tags=["feedback"], dependencies=[Depends(may_use)], route_class=StrictRoute)

Headers = Sequence[tuple[bytes, bytes]]

NDJSON = "application/x-ndjson"
# Parsing yields to other requests this often; 256 events take about a millisecond.
_PARSE_BATCH = 256

_EVENT = {"$ref": "#/components/schemas/FeedbackEvent"}
_MANY = {"minItems": 1, "maxItems": 10_000}
_BODY: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {
            "application/json": {
                "schema": {
                    "anyOf": [
                        _EVENT,
                        {"type": "array", "items": _EVENT, **_MANY},
                        {
                            "type": "object",
                            "required": ["events"],
                            "properties": {"events": {"type": "array", "items": _EVENT, **_MANY}},
                        },
                    ]
                },
                "example": {"user_id": "u1", "item_id": "i9", "type": "click"},
            },
            NDJSON: {
                "schema": {"type": "string", "pattern": "\\S"},
                "example": '{"user_id": "u1", "item_id": "i9", "type": "click"}\n',
            },
        },
    }
}


@router.post(
    "/v1/feedback",
    response_model=schemas.FeedbackAnswer,
    responses=schemas.errors(*schemas.WRITES)
    | {202: {"model": schemas.FeedbackAnswer, "description": "Durable, not yet applied"}},
    openapi_extra=_BODY,
)
async def post_feedback(
    request: Request,
    service: Running,
    ack: Annotated[
        Literal["learned", "log"],
        Query(description="answer when applied here, or as soon as it is durable"),
    ] = "learned",
) -> Response:
    """Learn from feedback; each event of a list is answered for itself."""
    return await take_feedback(service, request.scope, request.receive, ack)


async def take_feedback(service: Service, scope: Scope, receive: Receive, ack: str) -> Response:
    """Read the body and learn: what `post_feedback` and `shortcut` come down to."""
    body = await read_body(scope, receive, service.settings.max_body_bytes)
    return await learn_from(service, scope["headers"], body, ack)


async def learn_from(service: Service, headers: Headers, body: bytes, ack: str) -> Response:
    """Learn from a body that has been read; raise what is wrong with it."""
    events = await _read_events(body, _is_ndjson(headers), service)
    if not events:
        raise InvalidRequest("there are no events in the body")
    if service.feature_store is not None:
        events = await with_features(service.feature_store, events)
    arrival_ms = now_ms()
    if service.signing is not None:
        events = await service.signing.verified(service.engine, events, arrival_ms)
    if ack == "log":
        cursor = await service.ingest.submit_only(events, arrival_ms=arrival_ms)
        return _accepted(events, cursor)
    try:
        return learned(await service.ingest.submit(events, arrival_ms=arrival_ms, is_patient=False))
    except Delayed as delayed:
        return _accepted(events, delayed.cursor)


def _accepted(events: list[Event], cursor: str) -> Response:
    """Return the answer to events that are durable, and not applied yet."""
    accepted = [(event.event_id, "accepted", None) for event in events]
    return _answer(accepted, cursor, None, status=202)


def learned(outcome: Outcome) -> Response:
    """Return the answer to events that have been applied."""
    versions = {
        "version_before": outcome.version_before,
        "version_after": outcome.version_after,
    }
    results = [(result.event_id, result.status, result.reason) for result in outcome.results]
    return _answer(results, outcome.cursor, versions, status=200)


def _answer(
    results: Sequence[tuple[str | None, str, str | None]],
    cursor: str,
    versions: dict[str, int] | None,
    *,
    status: int,
) -> Response:
    names = ("learned", "duplicate", "late", "quarantined") if versions else ("accepted",)
    counts = dict.fromkeys(names, 0)
    for _, status_of_one, _ in results:
        counts[status_of_one] += 1
    content = {
        "results": [
            {"event_id": event_id, "status": what, "reason": reason}
            for event_id, what, reason in results
        ],
        "counts": counts,
        "cursor": cursor,
        "model": versions,
    }
    return answer(content, status=status)


def _is_ndjson(headers: Headers) -> bool:
    for name, value in headers:
        if name == b"content-type":
            kind: bytes = value.partition(b";")[0]
            return kind.strip().lower() == NDJSON.encode()
    return False


async def _read_events(body: bytes, is_ndjson: bool, service: Service) -> list[Event]:
    max_events = service.settings.max_events
    raws = [line for line in body.split(b"\n") if line.strip()] if is_ndjson else _load(body)
    if len(raws) > max_events:
        raise InvalidRequest(f"events: {len(raws)} in one request, at most {max_events} are taken")
    parse = _parse_line if is_ndjson else _parse
    max_bytes = MAX_ID_BYTES if service.signing is None else MAX_TOKEN_BYTES
    declared = service.engine.features
    names = () if declared is None else declared.names
    events: list[Event] = []
    for start in range(0, len(raws), _PARSE_BATCH):
        events += [parse(raw, max_bytes, names) for raw in raws[start : start + _PARSE_BATCH]]
        if len(raws) > _PARSE_BATCH:
            await asyncio.sleep(0)
    return events


def _load(body: bytes) -> list[Any]:
    try:
        loaded = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise InvalidRequest(f"the body is no JSON: {error}") from None
    if isinstance(loaded, dict):
        loaded = loaded.get("events", [loaded])
    if not isinstance(loaded, list):
        raise InvalidRequest("the body must be an event, a list of events, or {events: [...]}")
    return loaded


def _parse(raw: Any, max_bytes: int, features: tuple[str, ...]) -> Event:
    has_id = isinstance(raw, dict) and raw.get("event_id") is not None
    new_id = "" if has_id else uuid.uuid4().hex
    return parse_feedback(
        raw, new_id=new_id, max_recommendation_id_bytes=max_bytes, features=features
    )


def _parse_line(line: bytes, max_bytes: int, features: tuple[str, ...]) -> Event:
    try:
        return _parse(orjson.loads(line), max_bytes, features)
    except orjson.JSONDecodeError as error:
        return malformed_line(str(error), line)
