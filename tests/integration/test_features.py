"""Features over HTTP: given with requests and events, put for users, kept over a kill."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from app.main import create_app
from app.settings import Settings
from sluice import Client, Event
from tests.integration.service import Service, error_of

StartService = Callable[..., Service]

FEATURES: dict[str, Any] = {
    "device": {"of": "context", "values": ["mobile", "desktop"]},
    "age": {"of": "user", "min": 0, "max": 100, "max_age_s": 86_400},
    "format": {"of": "item", "values": ["short", "long"]},
}
MISSING = 'sluice_feature_missing_total{{feature="{}",reason="{}"}}'


def taught(service: Service) -> Service:
    """Tell a service of items, and that mobile users take the short ones."""
    items = [
        {"item_id": f"i{n}", "attributes": {"format": "short" if n % 2 else "long"}}
        for n in range(20)
    ]
    service.post("/v1/items", items)
    events = [
        {
            "user_id": f"u{n % 17}",
            "item_id": f"i{n % 20}",
            "type": "click",
            "timestamp": 1_000_000 + 30 * n,
            "context": {"device": "mobile" if n % 2 else "desktop", "app": {"build": 7}},
        }
        for n in range(600)
    ]
    answer = service.post("/v1/feedback", events)
    assert answer["counts"]["learned"] == 600
    return service


def listed(service: Service, path: str = "/v1/recommendations/new", **params: Any) -> list[str]:
    """Return the ids of a list."""
    return [item["item_id"] for item in service.get(path, k=6, **params)["items"]]


def test_a_context_comes_with_requests_and_events(make_service: StartService) -> None:
    """What is given with a GET or a POST decides the list, and is among its reasons."""
    service = taught(make_service(features=FEATURES).start())
    on_mobile = listed(service, **{"context.device": "mobile"})
    on_desktop = listed(service, **{"context.device": "desktop"})
    assert all(int(item[1:]) % 2 for item in on_mobile)
    assert not any(int(item[1:]) % 2 for item in on_desktop)
    body = {"user_id": "new", "k": 6, "context": {"device": "mobile"}, "explain": True}
    posted = service.post("/v1/recommendations", body)["items"]
    assert [item["item_id"] for item in posted] == on_mobile
    for item in posted:
        assert abs(sum(part["weight"] for part in item["why"]) - item["score"]) <= 1e-6
    assert "context:device=mobile" in {part["because"] for item in posted for part in item["why"]}
    path = f"/v1/explain/new/{on_desktop[0]}"
    why = service.get(path, **{"context.device": "desktop"})["why"]
    assert {"context:device=desktop", "item:format=long"} <= {part["because"] for part in why}
    with Client(service.url) as shop:
        slate = shop.recommend("new", k=6, context={"device": "mobile"})
        assert [item.item_id for item in slate.items] == on_mobile
        slates = [
            shop.recommend(k=6, history=["i0"], context={"device": device})
            for device in ("mobile", "desktop")
        ]
        n_short = [sum(int(item.item_id[1:]) % 2 for item in slate.items) for slate in slates]
        assert n_short[0] > n_short[1]
        sent = shop.feedback.send([Event("w", "i1", "click", context={"device": "toaster"})])
        assert sent[0].is_acknowledged
    assert service.counter(MISSING.format("device", "unknown")) == 1


def test_a_number_is_the_same_in_lists_and_feedback(make_service: StartService) -> None:
    """One of `values` that a Python client gives as 3.0 is 3, whichever way it asks."""
    hour = {"hour": {"of": "context", "values": ["3", "true"]}}
    service = make_service(features=hour).start()
    with Client(service.url) as shop:
        for value in (3, 3.0, True):
            shop.recommend("u", context={"hour": value})
            shop.recommend("u", history=["i1"], context={"hour": value})
            shop.feedback.send([Event("u", "i1", "click", context={"hour": value})])
        shop.recommend("u", context={"hour": 3.5})
    assert service.counter(MISSING.format("hour", "unknown")) == 1


def test_what_is_not_declared_is_refused_by_name(make_service: StartService) -> None:
    """A name that is not declared is a 422 that says which are, by every way in."""
    service = make_service(features=FEATURES).start()
    service.post("/v1/items", [{"item_id": "i1"}])
    ask, post = service.client.get, service.client.post
    named = "it declares age, device"
    for answer in (
        ask("/v1/recommendations/u", params={"context.colour": "red"}),
        ask("/v1/recommendations/u", params={"context.format": "short", "deadline_ms": 1}),
        ask("/v1/explain/u/i1", params={"context.colour": "red"}),
        post("/v1/recommendations", json={"user_id": "u", "context": {"colour": "red"}}),
    ):
        assert named in error_of(answer, 422)["message"]
    put = service.client.put("/v1/users/u/features", json={"device": "mobile"})
    assert "of a user; it declares age" in error_of(put, 422)["message"]
    bodies: list[Any] = [{"age": [1]}, {"age": {"x": 1}}, [], "x"]
    for body in bodies:
        error_of(service.client.put("/v1/users/u/features", json=body), 422)
    at = service.get("/v1/model")["cursor"]
    past = service.client.get("/v1/recommendations/u", params={"at": at, "context.colour": "red"})
    assert named in error_of(past, 422)["message"]


def test_nothing_declared_means_nothing_taken(make_service: StartService) -> None:
    """Where no features are declared, a request that names one is told so."""
    service = make_service().start()
    answer = service.client.get("/v1/recommendations/u", params={"context.device": "mobile"})
    assert "it declares none" in error_of(answer, 422)["message"]
    put = service.client.put("/v1/users/u/features", json={"age": 3})
    assert "it declares none" in error_of(put, 422)["message"]


def test_features_of_users_survive_a_kill(make_service: StartService) -> None:
    """What was put, and learned from contexts, is there after kill -9; PATCH adds, DELETE ends."""
    service = taught(make_service(features=FEATURES, snapshot_events=500).start())
    put = service.client.put("/v1/users/u1/features", json={"age": 31}).json()
    assert put["features"]["age"]["value"] == 31.0
    service.client.patch("/v1/users/u2/features", json={"age": 300})
    hashes, mobile = service.hashes(), listed(service, **{"context.device": "mobile"})
    of_user = listed(service, "/v1/recommendations/u1")
    service.kill()
    service.start()
    assert service.hashes() == hashes
    assert listed(service, **{"context.device": "mobile"}) == mobile
    assert listed(service, "/v1/recommendations/u1") == of_user
    assert service.get("/v1/users/u1/features") == put
    assert service.get("/v1/users/u2/features")["features"]["age"]["value"] == 100.0
    service.client.patch("/v1/users/u1/features", json={"age": None})
    assert service.get("/v1/users/u1/features")["features"] == {}
    service.client.delete("/v1/users/u2")
    error_of(service.client.get("/v1/users/u2/features"), 404)


def test_features_of_many_users_are_put_at_once(make_service: StartService) -> None:
    """A list gives each user what it says and leaves the rest; with a wrong name, nothing."""
    declared = FEATURES | {"spend": {"of": "user", "min": 0, "max": 9}}
    service = make_service(features=declared).start()
    service.client.put("/v1/users/u1/features", json={"age": 1, "spend": 1})
    users = [{"user_id": f"u{n}", "features": {"age": n}} for n in range(1, 101)]
    assert service.post("/v1/features", users)["updated"] == 100
    kept = service.get("/v1/users/u1/features")["features"]
    assert {name: feature["value"] for name, feature in kept.items()} == {"age": 1.0, "spend": 1.0}
    assert service.get("/v1/users/u100/features")["features"]["age"]["value"] == 100.0
    wrong = [*users[:1], {"user_id": "x", "features": {"device": "mobile"}}]
    assert "of a user" in error_of(service.client.post("/v1/features", json=wrong), 422)["message"]
    error_of(service.client.get("/v1/users/x/features"), 404)


def test_features_change_within_a_log_if_that_is_said(make_service: StartService) -> None:
    """Another declaration is refused at the start, and taken with --reconfigure.

    A list of before has the features of then.
    """
    old = {"tier": {"of": "context", "values": ["gold"]}}
    service = taught(make_service(features=FEATURES | old).start())
    before = service.get("/v1/model")["cursor"]
    mobile = listed(service, **{"context.device": "mobile"})
    service.stop()
    service.settings["features"] = FEATURES | {"hour": {"of": "context", "min": 0, "max": 23}}
    service.launch()
    assert service.wait() != 0
    assert "change the log with --reconfigure" in service.log
    service.start("--reconfigure")
    given: dict[str, Any] = {"context.device": "mobile", "context.hour": 7}
    assert listed(service, **given) == mobile
    service.kill()
    service.start()
    assert listed(service, **given) == mobile
    of_then = {"context.device": "mobile", "context.tier": "gold"}
    assert listed(service, at=before, **of_then) == mobile


def test_the_schema_says_what_is_declared() -> None:
    """/openapi.json has the declared features as parameters and properties, and no others."""
    schema = create_app(Settings(features=FEATURES)).openapi()
    path: Any = schema["paths"]
    parameters = path["/v1/recommendations/{user_id}"]["get"]["parameters"]
    given = {p["name"]: p["description"] for p in parameters if p["name"].startswith("context.")}
    assert list(given) == ["context.device", "context.age"]
    assert "mobile, desktop" in given["context.device"]
    bodies: Any = schema["components"]["schemas"]
    assert list(bodies["FeaturesBody"]["properties"]) == ["age"]
    assert list(bodies["RecommendationsBody"]["properties"]["context"]["properties"]) == [
        *("device", "age")
    ]
