"""`sluice import-items`: a catalogue from a file into a running service, over HTTP, in batches."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import orjson
import typer
from rich.console import Console

from app.errors import SluiceError
from scripts.bad_lines import BadLines, shown
from scripts.item_files import Row, read_items
from scripts.rebuild import progress_bar
from scripts.serve import fail
from scripts.service import ask, connected

# Half of what a service takes by default (SLUICE_MAX_BODY_BYTES).
MAX_BATCH_BYTES = 4 * 2**20

console = Console(stderr=True)


class _Batch:
    """Items that go out together, ready to be sent, and the lines that they stand in."""

    def __init__(self) -> None:
        self.items: list[Any] = []
        self.lines: dict[str, int] = {}
        self.n_bytes = 0

    def add(self, line: int, item: Row) -> None:
        encoded = orjson.dumps(item)
        self.items.append(orjson.Fragment(encoded))
        self.lines[item["item_id"]] = line
        self.n_bytes += len(encoded)


def import_items(
    file: Annotated[Path, typer.Argument(help="items: .ndjson, .jsonl, .csv or .parquet")],
    url: Annotated[str, typer.Option(help="of the service")] = "http://127.0.0.1:8000",
    batch: Annotated[int, typer.Option(min=1, max=10_000, help="items in one request")] = 1_000,
    text: Annotated[
        list[str] | None,
        typer.Option(metavar="COLUMN", help="of a CSV: text, though it reads as numbers; repeats"),
    ] = None,
    retry_s: Annotated[
        float, typer.Option(min=0, help="seconds to keep trying one request")
    ] = 60.0,
) -> None:
    """Create or change the items of a file; what it does not say of them stays.

    Columns are item_id, categories (a list, or separated by |), hidden, available_from and
    available_until (RFC 3339 or Unix seconds); all others are attributes. It may be stopped and
    run again. The key is read from SLUICE_ADMIN_KEY or SLUICE_API_KEY.
    """
    bad, begin, n_items = BadLines(shown(console)), time.perf_counter(), 0
    try:
        with connected(url) as client, progress_bar("{task.percentage:>3.0f} %") as progress:
            total = file.stat().st_size if file.is_file() else None
            task = progress.add_task("importing", total=total)
            items = read_items(file, set(text or ()), bad, lambda n: progress.advance(task, n))
            for one in _batches(items, batch):
                body = {"items": one.items}
                answer = ask(client, "POST", "/v1/items", retry_s, body)
                n_items += answer["upserted"]
                for refused in answer["refused"]:
                    line = one.lines[refused["item_id"]]
                    bad.report(file, line, refused["reason"])
        bad.check_share()
    except SluiceError as error:
        fail(error)
    seconds = time.perf_counter() - begin
    skipped = f", {bad.n_bad} of {bad.n_lines} lines skipped" if bad.n_bad else ""
    typer.echo(f"{n_items:,} items in {seconds:.1f} s{skipped}")


def _batches(items: Iterator[tuple[int, Row]], size: int) -> Iterator[_Batch]:
    """Yield items in batches of so many, and not too many bytes."""
    batch = _Batch()
    for line, item in items:
        batch.add(line, item)
        if len(batch.items) == size or batch.n_bytes >= MAX_BATCH_BYTES:
            yield batch
            batch = _Batch()
    if batch.items:
        yield batch


if __name__ == "__main__":
    typer.run(import_items)
