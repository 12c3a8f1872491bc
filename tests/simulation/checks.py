"""What must hold at the end of every history, whatever happened in it."""

from __future__ import annotations

from collections import Counter
from typing import Any

from app import events, snapshot
from app.engine import Engine
from app.errors import LogStopped
from app.store import Cursor, parse_cursor, quarantine_id
from tests.simulation.world import World, ids_of


def check_end(world: World) -> None:
    """Check everything that can only be known at the end."""
    for fault in world.loop.faults:
        world.violate(f"a task ended by a fault: {fault}")
    for task in world.tasks:
        if task.done() and not task.cancelled() and (error := task.exception()) is not None:
            world.violate(f"a task ended by a fault: {error!r}")
    for replica in (*world.replicas, *world.graveyard):
        if replica.ingest.stopped is not None:
            world.stopped(f"{replica.name} has stopped: {replica.ingest.stopped.message}")
    if world.has_strayed:
        return
    _check_log(world)
    _check_states(world)


def _check_log(world: World) -> None:
    """What was acknowledged is there, and nothing was sent twice."""
    whole = world.server.data.whole
    cursors = [parse_cursor(entry.cursor) for entry in whole]
    if cursors != sorted(set(cursors)):
        world.violate("the log is out of order")
    written_tags = Counter(entry.tag for entry in whole)
    for tag, n in written_tags.items():
        if n > 1:
            where = [entry.cursor for entry in whole if entry.tag == tag]
            world.violate(f"one append is in the log {n} times: {' '.join(where)}")
    there = {id_ for entry in whole for id_ in ids_of(entry.payload)}
    promised = {id_ for answer in world.acknowledged for id_ in answer.ids}
    if world.plan.is_forgetful:
        promised = _still_promised(world)
    if promised - there:
        world.violate(f"acknowledged and lost: {' '.join(sorted(promised - there))}")
    learned = Counter(id_ for answer in world.acknowledged for id_ in answer.learned)
    for id_, n in learned.items():
        if n > 1 and not world.plan.is_forgetful:
            world.violate(f"{id_} was learned {n} times, by what clients were told")


def _still_promised(world: World) -> set[str]:
    """Return the acknowledged events that a forgetful store must have again.

    They are those of entries that every replica there was had applied and held, of whom one lived
    on, while nobody started who had not.
    """
    promised = set()
    for lost in world.lost:
        if lost.starts == world.n_starts and any(r.is_alive for r in lost.holders):
            promised |= {id_ for entry in lost.entries for id_ in ids_of(entry.payload)}
    return promised & {id_ for answer in world.acknowledged for id_ in answer.ids}


def _check_states(world: World) -> None:
    """Replicas, snapshots and an offline replay agree wherever they stand at one cursor."""
    claimed = [*world.hashes] if not world.plan.is_forgetful else []
    claimed += [(r.name, r.ingest.engine.cursor, r.ingest.engine.hashes()) for r in world.replicas]
    snapshots = world.server.data.snapshots
    for id_, (manifest, _) in snapshots.items():
        if manifest.get("base") not in (None, *snapshots):
            world.violate(f"snapshot {id_} builds on {manifest['base']}, which is gone")
            return
    if snapshots:  # one of them: it takes as long as all the rest
        snapshot_id = world.chance.choice(list(snapshots))
        engine = Engine.from_state(snapshot.load(_chain(snapshots, snapshot_id)))
        claimed.append((f"snapshot {snapshot_id}", snapshot_id, engine.hashes()))
    expected = _replay(world, {cursor for _, cursor, _ in claimed})
    for name, cursor, hashes in claimed:
        if cursor not in expected:
            world.violate(f"{name} stands at {cursor}, which is not in the log")
        elif hashes != expected[cursor]:
            world.violate(f"{name} at {cursor} differs from a replay of the log")


def _replay(world: World, cursors: set[Cursor]) -> dict[Cursor, dict[str, str]]:
    """Apply the whole log to a fresh engine; return its hashes at some cursors.

    Nothing may be learned twice on the way, and what is set aside must be in the quarantine.
    """
    engine = Engine(world.plan.settings.engine())
    hashes, learned, aside = {}, Counter[str](), []
    for entry in world.server.data.whole:
        try:
            outcome = engine.apply(events.decode(entry.payload), entry.cursor)
        except LogStopped as error:
            world.violate(f"the log stops at {entry.cursor}: {error.message}")
            break
        learned.update(str(r.event_id) for r in outcome.results if r.status == "learned")
        aside += [quarantine_id(entry.cursor, index) for index, _ in outcome.quarantined]
        if entry.cursor in cursors:
            hashes[entry.cursor] = engine.hashes()
    for id_, n in learned.items():
        if n > 1:
            world.violate(f"{id_} is learned {n} times")
    if not world.plan.is_forgetful and list(world.server.data.quarantine) != aside:
        world.violate(f"in quarantine: {list(world.server.data.quarantine)}; set aside: {aside}")
    return hashes


def _chain(snapshots: dict[str, Any], snapshot_id: str) -> list[Any]:
    """Return a snapshot behind all that it builds on."""
    chain = [snapshots[snapshot_id]]
    while (base := chain[0][0].get("base")) is not None:
        chain.insert(0, snapshots[base])
    return chain
