"""`sluice import-features`: what a feature store says of items, into a running service."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from typing import Annotated, Any, NamedTuple

import typer

from app.errors import InvalidRequest, SluiceError
from app.feature_store import read_items
from app.features import Feature, check_feature_store_url
from app.settings import load_settings
from scripts.export_items import pages
from scripts.rebuild import progress_bar
from scripts.serve import fail
from scripts.service import ask, connected


def import_features(
    store: Annotated[
        str, typer.Option(help="redis://... or feast+http://...; SLUICE_FEATURE_STORE_URL if none")
    ] = "",
    key: Annotated[str, typer.Option(help="the name of an item's hash")] = "features:{item_id}",
    url: Annotated[str, typer.Option(help="of the service")] = "http://127.0.0.1:8000",
    every: Annotated[
        float, typer.Option(min=0, help="seconds between two rounds; 0: one round")
    ] = 0.0,
    max_age_s: Annotated[
        float | None, typer.Option(min=0, help="seconds after which a value is too old")
    ] = None,
    retry_s: Annotated[
        float, typer.Option(min=0, help="seconds to keep trying one request")
    ] = 60.0,
) -> None:
    """Give all items of a service the features that SLUICE_FEATURES declares of items.

    They become attributes; what the store does not say, or not of late, is taken away. Only what
    has changed is sent. The key is read from SLUICE_ADMIN_KEY or SLUICE_API_KEY.
    """
    try:
        asked = _Asked(*_store_and_features(store), _checked(key), max_age_s)
        while True:
            try:
                _round(asked, url, retry_s)
            except SluiceError as error:
                if not every:
                    raise
                typer.echo(f"sluice: {error.message}; once more in {every:g} s", err=True)
            if not every:
                return
            time.sleep(every)
    except SluiceError as error:
        fail(error)


class _Asked(NamedTuple):
    """Where to read what."""

    store: str
    features: dict[str, Feature]
    key: str
    max_age_s: float | None


def _store_and_features(store: str) -> tuple[str, dict[str, Feature]]:
    settings = load_settings()
    store = store or settings.feature_store_url
    features = {name: f for name, f in settings.features.items() if f.of == "item"}
    if not features:
        raise InvalidRequest("SLUICE_FEATURES declares no feature of items")
    if not store:
        raise InvalidRequest("say where to read: --store, or SLUICE_FEATURE_STORE_URL")
    try:
        check_feature_store_url(store)
    except ValueError as error:
        raise InvalidRequest(f"--store: {error}") from None
    return store, features


def _checked(key: str) -> str:
    if "{item_id}" not in key:
        raise InvalidRequest(f"--key {key!r} needs {{item_id}} in it")
    return key


def _round(asked: _Asked, url: str, retry_s: float) -> None:
    n_items = n_changed = 0
    with connected(url) as client, progress_bar("{task.completed:,} items") as progress:
        task = progress.add_task("importing", total=None)
        for items in pages(client, retry_s):
            changed = list(_changed(asked, items))
            if changed:
                answer = ask(client, "POST", "/v1/items", retry_s, {"items": changed})
                n_changed += answer["upserted"]
                for refused in answer["refused"]:
                    typer.echo(f"{refused['item_id']}: {refused['reason']}", err=True)
            n_items += len(items)
            progress.advance(task, len(items))
    typer.echo(f"{n_changed:,} of {n_items:,} items changed")


def _changed(asked: _Asked, items: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """Yield those of some items of which the store says something new, with what it says."""
    ids = [item["item_id"] for item in items]
    reading = read_items(asked.store, asked.key, ids, asked.features, asked.max_age_s)
    for item, told in zip(items, asyncio.run(reading)):
        has = item["attributes"]
        if news := {name: value for name, value in told.items() if has.get(name) != value}:
            yield {"item_id": item["item_id"], "attributes": news}


if __name__ == "__main__":
    typer.run(import_features)
