"""Items in files, NDJSON, CSV or Parquet: read to be sent, and written as they were sent.

A row has item_id, categories (a list, or text separated by |), hidden, available_from and
available_until; every other column is an attribute.
"""

from __future__ import annotations

import codecs
import csv
import math
from collections.abc import Iterable, Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import msgspec
import orjson
from pydantic import ValidationError

from app.api.schemas import ItemInList
from app.errors import InvalidRequest
from scripts.bad_lines import BadLines
from scripts.formats import BATCH_ROWS, NUMBER, OnProgress, RawLines, lines, rows_of, split_line

FIELDS = ("item_id", "categories", "hidden", "available_from", "available_until")
SUFFIXES = (".ndjson", ".jsonl", ".csv", ".parquet")
SEPARATOR = "|"

_BOOLEANS = {"true": True, "false": False}
# What a row cannot be an item for.
_BAD = (ValueError, ValidationError, msgspec.DecodeError, csv.Error)

Row = dict[str, Any]
"""An item as /v1/items takes it."""


def read_items(
    path: Path, texts: set[str], bad: BadLines, on_progress: OnProgress = lambda _: None
) -> Iterator[tuple[int, Row]]:
    """Yield the line numbers and items of a file; what is none is reported.

    In CSV a column whose every value reads as a number, or every one as true or false, is taken
    so, unless it is among `texts`. Raises InvalidRequest for a file that cannot be read.
    """
    form, raws = _opened(path, texts, on_progress)
    for number, raw in raws:
        bad.n_lines += 1
        try:
            yield number, _checked(form.parse(raw))
        except _BAD as error:
            bad.report(path, number, _message(error))


def suffix_of(path: Path) -> str:
    """Return what kind of file a path names; raise InvalidRequest if it is none of ours."""
    if path.suffix not in SUFFIXES:
        raise InvalidRequest(f"{path}: its name must end with {', '.join(SUFFIXES)}")
    return path.suffix


def _opened(path: Path, texts: set[str], on_progress: OnProgress) -> tuple[_Form, RawLines]:
    suffix = suffix_of(path)
    if not path.is_file():
        raise InvalidRequest(f"there is no file {path}")
    if suffix == ".parquet":
        return _Form(), rows_of(path, lambda names: names, on_progress)
    if suffix != ".csv":
        return _Lines(), lines(path, 0, on_progress)
    with path.open("rb") as file:
        header = file.readline().removeprefix(codecs.BOM_UTF8).decode("utf-8", "replace")
    names = [name.strip() for name in split_line(header.rstrip("\r\n"), ",")]
    if "item_id" not in names:
        raise InvalidRequest(f"{path} has no column item_id; it has {', '.join(names)[:500]}")
    return _Table(names, texts, path), lines(path, 1, on_progress)


def _checked(row: Row) -> Row:
    """Return a row as the service takes it; raise ValueError if it does not."""
    item: Row = {name: row[name] for name in FIELDS if name in row}
    if isinstance(item.get("item_id"), int) and not isinstance(item["item_id"], bool):
        item["item_id"] = str(item["item_id"])
    if isinstance(item.get("categories"), str):
        item["categories"] = [name for name in item["categories"].split(SEPARATOR) if name]
    given = row.get("attributes")
    nested = given if isinstance(given, dict) else {}
    attributes = {
        name: value
        for name, value in row.items()
        if name not in FIELDS and not (name == "attributes" and isinstance(value, dict))
    }
    if attributes | nested:
        item["attributes"] = attributes | nested
    ItemInList.model_validate(item)
    return item


def _message(error: Exception) -> str:
    if not isinstance(error, ValidationError):
        return str(error)
    first = error.errors()[0]
    where = ".".join(str(part) for part in first["loc"][:2])
    return f"{where}: {first['msg']}, not {first['input']!r:.64}"


class _Form:
    """Rows with names, as Parquet has them: an empty cell, or NaN, says nothing."""

    def parse(self, raw: Any) -> Row:
        plain = {n: float(v) if isinstance(v, Decimal) else v for n, v in raw.items()}
        return {n: v for n, v in plain.items() if not (v is None or _is_nan(v))}


class _Lines(_Form):
    """Lines of JSON; an attribute that is null is taken away."""

    def parse(self, raw: Any) -> Row:
        row = msgspec.json.decode(raw)
        if not isinstance(row, dict):
            raise ValueError(f"a JSON object belongs here, not {type(row).__name__}")
        return row


class _Table(_Form):
    """Lines of CSV; a row is one line, and an empty cell says nothing."""

    def __init__(self, names: list[str], texts: set[str], path: Path) -> None:
        self._names = names
        self._numbers, self._booleans = set(names) - texts, set(names) - texts
        self._numbers -= {"item_id", "categories", "hidden"}
        self._find_types(path)

    def _find_types(self, path: Path) -> None:
        """Read the whole file to see which columns are numbers, and which booleans."""
        for _, raw in lines(path, 1, lambda _: None):
            try:
                cells = self._cells(raw)
            except _BAD:
                continue
            for name in [n for n in self._numbers if n in cells and not _is_number(cells[n])]:
                self._numbers.discard(name)
            for name in [n for n in self._booleans if n in cells and cells[n] not in _BOOLEANS]:
                self._booleans.discard(name)

    def _cells(self, raw: bytes) -> dict[str, str]:
        cells = split_line(raw.decode().rstrip("\r\n"), ",")
        if len(cells) != len(self._names):
            raise ValueError(f"{len(cells)} fields where {len(self._names)} belong")
        return {name: cell for name, cell in zip(self._names, cells) if cell != ""}

    def parse(self, raw: Any) -> Row:
        return {name: self._value(name, cell) for name, cell in self._cells(raw).items()}

    def _value(self, name: str, cell: str) -> object:
        if name in self._booleans or name == "hidden":
            return _BOOLEANS.get(cell, cell)
        if name not in self._numbers:
            return cell
        return int(cell) if cell.lstrip("+-").isdecimal() else float(cell)


def _is_nan(value: object) -> bool:
    return isinstance(value, float) and math.isnan(value)


def _is_number(cell: str) -> bool:
    """Tell whether a cell is a number, and no code that merely has digits, like 007."""
    digits = cell.lstrip("+-")
    return NUMBER.fullmatch(cell) is not None and not (digits[0] == "0" and digits[1:2].isdecimal())


# -- writing ----------------------------------------------------------------------------------


def row_of(view: Row) -> Row:
    """Return an item as GET /v1/items shows it as a row; what it does not have is left out."""
    row = {"item_id": view["item_id"], "categories": view["categories"], "hidden": view["hidden"]}
    row |= {name: view[name] for name in FIELDS[3:] if view[name] is not None}
    clashing = {n: v for n, v in view["attributes"].items() if n in FIELDS or n == "attributes"}
    row |= {n: value for n, value in view["attributes"].items() if n not in clashing}
    return row | {"attributes": clashing} if clashing else row


def write_items(path: Path, rows: Iterable[Row]) -> int:
    """Write rows into a file of the kind that its name says; return how many.

    For CSV and Parquet all rows are held in memory, as their columns must be known first.
    """
    writers = {".csv": _write_csv, ".parquet": _write_parquet}
    return writers.get(suffix_of(path), _write_lines)(path, rows)


def _write_lines(path: Path, rows: Iterable[Row]) -> int:
    n_rows = 0
    with path.open("wb") as file:
        for row in rows:
            file.write(orjson.dumps(row, option=orjson.OPT_APPEND_NEWLINE))
            n_rows += 1
    return n_rows


def _columns(path: Path, rows: list[Row]) -> list[str]:
    names = dict.fromkeys((*FIELDS, *(name for row in rows for name in row)))
    if "attributes" in names:
        raise InvalidRequest(
            f"{path}: an item has an attribute with the name of a field: export to .ndjson"
        )
    return list(names)


def _write_csv(path: Path, rows: Iterable[Row]) -> int:
    held = list(rows)
    names = _columns(path, held)
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(names)
        for row in held:
            writer.writerow([_cell(row.get(name)) for name in names])
    return len(held)


def _cell(value: object) -> object:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, list):
        if any(SEPARATOR in name for name in value):
            raise InvalidRequest(f"{value!r:.64} have a {SEPARATOR}: export to .ndjson or .parquet")
        return SEPARATOR.join(value)
    if isinstance(value, str) and ("\n" in value or "\r" in value):
        raise InvalidRequest(f"{value!r:.64} has more than one line: export to .ndjson or .parquet")
    return value


def _write_parquet(path: Path, rows: Iterable[Row]) -> int:
    import pyarrow as pa  # takes 0.2 s
    from pyarrow import parquet

    held = list(rows)
    names = _columns(path, held)
    kinds = {name: _kind(pa, name, held) for name in names}
    schema = pa.schema(list(kinds.items()))
    with parquet.ParquetWriter(path, schema) as writer:
        for start in range(0, len(held), BATCH_ROWS):
            part = held[start : start + BATCH_ROWS]
            columns = [_array(pa, [row.get(name) for row in part], kinds[name]) for name in names]
            writer.write_table(pa.Table.from_arrays(columns, schema=schema))
    return len(held)


def _kind(pa: Any, name: str, rows: list[Row]) -> Any:
    """Return the type of a column: of numbers and booleans the narrowest that holds them all."""
    if name == "categories":
        return pa.list_(pa.string())
    kinds = {type(row[name]) for row in rows if row.get(name) is not None}
    if str in kinds or not kinds:
        return pa.string()
    one = {frozenset({bool}): pa.bool_(), frozenset({int}): pa.int64()}
    return one.get(frozenset(kinds), pa.float64())


def _array(pa: Any, values: list[Any], kind: Any) -> Any:
    if kind == pa.float64():
        values = [None if value is None else float(value) for value in values]
    return pa.array(values, kind)
