"""A past state for the commands that show one: rebuilt beside the service, or without it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from app.archive import Archive, files
from app.engine import Engine
from app.errors import InvalidRequest
from app.past import Past
from app.settings import Settings, load_settings
from app.store import Cursor, Store, parse_cursor
from scripts.restore_snapshot import reached_store

console = Console(stderr=True)


def progress_bar(*columns: str, disable: bool = False) -> Progress:
    """Return a progress bar on stderr."""
    texts = [TextColumn(column) for column in columns]
    bar = (TextColumn("{task.description}"), BarColumn(), *texts, TimeElapsedColumn())
    return Progress(*bar, console=console, disable=disable)


@dataclass(frozen=True)
class Moment:
    """Which state is wanted: at a cursor or time, None for the end of the log.

    With `archive`, a folder, it comes from what is archived there, and from no store.
    """

    at: str | None
    from_beginning: bool = False
    archive: Path | None = None


@dataclass(frozen=True)
class Rebuilt:
    """An engine as it was, and how it was had: from which snapshot, with how many events."""

    engine: Engine
    begun_at: Cursor
    n_replayed: int


def rebuild(moment: Moment) -> Rebuilt:
    """Return the state of a moment; the settings say where the log is, as the service's do."""
    return asyncio.run(_rebuild(moment, load_settings()))


async def _rebuild(moment: Moment, settings: Settings) -> Rebuilt:
    async with opened_past(moment, settings) as (past, at, shown):
        past.on_entry = lambda engine: shown.advance("replaying", engine.cursor)
        engine = await past.engine_at(at)
        shown.finish()
        return Rebuilt(engine, past.begun_at, engine.n_events - past.n_before)


@asynccontextmanager
async def opened_past(
    moment: Moment, settings: Settings
) -> AsyncIterator[tuple[Past, Cursor, LogProgress]]:
    """Reach for the log that the settings name; give its past, the moment in it, and a bar."""
    async with AsyncExitStack() as stack:
        store: Store | None = None
        if moment.archive is None:
            store = await stack.enter_async_context(reached_store(settings))
        is_quiet = not console.is_terminal  # perhaps it is the service's own stderr
        bar = stack.enter_context(progress_bar("{task.percentage:>3.0f} %", disable=is_quiet))
        past = Past(store, _archive(moment, settings), from_beginning=moment.from_beginning)
        at = await past.moment(moment.at)
        yield past, at, LogProgress(bar, at)


def _archive(moment: Moment, settings: Settings) -> Archive | None:
    """Return the archive that was named, or the service's own, if it keeps one."""
    folder = moment.archive or (Path(settings.archive_dir) if settings.archive_dir else None)
    if folder is None:
        return None
    if moment.archive is not None and not files(folder, settings.namespace):
        raise InvalidRequest(
            f"{folder} holds no archive of the namespace {settings.namespace!r} (SLUICE_NAMESPACE)"
        )
    return Archive(folder, settings.namespace)


class LogProgress:
    """How far in a log something is, by the time of its entries: how many there are, nobody counts.

    Each thing that is done has a bar of its own.
    """

    def __init__(self, bar: Progress, end: Cursor) -> None:
        self._bar = bar
        self._end_ms = parse_cursor(end)[0]
        self._begin_ms: int | None = None
        self._tasks: dict[str, TaskID] = {}

    def advance(self, what: str, cursor: Cursor) -> None:
        """Note how far something is."""
        here_ms = parse_cursor(cursor)[0]
        if self._begin_ms is None:
            self._begin_ms = here_ms
        if what not in self._tasks:
            self._tasks[what] = self._bar.add_task(what, total=1.0)
        share = (here_ms - self._begin_ms) / max(1, self._end_ms - self._begin_ms)
        self._bar.update(self._tasks[what], completed=min(1.0, share))

    def finish(self) -> None:
        """Note that all is done."""
        for task in self._tasks.values():
            self._bar.update(task, completed=1.0)
