"""The archive: what is trimmed from the log, kept in Parquet files of one folder.

A file has one row for each record, in the order of the log, with columns for offline work and the
record's own bytes, from which the entries come back byte for byte. It is written whole before the
log is trimmed. The same part of a log gives the same file, so it does not matter who writes it.
"""

from __future__ import annotations

import asyncio
import logging
import os
import re
import secrets
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import msgspec

from app import events
from app.errors import ArchiveRefused, LogRewritten, LogTrimmed
from app.settings import Settings
from app.store import BEGINNING, END, Cursor, Store, StoredEntry, following, parse_cursor

if TYPE_CHECKING:
    import pyarrow as pa

FORMAT = 1
# In memory are one row group, and one page of the log or one entry, whichever is larger.
GROUP_ROWS, GROUP_BYTES = 16_384, 16 * 2**20
PAGE_BYTES, MAX_PAGE_ENTRIES = 2**19, 128
# A long backlog becomes several files, so that what is done need not be done again.
FILE_ROWS = 1_000_000
# A thread that computes holds up the one that serves, for 5 ms whenever that wakes up. So this one
# sleeps after every so many rows, which take half a millisecond.
PACE_ROWS, PAUSE_S = 64, 0.0005
READ_ROWS = 1_024
# One that a process left behind which died; writing takes seconds.
STALE_S = 86_400

_TEXT = ("event_id", "user_id", "item_id", "type", "source", "recommendation_id", "token", "draft")
_PARTS = (*_TEXT, "value", "time_ms")
"""What is taken from a record, where it has it, to be looked at."""
_COLUMNS = ("cursor", "index", "kind", *_PARTS, "arrival_ms", "version", "tag", "record", "entry")
_OF_ENTRIES = ("cursor", "arrival_ms", "version", "tag", "record", "entry")
_NAME = re.compile(r"([A-Za-z0-9._-]{1,64})\.([0-9]+-[0-9]+)\.([0-9]+-[0-9]+)\.parquet")
_PREFIX = "sluice."

T = TypeVar("T")

logger = logging.getLogger(__name__)


# -- entries and rows -------------------------------------------------------------------------


class _Raw(msgspec.Struct):
    """An entry whose records are left as they are."""

    records: list[msgspec.Raw]
    arrival_ms: int | None = None
    version: int = events.WIRE_VERSION


_raw_decoder = msgspec.json.Decoder(_Raw)


def _rows(entry: StoredEntry) -> list[dict[str, Any]]:
    """Return an entry's rows, in whole or, where it cannot be told apart, as a single one."""
    about = {"cursor": entry.cursor, "tag": entry.tag}
    try:
        raw = _raw_decoder.decode(entry.payload)
        records = events.decode(entry.payload).records
    except ValueError:
        records = []
    if not records:
        return [about | {"index": 0, "kind": "entry", "entry": entry.payload}]
    whole = {"arrival_ms": raw.arrival_ms, "version": raw.version}
    numbered = list(enumerate(zip(records, raw.records, strict=True)))
    rows = [
        about | whole | _columns_of(record) | {"index": index, "record": bytes(wire)}
        for part in _paced(numbered)
        for index, (record, wire) in part
    ]
    if _payload(rows) != entry.payload:
        rows[0]["entry"] = entry.payload  # not written as we write it; it is kept as it is
    return rows


def _columns_of(record: events.Record) -> dict[str, Any]:
    parts = {name: getattr(record, name, None) for name in _PARTS}
    return parts | {"kind": record.__struct_config__.tag}


def _payload(rows: Sequence[dict[str, Any]]) -> bytes:
    """Return the bytes of the entry that has these rows."""
    whole: bytes | None = rows[0].get("entry")
    if whole is not None:
        return whole
    records = b",".join(row["record"] for row in rows)
    arrival_ms, version = rows[0]["arrival_ms"], rows[0]["version"]
    arrived = "null" if arrival_ms is None else str(arrival_ms)
    return b'{"records":[%b],"arrival_ms":%b,"version":%d}' % (records, arrived.encode(), version)


# -- writing ----------------------------------------------------------------------------------


async def keep(
    store: Store, settings: Settings, before: Cursor, *, file_rows: int = FILE_ROWS
) -> bool:
    """Archive the log's entries before a cursor; tell whether it may be trimmed there.

    It may if all is written, or if nothing is to be kept. A warning says why it may not.
    """
    if not settings.archive_dir:
        return True
    folder = Path(settings.archive_dir)
    try:
        await _Keeping(store, folder, settings.namespace, file_rows).run(before)
        return True
    except LogRewritten as error:
        logger.info("nothing is archived, and the log is not trimmed: %s", error)
    except LogTrimmed as error:
        logger.info("another replica has archived and trimmed the log meanwhile: %s", error)
    except (OSError, ArchiveRefused) as error:  # Arrow's own errors in writing are the first, too
        logger.warning(
            "the log is not trimmed: its archive in %s (SLUICE_ARCHIVE_DIR) cannot be written: %s",
            folder,
            error,
        )
    return False


class _Keeping:
    """Copies a part of the log into files, in a thread; the store is read on the event loop."""

    def __init__(self, store: Store, folder: Path, namespace: str, file_rows: int) -> None:
        self._file_rows = file_rows
        self._store = store
        self._folder = folder
        self._namespace = namespace
        self._epoch = store.epoch

    async def run(self, before: Cursor) -> None:
        """Write what is in no file yet, file by file."""
        known = await asyncio.to_thread(self._prepare)
        begins, first = await self._first()
        while first is not None and parse_cursor(first) < parse_cursor(before):
            file = _file_with(known, first)
            if file is None:
                await asyncio.to_thread(self._tell_gap, known, first)
                last = await self._write_file(first, before, begins=begins)
                begins, first = False, await self._after(last)
            else:
                begins, first = False, await self._after(file.last)
                await asyncio.to_thread(_check_next, file, first or before)

    def _prepare(self) -> list[ArchiveFile]:
        """Make the folder, and return what is in it already."""
        self._folder.mkdir(parents=True, exist_ok=True)
        for left in self._folder.glob(".*.tmp"):
            if time.time() - left.stat().st_mtime > STALE_S:
                left.unlink(missing_ok=True)
        return files(self._folder, self._namespace)

    def _tell_gap(self, known: Sequence[ArchiveFile], first: Cursor) -> None:
        """Say so if the log goes on later than what is archived of it."""
        earlier = [file for file in known if parse_cursor(file.last) < parse_cursor(first)]
        expected = earlier[-1].about()["next"] if earlier else first
        if parse_cursor(expected) < parse_cursor(first):
            logger.warning(
                "the archive in %s has a gap from %s to %s: there the log was trimmed by a process"
                " without SLUICE_ARCHIVE_DIR",
                self._folder,
                expected,
                first,
            )

    async def _first(self) -> tuple[bool, Cursor | None]:
        """Return whether the log still has its beginning, and its first entry."""
        try:
            entries = await self._store.read_between(BEGINNING, END, count=1)
            return True, entries[0].cursor if entries else None
        except LogTrimmed:
            return False, await self._store.first_cursor()

    async def _after(self, last: Cursor) -> Cursor | None:
        entries = await self._store.read_between(following(last), END, count=1)
        return entries[0].cursor if entries else None

    async def _write_file(self, first: Cursor, before: Cursor, *, begins: bool) -> Cursor:
        """Write the file that begins with an entry; return the cursor of its last one."""
        file, last = _File(self._folder, self._file_rows), first
        try:
            count = 1
            while not file.is_full:
                page = await self._store.read_between(first, before, count=count)
                if not page:
                    break
                n_bytes = sum(len(entry.payload) for entry in page)
                count = min(MAX_PAGE_ENTRIES, max(1, PAGE_BYTES * len(page) // max(n_bytes, 1)))
                taken = await asyncio.to_thread(file.take, page)
                last = page[taken - 1].cursor
                first = following(last)
            about = {"next": await self._after(last) or before, "begins": str(begins).lower()}
            name = f"{self._namespace}.{file.first}.{last}.parquet"
            await asyncio.to_thread(file.finish, about)
            # Whoever forgets somebody looks at the files some time after that.
            if await self._store.find_epoch() != self._epoch:
                raise LogRewritten("the log has been rewritten, without somebody who was forgotten")
            await asyncio.to_thread(file.place, name)
        finally:
            await asyncio.to_thread(file.abandon)
        logger.info("archived %d records of the log as %s", file.n_rows, name)
        return last


class _File:
    """A file that is being written, under a name that nobody reads."""

    def __init__(self, folder: Path, most_rows: int) -> None:
        self.n_rows = 0
        self._most_rows = most_rows
        self._folder = folder
        self._path = folder / f".{secrets.token_hex(8)}.tmp"
        self._rows: list[dict[str, Any]] = []
        self._n_bytes = 0
        self.first: Cursor | None = None
        self._writer: Any = None

    @property
    def is_full(self) -> bool:
        """Tell whether the file takes no more."""
        return self.n_rows >= self._most_rows

    def take(self, entries: Sequence[StoredEntry]) -> int:
        """Add entries until the file is full; return how many.

        Where a row group or a file ends depends on the entries, never on the pages they came in.
        """
        for taken, entry in enumerate(entries, start=1):
            if taken % PACE_ROWS == 0:
                time.sleep(PAUSE_S)
            rows = _rows(entry)
            self.first = self.first or entry.cursor
            self._rows += rows
            self._n_bytes += len(entry.payload)
            self.n_rows += len(rows)
            if len(self._rows) >= GROUP_ROWS or self._n_bytes >= GROUP_BYTES:
                self._write_group()
            if self.is_full:
                return taken
        return len(entries)

    def _write_group(self) -> None:
        import pyarrow as pa  # noqa: PLC0415  takes 0.2 s, and most services keep no archive
        from pyarrow import parquet  # noqa: PLC0415

        schema = _schema()
        if self._writer is None:
            self._writer = parquet.ParquetWriter(self._path, schema, compression="zstd")
        batches = [
            pa.RecordBatch.from_arrays(
                [pa.array([row.get(field.name) for row in part], field.type) for field in schema],
                schema=schema,
            )
            for part in _paced(self._rows)
        ]
        table = pa.Table.from_batches(batches, schema)
        self._writer.write_table(table, row_group_size=max(1, len(self._rows)))
        self._rows, self._n_bytes = [], 0

    def finish(self, about: dict[str, str]) -> None:
        """End the file, with what it says of itself, and have it on disk."""
        if self._rows:
            self._write_group()
        metadata = {"format": str(FORMAT)} | about
        self._writer.add_key_value_metadata({_PREFIX + k: v for k, v in metadata.items()})
        self._writer.close()
        _sync(self._path)

    def place(self, name: str) -> None:
        """Put the file in its place, for good."""
        self._path.replace(self._folder / name)
        _sync(self._folder)

    def abandon(self) -> None:
        """Leave nothing behind of a file that was not finished."""
        if self._writer is not None and self._writer.is_open:
            self._writer.close()
        self._path.unlink(missing_ok=True)


def _paced(items: list[T]) -> Iterator[list[T]]:
    """Yield parts of a list, letting other threads have their turn after each that is full."""
    for start in range(0, len(items), PACE_ROWS):
        part = items[start : start + PACE_ROWS]
        yield part
        if len(part) == PACE_ROWS:
            time.sleep(PAUSE_S)


def _schema() -> pa.Schema:
    import pyarrow as pa  # noqa: PLC0415

    kinds = {
        "index": pa.int32(),
        "version": pa.int32(),
        "value": pa.float64(),
        "time_ms": pa.int64(),
        "arrival_ms": pa.int64(),
        "record": pa.binary(),
        "entry": pa.binary(),
    }
    return pa.schema([(name, kinds.get(name, pa.string())) for name in _COLUMNS])


def _sync(path: Path) -> None:
    """Wait until a file, or the names in a folder, are on disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def rewrite(folder: Path, namespace: str, change: Callable[[StoredEntry], StoredEntry]) -> None:
    """Write those files anew in which an entry changes; `change` returns the others as they are."""
    for found in files(folder, namespace):
        if all(change(stored) is stored for stored in found.entries()):
            continue
        file, entries = _File(folder, sys.maxsize), found.entries()
        try:
            while page := [change(stored) for stored in islice(entries, MAX_PAGE_ENTRIES)]:
                file.take(page)
            file.finish(found.about())
            file.place(found.path.name)
        finally:
            file.abandon()


# -- reading ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class ArchiveFile:
    """A file of the archive, by its name: whose log it is of, its first and its last cursor."""

    path: Path
    namespace: str
    first: Cursor
    last: Cursor

    def about(self) -> dict[str, str]:
        """Return what the file says of itself.

        `next` is the cursor of the entry after its last one, `begins` whether its first is the
        first that there ever was.
        """
        with _opened(self.path) as file:
            metadata: dict[bytes, bytes] = file.metadata.metadata or {}
        own = [(name.decode("utf-8", "replace"), value) for name, value in metadata.items()]
        found = {n.removeprefix(_PREFIX): v.decode() for n, v in own if n.startswith(_PREFIX)}
        if found.get("format") != str(FORMAT):
            raise ArchiveRefused(
                f"{self.path} has archive format {found.get('format', 'none')};"
                f" this program reads format {FORMAT}"
            )
        return found

    def entries(self) -> Iterator[StoredEntry]:
        """Yield the entries, byte for byte as they were in the log."""
        rows: list[dict[str, Any]] = []
        with _opened(self.path) as file:
            for batch in file.iter_batches(READ_ROWS, columns=list(_OF_ENTRIES)):
                for row in batch.to_pylist():
                    if rows and row["cursor"] != rows[0]["cursor"]:
                        yield StoredEntry(rows[0]["cursor"], _payload(rows), rows[0]["tag"])
                        rows = []
                    rows.append(row)
        if rows:
            yield StoredEntry(rows[0]["cursor"], _payload(rows), rows[0]["tag"])


class Archive:
    """What is archived of one log."""

    def __init__(self, folder: Path, namespace: str) -> None:
        self._folder = folder
        self._namespace = namespace

    @property
    def _files(self) -> list[ArchiveFile]:
        return files(self._folder, self._namespace)  # there may be more by now

    @property
    def last(self) -> Cursor:
        """Return the last cursor that is archived, BEGINNING if nothing is."""
        return max((file.last for file in self._files), key=parse_cursor, default=BEGINNING)

    def beginning(self, until: Cursor) -> Cursor | None:
        """Return where the log that has a cursor began, if that is archived."""
        return next((file.first for file in self._beginning(until)), None)

    def chain(self, after: Cursor, until: Cursor) -> tuple[list[ArchiveFile], Cursor | None]:
        """Return the files that have, without a gap, what came after a cursor, oldest first.

        And the cursor of the entry that goes on behind them; None if they have nothing to offer.
        """
        here, found = parse_cursor(after), []
        known = self._beginning(until) if after == BEGINNING else self._files
        upcoming = known[0].first if known and after == BEGINNING else None
        for file in known:
            first, last = parse_cursor(file.first), parse_cursor(file.last)
            is_next = upcoming is not None and first <= parse_cursor(upcoming)
            if last < here or not (first <= here or is_next):
                continue
            upcoming = file.about()["next"]
            if last > here:
                found.append(file)
                here = last
            if parse_cursor(upcoming) > parse_cursor(until):
                break
        return found, upcoming

    def _beginning(self, until: Cursor) -> list[ArchiveFile]:
        """Return the files from the one on with which the log that has a cursor began."""
        known = self._files
        for place in reversed(range(len(known))):
            is_before = parse_cursor(known[place].first) <= parse_cursor(until)
            if is_before and known[place].about()["begins"] == "true":
                return known[place:]
        return []


def is_archive(path: Path) -> bool:
    """Tell whether a file is one of an archive, by its name."""
    return _NAME.fullmatch(path.name) is not None


def files(folder: Path, namespace: str | None = None) -> list[ArchiveFile]:
    """Return the files of an archive, oldest first: of one log, or of all."""
    names = [_NAME.fullmatch(path.name) for path in folder.glob("*.parquet")]
    found = [ArchiveFile(folder / name[0], name[1], name[2], name[3]) for name in names if name]
    wanted = [file for file in found if namespace in (None, file.namespace)]
    return sorted(wanted, key=lambda file: (parse_cursor(file.first), parse_cursor(file.last)))


def _file_with(known: Sequence[ArchiveFile], cursor: Cursor) -> ArchiveFile | None:
    """Return the file that goes on furthest of those that have a cursor, if it is archived."""
    here = parse_cursor(cursor)
    found = [f for f in known if parse_cursor(f.first) <= here <= parse_cursor(f.last)]
    return max(found, key=lambda file: parse_cursor(file.last), default=None)


def _check_next(file: ArchiveFile, upcoming: Cursor) -> None:
    """Raise ArchiveRefused unless a log goes on behind a file as the file says: it is of that log.

    One of another service's that has the same namespace, or a damaged one, keeps nothing of it.
    """
    told = file.about()["next"]
    if told != upcoming:
        raise ArchiveRefused(
            f"{file.path} is of another log: behind it comes {told}, and here {upcoming}"
        )


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    """Open a Parquet file; whatever is wrong with it comes out as ArchiveRefused."""
    import pyarrow as pa  # noqa: PLC0415
    from pyarrow import parquet  # noqa: PLC0415

    try:
        with parquet.ParquetFile(path) as file:
            yield file
    except (pa.ArrowException, OSError) as error:
        raise ArchiveRefused(f"{path} cannot be read: {error}") from None
