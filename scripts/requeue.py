"""`sluice requeue`: let a running service learn again what its gate has set aside."""

from __future__ import annotations

from typing import Annotated

import typer

from app.errors import SluiceError
from scripts.serve import fail
from scripts.service import ask_once


def requeue(
    reason: Annotated[str, typer.Option(help="why: it is kept with the decision")],
    without: Annotated[
        list[str] | None, typer.Option(metavar="ITEM", help="leave out an item's events; repeats")
    ] = None,
    url: Annotated[
        str | None, typer.Option(help="the service; SLUICE_HOST and SLUICE_PORT say where else")
    ] = None,
) -> None:
    """Learn again what was set aside by a rollback, if it turns out to have been sound."""
    try:
        body = {"reason": reason, "without": without or []}
        answer = ask_once(url, "POST", "/v1/model/requeue", json=body)
    except SluiceError as error:
        fail(error)
    for decision in answer["decisions"]:
        numbers = decision["evidence"]
        if decision["kind"] == "relearn":
            typer.echo(
                f"{numbers['learned']:,} events learned again, {numbers['left_out']:,} left out,"
                f" {numbers['forgotten']:,} no longer kept"
            )


if __name__ == "__main__":
    typer.run(requeue)
