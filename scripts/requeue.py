"""`sluice requeue`: let a running service learn again what its gate has set aside."""

from __future__ import annotations

from typing import Annotated, Any

import httpx
import typer

from app.errors import InvalidRequest, SluiceError
from app.settings import load_settings
from scripts.serve import fail


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
        answer = _post(url, {"reason": reason, "without": without or []})
    except SluiceError as error:
        fail(error)
    for decision in answer["decisions"]:
        numbers = decision["evidence"]
        if decision["kind"] == "relearn":
            typer.echo(
                f"{numbers['learned']:,} events learned again, {numbers['left_out']:,} left out,"
                f" {numbers['forgotten']:,} no longer kept"
            )


def _post(url: str | None, body: dict[str, Any]) -> dict[str, Any]:
    settings = load_settings()
    url = url or f"http://{settings.host}:{settings.port}"
    key = settings.admin_key or settings.api_key
    headers = {} if key is None else {"X-API-Key": key.get_secret_value()}
    try:
        response = httpx.post(f"{url}/v1/model/requeue", json=body, headers=headers, timeout=60.0)
    except httpx.TransportError as error:
        raise InvalidRequest(f"no answer from {url}: {error}") from None
    if response.is_error:
        raise InvalidRequest(f"the service says: {response.text[:500]}")
    answer: dict[str, Any] = response.json()
    return answer


if __name__ == "__main__":
    typer.run(requeue)
