"""Replicas know of each other, compare their states, and go to another semantics version as one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import redis

from app import events
from app.events import Entry, Upgrade
from app.settings import KNOWN_SEMANTICS, SEMANTICS
from tests.factories import configure, make_settings, mixed
from tests.integration.service import Service, batches, error_of, until

StartServer = Callable[..., str]
StartService = Callable[..., Service]
LOG = "sluice:{default}:log"
OLD = KNOWN_SEMANTICS[0]


@pytest.fixture
def url(start_external: StartServer, valkey_server: Any) -> str:
    """A store that is nobody's own."""
    return start_external(valkey_server, "--appendonly", "yes")


@pytest.fixture
def replica(url: str, make_service: StartService) -> StartService:
    """Make services on it."""
    return lambda name, **settings: make_service(name, redis_url=url, **settings)


def append(url: str, payload: bytes) -> None:
    """Write an entry into the log by hand."""
    with redis.Redis.from_url(url) as store:
        store.xadd(LOG, {"e": payload, "t": ""})


def semantics(service: Service) -> int:
    """Return the version by which a replica computes."""
    found: int = service.get("/v1/model")["semantics"]
    return found


def test_all_go_on_from_one_place(replica: StartService, url: str) -> None:
    """A log of the version before is followed; one entry takes all replicas to the next."""
    append(url, events.encode(Entry([configure(make_settings(), semantics=OLD)])))
    one, two = replica("one").start(), replica("two").start()
    parts = batches(mixed(900), 100)
    for batch in parts[:4]:
        one.learn(batch)
    assert (semantics(one), semantics(two)) == (OLD, OLD)
    shown = {"recommendation_id": "r", "user_id": "u1", "items": [{"item_id": "i1"}]}
    refused = error_of(one.client.post("/v1/impressions", json=shown), 409)
    assert "/v1/upgrade" in refused["message"]
    one.client.delete("/v1/users/u1")
    answer = one.post("/v1/upgrade", {"reason": "all are new"})
    assert answer["semantics"] == SEMANTICS
    until(lambda: semantics(two) == SEMANTICS)
    assert one.post("/v1/impressions", shown) == {"status": "accepted"}
    two.client.delete("/v1/users/u2")
    for batch in parts[4:]:
        cursor = two.learn(batch)["cursor"]
    query = {"min_cursor": cursor, "deadline_ms": 10_000}
    assert one.get("/v1/recommendations/x", **query)["degraded"] is None
    hashes = one.hashes()
    assert two.hashes() == hashes
    [decision] = [d for d in one.get("/v1/decisions")["decisions"] if d["kind"] == "upgrade"]
    assert decision["evidence"] == {"semantics": [OLD, SEMANTICS]}
    assert (
        "already"
        in error_of(two.client.post("/v1/upgrade", json={"reason": "again"}), 409)["message"]
    )
    one.kill()
    assert one.start().hashes() == hashes
    two.stop()
    assert two.start().hashes() == hashes


def test_counts_are_halved_by_all_from_one_place_of_the_log(replica: StartService) -> None:
    """A log that never halved its counts can be told to by one replica, for all of them."""
    one, two = replica("one").start(), replica("two", halve_counts_at=400)
    one.learn(mixed(100))
    two.launch()
    assert two.wait() != 0
    assert "halve_counts_at is 400 here and 0 in the log" in two.log
    two.start("--reconfigure")
    until(lambda: one.get("/v1/decisions", n=1)["decisions"][0]["kind"] == "configure")
    cursor = one.learn(mixed(200))["cursor"]
    until(lambda: two.get("/v1/model")["cursor"] == cursor)
    hashes = two.hashes()
    assert one.hashes() == hashes
    two.kill()
    assert two.start().hashes() == hashes


def test_who_would_be_left_behind_is_named(replica: StartService, url: str) -> None:
    """An upgrade waits for replicas that do not know the version; forced, these stop and say so."""
    one = replica("one").start()
    until(lambda: len(one.get("/v1/replicas")["replicas"]) == 1)
    [me] = one.get("/v1/replicas")["replicas"]
    assert (me["pid"], me["semantics"]) == (one.pid, list(KNOWN_SEMANTICS))
    assert me["stopped"] is None
    body = {"reason": "a test", "semantics": SEMANTICS + 1}
    assert str(one.pid) in error_of(one.client.post("/v1/upgrade", json=body), 409)["message"]
    assert one.client.get("/readyz").status_code == 200
    refused = one.client.post("/v1/upgrade", json=body | {"force": True})
    assert "start a newer one" in error_of(refused, 503)["message"]
    problems = one.client.get("/readyz").json()["problems"]
    assert f"semantics version {SEMANTICS + 1}" in problems[0]
    assert one.client.get("/v1/recommendations/x").status_code == 200
    until(lambda: one.get("/v1/replicas")["replicas"][0]["stopped"] is not None)
    one.kill()
    one.launch()
    assert one.wait() != 0
    assert "start a newer one" in one.log


def test_a_replica_that_stops_is_no_longer_listed(replica: StartService) -> None:
    """A clean stop takes a replica off the list."""
    one, two = replica("one").start(), replica("two").start()
    until(lambda: len(one.get("/v1/replicas")["replicas"]) == 2)
    two.stop()
    assert [r["pid"] for r in one.get("/v1/replicas")["replicas"]] == [one.pid]


def test_an_entry_of_a_later_program_stops(replica: StartService, url: str) -> None:
    """What this program cannot read it does not skip: it stops there, says so, and is not ready."""
    one = replica("one").start()
    one.learn(mixed(50))
    append(url, events.encode(Entry([Upgrade(1, "", "")])).replace(b"upgrade", b"prophecy"))
    until(lambda: one.client.get("/readyz").status_code == 503)
    assert "none that this program knows" in one.client.get("/readyz").json()["problems"][0]
    assert one.client.get("/v1/recommendations/x").status_code == 200
    error_of(one.client.post("/v1/feedback", json={"user_id": "a"}), 503)
