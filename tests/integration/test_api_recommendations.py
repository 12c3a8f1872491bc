"""Recommendations, similar items and trending over HTTP."""

from __future__ import annotations

import time
from typing import Any

import pytest

from tests.integration.service import Service, error_of


def click(api: Service, user: str, *items: str) -> Any:
    """Let a user click items; return the answer."""
    body = [{"user_id": user, "item_id": item, "type": "click"} for item in items]
    return api.post("/v1/feedback", body)


def names(answer: dict[str, Any]) -> list[str]:
    """Return the items of a slate."""
    return [item["item_id"] for item in answer["items"]]


def check(answer: dict[str, Any], k: int) -> None:
    """Hold what every slate promises."""
    items = answer["items"]
    assert len(items) <= k
    assert len(set(names(answer))) == len(items)
    assert [item["position"] for item in items] == list(range(1, len(items) + 1))
    scores = [item["score"] for item in items]
    assert scores == sorted(scores, reverse=True)
    assert all(item["propensity"] == 1.0 and item["sources"] for item in items)
    assert set(answer["model"]) == {"version", "cursor", "gate", "mode"}


def test_the_next_get_knows_the_last_post(api: Service) -> None:
    """POST, then GET on one connection: the item liked is gone, and its neighbours moved up."""
    for n in range(6):
        click(api, f"next-{n}", "next-liked", "next-close", "next-near")
    for n in range(40):
        click(api, f"next-other-{n}", "next-far-1", "next-far-2")
    user = "/v1/recommendations/next-me"
    before = names(api.get(user, k=200))
    answer = api.post(
        "/v1/feedback", {"user_id": "next-me", "item_id": "next-liked", "type": "like"}
    )
    after = names(api.get(user, k=200))
    assert answer["counts"]["learned"] == 1
    assert "next-liked" in before
    assert "next-liked" not in after
    assert set(after[:2]) == {"next-close", "next-near"}
    assert min(before.index("next-close"), before.index("next-near")) > 1


def test_an_unknown_user_gets_what_is_trending(api: Service) -> None:
    """Nobody is a 404: an unknown user gets the trending list, with 200, by GET and by POST."""
    click(api, "trend", "trend-1", "trend-2")
    trending = api.get("/v1/trending", k=20)
    stranger = api.get("/v1/recommendations/a-stranger", k=20)
    check(stranger, 20)
    assert names(stranger) == names(trending)
    assert names(api.post("/v1/recommendations", {"user_id": "a-stranger", "k": 20})) == names(
        trending
    )
    assert names(api.post("/v1/recommendations", {"k": 20})) == names(trending)
    error_of(api.client.get("/v1/users/a-stranger"), 404)


@pytest.mark.parametrize("k", [1, 10, 200])
def test_k_bounds_every_list(api: Service, k: int) -> None:
    """Every list has at most k places, and k of them where there is so much."""
    for n in range(25):
        click(api, f"k-{n}", *(f"k-item-{n * 10 + i}" for i in range(10)))
    for answer in (
        api.get("/v1/recommendations/k-0", k=k),
        api.get("/v1/trending", k=k),
        api.post("/v1/recommendations", {"k": k}),
    ):
        check(answer, k)
        assert len(answer["items"]) == k
    check(api.get("/v1/items/k-item-1/similar", k=k), k)
    for wrong in (0, 201, -1):
        error_of(api.client.post("/v1/recommendations", json={"k": wrong}), 422)


def test_excluded_items_are_not_shown(api: Service) -> None:
    """`exclude` repeats, and takes ids that nobody knows; by GET and by POST."""
    for n in range(3):
        click(api, f"ex-{n}", "ex-1", "ex-2", "ex-3")
    click(api, "ex-me", "ex-1")
    shown = names(api.get("/v1/recommendations/ex-me", k=200, exclude=["ex-2", "nobody knows"]))
    assert shown[0] == "ex-3"
    assert "ex-2" not in shown
    body = {"user_id": "ex-me", "k": 200, "exclude": ["ex-2", "nobody knows"]}
    assert names(api.post("/v1/recommendations", body)) == shown


def test_categories_are_any_of(api: Service) -> None:
    """`category` repeats and means any of them; one that no item has gives an empty list."""
    items = {"cat-1": ["cat-a"], "cat-2": ["cat-b"], "cat-3": ["cat-a", "cat-b"], "cat-4": []}
    api.post("/v1/items", [{"item_id": i, "categories": c} for i, c in items.items()])
    for path in ("/v1/trending", "/v1/recommendations/cat-me"):
        assert sorted(names(api.get(path, k=50, category="cat-a"))) == ["cat-1", "cat-3"]
        both = names(api.get(path, k=50, category=["cat-a", "cat-b"]))
        assert sorted(both) == ["cat-1", "cat-2", "cat-3"]
        assert names(api.get(path, k=50, category="cat-none")) == []
    body = {"category": ["cat-a"], "candidates": ["cat-1", "cat-2", "cat-4"]}
    assert names(api.post("/v1/recommendations", body)) == ["cat-1"]


def test_lists_are_held_to_conditions(api: Service) -> None:
    """In a query or a body, in every list: what an attribute, a category or a time does not let
    through is not there, and what is wrong with a condition is said.
    """
    items = [
        {"item_id": f"f-{n}", "categories": ["f-all", f"f-{n % 2}"], "attributes": {"f_price": n}}
        for n in range(6)
    ]
    api.post("/v1/items", [*items, {"item_id": "f-5", "available_until": "1990-01-01T00:00:00Z"}])
    click(api, "f-user", "f-0")
    for n in range(3):
        click(api, f"f-{n}", "f-0", "f-1", "f-2", "f-4", "f-5")
    asked = {"where": ["f_price>=1", "f_price!=2"], "category_none": "f-none"}
    for path in ("/v1/recommendations/f-user", "/v1/trending"):
        assert sorted(names(api.get(path, k=50, **asked))) == ["f-1", "f-3", "f-4"]
        assert names(api.get(path, category_all=["f-all", "f-1"], exclude="f-1")) == ["f-3"]
    assert sorted(names(api.get("/v1/items/f-0/similar", **asked))) == ["f-1", "f-4"]
    body = {"user_id": "f-user", "filter": {"f_price": {"min": 1, "not": [2]}}, "k": 50}
    assert sorted(names(api.post("/v1/recommendations", body))) == ["f-1", "f-3", "f-4"]
    body["candidates"] = ["f-1", "f-2", "f-5"]
    assert names(api.post("/v1/recommendations", body)) == ["f-1"]
    error = error_of(api.client.get("/v1/trending", params={"where": "f_price<=cheap"}), 422)
    assert "f_price is compared with 'cheap'" in error["message"]
    body["filter"] = {"f_price": {"least": 1}}
    error = error_of(api.client.post("/v1/recommendations", json=body), 422)
    assert "f_price={'least': 1}" in error["message"]
    api.client.patch("/v1/items/f-5", json={"available_until": None})
    assert "f-5" in names(api.get("/v1/recommendations/f-user", **asked))


def test_an_attribute_of_another_type_is_refused(api: Service) -> None:
    """Alone it is a conflict; in a list it is named, and the others are upserted."""
    api.post("/v1/items", [{"item_id": "type-1", "attributes": {"type_x": 1}}])
    for method in ("PUT", "PATCH"):
        body = {"attributes": {"type_x": "one"}}
        error = error_of(api.client.request(method, "/v1/items/type-1", json=body), 409)
        assert "item 'type-1': type_x='one' is a string" in error["message"]
    items = [{"item_id": f"type-{n}", "attributes": {"type_x": x}} for n, x in enumerate([5, "x"])]
    answer = api.post("/v1/items", items)
    assert answer["upserted"] == 1
    assert [refused["item_id"] for refused in answer["refused"]] == ["type-1"]
    assert api.get("/v1/items/type-1")["attributes"] == {"type_x": 1}


def test_hidden_items_are_never_shown(api: Service) -> None:
    """A hidden item is in no list, and there again once it is not hidden."""
    for n in range(3):
        click(api, f"hide-{n}", "hide-1", "hide-2")
    click(api, "hide-me", "hide-1")
    paths = ("/v1/recommendations/hide-me", "/v1/items/hide-1/similar", "/v1/trending")
    body = {"candidates": ["hide-2"]}
    for is_hidden in (False, True, False):
        api.post("/v1/items", [{"item_id": "hide-2", "hidden": is_hidden}])
        for path in paths:
            assert ("hide-2" in names(api.get(path, k=200))) is not is_hidden
        assert bool(names(api.post("/v1/recommendations", body))) is not is_hidden


def test_an_explanation_adds_up_to_the_score(api: Service) -> None:
    """With explain=true the weights of `why` add up to the score of their item, largest first."""
    for n in range(8):
        click(api, f"why-{n}", *(f"why-item-{(n + i) % 5}" for i in range(4)))
    click(api, "why-me", "why-item-0", "why-item-1")
    answer = api.get("/v1/recommendations/why-me", k=50, explain="true")
    check(answer, 50)
    for item in answer["items"]:
        weights = [part["weight"] for part in item["why"]]
        assert weights == sorted(weights, reverse=True)
        total = sum(part["weight"] for part in item["why"])
        assert total == pytest.approx(item["score"], rel=1e-9, abs=1e-12)
    first = answer["items"][0]
    assert {part["because"] for part in first["why"]} >= {"why-item-0"}
    assert "covisit" in first["sources"]
    assert all("why" not in item for item in api.get("/v1/recommendations/why-me")["items"])


def test_an_anonymous_history_counts_and_leaves_no_trace(api: Service) -> None:
    """A `history` in the body ranks as a user's own would; nothing of it is stored."""
    for n in range(4):
        click(api, f"anon-{n}", "anon-1", "anon-2", "anon-3")
    click(api, "anon-me", "anon-1")
    mine = names(api.get("/v1/recommendations/anon-me", k=20))
    before = api.hashes()
    for history in (
        ["anon-1"],
        [{"item_id": "anon-1", "timestamp": time.time()}],
        ["never seen", "anon-1"],
    ):
        answer = api.post("/v1/recommendations", {"history": history, "k": 20})
        check(answer, 20)
        assert names(answer) == mine
        assert answer["user_id"] is None
    answer = api.post("/v1/recommendations", {"user_id": "anon-new", "history": ["anon-1"]})
    assert answer["user_id"] == "anon-new"
    error_of(api.client.get("/v1/users/anon-new"), 404)
    error_of(api.client.get("/v1/items/never seen"), 404)
    assert api.hashes() == before


def test_candidates_are_ranked_and_nothing_else(api: Service) -> None:
    """With `candidates` the slate is a ranking of those that are eligible, each once."""
    for n in range(4):
        click(api, f"cand-{n}", "cand-1", "cand-2")
    click(api, "cand-x", "cand-3")
    click(api, "cand-me", "cand-1")
    wanted = ["cand-3", "cand-2", "cand-1", "cand-2", "never seen"]
    answer = api.post("/v1/recommendations", {"user_id": "cand-me", "candidates": wanted})
    check(answer, 10)
    assert names(answer) == ["cand-2", "cand-3"]
    assert names(api.post("/v1/recommendations", {"candidates": []})) == []


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"[]",
        b'{"misspelt": 1}',
        b'{"k": "10"}',
        b'{"k": 10.5}',
        b'{"k": NaN}',
        b'{"user_id": ""}',
        b'{"user_id": 5}',
        b'{"user_id": "\\ud800"}',
        b'{"explain": "yes"}',
        b'{"history": "i1"}',
        b'{"history": [{"timestamp": 1}]}',
        b'{"history": [{"item_id": "i", "timestamp": "x"}]}',
        b'{"history": [%b]}' % b",".join([b'"i"'] * 1_001),
        b'{"candidates": [%b]}' % b",".join([b'"i"'] * 1_001),
        b'{"exclude": [null]}',
        b'{"min_cursor": "x"}',
        b'{"min_cursor": 5}',
        b'{"deadline_ms": 0}',
        b'{"history": %b}' % (b"[" * 1_000 + b"]" * 1_000),
    ],
)
def test_a_body_that_is_no_request_is_422(api: Service, body: bytes) -> None:
    """What POST /v1/recommendations cannot take as it is, it refuses."""
    headers = {"content-type": "application/json"}
    error_of(api.client.post("/v1/recommendations", content=body, headers=headers), 422)


def test_similar_items_are_those_had_together(api: Service) -> None:
    """The neighbours of an item come first, without itself; an unknown item is 404."""
    for n in range(4):
        click(api, f"sim-{n}", "sim-1", "sim-2")
    answer = api.get("/v1/items/sim-1/similar", k=5)
    check(answer, 5)
    assert names(answer)[0] == "sim-2"
    assert "sim-1" not in names(answer)
    error_of(api.client.get("/v1/items/sim-none/similar"), 404)


def test_min_cursor_reads_your_own_writes(api: Service) -> None:
    """A position that is applied is not waited for; by GET and by POST."""
    cursor = click(api, "mine", "mine-1")["cursor"]
    assert api.get("/v1/recommendations/mine", min_cursor=cursor)["degraded"] is None
    body = {"user_id": "mine", "min_cursor": cursor}
    assert api.post("/v1/recommendations", body)["degraded"] is None


def test_min_cursor_past_the_end_is_answered_at_the_deadline(api: Service) -> None:
    """Beyond the end of the log the answer comes at the deadline, and says `replica_behind`."""
    path = "/v1/recommendations/early"
    for deadline_ms in (20, 300):
        begin = time.monotonic()
        query = {"min_cursor": "99999999999999-0", "deadline_ms": deadline_ms}
        answer = api.client.get(path, params=query)
        took_ms = (time.monotonic() - begin) * 1_000
        # Answered so early that it is there by then.
        assert deadline_ms / 2 <= took_ms < deadline_ms + 1_500
        assert answer.json()["degraded"] == answer.headers["X-Degraded"] == "replica_behind"
        assert answer.status_code == 200
    body = {"min_cursor": "9999999999999999999-9999999999999999999", "deadline_ms": 1}
    assert api.post("/v1/recommendations", body)["degraded"] == "replica_behind"


@pytest.mark.parametrize(
    "cursor", ["", "-", "5", "5-", "-5", "a-b", "1-2-3", "1_0-0", "18446744073709551616-0", "٣-٣"]
)
def test_a_malformed_min_cursor_is_422(api: Service, cursor: str) -> None:
    """What is no log position is refused at once."""
    path = "/v1/recommendations/early"
    error_of(api.client.get(path, params={"min_cursor": cursor}), 422)
    error_of(api.client.post("/v1/recommendations", json={"min_cursor": cursor}), 422)
