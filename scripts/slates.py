"""Slates of our own log, and what other policies would have shown in their place.

The log is read twice: first for the slates (an impression is logged when its answers have had time
to come), then to ask each policy, of the state when a slate was served: before its answers were
learned.
"""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from app import events
from app.engine import Engine, begun
from app.errors import InvalidRequest
from app.events import Command, Configure, Entry, Impression
from app.past import Past
from app.recommend import Request
from app.settings import EngineSettings
from app.store import BEGINNING, Cursor, parse_cursor
from learners.base import ANCHOR, CHAMPION, SHADOW
from scripts.off_policy import I64, Lists, Logged, Target, Uniform

POLICIES = ("served", "champion", "shadow", "anchor", "challenger", "random")
"""Whom to ask; `served` is the version that was, with nothing explored."""
VERSIONS = {"shadow": SHADOW, "champion": CHAMPION, "anchor": ANCHOR}
NOTHING = -1
"""In the place of an item: the list was shorter."""

OnCursor = Callable[[str, Cursor], None]
"""Told what is being done, and how far in the log it is."""


@dataclass(frozen=True)
class Slates:
    """What was shown, what two policies would have shown, and how many could not be used, by why.

    `served` is the version that was served, with nothing explored: what a target is compared with.
    """

    logged: Logged
    target: Target
    served: Target
    unusable: dict[str, int]
    since: Cursor
    until: Cursor


async def replayed_slates(
    past: Past,
    until: Cursor,
    policy: str,
    changes: dict[str, Any] | None = None,
    on_cursor: OnCursor = lambda what, cursor: None,
) -> Slates:
    """Ask a policy for the slates of a log, from the oldest state that is kept until a cursor.

    With `changes` it is that of an engine which has these settings from the beginning on. Raises
    InvalidRequest where nothing can be estimated, and says what to turn on.
    """
    since = await past.oldest(until)
    if since is None:
        raise InvalidRequest("the log is empty: nothing was ever shown")
    if changes is not None and since != BEGINNING:
        raise InvalidRequest(
            "other settings are tried from the beginning of the log on, and that is not kept"
            " (SLUICE_ARCHIVE_DIR keeps it): ask for a version, or for the challenger"
        )
    shown = Shown()
    async for stored in past.entries(since, until):
        for record in events.decode(stored.payload).records:
            shown.read(record)
        on_cursor("reading", stored.cursor)
    shown.refuse_useless()
    engine = None if since == BEGINNING else await past.engine_at(since)
    twin: Engine | None = None
    asked = Asked(shown, policy, since)
    async for stored in past.entries(since, until):
        entry = events.decode(stored.payload)
        engine = engine or begun(entry)
        if changes is not None:
            twin = twin or begun(otherwise(entry, changes))
        asked.before(entry, engine, twin or engine)
        engine.apply(entry, stored.cursor, await past.restored(entry))
        if changes is not None and twin is not None:
            twin.apply(otherwise(entry, changes), stored.cursor)
        on_cursor("replaying", stored.cursor)
    return asked.slates(since, until)


def otherwise(entry: Entry, changes: dict[str, Any]) -> Entry:
    """Return an entry as it would be in the log of a service with other settings.

    Commands were given for another model, and are left out. Raises InvalidRequest for a setting
    that there is not.
    """
    kept: list[events.Record] = []
    for record in entry.records:
        if isinstance(record, Configure):
            try:
                settings = EngineSettings(**(record.settings | {"challenger": {}} | changes))
            except ValueError as error:
                raise InvalidRequest(f"these settings cannot be: {error}") from None
            kept.append(
                Configure(record.semantics, settings.model_dump(mode="json"), record.reconfigure)
            )
        elif not isinstance(record, Command):
            kept.append(record)
    return Entry(kept, entry.arrival_ms, entry.version)


class Shown:
    """The slates that can be used, in the order of the log: a few numbers for each."""

    def __init__(self) -> None:
        self.users: dict[str, int] = {}
        self.items: dict[str, int] = {}
        self.user, self.size, self.time_ms = array("i"), array("i"), array("q")
        self.item, self.propensity = array("i"), array("d")
        self.unusable: Counter[str] = Counter()

    def __len__(self) -> int:
        return len(self.user)

    def read(self, record: events.Record) -> None:
        """Take a record, if it is a slate."""
        if not isinstance(record, Impression):
            return
        why = why_unusable(record)
        if why is not None:
            self.unusable[why] += 1
            return
        self.user.append(self.users.setdefault(record.user_id, len(self.users)))
        self.time_ms.append(record.time_ms)
        self.size.append(len(record.items))
        for item_id in record.items:
            self.item.append(self.items.setdefault(item_id, len(self.items)))
        self.propensity.extend(record.propensities)

    def refuse_useless(self) -> None:
        """Raise InvalidRequest unless something can be learned from these about another policy."""
        if len(self):
            return
        n_certain = self.unusable[CERTAIN]
        if not n_certain:
            raise InvalidRequest("the log has no slates: SLUICE_TOKENS=check logs what is shown")
        raise InvalidRequest(
            f"in none of {n_certain:,} slates was anything left to chance: every propensity is 1,"
            " so nobody knows what else would have been clicked, and no estimate is possible. Let"
            " a share of the places explore (SLUICE_EXPLORE_SHARE), and ask again after some"
            " thousands of slates"
        )


CERTAIN = "nothing in them left to chance"


def why_unusable(shown: Impression) -> str | None:
    """Return why nothing can be learned from a slate about other policies; None if it can."""
    chances: list[float] = shown.propensities
    if not shown.is_verified:
        return "declared without a token, so nobody knows what was clicked"
    if all(chance == 1.0 for chance in chances):  # or there are none, which says the same
        return CERTAIN
    if len(chances) != len(shown.items) or not all(0.0 < chance <= 1.0 for chance in chances):
        return "propensities that cannot be"
    return None


class Asked:
    """What the target and the version served would have shown, asked along the log."""

    def __init__(self, shown: Shown, policy: str, since: Cursor) -> None:
        self._shown = shown
        self._policy = policy
        self._user_ids = list(shown.users)
        self._time_ms = np.frombuffer(shown.time_ms, np.int64)
        self._order = np.argsort(self._time_ms, kind="stable")
        self._size = np.frombuffer(shown.size, np.int32)
        self._end = np.cumsum(self._size)
        n = int(self._end[-1])
        # For each row an item; for a random policy, how many there were to choose from.
        self._target, self._served = np.full(n, NOTHING), np.full(n, NOTHING)
        self._click = np.zeros(n)
        self._is_asked = self._time_ms >= parse_cursor(since)[0]
        self._n_due = self._n_clicked = 0

    def before(self, entry: Entry, engine: Engine, other: Engine) -> None:
        """Ask for the slates that were served before an entry came: `other` has the target.

        And read what was clicked, where the entry has the impressions.
        """
        while entry.arrival_ms is not None and self._n_due < len(self._order):
            slate = int(self._order[self._n_due])
            if self._time_ms[slate] >= entry.arrival_ms:
                break
            self._n_due += 1
            if self._is_asked[slate]:
                self._ask(slate, engine, other)
        for record in entry.records:
            if isinstance(record, Impression) and why_unusable(record) is None:
                clicked = engine.answers.clicked(record.recommendation_id)
                end = self._end[self._n_clicked]
                is_clicked = [item_id in clicked for item_id in record.items]
                self._click[end - len(is_clicked) : end] = is_clicked
                self._n_clicked += 1

    def _ask(self, slate: int, engine: Engine, other: Engine) -> None:
        end, k = int(self._end[slate]), int(self._size[slate])
        user_id = self._user_ids[self._shown.user[slate]]
        if self._policy == "random":
            self._target[end - k : end] = n_eligible(other, user_id)
        else:
            found = ranked(other, self._policy, user_id, k)
            if found is None:
                self._is_asked[slate] = False
                return
            self._note(self._target, end - k, found)
        self._note(self._served, end - k, ranked(engine, "served", user_id, k) or [])

    def _note(self, shows: I64, begin: int, item_ids: list[str]) -> None:
        items = self._shown.items
        shows[begin : begin + len(item_ids)] = [items.get(id_, len(items)) for id_ in item_ids]

    def slates(self, since: Cursor, until: Cursor) -> Slates:
        """Return all of it, once the log has been applied."""
        self._is_asked[self._order[self._n_due :]] = False
        if not self._is_asked.any():
            raise InvalidRequest(f"there is no {self._policy} that could be asked for these slates")
        kept = np.repeat(self._is_asked, self._size)
        logged = self._logged(kept)
        unusable = dict(self._shown.unusable)
        if n_others := len(self._shown) - logged.n_slates:
            unusable[f"no {self._policy} to ask at that time"] = n_others
        shows = self._target[kept]
        is_random = self._policy == "random"
        target = Uniform(shows.astype(np.float64)) if is_random else Lists(shows)
        return Slates(logged, target, Lists(self._served[kept]), unusable, since, until)

    def _logged(self, kept: NDArray[np.bool_]) -> Logged:
        """Return the rows that are kept, users and slates counted anew."""
        shown, size = self._shown, self._size
        place = np.arange(len(kept)) - np.repeat(self._end - size, size)
        user = np.repeat(np.frombuffer(shown.user, np.int32), size)[kept]
        slate = np.repeat(np.arange(len(size)), size)[kept]
        return Logged(
            user=np.unique(user, return_inverse=True)[1],
            slate=np.unique(slate, return_inverse=True)[1],
            place=place[kept],
            item=np.frombuffer(shown.item, np.int32)[kept].astype(np.int64),
            click=self._click[kept],
            propensity=np.frombuffer(shown.propensity, np.float64)[kept],
        )


def ranked(engine: Engine, policy: str, user_id: str, k: int) -> list[str] | None:
    """Return what a policy would show a user now; None if there is no such policy now."""
    version, is_challenger = VERSIONS.get(policy, engine.gate.served), policy == "challenger"
    running = engine.challenges.running
    if is_challenger and (running is None or not running.is_warm):
        return None
    if is_challenger:
        version = CHAMPION
    slate = engine.list_of(version, Request(user_id, k), challenger=is_challenger)
    return [scored.item_id for scored in slate]


def n_eligible(engine: Engine, user_id: str) -> int:
    """Return how many items a random policy has to choose from."""
    history = engine.history
    n = len(history.items) - int(engine.catalogue.hidden.sum())
    if engine.settings.exclude_had and user_id in history.users:
        n -= int(history.had_count[history.users.get(user_id)])
    return max(1, n)
