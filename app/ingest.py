"""The one loop: what is in the log is applied here, and nowhere else.

Owns the engine while the service runs. `writer` appends, `keeper` keeps snapshots; the reader here
applies the log in order, yielding to requests after every slice of learning.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import asdict
from functools import partial
from typing import Any, NamedTuple, cast

from app import collector, events, tasks, traces
from app.budget import Budget
from app.clock import Clock
from app.cost import APPENDING, LEARNING, Mark, Meter
from app.embedded import EmbeddedServer
from app.engine import TUNABLE, Engine, Outcome, begun, changed_fields, shown_setting
from app.errors import (
    Conflict,
    Delayed,
    Diverged,
    LogRewritten,
    LogStopped,
    LogTrimmed,
    NotFound,
    NothingWritten,
    SettingsError,
    SnapshotRefused,
    StoreUnavailable,
    TooManyRequests,
)
from app.events import Command, Configure, Entry, Feedback, Malformed, Record
from app.gate_data import Decision
from app.keeper import Keeper, StartCopy, read_snapshot
from app.settings import SEMANTICS, Settings
from app.slices import SIZE
from app.store import BEGINNING, Cursor, Store, StoredEntry, parse_cursor
from app.tail import Tail
from app.writer import Writer
from learners.ids import State

logger = logging.getLogger(__name__)

BLOCK_MS = 500
READ_COUNT = 64
RETRY_S = 0.1
# For as long other replicas may give back what a new server lacks, before anything new is written:
# one that has read less would shut out what another still holds. Longer than it takes all of them
# to notice (LOOK_AGAIN_S in `store`).
PEERS_S = 1.0
# Records in one transaction: 10,000 take the store, and us, a tenth of a second.
QUARANTINE_BATCH = 500
PROGRESS_S = 1.0
# From how far behind on, by the budget, feedback is acknowledged when it is in the log.
DELAYED_S = 1.0

_MAYBE_IN_LOG = (
    "what was sent may be in the log, but is not applied here yet: send it again with the same"
    " event ids"
)

_NOT_IN_LOG = NothingWritten, TooManyRequests

# Of the gate's decisions, those that someone may want to be woken for.
_LOUD = {"alarm", "hold", "rollback", "ask", "promotion_refused", "shadow_reset", "restore"} | {
    "adopt",
    "challenger_proven",
    "challenger_refuted",
    "challenger_refused",
    "interleaving_proven",
    "restore_refused",
}


class Ingest:
    """Owns the engine while the service runs: the only place where entries are applied."""

    def __init__(
        self,
        store: Store,
        settings: Settings,
        *,
        server: EmbeddedServer | None = None,
        reconfigure: bool = False,
        clock: Clock = Clock(),  # noqa: B008  frozen, hence shared without harm
        start_copy: StartCopy | None = None,
    ) -> None:
        self.store = store
        self.settings = settings
        self.engine = Engine(settings.engine())
        self.meter = Meter()
        self.budget = Budget(settings.budget_learning, self.meter, clock.monotonic)
        self.is_store_up = False
        self.stopped: LogStopped | None = None
        self.lag_s = 0.0
        self._server = server
        self._reconfigure = reconfigure
        self._clock = clock
        self._slice_ends = 0.0
        self.on_outcome: Callable[[Outcome, Entry], None] | None = None
        # Called after requests have had their turn, before anything else is done.
        self.on_turn: Callable[[], None] | None = None
        self.origin = secrets.token_hex(6)
        self._n_submitted = 0
        self._tail = Tail()
        # What was appended here, and the log may have gone on without.
        self._passed: list[StoredEntry] = []
        self._is_outage_told = False
        self.n_restored = 0
        self.n_lost = 0
        self._writer = Writer(
            store,
            on_failure=self._on_append_failed,
            on_appended=self._tail.expect,
            end=lambda: self._tail.end,
        )
        self.keeper = Keeper(
            store,
            settings,
            self.whole,
            on_diverged=self._on_diverged,
            start_copy=start_copy,
            meter=self.meter,
        )
        self._waiting: dict[str, asyncio.Future[Outcome]] = {}
        self._traced: dict[str, Any] = {}  # in which span of a request
        # Who waits for which place in the log.
        self._awaited: list[tuple[tuple[int, int], asyncio.Future[None]]] = []
        # Held while an entry is being applied: whoever needs whole entries waits for it.
        self._whole_entries = asyncio.Lock()
        self._read_count = READ_COUNT
        self._unwritten_quarantine: list[tuple[Cursor, int, bytes]] = []
        self._tasks: list[asyncio.Task[None]] = []

    # -- life ---------------------------------------------------------------------------------

    async def start(self) -> None:
        """Restore the newest snapshot that verifies, replay what came after it, then go on.

        Raises SettingsError where the log was made with other settings, or cannot be continued.
        """
        replay = self._restore_and_replay
        while (n_restored := await self.meter.timed(LEARNING, replay())) is None:
            logger.info("the log has changed while it was read: starting once more")
        self.is_store_up = True
        self.budget.begin()
        self._tasks = [
            asyncio.create_task(
                self.meter.timed(APPENDING, self._writer.run()), name="sluice-writer"
            ),
            asyncio.create_task(
                self.meter.timed(LEARNING, self._read_forever()), name="sluice-reader"
            ),
        ]
        for task in self._tasks:
            task.add_done_callback(self._on_task_done)
        if self.n - n_restored >= self.settings.snapshot_events:
            await self.keeper.begin()  # so that the next start need not replay all that again

    async def _restore_and_replay(self) -> int | None:
        """Build the engine from the newest snapshot, with so many events, and the log behind it.

        Returns None where another replica has trimmed the log meanwhile, behind a newer snapshot,
        where the log has been rewritten, or where the store has lost even the settings that begin
        it.
        """
        try:
            self.engine = await self.keeper.restore_newest() or Engine(self.settings.engine())
            await self._begin_log()
            self._tail.restart(self.engine.cursor)
            n_restored = self.n
            await self._catch_up()
            await self._agree_on_settings()
        except LogRewritten:
            self._unwritten_quarantine.clear()
            await self.store.join_epoch()
            return None
        except LogTrimmed as error:
            if await self.keeper.has_newer(self.engine.cursor):
                return None
            refused = self.keeper.refused or "none"
            raise SettingsError(
                f"{error.message}, and no snapshot verifies that it goes on from: {refused}"
            ) from None
        return n_restored if self.engine.is_configured else None

    async def stop(self) -> None:
        """Stop learning and write a last snapshot, if there is anything new."""
        self.budget.lift()
        await tasks.end(*self._tasks, holding=self._whole_entries)  # not in the middle of an entry
        if self.stopped is None:
            await self.keeper.finish(self.engine.cursor)

    def _on_task_done(self, task: asyncio.Task[None]) -> None:
        """Stop in the open if a task ends by a fault of ours: nobody awaits it while we run."""
        error = None if task.cancelled() else task.exception()
        if isinstance(error, Exception) and self.stopped is None:
            self._stop_at(self.engine.cursor, error)

    async def _begin_log(self) -> None:
        """Append the settings to an empty log; read them from one that has no snapshot."""
        if self.engine.is_configured:
            return
        if await self.store.first_cursor() is None:
            if self.keeper.refused:
                raise SettingsError(
                    "the store has lost the log, and has snapshots of it: restore the store, or use"
                    " another SLUICE_NAMESPACE"
                )
            settings = self.settings.engine().logged(SEMANTICS)
            await self._append_configure(Configure(SEMANTICS, settings))
        entries = await self.store.read(BEGINNING, block_ms=0, count=1)
        if not entries:
            raise StoreUnavailable("the store has lost the beginning of the log at once: try again")
        self.engine = begun(events.decode(entries[0].payload))

    async def _append_configure(self, record: Configure) -> None:
        await self.store.append([(events.encode(Entry([record])), f"{self.origin}-configure")])

    async def _catch_up(self) -> None:
        """Apply the log up to its present end, saying how far it is."""
        end = await self.store.last_cursor()
        if parse_cursor(end) < parse_cursor(self.engine.cursor):
            raise SettingsError(
                f"the log ends at {end}, before the snapshot {self.engine.cursor}: the store has"
                " lost entries; restore the store, or use another SLUICE_NAMESPACE"
            )
        begin_ms, end_ms = parse_cursor(self.engine.cursor)[0], parse_cursor(end)[0]
        told = self._clock.monotonic()
        while parse_cursor(self.engine.cursor) < parse_cursor(end):
            await self._flush_quarantine()
            batch = await self._read_tail()
            if not batch:
                break  # a store that forgets has lost the rest meanwhile
            for run in self._runs(batch):
                await self._apply(run)
                cursor = run[-1].cursor
                self.keeper.is_due(self.n, cursor)
                if begin_ms == 0:
                    begin_ms = parse_cursor(cursor)[0]
                if self._clock.monotonic() - told > PROGRESS_S:
                    told = self._clock.monotonic()
                    share = (parse_cursor(cursor)[0] - begin_ms) / max(end_ms - begin_ms, 1)
                    logger.info("replaying the log: %d events, %.0f %%", self.n, share * 100)
            if self.stopped is not None:
                raise SettingsError(self.stopped.message)
        await self._flush_quarantine()

    async def _read_tail(self) -> list[StoredEntry]:
        while True:
            try:
                return await self._read(block_ms=0)
            except StoreUnavailable:
                if self._read_count == 1:
                    raise

    async def _read(self, *, block_ms: int) -> list[StoredEntry]:
        """Read on; where many large entries are too much for one deadline, fewer at a time."""
        count = self._read_count
        self._read_count = max(1, count // 2)
        batch = await self.store.read(self.engine.cursor, block_ms=block_ms, count=count)
        await self._write_anew(self._tail.extend(batch))
        self._read_count = min(READ_COUNT, count + 1)
        return batch

    @asynccontextmanager
    async def whole(self) -> AsyncIterator[Engine]:
        """Lend the engine between two entries, with what it set aside written.

        Raises LogStopped where the log stopped, perhaps in the middle of an entry, and Conflict
        where there is another log, which is read next.
        """
        async with self._whole_entries:
            self._refuse_if_stopped()
            try:
                await self._flush_quarantine()
            except LogRewritten as error:
                raise Conflict(f"{error.message}: try again in a second") from None
            yield self.engine

    async def hashes(self) -> dict[str, str]:
        """Return the engine's hashes between two entries; requests go on, learning waits."""
        async with self._whole_entries:
            self._refuse_if_stopped()
            return await asyncio.to_thread(self.engine.hashes)

    def _refuse_if_stopped(self) -> None:
        if self.stopped is not None:
            raise LogStopped(self.stopped.message)  # a new one: a raised one keeps its frames

    def _on_diverged(self, error: Diverged) -> None:
        if self.stopped is None:
            self._stop_at(self.engine.cursor, error)

    def _on_append_failed(self) -> None:
        self.is_store_up = False

    @property
    def n(self) -> int:
        """Return the number of admitted events."""
        return self.engine.n_events

    async def _agree_on_settings(self) -> None:
        own = self.settings.engine()
        changed = changed_fields(self.engine.configured, own)
        if not changed:
            return
        shown = ", ".join(
            f"{name} is {shown_setting(own, name)!r} here and"
            f" {shown_setting(self.engine.configured, name)!r} in the log"
            for name in changed
        )
        fixed = sorted(set(changed) - TUNABLE)
        if fixed:
            raise SettingsError(
                f"{shown}. {', '.join(fixed)} cannot change within a log:"
                " set it back, or begin another with SLUICE_NAMESPACE"
            )
        if not self._reconfigure:
            raise SettingsError(f"{shown}. Set it back, or change the log with --reconfigure")
        await self._append_configure(
            Configure(self.engine.semantics, own.logged(self.engine.semantics), reconfigure=True)
        )
        await self._catch_up()

    # -- writing ------------------------------------------------------------------------------

    async def submit(
        self, records: Sequence[Record], *, arrival_ms: int, is_patient: bool = True
    ) -> Outcome:
        """Append records as one entry, durably, and return what applying it here did.

        Raises Delayed where the budget delays that for too long; if not `is_patient`, as soon as
        that is known.
        """
        tag, applied = self._expect()
        appended: asyncio.Future[Cursor] | None = None
        timeout_s, loop = self.settings.feedback_timeout_s, asyncio.get_running_loop()
        # Nothing but a future to be told: a timeout of asyncio's own takes five times as long.
        overdue = loop.call_later(timeout_s, _fail, applied, TimeoutError())
        try:
            appended = self._put(records, arrival_ms, tag)
            # Whoever waits is woken once, when all is done.
            appended.add_done_callback(partial(_pass_on, applied))
            if tag in self._traced:
                with traces.span("append", records=len(records)):
                    await _first_of(appended, applied)
            if not (is_patient or self.budget.share is None):
                await self._wait_unless_delayed(appended, applied)
            return await applied
        except TimeoutError:
            self._refuse_if_stopped()
            if self.budget.is_delaying and appended is not None and _is_good(appended):
                raise Delayed(appended.result()) from None
            raise StoreUnavailable(_MAYBE_IN_LOG) from None
        finally:
            overdue.cancel()
            self._waiting.pop(tag, None)
            self._traced.pop(tag, None)
            if applied.done() and not applied.cancelled():
                applied.exception()  # seen, also where putting it into the queue failed

    async def _wait_unless_delayed(
        self, appended: asyncio.Future[Cursor], applied: asyncio.Future[Outcome]
    ) -> None:
        """Wait until an entry is applied; raise Delayed as soon as that is delayed for too long."""
        await _first_of(appended, applied)
        while not applied.done():
            if _is_good(appended) and self.is_delayed:
                raise Delayed(appended.result())
            await asyncio.wait([applied], timeout=DELAYED_S / 4)

    async def submit_only(self, records: Sequence[Record], *, arrival_ms: int) -> Cursor:
        """Append records as one entry, durably, and return its cursor without waiting for more."""
        try:
            async with asyncio.timeout(self.settings.feedback_timeout_s):
                with traces.span("append", records=len(records)):
                    return await self._put(records, arrival_ms, self._next_tag())
        except TimeoutError:
            raise StoreUnavailable(_MAYBE_IN_LOG) from None

    def _next_tag(self) -> str:
        self._n_submitted += 1
        return f"{self.origin}-{self._n_submitted}"

    def _expect(self) -> tuple[str, asyncio.Future[Outcome]]:
        tag = self._next_tag()
        applied: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()
        self._waiting[tag] = applied
        if (context := traces.here()) is not None:
            self._traced[tag] = context
        return tag, applied

    def _put(self, records: Sequence[Record], arrival_ms: int, tag: str) -> asyncio.Future[Cursor]:
        """Let an entry be appended next; return what will be its cursor."""
        self._refuse_if_stopped()
        # Without its settings applied here, the entry might become the log's first.
        if not (self.is_store_up and self.engine.is_configured):
            raise StoreUnavailable("the store does not answer; nothing was written")
        self.meter.n_received += len(records)
        return self._writer.put(events.encode(Entry(list(records), arrival_ms)), tag)

    # -- reading ------------------------------------------------------------------------------

    @property
    def is_delayed(self) -> bool:
        """Tell whether learning is behind, and because its budget says so."""
        return self.lag_s >= DELAYED_S and self.budget.is_delaying

    async def _read_forever(self) -> None:
        while self.stopped is None:
            try:
                await self._read_once()
            except StoreUnavailable as error:
                if not self._is_outage_told:
                    logger.warning("%s; reads go on from memory", error.message)
                self._is_outage_told = True
                self.is_store_up = False
                self._fail_waiting(_MAYBE_IN_LOG)
                await asyncio.sleep(RETRY_S)
                await self._revive_server()
            except LogTrimmed as error:
                await self._follow(error)

    async def _revive_server(self) -> None:
        if self._server is None:
            return
        try:
            await self._server.ensure_running()
        except (SettingsError, StoreUnavailable, OSError) as error:
            logger.error("the embedded store cannot be restarted: %s", error)

    async def _read_once(self) -> None:
        if not self.is_store_up or self.store.is_new:
            await self._come_back()
        # Before the next reading, which may wait for long; it may have failed after the last one.
        if self._unwritten_quarantine:
            async with self._whole_entries:
                await self._flush_quarantine()
        count = self._read_count
        batch = await self._read(block_ms=BLOCK_MS)
        self._begin_slice()
        is_behind, rested_s = len(batch) == count, self.budget.rested_s
        for run in self._runs(batch):
            await self._apply(run)
            if self.stopped is not None:
                return
            cursor = run[-1].cursor
            if self.keeper.is_due(self.n, cursor):  # after those before it none can be
                await self.keeper.begin()
            self._note_lag(cursor)
            await self._rest(cursor)
        if not is_behind and self.budget.rested_s == rested_s:
            self.lag_s = 0.0

    async def _come_back(self) -> None:
        """Let writing begin again after an outage; at a new server, first what it may have lost."""
        # The embedded store has no other replicas to wait for.
        await self._restore_tail(also_unread=self._server is not None)
        if self.store.is_new:
            self.is_store_up = False
            primary = self.store.primary  # what yet another one lacks is another matter
            if self._server is None:
                await asyncio.sleep(PEERS_S)
            await self._restore_tail(also_unread=True)  # what follows on what they gave back
            await self.store.admit(primary)
            if await self._count_lost():  # also in the middle, where another gave back what follows
                await self._reload()
                return
        passed: list[StoredEntry] = []
        end = self._tail.end  # before we ask: what is appended meanwhile is there
        if parse_cursor(await self.store.last_cursor()) < parse_cursor(end):
            passed = self._tail.give_up(end)  # or it would keep the writer out for good
        self.is_store_up = True
        self._is_outage_told = False
        logger.info("the store answers")
        await self._write_anew(passed)

    async def _restore_tail(self, *, also_unread: bool) -> None:
        """Write what the store has lost again, from memory, before anything new.

        What was acknowledged has been applied here, hence read, hence held; or only appended
        (`ack=log`), and is held until it is read.
        """
        last = await self.store.last_cursor()
        lost = self._tail.missing(last, also_unread=also_unread)
        n_restored = await self.store.append_again(lost, after=last) if lost else 0
        self.n_restored += n_restored
        if n_restored:
            logger.warning(
                "the store had lost the last %d entries of the log: written again from memory",
                n_restored,
            )

    async def _write_anew(self, entries: Sequence[StoredEntry]) -> None:
        """Append what was appended here, and a failover left out of the log, at its end.

        Nobody has applied it, and somebody may wait for it, or have been told that it is in the
        log. An event that has come again meanwhile is known by its id. What is certain not to have
        been written waits for the next time; at a new server, all of it does until that is let in.
        """
        self._passed += entries
        if not self._passed or self.store.is_new:
            return
        try:  # another replica may have given some of it back
            gone = set(await self.store.missing([entry.cursor for entry in self._passed]))
        except StoreUnavailable:
            return
        entries = [entry for entry in self._passed if entry.cursor in gone]
        self._passed = []
        if not entries:
            return
        appending = [self._writer.append(entry.payload, entry.tag) for entry in entries]
        found = await asyncio.gather(*appending, return_exceptions=True)
        self._passed += [e for e, why in zip(entries, found) if isinstance(why, _NOT_IN_LOG)]
        n_written = sum(not isinstance(cursor, BaseException) for cursor in found)
        self.n_restored += n_written
        logger.warning(
            "the log has gone on without %d entries of ours: %d of them are written anew",
            len(entries),
            n_written,
        )

    async def _follow(self, error: LogTrimmed) -> None:
        """Go on where the log has lost the entry that we stand at: give it back, or follow it."""
        if isinstance(error, LogRewritten):  # what is held of the old one must not come back
            logger.warning("%s; restoring its snapshot", error.message)
            self._unwritten_quarantine.clear()
            try:
                await self._count_lost()
            except StoreUnavailable:
                self.is_store_up = False
                return
            await self._reload()
            return
        try:
            await self._restore_tail(also_unread=self._server is not None)
            if await self.store.continues(self.engine.cursor):  # we gave it back, or another did
                return
            await self._count_lost()
        except StoreUnavailable:
            self.is_store_up = False
            return
        logger.warning("%s; restoring the newest snapshot", error.message)
        await self._reload()

    async def _count_lost(self) -> int:
        """Say which entries the log has no more that were applied here; return how many."""
        held = {entry.cursor: entry for entry in self._tail}
        lost = await self.store.missing(list(held))
        self.n_lost += len(lost)
        if lost:
            logger.warning(
                "the log has lost %d entries (%d records) from %s to %s, which this replica had"
                " applied: the store went on without them",
                len(lost),
                sum(len(events.decode(held[cursor].payload).records) for cursor in lost),
                lost[0],
                lost[-1],
            )
        return len(lost)

    async def _reload(self) -> None:
        """Go on from the newest snapshot that the log continues; stop where there is none."""
        try:
            epoch = await self.store.find_epoch()
            engine = await self.keeper.restore_newest()
            is_empty = engine is None and await self.store.first_cursor() is None
            if is_empty and not self.engine.is_blank:
                raise SettingsError("the store has lost the log, and there is no snapshot")
            # All at once: should anything before have failed, the engine is still that of the old
            # log, which must not be taken for one of the new.
            is_rewritten = epoch != self.store.epoch  # into it goes nothing of the old one
            self._passed = [] if is_rewritten else [*self._passed, *self._tail.unread]
            self.engine, self.store.epoch = engine or Engine(self.settings.engine()), epoch
            self._tail.restart(self.engine.cursor)
            self._tell_reached(parse_cursor(self.engine.cursor))  # it may be further on
            collector.settle()
            await self._begin_log()
            await self.store.read(self.engine.cursor, block_ms=0, count=1)
        except StoreUnavailable:
            await asyncio.sleep(RETRY_S)
        except LogRewritten:  # once more, while the snapshot was read: the next reading tells
            return
        except LogTrimmed as error:
            await self._stop_unless_newer(error)
        except SettingsError as error:
            self._stop_at(self.engine.cursor, error)

    async def _stop_unless_newer(self, error: LogTrimmed) -> None:
        """Stop, unless a snapshot came meanwhile, whose writer trimmed the log: then try again."""
        try:
            if not await self.keeper.has_newer(self.engine.cursor):
                self._stop_at(self.engine.cursor, error)
        except StoreUnavailable:
            await asyncio.sleep(RETRY_S)

    def _runs(self, batch: Sequence[StoredEntry]) -> Iterator[list[Read]]:
        """Yield entries that are to be applied together: small ones of events, one after the other.

        Each as the one before it has been applied: after none but the last a snapshot may be due.
        """
        run: list[Read] = []
        n = 0
        for stored in batch:
            read = _read(stored)
            n_records = 0 if read.entry is None else len(read.entry.records)
            is_small = read.is_of_events and n_records <= SIZE and stored.tag not in self._traced
            if run and (
                not is_small
                or n + n_records > SIZE
                or self.keeper.may_be_due(self.n + n, run[-1].cursor)
            ):
                yield run
                run, n = [], 0
            run.append(read)
            n += n_records
            if not is_small:
                yield run
                run, n = [], 0
        if run:
            yield run

    async def _apply(self, run: Sequence[Read]) -> None:
        """Apply some entries in slices; one that must not be applied ends the loop."""
        done: list[Outcome] = []
        error: Exception | None = None
        try:
            entries = [read.entry or events.decode(read.payload) for read in run]
            state = await self._snapshot_for(entries[0])
            async with self._whole_entries:
                context, n = self._traced.get(run[0].tag), sum(len(e.records) for e in entries)
                try:
                    with traces.span("apply", context, records=n):
                        pairs = [(e, read.cursor) for e, read in zip(entries, run, strict=True)]
                        await self._in_slices(pairs, state, done)
                finally:
                    for outcome, entry in zip(done, entries):
                        self._take_note(outcome, entry)
        except StoreUnavailable:
            raise
        except Exception as found:  # a wrong turn here would be taken on every replica: stop
            error = found
        for read, outcome in zip(run, done):
            waiting = self._waiting.get(read.tag)
            if waiting is not None and not waiting.done():
                waiting.set_result(outcome)
            if self._awaited:
                self._tell_reached(parse_cursor(read.cursor))
        if error is not None:
            # Where all are done, what took note of them failed.
            self._stop_at(run[min(len(done), len(run) - 1)].cursor, error)

    async def _snapshot_for(self, entry: Entry) -> State | None:
        """Return the state that a restore command of the entry names."""
        for record in entry.records:
            if isinstance(record, Command) and record.name == "restore" and record.snapshot_id:
                try:
                    return await read_snapshot(self.store, record.snapshot_id)
                except (NotFound, SnapshotRefused) as error:
                    raise LogStopped(f"the log restores a snapshot, but {error.message}") from None
        return None

    async def _in_slices(
        self, entries: Sequence[tuple[Entry, Cursor]], state: State | None, done: list[Outcome]
    ) -> None:
        steps, meter = self.engine.steps_of(entries, done, state), self.meter
        meter.n_applied += sum(len(entry.records) for entry, _ in entries)
        cursor = entries[0][1]
        while True:
            try:
                if meter.is_sampled():
                    meter.sample(steps.__next__, self._watch_judging)
                else:
                    next(steps)
            except StopIteration:
                return
            if self._clock.monotonic() > self._slice_ends:
                await self._pause(cursor)

    async def _pause(self, cursor: Cursor) -> None:
        """Let requests have their turn, and rest if the budget of learning is used up."""
        await asyncio.sleep(0)
        if self.on_turn is not None:
            self.on_turn()
        await self._rest(cursor)
        self._begin_slice()

    def _begin_slice(self) -> None:
        """Note when requests are to have their turn: after small entries as within a large one."""
        self._slice_ends = self._clock.monotonic() + self.settings.slice_ms / 1_000

    async def _rest(self, cursor: Cursor) -> None:
        while self._tasks and (rest_s := self.budget.rest_s()):
            self._note_lag(cursor)
            await asyncio.sleep(rest_s)

    def _note_lag(self, cursor: Cursor) -> None:
        self.lag_s = max(0.0, self._clock.wall() - parse_cursor(cursor)[0] / 1_000)

    def _watch_judging(self, mark: Mark | None) -> None:
        self.engine.on_judge = mark

    def _stop_at(self, cursor: Cursor, error: Exception) -> None:
        self.stopped = LogStopped(f"stopped at log entry {cursor}: {error}")
        logger.critical(self.stopped.message, exc_info=error)
        for waiting in self._waiting.values():
            _fail(waiting, LogStopped(self.stopped.message))

    def _fail_waiting(self, message: str) -> None:
        """Answer now who waits for entries that cannot be read back for the moment."""
        for waiting in self._waiting.values():
            _fail(waiting, StoreUnavailable(message))

    def _take_note(self, outcome: Outcome, entry: Entry) -> None:
        self._unwritten_quarantine += [(outcome.cursor, i, data) for i, data in outcome.quarantined]
        if not self._tasks:  # catching up: what happened then has been told then
            return
        for decision in outcome.decisions:
            _log(decision)
        if self.on_outcome is not None:
            self.on_outcome(outcome, entry)

    async def _flush_quarantine(self) -> None:
        while batch := self._unwritten_quarantine[:QUARANTINE_BATCH]:
            await self.store.append_quarantine(batch)
            del self._unwritten_quarantine[: len(batch)]

    async def wait_for(self, cursor: Cursor, timeout_s: float) -> bool:
        """Wait until an entry is applied here; return False if the time runs out first."""
        wanted = parse_cursor(cursor)
        if parse_cursor(self.engine.cursor) >= wanted:
            return True
        awaited = wanted, asyncio.get_running_loop().create_future()
        self._awaited.append(awaited)
        try:
            async with asyncio.timeout(timeout_s):
                await awaited[1]
        except TimeoutError:
            return False
        finally:
            self._awaited.remove(awaited)
        return True

    def _tell_reached(self, here: tuple[int, int]) -> None:
        for wanted, reached in self._awaited:
            if wanted <= here and not reached.done():
                reached.set_result(None)


class Read(NamedTuple):
    """An entry as it was read; `entry` is None where it cannot be: whoever applies it says why."""

    cursor: Cursor
    payload: bytes
    tag: str
    entry: Entry | None

    @property
    def is_of_events(self) -> bool:
        """Tell whether it has events and nothing else."""
        return self.entry is not None and all(
            isinstance(record, Feedback | Malformed) for record in self.entry.records
        )


def _read(stored: StoredEntry) -> Read:
    try:
        return Read(*stored, events.decode(stored.payload))
    except Exception:  # not here: what was read before it is yet to be applied
        return Read(*stored, None)


def _log(decision: Decision) -> None:
    """Log a decision in one line: as key=value, and whole for who reads lines by program."""
    level = logging.WARNING if decision.kind in _LOUD else logging.INFO
    about = asdict(decision)
    shown = {"number": decision.number, "event": decision.event, **decision.evidence}
    logger.log(
        level,
        "gate: %s (%s) asked_by=%s %s",
        decision.kind,
        decision.reason,
        decision.asked_by,
        " ".join(f"{name}={value}" for name, value in shown.items()),
        extra={"decision": about},
    )


async def _first_of(*futures: asyncio.Future[Any]) -> None:
    await asyncio.wait(futures, return_when=asyncio.FIRST_COMPLETED)


def _is_good(appended: asyncio.Future[Cursor]) -> bool:
    """Tell whether an entry is known to be in the log."""
    return appended.done() and not appended.cancelled() and appended.exception() is None


def _pass_on(applied: asyncio.Future[Outcome], appended: asyncio.Future[Cursor]) -> None:
    """Tell whoever waits for an entry to be applied that it has not been appended."""
    if not appended.cancelled() and (error := appended.exception()) is not None:
        _fail(applied, cast("Exception", error))


def _fail(waiting: asyncio.Future[Any], error: Exception) -> None:
    if not waiting.done():
        waiting.set_exception(error)
