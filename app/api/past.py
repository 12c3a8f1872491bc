"""Lists of the past, by `sluice recommend` in a process of its own, one at a time.

To rebuild a state takes seconds of a core and as much memory as the service has: this process
neither waits nor grows for it.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import subprocess
import sys
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any

import orjson

from app.archive import Archive
from app.conditions import to_json
from app.errors import (
    ArchiveRefused,
    InvalidRequest,
    NotFound,
    RebuildFailed,
    SluiceError,
    SnapshotRefused,
    StoreUnavailable,
    TooManyRequests,
)
from app.past import Past
from app.recommend import Request
from app.settings import PREFIX, Settings
from app.store import Cursor, Store

# The process that serves goes first, but where all cores are busy this one must get on, too.
NICENESS = 5
# Where this very program lies: a service does not always stand in its own folder.
_PROGRAM = Path(__file__).parents[2]
_KNOWN = {
    kind.code: kind
    for kind in (ArchiveRefused, InvalidRequest, NotFound, SnapshotRefused, StoreUnavailable)
}

Receive = Callable[[], Awaitable[Mapping[str, Any]]]
"""What tells of a client that hangs up (ASGI)."""


class PastAnswers:
    """Answers a request as of a cursor of the log."""

    def __init__(self, settings: Settings, store: Store) -> None:
        self._settings = settings
        self._store = store
        self._is_busy = False

    async def recommend(self, request: Request, at: Cursor, receive: Receive) -> bytes:
        """Return the JSON of what would have been answered; end the work if the client goes.

        Raises NotFound for what is not kept, TooManyRequests while another one is being made.
        """
        self._refuse_if_busy()
        await Past(self._store, await asyncio.to_thread(self._archive)).check(at)
        self._refuse_if_busy()  # there may be another one by now
        self._is_busy = True
        try:
            return await self._run(_arguments(request, at), receive)
        finally:
            self._is_busy = False

    def _refuse_if_busy(self) -> None:
        if self._is_busy:
            raise TooManyRequests("another list of the past is being made, and it is one at a time")

    def _archive(self) -> Archive | None:
        settings = self._settings
        if not settings.archive_dir:
            return None
        return Archive(Path(settings.archive_dir), settings.namespace)

    async def _run(self, arguments: list[str], receive: Receive) -> bytes:
        process = await asyncio.to_thread(self._start, arguments)
        said = asyncio.create_task(asyncio.to_thread(_output, process))
        gone = asyncio.create_task(_hung_up(receive))
        try:
            await asyncio.wait(
                {said, gone},
                timeout=self._settings.rebuild_timeout_s,
                return_when=asyncio.FIRST_COMPLETED,
            )
            is_over, has_gone = said.done(), gone.done()
        finally:
            gone.cancel()
            process.kill()  # nothing, if it has ended
            out = await said
        if not is_over:
            raise RebuildFailed("the client has gone" if has_gone else self._too_slow())
        return out if process.returncode == 0 else _raise(out, process.returncode)

    def _start(self, arguments: list[str]) -> subprocess.Popen[bytes]:
        # -P: a folder `scripts` where the service stands is none of ours. What the process has to
        # say goes to our stderr; its stdin closes when we die, and it ends.
        command = [sys.executable, "-P", "-m", "scripts.cli", *arguments]
        pipe, env = subprocess.PIPE, self._environment()
        process = subprocess.Popen(command, stdin=pipe, stdout=pipe, env=env)
        with contextlib.suppress(OSError):
            os.setpriority(os.PRIO_PROCESS, process.pid, NICENESS)
        return process

    def _environment(self) -> dict[str, str]:
        """Return ours, with where the log is as this process has it. Secrets go no other way."""
        names = ("data_dir", "redis_url", "namespace", "store_timeout_s", "archive_dir")
        own = {PREFIX + name.upper(): str(getattr(self._settings, name)) for name in names}
        path = os.pathsep.join(filter(None, [str(_PROGRAM), os.environ.get("PYTHONPATH")]))
        return dict(os.environ) | own | {"PYTHONPATH": path}

    def _too_slow(self) -> str:
        return (
            f"it takes longer than the {self._settings.rebuild_timeout_s:g} s of"
            " SLUICE_REBUILD_TIMEOUT_S; `sluice recommend USER --at CURSOR` has no limit"
        )


def _arguments(request: Request, at: Cursor) -> list[str]:
    options = ["--json", "--tied", f"--at={at}", "-k", str(request.k)]
    options += [f"--exclude={item_id}" for item_id in request.exclude]
    options += [f"--category={name}" for name in request.categories]
    options += [f"--context={name}={value}" for name, value in request.features.items()]
    if any("\0" in option for option in options):
        raise InvalidRequest("exclude, category, context: with `at`, none may have a NUL (%00)")
    if request.filter:
        options.append(f"--filter={orjson.dumps(to_json(request.filter)).decode()}")
    explain = ["--explain"] if request.explain else []
    return ["recommend", *options, *explain, "--", str(request.user_id)]


def _output(process: subprocess.Popen[bytes]) -> bytes:
    """Return all that a process writes, when it has ended."""
    with process:
        return b"" if process.stdout is None else process.stdout.read()


async def _hung_up(receive: Receive) -> None:
    """Return when the client has hung up."""
    while (await receive())["type"] != "http.disconnect":
        pass


def _raise(out: bytes, code: int) -> bytes:
    """Raise what the command ended with."""
    with contextlib.suppress(ValueError, KeyError, TypeError):
        error = orjson.loads(out)["error"]
        kind: type[SluiceError] = _KNOWN.get(error["code"], RebuildFailed)
        raise kind(error["message"])
    raise RebuildFailed(
        f"`sluice recommend` has ended with {code}; what it said is on the stderr of the service"
    )
