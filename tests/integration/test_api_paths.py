"""Ids in paths, errors in one form, and requests that no library would send."""

from __future__ import annotations

import socket
from urllib.parse import quote, urlsplit

import pytest

from tests.integration.service import Service, error_of

IDS = [
    "a/b",
    "/",
    "a/history",
    "a/similar",
    ".",
    "..",
    "../..",
    "%",
    "%2F",
    "a%2Fb",
    "a b",
    "a+b",
    "a?b=c#d",
    "a;b=c",
    "ä€😀",
    "e\u0301",
    "'\"<>&\\",
    "x" * 256,
    "😀" * 64,
    "null",
    "0",
]


def raw(api: Service, request: bytes) -> tuple[int, bytes]:
    """Send bytes as they are; return status and body."""
    where = urlsplit(api.url)
    with socket.create_connection((where.hostname, where.port), timeout=10) as connection:
        connection.sendall(request)
        received = b""
        while chunk := connection.recv(2**16):
            received += chunk
    head, _, body = received.partition(b"\r\n\r\n")
    return int(head.split()[1]), body


def get_raw(api: Service, target: bytes, *headers: bytes) -> tuple[int, bytes]:
    """GET a target as it is."""
    lines = [
        b"GET %b HTTP/1.1" % target,
        *(headers or [b"Host: x"]),
        b"Connection: close",
        b"",
        b"",
    ]
    return raw(api, b"\r\n".join(lines))


def escaped(id_: str) -> str:
    """Escape everything that may mean something in a path, dots too: clients resolve those."""
    return quote(id_, safe="").replace(".", "%2E")


@pytest.mark.parametrize("id_", IDS)
def test_any_id_works_on_every_route(api: Service, id_: str) -> None:
    """An id of any characters, percent-encoded, is one segment of every path, and stays itself."""
    segment = escaped(id_)
    assert api.get(f"/v1/recommendations/{segment}")["user_id"] == id_
    error_of(api.client.get(f"/v1/items/{segment}"), 404)
    error_of(api.client.get(f"/v1/items/{segment}/similar"), 404)
    error_of(api.client.patch(f"/v1/items/{segment}", json={}), 404)
    error_of(api.client.delete(f"/v1/items/{segment}"), 404)
    error_of(api.client.get(f"/v1/users/{segment}"), 404)
    error_of(api.client.get(f"/v1/users/{segment}/history"), 404)
    error_of(api.client.delete(f"/v1/users/{segment}"), 404)
    event = {"user_id": id_, "item_id": id_, "type": "click"}
    assert api.post("/v1/feedback", event)["counts"]["learned"] == 1
    assert api.get(f"/v1/items/{segment}")["item_id"] == id_
    assert api.get(f"/v1/items/{segment}/similar")["items"] is not None
    assert api.get(f"/v1/users/{segment}")["user_id"] == id_
    history = api.get(f"/v1/users/{segment}/history")
    assert (history["user_id"], history["events"][0]["item_id"]) == (id_, id_)
    for method, path, body in (
        ("PUT", f"/v1/items/{segment}", {"categories": [id_]}),
        ("PATCH", f"/v1/items/{segment}", {"attributes": {id_: id_}}),
        ("PUT", f"/v1/users/{segment}", {"attributes": {id_: id_}}),
    ):
        assert api.client.request(method, path, json=body).json()["attributes"] is not None
    assert api.get(f"/v1/items/{segment}")["categories"] == [id_]
    assert api.get(f"/v1/users/{segment}")["attributes"] == {id_: id_}
    names = [item["item_id"] for item in api.get("/v1/trending", category=id_)["items"]]
    assert names == [id_]
    for path in (f"/v1/items/{segment}", f"/v1/users/{segment}"):
        assert api.client.delete(path).status_code == 200
        error_of(api.client.get(path), 404)


@pytest.mark.parametrize(
    "segment", ["%00", "a%0Ab", "%1F", "%7F", "%C2%80", "%FF", "%ED%A0%80", "x" * 257]
)
def test_ids_that_cannot_be_are_422(api: Service, segment: str) -> None:
    """Control characters, bytes that are no UTF-8, and over 256 bytes are refused everywhere."""
    error_of(api.client.get(f"/v1/recommendations/{segment}"), 422)
    error_of(api.client.get(f"/v1/items/{segment}/similar"), 422)
    for method, body in (("GET", None), ("PUT", {}), ("PATCH", {}), ("DELETE", None)):
        error_of(api.client.request(method, f"/v1/items/{segment}", json=body), 422)
    for method, body in (("GET", None), ("PUT", {}), ("DELETE", None)):
        error_of(api.client.request(method, f"/v1/users/{segment}", json=body), 422)
    error_of(api.client.get(f"/v1/users/{segment}/history"), 422)
    error_of(api.client.get(f"/v1/snapshots/{segment}"), 422)
    error_of(api.client.post(f"/v1/snapshots/{segment}/restore", json={"reason": "x"}), 422)


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("GET", "/", 404, "not_found"),
        ("GET", "/v1/nothing", 404, "not_found"),
        ("GET", "/v1/items/a/b", 404, "not_found"),
        ("GET", "/v1/recommendations/", 404, "not_found"),
        ("GET", "/v1/users/u/", 404, "not_found"),
        ("PUT", "/v1/feedback", 405, "method_not_allowed"),
        ("DELETE", "/v1/model", 405, "method_not_allowed"),
        ("TRACE", "/v1/trending", 405, "method_not_allowed"),
        ("GET", "/v1/snapshots/123", 422, "invalid_request"),
        ("GET", "/v1/snapshots/1-1", 404, "not_found"),
        ("GET", "/v1/trending?k=0", 422, "invalid_request"),
        ("GET", "/v1/trending?k=201", 422, "invalid_request"),
        ("GET", "/v1/trending?k=many", 422, "invalid_request"),
        ("GET", "/v1/recommendations/u?k=0", 422, "invalid_request"),
        ("GET", "/v1/recommendations/u?k=201", 422, "invalid_request"),
        ("GET", "/v1/recommendations/u?k=1e1", 422, "invalid_request"),
        ("GET", "/v1/recommendations/u?deadline_ms=0", 422, "invalid_request"),
        ("GET", "/v1/recommendations/u?explain=perhaps", 422, "invalid_request"),
        ("GET", "/v1/items/u/similar?k=0", 422, "invalid_request"),
        ("GET", "/v1/items?n=0", 422, "invalid_request"),
        ("GET", "/v1/items?n=1001", 422, "invalid_request"),
        ("GET", "/v1/items?cursor=-1", 422, "invalid_request"),
        ("GET", "/v1/items?cursor=%D9%A1", 422, "invalid_request"),
        ("GET", "/v1/decisions?cursor=x", 422, "invalid_request"),
        ("GET", "/v1/quarantine?cursor=x", 422, "invalid_request"),
        ("GET", "/v1/model?hash=perhaps", 422, "invalid_request"),
        ("POST", "/v1/model/explode", 422, "invalid_request"),
    ],
)
def test_errors_have_one_form(api: Service, method: str, path: str, status: int, code: str) -> None:
    """Whatever is wrong is said as {"error": {"code", "message", "details"}}."""
    assert error_of(api.client.request(method, path), status)["code"] == code


def test_a_405_names_what_is_allowed(api: Service) -> None:
    """A 405 carries Allow, with every method that this path has."""
    assert api.client.get("/v1/feedback").headers["allow"] == "POST"
    allowed = api.client.post("/v1/items/i").headers["allow"]
    assert allowed == "GET, PUT, PATCH, DELETE"


@pytest.mark.parametrize("host", [b"[", b"[::1", b"a b", b"\xff", b"x:99999", b""])
@pytest.mark.parametrize("target", [b"/nothing", b"/v1/trending", b"/v1/trending?k=0"])
def test_no_host_header_makes_a_500(api: Service, host: bytes, target: bytes) -> None:
    """Whatever a client says that our name is, the answer is its own or a 4xx."""
    status, _ = get_raw(api, target, b"Host: " + host)
    assert status < 500


@pytest.mark.parametrize(
    "target",
    [
        b"/nothing?x=\xff",
        b"/v1/trending?category=\xff&k=\xff",
        b"/v1/trending?category=%ff%ed%a0%80%00",
        b"/\xff\xfe",
        b"/v1/users/\xff",
        b"/v1/recommendations/u?exclude=%00&exclude=\xed\xa0\x80",
        b"/v1/recommendations/u?" + b"exclude=x&" * 900,
        b"/v1/recommendations/u?" + b"exclude=x&" * 1_100,
        b"/v1/recommendations/u?min_cursor=%D9%A1-%D9%A1",
        b"/v1/items/%",
        b"/v1/items/%zz",
        b"/v1/items/a%2",
        b"http://other/v1/trending",
        b"*",
        b"//v1//trending",
        b"/v1/trending;x=y",
    ],
)
def test_no_target_makes_a_500(api: Service, target: bytes) -> None:
    """Whatever bytes stand after GET, the answer is a 2xx or a 4xx, and soon."""
    status, _ = get_raw(api, target)
    assert status < 500


@pytest.mark.parametrize(
    "header", [b"X-API-Key: \xff\xfe", b"Authorization: Bearer \xff", b"Authorization: x"]
)
def test_no_key_makes_a_500(api: Service, header: bytes) -> None:
    """Bytes that are no text in a header do no harm."""
    status, _ = get_raw(api, b"/v1/trending", b"Host: x", header)
    assert status == 200


@pytest.mark.parametrize(
    "request_",
    [
        b"POST /v1/feedback HTTP/1.1\r\nHost: x\r\nConnection: close\r\n"
        b"Content-Length: 99999999999\r\n\r\n",
        b"POST /v1/feedback HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n",
        b"POST /v1/feedback HTTP/1.1\r\nHost: x\r\nContent-Length: x\r\n\r\n",
        b"\x16\x03\x01\r\n\r\n",
    ],
)
def test_broken_http_is_a_4xx(api: Service, request_: bytes) -> None:
    """A request that is no HTTP, or lies of its length, is refused and not waited for."""
    status, _ = raw(api, request_)
    assert 400 <= status < 500
