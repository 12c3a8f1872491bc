"""Read data sets for `sluice replay`: any known format becomes Feedback in the order of time.

Lines are read once, one by one, and kept as a few numbers each; Feedback is made when it is asked
for. A bad line is reported and skipped. Nothing here knows the engine or the service.
"""

from __future__ import annotations

import csv
import hashlib
import math
from array import array
from collections.abc import Callable, Iterable, Iterator
from itertools import groupby
from pathlib import Path

import msgspec
import numpy as np
from numpy.typing import NDArray

from app import archive
from app.errors import InvalidRequest
from app.events import Feedback, check_id, derive_event_id
from scripts.bad_lines import BadLine, BadLines
from scripts.formats import BATCH_ROWS, KNOWN_NAMES, Columns, Form, OnProgress, Row, open_file


class DataSet:
    """Feedback in the order of time; events of one time keep the order of the file.

    It can be iterated any number of times. In memory an event takes some 40 bytes, and every
    distinct id is there once. `n_lines` were read (without headers and blank lines), `n_bad` of
    them could not be understood, and `n_filtered` are ratings below the least one asked for.
    """

    def __init__(self, rows: _Rows, limit: int | None = None) -> None:
        self.n_lines = rows.bad.n_lines
        self.n_bad = rows.bad.n_bad
        self.n_filtered = rows.n_filtered
        rows.forget_codes()
        self._rows = rows
        self._order: NDArray[np.int64] = np.argsort(
            np.asarray(rows.times, np.int64), kind="stable"
        )[:limit]

    def __len__(self) -> int:
        return len(self._order)

    def __iter__(self) -> Iterator[Feedback]:
        for start in range(0, len(self), BATCH_ROWS):
            for index in self._order[start : start + BATCH_ROWS].tolist():
                yield self._rows.feedback(index)

    def as_filed(self) -> Iterator[Feedback]:
        """Yield all events in the order of the file: a log's is that in which they came."""
        for index in range(len(self._rows.times)):
            yield self._rows.feedback(index)

    @property
    def digest(self) -> str:
        """SHA-256 of the events in the order of time, as hexadecimal digits."""
        sha = hashlib.sha256()
        for event in self:
            sha.update(repr((event.event_id, event.value, event.time_ms)).encode())
        return sha.hexdigest()

    @property
    def start_ms(self) -> int | None:
        """The time of the first event in Unix milliseconds; None if there is no event."""
        return self._rows.times[int(self._order[0])] if len(self) else None


def read(
    path: Path | str,
    *,
    columns: Columns | None = None,
    min_rating: float | None = None,
    limit: int | None = None,
    on_bad: Callable[[BadLine], None] = lambda _: None,
    on_progress: OnProgress = lambda _: None,
) -> DataSet:
    """Read a file, or the one data set in a folder; raise InvalidRequest if that cannot be done.

    Parameters
    ----------
    path
        MovieLens (`u.data`, `ratings.dat`, `ratings.csv`), session clicks (a header with SessionId,
        ItemId, Time, or Yoochoose's own `yoochoose-clicks.dat`), or CSV, NDJSON or Parquet; or the
        archive of a log (a folder).
    columns
        Where the events are in the file; if this is given, no other format is looked for.
    min_rating
        Events of type "rating" below it are left out; None means 4 for MovieLens, else nothing.
    limit
        Keep the first so many events in the order of time, counted after `min_rating`.
    on_bad
        Told of each line that is skipped. Over 1 % of them raise InvalidRequest.
    on_progress
        Told now and then how many more bytes have been read; the sum is `total_bytes(path)`.

    """
    if limit is not None and limit < 0:
        raise InvalidRequest(f"limit must not be negative, it is {limit}")
    rows = _Rows(min_rating, on_bad)
    for file in find_files(path):
        try:
            form, raws = open_file(file, columns, on_progress)
            for number, raw in raws:
                rows.take(form, raw, file, number)
        except OSError as error:
            raise InvalidRequest(f"{file} cannot be read: {error}") from None
    rows.bad.check_share()
    return DataSet(rows, limit)


def of_log(events: Iterable[tuple[Feedback, int | None]]) -> DataSet:
    """Return the events of a log, each with its arrival time, as a data set in that order."""
    rows = _Rows(None, lambda _: None)
    for number, logged in enumerate(events, start=1):
        rows.take(_LOGGED, logged, Path("log"), number)
    return DataSet(rows)


class _Logged:
    """An event of a log and its arrival time, by which it is dated if it has none of its own."""

    min_rating = -math.inf

    def parse(self, raw: tuple[Feedback, int | None]) -> Row:
        event, arrival_ms = raw
        time_ms = arrival_ms if event.time_ms is None else event.time_ms
        if time_ms is None:
            raise ValueError("the event has no time")
        return Row(event.user_id, event.item_id, event.type, event.value, time_ms)


_LOGGED = _Logged()


def find_files(path: Path | str) -> list[Path]:
    """Return the files of the one data set at a path; raise InvalidRequest if there is none."""
    path = Path(path)
    if path.is_file():
        return [path]
    if not path.is_dir():
        raise InvalidRequest(f"there is no file or folder {path}")
    found = [[path / name] for name in KNOWN_NAMES if (path / name).is_file()]
    archived = groupby(sorted(archive.files(path), key=_namespace), _namespace)
    found += [[file.path for file in files] for _, files in archived]
    for train in sorted(path.glob("*_train_full.txt")):
        test = train.with_name(train.name.replace("_train_full.txt", "_test.txt"))
        found.append([train, test] if test.is_file() else [train])
    if not found:
        raise InvalidRequest(
            f"{path} has no u.data, ratings.*, yoochoose-clicks.dat, *_train_full.txt or archive:"
            " name the file itself"
        )
    if len(found) > 1:
        names = ", ".join(files[0].name for files in found)
        raise InvalidRequest(f"{path} has more than one data set: name one of {names}")
    return found[0]


def _namespace(file: archive.ArchiveFile) -> str:
    return file.namespace


def total_bytes(path: Path | str) -> int:
    """Return how many bytes `read` will read at a path."""
    return sum(file.stat().st_size for file in find_files(path))


class _Rows:
    """The events that were kept, as columns in the order of the file, and the counts of all."""

    def __init__(self, min_rating: float | None, on_bad: Callable[[BadLine], None]) -> None:
        self.bad = BadLines(on_bad)
        self.n_filtered = 0
        self.users, self.items, self.types = array("i"), array("i"), array("i")
        self.values = array("d")
        self.times = array("q")
        self._codes: dict[str, int] = {}
        self._names: list[str] = []
        self._min_rating = min_rating

    def take(self, form: Form, raw: object, path: Path, number: int) -> None:
        """Keep, leave out or report one line."""
        self.bad.n_lines += 1
        try:
            row = form.parse(raw)
            user, item = self._code("user id", row.user), self._code("item id", row.item)
            type_ = self._code("type", row.type)
        except (ValueError, OverflowError, csv.Error, msgspec.DecodeError) as error:
            self.bad.report(path, number, str(error))
            return
        floor = form.min_rating if self._min_rating is None else self._min_rating
        if row.type == "rating" and row.value is not None and row.value < floor:
            self.n_filtered += 1
            return
        self.users.append(user)
        self.items.append(item)
        self.types.append(type_)
        self.values.append(math.nan if row.value is None else row.value)
        self.times.append(row.time_ms)

    def feedback(self, index: int) -> Feedback:
        """Make the event of one row."""
        user, item = self._names[self.users[index]], self._names[self.items[index]]
        type_, value = self._names[self.types[index]], self.values[index]
        time_ms = self.times[index]
        event_id = derive_event_id(user, item, type_, time_ms)
        return Feedback(event_id, user, item, type_, None if math.isnan(value) else value, time_ms)

    def forget_codes(self) -> None:
        """Free what only `take` needs."""
        self._codes.clear()

    def _code(self, what: str, name: str) -> int:
        code = self._codes.get(name)
        if code is None:
            check_id(what, name)
            code = self._codes[name] = len(self._names)
            self._names.append(name)
        return code
