"""Half an entry is never seen: not by hashes, not by snapshots, not by a cursor."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import pytest

from app.engine import Engine
from app.events import Feedback
from tests.factories import click, feed, make_engine, sessions
from tests.integration.service import Service, wire

StartService = Callable[..., Service]
BATCH, N_BATCHES = 2_500, 4


def events() -> list[Feedback]:
    """Return four batches of events, of which the largest slices last longest."""
    return sessions(BATCH * N_BATCHES, n_users=150)


class Background(threading.Thread):
    """Does something again and again; keeps what it got, or what went wrong."""

    def __init__(self, act: Callable[[], Any]) -> None:
        super().__init__(daemon=True)
        self.act = act
        self.found: list[Any] = []
        self.failure: Exception | None = None
        self.is_over = threading.Event()

    def run(self) -> None:
        """Act until told to stop."""
        while not self.is_over.is_set():
            try:
                self.found.append(self.act())
            except Exception as error:
                self.failure = error
                return

    def end(self) -> list[Any]:
        """Stop, and return what was found."""
        self.is_over.set()
        self.join(30)
        assert not self.is_alive()
        if self.failure is not None:
            raise self.failure
        return self.found


@pytest.fixture(scope="module")
def allowed() -> dict[str, str]:
    """The state hashes between entries, and the model hash that goes with each."""
    engine: Engine = make_engine()
    found = [engine.hashes()]
    stream = events()
    for start in range(0, len(stream), BATCH):
        feed(engine, stream[start : start + BATCH], group=BATCH)
        found.append(engine.hashes())
    return {hashes["state_hash"]: hashes["model_hash"] for hashes in found}


def test_nobody_sees_half_an_entry(make_service: StartService, allowed: dict[str, str]) -> None:
    """Hashes and snapshots asked for during large POSTs are those of whole entries."""
    service = make_service(snapshots_keep=1_000).start()
    hashes = Background(service.another().hashes)
    writer, reader = service.another(), service.another()
    snapshots = Background(lambda: writer.post("/v1/snapshots"))
    reads = Background(lambda: reader.get("/v1/recommendations/u1", k=50))
    threads = (hashes, snapshots, reads)
    for thread in threads:
        thread.start()
    stream = events()
    for start in range(0, len(stream), BATCH):
        answer = service.post("/v1/feedback", wire(stream[start : start + BATCH]))
        assert answer["counts"]["learned"] == BATCH
    seen = hashes.end()
    assert len(seen) > 3
    for found in seen:
        assert allowed[found["state_hash"]] == found["model_hash"]
    numbers = {snapshot["n_events"] for snapshot in snapshots.end()}
    assert numbers <= {BATCH * n for n in range(N_BATCHES + 1)}
    assert all(len({i["item_id"] for i in r["items"]}) == len(r["items"]) for r in reads.end())
    for snapshot in service.get("/v1/snapshots")["snapshots"][:3]:
        assert service.sluice("restore-snapshot", "verify", snapshot["id"]).exit_code == 0
    final = service.hashes()
    service.kill()
    service.start()
    assert service.hashes() == final
    assert final["state_hash"] in allowed


def test_everything_at_once_is_never_a_500(make_service: StartService) -> None:
    """Deletes, restores, promotions and feedback from all sides: answers, and no divergence."""
    service = make_service(snapshots_keep=2, max_items=100, max_users=100).start()
    counts: dict[int, int] = {}

    def asking(path: str, method: str = "POST", body: Any = None) -> Callable[[], None]:
        client = service.another().client

        def ask() -> None:
            answer = client.request(method, path, json=body)
            counts[answer.status_code] = counts.get(answer.status_code, 0) + 1
            assert answer.status_code < 500, f"{method} {path}: {answer.text}"

        return ask

    number = iter(range(10**9))

    def posting() -> None:
        n = next(number)
        batch = [
            click(f"u{(n * 7 + i) % 150}", f"i{(n * 3 + i * i) % 140}", at_s=n, event_id=f"{n}-{i}")
            for i in range(30)
        ]
        assert poster.client.post("/v1/feedback", json=wire(batch)).status_code == 200

    def restoring() -> None:
        found = restorer.post("/v1/snapshots")["id"]
        answer = restorer.client.post(f"/v1/snapshots/{found}/restore", json={"reason": "x"})
        assert answer.status_code in (200, 404, 409), answer.text

    poster, restorer = service.another(), service.another()
    reason = {"reason": "a test asks", "force": True}
    threads = [
        Background(posting),
        Background(restoring),
        Background(asking("/v1/model/promote", body=reason)),
        Background(asking("/v1/model/rollback", body=reason)),
        Background(asking("/v1/items/i3", "DELETE")),
        Background(asking("/v1/users/u3", "DELETE")),
        Background(asking("/v1/items/i3", "PUT", {"categories": ["c"]})),
        Background(asking("/v1/items/i3", "PATCH", {"hidden": True})),
        Background(asking("/v1/items?n=1000", "GET")),
        Background(asking("/v1/model", "GET")),
        Background(asking("/v1/recommendations/u3?explain=true&category=c&k=200", "GET")),
        Background(asking("/v1/items/i3/similar", "GET")),
        Background(asking("/metrics", "GET")),
    ]
    for thread in threads:
        thread.start()
    threading.Event().wait(3)
    for thread in threads:
        thread.end()
    assert counts[200] > 50
    assert "Traceback" not in service.log
    hashes = service.hashes()
    service.kill()
    service.start()
    assert service.hashes() == hashes
