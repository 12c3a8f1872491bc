"""The store stops, dies, or forgets, under load."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import httpx
import pytest

from tests.integration.service import Service, error_of, until

StartService = Callable[..., Service]


class Load(threading.Thread):
    """Posts one event after the other, never the same twice, and keeps every answer."""

    def __init__(self, service: Service, name: str) -> None:
        super().__init__(daemon=True)
        self.service, self.id = service, name
        self.client = httpx.Client(base_url=service.url, trust_env=False, timeout=30)
        self.acknowledged: list[str] = []
        self.refused: list[tuple[float, httpx.Response]] = []
        self.failures: list[str] = []
        self.is_over = threading.Event()

    def run(self) -> None:
        """Post until told to stop."""
        n = 0
        while not self.is_over.is_set():
            n += 1
            event_id = f"{self.id}-{n}"
            body = {
                "event_id": event_id,
                "user_id": f"{self.id}-u{n % 9}",
                "item_id": f"i{n % 50}",
                "type": "click",
            }
            begin = time.monotonic()
            try:
                answer = self.client.post("/v1/feedback", json=body)
            except httpx.HTTPError as error:
                self.failures.append(repr(error))
                continue
            if answer.status_code == 200:
                self.acknowledged.append(event_id)
            else:
                self.refused.append((time.monotonic() - begin, answer))


@contextmanager
def load(service: Service, n: int) -> Iterator[list[Load]]:
    """Post from n clients at a time."""
    posters = [Load(service, f"load-{i}") for i in range(n)]
    for poster in posters:
        poster.start()
    try:
        yield posters
    finally:
        for poster in posters:
            poster.is_over.set()
        for poster in posters:
            poster.join(30)
            assert not poster.is_alive()
            poster.client.close()


def all_there(service: Service, posters: list[Load]) -> None:
    """Hold that every acknowledged event was learned, once."""
    ids = [event_id for poster in posters for event_id in poster.acknowledged]
    event = {"user_id": "check", "item_id": "check", "type": "click"}
    for start in range(0, len(ids), 5_000):
        body = [event | {"event_id": event_id} for event_id in ids[start : start + 5_000]]
        counts = service.post("/v1/feedback", body)["counts"]
        assert counts == {"learned": 0, "duplicate": len(body), "late": 0, "quarantined": 0}


def reads_degrade(service: Service) -> None:
    """Hold what reads promise without a store."""

    def is_degraded() -> bool:
        begin = time.monotonic()
        answer = service.client.get("/v1/recommendations/load-0-u1")
        assert answer.status_code == 200
        assert time.monotonic() - begin < 1
        assert answer.json()["items"]
        reason = answer.json()["degraded"]
        assert reason == answer.headers.get("X-Degraded")
        assert reason in (None, "store_unavailable")
        return reason is not None

    until(is_degraded)
    for path in ("/v1/trending", "/v1/items/i1/similar"):
        assert service.get(path)["degraded"] == "store_unavailable"
    ready = service.get("/readyz")
    assert (ready["status"], ready["store"]) == ("ready", "unavailable")
    assert service.counter("sluice_store_up") == 0
    assert service.get("/v1/users/load-0-u1/history")["events"]
    for path in ("/v1/snapshots", "/v1/quarantine"):
        assert "Retry-After" in refused(service.client.get(path))
    assert "Retry-After" in refused(service.client.post("/v1/snapshots"))


def refused(answer: httpx.Response) -> httpx.Headers:
    """Hold that an answer is a 503 that can be tried again; return its headers."""
    assert error_of(answer, 503)["code"] == "store_unavailable"
    return answer.headers


def is_normal(service: Service) -> bool:
    """Tell whether reads are whole again."""
    return service.get("/v1/trending")["degraded"] is None


def test_a_store_that_stands_still(make_service: StartService) -> None:
    """Stopped under load: reads go on and say so, posts are refused soon; then all is well."""
    service = make_service().start()
    with load(service, 3) as posters:
        until(lambda: all(len(p.acknowledged) > 20 for p in posters))
        pid = service.store_pid()
        os.kill(pid, signal.SIGSTOP)
        try:
            until(lambda: all(len(p.refused) > 3 for p in posters))
            reads_degrade(service)
        finally:
            os.kill(pid, signal.SIGCONT)
        until(lambda: is_normal(service))
        n_before = [len(p.acknowledged) for p in posters]
        until(lambda: all(len(p.acknowledged) > n + 20 for p, n in zip(posters, n_before)))
    for poster in posters:
        assert poster.failures == []
        # The first wait for the store's timeout (1 s here), once; then the answer is at once.
        assert sum(took > 1 for took, _ in poster.refused) <= 2
        assert max(took for took, _ in poster.refused) < 4
        for _, answer in poster.refused:
            assert int(refused(answer)["Retry-After"]) >= 1
    all_there(service, posters)
    hashes = service.hashes()
    service.kill()
    service.start()
    assert service.get("/v1/model")["events"]["admitted"] > 0
    assert service.hashes() == hashes


def test_a_store_that_dies(make_service: StartService) -> None:
    """Killed under load, the embedded store is started again; every acknowledged event is there."""
    service = make_service().start()
    with load(service, 3) as posters:
        for _ in range(3):
            n_before = [len(p.acknowledged) for p in posters]
            until(lambda b=n_before: all(len(p.acknowledged) > n + 20 for p, n in zip(posters, b)))  # type: ignore[misc]
            pid = service.store_pid()
            os.kill(pid, signal.SIGKILL)
            until(lambda old=pid: is_back(service, old))  # type: ignore[misc]
        n_before = [len(p.acknowledged) for p in posters]
        until(lambda: all(len(p.acknowledged) > n + 20 for p, n in zip(posters, n_before)))
    assert sum(len(p.refused) for p in posters) > 0
    for poster in posters:
        assert poster.failures == []
        for _, answer in poster.refused:
            refused(answer)
    assert "starting it again" in service.log
    assert service.get("/readyz")["status"] == "ready"
    all_there(service, posters)
    hashes = service.hashes()
    service.stop()
    service.start()
    assert service.hashes() == hashes


@pytest.mark.parametrize("n_bytes_more", [0, 40])
def test_a_store_that_forgets_its_end(make_service: StartService, n_bytes_more: int) -> None:
    """What a dead store had answered but not written out is given back: nothing acknowledged goes.

    At everysec a server may answer before the file has it: so its last entries are cut off, once
    between two and once in the middle of one.
    """
    service = make_service().start()
    events = [
        {"event_id": f"e{n}", "user_id": f"u{n % 3}", "item_id": f"i{n}", "type": "click"}
        for n in range(12)
    ]
    for event in events:
        service.post("/v1/feedback", event)
    hashes, old = service.hashes(), service.store_pid()
    [file] = (service.folder / "data").rglob("appendonlydir/*.incr.aof")
    until(lambda: b"e11" in file.read_bytes())
    assert service.pid is not None
    os.kill(service.pid, signal.SIGSTOP)
    os.kill(old, signal.SIGKILL)
    written = file.read_bytes()
    cut = len(written)
    for _ in range(4):
        cut = written.rindex(b"$4\r\nXADD", 0, cut)
    os.truncate(file, written.rindex(b"*", 0, cut) + n_bytes_more)
    os.kill(service.pid, signal.SIGCONT)
    until(lambda: is_back(service, old))
    until(lambda: is_normal(service))
    assert "written again from memory" in service.log
    answer = service.post("/v1/feedback", events)
    assert answer["counts"] == {"learned": 0, "duplicate": 12, "late": 0, "quarantined": 0}
    assert service.hashes() == hashes
    service.kill()
    service.start()
    assert service.hashes() == hashes
    assert service.get("/v1/model")["events"]["admitted"] == 12


def is_back(service: Service, old_pid: int) -> bool:
    """Tell whether another store answers."""
    import redis

    try:
        return service.store_pid() != old_pid
    except redis.RedisError:
        return False


def test_a_post_during_a_stop_is_refused_or_there(make_service: StartService) -> None:
    """What was refused with 503 may be there or not; sent again with its id, it is there once."""
    service = make_service().start()
    service.post("/v1/feedback", {"user_id": "u", "item_id": "i", "type": "click"})
    pid = service.store_pid()
    os.kill(pid, signal.SIGSTOP)
    body = [
        {"event_id": f"e{n}", "user_id": "u", "item_id": f"i{n}", "type": "click"} for n in range(9)
    ]
    try:
        refused(service.client.post("/v1/feedback", json=body))
        refused(service.client.post("/v1/feedback", json=body, params={"ack": "log"}))
        refused(service.client.put("/v1/items/i", json={}))
        refused(service.client.post("/v1/model/freeze", json={"reason": "a test asks"}))
    finally:
        os.kill(pid, signal.SIGCONT)
    until(lambda: is_normal(service))
    counts = service.post("/v1/feedback", body)["counts"]
    assert counts["learned"] + counts["duplicate"] == 9
    assert service.get("/v1/users/u")["n_events"] == 10
    assert service.get("/v1/model")["events"]["admitted"] == 10


@pytest.mark.parametrize("how", [{}, {"budget_learning": 0.5}], ids=str)
def test_a_post_waits_no_longer_than_it_may(
    make_service: StartService, how: dict[str, object]
) -> None:
    """Who waits for a store that is given more time is answered when its own time is up."""
    service = make_service(store_timeout_s=15, feedback_timeout_s=1, **how).start()
    event = {"user_id": "u", "item_id": "i", "type": "click"}
    service.post("/v1/feedback", event)
    pid = service.store_pid()
    os.kill(pid, signal.SIGSTOP)
    begin = time.monotonic()
    try:
        refused(service.client.post("/v1/feedback", json=event))
        assert time.monotonic() - begin < 8
    finally:
        os.kill(pid, signal.SIGCONT)


def test_a_stop_without_a_store_ends(make_service: StartService) -> None:
    """SIGTERM while the store stands still ends the service in bounded time, and its store too."""
    service = make_service().start()
    service.post("/v1/feedback", {"user_id": "u", "item_id": "i", "type": "click"})
    hashes = service.hashes()
    pid = service.store_pid()
    os.kill(pid, signal.SIGSTOP)
    begin = time.monotonic()
    service.stop()
    assert time.monotonic() - begin < 30
    service.start()
    assert service.hashes() == hashes


def test_a_full_store_refuses_and_forgets_nothing(make_service: StartService) -> None:
    """Out of memory the store refuses: posts are 503, nothing is evicted, memory heals it."""
    service = make_service().start()
    service.post("/v1/feedback", {"user_id": "u", "item_id": "i", "type": "click"})
    hashes = service.hashes()
    with service.store() as store:
        length: Any = store.xlen("sluice:{default}:log")
        store.config_set("maxmemory", "1")
        event = {"event_id": "full", "user_id": "u", "item_id": "j", "type": "click"}
        refused(service.client.post("/v1/feedback", json=event))
        assert service.get("/v1/recommendations/u")["items"] is not None
        assert store.xlen("sluice:{default}:log") == length
        store.config_set("maxmemory", "0")
    until(lambda: is_normal(service))
    assert service.hashes() == hashes
    until(lambda: service.client.post("/v1/feedback", json=event).status_code == 200)
    assert service.get("/v1/users/u")["n_events"] == 2


@pytest.mark.parametrize("n_kept", [0, 1])
def test_a_log_that_lost_its_end_is_followed(make_service: StartService, n_kept: int) -> None:
    """After a failover that lost entries, what is left is what counts: here and after a start."""
    service = make_service().start()
    cursors = [
        service.post("/v1/feedback", {"user_id": "u", "item_id": f"i{n}", "type": "click"})[
            "cursor"
        ]
        for n in range(4)
    ]
    if n_kept:
        service.post("/v1/snapshots")
    pid = service.store_pid()
    with service.store() as store:
        last = cursors.pop()
        if n_kept:
            cursors.append(last)
            last = service.post("/v1/feedback", {"user_id": "u", "item_id": "k", "type": "click"})[
                "cursor"
            ]
        store.xdel("sluice:{default}:log", last)
        os.kill(pid, signal.SIGSTOP)
        until(lambda: not is_normal(service))
        os.kill(pid, signal.SIGCONT)
    until(lambda: service.get("/readyz")["cursor"] == cursors[-1])
    until(lambda: is_normal(service))
    assert service.get("/v1/users/u")["n_events"] == len(cursors)
    hashes = service.hashes()
    service.kill()
    service.start()
    assert service.hashes() == hashes
