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
    """The entries read last, one after the other without a gap, within ten seconds and 64 MiB.

    And what was appended here and has not been read back yet: some of it is acknowledged already.
    """

    def __init__(self, *, kept_ms: int = KEPT_MS, kept_bytes: int = KEPT_BYTES) -> None:
        self._kept_ms = kept_ms
        self._kept_bytes = kept_bytes
        self._entries: deque[StoredEntry] = deque()
        self._unread: deque[StoredEntry] = deque()
        self._n_bytes = 0
        self._after = self._read = BEGINNING

    @property
    def end(self) -> Cursor:
        """The last place of the log that is known to have been there."""
        return self._unread[-1].cursor if self._unread else self._read

    def __iter__(self) -> Iterator[StoredEntry]:
        return iter(self._entries)

    @property
    def unread(self) -> list[StoredEntry]:
        """What was appended here and has not been read back."""
        return list(self._unread)

    def restart(self, after: Cursor) -> None:
        """Forget everything: the next entry is the one that follows this cursor."""
        self._entries.clear()
        self._unread.clear()
        self._n_bytes = 0
        self._after = self._read = after

    def extend(self, entries: Sequence[StoredEntry]) -> list[StoredEntry]:
        """Hold entries that follow the last one read; the oldest give way.

        Returns what was appended here and the log has gone on without: it is expected no more.
        """
        if not entries:
            return []
        if not self._entries:
            self._after = self._read
        self._hold(self._entries, entries)
        self._read = entries[-1].cursor
        passed = self._take_unread(parse_cursor(self._read))
        self._make_room()
        there = {entry.cursor for entry in entries} if passed else set()
        return [entry for entry in passed if entry.cursor not in there]

    def expect(self, entries: Sequence[StoredEntry]) -> None:
        """Hold entries that were appended here, until they have been read."""
        read = parse_cursor(self._read)
        self._hold(self._unread, [e for e in entries if parse_cursor(e.cursor) > read])
        self._make_room()

    def give_up(self, upto: Cursor) -> list[StoredEntry]:
        """Expect nothing up to a cursor any more; return what the log has gone on without."""
        return self._take_unread(parse_cursor(upto))

    def missing(self, last: Cursor, *, also_unread: bool = True) -> list[StoredEntry]:
        """Return what a log that ends at a cursor has lost; [] also where there would be a gap.

        Between what was read and what was appended here, and that in turn, there may be entries
        of others: `also_unread` is for when these have had time to give back theirs.
        """
        if not also_unread:
            return self._read_after(last)
        held = [*self._entries, *self._unread]
        if last == self._after:
            return held
        cursors = [entry.cursor for entry in held]
        if last in cursors:
            return held[cursors.index(last) + 1 :]
        end = parse_cursor(last)
        # Somebody else's entry, which has not been read here yet: all that was read is before it.
        if end > max(parse_cursor(self._read), parse_cursor(self._after)):
            return [entry for entry in self._unread if parse_cursor(entry.cursor) > end]
        return []

    def _read_after(self, last: Cursor) -> list[StoredEntry]:
        if last == self._after:
            return list(self._entries)
        cursors = [entry.cursor for entry in self._entries]
        return list(self._entries)[cursors.index(last) + 1 :] if last in cursors else []

    def _take_unread(self, upto: tuple[int, int]) -> list[StoredEntry]:
        taken = []
        while self._unread and parse_cursor(self._unread[0].cursor) <= upto:
            taken.append(self._unread.popleft())
        self._n_bytes -= sum(len(entry.payload) for entry in taken)
        return taken

    def _hold(self, where: deque[StoredEntry], entries: Sequence[StoredEntry]) -> None:
        where.extend(entries)
        self._n_bytes += sum(len(entry.payload) for entry in entries)

    def _make_room(self) -> None:
        oldest_ms = parse_cursor(self.end)[0] - self._kept_ms
        while held := self._entries or self._unread:
            if self._n_bytes <= self._kept_bytes and parse_cursor(held[0].cursor)[0] >= oldest_ms:
                return
            oldest = held.popleft()
            self._n_bytes -= len(oldest.payload)
            self._after = oldest.cursor
