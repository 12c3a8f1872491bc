"""Recommendations, similar items, trending."""

from __future__ import annotations

from typing import Annotated, Any

import msgspec
from fastapi import APIRouter, Depends, Query, Response
from fastapi import Request as HttpRequest
from starlette.types import Scope

from app.api import schemas
from app.api.features import is_known, with_read
from app.api.random_ids import random_id
from app.api.service import (
    GivenKey,
    ItemId,
    Json,
    Running,
    Service,
    StrictRoute,
    UserId,
    answer,
    may_operate,
    may_use,
    now_ms,
)
from app.conditions import checked, of_categories
from app.errors import NotFound
from app.feature_state import check_names
from app.recommend import Request
from app.serving import Slate
from app.store import parse_cursor

router = APIRouter(
    tags=["recommendations"], dependencies=[Depends(may_use)], route_class=StrictRoute
)

_encode = msgspec.json.Encoder().encode


@router.get(
    "/v1/recommendations/{user_id}",
    response_model=schemas.Recommendations,
    responses=schemas.errors(403, 404, 409, 429, 503),
)
async def get_recommendations(
    service: Running,
    http: HttpRequest,
    given: GivenKey,
    user_id: UserId,
    query: Annotated[schemas.RecommendationsQuery, Query()],
) -> Response:
    """Return what to show a user now; an unknown user gets what is trending.

    With `at`, which is for operators: what would have been shown then.
    """
    if query.at is not None:
        await may_operate(service, given)
        # What was declared then may not be now: whoever makes the list looks at names.
        request = query.request_for(user_id)
        content = await service.past.recommend(request, query.at, http.receive)
        return Json(content)
    return await recommend_now(service, user_id, query, http.scope)


async def recommend_now(
    service: Service, user_id: str, query: schemas.RecommendationsQuery, scope: Scope
) -> Response:
    """Answer from the state of now: what `get_recommendations` and `shortcut` come down to."""
    until = _deadline(service, query.deadline_ms, scope)
    return await _recommend(service, query.request_for(user_id), query.min_cursor, until, scope)


@router.post(
    "/v1/recommendations",
    response_model=schemas.Recommendations,
    responses=schemas.errors(413),
)
async def post_recommendations(
    service: Running, http: HttpRequest, body: schemas.RecommendationsBody
) -> Response:
    """Do the same from a body, also for an anonymous `history` and for given `candidates`."""
    until = _deadline(service, body.deadline_ms, http.scope)
    return await _recommend(service, body.request(), body.min_cursor, until, http.scope)


def _deadline(service: Service, deadline_ms: int | None, scope: Scope) -> float:
    """Return until when a request is to be answered, by the clock of `arrivals`; note it, too.

    It counts from when the request came in, not from when its turn is.
    """
    state = scope["state"]
    arrived: float = state.get("arrived") or service.arrivals.now()
    until = arrived + (deadline_ms or service.settings.deadline_ms) / 1_000
    state["deadline"] = until
    return until


async def _recommend(
    service: Service, request: Request, min_cursor: str | None, until: float, scope: Scope
) -> Response:
    degraded = None
    check_names(service.engine.features, request.features)
    if min_cursor is not None and not await has_applied(service, min_cursor, until):
        degraded = "replica_behind"
    has_waited = min_cursor is not None or not is_known(service, request)
    request = await with_read(service, request, until)
    if not service.arrivals.has_time(until):
        degraded, request = degraded or "deadline", request._replace(in_haste=True)
    scope["state"]["is_whole"] = not (has_waited or request.in_haste)
    return slate_answer(service, request, degraded)


def slate_answer(service: Service, request: Request, degraded: str | None = None) -> Response:
    """Answer with a list, and in what way it is `degraded`, if it is known to be."""
    if service.signing is None:
        id_ = random_id()
        slate = service.engine.recommend(request, id_, is_signed=False)
    else:
        slate, id_ = service.signing.recommend(service.engine, request, now_ms())
    about = {"recommendation_id": id_, "user_id": request.user_id}
    return _answer(service, slate, degraded or why_stale(service), about)


async def has_applied(service: Service, min_cursor: str, until: float) -> bool:
    """Tell whether a log position is applied here; wait for it, but not past a moment."""
    wanted = parse_cursor(min_cursor)
    if wanted <= parse_cursor(service.engine.cursor):
        return True
    return await service.ingest.wait_for(min_cursor, service.arrivals.time_to_wait(until))


def why_stale(service: Service) -> str | None:
    """Return why what is answered now is not of now, if it is not."""
    ingest = service.ingest
    if not ingest.is_store_up:
        return "store_unavailable"
    if ingest.stopped is not None or ingest.lag_s > service.settings.ready_lag_s:
        return "replica_behind"
    return None


def _answer(
    service: Service, slate: Slate, degraded: str | None, about: dict[str, Any]
) -> Response:
    if degraded is not None:
        service.metrics.note_degraded(degraded)
    body = _encode(about | slate_content(slate, degraded))
    return Json(body, headers={"X-Degraded": degraded} if degraded else None)


def slate_content(slate: Slate, degraded: str | None) -> dict[str, Any]:
    """Return a slate as it is answered."""
    return {"items": slate.items, "model": slate.model, "degraded": degraded}


@router.get(
    "/v1/explain/{user_id}/{item_id}",
    response_model=schemas.Explanation,
    responses=schemas.errors(404),
)
async def get_explanation(
    service: Running,
    user_id: UserId,
    item_id: ItemId,
    query: Annotated[schemas.ExplanationQuery, Query()],
) -> Response:
    """Return why an item is in a user's list, or why it is not; an unknown user is a stranger.

    The list is that of `GET /v1/recommendations/{user_id}` with the same parameters, with nothing
    left to chance: no place explores, and no challenger fills any.
    """
    until = service.arrivals.now() + (query.deadline_ms or service.settings.deadline_ms) / 1_000
    degraded = why_stale(service)
    if query.min_cursor is not None and not await has_applied(service, query.min_cursor, until):
        degraded = "replica_behind"
    request = query.request_for(user_id)
    check_names(service.engine.features, request.features)
    request = await with_read(service, request, until)
    if item_id not in service.engine.history.items:
        raise NotFound(f"there is no item {item_id!r}")
    about = {"user_id": user_id, "item_id": item_id}
    content = about | service.engine.explain(request, item_id)
    headers = {"X-Degraded": degraded} if degraded else None
    return answer(content | {"degraded": degraded}, headers=headers)


@router.get(
    "/v1/items/{item_id}/similar", response_model=schemas.ItemList, responses=schemas.errors(404)
)
async def get_similar(
    service: Running, item_id: ItemId, query: Annotated[schemas.ListQuery, Query()]
) -> Response:
    """Return what is had together with an item."""
    if item_id not in service.engine.history.items:
        raise NotFound(f"there is no item {item_id!r}")
    condition = query.condition() + of_categories("any", query.category)
    slate = service.engine.similar(
        item_id, query.k, exclude=query.exclude, condition=checked(condition)
    )
    return _answer(service, slate, why_stale(service), {})


@router.get("/v1/trending", response_model=schemas.ItemList, responses=schemas.errors())
async def get_trending(service: Running, query: Annotated[schemas.ListQuery, Query()]) -> Response:
    """Return what is popular now."""
    request = Request(None, query.k, query.exclude, query.category, filter=query.condition())
    slate = service.engine.recommend(request)
    return _answer(service, slate, why_stale(service), {})
