"""POST /v1/feedback: what comes in, what is answered, and what never gets in."""

from __future__ import annotations

import gzip
import json
import socket
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import Any

import httpx
import pytest

from tests.integration.service import Service, error_of, until

PATH = "/v1/feedback"
NDJSON = {"content-type": "application/x-ndjson"}


def event(name: str, **rest: Any) -> dict[str, Any]:
    """Return an event whose ids begin with the test's name."""
    return {"user_id": f"{name}-u", "item_id": f"{name}-i", "type": "click"} | rest


def send(api: Service, body: bytes, **headers: str) -> httpx.Response:
    """Post raw bytes."""
    return api.client.post(
        PATH, content=body, headers={"content-type": "application/json"} | headers
    )


FORMS: dict[str, Callable[[dict[str, Any]], tuple[bytes, dict[str, str]]]] = {
    "one": lambda e: (json.dumps(e).encode(), {}),
    "list": lambda e: (json.dumps([e]).encode(), {}),
    "events": lambda e: (json.dumps({"events": [e]}).encode(), {}),
    "ndjson": lambda e: (json.dumps(e).encode() + b"\n\n", NDJSON),
}


@pytest.mark.parametrize("form", FORMS)
def test_every_form_of_body_is_learned(api: Service, form: str) -> None:
    """One event, a list, an object with `events` and NDJSON are learned alike."""
    body, headers = FORMS[form](event(form, event_id=form))
    answer = send(api, body, **headers)
    content = answer.json()
    assert answer.status_code == 200
    assert content["results"] == [{"event_id": form, "status": "learned", "reason": None}]
    assert content["counts"] == {"learned": 1, "duplicate": 0, "late": 0, "quarantined": 0}
    assert set(content["model"]) == {"version_before", "version_after"}
    history = api.get(f"/v1/users/{form}-u/history")
    assert [e["item_id"] for e in history["events"]] == [f"{form}-i"]


def test_ack_log_is_answered_before_it_is_learned(api: Service) -> None:
    """With ack=log the answer is 202 and `accepted`, and min_cursor waits for the rest."""
    answer = api.client.post(PATH, json=event("ack"), params={"ack": "log"})
    content = answer.json()
    assert answer.status_code == 202
    assert [r["status"] for r in content["results"]] == ["accepted"]
    assert (content["counts"], content["model"]) == ({"accepted": 1}, None)
    slate = api.get(
        "/v1/recommendations/ack-u", min_cursor=content["cursor"], deadline_ms=5_000, k=200
    )
    assert slate["degraded"] is None
    assert "ack-i" not in [item["item_id"] for item in slate["items"]]
    error_of(api.client.post(PATH, json=event("ack"), params={"ack": "never"}), 422)


def test_one_bad_event_does_not_fail_the_others(api: Service) -> None:
    """Each event of a list is answered for itself, in its place, with its reason."""
    bad = [
        event("mixed", type="stare", event_id="m1"),
        event("mixed", item_id="", event_id="m2"),
        event("mixed", user_id=7, event_id="m3"),
        event("mixed", type="rating", value=9, event_id="m4"),
        event("mixed", type="rating", event_id="m5"),
        event("mixed", item_id="x" * 257, event_id="m6"),
        event("mixed", item_id="a\x00b", event_id="m7"),
        event("mixed", timestamp="yesterday", event_id="m8"),
        event("mixed", timestamp=True, event_id="m9"),
        event("mixed", value="much", event_id="m10"),
        "no event",
        None,
        [1, 2],
        {},
    ]
    body = [event("mixed", event_id="g1"), *bad, event("mixed", event_id="g2", item_id="mixed-j")]
    answer = api.post(PATH, body)
    statuses = [result["status"] for result in answer["results"]]
    assert statuses == ["learned", *["quarantined"] * len(bad), "learned"]
    reasons = [result["reason"] for result in answer["results"]]
    assert reasons[1:6] == ["unknown_type", "schema", "schema", "reward", "reward"]
    assert set(reasons[6:-1]) == {"schema"}
    assert [result["event_id"] for result in answer["results"]][1:3] == ["m1", "m2"]
    assert answer["counts"] == {"learned": 2, "duplicate": 0, "late": 0, "quarantined": len(bad)}


def test_a_broken_line_of_ndjson_is_quarantined_alone(api: Service) -> None:
    """Lines that are no JSON are `malformed`; empty ones are nothing; the rest is learned."""
    good = json.dumps(event("nd", event_id="nd-1")).encode()
    lines = [good, b"{broken", b"", b'{"value": NaN}', b'{"a": 1e999}', b'"\xff"', b'"\\ud800"']
    answer = send(api, b"\r\n".join(lines), **NDJSON).json()
    assert [r["status"] for r in answer["results"]] == ["learned"] + ["quarantined"] * 5
    assert {r["reason"] for r in answer["results"][1:]} == {"malformed"}


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b" ",
        b"[]",
        b'{"events": []}',
        b'{"events": 7}',
        b"7",
        b'"text"',
        b"null",
        b"{",
        b"[1, 2",
        b'{"user_id": "u", "item_id": "i", "type": "rating", "value": NaN}',
        b'{"user_id": "u", "item_id": "i", "type": "rating", "value": Infinity}',
        b'[{"user_id": "u", "item_id": "i", "type": "rating", "value": 1e999}]',
        b'{"user_id": "\\ud800", "item_id": "i", "type": "click"}',
        b'{"user_id": "\xff", "item_id": "i", "type": "click"}',
        b"\xef\xbb\xbf{}",
        b"\x00",
        b"[" * 100_000 + b"]" * 100_000,
        b'{"events": ' * 50_000,
    ],
)
def test_a_body_that_cannot_be_read_is_422(api: Service, body: bytes) -> None:
    """What is no JSON, or no list of events, is refused whole, in the one form of errors."""
    error_of(send(api, body), 422)


@pytest.mark.parametrize("depth", [200, 900, 1_000, 1_020, 1_023])
def test_deep_nesting_inside_an_event_is_quarantined(api: Service, depth: int) -> None:
    """An event that JSON can read but nobody should is quarantined, however deep it goes."""
    deep = b"[" * depth + b"]" * depth
    body = b'{"events": [%b, {"user_id": %b}]}' % (deep, deep)
    answer = send(api, body)
    if answer.status_code == 422:  # deeper than the parser goes
        error_of(answer, 422)
    else:
        assert answer.json()["counts"]["quarantined"] == 2


@pytest.mark.parametrize("form", ["json", "ndjson"])
def test_a_compressed_body_is_422(api: Service, form: str) -> None:
    """It is not learned, and not quarantined as lines that are no JSON; the answer says why."""
    before = api.get("/v1/model")["events"]["counts"]
    body = gzip.compress(json.dumps(event("packed")).encode())
    headers = {"content-encoding": "gzip"} | (NDJSON if form == "ndjson" else {})
    message = error_of(send(api, body, **headers), 422)["message"]
    assert message == "Content-Encoding 'gzip': send the body uncompressed"
    assert api.get("/v1/model")["events"]["counts"] == before
    plain = json.dumps(event(f"plain-{form}")).encode()
    assert send(api, plain, **{"content-encoding": "identity"}).status_code == 200


def test_ndjson_of_nothing_is_422(api: Service) -> None:
    """NDJSON without a line has no events."""
    error_of(send(api, b"\n\n", **NDJSON), 422)


def test_too_many_events_are_refused_whole(api: Service) -> None:
    """10,001 events are 422, in JSON and in NDJSON, and nothing of them is learned."""
    line = json.dumps(event("many")).encode()
    for body, headers in (
        (b"[" + b",".join([line] * 10_001) + b"]", {}),
        (b"\n".join([line] * 10_001), NDJSON),
    ):
        assert "10001" in error_of(send(api, body, **headers), 422)["message"]
    error_of(api.client.get("/v1/users/many-u"), 404)


@pytest.mark.parametrize("path", [PATH, "/v1/items", "/v1/recommendations", "/v1/model/freeze"])
def test_a_body_over_the_limit_is_413(api: Service, path: str) -> None:
    """More than 8 MiB is refused on every route, whether its length is declared or not."""
    body = b'{"x": "' + b"x" * (8 * 2**20) + b'"}'
    headers = {"content-type": "application/json"}

    def pieces() -> Iterator[bytes]:
        for start in range(0, len(body), 2**16):
            yield body[start : start + 2**16]

    assert (
        error_of(api.client.post(path, content=body, headers=headers), 413)["code"] == "too_large"
    )
    answer = api.client.post(path, content=pieces(), headers=headers)
    assert error_of(answer, 413)["code"] == "too_large"


def test_without_an_id_a_retry_is_a_duplicate(api: Service) -> None:
    """From user, item, type and time in whole milliseconds an id is derived: a retry is known."""
    now = int(time.time())
    first = event("derived", timestamp=now + 0.1234)
    again = event("derived", timestamp=f"{datetime.fromtimestamp(now, UTC):%Y-%m-%dT%H:%M:%S}.123Z")
    other = event("derived", timestamp=now + 0.125)
    answers = [api.post(PATH, body)["results"][0] for body in (first, again, other)]
    assert [answer["status"] for answer in answers] == ["learned", "duplicate", "learned"]
    assert answers[0]["event_id"] == answers[1]["event_id"] != answers[2]["event_id"]


def test_without_id_and_time_a_retry_is_a_new_event(api: Service) -> None:
    """With neither id nor time nothing tells a retry from a second click."""
    answers = [api.post(PATH, event("anew"))["results"][0] for _ in range(2)]
    assert [answer["status"] for answer in answers] == ["learned", "learned"]
    assert answers[0]["event_id"] != answers[1]["event_id"]
    assert len(api.get("/v1/users/anew-u/history")["events"]) == 2


@pytest.mark.parametrize(
    "timestamp",
    [
        "0001-01-01T00:00:00+23:59",
        "9999-12-31T23:59:59-23:59",
        -1,
        1e300,
        2**70,
        "2026-01-01T00:00",
    ],
)
def test_times_at_the_edge_are_quarantined(api: Service, timestamp: Any) -> None:
    """A time that is none, or that cannot be written again, is quarantined."""
    answer = api.post(PATH, event("edge", timestamp=timestamp))
    assert answer["results"][0]["reason"] in ("schema", "future")


def test_unknown_fields_and_types_of_content_do_no_harm(api: Service) -> None:
    """Fields we do not know are ignored, and JSON is JSON whatever its Content-Type says."""
    body = json.dumps(event("extra", color="red")).encode()
    answer = api.client.post(PATH, content=body, headers={"content-type": "text/plain"})
    assert answer.json()["counts"]["learned"] == 1


def test_a_batch_of_10_000_is_answered_in_its_order(api: Service) -> None:
    """The largest POST is learned whole, and says of each event what became of it."""
    body = [
        event(f"big-{n % 12}", event_id=f"big-{n % 9_000}", item_id=f"big-{n % 50}")
        for n in range(10_000)
    ]
    begin = time.monotonic()
    answer = api.post(PATH, body)
    assert answer["counts"]["learned"] == 9_000
    assert answer["counts"]["duplicate"] == 1_000
    assert [r["event_id"] for r in answer["results"]] == [e["event_id"] for e in body]
    assert time.monotonic() - begin < 20


def test_a_client_that_hangs_up_is_no_error_of_ours(api: Service) -> None:
    """A body that ends half-way is learned not at all, and counted as the client's doing."""
    url = httpx.URL(api.url)
    hung_up = 'sluice_http_requests_total{route="POST /v1/feedback",status="422"}'
    before = metric(api, hung_up)
    with socket.create_connection((url.host, url.port or 80)) as connection:
        connection.sendall(
            b"POST /v1/feedback HTTP/1.1\r\nHost: x\r\nContent-Length: 999\r\n\r\n[{"
        )
    until(lambda: metric(api, hung_up) == before + 1)
    assert 'status="500"' not in api.client.get("/metrics").text
    assert "unexpected" not in api.log


def metric(api: Service, name: str) -> float:
    """Return the value of a metric, 0 if there is none yet."""
    lines = api.client.get("/metrics").text.splitlines()
    return sum(float(line.rpartition(" ")[2]) for line in lines if line.startswith(name))
