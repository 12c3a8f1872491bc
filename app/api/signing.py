"""Where tokens are on: signs what is served, notes it as shown, verifies what comes back."""

from __future__ import annotations

import asyncio
import secrets
from collections import Counter
from collections.abc import Sequence

import msgspec

from app.api.metrics import Metrics
from app.engine import Engine
from app.errors import InvalidRequest
from app.events import VALID, Event, Feedback
from app.impressions import Impressions
from app.recommend import Request
from app.serving import Slate
from app.settings import Settings
from app.tokens import SLATE_ID_BYTES, Tokens
from learners.kernels import MISS

_WRONG = {
    "malformed": "it is none that this service made",
    "signature": "it is not signed with a key of this service",
    "expired": "it is too old",
    "user": "it was made for another user",
    "item": "its slate does not have all of these items",
}
# Verifying yields to other requests this often: one takes 15 to 25 us.
_BATCH = 64


class Signing:
    """Knows the keys; nothing else does."""

    def __init__(self, settings: Settings, impressions: Impressions, metrics: Metrics) -> None:
        max_age_ms = settings.token_max_age_s * 1_000
        self._tokens = Tokens(settings.token_secrets(), settings.namespace, max_age_ms)
        self._impressions = impressions
        self._metrics = metrics

    def recommend(self, engine: Engine, request: Request, now_ms: int) -> tuple[Slate, str]:
        """Return a slate and the token that stands for it."""
        slate_id = secrets.token_urlsafe(SLATE_ID_BYTES)
        slate = engine.recommend(request, slate_id)
        items = engine.history.items
        handles = [items.handle(items.get(scored.item_id)) for scored in slate.items]
        token = self._tokens.mint(slate_id, request.user_id, handles, now_ms, slate.draft)
        self._impressions.note(request, slate, slate_id, now_ms)
        return slate, token

    def verify_shown(
        self, engine: Engine, token: str, user_id: str, items: list[str], now_ms: int
    ) -> tuple[str, bool]:
        """Return a slate's own id, and whether its clicks can be compared with expectations.

        For that the items must be its first ones, as one version ranked them for this user: what
        was made for nobody may be declared under any id, also of one who is trusted. Raises
        InvalidRequest where the token is not ours, or not of this user and these items.
        """
        known = [engine.history.items.get(item) for item in items]
        handles = [None if i == MISS else engine.history.items.handle(i) for i in known]
        reading, places = self._tokens.verify_shown(
            token, user_id=user_id, handles=handles, now_ms=now_ms
        )
        self._metrics.tokens.labels(reading.verdict).inc()
        if reading.verdict != VALID or reading.slate_id is None:
            raise InvalidRequest(f"recommendation_id: {_WRONG[reading.verdict]}")
        is_plain = reading.is_own and not reading.is_drafted
        return reading.slate_id, is_plain and places == list(range(len(items)))

    async def verified(
        self, engine: Engine, events: Sequence[Event], arrival_ms: int
    ) -> list[Event]:
        """Return the events with the verdicts on their tokens in the place of these."""
        found: list[Event] = []
        for start in range(0, len(events), _BATCH):
            batch = events[start : start + _BATCH]
            found += [self._verify(engine, event, arrival_ms) for event in batch]
            if len(events) > _BATCH:
                await asyncio.sleep(0)
        verdicts = Counter(e.token or "none" for e in found if isinstance(e, Feedback))
        for verdict, count in verdicts.items():
            self._metrics.tokens.labels(verdict).inc(count)
        return found

    def _verify(self, engine: Engine, event: Event, arrival_ms: int) -> Event:
        if not isinstance(event, Feedback) or event.recommendation_id is None:
            return event
        index = engine.history.items.get(event.item_id)
        reading = self._tokens.verify(
            event.recommendation_id,
            user_id=event.user_id,
            handle=None if index == MISS else engine.history.items.handle(index),
            now_ms=arrival_ms,
        )
        return msgspec.structs.replace(
            event,
            recommendation_id=reading.slate_id,
            token=reading.verdict,
            draft=reading.draft,
        )
