"""Looks now and then at the rules in force, and says which match nothing or fight.

Each warning is logged once for a set of rules; how many there are is a metric.
"""

from __future__ import annotations

import asyncio
import logging
import time

from app.conflicts import Examined, examine
from app.ingest import Ingest
from app.rulebook import Rulebook

logger = logging.getLogger(__name__)

POLL_S = 1.0
# The catalogue changes, and with it what rules match; to look takes half a second for a million
# items, a millisecond at a time.
AGAIN_S = 600.0


class RuleWatch:
    """What there is to know of the rules in force, as of the last look at them."""

    def __init__(self, ingest: Ingest) -> None:
        self._ingest = ingest
        self._seen: Rulebook | None = None
        self._looked_s = 0.0
        self._said: set[str] = set()
        self.n_warnings = 0

    async def run(self) -> None:
        """Look at new rules at once, and at old ones again, until cancelled."""
        while True:
            book = self._ingest.engine.rulebook
            is_due = time.monotonic() - self._looked_s > AGAIN_S
            if book is None:
                self._note(None, [])
            elif book is not self._seen or is_due:
                await self.look(book)
            await asyncio.sleep(POLL_S)

    async def look(self, book: Rulebook) -> Examined:
        """Return what there is to know of some rules; log it, if they are in force."""
        looking = examine(book, self._ingest.engine.admission.watermark_ms)
        found = next(looking)
        while found is None:
            await asyncio.sleep(0)
            found = next(looking)
        if book is self._ingest.engine.rulebook:
            self._note(book, [warning.message for warning in found.warnings])
        return found

    def _note(self, book: Rulebook | None, messages: list[str]) -> None:
        if book is not self._seen:
            self._said.clear()
        self._seen, self._looked_s, self.n_warnings = book, time.monotonic(), len(messages)
        for message in messages:
            if message not in self._said:
                self._said.add(message)
                logger.warning("rules: %s", message)
