"""`sluice export-items`: the catalogue of a running service into a file, for `import-items`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import httpx
import typer

from app.errors import InvalidRequest, SluiceError
from scripts.item_files import row_of, suffix_of, write_items
from scripts.rebuild import progress_bar
from scripts.serve import fail
from scripts.service import ask, connected

PAGE = 1_000


def export_items(
    file: Annotated[Path, typer.Argument(help="to write: .ndjson, .jsonl, .csv or .parquet")],
    url: Annotated[str, typer.Option(help="of the service")] = "http://127.0.0.1:8000",
    retry_s: Annotated[
        float, typer.Option(min=0, help="seconds to keep trying one request")
    ] = 60.0,
) -> None:
    """Write all items that a service knows into a file that `import-items` reads.

    The key is read from SLUICE_ADMIN_KEY or SLUICE_API_KEY.
    """
    partial = file.with_name(f".{file.name}.part{file.suffix}")
    try:
        suffix_of(file)
        with connected(url) as client, progress_bar("{task.completed:,} items") as progress:
            task = progress.add_task("exporting", total=None)
            rows = (row_of(item) for items in pages(client, retry_s) for item in items)
            n_rows = write_items(partial, progress.track(rows, task_id=task))
        partial.replace(file)
    except OSError as error:
        fail(InvalidRequest(f"{file} cannot be written: {error}"))
    except SluiceError as error:
        partial.unlink(missing_ok=True)
        fail(error)
    typer.echo(f"{n_rows:,} items in {file}")


def pages(client: httpx.Client, retry_s: float) -> Iterator[list[dict[str, Any]]]:
    """Yield all items of a service as it shows them, some at a time."""
    cursor = ""
    while True:
        page = ask(client, "GET", f"/v1/items?n={PAGE}{cursor}", retry_s)
        yield page["items"]
        if page["next"] is None:
            return
        cursor = f"&cursor={page['next']}"


if __name__ == "__main__":
    typer.run(export_items)
