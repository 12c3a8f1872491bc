"""Items and users over HTTP."""

from __future__ import annotations

import time
from typing import Any

import httpx
import pytest

from tests.integration.service import Service, answer_of, error_of


def click(api: Service, user: str, *items: str) -> None:
    """Let a user click items."""
    api.post("/v1/feedback", [{"user_id": user, "item_id": i, "type": "click"} for i in items])


def test_an_item_is_put_patched_and_deleted(api: Service) -> None:
    """PUT replaces all, PATCH changes what is given, DELETE forgets."""
    path = "/v1/items/crud"
    body = {"categories": ["a", "b"], "attributes": {"n": 1, "f": 0.5, "s": "x", "t": True}}
    put = answer_of(api.client.put(path, json=body | {"timestamp": "2026-01-01T00:00:00+01:00"}))
    assert put == body | {
        "item_id": "crud",
        "hidden": False,
        "available_from": None,
        "available_until": None,
        "updated_at": "2025-12-31T23:00:00.000Z",
    }
    change = {"attributes": {"n": None, "s": "y"}, "hidden": True, "timestamp": 1.5}
    patched = answer_of(api.client.patch(path, json=change))
    assert patched["attributes"] == {"f": 0.5, "s": "y", "t": True}
    assert (patched["categories"], patched["hidden"]) == (["a", "b"], True)
    assert patched["updated_at"] == "1970-01-01T00:00:01.500Z"
    replaced = answer_of(api.client.put(path, json={}))
    assert (replaced["categories"], replaced["attributes"]) == ([], {})
    assert replaced["hidden"] is False
    assert api.get(path) == replaced
    assert answer_of(api.client.delete(path))["cursor"]
    for method in ("GET", "DELETE"):
        error_of(api.client.request(method, path), 404)
    error_of(api.client.patch(path, json={}), 404)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"[]",
        b"7",
        b"{",
        b'{"misspelt": 1}',
        b'{"categories": "a"}',
        b'{"categories": [""]}',
        b'{"categories": ["a\\u0000"]}',
        b'{"categories": ["\\ud800"]}',
        b'{"categories": ["\xff"]}',
        b'{"hidden": "no"}',
        b'{"hidden": 2}',
        b'{"timestamp": "soon"}',
        b'{"timestamp": NaN}',
        b'{"timestamp": 1e999}',
        b'{"timestamp": true}',
        b'{"timestamp": -1}',
        b'{"attributes": {"a": [1]}}',
        b'{"attributes": {"a": {}}}',
        b'{"attributes": {"": 1}}',
        b'{"attributes": {"a": NaN}}',
        b'{"attributes": {"a": 1e999}}',
        b'{"attributes": {"a": 9007199254740993}}',
        b'{"attributes": {"a": %b}}' % (b"[" * 1_000 + b"]" * 1_000),
        b'{"attributes": {"a": "%b"}}' % (b"x" * 2_000),
        b'{"attributes": {%b}}' % b",".join(b'"a%d": 1' % n for n in range(65)),
        b'{"categories": [%b]}' % b",".join(b'"a%d"' % n for n in range(17)),
    ],
)
def test_a_body_that_is_no_item_is_422(api: Service, body: bytes) -> None:
    """What PUT, PATCH and the bulk upsert cannot take as it is, they refuse, and change nothing."""
    answer_of(api.client.put("/v1/items/strict", json={"categories": ["kept"]}))
    headers = {"content-type": "application/json"}
    for method in ("PUT", "PATCH"):
        answer = api.client.request(method, "/v1/items/strict", content=body, headers=headers)
        error_of(answer, 422)
    bulk = b'[{"item_id": "strict", %b]' % body[1:]
    error_of(api.client.post("/v1/items", content=bulk, headers=headers), 422)
    assert api.get("/v1/items/strict")["categories"] == ["kept"]


def test_many_items_are_upserted_at_once(api: Service) -> None:
    """A list and {"items": [...]} are the same; what is not given stays; all or nothing."""
    items = [{"item_id": f"bulk-{n}", "categories": ["bulk"]} for n in range(5)]
    assert api.post("/v1/items", items)["upserted"] == 5
    change = {"items": [{"item_id": "bulk-1", "hidden": True}]}
    assert api.post("/v1/items", change)["upserted"] == 1
    item = api.get("/v1/items/bulk-1")
    assert (item["categories"], item["hidden"]) == (["bulk"], True)
    shown = [i["item_id"] for i in api.get("/v1/trending", category="bulk")["items"]]
    assert sorted(shown) == ["bulk-0", "bulk-2", "bulk-3", "bulk-4"]
    wrong: list[Any] = [
        [],
        {"items": []},
        {},
        [{"item_id": "bulk-9"}, {}],
        {"items": [{}] * 10_001},
    ]
    for body in wrong:
        error_of(api.client.post("/v1/items", json=body), 422)
    error_of(api.client.get("/v1/items/bulk-9"), 404)


def test_a_bad_item_of_a_list_is_named(api: Service) -> None:
    """The message says which field of which item is wrong, whatever other form a body may have."""
    for wrap in (lambda items: items, lambda items: {"items": items}):
        body = wrap([{"item_id": "good"}, {"item_id": "bad", "categories": "kitchen"}])
        error = error_of(api.client.post("/v1/items", json=body), 422)
        assert ".1.categories: Input should be a valid list (given 'kitchen')" in error["message"]


def test_items_come_page_by_page(api: Service) -> None:
    """Following `next` shows every item once, and ends with null."""
    api.post("/v1/items", [{"item_id": f"page-{n}"} for n in range(25)])
    seen: list[str] = []
    query: dict[str, Any] = {"n": 7}
    while True:
        page = api.get("/v1/items", **query)
        assert len(page["items"]) == 7 or page["next"] is None
        seen += [item["item_id"] for item in page["items"]]
        if page["next"] is None:
            break
        query["cursor"] = page["next"]
    assert len(seen) == len(set(seen))
    assert {f"page-{n}" for n in range(25)} <= set(seen)
    assert api.get("/v1/items", cursor="99999999999") == {"items": [], "next": None}


def test_a_deleted_item_is_not_shown_again(api: Service) -> None:
    """After DELETE nobody is shown the item, and no history has it."""
    click(api, "delete-a", "delete-1", "delete-2")
    click(api, "delete-b", "delete-1")
    before = [i["item_id"] for i in api.get("/v1/recommendations/delete-b", k=200)["items"]]
    assert before[0] == "delete-2"
    answer_of(api.client.delete("/v1/items/delete-2"))
    after = [i["item_id"] for i in api.get("/v1/recommendations/delete-b", k=200)["items"]]
    assert "delete-2" not in after
    history = api.get("/v1/users/delete-a/history")["events"]
    assert [event["item_id"] for event in history] == ["delete-1"]


def test_a_user_is_put_seen_and_forgotten(api: Service) -> None:
    """PUT makes a user and replaces their attributes; DELETE forgets everything."""
    path = "/v1/users/person"
    error_of(api.client.get(path), 404)
    error_of(api.client.get(f"{path}/history"), 404)
    error_of(api.client.delete(path), 404)
    made = answer_of(api.client.put(path, json={"attributes": {"country": "at"}}))
    assert made == {
        "user_id": "person",
        "attributes": {"country": "at"},
        "n_events": 0,
        "n_had": 0,
    }
    assert answer_of(api.client.put(path, json={}))["attributes"] == {}
    begin = time.time()
    click(api, "person", "person-1", "person-2", "person-1")
    seen = api.get(path)
    assert (seen["n_events"], seen["n_had"]) == (3, 2)
    events = api.get(f"{path}/history")["events"]
    assert [event["item_id"] for event in events] == ["person-1", "person-2", "person-1"]
    assert {event["reward"] for event in events} == {1.0}
    assert all(abs(httpx_time(event["timestamp"]) - begin) < 20 for event in events)
    answer_of(api.client.delete(path))
    error_of(api.client.get(path), 404)
    shown = [i["item_id"] for i in api.get("/v1/recommendations/person", k=200)["items"]]
    assert "person-1" in shown
    error_of(api.client.put(path, json={"attributes": {"a": []}}), 422)
    error_of(api.client.put(path, json={"attribute": {}}), 422)


def test_an_anonymous_id_becomes_part_of_a_user(api: Service) -> None:
    """History and attributes are the user's from the next request on; once more changes nothing."""
    path = "/v1/users/merge-ana"
    click(api, "merge-ana", "merge-1")
    click(api, "merge/x y", "merge-2")
    merged = api.post(f"{path}/merge", {"from": "merge/x y"})
    assert merged == {
        "user_id": "merge-ana",
        "from": "merge/x y",
        "merged": True,
        "cursor": merged["cursor"],
    }
    assert [e["item_id"] for e in api.get(f"{path}/history")["events"]] == ["merge-2", "merge-1"]
    error_of(api.client.get("/v1/users/merge%2Fx%20y"), 404)
    assert api.post(f"{path}/merge", {"from": "merge/x y"})["merged"] is False
    assert api.post("/v1/users/merge-new/merge", {"from": "merge-nobody"})["merged"] is False
    error_of(api.client.get("/v1/users/merge-new"), 404)
    error_of(api.client.post(f"{path}/merge", json={"from": "merge-ana"}), 409)
    for body in ({"from": ""}, {"from": 7}, {}, {"from": "a", "to": "b"}):
        error_of(api.client.post(f"{path}/merge", json=body), 422)


def httpx_time(text: str) -> float:
    """Return Unix seconds for the API's form of a time."""
    from app.events import parse_time

    assert len(text) == len("2026-01-01T00:00:00.000Z")
    return parse_time(text) / 1_000


def test_an_item_id_of_a_deleted_item_may_come_back(api: Service) -> None:
    """Deleting an item while it is clicked never ends in an error."""
    answers: list[httpx.Response] = []
    for _ in range(20):
        click(api, "again", "again-1")
        answers.append(api.client.delete("/v1/items/again-1"))
    assert {answer.status_code for answer in answers} == {200}
