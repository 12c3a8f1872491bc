"""A shortcut to the two routes that nearly every request is for, past FastAPI's work for each.

FastAPI describes these routes, and answers whatever is not plain: a bad parameter, a missing key,
another method, a list of the past. What is done is the same function either way.
"""

from __future__ import annotations

import time
from collections.abc import Coroutine
from typing import Any
from urllib.parse import parse_qsl

from pydantic import ValidationError
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from app.api.errors import answer_error, answer_unexpected
from app.api.feedback import take_feedback
from app.api.recommendations import recommend_now
from app.api.schemas import RecommendationsQuery
from app.api.service import Service, decode_segment, is_plainly_allowed
from app.errors import SluiceError

_Answering = Coroutine[Any, Any, Response]

_FEEDBACK = b"/v1/feedback"
_RECOMMENDATIONS = b"/v1/recommendations/"
_ACKS = {b"": "learned", b"ack=learned": "learned", b"ack=log": "log"}
_LISTS = {"exclude", "category", "category_all", "category_none", "where"}
_DEFAULTS = RecommendationsQuery()


async def take_shortcut(scope: Scope, receive: Receive, send: Send) -> bool:
    """Answer a request if it is a plain one; return whether it was."""
    begin = time.perf_counter()
    route, answering = _begin(scope, receive)
    if answering is None:
        return False
    service: Service = scope["state"]["service"]
    try:
        response = await answering
    except SluiceError as error:
        response = answer_error(error)
    except Exception as error:  # as the outermost of Starlette's layers does
        response = answer_unexpected(scope, error)
    try:
        await response(scope, receive, send)
    finally:
        service.metrics.note(route, response.status_code, time.perf_counter() - begin)
    return True


def _begin(scope: Scope, receive: Receive) -> tuple[str, _Answering | None]:
    """Return the route's name and what will answer; None where the request is not plain."""
    if scope["type"] == "http":
        path = scope.get("raw_path") or b""
        if path.startswith(_RECOMMENDATIONS) and scope["method"] == "GET":
            return "GET /v1/recommendations/{user_id}", _begin_recommending(scope, path)
        if path == _FEEDBACK and scope["method"] == "POST":
            return "POST /v1/feedback", _begin_learning(scope, receive)
    return "", None


def _begin_recommending(scope: Scope, path: bytes) -> _Answering | None:
    service: Service = scope["state"]["service"]
    segment = path[len(_RECOMMENDATIONS) :].decode("latin-1")
    query = _query(scope["query_string"])
    if query is None or query.at is not None or not segment or "/" in segment or "?" in segment:
        return None
    if not is_plainly_allowed(service.settings, scope["headers"]):
        return None
    try:
        user_id = decode_segment(segment)
    except ValueError:
        return None
    return recommend_now(service, user_id, query)


def _query(raw: bytes) -> RecommendationsQuery | None:
    if not raw:
        return _DEFAULTS
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


def _begin_learning(scope: Scope, receive: Receive) -> _Answering | None:
    service: Service = scope["state"]["service"]
    ack = _ACKS.get(scope["query_string"])
    if ack is None or not is_plainly_allowed(service.settings, scope["headers"]):
        return None
    return take_feedback(service, scope, receive, ack)
