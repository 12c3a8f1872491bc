"""Kill a service and its store again and again under load, then hold it to its log.

    python -m tests.faults.kills --kills 200 --posters 16 --seed 1 --store embedded

Service or store get SIGKILL at random moments, while posters send each event again until it is
acknowledged. At the end every acknowledged event must have been admitted exactly once, and the
service's hashes be those of an offline replay of the log. Snapshots are written all the time, so
that restarts begin with them. At `--fsync always` both are also killed at once, and the service
while it is still busy with the store's death; at `everysec` that may lose the last two seconds, as
docs/operating.md says, so the store's death is waited out.
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Literal, NamedTuple

import httpx
import redis

from tests.faults.log import begin, check
from tests.faults.posters import Posters, posting
from tests.faults.servers import Server, free_port
from tests.integration.service import Service, small, until

Where = Literal["embedded", "external"]
Fsync = Literal["everysec", "always"]
# Longest time between two kills: some fall into a start, some after many events.
MOST_S = 2.0


class Result(NamedTuple):
    """What a run came to."""

    kills: Counter[str]
    n_acknowledged: int
    n_admitted: int
    n_broken: int
    n_refused: int
    n_restored: int
    seconds: float


class Victims:
    """A service and its store: killed, and started again like by a supervisor."""

    def __init__(self, folder: Path, where: Where, fsync: Fsync) -> None:
        self.server = Server(fsync=fsync).start() if where == "external" else None
        self.service: Service = small(
            folder,
            port=free_port(),
            fsync=fsync,
            snapshot_events=500,
            snapshot_min_s=0,
            snapshots_keep=100_000,
            dedupe_window=1_000_000,
            cap_user=0,  # in some minutes a few users post more than that
            cap_user_item=0,
            **({"redis_url": self.server.url} if self.server else {}),
        ).start()
        # The first snapshot is kept for good: what is before it is all that is ever trimmed.
        self.before = begin(self.service, self.url)
        self.n_restored = 0

    @property
    def url(self) -> str:
        """Where the store is, at present."""
        return self.server.url if self.server else self.service.store_url

    def kill_service(self) -> None:
        """Kill the service, if it runs, and start it again; do not wait until it is ready."""
        self.n_restored += self.service.log.count("written again from memory")
        if self.service.is_running:
            self.service.kill()
        self.service.launch()

    def kill_store(self) -> None:
        """Kill the store, if it runs; the embedded one is started by its service."""
        if self.server:
            self.server.kill()
            self.server.start()
            return
        pid = self.embedded_pid()
        if pid is not None:
            os.kill(pid, signal.SIGKILL)

    def kill_both(self) -> None:
        """Kill both, the store first, and start them again."""
        pid = self.server.pid if self.server else self.embedded_pid()
        if pid is not None:
            os.kill(pid, signal.SIGKILL)
        self.kill_service()
        if self.server:
            self.server.kill()
            self.server.start()

    def embedded_pid(self) -> int | None:
        """Return the process id of the embedded store, None while there is none."""
        try:
            return self.service.store_pid()
        except (OSError, redis.RedisError):
            return None

    def revive(self) -> None:
        """Start the service if it has ended by itself, as it does when its store is not there."""
        if not self.service.is_running:
            self.service.launch()

    def is_ready(self) -> bool:
        """Tell whether the service is ready; start it if it has ended by itself."""
        self.revive()
        try:
            return self.service.is_ready()
        except (httpx.TransportError, AssertionError):
            return False

    def close(self) -> None:
        """End both."""
        self.service.close()
        if self.server:
            self.server.close()


def run(
    *, n_kills: int, n_posters: int, seed: int, where: Where, fsync: Fsync, folder: Path, show: bool
) -> Result:
    """Kill n times, and hold the service to its log; return what happened."""
    chance = random.Random(seed)
    started = time.monotonic()
    victims = Victims(folder, where, fsync)
    kills: Counter[str] = Counter()
    choices = ["service", "store"] if fsync == "everysec" else ["service", "store", "both"]
    try:
        with posting(victims.service.url, n_posters, seed=seed) as posters:
            while kills.total() < n_kills:
                wait_a_while(victims, posters, chance, fsync)
                what = chance.choice(choices)
                getattr(victims, f"kill_{what}")()
                kills[what] += 1
                if what == "store" and fsync == "everysec":
                    wait_until_well(victims, posters)
                if show:
                    tell(kills, posters, started)
            wait_until_well(victims, posters)
        return judge(victims, posters, kills, started)
    finally:
        victims.close()


def wait_a_while(victims: Victims, posters: Posters, chance: random.Random, fsync: Fsync) -> None:
    """Wait for a random time, or until all is well where the next kill must find it so."""
    moment = time.monotonic() + MOST_S * chance.random()
    if fsync == "everysec" and chance.random() < 0.5:
        wait_until_well(victims, posters)
    while time.monotonic() < moment:
        victims.revive()
        time.sleep(0.01)


def wait_until_well(victims: Victims, posters: Posters) -> None:
    """Wait until the service is ready and everybody has been acknowledged again."""
    until(victims.is_ready, within_s=90)
    posters.wait_until_heard(n=1, within_s=90)


def judge(victims: Victims, posters: Posters, kills: Counter[str], started: float) -> Result:
    """Hold the service to its log, and once more after a last start."""
    acknowledged = posters.acknowledged
    for is_last in (False, True):
        replayed = check(victims.service, victims.url, acknowledged, victims.before)
        if not is_last:
            victims.kill_service()
            until(victims.is_ready, within_s=90)
    return Result(
        kills,
        len(acknowledged),
        len(replayed.admitted),
        posters.total("n_broken"),
        posters.total("n_refused"),
        victims.n_restored,
        time.monotonic() - started,
    )


def tell(kills: Counter[str], posters: Posters, started: float) -> None:
    """Show how far it is."""
    counts = ", ".join(f"{n} of the {what}" for what, n in sorted(kills.items()))
    seconds = time.monotonic() - started
    line = (
        f"\r{kills.total()} kills ({counts}); {len(posters.acknowledged)} events, {seconds:.0f} s "
    )
    sys.stderr.write(line)
    sys.stderr.flush()


def main() -> None:
    """Run it from the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--posters", type=int, default=16)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--store", choices=["embedded", "external"], default="embedded")
    parser.add_argument("--fsync", choices=["everysec", "always"], default="everysec")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="sluice-kills-") as folder:
        result = run(
            n_kills=asked.kills,
            n_posters=asked.posters,
            seed=asked.seed,
            where=asked.store,
            fsync=asked.fsync,
            folder=Path(folder),
            show=True,
        )
    sys.stdout.write(
        f"\n{asked.store}, {asked.fsync}: {dict(result.kills)} kills in {result.seconds:.0f} s;"
        f" {result.n_acknowledged} events acknowledged, each admitted once"
        f" ({result.n_admitted} in the log); {result.n_broken} requests broken,"
        f" {result.n_refused} refused; the tail was written again {result.n_restored} times;"
        " hashes as offline\n"
    )


if __name__ == "__main__":
    main()
