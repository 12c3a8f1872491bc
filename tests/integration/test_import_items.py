"""`sluice import-items` and `export-items`, with a running service."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import orjson
import pytest

from tests.integration.service import Service, sluice

N = 1_200


def item(number: int) -> dict[str, Any]:
    """Return one line of a catalogue."""
    return {
        "item_id": f"import-{number:04d}",
        "categories": ["import", f"import-{number % 7}"],
        "price": number / 4,
        "import_brand": f"brand {number % 5}",
        "import_sold": number % 3 == 0,
        "available_until": "2100-01-01T00:00:00Z" if number % 2 else None,
    }


def write(path: Path, rows: list[dict[str, Any]]) -> Path:
    """Write rows into an NDJSON file."""
    path.write_bytes(b"".join(orjson.dumps(row) + b"\n" for row in rows))
    return path


def run(api: Service, *arguments: object) -> str:
    """Run a command against the service; return what it says."""
    result = sluice(*arguments, "--url", str(api.client.base_url))
    assert result.exit_code == 0, result.output
    return result.output


def imported(api: Service) -> dict[str, Any]:
    """Return the imported items by id, without when they were changed."""
    items: dict[str, Any] = {}
    page = api.get("/v1/items", n=1_000)
    while True:
        items |= {i["item_id"]: i for i in page["items"] if i["item_id"].startswith("import-")}
        if page["next"] is None:
            return {name: i | {"updated_at": None} for name, i in items.items()}
        page = api.get("/v1/items", n=1_000, cursor=page["next"])


@pytest.mark.parametrize("kind", ["ndjson", "csv", "parquet"])
def test_a_catalogue_goes_in_and_out(api: Service, kind: str, tmp_path: Path) -> None:
    """What was imported is there, as often as it is done; what is exported is the same again."""
    path = write(tmp_path / "in.ndjson", [item(number) for number in range(N)])
    for _ in range(2):
        assert f"{N:,} items" in run(api, "import-items", path, "--batch", 500)
    before = imported(api)
    assert len(before) == N
    assert before["import-0003"] == {
        "item_id": "import-0003",
        "categories": ["import", "import-3"],
        "attributes": {"price": 0.75, "import_brand": "brand 3", "import_sold": True},
        "hidden": False,
        "available_from": None,
        "available_until": "2100-01-01T00:00:00.000Z",
        "updated_at": None,
    }
    query = {"where": ["import_brand=brand 3", "price<=10"], "k": 200}
    shown = {i["item_id"] for i in api.get("/v1/recommendations/import", **query)["items"]}
    assert shown == {f"import-{n:04d}" for n in range(3, 41, 5)}
    out = tmp_path / f"out.{kind}"
    run(api, "export-items", out)
    for number in range(5):
        api.client.delete(f"/v1/items/import-{number:04d}")
    run(api, "import-items", out)
    assert imported(api) == before


def test_bad_lines_are_named_and_skipped(api: Service, tmp_path: Path) -> None:
    """What is no item, or does not fit, is told by its line; over 1 % of these end it."""
    rows = [item(number) for number in range(300)]
    rows[6]["price"] = "cheap"
    rows[9] = {"no": "id"}
    path = write(tmp_path / "in.ndjson", rows)
    said = run(api, "import-items", path)
    assert "298 items" in said
    assert "2 of 300 lines skipped" in said
    assert "in.ndjson:10: item_id" in said
    assert "in.ndjson:7: item 'import-0006': price='cheap' is a string, and price" in said
    for number in range(20, 25):
        rows[number]["price"] = "cheap"
    write(path, rows)
    result = sluice("import-items", path, "--url", str(api.client.base_url))
    assert result.exit_code == 2
    assert "7 of 300 lines cannot be read, more than 1% of them; the first: " in result.output


def test_a_service_that_is_not_there_is_named(tmp_path: Path) -> None:
    """Without a service, or a file, the command says so and stops."""
    path = write(tmp_path / "in.ndjson", [item(1)])
    for arguments, why in (
        (("import-items", path), "no answer from http://127.0.0.1:9"),
        (("import-items", tmp_path / "none.csv"), "there is no file"),
        (("export-items", tmp_path / "out.csv"), "no answer from http://127.0.0.1:9"),
        (("export-items", tmp_path / "out.xml"), "its name must end with"),
    ):
        result = sluice(*arguments, "--url", "http://127.0.0.1:9", "--retry-s", 0)
        assert result.exit_code == 2
        assert why in result.output
    assert [found.name for found in tmp_path.iterdir()] == ["in.ndjson"]
