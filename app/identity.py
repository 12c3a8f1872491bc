"""Whose is what a record says? Ids change hands: an anonymous one is merged into a user.

What came in under an id belongs to whom the id was merged into next; what came in later under the
same id does not.
"""

from __future__ import annotations

import re

import orjson

from app import events
from app.events import Entry, Record, UserMerge

Place = tuple[int, int, int]
"""Where a record is: its entry's cursor as two numbers, and its index in the entry."""

_BEFORE_ALL: Place = (-1, -1, -1)
_AFTER_ALL: Place = (2**64, 0, 0)
_MARK = b'"user_merge"'


class Identity:
    """The ids that one person has had in a log, and when. The person's own id is always theirs.

    `note` what the log has first, all of it; then ask.
    """

    def __init__(self, user_id: str) -> None:
        self.user_id = user_id
        self._merges: dict[Place, UserMerge] = {}
        # For each id when it was theirs, the latest span first: after one place, up to another.
        self._spans: dict[str, list[tuple[Place, Place]]] = {}

    def note(self, payload: bytes, cursor: tuple[int, int]) -> bool:
        """Take note of an entry (its wire form); tell whether more is theirs than was known."""
        if _MARK not in payload:
            return False
        merges = {
            (*cursor, index): record
            for index, record in enumerate(events.decode(payload).records)
            if isinstance(record, UserMerge)
        }
        if merges.keys() <= self._merges.keys():
            return False
        before = self._spans
        self._merges |= merges
        self._spans = self._find()
        return self._spans != before

    def merges(self) -> bytes:
        """Return the merges that `ids` follow from, as JSON for `recall`."""
        ids = set(self.ids)
        known = [
            (*place, merge.from_id, merge.user_id)
            for place, merge in sorted(self._merges.items())
            if not ids.isdisjoint((merge.from_id, merge.user_id))
        ]
        return orjson.dumps(known)

    def recall(self, merges: bytes) -> None:
        """Take note of merges that were known before the log had them no more."""
        for ms, seq, index, from_id, user_id in orjson.loads(merges):
            self._merges[ms, seq, index] = UserMerge(user_id, from_id)
        self._spans = self._find()

    def _find(self) -> dict[str, list[tuple[Place, Place]]]:
        """Go back through the merges: before one, an id was whose it was merged into."""
        spans: dict[str, list[tuple[Place, Place]]] = {}
        until: dict[str, Place] = {self.user_id: _AFTER_ALL}
        for place, merge in sorted(self._merges.items(), reverse=True):
            if merge.from_id == self.user_id:
                continue
            end = until.pop(merge.from_id, None)
            if end is not None:
                spans.setdefault(merge.from_id, []).append((place, end))
            if merge.user_id in until:
                until[merge.from_id] = place
        for id_, end in until.items():
            spans.setdefault(id_, []).append((_BEFORE_ALL, end))
        return spans

    @property
    def ids(self) -> list[str]:
        """Return every id that was theirs at some time."""
        return sorted({self.user_id, *self._spans})

    def is_theirs(self, id_: str, at: Place) -> bool:
        """Tell whether what came in under an id at some place is theirs."""
        if id_ == self.user_id:
            return True
        return any(begin < at <= end for begin, end in self._spans.get(id_, ()))

    def is_about(self, record: Record, at: Place) -> bool:
        """Tell whether a record is about them; of what could not be read, whether it may be."""
        if isinstance(record, events.Malformed):
            text = f"{record.excerpt} {record.event_id or ''}"
            return any(is_named(id_, text) and self.is_theirs(id_, at) for id_ in self.ids)
        named = (getattr(record, "user_id", None), getattr(record, "from_id", None))
        return any(id_ is not None and self.is_theirs(id_, at) for id_ in named)

    def without(self, entry: Entry, cursor: tuple[int, int]) -> Entry:
        """Return an entry without what is about them; one that was all about them stays, empty."""
        numbered = enumerate(entry.records)
        kept = [record for i, record in numbered if not self.is_about(record, (*cursor, i))]
        return Entry(kept, entry.arrival_ms, entry.version)


def is_named(id_: str, text: str) -> bool:
    """Tell whether an id stands in a text by itself, and not in a longer word."""
    return re.search(rf"(?<![\w-]){re.escape(id_)}(?![\w-])", text) is not None
