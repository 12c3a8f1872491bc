"""Replicas: several processes, one log."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import pytest

from tests.factories import mixed
from tests.integration.service import Service, batches, until, wire

StartServer = Callable[..., str]
StartService = Callable[..., Service]


@pytest.fixture
def replica(
    start_external: StartServer, valkey_server: Any, make_service: StartService
) -> StartService:
    """Make services on one store that is nobody's own."""
    url = start_external(valkey_server, "--appendonly", "yes")
    return lambda name, **settings: make_service(name, redis_url=url, **settings)


def wait_for(service: Service, cursor: str) -> None:
    """Wait until a replica has applied a log position."""
    query = {"min_cursor": cursor, "deadline_ms": 10_000}
    assert service.get("/v1/recommendations/anybody", **query)["degraded"] is None


def test_a_post_to_one_is_seen_on_the_other(replica: StartService) -> None:
    """With min_cursor the other replica answers with what was just posted to this one."""
    one, two = replica("one").start(), replica("two").start()
    for here, there, name in ((one, two, "a"), (two, one, "b")):
        event = {"user_id": name, "item_id": f"{name}-item", "type": "like"}
        cursor = here.post("/v1/feedback", event)["cursor"]
        wait_for(there, cursor)
        history = there.get(f"/v1/users/{name}/history")["events"]
        assert [e["item_id"] for e in history] == [f"{name}-item"]
        put = here.client.put(f"/v1/items/{name}-new", json={"categories": [name]}).json()
        until(lambda t=there, n=name: t.client.get(f"/v1/items/{n}-new").is_success)  # type: ignore[misc]
        assert there.get(f"/v1/items/{name}-new") == put


def test_replicas_end_with_the_same_hashes(replica: StartService) -> None:
    """Posts, acts and restores at both, at the same time, end in the same bytes on both.

    A third one that comes late, by snapshot and tail, too; and one that is killed meanwhile.
    """
    settings = {"snapshot_events": 200, "snapshot_min_s": 0, "snapshots_keep": 3}
    one, two = replica("one", **settings).start(), replica("two", **settings).start()
    events = batches(mixed(2_400), 40)
    failures: list[str] = []

    def post(service: Service, mine: list[Any]) -> None:
        try:
            for n, batch in enumerate(mine):
                service.post("/v1/feedback", wire(batch))
                if n % 10 == 5:
                    for action in ("freeze", "resume"):
                        service.post(f"/v1/model/{action}", {"reason": "a test asks"})
                if n % 15 == 14:
                    chosen = service.post("/v1/snapshots")["id"]
                    service.post(f"/v1/snapshots/{chosen}/restore", {"reason": "a test asks"})
        except Exception as error:
            failures.append(repr(error))

    threads = [
        threading.Thread(target=post, args=(one, events[::2]), daemon=True),
        threading.Thread(target=post, args=(two, events[1::2]), daemon=True),
    ]
    for thread in threads:
        thread.start()
    late = replica("late", **settings).start()
    late.kill()
    for thread in threads:
        thread.join(60)
        assert not thread.is_alive()
    assert failures == []
    late.start()
    last = one.post("/v1/feedback", {"user_id": "last", "item_id": "last", "type": "click"})
    replicas = (one, two, late)
    for service in replicas:
        wait_for(service, last["cursor"])
    hashes = [service.hashes() for service in replicas]
    assert hashes[0] == hashes[1] == hashes[2]
    decisions = [service.get("/v1/decisions", n=1_000) for service in replicas]
    assert decisions[0] == decisions[1] == decisions[2]
    assert {d["kind"] for d in decisions[0]["decisions"]} >= {"restore", "freeze", "promote"}
    quarantine = [service.get("/v1/quarantine", n=1_000) for service in replicas]
    assert quarantine[0] == quarantine[1] == quarantine[2]
    late_or_bad = sum(
        count
        for label, count in one.get("/v1/model")["events"]["counts"].items()
        if label.startswith(("late", "quarantined"))
    )
    assert len(quarantine[0]["records"]) == late_or_bad


def test_other_settings_are_refused_by_name(replica: StartService) -> None:
    """A replica with another cadence does not start, and says which setting; --reconfigure asks."""
    one = replica("one").start()
    one.learn(mixed(100))
    other = replica("other", promote_events=77)
    other.launch()
    assert other.wait() not in (0, None)
    assert "promote_events is 77 here and 50 in the log" in other.log
    assert "--reconfigure" in other.log
    assert "Traceback" not in other.log
    before = one.get("/v1/model")["cursor"]
    other.start("--reconfigure")
    until(lambda: one.get("/v1/model")["cursor"] != before)
    [decision] = one.get("/v1/decisions", n=1)["decisions"]
    assert (decision["kind"], decision["asked_by"]) == ("configure", "operator")
    assert decision["evidence"]["promote_events"] == [50, 77]
    for batch in batches(mixed(600), 60):
        cursor = one.learn(batch)["cursor"]
    wait_for(other, cursor)
    assert one.hashes() == other.hashes()
    one.stop()
    one.launch()
    assert one.wait() != 0
    assert "promote_events is 50 here and 77 in the log" in one.log
    other.stop()
    other.start()


def test_what_cannot_change_is_refused_even_then(replica: StartService) -> None:
    """A setting that shapes the arrays cannot change within a log, --reconfigure or not."""
    replica("one").start()
    other = replica("other", max_neighbours=19)
    other.launch("--reconfigure")
    assert other.wait() != 0
    assert "max_neighbours cannot change within a log" in other.log
    assert "SLUICE_NAMESPACE" in other.log


def test_replicas_may_begin_a_log_together(replica: StartService) -> None:
    """Two that start on an empty store at one moment agree on one log."""
    one, two = replica("one"), replica("two")
    for service in (one, two):
        service.launch()
    for service in (one, two):
        until(service.is_ready, within_s=60)
    cursor = one.learn(mixed(200))["cursor"]
    wait_for(two, cursor)
    assert one.hashes() == two.hashes()
