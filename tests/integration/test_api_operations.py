"""Model, decisions, snapshots, quarantine, health and metrics over HTTP."""

from __future__ import annotations

import re
import time
from typing import Any

import pytest

from tests.integration.service import Service, error_of, until


def bad(n: int, name: str) -> list[dict[str, Any]]:
    """Return events of an unknown type, to be quarantined."""
    return [
        {"event_id": f"{name}-{i}", "user_id": "u", "item_id": "i", "type": "stare"}
        for i in range(n)
    ]


def act(api: Service, action: str, **body: Any) -> Any:
    """Act on the gate."""
    return api.post(f"/v1/model/{action}", {"reason": "a test asks"} | body)


def test_the_model_is_described(api: Service) -> None:
    """GET /v1/model shows gate, versions, detectors, learner; its hashes on request."""
    model = api.get("/v1/model")
    assert {"gate", "versions", "detectors", "learner", "model", "events", "cursor"} <= set(model)
    assert set(model["versions"]) == {"champion", "shadow", "anchor"}
    assert {"state", "mode", "reason", "since_event"} <= set(model["gate"])
    for detector in model["detectors"]:
        assert set(detector) - {"watched"} == {"name", "statistic", "threshold", "armed"}
    assert "model_hash" not in model
    hashes = api.hashes()
    assert all(re.fullmatch("[0-9a-f]{64}", value) for value in hashes.values())
    assert api.hashes() == hashes


def test_an_operator_freezes_and_resumes(api: Service) -> None:
    """Each act changes the mode that every slate shows, and leaves a record with its reason."""
    for action, mode in (
        ("freeze", "frozen"),
        ("resume", "normal"),
        ("shadow_only", "shadow_only"),
    ):
        answer = act(api, action, reason=f"to be {mode}")
        assert answer["model"]["mode"] == mode
        assert api.get("/v1/trending")["model"]["mode"] == mode
        [decision] = answer["decisions"]
        assert (decision["kind"], decision["reason"]) == (action, f"to be {mode}")
        assert decision["asked_by"] == "operator"
        assert decision["cursor"] == answer["cursor"]
        assert api.get("/v1/decisions", n=1)["decisions"] == [decision]
    act(api, "resume")


@pytest.mark.parametrize(
    "body", [b"", b"{}", b'{"reason": ""}', b'{"reason": 5}', b'{"reason": "x", "why": 1}', b"[]"]
)
def test_an_act_needs_a_reason(api: Service, body: bytes) -> None:
    """Without a reason nothing is done."""
    headers = {"content-type": "application/json"}
    error_of(api.client.post("/v1/model/freeze", content=body, headers=headers), 422)
    assert api.get("/v1/model")["gate"]["mode"] == "normal"


def test_decisions_come_page_by_page_newest_first(api: Service) -> None:
    """Following `next` shows every decision once, from the newest to the first."""
    for _ in range(6):
        act(api, "freeze")
        act(api, "resume")
    numbers: list[int] = []
    query: dict[str, Any] = {"n": 5}
    while True:
        page = api.get("/v1/decisions", **query)
        numbers += [decision["number"] for decision in page["decisions"]]
        if page["next"] is None:
            break
        query["cursor"] = page["next"]
    assert numbers == list(range(numbers[0], 0, -1))
    for decision in api.get("/v1/decisions", n=1_000)["decisions"]:
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", decision["time"])


def test_a_snapshot_is_written_listed_and_shown(api: Service) -> None:
    """A snapshot asked for is there, is named by its log position, and is listed first."""
    api.post("/v1/feedback", {"user_id": "snap", "item_id": "snap", "type": "click"})
    made = api.post("/v1/snapshots")
    assert made["id"] == api.get("/v1/model")["cursor"]
    listed = api.get("/v1/snapshots")
    assert listed["snapshots"][0] == made
    assert listed["refused"] == []
    assert api.get(f"/v1/snapshots/{made['id']}") == made
    assert {"n_events", "model_version", "gate", "bytes", "written_at", "watermark"} <= set(made)
    assert api.post("/v1/snapshots") == made


def test_a_snapshot_is_restored_through_the_log(api: Service) -> None:
    """A restore is an entry like another, with its record; histories stay as they are."""
    path = "/v1/recommendations/back"
    api.post("/v1/feedback", [{"user_id": "back", "item_id": "back-1", "type": "click"}])
    made = api.post("/v1/snapshots")
    event = {"user_id": "back", "item_id": "back-2", "type": "click", "event_id": "back"}
    api.post("/v1/feedback", event)
    answer = api.post(f"/v1/snapshots/{made['id']}/restore", {"reason": "a test asks"})
    kinds = [decision["kind"] for decision in answer["decisions"]]
    assert kinds[0] == "restore"
    assert answer["decisions"][0]["evidence"]["snapshot"] == made["id"]
    assert answer["model"]["version"] > made["model_version"]
    history = api.get("/v1/users/back/history")["events"]
    assert [e["item_id"] for e in history] == ["back-2", "back-1"]
    assert api.post("/v1/feedback", event)["counts"]["duplicate"] == 1
    assert "back-2" not in [item["item_id"] for item in api.get(path, k=200)["items"]]
    error_of(api.client.post("/v1/snapshots/1-1/restore", json={"reason": "x"}), 404)
    error_of(api.client.post(f"/v1/snapshots/{made['id']}/restore", json={}), 422)


def test_the_quarantine_shows_what_was_not_learned(api: Service) -> None:
    """Each quarantined event is listed with its reason, newest first, page by page."""
    api.post("/v1/feedback", bad(12, "page"))
    found = until(lambda: quarantined(api, "page-", 12))
    assert [record["event"]["event_id"] for record in found] == [
        f"page-{i}" for i in range(11, -1, -1)
    ]
    assert {record["reason"] for record in found} == {"unknown_type"}
    assert all("stare" in record["message"] for record in found)
    assert len({record["id"] for record in found}) == 12
    assert api.get("/v1/quarantine", cursor="0-0") == {"records": [], "next": None}


def test_a_quarantined_event_is_released(api: Service) -> None:
    """An operator lets a late event out: it is learned, once; what was no event stays in."""
    now = time.time()
    api.post("/v1/feedback", [{"user_id": "rel", "item_id": "rel-0", "type": "click"}])
    late = {"user_id": "rel", "item_id": "rel-1", "type": "click", "event_id": "let-out"}
    api.post("/v1/feedback", [late | {"timestamp": now - 200_000}, {"event_id": "let-out-not"}])
    listed = until(lambda: quarantined(api, "let-out", 2))
    ids = {record["event"]["event_id"]: record["id"] for record in listed}
    answer = api.post(f"/v1/quarantine/{ids['let-out']}/release")
    assert answer["results"] == [{"event_id": "let-out", "status": "learned", "reason": None}]
    assert "rel-1" in [e["item_id"] for e in api.get("/v1/users/rel/history")["events"]]
    assert api.post(f"/v1/quarantine/{ids['let-out']}/release")["counts"]["duplicate"] == 1
    error_of(api.client.post(f"/v1/quarantine/{ids['let-out-not']}/release"), 409)
    error_of(api.client.post("/v1/quarantine/1-1/release"), 404)
    error_of(api.client.post("/v1/quarantine/x/release"), 422)


def quarantined(api: Service, prefix: str, n: int) -> list[dict[str, Any]]:
    """Return the records of events whose id begins so, from pages of five, once there are n."""
    found: list[dict[str, Any]] = []
    query: dict[str, Any] = {"n": 5}
    while True:
        page = api.get("/v1/quarantine", **query)
        assert len(page["records"]) == 5 or page["next"] is None
        found += [r for r in page["records"] if str(r["event"].get("event_id")).startswith(prefix)]
        if page["next"] is None:
            return found if len(found) == n else []
        query["cursor"] = page["next"]


def test_a_counter_for_every_reason(api: Service) -> None:
    """/metrics counts events by what became of them, and quarantined ones by reason."""
    now = time.time()
    event = {"user_id": "count", "item_id": "count", "type": "click"}
    cases = {
        ("learned", ""): event | {"event_id": "count"},
        ("duplicate", ""): event | {"event_id": "count"},
        ("late", "late"): event | {"timestamp": now - 10 * 86_400},
        ("quarantined", "future"): event | {"timestamp": now + 600},
        ("quarantined", "schema"): event | {"item_id": ""},
        ("quarantined", "unknown_type"): event | {"type": "stare"},
        ("quarantined", "reward"): event | {"type": "rating", "value": 99},
    }
    for (status, reason), body in cases.items():
        name = f'sluice_events_total{{reason="{reason}",status="{status}"}}'
        before = api.counter(name)
        [result] = api.post("/v1/feedback", body)["results"]
        assert (result["status"], result["reason"] or "") == (status, reason)
        assert api.counter(name) == before + 1


def test_metrics_have_no_ids_in_them(api: Service) -> None:
    """Requests are counted by route, never by what was asked for; unknown paths are one route."""
    for _ in range(3):
        api.get("/v1/recommendations/a-secret-user")
        api.client.get("/a-secret-path")
    text = api.client.get("/metrics").text
    assert "secret" not in text
    name = 'sluice_http_requests_total{route="GET /v1/recommendations/{user_id}",status="200"}'
    assert api.counter(name) >= 3
    assert api.counter('sluice_http_requests_total{route="none",status="404"}') >= 3
    for name in ("sluice_users", "sluice_items", "sluice_store_up", "sluice_model_version"):
        assert re.search(rf"^{name} ", text, re.MULTILINE)


def test_health_says_alive_and_ready(api: Service) -> None:
    """Healthz answers; readyz says how the store is, and how far this process has come."""
    assert api.get("/healthz") == {"status": "ok"}
    ready = api.get("/readyz")
    assert (ready["status"], ready["store"], ready["problems"]) == ("ready", "up", [])
    assert ready["cursor"] == api.get("/v1/model")["cursor"]
    assert ready["refused_snapshots"] == []


def test_openapi_knows_every_route(api: Service) -> None:
    """All of the contract's routes are in /openapi.json."""
    paths = api.get("/openapi.json")["paths"]
    routes = {(method, path) for path, methods in paths.items() for method in methods}
    assert routes >= {
        ("get", "/v1/recommendations/{user_id}"),
        ("post", "/v1/recommendations"),
        ("get", "/v1/items/{item_id}/similar"),
        ("get", "/v1/trending"),
        ("post", "/v1/feedback"),
        *((method, "/v1/items/{item_id}") for method in ("put", "patch", "get", "delete")),
        ("get", "/v1/items"),
        ("post", "/v1/items"),
        *((method, "/v1/users/{user_id}") for method in ("put", "get", "delete")),
        ("get", "/v1/users/{user_id}/history"),
        ("get", "/v1/model"),
        ("post", "/v1/model/{action}"),
        ("get", "/v1/decisions"),
        ("get", "/v1/snapshots"),
        ("post", "/v1/snapshots"),
        ("get", "/v1/snapshots/{snapshot_id}"),
        ("post", "/v1/snapshots/{snapshot_id}/restore"),
        ("get", "/v1/quarantine"),
        ("get", "/healthz"),
        ("get", "/readyz"),
        ("get", "/metrics"),
    }
