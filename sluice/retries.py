"""Which requests are tried again, and when: decided here, done by the clients."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from typing import Any

import httpx

from sluice.errors import ServiceError, SluiceClientError, Unavailable

Reply = httpx.Response | httpx.RequestError
"""What came of one attempt."""

_HOPELESS = (httpx.UnsupportedProtocol, httpx.LocalProtocolError)
_SUCCESS, _TOO_MANY, _SERVER = 300, 429, 500


@dataclass(frozen=True, slots=True)
class Retries:
    """How to try again: after a random part of a time that doubles, from `first_s` to `most_s`.

    Never before the time that a Retry-After asks for. None any more after `give_up_s`; None: never
    give up.
    """

    first_s: float = 0.1
    most_s: float = 10.0
    give_up_s: float | None = 10.0


class Attempts:
    """One request's attempts: `wait_after` each reply says what to do next."""

    def __init__(self, retries: Retries, clock: Callable[[], float] = time.monotonic) -> None:
        self._retries = retries
        self._clock = clock
        self._began = clock()
        self._n_failed = 0

    def wait_after(self, reply: Reply) -> float | None:
        """Return for how many seconds to wait before the next attempt; None: this was the last."""
        if not may_help_to_retry(reply):
            return None
        retries = self._retries
        longest = min(retries.most_s, retries.first_s * 2 ** min(self._n_failed, 30))
        # Random, so that many clients do not all come back at once.
        wait_s = retry_after_s(reply) + longest * random.uniform(0.5, 1.0)  # noqa: S311
        self._n_failed += 1
        is_over = (
            retries.give_up_s is not None
            and self._clock() + wait_s - self._began > retries.give_up_s
        )
        return None if is_over else wait_s


def may_help_to_retry(reply: Reply) -> bool:
    """Tell whether another attempt may end otherwise: nobody answered, or not just now."""
    if isinstance(reply, httpx.Response):
        return reply.status_code == _TOO_MANY or reply.status_code >= _SERVER
    return not isinstance(reply, _HOPELESS)


def retry_after_s(reply: Reply) -> float:
    """Return for how many seconds a reply asks to wait, 0 if it does not."""
    if not isinstance(reply, httpx.Response):
        return 0.0
    value = reply.headers.get("retry-after", "")
    if value.isdigit():
        return float(value)
    try:
        return max(0.0, parsedate_to_datetime(value).timestamp() - time.time())
    except ValueError:
        return 0.0


def error_of(reply: Reply) -> SluiceClientError | None:
    """Return what to raise for a reply that no other attempt follows; None for a success."""
    if not isinstance(reply, httpx.Response):
        return Unavailable(f"no answer: {type(reply).__name__} {reply}".rstrip())
    if reply.status_code < _SUCCESS:
        return None
    try:
        error = reply.json()["error"]
        found = ServiceError(reply.status_code, error["code"], error["message"], error["details"])
    except (ValueError, KeyError, TypeError):  # something in between answered
        found = ServiceError(reply.status_code, "http_error", reply.text[:200], [])
    return Unavailable(str(found)) if may_help_to_retry(reply) else found


def content_of(reply: Reply) -> Any:
    """Return the content of a success; raise what any other reply means."""
    error = error_of(reply)
    if isinstance(reply, httpx.Response) and error is None:
        return reply.json()
    raise error or Unavailable("no answer")
