"""Clocks that jump: the store's, which numbers the log, and a service's, which dates events."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from typing import Any

from app import events
from app.events import Entry, Feedback
from tests.faults.log import LOG, begin, check
from tests.faults.posters import posting
from tests.faults.servers import free_port
from tests.integration.service import Service, until

StartService = Callable[..., Service]
HOUR_MS = 3_600_000


def append_by_hand(service: Service, cursor: str, event_id: str, *, arrival_ms: int) -> None:
    """Append an entry as a service with another clock would, or at a time of another store."""
    entry = Entry([Feedback(event_id, "u-clock", "i-clock", "click")], arrival_ms)
    with service.store() as store:
        store.xadd(LOG, {"e": events.encode(entry), "t": ""}, id=cursor)
    until(lambda: is_applied(service, event_id))


def is_applied(service: Service, event_id: str) -> bool:
    """Tell whether an event has been admitted."""
    event = {"event_id": event_id, "user_id": "u-clock", "item_id": "i-clock", "type": "click"}
    counts: Any = service.post("/v1/feedback", event)["counts"]
    return bool(counts["duplicate"] == 1)


def test_a_clock_of_the_store_that_was_ahead(make_service: StartService) -> None:
    """Set back by an hour, the store numbers on from its last entry: nothing waits, nothing goes.

    Snapshots, restarts, and a store that dies work on such cursors, too.
    """
    settings = {"snapshot_events": 50, "snapshot_min_s": 0, "snapshots_keep": 1_000}
    service = make_service(port=free_port(), **settings).start()
    before = begin(service, service.store_url)
    ahead = f"{time.time_ns() // 1_000_000 + HOUR_MS}-7"
    with posting(service.url, 3) as posters:
        posters.wait_until_heard()
        append_by_hand(service, ahead, "ahead", arrival_ms=time.time_ns() // 1_000_000)
        posters.wait_until_heard(n=30)
        old = service.store_pid()
        os.kill(old, signal.SIGKILL)
        posters.wait_until_heard()
        service.kill()
        service.start()
        posters.wait_until_heard()
    check(service, service.store_url, [*posters.acknowledged, "ahead"], before)
    assert service.get("/readyz")["cursor"].startswith(ahead.partition("-")[0])


def test_a_clock_of_a_service_that_was_ahead(make_service: StartService) -> None:
    """An event dated ten days ahead by the service that took it makes all others late, in the open.

    It replays the same.
    """
    service = make_service().start()
    arrival_ms = time.time_ns() // 1_000_000 + 240 * HOUR_MS
    append_by_hand(service, "*", "ahead", arrival_ms=arrival_ms)
    event = {"event_id": "now", "user_id": "u", "item_id": "i", "type": "click"}
    [result] = service.post("/v1/feedback", event)["results"]
    assert result["status"] == "late"
    check(service, service.store_url, ["ahead"])
    service.kill()
    service.start()
    check(service, service.store_url, ["ahead"])
