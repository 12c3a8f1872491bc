"""The way of nearly all requests: past what is made for each that goes the way of all.

A list waits for nothing, so it need not queue up for a turn of its own: it is made as soon as all
has been read that has come in. Under overload, where a queue would only make answers late, it is
here that less is answered, or nothing, at the least cost (see `arrivals`). Feedback is learned from
as soon as its body is there. What is not plain, or has to wait, goes the way of all requests.
"""

from __future__ import annotations

import asyncio
import time
from typing import Any, NamedTuple

from starlette.responses import Response

from app import traces
from app.api.arrivals import Rung
from app.api.errors import answer_error, answer_unexpected, answer_unknown
from app.api.features import with_known
from app.api.feedback import Headers, learn_from
from app.api.recommendations import slate_answer
from app.api.service import Json, Service, is_plainly_allowed
from app.api.shortcut import (
    ACKS,
    FEEDBACK,
    PATH,
    POSTING,
    RECOMMENDATIONS,
    ROUTE,
    Plain,
    plain_recommendations,
)
from app.errors import Overloaded, SluiceError
from app.feature_state import check_names
from app.recommend import Request
from app.store import parse_cursor


class Head(NamedTuple):
    """The beginning of a request, as it was read."""

    method: bytes
    url: bytes
    headers: Headers


# Of a body that is longer, others may want to be told that it is being read too slowly.
MOST_HELD_BYTES = 2**16
# Python reads no number that is much longer, zeros before it or not.
_MOST_DIGITS = 20
# What makes the reading of a body more than to wait for so many bytes.
_NOT_PLAIN = {b"content-encoding", b"transfer-encoding", b"upgrade"}


class Direct:
    """A request that is not answered yet, in the place of uvicorn's own record of it."""

    response_complete = False
    disconnected = False
    keep_alive = True
    more_body = True
    message_event = asyncio.Event()

    def __init__(self, headers: Headers) -> None:
        self.headers = headers
        self.body: Any = b""


class Asked(Direct):
    """A list that is made once all has been read."""

    def __init__(self, headers: Headers, plain: Plain) -> None:
        super().__init__(headers)
        self.plain = plain
        self.body = bytearray()  # which nobody reads, and may come in many pieces


class Posted(Direct):
    """Feedback whose body is on its way."""

    def __init__(self, headers: Headers, ack: str) -> None:
        super().__init__(headers)
        self.ack = ack
        self.begin = time.perf_counter()


_REFUSAL = answer_error(Overloaded("too many requests are waiting; try again in a second"))


def begin_asked(service: Service, head: Head) -> Asked | None:
    """Return what stands for a request for a list, if it is plain and need not wait."""
    if head.method != b"GET" or not head.url.startswith(RECOMMENDATIONS):
        return None
    path, _, query_string = head.url.partition(b"?")
    plain = plain_recommendations(service, path, query_string, head.headers)
    return None if plain is None or _has_to_wait(service, plain) else Asked(head.headers, plain)


def answer_asked(service: Service, asked: Asked) -> Response:
    """Return the answer to a request for a list."""
    with traces.request("GET", asked.headers) as traced:
        response = _answer(service, asked.plain)
        traced.route, traced.status = PATH, response.status_code
    return response


def refuse_directly(service: Service, head: Head) -> Response | None:
    """Return a refusal where too many requests queue up already; None where this one may, too."""
    is_full = service.arrivals.n_waiting >= service.settings.max_waiting
    return _refuse(service) if is_full and head.url.startswith(b"/v1/") else None


def begin_posted(service: Service, head: Head) -> Posted | None:
    """Return what collects the body of feedback, if nothing has to be known of it but its end."""
    if head.method != b"POST" or not head.url.startswith(FEEDBACK):
        return None
    path, _, query_string = head.url.partition(b"?")
    ack = ACKS.get(query_string)
    if path != FEEDBACK or ack is None or not is_plainly_allowed(service.settings, head.headers):
        return None
    n_bytes = -1
    for name, value in head.headers:
        if name == b"content-length":
            n_bytes = int(value) if value.isdigit() and len(value) <= _MOST_DIGITS else -1
        elif name in _NOT_PLAIN:
            return None
    most = min(MOST_HELD_BYTES, service.settings.max_body_bytes)
    return Posted(head.headers, ack) if 0 <= n_bytes <= most else None


def note_broken_off(service: Service, posted: Posted) -> None:
    """Count feedback whose client hung up before the body had come whole: a fault of theirs."""
    service.metrics.note(POSTING, 422, time.perf_counter() - posted.begin)


def answer_unfinished(service: Service, posted: Posted) -> Response:
    """Return the answer to feedback whose body has not come whole when a stop waits no longer."""
    response = answer_unknown()
    service.metrics.note(POSTING, response.status_code, time.perf_counter() - posted.begin)
    return response


async def answer_posted(service: Service, posted: Posted) -> Response:
    """Learn from feedback that is all there, and return the answer."""
    with traces.request("POST", posted.headers) as traced:
        try:
            response = await learn_from(service, posted.headers, posted.body, posted.ack)
        except SluiceError as error:
            response = answer_error(error)
        except asyncio.CancelledError:  # a stop has waited for long enough
            response = answer_unknown()
        except Exception as error:  # as the outermost of Starlette's layers does
            response = answer_unexpected({"method": "POST", "path": FEEDBACK.decode()}, error)
        traced.route, traced.status = FEEDBACK.decode(), response.status_code
    service.metrics.note(POSTING, response.status_code, time.perf_counter() - posted.begin)
    return response


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
