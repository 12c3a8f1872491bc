"""The store's primary dies or is replaced, under load: reads never fail, writes wait and go on."""

from __future__ import annotations

import itertools
import logging
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.integration.conftest import redis_server, valkey_server
from tests.integration.service import Service, error_of, until
from tests.integration.stores import Address, address, cluster, watched

__all__ = ["redis_server", "valkey_server"]

logger = logging.getLogger(__name__)

StartService = Callable[..., Service]
KEY = "sluice:{default}:log"
# Half of what a POST may wait for what became of it: none does, as what is lost is written anew.
_NOBODY_WAITS_S = 15.0
# So that whatever is acknowledged is learned, and known again.
NO_CAPS = {"cap_user": 0, "cap_user_item": 0, "id_share": 1}


class Traffic:
    """Events posted to a service, and requests for what it recommends, for as long as it runs."""

    def __init__(self, service: Service, name: str) -> None:
        self.service, self.name = service, name
        self.acknowledged: list[str] = []
        self.n_reads = 0
        self.outage_s = 0.0  # the longest time between two answers that acknowledge
        self.failures: list[str] = []
        self.is_over = threading.Event()
        self._threads = [
            threading.Thread(target=run, daemon=True) for run in (self._post, self._get)
        ]

    def start(self) -> None:
        """Begin."""
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """End, and hold that nothing failed that may not."""
        self.is_over.set()
        for thread in self._threads:
            thread.join(30)
            assert not thread.is_alive()
        assert self.failures == []
        assert self.n_reads > 0

    def _post(self) -> None:
        with httpx.Client(base_url=self.service.url, trust_env=False, timeout=30) as client:
            last = time.monotonic()
            for n in itertools.count():
                if self.is_over.is_set():
                    return
                event = _event(f"{self.name}-{n}")
                try:
                    answer = client.post("/v1/feedback", json=event)
                    if answer.status_code == 200:
                        self.acknowledged.append(event["event_id"])
                        now = time.monotonic()
                        self.outage_s, last = max(self.outage_s, now - last), now
                    else:
                        refused(answer)
                except (httpx.HTTPError, AssertionError) as error:
                    self.failures.append(f"POST {error!r}")
                self.is_over.wait(0.002)

    def _get(self) -> None:
        with httpx.Client(base_url=self.service.url, trust_env=False, timeout=30) as client:
            while not self.is_over.is_set():
                try:
                    answer = client.get("/v1/recommendations/u1")
                    if answer.status_code != 200 or not answer.json()["items"]:
                        self.failures.append(f"GET {answer.status_code} {answer.text[:200]}")
                    self.n_reads += 1
                except httpx.HTTPError as error:
                    self.failures.append(f"GET {error!r}")
                self.is_over.wait(0.005)


def _event(event_id: str) -> dict[str, Any]:
    number = sum(event_id.encode())
    return {
        "event_id": event_id,
        "user_id": f"u{number % 9}",
        "item_id": f"i{number % 50}",
        "type": "click",
    }


def refused(answer: httpx.Response) -> None:
    """Hold that an answer is a 503 that can be tried again."""
    assert error_of(answer, 503)["code"] == "store_unavailable"
    assert int(answer.headers["Retry-After"]) >= 1


@contextmanager
def traffic(services: list[Service]) -> Iterator[list[Traffic]]:
    """Keep services busy."""
    for service in services:
        service.post(
            "/v1/feedback", [_event(f"first-{service.folder.name}-{n}") for n in range(60)]
        )
    all_of_it = [Traffic(service, service.folder.name) for service in services]
    for one in all_of_it:
        one.start()
    try:
        yield all_of_it
    finally:
        for one in all_of_it:
            one.is_over.set()
    for one in all_of_it:
        one.stop()


def goes_on(all_of_it: list[Traffic]) -> None:
    """Wait until each service acknowledges again."""
    before = [len(one.acknowledged) for one in all_of_it]
    until(
        lambda: all(len(o.acknowledged) > n + 20 for o, n in zip(all_of_it, before, strict=True)),
        within_s=40,
    )


def agree(services: list[Service]) -> None:
    """Hold that services on one log have come to the same bytes, once all of them write again."""
    until(lambda: all(service.get("/readyz")["store"] == "up" for service in services))
    last = services[0].post("/v1/feedback", _event("the very last"))["cursor"]
    query = {"min_cursor": last, "deadline_ms": 10_000}
    for service in services:
        assert service.get("/v1/recommendations/u1", **query)["degraded"] is None
    first, *others = [service.hashes() for service in services]
    assert all(other == first for other in others)


def count(service: Service, ids: list[str]) -> dict[str, int]:
    """Post events until they are acknowledged; return what became of them."""
    body = [_event(event_id) for event_id in ids]
    answer = until(lambda: _taken(service.client.post("/v1/feedback", json=body)))
    counts: dict[str, int] = answer["counts"]
    return {name: n for name, n in counts.items() if n}


def _taken(answer: httpx.Response) -> Any:
    return answer.json() if answer.is_success else None


def lost_by(service: Service) -> float:
    """Return how many entries a service says that the log has lost."""
    return service.counter("sluice_log_lost_entries_total")


def restored_by(service: Service) -> float:
    """Return how many entries a service says that it gave back."""
    return service.counter("sluice_log_restored_entries_total")


def two(make_service: StartService, url: str) -> list[Service]:
    """Start two services on a store."""
    made = [make_service(name, redis_url=url, **NO_CAPS) for name in ("one", "two")]
    for service in made:
        service.launch()
    for service in made:
        until(service.is_ready, within_s=60)
    return made


def rides_through(services: list[Service], fail: Callable[[], object]) -> list[Traffic]:
    """Hold that a failure of the primary costs nothing but a pause of the writes."""
    with traffic(services) as all_of_it:
        goes_on(all_of_it)
        fail()
        # Not until a POST is refused: one that is on its way may be written, given back, answered.
        until(lambda: all("is another server" in s.log for s in services), within_s=40)
        goes_on(all_of_it)
    agree(services)
    for one in all_of_it:
        # The tails gave back what the copy had not got: nothing acknowledged is gone.
        assert count(services[0], one.acknowledged[-5_000:]).keys() == {"duplicate"}
    assert [lost_by(service) for service in services] == [0, 0]
    for one in all_of_it:  # shown with --log-cli-level=info
        assert one.outage_s < _NOBODY_WAITS_S
        logger.info("posts failed for %.1f s, none of %d gets", one.outage_s, one.n_reads)
    return all_of_it


def test_sentinels_replace_the_primary(make_service: StartService, valkey_server: Path) -> None:
    """Killed under load, the primary is replaced, and both replicas go on without a restart."""
    with watched(valkey_server, "--appendonly", "yes") as store:
        rides_through(two(make_service, store.url), store.kill_primary)


def test_who_starts_without_a_primary(make_service: StartService, valkey_server: Path) -> None:
    """A replica that starts while there is no primary says what it waits for, and comes up."""
    with watched(valkey_server, "--appendonly", "yes") as store:
        first = make_service("first", redis_url=store.url, **NO_CAPS).start()
        count(first, ids("early"))
        for sentinel in store.sentinels[1:]:  # the one that is left cannot replace it
            sentinel.signal(signal.SIGSTOP)
        store.kill_primary()
        second = make_service("second", redis_url=store.url, **NO_CAPS)
        second.launch()
        until(lambda: "waiting up to 60 s for a primary" in second.log)
        for sentinel in store.sentinels[1:]:
            sentinel.signal(signal.SIGCONT)
        until(second.is_ready, within_s=60)
        agree([first, second])


def test_a_planned_failover(make_service: StartService, redis_server: Path) -> None:
    """A primary that is made a copy, and still takes connections, is left for the new one."""
    with watched(redis_server, "--appendonly", "yes") as store:
        services = two(make_service, store.url)
        rides_through(services, store.replace_primary)


def test_a_cluster_replaces_the_primary(make_service: StartService, redis_server: Path) -> None:
    """Killed under load, the node of a cluster that has the log's slot is replaced."""
    with cluster(redis_server, "--appendonly", "yes") as store:
        services = two(make_service, store.url)
        rides_through(services, lambda: store.primary_of(KEY).signal(signal.SIGKILL))


def signal_to(service: Service, how: signal.Signals) -> None:
    """Stop a service, or let it go on."""
    assert service.pid is not None
    os.kill(service.pid, how)


def ids(name: str, n: int = 5) -> list[str]:
    """Return new event ids."""
    return [f"{name}-{i}" for i in range(n)]


def post_until_taken(service: Service, event_id: str) -> None:
    """Post one event again and again, under its id, until it is acknowledged."""
    until(lambda: service.client.post("/v1/feedback", json=_event(event_id)).is_success)


@pytest.fixture
def stale(valkey_server: Path) -> Iterator[Address]:
    """A primary with a copy that is about to fall behind."""
    with address(valkey_server, "--appendonly", "yes") as store:
        yield store


def test_what_a_copy_lacks_is_given_back(make_service: StartService, stale: Address) -> None:
    """What a failover lost, the services write again: the log has every acknowledged event."""
    services = two(make_service, stale.url)
    count(services[0], ids("early"))
    stale.part()
    for event_id in ids("late"):
        count(services[0], [event_id])
    agree(services)
    stale.fail()
    stale.take_over()
    post_until_taken(services[1], "new")
    assert count(services[0], [*ids("early"), *ids("late"), "new"]) == {"duplicate": 11}
    agree(services)
    assert sum(restored_by(service) for service in services) == 6
    assert sum(lost_by(service) for service in services) == 0


def test_who_has_read_less_waits(make_service: StartService, stale: Address) -> None:
    """One that had not read the newest entries lets the other give them back before it writes."""
    one, two_ = two(make_service, stale.url)
    count(one, ids("early"))
    agree([one, two_])
    stale.part()
    signal_to(two_, signal.SIGSTOP)
    for event_id in ids("late"):
        count(one, [event_id])
    stale.fail()
    signal_to(two_, signal.SIGCONT)
    stale.take_over()
    post_until_taken(two_, "new")
    assert count(two_, [*ids("early"), *ids("late"), "new"]) == {"duplicate": 11}
    agree([one, two_])
    assert restored_by(one) + restored_by(two_) == 5
    assert restored_by(one) >= 4  # a stopped process may still find the first one in its socket
    assert (lost_by(one), lost_by(two_)) == (0, 0)


@pytest.mark.parametrize("has_snapshot", [False, True])
def test_what_is_lost_is_said(
    make_service: StartService, stale: Address, has_snapshot: bool
) -> None:
    """Where the log went on without entries that only one had, that one says so and follows it.

    Even with a snapshot at hand that was made of what is lost.
    """
    one, two_ = two(make_service, stale.url)
    count(one, ids("early"))
    agree([one, two_])
    stale.part()
    signal_to(two_, signal.SIGSTOP)
    for event_id in ids("late"):
        count(one, [event_id])
    lost_snapshot = one.post("/v1/snapshots")["id"]
    kept = stale.primary.client.hgetall("sluice:{default}:snapshots")
    signal_to(one, signal.SIGSTOP)
    stale.fail()
    stale.take_over()
    if has_snapshot:
        stale.nodes[-1].client.hset("sluice:{default}:snapshots", mapping=kept)
    signal_to(two_, signal.SIGCONT)
    post_until_taken(two_, "new")
    signal_to(one, signal.SIGCONT)
    # A stopped process may still find the first one in its socket, and then gives it back.
    until(lambda: lost_by(one) + restored_by(two_) == 5)
    assert f"the log has lost {lost_by(one):.0f} entries" in one.log
    assert (
        f"snapshot {lost_snapshot}: the log does not have its last entry" in one.log
    ) == has_snapshot
    until(lambda: one.counter("sluice_store_up") == 1)
    agree([one, two_])
    assert (lost_by(two_), restored_by(one)) == (0, 0)
    assert lost_by(one) >= 4
    assert count(one, ids("late"))["learned"] == lost_by(one)
    agree([one, two_])
