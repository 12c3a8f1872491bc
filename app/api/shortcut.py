"""A shortcut to the two routes that nearly every request is for, past FastAPI's work for each.

FastAPI describes these routes, and answers whatever is not plain: a bad parameter, a missing key,
another method, a list of the past. What is done is the same function either way.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Coroutine
from functools import lru_cache
from typing import Any, NamedTuple
from urllib.parse import parse_qsl

from pydantic import ValidationError
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from app import traces
from app.api.errors import answer_error, answer_unexpected, answer_unknown
from app.api.feedback import Headers, take_feedback
from app.api.recommendations import recommend_now
from app.api.schemas import RecommendationsQuery
from app.api.service import Service, decode_segment, is_plainly_allowed
from app.errors import SluiceError

_Answering = Coroutine[Any, Any, Response]
FEEDBACK = b"/v1/feedback"
RECOMMENDATIONS = b"/v1/recommendations/"
PATH = "/v1/recommendations/{user_id}"
ROUTE = f"GET {PATH}"
POSTING = "POST /v1/feedback"
ACKS = {b"": "learned", b"ack=learned": "learned", b"ack=log": "log"}
_LISTS = {"exclude", "category", "category_all", "category_none", "where"}
_KNOWN_BYTES = 128
_DEFAULTS = RecommendationsQuery()


async def take_shortcut(scope: Scope, receive: Receive, send: Send) -> bool:
    """Answer a request if it is a plain one; return whether it was."""
    begin = time.perf_counter()
    route, answering = _begin(scope, receive)
    if answering is None:
        return False
    service: Service = scope["state"]["service"]
    with traces.request(scope["method"], scope["headers"]) as traced:
        try:
            response = await answering
        except SluiceError as error:
            response = answer_error(error)
        except asyncio.CancelledError:  # as LastAnswer does
            response = answer_unknown()
        except Exception as error:  # as the outermost of Starlette's layers does
            response = answer_unexpected(scope, error)
        traced.route, traced.status = route.partition(" ")[2], response.status_code
        try:
            await response(scope, receive, send)
        finally:
            service.note(scope, route, response.status_code, begin)
    return True


def _begin(scope: Scope, receive: Receive) -> tuple[str, _Answering | None]:
    """Return the route's name and what will answer; None where the request is not plain."""
    if scope["type"] == "http":
        path = scope.get("raw_path") or b""
        if path.startswith(RECOMMENDATIONS) and scope["method"] == "GET":
            return ROUTE, _begin_recommending(scope, path)
        if path == FEEDBACK and scope["method"] == "POST":
            return POSTING, _begin_learning(scope, receive)
    return "", None


def _begin_recommending(scope: Scope, path: bytes) -> _Answering | None:
    service: Service = scope["state"]["service"]
    plain = plain_recommendations(service, path, scope["query_string"], scope["headers"])
    if plain is None:
        return None
    return recommend_now(service, plain.user_id, plain.query, scope)


class Plain(NamedTuple):
    """What a plain GET of recommendations asks for."""

    user_id: str
    query: RecommendationsQuery


def plain_recommendations(
    service: Service, path: bytes, query_string: bytes, headers: Headers
) -> Plain | None:
    """Return what a GET asks for, if it is plain: valid, of now, with a key that fits."""
    segment = path[len(RECOMMENDATIONS) :].decode("latin-1")
    query = _query(query_string)
    if query is None or query.at is not None or not segment or "/" in segment or "?" in segment:
        return None
    if not is_plainly_allowed(service.settings, headers):
        return None
    try:
        return Plain(decode_segment(segment), query)
    except ValueError:
        return None


def _query(raw: bytes) -> RecommendationsQuery | None:
    if not raw:
        return _DEFAULTS
    return _known_query(raw) if len(raw) <= _KNOWN_BYTES else _parse_query(raw)


def _parse_query(raw: bytes) -> RecommendationsQuery | None:
    found: dict[str, Any] = {}
    for name, value in parse_qsl(raw.decode("latin-1"), keep_blank_values=True):
        if name in _LISTS:
            found.setdefault(name, []).append(value)
        else:
            found[name] = value
    try:
        return RecommendationsQuery.model_validate(found)
    except ValidationError:
        return None


# Clients ask for the same again and again; nobody changes a query.
_known_query = lru_cache(maxsize=1_024)(_parse_query)


def _begin_learning(scope: Scope, receive: Receive) -> _Answering | None:
    service: Service = scope["state"]["service"]
    ack = ACKS.get(scope["query_string"])
    if ack is None or not is_plainly_allowed(service.settings, scope["headers"]):
        return None
    return take_feedback(service, scope, receive, ack)
