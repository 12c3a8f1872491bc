"""The end of the log, held in memory: what a store that died may have forgotten."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence

from app.store import BEGINNING, Cursor, StoredEntry, parse_cursor

# A server with appendfsync everysec may answer up to two seconds before it hands an entry to the
# operating system, while an fsync is under way; past these it makes clients wait.
KEPT_MS = 10_000
KEPT_BYTES = 64 * 2**20


class Tail:
    """The entries read last, one after the other without a gap, within ten seconds and 64 MiB."""

    def __init__(self, *, kept_ms: int = KEPT_MS, kept_bytes: int = KEPT_BYTES) -> None:
        self._kept_ms = kept_ms
        self._kept_bytes = kept_bytes
        self._entries: deque[StoredEntry] = deque()
        self._n_bytes = 0
        self._after = BEGINNING

    def __iter__(self) -> Iterator[StoredEntry]:
        return iter(self._entries)

    def restart(self, after: Cursor) -> None:
        """Forget everything: the next entry is the one that follows this cursor."""
        self._entries.clear()
        self._n_bytes = 0
        self._after = after

    def extend(self, entries: Sequence[StoredEntry]) -> None:
        """Hold entries that follow the last one; the oldest give way."""
        for entry in entries:
            self._entries.append(entry)
            self._n_bytes += len(entry.payload)
        if not self._entries:
            return
        newest_ms = parse_cursor(self._entries[-1].cursor)[0]
        while self._entries and (
            self._n_bytes > self._kept_bytes
            or parse_cursor(self._entries[0].cursor)[0] < newest_ms - self._kept_ms
        ):
            oldest = self._entries.popleft()
            self._n_bytes -= len(oldest.payload)
            self._after = oldest.cursor

    def missing(self, last: Cursor) -> list[StoredEntry]:
        """Return what a log that ends at a cursor has lost; [] also where there would be a gap."""
        if last == self._after:
            return list(self._entries)
        cursors = [entry.cursor for entry in self._entries]
        return list(self._entries)[cursors.index(last) + 1 :] if last in cursors else []
