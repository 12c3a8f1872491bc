"""Snapshots over time: when one is due, which are kept, and how far the log may be trimmed.

When one is due is a matter of the log alone, so every replica comes by the same places. One of
them writes the snapshot; the others compare their state with it.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import platform
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager
from functools import partial
from typing import Any, NamedTuple

import orjson
from llvmlite import binding as llvm

from app import archive, forked, pages, snapshot, tasks, traces
from app.cost import SNAPSHOTS, Meter
from app.engine import Engine
from app.errors import (
    Conflict,
    CopyFailed,
    Diverged,
    NotFound,
    SluiceError,
    SnapshotRefused,
    StoreUnavailable,
)
from app.events import DAY_MS
from app.memory import Survey
from app.settings import KNOWN_SEMANTICS, Settings
from app.snapshot import FORMAT, Base, Dump, Lender, Lent, Manifest, Reading
from app.store import BEGINNING, CLAIM_TTL_S, Cursor, SnapshotWriter, Store, parse_cursor
from learners.ids import State

logger = logging.getLogger(__name__)

WholeEngine = Callable[[], AbstractAsyncContextManager[Engine]]
StartCopy = Callable[[forked.Work], Awaitable[AsyncIterator[bytes]]]

POLL_S = 0.2
# Whoever asks a service to stop kills it after half a minute, as a rule.
STOP_WAIT_S = 25.0
# What River's parts compute is the same on like processors only.
MACHINE = f"{platform.machine()} {llvm.get_host_cpu_name()}"
_DIGEST, _CHUNK, _MANIFEST, _PRINTS = b"d", b"c", b"m", b"p"
# A source of the learner that has some half of a large state.
_LENT = "covisit"
# Chunks, of 1 MiB each, that are read before they are looked into.
_AT_A_TIME = 64


async def read_snapshot(store: Store, snapshot_id: str) -> State:
    """Return a snapshot's state; raise NotFound or SnapshotRefused."""
    return await asyncio.to_thread((await _read(store, snapshot_id)).state)


async def read_engine(store: Store, snapshot_id: str) -> Engine:
    """Return an engine of a snapshot's state; raise NotFound or SnapshotRefused.

    Or what comes of a state that makes no sense: ValueError, KeyError, TypeError.
    """
    return await asyncio.to_thread(_engine_of, await _read(store, snapshot_id))


def _engine_of(reading: Reading) -> Engine:
    # Only here is the state: a future would hold on to all of it.
    return Engine.from_state(reading.state())


async def _read(store: Store, snapshot_id: str) -> Reading:
    reading = Reading()
    for manifest in reversed(await _chain(store, snapshot_id)):
        with _telling(snapshot_id, manifest["id"]):
            reading.begin(manifest)
            await _feed(reading, store.read_chunks(manifest["id"]))
            reading.end()
    return reading


async def _feed(reading: Reading, chunks: AsyncIterator[bytes | None]) -> None:
    """Feed chunks, in threads: some at a time, as each change of threads may take milliseconds."""
    held: list[bytes | None] = []

    def feed() -> None:
        for chunk in held:
            reading.feed(chunk)

    async for chunk in chunks:
        held.append(chunk)
        if len(held) == _AT_A_TIME:
            await asyncio.to_thread(feed)
            held.clear()
    await asyncio.to_thread(feed)


async def _chain(store: Store, snapshot_id: str) -> list[Manifest]:
    """Return the manifests of a snapshot and of what it builds on, newest first."""
    chain: list[Manifest] = []
    wanted: str | None = snapshot_id
    while wanted is not None:
        if chain and parse_cursor(wanted) >= parse_cursor(chain[-1]["id"]):
            raise SnapshotRefused(f"snapshot {snapshot_id} builds on a later one, {wanted}")
        with _telling(snapshot_id, wanted):
            chain.append(await store.read_manifest(wanted))
            snapshot.check_manifest(chain[-1])
        wanted = chain[-1].get("base")
    return chain


@contextmanager
def _telling(snapshot_id: str, read_id: str) -> Iterator[None]:
    """Say of what is wrong with a snapshot that another one builds on it."""
    try:
        yield
    except (NotFound, SnapshotRefused) as error:
        if read_id == snapshot_id:
            raise
        why = f"snapshot {snapshot_id} builds on another one: {error.message}"
        raise SnapshotRefused(why) from None


class Point(NamedTuple):
    """The last place of the log at which a snapshot was due: admitted events, and log time."""

    n_events: int
    ms: int


class _Job(NamedTuple):
    """A snapshot on its way: `frames` come from a copy of this process.

    It is of the log of an epoch, and so is what takes it: by now there may be another one.
    """

    cursor: Cursor
    n_events: int
    restored: dict[str, str]
    is_ours: bool
    began: float
    frames: AsyncIterator[bytes]
    epoch: bytes
    writer: SnapshotWriter


class Keeper:
    """Writes snapshots in the background and trims the log behind the oldest one kept.

    `whole` lends the engine between two entries, with all that it set aside written; `start_copy`
    runs what reads it, else copies of this process do, two where `in_two` says so; `on_diverged`
    hears that this process's state is not that of its peers; `meter` is charged for all of it.
    """

    def __init__(
        self,
        store: Store,
        settings: Settings,
        whole: WholeEngine,
        *,
        on_diverged: Callable[[Diverged], None],
        start_copy: StartCopy | None = None,
        in_two: Callable[[], bool] = pages.is_worth_two,
        meter: Meter | None = None,
    ) -> None:
        self.refused: list[str] = []
        self._refused_ids: set[str] = set()
        self._store = store
        self._settings = settings
        self._whole = whole
        self._on_diverged = on_diverged
        self._meter = meter or Meter()
        self._start_copy = start_copy
        self._in_two = in_two
        self._has_failed = False
        self._lock = asyncio.Lock()
        self._task: asyncio.Task[Any] | None = None
        self._cursor = BEGINNING
        self._point: Point | None = None
        self._base: Base | None = None

    async def restore_newest(self) -> Engine | None:
        """Return the engine of the newest snapshot that verifies, and note those that do not."""
        self.refused = []
        self._refused_ids = set()
        self._base = self._point = None
        for manifest in reversed(await self._store.list_snapshots()):
            try:
                # Made just before a failover that lost its last entry: nothing can go on from it.
                if not await self._store.continues(manifest["id"]):
                    raise SnapshotRefused(
                        f"snapshot {manifest['id']}: the log does not have its last entry"
                    )
                engine = await read_engine(self._store, manifest["id"])
            except (SnapshotRefused, NotFound, ValueError, KeyError, TypeError) as error:
                self.refused.append(str(error))
                self._refused_ids.add(manifest["id"])
                logger.error("refused at start: %s; trying the next older one", error)
                continue
            self._cursor = engine.cursor
            here = (engine.n_events, parse_cursor(engine.cursor)[0])
            self._point = Point(*(manifest.get("point") or here))
            logger.info("restored snapshot %s (%d events)", manifest["id"], engine.n_events)
            return engine
        return None

    @property
    def newest_ms(self) -> int:
        """Return the log time of the newest snapshot that this process read, wrote or compared."""
        return parse_cursor(self._cursor)[0]

    async def has_newer(self, cursor: Cursor) -> bool:
        """Tell whether there is a snapshot after a cursor, and not one that was refused."""
        ids = [manifest["id"] for manifest in await self._store.list_snapshots()]
        return any(
            parse_cursor(id_) > parse_cursor(cursor) and id_ not in self._refused_ids for id_ in ids
        )

    def is_due(self, n_events: int, cursor: Cursor) -> bool:
        """Tell whether a snapshot is due after this entry.

        To be asked after every one, but for those after which it cannot be: see `may_be_due`.
        """
        settings, ms = self._settings, parse_cursor(cursor)[0]
        last = self._point = self._point or Point(0, ms)
        age_ms = ms - last.ms
        is_due = (
            n_events - last.n_events >= settings.snapshot_events
            or age_ms >= settings.snapshot_s * 1_000
        )
        # Log time stands still where the store's clock was ahead: then events alone tell.
        if not is_due or 0 < age_ms < settings.snapshot_min_s * 1_000:
            return False
        self._point = Point(n_events, ms)
        return True

    def may_be_due(self, n_events: int, cursor: Cursor) -> bool:
        """Tell whether a snapshot may be due after an entry, with so many events at most."""
        settings, last = self._settings, self._point
        return (
            last is None
            or n_events - last.n_events >= settings.snapshot_events
            or parse_cursor(cursor)[0] - last.ms >= settings.snapshot_s * 1_000
        )

    async def begin(self) -> None:
        """Begin a snapshot of the present state, unless one is under way; return when copied."""
        if self._task is not None and not self._task.done():
            return
        try:
            job = await self._meter.timed(SNAPSHOTS, self._copy())
        except SluiceError as error:
            logger.warning("no snapshot now: %s", error.message)
            return
        self._task = asyncio.create_task(self._finish_timed(job))

    async def write(self) -> Manifest:
        """Write a snapshot of the present state, if there is none of it, and return its manifest.

        Raises Diverged where there is one, and it is of another state.
        """
        return await self._meter.timed(SNAPSHOTS, self._write())

    async def finish(self, cursor: Cursor) -> None:
        """Wait for a snapshot that is being written, and write a last one if there is news.

        Not for ever: the log has everything, and the next start only replays more of it.
        """
        try:
            async with asyncio.timeout(STOP_WAIT_S):
                if self._task is not None:
                    await self._task
                if cursor != self._cursor:
                    await self.begin()
                    if self._task is not None:
                        await self._task
        except TimeoutError:
            logger.warning("no last snapshot: it is not done within %g s", STOP_WAIT_S)

    async def _write(self) -> Manifest:
        return await self._finish(await self._copy())

    # -- one snapshot -------------------------------------------------------------------------

    async def _copy(self) -> _Job:
        """Copy the process between two entries: learning waits until that is done."""
        await self._meter.in_thread(SNAPSHOTS, pages.collapse)
        async with self._lock, self._whole() as engine:
            cursor, epoch = engine.cursor, self._store.epoch
            writer = self._store.snapshot_writer(cursor)
            if cursor in self._refused_ids:  # where a damaged one stands, there is a good one soon
                await self._store.delete_snapshot(cursor)
                self._refused_ids.discard(cursor)
            is_ours = await self._store.claim_snapshot(cursor)
            base = await self._usable_base() if is_ours else None
            more = {"machine": MACHINE, "point": self._point and list(self._point)}
            restored, n_events = _named_by_commands(engine), engine.n_events
            began = time.perf_counter()
            frames = await self._begin_copy(
                engine, partial(serialised, engine, cursor, base, is_ours=is_ours, more=more)
            )
            waited_ms = (time.perf_counter() - began) * 1_000
            logger.debug("copied at %s: learning waited for %.1f ms", cursor, waited_ms)
        return _Job(cursor, n_events, restored, is_ours, began, frames, epoch, writer)

    async def _begin_copy(
        self, engine: Engine, work: Callable[[forked.Helper | None], Iterator[bytes]]
    ) -> AsyncIterator[bytes]:
        if self._start_copy is not None:
            return await self._start_copy(lambda: work(None))
        is_in_two = self._in_two() and not self._has_failed
        helper = helper_of(engine) if is_in_two else None
        note = self._meter.note_copy
        return await forked.start(lambda: work(helper), helper, on_ended=note)

    async def _usable_base(self) -> Base | None:
        """Return what the next snapshot may build on; every so often, nothing.

        Of those kept, two at least build on nothing that the others do: one damaged chunk must
        not be the end of all.
        """
        base, period = self._base, max(1, self._settings.snapshots_keep - 1)
        # One of another format has other blocks than those whose fingerprints are known here.
        if base is None or base.manifest["format"] != FORMAT:
            return None
        if base.manifest["n_bases"] + 1 >= period:
            return None
        try:  # in a log that was rewritten, there may be another of that name
            kept = await self._store.read_manifest(base.manifest["id"])
        except (NotFound, SnapshotRefused):
            return None
        return base if kept.get("digest") == base.manifest["digest"] else None

    async def _finish_timed(self, job: _Job) -> None:
        # Made here: a task that is cancelled before its first step would leave it behind.
        await self._meter.timed(SNAPSHOTS, self._finish_quietly(job))

    async def _finish_quietly(self, job: _Job) -> None:
        try:
            await self._finish(job)
        except Diverged:  # which has been said
            pass
        except SluiceError as error:
            logger.warning("no snapshot now: %s", error.message)
        except Exception:  # a snapshot that fails must not end the service
            logger.exception("no snapshot now, by a fault of ours")

    async def _finish(self, job: _Job) -> Manifest:
        with traces.span("snapshot", cursor=job.cursor, events=job.n_events):
            async with self._claimed(job):
                digest, manifest, prints = await self._take(job)
            if manifest is None:
                manifest = await self._others(job)
                try:
                    _compare(manifest, digest)
                except Diverged as error:
                    self._on_diverged(error)
                    raise
        self._base = Base(manifest, prints)
        self._cursor = job.cursor
        if job.is_ours:
            logger.info(
                "snapshot %s: %d events, %.1f of %.1f MiB written in %.1f s",
                job.cursor,
                job.n_events,
                manifest["bytes"] / 2**20,
                manifest["state_bytes"] / 2**20,
                time.perf_counter() - job.began,
            )
            await self._forget_old(job)
        return manifest

    @asynccontextmanager
    async def _claimed(self, job: _Job) -> AsyncIterator[None]:
        """Keep others from writing a snapshot that is ours to write; a claim that is left ends."""
        if not job.is_ours:
            yield
            return
        renewing = asyncio.create_task(self._renew_claim(job.cursor))
        try:
            yield
        finally:
            await tasks.end(renewing)
            with contextlib.suppress(StoreUnavailable):
                await self._store.end_claim(job.cursor)

    async def _renew_claim(self, cursor: Cursor) -> None:
        while True:
            await asyncio.sleep(CLAIM_TTL_S / 5)
            with contextlib.suppress(StoreUnavailable):
                await self._store.renew_claim(cursor)

    async def _take(self, job: _Job) -> tuple[str, Manifest | None, list[bytes]]:
        """Take what the copy sends, writing it if it is for us to write; return what it is."""
        writer = job.writer
        digest, manifest = "", None
        prints: list[bytes] = []
        try:
            async for frame in job.frames:
                kind, content = frame[:1], frame[1:]
                if kind == _CHUNK:
                    await writer.add(content)
                elif kind == _DIGEST:
                    digest = content.decode()
                elif kind == _PRINTS:
                    prints.append(content)
                elif await writer.finish(made := orjson.loads(content)):
                    manifest = made
        except BaseException as error:
            # Should one copy ask for what the other lacks, too: those to come are whole.
            self._has_failed |= isinstance(error, CopyFailed)
            await writer.abandon()
            raise
        return digest, manifest, prints

    async def _others(self, job: _Job) -> Manifest:
        """Return the manifest that another process writes of the same place in the log.

        Raises Conflict where it is one of another log.
        """
        cursor = job.cursor
        # The claim first: whoever has ended it meanwhile has written the manifest before.
        while True:
            is_claimed = await self._store.is_claimed(cursor)
            if await self._store.has_snapshot(cursor):
                break
            if not is_claimed:
                raise StoreUnavailable(f"another process gave up writing snapshot {cursor}")
            await asyncio.sleep(POLL_S)
        manifest = await self._store.read_manifest(cursor)
        if await self._store.find_epoch() != job.epoch:
            raise Conflict("the log has been rewritten while the snapshot was made")
        return manifest

    async def _forget_old(self, job: _Job) -> None:
        """Keep the newest, those that a command in the log restores, and what these build on."""
        restored = job.restored
        manifests = {m["id"]: m for m in await self._store.list_snapshots() if _is_known(m)}
        good = [snapshot_id for snapshot_id in manifests if snapshot_id not in self._refused_ids]
        newest = good[-self._settings.snapshots_keep :]
        if not newest:  # a store that forgets has lost even the one just written
            return
        oldest = parse_cursor(newest[0])
        named = {id_ for id_, command in restored.items() if parse_cursor(command) >= oldest}
        kept = _with_bases({*newest, *named}, manifests)
        if await archive.keep(self._store, self._settings, newest[0]):
            await self._store.trim(newest[0], snapshot_id=newest[0])
        kept_ms = round(self._settings.quarantine_days * DAY_MS)
        await self._store.trim_quarantine(parse_cursor(job.cursor)[0] - kept_ms)
        # The newest first: whoever dies in between leaves none without what it builds on.
        for snapshot_id in reversed(manifests):
            if snapshot_id in kept:
                continue
            # It may be pinned for a command which is further on in the log than we are: asked only
            # now, as to archive and to trim takes a while.
            is_gone = await self._store.delete_snapshot(
                snapshot_id, even_pinned=False, epoch=job.epoch
            )
            if not is_gone:
                kept |= _with_bases({snapshot_id}, manifests)


def _named_by_commands(engine: Engine) -> dict[str, Cursor]:
    """Return the snapshots that commands restored, or were refused, and where the last one did.

    Whoever replays a command reads its snapshot, whatever comes of it.
    """
    found = dict(engine.restored)
    for decision in engine.gate.decisions:
        if decision.kind == "restore_refused":
            snapshot_id = decision.evidence["snapshot"]
            before = found.get(snapshot_id, BEGINNING)
            found[snapshot_id] = max(before, decision.cursor, key=parse_cursor)
    return found


def helper_of(engine: Engine) -> forked.Helper:
    """Return a second copy of the process for about half of the state."""
    lender = Lender(f"/learner/{_LENT}", engine.learner.sources[_LENT].state)
    arrays = Survey(engine).arrays()
    its_own = arrays.pop(_LENT)
    del arrays["versions"]  # those of its rows are read with them
    others = [array for part in arrays.values() for array in part]
    return forked.Helper(lender.answer, its_own, others)


def serialised(
    engine: Engine,
    cursor: Cursor,
    base: Base | None,
    helper: forked.Helper | None = None,
    *,
    is_ours: bool,
    more: dict[str, Any],
) -> Iterator[bytes]:
    """Yield the frames of a snapshot: its digest, chunks and manifest if wanted, fingerprints."""
    lent = {} if helper is None else {_LENT: Lent(helper.ask)}
    dump = Dump(engine.state(lent))
    yield _DIGEST + dump.digest.encode()
    if is_ours:
        for chunk in dump.chunks(base):
            yield _CHUNK + chunk
        yield _MANIFEST + orjson.dumps(dump.manifest(cursor, base, **more))
    for packed in snapshot.pack_prints(dump.prints):
        yield _PRINTS + packed


def _compare(manifest: Manifest, digest: str) -> None:
    """Raise Diverged if a snapshot of the same place in the log is of another state."""
    is_like = manifest.get("machine") == MACHINE and manifest.get("format") == FORMAT
    if is_like and manifest["digest"] != digest:
        raise Diverged(
            f"the state here differs from that of snapshot {manifest['id']}, which another process"
            " made of the same log: one of the two is wrong. This one stops learning and is not"
            " ready; `sluice replay --from-log --until` that id tells which is right. Started"
            " again, it takes over the snapshot"
        )


def _is_known(manifest: Manifest) -> bool:
    """Tell whether a snapshot is ours to delete: one of a newer program is not, a damaged is."""
    is_format = manifest.get("format", FORMAT) in snapshot.FORMATS
    return is_format and manifest.get("semantics", KNOWN_SEMANTICS[-1]) in KNOWN_SEMANTICS


def _with_bases(ids: set[str], manifests: dict[str, Manifest]) -> set[str]:
    """Return snapshots and all that they build on."""
    found: set[str] = set()
    for snapshot_id in ids:
        at: str | None = snapshot_id
        while at is not None and at not in found:
            found.add(at)
            at = manifests.get(at, {}).get("base")
    return found
