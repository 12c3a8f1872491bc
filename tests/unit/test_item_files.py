from __future__ import annotations

from decimal import Decimal
from pathlib import Path
from typing import Any

import orjson
import pyarrow as pa
import pytest
from pyarrow import parquet

from app.errors import InvalidRequest
from scripts.bad_lines import BadLine, BadLines
from scripts.item_files import read_items, row_of, write_items

VIEWS: list[dict[str, Any]] = [
    {
        "item_id": "a",
        "categories": ["shoes", "new"],
        "attributes": {"price": 20, "brand": "acme", "sold": True, "code": "007"},
        "hidden": False,
        "available_from": None,
        "available_until": "2026-12-31T00:00:00.000Z",
        "updated_at": "2026-01-01T00:00:00.000Z",
    },
    {
        "item_id": 'b "2", c',
        "categories": [],
        "attributes": {"price": 7.5, "brand": "zeta", "note": "a, b | c"},
        "hidden": True,
        "available_from": "2026-01-01T00:00:00.000Z",
        "available_until": None,
        "updated_at": None,
    },
]


def read(path: Path, *texts: str) -> tuple[list[dict[str, Any]], list[BadLine]]:
    """Return the items of a file, and the lines that are none."""
    found: list[BadLine] = []
    bad = BadLines(found.append)
    return [item for _, item in read_items(path, set(texts), bad)], found


def expected(view: dict[str, Any]) -> dict[str, Any]:
    """Return what a file says of an item."""
    names = ("item_id", "categories", "hidden", "available_from", "available_until")
    plain = {name: view[name] for name in names if view[name] not in (None, [])}
    return plain | {"attributes": view["attributes"]}


@pytest.mark.parametrize("kind", ["ndjson", "jsonl", "csv", "parquet"])
def test_what_is_written_is_read_again(kind: str, tmp_path: Path) -> None:
    """Every kind of file gives back the items that were written, types and all."""
    path = tmp_path / f"items.{kind}"
    assert write_items(path, map(row_of, VIEWS)) == 2
    items, bad = read(path)
    assert bad == []
    for item, view in zip(items, VIEWS, strict=True):
        read_back = {name: value for name, value in item.items() if value != []}
        assert read_back == expected(view)
        assert {n: type(v) for n, v in item["attributes"].items() if n != "price"} == {
            n: type(v) for n, v in view["attributes"].items() if n != "price"
        }


def test_a_column_of_a_csv_has_one_type(tmp_path: Path) -> None:
    """A column is numbers or booleans if all of it is; what one says is text stays text."""
    path = tmp_path / "items.csv"
    path.write_text(
        "item_id,categories,hidden,price,size,zip,sold\n"
        "1,a|b,false,10,42,01234,true\n2,,true,9.5,XL,99,false\n3,a,,,,,\n"
    )
    items, bad = read(path)
    assert bad == []
    assert items == [
        {
            "item_id": "1",
            "categories": ["a", "b"],
            "hidden": False,
            "attributes": {"price": 10, "size": "42", "zip": "01234", "sold": True},
        },
        {
            "item_id": "2",
            "hidden": True,
            "attributes": {"price": 9.5, "size": "XL", "zip": "99", "sold": False},
        },
        {"item_id": "3", "categories": ["a"]},
    ]
    items, _ = read(path, "price", "sold")
    assert items[0]["attributes"] == {"price": "10", "size": "42", "zip": "01234", "sold": "true"}


def test_parquet_of_others_is_read(tmp_path: Path) -> None:
    """Whole numbers as ids, timestamps, decimals, lists, and NaN for what is missing."""
    path = tmp_path / "items.parquet"
    table = pa.table(
        {
            "item_id": pa.array([1, 2]),
            "categories": pa.array([["x"], None]),
            "available_from": pa.array([1_000, None], pa.timestamp("ms")),
            "price": pa.array([Decimal("1.50"), None]),
            "weight": pa.array([float("nan"), 2.0]),
        }
    )
    parquet.write_table(table, path)
    items, bad = read(path)
    assert bad == []
    assert items == [
        {
            "item_id": "1",
            "categories": ["x"],
            "available_from": 1.0,
            "attributes": {"price": 1.5},
        },
        {"item_id": "2", "attributes": {"weight": 2.0}},
    ]


@pytest.mark.parametrize(
    ("line", "why"),
    [
        (b"{", "truncated"),
        (b"[1]", "a JSON object belongs here"),
        (b'{"categories": ["a"]}', "item_id"),
        (b'{"item_id": ""}', "item_id"),
        (b'{"item_id": "a", "tags": ["x"]}', "attributes.tags"),
        (b'{"item_id": "a", "hidden": "maybe"}', "hidden"),
        (b'{"item_id": "a", "available_from": "soon"}', "available_from"),
        (b'{"item_id": "a\xff"}', "utf-8"),
    ],
)
def test_a_line_that_is_no_item_is_named(line: bytes, why: str, tmp_path: Path) -> None:
    """Its number and what is wrong with it are told; the lines around it are read."""
    path = tmp_path / "items.ndjson"
    good = [orjson.dumps({"item_id": name}) for name in "xy"]
    path.write_bytes(b"\n".join([good[0], line, good[1], b""]))
    items, bad = read(path)
    assert [item["item_id"] for item in items] == ["x", "y"]
    assert [one.line for one in bad] == [2]
    assert why in bad[0].message


def test_too_many_bad_lines_stop(tmp_path: Path) -> None:
    """From 1,000 lines on, a file with over 1 % of bad lines is given up."""
    path = tmp_path / "items.ndjson"
    path.write_bytes(b'{"item_id": "a"}\n' * 990 + b"bad\n" * 1_000)
    with pytest.raises(InvalidRequest, match=r"11 of 1001 lines .* the first: .*:991"):
        read(path)


@pytest.mark.parametrize(
    ("name", "content", "why"),
    [
        ("items.xml", "<a>", "its name must end with"),
        ("items.csv", "id,price\n1,2\n", "no column item_id"),
        ("items.parquet", "PAR1", "no readable Parquet"),
    ],
)
def test_a_file_of_another_kind_is_refused(
    name: str, content: str, why: str, tmp_path: Path
) -> None:
    """What is no file of items is named, with what would be."""
    path = tmp_path / name
    path.write_text(content)
    with pytest.raises(InvalidRequest, match=why):
        read(path)
    with pytest.raises(InvalidRequest, match="there is no file"):
        read(tmp_path / "none.csv")


def test_what_a_csv_cannot_hold_is_said(tmp_path: Path) -> None:
    """What a line of CSV would lose is refused, with the kind of file that can hold it."""
    for change in (
        {"attributes": {"note": "two\nlines"}},
        {"categories": ["a|b"]},
        {"attributes": {"hidden": "yes"}},
    ):
        rows = [row_of(VIEWS[0] | change)]
        with pytest.raises(InvalidRequest, match=r"export to \.ndjson"):
            write_items(tmp_path / "items.csv", rows)
        path = tmp_path / "items.ndjson"
        write_items(path, rows)
        [item] = read(path)[0]
        assert {name: item[name] for name in change} == change
