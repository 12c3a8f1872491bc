"""`sluice recommend`: what a user would be shown, now or at some moment of the past."""

from __future__ import annotations

import os
import threading
from typing import Annotated, Any

import msgspec
import orjson
import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from app.api.recommendations import slate_content
from app.conditions import Condition, checked, of_categories, parse, parse_where
from app.errors import InvalidRequest, SluiceError
from app.events import format_time
from app.feature_state import check_names
from app.recommend import Request
from app.store import parse_cursor
from scripts.rebuild import Moment, rebuild
from scripts.serve import fail


def recommend(
    user: Annotated[str, typer.Argument(help="whose list")],
    at: Annotated[
        str | None,
        typer.Option(metavar="CURSOR|TIME", help="as of then (RFC 3339); else the log's end"),
    ] = None,
    k: Annotated[int, typer.Option("-k", min=1, max=200, help="length of the list")] = 10,
    exclude: Annotated[
        list[str] | None, typer.Option(metavar="ITEM", help="leave out an item; repeats")
    ] = None,
    category: Annotated[
        list[str] | None, typer.Option(metavar="NAME", help="any of these; repeats")
    ] = None,
    category_all: Annotated[
        list[str] | None, typer.Option(metavar="NAME", help="all of these; repeats")
    ] = None,
    category_none: Annotated[
        list[str] | None, typer.Option(metavar="NAME", help="none of these; repeats")
    ] = None,
    where: Annotated[
        list[str] | None, typer.Option(metavar="CONDITION", help="like price<=20; repeats")
    ] = None,
    filter_: Annotated[
        str | None, typer.Option("--filter", metavar="JSON", help="as in POST /v1/recommendations")
    ] = None,
    context: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME=VALUE", help="a declared feature of the request; repeats"),
    ] = None,
    explain: Annotated[bool, typer.Option("--explain", help="with the parts of scores")] = False,
    json: Annotated[bool, typer.Option("--json", help="as the service would answer")] = False,
    tied: Annotated[bool, typer.Option("--tied", hidden=True)] = False,
) -> None:
    """Rebuild the state of a moment and print what it recommends, as the service would have.

    The settings are read as `sluice serve` reads them. It works beside a running service.
    """
    if tied:
        threading.Thread(target=_end_with_stdin, daemon=True).start()
    try:
        condition = sum(map(parse_where, where or []), _parsed(filter_))
        condition += of_categories("all", category_all or [])
        condition = checked(condition + of_categories("none", category_none or []))
        features = dict(map(_named, context or []))
        rebuilt = rebuild(Moment(at))
        check_names(rebuilt.engine.features, features)
    except SluiceError as error:
        if json:
            typer.echo(orjson.dumps({"error": {"code": error.code, "message": error.message}}))
        fail(error)
    request = Request(
        user,
        k,
        exclude or [],
        category or [],
        explain=explain,
        filter=condition,
        features=features,
    )
    slate = rebuilt.engine.recommend(request)
    content = {"recommendation_id": None, "user_id": user, "at": rebuilt.engine.cursor}
    content |= msgspec.to_builtins(slate_content(slate, None))
    if json:
        typer.echo(orjson.dumps(content))
    else:
        _show(content, explain=explain)


def _named(text: str) -> tuple[str, str]:
    """Return name and value of a feature that is given as NAME=VALUE."""
    name, equals, value = text.partition("=")
    if not equals:
        raise InvalidRequest(f"--context {text!r:.64} is no NAME=VALUE")
    return name, value


def _parsed(text: str | None) -> Condition:
    """Return the condition that is given as JSON, if one is."""
    try:
        given = orjson.loads(text or b"{}")
        return sum(map(parse, given if isinstance(given, list) else [given]), ())
    except orjson.JSONDecodeError as error:
        raise InvalidRequest(f"--filter {text!r:.64} is no JSON: {error}") from None


def _end_with_stdin() -> None:
    """End this process when its stdin closes: the service that asked is no more."""
    while os.read(0, 1):
        pass
    os._exit(1)


def _show(content: dict[str, Any], *, explain: bool) -> None:
    """Print a list for people."""
    when = format_time(parse_cursor(content["at"])[0])
    table = Table(title=f"for {escape(content['user_id'])}, as of {content['at']} ({when})")
    columns = ("place", "item", "score", "sources", *(["why"] if explain else []))
    for name in columns:
        table.add_column(name, justify="right" if name in ("place", "score") else "left")
    for item in content["items"]:
        row = [str(item["position"]), escape(item["item_id"]), f"{item['score']:.4f}"]
        why = [f"{escape(part['because'])} {part['weight']:.4f}" for part in item.get("why", ())]
        table.add_row(*row, ", ".join(item["sources"]), *([", ".join(why)] if explain else []))
    out = Console()
    out.print(table)
    model = content["model"]
    out.print(
        f"model version {model['version']} of {model['cursor']}; gate {model['gate']},"
        f" {model['mode']}",
        highlight=False,
    )
