"""`sluice rules`: check a file of rules, try it on a running service, put it in force there."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from app.errors import InvalidRequest, SluiceError
from app.rules import read_toml
from scripts.serve import fail
from scripts.service import ask_once

TOML = {"Content-Type": "application/toml"}


def rules(
    file: Annotated[
        Path | None, typer.Argument(help="TOML; without it, the rules in force are shown")
    ] = None,
    check: Annotated[bool, typer.Option("--check", help="read the file, and ask nobody")] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="show slates of sample users before and after")
    ] = False,
    put: Annotated[bool, typer.Option("--put", help="put them in force")] = False,
    user: Annotated[
        list[str] | None, typer.Option(help="with --dry-run: whose slates; repeats")
    ] = None,
    k: Annotated[int, typer.Option("-k", min=1, max=200, help="with --dry-run: how long")] = 10,
    url: Annotated[
        str | None, typer.Option(help="the service; SLUICE_HOST and SLUICE_PORT say where else")
    ] = None,
) -> None:
    """Check, try or put rules about slates; warnings name those that match nothing or fight."""
    try:
        if check + dry_run + put != (file is not None):
            raise InvalidRequest("give a file with one of --check, --dry-run and --put, or neither")
        data = b"" if file is None else _read(file)
        if check:
            typer.echo(f"{len(read_toml(data))} rules, all well-formed")
        elif dry_run:
            _show_slates(_ask(url, "POST", "/v1/rules/dry-run", data, user=user or [], k=k))
        elif put:
            _show_rules(_ask(url, "PUT", "/v1/rules", data))
        else:
            _show_rules(_ask(url, "GET", "/v1/rules"))
    except SluiceError as error:
        fail(error)


def _read(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError as error:
        raise InvalidRequest(f"{file} cannot be read: {error}") from None


def _ask(url: str | None, method: str, path: str, data: bytes = b"", **params: Any) -> Any:
    return ask_once(url, method, path, headers=TOML, content=data, params=params)


def _show_rules(content: dict[str, Any]) -> None:
    table = Table(title=f"{len(content['rules'])} rules in force")
    for name in ("rule", "kind", "items", "slates"):
        table.add_column(name, justify="right" if name in ("items", "slates") else "left")
    for view in content["rules"]:
        rule, counts = view["rule"], (f"{view['items']:,}", f"{view['slates']:,}")
        table.add_row(escape(rule["name"]), rule["kind"], *counts)
    _out(table, content)


def _show_slates(content: dict[str, Any]) -> None:
    table = Table(title="slates under these rules")
    for name in ("user", "before", "after", "was", "what the rules did"):
        table.add_column(name)
    for slate in content["slates"]:
        did = ", ".join(f"{name} {n}" for name, n in slate["did"].items())
        after = [item["item_id"] for item in slate["after"]]
        was = [str(item["was"] or "new") for item in slate["after"]]
        columns = (slate["before"], after, was)
        table.add_row(escape(slate["user_id"]), *(escape("\n".join(c)) for c in columns), did)
        table.add_section()
    _out(table, content)


def _out(table: Table, content: dict[str, Any]) -> None:
    Console().print(table)
    for warning in content["warnings"]:
        typer.echo(f"warning: {warning['message']}")


if __name__ == "__main__":
    typer.run(rules)
