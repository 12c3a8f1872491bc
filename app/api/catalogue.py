"""Items and users: read from the engine, changed through the log."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from itertools import islice
from typing import Any

from fastapi import APIRouter, Depends, Response

from app.api import schemas
from app.api.service import (
    ItemId,
    PageNumber,
    PageSize,
    Running,
    Service,
    StrictRoute,
    UserId,
    answer,
    may_operate,
    may_use,
    now_ms,
)
from app.catalogue import TYPED_SINCE
from app.conditions import TIMES
from app.errors import Conflict, InvalidRequest, NotFound
from app.events import (
    MAX_TIME_MS,
    MIN_TIME_MS,
    ItemDelete,
    ItemUpsert,
    UserDelete,
    UserMerge,
    UserUpsert,
    format_time,
    parse_time,
)

router = APIRouter(tags=["catalogue"], dependencies=[Depends(may_use)], route_class=StrictRoute)

# A replica of an older program stops at the record. It is none of this semantics version.
MERGES_SINCE = 8


# -- items ------------------------------------------------------------------------------------


@router.get("/v1/items", response_model=schemas.ItemPage, responses=schemas.errors())
async def list_items(service: Running, n: PageSize = 100, cursor: PageNumber = None) -> Response:
    """Return items, page by page."""
    found, following = _page(service.engine.history.items.ids, n, cursor)
    return answer({"items": [_item(service, i) for i, _ in found], "next": following})


def _page(
    ids: Sequence[Hashable | None], n: int, cursor: str | None
) -> tuple[list[tuple[int, Hashable]], str | None]:
    """Return up to n of the ids with their places, from a place on, and where the next begin."""
    places = range(int(cursor or 0), len(ids))
    found = list(islice(((i, id_) for i in places if (id_ := ids[i]) is not None), n + 1))
    return found[:n], str(found[n][0]) if len(found) > n else None


@router.post(
    "/v1/items",
    response_model=schemas.BulkWritten,
    responses=schemas.errors(409, *schemas.WRITES),
)
async def upsert_items(service: Running, body: schemas.ItemsBody | schemas.ItemsInList) -> Response:
    """Create or change many items at once; fields that are not given stay.

    An item that cannot be so (an attribute of another type, say) is `refused`, and stays as it was.
    """
    items = body if isinstance(body, list) else body.items
    if len(items) > service.settings.max_events:
        raise InvalidRequest(f"items: give at most {service.settings.max_events} items")
    outcome = await service.append(*(_upsert(service, item.item_id, item) for item in items))
    refused = [
        {"item_id": item.item_id, "reason": result.reason}
        for item, result in zip(items, outcome.results, strict=True)
        if result.status == "refused"
    ]
    n_upserted = len(items) - len(refused)
    return answer({"upserted": n_upserted, "refused": refused, "cursor": outcome.cursor})


@router.get("/v1/items/{item_id}", response_model=schemas.ItemView, responses=schemas.errors(404))
async def get_item(service: Running, item_id: ItemId) -> Response:
    """Return an item."""
    return answer(_item(service, _find_item(service, item_id)))


@router.put(
    "/v1/items/{item_id}",
    response_model=schemas.ItemView,
    responses=schemas.errors(409, *schemas.WRITES),
)
async def put_item(service: Running, item_id: ItemId, body: schemas.ItemBody) -> Response:
    """Create an item, or replace all that was said of it."""
    await service.submit(_upsert(service, item_id, body, replace=True))
    return answer(_item(service, _find_item(service, item_id)))


@router.patch(
    "/v1/items/{item_id}",
    response_model=schemas.ItemView,
    responses=schemas.errors(404, 409, *schemas.WRITES),
)
async def patch_item(service: Running, item_id: ItemId, body: schemas.ItemBody) -> Response:
    """Change the fields given; an attribute set to null goes."""
    _find_item(service, item_id)
    await service.submit(_upsert(service, item_id, body))
    return answer(_item(service, _find_item(service, item_id)))


@router.delete(
    "/v1/items/{item_id}",
    response_model=schemas.Written,
    responses=schemas.errors(404, *schemas.WRITES),
)
async def delete_item(service: Running, item_id: ItemId) -> Response:
    """Forget an item and what was learned of it."""
    _find_item(service, item_id)
    outcome = await service.submit(ItemDelete(item_id))
    return answer({"cursor": outcome.cursor})


def _upsert(
    service: Service, item_id: str, body: schemas.ItemBody, *, replace: bool = False
) -> ItemUpsert:
    time_ms = now_ms() if body.timestamp is None else parse_time(body.timestamp)
    begin = _limit(body, "available_from", MIN_TIME_MS)
    end = _limit(body, "available_until", MAX_TIME_MS)
    semantics = service.engine.semantics
    if semantics < TYPED_SINCE and (begin, end) != (None, None):
        raise Conflict(
            f"available_from and available_until need semantics version {TYPED_SINCE}, and the log"
            f" has version {semantics}: POST /v1/upgrade"
        )
    return ItemUpsert(
        item_id, body.categories, body.attributes, body.hidden, time_ms, replace, begin, end
    )


def _limit(body: schemas.ItemBody, name: str, no_limit: int) -> int | None:
    """Return a time in Unix ms, `no_limit` where null is given, and None where nothing is."""
    given = getattr(body, name)
    if given is not None:
        return parse_time(given)
    return no_limit if name in body.model_fields_set else None


def _find_item(service: Service, item_id: str) -> int:
    index = service.engine.history.items.index.get(item_id)
    if index is None:
        raise NotFound(f"there is no item {item_id!r}")
    return index


def _item(service: Service, index: int) -> dict[str, Any]:
    view = service.engine.catalogue.view(index)
    view["updated_at"] = view.pop("updated_ms")
    for name in (*TIMES, "updated_at"):
        view[name] = None if view[name] is None else format_time(view[name])
    return view


# -- users ------------------------------------------------------------------------------------


@router.get(
    "/v1/users",
    response_model=schemas.UserPage,
    responses=schemas.errors(403),
    dependencies=[Depends(may_operate)],
)
async def list_users(service: Running, n: PageSize = 100, cursor: PageNumber = None) -> Response:
    """Return the ids of users, page by page; for operators."""
    found, following = _page(service.engine.history.users.ids, n, cursor)
    return answer({"users": [id_ for _, id_ in found], "next": following})


@router.put(
    "/v1/users/{user_id}",
    response_model=schemas.UserView,
    responses=schemas.errors(*schemas.WRITES),
)
async def put_user(service: Running, user_id: UserId, body: schemas.UserBody) -> Response:
    """Create a user, or replace their attributes."""
    await service.submit(UserUpsert(user_id, body.attributes))
    return answer(_user(service, user_id))


@router.get("/v1/users/{user_id}", response_model=schemas.UserView, responses=schemas.errors(404))
async def get_user(service: Running, user_id: UserId) -> Response:
    """Return a user."""
    return answer(_user(service, user_id))


@router.delete(
    "/v1/users/{user_id}",
    response_model=schemas.Written,
    responses=schemas.errors(404, *schemas.WRITES),
)
async def delete_user(service: Running, user_id: UserId) -> Response:
    """Forget a user: history, had-set, attributes, id. Shared state keeps what it learned."""
    _find_user(service, user_id)
    outcome = await service.submit(UserDelete(user_id))
    return answer({"cursor": outcome.cursor})


@router.post(
    "/v1/users/{user_id}/merge",
    response_model=schemas.MergeAnswer,
    responses=schemas.errors(409, *schemas.WRITES),
)
async def merge_user(service: Running, user_id: UserId, body: schemas.MergeBody) -> Response:
    """Move what is known of an anonymous id to a user, and forget the id.

    An id that nothing is known of, merged already perhaps, is no error: `merged` is false then.
    """
    if body.from_ == user_id:
        raise Conflict(f"from: {user_id!r} cannot be merged into itself")
    if service.engine.semantics < MERGES_SINCE:
        raise Conflict(
            "the log is followed by the rules of an older version, which knows no merges:"
            " POST /v1/upgrade once all replicas are new"
        )
    outcome = await service.submit(UserMerge(user_id, body.from_))
    is_merged = outcome.results[0].status == "applied"
    content = {"user_id": user_id, "from": body.from_, "merged": is_merged}
    return answer(content | {"cursor": outcome.cursor})


@router.get(
    "/v1/users/{user_id}/history",
    response_model=schemas.HistoryView,
    responses=schemas.errors(404),
)
async def get_history(service: Running, user_id: UserId) -> Response:
    """Return a user's recent events, newest first."""
    events = service.engine.history.events(_find_user(service, user_id))
    shown = [
        {"item_id": item_id, "timestamp": format_time(time_ms), "reward": reward}
        for item_id, time_ms, reward in events
    ]
    return answer({"user_id": user_id, "events": shown})


def _find_user(service: Service, user_id: str) -> int:
    index = service.engine.history.users.index.get(user_id)
    if index is None:
        raise NotFound(f"there is no user {user_id!r}")
    return index


def _user(service: Service, user_id: str) -> dict[str, Any]:
    index, history = _find_user(service, user_id), service.engine.history
    return {
        "user_id": user_id,
        "attributes": service.engine.catalogue.user_attributes.get(user_id, {}),
        "n_events": int(history.n_events[index]),
        "n_had": int(history.had_count[index]),
    }
