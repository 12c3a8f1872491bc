"""What the service says that it costs."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from app import events
from app.cost import STAGES
from app.events import Command, Record, Thin
from tests.factories import sessions
from tests.faults.log import Archive, agree
from tests.integration.service import Service, batches, error_of, until, wire

StartService = Callable[..., Service]


def test_cost_is_in_the_model_and_the_metrics(make_service: StartService) -> None:
    """CPU by stage, for 1,000 of what it was for, memory by part and money a day are told."""
    service = make_service(core_hour_price=100).start()
    for batch in batches(sessions(600), 50):
        service.learn(batch)
        for _ in range(5):
            service.get("/v1/recommendations/u1")
    service.post("/v1/snapshots")
    cost = service.get("/v1/model")["cost"]
    assert list(cost["stages"]) == list(STAGES)
    for name, stage in cost["stages"].items():
        assert stage["cpu_s"] > 0, name
        unit = {"reads": "requests", "other": None}.get(name, "events")
        assert stage["unit"] == unit
        assert (stage["per_1000"] is None) == (unit is None)
    assert cost["per_day"] == pytest.approx(cost["cpu"] * 24 * 100)
    total = sum(stage["cpu_s"] for stage in cost["stages"].values())
    for stage in STAGES:
        assert service.counter(f'sluice_cpu_seconds_total{{stage="{stage}"}}') > 0
    # The process's own count has all of it, but for the copies'.
    assert total >= 0.9 * service.counter("process_cpu_seconds_total")
    assert service.counter('sluice_records_total{what="received"}') == 600
    assert service.counter('sluice_records_total{what="applied"}') >= 600
    until(lambda: service.counter('sluice_memory_bytes{part="users"}') > 0)
    held = service.counter('sluice_memory_bytes{part="covisit"}')
    assert 0 < held <= service.counter('sluice_memory_reserved_bytes{part="covisit"}')
    memory = service.get("/v1/model")["cost"]["memory"]
    parts = sum(part["held"] for part in memory["parts"].values())
    assert 0 < parts < memory["process_bytes"]


TIGHT: dict[str, Any] = {
    "budget_learning": 0.01,
    "budget_least_judged": 0.25,
    "ready_lag_s": 0.5,
    "feedback_timeout_s": 2,
}


def records(archive: Archive) -> list[Record]:
    """Return what is in the log so far."""
    archive.catch_up()
    return [r for payload in archive.entries.values() for r in events.decode(payload).records]


def thinned(archive: Archive) -> list[Thin]:
    """Return what was asked of judging so far."""
    return [record for record in records(archive) if isinstance(record, Thin)]


def delayed(service: Service) -> dict[str, Any]:
    """Return what a service that is ready says, if its budget has delayed it."""
    ready = service.client.get("/readyz")
    assert ready.status_code == 200, ready.text
    said: dict[str, Any] = ready.json()
    return said if said["is_delayed_by_budget"] else {}


def test_a_budget_delays_learning_and_loses_nothing(make_service: StartService) -> None:
    """Over its budget a service acknowledges at once, says how far it is behind, and stays ready.

    It asks for fewer events to be judged, in the log; a command waits, and is in it as well. Killed
    in the middle of all that, it has learned each event once after the next start, and is where an
    offline replay gets.
    """
    service = make_service(snapshots_keep=100, id_share=1.0, **TIGHT).start()
    archive = Archive(service.store_url)
    acknowledged, statuses = list[str](), set[int]()
    for batch in batches(sessions(3_000, n_users=40), 50):
        answer = service.client.post("/v1/feedback", json=wire(batch))
        assert answer.is_success, answer.text
        statuses.add(answer.status_code)
        acknowledged += [result["event_id"] for result in answer.json()["results"]]
    until(lambda: thinned(archive))
    assert 202 in statuses
    said = until(lambda: delayed(service))
    assert said["lag_s"] > TIGHT["ready_lag_s"]
    assert service.counter("sluice_learning_delayed") == 1
    assert service.get("/v1/model")["cost"]["budget"]["is_delaying"]
    late = service.client.post("/v1/model/freeze", json={"reason": "a test asks"})
    assert error_of(late, 503)["code"] == "delayed"
    service.kill()
    entries = archive.entries
    archive.close()
    service.start()
    archive = Archive(service.store_url, entries)
    decision = service.get("/v1/decisions", n=1_000, without="promote")["decisions"]
    assert [d["asked_by"] for d in decision if d["kind"] == "thin"] == ["budget"]
    assert service.get("/v1/model")["judging"]["thinned"] == thinned(archive)[0].part < 1
    assert service.get("/v1/model")["model"]["mode"] == "frozen"
    agree(service, archive, acknowledged)
    archive.close()


def test_a_service_that_is_to_stop_does_not_wait_for_its_budget(
    make_service: StartService,
) -> None:
    """Asked to go while it is behind, it catches up at full speed: who waits gets the answer."""
    service = make_service(**TIGHT | {"feedback_timeout_s": 60}).start()
    for batch in batches(sessions(3_000, n_users=40), 50):
        service.learn(batch)
    archive = Archive(service.store_url)
    waiting = service.another()
    with ThreadPoolExecutor() as pool:
        frozen = pool.submit(waiting.post, "/v1/model/freeze", {"reason": "a test asks"})
        until(lambda: any(isinstance(r, Command) for r in records(archive)))
        assert not frozen.done()
        service.stop()
        assert frozen.result()["model"]["mode"] == "frozen"
    archive.close()
