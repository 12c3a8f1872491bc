"""Slots that explore, and impressions that clients declare, over HTTP and down to the log."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from app import events
from app.events import Impression
from tests.factories import sessions
from tests.integration.service import Service, error_of, small, until

StartService = Callable[..., Service]
KEY = "a-key-of-tests" * 2
NEW = {f"new{n}" for n in range(20)}


def stock(service: Service) -> Service:
    """Start a service, and let it know users, and items that nobody has touched."""
    service.start()
    service.learn(sessions(600, n_users=20))
    items = [{"item_id": item, "categories": ["new"]} for item in sorted(NEW)]
    service.post("/v1/items", {"items": items})
    return service


@pytest.fixture(scope="module")
def signed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """A service with tokens, which logs impressions at once and always explores."""
    folder = tmp_path_factory.mktemp("signed")
    tokens = {"tokens": "check", "token_keys": KEY, "impression_wait_s": 0.1}
    service = stock(small(folder, explore_share=1.0, max_items=400, **tokens))
    yield service
    service.close()


def logged(service: Service, user: str) -> list[Impression]:
    """Return the impressions of a user in the log."""
    with service.store() as store:
        [key] = list(store.scan_iter("*:log"))
        entries: Any = store.xrange(key)
    records = [r for _, fields in entries for r in events.decode(fields[b"e"]).records]
    return [r for r in records if isinstance(r, Impression) and r.user_id == user]


def declared(answer: dict[str, Any], n: int | None = None, **changes: Any) -> dict[str, Any]:
    """Return what a client sends that showed the first n items of an answer."""
    names = ("recommendation_id", "user_id")
    body = {name: answer[name] for name in names} | {"items": answer["items"][:n]}
    return body | changes


def test_new_items_are_shown_and_logged_with_their_propensities(signed: Service) -> None:
    """Below the third place stand new items; the log has what the answer said of each place."""
    answer = signed.get("/v1/recommendations/u1", k=8)
    items = answer["items"]
    explored = [item for item in items if item["sources"] == ["exploration"]]
    assert explored == items[3:]
    assert {item["item_id"] for item in explored} <= NEW
    assert all(0 < item["propensity"] <= 1 for item in items)
    scores = [item["score"] for item in items]
    assert scores == sorted(scores, reverse=True)
    [impression] = until(lambda: logged(signed, "u1"))
    assert impression.items == [item["item_id"] for item in items]
    assert impression.propensities == [item["propensity"] for item in items]
    assert impression.explored == [3, 4, 5, 6, 7]
    assert impression.is_verified
    click = {"user_id": "u1", "item_id": items[3]["item_id"], "type": "click"}
    [result] = signed.post(
        "/v1/feedback", click | {"recommendation_id": answer["recommendation_id"]}
    )["results"]
    assert result["status"] == "learned"


def test_a_client_says_what_it_showed(signed: Service) -> None:
    """A slate asked for as explicit is logged only when it is declared, and only what was shown."""
    for user in ("u2", "u3"):
        answer = signed.get(f"/v1/recommendations/{user}", k=6, impression="explicit")
    assert signed.post("/v1/impressions", declared(answer, 4)) == {"status": "accepted"}
    [impression] = until(lambda: logged(signed, "u3"))
    assert impression.items == [item["item_id"] for item in answer["items"][:4]]
    assert impression.scores == [item["score"] for item in answer["items"][:4]]
    assert impression.propensities == [item["propensity"] for item in answer["items"][:4]]
    assert (impression.explored, impression.is_verified) == ([3], True)
    assert logged(signed, "u2") == []


def test_by_post_too(signed: Service) -> None:
    """POST /v1/recommendations takes `impression`; places left out make it no sample of clicks."""
    body = {"user_id": "u4", "k": 6, "impression": "explicit"}
    answer = signed.post("/v1/recommendations", body)
    items = [answer["items"][place] for place in (1, 4)]
    signed.post("/v1/impressions", declared(answer, items=items))
    [impression] = until(lambda: logged(signed, "u4"))
    assert impression.items == [item["item_id"] for item in items]
    assert not impression.is_verified


def test_what_does_not_fit_its_slate_is_refused(signed: Service) -> None:
    """A forged or foreign token, an item that the slate did not have, the same item twice: 422."""
    answer = signed.get("/v1/recommendations/u5", k=5, impression="explicit")
    token, items = answer["recommendation_id"], answer["items"]
    other = next(item for item in sorted(NEW) if item not in {i["item_id"] for i in items})
    for changes, why in (
        ({"recommendation_id": "x"}, "none that this service made"),
        ({"recommendation_id": token[:-4] + ("AAAA" if token[-4:] != "AAAA" else "BBBB")}, "key"),
        ({"user_id": "u6"}, "another user"),
        ({"items": [*items, {"item_id": other}]}, "does not have all"),
        ({"items": [{"item_id": "unheard-of"}]}, "does not have all"),
        ({"items": [items[0], items[0]]}, "twice"),
        ({"items": []}, "items"),
        ({"items": [items[0] | {"propensity": 0}]}, "propensity"),
        ({"items": [items[0] | {"propensity": 1.5}]}, "propensity"),
        ({"items": [{"item_id": f"i{n}"} for n in range(201)]}, "items"),
        ({"placed": 1}, "placed"),
    ):
        body = declared(answer, **changes)
        refused = error_of(signed.client.post("/v1/impressions", json=body), 422)
        assert why in f"{refused['message']} {refused['details']}", changes
    assert error_of(signed.client.get("/v1/recommendations/u5?impression=no"), 422)
    assert logged(signed, "u5") == []


def test_a_declaration_takes_the_place_of_what_was_taken_for_shown(
    make_service: StartService,
) -> None:
    """A slate that waits to be logged is logged once, as its client declares it; twice as well."""
    tokens = {"tokens": "check", "token_keys": KEY, "impression_wait_s": 1.5}
    service = stock(make_service(max_items=400, **tokens))
    answer = service.get("/v1/recommendations/u1", k=6)
    service.post("/v1/impressions", declared(answer, 3))
    service.post("/v1/impressions", declared(answer, 2))
    [impression] = until(lambda: logged(service, "u1"))
    assert len(impression.items) == 2


def test_without_tokens_what_is_declared_is_taken_and_known_as_such(
    make_service: StartService,
) -> None:
    """It is logged for known users, in bounds, as what nobody vouches for; and lowers scores."""
    service = stock(make_service(max_items=400, impression_wait_s=0, ignored_weight=0.5))
    answer = service.get("/v1/recommendations/u1", k=30)
    again = service.get("/v1/recommendations/u1", k=30)
    assert answer["items"] == again["items"]
    service.post("/v1/impressions", declared(answer))
    service.post("/v1/impressions", declared(answer, 2, user_id="a stranger"))
    [impression] = until(lambda: logged(service, "u1"))
    assert impression.items == [item["item_id"] for item in answer["items"][:20]]
    assert not impression.is_verified
    assert impression.recommendation_id == answer["recommendation_id"]
    before = {item["item_id"]: item["score"] for item in answer["items"]}

    def lowered() -> dict[str, float]:
        items = service.get("/v1/recommendations/u1", k=200)["items"]
        after = {item["item_id"]: item["score"] for item in items}
        lost = {item: before[item] - after[item] for item in before}
        return {item: score for item, score in lost.items() if score}

    assert until(lowered) == {item: pytest.approx(0.5) for item in impression.items}
    assert logged(service, "a stranger") == []
    too_long = error_of(
        service.client.post("/v1/impressions", json=declared(answer, recommendation_id="x" * 257)),
        422,
    )
    assert "256" in too_long["message"]
