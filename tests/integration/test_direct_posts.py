"""Feedback that is learned from as soon as its body is there, past what each request takes."""

from __future__ import annotations

import os
import signal
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import httpx
import orjson
import pytest

from app.api.direct import MOST_HELD_BYTES, Head, begin_posted
from tests.integration.conftest import StartService
from tests.integration.service import Service

KEY = "a-key-of-some-length"


def event(number: int, **more: Any) -> dict[str, Any]:
    """Return a click."""
    return {"user_id": "u", "item_id": f"i{number}", "type": "click", **more}


def posted(body: bytes, *headers: str, target: str = "/v1/feedback") -> bytes:
    """Return a POST as it goes over the wire."""
    lines = [f"POST {target} HTTP/1.1", "Host: x", f"Content-Length: {len(body)}", *headers]
    return "\r\n".join([*lines, "", ""]).encode() + body


@contextmanager
def connected(service: Service) -> Iterator[socket.socket]:
    """Lend a connection to a service."""
    url = httpx.URL(service.url)
    with socket.create_connection((url.host, url.port or 80), timeout=20) as connection:
        yield connection


def answers(connection: socket.socket, n: int) -> list[tuple[int, dict[str, Any]]]:
    """Return status and content of the next n answers."""
    received = b""
    found: list[tuple[int, dict[str, Any]]] = []
    while len(found) < n:
        head, end, rest = received.partition(b"\r\n\r\n")
        length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0] or 0)
        if end and len(rest) >= length:
            found.append((int(head[9:12]), orjson.loads(rest[:length])))
            received = rest[length:]
        elif part := connection.recv(65_536):
            received += part
        else:
            raise ConnectionError(f"the service hung up behind {found}")
    assert received == b""
    return found


@pytest.fixture
def service(make_service: StartService) -> Service:
    """A service."""
    return make_service().start()


def test_feedback_is_learned_whole_or_in_pieces(service: Service) -> None:
    """However its bytes come, an event is learned once; the connection goes on."""
    with connected(service) as connection:
        whole = posted(orjson.dumps(event(1, event_id="e1")))
        connection.sendall(whole)
        for byte in posted(orjson.dumps(event(2, event_id="e2"))):
            connection.sendall(bytes([byte]))
        connection.sendall(whole)
        found = answers(connection, 3)
    assert [status for status, _ in found] == [200] * 3
    assert [answer["results"][0]["status"] for _, answer in found] == [
        *("learned", "learned", "duplicate"),
    ]


def test_what_is_pipelined_is_answered_in_order(service: Service) -> None:
    """Feedback and other requests in one packet are answered one after the other."""
    get = b"GET /v1/recommendations/%s HTTP/1.1\r\nHost: x\r\n\r\n"
    requests = [
        posted(orjson.dumps(event(1))),
        get % b"a",
        posted(orjson.dumps([event(2), event(3)]), target="/v1/feedback?ack=log"),
        posted(orjson.dumps(event(4))),
        b"GET /v1/model HTTP/1.1\r\nHost: x\r\n\r\n",
        posted(b"[]"),
        get % b"b",
    ]
    with connected(service) as connection:
        connection.sendall(b"".join(requests))
        found = answers(connection, len(requests))
    assert [status for status, _ in found] == [200, 200, 202, 200, 200, 422, 200]
    names = [next(iter(answer)) for _, answer in found]
    assert names[0] == names[2] == names[3] == "results"
    assert [found[1][1]["user_id"], found[6][1]["user_id"]] == ["a", "b"]
    assert "gate" in found[4][1]


def test_bad_feedback_is_refused_as_ever(service: Service) -> None:
    """What cannot be read gets the errors of all requests, and the connection goes on."""
    chunked = (
        b"POST /v1/feedback HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
        b"8\r\nno JSON!\r\n0\r\n\r\n"
    )
    long = orjson.dumps([event(n, user_id=f"u{n % 7}") for n in range(1_500)])
    assert len(long) > MOST_HELD_BYTES
    requests = [
        posted(b"{"),
        posted(b""),
        posted(orjson.dumps({"user_id": "u"})),
        posted(b"xx", "Content-Encoding: gzip"),
        chunked,
        posted(b"{}\n[1]\n", "Content-Type: application/x-ndjson"),
        posted(long),
        posted(orjson.dumps(event(1)), target="/v1/feedback?ack=maybe"),
    ]
    with connected(service) as connection:
        found = []
        for request in requests:
            connection.sendall(request)
            found += answers(connection, 1)
    assert [status for status, _ in found] == [422, 422, 200, 422, 422, 200, 200, 422]
    assert found[2][1]["counts"]["quarantined"] == 1
    assert found[5][1]["counts"]["quarantined"] == 2
    assert found[6][1]["counts"]["learned"] == 1_500
    shown = service.client.get("/metrics").text
    assert 'sluice_http_requests_total{route="POST /v1/feedback",status="422"} 5' in shown


@pytest.mark.parametrize("target", ["/v1/feedback", "/v1/feedback?ack=learned&more=1"])
def test_a_length_may_have_zeros_before_it(service: Service, target: str) -> None:
    """However many digits say it, the length of a body is what they say, whichever way it goes."""
    request = posted(orjson.dumps(event(1)), target=target)
    with connected(service) as connection:
        connection.sendall(request.replace(b"Content-Length: ", b"Content-Length: " + b"0" * 5_000))
        assert answers(connection, 1)[0][0] == 200


def test_a_key_is_asked_for(make_service: StartService) -> None:
    """Without the key nothing is learned, whichever way it comes."""
    service = make_service(api_key=KEY).start()
    body = orjson.dumps(event(1))
    with connected(service) as connection:
        for header, status in ((f"X-API-Key: {KEY}", 200), ("X-API-Key: other", 401)):
            connection.sendall(posted(body, header))
            assert answers(connection, 1)[0][0] == status


def test_a_stop_answers_who_has_not_sent_all(service: Service) -> None:
    """Whose body has not come whole when a stop has waited for long enough is told so."""
    whole = posted(orjson.dumps(event(1)))
    with connected(service) as silent, connected(service) as slow:
        for connection in (silent, slow):
            connection.sendall(whole[:-5])
        service.get("/readyz")  # both have been read
        assert service.pid is not None
        os.kill(service.pid, signal.SIGTERM)
        time.sleep(1)
        slow.sendall(whole[-5:])
        assert answers(slow, 1)[0][0] == 200
        [(status, answer)] = answers(silent, 1)
        assert (status, answer["error"]["code"]) == (503, "store_unavailable")
        assert silent.recv(1) == slow.recv(1) == b""
    service.wait()


def test_feedback_behind_a_list_has_its_time(make_service: StartService) -> None:
    """A connection is not idle while feedback waits that came in one packet with a list's GET."""
    service = make_service(store_timeout_s=15, feedback_timeout_s=7).start()
    get = b"GET /v1/recommendations/a HTTP/1.1\r\nHost: x\r\n\r\n"
    pid = service.store_pid()
    os.kill(pid, signal.SIGSTOP)
    try:
        with connected(service) as connection:
            connection.sendall(get + posted(orjson.dumps(event(1))))
            assert [status for status, _ in answers(connection, 2)] == [200, 503]
    finally:
        os.kill(pid, signal.SIGCONT)


def test_an_old_client_may_read_to_the_end(service: Service) -> None:
    """A connection of HTTP/1.0 ends with the answer, which says so, whatever was asked for."""
    requests = [
        posted(orjson.dumps(event(1)), "Connection: keep-alive"),
        b"GET /v1/recommendations/a HTTP/1.1\r\nHost: x\r\nConnection: keep-alive\r\n\r\n",
    ]
    for request in requests:
        with connected(service) as connection:
            begin = time.monotonic()
            connection.sendall(request.replace(b"HTTP/1.1", b"HTTP/1.0"))
            received = b""
            while part := connection.recv(65_536):
                received += part
            assert time.monotonic() - begin < 3
        assert b"\r\nconnection: close\r\n" in received


def test_who_does_not_read_is_not_answered_without_end(service: Service) -> None:
    """Long answers to short bodies wait until they are read, and do not fill the memory."""
    most, lines = 40, 5_000
    request = posted(b"{\n" * lines, "Content-Type: application/x-ndjson")
    answered = 'sluice_http_requests_total{route="POST /v1/feedback",status="200"}'
    with connected(service) as connection:
        n, is_waiting = 0, False
        while n < most and not is_waiting:
            connection.sendall(request)
            n, deadline = n + 1, time.monotonic() + 3
            while not is_waiting and service.counter(answered) < n:
                is_waiting = time.monotonic() > deadline
        assert is_waiting
        found = answers(connection, n)
    assert [answer["counts"]["quarantined"] for _, answer in found] == [lines] * n


class _Settings:
    api_key = admin_key = None
    max_body_bytes = 10_000


class _Plain:
    settings = _Settings()


def test_only_what_is_plain_goes_this_way() -> None:
    """A body of known length, of no encoding, to the very route."""
    length = (b"content-length", b"10")
    service: Any = _Plain()

    def is_plain(*headers: tuple[bytes, bytes], url: bytes = b"/v1/feedback") -> bool:
        return begin_posted(service, Head(b"POST", url, headers)) is not None

    assert is_plain(length)
    assert is_plain(length, (b"content-type", b"application/x-ndjson"), url=b"/v1/feedback?ack=log")
    assert is_plain((b"content-length", b"10000"))
    assert not is_plain()
    assert not is_plain((b"content-length", b"10001"))
    assert not is_plain((b"content-length", b"-1"))
    assert not is_plain(length, (b"content-encoding", b"identity"))
    assert not is_plain(length, (b"transfer-encoding", b"chunked"))
    assert not is_plain(length, url=b"/v1/feedback?ack=maybe")
    assert not is_plain(length, url=b"/v1/feedbacks")
    assert begin_posted(service, Head(b"PUT", b"/v1/feedback", [length])) is None
