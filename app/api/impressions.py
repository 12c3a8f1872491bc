"""What a client says that it showed: `POST /v1/impressions`, for slates asked for so."""

from __future__ import annotations

from fastapi import APIRouter, Depends, Response

from app.api import schemas
from app.api.service import Running, Service, StrictRoute, answer, may_use, now_ms
from app.errors import Conflict, InvalidRequest
from app.events import MAX_ID_BYTES, Impression
from app.exploration import EXPLORATION, N_SPARED
from app.impressions import MAX_ITEMS
from app.serving import EXPLORES

router = APIRouter(tags=["feedback"], dependencies=[Depends(may_use)], route_class=StrictRoute)


@router.post(
    "/v1/impressions",
    status_code=202,
    response_model=schemas.Accepted,
    responses=schemas.errors(*schemas.WRITES, 409),
)
async def post_impression(service: Running, body: schemas.ImpressionBody) -> Response:
    """Take note of the part of a slate that was really shown, in its order.

    It is logged like one that is noted by itself: when its answers have had time to come.
    """
    if service.engine.semantics < EXPLORES:
        raise Conflict(
            f"the log has semantics version {service.engine.semantics}, which knows no declared"
            " impressions: POST /v1/upgrade takes it to a later one"
        )
    service.impressions.declare(_impression(service, body))
    return answer({"status": "accepted"}, status=202)


def _impression(service: Service, body: schemas.ImpressionBody) -> Impression:
    items = [item.item_id for item in body.items]
    if len(set(items)) < len(items):
        raise InvalidRequest("items: one is there twice, and a slate has each once")
    slate_id, is_verified, time_ms = body.recommendation_id, False, now_ms()
    if service.signing is not None:
        slate_id, is_verified = service.signing.verify_shown(
            service.engine, slate_id, body.user_id, items, time_ms
        )
    elif len(slate_id.encode()) > MAX_ID_BYTES:
        raise InvalidRequest(f"recommendation_id: it has over {MAX_ID_BYTES} bytes")
    shown = body.items[:MAX_ITEMS]
    return Impression(
        slate_id,
        body.user_id,
        items[:MAX_ITEMS],
        [item.score for item in shown],
        time_ms,
        [item.propensity for item in shown],
        [n for n, item in enumerate(shown) if n >= N_SPARED and item.sources == [EXPLORATION]],
        is_verified,
    )
