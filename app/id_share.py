"""Has one user id swallowed the traffic of many? A tracker that sends `null` for everybody does so.

Nothing in one event shows it. What shows is the id's share of the last events: far over its own
long-run share, and over what any one user has ever had here, while many others are about.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence

import numpy as np
import orjson

from app.events import user_digest
from learners.ids import State

WINDOW = 500
"""Events that shares are taken of: admitted ones, and those that were refused for their share."""
MIN_USERS = 50
"""Distinct users that a window needs: where few are about, one may well have half of it."""
ARMED = 5_000
"""Events before anything is refused: until then it is learned what one user may have."""
OVER_OWN, OVER_LARGEST = 3.0, 1.5
PLACEHOLDERS = frozenset(
    ("null", "none", "nil", "undefined", "nan", "0", "-1", "anonymous", "anon", "guest", "unknown")
)
"""What programs write where they have no id. No user is expected to have as much as one may."""
PLACEHOLDER_SHARE = 0.02
# Users whose long-run share is known; past it all counts are halved, and the least forgotten.
_MAX_COUNTED = 100_000
_KEY_BYTES = 16


class IdShare:
    """Shares of user ids in the last `WINDOW` events; `refuse` asks, `count` remembers."""

    def __init__(self) -> None:
        self._window: deque[bytes] = deque()
        self._now: dict[bytes, int] = {}
        self._long: dict[bytes, int] = {}
        self._n_long = 0
        # Whether so many events have been seen: users who are forgotten take only theirs away.
        self._has_armed = False
        # The largest share of one user in any block so far; of this block, and who was refused.
        self._largest = 0.0
        self._in_block: dict[bytes, int] = {}
        self._n_in_block = 0
        self._refused: set[bytes] = set()
        # The block before this one: it teaches what one user may have once it is known who of it is
        # refused now. Until semantics version 10 a block taught at its own end, and where an id
        # began to swallow others just before, their number was what one may have.
        self._before: dict[bytes, int] = {}
        self._is_10 = True

    def follow(self, semantics: int) -> None:
        """Compute as a semantics version says, from here on."""
        self._is_10 = semantics >= 10

    def refuse(self, user_id: str, floor: float) -> str | None:
        """Return why an event of a user may not teach, or None; shares up to `floor` never are."""
        # Until semantics version 10 placeholders were refused also where everybody may have all.
        if floor >= 1.0 and self._is_10:
            return None
        has_seen = self._n_long >= ARMED or (self._has_armed and self._is_10)
        is_armed = has_seen and len(self._window) == WINDOW
        if not is_armed or len(self._now) < MIN_USERS:
            return None
        share = (self._now.get(user_digest(user_id), 0) + 1) / WINDOW
        if share <= min(floor, PLACEHOLDER_SHARE):  # no limit is lower
            return None
        limit = self.limit(user_id, floor)
        if share <= limit:
            return None
        return f"its user has {share:.1%} of the last {WINDOW} events, over {limit:.1%}"

    def n_passing(self, user_ids: Sequence[str], keys: Sequence[bytes], floor: float) -> int:
        """Return how many events of users surely pass, from the first on; `keys` as in `count`."""
        n, now = len(keys), self._now
        counted: dict[bytes, int] = {}
        if len(self._long) + n > _MAX_COUNTED:
            return 0
        is_armed = self._n_long + n >= ARMED or (self._has_armed and self._is_10)
        if not is_armed or (floor >= 1.0 and self._is_10) or len(now) + n < MIN_USERS:
            return n
        least = min(floor, PLACEHOLDER_SHARE)  # no limit is lower
        for place, key in enumerate(keys):
            n_more = counted[key] = counted.get(key, 0) + 1
            share = (now.get(key, 0) + n_more) / WINDOW
            if share > least and share > self.limit(user_ids[place], floor, n):
                return place
        return n

    def limit(self, user_id: str, floor: float, n_more: int = 0) -> float:
        """Return the share that a user may have, once anything is refused.

        Or what it is at least, after so many more events.
        """
        n_long = max(self._n_long + n_more, 1)
        own = OVER_OWN * self._long.get(user_digest(user_id), 0) / n_long
        if self._stands_for_nobody(user_id):
            return max(own, min(floor, PLACEHOLDER_SHARE))
        return max(own, floor, OVER_LARGEST * self._largest)

    def _stands_for_nobody(self, user_id: str) -> bool:
        """Tell whether an id is a placeholder; since semantics version 10 with blanks, or blank."""
        if not self._is_10:
            return user_id.lower() in PLACEHOLDERS
        name = user_id.strip().lower()
        return not name or name in PLACEHOLDERS

    def count(self, keys: Iterable[bytes], *, is_refused: bool = False) -> None:
        """Take note of events that were admitted, or refused for their share, by users' digests."""
        window, now, block, long = self._window, self._now, self._in_block, self._long
        for key in keys:
            window.append(key)
            n_now = now[key] = now.get(key, 0) + 1
            if len(window) > WINDOW:
                gone = window.popleft()
                n_left = now[gone] - 1
                if n_left:
                    now[gone] = n_left
                else:
                    del now[gone]
                n_now -= gone == key
            if is_refused:
                self._refused.add(key)
            else:
                long[key] = long.get(key, 0) + 1
                self._n_long += 1
                if len(long) > _MAX_COUNTED:
                    long = self._forget_the_rare()
            if len(now) >= MIN_USERS and n_now > block.get(key, 0):
                block[key] = n_now
            self._n_in_block += 1
            if self._n_in_block == WINDOW:
                self._end_block()
                block = self._in_block
        self._has_armed = self._has_armed or self._n_long >= ARMED

    def forget(self, user_id: str) -> None:
        """Forget a user, but for what is in the window: that goes with the next 500 events."""
        key = user_digest(user_id)
        self._n_long -= self._long.pop(key, 0)
        self._in_block.pop(key, None)
        self._before.pop(key, None)
        self._refused.discard(key)

    def _forget_the_rare(self) -> dict[bytes, int]:
        """Halve all long-run counts; return those that are left."""
        self._long = {k: n // 2 for k, n in self._long.items() if n > 1}
        self._n_long //= 2
        return self._long

    def _end_block(self) -> None:
        """Learn what one user may have; who was refused in a block, or the next, does not count."""
        block = {key: n for key, n in self._in_block.items() if key not in self._refused}
        if len(self._window) < WINDOW:
            block = {}
        taught = block
        if self._is_10:
            taught, self._before = self._before, block
        honest = [n for key, n in taught.items() if key not in self._refused]
        self._largest = max(self._largest, max(honest, default=0) / WINDOW)
        self._in_block, self._refused, self._n_in_block = {}, set(), 0

    # -- state --------------------------------------------------------------------------------

    def canonical(self) -> bytes:
        """Return the content in an order that does not depend on how it came about."""
        kept = [self._long, self._in_block, *([self._before] if self._is_10 else [])]
        counts = [sorted((k.hex(), n) for k, n in counted.items()) for counted in kept]
        refused = sorted(key.hex() for key in self._refused)
        armed = [self._has_armed] if self._is_10 else []
        plain = [self._n_long, self._largest, self._n_in_block, *counts, refused, *armed]
        return b"".join(self._window) + orjson.dumps(plain)

    def state(self) -> State:
        """Return what `load_state` continues from."""
        since_10 = {
            "has_armed": self._has_armed,
            "before": _packed(self._before),
            "before_n": np.array(list(self._before.values()), np.int64),
        }
        return {
            "window": _packed(self._window),
            "long": _packed(self._long),
            "long_n": np.array(list(self._long.values()), np.int64),
            "in_block": _packed(self._in_block),
            "in_block_n": np.array(list(self._in_block.values()), np.int64),
            "refused": _packed(sorted(self._refused)),
            "plain": [self._n_long, self._largest, self._n_in_block],
            **(since_10 if self._is_10 else {}),
        }

    def load_state(self, state: State) -> None:
        """Become what `state` was taken from."""
        self._window = deque(_unpacked(state["window"]))
        self._now = {}
        for key in self._window:
            self._now[key] = self._now.get(key, 0) + 1
        self._long = dict(zip(_unpacked(state["long"]), state["long_n"].tolist(), strict=True))
        block = zip(_unpacked(state["in_block"]), state["in_block_n"].tolist(), strict=True)
        self._in_block = dict(block)
        self._refused = set(_unpacked(state["refused"]))
        self._before = {}
        if "before" in state:
            kept = zip(_unpacked(state["before"]), state["before_n"].tolist(), strict=True)
            self._before = dict(kept)
        n_long, largest, n_in_block = state["plain"]
        self._n_long, self._largest, self._n_in_block = int(n_long), float(largest), int(n_in_block)
        self._has_armed = bool(state.get("has_armed", self._n_long >= ARMED))


def _packed(keys: Iterable[bytes]) -> np.ndarray[tuple[int], np.dtype[np.uint8]]:
    return np.frombuffer(b"".join(keys), np.uint8)


def _unpacked(packed: np.ndarray[tuple[int], np.dtype[np.uint8]]) -> list[bytes]:
    raw = np.asarray(packed, np.uint8).tobytes()
    return [raw[start : start + _KEY_BYTES] for start in range(0, len(raw), _KEY_BYTES)]
