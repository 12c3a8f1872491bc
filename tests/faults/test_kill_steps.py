"""The service is killed at each command that it sends its store: before it, and after."""

from __future__ import annotations

import json
import os
import signal
from contextlib import suppress
from pathlib import Path

import httpx
import pytest

from tests.factories import mixed
from tests.faults.log import agree
from tests.faults.posters import posting
from tests.faults.proxy import Moment, Trap
from tests.faults.servers import Server, free_port
from tests.faults.test_connection import Set
from tests.integration.service import until

# Snapshots all the time, and the log is trimmed behind them: every step comes soon, and matters.
BUSY: dict[str, object] = {"snapshot_events": 30, "snapshot_min_s": 0, "snapshots_keep": 2}
# EVAL epoch: a manifest, with which the snapshot exists.
EXPECTED = {
    "EVAL log",
    "XREAD log",
    "SET claim",
    "SET snapshot",
    "EVAL epoch",
    "UNLINK claim",
    "EVAL log:floor",
    "XTRIM quarantine",
    "EVAL snapshots",
}
MOMENTS: tuple[Moment, ...] = ("before", "done")
# Nothing is half done at the beginning of a connection, nor when a replica says that it is there.
DULL = {"CLIENT", "PING", "INFO", "CONFIG", "EVAL replicas"}
# Whether a read has arrived or not is the same to the store; what is read next is seen by XREAD.
READS = {"EXISTS", "GET", "HEXISTS", "HGET", "HGETALL", "MGET", "XRANGE", "XREVRANGE"}


def test_killed_at_each_step(tmp_path: Path) -> None:
    """Killed before a command arrives, or when it is answered but not told: nothing is lost.

    After each the service starts again from what is there: snapshots half written, a log half
    trimmed. At the end each acknowledged event was admitted once, and the state is the log's.
    """
    made = Set(tmp_path, port=free_port(), **BUSY)
    service, proxy = made.service, made.proxy
    # What is about to be trimmed is kept, to replay all of the log at the end.
    proxy.on_step = lambda step: made.archive.catch_up() if step == "EVAL log:floor" else None
    try:
        service.start()
        with posting(service.url, 4) as posters:
            until(lambda: set(proxy.steps) >= EXPECTED, within_s=120)
            for step in sorted(step for step in proxy.steps if is_of_interest(step)):
                for moment in MOMENTS:
                    kill_at(made, step, moment)
                    service.start()
            posters.wait_until_heard()
        agree(service, made.archive, posters.acknowledged)
        assert service.get("/readyz")["refused_snapshots"] == []
    finally:
        made.close()


def is_of_interest(step: str) -> bool:
    """Tell whether something is half done before or after a step."""
    return step not in DULL and step.partition(" ")[0] not in READS


def kill_at(made: Set, step: str, moment: Moment) -> None:
    """Kill the service as a step passes, and wait until it is gone."""
    service = made.service
    trap = made.proxy.trap = Trap(step, moment, lambda: os.kill(service.pid or 0, signal.SIGKILL))
    assert trap.is_sprung.wait(30), f"{step} did not come"
    service.wait()


@pytest.mark.parametrize("step", ["GET snapshot", "XREAD log"])
def test_killed_while_it_starts(step: str, tmp_path: Path) -> None:
    """Killed at any step of a start, it starts the next time, and is where it was."""
    made = Set(tmp_path)
    service = made.service
    try:
        service.start()
        service.learn(mixed(200))
        service.post("/v1/snapshots")
        service.learn(mixed(100, seed=2))
        hashes = service.hashes()
        service.kill()
        trap = Trap(step, "done", lambda: os.kill(service.pid or 0, signal.SIGKILL))
        made.proxy.trap = trap
        service.launch()
        assert trap.is_sprung.wait(30), f"{step} did not come"
        service.wait()
        service.start()
        assert service.hashes() == hashes
    finally:
        made.close()


@pytest.mark.parametrize(("step", "n"), [("SET snapshot", 2), ("UNLINK claim", 1)])
def test_killed_while_it_writes_a_snapshot(step: str, n: int, tmp_path: Path) -> None:
    """The next start can write that very snapshot soon, though the dead one was at it.

    What that one had written goes by itself, and no copy of its process is left.
    """
    made = Set(tmp_path, max_users=5_000, max_items=2_000)
    service = made.service
    try:
        service.start()
        service.learn(mixed(3_000, n_users=5_000, n_items=2_000))
        pid = service.pid
        trap = Trap(step, "before", lambda: os.kill(service.pid or 0, signal.SIGKILL), n)
        made.proxy.trap = trap
        with pytest.raises(httpx.TransportError):
            service.post("/v1/snapshots")
        assert trap.is_sprung.wait(30), f"{step} did not come"
        service.wait()
        until(lambda: not has_processes(pid))
        service.start()
        until(lambda: service.client.post("/v1/snapshots").is_success)
        assert service.post("/v1/snapshots")["id"] == service.get("/readyz")["cursor"]
        assert lasting_chunks(made.server) == named_chunks(made.server)
        hashes = service.hashes()
        service.kill()
        service.start()
        assert service.hashes() == hashes
    finally:
        made.close()


def has_processes(session: int | None) -> bool:
    """Tell whether anything runs that a service has forked; nothing is known where no /proc is."""
    for path in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            state, _, _, of = path.read_text().rpartition(")")[2].split()[:4]
            if int(of) == session and state != "Z":
                return True
    return False


def lasting_chunks(server: Server) -> set[bytes]:
    """Return the chunks that do not expire."""
    with server.client() as store:
        keys = store.keys("sluice:{default}:snapshot:*")
        return {key for key in keys if store.ttl(key) < 0}


def named_chunks(server: Server) -> set[bytes]:
    """Return the chunks that manifests name."""
    with server.client() as store:
        records = store.hgetall("sluice:{default}:snapshots").values()
        return {key.encode() for record in records for key in json.loads(record)["chunks"]}
