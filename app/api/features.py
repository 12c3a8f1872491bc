"""Users' features that were computed elsewhere: pushed through the log, and what is kept."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fastapi import APIRouter, Depends, Response

from app.api import schemas
from app.api.service import Running, Service, StrictRoute, UserId, answer, may_use, now_ms
from app.errors import NotFound
from app.events import UserFeatures, format_time
from app.feature_state import check_names
from app.features import Feature

router = APIRouter(tags=["features"], dependencies=[Depends(may_use)], route_class=StrictRoute)


@router.get(
    "/v1/users/{user_id}/features",
    response_model=schemas.FeaturesView,
    responses=schemas.errors(404),
)
async def get_features(service: Running, user_id: UserId) -> Response:
    """Return the features that are kept of a user, and since when."""
    return answer(_view(service, user_id))


@router.put(
    "/v1/users/{user_id}/features",
    response_model=schemas.FeaturesView,
    responses=schemas.errors(*schemas.WRITES),
)
async def put_features(service: Running, user_id: UserId, body: schemas.FeaturesBody) -> Response:
    """Give a user features, in the place of all that they had; a new user is created.

    A value that the declaration does not know is counted, and the feature is missing.
    """
    return await _give(service, user_id, body, replace=True)


@router.patch(
    "/v1/users/{user_id}/features",
    response_model=schemas.FeaturesView,
    responses=schemas.errors(*schemas.WRITES),
)
async def patch_features(service: Running, user_id: UserId, body: schemas.FeaturesBody) -> Response:
    """Give a user more features, or others; one that is null goes, the rest stay."""
    return await _give(service, user_id, body, replace=False)


async def _give(
    service: Service, user_id: str, body: schemas.FeaturesBody, *, replace: bool
) -> Response:
    given = body.root
    check_names(service.engine.features, given, "user")
    await service.submit(UserFeatures(user_id, given, now_ms(), replace))
    return answer(_view(service, user_id))


def _view(service: Service, user_id: str) -> dict[str, object]:
    engine = service.engine
    user = engine.history.users.index.get(user_id)
    if user is None:
        raise NotFound(f"there is no user {user_id!r}")
    kept = {} if engine.features is None else engine.features.of_user(user)
    shown = {
        name: {"value": value, "updated_at": format_time(time_ms)}
        for name, (value, time_ms) in kept.items()
    }
    return {"user_id": user_id, "features": shown}


# -- /openapi.json ----------------------------------------------------------------------------

_ASKED = ("/v1/recommendations/{user_id}", "/v1/explain/{user_id}/{item_id}")


def describe(schema: dict[str, Any], features: Mapping[str, Feature]) -> None:
    """Put the declared features into /openapi.json: which may be given with what."""
    of_request = {name: f for name, f in features.items() if f.of != "item"}
    of_users = {name: f for name, f in of_request.items() if f.of == "user"}
    bodies = schema["components"]["schemas"]
    _describe_body(bodies["RecommendationsBody"]["properties"]["context"], of_request)
    _describe_body(bodies["FeaturesBody"], of_users)
    for path in _ASKED:
        parameters = schema["paths"][path]["get"]["parameters"]
        parameters += [_parameter(name, feature) for name, feature in of_request.items()]


def _describe_body(body: dict[str, Any], features: Mapping[str, Feature]) -> None:
    """Let an object have the names of these features, in the place of whatever may be one."""
    [value] = body.pop("patternProperties").values()
    body["properties"] = {n: value | {"description": _meant(f)} for n, f in features.items()}


def _parameter(name: str, feature: Feature) -> dict[str, Any]:
    return {
        "name": f"{schemas.CONTEXT}{name}",
        "in": "query",
        "required": False,
        "schema": {"type": "string"},
        "description": _meant(feature),
    }


def _meant(feature: Feature) -> str:
    whose = "the request" if feature.of == "context" else "the user"
    known = ", ".join(feature.values) or f"{feature.min:g} to {feature.max:g}"
    return f"a feature of {whose}: {known}; anything else counts as missing"
