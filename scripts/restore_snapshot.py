"""`sluice restore-snapshot`: look at snapshots, verify them, go back to one.

With the service up, a restore goes through the log, so that every replica follows. With it down,
this starts the embedded store itself, puts the command into the log, and the next start applies it.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from app import events, snapshot
from app.embedded import is_locked, running_socket
from app.errors import Conflict, InvalidRequest, NotFound, SluiceError, SnapshotRefused
from app.events import Command, Configure, Entry, format_time, parse_time
from app.keeper import read_snapshot
from app.main import opened_store
from app.settings import Settings, load_settings
from app.store import Store, parse_cursor
from learners.ids import State
from scripts.serve import fail

app = typer.Typer(help="Look at snapshots, verify them, go back to one.", no_args_is_help=True)
# Piped into a file, a table need not fit a terminal.
console = Console() if Console().is_terminal else Console(width=120)

SnapshotId = Annotated[str, typer.Argument(metavar="ID", help="a snapshot's id; see `list`")]


@app.command("list")
def list_() -> None:
    """List the snapshots, newest first."""
    _run(_list)


@app.command()
def show(snapshot_id: SnapshotId) -> None:
    """Show what a snapshot holds."""
    _run(lambda store, settings: _show(store, snapshot_id))


@app.command()
def verify(snapshot_id: SnapshotId) -> None:
    """Read a snapshot whole, and say whether it could be restored."""
    _run(lambda store, settings: _verify(store, snapshot_id))


@app.command()
def restore(
    snapshot_id: Annotated[str | None, typer.Argument(metavar="[ID]")] = None,
    at: Annotated[
        str | None,
        typer.Option(help="instead of an ID: the newest one written until then (RFC 3339)"),
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="do not ask")] = False,
    whole: Annotated[
        bool, typer.Option("--whole", help="everything, into another namespace, service down")
    ] = False,
    into: Annotated[
        str | None, typer.Option(help="with --whole: the new namespace (SLUICE_NAMESPACE)")
    ] = None,
    reason: Annotated[str, typer.Option(help="for the record")] = "restored by hand",
) -> None:
    """Go back to a snapshot's shadow, champion, anchor and gate. Histories and events stay.

    With --whole all of it comes back, as it was, under a namespace that has no log yet.
    """
    if (snapshot_id is None) == (at is None):
        fail(InvalidRequest("give either an ID or --at TIME"))
    if whole != (into is not None):
        fail(InvalidRequest("--whole and --into NAMESPACE go together"))

    async def act(store: Store, settings: Settings) -> None:
        chosen = _checked(snapshot_id or await _newest_until(store, str(at)))
        await store.pin_snapshot(chosen)
        manifest, state = await _read(store, chosen)
        await (
            _restore_whole(store, settings, manifest, state, str(into), yes=yes)
            if whole
            else _restore(store, manifest, reason, yes=yes)
        )

    _run(act)


def _run(act: Callable[[Store, Settings], Awaitable[None]]) -> None:
    async def inside() -> None:
        settings = load_settings()
        async with reached_store(settings) as store:
            await act(store, settings)

    try:
        asyncio.run(inside())
    except SluiceError as error:
        fail(error)


@asynccontextmanager
async def reached_store(settings: Settings) -> AsyncIterator[Store]:
    """Open the store: through the running service's server, or by starting our own."""
    folder = settings.data_dir / "store"
    socket = None if settings.redis_url else running_socket(folder)
    if socket is not None and is_locked(folder):
        store = Store(socket, settings)
        try:
            await store.open()
            yield store
        finally:
            await store.close()
    elif not settings.redis_url and not folder.is_dir():
        raise NotFound(f"there is no store in {folder}; see SLUICE_DATA_DIR")
    else:
        async with opened_store(settings) as (store, _):
            yield store


# -- reading ----------------------------------------------------------------------------------


async def _list(store: Store, settings: Settings) -> None:
    table = Table(title=f"snapshots of namespace {settings.namespace!r}")
    for name in ("id", "written at", "events", "version", "gate", "blessings", "MiB"):
        is_text = name in ("id", "written at", "gate")
        table.add_column(name, justify="left" if is_text else "right", no_wrap=is_text)
    for manifest in reversed(await store.list_snapshots()):
        try:
            snapshot.check_manifest(manifest)
        except SnapshotRefused as error:
            table.add_row(manifest["id"], _written_at(manifest), style="red")
            console.print(error.message, style="red", highlight=False)
            continue
        table.add_row(
            manifest["id"],
            _written_at(manifest),
            f"{manifest['n_events']:,}",
            str(manifest["model_version"]),
            manifest["gate"],
            str(manifest["n_blessings"]),
            f"{manifest['bytes'] / 2**20:.1f}",
        )
    console.print(table)


def _written_at(manifest: dict[str, Any]) -> str:
    return format_time(parse_cursor(manifest["id"])[0])


async def _show(store: Store, snapshot_id: str) -> None:
    manifest = await store.read_manifest(_checked(snapshot_id))
    snapshot.check_manifest(manifest)
    shown = {"written_at": _written_at(manifest)} | manifest
    shown["watermark"] = format_time(shown.pop("watermark_ms"))
    shown["chunks"] = f"{len(manifest['chunks'])} chunks"
    for name, value in shown.items():
        console.print(f"{name:>14}  {value}", highlight=False)


async def _verify(store: Store, snapshot_id: str) -> None:
    manifest, _ = await _read(store, snapshot_id)
    console.print(f"snapshot {manifest['id']} is whole: {manifest['bytes']:,} bytes verified")


async def _read(store: Store, snapshot_id: str) -> tuple[dict[str, Any], State]:
    manifest = await store.read_manifest(_checked(snapshot_id))
    return manifest, await read_snapshot(store, snapshot_id)


def _checked(snapshot_id: str) -> str:
    parse_cursor(snapshot_id)
    return snapshot_id


async def _newest_until(store: Store, text: str) -> str:
    try:
        limit_ms = parse_time(text)
    except ValueError as error:
        raise InvalidRequest(f"--at: {error}") from None
    ids: list[str] = [manifest["id"] for manifest in await store.list_snapshots()]
    until = [snapshot_id for snapshot_id in ids if parse_cursor(snapshot_id)[0] <= limit_ms]
    if not until:
        raise NotFound(f"there is no snapshot from {text} or before")
    return until[-1]


# -- restoring --------------------------------------------------------------------------------


async def _restore(store: Store, manifest: dict[str, Any], reason: str, *, yes: bool) -> None:
    console.print(
        f"shadow, champion, anchor and gate go back to {_written_at(manifest)}"
        f" (model version {manifest['model_version']}, {manifest['n_events']:,} events)."
        " Histories, catalogue and the events since then stay.",
        highlight=False,
    )
    if not yes:
        typer.confirm("Restore?", abort=True)
    # Again: whoever was asked may have taken a day to answer.
    await store.pin_snapshot(manifest["id"])
    await _read(store, manifest["id"])
    command = Command("restore", reason, "restore-snapshot", snapshot_id=manifest["id"])
    [cursor] = await store.append([(events.encode(Entry([command])), "restore-snapshot")])
    console.print(
        f"the log restores it at {cursor}: a service that is up has it now,"
        " one that is down will have it at its next start"
    )


async def _restore_whole(
    store: Store,
    settings: Settings,
    manifest: dict[str, Any],
    state: State,
    namespace: str,
    *,
    yes: bool,
) -> None:
    target = load_settings(namespace=namespace)  # refuses a name that no service could have
    console.print(
        f"everything goes back to {_written_at(manifest)}, under the namespace {namespace!r}."
        f" The namespace {settings.namespace!r} stays as it is.",
        highlight=False,
    )
    if not yes:
        typer.confirm("Restore?", abort=True)
    copy = Store(store.url, target)
    try:
        if await copy.first_cursor() is not None:
            raise Conflict(f"the namespace {namespace!r} has a log already")
        # The log last: without it the namespace is still free, and a second try is allowed.
        await copy.write_snapshot(*snapshot.dump(state, manifest["id"]))
        first = Configure(state["semantics"], state["settings"])
        await copy.seed(manifest["id"], events.encode(Entry([first])))
    finally:
        await copy.close()
    console.print(f"done: start the service with SLUICE_NAMESPACE={namespace}")


if __name__ == "__main__":
    app()
