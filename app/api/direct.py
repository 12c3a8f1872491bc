"""The way of nearly all GETs: answered as soon as they are read, before anything is begun for them.

A list waits for nothing, so it need not queue up for a turn of its own; and under overload, where a
queue would only make answers late, it is here that less is answered, or nothing, at the least cost
(see `arrivals`). What is not plain, or has to wait, goes the way of all requests.
"""

from __future__ import annotations

from typing import NamedTuple

from starlette.responses import Response

from app import traces
from app.api.arrivals import Rung
from app.api.errors import answer_error, answer_unexpected
from app.api.features import with_known
from app.api.recommendations import slate_answer
from app.api.service import Json, Service
from app.api.shortcut import PATH, RECOMMENDATIONS, ROUTE, Headers, Plain, plain_recommendations
from app.errors import Overloaded, SluiceError
from app.feature_state import check_names
from app.recommend import Request
from app.store import parse_cursor


class Head(NamedTuple):
    """The beginning of a request, as it was read."""

    method: bytes
    url: bytes
    headers: Headers


_REFUSAL = answer_error(Overloaded("too many requests are waiting; try again in a second"))


def answer_directly(service: Service, head: Head) -> Response | None:
    """Return the answer to a request that need not, or must not, queue up; None if it has to."""
    if head.method == b"GET" and head.url.startswith(RECOMMENDATIONS):
        path, _, query_string = head.url.partition(b"?")
        plain = plain_recommendations(service, path, query_string, head.headers)
        if plain is not None and not _has_to_wait(service, plain):
            with traces.request("GET", head.headers) as traced:
                response = _answer(service, plain)
                traced.route, traced.status = PATH, response.status_code
            return response
    is_full = service.arrivals.n_waiting >= service.settings.max_waiting
    return _refuse(service) if is_full and head.url.startswith(b"/v1/") else None


def _has_to_wait(service: Service, plain: Plain) -> bool:
    store = service.feature_store
    if store is not None and not store.is_known(plain.user_id):
        return True
    min_cursor = plain.query.min_cursor
    if min_cursor is None:
        return False
    return parse_cursor(min_cursor) > parse_cursor(service.engine.cursor)


def _answer(service: Service, plain: Plain) -> Response:
    arrivals, metrics = service.arrivals, service.metrics
    deadline_s = (plain.query.deadline_ms or service.settings.deadline_ms) / 1_000
    begin, rung = arrivals.now(), arrivals.rung(deadline_s)
    if rung == "refuse":
        return _refuse(service)
    response = _list(service, plain, rung)
    now = arrivals.now()
    if rung == "whole":
        arrivals.note_cost(now - begin)
    metrics.note(ROUTE, response.status_code, now - arrivals.arrived)
    metrics.note_deadline(is_late=now - arrivals.arrived > deadline_s)
    return response


def _list(service: Service, plain: Plain, rung: Rung) -> Response:
    try:
        request = plain.query.request_for(plain.user_id)
        if request.features:
            check_names(service.engine.features, request.features)
        if service.feature_store is not None:
            request = with_known(service, request)
        return slate_answer(service, request) if rung == "whole" else _trending(service, request)
    except SluiceError as error:
        return answer_error(error)
    except Exception as error:  # as the outermost of Starlette's layers does
        return answer_unexpected({"method": "GET", "path": RECOMMENDATIONS.decode()}, error)


def _trending(service: Service, request: Request) -> Response:
    """Answer with what is trending; where ids are signed, each list is made for itself."""
    body = None if service.signing else service.popular.answer(service.engine, request)
    if body is None:
        return slate_answer(service, request._replace(in_haste=True), "deadline")
    service.metrics.note_degraded("deadline")
    return Json(body, headers={"X-Degraded": "deadline"})


def _refuse(service: Service) -> Response:
    service.metrics.refused.inc()
    return _REFUSAL
