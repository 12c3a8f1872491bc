"""What the log says, read and replayed without the service: what it has to agree with."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import redis

from app import events
from app.engine import Engine
from app.events import Configure
from app.settings import EngineSettings
from tests.integration.service import Service, until

LOG = "sluice:{default}:log"


class Replayed(NamedTuple):
    """What a fresh engine makes of a log: its hashes, and how often it admitted each event."""

    hashes: dict[str, str]
    admitted: Counter[str]


class Archive:
    """All that was ever in a log: `catch_up` before it is trimmed, and nothing is missed.

    `entries` is what another one has read.
    """

    def __init__(self, url: str, entries: Mapping[str, bytes] = MappingProxyType({})) -> None:
        self.entries = dict(entries)
        self._client: Any = redis.Redis.from_url(url)

    def catch_up(self) -> None:
        """Read what is new."""
        last = next(reversed(self.entries), "0-0")
        while found := self._client.xrange(LOG, f"({last}", "+", count=1_000):
            self.entries |= {cursor.decode(): fields[b"e"] for cursor, fields in found}
            last = found[-1][0].decode()

    def close(self) -> None:
        """Close the connection."""
        self._client.close()


def replay(entries: Mapping[str, bytes]) -> Replayed:
    """Apply a whole log to a fresh engine."""
    first = events.decode(next(iter(entries.values()))).records[0]
    assert isinstance(first, Configure)
    engine = Engine(EngineSettings(**first.settings))
    admitted: Counter[str] = Counter()
    for cursor, payload in entries.items():
        outcome = engine.apply(events.decode(payload), cursor)
        admitted.update(r.event_id for r in outcome.results if r.status == "learned" and r.event_id)
    return Replayed(engine.hashes(), admitted)


def agree(service: Service, archive: Archive, acknowledged: Iterable[str]) -> Replayed:
    """Hold that each acknowledged event was admitted exactly once, and that the service is where an
    offline replay of the log gets.
    """
    replayed, hashes = compare(service, archive)
    missing = [event_id for event_id in acknowledged if not replayed.admitted[event_id]]
    assert missing == []
    twice = {event_id: n for event_id, n in replayed.admitted.items() if n > 1}
    assert twice == {}
    assert hashes == replayed.hashes
    assert service.get("/v1/model")["events"]["admitted"] == len(replayed.admitted)
    return replayed


def compare(service: Service, archive: Archive) -> tuple[Replayed, dict[str, str]]:
    """Return what a replay makes of the log, and the service's hashes at the same place."""

    def has_all() -> bool:
        archive.catch_up()
        return bool(service.get("/readyz")["cursor"] == next(reversed(archive.entries)))

    while True:
        until(has_all, within_s=60)
        n_entries = len(archive.entries)
        found = replay(archive.entries), service.hashes()
        # A request that nobody waits for any more may still have been on its way.
        archive.catch_up()
        if len(archive.entries) == n_entries:
            return found


def begin(service: Service, url: str) -> dict[str, bytes]:
    """Write a first snapshot and return the entries before it: what is trimmed from now on.

    As long as that snapshot is kept, which SNAPSHOTS_KEEP must see to, all the rest is in the log.
    """
    service.post("/v1/feedback", {"user_id": "u0", "item_id": "i0", "type": "click"})
    archive = Archive(url)
    archive.catch_up()
    archive.close()
    service.post("/v1/snapshots")
    return archive.entries


def check(
    service: Service,
    url: str,
    acknowledged: Iterable[str],
    before: Mapping[str, bytes] = MappingProxyType({}),
) -> Replayed:
    """Hold what `agree` does, of the log as it is now, and what was trimmed from it at first."""
    archive = Archive(url, before)
    try:
        return agree(service, archive, acknowledged)
    finally:
        archive.close()
