"""Who else follows this log: every replica says now and then that it is there, and how far.

Nothing depends on it but what people are told, and whether an upgrade would leave anybody behind.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import platform
from dataclasses import dataclass
from typing import Any

import orjson

from app.errors import StoreUnavailable
from app.ingest import Ingest
from app.settings import KNOWN_SEMANTICS

ANNOUNCE_S = 2.0
# A replica that has said nothing for so long is taken for gone.
GONE_S = 10


@dataclass(frozen=True)
class Peer:
    """One replica, as it described itself, and how many seconds ago."""

    name: str
    age_s: float
    about: dict[str, Any]

    def knows(self, semantics: int) -> bool:
        """Tell whether its program can compute a semantics version."""
        return semantics in self.about.get("semantics", ())

    def view(self) -> dict[str, Any]:
        """Return it for operators."""
        return {"name": self.name, "age_s": self.age_s, **self.about}


class Peers:
    """Announces this process, and lists those that have announced themselves."""

    def __init__(self, ingest: Ingest) -> None:
        self._ingest = ingest
        self._name = ingest.origin

    async def run(self) -> None:
        """Announce this process until cancelled; then take it back."""
        try:
            while True:
                with contextlib.suppress(StoreUnavailable):
                    await self._ingest.store.announce(self._name, orjson.dumps(self._about()))
                await asyncio.sleep(ANNOUNCE_S)
        finally:
            with contextlib.suppress(StoreUnavailable):
                await self._ingest.store.withdraw(self._name)

    def _about(self) -> dict[str, Any]:
        ingest = self._ingest
        return {
            "host": platform.node(),
            "pid": os.getpid(),
            "semantics": KNOWN_SEMANTICS,
            "cursor": ingest.engine.cursor,
            "lag_s": round(ingest.lag_s, 3),
            "stopped": None if ingest.stopped is None else ingest.stopped.message,
        }

    async def list(self) -> list[Peer]:
        """Return the replicas that are there, this one among them."""
        found = await self._ingest.store.list_announced()
        peers = [Peer(name, age_s, orjson.loads(about)) for name, age_s, about in found]
        return sorted((p for p in peers if p.age_s <= GONE_S), key=lambda peer: peer.name)
