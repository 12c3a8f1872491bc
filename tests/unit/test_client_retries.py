"""When a client tries again, and what it makes of what comes back."""

from __future__ import annotations

import time
from email.utils import formatdate

import httpx
import pytest

from sluice import Event, Retries, ServiceError, Unavailable
from sluice.retries import Attempts, Reply, content_of, error_of


def reply(status: int, **headers: str) -> httpx.Response:
    """Return an answer of a service."""
    error = {"error": {"code": "busy", "message": "not now", "details": []}}
    return httpx.Response(
        status, json=error, headers={n.replace("_", "-"): v for n, v in headers.items()}
    )


class Time:
    """A clock that goes on as one waits."""

    def __init__(self) -> None:
        self.now = 0.0

    def waits(self, replies: list[Reply], **retries: float | None) -> list[float]:
        """Return how long each wait was, until there was no other."""
        attempts, found = Attempts(Retries(**retries), lambda: self.now), []  # type: ignore[arg-type]
        for one in replies:
            wait_s = attempts.wait_after(one)
            if wait_s is None:
                break
            self.now += wait_s
            found.append(wait_s)
        return found


def test_waits_double_up_to_a_bound() -> None:
    """Each wait is a random part of a time that doubles, up to the longest."""
    found = Time().waits([reply(503)] * 8, first_s=0.1, most_s=2.0, give_up_s=None)
    bounds = [0.1, 0.2, 0.4, 0.8, 1.6, 2.0, 2.0, 2.0]
    assert all(bound / 2 <= wait_s <= bound for wait_s, bound in zip(found, bounds, strict=True))
    assert len(set(found)) == 8


def test_it_comes_back_when_it_was_told_to() -> None:
    """A Retry-After, in seconds or as a date, is never cut short."""
    for value, least in (("7", 7.0), (formatdate(time.time() + 9, usegmt=True), 7.0)):
        [wait_s] = Time().waits([reply(429, retry_after=value)], first_s=0.1, give_up_s=None)
        assert least <= wait_s < 10
    assert Time().waits([reply(503, retry_after="soon")], first_s=0.1)[0] <= 0.1


def test_it_gives_up_in_time() -> None:
    """No attempt begins after `give_up_s`, nor is it waited for; 0 means one attempt."""
    clock = Time()
    assert sum(clock.waits([reply(503)] * 1_000, first_s=0.1, most_s=0.5, give_up_s=3)) <= 3
    assert clock.now > 2
    assert Time().waits([reply(503, retry_after="20")], give_up_s=10) == []
    assert Time().waits([reply(503)], give_up_s=0) == []


@pytest.mark.parametrize("status", [200, 202, 400, 401, 403, 404, 409, 413, 422])
def test_what_would_not_change_is_not_tried_again(status: int) -> None:
    """A success is the end, and so is a request that is wrong."""
    assert Time().waits([reply(status)]) == []


@pytest.mark.parametrize("status", [429, 500, 502, 503, 504])
def test_what_may_pass_is_tried_again(status: int) -> None:
    """Too many, or a server in trouble: later it may be another answer."""
    assert Time().waits([reply(status)])
    assert isinstance(error_of(reply(status)), Unavailable)


def test_who_does_not_answer_is_asked_again() -> None:
    """No connection, or one that broke; but not where the URL is none."""
    assert Time().waits([httpx.ConnectError("refused")])
    assert Time().waits([httpx.ReadTimeout("")])
    assert Time().waits([httpx.UnsupportedProtocol("ftp")]) == []
    assert "ReadTimeout" in str(error_of(httpx.ReadTimeout("")))


def test_errors_say_what_the_service_said() -> None:
    """Status, code and message of an error are the exception's; of something else its beginning."""
    with pytest.raises(ServiceError, match="401 busy: not now") as caught:
        content_of(reply(401))
    assert (caught.value.status, caught.value.code) == (401, "busy")
    with pytest.raises(ServiceError, match="404 http_error: <html>"):
        content_of(httpx.Response(404, text="<html>"))


@pytest.mark.parametrize(
    "wrong",
    [
        {"user_id": ""},
        {"item_id": 7},
        {"type": None},
        {"value": float("nan")},
        {"timestamp": 1e400},
    ],
)
def test_events_that_no_service_would_take(wrong: dict[str, object]) -> None:
    """What could not be sent is refused where it is made, by name."""
    event: dict[str, object] = {"user_id": "u", "item_id": "i", "type": "click"}
    with pytest.raises(ValueError, match=next(iter(wrong))):
        Event(**(event | wrong))  # type: ignore[arg-type]


def test_an_event_is_the_same_whenever_it_is_sent() -> None:
    """Id and time are made with the event, and two events have two ids."""
    one, other = Event("u", "i", "click"), Event("u", "i", "click")
    assert one.wire() == one.wire()
    assert one.event_id != other.event_id
    assert abs(one.timestamp - time.time()) < 60
    assert b"value" not in one.wire()
