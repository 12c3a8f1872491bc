"""Kill and rejoin replicas of one log, one after another, under load; hold all to the same state.

    python -m tests.faults.replicas --replicas 3 --seconds 600 --every 10

Posters send each event to any replica that is up, again until it is acknowledged, and ask any of
them for lists. Whatever happens to one, no request to another may fail or be degraded. At the end
each acknowledged event must have been admitted exactly once, and every replica's hashes be those of
an offline replay of the log.
"""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import httpx

from tests.faults.log import begin, check
from tests.faults.posters import Poster, Posters, at_work
from tests.faults.servers import Server, free_port
from tests.integration.service import Service, small

LAG_EVERY_S = 0.1
# What was asked of a replica before it was said to go down, and is still under way.
UNDER_WAY_S = 0.3


class Result(NamedTuple):
    """What a run came to. Lags are what replicas that were up said of themselves, in seconds."""

    seconds: float
    n_kills: int
    n_acknowledged: int
    n_lists: int
    n_refused: int
    lags_s: list[float]
    rejoined_s: list[float]


class Replicas:
    """Some replicas on one store, and which of them are up."""

    def __init__(self, folder: Path, n: int) -> None:
        self.server = Server().start()
        self.all: list[Service] = []
        self.urls: list[str] = []
        self.up: set[str] = set()
        self.rejoined_s: list[float] = []
        for i in range(n):
            self._start(folder / str(i))
        # The first snapshot is kept for good: what is before it is all that is ever trimmed.
        self.before = begin(self.all[0], self.server.url)

    def _start(self, folder: Path) -> None:
        port = free_port()
        service = small(
            folder,
            port=port,
            redis_url=self.server.url,
            snapshot_events=2_000,
            snapshot_min_s=2,
            snapshots_keep=100_000,
            dedupe_window=1_000_000,
            cap_user=0,  # in some minutes a few users post more than that
            cap_user_item=0,
        )
        self.all.append(service.start())
        self.urls.append(f"http://127.0.0.1:{port}")
        self.up.add(self.urls[-1])

    def kill(self, number: int) -> None:
        """Kill one that nobody asks any more, and let it rejoin."""
        self.up.remove(self.urls[number])
        time.sleep(UNDER_WAY_S)
        self.all[number].kill()
        began = time.monotonic()
        self.all[number].start()
        self.rejoined_s.append(time.monotonic() - began)
        self.up.add(self.urls[number])

    def close(self) -> None:
        """End them and the store."""
        for service in self.all:
            service.close()
        self.server.close()


class Roaming(Poster):
    """Asks any replica that is up."""

    # Every replica is sound, and so is the store.
    codes = frozenset()

    def __init__(self, replicas: Replicas, name: str, *, seed: int) -> None:
        super().__init__(replicas.urls[0], name, seed=seed)
        self._replicas = replicas

    def _ask(self, method: str, path: str, **body: Any) -> httpx.Response | None:
        url = self._chance.choice(sorted(self._replicas.up))
        answer = super()._ask(method, url + path, **body)
        if answer is None and url in self._replicas.up:
            self.problems.append(f"{method} {path} of one that was up: no answer")
        return answer


class Lags(threading.Thread):
    """Writes down how far behind the log each replica says it is."""

    def __init__(self, replicas: Replicas) -> None:
        super().__init__(daemon=True)
        self.found_s: list[float] = []
        self.is_over = threading.Event()
        self._replicas = replicas

    def run(self) -> None:
        """Ask until told to stop."""
        with httpx.Client(trust_env=False, timeout=30) as client:
            while not self.is_over.wait(LAG_EVERY_S):
                for url in sorted(self._replicas.up):
                    try:
                        self.found_s.append(client.get(f"{url}/readyz").json()["lag_s"])
                    except httpx.TransportError:
                        continue  # it went down just now


def run(
    *,
    n_replicas: int,
    seconds: float,
    every_s: float,
    n_posters: int,
    seed: int,
    folder: Path,
    show: bool,
) -> Result:
    """Kill one replica after another for some time; return what happened."""
    chance = random.Random(seed)
    replicas = Replicas(folder, n_replicas)
    lags = Lags(replicas)
    began = time.monotonic()
    try:
        lags.start()
        with at_work(Roaming(replicas, f"r{i}", seed=seed) for i in range(n_posters)) as posters:
            while time.monotonic() - began < seconds:
                next_at = time.monotonic() + every_s
                replicas.kill(chance.randrange(n_replicas))
                posters.wait_until_heard(n=1)
                posters[0].is_over.wait(max(0.0, next_at - time.monotonic()))
                if show:
                    tell(replicas, posters, began)
        lags.is_over.set()
        lags.join(60)
        judge(replicas, posters)
        return Result(
            time.monotonic() - began,
            len(replicas.rejoined_s),
            len(posters.acknowledged),
            posters.total("n_read"),
            posters.total("n_refused"),
            sorted(lags.found_s),
            sorted(replicas.rejoined_s),
        )
    finally:
        lags.is_over.set()
        replicas.close()


def judge(replicas: Replicas, posters: Posters) -> None:
    """Hold every replica to the log, and that no list was degraded."""
    url, acknowledged = replicas.server.url, posters.acknowledged
    check(replicas.all[0], url, acknowledged, replicas.before)
    first = replicas.all[0]
    end = first.get("/readyz")["cursor"]
    for other in replicas.all[1:]:
        other.get("/v1/recommendations/u0", min_cursor=end, deadline_ms=10_000)
        assert other.get("/readyz")["cursor"] == end
        assert other.hashes() == first.hashes()
    assert posters.total("n_degraded") == 0


def share(ordered: Sequence[float], part: float) -> float:
    """Return the value that a part of them is not above."""
    return ordered[min(len(ordered) - 1, int(part * len(ordered)))]


def tell(replicas: Replicas, posters: Posters, began: float) -> None:
    """Show how far it is."""
    sys.stderr.write(
        f"\r{len(replicas.rejoined_s)} kills; {len(posters.acknowledged)} events,"
        f" {posters.total('n_read')} lists, {time.monotonic() - began:.0f} s "
    )
    sys.stderr.flush()


def main() -> None:
    """Run it from the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--replicas", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=600)
    parser.add_argument("--every", type=float, default=10, help="seconds from kill to kill")
    parser.add_argument("--posters", type=int, default=8)
    parser.add_argument("--seed", type=int, default=1)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="sluice-replicas-") as folder:
        found = run(
            n_replicas=asked.replicas,
            seconds=asked.seconds,
            every_s=asked.every,
            n_posters=asked.posters,
            seed=asked.seed,
            folder=Path(folder),
            show=True,
        )
    sys.stdout.write(
        f"\n{asked.replicas} replicas, {found.n_kills} kills in {found.seconds:.0f} s:"
        f" {found.n_acknowledged} events acknowledged, each admitted once; {found.n_lists} lists of"
        f" those that were up, none failed or degraded; {found.n_refused} requests refused; lag"
        f" p50 {share(found.lags_s, 0.5):.2f} s, p99 {share(found.lags_s, 0.99):.2f} s, at most"
        f" {found.lags_s[-1]:.2f} s; ready again after {share(found.rejoined_s, 0.5):.1f} s in the"
        f" median, {found.rejoined_s[-1]:.1f} s at most; hashes equal, and as offline\n"
    )


if __name__ == "__main__":
    main()
