"""The service is killed at each command that it sends its store: before it, and after."""

from __future__ import annotations

import os
import signal
from pathlib import Path

from tests.faults.log import agree
from tests.faults.posters import posting
from tests.faults.proxy import Moment, Trap
from tests.faults.servers import free_port
from tests.faults.test_connection import Set
from tests.integration.service import until

# Snapshots all the time, and the log is trimmed behind them: every step comes soon, and matters.
BUSY: dict[str, object] = {"snapshot_events": 30, "snapshot_min_s": 0, "snapshots_keep": 2}
# Chunks are persisted and the manifest is written in a transaction, which EXEC ends.
EXPECTED = {
    "EVAL log",
    "XREAD log",
    "SET snapshot",
    "MULTI",
    "PERSIST snapshot",
    "HSETNX snapshots",
    "EXEC",
    "SET log:floor",
    "XTRIM log",
    "XTRIM quarantine",
    "HDEL snapshots",
    "UNLINK snapshot",
}
# Whether a read has arrived or not is the same to the store.
READS = {"EXISTS", "GET", "HEXISTS", "HGET", "HGETALL", "XRANGE", "XREAD", "XREVRANGE"}
# Of a connection's beginning: nothing is half done there.
DULL = {"CLIENT", "PING", "INFO", "CONFIG"}


def test_killed_at_each_step(tmp_path: Path) -> None:
    """Killed before a command arrives, or when it is answered but not told: nothing is lost.

    After each the service starts again from what is there: snapshots half written, a log half
    trimmed; some are steps of the start itself. At the end each acknowledged event was admitted
    once, and the state is the log's.
    """
    made = Set(tmp_path, port=free_port(), **BUSY)
    service, proxy = made.service, made.proxy
    # What is about to be trimmed is kept, to replay all of the log at the end.
    proxy.on_step = lambda step: made.archive.catch_up() if step == "XTRIM log" else None
    try:
        service.start()
        starting = set(proxy.steps) - DULL
        proxy.steps.clear()
        with posting(service.url, 4) as posters:
            until(lambda: set(proxy.steps) >= EXPECTED, within_s=60)
            running = set(proxy.steps) - DULL
            for step in sorted(running | starting):
                for moment in moments(step):
                    kill_at(made, step, moment, at_start=step not in running)
                    service.start()
            posters.wait_until_heard()
        agree(service, made.archive, posters.acknowledged)
        assert service.get("/readyz")["refused_snapshots"] == []
    finally:
        made.close()


def moments(step: str) -> list[Moment]:
    """Return when to kill at a step."""
    return ["done"] if step.partition(" ")[0] in READS else ["before", "done"]


def kill_at(made: Set, step: str, moment: Moment, *, at_start: bool) -> None:
    """Kill the service as a step passes, and wait until it is gone."""
    service = made.service
    if at_start:
        service.kill()
    trap = made.proxy.trap = Trap(step, moment, lambda: os.kill(service.pid or 0, signal.SIGKILL))
    if at_start:
        service.launch()
    assert trap.is_sprung.wait(30), f"{step} did not come"
    service.wait()
