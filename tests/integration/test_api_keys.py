"""Who may do what."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.integration.service import Service, error_of, small

API, ADMIN = "the-api-key", "the-admin-key"
READS = ["/v1/recommendations/u", "/v1/trending", "/v1/items", "/metrics"]
OPERATIONS = ["/v1/model", "/v1/decisions", "/v1/snapshots", "/v1/quarantine"]


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """A service with both keys."""
    folder = tmp_path_factory.mktemp("keys")
    service = small(folder, api_key=API, admin_key=ADMIN).start()
    yield service
    service.close()


def forms(key: str) -> list[dict[str, str]]:
    """Return the two ways to give a key."""
    return [{"X-API-Key": key}, {"Authorization": f"Bearer {key}"}]


@pytest.mark.parametrize("path", READS)
def test_reading_needs_a_key(guarded: Service, path: str) -> None:
    """Without a key, or with another, reading is 401; with either key, given either way, 200."""
    for headers in ({}, *forms("another"), forms("")[0], {"Authorization": f"Basic {API}"}):
        answer = guarded.client.get(path, headers=headers)
        assert error_of(answer, 401)["code"] == "unauthorized"
        assert answer.headers["WWW-Authenticate"] == "Bearer"
    for headers in (*forms(API), *forms(ADMIN)):
        assert guarded.client.get(path, headers=headers).status_code == 200


@pytest.mark.parametrize("path", OPERATIONS)
def test_operating_needs_the_admin_key(guarded: Service, path: str) -> None:
    """The key to read and post is 403 for operators' routes; the admin key is 200."""
    error_of(guarded.client.get(path), 401)
    for headers in forms(API):
        assert error_of(guarded.client.get(path, headers=headers), 403)["code"] == "forbidden"
    for headers in forms(ADMIN):
        assert guarded.client.get(path, headers=headers).status_code == 200


def test_posting_needs_a_key(guarded: Service) -> None:
    """Feedback and the catalogue take the API key, the gate and snapshots only the admin key."""
    event = {"user_id": "u", "item_id": "i", "type": "click"}
    client = guarded.client
    error_of(client.post("/v1/feedback", json=event), 401)
    error_of(client.put("/v1/items/i", json={}), 401)
    assert client.post("/v1/feedback", json=event, headers=forms(API)[0]).status_code == 200
    assert client.put("/v1/items/i", json={}, headers=forms(API)[0]).status_code == 200
    body = {"reason": "a test asks"}
    for path in ("/v1/model/freeze", "/v1/snapshots", "/v1/snapshots/1-1/restore"):
        error_of(client.post(path, json=body), 401)
        error_of(client.post(path, json=body, headers=forms(API)[0]), 403)
    assert client.post("/v1/model/freeze", json=body, headers=forms(ADMIN)[1]).status_code == 200


def test_health_needs_none(guarded: Service) -> None:
    """Healthz and readyz answer everybody: what asks them has no key."""
    for path in ("/healthz", "/readyz"):
        assert guarded.client.get(path).status_code == 200


def test_no_error_shows_a_key(guarded: Service) -> None:
    """Neither an answer nor the log has a key in it."""
    for headers in (*forms("a-wrong-key"), *forms(API)):
        assert "key" not in guarded.client.get("/v1/model", headers=headers).headers
        text = guarded.client.get("/v1/model", headers=headers).text
        assert API not in text
        assert ADMIN not in text
        assert "a-wrong-key" not in text
    assert API not in guarded.log
    assert ADMIN not in guarded.log
