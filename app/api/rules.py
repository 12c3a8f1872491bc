"""The owner's rules: what is in force, and what would be shown under others."""

from __future__ import annotations

from typing import Annotated, Any

import orjson
from fastapi import APIRouter, Depends, Query, Request, Response

from app import recommend
from app.api import schemas
from app.api.asgi import read_body
from app.api.service import Running, Service, StrictRoute, answer, may_operate
from app.conflicts import Examined
from app.errors import InvalidRequest
from app.events import Rules
from app.rulebook import Rulebook
from app.rules import MAX_RULES_BYTES, Rule, declarations, read_rules, read_toml

router = APIRouter(tags=["rules"], dependencies=[Depends(may_operate)], route_class=StrictRoute)

TOML = "application/toml"

_BODY: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {
            "application/json": {
                "schema": {"$ref": f"#/components/schemas/{schemas.RULE_SET}"},
                "example": {"rules": [{"name": "sold-out", "kind": "hide", "where": {"stock": 0}}]},
            }
        },
    }
}
"""The body is read by hand, as it may be TOML."""

Users = Annotated[
    list[schemas.Id], Query(max_length=100, description="whose slates; none: the latest users'")
]
Sample = Annotated[int, Query(ge=1, le=100, description="how many of the latest users")]


@router.get("/v1/rules", response_model=schemas.RulesView, responses=schemas.errors())
async def get_rules(service: Running) -> Response:
    """Return the rules in force, what each is about and did, and which do nothing or fight."""
    return answer(await _view(service))


@router.put(
    "/v1/rules",
    response_model=schemas.RulesView,
    responses=schemas.errors(413, *schemas.WRITES),
    openapi_extra=_BODY,
)
async def put_rules(service: Running, http: Request) -> Response:
    """Put rules in the place of those in force: all replicas, from one place in the log on.

    JSON, or TOML with `Content-Type: application/toml`.
    """
    rules = await _read(http)
    await service.submit(Rules(declarations(rules), "operator"))
    return answer(await _view(service))


@router.post(
    "/v1/rules/dry-run",
    response_model=schemas.DryRun,
    responses=schemas.errors(413),
    openapi_extra=_BODY,
)
async def try_rules(
    service: Running,
    http: Request,
    user: Users = [],  # noqa: B006
    n: Sample = 5,
    k: Annotated[int, Query(ge=1, le=200, description="length of the slates")] = 10,
) -> Response:
    """Return slates as they are and as they would be under other rules; change nothing."""
    rules = await _read(http)  # first: whoever takes their time may find another engine
    engine = service.engine
    book = engine.make_rulebook(rules)
    latest = engine.recommender.latest_users(n)
    users = user or [str(engine.history.users.ids[index]) for index in latest]
    slates = [_compared(service, book, recommend.Request(user_id, k)) for user_id in users]
    examined = await service.rule_watch.look(book)
    return answer({"rules": _rules(book, examined), "slates": slates, **_warnings(examined)})


async def _read(http: Request) -> list[Rule]:
    body = await read_body(http.scope, http.receive, MAX_RULES_BYTES)
    if http.headers.get("content-type", "").partition(";")[0].strip().lower() == TOML:
        return read_toml(body)
    try:
        return read_rules(orjson.loads(body))
    except orjson.JSONDecodeError as error:
        raise InvalidRequest(
            f"rules: this is no JSON ({error}); TOML needs the header Content-Type: {TOML}"
        ) from None


async def _view(service: Service) -> dict[str, Any]:
    engine = service.engine
    book = engine.rulebook or engine.make_rulebook([])
    examined = await service.rule_watch.look(book)
    return {"rules": _rules(book, examined), "cursor": engine.cursor, **_warnings(examined)}


def _rules(book: Rulebook, examined: Examined) -> list[dict[str, Any]]:
    """Return each rule as it is declared, with how many items it is about, and what it did."""
    counts = zip(declarations(book.rules), examined.n_items, book.n_acted.tolist())
    return [{"rule": rule, "items": n_items, "slates": n} for rule, n_items, n in counts]


def _warnings(examined: Examined) -> dict[str, Any]:
    return {"warnings": [warning._asdict() for warning in examined.warnings]}


def _compared(service: Service, book: Rulebook, request: recommend.Request) -> dict[str, Any]:
    """Return one slate before and after, and how often each rule acted on it."""
    engine = service.engine
    before = [scored.item_id for scored in engine.slate_under(engine.rulebook, request)]
    after = engine.slate_under(book, request)
    was = {item_id: position for position, item_id in enumerate(before, start=1)}
    shown = [
        {
            "item_id": scored.item_id,
            "position": scored.position,
            "was": was.get(scored.item_id),
            "score": scored.score,
            "sources": scored.sources,
        }
        for scored in after
    ]
    acted = zip(book.rules, book.acted.tolist())
    return {
        "user_id": request.user_id,
        "before": before,
        "after": shown,
        "gone": [item_id for item_id in before if item_id not in {one.item_id for one in after}],
        "did": {rule.name: n for rule, n in acted if n},
    }
