"""What was shown, on its way into the log: a bounded, lossy buffer, a while behind.

Owns no truth: a slate that is dropped here is only one that the gate does not see. Noting a slate
does no I/O, so that a read stays a read.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import OrderedDict

from app.errors import SluiceError, StoreUnavailable, TooManyRequests
from app.events import Impression
from app.exploration import explored_places
from app.ingest import Ingest
from app.recommend import Request
from app.serving import Slate, is_chosen
from app.settings import Settings

logger = logging.getLogger(__name__)

# Some 20 MB of slates of 20.
MAX_BUFFERED = 10_000
# As many as events in one POST would keep every other entry waiting; these take milliseconds.
MAX_RECORDS = 1_000
# Nobody is known to look further, and a slate of 200 would be ten times as much log.
MAX_ITEMS = 20
APPEND_S = 1.0


class Impressions:
    """Holds slates of known users until their answers have had time to come, then logs them once.

    What finds no room, or cannot be sent at the first try, is dropped and counted.
    """

    def __init__(self, ingest: Ingest, settings: Settings) -> None:
        self.n_buffered = 0
        self.n_dropped = 0
        self.n_appended = 0
        self.n_strangers = 0
        self._ingest = ingest
        self._share = settings.impression_share
        self._wait_ms = round(settings.impression_wait_s * 1_000)
        # By slate and user, the oldest first.
        self._buffer: OrderedDict[tuple[str, str], Impression] = OrderedDict()

    def note(self, request: Request, slate: Slate, slate_id: str, time_ms: int) -> None:
        """Keep a slate, if it is one that a known user was shown by one version as it would be."""
        user_id = request.user_id
        if user_id is None or not slate.items or not _is_plain(request, slate):
            return
        if not self._ingest.is_store_up:
            return
        if user_id not in self._ingest.engine.history.users:
            self.n_strangers += 1
            return
        if not is_chosen(slate_id, self._share, "impression"):
            return
        # The newest has to go: dropping the oldest, a flood would let none become due.
        if len(self._buffer) >= MAX_BUFFERED:
            self.n_dropped += 1
            return
        shown = slate.items[:MAX_ITEMS]
        items, scores = [scored.item_id for scored in shown], [scored.score for scored in shown]
        likely, explored = [scored.propensity for scored in shown], explored_places(shown)
        self._buffer[slate_id, user_id] = Impression(
            slate_id, user_id, items, scores, time_ms, likely, explored
        )
        self.n_buffered += 1

    def declare(self, impression: Impression) -> None:
        """Keep what a client says that it showed, in the place of what is kept of the slate so far.

        Raises TooManyRequests where there is no room, and StoreUnavailable while nothing is logged.
        """
        if not self._ingest.is_store_up:
            raise StoreUnavailable("the log cannot be written now: try again")
        key = impression.recommendation_id, impression.user_id
        if self._buffer.pop(key, None) is None and len(self._buffer) >= MAX_BUFFERED:
            self.n_dropped += 1
            raise TooManyRequests(f"{MAX_BUFFERED} slates wait to be logged, which is the most")
        self._buffer[key] = impression
        self.n_buffered += 1

    async def run(self) -> None:
        """Append what is due, once a second, until cancelled."""
        while True:
            await asyncio.sleep(APPEND_S)
            await self.append_due(time.time_ns() // 1_000_000)

    async def append_due(self, now_ms: int) -> None:
        """Append what has waited long enough, as one entry of at most `MAX_RECORDS`."""
        if not self._ingest.is_store_up:  # nor could their answers come in
            self.n_dropped += len(self._buffer)
            self._buffer.clear()
            return
        due = self._take_due(now_ms)
        if not due:
            return
        try:
            await self._ingest.submit_only(due, arrival_ms=now_ms)
        except SluiceError as error:  # they may be in the log all the same: never a second try
            self.n_dropped += len(due)
            logger.warning("%d impressions could not be logged (%s): dropped", len(due), error.code)
        else:
            self.n_appended += len(due)

    def _take_due(self, now_ms: int) -> list[Impression]:
        due: list[Impression] = []
        users = self._ingest.engine.history.users
        while self._buffer and len(due) < MAX_RECORDS:
            key, impression = next(iter(self._buffer.items()))
            if impression.time_ms + self._wait_ms > now_ms:
                break
            del self._buffer[key]
            if impression.user_id in users:
                due.append(impression)
            else:  # forgotten meanwhile: not to be named again
                self.n_dropped += 1
        return due


def _is_plain(request: Request, slate: Slate) -> bool:
    """Tell whether a slate is one user's own, of one version, and taken for shown."""
    is_own = request.history is None and request.candidates is None
    is_shown = not (request.explain or request.is_declared)
    return is_own and is_shown and slate.draft is None
