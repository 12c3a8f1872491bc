"""`sluice forget`: forget a user at once, or exactly, as if they had never been here."""

from __future__ import annotations

import asyncio
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import TimeRemainingColumn

from app import events
from app.errors import InvalidRequest, SluiceError
from app.events import Entry, UserDelete, check_id
from app.forgetting import Forgetting, Forgotten
from app.settings import Settings, load_settings
from app.store import Cursor, Store, parse_cursor
from scripts.rebuild import progress_bar
from scripts.restore_snapshot import reached_store
from scripts.serve import fail

console = Console()


def forget(
    user_id: Annotated[str, typer.Argument(metavar="USER", help="the user's id")],
    exact: Annotated[
        bool,
        typer.Option(
            "--exact", help="also what others were taught by them, and every copy of their events"
        ),
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="do not ask")] = False,
) -> None:
    """Forget a user: history, items had, attributes and id at once; with --exact, all traces.

    It reads the same settings as the service, which may go on meanwhile.
    """
    try:
        check_id("USER", user_id)
    except ValueError as error:
        fail(InvalidRequest(str(error)))
    try:
        asyncio.run(_forget(load_settings(), user_id, exact=exact, yes=yes))
    except SluiceError as error:
        fail(error)


async def _forget(settings: Settings, user_id: str, *, exact: bool, yes: bool) -> None:
    async with reached_store(settings) as store:
        if not exact:
            record = UserDelete(user_id)
            [cursor] = await store.append([(events.encode(Entry([record])), "forget")])
            console.print(f"forgotten from {cursor} on: a service that is up has done so by now")
            return
        if not yes:
            console.print(
                "The log is written anew without this user, and the model learned anew from it."
                " All snapshots but one, and the past that they kept, are gone then.",
            )
            typer.confirm("Forget?", abort=True)
        _tell(await _exactly(store, settings, user_id), user_id)


async def _exactly(store: Store, settings: Settings, user_id: str) -> Forgotten:
    with progress_bar("{task.percentage:>3.0f} %") as progress:
        progress.columns = (*progress.columns, TimeRemainingColumn())
        tasks = {}

        def tell(what: str, at: Cursor, end: Cursor) -> None:
            ms, end_ms = parse_cursor(at)[0], parse_cursor(end)[0]
            if what not in tasks:
                tasks[what] = (progress.add_task(what, total=max(1, end_ms - ms)), ms)
            task, begin_ms = tasks[what]
            progress.update(task, completed=ms - begin_ms)

        return await Forgetting(store, settings, user_id, tell).run()


def _tell(done: Forgotten, user_id: str) -> None:
    console.print(
        f"{done.n_records:,} records of {user_id!r} are gone from the log; quarantine, snapshots"
        " and archive have none either.",
        highlight=False,
    )
    if not done.is_exact:
        console.print(
            "NOT exact: the log's beginning had been trimmed, and there is no archive of it."
            " What others were taught before that stays in the shared counts, and names nobody."
            " Events in quarantine under ids that were merged into the user before that stay there:"
            " nothing tells any more whose they were.",
            style="yellow",
        )
        return
    console.print(f"exact, as of {done.cursor}:", highlight=False)
    for name, value in done.hashes.items():
        console.print(f"{name} {value}", highlight=False, soft_wrap=True)


if __name__ == "__main__":
    typer.run(forget)
