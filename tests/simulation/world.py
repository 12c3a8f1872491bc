"""One history: replicas, clients and incidents over one model of the store, and its trace."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from dataclasses import MISSING, dataclass, field, fields
from typing import Any, cast

from app import events
from app.api.arrivals import Arrivals
from app.api.recommendations import has_applied, why_stale
from app.api.service import Service
from app.clock import Clock
from app.engine import Outcome
from app.errors import SettingsError, SluiceError
from app.events import Entry, Feedback, Malformed
from app.forked import Work
from app.ingest import Ingest
from app.recommend import Request
from app.settings import Settings
from app.store import BEGINNING, Cursor, StoredEntry, parse_cursor
from tests.simulation.loop import Owner, SimulatedLoop
from tests.simulation.plan import REPEATED, Batch, Incident, Plan
from tests.simulation.store import Client, Server

# Virtual seconds. A client that gets no answer waits so long; all must be well so long after the
# last fault, which is the longest timeouts, a few times over.
PATIENCE_S, CALM_S = 5.0, 90.0
RESTART_S = 1.0
# What is quarantined is written after it was applied, once more where the first try was lost.
SETTLE_S = 1.5
# Between what comes from the copy that makes a snapshot.
FRAME_S = 0.002

MakeIngest = Callable[[Client, Settings, Clock], Ingest]
MakeClient = Callable[[Server, Owner, float], Client]


def make_ingest(store: Client, settings: Settings, clock: Clock) -> Ingest:
    """Return the real one."""
    return Ingest(store, settings, clock=clock, start_copy=start_copy)


async def start_copy(work: Work) -> AsyncIterator[bytes]:
    """Do at once what a copy of the process would do; return what yields its frames later."""
    return _frames(list(work()))


async def _frames(frames: list[bytes]) -> AsyncIterator[bytes]:
    for frame in frames:
        await asyncio.sleep(FRAME_S)
        yield frame


@dataclass(frozen=True)
class Parts:
    """What replicas are made of; a test plants its bug here."""

    ingest: MakeIngest = make_ingest
    client: MakeClient = Client


@dataclass
class Acknowledged:
    """An answer that promised something: these events are in the log."""

    at_s: float
    ids: tuple[str, ...]
    cursor: Cursor
    learned: tuple[str, ...]


@dataclass
class Lost:
    """Entries that the store forgot while every replica there was had applied them."""

    entries: list[StoredEntry]
    holders: list[Replica]
    starts: int


class Replica(Owner):
    """One process: an Ingest over a store client of its own, from its start to its end."""

    def __init__(self, world: World, index: int, life: int) -> None:
        super().__init__(f"r{index}.{life}")
        self.index = index
        self.world = world
        self.is_ready = False
        self.is_stopping = False
        settings = world.plan.settings
        store = world.parts.client(world.server, self, settings.store_timeout_s)
        clock = Clock(world.loop.glance, world.loop.wall)
        self._context = self.context()
        self.ingest = self._context.run(world.parts.ingest, store, settings, clock)
        self.ingest.on_outcome = self._note_outcome
        # What no handler of this simulation touches is not there.
        nothing = cast(Any, None)
        arrivals = Arrivals(clock=world.loop.time, cpu_clock=lambda: 0.0)
        needed = [one for one in fields(Service) if one.default is one.default_factory is MISSING]
        self.service = Service(settings, self.ingest, *[nothing] * (len(needed) - 2))
        self.service.arrivals = arrivals

    def spawn(self, work: Any) -> None:
        """Run something in this process."""
        _ = self.handle(work)

    def handle(self, work: Any) -> asyncio.Task[Any]:
        """Run something in this process that can be cancelled."""
        task = self.world.loop.create_task(work, context=self._context.copy())
        self.world.tasks.append(task)
        return task

    async def run(self) -> None:
        """Start; a process that cannot ends, and its supervisor tries again."""
        try:
            await self.ingest.start()
        except SluiceError as error:
            self.world.note(f"{self.name} does not start: {error.message}")
            if isinstance(error, SettingsError):
                self.world.stopped(f"{self.name} does not start")
            self.is_alive = False
            self.world.restart(self.index, RESTART_S)
            return
        self.is_ready = True
        self.world.note(f"{self.name} is ready at {self.ingest.engine.cursor}")

    async def stop(self, for_s: float) -> None:
        """End in good order, as a SIGTERM does."""
        self.is_stopping, self.is_ready = True, False
        await self.ingest.stop()
        self.world.note(f"{self.name} has stopped")
        self.is_alive = False
        self.world.restart(self.index, for_s)

    def _note_outcome(self, outcome: Outcome, _: Entry) -> None:
        self.world.applied(self, outcome)

    def holds(self, entry: StoredEntry, before: Cursor) -> bool:
        """Tell whether an entry is applied here, and would be given back to a log so short."""
        is_applied = parse_cursor(self.ingest.engine.cursor) >= parse_cursor(entry.cursor)
        return self.is_ready and is_applied and entry in self.ingest._tail.missing(before)


@dataclass
class World:
    """Everything of one history. What is wrong goes into `violations`, the first one first."""

    plan: Plan
    parts: Parts = field(default_factory=Parts)

    def __post_init__(self) -> None:
        seed = self.plan.seed
        self.chance = random.Random(f"world/{seed}")
        chance = random.Random(f"loop/{seed}")
        self.loop = SimulatedLoop(chance, self.plan.shuffle, self.plan.glance_s)
        self.server = Server(self.loop, random.Random(f"net/{seed}"), self.plan.faults)
        self.server.on_written = self._note_written
        if self.plan.is_forgetful:
            self.server.on_change = self._look_for_strays
        self.replicas: list[Replica] = []
        self.graveyard: list[Replica] = []
        self.tasks: list[asyncio.Task[Any]] = []
        self.trace: list[tuple[float, str]] = []
        self.violations: list[str] = []
        self.acknowledged: list[Acknowledged] = []
        self.lost: list[Lost] = []
        self.outcomes: dict[Cursor, tuple[Any, ...]] = {}
        self.hashes: list[tuple[str, Cursor, dict[str, str]]] = []
        self.written_ids: set[str] = set()
        self.n_starts = 0
        self.has_strayed = False

    # -- what is told ---------------------------------------------------------------------------

    def note(self, text: str) -> None:
        """Add a line to the trace."""
        self.trace.append((self.loop.time(), text))

    def violate(self, text: str) -> None:
        """Note a promise that was broken."""
        self.note(f"VIOLATION: {text}")
        self.violations.append(text)

    def stopped(self, text: str) -> None:
        """Note that a process cannot go on, which it may not but for a reason."""
        if not self.has_strayed:
            self.violate(text)

    def _look_for_strays(self) -> None:
        """Note whether the store has forgotten all of the log, but has snapshots of it.

        People have to say what goes on then. The same where the newest snapshot was forgotten just
        before the older ones were deleted: until a replica writes the next one, none can start.
        """
        data = self.server.data
        is_stray = bool(data.snapshots) and not data.log
        is_headless = data.floor != BEGINNING and not data.snapshots
        if (is_stray or is_headless) and not self.has_strayed:
            self.has_strayed = True
            self.note("the log and the snapshots do not belong together any more")

    def _note_written(self, entry: StoredEntry) -> None:
        ids = ids_of(entry.payload)
        self.written_ids.update(ids)
        self.note(f"store: {entry.cursor} holds {' '.join(ids) or 'settings'}")

    def applied(self, replica: Replica, outcome: Outcome) -> None:
        """Compare what an entry did on one replica with what it did on the others."""
        results = tuple((r.event_id, r.status, r.reason) for r in outcome.results)
        here = (results, outcome.version_before, outcome.version_after)
        self.note(f"{replica.name} applied {outcome.cursor}: {' '.join(r[1] for r in results)}")
        # A store that forgets may give a cursor out twice; then only the end is compared.
        there = self.outcomes.setdefault(outcome.cursor, here)
        if there != here and not self.plan.is_forgetful:
            self.violate(f"{replica.name} made {here} of {outcome.cursor}, another one {there}")

    # -- processes ------------------------------------------------------------------------------

    def start(self, index: int) -> None:
        """Start a process in a place that has none."""
        self.n_starts += 1
        replica = Replica(self, index, self.n_starts)
        if index < len(self.replicas):
            self.graveyard.append(self.replicas[index])
            self.replicas[index] = replica
        else:
            self.replicas.append(replica)
        self.note(f"{replica.name} starts")
        replica.spawn(replica.run())

    def restart(self, index: int, after_s: float) -> None:
        """Start another process in the place of a dead one, a while later."""
        context = Owner("supervisor").context()
        self.loop.call_later(after_s, self.start, index, context=context)

    def kill(self, replica: Replica, for_s: float) -> None:
        """Drop a process where it stands, and start another one later."""
        if not replica.is_alive:
            return
        self.note(f"{replica.name} is killed at {replica.ingest.engine.cursor}")
        replica.is_alive = replica.is_ready = False
        self.restart(replica.index, for_s)

    # -- the history ----------------------------------------------------------------------------

    def run(self) -> World:
        """Let it all happen, then check what is left; return this world."""
        from tests.simulation.checks import check_end

        with _quiet():
            try:
                self.loop.run_until_complete(self._happen())
                check_end(self)
            except AssertionError as error:
                self.violate(f"{type(error).__name__}: {error}")
            finally:
                asyncio._set_running_loop(self.loop)  # what is dropped still finds its loop
                self.loop.close()
                asyncio._set_running_loop(None)
        return self

    async def _happen(self) -> None:
        for index in range(self.plan.n_replicas):
            self.start(index)
        clients = [
            self.loop.create_task(Visitor(self, number, batches).run())
            for number, batches in enumerate(self.plan.batches)
        ]
        for incident in self.plan.incidents:
            await asyncio.sleep(max(0.0, incident.at_s - self.loop.time()))
            self._befall(incident)
        await asyncio.sleep(max(0.0, self.plan.busy_s - self.loop.time()))
        self._calm_down()
        await self._until(lambda: all(client.done() for client in clients), "all acknowledged")
        await self._until(self._has_converged, "all replicas at the end of the log")
        await asyncio.sleep(SETTLE_S + self.plan.settings.store_timeout_s)
        await self._until(self._has_converged, "all replicas still there")
        for client in clients:
            if client.done():
                client.result()

    async def _until(self, condition: Callable[[], bool], what: str) -> None:
        deadline = self.loop.time() + CALM_S
        while not condition() and not self.violations:
            if self.has_strayed:
                return
            if self.loop.time() > deadline:
                self.violate(f"not within {CALM_S:g} s of quiet: {what}; {self._describe()}")
                return
            await asyncio.sleep(0.2)

    def _describe(self) -> str:
        last = self.server.data.last
        where = [
            f"{r.name} {'is ready' if r.is_ready else 'is not ready'} at {r.ingest.engine.cursor}"
            f"{f' ({r.ingest.stopped})' if r.ingest.stopped else ''}"
            for r in self.replicas
        ]
        return f"the log ends at {last}, {', '.join(where)}"

    def _has_converged(self) -> bool:
        last = self.server.data.last
        return all(
            r.is_ready and r.ingest.is_store_up and r.ingest.engine.cursor == last
            for r in self.replicas
        )

    def _calm_down(self) -> None:
        self.note("from here on nothing fails")
        self.server.faults.rate = 0.0
        self.server.faults.slow = 0.0
        self.server.cut_until.clear()
        for replica in self.replicas:
            replica.paused_until = 0.0
            replica.steps_left = -1

    # -- incidents ------------------------------------------------------------------------------

    def _befall(self, incident: Incident) -> None:
        replica = self.replicas[incident.replica]
        if incident.kind == "kill":
            self._kill_soon(replica, incident)
        elif incident.kind == "down":
            self.note(f"the store is down for {incident.for_s:.1f} s")
            self.server.go_down(incident.for_s, is_silent=incident.is_silent)
        elif incident.kind == "forget":
            self._forget(incident)
        elif incident.kind == "pause":
            self.note(f"{replica.name} stands still for {incident.for_s:.1f} s")
            replica.paused_until = self.loop.time() + incident.for_s
        elif incident.kind == "cut":
            self.note(f"{replica.name} is cut off for {incident.for_s:.1f} s")
            self.server.cut_until[replica] = self.loop.time() + incident.for_s
        elif replica.is_ready:
            self._ask(replica, incident)

    def _kill_soon(self, replica: Replica, incident: Incident) -> None:
        """Kill a process at one of its next steps: in the middle of whatever it does then."""
        replica.steps_left = incident.n_steps
        replica.on_last_step = functools.partial(self.kill, replica, incident.for_s)

    def _ask(self, replica: Replica, incident: Incident) -> None:
        if incident.kind == "stop":
            self.note(f"{replica.name} is asked to stop")
            replica.spawn(replica.stop(incident.for_s))
        elif incident.kind in ("snapshot", "last snapshot"):
            replica.spawn(self._quietly(replica, replica.ingest.keeper.write))
            if incident.kind == "last snapshot":
                self._kill_soon(replica, incident)
        elif incident.kind == "hashes":
            replica.spawn(self._quietly(replica, self._note_hashes, replica))
        elif incident.kind == "crowd":  # all at once: long queues, large batches
            for number in range(5):
                visitor = Visitor(self, 100 + number, self.plan.batches[-1][-1:])
                replica.spawn(self._quietly(replica, visitor.post_once, replica))

    async def _quietly(
        self, replica: Replica, act: Callable[..., Awaitable[Any]], *arguments: Any
    ) -> None:
        try:
            await act(*arguments)
        except SluiceError as error:
            self.note(f"{replica.name}: {error.message}")

    async def _note_hashes(self, replica: Replica) -> None:
        async with replica.ingest.whole() as engine:
            self.hashes.append((replica.name, engine.cursor, engine.hashes()))

    def _forget(self, incident: Incident) -> None:
        lost = self.server.forget(incident.n_changes)
        self.server.go_down(incident.for_s, is_silent=incident.is_silent)
        self.note(
            f"the store is down for {incident.for_s:.1f} s and has forgotten"
            f" {' '.join(e.cursor for e in lost) or 'no entry'}"
        )
        there = [r for r in self.replicas if r.is_alive and not r.is_stopping]
        before = self.server.data.last
        held = [e for e in lost if there and all(r.holds(e, before) for r in there)]
        self.lost.append(Lost(held, there, self.n_starts))


class Visitor:
    """A client: sends what it has until all of it is acknowledged, then reads its own writes."""

    def __init__(self, world: World, number: int, batches: Sequence[Batch]) -> None:
        self.world = world
        self.name = f"c{number}"
        self._batches = batches
        self._chance = random.Random(f"client/{world.plan.seed}/{number}")

    async def run(self) -> None:
        """Send everything, one request after the other."""
        pause_s = self.world.plan.busy_s / max(1, len(self._batches))
        for batch in self._batches:
            await asyncio.sleep(self._chance.random() * pause_s)
            cursor = await self._send(batch)
            if self._chance.random() < REPEATED:
                await self._send(batch)
            if self._chance.random() < 0.5:
                await self._read(batch, cursor)

    async def _send(self, batch: Batch) -> Cursor:
        """Send a batch until it is acknowledged; now and then to two replicas, or with repeats."""
        while True:
            targets = [self._chance.choice(self.world.replicas)]
            if self._chance.random() < 0.1:
                targets.append(self._chance.choice(self.world.replicas))
            if len(batch) > 1 and self._chance.random() < 0.1:
                targets, batch = targets[:1], batch[: len(batch) // 2] + batch
            answers = await asyncio.gather(*(self._post(t, batch) for t in targets))
            for cursor in answers:
                if cursor is not None:
                    return cursor
            await asyncio.sleep(self._chance.uniform(0.05, 0.6))

    async def _post(self, replica: Replica, batch: Batch) -> Cursor | None:
        """Send one request and wait for the answer, or until patience is over."""
        if not (replica.is_alive and replica.is_ready):
            return None
        reply: asyncio.Future[Cursor | None] = self.world.loop.create_future()
        handler = replica.handle(self._handle(replica, batch, reply))
        patience_s = self._chance.choice([PATIENCE_S, PATIENCE_S, 0.003])
        try:
            async with asyncio.timeout(patience_s):
                return await reply
        except TimeoutError:
            self.world.note(f"{self.name} hangs up on {replica.name}")
            if self._chance.random() < 0.5:
                handler.cancel()
            return None

    async def post_once(self, replica: Replica) -> None:
        """Send the first batch to a replica, whatever comes of it."""
        reply: asyncio.Future[Cursor | None] = self.world.loop.create_future()
        await self._handle(replica, self._batches[0], reply)

    async def _handle(
        self, replica: Replica, batch: Batch, reply: asyncio.Future[Cursor | None]
    ) -> None:
        """Be the handler of a POST, in the replica's process."""
        cursor = None
        ids = tuple(event.event_id for event in batch)
        arrival_ms = round(self.world.loop.wall() * 1_000)
        is_short = self._chance.random() < 0.3
        self.world.note(f"{self.name} posts {' '.join(ids)} to {replica.name}")
        learned: tuple[str, ...] = ()
        try:
            if is_short:
                cursor = await replica.ingest.submit_only(batch, arrival_ms=arrival_ms)
            else:
                outcome = await replica.ingest.submit(batch, arrival_ms=arrival_ms)
                cursor = outcome.cursor
                learned = tuple(str(r.event_id) for r in outcome.results if r.status == "learned")
        except SluiceError as error:
            self.world.note(f"{replica.name} answers {self.name}: {error.message}")
        else:
            self._note_answer(replica, ids, cursor, learned)
        if not reply.done():
            reply.set_result(cursor)

    def _note_answer(
        self, replica: Replica, ids: tuple[str, ...], cursor: Cursor, learned: tuple[str, ...]
    ) -> None:
        world = self.world
        world.note(f"{replica.name} acknowledges {' '.join(ids)} to {self.name}: {cursor}")
        world.acknowledged.append(Acknowledged(world.loop.time(), ids, cursor, learned))
        if not world.written_ids.issuperset(ids):
            world.violate(f"acknowledged, but never written: {' '.join(ids)}")

    async def _read(self, batch: Batch, cursor: Cursor) -> None:
        """Ask a replica for a state that has what was acknowledged."""
        replica = self._chance.choice(self.world.replicas)
        if not (replica.is_alive and replica.is_ready):
            return
        done = self.world.loop.create_future()
        replica.spawn(self._handle_read(replica, batch, cursor, done))
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(PATIENCE_S):
                await done

    async def _handle_read(
        self, replica: Replica, batch: Batch, cursor: Cursor, done: asyncio.Future[None]
    ) -> None:
        """Be the handler of a GET with min_cursor, in the replica's process."""
        world = self.world
        until = world.loop.time() + replica.service.settings.deadline_ms / 1_000
        is_applied = await has_applied(replica.service, cursor, until)
        degraded = why_stale(replica.service) if is_applied else "replica_behind"
        engine = replica.service.engine
        engine.recommend(Request(batch[0].user_id))
        world.note(f"{self.name} reads {cursor} at {engine.cursor} of {replica.name}: {degraded}")
        if degraded is None:
            if parse_cursor(engine.cursor) < parse_cursor(cursor):
                world.violate(f"{replica.name} answered from {engine.cursor}, before {cursor}")
            elif not world.plan.is_forgetful and not _knows(engine.admission.window(), batch):
                world.violate(f"{replica.name} answered without {batch[0].event_id}")
        if not done.done():
            done.set_result(None)


def _knows(window: bytes, batch: Batch) -> bool:
    """Tell whether all events of a batch that can be learned are among those remembered."""
    return all(events.digest((e.event_id,)) in window for e in batch if e.type != "nonsense")


@functools.lru_cache(maxsize=1_000)
def ids_of(payload: bytes) -> tuple[str, ...]:
    """Return the ids of the events in an entry."""
    records = events.decode(payload).records
    return tuple(str(r.event_id) for r in records if isinstance(r, Feedback | Malformed))


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep the log silent: what matters is in the trace."""
    disabled = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        yield
    finally:
        logging.disable(disabled)
