"""The formats that `sluice replay` reads: recognise a file, and read its lines or rows.

Nothing here counts, filters or sorts: that is `scripts.datasets`.
"""

from __future__ import annotations

import codecs
import csv
import math
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import msgspec

from app.archive import is_archive
from app.errors import InvalidRequest
from app.events import parse_time

DEFAULT_MIN_RATING = 4.0
PROGRESS_BYTES = 1 << 20
BATCH_ROWS = 1 << 16

RawLines = Iterator[tuple[int, Any]]
"""The number of a line or row, counted from 1, and the line or row itself."""

OnProgress = Callable[[int], None]
"""Told how many more bytes have been read."""


@dataclass(frozen=True)
class Columns:
    """The names of the columns of a generic CSV, NDJSON or Parquet file.

    The last two may be missing: a row without a type is a "rating" if it has a value, and a
    "click" if it has none.
    """

    user: str = "user_id"
    item: str = "item_id"
    time: str = "timestamp"
    type: str = "type"
    value: str = "value"


class Row(NamedTuple):
    """One event as it stands in a file; its ids are not checked yet."""

    user: str
    item: str
    type: str
    value: float | None
    time_ms: int


class Form(Protocol):
    """How one kind of file is read."""

    @property
    def min_rating(self) -> float:
        """Ratings below it are left out, if nobody says otherwise."""

    def parse(self, raw: Any) -> Row:
        """Return the event in a line or row; raise ValueError if there is none."""


def open_file(
    path: Path, columns: Columns | None, on_progress: OnProgress
) -> tuple[Form, RawLines]:
    """Recognise a file by its name and first line."""
    if path.suffix == ".parquet" and columns is None and is_archive(path):
        return _Archived(), _archived_rows(path, on_progress)
    if path.suffix == ".parquet":
        named = columns or Columns()
        return _Objects(named), _parquet_rows(path, named, on_progress)
    with path.open("rb") as file:
        first = file.readline()
    line = first.removeprefix(codecs.BOM_UTF8).decode("utf-8", "replace").rstrip("\r\n")
    if path.suffix in {".ndjson", ".jsonl"} or line.startswith("{"):
        return _Objects(columns or Columns()), lines(path, 0, on_progress)
    table = _recognise_table(path, line, columns)
    return table, lines(path, int(table.has_header), on_progress)


def _recognise_table(path: Path, line: str, columns: Columns | None) -> _Table:
    separator = "\t" if "\t" in line else ","
    try:
        cells = [cell.strip() for cell in split_line(line, separator)]
    except csv.Error:
        cells = []
    if columns is not None:
        return _with_header(path, columns, separator, cells)
    if _has(cells, _RATINGS_CSV):
        table = _with_header(path, _RATINGS_CSV, separator, cells)
        return replace(table, kind="rating", min_rating=DEFAULT_MIN_RATING)
    if _has(cells, _SESSIONS):
        return replace(_with_header(path, _SESSIONS, separator, cells), kind="click")
    if Columns.user in cells:
        return _with_header(path, Columns(), separator, cells)
    known = _WITHOUT_HEADER.get(path.name)
    if known is None:
        known = next((t for t in _WITHOUT_HEADER.values() if _fits(t, line)), None)
    if known is None:
        raise InvalidRequest(
            f"{path} is in no known format; its first line is {line[:100]!r}."
            " Name its columns with --user, --item, --time, --type, --value"
        )
    return known


def _has(cells: list[str], names: Columns) -> bool:
    return {names.user, names.item, names.time} <= set(cells)


def _fits(table: _Table, line: str) -> bool:
    """Tell whether a line without a header is a row of a table."""
    try:
        table.parse(line.encode())
    except (ValueError, csv.Error):
        return False
    return True


def _with_header(path: Path, names: Columns, separator: str, cells: list[str]) -> _Table:
    """Find the columns in a header; `type` and `value` may be missing under their usual names."""

    def find(name: str) -> int:
        if name not in cells:
            raise InvalidRequest(f"{path} has no column {name!r}; it has {', '.join(cells)[:500]}")
        return cells.index(name)

    def find_optional(name: str, usual: str) -> int | None:
        return None if name not in cells and name in {"", usual} else find(name)

    return _Table(
        separator,
        len(cells),
        find(names.user),
        find(names.item),
        find(names.time),
        find_optional(names.type, Columns.type),
        find_optional(names.value, Columns.value),
        has_header=True,
    )


def lines(path: Path, n_skipped: int, on_progress: OnProgress) -> RawLines:
    """Yield the lines that are not blank; the first `n_skipped` are a header."""
    n_bytes = 0
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            n_bytes += len(line)
            if n_bytes >= PROGRESS_BYTES:
                on_progress(n_bytes)
                n_bytes = 0
            if number > n_skipped and not line.isspace():
                yield number, line.removeprefix(codecs.BOM_UTF8) if number == 1 else line
    on_progress(n_bytes)


def _parquet_rows(path: Path, names: Columns, on_progress: OnProgress) -> RawLines:
    """Yield rows as dictionaries; timestamps become Unix seconds, those without a zone are UTC."""
    yield from rows_of(path, lambda present: _parquet_columns(path, names, present), on_progress)


def _archived_rows(path: Path, on_progress: OnProgress) -> RawLines:
    """Yield the feedback of an archived log; other records are no events."""
    for number, row in rows_of(path, lambda present: _ARCHIVED, on_progress):
        if row["kind"] == "feedback":
            yield number, row


def rows_of(
    path: Path, choose: Callable[[list[str]], Sequence[str]], on_progress: OnProgress
) -> RawLines:
    """Yield rows as dictionaries of the columns chosen from those that are there."""
    import pyarrow as pa  # takes 0.2 s, and most data sets are text
    from pyarrow import parquet

    try:
        with parquet.ParquetFile(path) as file:
            wanted = list(choose(file.schema_arrow.names))
            total_rows, total, number, reported = file.metadata.num_rows, path.stat().st_size, 0, 0
            for batch in file.iter_batches(BATCH_ROWS, columns=wanted):
                columns = [_values(pa, batch.column(name)) for name in wanted]
                for values in zip(*columns):
                    number += 1
                    yield number, dict(zip(wanted, values))
                done = total * number // total_rows
                on_progress(done - reported)
                reported = done
    except pa.ArrowException as error:
        raise InvalidRequest(f"{path} is no readable Parquet file: {error}") from None


def _parquet_columns(path: Path, names: Columns, present: list[str]) -> list[str]:
    table = _with_header(path, names, ",", present)
    wanted = [table.user, table.item, table.time, table.type, table.value]
    return [present[index] for index in wanted if index is not None]


def _values(pa: Any, column: Any) -> list[Any]:
    if not pa.types.is_timestamp(column.type):
        return list(column.to_pylist())
    milliseconds = column.cast(pa.timestamp("ms"), safe=False).cast(pa.int64()).to_pylist()
    return [None if value is None else value / 1_000 for value in milliseconds]


@dataclass(frozen=True)
class _Table:
    """Separated text: in which field each thing stands."""

    separator: str
    n_fields: int
    user: int
    item: int
    time: int
    type: int | None = None
    value: int | None = None
    kind: str = ""  # the type of every row, where the format says it
    has_header: bool = False
    min_rating: float = -math.inf

    def parse(self, raw: bytes) -> Row:
        fields = split_line(raw.decode().rstrip("\r\n"), self.separator)
        if len(fields) != self.n_fields:
            raise ValueError(f"{len(fields)} fields where {self.n_fields} belong")
        value = None if self.value is None else _number("value", fields[self.value])
        if value is None and self.kind == "rating":
            raise ValueError("the rating is empty")
        type_ = self.kind if self.type is None else fields[self.type]
        return Row(
            fields[self.user],
            fields[self.item],
            type_ or _default_type(value),
            value,
            _time(fields[self.time]),
        )


class _Archived:
    """The feedback of an archived log, as old as it was taken to be: if need be, as it arrived."""

    min_rating = -math.inf

    def parse(self, raw: dict[str, Any]) -> Row:
        time_ms = raw["arrival_ms"] if raw["time_ms"] is None else raw["time_ms"]
        if time_ms is None:
            raise ValueError("the event has no time")
        return Row(raw["user_id"], raw["item_id"], raw["type"], raw["value"], time_ms)


_ARCHIVED = ("kind", "user_id", "item_id", "type", "value", "time_ms", "arrival_ms")


@dataclass(frozen=True)
class _Objects:
    """Rows with named values: lines of JSON, or what Parquet gives."""

    columns: Columns
    min_rating: float = -math.inf

    def parse(self, raw: bytes | dict[str, Any]) -> Row:
        values = msgspec.json.decode(raw) if isinstance(raw, bytes) else raw
        if not isinstance(values, dict):
            raise ValueError(f"a JSON object belongs here, not {type(values).__name__}")
        names = self.columns
        value = _number("value", values.get(names.value))
        return Row(
            _id(names.user, values.get(names.user)),
            _id(names.item, values.get(names.item)),
            _id(names.type, values.get(names.type) or _default_type(value)),
            value,
            _time(values.get(names.time)),
        )


_U_DATA = _Table("\t", 4, 0, 1, 3, value=2, kind="rating", min_rating=DEFAULT_MIN_RATING)
_RATINGS_DAT = _Table("::", 4, 0, 1, 3, value=2, kind="rating", min_rating=DEFAULT_MIN_RATING)
_CLICKS_DAT = _Table(",", 4, user=0, time=1, item=2, kind="click")
_WITHOUT_HEADER = {
    "u.data": _U_DATA,
    "ratings.dat": _RATINGS_DAT,
    "yoochoose-clicks.dat": _CLICKS_DAT,
}
_RATINGS_CSV = Columns("userId", "movieId", "timestamp", "", "rating")
_SESSIONS = Columns("SessionId", "ItemId", "Time", "", "")

KNOWN_NAMES = (
    *_WITHOUT_HEADER,
    "ratings.csv",
    "ratings.ndjson",
    "ratings.jsonl",
    "ratings.parquet",
)
"""What a data set's file is called in its folder, pairs of session files aside."""

# float() would take more: "1_0", " 1", "nan".
NUMBER = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?")


def split_line(line: str, separator: str) -> list[str]:
    """Split a line; quotes, if there are any, are CSV's. A field may not go over the line's end."""
    if '"' not in line or len(separator) > 1:
        return line.split(separator)
    return next(csv.reader([line], delimiter=separator, strict=True))


def _default_type(value: float | None) -> str:
    return "click" if value is None else "rating"


def _id(name: str, value: object) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    raise ValueError(f"{name} must be text or a whole number, it is {value!r:.64}")


def _number(name: str, value: object) -> float | None:
    """Read a finite number; nothing, or empty text, is None."""
    if value is None or value == "":
        return None
    if isinstance(value, str) and NUMBER.fullmatch(value):
        value = float(value)
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError(f"{name} must be a number, it is {value!r:.64}")
    if not math.isfinite(value):
        raise ValueError(f"{name} must be finite, it is {value!r:.64}")
    return float(value)


def _time(value: object) -> int:
    """Read Unix seconds, as a number or as text, or RFC 3339; return Unix milliseconds."""
    if isinstance(value, str):
        if value.isdecimal() and value.isascii():
            value = int(value)
        elif NUMBER.fullmatch(value):
            value = float(value)
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise ValueError(f"time must be Unix seconds or RFC 3339, it is {value!r:.64}")
    return parse_time(value)
