"""Users' features that were computed elsewhere: pushed through the log, or read from a store."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from fastapi import APIRouter, Depends, Response
from msgspec.structs import replace

from app.api import schemas
from app.api.service import Running, Service, StrictRoute, UserId, answer, may_use, now_ms
from app.errors import InvalidRequest, NotFound
from app.events import Event, Feedback, UserFeatures, format_time
from app.feature_state import check_names
from app.feature_store import FeatureStore, Found
from app.features import Feature
from app.recommend import Request

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


@router.post(
    "/v1/features",
    response_model=schemas.GivenFeatures,
    responses=schemas.errors(*schemas.WRITES),
)
async def post_features(service: Running, body: schemas.UsersInList) -> Response:
    """Do what PATCH does for many users at once, all of them or, where one is wrong, none."""
    if len(body) > service.settings.max_events:
        raise InvalidRequest(f"give the features of at most {service.settings.max_events} users")
    for user in body:
        check_names(service.engine.features, user.features, "user")
    time_ms = now_ms()
    outcome = await service.submit(
        *(UserFeatures(user.user_id, user.features, time_ms) for user in body)
    )
    return answer({"updated": len(body), "cursor": outcome.cursor})


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


# -- a feature store --------------------------------------------------------------------------


# Of the time that there is: a whole list without features is better than less of one with them.
_SHARE = 0.5


def is_known(service: Service, request: Request) -> bool:
    """Tell whether nothing is to be read for a request."""
    store = _store_for(service, request)
    return store is None or store.is_known(str(request.user_id))


def with_known(service: Service, request: Request) -> Request:
    """Return a request with what its user's features are elsewhere, as far as that is known."""
    store = _store_for(service, request)
    found = None if store is None else store.known(str(request.user_id))
    return request if found is None else _with(request, found)


async def with_read(service: Service, request: Request, until: float) -> Request:
    """Return a request with what its user's features are elsewhere, as far as there is time."""
    store = _store_for(service, request)
    if store is None:
        return request
    within_s = _SHARE * service.arrivals.time_to_wait(until)
    return _with(request, await store.read(str(request.user_id), within_s))


def _store_for(service: Service, request: Request) -> FeatureStore | None:
    """Return where something may be said of who asks; with a history, that is nobody."""
    is_anybody = request.user_id is not None and request.history is None
    return service.feature_store if is_anybody else None


def _with(request: Request, found: Found) -> Request:
    features = {**found.features, **request.features}
    return request._replace(features=features, unread=found.unread)


async def with_features(store: FeatureStore, events: Sequence[Event]) -> list[Event]:
    """Return events with their users' features as they are elsewhere now: a replay needs no store.

    What an event brings itself comes first.
    """
    users = [event.user_id for event in events if isinstance(event, Feedback)]
    found = await store.read_all(users)
    return [
        replace(event, features={**known, **(event.features or {})})
        if isinstance(event, Feedback) and (known := found[event.user_id].features)
        else event
        for event in events
    ]


# -- /openapi.json ----------------------------------------------------------------------------

_ASKED = ("/v1/recommendations/{user_id}", "/v1/explain/{user_id}/{item_id}")


def describe(schema: dict[str, Any], features: Mapping[str, Feature]) -> None:
    """Put the declared features into /openapi.json: which may be given with what."""
    of_request = {name: f for name, f in features.items() if f.of != "item"}
    of_users = {name: f for name, f in of_request.items() if f.of == "user"}
    bodies = schema["components"]["schemas"]
    _describe_body(bodies["RecommendationsBody"]["properties"]["context"], of_request)
    _describe_body(bodies["FeaturesBody"], of_users)
    _describe_body(bodies["UserFeaturesInList"]["properties"]["features"], of_users)
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
