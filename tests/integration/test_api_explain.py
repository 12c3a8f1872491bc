"""GET /v1/explain over HTTP: why this, and why not that."""

from __future__ import annotations

from typing import Any

import pytest

from tests.integration.service import Service, answer_of, error_of


@pytest.fixture(scope="module")
def shop(api: Service) -> Service:
    """A service where tea is popular; Ivy had some of it."""
    events = [
        {"user_id": f"ex-{user}", "item_id": f"ex-tea{item}", "type": "click"}
        for user in range(8)
        for item in range(user + 1)
    ]
    api.post("/v1/feedback", [*events, {**events[0], "user_id": "ex-ivy", "type": "purchase"}])
    return api


def why(shop: Service, item: str, user: str = "ex-ivy", **query: Any) -> dict[str, Any]:
    """Return why an item is in a user's list, or is not."""
    answer: dict[str, Any] = shop.get(f"/v1/explain/{user}/{item}", **query)
    return answer


def test_what_is_shown_is_explained_as_in_the_list(shop: Service) -> None:
    """An item of a list has the place, score and reasons that the list has; reasons add up."""
    query: dict[str, Any] = {"k": 5, "exclude": ["ex-tea7"]}
    items = shop.get("/v1/recommendations/ex-ivy", explain=True, **query)["items"]
    for place in items:
        found = why(shop, place["item_id"], **query)
        assert found["shown"]
        for name in ("position", "score", "sources", "why"):
            assert found[name] == place[name]
        total = sum(part["weight"] for part in found["why"])
        assert total == pytest.approx(found["score"], abs=1e-6)


def test_what_is_not_shown_says_why(shop: Service) -> None:
    """What was had, hidden, excluded or filtered says so; the rest has its rank."""
    had = why(shop, "ex-tea0")
    assert [cause["by"] for cause in had["excluded"]] == ["had"]
    assert had["excluded"][0]["type"] == "purchase"
    assert had["because"].startswith("ex-tea0 is not shown to ex-ivy: ex-ivy had it (purchase, ")
    excluded = why(shop, "ex-tea3", exclude="ex-tea3", where="price<=20", category="tea")
    assert [cause["by"] for cause in excluded["excluded"]] == ["exclude", "category", "filter"]
    lower = why(shop, "ex-tea7", k=1)
    assert (lower["shown"], lower["eligible"]) == (False, True)
    assert lower["rank"] > 1
    assert f"of {lower['n_ranked']} with k=1" in lower["because"]


def test_a_stranger_is_explained_and_an_unknown_item_is_not(shop: Service) -> None:
    """An unknown user is a stranger; an item that there is not is 404; a bad query is 422."""
    assert why(shop, "ex-tea0", "ex-nobody")["eligible"]
    error_of(shop.client.get("/v1/explain/ex-ivy/ex-nothing"), 404)
    error_of(shop.client.get("/v1/explain/ex-ivy/ex-tea0?k=0"), 422)
    error_of(shop.client.get("/v1/explain/ex-ivy/ex-tea0?where=price"), 422)


def test_ids_in_the_path_may_be_any(shop: Service) -> None:
    """Ids with slashes and spaces are taken as they are."""
    shop.post("/v1/feedback", {"user_id": "a/b c", "item_id": "d/ e", "type": "click"})
    found = answer_of(shop.client.get("/v1/explain/a%2Fb%20c/d%2F%20e"))
    assert (found["user_id"], found["item_id"]) == ("a/b c", "d/ e")
    assert [cause["by"] for cause in found["excluded"]] == ["had"]
