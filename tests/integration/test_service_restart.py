"""The service is killed, stopped and started again: nothing is lost, nothing is learned twice."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Sequence
from typing import Any
from urllib.parse import quote

import httpx
import pytest

from app.engine import Engine
from app.events import Feedback
from tests.factories import apply, feed, make_engine, mixed
from tests.integration.service import Service, batches, until, wire

StartService = Callable[..., Service]


def admissible(n_events: int) -> list[Feedback]:
    """Return events that are learned or duplicates: sent again, they move no counter."""
    events = mixed(n_events)
    results = apply(make_engine(), *events).results
    return [e for e, r in zip(events, results) if r.status in ("learned", "duplicate")]


EVENTS = admissible(3_200)


@pytest.fixture(scope="module")
def offline() -> Engine:
    """The engine that has learned all events in one uninterrupted run."""
    return feed(make_engine(), EVENTS, group=50)


class Poster(threading.Thread):
    """Posts events in order, one batch after the other; one without an answer is sent again."""

    def __init__(self, service: Service, events: Sequence[Feedback], size: int) -> None:
        super().__init__(daemon=True)
        self.service = service
        self.batches = batches(events, size)
        self.n_answered = 0
        self.n_resent = 0
        self.is_up = threading.Event()
        self.is_up.set()
        self.answers: list[Any] = []

    def run(self) -> None:
        """Post until all is answered."""
        for batch in self.batches:
            self.answers.append(self._post(wire(batch)))
            self.n_answered += 1

    def _post(self, body: Any) -> Any:
        while True:
            assert self.is_up.wait(60)
            try:
                answer = self.service.client.post("/v1/feedback", json=body)
                if answer.status_code == 200:
                    return answer.json()
                assert answer.status_code == 503
            except (httpx.TransportError, RuntimeError):  # killed, or its client closed
                pass
            self.n_resent += 1


def same_as(service: Service, engine: Engine) -> None:
    """Hold that a service has learned what an engine has, to the last bit."""
    model = service.get("/v1/model", hash="true")
    assert model["events"]["admitted"] == engine.n_events
    expected = engine.describe()["versions"]
    for name, version in model["versions"].items():
        assert version["prequential"] == expected[name]["prequential"]
    assert {name: model[name] for name in ("model_hash", "state_hash")} == engine.hashes()


def test_killed_again_and_again(make_service: StartService, offline: Engine) -> None:
    """Kill -9 at random moments, unanswered posts re-sent: the hashes of an uninterrupted run."""
    chance = random.Random(11)
    service = make_service(snapshot_events=300, snapshot_min_s=0, snapshots_keep=2).start()
    poster = Poster(service, EVENTS, 7)
    n_posts = len(poster.batches)
    moments = sorted(chance.sample(range(10, n_posts - 20), 5))
    poster.start()
    restored = 0
    for moment in moments:
        until(lambda least=moment: poster.n_answered >= least)  # type: ignore[misc]
        poster.is_up.clear()
        service.kill()
        service.start()
        restored += "restored snapshot" in service.log
        poster.is_up.set()
    poster.join(60)
    assert poster.n_answered == n_posts
    assert restored >= 2
    learned = sum(answer["counts"]["learned"] for answer in poster.answers)
    assert learned <= offline.n_events
    same_as(service, offline)


def test_a_stop_writes_a_snapshot(make_service: StartService, offline: Engine) -> None:
    """SIGTERM leaves a snapshot of everything; the next start reads it and replays nothing."""
    service = make_service().start()
    service.learn(EVENTS)
    assert service.get("/v1/snapshots")["snapshots"] == []
    service.stop()
    assert "Traceback" not in service.log
    service.start()
    [snapshot] = service.get("/v1/snapshots")["snapshots"]
    assert snapshot["n_events"] == offline.n_events
    assert f"restored snapshot {snapshot['id']} ({offline.n_events} events)" in service.log
    assert service.get("/readyz")["cursor"] == snapshot["id"]
    same_as(service, offline)
    assert service.learn(EVENTS[-500:])["counts"]["learned"] == 0
    same_as(service, offline)


def test_a_start_from_snapshot_and_tail(make_service: StartService, offline: Engine) -> None:
    """A snapshot, and the log after it, are the same as the whole log."""
    service = make_service().start()
    for batch in batches(EVENTS[:2_000], 100):
        service.learn(batch)
    snapshot = service.post("/v1/snapshots")
    for batch in batches(EVENTS[2_000:], 100):
        service.learn(batch)
    service.kill()
    service.start()
    assert f"restored snapshot {snapshot['id']}" in service.log
    same_as(service, offline)


def test_a_stop_keeps_what_was_no_event(make_service: StartService) -> None:
    """A catalogue that came without any feedback is in the last snapshot, too."""
    service = make_service().start()
    assert service.client.put("/v1/items/lamp", json={"categories": ["light"]}).status_code == 200
    service.stop()
    service.start()
    [snapshot] = service.get("/v1/snapshots")["snapshots"]
    assert service.get("/readyz")["cursor"] == snapshot["id"]
    assert service.get("/v1/items/lamp")["categories"] == ["light"]


def test_the_log_is_trimmed_behind_the_oldest_snapshot(make_service: StartService) -> None:
    """What the snapshots kept do not need goes; what is left is enough to start from."""
    service = make_service(snapshots_keep=2).start()
    ids = []
    for batch in batches(EVENTS[:600], 100):
        service.learn(batch)
        ids.append(service.post("/v1/snapshots")["id"])
    hashes = service.hashes()
    listed = service.get("/v1/snapshots")["snapshots"]
    assert [snapshot["id"] for snapshot in listed] == ids[:-3:-1]
    with service.store() as store:
        first: Any = store.xrange("sluice:{default}:log", count=1)
        assert first[0][0].decode() == ids[-2]
        assert len(list(store.scan_iter("sluice:{default}:snapshot:*"))) == 2
    service.kill()
    service.start()
    assert service.hashes() == hashes


def test_no_name_breaks_a_snapshot(make_service: StartService) -> None:
    """Whatever clients call users, items and attributes, a snapshot brings it back as it was."""
    service = make_service().start()
    names = ["$array", "$arrays", "ids", "\\", "\u2028", "__class__", "0", "null"]
    for name in names:
        body = {"attributes": {name: name, "n": 1, "f": 0.1, "b": True, "$array": 0}}
        for kind in ("users", "items"):
            assert service.client.put(f"/v1/{kind}/{quote(name)}", json=body).status_code == 200
        event = {"user_id": name, "item_id": name, "type": "click", "event_id": name}
        assert service.post("/v1/feedback", event)["counts"]["learned"] == 1
    before = service.hashes(), service.get("/v1/items"), service.get("/v1/users/%24array")
    service.stop()
    service.start()
    assert "restored snapshot" in service.log
    assert (service.hashes(), service.get("/v1/items"), service.get("/v1/users/%24array")) == before


def test_snapshots_are_written_by_themselves(make_service: StartService) -> None:
    """Every so many admitted events there is a snapshot, in the background."""
    service = make_service(snapshot_events=100, snapshot_min_s=0).start()
    parts = iter(batches(mixed(4_000), 20))

    def are_two() -> bool:
        service.learn(next(parts))  # while one is being written, the next place is passed by
        return len(service.get("/v1/snapshots")["snapshots"]) >= 2

    until(are_two)


def test_reading_never_writes(make_service: StartService) -> None:
    """Thousands of reads for unknown users leave hashes, sizes and the log as they were."""
    service = make_service().start()
    service.learn(EVENTS[:500])
    before = (service.hashes(), sizes(service))
    client = service.client
    for n in range(1_000):
        assert client.get(f"/v1/recommendations/nobody-{n}").status_code == 200
        assert client.get(f"/v1/items/nothing-{n}/similar").status_code == 404
    body = {"history": [f"nothing-{n}" for n in range(500)], "candidates": ["nothing"]}
    for n in range(100):
        answer = client.post("/v1/recommendations", json=body | {"user_id": f"nobody-{n}"})
        assert answer.status_code == 200
        assert client.get(f"/v1/users/nobody-{n}").status_code == 404
    assert (service.hashes(), sizes(service)) == before


def sizes(service: Service) -> tuple[Any, ...]:
    """Return everything that could grow."""
    model = service.get("/v1/model")
    with service.store() as store:
        length: Any = store.xlen("sluice:{default}:log")
    return model["users"], model["items"], model["cursor"], model["events"]["counts"], length
