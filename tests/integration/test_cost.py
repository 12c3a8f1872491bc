"""What the service says that it costs."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from app.cost import STAGES
from tests.factories import sessions
from tests.integration.service import Service, batches, until

StartService = Callable[..., Service]


def test_cost_is_in_the_model_and_the_metrics(make_service: StartService) -> None:
    """CPU by stage, for 1,000 of what it was for, memory by part and money a day are told."""
    service = make_service(core_hour_price=100).start()
    for batch in batches(sessions(600), 50):
        service.learn(batch)
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
